"""What the XDP offload may know of a router, and what the router makes of what it did; the test is the program."""

from __future__ import annotations

import ipaddress
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from fastpath._layout import CONSTANTS, FIELDS
from fastpath.binding import lib
from tests.unit import packets
from tests.unit.bypass_maps import Maps
from tests.unit.harness import HOST_A, HOST_B, OTHER, Router, two_sided

if TYPE_CHECKING:
    from collections.abc import Iterator

A, B = 1, 2  # interfaces, and their ports
ON = CONSTANTS["BYPASS_ON"]
BOB = bytes([10, 0, 1, 2])


def router() -> Router:
    return Router(replace(interface, dad=False) for interface in two_sided())


@pytest.fixture
def served() -> Iterator[tuple[Router, Maps]]:
    with router() as made, Maps(made) as maps:
        made.settle()
        yield made, maps
        maps.end()


def key(address: bytes) -> bytes:
    return address.ljust(16, b"\0")


def test_ports_and_interfaces_are_told(served):
    made, maps = served
    soon = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    for number in (A, B):
        port = maps.port(number)
        assert (port["interface"], port["state"]) == (number, ON)
        assert 5_000_000_000 < port["until_ns"] - soon < 11_000_000_000
        assert maps.interface(number) == {"port": number, "mtu": 1500}
    assert maps.interface(3)["port"] == 0  # the loopback
    made.link(B, up=False)
    assert maps.port(B) == {"until_ns": 0, "interface": B, "state": CONSTANTS["BYPASS_DOWN"]}
    assert maps.interface(B)["port"] == 0
    assert maps.port(A)["state"] == ON
    made.link(B, up=True, mtu=1500)
    assert maps.interface(B) == {"port": B, "mtu": 1500}


def test_stages_and_vlans_take_a_port_out(served):
    made, maps = served
    made.interfaces["a"].features = CONSTANTS["FEATURE_ACL_IN"]
    made.publish()
    made.poll()
    assert maps.port(A) == {"until_ns": 0, "interface": A, "state": CONSTANTS["BYPASS_FEATURES"]}
    assert maps.interface(A)["port"] == 0
    assert maps.port(B)["state"] == ON
    made.interfaces["a"].features = 0
    made.publish()
    made.poll()
    assert maps.port(A)["state"] == ON
    assert maps.interface(A)["port"] == A
    tagged = replace(made.interfaces["b"], name="b.7", vlan=7, addresses=["10.7.0.1/24"])
    made.interfaces["b.7"] = tagged
    made.publish()
    made.poll()
    assert maps.port(B)["state"] == CONSTANTS["BYPASS_VLANS"]
    assert maps.interface(4)["port"] == 0


def test_a_lease_ends_with_the_forwarder_and_is_renewed_by_it(served):
    made, maps = served
    first = maps.port(A)["until_ns"]
    made.advance(0.01)
    time.sleep(0.02)
    made.advance(0.2)
    assert maps.port(A)["until_ns"] > first
    made.crash()
    made.poll()
    last = maps.port(A)["until_ns"]
    time.sleep(0.02)
    made.advance(0.5)
    assert maps.port(A)["until_ns"] == last  # nobody serves the maps
    maps.serve()
    made.poll()
    assert maps.port(A)["until_ns"] > last


def test_neighbors_come_change_and_go(served):
    made, maps = served
    made.meet("b", "10.0.1.2", HOST_B)
    made.meet("b", "2001:db8:b::2", HOST_B)
    six = ipaddress.ip_address("2001:db8:b::2").packed
    assert {address: mac for address, (mac, _at) in maps.neighbors().items()} == {key(BOB): HOST_B, six: HOST_B}
    # Nobody answers: they are forgotten once they are used.
    packet = packets.datagram4("10.0.0.2", "10.0.1.2")
    made.send(A, packets.ethernet(made.interfaces["a"].mac, HOST_A, packets.IP4, packet))
    assert made.neighbor_state("10.0.1.2") == "DELAY"
    made.advance(10)
    assert made.neighbor_state("10.0.1.2") == "FAILED"
    assert key(BOB) not in maps.neighbors()
    made.receive(B)
    made.meet("b", "10.0.1.2", OTHER)
    assert maps.neighbors()[key(BOB)][0] == OTHER
    made.link(B, up=False)
    assert maps.neighbors() == {}


