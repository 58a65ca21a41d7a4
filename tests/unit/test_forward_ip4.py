"""Forwarding of IPv4 and what Ethernet does before it: RFC 894, IEEE 802.1Q, RFC 791, RFC 1812."""

from __future__ import annotations

import pytest

from tests.unit import packets as p
from tests.unit.harness import HOST_A, HOST_B, OTHER, ROUTER_A, ROUTER_B, Hop, Interface, Router, two_sided


def in_a(packet: bytes, destination: bytes = ROUTER_A, source: bytes = HOST_A) -> bytes:
    return p.ethernet(destination, source, p.IP4, packet)


@pytest.fixture
def met(router: Router) -> Router:
    router.meet("b", "10.0.1.2", HOST_B)
    return router


def test_a_packet_is_forwarded(met: Router) -> None:
    packet = p.datagram4("10.0.0.2", "10.0.1.2", tos=0x2E)
    assert met.exchange(1, in_a(packet), out=2) == [p.ethernet(HOST_B, ROUTER_B, p.IP4, p.forwarded4(packet))]
    assert met.count("a", "forwarded_packets") == 1
    assert met.count("b", "forwarded_out_packets") == 1


@pytest.mark.parametrize("ttl", [2, 3, 64, 128, 255])
@pytest.mark.parametrize("identification", range(0, 65536, 4999))
def test_ttl_and_checksum(met: Router, ttl: int, identification: int) -> None:
    packet = p.ip4("10.0.0.2", "10.0.1.2", b"x", ttl=ttl, identification=identification)
    assert met.exchange(1, in_a(packet), out=2) == [p.ethernet(HOST_B, ROUTER_B, p.IP4, p.forwarded4(packet))]


def test_padding_of_the_link_is_cut_off(met: Router) -> None:
    packet = p.datagram4("10.0.0.2", "10.0.1.2", b"")
    assert met.exchange(1, in_a(packet).ljust(60, b"\xaa"), out=2) == [
        p.ethernet(HOST_B, ROUTER_B, p.IP4, p.forwarded4(packet))
    ]


GOOD = p.datagram4("10.0.0.2", "10.0.1.2")


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (GOOD[:19], "ip4_truncated"),
        (b"", "ip4_truncated"),
        (b"\x65" + GOOD[1:], "ip4_version"),
        (b"\x44" + GOOD[1:], "ip4_header_length"),
        (b"\x4f" + GOOD[1:], "ip4_header_length"),
        (GOOD[:-1], "ip4_total_length"),
        (p.ip4("10.0.0.2", "10.0.1.2", b"", header_checksum=1), "ip4_checksum"),
        (p.datagram4("127.0.0.1", "10.0.1.2"), "ip4_source"),
        (p.datagram4("0.0.0.0", "10.0.1.2"), "ip4_source"),
        (p.datagram4("224.0.0.9", "10.0.1.2"), "ip4_source"),
        (p.datagram4("255.255.255.255", "10.0.1.2"), "ip4_source"),
        (p.datagram4("10.0.0.1", "10.0.1.2"), "ip4_source"),
        (p.datagram4("10.0.1.1", "10.0.1.2"), "ip4_source"),
        (p.datagram4("10.0.0.2", "127.0.0.1"), "ip4_destination"),
        (p.datagram4("10.0.0.2", "0.0.0.0"), "ip4_destination"),
        (p.datagram4("10.0.0.2", "10.0.1.255"), "directed_broadcast"),
        (p.datagram4("10.0.0.2", "239.1.2.3"), "multicast"),
    ],
)
def test_what_is_not_forwarded(met: Router, packet: bytes, reason: str) -> None:
    assert met.exchange(1, in_a(packet), out=2) == []
    assert met.drops("a") == {reason: 1}


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (in_a(GOOD)[:13], "runt"),
        (in_a(GOOD, destination=OTHER), "not_for_us"),
        (in_a(GOOD, source=b"\x01" + HOST_A[1:]), "source_mac"),
        (in_a(GOOD, source=bytes(6)), "source_mac"),
        (in_a(GOOD, source=ROUTER_A), "own_mac"),
        (in_a(GOOD, destination=p.BROADCAST), "ip4_broadcast"),
        (p.ethernet(ROUTER_A, HOST_A, 0x88CC, bytes(46)), "unknown_ethertype"),
        (p.ethernet(ROUTER_A, HOST_A, 100, bytes(100)), "unknown_ethertype"),
        (p.ethernet(ROUTER_A, HOST_A, p.IP4, GOOD, vlan=5), "unknown_vlan"),
        (p.ethernet(ROUTER_A, HOST_A, p.IP4, GOOD, vlan=5)[:17], "runt"),
    ],
)
def test_what_ethernet_refuses(met: Router, frame: bytes, reason: str) -> None:
    assert met.exchange(1, frame, out=2) == []
    assert met.drops("a") == {reason: 1}


def test_vlan_zero_is_a_priority_tag(met: Router) -> None:
    frame = p.ethernet(ROUTER_A, HOST_A, p.IP4, GOOD, vlan=0xE000)
    assert met.exchange(1, frame, out=2) == [p.ethernet(HOST_B, ROUTER_B, p.IP4, p.forwarded4(GOOD))]


