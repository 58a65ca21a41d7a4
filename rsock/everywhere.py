"""Sockets in several virtual routers at once, present and future: `vr="*"`.

    socket(AF_INET, SOCK_STREAM, vr="*")          in all VRs where this process may
    socket(AF_INET, SOCK_DGRAM, vr="red,blue")    in these, whether they are there already or not
    socket(AF_INET, SOCK_DGRAM, vr="*,kernel")    the kernel is one more

                       +--> socket in red ---+
    bind, listen, -----+--> socket in blue --+--> epoll set: the fd ---> accept, recvfrom, recvmsg
    setsockopt         +--> ... (later) -----+                           tell which, by `address.vr`

Such a socket has one member in each VR that is up; a member is made when its VR comes up and dropped when that goes
down.  The fd is the epoll set of the members, so that select, poll, epoll and asyncio wait for all of them.  An
accepted socket is one of its VR.  Datagrams are answered by sending to the address that they came from, or with an
ancillary item (SOL_RSOCK, RSOCK_VR, name).

A port that is taken in one VR is a `listen-conflict`: it stands in `conflicts`, is logged, and is tried again each
second.  A VR where a rule forbids it is no conflict of `*`.  Where no member at all can be had, bind() and listen()
raise the first one's error.

Not supported: connect (a connection has one VR), raw sockets, dup and detach; after fork a child has a set of its
own, which those who watched the fd before do not know.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import socket as stdlib
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Final, NoReturn, Self, TypeVar

from rsock.base import KERNEL, backlog_of, choose, fail, plain_init, sendto_arguments, socket, spanning
from rsock.client import Context, Event, Watch, default_context
from rsock.client_core import total
from rsock.errors import BrokerGone, VRDown
from rsock.wire import RSOCK_VR, SOL_RSOCK

log = logging.getLogger("rsock")

ALL: Final = "*"
_RETRY: Final = 1.0  # seconds between attempts to have what was refused
_NOT_OURS: Final = frozenset({errno.EACCES, errno.EPERM})
_Result = TypeVar("_Result")


class Place(tuple[Any, ...]):  # noqa: SLOT001 - tuples of any length have no room for slots
    """An address with the VR where it is: what recvfrom and accept give, and sendto takes."""

    vr: str

    def __new__(cls, address: Iterable[Any], vr: str) -> Self:
        """Add the VR's name to an address."""
        made = super().__new__(cls, address)
        made.vr = vr
        return made


