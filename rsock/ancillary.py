"""Ancillary data of recvmsg and sendmsg: packet info, TTL, time stamps, the error queue.

ip(7), ipv6(7), RFC 3542.  Connected sockets carry bare payloads and therefore none of it.
"""

from __future__ import annotations

import errno
import operator
import socket
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from rsock import addresses
from rsock.client_core import Datagram

# Of the kernel's headers; not all of them are in `socket`.
IP_PKTINFO: Final = 8
IP_RECVERR: Final = 11
IP_RECVTTL: Final = 12
IP_RECVTOS: Final = 13
IPV6_RECVERR: Final = 25
SO_TIMESTAMP: Final = 29
SO_TIMESTAMPNS: Final = 35
ORIGIN_LOCAL, ORIGIN_ICMP, ORIGIN_ICMP6 = 1, 2, 3

_INT: Final = struct.Struct("=i")
_PKTINFO: Final = struct.Struct("=i4s4s")
_PKTINFO6: Final = struct.Struct("=16sI")
_TIME: Final = struct.Struct("=qq")
_EXTENDED_ERROR: Final = struct.Struct("=IBBBBII")

Item = tuple[int, int, bytes]
Options = set[tuple[int, int]]

# Options that ask for an item; a socket remembers which are on.
ASKING: Final = frozenset({
    (socket.IPPROTO_IP, IP_PKTINFO), (socket.IPPROTO_IP, IP_RECVTTL), (socket.IPPROTO_IP, IP_RECVTOS),
    (socket.IPPROTO_IP, IP_RECVERR), (socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO),
    (socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT), (socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS),
    (socket.IPPROTO_IPV6, IPV6_RECVERR), (socket.SOL_SOCKET, SO_TIMESTAMP), (socket.SOL_SOCKET, SO_TIMESTAMPNS),
})  # fmt: skip

ASKING_ERRORS: Final = frozenset({(socket.IPPROTO_IP, IP_RECVERR), (socket.IPPROTO_IPV6, IPV6_RECVERR)})


def received(family: int, header: Datagram, options: Options) -> list[Item]:
    """Give the items that a socket of `family` asked for."""
    items = []
    if header.family == 4:
        if (socket.IPPROTO_IP, IP_PKTINFO) in options:
            local = header.local[:4]
            items.append((socket.IPPROTO_IP, IP_PKTINFO, _PKTINFO.pack(header.interface, local, local)))
        if (socket.IPPROTO_IP, IP_RECVTTL) in options:
            items.append((socket.IPPROTO_IP, socket.IP_TTL, _INT.pack(header.ttl)))
        if (socket.IPPROTO_IP, IP_RECVTOS) in options:
            items.append((socket.IPPROTO_IP, socket.IP_TOS, bytes([header.tos])))
    if family == socket.AF_INET6:
        if (socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO) in options:
            local = header.local if header.family == 6 else addresses.MAPPED + header.local[:4]
            items.append((socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _PKTINFO6.pack(local, header.interface)))
        if (socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT) in options:
            items.append((socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT, _INT.pack(header.ttl)))
        if (socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS) in options:
            items.append((socket.IPPROTO_IPV6, socket.IPV6_TCLASS, _INT.pack(header.tos)))
    return items + _stamps(header, options)


def _stamps(header: Datagram, options: Options) -> list[Item]:
    asked = [name for level, name in options if level == socket.SOL_SOCKET]
    if not asked:
        return []
    # The forwarder's clock is CLOCK_BOOTTIME; apps expect the time of day.
    stamp = header.timestamp + time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    seconds, nanoseconds = divmod(stamp, 1_000_000_000)
    units = {SO_TIMESTAMP: nanoseconds // 1000, SO_TIMESTAMPNS: nanoseconds}
    return [(socket.SOL_SOCKET, name, _TIME.pack(seconds, units[name])) for name in asked if name in units]


def error(header: Datagram) -> Item:
    """Give the item of an error-queue record."""
    four = header.family == 4
    origin = (ORIGIN_ICMP if four else ORIGIN_ICMP6) if header.is_icmp else ORIGIN_LOCAL
    data = _EXTENDED_ERROR.pack(header.error, origin, header.icmp_type, header.icmp_code, 0, header.info, 0)
    offender = addresses.sockaddr(header.family, header.local, header.interface) if header.is_icmp else bytes(16)
    if four:
        return socket.IPPROTO_IP, IP_RECVERR, data + offender
    return socket.IPPROTO_IPV6, IPV6_RECVERR, data + offender


def fit(items: list[Item], room: int) -> tuple[list[Item], bool]:
    """Keep the items that fit into a control buffer; tell whether some did not."""
    kept: list[Item] = []
    for item in items:
        room -= socket.CMSG_SPACE(len(item[2]))
        if room < 0:
            return kept, True
        kept.append(item)
    return kept, False


@dataclass(slots=True)
class Wishes:
    """What sendmsg was asked for about one datagram."""

    source: bytes | None = None  # None: the socket's
    interface: int = 0
    ttl: int = 0  # 0: the socket's
    tos: int | None = None  # None: the socket's


def to_send(items: Iterable[tuple[int, int, Any]]) -> Wishes:
    """Read what sendmsg was given.  Raises TypeError, and as Linux OSError (EINVAL) for what it does not know."""
    wishes = Wishes()
    for level, kind, raw in [_plain(item) for item in items]:
        if level not in {socket.IPPROTO_IP, socket.IPPROTO_IPV6}:
            continue  # as Linux, which leaves it to others
        try:
            _wish(wishes, level, kind, raw)
        except (struct.error, KeyError):
            raise OSError(errno.EINVAL, f"ancillary data {level}/{kind} of {len(raw)} bytes") from None
    return wishes


def _plain(item: Any) -> tuple[int, int, bytes]:
    try:
        level, kind, data = item
    except (TypeError, ValueError):
        raise TypeError("an item of ancillary data has level, type and data") from None
    return operator.index(level), operator.index(kind), bytes(memoryview(data))


def _wish(wishes: Wishes, level: int, kind: int, raw: bytes) -> None:
    if (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO):
        wishes.interface, local, _destination = _PKTINFO.unpack(raw)
        wishes.source = local.ljust(16, b"\0") if any(local) else None
    elif (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
        local, wishes.interface = _PKTINFO6.unpack(raw)
        wishes.source = local if any(local) else None
    elif (level, kind) in {(socket.IPPROTO_IP, socket.IP_TTL), (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT)}:
        (ttl,) = _INT.unpack(raw)
        wishes.ttl = _within(ttl, -1)
    elif (level, kind) in {(socket.IPPROTO_IP, socket.IP_TOS), (socket.IPPROTO_IPV6, socket.IPV6_TCLASS)}:
        tos = raw[0] if len(raw) == 1 and level == socket.IPPROTO_IP else _INT.unpack(raw)[0]
        wishes.tos = _within(tos, -1)
    else:
        raise KeyError(kind)


def _within(number: int, default: int) -> int:
    """Give a byte; -1 stands for the socket's own."""
    if not default <= number <= 255:
        raise KeyError(number)
    return max(number, 0)
