"""Routes leak between the routers of a patch link, and only where both ends want it."""

from __future__ import annotations

import contextlib
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.datagram_world import Node, World
from vrouter.config.leak import Leak as Settings
from vrouter.config.router import Interface, RouterConfig
from vrouter.net.address import parse_address, parse_prefix
from vrouter.proto import base
from vrouter.proto.leak.instance import Leak
from vrouter.rib.route import Hop, HopKind, Protocol, Route
from vrouter.wire import leak as wire

ALL = Settings(protocols=("connected", "static"))
FURTHER = Settings(protocols=("connected", "static", "leak"))


def configure(node: Node, **links: Settings | None) -> list[base.Output]:
    interfaces = tuple(Interface(name, "ethernet", leak=settings) for name, settings in links.items())
    return node.configure(RouterConfig(node.name, 1, interfaces))


def use(node: Node, prefix: str, protocol: Protocol = Protocol.STATIC, interface: str = "lan", **more: Any) -> None:
    """Let the RIB of a node use a route."""
    route = Route(parse_prefix(prefix), protocol, (Hop(HopKind.CONNECTED, interface),), **more)
    event = base.RouteEvent(route.prefix, protocol, route)
    node.take(node.instance.routes_changed((event,), node.world.now))


def lose(node: Node, prefix: str, protocol: Protocol = Protocol.STATIC) -> None:
    event = base.RouteEvent(parse_prefix(prefix), protocol, None)
    node.take(node.instance.routes_changed((event,), node.world.now))


def pair(world: World, *addresses: str) -> tuple[Node, Node]:
    red, blue = world.node("red", Leak), world.node("blue", Leak)
    first, second = addresses or ("169.254.0.0/31", "169.254.0.1/31")
    world.segment((red, "to-blue", *first.split()), (blue, "to-red", *second.split()))
    return red, blue


def ways(node: Node) -> dict[str, str]:
    return {str(prefix): str(route.hops[0].via) for prefix, route in node.routes.items()}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("169.254.0.0/31", "169.254.0.1/31"),
        ("169.254.0.1/31", "169.254.0.0/31"),
        ("10.0.0.1/24 fe80::1/64", "10.0.0.2/24 fe80::2/64"),
        ("10.0.0.9/24 fe80::2/64", "10.0.0.2/24"),
    ],
)
def test_routes_cross_the_link_both_ways(first, second) -> None:
    world = World()
    red, blue = pair(world, first, second)
    configure(red, **{"to-blue": ALL})
    configure(blue, **{"to-red": ALL})
    use(red, "10.1.0.0/16", tag=7)
    use(blue, "10.2.0.0/16", Protocol.CONNECTED)
    world.run(8)
    use(blue, "10.3.0.0/16")
    world.run(1)
    assert set(ways(red)) == {"10.2.0.0/16", "10.3.0.0/16"}
    assert set(ways(blue)) == {"10.1.0.0/16"}
    route = blue.routes[parse_prefix("10.1.0.0/16")]
    assert (route.protocol, route.preference, route.tag) == (Protocol.LEAK, 150, 7)
    assert str(route.hops[0].via) == first.split()[0].partition("/")[0]
    assert route.hops[0].interface == "to-red"
    lose(red, "10.1.0.0/16")
    world.run(1)
    assert ways(blue) == {}


def test_ipv6_routes_use_the_link_local_address() -> None:
    world = World()
    red, blue = pair(world, "169.254.0.0/31 fe80::1/64", "169.254.0.1/31 fe80::2/64")
    configure(red, **{"to-blue": ALL})
    configure(blue, **{"to-red": ALL})
    use(red, "2001:db8:1::/48")
    world.run(8)
    assert ways(blue) == {"2001:db8:1::/48": "fe80::1"}


def test_nothing_leaks_where_one_end_does_not_want_it() -> None:
    world = World()
    red, blue = pair(world)
    configure(red, **{"to-blue": ALL})
    configure(blue, **{"to-red": None})
    use(red, "10.1.0.0/16")
    world.run(60)
    assert ways(blue) == {}
    configure(blue, **{"to-red": Settings(enabled=False, protocols=("static",))})
    world.run(60)
    assert ways(blue) == {}
    configure(blue, **{"to-red": ALL})
    world.run(8)
    assert ways(blue) == {"10.1.0.0/16": "169.254.0.0"}
    configure(blue, **{"to-red": None})
    assert ways(blue) == {}
    world.run(1)
    assert red.instance.show("links", {}, world.now)[0]["state"] != "established"


