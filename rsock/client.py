"""The broker as apps see it: which virtual routers there are, and what becomes of them.

    Context --(ZeroMQ DEALER, rsock.sock)--> broker      list, watch, tickets
    Context --(Link, vr/NAME.sock)---------> forwarder   everything about a socket

A request is repeated until it is answered or its time is up, so that a broker that is killed costs
milliseconds.  Contexts are thread-safe, and after fork a child silently makes connections of its own;
a `Watch` belongs to one thread and does not survive fork.

For the virtual routers of another host `rsock.remote` stands for both.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import zmq

from rsock import trace
from rsock.client_core import Message, ProtocolError, Requests, open_body, parse_frames, parse_opened, unpack_map
from rsock.errors import BrokerGone, VRDown, VRNotFound, error_of
from rsock.link import Link
from rsock.wire import VERSION, Op, Right

if TYPE_CHECKING:
    from rsock.remote import Curve, Remote
    from rsock.sockets import socket

DEFAULT_RUN_DIR: Final = "/run/anabranch"
_REPEAT: Final = 0.05  # seconds until a request is sent again
_RECONNECT_MS: Final = 5
# As often as this when the broker is away for long; more would make its return be noticed late.
_RECONNECT_MAX_MS: Final = 50
_ALIVE: Final = 0.5  # seconds between a watcher's looks whether the broker still knows it
PATIENCE: Final = 600.0  # seconds without any limit: TCP gives up long before
_SOCK_STREAM: Final = 1
_SOCK_RAW: Final = 3


def default_endpoint() -> str:
    """Give the broker's address by the environment."""
    if endpoint := os.environ.get("RSOCK_ENDPOINT"):
        return endpoint
    return f"ipc://{os.environ.get('ANABRANCH_RUN_DIR') or DEFAULT_RUN_DIR}/rsock.sock"


@dataclass(frozen=True)
class VR:
    """A virtual router, as it was when it was listed."""

    name: str
    id: int
    state: str  # up, starting, down
    rights: Right
    context: Context

    def socket(self, family: int = -1, kind: int = -1, proto: int = -1) -> socket:
        """Open a socket in it."""
        from rsock.sockets import socket  # noqa: PLC0415 - sockets are made of contexts

        return socket(family, kind, proto, vr=self.name, ctx=self.context)


@dataclass(frozen=True)
class Event:
    """Something that happened to a virtual router: created, up, down or gone."""

    event: str
    vr: str
    reason: str


@dataclass(frozen=True)
class Opened:
    """A socket that a forwarder has just opened for us; the fd is the receiver's."""

    path: str  # of the forwarder's socket
    slot: int
    cookie: int
    fd: int


@dataclass(frozen=True)
class NameServers:
    """Whom a VR asks for names, and how: resolv.conf(5)."""

    addresses: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    ndots: int = 1
    timeout: float = 2.0  # seconds, for one server
    attempts: int = 2


def parse_resolv_conf(text: str) -> NameServers:
    """Read a resolv.conf; what it does not know, it passes over."""
    servers: list[str] = []
    search: list[str] = []
    options: dict[str, int] = {}
    for line in text.splitlines():
        words = line.split("#")[0].split()
        if len(words) > 1 and words[0] == "nameserver":
            servers.append(words[1])
        elif words and words[0] in {"search", "domain"}:
            search = words[1:]
        elif words and words[0] == "options":
            for word in words[1:]:
                name, _colon, value = word.partition(":")
                if value.isascii() and value.isdigit():
                    options[name] = int(value)
    return NameServers(
        tuple(servers), tuple(search), min(options.get("ndots", 1), 15), min(max(options.get("timeout", 2), 1), 30),
        min(max(options.get("attempts", 2), 1), 5),
    )  # fmt: skip


