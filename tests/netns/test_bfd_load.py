"""A hundred BFD sessions at 50 ms x 3 between two routers, while a million routes load beside them and packets flood.

    source --- red ==patch== blue --- sink        floods go along this way; the sessions run over the patch link

No session goes down.  The routes are those of a process of its own: what BGP's load does to the sessions of the same
router tests/bench/test_bfd_load.py measures.  What was measured here is printed.  A machine that gives its processors
to somebody else for longer than the detection time proves nothing, so there are several attempts.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from lab import Lab, wait_until
from traffic import Stream

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.quiet, pytest.mark.root]

SESSIONS: Final = 100
ROUTES: Final = 1_000_000
RATE: Final = 150_000
ATTEMPTS: Final = 3
LOADER: Final = Path(__file__).with_name("route_load.py")


def addresses(side: int) -> list[str]:
    """The addresses of one end of the patch link."""
    return [f"10.9.{side}.{number}" for number in range(1, SESSIONS + 1)]


def router(lan: dict[str, Any], own: int, peer: str, routes: dict[str, Any]) -> dict[str, Any]:
    """A router with an end of the link and all sessions over it."""
    sessions = {
        f"s{number}": {"local": local, "remote": remote, "interface": "link", "interval": "50ms", "multiplier": 3}
        for number, (local, remote) in enumerate(zip(addresses(own), addresses(1 - own), strict=True))
    }
    link = {"patch": peer, "addresses": [f"{address}/16" for address in addresses(own)]}
    return {"interfaces": {"lan": lan, "link": link}, "bfd": {"sessions": sessions}, "static": routes}


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Two routers, and a host behind each."""
    with Lab() as made:
        made.host("source", "lan-red", "10.0.0.2/24", "10.0.0.1")
        made.host("sink", "lan-blue", "10.0.1.2/24", "10.0.1.1")
        made.configure(
            {
                "red": router(
                    {"device": "lan-red", "addresses": ["10.0.0.1/24"]}, 0, "blue/link",
                    {"10.0.1.0/24": {"via": addresses(1)[0]}},
                ),
                "blue": router(
                    {"device": "lan-blue", "addresses": ["10.0.1.1/24"]}, 1, "red/link",
                    {"10.0.0.0/24": {"via": addresses(0)[0]}},
                ),
            }
        )  # fmt: skip
        made.start()
        yield made


def sessions(lab: Lab) -> list[dict[str, Any]]:
    """All sessions of both routers."""
    return [entry for name in ("red", "blue") for entry in lab.vr("show", "bfd", name)]


def attempt(lab: Lab, loader: subprocess.Popen[str], tag: int) -> int:
    """Load and flood once, print what was measured, and give how many sessions went down."""
    before = sessions(lab)
    source, sink = lab.namespaces["source"], lab.namespaces["sink"]
    stream = Stream(lab, (source, "eth0"), (sink, "eth0"), tag, RATE, 12 * RATE, idle=1)
    stream.start(lab.interface("red", "lan")["mac"], "10.0.0.2", "10.0.1.2")
    assert loader.stdin is not None
    assert loader.stdout is not None
    loader.stdin.write("go\n")
    loader.stdin.flush()
    loaded = loader.stdout.readline().split()
    assert len(loaded) == 4, loaded
    counted = stream.result(60)
    found = sessions(lab)
    downs: int = sum(now["downs"] - then["downs"] for now, then in zip(found, before, strict=True))
    sent = sum(now["sent"] - then["sent"] for now, then in zip(found, before, strict=True))
    print(
        f"\n{SESSIONS} sessions at 50 ms x 3: {sent} packets of BFD, down {downs} times, longest gap ever"
        f" {max(entry['longest_gap'] for entry in found) * 1000:.1f} ms; {ROUTES} routes in {loaded[0]} s, out"
        f" {loaded[1]} s, in {loaded[2]} s, out {loaded[3]} s; flood of {RATE}/s: {counted}"
    )
    return downs


def test_no_session_goes_down(lab: Lab) -> None:
    def up() -> bool:
        found = sessions(lab)
        return len(found) == 2 * SESSIONS and all(entry["state"] == "up" for entry in found)

    wait_until(up, "all sessions are up", 30, 0.2)
    loader = lab.helper(
        [sys.executable, str(LOADER), str(ROUTES)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert loader.stdout is not None
    assert loader.stdout.readline() == "ready\n"
    assert lab.namespaces["source"].ping("10.0.1.2", 3)
    for tag in range(1, ATTEMPTS + 1):
        if attempt(lab, loader, tag) == 0:
            return
        wait_until(up, "all sessions are up again", 30, 0.2)
    pytest.fail("sessions went down in each attempt")
