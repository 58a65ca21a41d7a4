"""Shared segments: creation, refusal of what is not ours, typed reading; Python and C agree."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Iterator

import pytest

from fastpath import segment, stats
from fastpath._layout import CONSTANTS, FIELDS, SIZES
from fastpath.binding import ffi, lib

PORTS = CONSTANTS["MAX_WORKERS"] * CONSTANTS["MAX_PORTS"]


@pytest.fixture
def state_fd() -> Iterator[int]:
    fd = segment.create(segment.KIND_STATE, segment.STATE_SIZE, 7, "red")
    yield fd
    os.close(fd)


def test_a_new_segment_has_its_header_and_is_sealed(state_fd: int) -> None:
    with segment.Segment(state_fd, segment.KIND_STATE) as state:
        header = state.view("header")
        assert header.integer("router_id") == 7
        assert state.router == "red"
        assert header.integer("size") == segment.STATE_SIZE
        assert header.integer("created_ns") > 0
    with pytest.raises(OSError):
        os.ftruncate(state_fd, 4096)
    with pytest.raises(OSError):
        os.ftruncate(state_fd, segment.STATE_SIZE + 4096)
    with pytest.raises(OSError):
        fcntl.fcntl(state_fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)


def test_c_accepts_what_python_made_and_the_reverse(state_fd: int) -> None:
    assert lib.segment_check(state_fd, segment.KIND_STATE) == 0
    fd = lib.segment_create(segment.KIND_LINK, segment.LINK_SIZE, 9, b"blue")
    try:
        assert segment.check(fd, segment.KIND_LINK) == segment.LINK_SIZE
        with segment.Segment(fd, segment.KIND_LINK) as link:
            assert link.router == "blue"
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("field", "value"), [("magic", 1), ("abi_hash", 1), ("size", 1 << 40), ("kind", 99), ("magic", 0)]
)
def test_a_foreign_header_is_refused_by_both(state_fd: int, field: str, value: int) -> None:
    offset, code, _count, _nested = FIELDS["segment_header"][field]
    os.pwrite(state_fd, struct.pack("<" + code, value), offset)
    assert lib.segment_check(state_fd, segment.KIND_STATE) < 0
    with pytest.raises(segment.SegmentError):
        segment.Segment(state_fd, segment.KIND_STATE)


def test_an_unsealed_or_short_file_is_refused(state_fd: int) -> None:
    fd = os.memfd_create("loose", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.pwrite(fd, os.pread(state_fd, 4096, 0), 0)
        os.ftruncate(fd, segment.STATE_SIZE)
        assert lib.segment_check(fd, segment.KIND_STATE) < 0
        with pytest.raises(segment.SegmentError):
            segment.check(fd, segment.KIND_STATE)
    finally:
        os.close(fd)
    assert lib.segment_check(state_fd, segment.KIND_TABLES) < 0


@pytest.mark.parametrize("size", [0, 128, segment.STATE_SIZE - 1])
def test_a_segment_that_cannot_hold_its_struct_is_not_made(size: int) -> None:
    with pytest.raises(ValueError, match="cannot hold"):
        segment.create(segment.KIND_STATE, size, 1, "red")


def test_names_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="too long"):
        segment.create(segment.KIND_STATE, segment.STATE_SIZE, 1, "x" * CONSTANTS["ROUTER_NAME_SIZE"])
    assert lib.segment_create(segment.KIND_STATE, segment.STATE_SIZE, 1, b"x" * CONSTANTS["ROUTER_NAME_SIZE"]) < 0


def test_a_read_only_fd_cannot_write(state_fd: int) -> None:
    reader = segment.reopen_read_only(state_fd)
    try:
        with pytest.raises(OSError):
            os.pwrite(reader, b"x", 0)
        with pytest.raises(PermissionError):
            mmap.mmap(reader, 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        with segment.Segment(reader, segment.KIND_STATE) as state:
            assert state.router == "red"
    finally:
        os.close(reader)


def test_paths_and_views_read_what_was_written(state_fd: int) -> None:
    offset = FIELDS["state_segment"]["ports"][0] + 3 * SIZES["port_state"] + FIELDS["port_state"]["progress"][0]
    os.pwrite(state_fd, struct.pack("<Q", 0x1122334455667788), offset)
    with segment.Segment(state_fd, segment.KIND_STATE) as state:
        assert state.u64("state_segment.ports[3].progress") == 0x1122334455667788
        assert state.u64("ports[3].progress") == 0x1122334455667788
        assert state.view("ports", 3).integer("progress") == 0x1122334455667788
        assert state.copied("ports", 3).integer("progress") == 0x1122334455667788
        assert [view.integer("progress") for view in state.views("ports")].count(0) == PORTS - 1
        with pytest.raises(KeyError):
            state.view("ports", PORTS)
        with pytest.raises(KeyError):
            state.integer("ports")
        with pytest.raises(ValueError, match="outside"):
            state.at("neighbor_entry", segment.STATE_SIZE - 1)


def test_the_generated_offsets_are_those_of_c() -> None:
    for name, fields in FIELDS.items():
        ctype = ffi.typeof(f"struct {name}")
        assert ffi.sizeof(ctype) == SIZES[name]
        for field, (offset, _code, _count, _nested) in fields.items():
            assert ffi.offsetof(ctype, field) == offset, f"{name}.{field}"


def test_reading_what_is_used_allocates_no_page(state_fd: int) -> None:
    with segment.Segment(state_fd, segment.KIND_STATE) as state:
        before = os.fstat(state_fd).st_blocks
        assert list(state.used("neighbors", "state")) == []
        assert list(state.used("sockets", "cookie")) == []
        assert stats.interface_counters(state, 200)["drops"] == {}
        assert os.fstat(state_fd).st_blocks == before


def test_stats_are_plain_data(state_fd: int) -> None:
    def put(path: tuple[tuple[str, str, int], ...], code: str, value: object) -> None:
        at = 0
        for name, field, index in path:
            offset, letter, _count, nested = FIELDS[name][field]
            at += offset + index * (SIZES[nested] if nested else struct.calcsize(letter))
        os.pwrite(state_fd, struct.pack("<" + code, value), at)

    put((("state_segment", "counters", 2), ("interface_counters", "rx_packets", 0)), "Q", 5)
    put((("state_segment", "counters", 2), ("interface_counters", "drops", CONSTANTS["DROP_NO_ROUTE"])), "Q", 4)
    put((("state_segment", "host_drops", CONSTANTS["DROP_RESTART"]),), "Q", 1)
    second = CONSTANTS["MAX_INTERFACES"] + 2  # the same interface, as another worker counted
    put((("state_segment", "workers_used", 0),), "Q", 2)
    put((("state_segment", "counters", second), ("interface_counters", "rx_packets", 0)), "Q", 3)
    put((("state_segment", "counters", second), ("interface_counters", "drops", CONSTANTS["DROP_NO_ROUTE"])), "Q", 1)
    put((("state_segment", "host_drops", CONSTANTS["DROP_REASON_COUNT"] + CONSTANTS["DROP_RESTART"]),), "Q", 6)
    put((("state_segment", "neighbors", 77), ("neighbor_entry", "address", 0)), "4s", bytes([10, 0, 0, 2]))
    put((("state_segment", "neighbors", 77), ("neighbor_entry", "mac", 0)), "6s", bytes([2, 0, 0, 0, 0, 9]))
    put((("state_segment", "neighbors", 77), ("neighbor_entry", "family", 0)), "B", 4)
    put((("state_segment", "neighbors", 77), ("neighbor_entry", "state", 0)), "B", CONSTANTS["NEIGHBOR_REACHABLE"])
    put((("state_segment", "neighbors", 77), ("neighbor_entry", "interface", 0)), "H", 2)
    put((("state_segment", "neighbors", 77), ("neighbor_entry", "confirmed_ns", 0)), "Q", 1_000_000_000)
    with segment.Segment(state_fd, segment.KIND_STATE) as state:
        counters = stats.interface_counters(state, 2)
        assert counters["rx_packets"] == 8
        assert counters["drops"] == {"no_route": 5}
        assert stats.host_drops(state) == {"restart": 7}
        assert stats.neighbors(state, 3_500_000_000) == [
            {"address": "10.0.0.2", "mac": "02:00:00:00:00:09", "state": "reachable", "interface": 2, "age": 2.5}
        ]
        assert stats.sockets(state) == []
        assert stats.progress(state) == {"batches": 0, "busy_since_ns": 0, "reader_epoch": 0}


def test_every_drop_reason_has_a_name() -> None:
    assert len(stats.DROP_REASONS) == CONSTANTS["DROP_REASON_COUNT"]
    assert stats.drop_name(CONSTANTS["DROP_TTL_EXPIRED"]) == "ttl_expired"
    assert stats.drop_name(10_000) == "10000"
