"""TCP sockets in a VR against the kernel's TCP on the other end of a veth, through the whole daemon."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from socket import AF_INET
from typing import Any, Final

import pytest
from lab import Lab, Namespace, wait_until
from tcp_ends import drain, pour

import rsock
from rsock.errors import RsockDenied

pytestmark = pytest.mark.root

VR, HOST, VR6, HOST6 = "10.0.0.1", "10.0.0.2", "2001:db8::1", "2001:db8::2"
CLIENT_UID, SERVER_UID, NOBODY_UID = 12345, 12346, 12347
WAIT: Final = 20.0
FAMILIES: Final = [(socket.AF_INET, VR, HOST), (socket.AF_INET6, VR6, HOST6)]
BULK: Final = 64 << 20


class World:
    """Red, and the host behind it."""

    def __init__(self, lab: Lab, host: Namespace) -> None:
        self.lab, self.host = lab, host
        self.context = rsock.Context(f"ipc://{lab.run_dir}/rsock.sock")

    def open(self, family: int = AF_INET) -> rsock.socket:
        """Open a socket in red."""
        made = rsock.socket(family, socket.SOCK_STREAM, vr="red", ctx=self.context)
        made.settimeout(WAIT)
        return made

    def listener(self, port: int = 0, family: int = AF_INET, backlog: int = 128) -> rsock.socket:
        """Listen in red."""
        made = self.open(family)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(("", port))
        made.listen(backlog)
        return made

    def kernel(self, family: int = AF_INET) -> socket.socket:
        """Open a socket on the host."""
        made = self.host.socket(family, socket.SOCK_STREAM)
        made.settimeout(WAIT)
        return made

    def kernel_listener(self, family: int = AF_INET, backlog: int = 128) -> socket.socket:
        """Listen on the host."""
        made = self.kernel(family)
        made.bind(("", 0))
        made.listen(backlog)
        return made

    def outgoing(self) -> tuple[socket.socket, socket.socket]:
        """Connect from red to the host: (ours, the kernel's)."""
        with self.kernel_listener() as listener:
            ours = self.open()
            ours.connect((HOST, listener.getsockname()[1]))
            theirs, _peer = listener.accept()
        theirs.settimeout(WAIT)
        return ours, theirs

    def incoming(self) -> tuple[socket.socket, socket.socket]:
        """Connect from the host to red: (ours, the kernel's)."""
        with self.listener() as listener:
            theirs = self.kernel()
            theirs.connect((VR, listener.getsockname()[1]))
            ours, _peer = listener.accept()
        ours.settimeout(WAIT)
        return ours, theirs

    def pid(self, role: str) -> int:
        """Give the pid of a process of red."""
        return int(self.lab.vr("show", "routers")[0]["pids"][role])


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with Lab() as lab:
        host = lab.host("host", "lan", "10.0.0.2/24")
        host.address("eth0", "2001:db8::2/64")
        rules = [
            {"app": f"uid:{CLIENT_UID}", "allow": ["connect"], "prefixes": ["10.0.0.0/24"]},
            {"app": f"uid:{SERVER_UID}", "allow": ["listen"], "ports": ["8000-8999"]},
        ]
        interfaces = {"lan": {"device": "lan", "addresses": ["10.0.0.1/24", "2001:db8::1/64"]}}
        lab.configure({"red": {"interfaces": interfaces, "rsock": {"rules": rules}}})
        lab.start()
        wait_until(lambda: host.ping(VR6), "IPv6 is usable")
        made = World(lab, host)
        yield made
        made.context.close()


@pytest.mark.parametrize(("family", "ours", "theirs"), FAMILIES)
def test_echo_both_directions(world: World, family: int, ours: str, theirs: str) -> None:
    with world.kernel_listener(family) as listener, world.open(family) as client:
        client.connect((theirs, listener.getsockname()[1]))
        server, peer = listener.accept()
        assert peer[:2] == client.getsockname()[:2]
        assert client.getpeername()[:2] == (theirs, listener.getsockname()[1])
        client.sendall(b"to the kernel")
        assert server.recv(100) == b"to the kernel"
        server.sendall(b"and back")
        assert client.recv(100) == b"and back"
        server.close()
    with world.listener(0, family) as vr_listener, world.kernel(family) as kernel:
        kernel.connect((ours, vr_listener.getsockname()[1]))
        accepted, peer = vr_listener.accept()
        accepted.settimeout(WAIT)
        assert peer[:2] == kernel.getsockname()[:2]
        kernel.sendall(b"from the kernel")
        assert accepted.recv(100) == b"from the kernel"
        accepted.sendall(b"and back")
        assert kernel.recv(100) == b"and back"
        accepted.close()


@pytest.mark.parametrize("direction", ["sending", "receiving"])
def test_a_big_transfer(world: World, direction: str) -> None:
    ours, theirs = world.outgoing()
    ours.settimeout(60)
    theirs.settimeout(60)
    source, sink = (ours, theirs) if direction == "sending" else (theirs, ours)
    poured: list[str] = []
    thread = threading.Thread(target=lambda: poured.append(pour(source, BULK)))
    begin = time.monotonic()
    thread.start()
    got = drain(sink)
    print(f"{direction}: {BULK * 8 / (time.monotonic() - begin) / 1e9:.2f} Gbit/s with hashing")
    thread.join()
    assert got == (BULK, poured[0])
    ours.close()
    theirs.close()


def test_half_close_both_ways(world: World) -> None:
    for make in (world.outgoing, world.incoming):
        for first in (0, 1):
            ends = make()
            asking, answering = ends[first], ends[1 - first]
            asking.sendall(b"all of the question")
            asking.shutdown(socket.SHUT_WR)
            assert drain(answering)[0] == 19
            answering.sendall(b"the answer")
            answering.close()
            assert asking.recv(100) == b"the answer"
            assert asking.recv(100) == b""
            asking.close()


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("way", ["outgoing", "incoming"])
def test_reset_and_end_of_file(world: World, way: str, written: bool) -> None:
    for end in (reset, socket.socket.close):
        for by_kernel in (False, True):
            ours, theirs = getattr(world, way)()
            if written:
                ours.sendall(b"something")
                assert theirs.recv(100) == b"something"
            end(theirs)
            assert select.select([ours], [], [], WAIT)[0]
            native = by_kernel and (way == "outgoing" or written)  # the kernel alone cannot tell the others
            read: Callable[[], bytes] = (lambda: os.read(ours.fileno(), 9)) if native else (lambda: ours.recv(9))  # noqa: B023
            if end is reset:
                with pytest.raises(ConnectionResetError):
                    read()
            else:
                assert read() == b""
            ours.close()


def test_ours_resets_and_ends_too(world: World) -> None:
    ours, theirs = world.outgoing()
    reset(ours)
    assert select.select([theirs], [], [], WAIT)[0]
    with pytest.raises(ConnectionResetError):
        theirs.recv(1)
    theirs.close()
    ours, theirs = world.outgoing()
    theirs.sendall(b"never read")
    select.select([ours], [], [], WAIT)
    ours.close()
    assert select.select([theirs], [], [], WAIT)[0]
    with pytest.raises(ConnectionResetError):
        theirs.recv(1)
    theirs.close()


def test_refused_and_timeout(world: World) -> None:
    with world.open() as sock, pytest.raises(ConnectionRefusedError):
        sock.connect((HOST, 9))
    with world.open() as sock:
        world.host.run("iptables", "-A", "INPUT", "-p", "tcp", "--dport", "99", "-j", "DROP", check=False)
        sock.settimeout(0.2)
        with pytest.raises((TimeoutError, ConnectionRefusedError)):
            sock.connect((HOST, 99))
    with world.open() as sock, pytest.raises(OSError, match=r"unreachable|No route") as failure:
        sock.connect(("10.0.0.77", 99))  # nobody answers ARP
    assert failure.value.errno in {errno.EHOSTUNREACH, errno.ENETUNREACH}


def test_not_blocking_with_epoll(world: World) -> None:
    """Writable exactly once, when it is connected; refused: SO_ERROR, once."""
    with world.kernel_listener() as listener, world.open() as sock, select.epoll() as epoll:
        sock.setblocking(False)
        epoll.register(sock, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
        epoll.poll(0)  # not connected: hung up, as a TCP socket of the kernel is
        assert sock.connect_ex((HOST, listener.getsockname()[1])) == errno.EINPROGRESS
        assert epoll.poll(WAIT) == [(sock.fileno(), select.EPOLLOUT)]
        time.sleep(0.2)  # the kernel has split the filler, and each part that is read may be an edge
        epoll.poll(0)
        assert epoll.poll(0.1) == []
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        listener.accept()[0].close()
    with world.open() as sock:
        sock.setblocking(False)
        assert sock.connect_ex((HOST, 9)) == errno.EINPROGRESS
        assert select.select([], [sock], [], WAIT)[1]
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def test_a_listener_is_native(world: World) -> None:
    """accept(2) itself works on the fd, and names the peer."""
    with world.listener() as listener, world.kernel() as kernel:
        kernel.connect((VR, listener.getsockname()[1]))
        assert select.select([listener], [], [], WAIT)[0]
        with socket.socket(fileno=os.dup(listener.fileno())) as native:
            accepted, name = native.accept()
        assert f"/p={HOST}:{kernel.getsockname()[1]}/".encode() in name
        kernel.sendall(b"x")
        assert select.select([accepted], [], [], WAIT)[0]
        assert os.read(accepted.fileno(), 10) == b"x"
        accepted.close()


def test_a_slow_reader_holds_the_writer(world: World) -> None:
    for make in (world.outgoing, world.incoming):
        for writer_ours in (True, False):
            ours, theirs = make()
            writer, reader = (ours, theirs) if writer_ours else (theirs, ours)
            writer.settimeout(2)
            sent, block = 0, os.urandom(1 << 16)
            with contextlib.suppress(TimeoutError):
                while sent < 1 << 30:
                    sent += writer.send(block)
            assert 1 << 16 <= sent < 1 << 28
            writer.shutdown(socket.SHUT_WR)
            assert drain(reader)[0] == sent
            ours.close()
            theirs.close()


def test_a_thousand_connections(world: World) -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limit[0], 8192), max(limit[1], 8192)))
    try:
        with world.listener(backlog=1024) as listener:
            port = listener.getsockname()[1]
            pairs = []
            for number in range(1000):
                kernel = world.kernel()
                kernel.connect((VR, port))
                ours, _peer = listener.accept()
                pairs.append((ours, kernel))
                kernel.sendall(b"%d" % number)
            for number, (ours, kernel) in enumerate(pairs):
                ours.settimeout(WAIT)
                assert ours.recv(100) == b"%d" % number
                ours.sendall(b"ok")
                assert kernel.recv(100) == b"ok"
            shown = world.lab.vr("show", "sockets", "red")
            assert sum(entry["state"] == "established" for entry in shown) >= 1000
            for ours, kernel in pairs:
                ours.close()
                kernel.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)


