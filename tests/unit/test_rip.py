"""RIPv2 and RIPng in a network in memory."""

from __future__ import annotations

import pytest

from tests.unit.datagram_world import World
from vrouter.config.rip import (
    Rip,
    RipAuthentication,
    RipDefault,
    RipInterface,
    RipKey,
    Ripng,
    RipngInterface,
    RipRedistribution,
    RipTimers,
)
from vrouter.config.router import RouterConfig
from vrouter.net.address import parse_address, parse_prefix
from vrouter.proto import base
from vrouter.proto.rip.instance import ripng, ripv2
from vrouter.rib.route import Hop, HopKind, Protocol, Route
from vrouter.wire.rip import ripv2 as wire
from vrouter.wire.rip.authentication import Key
from vrouter.wire.rip.packet import Command, Entry, Packet


def router(interfaces, **settings):
    return RouterConfig("r", 1, rip=Rip(interfaces=interfaces, **settings))


def plain(*names, **settings):
    return router({name: RipInterface() for name in names}, **settings)


def line(world, count, **settings):
    """Routers in a row, each with a loopback 10.255.0.N."""
    nodes = [world.node(f"r{i}", ripv2) for i in range(count)]
    for i, node in enumerate(nodes):
        world.segment((node, "lo", f"10.255.0.{i}/32"))
        if i:
            world.segment((nodes[i - 1], "right", f"10.0.{i}.1/24"), (node, "left", f"10.0.{i}.2/24"))
    for node in nodes:
        node.configure(plain("lo", "left", "right", **settings))
    return nodes


def reached(node):
    return {str(prefix): (route.metric, str(route.hops[0].via)) for prefix, route in node.routes.items()}


def test_routes_cross_a_line_of_routers_with_metrics_that_count_hops() -> None:
    world = World()
    nodes = line(world, 4)
    world.run(40)
    assert reached(nodes[0]) == {
        "10.0.2.0/24": (2, "10.0.1.2"),
        "10.0.3.0/24": (3, "10.0.1.2"),
        "10.255.0.1/32": (2, "10.0.1.2"),
        "10.255.0.2/32": (3, "10.0.1.2"),
        "10.255.0.3/32": (4, "10.0.1.2"),
    }
    route = nodes[0].routes[parse_prefix("10.255.0.3/32")]
    assert (route.protocol, route.preference, route.hops[0].interface) == (Protocol.RIP, 120, "right")


def test_triggered_updates_make_routes_known_long_before_the_next_regular_update() -> None:
    world = World()
    nodes = line(world, 4)
    world.run(20)
    assert "10.255.0.3/32" in reached(nodes[0])


def test_a_lost_link_is_known_everywhere_within_seconds() -> None:
    world = World()
    nodes = line(world, 4)
    world.run(60)
    nodes[2].link("right", up=False)
    world.run(16)
    assert "10.255.0.3/32" not in reached(nodes[0])
    assert "10.0.3.0/24" not in reached(nodes[1])
    row = nodes[0].instance.table.rows[parse_prefix("10.255.0.3/32")]
    assert row.garbage_at is not None
    world.run(130)
    assert parse_prefix("10.255.0.3/32") not in nodes[0].instance.table.rows
    nodes[2].link("right", up=True)
    world.run(20)
    assert "10.255.0.3/32" in reached(nodes[0])


def test_a_silent_neighbor_is_forgotten_after_the_timeout() -> None:
    world = World()
    nodes = line(world, 2)
    world.run(60)
    assert "10.255.0.1/32" in reached(nodes[0])
    world.cut.add(1 if (nodes[1], "left") in world.members[1] else 2)
    world.run(140)
    assert "10.255.0.1/32" in reached(nodes[0])
    world.run(60)
    assert reached(nodes[0]) == {}
    assert nodes[0].instance.show("neighbors", {}, world.now) == []


