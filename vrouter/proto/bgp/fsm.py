"""The state machine of a BGP connection as a table: RFC 4271 section 8.2.2, with RFC 6608's subcodes.

    (state, event) -> (actions, next state)

Events of one kind are one here (RFC 4271's 1 and 3 to 7 are START, and so on).  What a peer may not do in a state is
answered by a NOTIFICATION of an FSM error, and the connection ends.  The timers' meaning, collisions and back-off are
those of `session.py` and `neighbor.py`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final


class State(enum.IntEnum):
    """States; RFC 4271 section 8.2.2."""

    IDLE = 1
    CONNECT = 2
    ACTIVE = 3
    OPEN_SENT = 4
    OPEN_CONFIRM = 5
    ESTABLISHED = 6


class Event(enum.Enum):
    """What happens to a connection, with RFC 4271's numbers."""

    START = "start"  # 1, 4: connect
    START_PASSIVE = "start-passive"  # 3, 5: wait
    STOP = "stop"  # 2, 8
    CONNECT_RETRY_EXPIRES = "connect-retry-expires"  # 9
    HOLD_EXPIRES = "hold-expires"  # 10
    KEEPALIVE_EXPIRES = "keepalive-expires"  # 11
    DELAY_OPEN_EXPIRES = "delay-open-expires"  # 12
    TCP_UP = "tcp-up"  # 16, 17
    TCP_UP_DELAYED = "tcp-up-delayed"  # the same, with DelayOpen
    TCP_FAILS = "tcp-fails"  # 18
    OPEN = "open"  # 19, 20
    MESSAGE_ERROR = "message-error"  # 21, 22, 28
    COLLISION_DUMP = "collision-dump"  # 23
    NOTIFICATION = "notification"  # 24, 25
    KEEPALIVE = "keepalive"  # 26
    UPDATE = "update"  # 27
    REFRESH = "refresh"  # RFC 2918


class Action(enum.Enum):
    """What is done about it."""

    CONNECT = "connect"
    WAIT = "wait"  # arm ConnectRetryTimer
    DELAY = "delay"  # arm DelayOpenTimer
    SEND_OPEN = "send-open"  # and arm HoldTimer, with its large value
    SEND_KEEPALIVE = "send-keepalive"
    NEGOTIATE = "negotiate"  # take what the OPEN says, arm HoldTimer and KeepaliveTimer
    ARM_HOLD = "arm-hold"
    ESTABLISH = "establish"
    NOTIFY_HOLD = "notify-hold"
    NOTIFY_CEASE = "notify-cease"
    NOTIFY_ERROR = "notify-error"  # what the event says
    NOTIFY_FSM = "notify-fsm"
    DROP = "drop"  # the connection
    HANDLE = "handle"  # the message is for those above


Decision = tuple[tuple[Action, ...], State]
_DROP: Final = (Action.DROP,)
_OPENED: Final = (State.OPEN_SENT, State.OPEN_CONFIRM, State.ESTABLISHED)


def _build() -> dict[tuple[State, Event], Decision]:
    table: dict[tuple[State, Event], Decision] = {}
    for event in Event:
        table[State.IDLE, event] = ((), State.IDLE)
        table[State.CONNECT, event] = (_DROP, State.IDLE)
        table[State.ACTIVE, event] = (_DROP, State.IDLE)
        for state in _OPENED:
            table[state, event] = ((Action.NOTIFY_FSM, Action.DROP), State.IDLE)
    table[State.IDLE, Event.START] = ((Action.WAIT, Action.CONNECT), State.CONNECT)
    table[State.IDLE, Event.START_PASSIVE] = ((Action.WAIT,), State.ACTIVE)
    for state in (State.CONNECT, State.ACTIVE, *_OPENED):
        for event in (Event.START, Event.START_PASSIVE):
            table[state, event] = ((), state)
    for state in (State.CONNECT, State.ACTIVE):
        table[state, Event.TCP_UP] = ((Action.SEND_OPEN,), State.OPEN_SENT)
        table[state, Event.TCP_UP_DELAYED] = ((Action.DELAY,), state)
        table[state, Event.DELAY_OPEN_EXPIRES] = ((Action.SEND_OPEN,), State.OPEN_SENT)
        table[state, Event.OPEN] = (
            (Action.SEND_OPEN, Action.NEGOTIATE, Action.SEND_KEEPALIVE),
            State.OPEN_CONFIRM,
        )
        table[state, Event.MESSAGE_ERROR] = ((Action.NOTIFY_ERROR, Action.DROP), State.IDLE)
        table[state, Event.CONNECT_RETRY_EXPIRES] = ((Action.DROP, Action.WAIT, Action.CONNECT), State.CONNECT)
    table[State.CONNECT, Event.TCP_FAILS] = ((Action.DROP, Action.WAIT), State.ACTIVE)
    table[State.OPEN_SENT, Event.TCP_FAILS] = ((Action.DROP, Action.WAIT), State.ACTIVE)
    table[State.OPEN_SENT, Event.OPEN] = ((Action.NEGOTIATE, Action.SEND_KEEPALIVE), State.OPEN_CONFIRM)
    table[State.OPEN_CONFIRM, Event.KEEPALIVE] = ((Action.ARM_HOLD, Action.ESTABLISH), State.ESTABLISHED)
    table[State.OPEN_CONFIRM, Event.KEEPALIVE_EXPIRES] = ((Action.SEND_KEEPALIVE,), State.OPEN_CONFIRM)
    table[State.ESTABLISHED, Event.KEEPALIVE_EXPIRES] = ((Action.SEND_KEEPALIVE,), State.ESTABLISHED)
    table[State.ESTABLISHED, Event.KEEPALIVE] = ((Action.ARM_HOLD,), State.ESTABLISHED)
    table[State.ESTABLISHED, Event.UPDATE] = ((Action.ARM_HOLD, Action.HANDLE), State.ESTABLISHED)
    table[State.ESTABLISHED, Event.REFRESH] = ((Action.ARM_HOLD, Action.HANDLE), State.ESTABLISHED)
    for state in _OPENED:
        table[state, Event.STOP] = ((Action.NOTIFY_CEASE, Action.DROP), State.IDLE)
        table[state, Event.COLLISION_DUMP] = ((Action.NOTIFY_CEASE, Action.DROP), State.IDLE)
        table[state, Event.HOLD_EXPIRES] = ((Action.NOTIFY_HOLD, Action.DROP), State.IDLE)
        table[state, Event.MESSAGE_ERROR] = ((Action.NOTIFY_ERROR, Action.DROP), State.IDLE)
        table[state, Event.NOTIFICATION] = (_DROP, State.IDLE)
        table[state, Event.CONNECT_RETRY_EXPIRES] = ((), state)  # the timer does not run there
    for state in (State.OPEN_CONFIRM, State.ESTABLISHED):
        table[state, Event.TCP_FAILS] = (_DROP, State.IDLE)
    return table


TRANSITIONS: Final[Mapping[tuple[State, Event], Decision]] = _build()
