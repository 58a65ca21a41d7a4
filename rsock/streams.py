"""Stream sockets in a virtual router: TCP, on an AF_UNIX stream fd whose other end the forwarder holds.

The fd is one kernel object from the beginning to the end, and what names no address is the kernel's own: send,
poll, shutdown, sendfile, accept.  `wire` tells how it is connected.

    connecting   the fd is full of filler, so it is not writable; the forwarder reads that when TCP is connected
    reset        the forwarder closes its end with our last byte unread: ECONNRESET
    end of file  the forwarder has shut down its side; where it has closed instead, `_ended` asks why

What differs from a kernel socket: after a connection was refused, reset or timed out the socket cannot be
connected again; write errors after a reset are EPIPE at once; urgent data is not supported.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket as stdlib
import time
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Final, NoReturn, Self

from rsock import addresses
from rsock.base import RouterSocket, fail, socket
from rsock.client import Context
from rsock.client_core import (
    Accepted,
    Endpoint,
    connect_body,
    listen_body,
    parse_accepted,
    parse_connected,
    parse_names,
)
from rsock.errors import VRDown
from rsock.wire import Op

# One write of it takes more than a quarter of the fd's send buffer, which is where the kernel calls it
# unwritable; the single byte behind it stays unread for as long as the app has written nothing.
_FILLER: Final = bytes(44 << 10)
_FULL: Final = len(_FILLER) + 1
# Asked for when a blocking connect has succeeded; the kernel's own limit decides.  Bulk goes in fewer, larger
# pieces.  Elsewhere the fd keeps its size: a change of it would look like an event to who waits for edges.
_SEND_BUFFER: Final = 512 << 10
_SECOND: Final = 1000
_RETRY: Final = 0.001


class StreamSocket(RouterSocket, kinds=(stdlib.SOCK_STREAM,)):
    """A TCP socket in a virtual router."""

    _fd_kind: ClassVar[int] = stdlib.SOCK_STREAM
    _native: ClassVar[frozenset[int]] = frozenset({stdlib.SO_RCVTIMEO, stdlib.SO_SNDTIMEO, stdlib.SO_RCVLOWAT})
    _default_protocol: ClassVar[int] = stdlib.IPPROTO_TCP

    def __init__(
        self, family: int = -1, type: int = stdlib.SOCK_STREAM, proto: int = -1, fileno: int | None = None,  # noqa: A002
        *, vr: str | None = None, ctx: Context | None = None,
    ) -> None:  # fmt: skip
        self._local: Endpoint | None = None
        self._remote: Endpoint | None = None  # once connected
        self._joined = False  # the fd leads to the forwarder
        super().__init__(family, type, proto, fileno, vr=vr, ctx=ctx)

    def _forgotten(self) -> NoReturn:
        if not self._joined:
            super()._forgotten()
        fail(errno.ENOTCONN)

    # --- connecting ---

    def connect(self, address: Any) -> None:
        """Connect; without blocking, BlockingIOError (EINPROGRESS) tells that the fd will become writable."""
        endpoint = addresses.parse(self._family, address)
        names, entrance = parse_connected(self._call(Op.CONNECT, connect_body(endpoint, _FULL)))
        self._local = names.local
        if not self._joined:
            self._join(entrance)
        if self.gettimeout() == 0:
            fail(errno.EINPROGRESS)
        self._wait_connected()
        self._remote = endpoint

    def _join(self, entrance: bytes) -> None:
        deadline = time.monotonic() + self._ctx.timeout
        while True:
            try:
                super().connect(entrance)
                break
            except BlockingIOError:  # many connect at once
                if time.monotonic() > deadline:
                    raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from None
                time.sleep(_RETRY)
            except ConnectionRefusedError:  # that forwarder is gone, and the connection with it
                fail(errno.ECONNABORTED)
        self._joined = True
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has failed already
            super().send(_FILLER, stdlib.MSG_DONTWAIT | stdlib.MSG_NOSIGNAL)
            super().send(b"\0", stdlib.MSG_DONTWAIT | stdlib.MSG_NOSIGNAL)

    def _wait_connected(self) -> None:
        timeout = self.gettimeout()
        poll = select.poll()
        poll.register(self.fileno(), select.POLLOUT)
        events = poll.poll(None if timeout is None else timeout * _SECOND)
        if not events:
            raise TimeoutError("timed out")
        if events[0][1] & (select.POLLHUP | select.POLLERR):
            fail(self.getsockopt(stdlib.SOL_SOCKET, stdlib.SO_ERROR) or errno.ECONNRESET)
        stdlib.socket.setsockopt(self, stdlib.SOL_SOCKET, stdlib.SO_SNDBUF, _SEND_BUFFER)

    # --- listening ---

    def bind(self, address: Any) -> None:
        """Bind to an address of the VR."""
        self._local = None
        super().bind(address)

    def listen(self, backlog: int = -1) -> None:
        """Accept connections from now on."""
        wanted = min(stdlib.SOMAXCONN, 128) if backlog < 0 else backlog
        self._local = parse_names(self._call(Op.LISTEN, listen_body(wanted))).local
        super().listen(wanted)

    def accept(self) -> tuple[Self, Any]:
        """Take the next connection: its socket and the peer's address."""
        take: Callable[[], tuple[int, bytes]] = getattr(self, "_accept")  # noqa: B009 - the kernel's, not in typeshed
        while True:
            fd, name = take()
            accepted = parse_accepted(name)
            if accepted is not None:
                break
            os.close(fd)  # another app of this VR, not a connection
        made = self._adopt(fd, accepted)
        if stdlib.getdefaulttimeout() is None and self.gettimeout():
            made.setblocking(True)
        return made, addresses.show(made._peer())  # noqa: SLF001 - one of us

    def _adopt(self, fd: int, accepted: Accepted) -> Self:
        made = stdlib.socket.__new__(self.__class__)
        made.vr, made._ctx, made._path = self.vr, self._ctx, self._path  # noqa: SLF001 - one of us
        made._family, made._kind, made._proto = self._family, self._kind, self._proto  # noqa: SLF001
        made._slot, made._cookie = accepted.slot, accepted.nonce  # noqa: SLF001
        made._bound = made._joined = True  # noqa: SLF001
        made._remote = addresses.parse(self._family, accepted.peer)  # noqa: SLF001
        made._local = addresses.parse(self._family, accepted.local) if accepted.local else None  # noqa: SLF001
        made._take_fd(fd)  # noqa: SLF001
        return made

    # --- names and options ---

    def _peer(self) -> Endpoint:
        if self._remote is None:
            self._remote = parse_names(self._call(Op.NAME)).remote
        if self._remote is None:
            fail(errno.ENOTCONN)
        return self._remote

    def getpeername(self) -> Any:
        """Give the peer's address."""
        return addresses.show(self._peer())

    def getsockname(self) -> Any:
        """Give the local address."""
        if self._local is None:
            self._local = parse_names(self._call(Op.NAME)).local
        return addresses.show(self._local)

    def getsockopt(self, level: int, optname: int, buflen: int = 0, *, question: bytes = b"") -> Any:
        """Get an option: an int, or with `buflen` bytes."""
        try:
            return super().getsockopt(level, optname, buflen, question=question)
        except OSError as error:
            over = error.errno in {errno.ENOTCONN, errno.ECONNRESET, errno.ENETDOWN}
            if not over or (level, optname) != (stdlib.SOL_SOCKET, stdlib.SO_ERROR):
                raise
        return stdlib.socket.getsockopt(self, level, optname)  # the forwarder knows it no more, the fd does

    def shutdown(self, how: int) -> None:
        """Shut down one side or both."""
        if not self._joined:
            fail(errno.ENOTCONN)
        super().shutdown(how)

    # --- receiving: an end of file may be a reset that the kernel cannot tell ---

    def _ended(self) -> None:
        """Raise where the forwarder has closed its end for another reason than that both sides have finished."""
        poll = select.poll()
        poll.register(self.fileno(), 0)
        events = poll.poll(0)
        if events and events[0][1] & select.POLLHUP:
            try:
                error = super().getsockopt(stdlib.SOL_SOCKET, stdlib.SO_ERROR)
            except VRDown:
                error = errno.ECONNRESET
            except OSError as failure:
                if failure.errno != errno.ENOTCONN:  # it is forgotten, so it ended well
                    raise
                error = 0
            if error:
                fail(error)

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """Receive bytes; none at the end of the file."""
        data = super().recv(bufsize, flags)
        if not data and bufsize:
            self._ended()
        return data

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """Receive bytes into a buffer; 0 at the end of the file."""
        count = super().recv_into(buffer, nbytes, flags)
        if not count and memoryview(buffer).nbytes:
            self._ended()
        return count

    def recvfrom(self, bufsize: int, flags: int = 0) -> tuple[bytes, Any]:
        """Receive bytes; a stream names no sender."""
        return self.recv(bufsize, flags), None

    def recvfrom_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> tuple[int, Any]:
        """Receive bytes into a buffer; a stream names no sender."""
        return self.recv_into(buffer, nbytes, flags), None

    def recvmsg(self, bufsize: int, ancbufsize: int = 0, flags: int = 0) -> tuple[bytes, list[Any], int, Any]:
        """Receive bytes; a stream has no ancillary data."""
        data, items, out, _address = super().recvmsg(bufsize, ancbufsize, flags)
        if not data and bufsize:
            self._ended()
        return data, items, out, None

    def recvmsg_into(
        self, buffers: Iterable[Any], ancbufsize: int = 0, flags: int = 0
    ) -> tuple[int, list[Any], int, Any]:
        """Receive bytes into several buffers."""
        views = list(buffers)
        count, items, out, _address = super().recvmsg_into(views, ancbufsize, flags)
        if not count and any(memoryview(view).nbytes for view in views):
            self._ended()
        return count, items, out, None

    def sendto(self, data: Any, *arguments: Any) -> int:
        """Send bytes; the address, which is the last argument, means nothing to a connected stream."""
        if len(arguments) not in {1, 2}:
            raise TypeError(f"sendto() takes 2 or 3 arguments ({len(arguments) + 1} given)")
        return super().send(data, arguments[0] if len(arguments) == 2 else 0)

    # --- the end ---

    def _real_close(self, *arguments: Any) -> None:
        known = self.fileno() >= 0 and not self._joined
        close: Callable[..., None] = getattr(super(), "_real_close")  # noqa: B009 - not in typeshed
        close(*arguments)
        # Nothing else tells the forwarder at once that a listener is closed.
        if known:
            self._ctx.link(self._path).hint(Op.CLOSE, slot=self._slot, cookie=self._cookie)


