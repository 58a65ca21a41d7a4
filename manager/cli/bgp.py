"""`vr show bgp` and `vr clear bgp`: asked of the router's control, large answers page by page."""

from __future__ import annotations

import ipaddress
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manager.cli.ask import ask, pages
from manager.cli.ask import clear as clear_protocol
from manager.cli.errors import usage
from manager.cli.render import duration, table

if TYPE_CHECKING:
    from manager.cli.main import Request


def summary(request: Request) -> dict[str, Any]:
    """Show all neighbors in short."""
    found: dict[str, Any] = ask(request, "bgp", "summary")
    return found


def neighbor(request: Request) -> list[dict[str, Any]]:
    """Show all that is known of a neighbor, or of each."""
    found: list[dict[str, Any]] = ask(request, "bgp", "neighbor", neighbor=request["neighbor"])
    return found


def prefix(request: Request) -> dict[str, Any]:
    """Show all paths of a prefix, and why the best is."""
    found: dict[str, Any] = ask(request, "bgp", "prefix", prefix=request["prefix"])
    return found


def routes(request: Request) -> list[dict[str, Any]]:
    """Show the whole table."""
    return list(_pages(request, "loc", None))


def rib_in(request: Request) -> list[dict[str, Any]]:
    """Show what a neighbor has sent, and what became of it."""
    return list(_pages(request, "in", request["neighbor"]))


def rib_out(request: Request) -> list[dict[str, Any]]:
    """Show what a neighbor was sent."""
    return list(_pages(request, "out", request["neighbor"]))


def _pages(request: Request, view: str, peer: str | None) -> Iterator[dict[str, Any]]:
    """Give the routes of a view; without a family those of both."""
    for family in [request["family"]] if request["family"] else ["ipv4", "ipv6"]:
        yield from pages(request, "bgp", "routes", "routes", view=view, neighbor=peer, family=family)


def mrt(request: Request) -> None:
    """Write the table as an MRT dump."""
    now = int(time.time())
    sequence = 0
    with sys.stdout.buffer if request["write"] == "-" else Path(request["write"]).open("wb") as out:
        for family in ("ipv4", "ipv6"):
            after = None
            while True:
                page = ask(
                    request,
                    "bgp",
                    "mrt",
                    family=family,
                    after=after,
                    time=now,
                    sequence=sequence,
                    index=family == "ipv4" and after is None,
                )
                out.write(page["data"])
                sequence, after = page["sequence"], page["after"]
                if after is None:
                    break


def clear(request: Request) -> dict[str, Any]:
    """Reset sessions, or exchange routes again: [NEIGHBOR] [soft [in|out]]."""
    words = list(request["words"])
    peer = None
    if words and words[0] != "soft":
        peer = words.pop(0)
        try:
            ipaddress.ip_address(peer)
        except ValueError:
            raise usage(f"'{peer}' is neither an address nor 'soft'") from None
    soft = bool(words) and words.pop(0) == "soft"
    direction = words.pop(0) if soft and words else "both"
    if words or direction not in {"in", "out", "both"}:
        raise usage("write vr clear bgp ROUTER [NEIGHBOR] [soft [in|out]]")
    query = "soft" if soft else "reset"
    return clear_protocol(request, "bgp", query, neighbor=peer, direction=direction if soft else None)


def render_summary(data: dict[str, Any]) -> str:
    """Render `show bgp summary`."""
    totals = data["table"]
    head = (
        f"router id {data['router_id']}, AS {data['asn']}; "
        f"{totals['paths']} paths, {totals['attributes']} sets of attributes, {totals['next_hops']} next hops"
    )
    if data["restarting"]:
        head += "; restarting: no routes are chosen yet"
    rows = [
        (
            line["neighbor"],
            line["remote_as"],
            line["state"],
            duration(line["since"]),
            sum(family["received"] for family in line["families"].values()),
            sum(family["accepted"] for family in line["families"].values()),
            sum(family["sent"] for family in line["families"].values()),
            line["description"] or (line["last_error"] if line["state"] != "established" else ""),
        )
        for line in data["neighbors"]
    ]
    header = ("NEIGHBOR", "AS", "STATE", "FOR", "RECEIVED", "ACCEPTED", "SENT", "")
    return head + "\n" + table(header, rows, ("AS", "RECEIVED", "ACCEPTED", "SENT"))


def render_neighbor(data: list[dict[str, Any]]) -> str:
    """Render `show bgp neighbor`."""
    return "\n\n".join(_lines(each) for each in data) or "no BGP neighbors"


def _lines(data: dict[str, Any], indent: str = "") -> str:
    """Render a map as lines, maps in it indented."""
    lines = []
    for key, value in data.items():
        name = key.replace("_", " ")
        if isinstance(value, dict):
            lines += [f"{indent}{name}:", _lines(value, indent + "  ")]
        elif value not in (None, "", []):
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            lines.append(f"{indent}{name}: {shown}")
    return "\n".join(line for line in lines if line)


def render_routes(data: list[dict[str, Any]]) -> str:
    """Render paths: `>` the best, `=` used beside it, `!` refused, `s` stale."""
    if not data:
        return "no routes"
    rows = [
        (
            _mark(row),
            row["prefix"],
            row["next_hop"] or "local",
            row.get("neighbor"),
            row.get("local_pref"),
            row.get("med"),
            row.get("as_path") or "-",
            {"igp": "i", "egp": "e"}.get(row.get("origin", ""), "?"),
            row.get("reason") if row.get("verdict", "accepted") == "accepted" else row["verdict"],
        )
        for row in data
    ]
    return table(("", "PREFIX", "NEXT HOP", "FROM", "PREF", "MED", "AS PATH", "O", "WHY"), rows, ("PREF", "MED"))


def _mark(row: dict[str, Any]) -> str:
    used = {1: ">", 2: "="}.get(row.get("best", 0), "")
    return used + ("!" if row.get("verdict", "accepted") != "accepted" else "") + ("s" if row.get("stale") else "")


def render_prefix(data: dict[str, Any]) -> str:
    """Render `show bgp prefix`."""
    if not data["paths"]:
        return "no path"
    head = f"{data['prefix']}: {len(data['paths'])} paths"
    return "\n\n".join([head, *(_lines(path, "  ") for path in data["paths"])])
