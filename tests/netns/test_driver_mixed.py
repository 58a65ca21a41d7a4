"""A router that mixes drivers: a TAP, a device and capture files; a TAP's life; files that are refused."""

from __future__ import annotations

import os
import signal
import struct
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pytest
from driver_matrix import NETS, Legs, TapLegs, dress
from hosts import MIB, answered, check_laws, counters_at_rest, ping, transfer
from lab import Lab, wait_until

from tests.unit import packets
from tests.unit.captures import frames as read_frames

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lab import Namespace

pytestmark = [pytest.mark.root]

ROUTER: Final = "02:00:00:00:00:99"
FRAMES: Final = 2000


def capture(path: Path, count: int) -> None:
    """Write a capture of numbered datagrams from 10.0.2.2 to the sink."""
    records = [struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)]
    for number in range(count):
        body = packets.datagram4("10.0.2.2", "10.0.1.2", struct.pack(">I", number))
        frame = packets.ethernet(
            bytes.fromhex(ROUTER.replace(":", "")), bytes.fromhex("020000000001"), packets.IP4, body
        )
        records.append(struct.pack("<IIII", 1, number, len(frame), len(frame)) + frame)
    path.write_bytes(b"".join(records))


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as made:
        for name in NETS:
            made.namespace(name)
        tap, veth = TapLegs(made, "tap"), Legs(made, "auto")
        veth.make("sink")
        made.mixed = mixed(tap, veth)  # type: ignore[attr-defined]
        made.configure({"red": {"interfaces": made.mixed}})  # type: ignore[attr-defined]
        made.start()
        for name in NETS:
            dress(made.namespaces[name], name)
        made.namespaces["sink"].ip("route", "replace", "10.0.2.0/24", "via", "10.0.1.1")
        wait_until(partial(made.namespaces["source"].ping, "10.0.1.2", wait=0.2), "the path is there")
        yield made


def mixed(tap: Legs, veth: Legs) -> dict[str, Any]:
    legs = {"source": tap, "sink": veth}
    return {
        name: legs[name].interface(name) | {"addresses": [f"{net}.1/24", f"{net6}::1/64"]}
        for name, (net, net6) in NETS.items()
    }


def tap_of(host: Namespace) -> int:
    """Give the number of the host's device; 0: it has none."""
    return next((link["ifindex"] for link in host.links() if link["ifname"] == "eth0"), 0)


def test_streams_between_a_tap_and_a_device(lab: Lab) -> None:
    source, sink = lab.namespaces["source"], lab.namespaces["sink"]
    # Of what passed between an interface that another test has taken away and the rest, only the rest still counts.
    lab.configure({"red": {"interfaces": lab.mixed}})  # type: ignore[attr-defined]
    lab.vr("apply")
    before = counters_at_rest(lab, "red")
    transfer(source, sink, "10.0.1.2", 16 * MIB)
    transfer(sink, source, "2001:db8:a::2", 16 * MIB)
    check_laws(lab, "red", since=before)


def test_a_file_is_played_into_the_network_and_another_gets_the_answers(lab: Lab) -> None:
    source, sink = lab.namespaces["source"], lab.namespaces["sink"]
    played, written = lab.directory / "in.pcap", lab.directory / "out.pcap"
    capture(played, FRAMES)
    files = {"pcap": {"in": str(played), "out": str(written)}, "mac": ROUTER, "addresses": ["10.0.2.1/24"]}
    with sink.socket(2, 2) as receiver:
        receiver.setsockopt(1, 33, 8 * MIB)
        receiver.bind(("10.0.1.2", 2000))
        receiver.settimeout(30)
        lab.configure({"red": {"interfaces": lab.mixed | {"file": files}}})  # type: ignore[attr-defined]
        lab.vr("apply")
        numbers = [struct.unpack(">I", receiver.recv(64))[0] for _ in range(FRAMES)]
    assert numbers == list(range(FRAMES))
    wait_until(lambda: lab.interface("red", "file")["state"] == "down", "the end of the file takes the link down")
    shown = lab.interface("red", "file")
    assert (shown["driver"], shown["problem"]) == ("pcap", "the input has ended")
    assert answered(ping(source, "-c", "3", "10.0.1.2"), 3)
    found = [frame for _link, frame in read_frames(written)]
    assert all(frame[6:12] == bytes.fromhex(ROUTER.replace(":", "")) for frame in found)
    assert any(frame[12:14] == b"\x08\x06" for frame in found)  # it said who it is
    assert written.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("kind", ["link", "directory link", "fifo", "foreign", "two names"])
