"""The programs of the offloads and the forwarder, frame by frame: what one forwards leaves the other alike.

The programs are run by BPF_PROG_TEST_RUN on the maps of a router in memory; then the router gets the same frame.
"""

from __future__ import annotations

import gzip
import ipaddress
import os
import random
import struct
from collections import Counter
from dataclasses import replace
from pathlib import Path
from socket import IPPROTO_TCP
from typing import TYPE_CHECKING, Any, Final

import pytest
from frames import Frames

from fastpath._layout import CONSTANTS, SIZES
from fastpath.binding import check, ffi, lib
from manager import bpf_objects
from tests.unit import harness, packets
from tests.unit.bypass_maps import PROCESSORS, Maps
from tests.unit.harness import HOST_A, OTHER, Hop, Router, two_sided

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root

XDP_PASS, XDP_REDIRECT = 2, 4
TC_ACT_SHOT, TC_ACT_REDIRECT = 2, 7
CONTEXT, GSO_SIZE = 192, 176  # struct __sk_buff, and a place in it
A, B = 1, 2
ROOM: Final = 4096
SMALL: Final = 600 << 10  # bytes of a map that a few thousand routes fill
HOPS: Final = 40  # neighbors at b, each with an address of its own
LOOPBACK: Final = struct.pack("=I", 1)  # stands for each device: where a frame goes is told by its MAC addresses
MEMORY: Final = {"memory": PROCESSORS * SIZES["bypass_memory"]}
LAW_FRAMES: Final = int(os.environ.get("LAW_FRAMES", "1000000")) // 100
DATA: Final = os.environ.get("ANABRANCH_TEST_DATA", "")


def hop_address(number: int, family: int = 4) -> str:
    return f"10.0.1.{2 + number}" if family == 4 else f"2001:db8:b::{2 + number:x}"


def hop_mac(number: int) -> bytes:
    return bytes([2, 0, 0, 0, 0xB0, number])


def make_map(name: str, size: int) -> int:
    return bpf_objects.create_map(replace(bpf_objects.map_kind("offload", name), value=size), name)


class AtDriver:
    """The program of `offload: xdp`."""

    def __init__(self, maps: dict[str, int], constants: dict[str, int]) -> None:
        self.program = bpf_objects.load("offload", maps=maps, entries={"sockets": 1}, sizes=MEMORY, constants=constants)
        for port in (A, B):
            bpf_objects.set_element(self.program.maps["devices"], port, LOOPBACK)

    def run(self, frame: bytes, gso_size: int) -> bytes | None:
        """Give the frame as it is sent, or None: it goes on."""
        assert not gso_size
        result, after = bpf_objects.run_once(self.program.fd, frame, ROOM)
        if result == XDP_PASS:
            assert after == frame, "a frame that goes on is untouched"
            return None
        assert result == XDP_REDIRECT
        return after

    def close(self) -> None:
        self.program.close()


class AtTap:
    """Those of `offload: tc`: what the filter says of a frame goes with it to the other."""

    def __init__(self, maps: dict[str, int], constants: dict[str, int]) -> None:
        self.chooses = bpf_objects.load("tap", maps=maps, sizes=MEMORY, constants=constants)
        for port in (A, B):
            bpf_objects.set_element(self.chooses.maps["ways"], port, LOOPBACK)
        shared = {**maps, "ways": self.chooses.maps["ways"]}
        self.sends = bpf_objects.load("pass", maps=shared, sizes=MEMORY, constants=constants)

    def run(self, frame: bytes, gso_size: int) -> bytes | None:
        context = bytearray(CONTEXT)
        struct.pack_into("=I", context, GSO_SIZE, gso_size)
        # A filter's frame is run without the first 14 bytes of what is given.
        taken, _after = bpf_objects.run_once(self.chooses.fd, bytes(14) + frame, ROOM, context)
        told = bytearray(CONTEXT)
        told[48:68] = context[48:68]  # cb
        struct.pack_into("=I", told, GSO_SIZE, gso_size)
        if taken:
            assert taken >= len(frame)
            if len(frame) >= 54:  # what is cut short cannot be run
                assert bpf_objects.run_once(self.sends.fd, frame, ROOM, told) == (TC_ACT_SHOT, frame)
            return None
        result, after = bpf_objects.run_once(self.sends.fd, frame, ROOM, told)
        assert result == TC_ACT_REDIRECT
        return after

    def close(self) -> None:
        self.sends.close()
        self.chooses.close()


