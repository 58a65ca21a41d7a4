"""A tables segment under test beside a naive table: the same changes to both, the same questions."""

from __future__ import annotations

import errno
import os
import struct
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any

from fastpath import segment
from fastpath._layout import SIZES

WIDTH = {4: 32, 6: 128}
CHANGE = struct.Struct("<16sBBHBBHI")
SMALL = 8 << 20  # bytes of a segment that many tests make

Prefix = tuple[int, int, int]  # family, value, length
Table = dict[Prefix, int]  # -> interface of the only next hop


def prefix(text: str) -> Prefix:
    network = ip_network(text)
    return network.version, int(network.network_address), network.prefixlen


def packed(family: int, value: int) -> bytes:
    return value.to_bytes(WIDTH[family] // 8, "big").ljust(16, b"\0")


def naive(table: Table, family: int, value: int) -> int:
    """Give the interface of the longest prefix that covers the address, 0 without one."""
    width = WIDTH[family]
    for length in range(width, -1, -1):
        if found := table.get((family, value >> (width - length) << (width - length), length)):
            return found
    return 0


def probes(prefixes: set[Prefix]) -> list[tuple[int, int]]:
    """Give the addresses where an answer can begin or end: the edges of each prefix and their neighbors."""
    found = {(4, 0), (6, 0), (4, 2**32 - 1), (6, 2**128 - 1)}
    for family, value, length in prefixes:
        last = value | (1 << (WIDTH[family] - length)) - 1
        for address in (value - 1, value, (value + last) // 2, last, last + 1):
            if 0 <= address < 1 << WIDTH[family]:
                found.add((family, address))
    return sorted(found)


@dataclass
class Changes:
    """Changes in order; interface 0 removes."""

    steps: list[tuple[Prefix, int]]

    def after(self, table: Table, count: int) -> Table:
        result = dict(table)
        for where, interface in self.steps[:count]:
            if interface:
                result[where] = interface
            else:
                result.pop(where, None)
        return result

    def states(self, table: Table) -> list[Table]:
        return [self.after(table, count) for count in range(len(self.steps) + 1)]


@dataclass
class Tables:
    """One segment with its writer and a reader."""

    library: Any
    size: int = SMALL
    state_fd: int = -1
    fd: int = -1
    writer: Any = None
    view: Any = None
    crashed_at: str = ""
    _keep: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ffi, self.lib = self.library.ffi, self.library.lib
        self.fd = segment.create(segment.KIND_TABLES, self.size, 1, "red")
        self.view = self.lib.harness_view(self.fd)
        assert self.open() == 0

    def open(self, store: int = 0) -> int:
        handle = self.ffi.new("struct table_writer **")
        result: int = self.lib.harness_open(self.fd, self.state_fd, handle, store)
        if result == 0:
            self.writer = handle[0]
        elif result == -errno.EINTR:
            self._note()
        return result

    def close_writer(self) -> None:
        if self.writer is not None:
            self.lib.table_writer_close(self.writer)
            self.writer = None

    def close(self) -> None:
        self.close_writer()
        self.lib.harness_view_close(self.view)
        os.close(self.fd)

    def _note(self) -> None:
        self.crashed_at = self.ffi.string(self.lib.harness_crash_name()).decode()

    def hops(self, interface: int) -> Any:
        hops = self.ffi.new("struct nexthop[1]")
        hops[0].kind, hops[0].interface, hops[0].weight = 1, interface, 1
        return hops

    def group(self, interface: int) -> int:
        found: int = self.lib.table_writer_group(self.writer, self.hops(interface), 1)
        assert found > 0
        return found

    def apply(self, changes: Changes, store: int = 0) -> int:
        """Apply in one call, dying at the N-th store; a writer that died is left behind as it is."""
        groups = {interface: self.group(interface) for _, interface in changes.steps if interface}
        data = b"".join(
            CHANGE.pack(packed(family, value), family, length, groups.get(interface, 0), 3, 1, 0, 0)
            for (family, value, length), interface in changes.steps
        )
        array = self.ffi.from_buffer("struct route_change[]", data)
        result: int = self.lib.harness_apply(self.writer, array, len(changes.steps), store)
        if result == -errno.EINTR:
            self._note()
            self.close_writer()  # frees what is private, stores nothing
            return result
        for group in groups.values():
            assert self.lib.table_writer_group_release(self.writer, group) == 0
        return result

    def lookup(self, family: int, value: int) -> int:
        """Give the interface that a packet to the address leaves by, 0 for none."""
        group = self.lib.fib_lookup(self.view, family, value.to_bytes(WIDTH[family] // 8, "big"))
        if group == 0:
            return 0
        hop = self.lib.nexthop_select(self.view, group, 0)
        return int(hop.interface) if hop != self.ffi.NULL else -1

    def installed(self) -> Table:
        """Give what the writer says is installed."""
        cursor = self.ffi.new("uint64_t *")
        entries = self.ffi.new("struct prefix_entry[64]")
        found: Table = {}
        while count := self.lib.table_writer_routes(self.writer, cursor, entries, 64):
            for entry in entries[0:count]:
                value = int.from_bytes(bytes(entry.address)[: WIDTH[entry.family] // 8], "big")
                key = (entry.family, value, entry.length)
                assert key not in found, "a prefix is installed twice"
                found[key] = self.group_interface(entry.group)
        return found

    def group_interface(self, group: int) -> int:
        hop = self.lib.nexthop_select(self.view, group, 0)
        assert hop != self.ffi.NULL
        return int(hop.interface)

    def memory(self) -> int:
        return os.fstat(self.fd).st_blocks * 512

    def prefix_bytes(self) -> int:
        """Give the bytes of the table of installed routes."""
        with segment.Segment(self.fd, segment.KIND_TABLES) as mapped:
            offset = mapped.integer("prefix_root")
            return mapped.at("prefix_table", offset).integer("capacity") * SIZES["prefix_entry"] if offset else 0

    def check(self, table: Table) -> None:
        asked = probes(set(table))
        for family, value in asked:
            assert self.lookup(family, value) == naive(table, family, value), (family, hex(value))
        for family, width in WIDTH.items():
            values = [value for each, value in asked if each == family]
            data = b"".join(value.to_bytes(width // 8, "big") for value in values)
            groups = self.ffi.new("uint16_t[]", len(values))
            at = self.lib.harness_agree(self.view, family, self.ffi.from_buffer(data), len(values), groups)
            assert at == -1, (family, hex(values[at]))
