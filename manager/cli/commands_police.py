"""Commands about rates: control-plane policing, and policers of interfaces."""

from __future__ import annotations

from typing import Final

from manager.cli.command import ROUTER, Command

COMMANDS: Final = (
    Command(
        ("show", "control-plane"),
        "how much of what is not forwarding a router works on, by class",
        "police:control_plane",
        "police:render_control_plane",
        (ROUTER,),
    ),
    Command(
        ("show", "policers"),
        "policers of a router's interfaces, with what passed and what was dropped",
        "police:policers",
        "police:render_policers",
        (ROUTER,),
    ),
)