def test_routers_count_to_infinity_in_no_ring() -> None:
    world = World()
    nodes = [world.node(f"r{i}", ripv2) for i in range(3)]
    for i in range(3):
        world.segment((nodes[i], "right", f"10.0.{i}.1/24"), (nodes[(i + 1) % 3], "left", f"10.0.{i}.2/24"))
    world.segment((nodes[0], "stub", "172.16.0.1/16"))
    for node in nodes:
        node.configure(plain("left", "right", "stub"))
    world.run(60)
    assert "172.16.0.0/16" in reached(nodes[1])
    nodes[0].link("stub", up=False)
    world.run(150)
    assert "172.16.0.0/16" not in reached(nodes[1])
    assert "172.16.0.0/16" not in reached(nodes[2])


def test_split_horizon_poisons_what_came_from_there() -> None:
    world = World()
    nodes = line(world, 2)
    world.run(60)
    says = said_by(world, nodes[0], "right")
    assert says["10.255.0.0/32"] == 1
    assert says["10.255.0.1/32"] == 16


@pytest.mark.parametrize(("mode", "metric"), [("simple", None), ("disabled", 2)])
def test_other_split_horizons(mode, metric) -> None:
    world = World()
    nodes = line(world, 2)
    nodes[0].configure(router({"lo": RipInterface(), "right": RipInterface(split_horizon=mode)}))
    world.run(60)
    assert said_by(world, nodes[0], "right").get("10.255.0.1/32") == metric


def said_by(world, node, interface):
    """What the last regular update of a node said."""
    said: dict[str, int] = {}
    for at, sender, output in world.sent:
        if sender is node and output.interface == interface and at > world.now - 36:
            packet, _ = wire.decode(output.data)
            said |= {str(entry.prefix): entry.metric for entry in packet.entries}
    return said


KEYS = {
    "password": RipAuthentication(password="lab"),
    "md5": RipAuthentication(md5=(RipKey(key_id=7, key="secret"),)),
    "sha1": RipAuthentication(hmac_sha_1=(RipKey(key="secret"),)),
    "sha256": RipAuthentication(hmac_sha_256=(RipKey(key="a key that is longer than the digest is, by far: " * 2),)),
    "sha384": RipAuthentication(hmac_sha_384=(RipKey(key="secret"),)),
    "sha512": RipAuthentication(hmac_sha_512=(RipKey(key="secret"),)),
}


@pytest.mark.parametrize("first", [None, *KEYS])
@pytest.mark.parametrize("second", [None, "md5", "sha256", "password"])
def test_routes_pass_only_between_equal_keys(first, second) -> None:
    world = World()
    nodes = [world.node("a", ripv2), world.node("b", ripv2)]
    world.segment((nodes[0], "lan", "10.0.0.1/24"), (nodes[1], "lan", "10.0.0.2/24"))
    for node, key, net in zip(nodes, (first, second), ("172.16.0.1/16", "172.17.0.1/16"), strict=True):
        world.segment((node, "stub", net))
        node.configure(router({"lan": RipInterface(authentication=KEYS.get(key)), "stub": RipInterface(passive=True)}))
    world.run(40)
    assert bool(reached(nodes[0])) == bool(reached(nodes[1])) == (first == second)
    counters = nodes[0].instance.ports["lan"].counters
    assert bool(counters["bad-authentication"]) == (first != second)


def test_of_several_keys_all_are_taken_and_the_highest_signs() -> None:
    world = World()
    nodes = [world.node("a", ripv2), world.node("b", ripv2)]
    world.segment((nodes[0], "lan", "10.0.0.1/24"), (nodes[1], "lan", "10.0.0.2/24"))
    old, new = RipKey(key_id=1, key="old"), RipKey(key_id=2, key="new")
    for i, node in enumerate(nodes):
        world.segment((node, "stub", f"172.{16 + i}.0.1/16"))
    for keys in (((old,), (old,)), ((old, new), (old,)), ((old, new), (old, new)), ((new,), (old, new))):
        for node, mine in zip(nodes, keys, strict=True):
            lan = RipInterface(authentication=RipAuthentication(hmac_sha_256=mine))
            node.configure(router({"lan": lan, "stub": RipInterface()}))
        world.run(40)
        # In the second step b does not know yet what a signs with.
        assert reached(nodes[0]) == {"172.17.0.0/16": (2, "10.0.0.2")}
        if keys != ((old, new), (old,)):
            assert reached(nodes[1]) == {"172.16.0.0/16": (2, "10.0.0.1")}


