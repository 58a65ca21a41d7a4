"""One socket of an app on another host: here it is a local app's, and this is that app.

    forwarder <--fd--> Stream, Datagrams <--messages--> the pump at the app's host, which holds the fd of the app

Reading stops where the app's host gave no more credit, so TCP's window closes, and datagrams are lost where they
are counted: in the forwarder.  What came from the app's host and does not fit into the fd waits here, within the
credit that we gave.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Final

from rsock.client_core import (
    ProtocolError,
    option_body,
    parse_accepted,
    parse_connected,
    parse_opened,
    parse_option,
)
from rsock.poll import look
from rsock.relay.forwarder import Done, Forwarder
from rsock.session import ACCEPTS, FRAME, RECORD, Intake, Output, cut_records, join_records, weight
from rsock.wire import STREAM_CONNECTED_BUFFER, STREAM_FULL, Op, layout

if TYPE_CHECKING:
    from rsock.relay.apps import App

_FILLING: Final = bytes(STREAM_FULL)
_NAME: Final = layout("rsock_name")
_FILLER: Final = layout("rsock_filler")
_LISTEN: Final = layout("rsock_listen")
_RESET_BY_CLOSE: Final = option_body(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
_PENDING: Final = option_body(socket.SOL_SOCKET, socket.SO_ERROR, b"", 4)
_RETRY: Final = 0.002
_SMALL: Final = 4096
_OVER: Final = frozenset({errno.EBADF, errno.ENOTCONN})
_CONNECTION: Final = 1 << 31  # in the number of a socket that was accepted


def _no_matter(_error: int, _body: bytes, _fd: int) -> None:
    """Hear an answer that means nothing."""


class Socket:
    """What streams and datagram sockets have in common."""

    kind: ClassVar[int]

    def __init__(self, app: App, number: int, forwarder: Forwarder) -> None:
        self.app, self.number, self.forwarder = app, number, forwarder
        self.slot = self.cookie = 0
        self.fd: socket.socket | None = None
        self.intake, self.output = Intake(), Output()
        self.readable = self.has_turn = False
        self._closing = self._gone = False
        self._queue: deque[memoryview] = deque()

    # --- its life ---

    def opened(self, error: int, body: bytes, fd: int) -> int:
        """Take what the forwarder has opened; give the errno."""
        if error == 0 and fd < 0:
            error = errno.EPROTO
        if error == 0:
            self.slot, _rights, self.cookie = parse_opened(body)
            self.take_fd(fd)
        if error or self._gone:
            self.drop()
        return error

    def take_fd(self, fd: int) -> None:
        """Begin to watch it."""
        self.fd = socket.socket(socket.AF_UNIX, self.kind, 0, fd)
        self.fd.setblocking(False)
        self.app.poll.add(fd, self.on_events)

    def ask(self, op: Op, body: bytes, sequence: int) -> None:
        """Ask the forwarder what the app asks."""
        self._inquire(op, body, lambda error, answer, _fd: self.app.reply(op, sequence, self.number, error, answer))

    def _inquire(self, op: Op, body: bytes = b"", done: Done = _no_matter) -> None:
        """Ask the forwarder about this socket."""
        self.forwarder.ask(op, body, slot=self.slot, cookie=self.cookie, owner=self.app, done=done)

    def close(self, *, reset: bool) -> None:
        """The app has closed it."""
        self._closing = True
        if reset:
            self.abort()
        elif not self._queue:
            self.drop()

    def abort(self) -> None:
        """End it at once, and a connection with a reset."""
        self._queue.clear()
        if self.kind == socket.SOCK_STREAM and self.fd is not None:
            self.app.forget(self)
            self._inquire(Op.SETOPT, _RESET_BY_CLOSE, self._dropped)
        else:
            self.drop()

    def _dropped(self, _error: int, _body: bytes, _fd: int) -> None:
        self.drop()

    def drop(self) -> None:
        """Close the fd and forget it; one that is still being opened goes when it is."""
        self._gone = True
        self.app.forget(self)
        if self.fd is not None:
            self.app.poll.remove(self.fd.fileno())
            self.fd.close()
            self.fd = None

    def failed(self, error: int) -> None:
        """Tell the app that it is over; the fd stays until it closes its own."""
        self.readable = False
        self._queue.clear()
        if self.fd is not None:
            self.app.poll.remove(self.fd.fileno())
        self.app.session.send(Op.RESET, socket=self.number, error=error)
        if self._closing:
            self.drop()

    # --- bytes ---

    def on_events(self, events: int) -> None:
        """Hear from epoll."""
        if events & select.EPOLLOUT and self._queue:
            self.flush()
        if events & (select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR):
            self.readable = True
            self.app.wants_turn(self)

    def allow(self, credit: int) -> None:
        """Take credit from the app's host."""
        self.output.credit = max(self.output.credit, credit)
        if self.readable:
            self.app.wants_turn(self)

    def _used(self, length: int) -> None:
        credit = self.intake.use(length, self.app.window)
        if credit and not self._closing:
            self.app.session.send(Op.CREDIT, socket=self.number, value=credit)

    def _flushed(self) -> None:
        if self._closing and not self._queue:
            self.drop()

    def read(self) -> int:
        """Pass on what one read gives; 0: nothing for now."""
        raise NotImplementedError

    def flush(self) -> None:
        """Write what waits."""
        raise NotImplementedError

    def data(self, payload: bytes, offset: int) -> None:
        """Take bytes from the app's host."""
        raise NotImplementedError

    def request(self, op: Op, body: bytes, sequence: int) -> None:
        """Do what the app asks."""
        self.ask(op, body, sequence)

    def _hung_up(self) -> bool:
        assert self.fd is not None
        return bool(look(self.fd.fileno()) & (select.POLLHUP | select.POLLERR | select.POLLNVAL))


