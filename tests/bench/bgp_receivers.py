"""The routers whose BGP is compared: each AS 65000 at 10.98.1.1 and 10.98.2.1 (fd98:1::1, fd98:2::1), passive.

    namespace "r": r1 --- p1 sender (AS 65010, 10.98.1.2)   r2 --- p2 monitor (AS 65020, 10.98.2.2)

No policy, no timers that wait.  `+kernel` also writes the routes into the kernel's table.  Anabranch is the real
manager with one VR and all that belongs to it.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from bgp_routes import IPV4, MONITOR_AS, RECEIVER_AS, SENDER_AS
from lab import Lab, Namespace
from peers import Bird, Frr, GoBgp, OpenBgpd, Peer, Peers

from manager.cli.segments import open_segments

if TYPE_CHECKING:
    from fastpath.segment import Segment

TICKS: Final = os.sysconf("SC_CLK_TCK")
PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def descendants(pid: int) -> list[int]:
    """Give a process and all below it."""
    found = [pid]
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += descendants(int(child))
    return found


def cpu_seconds(pids: list[int]) -> float:
    """Give what the processes have used so far, in user and kernel mode."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / TICKS


def resident_bytes(pids: list[int]) -> int:
    """Give the resident memory of the processes."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    return total


class World:
    """The namespaces of one receiver, and the addresses of one family."""

    def __init__(self, lab: Lab, afi: int, *, router: bool) -> None:
        """Make the links; where the receiver is a virtual router, its ends wait in the manager's namespace."""
        self.lab, self.afi = lab, afi
        self.load = lab.namespace("load")
        self.near: Namespace = lab.box if router else lab.namespace("r")
        v4 = afi == IPV4
        self.receiver = ("10.98.1.1", "10.98.2.1") if v4 else ("fd98:1::1", "fd98:2::1")
        self.sender, self.monitor = ("10.98.1.2", "10.98.2.2") if v4 else ("fd98:1::2", "fd98:2::2")
        length = "/30" if v4 else "/64"
        for number, (mine, theirs) in enumerate(zip(self.receiver, (self.sender, self.monitor), strict=True), 1):
            lab.veth(f"r{number}", self.near, self.load, f"p{number}", far_address=theirs + length)
            if not router:
                self.near.address(f"r{number}", mine + length)


class Receiver:
    """One row of the table."""

    name: ClassVar = ""
    slack: ClassVar = 0  # routes of others that may come and go in its forwarding table meanwhile

    def __init__(self, lab: Lab, afi: int) -> None:
        """Make its world; `start` makes it run."""
        self.world = World(lab, afi, router=False)
        self.peers = Peers()

    def start(self) -> None:
        """Start it and wait until it listens."""
        raise NotImplementedError

    def stop(self) -> None:
        """End it."""
        self.peers.close()

    def pids(self) -> list[int]:
        """Give all its processes."""
        raise NotImplementedError

    def accepted(self) -> int:
        """Give how many prefixes it has from the sender, as its own command line tells."""
        raise NotImplementedError

    def installed(self) -> int | None:
        """Give how many routes its forwarding table has; None: it has none."""
        return None

    def _pids_of(self, peer: Peer) -> list[int]:
        return [pid for process in peer.processes.values() for pid in descendants(process.pid)]

    def _kernel_routes(self, pid: int) -> int:
        """Count the kernel's routes of a process's namespace, without listing them."""
        if self.world.afi == IPV4:
            text = Path(f"/proc/{pid}/net/fib_triestat").read_text()
            main = text.partition("Main:")[2].partition("Local:")[0]
            return int(re.search(r"Prefixes:\s+(\d+)", main).group(1))  # type: ignore[union-attr]
        return int(Path(f"/proc/{pid}/net/rt6_stats").read_text().split()[3], 16)


BIRD: Final = """
router id 10.98.1.1;
protocol device {{ }}
{kernel}
protocol bgp snd {{ local {r1} as {me}; neighbor {sender} as {sender_as}; passive on; error wait time 1,1;
  {family} {{ import all; export all; }}; }}
protocol bgp mon {{ local {r2} as {me}; neighbor {monitor} as {monitor_as}; passive on; error wait time 1,1;
  {family} {{ import all; export all; }}; }}
"""
BIRD_KERNEL: Final = """
protocol direct {{ {family}; }}
protocol kernel k {{ {family} {{ export where source = RTS_BGP; }}; }}
"""


