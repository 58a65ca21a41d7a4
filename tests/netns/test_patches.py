"""Patch links: a chain of three VRs, super-frames through it, and the death of any forwarder under traffic."""

from __future__ import annotations

import os
import signal
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pytest
from hosts import MIB, check_laws, counters, drops, transfer
from lab import Lab, wait_until
from traffic import Stream

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.quiet, pytest.mark.root]

NAMES: Final = ("red", "green", "blue")
BATCH: Final = 64  # BATCH_SIZE: a successor may repeat one
LIMIT: Final = 0.5  # seconds without traffic; the promise of 50 ms is for a machine that does nothing else


def chain() -> dict[str, Any]:
    """Make the configuration: source -- red == green == blue -- sink."""
    left = {"patch": "red/right", "addresses": ["10.1.0.1/31", "2001:db8:1::1/127"]}
    right = {"patch": "blue/left", "addresses": ["10.2.0.0/31", "2001:db8:2::/127"]}
    lan = {
        "red": {"device": "in", "addresses": ["10.0.0.1/24", "2001:db8:a::1/64"]},
        "blue": {"device": "out", "addresses": ["10.0.1.1/24", "2001:db8:b::1/64"]},
    }
    return {
        "red": {
            "interfaces": {
                "lan": lan["red"],
                "right": {"patch": "green/left", "addresses": ["10.1.0.0/31", "2001:db8:1::/127"]},
            },
            "static": {"0.0.0.0/0": {"via": "10.1.0.1"}, "::/0": {"via": "2001:db8:1::1"}},
        },
        "green": {
            "interfaces": {"left": left, "right": right},
            "static": {
                "10.0.0.0/24": {"via": "10.1.0.0"},
                "2001:db8:a::/64": {"via": "2001:db8:1::"},
                "10.0.1.0/24": {"via": "10.2.0.1"},
                "2001:db8:b::/64": {"via": "2001:db8:2::1"},
            },
        },
        "blue": {
            "interfaces": {
                "lan": lan["blue"],
                "left": {"patch": "green/right", "addresses": ["10.2.0.1/31", "2001:db8:2::1/127"]},
            },
            "static": {"0.0.0.0/0": {"via": "10.2.0.0"}, "::/0": {"via": "2001:db8:2::"}},
        },
    }


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as made:
        for name, device, net, net6 in (
            ("source", "in", "10.0.0", "2001:db8:a"),
            ("sink", "out", "10.0.1", "2001:db8:b"),
        ):
            host = made.host(name, device, f"{net}.2/24", gateway=f"{net}.1")
            host.address("eth0", f"{net6}::2/64")
            host.ip("route", "add", "default", "via", f"{net6}::1")
        made.configure(chain())
        made.start()
        source = made.namespaces["source"]
        for address in ("10.0.1.2", "2001:db8:b::2"):
            wait_until(partial(source.ping, address, wait=0.2), f"the path to {address} is there")
        yield made


@pytest.fixture(autouse=True)
def laws(lab: Lab) -> Iterator[None]:
    """Both counter laws hold after each test."""
    yield
    check_laws(lab, *NAMES)


def kill_forwarder(lab: Lab, router: str) -> None:
    """Kill a forwarder, and wait for the next one."""
    old = lab.router(router)["pids"]["forwarder"]
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: lab.router(router)["pids"]["forwarder"] not in (old, None, 0), "another forwarder")


@pytest.mark.parametrize("address", ["10.0.1.2", "2001:db8:b::2"])
def test_super_frames_pass_a_chain_whole(lab: Lab, address: str) -> None:
    before = counters(lab, "blue")["left"]
    transfer(lab.namespaces["source"], lab.namespaces["sink"], address, 200 * MIB)
    after = counters(lab, "blue")["left"]
    count, size = (after[key] - before[key] for key in ("rx_packets", "rx_bytes"))
    assert size / count > 3000, "they came in pieces"


@pytest.mark.parametrize("victim", NAMES)
def test_nothing_is_lost_when_a_forwarder_is_killed(lab: Lab, victim: str) -> None:
    """At 20,000 packets a second; the neighbors' rings take what comes meanwhile."""
    before = {name: drops(lab, name) for name in NAMES}
    source, sink = lab.namespaces["source"], lab.namespaces["sink"]
    stream = Stream(lab, (source, "eth0"), (sink, "eth0"), 7, 20_000, 30_000)
    stream.start(lab.interface("red", "lan")["mac"], "10.0.0.2", "10.0.1.2")
    kills = 3
    for _ in range(kills):
        time.sleep(0.15)  # traffic between the kills
        kill_forwarder(lab, victim)
    assert stream.sending, "the kills outlasted the traffic"
    counted = stream.result(30)
    grown = {
        (name, reason): count - before[name].get(reason, 0)
        for name in NAMES
        for reason, count in drops(lab, name).items()
        if count != before[name].get(reason, 0)
    }
    assert counted["lost"] == 0, (counted, grown)
    assert counted["duplicates"] <= kills * BATCH, counted
    assert counted["gap_us"] < LIMIT * 1e6, counted


def test_a_transfer_survives_the_death_of_all_forwarders(lab: Lab) -> None:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            transfer(lab.namespaces["source"], lab.namespaces["sink"], "10.0.1.2", 600 * MIB)
        except BaseException as error:  # noqa: BLE001 - it is raised where the test sees it
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        for victim in NAMES:
            kill_forwarder(lab, victim)
    finally:
        thread.join()
    assert errors == []
