"""Control-plane policing on virtual time: what is which class, and that nothing takes anything from others."""

from __future__ import annotations

import os
import struct
from typing import Final

import pytest

from fastpath import segment
from fastpath._layout import CONSTANTS, FIELDS
from tests.unit import packets as p
from tests.unit.harness import HOST_A, HOST_B, OTHER, ROUTER_A, ROUTER_B, Router
from tests.unit.policing import classes, publish
from vrouter.config.police import DEFAULTS, ControlClass, ControlPlane

US, HOST, FAR = "10.0.0.1", "10.0.0.2", "198.51.100.1"
US6, HOST6 = "2001:db8:a::1", "2001:db8:a::2"
FEW: Final = (10, 3)  # a second, and at once
OSPF, VRRP, IGMP, TCP = 89, 112, 2, 6


def frame4(packet: bytes) -> bytes:
    return p.ethernet(ROUTER_A, HOST_A, p.IP4, packet)


def frame6(packet: bytes) -> bytes:
    return p.ethernet(ROUTER_A, HOST_A, p.IP6, packet)


def tcp(source: str, destination: str, flags: int, port: int = 80) -> bytes:
    body = struct.pack(">HHIIBBHHH", 40000, port, 1, 0, 5 << 4, flags, 1000, 0, 0)
    value = p.checksum(p.pseudo(source, destination, TCP, len(body)) + body)
    segment_ = body[:16] + struct.pack(">H", value) + body[18:]
    return (
        p.ip4(source, destination, segment_, protocol=TCP)
        if "." in source
        else p.ip6(source, destination, segment_, protocol=TCP)
    )


def datagram(source: str, destination: str, port: int, ttl: int = 64) -> bytes:
    return p.ip4(source, destination, p.udp(source, destination, dport=port), ttl=ttl)


def to_group(protocol: int, group: str = "224.0.0.5") -> bytes:
    options = b"\x94\x04\0\0" if protocol == IGMP else b""
    return p.ethernet(
        p.group_mac(group), HOST_A, p.IP4, p.ip4(HOST, group, bytes(8), protocol=protocol, ttl=1, options=options)
    )


HOP_BY_HOP = p.ip6(HOST6, US6, bytes((17, 0, 1, 4, 0, 0, 0, 0)) + p.udp(HOST6, US6), protocol=0)
FRAMES: Final[dict[str, list[bytes]]] = {
    "neighbor": [
        p.ethernet(p.BROADCAST, HOST_A, p.ARP, p.arp(1, HOST_A, "0.0.0.0", bytes(6), US)),
        p.ethernet(
            p.group_mac(p.solicited_node(US6)), HOST_A, p.IP6,
            p.neighbor_message(p.NS, "::", p.solicited_node(US6), US6),
        ),
    ],
    "bfd": [frame4(datagram(HOST, US, 3784, 255)), frame4(datagram("192.0.2.9", US, 4784))],
    "bgp": [frame4(tcp("192.0.2.9", US, 2, 179)), frame4(tcp("192.0.2.9", US, 16, 179))],
    "routing": [
        frame4(p.ip4(HOST, US, bytes(8), protocol=OSPF)),
        to_group(IGMP, "224.0.0.1"),
        frame4(datagram(HOST, US, 520)),
        frame6(p.ip6(HOST6, US6, p.icmp6(HOST6, US6, 130, 0, bytes(4), bytes(16)), protocol=p.ICMP6)),
    ],
    "echo": [frame4(p.echo4(HOST, US)), frame6(p.echo6(HOST6, US6))],
    "error": [frame4(p.datagram4(HOST, FAR, ttl=1)), frame4(p.datagram4(HOST, FAR))],
    "fragment": [
        frame4(p.datagram4(HOST, US, fragment=0x2000)),
        frame6(p.ip6(HOST6, US6, bytes((17, 0, 0, 1, 0, 0, 0, 9)) + bytes(8), protocol=44)),
    ],
    "options": [
        frame4(p.ip4(HOST, US, p.udp(HOST, US), options=bytes((1, 1, 1, 0)))),
        frame4(p.ip4(HOST, "10.0.1.2", p.udp(HOST, "10.0.1.2"), options=bytes((1, 1, 1, 0)))),
        frame4(p.ip4(HOST, "10.0.1.2", bytes(8), protocol=IGMP, options=bytes((1, 1, 1, 0)))),
        frame6(HOP_BY_HOP),
    ],
    "syn": [frame4(tcp(HOST, US, 2)), frame6(tcp(HOST6, US6, 2)), frame4(tcp(HOST, US, 2, 179))],
    "tcp": [frame4(tcp(HOST, US, 16)), frame4(tcp(HOST, US, 18))],
    "group": [p.ethernet(p.BROADCAST, HOST_A, p.IP4, p.datagram4(HOST, "10.0.0.255"))],
    "app": [
        frame4(p.datagram4(HOST, US)),
        frame6(p.datagram6(HOST6, US6)),
        frame4(p.echo4(HOST, US, kind=0)),
        frame4(datagram(FAR, US, 520)),
        frame4(datagram(FAR, US, 4784)),
        frame4(p.ip4(FAR, US, bytes(8), protocol=OSPF)),
    ],
}  # fmt: skip
EACH: Final = [(name, number) for name, frames in FRAMES.items() for number in range(len(frames))]


