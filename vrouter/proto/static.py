"""Static routes: what the operator wrote, offered to the RIB.

Whether a next hop can be reached is the RIB's business; so is what to do when it cannot.
Not supported: tracking a next hop by BFD or probes.
"""

from __future__ import annotations

from typing import Any

from vrouter.config.router import StaticHop, StaticRoute
from vrouter.net.address import Prefix, parse_address, parse_prefix
from vrouter.proto.base import Meta, Output, Reconfigured, RouteAdd, RouteDel
from vrouter.rib.route import PREFERENCE, Hop, HopKind, Protocol, Route


class Static:
    """All static routes of a VR."""

    def __init__(self) -> None:
        self._routes: dict[Prefix, Route] = {}

    @property
    def deadline(self) -> float | None:
        """Nothing is ever due."""
        return None

    def configure(self, new: tuple[StaticRoute, ...], now: float) -> Reconfigured:  # noqa: ARG002
        """Offer what is new or changed, withdraw what is gone."""
        wanted = {route.prefix: route for route in map(_route, new)}
        gone = tuple(route for prefix, route in self._routes.items() if prefix not in wanted)
        changed = tuple(route for prefix, route in wanted.items() if self._routes.get(prefix) != route)
        self._routes = wanted
        outputs: list[Output] = [RouteDel(gone)] if gone else []
        if changed:
            outputs.append(RouteAdd(changed))
        return Reconfigured(live=True, outputs=tuple(outputs))

    def receive(self, packet: bytes, meta: Meta, now: float) -> list[Output]:  # noqa: ARG002
        """Static routes have no packets."""
        return []

    def handle_timeout(self, now: float) -> list[Output]:  # noqa: ARG002
        """Nothing is ever due."""
        return []

    def interface_changed(self, interface: str, up: bool, now: float) -> list[Output]:  # noqa: ARG002
        """Links are the RIB's business."""
        return []

    def show(self, query: str) -> Any:  # noqa: ARG002
        """Give the prefixes."""
        return [str(prefix) for prefix in self._routes]


def _route(configured: StaticRoute) -> Route:
    hops = tuple(_hop(hop) for hop in configured.hops)
    return Route(parse_prefix(configured.prefix), Protocol.STATIC, hops, PREFERENCE[Protocol.STATIC])


def _hop(configured: StaticHop) -> Hop:
    if configured.discard:
        return Hop(HopKind.BLACKHOLE)
    interface = configured.interface or ""
    if configured.via is None:
        return Hop(HopKind.CONNECTED, interface, None, configured.weight)
    return Hop(HopKind.FORWARD, interface, parse_address(configured.via), configured.weight)
