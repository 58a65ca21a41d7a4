"""One connection of a BGP session: its state machine at work, its timers, its bytes.

    stream --> table.feed --> messages --> Event --> fsm.TRANSITIONS --> actions --> Write, CloseSocket
    deadline passed -----------------------^                               |
                                                                           +--> the neighbor's part: `Owner`

RFC 4271 sections 4.4, 6.5 and 8; 9687 (SendHoldTimer).  Times are seconds of the caller's clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Protocol

from vrouter.net.address import Address
from vrouter.proto.base import CloseSocket, Output, Write
from vrouter.proto.bgp.fsm import TRANSITIONS, Action, Event, State
from vrouter.proto.bgp.opening import Negotiated
from vrouter.rib import bgp_table
from vrouter.rib.bgp_table import EventKind
from vrouter.wire.bgp.attributes import MalformedError
from vrouter.wire.bgp.message import (
    KEEPALIVE,
    Cease,
    Code,
    FsmError,
    MessageType,
    Notification,
    Open,
    decode_notification,
    decode_open,
    decode_refresh,
    encode_notification,
)

NEVER: Final = math.inf
OPEN_HOLD: Final = 240.0  # HoldTimer until an OPEN has come; RFC 4271 section 8.2.2
_FSM_SUBCODE: Final = {
    State.OPEN_SENT: FsmError.OPEN_SENT,
    State.OPEN_CONFIRM: FsmError.OPEN_CONFIRM,
    State.ESTABLISHED: FsmError.ESTABLISHED,
}


@dataclass(frozen=True, slots=True)
class Ending:
    """How a connection has ended."""

    reason: str
    notified: bool = False  # a NOTIFICATION has gone either way: RFC 4724 section 4.2
    wrong: bool = False  # for what the neighbor has sent
    ours: bool = False  # this router's own sockets have failed


class Owner(Protocol):
    """What a connection needs of its neighbor."""

    number: int
    table: Any

    def emit(self, output: Output) -> None:
        """Give an output."""

    def jitter(self, time: float) -> float:
        """Make a time a little shorter, by chance; RFC 4271 section 10."""

    def retry_time(self) -> float:
        """Give the time to the next attempt to connect."""

    def open_socket(self, session: Session) -> str:
        """Begin to connect; give the socket's name."""

    def own_open(self) -> bytes:
        """Give our OPEN."""

    def judge(self, session: Session, message: Open, now: float) -> Negotiated | None:
        """Judge an OPEN, collisions too; None: this connection has been dumped.  Raises MalformedError."""

    def established(self, session: Session, now: float) -> None:
        """Begin the session."""

    def handle(self, session: Session, event: bgp_table.Event, now: float) -> None:
        """Take what is not the connection's business: refresh, End-of-RIB, limits."""

    def dropped(self, session: Session, state: State, end: Ending, now: float) -> None:
        """Take note that a connection, and its session, is gone."""

    def send_hold(self) -> float:
        """Give the time of SendHoldTimer."""

    def delay_open(self) -> float:
        """Give the time of DelayOpenTimer."""


