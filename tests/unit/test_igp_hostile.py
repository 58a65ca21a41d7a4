"""What a hostile or odd neighbor can do to OSPF and RIP: each case has once done harm."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.datagram_world import World
from tests.unit.ospf_network import Network, Node, area, port, ptp, single
from vrouter.config import ospf as config
from vrouter.config.rip import Rip, RipInterface
from vrouter.config.router import RouterConfig
from vrouter.net.address import Address, Prefix, parse_address, parse_prefix
from vrouter.proto.base import InterfaceState, Meta, OwnAddress
from vrouter.proto.ospf.database import Entry as DatabaseEntry
from vrouter.proto.ospf.identifiers import Identifiers
from vrouter.proto.ospf.neighbor import NeighborState
from vrouter.proto.rip.instance import ripv2
from vrouter.proto.rip.table import Heard, Path, Table
from vrouter.wire.ospf.authentication import sign
from vrouter.wire.ospf.lsa import (
    INITIAL_SEQUENCE,
    MAX_AGE,
    MAX_SEQUENCE,
    ExternalBody,
    Grace,
    LsaKey,
    LsaType,
    OpaqueBody,
    RouterBody,
    RouterLink,
    build_lsa,
    decode_header,
    encode_grace,
)
from vrouter.wire.ospf.packet import Hello, Update
from vrouter.wire.rip import ripv2 as rip_wire
from vrouter.wire.rip.packet import Command, Entry, Packet


def number(text: str) -> int:
    return parse_address(text).value


def pair(**options: Any) -> tuple[Network, Node, Node]:
    """Two routers on a point-to-point link."""
    network = Network()
    one = network.add("one", {"a": "10.0.0.1/24@link", "lo": "10.255.0.1/32"},
                      single("10.255.0.1", {"a": ptp(), "lo": port()}, **options))  # fmt: skip
    two = network.add("two", {"a": "10.0.0.2/24@link"}, single("10.255.0.2", {"a": ptp()}))
    network.run(30)
    assert one.neighbors() == {"10.255.0.2": "full"}
    return network, one, two


def say(network: Network, to: Node, body: Any, router: str = "10.255.0.2", source: str = "10.0.0.2") -> None:
    """Say something on the link in another router's name."""
    meta = Meta("a", parse_address(source), Address(4, number("224.0.0.5")), 1)
    packet = sign(body, number(router), 0)
    network.outputs(to, to.instance.received("ospf-a", packet, meta, network.now))


def lsa(key: LsaKey, body: Any, options: int = 2, step: int = 0) -> bytes:
    return build_lsa(key, options, INITIAL_SEQUENCE + step, body, 1)


def drops(node: Node) -> dict[str, int]:
    return {k: v for row in node.show("interface") for k, v in row["drops"].items()}


# --- OSPF ---


def test_identifiers_of_prefixes_never_meet() -> None:
    ids = Identifiers()
    for text in ("10.0.0.0/16", "10.0.0.0/24", "10.0.255.255/32", "10.0.255.254/32", "10.0.0.0/8", "10.0.0.0/32"):
        ids.take(parse_prefix(text))
    prefixes = ["10.0.0.0/16", "10.0.0.0/24", "10.0.255.255/32", "10.0.255.254/32", "10.0.0.0/8", "10.0.0.0/32"]
    given = [ids.get(parse_prefix(text)) for text in prefixes]
    assert len(set(given)) == len(prefixes)


