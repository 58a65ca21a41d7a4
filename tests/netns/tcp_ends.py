"""TCP between a VR's sockets and those of a kernel: connections in either direction, transfers that are verified.

with Lab() as lab:
    ...
    ends = Ends(lab, "red", host)
    ours, theirs = ends.connect(ends.paths[0], by_us=True)
    transfer(ours, theirs, MIB)
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
import selectors
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, Self

import pytest
from hosts import check_laws
from lab import Lab, wait_until
from wire import strict

import rsock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lab import Namespace

MIB: Final = 1 << 20
WAIT: Final = 10.0
TCP_MD5SIG: Final = 14
IP_MINTTL: Final = 21
IPV6_MINHOPCOUNT: Final = 73
NO_LINGER: Final = struct.pack("ii", 1, 0)
_DATA: Final = os.urandom(4 * MIB)


class Path(NamedTuple):
    """Where a VR and a host find each other."""

    ours: str
    theirs: str

    @property
    def family(self) -> int:
        """Give the address family."""
        return socket.AF_INET6 if ":" in self.ours else socket.AF_INET


PATHS: Final = [Path("10.0.0.1", "10.0.0.2"), Path("2001:db8::1", "2001:db8::2")]


@dataclass(frozen=True)
class Info:
    """Some of TCP_INFO, by Linux's names."""

    state: int
    retransmits: int
    probes: int
    options: int
    snd_wscale: int
    rcv_wscale: int
    rto: int
    snd_mss: int
    rcv_mss: int
    unacked: int
    pmtu: int
    rtt: int
    snd_cwnd: int
    advmss: int
    rcv_rtt: int
    total_retrans: int
    bytes_acked: int
    bytes_received: int
    segs_out: int
    segs_in: int
    min_rtt: int
    delivered: int
    delivered_ce: int
    dsack_dups: int
    snd_wnd: int

    @classmethod
    def of(cls, sock: socket.socket) -> Self:
        """Ask a socket, ours or the kernel's."""
        raw = bytes(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 248)).ljust(248, b"\0")
        state, _ca, retransmits, probes, _backoff, options, scales = struct.unpack_from("=7B", raw)
        words = struct.unpack_from("=24I", raw, 8)
        acked, received = struct.unpack_from("=2Q", raw, 120)
        segs_out, segs_in, _notsent, min_rtt = struct.unpack_from("=4I", raw, 136)
        delivered, delivered_ce = struct.unpack_from("=2I", raw, 192)
        (dsack_dups,) = struct.unpack_from("=I", raw, 216)
        (snd_wnd,) = struct.unpack_from("=I", raw, 228)
        return cls(
            state, retransmits, probes, options, scales & 15, scales >> 4,
            rto=words[0], snd_mss=words[2], rcv_mss=words[3], unacked=words[4], pmtu=words[13], rtt=words[15],
            snd_cwnd=words[18], advmss=words[19], rcv_rtt=words[21], total_retrans=words[23],
            bytes_acked=acked, bytes_received=received, segs_out=segs_out, segs_in=segs_in, min_rtt=min_rtt,
            delivered=delivered, delivered_ce=delivered_ce, dsack_dups=dsack_dups, snd_wnd=snd_wnd,
        )  # fmt: skip


