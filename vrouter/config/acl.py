"""Access control lists, reverse-path checks, DSCP marks and counted prefixes, as operators write them.

    acls:
      from-customer:
      - {name: bogons, action: deny, source: [10.0.0.0/8, 192.168.0.0/16]}
      - {name: web, action: permit, protocol: tcp, destination: 203.0.113.0/24, destination-port: [80, 443]}
      - {name: answers, action: permit, protocol: tcp, tcp-flags: established}
      - {name: ping, action: permit, protocol: icmp, icmp-type: echo-request, set-dscp: cs1}
    routers:
      red:
        interfaces:
          lan: {acl: {in: from-customer}, rpf: strict, dscp: {out: [ef=ef, cs0]}}
        counters: [203.0.113.0/24]

The first entry that a packet matches decides; the end of a list denies.  Lists are stateless.  Not supported:
time ranges, logging of single packets, looking into tunnels.
"""

# ruff: noqa: RUF009 - option() makes a field, not a default
from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from vrouter.config.address import IpPrefix
from vrouter.config.constraints import Boolean, InvalidError, MaxLength, Name, OneOrMany, Shorthand, Span, clip
from vrouter.config.dscp import Dscp, DscpChange
from vrouter.config.option import Impact, option

# What fastpath/include/abi/filter.h has room for; a unit test compares.
MAX_ENTRIES: Final = 2048
MAX_COUNTED: Final = 4096
MAX_LISTS: Final = 1000
MAX_VALUES: Final = 4096  # of one field of an entry

PROTOCOLS: Final = {
    "icmp": socket.IPPROTO_ICMP,
    "igmp": socket.IPPROTO_IGMP,
    "ipip": socket.IPPROTO_IPIP,
    "tcp": socket.IPPROTO_TCP,
    "udp": socket.IPPROTO_UDP,
    "dccp": 33,
    "rsvp": socket.IPPROTO_RSVP,
    "gre": socket.IPPROTO_GRE,
    "esp": socket.IPPROTO_ESP,
    "ah": socket.IPPROTO_AH,
    "icmpv6": socket.IPPROTO_ICMPV6,
    "ospf": 89,
    "pim": socket.IPPROTO_PIM,
    "vrrp": 112,
    "l2tp": 115,
    "sctp": 132,
    "udplite": 136,
}
WITH_PORTS: Final = frozenset(PROTOCOLS[name] for name in ("tcp", "udp", "dccp", "sctp", "udplite"))
FLAGS: Final = {"fin": 1, "syn": 2, "rst": 4, "psh": 8, "ack": 16, "urg": 32, "ece": 64, "cwr": 128}
ESTABLISHED: Final = "established"
# (type, code) of messages; without a code, all of them.  RFC 792, RFC 4443, RFC 4861.
ICMP4: Final[dict[str, tuple[int, int | None]]] = {
    "echo-reply": (0, None),
    "unreachable": (3, None),
    "host-unreachable": (3, 1),
    "port-unreachable": (3, 3),
    "fragmentation-needed": (3, 4),
    "admin-prohibited": (3, 13),
    "redirect": (5, None),
    "echo-request": (8, None),
    "router-advertisement": (9, None),
    "router-solicitation": (10, None),
    "time-exceeded": (11, None),
    "ttl-exceeded": (11, 0),
    "parameter-problem": (12, None),
    "timestamp-request": (13, None),
    "timestamp-reply": (14, None),
}
ICMP6: Final[dict[str, tuple[int, int | None]]] = {
    "unreachable": (1, None),
    "admin-prohibited": (1, 1),
    "port-unreachable": (1, 4),
    "packet-too-big": (2, None),
    "time-exceeded": (3, None),
    "hop-limit-exceeded": (3, 0),
    "parameter-problem": (4, None),
    "echo-request": (128, None),
    "echo-reply": (129, None),
    "mld-query": (130, None),
    "mld-report": (131, None),
    "mld-done": (132, None),
    "router-solicitation": (133, None),
    "router-advertisement": (134, None),
    "neighbor-solicitation": (135, None),
    "neighbor-advertisement": (136, None),
    "redirect": (137, None),
    "mld2-report": (143, None),
}


@dataclass(frozen=True)
class IpProtocol:
    """A protocol above IP: its name, or its number."""

    def parse(self, text: str) -> int:
        """Give the number."""
        word = text.lower()
        if word in PROTOCOLS:
            return PROTOCOLS[word]
        if word.isascii() and word.isdigit() and len(word) <= 3 and int(word) < 256:
            return int(word)
        hint = f"{', '.join(PROTOCOLS)}, or a number from 0 to 255"
        raise InvalidError(f"'{clip(text)}' is no IP protocol", hint)

    def json_schema(self) -> dict[str, Any]:
        """Describe it."""
        number = {"type": "integer", "minimum": 0, "maximum": 255}
        return {"anyOf": [number, {"enum": list(PROTOCOLS)}]}


@dataclass(frozen=True)
class IcmpType:
    """A message of ICMP or ICMPv6: its name, the number of its type, or TYPE/CODE."""

    def parse(self, text: str) -> str:
        """Give the canonical text; whether the protocol has such a name is checked where that is known."""
        word = text.lower()
        if word in ICMP4 or word in ICMP6:
            return word
        numbers = word.split("/")
        if len(numbers) <= 2 and all(
            part.isascii() and part.isdigit() and len(part) <= 3 and int(part) < 256 for part in numbers
        ):
            return "/".join(str(int(part)) for part in numbers)
        raise InvalidError(f"'{clip(text)}' is no ICMP type", "a name as echo-request, a number, or TYPE/CODE as 3/4")

    def json_schema(self) -> dict[str, Any]:
        """Describe it."""
        names = "|".join(dict.fromkeys([*ICMP4, *ICMP6]))
        number = {"type": "integer", "minimum": 0, "maximum": 255}
        return {"anyOf": [number, {"type": "string", "pattern": f"^({names}|[0-9]+(/[0-9]+)?)$"}]}


