"""Extension headers and fragments of IPv6 for the router itself, and what their senders are told.

RFC 8200 sections 4 and 4.5, RFC 6946 (atomic fragments), RFC 6980 (neighbor discovery), RFC 7112 (header chains), RFC
3168 section 5.3 (congestion).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from tests.unit import packets as p
from tests.unit.apps import HOST6, world
from tests.unit.harness import HOST_A, ROUTER_A

if TYPE_CHECKING:
    from tests.unit.harness import Router

US, PEER = "2001:db8:a::1", "2001:db8:a::2"
HOP_BY_HOP, FRAGMENT, OPTIONS = 0, 44, 60
PADDING = b"\1\4\0\0\0\0"
REQUEST = p.echo6(PEER, US, bytes(56))[40:]


@pytest.fixture
def met(router: Router) -> Router:
    """The router, which knows the peer."""
    router.meet("a", PEER, HOST_A)
    return router


def piece(
    offset: int, more: bool, data: bytes, *, kind: int = p.ICMP6, number: int = 7, traffic_class: int = 0
) -> bytes:
    """A fragment for the router."""
    header = struct.pack(">BBHI", kind, 0, offset | more, number)
    return p.ip6(PEER, US, header + data, protocol=FRAGMENT, traffic_class=traffic_class)


def exchange(router: Router, *sent: bytes) -> list[bytes]:
    """The packets that answer."""
    for packet in sent:
        router.send(1, p.ethernet(ROUTER_A, HOST_A, p.IP6, packet))
    return [frame[14:] for frame in router.receive(1)]


def problem(code: int, pointer: int, quoted: bytes) -> bytes:
    """A parameter problem."""
    message = p.icmp6(US, PEER, 4, code, struct.pack(">I", pointer), quoted)
    return p.ip6(US, PEER, message, protocol=p.ICMP6)


@pytest.mark.parametrize(
    ("packet", "code", "pointer"),
    [
        (piece(0, True, REQUEST[:17]), 0, 4),
        (piece(65520, False, REQUEST[:17]), 0, 42),
        (piece(0, True, b""), 3, 0),
        (piece(0, True, bytes([p.ICMP6, 0]) + PADDING, kind=OPTIONS), 3, 0),
        (piece(0, True, bytes([p.ICMP6, 9]) + PADDING, kind=OPTIONS), 3, 0),
        (piece(0, True, bytes(16), kind=6), 3, 0),
    ],
)
def test_a_fragment_that_cannot_be_is_told(met: Router, packet: bytes, code: int, pointer: int) -> None:
    assert exchange(met, packet) == [problem(code, pointer, packet)]
    assert met.drops("a") == {"reassembly_malformed": 1}


def test_a_last_fragment_of_any_length_is_none(met: Router) -> None:
    assert exchange(met, piece(64, False, bytes(5))) == []
    assert met.drops("a") == {}


@pytest.mark.parametrize("first", [OPTIONS, HOP_BY_HOP])
def test_hop_by_hop_options_come_first_or_not_at_all(met: Router, first: int) -> None:
    chain = bytes([HOP_BY_HOP, 0]) + PADDING + bytes([p.ICMP6, 0]) + PADDING
    packet = p.ip6(PEER, US, chain + REQUEST, protocol=first)
    assert exchange(met, packet) == [problem(1, 40, packet)]


def test_an_atomic_fragment_is_a_packet(met: Router) -> None:
    reply = p.echo6(US, PEER, bytes(56), kind=129)
    assert exchange(met, piece(0, True, REQUEST[:32]), piece(0, False, REQUEST)) == [reply]
    assert met.drops("a") == {}


def test_the_reserved_byte_of_a_fragment_header_is_no_length(met: Router) -> None:
    """Options are looked for where they are, though a fragment header stands before them and another behind."""
    first = bytes([OPTIONS, 1, 0, 0, 0, 0, 0, 7])
    unseen = bytes([p.ICMP6, 255, 0xBF, 0, 0, 0, 0, 0])  # what would be an unknown option of a header of 2,048 bytes
    options = bytes([FRAGMENT, 1, 0x1E, 12, 0, 0, 0, 0]) + unseen
    second = bytes([p.ICMP6, 0, 0, 0, 0, 0, 0, 7])
    packet = p.ip6(PEER, US, first + options + second + REQUEST, protocol=FRAGMENT)
    assert exchange(met, packet) == [p.echo6(US, PEER, bytes(56), kind=129)]


def test_neighbor_discovery_does_not_come_in_fragments(met: Router) -> None:
    message = p.neighbor_message(p.NS, PEER, US, US, options=p.link_option(1, HOST_A))[40:]
    packet = bytearray(piece(0, False, message))
    packet[7] = 255
    assert exchange(met, bytes(packet)) == []
    assert met.drops("a") == {"nd_malformed": 1}


@pytest.mark.parametrize(("first", "second", "whole"), [(2, 3, 3), (3, 1, 3), (2, 2, 2), (0, 3, None), (3, 0, None)])
def test_congestion_that_a_fragment_met_is_not_lost(first: int, second: int, whole: int | None) -> None:
    payload = bytes(1200)
    message = p.icmp6(HOST6, US, 128, 0, b"\x12\x34\0\1", payload)
    with world() as red:
        for at, mark in ((0, first), (600, second)):
            header = struct.pack(">BBHI", p.ICMP6, 0, at | (at == 0), 9)
            end = 600 if at == 0 else len(message)
            red.arrive(p.ip6(HOST6, US, header + message[at:end], protocol=FRAGMENT, traffic_class=mark))
        if whole is None:
            assert red.drops("reassembly_malformed", None) == 2
        else:
            (answer,) = red.sent()
            assert (answer[1] >> 4 & 3, answer[40]) == (whole, 129)
