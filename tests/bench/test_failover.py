"""How long packets go the wrong way when a neighbor, or the way to it, fails: with one route, and with a million.

Two neighbors announce the same prefixes; a thread looks at the group that packets follow while the table hears of
the failure.  The routes themselves are judged afterwards, which takes as long as it takes.  Nothing here needs root.

Static routes with two hops and a backup stand for those of all protocols whose routes lie in the RIB: there the clock
runs from the moment that control hears of a link, or of BFD, to the store that moves the last group.
"""

from __future__ import annotations

import os
import statistics
import struct
import threading
import time
from collections.abc import Callable
from typing import Final

from fastpath import routes
from fastpath.segment import KIND_TABLES, Segment, create
from fastpath.tables import TableWriter
from tests.bench.verdict import Verdict
from tests.unit import test_hop_groups as static
from vrouter.net.address import parse_address
from vrouter.rib.bgp_table import Afi, FamilySettings, Identity, PeerKind, PeerSettings
from vrouter.rib.route import Hop, HopKind
from vrouter.runtime.bgp_bulk import BulkTable
from vrouter.wire.bgp.attributes import Attributes, SegmentKind, encode
from vrouter.wire.bgp.attributes import Segment as PathSegment
from vrouter.wire.bgp.message import frame

COUNTS: Final = (1, 1000, 100_000, 1_000_000)
RIB_COUNTS: Final = (1, 100, 10_000)
RUNS: Final = 3
GOAL_FLIP: Final = 1.0  # ms, however many routes there are
PER_MESSAGE: Final = 700


class World:
    """A table on a segment, with neighbors that say the same."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.fd = create(KIND_TABLES, 1 << 29, 1, "bench")
        self.writer = TableWriter(self.fd)
        self.segment = Segment(self.fd, KIND_TABLES)
        self.table = BulkTable(self.writer, lambda name: int(name[1:]), lambda index: f"e{index}")
        self.table.configure(Identity(65000, 1))
        self.hops: dict[int, str] = {}

    def announce(self, number: int) -> float:
        """Have a neighbor announce all; gives the CPU time until they stand in the segment."""
        self.table.peer_add(number)
        settings = PeerSettings(
            PeerKind.EXTERNAL, parse_address(f"192.0.2.{number}"), 65000, 65000 + number, number,
            {Afi.IPV4: FamilySettings()},
        )  # fmt: skip
        self.table.peer_up(number, settings)
        path = (PathSegment(SegmentKind.SEQUENCE, (65000 + number,)),)
        attributes = encode(Attributes(as_path=path, next_hop=parse_address(f"192.0.2.{number}")))
        head = struct.pack("!HH", 0, len(attributes)) + attributes
        messages = []
        for first in range(0, self.count, PER_MESSAGE):
            keys = range(first, min(first + PER_MESSAGE, self.count))
            nlri = b"".join(b"\x18" + (0x0A0000 + key).to_bytes(3, "big") for key in keys)
            messages.append(frame(2, head + nlri))
        begin = time.thread_time()
        for message in messages:
            self.table.feed(number, message)
        self.settle()
        return time.thread_time() - begin

    def settle(self) -> None:
        """Do all that waits."""
        for _ in range(2):
            while self.table.process(2048):
                pass
            for hop in self.table.new_next_hops():
                self.hops[hop.id] = str(hop.address)
                self.way(str(hop.address), f"e{str(hop.address)[-1]}")

    def way(self, address: str, interface: str) -> None:
        """Resolve a next hop."""
        (number,) = (number for number, known in self.hops.items() if known == address)
        self.table.next_hop_set(number, 0, (Hop(HopKind.FORWARD, interface, parse_address(address)),) * bool(interface))

    def led(self) -> str:
        """Tell by which interface packets leave."""
        route = routes.lookup(self.segment, "10.0.0.1")
        return str(route["nexthops"][0]["interface"]) if route is not None else ""

    def flip(self, fail: Callable[[], object]) -> float:
        """Give the milliseconds from a failure until the packets' group is another one."""
        group = next(self.writer.routes()).group
        before, flipped, watching = self.segment.integer("groups", group), [0], threading.Event()

        def watch() -> None:
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                watching.set()
                if self.segment.integer("groups", group) != before:
                    flipped[0] = time.monotonic_ns()
                    return

        thread = threading.Thread(target=watch)
        thread.start()
        watching.wait()
        begin = time.monotonic_ns()
        fail()
        thread.join()
        return (flipped[0] - begin) / 1e6

    def close(self) -> None:
        """Free all."""
        self.table.close()
        self.segment.close()
        self.writer.close()
        os.close(self.fd)


