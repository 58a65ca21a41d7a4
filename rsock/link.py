"""One connection to a forwarder, for calls about sockets (vr/NAME.sock).

Connections are made when they are needed and made anew when a forwarder was replaced: the listening
socket outlives it, and a request that finds none waits there for the successor.  Thread-safe; a child
after fork makes its own (client keeps links by pid).
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import socket
import threading
import time
from typing import Final

from rsock.client_core import Message, ProtocolError, Requests, parse_record
from rsock.errors import VRDown, error_of
from rsock.wire import Op

_ROOM: Final = 12288
_HINT: Final = 0.1  # seconds
# BlockingIOError: the listener's backlog is full, which passes.
_DEAD: Final = (BrokenPipeError, ConnectionResetError, ConnectionRefusedError, FileNotFoundError, BlockingIOError)


class Link:
    """Requests and replies, one at a time."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._peer: socket.socket | None = None
        self._requests = Requests()

    def call(self, op: Op, body: bytes = b"", *, slot: int = 0, cookie: int = 0, timeout: float) -> bytes:
        """Ask; give the body of the reply.  Raises OSError with the errno of the answer."""
        reply, fds = self._exchange(op, body, slot, cookie, timeout)
        for fd in fds:
            os.close(fd)
        return reply

    def call_fd(self, op: Op, body: bytes, *, timeout: float) -> tuple[bytes, int]:
        """Ask for something that comes with one fd, which becomes the caller's."""
        reply, fds = self._exchange(op, body, 0, 0, timeout)
        for fd in fds[1:]:
            os.close(fd)
        if not fds:
            raise OSError(errno.EPROTO, os.strerror(errno.EPROTO))
        return reply, fds[0]

    def hint(self, op: Op, *, slot: int, cookie: int) -> None:
        """Tell something that does not matter much: never waits for long, whatever state this is in."""
        if self._peer is None or not self._lock.acquire(blocking=False):
            return
        try:
            number, header = self._requests.header(op, slot, cookie)
            with contextlib.suppress(OSError, ProtocolError):
                _message, fds = self._attempt(number, header, time.monotonic() + _HINT)
                for fd in fds:
                    os.close(fd)
        finally:
            self._lock.release()

    def close(self) -> None:
        """Close the connection; a later call makes another."""
        if self._peer is not None:
            self._peer.close()
            self._peer = None

    def _exchange(self, op: Op, body: bytes, slot: int, cookie: int, timeout: float) -> tuple[bytes, list[int]]:
        number, header = self._requests.header(op, slot, cookie)
        deadline = time.monotonic() + timeout
        with self._lock:
            while True:
                try:
                    message, fds = self._attempt(number, header + body, deadline)
                    break
                except (*_DEAD, ProtocolError) as error:
                    self.close()
                    # Without a listener the VR is stopped; with one, its forwarder is just being replaced.
                    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
                        raise VRDown(errno.ENETDOWN, os.strerror(errno.ENETDOWN)) from None
                    if time.monotonic() >= deadline:
                        raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from None
                    time.sleep(0.001)
                except TimeoutError:
                    self.close()
                    raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from None
        if message.error:
            for fd in fds:
                os.close(fd)
            raise error_of(message.error)
        return message.body, fds

    def _attempt(self, number: int, record: bytes, deadline: float) -> tuple[Message, list[int]]:
        peer = self._connected(deadline)
        peer.settimeout(max(deadline - time.monotonic(), 0.001))
        peer.send(record)
        while True:
            peer.settimeout(max(deadline - time.monotonic(), 0.001))
            data, ancillary, _flags, _address = peer.recvmsg(_ROOM, socket.CMSG_SPACE(16))
            fds = _descriptors(ancillary)
            try:
                if not data:
                    raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
                message = parse_record(data)
            except BaseException:
                for fd in fds:
                    os.close(fd)
                raise
            if message.is_reply and message.request == number:
                return message, fds
            for fd in fds:
                os.close(fd)

    def _connected(self, deadline: float) -> socket.socket:
        if self._peer is None:
            peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with contextlib.ExitStack() as cleanup:
                cleanup.callback(peer.close)
                peer.settimeout(max(deadline - time.monotonic(), 0.001))
                peer.connect(self._path)
                cleanup.pop_all()
            self._peer = peer
        return self._peer


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    for fd in fds:
        os.set_inheritable(fd, False)
    return list(fds)
