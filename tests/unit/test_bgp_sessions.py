"""BGP sessions between two routers, and with a scripted peer, in virtual time."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from tests.unit import bgp_world
from tests.unit.bgp_world import BgpWorld, Router, Script
from vrouter.config.bgp import (
    AddPath,
    Bgp,
    GracefulRestart,
    ListenRange,
    MaxPrefixes,
    Multipath,
    Neighbor,
    Redistribution,
    Session,
    Timers,
)
from vrouter.config.policy import Actions, Conditions, Policy, Term
from vrouter.net.address import parse_address, parse_prefix
from vrouter.proto import base
from vrouter.proto.bgp.fsm import TRANSITIONS, Action, Event, State
from vrouter.rib.bgp_reference import ReferenceTable
from vrouter.rib.bgp_table import Afi
from vrouter.rib.route import Hop, HopKind, Protocol, Route
from vrouter.runtime.bgp_bulk import BulkTable
from vrouter.wire.bgp import capabilities
from vrouter.wire.bgp.attributes import Attributes, Segment, SegmentKind, decode, encode
from vrouter.wire.bgp.message import KEEPALIVE, Open, decode_open, encode_notification, encode_open, frame, shutdown
from vrouter.wire.bgp.update import Nlri, Packer, end_of_rib

A, B = "10.0.0.1", "10.0.0.2"


@pytest.fixture(autouse=True, params=["python", "c"])
def table(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything holds with the table in C and with its twin."""
    monkeypatch.setattr(bgp_world, "make_table", {"python": ReferenceTable, "c": BulkTable}[request.param])


def bgp(asn: int, *neighbors: tuple[str, int], networks: tuple[str, ...] = (), **values: Any) -> Bgp:
    entries = {
        address: Neighbor(**{"remote_as": remote, "require_policy": False} | values) for address, remote in neighbors
    }
    return Bgp(asn=asn, neighbors=entries, networks=networks)


def pair(world: BgpWorld, **values: Any) -> tuple[Router, Router]:
    red = world.router(f"{A}/24 2001:db8::1/64", bgp(65001, (B, 65002), networks=("10.1.0.0/16",), **values))
    blue = world.router(f"{B}/24 2001:db8::2/64", bgp(65002, (A, 65001), networks=("10.2.0.0/16",), **values))
    return red, blue


def up(world: BgpWorld, **values: Any) -> tuple[Router, Router]:
    red, blue = pair(world, **values)
    world.run(15)
    assert red.state(B) == blue.state(A) == "established"
    return red, blue


def update(*prefixes: str, asns: tuple[int, ...] = (65002,), **values: Any) -> bytes:
    attributes = Attributes(as_path=(Segment(SegmentKind.SEQUENCE, asns),), next_hop=parse_address(B), **values)
    routes = [Nlri(parse_prefix(prefix)) for prefix in prefixes]
    return Packer(1, encode(attributes), None, add_path=False).take(routes)[0]


def scripted(world: BgpWorld, can: capabilities.Capabilities | None = None, **values: Any) -> tuple[Router, Script]:
    """A router with an established session to a scripted peer."""
    peer = world.script(f"{B}/24")
    values = {"passive": True} | values
    red = world.router(f"{A}/24", bgp(65001, (B, 65002), networks=("10.1.0.0/16",), **values))
    greet(world, red, peer, can)
    return red, peer


def greet(world: BgpWorld, red: Router, peer: Script, can: capabilities.Capabilities | None = None) -> None:
    world.run(1)
    peer.call(red)
    can = can or capabilities.Capabilities(families=frozenset({1}), as4=65002, route_refresh=True)
    peer.say(encode_open(Open(65002, 90, 0x0A000002, capabilities.encode(can))) + KEEPALIVE)
    world.run(1)
    assert red.state(B) == "established"


# --- the state machine ---


def test_every_state_and_event_is_decided() -> None:
    assert set(TRANSITIONS) == set(product(State, Event))
    for (state, event), (actions, following) in TRANSITIONS.items():
        if Action.DROP in actions and following is State.IDLE:
            assert state is not State.IDLE, event
        if state is State.IDLE and following is not State.IDLE:
            assert event in {Event.START, Event.START_PASSIVE}


