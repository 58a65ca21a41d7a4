"""A VR's TCP against the kernel's on a link that is perfect: every byte arrives, whoever connects and sends.

red --small (1500)-- host       red --big (9000)-- host
    --near  (9000, the host's end 1500)--              --far (1500, the host's end 9000)--
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import threading
import time
from typing import TYPE_CHECKING, Final

import pytest
from hosts import drops
from lab import Lab, wait_until
from tcp_ends import (
    MIB,
    NO_LINGER,
    WAIT,
    Ends,
    Info,
    Path,
    Pouring,
    closed,
    crosswise,
    drain,
    echo,
    in_order,
    laws,  # noqa: F401 - a fixture
    many_files,
    nothing_lost,
    pour,
    reachable,
    transfer,
)
from wire import strict

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.quiet, pytest.mark.root]

# Name of the link -> MTU of the VR's end, MTU of the host's.
LINKS: Final = {"small": (1500, 1500), "big": (9000, 9000), "near": (9000, 1500), "far": (1500, 9000)}
HEADERS: Final[dict[int, int]] = {socket.AF_INET: 40, socket.AF_INET6: 60}
TIMESTAMPS: Final = 12
INFO_ESTABLISHED: Final = 1
ATTEMPTS: Final = 3


def path_of(link: str, family: int) -> Path:
    number = list(LINKS).index(link)
    if family == socket.AF_INET:
        return Path(f"10.0.{number}.1", f"10.0.{number}.2")
    return Path(f"2001:db8:{number}::1", f"2001:db8:{number}::2")


PATHS: Final = [path_of("small", family) for family in HEADERS]


def tcp_drops(ends: Ends) -> dict[str, int]:
    """Give the drops that a peer that does all right never causes."""
    names = ("tcp_malformed", "tcp_checksum", "tcp_no_memory", "tcp_authentication", "tcp_old_timestamp")
    return {name: count for name, count in drops(ends.lab, "red").items() if name in names}


@pytest.fixture(scope="module", params=[True, False], ids=["offloads", "frames"])
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    """Give a VR and a host, whose card does what cards do, or nothing."""
    with Lab() as lab:
        host = lab.namespace("host")
        interfaces = {}
        for link, (mtu, far_mtu) in LINKS.items():
            lab.veth(link, None, host, link)
            lab.box.ip("link", "set", link, "mtu", str(mtu))
            host.ip("link", "set", link, "mtu", str(far_mtu))
            addresses = []
            for path in (path_of(link, family) for family in HEADERS):
                length = 24 if path.family == socket.AF_INET else 64
                host.address(link, f"{path.theirs}/{length}")
                addresses.append(f"{path.ours}/{length}")
            in_order((lab.box, link), (host, link))
            if not request.param:
                strict(host, link)
            interfaces[link] = {"device": link, "mtu": mtu, "addresses": addresses}
        lab.configure({"red": {"interfaces": interfaces}})
        lab.start()
        reachable(host, *(path_of(link, family).ours for link in LINKS for family in HEADERS))
        with Ends(lab, "red", host) as made:
            yield made


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("family", HEADERS)
@pytest.mark.parametrize("by_us", [True, False])
def test_transfers(ends: Ends, link: str, family: int, by_us: bool) -> None:
    """To us, to the host, and both at once; the sizes of segments are what both ends can take."""
    path = path_of(link, family)
    most = min(LINKS[link]) - HEADERS[family] - TIMESTAMPS
    before = tcp_drops(ends)
    for way in range(3):
        # On a machine that is busy a tail is probed in vain; only what shows each time is TCP's.
        for attempt in range(ATTEMPTS):
            ours, theirs = ends.connect(path, by_us=by_us)
            if way < 2:
                source, sink = (ours, theirs) if way else (theirs, ours)
                transfer(source, sink, 4 * MIB, end=False)
            else:
                crosswise(ours, theirs, 4 * MIB, end=False)
            info, other = Info.of(ours), Info.of(theirs)
            assert (info.snd_mss, other.snd_mss) == (most, most)
            clean = nothing_lost(ours, theirs)
            closed(ours, theirs)
            if clean:
                break
            assert attempt < ATTEMPTS - 1, (info, other)
    assert tcp_drops(ends) == before


@pytest.mark.parametrize("path", PATHS)
def test_information_agrees_with_the_kernels(ends: Ends, path: Path) -> None:
    for by_us in (True, False):
        ours, theirs = ends.connect(path, by_us=by_us)
        for source, sink, size in ((ours, theirs, 3 * MIB), (theirs, ours, MIB)):
            transfer(source, sink, size, end=False)
        wait_until(lambda: Info.of(ours).unacked == 0 == Info.of(theirs).unacked, "all is acknowledged")  # noqa: B023
        info, other = Info.of(ours), Info.of(theirs)
        assert info.state == other.state == INFO_ESTABLISHED
        assert info.options == other.options
        assert (info.snd_wscale, info.rcv_wscale) == (other.rcv_wscale, other.snd_wscale)
        assert info.bytes_acked == other.bytes_received
        assert other.bytes_acked - info.bytes_received == (0 if by_us else 1)  # the kernel counts its SYN
        assert (info.bytes_received, other.bytes_received) == (MIB, 3 * MIB)
        assert (info.snd_mss, info.advmss) == (other.snd_mss, other.advmss)
        assert info.rcv_mss == other.rcv_mss
        assert info.pmtu == other.pmtu == 1500
        assert abs(info.segs_out - other.segs_in) <= 1
        assert abs(other.segs_out - info.segs_in) <= 1
        assert 0 < info.rtt < 50_000
        assert 0 < info.min_rtt <= info.rtt * 2
        assert 200_000 <= info.rto <= 400_000
        assert 200_000 <= other.rto <= 400_000
        assert info.snd_cwnd >= 10
        assert nothing_lost(ours, theirs)
        assert info.delivered >= 3 * MIB // info.snd_mss
        closed(ours, theirs)


@pytest.mark.parametrize("path", PATHS)
def test_many_streams_at_once(ends: Ends, path: Path) -> None:
    pairs = [ends.connect(path, by_us=number % 2 == 0) for number in range(40)]
    begin = time.monotonic()
    ways = [(pair[number % 4 // 2], pair[1 - number % 4 // 2]) for number, pair in enumerate(pairs)]
    pourings = [Pouring(source, MIB) for source, _sink in ways]
    came: list[tuple[int, str]] = [(0, "")] * len(ways)

    def read(number: int) -> None:
        came[number] = drain(ways[number][1])

    readers = [threading.Thread(target=read, args=(number,)) for number in range(len(ways))]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert came == [pouring.result() for pouring in pourings]
    assert time.monotonic() - begin < 10
    for pair in pairs:
        closed(*pair)


@pytest.mark.parametrize(("path", "ours_reads"), [(PATHS[0], True), (PATHS[1], False)])
def test_a_slow_reader(ends: Ends, path: Path, ours_reads: bool) -> None:
    """The window closes, is probed, and opens again; afterwards it closes and opens all the time."""
    ours, theirs = ends.connect(path, by_us=True)
    reader, writer = (ours, theirs) if ours_reads else (theirs, ours)
    size = 16 * MIB
    for sock in (ours, theirs):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    pouring = Pouring(writer, size)
    wait_until(lambda: Info.of(writer).probes, "the closed window is probed", 5, interval=0.05)
    assert Info.of(writer).unacked <= 1
    came = drain(reader, pause=0.0005, piece=49_999)
    assert came == pouring.result()
    closed(ours, theirs)


def test_small_writes_and_reads(ends: Ends) -> None:
    """Nagle and delayed acknowledgements never wait for each other for long; cork holds back."""
    for by_us in (True, False):
        ours, theirs = ends.connect(PATHS[0], by_us=by_us)
        begin = time.monotonic()
        for asking, answering in ((ours, theirs), (theirs, ours)):
            for number in range(200):
                asking.sendall(b"%d" % number)
                assert answering.recv(100) == b"%d" % number
                answering.sendall(b"yes")
                assert asking.recv(100) == b"yes"
        assert time.monotonic() - begin < 2
        for asking, answering in ((ours, theirs), (theirs, ours)):
            asking.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
            asking.sendall(b"one")
            assert not select.select([answering], [], [], 0.1)[0]
            asking.sendall(b"two")
            asking.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
            assert select.select([answering], [], [], 0.15)[0]
            assert answering.recv(100) == b"onetwo"
        closed(ours, theirs)


@pytest.mark.parametrize("path", PATHS)
def test_half_close(ends: Ends, path: Path) -> None:
    """One side has finished; the other goes on for megabytes."""
    for by_us in (True, False):
        for first in (0, 1):
            pair = ends.connect(path, by_us=by_us)
            asking, answering = pair[first], pair[1 - first]
            asking.sendall(b"question")
            asking.shutdown(socket.SHUT_WR)
            assert drain(answering)[0] == len(b"question")
            pouring = Pouring(answering, 2 * MIB)
            assert drain(asking) == pouring.result()
            closed(*pair)


@pytest.mark.parametrize("path", PATHS)
def test_a_closed_port(ends: Ends, path: Path) -> None:
    for sock, address in ((ends.open(path.family), path.theirs), (ends.kernel(path.family), path.ours)):
        begin = time.monotonic()
        with sock, pytest.raises(ConnectionRefusedError):
            sock.connect((address, 9))
        assert time.monotonic() - begin < 1


@pytest.mark.parametrize("ours_resets", [True, False])
@pytest.mark.parametrize("path", PATHS)
def test_a_reset_in_the_middle(ends: Ends, path: Path, ours_resets: bool) -> None:
    """While data is on its way in both directions; the other side sees it at once, and reads no end of file."""
    for by_us in (True, False):
        ours, theirs = ends.connect(path, by_us=by_us)
        dying, other = (ours, theirs) if ours_resets else (theirs, ours)
        pouring = Pouring(other, 64 * MIB)
        for _ in range(20):
            dying.recv(65536)
        dying.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        begin = time.monotonic()
        dying.close()
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            pouring.result()
        if not ours_resets:  # of a kernel's socket the pending error was taken by the writer
            with pytest.raises(ConnectionResetError):
                other.recv(1)
        assert time.monotonic() - begin < 1
        other.close()
    with ends.open(path.family) as fresh, contextlib.suppress(ConnectionRefusedError):
        fresh.connect((path.theirs, 9))


def drip(sock: socket.socket) -> None:
    """Write a little for a second."""
    for _ in range(100):
        sock.sendall(b"too late")
        time.sleep(0.01)


def test_data_for_who_has_closed(ends: Ends) -> None:
    """RFC 9293 section 3.6.1: who closes without reading all, or is sent more, resets."""
    for by_us in (True, False):
        for closing in (0, 1):
            pair = ends.connect(PATHS[0], by_us=by_us)
            pair[closing].close()
            other = pair[1 - closing]
            assert other.recv(1) == b""
            with pytest.raises((ConnectionResetError, BrokenPipeError)):
                drip(other)
            other.close()


def test_both_close_at_once(ends: Ends) -> None:
    """Whatever comes first: nothing stays but TIME-WAIT."""
    for number in range(50):
        ours, theirs = ends.connect(PATHS[number % 2], by_us=number % 4 < 2)
        ours.sendall(b"bye")
        theirs.sendall(b"bye")
        assert ours.recv(10) == theirs.recv(10) == b"bye"
        closer = threading.Thread(target=ours.close)
        closer.start()
        theirs.close()
        closer.join()

    def gone() -> bool:
        shown = ends.lab.vr("show", "sockets", "red")
        return not [entry for entry in shown if entry.get("state") not in {"time-wait", "listen", "closed"}]

    wait_until(gone, "nothing but TIME-WAIT is left", 5)


def test_urgent_data_stays_in_line(ends: Ends) -> None:
    """RFC 6093: the urgent pointer of a kernel's sender changes nothing here."""
    ours, theirs = ends.connect(PATHS[0], by_us=True)
    theirs.send(b"abc")
    theirs.send(b"d", socket.MSG_OOB)
    theirs.send(b"ef")
    got = b""
    while len(got) < 6:
        got += ours.recv(10)
    assert got == b"abcdef"
    closed(ours, theirs)