def test_a_replayed_packet_is_refused() -> None:
    world = World()
    node = world.node("a", ripv2, boot=1000)
    world.segment((node, "lan", "10.0.0.1/24"))
    node.configure(router({"lan": RipInterface(authentication=KEYS["md5"])}))
    world.run(1)
    key = Key("md5", 7, b"secret")
    meta = base.Meta("lan", parse_address("10.0.0.2"), parse_address("224.0.0.9"), 1, 520, 520)
    for sequence, metric, expected in ((5, 1, 2), (6, 2, 3), (5, 3, 3), (6, 4, 5)):
        packet = Packet(Command.RESPONSE, (Entry(parse_prefix("10.9.0.0/16"), metric),))
        node.take(node.instance.received("udp", wire.encode(packet, key, sequence), meta, world.now))
        assert reached(node)["10.9.0.0/16"][0] == expected
    assert node.instance.ports["lan"].counters["bad-replayed"] == 1


def test_sequence_numbers_grow_over_a_restart() -> None:
    numbers = []
    for boot in (100, 150):
        world = World()
        node = world.node("a", ripv2, boot=boot)
        world.segment((node, "lan", "10.0.0.1/24"))
        node.configure(router({"lan": RipInterface(authentication=KEYS["md5"])}))
        world.run(45)
        numbers += [wire.decode(out.data, (Key("md5", 7, b"secret"),))[1] or 0 for _, _, out in world.sent]
    assert len(numbers) >= 4
    assert numbers == sorted(numbers)


def test_the_same_configuration_again_says_nothing() -> None:
    world = World()
    nodes = line(world, 3, redistribute=(RipRedistribution(protocol="static"),))
    world.run(70)
    for node in nodes:
        assert node.configure(plain("lo", "left", "right", redistribute=(RipRedistribution(protocol="static"),))) == []
        assert node.instance.table.changed == set()


def test_an_end_in_good_order_takes_everything_back() -> None:
    world = World()
    nodes = line(world, 3)
    world.run(60)
    nodes[0].configure(RouterConfig("r", 1))
    assert nodes[0].routes == {}
    assert nodes[0].sockets == {}
    assert nodes[0].instance.deadline is None
    world.run(6)
    assert "10.255.0.0/32" not in reached(nodes[2])
    nodes[0].configure(plain("lo", "right"))
    world.run(20)
    assert "10.255.0.0/32" in reached(nodes[2])


def test_metric_of_an_interface_is_added_and_changes_live() -> None:
    world = World()
    nodes = line(world, 2)
    world.run(40)
    nodes[0].configure(router({"lo": RipInterface(), "right": RipInterface(metric=5)}))
    assert reached(nodes[0])["10.255.0.1/32"][0] == 6
    nodes[0].configure(router({"lo": RipInterface(), "right": RipInterface(metric=15)}))
    assert "10.255.0.1/32" not in reached(nodes[0])
    nodes[0].configure(plain("lo", "right"))
    world.run(40)
    assert reached(nodes[0])["10.255.0.1/32"][0] == 2


def test_preference_and_paths_change_live() -> None:
    world = World()
    a, b, c = (world.node(name, ripv2) for name in "abc")
    world.segment((a, "lan", "10.0.0.1/24"), (b, "lan", "10.0.0.2/24"), (c, "lan", "10.0.0.3/24"))
    world.segment((b, "far", "10.1.0.2/24"), (c, "far", "10.1.0.3/24"))
    for node in (a, b, c):
        node.configure(plain("lan", "far", maximum_paths=2))
    world.run(70)
    prefix = parse_prefix("10.1.0.0/24")
    assert {str(hop.via) for hop in a.routes[prefix].hops} == {"10.0.0.2", "10.0.0.3"}
    a.configure(plain("lan", "far", maximum_paths=1, preference=90))
    assert len(a.routes[prefix].hops) == 1
    assert a.routes[prefix].preference == 90
    c.instance.stop(world.now)


