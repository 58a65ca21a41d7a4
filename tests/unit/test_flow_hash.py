"""The flow hash: one path for one flow, many paths for many, another choice in each VR."""

from __future__ import annotations

import struct
from collections import Counter
from typing import Any

import pytest

from tests.unit import packets as p
from tests.unit.c_build import build
from tests.unit.harness import HOST_A, HOST_B, ROUTER_A, Hop, Interface, Router, two_sided

DECLARATIONS = "uint32_t hash_of(const uint8_t *bytes, uint32_t length, uint64_t key);"
CODE = """
#include <stdlib.h>
#include "forward/forward.h"

static uint32_t hash_of(const uint8_t *bytes, uint32_t length, uint64_t key)
{
    static struct state_segment state;
    struct forward f = {.state = &state};
    struct packet packet = {.length = length};
    uint32_t hash;
    // Exactly as long as the packet, so that a sanitizer sees what reads beyond it.
    packet.buffer = malloc(length);
    memcpy(packet.buffer, bytes, length);
    state.random_key[0] = key;
    state.random_key[1] = ~key;
    hash = flow_hash(&f, &packet);
    free(packet.buffer);
    return hash;
}
"""


@pytest.fixture(scope="module")
def flow_hash() -> Any:
    module = build("flow_hash_test", ("forward/flow.c", "wire/ip6.c"), DECLARATIONS, "#include <string.h>\n" + CODE)

    def hashed(packet: bytes, key: int = 1) -> int:
        return int(module.lib.hash_of(packet, len(packet), key))

    return hashed


def udp4(sport: int, *, fragment: int = 0, host: int = 2) -> bytes:
    source = f"10.0.0.{host}"
    return p.ip4(source, "10.0.1.2", p.udp(source, "10.0.1.2", sport=sport), fragment=fragment)


def udp6(sport: int, label: int = 0, before: bytes = b"", first: int = 17) -> bytes:
    packet = p.ip6(
        "2001:db8::1", "2001:db8::2", before + p.udp("2001:db8::1", "2001:db8::2", sport=sport), protocol=first
    )
    return struct.pack(">I", 6 << 28 | label) + packet[4:]


@pytest.mark.parametrize("make", [udp4, udp6])
def test_flows_spread_evenly(flow_hash: Any, make: Any) -> None:
    buckets = Counter(flow_hash(make(port)) * 8 >> 32 for port in range(8000))
    assert len(buckets) == 8
    assert all(850 < count < 1150 for count in buckets.values())
    assert len({flow_hash(make(port)) for port in range(8000)}) > 7990


def test_hosts_spread_evenly(flow_hash: Any) -> None:
    buckets = Counter(flow_hash(udp4(53, host=host)) >> 31 for host in range(1, 255))
    assert all(90 < count < 164 for count in buckets.values())


def test_each_vr_chooses_for_itself(flow_hash: Any) -> None:
    ours = [flow_hash(udp4(port), 1) >> 31 for port in range(2000)]
    theirs = [flow_hash(udp4(port), 2) >> 31 for port in range(2000)]
    assert 850 < sum(a == b for a, b in zip(ours, theirs, strict=True)) < 1150


def test_what_does_not_name_the_flow_does_not_count(flow_hash: Any) -> None:
    packet = udp4(5)
    other = p.ip4("10.0.0.2", "10.0.1.2", packet[20:] + b"more", ttl=3, tos=9, identification=77)
    assert flow_hash(packet) == flow_hash(other)


def test_all_fragments_of_a_packet_take_one_path(flow_hash: Any) -> None:
    assert (
        flow_hash(udp4(5, fragment=0x2000)) == flow_hash(udp4(6, fragment=185)) == flow_hash(udp4(7, fragment=0x20B9))
    )
    first, later = bytes([17, 0, 0, 1, 0, 0, 0, 9]), bytes([17, 0, 5, 0xC8, 0, 0, 0, 9])
    assert flow_hash(udp6(5, before=first, first=44)) == flow_hash(udp6(6, before=later, first=44))


def test_a_flow_label_stands_for_the_ports(flow_hash: Any) -> None:
    assert flow_hash(udp6(5, 7)) == flow_hash(udp6(6, 7))
    assert flow_hash(udp6(5, 7)) != flow_hash(udp6(5, 8))


def test_ports_are_found_behind_extension_headers(flow_hash: Any) -> None:
    hop = bytes([17, 0, 1, 4, 0, 0, 0, 0])
    assert flow_hash(udp6(5, before=hop, first=0)) == flow_hash(udp6(5))


@pytest.mark.parametrize(
    "packet", [udp4(5)[:length] for length in (1, 19, 20, 22, 23)] + [udp6(5)[:41], b"\x4f" + bytes(19), b"\0"]
)
def test_short_packets_are_not_read_beyond(flow_hash: Any, packet: bytes) -> None:
    assert flow_hash(packet) >= 0


def test_a_hop_whose_link_is_down_is_passed_over() -> None:
    interfaces = [*two_sided(), Interface("c", 3, bytes.fromhex("020000000c01"), ["10.0.2.1/24"])]
    routes = {"10.9.0.0/16": [Hop("10.0.1.2", "b"), Hop("10.0.2.2", "c")]}
    with Router(interfaces, routes) as router:
        router.settle()
        router.meet("b", "10.0.1.2", HOST_B)
        router.meet("c", "10.0.2.2", HOST_B)
        frames = [p.ethernet(ROUTER_A, HOST_A, p.IP4, p.datagram4("10.0.0.2", f"10.9.0.{host}")) for host in range(40)]

        def spread() -> list[int]:
            router.send(1, *frames)
            return [sum(frame[12:14] == b"\x08\x00" for frame in router.receive(port)) for port in (2, 3)]

        both = spread()
        assert min(both) > 5
        assert sum(both) == 40
        router.link(3, up=False)
        assert spread() == [40, 0]
        router.link(3, up=True)
        router.settle()
        router.meet("b", "10.0.1.2", HOST_B)
        router.meet("c", "10.0.2.2", HOST_B)
        router.receive(3)
        assert spread() == both
