"""The forwarder's view of published interfaces and addresses: followed when sound, private, indexed."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Any

import pytest

from fastpath import segment
from fastpath._layout import FIELDS
from tests.property import fib_model

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT_WORD = FIELDS["tables_segment"]["root"][0]


class Seen:
    """A writer and a view of one segment."""

    def __init__(self, library: Any) -> None:
        from fastpath import tables

        self.tables = tables
        self.ffi, self.lib = library.ffi, library.lib
        self.fd = segment.create(segment.KIND_TABLES, fib_model.SMALL, 1, "red")
        self.writer = tables.TableWriter(self.fd)
        self.view = self.lib.harness_view(self.fd)

    def close(self) -> None:
        self.lib.harness_view_close(self.view)
        self.writer.close()
        os.close(self.fd)

    def publish(self, mtu: int, hosts: int = 2) -> None:
        interface = self.tables.InterfaceEntry
        entries = [
            interface(9, "lan", 1, port=3, mtu=mtu),
            interface(4, "lan.5", 2, port=3, vlan=5),
            interface(1, "lo", 3),
        ]
        addresses = [self.tables.AddressEntry(4, 0x0A000000 + host, 24, 9) for host in range(1, hosts)]
        addresses += [self.tables.AddressEntry(4, 0x0A000001, 24, 4), self.tables.AddressEntry(6, 1, 64, 1)]
        self.writer.publish(entries, addresses, [])

    def refresh(self) -> bool:
        return bool(self.lib.view_refresh(self.view))

    def mtu(self) -> int:
        found = self.lib.view_interface(self.view, 9)
        return int(found.mtu) if found != self.ffi.NULL else 0

    def root(self) -> int:
        return int(struct.unpack("<Q", os.pread(self.fd, 8, ROOT_WORD))[0])

    def damage(self, offset: int) -> None:
        old = os.pread(self.fd, 1, offset)[0]
        os.pwrite(self.fd, bytes([old ^ 0x40]), offset)


@pytest.fixture
def seen(library: Any) -> Iterator[Seen]:
    made = Seen(library)
    yield made
    made.close()


def test_it_tells_when_something_changed(seen: Seen) -> None:
    assert not seen.refresh()
    seen.publish(1500)
    assert seen.refresh()
    assert not seen.refresh()
    seen.publish(1400)
    assert seen.mtu() == 1500  # what was followed does not change by itself
    assert seen.refresh()
    assert seen.mtu() == 1400


def test_a_root_that_lies_where_an_older_one_lay_is_another_one(seen: Seen) -> None:
    seen.publish(1500)
    assert seen.refresh()
    first = seen.root()
    for mtu in range(1401, 1420):
        seen.publish(mtu)
        if seen.root() == first:
            break
    assert seen.root() == first
    assert seen.refresh()
    assert seen.mtu() == mtu


@pytest.mark.parametrize("offset", [8, 12, 16, 24, 48, 48 + 24, 48 + 3 * 56 + 16])
def test_a_damaged_root_is_not_followed(seen: Seen, offset: int) -> None:
    seen.publish(1500)
    assert seen.refresh()
    seen.publish(1400)
    seen.damage(seen.root() + offset)
    assert not seen.refresh()
    assert not seen.refresh()
    assert seen.mtu() == 1500
    seen.publish(1300)
    assert seen.refresh()
    assert seen.mtu() == 1300


def test_interfaces_are_found_by_index_and_by_port(seen: Seen) -> None:
    seen.publish(1500)
    assert seen.refresh()
    found = {index for index in range(300) if seen.lib.view_interface(seen.view, index) != seen.ffi.NULL}
    assert found == {1, 4, 9}
    of = {
        (port, vlan): entry.index
        for port in range(128)
        for vlan in (0, 5, 6)
        if (entry := seen.lib.view_interface_of(seen.view, port, vlan)) != seen.ffi.NULL
    }
    assert of == {(3, 0): 9, (3, 5): 4}


def test_addresses_are_found_on_any_interface_or_on_one(seen: Seen) -> None:
    seen.publish(1500, hosts=200)
    assert seen.refresh()

    def find(family: int, value: int, interface: int = 0) -> int:
        size = fib_model.WIDTH[family] // 8
        entry = seen.lib.view_address(seen.view, family, value.to_bytes(size, "big"), interface)
        return int(entry.interface) if entry != seen.ffi.NULL else 0

    assert [find(4, 0x0A000000 + host) for host in range(200)] == [0, *[9] * 199]
    assert find(4, 0x0A000001, 4) == 4
    assert find(4, 0x0A000002, 4) == 0
    assert find(6, 1) == 1
    assert find(6, 2) == 0
    assert find(4, 0) == 0