def once(count: int) -> tuple[float, ...]:
    """Let the way to all routes in use fail, and then their neighbor; give both times, and what it costs."""
    world = World(count)
    try:
        world.announce(1)
        second = world.announce(2)
        assert world.led() == "1"
        by_way = world.flip(lambda: world.way("192.0.2.1", ""))
        assert world.led() == "2"
        begin = time.monotonic()
        world.settle()
        settled = (time.monotonic() - begin) * 1e3
        world.way("192.0.2.1", "e1")
        world.settle()
        assert world.led() == "1"
        by_neighbor = world.flip(lambda: world.table.peer_down(1))
        assert world.led() == "2"
        return by_neighbor, by_way, settled, second * 1e3, world.table.totals()["bytes"]
    finally:
        world.close()


def test_a_failure_flips_groups_however_many_routes_there_are() -> None:
    """The median of some runs of each."""
    verdict = Verdict()
    for count in COUNTS:
        runs = [once(count) for _ in range(RUNS)]
        by_neighbor, by_way, settled, second, size = (statistics.median(values) for values in zip(*runs, strict=True))
        verdict.at_most(f"{count:>9,} routes, the way fails", by_way, GOAL_FLIP, "ms")
        verdict.at_most(f"{count:>9,} routes, the neighbor fails", by_neighbor, GOAL_FLIP, "ms")
        print(f"    all judged and written {settled:.1f} ms after the way failed; second table {second:.1f} ms")
        print(f"    {size:,.0f} bytes of BGP's table")
    assert not verdict.missed, verdict.missed


def flipped(vr: static.Vr, fail: Callable[[], None]) -> tuple[float, float]:
    """Give the milliseconds from a failure until the last group is moved, and until all routes are written."""
    begin = time.monotonic()
    fail()
    end = time.monotonic()
    return (vr.spy.moved_at - begin) * 1e3, (end - begin) * 1e3


def rib_once(count: int) -> tuple[float, ...]:
    """Let a link fail, and, once it is back, a neighbor."""
    vr = static.Vr()
    try:
        hops = (static.hop(1, watched=True), static.hop(2), static.hop(3, preference=9))
        vr.configure(*hops, count=count)
        vr.bfd("10.0.1.2", up=True)
        by_link = flipped(vr, lambda: vr.link(2, up=False))
        assert vr.ways(count - 1) == ["10.0.1.2"]
        vr.link(2, up=True)
        by_neighbor = flipped(vr, lambda: vr.bfd("10.0.1.2", up=False))
        assert vr.ways(count - 1) == ["10.0.2.2"]
        return *by_link, *by_neighbor
    finally:
        vr.close()


def test_routes_of_the_rib_move_as_fast() -> None:
    """The median of some runs of each."""
    verdict = Verdict()
    for count in RIB_COUNTS:
        runs = [rib_once(count) for _ in range(RUNS)]
        link, judged, neighbor, again = (statistics.median(values) for values in zip(*runs, strict=True))
        verdict.at_most(f"{count:>9,} static routes, a link fails", link, GOAL_FLIP, "ms")
        verdict.at_most(f"{count:>9,} static routes, BFD fails", neighbor, GOAL_FLIP, "ms")
        print(f"    all judged and written after {judged:.1f} and {again:.1f} ms")
    assert not verdict.missed, verdict.missed
