"""All that an engine asks for, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vrouter.config.acl import AclEntry
from vrouter.config.police import ControlPlane
from vrouter.config.router import Interface
from vrouter.net.address import Address
from vrouter.proto.base import (
    BfdClose,
    BfdOpen,
    CloseSocket,
    JoinGroup,
    LeaveGroup,
    OpenSocket,
    SetKeys,
    SetMinTtl,
    Transmit,
    Write,
)
from vrouter.rib.connected import InterfaceAddress
from vrouter.rib.route import FibChange, Protocol
from vrouter.sockets.rules import RuleEntry

SocketRequest = OpenSocket | JoinGroup | LeaveGroup | SetKeys | SetMinTtl | CloseSocket | Transmit | Write


@dataclass(frozen=True, slots=True)
class Root:
    """What is published at once."""

    interfaces: tuple[Interface, ...] = ()
    addresses: tuple[InterfaceAddress, ...] = ()
    rules: tuple[RuleEntry, ...] = ()
    control_plane: ControlPlane = ControlPlane()  # noqa: RUF009 - frozen
    peers: tuple[Address, ...] = ()  # neighbors of routing protocols that the configuration names, ascending
    acls: Mapping[str, tuple[AclEntry, ...]] = field(default_factory=dict)  # by name, those that are bound
    counters: tuple[str, ...] = ()  # prefixes that are counted
    acl_clears: Mapping[str, int] = field(default_factory=dict)  # how often each list was made to count from 0


@dataclass(frozen=True, slots=True)
class Tables:
    """What the forwarder's tables must say from now on."""

    root: Root
    changes: tuple[FibChange, ...] = ()  # each prefix once, in the order of prefixes
    unsettled: tuple[Protocol, ...] = ()  # whose routes of a predecessor stay until they have been learnt anew
    sweep: bool = False  # there may be routes in the FIB that nobody knows of any more


@dataclass(frozen=True, slots=True)
class Socket:
    """What an instance asks of one of its sockets."""

    instance: str
    request: SocketRequest


@dataclass(frozen=True, slots=True)
class Watch:
    """What BFD is asked for; the name of the session is the engine's, and comes back in `inputs.Bfd`."""

    request: BfdOpen | BfdClose


@dataclass(frozen=True, slots=True)
class Event:
    """Something that operators and apps may want to hear of."""

    instance: str
    event: str
    details: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Line:
    """A line for the log."""

    instance: str
    level: str  # debug, info, warning, error
    message: str


Output = Tables | Socket | Watch | Event | Line
