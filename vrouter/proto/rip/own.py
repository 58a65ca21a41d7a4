"""What RIP announces of itself: networks of its interfaces, a default route, and other protocols' routes.

A network of ours comes before the default route, and that before what is redistributed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from vrouter.config.rip import Rip, Ripng, RipRedistribution
from vrouter.net.address import IPV6, Address, Prefix, is_link_local, is_loopback
from vrouter.proto.base import RouteEvent
from vrouter.proto.rip.policies import Policies
from vrouter.proto.rip.port import Port
from vrouter.proto.rip.table import Own, Table
from vrouter.rib.route import HopKind, Protocol, Route

SOURCES: Final = {
    "connected": Protocol.CONNECTED,
    "static": Protocol.STATIC,
    "bgp": Protocol.BGP,
    "ospf": Protocol.OSPF,
    "leak": Protocol.LEAK,
}


class OwnRoutes:
    """Where our own announcements come from; `announce` and `take` keep the table in line with it."""

    def __init__(self, family: int) -> None:
        self._family = family
        self._networks: dict[Prefix, Own] = {}
        self._external: dict[Prefix, Route] = {}
        self._sources: dict[Protocol, RipRedistribution] = {}
        self._default: Own | None = None
        self._policies = Policies(None)

    def configure(self, settings: Rip | Ripng, policies: Policies) -> tuple[Protocol, ...] | None:
        """Take settings; gives the protocols to hear of if they are others than before."""
        sources = {SOURCES[each.protocol]: each for each in settings.redistribute}
        before, self._sources = tuple(self._sources), sources
        self._external = {prefix: route for prefix, route in self._external.items() if route.protocol in sources}
        default = settings.default_information
        self._default = Own("default", default.metric) if default is not None and default.enabled else None
        self._policies = policies
        return tuple(sources) if tuple(sources) != before else None

    def announce(self, table: Table, ports: Iterable[Port], now: float) -> None:
        """Bring the table in line with interfaces and configuration."""
        self._networks = {}
        for port in ports:
            for prefix in port.networks:
                if _can_be_announced(prefix):
                    # RFC 2453 section 3.6: a network costs what its interface does.
                    self._networks.setdefault(prefix, Own("connected", port.settings.metric, interface=port.name))
        wanted = {*self._networks, *self._external, Prefix(self._family, 0, 0)}
        wanted |= {prefix for prefix, row in table.rows.items() if row.own is not None}
        for prefix in sorted(wanted):
            table.set_own(prefix, self._own(prefix), now)

    def take(self, table: Table, events: tuple[RouteEvent, ...], now: float) -> None:
        """Take routes of other protocols, and let go of those that are no longer used."""
        for event in events:
            prefix = event.prefix
            if prefix.family != self._family or not _can_be_announced(prefix):
                continue
            if event.route is not None and event.protocol in self._sources:
                self._external[prefix] = event.route
            elif prefix in self._external and self._external[prefix].protocol is event.protocol:
                del self._external[prefix]
            table.set_own(prefix, self._own(prefix), now)

    def _own(self, prefix: Prefix) -> Own | None:
        if prefix in self._networks:
            return self._networks[prefix]
        if self._default is not None and prefix.length == 0:
            return self._default
        route = self._external.get(prefix)
        return self._redistributed(route) if route is not None else None

    def _redistributed(self, route: Route) -> Own | None:
        source = self._sources[route.protocol]
        judged = self._policies.redistributed(source.policy, route, source.metric)
        if judged is None:
            return None
        own = Own(source.protocol, *judged, preference=route.preference)
        first = route.hops[0] if route.hops else None
        if first is None or first.kind is not HopKind.FORWARD or first.via is None or first.via.family != self._family:
            return own
        if self._family == IPV6 and not is_link_local(first.via):
            return own  # RFC 2080 section 2.1.1: a next hop is a link-local address
        return replace(own, interface=first.interface, next_hop=first.via)


def _can_be_announced(prefix: Prefix) -> bool:
    first = Address(prefix.family, prefix.value)
    return not is_loopback(first) and not is_link_local(first)
