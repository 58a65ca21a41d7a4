"""ARP and neighbor discovery against kernel hosts and raw frames: asking, waiting, failing, learning, conflicts."""

from __future__ import annotations

import os
import signal
import socket
import struct
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pytest
from hosts import Trace, check_laws, counters, drops, ping
from lab import Lab, Namespace, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root

CONFIG: Final = {
    "red": {
        "interfaces": {
            "in": {"device": "in", "addresses": ["10.0.0.1/24", "2001:db8:a::1/64"]},
            "out": {"device": "out", "addresses": ["10.0.1.1/24", "2001:db8:b::1/64"]},
        }
    }
}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as made:
        ends = (("alice", "in", "10.0.0", "2001:db8:a"), ("bob", "out", "10.0.1", "2001:db8:b"))
        for name, device, net, net6 in ends:
            host = made.host(name, device, f"{net}.2/24", gateway=f"{net}.1")
            host.address("eth0", f"{net6}::2/64")
            host.ip("route", "add", "default", "via", f"{net6}::1")
        made.configure(CONFIG)
        made.start()
        alice = made.namespaces["alice"]
        for address in ("10.0.1.2", "2001:db8:b::2"):
            wait_until(partial(alice.ping, address, wait=0.2), "the path is there")
        yield made


@pytest.fixture
def alice(lab: Lab) -> Namespace:
    return lab.namespaces["alice"]


@pytest.fixture
def bob(lab: Lab) -> Namespace:
    return lab.namespaces["bob"]


@pytest.fixture(autouse=True)
def laws(lab: Lab) -> Iterator[None]:
    """Both counter laws hold after each test."""
    yield
    check_laws(lab, "red")


def neighbor(lab: Lab, address: str) -> dict[str, Any] | None:
    """Give what the router knows of a neighbor."""
    return next((entry for entry in lab.vr("show", "neighbors", "red") if entry["address"] == address), None)


def arp(operation: int, mac: bytes, sender: str, target: str, target_mac: bytes = bytes(6)) -> bytes:
    """Make an ARP message in a broadcast frame."""
    body = struct.pack(">HHBBH", 1, 0x0800, 6, 4, operation) + mac + socket.inet_aton(sender)
    return (b"\xff" * 6 + mac + b"\x08\x06" + body + target_mac + socket.inet_aton(target)).ljust(60, b"\0")


def is_arp_request(frame: bytes, target: str) -> bool:
    """Tell an ARP request for an address."""
    return frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\x01" and frame[38:42] == socket.inet_aton(target)


def test_packets_wait_for_a_neighbor_and_then_go_in_order(lab: Lab, alice: Namespace, bob: Namespace) -> None:
    """A host that answers late: what waits is held, at most so many, and none is lost without a name."""
    late, mac = "10.0.1.50", bytes.fromhex("020000000050")
    own = bytes.fromhex(lab.interface("red", "out")["mac"].replace(":", ""))
    with bob.wire("eth0") as wire, alice.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for number in range(3):
            sender.sendto(b"number %d" % number, (late, 7))
        wire.expect(lambda frame: is_arp_request(frame, late), what="an ARP request")
        # The router gives up after three seconds: no other program is started meanwhile.
        wait_until(lambda: counters(lab, "red")["in"]["held_packets"] == 3, "packets are held")
        check_laws(lab, "red")
        wire.send(arp(2, mac, late, "10.0.1.1", own))
        awaited = iter((b"number 0", b"number 1", b"number 2"))
        wanted = next(awaited)
        for frame in wire.frames(20):
            if frame[:6] == mac:
                assert frame[42:50] == wanted
                if (wanted := next(awaited, b"")) == b"":
                    break
        assert wanted == b"", "all have come"
    assert lab.interface("red", "in")["counters"]["held_packets"] == 0
    entry = neighbor(lab, late)
    assert entry
    assert (entry["mac"], entry["state"]) == (mac.hex(":"), "reachable")


@pytest.mark.parametrize("absent", ["10.0.1.77", "2001:db8:b::77"])
def test_nobody_answers(lab: Lab, alice: Namespace, absent: str) -> None:
    """Three requests, then an error for the sender and a named drop."""
    before = drops(lab, "red").get("neighbor_unresolved", 0)
    done = alice.run("ping", "-n", "-c", "1", "-W", "20", absent, check=False)
    assert "Unreachable" in done.stdout or "unreachable" in done.stdout
    assert drops(lab, "red")["neighbor_unresolved"] == before + 1
    entry = neighbor(lab, absent)
    assert entry
    assert entry["state"] == "failed"


def test_trace_names_what_nobody_answered_to(lab: Lab, alice: Namespace) -> None:
    trace = Trace(lab, "red", "--drops")
    life = trace.expect(
        lambda: ping(alice, "-c", "1", "-W", "0.01", "10.0.1.88"), lambda life: life["drop"] == "neighbor_unresolved"
    )
    assert life["interface"] == "in"


