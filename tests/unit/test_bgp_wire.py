"""The codec of BGP: Holo's packets, and what RFC 7606 makes of attributes."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from vrouter.net.address import IPV4, Address, parse_address, parse_prefix
from vrouter.wire.bgp import capabilities, message, mrt, text
from vrouter.wire.bgp import update as updates
from vrouter.wire.bgp.attributes import (
    Attributes,
    MalformedError,
    Outcome,
    Segment,
    SegmentKind,
    decode,
    encode,
)

CASES = json.loads((Path(__file__).parents[1] / "vectors" / "holo-bgp.json").read_text())
SEQUENCE = SegmentKind.SEQUENCE


def described(data: bytes) -> dict[str, Any]:
    found = message.next_message(data, 0)
    assert found is not None
    kind, length = found
    body = data[19:length]
    match kind:
        case 1:
            opened = message.decode_open(body)
            assert message.encode_open(opened) == data
            return {
                "type": 1,
                "asn": opened.asn,
                "hold_time": opened.hold_time,
                "router_id": str(Address(IPV4, opened.router_id)),
                "capabilities": [[code, value.hex()] for code, value in opened.capabilities],
            }
        case 2:
            assert updates.write_update(updates.read_update(body)) == data
            return {"type": 2} | described_update(body)
        case 3:
            told = message.decode_notification(body)
            assert message.encode_notification(told) == data
            return {"type": 3, "code": told.code, "subcode": told.subcode, "data": told.data.hex()}
        case 5:
            refresh = message.decode_refresh(body)
            assert message.encode_refresh(refresh) == data
            return {"type": 5, "afi": refresh.afi, "safi": refresh.safi}
    assert message.frame(kind, body) == data
    return {"type": kind}


def described_update(body: bytes) -> dict[str, Any]:
    found = updates.decode_update(body, updates.Context(external=False))
    if found.end_of_rib:
        return {}
    return {
        "announced": [
            [str(nlri.prefix), str(hops.address), hops.link_local and str(hops.link_local)]
            for nlri, hops in found.announced
        ],
        "withdrawn": [str(nlri.prefix) for nlri in found.withdrawn],
        "attributes": text.describe_attributes(found.attributes),
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_holo(case: dict[str, Any]) -> None:
    data = bytes.fromhex(case["hex"])
    if case["expected"] is None:
        found = message.next_message(data, 0)
        assert found is not None
        try:
            outcome = updates.decode_update(data[19 : found[1]], updates.Context()).outcome
        except MalformedError:
            outcome = Outcome.WITHDRAW
        assert outcome is Outcome.WITHDRAW
    else:
        assert described(data) == case["expected"]


def test_attributes_come_back() -> None:
    attributes = Attributes(
        origin=2,
        as_path=(Segment(SEQUENCE, (65001, 4200000001)), Segment(SegmentKind.SET, (7, 8))),
        next_hop=parse_address("10.0.0.1"),
        med=0,
        local_pref=7,
        atomic_aggregate=True,
        aggregator=(4200000001, 1),
        communities=(1, 0xFFFFFF01),
        originator_id=5,
        cluster_list=(1, 2),
        extended=(b"\0\2\0\1\0\0\0\1",),
        large=((1, 2, 3),),
        otc=65001,
        unknown=((0xE0, 99, b"x" * 300),),
    )
    assert decode(encode(attributes), as4=True, external=False).attributes == attributes
    assert decode(encode(attributes, as4=False), as4=False, external=False).attributes == attributes


@pytest.mark.parametrize(
    ("data", "outcome", "external"),
    [
        ("40010103", Outcome.WITHDRAW, True),
        ("c0010100", Outcome.WITHDRAW, True),  # flags
        ("4002060201 00000000", Outcome.WITHDRAW, True),  # AS 0
        ("40020402 010000", Outcome.WITHDRAW, True),
        ("40020603 010000fde9", Outcome.WITHDRAW, True),  # a confederation's segment
        ("40050400000064", Outcome.DISCARD, True),  # LOCAL_PREF from another AS
        ("400503000064", Outcome.WITHDRAW, False),
        ("40060100", Outcome.DISCARD, True),
        ("c007060001 00000000", Outcome.DISCARD, True),
        ("c00800", Outcome.WITHDRAW, True),
        ("800904 01020304", Outcome.DISCARD, True),
        ("800903 010203", Outcome.WITHDRAW, False),
        ("c01007 01020304050607", Outcome.WITHDRAW, True),
        ("c0200b 0102030405060708090a0b", Outcome.WITHDRAW, True),
        ("c02303 010203", Outcome.WITHDRAW, True),
        ("c01106 0201 0000fde9", Outcome.DISCARD, True),  # AS4_PATH of a 4-byte speaker
        ("400101", Outcome.WITHDRAW, True),  # the end is missing
        ("40", Outcome.WITHDRAW, True),
        ("4001010040010102", Outcome.NONE, True),  # twice: the first counts
    ],
)
def test_what_becomes_of_malformed_attributes(data: str, outcome: Outcome, *, external: bool) -> None:
    assert decode(bytes.fromhex(data), as4=True, external=external).outcome is outcome


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("0005 0000", (3, 1)),
        ("0000 0005", (3, 1)),
        ("0000 0000 21 0a000000 00", (3, 10)),
        ("0002 180a 0000", (3, 10)),
        ("0000 0004 40630101", (3, 2)),
        ("0000 0005 800e02 0002", (3, 9)),
        ("0000 000b 800e08 0002 01 03 010203 00", (3, 9)),
        ("0000 000c 800f03 000201 800f03 000201", (3, 1)),
    ],
)
def test_what_ends_a_session(body: str, error: tuple[int, int]) -> None:
    with pytest.raises(MalformedError) as raised:
        updates.decode_update(bytes.fromhex(body), updates.Context())
    assert (raised.value.code, raised.value.subcode) == error


def test_a_two_byte_speaker_knows_large_numbers_by_as4_path() -> None:
    old = (Segment(SEQUENCE, (65000, 23456, 23456)),)
    new = (Segment(SEQUENCE, (4200000001, 4200000002)),)
    data = encode(Attributes(as_path=old), as4=False) + bytes.fromhex("c0110a 0202 fa56ea01 fa56ea02")
    decoded = decode(data, as4=False, external=True).attributes
    assert decoded.as_path == (Segment(SEQUENCE, (65000, *new[0].asns)),)


def test_segments_of_a_confederation_in_as4_path_are_passed_over() -> None:
    """RFC 6793 section 6; the rest counts."""
    old = (Segment(SEQUENCE, (65000, 23456)),)
    data = encode(Attributes(as_path=old), as4=False) + bytes.fromhex("c0110c 0301 0000fde9 0201 fa56ea01")
    decoded = decode(data, as4=False, external=True).attributes
    assert decoded.as_path == (Segment(SEQUENCE, (65000, 4200000001)),)


def test_capabilities_come_back() -> None:
    mine = capabilities.Capabilities(
        families=frozenset({1, 2}),
        route_refresh=True,
        enhanced_refresh=True,
        as4=4200000001,
        extended_message=True,
        extended_next_hop=True,
        add_path={1: 3, 2: 1},
        graceful_restart=capabilities.GracefulRestart(120, restarting=True, families=((1, True), (2, False))),
        roles=frozenset({3}),
        host_name="red",
    )
    entries = capabilities.encode(mine)
    again = capabilities.decode(
        message.decode_open(message.encode_open(message.Open(1, 90, 1, entries))[19:]).capabilities
    )
    assert again == capabilities.decode(entries)
    for name in ("families", "as4", "add_path", "graceful_restart", "roles", "host_name", "extended_next_hop"):
        assert getattr(again, name) == getattr(mine, name)


def test_many_capabilities_need_rfc_9072() -> None:
    entries = tuple((200, bytes(200)) for _ in range(3))
    data = message.encode_open(message.Open(1, 90, 1, entries))
    assert data[28:30] == b"\xff\xff"
    assert message.decode_open(data[19:]).capabilities == entries


def test_messages_are_packed_full() -> None:
    routes = [updates.Nlri(parse_prefix(f"10.{high}.{low}.0/24")) for high in range(8) for low in range(256)]
    packer = updates.Packer(1, encode(Attributes(next_hop=parse_address("10.0.0.1"))), None, add_path=False)
    first, count = packer.take(routes)
    assert 4092 < len(first) <= 4096
    assert count == packer.room() // 4


def test_a_shutdown_text_is_cut_to_what_fits() -> None:
    told = message.shutdown("ä" * 200)
    assert len(told.data) == 255
    assert message.shutdown_text(told) == "ä" * 127
    assert (
        message.Notification(6, 2, b"\xff\0").reason() == 'cease: administrative shutdown: "\N{REPLACEMENT CHARACTER}"'
    )


def test_an_mrt_dump_reads_as_rfc_6396_says() -> None:
    peers = [mrt.Peer(1, parse_address("10.0.0.1"), 65001), mrt.Peer(2, parse_address("::1"), 65002)]
    data = mrt.peer_index(100, 9, "main", peers)
    assert struct.unpack_from("!IHHI", data) == (100, 13, 1, len(data) - 12)
    entry = mrt.Entry(1, 50, encode(Attributes()), parse_address("2001:db8::1"))
    record = mrt.rib_record(100, 3, parse_prefix("2001:db8::/32"), [entry])
    assert struct.unpack_from("!IHHI", record) == (100, 13, 4, len(record) - 12)
    assert record[12:22] == bytes.fromhex("00000003 20 20010db8 00")


def test_the_partial_bit_stays() -> None:
    """RFC 4271 section 5: of a known optional transitive attribute, too; not of what the bit has no meaning for."""
    marked = bytes.fromhex("60010100 600200 a00404 00000005 e008 04 00010001 e020 0c 000000010000000200000003")
    plain = bytes.fromhex("40010100 400200 800404 00000005 e008 04 00010001 e020 0c 000000010000000200000003")
    assert encode(decode(marked, as4=True, external=True).attributes) == plain


@pytest.mark.parametrize("flags", [("e0", "c0"), ("c0", "e0")])
def test_a_partial_aggregator_of_old_speakers_stays_partial(flags: tuple[str, str]) -> None:
    """RFC 6793 section 4.2: AGGREGATOR and AS4_AGGREGATOR are one."""
    data = bytes.fromhex(f"40010100 400200 {flags[0]}0706 5ba0 01020304 {flags[1]}1208 0001117001020304")
    found = decode(data, as4=False, external=True).attributes
    assert encode(found)[-11:] == bytes.fromhex("e00708 0001117001020304")
    assert encode(found, as4=False)[-20:] == bytes.fromhex("e00706 5ba0 01020304 e01208 0001117001020304")
