"""The contract of routing protocols: inputs in, outputs out, nothing else.

    configure(new, now) ----+
    received(packet, ...) --+
    accepted, connected,    |
    stream, writable, closed+--> instance --> [OpenSocket, Transmit, Write, RouteAdd, RouteDel, BfdOpen, Notify, ...]
    interface_changed(...) -+          |
    next_hop_changed(...) --+          +--> deadline: when handle_timeout is due
    handle_timeout(now) ----+

An instance has no socket, clock, thread or random source of its own: `now` is seconds of the
caller's monotonic clock, and what needs chance is given a seeded generator.  Sockets are names that the
instance chooses; whoever runs it opens them in the VR's socket layer, on the kernel, or in a simulated
network.  One runtime serves all protocols; recorder, replay and simulation see the same values.

Nothing that an instance returns depends on the order of a set or on an object's identity: the same inputs
give the same outputs.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from vrouter.config.router import RouterConfig
from vrouter.net.address import Address, Prefix
from vrouter.rib.bgp_table import BgpTable
from vrouter.rib.route import Protocol as RouteProtocol
from vrouter.rib.route import Route

if TYPE_CHECKING:
    from random import Random

# --- what an instance is told ---


@dataclass(frozen=True, slots=True)
class Environment:
    """What an instance is made with."""

    rng: Random
    restarted: bool = False  # a predecessor's routes stand in the FIB: RFC 4724, RFC 3623
    boot: int = 0  # grows with every start: sequence numbers that must never go back (RFC 7474)
    bgp_table: Callable[[], BgpTable] | None = None  # makes one; None: the twin in Python
    accelerators: Any = None  # `fletcher` and `spf` in C; None: their twins in Python


@dataclass(frozen=True, slots=True)
class Setting:
    """The configuration of a VR; an instance takes its own part of it."""

    router: RouterConfig
    policies: Any = None  # vrouter.rib.policy.PolicySet


@dataclass(frozen=True, slots=True)
class Meta:
    """What is known of a received packet beside its bytes."""

    interface: str
    source: Address
    destination: Address
    ttl: int = 0
    source_port: int = 0
    destination_port: int = 0


@dataclass(frozen=True, slots=True)
class OwnAddress:
    """An address of an interface."""

    address: Address
    length: int
    link_local: bool = False


@dataclass(frozen=True, slots=True)
class InterfaceState:
    """All that protocols know of an interface; one that is gone is down and has no addresses."""

    name: str
    up: bool
    mtu: int = 1500
    addresses: tuple[OwnAddress, ...] = ()
    loopback: bool = False
    mac: str = ""
    index: int = 0


@dataclass(frozen=True, slots=True)
class NextHopState:
    """What the RIB knows of a tracked address."""

    address: Address
    reachable: bool
    metric: int = 0
    interface: str = ""  # of the first way to it
    connected: bool = False


@dataclass(frozen=True, slots=True)
class BfdState:
    """The state of a BFD session that an instance has asked for."""

    session: str
    up: bool
    admin_down: bool = False  # signalled by the peer: RFC 5882 section 3.2, no failure
    diagnostic: str = ""


@dataclass(frozen=True, slots=True)
class RouteEvent:
    """A route of another protocol that is used from now on; or, without a route, no longer."""

    prefix: Prefix
    protocol: RouteProtocol
    route: Route | None


# --- what an instance asks for ---


class SocketKind(enum.Enum):
    """What a socket is."""

    UDP = "udp"
    RAW = "raw"
    LISTEN = "listen"  # TCP
    CONNECT = "connect"  # TCP


@dataclass(frozen=True, slots=True)
class Md5Key:
    """A key of RFC 2385 for the peers in a prefix; an empty key takes it away."""

    peers: Prefix
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class OpenSocket:
    """Open a socket; `opened` or `closed` tells how that went, for CONNECT `connected` or `closed`.

    What comes in on a RAW socket of IPv4 begins behind the IP header; an ICMPv6 checksum is the stack's work.
    """

    socket: str  # chosen by the instance, unique in it until the socket is closed
    kind: SocketKind
    family: int
    protocol: int = 0  # of RAW
    local: Address | None = None
    local_port: int = 0
    remote: Address | None = None  # of CONNECT
    remote_port: int = 0
    interface: str = ""  # bound to it; a link-local address needs one
    ttl: int = 0  # of what is sent, multicast too; 0: the stack's
    min_ttl: int = 0  # of what is taken: RFC 5082
    tos: int = 0
    broadcast: bool = False
    groups: tuple[tuple[str, Address], ...] = ()  # (interface, group)
    md5: tuple[Md5Key, ...] = ()


@dataclass(frozen=True, slots=True)
class JoinGroup:
    """Join a multicast group on an interface."""

    socket: str
    interface: str
    group: Address


@dataclass(frozen=True, slots=True)
class LeaveGroup:
    """Leave a multicast group on an interface."""

    socket: str
    interface: str
    group: Address


@dataclass(frozen=True, slots=True)
class SetKeys:
    """Set or take away keys of RFC 2385 of a socket that is open."""

    socket: str
    md5: tuple[Md5Key, ...]


@dataclass(frozen=True, slots=True)
class SetMinTtl:
    """Change what TTL is asked of received segments (RFC 5082), and what TTL is sent."""

    socket: str
    min_ttl: int
    ttl: int


@dataclass(frozen=True, slots=True)
class CloseSocket:
    """Close a socket: in good order after what was written, or by a reset."""

    socket: str
    reset: bool = False


@dataclass(frozen=True, slots=True)
class Transmit:
    """Send a datagram by a UDP or RAW socket."""

    socket: str
    destination: Address
    data: bytes
    port: int = 0
    interface: str = ""
    source: Address | None = None


@dataclass(frozen=True, slots=True)
class Write:
    """Append to a stream.  `writable` tells when all of it has been taken by the stack."""

    socket: str
    data: bytes


@dataclass(frozen=True, slots=True)
class RouteAdd:
    """Offer routes, in the place of earlier ones with the same protocol, prefix and source."""

    routes: tuple[Route, ...]


@dataclass(frozen=True, slots=True)
class RouteDel:
    """Withdraw routes."""

    routes: tuple[Route, ...]


@dataclass(frozen=True, slots=True)
class Settled:
    """All that can be learnt again after a restart has been learnt: what is stale may go from the FIB."""

    protocol: RouteProtocol


@dataclass(frozen=True, slots=True)
class Track:
    """Tell by `next_hop_changed` how an address is reached, now and on each change."""

    address: Address


@dataclass(frozen=True, slots=True)
class Untrack:
    """No longer tell."""

    address: Address


@dataclass(frozen=True, slots=True)
class Redistribute:
    """Tell by `routes_changed` of the routes in use of these protocols, from now on all of them; empty: none."""

    protocols: tuple[RouteProtocol, ...]


@dataclass(frozen=True, slots=True)
class BfdOpen:
    """Watch a neighbor by BFD, or change how; several instances may share the session.

    Times are seconds.  `multihop` is RFC 5883; a single hop needs its interface (RFC 5881).
    """

    session: str  # chosen by the instance
    remote: Address
    local: Address | None = None
    interface: str = ""
    multihop: bool = False
    transmit_interval: float = 0.3
    receive_interval: float = 0.3
    multiplier: int = 3
    echo_interval: float = 0  # 0: no echo
    authentication: tuple[str, int, bytes] | None = None  # kind, key id, key
    passive: bool = False
    min_ttl: int = 0  # multihop
    routes: bool = True  # when it fails, next-hop groups leave the neighbor out until routes have been judged


@dataclass(frozen=True, slots=True)
class BfdClose:
    """No longer watch."""

    session: str


@dataclass(frozen=True, slots=True)
class Notify:
    """Tell operators and apps of an event."""

    event: str
    details: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Log:
    """Write a line to the log."""

    level: str  # debug, info, warning, error
    message: str


Output = (
    OpenSocket | JoinGroup | LeaveGroup | SetKeys | SetMinTtl | CloseSocket | Transmit | Write
    | RouteAdd | RouteDel | Settled | Track | Untrack | Redistribute | BfdOpen | BfdClose | Notify | Log
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reconfigured:
    """The answer to `configure`: done live, or the instance must be made anew."""

    live: bool
    outputs: tuple[Output, ...] = ()


class Instance(Protocol):
    """What the runtime calls.  `Silent` has a body for each, for those that need not all."""

    @property
    def size(self) -> int:
        """How many entries it knows beside its routes, all of which one input may make it go through."""

    @property
    def deadline(self) -> float | None:
        """When handle_timeout is due, by the clock of `now`; None: never."""

    def configure(self, new: Setting, now: float) -> Reconfigured:
        """Take a configuration, the first or another; one that equals the present one gives no output."""

    def opened(self, socket: str, now: float) -> list[Output]:
        """Take note that a UDP, RAW or LISTEN socket is open."""

    def connected(self, socket: str, local: Address, remote: Address, now: float) -> list[Output]:
        """Take note that a CONNECT socket is connected."""

    def accepted(self, listener: str, socket: str, local: Address, remote: Address, now: float) -> list[Output]:
        """Take a connection that came in; `socket` is its name from now on, and CloseSocket refuses it."""

    def received(self, socket: str, packet: bytes, meta: Meta, now: float) -> list[Output]:
        """Take a datagram."""

    def stream(self, socket: str, data: bytes, now: float) -> list[Output]:
        """Take bytes of a connection; none: the peer has ended its side."""

    def writable(self, socket: str, now: float) -> list[Output]:
        """Take note that all that was written is on its way."""

    def closed(self, socket: str, error: int, now: float) -> list[Output]:
        """Take note that a socket could not be opened, or is gone; `error` is an errno, 0 for none.

        ECONNABORTED of a stream: this router's own forwarder is gone, the neighbor knows of nothing.
        """

    def handle_timeout(self, now: float) -> list[Output]:
        """Do what is due."""

    def interface_changed(self, state: InterfaceState, now: float) -> list[Output]:
        """Take note of an interface, each at the start and on each change."""

    def next_hop_changed(self, state: NextHopState, now: float) -> list[Output]:
        """Take note of a tracked address."""

    def routes_changed(self, events: tuple[RouteEvent, ...], now: float) -> list[Output]:
        """Take note of routes of other protocols, as Redistribute asked."""

    def bfd_changed(self, state: BfdState, now: float) -> list[Output]:
        """Take note of a BFD session."""

    def show(self, query: str, arguments: Mapping[str, Any], now: float) -> Any:
        """Answer an operator with plain data.  Raises KeyError for an unknown query."""

    def clear(self, query: str, arguments: Mapping[str, Any], now: float) -> list[Output]:
        """Do what an operator asks for: reset a session, refresh routes.  Raises KeyError."""

    def stop(self, now: float) -> list[Output]:
        """Say goodbye: nothing else is asked any more, sockets are closed and routes withdrawn after it."""


class Silent:
    """An instance that does nothing when told something."""

    @property
    def size(self) -> int:
        """None to speak of."""
        return 0

    @property
    def deadline(self) -> float | None:
        """Nothing is ever due."""
        return None

    def opened(self, socket: str, now: float) -> list[Output]:  # noqa: ARG002
        """Do nothing."""
        return []

    def connected(self, socket: str, local: Address, remote: Address, now: float) -> list[Output]:  # noqa: ARG002
        """Do nothing."""
        return []

    def accepted(self, listener: str, socket: str, local: Address, remote: Address, now: float) -> list[Output]:  # noqa: ARG002
        """Do nothing."""
        return []

    def received(self, socket: str, packet: bytes, meta: Meta, now: float) -> list[Output]:  # noqa: ARG002
        """Do nothing."""
        return []

    def stream(self, socket: str, data: bytes, now: float) -> list[Output]:  # noqa: ARG002
        """Do nothing."""
        return []

    def writable(self, socket: str, now: float) -> list[Output]:  # noqa: ARG002
        """Do nothing."""
        return []

    def closed(self, socket: str, error: int, now: float) -> list[Output]:  # noqa: ARG002
        """Do nothing."""
        return []

    def handle_timeout(self, now: float) -> list[Output]:  # noqa: ARG002
        """Do nothing."""
        return []

    def interface_changed(self, state: InterfaceState, now: float) -> list[Output]:  # noqa: ARG002
        """Do nothing."""
        return []

    def next_hop_changed(self, state: NextHopState, now: float) -> list[Output]:  # noqa: ARG002
        """Do nothing."""
        return []

    def routes_changed(self, events: tuple[RouteEvent, ...], now: float) -> list[Output]:  # noqa: ARG002
        """Do nothing."""
        return []

    def bfd_changed(self, state: BfdState, now: float) -> list[Output]:  # noqa: ARG002
        """Do nothing."""
        return []

    def show(self, query: str, arguments: Mapping[str, Any], now: float) -> Any:  # noqa: ARG002
        """Know no query."""
        raise KeyError(query)

    def clear(self, query: str, arguments: Mapping[str, Any], now: float) -> list[Output]:  # noqa: ARG002
        """Know no query."""
        raise KeyError(query)

    def stop(self, now: float) -> list[Output]:  # noqa: ARG002
        """Just go."""
        return []
