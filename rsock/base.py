"""What all sockets in virtual routers have in common: how they are opened, named, bound and set.

    socket(..., vr="red")     a RouterSocket: an AF_UNIX fd whose other end the VR's forwarder holds
    socket(..., vr="kernel")  an ordinary socket
    socket(..., vr="*")       a SpanningSocket (see everywhere)
    socket(fileno=fd)         whichever it is: fds of VRs have names that tell (see wire)

The kinds stand in `datagrams`, `streams` and `everywhere`; `sockets` brings all of them together.  The fd is real:
select, poll, epoll, asyncio, fork, exec, dup and inheritance work.  A VR that goes away makes calls fail with ENETDOWN.
"""

from __future__ import annotations

import _socket
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
from rsock.client_core import (
    Endpoint,
    FdName,
    Resolved,
    name_body,
    option_body,
    parse_fd_name,
    parse_names,
    parse_option,
    parse_resolved,
)
from rsock.errors import VRDown
from rsock.wire import Op

KERNEL: Final = "kernel"
_FAMILIES: Final = frozenset({-1, stdlib.AF_INET, stdlib.AF_INET6})
_FLAGS: Final = stdlib.SOCK_NONBLOCK | stdlib.SOCK_CLOEXEC
_INT: Final = struct.Struct("=i")
_MAX_OPTION: Final = 8448

# As they are before anything is patched.
plain_new: Final = _socket.socket.__new__
plain_init: Final = stdlib.socket.__init__

_default_vr: contextvars.ContextVar[str | None] = contextvars.ContextVar("rsock_vr", default=None)
_patched_vr: list[str] = []  # what `patch` has set for all threads, the latest last


@contextlib.contextmanager
def default_vr(name: str) -> Iterator[None]:
    """Let sockets that are made inside the `with` block, without `vr`, live in this VR."""
    token = _default_vr.set(name)
    try:
        yield
    finally:
        _default_vr.reset(token)


def choose(vr: str | None) -> str:
    """Give the VR that is meant where an app says `vr`."""
    if vr or (vr := _default_vr.get()):
        return vr
    return _patched_vr[-1] if _patched_vr else os.environ.get("RSOCK_VR") or KERNEL


def patched_vrs() -> list[str]:
    """Give the stack of the VRs that hold for all threads."""
    return _patched_vr


def new_socket(cls: type[Any], family: int, kind: int, fileno: int | None, vr: str | None) -> Any:
    """Make an uninitialized socket of `cls`, of the class of ours that it needs, or of one that is both."""
    name = None if fileno is None else name_of(fileno)
    if name is not None:
        made = plain_new(_join(cls, kinds.get(name.type, RouterSocket)))
        made._name = name  # noqa: SLF001 - one of us
        return made
    chosen = KERNEL if fileno is not None else choose(vr)
    if chosen == KERNEL:
        return plain_new(cls)
    if family not in _FAMILIES:
        # A VR that was not named for this very socket has no say about Unix sockets and the like.
        if vr is None:
            return plain_new(cls)
        fail(errno.EAFNOSUPPORT)
    kind = stdlib.SOCK_STREAM if kind == -1 else kind & ~_FLAGS
    if "*" in chosen or "," in chosen:
        if kind not in spanning:
            fail(errno.ESOCKTNOSUPPORT)
        return plain_new(_join(cls, spanning[kind]))
    return plain_new(_join(cls, kinds.get(kind, RouterSocket)))


def _join(cls: type[Any], ours: type[socket]) -> type[Any]:
    if issubclass(ours, cls):
        return ours
    if issubclass(cls, ours):
        return cls
    made = _joined.get((cls, ours))
    if made is None:
        about = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
        made = _joined[cls, ours] = type(cls.__name__, (cls, ours), about)
    return made


def name_of(fd: int) -> FdName | None:
    """Read from the names of an fd which socket of a VR it is; None: no VR's."""
    try:
        probe = _socket.socket(stdlib.AF_UNIX, stdlib.SOCK_STREAM, 0, fd)
    except (OSError, ValueError, TypeError, OverflowError):
        return None  # whoever uses it will hear why
    try:
        local = probe.getsockname()
        if not isinstance(local, bytes):
            return None
        try:
            remote = probe.getpeername()
        except OSError:
            remote = None
        return parse_fd_name(local, remote)
    finally:
        probe.detach()


_NO_CONFLICTS: Final[dict[str, OSError]] = {}


