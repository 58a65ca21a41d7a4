"""The RIB against a model that works everything out anew after each step."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from vrouter.net.address import Address, Prefix, mask, parse_address, parse_prefix
from vrouter.rib.bgp_table import BulkRoute
from vrouter.rib.candidates import rank
from vrouter.rib.resolver import MAX_DEPTH, share
from vrouter.rib.rib import Reach, Rib
from vrouter.rib.route import FibChange, Hop, HopKind, Protocol, Route

INTERFACES = ["a", "b", "c"]
PREFIXES = [parse_prefix(text) for text in (
    "0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.1.0/24", "10.1.1.1/32", "10.2.0.0/16", "20.0.0.0/8", "20.1.0.0/16",
    "2001:db8::/32", "2001:db8:1::/48",
)]  # fmt: skip
ADDRESSES = [parse_address(text) for text in ("10.1.1.1", "10.1.2.1", "10.2.0.1", "20.0.0.1", "20.1.0.1")]
ADDRESSES6 = [parse_address(text) for text in ("2001:db8:1::1", "2001:db8:2::1")]


class Bulk:
    """BGP's own table: prefixes with resolved hops."""

    def __init__(self) -> None:
        self.routes: dict[Prefix, BulkRoute] = {}
        self.holding: set[Prefix] = set()
        self.news: dict[Prefix, None] = {}

    def set(self, prefix: Prefix, route: BulkRoute | None) -> None:
        if route is None:
            self.routes.pop(prefix, None)
        else:
            self.routes[prefix] = route
        if prefix in self.holding:
            self.news[prefix] = None

    def hold(self, prefix: Prefix) -> None:
        assert prefix not in self.holding
        self.holding.add(prefix)
        self.news[prefix] = None

    def unhold(self, prefix: Prefix) -> None:
        self.holding.remove(prefix)
        self.news.pop(prefix, None)

    def held(self) -> list[BulkRoute]:
        news = [self.routes.get(prefix, BulkRoute(prefix, ())) for prefix in self.news]
        self.news.clear()
        return news

    def lookup(self, address: Address, longest: int = 128) -> BulkRoute | None:
        found = [
            route for route in self.routes.values() if route.prefix.length <= longest and covers(route.prefix, address)
        ]
        return max(found, key=lambda route: route.prefix.length, default=None)


def covers(prefix: Prefix, address: Address) -> bool:
    return prefix.family == address.family and address.value & mask(prefix.family, prefix.length) == prefix.value


class Model:
    """All that is offered, and what follows from it, without any memory of before."""

    def __init__(self) -> None:
        self.offers: dict[tuple[Prefix, Protocol, str], Route] = {}
        self.down: set[str] = set()
        self.bulk = Bulk()

    def contested(self) -> set[Prefix]:
        return {prefix for prefix, _, _ in self.offers}

    def routes(self, prefix: Prefix, *, bgp: bool) -> list[Route]:
        found = [route for route in self.offers.values() if route.prefix == prefix]
        own = self.bulk.routes.get(prefix)
        if bgp and own is not None and own.hops and (found or bgp):
            found.append(Route(prefix, Protocol.BGP, own.hops, own.preference, own.metric))
        return sorted(found, key=rank)

    def usable(self, route: Route, pending: frozenset[Address], *, bgp: bool) -> tuple[Hop, ...]:
        groups: list[tuple[int, tuple[Hop, ...]]] = []
        for hop in route.hops:
            if hop.kind is HopKind.FORWARD and not hop.interface:
                assert hop.via is not None
                inner = self.way(hop.via, pending, bgp=bgp)[0]
            elif hop.kind is HopKind.LOCAL or hop.interface not in self.down:
                inner = (replace(hop, weight=1),)
            else:
                inner = ()
            if inner:
                groups.append((hop.weight, inner))
        return share(groups)

    def way(self, address: Address, pending: frozenset[Address], *, bgp: bool) -> tuple[tuple[Hop, ...], int, bool]:
        if address in pending or len(pending) >= MAX_DEPTH:
            return (), 0, False
        known = {route.prefix for route in self.offers.values()} | (set(self.bulk.routes) if bgp else set())
        for prefix in sorted(known, key=lambda each: -each.length):
            if not prefix.length or not covers(prefix, address):
                continue
            for route in self.routes(prefix, bgp=bgp):
                # What BGP's table alone has is written by it, whatever the state of links here.
                alone = route.protocol is Protocol.BGP and prefix not in self.contested()
                hops = route.hops if alone else self.usable(route, pending | {address}, bgp=bgp)
                if hops:
                    if any(hop.kind not in {HopKind.FORWARD, HopKind.CONNECTED} for hop in hops):
                        return (), 0, False
                    connected = all(hop.kind is HopKind.CONNECTED for hop in hops)
                    towards = (
                        replace(hop, kind=HopKind.FORWARD, via=address) if hop.kind is HopKind.CONNECTED else hop
                        for hop in hops
                    )
                    return tuple(towards), route.metric, connected
        return (), 0, False

    def table(self) -> dict[Prefix, Route]:
        installed = {}
        for prefix in self.contested():
            for route in self.routes(prefix, bgp=True):
                hops = self.usable(route, frozenset(), bgp=True)
                if hops:
                    installed[prefix] = replace(route, hops=hops)
                    break
        return installed


