"""Where an app's requests about the sockets of one VR are taken: to `rsock.link` it is a forwarder."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from rsock.remote.ends import Datagrams, Stream, peer_is_ours
from rsock.wire import HEADER, MAGIC, MAX_MESSAGE, Flag, Op, layout

if TYPE_CHECKING:
    from rsock.remote.ends import End
    from rsock.remote.pump import Pump

_BACKLOG: Final = 64
_OPEN: Final = layout("rsock_open")
_OPENED: Final = layout("rsock_opened")
_OPTION: Final = layout("rsock_option")
_FILLER: Final = layout("rsock_filler")
_NAME: Final = layout("rsock_name")
_RESOLVED_PROOF: Final = struct.Struct("<QI")  # of rsock_resolved
_ALL_RIGHTS: Final = 31
_RELAYED: Final = frozenset({Op.BIND, Op.LISTEN, Op.CONNECT, Op.SETOPT, Op.GETOPT, Op.NAME, Op.RESOLVE})


class Caller:
    """One connection of the app's to the desk."""

    def __init__(self, desk: Desk, peer: socket.socket) -> None:
        self._desk = desk
        self.peer: socket.socket | None = peer
        self.left: Callable[[], None] = lambda: None
        peer.setblocking(False)
        desk.pump.poll.add(peer.fileno(), self._on_events, select.EPOLLIN)

    def close(self) -> None:
        """Close it."""
        if self.peer is not None:
            self._desk.pump.poll.remove(self.peer.fileno())
            self.peer.close()
            self.peer = None
            self._desk.callers.discard(self)
            self.left()

    def reply(self, record: bytes, error: int, body: bytes = b"", fds: tuple[int, ...] = ()) -> bool:
        """Answer; False: nobody is there any more."""
        if self.peer is None:
            return False
        _magic, op, _flags, _session, number, slot, _error, cookie = HEADER.unpack_from(record)
        flags = Flag.REPLY | (Flag.ERROR if error else 0)
        header = HEADER.pack(MAGIC, op, flags, 0, number, slot, error, cookie)
        try:
            socket.send_fds(self.peer, [header, b"" if error else body], fds)
        except OSError:
            self.close()
            return False
        return True

    def _on_events(self, _events: int) -> None:
        try:
            record = self.peer.recv(MAX_MESSAGE) if self.peer is not None else b""
        except BlockingIOError:
            return
        except OSError:
            record = b""
        if len(record) < HEADER.size or HEADER.unpack_from(record)[0] != MAGIC:
            self.close()
        else:
            self._desk.take(self, record)


