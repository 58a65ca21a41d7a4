"""Routes as values: what protocols offer, and what the FIB gets.

The numbers of `HopKind` and `Protocol` are those of `fastpath/include/abi/tables.h`; a unit test
compares them.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, Final

from vrouter.net.address import Address, Prefix


class HopKind(enum.IntEnum):
    """What happens to a packet; enum nexthop_kind."""

    FORWARD = 1
    CONNECTED = 2
    LOCAL = 3
    BROADCAST = 4
    BLACKHOLE = 5
    UNREACHABLE = 6


class Protocol(enum.IntEnum):
    """Where a route comes from; enum route_protocol."""

    LOCAL = 1
    CONNECTED = 2
    STATIC = 3
    BGP = 4
    OSPF = 5
    RIP = 6
    ISIS = 7
    LEAK = 8


# Smaller wins.
PREFERENCE: Final = {
    Protocol.LOCAL: 0,
    Protocol.CONNECTED: 0,
    Protocol.STATIC: 1,
    Protocol.BGP: 20,  # of another AS; IBGP_PREFERENCE within one
    Protocol.OSPF: 110,
    Protocol.RIP: 120,
    Protocol.LEAK: 150,
}
IBGP_PREFERENCE: Final = 200


@dataclass(frozen=True, slots=True)
class Hop:
    """A next hop.  FORWARD without an interface is recursive: the RIB finds the way to `via`."""

    kind: HopKind
    interface: str = ""
    via: Address | None = None
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Route:
    """What a protocol offers for a prefix; several hops share the flows.

    A protocol has one route to a prefix for each `source`, which for connected routes is the interface.
    """

    prefix: Prefix
    protocol: Protocol
    hops: tuple[Hop, ...]
    preference: int = 0
    metric: int = 0
    source: str = ""
    tag: int = 0
    origin: Any = None  # what the protocol keeps of where it comes from: told by `explain`, seen by policies


@dataclass(frozen=True, slots=True)
class FibChange:
    """What the FIB must hold for a prefix from now on; None: nothing."""

    prefix: Prefix
    route: Route | None  # every hop resolved to an interface that is up
    bulk: bool = False  # BGP's own table has written a route of its own to it: there is nothing to remove
    backup: tuple[Hop, ...] = ()  # of the next best route: where packets go while none of the route's hops can be used