@pytest.fixture
def limited(router: Router) -> Router:
    """Every class gets few packets; one neighbor is several hops away."""
    publish(router, dict.fromkeys(DEFAULTS, FEW), peers=["192.0.2.9", "10.0.0.77", "2001:db8::77"])
    return router


@pytest.mark.parametrize(("name", "number"), EACH, ids=[f"{name}{number}" for name, number in EACH])
def test_a_class_is_told_and_limited(limited: Router, name: str, number: int) -> None:
    frame = FRAMES[name][number]
    before = classes(limited)
    assert not any(dropped for _passed, dropped in before.values())
    limited.send(1, *[frame] * 10)
    passed, dropped = classes(limited)[name]
    assert (passed - before.get(name, (0, 0))[0], dropped) == (3, 7)
    if name == "error":
        assert limited.drops()["icmp_rate_limited"] >= 7
    else:
        assert limited.drops("a")["control_plane"] == 7


def test_tokens_come_back_with_time(limited: Router) -> None:
    frame = FRAMES["echo"][0]
    for passed in (3, 6, 8):  # full, full again, and two after a fifth of a second
        limited.send(1, *[frame] * 5)
        assert classes(limited)["echo"][0] == passed
        limited.advance(1.0 if passed == 3 else 0.2)


def test_neither_another_class_nor_another_interface_pays(limited: Router) -> None:
    limited.meet("a", HOST, HOST_A)
    limited.send(
        1, *[frame for name, frames in FRAMES.items() for frame in frames if name != "echo" for _ in range(20)]
    )
    limited.receive(1)
    assert len(limited.exchange(1, FRAMES["echo"][0])) == 1
    limited.send(1, *[FRAMES["echo"][0]] * 20)
    elsewhere = p.ethernet(ROUTER_B, HOST_B, p.IP4, p.echo4("10.0.1.2", "10.0.1.1"))
    limited.meet("b", "10.0.1.2", HOST_B)
    assert len(limited.exchange(2, elsewhere)) == 1


def test_transit_and_our_own_packets_are_not_policed(limited: Router) -> None:
    limited.meet("b", "10.0.1.2", HOST_B)
    limited.send(1, *[frame4(p.datagram4(HOST, "10.0.1.2"))] * 100)
    assert len(limited.receive(2)) == 100
    assert "control_plane" not in limited.drops("a")


def scan(router: Router, first: int, count: int) -> None:
    router.send(1, *[frame4(p.datagram4(HOST, f"10.0.1.{first + number}")) for number in range(count)])


def test_a_scan_asks_for_few_neighbors_and_hinders_no_other_interface(limited: Router) -> None:
    scan(limited, 100, 20)
    assert len(limited.receive(2)) == 3
    assert classes(limited)["resolve"] == (3, 17)
    assert limited.drops("a")["control_plane"] == 17
    # What waits for the neighbors that were asked for needs no token, nor does who comes by another interface.
    limited.send(1, frame4(p.datagram4(HOST, "10.0.1.100")))
    assert limited.count("a", "held_packets") == 4
    limited.send(2, p.ethernet(ROUTER_B, OTHER, p.IP4, p.datagram4("10.0.1.9", "10.0.0.50")))
    assert len(limited.receive(1)) == 1


