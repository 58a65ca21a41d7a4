"""The app on another host, as long as its session lasts: its requests, its sockets, its share of the relay.

A session is resumed by who has its key and knows its token.  Without a word for the lease it ends, and so do its
sockets: connections with a reset.
"""

from __future__ import annotations

import errno
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

import msgpack

from rsock.client_core import ProtocolError, unpack_map
from rsock.poll import Poll
from rsock.relay.directory import Directory
from rsock.relay.forwarder import Forwarder
from rsock.relay.sockets import Datagrams, Socket, Stream
from rsock.session import CREDIT, FIRST_CREDIT, MESSAGES, Session
from rsock.wire import Flag, Op, layout

SOCKETS_PER_KEY: Final = 4096
SESSIONS_PER_KEY: Final = 64
REQUESTS: Final = 1024  # of one app that wait for a forwarder
WINDOWS: Final = 32 << 20  # of all sockets of one app together
_LEAST_WINDOW: Final = 16 << 10
_STREAM: Final = 1
_RELAYED: Final = layout("rsock_relayed")
_OPEN: Final = layout("rsock_open")
_IDENTITY: Final = layout("rsock_identity")
_CURVE: Final = 3  # enum rule_identity
_APP_NAME: Final = 15
_RESOLVED_PROOF: Final = 12  # cookie and slot, which are the relay's
_MAX_BODY: Final = 9000
_OURS: Final = 1 << 31
_TO_FORWARDER: Final = frozenset({Op.BIND, Op.LISTEN, Op.CONNECT, Op.SETOPT, Op.GETOPT, Op.NAME, Op.RESOLVE})


@dataclass
class House:
    """What all apps share."""

    poll: Poll
    directory: Directory
    epoch: int
    forwarders: dict[str, Forwarder] = field(default_factory=dict)
    counts: dict[bytes, int] = field(default_factory=dict)  # sockets by key

    def forwarder(self, path: str) -> Forwarder:
        """Give the connection to a forwarder."""
        if path not in self.forwarders:
            self.forwarders[path] = Forwarder(path, self.poll)
        return self.forwarders[path]

    def forget_forwarders(self, paths: set[str]) -> None:
        """Close the connections to those that are no more."""
        for path in self.forwarders.keys() - paths:
            if self.forwarders[path].idle:
                self.forwarders.pop(path).close()


