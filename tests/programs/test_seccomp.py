"""Well-known programs, unmodified, by seccomp alone, in two routers with the same addresses at once.

Each program starts, serves, restarts where it can, and leaves nothing.  `make test-programs` runs this.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from exec_worlds import HOST4, OWN4, WORLDS, World, check_nothing_left, exec_worlds, execute
from lab import wait_until

from tests.conftest import require_program

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.root, pytest.mark.slow]

SECCOMP: Final = "seccomp"
BIG: Final = 3_000_000


@pytest.fixture(scope="module")
def worlds() -> Iterator[World]:
    with exec_worlds() as lab:
        yield lab
        check_nothing_left(lab)


def serve(worlds: World, name: str, *words: str) -> subprocess.Popen[Any]:
    """Start a program in a router."""
    log = worlds.directory / f"{name}-{Path(words[0]).name}.log"
    with log.open("ab") as output:
        command = worlds.command(*words, where=("--vr", name), mode=SECCOMP)
        return worlds.helper(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)


def end(process: subprocess.Popen[Any], number: int = signal.SIGTERM) -> None:
    """End a program; it must end soon."""
    process.send_signal(number)
    process.wait(10)


def on_host(worlds: World, name: str, *words: str) -> str:
    """Run a program on a router's host."""
    done = execute(worlds.namespaces[name].command(*words))
    assert done.returncode == 0, done.stderr
    return done.stdout


def listens(worlds: World, name: str, port: int) -> bool:
    """Tell whether something in a router accepts connections."""
    probe = f"import socket; socket.create_connection(('{OWN4}', {port}), 1)"
    return execute(worlds.namespaces[name].command(sys.executable, "-c", probe)).returncode == 0


def wait_listening(worlds: World, port: int) -> None:
    """Wait until both routers have somebody there."""
    for name in WORLDS:
        wait_until(lambda where=name: listens(worlds, where, port), f"{name} serves port {port}")  # type: ignore[misc]


@pytest.mark.parametrize("client", ["curl -sS", "wget -qO-", "busybox wget -qO-"])
def test_web_clients(worlds: World, client: str) -> None:
    words = client.split()
    require_program(words[0])
    for name in WORLDS:
        done = worlds.execute(*words, f"http://{HOST4}/page", where=("--vr", name), mode=SECCOMP)
        assert done.stdout == f"{name} /page ::ffff:{OWN4}\n", done.stderr


def test_dig_and_ping(worlds: World) -> None:
    require_program("dig")
    for name in WORLDS:
        where = ("--vr", name)
        done = worlds.execute("dig", "+short", "+tries=1", f"@{HOST4}", "www.example", where=where, mode=SECCOMP)
        assert done.stdout == f"{HOST4}\n"
        done = worlds.execute(
            "dig", "+short", "+tcp", "+tries=1", "+time=1", f"@{HOST4}", "x", where=where, mode=SECCOMP
        )
        assert "refused" in done.stdout  # no server there
        done = worlds.execute("ping", "-c", "2", "-i", "0.2", HOST4, where=where, mode=SECCOMP)
        assert " 0% packet loss" in done.stdout


NGINX: Final = """
daemon off; worker_processes 2; pid {place}/pid; error_log {place}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log off; sendfile on;
    client_body_temp_path {place}/a; proxy_temp_path {place}/b; fastcgi_temp_path {place}/c;
    uwsgi_temp_path {place}/d; scgi_temp_path {place}/e;
    server {{
        listen 10.0.0.1:8080; listen [::]:8080; root {place}/files;
        location /who {{ return 200 "{name} {turn} $remote_addr $server_addr\\n"; }}
    }}
}}
"""


def test_nginx(worlds: World) -> None:
    """Workers, sendfile, reload and restart."""
    nginx = require_program("nginx")
    contents = {name: os.urandom(BIG) for name in WORLDS}
    places = {name: worlds.directory / f"nginx-{name}" for name in WORLDS}
    for name, place in places.items():
        (place / "files").mkdir(parents=True)
        (place / "files" / "big").write_bytes(contents[name])
        (place / "conf").write_text(NGINX.format(place=place, name=name, turn=1))
    for _start in range(2):
        started = [serve(worlds, name, nginx, "-c", str(place / "conf")) for name, place in places.items()]
        wait_listening(worlds, 8080)
        for name in WORLDS:
            get = "import sys, urllib.request; sys.stdout.write(urllib.request.urlopen(sys.argv[1]).read().hex())"
            page = on_host(worlds, name, sys.executable, "-c", get, f"http://{OWN4}:8080/big")
            assert hashlib.sha256(bytes.fromhex(page)).digest() == hashlib.sha256(contents[name]).digest()
            page = on_host(worlds, name, sys.executable, "-c", get, "http://[2001:db8::1]:8080/who")
            assert bytes.fromhex(page).decode().split()[::2] == [name, "2001:db8::2"]
        (places["red"] / "conf").write_text(NGINX.format(place=places["red"], name="red", turn=2))
        started[0].send_signal(signal.SIGHUP)
        get = f"import urllib.request; print(urllib.request.urlopen('http://{OWN4}:8080/who').read().decode())"
        wait_until(lambda code=get: "red 2" in on_host(worlds, "red", sys.executable, "-c", code), "red is reloaded")  # type: ignore[misc]
        for process in started:
            end(process, signal.SIGQUIT)


