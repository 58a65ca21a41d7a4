"""Apps on another host: sockets of a router through its relay, while the link between them breaks, and worse."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from socket import AF_INET
from typing import Final

import pytest
from hosts import drops
from lab import wait_until
from remote_host import HOST, PORT, RELAY, VR, WAIT, Keys, Visitor, World, echo, error_of, worlds
from tcp_ends import drain

import rsock

pytestmark = [pytest.mark.in_order, pytest.mark.quiet, pytest.mark.root]

BULK: Final = 32 << 20
CUT: Final = 5.0


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with worlds(lease=10) as made:
        yield made


@pytest.fixture(scope="module")
def ctx(world: World) -> rsock.Context:
    return world.context()


class Pouring(threading.Thread):
    """Writes for some seconds at a limited rate, and ends."""

    def __init__(self, sock: socket.socket, seconds: float, rate: int = 4 << 20) -> None:
        super().__init__()
        self._sock, self._seconds, self._rate = sock, seconds, rate
        self.total, self._digest = 0, hashlib.sha256()
        self.start()

    def run(self) -> None:
        """Write."""
        chance, begin = random.Random(1), time.monotonic()
        while (now := time.monotonic() - begin) < self._seconds:
            block = chance.randbytes(chance.choice([1, 100, 5000, 100000]))
            self._sock.sendall(block)
            self._digest.update(block)
            self.total += len(block)
            if self.total > now * self._rate:
                time.sleep(0.002)
        self._sock.shutdown(socket.SHUT_WR)

    def result(self) -> tuple[int, str]:
        """Give what was written."""
        self.join()
        return self.total, self._digest.hexdigest()


# --- as locally ---


def test_streams_both_ways(world: World, ctx: rsock.Context) -> None:
    ours, theirs = world.connected(ctx)
    assert ours.tier == "remote"  # type: ignore[attr-defined]
    assert ours.getpeername() == theirs.getsockname()
    assert ours.getsockname() == theirs.getpeername()
    ours.sendall(b"there")
    assert theirs.recv(100) == b"there"
    theirs.sendall(b"and back")
    assert ours.recv(100) == b"and back"
    ours.shutdown(socket.SHUT_WR)
    assert theirs.recv(100) == b""
    theirs.sendall(b"the answer")
    theirs.close()
    assert drain(ours)[0] == 10
    ours.close()


def test_a_listener(world: World, ctx: rsock.Context) -> None:
    with world.open(ctx) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("", 0))
        listener.listen(8)
        for number in range(20):
            with world.kernel() as kernel:
                kernel.connect((VR, listener.getsockname()[1]))
                accepted, peer = listener.accept()
                assert peer == kernel.getsockname()
                assert accepted.getsockname()[1] == listener.getsockname()[1]
                kernel.sendall(bytes([number]))
                assert accepted.recv(10) == bytes([number])
                accepted.sendall(b"x")
                assert kernel.recv(10) == b"x"
                accepted.close()
                assert kernel.recv(10) == b""


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.mark.parametrize("written", [False, True])
def test_a_reset_is_no_end_of_file(world: World, ctx: rsock.Context, written: bool) -> None:
    for by_kernel in (False, True):
        for end in (reset, socket.socket.close):
            ours, theirs = world.connected(ctx)
            if written:
                ours.sendall(b"x")
                theirs.recv(1)
            ending, other = (theirs, ours) if by_kernel else (ours, theirs)
            end(ending)
            assert error_of(partial(other.recv, 10)) == ("ECONNRESET" if end is reset else "")
            other.close()


def test_connecting(world: World, ctx: rsock.Context) -> None:
    with world.open(ctx) as refused:
        assert refused.connect_ex((HOST, 1)) == errno.ECONNREFUSED
    with world.kernel_listener() as listener, world.open(ctx) as ours:
        ours.setblocking(False)
        assert ours.connect_ex(("10.0.0.77", 9)) == errno.EINPROGRESS
        assert not select.select([], [ours], [], 0.1)[1]
        with world.open(ctx) as other:
            other.setblocking(False)
            assert other.connect_ex((HOST, listener.getsockname()[1])) == errno.EINPROGRESS
            assert select.select([], [other], [], WAIT)[1]
            assert other.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
            other.send(b"first")
            accepted, _peer = listener.accept()
            with accepted:
                assert accepted.recv(10) == b"first"
        with world.open(ctx) as third:
            third.setblocking(False)
            assert third.connect_ex((HOST, 1)) == errno.EINPROGRESS
            select.select([], [third], [], WAIT)
            assert third.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
            assert third.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def test_datagrams(world: World, ctx: rsock.Context) -> None:
    with world.open(ctx, socket.SOCK_DGRAM) as ours, world.kernel(socket.SOCK_DGRAM) as theirs:
        theirs.bind((HOST, 0))
        ours.bind(("", 0))
        ours.setsockopt(socket.IPPROTO_IP, 8, 1)  # IP_PKTINFO
        for size in (0, 1, 1400, 40000):
            ours.sendto(bytes(size), theirs.getsockname())
            data, peer = theirs.recvfrom(65536)
            assert (len(data), peer) == (size, (VR, ours.getsockname()[1]))
            theirs.sendto(data, peer)
            data, items, _flags, sender = ours.recvmsg(65536, 100)
            assert (len(data), sender) == (size, theirs.getsockname())
            assert items[0][:2] == (socket.IPPROTO_IP, 8)
        theirs.sendto(b"before", peer)
        assert select.select([ours], [], [], WAIT)[0]
        ours.connect(theirs.getsockname())
        ours.send(b"")
        assert theirs.recv(10) == b""
        theirs.sendto(b"", ours.getsockname())
        assert ours.recv(10) == b""
    with world.open(ctx, socket.SOCK_DGRAM) as ours:
        ours.connect((HOST, 1))
        ours.send(b"x")
        assert error_of(lambda: ours.recv(10)) == "ECONNREFUSED"


def test_ping_raw_and_multicast(world: World, ctx: rsock.Context) -> None:
    with rsock.socket(AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP, vr="red", ctx=ctx) as ping:
        ping.settimeout(WAIT)
        ping.sendto(b"\x08\0\0\0\0\0\0\1ping", (HOST, 0))
        assert ping.recv(100)[8:] == b"ping"
    with rsock.socket(AF_INET, socket.SOCK_RAW, 253, vr="red", ctx=ctx) as raw, world.host.socket(2, 3, 253) as far:
        far.settimeout(WAIT)
        raw.sendto(b"raw", (HOST, 0))
        assert far.recv(100)[20:] == b"raw"
    with world.open(ctx, socket.SOCK_DGRAM) as member, world.kernel(socket.SOCK_DGRAM) as sender:
        member.bind(("", 0))
        group = socket.inet_aton("239.1.2.3") + socket.inet_aton(VR)
        member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(HOST))
        sender.sendto(b"to all", ("239.1.2.3", member.getsockname()[1]))
        assert member.recv(100) == b"to all"


def test_asyncio(world: World, ctx: rsock.Context) -> None:
    async def talk() -> bytes:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"you said " + await reader.readline())
            await writer.drain()
            writer.close()

        server = await rsock.start_server(serve, VR, 0, vr="red", ctx=ctx)
        port = server.sockets[0].getsockname()[1]
        with world.kernel() as kernel:
            kernel.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(kernel, (VR, port))
            await loop.sock_sendall(kernel, b"hello\n")
            answer = await loop.sock_recv(kernel, 100)
        server.close()
        await server.wait_closed()
        return answer

    assert asyncio.run(asyncio.wait_for(talk(), WAIT)) == b"you said hello\n"


def test_a_child_of_fork_and_events(world: World, ctx: rsock.Context) -> None:
    ours, theirs = world.connected(ctx)
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            ours.sendall(b"from the child")
            assert ours.getpeername()[0] == HOST
            status = 0
        os._exit(status)
    assert theirs.recv(100) == b"from the child"
    assert os.waitpid(child, 0)[1] == 0
    ours.close()
    assert theirs.recv(100) == b""
    theirs.close()
    with ctx.watch() as events:
        world.lab.vr("router", "stop", "red")
        event = events.wait(WAIT)
        assert event is not None
        assert (event.event, event.vr) == ("down", "red")
        assert error_of(lambda: world.open(ctx)) == "ENETDOWN"
        world.lab.vr("router", "start", "red")
        wait_until(lambda: (e := events.wait(WAIT)) is not None and e.event == "up", "red is up again")
    wait_until(lambda: world.host.ping(VR), "red forwards")


# --- who may ---


def test_keys(world: World) -> None:
    """A key that no rule names learns nothing; one learns of no VR where it has no right."""
    assert [vr.name for vr in world.context(world.other).vrs()] == ["red"]
    stranger = world.context(world.stranger, timeout=2)
    assert error_of(stranger.vrs) == "EACCES"
    assert error_of(lambda: rsock.socket(AF_INET, socket.SOCK_STREAM, vr="red", ctx=stranger)) == "EACCES"
    wrong = world.context(server_key=Keys().public, timeout=1)
    assert error_of(wrong.vrs) == "ETIMEDOUT"
    narrow = world.context(world.narrow)
    assert error_of(lambda: world.open(narrow, socket.SOCK_DGRAM)) == "EACCES"
    assert error_of(lambda: world.open(narrow, socket.SOCK_RAW)) == "EPERM"
    with world.open(narrow) as ours:
        assert ours.connect_ex((HOST, 9)) == errno.EACCES
        assert error_of(ours.listen) == "EACCES"
    for hidden in ("blue", "nowhere"):
        assert error_of(partial(rsock.socket, AF_INET, vr=hidden, ctx=narrow)) == "ENODEV"


# --- many, and slow ones ---


def test_two_hundred_at_once_and_one_that_does_not_read(world: World, ctx: rsock.Context) -> None:
    slow, full = world.connected(ctx)
    full.setblocking(False)
    sent = 0
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        with contextlib.suppress(BlockingIOError):
            sent += full.send(bytes(1 << 16))
    assert sent < 24 << 20  # the window has closed
    with world.kernel_listener(256) as listener:
        pairs = []
        for _ in range(200):
            ours = world.open(ctx)
            ours.connect((HOST, listener.getsockname()[1]))
            pairs.append((ours, listener.accept()[0]))
    for number, (ours, theirs) in enumerate(pairs):
        ours.sendall(b"%d" % number * 100)
        theirs.sendall(b"%d" % -number * 100)
    for number, (ours, theirs) in enumerate(pairs):
        theirs.settimeout(WAIT)
        for sock, text in ((theirs, b"%d" % number), (ours, b"%d" % -number)):
            want, got = text * 100, b""
            while len(got) < len(want):
                got += sock.recv(4096)
            assert got == want
        ours.close()
        theirs.close()
    full.settimeout(WAIT)
    full.shutdown(socket.SHUT_WR)
    assert drain(slow)[0] == sent
    full.close()
    slow.close()


# --- the link ---


def ports(world: World) -> set[str]:
    """Give the far ends of the connections to the relay."""
    shown = world.lab.box.run("ss", "-Htn", "state", "established", "sport", "=", f":{PORT}").stdout
    return {line.split()[-1] for line in shown.splitlines()}


def moved(world: World, before: set[str]) -> bool:
    return not before & ports(world)


@pytest.mark.parametrize("cut", ["down", "reset"])
def test_a_cut_of_the_link_loses_nothing(world: World, ctx: rsock.Context, cut: str) -> None:
    """Streams both ways, and datagrams, while the link is down, or TCP between us is reset again and again."""
    up, up_far = world.connected(ctx)
    down, down_far = world.connected(ctx)
    for sock in (up, up_far, down, down_far):
        sock.settimeout(30)
    udp, udp_far = world.open(ctx, socket.SOCK_DGRAM), world.kernel(socket.SOCK_DGRAM)
    udp.bind(("", 0))
    udp_far.bind((HOST, 0))
    seconds = CUT + 1.5 if cut == "down" else 3.0
    writers = [Pouring(up, seconds), Pouring(down_far, seconds)]
    got: dict[str, tuple[int, str]] = {}
    readers = [
        threading.Thread(target=lambda: got.update(up=drain(up_far))),
        threading.Thread(target=lambda: got.update(down=drain(down))),
    ]
    for reader in readers:
        reader.start()
    time.sleep(0.5)
    if cut == "down":
        world.link(up=False)
        for number in range(50):
            udp.sendto(b"%d" % number, udp_far.getsockname())
        time.sleep(CUT)
        world.link(up=True)
    else:
        for number in range(50):
            udp.sendto(b"%d" % number, udp_far.getsockname())
            if number % 10 == 5:
                before = ports(world)
                world.lab.box.run("ss", "-K", "sport", "=", f":{PORT}")
                wait_until(partial(moved, world, before), "the connections were reset")
                time.sleep(0.3)
    begin = time.monotonic()
    assert [int(udp_far.recv(100)) for _ in range(50)] == list(range(50))
    print(f"{cut}: goes on after {time.monotonic() - begin:.1f} s")
    results = [writer.result() for writer in writers]
    for reader in readers:
        reader.join()
    assert got == {"up": results[0], "down": results[1]}
    for sock in (up, up_far, down, down_far, udp, udp_far):
        sock.close()


def test_a_flood_of_datagrams_is_counted(world: World, ctx: rsock.Context) -> None:
    """Each arrives once and in its order, or the router has counted it as one that its app did not read."""
    with world.open(ctx, socket.SOCK_DGRAM) as ours, world.kernel(socket.SOCK_DGRAM) as theirs:
        ours.bind(("", 0))
        theirs.bind((HOST, 0))
        before = drops(world.lab, "red").get("socket_queue_full", 0)
        for number in range(6000):
            if number % 50 == 0:
                time.sleep(0.001)  # what the link loses is not the question
            theirs.sendto(number.to_bytes(4, "big") + bytes(1000), (VR, ours.getsockname()[1]))
        got = []
        ours.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            while True:
                got.append(int.from_bytes(ours.recv(2000)[:4], "big"))
        assert got == sorted(set(got))
        assert len(got) + drops(world.lab, "red").get("socket_queue_full", 0) - before == 6000
        print(f"{len(got)} of 6000 datagrams")
        theirs.setsockopt(socket.SOL_SOCKET, 33, 32 << 20)  # SO_RCVBUFFORCE
        for number in range(3000):
            ours.sendto(number.to_bytes(4, "big") + bytes(1000), theirs.getsockname())
        assert [int.from_bytes(theirs.recv(2000)[:4], "big") for _ in range(3000)] == list(range(3000))


def test_a_relay_that_is_killed(world: World, ctx: rsock.Context) -> None:
    """Connections are reset, which is no end of file; listeners and datagram sockets are there again."""
    ours, theirs = world.connected(ctx)
    ours.sendall(b"x")
    quiet, quiet_far = world.connected(ctx)
    listener = world.open(ctx)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("", 0))
    listener.listen()
    udp, far = world.open(ctx, socket.SOCK_DGRAM), world.kernel(socket.SOCK_DGRAM)
    udp.bind(("", 0))
    far.bind((HOST, 0))
    group = socket.inet_aton("239.1.2.4") + socket.inet_aton(VR)
    udp.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
    names = listener.getsockname(), udp.getsockname()
    old = world.relay_pid()
    begin = time.monotonic()
    os.kill(old, signal.SIGKILL)
    for sock in (ours, quiet):
        assert error_of(partial(sock.recv, 10)) == "ECONNRESET"
    print(f"reset after {(time.monotonic() - begin) * 1000:.0f} ms")
    assert theirs.recv(10) == b"x"
    assert wait_until(lambda: world.relay_pid() != old, "another relay")
    assert (listener.getsockname(), udp.getsockname()) == names
    kernel = wait_until(lambda: visit(world, names[0][1]), "the listener is there again")
    accepted, _peer = listener.accept()
    kernel.sendall(b"again")
    assert accepted.recv(10) == b"again"
    accepted.close()
    kernel.close()
    print(f"all there again after {(time.monotonic() - begin) * 1000:.0f} ms")
    udp.sendto(b"again", far.getsockname())
    assert far.recv(10) == b"again"
    far.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(HOST))
    far.sendto(b"to all", ("239.1.2.4", names[1][1]))
    assert udp.recv(10) == b"to all"
    for sock in (ours, theirs, quiet, quiet_far, listener, udp, far):
        sock.close()


def test_a_relay_that_is_killed_again_and_again(world: World, ctx: rsock.Context) -> None:
    """Calls end at once, in what was asked for or an error; no byte is wrong and no reset looks like an end."""
    with world.kernel_listener() as listener:
        echoing = threading.Thread(target=echo, args=(listener,))
        echoing.start()
        visitors = [Visitor(world, ctx, listener.getsockname()[1]) for _ in range(4)]
        for _ in range(8):
            time.sleep(0.25)
            os.kill(world.relay_pid(), signal.SIGKILL)
        for visitor in visitors:
            visitor.over = True
            visitor.join(WAIT)
        listener.shutdown(socket.SHUT_RDWR)
        echoing.join(WAIT)
    assert {visitor.wrong for visitor in visitors} == {""}
    assert set.union(*(visitor.errors for visitor in visitors)) <= {"", "ECONNRESET", "EPIPE"}
    assert max(visitor.slowest for visitor in visitors) < 3
    print(f"{sum(visitor.visits for visitor in visitors)} visits")
    assert all(visitor.visits for visitor in visitors)


def test_a_forwarder_that_is_killed(world: World, ctx: rsock.Context) -> None:
    """As locally: connections are reset, the rest goes on."""
    ours, theirs = world.connected(ctx)
    udp, far = world.open(ctx, socket.SOCK_DGRAM), world.kernel(socket.SOCK_DGRAM)
    udp.bind(("", 0))
    far.bind((HOST, 0))
    name = udp.getsockname()
    old = world.lab.router("red")["pids"]["forwarder"]
    os.kill(old, signal.SIGKILL)
    assert error_of(partial(ours.recv, 10)) == "ECONNRESET"
    wait_until(lambda: world.lab.router("red")["pids"]["forwarder"] not in {None, old}, "another forwarder")
    udp.sendto(b"again", far.getsockname())
    assert far.recvfrom(10) == (b"again", (VR, name[1]))
    assert udp.getsockname() == name
    for sock in (ours, theirs, udp, far):
        sock.close()


def test_a_manager_that_is_killed(world: World, ctx: rsock.Context) -> None:
    """The relay goes on without it, and makes room for its successor's."""
    ours, theirs = world.connected(ctx)
    old = world.relay_pid()
    world.lab.kill()
    ours.sendall(b"lives")
    assert theirs.recv(10) == b"lives"
    world.lab.start()
    assert error_of(partial(ours.recv, 10)) == "ECONNRESET"
    wait_until(lambda: world.relay_pid() != old, "another relay")
    again, far = world.connected(ctx)
    for sock in (ours, theirs, again, far):
        sock.close()


