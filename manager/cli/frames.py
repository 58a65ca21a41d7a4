"""One line about a frame, for `vr capture` without a file.

Ethernet, one 802.1Q tag, ARP, IPv4, IPv6, ICMP, ICMPv6, UDP and TCP; the rest by number.  Frames are
hostile input: what is cut off is called truncated.  For more, write pcapng and use a real analyser.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

ETHERTYPES: Final = {0x0800: "IPv4", 0x0806: "ARP", 0x86DD: "IPv6", 0x8100: "802.1Q"}
PROTOCOLS: Final = {
    1: "ICMP",
    2: "IGMP",
    6: "TCP",
    17: "UDP",
    47: "GRE",
    50: "ESP",
    58: "ICMPv6",
    89: "OSPF",
    112: "VRRP",
}
ICMP4: Final = {0: "echo reply", 3: "unreachable", 5: "redirect", 8: "echo request", 11: "time exceeded"}
ICMP6: Final = {
    1: "unreachable",
    2: "packet too big",
    3: "time exceeded",
    128: "echo request",
    129: "echo reply",
    133: "router solicitation",
    134: "router advertisement",
    135: "neighbor solicitation",
    136: "neighbor advertisement",
}
_ECHO: Final = {"echo request", "echo reply"}


def mac_text(mac: bytes) -> str:
    """Write a MAC with colons."""
    return mac.hex(":")


def describe(frame: bytes) -> dict[str, Any]:
    """Give source, destination, ethertype, vlan and a summary as plain data."""
    if len(frame) < 14:
        return {"source": None, "destination": None, "ethertype": None, "vlan": None, "summary": "truncated"}
    (ethertype,) = struct.unpack_from(">H", frame, 12)
    vlan = None
    body = frame[14:]
    if ethertype == 0x8100 and len(body) >= 4:
        tag, ethertype = struct.unpack_from(">HH", body)
        vlan = tag & 0xFFF
        body = body[4:]
    try:
        summary = _network(ethertype, body)
    except (struct.error, IndexError):
        summary = f"{ETHERTYPES.get(ethertype, hex(ethertype))} truncated"
    return {
        "source": mac_text(frame[6:12]),
        "destination": mac_text(frame[:6]),
        "ethertype": ETHERTYPES.get(ethertype, f"0x{ethertype:04x}"),
        "vlan": vlan,
        "summary": summary,
    }


def _network(ethertype: int, body: bytes) -> str:
    if ethertype == 0x0806:
        return _arp(body)
    if ethertype == 0x0800:
        return _ip4(body)
    if ethertype == 0x86DD:
        return _ip6(body)
    return f"ethertype 0x{ethertype:04x}"


def _arp(body: bytes) -> str:
    hardware, protocol, _sizes, operation = struct.unpack_from(">HHHH", body)
    if (hardware, protocol) != (1, 0x0800):
        return "ARP of another kind"
    sender, target = (IPv4Address(struct.unpack_from("4s", body, offset)[0]) for offset in (14, 24))
    if operation == 1:
        return f"ARP who has {target}? tell {sender}"
    return f"ARP {sender} is at {mac_text(body[8:14])}"


def _ip4(body: bytes) -> str:
    header = (body[0] & 15) * 4
    ttl, protocol = struct.unpack_from("BB", body, 8)
    source, destination = (IPv4Address(struct.unpack_from("4s", body, offset)[0]) for offset in (12, 16))
    (fragment,) = struct.unpack_from(">H", body, 6)
    offset = (fragment & 0x1FFF) * 8
    upper = f"fragment at {offset}" if offset else _upper(protocol, body[header:])
    return f"{source} > {destination} ttl {ttl} {upper}"


def _ip6(body: bytes) -> str:
    _length, following, hops = struct.unpack_from(">HBB", body, 4)
    source, destination = (IPv6Address(struct.unpack_from("16s", body, offset)[0]) for offset in (8, 24))
    return f"{source} > {destination} hops {hops} {_upper(following, body[40:])}"


def _upper(protocol: int, body: bytes) -> str:
    name = PROTOCOLS.get(protocol, f"protocol {protocol}")
    if protocol in (6, 17):
        return "{} {} > {}".format(name, *struct.unpack_from(">HH", body))
    if protocol in (1, 58):
        kind = (ICMP4 if protocol == 1 else ICMP6).get(body[0], f"type {body[0]}")
        if kind in _ECHO:
            return "{} {} id {} seq {}".format(name, kind, *struct.unpack_from(">HH", body, 4))
        return f"{name} {kind} code {body[1]}"
    return name