def test_what_a_peer_may_not_do_is_an_fsm_error() -> None:
    for state in (State.OPEN_SENT, State.OPEN_CONFIRM):
        for event in (Event.UPDATE, Event.REFRESH):
            assert TRANSITIONS[state, event] == ((Action.NOTIFY_FSM, Action.DROP), State.IDLE)
    assert TRANSITIONS[State.OPEN_SENT, Event.KEEPALIVE][0] == (Action.NOTIFY_FSM, Action.DROP)
    assert TRANSITIONS[State.ESTABLISHED, Event.OPEN][0] == (Action.NOTIFY_FSM, Action.DROP)


# --- two routers ---


def test_two_routers_exchange_routes() -> None:
    world = BgpWorld()
    red, blue = up(world)
    assert red.prefixes() == blue.prefixes() == {"10.1.0.0/16", "10.2.0.0/16"}
    best = blue.best("10.1.0.0/16")
    assert best is not None
    assert (best["as_path"], best["next_hop"], best["origin"]) == ("65001", A, "igp")
    assert str(blue.fib[parse_prefix("10.1.0.0/16")].hops[0].via) == A
    assert red.summary()[B]["families"]["ipv4"] == {"received": 1, "accepted": 1, "stale": 0, "sent": 1}


def test_both_families_on_one_session() -> None:
    world = BgpWorld()
    red, blue = up(world, families=("ipv4", "ipv6"))
    red.configure(replace(red.config, networks=("10.1.0.0/16", "2001:db8:1::/48")))
    world.run(1)
    best = blue.best("2001:db8:1::/48")
    assert best is not None
    assert best["next_hop"] == "2001:db8::1"


def test_a_session_is_kept_by_keepalives_and_lost_without() -> None:
    world = BgpWorld()
    red, blue = up(world, timers=Timers(hold=9))
    world.run(100)
    assert red.state(B) == "established"

    for socket in list(blue.ends):
        blue.ends.pop(socket)  # packets are lost from now on
    red.ends.clear()
    world.run(10)
    assert "hold timer expired" in red.logs()


def test_the_same_configuration_again_says_nothing() -> None:
    world = BgpWorld()
    red, blue = up(world)
    world.run(60)
    before = red.written()
    assert red.configure(red.config) == ()
    world.run(1)
    assert red.written() == before
    assert blue.state(A) == "established"


def test_a_shutdown_is_told_with_its_text() -> None:
    world = BgpWorld()
    red, blue = up(world)
    red.change(B, shutdown=True, shutdown_message="new fibre")
    world.run(30)
    assert red.state(B) == "shutdown"
    assert 'administrative shutdown: "new fibre"' in blue.logs()
    assert blue.prefixes() == {"10.2.0.0/16"}
    assert parse_prefix("10.1.0.0/16") not in blue.fib
    red.change(B, shutdown=None)
    world.run(60)
    assert blue.prefixes() == {"10.1.0.0/16", "10.2.0.0/16"}


def test_a_wrong_as_is_refused() -> None:
    world = BgpWorld()
    red = world.router(f"{A}/24", bgp(65001, (B, 65009)))
    world.router(f"{B}/24", bgp(65002, (A, 65001)))
    world.run(20)
    assert red.state(B) != "established"
    assert "bad peer AS" in red.summary()[B]["last_error"]


def test_roles_must_fit() -> None:
    world = BgpWorld()
    red, blue = pair(world, role="provider")
    world.run(20)
    assert red.state(B) != "established"
    blue.change(A, role="customer")
    world.run(120)
    assert red.state(B) == "established"
    best = blue.best("10.1.0.0/16")
    assert best is not None
    assert best["only_to_customer"] == 65001


def test_without_a_policy_nothing_passes_between_ases() -> None:
    world = BgpWorld()
    red, blue = up(world, require_policy=None)
    assert blue.prefixes() == {"10.2.0.0/16"}
    assert red.summary()[B]["families"]["ipv4"]["received"] == 0


def test_max_prefixes_end_the_session_for_a_time() -> None:
    world = BgpWorld()
    red, blue = up(world)
    red.change(B, max_prefixes=MaxPrefixes(ipv4=2, action="restart", restart=100.0))
    blue.configure(replace(blue.config, networks=("10.2.0.0/16", "10.3.0.0/16", "10.4.0.0/16")))
    world.run(5)
    assert red.state(B) != "established"
    assert "maximum number of prefixes" in blue.logs()
    world.run(50)
    assert red.prefixes() == {"10.1.0.0/16"}


