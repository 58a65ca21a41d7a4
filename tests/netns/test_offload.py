"""Packets that are forwarded in the kernel: the same answers, counters and life as those that are not.

alice (10.0.0.2) --in-- red --out-- carol (10.0.1.2), and --other-- dave (10.0.2.2)
"""

from __future__ import annotations

import copy
import json
import os
import random
import signal
import struct
import subprocess
import time
from contextlib import contextmanager
from functools import partial
from socket import IPPROTO_TCP
from typing import TYPE_CHECKING, Any, Final

import pytest
from differential import Comparison
from frames import Frames
from hosts import check_laws, counters, transfer
from lab import VR, Lab, Namespace, program, run, wait_until
from router_side import RouterSide
from test_differential import ROUTER, kernel_router, silent
from traffic import Stream

from fastpath import stats
from manager.cli.segments import open_segments
from tests.unit import packets

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.root, pytest.mark.slow]

FRAMES: Final = int(os.environ.get("DIFFERENTIAL_FRAMES", "2000"))
BOTH: Final = pytest.mark.parametrize("kind", ["xdp", "tc"])
HOSTS: Final = {"alice": ("in", 0), "carol": ("out", 1), "dave": ("other", 2)}
RATE: Final = 2000  # frames a second: what a busy machine's sender manages


def red(offload: str, **more: Any) -> dict[str, Any]:
    interfaces = {
        device: {
            "device": device,
            "offload": offload,
            "addresses": [f"10.0.{number}.1/24", f"2001:db8:{number}::1/64"],
        }
        for device, number in HOSTS.values()
    }
    return {"red": {"interfaces": interfaces, **more}}


@contextmanager
def world(
    kind: str, more: dict[str, Any] | None = None, *, gro: bool = True
) -> Iterator[tuple[Lab, dict[str, Namespace]]]:
    """A router with three hosts, past duplicate address detection."""
    with Lab() as lab:
        hosts = {}
        for name, (device, number) in HOSTS.items():
            hosts[name] = lab.host(name, device, f"10.0.{number}.2/24", f"10.0.{number}.1")
            hosts[name].address("eth0", f"2001:db8:{number}::2/64")
            hosts[name].ip("-6", "route", "add", "default", "via", f"2001:db8:{number}::1")
            if gro:
                hosts[name].run("ethtool", "-K", "eth0", "gro", "on")
        lab.configure(red(kind, **(more or {})))
        lab.start()
        for peer in ("10.0.1.2", "10.0.2.2", "2001:db8:1::2"):
            wait_until(partial(hosts["alice"].ping, peer), f"{peer} answers")
        yield lab, hosts


def told(lab: Lab, interface: str = "in") -> str:
    return str(lab.interface("red", interface).get("offload", ""))


def wait_offloaded(lab: Lab, *interfaces: str) -> None:
    wanted = interfaces or ("in", "out")
    wait_until(lambda: {told(lab, interface) for interface in wanted} == {"on"}, f"{wanted} are offloaded")


def is_of(lab: Lab, kind: str) -> bool:
    return bool(lab.interface("red", "in").get("offload_kind") == kind)


def at_driver(lab: Lab, router: str, interface: str) -> int:
    """Count the packets of an interface that never reached its ring."""
    seen: list[int] = []

    def same() -> bool:
        """Counters are folded ten times a second."""
        time.sleep(0.15)
        seen.append(int(counters(lab, router)[interface]["rx_packets"]))
        return seen[-1:] * 3 == seen[-3:]

    wait_until(same, "all is counted")
    with open_segments(lab.run_dir, router) as (_tables, state):
        ports = {port["port"]: port["progress"] for port in stats.ports(state)}
    recorded = json.loads((lab.run_dir / "routers.json").read_text())
    port = next(r for r in recorded if r["name"] == router)["interfaces"][interface]["port"]
    return int(counters(lab, router)[interface]["rx_packets"]) - int(ports[port])


def mac_of(lab: Lab, interface: str) -> str:
    return str(lab.interface("red", interface)["mac"])


def stream(lab: Lab, hosts: dict[str, Namespace], tag: int, count: int) -> Stream:
    sender, receiver = (hosts["alice"], "eth0"), (hosts["carol"], "eth0")
    made = Stream(lab, sender, receiver, tag, RATE, count)
    made.start(mac_of(lab, "in"), "10.0.0.2", "10.0.1.2")
    return made


