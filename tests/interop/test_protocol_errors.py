"""Whatever neighbors send that is wrong: each `vr show` still has an answer, and no control dies of one."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from random import Random
from typing import Any, Final

import pytest
from peers import eventually
from routing_lab import RoutingLab

from vrouter.net.address import parse_address, parse_prefix
from vrouter.wire import bfd
from vrouter.wire.ospf import authentication as ospf_keys
from vrouter.wire.ospf.packet import Hello
from vrouter.wire.rip import authentication as rip_keys
from vrouter.wire.rip import ripv2
from vrouter.wire.rip.packet import Command, Entry, Packet

pytestmark = [pytest.mark.in_order, pytest.mark.root, pytest.mark.interop]

OURS, PEER = "10.99.1.1", "10.99.1.2"
KEYS: Final = {"hmac-sha-256": {"key-id": 1, "key": "secret"}}
OSPF_LINK: Final = {"network": "point-to-point", "hello-interval": "1s", "dead-interval": "4s", "authentication": KEYS}
SESSION: Final = {"remote": PEER, "interface": "wan", "authentication": {"type": "sha1", "key": "secret"}}
NEIGHBOR: Final[dict[str, Any]] = {
    "remote-as": 65002, "passive": True, "require-policy": False, "graceful-restart": False, "bfd": False,
}  # fmt: skip
MARKER: Final = b"\xff" * 16
OPEN: Final = (
    MARKER + bytes.fromhex("002b01 04 fdea 005a 0a000002 0e 020c 010400010001 41040000fdea") + MARKER + b"\0\x13\x04"
)
ATTRIBUTES: Final = {1: "40010100", 2: "4002060201 0000fdea", 3: "4003040a630102"}
SPOILED: Final = (
    "40010105", "400200", "4003030a0000", "80040100", "c00803000000", "c01003000000", "c02003010203", "c023020102",
    "800903010203", "800a03010203", "c00703000000", "c01103010203", "c01203010203", "400501ff",
)  # fmt: skip
SHOWS: Final = (
    "bfd red", "drops red", "rib red", "protocols red", "bgp summary red", "bgp neighbor red", "bgp table red",
    "bgp prefix red 10.6.0.0/16", f"bgp rib-in red {PEER}", f"bgp rib-out red {PEER}", "ospf red summary",
    "ospf red neighbor", "ospf red interface", "ospf red database", "rip red summary", "rip red neighbors",
    "rip red routes", "rip red interfaces", "ripng red interfaces",
)  # fmt: skip


@pytest.fixture(scope="module")
def lab() -> Iterator[RoutingLab]:
    with RoutingLab() as lab:
        lab.router(
            "red",
            router_id="10.0.0.1",
            ospf={"areas": {"0.0.0.0": {"interfaces": {"wan": OSPF_LINK}}}},
            rip={"interfaces": {"wan": {"authentication": KEYS}}},
            ripng={"interfaces": {"wan": {}}},
            bfd={"sessions": {"far": SESSION}},
            bgp={"asn": 65001, "neighbors": {PEER: NEIGHBOR}},
        )
        lab.link("red", "wan", [f"{OURS}/24"], "speaker", [f"{PEER}/24"])
        lab.start()
        yield lab


def spoiled(rng: Random, packet: bytes) -> Iterator[bytes]:
    """The packet, its beginnings, and others that differ in some bytes."""
    yield packet
    for _ in range(10):
        yield packet[: rng.randrange(len(packet))]
        changed = bytearray(packet)
        for _ in range(rng.randint(1, 3)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        yield bytes(changed)


def ospf(rng: Random) -> Iterator[bytes]:
    hello = Hello(0xFFFFFF00, 1, 2, 1, 4, 0, 0)
    for algorithm in ospf_keys.Algorithm:
        for secret, extended in ((b"secret", False), (b"wrong", False), (b"secret", True)):
            key = ospf_keys.Key(algorithm, 1, secret, extended)
            yield from spoiled(rng, ospf_keys.sign(hello, 0x0A000002, 0, key, 1, int(parse_address(PEER).value)))


def rip(rng: Random) -> Iterator[bytes]:
    told = Packet(Command.RESPONSE, (Entry(parse_prefix("10.7.0.0/16"), 1, 5), Entry(parse_prefix("127.0.0.0/8"), 1)))
    yield from spoiled(rng, ripv2.encode(told))
    yield from spoiled(rng, ripv2.encode(told, rip_keys.Password(b"secret")))
    for algorithm in rip_keys.DIGEST_SIZES:
        for secret in (b"secret", b"wrong"):
            yield from spoiled(rng, ripv2.encode(told, rip_keys.Key(algorithm, 1, secret), 1))


def bfd_packets(rng: Random) -> Iterator[bytes]:
    for kind in bfd.Kind:
        section = bfd.Authentication(kind, 1, 7, bytes(kind.digest_size or 6)) if kind else None
        yield from spoiled(rng, bfd.Control(bfd.State.DOWN, 5, authentication=section).encode())


def send(lab: RoutingLab, kind: int, protocol: int, local: int, remote: int, packets: Iterator[bytes]) -> None:
    with lab["speaker"].socket(socket.AF_INET, kind, protocol) as sender:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 255)
        if local:
            sender.bind((PEER, local))
        for packet in packets:
            sender.sendto(packet, (OURS, remote))


def updates(attributes: tuple[str, ...]) -> Iterator[bytes]:
    """An UPDATE for each attribute, spoiled or added; first one without, of good prefixes and bad ones."""
    for attribute in ("", *attributes):
        data = bytes.fromhex(attribute)
        parts = b"".join(bytes.fromhex(text) for kind, text in ATTRIBUTES.items() if not data or kind != data[1]) + data
        nlri = bytes.fromhex("100a05" if attribute else "100a06 087f 04e0 0800")
        body = struct.pack("!HH", 0, len(parts)) + parts + nlri
        yield MARKER + struct.pack("!HB", 19 + len(body), 2) + body


@pytest.fixture
def speaker(lab: RoutingLab) -> Iterator[socket.socket]:
    """A session, whose errors are all repaired."""
    eventually(lambda: lab.show("bgp summary", "red")["neighbors"][0]["state"] == "active", 30, "red waits")
    with lab["speaker"].socket(socket.AF_INET, socket.SOCK_STREAM) as peer:
        peer.settimeout(30)
        peer.connect((OURS, 179))
        peer.sendall(OPEN + b"".join(updates(SPOILED)))
        yield peer


def control(lab: RoutingLab) -> int:
    (red,) = lab.vr("show", "routers")
    return int(red["pids"]["control"])


@pytest.mark.usefixtures("speaker")
def test_every_show_answers(lab: RoutingLab) -> None:
    rng, before = Random(7), control(lab)
    send(lab, socket.SOCK_RAW, 89, 0, 0, ospf(rng))
    send(lab, socket.SOCK_DGRAM, 0, 520, 520, rip(rng))
    send(lab, socket.SOCK_DGRAM, 0, 49152, 3784, bfd_packets(rng))

    def noticed() -> bool:
        (neighbor,) = lab.show("bgp neighbor", "red")
        counters = neighbor["counters"]
        (heard,) = lab.show("rip", "red", "interfaces")
        assert counters["updates"] == 1 + len(SPOILED)
        assert counters["malformed"]["withdrawn"]
        assert counters["refused"] == {"prefix": 3}
        assert "bad-authentication" in heard["counters"]
        return {row["reason"] for row in lab.show("drops", "red")} >= {"bfd_authentication", "bfd_malformed"}

    eventually(noticed, 30, "errors are counted")
    done = {words: lab.vr_run("show", *words.split(), json_output=False) for words in SHOWS}
    refused = {words: one.stderr for words, one in done.items() if one.returncode}
    assert not refused
    assert control(lab) == before
