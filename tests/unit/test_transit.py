"""The short way of transit (forward/transit.c) against the ordinary one: two equal routers, the same packets.

One router gets each frame as it is, the other one with a priority tag (802.1Q, VLAN 0), which means
untagged, and which the short way does not take.  What leaves, all counters, all drops and all neighbors
must be the same, but for the 4 bytes of the tag that were received more.
"""

from __future__ import annotations

import os
import random
import struct
import zlib
from typing import TYPE_CHECKING, Any, Final

import pytest

from fastpath import stats
from fastpath._layout import FIELDS, SIZES
from fastpath.binding import check, lib
from fastpath.segment import KIND_TABLES, Segment
from tests.unit import packets as p
from tests.unit import policing
from tests.unit.filter_world import Filters
from tests.unit.harness import HOST_A, HOST_B, OTHER, ROUTER_A, ROUTER_B, Hop, Router, meet_hosts, two_sided
from vrouter.config.acl import AclBinding, AclEntry, DscpMarks, Rpf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SEED: Final = 20260
ROUNDS: Final = 60
BATCH: Final = 40
NEEDS_CSUM: Final = 1
MTU_B: Final = 1400
ROUTES: Final = {
    "0.0.0.0/0": [Hop("10.0.1.2", "b")],
    "20.0.0.0/8": [Hop("10.0.1.2", "b")],
    "20.1.0.0/16": [Hop("10.0.1.2", "b"), Hop("10.0.1.3", "b")],
    "20.2.0.0/16": [Hop()],
    "20.3.0.0/16": [Hop(kind="NEXTHOP_UNREACHABLE")],
    "20.4.0.0/16": [Hop("10.0.1.77", "b")],
    "20.5.0.0/16": [Hop("2001:db8:b::2", "b")],
    "20.6.0.0/16": [Hop("10.0.0.2", "a")],
    "20.7.0.0/16": [Hop("10.0.2.2", "c")],
    "fd00::/8": [Hop("2001:db8:b::2", "b")],
    "2001:db8:100::/40": [Hop("2001:db8:b::2", "b")],
    "2001:db8:200::/48": [Hop("2001:db8:b::2", "b"), Hop("2001:db8:b::3", "b")],
    "2001:db8:300::/48": [Hop()],
    "2001:db8:400::/48": [Hop("10.0.1.2", "b")],
    "2001:db8:500::/48": [Hop("2001:db8:c::2", "c")],
}
SOURCES4: Final = ("10.0.0.2", "10.0.0.9", "30.0.0.1", "10.0.1.2")
ODD_SOURCES4: Final = (
    "10.0.0.1", "192.0.2.1", "10.0.1.1", "127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "250.1.2.3",
    "0.1.2.3", "10.0.0.255", "20.2.0.1", "20.3.0.1",
)  # fmt: skip
TARGETS4: Final = ("20.0.0.1", "20.9.9.9", "20.1.2.3", "20.1.2.4", "10.0.1.2", "8.8.8.8", "20.6.0.1", "20.5.0.1")
ODD_TARGETS4: Final = (
    "20.2.0.1", "20.3.0.1", "20.4.0.1", "20.7.0.1", "10.0.0.1", "192.0.2.1", "10.0.1.255", "10.0.0.255", "127.0.0.1",
    "0.0.0.0", "224.0.0.5", "239.1.1.1", "255.255.255.255", "241.0.0.1", "10.0.1.9",
)  # fmt: skip
SOURCES6: Final = ("2001:db8:a::2", "fd00::5")
ODD_SOURCES6: Final = ("2001:db8:a::1", "fe80::2", "::", "::1", "ff02::1", "fec0::1", "5000::1")
TARGETS6: Final = ("2001:db8:100::1", "fd00::1", "2001:db8:b::2", "2001:db8:200::7", "2001:db8:400::1")
ODD_TARGETS6: Final = (
    "2001:db8:300::1", "2001:db8:500::1", "2001:db8:a::1", "2001:db8::1", "fe80::a", "fe80::9", "ff02::1", "ff0e::1",
    "::1", "::", "5000::1", "2001:db8:b::99", "fec0::1",
)  # fmt: skip


