"""Link state advertisements: RFC 2328 appendix A.4, RFC 3101 (type 7), RFC 5250 (opaque), RFC 3623 (grace).

    bytes --decode_lsa()--> Lsa(header, body) --encode_lsa()--> the same bytes
    bytes --decode_header()--> LsaHeader, for those who need no more

Numbers stay numbers: addresses and router ids are 32-bit integers.  Metrics of types of service are read over
and not written (RFC 2328 no longer has them).  The content of opaque LSAs is bytes here, but for grace LSAs.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import Final

from vrouter.wire.ospf.fletcher import FIELD, Fletcher, fletcher

MAX_AGE: Final = 3600
INITIAL_SEQUENCE: Final = -0x7FFFFFFF  # 0x80000001
RESERVED_SEQUENCE: Final = -0x80000000  # RFC 2328 section 12.1.6
MAX_SEQUENCE: Final = 0x7FFFFFFF
INFINITY: Final = 0xFFFFFF
HEADER_SIZE: Final = 20
_HEADER: Final = struct.Struct(">HBBIIiHH")
_ROUTER: Final = struct.Struct(">BBH")
_LINK: Final = struct.Struct(">IIBBH")
_EXTERNAL: Final = struct.Struct(">IIII")
_TLV: Final = struct.Struct(">HH")
_TOS_SIZE: Final = 4
GRACE_OPAQUE_TYPE: Final = 3


class DecodeError(ValueError):
    """Bytes that are no OSPF; the text is the reason that is counted."""


class LsaType(enum.IntEnum):
    """Types of LSAs."""

    ROUTER = 1
    NETWORK = 2
    SUMMARY = 3
    ASBR_SUMMARY = 4
    EXTERNAL = 5
    NSSA = 7
    OPAQUE_LINK = 9
    OPAQUE_AREA = 10
    OPAQUE_AS = 11


OPAQUE: Final = frozenset({LsaType.OPAQUE_LINK, LsaType.OPAQUE_AREA, LsaType.OPAQUE_AS})
KNOWN: Final = frozenset(LsaType)
AS_SCOPE: Final = frozenset({LsaType.EXTERNAL, LsaType.OPAQUE_AS})


class Options(enum.IntFlag):
    """The options field; RFC 2328 appendix A.2, RFC 5250, RFC 5613, RFC 4576."""

    E = 0x02
    MC = 0x04
    NP = 0x08
    L = 0x10
    DC = 0x20
    O = 0x40  # noqa: E741 - its name in RFC 5250
    DN = 0x80


class RouterFlag(enum.IntFlag):
    """Flags of a router LSA; RFC 2328 appendix A.4.2, RFC 3101."""

    B = 0x01
    E = 0x02
    V = 0x04
    NT = 0x10


class LinkType(enum.IntEnum):
    """Types of links of a router LSA."""

    POINT_TO_POINT = 1
    TRANSIT = 2
    STUB = 3
    VIRTUAL = 4


LsaKey = tuple[int, int, int]  # type, link state id, advertising router


@dataclass(frozen=True, slots=True)
class LsaHeader:
    """What identifies an LSA and an instance of it; `sequence` is signed."""

    age: int
    options: int
    type: int
    id: int
    router: int
    sequence: int
    checksum: int
    length: int

    @property
    def key(self) -> LsaKey:
        """What stays the same over all instances."""
        return (self.type, self.id, self.router)


@dataclass(frozen=True, slots=True)
class RouterLink:
    """A link of a router LSA."""

    type: int
    id: int
    data: int
    metric: int


@dataclass(frozen=True, slots=True)
class RouterBody:
    """Type 1."""

    flags: int
    links: tuple[RouterLink, ...] = ()


@dataclass(frozen=True, slots=True)
class NetworkBody:
    """Type 2."""

    mask: int
    routers: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class SummaryBody:
    """Types 3 and 4."""

    mask: int
    metric: int


@dataclass(frozen=True, slots=True)
class ExternalBody:
    """Types 5 and 7; `type2` is the E bit."""

    mask: int
    metric: int
    type2: bool = True
    forwarding: int = 0
    tag: int = 0


@dataclass(frozen=True, slots=True)
class OpaqueBody:
    """Types 9 to 11, and any type that is not known: bytes."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Grace:
    """What a grace LSA says; RFC 3623 appendix A.  `address` is 0 where the link needs none."""

    period: int
    reason: int
    address: int = 0


Body = RouterBody | NetworkBody | SummaryBody | ExternalBody | OpaqueBody


@dataclass(frozen=True, slots=True)
class Lsa:
    """A whole LSA."""

    header: LsaHeader
    body: Body


def decode_header(data: bytes, offset: int = 0) -> LsaHeader:
    """Read a header.  Raises DecodeError."""
    if len(data) - offset < HEADER_SIZE:
        raise DecodeError("lsa-header-short")
    return LsaHeader(*_HEADER.unpack_from(data, offset))


def encode_header(header: LsaHeader) -> bytes:
    """Write a header as it is."""
    return _HEADER.pack(
        header.age, header.options, header.type, header.id, header.router, header.sequence, header.checksum,
        header.length,
    )  # fmt: skip


def decode_lsa(data: bytes, *, strict: bool = False, checksum: Fletcher = fletcher) -> Lsa:
    """Read one LSA that fills `data`; strictly with its checksum, and no octet too many.  Raises DecodeError."""
    header = decode_header(data)
    if header.length != len(data):
        raise DecodeError("lsa-length")
    if strict and checksum(data) != header.checksum:
        raise DecodeError("lsa-checksum")
    return Lsa(header, decode_body(header.type, data, strict=strict))


