"""The AF_PACKET driver over blocks: each state that a crash can leave, blocks in turn, super-frames, a full ring."""

from __future__ import annotations

import struct
import time
from typing import TYPE_CHECKING, Any, Final

import pytest
from bare import PATIENCE, TP_STATUS_USER, Bare, Side, numbers

from fastpath._layout import CONSTANTS
from manager import rings

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.root]

BLOCKS: Final = 16
SMALL: Final = rings.Geometry(block_size=1 << 17, frame_count=BLOCKS << 6, version=rings.TPACKET_V3)
FRAME_BITS: Final = 24
STATUS, PACKETS = 8, 12  # offsets in struct tpacket_block_desc
SENT: Final = 12


class BlockSide(Side):
    """A side whose ring has blocks."""

    def spec(self, generation: int) -> Any:
        """Give the struct port_spec."""
        spec = super().spec(generation)
        spec.driver = CONSTANTS["DRIVER_AF_PACKET_V3"]
        return spec

    def word(self, block: int, offset: int) -> int:
        """Read of a block's head."""
        found: int = struct.unpack_from("<I", self.memory, block % BLOCKS * self.geometry.block_size + offset)[0]
        return found

    def give_back(self, frame: int) -> None:
        """Give a block to the kernel."""
        struct.pack_into("<I", self.memory, frame % BLOCKS * self.geometry.block_size + STATUS, 0)

    def waiting(self) -> int:
        """Count the frames in blocks that are ours."""
        ready = [block for block in range(BLOCKS) if self.word(block, STATUS) & TP_STATUS_USER]
        return sum(self.word(block, PACKETS) for block in ready)


@pytest.fixture
def lab() -> Iterator[Bare]:
    with Bare(geometry=SMALL, side=BlockSide) as made:
        yield made


def left(lab: Bare) -> BlockSide:
    """Give the side that frames enter by."""
    assert isinstance(lab.left, BlockSide)
    return lab.left


def filled(lab: Bare) -> tuple[int, int]:
    """Kill the forwarder, fill the ring, give the number of the first block and how many frames it holds."""
    lab.start()
    lab.warm()
    lab.kill()
    block = lab.reader.view("ports", 1).integer("progress") >> FRAME_BITS
    with lab.sender() as sender:
        for number in range(1, SENT + 1):
            sender.send(lab.frame(number))
    deadline = time.monotonic() + PATIENCE
    while left(lab).waiting() < SENT:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return block, left(lab).word(block, PACKETS)


def wait_room(lab: Bare) -> None:
    """Return when few blocks are ours: each frame takes one."""
    deadline = time.monotonic() + PATIENCE
    while left(lab).waiting() > BLOCKS // 4:
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("recorded", [0, 1, SENT // 2, "all", "moved", "given back"])
def test_every_crash_point_of_a_release_loses_and_repeats_nothing(lab: Bare, recorded: int | str) -> None:
    block, count = filled(lab)
    done = min(recorded, count) if isinstance(recorded, int) else count
    moved = recorded in ("moved", "given back")
    lab.set_progress(lab.left, (block + 1) << FRAME_BITS if moved else block << FRAME_BITS | done)
    if recorded == "given back":
        lab.left.give_back(block)
    with lab.receiver() as receiver, lab.sender() as sender:
        lab.start()
        assert numbers(receiver, SENT - done) == list(range(done + 1, SENT + 1))
        # The ring goes on turning: more blocks than it has.
        for number in range(100, 100 + 2 * BLOCKS):
            sender.send(lab.frame(number))
            time.sleep(0.003)
            wait_room(lab)
        assert numbers(receiver, 2 * BLOCKS) == list(range(100, 100 + 2 * BLOCKS))
    assert left(lab).waiting() == 0
    lab.check_laws()


def test_a_ring_of_another_coupling_is_read_from_its_oldest_block(lab: Bare) -> None:
    filled(lab)
    lab.set_progress(lab.left, 0, generation=0)
    with lab.receiver() as receiver:
        lab.start()
        assert numbers(receiver, SENT) == list(range(1, SENT + 1))


def test_a_full_ring_loses_what_comes_later_and_counts_it(lab: Bare) -> None:
    filled(lab)
    with lab.sender() as sender, lab.receiver() as receiver:
        for number in range(100, 100 + 4 * BLOCKS):
            sender.send(lab.frame(number))
            time.sleep(0.002)
        lab.start()
        found = numbers(receiver)
        assert found[:SENT] == list(range(1, SENT + 1))
        assert found == sorted(set(found))
        assert len(found) < SENT + 4 * BLOCKS
        sender.send(lab.frame(1000))
        assert numbers(receiver, 1) == [1000]
    assert lab.reader.view("ports", 1).integer("rx_kernel_drops") > 0
