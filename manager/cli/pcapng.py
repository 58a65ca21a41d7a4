"""Writes captures as pcapng (draft-ietf-opsawg-pcapng): section header, interfaces, enhanced packets.

Timestamps have nanoseconds (if_tsresol 9) and each packet tells its direction (epb_flags).
Not supported: name resolution, statistics and decryption blocks.
"""

from __future__ import annotations

import struct
from typing import BinaryIO, Final

BYTE_ORDER_MAGIC: Final = 0x1A2B3C4D
SECTION_HEADER: Final = 0x0A0D0D0A
INTERFACE_DESCRIPTION: Final = 1
ENHANCED_PACKET: Final = 6
LINKTYPE_ETHERNET: Final = 1
# Option codes
END_OF_OPTIONS: Final = 0
COMMENT: Final = 1
SHB_USERAPPL: Final = 4
IF_NAME: Final = 2
IF_DESCRIPTION: Final = 3
IF_TSRESOL: Final = 9
EPB_FLAGS: Final = 2
EPB_DROPCOUNT: Final = 4
INBOUND: Final = 1
OUTBOUND: Final = 2


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + _padded(value)


def _options(*options: tuple[int, bytes]) -> bytes:
    return b"".join(_option(code, value) for code, value in options) + _option(END_OF_OPTIONS, b"")


def _block(kind: int, body: bytes) -> bytes:
    length = 12 + len(body)
    return struct.pack("<II", kind, length) + body + struct.pack("<I", length)


class Writer:
    """One section in one file.  The caller owns the file; each packet is flushed to it."""

    def __init__(self, file: BinaryIO, application: str) -> None:
        """Write the section header."""
        self._file = file
        self._interfaces: dict[int, int] = {}
        body = struct.pack("<IHHq", BYTE_ORDER_MAGIC, 1, 0, -1)
        self._write(_block(SECTION_HEADER, body + _options((SHB_USERAPPL, application.encode()))))

    def interface(self, index: int, name: str, description: str, snap: int) -> None:
        """Describe an interface before its first packet; `index` is the caller's own number."""
        options = _options((IF_NAME, name.encode()), (IF_DESCRIPTION, description.encode()), (IF_TSRESOL, b"\x09"))
        self._interfaces[index] = len(self._interfaces)
        self._write(_block(INTERFACE_DESCRIPTION, struct.pack("<HHI", LINKTYPE_ETHERNET, 0, snap) + options))

    def packet(
        self, index: int, time_ns: int, data: bytes, length: int, *, outgoing: bool, lost: int = 0, comment: str = ""
    ) -> None:
        """Write one frame; `length` is what it had on the wire, `lost` how many before it are missing."""
        options = [(EPB_FLAGS, struct.pack("<I", OUTBOUND if outgoing else INBOUND))]
        if lost:
            options.append((EPB_DROPCOUNT, struct.pack("<Q", lost)))
        if comment:
            options.append((COMMENT, comment.encode()))
        head = struct.pack(
            "<IIIII", self._interfaces[index], time_ns >> 32, time_ns & 0xFFFFFFFF, len(data), max(length, len(data))
        )
        self._write(_block(ENHANCED_PACKET, head + _padded(data) + _options(*options)))

    def knows(self, index: int) -> bool:
        """Tell whether that interface was described."""
        return index in self._interfaces

    def _write(self, block: bytes) -> None:
        self._file.write(block)
        self._file.flush()
