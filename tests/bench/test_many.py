"""Many VRs on one machine: what idle ones cost, and what a busy one takes from another.

    ROUTERS=50 SECONDS=30 pytest -s tests/bench/test_many.py

Idle: processor time of all processes of a manager with ROUTERS VRs, each with one veth, over SECONDS.  Busy: the
99th percentile of a ping's round trips through one VR, while frames at RATE go into another one that forwards them,
and while the same frames go where nobody takes them; so what the sender takes counts in both.  The machine's own
speed may double or halve from one second to the next: windows are short, both kinds take turns, and what counts is the
median of the ratios of neighboring windows.
"""

from __future__ import annotations

import os
import statistics
import struct
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from compiled import TRAFFIC, program
from lab import Lab, wait_until

from tests.unit import packets as p

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab import Namespace

pytestmark = [pytest.mark.root, pytest.mark.quiet]

ROUTERS: Final = int(os.environ.get("ROUTERS", "50"))
SECONDS: Final = float(os.environ.get("SECONDS", "30"))
RATE: Final = int(os.environ.get("RATE", "1500000"))
SETTLE: Final = 8.0
IDLE_SHARE: Final = 0.01  # of a core
SLOWER: Final = 1.2
ROUNDS: Final = 15
PINGS: Final = 350
SOURCE: Final = TRAFFIC / "flood.c"


def family(pid: int) -> Iterator[int]:
    """Give a process and all below it."""
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from family(int(child))


def ran(pid: int) -> int:
    """Give the nanoseconds that all threads of a process have run."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir())


def test_idle_routers_cost_next_to_nothing() -> None:
    with Lab() as lab:
        far = lab.namespace("far")
        for number in range(ROUTERS):
            lab.veth(f"v{number}", None, far, f"h{number}")
        lab.configure(
            {
                f"vr{number}": {"interfaces": {"lan": {"device": f"v{number}", "addresses": ["10.0.0.1/24"]}}}
                for number in range(ROUTERS)
            }
        )
        lab.start(120)
        time.sleep(SETTLE)
        assert lab.daemon is not None
        pids = list(family(lab.daemon.pid))
        assert len(pids) > 2 * ROUTERS
        before, begin = {pid: ran(pid) for pid in pids}, time.monotonic_ns()
        time.sleep(SECONDS)
        spent, passed = {pid: ran(pid) - before[pid] for pid in pids}, time.monotonic_ns() - begin
        share = sum(spent.values()) / passed
        manager = spent[lab.daemon.pid] / passed
        print(f"{ROUTERS} idle routers: {share:.2%} of a core, of which the manager has {manager:.2%}")
        assert share < IDLE_SHARE


class Two:
    """Two VRs: one for pings, one for load; and a device whose far end nobody looks at."""

    def __init__(self, lab: Lab, flood: str) -> None:
        self.lab, self._flood = lab, flood
        for name, device, net in (("alice", "ping-in", "10.0.0"), ("bob", "ping-out", "10.0.1")):
            lab.host(name, device, f"{net}.2/24", gateway=f"{net}.1")
        self.source: Namespace = lab.host("source", "load-in", "10.0.0.2/24")
        sink = lab.host("sink", "load-out", "10.0.1.2/24")
        lab.veth("nowhere", None, self.source, "aside")
        lab.box.ip("link", "set", "nowhere", "up")
        interfaces = {"in": "10.0.0.1/24", "out": "10.0.1.1/24"}
        lab.configure(
            {
                vr: {
                    "interfaces": {
                        name: {"device": f"{vr}-{name}", "addresses": [address]} for name, address in interfaces.items()
                    }
                }
                for vr in ("ping", "load")
            }
        )
        lab.start()
        sink.ip("neighbor", "replace", "10.0.1.1", "lladdr", "02:00:00:00:00:01", "dev", "eth0")
        wait_until(lambda: lab.namespaces["alice"].ping("10.0.1.2", wait=0.2), "pings pass")
        self.macs = {
            "eth0": next(it["mac"] for it in lab.vr("show", "interfaces", "load") if it["name"] == "in"),
            "aside": lab.box.run("cat", "/sys/class/net/nowhere/address").stdout.strip(),
        }

    def p99(self, device: str) -> float:
        """Give the 99th percentile of round trips, in microseconds, while frames leave the source by a device."""
        packet = p.datagram4("10.0.0.2", "10.0.1.2", bytes(18))
        frame = p.ethernet(bytes.fromhex(self.macs[device].replace(":", "")), bytes((2, 0, 0, 0, 9, 9)), p.IP4, packet)
        file = self.lab.run_dir / "frame"
        file.write_bytes(struct.pack("<H", len(frame)) + frame)
        command = ["taskset", "-c", "0", *self.source.command(self._flood, device, str(RATE), "20")]
        with file.open("rb") as frames:
            load = self.lab.helper(command, stdin=frames, stdout=subprocess.DEVNULL)
        try:
            time.sleep(0.15)
            told = self.lab.namespaces["alice"].run(
                "ping", "-n", "-i", "0.002", "-c", str(PINGS), "-W", "1", "10.0.1.2", check=False, timeout=30
            )
        finally:
            load.kill()
            load.wait()
        times = sorted(
            float(line.rpartition("time=")[2].split()[0]) * 1000 for line in told.stdout.splitlines() if "time=" in line
        )
        assert len(times) > PINGS * 0.9
        return times[int(len(times) * 0.99)]


def test_a_busy_router_leaves_another_its_latency() -> None:
    flood = program(SOURCE)
    with Lab() as lab:
        two = Two(lab, flood)
        idle, busy = [], []
        for _ in range(ROUNDS):
            idle.append(two.p99("aside"))
            busy.append(two.p99("eth0"))
        forwarded = next(it for it in lab.vr("show", "interfaces", "load") if it["name"] == "in")["counters"]
        ratio = statistics.median(there / aside for there, aside in zip(busy, idle, strict=True))
        print(
            f"p99 beside an idle router {sorted(round(it) for it in idle)} us, beside a busy one"
            f" {sorted(round(it) for it in busy)} us: {ratio:.2f}; it forwarded {forwarded['forwarded_packets']}"
        )
        assert ratio <= SLOWER