@BOTH
def test_offloaded_router_and_kernel_do_the_same(kind: str) -> None:
    """Bit for bit, for frames of all kinds; and what can be forwarded at the driver is."""
    with Lab() as lab:
        peers = silent(lab.namespace("peers"))
        reference = kernel_router(lab, peers)
        for link in ("in", "out"):
            lab.veth(f"vr-{link}", None, peers, f"vp-{link}")
            peers.run("ethtool", "-K", f"vp-{link}", "gro", "on")
        router: dict[str, Any] = copy.deepcopy(ROUTER)
        for interface in router["interfaces"].values():
            interface["offload"] = kind
        lab.configure({"red": router})
        lab.start()
        tested = RouterSide((peers, "vp-in"), (peers, "vp-out"))
        warm_up = Frames(random.Random(0)).plain(50)
        try:
            wait_until(lambda: not Comparison(reference, tested).run(warm_up, most=1), "both forward the same", 15, 0.2)
            wait_offloaded(lab)
            compared = Comparison(reference, tested)
            found = compared.run([*Frames(random.Random(2)).take(FRAMES), *Frames(random.Random(3)).plain(FRAMES // 4)])
            assert not found, "\n".join(map(str, found))
            assert compared.compared == FRAMES + FRAMES // 4
            forwarded = counters(lab, "red")["in"]["forwarded_packets"]
            assert at_driver(lab, "red", "in") > forwarded // 2
            check_laws(lab, "red")
        finally:
            reference.close()
            tested.close()


@BOTH
def test_on_and_off_under_traffic(kind: str) -> None:
    """And, for one of them, to the other and back."""
    with world(kind) as (lab, hosts):
        wait_offloaded(lab)
        sent = stream(lab, hosts, 1, 4 * RATE)
        for turn, offload in enumerate(("none", kind, "none" if kind == "xdp" else "xdp", kind)):
            time.sleep(0.3)
            lab.configure(red(offload))
            lab.vr("apply")
            if offload != "none":
                wait_until(partial(is_of, lab, offload), f"it is {offload}, turn {turn}")
                wait_offloaded(lab)
            else:
                wait_until(lambda: not told(lab), f"it is off, turn {turn}")
        found = sent.result(30)
        assert (found["lost"], found["duplicates"], found["foreign"]) == (0, 0, 0), found
        assert at_driver(lab, "red", "in") > 0
        check_laws(lab, "red")


def replaced(lab: Lab, role: str, pid: int) -> bool:
    return lab.router("red")["pids"][role] not in {pid, None}


@BOTH
def test_every_process_may_be_killed(kind: str) -> None:
    """Packets in transit never notice."""
    with world(kind) as (lab, hosts):
        wait_offloaded(lab)
        sent = stream(lab, hosts, 2, 5 * RATE)
        for role in ("forwarder", "control"):
            time.sleep(0.3)
            pid = lab.router("red")["pids"][role]
            os.kill(pid, signal.SIGKILL)
            wait_until(partial(replaced, lab, role, pid), f"a new {role}")
        lab.wait_state("red", "up")
        wait_offloaded(lab)
        lab.kill()
        time.sleep(0.3)
        lab.start()
        wait_offloaded(lab)
        found = sent.result(30)
        assert (found["lost"], found["duplicates"], found["foreign"]) == (0, 0, 0), found
        before = at_driver(lab, "red", "in")
        assert hosts["alice"].ping("10.0.1.2", count=5)
        assert at_driver(lab, "red", "in") >= before + 4
        check_laws(lab, "red")


def test_routes_neighbors_and_links_change_at_once() -> None:
    route = {"static": {"192.0.2.0/24": {"via": "10.0.1.2"}}}
    with world("xdp", route) as (lab, hosts):
        wait_offloaded(lab, "in", "out", "other")
        for name in ("carol", "dave"):
            hosts[name].ip("address", "add", "192.0.2.1/32", "dev", "lo")

        def reached(name: str) -> bool:
            """Send one ping to the moving address, and see who takes it."""
            with hosts[name].wire("eth0") as wire:
                hosts["alice"].ping("192.0.2.1", wait=0.5)
                return any(frame[30:34] == bytes([192, 0, 2, 1]) for frame in wire.frames(0.1))

        assert reached("carol")
        lab.configure(red("xdp", static={"192.0.2.0/24": {"via": "10.0.2.2"}}))
        lab.vr("apply")
        assert reached("dave")
        assert not reached("carol")
        # The route goes: an answer instead of silence, which only the slow path gives.
        lab.configure(red("xdp"))
        lab.vr("apply")
        done = hosts["alice"].run("ping", "-n", "-c", "1", "-W", "1", "192.0.2.1", check=False)
        assert "Destination Net Unreachable" in done.stdout

        # The neighbor gets another MAC, and says so; the router asks the one that it knows first.
        hosts["carol"].ip("link", "set", "eth0", "address", "02:00:00:00:99:02")
        hosts["carol"].ping("10.0.1.1", wait=0.1)
        wait_until(lambda: hosts["alice"].ping("10.0.1.2", wait=0.5), "carol is found again", 20)

        # Its link goes down and comes back.
        hosts["carol"].ip("link", "set", "eth0", "down")
        wait_until(lambda: lab.interface("red", "out")["state"] == "down", "the link is down")
        assert not hosts["alice"].ping("10.0.1.2", wait=0.3)
        assert "down" in told(lab, "out")
        hosts["carol"].ip("link", "set", "eth0", "up")
        hosts["carol"].ip("route", "replace", "default", "via", "10.0.1.1")  # her kernel has forgotten it
        wait_until(lambda: hosts["alice"].ping("10.0.1.2", wait=0.5), "carol is back", 20)
        check_laws(lab, "red")


def test_a_device_that_takes_no_frames_is_no_way_out() -> None:
    """A veth takes redirected frames only while its peer polls."""
    with world("xdp", gro=False) as (lab, hosts):
        wait_offloaded(lab)
        before = at_driver(lab, "red", "in")
        assert hosts["alice"].ping("10.0.1.2", count=5)
        assert at_driver(lab, "red", "in") == before
        for host in hosts.values():
            host.run("ethtool", "-K", "eth0", "gro", "on")

        def offloads() -> bool:
            count = at_driver(lab, "red", "in")
            return hosts["alice"].ping("10.0.1.2", count=3) and at_driver(lab, "red", "in") > count

        wait_until(offloads, "GRO at the peers makes it work")
        check_laws(lab, "red")


def test_who_looks_sees_all_packets(tmp_path: Path) -> None:
    with world("xdp") as (lab, hosts):
        wait_offloaded(lab)
        words = program(VR, "--run-dir", str(lab.run_dir), "capture", "red", "in", "-w", str(tmp_path / "all.pcap"))
        capture = lab.helper(words, stdout=subprocess.DEVNULL)
        wait_until(lambda: "captures" in told(lab), "the offload waits")
        before = at_driver(lab, "red", "in")
        assert hosts["alice"].ping("10.0.1.2", count=5)
        assert at_driver(lab, "red", "in") == before
        capture.send_signal(signal.SIGINT)
        capture.wait(10)
        wait_offloaded(lab)
        assert hosts["alice"].ping("10.0.1.2", count=5)
        assert at_driver(lab, "red", "in") >= before + 4
        check_laws(lab, "red")


@BOTH
def test_restarts_and_devices_that_come_again(kind: str) -> None:
    with world(kind) as (lab, hosts):

        def offloads_again() -> None:
            wait_until(lambda: hosts["alice"].ping("10.0.1.2", wait=0.5), "carol answers", 20)
            wait_offloaded(lab)
            before = at_driver(lab, "red", "in")
            assert hosts["alice"].ping("10.0.1.2", count=5)
            assert at_driver(lab, "red", "in") >= before + 4
            check_laws(lab, "red")

        offloads_again()
        lab.vr("router", "restart", "red")
        lab.wait_state("red", "up")
        offloads_again()
        for pid in lab.router("red")["pids"].values():
            os.kill(pid, signal.SIGKILL)
        assert hosts["alice"].ping("10.0.1.2", count=3)
        lab.wait_state("red", "up")
        offloads_again()
        hosts["carol"].ip("link", "del", "eth0")
        wait_until(lambda: lab.interface("red", "out")["state"] == "down", "the device is gone")
        carol = hosts["carol"]
        carol.ip("link", "add", "eth0", "type", "veth", "peer", "name", "out", "netns", lab.box.name)
        carol.run("ethtool", "-K", "eth0", "gro", "on")
        carol.ip("link", "set", "eth0", "up")
        carol.address("eth0", "10.0.1.2/24")
        hosts["carol"].ip("route", "replace", "default", "via", "10.0.1.1")
        offloads_again()
        lab.stop()
        for device in ("in", "out"):
            assert "xdp" not in lab.box.ip("link", "show", device).stdout, "a device comes back as it was"


def unfinished(frame: bytes) -> bool:
    """Tell of a TCP frame whether a device was to fill in its checksum, or it is right."""
    four = frame[14] >> 4 == 4
    at, addresses = (34, frame[26:34]) if four else (54, frame[22:54])
    if four:
        assert packets.checksum(frame[14:34]) == 0, frame[:60].hex()
    length = len(frame) - at
    pseudo = addresses + struct.pack(">II", length, IPPROTO_TCP)
    found = int.from_bytes(frame[at + 16 : at + 18], "big")
    return found == 0xFFFF ^ packets.checksum(pseudo) or packets.checksum(pseudo + frame[at:]) == 0


def test_super_frames_pass_whole() -> None:
    """And uncut: the receiving host sees frames that no MTU would let through, each with a good header."""
    with world("tc", gro=False) as (lab, hosts):
        wait_offloaded(lab)
        for address in ("10.0.1.2", "2001:db8:1::2"):
            before, taken = at_driver(lab, "red", "in"), int(counters(lab, "red")["in"]["rx_packets"])
            with hosts["carol"].wire("eth0") as wire:
                transfer(hosts["alice"], hosts["carol"], address, 4 << 20)
                ours = bytes.fromhex(mac_of(lab, "out").replace(":", ""))
                came = [frame for frame in wire.frames(0.2) if frame[6:12] == ours and frame[12] in {0x08, 0x86}]
                came = [frame for frame in came if frame[23 if frame[12] == 8 else 20] == IPPROTO_TCP]
            assert max(map(len, came)) > 20000
            assert all(map(unfinished, came))
            forwarded = at_driver(lab, "red", "in") - before
            assert forwarded >= int(counters(lab, "red")["in"]["rx_packets"]) - taken - 5, "few take the ring"
        check_laws(lab, "red")


def test_a_device_that_cannot_is_refused_alone() -> None:
    """One that joins packets for receivers only: each has a TTL of its own; or one whose hook somebody has taken."""
    with world("tc", gro=False) as (lab, hosts):
        inside = ("nsenter", "-t", str(lab.router("red")["pids"]["forwarder"]), "-n")

        def begin_anew() -> None:
            lab.configure(red("none"))
            lab.vr("apply")
            wait_until(lambda: not told(lab), "it is off")
            lab.configure(red("tc"))
            lab.vr("apply")

        run(*inside, "ethtool", "-K", "in", "rx-gro-list", "on")
        begin_anew()
        wait_until(lambda: "rx-gro-list off" in told(lab), "it says why not")
        wait_offloaded(lab, "out", "other")
        run(*inside, "ethtool", "-K", "in", "rx-gro-list", "off")
        wait_offloaded(lab, "in")
        run(*inside, "ethtool", "-K", "in", "rx-gro-list", "on")
        wait_until(lambda: "rx-gro-list off" in told(lab), "it follows")
        assert hosts["alice"].ping("10.0.1.2", count=3)
        run(*inside, "ethtool", "-K", "in", "rx-gro-list", "off")
        run(*inside, "tc", "qdisc", "del", "dev", "in", "clsact")
        begin_anew()
        wait_offloaded(lab, "out", "other")
        assert told(lab) not in {"", "on"}


def test_in_front_of_af_xdp_sockets() -> None:
    """What the program leaves goes to the socket of the queue, with the offload and after it."""
    with world("xdp", {"dataplane": {"driver": "af-xdp"}}) as (lab, hosts):
        wait_offloaded(lab)
        assert lab.interface("red", "in")["driver"] == "af_xdp"
        before = at_driver(lab, "red", "in")
        assert hosts["alice"].ping("10.0.1.2", count=5)
        assert at_driver(lab, "red", "in") >= before + 4
        assert hosts["alice"].ping("10.0.0.1")
        lab.configure(red("none", dataplane={"driver": "af-xdp"}))
        lab.vr("apply")
        wait_until(lambda: not told(lab), "it is off")
        before = at_driver(lab, "red", "in")
        assert hosts["alice"].ping("10.0.1.2", count=5)
        assert at_driver(lab, "red", "in") == before
        check_laws(lab, "red")


def test_bulk_with_checksums_left_to_devices() -> None:
    """The hosts' kernels leave checksums to their veths; XDP would lose that, so such packets go another way."""
    with world("xdp") as (lab, hosts):
        wait_offloaded(lab)
        for address in ("10.0.1.2", "2001:db8:1::2"):
            transfer(hosts["alice"], hosts["carol"], address, 4 << 20)
        check_laws(lab, "red")
