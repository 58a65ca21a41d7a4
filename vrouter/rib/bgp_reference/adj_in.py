"""What comes in from a neighbor: may a path be used, and with which attributes.

RFC 4271 section 9.1.2 (loops), 4456 section 8 (reflection), 9234 section 5 (route leaks), 8212 (no policy, no routes).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from vrouter.net.address import BITS, IPV4, Address, Prefix, is_loopback, parse_prefix
from vrouter.rib.bgp_reference.rules import Outcome, run_policy
from vrouter.rib.bgp_table import FamilySettings, Identity, PeerKind, PeerSettings
from vrouter.wire.bgp.attributes import Attributes
from vrouter.wire.bgp.capabilities import Role
from vrouter.wire.bgp.update import NextHops

_MULTICAST6: Final = 0xFF
_FROM_BELOW: Final = frozenset({Role.PROVIDER, Role.ROUTE_SERVER})  # our roles towards customers and clients
_FROM_ABOVE: Final = frozenset({Role.CUSTOMER, Role.ROUTE_SERVER_CLIENT, Role.PEER})


@dataclass(frozen=True, slots=True)
class Judged:
    """A path as it enters the table."""

    attributes: Attributes
    next_hops: NextHops
    refused: str = ""
    discard: bool = False
    weight: int | None = None
    preference: int | None = None
    tag: int = 0


# What lies in these is ignored: no destination beyond a link; RFC 4271 section 6.3.
_MARTIANS: Final = tuple(
    map(
        parse_prefix,
        ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "ff00::/8", "fe80::/10", "::/128", "::1/128"),
    )
)


def martian(prefix: Prefix) -> bool:
    """Tell whether a prefix can be no route."""
    return any(
        prefix.family == block.family
        and prefix.length >= block.length
        and (prefix.value ^ block.value) >> BITS[block.family] - block.length == 0
        for block in _MARTIANS
    )


def judge(
    prefix: Prefix, attributes: Attributes, hops: NextHops, peer: PeerSettings, identity: Identity, policies: Any
) -> Judged:
    """Judge a path that a neighbor offers."""
    family = peer.families.get({4: 1, 6: 2}[prefix.family], FamilySettings())  # type: ignore[call-overload]
    refused = _loop(attributes, peer, identity) or ("next-hop" if _martian(hops.address) else "")
    if peer.kind is PeerKind.EXTERNAL:
        leaked, attributes = _check_role(attributes, peer)
        refused = refused or leaked
    if not refused and family.import_deny:
        refused = "no-policy"
    if refused:
        return Judged(attributes, hops, refused)
    if not family.import_policy:
        return Judged(attributes, hops)
    outcome = run_policy(
        policies,
        family.import_policy,
        prefix,
        attributes,
        hops.address,
        peer.address,
        peer.interface,
        weight=peer.weight,
    )
    if outcome is None:
        return Judged(attributes, hops, "policy")
    return _changed(outcome, hops, peer)


def _changed(outcome: Outcome, hops: NextHops, peer: PeerSettings) -> Judged:
    """Apply what the import policy says beside attributes."""
    if outcome.next_hop == "peer":
        hops = NextHops(peer.address)
    elif isinstance(outcome.next_hop, Address):
        hops = NextHops(outcome.next_hop)
    discard = outcome.next_hop == "discard"
    return Judged(outcome.attributes, hops, "", discard, outcome.weight, outcome.preference, outcome.tag)


def _loop(attributes: Attributes, peer: PeerSettings, identity: Identity) -> str:
    """Tell whether a path went through this router, or its cluster, before."""
    own = {identity.local_as, peer.local_as}
    if sum(asn in own for asn in attributes.asns()) > peer.allow_own_as:
        return "as-loop"
    if attributes.originator_id == identity.router_id:
        return "originator"
    if (identity.cluster_id or identity.router_id) in attributes.cluster_list:
        return "cluster"
    return ""


def _martian(address: Address) -> bool:
    """Tell whether an address can be no next hop; RFC 4271 section 6.3."""
    if is_loopback(address) or address.value == 0:
        return True
    if address.family == IPV4:
        return address.value >> 24 == 0 or address.value >> 28 >= 0xE
    return address.value >> 120 == _MULTICAST6


def _check_role(attributes: Attributes, peer: PeerSettings) -> tuple[str, Attributes]:
    """Find leaks by the Only-to-Customer attribute, and add it; RFC 9234 section 5."""
    otc = attributes.otc
    if otc is not None and (peer.role in _FROM_BELOW or (peer.role == Role.PEER and otc != peer.remote_as)):
        return "otc", attributes
    if otc is None and peer.role in _FROM_ABOVE:
        return "", replace(attributes, otc=peer.remote_as)
    return "", attributes
