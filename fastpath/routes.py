"""The routes that a control has installed and the trie that its forwarder follows, read without C.

    prefix_root --> prefix_table: installed routes      routes(), and the entry behind lookup()
    fib_root ----> direct table --> nodes --> leaf      lookup(): the forwarder's own way
    groups[leaf] -> nexthop_group                       next hops of both

The layout is that of include/abi/tables.h.  The writer may be at work, or may have died at it: an
answer is taken again while the generation word changes or is odd, and after some attempts given as
it is; each route in it is then still one that was installed at some moment.
"""

from __future__ import annotations

import ipaddress
import struct
import time
import zlib
from typing import TYPE_CHECKING, Any, Final, TypeVar

from fastpath import interfaces
from fastpath._layout import CONSTANTS, SIZES

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastpath.segment import Segment

    Route = dict[str, Any]

ATTEMPTS: Final = 8
_PAUSE: Final = 0.002  # between attempts; the writer's own batches are shorter
_ENTRY: Final = struct.Struct("<16sBBHBBHI")  # struct prefix_entry
_GROUP: Final = struct.Struct("<IIII")  # struct nexthop_group up to its hops
_HOP: Final = struct.Struct("<BBHIII16s")  # struct nexthop
_NODE: Final = struct.Struct("<QQII")  # struct fib_node
_FAMILIES: Final = (CONSTANTS["FAMILY_IPV4"], CONSTANTS["FAMILY_IPV6"])
_PATH: Final = struct.Struct("<QHHIII")  # struct fib_path
_STRIDE: Final = 6
_MOST_DIRECT_BITS: Final = 24
_MASK: Final = (1 << 64) - 1
_PROTOCOLS: Final = {
    value: name.removeprefix("ROUTE_").lower() for name, value in CONSTANTS.items() if name.startswith("ROUTE_")
}
_KINDS: Final = {
    value: name.removeprefix("NEXTHOP_").lower() for name, value in CONSTANTS.items() if name.startswith("NEXTHOP_")
}
# What a hop without `kind` in JSON is.
_PLAIN: Final = frozenset({"forward", "connected"})
_Answer = TypeVar("_Answer")


def routes(tables: Segment) -> list[Route]:
    """Give all installed routes, sorted by family, address and length.

    Each is {prefix, protocol, preference, metric, nexthops: [{via, interface, weight}]}; a next hop
    that is neither a gateway nor a connected network has its `kind` as well.
    """
    return _consistent(tables, lambda: _routes(tables))


def lookup(tables: Segment, address: str) -> Route | None:
    """Give the route that the forwarder would use for an address, found in the way it does that."""
    wanted = ipaddress.ip_address(address)
    return _consistent(tables, lambda: _lookup(tables, wanted.version, wanted.packed))


def _consistent(tables: Segment, read: Callable[[], _Answer]) -> _Answer:
    """Read until no writer came between; at last, read anyway."""
    for _ in range(ATTEMPTS):
        generation = tables.integer("generation")
        if generation % 2 == 0:
            try:
                answer = read()
            except ValueError:  # led outside the segment: changed under our hands
                continue
            if tables.integer("generation") == generation:
                return answer
        time.sleep(_PAUSE)
    return read()


def _bytes(tables: Segment, offset: int, size: int) -> bytes:
    if offset < 0 or size < 0 or offset + size > tables.size:
        raise ValueError(f"{size} bytes at {offset} lie outside the segment")
    return tables.buffer[offset : offset + size]


def _routes(tables: Segment) -> list[Route]:
    table = _Prefixes(tables)
    names = interfaces.names(tables)
    groups: dict[int, Route] = {}
    found = []
    for entry in _ENTRY.iter_unpack(table.entries()):
        if entry[1] not in _FAMILIES:
            continue
        group = entry[3]
        if group not in groups:
            groups[group] = _nexthops(tables, group, names)
        found.append((entry[1], entry[0], entry[2], _route(entry, groups[group])))
    found.sort(key=lambda item: item[:3])
    return [route for _family, _address, _length, route in found]


def _route(entry: tuple[Any, ...], group: Route) -> Route:
    address, family, length, _group, protocol, preference, _, metric = entry
    return {
        "prefix": f"{_text(family, address)}/{length}",
        "protocol": _PROTOCOLS.get(protocol, str(protocol)),
        "preference": preference,
        "metric": metric,
        **group,
    }


def _text(family: int, address: bytes) -> str:
    return str(ipaddress.ip_address(address[:4] if family == CONSTANTS["FAMILY_IPV4"] else address))


def _nexthops(tables: Segment, group: int, names: dict[int, str]) -> Route:
    """Give what a group leads to, and what stands behind that, if anything does."""
    offset = tables.integer("groups", group)
    if group == 0 or offset == 0:
        return {"nexthops": []}
    count, total, checksum, backups = _GROUP.unpack(_bytes(tables, offset, _GROUP.size))
    if count + backups > CONSTANTS["MAX_GROUP_HOPS"]:
        return {"nexthops": []}
    hops = _bytes(tables, offset + _GROUP.size, (count + backups) * _HOP.size)
    if zlib.crc32(hops, zlib.crc32(_GROUP.pack(count, total, 0, backups))) != checksum:
        return {"nexthops": []}
    shown = [_nexthop(hop, names) for hop in _HOP.iter_unpack(hops)]
    return {"nexthops": shown[:count]} | ({"backups": shown[count:]} if backups else {})