def test_a_refusal_is_told_once_to_who_does_not_wait(ends: Ends) -> None:
    for path in PATHS:
        with ends.open(path.family) as sock:
            sock.setblocking(False)
            assert sock.connect_ex((path.theirs, 9)) == errno.EINPROGRESS
            assert select.select([], [sock], [], WAIT)[1]
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED


def test_a_thousand_at_once(ends: Ends) -> None:
    """Connected in both directions, and all of them speaking."""
    with many_files():
        thousand(ends)


def thousand(ends: Ends) -> None:
    pairs: list[tuple[socket.socket, socket.socket]] = []
    begin = time.monotonic()
    for path in PATHS:
        for by_us in (True, False):
            client, server = ends.sockets(path, by_us=by_us)
            client.close()
            with server:
                port = ends.listen(path, server, ours=not by_us, backlog=256)
                clients = []
                for _ in range(250):
                    client = ends.open(path.family) if by_us else ends.kernel(path.family)
                    client.setblocking(False)
                    assert client.connect_ex((path.theirs if by_us else path.ours, port)) == errno.EINPROGRESS
                    clients.append(client)
                taken = {}
                for _ in clients:
                    sock = ends.accept(server)
                    taken[sock.getpeername()[1]] = sock
            pairs += [(client, taken[client.getsockname()[1]]) for client in clients]
    assert time.monotonic() - begin < 10
    echo(pairs, 30_000)
    shown = ends.lab.vr("show", "sockets", "red")
    assert sum(entry["state"] == "established" for entry in shown) == 1000
    for pair in pairs:
        closed(*pair)


def test_a_transfer_ends_with_the_last_byte(ends: Ends) -> None:
    """An end of file that is alone, one behind a byte, one behind a full buffer."""
    for size in (0, 1, 1448, 65536, 65537):
        for by_us in (True, False):
            ours, theirs = ends.connect(PATHS[size % 2], by_us=by_us)
            for source, sink in ((ours, theirs), (theirs, ours)):
                sent = pour(source, size)
                assert drain(sink) == (size, sent)
            closed(ours, theirs)