def test_a_summary_under_another_link_state_id_outlives_the_one_that_its_old_id_went_to() -> None:
    """RFC 2328 appendix E: a more specific prefix takes the id of the shorter one, which gets another."""
    network = Network()
    border = config.Ospf(
        router_id="10.255.0.1",
        areas={"0.0.0.0": area({"a": ptp()}), "0.0.0.1": area({"s": port(passive=True)})},
    )
    one = network.add("one", {"a": "10.0.0.1/24@link", "s": "10.1.0.1/16@stub"}, border)
    two = network.add("two", {"a": "10.0.0.2/24@link"}, single("10.255.0.2", {"a": ptp()}))
    network.run(30)
    assert two.hops("10.1.0.0/16")
    more = replace(border.areas["0.0.0.1"], interfaces={"s": port(passive=True), "t": port(passive=True)})
    network.configure(one, replace(border, areas={**border.areas, "0.0.0.1": more}))
    state = InterfaceState("t", True, 1500, (OwnAddress(parse_address("10.1.0.1"), 24),))
    one.interfaces["t"] = state
    network.links["one", "t"] = "stub2"
    network.outputs(one, one.instance.interface_changed(state, network.now))
    network.run(60)
    assert two.hops("10.1.0.0/24")
    assert two.hops("10.1.0.0/16")


def test_an_external_whose_forwarding_address_is_ours_is_not_used() -> None:
    network, one, _two = pair()
    body = ExternalBody(0xFFFF0000, 20, True, number("10.0.0.1"))
    router = lsa((LsaType.ROUTER, number("10.255.0.2"), number("10.255.0.2")),
                 RouterBody(2, (RouterLink(1, number("10.255.0.1"), number("10.0.0.2"), 10),
                                RouterLink(3, number("10.0.0.0"), 0xFFFFFF00, 10))), step=50)  # fmt: skip
    say(network, one, Update((router, lsa((LsaType.EXTERNAL, number("10.9.0.0"), number("10.255.0.2")), body))))
    network.run(0.5)
    assert one.hops("10.9.0.0/16") == []


def test_a_flood_of_neighbors_is_refused_by_name() -> None:
    network, one, _two = pair()
    hello = Hello(0xFFFFFF00, 10, 2, 1, 40, 0, 0)
    for each in range(20_000):
        say(network, one, hello, router=str(Address(4, 0x0B000000 + each)), source="10.0.0.77")
    network.filter = lambda *_: None
    network.run(12)
    assert drops(one)["neighbor-limit"] > 18_000


def test_a_database_takes_as_many_lsas_as_it_may() -> None:
    network, one, two = pair(max_lsas=50)
    raws = [
        lsa((LsaType.EXTERNAL, 0x0B000000 + (each << 8), number("10.255.0.9")), ExternalBody(0xFFFFFF00, 20))
        for each in range(70)
    ]
    sent = one.sent
    for raw in raws:
        say(network, one, Update((raw,)))
    assert one.show("summary")["external_lsas"] == 50
    assert drops(one)["lsa-limit"] == 20
    assert one.sent - sent >= 20  # acknowledged, so that they are not sent again and again
    assert sum("others are refused" in line for line in one.logs) == 1
    for raw in raws:
        say(network, two, Update((raw,)), router="10.255.0.1", source="10.0.0.1")
    network.outputs(one, one.instance.clear("neighbor", {}, network.now))
    network.run(60)
    assert one.neighbors() == {"10.255.0.2": "full"}


def test_help_for_a_restart_ends_after_half_an_hour_at_most() -> None:
    network, one, two = pair()
    grace = OpaqueBody(encode_grace(Grace(0xFFFFFFFF, 1)))
    two.dead = True
    say(network, one, Update((lsa((LsaType.OPAQUE_LINK, 3 << 24, number("10.255.0.2")), grace),)))
    network.run(100)
    assert one.neighbors()
    network.run(1800)
    assert one.neighbors() == {}


def test_a_malformed_lsa_does_not_keep_an_adjacency_from_forming() -> None:
    """Its neighbor holds it and describes it: whoever asks for it for ever never gets full."""
    network, one, two = pair()
    bad = ExternalBody(0xFF00FF00, 20)
    raw = lsa((LsaType.EXTERNAL, number("10.9.0.0"), number("10.255.0.3")), bad)
    entry = DatabaseEntry(decode_header(raw), raw, OpaqueBody(b""), network.now, own=False)
    two.instance._core.external.put(entry)
    network.outputs(one, one.instance.clear("neighbor", {}, network.now))
    network.run(60)
    assert one.neighbors() == {"10.255.0.2": "full"}
    assert drops(one)["lsa-mask"] >= 1


