"""The app's half of both protocols in `wire`, without any I/O.

    Requests               numbers requests, remembers them for repetition, matches replies
    parse_frames           a message of the broker: [header, msgpack map]
    parse_record           one of a forwarder: header + body
    *_body, parse_*        the bodies of operations, and of their replies
    Datagram               the record on a datagram socket's fd
    Accepted, FdName       what the name of a fd tells

A request keeps its number when it is repeated, so that whoever answers can tell a repetition and executes it once.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import msgpack

from rsock.wire import DATAGRAM, HEADER, MAGIC, VERSION, DatagramFlag, Flag, Op, layout

_OPEN: Final = layout("rsock_open")
_IDENTITY: Final = layout("rsock_identity")
CURVE: Final = 3  # `rsock_identity.kind`
_OPENED: Final = layout("rsock_opened")
_DIAL: Final = layout("rsock_dial")
_NAME: Final = layout("rsock_name")
_OPTION: Final = layout("rsock_option")
_FILLER: Final = layout("rsock_filler")
_KEPT: Final = layout("rsock_kept")
_LISTEN: Final = layout("rsock_listen")
_RESOLVED: Final = layout("rsock_resolved")
_NAMED: Final = re.compile(
    rb"\0rsk1/(?P<vr>[^/]*)/(?P<kind>[tur][46])/(?:p=.*/)?(?P<slot>[0-9a-f]{1,6})\.(?P<nonce>[0-9a-f]{1,16})"
)
_ACCEPTED: Final = re.compile(
    rb"\0rsk1/[^/]*/t[46]/p=(?P<peer>[^/]+):(?P<port>\d{1,5})/(?:l=(?P<local>[^/]+):(?P<local_port>\d{1,5}))?/"
    rb"(?P<slot>[0-9a-f]{1,6})\.(?P<nonce>[0-9a-f]{1,11})"
)
EPROTO: Final = 71
AF_INET: Final = 2
AF_INET6: Final = 10
_FD_TYPES: Final = {b"t": 1, b"u": 2, b"r": 3}  # SOCK_STREAM, SOCK_DGRAM, SOCK_RAW
ANY: Final = bytes(16)
# As plain numbers: operations on enumerations cost a microsecond, and these are for each datagram.
_LOCAL: Final = int(DatagramFlag.LOCAL)
_ERROR: Final = int(DatagramFlag.ERROR)
_TOS: Final = int(DatagramFlag.TOS)


class ProtocolError(ValueError):
    """A peer sent what the protocol does not know."""


@dataclass(frozen=True, slots=True)
class Message:
    """A reply, or an unasked message of a stream (Flag.DATA)."""

    op: int
    flags: int
    session: int
    request: int
    error: int
    body: bytes

    @property
    def is_reply(self) -> bool:
        """Tell an answer from an event."""
        return bool(self.flags & Flag.REPLY) and not self.flags & Flag.DATA


class Requests:
    """Numbers of requests; one for each connection."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)  # threads may share it
        self.session = 0

    def header(self, op: Op, slot: int = 0, cookie: int = 0, flags: int = 0) -> tuple[int, bytes]:
        """Give the number of a new request and its header."""
        number = next(self._numbers)
        return number, HEADER.pack(MAGIC, op, flags, self.session, number, slot, 0, cookie)

    def broker(self, op: Op, body: dict[str, Any]) -> tuple[int, list[bytes]]:
        """Give the number and frames of a new request to the broker."""
        number, header = self.header(op)
        packed: Any = msgpack.packb(body)
        return number, [header, bytes(packed)]


def parse(header: bytes, body: bytes) -> Message:
    """Read a header.  Raises ProtocolError."""
    if len(header) < HEADER.size:
        raise ProtocolError("short header")
    magic, op, flags, session, request, _slot, error, _cookie = HEADER.unpack_from(header)
    if magic != MAGIC:
        raise ProtocolError("not rsock")
    if flags & Flag.ERROR and error == 0:
        error = EPROTO
    return Message(op, flags, session, request, error if flags & Flag.ERROR else 0, body)


def parse_frames(frames: list[bytes]) -> Message:
    """Read a message of the broker.  Raises ProtocolError."""
    if len(frames) != 2:
        raise ProtocolError(f"{len(frames)} frames")
    return parse(frames[0], frames[1])


def parse_record(record: bytes) -> Message:
    """Read a record of a forwarder.  Raises ProtocolError."""
    return parse(record, record[HEADER.size :])


