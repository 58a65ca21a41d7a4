"""BFD as simulated routers have it: the three states of RFC 5880 section 6.2, and the detection time.

Packets cross the simulated network like any other, so a link that is cut is found out, and one that loses some is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from datagrams import BFD, TTL, Packet

from vrouter.engine import inputs

if TYPE_CHECKING:
    from sim_router import SimRouter

    from vrouter.net.address import Address
    from vrouter.proto.base import BfdOpen

DOWN, INIT, UP = "down", "init", "up"
NEXT: Final = {  # (our state, the state that comes in) -> our state
    (DOWN, DOWN): INIT, (DOWN, INIT): UP, (DOWN, UP): DOWN,
    (INIT, DOWN): INIT, (INIT, INIT): UP, (INIT, UP): UP,
    (UP, DOWN): DOWN, (UP, INIT): UP, (UP, UP): UP,
}  # fmt: skip


@dataclass
class Session:
    """One session."""

    request: BfdOpen
    state: str = DOWN
    heard: float = 0.0


class BfdModel:
    """All sessions of a router."""

    def __init__(self, router: SimRouter) -> None:
        """Begin with none."""
        self._router = router
        self._network = router.network
        self.sessions: dict[str, Session] = {}

    def open(self, request: BfdOpen) -> None:
        """Watch a neighbor, or change how."""
        known = self.sessions.get(request.session)
        if known is not None:
            known.request = request
            return
        session = self.sessions[request.session] = Session(request)
        self._network.after(0, self._beat, session)

    def close(self, name: str) -> None:
        """No longer watch."""
        self.sessions.pop(name, None)

    def _beat(self, session: Session) -> None:
        request = session.request
        if self.sessions.get(request.session) is not session or self._router.bfd is not self:
            return
        detection = request.receive_interval * request.multiplier
        if session.state != DOWN and self._network.now - session.heard > detection:
            self._become(session, DOWN)
        source = request.local or self._router.source_for(request.remote, request.interface)
        if source is not None:
            packet = Packet(BFD, source, request.remote, TTL, session.state)
            self._router.send(packet, request.interface)
        # Between 75 and 100 percent of the interval: RFC 5880 section 6.8.7.
        interval = request.transmit_interval * (0.75 + 0.25 * self._network.rng.random())
        self._network.after(interval, self._beat, session)

    def arrived(self, packet: Packet, interface: str) -> None:
        """Take a packet of the neighbor."""
        for session in self.sessions.values():
            if self._fits(session.request, packet.source, interface):
                session.heard = self._network.now
                self._become(session, NEXT[session.state, packet.data])

    @staticmethod
    def _fits(request: BfdOpen, source: Address, interface: str) -> bool:
        return request.remote == source and request.interface in ("", interface)

    def _become(self, session: Session, state: str) -> None:
        was_up, session.state = session.state == UP, state
        if (state == UP) != was_up:
            event = inputs.Bfd(session.request.session, up=state == UP)
            self._network.after(0, self._router.tell, event, self._router.incarnation)
