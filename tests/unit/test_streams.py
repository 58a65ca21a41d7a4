"""TCP sockets of apps in two VRs of this process: the socket server, the library and the stack together."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import random
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator

import pytest

import rsock
from rsock.client_core import parse_accepted
from tests.unit.apps import WAIT, wait_for
from tests.unit.stream_worlds import BLUE, BLUE6, RED, RED6, Pair, worlds


@pytest.fixture(params=[False, True], ids=["opened", "dialed"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    with worlds(late=request.param) as made:
        yield made


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_both_ways_and_names(pair: Pair, family: int) -> None:
    client, server = pair.connected(family)
    assert client.getpeername() == server.getsockname()
    assert server.getpeername() == client.getsockname()
    assert client.getpeername()[0] == (BLUE if family == socket.AF_INET else BLUE6)
    assert server.getpeername()[0] == (RED if family == socket.AF_INET else RED6)
    assert (server.family, server.type, server.proto) == (family, socket.SOCK_STREAM, 0)  # as in socket
    client.sendall(b"there")
    assert server.recv(100) == b"there"
    server.sendall(b"back")
    assert client.recv(100) == b"back"
    client.close()
    assert server.recv(100) == b""
    server.close()


def flood(sock: socket.socket, data: bytes) -> None:
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)


def drained(sock: socket.socket) -> bytes:
    parts = []
    while part := sock.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def test_bulk_both_ways_at_once(pair: Pair) -> None:
    client, server = pair.connected()
    there, back = random.Random(1).randbytes(4 << 20), random.Random(2).randbytes(3 << 20)
    for sock in (client, server):
        sock.settimeout(20)
    got: dict[str, bytes] = {}
    threads = [
        threading.Thread(target=flood, args=(client, there)),
        threading.Thread(target=flood, args=(server, back)),
        threading.Thread(target=lambda: got.update(server=drained(server))),
    ]
    for thread in threads:
        thread.start()
    got["client"] = drained(client)
    for thread in threads:
        thread.join()
    assert hashlib.sha256(got["server"]).digest() == hashlib.sha256(there).digest()
    assert hashlib.sha256(got["client"]).digest() == hashlib.sha256(back).digest()
    client.close()
    server.close()


def test_many_small_writes(pair: Pair) -> None:
    """The last bytes that stay in the app's queue are neither lost nor sent twice."""
    client, server = pair.connected()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    chance = random.Random(3)
    sent = b""
    for number in range(300):
        piece = bytes([number % 251]) * chance.choice([1, 2, 3, 100, 1000, 4095, 4096, 4097, 9000])
        client.sendall(piece)
        sent += piece
        if chance.random() < 0.2:
            time.sleep(0.0005)
    client.shutdown(socket.SHUT_WR)
    assert drained(server) == sent
    client.close()
    server.close()


def test_half_close(pair: Pair) -> None:
    client, server = pair.connected()
    client.sendall(b"question")
    client.shutdown(socket.SHUT_WR)
    assert drained(server) == b"question"
    server.sendall(b"a long answer")
    server.close()
    assert drained(client) == b"a long answer"
    client.close()


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("side", ["client", "server"])
def test_a_reset_is_no_end_of_file(pair: Pair, side: str, written: bool) -> None:
    """Natively where the app wrote anything, or connected; in any case through the library."""
    client, server = pair.connected()
    mine, other = (client, server) if side == "client" else (server, client)
    if written:
        mine.sendall(b"unread")
        assert other.recv(100) == b"unread"
    other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    other.close()
    select.select([mine], [], [], WAIT)
    if written or side == "client":
        with pytest.raises(ConnectionResetError):
            os.read(mine.fileno(), 100)
    else:
        with pytest.raises(ConnectionResetError):
            mine.recv(100)
    mine.close()


@pytest.mark.parametrize("written", [False, True])
def test_an_end_of_file_is_no_reset(pair: Pair, written: bool) -> None:
    client, server = pair.connected()
    for mine, other in ((client, server), (server, client)):
        if written:
            mine.sendall(b"read by the other")
            assert other.recv(100) == b"read by the other"
    server.close()
    select.select([client], [], [], WAIT)
    assert os.read(client.fileno(), 100) == b""
    assert client.recv(100) == b""
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    client.close()


def test_closing_with_bytes_unread_resets(pair: Pair) -> None:
    client, server = pair.connected()
    server.sendall(b"never read")
    select.select([client], [], [], WAIT)
    client.close()
    select.select([server], [], [], WAIT)
    with pytest.raises(ConnectionResetError):
        server.recv(100)
    server.close()