def test_a_restart_keeps_routes_until_the_neighbor_is_back() -> None:
    world = BgpWorld()
    red, blue = up(world)
    blue.die()
    world.run(2)
    assert parse_prefix("10.2.0.0/16") in red.fib
    assert red.summary()[B]["families"]["ipv4"]["stale"] == 1
    blue.fib.clear()
    blue.boot(restarted=True)
    world.run(30)
    assert red.state(B) == "established"
    assert red.summary()[B]["families"]["ipv4"]["stale"] == 0
    assert parse_prefix("10.2.0.0/16") in red.fib
    assert any(isinstance(output, base.Settled) for output in blue.outputs)
    assert parse_prefix("10.1.0.0/16") in blue.fib


def test_a_neighbor_that_does_not_come_back_loses_its_routes() -> None:
    world = BgpWorld()
    red, blue = up(world, graceful_restart=GracefulRestart(time=20.0))
    blue.die()
    world.run(15)
    assert parse_prefix("10.2.0.0/16") in red.fib
    world.run(10)
    assert parse_prefix("10.2.0.0/16") not in red.fib


def test_a_hard_reset_keeps_nothing() -> None:
    world = BgpWorld()
    red, blue = up(world)
    red.take(red.instance.clear("reset", {"neighbor": B}, world.now))
    world.run(0.01)
    assert parse_prefix("10.1.0.0/16") not in blue.fib
    world.run(20)
    assert blue.state(A) == "established"


def test_neighbors_that_nobody_named_may_come() -> None:
    world = BgpWorld()
    group = Session(remote_as=65002, require_policy=False)
    listen = {"10.0.0.0/24": ListenRange(group="guests", limit=1)}
    red = world.router(f"{A}/24", Bgp(asn=65001, groups={"guests": group}, listen=listen, networks=("10.1.0.0/16",)))
    blue = world.router(f"{B}/24", bgp(65002, (A, 65001), networks=("10.2.0.0/16",)))
    third = world.router("10.0.0.3/24", bgp(65002, (A, 65001), graceful_restart=GracefulRestart(enabled=False)))
    world.run(20)
    assert red.summary()[B]["dynamic"]
    assert third.state(A) != "established"
    assert blue.prefixes() == {"10.1.0.0/16", "10.2.0.0/16"}
    blue.configure(None)
    world.run(60)
    assert B not in red.summary()
    assert third.state(A) == "established"


def test_collisions_leave_one_session() -> None:
    for _ in range(2):
        world = BgpWorld()
        red, blue = up(world, timers=Timers(connect_retry=1.0))
        world.run(30)
        assert red.state(B) == blue.state(A) == "established"
        assert len(red.ends) == len(blue.ends) == 1
        assert red.instance.show("neighbor", {"neighbor": B}, world.now)[0]["flaps"] == 0


def test_add_path_brings_several_paths() -> None:
    world = BgpWorld()
    both: dict[str, Any] = {"add_path": AddPath(receive=True, send=4), "require_policy": False}
    red = world.router(f"{A}/24", bgp(65001, (B, 65002), ("10.0.0.3", 65003), **both))
    world.router(f"{B}/24", bgp(65002, (A, 65001), networks=("10.9.0.0/16",), **both))
    world.router("10.0.0.3/24", bgp(65003, (A, 65001), networks=("10.9.0.0/16",), **both))
    world.run(20)
    config = bgp(65001, (B, 65002), ("10.0.0.3", 65003), ("10.0.0.4", 65001), **both)
    red.configure(config)
    inner = world.router("10.0.0.4/24", bgp(65001, (A, 65001), **both))
    world.run(20)
    assert [path["as_path"] for path in inner.paths("10.9.0.0/16")] == ["65002", "65003"]


# --- a scripted peer ---


def test_the_open_says_what_we_can() -> None:
    world = BgpWorld()
    _, peer = scripted(world, role="customer", add_path=AddPath(receive=True, send=2))
    kind, body = peer.messages()[0]
    assert kind == 1
    said = capabilities.decode(decode_open(body).capabilities)
    assert (said.as4, said.roles, said.add_path) == (65001, frozenset({3}), {1: 3})
    assert said.graceful_restart is not None
    assert not said.graceful_restart.restarting
    assert said.route_refresh
    assert said.enhanced_refresh
    assert said.extended_message


def test_updates_and_end_of_rib_follow() -> None:
    world = BgpWorld()
    _, peer = scripted(world)
    messages = peer.messages()
    assert [kind for kind, _ in messages] == [1, 4, 2, 2]
    assert messages[-1][1] == bytes(4)


