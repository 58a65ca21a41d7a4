"""Interfaces: VLANs of one VR and of several, equal-cost paths, next hops of all kinds, links that come and go."""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from frames import IPV4, ip4
from hosts import MIB, answered, check_laws, counters, drops, ping, transfer
from lab import Lab, Wire, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.quiet, pytest.mark.root]

STRANGER: Final = bytes.fromhex("02000000aaaa")  # the MAC that frames of ours come from
WITHDRAWN: Final = 0.3  # seconds, with the time that looking takes
BACK: Final = 0.5


def tagged(frame: bytes, *tags: int) -> bytes:
    """Put 802.1Q tags into a frame."""
    return frame[:12] + b"".join(struct.pack(">HH", 0x8100, tag) for tag in tags) + frame[12:]


def datagram(router: bytes, source: str, destination: str, port: int = 1000) -> bytes:
    """Make an Ethernet frame with an empty UDP datagram from a port, without checksum over IPv4."""
    body = struct.pack(">HHHH", port, 2000, 8, 0)
    first, second = (int.from_bytes(socket.inet_aton(text)) for text in (source, destination))
    return router + STRANGER + struct.pack(">H", IPV4) + ip4(first, second, body)


def arp_answer(frame: bytes, mac: bytes) -> bytes:
    """Answer an ARP request, tagged or not, whoever it is for."""
    at = 18 if frame[12:14] == b"\x81\x00" else 14
    body = frame[at : at + 28]
    head = frame[6:12] + mac + frame[12:at]
    return head + body[:6] + b"\0\x02" + mac + body[24:28] + body[8:14] + body[14:18]


class Answering:
    """A host made of raw frames, which has every address it is asked for, on every VLAN."""

    def __init__(self, wire: Wire) -> None:
        """Answer with one MAC."""
        self.wire = wire
        self.mac = bytes.fromhex("0200000000ee")

    def collect(self, seconds: float, *, until: int = 1 << 30) -> list[bytes]:
        """Give the frames that came and are no ARP, until there are enough."""
        found = []
        for frame in self.wire.frames(seconds):
            at = 16 if frame[12:14] == b"\x81\x00" else 12
            if frame[at : at + 2] == b"\x08\x06" and frame[at + 8 : at + 10] == b"\0\x01":
                self.wire.send(arp_answer(frame, self.mac))
            elif frame[:6] == self.mac:
                found.append(frame)
                if len(found) == until:
                    break
        return found


# VLANs


@pytest.fixture(scope="module")
def vlans() -> Iterator[Lab]:
    """red has three interfaces on one device; green and blue share another device by VLAN."""
    with Lab() as made:
        for name in ("trunk", "nic"):
            made.veth(name, None, made.namespace(f"far-{name}"), "eth0")
        made.veth("left", None, made.box, "right")
        made.configure(
            {
                "red": {
                    "interfaces": {
                        "plain": {"device": "trunk", "addresses": ["10.0.0.1/24"]},
                        "ten": {"device": "trunk", "vlan": 10, "addresses": ["10.0.10.1/24"]},
                        "twenty": {"device": "trunk", "vlan": 20, "addresses": ["10.0.20.1/24"]},
                        "v5": {"device": "left", "vlan": 5, "addresses": ["10.5.0.1/24", "2001:db8:5::1/64"]},
                        "v6": {"device": "left", "vlan": 6, "addresses": ["10.6.0.1/24"]},
                    }
                },
                "white": {
                    "interfaces": {
                        "v5": {"device": "right", "vlan": 5, "addresses": ["10.5.0.2/24", "2001:db8:5::2/64"]},
                        "v6": {"device": "right", "vlan": 6, "addresses": ["10.6.0.2/24"]},
                    }
                },
                "green": {"interfaces": {"lan": {"device": "nic", "vlan": 100, "addresses": ["10.0.0.1/24"]}}},
                "blue": {"interfaces": {"lan": {"device": "nic", "vlan": 200, "addresses": ["10.0.0.1/24"]}}},
            }
        )
        made.start()
        yield made
        check_laws(made, "red", "white", "green", "blue")


