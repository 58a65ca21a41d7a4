"""The rings of a patch link: both ends in one process, and a peer that lies."""

from __future__ import annotations

import errno
import mmap
import os
import random
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from fastpath import segment
from fastpath._layout import CONSTANTS, FIELDS, SIZES
from fastpath.binding import check, ffi, lib

UNITS = CONSTANTS["LINK_UNITS"]
UNIT = CONSTANTS["LINK_UNIT"]
HEAD = SIZES["link_head"]
SUPER_ROOM = CONSTANTS["SUPER_ROOM"]
VNET_SIZE = 10


class Pair:
    """Two ends over two segments, and a writable look at the second end's segment."""

    def __init__(self) -> None:
        self.fds = [segment.create(segment.KIND_LINK, segment.LINK_SIZE, i, f"r{i}") for i in range(2)]
        self.events = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(2)]
        self.ends = [self._open(0, 1), self._open(1, 0)]
        self.hostile = mmap.mmap(self.fds[1], segment.LINK_SIZE)

    def _open(self, own: int, peer: int) -> Any:
        out = ffi.new("struct link_end **")
        read_only = segment.reopen_read_only(self.fds[peer])
        check(lib.link_end_open(self.fds[own], read_only, self.events[own], self.events[peer], out))
        os.close(read_only)
        return out[0]

    def reopen(self, own: int) -> None:
        lib.link_end_close(self.ends[own])
        self.ends[own] = self._open(own, 1 - own)

    def send(self, end: int, frame: bytes, vnet: bytes = bytes(VNET_SIZE)) -> int:
        return lib.link_end_send(self.ends[end], frame, len(frame), vnet)

    def receive(self, end: int, room: int = SUPER_ROOM) -> tuple[int, bytes, bytes]:
        frame = ffi.new("uint8_t[]", room)
        vnet = ffi.new("uint8_t[]", VNET_SIZE)
        length = lib.link_end_receive(self.ends[end], frame, room, vnet)
        return length, bytes(ffi.buffer(frame, max(length, 0))), bytes(ffi.buffer(vnet))

    def set_word(self, field: str, value: int) -> None:
        struct.pack_into("<Q", self.hostile, FIELDS["link_segment"][field][0], value)

    def set_head(self, index: int, length: int) -> None:
        at = FIELDS["link_segment"]["units"][0] + index % UNITS * UNIT
        struct.pack_into("<I", self.hostile, at, length)

    def close(self) -> None:
        self.hostile.close()
        for end in self.ends:
            lib.link_end_close(end)
        for fd in self.fds + self.events:
            os.close(fd)


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


def test_a_frame_and_its_offload_header_pass_both_ways(pair: Pair) -> None:
    vnet = bytes(range(1, 11))
    assert pair.send(0, b"there" * 20, vnet) == 0
    assert pair.send(1, b"back" * 20) == 0
    assert pair.receive(1) == (100, b"there" * 20, vnet)
    assert pair.receive(0) == (80, b"back" * 20, bytes(VNET_SIZE))
    assert pair.receive(0)[0] == -errno.EAGAIN


@pytest.mark.parametrize("length", [1, UNIT - HEAD, UNIT - HEAD + 1, 60, 1514, 65549, SUPER_ROOM])
def test_frames_of_every_size_are_whole(pair: Pair, length: int) -> None:
    frame = random.Random(length).randbytes(length)
    assert pair.send(0, frame) == 0
    assert pair.receive(1)[:2] == (length, frame)


@pytest.mark.parametrize("length", [0, SUPER_ROOM + 1])
def test_impossible_lengths_are_refused(pair: Pair, length: int) -> None:
    assert pair.send(0, bytes(length)) == -errno.EMSGSIZE


