"""What a hostile neighbor, a stranger or bad timing may do to a router: in memory, in virtual time."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import pytest

from tests.unit import bgp_world
from tests.unit.bgp_world import BgpWorld, Router
from tests.unit.test_bgp_sessions import A, B, bgp, greet, scripted, update
from vrouter.config.bgp import Bgp, ListenRange, MaxPrefixes, Neighbor, Session, Timers
from vrouter.net.address import parse_address
from vrouter.proto import base
from vrouter.rib.bgp_reference import ReferenceTable
from vrouter.rib.bgp_table import Afi
from vrouter.runtime.bgp_bulk import BulkTable
from vrouter.wire.bgp import capabilities
from vrouter.wire.bgp.message import KEEPALIVE, Open, Refresh, RefreshKind, encode_open, encode_refresh, frame
from vrouter.wire.bgp.update import end_of_rib


@pytest.fixture(autouse=True, params=["python", "c"])
def table(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything holds with the table in C and with its twin."""
    monkeypatch.setattr(bgp_world, "make_table", {"python": ReferenceTable, "c": BulkTable}[request.param])


RESTARTS = capabilities.Capabilities(
    families=frozenset({1}),
    as4=65002,
    route_refresh=True,
    enhanced_refresh=True,
    extended_message=True,
    graceful_restart=capabilities.GracefulRestart(120, families=((1, True),)),
)
HELLO = encode_open(Open(65002, 90, 0x0A000002, capabilities.encode(RESTARTS))) + KEEPALIVE


def ranged(world: BgpWorld, limit: int = 1, **values: Any) -> Router:
    """A router that takes neighbors from a prefix."""
    group = Session(**{"remote_as": 65002, "require_policy": False} | values)
    listen = {"10.0.0.0/24": ListenRange(group="guests", limit=limit)}
    red = world.router(f"{A}/24", Bgp(asn=65001, groups={"guests": group}, listen=listen))
    world.run(1)
    return red


def test_a_stranger_that_hangs_up_leaves_no_neighbor() -> None:
    world = BgpWorld()
    red = ranged(world)
    peer = world.script(f"{B}/24")
    peer.call(red)
    world.run(1)
    peer.hang_up(peer.socket)
    world.run(1)
    assert B not in red.summary()


def test_a_stranger_that_is_refused_leaves_no_neighbor() -> None:
    world = BgpWorld()
    red = ranged(world, local_address="10.0.0.99")
    peer = world.script(f"{B}/24")
    peer.call(red)
    world.run(1)
    assert not red.ends
    assert B not in red.summary()


def test_a_neighbor_that_came_of_itself_and_does_not_return_goes() -> None:
    world = BgpWorld()
    red = ranged(world)
    peer = world.script(f"{B}/24")
    greet(world, red, peer, RESTARTS)
    peer.hang_up(peer.socket, reset=True)
    world.run(60)
    assert red.summary()[B]["state"] != "established"  # it may come back
    world.run(120)
    assert B not in red.summary()


def test_a_neighbor_that_came_of_itself_is_held_to_its_limit() -> None:
    world = BgpWorld()
    red = ranged(world, limit=2, max_prefixes=MaxPrefixes(ipv4=1))
    peer = world.script(f"{B}/24")
    greet(world, red, peer)
    peer.say(update("10.9.0.0/16", "10.8.0.0/16"))
    world.run(5)
    assert red.state(B) == "max-prefixes"
    peer.call(red)
    peer.say(HELLO)
    assert red.state(B) == "max-prefixes"
    red.take(red.instance.clear("reset", {"neighbor": B}, world.now))
    world.run(5)
    assert B not in red.summary()


def test_a_neighbor_that_came_of_itself_waits_after_nonsense() -> None:
    world = BgpWorld()
    red = ranged(world)
    peer = world.script(f"{B}/24")
    peer.call(red)
    peer.say(bytes(19))
    assert not red.ends
    peer.call(red)
    world.run(0.1)
    assert not red.ends
    world.run(60)
    assert B not in red.summary()


