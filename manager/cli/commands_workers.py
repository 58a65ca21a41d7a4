"""The command about forwarding workers."""

from __future__ import annotations

from typing import Final

from manager.cli.command import ROUTER, Command

COMMANDS: Final = (
    Command(
        ("show", "workers"),
        "threads that forward, and how busy they are",
        "workers:workers",
        "workers:render",
        (ROUTER,),
    ),
)
