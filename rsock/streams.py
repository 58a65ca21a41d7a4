"""Stream sockets in a virtual router: TCP, on an AF_UNIX stream fd whose other end the forwarder holds.

The fd is one kernel object from the beginning to the end, and what names no address is the kernel's own: send,
poll, shutdown, sendfile, accept.  `wire` tells how it is connected.

    connecting   the fd is full of filler, so it is not writable; the forwarder reads that when TCP is connected
    reset        the forwarder closes its end with our last byte unread: ECONNRESET
    end of file  the forwarder has shut down its side; where it has closed instead, `_ended` asks why

What differs from a kernel socket: after a connection was refused, reset or timed out, a non-blocking socket cannot be
connected again, and another has lost its options; write errors after a reset are EPIPE at once; urgent data is
ordinary data.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket as stdlib
import struct
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Final, NoReturn, Self

from rsock import addresses
from rsock.base import backlog_of, fail, plain_new, sendto_arguments
from rsock.client import PATIENCE, Context, app_name
from rsock.client_core import (
    Accepted,
    Endpoint,
    FdName,
    Resolved,
    connect_body,
    dial_body,
    listen_body,
    parse_accepted,
    parse_connected,
    parse_dialed,
    parse_names,
)
from rsock.errors import VRDown
from rsock.late import LateSocket
from rsock.poll import look
from rsock.wire import STREAM_CONNECTED_BUFFER, STREAM_FILLER, STREAM_FULL, Op, State

_FILLER: Final = bytes(STREAM_FILLER)
_LAST: Final = b"\0"
_SECOND: Final = 1000
_CREDENTIALS: Final = struct.Struct("=iII")  # struct ucred
_send: Final = stdlib.socket.send
_sendall: Final = stdlib.socket.sendall
_INFO_CLOSED: Final = b"\x07".ljust(232, b"\0")  # a struct tcp_info: TCP_CLOSE, and nothing else
_RETRY: Final = 0.001


class StreamSocket(LateSocket, kinds=(stdlib.SOCK_STREAM,)):
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

    def _restore(self, name: FdName, resolved: Resolved | None) -> None:
        self._joined = name.accepted is not None or resolved is None or resolved.state >= State.CONNECTING
        if name.accepted is not None:
            self._take_names(name.accepted)
        elif resolved is not None and resolved.state == State.CONNECTED:
            self._local, self._remote = resolved.names.local, resolved.names.remote

    def _forgotten(self) -> NoReturn:
        if not self._joined:
            super()._forgotten()
        fail(errno.ENOTCONN)

    # --- connecting ---

    def connect(self, address: Any) -> None:
        """Connect; without blocking, BlockingIOError (EINPROGRESS) tells that the fd will become writable."""
        endpoint = self._endpoint(address)
        timeout = self.gettimeout()
        if self._joined:
            self._try_again(timeout)
        connected = self._dial(endpoint, timeout) if self._late else self._connect(endpoint, timeout)
        if timeout == 0:
            fail(errno.EINPROGRESS)
        if not connected:
            self._wait_connected()
        self._remote = endpoint

    def _dial(self, endpoint: Endpoint, timeout: float | None) -> bool:
        """Ask for a connection all at once; tell whether it is there already."""
        body = dial_body(self._family, self._wire_proto, endpoint, app_name())
        self._dialing = threading.Lock()
        try:
            with self._dialing:
                reply, fd, connected = self._ctx.dial(self._path, body, timeout)
                slot, cookie, names = parse_dialed(reply)
                self._replace(slot, cookie, fd)
                self._local, self._joined = names.local, True
        finally:
            self._dialing = None
        return connected

    def _connect(self, endpoint: Endpoint, timeout: float | None) -> bool:
        """Connect the fd that we have; tell whether it is connected already."""
        with self._ctx.link(self._path).waiting() as may:
            wait = may and timeout != 0 and not self._joined
            body = connect_body(endpoint, 1 if wait else STREAM_FULL)
            names, entrance = parse_connected(self._call(Op.CONNECT, body, wait=wait))
        self._local = names.local
        if not self._joined:
            self._join(entrance, _LAST if wait else _FILLER)
        if wait:
            self._enlarge()
        return wait

    def _call(self, op: Op, body: bytes = b"", *, wait: bool = False) -> bytes:
        if not wait:
            return super()._call(op, body)
        number, timeout = self.fileno(), self.gettimeout()
        if number < 0:
            fail(errno.EBADF)
        link, patience = self._ctx.link(self._path), PATIENCE if timeout is None else timeout
        return link.wait(op, body, slot=self._slot, cookie=self._cookie, timeout=patience)

    def _try_again(self, timeout: float | None) -> None:
        """Before another attempt, tell what became of the first, then have a new socket under the same number."""
        if not self._hung_up():
            return  # it is connecting or connected, and the forwarder will say so
        if error := self.getsockopt(stdlib.SOL_SOCKET, stdlib.SO_ERROR):
            fail(error)
        if timeout == 0:
            fail(errno.ECONNABORTED)  # who watches this number would never hear of another socket under it
        self._local = self._remote = None
        self._joined = False
        self._late = True
        self._settle()

    def _join(self, entrance: bytes, filler: bytes) -> None:
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
            if filler is _FILLER:
                _send(self, _FILLER, stdlib.MSG_DONTWAIT | stdlib.MSG_NOSIGNAL)
            _send(self, _LAST, stdlib.MSG_DONTWAIT | stdlib.MSG_NOSIGNAL)

    def _wait_connected(self) -> None:
        timeout = self.gettimeout()
        poll = select.poll()
        poll.register(self.fileno(), select.POLLOUT)
        events = poll.poll(None if timeout is None else timeout * _SECOND)
        if not events:
            raise TimeoutError("timed out")
        if events[0][1] & (select.POLLHUP | select.POLLERR):
            fail(self.getsockopt(stdlib.SOL_SOCKET, stdlib.SO_ERROR) or errno.ECONNRESET)
        self._enlarge()

    def _enlarge(self) -> None:
        stdlib.socket.setsockopt(self, stdlib.SOL_SOCKET, stdlib.SO_SNDBUF, STREAM_CONNECTED_BUFFER)

    # --- listening ---

    def listen(self, backlog: int = -1) -> None:
        """Accept connections from now on."""
        wanted = backlog_of(backlog)
        self._local = parse_names(self._call(Op.LISTEN, listen_body(wanted))).local
        super().listen(wanted)

    def accept(self) -> tuple[Self, Any]:
        """Take the next connection: its socket and the peer's address."""
        take: Callable[[], tuple[int, bytes]] = getattr(self, "_accept")  # noqa: B009 - the kernel's, not in typeshed
        while True:
            fd, name = take()
            accepted = parse_accepted(name)
            if accepted is not None and (self.tier != "remote" or _by_ourselves(fd)):
                break
            os.close(fd)  # another app that knows the fd's name, not a connection
        made = self._adopt(fd, accepted)
        if stdlib.getdefaulttimeout() is None and self.gettimeout():
            made.setblocking(True)
        return made, addresses.show(made._peer())  # noqa: SLF001 - one of us

    def _adopt(self, fd: int, accepted: Accepted) -> Self:
        made = plain_new(self.__class__)
        made.vr, made._ctx, made._path = self.vr, self._ctx, self._path  # noqa: SLF001 - one of us
        made._family, made._kind, made._proto = self._family, self._kind, self._proto  # noqa: SLF001
        made._slot, made._cookie = accepted.slot, accepted.nonce  # noqa: SLF001
        made._bound = made._joined = True  # noqa: SLF001
        made._take_names(accepted)  # noqa: SLF001
        made._take_fd(fd)  # noqa: SLF001
        made._enlarge()  # noqa: SLF001 - else the byte that stays unread may hold all of the buffer
        return made

    # --- names and options ---

    def _hung_up(self) -> bool:
        """Tell whether the forwarder has closed its end."""
        if self.fileno() < 0:
            fail(errno.EBADF)
        return bool(look(self.fileno()) & select.POLLHUP)

    def _take_names(self, accepted: Accepted) -> None:
        self._remote = addresses.parse_own(self._family, accepted.peer)
        self._local = addresses.parse_own(self._family, accepted.local) if accepted.local else None

    def _peer(self) -> Endpoint:
        if self.fileno() < 0:
            fail(errno.EBADF)
        if self._remote is None:
            self._remote = parse_names(self._call(Op.NAME)).remote
        if self._remote is None:
            fail(errno.ENOTCONN)
        return self._remote

    def getpeername(self) -> Any:
        """Give the peer's address, as long as there is a peer."""
        if self._joined and self._hung_up():
            fail(errno.ENOTCONN)
        return addresses.show(self._peer())

    def getsockopt(self, level: int, optname: int, buflen: int = 0, *, question: bytes = b"") -> Any:
        """Get an option: an int, or with `buflen` bytes."""
        try:
            return super().getsockopt(level, optname, buflen, question=question)
        except OSError as error:
            if error.errno not in {errno.ENOTCONN, errno.ECONNRESET, errno.ENETDOWN, errno.ETIMEDOUT}:
                raise
            if (level, optname) == (stdlib.IPPROTO_TCP, stdlib.TCP_INFO) and buflen:
                return _INFO_CLOSED[:buflen]  # as Linux has it of a socket whose connection is over
            if (level, optname) != (stdlib.SOL_SOCKET, stdlib.SO_ERROR):
                raise
        return stdlib.socket.getsockopt(self, level, optname)  # the forwarder knows it no more, the fd does

    def shutdown(self, how: int) -> None:
        """Shut down one side or both."""
        if not self._joined:
            fail(errno.ENOTCONN)
        super().shutdown(how)

    # --- receiving: an end of file may be a reset that the kernel cannot tell ---

    def _verdict(self) -> int:
        """Ask why the forwarder has closed its end: an errno, or 0 when both sides have finished."""
        try:
            error = int(super().getsockopt(stdlib.SOL_SOCKET, stdlib.SO_ERROR))
        except VRDown:
            error = errno.ECONNRESET
        except OSError as failure:  # it is forgotten: so it ended well, or the failure says how
            error = 0 if failure.errno == errno.ENOTCONN else failure.errno or errno.EIO
        return error

    def _ended(self) -> None:
        """Raise where the forwarder has closed its end for another reason than that both sides have finished."""
        if look(self.fileno()) & select.POLLHUP and (error := self._verdict()):
            fail(error)

    def _reset(self) -> NoReturn:
        """Raise what a connection that the kernel calls reset has failed of."""
        fail(self._verdict() or errno.ECONNRESET)

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """Receive bytes; none at the end of the file."""
        try:
            data = super().recv(bufsize, flags)
        except ConnectionResetError:
            self._reset()
        if not data and bufsize:
            self._ended()
        return data

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """Receive bytes into a buffer; 0 at the end of the file."""
        try:
            count = super().recv_into(buffer, nbytes, flags)
        except ConnectionResetError:
            self._reset()
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
        try:
            data, items, out, _address = super().recvmsg(bufsize, ancbufsize, flags)
        except ConnectionResetError:
            self._reset()
        if not data and bufsize:
            self._ended()
        return data, items, out, None

    def recvmsg_into(
        self, buffers: Iterable[Any], ancbufsize: int = 0, flags: int = 0
    ) -> tuple[int, list[Any], int, Any]:
        """Receive bytes into several buffers."""
        views = list(buffers)
        try:
            count, items, out, _address = super().recvmsg_into(views, ancbufsize, flags)
        except ConnectionResetError:
            self._reset()
        if not count and any(memoryview(view).nbytes for view in views):
            self._ended()
        return count, items, out, None

    # --- sending ---

    # Urgent data goes as what it is in RFC 6093 section 5: ordinary data.
    def send(self, data: Any, flags: int = 0, /) -> int:
        """Send bytes, as many as there is room for."""
        return _send(self, data, flags & ~stdlib.MSG_OOB)

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        """Send all bytes."""
        _sendall(self, data, flags & ~stdlib.MSG_OOB)

    def sendto(self, data: Any, *arguments: Any) -> int:
        """Send bytes; the address, which is the last argument, means nothing to a connected stream."""
        flags, _address = sendto_arguments(arguments)
        return self.send(data, flags)

    # --- the end ---

    def _real_close(self, *arguments: Any) -> None:
        known = not self._late and self.fileno() >= 0 and not self._joined
        close: Callable[..., None] = getattr(super(), "_real_close")  # noqa: B009 - not in typeshed
        close(*arguments)
        # Nothing else tells the forwarder at once that a listener is closed.
        if known:
            self._ctx.link(self._path).hint(Op.CLOSE, slot=self._slot, cookie=self._cookie)


def _by_ourselves(fd: int) -> bool:
    """Tell whether this user made a connection: names of the app's own namespace are open to all."""
    with stdlib.socket(stdlib.AF_UNIX, stdlib.SOCK_STREAM, 0, os.dup(fd)) as probe:
        credentials = probe.getsockopt(stdlib.SOL_SOCKET, stdlib.SO_PEERCRED, _CREDENTIALS.size)
    _pid, uid, _gid = _CREDENTIALS.unpack(credentials)
    return uid in {os.geteuid(), 0}