def test_refused(pair: Pair) -> None:
    client = pair.red.socket()
    with pytest.raises(ConnectionRefusedError):
        client.connect((BLUE, 9))
    client.close()
    other = pair.red.socket()
    assert other.connect_ex((BLUE, 9)) == errno.ECONNREFUSED
    other.close()


def test_a_connect_times_out(pair: Pair) -> None:
    pair.cut = True
    client = pair.red.socket()
    client.settimeout(0.1)
    with pytest.raises(TimeoutError):
        client.connect((BLUE, 9))
    client.close()


def test_no_route_leaves_the_socket_usable(pair: Pair) -> None:
    with pair.blue.listener() as listener, pair.red.socket() as client:
        with pytest.raises(OSError, match="unreachable"):
            client.connect(("203.0.113.1", 9))
        client.connect((BLUE, listener.getsockname()[1]))
        assert client.getpeername()[0] == BLUE


def test_connecting_without_blocking(pair: Pair) -> None:
    """One edge, once connected; SO_ERROR is 0; the send buffer is the usual one."""
    with pair.blue.listener() as listener, pair.red.socket() as client, select.epoll() as epoll:
        client.setblocking(False)
        pair.cut = True
        with pytest.raises(BlockingIOError):
            client.connect((BLUE, listener.getsockname()[1]))
        before = socket.socket.getsockopt(client, socket.SOL_SOCKET, socket.SO_SNDBUF)
        epoll.register(client, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET | select.EPOLLRDHUP)
        assert epoll.poll(0.05) == []
        assert not select.select([], [client], [], 0)[1]
        pair.cut = False
        assert epoll.poll(WAIT) == [(client.fileno(), select.EPOLLOUT)]
        time.sleep(0.1)  # the kernel has split the filler, and each part that is read may be an edge
        epoll.poll(0)
        assert epoll.poll(0.05) == []
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        assert socket.socket.getsockopt(client, socket.SOL_SOCKET, socket.SO_SNDBUF) == before
        server, _peer = listener.accept()
        client.send(b"x")
        assert server.recv(10) == b"x"
        server.close()


def test_refused_without_blocking(pair: Pair) -> None:
    """The error is told once."""
    with pair.red.socket() as client:
        client.setblocking(False)
        assert client.connect_ex((BLUE, 9)) == errno.EINPROGRESS
        assert select.select([], [client], [], WAIT)[1]
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def test_back_pressure(pair: Pair) -> None:
    """A reader that does not read stops the writer; then all arrives."""
    client, server = pair.connected()
    client.setblocking(False)
    data = bytes(range(256)) * 256
    sent = 0
    quiet = time.monotonic() + 0.5
    while time.monotonic() < quiet:
        try:
            sent += client.send(data[sent % 256 :])
            quiet = time.monotonic() + 0.5
        except BlockingIOError:
            time.sleep(0.005)
        assert sent < 64 << 20
    assert sent > 100_000
    got = 0
    server.settimeout(WAIT)
    while got < sent:
        part = server.recv(1 << 20)
        assert part == (data * (2 + len(part) // len(data)))[got % 256 :][: len(part)]
        got += len(part)
    client.close()
    assert server.recv(1) == b""
    server.close()


def test_the_apps_backlog_loses_nothing(pair: Pair) -> None:
    with pair.blue.listener(backlog=20) as listener:
        port = listener.getsockname()[1]
        clients = [pair.red.socket() for _ in range(15)]
        for number, client in enumerate(clients):
            client.connect((BLUE, port))
            client.sendall(bytes([number]))
        seen = set()
        for _ in clients:
            server, _peer = listener.accept()
            server.settimeout(WAIT)
            seen.add(server.recv(1)[0])
            server.close()
        assert seen == set(range(15))
        for client in clients:
            client.close()


def test_a_port_is_free_again(pair: Pair) -> None:
    port = 7100
    for _ in range(3):
        listener = pair.blue.listener(port)
        with pytest.raises(OSError, match="in use"):
            pair.blue.listener(port)
        listener.close()
    fd = pair.blue.listener(port).detach()
    os.close(fd)  # nothing tells the forwarder, but it looks where there is a conflict
    pair.blue.listener(port).close()


def test_a_dead_app_is_noticed(pair: Pair) -> None:
    """Its listener goes, though no event tells of it."""
    child = os.fork()
    if child == 0:
        listener = pair.blue.listener(7101)
        os.kill(os.getpid(), 9)
        listener.close()
    os.waitpid(child, 0)
    client = pair.red.socket()
    wait_for(lambda: pair.blue.router.state.view("tcp", 0).integer("cookie") == 0)
    with pytest.raises(ConnectionRefusedError):
        client.connect((BLUE, 7101))
    client.close()


def test_duplicates_and_children(pair: Pair) -> None:
    client, server = pair.connected()
    copy = client.dup()
    client.close()
    copy.sendall(b"still open")
    assert server.recv(100) == b"still open"
    child = os.fork()
    if child == 0:
        copy.sendall(str(copy.getpeername()[0]).encode())
        copy.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        os._exit(0 if copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    copy.close()
    assert drained(server) == BLUE.encode()
    server.close()


def test_options(pair: Pair) -> None:
    client, server = pair.connected()
    for sock in (client, server):
        assert len(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)) > 100
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == 1  # established
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    client.close()
    server.close()


def test_asyncio(pair: Pair) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read()).upper())
        await writer.drain()
        writer.close()

    async def ask(port: int, number: int) -> bytes:
        reader, writer = await rsock.open_connection(BLUE, port, vr="red", ctx=pair.red.context)
        writer.write(b"number %d" % number)
        writer.write_eof()
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer

    async def run() -> list[bytes]:
        server = await rsock.start_server(serve, BLUE, 0, vr="blue", ctx=pair.blue.context)
        port = server.sockets[0].getsockname()[1]
        async with asyncio.timeout(10):
            answers = await asyncio.gather(*(ask(port, number) for number in range(20)))
        server.close()
        return answers

    assert asyncio.run(run()) == [b"NUMBER %d" % number for number in range(20)]


