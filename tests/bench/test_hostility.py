"""What attacks cost another tenant, in the attacker's router and in another: the 99th percentile of its round trips.

Two apps ask and are answered by hosts behind two routers, 500 times a second each, while a third one, which may use one
of the routers, does to its forwarder and to the broker what it can (tests/netns/hostile_app.py), on one processor.  By
turns with each attack the same is measured with nobody else about, and beside a program that only takes that processor,
which an attacker can do without any router: what the scheduler makes of that, on two processors up to a whole slice of
the program, is no cost of ours, and is told beside the strict ratio, which alone is held against the goal.  Many short
turns, since the machine has modes of speed.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import pytest
from test_hostile import attack, unharmed
from test_hostile_speed import Tenant, measure, world

if TYPE_CHECKING:
    from lab import Lab

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(100)]

ATTACKS: Final = ("flood", "opens", "streams", "bombs", "halves", "forgeries")
TURNS: Final = 7
SECONDS: Final = 0.6
GOAL: Final = 2.0
CEILING: Final = 50.0

PROCESSOR: Final = min(os.sched_getaffinity(0))  # the attacker's

__all__ = ["world"]


def begun(lab: Lab, what: str) -> subprocess.Popen[str]:
    """Start an attack, or "burner"."""
    if what == "burner":
        started = lab.helper([sys.executable, "-c", "while True: pass"], text=True)
    else:
        started = attack(lab, what)
    os.sched_setaffinity(started.pid, {PROCESSOR})
    if what != "burner":
        assert started.stdout is not None
        assert started.stdout.readline() == "flooding\n"
    return started


@pytest.mark.parametrize("what", ATTACKS)
def test_round_trips(world: tuple[Lab, dict[str, Tenant]], what: str) -> None:
    lab, tenants = world
    before = lab.vr("show", "routers")
    found: dict[str, dict[str, list[int]]] = {name: {} for name in tenants}

    def note(kind: str) -> None:
        for name, told in measure(tenants, SECONDS).items():
            found[name].setdefault(kind, []).append(told["p99"])

    for _turn in range(TURNS):
        note("idle")
        for kind in ("burner", what):
            started = begun(lab, kind)
            note(kind)
            started.kill()
            started.wait()
    print()
    for name, kinds in found.items():
        idle, burner_too, attacked = (statistics.median(kinds[kind]) for kind in ("idle", "burner", what))
        word = "reached" if attacked <= GOAL * idle else "NOT reached"
        print(
            f"{what:<10} p99 in {name:<5} idle {idle:>7.0f}  beside a burner {burner_too:>7.0f}"
            f"  attacked {attacked:>7.0f} us  attacked : idle = {attacked / idle:.2f},"
            f" : burner = {attacked / burner_too:.2f}; goal at most {GOAL:g}: {word}"
        )
        assert attacked <= CEILING * idle + 20_000
    unharmed(lab, before)
