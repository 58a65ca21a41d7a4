"""What the RIB tells operators: which routes there are, which is used for an address, and why not the others.

Plain data, from which text is rendered elsewhere.  Of BGP's own table only what competes with other
protocols is known here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from vrouter.net.address import Address, Prefix
from vrouter.rib.bgp_table import BulkRoute
from vrouter.rib.candidates import MAX_PREFERENCE
from vrouter.rib.resolver import View
from vrouter.rib.rib import Rib
from vrouter.rib.route import Hop, HopKind, Protocol, Route

_KINDS = {HopKind.CONNECTED: "connected", HopKind.LOCAL: "local", HopKind.BROADCAST: "broadcast"}
_CHOSEN = "the most specific route that can be used"
_REFUSALS = {HopKind.BLACKHOLE: "discard", HopKind.UNREACHABLE: "unreachable"}


def explain(rib: Rib, address: Address, bulk: BulkRoute | None = None) -> dict[str, Any]:
    """Tell which route packets to an address take, and what became of all others that cover it.

    `bulk` is the most specific route that BGP's own table has to the address.
    """
    routes: list[dict[str, Any]] = []
    chosen: Route | None = None
    if bulk is not None and bulk.hops and not rib.contested(bulk.prefix):
        winner = rib.lookup(address)
        if winner is None or winner.prefix.length < bulk.prefix.length:
            chosen = Route(bulk.prefix, Protocol.BGP, bulk.hops, bulk.preference, bulk.metric)
            routes.append(_row(rib, chosen, "used", _CHOSEN, chosen))
    for prefix in rib.candidates.lengths.covering(address):
        installed = rib.installed.get(prefix)
        for route in rib.candidates.of(prefix):
            is_used = installed is not None and _same_offer(route, installed)
            if is_used and chosen is None:
                chosen = installed
                routes.append(_row(rib, route, "used", _CHOSEN, installed))
            elif is_used and chosen is not None:
                why = f"{chosen.prefix} is more specific"
                routes.append(_row(rib, route, "less-specific", why, installed))
            else:
                state, why = _lost(rib, route, installed)
                routes.append(_row(rib, route, state, why, None))
    return {
        "address": str(address),
        "prefix": str(chosen.prefix) if chosen is not None else None,
        "routes": sorted(routes, key=lambda row: -int(row["prefix"].rpartition("/")[2])),
    }


def rows(
    rib: Rib, protocols: Iterable[Protocol] = (), after: Prefix | None = None, limit: int = 1000
) -> list[dict[str, Any]]:
    """List what is offered behind a prefix, whole prefixes, until there are `limit` routes or more."""
    wanted = set(protocols)
    prefixes = sorted(prefix for prefix in rib.candidates if after is None or prefix > after)
    listed: list[dict[str, Any]] = []
    for prefix in prefixes:
        if len(listed) >= limit:
            break
        installed = rib.installed.get(prefix)
        for route in rib.candidates.of(prefix):
            if wanted and route.protocol not in wanted:
                continue
            if installed is not None and _same_offer(route, installed):
                listed.append(_row(rib, route, "used", "", installed))
            else:
                listed.append(_row(rib, route, *_lost(rib, route, installed), None))
    return listed


def hop_text(hop: Hop) -> str:
    """Print a next hop."""
    if hop.kind in _REFUSALS:
        return _REFUSALS[hop.kind]
    parts = [f"via {hop.via}"] if hop.via is not None else [_KINDS.get(hop.kind, "")]
    if hop.interface:
        parts.append(f"on {hop.interface}")
    if hop.weight != 1:
        parts.append(f"weight {hop.weight}")
    return " ".join(filter(None, parts))


def _same_offer(route: Route, installed: Route) -> bool:
    return (route.protocol, route.source) == (installed.protocol, installed.source)


def _row(rib: Rib, route: Route, state: str, why: str, installed: Route | None) -> dict[str, Any]:
    return {
        "prefix": str(route.prefix),
        "protocol": route.protocol.name.lower(),
        "source": route.source.removeprefix("~"),  # the mark of what is derived from an address
        "preference": route.preference,
        "metric": route.metric,
        "tag": route.tag,
        "next_hops": [hop_text(hop) for hop in route.hops],
        "resolved": [hop_text(hop) for hop in (installed.hops if installed is not None else ())],
        "state": state,
        "why": why,
        "stale": rib.is_stale(route),
        "origin": _origin(route.origin),
    }


def _origin(origin: Any) -> Any:
    """Give what a protocol says of where a route comes from, as text or a map of texts and numbers."""
    if origin is None or isinstance(origin, str | int):
        return origin
    if isinstance(origin, bytes):  # path attributes of BGP
        return {"attributes": origin.hex()}
    if isinstance(origin, Mapping):
        return {str(key): value.hex() if isinstance(value, bytes) else value for key, value in origin.items()}
    return str(origin)


def _lost(rib: Rib, route: Route, winner: Route | None) -> tuple[str, str]:
    """Tell why a route is not the one that is used for its prefix."""
    if route.preference >= MAX_PREFERENCE:
        return "unusable", f"a preference of {MAX_PREFERENCE} is never used"
    if not rib.resolver.usable(route):
        reasons = (_unusable(rib, hop) for hop in route.hops)
        return "unusable", "; ".join(islice(dict.fromkeys(filter(None, reasons)), 3)) or "no next hop"
    if winner is None:
        return "pending", "not yet written"
    for what, own, best in (
        ("preference", route.preference, winner.preference),
        ("protocol", route.protocol.name.lower(), winner.protocol.name.lower()),
        ("metric", route.metric, winner.metric),
    ):
        if own != best:
            return "not-chosen", f"{what} {own}, the route that is used has {best}"
    return "not-chosen", f"equal to the route from {winner.source or winner.protocol.name.lower()}, which comes first"


def _unusable(rib: Rib, hop: Hop) -> str:
    if hop.interface and not rib.resolver.is_up(hop.interface):
        return f"interface {hop.interface} is down"
    if hop.kind is HopKind.FORWARD and not hop.interface and hop.via is not None:
        way = rib.resolver.way(View(hop.via, bgp=True))
        if not way.hops:
            return f"next hop {hop.via} cannot be reached"
    return ""