@pytest.mark.parametrize(
    ("attribute", "survives"),
    [
        ("400101 05", True),  # ORIGIN 5: treat as withdraw
        ("400200", True),  # an empty path from another AS
        ("40020602010000fdea00", True),  # length of a segment
        ("4003030a0000", True),  # NEXT_HOP of three bytes
        ("c00803000000", True),  # COMMUNITIES of three bytes
        ("c0080400010001", True),
        ("c0630401020304", True),  # unknown, optional, transitive
        ("40630401020304", False),  # unknown, well-known
        ("900e00050001010000", False),  # MP_REACH_NLRI without a next hop
    ],
)
def test_malformed_attributes_end_no_session_that_rfc_7606_keeps(attribute: str, *, survives: bool) -> None:
    world = BgpWorld()
    red, peer = scripted(world)
    peer.say(update("10.5.0.0/16", "10.6.0.0/16"))
    assert "10.5.0.0/16" in red.prefixes()
    good = {1: "40010100", 2: "4002060201 0000fdea", 3: "4003040a000002"}
    data = bytes.fromhex(attribute)
    parts = [bytes.fromhex(text) for kind, text in good.items() if kind != data[1]] + [data]
    attributes = b"".join(parts)
    peer.say(frame(2, bytes(2) + len(attributes).to_bytes(2, "big") + attributes + bytes.fromhex("100a05")))
    assert (red.state(B) == "established") is survives
    if survives:
        assert "10.6.0.0/16" in red.prefixes()


def test_an_unknown_transitive_attribute_passes_with_the_partial_bit() -> None:
    world = BgpWorld()
    red, peer = scripted(world)
    red.configure(replace(red.config, neighbors=red.config.neighbors | bgp(65001, ("10.0.0.3", 65003)).neighbors))
    green = world.router("10.0.0.3/24", bgp(65003, (A, 65001)))
    peer.say(update("10.5.0.0/16", unknown=((0xC0, 99, b"\1\2\3"),)))
    world.run(20)
    best = green.table.explain(parse_prefix("10.5.0.0/16"))[0]
    assert bytes.fromhex("e06303010203") in best["attributes"]


def test_a_refresh_is_answered_with_begin_and_end() -> None:
    world = BgpWorld()
    can = capabilities.Capabilities(families=frozenset({1}), as4=65002, route_refresh=True, enhanced_refresh=True)
    _, peer = scripted(world, can)
    peer.messages()
    peer.say(frame(5, bytes.fromhex("00010001")))
    world.run(1)
    messages = peer.messages()
    assert [kind for kind, _ in messages] == [5, 2, 5]
    assert messages[0][1] == bytes.fromhex("00010101")
    assert messages[2][1] == bytes.fromhex("00010201")


def test_another_import_policy_asks_for_routes_again() -> None:
    world = BgpWorld()
    red, peer = scripted(world)
    peer.messages()
    assert red.change(B, weight=5) != ()
    world.run(1)
    assert [kind for kind, _ in peer.messages()] == [5]
    assert red.state(B) == "established"


def test_an_update_before_its_time_is_an_fsm_error() -> None:
    world = BgpWorld()
    peer = world.script(f"{B}/24")
    red = world.router(f"{A}/24", bgp(65001, (B, 65002), passive=True))
    world.run(1)
    peer.call(red)
    peer.say(update("10.5.0.0/16"))
    assert peer.messages()[-1] == (3, bytes([5, 1]))


def test_a_notification_ends_the_session_and_its_routes() -> None:
    world = BgpWorld()
    red, peer = scripted(world)
    peer.say(update("10.5.0.0/16"))
    assert parse_prefix("10.5.0.0/16") in red.fib
    peer.say(encode_notification(shutdown("gone fishing")))
    assert parse_prefix("10.5.0.0/16") not in red.fib
    assert "gone fishing" in red.logs()


def test_bytes_may_come_one_by_one() -> None:
    world = BgpWorld()
    red, peer = scripted(world)
    for byte in update("10.5.0.0/16") + end_of_rib(1):
        peer.send(peer.socket, bytes([byte]))
    world.run(1)
    assert "10.5.0.0/16" in red.prefixes()


