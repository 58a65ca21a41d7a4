"""OSPF packets: RFC 2328 appendix A.3, link-local signaling RFC 5613.

    bytes --decode_header()--> Header --(authentication.verify)--> --decode_body()--> Hello | ... | LsAck
    Hello | ... --encode()--> bytes that authentication.sign() completes

A decoder raises DecodeError and nothing else.  Strictly, what RFC 2328 does not allow but does not forbid
either (octets behind the last item, reserved flags) is an error too.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import Final

from vrouter.wire.ospf.lsa import HEADER_SIZE as LSA_HEADER_SIZE
from vrouter.wire.ospf.lsa import DecodeError, LsaHeader, LsaKey, Options, decode_header, encode_header

VERSION: Final = 2
HEADER_SIZE: Final = 24
_HEADER: Final = struct.Struct(">BBHIIHH8s")
_HELLO: Final = struct.Struct(">IHBBIII")
_DESCRIPTION: Final = struct.Struct(">HBBI")
_REQUEST: Final = struct.Struct(">III")
_LLS: Final = struct.Struct(">HH")
_TLV: Final = struct.Struct(">HH")
LLS_EXTENDED_OPTIONS: Final = 1
SEQUENCE_SIZE: Final = 8  # of RFC 7474's sequence number
LLS_AUTHENTICATION: Final = 2


class PacketType(enum.IntEnum):
    """Types of packets."""

    HELLO = 1
    DESCRIPTION = 2
    REQUEST = 3
    UPDATE = 4
    ACK = 5


class AuthType(enum.IntEnum):
    """AuType: RFC 2328 appendix D, RFC 7474."""

    NONE = 0
    SIMPLE = 1
    CRYPTOGRAPHIC = 2
    EXTENDED = 3


class DescriptionFlag(enum.IntFlag):
    """Flags of database descriptions; R is RFC 4811."""

    MS = 1
    M = 2
    I = 4  # noqa: E741 - its name in RFC 2328
    R = 8


@dataclass(frozen=True, slots=True)
class Header:
    """The common header; `authentication` are its 8 octets."""

    type: int
    length: int
    router: int
    area: int
    checksum: int
    auth_type: int
    authentication: bytes

    @property
    def digest_size(self) -> int:
        """Octets of the digest behind the packet."""
        return self.authentication[3] if self.auth_type >= AuthType.CRYPTOGRAPHIC else 0

    @property
    def key_id(self) -> int:
        """Which key: RFC 7474 has 32 bits for it, where the sequence number of RFC 2328 stands."""
        extended = self.auth_type == AuthType.EXTENDED
        return int.from_bytes(self.authentication[4:], "big") if extended else self.authentication[2]

    @property
    def signed(self) -> int:
        """Where the digest begins: before it RFC 7474 has the sequence number, which `length` does not count."""
        return self.length + (SEQUENCE_SIZE if self.auth_type == AuthType.EXTENDED else 0)

    @property
    def end(self) -> int:
        """Where the digest ends."""
        return self.signed + self.digest_size


@dataclass(frozen=True, slots=True)
class Hello:
    """Type 1; `lls` are the extended options of RFC 5613, None without a block."""

    mask: int
    interval: int
    options: int
    priority: int
    dead_interval: int
    dr: int
    bdr: int
    neighbors: tuple[int, ...] = ()
    lls: int | None = None


@dataclass(frozen=True, slots=True)
class Description:
    """Type 2."""

    mtu: int
    options: int
    flags: int
    sequence: int
    headers: tuple[LsaHeader, ...] = ()
    lls: int | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """Type 3."""

    keys: tuple[LsaKey, ...]


@dataclass(frozen=True, slots=True)
class Update:
    """Type 4: whole LSAs as bytes, whose headers and lengths are right."""

    lsas: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Ack:
    """Type 5."""

    headers: tuple[LsaHeader, ...]


Body = Hello | Description | Request | Update | Ack


def decode_packet_header(data: bytes) -> Header:
    """Read the header; the length that it claims is there, digest included.  Raises DecodeError."""
    if len(data) < HEADER_SIZE:
        raise DecodeError("header-short")
    version, kind, length, router, area, checksum, auth_type, authentication = _HEADER.unpack_from(data)
    if version != VERSION:
        raise DecodeError("version")
    header = Header(kind, length, router, area, checksum, auth_type, authentication)
    if length < HEADER_SIZE or header.end > len(data):
        raise DecodeError("length")
    return header


def decode_body(header: Header, data: bytes, *, strict: bool = False) -> Body:
    """Read the body of a packet whose header was read.  Raises DecodeError."""
    body = data[HEADER_SIZE : header.length]
    if header.type == PacketType.HELLO:
        return _hello(body, data[header.end :])
    if header.type == PacketType.DESCRIPTION:
        return _description(body, data[header.end :], strict)
    if header.type == PacketType.REQUEST:
        if len(body) % _REQUEST.size:
            raise DecodeError("request-length")
        return Request(tuple(_REQUEST.iter_unpack(body)))
    if header.type == PacketType.UPDATE:
        return _update(body, strict)
    if header.type == PacketType.ACK:
        return Ack(_headers(body, 0))
    raise DecodeError("type")


def _hello(body: bytes, rest: bytes) -> Hello:
    if len(body) < _HELLO.size or len(body) % 4:
        raise DecodeError("hello-length")
    mask, interval, options, priority, dead, dr, bdr = _HELLO.unpack_from(body)
    neighbors = struct.unpack_from(f">{(len(body) - _HELLO.size) // 4}I", body, _HELLO.size)
    lls = _lls(rest) if options & Options.L else None
    return Hello(mask, interval, options, priority, dead, dr, bdr, neighbors, lls)


def _description(body: bytes, rest: bytes, strict: bool) -> Description:
    if len(body) < _DESCRIPTION.size:
        raise DecodeError("description-length")
    mtu, options, flags, sequence = _DESCRIPTION.unpack_from(body)
    if strict and flags & ~0xF:
        raise DecodeError("description-flags")
    lls = _lls(rest) if options & Options.L else None
    return Description(mtu, options, flags, sequence, _headers(body, _DESCRIPTION.size), lls)


def _headers(body: bytes, offset: int) -> tuple[LsaHeader, ...]:
    if (len(body) - offset) % LSA_HEADER_SIZE:
        raise DecodeError("lsa-header-short")
    return tuple(decode_header(body, at) for at in range(offset, len(body), LSA_HEADER_SIZE))


def _update(body: bytes, strict: bool) -> Update:
    if len(body) < 4:
        raise DecodeError("update-length")
    count = int.from_bytes(body[:4], "big")
    offset = 4
    lsas = []
    for _ in range(count):
        if len(body) - offset < LSA_HEADER_SIZE:
            raise DecodeError("lsa-header-short")
        length = body[offset + 18] << 8 | body[offset + 19]
        if not LSA_HEADER_SIZE <= length <= len(body) - offset:
            raise DecodeError("lsa-length")
        lsas.append(body[offset : offset + length])
        offset += length
    if strict and offset != len(body):
        raise DecodeError("update-length")
    return Update(tuple(lsas))


def _lls(block: bytes) -> int | None:
    """Give the extended options of a block; None for one that is not there or not well formed: it is ignored."""
    if len(block) < _LLS.size:
        return None
    checksum, words = _LLS.unpack_from(block)
    length = words * 4
    if not _LLS.size <= length <= len(block) or (checksum and internet_checksum(block[:length])):
        return None
    offset = _LLS.size
    found = None
    while length - offset >= _TLV.size:
        kind, size = _TLV.unpack_from(block, offset)
        offset += _TLV.size
        if size > length - offset:
            return None
        if kind == LLS_EXTENDED_OPTIONS and size == 4:
            found = int.from_bytes(block[offset : offset + 4], "big")
        offset += size + 3 & ~3
    return found


def lls_block(extended_options: int, authentication: bytes = b"", size: int = 0) -> bytes:
    """Write a block of RFC 5613; with an authentication TLV of `size` octets beginning with `authentication`."""
    tlvs = _TLV.pack(LLS_EXTENDED_OPTIONS, 4) + struct.pack(">I", extended_options)
    if size:
        tlvs += _TLV.pack(LLS_AUTHENTICATION, size) + authentication
    words = (_LLS.size + len(tlvs) + size - len(authentication)) // 4
    if size:
        return _LLS.pack(0, words) + tlvs
    checksum = internet_checksum(_LLS.pack(0, words) + tlvs)
    return _LLS.pack(checksum, words) + tlvs


def encode_packet_body(body: Body) -> tuple[PacketType, bytes]:
    """Write a body, without its LLS block; give its type too."""
    if isinstance(body, Hello):
        fixed = _HELLO.pack(
            body.mask, body.interval, body.options, body.priority, body.dead_interval, body.dr, body.bdr
        )  # fmt: skip
        return PacketType.HELLO, fixed + struct.pack(f">{len(body.neighbors)}I", *body.neighbors)
    if isinstance(body, Description):
        fixed = _DESCRIPTION.pack(body.mtu, body.options, body.flags, body.sequence)
        return PacketType.DESCRIPTION, fixed + b"".join(map(encode_header, body.headers))
    if isinstance(body, Request):
        return PacketType.REQUEST, b"".join(_REQUEST.pack(*key) for key in body.keys)
    if isinstance(body, Update):
        return PacketType.UPDATE, len(body.lsas).to_bytes(4, "big") + b"".join(body.lsas)
    return PacketType.ACK, b"".join(map(encode_header, body.headers))


def pack_header(header: Header) -> bytes:
    """Write the 24 octets of a header."""
    return _HEADER.pack(
        VERSION, header.type, header.length, header.router, header.area, header.checksum, header.auth_type,
        header.authentication,
    )  # fmt: skip


def internet_checksum(data: bytes) -> int:
    """Give the checksum field of RFC 1071; 0 over data that hold a right one."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