def _held(node: Node, kind: str, router: str) -> dict[str, Any] | None:
    return next((row for row in node.lsas(kind) if row["router"] == router), None)


def _outbid(one: Node, two: Node) -> dict[str, Any]:
    """Check that the neighbor holds the router LSA that 10.255.0.1 has issued itself, whole; give it."""
    ours, held = _held(one, "router", "10.255.0.1"), _held(two, "router", "10.255.0.1")
    assert ours is not None
    assert held is not None
    assert ours["checksum"] == held["checksum"]
    assert len(held["content"]["links"]) == 3
    return held


def test_a_malformed_lsa_in_our_name_is_outbid() -> None:
    """RFC 2328 section 13.4: routers that do not look into it would pass it on in the place of ours."""
    network, one, two = pair()
    key = (LsaType.ROUTER, number("10.255.0.1"), number("10.255.0.1"))
    for step in (10, 0x7FFFFFFF - INITIAL_SEQUENCE):  # the last number there is: it must be flushed first
        raw = build_lsa(key, 2, INITIAL_SEQUENCE + step, OpaqueBody(b"\0\0\0\x09"), 1)
        entry = DatabaseEntry(decode_header(raw), raw, OpaqueBody(raw[20:]), network.now, own=False)
        two.instance._core.areas[0].database.put(entry)
        say(network, one, Update((raw,)))
        network.run(30)
        assert drops(one)["lsa-router-links"] >= 1
        held = _outbid(one, two)
    assert held["sequence"].startswith("0x8000000")
    unknown = build_lsa((LsaType.EXTERNAL, number("10.9.0.0"), number("10.255.0.1")), 2, INITIAL_SEQUENCE,
                        ExternalBody(0xFF00FF00, 20), 1)  # fmt: skip
    entry = DatabaseEntry(decode_header(unknown), unknown, OpaqueBody(b""), network.now, own=False)
    two.instance._core.external.put(entry)
    say(network, one, Update((unknown,)))
    network.run(30)
    assert two.show("summary")["external_lsas"] == 0


@pytest.mark.parametrize("sound", [True, False])
def test_our_own_lsas_sent_again_and_again_do_not_make_us_flood(sound: bool) -> None:
    """RFC 2328 section 12.4: two instances are MinLSInterval apart; the last one of theirs is outbid then."""
    network, one, two = pair()
    key = (LsaType.ROUTER, number("10.255.0.1"), number("10.255.0.1"))
    network.run(30)
    first = _held(one, "router", "10.255.0.1")
    assert first is not None
    start = int(first["sequence"], 16) - (1 << 32)
    issued = set()
    for step in range(1, 19):  # 1.1 s apart, for some 20 s
        body: Any = RouterBody(0, ()) if sound else OpaqueBody(b"\0\0\0\x09")
        raw = build_lsa(key, 2, start + 100 * step, body, 1)
        say(network, one, Update((raw,)))
        network.run(1.1)
        issued |= set(one.instance._core.origination._issued.items())
    network.run(10)
    held = _outbid(one, two)
    assert int(held["sequence"], 16) - (1 << 32) == start + 100 * 18 + 1
    assert 3 <= len({when for (_scope, name), when in issued if name == key}) <= 6