def _nexthop(hop: tuple[Any, ...], names: dict[int, str]) -> Route:
    kind, family, interface, weight, _end, _reserved, via = hop
    shown: Route = {
        "via": _text(family, via) if family in _FAMILIES else None,
        "interface": names.get(interface, str(interface)) if interface else None,
        "weight": weight,
    }
    name = _KINDS.get(kind, str(kind))
    return shown if name in _PLAIN else {**shown, "kind": name}


def _lookup(tables: Segment, version: int, packed: bytes) -> Route | None:
    group = _walk(tables, version, packed)
    if group == 0:
        return None
    table = _Prefixes(tables)
    covering = table.covering(version, packed)
    # The longest one; in the middle of a change the trie may still lead to a shorter one's group.
    entry = next((each for each in covering if each[3] == group), covering[0] if covering else None)
    if entry is None:
        return None
    return _route(entry, _nexthops(tables, group, interfaces.names(tables)))


def _walk(tables: Segment, version: int, packed: bytes) -> int:
    """Follow the trie to a leaf, as fib_lookup does; 0: no route."""
    where = tables.integer("fib_root", int(version == CONSTANTS["FAMILY_IPV6"]))
    if where == 0:
        return 0
    root = tables.at("fib_root", where)
    bits = root.integer("direct_bits")
    if bits > _MOST_DIRECT_BITS:
        raise ValueError("no direct table is that large")
    width = len(packed) * 8
    # Zeros after the address fill the last stride, and what a path looks at.
    key = int.from_bytes(packed, "big") << 64
    (entry,) = struct.unpack("<I", _bytes(tables, root.integer("direct") + 4 * (key >> (width + 64 - bits)), 4))
    if entry & CONSTANTS["FIB_LEAF"]:
        return int(entry) & 0xFFFF
    offset, depth = 8 * entry, bits
    while depth < width:
        data = _bytes(tables, offset, _NODE.size)
        children, starts, leaves, nodes = _NODE.unpack(data)
        if nodes & CONSTANTS["FIB_PATH"]:
            path, hit, miss, shift, _, below = _PATH.unpack(data)
            shift &= 63
            if (key >> (width - depth) & _MASK ^ path) >> shift:
                return int(miss)
            if below == CONSTANTS["FIB_PATH"]:
                return int(hit)
            offset, depth = 8 * (below & ~CONSTANTS["FIB_PATH"]), depth + max(1, 64 - shift)
            continue
        slot = key >> (width + 64 - _STRIDE - depth) & ((1 << _STRIDE) - 1)
        if not children >> slot & 1:
            rank = (starts & ((2 << slot) - 1)).bit_count()
            return int(struct.unpack("<H", _bytes(tables, 8 * leaves + 2 * (rank - 1), 2))[0]) if rank else 0
        offset, depth = 8 * nodes + _NODE.size * (children & ((1 << slot) - 1)).bit_count(), depth + _STRIDE
    return 0


class _Prefixes:
    """The published table of installed routes: a hash with linear probing (struct prefix_table)."""

    def __init__(self, tables: Segment) -> None:
        self._tables = tables
        offset = tables.integer("prefix_root")
        self._first = offset + SIZES["prefix_table"]
        self._capacity: int = tables.at("prefix_table", offset).integer("capacity") if offset else 0

    def entries(self) -> bytes:
        """Give all slots."""
        return _bytes(self._tables, self._first, self._capacity * _ENTRY.size)

    def covering(self, version: int, packed: bytes) -> list[tuple[Any, ...]]:
        """Give the entries of the prefixes that cover an address, longest first."""
        width = len(packed) * 8
        value = int.from_bytes(packed, "big")
        found = []
        for length in range(width, -1, -1):
            prefix = (value >> (width - length) << (width - length)).to_bytes(len(packed), "big").ljust(16, b"\0")
            if (entry := self._find(prefix, version, length)) is not None:
                found.append(entry)
        return found

    def _find(self, prefix: bytes, family: int, length: int) -> tuple[Any, ...] | None:
        slot = self._home(prefix, family, length)
        for _ in range(self._capacity):
            entry = _ENTRY.unpack(_bytes(self._tables, self._first + slot * _ENTRY.size, _ENTRY.size))
            if entry[1] == CONSTANTS["FAMILY_NONE"]:
                return None
            if entry[:3] == (prefix, family, length):
                return entry
            slot = (slot + 1) % self._capacity
        return None

    def _home(self, prefix: bytes, family: int, length: int) -> int:
        high, low = struct.unpack(">QQ", prefix)
        mixed = (low ^ (family << 8 | length)) * 0xC2B2AE3D27D4EB4F & _MASK
        mixed = (high * 0x9E3779B97F4A7C15 + (mixed << 31 | mixed >> 33)) & _MASK
        mixed = (mixed ^ mixed >> 32) * 0x9E3779B97F4A7C15 & _MASK
        home: int = (mixed >> 32) * self._capacity >> 32
        return home