def test_asyncio_refused(pair: Pair) -> None:
    async def run() -> None:
        await rsock.open_connection(BLUE, 9, vr="red", ctx=pair.red.context)

    with pytest.raises(ConnectionRefusedError):
        asyncio.run(run())


def test_files_and_sendfile(pair: Pair) -> None:
    client, server = pair.connected()
    with client.makefile("rwb") as stream, open("/proc/self/exe", "rb") as program:
        stream.write(b"line\n")
        stream.flush()
        assert server.recv(100) == b"line\n"
        wanted = program.read(200_000)
        program.seek(0)
        sender = threading.Thread(target=lambda: client.sendfile(program, 0, 200_000))
        sender.start()
        got = b""
        while len(got) < len(wanted):
            got += server.recv(1 << 16)
        sender.join()
        assert got == wanted
    client.close()
    server.close()


def test_a_forwarder_that_dies(pair: Pair) -> None:
    """Connections are reset, listeners live on."""
    client, server = pair.connected()
    listener = pair.blue.listener(7102)
    pair.stop()
    pair.blue.router.crash()
    pair.blue.serve()
    pair.start()
    pair.blue.context.close()  # in one process, the dead core's connections stay open
    with pytest.raises(ConnectionResetError):
        client.recv(10)
    again = pair.red.socket()
    again.connect((BLUE, 7102))
    taken, _peer = listener.accept()
    again.sendall(b"goes on")
    taken.settimeout(WAIT)
    assert taken.recv(100) == b"goes on"
    for sock in (client, server, again, taken, listener):
        sock.close()


def test_a_stranger_is_no_connection(pair: Pair) -> None:
    """Another app that connects to the listener's name comes without a forwarder's name."""
    with pair.blue.listener() as listener:
        name = socket.socket.getsockname(listener)
        other = socket.socket(socket.AF_UNIX)
        other.connect(name)
        listener.settimeout(0.1)
        with pytest.raises(TimeoutError):
            listener.accept()
        other.close()


def test_names_of_connections() -> None:
    parsed = parse_accepted(b"\0rsk1/red/t4/p=192.0.2.9:51515/l=192.0.2.1:80/1005.89abcdef")
    assert parsed is not None
    assert (parsed.slot, parsed.nonce, parsed.peer, parsed.local) == (
        0x1005, 0x89ABCDEF, ("192.0.2.9", 51515), ("192.0.2.1", 80),
    )  # fmt: skip
    parsed = parse_accepted(b"\0rsk1//t6/p=[fe80::1%3]:1//1005.89abcdef")
    assert parsed is not None
    assert (parsed.peer, parsed.local) == (("fe80::1%3", 1), None)
    for name in (b"", "", b"\0anabranch/1005/89abcdef", b"\0rsk1/red/t4/p=x:1/l=y:1/1005.89abcdef/", None):
        assert parse_accepted(name) is None


def test_tls_is_what_it_always_was(pair: Pair) -> None:
    """OpenSSL works on the fd itself; an anonymous cipher needs no certificate."""
    client, server = pair.connected()
    contexts = [ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)]
    for context in contexts:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("aNULL:@SECLEVEL=0")
    done: list[bytes] = []

    def serve() -> None:
        with contexts[1].wrap_socket(server, server_side=True) as secure:
            done.append(secure.recv(100))

    thread = threading.Thread(target=serve)
    thread.start()
    with contexts[0].wrap_socket(client) as secure:
        secure.sendall(b"secret")
    thread.join()
    assert done == [b"secret"]