def test_frames_are_routed_between_vlans_of_one_device(vlans: Lab) -> None:
    mac = bytes.fromhex(vlans.interface("red", "ten")["mac"].replace(":", ""))
    with vlans.namespaces["far-trunk"].wire("eth0") as wire:
        host = Answering(wire)
        paths = [
            (datagram(mac, "10.0.10.9", "10.0.20.9"), 10, 20),
            (datagram(mac, "10.0.20.9", "10.0.10.9"), 20, 10),
            (datagram(mac, "10.0.0.9", "10.0.10.9"), 0, 10),
            (datagram(mac, "10.0.10.9", "10.0.0.9"), 10, 0),
        ]
        for frame, tag, out in paths:
            wire.send(tagged(frame, tag) if tag else frame)
            (came,) = host.collect(2, until=1)
            expected = struct.pack(">HH", 0x8100, out) if out else struct.pack(">H", IPV4)
            assert came[12 : 12 + len(expected)] == expected
        # A priority tag is no VLAN.
        wire.send(tagged(datagram(mac, "10.0.0.9", "10.0.20.9"), 0x6000))
        (came,) = host.collect(2, until=1)
        assert came[12:16] == struct.pack(">HH", 0x8100, 20)


def test_frames_of_other_vlans_are_dropped(vlans: Lab) -> None:
    mac = bytes.fromhex(vlans.interface("red", "ten")["mac"].replace(":", ""))
    before = drops(vlans, "red")
    with vlans.namespaces["far-trunk"].wire("eth0") as wire:
        host = Answering(wire)
        wire.send(tagged(datagram(mac, "10.0.10.9", "10.0.20.9"), 30))
        wire.send(tagged(datagram(mac, "10.0.10.9", "10.0.20.9"), 10, 20))  # a double tag is no IP packet
        assert host.collect(0.3) == []
    after = drops(vlans, "red")
    assert after["unknown_vlan"] == before.get("unknown_vlan", 0) + 1
    assert after["unknown_ethertype"] == before.get("unknown_ethertype", 0) + 1


@pytest.mark.parametrize("address", ["10.5.0.2", "10.6.0.2", "2001:db8:5::2"])
def test_two_routers_speak_over_tagged_interfaces(vlans: Lab, address: str) -> None:
    def all_answered() -> bool:
        result = vlans.vr_run("ping", "red", address, "-c", "3", "-i", "0.02", "-W", "1")
        return bool(json.loads(result.stdout)["received"] == 3)

    wait_until(all_answered, "all are answered, once duplicate address detection is over", 5)


def test_a_shared_card_keeps_its_routers_apart(vlans: Lab) -> None:
    macs = {name: bytes.fromhex(vlans.interface(name, "lan")["mac"].replace(":", "")) for name in ("green", "blue")}
    far = vlans.namespaces["far-nic"]
    with far.wire("eth0") as wire:
        before = {name: counters(vlans, name)["lan"]["rx_packets"] for name in macs}
        for _ in range(50):
            wire.send(tagged(datagram(macs["green"], "10.0.0.9", "10.0.0.1"), 100))
        wire.send(tagged(datagram(macs["green"], "10.0.0.9", "10.0.0.1"), 100, 200))
        wire.send(tagged(datagram(macs["green"], "10.0.0.9", "10.0.0.1"), 300))
        wire.send(datagram(macs["green"], "10.0.0.9", "10.0.0.1"))
        wire.send(tagged(datagram(macs["green"], "10.0.0.9", "10.0.0.1"), 0x6000))
        wait_until(lambda: counters(vlans, "green")["lan"]["rx_packets"] >= before["green"] + 51, "they came")
    after = {name: counters(vlans, name)["lan"] for name in macs}
    assert after["blue"]["rx_packets"] == before["blue"], "blue saw frames of green"
    # The double tag belongs to green's VLAN, and its inner tag gets it nowhere.
    assert after["green"]["drops"]["unknown_vlan"] == 1
    question = b"\xff" * 6 + STRANGER + struct.pack(">HHHBBH", 0x0806, 1, 0x0800, 6, 4, 1)
    question += STRANGER + socket.inet_aton("10.0.0.9") + bytes(6) + socket.inet_aton("10.0.0.1")
    with far.wire("eth0") as wire:
        wire.send(tagged(question, 200))
        answer = wire.expect(
            lambda frame: frame[16:18] == b"\x08\x06" and frame[6:12] == macs["blue"], what="blue's answer"
        )
    assert struct.unpack(">H", answer[14:16])[0] & 0xFFF == 200


