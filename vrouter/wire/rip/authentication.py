"""Authentication of RIPv2: a password in clear (RFC 2453 section 4.1), keyed MD5 and HMAC-SHA (RFC 4822).

A digest covers the packet up to and including the first four bytes of the trailer, then: for MD5 the key, filled
up with zeros to 16 bytes; for HMAC-SHA the constant Apad (RFC 4822 section 2.5.2), where the digest will stand.
The length in the authentication entry is that of the digest; peers that count the four bytes before it too are
understood.

Whether a sequence number is a replay is for whoever knows the neighbor.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass, field
from typing import Final, Literal

from vrouter.wire.rip.packet import ENTRY_SIZE, HEADER_SIZE, Fault, RipError

Algorithm = Literal["md5", "hmac-sha-1", "hmac-sha-256", "hmac-sha-384", "hmac-sha-512"]
DIGEST_SIZES: Final[dict[Algorithm, int]] = {
    "md5": 16,
    "hmac-sha-1": 20,
    "hmac-sha-256": 32,
    "hmac-sha-384": 48,
    "hmac-sha-512": 64,
}
PASSWORD_SIZE: Final = 16
_MD5_KEY_SIZE: Final = 16
_HASHES: Final = {
    "hmac-sha-1": hashlib.sha1,
    "hmac-sha-256": hashlib.sha256,
    "hmac-sha-384": hashlib.sha384,
    "hmac-sha-512": hashlib.sha512,
}
_APAD: Final = bytes.fromhex("878fe1f3")
_TRAILER: Final = b"\xff\xff\x00\x01"
_ENTRY: Final = struct.Struct("!HHHBBIQ")


@dataclass(frozen=True, slots=True)
class Password:
    """A password that everybody on the link can read."""

    secret: bytes = field(repr=False)

    @property
    def field(self) -> bytes:
        """Give the 16 bytes that are sent."""
        return self.secret[:PASSWORD_SIZE].ljust(PASSWORD_SIZE, b"\0")


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a digest, and its number."""

    algorithm: Algorithm
    id: int
    secret: bytes = field(repr=False)


def check_password(received: bytes, keys: tuple[Key | Password, ...]) -> None:
    """Compare the 16 bytes of a packet.  Raises RipError."""
    for key in keys:
        if isinstance(key, Password) and hmac.compare_digest(received, key.field):
            return
    raise RipError(Fault.AUTHENTICATION, "password")


def check_digest(data: bytes, first: bytes, keys: tuple[Key | Password, ...]) -> tuple[int, int]:
    """Give where the entries of an authentic packet end, and its sequence number.  Raises RipError."""
    _mark, _type, end, key_id, length, sequence, _zero = _ENTRY.unpack(first)
    for key in keys:
        if isinstance(key, Password) or key.id != key_id:
            continue
        size = DIGEST_SIZES[key.algorithm]
        fits = end >= HEADER_SIZE + ENTRY_SIZE and len(data) == end + len(_TRAILER) + size
        if not fits or length not in {size, size + len(_TRAILER)} or data[end : end + len(_TRAILER)] != _TRAILER:
            raise RipError(Fault.AUTHENTICATION, "malformed")
        if hmac.compare_digest(_digest(key, data[: end + len(_TRAILER)]), data[end + len(_TRAILER) :]):
            return end, sequence
        raise RipError(Fault.AUTHENTICATION, "digest")
    raise RipError(Fault.AUTHENTICATION, f"key {key_id}")


def digest_entry(key: Key, end: int, sequence: int) -> bytes:
    """Write the entry before the routes; `end` is where the trailer begins."""
    return _ENTRY.pack(0xFFFF, 3, end, key.id, DIGEST_SIZES[key.algorithm], sequence & 0xFFFFFFFF, 0)


def digest_trailer(key: Key, signed: bytes) -> bytes:
    """Write the trailer behind the routes."""
    return _TRAILER + _digest(key, signed + _TRAILER)


def _digest(key: Key, covered: bytes) -> bytes:
    size = DIGEST_SIZES[key.algorithm]
    if key.algorithm == "md5":
        filled = key.secret[:_MD5_KEY_SIZE].ljust(_MD5_KEY_SIZE, b"\0")
        return hashlib.md5(covered + filled, usedforsecurity=False).digest()
    make = _HASHES[key.algorithm]
    # RFC 4822 section 2.5.1: Ko has the length of the digest, not of the hash's block.
    secret = key.secret if len(key.secret) <= size else make(key.secret).digest()
    return hmac.digest(secret, covered + _APAD * (size // len(_APAD)), make)
