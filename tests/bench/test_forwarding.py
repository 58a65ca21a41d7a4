"""Forwarding against the kernel and DPDK, on veth pairs of the same shape and the same cores, in one run.

Peaks over a sweep of offered rates, by turns within seconds of each other; medians of the ratios of one turn, of
TURNS_A_ROUND turns for each of ANABRANCH_BENCH_ROUNDS (3) rounds.  Figures vary with what else the machine does, so
only the ratios mean anything.  A rival that is not
installed (Debian: dpdk-dev) is left out.  `forwarding.py` measures single rows.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from forwarding import Figures, Setting, compare, standing
from full_table import FullTable
from lab import Lab
from routers import ROUTERS
from topology import Trail
from verdict import Verdict

from tests.unit.c_build import ROOT, build_program

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(3600)]

ROUNDS: Final = int(os.environ.get("ANABRANCH_BENCH_ROUNDS", "3"))
TURNS_A_ROUND: Final = 3
CORES: Final = len(os.sched_getaffinity(0))
TWO_CORES: Final = pytest.mark.skipif(CORES < 2, reason="the generator needs a core of its own")
# By cores and sink: our row, the row it is compared with, the least ratio.
GOALS: Final = {
    (1, "a"): (
        ("af-packet", "dpdk-af-packet", 1.3),
        ("af-packet", "kernel", 0.5),
        ("af-xdp", "dpdk-af-xdp", 1.05),
        ("af-xdp", "kernel", 0.8),
    ),
    (2, "a"): (("af-xdp", "kernel", 1.2),),
}
OFFLOAD_GOALS: Final = {False: 2.5, True: 3.0}  # with the full table
LOSSLESS_GOAL: Final = 0.9  # of the peak
FLOOD: Final = 6_000_000  # packets a second, more than any of the rows passes
ECHO_LOSS: Final = 1.0  # percent
LINK_GOAL: Final = 20.0  # Mpps
LINK_SECONDS: Final = "2"
ROUND_TRIP_GOAL, BUSY_ROUND_TRIP_GOAL = 50.0, 20.0  # microseconds
STREAM_GOAL: Final = 1.0
STREAM_SECONDS: Final = 4
PINGS: Final = (0.002, 1000)  # interval in seconds, count


@pytest.fixture(scope="module")
def table(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> FullTable:
    return FullTable(test_data, tmp_path_factory.mktemp("table"))


def installed(*names: str) -> list[str]:
    """Leave out rows whose program is not there."""
    return [name for name in names if not ROUTERS[name].missing()]


def show(setting: Setting, figures: dict[str, Figures]) -> None:
    """Print the rows of one setting."""
    print(f"\nforwarding, {setting}")
    base = figures["kernel"]
    for name, found in figures.items():
        print(f"  {name:16} {found.peak / 1e6:6.3f} Mpps, {found.ratio(base):.2f} of the kernel", flush=True)


@TWO_CORES
@pytest.mark.parametrize("full", [False, True], ids=["one-route", "full-table"])
@pytest.mark.parametrize("size", ["60", "imix", "1514"])
@pytest.mark.parametrize("cores", [1, 2])
def test_packets_per_second(table: FullTable, cores: int, size: str, full: bool) -> None:
    setting = Setting(size, full, cores)
    figures = compare(
        installed("kernel", "af-packet", "af-xdp", "dpdk-af-packet", "dpdk-af-xdp"),
        setting,
        table,
        ROUNDS * TURNS_A_ROUND,
    )
    show(setting, figures)
    verdict = Verdict()
    for ours, other, goal in GOALS[cores, "a"]:
        if other in figures:
            verdict.at_least(f"{ours} : {other}", figures[ours].ratio(figures[other]), goal, "times")
    assert not verdict.missed, "; ".join(verdict.missed)


@TWO_CORES
@pytest.mark.parametrize("full", [False, True], ids=["one-route", "full-table"])
def test_offload(table: FullTable, full: bool) -> None:
    setting = Setting("60", full, 1, "b")
    figures = compare(["kernel", "xdp"], setting, table, ROUNDS * TURNS_A_ROUND)
    show(setting, figures)
    verdict = Verdict()
    verdict.at_least("xdp : kernel", figures["xdp"].ratio(figures["kernel"]), OFFLOAD_GOALS[full], "times")
    assert not verdict.missed, "; ".join(verdict.missed)


@TWO_CORES
@pytest.mark.parametrize("row", ["af-packet", "af-xdp"])
def test_nothing_is_lost_below_the_peak(row: str) -> None:
    """The kernel receives on the generator's core.

    On one core for all, a veth's queue of 256 frames runs over in each time slice of another thread of that core
    (0.2 ms of 3): the kernel itself then passes a third of its peak without loss.
    """
    figures = compare([row], Setting(cores=2), None, ROUNDS, loss=True)[row]
    verdict = Verdict()
    share = figures.share
    print()
    verdict.at_least(f"{row}: no loss up to", share, LOSSLESS_GOAL, "of the peak")
    assert not verdict.missed, "; ".join(verdict.missed)


@TWO_CORES
@pytest.mark.parametrize("row", ["kernel", "af-packet", "af-xdp"])
@pytest.mark.parametrize("cores", [1, 2])
def test_a_flood_above_capacity_leaves_the_other_port_alone(row: str, cores: int) -> None:
    """The router answers echo requests that come by a port without the flood."""
    with standing([row], Setting(cores=cores), None) as (flooded,):
        flooded.router.wake()
        line = flooded.router.line
        source = line.source()
        source.offer(FLOOD)
        try:
            begin, before = time.monotonic(), line.received()
            words = ("ping", "-q", "-n", "-i", "0.01", "-c", "200", "-W", "1", "10.0.1.1")
            text = subprocess.run(line.sink.command(*words), capture_output=True, check=False, text=True).stdout
            rate = (line.received() - before) / (time.monotonic() - begin)
        finally:
            source.offer(0)
    lost, average = float(text.partition("received, ")[2].partition("%")[0]), text.rpartition("=")[2].split("/")[1]
    print(f"\n  {row}, cores: {cores}: {rate / 1e6:.2f} of {FLOOD / 1e6:.0f} Mpps pass; echo {average} ms")
    assert lost <= ECHO_LOSS


@TWO_CORES
@pytest.mark.parametrize("full", [False, True], ids=["one-route", "full-table"])
def test_patch_link(table: FullTable, full: bool) -> None:
    """From one link to another in a process of its own, copying, with look-up and rewrite."""
    sources = [*(ROOT / "fastpath" / "src").rglob("*.c"), Path(__file__).parent / "link_rate.c"]
    program = build_program("link_rate", sources, "-lpthread")
    words = [str(program), LINK_SECONDS, "60"]
    if full:
        words += [str(table.destinations), str(table.prefix_file)]
    rates = [float(subprocess.run(words, capture_output=True, check=True, text=True).stdout) for _ in range(ROUNDS)]
    verdict = Verdict()
    print()
    verdict.at_least(
        f"patch link, {'full table' if full else 'one route'}", statistics.median(rates) / 1e6, LINK_GOAL, "Mpps"
    )
    assert not verdict.missed, "; ".join(verdict.missed)


class Paths:
    """The same two hosts with the kernel between them, and with a VR, in turns."""

    def __init__(self, lab: Lab, settings: dict[str, Any], dataplane: dict[str, Any]) -> None:
        kernel = lab.namespace("kernel")
        kernel.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        self.kernel, self.ours = Trail(lab, "k", kernel), Trail(lab, "v", lab.box)
        interfaces = {}
        for number, device in enumerate(self.kernel.devices):
            kernel.address(device, f"10.0.{number}.1/24")
        for number, device in enumerate(self.ours.devices):
            interfaces[f"side{number}"] = {"device": device, "addresses": [f"10.0.{number}.1/24"], **settings}
        lab.configure({"bench": {"interfaces": interfaces, **({"dataplane": dataplane} if dataplane else {})}})
        lab.start()

    def medians(self, measure: Any) -> tuple[float, float]:
        """Measure both by turns."""
        kernel, ours = [], []
        for _round in range(ROUNDS):
            kernel.append(measure(self.kernel))
            ours.append(measure(self.ours))
        return statistics.median(kernel), statistics.median(ours)


@pytest.fixture
def paths(request: pytest.FixtureRequest) -> Iterator[Paths]:
    with Lab() as lab:
        yield Paths(lab, *request.param)


@pytest.mark.parametrize(
    ("paths", "goal"),
    [
        (({"driver": "af-packet"}, {}), ROUND_TRIP_GOAL),
        (({"driver": "af-packet", "offload": "tc"}, {}), ROUND_TRIP_GOAL),
        (({"driver": "af-xdp"}, {"busy-poll": "20us"}), BUSY_ROUND_TRIP_GOAL),
    ],
    indirect=["paths"],
    ids=["af-packet", "offload-tc", "busy-poll"],
)
def test_round_trip(paths: Paths, goal: float) -> None:
    kernel, ours = paths.medians(lambda path: path.round_trip(*PINGS))
    verdict = Verdict()
    print(f"\nping every {PINGS[0] * 1000:g} ms: kernel {kernel:.0f} us")
    verdict.at_most("ping", ours, goal, "us")
    assert not verdict.missed, "; ".join(verdict.missed)


@pytest.mark.parametrize(
    "paths",
    [({"driver": "af-packet"}, {}), ({"driver": "af-packet", "offload": "tc"}, {})],
    indirect=True,
    ids=["af-packet", "offload-tc"],
)
def test_tcp_stream(paths: Paths) -> None:
    if shutil.which("iperf3") is None:
        pytest.skip("the program iperf3 is not installed")
    kernel, ours = paths.medians(lambda path: path.stream(STREAM_SECONDS))
    verdict = Verdict()
    print(f"\none TCP connection: kernel {kernel:.2f} Gbit/s, VR {ours:.2f} Gbit/s")
    verdict.at_least("TCP, VR : kernel", ours / kernel, STREAM_GOAL, "times")
    assert not verdict.missed, "; ".join(verdict.missed)
