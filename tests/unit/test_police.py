"""Policers of interfaces on virtual time: exact rates, super-packets, live changes, and what they are called."""

from __future__ import annotations

import struct
from typing import Final

import pytest

from fastpath.binding import check, ffi, lib
from tests.unit import packets as p
from tests.unit.harness import HOST_A, HOST_B, ROUTER_A, SECOND, Router
from tests.unit.policing import policer, publish
from vrouter.config.constraints import InvalidError
from vrouter.config.police import Policer, Rate, Size

HOST, PEER = "10.0.0.2", "10.0.1.2"
LENGTH: Final = 1000
PACKET: Final = p.datagram4(HOST, PEER, bytes(LENGTH - 28))
FRAME: Final = p.ethernet(ROUTER_A, HOST_A, p.IP4, PACKET)
NEEDS_CSUM, TCPV4 = 1, 1


@pytest.fixture
def ready(router: Router) -> Router:
    """Both neighbors are known."""
    router.meet("a", HOST, HOST_A)
    router.meet("b", PEER, HOST_B)
    router.receive(1)
    router.receive(2)
    return router


def passes(router: Router, count: int) -> int:
    for _ in range(count // 32):
        router.send(1, *[FRAME] * 32)
    router.send(1, *[FRAME] * (count % 32))
    return sum(frame[12:14] == b"\x08\0" for frame in router.receive(2))


@pytest.mark.parametrize("direction", ["in", "out"])
@pytest.mark.parametrize(("unit", "rate", "burst"), [("bits", 8_000_000, 5 * LENGTH), ("packets", 1000, 5)])
def test_the_rate_is_exact_over_a_long_time(ready: Router, direction: str, unit: str, rate: int, burst: int) -> None:
    interface = "a" if direction == "in" else "b"
    publish(ready, policers=[(interface, direction, unit, rate, burst)])
    assert passes(ready, 20) == 5  # a full bucket
    passed = 0
    for _ in range(4000):  # 4 s; twice as much as may pass
        ready.now += SECOND // 1000
        passed += passes(ready, 2)
    assert 3960 <= passed <= 4040
    assert ready.drops("a") == {f"police_{direction}": 8015 - passed}
    seen = policer(ready)
    assert (seen["interface"], seen["direction"], seen["unit"]) == (ready.index(interface), direction, unit)
    assert (seen["passed_packets"], seen["passed_bytes"]) == (passed + 5, (passed + 5) * LENGTH)
    assert seen["dropped_packets"] == 8015 - passed
    assert seen["dropped_bytes"] == (8015 - passed) * LENGTH


@pytest.mark.parametrize("rate", [4_000_000, 5_000_001, 999_999_937, 10_000_000_000, 400_000_000_000])
def test_no_rate_loses_to_rounding(ready: Router, rate: int) -> None:
    """What a thousand packets that come faster than the rate take, in the time that they must take."""
    publish(ready, policers=[("a", "in", "bits", rate, LENGTH)])
    assert passes(ready, 1) == 1
    needed, passed, start = LENGTH * 8 * SECOND / rate, 1, ready.now
    step = max(1, round(needed / 2))
    while passed < 1000:
        ready.now += step
        passed += passes(ready, 1)
        assert ready.now - start < 3000 * max(needed, 1)
    assert ready.now - start == pytest.approx(999 * max(needed, step), rel=0.01, abs=2 * step)


def test_a_super_packet_larger_than_the_burst_passes_and_is_paid_for(ready: Router) -> None:
    payload = 44_800  # 32 segments of 1400
    header = struct.pack(">HHIIBBHHH", 5000, 80, 1, 2, 0x50, 0x18, 500, 0, 0)
    packet = p.ip4(HOST, PEER, header + bytes(payload), protocol=6)
    vnet = struct.pack("<BBHHHH", NEEDS_CSUM, TCPV4, 54, 1400, 34, 16)
    publish(ready, policers=[("a", "in", "bits", 8_000_000, 3000)])
    ready.send(1, p.ethernet(ROUTER_A, HOST_A, p.IP4, packet), vnet=vnet)
    assert len(ready.receive(2)) == 1
    on_wire = payload + 32 * 40
    assert (policer(ready)["passed_packets"], policer(ready)["passed_bytes"]) == (32, on_wire)
    assert passes(ready, 1) == 0
    ready.now += (on_wire - 3000) * 1000 - 1000  # a byte takes a microsecond; the bucket held 3000
    assert passes(ready, 1) == 0
    ready.now += 2000
    assert passes(ready, 1) == 1


@pytest.mark.parametrize("flags", [0, NEEDS_CSUM])
def test_a_false_word_about_the_headers_makes_nothing_cheaper(ready: Router, flags: int) -> None:
    """The virtio header of a patch link is another router's; the packet is split by its own headers."""
    header = struct.pack(">HHIIBBHHH", 5000, 80, 1, 2, 0x50, 0x18, 500, 0, 0)
    packet = p.ip4(HOST, PEER, header + bytes(14_000), protocol=6)
    vnet = struct.pack("<BBHHHH", flags, TCPV4, 54, 1400, 0, 16)
    for name, direction in (("a", "in"), ("b", "out")):
        publish(ready, policers=[(name, direction, "packets", 100, 100)])
        ready.send(1, p.ethernet(ROUTER_A, HOST_A, p.IP4, packet), vnet=vnet)
        assert (policer(ready)["passed_packets"], policer(ready)["passed_bytes"]) == (10, 14_000 + 10 * 40)


def test_a_debt_to_a_small_bucket_is_no_age_of_a_large_one(ready: Router) -> None:
    publish(ready, policers=[("a", "in", "bits", 8000, 1)])
    assert passes(ready, 2) == 1  # which owes a thousand buckets
    publish(ready, policers=[("a", "in", "bits", 8_000_000, 100_000)])
    assert passes(ready, 1) == 0
    ready.now += SECOND // 1000
    assert passes(ready, 1) == 1


def test_super_packets_do_not_starve_among_small_ones(ready: Router) -> None:
    header = struct.pack(">HHIIBBHHH", 5000, 80, 1, 2, 0x50, 0x18, 500, 0, 0)
    packet = p.ip4(HOST, PEER, header + bytes(14_000), protocol=6)
    vnet = struct.pack("<BBHHHH", NEEDS_CSUM, TCPV4, 54, 1400, 34, 16)
    publish(ready, policers=[("a", "in", "bits", 8_000_000, 2000)])
    large = 0
    for _ in range(400):
        ready.now += SECOND // 400
        passes(ready, 1)
        ready.send(1, p.ethernet(ROUTER_A, HOST_A, p.IP4, packet), vnet=vnet)
        large += len(ready.receive(2))
    assert large >= 20


def test_a_change_is_live_and_keeps_the_bucket(ready: Router) -> None:
    publish(ready, policers=[("a", "in", "packets", 10, 10)])
    assert passes(ready, 15) == 10
    publish(ready, policers=[("a", "in", "packets", 1000, 10)])
    assert passes(ready, 5) == 0  # as empty as it was
    ready.now += SECOND // 100
    assert passes(ready, 15) == 10
    publish(ready, policers=[("a", "in", "packets", 10, 100)])
    assert passes(ready, 5) == 0
    publish(ready)
    assert passes(ready, 100) == 100


def test_only_that_interface_and_direction_pays(ready: Router) -> None:
    publish(ready, policers=[("a", "out", "packets", 1, 1), ("b", "in", "packets", 1, 1)])
    assert passes(ready, 50) == 50


def test_our_own_packets_are_policed_on_their_way_out(ready: Router) -> None:
    echo = p.ethernet(ROUTER_A, HOST_A, p.IP4, p.echo4(HOST, "10.0.0.1"))
    publish(ready, policers=[("a", "out", "packets", 1, 2)])
    ready.send(1, *[echo] * 5)
    assert len(ready.receive(1)) == 2
    assert ready.drops()["police_out"] == 3


def test_a_writer_that_comes_back_finds_the_table(ready: Router) -> None:
    publish(ready, policers=[("a", "in", "packets", 5, 5)])
    lib.table_writer_close(ready._writer)
    out = ffi.new("struct table_writer **")
    check(lib.table_writer_open(ready.tables_fd, ready.state_fd, out))
    ready._writer = out[0]
    ready.poll()
    assert passes(ready, 20) == 5
    publish(ready, policers=[("a", "in", "packets", 50, 50)])
    ready.now += SECOND
    assert passes(ready, 100) == 50


@pytest.mark.parametrize(
    ("text", "canonical", "number"),
    [
        ("100Mbps", "100Mbps", (100_000_000, "bits")),
        ("1000Mbps", "1Gbps", (10**9, "bits")),
        ("1500bps", "1500bps", (1500, "bits")),
        ("5000/s", "5000/s", (5000, "packets")),
        ("5kpps", "5000/s", (5000, "packets")),
    ],
)
def test_rates_are_read(text: str, canonical: str, number: tuple[int, str]) -> None:
    assert Rate().parse(text) == canonical
    assert Rate.number(canonical) == number


@pytest.mark.parametrize("text", ["", "100", "0/s", "-1/s", "1.5Mbps", "100 Mbps", "9999Gbps", "100MBps", "none"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(InvalidError):
        Rate().parse(text)


def test_control_classes_take_packets_and_none() -> None:
    rate = Rate(packets_only=True, or_none=True)
    assert (rate.parse("none"), Rate.number("none")[0]) == ("none", 0)
    with pytest.raises(InvalidError):
        rate.parse("1Mbps")


def test_sizes_are_read() -> None:
    assert [Size().parse(text) for text in ("131072", "128KiB", "1000")] == ["128KiB", "128KiB", "1000"]
    assert Size.number("128KiB") == 131072
    for text in ("0", "1KB", "-1", "", "99999999999"):
        with pytest.raises(InvalidError):
            Size().parse(text)


def test_a_burst_is_chosen_where_none_is_written() -> None:
    assert Policer(rate="10Mbps").numbers() == (10_000_000, 65_536, "bits")
    assert Policer(rate="10Gbps").numbers() == (10**10, 25_000_000, "bits")
    assert Policer(rate="100/s").numbers() == (100, 64, "packets")
    assert Policer(rate="100Mbps", burst="128KiB").numbers() == (10**8, 131072, "bits")
