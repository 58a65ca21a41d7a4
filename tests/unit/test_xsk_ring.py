"""The rings of AF_XDP sockets in memory, with the test as the kernel: who has which frame, at each point of a crash."""

from __future__ import annotations

import random
from typing import Any, Final

import pytest

from tests.unit.c_build import build

SIZE: Final = 16
FRAME: Final = 2048
DECLARATIONS: Final = """
struct xdp_desc { uint64_t addr; uint32_t len; uint32_t options; };
struct xsk_ring { uint32_t *producer; uint32_t *consumer; uint32_t *flags; void *entries; uint32_t size; void *map; size_t map_size; };
struct xsk_receiver { struct xsk_ring rx; struct xsk_ring fill; uint32_t position; uint32_t released; };
struct xsk_sender { struct xsk_ring tx; struct xsk_ring completion; uint64_t *sent; uint64_t first; uint32_t *free; uint32_t free_count; uint32_t taken; };
int xsk_receiver_resume(struct xsk_receiver *receiver);
void xsk_receiver_release(struct xsk_receiver *receiver);
void xsk_sender_resume(struct xsk_sender *sender);
void xsk_sender_reap(struct xsk_sender *sender);
uint32_t xsk_sender_add(struct xsk_sender *sender, uint32_t producer, uint32_t length);
void xsk_sender_publish(struct xsk_sender *sender, uint32_t producer);
uint32_t xsk_sender_left(const struct xsk_sender *sender);
void xsk_sender_advance(struct xsk_sender *sender, bool dropped);
bool xsk_sender_repeat(struct xsk_sender *sender);
void xsk_sender_retract(struct xsk_sender *sender, uint32_t producer);
"""  # noqa: E501
NEAR_THE_WRAP: Final = (1 << 32) - 5


@pytest.fixture(scope="module")
def plane() -> Any:
    return build("xsk_rings", ("port/xsk_ring.c",), DECLARATIONS, '#include "port/xsk_ring.h"\n')