def test_asyncio_client_and_server(world: World) -> None:
    async def upper(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read()).upper())
        writer.close()

    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(b"question")
        writer.write_eof()
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer

    async def run() -> None:
        async with asyncio.timeout(20):
            kernel = await asyncio.start_server(upper, sock=world.kernel_listener())
            for _ in range(20):
                port = kernel.sockets[0].getsockname()[1]
                assert await ask(*await rsock.open_connection(HOST, port, vr="red", ctx=world.context)) == b"QUESTION"
            kernel.close()
            server = await rsock.start_server(upper, VR, 0, vr="red", ctx=world.context)
            for _ in range(20):
                sock = world.kernel()
                sock.setblocking(False)
                await asyncio.get_running_loop().sock_connect(sock, (VR, server.sockets[0].getsockname()[1]))
                assert await ask(*await asyncio.open_connection(sock=sock)) == b"QUESTION"
            server.close()

    asyncio.run(run())


def test_a_port_can_be_used_again(world: World) -> None:
    for _ in range(3):
        world.listener(7300).close()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            world.listener(7300)
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    world.listener(7300).close()


def as_user(uid: int, action: Callable[[], Any]) -> int:
    """Do something as another user; give the errno it ended with."""
    child = os.fork()
    if child == 0:
        code = 255
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            action()
            code = 0
        except RsockDenied as error:
            code = error.errno or 254
        except OSError as error:
            code = 200 if error.errno is None else error.errno
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_rules(world: World) -> None:
    with world.kernel_listener() as listener:
        port = listener.getsockname()[1]

        def connect(host: str) -> Callable[[], Any]:
            return lambda: world.open().connect((host, port))

        def listen(where: int) -> Callable[[], Any]:
            return lambda: world.listener(where)

        assert as_user(CLIENT_UID, connect(HOST)) == 0
        assert as_user(CLIENT_UID, connect("192.0.2.1")) == errno.EACCES
        assert as_user(CLIENT_UID, listen(8080)) == errno.EACCES
        assert as_user(SERVER_UID, listen(8080)) == 0
        assert as_user(SERVER_UID, listen(0)) == 0
        assert as_user(SERVER_UID, listen(80)) == errno.EACCES
        assert as_user(SERVER_UID, connect(HOST)) == errno.EACCES
        assert as_user(NOBODY_UID, connect(HOST)) == errno.EACCES


