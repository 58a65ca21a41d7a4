"""RIPng packets (RFC 2080 section 2.1) as bytes.

The next hop stands in an entry of its own, for all entries behind it (section 2.1.1); here each entry has it.
A next hop that is no link-local address means the sender.

RIPng has no authentication of its own: it is that of IPsec, which is not supported.
"""

from __future__ import annotations

import struct
from typing import Final

from vrouter.net.address import BITS, IPV6, Address, Prefix, is_link_local, mask
from vrouter.wire.rip.packet import (
    ENTRY_SIZE,
    HEADER_SIZE,
    INFINITY,
    Command,
    Entry,
    EntryError,
    Fault,
    Packet,
    RipError,
    read_command,
)

VERSION: Final = 1
_NEXT_HOP: Final = 0xFF
_HEADER: Final = struct.Struct("!BBH")
_ENTRY: Final = struct.Struct("!16sHBB")
_HEADERS: Final = 40 + 8 + HEADER_SIZE  # IPv6, UDP, RIPng


def room(mtu: int) -> int:
    """Give how many entries a packet has room for; those of next hops count."""
    return max(1, (mtu - _HEADERS) // ENTRY_SIZE)


def decode(data: bytes) -> Packet:
    """Read a packet.  Raises RipError."""
    if len(data) < HEADER_SIZE:
        raise RipError(Fault.LENGTH, str(len(data)))
    number, version, _unused = _HEADER.unpack_from(data)
    command = read_command(number)
    if version != VERSION:
        raise RipError(Fault.VERSION, str(version))
    body = data[HEADER_SIZE:]
    if len(body) % ENTRY_SIZE:
        raise RipError(Fault.LENGTH, str(len(data)))
    return _decode_body(command, body)


def encode(packet: Packet) -> bytes:
    """Write a packet."""
    header = _HEADER.pack(packet.command, VERSION, 0)
    if packet.whole:
        return header + _ENTRY.pack(bytes(16), 0, 0, INFINITY)
    parts = [header]
    next_hop: Address | None = None
    for entry in packet.entries:
        if entry.next_hop != next_hop:
            next_hop = entry.next_hop
            parts.append(_ENTRY.pack((next_hop.value if next_hop else 0).to_bytes(16, "big"), 0, 0, _NEXT_HOP))
        prefix = entry.prefix
        parts.append(_ENTRY.pack(prefix.value.to_bytes(16, "big"), entry.tag, prefix.length, entry.metric))
    return b"".join(parts)


def _decode_body(command: Command, body: bytes) -> Packet:
    entries: list[Entry] = []
    errors: list[EntryError] = []
    next_hop: Address | None = None
    for packed, tag, length, metric in _ENTRY.iter_unpack(body):
        address = Address(IPV6, int.from_bytes(packed, "big"))
        if metric == _NEXT_HOP:
            next_hop = address if is_link_local(address) else None
            continue
        whole = address.value == 0 and length == 0 and metric == INFINITY and len(body) == ENTRY_SIZE
        if whole and command is Command.REQUEST:
            return Packet(command, whole=True)
        error = _fault(command, address, length, metric)
        if error is None:
            entries.append(Entry(Prefix(IPV6, address.value, length), min(metric, INFINITY), tag, next_hop))
        else:
            errors.append(error)
    return Packet(command, tuple(entries), errors=tuple(errors))


def _fault(command: Command, address: Address, length: int, metric: int) -> EntryError | None:
    """Tell what is wrong with an entry (section 2.4.2)."""
    if not _is_destination(address, length):
        return EntryError(Fault.PREFIX, str(address))
    if length > BITS[IPV6]:
        return EntryError(Fault.PREFIX_LENGTH, str(length))
    if address.value & ~mask(IPV6, length):
        return EntryError(Fault.PREFIX, str(address))
    if command is Command.RESPONSE and not 1 <= metric <= INFINITY:
        return EntryError(Fault.METRIC, str(metric))
    return None


def _is_destination(address: Address, length: int) -> bool:
    """Tell whether a prefix can be routed: not multicast, not link-local, not the loopback address."""
    if address.value == 0:
        return length == 0
    return address.value != 1 and address.value >> 120 != 0xFF and not is_link_local(address)
