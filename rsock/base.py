"""What all sockets in virtual routers have in common: how they are opened, named, bound and set.

    socket(..., vr="red")     a RouterSocket: an AF_UNIX fd whose other end the VR's forwarder holds
    socket(..., vr="kernel")  an ordinary socket

The kinds stand in `datagrams` and `streams`; `sockets` brings all of them together.  The fd is real: select,
poll, epoll, asyncio, fork, dup and inheritance work.  A VR that goes away makes calls fail with ENETDOWN.
Not supported yet: names instead of numeric addresses, an fd from elsewhere.
"""

from __future__ import annotations

import contextlib
import contextvars
import errno
import os
import socket as stdlib
import struct
from collections.abc import Iterator
from typing import Any, ClassVar, Final, NoReturn, Self

from rsock import addresses
from rsock.client import Context, default_context
from rsock.client_core import Endpoint, name_body, option_body, parse_names, parse_option
from rsock.errors import VRDown
from rsock.wire import Op

KERNEL: Final = "kernel"
_FLAGS: Final = stdlib.SOCK_NONBLOCK | stdlib.SOCK_CLOEXEC
_INT: Final = struct.Struct("=i")
_MAX_OPTION: Final = 8448

_default_vr: contextvars.ContextVar[str | None] = contextvars.ContextVar("rsock_vr", default=None)


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

    def __new__(cls, *arguments: Any, vr: str | None = None, **more: Any) -> Self:
        """Choose the class by `vr` and type."""
        chosen: Any = cls
        if _choose(vr) != KERNEL:
            kind = arguments[1] if len(arguments) > 1 else more.get("type", -1)
            found = kinds.get(stdlib.SOCK_STREAM if kind == -1 else kind & ~_FLAGS, RouterSocket)
            chosen = found if issubclass(found, cls) else cls
        made: Self = super().__new__(chosen)
        return made

    def __init__(
        self, family: int = -1, type: int = -1, proto: int = -1, fileno: int | None = None,  # noqa: A002
        *, vr: str | None = None, ctx: Context | None = None,  # noqa: ARG002
    ) -> None:  # fmt: skip
        if _choose(vr) != KERNEL:
            raise TypeError("a class for sockets in virtual routers derives from rsock.sockets.RouterSocket")
        super().__init__(family, type, proto, fileno)


def down() -> NoReturn:
    """Raise what a virtual router that does not run earns."""
    raise VRDown(errno.ENETDOWN, os.strerror(errno.ENETDOWN))


def fail(number: int) -> NoReturn:
    """Raise an errno."""
    raise OSError(number, os.strerror(number))


def _register(made: type[RouterSocket], types: tuple[int, ...]) -> None:
    kinds.update(dict.fromkeys(types, made))


class RouterSocket(socket):
    """A socket in a virtual router; made by `socket(..., vr=NAME)`."""

    _fd_kind: ClassVar[int] = stdlib.SOCK_SEQPACKET
    _native: ClassVar[frozenset[int]] = frozenset()  # options of the app's own end, level SOL_SOCKET
    _default_protocol: ClassVar[int] = 0  # what the forwarder takes 0 for

    def __init_subclass__(cls, kinds: tuple[int, ...] = (), **more: Any) -> None:
        """Register the class for socket types."""
        super().__init_subclass__(**more)
        _register(cls, kinds)

    def __init__(
        self, family: int = -1, type: int = -1, proto: int = -1, fileno: int | None = None,  # noqa: A002
        *, vr: str | None = None, ctx: Context | None = None,
    ) -> None:  # fmt: skip
        if fileno is not None:
            fail(errno.EOPNOTSUPP)
        family = stdlib.AF_INET if family == -1 else family
        kind = stdlib.SOCK_STREAM if type == -1 else type
        self.vr = _choose(vr)
        self._ctx = ctx or default_context()
        opened = self._ctx.open(self.vr, family, kind & ~_FLAGS, max(proto, 0))
        self._path, self._slot, self._cookie = opened.path, opened.slot, opened.cookie
        self._bound = False
        self._family, self._kind = stdlib.AddressFamily(family), stdlib.SocketKind(kind & ~_FLAGS)
        self._proto = proto if proto > 0 else self._default_protocol
        self._take_fd(opened.fd)
        if kind & stdlib.SOCK_NONBLOCK:
            self.setblocking(False)

    def _take_fd(self, fd: int) -> None:
        try:
            stdlib.socket.__init__(self, stdlib.AF_UNIX, self._fd_kind, 0, fd)
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
            fail(errno.EBADF)
        link = self._ctx.link(self._path)
        try:
            return link.call(op, body, slot=self._slot, cookie=self._cookie, timeout=self._ctx.timeout)
        except OSError as error:
            if error.errno == errno.EBADF:  # the VR was started anew: it knows nothing of us
                self._forgotten()
            raise

    def _forgotten(self) -> NoReturn:
        """Raise what it means that the forwarder does not know the socket."""
        down()

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

    def connect_ex(self, address: Any) -> int:
        """Connect, but give the errno instead of raising."""
        try:
            self.connect(address)
        except stdlib.gaierror:
            raise
        except OSError as error:
            return error.errno or errno.EIO
        return 0

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
        if level == stdlib.SOL_SOCKET and optname in self._native:
            super().setsockopt(level, optname, raw)
            return
        self._call(Op.SETOPT, option_body(level, optname, raw))
        self._option_set(level, optname, raw)

    def _option_set(self, _level: int, _name: int, _value: bytes) -> None:
        """Hear of an option that was set."""

    def getsockopt(self, level: int, optname: int, buflen: int = 0, *, question: bytes = b"") -> Any:
        """Get an option: an int, or with `buflen` bytes.

        Some options are asked with what stands in the buffer, as MCAST_MSFILTER: `question`.
        """
        if level == stdlib.SOL_SOCKET and optname in self._native:
            return super().getsockopt(level, optname, buflen) if buflen else super().getsockopt(level, optname)
        room = min(buflen, _MAX_OPTION) if buflen else _INT.size
        value = parse_option(self._call(Op.GETOPT, option_body(level, optname, question[:room], room)))
        if buflen:
            return value
        return _INT.unpack(value.ljust(_INT.size, b"\0")[: _INT.size])[0]

    # --- the rest ---

    def dup(self) -> Self:
        """Duplicate the fd: both are the same socket."""
        fd = os.dup(self.fileno())
        other = stdlib.socket.__new__(self.__class__)
        other.__dict__.update(self.__dict__)
        other._duplicated()  # noqa: SLF001 - one of us
        other._take_fd(fd)  # noqa: SLF001
        other.settimeout(self.gettimeout())
        return other

    def _duplicated(self) -> None:
        """Make one's own what a duplicate must not share."""


kinds: Final[dict[int, type[RouterSocket]]] = {}
