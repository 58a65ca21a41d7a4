"""Both counter laws, exactly, after a random mix of good and bad frames of both sides; LAW_FRAMES (1000000) of them.

The core is the real one on virtual time, with patch links as its drivers.  Time passes, carriers go and come, and the
core dies and is succeeded in between.  `make laws` runs a hundred million.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.unit.c_build import build
from tests.unit.harness import Hop, Interface, Router, two_sided

if TYPE_CHECKING:
    from collections.abc import Iterator

FRAMES: Final = int(os.environ.get("LAW_FRAMES", "1000000"))
BURST: Final = 512
TRAFFIC: Final = Path(__file__).resolve().parents[1] / "traffic"
DECLARATIONS: Final = """
struct traffic;
struct traffic *traffic_open(uint32_t side, uint64_t seed, int own, int peer, int own_event, int peer_event);
void traffic_close(struct traffic *traffic);
uint64_t traffic_fill(struct traffic *traffic, uint64_t count);
uint64_t traffic_drain(struct traffic *traffic);
extern uint64_t traffic_answers;
"""
SOURCES: Final = ("port/link_end.c", "base/segment.c", "base/cksum.c")
ROUTES: Final = {
    "172.16.0.0/16": [Hop("10.0.1.2", "b")],
    "172.17.0.0/16": [Hop("10.0.1.2", "b"), Hop("10.0.0.2", "a", weight=3)],
    "198.51.100.0/24": [Hop()],
    "203.0.113.0/24": [Hop(kind="NEXTHOP_UNREACHABLE")],
    "2001:db8:c::/48": [Hop("2001:db8:b::2", "b")],
}


def module() -> Any:
    """Give the generator, compiled."""
    return build("random_frames", SOURCES, DECLARATIONS, f'#include "{TRAFFIC}/random_frames.c"\n')


class World:
    """A router between two links full of frames."""

    def __init__(self) -> None:
        self.lib = module().lib
        self.router = Router(
            [*two_sided(), Interface("tagged", 1, bytes.fromhex("020000000a01"), ["10.0.7.1/24"], vlan=7)], ROUTES
        )
        self.router.interfaces["b"].mtu = 1300
        self.router.publish()
        self.router.settle()
        self.before = self.seen("rx_packets"), self.seen("tx_packets")
        self.ends = [self.lib.traffic_open(side, side + 1, *self.router.ports[side + 1].far) for side in (0, 1)]
        assert all(self.ends)
        self.answered = self.lib.traffic_answers
        self.filled = self.drained = 0

    def seen(self, field: str) -> int:
        """Sum up a counter of all interfaces."""
        return sum(self.router.count(name, field) for name in self.router.interfaces)

    def turn(self) -> None:
        """Send a burst on both sides, and take what comes out."""
        for end in self.ends:
            self.filled += self.lib.traffic_fill(end, BURST)
        self.router.poll()
        for end in self.ends:
            self.drained += self.lib.traffic_drain(end)

    def rest(self) -> None:
        """Let the core take in the answers to its last questions, and everything come out."""
        for _ in range(10):
            self.router.poll()
            for end in self.ends:
                self.drained += self.lib.traffic_drain(end)

    def check(self) -> None:
        """Both laws, and nothing came in or went out beside the counters."""
        self.rest()
        self.router.laws()
        sent = self.filled + self.lib.traffic_answers - self.answered
        assert self.seen("rx_packets") - self.before[0] == sent
        assert self.seen("tx_packets") - self.before[1] == self.drained

    def close(self) -> None:
        """Give everything back."""
        for end in self.ends:
            self.lib.traffic_close(end)
        self.router.close()


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    try:
        yield made
    finally:
        made.close()


@pytest.mark.timeout(1800)
def test_laws_hold_over_a_long_random_life(world: World) -> None:
    rng = random.Random(1)
    turns = 0
    while world.filled < FRAMES:
        world.turn()
        turns += 1
        world.router.now += rng.randrange(1, 200_000)
        if turns % 50 == 0:
            world.router.advance(rng.choice((0.1, 1.5, 7.0)))
        if turns % 199 == 0:
            world.router.link(rng.choice((1, 2)), up=False)
        if turns % 199 == 3:
            for number in (1, 2):
                world.router.link(number, up=True)
        if turns % 400 == 0:
            world.rest()
            world.router.crash()
            world.router.poll()
        if turns % 100 == 0:
            world.check()
    world.check()
    counters = {name: world.router.count(name, "forwarded_packets") for name in ("a", "b")}
    assert all(count > world.filled / 100 for count in counters.values()), counters
    reasons = {reason for name in (*world.router.interfaces, None) for reason in world.router.drops(name)}
    assert reasons >= {"fragment_failed", "udp_malformed", "reassembly_full", "no_source_address"}, sorted(reasons)
    assert len(reasons) > 40, sorted(reasons)
