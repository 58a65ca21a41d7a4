"""All that an engine is told, as values: what a recorder writes, and a replay or a simulation gives again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vrouter.config.router import RouterConfig
from vrouter.net.address import Address
from vrouter.proto.base import Meta


@dataclass(frozen=True, slots=True)
class Configure:
    """The whole configuration, the first or another."""

    router: RouterConfig
    indices: dict[str, int] = field(default_factory=dict)  # of the interfaces, as the forwarder knows them


@dataclass(frozen=True, slots=True)
class Link:
    """The state of a port; one that is not configured yet is remembered."""

    port: int
    up: bool
    mtu: int = 0  # 0: not known


@dataclass(frozen=True, slots=True)
class Opened:
    """A UDP, RAW or LISTEN socket is open."""

    instance: str
    socket: str


@dataclass(frozen=True, slots=True)
class Connected:
    """A CONNECT socket is connected."""

    instance: str
    socket: str
    local: Address
    remote: Address


@dataclass(frozen=True, slots=True)
class Accepted:
    """A connection came in; `socket` is its new name."""

    instance: str
    listener: str
    socket: str
    local: Address
    remote: Address


@dataclass(frozen=True, slots=True)
class Received:
    """A datagram came in."""

    instance: str
    socket: str
    packet: bytes
    meta: Meta


@dataclass(frozen=True, slots=True)
class Stream:
    """Bytes of a connection came in; none: the peer has ended its side."""

    instance: str
    socket: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Writable:
    """All that was written to a connection is on its way."""

    instance: str
    socket: str


@dataclass(frozen=True, slots=True)
class Closed:
    """A socket could not be opened, or is gone."""

    instance: str
    socket: str
    error: int = 0


@dataclass(frozen=True, slots=True)
class Bfd:
    """The state of a session that the engine has asked for, by the engine's name of it."""

    session: str
    up: bool
    admin_down: bool = False
    diagnostic: str = ""


@dataclass(frozen=True, slots=True)
class Clear:
    """What an operator asks of an instance."""

    instance: str
    query: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Timeout:
    """The engine's deadline has come."""


@dataclass(frozen=True, slots=True)
class Stop:
    """The router is being stopped: say goodbye, and keep the tables as they are."""


Input = (
    Configure | Link | Opened | Connected | Accepted | Received | Stream | Writable | Closed | Bfd | Clear
    | Timeout | Stop
)  # fmt: skip
