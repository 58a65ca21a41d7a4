"""The peers among themselves: what the other interop tests rest on starts, answers, ends and leaves nothing."""

from __future__ import annotations

import glob
import os
from typing import TYPE_CHECKING, Final

import pytest
from peers import Bird, ExaBgp, Frr, GoBgp, OpenBgpd, Peers, eventually
from routing_lab import RoutingLab

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab import Lab, Namespace

pytestmark = [pytest.mark.root, pytest.mark.interop]

FRR: Final = """
router bgp 65001
 bgp router-id 10.0.0.1
 no bgp ebgp-requires-policy
 neighbor 10.99.1.2 remote-as 65002
 neighbor 10.99.1.2 timers connect 1
 neighbor 10.99.1.2 advertisement-interval 0
 address-family ipv4 unicast
  network 10.255.0.1/32
 exit-address-family
"""
BIRD: Final = """
log stderr all;
router id 10.0.0.2;
protocol device { }
protocol static own { ipv4; route 203.0.113.0/24 blackhole; }
protocol bgp b { local 10.99.1.2 as 65002; neighbor 10.99.1.1 as 65001; connect retry time 1; error wait time 1,1;
 ipv4 { import all; export all; }; }
"""
GOBGP: Final = """
[global.config]
as=65002
router-id="10.0.0.2"
local-address-list=["10.99.1.2"]
[[neighbors]]
 [neighbors.config]
 neighbor-address="10.99.1.1"
 peer-as=65001
 [[neighbors.afi-safis]]
  [neighbors.afi-safis.config]
  afi-safi-name="ipv4-unicast"
"""
OPENBGPD: Final = """
AS 65002
router-id 10.0.0.2
listen on 10.99.1.2
fib-update no
network 203.0.113.0/24
neighbor 10.99.1.1 {
 remote-as 65001
 announce IPv4 unicast
}
allow from any
allow to any
"""
EXABGP: Final = """
neighbor 10.99.1.1 {
  inherit watched;
  router-id 10.0.0.2; local-address 10.99.1.2; local-as 65002; peer-as 65001;
  family { ipv4 unicast; }
}
"""


def two_ends(lab: Lab) -> tuple[Namespace, Namespace]:
    """Two namespaces with a link between them: 10.99.1.1 and 10.99.1.2."""
    near, far = lab.namespace("near"), lab.namespace("far")
    lab.veth("wire", near, far, "wire", far_address="10.99.1.2/24")
    near.address("wire", "10.99.1.1/24")
    near.address("lo", "10.255.0.1/32")  # FRR announces as a `network` only what it has
    return near, far


def received(frr: Frr) -> int:
    """How many prefixes FRR has from its neighbor."""
    count: int = frr.json("show bgp ipv4 unicast summary json")["peers"]["10.99.1.2"]["pfxRcd"]
    return count


def with_bird(far: Namespace, peers: Peers) -> None:
    """BIRD has the session and FRR's route."""
    bird = peers.run(Bird(far, BIRD))
    eventually(lambda: bird.established("b"), 30, "BIRD has the session")
    eventually(lambda: "10.255.0.1/32" in bird.show("show route protocol b"), 30, "BIRD has the route")


def with_gobgp(far: Namespace, peers: Peers) -> None:
    """GoBGP has the session and FRR's route."""
    gobgp = peers.run(GoBgp(far, GOBGP))
    gobgp.show("global rib add 203.0.113.0/24")
    eventually(lambda: gobgp.established("10.99.1.1"), 25, "GoBGP has the session")
    eventually(lambda: gobgp.json("global rib")["10.255.0.1/32"], 30, "GoBGP has the route")


def with_openbgpd(far: Namespace, peers: Peers) -> None:
    """OpenBGPD has the session and FRR's route."""
    openbgpd = peers.run(OpenBgpd(far, OPENBGPD))
    eventually(lambda: openbgpd.established("10.99.1.1"), 25, "OpenBGPD has the session")
    eventually(lambda: "10.255.0.1/32" in openbgpd.show("show rib in"), 30, "OpenBGPD has the route")


def with_exabgp(far: Namespace, peers: Peers) -> None:
    """ExaBGP has the session and FRR's route, and announces what it is told to."""
    exabgp = peers.run(ExaBgp(far, EXABGP))
    eventually(lambda: exabgp.established("10.99.1.1"), 25, "ExaBGP has the session")
    exabgp.command("announce route 203.0.113.0/24 next-hop self med 7")
    eventually(lambda: "10.255.0.1/32" in str(exabgp.updates()), 30, "ExaBGP has the route")


@pytest.mark.parametrize("other", [with_bird, with_gobgp, with_openbgpd, with_exabgp])
def test_frr_speaks(other: Callable[[Namespace, Peers], None], bare_lab: Lab, peers: Peers) -> None:
    """Each kind has a session with FRR, and a prefix goes each way, as both command lines tell."""
    near, far = two_ends(bare_lab)
    frr = peers.run(Frr(near, FRR))
    other(far, peers)
    eventually(lambda: frr.established("10.99.1.2"), 30, "FRR has the session")
    eventually(lambda: received(frr) == 1, 30, "FRR has the other's route")


def test_nothing_is_left(bare_lab: Lab) -> None:
    """A daemon that dies, and one that never comes up, leave neither process nor file."""
    near, far = two_ends(bare_lab)
    with Frr(near, FRR) as frr, Bird(far, BIRD) as bird:
        frr.kill("bgpd")
        pids = [process.pid for peer in (frr, bird) for process in peer.processes.values()]
        assert len(pids) == 2
    broken = Bird(far, "this is no configuration")
    with pytest.raises(AssertionError, match="ended with"), broken:
        pytest.fail("it must not come up")
    assert not [pid for pid in pids if os.path.exists(f"/proc/{pid}")]
    for peer in (frr, bird, broken):
        assert not glob.glob(f"/etc/frr/{peer.name}*") + glob.glob(f"/run/frr/{peer.name}*")
        assert not glob.glob(f"/tmp/anabranch-*{peer.name}*")
    assert not [path for path in glob.glob("/var/tmp/frr/*.*") if int(path.rpartition(".")[2]) in pids]
    assert not near.processes() + far.processes()


def test_routing_lab() -> None:
    """Two routers of a manager, a link and an Ethernet: what stands behind them is reached through both."""
    with RoutingLab() as lab:
        lab.segment("middle")
        lab.link("red", "one", ["10.1.0.1/24"], "host-1", ["10.1.0.2/24"])
        lab.join("middle", "red", "mid", ["10.2.0.1/24"])
        lab.join("middle", "blue", "mid", ["10.2.0.2/24"])
        far = lab.join_peer("middle", "host-2", "eth0", ["10.2.0.3/24"])
        lab["host-1"].ip("route", "add", "default", "via", "10.1.0.1")
        far.ip("route", "add", "default", "via", "10.2.0.2")
        lab.start()
        lab.router("blue", static={"10.1.0.0/24": {"via": "10.2.0.1"}})
        assert not lab.apply()["empty"]
        eventually(lambda: lab["host-1"].ping("10.2.0.3"), 30, "the other host answers")
        assert "10.1.0.0/24" in str(lab.show("routes", "blue"))
