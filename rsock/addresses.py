"""Addresses between the forms of `socket` and of the wire.

A scope is the number of an interface of the VR.  What is no number raises NameGivenError: names belong to the
VR's own resolver, and the kernel's must not be asked for another network's.
"""

from __future__ import annotations

import operator
import socket
import struct
from typing import Any, Final

from rsock.client_core import ANY, Endpoint

MAPPED: Final = bytes(10) + b"\xff\xff"
_IN6: Final = struct.Struct("=HHI16sI")
_IN4: Final = struct.Struct("=HH4s8x")


class NameGivenError(Exception):
    """The host of an address is a name."""

    def __init__(self, host: str) -> None:
        super().__init__(host)
        self.host = host


def parse(family: int, address: Any, call: str = "bind") -> Endpoint:
    """Read an address as `bind` or `connect` take it.

    Raises TypeError, OverflowError, NameGivenError, or for a scope that is no number gaierror.
    """
    six = family == socket.AF_INET6
    if not isinstance(address, tuple):
        raise TypeError(f"{call}(): AF_INET{'6' if six else ''} address must be tuple, not {type(address).__name__}")
    if not 2 <= len(address) <= (4 if six else 2):
        raise TypeError(f"{call}(): wrong format for AF_INET{'6' if six else ''} address")
    host, port = _text(address[0]), operator.index(address[1])
    if not 0 <= port <= 0xFFFF:
        raise OverflowError(f"{call}(): port must be 0-65535.")
    if len(address) > 2 and not 0 <= operator.index(address[2]) <= 0xFFFFF:
        raise OverflowError(f"{call}(): flowinfo must be 0-1048575.")
    scope = operator.index(address[3]) if len(address) == 4 else 0
    if "%" in host:
        host, _percent, zone = host.partition("%")
        if not zone.isdecimal():
            raise socket.gaierror(socket.EAI_NONAME, "a scope is the number of an interface of the router")
        scope = int(zone)
    return Endpoint(family, _host(family, host), port, scope)


def parse_own(family: int, address: tuple[str, int]) -> Endpoint:
    """Read an address that a forwarder wrote: for a socket of AF_INET6 an IPv4 one stands for the mapped one."""
    if family == socket.AF_INET6 and ":" not in address[0]:
        return Endpoint(family, MAPPED + socket.inet_aton(address[0]), address[1], 0)
    return parse(family, address)


def _text(host: Any) -> str:
    if isinstance(host, str):
        if "\0" in host:
            raise TypeError("host name must not contain null character")
        return host
    if isinstance(host, bytes | bytearray):
        return bytes(host).decode("ascii")
    raise TypeError(f"str, bytes or bytearray expected, not {type(host).__name__}")


def _host(family: int, host: str) -> bytes:
    if host == "":
        return ANY
    if host == "<broadcast>" and family == socket.AF_INET:
        return b"\xff\xff\xff\xff" + bytes(12)
    try:
        return socket.inet_pton(family, host).ljust(16, b"\0")
    except (OSError, UnicodeError):
        raise NameGivenError(host) from None


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
