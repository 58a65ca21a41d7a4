"""Fragments come together to the packet again; headers, options and limits are as the RFCs say."""

from __future__ import annotations

import random

import pytest

from tests.unit.packet_pieces import FORWARDED, FRAGMENT, Piece, Plane, checksum, ip4, ip6

DF, MF = 0x4000, 0x2000
NOP, END, RECORD_ROUTE, TIMESTAMP, ROUTER_ALERT, SECURITY = 1, 0, 7, 68, 148, 130
ALERT = bytes([ROUTER_ALERT, 4, 0, 0])
RECORD = bytes([RECORD_ROUTE, 7, 4, 1, 2, 3, 4])


@pytest.fixture
def plane() -> Plane:
    return Plane()


def header_of(data: bytes) -> int:
    return (data[0] & 15) * 4


def reassemble4(pieces: list[Piece]) -> tuple[int, bytes, bool]:
    """Give the offset of the first byte, the payload, and whether more follows."""
    payload, first, more = b"", None, True
    for piece in pieces:
        word = int.from_bytes(piece.data[6:8], "big")
        offset = (word & 0x1FFF) * 8
        first = offset if first is None else first
        assert more, "MF was clear in a piece that is not the last"
        assert offset == first + len(payload)
        more = bool(word & MF)
        payload += piece.data[header_of(piece.data) :]
    assert first is not None
    return first, payload, more


def accounts(pieces: list[Piece]) -> list[int]:
    return [piece.account for piece in pieces]


@pytest.mark.parametrize("seed", range(60))
def test_ipv4_round_trip(plane: Plane, seed: int) -> None:
    source = random.Random(seed)
    options = source.choice([b"", ALERT, RECORD + bytes([NOP]), ALERT + RECORD + bytes([END])])
    flags = source.choice([0, 0, MF, MF | 100, 1000])
    most = 65535 - 60 - (flags & 0x1FFF) * 8
    payload = source.randbytes(source.choice([9, 64, 1481, 4000, 9001, most]))
    packet = ip4(payload, 17, options=options, fragment=flags)
    mtu = source.choice([header_of(packet) + 8, 68 + 40, 576, 1006, 1500, 9000])
    if len(payload) / max(mtu - 60, 8) > 2000:
        mtu = 576
    pieces = plane.fragment4(packet, mtu)
    assert pieces is not None
    offset, joined, more = reassemble4(pieces)
    assert (offset, joined, more) == ((flags & 0x1FFF) * 8, payload, bool(flags & MF))
    assert accounts(pieces) == [FORWARDED] + [FRAGMENT] * (len(pieces) - 1)
    for piece in pieces:
        data, size = piece.data, header_of(piece.data)
        assert len(data) <= mtu
        assert int.from_bytes(data[2:4], "big") == len(data)
        assert checksum(data[:size]) == 0
        unchanged = data[:2] + data[4:6] + data[8:10] + data[12:20]
        assert unchanged == packet[:2] + packet[4:6] + packet[8:10] + packet[12:20]
    for piece in pieces[:-1]:
        assert (len(piece.data) - header_of(piece.data)) % 8 == 0
    assert plane.all_returned()


def test_options_with_the_copied_bit_go_into_every_piece(plane: Plane) -> None:
    security = bytes([SECURITY, 3, 9])
    options = ALERT + RECORD + bytes([NOP]) + security + bytes([END])
    pieces = plane.fragment4(ip4(bytes(3000), 17, options=options), 576)
    assert pieces is not None
    assert pieces[0].data[20:36] == options
    for piece in pieces[1:]:
        assert piece.data[20:36] == ALERT + bytes([NOP] * 8) + security + bytes([END])


def test_options_of_a_later_fragment_were_chosen_before(plane: Plane) -> None:
    options = RECORD + bytes([NOP])
    pieces = plane.fragment4(ip4(bytes(3000), 17, options=options, fragment=MF | 100), 576)
    assert pieces is not None
    assert {piece.data[20:28] for piece in pieces} == {options}


@pytest.mark.parametrize("options", [b"\x07\0\0\0", b"\x07\x09\x04\0", b"\x01\x01\x01\x07"])
def test_malformed_options_are_left_alone(plane: Plane, options: bytes) -> None:
    pieces = plane.fragment4(ip4(bytes(1000), 17, options=options), 576)
    assert pieces is not None
    assert all(piece.data[20:24] == options for piece in pieces)


