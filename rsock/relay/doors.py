"""Who may come in: the ZeroMQ sockets towards the apps, with CURVE (ZeroMQ RFC 26) and ZAP (RFC 27).

Only keys that some rule names are let in; others fail the handshake, whatever they know of us.  The key that a
connection has shown comes with each of its messages, from libzmq and not from the app.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import zmq
from zmq.utils import z85

from rsock.session import MAX_MESSAGE, MESSAGES, Frames
from rsock.wire import HEADER, MAGIC

BURST: Final = 64  # messages taken between two looks at the sockets
_BACKLOG: Final = 512
_INCOMING: Final = 64  # messages of one app that wait
_HANDSHAKE_MS: Final = 3000
_HEARTBEAT_MS: Final = 2000
_HEARTBEAT_TIMEOUT_MS: Final = 8000
_ZAP: Final = "inproc://zeromq.zap.01"
_KEY: Final = 32


@dataclass(frozen=True, slots=True)
class Message:
    """A message of an app; `key` is proven."""

    route: bytes
    key: bytes
    op: int
    flags: int
    session: int
    sequence: int
    socket: int
    error: int
    value: int
    payload: bytes


class Doors:
    """The ROUTER socket and the ZAP handler."""

    def __init__(self, endpoint: str, secret: str, known: Callable[[bytes], bool]) -> None:
        """Bind.  Raises zmq.ZMQError, and ValueError for a bad key."""
        if len(secret) != 40:
            raise ValueError("a CURVE key has 40 characters")
        self._known = known
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        # Before the other one binds: without a handler libzmq would let everybody in.
        self._zap = self._context.socket(zmq.ROUTER)
        self._zap.linger = 0
        self._zap.bind(_ZAP)
        self.router = self._context.socket(zmq.ROUTER)
        for option, value in (
            (zmq.LINGER, 0), (zmq.ROUTER_MANDATORY, 1), (zmq.MAXMSGSIZE, MAX_MESSAGE), (zmq.RCVHWM, _INCOMING),
            (zmq.SNDHWM, 4 * MESSAGES), (zmq.BACKLOG, _BACKLOG), (zmq.HANDSHAKE_IVL, _HANDSHAKE_MS), (zmq.IPV6, 1),
            (zmq.HEARTBEAT_IVL, _HEARTBEAT_MS), (zmq.HEARTBEAT_TIMEOUT, _HEARTBEAT_TIMEOUT_MS), (zmq.CURVE_SERVER, 1),
        ):  # fmt: skip
            self.router.setsockopt(option, value)
        self.router.setsockopt(zmq.ZAP_DOMAIN, b"rsock")
        self.router.setsockopt(zmq.CURVE_SECRETKEY, secret.encode())
        if self.router.getsockopt(zmq.MECHANISM) != zmq.CURVE:
            raise ValueError("no CURVE, no relay")
        self.router.bind(endpoint)

    @property
    def fds(self) -> tuple[int, int]:
        """Give the fds that become readable, edge by edge, when there is something to do."""
        return self.router.getsockopt(zmq.FD), self._zap.getsockopt(zmq.FD)  # type: ignore[return-value]

    @property
    def ready(self) -> bool:
        """Tell whether something waits: no edge would tell of it again."""
        return any(int(door.getsockopt(zmq.EVENTS)) & zmq.POLLIN for door in (self.router, self._zap))

    def judge(self) -> None:
        """Answer libzmq's questions about those who knock."""
        while True:
            try:
                frames = self._zap.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            # route, empty, version, number, domain, address, identity, mechanism, credentials
            route, _empty, version, number, _domain, _address, _identity, mechanism, *credentials = frames
            key = credentials[0] if mechanism == b"CURVE" and credentials and len(credentials[0]) == _KEY else b""
            name = z85.encode(key) if key else b""
            code, user = (b"200", name) if key and self._known(name) else (b"400", b"")
            with contextlib.suppress(zmq.ZMQError):
                self._zap.send_multipart([route, b"", version, number, code, b"", user, b""], zmq.DONTWAIT)

    def messages(self) -> Iterator[Message]:
        """Give what has come in, but not all of it at once."""
        for _turn in range(BURST):
            try:
                frames = self.router.recv_multipart(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                return
            if len(frames) != 3 or len(frames[1]) != HEADER.size:
                continue
            magic, op, flags, session, sequence, socket, error, value = HEADER.unpack(frames[1].buffer)
            key = str(frames[1].get("User-Id")).encode()
            if magic == MAGIC:
                route, payload = frames[0].bytes, frames[2].bytes
                yield Message(route, key, op, flags, session, sequence, socket, error, value, payload)

    def send(self, route: bytes, frames: Frames) -> bool | None:
        """Send; False: not now; None: nobody is there any more."""
        try:
            self.router.send_multipart([route, *frames], zmq.DONTWAIT)
        except zmq.Again:
            return False
        except zmq.ZMQError:
            return None
        return True
