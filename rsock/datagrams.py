"""Datagram and raw sockets in a virtual router, on a SEQPACKET fd.

What differs from a kernel socket:
  - a datagram that the VR refuses (no route, too long, not allowed) raises from the next receive call,
    as ICMP errors do, not from the send call that caused it;
  - what was received before connect() comes behind what comes at that moment, and is lost where it is larger than
    a request (12 KiB), or through a relay; a connected socket has no ancillary data and sends to its peer only;
  - connecting a socket that another process shares is not supported.
"""

from __future__ import annotations

import contextlib
import errno
import operator
import os
import select
import socket as stdlib
from collections import deque
from collections.abc import Iterable
from typing import Any, ClassVar, Final, NoReturn, cast

from rsock import addresses, ancillary
from rsock.base import RouterSocket, down, fail, sendto_arguments
from rsock.client import Context
from rsock.client_core import (
    Datagram,
    Endpoint,
    FdName,
    ProtocolError,
    Resolved,
    datagram_header,
    keeping_body,
    name_body,
    parse_datagram,
    parse_kept,
    parse_names,
    total,
)
from rsock.poll import look
from rsock.wire import DATAGRAM, MAX_BODY, Op

_ERRQUEUE: Final = stdlib.MSG_ERRQUEUE
_MAX_ANCILLARY: Final = 0x7FFFFFFF

Buffer = bytes | bytearray | memoryview


def _room(buffer: Any, nbytes: int) -> memoryview:
    """Give the part of a buffer that may be written."""
    view = memoryview(buffer).cast("B")
    if nbytes < 0:
        raise ValueError("negative buffersize in recv_into")
    if nbytes > len(view):
        raise ValueError("buffer too small for requested bytes")
    return view[:nbytes] if nbytes else view


def _bytes_like(data: Any) -> Buffer:
    if isinstance(data, bytes | bytearray):
        return data
    try:
        return memoryview(data)
    except TypeError:
        raise TypeError(f"a bytes-like object is required, not '{type(data).__name__}'") from None


def _check_room(ancbufsize: int) -> None:
    if not 0 <= ancbufsize <= _MAX_ANCILLARY:
        raise ValueError("invalid ancillary data buffer length")


