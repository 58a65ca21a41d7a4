"""Router advertisements and solicitations of IPv6 as bytes (RFC 4861 sections 4.1, 4.2, 4.6).

Options: link-layer address, prefix information, MTU (RFC 4861), DNS servers and search list (RFC 8106); the router
preference of RFC 4191 stands in the flags.  Other options are passed over, as hosts must.  The checksum is the
sender's stack's work, and 0 here.

Not supported: route information of RFC 4191 section 2.3, mobility flags.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from vrouter.net.address import IPV6, Address, Prefix, mask

SOLICITATION: Final = 133
ADVERTISEMENT: Final = 134
INFINITE: Final = 0xFFFFFFFF
_MANAGED: Final = 0x80
_OTHER: Final = 0x40
_ON_LINK: Final = 0x80
_AUTONOMOUS: Final = 0x40
_SOURCE_LINK_LAYER: Final = 1
_PREFIX: Final = 3
_MTU: Final = 5
_DNS_SERVERS: Final = 25
_DNS_SEARCH: Final = 31
_HEADER: Final = struct.Struct("!BBHBBHII")
_PREFIX_OPTION: Final = struct.Struct("!BBBBIII16s")
_UNIT: Final = 8
_MAX_NAME: Final = 255


class RaError(ValueError):
    """A message that is not used."""


class Preference(enum.IntEnum):
    """The two bits of a router preference (RFC 4191 section 2.1); the fourth value means medium too."""

    MEDIUM = 0
    HIGH = 1
    LOW = 3


@dataclass(frozen=True, slots=True)
class PrefixInformation:
    """A prefix on the link; lifetimes in seconds, INFINITE for ever."""

    prefix: Prefix
    valid: int
    preferred: int
    on_link: bool = True
    autonomous: bool = True


@dataclass(frozen=True, slots=True)
class DnsServers:
    """Recursive name servers (RFC 8106 section 5.1)."""

    lifetime: int
    servers: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class DnsSearch:
    """Domains in which names without dots are looked for (RFC 8106 section 5.2)."""

    lifetime: int
    domains: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Advertisement:
    """A router advertisement; times are milliseconds where their names say so, else seconds."""

    lifetime: int
    hop_limit: int = 0
    managed: bool = False
    other: bool = False
    preference: Preference = Preference.MEDIUM
    reachable_ms: int = 0
    retransmit_ms: int = 0
    mac: bytes = b""
    mtu: int = 0
    prefixes: tuple[PrefixInformation, ...] = ()
    dns_servers: tuple[DnsServers, ...] = ()
    dns_search: tuple[DnsSearch, ...] = ()


@dataclass(frozen=True, slots=True)
class Solicitation:
    """A router solicitation."""

    mac: bytes = b""


def decode(data: bytes) -> Advertisement | Solicitation | None:
    """Read an ICMPv6 message; None for one of another type.  Raises RaError."""
    if not data:
        raise RaError("empty")
    if data[0] == SOLICITATION:
        return _decode_solicitation(data)
    if data[0] == ADVERTISEMENT:
        return _decode_advertisement(data)
    return None


def encode(message: Advertisement | Solicitation) -> bytes:
    """Write a message, its checksum 0."""
    if isinstance(message, Solicitation):
        return struct.pack("!BBHI", SOLICITATION, 0, 0, 0) + _link_layer(message.mac)
    flags = message.managed * _MANAGED | message.other * _OTHER | message.preference << 3
    parts = [
        _HEADER.pack(
            ADVERTISEMENT, 0, 0, message.hop_limit, flags, message.lifetime, message.reachable_ms, message.retransmit_ms
        ),
        _link_layer(message.mac),
    ]
    if message.mtu:
        parts.append(struct.pack("!BBHI", _MTU, 1, 0, message.mtu))
    for info in message.prefixes:
        bits = info.on_link * _ON_LINK | info.autonomous * _AUTONOMOUS
        packed = info.prefix.value.to_bytes(16, "big")
        parts.append(_PREFIX_OPTION.pack(_PREFIX, 4, info.prefix.length, bits, info.valid, info.preferred, 0, packed))
    for servers in message.dns_servers:
        head = struct.pack("!BBHI", _DNS_SERVERS, 1 + 2 * len(servers.servers), 0, servers.lifetime)
        parts.append(head + b"".join(server.value.to_bytes(16, "big") for server in servers.servers))
    for search in message.dns_search:
        names = b"".join(_encode_name(domain) for domain in search.domains)
        names += bytes(-len(names) % _UNIT)
        parts.append(struct.pack("!BBHI", _DNS_SEARCH, 1 + len(names) // _UNIT, 0, search.lifetime) + names)
    return b"".join(parts)


def _link_layer(mac: bytes) -> bytes:
    return bytes((_SOURCE_LINK_LAYER, 1)) + mac if len(mac) == 6 else b""


def _encode_name(domain: str) -> bytes:
    labels = domain.encode("ascii").split(b".")
    return b"".join(bytes((len(label),)) + label for label in labels) + b"\0"


def _decode_solicitation(data: bytes) -> Solicitation:
    if len(data) < 8 or data[1]:
        raise RaError("malformed solicitation")
    mac = b""
    for kind, body in _options(data[8:]):
        if kind == _SOURCE_LINK_LAYER and len(body) == 6:
            mac = body
    return Solicitation(mac)


def _decode_advertisement(data: bytes) -> Advertisement:
    if len(data) < _HEADER.size or data[1]:
        raise RaError("malformed advertisement")
    _type, _code, _sum, hop_limit, flags, lifetime, reachable, retransmit = _HEADER.unpack_from(data)
    mac, mtu = b"", 0
    prefixes: list[PrefixInformation] = []
    servers: list[DnsServers] = []
    search: list[DnsSearch] = []
    for kind, body in _options(data[_HEADER.size :]):
        if kind == _SOURCE_LINK_LAYER and len(body) == 6:
            mac = body
        elif kind == _MTU and len(body) == 6:
            mtu = int.from_bytes(body[2:], "big")
        elif kind == _PREFIX and len(body) == 30 and body[0] <= 128:
            prefixes.append(_decode_prefix(body))
        elif kind == _DNS_SERVERS and len(body) >= 22 and len(body) % 16 == 6:
            found = (Address(IPV6, int.from_bytes(body[i : i + 16], "big")) for i in range(6, len(body), 16))
            servers.append(DnsServers(int.from_bytes(body[2:6], "big"), tuple(found)))
        elif kind == _DNS_SEARCH and len(body) >= 14:
            search.append(DnsSearch(int.from_bytes(body[2:6], "big"), tuple(_decode_names(body[6:]))))
    bits = flags >> 3 & 3
    return Advertisement(
        lifetime,
        hop_limit,
        bool(flags & _MANAGED),
        bool(flags & _OTHER),
        Preference(bits) if bits != 2 else Preference.MEDIUM,
        reachable,
        retransmit,
        mac,
        mtu,
        tuple(prefixes),
        tuple(servers),
        tuple(search),
    )


def _decode_prefix(body: bytes) -> PrefixInformation:
    length, flags, valid, preferred, _reserved, packed = struct.unpack("!BBIII16s", body)
    value = int.from_bytes(packed, "big") & mask(IPV6, length)
    return PrefixInformation(
        Prefix(IPV6, value, length), valid, preferred, bool(flags & _ON_LINK), bool(flags & _AUTONOMOUS)
    )


def _options(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Give kind and body of each option.  Raises RaError: one of length 0 spoils all (RFC 4861 section 4.6)."""
    while data:
        if len(data) < 2 or not data[1] or data[1] * _UNIT > len(data):
            raise RaError("malformed option")
        size = data[1] * _UNIT
        yield data[0], data[2:size]
        data = data[size:]


def _decode_names(data: bytes) -> Iterator[str]:
    """Give the names of a search list; what cannot be read ends it."""
    labels: list[str] = []
    while data and (data[0] or labels):
        size = data[0]
        if not size:
            yield ".".join(labels)
            labels = []
        label = data[1 : 1 + size]
        if len(label) < size or not label.isascii() or sum(map(len, labels)) + size > _MAX_NAME:
            return
        if size:
            labels.append(label.decode("ascii"))
        data = data[1 + size :]
