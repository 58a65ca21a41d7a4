"""The impairment model of `tests/wire`: figures, bounds, and that a seed says all."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from tests.unit.c_build import build

WIRE: Final = Path(__file__).resolve().parents[1] / "wire"
MS: Final = 1_000_000
MILLION: Final = 1_000_000

DECLARATIONS: Final = """
enum { IMPAIR_META, IMPAIR_LONGEST, IMPAIR_REORDER, ... };
enum impair_fate { IMPAIR_PASSED, IMPAIR_HOLE, IMPAIR_QUEUE, IMPAIR_LOST, IMPAIR_ROOM };
struct impair_config {
    uint64_t seed, delay, jitter, rate;
    uint32_t queue, mtu, loss, corrupt, corrupt_from, reorder;
    uint64_t reorder_by;
    uint32_t duplicate, frames;
    uint64_t memory;
    ...;
};
struct impair_counters {
    uint64_t submitted, submitted_bytes, delivered, delivered_bytes;
    uint64_t hole, queue, lost, room, corrupted, reordered, duplicated;
    ...;
};
struct impair { struct impair_counters counters; uint32_t held; ...; };
struct impair_frame { const uint8_t *bytes; const uint8_t *meta; uint64_t due; uint32_t length; ...; };
int impair_init(struct impair *link, const struct impair_config *config);
void impair_free(struct impair *link);
int impair_configure(struct impair *link, const struct impair_config *config);
enum impair_fate impair_submit(struct impair *link, const void *bytes, uint32_t length, const void *meta, uint64_t now);
bool impair_due(struct impair *link, uint64_t now, struct impair_frame *frame);
uint64_t impair_deadline(const struct impair *link);
struct virtio_net_hdr { uint8_t flags, gso_type; uint16_t hdr_len, gso_size, csum_start, csum_offset; ...; };
bool offload_checksum(const struct virtio_net_hdr *vnet, uint8_t *frame, uint32_t length);
uint32_t cut(const struct virtio_net_hdr *vnet, const uint8_t *frame, uint32_t length, uint8_t *out, uint32_t *lengths);
"""
GLUE: Final = """
#include <string.h>
struct pile { uint8_t *out; uint32_t *lengths, count; };
static void put(void *user, const uint8_t *frame, uint32_t length)
{
    struct pile *pile = user;
    memcpy(pile->out, frame, length);
    pile->out += length;
    pile->lengths[pile->count++] = length;
}
static uint32_t cut(const struct virtio_net_hdr *vnet, const uint8_t *frame, uint32_t length, uint8_t *out,
                    uint32_t *lengths)
{
    static uint8_t scratch[70000];
    struct pile pile = {.out = out, .lengths = lengths};
    return offload_split(vnet, frame, length, scratch, put, &pile);
}
"""


@pytest.fixture(scope="module")
def wire() -> Any:
    """Give the compiled module."""
    sources = tuple(f"../../tests/wire/{name}.c" for name in ("impair", "offload"))
    includes = "".join(f'#include "{WIRE}/{name}.h"\n' for name in ("impair", "offload"))
    return build("_impair_test", sources, DECLARATIONS, includes + GLUE)


@dataclass
class Due:
    """A frame that came out."""

    at: int
    data: bytes
    meta: bytes


@dataclass
class Direction:
    """A link under test, with a clock of its own."""

    wire: Any
    settings: dict[str, int]
    fates: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ffi, self.lib = self.wire.ffi, self.wire.lib
        self.link = self.ffi.gc(self.ffi.new("struct impair *"), self.lib.impair_free)
        self.answer = self.lib.impair_init(self.link, self.ffi.new("struct impair_config *", self.settings))

    def configure(self, **settings: int) -> int:
        code: int = self.lib.impair_configure(self.link, self.ffi.new("struct impair_config *", settings))
        return code

    def submit(self, data: bytes, now: int, meta: bytes | None = None) -> int:
        self.fates.append(self.lib.impair_submit(self.link, data, len(data), meta or self.ffi.NULL, now))
        return self.fates[-1]

    def due(self, now: int) -> list[Due]:
        found, frame = [], self.ffi.new("struct impair_frame *")
        while self.lib.impair_due(self.link, now, frame):
            data, meta = bytes(self.ffi.buffer(frame.bytes, frame.length)), bytes(self.ffi.buffer(frame.meta, 16))
            found.append(Due(frame.due, data, meta))
        return found

    @property
    def deadline(self) -> int:
        return int(self.lib.impair_deadline(self.link))

    def count(self, name: str) -> int:
        return int(getattr(self.link.counters, name))

    def balanced(self) -> bool:
        gone = sum(self.count(name) for name in ("hole", "queue", "lost", "room"))
        came = self.count("submitted") + self.count("duplicated")
        return came == self.count("delivered") + int(self.link.held) + gone


NEVER: Final = (1 << 64) - 1


def numbered(number: int, size: int = 64) -> bytes:
    return number.to_bytes(4, "big") + bytes(size - 4)


def numbers(frames: list[Due]) -> list[int]:
    return [int.from_bytes(frame.data[:4], "big") for frame in frames]


def test_what_is_not_impaired_passes_at_once_and_in_order(wire: Any) -> None:
    link = Direction(wire, {})
    assert link.deadline == NEVER
    for number in range(1000):
        link.submit(numbered(number), 5, number.to_bytes(16, "big"))
    assert link.deadline == 5
    assert link.due(4) == []
    frames = link.due(5)
    assert numbers(frames) == list(range(1000))
    assert [int.from_bytes(frame.meta, "big") for frame in frames] == list(range(1000))
    assert link.deadline == NEVER
    assert link.balanced()


def test_a_delay_is_exact(wire: Any) -> None:
    link = Direction(wire, {"delay": 10 * MS})
    for number in range(10):
        link.submit(numbered(number), number * 7)
    assert link.deadline == 10 * MS
    assert [frame.at for frame in link.due(NEVER)] == [10 * MS + number * 7 for number in range(10)]


def test_jitter_spreads_the_delay_and_keeps_the_order(wire: Any) -> None:
    link = Direction(wire, {"delay": MS, "jitter": 2 * MS})
    for number in range(2000):
        link.submit(numbered(number), number * 4 * MS)
    frames = link.due(NEVER)
    extra = [frame.at - number * 4 * MS - MS for number, frame in enumerate(frames)]
    assert 0 <= min(extra) < MS / 10
    assert 1.9 * MS < max(extra) <= 2 * MS
    assert 0.95 * MS < sum(extra) / len(extra) < 1.05 * MS
    for number in range(2000):
        link.submit(numbered(number), 10**11 + number)
    assert numbers(link.due(NEVER)) == list(range(2000))


@pytest.mark.parametrize("share", [0, 1000, 10_000, 50_000, 500_000, MILLION])
def test_shares_are_what_was_asked_for(wire: Any, share: int) -> None:
    count = 20_000
    link = Direction(wire, {"seed": 3, "loss": share, "corrupt": share, "reorder": share, "duplicate": share})
    for number in range(count):
        link.submit(numbered(number), number)
        link.due(number)
    passed = count - link.count("lost")
    for name, of in (("lost", count), ("corrupted", passed), ("reordered", passed), ("duplicated", passed)):
        wanted = of * share / MILLION
        deviation = (wanted * (1 - share / MILLION)) ** 0.5
        assert abs(link.count(name) - wanted) <= 4 * deviation, name
    assert link.balanced()


def test_a_seed_decides_all(wire: Any) -> None:
    def play(seed: int) -> list[Due]:
        settings = {"loss": 30_000, "corrupt": 30_000, "reorder": 30_000, "duplicate": 30_000, "jitter": MS}
        link = Direction(wire, settings | {"seed": seed, "delay": MS, "rate": 10**8, "queue": 50_000})
        source, now, out = random.Random(1), 0, []
        for number in range(3000):
            now += source.randrange(200_000)
            link.submit(numbered(number, source.randrange(60, 1514)), now)
            out += link.due(now)
        assert link.balanced()
        return out + link.due(NEVER)

    assert play(7) == play(7)
    assert play(7) != play(8)


def test_which_frames_are_lost_depends_on_nothing_but_the_seed(wire: Any) -> None:
    def lost(**settings: int) -> list[int]:
        link = Direction(wire, {"seed": 7, "loss": 50_000, **settings})
        return [number for number in range(2000) if link.submit(numbered(number), number * MS) == wire.lib.IMPAIR_LOST]

    assert lost() == lost(delay=5, jitter=9, reorder=300_000, duplicate=500_000, corrupt=500_000, rate=10**9)
    assert len(lost()) > 50
    assert lost() != lost(seed=8)


def test_a_rate_spaces_frames_and_the_queue_drops_the_rest(wire: Any) -> None:
    link = Direction(wire, {"rate": 10**8, "queue": 10_000, "delay": MS})
    fates = [link.submit(numbered(number, 1000), 0) for number in range(20)]
    assert fates == [wire.lib.IMPAIR_PASSED] * 10 + [wire.lib.IMPAIR_QUEUE] * 10
    assert [frame.at for frame in link.due(NEVER)] == [MS + 80_000 * number for number in range(1, 11)]
    link.submit(numbered(20, 1000), 80_000 * 10 - 1)  # a nanosecond before the line is free
    link.submit(numbered(21, 1000), 80_000 * 30)  # the line has been idle for long
    assert [frame.at for frame in link.due(NEVER)] == [MS + 80_000 * 11, MS + 80_000 * 31]
    assert link.count("queue") == 10


def test_a_frame_longer_than_the_queue_passes_an_idle_line(wire: Any) -> None:
    link = Direction(wire, {"rate": 10**8, "queue": 1000})
    assert link.submit(bytes(60_000), 0) == wire.lib.IMPAIR_PASSED
    assert link.submit(bytes(60), 1) == wire.lib.IMPAIR_QUEUE


def test_long_frames_vanish_in_a_black_hole(wire: Any) -> None:
    link = Direction(wire, {"mtu": 1294})
    assert link.submit(bytes(1295), 0) == wire.lib.IMPAIR_HOLE
    assert link.submit(bytes(1294), 0) == wire.lib.IMPAIR_PASSED
    assert [len(frame.data) for frame in link.due(0)] == [1294]


def test_a_reordered_frame_is_overtaken(wire: Any) -> None:
    link = Direction(wire, {"delay": MS, "reorder": 100_000, "seed": 5})
    for number in range(1000):
        link.submit(numbered(number), number * 1000)
    frames = link.due(NEVER)
    late = [n for frame, n in zip(frames, numbers(frames), strict=True) if frame.at != MS + n * 1000]
    assert len(late) == link.count("reordered") > 50
    assert all(
        frame.at == MS + n * 1000 + wire.lib.IMPAIR_REORDER * (n in late)
        for frame, n in zip(frames, numbers(frames), strict=True)
    )
    assert [n for n in numbers(frames) if n not in late] == [n for n in range(1000) if n not in late]


def test_corruption_flips_one_bit_behind_the_given_place(wire: Any) -> None:
    link = Direction(wire, {"corrupt": MILLION, "corrupt_from": 14})
    places = set()
    for number in range(2000):
        link.submit(bytes(40), number)
        (frame,) = link.due(number)
        assert frame.data.count(0) == 39
        assert int.from_bytes(frame.data, "big").bit_count() == 1
        places.add(next(place for place, byte in enumerate(frame.data) if byte))
    assert places == set(range(14, 40))
    link.submit(bytes(14), 5000)  # nothing of it may be hit
    assert link.due(5000)[0].data == bytes(14)


def test_a_copy_follows_its_frame_and_is_whole(wire: Any) -> None:
    link = Direction(wire, {"duplicate": MILLION, "corrupt": MILLION, "delay": 3})
    link.submit(b"a" * 60, 0)
    link.submit(b"b" * 60, 0)
    frames = [frame.data for frame in link.due(3)]
    assert frames[1] == b"a" * 60 != frames[0]
    assert frames[3] == b"b" * 60 != frames[2]


def test_memory_and_frames_are_bounded(wire: Any) -> None:
    link = Direction(wire, {"delay": MS, "frames": 100})
    assert [link.submit(bytes(60), 0) for _ in range(101)].count(wire.lib.IMPAIR_ROOM) == 1
    assert len(link.due(MS)) == 100
    assert link.submit(bytes(60), MS) == wire.lib.IMPAIR_PASSED
    assert Direction(wire, {}).submit(bytes(wire.lib.IMPAIR_LONGEST + 1), 0) == wire.lib.IMPAIR_ROOM
    link = Direction(wire, {"delay": MS, "memory": 10_000})
    fates = [link.submit(bytes(1000), 0) for _ in range(20)]
    assert 8 <= fates.count(wire.lib.IMPAIR_PASSED) < 10
    assert link.balanced()


@pytest.mark.parametrize("seed", range(20))
def test_the_ring_of_memory_against_a_sorted_list(wire: Any, seed: int) -> None:
    """Frames of all lengths, reordered and copied through little memory, come out as they went in."""
    source = random.Random(seed)
    link = Direction(
        wire, {"seed": seed, "delay": 50, "jitter": 100, "reorder": 200_000, "reorder_by": 300, "memory": 30_000}
    )
    now, sent, came = 0, [], []
    for _ in range(3000):
        now += source.randrange(12)
        data = source.randbytes(source.choice([0, 1, 60, 64, 1500, source.randrange(9000)]))
        if link.submit(data, now) == wire.lib.IMPAIR_PASSED:
            sent.append(data)
        came += link.due(now)
        assert link.deadline > now
    came += link.due(NEVER)
    assert [frame.at for frame in came] == sorted(frame.at for frame in came)
    assert sorted(frame.data for frame in came) == sorted(sent)
    assert link.count("room") > 0
    assert len(sent) > 500
    assert link.balanced()


def test_a_link_changes_while_frames_are_under_way(wire: Any) -> None:
    link = Direction(wire, {"delay": MS})
    link.submit(numbered(1), 0)
    assert link.configure(loss=MILLION) == 0
    assert link.submit(numbered(2), 1) == wire.lib.IMPAIR_LOST
    assert link.configure(delay=5) == 0
    link.submit(numbered(3), 2)
    assert numbers(link.due(MS)) == [1, 3]
    assert link.configure(loss=MILLION + 1) < 0


@pytest.mark.parametrize(
    "settings",
    [{"loss": MILLION + 1}, {"queue": (1 << 31) + 1}, {"delay": 1 << 61}, {"jitter": NEVER}, {"memory": 1 << 32}],
)
def test_what_cannot_be_counted_is_refused(wire: Any, settings: dict[str, int]) -> None:
    assert Direction(wire, settings).answer < 0


# Segments


def checksum(data: bytes) -> int:
    total = sum(int.from_bytes(data[i : i + 2].ljust(2, b"\0"), "big") for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def super_segment(six: bool, udp: bool, tagged: bool, payload: bytes) -> tuple[bytes, int]:
    """Make a frame as a kernel leaves it to the card, and the offset of its transport header."""
    if udp:
        transport = struct.pack(">HHHH", 1000, 2000, 8 + len(payload), 0)
    else:
        options = bytes([1, 1, 8, 10]) + bytes(8)
        transport = struct.pack(">HHIIBBHHH", 1000, 2000, 0xFFFFFF00, 9, 8 << 4, 0x99, 500, 0, 0) + options
    length, protocol = len(transport) + len(payload), 17 if udp else 6
    if six:
        network = struct.pack(">IHBB", 6 << 28, length, protocol, 64) + bytes(range(32))
    else:
        network = struct.pack(
            ">BBHHHBBHII", 0x45, 0, 20 + length, 0xFFFF, 0x4000, 64, protocol, 0, 0x0A000001, 0x0A000002
        )
    ethernet = bytes(12) + (b"\x81\0\0\x05" if tagged else b"") + (b"\x86\xdd" if six else b"\x08\0")
    return ethernet + network + transport + payload, len(ethernet + network)


@pytest.mark.parametrize("tagged", [False, True])
@pytest.mark.parametrize("udp", [False, True])
@pytest.mark.parametrize("six", [False, True])
def test_super_segments_are_cut_as_a_card_cuts_them(wire: Any, six: bool, udp: bool, tagged: bool) -> None:
    payload = random.Random(2).randbytes(10_001)
    frame, start = super_segment(six, udp, tagged, payload)
    kind = 5 if udp else 4 if six else 1
    vnet = wire.ffi.new(
        "struct virtio_net_hdr *", {"flags": 1, "gso_type": kind, "gso_size": 1400, "csum_start": start}
    )
    out, lengths = wire.ffi.new("uint8_t[20000]"), wire.ffi.new("uint32_t[100]")
    assert wire.lib.cut(vnet, frame, len(frame), out, lengths) == 8
    network, head, at, joined = start - (40 if six else 20), start + (8 if udp else 32), 0, b""
    for number in range(8):
        piece = bytes(wire.ffi.buffer(out + at, lengths[number]))
        at += lengths[number]
        segment = piece[start:]
        addresses = piece[network + 8 : network + 40] if six else piece[network + 12 : network + 20]
        pseudo = addresses + struct.pack(">HH", len(segment), 17 if udp else 6)
        assert checksum(pseudo + segment) == 0xFFFF
        if six:
            assert int.from_bytes(piece[network + 4 : network + 6], "big") == len(segment)
        else:
            assert checksum(piece[network:start]) == 0xFFFF
            total, identity = struct.unpack_from(">HH", piece, network + 2)
            assert (total, identity) == (20 + len(segment), (0xFFFF + number) & 0xFFFF)
        if udp:
            assert int.from_bytes(segment[4:6], "big") == len(segment)
        else:
            assert int.from_bytes(segment[4:8], "big") == (0xFFFFFF00 + 1400 * number) & 0xFFFFFFFF
            first, last = number == 0, number == 7
            assert segment[13] == 0x10 | (0x80 if first else 0) | (0x09 if last else 0)
        joined += piece[head:]
    assert joined == payload


@pytest.mark.parametrize("seed", range(5))
def test_hostile_super_segments_are_not_read_beyond_their_end(wire: Any, seed: int) -> None:
    source = random.Random(seed)
    out, lengths = wire.ffi.new("uint8_t[20000000]"), wire.ffi.new("uint32_t[70000]")
    for _ in range(500):
        six, udp, tagged = (source.random() < 0.5 for _ in range(3))
        frame = bytearray(super_segment(six, udp, tagged, source.randbytes(200))[0])
        for _ in range(source.randrange(4)):
            frame[source.randrange(len(frame))] = source.randrange(256)
        length = source.randrange(len(frame) + 1)
        exact = wire.ffi.new("uint8_t[]", max(length, 1))  # the sanitizer sees what lies behind
        wire.ffi.memmove(exact, bytes(frame[:length]), length)
        fields = {
            name: source.choice([0, 14, 34, 54, 58, source.randrange(65536)]) for name in ("csum_start", "gso_size")
        }
        vnet = wire.ffi.new("struct virtio_net_hdr *", {"gso_type": source.choice([0, 1, 3, 4, 5, 0x81]), **fields})
        vnet.csum_offset = source.choice([6, 16, source.randrange(65536)])
        assert wire.lib.cut(vnet, exact, length, out, lengths) <= length
        wire.lib.offload_checksum(vnet, exact, length)
