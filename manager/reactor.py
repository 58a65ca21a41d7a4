"""The manager's event loop: file descriptors, timers and signals, one thread.

asyncio would do as well; this is a page, wakes up for what is due only, and lets netlink calls, which
the kernel answers at once, stay plain calls.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from typing import Final

from vrouter.api.timings import Timings

READ: Final = selectors.EVENT_READ
WRITE: Final = selectors.EVENT_WRITE


class Timer:
    """A call that is due at `at`; cancel() takes it back."""

    __slots__ = ("at", "callback")

    def __init__(self, at: float, callback: Callable[[], None] | None) -> None:
        self.at = at
        self.callback = callback

    def cancel(self) -> None:
        """Forget the call; harmless when it has been made."""
        self.callback = None


class Reactor:
    """Waits for file descriptors, timers and signals and calls back."""

    def __init__(self, failed: Callable[[BaseException], None]) -> None:
        """`failed` hears of exceptions that a callback let through: one bad event must not end the box."""
        self._failed = failed
        self._selector = selectors.EpollSelector()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._signals: dict[int, Callable[[], None]] = {}
        self._wake_read, self._wake_write = socket.socketpair()
        self._rest: Callable[[int, float | None], bool] | None = None
        self.turns = Timings()  # how long each kept all else waiting
        self._running = False
        for end in (self._wake_read, self._wake_write):
            end.setblocking(False)
        self.add(self._wake_read.fileno(), READ, self._on_signals)

    def add(self, fd: int, events: int, callback: Callable[[], None]) -> None:
        """Call back whenever the fd is ready; one callback for each fd."""
        self._selector.register(fd, events, callback)

    def modify(self, fd: int, events: int, callback: Callable[[], None]) -> None:
        """Change what is waited for."""
        self._selector.modify(fd, events, callback)

    def remove(self, fd: int) -> None:
        """Stop waiting; before the fd is closed."""
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(fd)

    def after(self, delay: float, callback: Callable[[], None]) -> Timer:
        """Call back once, `delay` seconds from now."""
        timer = Timer(time.monotonic() + delay, callback)
        heapq.heappush(self._timers, (timer.at, next(self._order), timer))
        return timer

    def rest_by(self, rest: Callable[[int, float | None], bool]) -> None:
        """Sleep by `rest(epoll fd, seconds)` from now on, which tells whether there may be events."""
        self._rest = rest

    def on_signal(self, number: int, callback: Callable[[], None]) -> None:
        """Call back, in the loop, when the signal has come."""
        self._signals[number] = callback
        signal.signal(number, lambda _number, _frame: None)
        signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)

    def run(self) -> None:
        """Serve until stop()."""
        self._running = True
        while self._running:
            self.turn(None)

    def turn(self, patience: float | None) -> None:
        """Wait once, at most `patience` seconds, and make the calls that are due."""
        ready = self._select(self._timeout(patience))
        awake = time.monotonic()
        for key, _events in ready:
            # An earlier callback of this round may have removed it.
            if self._selector.get_map().get(key.fd) is key:
                self._call(key.data)
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            if timer.callback is not None:
                self._call(timer.callback)
        self.turns.note(time.monotonic() - awake)

    def turn_until(self, done: Callable[[], bool], patience: float) -> bool:
        """Serve until `done`, at most `patience` seconds; for stopping, when nothing else is to do."""
        end = time.monotonic() + patience
        while not done():
            left = end - time.monotonic()
            if left <= 0:
                return False
            self.turn(min(left, 0.05))
        return True

    def stop(self) -> None:
        """Let run() return."""
        self._running = False

    def close(self) -> None:
        """Give back what the loop itself holds."""
        signal.set_wakeup_fd(-1)
        self._selector.close()
        self._wake_read.close()
        self._wake_write.close()

    def _select(self, timeout: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        if self._rest is not None and timeout != 0:
            if not self._rest(self._selector.fileno(), timeout):
                return []
            timeout = 0
        return self._selector.select(timeout)

    def _timeout(self, patience: float | None) -> float | None:
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        if not self._timers:
            return patience
        until = max(0.0, self._timers[0][0] - time.monotonic())
        return until if patience is None else min(until, patience)

    def _on_signals(self) -> None:
        for number in os.read(self._wake_read.fileno(), 4096):
            if callback := self._signals.get(number):
                self._call(callback)

    def _call(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception as error:  # noqa: BLE001 - reported; the other VRs must not suffer
            self._failed(error)