def test_a_neighbor_that_came_of_itself_may_be_named() -> None:
    world = BgpWorld()
    red = ranged(world)
    peer = world.script(f"{B}/24")
    greet(world, red, peer)
    named = Neighbor(remote_as=65002, require_policy=False, group="guests")
    red.configure(replace(red.config, neighbors={B: named}))
    assert red.state(B) == "established"
    peer.hang_up(peer.socket)
    world.run(5)
    assert B in red.summary()
    assert any(isinstance(each, base.OpenSocket) and each.remote == parse_address(B) for each in red.outputs)


def test_a_long_refresh_is_answered_with_a_notification_that_fits() -> None:
    world = BgpWorld()
    red, peer = scripted(world, RESTARTS)
    peer.messages()
    peer.say(frame(5, struct.pack("!HBB", 1, RefreshKind.BEGIN, 1) + bytes(65535 - 23)))
    kind, body = peer.messages()[-1]
    assert (kind, body[:2]) == (3, b"\x07\x01")
    assert len(body) <= 4096 - 19
    assert red.state(B) != "established"


def test_refreshes_that_nobody_reads_the_answers_to_are_bounded() -> None:
    world = BgpWorld()
    red, peer = scripted(world, RESTARTS)
    before = red.written()
    socket = next(iter(red.ends))
    for _ in range(5):
        red.take(red.instance.stream(socket, encode_refresh(Refresh(1, 1)) * 1000, world.now))
    assert red.written() - before < 10
    peer.messages()
    world.run(1)
    found = [body for kind, body in peer.messages() if kind == 5]
    assert found[-1][2] == RefreshKind.END


def test_many_ends_of_a_refresh_cost_one_look_through_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    world = BgpWorld()
    red, peer = scripted(world, RESTARTS)
    peer.say(update("10.8.0.0/16"))
    flushed = []
    flush = type(red.table).peer_flush

    def count(*args: Any, **named: Any) -> None:
        flushed.append(args)
        flush(*args, **named)

    monkeypatch.setattr(type(red.table), "peer_flush", count)
    begin, end = (encode_refresh(Refresh(1, 1, kind)) for kind in (RefreshKind.BEGIN, RefreshKind.END))
    peer.say((begin + update("10.9.0.0/16") + end) * 100)
    assert len(flushed) == 1
    assert red.prefixes() == {"10.1.0.0/16", "10.9.0.0/16"}


def test_a_refresh_that_comes_in_one_piece_keeps_what_it_brings() -> None:
    begin, end = (encode_refresh(Refresh(1, 1, kind)) for kind in (RefreshKind.BEGIN, RefreshKind.END))
    told = begin + update("10.9.0.0/16") + end
    for pieces in ((told,), (told[:30], told[30:]), (told[:10], told[10:22], told[22:]), (KEEPALIVE + told * 2,)):
        world = BgpWorld()
        red, peer = scripted(world, RESTARTS)
        peer.say(update("10.8.0.0/16", "10.9.0.0/16"))
        for piece in pieces:
            peer.say(piece)
        assert red.prefixes() == {"10.1.0.0/16", "10.9.0.0/16"}


def test_marks_of_a_refresh_mean_nothing_to_who_has_not_agreed_on_them() -> None:
    """RFC 2918 section 3: the byte is reserved there, and to be ignored."""
    world = BgpWorld()
    red, peer = scripted(world, capabilities.Capabilities(families=frozenset({1}), as4=65002, route_refresh=True))
    peer.say(update("10.8.0.0/16"))
    peer.messages()
    peer.say(encode_refresh(Refresh(1, 1, RefreshKind.BEGIN)) + encode_refresh(Refresh(1, 1, RefreshKind.END)))
    world.run(1)
    assert red.prefixes() == {"10.1.0.0/16", "10.8.0.0/16"}
    assert {kind for kind, _ in peer.messages()} == {2}  # two requests, answered with what there is