def move(lab: Lab, host: Namespace, mac: str) -> None:
    """Give a host another MAC, and let it announce that."""
    host.ip("link", "set", "eth0", "address", mac)
    with host.wire("eth0") as wire:
        wire.send(arp(1, bytes.fromhex(mac.replace(":", "")), "10.0.1.2", "10.0.1.2"))
    alice = lab.namespaces["alice"]
    wait_until(lambda: alice.ping("10.0.1.2", wait=0.2), "traffic follows the announcement")


def test_a_gratuitous_arp_moves_a_neighbor(lab: Lab, alice: Namespace, bob: Namespace) -> None:
    """The one that we knew is asked first; it does not answer any more, so the new one is believed."""
    assert alice.ping("10.0.1.2")
    old, new = bob.run("cat", "/sys/class/net/eth0/address").stdout.strip(), "02:00:00:00:0b:0b"
    try:
        move(lab, bob, new)
        entry = neighbor(lab, "10.0.1.2")
        assert entry
        assert entry["mac"] == new
    finally:
        move(lab, bob, old)
    wait_until(lambda: alice.ping("2001:db8:b::2", wait=0.2), "so is the path of the other family")


def test_an_announcement_does_not_move_a_neighbor_that_answers(lab: Lab, alice: Namespace, bob: Namespace) -> None:
    """A liar on the link gains nothing."""
    assert alice.ping("10.0.1.2")
    with bob.wire("eth0") as wire:
        wire.send(*[arp(2, bytes.fromhex("020000000bad"), "10.0.1.2", "10.0.1.2")] * 3)
    assert alice.ping("10.0.1.2", count=10)
    entry = neighbor(lab, "10.0.1.2")
    assert entry
    assert entry["mac"] == bob.run("cat", "/sys/class/net/eth0/address").stdout.strip()


def test_neighbors_survive_the_forwarder(lab: Lab, alice: Namespace, bob: Namespace) -> None:
    """A successor knows them and asks nobody before it sends."""
    assert alice.ping("10.0.1.2")
    known = neighbor(lab, "10.0.1.2")
    with bob.wire("eth0") as wire:
        old = lab.router("red")["pids"]["forwarder"]
        os.kill(old, signal.SIGKILL)
        wait_until(lambda: lab.router("red")["pids"]["forwarder"] not in (old, None, 0), "another forwarder")
        assert alice.ping("10.0.1.2")
        before_it = []
        for frame in wire.frames(1):
            if frame[12:14] == b"\x08\x00":
                break
            before_it.append(frame)
    asked = [frame for frame in before_it if is_arp_request(frame, "10.0.1.2") and frame[:6] == b"\xff" * 6]
    assert not asked, "it asked although it knew"
    entry = neighbor(lab, "10.0.1.2")
    assert known
    assert entry
    assert entry["mac"] == known["mac"]


def test_an_ip6_address_that_somebody_has_is_not_used(lab: Lab, alice: Namespace, bob: Namespace) -> None:
    """RFC 4862: a host on the link has the address that we are given: we see it, and keep quiet."""
    address = "2001:db8:b::9"
    bob.address("eth0", f"{address}/64")
    interfaces = {name: dict(value) for name, value in CONFIG["red"]["interfaces"].items()}
    interfaces["out"]["addresses"] = [*interfaces["out"]["addresses"], f"{address}/64"]
    lab.configure({"red": {"interfaces": interfaces}})
    try:
        lab.vr("apply")
        end = time.monotonic() + 3  # longer than the check takes
        while time.monotonic() < end:
            assert not alice.ping(address, wait=0.2)
        assert drops(lab, "red")["duplicate_address"] > 0
    finally:
        bob.ip("address", "del", f"{address}/64", "dev", "eth0")
        lab.configure(CONFIG)
        lab.vr("apply")


def test_an_ip4_address_is_defended(lab: Lab, alice: Namespace, bob: Namespace) -> None:
    """RFC 5227 section 2.4: somebody else claims the router's address; the router says whose it is."""
    stranger = bytes.fromhex("020000000066")
    own = bytes.fromhex(lab.interface("red", "out")["mac"].replace(":", ""))
    with bob.wire("eth0") as wire:
        wire.send(arp(1, stranger, "10.0.1.1", "10.0.1.1"))
        said = wire.expect(lambda frame: is_arp_request(frame, "10.0.1.1") and frame[6:12] == own, what="a defence")
    assert said[28:32] == socket.inet_aton("10.0.1.1")
    assert drops(lab, "red")["arp_spoofed"] >= 1
    bob.ip("neighbor", "flush", "dev", "eth0")
    assert alice.ping("10.0.1.2", count=3)