def super_header(frame: bytes, gso_size: int) -> bytes:
    """Give the vnet header of a super-frame of TCP or UDP."""
    four = frame[14] >> 4 == 4
    start = 34 if four else 54
    tcp = frame[23 if four else 20] == IPPROTO_TCP
    kind = (1 if four else 4) if tcp else 5  # VIRTIO_NET_HDR_GSO_TCPV4, _TCPV6, _UDP_L4
    return struct.pack("=BBHHHH", 1, kind, start + (20 if tcp else 8), gso_size, start, 16 if tcp else 6)


class Offloaded:
    """A router in memory, and the programs that have its maps."""

    def __init__(
        self, routes: dict[str, list[Hop]], kind: type = AtDriver, *, fib_bytes: int = 1 << 21, partial: int = 0
    ) -> None:
        self.router = Router([replace(interface, dad=False) for interface in two_sided()], routes)
        self.router.settle()
        self.router.meet("a", "10.0.0.2", HOST_A)
        self.router.meet("a", "2001:db8:a::2", HOST_A)
        for number in range(HOPS):
            for family in (4, 6):
                self.router.meet("b", hop_address(number, family), hop_mac(number))
                self.router.advance(0.1)  # more at once would be policed
        self.maps = Maps(self.router, make_map, fib_bytes=fib_bytes)
        assert self.maps.ready(), self.maps.wanted()
        constants = {"port": A, "processors": PROCESSORS, "partial": partial, "fib_size": fib_bytes}
        self.programs = kind(self.maps.fds, constants)
        self.seen: Counter[str] = Counter()

    def compare(self, frame: bytes, gso_size: int = 0) -> bool:
        """Tell whether the programs forward a frame; the router must then make the same of it."""
        after = self.programs.run(frame, gso_size)
        self.router.send(A, frame, vnet=super_header(frame, gso_size) if gso_size else None)
        came = {mac: self.router.receive(port) for port, mac in ((A, harness.ROUTER_A), (B, harness.ROUTER_B))}
        if after is None:
            return False
        assert came[after[6:12]] == [after], (frame.hex(), after.hex(), came)
        self.seen[after[:6].hex()] += 1
        return True

    def __enter__(self) -> Offloaded:
        return self

    def __exit__(self, *_: object) -> None:
        self.programs.close()
        self.maps.end()
        self.maps.close()
        self.router.close()


ROUTES: Final = {
    "10.128.0.0/9": [Hop(hop_address(0), "b"), Hop(hop_address(1), "b", weight=3), Hop("10.0.0.2", "a")],
    "172.16.0.0/12": [Hop("10.0.0.2", "a")],
    "192.0.2.0/24": [Hop()],
    "2001:db8:c::/48": [Hop(hop_address(2, 6), "b"), Hop(hop_address(3, 6), "b", weight=2)],
    "2001:db8:d::/48": [Hop("2001:db8:a::2", "a")],
    "198.18.0.0/15": [Hop(hop_address(4, 6), "b")],  # RFC 8950
}


@pytest.fixture(params=[AtDriver, AtTap])
def offloaded(request: pytest.FixtureRequest) -> Iterator[Offloaded]:
    with Offloaded(ROUTES, request.param) as made:
        yield made


def framed(packet: bytes, **changes: bytes) -> bytes:
    kind = packets.IP4 if packet[0] >> 4 == 4 else packets.IP6
    return packets.ethernet(changes.get("to", harness.ROUTER_A), changes.get("by", HOST_A), kind, packet)


def test_frames_of_all_kinds(offloaded: Offloaded) -> None:
    frames = [frame for frame in Frames(random.Random(5)).take(3000) if 14 <= len(frame) <= 3000]
    forwarded = sum(map(offloaded.compare, frames))
    assert forwarded > len(frames) // 5
    # Both families and all hops took part: flows are spread alike.
    assert {hop_mac(number).hex() for number in range(4)} <= offloaded.seen.keys()
    offloaded.router.laws()


