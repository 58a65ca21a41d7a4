"""What relay and pump wait for, fds with their handlers and moments; and how an fd is looked at."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import select
import time
from collections.abc import Callable
from typing import Final

EDGES: Final = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET

Handler = Callable[[int], None]  # gets the epoll events


def look(fd: int, events: int = 0) -> int:
    """Tell which of these events an fd has now; POLLHUP, POLLERR and POLLNVAL are told unasked."""
    poll = select.poll()
    poll.register(fd, events)
    return next((found for _fd, found in poll.poll(0)), 0)


class Poll:
    """An epoll set and a timetable."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def add(self, fd: int, handler: Handler, events: int = EDGES) -> None:
        """Watch an fd."""
        self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def remove(self, fd: int) -> None:
        """Watch it no more; before it is closed."""
        if self._handlers.pop(fd, None) is not None:
            with contextlib.suppress(OSError):
                self._epoll.unregister(fd)

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call back later."""
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._order), call))

    def turn(self, *, wait: bool) -> None:
        """Handle what is there; `wait` for it."""
        timeout = 0.0
        if wait:
            timeout = max(self._due[0][0] - time.monotonic(), 0) if self._due else -1
        for fd, events in self._epoll.poll(timeout):
            if (handler := self._handlers.get(fd)) is not None:
                handler(events)
        while self._due and self._due[0][0] <= time.monotonic():
            heapq.heappop(self._due)[2]()

    def close(self) -> None:
        """Free it."""
        self._epoll.close()

    def fileno(self) -> int:
        """Give the fd of the set."""
        return self._epoll.fileno()