def unpack_map(body: bytes) -> dict[str, Any]:
    """Read a msgpack map.  Raises ProtocolError."""
    try:
        value = msgpack.unpackb(body, raw=False, strict_map_key=True)
    except Exception as error:
        raise ProtocolError(f"not msgpack: {error}") from error
    if not isinstance(value, dict):
        raise ProtocolError("not a map")
    return value


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address as the forwarder writes it: 16 bytes, IPv4 in the first four."""

    family: int  # AF_*; 0: none
    address: bytes
    port: int
    interface: int


@dataclass(frozen=True, slots=True)
class Names:
    """Both ends of a socket; `remote` is None when it is not connected."""

    local: Endpoint
    remote: Endpoint | None


def open_body(family: int, kind: int, protocol: int, token: bytes, app: bytes, key: bytes = b"") -> bytes:
    """Write OPEN; `app` is the name that operators see, `key` the CURVE key of whom the relay asks for."""
    identity = _IDENTITY.pack(CURVE, key) if key else b""
    return _OPEN.pack(family, kind, protocol, len(identity), token) + identity + app[:15]


def parse_opened(body: bytes) -> tuple[int, int, int]:
    """Read the reply of OPEN: slot, rights, cookie."""
    if len(body) < _OPENED.size:
        raise ProtocolError("short reply")
    slot, rights, cookie = _OPENED.unpack_from(body)
    return slot, rights, cookie


def name_body(endpoint: Endpoint) -> bytes:
    """Write BIND or CONNECT."""
    return _NAME.pack(endpoint.family, endpoint.port, endpoint.interface, endpoint.address, 0, 0, 0, ANY)


def parse_names(body: bytes) -> Names:
    """Read the reply of BIND, CONNECT or NAME."""
    if len(body) < _NAME.size:
        raise ProtocolError("short reply")
    family, port, interface, address, far_family, far_port, far_interface, far = _NAME.unpack_from(body)
    remote = Endpoint(far_family, far, far_port, far_interface) if far_family else None
    return Names(Endpoint(family, address, port, interface), remote)


def keeping_body(endpoint: Endpoint) -> bytes:
    """Write CONNECT of a datagram socket, from those who give back what came before."""
    return name_body(endpoint) + _KEPT.pack(0)


def parse_kept(body: bytes) -> bool | None:
    """Tell from the reply whether something came before, up to a mark; None: nobody knows."""
    return bool(_KEPT.unpack_from(body, _NAME.size)[0]) if len(body) >= _NAME.size + _KEPT.size else None


def dial_body(family: int, protocol: int, endpoint: Endpoint, app: bytes) -> bytes:
    """Write DIAL."""
    return _DIAL.pack(family, protocol, 0) + name_body(endpoint) + app[:15]


def parse_dialed(body: bytes) -> tuple[int, int, Names]:
    """Read the reply of DIAL: slot, cookie, names."""
    slot, _rights, cookie = parse_opened(body)
    return slot, cookie, parse_names(body[_OPENED.size :])


def connect_body(endpoint: Endpoint, filler: int) -> bytes:
    """Write CONNECT of a stream socket, whose fd will be filled with that many bytes."""
    return name_body(endpoint) + _FILLER.pack(filler)


def parse_connected(body: bytes) -> tuple[Names, bytes]:
    """Read the reply of CONNECT of a stream socket: the names, and where the fd is to connect to."""
    return parse_names(body), body[_NAME.size :]


def listen_body(backlog: int) -> bytes:
    """Write LISTEN."""
    return _LISTEN.pack(min(max(backlog, 0), 0x7FFFFFFF))


@dataclass(frozen=True, slots=True)
class Accepted:
    """What the name of the other end tells of an accepted connection."""

    slot: int
    nonce: int
    peer: tuple[str, int]
    local: tuple[str, int] | None  # None: the name had no room for it


def parse_accepted(name: object) -> Accepted | None:
    """Read the abstract name that accept(2) gave; None: no connection of a forwarder."""
    match = _ACCEPTED.fullmatch(name) if isinstance(name, bytes) else None
    if match is None:
        return None
    local = (_host(match["local"]), int(match["local_port"])) if match["local"] else None
    return Accepted(int(match["slot"], 16), int(match["nonce"], 16), (_host(match["peer"]), int(match["port"])), local)


@dataclass(frozen=True, slots=True)
class FdName:
    """What the names of an fd tell, wherever it came from."""

    vr: str
    family: int  # AF_*
    type: int  # SOCK_*
    slot: int
    nonce: int
    accepted: Accepted | None


def parse_fd_name(local: object, remote: object) -> FdName | None:
    """Read what getsockname and getpeername give for an fd; None: it is no socket of a VR."""
    own = _NAMED.fullmatch(local) if isinstance(local, bytes) else None
    if own is None:
        return None
    accepted = parse_accepted(remote)
    slot, nonce = (accepted.slot, accepted.nonce) if accepted else (int(own["slot"], 16), int(own["nonce"], 16))
    family = AF_INET if own["kind"].endswith(b"4") else AF_INET6
    return FdName(own["vr"].decode(errors="replace"), family, _FD_TYPES[own["kind"][:1]], slot, nonce, accepted)


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a forwarder knows about the socket of an fd."""

    cookie: int
    family: int
    type: int
    protocol: int
    state: int  # State
    names: Names


