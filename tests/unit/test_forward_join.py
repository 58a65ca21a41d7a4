"""Segments of a stream to the router itself, joined before its host stack sees them: how many resets answer tells.

Nobody listens there, and each packet that the stack is given is answered with one.
"""

from __future__ import annotations

import struct
from random import Random
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.unit import packets as p
from tests.unit.harness import HOST_A, ROUTER_A, Router, meet_hosts, two_sided
from tests.unit.policing import classes, publish

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE: Final = 1000
RPF: Final = 2  # FEATURE_RPF
PATHS: Final = {4: ("10.0.0.2", "10.0.0.1"), 6: ("2001:db8:a::2", "2001:db8:a::1")}
STAMPS: Final = struct.pack(">BBBBII", 1, 1, 8, 10, 77, 0)


@pytest.fixture
def router() -> Iterator[Router]:
    with Router(two_sided()) as made:
        made.settle()
        meet_hosts(made)
        made.settle()
        yield made


def segment(
    number: int, *, version: int = 4, to: str | None = None, size: int = SIZE, sport: int = 5000, ack: int = 9,
    flags: int = 0x10, window: int = 500, urgent: int = 0, options: bytes = b"", ttl: int = 64, tos: int = 0,
    shift: int = 0, wrong: int = 0, source: str | None = None,
) -> bytes:  # fmt: skip
    """Make the frame of one segment; `number` tells where in the stream it lies."""
    source, target = source or PATHS[version][0], to or PATHS[version][1]
    sequence = (0xFFFFF000 + number * SIZE + shift) % 2**32
    offset = (20 + len(options)) << 2
    payload = bytes((number + index) % 251 for index in range(size))
    tail = options + payload
    header = struct.pack(">HHIIBBHHH", sport, 80, sequence, ack, offset, flags, window, 0, urgent)
    found = p.checksum(p.pseudo(source, target, 6, len(header) + len(tail)) + header + tail) ^ wrong
    data = header[:16] + struct.pack(">H", found) + header[18:] + tail
    if version == 4:
        return p.ethernet(ROUTER_A, HOST_A, p.IP4, p.ip4(source, target, data, protocol=6, ttl=ttl, tos=tos))
    return p.ethernet(ROUTER_A, HOST_A, p.IP6, p.ip6(source, target, data, protocol=6, hop_limit=ttl))


def answers(router: Router, frames: list[bytes]) -> int:
    """Send one batch; give the number of resets."""
    before = {field: router.count("a", field) for field in ("rx_packets", "rx_bytes")}
    router.send(1, *frames)
    assert router.count("a", "rx_packets") - before["rx_packets"] == len(frames)
    assert router.count("a", "rx_bytes") - before["rx_bytes"] == sum(map(len, frames))
    router.laws()
    return len(router.receive(1))


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("options", [b"", STAMPS])
def test_a_row_is_one_packet(router: Router, version: int, options: bytes) -> None:
    frames = [segment(number, version=version, options=options) for number in range(8)]
    assert answers(router, frames) == 1
    assert answers(router, frames[:3]) == 3  # not worth it


def test_a_push_or_a_short_segment_ends_it(router: Router) -> None:
    pushed = [segment(number, flags=0x18 if number == 3 else 0x10) for number in range(8)]
    assert answers(router, pushed) == 2
    short = [segment(number, size=600 if number == 3 else SIZE, shift=-400 if number > 3 else 0) for number in range(8)]
    assert answers(router, short) == 2


def test_the_largest_packet(router: Router) -> None:
    assert answers(router, [segment(number, size=1448, shift=number * 448) for number in range(64)]) == 2


@pytest.mark.parametrize(
    ("change", "resets"),
    [
        ({"shift": 1}, 5), ({"sport": 5001}, 5), ({"ack": 10}, 5), ({"window": 501}, 5), ({"ttl": 63}, 5),
        ({"tos": 3}, 5), ({"urgent": 1}, 5), ({"flags": 0x11}, 5), ({"flags": 0x50}, 5), ({"options": STAMPS}, 5),
        ({"size": 100}, 5), ({"size": 1100}, 5), ({"wrong": 1}, 7),
    ],
)  # fmt: skip
def test_what_is_not_alike_stays_alone(router: Router, change: dict[str, Any], resets: int) -> None:
    """The fifth of eight: four before it are joined, three behind it are too few."""
    frames = [segment(number, **(change if number == 4 else {})) for number in range(8)]
    assert answers(router, frames) == resets


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("order", ["45670123", "02461357", "76543210", "01234576", "10234567"])
def test_a_wrong_order_within_a_batch_is_mended(router: Router, version: int, order: str) -> None:
    assert answers(router, [segment(int(number), version=version) for number in order]) == 1


def stamped(value: int) -> bytes:
    return struct.pack(">BBBBII", 1, 1, 8, 10, value % 2**32, 0)