def test_only_the_protocols_that_are_named_leak() -> None:
    world = World()
    red, blue = pair(world)
    outputs = configure(red, **{"to-blue": Settings(protocols=("static",))})
    assert base.Redistribute((Protocol.STATIC,)) in outputs
    configure(blue, **{"to-red": Settings()})
    use(red, "10.1.0.0/16")
    use(red, "10.2.0.0/16", Protocol.CONNECTED)
    world.run(8)
    assert set(ways(blue)) == {"10.1.0.0/16"}
    configure(red, **{"to-blue": Settings(protocols=("static", "connected"))})
    use(red, "10.2.0.0/16", Protocol.CONNECTED)
    world.run(1)
    assert set(ways(blue)) == {"10.1.0.0/16", "10.2.0.0/16"}


def test_what_leaves_by_the_link_is_not_told_there() -> None:
    world = World()
    red, blue = pair(world)
    configure(red, **{"to-blue": ALL})
    configure(blue, **{"to-red": ALL})
    use(red, "169.254.0.0/31", Protocol.CONNECTED, "to-blue")
    use(red, "127.0.0.0/8", Protocol.CONNECTED, "lo")
    world.run(8)
    assert ways(blue) == {}


@pytest.mark.parametrize("how", ["link", "cut", "died", "stopped"])
def test_leaked_routes_go_with_the_session_and_come_back(how) -> None:
    world = World()
    red, blue = pair(world)
    configure(red, **{"to-blue": ALL})
    configure(blue, **{"to-red": ALL})
    use(red, "10.1.0.0/16")
    world.run(8)
    assert ways(blue)
    if how == "link":
        blue.link("to-red", up=False)
        assert ways(blue) == {}
        blue.link("to-red", up=True)
    elif how == "died":
        blue_instance = red.instance
        red.die()
        red.instance = Leak(base.Environment(world.rng))
        world.run(1)
        assert ways(blue)  # the other router's control may come back
        world.run(30)
        assert ways(blue) == {}
        red.take(red.instance.interface_changed(red.links["to-blue"], world.now))
        configure(red, **{"to-blue": ALL})
        use(red, "10.1.0.0/16")
        assert blue_instance is not red.instance
    elif how == "stopped":
        red.take(red.instance.stop(world.now))
        world.run(1)
        assert ways(blue) == {}
        assert red.instance.deadline is None
        configure(red, **{"to-blue": ALL})
        use(red, "10.1.0.0/16")
    else:
        red.ends.clear()
        blue.ends.clear()
        world.run(36)
        assert any(isinstance(output, base.Log) and "silent" in output.message for output in blue.outputs)
        assert ways(blue)
    world.run(40)
    assert ways(blue) == {"10.1.0.0/16": "169.254.0.0"}


def ring(world: World, count: int = 3) -> list[Node]:
    nodes = [world.node(f"r{i}", Leak) for i in range(count)]
    for i, node in enumerate(nodes):
        after = nodes[(i + 1) % count]
        world.segment((node, "right", f"169.254.{i}.0/31"), (after, "left", f"169.254.{i}.1/31"))
    return nodes


def test_routes_of_other_links_are_handed_on_but_never_in_a_ring() -> None:
    world = World()
    nodes = ring(world, 4)
    for node in nodes:
        configure(node, left=FURTHER, right=FURTHER)
    use(nodes[0], "10.1.0.0/16")
    seen: dict[str, Any] = {}
    for _ in range(30):
        world.run(1)
        for node in nodes:
            # What the RIB would choose comes back as a route in use.
            best = node.routes.get(parse_prefix("10.1.0.0/16"))
            if node is not nodes[0] and seen.get(node.name) != best:
                seen[node.name] = best
                event = base.RouteEvent(parse_prefix("10.1.0.0/16"), Protocol.LEAK, best)
                node.take(node.instance.routes_changed((event,), world.now))
    assert nodes[0].routes == {}
    assert nodes[2].routes[parse_prefix("10.1.0.0/16")].origin.path in {("r0", "r1"), ("r0", "r3")}
    lose(nodes[0], "10.1.0.0/16")
    for _ in range(30):
        world.run(1)
        for node in nodes[1:]:
            best = node.routes.get(parse_prefix("10.1.0.0/16"))
            if seen.get(node.name) != best:
                seen[node.name] = best
                event = base.RouteEvent(parse_prefix("10.1.0.0/16"), Protocol.LEAK, best)
                node.take(node.instance.routes_changed((event,), world.now))
    assert all(node.routes == {} for node in nodes)