def test_the_end_of_a_family_that_nobody_knows() -> None:
    for afi, safi in ((25, 65), (1, 128), (0, 0), (65535, 255), (2, 1)):
        world = BgpWorld()
        red, peer = scripted(world, RESTARTS)
        value = struct.pack("!HB", afi, safi)
        peer.say(frame(2, b"\0\0" + struct.pack("!H", 6) + b"\x80\x0f\x03" + value))
        assert red.state(B) == "established", (afi, safi)
        assert not next(iter(red.instance.neighbors.values())).ended, (afi, safi)


def test_routes_that_were_stale_already_do_not_survive_another_loss() -> None:
    world = BgpWorld()
    red, peer = scripted(world, RESTARTS)
    peer.say(update("10.8.0.0/16", "10.9.0.0/16") + end_of_rib(Afi.IPV4))
    peer.hang_up(peer.socket, reset=True)
    world.run(2)
    peer.call(red)
    peer.say(HELLO)
    peer.say(update("10.9.0.0/16"))
    peer.hang_up(peer.socket, reset=True)
    world.run(2)
    assert red.prefixes() == {"10.1.0.0/16", "10.9.0.0/16"}


def test_routes_that_wait_for_a_neighbor_go_when_it_is_shut() -> None:
    for change in ({"shutdown": True}, {"remote_as": 65009}):
        world = BgpWorld()
        red, peer = scripted(world, RESTARTS)
        peer.say(update("10.9.0.0/16"))
        peer.hang_up(peer.socket, reset=True)
        world.run(2)
        assert "10.9.0.0/16" in red.prefixes()
        red.change(B, **change)
        world.run(2)
        assert "10.9.0.0/16" not in red.prefixes()


def test_a_change_before_a_session_silences_no_notification_of_it() -> None:
    world = BgpWorld()
    red = world.router(f"{A}/24", bgp(65001, (B, 65002), passive=True))
    red.change(B, passive=False)
    red.change(B, passive=True)
    peer = world.script(f"{B}/24")
    greet(world, red, peer, RESTARTS)
    peer.messages()
    peer.say(bytes(19))
    assert peer.messages()[-1][0] == 3


def test_an_attempt_that_takes_long_goes_on_beside_a_connection_that_came() -> None:
    world = BgpWorld()
    red = world.router(f"{A}/24", bgp(65001, (B, 65002), timers=Timers(connect_retry=2)))
    peer = world.script(f"{B}/24")
    peer.listening.clear()
    world.connect = lambda _node, wish: wishes.append(wish)  # type: ignore[assignment,method-assign]
    wishes: list[base.OpenSocket] = []
    world.run(1)
    peer.call(red)
    world.run(10)
    neighbor = red.instance.neighbors[parse_address(B)]
    known = {each.socket for each in neighbor._sessions()}
    owned = {name for name, each in red.instance._sockets.items() if each.socket == name}
    assert owned == known
    peer.say(HELLO)
    assert red.state(B) == "established"
    open_ = [each.socket for each in red.outputs if isinstance(each, base.OpenSocket)]
    closed = [each.socket for each in red.outputs if isinstance(each, base.CloseSocket)]
    assert set(open_) - {"listen4", "listen6"} == set(closed)


def test_a_stranger_on_another_link_is_not_the_neighbor_of_that_address() -> None:
    world = BgpWorld()
    neighbors = {"fe80::2": Neighbor(remote_as=65002, interface="wan", passive=True)}
    red = world.router(f"{A}/24 fe80::1/64", Bgp(asn=65001, neighbors=neighbors))
    wan = base.InterfaceState("wan", True, 1500, (base.OwnAddress(parse_address("fe80::a"), 64, link_local=True),))
    red.take(red.instance.interface_changed(wan, world.now))
    world.run(1)
    peer = world.script("fe80::2/64")
    peer.call(red)  # comes in by fe80::1, which is of lan
    world.run(1)
    assert not red.ends


def test_nobody_is_spoken_to_without_an_identifier() -> None:
    world = BgpWorld()
    red = world.router("2001:db8::1/64", bgp(65001, ("2001:db8::2", 65002), passive=True))
    peer = world.script("2001:db8::2/64")
    world.run(1)
    peer.call(red)
    world.run(1)
    assert not peer.messages()
