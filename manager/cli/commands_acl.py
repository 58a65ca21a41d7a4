"""Commands about access control lists and counted prefixes."""

from __future__ import annotations

from typing import Final

from manager.cli.command import ROUTER, Argument, Command

NAME: Final = Argument("acl", "name of an access control list", metavar="NAME")

COMMANDS: Final = (
    Command(
        ("show", "acl"),
        "access control lists that interfaces have, with what each entry decided",
        "acl:lists",
        "acl:render_lists",
        (ROUTER, Argument("acl", "name of a list; all without it", metavar="NAME", optional=True)),
    ),
    Command(
        ("clear", "acl"),
        "have all entries of a list count from 0",
        "acl:clear_hits",
        "ask:render_clear",
        (ROUTER, NAME),
    ),
    Command(
        ("explain", "acl"),
        "what a list makes of a packet, entry by entry",
        "acl:explain",
        "acl:render_explain",
        (
            ROUTER,
            NAME,
            Argument("source", "its source address"),
            Argument("destination", "its destination address"),
            Argument("-p --protocol", "name or number; udp without it", metavar="PROTOCOL"),
            Argument("--source-port", "its source port", metavar="PORT", type="int"),
            Argument("--destination-port", "its destination port", metavar="PORT", type="int"),
            Argument("--icmp-type", "name, number, or TYPE/CODE; echo-request without it", metavar="TYPE"),
            Argument("--tcp-flags", "flags that are set, with commas between", metavar="FLAGS"),
            Argument("--dscp", "its code point, by name or number", metavar="DSCP"),
            Argument("--fragment", "it is a fragment, and not the first", type="flag"),
        ),
    ),
    Command(
        ("show", "counters"),
        "packets and bytes forwarded to the prefixes of `counters`",
        "acl:counters",
        "acl:render_counters",
        (ROUTER,),
    ),
    Command(
        ("show", "filters"),
        "what filters the interfaces of a router have: lists, reverse-path checks, marks",
        "acl:bindings",
        "acl:render_bindings",
        (ROUTER,),
    ),
)
