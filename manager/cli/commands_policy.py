"""Commands about route policies."""

from __future__ import annotations

from typing import Final

from manager.cli.command import ROUTER, Argument, Command

COMMANDS: Final = (
    Command(
        ("show", "policy"),
        "route policies that a router sees, its own and the shared ones",
        "policy:policies",
        "policy:render_policies",
        (ROUTER, Argument("policy", "name of a route policy; all without it", metavar="NAME", optional=True)),
    ),
    Command(
        ("explain", "policy"),
        "what a route policy makes of a route, term by term",
        "policy:explain",
        "policy:render_explain",
        (
            Argument("policy", "name of a route policy", metavar="NAME"),
            Argument("prefix", "prefix of the route"),
            Argument("-r --router", "router whose policies are asked", metavar="ROUTER", values="routers"),
            Argument("-p --protocol", "where the route comes from; bgp without it", metavar="PROTOCOL"),
            Argument("--as-path", "its AS path, as '65001 65002'", metavar="PATH"),
            Argument("--community", "its communities, with commas between", metavar="LIST"),
            Argument("--large-community", "its large communities", metavar="LIST"),
            Argument("--extended-community", "its extended communities", metavar="LIST"),
            Argument("--origin", "igp, egp or incomplete", metavar="ORIGIN"),
            Argument("--next-hop", "its next hop", metavar="ADDRESS"),
            Argument("--neighbor", "the neighbor that sent it, or would get it", metavar="ADDRESS"),
            Argument("--interface", "the interface that it came by", metavar="IF"),
            Argument("--local-pref", "its local preference", metavar="N", type="int"),
            Argument("--med", "its multi-exit discriminator", metavar="N", type="int"),
            Argument("--metric", "its metric", metavar="N", type="int"),
            Argument("--tag", "its tag", metavar="N", type="int"),
        ),
    ),
)
