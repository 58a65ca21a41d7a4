"""BGP with BIRD over TCP MD5 signatures, with BFD, and as its helper in a restart; judged by birdc."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any, Final

import pytest
from peers import Bird, eventually
from routing_lab import RoutingLab

pytestmark = [pytest.mark.in_order, pytest.mark.root, pytest.mark.interop]

BIRD: Final = """
log stderr all;
router id 10.0.0.2;
protocol device { scan time 1; }
protocol direct { ipv4; interface "lo"; }
protocol kernel { ipv4 { export all; }; }
protocol bfd { interface "*" { interval 50 ms; multiplier 4; }; }
protocol bgp red {
  local 10.99.1.2 as 65001; neighbor 10.99.1.1 as 65001; direct;
  password "between us"; bfd on; graceful restart on; debug { events };
  connect retry time 1; error wait time 1,1; connect delay time 1;
  ipv4 { import all; export filter { bgp_large_community.add((65001,1,2)); accept; }; next hop self; };
}
"""


class World:
    """Red and BIRD in one AS, a host behind red."""

    def __init__(self, lab: RoutingLab) -> None:
        self.lab = lab
        self.neighbor: dict[str, Any] = {
            "remote-as": 65001,
            "password": "between us",
            "bfd": {"interval": "50ms", "multiplier": 4},
            "timers": {"connect-retry": "1s"},
        }
        bgp = {"asn": 65001, "networks": ["10.1.0.0/24"], "neighbors": {"10.99.1.2": self.neighbor}}
        lab.router("red", router_id="10.0.0.1", bgp=bgp)
        far = lab.link("red", "wan", ["10.99.1.1/24"], "bird", ["10.99.1.2/24"])
        far.address("lo", "10.255.0.2/32")
        self.host = lab.link("red", "lan", ["10.1.0.1/24"], "host", ["10.1.0.2/24"])
        self.host.ip("route", "add", "default", "via", "10.1.0.1")
        lab.start()
        self.bird = lab.run(Bird(lab["bird"], BIRD))
        self.up()

    def up(self) -> None:
        eventually(lambda: self.bird.established("red"), 30, "BIRD has the session")
        eventually(lambda: "10.1.0.0/24" in self.routes(), 30, "BIRD has the route")
        eventually(lambda: self.host.ping("10.255.0.2"), 30, "the host reaches BIRD")

    def routes(self) -> str:
        found: str = self.bird.show("show route protocol red all")
        return found


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with RoutingLab() as lab:
        yield World(lab)


def test_routes_pass_over_a_signed_session(world: World) -> None:
    assert "BGP.local_pref: 100" in world.routes()
    assert "BGP.next_hop: 10.99.1.1" in world.routes()
    (path,) = world.lab.show("bgp rib-in", "red", "10.99.1.2")
    assert path["large_communities"] == ["65001:1:2"]
    assert path["prefix"] == "10.255.0.2/32"


def test_bfd_watches_the_neighbor(world: World) -> None:
    eventually(lambda: " Up " in world.bird.show("show bfd sessions"), 30, "BFD is up")


def test_a_wrong_password_ends_it_and_the_right_one_mends_it(world: World) -> None:
    world.neighbor["password"] = "another"
    world.lab.apply()
    eventually(lambda: not world.bird.established("red"), 30, "BIRD has lost the session")
    time.sleep(2)
    assert not world.bird.established("red")
    world.neighbor["password"] = "between us"
    world.lab.apply()
    world.up()


def test_a_dead_control_loses_no_packet(world: World) -> None:
    (router,) = [each for each in world.lab.vr("show", "routers") if each["name"] == "red"]
    ping = world.host.command("ping", "-n", "-i", "0.05", "-c", "120", "-W", "1", "10.255.0.2")
    with world.lab.helper(ping, stdout=-1, text=True) as running:
        earlier = len(world.bird.log())
        os.kill(router["pids"]["control"], signal.SIGKILL)
        # That state may be over before somebody asks for it.
        eventually(lambda: "graceful restart detected" in world.bird.log()[earlier:], 30, "BIRD knows of it")
        eventually(lambda: world.bird.established("red"), 20, "the session is back")
        lost, _ = running.communicate(timeout=60)
    assert " 0% packet loss" in lost
    world.up()