def test_an_app_that_dies_or_ends(world: World) -> None:
    """Ending, an app closes its connections; killed, they are reset when its lease is over."""
    program = (
        "import socket, sys, rsock\n"
        "ctx = rsock.Context(sys.argv[1], curve=rsock.Curve(*sys.argv[2:5]))\n"
        "sock = rsock.socket(socket.AF_INET, socket.SOCK_STREAM, vr='red', ctx=ctx)\n"
        "sock.connect((sys.argv[5], int(sys.argv[6])))\n"
        "sock.sendall(b'all of it')\n"
    )
    keys = world.app
    with world.kernel_listener() as listener:
        port = str(listener.getsockname()[1])
        words = ["env", "PYTHONSAFEPATH=", f"PYTHONPATH={os.pathsep.join(sys.path)}", sys.executable, "-c", program]
        words += [f"tcp://{RELAY}:{PORT}", world.relay.public, keys.public, keys.secret, HOST, port]
        begin = time.monotonic()
        subprocess.run(world.away.command(*words), check=True, timeout=WAIT)
        theirs, _peer = listener.accept()
        theirs.settimeout(WAIT)
        assert drain(theirs)[0] == 9
        print(f"an app that only connects and ends: {time.monotonic() - begin:.2f} s")
        theirs.close()


