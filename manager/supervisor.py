"""Finds processes of VRs that hang, without a heartbeat of theirs: it samples what they write anyway.

A forwarder's worker is stalled when it does one of two things for STALL seconds:
    in the middle of an iteration (`busy_since_ns`) with the progress word `batches` unchanged
    asleep, though the frame at the ring's progress index has been received
A control is when it is at the same part of its work (fastpath/pulse.py) and publishes nothing
    for TURN_STALL seconds in which it does not run: it waits for what does not come
    for TURN_RUNS seconds of the processor, ROUTE_RUNS more for each installed route, and more for what it knows else:
        it does not come to an end
and when it is in the same turn of its loop, whatever parts of it are done, for WORK_RUNS seconds of the processor more
Long work is worse taken for a hang than a hang found late: twice of what it has been seen to take must fit.

The manager sleeps by a glance at a few bytes of all VRs (fastpath/watch.py); only those that do not get on are looked
at closely, so that idle ones cost next to nothing.  Queues that are no packet rings are looked at each time.  A process
that merely did not get the processor is spared: it is held against the time it has run.  A stopped one is reported by
the zygote at once; one whose zygote died is seen here.  Controls are asked from here too, now and then, whether they
live.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fastpath._layout import CONSTANTS, FIELDS
from fastpath.pulse import TURNS, allowed
from fastpath.segment import Column, View
from fastpath.watch import Places, Watch
from manager import probe
from manager.reactor import Reactor, Timer
from manager.unit import Unit

INTERVAL: Final = 0.01  # between two closer looks
RESTING: Final = 0.02  # where nothing is the matter with those that have other queues
FOLLOW: Final = 2.0  # seconds; who changes anything says so
STALL: Final = 0.02
TURN_STALL: Final = 0.8
TURN_RUNS: Final = 1.0
WORK_RUNS: Final = 10.0
ROUTE_RUNS: Final = 8e-6  # all of them may go at once, which has been seen to take half a microsecond of each
MOST_ROUTES: Final = 10_000_000
OWING_RUNS: Final = 10.0  # with a question of an operator: an answer may be long
RAN: Final = 0.05  # of the time: less, and it sleeps, whatever it is caught doing
PORTS: Final = CONSTANTS["MAX_PORTS"]
_ROUTES_AT: Final = FIELDS["tables_segment"]["prefix_root"][0]
_COUNT_AT: Final = FIELDS["prefix_table"]["count"][0]


@dataclass(frozen=True)
class _Watched:
    """A VR that is glanced at."""

    view: View
    rings: tuple[tuple[int, int], ...]  # port, generation
    workers: int
    closely: bool  # it has other queues


@dataclass
class _Sample:
    """What was seen last, and since when it has been the same."""

    pid: int
    seen: tuple[int, ...]
    since: float
    ran: int  # nanoseconds on the processor by then


def processor_time(pid: int, thread: int) -> tuple[str, int]:
    """Give the state letter of a thread and the nanoseconds it has run; ("", 0): it is gone."""
    task = Path(f"/proc/{pid}/task/{thread}")
    try:
        state = (task / "stat").read_text().rpartition(")")[2].split()[0]
        return state, int((task / "schedstat").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return "", 0


class Supervisor:
    """Samples all VRs."""

    def __init__(self, reactor: Reactor, units: Callable[[], Iterable[Unit]]) -> None:
        self._reactor = reactor
        self._units = units
        self._samples: dict[str, dict[int, _Sample]] = {}  # by worker
        self._turns: dict[str, _Sample] = {}  # of controls: the same part of their work
        self._works: dict[str, _Sample] = {}  # and the same turn
        self._busy: dict[str, tuple[View, Column]] = {}  # how to read `busy_since_ns` of all workers at once
        self._watch = Watch()
        self._watched: dict[str, _Watched] = {}
        self._closely: frozenset[str] = frozenset()
        self._anew = True
        self._timer: Timer | None = None
        self._follow_at = self._probe_at = 0.0

    def look_anew(self) -> None:
        """A VR, or one of its ports, may be another one."""
        if not self._anew:
            self._anew = True
            self._arm(INTERVAL)

    def start(self) -> None:
        """Sample from now on."""
        self._reactor.rest_by(self._rest)
        self._tick()

    def _rest(self, epoll: int, timeout: float | None) -> bool:
        """Sleep for the reactor."""
        events, hit = self._watch.sleep(epoll, timeout)
        if hit:
            self._arm(0.0)
        return events

    def _arm(self, delay: float) -> None:
        """Look in so many seconds, or sooner where that is planned already."""
        if self._timer is not None:
            if self._timer.at <= time.monotonic() + delay:
                return
            self._timer.cancel()
        self._timer = self._reactor.after(delay, self._tick)

    def _tick(self) -> None:
        self._timer, now = None, time.monotonic()
        try:
            self._look_at_all(now)
        finally:
            if self._samples or self._turns or self._anew:
                self._arm(INTERVAL)
            else:
                self._arm(RESTING if self._closely else max(0.0, self._probe_at - time.monotonic()))

    def _look_at_all(self, now: float) -> None:
        if now >= self._probe_at:
            self._probe_at = now + probe.INTERVAL
            for unit in list(self._units()):
                unit.probe_control(at_work=self._watch.turn(unit.name) is not None)
        if self._anew or now >= self._follow_at:
            self._follow_at = now + FOLLOW
            self._follow()
        suspects = self._watch.look() | self._samples.keys() | self._turns.keys() | self._closely
        if suspects:
            for unit in list(self._units()):
                if unit.name in suspects:
                    self._look(unit, now)
                    self._look_at_control(unit, now)

    # --- what is glanced at ---

    def _follow(self) -> None:
        self._anew = False
        units = {unit.name: unit for unit in self._units()}
        for name in self._watched.keys() - units.keys():
            self._forget(name)
        for unit in units.values():
            self._follow_unit(unit)
        self._closely = frozenset(name for name, watched in self._watched.items() if watched.closely)

    def _follow_unit(self, unit: Unit) -> None:
        resources = unit.resources
        if resources is None or unit.forwarder.pid is None:
            self._forget(unit.name)
            return
        queues = [port for port in unit.ports.values() if port.queues and port.present]
        rings = tuple((port.id, port.generation) for port in queues)
        workers = resources.view.integer("workers_used")
        known = self._watched.get(unit.name)
        if known is not None and known.view is resources.view and (known.rings, known.workers) == (rings, workers):
            return
        self._forget(unit.name)
        found = [fd for port in queues for fd in port.watched()]
        self._watch.add(unit.name, Places(resources.state_ro, workers, found, resources.tables_ro))
        closely = not all(port.watched() for port in queues)
        self._watched[unit.name] = _Watched(resources.view, rings, workers, closely)

    def _forget(self, name: str) -> None:
        self._watched.pop(name, None)
        self._watch.remove(name)
        self._samples.pop(name, None)
        self._turns.pop(name, None)
        self._works.pop(name, None)
        self._busy.pop(name, None)

    # --- forwarders, closely ---

    def _look(self, unit: Unit, now: float) -> None:
        resources, pid = unit.resources, unit.forwarder.pid
        if resources is None or pid is None or not unit.forwarder.ready:
            self._samples.pop(unit.name, None)
            self._busy.pop(unit.name, None)
            return
        pending = self._pending(unit, resources.view)
        samples = self._samples.get(unit.name, {})
        for worker in samples.keys() - pending.keys():  # nothing to do, or done
            del samples[worker]
        for worker, seen in pending.items():
            thread = resources.view.view("workers", worker).integer("thread")
            sample = samples.get(worker)
            if sample is None or (sample.pid, sample.seen) != (pid, seen):
                samples[worker] = _Sample(pid, seen, now, processor_time(pid, thread)[1])
            elif (reason := _hangs(sample, thread, now)) is not None:
                self._samples.pop(unit.name, None)
                unit.hung_forwarder(f"worker {worker}: {reason}" if worker else reason)
                return
        if samples:
            self._samples[unit.name] = samples
        else:
            self._samples.pop(unit.name, None)

    def _pending(self, unit: Unit, view: View) -> dict[int, tuple[int, ...]]:
        """Give, of each worker with pending work, what must change soon."""
        known = self._busy.get(unit.name)
        if known is None or known[0] is not view:
            known = self._busy[unit.name] = (view, view.column("workers", "busy_since_ns"))
        seen: dict[int, tuple[int, ...]] = {}
        for worker, busy in enumerate(known[1]()):
            if busy:
                seen[worker] = (busy, view.view("workers", worker).integer("batches"))
        for port in unit.ports.values():
            if not port.queues or not port.present:
                continue

            def progress(worker: int, number: int = port.id) -> int:
                return view.view("ports", worker * PORTS + number).integer("progress")

            for worker, at in port.waits(progress):
                seen[worker] = (*seen.get(worker, ()), port.id, at)
        return seen

    # --- controls, closely ---

    def _look_at_control(self, unit: Unit, now: float) -> None:
        turn, pid = self._watch.turn(unit.name), unit.control.pid
        if turn is None or pid is None or not unit.control.ready or unit.configuring:
            self._turns.pop(unit.name, None)
            self._works.pop(unit.name, None)
            return
        work = _same(self._works, unit.name, (pid, (turn[0] & TURNS,)), now)
        part = _same(self._turns, unit.name, (pid, turn), now)
        reason = None
        if work is not None and now - work.since >= WORK_RUNS:
            _, ran = processor_time(pid, pid)
            if ran - work.ran >= (WORK_RUNS + _runs(unit, turn[0])) * 1e9:
                reason = f"the same turn for {now - work.since:.3f} s"
        if part is not None and now - part.since >= TURN_STALL:
            state, ran = processor_time(pid, pid)
            running = state in {"R", "D"} or ran - part.ran >= RAN * (now - part.since) * 1e9
            if not running or ran - part.ran >= _runs(unit, turn[0]) * 1e9:
                reason = f"no progress for {now - part.since:.3f} s"
        if reason is not None:
            del self._turns[unit.name], self._works[unit.name]
            unit.control.fence(reason)


def _same(samples: dict[str, _Sample], name: str, seen: tuple[int, tuple[int, ...]], now: float) -> _Sample | None:
    """Give the sample of a control if it is still what was seen then; None: that begins now."""
    sample = samples.get(name)
    if sample is not None and (sample.pid, sample.seen) == seen:
        return sample
    pid, word = seen
    samples[name] = _Sample(pid, word, now, processor_time(pid, pid)[1])
    return None


def installed(tables: int) -> int:
    """Give the number of installed routes of a tables segment."""
    try:
        (root,) = struct.unpack("<Q", os.pread(tables, 8, _ROUTES_AT))
        return int(struct.unpack("<Q", os.pread(tables, 8, root + _COUNT_AT))[0]) if root else 0
    except (OSError, OverflowError, struct.error):
        return 0


def _runs(unit: Unit, word: int) -> float:
    """Tell how long a part of a control's work may run."""
    routes = installed(unit.resources.tables_ro) if unit.resources is not None else 0
    return max(TURN_RUNS + allowed(word) + min(routes, MOST_ROUTES) * ROUTE_RUNS, OWING_RUNS if unit.owing else 0.0)


def _hangs(sample: _Sample, thread: int, now: float) -> str | None:
    """Tell why a worker is taken for one that hangs; None: it does not, or not yet."""
    if now - sample.since < STALL:
        return None
    state, ran = processor_time(sample.pid, thread)
    if state in {"R", "D"} and ran - sample.ran < STALL * 1e9:
        return None  # it waits for the processor, or for a page
    return "stopped" if state in {"T", "t"} else f"no progress for {now - sample.since:.3f} s"
