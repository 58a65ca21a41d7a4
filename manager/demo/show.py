"""The show of the demo: a process of its own, started by the manager, which tells it when the routers are up.

    hosts serve a page -> the app fetches the same URL in three worlds and prints a table
      -> router green is added, in the ordinary way -> the app moves to it
      -> traffic through red -> the kernel's own forwarding counters -> what to try next

It ends with the manager, and the app with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.server
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import IO, Final

from manager import terminal
from manager.cli.client import LONG, Manager
from manager.cli.errors import CliError
from manager.cli.main import DEFAULT_RUN_DIR
from manager.demo import scene
from manager.kernel import inside
from manager.namespaces import DIRECTORY
from vrouter.api.messages import ManagerOp

ROOT: Final = Path(__file__).resolve().parent.parent.parent
APP: Final = ROOT / "examples" / "three_worlds.py"
GREEN: Final = ROOT / "examples" / "green.yaml"
HTTP_PORT: Final = 80
PORT: Final = 7777  # where hosts answer datagrams
PACKETS: Final = 1000
COMMAND_WIDTH: Final = 40
READERS_PATIENCE: Final = 10.0
PR_SET_PDEATHSIG: Final = 1
PR_SET_NAME: Final = 15


def main(run_dir: Path, manager_pid: int) -> None:
    """Run the show until SIGTERM."""
    _end_with_parent(manager_pid)
    signal.signal(signal.SIGTERM, _raise_exit)
    terminal.take(READERS_PATIENCE)
    hosts = [(host, _listen(run_dir, host)) for host in scene.HOSTS]
    threading.Thread(target=_answer, args=(hosts,), daemon=True).start()
    for server in [_web_server(run_dir, host) for host in scene.HOSTS]:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    if not sys.stdin.readline():
        return
    with _app(run_dir) as lines:
        if _relay_until(lines, "waiting for", "  green ") == "waiting for":
            _add_green(run_dir)
            _relay_until(lines, "  green ")
        _forwarding(run_dir)
        _next_commands(run_dir)
        _relay_until(lines)


def _end_with_parent(manager_pid: int) -> None:
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    libc.prctl(PR_SET_NAME, b"anabranch-demo", 0, 0, 0)
    if os.getppid() != manager_pid:  # it died before we asked
        sys.exit(0)


def _raise_exit(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


# The hosts


def _listen(run_dir: Path, host: scene.Host) -> socket.socket:
    """Open a host's UDP socket in its namespace."""
    fd = os.open(DIRECTORY / scene.host_name(run_dir, host), os.O_RDONLY | os.O_CLOEXEC)
    try:
        with inside(fd):
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            made.bind(("0.0.0.0", PORT))
            return made
    finally:
        os.close(fd)


class _Page(http.server.BaseHTTPRequestHandler):
    """The page of a host: who it is, and where."""

    def do_GET(self) -> None:
        """Answer with the page."""
        assert isinstance(self.server, _HostServer)
        page = f"{self.server.host.who}, {self.server.host.where}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the library's
        """Keep the screen for the app."""


class _HostServer(http.server.HTTPServer):
    """The web server of one host, in the namespace of the thread that makes it."""

    def __init__(self, host: scene.Host) -> None:
        self.host = host
        super().__init__(("0.0.0.0", HTTP_PORT), _Page)

    def server_bind(self) -> None:
        """Bind without asking for the name of our address: there is nobody to ask."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)


def _web_server(run_dir: Path, host: scene.Host) -> _HostServer:
    """Open a host's web server in its namespace."""
    fd = os.open(DIRECTORY / scene.host_name(run_dir, host), os.O_RDONLY | os.O_CLOEXEC)
    try:
        with inside(fd):
            return _HostServer(host)
    finally:
        os.close(fd)


def _answer(hosts: list[tuple[scene.Host, socket.socket]]) -> None:
    """Be all hosts: tell who asks who we are."""
    with selectors.DefaultSelector() as selector:
        for pair in hosts:
            selector.register(pair[1], selectors.EVENT_READ, pair)
        while True:
            for key, _events in selector.select():
                host, listener = key.data
                with contextlib.suppress(OSError):  # an error of an earlier answer
                    _question, asker = listener.recvfrom(2048)
                    listener.sendto(f"{host.who}, {host.where}".encode(), asker)


# The app


@contextlib.contextmanager
def _app(run_dir: Path) -> Iterator[IO[str]]:
    """Run the app as nobody; give the lines that it prints."""
    environment = os.environ | {"ANABRANCH_RUN_DIR": str(run_dir), "PYTHONUNBUFFERED": "1"}
    # It starts as root only to find this tree, which nobody may be unable to read.
    command = [sys.executable, "-P", str(APP), "--as", "nobody"]
    app = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=environment, cwd="/"
    )
    assert app.stdout is not None
    try:
        yield app.stdout
    finally:
        app.terminate()
        app.wait()


