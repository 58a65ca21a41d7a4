"""The framing on the socket between manager and broker: a 32-bit big-endian length, a msgpack map.

manager --> broker   {op: routers, routers: [{name, id, state, path, rules: [...]}]}   all of them, on each change
{op: event, event, vr, reason}                                   after the list it belongs to
{op: ping}
broker --> manager   {op: pong}
"""

from __future__ import annotations

import struct
from typing import Final

_LENGTH: Final = struct.Struct(">I")
LIMIT: Final = 64 << 20


def frame(body: bytes) -> bytes:
    """Frame one message."""
    return _LENGTH.pack(len(body)) + body


class Framing:
    """Cuts a byte stream into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes; give the bodies that are complete.  Raises ValueError for an absurd length."""
        self._buffer += data
        found = []
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > LIMIT:
                raise ValueError(f"message of {length} bytes")
            if len(self._buffer) < _LENGTH.size + length:
                break
            found.append(bytes(self._buffer[_LENGTH.size : _LENGTH.size + length]))
            del self._buffer[: _LENGTH.size + length]
        return found