@dataclass(frozen=True)
class TcpFlag:
    """A flag that is set, one that is not ("!syn"), or `established`: ACK or RST."""

    def parse(self, text: str) -> str:
        """Give the word."""
        word = text.lower()
        if word == ESTABLISHED or word.removeprefix("!") in FLAGS:
            return word
        raise InvalidError(
            f"'{clip(text)}' is no TCP flag", f"{', '.join(FLAGS)}, with '!' for not set, or established"
        )

    def json_schema(self) -> dict[str, Any]:
        """Describe it."""
        return {"type": "string", "pattern": f"^({ESTABLISHED}|!?({'|'.join(FLAGS)}))$"}


_Prefixes = Annotated[tuple[Annotated[str, IpPrefix()], ...], OneOrMany(), MaxLength(MAX_VALUES)]
_Ports = Annotated[tuple[Annotated[tuple[int, int], Span(0, 65535)], ...], OneOrMany(), MaxLength(MAX_VALUES)]


@dataclass(frozen=True, kw_only=True)
class AclEntry:
    """An entry of a list: a packet matches if every key that is written holds, with one of its values."""

    name: Annotated[str, Name("name of an entry")] | None = option(
        "What `show acl` calls it; by default its number.", Impact.NONE, None, "web"
    )
    action: Literal["permit", "deny", "reject"] = option(
        "`deny` drops in silence, `reject` also tells the sender (ICMP: administratively prohibited).",
        Impact.LIVE,
        example="permit",
    )
    family: Literal["ipv4", "ipv6"] | None = option(
        "Packets of this family alone; prefixes say it as well.", Impact.LIVE, None, "ipv6"
    )
    source: _Prefixes = option("The source is within one of these.", Impact.LIVE, (), "[192.0.2.0/24, '2001:db8::/32']")
    destination: _Prefixes = option("The destination is within one of these.", Impact.LIVE, (), "203.0.113.0/24")
    protocol: Annotated[tuple[Annotated[int, IpProtocol()], ...], OneOrMany(), MaxLength(256)] = option(
        "The protocol above IP, behind IPv6 extension headers.", Impact.LIVE, (), "[tcp, udp]"
    )
    source_port: _Ports = option("Ports or ranges; needs a protocol that has ports.", Impact.LIVE, (), "1024-65535")
    destination_port: _Ports = option("Ports or ranges; needs a protocol that has ports.", Impact.LIVE, (), "[80, 443]")
    icmp_type: Annotated[tuple[Annotated[str, IcmpType()], ...], OneOrMany(), MaxLength(256)] = option(
        "Messages by name, type, or TYPE/CODE; needs `protocol: icmp` or `icmpv6`.", Impact.LIVE, (), "echo-request"
    )
    tcp_flags: Annotated[tuple[Annotated[str, TcpFlag()], ...], OneOrMany(), MaxLength(9)] = option(
        "Flags that are set, with '!' those that are not, or `established`: ACK or RST is set.",
        Impact.LIVE,
        (),
        "[syn, '!ack']",
    )
    dscp: Annotated[tuple[Annotated[int, Dscp()], ...], OneOrMany(), MaxLength(64)] = option(
        "The code point, by name or number.", Impact.LIVE, (), "[ef, cs5]"
    )
    fragments: Annotated[bool, Boolean()] = option(
        "Fragments alone that are not the first of their packet.", Impact.LIVE, default=False
    )
    set_dscp: Annotated[int, Dscp()] | None = option(
        "Code point of what is permitted, instead of what the interface's `dscp` says.", Impact.LIVE, None, "ef"
    )


@dataclass(frozen=True, kw_only=True)
class AclBinding:
    """Which lists an interface has."""

    in_: Annotated[str, Name("name of an ACL")] | None = option(
        "For what comes in, what is for the router itself included; neither ARP nor what IPv6 has instead of it.",
        Impact.LIVE,
        None,
        "from-customer",
    )
    out: Annotated[str, Name("name of an ACL")] | None = option(
        "For what is forwarded to there; what the router itself sends is not asked.", Impact.LIVE, None, "to-customer"
    )


@dataclass(frozen=True, kw_only=True)
class Rpf:
    """Reverse-path check of sources (RFC 3704); `strict` and `loose` alone stand for `mode`."""

    mode: Literal["off", "strict", "loose"] = option(
        "`strict`: a route to the source leaves by this interface; `loose`: there is one.",
        Impact.LIVE,
        example="strict",
    )
    allow_default: Annotated[bool, Boolean()] | None = option(
        "A default route counts; by default for strict it does, for loose it does not.", Impact.LIVE, None, "true"
    )


RPF_WORDS: Final = Shorthand(tuple((word, (("mode", word),)) for word in ("off", "strict", "loose")))
_Changes = Annotated[tuple[Annotated[tuple[int, int], DscpChange()], ...], OneOrMany(), MaxLength(65)]


@dataclass(frozen=True, kw_only=True)
class DscpMarks:
    """What code points become at an interface: FROM=TO, and one TO alone for all others."""

    in_: _Changes = option("Of what comes in.", Impact.LIVE, (), "[ef=ef, cs0]")
    out: _Changes = option("Of what is forwarded to there.", Impact.LIVE, (), "cs1")


Acls = dict[Annotated[str, Name("name of an ACL")], Annotated[tuple[AclEntry, ...], MaxLength(MAX_ENTRIES)]]
Counted = Annotated[tuple[Annotated[str, IpPrefix()], ...], OneOrMany(), MaxLength(MAX_COUNTED)]
