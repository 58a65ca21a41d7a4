"""Both counter laws at every moment of a random life, and a line of documentation for each drop."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.unit import packets as p
from tests.unit.harness import DROPS, HOST_A, HOST_B, OTHER, ROUTER_A, ROUTER_B, Hop, Router, two_sided

if TYPE_CHECKING:
    from collections.abc import Callable

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "drops.md"


def a_packet(rng: random.Random, side: int) -> bytes:
    """A packet of either family to somewhere: neighbors, strangers, us, nowhere, groups."""
    length = rng.choice((0, 1, 100, 1000, 1400))
    ttl = rng.choice((0, 1, 2, 64))
    if rng.random() < 0.5:
        source = f"10.0.{side}.{rng.randrange(2, 6)}"
        places4 = (
            "10.0.0.1",
            "10.0.0.2",
            "10.0.1.2",
            "10.0.1.9",
            "172.16.0.1",
            "10.0.1.255",
            "224.0.0.1",
            "198.51.100.1",
        )
        destination = rng.choice(places4)
        if rng.random() < 0.3:
            return p.echo4(source, destination, bytes(length), ttl=ttl, kind=rng.choice((0, 3, 8)))
        return p.datagram4(
            source, destination, bytes(length), ttl=ttl, fragment=rng.choice((0, 0x4000, 0x2000, 0x0010))
        )
    source = f"2001:db8:{'ab'[side]}::{rng.randrange(2, 6)}"
    places = ("2001:db8:a::1", "2001:db8:b::2", "2001:db8:b::9", "ff02::1", "fe80::a", "2001:db8:ffff::1", "::1")
    destination = rng.choice(places)
    if rng.random() < 0.3:
        return p.echo6(source, destination, bytes(length), kind=rng.choice((1, 128, 129)))
    return p.datagram6(source, destination, bytes(length), hop_limit=ttl)


def a_frame(rng: random.Random, side: int) -> bytes:
    """A frame into port `side` + 1, broken now and then."""
    us, host = ((ROUTER_A, HOST_A), (ROUTER_B, HOST_B))[side]
    kind = rng.random()
    if kind < 0.15:
        sender = f"10.0.{side}.{rng.randrange(1, 6)}"
        body = p.arp(
            rng.choice((1, 1, 2, 3)),
            rng.choice((host, OTHER)),
            sender,
            bytes(6),
            rng.choice((sender, f"10.0.{side}.1")),
        )
        frame = p.ethernet(rng.choice((p.BROADCAST, us)), host, p.ARP, body)
    elif kind < 0.25:
        source, target = f"2001:db8:{'ab'[side]}::{rng.randrange(2, 6)}", f"2001:db8:{'ab'[side]}::1"
        message = rng.choice((p.NS, p.NA))
        option = p.link_option(1 if message == p.NS else 2, host)
        body = p.neighbor_message(
            message, source, target, target if message == p.NS else source, flags=rng.randrange(256), options=option
        )
        frame = p.ethernet(us, host, p.IP6, body)
    else:
        packet = a_packet(rng, side)
        frame = p.ethernet(
            rng.choice((us, us, us, OTHER, p.BROADCAST)), host, p.IP4 if packet[0] >> 4 == 4 else p.IP6, packet
        )
    if rng.random() < 0.1:
        broken = bytearray(frame)
        broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
        frame = bytes(broken)
    return frame[: rng.randrange(1, len(frame) + 1)] if rng.random() < 0.05 else frame


@pytest.mark.parametrize("seed", range(12))
def test_the_laws_hold_at_every_moment(seed: int) -> None:
    rng = random.Random(seed)
    interfaces = two_sided()
    interfaces[1].mtu = rng.choice((600, 1280, 1500))
    routes = {"172.16.0.0/12": [Hop("10.0.1.2", "b"), Hop("10.0.1.7", "b")], "198.51.100.0/24": [Hop()]}
    with Router(interfaces, routes) as router:
        actions: list[tuple[int, Callable[[], None]]] = [
            (20, lambda: router.advance(rng.choice((0.01, 1, 10)))),
            (3, lambda: router.link(rng.choice((1, 2)), up=rng.random() < 0.7)),
            (2, router.crash),
        ]
        for _ in range(400):
            roll = rng.randrange(100)
            for weight, action in actions:
                roll -= weight
                if roll < 0:
                    action()
                    break
            else:
                side = rng.randrange(2)
                router.send(side + 1, *(a_frame(rng, side) for _ in range(rng.randrange(1, 8))))
            for port in (1, 2):
                router.receive(port)
            router.laws()
        sent = sum(router.count(name, "forwarded_packets") for name in router.interfaces)
        assert sent > 0


def test_each_frame_out_is_counted_with_its_bytes(router: Router) -> None:
    router.meet("b", "10.0.1.2", HOST_B)
    before = router.count("b", "tx_bytes"), router.count("a", "rx_bytes")
    frame = p.ethernet(ROUTER_A, HOST_A, p.IP4, p.datagram4("10.0.0.2", "10.0.1.2"))
    (out,) = router.exchange(1, frame, out=2)
    assert router.count("b", "tx_bytes") - before[0] == len(out)
    assert router.count("a", "rx_bytes") - before[1] == len(frame)


def test_every_drop_reason_is_documented_once() -> None:
    lines = re.findall(r"^\| `(\w+)` \|", DOCUMENT.read_text(), re.MULTILINE)
    assert sorted(lines) == sorted(set(DROPS) - {"none"})
