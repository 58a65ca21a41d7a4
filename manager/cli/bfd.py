"""`vr show bfd`: the sessions of a router as they stand in its state segment, whoever of its keepers still lives."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from fastpath import bfd
from fastpath import interfaces as published
from manager.cli.render import duration, table
from manager.cli.segments import open_segments

if TYPE_CHECKING:
    from manager.cli.main import Request


def sessions(request: Request) -> list[dict[str, Any]]:
    """Show the BFD sessions of a router."""
    with open_segments(request.run_dir, request["router"]) as (tables, state):
        return bfd.shown(state, published.names(tables), time.clock_gettime_ns(time.CLOCK_BOOTTIME))


def render(data: list[dict[str, Any]]) -> str:
    """Render `show bfd`."""
    if not data:
        return "no BFD sessions"
    rows = [
        (
            entry["remote"],
            "multihop" if entry["multihop"] else entry["interface"],
            entry["state"],
            entry["remote_state"],
            duration(entry["since"]),
            f"{entry['transmit_interval'] * 1000:g}ms",
            f"{entry['receive_interval'] * 1000:g}ms x {entry['remote_multiplier']}",
            f"{entry['echo_interval'] * 1000:g}ms" if entry["echo_interval"] else None,
            entry["authentication"],
            entry["downs"],
            entry["diagnostic"] if entry["diagnostic"] != "none" else entry["last_failure"],
        )
        for entry in data
    ]
    header = (
        "NEIGHBOR", "INTERFACE", "STATE", "PEER", "FOR", "SEND", "DETECT", "ECHO", "AUTHENTICATION", "DOWNS", "REASON",
    )  # fmt: skip
    return table(header, rows, ("DOWNS",))
