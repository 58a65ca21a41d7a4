"""Fragmentation on the way out, and packets larger than a link: RFC 791, RFC 1191, RFC 8200."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from tests.unit import packets as p
from tests.unit.harness import HOST_A, HOST_B, ROUTER_A, Router, two_sided

if TYPE_CHECKING:
    from collections.abc import Iterator

DF, MF = 0x4000, 0x2000
GSO_UDP_L4 = 5


@pytest.fixture
def narrow() -> Iterator[Router]:
    """Interface b takes 600 bytes."""
    interfaces = two_sided()
    interfaces[1].mtu = 600
    with Router(interfaces) as router:
        router.settle()
        router.meet("b", "10.0.1.2", HOST_B)
        router.meet("b", "2001:db8:b::2", HOST_B)
        yield router


def in_a(packet: bytes) -> bytes:
    return p.ethernet(ROUTER_A, HOST_A, p.IP4, packet)


def reassembled(frames: list[bytes]) -> bytes:
    """Put the payload together and check each header."""
    whole = b""
    for frame in frames:
        header = frame[14 : 14 + (frame[14] & 15) * 4]
        assert p.checksum(header) == 0
        (total, _ident, word) = struct.unpack(">HHH", header[2:8])
        assert total == len(frame) - 14 <= 600
        assert (word & 0x1FFF) * 8 == len(whole)
        assert bool(word & MF) == (frame is not frames[-1])
        whole += frame[14 + len(header) :]
    return whole


@pytest.mark.parametrize("length", [572, 573, 574, 1148, 1149, 1400])
def test_what_is_too_long_is_cut(narrow: Router, length: int) -> None:
    packet = p.datagram4("10.0.0.2", "10.0.1.2", (bytes(range(251)) * 6)[:length])
    frames = narrow.exchange(1, in_a(packet), out=2)
    assert reassembled(frames) == packet[20:]
    assert len(frames) == 1 + -(-max(0, len(packet) - 600) // 576)
    assert narrow.count("b", "fragments_created") == len(frames) - 1
    assert narrow.count("b", "forwarded_out_packets") == 1
    assert narrow.count("a", "forwarded_packets") == 1


def test_not_where_it_may_not_be(narrow: Router) -> None:
    narrow.send(1, in_a(p.datagram4("10.0.0.2", "10.0.1.2", bytes(1000), fragment=DF)))
    narrow.send(1, p.ethernet(ROUTER_A, HOST_A, p.IP6, p.datagram6("2001:db8:a::2", "2001:db8:b::2", bytes(1300))))
    assert narrow.receive(2) == []
    assert narrow.drops("a") == {"fragmentation_needed": 2}


def test_fragments_wait_for_a_neighbor_and_the_laws_hold(narrow: Router) -> None:
    packet = p.datagram4("10.0.0.2", "10.0.1.9", bytes(1400))
    narrow.send(1, in_a(packet))
    assert narrow.count("a", "held_packets") == 1
    narrow.laws()
    narrow.receive(2)
    reply = p.arp(2, HOST_B, "10.0.1.9", narrow.interfaces["b"].mac, "10.0.1.1")
    frames = narrow.exchange(2, p.ethernet(narrow.interfaces["b"].mac, HOST_B, p.ARP, reply))
    assert reassembled(frames) == packet[20:]
    assert narrow.count("b", "fragments_created") == 2


def test_fragments_whose_neighbor_is_silent(narrow: Router) -> None:
    narrow.meet("a", "10.0.0.2", HOST_A)
    narrow.send(1, in_a(p.datagram4("10.0.0.2", "10.0.1.9", bytes(1400))))
    narrow.advance(4)
    assert len(narrow.receive(1)) == 1  # about the first only
    assert narrow.drops("a") == {"neighbor_unresolved": 1}
    assert narrow.drops() == {"neighbor_unresolved": 2}


def test_a_fragment_is_cut_again(narrow: Router) -> None:
    body = bytes(range(200)) * 6
    frames = narrow.exchange(1, in_a(p.ip4("10.0.0.2", "10.0.1.2", body, fragment=MF | 100)), out=2)
    offset = 800
    for frame in frames:
        (word,) = struct.unpack(">H", frame[20:22])
        assert word & MF
        assert (word & 0x1FFF) * 8 == offset
        offset += len(frame) - 34
    assert offset == 800 + len(body)


def test_a_super_packet_is_split_where_its_segments_do_not_fit(narrow: Router) -> None:
    payload = bytes(range(250)) * 12
    frame = in_a(p.datagram4("10.0.0.2", "10.0.1.2", payload))
    narrow.send(1, frame, vnet=struct.pack("<BBHHHH", 1, GSO_UDP_L4, 42, 1000, 34, 6))
    frames = narrow.receive(2)
    assert all(len(part) <= 614 for part in frames)
    sizes: dict[int, int] = {}
    for part in frames:
        (ident,) = struct.unpack(">H", part[18:20])
        sizes[ident] = sizes.get(ident, 0) + len(part) - 34
    assert sorted(sizes.values()) == [1008, 1008, 1008]


def test_a_super_packet_passes_whole_where_its_segments_fit(narrow: Router) -> None:
    payload = bytes(range(250)) * 12
    packet = p.datagram4("10.0.0.2", "10.0.1.2", payload)
    narrow.send(1, in_a(packet), vnet=struct.pack("<BBHHHH", 1, GSO_UDP_L4, 42, 500, 34, 6))
    ((frame, vnet),) = narrow.ports[2].receive()
    assert frame[14:] == p.forwarded4(packet)
    assert vnet == struct.pack("<BBHHHH", 1, GSO_UDP_L4, 42, 500, 34, 6)
