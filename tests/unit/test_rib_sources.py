"""The routing table beside static routes: BGP's own table, tracked addresses, stale routes, events, explanations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from vrouter.net.address import Address, Prefix, mask, parse_address, parse_prefix
from vrouter.rib.bgp_table import BulkRoute
from vrouter.rib.explain import explain, rows
from vrouter.rib.resolver import View, Way
from vrouter.rib.rib import Reach, Rib
from vrouter.rib.route import FibChange, Hop, HopKind, Protocol, Route
from vrouter.rib.route_view import route_view


class Bulk:
    """BGP's own table, as far as the RIB knows it."""

    def __init__(self) -> None:
        self.best: dict[Prefix, BulkRoute] = {}
        self.calls: list[str] = []
        self.news: list[Prefix] = []

    def offer(self, text: str, via: str, *, internal: bool = False) -> None:
        prefix = parse_prefix(text)
        hops = (Hop(HopKind.FORWARD, "wan", parse_address(via)),) if via else ()
        self.best[prefix] = BulkRoute(prefix, hops, 200 if internal else 20, internal=internal, attributes=b"\1")
        self.news.append(prefix)

    def hold(self, prefix: Prefix) -> None:
        self.calls.append(f"hold {prefix}")
        self.news.append(prefix)

    def unhold(self, prefix: Prefix) -> None:
        self.calls.append(f"unhold {prefix}")

    def held(self) -> list[BulkRoute]:
        news, self.news = self.news, []
        return [self.best.get(prefix, BulkRoute(prefix, ())) for prefix in news]

    def lookup(self, address: Address, longest: int = 128) -> BulkRoute | None:
        for length in range(min(longest, 32), -1, -1):
            found = self.best.get(Prefix(4, address.value & mask(4, length), length))
            if found is not None and found.hops:
                return found
        return None


def direct(prefix: str, interface: str, via: str = "", protocol: Protocol = Protocol.OSPF, metric: int = 0) -> Route:
    kind = HopKind.FORWARD if via else HopKind.CONNECTED
    hop = Hop(kind, interface, parse_address(via) if via else None)
    preference = {Protocol.CONNECTED: 0, Protocol.STATIC: 1}.get(protocol, 110)
    return Route(parse_prefix(prefix), protocol, (hop,), preference, metric)


def static(prefix: str, via: str, preference: int = 1) -> Route:
    hop = Hop(HopKind.FORWARD, "", parse_address(via))
    return Route(parse_prefix(prefix), Protocol.STATIC, (hop,), preference)


def told(changes: Iterable[FibChange]) -> list[str]:
    return [
        f"{change.prefix} {change.route.protocol.name}" if change.route else f"{change.prefix} {change.bulk}"
        for change in changes
    ]


LAN = direct("10.0.0.0/24", "lan", protocol=Protocol.CONNECTED)


def test_a_prefix_that_others_offer_is_taken_from_bgp_and_given_back() -> None:
    bulk = Bulk()
    rib = Rib(bulk)
    bulk.offer("192.0.2.0/24", "10.9.9.9")
    route = direct("192.0.2.0/24", "lan", "10.0.0.2")
    rib.update([route])
    assert told(rib.flush()) == ["192.0.2.0/24 BGP"], "BGP's preference is the smaller"
    assert bulk.calls == ["hold 192.0.2.0/24"]
    assert rib.contested(route.prefix)
    (event,) = rib.events()
    assert event.new is not None
    assert event.new.protocol is Protocol.BGP
    bulk.offer("192.0.2.0/24", "10.9.9.9", internal=True)
    assert told(rib.flush()) == ["192.0.2.0/24 OSPF"]
    assert [(it.old.protocol.name, it.new.protocol.name) for it in rib.events() if it.old and it.new] == [
        ("BGP", "OSPF")
    ]
    rib.update((), [route])
    assert told(rib.flush()) == ["192.0.2.0/24 True"], "written by BGP's table: nothing to remove"
    assert bulk.calls[-1] == "unhold 192.0.2.0/24"
    assert not rib.contested(route.prefix)
    assert [it.new.protocol.name for it in rib.events() if it.new] == ["BGP"]
    assert rib.installed == {}


def test_without_a_route_of_bgp_a_prefix_is_removed() -> None:
    bulk = Bulk()
    rib = Rib(bulk)
    route = direct("192.0.2.0/24", "lan", "10.0.0.2")
    rib.update([route])
    rib.flush()
    rib.update((), [route])
    assert told(rib.flush()) == ["192.0.2.0/24 False"]


