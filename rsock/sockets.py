"""Sockets in a virtual router, or in the kernel, behind one class.

    socket(..., vr="red")     a RouterSocket: an AF_UNIX fd whose other end the VR's forwarder holds
    socket(..., vr="kernel")  an ordinary socket

The fd is real: select, poll, epoll, asyncio, fork, dup and inheritance work.  What differs from a
kernel socket:
  - a datagram that the VR refuses (no route, too long, not allowed) raises from the next receive call,
    as ICMP errors do, not from the send call that caused it;
  - connect() throws away what was received before it; a connected socket has no ancillary data and
    sends to its peer only;
  - connecting a socket that another process shares is not supported;
  - a VR that goes away makes calls fail with ENETDOWN.
Not supported yet: streams (listen, accept), names instead of numeric addresses, an fd from elsewhere.
"""

from __future__ import annotations

import contextlib
import contextvars
import errno
import os
import select
import socket as stdlib
import struct
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Final, NoReturn, Self, cast

from rsock import addresses, ancillary
from rsock.client import Context, default_context
from rsock.client_core import (
    Datagram,
    Endpoint,
    ProtocolError,
    datagram_header,
    name_body,
    option_body,
    parse_datagram,
    parse_names,
    parse_option,
    total,
)
from rsock.errors import VRDown
from rsock.wire import DATAGRAM, Op

KERNEL: Final = "kernel"
_FLAGS: Final = stdlib.SOCK_NONBLOCK | stdlib.SOCK_CLOEXEC
_ERRQUEUE: Final = stdlib.MSG_ERRQUEUE
# Options of the app's own end of the pair.
_NATIVE: Final = frozenset({stdlib.SO_RCVTIMEO, stdlib.SO_SNDTIMEO, stdlib.SO_SNDBUF, stdlib.SO_RCVLOWAT})
_INT: Final = struct.Struct("=i")
_MAX_OPTION: Final = 256

_default_vr: contextvars.ContextVar[str | None] = contextvars.ContextVar("rsock_vr", default=None)

Buffer = bytes | bytearray | memoryview


@contextlib.contextmanager
def default_vr(name: str) -> Iterator[None]:
    """Let sockets that are made inside the `with` block, without `vr`, live in this VR."""
    token = _default_vr.set(name)
    try:
        yield
    finally:
        _default_vr.reset(token)


def _choose(vr: str | None) -> str:
    return vr or _default_vr.get() or os.environ.get("RSOCK_VR") or KERNEL


class socket(stdlib.socket):  # noqa: N801 - named as what it stands in for
    """A socket in the kernel (`vr` is None or "kernel") or in a virtual router."""

    vr: str = KERNEL

    def __new__(cls, *_arguments: Any, vr: str | None = None, **_more: Any) -> Self:
        """Choose the class by `vr`."""
        chosen: Any = cls if _choose(vr) == KERNEL or not issubclass(RouterSocket, cls) else RouterSocket
        made: Self = super().__new__(chosen)
        return made

    def __init__(
        self, family: int = -1, type: int = -1, proto: int = -1, fileno: int | None = None,  # noqa: A002
        *, vr: str | None = None, ctx: Context | None = None,  # noqa: ARG002
    ) -> None:  # fmt: skip
        if _choose(vr) != KERNEL:
            raise TypeError("a class for sockets in virtual routers derives from rsock.sockets.RouterSocket")
        super().__init__(family, type, proto, fileno)


def _down() -> NoReturn:
    raise VRDown(errno.ENETDOWN, os.strerror(errno.ENETDOWN))


def _unsupported() -> NoReturn:
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


