"""Virtual routers of another host: what a broker and its forwarders are here, a relay is there.

    Context --Remote--> Pump (a thread) --CURVE over TCP--> relay on the router's host

Apps get real local fds, one for each socket.  A process that was forked goes on using those it has through its parent's
pump; sockets that it opens itself have a pump of its own.

Not supported: apps in C, and whole programs (`rsock exec`), on other hosts.
"""

from __future__ import annotations

import atexit
import errno
import os
import threading
import time
import weakref
from collections import deque
from typing import Any, Final

from rsock.client_core import Message, unpack_map
from rsock.errors import BrokerGone, RsockDenied, error_of
from rsock.remote.connection import Curve
from rsock.remote.pump import Pump
from rsock.wire import Flag, Op

__all__ = ["Curve", "Remote"]

_LOOK: Final = 0.05  # seconds between looks whether the relay refuses us


class _Answer:
    """What the pump's thread has to say to another."""

    def __init__(self) -> None:
        self.there = threading.Event()
        self.error = 0
        self.body = b""

    def take(self, error: int, body: bytes) -> None:
        """Take an answer."""
        self.error, self.body = error, body
        self.there.set()


class _Events:
    """What has happened to VRs and was not asked for yet."""

    def __init__(self) -> None:
        self._waiting: deque[Message] = deque(maxlen=1024)
        self._there = threading.Condition()

    def put(self, body: bytes) -> None:
        """Add one."""
        with self._there:
            self._waiting.append(Message(Op.EVENT, Flag.DATA, 0, 0, 0, body))
            self._there.notify()

    def take(self, deadline: float) -> Message | None:
        """Give the next; None: the time is up."""
        with self._there:
            if not self._there.wait_for(lambda: bool(self._waiting), max(deadline - time.monotonic(), 0)):
                return None
            return self._waiting.popleft()


class Remote:
    """The relay, as `rsock.client` asks brokers."""

    def __init__(self, endpoint: str, curve: Curve | None, app: str) -> None:
        if curve is None:
            raise ValueError("a relay takes only those who show a key: Context(..., curve=Curve(...))")
        self._pump = Pump(endpoint, curve, {"app": app, "pid": os.getpid()})
        self._pid = os.getpid()
        self._events = _Events()
        self._pump.start(self._events.put)
        _remotes.add(self)

    def request(self, op: Op, body: dict[str, Any], timeout: float) -> dict[str, Any]:
        """Ask the relay.  Raises OSError with the errno of its answer, BrokerGone without one."""
        deadline = time.monotonic() + timeout
        answer = _Answer()
        self._pump.ask_broker(op, body, lambda error, text: self._take(op, body, answer, error, text))
        while not answer.there.wait(min(_LOOK, max(deadline - time.monotonic(), 0))):
            if self._pump.refused.is_set():
                raise RsockDenied(errno.EACCES, f"{os.strerror(errno.EACCES)}: the relay does not know our key")
            if time.monotonic() >= deadline:
                reason = errno.ETIMEDOUT if timeout > 0 else errno.EAGAIN
                raise BrokerGone(reason, os.strerror(reason))
        if answer.error:
            raise error_of(answer.error, str(body.get("vr", "")))
        found = unpack_map(answer.body)
        if op == Op.TICKET:
            found["path"] = self._pump.path(str(body.get("vr", "")))
        return found

    def _take(self, op: Op, body: dict[str, Any], answer: _Answer, error: int, text: bytes) -> None:
        """In the pump's thread: what the answer promises must be there before it is told."""
        if op == Op.TICKET and not error:
            try:
                self._pump.serve(str(body["vr"]))
            except OSError as problem:
                error = problem.errno or errno.EADDRINUSE
        answer.take(error, text)

    def wait_event(self, deadline: float) -> Message | None:
        """Give the next event; None: the time is up."""
        return self._events.take(deadline)

    def close(self) -> None:
        """Use it no more: it ends with its last socket."""
        if self._pid == os.getpid():
            self._pump.retire()

    def end(self) -> None:
        """End it, and its sockets as if the app had closed them."""
        if self._pid == os.getpid():
            self._pump.close()

    def after_fork(self) -> None:
        """In a child: hold no other end of its parent's sockets."""
        self._pump.abandon()

    def __del__(self) -> None:
        if hasattr(self, "_pump"):
            self.close()


_remotes: weakref.WeakSet[Remote] = weakref.WeakSet()


def _end_all() -> None:
    for remote in list(_remotes):
        remote.end()


def _after_fork() -> None:
    for remote in list(_remotes):
        remote.after_fork()


atexit.register(_end_all)
os.register_at_fork(after_in_child=_after_fork)