@pytest.mark.parametrize(
    ("late", "others", "resets"),
    [
        (stamped(77), stamped(77), 1),
        (stamped(-1), stamped(0), 2),  # is moved, but not joined
        (stamped(78), stamped(77), 5),  # sent again: before the others it would make old duplicates of them
        (stamped(0), stamped(-1), 5),
        (stamped(77), b"", 5),
        (STAMPS[2:] + STAMPS[:2], STAMPS[2:] + STAMPS[:2], 5),  # not known to be a time stamp
    ],
)
@pytest.mark.parametrize("version", [4, 6])
def test_what_was_sent_again_stays_behind_older_ones(
    router: Router, version: int, late: bytes, others: bytes, resets: int
) -> None:
    frames = [segment(number, version=version, options=others) for number in (1, 2, 3)]
    frames += [segment(0, version=version, options=late)]
    frames += [segment(number, version=version, options=others) for number in (4, 5, 6, 7)]
    assert answers(router, frames) == resets


def test_streams_keep_their_places_beside_each_other(router: Router) -> None:
    """Only neighbors change places: another stream's segment, and one without data, stand between them."""
    other = segment(4, sport=5001)
    behind, before = ([segment(number) for number in numbers] for numbers in (range(4, 8), range(4)))
    assert answers(router, [*behind, other, *before]) == 3
    assert answers(router, [*behind, segment(4, size=0), *before]) == 3


def test_segments_that_came_twice_stay_behind(router: Router) -> None:
    assert answers(router, [segment(int(number)) for number in "012343210"]) == 5
    assert answers(router, [segment(int(number)) for number in "0123456712"]) == 3


def test_transit_keeps_its_order(router: Router) -> None:
    frames = [segment(number, to="10.0.1.2") for number in reversed(range(8))]
    router.send(1, *frames)
    assert [frame[38:] for frame in router.receive(2)] == [frame[38:] for frame in frames]


def test_what_passes_through_stays_as_it_is(router: Router) -> None:
    frames = [segment(number, to="10.0.1.2") for number in range(8)]
    router.send(1, *frames)
    assert [frame[38:] for frame in router.receive(2)] == [frame[38:] for frame in frames]
    router.laws()


def test_stages_see_each_packet(router: Router) -> None:
    router.interfaces["a"].features = RPF
    router.publish()
    assert answers(router, [segment(number) for number in range(8)]) == 8


def test_what_the_link_pads_is_counted(router: Router) -> None:
    assert answers(router, [segment(number) + bytes(4) for number in range(8)]) == 1


def test_each_of_a_row_that_is_refused_counts(router: Router) -> None:
    assert answers(router, [segment(number, source="10.0.1.1") for number in range(8)]) == 0
    assert router.drops("a") == {"ip4_source": 8}


def test_each_of_a_row_takes_from_the_rate_of_its_class(router: Router) -> None:
    publish(router, {"tcp": (10, 10)})
    frames = [segment(number) for number in range(8)]
    assert [answers(router, frames) for _ in range(3)] == [1, 1, 0]
    assert classes(router)["tcp"] == (16, 8)
    assert router.drops("a") == {"control_plane": 8, "tcp_no_connection": 16}


def damaged(random: Random, frame: bytes) -> bytes:
    """Change a byte of the headers, or the length."""
    at = random.randrange(6, 80)
    if at < 70:
        return frame[:at] + bytes([random.choice((0, 1, 255, frame[at] ^ 1, random.randrange(256)))]) + frame[at + 1 :]
    return frame[: random.randrange(20, len(frame))] if at < 75 else frame + bytes(random.randrange(1, 90))


@pytest.mark.parametrize("version", [4, 6])
def test_counters_are_those_of_single_packets(router: Router, version: int) -> None:
    """Whatever comes: in batches, and one at a time."""

    def counted(batches: list[list[bytes]]) -> dict[str, int]:
        fields = ("rx_packets", "rx_bytes", "punt_packets", "forwarded_packets", "held_packets")
        before = {field: router.count("a", field) for field in fields} | router.drops("a")
        for batch in batches:
            router.send(1, *batch)
            router.receive(1)
            router.laws()
        after = {field: router.count("a", field) for field in fields} | router.drops("a")
        return {name: value - before.get(name, 0) for name, value in after.items() if value != before.get(name, 0)}

    random = Random(version)
    for _ in range(150):
        size = random.choice((512, 900))
        frames = [
            segment(number, version=version, size=size, shift=number * (size - SIZE), options=STAMPS)
            for number in range(10)
        ]
        for number in range(10):
            if random.random() < 0.1:
                frames[number] = damaged(random, frames[number])
        if random.random() < 0.3:
            change = damaged(random, frames[0])[:14]
            frames = [change + frame[14:] for frame in frames]
        assert counted([frames]) == counted([[frame] for frame in frames])
