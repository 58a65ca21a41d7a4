"""Apps, forwarders, controls and brokers are killed while an app's sockets carry bytes and datagrams.

What is asked of each round: a stream is equal at both ends, or the end where it is not hears an error; a datagram
comes once (from a forwarder's successor perhaps twice, as a ring's last batch does), or a call has failed; no call
waits longer than its timeout; and when the app is gone, so are its sockets, within 10 ms.  In the end nobody holds
more fds or memfds than before, and no port or multicast group is taken.

RSOCK_ROUNDS says how many times each of them is killed (`make chaos-rsock ROUNDS=1000`), RSOCK_SEED in which moments of
the traffic.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import failing_app
import pytest
from lab import Lab, wait_until
from tcp_ends import TCP_MD5SIG, key_for

import rsock
from rsock.link import Link
from rsock.wire import Op

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.quiet, pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(0)]

ROUNDS: Final = int(os.environ.get("RSOCK_ROUNDS", "5"))
SEED: Final = os.environ.get("RSOCK_SEED", "0")
EARLIEST, LATEST = 0.02, 0.22  # seconds of the traffic in which something is killed
APP: Final = Path(__file__).resolve().parent / "failing_app.py"
APP_UID: Final = 61234
HOST: Final = "10.0.0.2"
BATCH: Final = 64  # BATCH_SIZE: a successor may repeat one
FREED: Final = 0.010
SHORT: Final = 0.3  # for who is not answered
ROLES: Final = ("forwarder", "control", "broker")
FAILURES: Final = {  # the last one is the kernel's of shutdown, where the reset was there before
    errno.ECONNRESET, errno.EPIPE, errno.ETIMEDOUT, errno.ECONNABORTED, errno.ENOTCONN
}  # fmt: skip


def moments() -> Iterator[float]:
    """Give for each round how long its traffic flows until something is killed."""
    chance = random.Random(SEED)
    for _round in range(ROUNDS):
        yield chance.uniform(EARLIEST, LATEST)


class World:
    """A VR, a host of the kernel behind it, and an app in the VR."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.host = lab.host("host", "lan", f"{HOST}/24", gateway="10.0.0.1")
        rules = [{"app": f"uid:{APP_UID}", "allow": "all"}]
        interfaces = {"lan": {"device": "lan", "addresses": [f"{failing_app.ADDRESS}/24"]}}
        lab.configure({"red": {"interfaces": interfaces, "rsock": {"rules": rules}}})
        lab.start()
        wait_until(lambda: self.host.ping(failing_app.ADDRESS), "the router answers")
        self.number = 0
        words = [sys.executable, "-P", str(APP), f"ipc://{lab.run_dir}/rsock.sock", "red", str(APP_UID)]
        self.app = lab.helper(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)

    def pid(self, role: str) -> int:
        """Give the pid of a process."""
        if role != "broker":
            routers = json.loads((self.lab.run_dir / "routers.json").read_text())
            return int(routers[0]["pids"][role] or 0)
        for pid in self.lab.box.processes():
            with contextlib.suppress(OSError):
                if b"anabranch: broker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return pid
        return 0

    def kill(self, role: str) -> None:
        """Kill one of the processes; its successor serves when this returns."""
        before = self.pid(role)
        os.kill(before, signal.SIGKILL)
        if role == "broker":
            wait_until(lambda: self.pid(role) not in {0, before}, "another broker")
            return
        wait_until(lambda: self._another(role, before), f"another {role}")

    def _another(self, role: str, before: int) -> bool:
        routers = json.loads((self.lab.run_dir / "routers.json").read_text())
        return bool(routers[0]["state"] == "up" and routers[0]["pids"][role] not in {None, 0, before})

    def holdings(self) -> dict[str, tuple[int, int]]:
        """Give how many fds, and memfds among them, each process holds."""
        found = {}
        for role in ROLES:
            links = []
            for entry in Path(f"/proc/{self.pid(role)}/fd").iterdir():
                with contextlib.suppress(OSError):
                    links.append(os.readlink(entry))
            found[role] = (len(links), sum("memfd:" in link for link in links))
        return found

    def holdings_at_rest(self) -> dict[str, tuple[int, int]]:
        """Give them once nothing is opened or closed any more: what an app has closed is noticed a moment later."""
        seen: list[dict[str, tuple[int, int]]] = []

        def same() -> bool:
            seen.append(self.holdings())
            return len(seen) > 5 and all(earlier == seen[-1] for earlier in seen[-6:])

        wait_until(same, "all fds of earlier apps are closed", interval=0.2)
        return seen[-1]

    def hear(self) -> dict[str, Any]:
        """Read a line of the app."""
        assert self.app.stdout is not None
        heard: dict[str, Any] = json.loads(self.app.stdout.readline())
        return heard

    def ends(self) -> tuple[socket.socket, socket.socket]:
        """Make the host's listener and datagram socket."""
        listener = self.host.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, failing_app.MADE))
        listener.listen()
        datagrams = self.host.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.bind((HOST, failing_app.HOST_DATAGRAMS))
        return listener, datagrams


