"""The instances' sockets in two VRs of this process: UDP, raw and TCP through their forwarders, with all options."""

from __future__ import annotations

import errno
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from fastpath import segment, stats
from fastpath.sockets import connections
from tests.unit.stream_worlds import BLUE, BLUE6, RED, Pair
from vrouter.engine import inputs
from vrouter.net.address import parse_address, parse_prefix
from vrouter.proto.base import (
    CloseSocket,
    JoinGroup,
    LeaveGroup,
    Md5Key,
    OpenSocket,
    SetKeys,
    SetMinTtl,
    SocketKind,
    Transmit,
    Write,
)
from vrouter.runtime.loop import Loop
from vrouter.runtime.transport import Transport

UDP, RAW, LISTEN, CONNECT = SocketKind.UDP, SocketKind.RAW, SocketKind.LISTEN, SocketKind.CONNECT
GROUP = parse_address("224.0.0.9")
_Event = TypeVar("_Event")


class End:
    """A control's transport in one VR, and all that it told."""

    def __init__(self, side: Any, loop: Loop) -> None:
        self.side = side
        self.loop = loop
        self.told: list[inputs.Input] = []
        names = {name: side.router.index(name) for name in side.router.interfaces}
        self.transport = Transport(
            loop,
            side.path,
            lambda name: names.get(name, 0),
            lambda index: next((name for name, it in names.items() if it == index), ""),
            self.told.append,
        )

    def ask(self, *requests: Any) -> None:
        for request in requests:
            self.transport.ask("toy", request)

    def wait(self, kind: type[_Event], count: int = 1) -> _Event:
        """Wait for the `count`th event of a kind since the last forget()."""
        self.until(lambda: len(self.found(kind)) >= count, kind.__name__)
        return self.found(kind)[count - 1]

    def until(self, done: Callable[[], bool], what: str = "") -> None:
        deadline = time.monotonic() + 20
        while not done():
            assert time.monotonic() < deadline, (what, self.told)
            self.loop.step(0.005)

    def found(self, kind: type[_Event]) -> list[_Event]:
        return [event for event in self.told if isinstance(event, kind)]

    def bytes(self, socket: str = "") -> bytes:
        return b"".join(event.data for event in self.found(inputs.Stream) if socket in {"", event.socket})


class World:
    """Red and blue, each with the transport of a control."""

    def __init__(self, folder: Path) -> None:
        self.pair = Pair(folder, late=False)
        self.loop = Loop()
        self.red, self.blue = End(self.pair.red, self.loop), End(self.pair.blue, self.loop)

    def connect(self, *, port: int = 179, **options: Any) -> tuple[str, str]:
        """Connect red to blue; give both names."""
        listen = {key: value for key, value in options.items() if key in {"md5", "min_ttl", "ttl"}}
        self.blue.ask(OpenSocket("l", LISTEN, 4, local_port=port, **listen))
        self.blue.wait(inputs.Opened)
        remote = parse_address(BLUE)
        self.red.ask(OpenSocket("c", CONNECT, 4, remote=remote, remote_port=port, **options))
        self.red.wait(inputs.Connected)
        return "c", self.blue.wait(inputs.Accepted).socket

    def close(self) -> None:
        self.red.transport.close()
        self.blue.transport.close()
        self.pair.close()
        self.loop.close()


@pytest.fixture
def world() -> Iterator[World]:
    with tempfile.TemporaryDirectory() as folder:
        made = World(Path(folder))
        try:
            yield made
        finally:
            made.close()


def test_datagrams_go_both_ways_and_tell_where_they_came_from(world: World) -> None:
    for end in (world.red, world.blue):
        end.ask(OpenSocket("s", UDP, 4, local_port=520, ttl=3))
        assert end.wait(inputs.Opened) == inputs.Opened("toy", "s")
    world.red.ask(Transmit("s", parse_address(BLUE), b"question", 520))
    got = world.blue.wait(inputs.Received)
    assert (got.instance, got.socket, got.packet) == ("toy", "s", b"question")
    meta = got.meta
    assert (meta.interface, str(meta.source), str(meta.destination)) == ("a", RED, BLUE)
    assert (meta.ttl, meta.source_port, meta.destination_port) == (3, 520, 520)
    world.blue.ask(Transmit("s", meta.source, b"answer", meta.source_port, interface="a"))
    assert world.red.wait(inputs.Received).packet == b"answer"


