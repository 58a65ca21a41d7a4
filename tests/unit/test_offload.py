"""Segmentation of super-packets against a second implementation of it, and what hostile offload headers do."""

from __future__ import annotations

import random

import pytest

from tests.unit.packet_pieces import (
    ECN,
    FORWARDED,
    FRAGMENT,
    NEEDS_CSUM,
    TCPV4,
    TCPV6,
    UDP_L4,
    Plane,
    checksum,
    ip4,
    ip6,
    pseudo_sum,
)

FIN, PSH, ACK, CWR = 1, 8, 16, 128
HOP_BY_HOP = bytes([6, 0, 1, 4, 0, 0, 0, 0])  # a PadN, then TCP


@pytest.fixture
def plane() -> Plane:
    return Plane()


def tcp(payload: bytes, *, flags: int = ACK, options: bytes = b"", sequence: int = 0xFFFFFF00) -> bytes:
    words = 5 + len(options) // 4
    header = bytes.fromhex("c0010050") + sequence.to_bytes(4, "big") + bytes.fromhex("00010203")
    return header + bytes([words << 4, flags]) + bytes.fromhex("ffff00000000") + options + payload


def udp(payload: bytes, check: int = 0x5555) -> bytes:
    return bytes.fromhex("30390035") + (8 + len(payload)).to_bytes(2, "big") + check.to_bytes(2, "big") + payload


def with_checksum(packet: bytes, transport: int, field: int, protocol: int) -> bytes:
    """Fill in a transport checksum; what is zero stays so for TCP and is 0xffff for UDP."""
    at = transport + field
    packet = packet[:at] + b"\0\0" + packet[at + 2 :]
    value = checksum(packet[transport:], pseudo_sum(packet, protocol, len(packet) - transport))
    if protocol == 17 and value == 0:
        value = 0xFFFF
    return packet[:at] + value.to_bytes(2, "big") + packet[at + 2 :]


def reference(packet: bytes, transport: int, protocol: int, size: int) -> list[bytes]:
    """Split as the kernel's tcp_gso_segment and __udp_gso_segment do."""
    headers = transport + (packet[transport + 12] >> 4) * 4 if protocol == 6 else transport + 8
    payload = packet[headers:]
    segments = []
    for number, start in enumerate(range(0, len(payload), size)):
        head = bytearray(packet[:headers])
        part = payload[start : start + size]
        last = start + size >= len(payload)
        if head[0] >> 4 == 4:
            head[2:4] = (headers + len(part)).to_bytes(2, "big")
            head[4:6] = ((int.from_bytes(head[4:6], "big") + number) % 65536).to_bytes(2, "big")
            head[10:12] = b"\0\0"
            head[10:12] = checksum(bytes(head[:transport])).to_bytes(2, "big")
        else:
            head[4:6] = (headers + len(part) - 40).to_bytes(2, "big")
        if protocol == 6:
            sequence = (int.from_bytes(head[transport + 4 : transport + 8], "big") + start) % 2**32
            head[transport + 4 : transport + 8] = sequence.to_bytes(4, "big")
            if number:
                head[transport + 13] &= ~CWR & 0xFF
            if not last:
                head[transport + 13] &= ~(FIN | PSH) & 0xFF
            segments.append(with_checksum(bytes(head) + part, transport, 16, 6))
        else:
            head[transport + 4 : transport + 6] = (8 + len(part)).to_bytes(2, "big")
            segments.append(with_checksum(bytes(head) + part, transport, 6, 17))
    return segments


def check(plane: Plane, packet: bytes, transport: int, protocol: int, size: int, kind: int) -> None:
    vnet = (NEEDS_CSUM, kind, size, transport, 16 if protocol == 6 else 6)
    pieces = plane.segment(packet, vnet)
    assert pieces is not None
    assert [piece.data for piece in pieces] == reference(packet, transport, protocol, size)
    assert [piece.account for piece in pieces] == [FORWARDED] + [FRAGMENT] * (len(pieces) - 1)
    assert {piece.ingress for piece in pieces} == {7}
    assert plane.unit(packet, vnet) == max(len(piece.data) for piece in pieces)
    assert plane.all_returned()


@pytest.mark.parametrize("seed", range(40))
def test_random_super_packets(plane: Plane, seed: int) -> None:
    source = random.Random(seed)
    payload = source.randbytes(source.choice([2, 3000, 20001, 65000]))
    size = source.choice([536, 1000, 1448, 1460, 8960, max(len(payload) - 1, 1)])
    options = source.choice([b"", bytes.fromhex("0101080a") + source.randbytes(8)])
    flags = source.choice([ACK, ACK | PSH, ACK | FIN | PSH, ACK | CWR, ACK | CWR | FIN])
    kind = source.choice([0, ECN])
    segment = tcp(payload, flags=flags, options=options)
    check(plane, ip4(segment, 6, number=0xFFF0), 20, 6, size, TCPV4 | kind)
    check(plane, ip4(segment, 6, options=bytes([7, 7, 4, 0, 0, 0, 0, 0])), 28, 6, size, TCPV4 | kind)
    check(plane, ip6(segment, 6), 40, 6, size, TCPV6 | kind)
    check(plane, ip6(HOP_BY_HOP + segment, 0), 48, 6, size, TCPV6 | kind)
    check(plane, ip4(udp(payload), 17), 20, 17, size, UDP_L4)
    check(plane, ip6(udp(payload), 17), 40, 17, size, UDP_L4)