def test_sockets_are_shown(world: World) -> None:
    ours, theirs = world.outgoing()
    theirs.sendall(b"unread for a while")
    with world.listener(7400):
        shown = world.lab.vr("show", "sockets", "red")
        (listening,) = [entry for entry in shown if entry["state"] == "listen" and entry["local"].endswith(":7400")]
        assert (listening["type"], listening["uid"], listening["pid"]) == ("tcp", os.getuid(), os.getpid())
        local = f"{VR}:{ours.getsockname()[1]}"
        (entry,) = [entry for entry in shown if entry["local"] == local]
        assert entry["remote"] == f"{HOST}:{theirs.getsockname()[1]}"
        assert (entry["state"], entry["retransmits"], entry["send_queue"]) == ("established", 0, 0)
        assert 0 < entry["rtt_ms"] < 1000
        assert entry["cwnd"] >= 10
        text = world.lab.vr_run("show", "sockets", "red").stdout
        assert "established" in text
        assert local in text
    ours.close()
    theirs.close()


def test_control_and_broker_die_unseen(world: World) -> None:
    ours, theirs = world.outgoing()
    before = world.pid("control")
    os.kill(before, signal.SIGKILL)
    for _ in range(20):
        ours.sendall(b"x" * 1000)
        got = b""
        while len(got) < 1000:
            got += theirs.recv(1000)
        time.sleep(0.01)
    wait_until(lambda: world.pid("control") not in {0, before}, "control is back")
    theirs.sendall(b"still")
    assert ours.recv(10) == b"still"
    ours.close()
    theirs.close()


@pytest.mark.quiet
def test_the_forwarder_dies(world: World) -> None:
    """Connections are reset within 50 ms, listeners live on."""
    for make in (world.outgoing, world.incoming):
        ours, theirs = make()
        ours.sendall(b"x")
        assert theirs.recv(1) == b"x"
        with world.listener(7500) as listener:
            before = world.pid("forwarder")
            os.kill(before, signal.SIGKILL)
            begin = time.monotonic()
            assert select.select([ours], [], [], 1)[0]
            assert time.monotonic() - begin < 0.05
            with pytest.raises(ConnectionResetError):
                os.read(ours.fileno(), 10)
            wait_until(lambda: world.pid("forwarder") not in {0, before}, "the forwarder is back")  # noqa: B023
            with world.kernel() as kernel:
                kernel.connect((VR, 7500))
                taken, _peer = listener.accept()
                taken.settimeout(WAIT)
                kernel.sendall(b"goes on")
                assert taken.recv(100) == b"goes on"
                taken.close()
            theirs.settimeout(WAIT)
            with pytest.raises(ConnectionResetError):
                theirs.recv(1)
        ours.close()
        theirs.close()