def interfaces() -> list[Any]:
    made = two_sided()
    made[1].mtu = MTU_B
    extra = type(made[0])("c", 3, bytes.fromhex("020000000d01"), ["10.0.2.1/24", "2001:db8:c::1/64", "fe80::c/64"])
    tagged = type(made[0])("b.7", 2, ROUTER_B, ["10.0.7.1/24", "2001:db8:7::1/64", "fe80::7/64"], vlan=7)
    return [made[0], made[1], extra, tagged, made[2]]


class Twin(Router):
    """A router whose hashes are those of the other one."""

    def _create(self) -> Any:
        os.pwrite(self.state_fd, struct.pack("<QQ", 1, 2), FIELDS["state_segment"]["random_key"][0])
        return super()._create()


class Twins:
    """Two routers with one life."""

    def __init__(self) -> None:
        self.short, self.ordinary = (Twin(interfaces(), ROUTES) for _ in range(2))
        self.both = (self.short, self.ordinary)
        self.tagged = {1: 0, 2: 0, 3: 0}
        self.filters = [Filters(router) for router in self.both]
        self.each(Router.settle)
        self.each(meet_hosts)
        for name, four, six, mac in (
            ("b", "10.0.1.3", "2001:db8:b::3", OTHER),
            ("c", "10.0.2.2", "2001:db8:c::2", OTHER),
        ):
            for router in self.both:
                router.meet(name, four, mac)
                router.meet(name, six, mac)
        self.each(lambda router: [port.receive() for port in router.ports.values()])

    def each(self, call: Callable[[Router], object]) -> None:
        for router in self.both:
            call(router)

    def send(self, port: int, frames: list[tuple[bytes, bytes | None]]) -> None:
        """Put a batch on the wire of both, then let them run."""
        for frame, vnet in frames:
            self.short.ports[port].send(frame, vnet)
            self.ordinary.ports[port].send(*with_tag(frame, vnet))
            self.tagged[port] += len(frame) >= p.ETHERNET
        self.each(Router.poll)

    def compare(self, what: str) -> None:
        """What left, what was counted, who is known."""
        for port in (1, 2, 3):
            sent = [[normal(frame, vnet) for frame, vnet in router.ports[port].receive()] for router in self.both]
            for number, (one, other) in enumerate(zip(*sent, strict=False)):
                assert one == other, f"{what}: frame {number} of port {port}"
            assert len(sent[0]) == len(sent[1]), f"{what}: port {port}"
        for name, interface in self.short.interfaces.items():
            one, other = (dict(stats.interface_counters(router.state, router.index(name))) for router in self.both)
            if interface.port and not interface.vlan:
                other["rx_bytes"] -= 4 * self.tagged[interface.port]
            assert one == other, f"{what}: {name}"
        assert self.short.drops() == self.ordinary.drops(), what
        assert known(self.short) == known(self.ordinary), what
        assert counts(self.short) == counts(self.ordinary), what

    def close(self) -> None:
        self.each(Router.laws)
        self.each(Router.close)


def with_tag(frame: bytes, vnet: bytes | None) -> tuple[bytes, bytes | None]:
    """The same frame with a priority tag; a runt has no room for one."""
    if len(frame) < p.ETHERNET:
        return frame, vnet
    if vnet is not None:
        flags, kind, length, size, start, offset = struct.unpack("<BBHHHH", vnet)
        vnet = struct.pack("<BBHHHH", flags, kind, length + 4, size, start + 4, offset)
    return frame[:12] + b"\x81\0\0\0" + frame[12:], vnet


def normal(frame: bytes, vnet: bytes) -> tuple[bytes, bytes]:
    """A frame without what is random: the identification of our own ICMP errors, and its checksum."""
    if frame[12:14] == b"\x08\x00" and frame[23] == p.ICMP and frame[34:35] in (b"\x03", b"\x0b", b"\x0c"):
        frame = frame[:18] + b"\0\0" + frame[20:24] + b"\0\0" + frame[26:]
    return frame, vnet


def known(router: Router) -> dict[str, tuple[bytes, ...]]:
    fields = ("state", "used_ns", "probes")
    return {
        address: (entry.octets("mac"), *(str(entry.integer(field)).encode() for field in fields))
        for address, entry in router.neighbors().items()
    }


def counts(router: Router) -> list[tuple[int, ...]]:
    """Hits of lists and prefixes, and what policers passed and dropped."""
    fields = {
        "filter_counters": ("packets", "bytes"),
        "policers": ("passed_packets", "passed_bytes", "dropped_packets", "dropped_bytes"),
    }
    views = [(router.state.view(table, index), names) for table, names in fields.items() for index in range(24)]
    return [tuple(view.integer(name) for name in names) for view, names in views]