def test_neighbors_of_a_whole_subnet_find_places(served):
    made, maps = served
    for number in range(2, 60):
        made.meet("b", f"2001:db8:b::{number:x}", HOST_B)
        made.meet("b", f"10.0.1.{number}", HOST_B)
        made.advance(0.1)  # more at once would be policed
    assert len(maps.neighbors()) == 2 * 58


def test_what_the_program_sends_is_a_use_of_the_neighbor(served):
    made, maps = served
    made.meet("b", "10.0.1.2", HOST_B)
    assert made.neighbor_state("10.0.1.2") == "STALE"
    made.advance(1)
    assert made.neighbor_state("10.0.1.2") == "STALE"
    maps.use(BOB, 12345)
    made.advance(0.2)
    assert made.neighbor_state("10.0.1.2") == "DELAY"
    made.receive(B)
    made.advance(5.1)  # RFC 4861: then it has to be proven
    assert made.neighbor_state("10.0.1.2") == "PROBE"
    request = next(frame for frame in made.receive(B) if frame[12:14] == b"\x08\x06")
    assert request[:6] == HOST_B
    answer = packets.arp(2, HOST_B, "10.0.1.2", made.interfaces["b"].mac, "10.0.1.1")
    made.send(B, packets.ethernet(made.interfaces["b"].mac, HOST_B, packets.ARP, answer))
    assert made.neighbor_state("10.0.1.2") == "REACHABLE"
    assert maps.neighbors()[key(BOB)][0] == HOST_B


def test_counters_are_folded_once_whoever_serves(served):
    made, maps = served
    names = ("rx_packets", "rx_bytes", "forwarded_packets", "tx_packets", "tx_bytes", "forwarded_out_packets")

    def counted(name: str) -> list[int]:
        return [made.count(name, field) for field in names]

    before = {name: counted(name) for name in ("a", "b")}

    def since(name: str) -> list[int]:
        return [now - then for now, then in zip(counted(name), before[name], strict=True)]

    maps.count(0, A, rx_packets=3, rx_bytes=300)
    maps.count(1, B, tx_packets=3, tx_bytes=297)
    made.advance(0.2)
    assert since("a") == [3, 300, 3, 0, 0, 0]
    assert since("b") == [0, 0, 0, 3, 297, 3]
    maps.count(0, B, rx_packets=2, rx_bytes=120)
    maps.count(0, A, tx_packets=2, tx_bytes=120)
    made.crash()
    maps.serve()
    made.advance(0.2)
    assert since("a")[:3] == [3, 300, 3]
    assert since("b")[:3] == [2, 120, 2]
    assert since("a")[5] == 2


def test_our_own_addresses_are_known(served):
    made, maps = served
    first = FIELDS["bypass_links"]["sources"][0]

    def known(address: str) -> bool:
        word = int.from_bytes(ipaddress.ip_address(address).packed, "little")
        bit = (word * 0x9E3779B1 & 0xFFFFFFFF) >> 16
        return bool(maps.links[first + bit // 8] >> bit % 8 & 1)

    assert known("10.0.0.1")
    assert known("10.0.1.1")
    assert known("192.0.2.1")
    assert not known("10.0.0.2")
    made.interfaces["lo"].addresses.remove("192.0.2.1/32")
    made.publish()
    made.poll()
    assert not known("192.0.2.1")


def test_without_routes_nothing_is_offloaded(served):
    made, maps = served
    assert maps.ready()
    assert lib.table_writer_mirror(made.writer, -1, 0) == 0
    made.poll()
    assert not maps.ready()
    assert maps.port(A) == {"until_ns": 0, "interface": A, "state": CONSTANTS["BYPASS_NO_ROUTES"]}


def test_maps_that_do_not_fit_are_refused():
    with router() as made, Maps(made) as maps:
        fds = [maps.fds["links"], maps.fds["fib"]]
        assert lib.core_offload(made.core, fds, 4096, 1 << 20, 2) < 0
        assert lib.core_offload(made.core, fds, 1 << 20, 1 << 20, 0) < 0
        assert lib.table_writer_mirror(made.writer, maps.fds["fib"], 4096) < 0
        maps.end()
