"""Forwarding: a VR against the kernel, on veth pairs of the same shape, in turns within one run.

Figures are medians of the rounds.  The kernel's own vary by a third with what else the machine does,
so only the ratios mean anything.
"""

from __future__ import annotations

import os
import shutil
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import pytest
from lab import Lab, wait_until
from topology import ROUTER_CPU, Line, Trail

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(150)]

ROUNDS: Final = 3
OFFERED: Final = (500_000, 800_000, 1_200_000)
CORES: Final = len(os.sched_getaffinity(0))
# Of a VR's packets to the kernel's: the goal on one core, and what even a busy machine must show.
GOAL_FORWARDING: Final = 0.45
FLOOR_FORWARDING: Final = 0.15
PINGS: Final = ((0.002, 300), (0.01, 100))  # interval in seconds, count
GOAL_ROUND_TRIP: Final = 3.0
# In microseconds: the kernel's time, all in one context, is too short for a bound on the ratio.
CEILING_ROUND_TRIP: Final = 1000.0
STREAM_SECONDS: Final = 3
GOAL_STREAM: Final = 1.0
FLOOR_STREAM: Final = 0.3


@dataclass(frozen=True)
class Rig:
    """The kernel and a VR as routers between the same neighbors."""

    lab: Lab
    kernel: Any
    ours: Any


def kernel_router(lab: Lab) -> Any:
    """Make a namespace whose kernel forwards."""
    router = lab.namespace("kernel")
    router.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    return router


def make_rig(lab: Lab, kind: type[Line | Trail]) -> Rig:
    """Build both sides, and wait for the VR."""
    router = kernel_router(lab)
    rig = Rig(lab, kind(lab, "k", router), kind(lab, "v", lab.box))
    for number, device in enumerate(rig.kernel.devices):
        router.address(device, f"10.0.{number}.1/24")
    router.ip("route", "add", "default", "via", "10.0.1.9")
    interfaces = {
        name: {"device": device, "addresses": [f"10.0.{number}.1/24"]}
        for number, (name, device) in enumerate(zip(("in", "out"), rig.ours.devices, strict=True))
    }
    lab.configure({"bench": {"interfaces": interfaces, "static": {"0.0.0.0/0": {"via": "10.0.1.9"}}}})
    lab.start()
    return rig


@pytest.fixture
def lines() -> Iterator[Rig]:
    with Lab() as lab:
        rig = make_rig(lab, Line)
        os.sched_setaffinity(lab.router("bench")["pids"]["forwarder"], {int(ROUTER_CPU)})
        try:
            yield rig
        finally:
            rig.kernel.close()
            rig.ours.close()


@pytest.fixture(scope="module")
def paths() -> Iterator[Rig]:
    with Lab() as lab:
        yield make_rig(lab, Trail)


def in_turns(rig: Rig, measure: Callable[[Any], float]) -> tuple[float, float]:
    """Measure the kernel and the VR by turns; give both medians."""
    kernel, ours = [], []
    for _round in range(ROUNDS):
        kernel.append(measure(rig.kernel))
        ours.append(measure(rig.ours))
    return statistics.median(kernel), statistics.median(ours)


def verdict(reached: bool) -> str:
    """Say whether a goal is reached."""
    return "reached" if reached else "goal missed"


@pytest.mark.skipif(CORES < 2, reason="the generator needs a core of its own")
@pytest.mark.parametrize("cores", [1, 2])
def test_packets_per_second(lines: Rig, cores: int) -> None:
    lab = lines.lab
    for line, router in ((lines.kernel, lab.namespaces["kernel"].name), (lines.ours, lab.router("bench")["netns"])):
        line.use_cores(cores, router)
        wait_until(lambda line=line: line.rate(10_000, 0.3) > 0, "packets are forwarded")
    kernel, ours = in_turns(lines, lambda line: line.peak(OFFERED))
    ratio = ours / kernel
    told = f"; goal {GOAL_FORWARDING:g}: {verdict(ratio >= GOAL_FORWARDING)}" if cores == 1 else ""
    print(
        f"\nforwarding, 60 bytes, cores: {cores}: kernel {kernel / 1e6:.3f} Mpps, VR {ours / 1e6:.3f} Mpps,"
        f" VR : kernel = {ratio:.2f}{told}"
    )
    assert ratio > FLOOR_FORWARDING


@pytest.mark.parametrize(("interval", "count"), PINGS)
def test_round_trip(paths: Rig, interval: float, count: int) -> None:
    kernel, ours = in_turns(paths, lambda path: path.round_trip(interval, count))
    ratio = ours / kernel
    print(
        f"\nping every {interval * 1000:g} ms: kernel {kernel:.0f} us, VR {ours:.0f} us, VR : kernel = {ratio:.2f};"
        f" goal at most {GOAL_ROUND_TRIP:g}: {verdict(ratio <= GOAL_ROUND_TRIP)}"
    )
    assert ours < CEILING_ROUND_TRIP


def test_tcp_stream(paths: Rig) -> None:
    if shutil.which("iperf3") is None:
        pytest.skip("the program iperf3 is not installed")
    kernel, ours = in_turns(paths, lambda path: path.stream(STREAM_SECONDS))
    ratio = ours / kernel
    print(
        f"\none TCP connection: kernel {kernel:.2f} Gbit/s, VR {ours:.2f} Gbit/s, VR : kernel = {ratio:.2f};"
        f" goal {GOAL_STREAM:g}: {verdict(ratio >= GOAL_STREAM)}"
    )
    assert ratio > FLOOR_STREAM
