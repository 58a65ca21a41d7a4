"""The engine: what instances are told, what becomes of what they ask for, and what happens when they fail."""

from __future__ import annotations

import dataclasses
import errno

import pytest

from tests.unit.engine_world import CONFIG, DEFAULT, LAN, WAN, World, route
from vrouter.config.router import RouterConfig
from vrouter.engine import inputs, outputs
from vrouter.net.address import parse_address, parse_prefix
from vrouter.proto import base
from vrouter.rib.route import Protocol

PEER = parse_address("10.0.0.2")
OWN = parse_address("10.0.0.1")
UDP = base.OpenSocket("s", base.SocketKind.UDP, 4, local_port=520)
LISTEN = base.OpenSocket("l", base.SocketKind.LISTEN, 4, local_port=179)


def boom(*_: object) -> list[base.Output]:
    raise RuntimeError("toy broke")


def names(world: World, toy: str) -> list[str]:
    return [entry[0] for entry in world.toy(toy).told]


def test_a_configuration_gives_tables_and_interfaces() -> None:
    world = World(toy={})
    world.configure()
    (tables,) = world.find(outputs.Tables)
    assert [interface.name for interface in tables.root.interfaces] == ["lan", "wan", "lo"]
    assert {"10.0.0.0/24", "10.0.0.1/32", "198.51.100.0/24"} <= world.fib.keys()
    assert [str(change.prefix) for change in tables.changes] == [
        str(prefix) for prefix in sorted(change.prefix for change in tables.changes)
    ]
    states = [entry[1] for entry in world.toy("toy").told if entry[0] == "interface_changed"]
    assert [(state.name, state.up, state.index) for state in states] == [
        ("lan", True, 1),
        ("wan", True, 2),
        ("lo", True, 3),
    ]
    assert [str(own.address) for own in states[0].addresses] == ["10.0.0.1"]
    assert states[2].loopback


def test_the_same_again_asks_for_nothing() -> None:
    world = World(toy={})
    world.configure()
    assert world.configure() == []


def test_a_configuration_that_cannot_be_changes_nothing() -> None:
    world = World(toy={})
    world.configure()
    bad = dataclasses.replace(CONFIG, static=(dataclasses.replace(DEFAULT, prefix="x"),))
    before = list(world.toy("toy").told)
    with pytest.raises(ValueError, match="x"):
        world.configure(bad)
    with pytest.raises(ValueError, match="blue"):
        world.configure(RouterConfig("blue", 8))
    assert world.toy("toy").told == before
    assert world.configure() == []


def test_links_are_told_once_and_take_their_routes() -> None:
    world = World(toy={})
    world.configure()
    world.give(inputs.Link(2, up=False, mtu=1400))
    told = world.toy("toy").told[-1]
    assert (told[0], told[1].name, told[1].up, told[1].mtu) == ("interface_changed", "wan", False, 1400)
    assert "198.51.100.0/24" not in world.fib
    assert world.give(inputs.Link(2, up=False, mtu=1400)) == []
    world.give(inputs.Link(2, up=True))
    assert "198.51.100.0/24" in world.fib


def test_an_interface_that_goes_is_down_and_empty() -> None:
    world = World(toy={})
    world.configure()
    world.configure(dataclasses.replace(CONFIG, interfaces=(LAN,)))
    gone = [entry[1] for entry in world.toy("toy").told if entry[0] == "interface_changed"][-1]
    assert gone == base.InterfaceState("wan", up=False)
    world.configure(dataclasses.replace(CONFIG, interfaces=(LAN, WAN)))
    back = [entry[1] for entry in world.toy("toy").told if entry[0] == "interface_changed"][-1]
    assert (back.name, back.up) == ("wan", True)


