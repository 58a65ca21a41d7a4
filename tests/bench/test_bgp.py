"""A full BGP table: Anabranch with all features on against BIRD, FRR, OpenBGPD and GoBGP, in one run on the same cores.

ANABRANCH_BENCH_ROUTES (1000000), ANABRANCH_BENCH_ROUTES6 (as many), ANABRANCH_BENCH_RIVALS (all; names with commas)
and ANABRANCH_BENCH_REPEAT (20: how often our own table goes and comes for the medians).
"""

from __future__ import annotations

import os
import statistics
from typing import TYPE_CHECKING, Final

import pytest
from bgp_phases import HEADING, Life, Row, verify_exact
from bgp_receivers import RECEIVERS
from bgp_routes import IPV4, IPV6, Table
from lab import Lab
from verdict import Verdict

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.root, pytest.mark.interop, pytest.mark.slow, pytest.mark.timeout(3600)]

ROUTES: Final = int(os.environ.get("ANABRANCH_BENCH_ROUTES", "1000000"))
ROUTES6: Final = int(os.environ.get("ANABRANCH_BENCH_ROUTES6", str(ROUTES)))
RIVALS: Final = os.environ.get("ANABRANCH_BENCH_RIVALS", ",".join(name for name in RECEIVERS if name != "anabranch"))
REPEAT: Final = int(os.environ.get("ANABRANCH_BENCH_REPEAT", "20"))
MINE: Final = "anabranch"
MILLION: Final = 1_000_000
# What is asked of a million routes; smaller tables are held to the ratios alone.
LOAD_SECONDS, FAILURE_SECONDS = 1.5, 0.5
LOAD_RATIO, PROPAGATION_RATIO, NEW_PEER_RATIO = 8.0, 0.8, 0.2
ROUTE_BYTES: Final = 150
CHURN_SHARE: Final = 0.25


def life_of(name: str, table: Table) -> Row:
    """Let one receiver live."""
    with Lab() as lab:
        receiver = RECEIVERS[name](lab, table.afi)
        try:
            receiver.start()
            return Life(receiver, table).run()
        finally:
            receiver.stop()


def our_life(table: Table, repeat: int) -> tuple[Row, dict[str, list[float]]]:
    """Let ours live, with the failure and the return repeated; what a new peer gets is verified."""
    samples: dict[str, list[float]] = {"load": [], "clean": [], "told": [], "propagation": []}
    with Lab() as lab:
        receiver = RECEIVERS[MINE](lab, table.afi)
        try:
            receiver.start()
            life = Life(receiver, table)
            life.load()
            life.new_peer()
            verify_exact(table, life.monitor.kept())
            life.churn()
            for _ in range(repeat):
                failed, back = life.fail(), life.again()
                samples["told"].append(failed.wall)
                samples["clean"].append(failed.table or 0)
                samples["propagation"].append(back.wall)
                samples["load"].append(back.table or 0)
            life.withdraw()
            life.close()
            return life.row, samples
        finally:
            receiver.stop()


@pytest.mark.parametrize(
    ("afi", "count", "next_hop"), [(IPV4, ROUTES, "10.98.1.2"), (IPV6, ROUTES6, "fd98:1::2")], ids=["ipv4", "ipv6"]
)
def test_full_table(afi: int, count: int, next_hop: str, test_data: Path) -> None:
    table = Table(test_data, count, afi, next_hop)
    print(f"\n{count} prefixes, {len(table.sets)} attribute sets, {len(table.announce) / 1e6:.1f} MB\n{HEADING}")
    rows = {}
    mine, samples = our_life(table, REPEAT)
    print(mine.text(), flush=True)
    for name in filter(None, RIVALS.split(",")):
        rows[name] = life_of(name, table)
        print(rows[name].text(), flush=True)
    verdict = Verdict()
    for what, values in samples.items():
        print(f"  {what:12} median of {len(values)}: {statistics.median(values):.3f} s, worst {max(values):.3f} s")
    median = {what: statistics.median(values) for what, values in samples.items()}
    if count >= MILLION:
        verdict.at_most("in our forwarding table", median["load"], LOAD_SECONDS, "s")
        verdict.at_most("failure to clean table", median["clean"], FAILURE_SECONDS, "s")
        verdict.at_most("failure to second peer told", median["told"], FAILURE_SECONDS, "s")
        verdict.at_most("memory of a route", mine.grown / count, ROUTE_BYTES, "bytes")
    verdict.at_most("10,000 updates a second", mine.churn, CHURN_SHARE, "of a core")
    compare(rows, mine, median, verdict)
    assert not verdict.missed, "; ".join(verdict.missed)


def compare(rows: dict[str, Row], mine: Row, median: dict[str, float], verdict: Verdict) -> None:
    """Print our ratios to the others, and note those that miss their goals."""
    kernel = [rows[name].phases["A"].table or 0 for name in ("bird+kernel", "frr+kernel") if name in rows]
    if kernel:
        verdict.at_least("faster than the kernel's table", min(kernel) / median["load"], LOAD_RATIO, "times")
    if "bird" in rows:
        bird = rows["bird"].phases
        verdict.at_most("propagation", median["propagation"] / bird["D"].wall, PROPAGATION_RATIO, "of BIRD's time")
        new_peer = mine.phases["B"].wall / bird["B"].wall
        verdict.at_most("table to a new peer", new_peer, NEW_PEER_RATIO, "of BIRD's time")
    for name, row in rows.items():
        ratios = {phase: cell.cpu / max(mine.phases[phase].cpu, 0.01) for phase, cell in row.phases.items()}
        print(f"  CPU of {name} to ours: " + " ".join(f"{phase} {ratio:.1f}" for phase, ratio in ratios.items()))