class Ends:
    """A VR and a host; `paths` are their addresses on links that they share, or that lead to each other."""

    def __init__(self, lab: Lab, router: str, host: Namespace, *paths: Path) -> None:
        self.lab, self.router, self.host, self.paths = lab, router, host, paths
        self.context = rsock.Context(f"ipc://{lab.run_dir}/rsock.sock")
        self._opened: list[socket.socket] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close_all()
        self.context.close()

    def close_all(self) -> None:
        """Close what was opened here and not closed since, as after a test that has failed."""
        closed(*self._opened)
        self._opened.clear()

    def open(self, family: int = socket.AF_INET) -> rsock.socket:
        """Open a socket in the VR."""
        made = rsock.socket(family, socket.SOCK_STREAM, vr=self.router, ctx=self.context)
        made.settimeout(WAIT)
        self._opened.append(made)
        return made

    def kernel(self, family: int = socket.AF_INET) -> socket.socket:
        """Open a socket on the host, with CUBIC: hosts differ in their default."""
        made = self.host.socket(family, socket.SOCK_STREAM)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
        made.settimeout(WAIT)
        self._opened.append(made)
        return made

    def connect(
        self,
        path: Path,
        *,
        by_us: bool,
        timeout: float = WAIT,
        prepare: Callable[[socket.socket, bool, bool], object] = lambda _sock, _ours, _client: None,
    ) -> tuple[rsock.socket, socket.socket]:
        """Connect, by us or by the host: (ours, the kernel's); `prepare` sees both before, and whose and what it is."""
        client, server = self.sockets(path, by_us=by_us)
        prepare(client, by_us, True)
        prepare(server, not by_us, False)
        client.settimeout(timeout)
        server.settimeout(timeout)
        with server:
            self.listen(path, server, ours=not by_us)
            client.connect((path.theirs if by_us else path.ours, server.getsockname()[1]))
            taken = self.accept(server)
        ours, theirs = (client, taken) if by_us else (taken, client)
        assert isinstance(ours, rsock.socket)
        return ours, theirs

    def sockets(self, path: Path, *, by_us: bool) -> tuple[socket.socket, socket.socket]:
        """Make a socket that will connect and one that will listen, by us: ours connects."""
        ours, theirs = self.open(path.family), self.kernel(path.family)
        return (ours, theirs) if by_us else (theirs, ours)

    def accept(self, server: socket.socket) -> socket.socket:
        """Take the next connection."""
        taken, _peer = server.accept()
        taken.settimeout(WAIT)
        self._opened.append(taken)
        return taken

    def listen(self, path: Path, sock: socket.socket, *, ours: bool, backlog: int = 128) -> int:
        """Let a socket listen where the other side will look; give its port."""
        sock.bind((path.ours if ours else path.theirs, 0))
        sock.listen(backlog)
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def many_files(wanted: int = 8192) -> Iterator[None]:
    """Allow this process so many open files."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[0], wanted), max(limits[1], wanted)))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def reachable(host: Namespace, *addresses: str) -> None:
    """Wait until the host gets answers from there."""
    for address in addresses:
        wait_until(lambda: host.ping(address, wait=0.2), f"{address} answers")  # noqa: B023 - asked at once


def in_order(*devices: tuple[Namespace, str]) -> None:
    """Let one CPU alone take what comes to a device.

    A veth queues a frame at the CPU of its sender: one that is moved to another overtakes itself.
    """
    for namespace, device in devices:
        namespace.run("sh", "-c", f"echo 1 > /sys/class/net/{device}/queues/rx-0/rps_cpus")


@contextlib.contextmanager
def one_link(*, host_offloads: bool, our_offloads: bool = True) -> Iterator[Ends]:
    """Make a VR with a host behind one link (PATHS)."""
    with Lab() as lab:
        host = lab.host("host", "lan", "10.0.0.2/24")
        host.address("eth0", "2001:db8::2/64")
        in_order((lab.box, "lan"), (host, "eth0"))
        if not host_offloads:
            strict(host, "eth0")
        if not our_offloads:
            strict(lab.box, "lan")
        addresses = ["10.0.0.1/24", "2001:db8::1/64"]
        lab.configure({"red": {"interfaces": {"lan": {"device": "lan", "addresses": addresses}}}})
        lab.start()
        reachable(host, *(path.ours for path in PATHS))
        with Ends(lab, "red", host, *PATHS) as made:
            yield made


@pytest.fixture(autouse=True)
def laws(ends: Ends) -> Iterator[None]:
    """Check the counter laws after each test of a module that imports this and has a fixture `ends`."""
    yield
    ends.close_all()
    check_laws(ends.lab, "red")


def bytes_of(size: int) -> Iterator[memoryview]:
    """Give so many bytes in pieces of uneven sizes."""
    left = size
    while left:
        piece = memoryview(_DATA)[left % 4099 :][: min(left, 99_991)]
        yield piece
        left -= len(piece)


def pour(sock: socket.socket, size: int, *, end: bool = True) -> str:
    """Write so many bytes, and no more after them if that is the end; give their hash."""
    digest = hashlib.sha256()
    for piece in bytes_of(size):
        sock.sendall(piece)
        digest.update(piece)
    if end:
        sock.shutdown(socket.SHUT_WR)
    return digest.hexdigest()


def drain(sock: socket.socket, *, most: int = 1 << 62, pause: float = 0.0, piece: int = MIB) -> tuple[int, str]:
    """Read to the end or so many bytes, with a pause before each reading: how many bytes, and their hash."""
    seen, digest = 0, hashlib.sha256()
    buffer = bytearray(piece)
    while seen < most:
        if pause:
            time.sleep(pause)
        count = sock.recv_into(buffer, min(piece, most - seen))
        if count == 0:
            break
        digest.update(memoryview(buffer)[:count])
        seen += count
    return seen, digest.hexdigest()


class Pouring(threading.Thread):
    """Writes in a thread of its own."""

    def __init__(self, sock: socket.socket, size: int, *, end: bool = True) -> None:
        super().__init__(daemon=True)
        self._sock, self._size, self._end = sock, size, end
        self._hash = ""
        self._error: OSError | None = None
        self.start()

    def run(self) -> None:
        try:
            self._hash = pour(self._sock, self._size, end=self._end)
        except OSError as error:
            self._error = error

    def result(self) -> tuple[int, str]:
        """Give what was written, and its hash."""
        self.join()
        if self._error is not None:
            raise self._error
        return self._size, self._hash


def transfer(
    source: socket.socket, sink: socket.socket, size: int, *, timeout: float = WAIT, end: bool = True
) -> float:
    """Send so many bytes, with an end of file or without; all must come, in time.  Gives the seconds it took."""
    source.settimeout(timeout)
    sink.settimeout(timeout)
    begin = time.monotonic()
    pouring = Pouring(source, size, end=end)
    try:
        came = drain(sink, most=1 << 62 if end else size)
    except BaseException:
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)
        raise
    took = time.monotonic() - begin
    sent = pouring.result()
    assert came == sent, f"{came[0]} of {sent[0]} bytes, or other ones"
    assert took < timeout, f"{took:.1f} s"
    return took


def crosswise(one: socket.socket, other: socket.socket, size: int, *, timeout: float = WAIT, end: bool = True) -> float:
    """Send both ways at once."""
    took: list[float] = []

    def run(source: socket.socket, sink: socket.socket) -> None:
        took.append(transfer(source, sink, size, timeout=timeout, end=end))

    together(partial(run, one, other), partial(run, other, one))
    return max(took)


def nothing_lost(*socks: socket.socket) -> bool:
    """Tell whether all that was sent came at once; on a machine that is busy a tail may be probed in vain."""
    infos = [Info.of(sock) for sock in socks]
    return all(info.total_retrans <= min(info.dsack_dups, 3) for info in infos)


def together(*actions: Callable[[], object], timeout: float = 60.0) -> None:
    """Do all at once, each in a thread; raise the first of their errors."""
    errors: list[BaseException] = []

    def run(action: Callable[[], object]) -> None:
        try:
            action()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test is to see it
            errors.append(error)

    threads = [threading.Thread(target=run, args=(action,), daemon=True) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout)
    if errors:
        raise errors[0]
    assert not any(thread.is_alive() for thread in threads), "some never end"


def closed(*socks: socket.socket) -> None:
    """Close them all."""
    for sock in socks:
        sock.close()


def key_for(address: str, key: bytes) -> bytes:
    """Give the option value of TCP_MD5SIG: a struct tcp_md5sig."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    packed = socket.inet_pton(family, address)
    there = struct.pack("=HH", family, 0) + (bytes(4) + packed if family == socket.AF_INET6 else packed)
    return there.ljust(128, b"\0") + struct.pack("=BBHi80s", 0, 0, len(key), 0, key)


