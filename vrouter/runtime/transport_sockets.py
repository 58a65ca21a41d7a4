"""One socket of an instance each: how it is opened, read, written and closed."""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import select
import socket
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any, Final

from rsock.client_core import (
    Names,
    ProtocolError,
    connect_body,
    datagram_header,
    listen_body,
    name_body,
    open_body,
    option_body,
    parse_accepted,
    parse_connected,
    parse_datagram,
    parse_names,
    parse_opened,
    parse_option,
)
from rsock.poll import look
from rsock.wire import DATAGRAM, STREAM_CONNECTED_BUFFER, STREAM_FILLER, STREAM_FULL, Op
from vrouter.engine import inputs
from vrouter.net.address import IPV4, IPV6, Address, packed, parse_address
from vrouter.proto.base import Meta, OpenSocket, SocketKind, Transmit
from vrouter.runtime import socket_options
from vrouter.runtime.loop import READ, WRITE, Loop
from vrouter.runtime.socket_layer import SocketLayer

log = logging.getLogger(__name__)
CHUNK: Final = 1 << 20  # of a stream, in one turn
DATAGRAMS: Final = 64  # of a socket, in one turn
BACKLOG: Final = 64
_PACKET: Final = 65535 + 128
_TYPES: Final = {SocketKind.UDP: socket.SOCK_DGRAM, SocketKind.RAW: socket.SOCK_RAW}
_FILLER: Final = bytes(STREAM_FILLER)
_buffer: Final = bytearray(CHUNK)
_names = itertools.count(1)
Script = Generator[tuple[Op, bytes], tuple[bytes, list[int]], None]


@dataclass(frozen=True, slots=True)
class World:
    """What all sockets share."""

    loop: Loop
    layer: SocketLayer
    index: Callable[[str], int]
    name: Callable[[int], str]
    later: Callable[[inputs.Input], None]
    feed: Callable[[inputs.Input], None]
    closed: Callable[[Any, int], None]
    accepted: Callable[[Any, Any, Address, Address], None]


class Owned:
    """A socket that an instance has asked for."""

    def __init__(self, world: World, key: tuple[str, str], wanted: OpenSocket) -> None:
        self.world = world
        self.key = key
        self.wanted = wanted
        self.fd: socket.socket | None = None
        self.slot = 0
        self.cookie = 0
        self._gone = False
        self._later: list[socket_options.Option] = []  # asked for before it was open
        self._is_open = False

    # --- opening ---

    def open(self) -> None:
        """Begin to open it."""
        self._run(self._script(), self.world.layer.generation)

    def _script(self) -> Script:
        raise NotImplementedError

    def _begin(self, kind: int, protocol: int) -> Script:
        """Open, and set the options."""
        wanted = self.wanted
        settings = list(socket_options.options(wanted, self.world.index))
        family = socket_options.af(wanted.family)
        body, fds = yield Op.OPEN, open_body(family, kind, protocol, os.urandom(16), self.key[0].encode())
        self._take_fd(fds)
        self.slot, _rights, self.cookie = parse_opened(body)
        for option in settings:
            yield Op.SETOPT, option_body(*option)

    def _bind(self) -> Script:
        """Bind to what the instance names; a link-local address on its interface."""
        wanted = self.wanted
        if wanted.local is not None or wanted.local_port:
            number = self.world.index(wanted.interface) if wanted.interface else 0
            local = socket_options.endpoint(wanted.family, wanted.local, wanted.local_port, number)
            yield Op.BIND, name_body(local)

    def _take_fd(self, fds: list[int]) -> None:
        if not fds:
            raise OSError(errno.EPROTO, "no fd came")
        for fd in fds[1:]:
            os.close(fd)
        if self.fd is not None:
            self.fd.close()
        self.fd = socket.socket(fileno=fds[0])
        self.fd.setblocking(False)

    def _run(self, script: Script, generation: int, answer: tuple[bytes, list[int]] | OSError | None = None) -> None:
        """Carry a script on with the answer to its last request."""
        try:
            if isinstance(answer, OSError):
                op, body = script.throw(answer)
            else:
                op, body = next(script) if answer is None else script.send(answer)
        except StopIteration:
            self._opened()
            return
        except (OSError, ProtocolError) as error:
            self._failed(getattr(error, "errno", None) or errno.EPROTO, generation)
            return

        def done(error: int, reply: bytes, fds: list[int]) -> None:
            if self._gone:
                for fd in fds:
                    os.close(fd)
                if op is Op.OPEN and not error:
                    self._forget(*_proof(reply))
            elif error:
                self._run(script, generation, OSError(error, os.strerror(error)))
            else:
                self._run(script, generation, (reply, fds))

        slot, cookie = (0, 0) if op is Op.OPEN else (self.slot, self.cookie)
        self.world.layer.call(op, body, done, slot=slot, cookie=cookie)

    def _opened(self) -> None:
        """All steps are done."""
        self._is_open = True
        later, self._later = self._later, []
        self.set_options(later)

    def _failed(self, error: int, generation: int) -> None:
        """A step failed: where the forwarder went away meanwhile, all begins anew."""
        if error == errno.EBADF and generation != self.world.layer.generation:
            self.open()
        else:
            self.end(error)

    # --- living ---

    def set_options(self, options: Iterable[socket_options.Option]) -> None:
        """Set options, soon; a failure is logged."""
        for option in options:
            if not self._is_open:
                self._later.append(option)
                continue
            body = option_body(*option)
            self.world.layer.call(Op.SETOPT, body, self._option_set, slot=self.slot, cookie=self.cookie)

    def _option_set(self, error: int, _body: bytes, _fds: list[int]) -> None:
        if error and error != errno.EADDRINUSE and not self._gone:  # EADDRINUSE: it is a member
            log.warning("%s: socket %s: an option: %s", *self.key, os.strerror(error))

    # --- ending ---

    def end(self, error: int) -> None:
        """It is over: give it back, and tell."""
        if not self._gone:
            self.drop()
            self.world.closed(self, error)

    def shut(self, *, reset: bool) -> None:  # noqa: ARG002 - of streams
        """Close it; nothing more is told."""
        self.drop()

    def drop(self) -> None:
        """Give the fd back."""
        if self._gone:
            return
        self._gone = True
        if self.fd is not None:
            self.world.loop.forget(self.fd.fileno())
            self.fd.close()
            self.fd = None
            self._forget(self.slot, self.cookie)

    def _forget(self, slot: int, cookie: int) -> None:
        """Tell the forwarder, which else would find out a little later."""
        self.world.layer.call(Op.CLOSE, b"", _ignore, slot=slot, cookie=cookie)


