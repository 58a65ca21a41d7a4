"""The C client: programs that are linked to librsock, and unmodified ones with the preloaded library alone."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from exec_worlds import APP_UID, ECHO, HOST4, OWN4, WEB, WORLDS, World, exec_worlds, no_sockets
from lab import ROOT, project_environment, wait_until

from tests.conftest import require_program

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root

CLIENT: Final = Path(os.environ.get("ANABRANCH_CLIENT", ROOT / "rsock" / "c" / "lib"))
PRELOAD: Final = CLIENT / "librsock-preload.so"
NGINX: Final = """
daemon off; user www-data; worker_processes 2; pid {place}/pid; error_log {place}/error info;
events {{ worker_connections 256; }}
http {{
    sendfile on; tcp_nopush on; access_log off; client_body_temp_path {place}/body; proxy_temp_path {place}/proxy;
    fastcgi_temp_path {place}/fastcgi; uwsgi_temp_path {place}/uwsgi; scgi_temp_path {place}/scgi;
    server {{ listen 8090; listen [::]:8090; root {place}/pages; location /behind/ {{ proxy_pass http://{host}/; }} }}
}}
"""


@pytest.fixture(scope="module")
def worlds() -> Iterator[World]:
    with exec_worlds() as lab:
        # www-data has no right here: what root has opened it may use, more it may not.
        (lab.run_dir / "vr" / "red.resolv.conf").write_text(f"nameserver {HOST4}\n")
        yield lab


@pytest.fixture(scope="module")
def installed(worlds: World) -> Path:
    """Give a copy of the library that anybody may read: this tree may lie in a home that only its owner may enter."""
    return Path(shutil.copytree(CLIENT, worlds.directory / "installed"))


@pytest.fixture(scope="module")
def client_calls(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Build the program as a user of the library would."""
    made = tmp_path_factory.mktemp("client") / "client_calls"
    words = (CLIENT / "rsock.pc").read_text().replace("${pcfiledir}", str(CLIENT)).splitlines()
    places = dict(line.split("=") for line in words if "=" in line)
    subprocess.run(
        ["gcc", "-std=gnu11", "-O2", "-Wall", "-Werror", str(Path(__file__).with_name("client_calls.c")), "-o",
         str(made), f"-I{places['includedir']}", f"-L{places['libdir']}", "-lrsock",
         f"-Wl,-rpath,{installed}", "-pthread"],
        check=True,
    )  # fmt: skip
    made.parent.chmod(0o755)
    return str(made)


def run(worlds: World, *words: str, timeout: float = 60, **environment: Any) -> subprocess.CompletedProcess[str]:
    """Run a program in the daemon's namespace."""
    return subprocess.run(
        worlds.box.command(*words), capture_output=True, text=True, timeout=timeout, check=False,
        env=project_environment() | {"ANABRANCH_RUN_DIR": str(worlds.run_dir)} | environment,
    )  # fmt: skip


def preloaded(worlds: World, vr: str, *words: str, **environment: Any) -> subprocess.CompletedProcess[str]:
    """Run an unmodified program in a router."""
    return run(worlds, *words, **{"LD_PRELOAD": str(PRELOAD), "RSOCK_VR": vr} | environment)


def serve(worlds: World, vr: str, *words: str, **options: Any) -> subprocess.Popen[Any]:
    """Start an unmodified program in a router."""
    environment = (f"ANABRANCH_RUN_DIR={worlds.run_dir}", f"LD_PRELOAD={PRELOAD}", f"RSOCK_VR={vr}")
    return worlds.helper(worlds.box.command("env", *environment, *words), **options)


def fetch(worlds: World, vr: str, path: str, port: int) -> str:
    """Fetch from a router, as the host behind it; "" where nobody answers."""
    return worlds.namespaces[vr].run("curl", "-s", "-m", "5", f"http://{OWN4}:{port}{path}", check=False).stdout


def serves(worlds: World, vr: str, path: str, port: int, expected: str) -> bool:
    """Tell whether a router serves what is expected."""
    return fetch(worlds, vr, path, port) == expected


# --- librsock ---


def test_a_program_of_c_makes_all_calls(worlds: World, client_calls: str) -> None:
    done = run(worlds, client_calls, "all", HOST4, OWN4, str(WEB), str(ECHO))
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")
    for name in WORLDS:
        wait_until(partial(no_sockets, worlds, name), f"no socket is left in {name}")


def test_calls_end_in_an_errno_within_their_time(worlds: World, client_calls: str) -> None:
    assert run(worlds, client_calls, "open", "nowhere").stdout == "ENODEV\n"
    assert run(worlds, client_calls, "open", "not/a/name").stdout == "ENODEV\n"
    stranger = ("setpriv", "--reuid=12399", "--regid=12399", "--clear-groups")
    assert run(worlds, *stranger, client_calls, "open", "red").stdout == "EACCES\n"
    path = worlds.run_dir / "vr" / "deaf.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as deaf:
        deaf.bind(str(path))
        try:
            assert run(worlds, client_calls, "open", "deaf").stdout == "ENETDOWN\n"  # nobody listens
            deaf.listen()
            assert run(worlds, client_calls, "open", "deaf", RSOCK_TIMEOUT="0.2").stdout == "ETIMEDOUT\n"
        finally:
            path.unlink()


def test_events_of_routers(worlds: World, client_calls: str) -> None:
    words = ("env", f"ANABRANCH_RUN_DIR={worlds.run_dir}", client_calls, "watch")
    started = worlds.started(worlds.box.command(*words), says="watching")
    assert started.stdout is not None
    path = worlds.run_dir / "vr" / "green.sock"
    (worlds.run_dir / "vr" / "green.other").touch()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as green:
        green.bind(str(path))
    path.unlink()
    (worlds.run_dir / "vr" / "green.other").unlink()
    assert started.stdout.read() == "up green\ndown green\n"


def test_only_its_own_names_are_exported() -> None:
    listed = subprocess.run(
        ["nm", "-D", "--defined-only", str(CLIENT / "librsock.so.1")], capture_output=True, text=True, check=True
    )
    names = {line.split()[-1] for line in listed.stdout.splitlines()}
    assert names - {"RSOCK_1"}
    assert all(name.startswith("rsock_") and name.endswith("@@RSOCK_1") for name in names - {"RSOCK_1"})


# --- preloaded ---

MAPPED: Final = """
import select, socket, subprocess, sys
poll = select.epoll()
sock = socket.socket()
sock.setblocking(False)
sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
poll.register(sock.fileno(), select.EPOLLOUT | select.EPOLLET)
before = poll.poll(0)
assert sock.connect_ex(("10.0.0.2", 80)) == 115
assert poll.poll(5) == [(sock.fileno(), select.EPOLLOUT)], "registered before it was known where it belongs"
assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
assert sock.getpeername() == ("10.0.0.2", 80)
child = "import socket; s = socket.socket(fileno=%d); assert s.family == socket.AF_INET; print(s.getsockname()[0])"
subprocess.run([sys.executable, "-c", child % sock.fileno()], pass_fds=[sock.fileno()], check=True)
chosen = socket.socket()
chosen.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"blue\\0")
chosen.connect(("10.0.0.2", 80))
for stream in (sock, chosen):
    stream.setblocking(True)
    stream.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
    print(stream.makefile().read().split()[-3], flush=True)
with socket.create_server(("127.0.0.1", 0)) as here, socket.create_connection(here.getsockname()) as peer:
    print(peer.getpeername()[0])
asked = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asked.settimeout(30)
asked.sendto(b"x", ("10.0.0.2", 7007))
print(asked.recvfrom(100))
"""

SENDER: Final = """
import os, select, socket
listener = socket.create_server(("10.0.0.1", 5900))
print("ready", flush=True)
sock, _peer = listener.accept()
sock.setblocking(False)
poll = select.epoll()
poll.register(sock, select.EPOLLOUT | select.EPOLLET)
with open("/dev/shm/%s", "rb") as file:
    sent = 0
    while sent < 8 << 20:
        try:
            sent += os.sendfile(sock.fileno(), file.fileno(), sent, (8 << 20) - sent)
        except BlockingIOError:
            assert poll.poll(5), "stuck at %%d" %% sent
print(sent)
"""


def test_clients(worlds: World) -> None:
    """The same address in two routers, by number and by name."""
    require_program("curl")
    for name in WORLDS:
        for program in (("curl", "-s", "-m", "5"), ("wget", "-q", "-T", "5", "-O", "-")):
            if shutil.which(program[0]):
                assert preloaded(worlds, name, *program, f"http://{HOST4}/x").stdout.startswith(f"{name} /x ")
    assert preloaded(worlds, "red", "curl", "-s", "-m", "5", "http://www.example.net/y").stdout.startswith("red /y ")
    assert preloaded(worlds, "red", "curl", "-s", "-m", "5", f"http://{HOST4}:1/").returncode == 7  # refused
    assert preloaded(worlds, "nowhere", "curl", "-s", "-m", "5", f"http://{HOST4}/").returncode == 7
    assert preloaded(worlds, "kernel", "curl", "-s", "-m", "5", f"http://{HOST4}/").returncode == 7


def test_ping_and_its_errors(worlds: World) -> None:
    done = preloaded(worlds, "red", "ping", "-n", "-c", "2", "-i", "0.05", HOST4)
    assert "2 received" in done.stdout
    assert "Destination Host Unreachable" in preloaded(worlds, "red", "ping", "-n", "-c", "1", "10.0.0.77").stdout


def test_the_map_decides_late(worlds: World) -> None:
    done = run(
        worlds, sys.executable, "-c", MAPPED, LD_PRELOAD=str(PRELOAD), RSOCK_MAP="10.0.0.0/8=red,*=kernel",
    )  # fmt: skip
    assert done.stdout.splitlines() == [OWN4, "red", "blue", "127.0.0.1", f"(b'red:x', ('{HOST4}', 7007))"], done.stderr


AGAIN: Final = """
import select, socket
poll = select.epoll()
for blocking in (True, False):
    with socket.socket() as sock:
        sock.setblocking(blocking)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        poll.register(sock, select.EPOLLOUT)
        first = sock.connect_ex(("10.0.0.2", 1))
        if not blocking:
            assert poll.poll(5)
            first = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        second = sock.connect_ex(("10.0.0.2", 80))
        assert poll.poll(5) == [(sock.fileno(), select.EPOLLOUT)]
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        print(first, second, sock.getpeername()[1])
        assert sock.connect_ex(("10.0.0.2", 80)) in (0, 106)
"""


def test_connecting_again_after_a_refusal(worlds: World) -> None:
    """With the kernel's sockets it works, so programs may do it."""
    done = preloaded(worlds, "red", sys.executable, "-c", AGAIN)
    assert done.stdout.splitlines() == ["111 0 80", "111 115 80"], done.stderr


def test_who_resolves_by_himself_finds_the_routers_servers(worlds: World) -> None:
    """As c-ares and BIND's tools do, which read resolv.conf(5) by fopen(3)."""
    code = (
        "import ctypes\n"
        "libc, line = ctypes.CDLL(None), ctypes.create_string_buffer(200)\n"
        "libc.fopen.restype = ctypes.c_void_p\n"
        "def first(path, mode):\n"
        "    libc.fgets(line, 200, ctypes.c_void_p(libc.fopen(path, mode)))\n"
        "    return line.value.decode()\n"
        "print(first(b'/etc/resolv.conf', b're'), first(b'/proc/self/comm', b'r'), end='')\n"
    )
    assert preloaded(worlds, "red", "python3", "-c", code).stdout.split() == ["nameserver", HOST4, "python3"]


def test_servers_of_another_than_the_router_are_told_once(worlds: World) -> None:
    """As to a program that has left for another root directory."""
    code = "import ctypes\nfor _turn in range(2):\n    ctypes.CDLL(None).fopen(b'/etc/resolv.conf', b're')\n"
    done = preloaded(worlds, "nowhere", "python3", "-c", code)
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stderr.splitlines() if "nowhere names no servers here" in line]
    assert len(told) == Path("/etc/resolv.conf").exists()


def test_who_empties_his_environment_stays_in_the_router(worlds: World) -> None:
    code = (
        "import os, socket\n"
        "os.environ.clear()\n"
        "print(socket.socket(socket.AF_INET, socket.SOCK_STREAM).connect_ex(('10.0.0.2', 80)))\n"
    )
    assert preloaded(worlds, "red", "python3", "-c", code).stdout == "0\n"


def test_a_map_that_is_wrong_starts_nothing(worlds: World) -> None:
    done = run(worlds, "true", LD_PRELOAD=str(PRELOAD), RSOCK_MAP="10.0.0.0/33=red")
    assert done.returncode == 127
    assert "10.0.0.0/33=red" in done.stderr


def test_servers_side_by_side(worlds: World, tmp_path: Path) -> None:
    """Python's server, in both routers on one port."""
    servers = []
    for name in WORLDS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "who").write_text(name)
        words = (sys.executable, "-m", "http.server", "-d", str(tmp_path / name), "8091")
        servers.append(serve(worlds, name, *words, stderr=subprocess.DEVNULL))
    for name in WORLDS:
        wait_until(partial(serves, worlds, name, "/who", 8091, name), f"{name} serves")
    for server in servers:
        server.terminate()
        server.wait(5)


def test_sendfile_of_edges(worlds: World) -> None:
    """The fd becomes writable again behind what sendfile(2) has queued."""
    file = Path("/dev/shm") / f"{worlds.prefix}-file"
    file.write_bytes(bytes(8 << 20))
    try:
        sender = serve(worlds, "red", sys.executable, "-c", SENDER % file.name, stdout=subprocess.PIPE, text=True)
        assert sender.stdout is not None
        assert sender.stdout.readline() == "ready\n"
        with worlds.namespaces["red"].entered():
            peer = socket.create_connection((OWN4, 5900), 5)
        with peer:
            peer.settimeout(10)
            seen = 0
            while part := peer.recv(1 << 20):
                seen += len(part)
        assert (sender.stdout.read(), seen) == (f"{8 << 20}\n", 8 << 20)
    finally:
        file.unlink()


def test_nginx(worlds: World) -> None:
    """Workers that have given root up, sendfile, a proxied host, reload."""
    nginx = require_program("nginx")
    place = worlds.directory / "nginx"
    (place / "pages").mkdir(parents=True)
    (place / "pages" / "who").write_text("nginx")
    (place / "pages" / "big").write_bytes(os.urandom(6 << 20))
    (place / "conf").write_text(NGINX.format(place=place, host=HOST4))
    for name in WORLDS[:1]:
        started = serve(
            worlds, name, nginx, "-c", str(place / "conf"), "-e", str(place / "error"), stderr=subprocess.DEVNULL
        )
        wait_until(partial(serves, worlds, name, "/who", 8090, "nginx"), "nginx serves")
        got = worlds.namespaces[name].run("sh", "-c", f"curl -s -m 10 http://{OWN4}:8090/big | cmp - {place}/pages/big")
        assert got.returncode == 0
        (place / "pages" / "who").write_text("again")
        started.send_signal(1)
        wait_until(partial(serves, worlds, name, "/who", 8090, "again"), "nginx serves after a reload")
        started.terminate()
        assert started.wait(5) == 0


def test_a_right_that_is_missing_is_told(worlds: World, installed: Path) -> None:
    library = str(installed / PRELOAD.name)
    python = getattr(sys, "_base_executable", sys.executable)  # this environment may be out of their reach
    code = "import socket\ntry: socket.socket()\nexcept OSError as error: print(error.errno)"
    for uid, told in ((12399, "13\n"), (APP_UID, "")):
        user = ("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups")
        done = preloaded(worlds, "red", *user, python, "-c", code, LD_PRELOAD=library)
        assert (done.returncode, done.stdout) == (0, told)
    packets = "import socket\ntry: socket.socket(17, 3)\nexcept OSError as error: print(error.errno)"
    done = preloaded(worlds, "red", sys.executable, "-c", packets)
    assert done.stdout == "97\n"
    assert "rsock" in done.stderr


INTERFACES: Final = """
import fcntl, socket, struct
print(sorted(name for _index, name in socket.if_nameindex() if name != "lo"))
index = socket.if_nametoindex("lan")
print(socket.if_indextoname(index))
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    name = struct.pack("256s", b"lan")
    flags = struct.unpack_from("=h", fcntl.ioctl(sock, 0x8913, name), 16)[0]
    print(socket.inet_ntoa(fcntl.ioctl(sock, 0x8915, name)[20:24]), flags & 1)
    for request, name in ((0x8915, b"box-only"), (0x890b, b"lan")):
        try:
            fcntl.ioctl(sock, request, struct.pack("256s", name))
        except OSError as error:
            print(error.errno)
"""


def test_interfaces_are_those_of_the_router(worlds: World) -> None:
    worlds.box.ip("link", "add", "box-only", "type", "veth", "peer", "name", "box-other")
    done = preloaded(worlds, "red", sys.executable, "-c", INTERFACES)
    assert done.stdout.splitlines() == ["['lan']", "lan", f"{OWN4} 1", "19", "95"], done.stderr