class Round:
    """One app, its traffic with the host, and what both found."""

    def __init__(self, world: World, rest: float = 1.0) -> None:
        """Give it a number; `rest` seconds without datagrams are their end."""
        self.world = world
        self._rest = rest
        world.number += 1
        self.number = world.number
        self.told: dict[str, Any] = {}
        self.app: dict[str, Any] = {}
        self._threads: list[threading.Thread] = []

    def begin(self) -> None:
        """Have the app open everything, and let the traffic flow."""
        assert self.world.app.stdin is not None
        self._listener, self._datagrams = self.world.ends()
        self.world.app.stdin.write(f"{self.number} {HOST}\n")
        self.world.app.stdin.flush()
        self._listener.settimeout(failing_app.PATIENCE)
        made, _peer = self._listener.accept()
        self.app = self.world.hear()
        assert "sockets" in self.app, self.app
        taken = self.world.host.socket(socket.AF_INET, socket.SOCK_STREAM)
        taken.settimeout(failing_app.PATIENCE)
        taken.connect((failing_app.ADDRESS, failing_app.TAKEN))
        where = (failing_app.ADDRESS, failing_app.DATAGRAMS)
        hears = self._datagrams.dup()
        self._start(lambda: self._carry("made", made))
        self._start(lambda: self._carry("taken", taken))
        self._start(lambda: self._note("unsent", failing_app.send_datagrams(self._datagrams, where, self.number)))
        self._start(lambda: self._hear(hears))

    def _start(self, what: Any) -> None:
        thread = threading.Thread(target=what, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _note(self, name: str, value: Any) -> None:
        self.told[name] = value

    def _carry(self, name: str, sock: socket.socket) -> None:
        with sock:
            self.told[name] = failing_app.carry(sock, failing_app.stream_bytes(self.number, f"{name} by host"))

    def _hear(self, sock: socket.socket) -> None:
        with sock:
            self.told["datagrams"] = failing_app.receive_datagrams(
                sock, self.number, failing_app.PATIENCE, rest=self._rest
            )

    def end(self) -> dict[str, Any]:
        """Wait for both sides; give what the app told, if it lived."""
        for thread in self._threads:
            thread.join(3 * failing_app.PATIENCE)
        assert not any(thread.is_alive() for thread in self._threads), "the host waits for something"
        heard = self.world.hear()
        app: dict[str, Any] = {}
        if "over" not in heard:
            app, heard = heard, self.world.hear()
        self._listener.close()
        self._datagrams.close()
        self.told["status"] = heard["over"]
        return app

    def digest(self, name: str) -> str:
        """Give what all of a stream has."""
        return hashlib.sha256(failing_app.stream_bytes(self.number, name)).hexdigest()


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with Lab() as lab:
        made = World(lab)
        unharmed(made)  # nobody holds what the first use takes from here on
        before = made.holdings_at_rest()
        yield made
        # What was opened is closed some time after its process is seen.
        wait_until(lambda: made.holdings() == before, f"{made.holdings()}, as before: {before}")

        def held() -> list[dict[str, Any]]:
            return [row for row in made.lab.vr("show", "sockets", "red") if row["state"] != "time-wait"]

        # What was closed while there was no forwarder is kept for those who may come back, for a few seconds.
        wait_until(lambda: not held(), f"still held: {held()}")
        assert made.lab.vr("show", "groups", "red") == []
        assert made.app.stdin is not None
        made.app.stdin.close()
        assert made.app.wait(30) == 0


def unharmed(world: World) -> None:
    """Run a round in which nothing happens."""
    one = Round(world)
    one.begin()
    assert_equal(one, one.end())


def assert_equal(one: Round, app: dict[str, Any]) -> None:
    """All bytes and all datagrams have come, once."""
    for name in ("made", "taken"):
        assert app["streams"][name].get("error") is None, app
        assert app["streams"][name]["digest"] == one.digest(f"{name} by host"), app
        assert one.told[name].get("error") is None, one.told
        assert one.told[name]["digest"] == one.digest(f"{name} by app"), one.told
    for told in (app["datagrams"], one.told["datagrams"]):
        assert told == {"distinct": failing_app.COUNT, "missing": [], "repeated": 0, "errors": []}, (app, one.told)
    assert (app["hangs"], app["unsent"], one.told["unsent"], one.told["status"]) == (0, 0, 0, 0)


@pytest.mark.parametrize("role", ["broker", "control"])
def test_nothing_is_felt(world: World, role: str) -> None:
    for moment in moments():
        one = Round(world)
        one.begin()
        time.sleep(moment)
        world.kill(role)
        assert_equal(one, one.end())


def assert_known(told: dict[str, Any], digest: str) -> None:
    """A stream is whole, or its reader has heard that it is not."""
    assert told["digest"] == digest or told.get("error") is not None, told
    if "error" in told:
        assert told["error"] in FAILURES, told


def test_a_forwarder_dies(world: World) -> None:
    """Streams tell so, at once; datagrams come, and the app's sockets go on."""
    refusals, repeated, cut = 0, 0, 0
    for moment in moments():
        one = Round(world)
        one.begin()
        time.sleep(moment)
        begin = time.monotonic()
        world.kill("forwarder")
        app = one.end()
        assert time.monotonic() - begin < failing_app.PATIENCE, "something has waited for its timeout"
        for name in ("made", "taken"):
            assert_known(app["streams"][name], one.digest(f"{name} by host"))
            assert_known(one.told[name], one.digest(f"{name} by app"))
        assert (app["hangs"], one.told["status"]) == (0, 0)
        # What a router refuses to send is told by the next call that receives.
        refused = app["unsent"] + len(app["datagrams"]["errors"])
        for told, failed in ((app["datagrams"], one.told["unsent"]), (one.told["datagrams"], refused)):
            assert told["distinct"] + failed >= failing_app.COUNT, (app, one.told)
            assert told["repeated"] <= BATCH, told
            repeated += told["repeated"]
        refusals += refused
        cut += sum("error" in app["streams"][name] for name in ("made", "taken"))
    print(f"\nforwarder SIGKILL: {cut} streams told of it; datagrams refused {refusals}, repeated {repeated}")


def test_a_listener_keeps_its_keys(world: World) -> None:
    """A forwarder's successor takes those who sign (RFC 2385), and nobody else."""
    with (
        rsock.Context(f"ipc://{world.lab.run_dir}/rsock.sock") as context,
        rsock.socket(socket.AF_INET, socket.SOCK_STREAM, vr="red", ctx=context) as listener,
    ):
        listener.settimeout(failing_app.PATIENCE)
        listener.bind((failing_app.ADDRESS, 7179))
        listener.setsockopt(socket.IPPROTO_TCP, TCP_MD5SIG, key_for(HOST, b"known to both"))
        listener.listen()
        for _time in range(2):
            for key, welcome in ((b"known to both", True), (b"another one", False), (None, False)):
                with world.host.socket(socket.AF_INET, socket.SOCK_STREAM) as peer:
                    peer.settimeout(failing_app.PATIENCE if welcome else SHORT)
                    if key is not None:
                        peer.setsockopt(socket.IPPROTO_TCP, TCP_MD5SIG, key_for(failing_app.ADDRESS, key))
                    assert (peer.connect_ex((failing_app.ADDRESS, 7179)) == 0) == welcome
                    if welcome:
                        listener.accept()[0].close()
            world.kill("forwarder")


def still_known(sockets: list[tuple[int, int, str]]) -> list[int]:
    """Give the slots that the forwarder still has."""
    known = []
    for slot, cookie, path in sockets:
        link = Link(path)
        try:
            link.call(Op.RESOLVE, slot=slot, cookie=cookie, timeout=1.0)
            known.append(slot)
        except OSError as error:
            if error.errno not in {errno.EBADF, errno.ECONNRESET}:
                raise
        finally:
            link.close()
    return known


def test_an_app_dies(world: World) -> None:
    """Its sockets, ports and groups are free within 10 ms, and its peers know."""
    freed = []
    for moment in moments():
        one = Round(world, rest=0.3)
        one.begin()
        assert len(still_known(one.app["sockets"])) == 4
        time.sleep(moment)
        os.kill(one.app["pid"], signal.SIGKILL)
        begin = time.monotonic()
        while still_known(one.app["sockets"]):
            assert time.monotonic() - begin < 1.0, still_known(one.app["sockets"])
        freed.append(time.monotonic() - begin)
        assert one.end() == {}
        assert one.told["status"] == signal.SIGKILL
        for name in ("made", "taken"):
            told = one.told[name]
            assert told["digest"] == one.digest(f"{name} by app") or told["received"] < failing_app.STREAM, told
            assert told.get("error") in {None, errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN}, told
        assert one.told["datagrams"]["repeated"] == 0
    times = f"{statistics.median(freed) * 1000:.1f} ms, {max(freed) * 1000:.1f} at most"
    print(f"\napp SIGKILL: sockets freed after {times}")
    assert statistics.median(freed) <= FREED