def lease_of(world: World, seconds: int) -> None:
    text = f"rsock: {{listen: 'tcp://{RELAY}:{PORT}', curve-secret: !secret relay, lease: {seconds}}}\n"
    world.lab.configure_text(text, "system.yaml")
    world.lab.vr("apply")


def visit(world: World, port: int) -> socket.socket | None:
    kernel = world.kernel()
    if kernel.connect_ex((VR, port)) == 0:
        return kernel
    kernel.close()
    return None


def test_a_lease_that_ends(world: World) -> None:
    """Both sides see a reset, and the listener is there again when the link is."""
    old = world.relay_pid()
    lease_of(world, 1)
    wait_until(lambda: world.relay_pid() != old, "a relay with another lease")
    ctx = world.context()
    ours, theirs = world.connected(ctx)
    ours.sendall(b"x")
    assert theirs.recv(10) == b"x"
    listener = world.open(ctx)
    listener.bind(("", 0))
    listener.listen()
    world.link(up=False)
    begin = time.monotonic()
    assert error_of(lambda: theirs.recv(10)) == "ECONNRESET"
    assert error_of(lambda: ours.recv(10)) == "ECONNRESET"
    assert time.monotonic() - begin > 0.8
    assert time.monotonic() - begin < 4
    world.link(up=True)
    kernel = wait_until(lambda: visit(world, listener.getsockname()[1]), "the listener is there again")
    listener.accept()[0].close()
    kernel.close()
    for sock in (ours, theirs, listener):
        sock.close()


def test_nothing_is_left(world: World, ctx: rsock.Context) -> None:
    shown: Callable[[], list[dict[str, object]]] = lambda: world.lab.vr("show", "sockets", "red")  # noqa: E731
    del ctx
    world.close()
    wait_until(lambda: not [one for one in shown() if one.get("app")], "all sockets of apps are gone")
    fds = f"/proc/{world.relay_pid()}/fd"
    wait_until(lambda: len(os.listdir(fds)) < 40, "the relay holds no fd of theirs")
