"""The core over its ports: fault and trace wrappers, ports that come and go, counters after a crash."""

from __future__ import annotations

import errno
import os
import struct
from typing import Any

import pytest

from fastpath import segment, stats
from fastpath._layout import CONSTANTS, FIELDS, SIZES
from fastpath.binding import check, ffi, lib
from tests.unit import packets
from tests.unit.harness import HOST_A, HOST_B, ROUTER_A, Port, Router


def numbered(count: int) -> list[bytes]:
    """Build frames from a host on a to one on b that differ in their payload."""
    return [
        packets.ethernet(
            ROUTER_A, HOST_A, packets.IP4, packets.datagram4("10.0.0.2", "10.0.1.2", struct.pack("!I", number))
        )
        for number in range(count)
    ]


def meet_both(router: Router) -> None:
    router.meet("a", "10.0.0.2", HOST_A)
    router.meet("b", "10.0.1.2", HOST_B)


def replace_port(router: Router, number: int, **fields: Any) -> None:
    """Take a port off and put it back with another spec."""
    check(lib.core_port_remove(router.core, number))
    port = router.ports[number]
    spec = ffi.new("struct port_spec *")
    spec.port, spec.driver, spec.mtu, spec.link_up, spec.generation = number, lib.DRIVER_LINK, 1500, 1, 1
    for name, value in fields.items():
        setattr(spec, name, value)
    fds = [os.dup(fd) for fd in (port._theirs, port._ours, port._events[1], port._events[0])]
    check(lib.core_port_add(router.core, spec, fds, len(fds)))
    router.poll()


def payloads(frames: list[bytes]) -> list[int]:
    return [struct.unpack_from("!I", frame, 42)[0] for frame in frames]


def run_faulty(router: Router, **fields: Any) -> list[int]:
    replace_port(router, 1, **fields)
    frames = numbered(300)
    for frame in frames:
        router.ports[1].send(frame)
    router.poll()
    router.laws()
    return payloads(router.receive(2))


def test_drops_are_injected_and_named(router: Router) -> None:
    meet_both(router)
    arrived = run_faulty(router, fault_permille=[200, 0, 0, 0], fault_seed=1)
    assert 200 < len(arrived) < 280
    assert arrived == sorted(arrived)
    assert router.drops("a")["injected"] == 300 - len(arrived)


def test_duplicates_are_forwarded_and_counted_twice(router: Router) -> None:
    meet_both(router)
    arrived = run_faulty(router, fault_permille=[0, 200, 0, 0], fault_seed=1)
    assert sorted(set(arrived)) == list(range(300))
    assert 320 < len(arrived) < 400


def test_reordering_keeps_every_frame(router: Router) -> None:
    meet_both(router)
    arrived = run_faulty(router, fault_permille=[0, 0, 300, 0], fault_seed=1)
    assert arrived != sorted(arrived)
    assert sorted(arrived) == list(range(300))


def test_corrupt_frames_are_dropped_by_name_or_forwarded_never_lost_to_the_books(router: Router) -> None:
    meet_both(router)
    arrived = run_faulty(router, fault_permille=[0, 0, 0, 1000], fault_seed=1)
    assert 0 < len(arrived) < 300
    assert sum(router.drops("a").values()) + len(arrived) <= 302


def test_the_same_seed_gives_the_same_faults(router: Router) -> None:
    meet_both(router)
    fields = {"fault_permille": [100, 100, 100, 0]}
    first = run_faulty(router, **fields, fault_seed=7)
    assert run_faulty(router, **fields, fault_seed=7) == first
    assert run_faulty(router, **fields, fault_seed=8) != first


def test_a_port_is_refused_twice_and_unknown_ones_are_named(router: Router) -> None:
    spec = ffi.new("struct port_spec *")
    spec.port, spec.driver = 1, lib.DRIVER_LINK
    assert lib.core_port_add(router.core, spec, [0, 0, 0, 0], 4) == -errno.EEXIST
    spec.port = 9
    assert lib.core_port_add(router.core, spec, [0, 0], 2) == -errno.EINVAL
    assert lib.core_port_remove(router.core, 9) == -errno.ENOENT
    assert lib.core_port_remove(router.core, 60000) == -errno.ENOENT
    assert lib.core_port_link(router.core, 9, 1, 1500) == -errno.ENOENT


def test_blocking_eventfds_are_refused(router: Router) -> None:
    port = Port(5)
    blocking = os.eventfd(0)
    spec = ffi.new("struct port_spec *")
    spec.port, spec.driver = 5, lib.DRIVER_LINK
    try:
        fds = [port._theirs, port._ours, blocking, port._events[0]]
        assert lib.core_port_add(router.core, spec, fds, 4) == -errno.EINVAL
    finally:
        os.close(blocking)
        port.close()


