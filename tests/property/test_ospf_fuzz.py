"""OSPF against hostile bytes: the decoder raises nothing but its own error, and a running instance stays well."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.ospf_network import Network, Node, area, port, ptp
from vrouter.config import ospf as config
from vrouter.net.address import Address
from vrouter.proto.base import Meta
from vrouter.wire.ospf.authentication import NO_KEY, Algorithm, Key, sign, verify
from vrouter.wire.ospf.lsa import (
    DecodeError,
    ExternalBody,
    Lsa,
    NetworkBody,
    OpaqueBody,
    RouterBody,
    RouterLink,
    SummaryBody,
    build_lsa,
    decode_grace,
    decode_lsa,
    encode_lsa,
)
from vrouter.wire.ospf.packet import (
    Ack,
    Description,
    Hello,
    Request,
    Update,
    decode_body,
    decode_packet_header,
    internet_checksum,
)

VECTORS = [
    bytes.fromhex(case["hex"])
    for case in json.loads((Path(__file__).parents[1] / "vectors" / "holo-ospf.json").read_text())["cases"]
]
KEYS = [
    NO_KEY,
    Key(Algorithm.SIMPLE, 0, b"x"),
    *(Key(a, 3, b"key") for a in Algorithm if a.value.startswith(("md", "hm"))),
]
U8, U16, U24, U32 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 24, 32))
MASKS = st.integers(0, 32).map(lambda length: 0xFFFFFFFF >> length ^ 0xFFFFFFFF)


def lists(item, size=5):
    return st.lists(item, max_size=size).map(tuple)


BODIES = {
    1: st.builds(RouterBody, U8, lists(st.builds(RouterLink, U8, U32, U32, U16))),
    2: st.builds(NetworkBody, MASKS, st.lists(U32, min_size=1, max_size=5).map(tuple)),
    3: st.builds(SummaryBody, MASKS, U24),
    4: st.builds(SummaryBody, U32, U24),
    5: st.builds(ExternalBody, MASKS, U24, st.booleans(), U32, U32),
    7: st.builds(ExternalBody, MASKS, U24, st.booleans(), U32, U32),
    10: st.builds(OpaqueBody, st.binary(max_size=60)),
}


@st.composite
def lsas(draw):
    kind = draw(st.sampled_from(sorted(BODIES)))
    key = (kind, draw(U32), draw(U32))
    sequence = draw(st.integers(-0x7FFFFFFF, 0x7FFFFFFF))
    return build_lsa(key, draw(U8), sequence, draw(BODIES[kind]), draw(st.integers(0, 3600)))


HEADERS = lsas().map(lambda raw: decode_lsa(raw).header)
PACKETS = st.one_of(
    st.builds(Hello, MASKS, U16, U8.map(lambda o: o & ~0x10), U8, U32, U32, U32, lists(U32)),
    st.builds(Hello, MASKS, U16, U8.map(lambda o: o | 0x10), U8, U32, U32, U32, lists(U32), U32),
    st.builds(Description, U16, U8.map(lambda o: o & ~0x10), st.integers(0, 15), U32, lists(HEADERS)),
    st.builds(Request, lists(st.tuples(U32, U32, U32))),
    st.builds(Update, lists(lsas())),
    st.builds(Ack, lists(HEADERS)),
)


@given(PACKETS, U32, U32, st.sampled_from(KEYS), U32)
def test_what_is_written_is_read_back(body, router, where, key, sequence):
    packet = sign(body, router, where, key, sequence)
    header = decode_packet_header(packet)
    assert (header.router, header.area) == (router, where)
    assert verify(packet, header, {key.id: key} if key is not NO_KEY else {}) in {sequence, 0}
    assert decode_body(header, packet, strict=True) == body


@given(lsas())
def test_an_lsa_is_read_and_written_bit_for_bit(raw):
    assert encode_lsa(decode_lsa(raw, strict=True)) == raw


@given(lsas(), st.data())
def test_a_changed_bit_is_seen(raw, data):
    bit = data.draw(st.integers(16, len(raw) * 8 - 1))
    broken = bytearray(raw)
    broken[bit // 8] ^= 0x80 >> bit % 8
    with pytest.raises(DecodeError):
        decode_lsa(bytes(broken), strict=True)


def mutated(draw, raw: bytes) -> bytes:
    data = bytearray(raw)
    for _ in range(draw(st.integers(0, 6))):
        if data:
            data[draw(st.integers(0, len(data) - 1))] = draw(U8)
    cut = draw(st.integers(0, 12))
    tail: bytes = draw(st.binary(max_size=8))
    return bytes(data[: len(data) - cut] if cut < 8 else data) + tail


@st.composite
def hostile(draw):
    return mutated(draw, draw(st.sampled_from(VECTORS)))


@given(st.one_of(hostile(), st.binary(max_size=200)), st.booleans())
def test_the_decoder_raises_nothing_but_its_own_error(raw, strict):
    for read in (
        lambda: decode_body(decode_packet_header(raw), raw, strict=strict),
        lambda: verify(raw, decode_packet_header(raw), {1: KEYS[2], 0: KEYS[1]}),
        lambda: decode_lsa(raw, strict=strict),
        lambda: decode_grace(raw),
    ):
        with contextlib.suppress(DecodeError):
            read()


def running() -> tuple[Network, Node, list[tuple[str, bytes, int]]]:
    """A border router in the midst of three others, and the packets that have come to it."""
    net = Network()
    seen: list[tuple[str, bytes, int]] = []

    def record(source: str, target: str, data: bytes) -> bytes:
        if target == "b":
            seen.append(("q" if source == "c" else "p", data, {"a": 0x0A000001, "c": 0x0A010002}[source]))
        return data

    net.filter = record
    backbone = config.Ospf(router_id="1.1.1.1", areas={"0.0.0.0": area({"p": port()})})
    net.add("a", {"p": "10.0.0.1/24@ab"}, backbone)
    areas = {"0.0.0.0": area({"p": port()}), "0.0.0.1": area({"q": ptp()}, type="nssa")}
    middle = net.add("b", {"p": "10.0.0.2/24@ab", "q": "10.1.0.1/30@bc"}, config.Ospf(router_id="2.2.2.2", areas=areas))
    inner = {"0.0.0.1": area({"q": ptp()}, type="nssa")}
    net.add("c", {"q": "10.1.0.2/30@bc"}, config.Ospf(router_id="3.3.3.3", areas=inner))
    net.run(60)
    net.filter = None
    return net, middle, seen


def sealed(packet: bytes) -> bytes:
    """Give a packet the checksum that it ought to have, so that what is in it is looked at."""
    if len(packet) < 24:
        return packet
    plain = packet[:12] + b"\0\0\0\0" + bytes(8) + packet[24:]
    length = int.from_bytes(packet[2:4], "big")
    checksum = internet_checksum(plain[:16] + plain[24:length])
    return plain[:12] + checksum.to_bytes(2, "big") + plain[14:]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.data())
def test_a_running_instance_survives_mutated_packets(seed, data):
    net, node, seen = running()
    rng = Random(seed)
    for _ in range(120):
        interface, packet, source = rng.choice(seen)
        raw = bytearray(packet)
        for _ in range(rng.randrange(4)):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        whole = sealed(bytes(raw))
        meta = Meta(interface, Address(4, source), Address(4, 0xE0000005), 1)
        net.outputs(node, node.instance.received(f"ospf-{interface}", whole, meta, net.now))
        if rng.random() < 0.1:
            net.run(rng.random() * 3)
    lsa = data.draw(lsas())
    whole = sign(Update((lsa,)), 0x01010101, 0)
    meta = Meta("p", Address(4, 0x0A000001), Address(4, 0xE0000005), 1)
    net.outputs(node, node.instance.received("ospf-p", whole, meta, net.now))
    for query in ("summary", "neighbor", "interface", "database", "route", "border-routers"):
        json.dumps(node.show(query, detail=True))
    net.run(200)
    assert node.neighbors() == {"1.1.1.1": "full", "3.3.3.3": "full"}


@settings(max_examples=20, deadline=None)
@given(st.lists(lsas(), min_size=1, max_size=30))
def test_a_running_instance_survives_any_lsa(found):
    net, node, _ = running()
    for raw in found:
        for interface, router, source, home in (("p", 0x01010101, 0x0A000001, 0), ("q", 0x03030303, 0x0A010002, 1)):
            packet = sign(Update((raw,)), router, home)
            meta = Meta(interface, Address(4, source), Address(4, 0xE0000005), 1)
            net.outputs(node, node.instance.received(f"ospf-{interface}", packet, meta, net.now))
    net.run(30)
    for query in ("summary", "neighbor", "interface", "database", "route", "border-routers"):
        json.dumps(node.show(query, detail=True))
    assert node.neighbors() == {"1.1.1.1": "full", "3.3.3.3": "full"}
    assert isinstance(decode_lsa(found[0]), Lsa)