def test_the_answer_that_we_wait_for_is_let_in(limited: Router) -> None:
    storm = [
        p.ethernet(p.BROADCAST, OTHER, p.ARP, p.arp(1, OTHER, f"10.0.1.{n}", bytes(6), "10.0.1.1"))
        for n in range(50, 99)
    ]
    limited.send(2, *storm)
    assert limited.drops("b")["control_plane"] == len(storm) - 3
    limited.send(1, frame4(p.datagram4(HOST, "10.0.1.2")))
    limited.receive(2)
    answer = p.ethernet(ROUTER_B, HOST_B, p.ARP, p.arp(2, HOST_B, "10.0.1.2", ROUTER_B, "10.0.1.1"))
    limited.send(2, *storm, answer)
    assert limited.neighbor_state("10.0.1.2") == "REACHABLE"
    assert [frame for frame in limited.receive(2) if frame[12:14] == b"\x08\0"] == [
        p.ethernet(HOST_B, ROUTER_B, p.IP4, p.forwarded4(p.datagram4(HOST, "10.0.1.2")))  # which had waited
    ]


def test_a_known_neighbor_is_heard_during_a_storm(limited: Router) -> None:
    ask = p.ethernet(ROUTER_A, HOST_A, p.ARP, p.arp(1, HOST_A, HOST, bytes(6), US))
    limited.meet("a", HOST, HOST_A)
    storm = [p.ethernet(p.BROADCAST, OTHER, p.ARP, p.arp(1, OTHER, f"10.0.0.{n}", bytes(6), US)) for n in range(50, 99)]
    for _ in range(3):
        limited.advance(0.15)
        limited.send(1, *storm)
        limited.receive(1)
        assert len(limited.exchange(1, ask)) == 1


def test_without_a_table_there_is_no_limit(router: Router) -> None:
    router.meet("a", HOST, HOST_A)
    router.send(1, *[FRAMES["echo"][0]] * 500)
    assert len(router.receive(1)) == 500
    assert classes(router)["echo"] == (500, 0)


def test_rates_change_live_and_are_taken_over(limited: Router) -> None:
    frame = FRAMES["echo"][0]
    limited.send(1, *[frame] * 10)
    publish(limited, {"echo": (0, 0)})
    limited.send(1, *[frame] * 50)
    assert classes(limited)["echo"] == (53, 7)
    publish(limited, {"echo": (100, 5)})
    limited.crash()
    limited.poll()
    limited.send(1, *[frame] * 10)
    assert classes(limited)["echo"] == (58, 12)


def test_a_damaged_table_is_not_followed(limited: Router) -> None:
    with segment.Segment(limited.tables_fd, segment.KIND_TABLES) as tables:
        where = tables.integer("police_root")
    for field, value in (("checksum", 1), ("entry_count", 2**32 - 1), ("peer_count", 2**31), ("epoch", 99)):
        start, code, _count, _nested = FIELDS["police_table"][field]
        size = struct.calcsize(code)
        good = os.pread(limited.tables_fd, size, where + start)
        os.pwrite(limited.tables_fd, value.to_bytes(size, "little"), where + start)
        epoch = FIELDS["police_table"]["epoch"][0]
        os.pwrite(limited.tables_fd, (1000 + value).to_bytes(8, "little"), where + epoch)
        limited.poll()
        os.pwrite(limited.tables_fd, good, where + start)
    limited.send(1, *[FRAMES["echo"][0]] * 10)
    assert classes(limited)["echo"] == (3, 7)  # as before


def test_the_configuration_knows_all_classes() -> None:
    known = sorted((value, name) for name, value in CONSTANTS.items() if name.startswith("CONTROL_"))
    assert [name.removeprefix("CONTROL_").lower() for _value, name in known][:-1] == list(DEFAULTS)


def test_a_rate_of_none_is_no_limit(router: Router) -> None:
    wanted = ControlPlane(echo=ControlClass(rate="none"), syn=ControlClass(rate="2000/s"), app=ControlClass(burst=7))
    numbers = dict(zip(DEFAULTS, wanted.numbers(), strict=True))
    assert (numbers["echo"][0], numbers["syn"], numbers["app"]) == (0, (2000, 400), (DEFAULTS["app"][0], 7))
    publish(router, numbers)
    router.send(1, *[FRAMES["echo"][0]] * 300)
    assert classes(router)["echo"] == (300, 0)