def words(world: World) -> dict[str, Any]:
    """Give what the configurations are filled with."""
    return {
        "r1": world.receiver[0], "r2": world.receiver[1], "sender": world.sender, "monitor": world.monitor,
        "me": RECEIVER_AS, "sender_as": SENDER_AS, "monitor_as": MONITOR_AS,
        "family": "ipv4" if world.afi == IPV4 else "ipv6",
    }  # fmt: skip


class BirdReceiver(Receiver):
    """BIRD, routing table only."""

    name: ClassVar = "bird"
    kernel: ClassVar = False

    def start(self) -> None:
        """Start it."""
        fill = words(self.world)
        kernel = BIRD_KERNEL.format(**fill) if self.kernel else ""
        self.bird = self.peers.run(Bird(self.world.near, BIRD.format(kernel=kernel, **fill)))

    def pids(self) -> list[int]:
        """Give its process."""
        return self._pids_of(self.bird)

    def accepted(self) -> int:
        """Read `Routes: N imported`."""
        found = re.search(r"Routes:\s+(\d+) imported", self.bird.show("show protocols all snd"))
        return int(found.group(1)) if found else 0

    def installed(self) -> int | None:
        """Count in the kernel, where it writes there."""
        return self._kernel_routes(self.bird.pid()) if self.kernel else None


class BirdKernelReceiver(BirdReceiver):
    """BIRD with the kernel's table."""

    name: ClassVar = "bird+kernel"
    kernel: ClassVar = True
    slack: ClassVar = 64


FRR: Final = """
frr defaults traditional
router bgp {me}
 bgp router-id 10.98.1.1
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 neighbor {sender} remote-as {sender_as}
 neighbor {sender} passive
 neighbor {sender} advertisement-interval 0
 neighbor {monitor} remote-as {monitor_as}
 neighbor {monitor} passive
 neighbor {monitor} advertisement-interval 0
 address-family {family} unicast
  neighbor {sender} activate
  neighbor {monitor} activate
 exit-address-family
"""


class FrrReceiver(Receiver):
    """FRR's bgpd alone."""

    name: ClassVar = "frr"
    kernel: ClassVar = False

    def start(self) -> None:
        """Start it."""
        self.frr = self.peers.run(Frr(self.world.near, FRR.format(**words(self.world)), zebra=self.kernel))

    def pids(self) -> list[int]:
        """Give its processes."""
        return self._pids_of(self.frr)

    def accepted(self) -> int:
        """Read pfxRcd of the summary."""
        family = "ipv4" if self.world.afi == IPV4 else "ipv6"
        summary = self.frr.json(f"show bgp {family} unicast summary json")
        count: int = summary.get("peers", {}).get(self.world.sender, {}).get("pfxRcd", 0)
        return count

    def installed(self) -> int | None:
        """Count in the kernel, where zebra writes there."""
        return self._kernel_routes(self.frr.pid("zebra")) if self.kernel else None


class FrrKernelReceiver(FrrReceiver):
    """FRR's bgpd and zebra with the kernel's table."""

    name: ClassVar = "frr+kernel"
    kernel: ClassVar = True
    slack: ClassVar = 64


OPENBGPD: Final = """
AS {me}
router-id 10.98.1.1
listen on {r1}
listen on {r2}
fib-update no
neighbor {sender} {{
 remote-as {sender_as}
 passive
 announce {family} unicast
}}
neighbor {monitor} {{
 remote-as {monitor_as}
 passive
 announce {family} unicast
}}
allow from any
allow to any
"""


class OpenBgpdReceiver(Receiver):
    """OpenBGPD, routing table only."""

    name: ClassVar = "openbgpd"

    def start(self) -> None:
        """Start it."""
        fill = words(self.world)
        fill["family"] = "IPv4" if self.world.afi == IPV4 else "IPv6"
        self.openbgpd = self.peers.run(OpenBgpd(self.world.near, OPENBGPD.format(**fill)))

    def pids(self) -> list[int]:
        """Give its three processes."""
        return self._pids_of(self.openbgpd)

    def accepted(self) -> int:
        """Read `prefixes` of the neighbor."""
        found = self.openbgpd.json(f"show neighbor {self.world.sender}")["neighbors"]
        count: int = found[0].get("stats", {}).get("prefixes", {}).get("received", 0)
        return count


