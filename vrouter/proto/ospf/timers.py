"""Named deadlines in the caller's time: set, moved, canceled, and taken when due."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any

Key = tuple[Any, ...]


class Timers:
    """Deadlines by key; of two that are due together the one set first comes first."""

    def __init__(self) -> None:
        self._due: dict[Key, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._count = 0

    def set(self, key: Key, when: float) -> None:
        """Set a deadline, or move it."""
        self._count += 1
        self._due[key] = (when, self._count)
        heapq.heappush(self._heap, (when, self._count, key))
        if len(self._heap) > 64 and len(self._heap) > 4 * len(self._due):
            self._heap = [(when, count, key) for key, (when, count) in self._due.items()]
            heapq.heapify(self._heap)

    def start(self, key: Key, when: float) -> None:
        """Set a deadline, unless it is set."""
        if key not in self._due:
            self.set(key, when)

    def cancel(self, key: Key) -> None:
        """Take a deadline away, if there is one."""
        self._due.pop(key, None)

    def __contains__(self, key: Key) -> bool:
        return key in self._due

    def when(self, key: Key) -> float | None:
        """Tell when a deadline is."""
        due = self._due.get(key)
        return due[0] if due else None

    @property
    def deadline(self) -> float | None:
        """The first of all."""
        self._prune()
        return self._heap[0][0] if self._heap else None

    def take(self, now: float) -> Iterator[Key]:
        """Give the keys that are due, each once; what is set meanwhile for `now` or before comes too."""
        while True:
            self._prune()
            if not self._heap or self._heap[0][0] > now:
                return
            key = heapq.heappop(self._heap)[2]
            del self._due[key]
            yield key

    def _prune(self) -> None:
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][:2]:
            heapq.heappop(self._heap)