@pytest.fixture
def twins() -> Iterator[Twins]:
    pair = Twins()
    yield pair
    pair.close()


# --- packets ---


def mostly(chance: random.Random, usual: tuple[Any, ...], odd: tuple[Any, ...]) -> Any:
    return chance.choice(odd if chance.random() < 0.07 else usual)


def transport(chance: random.Random, length: int) -> tuple[int, bytes]:
    body = struct.pack(">HHIIBBHHH", 1000, chance.choice((80, 2000, 2001)), 1, 2, 0x50, chance.choice((2, 16)), 9, 0, 0)
    return chance.choice((6, 17, 1, 58, 132)), body + chance.randbytes(max(0, length - 20))


def some4(chance: random.Random) -> bytes:
    protocol, body = transport(chance, chance.choice((20, 60, 1300, MTU_B - 20, MTU_B - 19, 1480)))
    odd = chance.random()
    packet = p.ip4(
        mostly(chance, SOURCES4, ODD_SOURCES4),
        mostly(chance, TARGETS4, ODD_TARGETS4),
        body[: chance.randrange(20)] if odd < 0.1 else body,
        protocol=protocol,
        ttl=mostly(chance, (2, 64, 255), (0, 1)),
        tos=chance.randrange(256),
        identification=chance.randrange(65536),
        fragment=chance.choice((0, 0, 0x4000, 0x4000, 0x2000, 1, 0x2001, 185, 0x8000)),
        options=mostly(chance, (b"",), (b"\x01\x01\x01\0", b"\x94\4\0\0", b"\x07\x07\x04\0\0\0\0\0", b"\x83\x7f\4\0")),
        header_checksum=mostly(chance, (None,), (None, 0, 0xFFFF)),
    )
    if odd > 0.97:
        packet = bytes((chance.choice((0x44, 0x65, 0x05, 0x4F)),)) + packet[1:]
    if 0.94 < odd < 0.97:
        packet = packet[:2] + struct.pack(">H", chance.choice((0, 19, 20, 65535))) + packet[4:]
    return packet


def some6(chance: random.Random) -> bytes:
    protocol, body = transport(chance, chance.choice((20, 60, 1260, MTU_B - 40, MTU_B - 39, 1460)))
    for _ in range(mostly(chance, (0,), (1, 1, 2))):
        kind = chance.choice((0, 43, 44, 60))
        header = bytes((protocol, 0)) + (
            struct.pack(">HI", chance.choice((0, 1, 8, 9, 1480)), 7) if kind == 44 else b"\1\4\0\0\0\0"
        )
        protocol, body = kind, header + body
    odd = chance.random()
    packet = p.ip6(
        mostly(chance, SOURCES6, ODD_SOURCES6),
        mostly(chance, TARGETS6, ODD_TARGETS6),
        body[: chance.randrange(20)] if odd < 0.1 else body,
        protocol=protocol,
        hop_limit=mostly(chance, (2, 64, 255), (0, 1)),
        traffic_class=chance.randrange(256),
    )
    if odd > 0.97:
        packet = bytes((chance.choice((0x40, 0x70)),)) + packet[1:]
    if 0.94 < odd < 0.97:
        packet = packet[:4] + struct.pack(">H", chance.choice((0, 1, 65535))) + packet[6:]
    return packet


def some_frame(chance: random.Random) -> tuple[bytes, bytes | None]:
    packet = some4(chance) if chance.random() < 0.6 else some6(chance)
    kind = p.IP4 if packet[0] >> 4 == 4 else p.IP6
    odd = chance.random()
    target = chance.choice((*(ROUTER_A,) * 20, p.BROADCAST, OTHER, b"\x01\0\x5e\0\0\5", bytes(6)))
    source = chance.choice((*(HOST_A,) * 20, ROUTER_A, bytes(6), b"\x03\0\0\0\0\1"))
    frame = p.ethernet(target, source, chance.choice((p.IP4, p.IP6, 0x1234)) if odd < 0.03 else kind, packet)
    if odd > 0.97:
        frame = frame[: chance.choice((14, 15, 33, 34, 53, 54))]
    if 0.8 < odd < 0.9:
        frame += chance.randbytes(chance.randrange(1, 40))
    start = chance.choice((34, 54, 0, 13, 2000))
    if chance.random() < 0.1:
        return frame, struct.pack("<BBHHHH", NEEDS_CSUM, 0, chance.choice((0, 60)), 0, start, chance.choice((6, 16)))
    if chance.random() < 0.03:
        return frame, struct.pack("<BBHHHH", NEEDS_CSUM, 1 if kind == p.IP4 else 4, start + 20, 500, start, 16)
    return frame, None


