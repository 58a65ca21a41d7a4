"""Addresses between the forms of `socket` and of the wire.

Inside a virtual router a host is always a numeric address: there is no resolver yet, and the kernel's
must not be asked for another network's names.  A scope is the number of an interface of the VR.
"""

from __future__ import annotations

import socket
import struct
from typing import Any, Final

from rsock.client_core import ANY, Endpoint

MAPPED: Final = bytes(10) + b"\xff\xff"
_IN6: Final = struct.Struct("=HHI16sI")
_IN4: Final = struct.Struct("=HH4s8x")


def parse(family: int, address: Any) -> Endpoint:
    """Read an address as `bind` or `connect` take it.  Raises TypeError, OverflowError or gaierror."""
    if not isinstance(address, tuple) or not address or len(address) > (4 if family == socket.AF_INET6 else 2):
        raise TypeError(f"wrong address for this family: {address!r}")
    host, port = address[0], address[1] if len(address) > 1 else 0
    if not isinstance(host, str) or not isinstance(port, int):
        raise TypeError("an address is (host: str, port: int, ...)")
    if not 0 <= port <= 0xFFFF:
        raise OverflowError("port must be 0-65535.")
    scope = address[3] if len(address) == 4 else 0
    host, percent, zone = host.partition("%")
    if percent:
        if not zone.isdecimal():
            raise socket.gaierror(socket.EAI_NONAME, "a scope is the number of an interface of the router")
        scope = int(zone)
    return Endpoint(family, _host(family, host), port, scope)


def _host(family: int, host: str) -> bytes:
    if host == "":
        return ANY
    if host == "<broadcast>":
        host = "255.255.255.255"
    try:
        return socket.inet_pton(family, host).ljust(16, b"\0")
    except OSError:
        raise socket.gaierror(socket.EAI_NONAME, f"{host!r} is no numeric address of this family") from None


def packet_form(endpoint: Endpoint) -> tuple[int, bytes]:
    """Give the family of the packets (4 or 6) and the address in them."""
    if endpoint.family == socket.AF_INET:
        return 4, endpoint.address
    if endpoint.address.startswith(MAPPED):
        return 4, endpoint.address[12:].ljust(16, b"\0")
    return 6, endpoint.address


def show(endpoint: Endpoint) -> tuple[Any, ...]:
    """Write an address as `getsockname` gives it."""
    return show_parts(endpoint.family, endpoint.address, endpoint.port, endpoint.interface)


def show_parts(family: int, address: bytes, port: int, interface: int) -> tuple[Any, ...]:
    """Write the parts of an address of a socket of `family` (AF_*)."""
    if family == socket.AF_INET:
        return socket.inet_ntop(family, address[:4]), port
    scoped = (address[0] == 0xFE and address[1] & 0xC0 == 0x80) or (address[0] == 0xFF and address[1] & 15 in {1, 2})
    return socket.inet_ntop(family, address), port, 0, interface if scoped else 0


def show_packet(family: int, packet_family: int, address: bytes, port: int, interface: int) -> tuple[Any, ...]:
    """Write the address in a packet of family 4 or 6 as a socket of `family` (AF_*) names it."""
    if family == socket.AF_INET6 and packet_family == 4:
        address = MAPPED + address[:4]
    return show_parts(family, address, port, interface)


def sockaddr(packet_family: int, address: bytes, interface: int) -> bytes:
    """Write a struct sockaddr_in or sockaddr_in6."""
    if packet_family == 4:
        return _IN4.pack(socket.AF_INET, 0, address[:4])
    return _IN6.pack(socket.AF_INET6, 0, 0, address, interface)
