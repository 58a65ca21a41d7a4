"""Commands about OSPF."""

from __future__ import annotations

from typing import Final

from manager.cli.command import ROUTER, Argument, Command

_WHAT: Final = Argument(
    "what",
    "summary, neighbor, interface, database, route or border-routers",
    optional=True,
    choices=("summary", "neighbor", "interface", "database", "route", "border-routers"),
)
_TYPES: Final = (
    "router", "network", "summary", "asbr-summary", "external", "nssa", "opaque-link", "opaque-area", "opaque-as",
)  # fmt: skip

COMMANDS: Final = (
    Command(
        ("show", "ospf"),
        "OSPF of a router: its neighbors, its database, its routes",
        "ospf:ospf",
        "ospf:render_ospf",
        (
            ROUTER,
            _WHAT,
            Argument("-t --type", "of the database: LSAs of this type", metavar="TYPE", default=None, choices=_TYPES),
            Argument("--from", "of the database: LSAs of this router", metavar="ID", default=None),
            Argument("--detail", "of the database: with all that LSAs say", type="flag", default=False),
        ),
    ),
    Command(
        ("clear", "ospf"),
        "form the adjacencies of a router, or of one of its interfaces, anew",
        "ospf:clear_neighbors",
        "ask:render_clear",
        (ROUTER, Argument("interface", "name of an interface", optional=True, values="interfaces")),
    ),
)
