"""Routes leak between two VRs over a patch link, and packets follow them: only where both ends say so."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any, Final

import pytest
from peers import eventually
from routing_lab import RoutingLab

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.root, pytest.mark.interop, pytest.mark.in_order]

SERVICE: Final = ("172.16.1.2", "fd99:16::2")


class Scene:
    """`red` has a service, `blue` has users; both have a `lan` with the very same addresses."""

    def __init__(self, lab: RoutingLab) -> None:
        self.lab = lab
        for router, net, host in (("red", "svc", "16"), ("blue", "users", "17")):
            far = f"{router}-host"
            lab.link(router, "lan", ["10.0.0.1/24"], far, ["10.0.0.2/24"])
            addresses = [f"172.{host}.1.1/24", f"fd99:{host}::1/64"]
            lab.link(router, net, addresses, net, [f"172.{host}.1.2/24", f"fd99:{host}::2/64"])
            lab[net].ip("route", "add", "default", "via", f"172.{host}.1.1")
            lab[net].ip("-6", "route", "add", "default", "via", f"fd99:{host}::1")
        self.red = {"patch": "blue/to-red", "addresses": ["169.254.0.0/31", "fe80::a/64"]}
        self.blue = {"patch": "red/to-blue", "addresses": ["169.254.0.1/31", "fe80::b/64"]}
        lab.routers["red"]["interfaces"]["to-blue"] = self.red
        lab.routers["blue"]["interfaces"]["to-red"] = self.blue
        lab.top["policy"] = {
            "prefix-lists": {"private": ["10.0.0.0/8 le 32"]},
            "route-policies": {
                "public": [{"if": {"prefix-list": "private"}, "then": "reject"}, {"then": "accept"}],
                "nothing": [{"then": "reject"}],
            },
        }
        lab.start()

    def leak(self, red: Any, blue: Any) -> None:
        """Apply what the two ends say."""
        for end, said in ((self.red, red), (self.blue, blue)):
            end.pop("leak", None)
            if said is not None:
                end["leak"] = said
        self.lab.apply()

    def reaches(self) -> bool:
        """Tell whether the users reach the service, by both families."""
        return all(self.lab["users"].ping(address, wait=1) for address in SERVICE)

    def leaked(self, router: str) -> dict[str, str]:
        """The routes that a router uses because the other leaked them, with their next hops."""
        found = {}
        for route in self.lab.show("rib", router, "leak"):
            if route["state"] == "used":
                found[route["prefix"]] = route["next_hops"][0].split()[1]
        return found


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with RoutingLab() as lab:
        yield Scene(lab)


def test_without_configuration_nothing_leaks(scene: Scene) -> None:
    assert not scene.reaches()
    scene.leak({"protocols": ["connected"]}, None)
    assert scene.lab.show("leaks", "red")[0]["state"] in {"searching", "connecting"}
    assert not scene.reaches()
    assert scene.lab.show("rib", "blue", "leak") == []


def test_routes_leak_where_both_ends_say_so_and_packets_follow(scene: Scene) -> None:
    scene.leak({"protocols": ["connected"]}, {"protocols": ["connected"]})
    eventually(scene.reaches, 30, "the users reach the service")
    assert scene.leaked("blue") == {"172.16.1.0/24": "169.254.0.0", "fd99:16::/64": "fe80::a"}
    assert scene.leaked("red") == {"172.17.1.0/24": "169.254.0.1", "fd99:17::/64": "fe80::b"}
    (link,) = scene.lab.show("leaks", "blue")
    assert (link["state"], link["router"]) == ("established", "red")


def test_what_both_have_stays_everybodys_own(scene: Scene) -> None:

    def path() -> Any:
        routes = {route["prefix"]: route for route in scene.lab.show("leaks", "blue", "routes")}
        return routes["10.0.0.0/24"]["path"]

    eventually(lambda: path() == ["red"], 30, "red tells it")
    for host in ("red-host", "blue-host"):
        assert scene.lab[host].ping("10.0.0.1")
    explained = scene.lab.vr("explain", "route", "blue", "10.0.0.2")
    assert [route["protocol"] for route in explained["routes"] if route["state"] == "used"] == ["connected"]


def test_policies_decide_what_leaks(scene: Scene) -> None:
    scene.leak({"protocols": ["connected"], "export": "public"}, {"protocols": ["connected"]})
    eventually(lambda: len(scene.lab.show("leaks", "blue", "routes")) == 2, 30, "10.0.0.0/24 is not told any more")
    assert scene.reaches()
    scene.leak({"protocols": ["connected"]}, {"protocols": ["connected"], "import": "nothing"})
    eventually(lambda: scene.leaked("blue") == {}, 30, "nothing is taken")
    assert not scene.reaches()
    scene.leak({"protocols": ["connected"]}, {"protocols": ["connected"]})
    eventually(scene.reaches, 30, "the users reach the service again")


def test_another_protocol_leaks_when_it_is_named(scene: Scene) -> None:
    scene.lab.routers["red"]["static"] = {"198.51.100.0/24": {"via": "172.16.1.2"}}
    scene.leak({"protocols": ["connected"]}, {"protocols": ["connected"]})
    assert "198.51.100.0/24" not in scene.leaked("blue")
    scene.leak({"protocols": ["connected", "static"]}, {"protocols": ["connected"]})
    eventually(lambda: "198.51.100.0/24" in scene.leaked("blue"), 30, "the static route leaks")


def test_a_dead_control_comes_back(scene: Scene) -> None:
    (red,) = (router for router in scene.lab.vr("show", "routers") if router["name"] == "red")
    os.kill(red["pids"]["control"], signal.SIGKILL)
    eventually(lambda: scene.lab.show("leaks", "blue")[0]["state"] == "established", 20, "the session is back")
    eventually(scene.reaches, 30, "the users reach the service")


def test_leaked_routes_go_with_the_other_router(scene: Scene) -> None:
    scene.lab.vr("router", "stop", "red")
    eventually(lambda: scene.leaked("blue") == {}, 30, "the routes are gone")
    scene.lab.vr("router", "start", "red")
    eventually(scene.reaches, 25, "the users reach the service again")


def test_one_end_is_enough_to_end_it(scene: Scene) -> None:
    scene.leak({"protocols": ["connected"]}, None)
    eventually(lambda: scene.leaked("red") == {}, 30, "red has nothing of blue")
    assert scene.lab.show("rib", "blue", "leak") == []
    assert not scene.reaches()