def test_the_other_path_takes_over_at_once_when_one_of_two_is_lost() -> None:
    world = World()
    a, b, c = (world.node(name, ripv2) for name in "abc")
    world.segment((a, "ab", "10.0.1.1/24"), (b, "ab", "10.0.1.2/24"))
    world.segment((a, "ac", "10.0.2.1/24"), (c, "ac", "10.0.2.3/24"))
    world.segment((b, "far", "10.1.0.2/24"), (c, "far", "10.1.0.3/24"))
    for node in (a, b, c):
        node.configure(plain("ab", "ac", "far", maximum_paths=4))
    world.run(70)
    prefix = parse_prefix("10.1.0.0/24")
    assert len(a.routes[prefix].hops) == 2
    a.link("ab", up=False)
    assert [hop.interface for hop in a.routes[prefix].hops] == ["ac"]


def test_unicast_neighbors_hear_a_passive_interface() -> None:
    world = World()
    a, b, c = (world.node(name, ripv2) for name in "abc")
    world.segment((a, "lan", "10.0.0.1/24"), (b, "lan", "10.0.0.2/24"), (c, "lan", "10.0.0.3/24"))
    world.segment((a, "stub", "172.16.0.1/16"))
    a.configure(router({"lan": RipInterface(passive=True, neighbors=("10.0.0.2",)), "stub": RipInterface()}))
    b.configure(plain("lan"))
    c.configure(plain("lan"))
    world.run(40)
    assert "172.16.0.0/16" in reached(b)
    assert "172.16.0.0/16" not in reached(c) or reached(c)["172.16.0.0/16"][1] == "10.0.0.2"
    assert all(
        output.destination == parse_address("10.0.0.2")
        for _, sender, output in world.sent
        if sender is a and output.interface == "lan"
    )


def static(prefix, via, interface="lan", tag=0):
    return Route(
        parse_prefix(prefix),
        Protocol.STATIC,
        (Hop(HopKind.FORWARD, interface, parse_address(via)),),
        1,
        tag=tag,
    )


def test_redistribution_carries_tag_and_next_hop_and_ends() -> None:
    world = World()
    a, b, c = (world.node(name, ripv2) for name in "abc")
    world.segment((a, "lan", "10.0.0.1/24"), (b, "lan", "10.0.0.2/24"))
    world.segment((b, "far", "10.1.0.2/24"), (c, "far", "10.1.0.3/24"))
    outputs = a.configure(plain("lan", redistribute=(RipRedistribution(protocol="static", metric=3),)))
    assert base.Redistribute((Protocol.STATIC,)) in outputs
    b.configure(plain("lan", "far"))
    c.configure(plain("far"))
    route = static("192.168.0.0/16", "10.0.0.77", tag=99)
    event = base.RouteEvent(route.prefix, Protocol.STATIC, route)
    a.take(a.instance.routes_changed((event,), world.now))
    world.run(40)
    # The router behind the next hop speaks no RIP: b sends to it by the shortest way.
    assert reached(b)["192.168.0.0/16"] == (4, "10.0.0.77")
    assert reached(c)["192.168.0.0/16"] == (5, "10.1.0.2")
    assert c.routes[route.prefix].tag == 99
    a.take(a.instance.routes_changed((base.RouteEvent(route.prefix, Protocol.STATIC, None),), world.now))
    world.run(12)
    assert "192.168.0.0/16" not in reached(c)


