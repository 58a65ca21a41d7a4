"""Finds forwarders that hang, without a heartbeat of theirs: it samples what they write anyway.

Stalled is one of two things for STALL seconds:
    in the middle of an iteration (`busy_since_ns`) with the progress word `batches` unchanged
    asleep, though the frame at the ring's progress index has been received

A forwarder that merely did not get the processor is spared: it is held against the time it has run.
A stopped one is reported by the zygote at once; one whose zygote died is seen here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fastpath._layout import CONSTANTS
from fastpath.segment import Column, View
from manager.reactor import Reactor
from manager.unit import Unit

INTERVAL: Final = 0.01
STALL: Final = 0.02
WORKERS: Final = CONSTANTS["MAX_WORKERS"]


@dataclass
class _Sample:
    """What was seen last, and since when it has been the same."""

    pid: int
    seen: tuple[int, ...]
    since: float
    ran: int  # nanoseconds on the processor by then


def processor_time(pid: int) -> tuple[str, int]:
    """Give the state letter of a process and the nanoseconds it has run; ("", 0): it is gone."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state, int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return "", 0


class Supervisor:
    """Samples all VRs."""

    def __init__(self, reactor: Reactor, units: Callable[[], Iterable[Unit]]) -> None:
        self._reactor = reactor
        self._units = units
        self._samples: dict[str, _Sample] = {}
        self._busy: dict[str, tuple[View, Column]] = {}  # how to read `busy_since_ns` of all workers at once

    def start(self) -> None:
        """Sample from now on."""
        self._tick()

    def _tick(self) -> None:
        self._reactor.after(INTERVAL, self._tick)
        now = time.monotonic()
        for unit in self._units():
            self._look(unit, now)

    def _look(self, unit: Unit, now: float) -> None:
        resources, pid = unit.resources, unit.forwarder.pid
        if resources is None or pid is None or not unit.forwarder.ready:
            self._samples.pop(unit.name, None)
            self._busy.pop(unit.name, None)
            return
        seen = self._pending(unit, resources.view)
        sample = self._samples.get(unit.name)
        if not seen:  # nothing to do, or done
            if sample is not None:
                del self._samples[unit.name]
            return
        if sample is None or (sample.pid, sample.seen) != (pid, seen):
            self._samples[unit.name] = _Sample(pid, seen, now, processor_time(pid)[1])
            return
        if now - sample.since < STALL:
            return
        state, ran = processor_time(pid)
        if state in {"R", "D"} and ran - sample.ran < STALL * 1e9:
            return  # it waits for the processor, or for a page
        del self._samples[unit.name]
        unit.hung_forwarder("stopped" if state in {"T", "t"} else f"no progress for {now - sample.since:.3f} s")

    def _pending(self, unit: Unit, view: View) -> tuple[int, ...]:
        """Give what must change soon as work is pending; empty: none is."""
        known = self._busy.get(unit.name)
        if known is None or known[0] is not view:
            known = self._busy[unit.name] = (view, view.column("workers", "busy_since_ns"))
        seen: list[int] = []
        for number, busy in enumerate(known[1]()):
            if busy:
                seen += [number, busy, view.view("workers", number).integer("batches")]
        for port in unit.ports.values():
            if port.queues and port.present:
                progress = view.view("ports", port.id).integer("progress")
                if port.waiting(progress):
                    seen += [WORKERS + port.id, progress]
        return tuple(seen)