class App:
    """One session."""

    def __init__(self, house: House, key: bytes, identity: bytes, number: int, lease: float) -> None:
        self.key, self.lease = key, lease
        self.session = Session(number)
        self.route = b""  # of the connection; empty: none
        self.poll = house.poll
        self.heard = time.monotonic()
        self.sockets: dict[int, Socket] = {}
        self.lost = 0  # datagrams
        self.watches = False
        self._house = house
        self._identity = _IDENTITY.pack(_CURVE, identity)  # what an OPEN is stamped with
        self._turns: deque[Socket] = deque()
        self._connections = 0
        self._requests = 0

    # --- its share ---

    @property
    def window(self) -> int:
        """Give what one socket may have waiting here."""
        return max(min(CREDIT, WINDOWS // max(len(self.sockets), 1)), _LEAST_WINDOW)

    @property
    def may_have_another(self) -> bool:
        """Tell whether its key may have one more socket."""
        return self._house.counts.get(self.key, 0) < SOCKETS_PER_KEY

    def enter(self, one: Socket) -> None:
        """Take a socket in; charged to the key."""
        self.sockets[one.number] = one
        self._house.counts[self.key] = self._house.counts.get(self.key, 0) + 1

    def next_connection(self) -> int:
        """Give the number of a connection that is accepted."""
        while True:
            self._connections = self._connections % (_OURS - 1) + 1
            if self._connections | _OURS not in self.sockets:
                return self._connections

    def wants_turn(self, one: Socket) -> None:
        """Have a socket read when it is its turn."""
        if not one.has_turn:
            one.has_turn = True
            self._turns.append(one)

    @property
    def active(self) -> bool:
        """Tell whether it has something to be read, and somebody to send it to."""
        return bool(self._turns) and self.route != b"" and self.session.room

    def turn(self, quantum: int) -> None:
        """Read from its sockets, one after the other, until its share is used up."""
        while quantum > 0 and self._turns and self.session.room:
            one = self._turns.popleft()
            one.has_turn = False
            try:
                moved = one.read()
            except OSError as problem:
                one.failed(problem.errno or errno.EIO)
                continue
            quantum -= moved
            if moved and one.readable:
                self.wants_turn(one)

    # --- messages ---

    def handle(self, op: int, socket: int, error: int, value: int, sequence: int, payload: bytes) -> None:
        """Take a message.  Raises ProtocolError."""
        if self.session.kept > 8 * MESSAGES:
            raise ProtocolError("does not acknowledge")
        if op == Op.OPEN:
            self._open(socket, sequence, payload)
            return
        if op in {Op.LIST, Op.WATCH, Op.TICKET, Op.PING}:
            self._answer(op, sequence, unpack_map(payload) if payload else {})
            return
        one = self.sockets.get(socket)
        if op in _TO_FORWARDER:
            self._request(Op(op), one, socket, sequence, payload)
        elif one is None:
            return  # it has just gone
        elif op == Op.DATA:
            one.data(payload, value)
        elif op == Op.CREDIT:
            one.allow(value)
        elif op == Op.END and isinstance(one, Stream):
            one.end()
        elif op == Op.CLOSE:
            one.close(reset=bool(error))
        else:
            raise ProtocolError("no such message")

    def _request(self, op: Op, one: Socket | None, socket: int, sequence: int, body: bytes) -> None:
        self._requests += 1
        if len(body) > _MAX_BODY or self._requests > REQUESTS:
            raise ProtocolError("too much is asked")
        if one is None or one.fd is None:
            self.reply(op, sequence, socket, errno.EBADF, b"")
        else:
            one.request(op, body, sequence)

    def reply(self, op: Op, sequence: int, socket: int, error: int, body: bytes) -> None:
        """Answer a request."""
        self._requests -= 1
        if op == Op.RESOLVE and not error:
            body = bytes(_RESOLVED_PROOF) + body[_RESOLVED_PROOF:]
        flags = Flag.REPLY | (Flag.ERROR if error else 0)
        self.session.send(op, b"" if error else body, flags=flags, socket=socket, error=error, value=sequence)

    def _open(self, socket: int, sequence: int, payload: bytes) -> None:
        self._requests += 1
        size = _RELAYED.size + _OPEN.size
        if not 0 < socket < _OURS or socket in self.sockets or not size <= len(payload) <= size + _APP_NAME:
            raise ProtocolError("OPEN")
        (name,) = _RELAYED.unpack_from(payload)
        body = payload[_RELAYED.size :]
        error, about = self._house.directory.introduce(name.rstrip(b"\0").decode("ascii", "replace"), 0, self.key)
        if not error and not (self.may_have_another and self._requests <= REQUESTS):
            error = errno.EMFILE
        if error:
            self.reply(Op.OPEN, sequence, socket, error, b"")
            return
        forwarder = self._house.forwarder(about["path"])
        kind = Stream if _OPEN.unpack_from(body)[1] == _STREAM else Datagrams
        made = kind(self, socket, forwarder)
        self.enter(made)

        def done(error: int, answer: bytes, fd: int) -> None:
            self.reply(Op.OPEN, sequence, socket, made.opened(error, answer, fd), b"")

        family, type_, protocol, _identity, token = _OPEN.unpack_from(body)
        stamped = _OPEN.pack(family, type_, protocol, len(self._identity), token) + self._identity
        forwarder.ask(Op.OPEN, stamped + body[_OPEN.size :], owner=self, done=done)

    def _answer(self, op: int, sequence: int, body: dict[str, Any]) -> None:
        directory, error = self._house.directory, 0
        answer: dict[str, Any] = {"epoch": self._house.epoch}
        if op == Op.TICKET:
            error, answer = directory.introduce(body.get("vr"), body.get("want", 0), self.key)
            answer.pop("path", None)
        elif op == Op.PING:
            answer["watching"] = self.watches
        else:
            if op == Op.WATCH:
                self.watches = body.get("on", True) is not False
            answer["vrs"] = directory.visible(self.key)
        flags = Flag.REPLY | (Flag.ERROR if error else 0)
        packed: Any = msgpack.packb(answer)
        self.session.send(Op(op), packed, flags=flags, error=error, value=sequence)

    def event(self, body: bytes) -> None:
        """Tell of something that happened to a VR."""
        self.session.send(Op.EVENT, body, flags=Flag.DATA)

    # --- the end ---

    def forget(self, one: Socket) -> None:
        """A socket has gone."""
        if self.sockets.get(one.number) is one:
            del self.sockets[one.number]
            left = self._house.counts[self.key] - 1
            if left:
                self._house.counts[self.key] = left
            else:
                del self._house.counts[self.key]
            if left == SOCKETS_PER_KEY - 1:  # a listener may have waited for that
                for other in self.sockets.values():
                    if other.readable:
                        self.wants_turn(other)

    def end(self, *, reset: bool) -> None:
        """Close all its sockets."""
        for one in list(self.sockets.values()):
            one.close(reset=reset)


assert FIRST_CREDIT >= _LEAST_WINDOW
