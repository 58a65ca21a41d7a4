"""rsock as Python's standard module: names, TLS, asyncio, patching, and sockets that change their process."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import http.client
import os
import pickle
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import pytest
from lab import Lab, Namespace, project_environment, wait_until

import rsock
from tests.conftest import require_program

pytestmark = pytest.mark.root

VR, HOST, HOST6 = "10.0.0.1", "10.0.0.2", "2001:db8::2"
WAIT = 20.0
LOOPBACKS = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"), (socket.AF_INET, "127.1.2.3")]


class World:
    """Red, and the host behind it that serves names."""

    def __init__(self, lab: Lab, host: Namespace) -> None:
        self.lab, self.host = lab, host
        self.context = rsock.Context(f"ipc://{lab.run_dir}/rsock.sock")

    def getaddrinfo(self, host: str, family: int = 0, flags: int = 0) -> list[str]:
        infos = rsock.getaddrinfo(
            host, 80, family, socket.SOCK_STREAM, flags=flags, vr="red", ctx=self.context
        )  # fmt: skip
        return [info[4][0] for info in infos]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    many = [f"--host-record=many.red.example,10.1.{n // 200}.{n % 200 + 1}" for n in range(400)]
    with Lab() as lab:
        host = lab.host("host", "lan", "10.0.0.2/24")
        host.address("eth0", f"{HOST6}/64")
        lan = {"device": "lan", "addresses": ["10.0.0.1/24", "2001:db8::1/64"]}
        dns = {"servers": ["10.0.0.3", HOST], "search": ["red.example"]}  # the first does not exist
        lab.configure({"red": {"interfaces": {"lan": lan}, "dns": dns}, "blue": {}})
        command = host.command(
            require_program("dnsmasq"), "--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts",
            "--user=root", "--pid-file", f"--listen-address={HOST}", "--bind-interfaces", "--local=/example/",
            f"--host-record=www.red.example,{HOST},{HOST6}", f"--host-record=four.red.example,{HOST}",
            "--cname=alias.red.example,www.red.example", *many,
        )  # fmt: skip
        lab.helper(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        lab.start()
        made = World(lab, host)
        wait_until(lambda: host.ping("2001:db8::1"), "IPv6 is usable")
        wait_until(lambda: _answers(made), "names are served", 20.0)
        yield made
        made.context.close()


def _answers(world: World) -> bool:
    try:
        return bool(world.getaddrinfo("www.red.example"))
    except OSError:
        return False


@pytest.fixture
def patched(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("RSOCK_ENDPOINT", world.context.endpoint)
    with rsock.patch(vr="red"):
        yield world
    rsock.client.default_context().close()


# --- loopback ---


@pytest.mark.parametrize(("family", "address"), LOOPBACKS)
def test_a_router_speaks_to_itself(patched: World, family: int, address: str) -> None:
    del patched
    with (
        socket.create_server((address, 0), family=family) as listener,
        socket.create_connection(listener.getsockname()[:2], WAIT) as ours,
        listener.accept()[0] as theirs,
    ):
        assert ours.getpeername()[:2] == (address, listener.getsockname()[1])
        ours.sendall(b"hello")
        assert theirs.recv(16) == b"hello"
    with socket.socket(family, socket.SOCK_DGRAM) as closed, socket.socket(family, socket.SOCK_DGRAM) as ours:
        closed.bind((address, 0))
        where = closed.getsockname()
        closed.close()
        ours.connect(where)
        ours.settimeout(WAIT)
        ours.send(b"x")
        with pytest.raises(ConnectionRefusedError):
            ours.recv(1)


def test_loopback_never_leaves(world: World) -> None:
    with rsock.socket(socket.AF_INET, socket.SOCK_DGRAM, vr="red", ctx=world.context) as ours:
        ours.bind(("127.0.0.1", 0))
        ours.settimeout(WAIT)
        ours.sendto(b"x", (HOST, 9))
        with pytest.raises(OSError, match="argument") as failure:
            ours.recv(1)
        assert failure.value.errno == errno.EINVAL


def drain(sock: socket.socket, counts: list[int]) -> None:
    while part := sock.recv(65536):
        counts.append(len(part))


@pytest.mark.parametrize("way", ["lines", "bytes", "file"])
def test_a_writer_that_fills_its_fd_goes_on(world: World, way: str, tmp_path: Path) -> None:
    """What is held in the fd's queue for the sake of resets must leave room to write."""
    counts: list[int] = []
    with (
        rsock.create_server(("127.0.0.1", 0), vr="red", ctx=world.context) as listener,
        rsock.socket(vr="red", ctx=world.context) as ours,
    ):
        ours.setblocking(False)
        ours.connect_ex(listener.getsockname())
        with listener.accept()[0] as theirs:
            reader = threading.Thread(target=drain, args=(theirs, counts))
            reader.start()
            ours.settimeout(WAIT)
            if way == "file":
                (tmp_path / "file").write_bytes(bytes(1 << 20))
                with (tmp_path / "file").open("rb") as file:
                    assert ours.sendfile(file) == 1 << 20
            else:
                for _line in range(5000):
                    ours.sendall(b"x" if way == "bytes" else b"abcde12345\r\n")
            ours.close()
            reader.join(WAIT)
    assert sum(counts) == {"file": 1 << 20, "bytes": 5000, "lines": 60000}[way]


