"""Messages between the controls of the two routers of a patch link that leak routes to each other.

    hello (UDP, to a group on the link): "VRLK", version, IPv4 address, IPv6 link-local address; zeros for none
    frame (TCP): length of what follows (2 bytes), kind (1 byte), body

    START   version; name of the router             first in both directions
    ADD     records: prefix, metric, tag, path      in the place of what was said of the prefix before
    DELETE  prefixes
    END     nothing; all that there is has been said
    ALIVE   nothing
    BYE     nothing; all that was said is taken back, and no more is said

A path holds the names of the routers that a route has crossed, the first at its origin.  A protocol of our own: all
that is received is checked against bounds, and what does not fit ends the session.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from vrouter.net.address import BITS, IPV4, IPV6, Address, Prefix, is_link_local, is_loopback, mask

VERSION: Final = 1
MAX_PATH: Final = 16
MAX_NAME: Final = 31  # letters of a router's name
MAX_FRAME: Final = 16384  # of a body that we write; up to 65534 is read
_MAGIC: Final = b"VRLK"
_HELLO: Final = struct.Struct("!4sB3x4s16s")
_HEADER: Final = struct.Struct("!HB")
_NUMBERS: Final = struct.Struct("!IIB")


class LeakError(ValueError):
    """What the other end sent is not of this protocol."""


class Kind(enum.IntEnum):
    """What a frame holds."""

    START = 1
    ADD = 2
    DELETE = 3
    END = 4
    ALIVE = 5
    BYE = 6


@dataclass(frozen=True, slots=True)
class Hello:
    """The addresses of an end of the link."""

    ipv4: Address | None
    ipv6: Address | None


@dataclass(frozen=True, slots=True)
class Record:
    """A route as it crosses the link."""

    prefix: Prefix
    metric: int
    tag: int
    path: tuple[str, ...]


def encode_hello(hello: Hello) -> bytes:
    """Write a hello."""
    ipv4 = hello.ipv4.value.to_bytes(4, "big") if hello.ipv4 else bytes(4)
    ipv6 = hello.ipv6.value.to_bytes(16, "big") if hello.ipv6 else bytes(16)
    return _HELLO.pack(_MAGIC, VERSION, ipv4, ipv6)


def decode_hello(data: bytes) -> Hello:
    """Read a hello.  Raises LeakError."""
    if len(data) < _HELLO.size:
        raise LeakError("short hello")
    magic, version, ipv4, ipv6 = _HELLO.unpack_from(data)
    if magic != _MAGIC or version != VERSION:
        raise LeakError("hello of another version")
    four, six = Address(IPV4, int.from_bytes(ipv4, "big")), Address(IPV6, int.from_bytes(ipv6, "big"))
    return Hello(four if four.value else None, six if is_link_local(six) else None)


def frame(kind: Kind, body: bytes = b"") -> bytes:
    """Write a frame."""
    return _HEADER.pack(1 + len(body), kind) + body


def frames(buffer: bytearray) -> Iterator[tuple[Kind, bytes]]:
    """Take whole frames out of a buffer.  Raises LeakError."""
    while len(buffer) >= _HEADER.size:
        length, number = _HEADER.unpack_from(buffer)
        if not length or number not in iter(Kind):
            raise LeakError(f"frame of kind {number}, length {length}")
        end = 2 + length
        if len(buffer) < end:
            return
        body = bytes(buffer[_HEADER.size : end])
        del buffer[:end]
        yield Kind(number), body


def encode_start(name: str) -> bytes:
    """Write the first frame."""
    return frame(Kind.START, bytes((VERSION,)) + name.encode("ascii"))


def decode_start(body: bytes) -> str:
    """Read the name of the other router.  Raises LeakError."""
    if len(body) < 2 or body[0] != VERSION:
        raise LeakError("start of another version")
    return _name(body[1:])


def encode_records(records: Iterable[Record]) -> Iterator[bytes]:
    """Write ADD frames."""
    return _pack(Kind.ADD, (_prefix(record.prefix) + _rest(record) for record in records))


def encode_prefixes(prefixes: Iterable[Prefix]) -> Iterator[bytes]:
    """Write DELETE frames."""
    return _pack(Kind.DELETE, map(_prefix, prefixes))


def decode_records(body: bytes) -> Iterator[Record]:
    """Read an ADD.  Raises LeakError."""
    position = 0
    while position < len(body):
        prefix, position = _read_prefix(body, position)
        if len(body) < position + _NUMBERS.size:
            raise LeakError("short record")
        metric, tag, count = _NUMBERS.unpack_from(body, position)
        position += _NUMBERS.size
        if not 1 <= count <= MAX_PATH:
            raise LeakError(f"path of {count} routers")
        path = []
        for _ in range(count):
            size = body[position] if position < len(body) else 0
            path.append(_name(body[position + 1 : position + 1 + size], size))
            position += 1 + size
        yield Record(prefix, metric, tag, tuple(path))


def decode_prefixes(body: bytes) -> Iterator[Prefix]:
    """Read a DELETE.  Raises LeakError."""
    position = 0
    while position < len(body):
        prefix, position = _read_prefix(body, position)
        yield prefix


def _pack(kind: Kind, parts: Iterable[bytes]) -> Iterator[bytes]:
    body = bytearray()
    for part in parts:
        if len(body) + len(part) > MAX_FRAME:
            yield frame(kind, bytes(body))
            body.clear()
        body += part
    if body:
        yield frame(kind, bytes(body))


def _prefix(prefix: Prefix) -> bytes:
    size = BITS[prefix.family] // 8
    return bytes((prefix.family, prefix.length)) + prefix.value.to_bytes(size, "big")[: (prefix.length + 7) // 8]


def _rest(record: Record) -> bytes:
    names = (name.encode("ascii") for name in record.path)
    head = _NUMBERS.pack(record.metric & 0xFFFFFFFF, record.tag & 0xFFFFFFFF, len(record.path))
    return head + b"".join(bytes((len(name),)) + name for name in names)


def _read_prefix(body: bytes, position: int) -> tuple[Prefix, int]:
    if len(body) < position + 2:
        raise LeakError("short prefix")
    family, length = body[position], body[position + 1]
    if family not in BITS or length > BITS[family]:
        raise LeakError(f"prefix of family {family}, length {length}")
    size = (length + 7) // 8
    packed = body[position + 2 : position + 2 + size]
    value = int.from_bytes(packed, "big") << (BITS[family] - 8 * size)
    first = Address(family, value)
    multicast = value >> 28 == 14 if family == IPV4 else value >> 120 == 0xFF
    if len(packed) < size or value & ~mask(family, length):
        raise LeakError("malformed prefix")
    if multicast or (length and is_loopback(first)) or is_link_local(first):
        raise LeakError(f"{first}/{length} is never leaked")
    return Prefix(family, value, length), position + 2 + size


def _name(data: bytes, size: int | None = None) -> str:
    if not 1 <= len(data) <= MAX_NAME or (size is not None and len(data) != size):
        raise LeakError("malformed name")
    if not all(character in b"abcdefghijklmnopqrstuvwxyz0123456789-" for character in data):
        raise LeakError("malformed name")
    return data.decode("ascii")
