"""Two workers over in-memory ports: what a transit worker sends itself, what worker 0 does for it, in which order."""

from __future__ import annotations

import contextlib
import struct
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from fastpath import stats
from fastpath._layout import CONSTANTS
from fastpath.binding import ffi, lib
from tests.unit import packets, policing
from tests.unit.filter_world import Filters
from tests.unit.harness import HOST_A, HOST_B, ROUTER_A, ROUTER_B, Hop, Port, Router, two_sided
from vrouter.config.acl import AclBinding, AclEntry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 10.0
FLOW = 3000
SUPER = 40000
RING = 1024  # packets between a worker and worker 0


class Crew(Router):
    """A router with two workers, each with a part of both ports; time is the real one, as its threads see it."""

    def __init__(self) -> None:
        super().__init__(
            (replace(interface, dad=False) for interface in two_sided()), {"198.51.100.0/24": [Hop("10.0.1.2", "b")]}
        )
        self.parts = {number: Port(number, 1) for number in self.ports}
        for part in self.parts.values():
            part.attach(self.core, mtu=1500, up=True)
        self.advance_to_now()

    def _create(self) -> object:
        core = super()._create()
        assert lib.core_workers(core, 2, ffi.NULL) == 0
        return core

    def advance_to_now(self) -> None:
        """Let worker 0 run at the present time."""
        self.now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self.poll()

    def until(self, what: Callable[[], object], why: str) -> None:
        """Run worker 0 until something is so."""
        end = time.monotonic() + PATIENCE
        while not what():
            assert time.monotonic() < end, why
            self.advance_to_now()
            time.sleep(0.0002)

    def come(self, ports: dict[int, Port], number: int, count: int) -> list[bytes]:
        """Take frames that leave by a part of a port, so many at least; only IPv4 in transit and ICMP, no ARP."""
        frames: list[bytes] = []

        def enough() -> bool:
            frames.extend(frame for frame, _vnet in ports[number].receive() if frame[12:14] == b"\x08\x00")
            return len(frames) >= count

        self.until(enough, f"{count} frames leave")
        return frames

    def meet(self, name: str, address: str, mac: bytes) -> None:
        """Let a host ask for our address, which worker 0 hears."""
        interface = self.interfaces[name]
        body = packets.arp(1, mac, address, bytes(6), interface.addresses[0].split("/")[0])
        self.ports[interface.port].send(packets.ethernet(packets.BROADCAST, mac, packets.ARP, body))
        self.until(lambda: self.neighbor_state(address) == "STALE", "it is known")

    def handed(self) -> int:
        """Count what worker 1 gave to worker 0."""
        return self.state.view("workers", 1).integer("handed")

    def close(self) -> None:
        """Give everything back."""
        super().close()
        for part in self.parts.values():
            part.close()


@pytest.fixture
def crew() -> Iterator[Crew]:
    with contextlib.closing(Crew()) as found:
        yield found
        found.until(lambda: _settled(found), "nothing is left")
        found.laws()


def _settled(crew: Crew) -> bool:
    with contextlib.suppress(AssertionError):
        crew.laws()
        return True
    return False


def _datagram(number: int, ttl: int = 64, to: str = "10.0.1.2") -> bytes:
    body = packets.datagram4("10.0.0.2", to, struct.pack("!I", number) * 4, ttl=ttl)
    return packets.ethernet(ROUTER_A, HOST_A, packets.IP4, body)


def _number(frame: bytes) -> int:
    return int(struct.unpack("!I", frame[14 + 20 + 8 :][:4])[0])


def test_a_worker_forwards_what_is_plain(crew: Crew) -> None:
    crew.meet("b", "10.0.1.2", HOST_B)
    crew.parts[1].send(_datagram(1))
    frames = crew.come(crew.parts, 2, 1)
    assert frames == [packets.ethernet(HOST_B, ROUTER_B, packets.IP4, packets.forwarded4(_datagram(1)[14:]))]
    assert crew.handed() == 0
    assert crew.count("a", "forwarded_packets") == 1
    assert crew.counters("a").integer("forwarded_packets") == 0  # worker 0 had no part in it
    crew.until(lambda: crew.neighbor_state("10.0.1.2") == "DELAY", "its use was noted")


def test_what_is_for_the_router_goes_to_worker_0(crew: Crew) -> None:
    question = packets.arp(1, HOST_A, "10.0.0.2", bytes(6), "10.0.0.1")
    crew.parts[1].send(packets.ethernet(packets.BROADCAST, HOST_A, packets.ARP, question))
    crew.until(lambda: crew.neighbor_state("10.0.0.2") == "STALE", "the question was heard")
    answer = packets.arp(2, ROUTER_A, "10.0.0.1", HOST_A, "10.0.0.2")
    crew.until(lambda: packets.ethernet(HOST_A, ROUTER_A, packets.ARP, answer) in crew.receive(1), "and answered")
    crew.parts[1].send(packets.ethernet(ROUTER_A, HOST_A, packets.IP4, packets.echo4("10.0.0.2", "10.0.0.1")))
    (reply,) = crew.come(crew.ports, 1, 1)
    assert reply[34] == 0  # echo reply
    assert crew.count("a", "punt_packets") == 2
    assert crew.handed() == 2


