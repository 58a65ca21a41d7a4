"""The writer's Python handle, and the readers without C: routes, interfaces, the entry that is used."""

from __future__ import annotations

import ipaddress
import os
import random
from typing import TYPE_CHECKING

import pytest

from fastpath import interfaces, routes, segment
from fastpath._layout import CONSTANTS
from tests.property import fib_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from fastpath.segment import Segment
    from fastpath.tables import TableWriter

MAC = bytes.fromhex("020000000001")


@pytest.fixture
def fd() -> Iterator[int]:
    made = segment.create(segment.KIND_TABLES, fib_model.SMALL, 1, "red")
    yield made
    os.close(made)


@pytest.fixture
def reader(fd: int) -> Iterator[Segment]:
    with segment.Segment(fd, segment.KIND_TABLES) as mapped:
        yield mapped


@pytest.fixture
def writer(fd: int) -> Iterator[TableWriter]:
    from fastpath.tables import TableWriter

    with TableWriter(fd) as tables:
        yield tables


def publish(writer: TableWriter) -> None:
    from fastpath.tables import AddressEntry, InterfaceEntry, RuleEntry

    writer.publish(
        [
            InterfaceEntry(1, "lan", CONSTANTS["INTERFACE_ETHERNET"], port=1, flags=1, mac=MAC),
            InterfaceEntry(2, "lan.5", CONSTANTS["INTERFACE_VLAN"], port=1, vlan=5, flags=1, mac=MAC, mtu=1400),
        ],
        [
            AddressEntry(4, 0x0A000001, 24, 1),
            AddressEntry(6, 0xFE80 << 112 | 1, 64, 2, CONSTANTS["ADDRESS_LINK_LOCAL"]),
        ],
        [RuleEntry(CONSTANTS["RULE_UID"], 1000, 31, ports=((1, 9), (53, 53)), prefixes=((4, 0x0A000000, 8),))],
    )


def install(writer: TableWriter, text: str, *hops: Any, protocol: str = "STATIC") -> None:
    from fastpath.tables import RouteChange

    group = writer.group(hops)
    writer.apply([RouteChange(*fib_model.prefix(text), group, CONSTANTS[f"ROUTE_{protocol}"], 5, 77)])
    writer.release(group)


def test_nothing_is_there_before_the_first_writer(reader: Segment) -> None:
    assert routes.routes(reader) == []
    assert routes.lookup(reader, "10.0.0.1") is None


def test_routes_are_told_as_operators_see_them(reader: Segment, writer: TableWriter) -> None:
    from fastpath.tables import Hop

    publish(writer)
    install(writer, "::/0", Hop(CONSTANTS["NEXTHOP_FORWARD"], 2, (6, 0xFE80 << 112 | 9)), protocol="BGP")
    install(writer, "10.1.0.0/16", Hop(CONSTANTS["NEXTHOP_BLACKHOLE"]))
    install(writer, "10.0.0.0/24", Hop(CONSTANTS["NEXTHOP_CONNECTED"], 1), protocol="CONNECTED")
    install(writer, "10.0.0.0/8", Hop(1, 1, (4, 0x0A000002), 3), Hop(1, 1, (4, 0x0A000003)))
    assert routes.routes(reader) == [
        {
            "prefix": "10.0.0.0/8", "protocol": "static", "preference": 5, "metric": 77,
            "nexthops": [
                {"via": "10.0.0.2", "interface": "lan", "weight": 3},
                {"via": "10.0.0.3", "interface": "lan", "weight": 1},
            ],
        },
        {
            "prefix": "10.0.0.0/24", "protocol": "connected", "preference": 5, "metric": 77,
            "nexthops": [{"via": None, "interface": "lan", "weight": 1}],
        },
        {
            "prefix": "10.1.0.0/16", "protocol": "static", "preference": 5, "metric": 77,
            "nexthops": [{"via": None, "interface": None, "weight": 1, "kind": "blackhole"}],
        },
        {
            "prefix": "::/0", "protocol": "bgp", "preference": 5, "metric": 77,
            "nexthops": [{"via": "fe80::9", "interface": "lan.5", "weight": 1}],
        },
    ]  # fmt: skip


def test_lookup_gives_the_entry_that_is_used(reader: Segment, writer: TableWriter) -> None:
    from fastpath.tables import Hop, RouteChange

    rng = random.Random(3)
    groups = {interface: writer.group([Hop(1, interface, (4, interface))]) for interface in range(1, 6)}
    table = {}
    for count in (1, 40, 700, 1200):  # each size of the direct table, and changes that are built at once
        changes = []
        for _ in range(count):
            family = rng.choice([4, 6])
            width = fib_model.WIDTH[family]
            length = rng.randrange(1, width + 1)
            value = rng.getrandbits(12) << (width - 12) >> (width - length) << (width - length)
            table[family, value, length] = interface = rng.randrange(1, 6)
            changes.append(RouteChange(family, value, length, groups[interface], 3))
        writer.apply(changes)
        for family, address in rng.sample(fib_model.probes(set(table)), 3 + count // 4):
            expected = fib_model.naive(table, family, address)
            text = str(ipaddress.IPv4Address(address) if family == 4 else ipaddress.IPv6Address(address))
            found = routes.lookup(reader, text)
            assert (found is None) == (expected == 0)
            if found:
                assert table[fib_model.prefix(found["prefix"])] == expected
                assert ipaddress.ip_address(text) in ipaddress.ip_network(found["prefix"])
                assert found["nexthops"][0]["interface"] == str(expected)
    assert {(r.family, r.value, r.length) for r in writer.routes()} == set(table)
    assert len(routes.routes(reader)) == len(table)


def test_a_writer_that_died_in_the_middle_does_not_stop_readers(fd: int, reader: Segment, writer: TableWriter) -> None:
    from fastpath.tables import Hop

    install(writer, "10.0.0.0/8", Hop(1, 1, (4, 1)))
    odd = reader.integer("generation") + 1
    os.pwrite(fd, odd.to_bytes(8, "little"), 176)
    assert reader.integer("generation") == odd
    assert [route["prefix"] for route in routes.routes(reader)] == ["10.0.0.0/8"]
    assert routes.lookup(reader, "10.2.3.4") is not None


def test_interfaces_are_published_at_once_and_only_when_new(reader: Segment, writer: TableWriter) -> None:
    publish(writer)
    root = reader.integer("root")
    publish(writer)
    assert reader.integer("root") == root
    assert interfaces.names(reader) == {1: "lan", 2: "lan.5"}
    assert interfaces.published(reader)[0].addresses == ("10.0.0.1/24",)


def test_a_root_that_readers_would_refuse_is_not_published(reader: Segment, writer: TableWriter) -> None:
    from fastpath.tables import AddressEntry, InterfaceEntry

    lan = InterfaceEntry(1, "lan", 1, port=1)
    for bad in (
        [lan, lan],
        [InterfaceEntry(0, "lan", 1)],
        [InterfaceEntry(1, "", 1)],
        [InterfaceEntry(1, "x", 1, port=128)],
    ):
        with pytest.raises(OSError, match="Invalid argument"):
            writer.publish(bad, [], [])
    with pytest.raises(OSError, match="Invalid argument"):
        writer.publish([lan], [AddressEntry(4, 1, 33, 1)], [])
    with pytest.raises(ValueError, match="too long"):
        writer.publish([InterfaceEntry(1, "x" * 32, 1)], [], [])
    assert reader.integer("root") == 0
