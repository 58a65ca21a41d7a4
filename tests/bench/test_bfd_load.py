"""A hundred BFD sessions at 50 ms x 3 with FRR, while a full BGP table comes, goes and comes again: none goes down.

FRR is the judge: it counts the sessions that went down (its own lateness would count against us, so run it on a
machine that does nothing else).  ANABRANCH_BENCH_ROUTES as in test_bgp.py.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import pytest
from bgp_phases import Life
from bgp_receivers import AnabranchReceiver
from bgp_routes import IPV4, Table
from lab import Lab
from peers import Frr, Peers, eventually

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.root, pytest.mark.interop, pytest.mark.slow, pytest.mark.timeout(600)]

ROUTES: Final = int(os.environ.get("ANABRANCH_BENCH_ROUTES", "1000000"))
SESSIONS: Final = 100
INTERVAL: Final = 50  # milliseconds


def local(number: int) -> str:
    """Give our address of a session: FRR tells its peers by their addresses."""
    return f"10.97.0.{number + 1}"


def remote(number: int) -> str:
    """Give the address of FRR's end of a session."""
    return f"10.97.1.{number + 1}"


class Watched(AnabranchReceiver):
    """The receiver of the benchmark, with one more link and the sessions."""

    def __init__(self, lab: Lab) -> None:
        """Make the world and the link."""
        super().__init__(lab, IPV4)
        self.far = lab.namespace("frr")
        lab.veth("b0", None, self.far, "b0")
        for number in range(SESSIONS):
            self.far.address("b0", f"{remote(number)}/16")

    def router(self) -> dict[str, Any]:
        """Give the router's configuration."""
        config = super().router()
        config["interfaces"]["b0"] = {
            "device": "b0",
            "addresses": [f"{local(number)}/16" for number in range(SESSIONS)],
        }
        common = {"interface": "b0", "interval": f"{INTERVAL}ms", "multiplier": 3}
        sessions = {
            f"s{number}": {"remote": remote(number), "local": local(number), **common} for number in range(SESSIONS)
        }
        config["bfd"] = {"sessions": sessions}
        return config


def frr_config() -> str:
    """Give FRR's end of all sessions."""
    peers = "".join(
        f" peer {local(number)} local-address {remote(number)} interface b0\n"
        f"  transmit-interval {INTERVAL}\n  receive-interval {INTERVAL}\n  detect-multiplier 3\n exit\n"
        for number in range(SESSIONS)
    )
    return f"bfd\n{peers}exit\n"


def up(frr: Frr) -> int:
    """Count the sessions that FRR has up."""
    return sum(peer["status"] == "up" for peer in frr.json("show bfd peers json"))


def downs(frr: Frr) -> int:
    """Count how often any session went down."""
    return sum(int(peer["session-down"]) for peer in frr.json("show bfd peers counters json"))


def test_no_session_goes_down_while_the_table_loads(test_data: Path) -> None:
    table = Table(test_data, ROUTES, IPV4, "10.98.1.2")
    with Lab() as lab, Peers() as peers:
        receiver = Watched(lab)
        try:
            receiver.start()
            frr = peers.run(Frr(receiver.far, frr_config(), daemons=("bfdd",)))
            eventually(lambda: up(frr) == SESSIONS, 30, "all sessions are up")
            before = downs(frr)
            life = Life(receiver, table, patience=1.0)  # it is never idle
            life.load()
            life.new_peer()
            life.fail()
            life.again()
            life.close()
            assert up(frr) == SESSIONS
            print(f"\n{SESSIONS} sessions at {INTERVAL} ms x 3, {ROUTES} routes: {downs(frr) - before} went down")
            assert downs(frr) == before
        finally:
            receiver.stop()
