"""BFD sessions that instances share: who watches the same neighbor in the same way has one session (RFC 5882).

Where they ask for different things, the strictest timers win: the shortest intervals, the smallest multiplier.
"""

from __future__ import annotations

from dataclasses import replace

from vrouter.engine.inputs import Bfd
from vrouter.net.address import Address
from vrouter.proto.base import BfdClose, BfdOpen, BfdState

_Key = tuple[Address, Address | None, str, bool]


class _Session:
    def __init__(self, name: str) -> None:
        self.name = name
        self.clients: dict[tuple[str, str], BfdOpen] = {}  # instance, its name of the session -> its wishes
        self.opened: BfdOpen | None = None
        self.state: Bfd | None = None


class BfdClients:
    """All sessions of a VR, and who watches them."""

    def __init__(self) -> None:
        self._sessions: dict[_Key, _Session] = {}
        self._names: dict[str, _Key] = {}
        self._keys: dict[tuple[str, str], _Key] = {}
        self._untold: dict[tuple[str, str], BfdState] = {}

    def open(self, instance: str, wish: BfdOpen) -> list[BfdOpen | BfdClose]:
        """Let an instance watch; give what is asked of BFD for it."""
        client = (instance, wish.session)
        key = (wish.remote, wish.local, wish.interface, wish.multihop)
        asked: list[BfdOpen | BfdClose] = []
        if self._keys.get(client, key) != key:
            asked += self.close(*client)
        session = self._sessions.get(key)
        if session is None:
            session = self._sessions[key] = _Session(_name(key))
            self._names[session.name] = key
        elif client not in session.clients and session.state is not None:
            self._tell(session.state, client)
        session.clients[client] = wish
        self._keys[client] = key
        return asked + _update(session)

    def close(self, instance: str, name: str) -> list[BfdOpen | BfdClose]:
        """Let an instance watch no longer."""
        client = (instance, name)
        key = self._keys.pop(client, None)
        self._untold.pop(client, None)
        if key is None:
            return []
        session = self._sessions[key]
        del session.clients[client]
        if session.clients:
            return _update(session)
        del self._sessions[key], self._names[session.name]
        return [BfdClose(session.name)]

    def close_all(self, instance: str) -> list[BfdOpen | BfdClose]:
        """Take an instance out of all sessions."""
        names = [name for owner, name in self._keys if owner == instance]
        return [request for name in names for request in self.close(instance, name)]

    def changed(self, event: Bfd) -> None:
        """Take the state of a session."""
        key = self._names.get(event.session)
        if key is None:
            return
        session = self._sessions[key]
        session.state = event
        for client in session.clients:
            self._tell(event, client)

    def untold(self) -> list[tuple[str, BfdState]]:
        """Give what instances must be told, once."""
        told, self._untold = self._untold, {}
        return [(instance, state) for (instance, _name), state in told.items()]

    def _tell(self, event: Bfd, client: tuple[str, str]) -> None:
        self._untold[client] = BfdState(client[1], event.up, event.admin_down, event.diagnostic)


def _name(key: _Key) -> str:
    remote, local, interface, multihop = key
    return f"{'multihop' if multihop else 'single'}/{remote}/{local or ''}/{interface}"


def _update(session: _Session) -> list[BfdOpen | BfdClose]:
    """Ask BFD for what all clients together need, if that is something new."""
    wishes = list(session.clients.values())
    merged = replace(
        wishes[0],
        session=session.name,
        transmit_interval=min(wish.transmit_interval for wish in wishes),
        receive_interval=min(wish.receive_interval for wish in wishes),
        multiplier=min(wish.multiplier for wish in wishes),
        echo_interval=min((wish.echo_interval for wish in wishes if wish.echo_interval), default=0),
        authentication=next((wish.authentication for wish in wishes if wish.authentication), None),
        passive=all(wish.passive for wish in wishes),
        min_ttl=max(wish.min_ttl for wish in wishes),
        routes=any(wish.routes for wish in wishes),
    )
    if merged == session.opened:
        return []
    session.opened = merged
    return [merged]
