"""`vr show ospf` and `vr clear ospf`: what the router's control tells of OSPF."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from manager.cli.ask import ask, clear, pages
from manager.cli.render import duration, table

if TYPE_CHECKING:
    from manager.cli.main import Request

_PAGED: Final = ("database", "route")


def ospf(request: Request) -> Any:
    """Show a summary, neighbors, interfaces, the database, routes or border routers."""
    what = request["what"] or "summary"
    if what == "database":
        wanted = {"type": request["type"], "router": request["from"], "detail": request["detail"]}
        return list(pages(request, "ospf", what, "rows", **wanted))
    return list(pages(request, "ospf", what, "rows")) if what in _PAGED else ask(request, "ospf", what)


def clear_neighbors(request: Request) -> dict[str, Any]:
    """Form adjacencies anew."""
    return clear(request, "ospf", "neighbor", interface=request["interface"])


# --- as text ---


def render_ospf(data: Any) -> str:
    """Render any of the answers."""
    if isinstance(data, dict):
        return _summary(data)
    if not data:
        return "nothing"
    keys = data[0].keys()
    if "sequence" in keys:
        return _database(data)
    if "dead_in" in keys:
        return _neighbors(data)
    if "prefix" in keys:
        return _routes(data)
    return _interfaces(data) if "hello_interval" in keys else _borders(data)


def _summary(data: dict[str, Any]) -> str:
    words = [
        word
        for key, word in (
            ("border_router", "area border router"),
            ("boundary_router", "AS boundary router"),
            ("stub_router", "stub router"),
            ("restarting", "restarting"),
        )
        if data[key]
    ]
    lines = [
        f"OSPF router {data['router_id']}" + (f", {', '.join(words)}" if words else ""),
        f"{data['routes']} routes, {data['external_lsas']} external LSAs, {data['computations']} computations,"
        f" SPF {data['spf_state']}" + (f", last restart {data['last_restart']}" if data["last_restart"] else ""),
        *(
            f"area {a['area']}: the router LSA has no room for {a['links_left_out']} links"
            for a in data["areas"]
            if a.get("links_left_out")
        ),
    ]
    rows = [
        (a["area"], a["type"], a["interfaces"], a["neighbors"], a["full"], a["lsas"], a["spf_runs"])
        for a in data["areas"]
    ]
    header = ("AREA", "TYPE", "INTERFACES", "NEIGHBORS", "FULL", "LSAS", "SPF RUNS")
    return "\n".join([*lines, table(header, rows, ("INTERFACES", "NEIGHBORS", "FULL", "LSAS", "SPF RUNS"))])


def _neighbors(data: list[dict[str, Any]]) -> str:
    rows = [
        (
            n["router_id"],
            n["address"],
            n["interface"],
            n["area"],
            n["state"] + (" (helped)" if n["helped"] else ""),
            n["role"],
            n["priority"],
            duration(n["dead_in"]),
            duration(n["since"]),
            n["bfd"],
            n["retransmissions"],
        )
        for n in data
    ]
    header = (
        "NEIGHBOR", "ADDRESS", "INTERFACE", "AREA", "STATE", "ROLE", "PRIORITY", "DEAD IN", "SINCE", "BFD", "UNACKED",
    )  # fmt: skip
    return table(header, rows, ("PRIORITY", "UNACKED"))


def _interfaces(data: list[dict[str, Any]]) -> str:
    rows = [
        (
            i["interface"],
            i["area"],
            "passive" if i["passive"] else i["state"],
            i["network"],
            i["address"],
            i["cost"],
            i["dr"],
            i["bdr"],
            f"{i['hello_interval']}/{i['dead_interval']}",
            i["authentication"],
            f"{i['full']}/{i['neighbors']}",
            sum(i["drops"].values()),
        )
        for i in data
    ]
    header = (
        "INTERFACE", "AREA", "STATE", "NETWORK", "ADDRESS", "COST", "DR", "BDR", "TIMERS", "AUTHENTICATION", "FULL",
        "DROPS",
    )  # fmt: skip
    return table(header, rows, ("COST", "DROPS"))


def _database(data: list[dict[str, Any]]) -> str:
    rows = [
        (
            lsa["scope"],
            lsa["type"],
            lsa["id"],
            lsa["router"],
            lsa["age"],
            lsa["sequence"],
            lsa["checksum"],
            lsa["length"],
        )
        for lsa in data
    ]
    header = ("SCOPE", "TYPE", "ID", "ROUTER", "AGE", "SEQUENCE", "CHECKSUM", "LENGTH")
    if "content" not in data[0]:
        return table(header, rows, ("AGE", "LENGTH"))
    parts = []
    for lsa, row in zip(data, rows, strict=True):
        parts.append(table(header, [row], ("AGE", "LENGTH")))
        for key, value in lsa["content"].items():
            if isinstance(value, list):
                parts += [f"  {_phrase(item)}" for item in value]
            else:
                parts.append(f"  {key.replace('_', ' ')}: {value}")
    return "\n".join(parts)


def _phrase(item: Any) -> str:
    return " ".join(f"{key} {value}" for key, value in item.items()) if isinstance(item, dict) else str(item)


def _routes(data: list[dict[str, Any]]) -> str:
    rows = [
        (
            r["prefix"],
            r["kind"],
            r["cost"] if r["metric"] is None else f"{r['metric']} ({r['cost']})",
            r["area"],
            r["from"],
            _hops(r["nexthops"]),
        )
        for r in data
    ]
    return table(("PREFIX", "KIND", "COST", "AREA", "FROM", "NEXT HOPS"), rows, ("COST",))


def _borders(data: list[dict[str, Any]]) -> str:
    rows = [
        (
            r["router_id"],
            r["area"],
            " ".join(word for key, word in (("border", "ABR"), ("boundary", "ASBR")) if r[key]),
            r["cost"],
            _hops(r["nexthops"]),
        )
        for r in data
    ]
    return table(("ROUTER", "AREA", "ROLE", "COST", "NEXT HOPS"), rows, ("COST",))


def _hops(hops: list[dict[str, Any]]) -> str:
    return " ".join(f"{hop['via'] or 'connected'}@{hop['interface']}" for hop in hops) or "-"