def test_laws_of_what_the_programs_forward(offloaded: Offloaded) -> None:
    """Each frame and byte is counted where it came in and where it left, once; `make laws` runs many."""
    fields = ("rx_packets", "rx_bytes", "forwarded_packets", "tx_packets", "tx_bytes", "forwarded_out_packets")
    frames = [frame for frame in Frames(random.Random(6)).take(2000) if 60 <= len(frame) <= 3000]

    def counted() -> dict[str, list[int]]:
        offloaded.router.advance(0.11)
        return {name: [offloaded.router.count(name, field) for field in fields] for name in ("a", "b")}

    before, wanted, left = counted(), {"a": [0] * 6, "b": [0] * 6}, LAW_FRAMES
    while left > 0:
        for frame in frames:
            after = offloaded.programs.run(frame, 0)
            if after is not None:
                out = "a" if after[6:12] == harness.ROUTER_A else "b"
                for name, numbers in (("a", (1, len(frame), 1, 0, 0, 0)), (out, (0, 0, 0, 1, len(after), 1))):
                    wanted[name] = [have + more for have, more in zip(wanted[name], numbers, strict=True)]
        left -= len(frames)
        if left > 0 and left // len(frames) % 25 != 0:
            continue
        # The forwarder's word ends without it within seconds; but its neighbors are asked after five of its own.
        now = counted()
        found = {name: [end - begin for begin, end in zip(before[name], now[name], strict=True)] for name in now}
        assert found == wanted
    assert wanted["a"][0] > LAW_FRAMES // 5
    offloaded.router.laws()


def test_what_is_plain_is_forwarded(offloaded: Offloaded) -> None:
    assert offloaded.compare(framed(packets.datagram4("172.16.0.9", "10.0.1.5")))  # on the link
    assert offloaded.compare(framed(packets.datagram4("172.16.0.9", "198.18.0.1")))
    assert offloaded.compare(framed(packets.datagram6("2001:db8:d::1", "2001:db8:b::7")))
    padded = framed(packets.datagram4("172.16.0.9", "10.0.1.5", b"")).ljust(60, b"\0")
    assert offloaded.compare(padded)
    fragment = packets.ip4("172.16.0.9", "10.128.0.1", bytes(64), protocol=17, fragment=0x2001)
    assert offloaded.compare(framed(fragment))


REMEMBERED: Final = {4: "203.0.113.0/24", 6: "2001:db8:e::/48"}


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("family", [4, 6])
def test_what_is_remembered_ends_with_a_change(offloaded: Offloaded, family: int, counted: bool) -> None:
    """A neighbor's address, a route's next hop; and a forwarder of before, which counts no changes."""
    router, prefix = offloaded.router, REMEMBERED[family]
    frame = probe(int(ipaddress.ip_network(prefix).network_address) + 1, family)

    def publish() -> None:
        router.publish()
        router.poll()
        if not counted:
            offloaded.maps.uncounted()

    def forwarded_to(mac: bytes) -> bool:
        offloaded.seen.clear()
        forwarded = [offloaded.compare(frame) for _ in range(2)]
        return all(forwarded) and set(offloaded.seen) == {mac.hex()}

    router.routes[prefix] = [Hop(hop_address(5, family), "b")]
    publish()
    assert forwarded_to(hop_mac(5))
    router.advance(60)  # nobody answers for it
    router.receive(B)
    publish()
    assert offloaded.programs.run(frame, 0) is None
    router.meet("b", hop_address(5, family), OTHER)
    publish()
    assert forwarded_to(OTHER)
    router.routes[prefix] = [Hop(hop_address(6, family), "b")]
    publish()
    router.meet("b", hop_address(6, family), hop_mac(6))
    publish()
    assert forwarded_to(hop_mac(6))
    router.interfaces["b"].mtu = 1280
    publish()
    assert forwarded_to(hop_mac(6))
    router.interfaces["b"].up = False
    publish()
    assert not offloaded.compare(frame)