def decode_body(kind: int, data: bytes, *, strict: bool = False) -> Body:
    """Read what stands behind the header of an LSA.  Raises DecodeError."""
    if kind == LsaType.ROUTER:
        return _router(data, strict)
    if kind == LsaType.NETWORK:
        return _network(data)
    if kind in {LsaType.SUMMARY, LsaType.ASBR_SUMMARY}:
        if len(data) < HEADER_SIZE + 8 or len(data) % 4:
            raise DecodeError("lsa-summary-length")
        mask, metric = struct.unpack_from(">II", data, HEADER_SIZE)
        return SummaryBody(_mask(mask) if kind == LsaType.SUMMARY else mask, metric & INFINITY)
    if kind in {LsaType.EXTERNAL, LsaType.NSSA}:
        if len(data) < HEADER_SIZE + _EXTERNAL.size or len(data) % 4:
            raise DecodeError("lsa-external-length")
        mask, metric, forwarding, tag = _EXTERNAL.unpack_from(data, HEADER_SIZE)
        return ExternalBody(_mask(mask), metric & INFINITY, bool(metric >> 31), forwarding, tag)
    return OpaqueBody(data[HEADER_SIZE:])


def _mask(mask: int) -> int:
    inverted = ~mask & 0xFFFFFFFF
    if inverted & (inverted + 1):
        raise DecodeError("lsa-mask")
    return mask


def _router(data: bytes, strict: bool) -> RouterBody:
    if len(data) < HEADER_SIZE + _ROUTER.size:
        raise DecodeError("lsa-router-length")
    flags, _, count = _ROUTER.unpack_from(data, HEADER_SIZE)
    offset = HEADER_SIZE + _ROUTER.size
    links = []
    for _ in range(count):
        if len(data) - offset < _LINK.size:
            raise DecodeError("lsa-router-links")
        identifier, link_data, kind, services, metric = _LINK.unpack_from(data, offset)
        offset += _LINK.size + services * _TOS_SIZE
        links.append(RouterLink(kind, identifier, link_data, metric))
    if offset > len(data) or (strict and offset != len(data)):
        raise DecodeError("lsa-router-links")
    return RouterBody(flags, tuple(links))


def _network(data: bytes) -> NetworkBody:
    if len(data) < HEADER_SIZE + 8 or len(data) % 4:
        raise DecodeError("lsa-network-length")
    mask, *routers = struct.unpack_from(f">{(len(data) - HEADER_SIZE) // 4}I", data, HEADER_SIZE)
    return NetworkBody(_mask(mask), tuple(routers))


def encode_body(body: Body) -> bytes:
    """Write what stands behind a header."""
    if isinstance(body, RouterBody):
        links = [_LINK.pack(link.id, link.data, link.type, 0, link.metric) for link in body.links]
        return _ROUTER.pack(body.flags, 0, len(body.links)) + b"".join(links)
    if isinstance(body, NetworkBody):
        return struct.pack(f">{1 + len(body.routers)}I", body.mask, *body.routers)
    if isinstance(body, SummaryBody):
        return struct.pack(">II", body.mask, body.metric)
    if isinstance(body, ExternalBody):
        return _EXTERNAL.pack(body.mask, body.type2 << 31 | body.metric, body.forwarding, body.tag)
    return body.data


def build_lsa(
    key: LsaKey, options: int, sequence: int, body: Body, age: int = 0, checksum: Fletcher = fletcher
) -> bytes:
    """Write an LSA with its length and checksum."""
    kind, identifier, router = key
    content = encode_body(body)
    raw = (
        _HEADER.pack(age, options, kind, identifier, router, sequence, 0, HEADER_SIZE + len(content)) + content
    )  # fmt: skip
    return raw[:FIELD] + checksum(raw).to_bytes(2, "big") + raw[FIELD + 2 :]


def encode_lsa(lsa: Lsa, checksum: Fletcher = fletcher) -> bytes:
    """Write an LSA; length and checksum are computed."""
    header = lsa.header
    return build_lsa(header.key, header.options, header.sequence, lsa.body, header.age, checksum)


def with_age(raw: bytes, age: int) -> bytes:
    """Give an LSA with another age, which no checksum covers."""
    return age.to_bytes(2, "big") + raw[2:]


def decode_grace(data: bytes) -> Grace:
    """Read the TLVs of a grace LSA.  Raises DecodeError."""
    found = dict.fromkeys((1, 2, 3), 0)
    offset = 0
    seen = set()
    while offset < len(data):
        if len(data) - offset < _TLV.size:
            raise DecodeError("grace-tlv")
        kind, length = _TLV.unpack_from(data, offset)
        value = data[offset + _TLV.size : offset + _TLV.size + length]
        if len(value) != length:
            raise DecodeError("grace-tlv")
        if kind in found:
            if length != (1 if kind == 2 else 4):
                raise DecodeError("grace-tlv")
            found[kind] = int.from_bytes(value, "big")
            seen.add(kind)
        offset += _TLV.size + (length + 3 & ~3)
    if not {1, 2} <= seen:
        raise DecodeError("grace-tlv")
    return Grace(found[1], found[2], found[3])


def encode_grace(grace: Grace) -> bytes:
    """Write the TLVs of a grace LSA."""
    data = _TLV.pack(1, 4) + struct.pack(">I", grace.period) + _TLV.pack(2, 1) + bytes((grace.reason, 0, 0, 0))
    return data + (_TLV.pack(3, 4) + struct.pack(">I", grace.address) if grace.address else b"")
