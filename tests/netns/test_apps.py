"""One unprivileged app with sockets in several VRs and in the kernel at once."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from lab import Lab, Namespace, lan_router, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root

APP: Final = Path(__file__).with_name("app_worlds.py")
APP_UID, OTHER_UID, MONITOR_GID = 12345, 12346, 12400
PORT: Final = 7007
RESPONDER: Final = """
import socket, sys
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.bind(("::", int(sys.argv[2])))
print("ready", flush=True)
while True:
    data, peer = s.recvfrom(65536)
    s.sendto(sys.argv[1].encode() + b":" + data, peer)
"""


class App:
    """A running app; calls raise AssertionError where the app's call failed."""

    def __init__(self, lab: Lab, uid: int = APP_UID, groups: tuple[int, ...] = ()) -> None:
        words = ("env", f"ANABRANCH_RUN_DIR={lab.run_dir}", sys.executable, "-P", str(APP), str(uid), *map(str, groups))
        self._process = lab.helper(lab.box.command(*words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._read()["uid"] == uid

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def attempt(self, *words: object) -> dict[str, Any]:
        """Have a call made, whatever comes of it."""
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(map(str, words)) + "\n")
        self._process.stdin.flush()
        return self._read()

    def __call__(self, *words: object) -> dict[str, Any]:
        """Have a call made that must succeed."""
        answer = self.attempt(*words)
        assert answer["ok"], (words, answer)
        return answer


def respond(lab: Lab, namespace: Namespace, text: str, port: int = PORT) -> None:
    """Start a UDP responder that says who it is."""
    lab.started(namespace.command(sys.executable, "-c", RESPONDER, text, str(port)))


def router(name: str, *rules: dict[str, Any]) -> dict[str, Any]:
    """Describe a VR with the addresses that all of them have."""
    return lan_router(name, *rules, addresses=["10.0.0.1/24", "2001:db8::1/64"])


def reaches(lab: Lab, name: str, address: str) -> bool:
    """Tell whether a VR gets an answer from an address."""
    return lab.vr_run("ping", name, address, "-c", "1").returncode == 0


ALL: Final = {"app": f"uid:{APP_UID}", "allow": "all"}


@pytest.fixture(scope="module")
def worlds() -> Iterator[Lab]:
    """Red and blue with a host each, the same addresses everywhere, and a third host behind the kernel."""
    with Lab() as lab:
        for name in ("red", "blue", "kernel"):
            host = lab.host(name, f"{name}-lan", "10.0.0.2/24")
            host.address("eth0", "2001:db8::2/64")
            respond(lab, host, name)
        lab.box.address("kernel-lan", "10.0.0.1/24")
        lab.configure({
            "red": router("red", ALL),
            "blue": router("blue", {"app": f"gid:{MONITOR_GID}", "allow": ["udp"], "ports": ["1024-65535"]}, ALL),
        })  # fmt: skip
        lab.start()
        for name in ("red", "blue"):  # duplicate address detection takes a second or two
            wait_until(partial(reaches, lab, name, "2001:db8::2"), "IPv6 is usable")
        yield lab


@pytest.fixture
def app(worlds: Lab) -> App:
    return App(worlds)


def text(answer: dict[str, Any]) -> str:
    """Give what was received as text."""
    return bytes.fromhex(answer["hex"]).decode()


def test_three_worlds_answer_differently(app: App) -> None:
    """The same address and port, asked through red, blue and the kernel, from one process."""
    for world, vr in (("red", "red"), ("blue", "blue"), ("kernel", "-")):
        app("open", world, vr, "udp")
        answer = app("ask", world, "who", "10.0.0.2", PORT)
        assert text(answer) == f"{world}:who"
        assert answer["from"] == ["10.0.0.2", PORT]


def test_one_selector_for_all_worlds(app: App) -> None:
    names = []
    for world, vr in (("red", "red"), ("blue", "blue"), ("kernel", "-")):
        app("open", world, vr, "udp")
        app("bind", world, "10.0.0.1", 0)
        names.append(world)
    app("send", "blue", "x", "10.0.0.2", PORT)
    assert app("select", *names)["ready"] == ["blue"]
    assert text(app("recv", "blue")) == "blue:x"
    app("send", "kernel", "x", "10.0.0.2", PORT)
    assert app("select", *names)["ready"] == ["kernel"]


def test_asyncio_in_all_worlds_at_once(app: App) -> None:
    names = []
    for world, vr in (("red", "red"), ("blue", "blue"), ("kernel", "-")):
        app("open", world, vr, "udp")
        names.append(world)
    answers = app("gather", "loop", "10.0.0.2", PORT, *names)["answers"]
    assert answers == {world: f"{world}:loop" for world in names}


def test_connected_and_ipv6(app: App) -> None:
    app("open", "a", "red", "udp")
    app("connect", "a", "10.0.0.2", PORT)
    assert text(app("ask", "a", "bare")) == "red:bare"
    app("open", "b", "blue", "udp6")
    assert text(app("ask", "b", "six", "2001:db8::2", PORT)) == "blue:six"


def test_a_closed_port_refuses_a_connected_socket(app: App) -> None:
    app("open", "a", "red", "udp")
    app("connect", "a", "10.0.0.2", PORT + 1)
    assert app.attempt("ask", "a", "x")["errno"] == errno.ECONNREFUSED


def test_echo_and_raw(app: App, worlds: Lab) -> None:
    app("open", "e", "red", "echo")
    assert bytes.fromhex(app("ask", "e", "ping", "10.0.0.2", 0)["hex"])[8:] == b"ping"
    app("open", "s", "blue", "echo6")
    assert bytes.fromhex(app("ask", "s", "ping", "2001:db8::2", 0)["hex"])[8:] == b"ping"
    app("open", "r", "red", "raw")
    with worlds.namespaces["red"].socket(2, 3, 253) as raw:
        raw.settimeout(20)
        app("send", "r", "hello", "10.0.0.2", 0)
        data, peer = raw.recvfrom(100)
        assert (data[20:], peer[0]) == (b"hello", "10.0.0.1")
        raw.sendto(b"back", ("10.0.0.1", 0))
        assert bytes.fromhex(app("recv", "r")["hex"])[20:] == b"back"


def test_default_is_to_deny(worlds: Lab) -> None:
    """No rule: EACCES.  A group's rule, with its ports.  A VR that is not there: ENODEV."""
    stranger = App(worlds, OTHER_UID)
    refused = stranger.attempt("open", "a", "red", "udp")
    assert (refused["errno"], refused["type"]) == (errno.EACCES, "RsockDenied")
    assert stranger.attempt("open", "a", "nowhere", "udp")["errno"] in (errno.ENODEV, errno.EACCES)
    member = App(worlds, OTHER_UID, (MONITOR_GID,))
    member("open", "a", "blue", "udp")
    assert text(member("ask", "a", "member", "10.0.0.2", PORT)) == "blue:member"
    member("open", "b", "blue", "udp")
    assert member.attempt("bind", "b", "10.0.0.1", 53)["errno"] == errno.EACCES
    member("bind", "b", "10.0.0.1", 5353)
    assert member.attempt("open", "r", "blue", "raw")["errno"] == errno.EPERM


def test_a_router_that_comes_goes_and_comes_again(worlds: Lab) -> None:
    """An app that was there before the VR uses it, and hears what happens to it."""
    lab = worlds
    app = App(lab)
    assert app("vrs")["vrs"] == ["blue", "red"]
    assert app.attempt("open", "g", "green", "udp")["errno"] == errno.ENODEV
    host = lab.host("green", "green-lan", "10.0.0.2/24")
    respond(lab, host, "green")
    pids = {r["name"]: r["pids"] for r in lab.vr("show", "routers")}
    lab.configure({"green": router("green", ALL)}, file="green.yaml")
    lab.vr("apply")
    app("wait", "created", "green")
    app("wait", "up", "green")
    app("open", "g", "green", "udp")
    assert text(app("ask", "g", "new", "10.0.0.2", PORT)) == "green:new"
    lab.vr("router", "stop", "green")
    app("wait", "down", "green")
    assert app.attempt("ask", "g", "gone", "10.0.0.2", PORT)["errno"] == errno.ENETDOWN
    assert app.attempt("open", "h", "green", "udp")["errno"] == errno.ENETDOWN
    lab.vr("router", "start", "green")
    app("wait", "up", "green")
    app("open", "h", "green", "udp")
    assert text(app("ask", "h", "again", "10.0.0.2", PORT)) == "green:again"
    (lab.conf_dir / "green.yaml").unlink()
    lab.vr("apply")
    app("wait", "gone", "green")
    assert {r["name"]: r["pids"] for r in lab.vr("show", "routers")} == pids


def test_sockets_outlive_forwarder_and_control(worlds: Lab) -> None:
    """Each of them is killed; the app's sockets go on."""
    app = App(worlds)
    app("open", "udp", "red", "udp")
    app("bind", "udp", "10.0.0.1", 4321)
    app("open", "echo", "red", "echo")
    assert text(app("ask", "udp", "before", "10.0.0.2", PORT)) == "red:before"
    for role in ("forwarder", "control", "forwarder"):
        old = worlds.router("red")["pids"][role]
        os.kill(old, signal.SIGKILL)
        wait_until(lambda: worlds.router("red")["pids"][role] not in (None, old), f"another {role}")  # noqa: B023
        assert text(app("ask", "udp", role, "10.0.0.2", PORT)) == f"red:{role}"
        assert app("port", "udp")["port"] == 4321
        assert bytes.fromhex(app("ask", "echo", role, "10.0.0.2", 0)["hex"])[8:] == role.encode()


@pytest.mark.quiet
def test_a_new_socket_waits_for_another_broker_and_not_for_long(worlds: Lab) -> None:
    app = App(worlds)
    app("open", "udp", "red", "udp")
    broker = next(
        pid for pid in worlds.box.processes() if b"anabranch: broker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )
    os.kill(broker, signal.SIGKILL)
    begin = time.monotonic()
    app("open", "late", "red", "udp")
    elapsed = time.monotonic() - begin
    print(f"\nbroker SIGKILL: a new socket after {elapsed * 1000:.0f} ms")
    assert elapsed <= 0.25
    assert text(app("ask", "late", "x", "10.0.0.2", PORT)) == "red:x"
    assert text(app("ask", "udp", "x", "10.0.0.2", PORT)) == "red:x"


def test_datagrams_wait_for_the_ports_of_a_new_forwarder(worlds: Lab) -> None:
    """What is sent while there is none goes out by its successor, once that has its ports again; nothing is refused."""
    app = App(worlds)
    app("open", "udp", "red", "udp")
    for life in range(3):
        words = [f"{life}.{number}" for number in range(100)]
        os.kill(worlds.router("red")["pids"]["forwarder"], signal.SIGKILL)
        for word in words:
            app("send", "udp", word, "10.0.0.2", PORT)
            time.sleep(0.001)
        awaited = {f"red:{word}" for word in words}
        while awaited:
            awaited.discard(text(app("recv", "udp")))
