"""What an unprivileged program can do to a running daemon: nothing that others notice."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from lab import Lab

pytestmark = [pytest.mark.quiet, pytest.mark.root]

APP: Final = Path(__file__).with_name("hostile_app.py")
ATTACKER: Final = 12345
TENANT: Final = 12346
HOGS, HOG = 6, 12400  # as in hostile_app.py
PATIENCE: Final = 20.0
LATECOMER: Final = """
import os, socket, sys
import rsock
with rsock.Context() as context:
    rsock.socket(socket.AF_INET, socket.SOCK_DGRAM, vr="red", ctx=context).close()
os.setgroups([]); os.setresgid(*[int(sys.argv[1])] * 3); os.setresuid(*[int(sys.argv[1])] * 3)
with rsock.socket(socket.AF_INET, socket.SOCK_DGRAM, vr="red"):
    print("in", flush=True)
os._exit(0)
"""


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        routers: dict[str, Any] = {}
        for name in ("red", "blue"):
            made.host(f"{name}-host", name, "10.0.0.2/24", "10.0.0.1")
            rules = [{"app": f"uid:{ATTACKER}", "allow": ["udp"]}] if name == "red" else []
            routers[name] = {
                "interfaces": {"lan": {"device": name, "addresses": ["10.0.0.1/24"]}}, "rsock": {"rules": rules}
            }  # fmt: skip
        made.configure(routers)
        made.start()
        yield made


def attack(lab: Lab, what: str) -> subprocess.Popen[str]:
    lab.box.ip("link", "set", "lo", "up")
    words = ("env", f"ANABRANCH_RUN_DIR={lab.run_dir}", sys.executable, "-P", str(APP), str(ATTACKER), str(lab.run_dir))
    return lab.helper(lab.box.command(*words, what), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def unharmed(lab: Lab, before: Any) -> None:
    """See that the same processes serve, and serve others."""
    assert {it["name"]: it["pids"] for it in lab.vr("show", "routers")} == {it["name"]: it["pids"] for it in before}
    for name in ("red", "blue"):
        begin = time.monotonic()
        assert lab.vr("ping", name, "10.0.0.2", "-c", "1")
        assert time.monotonic() - begin < PATIENCE / 4


@pytest.mark.parametrize("what", ["bite", "crowd", "junk", "forge"])
def test_an_attack_harms_nobody(lab: Lab, what: str) -> None:
    before = lab.vr("show", "routers")
    attacker = attack(lab, what)
    assert attacker.stdout is not None
    assert attacker.stdout.readline() == "done\n"
    unharmed(lab, before)
    denied = {row["identity"]: row["denials"] for row in lab.vr("show", "apps") if row["denials"]}
    if what == "forge":
        assert denied[f"uid:{ATTACKER}"]["identity"] == 6
        assert f"event=denied identity=uid:{ATTACKER}" in lab.log()
    if what == "crowd":
        assert denied[f"uid:{ATTACKER}"]["connections"] >= 1
    attacker.kill()
    attacker.wait()
    unharmed(lab, before)


def test_hogs_leave_something_to_others(lab: Lab) -> None:
    """Several users take what connections they get, to a forwarder and to the broker."""
    rules = [{"app": f"uid:{HOG + number}", "allow": ["udp"]} for number in range(HOGS)]
    lan = {"lan": {"device": "red", "addresses": ["10.0.0.1/24"]}}
    tenant = {"app": f"uid:{TENANT}", "allow": ["udp"]}
    lab.configure({"red": {"interfaces": lan, "rsock": {"rules": [*rules, tenant]}}}, file="routers.yaml")
    lab.vr("apply")
    before = lab.vr("show", "routers")
    attacker = attack(lab, "hogs")
    assert attacker.stdout is not None
    for _hog in range(HOGS):
        assert attacker.stdout.readline() in {"hog\n", "done\n"}
    app = lab.box.command(
        "env", f"ANABRANCH_RUN_DIR={lab.run_dir}", sys.executable, "-c", LATECOMER, str(TENANT)
    )  # fmt: skip
    done = subprocess.run(app, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.stdout, done.returncode) == ("in\n", 0), done.stderr
    assert {it["name"]: it["pids"] for it in lab.vr("show", "routers")} == {it["name"]: it["pids"] for it in before}
    attacker.kill()
    attacker.wait()


def test_a_flooding_app_costs_others_nothing(lab: Lab) -> None:
    before = lab.vr("show", "routers")
    attacker = attack(lab, "flood")
    assert attacker.stdout is not None
    assert attacker.stdout.readline() == "flooding\n"
    for name in ("red", "blue"):
        answered = lab.vr("ping", name, "10.0.0.2", "-c", "5")
        assert answered["received"] == 5, answered
    assert attacker.stdout.readline() == "done\n"
    unharmed(lab, before)
    attacker.kill()
    attacker.wait()
