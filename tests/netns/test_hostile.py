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
PATIENCE: Final = 20.0


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        routers: dict[str, Any] = {}
        for name in ("red", "blue"):
            made.host(f"{name}-host", name, "10.0.0.2/24", "10.0.0.1")
            rules = [{"app": f"uid:{ATTACKER}", "allow": ["udp"]}]
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


@pytest.mark.parametrize("what", ["bite", "crowd", "junk"])
def test_an_attack_harms_nobody(lab: Lab, what: str) -> None:
    before = lab.vr("show", "routers")
    attacker = attack(lab, what)
    assert attacker.stdout is not None
    assert attacker.stdout.readline() == "done\n"
    unharmed(lab, before)
    attacker.kill()
    attacker.wait()
    unharmed(lab, before)


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