class SpanningSocket(socket):
    """What listeners and datagram sockets in several VRs have in common."""

    _type: ClassVar[int]

    def __init__(
        self, family: int = -1, type: int = -1, proto: int = -1, fileno: int | None = None,  # noqa: A002, ARG002
        *, vr: str | None = None, ctx: Context | None = None,
    ) -> None:  # fmt: skip
        self.vr = choose(vr)
        self._wanted = frozenset(name.strip() for name in self.vr.split(",") if name.strip())
        self._ctx = ctx or default_context()
        self._family = stdlib.AddressFamily(stdlib.AF_INET if family == -1 else family)
        self._proto = max(proto, 0)
        self._lock = threading.RLock()
        self._members: dict[str, stdlib.socket] = {}
        self._by_fd: dict[int, str] = {}
        self._calls: list[Callable[[stdlib.socket], object]] = []  # what a new member has to catch up with
        self._address: tuple[Any, ...] | None = None
        self._watching = self._type != stdlib.SOCK_STREAM  # a stream that does not listen is "ready" at once
        self._pid = os.getpid()
        self.conflicts: dict[str, OSError] = {}
        self._epoll = select.epoll()
        plain_init(self, stdlib.AF_UNIX, self._type)
        os.dup2(self._epoll.fileno(), super().fileno(), inheritable=False)
        if type != -1 and type & stdlib.SOCK_NONBLOCK:
            self.setblocking(False)
        _all.add(self)

    def __repr__(self) -> str:
        state = "closed" if self.fileno() < 0 else f"fd={self.fileno()}"
        return f"<rsock.socket {state} vr={self.vr!r} family={self._family.name} in {sorted(self._members)}>"

    @property
    def family(self) -> stdlib.AddressFamily:
        """Give the address family in the VRs."""
        return self._family

    @property
    def type(self) -> stdlib.SocketKind:
        """Give the socket type in the VRs."""
        return stdlib.SocketKind(self._type)

    @property
    def proto(self) -> int:
        """Give the IP protocol."""
        return self._proto

    @property
    def routers(self) -> list[str]:
        """Name the VRs where it is now."""
        with self._lock:
            return sorted(self._members)

    # --- members ---

    def match(self, up: set[str]) -> None:
        """Have a member in each VR of these that is wanted, and in no other."""
        with self._lock:
            if self.fileno() < 0 or self._address is None:
                return
            wanted = (up if ALL in self._wanted else up & self._wanted) | (self._wanted & {KERNEL})
            for name in self._members.keys() - wanted:
                self._drop(name)
            for name in self.conflicts.keys() - wanted:
                del self.conflicts[name]
            for name in sorted(wanted - self._members.keys()):
                self._join(name)

    def _join(self, name: str) -> None:
        made = socket(self._family, self._type, self._proto, vr=name, ctx=self._ctx)
        try:
            for call in self._calls:
                call(made)
            made.setblocking(False)
            fd = made.fileno()
            if self._watching:
                self._epoll.register(fd, select.EPOLLIN)
        except OSError as error:
            made.close()
            self._refused(name, error)
            return
        self._members[name], self._by_fd[fd] = made, name
        if self.conflicts.pop(name, None) is not None:
            log.info("the port is free now", extra={"event": "listen-conflict-over", "vr": name})
        if self._address is not None and self._address[1] == 0:
            # All have the port that the first one was given.
            self._address = (self._address[0], made.getsockname()[1], *self._address[2:])

    def _refused(self, name: str, error: OSError) -> None:
        if error.errno in _NOT_OURS and name not in self._wanted:
            return
        if name not in self.conflicts:
            log.warning("listen-conflict in %s: %s", name, error, extra={"event": "listen-conflict", "vr": name})
        self.conflicts[name] = error

    def _drop(self, name: str) -> None:
        member = self._members.pop(name)
        del self._by_fd[member.fileno()]
        with contextlib.suppress(OSError):
            self._epoll.unregister(member.fileno())
        member.close()

    def _forward(self, call: Callable[[stdlib.socket], object]) -> None:
        """Make a call on all members, and on those to come."""
        with self._lock:
            for name, member in list(self._members.items()):
                try:
                    call(member)
                except VRDown:
                    self._drop(name)
                except OSError as error:
                    if self._address is None:
                        raise
                    self._drop(name)
                    self._refused(name, error)
            self._calls.append(call)

    def _begin(self) -> None:
        """Be where one can be, now and from now on."""
        self.match({vr.name for vr in self._ctx.vrs() if vr.state == "up"})
        with self._lock:
            problem = next(iter(self.conflicts.values()), None)
            if problem is not None and not self._members:
                self._address = None
                self.conflicts.clear()
                raise problem
        self._watched()

    def _watched(self) -> None:
        self._pid = os.getpid()
        _watcher(self._ctx).add(self)

    # --- calls for all of them ---

    def bind(self, address: Any) -> None:
        """Bind in each VR; with port 0 all have the same."""
        if self._address is not None:
            fail(errno.EINVAL)
        self._address = tuple(address)
        self._calls.append(lambda member: member.bind(self._address))  # type: ignore[arg-type]
        try:
            self._begin()
        except BaseException:
            self._address = None
            self._calls.pop()
            raise

    def setsockopt(self, level: int, optname: int, value: Any, optlen: int | None = None) -> None:
        """Set an option everywhere."""

        def apply(member: stdlib.socket) -> None:
            if optlen is None:
                member.setsockopt(level, optname, value)
            else:
                member.setsockopt(level, optname, None, optlen)

        if not self._members:
            # Somebody must say whether there is such an option.
            with contextlib.closing(stdlib.socket(self._family, self._type, self._proto)) as probe:
                apply(probe)
        self._forward(apply)

    def getsockopt(self, level: int, optname: int, buflen: int = 0) -> Any:
        """Get an option, of the first member."""
        with self._lock, contextlib.ExitStack() as cleanup:
            member = next(iter(self._members.values()), None)
            if member is None:
                member = cleanup.enter_context(stdlib.socket(self._family, self._type, self._proto))
                for call in self._calls:
                    call(member)
            return member.getsockopt(level, optname, buflen) if buflen else member.getsockopt(level, optname)

    def getsockname(self) -> Any:
        """Give the address; it is the same everywhere."""
        if self._address is not None:
            return self._address
        return ("0.0.0.0", 0) if self._family == stdlib.AF_INET else ("::", 0, 0, 0)

    def getpeername(self) -> NoReturn:
        """Fail: it has no peer."""
        fail(errno.ENOTCONN)

    def connect(self, address: Any) -> NoReturn:  # noqa: ARG002 - as in socket
        """Fail: a connection is in one VR."""
        fail(errno.EOPNOTSUPP)

    def connect_ex(self, address: Any) -> int:  # noqa: ARG002 - as in socket
        """Fail: a connection is in one VR."""
        return errno.EOPNOTSUPP

    def shutdown(self, how: int) -> NoReturn:  # noqa: ARG002 - as in socket
        """Fail: it is not connected."""
        fail(errno.ENOTCONN)

    def dup(self) -> NoReturn:
        """Fail: the members belong to this object."""
        fail(errno.EOPNOTSUPP)

    def detach(self) -> NoReturn:
        """Fail: the fd without its members is of no use."""
        fail(errno.EOPNOTSUPP)

    def _from_any(self, call: Callable[[stdlib.socket], _Result], *, wait: bool = True) -> tuple[str, _Result]:
        """Make a call on a member that is ready; tell which one that was."""
        if self._pid != os.getpid():
            self._watched()
        timeout = self.gettimeout() if wait else 0
        while True:
            ready = self._epoll.poll(timeout, 1)  # the kernel takes them in turn
            if not ready:
                if timeout == 0:
                    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
                raise TimeoutError("timed out")
            with self._lock:
                name = self._by_fd.get(ready[0][0], "")
                member = self._members.get(name)
            if member is None:
                continue
            try:
                return name, call(member)
            except (BlockingIOError, ConnectionAbortedError):
                continue
            except OSError as error:
                if not isinstance(error, VRDown) and error.errno not in {errno.EBADF, errno.EINVAL}:
                    raise
                with self._lock:
                    if self._members.get(name) is member:
                        self._drop(name)

    def after_fork(self) -> None:
        """Watch the members with a set of this process's own: the parent's is the parent's."""
        self._lock = threading.RLock()
        own = super().fileno()
        if own < 0:
            return
        self._epoll.close()
        self._epoll = select.epoll()
        os.dup2(self._epoll.fileno(), own, inheritable=False)
        for fd in self._by_fd if self._watching else ():
            self._epoll.register(fd, select.EPOLLIN)

    def _real_close(self, *arguments: Any) -> None:
        with self._lock:
            for name in list(self._members):
                self._drop(name)
            self._epoll.close()
        close: Callable[..., None] = getattr(super(), "_real_close")  # noqa: B009 - not in typeshed
        close(*arguments)


