"""Frames for the differential test: valid, odd and broken ones, from a seeded generator.

The topology that the frames assume is the one of `test_differential.py`: they enter at the router's
`in` side (10.0.0.1/24, 2001:db8:a::1/64) and leave, if at all, towards 10.0.1.2 or back to 10.0.0.2.
Sources lie behind 10.0.0.2 so that an ICMP error has somewhere to go, and are so many that no
per-destination rate limit of either router speaks.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

ROUTER_MAC: Final = bytes.fromhex("020000000a01")
PEER_MAC: Final = bytes.fromhex("020000000c02")
IPV4: Final = 0x0800
IPV6: Final = 0x86DD
ON_LINK: Final = tuple(
    ipaddress.ip_network(text)
    for text in ("10.0.0.0/24", "10.0.1.0/24", "2001:db8:a::/64", "2001:db8:b::/64", "fe80::/10")
)
ROUTER_ADDRESSES: Final = {
    ipaddress.ip_address(text)
    for text in (
        "10.0.0.1",
        "10.0.1.1",
        "10.0.0.255",
        "10.0.1.255",
        "10.0.0.0",
        "10.0.1.0",
        "2001:db8:a::1",
        "2001:db8:b::1",
    )
}
PEERS: Final = {ipaddress.ip_address(text) for text in ("10.0.0.2", "10.0.1.2", "2001:db8:a::2", "2001:db8:b::2")}


# IPv4 options, well-formed and not: record route, timestamp, source routes, router alert, unknown ones.
OPTIONS4: Final = (
    "01010101",
    "00000000",
    "94040000",
    "07070400000000",
    "072704" + 36 * "00",
    "07030501",
    "07070300000000",
    "440c0500" + 8 * "00",
    "440c0d00" + 8 * "00",
    "440c0501" + 8 * "00",
    "83070400000000",
    "89070400000000",
    "820b" + 9 * "00",
    "9904aabb",
    "0700",
    "07ff04",
    "070104",
    "440405f0",
    "01019405",
)
# IPv6 options of six bytes: padding, router alert, unknown ones of each action, lengths that do not fit.
OPTIONS6: Final = (
    "000000000000",
    "010400000000",
    "050200000100",
    "3e0400000000",
    "7e0400000000",
    "be0400000000",
    "fe0400000000",
    "010500000000",
    "c20400010000",
    "01ff00000000",
)
# Addresses that a router looks at twice.
ODD4: Final = (
    "0.0.0.0",
    "0.1.2.3",
    "127.0.0.1",
    "224.0.0.5",
    "239.1.2.3",
    "240.0.0.1",
    "255.255.255.255",
    "10.0.0.1",
    "10.0.0.255",
    "10.0.1.1",
    "10.0.1.255",
    "169.254.1.1",
)


def checksum(data: bytes) -> int:
    """RFC 1071, over any number of bytes."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ethernet(payload: bytes, ethertype: int, destination: bytes = ROUTER_MAC, source: bytes = PEER_MAC) -> bytes:
    """An untagged frame, padded to the minimum."""
    return (destination + source + struct.pack(">H", ethertype) + payload).ljust(60, b"\0")