class Datagrams(Owned):
    """A UDP or raw socket."""

    def _script(self) -> Script:
        wanted = self.wanted
        udp = wanted.kind is SocketKind.UDP
        yield from self._begin(_TYPES[wanted.kind], socket.IPPROTO_UDP if udp else wanted.protocol)
        yield from self._bind()
        if wanted.remote is not None:
            number = self.world.index(wanted.interface) if wanted.interface else 0
            far = socket_options.endpoint(wanted.family, wanted.remote, wanted.remote_port, number)
            yield Op.CONNECT, name_body(far)

    def _opened(self) -> None:
        super()._opened()
        assert self.fd is not None
        self.world.loop.watch(self.fd.fileno(), READ, self._ready)
        self.world.later(inputs.Opened(*self.key))

    def transmit(self, request: Transmit) -> None:
        """Send, if there is room: it is a datagram."""
        if self.fd is None or not self._is_open:
            return
        wanted = self.wanted
        record = request.data
        if wanted.remote is None:
            try:
                number = self.world.index(request.interface) if request.interface else 0
            except OSError:
                return  # the interface has just gone
            family, value = request.destination
            source = None if request.source is None else packed(*request.source)
            record = datagram_header(family, packed(family, value), request.port, number, local=source) + request.data
        try:
            self.fd.send(record)
        except BlockingIOError:
            log.debug("%s: socket %s: a datagram was dropped", *self.key)
        except OSError as error:
            log.info("%s: socket %s: %s", *self.key, error)

    def _ready(self, _events: int) -> None:
        for _ in range(DATAGRAMS):
            if self.fd is None:
                return
            try:
                record = self.fd.recv(_PACKET)
            except BlockingIOError:
                return
            except OSError as error:
                self.end(error.errno or errno.EIO)
                return
            if self.wanted.remote is not None:
                self._take_bare(record)
            elif not record:
                self.end(errno.ENETDOWN)  # the other end is gone, and nobody held it
            else:
                self._take(record)

    def _take_bare(self, record: bytes) -> None:
        wanted = self.wanted
        assert wanted.remote is not None
        local = wanted.local or Address(wanted.family, 0)
        meta = Meta(wanted.interface, wanted.remote, local, 0, wanted.remote_port, wanted.local_port)
        self.world.feed(inputs.Received(*self.key, record, meta))

    def _take(self, record: bytes) -> None:
        try:
            header = parse_datagram(record)
        except ProtocolError:
            return
        if header.is_error:
            log.debug("%s: socket %s: a datagram was refused: %s", *self.key, os.strerror(header.error))
            return
        if header.ttl < self.wanted.min_ttl:
            return
        payload = record[DATAGRAM.size :]
        if self.wanted.kind is SocketKind.RAW and header.family == IPV4:
            payload = payload[(payload[0] & 15) * 4 :] if payload else payload
        meta = Meta(
            self.world.name(header.interface),
            _address(header.family, header.address),
            _address(header.family, header.local),
            header.ttl,
            header.port,
            header.local_port,
        )
        self.world.feed(inputs.Received(*self.key, payload, meta))


