"""RIPv2 packets (RFC 2453 section 4) as bytes, with their authentication (section 4.1, RFC 4822).

    +---------+------------------------+-------+-----+-------+---------------------------+
    | header  | authentication entry   | entry | ... | entry | trailer: 0xffff 1, digest |
    +---------+------------------------+-------+-----+-------+---------------------------+
                of passwords and digests                       of digests only

A packet of version 1 is an error of its own (`Fault.VERSION`).  Entries of another family than IPv4, with a mask
that is no prefix, with host bits, or with an address that is no destination are left out.

Not supported: classful entries without a mask, the 20-octet length of digests that RFC 2082 left unclear when sent
(both are taken).
"""

from __future__ import annotations

import struct
from typing import Final

from vrouter.net.address import IPV4, Address, Prefix, mask
from vrouter.wire.rip.authentication import Key, Password, check_digest, check_password, digest_entry, digest_trailer
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

VERSION: Final = 2
MAX_ENTRIES: Final = 25  # the authentication entry counts: section 3.6
_FAMILY: Final = 2  # AF_INET
_UNSPECIFIED: Final = 0
_AUTHENTICATION: Final = 0xFFFF
_HEADER: Final = struct.Struct("!BBH")
_ENTRY: Final = struct.Struct("!HHIIII")


def room(key: Key | Password | None) -> int:
    """Give how many routes a packet has room for."""
    return MAX_ENTRIES - (key is not None)


def decode(data: bytes, keys: tuple[Key | Password, ...] = ()) -> tuple[Packet, int | None]:
    """Read a packet, and the sequence number of its authentication.

    With keys the packet must be authentic by one of them; without, one that carries authentication is refused
    (RFC 2453 section 4.1).  Raises RipError.
    """
    if len(data) < HEADER_SIZE:
        raise RipError(Fault.LENGTH, str(len(data)))
    command, version, _unused = _HEADER.unpack_from(data)
    kind = read_command(command)
    if version != VERSION:
        raise RipError(Fault.VERSION, str(version))
    body, sequence = _authentic(data, keys)
    if len(body) % ENTRY_SIZE:
        raise RipError(Fault.LENGTH, str(len(data)))
    return _decode_body(kind, body), sequence


def encode(packet: Packet, key: Key | Password | None = None, sequence: int = 0) -> bytes:
    """Write a packet, authenticated by a key."""
    header = _HEADER.pack(packet.command, VERSION, 0)
    if packet.whole:
        body = _ENTRY.pack(_UNSPECIFIED, 0, 0, 0, 0, INFINITY)
    else:
        body = b"".join(map(_encode_entry, packet.entries))
    if key is None:
        return header + body
    if isinstance(key, Password):
        return header + struct.pack("!HH", _AUTHENTICATION, 2) + key.field + body
    signed = header + digest_entry(key, HEADER_SIZE + ENTRY_SIZE + len(body), sequence) + body
    return signed + digest_trailer(key, signed)


def _authentic(data: bytes, keys: tuple[Key | Password, ...]) -> tuple[bytes, int | None]:
    """Give the entries without authentication, if it is as it must be."""
    first = data[HEADER_SIZE : HEADER_SIZE + ENTRY_SIZE]
    present = len(first) == ENTRY_SIZE and first[:2] == b"\xff\xff"
    if not keys:
        if present:
            raise RipError(Fault.AUTHENTICATION, "not expected")
        return data[HEADER_SIZE:], None
    if not present:
        raise RipError(Fault.AUTHENTICATION, "missing")
    kind = int.from_bytes(first[2:4], "big")
    if kind == 2:
        check_password(first[4:], keys)
        return data[HEADER_SIZE + ENTRY_SIZE :], None
    if kind == 3:
        end, sequence = check_digest(data, first, keys)
        return data[HEADER_SIZE + ENTRY_SIZE : end], sequence
    raise RipError(Fault.AUTHENTICATION, f"type {kind}")


def _decode_body(command: Command, body: bytes) -> Packet:
    entries: list[Entry] = []
    errors: list[EntryError] = []
    for family, tag, address, netmask, next_hop, metric in _ENTRY.iter_unpack(body):
        if command is Command.REQUEST and family == _UNSPECIFIED and metric == INFINITY and len(body) == ENTRY_SIZE:
            return Packet(command, whole=True)
        entry = _decode_entry(command, family, tag, address, netmask, next_hop, metric)
        if isinstance(entry, Entry):
            entries.append(entry)
        else:
            errors.append(entry)
    return Packet(command, tuple(entries), errors=tuple(errors))


def _decode_entry(
    command: Command, family: int, tag: int, address: int, netmask: int, next_hop: int, metric: int
) -> Entry | EntryError:
    if family != _FAMILY:
        return EntryError(Fault.FAMILY, str(family))
    length = netmask.bit_count()
    if netmask != mask(IPV4, length) or address & ~netmask or not _is_destination(address, length):
        return EntryError(Fault.PREFIX, f"{Address(IPV4, address)} {Address(IPV4, netmask)}")
    if next_hop and not _is_unicast(next_hop):
        return EntryError(Fault.NEXT_HOP, str(Address(IPV4, next_hop)))
    if command is Command.RESPONSE and not 1 <= metric <= INFINITY:
        return EntryError(Fault.METRIC, str(metric))
    via = Address(IPV4, next_hop) if next_hop else None
    return Entry(Prefix(IPV4, address, length), min(metric, INFINITY), tag, via)


def _encode_entry(entry: Entry) -> bytes:
    next_hop = entry.next_hop.value if entry.next_hop else 0
    prefix = entry.prefix
    return _ENTRY.pack(_FAMILY, entry.tag, prefix.value, mask(IPV4, prefix.length), next_hop, entry.metric)


def _is_destination(address: int, length: int) -> bool:
    """Tell whether a prefix can be routed: the default, or within class A, B and C but for nets 0 and 127."""
    return (address == 0 and length == 0) or (_is_unicast(address) and length > 0)


def _is_unicast(address: int) -> bool:
    return address >> 24 not in {0, 127} and address < 0xE0000000
