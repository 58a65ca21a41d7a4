"""What this router announces of itself: networks, and routes of other protocols (RFC 4271 section 9.4)."""

from __future__ import annotations

from typing import Any, Final

from vrouter.config.bgp import Bgp
from vrouter.net.address import Address, Prefix, parse_prefix
from vrouter.proto.base import Output, Redistribute, RouteEvent
from vrouter.rib.route import HopKind, Protocol, Route
from vrouter.rib.route_view import route_view
from vrouter.wire.bgp.attributes import Attributes, Origin, Segment, SegmentKind, encode

_PROTOCOLS: Final = {
    "connected": Protocol.CONNECTED,
    "static": Protocol.STATIC,
    "ospf": Protocol.OSPF,
    "rip": Protocol.RIP,
    "leak": Protocol.LEAK,
}
_Offer = tuple[Address | None, bytes, Protocol]


class Origination:
    """The local routes of the table."""

    def __init__(self, table: Any) -> None:
        self._table = table
        self._networks: set[Prefix] = set()
        self._policies: dict[Protocol, str | None] = {}  # by protocol that is redistributed
        self._programs: dict[Protocol, int] = {}
        self._set: Any = None
        self._routes: dict[Prefix, tuple[Protocol, Route]] = {}
        self._offered: dict[Prefix, _Offer] = {}

    def configure(self, bgp: Bgp | None, policies: Any) -> list[Output]:
        """Take what is to be announced."""
        networks = {parse_prefix(text) for text in bgp.networks} if bgp is not None else set()
        entries = bgp.redistribute if bgp is not None else ()
        wanted = {_PROTOCOLS[entry.protocol]: entry.policy for entry in entries}
        programs = {
            protocol: policies.number(name) for protocol, name in wanted.items() if name and policies is not None
        }
        outputs: list[Output] = []
        if wanted.keys() != self._policies.keys():
            outputs.append(Redistribute(tuple(sorted(wanted))))
        touched = networks ^ self._networks
        if (wanted, programs) != (self._policies, self._programs):
            touched |= self._routes.keys()
        self._networks, self._policies, self._programs, self._set = networks, wanted, programs, policies
        for prefix, (protocol, _) in list(self._routes.items()):
            if protocol not in wanted:
                del self._routes[prefix]
        self._offer(touched)
        return outputs

    def routes_changed(self, events: tuple[RouteEvent, ...]) -> None:
        """Take routes of other protocols."""
        for event in events:
            if event.route is None or event.protocol not in self._policies:
                self._routes.pop(event.prefix, None)
            else:
                self._routes[event.prefix] = event.protocol, event.route
        self._offer({event.prefix for event in events})

    def _offer(self, prefixes: set[Prefix]) -> None:
        """Let the table know what holds for some prefixes."""
        for prefix in sorted(prefixes):
            offer = self._judge(prefix)
            if offer == self._offered.get(prefix):
                continue
            if offer is None:
                del self._offered[prefix]
                self._table.unoriginate(prefix)
            else:
                self._offered[prefix] = offer
                self._table.originate(prefix, *offer)

    def _judge(self, prefix: Prefix) -> _Offer | None:
        """Give the local route to a prefix; a network wins over a redistributed route."""
        if prefix in self._networks:
            return None, encode(Attributes(origin=Origin.IGP)), Protocol.BGP
        if prefix not in self._routes:
            return None
        protocol, route = self._routes[prefix]
        attributes = Attributes(origin=Origin.INCOMPLETE, med=route.metric)
        name = self._policies[protocol]
        if not name:
            return _next_hop(route), encode(attributes), protocol
        if self._set is None:
            return None
        verdict = self._set.evaluate(name, route_view(route))
        if not verdict.accept:
            return None
        changes = verdict.changes
        changed = Attributes(
            origin=attributes.origin if changes.origin is None else changes.origin,
            as_path=(Segment(SegmentKind.SEQUENCE, changes.prepend),) if changes.prepend else (),
            med=_first(changes.med, changes.metric, route.metric),
            local_pref=changes.local_pref,
            communities=changes.communities or (),
            large=changes.large or (),
            extended=tuple(value.to_bytes(8, "big") for value in changes.extended or ()),
        )
        return _next_hop(route), encode(changed), protocol

    def count(self) -> int:
        """Count the local routes."""
        return len(self._offered)


def _next_hop(route: Route) -> Address | None:
    """Give the next hop that neighbors within the AS may be told; none of a route that is ours alone."""
    hop = route.hops[0] if len(route.hops) == 1 else None
    return None if hop is None or hop.kind is not HopKind.FORWARD else hop.via


def _first(*values: int | None) -> int | None:
    return next((value for value in values if value is not None), None)