GOBGP: Final = """
[global.config]
as={me}
router-id="10.98.1.1"
port=179
local-address-list=["{r1}","{r2}"]
[[neighbors]]
 [neighbors.config]
 neighbor-address="{sender}"
 peer-as={sender_as}
 [neighbors.transport.config]
 passive-mode=true
 [[neighbors.afi-safis]]
  [neighbors.afi-safis.config]
  afi-safi-name="{family}-unicast"
[[neighbors]]
 [neighbors.config]
 neighbor-address="{monitor}"
 peer-as={monitor_as}
 [neighbors.transport.config]
 passive-mode=true
 [[neighbors.afi-safis]]
  [neighbors.afi-safis.config]
  afi-safi-name="{family}-unicast"
"""


class GoBgpReceiver(Receiver):
    """GoBGP, routing table only."""

    name: ClassVar = "gobgp"

    def start(self) -> None:
        """Start it."""
        self.gobgp = self.peers.run(GoBgp(self.world.near, GOBGP.format(**words(self.world))))

    def pids(self) -> list[int]:
        """Give its process."""
        return self._pids_of(self.gobgp)

    def accepted(self) -> int:
        """Read `Destination: N` of the summary."""
        family = "ipv4" if self.world.afi == IPV4 else "ipv6"
        found = re.search(r"Destination:\s+(\d+)", self.gobgp.show(f"global rib summary -a {family}"))
        return int(found.group(1)) if found else 0


QUICK: Final = {"connect-retry": "1s"}  # as BIRD's and FRR's: the sender goes and comes all the time


class AnabranchReceiver(Receiver):
    """A virtual router of a real manager, as an operator has it."""

    name: ClassVar = "anabranch"

    def __init__(self, lab: Lab, afi: int) -> None:
        """Make its world; its ends of the links go to the router."""
        self.world = World(lab, afi, router=True)
        self._stack = contextlib.ExitStack()
        self._tables: Segment | None = None
        self._base = 0

    def router(self) -> dict[str, Any]:
        """Give the router's configuration."""
        world = self.world
        length = "/30" if world.afi == IPV4 else "/64"
        neighbors = {
            address: {"remote-as": asn, "passive": True, "import": "all", "export": "all", "timers": QUICK}
            for address, asn in ((world.sender, SENDER_AS), (world.monitor, MONITOR_AS))
        }
        interfaces = {
            f"r{number}": {"device": f"r{number}", "addresses": [address + length]}
            for number, address in enumerate(world.receiver, 1)
        }
        bgp = {"asn": RECEIVER_AS, "neighbors": neighbors}
        return {"router-id": "10.98.1.1", "interfaces": interfaces, "bgp": bgp}

    def start(self) -> None:
        """Start the manager with one router."""
        world = self.world
        world.lab.configure({"red": self.router()}, policy={"route-policies": {"all": [{"then": "accept"}]}})
        world.lab.start()
        self._tables, _state = self._stack.enter_context(open_segments(world.lab.run_dir, "red"))
        self._base = self._count()

    def stop(self) -> None:
        """Let go of its tables; the lab ends it."""
        self._stack.close()

    def pids(self) -> list[int]:
        """Give both processes of the router."""
        return list(self.world.lab.router("red")["pids"].values())

    def accepted(self) -> int:
        """Count what its forwarder may use: what counts for us is there."""
        return self.installed() or 0

    def installed(self) -> int | None:
        """Count the published routes of the tables segment that BGP brought."""
        return self._count() - self._base

    def _count(self) -> int:
        assert self._tables is not None
        tables = self._tables
        while tables.integer("generation") % 2:
            pass  # in the middle of a batch
        offset = tables.integer("prefix_root")
        return tables.at("prefix_table", offset).integer("count") if offset else 0


RECEIVERS: Final[dict[str, type[Receiver]]] = {
    made.name: made
    for made in (
        AnabranchReceiver,
        BirdReceiver,
        FrrReceiver,
        OpenBgpdReceiver,
        GoBgpReceiver,
        BirdKernelReceiver,
        FrrKernelReceiver,
    )
}
