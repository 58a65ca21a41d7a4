"""`vr show control-plane` and `vr show policers`: rates, and what came of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastpath import interfaces as published
from fastpath import police
from manager.cli.render import table
from manager.cli.segments import open_segments

if TYPE_CHECKING:
    from manager.cli.main import Request


def control_plane(request: Request) -> list[dict[str, Any]]:
    """Show the classes of control-plane policing."""
    with open_segments(request.run_dir, request["router"]) as (tables, state):
        return police.control_plane(tables, state)


def policers(request: Request) -> list[dict[str, Any]]:
    """Show the policers of a router's interfaces."""
    with open_segments(request.run_dir, request["router"]) as (tables, state):
        names = published.names(tables)
        shown = police.policers(tables, state)
        return [entry | {"interface": names.get(entry["interface"], f"#{entry['interface']}")} for entry in shown]


def render_control_plane(data: list[dict[str, Any]]) -> str:
    """Render `show control-plane`."""
    rows = [
        (
            entry["class"],
            f"{entry['rate']}/s" if entry["rate"] else "none",
            entry["burst"],
            entry["passed"],
            entry["dropped"],
        )
        for entry in data
    ]
    return table(("CLASS", "RATE", "BURST", "PASSED", "DROPPED"), rows, ("RATE", "BURST", "PASSED", "DROPPED"))


def render_policers(data: list[dict[str, Any]]) -> str:
    """Render `show policers`."""
    if not data:
        return "no policers"
    rows = [
        (
            entry["interface"],
            entry["direction"],
            f"{entry['rate']}{'bps' if entry['unit'] == 'bits' else '/s'}",
            entry["burst"],
            entry["passed_packets"],
            entry["passed_bytes"],
            entry["dropped_packets"],
            entry["dropped_bytes"],
        )
        for entry in data
    ]
    header = ("INTERFACE", "DIRECTION", "RATE", "BURST", "PASSED", "BYTES", "DROPPED", "DROPPED BYTES")
    return table(header, rows, header[2:])
