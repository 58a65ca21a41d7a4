"""RIPv2 and RIPng of a VR between FRR and BIRD: what each learns of the others, as their own command lines tell."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pytest
from peers import Bird, Frr, eventually
from routing_lab import RoutingLab

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.root, pytest.mark.interop, pytest.mark.in_order]

FRR: Final = """
interface wan
 ip rip authentication mode md5 auth-length rfc
 ip rip authentication string lab-secret
router rip
 timers basic 5 15 10
 network wan
 redistribute connected
router ripng
 timers basic 5 15 10
 network wan
 redistribute connected
"""
BIRD: Final = """
log stderr all;
router id 10.0.0.2;
protocol device { }
protocol kernel kernel4 { ipv4 { export all; }; }
protocol kernel kernel6 { ipv6 { export all; }; }
protocol static own4 { ipv4; route 203.0.113.0/24 blackhole { rip_tag = 77; }; }
protocol static own6 { ipv6; route 2001:db8:b::/48 blackhole; }
protocol rip four {
 ipv4 { import all; export all; };
 interface "far" { update time 5; timeout time 15; garbage time 10;
  authentication cryptographic; password "far-secret" { id 3; algorithm hmac sha256; }; };
}
protocol rip ng six {
 ipv6 { import all; export all; };
 interface "far" { update time 5; timeout time 15; garbage time 10; };
}
"""
TIMERS: Final = {"update": "5s", "timeout": "15s", "garbage": "10s"}


class Scene:
    """The VR `red` with FRR on `wan` and BIRD on `far`."""

    def __init__(self, lab: RoutingLab) -> None:
        self.lab = lab
        lab.router(
            "red",
            rip={
                "interfaces": {
                    "wan": {"authentication": {"md5": {"key-id": 1, "key": "lab-secret"}}},
                    "far": {"authentication": {"hmac-sha-256": {"key-id": 3, "key": "far-secret"}}},
                    "lo": {},
                },
                "timers": TIMERS,
            },
            ripng={"interfaces": {"wan": {}, "far": {}, "lo": {}}, "timers": TIMERS},
        )
        lab.routers["red"]["interfaces"]["lo"] = {"addresses": ["10.255.0.9/32", "fd99:ff::9/128"]}
        frr = lab.link("red", "wan", ["10.99.1.1/24", "fd99:1::1/64"], "frr", ["10.99.1.2/24", "fd99:1::2/64"])
        lab.link("red", "far", ["10.99.2.1/24", "fd99:2::1/64"], "bird", ["10.99.2.2/24", "fd99:2::2/64"])
        frr.address("lo", "10.255.0.1/32")
        frr.address("lo", "fd99:ff::1/128")
        lab.start()
        self.frr = lab.run(Frr(lab["frr"], FRR, daemons=("ripd", "ripngd")))
        self.bird = lab.run(Bird(lab["bird"], BIRD))

    def frr_metric(self, prefix: str) -> int | None:
        """The metric that FRR gives a prefix; None: it has none."""
        version = "ipv6 ripng" if ":" in prefix else "ip rip"
        lines = self.frr.show(f"show {version}").splitlines()
        for number, line in enumerate(lines):
            words = line.split()
            if prefix in words:
                # RIPng wraps: the next line tells next hop, interface and metric.
                if ":" in prefix:
                    words = lines[number + 1].split()
                    return int(words[2])
                return int(words[words.index(prefix) + 2])
        return None

    def bird_metric(self, prefix: str) -> int | None:
        """The metric that BIRD gives a prefix; None: it has none by RIP."""
        protocol = "six" if ":" in prefix else "four"
        text = self.bird.show(f"show route {prefix} protocol {protocol} all")
        found = re.search(r"RIP\.metric: (\d+)|rip_metric: (\d+)", text)
        return int(found[1] or found[2]) if found else None

    @property
    def red(self) -> dict[str, Any]:
        """The configuration of the VR, to be changed."""
        return self.lab.routers["red"]


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with RoutingLab() as lab:
        yield Scene(lab)


def test_ripv2_routes_pass_both_ways_with_authentication(scene: Scene) -> None:
    eventually(lambda: scene.frr_metric("203.0.113.0/24") == 3, 20, "FRR has BIRD's route")
    eventually(lambda: scene.bird_metric("10.255.0.1/32") == 3, 20, "BIRD has FRR's route")
    eventually(lambda: scene.frr_metric("10.255.0.9/32") == 2, 30, "FRR has our own")
    eventually(lambda: scene.bird_metric("10.255.0.9/32") == 2, 30, "BIRD has our own")
    assert "77" in scene.frr.show("show ip rip")


def test_ripng_routes_pass_both_ways(scene: Scene) -> None:
    eventually(lambda: scene.frr_metric("2001:db8:b::/48") == 3, 20, "FRR has BIRD's route")
    eventually(lambda: scene.bird_metric("fd99:ff::1/128") == 3, 20, "BIRD has FRR's route")
    eventually(lambda: scene.frr_metric("fd99:ff::9/128") == 2, 30, "FRR has our own")


def test_packets_follow_the_routes(scene: Scene) -> None:
    for destination in ("10.255.0.1", "fd99:ff::1"):
        eventually(partial(scene.lab["bird"].ping, destination), 30, f"BIRD's host reaches {destination}")
    assert scene.lab["bird"].ping("10.255.0.9")


def test_operators_see_the_neighbors_and_routes(scene: Scene) -> None:
    neighbors = scene.lab.show("rip", "red", "neighbors")
    assert {neighbor["address"] for neighbor in neighbors} == {"10.99.1.2", "10.99.2.2"}
    routes = {route["prefix"]: route for route in scene.lab.show("rip", "red", "routes")}
    assert (routes["203.0.113.0/24"]["metric"], routes["203.0.113.0/24"]["tag"]) == (2, 77)
    assert {entry["interface"] for entry in scene.lab.show("ripng", "red", "interfaces")} == {"wan", "far", "lo"}


def test_applying_the_same_again_says_nothing(scene: Scene) -> None:
    def triggered() -> int:
        entries = scene.lab.show("rip", "red", "interfaces")
        return sum(entry["counters"].get("triggered-updates", 0) for entry in entries)

    before = triggered()
    scene.lab.apply()
    assert triggered() == before


def test_the_metric_of_an_interface_changes_live(scene: Scene) -> None:
    scene.red["rip"]["interfaces"]["wan"]["metric"] = 4
    scene.lab.apply()
    eventually(lambda: scene.bird_metric("10.255.0.1/32") == 6, 30, "BIRD has the new metric")
    del scene.red["rip"]["interfaces"]["wan"]["metric"]
    scene.lab.apply()
    eventually(lambda: scene.bird_metric("10.255.0.1/32") == 3, 30, "BIRD has the old metric")


def test_a_withdrawn_route_goes_everywhere(scene: Scene) -> None:
    scene.bird.show("disable own4")
    eventually(lambda: scene.frr_metric("203.0.113.0/24") in {None, 16}, 30, "FRR has lost the route")
    scene.bird.show("enable own4")
    eventually(lambda: scene.frr_metric("203.0.113.0/24") == 3, 20, "FRR has the route again")


def test_no_packet_is_lost_when_control_is_killed(scene: Scene) -> None:
    bird = scene.lab["bird"]
    eventually(lambda: scene.frr_metric("203.0.113.0/24") == 3, 30, "FRR has the route")
    eventually(partial(bird.ping, "10.255.0.1"), 30, "the hosts reach each other")
    (red,) = scene.lab.vr("show", "routers")
    command = bird.command("ping", "-n", "-q", "-i", "0.02", "-c", "200", "-W", "2", "10.255.0.1")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as pinging:
        os.kill(red["pids"]["control"], signal.SIGKILL)
        output, _ = pinging.communicate(timeout=30)
    assert " 0% packet loss" in output
    assert scene.lab.vr("show", "routers")[0]["pids"]["control"] != red["pids"]["control"]
    eventually(lambda: scene.bird_metric("10.255.0.1/32") == 3, 30, "BIRD has the route")
    eventually(lambda: scene.frr_metric("203.0.113.0/24") == 3, 30, "FRR has the route")


def test_redistribution_and_a_default_route(scene: Scene) -> None:
    scene.red["static"] = {"198.51.100.0/24": {"discard": True}}
    scene.red["rip"] |= {"redistribute": [{"protocol": "static", "metric": 5}], "default-information": True}
    scene.lab.apply()
    eventually(lambda: scene.frr_metric("198.51.100.0/24") == 6, 30, "FRR has the static route")
    eventually(lambda: scene.bird_metric("0.0.0.0/0") == 2, 30, "BIRD has a default route")
    del scene.red["rip"]["redistribute"], scene.red["rip"]["default-information"]
    scene.lab.apply()
    eventually(lambda: scene.frr_metric("198.51.100.0/24") in {None, 16}, 30, "FRR has lost the static route")
    eventually(lambda: scene.bird_metric("0.0.0.0/0") in {None, 16}, 30, "BIRD has lost the default route")


def test_another_key_is_not_believed(scene: Scene) -> None:
    scene.red["rip"]["interfaces"]["wan"]["authentication"] = {"md5": {"key-id": 1, "key": "wrong"}}
    scene.lab.apply()
    eventually(lambda: scene.frr_metric("203.0.113.0/24") in {None, 16}, 40, "FRR believes us no more")
    eventually(lambda: scene.bird_metric("10.255.0.1/32") in {None, 16}, 40, "we believe FRR no more")
    scene.red["rip"]["interfaces"]["wan"]["authentication"] = {"md5": {"key-id": 1, "key": "lab-secret"}}
    scene.lab.apply()
    eventually(lambda: scene.frr_metric("203.0.113.0/24") == 3, 40, "FRR believes us again")


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("md5", "cryptographic; password X { id 3; algorithm keyed md5; }"),
        ("hmac-sha-1", "cryptographic; password X { id 3; algorithm hmac sha1; }"),
        ("hmac-sha-384", "cryptographic; password X { id 3; algorithm hmac sha384; }"),
        ("hmac-sha-512", "cryptographic; password X { id 3; algorithm hmac sha512; }"),
        ("password", "plaintext; password X"),
    ],
)
def test_bird_believes_each_kind_of_authentication(scene: Scene, ours: str, theirs: str) -> None:
    key: Any = "far-secret" if ours == "password" else {"key-id": 3, "key": "far-secret"}
    scene.red["rip"]["interfaces"]["far"]["authentication"] = {ours: key}
    scene.lab.apply()
    told = theirs.replace("X", '"far-secret"')
    scene.bird.reconfigure(re.sub(r'cryptographic; password "far-secret" {[^}]*}', told, BIRD))
    scene.bird.show("restart four")
    eventually(lambda: scene.bird_metric("10.255.0.1/32") == 3, 20, "BIRD believes us")
    eventually(lambda: scene.frr_metric("203.0.113.0/24") == 3, 20, "we believe BIRD")


def test_the_end_of_the_protocol_takes_the_routes_back(scene: Scene) -> None:
    del scene.red["rip"]
    scene.lab.apply()
    eventually(
        lambda: scene.frr_metric("203.0.113.0/24") in {None, 16}, 12, "FRR is told, and does not wait for the timeout"
    )
    assert scene.frr_metric("2001:db8:b::/48") == 3