class Desk:
    """The listening socket of one VR."""

    def __init__(self, pump: Pump, vr: str, path: str) -> None:
        self.pump, self._vr = pump, vr
        self.callers: set[Caller] = set()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self._listener.bind(path)
        self._listener.listen(_BACKLOG)
        pump.poll.add(self._listener.fileno(), lambda _events: self._accept(), select.EPOLLIN)

    def abandon(self) -> None:
        """In a child of fork: close the fds, and touch nothing that is shared."""
        self._listener.close()
        for caller in self.callers:
            if caller.peer is not None:
                caller.peer.close()

    def close(self) -> None:
        """Close all of it."""
        self.pump.poll.remove(self._listener.fileno())
        self._listener.close()
        for caller in list(self.callers):
            caller.close()

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            made, _name = self._listener.accept()
            if peer_is_ours(made):
                self.callers.add(Caller(self, made))
            else:
                made.close()

    def take(self, caller: Caller, record: bytes) -> None:
        """Serve a request."""
        _magic, op, _flags, _session, _number, slot, _error, cookie = HEADER.unpack_from(record)
        body = record[HEADER.size :]
        end = self.pump.ends.get(slot)
        if op == Op.OPEN:
            self._open(caller, record, body)
        elif end is None or end.cookie != cookie:
            caller.reply(record, self.pump.epitaph(cookie))
        elif op == Op.CLOSE:  # a hint
            if isinstance(end, Stream):
                end.look()
            caller.reply(record, 0)
        elif op not in _RELAYED:
            caller.reply(record, errno.EOPNOTSUPP)
        elif isinstance(end, Stream) and self._here(caller, record, end, op, body):
            return
        else:
            self._pass_on(caller, record, end, Op(op), body)

    def _here(self, caller: Caller, record: bytes, end: Stream, op: int, body: bytes) -> bool:
        """Answer what only we know: what became of the connection."""
        if op == Op.GETOPT and len(body) >= _OPTION.size:
            level, name, _room = _OPTION.unpack_from(body)
            if (level, name) == (socket.SOL_SOCKET, socket.SO_ERROR):
                pending, end.pending = end.pending, 0
                caller.reply(record, 0, _OPTION.pack(level, name, 4) + pending.to_bytes(4, "little"))
                return True
        if op == Op.CONNECT and end.over:
            caller.reply(record, errno.ECONNABORTED)
            return True
        return False

    def _pass_on(self, caller: Caller, record: bytes, end: End, op: Op, body: bytes) -> None:
        flags = HEADER.unpack_from(record)[2]
        was_connecting = isinstance(end, Stream) and end.connecting
        if op == Op.CONNECT and isinstance(end, Stream):
            if len(body) >= _NAME.size + _FILLER.size and not was_connecting:
                (end.skip,) = _FILLER.unpack_from(body, _NAME.size)
            end.connecting = True  # whatever becomes of it
        elif op == Op.CONNECT:
            body = body[: _NAME.size]  # what came before it is here already, and cannot be given back
            while end.pull():  # it was written for the old state
                pass

        def done(error: int, answer: bytes) -> None:
            if isinstance(end, Stream) and op == Op.CONNECT:
                end.connecting = was_connecting or not error
                answer += self.pump.entrance
            elif isinstance(end, Stream) and op == Op.LISTEN and not error:
                end.listening = True
            elif op == Op.RESOLVE:
                answer = _RESOLVED_PROOF.pack(end.cookie, end.slot) + answer[_RESOLVED_PROOF.size :]
            if isinstance(end, Stream) and op == Op.CONNECT and not error and flags & Flag.WAIT:
                self._wait(caller, record, end, answer)
            else:
                caller.reply(record, error, answer)

        self.pump.ask(op, body, end, done)

    @staticmethod
    def _wait(caller: Caller, record: bytes, end: Stream, answer: bytes) -> None:
        """Answer when it is connected; one who has gone meanwhile has taken back what he asked."""

        def told(error: int) -> None:
            if not caller.reply(record, error, answer):
                end.abandon()

        caller.left = lambda: end.abandon() if end.told is told else None
        end.told = told
        if caller.peer is None:
            end.abandon()
        elif end.connected or end.over:
            end.told = None
            told(end.pending if end.over else 0)

    def _open(self, caller: Caller, record: bytes, body: bytes) -> None:
        from rsock.remote.pump import relayed  # noqa: PLC0415 - desks belong to pumps

        if len(body) < _OPEN.size:
            caller.reply(record, errno.EINVAL)
            return
        family, kind, _protocol, _reserved, _token = _OPEN.unpack_from(body)
        slot = self.pump.new_slot()
        made: End
        if kind == socket.SOCK_STREAM:
            made = Stream(self.pump, self._vr, family, slot)
        else:
            made = Datagrams(self.pump, self._vr, family, slot, raw=kind == socket.SOCK_RAW)
        made.recipe.open = body[: _OPEN.size + 15]
        self.pump.enter(made)

        def done(error: int, _answer: bytes) -> None:
            if error:
                self.pump.forget(made)
                caller.reply(record, error)
                return
            try:
                app = made.make()
            except OSError as problem:
                made.close()
                caller.reply(record, problem.errno or errno.ENFILE)
                return
            with app:
                opened = _OPENED.pack(made.slot, _ALL_RIGHTS, made.cookie)
                there = caller.reply(record, 0, opened, (app.fileno(),))
            if not there:
                made.close()

        self.pump.ask(Op.OPEN, relayed(self._vr, made.recipe.open), made, done)