class SpanningListener(SpanningSocket):
    """Accepts connections in several VRs."""

    _type: ClassVar[int] = stdlib.SOCK_STREAM

    def listen(self, backlog: int = -1) -> None:
        """Accept connections from now on, everywhere."""
        if self._address is None:
            self.bind(("", 0) if self._family == stdlib.AF_INET else ("::", 0))
        wanted = backlog_of(backlog)
        self._forward(lambda member: member.listen(wanted))
        with self._lock:
            if not self._watching:
                self._watching = True
                for fd in self._by_fd:
                    self._epoll.register(fd, select.EPOLLIN)
        self._begin()

    def accept(self) -> tuple[stdlib.socket, Place]:
        """Take the next connection; its `vr` and the address's tell where it is."""
        name, (made, address) = self._from_any(lambda member: member.accept())
        if name == KERNEL:
            made = socket(made.family, made.type, made.proto, fileno=made.detach(), vr=KERNEL)
        if stdlib.getdefaulttimeout() is None:
            made.setblocking(True)
        return made, Place(address, name)


class SpanningDatagrams(SpanningSocket):
    """Sends and receives datagrams in several VRs."""

    _type: ClassVar[int] = stdlib.SOCK_DGRAM

    def recvfrom(self, bufsize: int, flags: int = 0) -> tuple[bytes, Place]:
        """Receive a datagram; its sender's address has a `vr`."""
        wait = not flags & stdlib.MSG_DONTWAIT
        name, (data, address) = self._from_any(lambda member: member.recvfrom(bufsize, flags), wait=wait)
        return data, Place(address, name)

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """Receive a datagram."""
        return self.recvfrom(bufsize, flags)[0]

    def recvfrom_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> tuple[int, Place]:
        """Receive a datagram into a buffer, and its sender."""
        wait = not flags & stdlib.MSG_DONTWAIT
        name, (count, address) = self._from_any(lambda member: member.recvfrom_into(buffer, nbytes, flags), wait=wait)
        return count, Place(address, name)

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """Receive a datagram into a buffer."""
        return self.recvfrom_into(buffer, nbytes, flags)[0]

    def recvmsg(
        self, bufsize: int, ancbufsize: int = 0, flags: int = 0
    ) -> tuple[bytes, list[tuple[int, int, bytes]], int, Any]:
        """Receive a datagram with ancillary data; where there is room, one item names the VR."""
        wait = not flags & stdlib.MSG_DONTWAIT
        name, (data, items, out, address) = self._from_any(
            lambda member: member.recvmsg(bufsize, ancbufsize, flags), wait=wait
        )
        return data, _with_router(items, name, ancbufsize), out, Place(address, name)

    def recvmsg_into(
        self, buffers: Iterable[Any], ancbufsize: int = 0, flags: int = 0
    ) -> tuple[int, list[tuple[int, int, bytes]], int, Any]:
        """Receive a datagram into several buffers."""
        views = [memoryview(buffer).cast("B") for buffer in buffers]
        data, items, out, sender = self.recvmsg(total(views), ancbufsize, flags)
        rest = data
        for view in views:
            view[: len(rest)] = rest[: len(view)]
            rest = rest[len(view) :]
        return len(data), items, out, sender

    def sendto(self, data: Any, *arguments: Any) -> int:
        """Send a datagram to a `Place`; flags may stand before it."""
        flags, address = sendto_arguments(arguments)
        return self._member(getattr(address, "vr", None)).sendto(data, flags, address)

    def sendmsg(
        self, buffers: Iterable[Any], ancdata: Iterable[tuple[int, int, Any]] = (), flags: int = 0, address: Any = None
    ) -> int:
        """Send a datagram to a `Place`, or to an address in the VR that an ancillary item names."""
        name, rest = getattr(address, "vr", None), []
        for level, kind, value in ancdata:
            if (level, kind) == (SOL_RSOCK, RSOCK_VR):
                name = bytes(value).rstrip(b"\0").decode(errors="replace")
            else:
                rest.append((level, kind, value))
        return self._member(name).sendmsg(buffers, rest, flags, address)

    def send(self, data: Any, flags: int = 0) -> NoReturn:  # noqa: ARG002 - as in socket
        """Fail: it has no peer."""
        fail(errno.EDESTADDRREQ)

    def _member(self, name: str | None) -> stdlib.socket:
        if name is None:
            raise OSError(errno.EDESTADDRREQ, "the address names no virtual router")
        if self._address is None:
            self.bind(("", 0) if self._family == stdlib.AF_INET else ("::", 0))
        with self._lock:
            member = self._members.get(name)
        if member is None:
            raise VRDown(errno.ENETDOWN, os.strerror(errno.ENETDOWN))
        return member