def test_sockets_events_reach_their_instance_while_it_has_the_socket() -> None:
    world = World(toy={"configure": [UDP, LISTEN], "received": [base.Transmit("s", PEER, b"answer", 520)]})
    world.configure()
    assert world.asked() == [UDP, LISTEN]
    assert world.find(outputs.Socket)[0].instance == "toy"
    world.give(inputs.Opened("toy", "s"))
    meta = base.Meta("lan", PEER, OWN)
    world.give(inputs.Received("toy", "s", b"question", meta))
    assert world.asked() == [base.Transmit("s", PEER, b"answer", 520)]
    world.give(inputs.Accepted("toy", "l", "c1", OWN, PEER))
    world.give(inputs.Stream("toy", "c1", b"hello"))
    world.give(inputs.Closed("toy", "c1", errno.ECONNRESET))
    world.give(inputs.Stream("toy", "c1", b"late"))
    world.give(inputs.Stream("other", "c1", b"nobody's"))
    told = world.toy("toy").told
    assert [entry for entry in told if entry[0] in {"opened", "received", "accepted", "stream", "closed"}] == [
        ("opened", "s"),
        ("received", "s", b"question", meta),
        ("accepted", "l", "c1", OWN, PEER),
        ("stream", "c1", b"hello"),
        ("closed", "c1", errno.ECONNRESET),
    ]


def test_a_connection_for_nobody_is_refused() -> None:
    world = World(toy={"configure": [LISTEN]})
    world.configure()
    world.absent.add("toy")
    world.configure(dataclasses.replace(CONFIG, static=()))
    world.give(inputs.Accepted("toy", "l", "c1", OWN, PEER))
    assert world.asked() == [base.CloseSocket("c1", reset=True)]


def test_an_instance_goes_with_its_configuration() -> None:
    offered = route("203.0.113.0/24", Protocol.OSPF)
    world = World(
        toy={
            "configure": [UDP, base.RouteAdd((offered,)), base.BfdOpen("b", PEER)],
            "stop": [base.Transmit("s", PEER, b"bye", 520)],
        }
    )
    world.configure()
    assert "203.0.113.0/24" in world.fib
    world.absent.add("toy")
    world.configure(dataclasses.replace(CONFIG, rules=()))
    assert world.asked() == [UDP, base.Transmit("s", PEER, b"bye", 520), base.CloseSocket("s")]
    assert isinstance(world.find(outputs.Watch)[-1].request, base.BfdClose)
    assert "203.0.113.0/24" not in world.fib
    assert names(world, "toy")[-2:] == ["configure", "stop"]
    with pytest.raises(KeyError):
        world.engine.show("toy", "told", {}, world.now)


def test_what_cannot_be_applied_live_makes_the_instance_anew() -> None:
    world = World(toy={"configure": [UDP], "live": False})
    world.configure()
    world.configure(dataclasses.replace(CONFIG, static=()))
    assert len(world.toys["toy"]) == 2
    assert world.asked() == [UDP, base.CloseSocket("s"), UDP]
    first, second = (toy.environment.rng.random() for toy in world.toys["toy"])
    assert first != second


def test_a_failure_harms_one_instance_and_passes() -> None:
    offered = route("203.0.113.0/24", Protocol.OSPF)
    world = World(
        bad={"configure": [UDP, base.RouteAdd((offered,))], "received": boom},
        good={"configure": [UDP]},
    )
    world.configure()
    world.give(inputs.Received("bad", "s", b"", base.Meta("lan", PEER, OWN)))
    (line,) = world.find(outputs.Line)
    assert (line.instance, line.level) == ("bad", "error")
    assert "RuntimeError: toy broke" in line.message
    assert world.find(outputs.Socket) == [outputs.Socket("bad", base.CloseSocket("s"))]
    assert "203.0.113.0/24" not in world.fib
    assert world.engine.deadline == world.now + 1
    world.give(inputs.Received("good", "s", b"x", base.Meta("lan", PEER, OWN)))
    assert names(world, "good")[-1] == "received"
    world.give(inputs.Timeout(), after=1)
    assert len(world.toys["bad"]) == 2
    assert "203.0.113.0/24" in world.fib
    world.give(inputs.Received("bad", "s", b"", base.Meta("lan", PEER, OWN)))
    assert world.engine.deadline == world.now + 2, "it waits longer each time"
    assert world.engine.show("engine", "instances", {}, world.now)[1]["failures"] == 2


def test_an_instance_that_cannot_be_made_is_tried_again() -> None:
    world = World(toy={"configure": boom})
    world.configure()
    assert "10.0.0.0/24" in world.fib
    assert world.engine.deadline == world.now + 1
    world.toys["toy"][0].script.clear()


