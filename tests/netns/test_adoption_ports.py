"""Ports, by any driver, that outlived a manager: what the next one does with them when the configuration changes."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import pytest
from lab import Lab, wait_until

from manager import xdp
from manager.netlink import Netlink

pytestmark = [pytest.mark.root]
NETS: Final = {"source": 0, "sink": 1}


def red(driver: str = "af-packet", **more: Any) -> dict[str, Any]:
    interfaces = {
        name: {"device": f"to-{name}", "driver": driver, "addresses": [f"10.0.{net}.1/24"], **more}
        for name, net in NETS.items()
    }
    return {"red": {"interfaces": interfaces}}


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        for name, net in NETS.items():
            host = made.host(name, f"to-{name}", f"10.0.{net}.2/24", f"10.0.{net}.1")
            host.run("ethtool", "-K", "eth0", "gro", "on")
        yield made


def wait_path(lab: Lab) -> None:
    wait_until(partial(lab.namespaces["source"].ping, "10.0.1.2", wait=0.2), "there is a path", 15)


def applied(lab: Lab, times: int) -> bool:
    return lab.log().count("configuration applied") == times


def programs(lab: Lab) -> list[int]:
    """Give the XDP programs on the router's devices."""
    found = []
    path = f"/run/netns/{lab.router('red')['netns']}"
    with open(path) as netns, Netlink(netns.fileno()) as netlink:
        for link in netlink.links().values():
            _mode, number = xdp.attached(netlink, link.index)
            found += [number] if number else []
    return found


@pytest.mark.parametrize("driver", ["af-packet", "af-xdp"])
def test_an_adopted_router_is_restarted(lab: Lab, driver: str) -> None:
    """New rings are opened on the very devices that it has."""
    lab.configure(red(driver))
    lab.start()
    wait_path(lab)
    before = lab.router("red")["pids"]
    lab.kill()
    lab.start()
    assert lab.router("red")["pids"] == before
    lab.vr("router", "restart", "red")
    wait_path(lab)
    assert lab.router("red")["pids"]["forwarder"] != before["forwarder"]
    assert "device gone" not in lab.log()
    lab.stop()
    assert {f"to-{name}" for name in NETS} <= {link["ifname"] for link in lab.box.links()}


def test_an_offload_that_is_gone_from_the_files_is_taken_off(lab: Lab) -> None:
    """The files were changed while there was no manager."""
    lab.configure(red(offload="xdp"))
    lab.start()
    wait_path(lab)
    wait_until(lambda: lab.interface("red", "source").get("offload") == "on", "it is offloaded")
    assert len(programs(lab)) == 2
    before = lab.router("red")["pids"]
    lab.kill()
    lab.configure(red())
    lab.start()
    assert lab.router("red")["pids"] == before
    wait_until(lambda: not programs(lab), "the programs are gone")
    wait_path(lab)


def test_a_tap_of_a_router_that_is_begun_anew(lab: Lab) -> None:
    """Another driver of a neighbor interface makes a new forwarder; the TAP device is free for it."""
    routers = red()
    routers["red"]["interfaces"]["tap"] = {"device": "tap0", "driver": "tap", "addresses": ["10.0.9.1/24"]}
    lab.configure(routers)
    lab.start()
    wait_path(lab)
    lab.kill()
    routers["red"]["interfaces"]["sink"]["driver"] = "af-packet-v3"
    lab.configure(routers)
    lab.start()
    wait_until(lambda: lab.interface("red", "tap")["state"] == "up", "the device is made again")
    wait_path(lab)


def test_what_is_configured_during_a_restart_is_there_after_it(lab: Lab) -> None:
    """Other workers begin the router anew; the next configuration comes before that is done."""
    interfaces = red()["red"]["interfaces"]
    sink = {"sink": interfaces.pop("sink")}
    lab.configure({"red": {"interfaces": interfaces}})
    lab.start()
    before = lab.router("red")["pids"]["forwarder"]
    for number, some in enumerate((interfaces, interfaces | sink), 1):
        lab.configure({"red": {"interfaces": some, "dataplane": {"workers": 2}}})
        assert lab.daemon is not None
        lab.daemon.send_signal(signal.SIGHUP)
        wait_until(partial(applied, lab, number), "it is applied", interval=0.001)
    wait_path(lab)
    assert lab.router("red")["pids"]["forwarder"] != before