def create_connection(
    address: tuple[str, int], timeout: float | None = -1, source_address: tuple[str, int] | None = None,
    *, vr: str | None = None, ctx: Context | None = None,
) -> socket:  # fmt: skip
    """Connect to an address, numeric in a virtual router, and give the socket; a negative `timeout`: the default."""
    made = socket(stdlib.AF_INET6 if ":" in address[0] else stdlib.AF_INET, stdlib.SOCK_STREAM, vr=vr, ctx=ctx)
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(made.close)
        if timeout is None or timeout >= 0:
            made.settimeout(timeout)
        if source_address:
            made.bind(source_address)
        made.connect(address)
        cleanup.pop_all()
    return made


def create_server(
    address: tuple[str, int], *, vr: str | None = None, ctx: Context | None = None, family: int = stdlib.AF_INET,
    backlog: int | None = None, reuse_port: bool = False, dualstack_ipv6: bool = False,
) -> socket:  # fmt: skip
    """Listen on an address and give the socket."""
    made = socket(family, stdlib.SOCK_STREAM, vr=vr, ctx=ctx)
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(made.close)
        made.setsockopt(stdlib.SOL_SOCKET, stdlib.SO_REUSEADDR, 1)
        if reuse_port:
            made.setsockopt(stdlib.SOL_SOCKET, stdlib.SO_REUSEPORT, 1)
        if family == stdlib.AF_INET6:
            made.setsockopt(stdlib.IPPROTO_IPV6, stdlib.IPV6_V6ONLY, int(not dualstack_ipv6))
        made.bind(address)
        made.listen(-1 if backlog is None else backlog)
        cleanup.pop_all()
    return made