def test_the_state_tells_of_ports_and_progress(router: Router) -> None:
    meet_both(router)
    before = stats.progress(router.state)["batches"]
    for frame in numbered(10):
        router.send(1, frame)
    assert stats.progress(router.state)["batches"] > before
    assert stats.progress(router.state)["busy_since_ns"] == 0
    assert stats.progress(router.state)["reader_epoch"] == 0
    first, second = stats.ports(router.state)
    assert (first["port"], second["port"]) == (1, 2)
    assert first["driver"] == "link"
    assert first["present"]
    assert first["link_up"]
    router.link(1, up=False)
    assert not stats.ports(router.state)[0]["link_up"]
    check(lib.core_port_remove(router.core, 2))
    assert not stats.ports(router.state)[1]["present"]


def add_to_counter(router: Router, interface: int, field: str, amount: int) -> None:
    at = FIELDS["state_segment"]["counters"][0] + interface * SIZES["interface_counters"]
    at += FIELDS["interface_counters"][field][0]
    value = struct.unpack("<Q", os.pread(router.state_fd, 8, at))[0]
    os.pwrite(router.state_fd, struct.pack("<Q", value + amount), at)


@pytest.mark.parametrize(
    "field",
    [
        "rx_packets", "tx_packets", "forwarded_packets", "forwarded_out_packets", "punt_packets", "originated_packets",
        "fragments_created", "held_packets",
    ],
)  # fmt: skip
@pytest.mark.parametrize("amount", [1, 64])
def test_whatever_store_a_crash_cut_off_the_laws_hold_again(router: Router, field: str, amount: int) -> None:
    meet_both(router)
    for frame in numbered(20):
        router.send(1, frame)
    router.receive(2)
    before = {name: router.count("a", name) for name in stats.COUNTERS}
    add_to_counter(router, 1, field, amount)
    router.crash()
    router.poll()
    router.laws()
    for name in stats.COUNTERS:
        assert router.count("a", name) >= before[name], "a counter went back"
    if field == "rx_packets":
        assert router.drops("a")["restart"] == amount


@pytest.mark.parametrize("field", ["rx_packets", "tx_packets", "forwarded_packets", "forwarded_out_packets"])
def test_a_crash_between_two_workers_is_made_good_in_the_sums(router: Router, field: str) -> None:
    """One of them counted the arrival, the other one would have counted the fate."""
    meet_both(router)
    router.send(1, *numbered(20))
    at = FIELDS["state_segment"]["workers_used"][0]
    os.pwrite(router.state_fd, struct.pack("<Q", 2), at)
    add_to_counter(router, CONSTANTS["MAX_INTERFACES"] + 1, field, 3)
    router.crash()
    router.poll()
    router.laws()
    assert router.drops("a").get("restart", 0) == (3 if field == "rx_packets" else 0)


def test_a_dead_readers_epoch_is_cleared_on_attach(router: Router) -> None:
    at = FIELDS["state_segment"]["workers"][0] + FIELDS["worker_state"]["reader_epoch"][0]
    os.pwrite(router.state_fd, struct.pack("<Q", 1), at)
    assert stats.progress(router.state)["reader_epoch"] == 1
    router.crash()
    assert stats.progress(router.state)["reader_epoch"] == 0


def test_segments_of_another_build_are_refused(router: Router) -> None:
    offset, _code, _count, _nested = FIELDS["segment_header"]["abi_hash"]
    foreign = segment.create(segment.KIND_STATE, segment.STATE_SIZE, 1, "x")
    os.pwrite(foreign, b"\1" * 8, offset)
    out = ffi.new("struct core **")
    try:
        assert lib.core_create(router.tables_fd, foreign, out) == -errno.EPROTO
        assert lib.core_create(foreign, router.state_fd, out) == -errno.EPROTO
        assert lib.core_create(router.state_fd, router.tables_fd, out) == -errno.EPROTO
        assert lib.core_create(-1, -1, out) < 0
    finally:
        os.close(foreign)


@pytest.mark.parametrize(
    ("flags", "gso_type", "gso_size", "start", "offset"),
    [(1, 0, 0, 65535, 65535), (1, 0, 0, 45, 0), (0, 1, 0, 0, 0), (0, 77, 1000, 0, 0), (0, 255, 1, 0, 0)],
)
def test_an_offload_header_that_cannot_be_is_forgotten(
    router: Router, flags: int, gso_type: int, gso_size: int, start: int, offset: int
) -> None:
    meet_both(router)
    router.ports[1].send(numbered(1)[0], struct.pack("<BBHHHH", flags, gso_type, 0, gso_size, start, offset))
    router.poll()
    ((frame, vnet),) = router.ports[2].receive()
    assert payloads([frame]) == [0]
    assert vnet[:2] == bytes(2)
