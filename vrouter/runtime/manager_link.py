"""The manager's connections to a control: `control/NAME.sock`, framed by `vrouter.api.messages`.

The directory is root's alone, and yet the peer's uid is looked at.  A manager that comes back
connects anew; two may be connected while one replaces the other.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from vrouter.api.messages import Decoder, FrameError, encode_reply
from vrouter.runtime.loop import READ, WRITE, Loop

MAX_CONNECTIONS: Final = 8
MAX_BACKLOG: Final = 64 * 1024 * 1024  # bytes that a peer may leave unread
_CHUNK: Final = 64 * 1024
_MAX_FDS: Final = 4
_CREDENTIALS: Final = struct.Struct("3i")
Handler = Callable[[dict[str, Any]], Any]
log = logging.getLogger(__name__)


class RequestError(Exception):
    """A request that cannot be done; `kind` tells programs why."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@contextlib.contextmanager
def _owned(fds: list[int]) -> Iterator[list[int]]:
    """Close fds at the end: who answers a message maps or duplicates what it wants to keep."""
    try:
        yield fds
    finally:
        for fd in fds:
            os.close(fd)


class ManagerLink:
    """Accepts connections and answers requests by the handler of their `op`."""

    def __init__(self, loop: Loop, listener: socket.socket, handlers: Mapping[str, Handler]) -> None:
        """Take over the listening socket."""
        self._loop = loop
        self._listener = listener
        self._handlers = handlers
        self._connections: set[_Connection] = set()
        self.failed = 0  # requests, by a fault of ours
        listener.setblocking(False)
        loop.watch(listener.fileno(), READ, self._accept)

    def close(self) -> None:
        """Close all connections and the listener."""
        for connection in list(self._connections):
            connection.close()
        self._loop.forget(self._listener.fileno())
        self._listener.close()

    def _accept(self, _events: int) -> None:
        try:
            peer, _ = self._listener.accept()
        except OSError:
            return  # gone before we came, or out of fds: it stays in the backlog
        _, uid, _ = _CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        if uid != 0 or len(self._connections) >= MAX_CONNECTIONS:
            peer.close()
            return
        self._connections.add(_Connection(self._loop, peer, self._reply, self._connections.discard))

    def _reply(self, message: dict[str, Any]) -> bytes:
        """Give what is sent in answer to a message, whatever becomes of it."""
        return encode_reply(self._answer(message), lambda reason: self._refused(message, reason))

    def _refused(self, message: dict[str, Any], reason: str) -> None:
        self.failed += 1
        log.error("request %r failed: %s", message.get("op"), reason)

    def _answer(self, message: dict[str, Any]) -> dict[str, Any]:
        reply: dict[str, Any] = {"id": message.get("id")}
        try:
            handler = self._handlers.get(str(message.get("op")))
            if handler is None:
                raise RequestError("unknown-op", f"no operation {message.get('op')!r}")
            reply["result"] = handler(message)
        except RequestError as error:
            reply["error"] = {"message": str(error), "kind": error.kind, "details": {}}
        except Exception as error:
            # Whatever one request does, the next one must still be answered.
            self.failed += 1
            log.exception("request %r failed", message.get("op"))
            text = f"{type(error).__name__}: {error}".encode(errors="backslashreplace").decode()
            reply["error"] = {"message": text, "kind": "internal", "details": {}}
        return reply


class _Connection:
    """One peer: bytes in, bytes out."""

    def __init__(
        self,
        loop: Loop,
        peer: socket.socket,
        reply: Callable[[dict[str, Any]], bytes],
        closed: Callable[[_Connection], None],
    ) -> None:
        self._loop = loop
        self._peer = peer
        self._reply = reply
        self._closed = closed
        self._decoder = Decoder()
        self._fds: list[int] = []  # came, and belong to messages that are not complete
        self._output = bytearray()
        peer.setblocking(False)
        loop.watch(peer.fileno(), READ, self._ready)

    def close(self) -> None:
        """Close it."""
        self._loop.forget(self._peer.fileno())
        self._peer.close()
        for fd in self._fds:
            os.close(fd)
        self._fds = []
        self._closed(self)

    def _ready(self, events: int) -> None:
        try:
            if events & WRITE:
                self._flush()
            if events & READ:
                self._receive()
        except BlockingIOError:
            return
        except (OSError, FrameError) as error:
            log.debug("connection closed: %s", error)
            self.close()

    def _receive(self) -> None:
        data, fds, _flags, _address = socket.recv_fds(self._peer, _CHUNK, _MAX_FDS)
        self._fds += fds
        if not data:
            self.close()
            return
        for message in self._decoder.feed(data):
            count = message.get("fds", 0)
            with _owned(self._fds[:count] if isinstance(count, int) and count > 0 else []) as message["fds"]:
                self._fds = self._fds[len(message["fds"]) :]
                self._output += self._reply(message)
            if len(self._output) > MAX_BACKLOG:
                raise FrameError("the peer does not read its answers")
        self._flush()

    def _flush(self) -> None:
        if self._output:
            try:
                sent = self._peer.send(self._output)
            except BlockingIOError:
                sent = 0
            del self._output[:sent]
        self._loop.watch(self._peer.fileno(), READ | WRITE if self._output else READ, self._ready)
