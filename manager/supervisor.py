"""Finds forwarders that hang, without a heartbeat of theirs: it samples what they write anyway.

Stalled is one of two things that a worker does for STALL seconds:
    in the middle of an iteration (`busy_since_ns`) with the progress word `batches` unchanged
    asleep, though the frame at the ring's progress index has been received

A glance at a few bytes tells which VRs have work pending; only those are looked at closely, so that idle ones cost
next to nothing.  Queues that are no packet rings are looked at each time.  A forwarder that merely did not get the
processor is spared: it is held against the time it has run.  A stopped one is reported by the zygote at once; one
whose zygote died is seen here.  Controls are asked from here too whether they live.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fastpath._layout import CONSTANTS
from fastpath.segment import Column, View
from fastpath.watch import Watch
from manager import probe
from manager.reactor import Reactor
from manager.unit import Unit

INTERVAL: Final = 0.01
QUIET: Final = 100  # samples in a row without any work in any VR: then only every RESTING-th is taken
RESTING: Final = 2
SHARES: Final = 10  # of the VRs, whose controls are looked at one share after the other
PROBE_EVERY: Final = round(probe.INTERVAL / SHARES / INTERVAL)  # samples
FOLLOW_EVERY: Final = 200  # samples; who changes anything says so
STALL: Final = 0.02
PORTS: Final = CONSTANTS["MAX_PORTS"]


@dataclass(frozen=True)
class _Watched:
    """A VR that is glanced at."""

    view: View
    rings: tuple[tuple[int, int], ...]  # port, generation
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
        self._busy: dict[str, tuple[View, Column]] = {}  # how to read `busy_since_ns` of all workers at once
        self._watch = Watch()
        self._watched: dict[str, _Watched] = {}
        self._closely: frozenset[str] = frozenset()
        self._anew = True
        self._turn = self._quiet = 0

    def look_anew(self) -> None:
        """A VR, or one of its ports, may be another one."""
        self._anew = True

    def start(self) -> None:
        """Sample from now on."""
        self._tick()

    def _tick(self) -> None:
        steps = RESTING if self._quiet >= QUIET else 1
        self._reactor.after(steps * INTERVAL, self._tick)
        before, self._turn = self._turn, self._turn + steps
        self._anew |= before // FOLLOW_EVERY != self._turn // FOLLOW_EVERY
        if before // PROBE_EVERY != self._turn // PROBE_EVERY:
            for unit in list(self._units())[self._turn // PROBE_EVERY % SHARES :: SHARES]:
                unit.probe_control()
        if self._anew:
            self._follow()
        pending = self._watch.pending()
        self._quiet = 0 if pending else self._quiet + 1
        if pending or self._samples or self._closely:
            self._look_closely(pending | self._samples.keys() | self._closely)

    def _look_closely(self, suspects: set[str]) -> None:
        now = time.monotonic()
        for unit in list(self._units()):
            if unit.name in suspects:
                self._look(unit, now)

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
        known = self._watched.get(unit.name)
        if known is not None and known.view is resources.view and known.rings == rings:
            return
        self._forget(unit.name)
        found = [ring for port in queues for ring in port.watched()]
        self._watch.add(unit.name, resources.view, found)
        self._watched[unit.name] = _Watched(resources.view, rings, not all(port.watched() for port in queues))

    def _forget(self, name: str) -> None:
        self._watched.pop(name, None)
        self._watch.remove(name)
        self._samples.pop(name, None)
        self._busy.pop(name, None)

    # --- what is looked at closely ---

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


def _hangs(sample: _Sample, thread: int, now: float) -> str | None:
    """Tell why a worker is taken for one that hangs; None: it is not, or not yet."""
    if now - sample.since < STALL:
        return None
    state, ran = processor_time(sample.pid, thread)
    if state in {"R", "D"} and ran - sample.ran < STALL * 1e9:
        return None  # it waits for the processor, or for a page
    return "stopped" if state in {"T", "t"} else f"no progress for {now - sample.since:.3f} s"
