"""Authentication of OSPF packets: RFC 2328 appendix D (none, simple, MD5), RFC 5709 (HMAC-SHA), RFC 7474.

    sign(body, router, area, key, sequence, source) --> packet, digest and LLS block behind it
    verify(packet, header, keys, source)            --> the sequence number, or DecodeError

With RFC 7474 (`Key.extended`) the sequence number has 64 bits and stands between the packet and the digest, the
number of the key has 32, the digest depends on the packet's source and the key on the protocol.  Whether a sequence
number is fresh is the neighbor's business.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from vrouter.wire.ospf import packet as wire
from vrouter.wire.ospf.lsa import DecodeError
from vrouter.wire.ospf.packet import AuthType, Body, Description, Header, Hello

_APAD: Final = bytes.fromhex("878FE1F3")
_PROTOCOL_ID: Final = b"\x00\x03"  # RFC 7474 section 6
_SIMPLE_SIZE: Final = 8
_MD5_SIZE: Final = 16
_FIELD: Final = struct.Struct(">HBBI")


class Algorithm(enum.Enum):
    """How a packet is authenticated."""

    NONE = "none"
    SIMPLE = "simple"
    MD5 = "md5"
    SHA1 = "hmac-sha-1"
    SHA256 = "hmac-sha-256"
    SHA384 = "hmac-sha-384"
    SHA512 = "hmac-sha-512"


_HASHES: Final = {
    Algorithm.SHA1: ("sha1", 20),
    Algorithm.SHA256: ("sha256", 32),
    Algorithm.SHA384: ("sha384", 48),
    Algorithm.SHA512: ("sha512", 64),
}


@dataclass(frozen=True, slots=True)
class Key:
    """A key of an interface."""

    algorithm: Algorithm = Algorithm.NONE
    id: int = 0
    secret: bytes = field(default=b"", repr=False)
    extended: bool = False

    @property
    def auth_type(self) -> AuthType:
        """What the header says."""
        if self.algorithm is Algorithm.NONE:
            return AuthType.NONE
        if self.algorithm is Algorithm.SIMPLE:
            return AuthType.SIMPLE
        return AuthType.EXTENDED if self.extended else AuthType.CRYPTOGRAPHIC

    @property
    def digest_size(self) -> int:
        """Octets behind the packet."""
        if self.algorithm is Algorithm.MD5:
            return _MD5_SIZE
        return _HASHES[self.algorithm][1] if self.algorithm in _HASHES else 0


NO_KEY: Final = Key()


def overhead(key: Key) -> int:
    """Give how many octets a key adds to a packet beside the plain header."""
    return key.digest_size + (wire.SEQUENCE_SIZE if key.auth_type is AuthType.EXTENDED else 0)


def sign(body: Body, router: int, area: int, key: Key = NO_KEY, sequence: int = 0, source: int = 0) -> bytes:
    """Write a packet with its header, its digest and, where the body has one, its LLS block."""
    kind, content = wire.encode_packet_body(body)
    auth_type = key.auth_type
    options = body.lls if isinstance(body, Hello | Description) else None
    if auth_type < AuthType.CRYPTOGRAPHIC:
        simple = key.secret[:_SIMPLE_SIZE].ljust(_SIMPLE_SIZE, b"\0")
        header = Header(kind, wire.HEADER_SIZE + len(content), router, area, 0, auth_type, bytes(8))
        checksum = wire.internet_checksum(wire.pack_header(header)[:16] + content)
        header = Header(kind, header.length, router, area, checksum, auth_type, simple)
        block = wire.lls_block(options) if options is not None else b""
        return wire.pack_header(header) + content + block
    extended = auth_type is AuthType.EXTENDED
    third, last = (0, key.id) if extended else (key.id, sequence & 0xFFFFFFFF)
    fields = _FIELD.pack(0, third, key.digest_size, last)
    length = wire.HEADER_SIZE + len(content)
    packet = wire.pack_header(Header(kind, length, router, area, 0, auth_type, fields)) + content
    if extended:
        packet += sequence.to_bytes(wire.SEQUENCE_SIZE, "big")
    block = b""
    if options is not None:
        shown = (sequence & 0xFFFFFFFF).to_bytes(4, "big")
        block = wire.lls_block(options, shown, 4 + key.digest_size)
        block += _digest(block, key, source)
    return packet + _digest(packet, key, source) + block


def verify(packet: bytes, header: Header, keys: Mapping[int, Key], source: int = 0) -> int:
    """Check a packet against the keys of its interface by id; give its sequence number.  Raises DecodeError.

    An interface without authentication has no key; a simple password has the id 0.
    """
    if header.auth_type < AuthType.CRYPTOGRAPHIC:
        _verify_plain(packet, header, keys)
        return 0
    key = keys.get(header.key_id)
    if key is None or key.auth_type != header.auth_type or key.auth_type < AuthType.CRYPTOGRAPHIC:
        raise DecodeError("authentication-key" if header.auth_type <= AuthType.EXTENDED else "authentication-type")
    if header.digest_size != key.digest_size:
        raise DecodeError("authentication-length")
    if not hmac.compare_digest(packet[header.signed : header.end], _digest(packet[: header.signed], key, source)):
        raise DecodeError("authentication-digest")
    return int.from_bytes(packet[header.length : header.signed] if key.extended else header.authentication[4:], "big")


def _verify_plain(packet: bytes, header: Header, keys: Mapping[int, Key]) -> None:
    if header.auth_type == AuthType.SIMPLE:
        key = keys.get(0)
        if key is None or key.algorithm is not Algorithm.SIMPLE:
            raise DecodeError("authentication-type")
        expected = key.secret[:_SIMPLE_SIZE].ljust(_SIMPLE_SIZE, b"\0")
        if not hmac.compare_digest(header.authentication, expected):
            raise DecodeError("authentication-digest")
    elif keys:
        raise DecodeError("authentication-type")
    if wire.internet_checksum(packet[:16] + packet[wire.HEADER_SIZE : header.length]):
        raise DecodeError("checksum")


def _digest(data: bytes, key: Key, source: int) -> bytes:
    if key.algorithm is Algorithm.MD5:
        # RFC 2328 appendix D.4.3: the key itself is what is appended, padded to 16 octets.
        return hashlib.md5(data + key.secret[:_MD5_SIZE].ljust(_MD5_SIZE, b"\0"), usedforsecurity=False).digest()
    name, size = _HASHES[key.algorithm]
    secret = key.secret + _PROTOCOL_ID if key.extended else key.secret
    if len(secret) > size:
        # RFC 5709 section 3.3: longer than the digest, not than the hash's block.
        secret = hashlib.new(name, secret).digest()
    pad = _APAD * (size // 4)
    if key.extended:
        pad = source.to_bytes(4, "big") + pad[4:]
    return hmac.digest(secret, data + pad, name)