@pytest.mark.parametrize("length", [2, 3000, 20001, 65000])
def test_parts_are_no_other_packet(plane: Plane, length: int) -> None:
    """Whether bytes lie behind their headers or elsewhere: measured, split, summed and copied as one packet."""
    packet = ip4(tcp(random.Random(length).randbytes(length), flags=ACK | PSH), 6)
    vnet = (NEEDS_CSUM, TCPV4, 1448, 20, 16)
    lent = plane.lent(packet, 40, vnet)
    assert plane.lib.offload_unit(lent) == plane.unit(packet, vnet)
    clone = plane.clone(lent)
    assert plane.data(clone) == packet
    plane.free(clone)
    assert plane.cut(lent) == plane.segment(packet, vnet)
    summed = plane.lent(packet, 40, vnet)
    assert plane.lib.offload_finish_checksum(summed)
    assert plane.data(summed)[40:] == packet[40:]
    plane.free(summed)
    assert plane.all_returned()


def test_udp_without_checksum_stays_without(plane: Plane) -> None:
    pieces = plane.segment(ip4(udp(bytes(3000), check=0), 17), (0, UDP_L4, 1000, 0, 0))
    assert pieces is not None
    assert [piece.data[26:28] for piece in pieces] == [b"\0\0"] * 3


@pytest.mark.parametrize(
    ("packet", "vnet"),
    [
        (ip4(tcp(bytes(3000)), 6), (NEEDS_CSUM, TCPV4, 0, 20, 16)),
        (ip4(udp(bytes(3000)), 17), (NEEDS_CSUM, TCPV4, 1000, 20, 16)),
        (ip4(tcp(bytes(3000)), 6), (NEEDS_CSUM, UDP_L4, 1000, 20, 6)),
        (ip4(tcp(bytes(3000)), 6), (NEEDS_CSUM, 3, 1000, 20, 6)),
        (ip4(tcp(bytes(3000)), 6, fragment=0x2000), (NEEDS_CSUM, TCPV4, 1000, 20, 16)),
        (ip4(tcp(b""), 6), (NEEDS_CSUM, TCPV4, 1000, 20, 16)),
        (ip4(tcp(b"")[:19], 6), (NEEDS_CSUM, TCPV4, 1000, 20, 16)),
        (ip4(tcp(bytes(3000)).replace(b"\x50\x10", b"\xf0\x10", 1)[:50], 6), (NEEDS_CSUM, TCPV4, 10, 20, 16)),
        (ip4(udp(b"")[:7], 17), (NEEDS_CSUM, UDP_L4, 1000, 20, 6)),
        (ip6(bytes([6, 200]) + bytes(100), 0), (NEEDS_CSUM, TCPV6, 50, 40, 16)),
        (ip6(bytes([6, 0, 0, 1, 0, 0, 0, 0]) + tcp(bytes(3000)), 44), (NEEDS_CSUM, TCPV6, 1000, 40, 16)),
        (b"\x4f" + bytes(30), (NEEDS_CSUM, TCPV4, 10, 20, 16)),
        (b"\x00" * 100, (NEEDS_CSUM, TCPV4, 10, 20, 16)),
        (b"\x60", (NEEDS_CSUM, TCPV6, 10, 20, 16)),
    ],
)
def test_refuses_what_does_not_fit_its_offload_header(
    plane: Plane, packet: bytes, vnet: tuple[int, int, int, int, int]
) -> None:
    assert plane.segment(packet, vnet) is None
    assert plane.unit(packet, vnet) == len(packet)
    assert plane.all_returned()


def test_gives_all_buffers_back_when_they_run_out() -> None:
    plane = Plane(buffers=10)
    assert plane.segment(ip4(tcp(bytes(60000)), 6), (NEEDS_CSUM, TCPV4, 1000, 20, 16)) is None
    assert plane.all_returned()


def test_unit_of_an_ordinary_packet_is_its_length(plane: Plane) -> None:
    assert plane.unit(ip4(tcp(bytes(3000)), 6), (NEEDS_CSUM, 0, 0, 20, 16)) == 3040
    assert plane.unit(ip4(tcp(bytes(100)), 6), (NEEDS_CSUM, TCPV4, 1448, 20, 16)) == 140


@pytest.mark.parametrize("length", [1, 2, 33, 1471, 1472])
def test_finishes_a_partial_checksum(plane: Plane, length: int) -> None:
    payload = random.Random(length).randbytes(length)
    for packet, at in ((ip4(udp(payload), 17), 20), (ip6(udp(payload), 17), 40)):
        total = pseudo_sum(packet, 17, len(packet) - at)
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        partial = packet[: at + 6] + total.to_bytes(2, "big") + packet[at + 8 :]
        buffer = plane.packet(partial, (NEEDS_CSUM, 0, 0, at, 6))
        # Through a link header and back: the offsets follow.
        assert plane.lib.packet_push(buffer, 14)
        plane.lib.packet_pull(buffer, 14)
        assert plane.lib.offload_finish_checksum(buffer)
        assert plane.data(buffer) == with_checksum(packet, at, 6, 17)
        assert plane.lib.offload_finish_checksum(buffer), "a second time nothing is to do"
        assert plane.data(buffer) == with_checksum(packet, at, 6, 17)
        plane.free(buffer)


@pytest.mark.parametrize(("start", "offset"), [(0, 65535), (65535, 0), (65535, 65535), (99, 0), (90, 9), (65522, 6)])
def test_refuses_a_checksum_outside_the_packet(plane: Plane, start: int, offset: int) -> None:
    buffer = plane.packet(bytes(100), (NEEDS_CSUM, 0, 0, start, offset))
    assert not plane.lib.offload_finish_checksum(buffer)
    plane.free(buffer)


def test_checksum_start_before_the_data_is_refused_after_pull(plane: Plane) -> None:
    buffer = plane.packet(bytes(100), (NEEDS_CSUM, 0, 0, 4, 2))
    plane.lib.packet_pull(buffer, 14)
    assert not plane.lib.offload_finish_checksum(buffer)
    plane.free(buffer)