class Listener(Owned):
    """A TCP listener."""

    def _script(self) -> Script:
        yield from self._begin(socket.SOCK_STREAM, socket.IPPROTO_TCP)
        yield from self._bind()
        yield Op.LISTEN, listen_body(BACKLOG)
        assert self.fd is not None
        self.fd.listen(BACKLOG)

    def _opened(self) -> None:
        super()._opened()
        assert self.fd is not None
        self.world.loop.watch(self.fd.fileno(), READ, self._ready)
        self.world.later(inputs.Opened(*self.key))

    def _ready(self, _events: int) -> None:
        if self.fd is None:
            return
        try:
            peer, name = self.fd.accept()
        except BlockingIOError:
            return
        except OSError as error:
            self.end(error.errno or errno.EIO)
            return
        accepted = parse_accepted(name)
        if accepted is None:
            peer.close()
            return
        # An IPv6 socket takes IPv6 alone; an address that found no room in the name is not known.
        remote = parse_address(accepted.peer[0].partition("%")[0])
        local = parse_address(accepted.local[0].partition("%")[0]) if accepted.local else Address(self.wanted.family, 0)
        wanted = OpenSocket(
            f"{self.key[1]}.{next(_names)}", SocketKind.CONNECT, self.wanted.family, local=local, remote=remote
        )
        made = Stream(self.world, (self.key[0], wanted.socket), wanted)
        made.adopt(peer, accepted.slot, accepted.nonce)
        self.world.accepted(self, made, local, remote)


