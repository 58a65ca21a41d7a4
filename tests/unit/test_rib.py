"""The routing table: derived routes, preference, recursion, links."""

from __future__ import annotations

import pytest

from fastpath._layout import CONSTANTS
from vrouter.config.router import Interface, RouterConfig, StaticHop, StaticRoute
from vrouter.net.address import Prefix, parse_address, parse_prefix
from vrouter.proto.base import RouteAdd, RouteDel, Setting
from vrouter.proto.static import Static
from vrouter.rib import connected
from vrouter.rib.rib import MAX_DEPTH, MAX_HOPS, MAX_WEIGHT, Rib
from vrouter.rib.route import Hop, HopKind, Protocol, Route

MAC = "02:00:00:00:00:01"


def derived(name: str, *addresses: str, kind: str = "ethernet") -> list[Route]:
    interface = Interface(name, kind, port=1, mac=MAC, addresses=addresses)  # type: ignore[arg-type]
    return [route for entry in connected.addresses(interface) for route in connected.routes(entry)]


def setting(*routes: StaticRoute) -> Setting:
    return Setting(RouterConfig("red", 1, static=routes))


def static(prefix: str, *hops: tuple[str | None, str | None, int]) -> Route:
    instance = Static()
    configured = StaticRoute(prefix, tuple(StaticHop(via, interface, weight) for via, interface, weight in hops))
    (output,) = instance.configure(setting(configured), 0.0).outputs
    assert isinstance(output, RouteAdd)
    return output.routes[0]


def via(prefix: str, address: str, interface: str | None = None) -> Route:
    return static(prefix, (address, interface, 1))


def shown(hops: tuple[Hop, ...]) -> list[str]:
    return [f"{hop.kind.name} {hop.via or '-'} {hop.interface or '-'} {hop.weight}" for hop in hops]


def table(rib: Rib) -> dict[str, list[str]]:
    return {str(prefix): shown(route.hops) for prefix, route in rib.installed.items()}


def flushed(rib: Rib) -> dict[str, list[str] | None]:
    return {str(change.prefix): shown(change.route.hops) if change.route else None for change in rib.flush()}


def test_numbers_are_those_of_the_abi() -> None:
    assert {kind.name: kind.value for kind in HopKind} == {
        name.removeprefix("NEXTHOP_"): value for name, value in CONSTANTS.items() if name.startswith("NEXTHOP_")
    }
    assert {protocol.name: protocol.value for protocol in Protocol} == {
        name.removeprefix("ROUTE_"): value for name, value in CONSTANTS.items() if name.startswith("ROUTE_")
    }
    assert CONSTANTS["MAX_GROUP_HOPS"] == MAX_HOPS
    assert MAX_HOPS * MAX_WEIGHT < 1 << 32


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (
            "10.0.0.1/24",
            {
                "10.0.0.1/32": "LOCAL", "10.0.0.0/24": "CONNECTED",
                "10.0.0.0/32": "BROADCAST", "10.0.0.255/32": "BROADCAST",
            },
        ),
        ("10.0.0.0/31", {"10.0.0.0/32": "LOCAL", "10.0.0.0/31": "CONNECTED"}),
        ("10.0.0.1/32", {"10.0.0.1/32": "LOCAL"}),
        ("fe80::5/64", {"fe80::5/128": "LOCAL"}),
        (
            "2001:db8::1/64",
            {
                "2001:db8::1/128": "LOCAL", "2001:db8::/64": "CONNECTED",
                "2001:db8::/128": "LOCAL", "fe80::ff:fe00:1/128": "LOCAL",
            },
        ),
        ("2001:db8::/127", {"2001:db8::/128": "LOCAL", "2001:db8::/127": "CONNECTED", "fe80::ff:fe00:1/128": "LOCAL"}),
        ("2001:db8::1/128", {"2001:db8::1/128": "LOCAL", "fe80::ff:fe00:1/128": "LOCAL"}),
    ],
)  # fmt: skip
def test_what_an_address_stands_for(address: str, expected: dict[str, str]) -> None:
    assert {str(route.prefix): route.hops[0].kind.name for route in derived("lan", address)} == expected


def test_a_loopback_has_addresses_only() -> None:
    routes = derived("lo", "10.255.0.1/24", "2001:db8::1/64", kind="loopback")
    assert {str(route.prefix) for route in routes} == {"10.255.0.1/32", "2001:db8::1/128"}


