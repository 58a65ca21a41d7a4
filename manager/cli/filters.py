"""Filters of `vr trace` and `vr capture`: the core of tcpdump's language (pcap-filter(7)), as terms for the forwarder.

    tcp port 179 and host 192.0.2.1          src net 10.0.0.0/8 or arp          not (udp port 53 or 5353)

    filter     = [not] primitive { (and | or) [not] primitive }      and, or: equal rank, from the left; also && || !
    primitive  = ( filter ) | [protocol] [src | dst] [host A | net P | port N | portrange N-M] | vlan [N] | proto N
    protocol   = ip ip6 arp tcp udp icmp icmp6 igmp sctp ospf vrrp

Qualifiers that are left out after `and` or `or` are those of the primitive before.  Not supported: `ether`, `gateway`,
`greater`, `broadcast`, expressions on bytes.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from manager.cli.errors import CliError, usage
from rsock import wire
from rsock.wire import Filter, Side

MAX_TERMS: Final = 64
_TERM: Final = wire.layout("rsock_filter_term")
_ETHERTYPES: Final = {"ip": 0x0800, "arp": 0x0806, "ip6": 0x86DD}
_PROTOCOLS: Final = {"icmp": 1, "igmp": 2, "tcp": 6, "udp": 17, "icmp6": 58, "ospf": 89, "vrrp": 112, "sctp": 132}
_FAMILIES: Final = {"icmp": 4, "igmp": 4, "vrrp": 4, "icmp6": 6}  # what exists in one of them only
_SIDES: Final = {"src": Side.SOURCE, "dst": Side.DESTINATION}
_TYPES: Final = ("host", "net", "port", "portrange")
_JOINS: Final = {"and": Filter.AND, "&&": Filter.AND, "or": Filter.OR, "||": Filter.OR}
_NOT: Final = ("not", "!")
_WORDS: Final = re.compile(r"\(|\)|!|&&|\|\||[^\s()!&|]+")
_END: Final = ""
_LARGEST: Final = 65535


@dataclass(frozen=True)
class _Qualifiers:
    """What stands before a value."""

    protocol: str = ""
    side: Side = Side.EITHER
    type: str = ""


def compile_filter(words: Sequence[str]) -> bytes:
    """Turn the words of a filter into the end of a request; nothing for no words."""
    return _Compiler(" ".join(words)).program() if words else b""


def is_filter(word: str) -> bool:
    """Tell whether a filter could begin with this word."""
    try:
        _Compiler(word).program()
    except CliError:
        return word in {*_SIDES, *_TYPES, *_NOT, *_PROTOCOLS, *_ETHERTYPES, "(", "proto", "vlan"}
    return True


def _term(kind: Filter, *, side: Side = Side.EITHER, family: int = 0, length: int = 0, first: int = 0, last: int = 0,
          address: bytes = b"") -> bytes:  # fmt: skip
    return _TERM.pack(kind, side, family, length, first, last, address)


class _Compiler:
    """One filter, from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._words = _WORDS.findall(text)
        self._at = 0
        self._last = _Qualifiers()

    def program(self) -> bytes:
        terms = [*self._filter()]
        if self._peek() != _END:
            raise self._wrong(f"'{self._peek()}' is not expected there")
        if len(terms) > MAX_TERMS:
            raise self._wrong(f"it has {len(terms)} terms, and {MAX_TERMS} are possible")
        return b"".join(terms)

    def _wrong(self, reason: str) -> CliError:
        return usage(f"filter '{self._text}': {reason}")

    def _peek(self) -> str:
        return self._words[self._at] if self._at < len(self._words) else _END

    def _next(self) -> str:
        word = self._peek()
        if word == _END:
            raise self._wrong("something is missing at its end")
        self._at += 1
        return word

    def _filter(self) -> Iterator[bytes]:
        yield from self._negated()
        while join := _JOINS.get(self._peek()):
            self._next()
            yield from self._negated()
            yield _term(join)

    def _negated(self) -> Iterator[bytes]:
        if self._peek() in _NOT:
            self._next()
            yield from self._negated()
            yield _term(Filter.NOT)
        elif self._peek() == "(":
            self._next()
            yield from self._filter()
            if self._next() != ")":
                raise self._wrong("a ')' is missing")
        else:
            yield from self._primitive()

    def _primitive(self) -> Iterator[bytes]:
        word = self._peek()
        if word in {"vlan", "proto"}:
            yield self._number(self._next())
            return
        found = _Qualifiers()
        if word in _PROTOCOLS or word in _ETHERTYPES:
            found = replace(found, protocol=self._next())
        if self._peek() in _SIDES:
            found = replace(found, side=_SIDES[self._next()])
        if self._peek() in _TYPES:
            found = replace(found, type=self._next())
        if found == _Qualifiers() and self._last.type:
            found = self._last  # "port 53 or 5353"
        yield from self._qualified(found)

    def _qualified(self, found: _Qualifiers) -> Iterator[bytes]:
        if found.protocol:
            yield self._protocol(found.protocol)
            if not found.type and found.side is Side.EITHER:
                return
        kind = found.type or "host"
        self._last = replace(found, type=kind)
        value = self._next()
        yield self._port(value, kind, found.side) if kind.startswith("port") else self._net(value, kind, found.side)
        if found.protocol:
            yield _term(Filter.AND)

    @staticmethod
    def _protocol(word: str) -> bytes:
        if word in _ETHERTYPES:
            return _term(Filter.ETHERTYPE, first=_ETHERTYPES[word])
        return _term(Filter.PROTOCOL, family=_FAMILIES.get(word, 0), first=_PROTOCOLS[word])

    def _number(self, word: str) -> bytes:
        limit = 4094 if word == "vlan" else 255
        if word == "vlan" and not self._peek().isdecimal():
            return _term(Filter.VLAN)
        value = self._next()
        number = _PROTOCOLS.get(value) if word == "proto" else None
        if number is None:
            if not value.isdecimal() or int(value) > limit:
                raise self._wrong(f"'{word} {value}': a number up to {limit} is needed")
            number = int(value)
        return _term(Filter.VLAN if word == "vlan" else Filter.PROTOCOL, first=number)

    def _port(self, value: str, kind: str, side: Side) -> bytes:
        first, dash, last = value.partition("-") if kind == "portrange" else (value, "", "")
        if kind == "portrange" and not dash:
            raise self._wrong(f"'{value}' is no range of ports")
        begin = self._port_number(first)
        end = self._port_number(last) if dash else begin
        if end < begin:
            raise self._wrong(f"the range '{value}' ends before it begins")
        return _term(Filter.PORT, side=side, first=begin, last=end)

    def _port_number(self, text: str) -> int:
        if text.isdecimal() and int(text) <= _LARGEST:
            return int(text)
        try:
            return socket.getservbyname(text)
        except OSError:
            raise self._wrong(f"'{text}' is no port") from None

    def _net(self, value: str, kind: str, side: Side) -> bytes:
        try:
            if kind == "host" and "/" in value:
                raise ValueError("a host has no length")
            net = ipaddress.ip_network(value, strict=False)
        except ValueError:
            what = "address" if kind == "host" else "prefix"
            raise self._wrong(f"'{value}' is no {what}") from None
        return _term(
            Filter.NET, side=side, family=net.version, length=net.prefixlen, address=net.network_address.packed
        )
