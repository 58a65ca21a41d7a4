"""BFD control packets (RFC 5880 section 4), as values.

`decode` refuses what section 6.8.6 has every receiver discard without a look at a session; `encode` gives the bytes
again, the digest included (sections 6.7.3 and 6.7.4), where the key is told.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import struct
from dataclasses import dataclass, field, replace
from typing import Final

CONTROL: Final = struct.Struct(">BBBBIIIII")
_SECTION: Final = struct.Struct(">BBBBI")  # type, length, key id, reserved, sequence number
_VERSION: Final = 1


class BfdError(ValueError):
    """A packet that must be discarded."""


class State(enum.IntEnum):
    """Session states."""

    ADMIN_DOWN = 0
    DOWN = 1
    INIT = 2
    UP = 3


class Diagnostic(enum.IntEnum):
    """Why a session is in its state."""

    NONE = 0
    TIME_EXPIRED = 1
    ECHO_FAILED = 2
    NEIGHBOR_DOWN = 3
    FORWARDING_RESET = 4
    PATH_DOWN = 5
    CONCATENATED_DOWN = 6
    ADMIN_DOWN = 7
    REVERSE_CONCATENATED_DOWN = 8


class Kind(enum.IntEnum):
    """Types of authentication."""

    NONE = 0
    SIMPLE = 1
    MD5 = 2
    METICULOUS_MD5 = 3
    SHA1 = 4
    METICULOUS_SHA1 = 5

    @property
    def meticulous(self) -> bool:
        """Tell whether every packet has a number of its own."""
        return self in {Kind.METICULOUS_MD5, Kind.METICULOUS_SHA1}

    @property
    def digest_size(self) -> int:
        """Give the bytes of the digest; 0: it has none."""
        return {Kind.MD5: 16, Kind.METICULOUS_MD5: 16, Kind.SHA1: 20, Kind.METICULOUS_SHA1: 20}.get(self, 0)


@dataclass(frozen=True, slots=True)
class Authentication:
    """The authentication section: a password, or a sequence number and a digest."""

    kind: Kind
    key_id: int
    sequence: int = 0
    secret: bytes = field(default=b"", repr=False)  # the password, or the digest
    reserved: int = 0

    def encode(self) -> bytes:
        """Give the section."""
        if self.kind == Kind.SIMPLE:
            return bytes((self.kind, 3 + len(self.secret), self.key_id)) + self.secret
        length = _SECTION.size + self.kind.digest_size
        return _SECTION.pack(self.kind, length, self.key_id, self.reserved, self.sequence) + self.secret


@dataclass(frozen=True, slots=True)
class Control:
    """A control packet; times are microseconds."""

    state: State
    my_discriminator: int
    your_discriminator: int = 0
    desired: int = 1_000_000  # Desired Min TX Interval
    required: int = 1  # Required Min RX Interval
    echo: int = 0  # Required Min Echo RX Interval
    multiplier: int = 3
    diagnostic: int = 0
    poll: bool = False
    final: bool = False
    independent: bool = False
    demand: bool = False
    authentication: Authentication | None = None

    def encode(self) -> bytes:
        """Give the bytes."""
        section = self.authentication.encode() if self.authentication is not None else b""
        flags = (
            self.poll << 5 | self.final << 4 | self.independent << 3 | (self.authentication is not None) << 2
            | self.demand << 1
        )  # fmt: skip
        return (
            CONTROL.pack(
                _VERSION << 5 | self.diagnostic,
                self.state << 6 | flags,
                self.multiplier,
                CONTROL.size + len(section),
                self.my_discriminator,
                self.your_discriminator,
                self.desired,
                self.required,
                self.echo,
            )
            + section
        )

    def signed(self, key: bytes) -> Control:
        """Give the packet with its password or digest."""
        authentication = self.authentication
        if authentication is None:
            return self
        if authentication.kind == Kind.SIMPLE:
            return replace(self, authentication=replace(authentication, secret=key))
        padded = key.ljust(authentication.kind.digest_size, b"\0")
        unsigned = replace(self, authentication=replace(authentication, secret=padded))
        algorithm = "md5" if authentication.kind.digest_size == 16 else "sha1"
        digest = hashlib.new(algorithm, unsigned.encode(), usedforsecurity=False).digest()
        return replace(self, authentication=replace(authentication, secret=digest))

    def authentic(self, key: bytes) -> bool:
        """Tell whether password or digest are those of the key."""
        if self.authentication is None:
            return False
        signed = self.signed(key).authentication
        return signed is not None and hmac.compare_digest(signed.secret, self.authentication.secret)


def decode(data: bytes) -> Control:
    """Read a packet; what follows behind its length is not looked at.  Raises BfdError."""
    if len(data) < CONTROL.size:
        raise BfdError("shorter than a control packet")
    first, flags, multiplier, length, mine, yours, desired, required, echo = CONTROL.unpack_from(data)
    authenticated = bool(flags & 4)
    if first >> 5 != _VERSION:
        raise BfdError(f"version {first >> 5}")
    if not CONTROL.size + (2 if authenticated else 0) <= length <= len(data):
        raise BfdError(f"length {length}")
    if multiplier == 0 or flags & 1 or mine == 0:
        raise BfdError("a multiplier or discriminator of 0, or multipoint")
    state = State(flags >> 6)
    if yours == 0 and state not in {State.DOWN, State.ADMIN_DOWN}:
        raise BfdError("it does not name us, and is neither Down nor AdminDown")
    return Control(
        state=state,
        my_discriminator=mine,
        your_discriminator=yours,
        desired=desired,
        required=required,
        echo=echo,
        multiplier=multiplier,
        diagnostic=first & 0x1F,
        poll=bool(flags & 0x20),
        final=bool(flags & 0x10),
        independent=bool(flags & 8),
        demand=bool(flags & 2),
        authentication=_section(data[CONTROL.size : length]) if authenticated else None,
    )


def _section(data: bytes) -> Authentication:
    try:
        kind = Kind(data[0])
    except ValueError:
        raise BfdError(f"authentication type {data[0]}") from None
    if data[1] != len(data):
        raise BfdError(f"authentication length {data[1]}")
    if kind == Kind.SIMPLE and 4 <= len(data) <= 19:
        return Authentication(kind, data[2], secret=bytes(data[3:]))
    if kind.digest_size and len(data) == _SECTION.size + kind.digest_size:
        _, _, key_id, reserved, sequence = _SECTION.unpack_from(data)
        return Authentication(kind, key_id, sequence, bytes(data[_SECTION.size :]), reserved)
    raise BfdError("an authentication section of a wrong length")
