"""Commands about BGP."""

from __future__ import annotations

from typing import Final

from manager.cli.command import ROUTER, Argument, Command

_NEIGHBOR: Final = Argument("neighbor", "address of a neighbor")
_MAYBE: Final = Argument("neighbor", "address of a neighbor; all without it", optional=True)
_FAMILY: Final = Argument("-f --family", "only this family", metavar="FAMILY", choices=("ipv4", "ipv6"))

COMMANDS: Final = (
    Command(("show", "bgp", "summary"), "BGP neighbors of a router", "bgp:summary", "bgp:render_summary", (ROUTER,)),
    Command(
        ("show", "bgp", "neighbor"),
        "all about a BGP neighbor",
        "bgp:neighbor",
        "bgp:render_neighbor",
        (ROUTER, _MAYBE),
    ),
    Command(
        ("show", "bgp", "table"),
        "all BGP paths of a router: > the best, = used beside it, ! refused, s stale",
        "bgp:routes",
        "bgp:render_routes",
        (ROUTER, _FAMILY),
    ),
    Command(
        ("show", "bgp", "rib-in"),
        "what a BGP neighbor has sent",
        "bgp:rib_in",
        "bgp:render_routes",
        (ROUTER, _NEIGHBOR, _FAMILY),
    ),
    Command(
        ("show", "bgp", "rib-out"),
        "what a BGP neighbor was sent",
        "bgp:rib_out",
        "bgp:render_routes",
        (ROUTER, _NEIGHBOR, _FAMILY),
    ),
    Command(
        ("show", "bgp", "advertised"),
        "the same as rib-out",
        "bgp:rib_out",
        "bgp:render_routes",
        (ROUTER, _NEIGHBOR, _FAMILY),
    ),
    Command(
        ("show", "bgp", "prefix"),
        "all BGP paths of a prefix, or to an address, and why the best is",
        "bgp:prefix",
        "bgp:render_prefix",
        (ROUTER, Argument("prefix", "prefix or address")),
    ),
    Command(
        ("show", "bgp", "mrt"),
        "write the BGP table as an MRT dump (RFC 6396)",
        "bgp:mrt",
        None,
        (ROUTER, Argument("-w --write", "file to write; standard output without it", metavar="FILE", default="-")),
    ),
    Command(
        ("clear", "bgp"),
        "reset BGP sessions, or exchange their routes again: soft",
        "bgp:clear",
        "ask:render_clear",
        (ROUTER, Argument("words", "whom, and how", metavar="[NEIGHBOR] [soft [in|out]]", type="rest")),
    ),
)
