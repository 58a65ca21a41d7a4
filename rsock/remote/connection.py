"""One connection to the relay: a ZeroMQ DEALER with CURVE that connects once and never again by itself."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any, Final

import zmq
from zmq.utils.monitor import parse_monitor_message

from rsock.session import MAX_MESSAGE, Frames

_BURST: Final = 64
_LOST: Final = zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
_REFUSED: Final = zmq.EVENT_HANDSHAKE_FAILED_AUTH
_BROKEN: Final = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL


@dataclass(frozen=True)
class Curve:
    """The keys of CURVE, each 40 characters of Z85: the relay's public one and our pair."""

    server_key: str
    public: str
    secret: str = field(repr=False)


class Connection:
    """A connection, or the attempt to have one."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str, curve: Curve) -> None:
        self._dealer = context.socket(zmq.DEALER)
        for option, value in (
            (zmq.LINGER, 0), (zmq.RECONNECT_IVL, -1), (zmq.SNDHWM, 0), (zmq.RCVHWM, 0), (zmq.IPV6, 1),
            (zmq.MAXMSGSIZE, MAX_MESSAGE),
        ):  # fmt: skip
            self._dealer.setsockopt(option, value)
        self._dealer.curve_serverkey = curve.server_key.encode()
        self._dealer.curve_publickey = curve.public.encode()
        self._dealer.curve_secretkey = curve.secret.encode()
        self._monitor: Any = self._dealer.get_monitor_socket(_LOST | _REFUSED | _BROKEN)
        self._dealer.connect(endpoint)

    @property
    def fds(self) -> tuple[int, int]:
        """Give the fds that become readable, edge by edge, when there is something to do."""
        return self._dealer.getsockopt(zmq.FD), self._monitor.getsockopt(zmq.FD)  # type: ignore[return-value]

    @property
    def ready(self) -> bool:
        """Tell whether something waits: no edge would tell of it again."""
        return any(int(one.getsockopt(zmq.EVENTS)) & zmq.POLLIN for one in (self._dealer, self._monitor))

    def fate(self) -> str:
        """Tell what has become of it: "" or lost or refused."""
        found = ""
        with contextlib.suppress(zmq.Again):
            while True:
                event = parse_monitor_message(self._monitor.recv_multipart(zmq.DONTWAIT))["event"]
                found = "refused" if event == _REFUSED else found or "lost"
        return found

    def send(self, frames: Frames) -> bool:
        """Send; False: not now."""
        try:
            self._dealer.send_multipart(frames, zmq.DONTWAIT)
        except zmq.Again:
            return False
        return True

    def receive(self) -> list[list[bytes]]:
        """Give what has come in, but not all of it at once."""
        found: list[list[bytes]] = []
        with contextlib.suppress(zmq.Again):
            while len(found) < _BURST:
                found.append(self._dealer.recv_multipart(zmq.DONTWAIT))
        return found

    def close(self, linger: int = 0) -> None:
        """Close it; what was sent last has some milliseconds."""
        self._dealer.disable_monitor()
        self._monitor.close(0)
        self._dealer.close(linger)
