"""OSPF with FRR in the backbone (MD5, BFD) and BIRD in an NSSA (HMAC-SHA-256) over point-to-point links.

frr ==== two links ==== red ---- bird
      area 0.0.0.0           area 0.0.0.1, NSSA
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest
from peers import Bird, Frr, eventually
from routing_lab import RoutingLab

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.root, pytest.mark.interop, pytest.mark.in_order]

FRR: Final = """
interface main
 ip ospf area 0.0.0.0
 ip ospf network point-to-point
 ip ospf hello-interval 1
 ip ospf dead-interval 40
 ip ospf message-digest-key 7 md5 wonderful
 ip ospf authentication message-digest
 ip ospf bfd
interface spare
 ip ospf area 0.0.0.0
 ip ospf network point-to-point
 ip ospf hello-interval 1
 ip ospf dead-interval 4
 ip ospf cost 100
interface lo
 ip ospf area 0.0.0.0
router ospf
 ospf router-id 10.255.0.2
 timers throttle spf 0 50 500
 redistribute static metric 33
ip route 172.20.1.0/24 blackhole
"""
BIRD: Final = """
router id 10.255.0.3;
protocol device {}
protocol kernel { ipv4 { export all; import none; }; }
protocol static { ipv4; route 172.21.1.0/24 blackhole; }
protocol ospf v2 o {
  ipv4 { import all; export where source = RTS_STATIC; };
  area 1 {
    nssa;
    interface "edge" {
      type ptp; hello 1; dead 4;
      authentication cryptographic;
      password "marvelous" { id 5; algorithm hmac sha256; };
    };
    interface "lo" { stub; };
  };
}
"""


def frr_routes(frr: Frr) -> dict[str, dict[str, Any]]:
    """The routing table of FRR's ospfd."""
    found: dict[str, dict[str, Any]] = frr.json("show ip ospf route json")
    return found


def kernel(lab: RoutingLab, name: str, prefix: str) -> str:
    """The routes to a prefix in the kernel of a peer."""
    return lab[name].ip("route", "show", prefix).stdout


def reaches(lab: RoutingLab, name: str, source: str, target: str) -> bool:
    """Whether a peer gets an answer."""
    return lab[name].run("ping", "-c1", "-W1", "-I", source, target, check=False).returncode == 0


@pytest.fixture(scope="module")
def world() -> Iterator[tuple[RoutingLab, Frr, Bird]]:
    point_to_point = {"network": "point-to-point", "hello-interval": "1s", "dead-interval": "4s"}
    main = {
        **point_to_point,
        "dead-interval": "40s",
        "authentication": {"md5": {"key-id": "7", "key": "wonderful"}},
        "bfd": {"interval": "100ms"},
    }
    edge = {**point_to_point, "authentication": {"hmac-sha-256": {"key-id": "5", "key": "marvelous"}}}
    with RoutingLab() as lab:
        lab.router(
            "red",
            ospf={
                "router-id": "10.255.0.1",
                "spf": {"long": "500ms"},
                "areas": {
                    "0.0.0.0": {
                        "interfaces": {"main": main, "spare": {**point_to_point, "cost": "100"}, "lo": {}},
                    },
                    "0.0.0.1": {"type": "nssa", "interfaces": {"edge": edge}},
                },
            },
        )
        lab.router("red")["interfaces"]["lo"] = {"addresses": ["10.255.0.1/32"]}
        lab.link("red", "main", ["10.99.1.1/30"], "frr", ["10.99.1.2/30"])
        lab.link("red", "spare", ["10.99.3.1/30"], "frr", ["10.99.3.2/30"]).address("lo", "10.255.0.2/32")
        lab.link("red", "edge", ["10.99.2.1/30"], "bird", ["10.99.2.2/30"]).address("lo", "10.255.0.3/32")
        frr = lab.run(Frr(lab["frr"], FRR, ("staticd", "ospfd", "bfdd")))
        bird = lab.run(Bird(lab["bird"], BIRD))
        lab.start()
        yield lab, frr, bird


def test_both_areas_are_full(world: tuple[RoutingLab, Frr, Bird]) -> None:
    _, frr, bird = world
    eventually(lambda: frr.show("show ip ospf neighbor").count("Full") == 2, 30, "FRR is full over both links")
    eventually(lambda: "Full" in bird.show("show ospf neighbors"), 30, "BIRD is full")