class Stream(Socket):
    """A TCP socket."""

    kind = socket.SOCK_STREAM

    def __init__(self, app: App, number: int, forwarder: Forwarder) -> None:
        super().__init__(app, number, forwarder)
        self._connecting = self._joined = self._listening = False
        self._read_all = False  # the peer's bytes have ended, and the app knows
        self._finishing = self._shut = False
        self._failing = False
        self._backlog = self._accepts = 0
        self._accept_credit = ACCEPTS

    def request(self, op: Op, body: bytes, sequence: int) -> None:
        """Do what the app asks."""
        if op == Op.CONNECT:
            body = body[: _NAME.size] + _FILLER.pack(STREAM_FULL)
            self._ask_then(op, body, sequence, self._on_connect)
        elif op == Op.LISTEN:
            if len(body) != _LISTEN.size:
                raise ProtocolError("LISTEN")
            (self._backlog,) = _LISTEN.unpack(body)
            self._ask_then(op, body, sequence, self._on_listen)
        else:
            super().request(op, body, sequence)

    def _ask_then(self, op: Op, body: bytes, sequence: int, then: Callable[[bytes], None]) -> None:
        def done(error: int, answer: bytes, _fd: int) -> None:
            self.app.reply(op, sequence, self.number, error, answer[: _NAME.size])
            if not error and self.fd is not None:
                then(answer)

        self._inquire(op, body, done)

    # --- connecting ---

    def _on_connect(self, answer: bytes) -> None:
        _names, entrance = parse_connected(answer)
        if not self._joined:
            self._connecting = True
            self._join(entrance)

    def _join(self, entrance: bytes) -> None:
        if self.fd is None:
            return
        try:
            self.fd.connect(entrance)
        except BlockingIOError:  # many connect at once
            self.app.poll.after(_RETRY, lambda: self._join(entrance))
            return
        except OSError:  # that forwarder is gone, and the connection with it
            self.failed(errno.ECONNABORTED)
            return
        self._joined = True
        with contextlib.suppress(OSError):  # it has failed already
            self.fd.send(_FILLING[:-1])
            self.fd.send(_FILLING[-1:])
        self._look_connected()

    def _look_connected(self) -> None:
        assert self.fd is not None
        events = look(self.fd.fileno(), select.POLLOUT)
        if not events:
            return
        self._connecting = False
        if events & (select.POLLHUP | select.POLLERR):
            self._ask_why()
            return
        self.fd.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, STREAM_CONNECTED_BUFFER)
        self.app.session.send(Op.CONNECTED, socket=self.number)
        super().on_events(select.EPOLLIN)

    def _ask_why(self) -> None:
        """Find out what became of a connection whose other end is closed."""
        if self._failing:
            return
        self._failing = True
        self._inquire(Op.GETOPT, _PENDING, self._told_why)

    def _told_why(self, error: int, answer: bytes, _fd: int) -> None:
        if self.fd is None:
            return
        if error == 0:
            error = int.from_bytes(parse_option(answer), "little")
        elif error in _OVER:
            error = 0
        else:
            error = errno.ECONNRESET
        if error or self._read_all:
            self.failed(error)
        else:
            self._end_of_file()

    # --- listening ---

    def _on_listen(self, _answer: bytes) -> None:
        assert self.fd is not None
        self.fd.listen(min(self._backlog, socket.SOMAXCONN))
        self._listening = True
        self.readable = True
        self.app.wants_turn(self)

    def allow(self, credit: int) -> None:
        """Take credit from the app's host."""
        if self._listening:
            self._accept_credit = max(self._accept_credit, credit)
            self.app.wants_turn(self)
        else:
            super().allow(credit)

    def _accept(self) -> int:
        assert self.fd is not None
        if self._accepts >= self._accept_credit or not self.app.may_have_another:
            return 0
        try:
            fd, name = self.fd._accept()  # type: ignore[attr-defined] # noqa: SLF001 - the kernel's, not in typeshed
        except OSError:
            self.readable = False
            return 0
        made = socket.socket(fileno=fd)
        accepted = parse_accepted(name)
        if accepted is None:
            made.close()  # another app of this VR, not a connection
            return 1
        self._accepts += 1
        stream = Stream(self.app, self.app.next_connection() | _CONNECTION, self.forwarder)
        stream.slot, stream.cookie, stream._joined = accepted.slot, accepted.nonce, True
        self.app.enter(stream)
        self.app.session.send(Op.ACCEPT, name, socket=stream.number, value=self.number)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, STREAM_CONNECTED_BUFFER)
        stream.take_fd(made.detach())
        return FRAME // 16  # what the work weighs

    # --- bytes ---

    def on_events(self, events: int) -> None:
        """Hear from epoll."""
        if self._connecting:
            if self._joined:
                self._look_connected()
        elif self._joined or self._listening:
            super().on_events(events)

    def read(self) -> int:
        """Pass on what one read gives; 0: nothing for now."""
        if self.fd is None or self._failing:
            return 0
        if self._listening:
            return self._accept()
        room = min(FRAME, self.output.room)
        if room <= 0 and not self._hung_up():
            return 0
        try:
            data = self.fd.recv(max(room, 1), 0 if room > 0 else socket.MSG_PEEK)
        except BlockingIOError:
            self.readable = False
            return 0
        except OSError as problem:
            self.failed(problem.errno or errno.ECONNRESET)
            return 0
        if data and room <= 0:
            return 0  # it has hung up, but not all is read
        if not data:
            self._ended()
            return 0
        self.app.session.send(Op.DATA, data, socket=self.number, value=self.output.sent)
        self.output.sent += len(data)
        return len(data)

    def _ended(self) -> None:
        self.readable = False
        if not self._hung_up():
            self._end_of_file()
        elif not (self._read_all and self._shut):
            self._ask_why()

    def _end_of_file(self) -> None:
        self._failing = False
        if not self._read_all:
            self._read_all = True
            self.app.session.send(Op.END, socket=self.number)

    def data(self, payload: bytes, offset: int) -> None:
        """Take bytes from the app's host."""
        self.intake.take(offset, len(payload))
        if self.fd is None or self._failing or not self._joined:
            return
        queue = self._queue
        if queue and len(queue[-1]) < _SMALL and len(payload) < _SMALL:  # each piece has its price
            queue[-1] = memoryview(bytes(queue[-1]) + payload)
        else:
            queue.append(memoryview(payload))
        if len(queue) == 1:
            self.flush()

    def end(self) -> None:
        """The app has no more bytes."""
        self._finishing = True
        self.flush()

    def flush(self) -> None:
        """Write what waits."""
        queue = self._queue
        while queue and self.fd is not None:
            try:
                sent = self.fd.send(queue[0])
            except BlockingIOError:
                return
            except OSError:
                queue.clear()
                self._ask_why()
                break
            if sent == len(queue[0]):
                queue.popleft()
            else:
                queue[0] = queue[0][sent:]
            self._used(sent)
        if self._finishing and not self._shut and self.fd is not None and not self._closing:
            self._shut = True
            with contextlib.suppress(OSError):
                self.fd.shutdown(socket.SHUT_WR)
        self._flushed()

    def drop(self) -> None:
        """Close the fd and forget it."""
        alone = self.fd is not None and not self._joined
        super().drop()
        if alone:  # nothing else tells the forwarder at once
            self._inquire(Op.CLOSE)