def test_next_hops_are_told_now_and_on_each_change() -> None:
    via = parse_address("198.51.100.7")
    world = World(toy={"configure": [base.Track(via), base.Track(PEER)]})
    world.configure()
    states = {entry[1].address: entry[1] for entry in world.toy("toy").told if entry[0] == "next_hop_changed"}
    assert (states[via].reachable, states[via].interface, states[via].connected) == (True, "wan", False)
    assert (states[PEER].interface, states[PEER].connected) == ("lan", True)
    world.give(inputs.Link(2, up=False))
    (told,) = [entry[1] for entry in world.toy("toy").told if entry[0] == "next_hop_changed"][2:]
    assert (told.address, told.reachable) == (via, False)
    world.give(inputs.Clear("toy", "x"))
    world.toy("toy").script["clear"] = [base.Untrack(via)]
    world.give(inputs.Clear("toy", "x"))
    world.give(inputs.Link(2, up=True))
    assert names(world, "toy").count("next_hop_changed") == 3


def test_routes_are_redistributed_from_one_protocol_to_another() -> None:
    offered = route("203.0.113.0/24", Protocol.OSPF)
    world = World(
        giver={"configure": [base.RouteAdd((offered,))], "clear": [base.RouteDel((offered,))]},
        taker={"configure": [base.Redistribute((Protocol.OSPF, Protocol.STATIC))]},
    )
    world.configure()
    (told,) = [entry[1] for entry in world.toy("taker").told if entry[0] == "routes_changed"]
    assert [(str(event.prefix), event.protocol) for event in told] == [
        ("198.51.100.0/24", Protocol.STATIC),
        ("203.0.113.0/24", Protocol.OSPF),
    ]
    assert told[1].route is not None
    assert told[1].route.hops[0].interface == "lan"
    world.give(inputs.Clear("giver", "x"))
    assert world.toy("taker").told[-1][1] == (base.RouteEvent(parse_prefix("203.0.113.0/24"), Protocol.OSPF, None),)
    world.give(inputs.Link(2, up=False))
    assert world.toy("taker").told[-1][1] == (base.RouteEvent(parse_prefix("198.51.100.0/24"), Protocol.STATIC, None),)


def test_a_route_that_another_protocol_wins_is_taken_back() -> None:
    static = route("203.0.113.0/24", Protocol.STATIC)
    world = World(
        giver={
            "configure": [base.RouteAdd((route("203.0.113.0/24", Protocol.OSPF),))],
            "clear": [base.RouteAdd((dataclasses.replace(static, preference=1),))],
        },
        taker={"configure": [base.Redistribute((Protocol.OSPF,))]},
    )
    world.configure()
    world.give(inputs.Clear("giver", "x"))
    last = world.toy("taker").told[-1]
    assert last[1] == (base.RouteEvent(parse_prefix("203.0.113.0/24"), Protocol.OSPF, None),)


def test_instances_share_a_bfd_session() -> None:
    slow = base.BfdOpen("mine", PEER, transmit_interval=1.0, receive_interval=0.2, multiplier=5)
    fast = base.BfdOpen("own", PEER, transmit_interval=0.1, receive_interval=0.3, multiplier=3)
    world = World(first={"configure": [slow]}, second={"configure": [fast]})
    world.configure()
    requests = [output.request for output in world.find(outputs.Watch)]
    shared = requests[-1]
    assert isinstance(shared, base.BfdOpen)
    assert {request.session for request in requests} == {shared.session}
    assert (shared.transmit_interval, shared.receive_interval, shared.multiplier) == (0.1, 0.2, 3)
    world.give(inputs.Bfd(shared.session, up=True))
    assert world.toy("first").told[-1] == ("bfd_changed", base.BfdState("mine", up=True))
    assert world.toy("second").told[-1] == ("bfd_changed", base.BfdState("own", up=True))
    world.absent.add("second")
    world.configure(dataclasses.replace(CONFIG, static=()))
    (relaxed,) = [output.request for output in world.find(outputs.Watch)]
    assert relaxed == dataclasses.replace(slow, session=shared.session)
    world.absent.add("first")
    world.configure()
    assert [output.request for output in world.find(outputs.Watch)] == [base.BfdClose(shared.session)]


