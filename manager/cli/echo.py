"""ICMP and ICMPv6 echo over Linux' ping sockets, and the errors that routers send back.

A ping socket takes and gives ICMP messages without the IP header; the identifier is the socket's own
and so is the checksum.  `vr ping` and `vr traceroute` are ordinary apps over `rsock`.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from dataclasses import dataclass
from typing import Any, Final

from manager.cli.errors import CliError, Exit, usage

_HEADER: Final = struct.Struct(">BBHHH")  # type, code, checksum, identifier, sequence
_EXTENDED_ERROR: Final = struct.Struct("=IBBBBII")  # struct sock_extended_err
ECHO_REQUEST: Final[dict[int, int]] = {socket.AF_INET: 8, socket.AF_INET6: 128}
ECHO_REPLY: Final[dict[int, int]] = {socket.AF_INET: 0, socket.AF_INET6: 129}
# Linux' numbers, which the socket module does not have in 3.11.
IP_RECVERR: Final = 11
IP_RECVTTL: Final = 12
IPV6_RECVERR: Final = 25
IPV6_RECVHOPLIMIT: Final = 51
IPV6_HOPLIMIT: Final = 52
SO_EE_ORIGINS_ICMP: Final = frozenset({2, 3})

# (family, type, code) -> words; RFC 792, RFC 1812 section 5.2.7, RFC 4443 section 3.
_MEANINGS: Final = {
    (4, 3, 0): "destination network unreachable",
    (4, 3, 1): "destination host unreachable",
    (4, 3, 2): "destination protocol unreachable",
    (4, 3, 3): "destination port unreachable",
    (4, 3, 4): "fragmentation needed",
    (4, 3, 9): "network administratively prohibited",
    (4, 3, 10): "host administratively prohibited",
    (4, 3, 13): "communication administratively prohibited",
    (4, 11, 0): "time to live exceeded",
    (4, 11, 1): "fragment reassembly time exceeded",
    (6, 1, 0): "no route to destination",
    (6, 1, 1): "administratively prohibited",
    (6, 1, 3): "address unreachable",
    (6, 1, 4): "port unreachable",
    (6, 2, 0): "packet too big",
    (6, 3, 0): "hop limit exceeded",
    (6, 3, 1): "fragment reassembly time exceeded",
}


@dataclass(frozen=True)
class IcmpError:
    """What somebody on the way said of a packet of ours."""

    reporter: str | None  # None: our own router
    kind: int
    code: int
    error: int  # errno
    payload: bytes  # what we had sent, as much as came back

    def words(self, family: int) -> str:
        """Say it in words."""
        if self.reporter is None:
            return os.strerror(self.error).lower()
        version = 4 if family == socket.AF_INET else 6
        return _MEANINGS.get((version, self.kind, self.code), f"ICMP type {self.kind} code {self.code}")

    @property
    def time_exceeded(self) -> bool:
        """Tell a router on the way from the end of it."""
        return self.code == 0 and self.kind in (3, 11)


def parse_address(text: str) -> tuple[int, str]:
    """Give family and canonical text of an address; names are not looked up."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        raise usage(f"'{text}' is no IPv4 or IPv6 address") from None
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    return family, str(address) + text[len(text.partition("%")[0]) :]


def request(family: int, sequence: int, payload: bytes) -> bytes:
    """Write an echo request."""
    return _HEADER.pack(ECHO_REQUEST[family], 0, 0, 0, sequence & 0xFFFF) + payload


def reply_sequence(family: int, message: bytes) -> int | None:
    """Give the sequence number of an echo reply; None for anything else."""
    if len(message) < _HEADER.size:
        return None
    kind, _code, _sum, _identifier, sequence = _HEADER.unpack_from(message)
    return int(sequence) if kind == ECHO_REPLY[family] else None


def request_sequence(payload: bytes) -> int | None:
    """Give the sequence number of one of our requests that came back in an error."""
    return int(_HEADER.unpack_from(payload)[4]) if len(payload) >= _HEADER.size else None


def want_errors_and_ttl(sock: socket.socket) -> None:
    """Ask for the TTL of answers and for the error queue."""
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)


def set_ttl(sock: socket.socket, ttl: int) -> None:
    """Set the TTL or hop limit of what is sent."""
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, ttl)


def received_ttl(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    """Find the TTL in ancillary data."""
    wanted = {(socket.IPPROTO_IP, socket.IP_TTL), (socket.IPPROTO_IPV6, IPV6_HOPLIMIT)}
    for level, kind, data in ancillary:
        if (level, kind) in wanted:
            return int.from_bytes(data[:4], "little") if len(data) >= 4 else data[0]
    return None


def take_error(sock: socket.socket) -> IcmpError | None:
    """Take one record off the error queue; None when it is empty."""
    try:
        payload, ancillary, _flags, _address = sock.recvmsg(2048, 512, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None
    for level, kind, data in ancillary:
        if (level, kind) in {(socket.IPPROTO_IP, IP_RECVERR), (socket.IPPROTO_IPV6, IPV6_RECVERR)}:
            return _parse_error(data, payload)
    return None


def _parse_error(data: bytes, payload: bytes) -> IcmpError:
    error, origin, kind, code, _pad, _info, _data = _EXTENDED_ERROR.unpack_from(data)
    offender = data[_EXTENDED_ERROR.size :]
    reporter = None
    if origin in SO_EE_ORIGINS_ICMP and len(offender) >= 8:
        (family,) = struct.unpack_from("=H", offender)
        if family == socket.AF_INET:
            reporter = str(ipaddress.IPv4Address(offender[4:8]))
        elif family == socket.AF_INET6 and len(offender) >= 24:
            reporter = str(ipaddress.IPv6Address(offender[8:24]))
    return IcmpError(reporter, kind, code, error, payload)


def open_socket(request_: Any, family: int, kind: int, protocol: int) -> socket.socket:
    """Open a socket in the router that the command names; what fails becomes the operator's sentence."""
    import rsock  # ZeroMQ takes 45 ms to import: only commands that need it pay
    from manager.cli.segments import check_router

    router = request_["router"]
    check_router(request_.run_dir, router)
    context = rsock.Context(f"ipc://{request_.run_dir / 'rsock.sock'}")
    try:
        made: socket.socket = rsock.socket(family, kind, protocol, vr=router, ctx=context)
    except PermissionError:
        raise CliError(f"{router}: you may not open this socket; see rsock.rules", "denied", Exit.UNREACHABLE) from None
    except LookupError:
        raise usage(f"the broker knows no router '{router}'") from None
    except OSError as error:
        raise CliError(f"{router}: {error.strerror or error}", "unreachable", Exit.UNREACHABLE) from None
    return made
