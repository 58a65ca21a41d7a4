"""The TCP sockets of a VR, read from its state segment: connections, listeners, half-open ones, TIME-WAIT.

A record is copied before it is read, but its forwarder goes on writing: numbers of one record may be of two
moments.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Final

from fastpath._layout import CONSTANTS
from fastpath.segment import View

if TYPE_CHECKING:
    from fastpath.segment import Segment

STATES: Final = {
    CONSTANTS[f"TCP_STATE_{name.upper().replace('-', '_')}"]: name
    for name in (
        "closed", "listen", "syn-sent", "syn-received", "established", "fin-wait-1", "fin-wait-2", "close-wait",
        "closing", "last-ack", "time-wait",
    )
}  # fmt: skip
_MAPPED: Final = bytes(10) + b"\xff\xff"
# Before a handshake is complete sequence numbers count no bytes of the app.
_FRESH: Final = {CONSTANTS[f"TCP_STATE_{name}"] for name in ("CLOSED", "SYN_SENT", "SYN_RECEIVED")}


def _address(octets: bytes, family: int) -> str:
    if octets.startswith(_MAPPED) and family == socket.AF_INET:
        return socket.inet_ntop(socket.AF_INET, octets[12:])
    if family == socket.AF_INET:
        return "0.0.0.0"
    return socket.inet_ntop(socket.AF_INET6, octets)


def _queued(difference: int) -> int:
    """Give a difference of sequence numbers; behind the end (a FIN was acknowledged) nothing is queued."""
    difference %= 1 << 32
    return difference if difference < 1 << 31 else 0


def connections(state: Segment) -> list[dict[str, Any]]:
    """Give connections, listeners and sockets that are neither yet, by slot."""
    return [_connection(index, view) for index, view in state.used("tcp", "cookie", state.integer("tcp_used"))]


def _connection(index: int, view: View) -> dict[str, Any]:
    number = view.integer
    family, state, flags = number("family"), number("state"), number("flags")
    listening = state == CONSTANTS["TCP_STATE_LISTEN"]
    connected = number("remote_port") != 0
    # Of a listener as ss(8) has it: connections that wait to be accepted, and how many may.
    waiting = number("rcv_nxt") - number("copied_seq") - bool(flags & CONSTANTS["TCP_FIN_RECEIVED"])
    unacknowledged = number("write_seq") - number("snd_una")
    if listening:
        queue = View(view.octets("role"), "tcp_listener_state", 0)
        waiting, unacknowledged = queue.integer("accept_count"), queue.integer("backlog")
    return {
        "socket": CONSTANTS["MAX_SOCKETS"] + index,
        "family": "inet" if family == socket.AF_INET else "inet6",
        "state": STATES.get(state, str(state)),
        "local": _address(view.octets("local"), family),
        "local_port": number("local_port"),
        "remote": _address(view.octets("remote"), family) if connected else None,
        "remote_port": number("remote_port") if connected else None,
        "interface": number("interface"),
        "uid": number("uid"),
        "pid": number("pid"),
        "app": view.text("app"),
        "account": number("account"),
        "orphaned": bool(flags & CONSTANTS["TCP_ORPHAN"]),
        "receive_queue": _queued(waiting) if state not in _FRESH else 0,
        "send_queue": _queued(unacknowledged) if state not in _FRESH else 0,
        "rtt_us": number("srtt_us") >> 3,
        "cwnd": 0 if listening else number("cwnd"),
        "retransmits": number("total_retrans"),
        "bytes_sent": number("bytes_sent"),
        "bytes_received": number("bytes_received"),
    }


def half_open(state: Segment) -> int:
    """Count the connections in SYN-RECEIVED."""
    return sum(1 for _ in state.used("tcp_requests", "state", state.integer("tcp_requests_used")))


def time_wait(state: Segment) -> int:
    """Count the connections in TIME-WAIT."""
    return sum(1 for _ in state.used("tcp_timewaits", "state", state.integer("tcp_timewaits_used")))
