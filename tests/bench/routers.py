"""The routers whose forwarding is compared, each between the generator and the sink of a `Line` of its own.

    kernel                        the kernel's IPv4 forwarding
    af-packet, af-xdp, xdp        a VR with one of the drivers, or with what plain transit needs in the device's driver
    dpdk-af-packet, dpdk-af-xdp   testpmd, which swaps MAC addresses and does no IP at all (Debian's package dpdk-dev)

Each has `start`, then its `line` measures it, then `stop`; the lab in which it lives ends the rest.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from bgp_routes import IPV4, RECEIVER_AS, SENDER_AS
from bgp_speaker import Speaker
from lab import run, wait_until
from topology import FOREIGN_MAC, NEXT_HOPS, ROUTER_CPU, Line

from manager import bpf
from manager.cli.segments import open_segments
from manager.netlink import Netlink

if TYPE_CHECKING:
    from full_table import FullTable
    from lab import Lab, Namespace

LOAD_TIMEOUT: Final = 60.0
TESTPMD: Final = "dpdk-testpmd"
TESTPMD_SECONDS: Final = 2.0
# No hugepages and no hardware of its own; its first core does nothing, the second forwards.
TESTPMD_OPTIONS: Final = (
    "--no-huge", "-m", "512", "--no-pci", "--no-telemetry", "--no-shconf", "--iova-mode=va",
    "-l", "0,1", "--main-lcore", "0",
)  # fmt: skip
FORWARD_OPTIONS: Final = (
    "--forward-mode=macswap", "--nb-cores=1", "--auto-start", "--total-num-mbufs=32768", "--no-flush-rx",
    "--portmask=0x3", "--rxd=1024", "--txd=1024", "--burst=64",
)  # fmt: skip


def favored(pid: int) -> None:
    """Give a process that has set its own niceness the precedence that this benchmark has, on top of that."""
    mine, own = (os.getpriority(os.PRIO_PROCESS, which) for which in (0, pid))
    wanted = max(-20, own + mine)
    os.setpriority(os.PRIO_PROCESS, pid, wanted)
    with contextlib.suppress(OSError):  # sched(7), autogroup: a kernel without has no such file
        Path(f"/proc/{pid}/autogroup").write_text(str(wanted))


class Router:
    """One row: a router, and the line that it is part of."""

    name: ClassVar = ""
    program: ClassVar = ""  # that has to be there

    def __init__(self, lab: Lab, table: FullTable | None, *, cores: int, sink: str) -> None:
        """Make the line; `start` makes it forward."""
        self.lab, self.table, self.cores = lab, table, cores
        self.namespace = self.place()
        self.line = Line(lab, "bf", self.namespace, sink=sink)

    @classmethod
    def missing(cls) -> str:
        """Say what is not installed; empty: nothing is missing."""
        return cls.program if cls.program and shutil.which(cls.program) is None else ""

    def place(self) -> Namespace:
        """Give the namespace where the line's devices are made."""
        return self.lab.namespace("router")

    def start(self) -> None:
        """Begin to forward, all on the cores that it may use."""
        raise NotImplementedError

    def rest(self) -> None:
        """Use no processor until `wake`, as it is another row's turn."""

    def wake(self) -> None:
        """Go on."""

    def stop(self) -> None:
        """End it."""
        self.line.close()


class Kernel(Router):
    """The kernel of a namespace."""

    name = "kernel"

    def start(self) -> None:
        """Give it addresses, neighbors and routes."""
        router = self.namespace
        router.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        for number, device in enumerate(self.line.devices):
            router.address(device, f"10.0.{number}.1/24")
        mac = FOREIGN_MAC.hex(":")
        for next_hop in NEXT_HOPS:
            router.ip("neigh", "add", next_hop, "lladdr", mac, "dev", self.line.devices[1], "nud", "permanent")
        if self.table is None:
            router.ip("route", "add", "default", "via", NEXT_HOPS[0])
        else:
            run("ip", "-n", router.name, "-batch", str(self.table.batch), timeout=LOAD_TIMEOUT)
        self.line.use_cores(self.cores, router.name)


