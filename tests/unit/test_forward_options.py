"""IPv4 options in transit and at their destination: RFC 791 section 3.1, RFC 1812 section 5.2.4."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.unit import packets as p
from tests.unit.harness import HOST_A, HOST_B, ROUTER_A

if TYPE_CHECKING:
    from tests.unit.harness import Router

PARAMETER_PROBLEM = 12
NONE = bytes(4)
OURS_A, OURS_B = p.address("10.0.0.1"), p.address("10.0.1.1")


def pass_through(router: Router, options: bytes) -> bytes:
    """Send a packet with these options to host B; give the options that arrive there."""
    router.meet("b", "10.0.1.2", HOST_B)
    body = p.udp("10.0.0.2", "10.0.1.2")
    packet = p.ip4("10.0.0.2", "10.0.1.2", body, options=options)
    (frame,) = router.exchange(1, p.ethernet(ROUTER_A, HOST_A, p.IP4, packet), out=2)
    header = frame[14 : 14 + (frame[14] & 15) * 4]
    assert p.checksum(header) == 0
    assert frame[14 + len(header) :] == body
    return header[20:]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (b"\x07\x0b\x04" + NONE * 2 + b"\0", b"\x07\x0b\x08" + OURS_B + NONE + b"\0"),
        (b"\x07\x0b\x08" + OURS_A + NONE + b"\0", b"\x07\x0b\x0c" + OURS_A + OURS_B + b"\0"),
        (b"\x07\x07\x08" + OURS_A + b"\0", b"\x07\x07\x08" + OURS_A + b"\0"),  # full
        (b"\x94\x04\0\0", b"\x94\x04\0\0"),  # router alert: nobody here asked for it
        (b"\x99\x04\xaa\xbb", b"\x99\x04\xaa\xbb"),  # unknown
        (b"\x01\0\x07\xff", b"\x01\0\0\0"),  # what stands behind the end is wiped
    ],
)
def test_options_in_transit(router: Router, options: bytes, expected: bytes) -> None:
    assert pass_through(router, options) == expected


def test_timestamps_are_marked_as_not_standard_time(router: Router) -> None:
    milliseconds = (router.now // 1_000_000 & 0x7FFFFFFF | 0x80000000).to_bytes(4, "big")
    assert pass_through(router, b"\x44\x08\x05\0" + NONE) == b"\x44\x08\x09\0" + milliseconds
    assert pass_through(router, b"\x44\x0c\x05\x01" + NONE * 2) == b"\x44\x0c\x0d\x01" + OURS_B + milliseconds
    prespecified = b"\x44\x0c\x05\x03" + OURS_B + NONE
    assert pass_through(router, prespecified) == b"\x44\x0c\x0d\x03" + OURS_B + milliseconds
    others = b"\x44\x0c\x05\x03" + p.address("10.9.9.9") + NONE
    assert pass_through(router, others) == others
    assert pass_through(router, b"\x44\x04\x05\x20") == b"\x44\x04\x05\x30"  # no room: counted


@pytest.mark.parametrize(
    ("options", "pointer"),
    [
        (b"\x01\x01\x01\x07", 23),
        (b"\x07\x01\x04\0", 20),
        (b"\x07\xff\x04\0", 20),
        (b"\x07\x02\0\0", 21),
        (b"\x07\x07\x03" + NONE + b"\0", 22),
        (b"\x07\x07\x05" + NONE + b"\0", 22),
        (b"\x07\x07\x04" + NONE + b"\x07\x07\x04" + NONE + b"\0\0", 27),
        (b"\x44\x03\x05\0", 21),
        (b"\x44\x04\x04\0", 22),
        (b"\x44\x08\x06\0" + NONE, 22),
        (b"\x44\x08\x05\x01" + NONE, 22),
        (b"\x44\x04\x05\xf0", 23),
        (b"\x44\x04\x09\0" * 2, 24),
        (b"\x94\x03\0\0", 21),
        (b"\x83\x02\0\0", 21),
        (b"\x83\x03\x03\0", 22),
        (b"\x83\x03\x04\x89\x03\x04\0\0", 23),
    ],
)
def test_malformed_options_are_answered_with_where(router: Router, options: bytes, pointer: int) -> None:
    router.meet("a", "10.0.0.2", HOST_A)
    packet = p.ip4("10.0.0.2", "10.0.1.2", p.udp("10.0.0.2", "10.0.1.2"), options=options)
    (frame,) = router.exchange(1, p.ethernet(ROUTER_A, HOST_A, p.IP4, packet))
    message = frame[14 + (frame[14] & 15) * 4 :]
    assert (message[0], message[1], message[4]) == (PARAMETER_PROBLEM, 0, pointer)
    assert router.drops("a") == {"ip4_options": 1}


@pytest.mark.parametrize("kind", [0x83, 0x89])
@pytest.mark.parametrize("destination", ["10.0.1.2", "10.0.0.1"])
def test_source_routes_are_refused_in_silence(router: Router, kind: int, destination: str) -> None:
    options = bytes([kind, 7, 4]) + p.address("10.0.1.9") + b"\0"
    packet = p.ip4("10.0.0.2", destination, p.udp("10.0.0.2", destination), options=options)
    assert router.exchange(1, p.ethernet(ROUTER_A, HOST_A, p.IP4, packet)) == []
    assert router.receive(2) == []
    assert router.drops("a") == {"ip4_options": 1}
