"""BGP with FRR, judged by FRR's own command line: both families, changes, restarts."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import pytest
from peers import Frr, eventually
from routing_lab import RoutingLab

pytestmark = [pytest.mark.in_order, pytest.mark.root, pytest.mark.interop]

FRR: Final = """
router bgp 65002
 bgp router-id 10.0.0.2
 no bgp ebgp-requires-policy
 bgp graceful-restart
 neighbor 10.99.1.1 remote-as 65001
 neighbor 10.99.1.1 timers connect 1
 neighbor 10.99.1.1 advertisement-interval 0
 neighbor 10.99.1.1 description red
 neighbor fd99::1 remote-as 65001
 neighbor fd99::1 timers connect 1
 neighbor fd99::1 advertisement-interval 0
 neighbor fd99::1 ttl-security hops 1
 address-family ipv4 unicast
  network 10.255.0.2/32
  network 10.254.0.2/32
  no neighbor fd99::1 activate
 exit-address-family
 address-family ipv6 unicast
  network fd99:ff::2/128
  neighbor fd99::1 activate
 exit-address-family
"""
ALL: Final = {"route-policies": {"all": [{"then": "accept"}]}}
V4, V6 = "10.99.1.2", "fd99::2"


def neighbor(**values: Any) -> dict[str, Any]:
    told = {key.replace("_", "-"): value for key, value in values.items()}
    return {"remote-as": 65002, "import": "all", "export": "all", "timers": {"connect-retry": "1s"}} | told


class World:
    """Red in the middle, FRR at one side, a host at the other."""

    def __init__(self, lab: RoutingLab) -> None:
        self.lab = lab
        self.bgp: dict[str, Any] = {
            "asn": 65001,
            "networks": ["10.1.0.0/24", "fd01::/64"],
            "neighbors": {V4: neighbor(), V6: neighbor(gtsm=1)},
        }
        lab.top["policy"] = ALL
        lab.router("red", router_id="10.0.0.1", bgp=self.bgp)
        far = lab.link("red", "wan", ["10.99.1.1/24", "fd99::1/64"], "frr", ["10.99.1.2/24", "fd99::2/64"])
        far.address("lo", "10.255.0.2/32")
        far.address("lo", "10.254.0.2/32")
        far.address("lo", "fd99:ff::2/128")
        self.host = lab.link("red", "lan", ["10.1.0.1/24", "fd01::1/64"], "host", ["10.1.0.2/24", "fd01::2/64"])
        self.host.ip("route", "add", "default", "via", "10.1.0.1")
        lab.start()
        self.frr = lab.run(Frr(lab["frr"], FRR))
        self.up()

    def peer(self, address: str = V4) -> dict[str, Any]:
        ours = {V4: "10.99.1.1", V6: "fd99::1"}[address]
        found: dict[str, Any] = self.frr.json(f"show bgp neighbors {ours} json")[ours]
        return found

    def up(self) -> None:
        for address in (V4, V6):
            eventually(partial(self.established, address), 30, f"{address} is up")
        eventually(lambda: self.paths("10.1.0.0/24"), 30, "FRR has the route of IPv4")
        eventually(lambda: self.host.ping("10.255.0.2"), 30, "the host reaches FRR")

    def established(self, address: str) -> bool:
        return bool(self.peer(address)["bgpState"] == "Established")

    def paths(self, prefix: str) -> list[dict[str, Any]]:
        family = "ipv6" if ":" in prefix else "ipv4"
        found: list[dict[str, Any]] = self.frr.json(f"show bgp {family} unicast {prefix} json").get("paths", [])
        return found

    def drops(self) -> int:
        count: int = self.peer()["connectionsDropped"]
        return count

    def pid(self, role: str) -> int:
        (router,) = [each for each in self.lab.vr("show", "routers") if each["name"] == "red"]
        pid: int = router["pids"][role]
        return pid


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with RoutingLab() as lab:
        yield World(lab)


def test_routes_of_both_families_go_both_ways(world: World) -> None:
    (path,) = world.paths("10.1.0.0/24")
    assert path["aspath"]["string"] == "65001"
    assert path["nexthops"][0]["ip"] == "10.99.1.1"
    (path,) = eventually(lambda: world.paths("fd01::/64"), 30, "FRR has the route of IPv6")
    assert {hop["scope"] for hop in path["nexthops"]} == {"global", "link-local"}
    eventually(lambda: world.host.ping("10.254.0.2"), 30, "packets follow")
    assert world.lab["frr"].ping("10.1.0.2")


def test_the_capabilities_are_seen(world: World) -> None:
    told = world.peer()["neighborCapabilities"]
    assert told["4byteAs"] == "advertisedAndReceived"
    assert told["extendedMessage"] == "advertisedAndReceived"
    assert told["routeRefresh"].startswith("advertisedAndReceived")
    assert told["gracefulRestart"] == "advertisedAndReceived"


def test_the_same_configuration_again_sends_nothing(world: World) -> None:
    before = world.peer()["messageStats"]["updatesRecv"], world.drops()
    assert world.lab.apply()["empty"]
    assert (world.peer()["messageStats"]["updatesRecv"], world.drops()) == before


def test_live_and_soft_changes_keep_the_session(world: World) -> None:
    drops = world.drops()
    refreshes = world.peer()["messageStats"]["routeRefreshRecv"]
    mine = world.bgp["neighbors"][V4]
    mine["weight"] = 7
    world.lab.apply()
    eventually(
        lambda: world.peer()["messageStats"]["routeRefreshRecv"] > refreshes, 30, "FRR is asked for its routes again"
    )
    world.lab.top["policy"] = {
        "route-policies": ALL["route-policies"] | {"told": [{"then": {"add-community": "65001:7", "accept": True}}]}
    }
    mine["export"] = "told"
    world.lab.apply()
    eventually(
        lambda: world.paths("10.1.0.0/24")[0].get("community", {}).get("string") == "65001:7", 30, "the community"
    )
    world.bgp["networks"].append("10.7.0.0/16")
    world.lab.apply()
    eventually(lambda: world.paths("10.7.0.0/16"), 30, "another network")
    world.bgp["networks"].remove("10.7.0.0/16")
    world.lab.apply()
    eventually(lambda: not world.paths("10.7.0.0/16"), 30, "no other network")
    assert world.drops() == drops


def test_a_refresh_that_frr_asks_for_is_answered(world: World) -> None:
    before = world.peer()["messageStats"]["updatesRecv"]
    world.frr.show("clear bgp ipv4 unicast 10.99.1.1 soft in")
    eventually(lambda: world.peer()["messageStats"]["updatesRecv"] > before, 30, "the routes come again")


@pytest.mark.parametrize("role", ["control", "forwarder"])
def test_a_dead_process_is_a_restart_that_forwarding_does_not_notice(role: str, world: World) -> None:
    drops = world.drops()
    ping = world.host.command("ping", "-n", "-i", "0.05", "-c", "160", "-W", "2", "10.255.0.2")
    with world.lab.helper(ping, stdout=-1, text=True) as running:
        os.kill(world.pid(role), signal.SIGKILL)
        eventually(lambda: world.drops() > drops, 20, "FRR has lost the session")
        eventually(lambda: world.peer()["bgpState"] == "Established", 30, "the session is back")
        lost, _ = running.communicate(timeout=60)
    assert " 0% packet loss" in lost
    assert world.peer()["gracefulRestartInfo"]["rBit"] is (role == "control")
    assert world.paths("10.1.0.0/24")


def test_max_prefixes_end_the_session(world: World) -> None:
    world.bgp["neighbors"][V4]["max-prefixes"] = {"ipv4": 1, "action": "restart", "restart": "5s"}
    world.lab.apply()
    eventually(lambda: "Maximum Number of Prefixes" in str(world.peer()), 20, "FRR is told why")
    del world.bgp["neighbors"][V4]["max-prefixes"]
    world.lab.apply()
    world.up()


def test_a_shutdown_is_told_with_its_text(world: World) -> None:
    world.bgp["neighbors"][V4] |= {"shutdown": True, "shutdown-message": "new fibre"}
    world.lab.apply()
    eventually(lambda: "new fibre" in str(world.peer()), 30, "FRR shows the text")
    eventually(lambda: not world.paths("10.1.0.0/24"), 30, "the routes are gone at once")
    world.bgp["neighbors"][V4]["shutdown"] = False
    world.lab.apply()
    world.up()