def _relay_until(lines: IO[str], *marks: str) -> str:
    """Print what the app prints, up to a line with one of the marks; give that mark."""
    for line in lines:
        print(line, end="", flush=True)
        for mark in marks:
            if mark in line:
                return mark
    print("demo: the app has ended; see above", file=sys.stderr)
    while True:  # the rest of the demo stays to be looked at
        signal.pause()


# What the operator does


def _add_green(run_dir: Path) -> None:
    """Add a router while everything runs: one more file, and what `vr apply` asks."""
    target = scene.addition(run_dir)
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(GREEN, target)
    try:
        with Manager(run_dir) as manager:
            manager.call(ManagerOp.APPLY, LONG)
    except CliError as error:
        print(f"demo: green could not be added: {error.message}", file=sys.stderr)


def _forwarding(run_dir: Path) -> None:
    """Send packets through red, and tell who has forwarded them."""
    alice, erin = scene.HOSTS[0], scene.HOSTS[1]
    fd = os.open(DIRECTORY / scene.host_name(run_dir, alice), os.O_RDONLY | os.O_CLOEXEC)
    try:
        with inside(fd):
            asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    finally:
        os.close(fd)
    target = (erin.address.partition("/")[0], PORT)
    answers = 0
    with asker:
        asker.settimeout(0.5)
        for _ in range(PACKETS):
            with contextlib.suppress(OSError):
                asker.sendto(b"who are you?", target)
                answers += bool(asker.recv(2048))
    print(f"\nalice asked erin, at the far side of red, {PACKETS} times and got {answers} answers.", flush=True)
    counted = {name: _forwarded_by_kernel(name) for name in _namespaces(run_dir)}
    print(f"Forwarded by the kernel (IpForwDatagrams + Ip6OutForwDatagrams) in all {len(counted)} namespaces:", end=" ")
    print(sum(counted.values()), flush=True)


def _namespaces(run_dir: Path) -> list[str]:
    suffix = scene.name(run_dir).rpartition("-")[2]
    return sorted(path.name for path in DIRECTORY.glob(f"anabranch-*-{suffix}"))


def _forwarded_by_kernel(name: str) -> int:
    fd = os.open(DIRECTORY / name, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with inside(fd):
            # thread-self: net/ shows the namespace of the thread that opens it.
            net = Path("/proc/thread-self/net")
            header, values = [
                line.split() for line in (net / "snmp").read_text().splitlines() if line.startswith("Ip:")
            ]
            total = int(values[header.index("ForwDatagrams")])
            if (net / "snmp6").exists():
                words = dict(line.split() for line in (net / "snmp6").read_text().splitlines())
                total += int(words.get("Ip6OutForwDatagrams", 0))
            return total
    finally:
        os.close(fd)


def _forwarder_of(run_dir: Path, router: str) -> int | str:
    try:
        with Manager(run_dir) as manager:
            routers = manager.call(ManagerOp.ROUTERS)
    except CliError:
        return "PID"
    return next((one["pids"]["forwarder"] for one in routers if one["name"] == router), "PID")


def _next_commands(run_dir: Path) -> None:
    where = Path(sys.executable).parent
    vr = str(where / "vr")
    if where.is_relative_to(ROOT):
        vr = str((where / "vr").relative_to(ROOT))
    first = f"cd {ROOT}"
    if run_dir != Path(DEFAULT_RUN_DIR):
        first += f"; export ANABRANCH_RUN_DIR={run_dir}"
    alice = scene.host_name(run_dir, scene.HOSTS[0])
    ping = f"ip netns exec {alice} ping -c 3 192.0.2.2" if shutil.which("ping") else f"{vr} ping red 192.0.2.2 -c 3"
    commands = (
        (f"{vr} show routers", "the routers and their processes"),
        (f"{vr} show interfaces red", "counters: alice's packets were forwarded"),
        (f"{vr} show sockets red", "the app's, and the TCP connections it just closed"),
        (f"{vr} ping blue 10.0.0.2 -c 3", "bob, not alice"),
        (f"{vr} show bgp summary red", "red's session with the router isp, watched by BFD"),
        (f"{vr} explain route red 203.0.113.1", "why red sends packets for it to isp"),
        (ping, "from alice to erin, through red"),
        (f"{vr} trace red -n 2", "the life of two packets, stage by stage"),
        (f"kill -9 {_forwarder_of(run_dir, 'red')}", "red's forwarder: nothing is lost, it comes back"),
        (f"$EDITOR conf/vr/red.yaml; {vr} plan; {vr} apply", "change it while it runs"),
    )
    print(f"\nTry in another terminal (as root):\n\n  {first}")
    for command, why in commands:
        print(f"  {command:{COMMAND_WIDTH}}  # {why}")
    print("\nCtrl-C ends it and leaves nothing behind.", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