# --- names ---


def test_names_are_the_router_s(world: World) -> None:
    assert world.getaddrinfo("www") == [HOST6, HOST]
    assert world.getaddrinfo("alias.red.example.", socket.AF_INET) == [HOST]
    assert world.getaddrinfo("four", socket.AF_INET6, socket.AI_V4MAPPED) == [f"::ffff:{HOST}"]
    assert world.getaddrinfo("localhost") == ["::1", "127.0.0.1"]
    info = rsock.getaddrinfo("alias", None, flags=socket.AI_CANONNAME, vr="red", ctx=world.context)
    assert info[0][3] == "www.red.example"


def test_what_does_not_fit_into_a_datagram_comes_by_tcp(world: World) -> None:
    assert len(world.getaddrinfo("many.red.example")) == 400


@pytest.mark.parametrize(
    ("name", "error"),
    [("none.red.example", socket.EAI_NONAME), ("a b", socket.EAI_NONAME)],
)
def test_names_that_are_none(world: World, name: str, error: int) -> None:
    with pytest.raises(socket.gaierror) as failure:
        world.getaddrinfo(name)
    assert failure.value.errno == error


def test_a_router_without_servers_asks_nobody(world: World) -> None:
    with pytest.raises(socket.gaierror) as failure:
        rsock.getaddrinfo("www.red.example", 80, vr="blue", ctx=world.context)
    assert failure.value.errno == socket.EAI_AGAIN


def test_addresses_have_names_too(world: World) -> None:
    assert rsock.gethostbyaddr(HOST, vr="red", ctx=world.context)[0].endswith(".red.example")
    assert rsock.getnameinfo((HOST, 80), socket.NI_NUMERICSERV, vr="red", ctx=world.context)[1] == "80"


def test_sockets_take_names(world: World) -> None:
    with rsock.socket(socket.AF_INET, socket.SOCK_DGRAM, vr="red", ctx=world.context) as ours:
        ours.connect(("www", 7))
        assert ours.getpeername() == (HOST, 7)


# --- patched ---


def test_libraries_are_in_the_router(patched: World) -> None:
    server = patched.host.command(sys.executable, "-m", "http.server", "8000", "--bind", HOST)
    patched.lab.helper(server, cwd="/var/empty" if Path("/var/empty").is_dir() else "/", stderr=subprocess.DEVNULL)

    def status() -> int:
        connection = http.client.HTTPConnection("www", 8000, timeout=WAIT)
        with contextlib.closing(connection):
            connection.request("HEAD", "/")
            return connection.getresponse().status

    wait_until(lambda: _succeeds(status), "the server is there")
    assert status() == 200


def _succeeds(call: Callable[[], Any]) -> bool:
    try:
        call()
    except OSError:
        return False
    return True


def test_a_patch_ends(patched: World) -> None:
    before = socket.socket
    with socket.socket() as ours:
        assert isinstance(ours, rsock.socket)
        assert isinstance(ours, before)
    with rsock.patch(vr="kernel"), socket.socket() as plain:
        assert not isinstance(plain, rsock.socket)
    left, right = socket.socketpair()
    with left, right:
        assert left.family == socket.AF_UNIX
    del patched