class _Channel:
    """One DEALER socket: requests that are repeated until answered, and events in between."""

    def __init__(self, endpoint: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._dealer = self._context.socket(zmq.DEALER)
        self._dealer.linger = 0
        self._dealer.reconnect_ivl = _RECONNECT_MS
        self._dealer.reconnect_ivl_max = _RECONNECT_MAX_MS
        self._dealer.connect(endpoint)
        self._requests = Requests()
        self._greeted = False
        self._pid = os.getpid()
        self.events: deque[Message] = deque()

    def close(self) -> None:
        """Close; in a child after fork it is the parent's and stays."""
        if self._pid == os.getpid():
            self._dealer.close()
            self._context.term()

    def __del__(self) -> None:
        self.close()

    def request(self, op: Op, body: dict[str, Any], timeout: float) -> dict[str, Any]:
        """Ask the broker.  Raises OSError with the errno of its answer, BrokerGone without one."""
        deadline = time.monotonic() + timeout
        if not self._greeted:
            about = {"ver": VERSION, "app": app_name().decode(errors="replace"), "pid": os.getpid()}
            hello = self._ask(Op.HELLO, about, deadline)
            if hello.get("version", VERSION) != VERSION:
                raise OSError(errno.EPROTONOSUPPORT, os.strerror(errno.EPROTONOSUPPORT))
            self._requests.session = int(hello.get("session", 0)) & 0xFFFFFFFF
            self._greeted = True
        return self._ask(op, body, deadline)

    def _ask(self, op: Op, body: dict[str, Any], deadline: float) -> dict[str, Any]:
        patient = deadline > time.monotonic()
        number, frames = self._requests.broker(op, body)
        first = True
        while first or time.monotonic() < deadline:
            first = False
            with contextlib.suppress(zmq.Again):  # its queue is full: the broker has been away for long
                self._dealer.send_multipart(frames, zmq.DONTWAIT)
            repeat = min(time.monotonic() + _REPEAT, deadline)
            while (message := self.receive(repeat)) is not None:
                if message.op == op and message.request == number:
                    if message.error:
                        raise error_of(message.error, str(body.get("vr", "")))
                    return unpack_map(message.body)
        reason = errno.ETIMEDOUT if patient else errno.EAGAIN
        raise BrokerGone(reason, os.strerror(reason))

    def receive(self, deadline: float) -> Message | None:
        """Give the next reply; events go to `events`.  None: the time is up."""
        while True:
            left = deadline - time.monotonic()
            if not self._dealer.poll(max(0, round(left * 1000))):
                return None
            try:
                message = parse_frames(self._dealer.recv_multipart(zmq.DONTWAIT))
            except (ProtocolError, zmq.Again):
                continue
            if message.is_reply:
                return message
            self.events.append(message)

    def wait_event(self, deadline: float) -> Message | None:
        """Give the next event; None: the time is up."""
        while not self.events:
            if self._dealer.poll(max(0, round((deadline - time.monotonic()) * 1000))) == 0:
                return None
            with contextlib.suppress(ProtocolError, zmq.Again):
                message = parse_frames(self._dealer.recv_multipart(zmq.DONTWAIT))
                if not message.is_reply:
                    self.events.append(message)
        return self.events.popleft()


def _channel_to(endpoint: str, curve: Curve | None) -> _Channel | Remote:
    """Connect to a broker, or to the relay of another host."""
    if endpoint.startswith("ipc://"):
        return _Channel(endpoint)
    from rsock.remote import Remote  # noqa: PLC0415 - most apps need none

    return Remote(endpoint, curve, app_name().decode(errors="replace"))


def _wanted(kind: int, protocol: int) -> Right:
    """Give the rights of which one is needed to open such a socket."""
    if kind == _SOCK_STREAM:
        return Right.CONNECT | Right.LISTEN
    if kind == _SOCK_RAW:
        return Right.RAW
    return Right.UDP | (Right.RAW if protocol else Right(0))


class Context:
    """A connection to one broker, and through it to the virtual routers."""

    def __init__(self, endpoint: str | None = None, *, curve: Curve | None = None, timeout: float = 5.0) -> None:
        """`endpoint`: a broker's ipc://PATH, or tcp://HOST:PORT of a relay, which wants to see `curve`."""
        self.endpoint = endpoint or default_endpoint()
        self.timeout = timeout
        self._curve = curve
        self._lock = threading.RLock()
        self._pid = 0
        self._channel: _Channel | Remote | None = None
        self._links: dict[str, Link] = {}
        self._paths: dict[str, str] = {}  # of forwarders that were found before
        _contexts.add(self)

    def vrs(self) -> list[VR]:
        """List the virtual routers where this process has any right."""
        with self._lock:
            answer = self._broker().request(Op.LIST, {}, self.timeout)
        return [VR(vr["name"], vr["id"], vr["state"], Right(vr.get("rights", 0)), self) for vr in answer["vrs"]]

    def vr(self, name: str) -> VR:
        """Give one by name.  Raises VRNotFound."""
        for vr in self.vrs():
            if vr.name == name:
                return vr
        raise VRNotFound(errno.ENODEV, f"{os.strerror(errno.ENODEV)}: {name}")

    def watch(self, *, initial: bool = False) -> Watch:
        """Watch events from now on; `initial`: first those that made the present state."""
        return Watch(self.endpoint, self.timeout, initial=initial, curve=self._curve)

    @property
    def remote(self) -> bool:
        """Tell whether the virtual routers are another host's."""
        return not self.endpoint.startswith("ipc://")

    def close(self) -> None:
        """Close all connections; sockets stay open, and a later call connects anew."""
        with self._lock:
            channel, links = self._channel, self._links
            self._channel, self._links = None, {}
            if self._pid == os.getpid():
                if channel is not None:
                    channel.close()
                for link in links.values():
                    link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def open(self, vr: str, family: int, kind: int, protocol: int) -> Opened:
        """Open a socket and give its parts; `rsock.socket` is made of them."""
        # The token makes a repetition after a lost reply harmless.
        body = open_body(family, kind, protocol, os.urandom(16), app_name())
        try:
            # The forwarder judges by itself; the broker only says where it is.
            if (path := self._paths.get(vr)) is not None:
                with contextlib.suppress(VRDown):
                    return self._open_at(path, body)
            path = self._ask_path(vr, family, kind, protocol)
            opened = self._open_at(path, body)
        except PermissionError:
            raise error_of(errno.EPERM if kind == _SOCK_RAW else errno.EACCES, vr) from None
        self._paths[vr] = path
        return opened

    def _ask_path(self, vr: str, family: int, kind: int, protocol: int) -> str:
        wish = {"vr": vr, "want": int(_wanted(kind, protocol)), "family": family, "type": kind, "proto": protocol}
        with self._lock:
            self._paths.pop(vr, None)
            return str(self._broker().request(Op.TICKET, wish, self.timeout)["path"])

    def locate(self, vr: str) -> str | None:
        """Give where the forwarder of a VR listens, for a stream that is to be opened; None: it is opened at once.

        Who was never told where a VR is has not been told either whether it may be used.
        """
        path = self._paths.get(vr)
        return path if path is not None and os.path.exists(path) else None  # noqa: PTH110 - twice as fast

    def dial(self, path: str, body: bytes, timeout: float | None) -> tuple[bytes, int, bool]:
        """Ask for a stream that is connected, or with a timeout of 0 connecting; give reply, fd, and which of both."""
        link = self.link(path)
        if timeout != 0:
            with link.waiting() as may:
                if may:
                    patience = PATIENCE if timeout is None else timeout
                    return *link.wait_fd(Op.DIAL, body, timeout=patience), True
        return *link.call_fd(Op.DIAL, body, timeout=self.timeout), False

    def path(self, vr: str) -> str:
        """Give where the forwarder of a VR listens, for a socket that exists already."""
        known = self._paths.get(vr)
        if known is not None:
            return known
        if self.endpoint.startswith("ipc://"):
            return str(Path(self.endpoint.removeprefix("ipc://")).parent / "vr" / f"{vr}.sock")
        with self._lock:
            return str(self._broker().request(Op.TICKET, {"vr": vr}, self.timeout)["path"])

    def name_servers(self, vr: str) -> NameServers:
        """Give the name servers of a VR: those in its resolv.conf, or what the broker tells."""
        if self.endpoint.startswith("ipc://"):
            try:
                text = Path(self.path(vr)).with_suffix(".resolv.conf").read_text(errors="replace")
            except FileNotFoundError:
                text = ""
            return parse_resolv_conf(text)
        with self._lock:
            told = self._broker().request(Op.TICKET, {"vr": vr}, self.timeout).get("dns", {})
        return NameServers(tuple(map(str, told.get("servers", ()))), tuple(map(str, told.get("search", ()))))

    def _open_at(self, path: str, body: bytes) -> Opened:
        reply, fd = self.link(path).call_fd(Op.OPEN, body, timeout=self.timeout)
        slot, _rights, cookie = parse_opened(reply)
        return Opened(path, slot, cookie, fd)

    def link(self, path: str) -> Link:
        """Give this process's connection to a forwarder."""
        link = self._links.get(path)
        if link is not None and self._pid == os.getpid():
            return link
        with self._lock:
            self._check_pid()
            if path not in self._links:
                self._forget_links()
                self._links[path] = Link(path)
            return self._links[path]

    def _forget_links(self) -> None:
        """Close the connections to VRs that are gone."""
        gone = [path for path in self._links if not os.path.exists(path)]  # noqa: PTH110 - twice as fast
        for path in gone:
            self._links.pop(path).close()
        if gone:
            self._paths = {vr: path for vr, path in self._paths.items() if path not in gone}

    def _broker(self) -> _Channel | Remote:
        self._check_pid()
        if self._channel is None:
            self._channel = _channel_to(self.endpoint, self._curve)
        return self._channel

    def _check_pid(self) -> None:
        # A child of fork must not touch its parent's ZeroMQ context, not even to close it.
        if self._pid != os.getpid():
            _inherited.append((self._channel, self._links))
            self._pid = os.getpid()
            self._channel = None
            self._links = {}

    def after_fork(self) -> None:
        """Make the lock anew: in the parent another thread may have held it."""
        self._lock = threading.RLock()


class Watch(Iterator[Event]):
    """Events as they happen; a for-loop over it ends when it is closed."""

    def __init__(self, endpoint: str, timeout: float, *, initial: bool, curve: Curve | None = None) -> None:
        self._timeout = timeout
        self._channel: _Channel | Remote | None = _channel_to(endpoint, curve)
        self._ready: deque[Event] = deque()
        self._states: dict[str, str] = {}
        self._epoch: object = None
        try:
            self._register(initial=initial)
        except BaseException:
            self.close()
            raise

    def __next__(self) -> Event:
        event = self.wait(None)
        if event is None:
            raise StopIteration
        return event

    def wait(self, timeout: float | None) -> Event | None:
        """Give the next event; None when the time is up, or the watch was closed."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._channel is not None and not self._ready:
            look = time.monotonic() + _ALIVE
            message = self._channel.wait_event(look if deadline is None else min(look, deadline))
            if message is not None:
                self._take(message)
            elif deadline is not None and time.monotonic() >= deadline:
                return None
            else:
                self._look()
        return self._ready.popleft() if self._ready else None

    def close(self) -> None:
        """End it."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _register(self, *, initial: bool) -> None:
        assert self._channel is not None
        answer = self._channel.request(Op.WATCH, {}, self._timeout)
        self._epoch = answer.get("epoch")
        states = {vr["name"]: vr["state"] for vr in answer.get("vrs", [])}
        if initial:
            self._compare(states, "initial")
        self._states = states

    def _look(self) -> None:
        """See whether the broker is still the one that knows us; what was missed is told then."""
        assert self._channel is not None
        try:
            answer = self._channel.request(Op.PING, {}, _ALIVE)
            if answer.get("epoch") == self._epoch and answer.get("watching", True):
                return
            answer = self._channel.request(Op.WATCH, {}, _ALIVE)
        except (BrokerGone, ProtocolError):
            return  # it will be back
        self._epoch = answer.get("epoch")
        states = {vr["name"]: vr["state"] for vr in answer.get("vrs", [])}
        self._compare(states, "broker restarted")
        self._states = states

    def _compare(self, states: dict[str, str], reason: str) -> None:
        for name in self._states.keys() - states.keys():
            self._ready.append(Event("gone", name, reason))
        for name, state in states.items():
            before = self._states.get(name)
            if before is None:
                self._ready.append(Event("created", name, reason))
            if state == "up" and before != "up":
                self._ready.append(Event("up", name, reason))
            elif state != "up" and before == "up":
                self._ready.append(Event("down", name, reason))

    def _take(self, message: Message) -> None:
        try:
            body = unpack_map(message.body)
            event = Event(str(body["event"]), str(body["vr"]), str(body.get("reason", "")))
        except (ProtocolError, KeyError):
            return
        if event.event == "gone":
            self._states.pop(event.vr, None)
        else:
            self._states[event.vr] = "up" if event.event == "up" else "down"
        self._ready.append(event)


_contexts: weakref.WeakSet[Context] = weakref.WeakSet()
_inherited: list[object] = []  # a parent's connections: kept, so that nothing closes them in the child
_default: list[Context] = []
_default_lock = threading.Lock()


def default_context() -> Context:
    """Give the context of those who did not make one."""
    with _default_lock:
        if not _default or _default[0].endpoint != default_endpoint():
            before, _default[:] = _default[:], [Context()]
            for context in before:  # others may have it yet, and connect anew when they use it
                context.close()
        return _default[0]


def _after_fork() -> None:
    for context in list(_contexts):
        context.after_fork()


os.register_at_fork(after_in_child=_after_fork)


_names: Final[dict[int, bytes]] = {}  # by pid: a child may change its own


def app_name() -> bytes:
    """Give the name by which operators know this process, as it was when it was first asked for."""
    name = _names.get(os.getpid())
    if name is None:
        try:
            name = Path("/proc/self/comm").read_bytes().strip()
        except OSError:
            name = b"python"
        _names.clear()
        _names[os.getpid()] = name
    return name


if trace.wanted():
    trace.install()