class socket(stdlib.socket):  # noqa: N801 - named as what it stands in for
    """A socket in the kernel (`vr` is None or "kernel") or in a virtual router."""

    vr: str = KERNEL
    #: Of a socket in several VRs: where there should be a part of it and is none, with the reason.
    conflicts: dict[str, OSError] = _NO_CONFLICTS  # not to be changed

    @property
    def routers(self) -> list[str]:
        """Name the VRs where it is now."""
        return [self.vr]

    def __new__(
        cls, family: int = -1, type: int = -1, proto: int = -1, fileno: int | None = None,  # noqa: A002, ARG004
        *, vr: str | None = None, ctx: Context | None = None,  # noqa: ARG004
    ) -> Self:  # fmt: skip
        """Choose the class by `vr` and type."""
        made: Self = new_socket(cls, family, type, fileno, vr)
        return made

    def __init__(
        self, family: int = -1, type: int = -1, proto: int = -1, fileno: int | None = None,  # noqa: A002
        *, vr: str | None = None, ctx: Context | None = None,  # noqa: ARG002
    ) -> None:  # fmt: skip
        plain_init(self, family, type, proto, fileno)


def down() -> NoReturn:
    """Raise what a virtual router that does not run earns."""
    raise VRDown(errno.ENETDOWN, os.strerror(errno.ENETDOWN))


def _named(number: int, names: Any) -> Any:
    """Give a number with its name, where it has one."""
    try:
        return names(number)
    except ValueError:
        return number


def fail(number: int) -> NoReturn:
    """Raise an errno."""
    raise OSError(number, os.strerror(number))


def sendto_arguments(arguments: tuple[Any, ...]) -> tuple[int, Any]:
    """Give flags and address, which stand behind the data in a call of sendto.  Raises TypeError."""
    if len(arguments) not in {1, 2}:
        raise TypeError(f"sendto() takes 2 or 3 arguments ({len(arguments) + 1} given)")
    return (arguments[0] if len(arguments) == 2 else 0), arguments[-1]


def backlog_of(asked: int) -> int:
    """Give the backlog that listen() means; a negative one is the standard module's default."""
    return min(stdlib.SOMAXCONN, 128) if asked < 0 else asked


def _register(made: type[RouterSocket], types: tuple[int, ...]) -> None:
    kinds.update(dict.fromkeys(types, made))
    if types:
        _kind_set.add(made)