def test_what_is_redistributed_does_not_hide_what_neighbors_say() -> None:
    """The RIB judges between the two: a static route of last resort must lose against RIP's."""
    world = World()
    a, b = world.node("a", ripv2), world.node("b", ripv2)
    world.segment((a, "lan", "10.0.0.1/24"), (b, "lan", "10.0.0.2/24"))
    for node in (a, b):
        node.configure(plain("lan", redistribute=(RipRedistribution(protocol="static"),)))
    prefix = parse_prefix("10.9.0.0/16")
    hop = (Hop(HopKind.FORWARD, "lan", parse_address("10.0.0.7")),)
    for node in (a, b):
        route = Route(prefix, Protocol.STATIC, hop, 250)
        node.take(node.instance.routes_changed((base.RouteEvent(prefix, Protocol.STATIC, route),), world.now))
    world.run(40)
    assert (a.routes[prefix].metric, a.routes[prefix].tag) == (2, 0)
    again = RipRedistribution(protocol="static", metric=5)
    for node, own, metric, tag in ((a, 7, 2, 0), (b, 77, 6, 77)):
        route = Route(prefix, Protocol.STATIC, hop, 250, tag=own)
        node.configure(plain("lan", redistribute=(again,)))
        node.take(node.instance.routes_changed((base.RouteEvent(prefix, Protocol.STATIC, route),), world.now))
        assert (a.routes[prefix].metric, a.routes[prefix].tag) == (2, 0)  # what b says, not what we do
        world.run(40)
        assert (a.routes[prefix].metric, a.routes[prefix].tag) == (metric, tag)
    a.take(a.instance.routes_changed((base.RouteEvent(prefix, Protocol.STATIC, None),), world.now))
    world.run(5)
    assert a.routes[prefix].metric > 0
    b.take(b.instance.routes_changed((base.RouteEvent(prefix, Protocol.STATIC, None),), world.now))
    world.run(5)
    assert prefix not in a.routes


def test_a_default_route_is_announced_on_request() -> None:
    world = World()
    nodes = line(world, 2)
    nodes[0].configure(plain("lo", "right", default_information=RipDefault(metric=4)))
    world.run(40)
    assert reached(nodes[1])["0.0.0.0/0"] == (5, "10.0.1.1")
    nodes[0].configure(plain("lo", "right"))
    world.run(10)
    assert "0.0.0.0/0" not in reached(nodes[1])


def response(*entries):
    return wire.encode(Packet(Command.RESPONSE, tuple(Entry(parse_prefix(text), metric) for text, metric in entries)))


@pytest.mark.parametrize(
    ("source", "port", "counter"),
    [("10.0.0.2", 5000, "bad-source"), ("10.9.0.2", 520, "bad-source"), ("10.0.0.1", 520, "")],
)
def test_only_neighbors_are_believed(source, port, counter) -> None:
    world = World()
    node = world.node("a", ripv2)
    world.segment((node, "lan", "10.0.0.1/24"))
    node.configure(plain("lan"))
    world.run(5)
    meta = base.Meta("lan", parse_address(source), parse_address("224.0.0.9"), 1, port, 520)
    node.take(node.instance.received("udp", response(("10.9.0.0/16", 1)), meta, world.now))
    assert node.routes == {}
    assert not counter or node.instance.ports["lan"].counters[counter] == 1


def test_a_route_by_ourselves_is_not_taken() -> None:
    world = World()
    node = world.node("a", ripv2)
    world.segment((node, "lan", "10.0.0.1/24"))
    node.configure(plain("lan"))
    world.run(5)
    entries = (
        Entry(parse_prefix("10.8.0.0/16"), 1, 0, parse_address("10.0.0.1")),
        Entry(parse_prefix("10.9.0.0/16"), 1, 0, parse_address("10.99.0.1")),
    )
    meta = base.Meta("lan", parse_address("10.0.0.2"), parse_address("224.0.0.9"), 1, 520, 520)
    node.take(node.instance.received("udp", wire.encode(Packet(Command.RESPONSE, entries)), meta, world.now))
    # A next hop elsewhere means the sender: RFC 2453 section 4.4.
    assert reached(node) == {"10.9.0.0/16": (2, "10.0.0.2")}


def test_who_is_no_neighbor_gets_no_answer() -> None:
    world = World()
    node = world.node("a", ripv2)
    world.segment((node, "lan", "10.0.0.1/24"))
    node.configure(plain("lan"))
    world.run(5)
    meta = base.Meta("lan", parse_address("192.0.2.1"), parse_address("10.0.0.1"), 64, 520, 520)
    asked = wire.encode(Packet(Command.REQUEST, whole=True))
    assert node.instance.received("udp", asked, meta, world.now) == []
    assert node.instance.ports["lan"].counters["bad-source"] == 1


