"""Commands about RIP, router advertisements and route leaking."""

from __future__ import annotations

from typing import Final

from manager.cli.command import ROUTER, Argument, Command

_WHAT: Final = Argument(
    "what",
    "summary, neighbors, routes or interfaces",
    optional=True,
    choices=("summary", "neighbors", "routes", "interfaces"),
)

COMMANDS: Final = (
    Command(("show", "rip"), "RIPv2 of a router", "rip:rip", "rip:render_rip", (ROUTER, _WHAT)),
    Command(("show", "ripng"), "RIPng of a router", "rip:ripng", "rip:render_rip", (ROUTER, _WHAT)),
    Command(
        ("show", "ra"),
        "router advertisements of a router",
        "rip:advertisements",
        "rip:render_advertisements",
        (ROUTER,),
    ),
    Command(
        ("show", "leaks"),
        "links that a router leaks routes over",
        "rip:leaks",
        "rip:render_leaks",
        (ROUTER, Argument("what", "links or routes", optional=True, choices=("links", "routes"))),
    ),
    Command(("clear", "rip"), "forget RIPv2's routes and ask for them", "rip:clear_rip", "ask:render_clear", (ROUTER,)),
    Command(
        ("clear", "ripng"), "forget RIPng's routes and ask for them", "rip:clear_ripng", "ask:render_clear", (ROUTER,)
    ),
)
