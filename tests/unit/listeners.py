"""IGMP and MLD messages, built and read; and a VR with sockets whose time the test makes.

A report reads as one list of records, whatever its version: (type, group, sources), where the types of the old
versions are "report1", "report2" and "leave".
"""

from __future__ import annotations

import dataclasses
import ipaddress
import socket
import struct
import threading
import time
from pathlib import Path
from typing import Final

from fastpath.binding import lib
from tests.unit import packets
from tests.unit.apps import World

RECORDS: Final = {1: "is_in", 2: "is_ex", 3: "to_in", 4: "to_ex", 5: "allow", 6: "block"}
OLD: Final = {0x12: "report1", 0x16: "report2", 0x17: "leave", 131: "report1", 132: "leave"}
IGMP: Final = 2
REPORT3, REPORT_MLD2, QUERY4, QUERY6 = 0x22, 143, 0x11, 130
ALERT4: Final = b"\x94\x04\0\0"
ALERT6: Final = bytes((packets.ICMP6, 0, 5, 2, 0, 0, 1, 0))
QUERIER4, QUERIER6 = "10.0.0.2", "fe80::2"
QUERIER_MAC: Final = bytes.fromhex("020000000002")

Record = tuple[str, str, tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class Report:
    """What a packet that tells of memberships says, and how it travels."""

    source: str
    destination: str
    ttl: int
    tos: int
    alert: bytes  # options of the header, or the hop-by-hop header
    mac: bytes
    flags: int  # of IPv4
    records: tuple[Record, ...]


def is_listener_message(frame: bytes) -> bool:
    """Tell reports, of both families."""
    kind = int.from_bytes(frame[12:14])
    if kind == packets.IP4:
        return frame[23] == IGMP
    return kind == packets.IP6 and frame[20] == 0 and frame[54] == packets.ICMP6 and frame[62] in {131, 132, 143}


def _text(data: bytes) -> str:
    return str(ipaddress.ip_address(data))


def _records(body: bytes, size: int) -> tuple[Record, ...]:
    found: list[Record] = []
    at = 8
    for _ in range(int.from_bytes(body[6:8])):
        kind, auxiliary, count = struct.unpack_from(">BBH", body, at)
        assert auxiliary == 0
        group = _text(body[at + 4 : at + 4 + size])
        at += 4 + size
        sources = sorted(_text(body[at + size * i : at + size * (i + 1)]) for i in range(count))
        found.append((RECORDS[kind], group, tuple(sources)))
        at += size * count
    assert at == len(body), "bytes behind the last record"
    return tuple(sorted(found))


def read_report(frame: bytes) -> Report | None:
    """Read a frame; None where it is no report.  Checksums and lengths are checked."""
    if not is_listener_message(frame):
        return None
    ip = frame[packets.ETHERNET :]
    if ip[0] >> 4 == 4:
        header = (ip[0] & 15) * 4
        total = int.from_bytes(ip[2:4])
        body = ip[header:total]
        assert packets.checksum(ip[:header]) == 0
        assert packets.checksum(body) == 0
        source, destination, size, options = _text(ip[12:16]), _text(ip[16:20]), 4, ip[20:header]
        ttl, tos, flags = ip[8], ip[1], ip[6] >> 5
        group = _text(body[4:8])
    else:
        length = int.from_bytes(ip[4:6])
        source, destination, size, options = _text(ip[8:24]), _text(ip[24:40]), 16, ip[40:48]
        body = ip[48 : 40 + length]
        assert len(body) == length - 8
        pseudo = ip[8:40] + struct.pack(">II", len(body), packets.ICMP6)
        assert packets.checksum(pseudo + body) == 0
        ttl, tos, flags = ip[7], int.from_bytes(ip[:2]) >> 4 & 0xFF, 0
        group = _text(body[8:24])
    if body[0] in {REPORT3, REPORT_MLD2}:
        records = _records(body, size)
    elif body[0] in OLD:
        assert len(body) == (8 if size == 4 else 24)
        records = ((OLD[body[0]], group, ()),)
    else:
        return None
    return Report(source, destination, ttl, tos, options, frame[:6], flags, records)


# --- queries ---


def igmp(kind: int, delay: int, group: str, rest: bytes = b"") -> bytes:
    """Build an IGMP message; delay in tenths of seconds."""
    body = struct.pack(">BBH4s", kind, delay, 0, socket.inet_aton(group)) + rest
    return body[:2] + struct.pack(">H", packets.checksum(body)) + body[4:]


def frame4(body: bytes, destination: str, *, ttl: int = 1, source: str = QUERIER4) -> bytes:
    """Put an IGMP message into a frame."""
    ip = struct.pack(
        ">BBHHHBBH4s4s4s", 0x46, 0xC0, 24 + len(body), 0, 0, ttl, IGMP, 0,
        socket.inet_aton(source), socket.inet_aton(destination), ALERT4,
    )  # fmt: skip
    ip = ip[:10] + struct.pack(">H", packets.checksum(ip)) + ip[12:]
    mac = b"\x01\x00\x5e" + bytes((socket.inet_aton(destination)[1] & 0x7F,)) + socket.inet_aton(destination)[2:]
    return packets.ethernet(mac, QUERIER_MAC, packets.IP4, ip + body)


def query4(
    version: int, delay: int = 100, group: str = "0.0.0.0", sources: tuple[str, ...] = (), *,
    robustness: int = 2, interval: int = 125, ttl: int = 1,
) -> bytes:  # fmt: skip
    """Build a frame with an IGMP query; delay in tenths of seconds."""
    rest = b""
    if version == 3:
        rest = struct.pack(">BBH", robustness, interval, len(sources)) + b"".join(map(socket.inet_aton, sources))
    body = igmp(QUERY4, 0 if version == 1 else delay, group, rest)
    return frame4(body, "224.0.0.1" if group == "0.0.0.0" else group, ttl=ttl)


def mld(kind: int, delay: int, group: str, destination: str, rest: bytes = b"", *, source: str = QUERIER6) -> bytes:
    """Build an MLD message with its checksum; delay in milliseconds."""
    body = struct.pack(">BBHHH16s", kind, 0, 0, delay, 0, packets.address(group)) + rest
    pseudo = packets.address(source) + packets.address(destination) + struct.pack(">II", len(body), packets.ICMP6)
    return body[:2] + struct.pack(">H", packets.checksum(pseudo + body)) + body[4:]


def frame6(
    body: bytes, destination: str, *, hop_limit: int = 1, source: str = QUERIER6, alert: bytes = ALERT6
) -> bytes:
    """Put an MLD message into a frame."""
    ip = struct.pack(">IHBB", 6 << 28, len(alert) + len(body), 0 if alert else packets.ICMP6, hop_limit)
    ip += packets.address(source) + packets.address(destination) + alert + body
    return packets.ethernet(packets.group_mac(destination), QUERIER_MAC, packets.IP6, ip)


def query6(
    version: int, delay: int = 10000, group: str = "::", sources: tuple[str, ...] = (), *,
    robustness: int = 2, interval: int = 125, source: str = QUERIER6, hop_limit: int = 1, alert: bytes = ALERT6,
) -> bytes:  # fmt: skip
    """Build a frame with an MLD query; delay in milliseconds."""
    rest = b""
    if version == 2:
        rest = struct.pack(">BBH", robustness, interval, len(sources)) + b"".join(map(packets.address, sources))
    destination = "ff02::1" if group == "::" else group
    body = mld(QUERY6, delay, group, destination, rest, source=source)
    return frame6(body, destination, hop_limit=hop_limit, source=source, alert=alert)


# --- options of sockets ---

ADD, DROP, UNBLOCK, BLOCK, ADD_SOURCE, DROP_SOURCE, MSFILTER = 35, 36, 37, 38, 39, 40, 41
JOIN_GROUP, BLOCK_GROUP, UNBLOCK_GROUP, LEAVE_GROUP, JOIN_SOURCE, LEAVE_SOURCE, GROUP_FILTER = range(42, 49)
ALL4, ALL6 = 49, 29
EXCLUDE, INCLUDE = 0, 1


def mreq(group: str, interface: str = "10.0.0.1") -> bytes:
    """Write struct ip_mreq."""
    return socket.inet_aton(group) + socket.inet_aton(interface)


def mreq_source(group: str, source: str, interface: str = "10.0.0.1") -> bytes:
    """Write struct ip_mreq_source."""
    return mreq(group, interface) + socket.inet_aton(source)


def mreq6(group: str, interface: int = 1) -> bytes:
    """Write struct ipv6_mreq."""
    return packets.address(group) + struct.pack("=I", interface)


def storage(address: str) -> bytes:
    """Write struct sockaddr_storage."""
    packed = packets.address(address)
    head = struct.pack("=HH", socket.AF_INET, 0) if len(packed) == 4 else struct.pack("=HHI", socket.AF_INET6, 0, 0)
    return (head + packed).ljust(128, b"\0")


def group_req(group: str, interface: int = 1) -> bytes:
    """Write struct group_req."""
    return struct.pack("=II", interface, 0) + storage(group)


def group_source(group: str, source: str, interface: int = 1) -> bytes:
    """Write struct group_source_req."""
    return group_req(group, interface) + storage(source)


def msfilter(group: str, mode: int, *sources: str, interface: str = "10.0.0.1", count: int | None = None) -> bytes:
    """Write struct ip_msfilter."""
    number = len(sources) if count is None else count
    return mreq(group, interface) + struct.pack("=II", mode, number) + b"".join(map(socket.inet_aton, sources))


def group_filter(group: str, mode: int, *sources: str, interface: int = 1, count: int | None = None) -> bytes:
    """Write struct group_filter."""
    number = len(sources) if count is None else count
    return group_req(group, interface) + struct.pack("=II", mode, number) + b"".join(map(storage, sources))


class Still(World):
    """A VR whose sockets work in real time, while its clock stands until the test moves it."""

    def __init__(self, folder: Path) -> None:
        self._lock = threading.Lock()
        super().__init__(folder)

    def _run(self) -> None:
        while not self._stop:
            with self._lock:
                handled = lib.core_poll(self.router.core, self.router.now)
            if handled == 0:
                time.sleep(0.0002)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        with self._lock:
            self.router.advance(seconds)

    def hear(self, frame: bytes) -> None:
        """Put a frame on the wire of `a`."""
        with self._lock:
            self.router.ports[1].send(frame)
            self.router.poll()

    def reports(self, family: int = 4) -> list[Report]:
        """Take the reports of one family that were sent on `a` until now; those of the other are lost."""
        with self._lock:
            self.router.poll()
            frames = [frame for frame, _vnet in self.router.ports[1].receive()]
        read = [report for report in map(read_report, frames) if report is not None]
        return [report for report in read if (":" in report.destination) == (family == 6)]

    def told(self, seconds: float = 0, family: int = 4) -> list[Record]:
        """Let time pass; give the records that were sent until then, in order."""
        self.advance(seconds)
        return [record for report in self.reports(family) for record in report.records]