def test_the_same_configuration_says_nothing_while_routes_end() -> None:
    world = World()
    nodes = line(world, 3)
    world.run(60)
    nodes[2].link("lo", up=False)
    world.run(20)
    assert nodes[0].instance.table.rows[parse_prefix("10.255.0.2/32")].garbage_at is not None
    nodes[0].policies = object()  # of another turn, with the same text
    assert nodes[0].configure(plain("lo", "left", "right")) == []
    assert nodes[0].instance.table.changed == set()


def test_version_1_is_ignored_and_counted() -> None:
    world = World()
    node = world.node("a", ripv2)
    world.segment((node, "lan", "10.0.0.1/24"))
    node.configure(plain("lan"))
    world.run(5)
    meta = base.Meta("lan", parse_address("10.0.0.2"), parse_address("10.0.0.255"), 1, 520, 520)
    data = bytearray(response(("10.9.0.0/16", 1)))
    data[1] = 1
    assert node.instance.received("udp", bytes(data), meta, world.now) == []
    assert node.instance.ports["lan"].counters["bad-version"] == 1


def test_a_request_for_some_routes_is_answered_without_split_horizon() -> None:
    world = World()
    nodes = line(world, 2)
    world.run(60)
    asked = Packet(
        Command.REQUEST,
        (Entry(parse_prefix("10.255.0.1/32"), 0), Entry(parse_prefix("10.77.0.0/16"), 0)),
    )
    meta = base.Meta("right", parse_address("10.0.1.9"), parse_address("10.0.1.1"), 64, 40000, 520)
    (answer,) = nodes[0].instance.received("udp", wire.encode(asked), meta, world.now)
    assert (answer.destination, answer.port) == (meta.source, 40000)
    entries = wire.decode(answer.data)[0].entries
    assert [entry.metric for entry in entries] == [2, 16]


def test_large_tables_need_several_packets() -> None:
    world = World()
    a, b = world.node("a", ripv2), world.node("b", ripv2)
    world.segment((a, "lan", "10.0.0.1/24"), (b, "lan", "10.0.0.2/24"))
    a.configure(plain("lan", redistribute=(RipRedistribution(protocol="static"),)))
    b.configure(plain("lan"))
    routes = [static(f"172.16.{i}.0/24", "10.99.0.1", "other") for i in range(100)]
    events = tuple(base.RouteEvent(route.prefix, Protocol.STATIC, route) for route in routes)
    a.take(a.instance.routes_changed(events, world.now))
    world.run(40)
    assert len(b.routes) == 100
    assert all(len(output.data) <= 504 for _, _, output in world.sent)


def test_a_taken_port_is_tried_again() -> None:
    world = World()
    node = world.node("a", ripv2)
    world.segment((node, "lan", "10.0.0.1/24"))
    answer = node.instance.configure(base.Setting(plain("lan")), world.now)
    assert any(isinstance(output, base.OpenSocket) for output in answer.outputs)
    (line,) = node.instance.closed("udp", 98, world.now)
    assert isinstance(line, base.Log)
    assert node.instance.deadline == world.now + 10
    world.run(11)
    assert "udp" in node.sockets
    assert any(isinstance(output, base.Transmit) for output in node.outputs)


def test_after_a_restart_it_settles_when_neighbors_had_time_to_answer() -> None:
    world = World()
    node = world.node("a", ripv2, restarted=True)
    node.configure(plain("lan", timers=RipTimers(update=10.0)))
    world.run(5)
    assert base.Settled(Protocol.RIP) not in node.outputs
    world.run(6)
    assert node.outputs.count(base.Settled(Protocol.RIP)) == 1


def test_clear_forgets_and_asks_again() -> None:
    world = World()
    nodes = line(world, 2)
    world.run(40)
    nodes[0].take(nodes[0].instance.clear("routes", {}, world.now))
    assert reached(nodes[0]) == {}
    world.run(1)
    assert "10.255.0.1/32" in reached(nodes[0])
    with pytest.raises(KeyError):
        nodes[0].instance.clear("nothing", {}, world.now)