def ip4(
    source: int,
    destination: int,
    payload: bytes,
    *,
    protocol: int = 17,
    ttl: int = 64,
    ident: int = 0,
    flags: int = 0,
    offset: int = 0,
    options: bytes = b"",
    tos: int = 0,
) -> bytes:
    """An IPv4 packet with a good checksum; `options` is padded to a multiple of four."""
    options = options.ljust((len(options) + 3) // 4 * 4, b"\0")
    length = 20 + len(options) + len(payload)
    head = (
        struct.pack(
            ">BBHHHBBHII",
            0x45 + len(options) // 4,
            tos,
            length,
            ident,
            flags << 13 | offset,
            ttl,
            protocol,
            0,
            source,
            destination,
        )
        + options
    )
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + payload


def ip6(
    source: bytes, destination: bytes, payload: bytes, *, following: int = 17, hop_limit: int = 64, label: int = 0
) -> bytes:
    """An IPv6 packet."""
    return struct.pack(">IHBB", 6 << 28 | label, len(payload), following, hop_limit) + source + destination + payload


def upper(pseudo: bytes, protocol: int, body: bytes, at: int) -> bytes:
    """Fill the checksum at offset `at` of an upper-layer packet, given the addresses of its pseudo header."""
    whole = pseudo + struct.pack(">IHBB", len(body), 0, 0, protocol) + body
    value = checksum(whole) or 0xFFFF
    return body[:at] + struct.pack(">H", value) + body[at + 2 :]


class Frames:
    """An endless supply of frames; the same seed gives the same ones."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._makers: list[tuple[int, Callable[[], bytes]]] = [
            (30, self._plain4), (8, self._sized4), (6, self._fragment4), (6, self._options4), (6, self._martian4),
            (6, self._local4), (3, self._unrouted4), (20, self._plain6), (6, self._extension6), (4, self._sized6),
            (4, self._local6), (4, self._scoped6), (3, self._tagged), (3, self._link), (16, self._mutated),
        ]  # fmt: skip

    def take(self, count: int) -> list[bytes]:
        """Give the next `count` frames."""
        makers = [maker for weight, maker in self._makers for _ in range(weight)]
        frames: list[bytes] = []
        while len(frames) < count:
            frame = self._rng.choice(makers)()
            if comparable(frame):
                frames.append(frame)
        return frames

    def plain(self, count: int) -> list[bytes]:
        """Give frames that any router forwards, or answers with an error when their time is over."""
        return [self._rng.choice((self._plain4, self._plain6))() for _ in range(count)]

    def _source4(self) -> int:
        return 0xAC100000 | self._rng.getrandbits(20)

    def _source6(self) -> bytes:
        return bytes.fromhex("20010db8000d") + self._rng.randbytes(10)

    def _routed4(self) -> int:
        return 0x0A800000 | self._rng.getrandbits(23)

    def _routed6(self) -> bytes:
        return bytes.fromhex("20010db8000c") + self._rng.randbytes(10)

    def _ttl(self) -> int:
        return self._rng.choice((0, 1, 2, 3, 64, 255, self._rng.randrange(256)))

    def _udp4(self, source: int, destination: int, size: int | None = None) -> bytes:
        data = self._rng.randbytes(self._rng.randrange(60) if size is None else size)
        body = (
            struct.pack(">HHHH", self._rng.randrange(1, 65536), self._rng.randrange(1, 65536), 8 + len(data), 0) + data
        )
        if self._rng.random() < 0.1:
            return body  # no checksum, which IPv4 allows
        return self._sum4(source, destination, body)

    @staticmethod
    def _sum4(source: int, destination: int, body: bytes) -> bytes:
        value = checksum(struct.pack(">IIBBH", source, destination, 0, 17, len(body)) + body) or 0xFFFF
        return body[:6] + struct.pack(">H", value) + body[8:]

    def _udp6(self, source: bytes, destination: bytes, size: int | None = None) -> bytes:
        data = self._rng.randbytes(self._rng.randrange(60) if size is None else size)
        body = (
            struct.pack(">HHHH", self._rng.randrange(1, 65536), self._rng.randrange(1, 65536), 8 + len(data), 0) + data
        )
        return upper(source + destination, 17, body, 6)

    def _packet4(self, destination: int, size: int | None = None, **fields: int | bytes) -> bytes:
        source = self._source4()
        fields.setdefault("ttl", self._ttl())
        fields.setdefault("ident", self._rng.getrandbits(16))
        fields.setdefault("tos", self._rng.getrandbits(8))
        return ip4(source, destination, self._udp4(source, destination, size), **fields)  # type: ignore[arg-type]

    def _plain4(self) -> bytes:
        return ethernet(self._packet4(self._routed4(), flags=self._rng.choice((0, 2))), IPV4)

    def _sized4(self) -> bytes:
        size = self._rng.choice((1371, 1372, 1373, 1380, 1400, 1472, self._rng.randrange(1, 1472)))
        return ethernet(self._packet4(self._routed4(), size, flags=self._rng.choice((0, 2))), IPV4)

    def _fragment4(self) -> bytes:
        flags, offset = self._rng.choice(((1, 0), (1, 185), (0, 185), (1, 8191), (0, 8191), (3, 0), (2, 10), (4, 0)))
        size = self._rng.choice((8, 16, 13, 1400, 1456))
        return ethernet(self._packet4(self._routed4(), size, flags=flags, offset=offset), IPV4)

    def _options4(self) -> bytes:
        options = bytes.fromhex(self._rng.choice(OPTIONS4))
        return ethernet(self._packet4(self._routed4(), self._rng.choice((20, 1380)), options=options), IPV4)

    def _martian4(self) -> bytes:
        address = int(ipaddress.IPv4Address(self._rng.choice(ODD4)))
        if self._rng.random() < 0.5:
            destination = self._routed4()
            return ethernet(ip4(address, destination, self._udp4(address, destination), ttl=self._ttl()), IPV4)
        return ethernet(self._packet4(address, ttl=self._ttl()), IPV4)

    def _local4(self) -> bytes:
        source, destination = self._source4(), int(ipaddress.IPv4Address(self._rng.choice(("10.0.0.1", "10.0.1.1"))))
        kind = self._rng.randrange(4)
        if kind == 0:
            body = struct.pack(">BBHHH", 8, 0, 0, self._rng.getrandbits(16), 1) + self._rng.randbytes(
                self._rng.choice((0, 8, 56, 1400))
            )
            body = body[:2] + struct.pack(">H", checksum(body)) + body[4:]
            return ethernet(
                ip4(source, destination, body, protocol=1, ttl=self._ttl(), ident=1, tos=self._rng.getrandbits(8)), IPV4
            )
        if kind == 1:  # bad ICMP checksum
            return ethernet(ip4(source, destination, b"\x08\0\x12\x34" + bytes(12), protocol=1), IPV4)
        if kind == 2:
            return ethernet(
                ip4(source, destination, self._rng.randbytes(40), protocol=self._rng.choice((3, 47, 89, 99, 200))), IPV4
            )
        return ethernet(ip4(source, destination, self._udp4(source, destination), ttl=self._ttl()), IPV4)

    def _unrouted4(self) -> bytes:
        address = self._rng.choice(("203.0.113.7", "192.0.2.5", "8.8.8.8"))
        return ethernet(self._packet4(int(ipaddress.IPv4Address(address))), IPV4)

    def _packet6(self, destination: bytes, size: int | None = None, hop_limit: int | None = None) -> bytes:
        source = self._source6()
        hops = self._ttl() if hop_limit is None else hop_limit
        return ip6(
            source, destination, self._udp6(source, destination, size), hop_limit=hops, label=self._rng.getrandbits(28)
        )

    def _plain6(self) -> bytes:
        return ethernet(self._packet6(self._routed6()), IPV6)

    def _sized6(self) -> bytes:
        size = self._rng.choice((1351, 1352, 1353, 1400, 1452, self._rng.randrange(1, 1452)))
        return ethernet(self._packet6(self._routed6(), size), IPV6)

    def _extension6(self) -> bytes:
        source, destination = self._source6(), self._routed6()
        body = self._udp6(source, destination)
        option = bytes.fromhex(self._rng.choice(OPTIONS6))
        kind = self._rng.choice((0, 0, 0, 43, 44, 60, 59, 135, 253))
        if kind == 43:
            header = struct.pack(">BBBB", 17, 2, self._rng.choice((0, 2, 4)), self._rng.choice((0, 1))) + bytes(20)
        elif kind == 44:
            header = struct.pack(">BBHI", 17, 0, self._rng.choice((0, 1, 8, 9, 1480)), 7)
        elif kind in (59, 253):
            return ethernet(ip6(source, destination, body, following=kind, hop_limit=self._ttl()), IPV6)
        else:
            header = struct.pack(">BB", 17, self._rng.choice((0, 0, 0, 0, 9))) + option
        return ethernet(ip6(source, destination, header + body, following=kind, hop_limit=self._ttl()), IPV6)

    def _local6(self) -> bytes:
        source, destination = (
            self._source6(),
            ipaddress.IPv6Address(self._rng.choice(("2001:db8:a::1", "2001:db8:b::1"))).packed,
        )
        if self._rng.random() < 0.5:
            body = struct.pack(">BBHHH", 128, 0, 0, self._rng.getrandbits(16), 1) + self._rng.randbytes(
                self._rng.choice((0, 8, 56, 1200))
            )
            if self._rng.random() < 0.9:
                body = upper(source + destination, 58, body, 2)
            return ethernet(ip6(source, destination, body, following=58, hop_limit=self._ttl()), IPV6)
        return ethernet(ip6(source, destination, self._udp6(source, destination), hop_limit=self._ttl()), IPV6)

    def _scoped6(self) -> bytes:
        odd = (
            "::",
            "::1",
            "fe80::1234",
            "ff02::1",
            "ff0e::1",
            "::ffff:10.0.0.9",
            "2001:db8:ffff::1",
            "fec0::1",
            "fc00::1",
        )
        address = ipaddress.IPv6Address(self._rng.choice(odd)).packed
        if self._rng.random() < 0.5:
            destination = self._routed6()
            return ethernet(ip6(address, destination, self._udp6(address, destination), hop_limit=self._ttl()), IPV6)
        return ethernet(self._packet6(address), IPV6)

    def _tagged(self) -> bytes:
        frame = self._plain4()
        return frame[:12] + struct.pack(">HH", 0x8100, self._rng.choice((5, 100, 4095))) + frame[12:]

    def _link(self) -> bytes:
        frame = self._rng.choice((self._plain4, self._plain6))()
        other = self._rng.choice((b"\xff" * 6, bytes.fromhex("01005e000005"), bytes.fromhex("020000009999")))
        if self._rng.random() < 0.3:
            return frame[:12] + struct.pack(">H", self._rng.choice((0x88CC, 0x1234, 0x0600, 46))) + frame[14:]
        return other + frame[6:]

    def _mutated(self) -> bytes:
        frame = bytearray(
            self._rng.choice((self._plain4, self._options4, self._fragment4, self._plain6, self._extension6))()
        )
        for _ in range(self._rng.randrange(1, 4)):
            frame[self._rng.randrange(14, min(len(frame), 74))] = self._rng.getrandbits(8)
        if frame[12:14] == b"\x08\x00" and self._rng.random() < 0.7:  # let it past the checksum
            length = (frame[14] & 15) * 4
            if length >= 20:
                frame[24:26] = b"\0\0"
                frame[24:26] = struct.pack(">H", checksum(bytes(frame[14 : 14 + length])))
        if self._rng.random() < 0.2:
            del frame[self._rng.randrange(15, len(frame)) :]
        return bytes(frame)


def refused4(frame: bytes) -> bool:
    """Tell what the kernel does against the standards, and a VR does not.

    It cuts a fragment that would end beyond 65535 octets into pieces with wrapped offsets, and sends ICMP
    errors to a directed broadcast where that is the source (RFC 1122 section 3.2.2).
    """
    if frame[26:30] in (bytes((10, 0, net, host)) for net in (0, 1) for host in (0, 255)):
        return True
    ends = (
        (int.from_bytes(frame[20:22], "big") & 0x1FFF) * 8 + int.from_bytes(frame[16:18], "big") - (frame[14] & 15) * 4
    )
    return ends > 0xFFFF - 20


def refused6(frame: bytes) -> bool:
    """Tell what a VR does otherwise than the kernel.

    It drops the unspecified destination in silence (RFC 4291 section 2.5.2), and sends an ICMPv6 error to a
    source that is reached by another link than the packet came on from its address on that other link.
    """
    return not any(frame[38:54]) or frame[22:28] == bytes.fromhex("20010db8000c")


def comparable(frame: bytes) -> bool:
    """Leave out what two routers may answer at different times or by design.

    Those are: destinations on a connected network where no host answers ARP (the ICMP error comes
    seconds later), sources whose error would go there, and TCP, SCTP and IGMP to a router itself
    (the kernel has such a host stack, a VR may not).  And what the kernel forwards against the standards, see
    `refused4` and `refused6`.
    """
    if len(frame) < 34 or frame[12:14] not in (b"\x08\x00", b"\x86\xdd"):
        return True
    if frame[12:14] == b"\x08\x00":
        source, destination = ipaddress.ip_address(frame[26:30]), ipaddress.ip_address(frame[30:34])
        protocol = frame[23]
        if refused4(frame):
            return False
    elif len(frame) >= 54:
        source, destination = ipaddress.ip_address(frame[22:38]), ipaddress.ip_address(frame[38:54])
        protocol = frame[20]
        if refused6(frame):
            return False
    else:
        return True
    for address in (source, destination):
        if address not in ROUTER_ADDRESSES | PEERS and any(
            address in network for network in ON_LINK if network.version == address.version
        ):
            return address == source and address.version == 6 and address.is_link_local
    local = destination in ROUTER_ADDRESSES or destination.is_multicast or int(destination) == 0xFFFFFFFF
    return not (local and protocol in (2, 6, 33, 58 if frame[12] == 0x08 else 1, 132, 136))
