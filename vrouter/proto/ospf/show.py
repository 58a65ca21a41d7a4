"""What operators see of OSPF: plain data, long answers in pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, Final

from vrouter.net.address import Address
from vrouter.proto.ospf import settings
from vrouter.proto.ospf.area import Interface
from vrouter.proto.ospf.core import Core
from vrouter.proto.ospf.database import Database, Entry
from vrouter.proto.ospf.neighbor import Neighbor
from vrouter.proto.ospf.routes import EXTERNAL_2, KINDS
from vrouter.wire.ospf.lsa import (
    ExternalBody,
    LinkType,
    LsaType,
    NetworkBody,
    OpaqueBody,
    Options,
    RouterBody,
    RouterFlag,
    SummaryBody,
)

_PAGE: Final = 1000


def show(core: Core, query: str, arguments: Mapping[str, Any]) -> Any:
    """Answer a query.  Raises KeyError for an unknown one."""
    return _QUERIES[query](core, arguments)


def _dotted(number: int) -> str:
    return str(Address(4, number))


def _page(rows: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Give `limit` rows after as many as `after` says; `after` of the answer asks for the next page, None: no more."""
    offset, limit = int(arguments.get("after") or 0), int(arguments.get("limit") or _PAGE)
    taken = list(islice(rows, offset, offset + limit + 1))
    return {"rows": taken[:limit], "after": offset + limit if len(taken) > limit else None}


def _summary(core: Core, _arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "router_id": _dotted(core.router_id),
        "border_router": core.border,
        "boundary_router": any(core.externals.boundary(area) for area in core.areas.values()),
        "stub_router": core.externals.stub_router,
        "restarting": core.restart.active,
        "last_restart": core.restart.last,
        "routes": len(core.routes.table),
        "computations": core.routes.computations,
        "spf_state": core.routes.throttle.state.value,
        "external_lsas": len(core.external),
        "areas": [
            {
                "area": area.name,
                "type": area.config.type,
                "interfaces": len(area.interfaces),
                "neighbors": sum(len(i.neighbors) for i in area.interfaces.values()),
                "full": sum(n.full for i in area.interfaces.values() for n in i.neighbors.values()),
                "lsas": len(area.database),
                "links_left_out": core.origination.left_out.get(area.id, 0),
                "spf_runs": area.graph.runs,
            }
            for area in sorted(core.areas.values(), key=lambda area: area.id)
        ],
    }


def _neighbor(core: Core, interface: Interface, neighbor: Neighbor) -> dict[str, Any]:
    address = 0 if interface.point_to_point else neighbor.address
    dead = core.timers.when(("inactive", interface.name, neighbor.router, address))
    role = "dr" if neighbor.address == interface.dr else "bdr" if neighbor.address == interface.bdr else "other"
    return {
        "router_id": _dotted(neighbor.router),
        "address": _dotted(neighbor.address),
        "interface": interface.name,
        "area": interface.area.name,
        "state": neighbor.state.word,
        "role": role if interface.broadcast else "-",
        "priority": neighbor.priority,
        "dead_in": round(dead - core.now, 3) if dead is not None else None,
        "since": round(core.now - neighbor.since, 3),
        "changes": neighbor.changes,
        "last_change": neighbor.last_change,
        "requests": len(neighbor.requests),
        "retransmissions": len(neighbor.retransmit),
        "options": Options(neighbor.options).name or "",
        "helped": neighbor.helped_until is not None,
        "bfd": ("up" if neighbor.bfd_up else "down") if neighbor.bfd else None,
    }