def test_the_same_configuration_again_says_nothing() -> None:
    world = World()
    red, blue = pair(world)
    configure(red, **{"to-blue": ALL})
    configure(blue, **{"to-red": ALL})
    use(red, "10.1.0.0/16")
    world.run(8)
    assert configure(red, **{"to-blue": ALL}) == []
    assert configure(blue, **{"to-red": ALL}) == []


def test_preference_changes_live() -> None:
    world = World()
    red, blue = pair(world)
    configure(red, **{"to-blue": ALL})
    configure(blue, **{"to-red": ALL})
    use(red, "10.1.0.0/16")
    world.run(8)
    (output,) = configure(blue, **{"to-red": Settings(preference=90)})[-1:]
    assert isinstance(output, base.RouteAdd)
    assert blue.routes[parse_prefix("10.1.0.0/16")].preference == 90


def test_too_many_routes_end_the_session_for_a_while() -> None:
    world = World()
    red, blue = pair(world)
    configure(red, **{"to-blue": ALL})
    configure(blue, **{"to-red": Settings(max_routes=3)})
    for i in range(5):
        use(red, f"10.{i}.0.0/16")
    world.run(10)
    assert ways(blue) == {}
    assert blue.instance.show("links", {}, world.now)[0]["counters"]["failures"] == 1
    for i in range(3):
        lose(red, f"10.{i}.0.0/16")
    world.run(60)
    assert len(ways(blue)) == 2


def test_thousands_of_routes_cross_in_pieces() -> None:
    world = World()
    red, blue = pair(world)
    configure(red, **{"to-blue": ALL})
    configure(blue, **{"to-red": Settings(max_routes=20000)})
    for i in range(9000):
        use(red, f"10.{i >> 8}.{i & 255}.0/24")
    world.run(10)
    assert len(blue.routes) == 9000
    pages, after = [], None
    while True:
        page = blue.instance.show("routes", {"after": after, "limit": 700}, world.now)
        pages += [route["prefix"] for route in page["routes"]]
        after = page["after"]
        if after is None:
            break
    assert len(pages) == len(set(pages)) == 9000


def test_after_a_restart_it_settles_when_all_links_have_spoken() -> None:
    world = World()
    red, blue = pair(world)
    blue.instance = Leak(base.Environment(world.rng, restarted=True))
    blue.take(blue.instance.interface_changed(blue.links["to-red"], world.now))
    configure(red, **{"to-blue": ALL})
    configure(blue, **{"to-red": ALL})
    use(red, "10.1.0.0/16")
    world.run(5)
    place = blue.outputs.index(base.Settled(Protocol.LEAK))
    assert any(isinstance(output, base.RouteAdd) for output in blue.outputs[:place])


@pytest.mark.parametrize("away", [1, 12])  # soon; attempts to connect have been refused meanwhile
def test_routes_stay_while_the_other_control_restarts_and_what_is_not_said_again_goes(away: float) -> None:
    world = World()
    red, blue = pair(world)
    configure(red, **{"to-blue": ALL})
    configure(blue, **{"to-red": ALL})
    for number in range(3):
        use(red, f"10.{number}.0.0/16")
    world.run(8)
    assert len(ways(blue)) == 3
    blue.outputs.clear()
    red.die()
    world.run(away)
    red.instance = Leak(base.Environment(world.rng, restarted=True))
    red.take(red.instance.interface_changed(red.links["to-blue"], world.now))
    configure(red, **{"to-blue": ALL})
    use(red, "10.0.0.0/16")
    world.run(20)
    use(red, "10.1.0.0/16")  # a protocol that takes its time
    world.run(5)
    assert not any(isinstance(output, base.RouteDel) for output in blue.outputs)
    assert blue.instance.show("links", {}, world.now)[0]["stale"] == 1
    world.run(20)
    assert set(ways(blue)) == {"10.0.0.0/16", "10.1.0.0/16"}
    assert not any(isinstance(output, base.RouteAdd) for output in blue.outputs)  # nothing had moved


