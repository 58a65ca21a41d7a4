"""The event loop of a control: one thread, file descriptors and monotonic deadlines.

A plain loop over `selectors`: asyncio would cost megabytes in every VR.
"""

from __future__ import annotations

import heapq
import itertools
import selectors
import time
from collections.abc import Callable
from typing import Final, Protocol

from vrouter.api.timings import Timings

READ: Final = selectors.EVENT_READ
WRITE: Final = selectors.EVENT_WRITE


class Pulse(Protocol):
    """Shows others whether we are at work."""

    def rest(self) -> None:
        """Go to sleep."""

    def work(self) -> None:
        """Wake up."""


class Timer:
    """A call that is due at a time; cancel() is free of charge."""

    __slots__ = ("callback", "due")

    def __init__(self, due: float, callback: Callable[[], None]) -> None:
        """Use Loop.call_at()."""
        self.due = due
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Forget the call."""
        self.callback = None


class Loop:
    """Calls back when a file descriptor is ready or a time has come."""

    def __init__(self, pulse: Pulse | None = None) -> None:
        """`pulse` hears of each sleep."""
        self._pulse = pulse
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._running = False
        self.turns = Timings()  # how long each kept all else waiting
        self._awake = time.monotonic()

    @staticmethod
    def now() -> float:
        """Give the time by which deadlines are told, in seconds."""
        return time.monotonic()

    def watch(self, fd: int, events: int, callback: Callable[[int], None]) -> None:
        """Call `callback(events)` whenever `fd` is ready; replaces an earlier call for it."""
        if fd in self._selector.get_map():
            self._selector.modify(fd, events, callback)
        else:
            self._selector.register(fd, events, callback)

    def forget(self, fd: int) -> None:
        """Stop watching `fd`; to be called before it is closed."""
        if fd in self._selector.get_map():
            self._selector.unregister(fd)

    def call_at(self, due: float, callback: Callable[[], None]) -> Timer:
        """Call once, at `due` or soon after."""
        timer = Timer(due, callback)
        heapq.heappush(self._timers, (due, next(self._order), timer))
        return timer

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        """Call once, after `delay` seconds."""
        return self.call_at(self.now() + delay, callback)

    def stop(self) -> None:
        """Make run() return after the callback that is running."""
        self._running = False

    def run(self) -> None:
        """Serve until stop()."""
        self._running = True
        while self._running:
            self.step(self._timeout())

    def step(self, timeout: float | None = 0) -> None:
        """Wait at most `timeout` seconds, and do what is due."""
        for key, events in self._select(timeout):
            # A callback before this one may have closed its fd, or put another in its place.
            current = self._selector.get_map().get(key.fd)
            if current is not None and current.data is key.data:
                key.data(events)
        # What these calls make due at once waits for the next turn, so that fds have theirs.
        now, due = self.now(), []
        while self._timers and self._timers[0][0] <= now:
            due.append(heapq.heappop(self._timers)[2])
        for timer in due:
            if timer.callback is not None:
                timer.callback()

    def _select(self, timeout: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        self.turns.note(time.monotonic() - self._awake)
        if self._pulse is not None:
            self._pulse.rest()
        try:
            return self._selector.select(timeout)
        finally:
            self._awake = time.monotonic()
            if self._pulse is not None:
                self._pulse.work()

    def close(self) -> None:
        """Give the selector back."""
        self._selector.close()

    def _timeout(self) -> float | None:
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        return max(0.0, self._timers[0][0] - self.now()) if self._timers else None