# Next hops


@pytest.fixture(scope="module")
def paths() -> Iterator[Lab]:
    """red between a source and three ways out."""
    with Lab() as made:
        made.host("source", "in", "10.0.0.2/24", gateway="10.0.0.1")
        for number in (1, 2, 3):
            made.veth(f"out{number}", None, made.namespace(f"sink{number}"), "eth0", far_address=f"10.1.{number}.2/24")
            made.namespaces[f"sink{number}"].ip("route", "add", "default", "via", f"10.1.{number}.1")
        shown = json.loads(made.namespaces["sink1"].ip("-j", "-6", "address", "show", "dev", "eth0").stdout)
        link_local = shown[0]["addr_info"][0]["local"]
        made.namespaces["sink1"].address("lo", "203.0.113.9/32")
        made.namespaces["sink1"].address("lo", "2001:db8:99::9/128")
        made.namespaces["sink1"].ip("-6", "route", "add", "default", "via", "fe80::1", "dev", "eth0")
        made.namespaces["source"].address("eth0", "2001:db8:a::2/64")
        made.namespaces["source"].ip("-6", "route", "add", "default", "via", "2001:db8:a::1")
        interfaces: dict[str, Any] = {"in": {"device": "in", "addresses": ["10.0.0.1/24", "2001:db8:a::1/64"]}}
        for number in (1, 2, 3):
            interfaces[f"out{number}"] = {"device": f"out{number}", "addresses": [f"10.1.{number}.1/24"]}
        interfaces["out1"]["addresses"] += ["fe80::1/64"]
        made.configure(
            {
                "red": {
                    "interfaces": interfaces,
                    "static": {
                        "198.51.100.0/24": [{"via": f"10.1.{number}.2", "weight": number} for number in (1, 2, 3)],
                        "203.0.113.0/24": {"interface": "out1"},
                        "2001:db8:99::/64": {"via": link_local, "interface": "out1"},
                        "192.0.2.0/24": {"discard": True},
                    },
                }
            }
        )
        made.start()
        source = made.namespaces["source"]
        for number in (1, 2, 3):
            wait_until(partial(source.ping, f"10.1.{number}.2", wait=0.2), "the path is there")
        yield made
        check_laws(made, "red")


FLOWS: Final = 3000


def spread(lab: Lab, *sinks: int) -> dict[int, set[int]]:
    """Send a packet of each of many flows; give the flows that each sink saw."""
    mac = bytes.fromhex(lab.interface("red", "in")["mac"].replace(":", ""))
    wires = {number: lab.namespaces[f"sink{number}"].wire("eth0") for number in sinks}
    try:
        with lab.namespaces["source"].wire("eth0") as wire:
            for flow in range(FLOWS):
                wire.send(datagram(mac, "10.0.0.2", f"198.51.100.{flow % 250}", 1024 + flow))
        seen: dict[int, set[int]] = {number: set() for number in wires}
        for number, wire in wires.items():
            for frame in wire.frames(0.3):
                if frame[12:14] == b"\x08\x00" and frame[23] == 17 and frame[30:33] == bytes((198, 51, 100)):
                    seen[number].add(struct.unpack(">H", frame[34:36])[0] - 1024)
        return seen
    finally:
        for wire in wires.values():
            wire.__exit__()


