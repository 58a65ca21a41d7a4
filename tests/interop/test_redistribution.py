"""Two VRs with the very same addresses: red between OSPF and BGP, blue with RIP alone; packets take what each learned.

frr -- main, spare: OSPF -- red -- far: BGP -- bird
frr -- main, spare: RIP --- blue - far: RIP -- bird

Routes of OSPF go into BGP and back in red.  Pings and a TCP stream run from BIRD's network to FRR's, in both worlds at
once and round the failure of the better link.
"""

from __future__ import annotations

import json
import subprocess
import time
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pytest
from peers import Bird, Frr, eventually, program
from routing_lab import RoutingLab

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab import Namespace

pytestmark = [pytest.mark.root, pytest.mark.interop, pytest.mark.in_order]

FAR: Final = "10.255.0.1"  # FRR's, in both worlds
NEAR: Final = "203.0.113.1"  # BIRD's, in both worlds
LINKS: Final = {"main": ("10.99.1.1", "10.99.1.2"), "spare": ("10.99.3.1", "10.99.3.2")}

OSPF_FRR: Final = """
interface main
 ip ospf area 0.0.0.0
 ip ospf network point-to-point
 ip ospf hello-interval 1
 ip ospf dead-interval 4
interface spare
 ip ospf area 0.0.0.0
 ip ospf network point-to-point
 ip ospf hello-interval 1
 ip ospf dead-interval 4
 ip ospf cost 100
interface lo
 ip ospf area 0.0.0.0
router ospf
 ospf router-id 10.255.0.1
 timers throttle spf 0 50 500
"""
RIP_FRR: Final = """
router rip
 timers basic 5 15 10
 network main
 network spare
 redistribute connected
"""
BGP_BIRD: Final = """
log stderr all;
router id 10.0.0.2;
protocol device { scan time 1; }
protocol direct { ipv4; interface "lo"; }
protocol kernel { ipv4 { export filter { krt_prefsrc = 203.0.113.1; accept; }; }; }
protocol bgp vr { local 10.99.2.2 as 65002; neighbor 10.99.2.1 as 65001; direct; connect retry time 1;
 error wait time 1,1; connect delay time 1; ipv4 { import all; export where net = 203.0.113.1/32; }; }
"""
RIP_BIRD: Final = """
log stderr all;
router id 10.0.0.2;
protocol device { scan time 1; }
protocol direct { ipv4; interface "lo"; }
protocol kernel { ipv4 { export filter { krt_prefsrc = 203.0.113.1; accept; }; }; }
protocol rip vr { ipv4 { import all; export where net = 203.0.113.1/32; };
 interface "far" { update time 5; timeout time 15; garbage time 10; }; }
"""


class Worlds:
    """Both VRs, each with an FRR and a BIRD of its own."""

    def __init__(self, lab: RoutingLab) -> None:
        self.lab = lab
        hello = {"hello-interval": "1s", "dead-interval": "4s", "network": "point-to-point"}
        lab.router(
            "red",
            router_id="10.0.0.1",
            ospf={
                "areas": {"0.0.0.0": {"interfaces": {"main": hello, "spare": {**hello, "cost": 100}}}},
                "redistribute": ["bgp"],
            },
            bgp={
                "asn": 65001,
                "neighbors": {
                    "10.99.2.2": {
                        "remote-as": 65002, "import": "all", "export": "all", "timers": {"connect-retry": "1s"},
                    }
                },
                "redistribute": ["ospf"],
            },
        )  # fmt: skip
        lab.router(
            "blue",
            rip={
                "interfaces": {"main": {}, "spare": {}, "far": {}},
                "maximum-paths": 2,
                "timers": {"update": "5s", "timeout": "15s", "garbage": "10s"},
            },
        )
        lab.top["policy"] = {"route-policies": {"all": [{"then": "accept"}]}}
        for router in ("red", "blue"):
            for link, (own, other) in LINKS.items():
                lab.link(router, link, [f"{own}/24"], f"{router}-frr", [f"{other}/24"])
            lab.link(router, "far", ["10.99.2.1/24"], f"{router}-bird", ["10.99.2.2/24"])
            self.frr(router).address("lo", f"{FAR}/32")
            self.bird(router).address("lo", f"{NEAR}/32")
        lab.start()
        self.peers = {
            "red": (
                lab.run(Frr(self.frr("red"), OSPF_FRR, daemons=("ospfd",))),
                lab.run(Bird(self.bird("red"), BGP_BIRD)),
            ),
            "blue": (
                lab.run(Frr(self.frr("blue"), RIP_FRR, daemons=("ripd",))),
                lab.run(Bird(self.bird("blue"), RIP_BIRD)),
            ),
        }

    def frr(self, router: str) -> Namespace:
        return self.lab[f"{router}-frr"]

    def bird(self, router: str) -> Namespace:
        return self.lab[f"{router}-bird"]

    def reaches(self, router: str) -> bool:
        """Whether BIRD's network reaches FRR's, from address to address of their routes."""
        done = self.bird(router).run("ping", "-n", "-q", "-c1", "-W1", "-I", NEAR, FAR, check=False)
        return done.returncode == 0

    def cut(self, router: str, *, up: bool = False) -> None:
        """Let the better link fail, or come back."""
        self.frr(router).ip("link", "set", "main", "up" if up else "down")

    def out(self, router: str) -> set[str]:
        """The interfaces by which a VR sends packets to FRR's network now."""
        (route,) = (each for each in self.lab.show("fib", router) if each["prefix"] == f"{FAR}/32")
        return {hop["interface"] for hop in route["nexthops"]}


