"""A device that four routers share by VLAN, against one that a router has alone: what each of the four still forwards.

    generator (Xg) --- (X0) tag is pushed --- VLAN 1..4 --- r1..r4 (X1) --- (Xs) sink

The generator writes no tags: a classifier before ours gives each frame the one of the measured router, which is the
last of the four to be asked whether a frame is its own.
"""

from __future__ import annotations

import os
import socket
import statistics
from pathlib import Path
from typing import Any, ClassVar, Final

import pytest
from lab import Lab, run, wait_until
from routers import AfPacket, Virtual, favored
from topology import ROUTER_CPU

from manager import bpf
from manager.netlink import Netlink

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(300)]

ROUNDS: Final = 3
OFFERED: Final = {1: (400_000, 600_000, 900_000, 1_200_000), 2: (600_000, 1_000_000, 1_500_000)}
SHARE: Final = 4
GOAL: Final = 0.5
BEFORE_OURS: Final = 1  # priority of a classifier


class Shared(Virtual):
    """The last of four routers on one device."""

    name = "shared"
    settings: ClassVar[dict[str, Any]] = {"driver": "af-packet"}

    def configuration(self) -> dict[str, Any]:
        """Put the router's first interface on its VLAN."""
        made = super().configuration()
        made["interfaces"]["in"] = {"device": self.line.devices[0], "vlan": SHARE, "addresses": ["10.0.0.1/24"]}
        return made

    def start(self) -> None:
        """Start all four, and tag what comes."""
        others = {
            f"other{vlan}": {"interfaces": {"in": {"device": self.line.devices[0], "vlan": vlan,
                                                   "addresses": ["10.0.0.1/24"]}}}
            for vlan in range(1, SHARE)
        }  # fmt: skip
        self.lab.configure({"bench": self.configuration()} | others)
        self.lab.start()
        told = self.lab.router("bench")
        for task in Path(f"/proc/{told['pids']['forwarder']}/task").iterdir():
            os.sched_setaffinity(int(task.name), {int(ROUTER_CPU)})
            favored(int(task.name))
        self._tag()
        self._use_cores(told["netns"])

    def _tag(self) -> None:
        push = [bpf.copy(6, 1), bpf.move(2, socket.htons(0x8100)), bpf.move(3, SHARE), bpf.call(bpf.VLAN_PUSH),
                bpf.move(0, bpf.TC_ACT_UNSPEC), bpf.EXIT]  # fmt: skip
        program = bpf.load_program(push)
        with self.namespace.entered(), Netlink() as netlink:
            netlink.set_filter(socket.if_nametoindex(self.line.devices[0]), BEFORE_OURS, 1, program)
        os.close(program)

    def _use_cores(self, netns: str) -> None:
        places = [(self.namespace.name, self.line.devices[0]), (netns, self.line.devices[1])]
        for namespace, device in places:
            switch = f"echo {int(self.cores == 1)} > /sys/class/net/{device}/threaded"
            run("ip", "netns", "exec", namespace, "sh", "-c", switch)
            if self.cores == 1:
                self.line._pin(device)


def peak(kind: type[Virtual], cores: int) -> float:
    """Build a row; give the most that reaches the sink."""
    with Lab() as lab:
        router = kind(lab, None, cores=cores, sink="a")
        try:
            router.start()
            wait_until(lambda: router.line.rate(10_000, 0.3) > 0, "it forwards", 20)
            return max(router.line.rate(offered) for offered in OFFERED[cores])
        finally:
            router.stop()


@pytest.mark.parametrize("cores", [1, 2])
def test_a_shared_device_passes_half_of_an_unshared_one(cores: int) -> None:
    rates: dict[str, list[float]] = {"alone": [], "shared": []}
    for _round in range(ROUNDS):
        rates["alone"].append(peak(AfPacket, cores))
        rates["shared"].append(peak(Shared, cores))
    alone, shared = (statistics.median(found) for found in rates.values())
    print(f"\n{cores} core(s): alone {alone / 1e6:.3f} Mpps, shared {shared / 1e6:.3f}, ratio {shared / alone:.2f}")
    assert shared >= GOAL * alone