def test_files_that_are_not_plainly_ours_are_refused(lab: Lab, kind: str) -> None:
    directory = lab.directory / kind.replace(" ", "-")
    directory.mkdir()
    path, victim = directory / "out.pcap", directory / "victim"
    victim.write_text("precious")
    if kind == "link":
        path.symlink_to(victim)
    elif kind == "directory link":
        (directory / "aside").symlink_to(directory)
        path = directory / "aside" / "victim"
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "foreign":
        path.write_text("precious")
        os.chown(path, 1234, 1234)
    else:
        path.hardlink_to(victim)
    lab.configure({"red": {"interfaces": lab.mixed | {"file": {"pcap": {"out": str(path)}}}}})  # type: ignore[attr-defined]
    lab.vr("apply")
    # What it says of an earlier file goes first.
    wait_until(lambda: str(path) in lab.interface("red", "file").get("problem", ""), "it is refused")
    assert victim.read_text() == "precious"


def test_a_tap_goes_with_its_interface_and_not_before(lab: Lab) -> None:
    source = lab.namespaces["source"]

    before = tap_of(source)
    # Manager and forwarder are killed one after the other: one of them always holds the device.
    lab.kill()
    lab.start()
    os.kill(lab.router("red")["pids"]["forwarder"], signal.SIGKILL)
    lab.wait_state("red", "up")
    assert tap_of(source) == before
    wait_until(partial(source.ping, "10.0.1.2", wait=0.2), "the path is there again")
    lab.configure({"red": {"interfaces": {"sink": lab.mixed["sink"]}}})  # type: ignore[attr-defined]
    lab.vr("apply")
    wait_until(lambda: tap_of(source) == 0, "the device has gone")
    lab.configure({"red": {"interfaces": lab.mixed}})  # type: ignore[attr-defined]
    lab.vr("apply")
    dress(source, "source")
    wait_until(partial(source.ping, "10.0.1.2", wait=0.2), "the path is there again")


def test_vlans_on_a_tap_are_interfaces(lab: Lab) -> None:
    """They come and go, and the device stays as the host has set it up."""
    source = lab.namespaces["source"]
    tap = {key: value for key, value in lab.mixed["source"].items() if key != "addresses"}  # type: ignore[attr-defined]
    tagged = tap | {"vlan": 7, "addresses": ["10.0.7.1/24"]}
    before = tap_of(source)
    lab.configure({"red": {"interfaces": lab.mixed | {"tagged": tagged}}})  # type: ignore[attr-defined]
    lab.vr("apply")
    assert tap_of(source) == before
    with source.wire("eth0") as wire:
        request = packets.arp(1, wire.mac, "10.0.7.2", bytes(6), "10.0.7.1")
        wire.send(packets.ethernet(packets.BROADCAST, wire.mac, packets.ARP, request, vlan=7))
        answer = wire.expect(lambda frame: frame[12:16] == b"\x81\x00\x00\x07" and frame[16:18] == b"\x08\x06")
    assert answer[32:36] == packets.address("10.0.7.1")
    lab.configure({"red": {"interfaces": lab.mixed}})  # type: ignore[attr-defined]
    lab.vr("apply")
    assert tap_of(source) == before
    wait_until(partial(source.ping, "10.0.1.2", wait=0.2), "the path is there without another setup of the host")
