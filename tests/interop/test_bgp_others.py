"""BGP with GoBGP (several paths), OpenBGPD (large communities, roles) and ExaBGP, judged by their command lines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from peers import ExaBgp, GoBgp, OpenBgpd, eventually
from routing_lab import RoutingLab

pytestmark = [pytest.mark.in_order, pytest.mark.root, pytest.mark.interop]

GOBGP: Final = """
[global.config]
as=65002
router-id="10.0.0.2"
local-address-list=["10.99.1.2"]
[[neighbors]]
 [neighbors.config]
 neighbor-address="10.99.1.1"
 peer-as=65001
 [neighbors.timers.config]
 connect-retry=1
 [[neighbors.afi-safis]]
  [neighbors.afi-safis.config]
  afi-safi-name="ipv4-unicast"
  [neighbors.afi-safis.add-paths.config]
  receive=true
  send-max=8
"""
OPENBGPD: Final = """
AS 65003
router-id 10.0.0.3
listen on 10.99.2.2
fib-update no
network 203.0.113.0/24 set large-community 65003:7:8
neighbor 10.99.2.1 {
 remote-as 65001
 announce IPv4 unicast
 announce policy customer enforce
}
allow from any
allow to any
"""
EXABGP: Final = """
neighbor 10.99.3.1 {
  inherit watched;
  router-id 10.0.0.4; local-address 10.99.3.2; local-as 65004; peer-as 65001;
  family { ipv4 unicast; }
}
"""
ALL: Final = {
    "route-policies": {"all": [{"then": "accept"}], "tell": [{"then": {"add-community": "65001:1", "accept": True}}]}
}


def neighbor(remote: int, **values: Any) -> dict[str, Any]:
    told = {key.replace("_", "-"): value for key, value in values.items()}
    return {"remote-as": remote, "import": "all", "export": "all", "timers": {"connect-retry": "1s"}} | told


class World:
    """Red between three others."""

    def __init__(self, lab: RoutingLab) -> None:
        self.lab = lab
        lab.top["policy"] = ALL
        self.neighbors = {
            "10.99.1.2": neighbor(65002, add_path={"receive": True, "send": 4}),
            "10.99.2.2": neighbor(65003, role="provider", export="tell"),
            "10.99.3.2": neighbor(65004),
        }
        lab.router(
            "red",
            router_id="10.0.0.1",
            bgp={"asn": 65001, "networks": ["10.1.0.0/24"], "neighbors": self.neighbors},
        )
        for number, name in enumerate(("gobgp", "openbgpd", "exabgp"), 1):
            lab.link("red", f"to-{name}", [f"10.99.{number}.1/24"], name, [f"10.99.{number}.2/24"])
        lab.start()
        self.gobgp = lab.run(GoBgp(lab["gobgp"], GOBGP))
        self.openbgpd = lab.run(OpenBgpd(lab["openbgpd"], OPENBGPD))
        self.exabgp = lab.run(ExaBgp(lab["exabgp"], EXABGP))
        eventually(lambda: self.gobgp.established("10.99.1.1"), 30, "GoBGP has the session")
        eventually(lambda: self.openbgpd.established("10.99.2.1"), 30, "OpenBGPD has the session")
        eventually(lambda: self.exabgp.established("10.99.3.1"), 30, "ExaBGP has the session")


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with RoutingLab() as lab:
        yield World(lab)


def test_gobgp_gets_several_paths(world: World) -> None:
    world.gobgp.show("global rib add 198.51.100.0/24 identifier 1")
    world.exabgp.command("announce route 203.0.113.0/24 next-hop self med 7")
    eventually(lambda: len(world.gobgp.json("global rib")["203.0.113.0/24"]) == 2, 30, "two paths through red")
    shown = world.gobgp.show("global rib 203.0.113.0/24")
    assert "65001 65003" in shown
    assert "65001 65004" in shown
    eventually(lambda: "10.1.0.0/24" in world.gobgp.json("global rib"), 30, "and red's own network")


def test_openbgpd_gives_large_communities_and_a_role(world: World) -> None:
    shown = eventually(lambda: world.openbgpd.show("show rib detail 10.1.0.0/24"), 30, "OpenBGPD has the route")
    assert "65001:1" in shown
    assert "65001" in world.openbgpd.show("show neighbor 10.99.2.1")
    paths = eventually(lambda: world.lab.show("bgp rib-in", "red", "10.99.2.2"), 30, "red has OpenBGPD's route")
    assert paths[0]["large_communities"] == ["65003:7:8"]


def test_a_role_that_does_not_fit_is_refused(world: World) -> None:
    world.neighbors["10.99.2.2"]["role"] = "peer"
    world.lab.apply()
    eventually(lambda: not world.openbgpd.established("10.99.2.1"), 30, "OpenBGPD has lost the session")
    eventually(lambda: "role mismatch" in str(world.lab.show("bgp neighbor", "red", "10.99.2.2")), 20, "red tells why")
    world.neighbors["10.99.2.2"]["role"] = "provider"
    world.lab.apply()
    eventually(lambda: world.openbgpd.established("10.99.2.1"), 60, "the session is back")


def test_exabgp_hears_what_the_others_say(world: World) -> None:
    eventually(lambda: "10.1.0.0/24" in str(world.exabgp.updates()), 30, "ExaBGP has red's route")
    world.exabgp.command("announce route 192.0.2.0/24 next-hop self large-community [ 65004:1:2 ]")
    eventually(lambda: "192.0.2.0/24" in world.gobgp.json("global rib"), 30, "GoBGP has ExaBGP's route")
    world.exabgp.command("withdraw route 192.0.2.0/24 next-hop self")
    eventually(lambda: "192.0.2.0/24" not in world.gobgp.json("global rib"), 30, "GoBGP has it no longer")


def test_the_command_line_tells_and_clears(world: World, tmp_path: Path) -> None:
    lab = world.lab
    assert "10.99.1.2" in lab.vr_run("show", "bgp", "summary", "red", json_output=False).stdout
    assert "extended messages: True" in lab.vr_run("show", "bgp", "neighbor", "red", json_output=False).stdout

    def told_best() -> str:
        return lab.vr_run("show", "bgp", "prefix", "red", "203.0.113.1", json_output=False).stdout

    # OpenBGPD's session has just come back.
    eventually(lambda: "reason: router-id" in told_best(), 30, "one of two paths is better by its router id")
    eventually(
        lambda: (
            {row["prefix"] for row in lab.show("bgp rib-out", "red", "10.99.3.2")} >= {"10.1.0.0/24", "203.0.113.0/24"}
        ),
        30,
        "both go to ExaBGP",
    )
    dump = tmp_path / "table.mrt"
    lab.vr_run("show", "bgp", "mrt", "red", "-w", str(dump))
    assert dump.read_bytes()[4:8] == bytes([0, 13, 0, 1])  # TABLE_DUMP_V2, PEER_INDEX_TABLE
    lab.vr_run("clear", "bgp", "red", "10.99.3.2", "soft", "in")
    assert world.exabgp.established("10.99.3.1")
    lab.vr_run("clear", "bgp", "red", "10.99.3.2")
    eventually(lambda: lab.show("bgp neighbor", "red", "10.99.3.2")[0]["flaps"] == 1, 30, "the session was reset once")