def hops_of(dice: Random, family: int) -> tuple[Hop, ...]:
    addresses = ADDRESSES if family == 4 else ADDRESSES6
    kind = dice.choice(["via", "via", "via", "both", "connected", "local", "discard"])
    interface = dice.choice(INTERFACES)
    if kind == "connected":
        return (Hop(HopKind.CONNECTED, interface),)
    if kind == "local":
        return (Hop(HopKind.LOCAL, interface),)
    if kind == "discard":
        return (Hop(HopKind.BLACKHOLE),)
    if kind == "both":
        return (Hop(HopKind.FORWARD, interface, dice.choice(addresses)),)
    vias = dice.sample(addresses, dice.randint(1, 2))
    return tuple(Hop(HopKind.FORWARD, "", via, dice.randint(1, 3)) for via in vias)


class Machine:
    """One walk: the RIB, the model, and the FIB that the changes make."""

    def __init__(self, *, with_bulk: bool) -> None:
        self.model = Model()
        self.rib = Rib(self.model.bulk if with_bulk else None)
        self.with_bulk = with_bulk
        self.fib: dict[Prefix, Route] = {}
        self.used: dict[Prefix, Route] = {}
        self.tracked: dict[Address, Reach] = {}

    def step(self, dice: Random) -> None:
        what = dice.choice(["add", "add", "add", "remove", "link", "track", "untrack", "bulk", "bulk"])
        if what == "add":
            prefix = dice.choice(PREFIXES)
            protocol = dice.choice([Protocol.CONNECTED, Protocol.STATIC, Protocol.OSPF])
            source = dice.choice(["", "x"])
            preference = dice.choice([0, 1, 30, 110])
            route = Route(prefix, protocol, hops_of(dice, prefix.family), preference, dice.randint(0, 2), source)
            self.model.offers[prefix, protocol, source] = route
            self.rib.update([route])
        elif what == "remove" and self.model.offers:
            route = self.model.offers.pop(dice.choice(sorted(self.model.offers)))
            self.rib.update((), [route])
        elif what == "link":
            interface, up = dice.choice(INTERFACES), dice.random() < 0.5
            (self.model.down.discard if up else self.model.down.add)(interface)
            self.rib.link(interface, up=up)
        elif what == "track":
            self.rib.track(dice.choice(ADDRESSES))
        elif what == "untrack":
            address = dice.choice(ADDRESSES)
            self.rib.untrack(address)
            self.tracked.pop(address, None)
        elif what == "bulk" and self.with_bulk:
            prefix = dice.choice(PREFIXES)
            interface = dice.choice(INTERFACES)
            hops = (Hop(HopKind.FORWARD, interface, dice.choice(ADDRESSES)),)
            own = BulkRoute(prefix, hops, dice.choice([20, 200]), dice.randint(0, 2))
            self.model.bulk.set(prefix, own if dice.random() < 0.5 else None)
            self.rib.bulk_changed()

    def flush(self) -> None:
        for change in self.rib.flush():
            self.take(change)
        for event in self.rib.events():
            if event.prefix in self.used and event.old is not None and event.old.protocol is not Protocol.BGP:
                assert self.used[event.prefix] == event.old
            if event.new is None:
                self.used.pop(event.prefix, None)
            else:
                self.used[event.prefix] = event.new
        self.tracked.update((reach.address, reach) for reach in self.rib.reached())

    def take(self, change: FibChange) -> None:
        if change.route is not None:
            self.fib[change.prefix] = change.route
            assert not change.bulk
        elif change.bulk:
            assert change.prefix in self.model.bulk.routes
            self.fib.pop(change.prefix, None)
        else:
            del self.fib[change.prefix]

    def check(self) -> None:
        expected = self.model.table()
        assert entries(self.fib) == entries(expected)
        assert without_origin(self.rib.installed) == expected
        if self.with_bulk:
            assert self.model.bulk.holding == self.model.contested()
        for prefix in expected:
            assert replace(self.used[prefix], origin=None) == expected[prefix]
        for prefix in set(self.used) - set(expected):
            assert self.used[prefix].protocol is Protocol.BGP
        for address, reach in self.tracked.items():
            hops, metric, connected = self.model.way(address, frozenset(), bgp=False)
            assert (reach.hops, reach.metric, reach.connected) == (hops, metric, connected), str(address)


def entries(table: dict[Prefix, Route]) -> dict[Prefix, tuple[object, ...]]:
    """Give what the FIB holds of routes."""
    return {prefix: (it.hops, it.protocol, it.preference, it.metric) for prefix, it in table.items()}


def without_origin(table: dict[Prefix, Route]) -> dict[Prefix, Route]:
    return {prefix: replace(route, origin=None) for prefix, route in table.items()}


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("with_bulk", [False, True])
def test_the_rib_is_what_follows_from_what_is_offered(seed: int, with_bulk: bool) -> None:
    dice = Random(seed)
    for _ in range(10):
        machine = Machine(with_bulk=with_bulk)
        for _ in range(dice.randint(1, 40)):
            for _ in range(dice.randint(1, 3)):
                machine.step(dice)
            machine.flush()
            machine.check()
            assert machine.rib.flush() == []
