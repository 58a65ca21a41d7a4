"""What BGP asks of its table: the contract that the C core and its Python twin both keep.

    bytes of a session --feed--> framing, UPDATE decode, Adj-RIB-In --process--> best paths --export--> bytes
                          |                                              |
                          +--> OPEN, NOTIFICATION, ... for the FSM       +--> next-hop groups, FIB

    fastpath/bgp.py               in C (fastpath/src/bgp), for the VR
    vrouter/rib/bgp_reference/    in Python: the executable specification, the oracle of the fuzzer

Both give the same answers to the same calls.  Free are the order in which routes leave, which of a table's FIB changes
come first, and its own numbers of next hops and of paths sent (tests/property/test_bgp_differential.py).
RFC 4271 sections 4.3, 5, 6.3 and 9; 4456, 4760, 6793, 7606, 7911, 8950, 9234.  IPv4 and IPv6 unicast.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any, Protocol

from vrouter.net.address import Address, Prefix
from vrouter.rib.route import Hop
from vrouter.rib.route import Protocol as RouteProtocol


class Afi(enum.IntEnum):
    """Address families; SAFI is unicast."""

    IPV4 = 1
    IPV6 = 2


class EventKind(enum.IntEnum):
    """What `feed` found that is the session's business."""

    MESSAGE = 1  # any but an UPDATE; `body` is what follows the header
    END_OF_RIB = 2  # of `afi`
    ERROR = 3  # the session must send a NOTIFICATION: code, subcode, body; nothing behind it was read
    MAX_PREFIX = 4  # `afi` has reached the limit of its settings, `count` prefixes
    UPDATE_EARLY = 5  # an UPDATE before `peer_up`: the FSM's error


@dataclass(frozen=True, slots=True)
class Event:
    """Something for the session."""

    kind: EventKind
    type: int = 0
    body: bytes = b""
    code: int = 0
    subcode: int = 0
    afi: int = 0
    count: int = 0


@dataclass(frozen=True, slots=True)
class Fed:
    """What became of some bytes: the last `len(data) - consumed` begin an unfinished message and come again."""

    consumed: int
    events: tuple[Event, ...] = ()
    updates: int = 0


class PeerKind(enum.IntEnum):
    """What a neighbor is to this router."""

    EXTERNAL = 1
    INTERNAL = 2
    CLIENT = 3  # of this route reflector


@dataclass(frozen=True, slots=True)
class FamilySettings:
    """What is agreed and wanted for one family of a session."""

    receive_paths: bool = False  # RFC 7911, as negotiated
    send_paths: int = 0  # at most so many of each prefix; 0: the best without identifiers
    extended_next_hop: bool = False  # RFC 8950, as negotiated
    next_hop: Address | None = None  # ours: next-hop-self, and towards other ASes
    next_hop_link_local: Address | None = None  # ours on a shared link: RFC 2545 section 3
    max_prefixes: int = 0  # 0: no limit
    import_policy: int = 0  # of the policy programs; 0: accept all
    export_policy: int = 0
    import_deny: bool = False  # RFC 8212: no policy configured towards another AS
    export_deny: bool = False


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """What the table must know of an established session."""

    kind: PeerKind
    address: Address
    local_as: int
    remote_as: int
    router_id: int  # the neighbor's BGP identifier
    families: dict[Afi, FamilySettings] = field(default_factory=dict)
    as4: bool = True
    extended_messages: bool = False  # RFC 8654, to the neighbor
    interface: str = ""  # of a session over a link
    role: int = -1  # ours, RFC 9234; -1: none
    next_hop_self: bool = False  # also of routes of other neighbors, within the AS
    next_hop_unchanged: bool = False
    send_communities: bool = True
    remove_private_as: bool = False
    allow_own_as: int = 0  # times that our AS may stand in a path
    as_override: bool = False
    weight: int = 0
    enforce_first_as: bool = True  # an AS_PATH from another AS begins with the neighbor's
    shared_link: bool = True  # third-party next hops on the common subnet may be kept


@dataclass(frozen=True, slots=True)
class Identity:
    """What holds for the whole table."""

    local_as: int
    router_id: int
    cluster_id: int = 0
    multipath: int = 1  # equal paths of other ASes used at a time
    multipath_internal: int = 1
    multipath_relax: bool = False  # paths of equal length through different ASes
    always_compare_med: bool = False
    deterministic_med: bool = True
    compare_router_id: bool = True
    preference_external: int = 20
    preference_internal: int = 200
    preference_local: int = 200


@dataclass(frozen=True, slots=True)
class NextHop:
    """An address that BGP wants resolved; `interface` for a link-local one."""

    id: int
    address: Address
    interface: str = ""


@dataclass(frozen=True, slots=True)
class BulkRoute:
    """The best path of a prefix for others than BGP; without hops: none."""

    prefix: Prefix
    hops: tuple[Hop, ...]  # resolved
    preference: int = 0
    metric: int = 0  # MED
    internal: bool = False
    attributes: bytes = b""  # wire form of the path attributes, 4-byte AS numbers