def test_groups_are_joined_and_left_and_do_not_echo(world: World) -> None:
    world.red.ask(OpenSocket("s", UDP, 4, local_port=520, ttl=1, groups=(("a", GROUP),)))
    world.blue.ask(OpenSocket("s", UDP, 4, local_port=520, ttl=1), JoinGroup("s", "a", GROUP))
    for end in (world.red, world.blue):
        end.wait(inputs.Opened)
    world.blue.until(lambda: not world.blue.transport._layer._asked)
    world.red.ask(Transmit("s", GROUP, b"hello", 520, interface="a"))
    got = world.blue.wait(inputs.Received)
    assert (got.packet, got.meta.destination, got.meta.ttl) == (b"hello", GROUP, 1)
    world.blue.ask(LeaveGroup("s", "a", GROUP))
    world.blue.until(lambda: not world.blue.transport._layer._asked)
    world.red.ask(Transmit("s", GROUP, b"again", 520, interface="a"), Transmit("s", parse_address(BLUE), b"end", 520))
    assert world.blue.wait(inputs.Received, 2).packet == b"end"
    assert world.red.found(inputs.Received) == []


def test_raw_packets_begin_behind_the_header(world: World) -> None:
    ospf = OpenSocket(
        "o", RAW, 4, protocol=89, interface="a", ttl=1, tos=0xC0, groups=(("a", parse_address("224.0.0.5")),)
    )
    for end in (world.red, world.blue):
        end.ask(ospf)
        end.wait(inputs.Opened)
    world.red.ask(Transmit("o", parse_address("224.0.0.5"), b"\x02\x01hello", interface="a"))
    got = world.blue.wait(inputs.Received)
    assert got.packet == b"\x02\x01hello"
    assert (got.meta.interface, str(got.meta.source), got.meta.ttl) == ("a", RED, 1)


def test_raw_packets_of_ipv6_from_next_door_alone(world: World) -> None:
    everybody = parse_address("ff02::5")
    for end, ttl in ((world.red, 255), (world.blue, 255)):
        end.ask(OpenSocket("r", RAW, 6, protocol=89, ttl=ttl, min_ttl=255, groups=(("a", everybody),)))
        end.ask(OpenSocket("far", RAW, 6, protocol=89, ttl=254))
        end.wait(inputs.Opened, 2)
    world.red.ask(Transmit("far", everybody, b"from afar", interface="a"))
    world.red.ask(Transmit("r", everybody, b"hello", interface="a"))
    got = world.blue.wait(inputs.Received)
    assert got.packet == b"hello"
    assert (str(got.meta.source), got.meta.ttl, got.meta.interface) == ("fe80::1", 255, "a")


def test_a_stream_carries_bytes_and_tells_when_it_takes_more(world: World) -> None:
    here, there = world.connect()
    connected, accepted = world.red.wait(inputs.Connected), world.blue.wait(inputs.Accepted)
    assert (str(connected.local), str(connected.remote)) == (RED, BLUE)
    assert (str(accepted.local), str(accepted.remote), accepted.listener) == (BLUE, RED, "l")
    world.red.ask(Write(here, b"hello"))
    world.blue.until(lambda: world.blue.bytes() == b"hello")
    assert world.red.wait(inputs.Writable) == inputs.Writable("toy", here)
    data = bytes(range(256)) * 16384  # 4 MiB: more than all buffers on the way
    world.blue.ask(Write(there, data))
    assert world.blue.found(inputs.Writable) == []
    world.red.until(lambda: len(world.red.bytes()) == len(data))
    assert world.red.bytes() == data
    world.blue.wait(inputs.Writable)
    assert max(len(event.data) for event in world.red.found(inputs.Stream)) > 4096


