"""Who watches, and what waits for those that read slowly."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import zmq

from rsock.broker.authorize import Identity

# A watcher this far behind has stopped reading; it finds out from its next PING and lists anew.
BACKLOG = 1024
WATCHERS = 4096
WATCHERS_PER_USER = 256

Send = Callable[[list[bytes]], None]  # raises zmq.ZMQError


@dataclass
class Watcher:
    """An app that wants events."""

    identity: Identity
    waiting: deque[list[bytes]] = field(default_factory=deque)


class Watchers:
    """All watchers, by ZeroMQ routing id."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._watchers: dict[bytes, Watcher] = {}

    def __contains__(self, routing_id: bytes) -> bool:
        return routing_id in self._watchers

    @property
    def behind(self) -> bool:
        """Tell whether anything waits to be sent."""
        return any(watcher.waiting for watcher in self._watchers.values())

    def add(self, routing_id: bytes, identity: Identity) -> bool:
        """Register one; False: there are too many."""
        if routing_id not in self._watchers:
            mine = sum(watcher.identity.uid == identity.uid for watcher in self._watchers.values())
            if len(self._watchers) >= WATCHERS or (mine >= WATCHERS_PER_USER and identity.uid != 0):
                return False
        self._watchers[routing_id] = Watcher(identity)
        return True

    def remove(self, routing_id: bytes) -> None:
        """Forget one."""
        self._watchers.pop(routing_id, None)

    def publish(self, message: list[bytes], concerns: Callable[[Identity], bool]) -> None:
        """Send an event to those whom it concerns."""
        for routing_id, watcher in list(self._watchers.items()):
            if concerns(watcher.identity):
                watcher.waiting.append(message)
                if len(watcher.waiting) > BACKLOG:
                    del self._watchers[routing_id]
        self.flush()

    def flush(self) -> None:
        """Send what waits, as far as it goes."""
        for routing_id, watcher in list(self._watchers.items()):
            try:
                while watcher.waiting:
                    self._send([routing_id, *watcher.waiting[0]])
                    watcher.waiting.popleft()
            except zmq.ZMQError as error:
                if error.errno != errno.EAGAIN:  # EHOSTUNREACH: it has gone
                    del self._watchers[routing_id]
