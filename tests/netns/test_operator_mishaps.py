"""What happens to operators: a manager that is killed in the middle of a change, a full disk, files nobody can read.

source 10.0.0.2 --- in red out --- sink 10.0.1.2     devices `more` and `trunk` come to red and go; so does blue
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from lab import Lab, run, wait_until
from traffic import Stream

pytestmark = pytest.mark.root

RATE: Final = 2000
KILLS: Final = int(os.environ.get("MISHAP_KILLS", "3"))
LATEST: Final = 0.25  # seconds after the reload is asked for; by then it is carried out, on an idle machine
SMALL_DISK: Final = 256 << 10
Routers = dict[str, Any]


def before() -> Routers:
    return {
        "red": {
            "interfaces": {
                "in": {"device": "in", "addresses": ["10.0.0.1/24"]},
                "out": {"device": "out", "addresses": ["10.0.1.1/24"]},
            },
            "static": {"198.51.100.0/24": {"via": "10.0.1.2"}},
        },
        "blue": {"interfaces": {"lan": {"device": "blue", "addresses": ["10.0.0.1/24"]}}},
    }


def after() -> Routers:
    """Blue goes, green takes its device, red gets another device, both a VLAN of a third, and a patch link."""
    routers = before()
    del routers["blue"]
    red = routers["red"]["interfaces"]
    red["more"] = {"device": "more", "addresses": ["10.0.5.1/24"], "mtu": 1400}
    red["tag"] = {"device": "trunk", "vlan": 7, "addresses": ["10.7.0.1/24"]}
    red["to-green"] = {"patch": "green/to-red", "addresses": ["10.9.0.0/31"]}
    routers["red"]["static"]["203.0.113.0/24"] = {"via": "10.0.5.2"}
    routers["green"] = {
        "interfaces": {
            "lan": {"device": "blue", "addresses": ["10.0.0.9/24"]},
            "tag": {"device": "trunk", "vlan": 8, "addresses": ["10.8.0.1/24"]},
            "to-red": {"patch": "red/to-green", "addresses": ["10.9.0.1/31"]},
        }
    }
    return routers


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        made.host("source", "in", "10.0.0.2/24", gateway="10.0.0.1")
        made.host("sink", "out", "10.0.1.2/24", gateway="10.0.1.1")
        made.host("blue", "blue", "10.0.0.2/24")
        made.host("more", "more", "10.0.5.2/24")
        made.host("trunk", "trunk", "172.16.0.2/24")
        made.configure(before())
        yield made


def start(lab: Lab) -> None:
    lab.start()
    wait_until(lambda: lab.namespaces["source"].ping("10.0.1.2", wait=0.3), "the path is there")


def devices(lab: Lab) -> set[str]:
    return {link["ifname"] for link in lab.box.links()}


def as_configured(lab: Lab, routers: Routers) -> None:
    """See that what runs is what the files say, soon, and nothing else."""
    wait_until(lambda: lab.vr("plan")["empty"], "nothing is left to do")

    def up() -> bool:
        shown = lab.vr("show", "routers")
        return [(each["name"], each["state"]) for each in shown] == [(name, "up") for name in sorted(routers)]

    def interfaces_up(name: str) -> bool:
        states = {each["name"]: each["state"] for each in lab.vr("show", "interfaces", name) if each["name"] != "lo"}
        return states == dict.fromkeys(routers[name]["interfaces"], "up")

    wait_until(up, f"{sorted(routers)} are up")
    for name in routers:
        wait_until(functools.partial(interfaces_up, name), f"all interfaces of {name} are up")
    changed = "green" in routers
    at_home = {"lo", "trunk"} | ({"more"} if not changed else set())

    def nothing_else() -> bool:
        """But for our ends of the VLANs of the shared device."""
        found = devices(lab)
        return at_home <= found and len(found - at_home) == 2 * changed

    wait_until(nothing_else, f"{at_home} are at home, and nothing else")
    wait_until(lambda: lab.namespaces["source"].ping("10.0.1.2", wait=0.3), "red forwards")
    who = "10.0.0.9" if changed else "10.0.0.1"
    wait_until(lambda: lab.namespaces["blue"].ping(who, wait=0.3), "the device has one owner")
    if changed:
        wait_until(lambda: lab.namespaces["more"].ping("10.0.5.1", wait=0.3), "red has the new device")
        assert lab.vr("ping", "red", "10.9.0.1", "-c", "1")["received"] == 1


def test_a_manager_is_killed_in_the_middle_of_a_change(lab: Lab) -> None:
    """The next one brings about what the files say; red forwards all the time, and keeps its processes."""
    start(lab)
    chance = random.Random(5)
    pids = lab.router("red")["pids"]
    ends = ((lab.namespaces["source"], "eth0"), (lab.namespaces["sink"], "eth0"))
    stream = Stream(lab, *ends, 1, RATE, 150 * RATE)
    stream.start(lab.interface("red", "in")["mac"], "10.0.0.2", "10.0.1.2")
    for number in range(KILLS):
        routers = before() if number % 2 else after()
        lab.configure(routers)
        assert lab.daemon is not None
        lab.daemon.send_signal(signal.SIGHUP)
        time.sleep(chance.uniform(0, LATEST))
        lab.kill()
        lab.start()
        as_configured(lab, routers)
    assert stream.sending
    stream.stop()
    result = stream.result(30)
    assert (result["lost"], result["duplicates"], result["foreign"]) == (0, 0, 0), result
    assert lab.router("red")["pids"] == pids
    assert "Traceback" not in lab.log()


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[None]:
    """Put a directory on a disk of its own, which is soon full."""
    path.mkdir()
    run("mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK},mode=755", "tmpfs", str(path))
    try:
        yield
    finally:
        run("umount", "--lazy", str(path))  # what still runs after a failure has files there


def fill(file: Path) -> None:
    """Take all the room that there is."""
    with file.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        for size in (4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    stream.write(bytes(size))


def test_a_full_disk_takes_no_device_and_stops_nothing(lab: Lab) -> None:
    """The manager says why, what runs goes on, and all is made up for when there is room."""
    with small_disk(lab.run_dir):
        start(lab)
        pids = lab.router("red")["pids"]
        fill(lab.run_dir / "filler")
        lab.configure(after())
        assert lab.daemon is not None
        lab.daemon.send_signal(signal.SIGHUP)
        wait_until(lambda: "No space left" in lab.log(), "it says what is the matter")
        wait_until(lambda: "configuration applied" in lab.log(), "it goes on")
        assert lab.namespaces["source"].ping("10.0.1.2")
        assert "more" in devices(lab)
        os.kill(pids["forwarder"], signal.SIGKILL)
        wait_until(lambda: lab.namespaces["source"].ping("10.0.1.2", wait=0.3), "another forwarder is there")
        (lab.run_dir / "filler").unlink()
        as_configured(lab, after())
        lab.stop()
        assert "Traceback" not in lab.log()