def test_sub_interfaces_carry_their_tags() -> None:
    interfaces = two_sided()
    interfaces.append(Interface("b7", 2, ROUTER_B, ["10.7.0.1/24"], vlan=7))
    with Router(interfaces) as router:
        router.settle()
        request = p.arp(1, HOST_B, "10.7.0.2", bytes(6), "10.7.0.1")
        reply = p.arp(2, ROUTER_B, "10.7.0.1", HOST_B, "10.7.0.2")
        assert router.exchange(2, p.ethernet(p.BROADCAST, HOST_B, p.ARP, request, vlan=7)) == [
            p.ethernet(HOST_B, ROUTER_B, p.ARP, reply, vlan=7)
        ]
        packet = p.datagram4("10.0.0.2", "10.7.0.2")
        assert router.exchange(1, in_a(packet), out=2) == [
            p.ethernet(HOST_B, ROUTER_B, p.IP4, p.forwarded4(packet), vlan=7)
        ]
        assert router.count("b7", "tx_packets") == 2 + 2  # two announcements before
        assert router.exchange(2, p.ethernet(p.BROADCAST, HOST_B, p.ARP, request)) == []


def test_static_routes_and_the_longest_prefix() -> None:
    routes = {
        "0.0.0.0/0": [Hop("10.0.0.9", "a")],
        "172.16.0.0/12": [Hop("10.0.1.2", "b")],
        "172.16.5.0/24": [Hop()],
        "172.16.6.0/24": [Hop(kind="NEXTHOP_UNREACHABLE")],
    }
    with Router(two_sided(), routes) as router:
        router.settle()
        router.meet("a", "10.0.0.9", OTHER)
        router.meet("b", "10.0.1.2", HOST_B)
        packet = p.datagram4("10.0.0.2", "172.16.1.1")
        assert router.exchange(1, in_a(packet), out=2) == [p.ethernet(HOST_B, ROUTER_B, p.IP4, p.forwarded4(packet))]
        packet = p.datagram4("10.0.0.2", "8.8.8.8")
        assert router.exchange(1, in_a(packet)) == [p.ethernet(OTHER, ROUTER_A, p.IP4, p.forwarded4(packet))]
        router.send(1, in_a(p.datagram4("10.0.0.9", "172.16.5.1")))
        assert router.receive(1) == []
        assert len(router.exchange(1, in_a(p.datagram4("10.0.0.9", "172.16.6.1")))) == 1
        assert router.drops("a") == {"blackhole": 1, "unreachable": 1}


def test_flows_are_spread_by_weight_and_stay_together() -> None:
    hops = [Hop("10.0.1.2", "b", 1), Hop("10.0.1.3", "b", 3)]
    with Router(two_sided(), {"172.16.0.0/12": hops}) as router:
        router.settle()
        router.meet("b", "10.0.1.2", HOST_B)
        router.meet("b", "10.0.1.3", OTHER)
        taken = {HOST_B: 0, OTHER: 0}
        for port in range(1000):
            packet = p.ip4("10.0.0.2", "172.16.1.1", p.udp("10.0.0.2", "172.16.1.1", sport=port))
            first = router.exchange(1, in_a(packet), out=2)
            assert router.exchange(1, in_a(packet), out=2) == first
            taken[first[0][:6]] += 1
        assert 180 < taken[HOST_B] < 320


def test_a_backup_stands_in_while_no_link_is_up() -> None:
    """Nobody has to tell the forwarder which of its hops to use: it knows its links."""
    hops = [Hop("10.0.1.2", "b", 1), Hop("10.0.1.3", "b", 3), Hop("10.0.0.3", "a", backup=True)]
    with Router(two_sided(), {"172.16.0.0/12": hops}) as router:
        router.settle()
        router.meet("b", "10.0.1.2", HOST_B)
        router.meet("b", "10.0.1.3", HOST_B)
        router.meet("a", "10.0.0.3", OTHER)
        packet = p.ip4("10.0.0.2", "172.16.1.1", p.udp("10.0.0.2", "172.16.1.1"))
        sent = p.ethernet(HOST_B, ROUTER_B, p.IP4, p.forwarded4(packet))
        stood_in = p.ethernet(OTHER, ROUTER_A, p.IP4, p.forwarded4(packet))
        assert router.exchange(1, in_a(packet), out=2) == [sent]
        router.link(2, up=False)
        assert router.exchange(1, in_a(packet)) == [stood_in]
        router.link(2, up=True)
        router.settle()
        router.meet("b", "10.0.1.2", HOST_B)
        router.meet("b", "10.0.1.3", HOST_B)
        assert router.exchange(1, in_a(packet), out=2) == [sent]


def test_a_link_that_is_down_takes_nothing(met: Router) -> None:
    met.link(2, up=False)
    met.send(1, in_a(GOOD))
    assert met.drops("a") == {"egress_down": 1}


def test_an_interface_that_is_down_takes_nothing(met: Router) -> None:
    met.interfaces["a"].up = False
    met.publish()
    met.send(1, in_a(GOOD))
    assert met.receive(2) == []
    assert met.drops("a") == {"interface_down": 1}


def test_a_packet_may_go_back_where_it_came_from(met: Router) -> None:
    met.meet("a", "10.0.0.3", OTHER)
    packet = p.datagram4("10.0.0.2", "10.0.0.3")
    assert met.exchange(1, in_a(packet)) == [p.ethernet(OTHER, ROUTER_A, p.IP4, p.forwarded4(packet))]