def _neighbors(core: Core, arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
    wanted = arguments.get("interface")
    return [
        _neighbor(core, interface, neighbor)
        for name, interface in sorted(core.interfaces.items())
        if wanted in {None, name}
        for _, neighbor in sorted(interface.neighbors.items())
    ]


def _interfaces(core: Core, arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
    wanted = arguments.get("interface")
    return [
        {
            "interface": name,
            "area": interface.area.name,
            "state": interface.fsm.word,
            "network": interface.config.network,
            "address": f"{_dotted(interface.address)}/{interface.length}",
            "cost": interface.cost,
            "priority": interface.config.priority,
            "dr": _dotted(interface.dr),
            "bdr": _dotted(interface.bdr),
            "passive": interface.config.passive,
            "hello_interval": int(interface.config.hello_interval),
            "dead_interval": settings.dead_interval(interface.config),
            "authentication": interface.key.algorithm.value,
            "neighbors": len(interface.neighbors),
            "full": sum(n.full for n in interface.neighbors.values()),
            "sent": interface.sent_packets,
            "received": interface.received_packets,
            "drops": dict(sorted(interface.drops.items())),
        }
        for name, interface in sorted(core.interfaces.items())
        if wanted in {None, name}
    ]


def _lsa(core: Core, database: Database, entry: Entry, detail: bool) -> dict[str, Any]:
    header = entry.header
    shown = {
        "scope": " ".join(database.scope),
        "type": _type(header.type),
        "id": _dotted(header.id),
        "router": _dotted(header.router),
        "age": entry.age(core.now),
        "sequence": f"{header.sequence & 0xFFFFFFFF:#010x}",
        "checksum": f"{header.checksum:#06x}",
        "length": header.length,
    }
    return shown | {"options": Options(header.options).name or "", "content": _content(entry)} if detail else shown


def _type(number: int) -> str:
    return LsaType(number).name.lower().replace("_", "-")


def _content(entry: Entry) -> dict[str, Any]:
    body = entry.body
    if isinstance(body, RouterBody):
        links = [
            {
                "type": LinkType(link.type).name.lower().replace("_", "-") if link.type in set(LinkType) else link.type,
                "id": _dotted(link.id),
                "data": _dotted(link.data),
                "metric": link.metric,
            }
            for link in body.links
        ]
        return {"flags": RouterFlag(body.flags).name or "", "links": links}
    if isinstance(body, NetworkBody):
        return {"mask": _dotted(body.mask), "routers": [_dotted(router) for router in body.routers]}
    if isinstance(body, SummaryBody):
        return {"mask": _dotted(body.mask), "metric": body.metric}
    if isinstance(body, ExternalBody):
        return {
            "mask": _dotted(body.mask),
            "metric": body.metric,
            "metric_type": 2 if body.type2 else 1,
            "forwarding": _dotted(body.forwarding),
            "tag": body.tag,
        }
    assert isinstance(body, OpaqueBody)
    return {"data": body.data.hex()}


def _database(core: Core, arguments: Mapping[str, Any]) -> dict[str, Any]:
    kind, detail = arguments.get("type"), bool(arguments.get("detail"))
    identifier, router = arguments.get("id"), arguments.get("router")
    rows = (
        _lsa(core, database, entry, detail)
        for database in core.databases()
        for entry in database
        if kind in {None, _type(entry.header.type)}
        and identifier in {None, _dotted(entry.header.id)}
        and router in {None, _dotted(entry.header.router)}
    )
    return _page(rows, arguments)


def _routes(core: Core, arguments: Mapping[str, Any]) -> dict[str, Any]:
    rows = (
        {
            "prefix": str(prefix),
            "kind": KINDS[path.kind],
            "cost": path.cost,
            "metric": path.metric if path.kind == EXTERNAL_2 else None,
            "area": _dotted(path.area),
            "tag": path.tag,
            "from": _dotted(path.source[1][2]) if path.source else None,
            "nexthops": [{"interface": hop.interface, "via": str(hop.via) if hop.via else None} for hop in path.hops],
        }
        for prefix, path in sorted(core.routes.table.items())
    )
    return _page(rows, arguments)


def _borders(core: Core, _arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = []
    for area in core.areas.values():
        for key in sorted(area.graph.keys):
            reach = area.graph.reach(key) if key >> 32 == 0 and key != core.router_id else None
            if reach is None or not reach[2] & (RouterFlag.B | RouterFlag.E):
                continue
            hops = area.graph.hops(reach[1])
            found.append(
                {
                    "router_id": _dotted(key),
                    "area": area.name,
                    "cost": reach[0],
                    "border": bool(reach[2] & RouterFlag.B),
                    "boundary": bool(reach[2] & RouterFlag.E),
                    "nexthops": [{"interface": h.interface, "via": str(h.via) if h.via else None} for h in hops],
                }
            )
    return found


_QUERIES: Final[Mapping[str, Callable[[Core, Mapping[str, Any]], Any]]] = {
    "summary": _summary,
    "neighbor": _neighbors,
    "interface": _interfaces,
    "database": _database,
    "route": _routes,
    "border-routers": _borders,
}
