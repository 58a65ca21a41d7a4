"""The map of an offload's routes is replaced by a larger one while packets are forwarded with it."""

from __future__ import annotations

import ipaddress
import random
import socket
import struct
import subprocess
from typing import TYPE_CHECKING, Final

import lab as lab_module
import pytest
from frames import ethernet, ip4
from hosts import check_laws
from lab import VR, Lab, Namespace, program
from test_offload import RATE, at_driver, mac_of, red, wait_offloaded, world
from traffic import Stream

from manager.cli.segments import open_segments

if TYPE_CHECKING:
    from collections.abc import Mapping

pytestmark = [pytest.mark.root, pytest.mark.slow]

ROUTES: Final = 20_000  # more than the smallest map takes
SAMPLE: Final = 200
TURNS: Final = 20
WAYS: Final = {"10.0.1.2": "carol", "10.0.2.2": "dave"}


def installed(lab: Lab) -> int:
    """Count the routes in the table."""
    with open_segments(lab.run_dir, "red") as (tables, _state):
        offset = tables.integer("prefix_root")
        return int(tables.at("prefix_table", offset).integer("count")) if offset else 0


def many_routes(rng: random.Random) -> dict[str, dict[str, str]]:
    """Host routes far from each other, by turns to carol and dave."""
    addresses = (ipaddress.ip_address((20 << 24) + host) for host in rng.sample(range(1 << 29), ROUTES))
    vias = list(WAYS)
    return {f"{address}/32": {"via": vias[number % 2]} for number, address in enumerate(addresses)}


def taken(lab: Lab, hosts: Mapping[str, Namespace], addresses: list[str]) -> dict[str, str]:
    """Send a packet to each address; give who has got it."""
    found = {}
    with hosts["alice"].wire("eth0") as alice, hosts["carol"].wire("eth0") as carol, hosts["dave"].wire("eth0") as dave:
        ours = bytes.fromhex(mac_of(lab, "in").replace(":", ""))
        source, data = int(ipaddress.ip_address("10.0.0.2")), struct.pack(">HHHH", 9, 9, 26, 0) + bytes(18)
        for address in addresses:
            packet = ip4(source, int(ipaddress.ip_address(address)), data)
            alice.send(ethernet(packet, 0x0800, ours, alice.mac))
        for name, wire in (("carol", carol), ("dave", dave)):
            for frame in wire.frames(0.5):
                if frame[12:14] == b"\x08\x00":
                    found[socket.inet_ntoa(frame[30:34])] = name
    return found


def test_the_map_of_routes_grows_under_traffic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is lost while control moves to a larger map, and what is in there is what was asked for."""
    monkeypatch.setattr(lab_module, "ANABRANCH", "tests.netns.small_maps:main")
    steady = {"192.0.2.0/24": {"via": "10.0.1.2"}}
    many = many_routes(random.Random(4))
    with world("xdp", {"static": steady}) as (lab, hosts):
        wait_offloaded(lab, "in", "out", "other")
        assert hosts["alice"].ping("10.0.2.2")
        lab.configure(red("xdp", static=steady | many))
        apply = lab.helper(program(VR, "--run-dir", str(lab.run_dir), "apply"), stdout=subprocess.DEVNULL)
        for tag in range(1, TURNS):
            sent = Stream(lab, (hosts["alice"], "eth0"), (hosts["carol"], "eth0"), tag, RATE, 2 * RATE)
            sent.start(mac_of(lab, "in"), "10.0.0.2", "192.0.2.1")
            found = sent.result(30)
            assert (found["lost"], found["duplicates"], found["foreign"]) == (0, 0, 0), found
            if apply.poll() is not None and installed(lab) > ROUTES:
                break
        assert apply.wait(60) == 0
        assert "more room for routes" in lab.log()
        wait_offloaded(lab, "in", "out", "other")
        before = at_driver(lab, "red", "in")
        sample = random.Random(5).sample(sorted(many), SAMPLE)
        got = taken(lab, hosts, [prefix.removesuffix("/32") for prefix in sample])
        assert got == {prefix.removesuffix("/32"): WAYS[many[prefix]["via"]] for prefix in sample}
        assert at_driver(lab, "red", "in") >= before + SAMPLE
        assert lab.interface("red", "out")["device_drops"] == 0
        check_laws(lab, "red")