def test_closing_in_order_gives_all_that_was_written(world: World) -> None:
    here, there = world.connect()
    data = b"x" * 3_000_000
    world.red.ask(Write(here, data), CloseSocket(here))
    world.blue.until(lambda: bool(world.blue.found(inputs.Stream)) and world.blue.found(inputs.Stream)[-1].data == b"")
    assert world.blue.bytes() == data
    world.blue.ask(CloseSocket(there))
    world.red.until(lambda: not world.red.transport._lingering)
    assert world.red.found(inputs.Closed) == []


def test_a_reset_is_told_as_one(world: World) -> None:
    here, there = world.connect()
    world.red.ask(CloseSocket(here, reset=True))
    closed = world.blue.wait(inputs.Closed)
    assert (closed.socket, closed.error) == (there, errno.ECONNRESET)


def test_a_connection_that_is_refused(world: World) -> None:
    world.red.ask(OpenSocket("c", CONNECT, 4, remote=parse_address(BLUE), remote_port=179))
    assert world.red.wait(inputs.Closed) == inputs.Closed("toy", "c", errno.ECONNREFUSED)
    world.red.ask(OpenSocket("d", CONNECT, 4, remote=parse_address("203.0.113.1"), remote_port=179))
    assert world.red.wait(inputs.Closed, 2) == inputs.Closed("toy", "d", errno.ENETUNREACH)


def test_opening_that_fails_is_told_later(world: World) -> None:
    world.red.ask(OpenSocket("s", UDP, 4, interface="nowhere"))
    assert world.red.told == []
    assert world.red.wait(inputs.Closed) == inputs.Closed("toy", "s", errno.ENODEV)
    world.red.ask(OpenSocket("t", UDP, 4, local=parse_address("192.0.2.77"), local_port=1))
    assert world.red.wait(inputs.Closed, 2) == inputs.Closed("toy", "t", errno.EADDRNOTAVAIL)


def test_a_name_may_be_used_again_at_once(world: World) -> None:
    wanted = OpenSocket("s", LISTEN, 4, local_port=179)
    world.red.ask(wanted)
    world.red.wait(inputs.Opened)
    world.red.ask(CloseSocket("s"), wanted)
    world.red.wait(inputs.Opened, 2)
    world.red.ask(CloseSocket("s"), wanted, CloseSocket("s"), wanted)
    world.red.wait(inputs.Opened, 3)
    assert world.red.found(inputs.Closed) == []


def test_ipv6_over_link_local_addresses(world: World) -> None:
    local = parse_address("fe80::2")
    world.blue.ask(OpenSocket("l", LISTEN, 6, local=local, local_port=179, interface="a"))
    world.blue.wait(inputs.Opened)
    world.red.ask(OpenSocket("c", CONNECT, 6, remote=local, remote_port=179, interface="a"))
    assert str(world.red.wait(inputs.Connected).local) == "fe80::1"
    accepted = world.blue.wait(inputs.Accepted)
    assert (str(accepted.local), str(accepted.remote)) == ("fe80::2", "fe80::1")


def test_ipv4_and_ipv6_listeners_share_a_port(world: World) -> None:
    world.blue.ask(OpenSocket("l4", LISTEN, 4, local_port=179), OpenSocket("l6", LISTEN, 6, local_port=179))
    world.blue.wait(inputs.Opened, 2)
    for name, family, address in (("c4", 4, BLUE), ("c6", 6, BLUE6)):
        world.red.ask(OpenSocket(name, CONNECT, family, remote=parse_address(address), remote_port=179))
    world.blue.wait(inputs.Accepted, 2)
    assert {event.listener for event in world.blue.found(inputs.Accepted)} == {"l4", "l6"}


