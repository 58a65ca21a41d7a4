"""Connections to a forwarder, for calls about sockets (vr/NAME.sock).

Each call takes a connection for itself and gives it back, so that one which waits for a peer to answer keeps no
other thread from its own.  Connections are made when they are needed and made anew when a forwarder was replaced:
the listening socket outlives it, and a request that finds none waits there for the successor.  Thread-safe; a child
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
from collections.abc import Iterator
from typing import Final

from rsock.client_core import Message, ProtocolError, Requests, parse_record
from rsock.errors import VRDown, error_of
from rsock.wire import MAX_MESSAGE, Flag, Op

_FDS: Final = socket.CMSG_SPACE(16)
_HINT: Final = 0.1  # seconds
_IDLE: Final = 4  # connections that are kept
_WAITING: Final = 16  # calls at once that may have a connection for long
# BlockingIOError: the listener's backlog is full, which passes.
_DEAD: Final = (BrokenPipeError, ConnectionResetError, ConnectionRefusedError, FileNotFoundError, BlockingIOError)


class _Connection:
    """One of them: a request, and its reply."""

    def __init__(self, path: str, timeout: float) -> None:
        self._timeout = timeout
        self._peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._peer.settimeout(timeout)
            self._peer.connect(path)
        except BaseException:
            self._peer.close()
            raise

    def close(self) -> None:
        """Close it, and take back what was asked and is not answered."""
        self._peer.close()

    def send(self, record: bytes, deadline: float) -> None:
        """Send a record."""
        try:
            os.write(self._peer.fileno(), record)  # as a rule there is room
        except BlockingIOError:
            self._until(deadline)
            self._peer.send(record)

    def receive(self, number: int, deadline: float) -> tuple[Message, list[int]]:
        """Wait for the reply to a request; what else comes is late and is dropped."""
        while True:
            self._until(deadline)
            data, ancillary, _flags, _address = self._peer.recvmsg(MAX_MESSAGE, _FDS, socket.MSG_CMSG_CLOEXEC)
            fds = _collect(ancillary) if ancillary else []
            try:
                if not data:
                    raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
                message = parse_record(data)
            except BaseException:
                _close_all(fds)
                raise
            if message.is_reply and message.request == number:
                return message, fds
            _close_all(fds)

    def _until(self, deadline: float) -> None:
        left = max(deadline - time.monotonic(), 0.001)
        # A system call each; that a wait ends some percent late does no harm.
        if not left <= self._timeout <= left * 1.05:
            self._timeout = left
            self._peer.settimeout(left)


class Link:
    """Requests and replies."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._idle: list[_Connection] = []
        self._requests = Requests()
        self._requests.session = int.from_bytes(os.urandom(4)) | 1  # by it a forwarder knows a repetition
        self._waits = threading.BoundedSemaphore(_WAITING)

    @property
    def path(self) -> str:
        """Give where the forwarder listens."""
        return self._path

    def call(self, op: Op, body: bytes = b"", *, slot: int = 0, cookie: int = 0, timeout: float) -> bytes:
        """Ask; give the body of the reply.  Raises OSError with the errno of the answer."""
        reply, fds = self._exchange(op, body, slot, cookie, timeout)
        _close_all(fds)
        return reply

    def call_fd(self, op: Op, body: bytes, *, timeout: float) -> tuple[bytes, int]:
        """Ask for something that comes with one fd, which becomes the caller's."""
        return _one_fd(*self._exchange(op, body, 0, 0, timeout))

    @contextlib.contextmanager
    def waiting(self) -> Iterator[bool]:
        """Tell whether a request with Flag.WAIT may be sent now: each has a connection for itself until it ends."""
        may = self._waits.acquire(blocking=False)
        try:
            yield may
        finally:
            if may:
                self._waits.release()

    def wait(self, op: Op, body: bytes, *, slot: int = 0, cookie: int = 0, timeout: float) -> bytes:
        """Ask for what takes its time.

        It is not repeated where the forwarder has gone meanwhile, since whatever it has done is gone too, and taken
        back where the time is up.
        """
        reply, fds = self._exchange(op, body, slot, cookie, timeout, Flag.WAIT)
        _close_all(fds)
        return reply

    def wait_fd(self, op: Op, body: bytes, *, timeout: float) -> tuple[bytes, int]:
        """Ask for what takes its time, and comes with one fd; see `wait`."""
        return _one_fd(*self._exchange(op, body, 0, 0, timeout, Flag.WAIT))

    def hint(self, op: Op, *, slot: int, cookie: int) -> None:
        """Tell something that does not matter much: never waits for long, whatever state this is in."""
        try:
            connection = self._idle.pop()
        except IndexError:
            return
        number, header = self._requests.header(op, slot, cookie)
        deadline = time.monotonic() + _HINT
        try:
            connection.send(header, deadline)
            _message, fds = connection.receive(number, deadline)
        except (OSError, ProtocolError):
            connection.close()
        else:
            _close_all(fds)
            self._idle.append(connection)

    def close(self) -> None:
        """Close the connections; a later call makes another."""
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close()

    def _exchange(
        self, op: Op, body: bytes, slot: int, cookie: int, timeout: float, flags: int = 0
    ) -> tuple[bytes, list[int]]:  # fmt: skip
        number, header = self._requests.header(op, slot, cookie, flags)
        deadline = time.monotonic() + timeout
        while True:
            try:
                message, fds = self._attempt(number, header + body, deadline, repeatable=not flags)
                break
            except (*_DEAD, ProtocolError) as error:
                # Without a listener the VR is stopped; with one, its forwarder is just being replaced.
                if isinstance(error, FileNotFoundError | ConnectionRefusedError):
                    raise VRDown(errno.ENETDOWN, os.strerror(errno.ENETDOWN)) from None
                if time.monotonic() >= deadline:
                    raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from None
                time.sleep(0.001)
            except TimeoutError:
                raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from None
        if message.error:
            _close_all(fds)
            raise error_of(message.error)
        return message.body, fds

    def _attempt(self, number: int, record: bytes, deadline: float, *, repeatable: bool) -> tuple[Message, list[int]]:
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = _Connection(self._path, max(deadline - time.monotonic(), 0.001))
        try:
            connection.send(record, deadline)
            try:
                answer = connection.receive(number, deadline)
            except _DEAD:
                if repeatable:
                    raise
                raise ConnectionAbortedError(errno.ECONNABORTED, os.strerror(errno.ECONNABORTED)) from None
        except BaseException:
            connection.close()
            raise
        if len(self._idle) < _IDLE:
            self._idle.append(connection)
        else:
            connection.close()
        return answer


def _one_fd(reply: bytes, fds: list[int]) -> tuple[bytes, int]:
    if not fds:
        raise OSError(errno.EPROTO, os.strerror(errno.EPROTO))
    _close_all(fds[1:])
    return reply, fds[0]


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """Take the fds out of what recvmsg gave, closed on exec."""
    fds = _collect(ancillary)
    for fd in fds:
        os.set_inheritable(fd, False)
    return fds


def _collect(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)