@pytest.mark.parametrize("last", [True, False])
def test_our_own_lsas_that_others_end_again_and_again_do_not_make_us_flood(last: bool) -> None:
    """RFC 2328 sections 12.1.6 and 13.4: what is of MaxAge, or at the end of its numbers, goes, and begins anew."""
    network, one, two = pair()
    key = (LsaType.ROUTER, number("10.255.0.1"), number("10.255.0.1"))
    network.run(30)
    issued = set()
    for _step in range(40):  # half a second apart
        held = _held(one, "router", "10.255.0.1")
        sequence = int(held["sequence"], 16) - (1 << 32) if held is not None else -(1 << 31) + 1
        raw = build_lsa(key, 2, MAX_SEQUENCE if last else sequence + 1, RouterBody(0, ()), MAX_AGE)
        say(network, one, Update((raw,)))
        network.run(0.5)
        issued |= set(one.instance._core.origination._issued.items())
    network.run(20)
    _outbid(one, two)
    assert len({when for (_scope, name), when in issued if name == key}) <= 6


def test_malformed_lsas_in_our_name_do_not_outgrow_the_limit() -> None:
    """Each is taken out of the domain, as long as there is room for it."""
    network, one, _two = pair(max_lsas=20)
    for each in range(100):
        key = (LsaType.EXTERNAL, number("10.9.0.0") + each, number("10.255.0.1"))
        say(network, one, Update((build_lsa(key, 2, INITIAL_SEQUENCE, ExternalBody(0xFF00FF00, 20), 1),)))
    assert len(one.instance._core.external) <= 20
    assert drops(one)["lsa-mask"] >= 1


def test_more_links_than_an_lsa_holds_are_left_out_by_name() -> None:
    """The length of an LSA is 16 bits: adjacencies come before stub networks."""
    network, one, two = pair()
    own = tuple(OwnAddress(Address(4, 0x0B000000 + each), 32) for each in range(6000))
    state = InterfaceState("lo", True, 65536, own, loopback=True)
    network.outputs(one, one.instance.interface_changed(state, network.now))
    network.run(30)
    held = _held(two, "router", "10.255.0.1")
    assert held is not None
    links = held["content"]["links"]
    assert len(links) == 5400
    assert links[0]["id"] == "10.255.0.2"
    assert one.show("summary")["areas"][0]["links_left_out"] == 6002 - 5400
    assert sum("left out" in line for line in one.logs) == 1
    assert one.neighbors() == {"10.255.0.2": "full"}


def test_vertices_of_routers_that_are_gone_do_not_stay() -> None:
    network, one, _two = pair()
    key = (LsaType.ROUTER, number("10.255.0.3"), number("10.255.0.3"))
    for step in range(40):
        links = tuple(RouterLink(1, 0x20000000 + step * 1000 + each, 1, 1) for each in range(1000))
        say(network, one, Update((lsa(key, RouterBody(0, links), step=step),)))
        network.now += 2
        network.outputs(one, one.instance.handle_timeout(network.now))
    assert len(one.instance._core.areas[0].graph.keys) < 10_000


def test_many_lsas_leave_in_time_that_grows_with_their_number() -> None:
    """Each packet of LSAs of MaxAge once had all looked at that a slow neighbor had still to acknowledge."""
    network = Network()
    settings = single("10.255.0.1", {"a": ptp(), "b": ptp(retransmit_interval=60)})
    one = network.add("one", {"a": "10.0.0.1/24@link", "b": "10.0.1.1/24@other"}, settings)
    network.add("two", {"a": "10.0.0.2/24@link"}, single("10.255.0.2", {"a": ptp()}))
    three = network.add("three", {"b": "10.0.1.2/24@other"}, single("10.255.0.3", {"b": ptp()}))
    network.run(30)
    core = one.instance._core
    looks = 0
    held_back = core.held_back

    def counted(*arguments: Any) -> bool:
        nonlocal looks
        looks += 1
        return held_back(*arguments)

    core.held_back = counted  # type: ignore[method-assign, assignment]
    count = 1200
    for age in (1, 3600):
        for start in range(0, count, 30):
            body = ExternalBody(0xFFFFFF00, 20)
            ids = [0x0B000000 + (each << 8) for each in range(start, start + 30)]
            keys = [(LsaType.EXTERNAL, identifier, number("10.255.0.9")) for identifier in ids]
            say(network, one, Update(tuple(build_lsa(key, 2, INITIAL_SEQUENCE, body, age) for key in keys)))
        if age == 1:
            network.run(10)
            assert len(core.external) == len(three.instance._core.external) == count
    network.run(10)
    assert len(core.external) == len(three.instance._core.external) == 0
    assert looks <= 4 * count


