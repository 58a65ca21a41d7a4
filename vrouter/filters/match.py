"""The match of a packet against a list, entry by entry: what the compiled form must agree with.

    read(packet) --> Packet, or None where its headers hide what it carries --> decide(list, packet)

Fragments as RFC 1858 and RFC 3128 advise; IPv6 extension headers are passed over up to a bound.  Linear and
slow: it explains a list to operators, and is the oracle of the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from vrouter.config.acl import PROTOCOLS, WITH_PORTS, AclEntry
from vrouter.filters.terms import Field, Form, terms
from vrouter.net.address import IPV4, IPV6

MAX_EXTENSIONS: Final = 16
_TINY: Final = 16  # bytes of TCP up to the end of the flags and the window
_FRAGMENT: Final = 44
_EXTENSIONS: Final = frozenset({0, 43, 60, _FRAGMENT})  # hop-by-hop, routing, destination options, fragment
_ICMP: Final = frozenset({PROTOCOLS["icmp"], PROTOCOLS["icmpv6"]})
_NEIGHBOR: Final = frozenset({135 * 256, 136 * 256})  # solicitation, advertisement
_terms: Final = lru_cache(maxsize=4096)(terms)


@dataclass(frozen=True, slots=True)
class Packet:
    """What lists look at."""

    family: int
    source: int
    destination: int
    protocol: int
    source_port: int = 0
    destination_port: int = 0  # ICMP: 256 * type + code
    flags: int = 0
    dscp: int = 0
    form: Form = Form.WHOLE
    hop_limit: int = 64

    def value(self, field: Field) -> int:
        """Give the value of a field."""
        values = {
            Field.SOURCE: self.source,
            Field.DESTINATION: self.destination,
            Field.SOURCE_PORT: self.source_port,
            Field.DESTINATION_PORT: self.destination_port,
            Field.PROTOCOL: self.protocol,
            Field.FORM: self.dscp + 64 * self.form,
            Field.FLAGS: self.flags,
        }
        return values[field]


def matches(entry: AclEntry, packet: Packet) -> bool:
    """Tell whether a packet matches an entry."""
    asked = _terms(entry, packet.family)
    if asked is None:
        return False
    return all(
        any(first <= packet.value(Field(field)) <= last for first, last in spans) for field, spans in asked.items()
    )


def decide(entries: Sequence[AclEntry], packet: Packet) -> int:
    """Give the position of the entry that decides; the length of the list: its end does."""
    return next((place for place, entry in enumerate(entries) if matches(entry, packet)), len(entries))


def is_neighbor_discovery(packet: Packet) -> bool:
    """Tell whether the end of a list lets it pass: what is to IPv6 what ARP is to IPv4."""
    return (
        packet.family == IPV6
        and packet.protocol == PROTOCOLS["icmpv6"]
        and packet.form == Form.WHOLE
        and packet.destination_port in _NEIGHBOR
        and packet.hop_limit == 255
    )


def read(data: bytes) -> Packet | None:
    """Read an IP packet whose IP header is sound; None: it hides what it carries, and no list lets it pass."""
    if data[0] >> 4 == IPV4:
        header = (data[0] & 15) * 4
        word = int.from_bytes(data[6:8], "big")
        packet = Packet(
            IPV4, int.from_bytes(data[12:16], "big"), int.from_bytes(data[16:20], "big"), data[9], dscp=data[1] >> 2
        )
        return _transport(packet, data[header:], (word & 0x1FFF) * 8, more=word & 0x2000 != 0)
    found = _behind(data)
    if found is None:
        return None
    protocol, at, fragment, more = found
    packet = Packet(
        IPV6, int.from_bytes(data[8:24], "big"), int.from_bytes(data[24:40], "big"), protocol,
        dscp=int.from_bytes(data[:2], "big") >> 6 & 63, hop_limit=data[7],
    )  # fmt: skip
    return _transport(packet, data[at:], fragment, more=more)


def _behind(data: bytes) -> tuple[int, int, int, bool] | None:
    """Give what stands behind the extension headers: its number, where, the offset of this piece, if more follows."""
    protocol, at, fragment, more = data[6], 40, 0, False
    for _ in range(MAX_EXTENSIONS):
        if protocol not in _EXTENSIONS or fragment:
            return protocol, at, fragment, more
        if len(data) - at < 8:
            return None
        size = 8 if protocol == _FRAGMENT else (data[at + 1] + 1) * 8
        if size > len(data) - at:
            return None
        if protocol == _FRAGMENT:
            word = int.from_bytes(data[at + 2 : at + 4], "big")
            fragment, more = word & 0xFFF8, more or word & 1 != 0
        protocol, at = data[at], at + size
    return None


def _transport(packet: Packet, data: bytes, fragment: int, *, more: bool) -> Packet | None:
    tcp = packet.protocol == PROTOCOLS["tcp"]
    if tcp and (fragment == 8 or (fragment == 0 and more and len(data) < _TINY)):
        return None
    if fragment:
        return replace(packet, form=Form.LATER)
    needed = _TINY if tcp else 4 if packet.protocol in WITH_PORTS else 2 if packet.protocol in _ICMP else 0
    if len(data) < needed:
        return None if more else replace(packet, form=Form.BARE)
    first, second = int.from_bytes(data[:2], "big"), int.from_bytes(data[2:4], "big")
    if packet.protocol in _ICMP:
        return replace(packet, destination_port=first)
    if packet.protocol in WITH_PORTS:
        return replace(packet, source_port=first, destination_port=second, flags=data[13] if tcp else 0)
    return packet
