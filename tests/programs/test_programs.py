"""Unmodified programs in two routers with the same addresses at once, preloaded and by seccomp alone.

Each starts in both, serves or makes load, is started again on the same port, and leaves no socket behind.  What is
not installed is skipped; `make test-programs` installs what Debian has.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from exec_worlds import HOST4, HOST6, OWN4, WORLDS, World, check_nothing_left, exec_worlds, execute
from lab import wait_until

from tests.conftest import require_program

pytestmark = [pytest.mark.root, pytest.mark.slow]

BIG: Final = 16 << 20
BOTH: Final = ("preload", "seccomp")


@pytest.fixture(scope="module")
def worlds() -> Iterator[World]:
    with exec_worlds() as lab:
        for name in WORLDS:
            (lab.run_dir / "vr" / f"{name}.resolv.conf").write_text(f"nameserver {HOST4}\n")
        yield lab


@pytest.fixture(params=BOTH)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def nothing_left(worlds: World) -> Iterator[None]:
    yield
    check_nothing_left(worlds)


class Programs:
    """Programs in both routers, started and ended together."""

    def __init__(self, worlds: World, mode: str) -> None:
        self._worlds, self._mode = worlds, mode
        self._running: list[subprocess.Popen[Any]] = []

    def start(self, name: str, *words: str, **options: Any) -> subprocess.Popen[Any]:
        """Start a server in a router."""
        options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | options
        command = self._worlds.command(*words, where=("--vr", name), mode=self._mode)
        started = self._worlds.helper(command, **options)
        self._running.append(started)
        return started

    def run(self, name: str, *words: str, timeout: float = 30) -> str:
        """Run a client in a router; it must succeed."""
        done = execute(self._worlds.command(*words, where=("--vr", name), mode=self._mode), timeout)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def end(self) -> None:
        """End what runs, as an operator would."""
        for process in self._running:
            process.send_signal(signal.SIGTERM)
        for process in self._running:
            try:
                process.wait(10)
            finally:
                process.kill()
        self._running.clear()


@pytest.fixture
def programs(worlds: World, mode: str) -> Iterator[Programs]:
    made = Programs(worlds, mode)
    try:
        yield made
    finally:
        made.end()


def behind(worlds: World, name: str, *words: str, timeout: float = 30) -> str:
    """Run a program of the host behind a router; "" where it fails."""
    done = worlds.namespaces[name].run(*words, check=False, timeout=timeout)
    return done.stdout if done.returncode == 0 else ""


def comes(true: Callable[[], Any], what: str) -> None:
    """Wait until a server that has just been started serves."""
    wait_until(true, what, 15, 0.1)


def serves_twice(programs: Programs, start: Callable[[str], object], works: Callable[[str], Any]) -> None:
    """Start in both routers, see that both work, and do it again on the same ports."""
    for _round in range(2):
        for name in WORLDS:
            start(name)
        for name in WORLDS:
            comes(partial(works, name), f"it works in {name}")
        programs.end()


# --- clients ---


@pytest.mark.parametrize(
    "program", [("curl", "-s", "-m", "5"), ("wget", "-q", "-T", "5", "-O-"), ("busybox", "wget", "-qO-")]
)
def test_clients(programs: Programs, program: tuple[str, ...]) -> None:
    require_program(program[0])
    for name in WORLDS:
        assert programs.run(name, *program, f"http://{HOST4}/four").startswith(f"{name} /four ")
        assert programs.run(name, *program, "http://www.example.net/name").startswith(f"{name} /name ")
    if program[0] != "busybox":
        assert programs.run("blue", *program, f"http://[{HOST6}]/six").startswith("blue /six ")


def test_dig(programs: Programs) -> None:
    require_program("dig")
    for name in WORLDS:
        assert (
            programs.run(name, "dig", "+short", "+time=3", "+tries=1", f"@{HOST4}", "www.example.net") == f"{HOST4}\n"
        )
        refused = programs.run(name, "sh", "-c", f"dig +tcp +tries=1 +time=1 @{HOST4} x || true")
        assert "refused" in refused  # no server there


def test_ping(programs: Programs) -> None:
    for name in WORLDS:
        for address in (HOST4, HOST6):
            assert " 3 received" in programs.run(name, "ping", "-n", "-c", "3", "-i", "0.1", address)


# --- servers ---


def test_iperf3(worlds: World, programs: Programs) -> None:
    require_program("iperf3")

    # Between two tests it closes its listener and listens anew: who comes meanwhile is refused, and who has come
    # just before is reset, by any kernel.
    away = ("unable to connect to server:", "unable to receive control message: Connection reset")

    def transfers(name: str, *words: str) -> bool:
        told = json.loads(
            worlds.namespaces[name].run("iperf3", "-c", OWN4, "-t", "1", "-J", *words, check=False).stdout
        )
        if told.get("error", "").startswith(away):
            return False
        assert "error" not in told, (words, told["error"])
        assert told["end"]["sum" if "-u" in words else "sum_received"]["bytes"] > 1 << 20
        return True

    def works(name: str) -> bool:
        for words in ((), ("-R",), ("-P", "4"), ("-u", "-b", "50M"), ("-u", "-b", "50M", "-R")):
            comes(partial(transfers, name, *words), f"it listens in {name} for {words}")
        return True

    serves_twice(programs, lambda name: programs.start(name, "iperf3", "-s"), works)
    servers = [
        worlds.helper(worlds.namespaces[name].command("iperf3", "-s", "-1"), stdout=subprocess.DEVNULL)
        for name in WORLDS
    ]
    for name in WORLDS:
        comes(partial(behind, worlds, name, "ss", "-Hltn", "sport", "=", ":5201"), "the host listens")
        assert (
            json.loads(programs.run(name, "iperf3", "-c", HOST4, "-t", "1", "-J"))["end"]["sum_sent"]["bytes"] > 1 << 20
        )
    for server in servers:
        server.wait(5)


NGINX: Final = """
daemon off; user root; worker_processes 2; pid {place}/pid; error_log {place}/error info;
events {{ worker_connections 512; }}
http {{
    sendfile on; tcp_nopush on; access_log off; client_body_temp_path {place}/body; proxy_temp_path {place}/proxy;
    fastcgi_temp_path {place}/fastcgi; uwsgi_temp_path {place}/uwsgi; scgi_temp_path {place}/scgi;
    server {{ listen 80; listen [::]:80; root {place}/pages; location /behind/ {{ proxy_pass http://{host}/; }} }}
}}
"""


def test_nginx(worlds: World, programs: Programs, mode: str) -> None:
    nginx = require_program("nginx")
    started = {}

    def start(name: str) -> None:
        place = worlds.directory / f"nginx-{mode}-{name}"
        (place / "pages").mkdir(parents=True, exist_ok=True)
        (place / "pages" / "who").write_text(name)
        (place / "pages" / "big").write_bytes(os.urandom(BIG))
        (place / "conf").write_text(NGINX.format(place=place, host=HOST4))
        started[name] = programs.start(name, nginx, "-c", str(place / "conf"), "-e", str(place / "error"))

    def works(name: str) -> bool:
        place = worlds.directory / f"nginx-{mode}-{name}"
        if behind(worlds, name, "curl", "-s", "-m", "5", f"http://{OWN4}/who") != name:
            return False
        assert behind(worlds, name, "curl", "-s", "-m", "5", "http://[2001:db8::1]/who") == name
        assert behind(worlds, name, "curl", "-s", "-m", "5", f"http://{OWN4}/behind/x").startswith(f"{name} /x ")
        same = worlds.namespaces[name].run(
            "sh",
            "-c",
            f"for i in 1 2 3; do curl -s -m 20 http://{OWN4}/big | cmp - {place}/pages/big || exit 1; done",
            check=False,
        )
        assert same.returncode == 0
        (place / "pages" / "who").write_text("reloaded")
        os.kill(int((place / "pid").read_text()), signal.SIGHUP)
        comes(
            lambda: behind(worlds, name, "curl", "-s", "-m", "5", f"http://{OWN4}/who") == "reloaded", "it is reloaded"
        )
        return True

    serves_twice(programs, start, works)


def pongs(worlds: World, name: str) -> bool:
    """Tell whether the host's redis serves."""
    return behind(worlds, name, "redis-cli", "ping") == "PONG\n"


def test_redis(worlds: World, programs: Programs) -> None:
    require_program("redis-server")

    def works(name: str) -> bool:
        if behind(worlds, name, "redis-cli", "-h", OWN4, "set", "who", name) != "OK\n":
            return False
        told = behind(
            worlds, name, "redis-benchmark", "-h", OWN4, "-n", "20000", "-c", "50", "-P", "4", "-t", "get,set", "--csv"
        )
        assert told.count("\n") == 3
        return programs.run(name, "redis-cli", "-h", OWN4, "get", "who") == f"{name}\n"

    def start(name: str) -> None:
        programs.start(name, "redis-server", "--bind", OWN4, "--save", "", "--protected-mode", "no", "--dir", "/tmp")

    serves_twice(programs, start, works)
    for name in WORLDS:
        redis = worlds.helper(
            worlds.namespaces[name].command("redis-server", "--save", "", "--protected-mode", "no", "--dir", "/tmp"),
            stdout=subprocess.DEVNULL,
        )
        comes(partial(pongs, worlds, name), "the host's redis serves")
        told = programs.run(name, "redis-benchmark", "-h", HOST4, "-n", "20000", "-c", "50", "-t", "get", "--csv")
        assert told.count("\n") == 2
        redis.terminate()
        redis.wait(5)


def test_ssh(worlds: World, programs: Programs, mode: str) -> None:
    sshd = require_program("sshd")
    place = worlds.directory / f"ssh-{mode}"
    place.mkdir(mode=0o700)
    Path("/run/sshd").mkdir(exist_ok=True)
    for key in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(place / key)], check=True)
    options = [
        f"-oAuthorizedKeysFile={place}/user.pub", "-oStrictModes=no", "-oPidFile=none", "-oPermitRootLogin=yes",
        "-oUsePAM=no",
    ]  # fmt: skip
    client = [
        "ssh", "-q", "-i", str(place / "user"), "-oStrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null",
        "-oBatchMode=yes", "-oConnectTimeout=5",
    ]  # fmt: skip

    def start(name: str) -> None:
        programs.start(
            name, sshd, "-D", "-f", "/dev/null", "-h", str(place / "host"), *options, f"-oSetEnv=WHERE={name}"
        )

    def works(name: str) -> bool:
        told = behind(worlds, name, *client, f"root@{OWN4}", "echo $WHERE $SSH_CONNECTION")
        if not told:
            return False
        assert told.split()[:2] == [name, HOST4]
        assert told.split()[3:] == [OWN4, "22"]
        return len(behind(worlds, name, *client, f"root@{OWN4}", f"head -c {BIG} /dev/zero | tr '\\0' x")) == BIG

    serves_twice(programs, start, works)
    for name in WORLDS:
        server = worlds.helper(
            worlds.namespaces[name].command(sshd, "-D", "-f", "/dev/null", "-h", str(place / "host"), *options),
            stderr=subprocess.DEVNULL,
        )
        comes(partial(behind, worlds, name, "ss", "-Hltn", "sport", "=", ":22"), "the host's sshd listens")
        assert programs.run(name, *client, f"root@{HOST4}", "echo $SSH_CONNECTION").split()[0] == OWN4
        server.terminate()
        server.wait(5)


def test_python_http_server(worlds: World, programs: Programs, tmp_path: Path) -> None:
    for name in WORLDS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "who").write_text(name)

    def start(name: str) -> None:
        programs.start(name, sys.executable, "-m", "http.server", "-d", str(tmp_path / name), "8000")

    serves_twice(
        programs, start, lambda name: behind(worlds, name, "curl", "-s", "-m", "5", f"http://{OWN4}:8000/who") == name
    )


def test_datagrams_without_names(worlds: World, programs: Programs) -> None:
    """What reads them does not ask for their sender."""
    echo = (
        f"import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('{OWN4}', 7000));"
        "print(s.recv(100).decode(), flush=True)"
    )
    for name in WORLDS:
        reader = programs.start(name, sys.executable, "-c", echo, stdout=subprocess.PIPE, text=True)
        send = (
            "import socket, time; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
            f"for _ in range(20): s.sendto(b'to {name}', ('{OWN4}', 7000)); time.sleep(0.05)"
        )
        behind(worlds, name, sys.executable, "-c", send)
        assert reader.communicate(timeout=10)[0] == f"to {name}\n"


def test_gunicorn(worlds: World, programs: Programs, tmp_path: Path) -> None:
    gunicorn = require_program("gunicorn")
    (tmp_path / "app.py").write_text(
        "import os\ndef app(env, start):\n    start('200 OK', [])\n"
        "    return [(env['REMOTE_ADDR'] + os.environ['WHERE']).encode()]\n"
    )

    def start(name: str) -> None:
        programs.start(
            name,
            "env",
            f"WHERE={name}",
            gunicorn,
            "-w",
            "3",
            "--threads",
            "2",
            "--chdir",
            str(tmp_path),
            "-b",
            f"{OWN4}:8800",
            "app:app",
        )

    def works(name: str) -> bool:
        return all(
            behind(worlds, name, "curl", "-s", "-m", "5", f"http://{OWN4}:8800/") == HOST4 + name for _ in range(5)
        )

    serves_twice(programs, start, works)


# --- routing daemons ---

BIRD: Final = """
log stderr all; router id {own}; protocol device {{}}
protocol static {{ ipv4; route {net} blackhole; }}
protocol bgp peer {{
    local {own} as {asn}; neighbor {peer} as {peer_asn}; {multihop} connect retry time 1; error wait time 1, 2;
    ipv4 {{ import all; export all; }};
}}
"""
BGPD: Final = """
router bgp 65001
 bgp router-id {own}
 no bgp ebgp-requires-policy
 no bgp network import-check
 timers connect 1
 neighbor {peer} remote-as 65002
 neighbor {peer} ebgp-multihop
 neighbor {peer} disable-connected-check
 address-family ipv4 unicast
  network 203.0.113.0/24
"""


def bird_of_host(worlds: World, name: str, place: Path) -> subprocess.Popen[Any]:
    """Start BIRD on the host behind a router."""
    conf = place / f"host-{name}.conf"
    conf.write_text(BIRD.format(own=HOST4, peer=OWN4, asn=65002, peer_asn=65001, net="198.51.100.0/24", multihop=""))
    command = [require_program("bird"), "-f", "-c", str(conf), "-s", str(place / f"host-{name}.ctl")]
    return worlds.helper(worlds.namespaces[name].command(*command), stderr=subprocess.DEVNULL)


def learned(place: Path, control: str) -> str:
    """Give the routes of a BIRD."""
    return subprocess.run(
        ["birdc", "-s", str(place / control), "show", "route"], capture_output=True, text=True, check=False
    ).stdout


@pytest.mark.parametrize("daemon", ["bird", "bgpd"])
def test_bgp(worlds: World, programs: Programs, daemon: str) -> None:
    require_program("bird")
    bgpd = "/usr/lib/frr/bgpd"
    if daemon == "bgpd" and not Path(bgpd).exists():
        pytest.skip("FRR is not installed")
    place = worlds.directory / f"bgp-{time.monotonic_ns()}"
    place.mkdir(mode=0o777)
    (place / "bird.conf").write_text(
        BIRD.format(own=OWN4, peer=HOST4, asn=65001, peer_asn=65002, net="203.0.113.0/24", multihop="multihop;")
    )
    (place / "bgpd.conf").write_text(BGPD.format(own=OWN4, peer=HOST4))
    hosts = [bird_of_host(worlds, name, place) for name in WORLDS]

    def start(name: str) -> None:
        (place / name).mkdir(exist_ok=True)
        if daemon == "bird":
            programs.start(name, "bird", "-f", "-c", str(place / "bird.conf"), "-s", str(place / f"{name}.ctl"))
        else:
            programs.start(
                name, bgpd, "-Z", "-n", "-S", "-u", "root", "-g", "root", "-f", str(place / "bgpd.conf"),
                "-i", str(place / name / "pid"), "--vty_socket", str(place / name), "-A", "127.0.0.1", "-P", "0",
            )  # fmt: skip

    def works(name: str) -> bool:
        return "203.0.113.0/24" in learned(place, f"host-{name}.ctl") and (
            daemon != "bird" or "198.51.100.0/24" in learned(place, f"{name}.ctl")
        )

    try:
        serves_twice(programs, start, works)
    finally:
        for host in hosts:
            host.terminate()
            host.wait(5)
