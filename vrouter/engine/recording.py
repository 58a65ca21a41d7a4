"""What an engine was told, and what it asked for, as bytes: a recording.

    header {version, name, seed, restarted, boot}
    [now, name of the input, its fields, digest of the outputs] ...

Each record is a 32-bit big-endian length and msgpack.  Inputs stand there whole, keys of the configuration included;
of the outputs there is a digest, which is enough to tell whether a replay asks for the same.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgpack

from vrouter.config.codec import decode, encode
from vrouter.engine import inputs, outputs
from vrouter.engine.inputs import Input
from vrouter.engine.outputs import Output

VERSION: Final = 1
MAX_RECORD: Final = 1 << 28
_LENGTH: Final = struct.Struct(">I")
_KINDS: Final = {
    kind.__name__: kind
    for kind in (
        inputs.Configure, inputs.Link, inputs.Opened, inputs.Connected, inputs.Accepted, inputs.Received, inputs.Stream,
        inputs.Writable, inputs.Closed, inputs.Bfd, inputs.Clear, inputs.Timeout, inputs.Stop,
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Header:
    """What an engine was made with."""

    name: str
    seed: int
    restarted: bool = False
    boot: int = 0
    version: int = VERSION


@dataclass(frozen=True, slots=True)
class Step:
    """One input, and what came of it."""

    now: float
    event: Input
    digest: bytes


def write_header(header: Header) -> bytes:
    """Begin a recording."""
    return _frame(encode(header))


def write_step(now: float, event: Input, wanted: Iterable[Output]) -> bytes:
    """Write an input and its outputs."""
    return _frame([now, type(event).__name__, encode(event), digest(wanted)])


def digest(wanted: Iterable[Output]) -> bytes:
    """Give what tells outputs from others."""
    packed: Any = msgpack.packb([_plain(output) for output in wanted])
    return hashlib.blake2b(packed, digest_size=16).digest()


def read(data: bytes) -> tuple[Header, Iterator[Step]]:
    """Read a recording; its last record may be cut.  Raises ValueError."""
    records = _records(data)
    first = next(records, None)
    header = decode(Header, first)
    if header.version != VERSION:
        raise ValueError(f"a recording of version {header.version}")
    return header, map(_step, records)


def _step(record: Any) -> Step:
    now, name, fields, digested = record
    kind: Any = _KINDS.get(name)
    if kind is None:
        raise ValueError(f"no input {name!r}")
    return Step(float(now), decode(kind, fields), digested)


def _frame(plain: Any) -> bytes:
    body: Any = msgpack.packb(plain)
    return _LENGTH.pack(len(body)) + bytes(body)


def _records(data: bytes) -> Iterator[Any]:
    place = 0
    while place + _LENGTH.size <= len(data):
        (length,) = _LENGTH.unpack_from(data, place)
        if length > MAX_RECORD:
            raise ValueError(f"a record of {length} bytes")
        end = place + _LENGTH.size + length
        if end > len(data):
            return
        yield msgpack.unpackb(data[place + _LENGTH.size : end], raw=False, strict_map_key=True)
        place = end


def _plain(output: Output) -> list[Any]:
    """Name the kinds, since two of them may have the same fields."""
    match output:
        case outputs.Socket(instance, request):
            return ["Socket", instance, type(request).__name__, encode(request)]
        case outputs.Watch(request):
            return ["Watch", type(request).__name__, encode(request)]
        case outputs.Tables(root, changes, unsettled, sweep):
            routes = [[encode(it.prefix), it.bulk, None if it.route is None else _route(it.route)] for it in changes]
            return ["Tables", encode(root), routes, list(unsettled), sweep]
        case _:
            return [type(output).__name__, encode(output)]


def _route(route: Any) -> list[Any]:
    # Not its origin, which may be any object of the protocol.
    return [route.protocol, encode(route.hops), route.preference, route.metric, route.source, route.tag]