def test_last_piece_may_fill_the_mtu(plane: Plane) -> None:
    # 1480 bytes of payload are a multiple of 8, 1485 are not: the last may use all of the MTU.
    pieces = plane.fragment4(ip4(bytes(1480 + 1485), 17), 1505)
    assert pieces is not None
    assert [len(piece.data) for piece in pieces] == [1500, 1505]


@pytest.mark.parametrize(
    ("packet", "mtu"),
    [
        (ip4(bytes(100), 17), 27),
        (ip4(bytes(100), 17, options=ALERT), 31),
        (ip4(bytes(2000), 17, fragment=0x1FF0), 576),  # would end beyond 65535
        (ip4(b"", 17), 576),
        (b"\x45" * 10, 576),
        (b"\x4f" + bytes(40), 576),
    ],
)
def test_refuses_ipv4_that_cannot_be_cut(plane: Plane, packet: bytes, mtu: int) -> None:
    assert plane.fragment4(packet, mtu) is None
    assert plane.all_returned()


def test_gives_all_buffers_back_when_they_run_out() -> None:
    plane = Plane(buffers=10)
    assert plane.fragment4(ip4(bytes(9000), 17), 576) is None
    assert plane.all_returned()
    assert plane.fragment6(ip6(bytes(20000), 17), 1280) is None
    assert plane.all_returned()


def options6(following: int, length: int = 8) -> bytes:
    padding = length - 4
    return bytes([following, length // 8 - 1, 1, padding]) + bytes(padding)


# Extension headers before the payload: (first number, bytes, how many of them stay in front)
CHAINS: dict[str, tuple[int, bytes, int]] = {
    "none": (17, b"", 0),
    "hop-by-hop": (0, options6(17), 8),
    "destination": (60, options6(17), 0),
    "hop-by-hop, destination": (0, options6(60) + options6(17), 8),
    "hop-by-hop, destination, routing": (0, options6(60) + options6(43) + bytes([17, 0, 4, 0, 0, 0, 0, 0]), 24),
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("length", [1300, 4000, 65000])
@pytest.mark.parametrize("mtu", [1280, 1500])
def test_ipv6_round_trip(plane: Plane, name: str, length: int, mtu: int) -> None:
    first, chain, kept = CHAINS[name]
    payload = chain + random.Random(length).randbytes(length)
    packet = ip6(payload, first)
    pieces = plane.fragment6(packet, mtu)
    assert pieces is not None
    at = 40 + kept
    joined, numbers, following = b"", set(), set()
    for index, piece in enumerate(pieces):
        data = piece.data
        assert len(data) <= mtu
        assert int.from_bytes(data[4:6], "big") == len(data) - 40
        assert data[:4] + data[7:40] == packet[:4] + packet[7:40]
        word = int.from_bytes(data[at + 2 : at + 4], "big")
        assert word & 0xFFF8 == len(joined)
        assert word & 7 == (0 if index == len(pieces) - 1 else 1)
        following.add(data[at])
        numbers.add(data[at + 4 : at + 8])
        joined += data[at + 8 :]
        # The number that stood for the first header behind the cut now says 44.
        front = data[6:7] + data[40:at]
        assert front.count(44) == 1
    assert joined == packet[at:]
    assert len(numbers) == 1
    assert following == {60 if "destination" in name and "routing" not in name else 17}
    assert accounts(pieces) == [FORWARDED] + [FRAGMENT] * (len(pieces) - 1)
    assert plane.all_returned()


@pytest.mark.parametrize(
    ("packet", "mtu"),
    [
        (ip6(bytes([17, 0, 0, 1, 0, 0, 0, 9]) + bytes(2000), 44), 1280),  # already a fragment
        (ip6(bytes([17, 255]) + bytes(1000), 0), 1280),  # an extension header that does not end
        (ip6(bytes(2000), 17), 55),
        (b"\x60" * 20, 1280),
    ],
)
def test_refuses_ipv6_that_cannot_be_cut(plane: Plane, packet: bytes, mtu: int) -> None:
    assert plane.fragment6(packet, mtu) is None
    assert plane.all_returned()