def test_redis(worlds: World) -> None:
    server = require_program("redis-server")
    words = (server, "--bind", OWN4, "--port", "6379", "--save", "", "--appendonly", "no", "--protected-mode", "no")
    for _start in range(2):
        started = [serve(worlds, name, *words) for name in WORLDS]
        wait_listening(worlds, 6379)
        for name in WORLDS:
            assert on_host(worlds, name, "redis-cli", "-h", OWN4, "set", "who", name) == "OK\n"
        for name in WORLDS:
            assert on_host(worlds, name, "redis-cli", "-h", OWN4, "get", "who") == f"{name}\n"
            load = ("redis-benchmark", "-h", OWN4, "-q", "-n", "5000", "-c", "50", "-t", "set,get")
            assert on_host(worlds, name, *load).count("requests per second") >= 2
            done = worlds.execute(*load, where=("--vr", name), mode=SECCOMP)
            assert done.stdout.count("requests per second") >= 2, done.stderr
        for process in started:
            end(process)


@pytest.mark.parametrize("options", [(), ("-u", "-b", "20M"), ("-R",)])
def test_iperf3(worlds: World, options: tuple[str, ...]) -> None:
    iperf = require_program("iperf3")
    started = [serve(worlds, name, iperf, "-s", "-B", OWN4) for name in WORLDS]
    wait_listening(worlds, 5201)
    for name in WORLDS:
        output = on_host(worlds, name, iperf, "-c", OWN4, "-t", "1", *options)
        found = re.search(r"([\d.]+) (\w)bits/sec.*receiver", output)
        assert found is not None, output
        assert float(found[1]) > 0
    for process in started:
        end(process)


def test_ssh(worlds: World) -> None:
    """The server forks, gives root up and executes itself anew."""
    sshd = require_program("sshd")
    place = worlds.directory / "ssh"
    place.mkdir()
    Path("/run/sshd").mkdir(exist_ok=True)
    for key in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(place / key)], check=True)
    options = {
        "Port": 2222, "ListenAddress": OWN4, "HostKey": place / "host", "AuthorizedKeysFile": place / "user.pub",
        "StrictModes": "no", "PermitRootLogin": "yes", "PidFile": "none", "UsePAM": "no",
    }  # fmt: skip
    (place / "sshd").write_text("".join(f"{key} {value}\n" for key, value in options.items()))
    client = (
        "ssh", "-i", str(place / "user"), "-p", "2222", "-o", "StrictHostKeyChecking=no", "-o", "BatchMode=yes",
        "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", f"root@{OWN4}", "echo $SSH_CONNECTION",
    )  # fmt: skip
    started = [serve(worlds, name, sshd, "-D", "-e", "-f", str(place / "sshd")) for name in WORLDS]
    wait_listening(worlds, 2222)
    for name in WORLDS:
        assert on_host(worlds, name, *client).split()[::2] == [HOST4, OWN4]
        done = worlds.execute(*client, where=("--vr", name), mode=SECCOMP)
        assert done.stdout.split()[::2] == [OWN4, OWN4], done.stderr
    for process in started:
        end(process)


def test_python_servers(worlds: World) -> None:
    """http.server, and datagrams that are read without their sender's address."""
    echo = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('10.0.0.1', 7000));"
        "print(s.recv(100).decode(), flush=True)"
    )
    started = [serve(worlds, name, sys.executable, "-m", "http.server", "8000", "--bind", OWN4) for name in WORLDS]
    wait_listening(worlds, 8000)
    for name in WORLDS:
        get = f"import urllib.request; print(urllib.request.urlopen('http://{OWN4}:8000/').status)"
        assert on_host(worlds, name, sys.executable, "-c", get) == "200\n"
        command = worlds.command(sys.executable, "-c", echo, where=("--vr", name), mode=SECCOMP)
        process = worlds.helper(command, stdout=subprocess.PIPE, text=True)
        send = (
            "import socket, time; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
            f"for _ in range(20): s.sendto(b'to {name}', ('{OWN4}', 7000)); time.sleep(0.05)"
        )
        on_host(worlds, name, sys.executable, "-c", send)
        assert process.communicate(timeout=10)[0] == f"to {name}\n"
    for process in started:
        end(process, signal.SIGINT)
