"""What goes out to a neighbor: which paths, with which attributes, in which messages.

RFC 4271 sections 5.1 and 9.1.3; 1997 (NO_EXPORT, NO_ADVERTISE), 4456 section 8, 9234 section 5, 7911 section 3,
8950 section 4, 6793 section 4.2.2, 4724 section 2 (End-of-RIB), 8654 section 5 (a route whose attributes a message to
this neighbor cannot hold is not sent).

Routes wait in buckets, one for each set of attributes as it will leave; a bucket leaves as full UPDATEs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from vrouter.net.address import IPV4, Address, Prefix
from vrouter.rib.bgp_reference.paths import DEFAULT_LOCAL_PREF, LOCAL, Path, sort_key
from vrouter.rib.bgp_reference.rules import Outcome, run_policy
from vrouter.rib.bgp_table import Afi, FamilySettings, Identity, PeerKind, PeerSettings
from vrouter.wire.bgp.attributes import Attributes, Segment, encode
from vrouter.wire.bgp.capabilities import Role
from vrouter.wire.bgp.message import MAX_EXTENDED, MAX_LENGTH
from vrouter.wire.bgp.update import NextHops, Nlri, Packer, end_of_rib, take_withdrawn

NO_EXPORT: Final = 0xFFFFFF01
NO_ADVERTISE: Final = 0xFFFFFF02
NO_EXPORT_SUBCONFED: Final = 0xFFFFFF03
_NON_TRANSITIVE_EXTENDED: Final = 0x40
_TO_BELOW: Final = frozenset({Role.PROVIDER, Role.ROUTE_SERVER, Role.PEER})
_TO_ABOVE: Final = frozenset({Role.CUSTOMER, Role.ROUTE_SERVER_CLIENT, Role.PEER})
_LONGEST_NLRI: Final = {Afi.IPV4: 5, Afi.IPV6: 17}


@dataclass(frozen=True, slots=True)
class Leaving:
    """A path as a neighbor will see it; `hops`: in MP_REACH_NLRI."""

    attributes: bytes
    hops: NextHops | None


def leaving(
    prefix: Prefix, path: Path, number: int, peer: PeerSettings, identity: Identity, policies: Any
) -> Leaving | None:
    """Give a path as the neighbor `number` is told of it; None: it is not."""
    afi = Afi.IPV4 if prefix.family == IPV4 else Afi.IPV6
    family = peer.families[afi]
    if family.export_deny or not _may_leave(path, number, peer):
        return None
    outcome = Outcome(path.attributes, med_set=path.peer == LOCAL)
    if family.export_policy:
        address = path.next_hops.address if path.next_hops else None
        asked = run_policy(
            policies,
            family.export_policy,
            prefix,
            path.attributes,
            address,
            peer.address,
            peer.interface,
            protocol=path.protocol,
            weight=path.weight,
            tag=path.tag,
        )
        if asked is None or asked.next_hop == "discard":
            return None
        outcome = replace(asked, med_set=asked.med_set or path.peer == LOCAL)
    hops = _next_hops(path, outcome, peer, family)
    if hops is None or (hops.address.family != prefix.family and not _other_family(prefix, hops, family)):
        return None
    attributes = _rewrite(path, outcome, peer, identity)
    if hops.address.family == IPV4:
        result = Leaving(encode(replace(attributes, next_hop=hops.address), as4=peer.as4), None)
    else:
        result = Leaving(encode(replace(attributes, next_hop=None), as4=peer.as4), hops)
    longest = _LONGEST_NLRI[afi] + (4 if family.send_paths else 0)
    return result if _packer(afi, result, peer, family).room() >= longest else None


def _may_leave(path: Path, number: int, peer: PeerSettings) -> bool:
    """Apply what no policy may override."""
    if path.peer == number:
        return False
    communities = path.attributes.communities
    if NO_ADVERTISE in communities:
        return False
    if peer.kind is PeerKind.EXTERNAL:
        if NO_EXPORT in communities or NO_EXPORT_SUBCONFED in communities:
            return False
        return path.attributes.otc is None or peer.role not in _TO_ABOVE
    if path.kind is PeerKind.INTERNAL and peer.kind is PeerKind.INTERNAL:
        return False
    return path.kind in {None, PeerKind.EXTERNAL} or path.attributes.originator_id != peer.router_id


def _next_hops(path: Path, outcome: Outcome, peer: PeerSettings, family: FamilySettings) -> NextHops | None:
    """Give the next hop to be told; None: there is none that may be."""
    own = None if family.next_hop is None else NextHops(family.next_hop, family.next_hop_link_local)
    if isinstance(outcome.next_hop, Address):
        return NextHops(outcome.next_hop)
    if outcome.next_hop == "peer":
        return NextHops(peer.address)
    if outcome.next_hop == "self" or path.next_hops is None or path.discard:
        return own
    if peer.next_hop_unchanged:
        return path.next_hops
    if peer.kind is PeerKind.EXTERNAL:
        return own
    reflected = path.kind in {PeerKind.INTERNAL, PeerKind.CLIENT}
    if (peer.next_hop_self and not reflected) or path.tracked is None or path.tracked.interface:
        return own
    return NextHops(path.next_hops.address)


def _other_family(prefix: Prefix, hops: NextHops, family: FamilySettings) -> bool:
    return prefix.family == IPV4 and hops.address.family != IPV4 and family.extended_next_hop


def _rewrite(path: Path, outcome: Outcome, peer: PeerSettings, identity: Identity) -> Attributes:
    """Give the attributes of one that leaves, but for the next hop."""
    attributes = outcome.attributes
    if not peer.send_communities:
        attributes = replace(attributes, communities=(), extended=(), large=())
    if peer.kind is not PeerKind.EXTERNAL:
        return _rewrite_internal(attributes, path, identity)
    if not outcome.med_set:
        attributes = replace(attributes, med=None)
    segments = attributes.as_path
    if peer.remove_private_as:
        # The neighbor's own number stays, or it could not see that the path leads back to it.
        segments = _without_private(segments, 0 if peer.as_override else peer.remote_as)
    if peer.as_override:
        segments = _replaced(segments, peer.remote_as, peer.local_as)
    otc = attributes.otc
    if otc is None and peer.role in _TO_BELOW:
        otc = peer.local_as
    attributes = replace(
        attributes,
        as_path=segments,
        otc=otc,
        local_pref=None,
        originator_id=None,
        cluster_list=(),
        extended=tuple(value for value in attributes.extended if not value[0] & _NON_TRANSITIVE_EXTENDED),
    )
    if peer.local_as != identity.local_as:
        attributes = attributes.prepend(identity.local_as)
    return attributes.prepend(peer.local_as)


def _rewrite_internal(attributes: Attributes, path: Path, identity: Identity) -> Attributes:
    """Rewrite for a neighbor within the AS; RFC 4456 section 8 for what is reflected."""
    if attributes.local_pref is None:
        attributes = replace(attributes, local_pref=DEFAULT_LOCAL_PREF)
    if path.kind in {None, PeerKind.EXTERNAL}:
        return attributes
    originator = path.router_id if attributes.originator_id is None else attributes.originator_id
    cluster = identity.cluster_id or identity.router_id
    return replace(attributes, originator_id=originator, cluster_list=(cluster, *attributes.cluster_list))


def is_private(asn: int) -> bool:
    """Tell whether an AS number is for private use; RFC 6996."""
    return 64512 <= asn <= 65534 or 4200000000 <= asn <= 4294967294


def _without_private(path: tuple[Segment, ...], keep: int) -> tuple[Segment, ...]:
    kept = (Segment(kind, tuple(asn for asn in asns if asn == keep or not is_private(asn))) for kind, asns in path)
    return tuple(segment for segment in kept if segment.asns)


def _replaced(path: tuple[Segment, ...], old: int, new: int) -> tuple[Segment, ...]:
    return tuple(Segment(kind, tuple(new if asn == old else asn for asn in asns)) for kind, asns in path)


def _packer(afi: Afi, leaving_: Leaving, peer: PeerSettings, family: FamilySettings) -> Packer:
    return Packer(afi, leaving_.attributes, leaving_.hops, add_path=bool(family.send_paths), limit=message_limit(peer))


def message_limit(peer: PeerSettings) -> int:
    """Give the bytes of the longest message for a neighbor."""
    return MAX_EXTENDED if peer.extended_messages else MAX_LENGTH


@dataclass(slots=True)
class FamilyOut:
    """What a neighbor was told of a family, and what it is yet to be told."""

    sent: dict[Nlri, Leaving] = field(default_factory=dict)
    buckets: dict[Leaving | None, set[Nlri]] = field(default_factory=dict)  # None: to be withdrawn
    waiting: dict[Nlri, Leaving | None] = field(default_factory=dict)  # in which bucket
    walk: list[Prefix] | None = None  # the rest of the whole table, the last first
    again: bool = False  # the walk is a refresh: what was sent is sent again
    end_of_rib: bool = False  # owed

    def known(self, prefix: Prefix, *, paths: bool) -> list[Nlri]:
        """Give what the neighbor may know of a prefix."""
        if not paths:
            return [Nlri(prefix)]
        return sorted({nlri for nlri in (*self.sent, *self.waiting) if nlri.prefix == prefix})

    def put(self, nlri: Nlri, new: Leaving | None, *, again: bool = False) -> None:
        """Let a route leave, unless the neighbor knows it so."""
        old = self.waiting.pop(nlri, nlri)
        if not isinstance(old, Nlri):
            self.buckets[old].discard(nlri)
        if new == self.sent.get(nlri) and not (again and new is not None):
            return
        self.buckets.setdefault(new, set()).add(nlri)
        self.waiting[nlri] = new

    def take_message(self, afi: Afi, peer: PeerSettings, room: int) -> bytes:
        """Give the next message, if it has at most `room` bytes; b"": there is none, or not now."""
        if self.walk is not None:
            return b""
        family = peer.families[afi]
        bucket = self._next_bucket()
        if bucket is None:
            if not self.end_of_rib or room < len(end_of_rib(afi)):
                return b""
            self.end_of_rib = False
            return end_of_rib(afi)
        what, members = bucket
        routes = sorted(members, key=lambda nlri: (*sort_key(nlri.prefix), nlri.path_id))
        add_path = bool(family.send_paths)
        if what is None:
            message, count = take_withdrawn(afi, routes, add_path=add_path, limit=message_limit(peer))
        else:
            message, count = _packer(afi, what, peer, family).take(routes)
        if len(message) > room:
            return b""
        self._leave(what, routes[:count])
        return message

    def _next_bucket(self) -> tuple[Leaving | None, set[Nlri]] | None:
        """Give the bucket to leave: the withdrawals, else the oldest."""
        for what in [None, *list(self.buckets)]:
            members = self.buckets.get(what)
            if members:
                return what, members
            self.buckets.pop(what, None)
        return None

    def _leave(self, what: Leaving | None, routes: Iterable[Nlri]) -> None:
        for nlri in routes:
            self.buckets[what].discard(nlri)
            del self.waiting[nlri]
            if what is None:
                self.sent.pop(nlri, None)
            else:
                self.sent[nlri] = what
