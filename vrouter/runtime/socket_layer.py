"""Requests to the VR's socket layer (vr/NAME.sock) that wait for nothing: each is answered by a callback.

The messages are those of any app (rsock/wire.py).  While no forwarder runs, requests wait for the next one, and what
a forwarder took and did not answer is asked of its successor again under the same number, so that it is done once.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from rsock.client_core import ProtocolError, parse_record
from rsock.link import descriptors
from rsock.wire import HEADER, MAGIC, MAX_MESSAGE, Op
from vrouter.runtime.loop import READ, WRITE, Loop

_FDS: Final = socket.CMSG_SPACE(16)
_FIRST_RETRY: Final = 0.002
_LAST_RETRY: Final = 0.1
Done = Callable[[int, bytes, list[int]], None]  # errno, body, fds, which become the callee's
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Request:
    record: bytes
    done: Done


class SocketLayer:
    """One connection to the forwarder, made anew for ever once it is needed."""

    def __init__(self, loop: Loop, path: str | bytes) -> None:
        """`path` is an address of AF_UNIX."""
        self._loop = loop
        self._path = path
        self._peer: socket.socket | None = None
        self._numbers = itertools.count(1)
        self._session = int.from_bytes(os.urandom(4)) | 1  # by it a forwarder knows a repetition
        self._asked: dict[int, _Request] = {}
        self._unsent: deque[int] = deque()
        self._retry = _FIRST_RETRY
        self._open = False
        self.generation = 0  # counts the forwarders that went away

    def call(self, op: Op, body: bytes, done: Done, *, slot: int = 0, cookie: int = 0) -> None:
        """Ask; `done` is called later."""
        number = next(self._numbers)
        header = HEADER.pack(MAGIC, op, 0, self._session, number, slot, 0, cookie)
        self._asked[number] = _Request(header + body, done)
        self._unsent.append(number)
        if self._peer is not None:
            self._send()
        elif not self._open:
            self._open = True
            self._connect()

    def close(self) -> None:
        """Forget what was asked."""
        self._open = True  # nothing is begun any more
        self._asked.clear()
        self._unsent.clear()
        self._disconnect()

    def _connect(self) -> None:
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            peer.connect(self._path)
        except OSError as error:
            peer.close()
            log.debug("socket layer: %s", error)
            self._again()
            return
        self._peer = peer
        self._unsent = deque(self._asked)
        self._loop.watch(peer.fileno(), READ, self._ready)
        self._send()

    def _again(self) -> None:
        self._loop.call_later(self._retry, self._connect)
        self._retry = min(2 * self._retry, _LAST_RETRY)

    def _disconnect(self) -> None:
        if self._peer is not None:
            self._loop.forget(self._peer.fileno())
            self._peer.close()
            self._peer = None

    def _ready(self, events: int) -> None:
        try:
            if events & READ:
                self._receive()
        except BlockingIOError:
            pass
        except OSError as error:
            log.info("the forwarder went away: %s", error)
            self.generation += 1
            self._disconnect()
            self._again()
            return
        if events & WRITE:
            self._send()

    def _send(self) -> None:
        """Send what there is room for; that the forwarder has gone is told by reading."""
        if self._peer is None:
            return
        while self._unsent:
            request = self._asked.get(self._unsent[0])
            if request is not None:
                try:
                    self._peer.send(request.record)
                except OSError:
                    break
            self._unsent.popleft()
        self._loop.watch(self._peer.fileno(), READ | WRITE if self._unsent else READ, self._ready)

    def _receive(self) -> None:
        while self._peer is not None:
            data, ancillary, _flags, _ = self._peer.recvmsg(MAX_MESSAGE, _FDS, socket.MSG_CMSG_CLOEXEC)
            fds = descriptors(ancillary) if ancillary else []
            if not data:
                raise ConnectionResetError(errno.ECONNRESET, "end of file")
            self._retry = _FIRST_RETRY
            self._take(data, fds)

    def _take(self, data: bytes, fds: list[int]) -> None:
        try:
            message = parse_record(data)
        except ProtocolError:
            message = None
        request = self._asked.pop(message.request, None) if message is not None and message.is_reply else None
        if message is None or request is None:
            for fd in fds:
                os.close(fd)
            return
        request.done(message.error, message.body, fds)