@dataclass
class _Side:
    """One side of a conversation: the asking one begins with all in its queue, the other queues what comes."""

    sock: socket.socket
    answers: bool
    queue: bytearray
    got: bytearray = field(default_factory=bytearray)

    def step(self, events: int) -> int:
        """Read and write what goes; give the events to wait for next."""
        if events & selectors.EVENT_READ:
            part = self.sock.recv(65536)
            assert part, "it has ended early"
            (self.queue if self.answers else self.got).extend(part)
        if self.queue:
            with contextlib.suppress(BlockingIOError):
                del self.queue[: self.sock.send(self.queue)]
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if self.queue else 0)


def echo(pairs: list[tuple[socket.socket, socket.socket]], size: int, timeout: float = WAIT) -> None:
    """Let each pair's first ask with `size` bytes of its own and its second answer with them, all at once."""
    questions = [bytes(memoryview(_DATA)[number % MIB :][:size]) for number in range(len(pairs))]
    askers = []
    deadline = time.monotonic() + timeout
    with selectors.DefaultSelector() as selector:
        for (asking, answering), question in zip(pairs, questions, strict=True):
            sides = (_Side(asking, False, bytearray(question)), _Side(answering, True, bytearray()))
            askers.append(sides[0])
            for side in sides:
                side.sock.setblocking(False)
                selector.register(side.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, side)
        left = set(range(len(askers)))
        while left:
            assert time.monotonic() < deadline, f"{len(left)} of {len(pairs)} are not done"
            for key, events in selector.select(1):
                wanted = key.data.step(events)
                if wanted != key.events:
                    selector.modify(key.fileobj, wanted, key.data)
            left = {number for number in left if len(askers[number].got) < size}
    for asker, question in zip(askers, questions, strict=True):
        assert asker.got == question
