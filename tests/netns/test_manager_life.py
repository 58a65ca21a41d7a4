"""The manager's own life: changes live, crashes, adoption, refusals."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from lab import ANABRANCH, Lab, program, project_environment, wait_until

pytestmark = [pytest.mark.root]


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


def loopback(address: str) -> dict[str, Any]:
    return {"interfaces": {"lo": {"addresses": [address]}}}


def two(lab: Lab) -> dict[str, Any]:
    lab.host("a", "red-lan", "10.0.0.2/24", "10.0.0.1")
    lab.host("b", "blue-lan", "10.0.0.2/24", "10.0.0.1")
    return {
        name: {"interfaces": {"lan": {"device": f"{name}-lan", "addresses": ["10.0.0.1/24"]}}}
        for name in ("red", "blue")
    }


def pids(lab: Lab) -> dict[str, dict[str, int]]:
    return {router["name"]: router["pids"] for router in lab.vr("show", "routers")}


def control_of_red(zygote: int, but: set[int]) -> int:
    """Give the pid of a control other than these; 0: none."""
    for pid in map(int, Path(f"/proc/{zygote}/task/{zygote}/children").read_text().split()):
        with contextlib.suppress(OSError):
            if pid not in but and b"red control" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
    return 0


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _colon, value in (line.partition(":") for line in lines)}


def ended(pid: int) -> bool:
    """Tell whether a process is dead, reaped or not."""
    try:
        return status(pid)["State"].startswith("Z")
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_processes_have_no_rights(lab: Lab) -> None:
    lab.configure({"red": loopback("10.0.0.1/32"), "blue": loopback("10.0.0.1/32")})
    lab.start()
    uids = set()
    for router in lab.vr("show", "routers"):
        for pid in router["pids"].values():
            found = status(pid)
            assert found["CapEff"] == found["CapPrm"] == "0000000000000000"
            assert found["NoNewPrivs"] == "1"
            assert found["Seccomp"] == "2"
            assert Path(f"/proc/{pid}/ns/net").stat().st_ino == Path(f"/run/netns/{router['netns']}").stat().st_ino
            uids.add(found["Uid"])
    assert len(uids) == 2


def test_applying_twice_does_nothing(lab: Lab) -> None:
    lab.configure(two(lab))
    lab.start()
    before = pids(lab)
    assert lab.vr("apply")["changes"] == []
    assert lab.vr("apply")["changes"] == []
    assert pids(lab) == before


def test_changes_are_live_and_touch_nothing_else(lab: Lab) -> None:
    routers = two(lab)
    lab.configure(routers)
    lab.start()
    before = pids(lab)
    routers["red"]["interfaces"]["lan"]["addresses"] = ["10.0.0.1/24", "10.7.0.1/24"]
    routers["red"]["static"] = {"198.51.100.0/24": {"via": "10.0.0.2"}}
    routers["green"] = loopback("10.3.0.1/32")
    lab.configure(routers)
    lab.vr("apply")
    assert pids(lab).keys() == {"red", "blue", "green"}
    assert {name: pids(lab)[name] for name in ("red", "blue")} == before
    assert lab.namespaces["a"].ping("10.7.0.1")
    assert "198.51.100.0/24" in {route["prefix"] for route in lab.vr("show", "routes", "red")}
    del routers["blue"], routers["red"]["static"]
    lab.configure(routers)
    lab.vr("apply")
    assert pids(lab).keys() == {"red", "green"}
    assert pids(lab)["red"] == before["red"]
    assert "blue-lan" in {link["ifname"] for link in lab.box.links()}
    assert "198.51.100.0/24" not in {route["prefix"] for route in lab.vr("show", "routes", "red")}


def test_a_device_changes_hands(lab: Lab) -> None:
    routers = two(lab)
    lab.configure(routers)
    lab.start()
    red, blue = (routers[name]["interfaces"]["lan"] for name in ("red", "blue"))
    red["device"], blue["device"] = blue["device"], red["device"]
    blue["addresses"] = ["10.0.0.111/24"]
    lab.configure(routers)
    lab.vr("apply")
    assert wait_until(lambda: lab.namespaces["a"].ping("10.0.0.111", wait=0.2), "blue has red's device")


def test_a_bad_configuration_changes_nothing(lab: Lab) -> None:
    lab.configure({"red": loopback("10.0.0.1/32")})
    lab.start()
    before = lab.vr("show", "routers")
    lab.configure_text("routers:\n  red:\n    interfaces: {lo: {addreses: [10.0.0.1/32]}}\n  blue: {nonsense: 1}\n")
    done = lab.vr_run("apply")
    assert done.returncode == 2
    assert len(json.loads(done.stdout or done.stderr)["error"]["details"]) >= 2
    assert lab.vr("show", "routers") == before


def test_sighup_applies(lab: Lab) -> None:
    lab.configure({"red": loopback("10.0.0.1/32")})
    lab.start()
    lab.configure({"red": loopback("10.0.0.1/32"), "blue": loopback("10.0.0.1/32")})
    assert lab.daemon is not None
    lab.daemon.send_signal(signal.SIGHUP)
    wait_until(lambda: [r["state"] for r in lab.vr("show", "routers")] == ["up", "up"], "blue is up")


def test_stop_start_restart(lab: Lab) -> None:
    lab.configure(two(lab))
    lab.start()
    host, before = lab.namespaces["a"], pids(lab)
    assert host.ping("10.0.0.1")
    lab.vr("router", "restart", "red")
    assert set(pids(lab)["red"].values()).isdisjoint(before["red"].values())
    assert pids(lab)["blue"] == before["blue"]
    wait_until(lambda: host.ping("10.0.0.1", wait=0.2), "red forwards again")
    lab.vr("router", "stop", "red")
    assert lab.router("red")["state"] == "down"
    assert "red-lan" in {link["ifname"] for link in lab.box.links()}
    lab.vr("router", "start", "red")
    assert lab.router("red")["state"] == "up"
    wait_until(lambda: host.ping("10.0.0.1", wait=0.2), "red forwards again")


def test_adoption(lab: Lab) -> None:
    """A new manager finds the VRs alive, and supervises, reconfigures and ends them as its own."""
    routers = two(lab)
    routers["red"]["interfaces"]["link"] = {"patch": "blue/link", "addresses": ["10.9.0.1/30"]}
    routers["blue"]["interfaces"]["link"] = {"patch": "red/link", "addresses": ["10.9.0.2/30"]}
    lab.configure(routers)
    lab.start()
    host, before = lab.namespaces["a"], pids(lab)
    host.ip("route", "add", "10.9.0.0/30", "via", "10.0.0.1", check=False)
    assert host.ping("10.0.0.1")
    lab.kill()
    assert host.ping("10.0.0.1")
    lab.start()
    assert pids(lab) == before
    assert host.ping("10.0.0.1")
    os.kill(before["red"]["forwarder"], signal.SIGKILL)
    wait_until(lambda: pids(lab)["red"]["forwarder"] not in (None, before["red"]["forwarder"]), "a successor")
    wait_until(lambda: host.ping("10.0.0.1", wait=0.2), "it forwards")
    os.kill(before["red"]["control"], signal.SIGKILL)
    wait_until(lambda: pids(lab)["red"]["control"] not in (None, before["red"]["control"]), "a successor")
    lab.wait_state("red", "up")
    routers["red"]["interfaces"]["lan"]["addresses"].append("10.8.0.1/24")
    lab.configure(routers)
    lab.vr("apply")
    assert host.ping("10.8.0.1")
    assert pids(lab)["blue"] == before["blue"]


def test_adoption_of_a_half_dead_router(lab: Lab) -> None:
    lab.configure(two(lab))
    lab.start()
    before = pids(lab)
    lab.kill()
    os.kill(before["red"]["control"], signal.SIGKILL)
    os.kill(before["blue"]["forwarder"], signal.SIGKILL)
    lab.start()
    after = pids(lab)
    assert after["red"]["forwarder"] == before["red"]["forwarder"]
    assert after["red"]["control"] != before["red"]["control"]
    assert after["blue"]["forwarder"] != before["blue"]["forwarder"]
    for name in ("a", "b"):
        wait_until(partial(lab.namespaces[name].ping, "10.0.0.1", wait=0.2), "it forwards")


def test_a_removed_router_is_not_adopted(lab: Lab) -> None:
    routers = two(lab)
    lab.configure(routers)
    lab.start()
    before = pids(lab)
    lab.kill()
    del routers["red"]
    lab.configure(routers)
    lab.start()
    assert pids(lab) == {"blue": before["blue"]}
    assert "red-lan" in {link["ifname"] for link in lab.box.links()}
    wait_until(lambda: ended(before["red"]["forwarder"]), "red's forwarder has ended")


def test_another_zygote_is_started(lab: Lab) -> None:
    lab.configure({"red": loopback("10.0.0.1/32")})
    lab.start()
    before = pids(lab)
    zygote = int(status(before["red"]["control"])["PPid"])
    os.kill(zygote, signal.SIGKILL)
    wait_until(lambda: "starting another" in lab.log(), "the manager has noticed")
    assert pids(lab) == before
    os.kill(before["red"]["control"], signal.SIGKILL)
    wait_until(lambda: pids(lab)["red"]["control"] not in (None, before["red"]["control"]), "a successor")
    lab.wait_state("red", "up")


@pytest.mark.quiet
def test_crashes_in_a_row_are_slowed_down(lab: Lab) -> None:
    lab.configure({"red": loopback("10.0.0.1/32")})
    lab.start()
    zygote, seen = int(status(pids(lab)["red"]["control"])["PPid"]), set[int]()
    for _round in range(6):
        # Not by the CLI, which may take longer to start than a short life is.
        pid = wait_until(lambda: control_of_red(zygote, seen), "another control", 20, 0.002)
        seen.add(pid)
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: "retry=" in lab.log(), "the manager waits before the next try")
    lab.wait_state("red", "up", 20)


def test_a_second_instance_is_refused(lab: Lab) -> None:
    lab.configure({"red": loopback("10.0.0.1/32")})
    lab.start()
    command = program(ANABRANCH, "run", "--conf", str(lab.conf_dir), "--run-dir", str(lab.run_dir))
    done = subprocess.run(
        lab.box.command(*command), capture_output=True, text=True, env=project_environment(), timeout=20, check=False
    )
    assert done.returncode == 2
    assert "another anabranch" in done.stderr
    assert lab.router("red")["state"] == "up"


def test_a_bad_configuration_at_start(lab: Lab) -> None:
    lab.configure_text("routers: {red: {nonsense: 1}}\n")
    command = program(ANABRANCH, "run", "--conf", str(lab.conf_dir), "--run-dir", str(lab.run_dir))
    done = subprocess.run(
        lab.box.command(*command), capture_output=True, text=True, env=project_environment(), timeout=20, check=False
    )
    assert done.returncode == 2
    assert "nonsense" in done.stderr
    assert not lab.run_dir.exists()