@pytest.mark.parametrize(
    "frame",
    [
        framed(packets.datagram4("10.0.1.1", "10.0.1.5")),  # an address of ours
        framed(packets.datagram4("172.16.0.9", "10.0.1.5"), by=harness.ROUTER_A),
        framed(packets.datagram4("172.16.0.9", "10.0.1.5"), by=bytes(6)),
        framed(packets.datagram4("172.16.0.9", "10.0.1.5"), to=packets.BROADCAST),
        framed(packets.datagram4("172.16.0.9", "10.0.1.5"), to=harness.ROUTER_B),
        framed(packets.datagram4("172.16.0.9", "10.0.1.200")),  # nobody known
        framed(packets.datagram4("172.16.0.9", "10.0.1.1")),  # for us
        framed(packets.datagram4("172.16.0.9", "10.0.1.255")),
        framed(packets.datagram4("172.16.0.9", "192.0.2.1")),
        framed(packets.datagram4("172.16.0.9", "203.0.113.1")),  # no route
        framed(packets.datagram4("172.16.0.9", "10.0.1.5", b"x" * 1500)),  # to be cut
        framed(packets.datagram4("172.16.0.9", "10.0.1.5", ttl=1)),
        framed(packets.datagram6("2001:db8:d::1", "2001:db8:b::7", hop_limit=1)),
        framed(packets.datagram6("fe80::1", "2001:db8:b::7")),
        framed(packets.datagram6("::", "2001:db8:b::7")),
        framed(packets.datagram6("2001:db8:d::1", "fe80::7")),
    ],
    ids=lambda _frame: "frame",
)
def test_what_is_not_plain_goes_on(offloaded: Offloaded, frame: bytes) -> None:
    assert not offloaded.compare(frame)


def test_unfinished_checksums_go_on() -> None:
    """Of a veth: the sum of the pseudo-header stands where the checksum will."""
    with Offloaded(ROUTES, partial=1) as made:
        whole = packets.datagram4("172.16.0.9", "10.0.1.5")
        assert made.compare(framed(whole))
        pseudo = packets.pseudo("172.16.0.9", "10.0.1.5", 17, len(whole) - 20)
        partial = 0xFFFF ^ packets.checksum(pseudo)
        assert not made.compare(framed(whole[:26] + struct.pack(">H", partial) + whole[28:]))
        six = packets.datagram6("2001:db8:d::1", "2001:db8:b::7")
        assert made.compare(framed(six))
        partial = 0xFFFF ^ packets.checksum(packets.pseudo("2001:db8:d::1", "2001:db8:b::7", 17, len(six) - 40))
        assert not made.compare(framed(six[:46] + struct.pack(">H", partial) + six[48:]))
        # What may carry another such packet inside.
        assert not made.compare(framed(packets.ip4("172.16.0.9", "10.0.1.5", bytes(64), protocol=47)))


def segment(source: str, destination: str, size: int, words: int = 5, **more: Any) -> bytes:
    """Give a TCP packet, its checksum unfinished."""
    length = 4 * words + size
    partial = 0xFFFF ^ packets.checksum(packets.pseudo(source, destination, IPPROTO_TCP, length))
    header = struct.pack(">HHIIBBHHH", 5000, 80, 1, 1, words << 4, 0x10, 1000, partial, 0)
    payload = header.ljust(4 * words, b"\1") + bytes(size)
    build = packets.ip6 if ":" in source else packets.ip4
    return framed(build(source, destination, payload, protocol=IPPROTO_TCP, **more))


FOUR, SIX = ("172.16.0.9", "10.0.1.5"), ("2001:db8:d::1", "2001:db8:b::7")


def test_super_frames() -> None:
    """Whole if what they stand for fits the MTU of 1500, whatever their own length is."""
    with Offloaded(ROUTES, AtTap) as made:
        assert made.compare(segment(*FOUR, 0))
        assert made.compare(segment(*FOUR, 1400))
        assert made.compare(segment(*FOUR, 2800), 1400)
        assert made.compare(segment(*FOUR, 2920), 1460)
        assert not made.compare(segment(*FOUR, 2922), 1461)
        assert made.compare(segment(*FOUR, 2800, words=8), 1448)
        assert not made.compare(segment(*FOUR, 2920, words=8), 1449)
        assert made.compare(segment(*FOUR, 1000), 2000)  # a last one
        assert made.compare(segment(*SIX, 2880), 1440)
        assert not made.compare(segment(*SIX, 2882), 1441)
        assert not made.compare(segment(*FOUR, 2800))  # no super-frame, but too long
        assert not made.compare(segment(*FOUR, 2800, fragment=0x2000), 1400)
        assert not made.compare(framed(packets.datagram4(*FOUR, bytes(2800))), 1400)
        # To cut what the link padded would make them one packet, too long; a length of none (BIG TCP) is not theirs.
        assert not made.compare(segment(*FOUR, 2800) + bytes(6), 1400)
        assert not made.compare(segment(*SIX, 2800) + bytes(6), 1400)
        big = bytearray(segment(*SIX, 2800))
        big[18:20] = bytes(2)
        assert not made.compare(bytes(big), 1400)
        made.router.laws()