def test_summaries_cross_the_border(world: tuple[RoutingLab, Frr, Bird]) -> None:
    lab, frr, _ = world
    eventually(lambda: frr_routes(frr)["10.255.0.3/32"]["routeType"] == "N IA", 20, "FRR has BIRD's loopback")
    eventually(lambda: "10.99.2.1" in kernel(lab, "bird", "10.255.0.2"), 20, "BIRD has FRR's loopback")
    eventually(lambda: reaches(lab, "frr", "10.255.0.2", "10.255.0.3"), 30, "packets go from FRR to BIRD through red")


def test_what_the_nssa_announces_is_translated(world: tuple[RoutingLab, Frr, Bird]) -> None:
    lab, frr, bird = world
    eventually(lambda: frr_routes(frr)["172.21.1.0/24"]["routeType"] == "N E2", 20, "FRR has BIRD's external route")
    external = frr.json("show ip ospf database external 172.21.1.0 json")
    assert "10.255.0.1" in str(external)
    assert "10.255.0.3" not in frr.show("show ip ospf database external 172.21.1.0 self-originate")
    # What FRR announces stays out; a default route leads there.
    eventually(lambda: "10.99.2.1" in kernel(lab, "bird", "default"), 20, "BIRD has a default route")
    assert kernel(lab, "bird", "172.20.1.0/24") == ""
    assert "172.20.1.0" not in bird.show("show ospf lsadb")


def test_bfd_watches_the_neighbor(world: tuple[RoutingLab, Frr, Bird]) -> None:
    lab, frr, _ = world
    eventually(lambda: any(p["status"] == "up" for p in frr.json("show bfd peers json")), 20, "FRR's session is up")
    eventually(
        lambda: any(n["interface"] == "main" and n["bfd"] == "up" for n in lab.show("ospf", "red", "neighbor")), 30
    )


def test_packets_go_around_a_failure(world: tuple[RoutingLab, Frr, Bird]) -> None:
    lab, _frr, _ = world
    eventually(lambda: "main" in kernel(lab, "frr", "10.255.0.3"), 20, "the better link is used")
    lab["frr"].ip("link", "set", "main", "down")
    eventually(lambda: "spare" in kernel(lab, "frr", "10.255.0.3"), 30, "FRR goes the other way")
    eventually(lambda: reaches(lab, "frr", "10.255.0.2", "10.255.0.3"), 30, "packets go around")

    def ours() -> Any:
        return next(row for row in lab.show("ospf", "red", "route") if row["prefix"] == "10.255.0.2/32")["nexthops"]

    eventually(lambda: ours() == [{"interface": "spare", "via": "10.99.3.2"}], 30, "red goes the other way too")
    lab["frr"].ip("link", "set", "main", "up")
    eventually(lambda: "main" in kernel(lab, "frr", "10.255.0.3"), 30, "and back")


def test_a_wrong_key_ends_the_adjacency_and_the_right_one_brings_it_back(world: tuple[RoutingLab, Frr, Bird]) -> None:
    lab, _, bird = world
    edge = lab.router("red")["ospf"]["areas"]["0.0.0.1"]["interfaces"]["edge"]
    edge["authentication"]["hmac-sha-256"]["key"] = "other"
    lab.apply()
    eventually(lambda: "Full" not in bird.show("show ospf neighbors"), 30, "BIRD loses red")
    edge["authentication"]["hmac-sha-256"]["key"] = "marvelous"
    lab.apply()
    eventually(lambda: "Full" in bird.show("show ospf neighbors"), 30, "BIRD is full again")


def test_a_range_and_a_stub_router_are_seen_by_the_others(world: tuple[RoutingLab, Frr, Bird]) -> None:
    lab, frr, _ = world
    ospf = lab.router("red")["ospf"]
    ospf["areas"]["0.0.0.1"]["ranges"] = {"10.255.0.0/29": {"cost": "500"}}
    ospf["max-metric"] = "true"
    lab.apply()
    eventually(lambda: "10.255.0.0/29" in frr_routes(frr), 20, "FRR has the range")
    eventually(lambda: "65535" in frr.show("show ip ospf database router 10.255.0.1"), 20, "red is a stub router")
    assert "10.255.0.3/32" not in frr_routes(frr)
    del ospf["areas"]["0.0.0.1"]["ranges"], ospf["max-metric"]
    lab.apply()
    eventually(lambda: "10.255.0.3/32" in frr_routes(frr), 20, "and back")
    eventually(lambda: "10.255.0.0/29" not in frr_routes(frr), 20, "without the range")
