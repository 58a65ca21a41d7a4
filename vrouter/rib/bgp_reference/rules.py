"""Route policies of `vrouter/rib/policy.py`, asked about a path of BGP."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from vrouter.net.address import Address, Prefix
from vrouter.rib.route import Protocol
from vrouter.rib.route_view import Changes, RouteView
from vrouter.wire.bgp.attributes import Attributes, Segment, SegmentKind, Type


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a policy makes of a path that it accepts."""

    attributes: Attributes
    next_hop: Address | str | None = None  # an address, "self", "peer", "discard"; None: as it was
    med_set: bool = False
    weight: int | None = None
    preference: int | None = None
    tag: int = 0


def run_policy(
    policies: Any,
    number: int,
    prefix: Prefix,
    attributes: Attributes,
    next_hop: Address | None,
    neighbor: Address,
    interface: str,
    *,
    protocol: Protocol = Protocol.BGP,
    weight: int = 0,
    tag: int = 0,
) -> Outcome | None:
    """Ask a policy; None: it rejects.  One that is not there rejects (RFC 8212)."""
    if policies is None:
        return None
    view = RouteView(
        prefix=prefix,
        protocol=protocol,
        origin=attributes.origin,
        as_path=tuple((int(kind), asns) for kind, asns in attributes.as_path),
        next_hop=next_hop,
        local_pref=attributes.local_pref,
        med=attributes.med,
        communities=attributes.communities,
        large=attributes.large,
        extended=tuple(int.from_bytes(value, "big") for value in attributes.extended),
        tag=tag,
        weight=weight,
        neighbor=neighbor,
        interface=interface,
    )
    verdict = policies.evaluate(number, view)
    if not verdict.accept:
        return None
    changes: Changes = verdict.changes
    to = changes.next_hop
    return Outcome(
        _attributes(attributes, changes.apply(view)),
        None if to is None else (to.address or to.kind),
        changes.med is not None,
        changes.weight,
        changes.preference,
        tag if changes.tag is None else changes.tag,
    )


def _attributes(before: Attributes, view: RouteView) -> Attributes:
    """Put what a policy has made of a path back into its attributes."""
    lists = (
        (Type.COMMUNITIES, view.communities),
        (Type.EXTENDED_COMMUNITIES, view.extended),
        (Type.LARGE_COMMUNITIES, view.large),
    )
    return replace(
        before,
        origin=before.origin if view.origin is None else view.origin,
        as_path=tuple(Segment(SegmentKind(kind), asns) for kind, asns in view.as_path or ()),
        local_pref=view.local_pref,
        med=view.med,
        communities=view.communities,
        large=view.large,
        extended=tuple(value.to_bytes(8, "big") for value in view.extended),
        partial=before.partial - {kind for kind, values in lists if not values},
    )
