"""What BGP tells operators, and does for them, as plain data.

    summary                                       all neighbors, a line each
    neighbor {neighbor?}                          all of one, or of all
    routes {view, family, neighbor?, after?, limit?}   a page of the table: view loc, in or out
    prefix {prefix}                               all paths of a prefix, and why the best is
    mrt {family, after?, limit?, time}            a page of an MRT dump

`clear`: reset {neighbor?}, soft {neighbor?, direction: in | out | both}.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from vrouter.net.address import IPV4, Address, Prefix, parse_address, parse_prefix
from vrouter.proto.bgp.neighbor import Neighbor
from vrouter.proto.bgp.settings import FAMILIES, family_name
from vrouter.rib.bgp_table import Afi
from vrouter.wire.bgp import mrt
from vrouter.wire.bgp.capabilities import Capability, Role
from vrouter.wire.bgp.text import describe

if TYPE_CHECKING:
    from vrouter.proto.bgp.instance import Bgp

PAGE: Final = 500


def answer(bgp: Bgp, query: str, arguments: Mapping[str, Any], now: float) -> Any:
    """Answer.  Raises KeyError for an unknown query, ValueError for bad arguments."""
    return _QUERIES[query](bgp, arguments, now)


def _summary(bgp: Bgp, _arguments: Mapping[str, Any], now: float) -> Any:
    return {
        "router_id": str(Address(IPV4, bgp.router_id)),
        "asn": bgp.asn,
        "restarting": bgp.restarting(),
        "table": bgp.table.totals(),
        "local_routes": bgp.local_routes,
        "neighbors": [_line(bgp, neighbor, now) for _, neighbor in sorted(bgp.neighbors.items())],
    }


def _line(bgp: Bgp, neighbor: Neighbor, now: float) -> dict[str, Any]:
    """Give a neighbor in short."""
    up = neighbor.session is not None
    since = neighbor.up_since if up else neighbor.down_since
    return {
        "neighbor": str(neighbor),
        "remote_as": neighbor.settings.remote_as,
        "state": state_word(neighbor),
        "since": round(now - since, 3) if since else None,
        "families": bgp.table.counts(neighbor.number)["families"],
        "messages": {
            "received": sum(neighbor.primary.received.values()),
            "sent": sum(neighbor.primary.sent.values()),
        },
        "description": neighbor.settings.description,
        "last_error": neighbor.last_error,
        "dynamic": neighbor.dynamic,
    }


def state_word(neighbor: Neighbor) -> str:
    """Give the state as operators know it."""
    if neighbor.settings.shutdown:
        return "shutdown"
    if neighbor.blocked:
        return "max-prefixes"
    return neighbor.state.name.lower().replace("_", "-")


def _neighbor(bgp: Bgp, arguments: Mapping[str, Any], now: float) -> Any:
    return [_details(bgp, neighbor, now) for neighbor in _chosen(bgp, arguments)]


def _chosen(bgp: Bgp, arguments: Mapping[str, Any]) -> list[Neighbor]:
    """Give the neighbor that is meant, or all.  Raises ValueError."""
    text = arguments.get("neighbor")
    if not text:
        return [neighbor for _, neighbor in sorted(bgp.neighbors.items())]
    found = bgp.neighbors.get(parse_address(str(text)))
    if found is None:
        raise ValueError(f"no BGP neighbor {text}")
    return [found]


def _details(bgp: Bgp, neighbor: Neighbor, now: float) -> dict[str, Any]:
    """Give all of a neighbor."""
    settings, session = neighbor.settings, neighbor.session
    counts = bgp.table.counts(neighbor.number)
    details = _line(bgp, neighbor, now) | {
        "local_as": settings.local_as,
        "kind": "external" if settings.external else "internal",
        "group": settings.group,
        "import": settings.import_policy,
        "export": settings.export_policy,
        "flaps": neighbor.flaps,
        "bfd": ("up" if neighbor.bfd_up else "down") if neighbor.bfd else None,
        "stale_families": [family_name(afi) for afi in sorted(neighbor.stale)],
        "counters": {name: value for name, value in counts.items() if name != "families"},
        "messages": {
            "received": {kind.name.lower(): count for kind, count in neighbor.primary.received.items()},
            "sent": {kind.name.lower(): count for kind, count in neighbor.primary.sent.items()},
        },
    }
    if session is not None and session.negotiated is not None:
        agreed = session.negotiated
        details["session"] = {
            "local_address": str(session.local),
            "router_id": str(Address(IPV4, agreed.router_id)),
            "opened": "here" if session.outgoing else "there",
            "hold_time": agreed.hold,
            "keepalive": agreed.keepalive,
            "families": [family_name(afi) for afi in agreed.families],
            "as4": agreed.as4,
            "route_refresh": agreed.refresh,
            "enhanced_refresh": agreed.enhanced_refresh,
            "extended_messages": agreed.extended_messages,
            "extended_next_hop": agreed.extended_next_hop,
            "add_path_receive": [family_name(afi) for afi in sorted(agreed.receive_paths)],
            "add_path_send": [family_name(afi) for afi in sorted(agreed.send_paths)],
            "graceful_restart_time": None if agreed.restart is None else agreed.restart.time,
            "their_role": [_role(role) for role in sorted(agreed.theirs.roles)],
            "their_capabilities": [_capability(code) for code in agreed.theirs.codes],
            "their_host_name": agreed.theirs.host_name,
        }
    return details


def _role(number: int) -> str:
    return Role(number).name.lower().replace("_", "-") if number in set(Role) else str(number)


def _capability(code: int) -> str:
    return Capability(code).name.lower().replace("_", "-") if code in set(Capability) else str(code)


def _routes(bgp: Bgp, arguments: Mapping[str, Any], _now: float) -> Any:
    """Give a page of the table."""
    view = str(arguments.get("view") or "loc")
    afi = _family(arguments)
    limit = min(max(int(arguments.get("limit") or PAGE), 1), PAGE)
    after: Prefix | None = parse_prefix(str(arguments["after"])) if arguments.get("after") else None
    number = 0
    if view != "loc":
        if not arguments.get("neighbor"):
            raise ValueError("a neighbor is needed")
        number = _chosen(bgp, arguments)[0].number
    rows = bgp.table.routes(afi, view, number, after, limit)
    return {
        "routes": [_row(bgp, row) for row in rows],
        "after": rows[-1]["prefix"] if len(rows) >= limit else None,
    }


def _family(arguments: Mapping[str, Any]) -> Afi:
    name = str(arguments.get("family") or "ipv4")
    if name not in FAMILIES:
        raise ValueError(f"no family {name!r}")
    return FAMILIES[name]


def _row(bgp: Bgp, row: Mapping[str, Any]) -> dict[str, Any]:
    """Give a path with its attributes in words."""
    plain = {name: value for name, value in row.items() if name not in {"attributes", "peer"}}
    plain["prefix"] = str(row["prefix"])
    plain["neighbor"] = bgp.neighbor_name(row["peer"])
    return plain | describe(row["attributes"])


def _prefix(bgp: Bgp, arguments: Mapping[str, Any], _now: float) -> Any:
    """Give all paths of a prefix, or of the longest one to an address."""
    text = str(arguments["prefix"])
    if "/" in text:
        prefix = parse_prefix(text)
    else:
        best = bgp.table.lookup(parse_address(text))
        if best is None:
            return {"prefix": None, "paths": []}
        prefix = best.prefix
    return {"prefix": str(prefix), "paths": [_row(bgp, row) for row in bgp.table.explain(prefix)]}


def _mrt(bgp: Bgp, arguments: Mapping[str, Any], _now: float) -> Any:
    """Give a page of an MRT dump; the first begins with the index of neighbors."""
    afi = _family(arguments)
    limit = min(max(int(arguments.get("limit") or PAGE), 1), PAGE)
    time = int(arguments.get("time") or 0)
    sequence = int(arguments.get("sequence") or 0)
    after: Prefix | None = parse_prefix(str(arguments["after"])) if arguments.get("after") else None
    neighbors = [neighbor for _, neighbor in sorted(bgp.neighbors.items())]
    position = {0: 0} | {neighbor.number: index for index, neighbor in enumerate(neighbors, 1)}
    data = b""
    if after is None and arguments.get("index"):
        local = mrt.Peer(bgp.router_id, Address(IPV4, 0), bgp.asn)
        peers = [
            mrt.Peer(each.peer.router_id if each.peer else 0, each.settings.address, each.settings.remote_as)
            for each in neighbors
        ]
        data = mrt.peer_index(time, bgp.router_id, "", [local, *peers])
    rows = bgp.table.routes(afi, "loc", 0, after, limit)
    grouped: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        grouped.setdefault(str(row["prefix"]), []).append(row)
    for prefix, paths in grouped.items():
        entries = [
            mrt.Entry(
                position[row["peer"]],
                time,
                row["attributes"],
                parse_address(str(row["next_hop"] or ("0.0.0.0" if afi is Afi.IPV4 else "::"))),
                row["path_id"],
            )
            for row in paths
            if row["verdict"] == "accepted"
        ]
        if entries:
            data += mrt.rib_record(time, sequence, parse_prefix(prefix), entries)
            sequence += 1
    return {"data": data, "sequence": sequence, "after": rows[-1]["prefix"] if len(rows) >= limit else None}


_QUERIES: Final[dict[str, Callable[[Bgp, Mapping[str, Any], float], Any]]] = {
    "summary": _summary,
    "neighbor": _neighbor,
    "routes": _routes,
    "prefix": _prefix,
    "mrt": _mrt,
}


def clear(bgp: Bgp, query: str, arguments: Mapping[str, Any], now: float) -> None:
    """Do what an operator asks for.  Raises KeyError for what nobody knows, ValueError for bad arguments."""
    if query not in {"reset", "soft"}:
        raise KeyError(query)
    direction = str(arguments.get("direction") or "both")
    for neighbor in _chosen(bgp, arguments):
        if query == "reset":
            neighbor.reset(now)
            continue
        if direction in {"in", "both"}:
            neighbor.ask(now)
        if direction in {"out", "both"}:
            neighbor.resend()