def plain_batch(chance: random.Random) -> list[tuple[bytes, bytes | None]]:
    """Packets of few flows that mostly go the short way."""
    batch: list[tuple[bytes, bytes | None]] = []
    for number in range(BATCH):
        target = chance.choice(("20.0.0.1", "20.9.9.9", "20.4.0.1", "20.7.0.1", "20.6.0.1", "10.0.0.1"))
        options = b"\x01\x01\x01\0" if chance.random() < 0.1 else b""
        packet = p.ip4("10.0.0.2", target, bytes(chance.randrange(40, 80)), identification=number + 1, options=options)
        batch.append((p.ethernet(ROUTER_A, HOST_A, p.IP4, packet), None))
        six = p.ip6("2001:db8:a::2", chance.choice(("2001:db8:100::1", "2001:db8:500::1")), bytes(number + 8))
        batch.append((p.ethernet(ROUTER_A, HOST_A, p.IP6, six), None))
    return batch


# --- lives ---


def arp_answer(name: str, address: str, mac: bytes) -> bytes:
    ours = next(interface for interface in interfaces() if interface.name == name)
    body = p.arp(2, mac, address, ours.mac, ours.addresses[0].split("/")[0])
    return p.ethernet(ours.mac, mac, p.ARP, body)


def test_random_packets_have_the_same_fate(twins: Twins) -> None:
    chance = random.Random(SEED)
    for number in range(ROUNDS):
        twins.send(1, [some_frame(chance) for _ in range(BATCH)])
        twins.compare(f"round {number}")
        if number % 10 == 9:
            twins.each(lambda router: router.advance(0.4))
            twins.each(lambda router: router.send(2, arp_answer("b", "10.0.1.2", HOST_B)))
            twins.compare(f"after round {number}")


LIST: Final = (
    AclEntry(action="deny", protocol=(17,), destination_port=((80, 80),)),
    AclEntry(action="reject", protocol=(6,), tcp_flags=("syn",)),
    AclEntry(action="permit", protocol=(6, 17), set_dscp=8),
    AclEntry(action="deny", protocol=(132,)),
    AclEntry(action="permit"),
)
FEATURES: Final[dict[str, dict[str, dict[str, Any]]]] = {
    "acl in": {"a": {"acl": AclBinding(in_="list")}},
    "acl out": {"b": {"acl": AclBinding(out="list")}},
    "rpf strict": {"a": {"rpf": Rpf(mode="strict")}},
    "rpf loose": {"a": {"rpf": Rpf(mode="loose")}},
    "dscp": {"a": {"dscp": DscpMarks(in_=((46, 10), (-1, 0)))}, "b": {"dscp": DscpMarks(out=((10, 12), (0, 46)))}},
    "all": {
        "a": {"acl": AclBinding(in_="list"), "rpf": Rpf(mode="loose"), "dscp": DscpMarks(in_=((46, 10),))},
        "b": {"acl": AclBinding(out="list"), "dscp": DscpMarks(out=((10, 12),))},
        "c": {"acl": AclBinding(out="list")},
    },
}


