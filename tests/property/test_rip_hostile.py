"""Running instances of RIP under any packets, links and configurations: they never fail, and stay consistent."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.datagram_world import Node, World
from vrouter.config.rip import Rip, RipInterface, Ripng, RipngInterface, RipRedistribution
from vrouter.config.router import RouterConfig
from vrouter.net.address import Address, network, parse_address
from vrouter.proto import base
from vrouter.proto.rip.instance import ripng, ripv2
from vrouter.rib.route import Hop, HopKind, Protocol, Route
from vrouter.wire.rip import ripng as ng
from vrouter.wire.rip import ripv2 as v2
from vrouter.wire.rip.packet import Command, Entry, Packet

SOURCES = {
    4: [parse_address(text) for text in ("10.0.0.2", "10.0.0.3", "10.0.1.2", "192.0.2.1", "10.0.0.1")],
    6: [parse_address(text) for text in ("fe80::2", "fe80::3", "fe80::1", "2001:db8::9")],
}
METRICS = st.integers(1, 16)


def entries(family: int) -> st.SearchStrategy[Entry]:
    bits, base_value = (32, 0x0A000000) if family == 4 else (128, 0x20010DB8 << 96)
    prefixes = st.builds(
        lambda low, length: network(Address(family, base_value | low << (bits - 24)), length),
        st.integers(0, 3).map(lambda part: part << 8),
        st.sampled_from([16, 20, 24]),
    )
    hops = st.none() | st.sampled_from(SOURCES[family])
    return st.builds(Entry, prefixes, METRICS, st.integers(0, 9), hops)


def steps(family: int) -> st.SearchStrategy[list[tuple[str, Any]]]:
    packets = st.builds(
        Packet, st.sampled_from(Command), st.lists(entries(family), max_size=6).map(tuple), st.booleans()
    )
    interface = st.sampled_from(["a", "b"])
    sources = st.sampled_from(SOURCES[family])
    return st.lists(
        st.one_of(
            st.tuples(st.just("packet"), st.tuples(packets, interface, sources)),
            st.tuples(st.just("bytes"), st.tuples(st.binary(max_size=80), interface, sources)),
            st.tuples(st.just("link"), st.tuples(interface, st.booleans())),
            st.tuples(st.just("time"), st.sampled_from([0.5, 3.0, 40.0, 200.0])),
            st.tuples(st.just("route"), st.tuples(entries(family), st.booleans())),
            st.tuples(st.just("configure"), st.tuples(st.integers(1, 15), st.integers(1, 3), st.booleans())),
            st.tuples(st.just("stop"), st.none()),
        ),
        max_size=25,
    )


def configure(node: Node, family: int, metric: int = 1, paths: int = 1, passive: bool = False) -> None:
    make: Any = RipInterface if family == 4 else RipngInterface
    chosen = {"a": make(metric=metric), "b": make(passive=passive)}
    common: dict[str, Any] = {"maximum_paths": paths, "redistribute": (RipRedistribution(protocol="static"),)}
    if family == 4:
        node.configure(RouterConfig("r", 1, rip=Rip(interfaces=chosen, **common)))
    else:
        node.configure(RouterConfig("r", 1, ripng=Ripng(interfaces=chosen, **common)))


def play(family: int, moves: list[tuple[str, Any]]) -> None:
    world = World()
    node = world.node("r", ripv2 if family == 4 else ripng)
    own = (["10.0.0.1/24"], ["10.0.1.1/24"]) if family == 4 else (["fe80::1/64"], ["fe80::1/64", "2001:db8::1/64"])
    for name, addresses in zip("ab", own, strict=True):
        world.segment((node, name, *addresses))
    configure(node, family)
    world.run(2)
    encode: Any = v2.encode if family == 4 else ng.encode
    port = 520 if family == 4 else 521
    for what, value in moves:
        if what in {"packet", "bytes"} and node.sockets:
            packet, interface, source = value
            data = packet if what == "bytes" else encode(packet)
            meta = base.Meta(interface, source, node.instance.dialect.group, 255, port, port)
            node.take(node.instance.received("udp", data, meta, world.now))
        elif what == "link":
            node.link(value[0], up=value[1])
        elif what == "time":
            world.run(value)
        elif what == "route":
            entry, there = value
            route = Route(entry.prefix, Protocol.STATIC, (Hop(HopKind.BLACKHOLE),), 1) if there else None
            event = base.RouteEvent(entry.prefix, Protocol.STATIC, route)
            node.take(node.instance.routes_changed((event,), world.now))
        elif what == "configure":
            configure(node, family, *value)
        elif what == "stop":
            node.take(node.instance.stop(world.now))
            assert node.offers == {}
            configure(node, family)
        check(node, world)
    world.run(700)
    # Whoever said something is silent since: nothing of it is left.
    assert node.offers == {}
    check(node, world)


def check(node: Node, world: World) -> None:
    table = node.instance.table
    for row in table.rows.values():
        assert 1 <= row.metric <= 16
        assert (row.garbage_at is not None) == (row.own is None and not row.paths)
        assert len({path.metric for path in row.paths}) <= 1
        assert all(path.metric < 16 and node.instance.ports[path.interface].active for path in row.paths)
    wanted = {prefix for prefix, row in table.rows.items() if row.paths and row.own is None}
    assert {prefix for prefix, _ in node.offers} == wanted
    for query in ("summary", "neighbors", "routes", "interfaces"):
        node.instance.show(query, {}, world.now)


@given(steps(4))
@settings(max_examples=60, deadline=None)
def test_ripv2(moves: list[tuple[str, Any]]) -> None:
    play(4, moves)


@given(steps(6))
@settings(max_examples=60, deadline=None)
def test_ripng(moves: list[tuple[str, Any]]) -> None:
    play(6, moves)
