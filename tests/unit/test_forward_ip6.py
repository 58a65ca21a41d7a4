"""Forwarding of IPv6: RFC 8200, RFC 4291, RFC 4007."""

from __future__ import annotations

import pytest

from tests.unit import packets as p
from tests.unit.harness import HOST_A, HOST_B, ROUTER_A, ROUTER_B, Hop, Router, two_sided

A2 = "2001:db8:a::2"
B2 = "2001:db8:b::2"


def in_a(packet: bytes, destination: bytes = ROUTER_A) -> bytes:
    return p.ethernet(destination, HOST_A, p.IP6, packet)


def out_b(packet: bytes) -> bytes:
    return p.ethernet(HOST_B, ROUTER_B, p.IP6, p.forwarded6(packet))


@pytest.fixture
def met(router: Router) -> Router:
    router.meet("a", A2, HOST_A)
    router.meet("b", B2, HOST_B)
    return router


@pytest.mark.parametrize("hop_limit", [2, 64, 255])
def test_a_packet_is_forwarded(met: Router, hop_limit: int) -> None:
    packet = p.datagram6(A2, B2, hop_limit=hop_limit)
    assert met.exchange(1, in_a(packet) + bytes(3), out=2) == [out_b(packet)]


GOOD = p.datagram6(A2, B2)


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (GOOD[:39], "ip6_truncated"),
        (b"\x45" + GOOD[1:], "ip6_version"),
        (GOOD[:-1], "ip6_payload_length"),
        (p.datagram6("::1", B2), "ip6_source"),
        (p.datagram6("ff02::1", B2), "ip6_source"),
        (p.datagram6("::", B2), "ip6_source"),
        (p.datagram6(A2, "::1"), "ip6_destination"),
        (p.datagram6(A2, "::"), "ip6_destination"),
        (p.datagram6(A2, "ff01::1"), "ip6_destination"),
        (p.datagram6(A2, "ff05::1:3"), "multicast"),
        (p.datagram6(A2, "fe80::99"), "ip6_scope"),
        (p.ip6(A2, B2, b"\x11", protocol=0), "ip6_extension"),
        (p.ip6(A2, B2, b"\x11\x01" + bytes(6), protocol=0), "ip6_extension"),
    ],
)
def test_what_is_not_forwarded(met: Router, packet: bytes, reason: str) -> None:
    met.send(1, in_a(packet))
    assert met.receive(2) == []
    assert met.drops("a") == {reason: 1}


def test_a_link_local_source_stays_on_its_link(router: Router) -> None:
    router.meet("a", "fe80::2", HOST_A)
    router.meet("b", B2, HOST_B)
    packet = p.datagram6("fe80::2", B2)
    message = p.icmp6("fe80::a", "fe80::2", 1, 2, bytes(4), packet)
    expected = p.ethernet(HOST_A, ROUTER_A, p.IP6, p.ip6("fe80::a", "fe80::2", message, protocol=p.ICMP6))
    assert router.exchange(1, in_a(packet)) == [expected]
    assert router.drops("a") == {"ip6_scope": 1}


def test_extension_headers_travel_along(met: Router) -> None:
    hop_by_hop = bytes((60, 0, 1, 4, 0, 0, 0, 0))
    destination = bytes((p.UDP, 0, 1, 4, 0, 0, 0, 0))
    packet = p.ip6(A2, B2, hop_by_hop + destination + p.udp(A2, B2), protocol=0)
    assert met.exchange(1, in_a(packet), out=2) == [out_b(packet)]


@pytest.mark.parametrize(("option", "answered"), [(0x1E, None), (0x5E, 0), (0x9E, 1), (0xDE, 1)])
def test_unknown_hop_by_hop_options_say_what_to_do(met: Router, option: int, answered: int | None) -> None:
    packet = p.ip6(A2, B2, bytes((p.UDP, 0, option, 4, 0, 0, 0, 0)) + p.udp(A2, B2), protocol=0)
    met.send(1, in_a(packet))
    if answered is None:
        assert met.receive(2) == [out_b(packet)]
        return
    assert met.receive(2) == []
    message = p.icmp6("2001:db8:a::1", A2, 4, 2, b"\0\0\0\x2a", packet)
    expected = p.ethernet(HOST_A, ROUTER_A, p.IP6, p.ip6("2001:db8:a::1", A2, message, protocol=p.ICMP6))
    assert met.receive(1) == [expected] * answered


def test_routes_by_link_local_next_hop() -> None:
    with Router(two_sided(), {"2001:db8:f::/48": [Hop("fe80::2", "b")]}) as router:
        router.settle()
        router.meet("b", "fe80::2", HOST_B)
        packet = p.datagram6(A2, "2001:db8:f::1")
        assert router.exchange(1, in_a(packet), out=2) == [out_b(packet)]


def test_ipv4_by_an_ipv6_next_hop() -> None:
    with Router(two_sided(), {"172.16.0.0/12": [Hop("fe80::2", "b")]}) as router:
        router.settle()
        router.meet("b", "fe80::2", HOST_B)
        packet = p.datagram4("10.0.0.2", "172.16.0.1")
        expected = p.ethernet(HOST_B, ROUTER_B, p.IP4, p.forwarded4(packet))
        assert router.exchange(1, p.ethernet(ROUTER_A, HOST_A, p.IP4, packet), out=2) == [expected]


def test_ipv4_waits_for_an_ipv6_next_hop_and_is_told_in_ipv4() -> None:
    with Router(two_sided(), {"172.16.0.0/12": [Hop("fe80::2", "b")]}) as router:
        router.settle()
        router.meet("a", "10.0.0.2", HOST_A)
        router.send(1, p.ethernet(ROUTER_A, HOST_A, p.IP4, p.datagram4("10.0.0.2", "172.16.0.1")))
        router.advance(3)
        (error,) = router.receive(1)
        assert error[12:14] == b"\x08\x00"
        assert error[34:36] == b"\x03\x01"
        router.receive(2)