@pytest.mark.parametrize("name", FEATURES)
def test_filtered_packets_have_the_same_fate(twins: Twins, name: str) -> None:
    chance = random.Random(SEED + len(name))
    counted = ("20.0.0.0/8", "20.9.0.0/16", "fd00::/8") if name == "all" else ()
    for filters in twins.filters:
        filters.set({"list": LIST}, counted, **FEATURES[name])
    for number in range(ROUNDS // 4):
        twins.send(1, [some_frame(chance) for _ in range(BATCH)])
        twins.compare(f"round {number}")
    assert twins.filters[0].counted() == twins.filters[1].counted()


@pytest.mark.parametrize("unit", ["bits", "packets"])
def test_policed_packets_have_the_same_fate(twins: Twins, unit: str) -> None:
    chance = random.Random(SEED)
    rate = (400_000, 8_000) if unit == "bits" else (50, 20)
    policers = [("a", "in", unit, *rate), ("b", "out", unit, rate[0] // 2, rate[1])]
    twins.each(lambda router: policing.publish(router, policers=policers))
    for number in range(ROUNDS // 4):
        twins.send(1, [some_frame(chance) for _ in range(BATCH)] if number % 2 else plain_batch(chance))
        twins.each(lambda router: router.advance(0.1))
        twins.compare(f"round {number}")
    for number in range(2):
        shown = [policing.policer(router, number) for router in twins.both]
        assert shown[0] == shown[1]
    assert twins.short.drops("a")["police_in"] > 0


def change_route(router: Router) -> None:
    router.routes["20.0.0.0/8"] = [Hop("10.0.2.2", "c")]
    router.publish()


def spread_route(router: Router) -> None:
    router.routes["20.0.0.0/8"] = [Hop("10.0.2.2", "c"), Hop("10.0.1.2", "b")]
    router.publish()


def drop_route(router: Router) -> None:
    del router.routes["20.0.0.0/8"]
    router.publish()


def other_mac(router: Router) -> None:
    router.interfaces["b"].mac = bytes.fromhex("020000000b09")
    router.publish()


def narrower(router: Router) -> None:
    router.interfaces["b"].mtu = 70
    router.publish()


def shut(router: Router) -> None:
    router.interfaces["b"].up = False
    router.publish()


def own_source(router: Router) -> None:
    router.interfaces["lo"].addresses.append("10.0.0.2/32")
    router.publish()


def remove_port(router: Router) -> None:
    check(lib.core_port_remove(router.core, 2))


def prove(router: Router) -> None:
    router.advance(5.5)
    router.send(2, arp_answer("b", "10.0.1.2", HOST_B))


def kill(router: Router) -> None:
    router.crash()
    router.poll()


CHANGES: Final[dict[str, Callable[[Router], object]]] = {
    "another next hop": change_route,
    "two next hops": spread_route,
    "route withdrawn": drop_route,
    "own MAC": other_mac,
    "MTU": narrower,
    "interface shut": shut,
    "carrier lost": lambda router: router.link(2, up=False),
    "port removed": remove_port,
    "source becomes ours": own_source,
    "neighbor answers with another MAC": lambda router: router.send(2, arp_answer("b", "10.0.1.2", OTHER)),
    "neighbor asked about": lambda router: router.advance(5.5),
    "neighbor proven": prove,
    "neighbor gone": lambda router: router.advance(9),
    "forwarder killed": kill,
}


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_old_is_used_after(twins: Twins, change: str) -> None:
    chance = random.Random(SEED)
    for _ in range(2):
        twins.send(1, plain_batch(chance))
    twins.compare("before")
    twins.each(CHANGES[change])
    for number in range(3):
        twins.send(1, plain_batch(chance))
        twins.compare(f"after, round {number}")


def republish_with_epoch(router: Router, epoch: int) -> None:
    """Publish, and then claim that it was the publication of before, as only a mad control would."""
    router.publish()
    with Segment(router.tables_fd, KIND_TABLES) as tables:
        where = tables.integer("root")
        root = tables.at("tables_root", where)
        fields = FIELDS["tables_root"]
        arrays = b"".join(
            os.pread(router.tables_fd, root.integer(f"{name}_count") * SIZES[f"{name}_entry"], root.integer(plural))
            for name, plural in (("interface", "interfaces"), ("address", "addresses"), ("rule", "rules"))
        )
        head = bytearray(os.pread(router.tables_fd, SIZES["tables_root"], where))
    struct.pack_into("<Q", head, fields["epoch"][0], epoch)
    struct.pack_into("<I", head, fields["checksum"][0], 0)
    struct.pack_into("<I", head, fields["checksum"][0], zlib.crc32(arrays, zlib.crc32(head)))
    os.pwrite(router.tables_fd, head, where)


def test_interfaces_that_come_with_an_old_epoch_are_other_ones(twins: Twins) -> None:
    """What was kept of the copy of before is not looked at again: that memory has been given back."""
    chance = random.Random(SEED)
    with Segment(twins.short.tables_fd, KIND_TABLES) as tables:
        epoch = tables.at("tables_root", tables.integer("root")).integer("epoch")
    for number in range(4):
        twins.send(1, plain_batch(chance))
        twins.compare(f"round {number}")
        for router in twins.both:
            router.interfaces["b"].mtu = (70, MTU_B)[number % 2]
            republish_with_epoch(router, epoch)