class Ring:
    """One ring and the memory that it lies in; frame 0 of whose it is has the number `first` in the memory of all."""

    def __init__(self, plane: Any, ring: Any, *, descriptors: bool, start: int, first: int = 0) -> None:
        self.indices = plane.ffi.new("uint32_t[3]", [start, start, 0])
        self.entries = plane.ffi.new("struct xdp_desc[]" if descriptors else "uint64_t[]", SIZE)
        ring.producer, ring.consumer, ring.flags = self.indices, self.indices + 1, self.indices + 2
        ring.entries, ring.size = self.entries, SIZE
        self._descriptors = descriptors
        self._begin = first * FRAME

    @property
    def producer(self) -> int:
        return int(self.indices[0])

    @property
    def consumer(self) -> int:
        return int(self.indices[1])

    def put(self, address: int) -> None:
        entry = self.entries[self.producer % SIZE] if self._descriptors else None
        if entry is not None:
            entry.addr, entry.len = self._begin + address + 256, 60
        else:
            self.entries[self.producer % SIZE] = self._begin + address
        self.indices[0] = (self.producer + 1) & 0xFFFFFFFF

    def take(self) -> int:
        assert self.producer != self.consumer
        entry = self.entries[self.consumer % SIZE]
        self.indices[1] = (self.consumer + 1) & 0xFFFFFFFF
        return (int(entry.addr if self._descriptors else entry) - self._begin) // FRAME

    def frames(self) -> list[int]:
        count = (self.producer - self.consumer) & 0xFFFFFFFF
        assert count <= SIZE
        found = [self.entries[(self.consumer + i) % SIZE] for i in range(count)]
        return [(int(entry.addr if self._descriptors else entry) - self._begin) // FRAME for entry in found]


class Receiver:
    """The receiving half, and the frames that the kernel holds."""

    def __init__(self, plane: Any, start: int) -> None:
        self.it = plane.ffi.new("struct xsk_receiver *")
        self.rx = Ring(plane, self.it.rx, descriptors=True, start=start)
        self.fill = Ring(plane, self.it.fill, descriptors=False, start=start)
        for frame in range(SIZE):
            self.fill.put(frame * FRAME)

    def arrive(self, count: int) -> list[int]:
        frames = [self.fill.take() for _ in range(count)]
        for frame in frames:
            self.rx.put(frame * FRAME)
        return frames

    def all(self) -> list[int]:
        return sorted(self.rx.frames() + self.fill.frames())


@pytest.mark.parametrize("start", [0, NEAR_THE_WRAP])
@pytest.mark.parametrize("count", [0, 1, 7, SIZE])
def test_a_release_cut_short_anywhere_is_completed(plane: Any, start: int, count: int) -> None:
    for written, given, taken in ((count, 0, 0), (count, count, 0), (count, count, count)):
        receiver = Receiver(plane, start)
        frames = receiver.arrive(SIZE)
        for i in range(written):  # nobody sees these until the index tells of them
            receiver.fill.entries[(receiver.fill.producer + i) % SIZE] = frames[i] * FRAME
        receiver.fill.indices[0] = (receiver.fill.producer + given) & 0xFFFFFFFF
        receiver.rx.indices[1] = (start + taken) & 0xFFFFFFFF
        assert plane.lib.xsk_receiver_resume(receiver.it) == 0
        assert receiver.it.position == receiver.rx.consumer == (start + given) & 0xFFFFFFFF
        assert receiver.rx.frames() == frames[given:]
        assert receiver.all() == list(range(SIZE))


@pytest.mark.parametrize("start", [0, NEAR_THE_WRAP])
def test_frames_go_round_for_ever(plane: Any, start: int) -> None:
    receiver = Receiver(plane, start)
    chance = random.Random(1)
    assert plane.lib.xsk_receiver_resume(receiver.it) == 0
    for _ in range(500):
        receiver.arrive(chance.randrange(len(receiver.fill.frames()) + 1))
        waiting = len(receiver.rx.frames())
        receiver.it.position = (receiver.rx.consumer + chance.randrange(waiting + 1)) & 0xFFFFFFFF
        plane.lib.xsk_receiver_release(receiver.it)
        assert receiver.rx.consumer == receiver.it.position
        assert receiver.all() == list(range(SIZE))


def test_states_that_nobody_can_have_left_are_refused(plane: Any) -> None:
    for released in (5, SIZE + 1, -1, 1 << 31):
        receiver = Receiver(plane, 0)
        receiver.arrive(4)
        receiver.fill.indices[0] = (SIZE + released) & 0xFFFFFFFF
        assert plane.lib.xsk_receiver_resume(receiver.it) < 0
    receiver = Receiver(plane, 0)
    receiver.rx.indices[0] = SIZE + 1
    assert plane.lib.xsk_receiver_resume(receiver.it) < 0


class Sender:
    """The transmitting half; its frames are not the first ones of the memory."""

    first = 3 * SIZE

    def __init__(self, plane: Any, start: int) -> None:
        self._plane = plane
        self.it = plane.ffi.new("struct xsk_sender *")
        self.tx = Ring(plane, self.it.tx, descriptors=True, start=start, first=self.first)
        self.completion = Ring(plane, self.it.completion, descriptors=False, start=start, first=self.first)
        self.sent = plane.ffi.new("uint64_t[]", SIZE)
        self.room = plane.ffi.new("uint32_t[]", SIZE)
        self.it.sent, self.it.free, self.it.first = self.sent, self.room, self.first
        plane.lib.xsk_sender_resume(self.it)

    def send(self, count: int) -> list[int]:
        producer = self.tx.producer
        found = [
            int(self._plane.lib.xsk_sender_add(self.it, (producer + i) & 0xFFFFFFFF, 60 + i)) for i in range(count)
        ]
        self._plane.lib.xsk_sender_publish(self.it, (producer + count) & 0xFFFFFFFF)
        return found

    def free(self) -> list[int]:
        found = [int(self.room[i]) for i in range(self.it.free_count)]
        assert len(set(found)) == len(found)
        return sorted(found)


@pytest.mark.parametrize("start", [0, NEAR_THE_WRAP])
def test_a_successor_finds_exactly_the_free_frames(plane: Any, start: int) -> None:
    chance = random.Random(2)
    sender = Sender(plane, start)
    assert sender.free() == list(range(SIZE))
    flying: list[int] = []
    for _ in range(500):
        plane.lib.xsk_sender_reap(sender.it)
        sender.send(chance.randrange(sender.it.free_count + 1))
        flying += [sender.tx.take() for _ in range(chance.randrange(len(sender.tx.frames()) + 1))]
        chance.shuffle(flying)
        for _ in range(chance.randrange(len(flying) + 1)):
            sender.completion.put(flying.pop() * FRAME)
        if chance.randrange(3) == 0:  # it dies, perhaps with frames that it had not published
            unpublished = chance.randrange(sender.it.free_count + 1)
            for i in range(unpublished):
                plane.lib.xsk_sender_add(sender.it, (sender.tx.producer + i) & 0xFFFFFFFF, 60)
            plane.lib.xsk_sender_resume(sender.it)
            busy = sorted(flying + sender.tx.frames())
            assert sorted(sender.free() + busy) == list(range(SIZE))
        plane.lib.xsk_sender_advance(sender.it, False)
        assert plane.lib.xsk_sender_left(sender.it) == len(sender.tx.frames())


@pytest.mark.parametrize("start", [0, NEAR_THE_WRAP])
@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("at", [0, 3, 7])
def test_a_frame_that_the_device_refused_goes_again_in_its_place(plane: Any, start: int, told: bool, at: int) -> None:
    sender = Sender(plane, start)
    frames = sender.send(8)
    for i in range(at + 1):
        assert sender.tx.take() == frames[i]
        sender.completion.put(frames[i] * FRAME)
    if not told:  # the kernel does not move the index in a call that sent nothing
        if at > 0:
            sender.tx.indices[1] = (start + at) & 0xFFFFFFFF
            plane.lib.xsk_sender_advance(sender.it, False)
        else:
            sender.tx.indices[1] = start
    plane.lib.xsk_sender_advance(sender.it, True)
    assert plane.lib.xsk_sender_left(sender.it) == 7 - at
    assert plane.lib.xsk_sender_repeat(sender.it)
    sender.tx.indices[1] = (start + at + 1) & 0xFFFFFFFF
    assert sender.tx.frames() == frames[at:]
    lengths = [sender.tx.entries[(sender.tx.consumer + i) % SIZE].len for i in range(8 - at)]
    assert lengths == list(range(60 + at, 68))
    assert sorted(sender.free() + frames[at:]) == list(range(SIZE))


def test_a_device_that_is_down_gives_the_frames_back(plane: Any) -> None:
    sender = Sender(plane, 0)
    sender.send(3)
    for _ in range(3):
        sender.completion.put(sender.tx.take() * FRAME)
    plane.lib.xsk_sender_advance(sender.it, False)
    plane.lib.xsk_sender_reap(sender.it)
    sender.send(5)
    plane.lib.xsk_sender_retract(sender.it, 3)
    assert sender.tx.frames() == []
    assert sender.free() == list(range(SIZE))
    assert set(sender.sent) == {0}


def test_impossible_completions_change_nothing(plane: Any) -> None:
    sender = Sender(plane, 0)
    sender.send(2)
    for address in (SIZE * FRAME, -FRAME, 1 << 63, 5 * FRAME):  # beyond the frames, before them; one that is not out
        sender.completion.put(address)
    plane.lib.xsk_sender_reap(sender.it)
    assert len(sender.free()) == SIZE - 2
    sender.completion.indices[0] = 4 + SIZE + 1
    plane.lib.xsk_sender_reap(sender.it)
    assert len(sender.free()) == SIZE - 2