def test_show_tells_plain_data() -> None:
    world = World()
    nodes = line(world, 2)
    world.run(40)
    show = nodes[0].instance.show
    assert show("summary", {}, world.now)["routes"] == 3
    (neighbor,) = show("neighbors", {}, world.now)
    assert (neighbor["address"], neighbor["interface"], neighbor["routes"]) == ("10.0.1.2", "right", 2)
    kinds = {row["prefix"]: row["kind"] for row in show("routes", {}, world.now)["routes"]}
    assert kinds == {"10.0.1.0/24": "connected", "10.255.0.0/32": "connected", "10.255.0.1/32": "rip"}
    assert {row["interface"]: row["state"] for row in show("interfaces", {}, world.now)} == {
        "left": "down",
        "lo": "networks only",
        "right": "active",
    }
    with pytest.raises(KeyError):
        show("nothing", {}, world.now)


# --- RIPng ---


def ng(interfaces, **settings):
    return RouterConfig("r", 1, ripng=Ripng(interfaces=interfaces, **settings))


def ng_pair(world):
    a, b = world.node("a", ripng), world.node("b", ripng)
    world.segment((a, "lan", "2001:db8:1::1/64", "fe80::1/64"), (b, "lan", "2001:db8:1::2/64", "fe80::2/64"))
    world.segment((a, "stub", "2001:db8:a::1/64", "fe80::1/64"))
    world.segment((b, "stub", "2001:db8:b::1/64", "fe80::1/64"))
    for node in (a, b):
        node.configure(ng({"lan": RipngInterface(), "stub": RipngInterface()}))
    return a, b


def test_ripng_learns_by_link_local_addresses() -> None:
    world = World()
    a, b = ng_pair(world)
    world.run(40)
    assert reached(a) == {"2001:db8:b::/64": (2, "fe80::2")}
    assert reached(b) == {"2001:db8:a::/64": (2, "fe80::1")}
    assert all(output.source is not None and output.source.value >> 112 == 0xFE80 for _, _, output in world.sent)


@pytest.mark.parametrize(
    ("source", "port", "ttl"), [("2001:db8:1::9", 521, 255), ("fe80::9", 522, 255), ("fe80::9", 521, 254)]
)
def test_ripng_believes_only_neighbors(source, port, ttl) -> None:
    from vrouter.wire.rip import ripng as ng_wire

    world = World()
    a, _ = ng_pair(world)
    world.run(5)
    before = dict(a.routes)
    packet = ng_wire.encode(Packet(Command.RESPONSE, (Entry(parse_prefix("2001:db8:77::/48"), 1),)))
    meta = base.Meta("lan", parse_address(source), parse_address("ff02::9"), ttl, port, 521)
    a.take(a.instance.received("udp", packet, meta, world.now))
    assert a.routes == before
    assert a.instance.ports["lan"].counters["bad-source"] == 1


def test_ripng_splits_by_mtu_and_keeps_next_hops() -> None:
    world = World()
    a, b = world.node("a", ripng), world.node("b", ripng)
    world.segment((a, "lan", "2001:db8:1::1/64", "fe80::1/64"), (b, "lan", "2001:db8:1::2/64", "fe80::2/64"))
    a.configure(ng({"lan": RipngInterface()}, redistribute=(RipRedistribution(protocol="static"),)))
    b.configure(ng({"lan": RipngInterface()}))
    routes = [static(f"2001:db8:{i:x}::/48", f"fe80::{7 + i % 2:x}") for i in range(2, 150)]
    a.take(a.instance.routes_changed(tuple(base.RouteEvent(r.prefix, Protocol.STATIC, r) for r in routes), world.now))
    world.run(40)
    assert len(b.routes) == 148
    assert {str(route.hops[0].via) for route in b.routes.values()} == {"fe80::7", "fe80::8"}
    assert all(len(output.data) + 48 <= 1500 for _, _, output in world.sent)


def test_a_lossy_network_converges_in_the_end() -> None:
    world = World(seed=7)
    nodes = line(world, 4)
    world.impair = lambda data: None if world.rng.random() < 0.3 else data
    world.run(300)
    world.impair = lambda data: data
    world.run(100)
    assert len(reached(nodes[0])) == 5
    assert len(reached(nodes[3])) == 5