def test_who_joins_a_session_hears_its_state() -> None:
    world = World(first={"configure": [base.BfdOpen("a", PEER)]}, second={"clear": [base.BfdOpen("b", PEER)]})
    world.configure()
    (watch,) = world.find(outputs.Watch)
    world.give(inputs.Bfd(watch.request.session, up=False, admin_down=True, diagnostic="x"))
    world.give(inputs.Clear("second", "x"))
    state = base.BfdState("b", up=False, admin_down=True, diagnostic="x")
    assert world.toy("second").told[-1] == ("bfd_changed", state)
    assert world.find(outputs.Watch) == []


def test_a_predecessors_routes_stay_until_their_protocol_has_settled() -> None:
    world = World(
        restarted=True,
        ospf={"restarts": [Protocol.OSPF], "clear": [base.Settled(Protocol.OSPF)]},
        rip={"restarts": [Protocol.RIP]},
    )
    world.configure()
    assert world.toy("ospf").environment.restarted
    (tables,) = world.find(outputs.Tables)
    assert tables.unsettled == (Protocol.OSPF, Protocol.RIP)
    assert world.engine.deadline == world.now + 600
    world.give(inputs.Clear("ospf", "x"), after=5)
    (tables,) = world.find(outputs.Tables)
    assert tables.unsettled == (Protocol.RIP,)
    assert world.give(inputs.Timeout(), after=10) == []
    world.give(inputs.Timeout(), after=585)
    (tables,) = world.find(outputs.Tables)
    assert tables.unsettled == ()
    assert "RIP" in world.find(outputs.Line)[0].message
    assert world.engine.deadline is None


def test_who_did_not_restart_keeps_nothing() -> None:
    world = World(ospf={"restarts": [Protocol.OSPF]})
    world.configure()
    assert not world.toy("ospf").environment.restarted
    assert world.find(outputs.Tables)[0].unsettled == ()


def test_timeouts_go_to_those_who_are_due() -> None:
    world = World(first={}, second={})
    world.configure()
    world.toy("first").due, world.toy("second").due = 110.0, 120.0
    world.give(inputs.Link(9, up=True))
    assert world.engine.deadline == 110.0
    world.give(inputs.Timeout(), after=10)
    assert "handle_timeout" in names(world, "first")
    assert "handle_timeout" not in names(world, "second")


def test_two_protocols_that_stir_each_other_for_ever_do_not_stop_the_world() -> None:
    def flip(toy: object, *_: object) -> list[base.Output]:
        toys.append(toy)
        return [base.RouteAdd((route("203.0.113.0/24", Protocol.OSPF, metric=len(toys)),))]

    toys: list[object] = []
    world = World(
        toy={"configure": [base.Redistribute((Protocol.OSPF, Protocol.STATIC))], "routes_changed": flip},
    )
    world.configure()
    assert len(toys) == 16
    assert world.engine.deadline == world.now
    world.give(inputs.Timeout())
    assert len(toys) == 32


def test_stopping_says_goodbye_and_leaves_the_tables() -> None:
    offered = route("203.0.113.0/24", Protocol.OSPF)
    world = World(toy={"configure": [UDP, base.RouteAdd((offered,))], "stop": [base.Transmit("s", PEER, b"bye")]})
    world.configure()
    world.give(inputs.Stop())
    assert world.asked() == [base.Transmit("s", PEER, b"bye"), base.CloseSocket("s")]
    assert world.find(outputs.Tables) == []
    assert "203.0.113.0/24" in world.fib


def test_clear_and_show_reach_instances() -> None:
    world = World(toy={"clear": [base.Log("info", "cleared")]})
    world.configure()
    world.give(inputs.Clear("toy", "neighbor", {"address": "10.0.0.2"}))
    assert world.toy("toy").told[-1] == ("clear", "neighbor", {"address": "10.0.0.2"})
    assert world.find(outputs.Line) == [outputs.Line("toy", "info", "cleared")]
    assert "clear" in world.engine.show("toy", "told", {}, world.now)
    with pytest.raises(KeyError):
        world.engine.show("toy", "nonsense", {}, world.now)
    with pytest.raises(KeyError):
        world.give(inputs.Clear("nobody", "x"))
