"""MRT dumps of a BGP table: TABLE_DUMP_V2 (RFC 6396 section 4.3), with path identifiers RFC 8050's subtypes.

PEER_INDEX_TABLE, then one RIB_IPV4_UNICAST or RIB_IPV6_UNICAST record for each prefix
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from vrouter.net.address import BITS, IPV4, Address, Prefix
from vrouter.wire.bgp.attributes import OPTIONAL, Type, encode_one
from vrouter.wire.bgp.update import Nlri, write_nlri

TABLE_DUMP_V2: Final = 13
PEER_INDEX_TABLE: Final = 1
_RIB: Final = {(4, False): 2, (6, False): 4, (4, True): 8, (6, True): 10}


@dataclass(frozen=True, slots=True)
class Peer:
    """A neighbor, as the index has it."""

    router_id: int
    address: Address
    asn: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A path of a prefix; its attributes in wire form without a next hop."""

    peer: int  # position in the index
    time: int
    attributes: bytes
    next_hop: Address | None
    path_id: int = 0


def _record(time: int, subtype: int, body: bytes) -> bytes:
    return struct.pack("!IHHI", time, TABLE_DUMP_V2, subtype, len(body)) + body


def peer_index(time: int, collector: int, view: str, peers: Sequence[Peer]) -> bytes:
    """Give the record that all others refer to."""
    name = view.encode()
    body = struct.pack("!IH", collector, len(name)) + name + struct.pack("!H", len(peers))
    for peer in peers:
        kind = 2 | (peer.address.family != IPV4)  # 4-byte AS numbers
        address = peer.address.value.to_bytes(BITS[peer.address.family] // 8, "big")
        body += struct.pack("!BI", kind, peer.router_id) + address + struct.pack("!I", peer.asn)
    return _record(time, PEER_INDEX_TABLE, body)


def rib_record(time: int, sequence: int, prefix: Prefix, entries: Sequence[Entry]) -> bytes:
    """Give the record of a prefix."""
    paths = any(entry.path_id for entry in entries)
    body = struct.pack("!I", sequence) + write_nlri(Nlri(prefix), add_path=False) + struct.pack("!H", len(entries))
    for entry in entries:
        attributes = _with_next_hop(entry)
        body += struct.pack("!HI", entry.peer, entry.time)
        if paths:
            body += struct.pack("!I", entry.path_id)
        body += struct.pack("!H", len(attributes)) + attributes
    return _record(time, _RIB[prefix.family, paths], body)


def _with_next_hop(entry: Entry) -> bytes:
    """Put the next hop among the attributes; of IPv6 as RFC 6396 section 4.3.4 abbreviates it."""
    if entry.next_hop is None:
        return entry.attributes
    value = entry.next_hop.value.to_bytes(BITS[entry.next_hop.family] // 8, "big")
    if entry.next_hop.family == IPV4:
        return entry.attributes + encode_one(0x40, Type.NEXT_HOP, value)
    return entry.attributes + encode_one(OPTIONAL, Type.MP_REACH_NLRI, bytes([len(value)]) + value)
