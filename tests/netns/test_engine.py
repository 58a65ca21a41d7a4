"""Protocols in two joined VRs, by the VRs' own sockets: deaths of forwarder and control, a recording and its replay."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from lab import Lab, project_environment, wait_until

from vrouter import replay

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.root, pytest.mark.in_order]

ROUTES: Final = {"198.51.100.0/24": "bgp", "203.0.113.0/24": "rip"}


def config() -> dict[str, Any]:
    accept = {"any": [{"then": "accept"}]}
    session = {"import": "any", "export": "any", "timers": {"connect-retry": "1s"}}
    return {
        "red": {
            "interfaces": {"to-blue": {"patch": "blue/to-red", "addresses": ["10.9.0.0/31"]}},
            "policy": {"route-policies": accept},
            "bgp": {"asn": 65001, "router-id": "10.9.0.0", "neighbors": {"10.9.0.1": {"remote-as": 65002, **session}}},
            "rip": {"interfaces": {"to-blue": {}}, "timers": {"update": "2s"}},
        },
        "blue": {
            "interfaces": {
                "to-red": {"patch": "red/to-blue", "addresses": ["10.9.0.1/31"]},
            },
            "static": {prefix: {"discard": True} for prefix in ROUTES},
            "policy": {
                "route-policies": {**accept, "for-rip": [{"if": {"prefix": "203.0.113.0/24"}, "then": "accept"}]}
            },
            "bgp": {
                "asn": 65002,
                "router-id": "10.9.0.1",
                "networks": ["198.51.100.0/24"],
                "neighbors": {"10.9.0.0": {"remote-as": 65001, **session}},
            },
            "rip": {
                "interfaces": {"to-red": {}},
                "timers": {"update": "2s"},
                "redistribute": [{"protocol": "static", "policy": "for-rip"}],
            },
        },
    }


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as made:
        made.configure(config())
        made.start()
        yield made


def learnt(lab: Lab) -> dict[str, str]:
    """What red has in its tables of what blue told it."""
    routes = {route["prefix"]: route["protocol"] for route in lab.vr("show", "routes", "red")}
    return {prefix: routes[prefix] for prefix in ROUTES if prefix in routes}


def session(lab: Lab) -> dict[str, Any]:
    """The one connection of red's BGP."""
    found = [it for it in lab.vr("show", "sockets", "red") if it["app"] == "bgp" and it["state"] == "established"]
    return found[0] if found else {}


def test_routes_are_learnt_over_the_routers_own_sockets(lab: Lab) -> None:
    wait_until(lambda: learnt(lab) == ROUTES, "both routes", 30)
    sockets = lab.vr("show", "sockets", "red")
    owners = {(it["app"], it["type"], it["local"].rpartition(":")[2]) for it in sockets if it["local"]}
    assert {("bgp", "tcp", "179"), ("rip", "udp", "520")} <= owners
    running = {it["name"]: it for it in lab.vr("show", "protocols", "red")}
    assert all(it["state"] == "running" and it["failures"] == 0 for it in running.values())
    assert set(running) == {"bgp", "rip"}
    why = lab.vr("explain", "route", "red", "198.51.100.9")
    assert (why["prefix"], why["routes"][0]["protocol"]) == ("198.51.100.0/24", "bgp")
    assert why["routes"][0]["resolved"] == ["via 10.9.0.1 on to-blue"]
    assert why["bgp"]["prefix"] == "198.51.100.0/24"


def test_a_control_that_dies_leaves_all_routes_and_learns_them_again(lab: Lab) -> None:
    os.kill(lab.router("red")["pids"]["control"], signal.SIGKILL)
    wait_until(lambda: lab.router("red")["restarts"] >= 1 and lab.router("red")["state"] == "up", "a new control")
    for _ in range(20):
        assert learnt(lab) == ROUTES
    wait_until(lambda: session(lab), "a session", 30)
    wait_until(lambda: {it["name"] for it in lab.vr("show", "protocols", "red")} == {"bgp", "rip"}, "protocols")
    assert learnt(lab) == ROUTES


def test_a_forwarder_that_dies_ends_streams_alone(lab: Lab) -> None:
    wait_until(lambda: session(lab), "a session", 30)
    before = {it["name"]: it["age"] for it in lab.vr("show", "protocols", "red")}
    os.kill(lab.router("red")["pids"]["forwarder"], signal.SIGKILL)
    wait_until(lambda: lab.router("red")["state"] == "up", "a new forwarder")
    wait_until(lambda: session(lab), "another session", 40)
    wait_until(lambda: learnt(lab) == ROUTES, "both routes", 30)
    after = {it["name"]: it for it in lab.vr("show", "protocols", "red")}
    assert all(after[name]["age"] > age and after[name]["failures"] == 0 for name, age in before.items())


def test_a_recording_is_played_again_with_equal_outputs(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "red.recording"
    done = lab.vr("record", "red", str(path), "-t", "6", timeout=60)
    assert done["inputs"] > 10
    assert not done["cut"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    names = {type(played.step.event).__name__ for played in replay.play(path.read_bytes())}
    assert {"Configure", "Opened", "Received", "Timeout"} <= names
    command = [sys.executable, "-m", "vrouter.replay", str(path)]
    played = subprocess.run(
        command, capture_output=True, text=True, check=False, env=project_environment(), timeout=60
    )  # fmt: skip
    assert played.returncode == 0, played.stdout[-3000:] + played.stderr
    assert played.stdout.endswith(f"{done['inputs']} inputs, 0 differences\n")
    wait_until(lambda: learnt(lab) == ROUTES, "both routes", 40)


def test_a_protocol_that_is_taken_away_takes_its_routes_and_sockets_along(lab: Lab) -> None:
    wait_until(lambda: session(lab), "a session", 40)
    less = config()
    del less["red"]["bgp"]
    lab.configure(less)
    lab.vr("apply")
    wait_until(lambda: learnt(lab) == {"203.0.113.0/24": "rip"}, "no route of BGP")
    wait_until(lambda: "bgp" not in {it["app"] for it in lab.vr("show", "sockets", "red")}, "no socket of BGP")
    assert {it["name"] for it in lab.vr("show", "protocols", "red")} == {"rip"}
    lab.configure(config())
    lab.vr("apply")
    wait_until(lambda: learnt(lab) == ROUTES, "both routes", 40)


def test_a_router_that_is_stopped_says_goodbye(lab: Lab) -> None:
    wait_until(lambda: session(lab), "a session", 40)
    lab.vr("router", "stop", "blue")
    wait_until(lambda: learnt(lab) == {}, "no routes: BGP's session has ended, RIP's are poisoned")
    lab.vr("router", "start", "blue")
    wait_until(lambda: learnt(lab) == ROUTES, "both routes", 40)


def test_a_question_to_a_control_that_hangs_is_answered(lab: Lab) -> None:
    control = lab.router("red")["pids"]["control"]
    os.kill(control, signal.SIGSTOP)
    begin = time.monotonic()
    done = lab.vr_run("show", "protocols", "red")
    assert done.returncode == 0 or "has gone" in done.stdout or "is down" in done.stdout
    assert time.monotonic() - begin < 20
    wait_until(lambda: lab.router("red")["pids"]["control"] not in (None, control), "another control")
    wait_until(lambda: learnt(lab) == ROUTES, "both routes", 40)
