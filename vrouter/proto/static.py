"""Static routes: what the operator wrote, offered to the RIB.

A next hop that BFD watches is left out from the moment that its session goes down until it is up again (RFC 5882
section 4.2); a session that has never been up, or that the neighbor has put down, is no failure.  Whether a next hop
can be reached otherwise is the RIB's business; so is what to do when it cannot.  Hops of different preferences are
routes of their own: the RIB uses the best that leads somewhere, and has the next one ready.
Not supported: tracking a next hop by probes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vrouter.config.router import RouterConfig, StaticHop, StaticRoute
from vrouter.net.address import Prefix, parse_address, parse_prefix
from vrouter.proto.base import (
    BfdClose,
    BfdOpen,
    BfdState,
    Output,
    Reconfigured,
    RouteAdd,
    RouteDel,
    Setting,
    Silent,
)
from vrouter.proto.watch import bfd_open
from vrouter.rib.route import PREFERENCE, Hop, HopKind, Protocol, Route


class Static(Silent):
    """All static routes of a VR."""

    def __init__(self) -> None:
        self._configured: tuple[StaticRoute, ...] = ()
        self._routes: dict[tuple[Prefix, str], Route] = {}  # as offered
        self._sessions: dict[str, BfdOpen] = {}
        self._down: dict[str, None] = {}  # sessions

    def configure(self, new: Setting, now: float) -> Reconfigured:  # noqa: ARG002
        """Offer what is new or changed, withdraw what is gone."""
        self._configured = new.router.static
        hops = [hop for route in self._configured for hop in route.hops]
        wanted = {_session(hop): _open(hop) for hop in hops if _is_watched(hop)}
        outputs: list[Output] = [BfdClose(session) for session in self._sessions if session not in wanted]
        outputs += [request for session, request in wanted.items() if self._sessions.get(session) != request]
        self._sessions = wanted
        self._down = {session: None for session in self._down if session in wanted}
        return Reconfigured(live=True, outputs=(*outputs, *self._offer()))

    def bfd_changed(self, state: BfdState, now: float) -> list[Output]:  # noqa: ARG002
        """Leave out next hops that do not answer."""
        if state.session in self._sessions and not state.up and not state.admin_down:
            self._down[state.session] = None
        else:
            self._down.pop(state.session, None)
        return self._offer()

    def show(self, query: str, arguments: Mapping[str, Any], now: float) -> Any:  # noqa: ARG002
        """Give the prefixes that are offered, and the next hops that BFD found down."""
        if query != "routes":
            raise KeyError(query)
        prefixes = dict.fromkeys(str(prefix) for prefix, _source in self._routes)
        return {"routes": list(prefixes), "down": list(self._down)}

    def _offer(self) -> list[Output]:
        """Offer and withdraw what has changed."""
        offered = (route for configured in self._configured for route in _routes(configured, self._down))
        wanted = {(route.prefix, route.source): route for route in offered if route.hops}
        gone = tuple(route for key, route in self._routes.items() if key not in wanted)
        changed = tuple(route for key, route in wanted.items() if self._routes.get(key) != route)
        self._routes = wanted
        outputs: list[Output] = [RouteDel(gone)] if gone else []
        if changed:
            outputs.append(RouteAdd(changed))
        return outputs


def check(router: RouterConfig) -> None:
    """Raise ValueError where a route cannot be one."""
    for route in router.static:
        _routes(route, {})


def _is_watched(hop: StaticHop) -> bool:
    return hop.bfd is not None and hop.bfd.enabled and hop.via is not None


def _session(hop: StaticHop) -> str:
    return f"{hop.via}%{hop.interface or ''}"


def _open(hop: StaticHop) -> BfdOpen:
    assert hop.bfd is not None
    assert hop.via is not None
    return bfd_open(hop.bfd, _session(hop), parse_address(hop.via), interface=hop.interface or "")


def _routes(configured: StaticRoute, down: Mapping[str, None]) -> list[Route]:
    """Give a route for each preference; one whose hops are all down has none."""
    prefix, usual = parse_prefix(configured.prefix), PREFERENCE[Protocol.STATIC]
    hops: dict[int, list[Hop]] = {}
    for hop in configured.hops:
        group = hops.setdefault(hop.preference, [])
        if not (_is_watched(hop) and _session(hop) in down):
            group.append(_hop(hop))
    return [
        Route(prefix, Protocol.STATIC, tuple(group), preference, source="" if preference == usual else str(preference))
        for preference, group in hops.items()
    ]


def _hop(configured: StaticHop) -> Hop:
    if configured.discard:
        return Hop(HopKind.BLACKHOLE)
    interface = configured.interface or ""
    if configured.via is None:
        return Hop(HopKind.CONNECTED, interface, None, configured.weight)
    return Hop(HopKind.FORWARD, interface, parse_address(configured.via), configured.weight)