class OwnSocket(socket.socket):
    """As old programs write them: the base class is called by its name."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        socket.socket.__init__(self, *arguments, **more)
        self.own = True


def test_subclasses_are_in_the_router_too(patched: World) -> None:
    del patched
    with OwnSocket() as ours:
        assert ours.own
        assert isinstance(ours, rsock.socket)
        ours.bind((VR, 0))
        assert ours.getsockname()[0] == VR


# --- TLS ---


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    key = path.with_name("key.pem")
    subprocess.run(
        [
            require_program("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
            "-nodes", "-keyout", str(key), "-out", str(path), "-days", "2", "-subj", "/CN=red",
            "-addext", "subjectAltName=DNS:localhost",
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    path.write_text(path.read_text() + key.read_text())
    return path


def contexts(certificate: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate)
    client = ssl.create_default_context(cafile=str(certificate))
    return server, client


def test_tls_on_the_fd_keeps_the_names(
    world: World, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setenv("RSOCK_ENDPOINT", world.context.endpoint)  # wrap_socket has no place for a context
    server, client = contexts(certificate)
    server.sslsocket_class = client.sslsocket_class = rsock.SSLSocket
    with rsock.create_server(("127.0.0.1", 0), vr="red", ctx=world.context) as listener:
        where = listener.getsockname()

        def serve() -> None:
            with server.wrap_socket(listener.accept()[0], server_side=True) as theirs:
                theirs.sendall(theirs.recv(64).upper())
                with contextlib.suppress(OSError):
                    theirs.unwrap()

        thread = threading.Thread(target=serve)
        thread.start()
        plain = rsock.create_connection(where, WAIT, vr="red", ctx=world.context)
        with client.wrap_socket(plain, server_hostname="localhost") as secure:
            secure.sendall(b"hello")
            assert secure.recv(64) == b"HELLO"
            assert secure.getpeername() == where
            assert secure.getsockname()[0] == "127.0.0.1"
            assert isinstance(secure, ssl.SSLSocket)
        thread.join(WAIT)


def test_asyncio_speaks_tls(world: World, certificate: Path) -> None:
    server_tls, client_tls = contexts(certificate)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()

    async def talk() -> bytes:
        where: dict[str, Any] = {"vr": "red", "ctx": world.context}
        server = await rsock.start_server(serve, "localhost", 8443, ssl=server_tls, **where)
        async with server, asyncio.timeout(WAIT):
            reader, writer = await rsock.open_connection("localhost", 8443, ssl=client_tls, **where)
            writer.write(b"hello\n")
            answer = await reader.readline()
            writer.close()
            await writer.wait_closed()
            return answer

    assert asyncio.run(talk()) == b"HELLO\n"


class Echo(asyncio.DatagramProtocol):
    """Sends back what comes, or keeps it."""

    def __init__(self, answers: asyncio.Queue[tuple[bytes, Any]] | None = None) -> None:
        self.answers = answers

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def datagram_received(self, data: bytes, sender: Any) -> None:
        if self.answers is None:
            self.transport.sendto(data.upper(), sender)
        else:
            self.answers.put_nowait((data, sender))


@pytest.mark.parametrize("connected", [False, True])
def test_datagram_endpoints(world: World, connected: bool) -> None:
    async def talk() -> tuple[bytes, Any]:
        where: dict[str, Any] = {"vr": "red", "ctx": world.context}
        answers: asyncio.Queue[tuple[bytes, Any]] = asyncio.Queue()
        echo, _protocol = await rsock.create_datagram_endpoint(Echo, ("127.0.0.1", 7007), **where)
        remote = ("127.0.0.1", 7007) if connected else None
        local = None if connected else ("127.0.0.1", 0)
        asking, _protocol = await rsock.create_datagram_endpoint(lambda: Echo(answers), local, remote, **where)
        asking.sendto(b"hello", None if connected else ("127.0.0.1", 7007))
        try:
            return await asyncio.wait_for(answers.get(), WAIT)
        finally:
            asking.close()
            echo.close()

    assert asyncio.run(talk()) == (b"HELLO", ("127.0.0.1", 7007))


# --- other processes ---

CHILD = """
import socket, sys
import rsock
fd, call = int(sys.argv[1]), sys.argv[2]
sock = rsock.socket(fileno=fd)
assert (sock.vr, sock.family, sock.type) == ("red", 2, int(sys.argv[3])), sock
if call == "accept":
    conn, peer = sock.accept()
    conn.sendall(repr((peer, conn.getsockname())).encode())