def test_a_static_route_follows_bgp_and_what_bgp_tracks_does_not() -> None:
    bulk = Bulk()
    rib = Rib(bulk)
    rib.update([LAN, static("172.16.0.0/16", "192.0.2.1")])
    rib.track(parse_address("192.0.2.1"))
    rib.track(parse_address("172.16.0.1"))
    rib.flush()
    assert {str(reach.address): reach.hops for reach in rib.reached()} == {"192.0.2.1": (), "172.16.0.1": ()}
    bulk.offer("192.0.2.0/24", "10.9.9.9")
    rib.bulk_changed()
    assert told(rib.flush()) == ["172.16.0.0/16 STATIC"]
    assert rib.reached() == [], "BGP's next hops do not hang on BGP"
    del bulk.best[parse_prefix("192.0.2.0/24")]
    rib.bulk_changed()
    assert told(rib.flush()) == ["172.16.0.0/16 False"]


def test_tracked_addresses_are_told_of_once_and_on_change() -> None:
    rib = Rib()
    address = parse_address("10.0.0.2")
    link_local = parse_address("fe80::1")
    rib.track(address)
    rib.track(link_local, "lan")
    rib.update([LAN])
    rib.flush()
    hop = Hop(HopKind.FORWARD, "lan", address)
    assert set(rib.reached()) == {
        Reach(address, "", (hop,), connected=True),
        Reach(link_local, "lan", (Hop(HopKind.FORWARD, "lan", link_local),), connected=True),
    }
    rib.update([direct("10.1.0.0/16", "lan", "10.0.0.9")])
    rib.flush()
    assert rib.reached() == []
    rib.link("lan", up=False)
    rib.flush()
    assert {(str(reach.address), reach.hops) for reach in rib.reached()} == {("10.0.0.2", ()), ("fe80::1", ())}
    rib.untrack(address)
    rib.link("lan", up=True)
    rib.update([direct("10.0.0.0/25", "wan", "10.9.0.1", metric=7)])
    rib.track(address)
    rib.flush()
    assert (Reach(address, "", (Hop(HopKind.FORWARD, "wan", parse_address("10.9.0.1")),), 7)) in rib.reached()


def test_only_what_a_change_concerns_is_looked_at_again() -> None:
    rib = Rib()
    rib.update([direct(f"10.{n}.0.0/16", "lan", f"10.{n}.0.1") for n in range(200)])
    for n in range(200):
        rib.track(parse_address(f"10.{n}.3.4"))
    rib.flush()
    assert len(rib.reached()) == 200
    looked: list[View] = []
    search = rib.resolver._search

    def watched(view: View) -> Way:
        looked.append(view)
        return search(view)

    rib.resolver._search = watched  # type: ignore[method-assign]
    rib.update([direct("10.7.0.0/16", "wan", "10.7.0.1"), direct("10.0.0.0/8", "wan", "10.0.0.1")])
    rib.flush()
    assert [str(reach.address) for reach in rib.reached()] == ["10.7.3.4"]
    assert len(looked) == 1


def test_stale_routes_stay_until_they_are_swept() -> None:
    rib = Rib()
    routes = [direct(f"10.{n}.0.0/16", "lan", "10.0.0.2") for n in range(3)]
    six = Route(parse_prefix("2001:db8::/32"), Protocol.OSPF, routes[0].hops, 110)
    rib.update([*routes, six])
    rib.flush()
    rib.mark_stale(Protocol.OSPF, 4)
    assert rib.is_stale(routes[0])
    assert not rib.is_stale(six)
    rib.update([routes[0]])
    assert rib.flush() == []
    rib.sweep(Protocol.OSPF)
    assert told(rib.flush()) == ["10.1.0.0/16 False", "10.2.0.0/16 False"]
    rib.withdraw_all(Protocol.OSPF)
    assert told(rib.flush()) == ["10.0.0.0/16 False", "2001:db8::/32 False"]


def test_events_are_joined_and_used_routes_listed() -> None:
    rib = Rib()
    first, second = direct("10.1.0.0/16", "lan", "10.0.0.2"), direct("10.1.0.0/16", "wan", "10.0.9.2")
    rib.update([LAN, first])
    rib.flush()
    rib.update([second])
    rib.flush()
    assert [(it.old, it.new) for it in rib.events() if it.prefix == first.prefix] == [(None, second)]
    rib.update((), [second])
    rib.flush()
    rib.update([second])
    rib.flush()
    assert rib.events() == []
    assert rib.used([Protocol.OSPF]) == [second]


def test_another_origin_is_told_but_not_written() -> None:
    rib = Rib()
    route = direct("10.1.0.0/16", "lan", "10.0.0.2")
    rib.update([route])
    rib.flush()
    rib.events()
    again = replace(route, origin="LSA 2", tag=7)
    rib.update([again])
    assert rib.flush() == []
    assert [it.new for it in rib.events()] == [again]
    assert rib.installed[route.prefix] == again