@pytest.fixture(scope="module")
def worlds() -> Iterator[Worlds]:
    with RoutingLab() as lab:
        yield Worlds(lab)


def test_routes_of_ospf_reach_bird_by_bgp_and_back(worlds: Worlds) -> None:
    frr, bird = worlds.peers["red"]
    eventually(lambda: bird.established("vr"), 30, "BIRD has the session")
    eventually(lambda: "AS65001" in bird.show(f"show route {FAR}/32 protocol vr"), 30, "BIRD has FRR's network")
    eventually(lambda: f"{NEAR}/32" in frr.json("show ip ospf route json"), 30, "FRR has BIRD's network")
    assert "external" in frr.json("show ip ospf route json")[f"{NEAR}/32"]["routeType"].lower() or frr.json(
        "show ip ospf route json"
    )[f"{NEAR}/32"]["routeType"].startswith("N E")
    assert f"{FAR}/32" in bird.show("show route protocol vr")


def test_the_same_networks_pass_by_rip_in_the_other_router(worlds: Worlds) -> None:
    frr, bird = worlds.peers["blue"]
    eventually(lambda: f"{NEAR}/32" in frr.show("show ip rip"), 30, "FRR has BIRD's network")
    eventually(lambda: f"{FAR}/32" in bird.show("show route protocol vr"), 30, "BIRD has FRR's network")
    assert worlds.lab.show("rib", "blue", "bgp") == worlds.lab.show("rib", "blue", "ospf") == []
    assert worlds.lab.show("rib", "red", "rip") == []


def test_packets_follow_in_both(worlds: Worlds) -> None:
    for router in ("red", "blue"):
        eventually(partial(worlds.reaches, router), 30, f"packets pass through {router}")
    eventually(lambda: worlds.out("red") == {"main"}, 30, "red uses the better link")
    eventually(lambda: worlds.out("blue") == {"main", "spare"}, 30, "blue uses both links")


def started(stack: ExitStack, command: list[str], output: int) -> subprocess.Popen[str]:
    """Start a program that ends with the test in any case."""
    process = stack.enter_context(subprocess.Popen(command, stdout=output, stderr=subprocess.DEVNULL, text=True))
    stack.callback(process.kill)
    return process


def stream(stack: ExitStack, worlds: Worlds, router: str) -> subprocess.Popen[str]:
    """Start a TCP stream of 12 s from BIRD's network to FRR's."""
    iperf, frr = program("iperf3"), worlds.frr(router)
    started(stack, frr.command(iperf, "-s", "-1", "-B", FAR), subprocess.DEVNULL)
    eventually(lambda: f"{FAR}:5201" in frr.run("ss", "-ltn").stdout, 30, "iperf3 listens")
    sends = (iperf, "-c", FAR, "-B", NEAR, "-t", "12", "-b", "20M", "-J")
    return started(stack, worlds.bird(router).command(*sends), subprocess.PIPE)


def test_streams_survive_the_failure_of_a_link(worlds: Worlds) -> None:
    reports: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        running = {router: stream(stack, worlds, router) for router in ("red", "blue")}
        time.sleep(2)  # so long all is well
        for router in running:
            worlds.cut(router)
        for router, client in running.items():
            output, _ = client.communicate(timeout=40)
            reports[router] = json.loads(output)
    for router, report in reports.items():
        assert "error" not in report, (router, report["error"])
        # The last seconds ran over the other link, at full rate.
        last = report["intervals"][-2]["sum"]
        assert last["bits_per_second"] > 10e6, (router, last)
        assert worlds.out(router) == {"spare"}


def test_the_better_link_is_used_again_when_it_is_back(worlds: Worlds) -> None:
    for router in ("red", "blue"):
        worlds.cut(router, up=True)
    eventually(lambda: worlds.out("red") == {"main"}, 30, "red uses the better link")
    eventually(lambda: worlds.out("blue") == {"main", "spare"}, 30, "blue uses both links")
    for router in ("red", "blue"):
        eventually(partial(worlds.reaches, router), 20, f"packets pass through {router}")


def test_what_is_no_longer_redistributed_is_withdrawn(worlds: Worlds) -> None:
    frr, bird = worlds.peers["red"]
    del worlds.lab.routers["red"]["bgp"]["redistribute"]
    worlds.lab.apply()
    eventually(lambda: f"{FAR}/32" not in bird.show("show route protocol vr"), 30, "BIRD has lost FRR's network")
    assert bird.established("vr")
    assert f"{NEAR}/32" in frr.json("show ip ospf route json")
    assert worlds.reaches("blue")
