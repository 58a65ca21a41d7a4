"""Which of many VRs need a closer look, at next to no cost where none does.

    watch = Watch()
    watch.add("red", Places(state_fd, workers=1, queues=[fd], tables=tables_fd))
    watch.sleep(epoll_fd, 1.0)     # until there are events, or something is hit
    watch.look()                   # names of those that are

Hit are a worker of a forwarder that has been in the same iteration for LONG_ITERATION, a queue with frames that nobody
takes, and a control that has been at the same part of its work for LONG_TURN, or in the same turn of its loop for
LONG_WORK.  A look at a VR at rest reads a few words of mapped memory in C; Python is not woken for it.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from fastpath._glance import ffi, lib
from fastpath._layout import CONSTANTS, FIELDS, SIZES
from fastpath.pulse import AT_WORK, EPOCH_AT, TURNS, TURNS_AT

INTERVAL: Final = 0.02  # between two looks, while nobody is at work
LONG_ITERATION: Final = 0.001
LONG_TURN: Final = 0.1
LONG_WORK: Final = 2.0
_SECOND: Final = 1_000_000_000
_WORKERS: Final = FIELDS["state_segment"]["workers"][0]
_WORKER: Final = SIZES["worker_state"]
_BUSY: Final = FIELDS["worker_state"]["busy_since_ns"][0]
_ANY_BIT: Final = 2**64 - 1
_WORD: Final = 8
_FOREVER: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Places:
    """Where to look, of one VR; the fds stay the caller's."""

    state: int  # fd of the segment
    workers: int = 1
    queues: Sequence[int] = ()  # fds, open until remove() or for a little longer
    tables: int = -1


class _Watched:
    """One VR: its words, by address."""

    def __init__(self, places: Places) -> None:
        count = min(max(places.workers, 1), CONSTANTS["MAX_WORKERS"])
        state = _map(places.state, _WORKERS + count * _WORKER)
        self._kept: list[Any] = [ffi.from_buffer(state)]
        starts = [self._kept[0] + _WORKERS + worker * _WORKER + _BUSY for worker in range(count)]
        self.words = [(start, _ANY_BIT, _ANY_BIT, LONG_ITERATION) for start in starts]
        self.tables: mmap.mmap | None = None
        if places.tables >= 0:
            self.tables = _map(places.tables, max(TURNS_AT, EPOCH_AT) + _WORD)
            self._kept.append(ffi.from_buffer(self.tables))
            self.words.append((self._kept[1] + TURNS_AT, AT_WORK, _ANY_BIT, LONG_TURN))
            self.words.append((self._kept[1] + TURNS_AT, AT_WORK, AT_WORK | TURNS, LONG_WORK))
        self.queues = list(places.queues)


class Watch:
    """All that are watched, by name."""

    def __init__(self) -> None:
        """Watch nothing yet."""
        self._watched: dict[str, _Watched] = {}
        self._changed = True
        self._words: Any = ffi.NULL
        self._queues: Any = ffi.NULL
        self._word_names: list[str] = []
        self._queue_names: list[str] = []

    def add(self, name: str, places: Places) -> None:
        """Watch a VR."""
        self._watched[name] = _Watched(places)
        self._changed = True

    def remove(self, name: str) -> None:
        """Watch it no more."""
        if self._watched.pop(name, None) is not None:
            self._changed = True

    def look(self) -> set[str]:
        """Look at all now; give those that are hit."""
        self._arrange()
        lib.glance_look(self._words, len(self._word_names), self._queues, len(self._queue_names))
        hit = {name for at, name in enumerate(self._word_names) if self._words[at].hit}
        return hit | {name for at, name in enumerate(self._queue_names) if self._queues[at].hit}

    def turn(self, name: str) -> tuple[int, int] | None:
        """Give what a control changes while it gets on; None: it is at rest."""
        watched = self._watched.get(name)
        if watched is None or watched.tables is None:
            return None
        (turns,) = struct.unpack_from("<Q", watched.tables, TURNS_AT)
        (epoch,) = struct.unpack_from("<Q", watched.tables, EPOCH_AT)
        return (turns, epoch) if turns & AT_WORK else None

    def sleep(self, epoll: int, timeout: float | None) -> tuple[bool, bool]:
        """Wait for events of the epoll set, a hit, or the end of `timeout`; tell whether there are events, and hits."""
        self._arrange()
        patience = round((_FOREVER if timeout is None else min(timeout, _FOREVER)) * _SECOND)
        end = lib.glance_sleep(
            epoll, patience, round(INTERVAL * _SECOND), self._words, len(self._word_names), self._queues,
            len(self._queue_names),
        )  # fmt: skip
        return end == lib.GLANCE_EVENT, end == lib.GLANCE_HIT

    def _arrange(self) -> None:
        """Make the arrays that are gone through."""
        if not self._changed:
            return
        self._changed = False
        words = [(word, name) for name, watched in self._watched.items() for word in watched.words]
        queues = [(fd, name) for name, watched in self._watched.items() for fd in watched.queues]
        self._word_names, self._queue_names = [name for _, name in words], [name for _, name in queues]
        self._words = ffi.new("struct glance_word[]", len(words))
        for at, ((address, mask, same, patience), _name) in enumerate(words):
            self._words[at] = {
                "word": ffi.cast("uint64_t *", address), "mask": mask, "same": same,
                "patience_ns": round(patience * _SECOND),
            }  # fmt: skip
        self._queues = ffi.new("struct glance_queue[]", [{"fd": fd} for fd, _name in queues])


def _map(fd: int, size: int) -> mmap.mmap:
    """Map the beginning of a segment; it lives as long as somebody looks at it."""
    pages = -(-size // mmap.PAGESIZE)
    return mmap.mmap(fd, pages * mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ)