def probe(value: int, family: int) -> bytes:
    if family == 4:
        return framed(packets.datagram4("172.16.0.9", str(ipaddress.IPv4Address(value))))
    return framed(packets.datagram6("2001:db8:d::1", str(ipaddress.IPv6Address(value))))


def random_routes(rng: random.Random, count: int) -> dict[str, list[Hop]]:
    """Give nested prefixes of both families, below 20.0.0.0/6 and 2001:db8:e000::/36."""
    routes = {}
    for _ in range(count):
        family = rng.choice((4, 6))
        width, base, free = (32, 20 << 24, 26) if family == 4 else (128, 0x20010DB8E000 << 80, 92)
        length = rng.randint(width - free, width)
        value = base | rng.getrandbits(free) & rng.choice((-1, 0xFF << free - 12, 0x3F << free - 8))
        network = ipaddress.ip_network((value, length), strict=False)
        routes[str(network)] = [Hop(hop_address(rng.randrange(HOPS), family), "b")]
    return routes


@pytest.mark.parametrize("count", [40, 700])
def test_look_up_in_random_tables_under_changes(count: int) -> None:
    rng = random.Random(count)
    with Offloaded(random_routes(rng, count)) as made:
        for _turn in range(4):
            known = [ipaddress.ip_network(prefix) for prefix in made.router.routes]
            forwarded = 0
            for network in rng.sample(known, 40):
                first, last = int(network.network_address), int(network.broadcast_address)
                for value in (first, last, first - 1, last + 1, rng.randint(first, last)):
                    forwarded += made.compare(probe(value, network.version))
            assert forwarded > 40
            for prefix in rng.sample(sorted(made.router.routes), count // 4):
                del made.router.routes[prefix]
            made.router.routes |= random_routes(rng, count // 4)
            made.router.publish()
            made.router.advance(0.2)


def test_a_map_that_is_full_lets_all_packets_go_on() -> None:
    with Offloaded(ROUTES, fib_bytes=SMALL) as made:
        assert made.compare(framed(packets.datagram4("172.16.0.9", "10.0.1.5")))
        made.router.routes |= random_routes(random.Random(9), 4000)
        made.router.publish()
        made.router.poll()
        assert not made.maps.ready()
        assert made.maps.wanted() == 4 * SMALL
        assert not made.compare(framed(packets.datagram4("172.16.0.9", "10.0.1.5")))


@pytest.mark.slow
@pytest.mark.skipif(not Path(DATA, "prefixes.txt.gz").is_file(), reason="ANABRANCH_TEST_DATA names no full table")
def test_the_full_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "TABLES_SIZE", 1 << 28)
    rng = random.Random(7)
    with gzip.open(Path(DATA, "prefixes.txt.gz"), "rt") as lines:
        networks = [ipaddress.ip_network(line.strip(), strict=False) for line in lines if line.strip()]
    with Offloaded(ROUTES, fib_bytes=1 << 24) as made:
        groups = {
            (number, family): made.router._group([Hop(hop_address(number, family), "b")])
            for number in range(HOPS)
            for family in (4, 6)
        }
        changes: Any = ffi.new("struct route_change[]", len(networks))
        for change, network in zip(changes, networks, strict=True):
            packed = network.network_address.packed
            ffi.buffer(change.address)[: len(packed)] = packed
            change.family, change.length = network.version, network.prefixlen
            change.group = groups[rng.randrange(HOPS), network.version]
            change.protocol = CONSTANTS["ROUTE_STATIC"]
        check(lib.table_writer_apply(made.router.writer, changes, len(networks)))
        made.router.advance(0.2)  # the forwarder's word holds for some seconds only
        assert made.maps.ready(), made.maps.wanted()
        forwarded = 0
        for network in rng.sample(networks, 600):
            value = rng.randint(int(network.network_address), int(network.broadcast_address))
            forwarded += made.compare(probe(value, network.version))
        assert forwarded > 500