class Virtual(Router):
    """A VR, as its manager makes it."""

    settings: ClassVar[dict[str, Any]] = {"driver": "af-packet"}
    dataplane: ClassVar[dict[str, Any]] = {}
    _speaker: Speaker | None = None

    def place(self) -> Namespace:
        """Give the manager's namespace: it moves the devices."""
        return self.lab.box

    def configuration(self) -> dict[str, Any]:
        """Give the VR's configuration."""
        interfaces = {
            name: {"device": device, "addresses": [f"10.0.{number}.1/24"], **self.settings}
            for number, (name, device) in enumerate(zip(("in", "out"), self.line.devices, strict=True))
        }
        made: dict[str, Any] = {"interfaces": interfaces}
        if self.dataplane:
            made["dataplane"] = self.dataplane
        if self.table is None:
            return made | {"static": {"0.0.0.0/0": {"via": NEXT_HOPS[0]}}}
        neighbor = {"remote-as": SENDER_AS, "passive": True, "import": "all", "export": "all"}
        return made | {"router-id": "10.0.1.1", "bgp": {"asn": RECEIVER_AS, "neighbors": {"10.0.1.2": neighbor}}}

    def start(self) -> None:
        """Start the manager, load the table, and put the forwarder on its core."""
        self.lab.configure({"bench": self.configuration()}, policy={"route-policies": {"all": [{"then": "accept"}]}})
        self.lab.start()
        told = self.lab.router("bench")
        if self.table is not None:
            self._load(self.table)
        for task in Path(f"/proc/{told['pids']['forwarder']}/task").iterdir():
            os.sched_setaffinity(int(task.name), {int(ROUTER_CPU)})
            favored(int(task.name))
        self.line.use_cores(self.cores, told["netns"])

    def _load(self, table: FullTable) -> None:
        self._speaker = Speaker(self.line.sink, "10.0.1.2", "10.0.1.1", asn=SENDER_AS, afi=IPV4)
        self._speaker.connect()
        self._speaker.send(b"".join(table.updates()))
        with open_segments(self.lab.run_dir, "bench") as (tables, _state):

            def loaded() -> bool:
                offset = tables.integer("prefix_root")
                return offset != 0 and tables.at("prefix_table", offset).integer("count") >= len(table.prefixes)

            wait_until(loaded, "all routes are in the table", LOAD_TIMEOUT)

    def stop(self) -> None:
        """End the session; the lab ends the rest."""
        if self._speaker is not None:
            self._speaker.close()
        super().stop()


class AfPacket(Virtual):
    """A VR over AF_PACKET rings."""

    name = "af-packet"


class AfXdp(Virtual):
    """A VR over AF_XDP."""

    name = "af-xdp"
    settings: ClassVar = {"driver": "af-xdp"}


class Xdp(Virtual):
    """A VR whose plain transit is forwarded in the device's driver."""

    name = "xdp"
    settings: ClassVar = {"driver": "af-packet", "offload": "xdp"}


class Dpdk(Router):
    """DPDK's testpmd over one of its kernel drivers."""

    program = TESTPMD
    devices: ClassVar = (
        "--vdev=net_af_packet{number},iface={device},blocksz=65536,framesz=2048,framecnt=4096,qdisc_bypass=1"
    )
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it with one forwarding core, and give it the time that it needs."""
        devices = [self.devices.format(number=number, device=device) for number, device in enumerate(self.line.devices)]
        words = [TESTPMD, *TESTPMD_OPTIONS, "--file-prefix", self.lab.prefix, *devices, "--", *FORWARD_OPTIONS]
        self.prepare()
        self._log = self.lab.directory / "testpmd"
        with self._log.open("wb") as log:
            self._process = self.lab.helper(
                self.namespace.command(*words), stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT
            )
        time.sleep(TESTPMD_SECONDS)
        if self._process.poll() is not None:
            raise AssertionError(f"testpmd ended:\n{self._log.read_text(errors='replace')}")
        self.line.use_cores(self.cores, self.namespace.name)

    def rest(self) -> None:
        """Stop it: it polls."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        """Go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def prepare(self) -> None:
        """Keep the kernel's IP stack off the devices."""

    def stop(self) -> None:
        """End it before its devices go."""
        if self._process is not None:
            self._process.terminate()
            self.wake()
            self._process.wait()
        super().stop()


class DpdkAfPacket(Dpdk):
    """Over AF_PACKET."""

    name = "dpdk-af-packet"

    def prepare(self) -> None:
        """Drop at clsact what the packet socket has seen, as is done for ours."""
        for device in self.line.devices:
            with self.namespace.entered(), Netlink() as netlink:
                index = socket.if_nametoindex(device)
                bpf.add_clsact(netlink, index)
                bpf.attach(netlink, index, bpf.drop_program())


class DpdkAfXdp(Dpdk):
    """Over AF_XDP."""

    name = "dpdk-af-xdp"
    devices: ClassVar = "--vdev=net_af_xdp{number},iface={device}"


ROUTERS: Final[dict[str, type[Router]]] = {
    made.name: made for made in (Kernel, AfPacket, AfXdp, Xdp, DpdkAfPacket, DpdkAfXdp)
}