class DatagramSocket(RouterSocket, kinds=(stdlib.SOCK_DGRAM, stdlib.SOCK_RAW)):
    """A datagram or raw socket in a virtual router."""

    # Options of the app's own end of the pair.
    _native: ClassVar[frozenset[int]] = frozenset(
        {stdlib.SO_RCVTIMEO, stdlib.SO_SNDTIMEO, stdlib.SO_SNDBUF, stdlib.SO_RCVLOWAT}
    )
    _default_protocol: ClassVar[int] = stdlib.IPPROTO_UDP

    def __init__(
        self, family: int = -1, type: int = stdlib.SOCK_DGRAM, proto: int = -1, fileno: int | None = None,  # noqa: A002
        *, vr: str | None = None, ctx: Context | None = None,
    ) -> None:  # fmt: skip
        self._peer: Endpoint | None = None
        self._errors: deque[tuple[Datagram, bytes]] = deque()
        self._options: ancillary.Options = set()
        super().__init__(family, type, proto, fileno, vr=vr, ctx=ctx)

    def _restore(self, name: FdName, resolved: Resolved | None) -> None:  # noqa: ARG002 - the forwarder knows more
        if resolved is None:
            down()
        self._peer = resolved.names.remote
        self._options = self._asked_before()

    def _asked_before(self) -> ancillary.Options:
        """Find out which items the app wants that had the fd before."""
        asked = set()
        for level, name in ancillary.ASKING:
            with contextlib.suppress(OSError):
                if self.getsockopt(level, name):
                    asked.add((level, name))
        return asked

    def _duplicated(self) -> None:
        self._options, self._errors = set(self._options), deque()

    def getpeername(self) -> Any:
        """Give the peer's address."""
        if self.fileno() < 0:
            fail(errno.EBADF)
        if self._peer is None:
            fail(errno.ENOTCONN)
        return addresses.show(self._peer)

    def _option_set(self, level: int, name: int, value: bytes) -> None:
        if (level, name) in ancillary.ASKING:
            (self._options.add if any(value) else self._options.discard)((level, name))

    def connect(self, address: Any) -> None:
        """Fix the peer; `disconnect` undoes it."""
        endpoint = self._endpoint(address)
        bare = self._peer is not None
        reply = self._call(Op.CONNECT, name_body(endpoint) if bare else keeping_body(endpoint))
        names, marked = parse_names(reply), parse_kept(reply)
        if marked:
            self._give_back()
        elif marked is None and not bare:
            self._discard()
        self._local, self._peer = None, names.remote

    def disconnect(self) -> None:
        """Undo connect (what connecting to AF_UNSPEC does in C)."""
        self._call(Op.CONNECT, name_body(Endpoint(stdlib.AF_UNSPEC, bytes(16), 0, 0)))
        self._discard()
        self._local = self._peer = None

    def _give_back(self) -> None:
        """Have what was received before connect, up to the mark, come again in the new form."""
        while self._readable():
            try:
                record = super().recv(DATAGRAM.size + MAX_BODY + 1)
                header = parse_datagram(record)
            except (OSError, ProtocolError):
                break  # the router has gone, which the next call tells
            if header.is_mark:
                break
            if not header.is_error and len(record) <= DATAGRAM.size + MAX_BODY:
                with contextlib.suppress(OSError):  # no room: lost, as on any full queue
                    self._call(Op.BACK, record[DATAGRAM.size :])

    def _discard(self) -> None:
        """Drop what was received before connect: it has the other form."""
        with contextlib.suppress(OSError):
            while self._readable() and super().recv(1):
                pass

    def _readable(self) -> bool:
        # MSG_DONTWAIT alone does not help: with a timeout, Python waits before it calls recvmsg(2).
        return look(self.fileno(), select.POLLIN) != 0

    # --- receiving ---

    def _read(self, size: int, flags: int) -> tuple[Datagram | None, bytes, bool]:
        """Read one record: its header (None when connected), payload, and whether that was cut."""
        if size < 0:
            raise ValueError("negative buffersize in recv")
        wanted = size + (DATAGRAM.size if self._peer is None else 0)
        try:
            record, _ancillary, message_flags, _address = super().recvmsg(wanted, 0, flags)
        except (ConnectionResetError, BrokenPipeError):
            down()
        header = self._check(record, len(record), size, message_flags)
        return header, record if header is None else record[DATAGRAM.size :], bool(message_flags & stdlib.MSG_TRUNC)

    def _read_into(self, views: list[Any], size: int, flags: int) -> tuple[Datagram | None, int, bool]:
        """Read one record into buffers: its header, the bytes of its payload, and whether that was cut."""
        front = bytearray(DATAGRAM.size if self._peer is None else 0)
        try:
            count, _ancillary, message_flags, _address = super().recvmsg_into([front, *views], 0, flags)
        except (ConnectionResetError, BrokenPipeError):
            down()
        header = self._check(front, count, size, message_flags)
        return header, count - len(front), bool(message_flags & stdlib.MSG_TRUNC)

    def _check(self, front: bytes | bytearray, count: int, size: int, message_flags: int) -> Datagram | None:
        """Tell what came: a header, or None on a connected socket.  Raises where the VR or an error is why."""
        if self._peer is not None:
            if not count and size and not message_flags & stdlib.MSG_TRUNC:
                self._raise_pending()
            return None
        if not count:
            down()
        try:
            return parse_datagram(front)
        except ProtocolError as error:
            raise OSError(errno.EPROTO, str(error)) from None

    def _raise_pending(self) -> None:
        """Raise the error that a record of no bytes tells of; without one it is an empty datagram."""
        pending = self.getsockopt(stdlib.SOL_SOCKET, stdlib.SO_ERROR)
        if pending:
            raise OSError(pending, os.strerror(pending))

    def _fail(self, header: Datagram, payload: bytes, flags: int) -> NoReturn:
        """Raise what an error record tells."""
        if flags & stdlib.MSG_PEEK:
            self._read(0, 0)
        if self._options & ancillary.ASKING_ERRORS:
            self._errors.append((header, payload))
        raise OSError(header.error, os.strerror(header.error))

    def _receive(self, size: int, flags: int) -> tuple[Datagram | None, bytes, bool]:
        """Read one datagram; an error record becomes an exception."""
        header, payload, cut = self._read(size, flags)
        if header is not None and header.is_error:
            self._fail(header, payload, flags)
        return header, payload, cut

    def _receive_into(self, views: list[Any], size: int, flags: int) -> tuple[Datagram | None, int, bool]:
        header, count, cut = self._read_into(views, size, flags)
        if header is not None and header.is_error:
            self._fail(header, b"".join(views)[:count], flags)
        return header, count, cut

    def _sender(self, header: Datagram | None) -> Any:
        if header is None:
            return addresses.show(cast("Endpoint", self._peer))
        return addresses.show_packet(self._family, header.family, header.address, header.port, header.interface)

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """Receive a datagram's payload."""
        return self._receive(bufsize, flags)[1]

    def recvfrom(self, bufsize: int, flags: int = 0) -> tuple[bytes, Any]:
        """Receive a datagram and its sender."""
        header, payload, _cut = self._receive(bufsize, flags)
        return payload, self._sender(header)

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """Receive a datagram into a buffer."""
        view = _room(buffer, nbytes)
        return self._receive_into([view], len(view), flags)[1]

    def recvfrom_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> tuple[int, Any]:
        """Receive a datagram into a buffer, and its sender."""
        view = _room(buffer, nbytes)
        header, count, _cut = self._receive_into([view], len(view), flags)
        return count, self._sender(header)

    def recvmsg(
        self, bufsize: int, ancbufsize: int = 0, flags: int = 0
    ) -> tuple[bytes, list[ancillary.Item], int, Any]:
        """Receive a datagram with ancillary data, or with MSG_ERRQUEUE an error."""
        if bufsize < 0:
            raise ValueError("negative buffer size in recvmsg()")
        _check_room(ancbufsize)
        if flags & _ERRQUEUE:
            return self._receive_error(bufsize, ancbufsize)
        header, payload, cut = self._receive(bufsize, flags)
        items, out = self._items(header, ancbufsize, cut)
        return payload, items, out, self._sender(header)

    def recvmsg_into(
        self, buffers: Iterable[Any], ancbufsize: int = 0, flags: int = 0
    ) -> tuple[int, list[ancillary.Item], int, Any]:
        """Receive a datagram into several buffers."""
        views = list(buffers)
        _check_room(ancbufsize)
        header, count, cut = self._receive_into(views, total(views), flags)
        items, out = self._items(header, ancbufsize, cut)
        return count, items, out, self._sender(header)

    def _items(self, header: Datagram | None, room: int, cut: bool) -> tuple[list[ancillary.Item], int]:
        asked = [] if header is None or not self._options else ancillary.received(self._family, header, self._options)
        kept, lost = ancillary.fit(asked, room)
        return kept, (stdlib.MSG_TRUNC if cut else 0) | (stdlib.MSG_CTRUNC if lost else 0)

    def _receive_error(self, bufsize: int, ancbufsize: int) -> tuple[bytes, list[ancillary.Item], int, Any]:
        """Take the oldest error; BlockingIOError when none is next."""
        if not self._errors:
            if self._peer is not None or not self._readable():
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            header, _payload, _cut = self._read(0, stdlib.MSG_PEEK)
            if header is None or not header.is_error:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            taken, payload, _cut = self._read(0xFFFF, 0)
            self._errors.append((cast("Datagram", taken), payload))
        header, payload = self._errors.popleft()
        kept, lost = ancillary.fit([ancillary.error(header)], ancbufsize)
        out = _ERRQUEUE | (stdlib.MSG_TRUNC if len(payload) > bufsize else 0) | (stdlib.MSG_CTRUNC if lost else 0)
        return payload[:bufsize], kept, out, self._sender(header)

    # --- sending ---

    def _write(self, buffers: list[Buffer], flags: int) -> None:
        try:
            super().sendmsg(buffers, [], flags)
        except (BrokenPipeError, ConnectionResetError):
            down()

    def _send(self, buffers: list[Buffer], flags: int, address: Any, items: Iterable[tuple[int, int, Any]] = ()) -> int:
        size = total(buffers)
        if size > 0xFFFF:
            fail(errno.EMSGSIZE)
        wishes = ancillary.to_send(items) if items else None
        if self._peer is not None:
            if address is not None and self._endpoint(address) != self._peer:
                fail(errno.EISCONN)
            self._write(buffers or [b""], flags)
            return size
        if address is None:
            fail(errno.EDESTADDRREQ)
        endpoint = self._endpoint(address)
        family, destination = addresses.packet_form(endpoint)
        if wishes is None:
            header = datagram_header(family, destination, endpoint.port, endpoint.interface)
        else:
            source = wishes.source
            if source is not None and family == 4 and source.startswith(addresses.MAPPED):
                source = source[12:].ljust(16, b"\0")
            interface = wishes.interface or endpoint.interface
            header = datagram_header(family, destination, endpoint.port, interface, wishes.ttl, source, wishes.tos)
        self._write([header, *buffers], flags)
        return size

    def send(self, data: Any, flags: int = 0) -> int:
        """Send a datagram to the peer."""
        return self._send([_bytes_like(data)], flags, None)

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send a datagram to the peer."""
        self._send([_bytes_like(data)], flags, None)

    def sendto(self, data: Any, *arguments: Any) -> int:
        """Send a datagram to an address, which is the last argument; flags may stand before it."""
        flags, address = sendto_arguments(arguments)
        buffer = _bytes_like(data)
        if not isinstance(address, tuple):
            raise TypeError(f"sendto(): address must be tuple, not {type(address).__name__}")
        return self._send([buffer], operator.index(flags), address)

    def sendmsg(
        self, buffers: Iterable[Any], ancdata: Iterable[tuple[int, int, Any]] = (), flags: int = 0, address: Any = None
    ) -> int:
        """Send a datagram, with packet info, TTL or TOS as ancillary data."""
        return self._send(list(buffers), flags, address, list(ancdata))

    # --- the rest ---

    def listen(self, backlog: int = 0) -> None:  # noqa: ARG002 - as in socket
        """Fail: datagram sockets have no connections."""
        fail(errno.EOPNOTSUPP)

    def accept(self) -> NoReturn:
        """Fail: datagram sockets have no connections."""
        fail(errno.EOPNOTSUPP)