elif call == "answer":
    sock.sendall(repr((sock.getpeername(), sock.getsockname())).encode())
else:
    data, sender = sock.recvfrom(100)
    sock.sendto(repr((sender, sock.getsockname())).encode(), sender)
"""


def run_child(world: World, sock: socket.socket, call: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-c", CHILD, str(sock.fileno()), call, str(int(sock.type))]
    environment = project_environment() | {"RSOCK_ENDPOINT": world.context.endpoint}
    return subprocess.Popen(command, pass_fds=[sock.fileno()], env=environment)


@pytest.mark.parametrize("call", ["accept", "answer", "datagram"])
def test_an_executed_program_finds_out_what_its_fd_is(world: World, call: str) -> None:
    kind = socket.SOCK_DGRAM if call == "datagram" else socket.SOCK_STREAM
    with rsock.socket(socket.AF_INET, kind, vr="red", ctx=world.context) as ours:
        ours.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            ours.listen()
        with rsock.socket(socket.AF_INET, kind, vr="red", ctx=world.context) as asking:
            asking.settimeout(2 * WAIT)
            asking.connect(ours.getsockname())
            given = ours.accept()[0] if call == "answer" else ours
            with run_child(world, given, call) as child:
                if call == "datagram":
                    asking.send(b"who?")
                answer = asking.recv(200).decode()
                assert child.wait(WAIT) == 0
            assert answer == repr((asking.getsockname(), ours.getsockname()))
            given.close()


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_sockets_travel_between_processes(world: World, kind: int) -> None:
    """SCM_RIGHTS to a child after fork, which uses the socket as its own."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with left, right, rsock.socket(socket.AF_INET, kind, vr="red", ctx=world.context) as ours:
        pid = os.fork()
        if pid == 0:
            code = 1
            with contextlib.suppress(BaseException):
                _data, fds, _flags, _address = socket.recv_fds(right, 16, 1)
                with rsock.socket(fileno=fds[0], ctx=world.context) as taken:
                    taken.bind(("127.0.0.1", 0))
                    right.sendall(repr(taken.getsockname()).encode())
                    code = 0
            os._exit(code)
        socket.send_fds(left, [b"x"], [ours.fileno()])
        told = left.recv(100).decode()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert told == repr(ours.getsockname())


def test_multiprocessing_hands_sockets_over(world: World) -> None:
    """As it does the standard module's; pickle alone cannot."""
    with rsock.socket(socket.AF_INET, socket.SOCK_STREAM, vr="red", ctx=world.context) as ours:
        ours.bind(("127.0.0.1", 0))
        ours.listen()
        with rsock.socket(socket.AF_INET, socket.SOCK_STREAM, vr="red", ctx=world.context) as asking:
            asking.connect(ours.getsockname())
            with ours.accept()[0] as answering, ForkingPickler.loads(ForkingPickler.dumps(asking)) as copy:
                assert (type(copy), copy.vr) == (type(asking), "red")
                copy.sendall(b"by the copy")
                answering.settimeout(WAIT)
                assert answering.recv(100) == b"by the copy"
            with pytest.raises(TypeError, match="pickle"):
                pickle.dumps(asking)


def test_a_plain_fd_stays_plain(world: World) -> None:
    left, right = socket.socketpair()
    with left, right, rsock.fromfd(left.fileno(), ctx=world.context) as copy:
        assert copy.family == socket.AF_UNIX
        assert copy.vr == "kernel"


def test_calls_are_traced(world: World) -> None:
    code = "import rsock; rsock.socket(vr='red').bind(('127.0.0.1', 0))"
    environment = project_environment() | {"RSOCK_ENDPOINT": world.context.endpoint, "RSOCK_TRACE": "1"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True, timeout=30, check=True
    )  # fmt: skip
    assert "rsock.trace red BIND slot" in done.stderr
