"""Commands about routing as a whole: the RIB, the choice of a route, the protocols that run."""

from __future__ import annotations

from typing import Final

from manager.cli.command import ADDRESS, ROUTER, Argument, Command

COMMANDS: Final = (
    Command(
        ("show", "rib"),
        "routes that protocols offer, used or not",
        "rib:rib",
        "rib:render_rib",
        (ROUTER, Argument("protocol", "routes of this protocol only, as `ospf`", optional=True)),
    ),
    Command(
        ("show", "protocols"), "protocols that run in a router", "rib:protocols", "rib:render_protocols", (ROUTER,)
    ),
    Command(
        ("explain", "route"),
        "which route to an address is used, and why no other",
        "rib:explain",
        "rib:render_explain",
        (ROUTER, ADDRESS),
    ),
    Command(
        ("record",),
        "record what a router's protocols are told, beginning with a graceful restart of them",
        "record:record",
        "record:render_record",
        (
            ROUTER,
            Argument("file", "where it goes, for `python -m vrouter.replay`", metavar="FILE"),
            Argument("-t --seconds", "stop after so long", metavar="SECONDS", type="float", default=None),
        ),
    ),
)
