"""ICMP and ICMPv6 that forwarding sends and answers: RFC 792, RFC 1122, RFC 1812, RFC 4443."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from tests.unit import packets as p
from tests.unit.harness import HOST_A, HOST_B, ROUTER_A, ROUTER_B, Router, two_sided

if TYPE_CHECKING:
    from tests.unit.harness import Interface

NEEDS_CSUM = 1


@pytest.fixture
def met(router: Router) -> Router:
    """The router, which knows a host on each side."""
    for name, mac in (("a", HOST_A), ("b", HOST_B)):
        net = "0" if name == "a" else "1"
        router.meet(name, f"10.0.{net}.2", mac)
        router.meet(name, f"2001:db8:{name}::2", mac)
    return router


def in4(packet: bytes, destination: bytes = ROUTER_A) -> bytes:
    return p.ethernet(destination, HOST_A, p.IP4, packet)


def in6(packet: bytes, destination: bytes = ROUTER_A) -> bytes:
    return p.ethernet(destination, HOST_A, p.IP6, packet)


def error4(kind: int, code: int, rest: bytes, quoted: bytes, *, source: str = "10.0.0.1", tos: int = 0xC0) -> bytes:
    message = p.icmp4(kind, code, rest, quoted)
    return p.ip4(source, "10.0.0.2", message, protocol=p.ICMP, tos=tos, identification=0)


def error6(kind: int, code: int, rest: bytes, quoted: bytes, *, source: str = "2001:db8:a::1") -> bytes:
    message = p.icmp6(source, "2001:db8:a::2", kind, code, rest, quoted)
    return p.ethernet(HOST_A, ROUTER_A, p.IP6, p.ip6(source, "2001:db8:a::2", message, protocol=p.ICMP6))


def answers4(router: Router, frame: bytes) -> list[bytes]:
    """What comes back as IP packets, identification cleared."""
    frames = router.exchange(1, frame)
    assert all(answer[:14] == HOST_A + ROUTER_A + b"\x08\x00" for answer in frames)
    return [p.without_id(answer[14:]) for answer in frames]


# --- echo ---


@pytest.mark.parametrize("address", ["10.0.0.1", "10.0.1.1", "192.0.2.1"])
@pytest.mark.parametrize("payload", [b"", b"x", bytes(range(256)) * 5])
def test_echo4(met: Router, address: str, payload: bytes) -> None:
    reply = p.ip4(
        address, "10.0.0.2", p.icmp4(0, 0, b"\x12\x34\0\1", payload), protocol=p.ICMP, tos=0x28, identification=0
    )
    assert answers4(met, in4(p.echo4("10.0.0.2", address, payload, tos=0x28, ttl=1))) == [reply]
    assert met.count("a", "punt_packets") == 3
    assert met.drops("a") == {}


@pytest.mark.parametrize("address", ["2001:db8:a::1", "2001:db8:b::1", "2001:db8::1"])
@pytest.mark.parametrize("payload", [b"", b"x", bytes(range(256)) * 5])
def test_echo6(met: Router, address: str, payload: bytes) -> None:
    reply = p.echo6(address, "2001:db8:a::2", payload, kind=129, traffic_class=0x28)
    request = p.echo6("2001:db8:a::2", address, payload, traffic_class=0x28)
    assert met.exchange(1, in6(request)) == [p.ethernet(HOST_A, ROUTER_A, p.IP6, reply)]


def test_echo_to_link_local_is_answered_on_its_link(router: Router) -> None:
    router.meet("a", "fe80::2", HOST_A)
    reply = p.echo6("fe80::a", "fe80::2", kind=129)
    assert router.exchange(1, in6(p.echo6("fe80::2", "fe80::a"))) == [p.ethernet(HOST_A, ROUTER_A, p.IP6, reply)]
    assert router.exchange(1, in6(p.echo6("fe80::2", "fe80::b"))) == []


def test_echo_to_all_nodes_is_answered_from_an_address_of_the_link(router: Router) -> None:
    router.meet("a", "fe80::2", HOST_A)
    reply = p.echo6("fe80::a", "fe80::2", kind=129)
    frame = in6(p.echo6("fe80::2", "ff02::1"), p.group_mac("ff02::1"))
    assert router.exchange(1, frame) == [p.ethernet(HOST_A, ROUTER_A, p.IP6, reply)]


@pytest.mark.parametrize("destination", ["10.0.0.255", "255.255.255.255", "224.0.0.1"])
def test_echo_to_a_broadcast_is_ignored(met: Router, destination: str) -> None:
    mac = p.group_mac(destination) if destination.startswith("224") else p.BROADCAST
    assert met.exchange(1, in4(p.echo4("10.0.0.2", destination), mac)) == []
    assert met.drops("a") == {"icmp_ignored": 1}


def test_the_options_of_a_request_are_not_sent_back(met: Router) -> None:
    message = p.icmp4(8, 0, b"\x12\x34\0\1", b"ping")
    request = p.ip4("10.0.0.2", "10.0.0.1", message, protocol=p.ICMP, options=b"\x01\x01\x01\x00")
    assert answers4(met, in4(request)) == [p.without_id(p.echo4("10.0.0.1", "10.0.0.2", kind=0))]


def test_link_padding_is_not_part_of_the_message(met: Router) -> None:
    assert answers4(met, in4(p.echo4("10.0.0.2", "10.0.0.1")) + b"\xaa" * 18) == [
        p.without_id(p.echo4("10.0.0.1", "10.0.0.2", kind=0))
    ]


def test_a_wrong_checksum_is_not_answered(met: Router) -> None:
    packet = bytearray(p.echo4("10.0.0.2", "10.0.0.1"))
    packet[-1] ^= 1
    assert met.exchange(1, in4(bytes(packet))) == []
    packet6 = bytearray(p.echo6("2001:db8:a::2", "2001:db8:a::1"))
    packet6[-1] ^= 1
    assert met.exchange(1, in6(bytes(packet6))) == []
    assert met.drops("a") == {"icmp_checksum": 2}


def test_a_checksum_that_was_left_to_us_is_finished(met: Router) -> None:
    body = struct.pack(">BBH", 8, 0, 0) + b"\x12\x34\0\1" + b"ping"
    frame = in4(p.ip4("10.0.0.2", "10.0.0.1", body, protocol=p.ICMP))
    vnet = struct.pack("<BBHHHH", NEEDS_CSUM, 0, 0, 0, 34, 2)
    met.send(1, frame, vnet=vnet)
    (answer,) = met.receive(1)
    assert p.without_id(answer[14:]) == p.without_id(p.echo4("10.0.0.1", "10.0.0.2", kind=0))


@pytest.mark.parametrize("length", range(8))
def test_short_messages(met: Router, length: int) -> None:
    assert met.exchange(1, in4(p.ip4("10.0.0.2", "10.0.0.1", bytes(length), protocol=p.ICMP))) == []
    assert met.exchange(1, in6(p.ip6("2001:db8:a::2", "2001:db8:a::1", bytes(length), protocol=p.ICMP6))) == []
    assert met.drops("a") == {"icmp_malformed": 2}


@pytest.mark.parametrize("kind", [1, 2, 6, 7, 9, 10, 13, 15, 17, 19, 42, 255])
def test_types_that_nobody_here_takes_part_in(met: Router, kind: int) -> None:
    message = p.icmp4(kind, 0, bytes(4), bytes(12))
    assert met.exchange(1, in4(p.ip4("10.0.0.2", "10.0.0.1", message, protocol=p.ICMP))) == []
    assert met.drops("a") == {"icmp_ignored": 1}


def test_a_huge_request_is_answered_in_fragments(met: Router) -> None:
    payload = bytes(range(256)) * 40
    met.send(1, in4(p.echo4("10.0.0.2", "10.0.0.1", payload)))
    frames = met.receive(1)
    assert all(len(frame) <= 1514 for frame in frames)
    assert b"".join(frame[34:] for frame in frames) == p.icmp4(0, 0, b"\x12\x34\0\1", payload)
    assert met.count("a", "fragments_created") == len(frames) - 1


# --- errors about packets ---


def test_ttl_expired(met: Router) -> None:
    packet = p.datagram4("10.0.0.2", "10.0.1.2", ttl=1, tos=0x28)
    assert answers4(met, in4(packet)) == [error4(11, 0, bytes(4), packet, tos=0xC8)]
    assert met.drops("a") == {"ttl_expired": 1}


def test_no_route(met: Router) -> None:
    packet = p.datagram4("10.0.0.2", "198.51.100.1")
    assert answers4(met, in4(packet)) == [error4(3, 0, bytes(4), packet)]
    packet = p.datagram6("2001:db8:a::2", "2001:db9::1")
    assert met.exchange(1, in6(packet)) == [error6(1, 0, bytes(4), packet)]
    assert met.drops("a") == {"no_route": 2}


def test_hop_limit_expired(met: Router) -> None:
    packet = p.datagram6("2001:db8:a::2", "2001:db8:b::2", hop_limit=1)
    assert met.exchange(1, in6(packet)) == [error6(3, 0, bytes(4), packet)]


@pytest.mark.parametrize("length", [400, 520, 521, 1400])
def test_an_error_is_at_most_576_bytes_long(met: Router, length: int) -> None:
    packet = p.datagram4("10.0.0.2", "10.0.1.2", bytes(length), ttl=1)
    (answer,) = answers4(met, in4(packet))
    assert answer == error4(11, 0, bytes(4), packet[:548])


@pytest.mark.parametrize("length", [1184, 1185, 1400])
def test_an_icmp6_error_is_at_most_1280_bytes_long(met: Router, length: int) -> None:
    packet = p.datagram6("2001:db8:a::2", "2001:db8:b::2", bytes(length), hop_limit=1)
    assert met.exchange(1, in6(packet)) == [error6(3, 0, bytes(4), packet[:1232])]


def test_errors_about_local_packets_come_from_the_address_meant(met: Router) -> None:
    packet = p.datagram4("10.0.0.2", "192.0.2.1")
    assert answers4(met, in4(packet)) == [error4(3, 3, bytes(4), packet, source="192.0.2.1")]
    packet = p.datagram6("2001:db8:a::2", "2001:db8::1")
    assert met.exchange(1, in6(packet)) == [error6(1, 4, bytes(4), packet, source="2001:db8::1")]
    assert met.drops("a") == {"no_socket": 2}


def icmp_about(kind: int) -> bytes:
    return p.ip4("10.0.0.2", "10.0.1.2", p.icmp4(kind, 0, bytes(4), bytes(28)), protocol=p.ICMP, ttl=1)


@pytest.mark.parametrize("kind", [3, 4, 5, 11, 12, 19, 255])
def test_no_error_about_an_error(met: Router, kind: int) -> None:
    assert met.exchange(1, in4(icmp_about(kind))) == []
    assert met.drops("a") == {"ttl_expired": 1}


@pytest.mark.parametrize("kind", [0, 8, 13])
def test_an_error_about_other_icmp(met: Router, kind: int) -> None:
    assert answers4(met, in4(icmp_about(kind))) == [error4(11, 0, bytes(4), icmp_about(kind))]


@pytest.mark.parametrize(("kind", "answered"), [(1, 0), (2, 0), (4, 0), (127, 0), (128, 1), (129, 1), (135, 1)])
def test_no_icmp6_error_about_an_error(met: Router, kind: int, answered: int) -> None:
    message = p.icmp6("2001:db8:a::2", "2001:db8:b::2", kind, 0, bytes(4), bytes(60))
    packet = p.ip6("2001:db8:a::2", "2001:db8:b::2", message, protocol=p.ICMP6, hop_limit=1)
    assert len(met.exchange(1, in6(packet))) == answered


def test_the_error_is_seen_behind_extension_headers(met: Router) -> None:
    message = p.icmp6("2001:db8:a::2", "2001:db8:b::2", 1, 0, bytes(4), bytes(60))
    options = bytes((p.ICMP6, 0, 1, 4, 0, 0, 0, 0))
    packet = p.ip6("2001:db8:a::2", "2001:db8:b::2", options + message, protocol=60, hop_limit=1)
    assert met.exchange(1, in6(packet)) == []


@pytest.mark.parametrize(("fragment", "answered"), [(0x2000, 1), (0x0001, 0), (0x2001, 0)])
def test_only_about_the_first_fragment(met: Router, fragment: int, answered: int) -> None:
    assert len(met.exchange(1, in4(p.datagram4("10.0.0.2", "10.0.1.2", ttl=1, fragment=fragment)))) == answered


def test_nothing_about_what_came_as_a_broadcast(met: Router) -> None:
    frame = p.ethernet(p.BROADCAST, HOST_A, p.IP4, p.datagram4("10.0.0.2", "10.0.1.2", ttl=1))
    assert met.exchange(1, frame) == []


@pytest.mark.parametrize(
    ("source", "destination"),
    [("::", "2001:db8:b::2"), ("ff02::1", "2001:db8:b::2"), ("::1", "2001:db8:b::2"), ("2001:db8:a::2", "ff05::9")],
)
def test_nothing_to_sources_that_are_none_and_about_groups(met: Router, source: str, destination: str) -> None:
    assert met.exchange(1, in6(p.datagram6(source, destination, hop_limit=1))) == []


def test_nothing_to_a_broadcast_of_ours_as_a_source(met: Router) -> None:
    assert met.exchange(1, in4(p.datagram4("10.0.0.255", "10.0.1.2", ttl=1))) == []
    assert met.exchange(1, in4(p.echo4("10.0.1.255", "10.0.0.1"))) == []
    assert met.receive(2) == []
    assert met.drops("a") == {"ttl_expired": 1, "ip4_source": 1}


def narrow() -> list[Interface]:
    interfaces = two_sided()
    interfaces[1].mtu = 1300
    return interfaces


def test_packet_too_big_names_the_mtu_and_is_not_limited() -> None:
    with Router(narrow()) as router:
        router.settle()
        router.meet("a", "10.0.0.2", HOST_A)
        router.meet("a", "2001:db8:a::2", HOST_A)
        packet = p.datagram4("10.0.0.2", "10.0.1.2", bytes(1300), fragment=0x4000)
        for _ in range(20):
            assert answers4(router, in4(packet)) == [error4(3, 4, struct.pack(">HH", 0, 1300), packet[:548])]
        packet = p.datagram6("2001:db8:a::2", "2001:db8:b::2", bytes(1300))
        for _ in range(20):
            assert router.exchange(1, in6(packet)) == [error6(2, 0, struct.pack(">I", 1300), packet[:1232])]
        assert router.drops("a") == {"fragmentation_needed": 40}
        assert router.drops() == {}


# --- limits ---


def test_six_errors_at_once_then_one_a_second(met: Router) -> None:
    frame = in4(p.datagram4("10.0.0.2", "10.0.1.2", ttl=1))
    assert sum(len(met.exchange(1, frame)) for _ in range(20)) == 6
    assert met.drops() == {"icmp_rate_limited": 14}
    met.advance(0.999)
    assert met.exchange(1, frame) == []
    met.advance(0.001)
    assert len(met.exchange(1, frame)) == 1
    assert met.exchange(1, frame) == []
    met.advance(60)
    met.receive(1)
    met.meet("a", "10.0.0.2", HOST_A)
    assert sum(len(met.exchange(1, frame)) for _ in range(20)) == 6


def test_icmp6_errors_come_ten_a_second(met: Router) -> None:
    frame = in6(p.datagram6("2001:db8:a::2", "2001:db8:b::2", hop_limit=1))
    assert sum(len(met.exchange(1, frame)) for _ in range(20)) == 6
    met.advance(0.1)
    assert sum(len(met.exchange(1, frame)) for _ in range(20)) == 1


def test_a_flood_from_many_sources_meets_the_limit_of_all() -> None:
    from tests.unit.harness import Hop

    with Router(two_sided(), {"172.16.0.0/12": [Hop("10.0.0.2", "a")]}) as router:
        router.settle()
        router.meet("a", "10.0.0.2", HOST_A)
        for number in range(1000):
            source = f"172.16.{number // 250}.{number % 250 + 1}"
            router.send(1, in4(p.datagram4(source, "10.0.1.2", ttl=1)))
        assert len(router.receive(1)) == 50
        router.advance(0.01)
        for number in range(1000):
            source = f"172.17.{number // 250}.{number % 250 + 1}"
            router.send(1, in4(p.datagram4(source, "10.0.1.2", ttl=1)))
        assert len(router.receive(1)) == 10


def test_echo_is_not_limited(met: Router) -> None:
    assert sum(len(met.exchange(1, in4(p.echo4("10.0.0.2", "10.0.0.1")))) for _ in range(200)) == 200


def test_the_other_side_answers_from_its_own_address(met: Router) -> None:
    packet = p.datagram4("10.0.1.2", "10.0.0.2", ttl=1)
    (answer,) = met.exchange(2, p.ethernet(ROUTER_B, HOST_B, p.IP4, packet))
    message = p.icmp4(11, 0, bytes(4), packet)
    expected = p.ip4("10.0.1.1", "10.0.1.2", message, protocol=p.ICMP, tos=0xC0, identification=0)
    assert p.without_id(answer[14:]) == expected
