"""What an attack costs other tenants: of their round trips' 99th percentile, at most as much again."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from lab import Lab, Namespace
from test_hostile import ATTACKER, attack, unharmed

pytestmark = [pytest.mark.quiet, pytest.mark.root]

APP: Final = Path(__file__).with_name("tenant_app.py")
TENANT: Final = 12346
SLACK: Final = 20_000  # microseconds: slices of the scheduler, on a machine with as many processes as this one
ECHO: Final = """
import socket, threading
def serve(conn):
    with conn:
        while data := conn.recv(65536):
            conn.sendall(data)
with socket.create_server(("10.0.0.2", 7777), backlog=64) as listener:
    print("listening", flush=True)
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


class Tenant:
    """An app of another user, and the host that it talks to."""

    def __init__(self, lab: Lab, router: str, host: Namespace) -> None:
        self.router = router
        lab.started(host.command(sys.executable, "-c", ECHO), says="listening")
        words = ("env", f"ANABRANCH_RUN_DIR={lab.run_dir}", sys.executable, "-P", str(APP), str(TENANT), router)
        self._app = lab.helper(
            lab.box.command(*words, "10.0.0.2", "7777"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._line() == "ready\n"

    def _line(self) -> str:
        assert self._app.stdout is not None
        return str(self._app.stdout.readline())

    def begin(self, seconds: float) -> None:
        """Have it measure for a while."""
        assert self._app.stdin is not None
        self._app.stdin.write(f"{seconds}\n")
        self._app.stdin.flush()

    def end(self) -> dict[str, int]:
        """Give what it has measured."""
        return dict(json.loads(self._line()))


@pytest.fixture(scope="module")
def world() -> Iterator[tuple[Lab, dict[str, Tenant]]]:
    with Lab() as lab:
        routers: dict[str, Any] = {}
        hosts = {}
        for name in ("red", "blue"):
            hosts[name] = lab.host(f"{name}-host", name, "10.0.0.2/24", "10.0.0.1")
            rules = [
                {"app": f"uid:{ATTACKER}", "allow": ["udp", "connect", "listen"]},
                {"app": f"uid:{TENANT}", "allow": "all"},
            ]
            if name == "blue":
                del rules[0]
            routers[name] = {
                "interfaces": {"lan": {"device": name, "addresses": ["10.0.0.1/24"]}}, "rsock": {"rules": rules}
            }  # fmt: skip
        lab.configure(routers)
        lab.start()
        yield lab, {name: Tenant(lab, name, host) for name, host in hosts.items()}


def measure(tenants: dict[str, Tenant], seconds: float) -> dict[str, dict[str, int]]:
    for tenant in tenants.values():
        tenant.begin(seconds)
    return {name: tenant.end() for name, tenant in tenants.items()}


@pytest.fixture(scope="module")
def baseline(world: tuple[Lab, dict[str, Tenant]]) -> dict[str, dict[str, int]]:
    """Measure beside a program that only takes a processor: that much an attacker can do without any router."""
    lab, tenants = world
    burner = lab.helper([sys.executable, "-c", "while True: pass"])
    try:
        return measure(tenants, 1.5)
    finally:
        burner.kill()
        burner.wait()


@pytest.mark.parametrize("what", ["flood", "opens", "streams", "bombs", "halves", "forgeries"])
def test_round_trips_of_others_take_as_long_as_ever(
    world: tuple[Lab, dict[str, Tenant]], baseline: dict[str, dict[str, int]], what: str
) -> None:
    lab, tenants = world
    before = lab.vr("show", "routers")
    attacker = attack(lab, what)
    assert attacker.stdout is not None
    assert attacker.stdout.readline() == "flooding\n"
    worst = {}
    for _attempt in range(3):  # other programs of this machine are no attackers
        busy = measure(tenants, 1.2)
        worst = {
            router: (busy[router]["p99"], baseline[router]["p99"])
            for router in tenants
            if busy[router]["p99"] > 2 * baseline[router]["p99"] + SLACK
        }
        if not worst:
            break
    attacker.kill()
    attacker.wait()
    assert not worst
    unharmed(lab, before)
    books = {row["identity"]: row for row in lab.vr("show", "apps")}
    if what == "halves":
        assert books[f"uid:{ATTACKER}"]["denials"]["malformed"] > 0