def test_flows_are_shared_by_weight_and_stay_on_their_paths(paths: Lab) -> None:
    first = spread(paths, 1, 2, 3)
    assert sum(map(len, first.values())) == FLOWS
    for number, flows in first.items():
        assert abs(len(flows) / FLOWS - number / 6) < 0.04, {n: len(f) for n, f in first.items()}
    assert spread(paths, 1, 2, 3) == first


def test_a_member_that_is_down_leaves_the_group(paths: Lab) -> None:
    before = spread(paths, 1, 2, 3)
    sink = paths.namespaces["sink3"]
    sink.ip("link", "set", "eth0", "down")
    try:
        wait_until(lambda: len(hops(paths, "198.51.100.0/24")) == 2, "its hop is withdrawn", WITHDRAWN + 1)
        assert "10.1.3.0/24" not in {route["prefix"] for route in paths.vr("show", "fib", "red")}
        during = spread(paths, 1, 2)
        assert sum(map(len, during.values())) == FLOWS
    finally:
        sink.ip("link", "set", "eth0", "up")
        sink.ip("route", "replace", "default", "via", "10.1.3.1")
    wait_until(lambda: len(hops(paths, "198.51.100.0/24")) == 3, "its hop is back", BACK + 1)
    source = paths.namespaces["source"]
    wait_until(lambda: source.ping("10.1.3.2", wait=0.2), "the path is back")
    assert spread(paths, 1, 2, 3) == before


def hops(lab: Lab, prefix: str) -> list[dict[str, Any]]:
    """Give the next hops of a FIB entry."""
    return next((route["nexthops"] for route in lab.vr("show", "fib", "red") if route["prefix"] == prefix), [])


def test_a_route_by_interface_alone_asks_on_the_link(paths: Lab) -> None:
    assert paths.namespaces["source"].ping("203.0.113.9", count=2)


def test_a_link_local_next_hop(paths: Lab) -> None:
    assert paths.namespaces["source"].ping("2001:db8:99::9", count=2)


def test_a_blackhole_is_silent(paths: Lab) -> None:
    before = drops(paths, "red").get("blackhole", 0)
    text = paths.namespaces["source"].run("ping", "-c", "3", "-i", "0.05", "-W", "0.2", "192.0.2.1", check=False).stdout
    assert "nreachable" not in text
    assert drops(paths, "red")["blackhole"] == before + 3


# Links that come and go


@pytest.fixture
def line() -> Iterator[Lab]:
    """A source and a sink with red between them."""
    with Lab() as made:
        made.host("source", "in", "10.0.0.2/24", gateway="10.0.0.1")
        made.host("sink", "out", "10.0.1.2/24", gateway="10.0.1.1")
        made.configure(
            {
                "red": {
                    "interfaces": {
                        "in": {"device": "in", "addresses": ["10.0.0.1/24"]},
                        "out": {"device": "out", "addresses": ["10.0.1.1/24"]},
                    }
                }
            }
        )
        made.start()
        wait_until(lambda: passes(made), "the path is there")
        pids = made.router("red")["pids"]
        yield made
        assert made.router("red")["pids"] == pids, "a process was restarted"
        check_laws(made, "red")


def passes(lab: Lab) -> bool:
    """Tell whether packets pass."""
    return lab.namespaces["source"].ping("10.0.1.2", wait=0.1)


def timed(condition: Callable[[], bool], what: str) -> float:
    """Wait for a condition; give the seconds."""
    begin = time.monotonic()
    wait_until(condition, what, 10, interval=0.002)
    return time.monotonic() - begin


def link_of(lab: Lab, interface: str) -> bool:
    """Tell whether the daemon sees a link; it writes that to a file at once."""
    (router,) = json.loads((lab.run_dir / "routers.json").read_text())
    return bool(router["interfaces"][interface]["link"])