class Session:
    """A connection, or the wish for one."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.state = State.IDLE
        self.socket = ""
        self.outgoing = True
        self.local: Address | None = None
        self.negotiated: Negotiated | None = None
        self.outstanding = False  # bytes are with the stack that the neighbor has not taken
        self.sent = dict.fromkeys(MessageType, 0)
        self.received = dict.fromkeys(MessageType, 0)
        self._buffer = b""
        self._message: Open | None = None
        self._notification: Notification | None = None  # to be sent by the next NOTIFY action
        self._reason = ""
        self._notified = False  # a NOTIFICATION has gone either way
        self._wrong = False
        self._ours = False
        self._silent = False  # drop without a NOTIFICATION
        self.retry_at = NEVER
        self.hold_at = NEVER
        self.keepalive_at = NEVER
        self.delay_open_at = NEVER
        self.send_hold_at = NEVER

    @property
    def deadline(self) -> float:
        """Give the time at which a timer expires."""
        return min(self.retry_at, self.hold_at, self.keepalive_at, self.delay_open_at, self.send_hold_at)

    def expire(self, now: float) -> None:
        """Let timers expire that are due."""
        if self.delay_open_at <= now:
            self.delay_open_at = NEVER
            self.event(Event.DELAY_OPEN_EXPIRES, now)
        if self.retry_at <= now:
            self.retry_at = NEVER
            self.event(Event.CONNECT_RETRY_EXPIRES, now)
        if self.hold_at <= now:
            self.hold_at = NEVER
            self.event(Event.HOLD_EXPIRES, now)
        if self.send_hold_at <= now:
            self.send_hold_at = NEVER
            self._notification = Notification(Code.SEND_HOLD_TIMER)
            self.event(Event.MESSAGE_ERROR, now)
        if self.keepalive_at <= now:
            self.keepalive_at = NEVER
            self.event(Event.KEEPALIVE_EXPIRES, now)

    # --- what comes from the stack ---

    def connected(self, local: Address, now: float) -> None:
        """Take note that there is a connection."""
        self.local = local
        self.event(Event.TCP_UP_DELAYED if self.owner.delay_open() else Event.TCP_UP, now)

    def closed(self, reason: str, now: float, *, ours: bool = False) -> None:
        """Take note that there is none, or no longer; `ours`: it is this router that has lost its sockets."""
        self.socket = ""
        self._reason = reason
        self._ours = ours
        self.event(Event.TCP_FAILS, now)

    def taken(self) -> None:
        """Take note that the neighbor has taken all that was written."""
        self.outstanding = False
        self.send_hold_at = NEVER

    def stream(self, data: bytes, now: float) -> None:
        """Take bytes."""
        if not data:
            self._reason = "the neighbor has closed the connection"
            self.event(Event.TCP_FAILS, now)
            return
        data = self._buffer + data if self._buffer else data
        view, at = memoryview(data), 0
        while self.socket and at < len(data):
            fed = self.owner.table.feed(self.owner.number, view[at:])
            at += fed.consumed
            if fed.updates:
                self.received[MessageType.UPDATE] += fed.updates
                self.event(Event.UPDATE, now)
            for event in fed.events:
                if self.socket:
                    self._take(event, now)
            if not fed.consumed:
                break
        self._buffer = data[at:] if self.socket else b""

    def _take(self, event: bgp_table.Event, now: float) -> None:
        """Take one thing that the table found in the stream."""
        if event.kind == EventKind.ERROR:
            self._fail(Notification(event.code, event.subcode, event.body), now)
        elif event.kind == EventKind.UPDATE_EARLY:
            self.event(Event.UPDATE, now)
        elif event.kind == EventKind.MESSAGE:
            self.received[MessageType(event.type)] += 1
            try:
                self._message_in(event, now)
            except MalformedError as error:
                self._fail(Notification(error.code, error.subcode, error.data), now)
        else:
            self.owner.handle(self, event, now)

    def _message_in(self, event: bgp_table.Event, now: float) -> None:
        """Take a message that is no UPDATE.  Raises MalformedError."""
        match event.type:
            case MessageType.KEEPALIVE:
                self.event(Event.KEEPALIVE, now)
            case MessageType.OPEN:
                self._message = decode_open(event.body)
                self._open_in(now)
            case MessageType.NOTIFICATION:
                notification = decode_notification(event.body)
                self._reason = f"the neighbor sent: {notification.reason()}"
                self._notified = True
                self.event(Event.NOTIFICATION, now)
            case MessageType.ROUTE_REFRESH:
                decode_refresh(event.body)
                self.event(Event.REFRESH, now)
                if self.state is State.ESTABLISHED:
                    self.owner.handle(self, event, now)

    def _open_in(self, now: float) -> None:
        """Judge an OPEN before the state machine sees it, where it may come at all.  Raises MalformedError."""
        if self.state in {State.CONNECT, State.ACTIVE, State.OPEN_SENT}:
            assert self._message is not None
            self.negotiated = self.owner.judge(self, self._message, now)
            if self.negotiated is None:
                return
        self.event(Event.OPEN, now)

    def _fail(self, notification: Notification, now: float) -> None:
        self._notification = notification
        self.event(Event.MESSAGE_ERROR, now)

    # --- the state machine ---

    def stop(self, notification: Notification | None, reason: str, now: float) -> None:
        """End it; without a notification in silence, so that the neighbor keeps routes (RFC 4724)."""
        if self.state is State.IDLE:
            return  # what is said here is not for the next one
        self._notification = notification
        self._silent = notification is None
        self._reason = reason
        self.event(Event.STOP, now)

    def dump(self, now: float) -> None:
        """End it in favor of another connection; RFC 4271 section 6.8."""
        self._notification = Notification(Code.CEASE, Cease.COLLISION)
        self._reason = "another connection was kept"
        self.event(Event.COLLISION_DUMP, now)

    def event(self, event: Event, now: float) -> None:
        """Let an event happen."""
        before = self.state
        actions, self.state = TRANSITIONS[before, event]
        for action in actions:
            self._act(action, before, now)

    def _act(self, action: Action, before: State, now: float) -> None:
        match action:
            case Action.CONNECT:
                self.outgoing = True
                self.socket = self.owner.open_socket(self)
            case Action.WAIT:
                self.retry_at = now + self.owner.retry_time()
            case Action.DELAY:
                self.delay_open_at = now + self.owner.delay_open()
                self.retry_at = NEVER
            case Action.SEND_OPEN:
                self.delay_open_at = self.retry_at = NEVER
                self.hold_at = now + OPEN_HOLD
                self.write(MessageType.OPEN, self.owner.own_open(), now)
            case Action.SEND_KEEPALIVE:
                self._keepalive(now)
            case Action.NEGOTIATE | Action.ARM_HOLD:
                self._arm_hold(now)
            case Action.ESTABLISH:
                self.owner.established(self, now)
            case Action.DROP:
                self._drop(before, now)
            case Action.HANDLE:
                pass  # the table has it, or _take passes it on
            case _:
                self._notify(action, before, now)

    def _keepalive(self, now: float) -> None:
        self.write(MessageType.KEEPALIVE, KEEPALIVE, now)
        if self.negotiated is not None and self.negotiated.hold:
            self.keepalive_at = now + self.owner.jitter(self.negotiated.keepalive)

    def _arm_hold(self, now: float) -> None:
        assert self.negotiated is not None
        self.hold_at = now + self.negotiated.hold if self.negotiated.hold else NEVER

    def _notify(self, action: Action, before: State, now: float) -> None:
        """Send the NOTIFICATION that an action asks for."""
        notification = self._notification
        if action is Action.NOTIFY_HOLD:
            notification = Notification(Code.HOLD_TIMER)
        elif action is Action.NOTIFY_FSM:
            notification = Notification(Code.FSM, _FSM_SUBCODE.get(before, FsmError.UNSPECIFIC))
        elif notification is None:
            notification = Notification(Code.CEASE, Cease.SHUTDOWN)
        if self._silent:
            return
        self._wrong = action in {Action.NOTIFY_ERROR, Action.NOTIFY_FSM}
        self._reason = self._reason or f"we sent: {notification.reason()}"
        self._notified = True
        self.write(MessageType.NOTIFICATION, encode_notification(notification), now)

    def _drop(self, before: State, now: float) -> None:
        """Let go of the connection."""
        if self.socket:
            self.owner.emit(CloseSocket(self.socket))
        self.socket = ""
        self.outstanding = False
        self._buffer = b""
        self.negotiated = None
        self._message = self._notification = None
        self.retry_at = self.hold_at = self.keepalive_at = self.delay_open_at = self.send_hold_at = NEVER
        end = Ending(self._reason or "the connection failed", self._notified, self._wrong, self._ours)
        self._reason = ""
        self._notified = self._silent = self._wrong = self._ours = False
        self.owner.dropped(self, before, end, now)

    # --- what goes out ---

    def write(self, kind: MessageType, data: bytes, now: float) -> None:
        """Send messages of one kind."""
        if not self.socket:
            return
        self.sent[kind] += 1
        self.outstanding = True
        limit = self.owner.send_hold()
        if self.send_hold_at is NEVER and limit:
            self.send_hold_at = now + limit
        self.owner.emit(Write(self.socket, data))
