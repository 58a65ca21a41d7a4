"""What RIP tells operators, as plain data."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from vrouter.net.address import parse_prefix
from vrouter.proto.rip.table import Row

if TYPE_CHECKING:
    from vrouter.proto.rip.instance import Rip

PAGE: Final = 1000  # routes of one answer


def answer(rip: Rip, query: str, arguments: Mapping[str, Any], now: float) -> Any:
    """Answer a query.  Raises KeyError for an unknown one."""
    if query == "routes":
        return _routes(rip, arguments, now)
    return {"summary": _summary, "neighbors": _neighbors, "interfaces": _interfaces}[query](rip, now)


def _summary(rip: Rip, now: float) -> dict[str, Any]:
    settings = rip.settings
    if settings is None:
        return {"protocol": rip.dialect.name, "running": False}
    return {
        "protocol": rip.dialect.name,
        "running": True,
        "routes": len(rip.table.rows),
        "neighbors": sum(len(port.peers) for port in rip.ports.values()),
        "interfaces": len(rip.ports),
        "next_update": max(0.0, rip.update_at - now) if rip.update_at is not None else None,
        "update": settings.timers.update,
        "timeout": settings.timers.timeout,
        "garbage": settings.timers.garbage,
        "preference": settings.preference,
        "redistribute": [each.protocol for each in settings.redistribute],
        "counters": dict(sorted(rip.counters.items())),
    }


def _neighbors(rip: Rip, now: float) -> list[dict[str, Any]]:
    return [
        {
            "address": str(address),
            "interface": port.name,
            "heard": now - peer.heard_at,
            "responses": peer.responses,
            "routes": sum(
                path.neighbor == address and path.interface == port.name
                for row in rip.table.rows.values()
                for path in row.paths
            ),
        }
        for _name, port in sorted(rip.ports.items())
        for address, peer in sorted(port.peers.items())
    ]


def _routes(rip: Rip, arguments: Mapping[str, Any], now: float) -> dict[str, Any]:
    """Page through the table: {after?: PREFIX, limit?} -> {routes, after: PREFIX | None}."""
    after = parse_prefix(str(arguments["after"])) if arguments.get("after") else None
    limit = min(max(int(arguments.get("limit") or PAGE), 1), PAGE)
    found = heapq.nsmallest(limit, (prefix for prefix in rip.table.rows if after is None or prefix > after))
    return {
        "routes": [_route(rip.table.rows[prefix], now) for prefix in found],
        "after": str(found[-1]) if len(found) == limit else None,
    }


def _route(row: Row, now: float) -> dict[str, Any]:
    kind = row.own.kind if row.own is not None else "rip" if row.paths else "garbage"
    return {
        "prefix": str(row.prefix),
        "kind": kind,
        "metric": row.metric,
        "tag": row.tag,
        "paths": [
            {
                "next_hop": str(path.gateway),
                "neighbor": str(path.neighbor),
                "interface": path.interface,
                "expires": max(0.0, path.expires - now),
            }
            for path in row.paths
        ],
        "garbage": max(0.0, row.garbage_at - now) if row.garbage_at is not None else None,
    }


def _interfaces(rip: Rip, now: float) -> list[dict[str, Any]]:  # noqa: ARG001
    return [
        {
            "interface": port.name,
            "state": "active" if port.active else "networks only" if port.networks else "down",
            "passive": port.settings.passive,
            "metric": port.settings.metric,
            "split_horizon": port.settings.split_horizon,
            "authentication": bool(port.keys),
            "networks": [str(prefix) for prefix in port.networks],
            "neighbors": len(port.peers),
            "counters": dict(sorted(port.counters.items())),
        }
        for _name, port in sorted(rip.ports.items())
    ]