def test_order_and_content_survive_many_turns_of_the_ring(pair: Pair) -> None:
    rng = random.Random(1)
    sent: list[bytes] = []
    for _ in range(UNITS // 4):
        frame = rng.randbytes(rng.choice((60, 60, 60, 1500, 9000)))
        if pair.send(0, frame) == 0:
            sent.append(frame)
        if rng.random() < 0.7 and sent:
            assert pair.receive(1)[1] == sent.pop(0)
    while sent:
        assert pair.receive(1)[1] == sent.pop(0)


def test_a_full_ring_takes_no_more_and_a_frame_never_enters_in_part(pair: Pair) -> None:
    large = b"x" * (1024 * UNIT - HEAD)
    for _ in range(UNITS // 1024 - 1):
        assert pair.send(0, large) == 0
    assert pair.send(0, large[: 1022 * UNIT - HEAD]) == 0
    assert pair.send(0, b"y" * (2 * UNIT)) == -errno.EAGAIN
    assert pair.send(0, b"z" * 60) == 0
    assert pair.send(0, b"z") == -errno.EAGAIN
    assert pair.receive(1)[1] == large
    assert pair.send(0, b"z" * 60) == 0


def test_a_successor_goes_on_where_the_dead_one_stopped(pair: Pair) -> None:
    for number in range(10):
        pair.send(0, bytes([number]) * 60)
    assert pair.receive(1)[1][0] == 0
    pair.reopen(1)
    assert [pair.receive(1)[1][0] for _ in range(9)] == list(range(1, 10))
    pair.reopen(0)
    pair.send(0, b"\xaa" * 60)
    assert pair.receive(1)[1][0] == 0xAA


def test_the_peer_is_woken_only_when_it_sleeps(pair: Pair) -> None:
    pair.send(0, b"x" * 60)
    with pytest.raises(BlockingIOError):
        os.eventfd_read(pair.events[1])
    pair.set_word("sleeping", 1)
    pair.send(0, b"x" * 60)
    assert os.eventfd_read(pair.events[1]) == 1


# --- the segment of end 1 is hostile; end 0 must not believe it ---


@pytest.mark.parametrize("producer", [UNITS + 1, 1 << 63, (1 << 64) - 1])
def test_an_impossible_producer_yields_nothing_and_heals(pair: Pair, producer: int) -> None:
    pair.set_word("producer", producer)
    assert pair.receive(0)[0] == -errno.EAGAIN
    pair.set_head(producer, 60)
    pair.set_word("producer", (producer + 2) % (1 << 64))
    assert pair.receive(0)[0] == 60


@pytest.mark.parametrize("consumer", [1, UNITS, 1 << 63])
def test_an_impossible_consumer_gives_no_room(pair: Pair, consumer: int) -> None:
    pair.set_word("consumer", consumer)
    pair.reopen(0)  # which looks at it; later that is done when there seems to be no room
    assert pair.send(0, b"x" * 60) == -errno.EAGAIN


@pytest.mark.parametrize("length", [0, SUPER_ROOM + 1, (1 << 32) - 1, 4 * UNIT])
def test_an_impossible_length_costs_what_was_published_and_no_more(pair: Pair, length: int) -> None:
    pair.send(1, b"a" * 60)
    pair.send(1, b"b" * 20)
    pair.set_head(0, length)
    assert pair.receive(0)[0] == -errno.EBADMSG
    assert pair.receive(0)[0] == -errno.EAGAIN
    pair.send(1, b"c" * 60)
    assert pair.receive(0)[1] == b"c" * 60


def test_a_frame_is_whole_where_the_ring_begins_anew(pair: Pair) -> None:
    filler = b"x" * (1024 * UNIT - HEAD)
    for _ in range(UNITS // 1024 - 1):
        assert pair.send(0, filler) == 0
        assert pair.receive(1)[1] == filler
    for length in (1000 * UNIT, 1024 * UNIT, 100):
        frame = random.Random(length).randbytes(length)
        assert pair.send(0, frame) == 0
        assert pair.receive(1)[1] == frame


def test_random_bytes_in_the_peers_segment_are_survived(pair: Pair) -> None:
    rng = random.Random(2)
    start = SIZES["segment_header"]
    for _ in range(30):
        pair.hostile[start : start + 4096] = rng.randbytes(4096)
        units = FIELDS["link_segment"]["units"][0]
        for index in range(0, UNITS, 701):
            at = units + index * UNIT
            pair.hostile[at : at + 4] = struct.pack("<I", rng.choice((rng.getrandbits(32), rng.randrange(SUPER_ROOM))))
        pair.set_word("producer", rng.choice((rng.randrange(UNITS), rng.getrandbits(64))))
        for _ in range(UNITS + 2):
            if pair.receive(0)[0] == -errno.EAGAIN:
                break
        pair.send(0, b"x" * 5000)


def test_a_segment_of_another_size_or_kind_is_refused() -> None:
    right = segment.create(segment.KIND_LINK, segment.LINK_SIZE, 1, "a")
    larger = segment.create(segment.KIND_LINK, segment.LINK_SIZE + 4096, 1, "b")
    other = segment.create(segment.KIND_STATE, segment.STATE_SIZE, 1, "c")
    out = ffi.new("struct link_end **")
    try:
        assert lib.link_end_open(right, larger, -1, -1, out) == -errno.EPROTO
        assert lib.link_end_open(larger, right, -1, -1, out) == -errno.EPROTO
        assert lib.link_end_open(right, other, -1, -1, out) == -errno.EPROTO
    finally:
        for fd in (right, larger, other):
            os.close(fd)