def test_hop_by_hop_options_are_for_worker_0(crew: Crew) -> None:
    """Which counts and polices them, once; those in transit, and those for us."""
    body = bytes((packets.UDP, 0, 1, 4, 0, 0, 0, 0)) + packets.udp("2001:db8:a::2", "2001:db8:b::2")
    for to in ("2001:db8:b::2", "2001:db8:a::1"):
        crew.parts[1].send(
            packets.ethernet(ROUTER_A, HOST_A, packets.IP6, packets.ip6("2001:db8:a::2", to, body, protocol=0))
        )
    crew.until(lambda: crew.count("a", "rx_packets") == 2 and _settled(crew), "both have their fate")
    assert crew.handed() == 2
    assert policing.classes(crew)["options"] == (2, 0)


def test_what_worker_0_cannot_take_is_dropped_for_that(crew: Crew) -> None:
    """It does not run here, so its ring fills; transit goes on meanwhile."""
    crew.meet("b", "10.0.1.2", HOST_B)
    echo = packets.ethernet(ROUTER_A, HOST_A, packets.IP4, packets.echo4("10.0.0.2", "10.0.0.1"))
    end = time.monotonic() + PATIENCE
    sent = 0
    while "handover_full" not in crew.drops("a") and time.monotonic() < end:
        for _ in range(64):
            crew.parts[1].send(echo)
        sent += 64
        time.sleep(0.001)
    crew.parts[1].send(_datagram(1))
    while not (frames := crew.parts[2].receive()) and time.monotonic() < end:
        time.sleep(0.001)
    assert _number(frames[0][0]) == 1
    assert crew.handed() == RING
    crew.until(lambda: crew.count("a", "rx_packets") == sent + 1, "all were received")
    assert crew.drops("a")["handover_full"] == sent - RING


def test_a_worker_cuts_packets_itself(crew: Crew) -> None:
    crew.meet("b", "10.0.1.2", HOST_B)
    body = packets.datagram4("10.0.0.2", "10.0.1.2", bytes(2800))
    crew.parts[1].send(packets.ethernet(ROUTER_A, HOST_A, packets.IP4, body))
    assert [len(frame) for frame in crew.come(crew.parts, 2, 2)] == [14 + 1500, 14 + 20 + 8 + 2800 - 1480]
    assert crew.handed() == 0
    assert crew.count("b", "fragments_created") == 1


def test_errors_are_sent_by_worker_0_and_counted_where_they_belong(crew: Crew) -> None:
    crew.meet("a", "10.0.0.2", HOST_A)
    crew.parts[1].send(_datagram(7, ttl=1))
    (error,) = crew.come(crew.ports, 1, 1)
    assert error[34:36] == bytes([11, 0])  # time exceeded
    assert _number(error[20 + 8 :]) == 7  # quotes the packet
    assert crew.drops("a") == {"ttl_expired": 1}


def test_a_super_frame_for_an_unknown_neighbor_waits_for_it(crew: Crew) -> None:
    """What worker 0 cannot hold is its to drop; nothing of it stays with the worker."""
    vnet = bytes([0, 1]) + struct.pack("<HHHH", 54, 1460, 0, 0)  # TCPv4, no checksum to finish
    segment = bytes(12) + b"\x50" + bytes(SUPER)  # data offset 5
    body = packets.ip4("10.0.0.2", "10.0.1.9", segment, protocol=6)
    for _ in range(200):  # more than a ring to worker 0 may hold of super-frames
        crew.parts[1].send(packets.ethernet(ROUTER_A, HOST_A, packets.IP4, body), vnet)
        crew.advance_to_now()
    crew.until(lambda: sum(crew.drops("a").values()) == 200, "each has its fate")
    assert set(crew.drops("a")) <= {"neighbor_queue_full", "neighbor_rate_limited", "handover_full"}


@pytest.mark.parametrize("to", ["10.0.1.2", "198.51.100.7"])
def test_a_flow_keeps_its_order_while_its_neighbor_is_found(crew: Crew, to: str) -> None:
    """Its first packets leave by worker 0, its others by worker 1: never one of the former after one of the latter."""
    seen: list[int] = []
    late: list[int] = []
    direct = 0

    def look() -> None:
        nonlocal direct
        alone = [_number(frame) for frame, _vnet in crew.parts[2].receive() if frame[12:14] == b"\x08\x00"]
        for frame, _vnet in crew.ports[2].receive():
            if frame[12:14] == b"\x08\x06" and frame[38:42] == bytes([10, 0, 1, 2]) and not seen:
                answer = packets.arp(2, HOST_B, "10.0.1.2", ROUTER_B, "10.0.1.1")
                crew.ports[2].send(packets.ethernet(ROUTER_B, HOST_B, packets.ARP, answer))
            elif frame[12:14] == b"\x08\x00":
                (late if direct else seen).append(_number(frame))
        seen.extend(alone)
        direct += len(alone)

    for number in range(FLOW):
        crew.parts[1].send(_datagram(number, to=to))
        if number % 16 == 0:
            crew.advance_to_now()
            look()
    end = time.monotonic() + PATIENCE
    while FLOW - 1 not in seen and time.monotonic() < end:
        crew.advance_to_now()
        look()
    assert late == []
    assert seen == sorted(seen)
    assert seen[-1] == FLOW - 1
    assert direct > 0
    assert len(seen) + sum(crew.drops("a").values()) == FLOW