def test_the_carrier_goes_and_comes(line: Lab) -> None:
    sink = line.namespaces["sink"]
    for _ in range(3):
        sink.ip("link", "set", "eth0", "down")
        assert timed(lambda: not link_of(line, "out"), "the link is down") < WITHDRAWN
        wait_until(lambda: line.vr_run("show", "route", "red", "10.0.1.2").returncode == 1, "the route is withdrawn", 2)
        assert not passes(line)
        sink.ip("link", "set", "eth0", "up")
        sink.ip("route", "replace", "default", "via", "10.0.1.1")
        assert timed(lambda: passes(line), "packets pass") < BACK


def test_the_device_is_deleted_and_made_again(line: Lab) -> None:
    for _ in range(3):
        line.namespaces["sink"].ip("link", "del", "eth0")
        assert timed(lambda: not link_of(line, "out"), "the link is gone") < WITHDRAWN
        line.veth("out", None, line.namespaces["sink"], "eth0", far_address="10.0.1.2/24")
        line.namespaces["sink"].ip("route", "replace", "default", "via", "10.0.1.1")
        back = timed(lambda: passes(line), "packets pass")
        print(f"\nback after {back * 1000:.0f} ms")
        assert back < BACK


def test_the_device_is_renamed(line: Lab) -> None:
    netns = line.router("red")["netns"]
    for old, new in (("out", "other"), ("other", "out")):
        line.box.run("ip", "-n", netns, "link", "set", old, "name", new)
        for _ in range(3):
            assert passes(line)


def test_the_mtu_changes(line: Lab) -> None:
    netns = line.router("red")["netns"]
    source = line.namespaces["source"]

    def asked(size: int) -> str:
        source.ip("route", "flush", "cache")
        return ping(source, "-c", "1", "-W", "0.2", "-M", "do", "-s", str(size), "10.0.1.2")

    line.box.run("ip", "-n", netns, "link", "set", "out", "mtu", "1000")
    assert timed(lambda: "mtu = 1000" in asked(1200), "the smaller MTU holds") < BACK
    line.box.run("ip", "-n", netns, "link", "set", "out", "mtu", "1500")
    assert timed(lambda: answered(asked(1400), 1), "the larger MTU holds") < BACK
    transfer(source, line.namespaces["sink"], "10.0.1.2", 50 * MIB)


def test_the_device_moves_away_and_back(line: Lab) -> None:
    netns = line.router("red")["netns"]
    away = line.namespace("away")
    line.box.run("ip", "-n", netns, "link", "set", "out", "netns", away.name)
    assert timed(lambda: not link_of(line, "out"), "the link is gone") < WITHDRAWN
    away.ip("link", "set", "out", "netns", line.box.name)  # where it was before
    assert timed(lambda: passes(line), "packets pass") < BACK


def test_flaps_leave_nothing_behind(line: Lab) -> None:
    """20 changes a second for three seconds; file descriptors and processes stay what they were."""
    (router,) = json.loads((line.run_dir / "routers.json").read_text())
    assert line.daemon is not None
    pids = [line.daemon.pid, *router["pids"].values()]
    before = [len(os.listdir(f"/proc/{pid}/fd")) for pid in pids]
    sink = line.namespaces["sink"]
    cpu = sum(_cpu(pid) for pid in pids)
    begin = time.monotonic()
    for number in range(60):
        sink.ip("link", "set", "eth0", "down" if number % 2 == 0 else "up")
        time.sleep(max(0.0, begin + (number + 1) / 20 - time.monotonic()))
    used = (sum(_cpu(pid) for pid in pids) - cpu) / (time.monotonic() - begin)
    sink.ip("route", "replace", "default", "via", "10.0.1.1")
    assert timed(lambda: passes(line), "packets pass") < BACK
    wait_until(lambda: [len(os.listdir(f"/proc/{pid}/fd")) for pid in pids] == before, "no descriptor is left", 3)
    assert used < 0.5, f"{used:.0%} of a core"


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
