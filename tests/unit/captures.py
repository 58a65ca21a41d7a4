"""Reads captures: pcap (both byte orders, both resolutions) and pcapng, and finds the IP packets in their frames.

Link types: Ethernet with VLAN tags, raw IP, null/loopback, Linux cooked (both), PPP and Cisco HDLC.  Not supported:
fragments (their first piece is given), anything compressed.  Broken files end where they break.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vrouter.net.address import Address

_MAGICS: Final = {0xA1B2C3D4, 0xA1B23C4D}
_SECTION, _INTERFACE, _SIMPLE, _ENHANCED = 0x0A0D0D0A, 1, 3, 6
# Link type -> where the protocol's number stands, and where the packet begins.
_HEADS: Final = {1: (12, 14), 113: (14, 16), 276: (0, 20), 9: (2, 4), 104: (2, 4), 50: (2, 4)}
_RAW: Final = {12, 14, 101, 228, 229}
_NULL: Final = {0, 108}
_TAGS: Final = {0x8100, 0x88A8, 0x9100}
_IP: Final = {0x0800, 0x86DD, 0x0021, 0x0057}  # the last two are PPP's


@dataclass(frozen=True, slots=True)
class IpPacket:
    """An IP packet of a capture; ports are 0 but for UDP and TCP."""

    number: int  # of its frame, from 1
    source: Address
    destination: Address
    protocol: int
    ttl: int
    source_port: int
    destination_port: int
    payload: bytes  # of UDP, TCP or the protocol itself


def frames(path: Path) -> Iterator[tuple[int, bytes]]:
    """Give link type and bytes of each frame."""
    data = path.read_bytes()
    yield from _pcapng(data) if data[:4] == b"\n\r\r\n" else _pcap(data)


def _pcap(data: bytes) -> Iterator[tuple[int, bytes]]:
    order = next((order for order in "<>" if struct.unpack_from(order + "I", data)[0] in _MAGICS), None)
    if order is None:
        return
    link = struct.unpack_from(order + "I", data, 20)[0] & 0xFFFF
    at = 24
    while at + 16 <= len(data):
        size = struct.unpack_from(order + "I", data, at + 8)[0]
        yield link, data[at + 16 : at + 16 + size]
        at += 16 + size


def _pcapng(data: bytes) -> Iterator[tuple[int, bytes]]:
    at, order = 0, "<"
    links: list[int] = []
    while at + 12 <= len(data):
        if data[at : at + 4] == b"\n\r\r\n":
            order, links = "<" if data[at + 8 : at + 12] == b"\x4d\x3c\x2b\x1a" else ">", []
        kind, size = struct.unpack_from(order + "II", data, at)
        body = data[at + 8 : at + size - 4]
        if kind == _INTERFACE:
            links.append(struct.unpack_from(order + "H", body)[0])
        elif kind == _ENHANCED:
            interface, _high, _low, length = struct.unpack_from(order + "IIII", body)
            yield links[interface], body[20 : 20 + length]
        elif kind == _SIMPLE:
            yield links[0], body[4:]
        if size < 12:
            return
        at += size


def packets(path: Path) -> Iterator[IpPacket]:
    """Give the IP packets of a capture."""
    for number, (link, frame) in enumerate(frames(path), 1):
        packet = _ip(link, frame)
        if len(packet) >= 20:
            found = _read(number, packet)
            if found is not None:
                yield found


def _ip(link: int, frame: bytes) -> bytes:
    if link in _RAW:
        return frame
    if link in _NULL:
        return frame[4:]
    where, start = _HEADS.get(link, (0, 0))
    if not start or len(frame) < start:
        return b""
    kind = int.from_bytes(frame[where : where + 2], "big")
    while kind in _TAGS and len(frame) >= start + 4:
        kind = int.from_bytes(frame[start + 2 : start + 4], "big")
        start += 4
    return frame[start:] if kind in _IP else b""


def _read(number: int, packet: bytes) -> IpPacket | None:
    if packet[0] >> 4 == 4:
        start, total = 4 * (packet[0] & 15), int.from_bytes(packet[2:4], "big")
        protocol, ttl = packet[9], packet[8]
        source, destination = (Address(4, int.from_bytes(packet[at : at + 4], "big")) for at in (12, 16))
    elif packet[0] >> 4 == 6 and len(packet) >= 40:
        start, total = 40, 40 + int.from_bytes(packet[4:6], "big")
        protocol, ttl = packet[6], packet[7]
        source, destination = (Address(6, int.from_bytes(packet[at : at + 16], "big")) for at in (8, 24))
    else:
        return None
    payload, ports = packet[start : total or None], (0, 0)
    if protocol == 17 and len(payload) >= 8:
        ports, payload = struct.unpack_from(">HH", payload), payload[8:]
    elif protocol == 6 and len(payload) >= 20:
        ports, payload = struct.unpack_from(">HH", payload), payload[4 * (payload[12] >> 4) :]
    return IpPacket(number, source, destination, protocol, ttl, ports[0], ports[1], payload)