def _with_router(items: list[tuple[int, int, bytes]], name: str, room: int) -> list[tuple[int, int, bytes]]:
    value = name.encode()
    used = sum(stdlib.CMSG_SPACE(len(item[2])) for item in items)
    return [*items, (SOL_RSOCK, RSOCK_VR, value)] if used + stdlib.CMSG_SPACE(len(value)) <= room else items


class _Watcher:
    """A thread for each context: it keeps the members in step with the VRs that are there."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._sockets: weakref.WeakSet[SpanningSocket] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._running = False

    def add(self, made: SpanningSocket) -> None:
        with self._lock:
            self._sockets.add(made)
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="rsock-everywhere", daemon=True).start()

    def _run(self) -> None:
        while self._busy():
            try:
                with self._ctx.watch(initial=True) as watch:
                    self._follow(watch)
            except (BrokerGone, OSError) as error:
                log.info("the broker is away: %s", error)
                threading.Event().wait(_RETRY)

    def _busy(self) -> bool:
        with self._lock:
            self._running = any(made.fileno() >= 0 for made in self._sockets)
            return self._running

    def _follow(self, watch: Watch) -> None:
        up: set[str] = set()
        known = False  # until the first state of things has been told
        while self._busy():
            event = watch.wait(_RETRY if known else 0)
            if event is not None:
                _note(event, up)
                if not known:
                    continue
            known = True
            with self._lock:
                sockets = list(self._sockets)
            for made in sockets:
                made.match(up)


def _note(event: Event, up: set[str]) -> None:
    if event.event == "up":
        up.add(event.vr)
    elif event.event in {"down", "gone"}:
        up.discard(event.vr)


_all: weakref.WeakSet[SpanningSocket] = weakref.WeakSet()
_watchers: weakref.WeakKeyDictionary[Context, _Watcher] = weakref.WeakKeyDictionary()


def _watcher(ctx: Context) -> _Watcher:
    return _watchers.setdefault(ctx, _Watcher(ctx))


def _after_fork() -> None:
    _watchers.clear()
    for made in list(_all):
        made.after_fork()


os.register_at_fork(after_in_child=_after_fork)
spanning.update({stdlib.SOCK_STREAM: SpanningListener, stdlib.SOCK_DGRAM: SpanningDatagrams})