class Datagrams(Socket):
    """A datagram or raw socket: records pass as they are."""

    kind = socket.SOCK_SEQPACKET

    def request(self, op: Op, body: bytes, sequence: int) -> None:
        """Do what the app asks."""
        if op != Op.CONNECT:
            super().request(op, body, sequence)
            return

        def done(error: int, answer: bytes, _fd: int) -> None:
            if not error:
                self._discard()
            self.app.reply(op, sequence, self.number, error, answer)

        self.flush()
        self.app.lost += len(self._queue)
        self._queue.clear()  # they have the other form
        self._inquire(op, body[: _NAME.size], done)  # nothing is to be marked: it is discarded

    def _discard(self) -> None:
        """Drop what was received before connect: it has the other form."""
        with contextlib.suppress(OSError):
            while self.fd is not None and self.fd.recv(1):
                pass

    def read(self) -> int:
        """Pass on what one read gives; 0: nothing for now."""
        records: list[bytes] = []
        size = 0
        while self.fd is not None and size < FRAME and self.output.room > size:
            try:
                record = self.fd.recv(RECORD)
            except BlockingIOError:
                self.readable = False
                break
            except OSError:
                record = b""
            if not record and self._hung_up():
                self._send(records, size)
                self.failed(errno.ENETDOWN)
                return 0
            records.append(record)
            size += weight((record,))
        self._send(records, size)
        return size

    def _send(self, records: list[bytes], size: int) -> None:
        if records:
            self.app.session.send(Op.DATA, join_records(records), socket=self.number, value=self.output.sent)
            self.output.sent += size

    def data(self, payload: bytes, offset: int) -> None:
        """Take records from the app's host."""
        records = cut_records(payload)
        self.intake.take(offset, weight(records), RECORD)
        self._queue.extend(records)
        self.flush()

    def flush(self) -> None:
        """Write what waits."""
        queue = self._queue
        while queue and self.fd is not None:
            try:
                self.fd.send(queue[0])
            except BlockingIOError:
                return
            except OSError:  # too long for a record, or over
                self.app.lost += 1
            self._used(weight((queue.popleft(),)))
        self._flushed()