def test_a_second_session_of_a_restarted_neighbor_replaces_the_first() -> None:
    world = BgpWorld()
    can = capabilities.Capabilities(
        families=frozenset({1}),
        as4=65002,
        graceful_restart=capabilities.GracefulRestart(120, restarting=True, families=((1, True),)),
    )
    red, peer = scripted(world, can)
    peer.say(update("10.5.0.0/16", "10.6.0.0/16"))
    greet(world, red, peer, can)
    assert red.summary()[B]["families"]["ipv4"]["stale"] == 2
    peer.say(update("10.5.0.0/16") + end_of_rib(1))
    assert red.prefixes() == {"10.1.0.0/16", "10.5.0.0/16"}


def test_ipv6_is_not_taken_where_it_was_not_agreed() -> None:
    world = BgpWorld()
    red, _ = scripted(world)
    assert red.prefixes(Afi.IPV6) == set()


# --- routes ---


def term(then: Actions, **conditions: Any) -> Term:
    return Term(if_=Conditions(**conditions), then=then)


def test_policies_judge_both_ways() -> None:
    world = BgpWorld()
    red, blue = up(world)
    blue.configure(replace(blue.config, networks=("10.2.0.0/16", "10.3.0.0/16")))
    red.policies = Policy(
        route_policies={
            "in": (term(Actions(local_pref="150", accept=True), prefix=("10.2.0.0/16",)),),
            "out": (term(Actions(prepend=(65001, 65001), add_community=("65001:7",), accept=True)),),
        }
    )
    red.change(B, import_="in", export="out")
    world.run(2)
    best = red.best("10.2.0.0/16")
    assert best is not None
    assert best["local_pref"] == 150
    assert red.paths("10.3.0.0/16")[0]["verdict"] == "policy"
    assert red.best("10.3.0.0/16") is None
    told = blue.best("10.1.0.0/16")
    assert told is not None
    assert (told["communities"], told["as_path"]) == (["65001:7"], "65001 65001 65001")
    assert red.state(B) == "established"


def test_a_reflector_passes_routes_between_clients() -> None:
    world = BgpWorld()
    clients: dict[str, Any] = {"route_reflector_client": True}
    red = world.router(f"{A}/24", bgp(65001, (B, 65001), ("10.0.0.3", 65001), **clients))
    world.router(f"{B}/24", bgp(65001, (A, 65001), networks=("10.2.0.0/16",)))
    third = world.router("10.0.0.3/24", bgp(65001, (A, 65001)))
    world.run(20)
    best = third.best("10.2.0.0/16")
    assert best is not None
    assert (best["originator_id"], best["cluster_list"], best["next_hop"]) == (B, [A], B)
    red.change("10.0.0.3", route_reflector_client=None)
    red.change(B, route_reflector_client=None)
    world.run(20)
    assert third.best("10.2.0.0/16") is None


def test_ipv4_routes_may_have_ipv6_next_hops() -> None:
    world = BgpWorld()
    values: dict[str, Any] = {"families": ("ipv4", "ipv6"), "extended_next_hop": True}
    red = world.router("2001:db8::1/64", replace(bgp(65001, ("2001:db8::2", 65002), **values), router_id=A))
    blue_config = bgp(65002, ("2001:db8::1", 65001), networks=("10.2.0.0/16",), **values)
    world.router("2001:db8::2/64", replace(blue_config, router_id=B))
    world.run(20)
    best = red.best("10.2.0.0/16")
    assert best is not None
    assert best["next_hop"] == "2001:db8::2"


def test_neighbors_need_no_address_but_that_of_the_link() -> None:
    world = BgpWorld()
    values: dict[str, Any] = {"families": ("ipv4", "ipv6"), "extended_next_hop": True, "interface": "lan"}
    nets = ("10.2.0.0/16", "2001:db8:2::/48")
    red = world.router("fe80::1/64", replace(bgp(65001, ("fe80::2", 65002), **values), router_id=A))
    world.router("fe80::2/64", replace(bgp(65002, ("fe80::1", 65001), networks=nets, **values), router_id=B))
    world.run(20)
    for prefix in nets:
        best = red.best(prefix)
        assert best is not None
        assert (best["next_hop"], best["interface"]) == ("fe80::2", "lan")


def test_a_link_that_goes_down_ends_its_sessions_at_once() -> None:
    world = BgpWorld()
    red, _ = up(world)
    red.take(red.instance.interface_changed(base.InterfaceState("lan", up=False), world.now))
    assert "interface lan is down" in red.logs()