def test_show_tells_plain_data() -> None:
    world = World()
    red, blue = pair(world)
    configure(red, **{"to-blue": ALL})
    configure(blue, **{"to-red": ALL})
    use(red, "10.1.0.0/16")
    world.run(8)
    (link,) = blue.instance.show("links", {}, world.now)
    assert (link["state"], link["router"], link["received"], link["accepted"]) == ("established", "red", 1, 1)
    (route,) = blue.instance.show("routes", {}, world.now)["routes"]
    assert (route["prefix"], route["path"]) == ("10.1.0.0/16", ["red"])
    with pytest.raises(KeyError):
        blue.instance.show("nothing", {}, world.now)


# --- bytes ---

prefixes = st.one_of(
    st.tuples(st.just(4), st.integers(0x01000000, 0x7E000000), st.integers(1, 32)),
    st.tuples(st.just(6), st.integers(0x2000 << 112, 0x3FFF << 112), st.integers(3, 128)),
)
names = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=31)


def _prefix(family: int, value: int, length: int) -> Any:
    from vrouter.net.address import Address, network

    return network(Address(family, value), length)


@given(
    st.lists(
        st.tuples(
            prefixes, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.lists(names, min_size=1, max_size=16)
        ),
        max_size=50,
    )
)
def test_records_come_out_as_they_went_in(parts) -> None:
    records = [wire.Record(_prefix(*prefix), metric, tag, tuple(path)) for prefix, metric, tag, path in parts]
    buffer = bytearray(b"".join(wire.encode_records(records)))
    assert [record for _, body in wire.frames(buffer) for record in wire.decode_records(body)] == records
    buffer = bytearray(b"".join(wire.encode_prefixes(record.prefix for record in records)))
    found = [prefix for _, body in wire.frames(buffer) for prefix in wire.decode_prefixes(body)]
    assert found == [record.prefix for record in records]


@given(st.binary(max_size=400))
def test_no_bytes_crash_the_decoders(data) -> None:
    for decode in (wire.decode_hello, wire.decode_start, wire.decode_records, wire.decode_prefixes):
        with contextlib.suppress(wire.LeakError):
            list(result) if hasattr(result := decode(data), "__iter__") else result
    with contextlib.suppress(wire.LeakError):
        list(wire.frames(bytearray(data)))


@given(st.lists(st.tuples(st.integers(0, 7), st.binary(max_size=60)), max_size=6))
def test_no_frames_crash_a_session(parts) -> None:
    world = World()
    red, blue = pair(world)
    configure(red, **{"to-blue": ALL})
    configure(blue, **{"to-red": ALL})
    world.run(3)
    session = next(iter(blue.ends))
    for kind, body in parts:
        if session in blue.ends:
            blue.take(blue.instance.stream(session, struct.pack("!HB", len(body) + 1, kind) + body, world.now))
    assert all(route.protocol is Protocol.LEAK for route in blue.routes.values())


def test_names_are_as_long_as_they_may_be() -> None:
    from vrouter.config import constraints

    assert wire.MAX_NAME == constraints.MAX_NAME


def test_a_hello_of_somebody_else_is_counted() -> None:
    world = World()
    _, blue = pair(world)
    configure(blue, **{"to-red": ALL})
    world.run(1)
    data = wire.encode_hello(wire.Hello(parse_address("169.254.0.0"), None))
    for source, ttl in (("169.254.0.9", 255), ("169.254.0.0", 64)):
        meta = base.Meta("to-red", parse_address(source), parse_address("239.255.26.48"), ttl, 2648, 2648)
        assert blue.instance.received("hello-4", data, meta, world.now) == []
    assert blue.instance.show("links", {}, world.now)[0]["counters"]["bad-hello"] == 2