def test_a_configured_link_local_address_is_the_only_one() -> None:
    interface = Interface("lan", "ethernet", 1, mac=MAC, addresses=("2001:db8::1/64", "fe80::7/64"))
    assert [str(entry.address) for entry in connected.addresses(interface) if entry.link_local] == ["fe80::7"]


def test_link_local_is_modified_eui64() -> None:
    interface = Interface("lan", "ethernet", 1, mac="00:25:96:12:34:56", addresses=("2001:db8::1/64",))
    assert str(connected.addresses(interface)[1].address) == "fe80::225:96ff:fe12:3456"


def test_connected_beats_static() -> None:
    rib = Rib()
    rib.update([*derived("lan", "10.0.0.1/24"), via("10.0.0.0/24", "10.1.0.2", "wan")])
    rib.flush()
    assert table(rib)["10.0.0.0/24"] == ["CONNECTED - lan 1"]
    rib.link("lan", up=False)
    assert flushed(rib) == {
        "10.0.0.0/24": ["FORWARD 10.1.0.2 wan 1"],
        "10.0.0.0/32": None,
        "10.0.0.255/32": None,
    }
    rib.link("lan", up=True)
    assert flushed(rib)["10.0.0.0/24"] == ["CONNECTED - lan 1"]


def test_static_is_resolved_through_connected_and_follows_the_link() -> None:
    rib = Rib()
    rib.update([via("192.0.2.0/24", "10.0.0.2"), via("0.0.0.0/0", "10.0.0.2")])
    assert flushed(rib) == {}
    rib.update(derived("lan", "10.0.0.1/24"))
    assert flushed(rib)["192.0.2.0/24"] == ["FORWARD 10.0.0.2 lan 1"]
    rib.link("lan", up=False)
    gone = flushed(rib)
    assert gone["192.0.2.0/24"] is None
    assert gone["0.0.0.0/0"] is None
    assert set(table(rib)) == {"10.0.0.1/32"}, "an address of ours stays"
    rib.link("lan", up=True)
    assert flushed(rib)["0.0.0.0/0"] == ["FORWARD 10.0.0.2 lan 1"]


def test_a_hop_over_a_lost_link_leaves_its_group() -> None:
    rib = Rib()
    rib.update([*derived("a", "10.0.0.1/24"), *derived("b", "10.0.1.1/24")])
    rib.update([static("192.0.2.0/24", ("10.0.0.2", None, 3), ("10.0.1.2", None, 1))])
    rib.flush()
    assert table(rib)["192.0.2.0/24"] == ["FORWARD 10.0.0.2 a 3", "FORWARD 10.0.1.2 b 1"]
    rib.link("a", up=False)
    assert flushed(rib)["192.0.2.0/24"] == ["FORWARD 10.0.1.2 b 1"]


def test_weights_multiply_through_recursion() -> None:
    rib = Rib()
    rib.update([*derived("a", "10.0.0.1/24"), *derived("b", "10.0.1.1/24")])
    rib.update([
        static("172.16.0.0/24", ("10.0.0.2", None, 1), ("10.0.1.2", None, 2)),
        static("192.0.2.0/24", ("172.16.0.9", None, 1), ("10.0.0.7", None, 1)),
    ])  # fmt: skip
    rib.flush()
    assert table(rib)["192.0.2.0/24"] == ["FORWARD 10.0.0.2 a 1", "FORWARD 10.0.1.2 b 2", "FORWARD 10.0.0.7 a 3"]


def test_no_resolution_through_default_blackhole_or_own_address() -> None:
    rib = Rib()
    hole = Route(parse_prefix("172.17.0.0/16"), Protocol.STATIC, (Hop(HopKind.BLACKHOLE),), 1)
    rib.update([*derived("lan", "10.0.0.1/24"), via("0.0.0.0/0", "10.0.0.2"), hole])
    rib.update([via("192.0.2.0/24", "203.0.113.1"), via("192.0.3.0/24", "172.17.0.1"), via("192.0.4.0/24", "10.0.0.1")])
    rib.flush()
    assert not {"192.0.2.0/24", "192.0.3.0/24", "192.0.4.0/24"} & set(table(rib))
    assert table(rib)["172.17.0.0/16"] == ["BLACKHOLE - - 1"]