def test_a_link_that_comes_is_tried_at_once() -> None:
    """The attempts while it was down failed, the last one a moment ago."""
    world = BgpWorld()
    red = world.router(f"{A}/24", bgp(65001, (B, 65002)))
    own = tuple(base.OwnAddress(address, length) for address, length in red.addresses)
    red.take(red.instance.interface_changed(base.InterfaceState("lan", up=False, addresses=own), world.now))
    world.run(1)
    blue = world.router(f"{B}/24", bgp(65002, (A, 65001), passive=True))
    world.run(0.5)
    assert "is up" not in red.logs()
    red.take(red.instance.interface_changed(base.InterfaceState("lan", True, 1500, own), world.now))
    world.run(0.5)
    assert "is up" in red.logs()
    assert "is up" in blue.logs()


def test_other_protocols_routes_are_announced() -> None:
    world = BgpWorld()
    red, blue = up(world)
    outputs = red.configure(replace(red.config, redistribute=(Redistribution(protocol="static"),)))
    assert base.Redistribute((Protocol.STATIC,)) in outputs
    prefix = parse_prefix("10.8.0.0/16")
    route = Route(prefix, Protocol.STATIC, (Hop(HopKind.BLACKHOLE),), metric=9)
    red.take(red.instance.routes_changed((base.RouteEvent(prefix, Protocol.STATIC, route),), world.now))
    world.run(1)
    best = blue.best("10.8.0.0/16")
    assert best is not None
    assert (best["origin"], best["med"]) == ("incomplete", 9)
    red.take(red.instance.routes_changed((base.RouteEvent(prefix, Protocol.STATIC, None),), world.now))
    world.run(1)
    assert blue.best("10.8.0.0/16") is None


def test_paths_of_equal_rank_share_the_flows() -> None:
    world = BgpWorld()
    many = bgp(65001, (B, 65002), ("10.0.0.3", 65003))
    red = world.router(f"{A}/24", replace(many, multipath=Multipath(external=2, relax=True)))
    for address, asn in ((B, 65002), ("10.0.0.3", 65003)):
        world.router(f"{address}/24", bgp(asn, (A, 65001), networks=("10.9.0.0/16",)))
    world.run(20)
    assert [str(hop.via) for hop in red.fib[parse_prefix("10.9.0.0/16")].hops] == [B, "10.0.0.3"]
    red.configure(replace(red.config, multipath=Multipath()))
    world.run(1)
    assert len(red.fib[parse_prefix("10.9.0.0/16")].hops) == 1


def mrt_records(data: bytes) -> list[tuple[int, bytes]]:
    """The subtypes and bodies of a dump."""
    records = []
    while data:
        size = 12 + int.from_bytes(data[8:12], "big")
        assert data[4:6] == b"\0\x0d"
        records.append((int.from_bytes(data[6:8], "big"), data[12:size]))
        data = data[size:]
    return records


def test_show_pages_and_dumps() -> None:
    world = BgpWorld()
    red, _ = up(world)
    red.configure(replace(red.config, networks=tuple(f"10.{number}.0.0/16" for number in range(20, 40))))
    world.run(1)
    seen: list[str] = []
    after = None
    while True:
        page = red.instance.show("routes", {"after": after, "limit": 6}, world.now)
        seen += [row["prefix"] for row in page["routes"]]
        after = page["after"]
        if after is None:
            break
    assert len(seen) == len(set(seen)) == 21
    out = red.instance.show("routes", {"view": "out", "neighbor": B}, world.now)["routes"]
    assert len(out) == 20
    assert {row["as_path"] for row in out} == {"65001"}
    dump = red.instance.show("mrt", {"index": True, "time": 7}, world.now)
    assert dump["sequence"] == 21
    records = mrt_records(dump["data"])
    assert [kind for kind, _ in records] == [1] + [2] * 21
    for _, body in records[1:]:
        size = 5 + (body[4] + 7) // 8
        assert body[size : size + 2] == b"\0\1"
        attributes = body[size + 10 :]
        assert int.from_bytes(body[size + 8 : size + 10], "big") == len(attributes)
        found = decode(attributes, as4=True, external=False)
        assert {1, 2, 3} <= found.present
    with pytest.raises(KeyError):
        red.instance.show("nothing", {}, world.now)
    with pytest.raises(ValueError, match="no BGP neighbor"):
        red.instance.show("neighbor", {"neighbor": "10.0.0.9"}, world.now)


def test_the_same_seed_gives_the_same_outputs() -> None:
    told = []
    for _ in range(2):
        world = BgpWorld()
        red, _ = up(world)
        world.run(100)
        told.append(red.outputs)
    assert told[0] == told[1]
