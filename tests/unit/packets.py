"""Frames for the forwarding tests: builders that leave nothing to chance, and a few readers.

Every builder takes and gives bytes.  Checksums are right unless a test passes its own.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import Final

IP4: Final = 0x0800
ARP: Final = 0x0806
IP6: Final = 0x86DD
ICMP: Final = 1
UDP: Final = 17
ICMP6: Final = 58
BROADCAST: Final = b"\xff" * 6
ETHERNET: Final = 14
NS: Final = 135
NA: Final = 136
ROUTER: Final = 0x80
SOLICITED: Final = 0x40
OVERRIDE: Final = 0x20


def address(text: str) -> bytes:
    """Turn an address into its 4 or 16 bytes."""
    return ipaddress.ip_address(text).packed


def checksum(data: bytes) -> int:
    """RFC 1071."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ethernet(destination: bytes, source: bytes, ethertype: int, payload: bytes, vlan: int | None = None) -> bytes:
    """An Ethernet frame, unpadded."""
    tag = b"" if vlan is None else struct.pack(">HH", 0x8100, vlan)
    return destination + source + tag + struct.pack(">H", ethertype) + payload


def arp(operation: int, sender_mac: bytes, sender: str, target_mac: bytes, target: str) -> bytes:
    """An ARP packet."""
    return struct.pack(">HHBBH", 1, IP4, 6, 4, operation) + sender_mac + address(sender) + target_mac + address(target)


def ip4(
    source: str,
    destination: str,
    payload: bytes,
    *,
    protocol: int = UDP,
    ttl: int = 64,
    tos: int = 0,
    identification: int = 1,
    fragment: int = 0,
    options: bytes = b"",
    header_checksum: int | None = None,
) -> bytes:
    """An IPv4 packet; `fragment` is the whole word of flags and offset."""
    words = 5 + len(options) // 4
    header = struct.pack(
        ">BBHHHBBH4s4s",
        0x40 | words,
        tos,
        words * 4 + len(payload),
        identification,
        fragment,
        ttl,
        protocol,
        0,
        address(source),
        address(destination),
    )
    header += options
    value = checksum(header) if header_checksum is None else header_checksum
    return header[:10] + struct.pack(">H", value) + header[12:] + payload


def ip6(
    source: str,
    destination: str,
    payload: bytes,
    *,
    protocol: int = UDP,
    hop_limit: int = 64,
    traffic_class: int = 0,
) -> bytes:
    """An IPv6 packet."""
    first = 6 << 28 | traffic_class << 20
    return (
        struct.pack(">IHBB", first, len(payload), protocol, hop_limit)
        + address(source)
        + address(destination)
        + payload
    )


def pseudo(source: str, destination: str, protocol: int, length: int) -> bytes:
    """The pseudo header of either family."""
    if ":" in source:
        return address(source) + address(destination) + struct.pack(">II", length, protocol)
    return address(source) + address(destination) + struct.pack(">BBH", 0, protocol, length)


def udp(source: str, destination: str, payload: bytes = b"payload", *, sport: int = 1000, dport: int = 2000) -> bytes:
    """A UDP datagram without IP header."""
    length = 8 + len(payload)
    body = struct.pack(">HHHH", sport, dport, length, 0) + payload
    value = checksum(pseudo(source, destination, UDP, length) + body) or 0xFFFF
    return body[:6] + struct.pack(">H", value) + body[8:]


def icmp4(kind: int, code: int, rest: bytes, payload: bytes = b"") -> bytes:
    """An ICMP message; `rest` is its second word."""
    body = struct.pack(">BBH", kind, code, 0) + rest + payload
    return body[:2] + struct.pack(">H", checksum(body)) + body[4:]


def icmp6(source: str, destination: str, kind: int, code: int, rest: bytes, payload: bytes = b"") -> bytes:
    """An ICMPv6 message."""
    body = struct.pack(">BBH", kind, code, 0) + rest + payload
    value = checksum(pseudo(source, destination, ICMP6, len(body)) + body)
    return body[:2] + struct.pack(">H", value) + body[4:]


def link_option(kind: int, mac: bytes) -> bytes:
    """A source (1) or target (2) link-layer address option."""
    return bytes((kind, 1)) + mac


def solicited_node(target: str) -> str:
    """The solicited-node group of an address."""
    return str(ipaddress.IPv6Address(address("ff02::1:ff00:0")[:13] + address(target)[13:]))


def group_mac(group: str) -> bytes:
    """The Ethernet address of a group of either family."""
    packed = address(group)
    if len(packed) == 4:
        return bytes((1, 0, 0x5E, packed[1] & 0x7F, packed[2], packed[3]))
    return b"\x33\x33" + packed[12:]


def is_listener_report(frame: bytes) -> bool:
    """Tell an MLDv2 report."""
    return frame[12:14] == b"\x86\xdd" and frame[20] == 0 and frame[54] == ICMP6 and frame[62] == 143


def neighbor_message(
    kind: int, source: str, destination: str, target: str, *, flags: int = 0, options: bytes = b"", hop_limit: int = 255
) -> bytes:
    """An IPv6 packet with a neighbor solicitation or advertisement."""
    message = icmp6(source, destination, kind, 0, bytes((flags, 0, 0, 0)), address(target) + options)
    return ip6(source, destination, message, protocol=ICMP6, hop_limit=hop_limit)


def datagram4(
    source: str, destination: str, payload: bytes = b"payload", *, ttl: int = 64, fragment: int = 0, tos: int = 0
) -> bytes:
    """A whole IPv4/UDP packet."""
    return ip4(source, destination, udp(source, destination, payload), ttl=ttl, fragment=fragment, tos=tos)


def datagram6(source: str, destination: str, payload: bytes = b"payload", *, hop_limit: int = 64) -> bytes:
    """A whole IPv6/UDP packet."""
    return ip6(source, destination, udp(source, destination, payload), hop_limit=hop_limit)


def echo4(
    source: str, destination: str, payload: bytes = b"ping", *, tos: int = 0, ttl: int = 64, kind: int = 8
) -> bytes:
    """A whole ICMP echo request (or, kind 0, reply)."""
    return ip4(source, destination, icmp4(kind, 0, b"\x12\x34\0\1", payload), protocol=ICMP, tos=tos, ttl=ttl)


def echo6(source: str, destination: str, payload: bytes = b"ping", *, kind: int = 128, traffic_class: int = 0) -> bytes:
    """A whole ICMPv6 echo request (or, kind 129, reply)."""
    message = icmp6(source, destination, kind, 0, b"\x12\x34\0\1", payload)
    return ip6(source, destination, message, protocol=ICMP6, traffic_class=traffic_class)


def forwarded4(packet: bytes) -> bytes:
    """What an IPv4 packet looks like one hop on: TTL and header checksum."""
    header = (packet[0] & 15) * 4
    changed = packet[:8] + bytes((packet[8] - 1, packet[9], 0, 0)) + packet[12:header]
    return changed[:10] + struct.pack(">H", checksum(changed)) + changed[12:] + packet[header:]


def forwarded6(packet: bytes) -> bytes:
    """What an IPv6 packet looks like one hop on."""
    return packet[:7] + bytes((packet[7] - 1,)) + packet[8:]


def without_id(packet: bytes) -> bytes:
    """An IPv4 packet with identification 0, for comparing what has a random one."""
    header = (packet[0] & 15) * 4
    changed = packet[:4] + b"\0\0" + packet[6:10] + b"\0\0" + packet[12:header]
    return changed[:10] + struct.pack(">H", checksum(changed)) + changed[12:] + packet[header:]