class BgpTable(Protocol):
    """One VR's BGP routes.  Not thread-safe; every call is bounded by its arguments."""

    slot: int  # prefixes that process() manages in about a millisecond

    def close(self) -> None:
        """Free it: nothing is asked any more.  What it has written to a tables segment stays there."""

    def configure(self, identity: Identity) -> None:
        """Take what holds for all; what is there is judged anew by the next process()."""

    def policies(self, policies: Any) -> None:
        """Take the route policies that settings name by number: a vrouter.rib.policy.PolicySet."""

    def peer_add(self, peer: int) -> None:
        """Make room for a neighbor; numbers are the caller's, 1..65535."""

    def peer_delete(self, peer: int) -> None:
        """Forget a neighbor and all that came from it."""

    def peer_up(self, peer: int, settings: PeerSettings) -> None:
        """Take UPDATEs from now on, and owe the neighbor the table and an End-of-RIB for each family."""

    def peer_change(self, peer: int, settings: PeerSettings) -> None:
        """Take other policies and limits; what leaves is judged anew, what came in needs a route refresh."""

    def peer_down(self, peer: int, keep: tuple[Afi, ...] = ()) -> None:
        """End a session; routes of the families in `keep` become stale (RFC 4724 section 4.2), others go."""

    def peer_flush(self, peer: int, afi: Afi, *, stale_only: bool) -> None:
        """Drop what came from a neighbor in a family; after a restart only what was not sent again."""

    def peer_stale(self, peer: int, afi: Afi) -> None:
        """Mark what came from a neighbor as stale: a route refresh begins (RFC 7313)."""

    def feed(self, peer: int, data: bytes | memoryview) -> Fed:
        """Take bytes of a session; returns what is not an UPDATE.

        Before `peer_up` it stops behind each message, afterwards behind an OPEN, a NOTIFICATION and a ROUTE-REFRESH.
        """

    def originate(
        self,
        prefix: Prefix,
        next_hop: Address | None,
        attributes: bytes = b"",
        protocol: RouteProtocol = RouteProtocol.BGP,
    ) -> None:
        """Offer a local route, to policies one of `protocol`.

        Its attributes are in wire form with 4-byte AS numbers, with ORIGIN and without NEXT_HOP.
        """

    def unoriginate(self, prefix: Prefix) -> None:
        """Withdraw a local route."""

    def process(self, limit: int) -> bool:
        """Choose best paths for at most `limit` prefixes that wait; tell whether more wait."""

    def waiting(self) -> bool:
        """Tell whether process() has something to do."""

    def export(self, peer: int, room: int) -> bytes:
        """Give whole UPDATEs (and End-of-RIBs) that a neighbor is owed, at most `room` (>= 65535) bytes; b"": none."""

    def refresh(self, peer: int, afi: Afi) -> None:
        """Owe a neighbor the whole table of a family again (RFC 2918)."""

    def new_next_hops(self) -> list[NextHop]:
        """Give next hops that came into use since the last call and wait for next_hop_set()."""

    def dead_next_hops(self) -> list[int]:
        """Give the ids of next hops that nobody uses any more; they may come back as new ones."""

    def next_hop_set(self, next_hop: int, metric: int, hops: tuple[Hop, ...]) -> None:
        """Tell the way to a next hop; no hops: it cannot be reached.  Groups flip at once, the rest is process()'s."""

    def hold(self, prefix: Prefix) -> None:
        """Leave a prefix, for which there are routes of other protocols, to the RIB: see held()."""

    def unhold(self, prefix: Prefix) -> None:
        """Take a prefix back."""

    def held(self) -> list[BulkRoute]:
        """Give the best paths of held prefixes that changed since the last call."""

    def watch(self, enabled: bool) -> None:
        """Keep note of changed best paths for changes(); all present ones count as changed."""

    def changes(self, limit: int) -> list[BulkRoute]:
        """Give watched changes, in the order of prefixes within a batch."""

    def lookup(self, address: Address, longest: int = 128) -> BulkRoute | None:
        """Find the longest best path in use for an address of at most `longest` bits."""

    def fib(self, limit: int) -> list[BulkRoute]:
        """Give FIB changes where no tables segment is attached (twin, simulation); empty once drained."""

    def counts(self, peer: int) -> dict[str, Any]:
        """Give counters of a neighbor: received, accepted, sent, stale prefixes per family; updates, errors by kind."""

    def totals(self) -> dict[str, Any]:
        """Give counters of the table: prefixes, paths, attribute sets, bytes."""

    def routes(
        self, afi: Afi, view: str, peer: int = 0, after: Prefix | None = None, limit: int = 1000
    ) -> list[dict[str, Any]]:
        """List paths after a prefix: view "loc" (all paths), "in" (of a peer), "out" (as sent to a peer)."""

    def explain(self, prefix: Prefix) -> list[dict[str, Any]]:
        """Give all paths of a prefix, the best first, each with `reason`: the step at which it lost."""
