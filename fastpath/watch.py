"""Which of many forwarders have work pending, at next to no cost where none has.

    watch = Watch()
    watch.add("red", state, [(place, ring)])
    watch.pending()   # names of those in the middle of an iteration, or with a frame in a ring

A look at a forwarder at rest compares eight bytes of mapped memory, and decodes nothing: fifty of them are looked at a
hundred times a second.  A worker that is at work is seen at each look.  Frames that wait for one that sleeps, which
somebody has failed to wake, are seen at one look of ten.  What has been unmapped meanwhile counts as pending: whoever
looks closely finds out.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from fastpath._layout import CONSTANTS, FIELDS, SIZES
from fastpath.segment import Segment

TURNS: Final = 10  # looks, in one of which a forwarder's rings and number of workers have their turn
_WORD: Final = 8
_REST: Final = bytes(_WORD)
_WORKERS: Final = FIELDS["state_segment"]["workers"][0]
_WORKER: Final = SIZES["worker_state"]
_BUSY: Final = FIELDS["worker_state"]["busy_since_ns"][0]
_USED_AT: Final = FIELDS["state_segment"]["workers_used"][0]
_USED: Final = slice(_USED_AT, _USED_AT + _WORD)
_PORTS: Final = FIELDS["state_segment"]["ports"][0]
_PROGRESS: Final = FIELDS["port_state"]["progress"][0]


class Ring(Protocol):
    """A receive ring whose frames begin with their status, as those of TPACKET_V2."""

    @property
    def memory(self) -> mmap.mmap:
        """Give the mapping."""

    def place(self, progress: int) -> int:
        """Tell where the frame begins that comes next after so many."""


@dataclass(slots=True)
class _Ring:
    ring: Ring
    progress: slice  # in the state segment
    seen: bytes = b""  # the progress word as it was last
    status: int = 0  # place of the status of the next frame, by that word


class _Watched:
    """One forwarder."""

    __slots__ = ("count", "memory", "rings", "workers")

    def __init__(self, state: Segment, rings: Iterable[tuple[int, Ring]]) -> None:
        self.memory, self.workers = state.buffer, 0
        self.count = b""  # the word that says how many workers there are, as it was last
        self.rings = []
        for place, ring in rings:
            start = _PORTS + place * SIZES["port_state"] + _PROGRESS
            self.rings.append(_Ring(ring, slice(start, start + _WORD)))

    def count_workers(self) -> bool:
        """See how many workers there are; tell whether they are others than before.  Raises ValueError."""
        count = self.memory[_USED]
        if count == self.count:
            return False
        self.count = count
        self.workers = min(max(struct.unpack("<Q", count)[0], 1), CONSTANTS["MAX_WORKERS"])
        return True

    def busy(self) -> list[slice]:
        """Tell where the words stand that are 0 while a worker sleeps."""
        starts = (_WORKERS + worker * _WORKER + _BUSY for worker in range(self.workers))
        return [slice(start, start + _WORD) for start in starts]

    def frame_waits(self) -> bool:
        """Tell whether a frame waits in a ring.  Raises ValueError where a mapping has gone."""
        for ring in self.rings:
            now = self.memory[ring.progress]
            if now != ring.seen:
                ring.seen, ring.status = now, ring.ring.place(struct.unpack("<Q", now)[0])
            if ring.ring.memory[ring.status] & 1:  # TP_STATUS_USER
                return True
        return False


class Watch:
    """All that are watched, by name."""

    def __init__(self) -> None:
        """Watch nothing yet."""
        self._watched: dict[str, _Watched] = {}
        self._busy: list[tuple[mmap.mmap, slice, str]] = []
        self._turns: list[list[tuple[str, _Watched]]] = [[] for _ in range(TURNS)]
        self._looks = 0

    def add(self, name: str, state: Segment, rings: Iterable[tuple[int, Ring]] = ()) -> None:
        """Watch a forwarder by its state segment and its rings, each with the place of its port in `state.ports`."""
        watched = self._watched[name] = _Watched(state, rings)
        watched.count_workers()
        self._arrange()

    def remove(self, name: str) -> None:
        """Watch it no more."""
        if self._watched.pop(name, None) is not None:
            self._arrange()

    def pending(self) -> set[str]:
        """Give those that have work."""
        found = set()
        try:
            for memory, busy, name in self._busy:
                if memory[busy] != _REST:
                    found.add(name)
        except ValueError:
            found.update(self._watched)
        self._looks += 1
        others = False
        for name, watched in self._turns[self._looks % TURNS]:
            try:
                others |= watched.count_workers()
                if watched.frame_waits():
                    found.add(name)
            except ValueError:
                found.add(name)
        if others:
            self._arrange()
        return found

    def _arrange(self) -> None:
        """Make the lists that are gone through."""
        self._busy = [(it.memory, busy, name) for name, it in self._watched.items() for busy in it.busy()]
        everyone = list(self._watched.items())
        self._turns = [everyone[turn::TURNS] for turn in range(TURNS)]
