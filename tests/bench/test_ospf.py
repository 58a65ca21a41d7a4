"""OSPF with 5,000 routers against FRR's: what one changed LSA costs, in one run on the same cores.

Both have a point-to-point link to an injector of their own and compute routes 50 ms after a change.  What counts is the
CPU time of all processes (ours: control and forwarder; FRR: ospfd and zebra) in a window around each change, less
that of a window without one.  ANABRANCH_BENCH_OSPF_ROUTERS (5000).
"""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from ospf_injector import Injector
from peers import Frr, eventually
from routing_lab import RoutingLab

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.root, pytest.mark.interop, pytest.mark.slow, pytest.mark.quiet, pytest.mark.timeout(600)]

ROUTERS: Final = int(os.environ.get("ANABRANCH_BENCH_OSPF_ROUTERS", "5000"))
CHANGES: Final = 15
WINDOW: Final = 1.0
RATIO: Final = 1.0  # of FRR's CPU, at most
FRR: Final = """
interface o1
 ip ospf area 0
 ip ospf network point-to-point
 ip ospf hello-interval 1
 ip ospf dead-interval 20
router ospf
 ospf router-id 10.97.1.1
 timers throttle spf 50 50 50
"""


def cpu(pids: list[int]) -> float:
    """CPU seconds of processes with all their threads, to the nanosecond."""
    tasks = (task for pid in pids for task in Path(f"/proc/{pid}/task").iterdir())
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


class Side:
    """A receiver and its injector."""

    def __init__(self, name: str, injector: Injector, pids: list[int], routes: Callable[[], int]) -> None:
        self.name = name
        self.injector = injector
        self.pids = pids
        self.routes = routes

    def load(self) -> float:
        """Wait until all routes are there; give the CPU that they cost."""
        before = cpu(self.pids)
        deadline = time.monotonic() + 120
        while not self.injector.full() or self.routes() < ROUTERS:
            assert time.monotonic() < deadline, f"{self.name}: {self.routes()} routes"
            self.injector.serve(1.0)
        return cpu(self.pids) - before

    def window(self, *, change: bool) -> float:
        """Give the CPU of a window, with or without a change in it."""
        before = cpu(self.pids)
        if change:
            self.injector.change()
        self.injector.serve(WINDOW)
        return cpu(self.pids) - before


@pytest.fixture
def sides() -> Iterator[tuple[Side, Side]]:
    timers = {"network": "point-to-point", "hello-interval": "1s", "dead-interval": "20s"}
    with RoutingLab() as lab:
        lab.router(
            "red",
            ospf={
                "router-id": "10.97.1.1",
                "spf": {"initial": "50ms", "short": "50ms", "long": "50ms"},
                "areas": {"0.0.0.0": {"interfaces": {"o1": timers}}},
            },
        )
        lab.link("red", "o1", ["10.97.1.1/24"], "mine", ["10.97.1.2/24"])
        theirs = lab["frr"]
        lab.veth("frr-o1", lab["other"], theirs, "o1")
        lab["other"].address("frr-o1", "10.97.1.2/24")
        theirs.address("o1", "10.97.1.1/24")
        frr = lab.run(Frr(theirs, FRR, ("ospfd",)))
        lab.start()
        routers = eventually(lambda: [r for r in lab.vr("show", "routers") if r["pids"].get("control")], 10)
        ours = [routers[0]["pids"]["control"], routers[0]["pids"]["forwarder"]]
        ends = [
            Injector(lab["mine"], "o1", "10.97.1.2/24", ROUTERS),
            Injector(lab["other"], "frr-o1", "10.97.1.2/24", ROUTERS),
        ]
        try:
            yield (
                Side("anabranch", ends[0], ours, lambda: lab.show("ospf", "red")["routes"]),
                Side(
                    "frr",
                    ends[1],
                    [frr.pid("ospfd"), frr.pid("zebra")],
                    lambda: frr.show("show ip ospf route").count("/32"),
                ),
            )
        finally:
            for end in ends:
                end.close()


def test_one_changed_lsa_costs_at_most_what_it_costs_frr(sides: tuple[Side, Side]) -> None:
    loads = [side.load() for side in sides]
    for side in sides:
        side.injector.serve(12.0)  # the first changes are over
    idle: list[list[float]] = [[], []]
    busy: list[list[float]] = [[], []]
    for turn in range(CHANGES):
        for number, side in enumerate(sides):
            busy[number].append(side.window(change=True))
            if turn % 3 == 0:
                idle[number].append(side.window(change=False))
    spent = [max(statistics.median(b) - statistics.median(i), 0.0) for b, i in zip(busy, idle, strict=True)]
    print(f"\nOSPF, {ROUTERS} routers, CPU in ms:")
    for side, load, cost, rest in zip(sides, loads, spent, idle, strict=True):
        figures = f"all LSAs {load * 1e3:8.1f}   one change {cost * 1e3:6.2f}"
        print(f"  {side.name:10}  {figures}   idle {statistics.median(rest) * 1e3:5.2f}/s")
    for side in sides:
        assert side.routes() >= ROUTERS
    assert spent[0] <= RATIO * spent[1]
