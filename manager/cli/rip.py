"""`vr show rip`, `ripng`, `ra` and `leaks`: what the router's control tells of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from manager.cli.ask import ask, clear, pages
from manager.cli.render import duration, table

if TYPE_CHECKING:
    from manager.cli.main import Request


def rip(request: Request) -> Any:
    """Show RIPv2 of a router: a summary, its neighbors, routes or interfaces."""
    return _rip(request, "rip")


def ripng(request: Request) -> Any:
    """Show RIPng of a router: a summary, its neighbors, routes or interfaces."""
    return _rip(request, "ripng")


def advertisements(request: Request) -> Any:
    """Show what a router advertises to IPv6 hosts."""
    return ask(request, "ra", "interfaces")


def leaks(request: Request) -> Any:
    """Show the links that a router leaks routes over, or the routes that came."""
    if request["what"] == "routes":
        return list(pages(request, "leak", "routes", "routes"))
    return ask(request, "leak", "links")


def clear_rip(request: Request) -> dict[str, Any]:
    """Forget what RIPv2 has learned, and ask the neighbors for it again."""
    return clear(request, "rip", "routes")


def clear_ripng(request: Request) -> dict[str, Any]:
    """Forget what RIPng has learned, and ask the neighbors for it again."""
    return clear(request, "ripng", "routes")


def _rip(request: Request, instance: str) -> Any:
    what = request["what"] or "summary"
    return list(pages(request, instance, what, "routes")) if what == "routes" else ask(request, instance, what)


# --- as text ---


def render_rip(data: Any) -> str:
    """Render any of the answers of RIP."""
    if isinstance(data, dict):
        return _summary(data)
    if not data:
        return "nothing"
    if "responses" in data[0]:
        return _neighbors(data)
    return _routes(data) if "prefix" in data[0] else _interfaces(data)


def render_advertisements(data: list[dict[str, Any]]) -> str:
    """Render `show ra`."""
    if not data:
        return "no router advertisements"
    rows = [
        (
            entry["interface"],
            "active" if entry["active"] else "down",
            entry["source"],
            duration(entry["interval"]),
            duration(entry["lifetime"]),
            entry["preference"],
            " ".join(prefix["prefix"] for prefix in entry["prefixes"]) or None,
            " ".join((*entry["dns_servers"], *entry["dns_search"])) or None,
            entry["counters"].get("advertisements", 0),
            entry["counters"].get("solicitations", 0),
        )
        for entry in data
    ]
    header = (
        "INTERFACE", "STATE", "ADDRESS", "INTERVAL", "LIFETIME", "PREFERENCE", "PREFIXES", "DNS", "SENT", "ASKED",
    )  # fmt: skip
    return table(header, rows, ("SENT", "ASKED"))


def render_leaks(data: list[dict[str, Any]]) -> str:
    """Render `show leaks`."""
    if not data:
        return "nothing"
    if "prefix" in data[0]:
        rows: list[tuple[object, ...]] = [
            (
                entry["prefix"],
                entry["interface"],
                " ".join(entry["path"]),
                entry["metric"],
                entry["tag"],
                "yes" if entry["accepted"] else "no",
            )
            for entry in data
        ]
        return table(("PREFIX", "INTERFACE", "ROUTERS", "METRIC", "TAG", "TAKEN"), rows, ("METRIC", "TAG"))
    rows = [
        (
            entry["interface"],
            entry["state"],
            entry["router"] or None,
            entry["neighbor"],
            " ".join(entry["protocols"]) or None,
            entry["sent"],
            entry["received"],
            entry["accepted"],
        )
        for entry in data
    ]
    header = ("INTERFACE", "STATE", "ROUTER", "NEIGHBOR", "PROTOCOLS", "SENT", "RECEIVED", "TAKEN")
    return table(header, rows, ("SENT", "RECEIVED", "TAKEN"))


def _summary(data: dict[str, Any]) -> str:
    counters = " ".join(f"{name} {count}" for name, count in data["counters"].items())
    what = f"{data['routes']} routes, {data['neighbors']} neighbors on {data['interfaces']} interfaces"
    update, timeout, garbage = (duration(data[name]) for name in ("update", "timeout", "garbage"))
    lines = [
        f"{data['protocol']}: {what}, preference {data['preference']}",
        f"update {update} (next in {duration(data['next_update'])}), timeout {timeout}, garbage {garbage}",
    ]
    if data["redistribute"]:
        lines.append(f"redistributes {', '.join(data['redistribute'])}")
    if counters:
        lines.append(counters)
    return "\n".join(lines)


def _neighbors(data: list[dict[str, Any]]) -> str:
    rows = [
        (entry["address"], entry["interface"], duration(entry["heard"]), entry["routes"], entry["responses"])
        for entry in data
    ]
    return table(("NEIGHBOR", "INTERFACE", "HEARD", "ROUTES", "RESPONSES"), rows, ("ROUTES", "RESPONSES"))


def _routes(data: list[dict[str, Any]]) -> str:
    rows = []
    for entry in data:
        path = entry["paths"][0] if entry["paths"] else {}
        rows.append(
            (
                entry["prefix"],
                entry["kind"],
                entry["metric"],
                entry["tag"],
                " ".join(each["next_hop"] for each in entry["paths"]) or None,
                path.get("interface"),
                duration(path.get("expires", entry["garbage"])),
            )
        )
    header = ("PREFIX", "KIND", "METRIC", "TAG", "NEXT HOP", "INTERFACE", "EXPIRES")
    return table(header, rows, ("METRIC", "TAG"))


def _interfaces(data: list[dict[str, Any]]) -> str:
    rows = [
        (
            entry["interface"],
            entry["state"],
            "passive" if entry["passive"] else None,
            entry["metric"],
            entry["split_horizon"],
            "yes" if entry["authentication"] else "no",
            entry["neighbors"],
            sum(count for name, count in entry["counters"].items() if name.startswith("bad-")),
        )
        for entry in data
    ]
    header = ("INTERFACE", "STATE", "PASSIVE", "METRIC", "SPLIT HORIZON", "AUTHENTICATED", "NEIGHBORS", "BAD")
    return table(header, rows, ("METRIC", "NEIGHBORS", "BAD"))
