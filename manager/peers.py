"""Connections of the manager to the processes of a VR.  They never block: a VR may be hostile or hung.

    ForwarderPeer  vr/NAME.sock       SEQPACKET, rsock.wire          ports, liveness, adoption
    ControlPeer    control/NAME.sock  STREAM, vrouter.api.messages   configuration, links, liveness

Both connect to a listener whose fd the manager holds, so connecting never fails while a VR restarts;
the first answer tells that the new process serves.
"""

from __future__ import annotations

import array
import contextlib
import itertools
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from manager.reactor import READ, WRITE, Reactor
from rsock.wire import HEADER, MAGIC, Flag, Op, layout
from vrouter.api import messages

MAX_RECORD: Final = 1 << 17
MAX_FDS: Final = 16
_LIMIT: Final = 256  # requests or frames that wait: more, and the peer is taken for hung
_BURST: Final = 64  # records of one VR in a row, before others have their turn
_PORT: Final = layout("rsock_port")

Answer = Callable[[int, bytes, bool], None]  # errno, body, more follow
Result = Callable[[Any, str | None], None]  # result, error


def peer_pid(connection: socket.socket) -> int:
    """Give the pid of the process at the other end, from the kernel."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int(struct.unpack("iII", credentials)[0])


class _Peer:
    """What both have in common: a socket, what waits to be sent, and word of its end."""

    def __init__(self, reactor: Reactor, kind: int, path: Path, lost: Callable[[], None]) -> None:
        self._reactor = reactor
        self._lost = lost
        self._queue: list[tuple[bytes, list[int]]] = []
        self._socket = socket.socket(socket.AF_UNIX, kind)
        self._socket.setblocking(False)
        self.closed = False
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            self.closed = True
            raise
        reactor.add(self._socket.fileno(), READ, self._on_ready)

    def close(self) -> None:
        """Close; nothing is called back any more."""
        if self.closed:
            return
        self.closed = True
        self._reactor.remove(self._socket.fileno())
        self._socket.close()
        for _data, fds in self._queue:
            for fd in fds:
                os.close(fd)
        self._queue.clear()

    def _transmit(self, data: bytes, fds: list[int]) -> None:
        self._queue.append((data, [os.dup(fd) for fd in fds]))
        self._flush()

    def _flush(self) -> None:
        while self._queue:
            data, fds = self._queue[0]
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            try:
                sent = self._socket.sendmsg([data], rights)
            except BlockingIOError:
                break
            except OSError:
                self._fail()
                return
            for fd in fds:
                os.close(fd)
            if sent < len(data):
                self._queue[0] = (data[sent:], [])
            else:
                self._queue.pop(0)
        if not self.closed:
            self._reactor.modify(self._socket.fileno(), READ | WRITE if self._queue else READ, self._on_ready)

    def _on_ready(self) -> None:
        if self._queue:
            self._flush()
        if not self.closed:
            self._receive()

    def _receive(self) -> None:
        raise NotImplementedError

    def _fail(self) -> None:
        self.close()
        self._lost()


class ForwarderPeer(_Peer):
    """The manager's connection to a forwarder."""

    def __init__(self, reactor: Reactor, path: Path, lost: Callable[[], None]) -> None:
        super().__init__(reactor, socket.SOCK_SEQPACKET, path, lost)
        self._numbers = itertools.count(1)
        self._answers: dict[int, Answer] = {}

    @property
    def pid(self) -> int:
        """Give who listens: the process that made the listener, or that last listened."""
        return peer_pid(self._socket)

    def request(self, op: Op, body: bytes = b"", fds: list[int] | None = None, answer: Answer | None = None) -> None:
        """Send a request; the fds stay ours."""
        if self.closed:
            return
        number = next(self._numbers)
        if len(self._answers) >= _LIMIT:
            self._fail()
            return
        self._answers[number] = answer or (lambda _error, _body, _more: None)
        self._transmit(HEADER.pack(MAGIC, op, 0, 0, number, 0, 0, 0) + body, fds or [])

    def port_link(self, port: int, link_up: bool, mtu: int) -> None:
        """Tell the state of a port's link."""
        self.request(Op.PORT_LINK, _PORT.pack(port, link_up, mtu))

    def port_remove(self, port: int) -> None:
        """Take a port away."""
        self.request(Op.PORT_REMOVE, _PORT.pack(port, 0, 0))

    def _receive(self) -> None:
        for _turn in range(_BURST):
            if self.closed:
                return
            try:
                data, fds, _flags, _address = socket.recv_fds(self._socket, MAX_RECORD, MAX_FDS)
            except BlockingIOError:
                return
            except OSError:
                data, fds = b"", []
            if len(data) < HEADER.size:
                for fd in fds:
                    os.close(fd)
                self._fail()
                return
            magic, _op, flags, _session, number, _slot, error, _cookie = HEADER.unpack_from(data)
            answer = self._answers.get(number)
            for fd in fds:  # only who adopts is given any, over a connection of its own
                os.close(fd)
            if magic != MAGIC or answer is None:
                continue
            more = bool(flags & Flag.MORE)
            if not more:
                del self._answers[number]
            answer(error if flags & Flag.ERROR else 0, data[HEADER.size :], more)


class ControlPeer(_Peer):
    """The manager's connection to a control."""

    def __init__(self, reactor: Reactor, path: Path, lost: Callable[[], None]) -> None:
        super().__init__(reactor, socket.SOCK_STREAM, path, lost)
        self._numbers = itertools.count(1)
        self._results: dict[int, Result] = {}
        self._decoder = messages.Decoder()

    def request(
        self, op: messages.ControlOp, result: Result | None = None, *, fds: list[int] | None = None, **fields: Any
    ) -> None:
        """Send a request, with fds that stay ours; `result` is called with its reply."""
        if self.closed:
            return
        if len(self._results) >= _LIMIT:
            self._fail()
            return
        number = next(self._numbers)
        self._results[number] = result or (lambda _result, _error: None)
        if fds:
            fields["fds"] = len(fds)
        self._transmit(messages.encode({"op": str(op), "id": number, **fields}), fds or [])

    def _receive(self) -> None:
        try:
            data = self._socket.recv(1 << 16)
            replies = self._decoder.feed(data) if data else None
        except BlockingIOError:
            return
        except (OSError, messages.FrameError):
            replies = None
        if replies is None:
            self._fail()
            return
        for reply in replies:
            number = reply.get("id")
            result = self._results.pop(number, None) if isinstance(number, int) else None
            if result is not None:
                error = reply.get("error")
                text = str(error.get("message", error)) if isinstance(error, dict) else str(error) if error else None
                result(reply.get("result"), text)


def listen(path: Path, kind: int, mode: int) -> socket.socket:
    """Make a listener with a path; a stale one of a dead run is replaced."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, kind)
    listener.setblocking(False)
    old = os.umask(0o777 & ~mode)
    try:
        listener.bind(str(path))
    finally:
        os.umask(old)
    listener.listen(512)
    return listener