class RouterSocket(socket):
    """A datagram or raw socket in a virtual router; made by `socket(..., vr=NAME)`."""

    def __init__(
        self, family: int = -1, type: int = -1, proto: int = -1, fileno: int | None = None,  # noqa: A002
        *, vr: str | None = None, ctx: Context | None = None,
    ) -> None:  # fmt: skip
        if fileno is not None:
            _unsupported()
        family = stdlib.AF_INET if family == -1 else family
        kind = stdlib.SOCK_STREAM if type == -1 else type
        self.vr = _choose(vr)
        self._ctx = ctx or default_context()
        opened = self._ctx.open(self.vr, family, kind & ~_FLAGS, max(proto, 0))
        self._path, self._slot, self._cookie = opened.path, opened.slot, opened.cookie
        self._peer: Endpoint | None = None
        self._errors: deque[tuple[Datagram, bytes]] = deque()
        self._options: ancillary.Options = set()
        self._bound = False
        self._family, self._kind = stdlib.AddressFamily(family), stdlib.SocketKind(kind & ~_FLAGS)
        self._proto = proto if proto > 0 else stdlib.IPPROTO_UDP  # what the forwarder takes 0 for
        self._take_fd(opened.fd)
        if kind & stdlib.SOCK_NONBLOCK:
            self.setblocking(False)

    def _take_fd(self, fd: int) -> None:
        try:
            stdlib.socket.__init__(self, stdlib.AF_UNIX, stdlib.SOCK_SEQPACKET, 0, fd)
        except BaseException:
            os.close(fd)
            raise

    def __repr__(self) -> str:
        state = "closed" if self.fileno() < 0 else f"fd={self.fileno()}"
        kind = f"family={self._family.name} type={self._kind.name} proto={self._proto}"
        return f"<rsock.socket {state} vr={self.vr!r} {kind}>"

    # --- what it is ---

    @property
    def family(self) -> stdlib.AddressFamily:
        """Give the address family in the VR."""
        return self._family

    @property
    def type(self) -> stdlib.SocketKind:
        """Give the socket type in the VR."""
        return self._kind

    @property
    def proto(self) -> int:
        """Give the IP protocol."""
        return self._proto

    # --- calls to the forwarder ---

    def _call(self, op: Op, body: bytes = b"") -> bytes:
        if self.fileno() < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        link = self._ctx.link(self._path)
        try:
            return link.call(op, body, slot=self._slot, cookie=self._cookie, timeout=self._ctx.timeout)
        except OSError as error:
            if error.errno == errno.EBADF:  # the VR was started anew: it knows nothing of us
                _down()
            raise

    def bind(self, address: Any) -> None:
        """Bind to an address of the VR."""
        endpoint = addresses.parse(self._family, address)
        try:
            self._call(Op.BIND, name_body(endpoint))
        except OSError as error:
            # A forwarder may have bound it and died before it could say so.
            if error.errno != errno.EINVAL or not self._bound_to(endpoint):
                raise
        self._bound = True

    def _bound_to(self, wanted: Endpoint) -> bool:
        if wanted.port == 0 or self._bound:
            return False
        local = parse_names(self._call(Op.NAME)).local
        return (local.address, local.port) == (wanted.address, wanted.port)

    def connect(self, address: Any) -> None:
        """Fix the peer; `disconnect` undoes it."""
        endpoint = addresses.parse(self._family, address)
        names = parse_names(self._call(Op.CONNECT, name_body(endpoint)))
        self._discard()
        self._peer = names.remote

    def disconnect(self) -> None:
        """Undo connect (what connecting to AF_UNSPEC does in C)."""
        self._call(Op.CONNECT, name_body(Endpoint(stdlib.AF_UNSPEC, bytes(16), 0, 0)))
        self._discard()
        self._peer = None

    def connect_ex(self, address: Any) -> int:
        """Connect, but give the errno instead of raising."""
        try:
            self.connect(address)
        except stdlib.gaierror:
            raise
        except OSError as error:
            return error.errno or errno.EIO
        return 0

    def _discard(self) -> None:
        """Drop what was received before connect: it has the other form."""
        with contextlib.suppress(OSError):
            while self._readable() and super().recv(1):
                pass

    def _readable(self) -> bool:
        # MSG_DONTWAIT alone does not help: with a timeout, Python waits before it calls recvmsg(2).
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def getsockname(self) -> Any:
        """Give the local address."""
        return addresses.show(parse_names(self._call(Op.NAME)).local)

    def getpeername(self) -> Any:
        """Give the peer's address."""
        remote = parse_names(self._call(Op.NAME)).remote
        if remote is None:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        return addresses.show(remote)

    def setsockopt(self, level: int, optname: int, value: Any, optlen: int | None = None) -> None:
        """Set an option, by the names and values of Linux."""
        if value is None:
            value = bytes(optlen or 0)
        raw = _INT.pack(value) if isinstance(value, int) else bytes(value)
        if level == stdlib.SOL_SOCKET and optname in _NATIVE:
            super().setsockopt(level, optname, raw)
            return
        self._call(Op.SETOPT, option_body(level, optname, raw))
        if (level, optname) in ancillary.ASKING:
            (self._options.add if any(raw) else self._options.discard)((level, optname))

    def getsockopt(self, level: int, optname: int, buflen: int = 0) -> Any:
        """Get an option: an int, or with `buflen` bytes."""
        if level == stdlib.SOL_SOCKET and optname in _NATIVE:
            return super().getsockopt(level, optname, buflen) if buflen else super().getsockopt(level, optname)
        room = min(buflen, _MAX_OPTION) if buflen else _INT.size
        value = parse_option(self._call(Op.GETOPT, option_body(level, optname, room=room)))
        if buflen:
            return value
        return _INT.unpack(value.ljust(_INT.size, b"\0")[: _INT.size])[0]

    # --- receiving ---

    def _read(self, size: int, flags: int) -> tuple[Datagram | None, bytes, bool]:
        """Read one record: its header (None when connected), payload, and whether that was cut."""
        wanted = size + (DATAGRAM.size if self._peer is None else 0)
        try:
            record, _ancillary, message_flags, _address = super().recvmsg(wanted, 0, flags)
        except (ConnectionResetError, BrokenPipeError):
            _down()
        cut = bool(message_flags & stdlib.MSG_TRUNC)
        if self._peer is not None:
            if not record and not (cut or size == 0):
                self._raise_pending()
            return None, record, cut
        if not record:
            _down()
        try:
            header = parse_datagram(record)
        except ProtocolError as error:
            raise OSError(errno.EPROTO, str(error)) from None
        return header, record[DATAGRAM.size :], cut

    def _raise_pending(self) -> None:
        """Raise the error that a record of no bytes tells of; without one it is an empty datagram."""
        pending = self.getsockopt(stdlib.SOL_SOCKET, stdlib.SO_ERROR)
        if pending:
            raise OSError(pending, os.strerror(pending))

    def _receive(self, size: int, flags: int) -> tuple[Datagram | None, bytes, bool]:
        """Read one datagram; an error record becomes an exception."""
        header, payload, cut = self._read(size, flags)
        if header is not None and header.is_error:
            if flags & stdlib.MSG_PEEK:
                self._read(0, 0)
            if self._options & ancillary.ASKING_ERRORS:
                self._errors.append((header, payload))
            raise OSError(header.error, os.strerror(header.error))
        return header, payload, cut

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
        return self.recvfrom_into(buffer, nbytes, flags)[0]

    def recvfrom_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> tuple[int, Any]:
        """Receive a datagram into a buffer, and its sender."""
        view = memoryview(buffer).cast("B")
        if nbytes < 0 or nbytes > len(view):
            raise ValueError("buffer too small for requested bytes" if nbytes > 0 else "negative buffersize")
        payload, sender = self.recvfrom(nbytes or len(view), flags)
        view[: len(payload)] = payload
        return len(payload), sender

    def recvmsg(
        self, bufsize: int, ancbufsize: int = 0, flags: int = 0
    ) -> tuple[bytes, list[ancillary.Item], int, Any]:
        """Receive a datagram with ancillary data, or with MSG_ERRQUEUE an error."""
        if flags & _ERRQUEUE:
            return self._receive_error(bufsize, ancbufsize)
        header, payload, cut = self._receive(bufsize, flags)
        items = [] if header is None else ancillary.received(self._family, header, self._options)
        kept, lost = ancillary.fit(items, ancbufsize)
        out = (stdlib.MSG_TRUNC if cut else 0) | (stdlib.MSG_CTRUNC if lost else 0)
        return payload, kept, out, self._sender(header)

    def recvmsg_into(
        self, buffers: Iterable[Any], ancbufsize: int = 0, flags: int = 0
    ) -> tuple[int, list[ancillary.Item], int, Any]:
        """Receive a datagram into several buffers."""
        views = [memoryview(buffer).cast("B") for buffer in buffers]
        payload, items, out, sender = self.recvmsg(total(views), ancbufsize, flags)
        rest = payload
        for view in views:
            view[: len(rest)] = rest[: len(view)]
            rest = rest[len(view) :]
        return len(payload), items, out, sender

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
            _down()

    def _send(self, buffers: list[Buffer], flags: int, address: Any, items: Iterable[tuple[int, int, Any]] = ()) -> int:
        size = total(buffers)
        if size > 0xFFFF:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        if self._peer is not None:
            if address is not None and addresses.parse(self._family, address) != self._peer:
                raise OSError(errno.EISCONN, os.strerror(errno.EISCONN))
            self._write(buffers or [b""], flags)
            return size
        if address is None:
            raise OSError(errno.EDESTADDRREQ, os.strerror(errno.EDESTADDRREQ))
        endpoint = addresses.parse(self._family, address)
        family, destination = addresses.packet_form(endpoint)
        source, interface, ttl = ancillary.to_send(items)
        if source is not None and family == 4 and source.startswith(addresses.MAPPED):
            source = source[12:].ljust(16, b"\0")
        header = datagram_header(family, destination, endpoint.port, interface or endpoint.interface, ttl, source)
        self._write([header, *buffers], flags)
        return size

    def send(self, data: Any, flags: int = 0) -> int:
        """Send a datagram to the peer."""
        return self._send([data], flags, None)

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send a datagram to the peer."""
        self._send([data], flags, None)

    def sendto(self, data: Any, *arguments: Any) -> int:
        """Send a datagram to an address, which is the last argument; flags may stand before it."""
        if len(arguments) not in {1, 2}:
            raise TypeError(f"sendto() takes 2 or 3 arguments ({len(arguments) + 1} given)")
        return self._send([data], arguments[0] if len(arguments) == 2 else 0, arguments[-1])

    def sendmsg(
        self, buffers: Iterable[Any], ancdata: Iterable[tuple[int, int, Any]] = (), flags: int = 0, address: Any = None
    ) -> int:
        """Send a datagram, with packet info or TTL as ancillary data."""
        return self._send(list(buffers), flags, address, ancdata)

    # --- the rest ---

    def listen(self, backlog: int = 0) -> None:  # noqa: ARG002 - as in socket
        """Fail: datagram sockets have no connections."""
        _unsupported()

    def accept(self) -> NoReturn:
        """Fail: datagram sockets have no connections."""
        _unsupported()

    def dup(self) -> Self:
        """Duplicate the fd: both are the same socket."""
        fd = os.dup(self.fileno())
        other = stdlib.socket.__new__(self.__class__)
        other.__dict__.update(self.__dict__, _options=set(self._options), _errors=deque())
        other._take_fd(fd)  # noqa: SLF001 - one of us
        other.settimeout(self.gettimeout())
        return other
