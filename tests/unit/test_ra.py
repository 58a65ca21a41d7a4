"""Router advertisements: bytes, times, and what hosts are told when things change."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.datagram_world import Node, World
from vrouter.config.ra import Ra, RaPrefix
from vrouter.config.router import Interface, RouterConfig
from vrouter.net.address import IPV6, Address, network, parse_address, parse_prefix
from vrouter.proto import base
from vrouter.proto.ra import RouterAdvertisements
from vrouter.wire import ra as wire

ALL_NODES = parse_address("ff02::1")


def start(ra: Ra | None = None, *addresses: str) -> tuple[World, Node]:
    world = World()
    node = world.node("red", RouterAdvertisements)
    world.segment((node, "lan", "fe80::1/64", *(addresses or ("2001:db8:a:1::1/64",))))
    configure(node, ra or Ra())
    return world, node


def configure(node: Node, ra: Ra | None) -> list[base.Output]:
    return node.configure(RouterConfig("red", 1, (Interface("lan", "ethernet", ra=ra),)))


def heard(world: World, since: float = 0) -> list[tuple[float, wire.Advertisement]]:
    found = []
    for at, _, output in world.sent:
        if at >= since:
            message = wire.decode(output.data)
            assert isinstance(message, wire.Advertisement)
            assert (output.destination, output.source) == (ALL_NODES, parse_address("fe80::1"))
            found.append((at, message))
    return found


def solicit(world: World, node: Node, source: str = "fe80::9", ttl: int = 255, data: bytes | None = None) -> None:
    meta = base.Meta("lan", parse_address(source), parse_address("ff02::2"), ttl)
    packet = wire.encode(wire.Solicitation()) if data is None else data
    assert node.instance.received("icmp6", packet, meta, world.now) == []


def test_what_hosts_are_told() -> None:
    ra = Ra(
        interval=60.0,
        preference="high",
        other=True,
        reachable_time=30.0,
        retransmit_time=1.5,
        dns_servers=("2001:db8::53",),
        dns_search=("red.example", "example.org"),
        prefixes={"2001:db8:b::/48": RaPrefix(on_link=False, autonomous=False, valid_lifetime=60.0)},
    )
    world, node = start(ra)
    world.run(2)
    ((_, message),) = heard(world)
    assert message == wire.Advertisement(
        180,
        64,
        other=True,
        preference=wire.Preference.HIGH,
        reachable_ms=30000,
        retransmit_ms=1500,
        mac=bytes.fromhex(node.links["lan"].mac.replace(":", "")),
        mtu=1500,
        prefixes=(
            wire.PrefixInformation(parse_prefix("2001:db8:a:1::/64"), 2592000, 604800),
            wire.PrefixInformation(parse_prefix("2001:db8:b::/48"), 60, 60, on_link=False, autonomous=False),
        ),
        dns_servers=(wire.DnsServers(180, (parse_address("2001:db8::53"),)),),
        dns_search=(wire.DnsSearch(180, ("red.example", "example.org")),),
    )


def test_the_first_come_fast_and_the_others_within_the_interval() -> None:
    world, _ = start(Ra(interval=100.0))
    world.run(3000)
    times = [at for at, _ in heard(world)]
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert all(gap <= 16 for gap in gaps[:2])
    assert all(100 / 3 <= gap <= 100 for gap in gaps[2:])
    assert len(set(gaps[2:])) > 10


def test_a_solicitation_is_answered_soon_but_not_too_often() -> None:
    world, node = start()
    world.run(100)
    begin = world.now
    for _ in range(20):
        solicit(world, node)
        world.run(0.1)
    world.run(5)
    times = [at - begin for at, _ in heard(world, begin)]
    assert 1 <= len(times) <= 3
    assert 0 <= times[0] <= 0.5
    assert all(after - before >= 3 for before, after in itertools.pairwise(times))


@pytest.mark.parametrize(
    ("source", "ttl", "data"),
    [
        ("fe80::9", 64, None),
        ("::", 255, wire.encode(wire.Solicitation(b"\2\0\0\0\0\1"))),
        ("fe80::9", 255, b"\x85\0\0\0"),
        ("fe80::9", 255, b"\x85\0\0\0\0\0\0\0\1\0"),
    ],
)
def test_a_bad_solicitation_is_counted_and_not_answered(source, ttl, data) -> None:
    world, node = start()
    world.run(100)
    due = node.instance.deadline
    solicit(world, node, source, ttl, data)
    assert node.instance.deadline == due
    (shown,) = node.instance.show("interfaces", {}, world.now)
    assert sum(count for name, count in shown["counters"].items() if name.startswith("bad-")) == 1


def test_an_end_in_good_order_takes_the_default_route_away() -> None:
    world, node = start()
    world.run(100)
    begin = world.now
    configure(node, None)
    ((_, message),) = heard(world, begin)
    assert message.lifetime == 0
    assert message.prefixes[0].valid == 2592000
    assert node.sockets == {}
    assert node.instance.deadline is None
    configure(node, Ra())
    world.run(1)
    begin = world.now
    node.take(node.instance.stop(world.now))
    assert [message.lifetime for _, message in heard(world, begin)] == [0]


def test_an_old_prefix_is_announced_as_gone() -> None:
    world, node = start()
    world.run(100)
    own = node.links["lan"].addresses[0]
    new = base.OwnAddress(parse_address("2001:db8:c::1"), 64)
    begin = world.now
    node.link("lan", addresses=(own, new))
    world.run(120)
    told = [{str(info.prefix): info.valid for info in message.prefixes} for _, message in heard(world, begin)]
    assert told[0] == {"2001:db8:c::/64": 2592000, "2001:db8:a:1::/64": 0}
    world.run(3000)
    assert heard(world)[-1][1].prefixes[0].prefix == parse_prefix("2001:db8:c::/64")
    assert len(heard(world)[-1][1].prefixes) == 1


def test_changes_are_told_soon_and_the_same_again_says_nothing() -> None:
    world, node = start()
    world.run(100)
    due = node.instance.deadline
    assert configure(node, Ra()) == []
    assert node.instance.deadline == due
    begin = world.now
    configure(node, Ra(preference="low", managed=True))
    world.run(4)
    (_, message), *_ = heard(world, begin)
    assert (message.preference, message.managed) == (wire.Preference.LOW, True)


def test_no_default_router_has_no_preference() -> None:
    world, _ = start(Ra(lifetime=0.0, preference="high"))
    world.run(1)
    message = heard(world)[0][1]
    assert (message.lifetime, message.preference) == (0, wire.Preference.MEDIUM)


def test_a_link_that_comes_back_is_advertised_on_at_once() -> None:
    world, node = start()
    world.run(100)
    node.link("lan", up=False)
    begin = world.now
    world.run(700)
    assert heard(world, begin) == []
    node.link("lan", up=True)
    world.run(1)
    assert len(heard(world, begin)) == 1


def test_without_a_socket_it_tries_again() -> None:
    world, node = start()
    node.take(node.instance.closed("icmp6", 1, world.now))
    node.sockets.clear()
    world.run(12)
    assert "icmp6" in node.sockets
    assert heard(world)


def test_prefixes_of_other_lengths_are_not_for_addresses() -> None:
    world, _ = start(None, "2001:db8::1/80", "2001:db8:1::1/128")
    world.run(1)
    (info,) = heard(world)[0][1].prefixes
    assert (str(info.prefix), info.autonomous) == ("2001:db8::/80", False)


labels = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=20)
lifetimes = st.integers(0, 2**32 - 1)
addresses = st.integers(1, 2**128 - 1).map(lambda value: Address(IPV6, value))


@st.composite
def advertisements(draw: Any) -> wire.Advertisement:
    infos = draw(
        st.lists(
            st.builds(
                lambda address, length, valid, preferred, link, auto: wire.PrefixInformation(
                    network(address, length), valid, preferred, link, auto
                ),
                addresses,
                st.integers(0, 128),
                lifetimes,
                lifetimes,
                st.booleans(),
                st.booleans(),
            ),
            max_size=4,
        )
    )
    domains = st.lists(st.lists(labels, min_size=1, max_size=4).map(".".join), min_size=1, max_size=3).map(tuple)
    return wire.Advertisement(
        draw(st.integers(0, 65535)),
        draw(st.integers(0, 255)),
        draw(st.booleans()),
        draw(st.booleans()),
        draw(st.sampled_from(wire.Preference)),
        draw(lifetimes),
        draw(lifetimes),
        draw(st.one_of(st.just(b""), st.binary(min_size=6, max_size=6))),
        draw(lifetimes),
        tuple(infos),
        tuple(
            draw(
                st.lists(st.builds(wire.DnsServers, lifetimes, st.lists(addresses, min_size=1).map(tuple)), max_size=2)
            )
        ),
        tuple(draw(st.lists(st.builds(wire.DnsSearch, lifetimes, domains), max_size=2))),
    )


@given(advertisements())
def test_advertisements_come_out_as_they_went_in(message) -> None:
    data = wire.encode(message)
    assert len(data) % 8 == 0
    assert wire.decode(data) == message


@given(st.binary(max_size=300), st.sampled_from([b"", b"\x86\0", b"\x85\0"]))
def test_no_bytes_crash_the_decoder(data, head) -> None:
    with contextlib.suppress(wire.RaError):
        wire.decode(head + data)


@given(st.lists(st.binary(max_size=100), max_size=5))
def test_no_packets_crash_the_instance(packets) -> None:
    world, node = start()
    world.run(1)
    for packet in packets:
        solicit(world, node, data=packet)
        solicit(world, node, data=b"\x85\0" + packet)
    world.run(1)