class RouterSocket(socket):
    """A socket in a virtual router; made by `socket(..., vr=NAME)`."""

    _fd_kind: ClassVar[int] = stdlib.SOCK_SEQPACKET
    _native: ClassVar[frozenset[int]] = frozenset()  # options of the app's own end, level SOL_SOCKET
    _default_protocol: ClassVar[int] = 0  # what the forwarder takes 0 for

    _family: stdlib.AddressFamily
    _kind: stdlib.SocketKind
    _proto: int
    _name: FdName | None = None  # of an fd that was made elsewhere
    _local: Endpoint | None = None  # where known

    def __init_subclass__(cls, kinds: tuple[int, ...] = (), **more: Any) -> None:
        """Register the class for socket types."""
        super().__init_subclass__(**more)
        _register(cls, kinds)

    def __init__(
        self, family: int = -1, type: int = -1, proto: int = -1, fileno: int | None = None,  # noqa: A002
        *, vr: str | None = None, ctx: Context | None = None,
    ) -> None:  # fmt: skip
        if fileno is not None:
            self._recover(fileno, ctx or default_context())
            if family != -1:
                self._family = _named(family, stdlib.AddressFamily)
            if type != -1:
                self._kind = _named(type, stdlib.SocketKind)
            if proto != -1:
                self._proto = proto
            return
        family = stdlib.AF_INET if family == -1 else family
        kind = stdlib.SOCK_STREAM if type == -1 else type
        self.vr = choose(vr)
        self._ctx = ctx or default_context()
        self._bound = False
        self._family, self._kind = _named(family, stdlib.AddressFamily), _named(kind & ~_FLAGS, stdlib.SocketKind)
        self._wire_proto = max(proto, 0)
        self._proto = self._wire_proto
        self._obtain(kind & ~_FLAGS, self._wire_proto)
        if kind & stdlib.SOCK_NONBLOCK:
            self.setblocking(False)

    def _obtain(self, kind: int, proto: int) -> None:
        opened = self._ctx.open(self.vr, self._family, kind, proto)
        self._path, self._slot, self._cookie = opened.path, opened.slot, opened.cookie
        self._take_fd(opened.fd)

    def _take_fd(self, fd: int) -> None:
        try:
            plain_init(self, stdlib.AF_UNIX, self._fd_kind, 0, fd)
        except BaseException:
            os.close(fd)
            raise

    def _recover(self, fd: int, ctx: Context) -> None:
        """Become the socket that an fd from elsewhere belongs to."""
        name = self._name or name_of(fd)
        if name is None or not name.vr:
            raise OSError(errno.ENOTSOCK, "no fd of a virtual router")
        self.vr, self._ctx, self._path = name.vr, ctx, ctx.path(name.vr)
        self._slot, self._cookie = name.slot, name.nonce  # good for those whom the socket belongs to
        self._family, self._kind = _named(name.family, stdlib.AddressFamily), _named(name.type, stdlib.SocketKind)
        self._proto, self._bound = self._default_protocol, True
        try:
            link = ctx.link(self._path)
            resolved = parse_resolved(
                link.call(Op.RESOLVE, slot=name.slot, cookie=name.nonce, timeout=ctx.timeout)
            )  # fmt: skip
        except OSError as error:
            if error.errno not in {errno.EBADF, errno.ENOTCONN, errno.ENETDOWN}:
                raise
            resolved = None  # it is over, and the fd says so
        if resolved is not None:
            self._proto = resolved.protocol or self._default_protocol
        plain_init(self, stdlib.AF_UNIX, self._fd_kind, 0, fd)
        try:
            self._restore(name, resolved)
        except BaseException:
            self.detach()  # it stays the caller's
            raise

    def _restore(self, name: FdName, resolved: Resolved | None) -> None:
        """Take over what a socket from elsewhere has been through; `resolved` is None when it is over."""

    def __repr__(self) -> str:
        about = f"{' [closed]' if getattr(self, '_closed', False) else ''} fd={self.fileno()}"
        if self.fileno() >= 0:
            about += f", vr={self.vr!r}, family={self._family}, type={self._kind}, proto={self._proto}"
            # Only what is known: nobody waits for a router to print something.
            about += f", laddr={addresses.show(self._local)}" if self._local else ""
        return f"<{type(self).__module__}.{type(self).__qualname__}{about}>"

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

    @property
    def tier(self) -> str:
        """Tell how bytes get there: "fd" to a router of this host, "remote" to another one's through a relay."""
        return "remote" if self._ctx.remote else "fd"

    def _endpoint(self, address: Any) -> Endpoint:
        """Read an address; a name is looked up in the VR."""
        try:
            return addresses.parse(self._family, address)
        except addresses.NameGivenError as given:
            from rsock.resolver import first_address  # noqa: PLC0415 - it asks through sockets

            numeric = first_address(given.host, self._family, self._kind, self.vr, self._ctx)
            return addresses.parse(self._family, (numeric, *address[1:]))

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
        endpoint = self._endpoint(address)
        self._local = None
        try:
            self._local = parse_names(self._call(Op.BIND, name_body(endpoint))).local
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
        # Not what a subclass has made of connect: ssl's is built on this one.
        ours: Any = next(kind for kind in type(self).__mro__ if kind in _kind_set)
        try:
            ours.connect(self, address)
        except stdlib.gaierror:
            raise
        except OSError as error:
            return error.errno or errno.EIO
        return 0

    def getsockname(self) -> Any:
        """Give the local address."""
        if self.fileno() < 0:
            fail(errno.EBADF)
        if self._local is not None:
            return addresses.show(self._local)
        local = parse_names(self._call(Op.NAME)).local
        if local.port:
            self._local = local  # it stays until connect or bind
        return addresses.show(local)

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
        other = plain_new(self.__class__)
        other.__dict__.update(self.__dict__)
        other._duplicated()  # noqa: SLF001 - one of us
        other._take_fd(fd)  # noqa: SLF001
        other.settimeout(self.gettimeout())
        return other

    def _duplicated(self) -> None:
        """Make one's own what a duplicate must not share."""


kinds: Final[dict[int, type[RouterSocket]]] = {}
spanning: Final[dict[int, type[socket]]] = {}  # for sockets in several VRs, see `everywhere`
_kind_set: Final[set[Any]] = set()
_joined: Final[dict[tuple[type[Any], type[socket]], type[Any]]] = {}