def test_routes_that_hold_each_other_up_fall_together() -> None:
    rib = Rib()
    ground = derived("lan", "20.0.0.9/24")
    rib.update([*ground, via("10.0.0.0/8", "20.0.0.1"), via("20.0.0.0/8", "10.0.0.1")])
    rib.flush()
    assert table(rib)["20.0.0.0/8"] == ["FORWARD 20.0.0.1 lan 1"]
    rib.update((), ground)
    rib.flush()
    assert table(rib) == {}


def test_a_long_chain_ends_without_recursion_error() -> None:
    rib = Rib()
    chain = [via(f"10.{n >> 8}.{n & 255}.0/24", f"10.{(n + 1) >> 8}.{(n + 1) & 255}.1") for n in range(5000)]
    rib.update(chain)
    rib.update(derived("lan", "10.19.136.9/24"))
    rib.flush()
    assert len(table(rib)) == MAX_DEPTH + 4


def test_two_interfaces_on_one_prefix_take_turns() -> None:
    rib = Rib()
    rib.update([*derived("a", "10.0.0.1/24"), *derived("b", "10.0.0.2/24")])
    rib.flush()
    assert table(rib)["10.0.0.0/24"] == ["CONNECTED - a 1"]
    rib.link("a", up=False)
    assert flushed(rib)["10.0.0.0/24"] == ["CONNECTED - b 1"]


def test_an_address_beats_the_broadcast_address_of_another_interface() -> None:
    rib = Rib()
    rib.update([*derived("a", "10.0.0.1/25"), *derived("b", "10.0.0.127/24")])
    rib.flush()
    assert table(rib)["10.0.0.127/32"] == ["LOCAL - b 1"]


def test_nothing_changes_nothing() -> None:
    rib = Rib()
    rib.update([*derived("lan", "10.0.0.1/24"), via("0.0.0.0/0", "10.0.0.2")])
    rib.flush()
    rib.update([*derived("lan", "10.0.0.1/24"), via("0.0.0.0/0", "10.0.0.2")])
    rib.link("lan", up=True)
    rib.link("elsewhere", up=False)
    assert rib.flush() == []


def test_too_many_hops_and_too_large_weights_fit_a_group() -> None:
    rib = Rib()
    rib.update([route for n in range(70) for route in derived(f"i{n}", f"10.0.{n}.1/24")])
    rib.update([static("192.0.2.0/24", *((f"10.0.{n}.2", None, 65535 - n) for n in range(64)))])
    rib.update([static("198.51.100.0/24", ("192.0.2.1", None, 1), *((f"10.0.{n}.3", None, n) for n in range(1, 64)))])
    rib.flush()
    for text in ("192.0.2.0/24", "198.51.100.0/24"):
        hops = rib.installed[parse_prefix(text)].hops
        assert len(hops) == MAX_HOPS
        assert min(hop.weight for hop in hops) >= 1
        assert sum(hop.weight for hop in hops) < 1 << 32


def test_lookup_is_longest_match() -> None:
    rib = Rib()
    rib.update([*derived("lan", "10.0.0.1/24"), via("0.0.0.0/0", "10.0.0.2"), via("10.0.0.128/25", "10.0.0.3")])
    rib.flush()
    for address, prefix in {"10.0.0.5": "10.0.0.0/24", "10.0.0.200": "10.0.0.128/25", "8.8.8.8": "0.0.0.0/0"}.items():
        route = rib.lookup(parse_address(address))
        assert route is not None
        assert str(route.prefix) == prefix
    assert rib.lookup(parse_address("2001:db8::1")) is None


def test_static_tells_only_differences() -> None:
    instance = Static()
    first = StaticRoute("10.0.0.0/8", (StaticHop("192.0.2.1"),))
    second = StaticRoute("172.16.0.0/12", (StaticHop(discard=True),))
    instance.configure(setting(first), 0.0)
    outputs = instance.configure(setting(second), 1.0).outputs
    assert [type(output) for output in outputs] == [RouteDel, RouteAdd]
    assert instance.configure(setting(second), 2.0).outputs == ()
    assert instance.show("routes", {}, 2.0) == {"routes": ["172.16.0.0/12"], "down": []}
    assert instance.deadline is None


def test_prefix_values_print_as_ipaddress_does() -> None:
    assert str(Prefix(6, 0x20010DB8 << 96, 32)) == "2001:db8::/32"
