"""The pump: one thread that moves bytes between the fds of an app and a relay on another host.

    app --fd---------------> Stream, Datagrams --+
    app --Link, requests---> Desk ---------------+--Session--Connection--> relay

It serves the app as a forwarder serves local ones: the same requests on an AF_UNIX socket for each VR, and the other
ends of the same fds.  A connection that breaks is made anew and the session goes on where it was; a relay that knows
nothing of the session has lost the sockets: connections are reset, and what else there is is made there again.

Abstract names keep nobody out, so whoever connects must be of our user.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import select
import socket
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgpack
import zmq

from rsock.client_core import ProtocolError, unpack_map
from rsock.poll import Poll
from rsock.remote.connection import Connection, Curve
from rsock.remote.desk import Desk
from rsock.remote.ends import End, Stream, peer_is_ours
from rsock.remote.recipe import Step
from rsock.session import HEARTBEAT, LEASE, UNNUMBERED, Session
from rsock.wire import HEADER, MAGIC, VERSION, Flag, Op, layout

_RELAYED: Final = layout("rsock_relayed")
_CONNECT_PATIENCE: Final = 1.0
_RETRY: Final = 0.005
_LONGEST_RETRY: Final = 0.25
_REARM: Final = 0.2
_REQUESTS: Final = 256  # that are out at once
_TURNS: Final = 64
_EPITAPHS: Final = 8192
_SILENCE: Final = 2.2  # heartbeats
_BACKLOG: Final = 512
_TEMPORARY: Final = frozenset({errno.ENETDOWN, errno.ENODEV, errno.ETIMEDOUT, errno.EADDRINUSE, errno.EADDRNOTAVAIL})
_REARM_ATTEMPTS: Final = 50  # of what another socket may have taken meanwhile
_CONNECTION: Final = 1 << 31
FAREWELL: Final = 1.0

log = logging.getLogger(__name__)

Done = Callable[[int, bytes], None]


@dataclass(slots=True)
class Question:
    """A request that the relay has not answered."""

    op: Op
    body: bytes
    end: End | None
    done: Done
    rearms: bool = False  # part of making a socket again


class Pump:
    """The thread and all that it owns; others call only `ask_broker`, `path` and `close`."""

    def __init__(self, endpoint: str, curve: Curve, app: dict[str, Any]) -> None:
        self._endpoint, self._curve, self._app = endpoint, curve, app
        self.poll = Poll()
        self.session = Session(secrets.randbits(32))
        self._token = secrets.token_bytes(16)
        self._fresh = True  # no relay knows of the session
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._connection: Connection | None = None
        self._greeted = False
        self._begun = self._heard = 0.0
        self._retry = _RETRY
        self._lease, self._heartbeat = LEASE, HEARTBEAT
        self.refused = threading.Event()  # by the relay: our key is not known there
        self._questions: dict[int, Question] = {}
        self._later: deque[Question] = deque()
        self.ends: dict[int, End] = {}  # by slot
        self._wires: dict[int, End] = {}
        self._last_slot = self._last_wire = 0
        self._turns: deque[End] = deque()
        self._epitaphs: OrderedDict[int, int] = OrderedDict()
        self._held: dict[End, list[Question]] = {}  # until they are armed again
        self._events: Callable[[bytes], None] = lambda _body: None
        self._commands: deque[Callable[[], None]] = deque()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stopping = self._retiring = False
        self._place = f"\0rsock-remote/{secrets.token_hex(16)}"
        self.entrance = f"{self._place}/streams".encode()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._listener.bind(self.entrance)
        self._listener.listen(_BACKLOG)
        self._desks: dict[str, Desk] = {}
        self.poll.add(self._wake, self._on_wake, select.EPOLLIN)
        self.poll.add(self._listener.fileno(), lambda _events: self._meet(), select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, name="rsock-pump", daemon=True)

    # --- for other threads ---

    def start(self, events: Callable[[bytes], None]) -> None:
        """Begin; `events` hears of VRs, in the thread of the pump."""
        self._events = events
        self._thread.start()

    def call(self, command: Callable[[], None]) -> None:
        """Have something done in the thread of the pump."""
        self._commands.append(command)
        with contextlib.suppress(OSError):  # it has ended
            os.eventfd_write(self._wake, 1)

    def ask_broker(self, op: Op, body: dict[str, Any], done: Done) -> None:
        """Ask the relay what apps ask a broker."""
        packed: Any = msgpack.packb(body)
        self.call(lambda: self.ask(op, packed, None, done))

    def path(self, vr: str) -> str:
        """Give where requests about a VR are taken."""
        return f"{self._place}/{vr}"

    def serve(self, vr: str) -> None:
        """Take requests about a VR; in the thread of the pump."""
        if vr not in self._desks:
            self._desks[vr] = Desk(self, vr, self.path(vr))

    def close(self, patience: float = FAREWELL) -> None:
        """End: sockets are closed as if their app had closed them."""
        if self._thread.is_alive():
            self.call(self._farewell)
            self._thread.join(patience)

    def retire(self) -> None:
        """End when the last socket is closed."""
        if self._thread.is_alive():
            self.call(self._retire)

    def _retire(self) -> None:
        self._retiring = True

    def abandon(self) -> None:
        """In a child of fork, which has no pump: hold no other end of what its parent's moves."""
        for end in self.ends.values():
            if end.end is not None:
                end.end.close()
        for desk in self._desks.values():
            desk.abandon()
        self._listener.close()
        self.poll.close()
        if self._wake >= 0:
            os.close(self._wake)

    # --- the thread ---

    def _run(self) -> None:
        try:
            self._serve()
        except Exception:
            log.exception("the pump ends, and all its sockets with it")
        finally:
            self._release()

    def _serve(self) -> None:
        self._connect()
        self._beat()
        self._look()
        while not self._stopping:
            busy = bool(self._turns) and self._pulling
            if not busy and self._connection is not None:
                busy = self._connection.ready
            self.poll.turn(wait=not busy)
            self._hear()
            self._pull()
            self._flush()
            if self._retiring and not self.ends:
                self._farewell()

    def _on_wake(self, _events: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        while self._commands:
            self._commands.popleft()()

    @property
    def _pulling(self) -> bool:
        return self._greeted and self.session.room

    def wants_turn(self, end: End) -> None:
        """Have it pulled when it is its turn."""
        if not end.has_turn:
            end.has_turn = True
            self._turns.append(end)

    def _pull(self) -> None:
        for _turn in range(_TURNS):
            if not self._turns or not self._pulling:
                return
            end = self._turns.popleft()
            end.has_turn = False
            if not end.arming and self._guarded(end.pull):
                self.wants_turn(end)

    def _guarded(self, pull: Callable[[], bool]) -> bool:
        try:
            return pull()
        except OSError:  # its end breaks: the next event says how
            return False

    def _flush(self) -> None:
        if self._connection is None or not self._greeted:
            return
        self.session.flush(self._connection.send)
        if self.session.owes:
            self.session.ack(self._connection.send)

    def _farewell(self) -> None:
        for end in list(self.ends.values()):
            with contextlib.suppress(OSError):
                while end.pull():
                    pass
        if self._connection is not None and self._greeted:
            self.session.flush(self._connection.send)
            self._connection.send((HEADER.pack(MAGIC, Op.BYE, 0, self.session.number, 0, 0, 0, 0), b""))
        self._stopping = True

    def _release(self) -> None:
        for end in list(self.ends.values()):
            end.leave()
        for desk in self._desks.values():
            desk.close()
        if self._connection is not None:
            self._connection.close(linger=round(FAREWELL * 500))
        self._listener.close()
        self._context.term()
        self.poll.close()
        wake, self._wake = self._wake, -1
        os.close(wake)

    # --- the connection ---

    def _connect(self) -> None:
        if self._stopping:
            return
        self._drop()
        connection = self._connection = Connection(self._context, self._endpoint, self._curve)
        self._begun = time.monotonic()
        for fd in connection.fds:
            self.poll.add(fd, lambda _events: None, select.EPOLLIN | select.EPOLLET)
        body = {"ver": VERSION, "token": self._token, "received": self.session.received, **self._app}
        packed: Any = msgpack.packb(body)
        connection.send((HEADER.pack(MAGIC, Op.HELLO, 0, self.session.number, 0, 0, 0, 0), packed))
        self.poll.after(_CONNECT_PATIENCE, lambda: self._give_up(connection))

    def _give_up(self, connection: Connection) -> None:
        if connection is self._connection and not self._greeted:
            self._connect()

    def _drop(self) -> None:
        self._greeted = False
        if self._connection is not None:
            for fd in self._connection.fds:
                self.poll.remove(fd)
            self._connection.close()
            self._connection = None

    def _broken(self) -> None:
        self._drop()
        self.poll.after(self._retry, lambda: self._connect() if self._connection is None else None)
        self._retry = min(self._retry * 2, _LONGEST_RETRY)

    def _hear(self) -> None:
        connection = self._connection
        if connection is None:
            return
        for frames in connection.receive():
            if len(frames) == 2 and len(frames[0]) == HEADER.size:
                try:
                    self._take(frames[0], frames[1])
                except ProtocolError:
                    self._lose()
                    self._broken()
                    return
            if self._connection is not connection:
                return
        fate = connection.fate()
        if fate == "refused":
            self.refused.set()
        if fate:
            self._broken()

    def _beat(self) -> None:
        now = time.monotonic()
        if self._greeted and self._connection is not None:
            if now - self._heard > self._heartbeat * _SILENCE:
                self._connect()
            else:
                self.session.ack(self._connection.send, ask=True)
        if not self._fresh and now - self._heard > self._lease:
            self._lose()
        self.poll.after(self._heartbeat, self._beat)

    def _look(self) -> None:
        """See whose apps are gone where no end of ours tells."""
        for end in list(self.ends.values()):
            if isinstance(end, Stream):
                end.look()
        if self._greeted and self._connection is not None and self.session.untold:
            self.session.ack(self._connection.send)
        self.poll.after(1.0, self._look)

    # --- what the relay says ---

    def _take(self, header: bytes, payload: bytes) -> None:
        magic, op, flags, number, sequence, wire, error, value = HEADER.unpack(header)
        if magic != MAGIC or number != self.session.number:
            return
        self._heard = time.monotonic()
        if op == Op.HELLO:
            self._welcome(unpack_map(payload))
        elif op == Op.BYE:
            self._lose()
            self._broken()
        elif op == Op.ACK:
            self.session.acknowledge(sequence)
            if flags & Flag.MORE and self._connection is not None:
                self.session.ack(self._connection.send)
        elif op not in UNNUMBERED and self.session.is_new(sequence, len(payload)):
            self._handle(op, flags, wire, error, value, payload)

    def _handle(self, op: int, flags: int, wire: int, error: int, value: int, payload: bytes) -> None:
        if op == Op.EVENT:
            self._events(payload)
            return
        if flags & Flag.REPLY:
            question = self._questions.pop(value, None)
            if question is not None:
                self._answered(question, error, payload)
            self._ask_more()
            return
        end = self._wires.get(wire)
        if op == Op.ACCEPT:
            self._accepted(wire, self._wires.get(value), payload)
        elif end is None:
            return  # it has just gone
        elif op == Op.DATA:
            end.data(payload, value)
        elif op == Op.CREDIT:
            end.allow(value)
        elif op == Op.RESET:
            end.failed(error)
        elif isinstance(end, Stream):
            if op == Op.CONNECTED:
                end.established()
            elif op == Op.END:
                end.peer_ended()

    def _welcome(self, body: dict[str, Any]) -> None:
        if not body.get("resumed") and not self._fresh:
            self._lose()
            self._connect()
            return
        self.session.resume(int(body.get("received", 0)))
        self._lease = float(body.get("lease", LEASE))
        self._heartbeat = max(float(body.get("heartbeat", HEARTBEAT)), 0.05)
        self._greeted, self._fresh, self._retry = True, False, _RETRY
        self.refused.clear()

    # --- requests ---

    def ask(self, op: Op, body: bytes, end: End | None, done: Done, *, rearms: bool = False) -> None:
        """Ask the relay; `done` hears the answer."""
        question = Question(op, body, end, done, rearms)
        if end is not None and end.arming and not rearms:
            self._held[end].append(question)
            return
        self._later.append(question)
        self._ask_more()

    def _ask_more(self) -> None:
        while self._later and len(self._questions) < _REQUESTS:
            question = self._later.popleft()
            end = question.end
            number = self.session.send(question.op, question.body, socket=end.wire if end is not None else 0)
            self._questions[number] = question

    def _answered(self, question: Question, error: int, answer: bytes) -> None:
        end = question.end
        if end is not None and not error and not question.rearms and end.rearmable:
            end.recipe.done(question.op, question.body, answer)
        question.done(error, answer)

    # --- sockets ---

    def new_slot(self) -> int:
        """Give a number for an app's socket."""
        while True:
            self._last_slot = self._last_slot % 0xFFFFFF + 1
            if self._last_slot not in self.ends:
                return self._last_slot

    def enter(self, end: End, wire: int = 0) -> None:
        """Take a socket into the tables."""
        if not wire:
            self._last_wire = self._last_wire % (_CONNECTION - 1) + 1
            wire = self._last_wire
        end.wire = wire
        self.ends[end.slot] = self._wires[wire] = end

    def forget(self, end: End) -> None:
        """A socket has gone."""
        self.ends.pop(end.slot, None)
        self._wires.pop(end.wire, None)
        for question in self._held.pop(end, []):
            question.done(errno.EBADF, b"")

    def bury(self, cookie: int, error: int) -> None:
        """Remember how an accepted connection ended."""
        self._epitaphs[cookie] = error
        if len(self._epitaphs) > _EPITAPHS:
            self._epitaphs.popitem(last=False)

    def epitaph(self, cookie: int) -> int:
        """Tell what became of a socket that is not here any more."""
        return self._epitaphs.get(cookie) or errno.EBADF

    def _meet(self) -> None:
        """Apps' fds have connected to us."""
        while True:
            try:
                made, name = self._listener.accept()
            except OSError:
                return
            for end in self._named(name):
                if peer_is_ours(made) and end.end is None and not end.listening:
                    end.join(made)
                    break
            else:
                made.close()

    def _named(self, name: Any) -> list[Stream]:
        try:
            slot = int(bytes(name).rsplit(b"/", 1)[1].split(b".")[0], 16)
        except (ValueError, IndexError, TypeError):
            return []
        end = self.ends.get(slot)
        return [end] if isinstance(end, Stream) and end.name == name else []

    def _accepted(self, wire: int, listener: End | None, name: bytes) -> None:
        if not isinstance(listener, Stream):
            self.session.send(Op.CLOSE, socket=wire, error=errno.ECONNRESET)
            return
        made = Stream(self, listener.vr, listener.family, self.new_slot())
        self.enter(made, wire)
        # Our own number and nonce in place of the forwarder's: the app asks us.
        listener.guest(made, name.rpartition(b"/")[0] + f"/{made.slot:x}.{made.cookie:x}".encode())

    # --- another relay ---

    def _lose(self) -> None:
        """The sockets of this session are gone: begin another one, and make again what can be made."""
        held = [question for questions in self._held.values() for question in questions]
        waiting = [*self._questions.values(), *self._later, *held]
        self._questions, self._later, self._held = {}, deque(), {}
        unborn = {question.end for question in waiting if question.op == Op.OPEN and not question.rearms}
        self.session = Session(secrets.randbits(32))
        self._token = secrets.token_bytes(16)
        self._fresh = True
        for end in list(self.ends.values()):
            end.arming = False
            if isinstance(end, Stream) and not end.rearmable:
                end.failed(errno.ECONNRESET)
                continue
            end.renew()
            if end not in unborn and not (isinstance(end, Stream) and end.over):
                end.arming = True
                self._held[end] = []
        self.session = Session(self.session.number)  # what they have said was for the old one
        for question in waiting:
            if question.rearms:
                continue
            if isinstance(question.end, Stream) and not question.end.rearmable:
                question.done(errno.ECONNRESET, b"")
            else:
                self.ask(question.op, question.body, question.end, question.done)
        for end in [end for end in self.ends.values() if end.arming]:
            self._rearm(end, 0, self.session)

    def _rearm(self, end: End, attempt: int, session: Session) -> None:
        """Make a socket again."""
        if end.slot not in self.ends or session is not self.session:
            return
        self._wires.pop(end.wire, None)
        self.enter(end)
        end.renew()
        steps: list[Step] = [(Op.OPEN, relayed(end.vr, end.recipe.fresh_open())), *end.recipe.steps]

        def step(at: int) -> None:
            if at == len(steps):
                self._armed(end)
            else:
                self.ask(*steps[at], end, lambda error, _answer: done(at, error), rearms=True)

        def done(at: int, error: int) -> None:
            if session is not self.session or end.slot not in self.ends:
                return
            if not error:
                step(at + 1)
            elif error in _TEMPORARY and (attempt < _REARM_ATTEMPTS or error in {errno.ENETDOWN, errno.ETIMEDOUT}):
                self.session.send(Op.CLOSE, socket=end.wire)
                self.poll.after(_REARM, lambda: self._rearm(end, attempt + 1, session))
            else:
                end.arming = False
                for question in self._held.pop(end, []):
                    question.done(errno.ENETDOWN, b"")
                end.failed(errno.ENETDOWN)

        step(0)

    def _armed(self, end: End) -> None:
        end.arming = False
        for question in self._held.pop(end, []):
            self.ask(question.op, question.body, end, question.done)
        self.wants_turn(end)


def relayed(vr: str, body: bytes) -> bytes:
    """Write OPEN to a relay."""
    return _RELAYED.pack(vr.encode()) + body