def test_an_unknown_lsa_of_max_age_is_taken_while_a_neighbor_learns_the_database() -> None:
    network, one, _two = pair()
    next(iter(one.instance._core.interfaces["a"].neighbors.values())).state = NeighborState.LOADING
    key = (LsaType.EXTERNAL, number("10.9.0.0"), number("10.255.0.9"))
    say(network, one, Update((build_lsa(key, 2, INITIAL_SEQUENCE, ExternalBody(0xFFFF0000, 20), 3600),)))
    network.run(10)
    assert one.show("summary")["external_lsas"] == 0


def test_a_border_router_of_an_nssa_says_that_it_announces_externals_though_another_translates() -> None:
    """RFC 3101 appendix B: or else nobody in there follows its default route."""
    network = Network()
    for name, low in (("one", 1), ("two", 2)):
        areas = {"0.0.0.0": area({"a": ptp()}), "0.0.0.1": area({"b": ptp(), "c": ptp()}, type="nssa")}
        links = {"a": f"10.0.0.{low}/24@bone", "b": f"10.0.1.{low}/24@between", "c": f"10.0.{low + 1}.1/24@to{low}"}
        network.add(name, links, config.Ospf(router_id=f"10.255.0.{low}", areas=areas))
    inside = {"0.0.0.1": area({"c": ptp(), "d": ptp()}, type="nssa")}
    three = network.add("three", {"c": "10.0.2.3/24@to1", "d": "10.0.3.3/24@to2"},
                        config.Ospf(router_id="10.255.0.3", areas=inside))  # fmt: skip
    network.run(90)
    assert three.hops("0.0.0.0/0") == [("c", "10.0.2.1"), ("d", "10.0.3.1")]


# --- RIP ---


def test_routes_that_end_one_after_the_other_cost_no_scan_of_the_table_each() -> None:
    table = Table()
    lan, neighbor = "lan", parse_address("10.0.0.2")
    for each in range(5000):
        prefix = Prefix(4, 0x0A000000 + (each << 8), 24)
        table.learn(prefix, Path(lan, neighbor, neighbor, Heard(1, 0, None), 2, 0), each * 1e-5)
    scans = 0
    now = 0.0
    while table.rows and now < 1000:
        now = table.due
        table.expire(now)
        scans += 1
    assert not table.rows
    assert scans < 200


def test_a_large_table_is_told_on_demand_only_so_often() -> None:
    world = World()
    node = world.node("one", ripv2)
    world.segment((node, "lan", "10.0.0.1/24"))
    node.configure(RouterConfig("one", 1, rip=Rip(interfaces={"lan": RipInterface()})))
    world.run(5)
    neighbor = parse_address("10.0.0.2")
    meta = Meta("lan", neighbor, parse_address("224.0.0.9"), 1, 520, 520)
    for start in range(0, 5000, 25):
        entries = tuple(Entry(Prefix(4, 0x0B000000 + (each << 8), 24), 1) for each in range(start, start + 25))
        node.hear("udp", rip_wire.encode(Packet(Command.RESPONSE, entries)), meta)
    ask = rip_wire.encode(Packet(Command.REQUEST, whole=True))
    before = len(world.sent)
    for _ in range(5):
        node.hear("udp", ask, meta)
    one_answer = 5001 // 25 + 1
    assert len(world.sent) - before == one_answer
    assert node.instance.ports["lan"].counters["requests-too-fast"] == 4
    world.run(1)
    before = len(world.sent)
    node.hear("udp", ask, meta)
    assert len(world.sent) - before == one_answer