def test_explain_names_the_winner_and_why_others_lost() -> None:
    rib = Rib()
    heard = (Hop(HopKind.FORWARD, "lan", parse_address("10.0.0.3")),)
    origin = {"neighbor": "10.0.0.3", "message": b"\x02"}
    rib.update(
        [
            LAN,
            direct("192.0.2.0/24", "lan", "10.0.0.2", metric=20),
            static("192.0.2.0/24", "203.0.113.1"),
            Route(parse_prefix("192.0.2.0/24"), Protocol.RIP, heard, 120, origin=origin),
            direct("192.0.2.128/25", "wan", "10.0.1.2"),
            direct("0.0.0.0/0", "lan", "10.0.0.9"),
        ]
    )
    rib.link("wan", up=False)
    rib.flush()
    answer = explain(rib, parse_address("192.0.2.200"))
    assert answer["prefix"] == "192.0.2.0/24"
    assert [(it["prefix"], it["protocol"], it["state"], it["why"]) for it in answer["routes"]] == [
        ("192.0.2.128/25", "ospf", "unusable", "interface wan is down"),
        ("192.0.2.0/24", "static", "unusable", "next hop 203.0.113.1 cannot be reached"),
        ("192.0.2.0/24", "ospf", "used", "the most specific route that can be used"),
        ("192.0.2.0/24", "rip", "not-chosen", "preference 120, the route that is used has 110"),
        ("0.0.0.0/0", "ospf", "less-specific", "192.0.2.0/24 is more specific"),
    ]
    assert answer["routes"][3]["origin"] == {"neighbor": "10.0.0.3", "message": "02"}
    assert explain(rib, parse_address("2001:db8::1"))["prefix"] is None
    page = rows(rib, limit=2)
    assert [it["prefix"] for it in page] == ["0.0.0.0/0", "10.0.0.0/24"]
    rest = rows(rib, [Protocol.OSPF], after=parse_prefix("10.0.0.0/24"))
    assert [(it["prefix"], it["state"]) for it in rest] == [("192.0.2.0/24", "used"), ("192.0.2.128/25", "unusable")]


def test_explain_knows_what_bgp_alone_has() -> None:
    bulk = Bulk()
    bulk.offer("192.0.2.0/25", "10.9.9.9")
    rib = Rib(bulk)
    rib.update([LAN, direct("192.0.2.0/24", "lan", "10.0.0.2"), direct("192.0.2.0/26", "wan", "10.0.1.2")])
    rib.link("wan", up=False)
    rib.flush()
    address = parse_address("192.0.2.1")
    answer = explain(rib, address, bulk.lookup(address))
    assert answer["prefix"] == "192.0.2.0/25"
    assert [(it["prefix"], it["protocol"], it["state"]) for it in answer["routes"]] == [
        ("192.0.2.0/26", "ospf", "unusable"),
        ("192.0.2.0/25", "bgp", "used"),
        ("192.0.2.0/24", "ospf", "less-specific"),
    ]
    assert answer["routes"][2]["why"] == "192.0.2.0/25 is more specific"


def test_policies_see_the_path_attributes_of_a_redistributed_route() -> None:
    attributes = bytes.fromhex("4001010240020a02020000fdea00000d1c80040400000007c00804fdea0064")
    route = Route(parse_prefix("192.0.2.0/24"), Protocol.BGP, LAN.hops, 20, origin=attributes)
    view = route_view(route)
    assert (view.origin, view.med, view.communities) == (2, 7, (65002 << 16 | 100,))
    assert view.as_path == ((2, (65002, 3356)),)
    assert route_view(direct("10.1.0.0/16", "lan", "10.0.0.2", metric=9)).metric == 9
    broken = Route(route.prefix, Protocol.BGP, LAN.hops, 20, origin=b"\x40\x02\xff")
    assert route_view(broken).as_path in {None, ()}


def test_a_preference_of_255_is_never_used() -> None:
    rib = Rib()
    rib.update([LAN, static("192.0.2.0/24", "10.0.0.2", 255)])
    rib.flush()
    assert parse_prefix("192.0.2.0/24") not in rib.installed
    assert "never used" in explain(rib, parse_address("192.0.2.1"))["routes"][0]["why"]


def test_routes_that_need_each_other_in_many_ways_are_given_up() -> None:
    rib = Rib()
    addresses = [parse_address(f"10.{n}.0.1") for n in range(40)]
    for n in range(40):
        hops = tuple(Hop(HopKind.FORWARD, "", each) for each in addresses)
        rib.update([Route(parse_prefix(f"10.{n}.0.0/16"), Protocol.STATIC, hops, 1)])
    assert rib.flush() == []
