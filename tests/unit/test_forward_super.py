"""TCP super-packets through the whole core: passed on, refused or split, by what their segments need."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from tests.unit import packets as p
from tests.unit.harness import HOST_A, HOST_B, ROUTER_A, ROUTER_B, Router, meet_hosts, two_sided

if TYPE_CHECKING:
    from collections.abc import Iterator

TCPV4, TCPV6, NEEDS_CSUM = 1, 4, 1
MTU = 1400
DF = 0x4000
TOO_BIG4, TOO_BIG6 = (3, 4), (2, 0)


@pytest.fixture
def narrow() -> Iterator[Router]:
    """Interface b takes 1400 bytes."""
    interfaces = two_sided()
    interfaces[1].mtu = MTU
    with Router(interfaces) as router:
        router.settle()
        meet_hosts(router)
        router.settle()
        yield router


def tcp(length: int) -> bytes:
    return struct.pack(">HHIIBBHHH", 5000, 80, 1, 2, 0x50, 0x18, 500, 0, 0) + bytes(
        index % 251 for index in range(length)
    )


def vnet(kind: int, size: int, start: int) -> bytes:
    return struct.pack("<BBHHHH", NEEDS_CSUM, kind, start + 20, size, start, 16)


def super4(length: int, flags: int) -> bytes:
    return p.ip4("10.0.0.2", "10.0.1.2", tcp(length), protocol=6, fragment=flags, identification=7)


def super6(length: int) -> bytes:
    return p.ip6("2001:db8:a::2", "2001:db8:b::2", tcp(length), protocol=6)


def send(router: Router, packet: bytes, header: bytes) -> list[tuple[bytes, bytes]]:
    ethertype = p.IP4 if packet[0] >> 4 == 4 else p.IP6
    router.send(1, p.ethernet(ROUTER_A, HOST_A, ethertype, packet), vnet=header)
    return router.ports[2].receive()


@pytest.mark.parametrize("flags", [0, DF])
def test_ipv4_passes_whole_when_each_segment_fits(narrow: Router, flags: int) -> None:
    packet = super4(60000, flags)
    header = vnet(TCPV4, MTU - 40, 34)
    assert send(narrow, packet, header) == [(p.ethernet(HOST_B, ROUTER_B, p.IP4, p.forwarded4(packet)), header)]
    assert narrow.count("b", "tx_packets") - narrow.count("b", "originated_packets") == 1


def test_ipv6_passes_whole_when_each_segment_fits(narrow: Router) -> None:
    packet = super6(60000)
    header = vnet(TCPV6, MTU - 60, 54)
    assert send(narrow, packet, header) == [(p.ethernet(HOST_B, ROUTER_B, p.IP6, p.forwarded6(packet)), header)]


@pytest.mark.parametrize("packet", [super4(60000, DF), super6(60000)], ids=["ipv4", "ipv6"])
def test_one_byte_more_is_answered_with_the_mtu(narrow: Router, packet: bytes) -> None:
    six = packet[0] >> 4 == 6
    header = vnet(TCPV6, MTU - 59, 54) if six else vnet(TCPV4, MTU - 39, 34)
    assert send(narrow, packet, header) == []
    (frame,) = narrow.receive(1)
    message = frame[54:] if six else frame[34:]
    assert (message[0], message[1]) == (TOO_BIG6 if six else TOO_BIG4)
    assert int.from_bytes(message[4:8], "big") == MTU
    assert narrow.drops("a") == {"fragmentation_needed": 1}


def test_ipv4_that_may_be_cut_is_split_and_then_fragmented(narrow: Router) -> None:
    packet = super4(10000, 0)
    frames = send(narrow, packet, vnet(TCPV4, 1448, 34))
    segments: dict[int, bytes] = {}
    for frame, header in frames:
        assert header == bytes(10), "what is cut is finished in software"
        assert len(frame) - 14 <= MTU
        number, word = struct.unpack(">HH", frame[18:22])
        assert (word & 0x1FFF) * 8 == len(segments.get(number, b""))
        segments[number] = segments.get(number, b"") + frame[34:]
    assert list(segments) == list(range(7, 7 + 7))
    joined = b""
    for number, segment in segments.items():
        assert p.checksum(p.pseudo("10.0.0.2", "10.0.1.2", 6, len(segment)) + segment) == 0
        assert int.from_bytes(segment[4:8], "big") == 1 + len(joined)
        assert bool(segment[13] & 8) == (number == 13), "PSH is for the last"
        joined += segment[20:]
    assert joined == packet[40:]
    assert narrow.count("a", "forwarded_packets") == 1
    assert narrow.count("b", "fragments_created") == len(frames) - 1


def test_an_offload_header_that_does_not_fit_the_packet_is_no_way_round_the_mtu(narrow: Router) -> None:
    packet = p.datagram4("10.0.0.2", "10.0.1.2", bytes(5000))
    assert send(narrow, packet, vnet(TCPV4, 1000, 34)) == []
    assert narrow.drops("a") == {"gso_unsupported": 1}
