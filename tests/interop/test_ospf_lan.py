"""OSPF with FRR and BIRD on one Ethernet, and with both over links of their own, judged by what they say.

red ------ lan ------ frr
            |                    red -- p2p (MD5) -- frr2, red -- p2p (HMAC) -- bird2
           bird
"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any, Final

import pytest
from peers import Bird, Frr, eventually
from routing_lab import RoutingLab

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.root, pytest.mark.interop, pytest.mark.in_order]

FRR: Final = """
interface lan
 ip ospf area 0.0.0.0
 ip ospf hello-interval 1
 ip ospf dead-interval 4
 ip ospf priority 50
interface lo
 ip ospf area 0.0.0.0
router ospf
 ospf router-id 10.255.0.2
 capability opaque
 timers throttle spf 0 50 1000
 graceful-restart helper enable
 redistribute static metric 33 metric-type 1
ip route 172.20.1.0/24 blackhole
"""
BIRD: Final = """
router id 10.255.0.3;
protocol device {}
protocol kernel { ipv4 { export all; import none; }; }
protocol static { ipv4; route 172.21.1.0/24 blackhole; }
protocol ospf v2 o {
  ipv4 { import all; export where source = RTS_STATIC; };
  graceful restart aware;
  area 0 {
    interface "lan" { type broadcast; hello 1; dead 4; priority 20; };
    interface "lo" { stub; };
  };
}
"""
HELLO: Final = {"hello-interval": "1s", "dead-interval": "4s"}


def neighbors(frr: Frr) -> dict[str, str]:
    """The neighbors that FRR has, with their states."""
    found = frr.json("show ip ospf neighbor json")["neighbors"]
    return {router: entries[0].get("nbrState") or entries[0]["state"] for router, entries in found.items()}


def bird_neighbors(bird: Bird) -> dict[str, str]:
    """The neighbors that BIRD has, with their states."""
    rows = [line.split() for line in bird.show("show ospf neighbors").splitlines()]
    return {row[0]: row[2] for row in rows if len(row) >= 6 and row[0][0].isdigit()}


def kernel(lab: RoutingLab, name: str, prefix: str) -> str:
    """The routes to a prefix in the kernel of a peer."""
    return lab[name].ip("route", "show", prefix).stdout


@pytest.fixture(scope="module")
def world() -> Iterator[tuple[RoutingLab, Frr, Bird]]:
    with RoutingLab() as lab:
        lab.segment("lan")
        lab.router(
            "red",
            ospf={
                "router-id": "10.255.0.1",
                "redistribute": [{"protocol": "static", "metric": "55"}],
                "spf": {"long": "1s"},
                "areas": {"0.0.0.0": {"interfaces": {"lan": {**HELLO, "priority": "10"}, "lo": {}}}},
            },
            static={"172.22.1.0/24": {"discard": "true"}},
        )
        lab.router("red")["interfaces"]["lo"] = {"addresses": ["10.255.0.1/32"]}
        lab.join("lan", "red", "lan", ["10.99.1.1/24"])
        lab.join_peer("lan", "frr", "lan", ["10.99.1.2/24"]).address("lo", "10.255.0.2/32")
        lab.join_peer("lan", "bird", "lan", ["10.99.1.3/24"]).address("lo", "10.255.0.3/32")
        frr = lab.run(Frr(lab["frr"], FRR, ("staticd", "ospfd")))
        bird = lab.run(Bird(lab["bird"], BIRD))
        lab.start()
        yield lab, frr, bird


def full(frr: Frr, bird: Bird) -> bool:
    return neighbors(frr).get("10.255.0.1", "").startswith("Full") and bird_neighbors(bird)["10.255.0.1"].startswith(
        "Full"
    )


def test_all_become_full_and_agree_on_the_designated_router(world: tuple[RoutingLab, Frr, Bird]) -> None:
    lab, frr, bird = world
    eventually(lambda: full(frr, bird), 30, "both are full with red")

    def agreed() -> bool:
        shown = frr.json("show ip ospf interface lan json")["interfaces"]["lan"]
        (ours,) = [row for row in lab.show("ospf", "red", "interface") if row["interface"] == "lan"]
        return (ours["dr"], ours["bdr"]) == (shown["drAddress"], shown["bdrAddress"])

    eventually(agreed, 30, "the same two are designated for red and FRR")


def test_routes_are_learnt_on_all_sides(world: tuple[RoutingLab, Frr, Bird]) -> None:
    lab, frr, _bird = world
    eventually(lambda: "10.99.1.1" in kernel(lab, "frr", "10.255.0.1"), 20, "FRR has red's loopback")
    eventually(lambda: "10.99.1.1" in kernel(lab, "bird", "172.22.1.0/24"), 20, "BIRD has red's external route")
    external = eventually(lambda: frr.json("show ip ospf route json").get("172.22.1.0/24"), 30, "FRR has it too")
    assert (external["routeType"], external["type2cost"]) == ("N E2", 55)

    def ours() -> dict[str, Any]:
        return {row["prefix"]: row for row in lab.show("ospf", "red", "route")}

    eventually(lambda: {"172.20.1.0/24", "172.21.1.0/24", "10.255.0.2/32", "10.255.0.3/32"} <= set(ours()), 20, "ours")
    assert ours()["172.20.1.0/24"]["kind"] == "external-1"
    assert ours()["172.21.1.0/24"]["kind"] == "external-2"

    def installed() -> dict[str, str]:
        return {row["prefix"]: row["protocol"] for row in lab.vr("show", "routes", "red")}

    eventually(lambda: installed()["10.255.0.2/32"] == "ospf", 30, "it is installed")


def test_packets_follow_the_learnt_routes(world: tuple[RoutingLab, Frr, Bird]) -> None:
    lab, _, _ = world
    eventually(
        lambda: lab["frr"].run("ping", "-c1", "-W1", "-I", "10.255.0.2", "10.255.0.1", check=False).returncode == 0, 30
    )
    eventually(
        lambda: lab["bird"].run("ping", "-c1", "-W1", "-I", "10.255.0.3", "10.255.0.1", check=False).returncode == 0, 30
    )


def test_the_same_configuration_again_sends_nothing(world: tuple[RoutingLab, Frr, Bird]) -> None:
    lab, frr, _ = world
    before = frr.json("show ip ospf neighbor 10.255.0.1 detail json")

    def lsas() -> list[Any]:
        """What red itself has said: the others may still be at it, five seconds after they last did."""
        return [row["sequence"] for row in lab.show("ospf", "red", "database") if row["router"] == "10.255.0.1"]

    said: list[list[Any]] = []

    def at_rest() -> bool:
        said.append(lsas())
        return len(said) > 6 and all(earlier == said[-1] for earlier in said[-7:])

    eventually(at_rest, 60, "red has said all", interval=1)
    lab.apply()
    time.sleep(1)
    assert lsas() == said[-1] != []
    after = frr.json("show ip ospf neighbor 10.255.0.1 detail json")
    assert str(before).count("Full") == str(after).count("Full") > 0


def test_a_cost_changes_live(world: tuple[RoutingLab, Frr, Bird]) -> None:
    lab, frr, _ = world
    lab.router("red")["ospf"]["areas"]["0.0.0.0"]["interfaces"]["lo"] = {"cost": "77"}
    lab.apply()
    eventually(lambda: frr.json("show ip ospf route json")["10.255.0.1/32"]["cost"] == 87, 30, "FRR hears of it")
    lab.router("red")["ospf"]["areas"]["0.0.0.0"]["interfaces"]["lo"] = {}
    lab.apply()
    eventually(lambda: frr.json("show ip ospf route json")["10.255.0.1/32"]["cost"] == 10, 30, "and back")


def test_the_forwarder_is_killed_and_adjacencies_stay(world: tuple[RoutingLab, Frr, Bird]) -> None:
    lab, frr, bird = world
    eventually(lambda: full(frr, bird), 30, "both are full with red")
    pid = lab.vr("show", "routers")[0]["pids"]["forwarder"]
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 8  # twice the dead interval
    while time.monotonic() < deadline:
        assert full(frr, bird)
        time.sleep(0.2)
    eventually(lambda: all(row["state"] == "full" for row in lab.show("ospf", "red", "neighbor")), 30, "and for red")


def test_control_is_killed_and_nobody_notices(world: tuple[RoutingLab, Frr, Bird]) -> None:
    lab, frr, bird = world
    eventually(lambda: full(frr, bird), 30, "both are full with red")
    probe = lab["frr"].command("ping", "-i", "0.1", "-w", "20", "-I", "10.255.0.2", "10.255.0.1")
    pinging = lab.helper(probe, stdout=-1)
    pid = lab.vr("show", "routers")[0]["pids"]["control"]
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 18
    while time.monotonic() < deadline:
        assert "10.99.1.1" in kernel(lab, "frr", "10.255.0.1")
        assert "10.99.1.1" in kernel(lab, "bird", "10.255.0.1")
        time.sleep(0.2)
    eventually(lambda: lab.show("ospf", "red")["last_restart"] == "completed", 30, "the restart is complete")
    eventually(lambda: full(frr, bird), 30, "full again")
    eventually(
        lambda: "Successful graceful restart" in frr.show("show ip ospf graceful-restart helper detail"), 30, "FRR too"
    )
    told = pinging.communicate(timeout=30)[0].decode()
    assert " 0% packet loss" in told, told