@pytest.mark.parametrize("to", ["10.0.1.2", "198.51.100.7"])
def test_a_neighbor_that_moves_has_one_address_or_the_other(crew: Crew, to: str) -> None:
    """Worker 0 changes a MAC while worker 1 reads it: no frame goes to a mixture of two."""
    macs = (bytes(range(0x20, 0x26)), bytes(range(0x40, 0x46)))
    crew.meet("b", "10.0.1.2", macs[0])
    used: set[bytes] = set()
    for turn in range(200):
        body = packets.arp(1, macs[turn % 2], "10.0.1.2", bytes(6), "10.0.1.1")
        crew.ports[2].send(packets.ethernet(packets.BROADCAST, macs[turn % 2], packets.ARP, body))
        for number in range(8):
            crew.parts[1].send(_datagram(number, to=to))
        crew.advance_to_now()
        used |= {frame[:6] for frame, _vnet in crew.parts[2].receive()}
    assert used <= set(macs)
    crew.until(lambda: crew.count("b", "forwarded_out_packets") == 1600, "all were sent")


def test_a_port_that_only_worker_0_serves_is_reached_through_it(crew: Crew) -> None:
    crew.meet("b", "10.0.1.2", HOST_B)
    assert lib.core_port_remove(crew.core, 2) == 0
    crew.parts.pop(2).close()
    crew.ports[2].attach(crew.core, mtu=1500, up=True)
    crew.meet("b", "10.0.1.2", HOST_B)
    for number in range(5):
        crew.parts[1].send(_datagram(number))
    assert [_number(frame) for frame in crew.come(crew.ports, 2, 5)] == list(range(5))
    assert crew.handed() == 5


def test_the_segment_tells_of_each_worker(crew: Crew) -> None:
    crew.meet("b", "10.0.1.2", HOST_B)
    crew.parts[1].send(_datagram(0))
    crew.come(crew.parts, 2, 1)
    assert [port["worker"] for port in stats.ports(crew.state)] == [0, 0, 1, 1]
    assert stats.progress(crew.state, 1)["batches"] > 0
    assert crew.state.view("workers", 1).integer("thread") != crew.state.view("workers", 0).integer("thread")


def test_a_successor_begins_again_with_its_workers(crew: Crew) -> None:
    lib.core_destroy(crew.core)
    crew.core = crew._create()
    for part in (*crew.ports.values(), *crew.parts.values()):
        part.attach(crew.core, mtu=1500, up=True)
    crew.meet("b", "10.0.1.2", HOST_B)
    crew.parts[1].send(_datagram(3))
    assert [_number(frame) for frame in crew.come(crew.parts, 2, 1)] == [3]


@pytest.mark.parametrize("count", [0, CONSTANTS["MAX_WORKERS"] + 1])
def test_there_are_no_more_workers_than_the_segment_has_room_for(count: int) -> None:
    with contextlib.closing(Router(two_sided())) as router:
        assert lib.core_workers(router.core, count, ffi.NULL) < 0


def test_lists_count_in_each_worker(crew: Crew) -> None:
    """Hits of both workers add up, and what is rejected is answered, by worker 0 for the other."""
    crew.meet("b", "10.0.1.2", HOST_B)
    crew.meet("a", "10.0.0.2", HOST_A)
    filters = Filters(crew)
    entries = [
        AclEntry(action="deny", protocol=(17,), destination_port=((53, 53),)),
        AclEntry(action="reject", protocol=(17,), destination_port=((7, 7),)),
        AclEntry(action="permit", protocol=(17,), set_dscp=46),
    ]
    filters.set({"in": tuple(entries)}, a={"acl": AclBinding(in_="in")})
    for port, count in ((53, 40), (7, 4), (2000, 100)):
        body = packets.ip4("10.0.0.2", "10.0.1.2", packets.udp("10.0.0.2", "10.0.1.2", dport=port))
        for number in range(count):
            (crew.parts if number % 2 else crew.ports)[1].send(packets.ethernet(ROUTER_A, HOST_A, packets.IP4, body))
    crew.until(lambda: filters.hits("in") == [40, 4, 100, 0], "all are decided about")
    sent = crew.come(crew.ports, 2, 50) + crew.come(crew.parts, 2, 50)
    assert {frame[15] >> 2 for frame in sent} == {46}
    errors = crew.come(crew.ports, 1, 4)
    assert {(frame[34], frame[35]) for frame in errors} == {(3, 13)}
    assert len(errors) == 4
    assert crew.drops("a") == {"acl_in": 44}
