"""The RIB and BGP's own table, in C and its twin: who decides about a prefix, and what the FIB gets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from vrouter.engine.routes import Routes
from vrouter.net.address import parse_address, parse_prefix
from vrouter.rib.bgp_reference import ReferenceTable
from vrouter.rib.bgp_table import Afi, FamilySettings, Identity, PeerKind, PeerSettings
from vrouter.rib.rib import Rib
from vrouter.rib.route import Hop, HopKind, Protocol, Route
from vrouter.runtime.bgp_bulk import BulkTable

LAN = Route(parse_prefix("10.0.0.0/24"), Protocol.CONNECTED, (Hop(HopKind.CONNECTED, "lan"),), 0)
WAN = Route(parse_prefix("10.0.1.0/24"), Protocol.CONNECTED, (Hop(HopKind.CONNECTED, "wan"),), 0)
OSPF = Route(
    parse_prefix("192.0.2.0/24"), Protocol.OSPF, (Hop(HopKind.FORWARD, "wan", parse_address("10.0.1.9")),), 110, 10
)
STATIC = Route(
    parse_prefix("192.0.2.0/24"), Protocol.STATIC, (Hop(HopKind.FORWARD, "", parse_address("172.16.0.5")),), 1
)
# ORIGIN IGP, AS_PATH 65010, NEXT_HOP 10.0.0.2; 192.0.2.0/24 and 172.16.0.0/16.
ATTRIBUTES = bytes.fromhex("4001010040020602010000fdf24003040a000002")
PREFIXES = bytes.fromhex("18c0000210ac10")


class World:
    """A table with one neighbor, and a RIB."""

    def __init__(self, table: Any) -> None:
        self.table = table
        self.routes = Routes(Rib())
        self.rib = self.routes.rib
        self.routes.attach(table, "bgp")
        table.configure(Identity(65000, 1))
        settings = PeerSettings(
            PeerKind.EXTERNAL, parse_address("10.0.0.2"), 65000, 65010, 2, {Afi.IPV4: FamilySettings()}
        )
        table.peer_add(1)
        table.peer_up(1, settings)
        body = b"\0\0" + len(ATTRIBUTES).to_bytes(2, "big") + ATTRIBUTES + PREFIXES
        update = b"\xff" * 16 + (19 + len(body)).to_bytes(2, "big") + b"\2" + body
        assert table.feed(1, update).consumed == len(update)
        self.rib.update([LAN, WAN])
        self.fib: dict[str, str] = {}

    def settle(self) -> dict[str, str]:
        """Let both tell each other all they have, and give what the FIB holds beside the links' own prefixes."""
        for _ in range(4):
            self.table.process(100)
            for change in self.routes.turn().changes:
                if change.route is not None:
                    (hop,) = change.route.hops
                    self.fib[str(change.prefix)] = f"{change.route.protocol.name} {hop.interface}"
                elif not change.bulk:
                    self.fib.pop(str(change.prefix), None)
        return {prefix: route for prefix, route in sorted(self.fib.items()) if not prefix.startswith("10.")}


@pytest.mark.parametrize("make", [ReferenceTable, BulkTable])
def test_a_prefix_changes_hands(make: Callable[[], Any]) -> None:
    world = World(make())
    other = {"172.16.0.0/16": "BGP lan"}
    assert world.settle() == {**other, "192.0.2.0/24": "BGP lan"}
    world.rib.update([OSPF])
    assert world.settle() == {**other, "192.0.2.0/24": "BGP lan"}
    assert world.rib.contested(OSPF.prefix)
    world.rib.update([STATIC])
    assert world.settle() == {**other, "192.0.2.0/24": "STATIC lan"}, "through a route of BGP"
    world.rib.link("lan", up=False)
    assert world.settle() == {"192.0.2.0/24": "OSPF wan"}
    world.rib.link("lan", up=True)
    assert world.settle() == {**other, "192.0.2.0/24": "STATIC lan"}
    world.rib.update((), [STATIC])
    assert world.settle() == {**other, "192.0.2.0/24": "BGP lan"}
    world.rib.update((), [OSPF])
    assert world.settle() == {**other, "192.0.2.0/24": "BGP lan"}
    assert not world.rib.contested(OSPF.prefix)
    world.table.peer_down(1)
    assert world.settle() == {}


@pytest.mark.parametrize("make", [ReferenceTable, BulkTable])
def test_what_is_contested_from_the_beginning_falls_to_bgp(make: Callable[[], Any]) -> None:
    world = World(make())
    world.rib.update([STATIC, OSPF])
    assert world.settle()["192.0.2.0/24"] == "STATIC lan"
    world.rib.update((), [STATIC, OSPF])
    assert world.settle()["192.0.2.0/24"] == "BGP lan"
    world.rib.update([OSPF])
    world.table.peer_down(1)
    assert world.settle() == {"192.0.2.0/24": "OSPF wan"}
    world.routes.detach()
    assert world.rib.flush() == []
    assert not world.rib.contested(OSPF.prefix)
