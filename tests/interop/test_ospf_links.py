"""OSPF over a point-to-multipoint link with FRR, and a stub area with BIRD, judged by their own tables.

frr ---- red ---- bird
 area 0.0.0.0   area 0.0.0.1, stub
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest
from peers import Bird, Frr, eventually
from routing_lab import RoutingLab

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.root, pytest.mark.interop, pytest.mark.in_order]

FRR: Final = """
interface many
 ip ospf area 0.0.0.0
 ip ospf network point-to-multipoint
 ip ospf hello-interval 1
 ip ospf dead-interval 4
interface lo
 ip ospf area 0.0.0.0
router ospf
 ospf router-id 10.255.0.2
 timers throttle spf 0 50 500
 redistribute static
ip route 172.20.1.0/24 blackhole
"""
BIRD: Final = """
router id 10.255.0.3;
protocol device {}
protocol kernel { ipv4 { export all; import none; }; }
protocol ospf v2 o {
  ipv4 { import all; export none; };
  area 1 {
    stub yes;
    interface "edge" { hello 1; dead 4; };
    interface "lo" { stub; };
  };
}
"""
World = tuple[RoutingLab, Frr, Bird]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    timers = {"hello-interval": "1s", "dead-interval": "4s"}
    areas = {
        "0.0.0.0": {"interfaces": {"many": {"network": "point-to-multipoint", **timers}, "lo": {}}},
        "0.0.0.1": {"type": "stub", "default-cost": 7, "interfaces": {"edge": timers}},
    }
    with RoutingLab() as lab:
        lab.router("red", ospf={"router-id": "10.255.0.1", "spf": {"long": "500ms"}, "areas": areas})
        lab.router("red")["interfaces"]["lo"] = {"addresses": ["10.255.0.1/32"]}
        lab.link("red", "many", ["10.99.1.1/24"], "frr", ["10.99.1.2/24"]).address("lo", "10.255.0.2/32")
        lab.link("red", "edge", ["10.99.2.1/24"], "bird", ["10.99.2.2/24"]).address("lo", "10.255.0.3/32")
        frr = lab.run(Frr(lab["frr"], FRR, ("staticd", "ospfd")))
        bird = lab.run(Bird(lab["bird"], BIRD))
        lab.start()
        yield lab, frr, bird


def kernel(lab: RoutingLab, name: str, prefix: str) -> str:
    """The routes to a prefix in the kernel of a peer."""
    return lab[name].ip("route", "show", prefix).stdout


def test_a_point_to_multipoint_link_announces_hosts(world: World) -> None:
    lab, frr, _ = world
    eventually(lambda: "Full" in frr.show("show ip ospf neighbor"), 30, "FRR is full")
    eventually(lambda: "10.99.1.1" in kernel(lab, "frr", "10.255.0.1"), 20, "FRR has red's loopback")
    links = frr.json("show ip ospf database router 10.255.0.1 json")["routerLinkStates"]["areas"]["0.0.0.0"][0]
    kinds = [link["linkType"] for link in links["routerLinks"].values()]
    assert "another Router (point-to-point)" in kinds
    assert not any("Transit" in kind for kind in kinds)
    stubs = {
        (link["networkAddress"], link["networkMask"])
        for link in links["routerLinks"].values()
        if link["linkType"] == "Stub Network"
    }
    assert ("10.99.1.1", "255.255.255.255") in stubs  # RFC 2328 section 12.4.1.4


def test_a_stub_area_has_a_default_route_and_no_externals(world: World) -> None:
    lab, frr, bird = world
    eventually(lambda: "Full" in bird.show("show ospf neighbors"), 60, "BIRD is full")
    eventually(lambda: "10.99.2.1" in kernel(lab, "bird", "default"), 20, "BIRD has a default route")
    eventually(lambda: "10.99.2.1" in kernel(lab, "bird", "10.255.0.2"), 20, "BIRD has FRR's loopback")
    eventually(lambda: lab.show("route", "red", "172.20.1.1")["protocol"] == "ospf", 20, "red has FRR's external")
    assert "172.20.1.0" not in bird.show("show ospf lsadb")
    eventually(lambda: frr.json("show ip ospf route json").get("10.255.0.3/32"), 20, "FRR has BIRD's loopback")
    probe = ("ping", "-c1", "-W2", "-I", "10.255.0.3", "10.255.0.2")
    eventually(lambda: lab["bird"].run(*probe, check=False).returncode == 0, 30, "packets follow")