def parse_resolved(body: bytes) -> Resolved:
    """Read the reply of RESOLVE."""
    if len(body) < _RESOLVED.size:
        raise ProtocolError("short reply")
    cookie, _slot, family, kind, protocol, state = _RESOLVED.unpack_from(body)
    return Resolved(cookie, family, kind, protocol, state, parse_names(body[_RESOLVED.size :]))


def _host(text: bytes) -> str:
    return text.strip(b"[]").decode()


def option_body(level: int, name: int, value: bytes = b"", room: int | None = None) -> bytes:
    """Write SETOPT, or GETOPT with room for the answer."""
    return _OPTION.pack(level, name, len(value) if room is None else room) + value


def parse_option(body: bytes) -> bytes:
    """Read the reply of GETOPT."""
    if len(body) < _OPTION.size:
        raise ProtocolError("short reply")
    _level, _name, length = _OPTION.unpack_from(body)
    return body[_OPTION.size : _OPTION.size + length]


class Datagram(NamedTuple):
    """What stands before a payload on an unconnected datagram socket's fd."""

    family: int  # 4 or 6, of the packet
    flags: int
    ttl: int
    tos: int
    port: int
    interface: int
    error: int
    icmp_type: int
    icmp_code: int
    local_port: int
    info: int
    timestamp: int
    address: bytes
    local: bytes

    @property
    def is_error(self) -> bool:
        """Tell an error about something that was sent from a datagram."""
        return bool(self.flags & _ERROR)

    @property
    def is_icmp(self) -> bool:
        """Tell whether another node reported the error."""
        return bool(self.flags & DatagramFlag.ICMP)

    @property
    def is_mark(self) -> bool:
        """Tell the end of what came before the socket was connected from a datagram."""
        return bool(self.flags & DatagramFlag.MARK)


def parse_datagram(record: bytes | bytearray) -> Datagram:
    """Read the header of a received record.  Raises ProtocolError."""
    if len(record) < DATAGRAM.size:
        raise ProtocolError("short record")
    fields = DATAGRAM.unpack_from(record)
    if fields[0] != VERSION:
        raise ProtocolError(f"version {fields[0]}")
    return Datagram(*fields[1:])


def datagram_header(
    family: int, address: bytes, port: int, interface: int = 0, ttl: int = 0, local: bytes | None = None,
    tos: int | None = None,
) -> bytes:  # fmt: skip
    """Write the header of a datagram to send; `local`: the source address to use, `tos`: not the socket's."""
    flags = (_LOCAL if local is not None else 0) | (_TOS if tos is not None else 0)
    source = ANY if local is None else local
    return DATAGRAM.pack(VERSION, family, flags, ttl, tos or 0, port, interface, 0, 0, 0, 0, 0, 0, address, source)


def total(buffers: Iterable[bytes | bytearray | memoryview]) -> int:
    """Give the bytes in a list of buffers."""
    return sum(memoryview(buffer).nbytes for buffer in buffers)


__all__ = [
    "Accepted", "Datagram", "Endpoint", "FdName", "Message", "Names", "ProtocolError", "Requests", "Resolved",
    "connect_body", "datagram_header", "dial_body", "keeping_body", "listen_body", "name_body", "open_body",
    "option_body", "parse", "parse_accepted", "parse_connected", "parse_datagram", "parse_dialed", "parse_fd_name",
    "parse_frames", "parse_kept", "parse_names", "parse_opened", "parse_option", "parse_record", "parse_resolved",
    "total", "unpack_map",
]  # fmt: skip
