"""`vr show rib`, `vr show protocols`, `vr explain route`: what the router's control knows of routes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from manager.cli.ask import ask, pages
from manager.cli.echo import parse_address
from manager.cli.errors import CliError, Exit
from manager.cli.render import duration, table

if TYPE_CHECKING:
    from manager.cli.main import Request


def rib(request: Request) -> list[dict[str, Any]]:
    """Show all routes that protocols offer, or those of one."""
    return list(pages(request, "rib", "routes", "routes", protocol=request["protocol"]))


def protocols(request: Request) -> list[dict[str, Any]]:
    """Show which protocols run."""
    found: list[dict[str, Any]] = ask(request, "engine", "instances")
    return found


def explain(request: Request) -> dict[str, Any]:
    """Tell why a route is used."""
    address = parse_address(request["address"])[1]
    answer: dict[str, Any] = ask(request, "rib", "explain", address=address)
    if not answer["routes"] and not answer.get("bgp"):
        raise CliError(f"{request['router']} knows no route to {address}", "no-route", Exit.NEGATIVE)
    return answer


# --- as text ---


def _row(route: dict[str, Any]) -> tuple[object, ...]:
    mark = {"used": "*", "less-specific": "+"}.get(route["state"], " ")
    hops = ", ".join(route["resolved"] or route["next_hops"]) or "-"
    return (
        f"{mark} {route['prefix']}",
        route["protocol"],
        f"{route['preference']}/{route['metric']}",
        route["source"] or "-",
        hops,
        route["why"] or ("stale" if route["stale"] else ""),
    )


_HEADER = ("PREFIX", "PROTOCOL", "PREF/METRIC", "SOURCE", "NEXT HOP", "WHY")


def render_rib(data: list[dict[str, Any]]) -> str:
    """Render `show rib`."""
    return table(("  " + _HEADER[0], *_HEADER[1:]), [_row(route) for route in data]) if data else "no routes"


def render_protocols(data: list[dict[str, Any]]) -> str:
    """Render `show protocols`."""
    rows = [(it["name"], it["state"], duration(it["age"]), it["routes"], it["sockets"], it["failures"]) for it in data]
    header = ("PROTOCOL", "STATE", "AGE", "ROUTES", "SOCKETS", "FAILURES")
    return table(header, rows, header[2:]) if rows else "no protocols"


def render_explain(data: dict[str, Any]) -> str:
    """Render `explain route`: the winner, the others and why, then BGP's paths."""
    lines = [f"{data['address']} is reached by {data['prefix'] or 'nothing in the RIB'}"]
    if data["routes"]:
        lines.append(table(("  " + _HEADER[0], *_HEADER[1:]), [_row(route) for route in data["routes"]]))
    lines += [f"  {route['prefix']} came by {_text(route['origin'])}" for route in data["routes"] if route["origin"]]
    if data.get("bgp"):
        lines.append(f"BGP has {data['bgp']['prefix']}:")
        lines += [f"  {_text(path)}" for path in data["bgp"]["paths"]]
    return "\n".join(lines)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(each)}" for key, each in value.items() if each not in (None, "", [], ()))
    if isinstance(value, list | tuple):
        return " ".join(_text(each) for each in value)
    return str(value)