class Stream(Owned):
    """A TCP connection."""

    def __init__(self, world: World, key: tuple[str, str], wanted: OpenSocket) -> None:
        super().__init__(world, key, wanted)
        self._connected = False
        self._ended = False  # the peer has, and knows that we know
        self._judging = False
        self._output = bytearray()
        self._asked_writable = False
        self._finished: Callable[[Stream], None] | None = None  # called when closing in order is done
        self._generation = world.layer.generation
        self._named_at_first: Names | None = None

    # --- connecting ---

    def _script(self) -> Script:
        wanted = self.wanted
        self._generation = self.world.layer.generation
        yield from self._begin(socket.SOCK_STREAM, socket.IPPROTO_TCP)
        yield from self._bind()
        number = self.world.index(wanted.interface) if wanted.interface else 0
        far = socket_options.endpoint(wanted.family, wanted.remote, wanted.remote_port, number)
        body, _fds = yield Op.CONNECT, connect_body(far, STREAM_FULL)
        self._named_at_first, entrance = parse_connected(body)
        assert self.fd is not None
        try:
            self.fd.connect(entrance)
        except ConnectionRefusedError:  # that forwarder is gone, and the connection with it
            raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has failed already
            self.fd.send(_FILLER, socket.MSG_NOSIGNAL)
            self.fd.send(b"\0", socket.MSG_NOSIGNAL)

    def _opened(self) -> None:
        super()._opened()
        assert self.fd is not None
        self.world.loop.watch(self.fd.fileno(), WRITE, self._connect_ready)

    def _connect_ready(self, _events: int) -> None:
        assert self.fd is not None
        if _hung_up(self.fd):
            self.world.loop.forget(self.fd.fileno())
            self._judge()
            return
        self._settle()
        self.world.layer.call(Op.NAME, b"", self._named, slot=self.slot, cookie=self.cookie)
        self.world.loop.forget(self.fd.fileno())

    def _named(self, error: int, body: bytes, _fds: list[int]) -> None:
        if self._gone:
            return
        names = self._named_at_first if error else parse_names(body)
        assert names is not None
        assert self.wanted.remote is not None
        local = _address(IPV4 if names.local.family == socket.AF_INET else IPV6, names.local.address)
        self.world.feed(inputs.Connected(*self.key, local, self.wanted.remote))
        if not self._gone:
            self.watch()

    def adopt(self, fd: socket.socket, slot: int, nonce: int) -> None:
        """Take a connection that came in."""
        self.fd, self.slot, self.cookie = fd, slot, nonce
        fd.setblocking(False)
        self._is_open = True
        self._settle()

    def _settle(self) -> None:
        """Be connected."""
        assert self.fd is not None
        self._connected = True
        self.fd.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, STREAM_CONNECTED_BUFFER)

    # --- reading and writing ---

    def watch(self) -> None:
        """Watch for what can be done now."""
        if self.fd is None or self._judging or not self._connected:
            return
        events = (0 if self._ended else READ) | (WRITE if self._output else 0)
        if events:
            self.world.loop.watch(self.fd.fileno(), events, self._ready)
        else:
            self.world.loop.forget(self.fd.fileno())

    def write(self, data: bytes) -> None:
        """Append to what is sent; that all of it has gone is told later."""
        if self.fd is None or not data:
            return
        self._asked_writable = True
        if not self._connected or self._output:
            self._output += data
            return
        sent = self._send(data)
        if sent < len(data):
            self._output += memoryview(data)[sent:]
            self.watch()
        else:
            self._all_sent()

    def _send(self, data: bytes | bytearray) -> int:
        assert self.fd is not None
        try:
            return self.fd.send(data, socket.MSG_NOSIGNAL)
        except OSError:
            return 0  # no room; or it is over, which reading tells

    def _all_sent(self) -> None:
        if self._asked_writable and self._finished is None:
            self._asked_writable = False
            self.world.later(inputs.Writable(*self.key))
        if self._finished is not None and self.fd is not None:
            with contextlib.suppress(OSError):
                self.fd.shutdown(socket.SHUT_WR)

    def _ready(self, events: int) -> None:
        if events & WRITE and self._output and self.fd is not None:
            del self._output[: self._send(self._output)]
            if not self._output:
                self._all_sent()
            self.watch()
        if events & READ and self.fd is not None:
            self._read()

    def _read(self) -> None:
        assert self.fd is not None
        try:
            count = self.fd.recv_into(_buffer)
        except BlockingIOError:
            return
        except OSError:
            self._judge()
            return
        if self._finished is not None:
            if not count:
                self.drop()  # in good order
            return
        if count:
            self.world.feed(inputs.Stream(*self.key, bytes(memoryview(_buffer)[:count])))
        elif _hung_up(self.fd):
            self._judge()
        else:
            self._ended = True
            self.watch()
            self.world.feed(inputs.Stream(*self.key, b""))

    # --- ending ---

    def _judge(self) -> None:
        """Ask what a connection has ended of."""
        if self._judging or self._gone:
            return
        assert self.fd is not None
        self._judging = True
        self.world.loop.forget(self.fd.fileno())
        body = option_body(socket.SOL_SOCKET, socket.SO_ERROR, room=4)
        self.world.layer.call(Op.GETOPT, body, self._judged, slot=self.slot, cookie=self.cookie)

    def _judged(self, error: int, body: bytes, _fds: list[int]) -> None:
        if self._gone:
            return
        if self._generation != self.world.layer.generation:
            self.end(errno.ECONNABORTED)
        elif error in {0, errno.EBADF}:
            verdict = int.from_bytes(parse_option(body), "little") if not error else 0
            # The forwarder knows it no more: an accepted one ended well, one that was to be connected did not.
            self.end(verdict or (0 if self._connected else errno.ECONNABORTED))
        else:
            self.end(error)

    def finish(self, finished: Callable[[Stream], None]) -> bool:
        """Close in good order once all is written; tell whether that takes a while."""
        if self.fd is None or not self._connected or self._judging:
            return False
        self._finished = finished
        if not self._output:
            self._all_sent()
        self._ended = False
        self.watch()
        return True

    def shut(self, *, reset: bool) -> None:
        """Close it now; with `reset` by a reset."""
        if reset and self.fd is not None and self._connected:
            fd, self.fd, self._gone = self.fd, None, True
            self.world.loop.forget(fd.fileno())
            body = option_body(*socket_options.reset())
            call = self.world.layer.call
            call(Op.SETOPT, body, lambda *_: fd.close(), slot=self.slot, cookie=self.cookie)
            return
        self.drop()

    def drop(self) -> None:
        """Give the fd back."""
        super().drop()
        if self._finished is not None:
            self._finished(self)

    def _forget(self, slot: int, cookie: int) -> None:
        # The forwarder sees the end of the fd where it leads to it.
        if not self._connected:
            super()._forget(slot, cookie)


def _proof(reply: bytes) -> tuple[int, int]:
    slot, _rights, cookie = parse_opened(reply)
    return slot, cookie


def _ignore(_error: int, _body: bytes, _fds: list[int]) -> None:
    """What became of it does not matter."""


def _address(family: int, data: bytes) -> Address:
    return Address(IPV4, int.from_bytes(data[:4])) if family == IPV4 else Address(IPV6, int.from_bytes(data))


def _hung_up(fd: socket.socket) -> bool:
    """Tell whether the forwarder has closed its end."""
    return bool(look(fd.fileno()) & (select.POLLHUP | select.POLLERR))
