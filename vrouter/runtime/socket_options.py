"""What an instance wants of a socket as options of the socket layer, those of Linux: ip(7), ipv6(7), tcp(7)."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from typing import Final

from rsock.client_core import Endpoint
from vrouter.net.address import IPV4, Address, packed
from vrouter.proto.base import Md5Key, OpenSocket, SocketKind

# Of the kernel's headers; not all of them are in `socket`.
SO_BINDTOIFINDEX: Final = 62
IP_MINTTL: Final = 21
IP_MULTICAST_ALL: Final = 49
IPV6_MINHOPCOUNT: Final = 73
IPV6_MULTICAST_ALL: Final = 29
TCP_MD5SIG_EXT: Final = 32
_MD5_PREFIX: Final = 1
_MD5: Final = struct.Struct("=128sBBHi80s")  # struct tcp_md5sig
_INT: Final = struct.Struct("=i")
_MREQN: Final = struct.Struct("=4s4si")
_MREQ6: Final = struct.Struct("=16sI")
_SOCKADDR4: Final = struct.Struct("=HH4s")
_SOCKADDR6: Final = struct.Struct("=HHI16sI")
_LINGER: Final = struct.Struct("=ii")

Option = tuple[int, int, bytes]
Index = Callable[[str], int]  # of an interface; raises OSError (ENODEV)


def af(family: int) -> int:
    """Give the AF_* of a family."""
    return socket.AF_INET if family == IPV4 else socket.AF_INET6


def endpoint(family: int, address: Address | None, port: int, interface: int = 0) -> Endpoint:
    """Write an address as the forwarder wants it."""
    return Endpoint(af(family), bytes(16) if address is None else packed(*address), port, interface)


def options(wanted: OpenSocket, index: Index) -> Iterator[Option]:
    """Give the options that a new socket needs before it is bound.  Raises OSError for an unknown interface."""
    stream = wanted.kind in {SocketKind.LISTEN, SocketKind.CONNECT}
    if wanted.interface:
        yield socket.SOL_SOCKET, SO_BINDTOIFINDEX, _INT.pack(index(wanted.interface))
    if wanted.kind is not SocketKind.RAW:
        yield socket.SOL_SOCKET, socket.SO_REUSEADDR, _INT.pack(1)
    if wanted.broadcast:
        yield socket.SOL_SOCKET, socket.SO_BROADCAST, _INT.pack(1)
    if wanted.family != IPV4 and wanted.kind is not SocketKind.RAW:
        yield socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, _INT.pack(1)
    if wanted.ttl:
        yield ttl(wanted.family, wanted.ttl)
    if wanted.tos:
        yield (
            (socket.IPPROTO_IP, socket.IP_TOS, _INT.pack(wanted.tos))
            if wanted.family == IPV4
            else (socket.IPPROTO_IPV6, socket.IPV6_TCLASS, _INT.pack(wanted.tos))
        )
    if stream:
        yield socket.IPPROTO_TCP, socket.TCP_NODELAY, _INT.pack(1)
        if wanted.min_ttl:
            yield min_ttl(wanted.family, wanted.min_ttl)
        for key in wanted.md5:
            yield md5(key)
    else:
        yield from _multicast(wanted)
        for interface, group in wanted.groups:
            yield membership(wanted.family, group, index(interface), join=True)


def _multicast(wanted: OpenSocket) -> Iterator[Option]:
    """What is sent does not come back, and only groups that the socket itself has joined are heard."""
    if wanted.family == IPV4:
        yield socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, _INT.pack(0)
        yield socket.IPPROTO_IP, IP_MULTICAST_ALL, _INT.pack(0)
        if wanted.ttl:
            yield socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, _INT.pack(wanted.ttl)
        return
    yield socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, _INT.pack(0)
    yield socket.IPPROTO_IPV6, IPV6_MULTICAST_ALL, _INT.pack(0)
    if wanted.ttl:
        yield socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, _INT.pack(wanted.ttl)


def ttl(family: int, value: int) -> Option:
    """Set what is sent."""
    if family == IPV4:
        return socket.IPPROTO_IP, socket.IP_TTL, _INT.pack(value)
    return socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, _INT.pack(value)


def min_ttl(family: int, value: int) -> Option:
    """Set what is taken (RFC 5082)."""
    if family == IPV4:
        return socket.IPPROTO_IP, IP_MINTTL, _INT.pack(value)
    return socket.IPPROTO_IPV6, IPV6_MINHOPCOUNT, _INT.pack(value)


def membership(family: int, group: Address, interface: int, *, join: bool) -> Option:
    """Join or leave a group."""
    if family == IPV4:
        name = socket.IP_ADD_MEMBERSHIP if join else socket.IP_DROP_MEMBERSHIP
        return socket.IPPROTO_IP, name, _MREQN.pack(packed(*group)[:4], bytes(4), interface)
    name = socket.IPV6_JOIN_GROUP if join else socket.IPV6_LEAVE_GROUP
    return socket.IPPROTO_IPV6, name, _MREQ6.pack(packed(*group), interface)


def md5(key: Md5Key) -> Option:
    """Set the key of some peers, or take it away."""
    prefix = key.peers
    address = packed(prefix.family, prefix.value)
    if prefix.family == IPV4:
        peers = _SOCKADDR4.pack(socket.AF_INET, 0, address[:4])
    else:
        peers = _SOCKADDR6.pack(socket.AF_INET6, 0, 0, address, 0)
    value = _MD5.pack(peers, _MD5_PREFIX, prefix.length, len(key.key), 0, key.key)
    return socket.IPPROTO_TCP, TCP_MD5SIG_EXT, value


def reset() -> Option:
    """Let the end of a stream be a reset."""
    return socket.SOL_SOCKET, socket.SO_LINGER, _LINGER.pack(1, 0)