def test_md5_keys_let_in_who_has_them(world: World) -> None:
    key = Md5Key(parse_prefix("10.0.0.0/24"), b"secret")
    here, _there = world.connect(md5=(key,))
    world.red.ask(Write(here, b"signed"))
    world.blue.until(lambda: world.blue.bytes() == b"signed")
    world.blue.ask(SetKeys("l", (Md5Key(key.peers, b"other"),)))
    world.blue.until(lambda: not world.blue.transport._layer._asked)
    remote = parse_address(BLUE)
    world.red.ask(OpenSocket("d", CONNECT, 4, remote=remote, remote_port=179, md5=(key,)))
    for _ in range(40):
        world.loop.step(0.005)
    assert len(world.blue.found(inputs.Accepted)) == 1, "a wrong key is silence"
    world.red.ask(CloseSocket("d"))


def test_segments_from_afar_are_not_taken(world: World) -> None:
    here, _there = world.connect(ttl=255, min_ttl=255)
    world.red.ask(SetMinTtl(here, 255, 64))
    world.red.until(lambda: not world.red.transport._layer._asked)
    world.red.ask(Write(here, b"too far"))
    for _ in range(40):
        world.loop.step(0.005)
    assert world.blue.bytes() == b""
    world.red.ask(SetMinTtl(here, 255, 255))
    world.blue.until(lambda: world.blue.bytes() == b"too far")


def test_a_forwarder_that_dies_takes_the_streams_alone(world: World) -> None:
    here, _there = world.connect()
    world.red.ask(OpenSocket("s", UDP, 4, local_port=520), OpenSocket("l", LISTEN, 4, local_port=180))
    world.red.wait(inputs.Opened, 2)
    world.pair.stop()
    world.pair.red.router.crash()
    world.pair.red.serve()
    world.pair.start()
    # In one process, the dead core's ends stay open: what a kernel does when a process dies is done by hand.
    stream = world.red.transport._sockets["toy", here]
    assert stream.fd is not None
    stream.fd.shutdown(socket.SHUT_RDWR)
    layer = world.red.transport._layer
    assert layer._peer is not None
    layer._peer.shutdown(socket.SHUT_RDWR)
    assert world.red.wait(inputs.Closed) == inputs.Closed("toy", here, errno.ECONNABORTED)
    remote = parse_address(BLUE)
    world.red.ask(OpenSocket("again", CONNECT, 4, remote=remote, remote_port=179))
    assert world.red.wait(inputs.Connected, 2).socket == "again"
    world.red.ask(JoinGroup("s", "a", GROUP))
    world.red.until(lambda: not layer._asked)
    assert len(world.red.found(inputs.Closed)) == 1, "datagram sockets and listeners go on"


def test_sockets_are_shown_under_the_name_of_their_protocol(world: World) -> None:
    world.connect()
    world.red.ask(OpenSocket("s", UDP, 4, local_port=520))
    world.red.wait(inputs.Opened)
    world.pair.stop()
    with segment.Segment(world.pair.red.router.state_fd, segment.KIND_STATE) as state:
        apps = {entry["app"] for entry in [*stats.sockets(state), *connections(state)]}
    world.pair.start()
    assert apps == {"toy"}


def test_many_turns_for_others_while_a_stream_is_read(world: World) -> None:
    here, there = world.connect()
    data = bytes(8_000_000)
    world.blue.ask(Write(there, data))
    ticks: list[float] = []

    def tick() -> None:
        ticks.append(time.monotonic())
        world.loop.call_later(0, tick)

    tick()
    turns = 0
    while len(world.red.bytes(here)) < len(data):
        world.loop.step(0.01)
        turns += 1
        assert turns < 100_000
    assert len(ticks) > turns / 2, "a timer has its turn in each round"


def test_closing_everything_leaves_nothing_open(world: World) -> None:
    before = len(os.listdir("/proc/self/fd"))
    end = End(world.pair.red, world.loop)
    end.ask(OpenSocket("s", UDP, 4, local_port=521), OpenSocket("l", LISTEN, 4, local_port=181))
    end.wait(inputs.Opened, 2)
    end.ask(OpenSocket("t", UDP, 4, local_port=522))
    end.transport.close()
    end.until(lambda: len(os.listdir("/proc/self/fd")) == before)
