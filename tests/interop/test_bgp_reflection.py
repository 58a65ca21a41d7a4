"""A route reflector between FRR and BIRD; on another link with FRR, IPv4 goes over IPv6 next hops.

    ==== 4 ====
frr ==== 6 ==== red ---- bird        one AS; RFC 4456, RFC 8950
                 |
                host
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest
from peers import Bird, Frr, eventually
from routing_lab import RoutingLab

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.in_order, pytest.mark.root, pytest.mark.interop]

FRR: Final = """
router bgp 65001
 bgp router-id 10.0.0.2
 no bgp default ipv4-unicast
 neighbor 10.99.1.1 remote-as 65001
 neighbor 10.99.1.1 timers connect 1
 neighbor fd99::1 remote-as 65001
 neighbor fd99::1 timers connect 1
 neighbor fd99::1 capability extended-nexthop
 address-family ipv4 unicast
  network 10.255.0.2/32
  network 10.254.0.2/32
  neighbor 10.99.1.1 activate
  neighbor 10.99.1.1 prefix-list four out
  neighbor fd99::1 activate
  neighbor fd99::1 prefix-list six out
 exit-address-family
ip prefix-list four permit 10.255.0.2/32
ip prefix-list six permit 10.254.0.2/32
"""
BIRD: Final = """
router id 10.0.0.3;
protocol device { scan time 1; }
protocol direct { ipv4; interface "lo"; }
protocol static { ipv4; route 10.99.1.0/24 via 10.99.2.1; }
protocol kernel { ipv4 { export all; }; }
protocol bgp red {
  local 10.99.2.2 as 65001; neighbor 10.99.2.1 as 65001;
  connect retry time 1; error wait time 1,1; connect delay time 1;
  ipv4 { import all; export where source = RTS_DEVICE; next hop self; };
}
"""
FRR_ROUTE, BIRD_ROUTE = "10.255.0.2/32", "10.255.0.3/32"


class World:
    """The reflector and its two clients."""

    def __init__(self, lab: RoutingLab) -> None:
        self.lab = lab
        client = {"remote-as": 65001, "route-reflector-client": True, "timers": {"connect-retry": "1s"}}
        six = {
            "remote-as": 65001,
            "families": ["ipv4"],
            "extended-next-hop": True,
            "timers": {"connect-retry": "1s"},
        }
        neighbors = {"10.99.1.2": client, "fd99::2": six, "10.99.2.2": client}
        bgp = {"asn": 65001, "cluster-id": "10.0.0.77", "networks": ["10.1.0.0/24"], "neighbors": neighbors}
        lab.router("red", router_id="10.0.0.1", bgp=bgp)
        lab.link("red", "four", ["10.99.1.1/24"], "frr", ["10.99.1.2/24"])
        frr = lab.link("red", "six", ["fd99::1/64"], "frr", ["fd99::2/64"])
        frr.address("lo", "10.255.0.2/32")
        frr.address("lo", "10.254.0.2/32")
        bird = lab.link("red", "other", ["10.99.2.1/24"], "bird", ["10.99.2.2/24"])
        bird.address("lo", "10.255.0.3/32")
        self.host = lab.link("red", "lan", ["10.1.0.1/24"], "host", ["10.1.0.2/24"])
        self.host.ip("route", "add", "default", "via", "10.1.0.1")
        lab.start()
        self.frr = lab.run(Frr(frr, FRR))
        self.bird = lab.run(Bird(bird, BIRD))
        eventually(lambda: all(map(self.frr.established, ("10.99.1.1", "fd99::1"))), 30, "FRR has its sessions")
        eventually(lambda: self.bird.established("red"), 30, "BIRD has the session")

    def path(self, prefix: str, peer: str = "10.99.1.1") -> dict[str, Any]:
        """Give the path to a prefix that FRR has from an address of red."""
        paths = self.frr.json(f"show bgp ipv4 unicast {prefix} json")["paths"]
        return next(path for path in paths if path["peer"]["peerId"] == peer)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with RoutingLab() as lab:
        yield World(lab)


def test_routes_of_clients_are_reflected_with_their_origin(world: World) -> None:
    eventually(lambda: FRR_ROUTE in world.bird.show("show route protocol red"), 30, "BIRD has FRR's route")
    told = world.bird.show(f"show route for {FRR_ROUTE} protocol red all")
    assert "BGP.originator_id: 10.0.0.2" in told
    assert "BGP.cluster_list: 10.0.0.77" in told
    eventually(lambda: world.path(BIRD_ROUTE), 30, "FRR has BIRD's route")
    path = world.path(BIRD_ROUTE)
    assert path["originatorId"] == "10.0.0.3"
    assert path["clusterList"]["list"] == ["10.0.0.77"]


def test_what_is_our_own_has_no_cluster(world: World) -> None:
    eventually(lambda: world.path("10.1.0.0/24"), 30, "FRR has red's network")
    path = world.path("10.1.0.0/24")
    assert "clusterList" not in path
    assert "originatorId" not in path


def test_ipv4_goes_by_ipv6_next_hops(world: World) -> None:
    eventually(lambda: world.path("10.1.0.0/24", "fd99::1"), 30, "FRR has red's network")
    hops = [hop for hop in world.path("10.1.0.0/24", "fd99::1")["nexthops"] if hop["afi"] == "ipv6"]
    assert hops[0]["ip"] == "fd99::1"
    eventually(lambda: world.lab.show("route", "red", "10.254.0.2")["nexthops"], 30, "red has FRR's route")
    (hop,) = world.lab.show("route", "red", "10.254.0.2")["nexthops"]
    assert hop["via"] == "fd99::2"
    eventually(lambda: world.host.ping("10.254.0.2"), 30, "the host reaches FRR by a next hop of the other family")
