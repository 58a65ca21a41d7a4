"""BFD against FRR's bfdd and BIRD, judged by what they say: single hop, multihop, authentication, echo, failures."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any, Final

import pytest
from peers import Frr, eventually
from routing_lab import RoutingLab

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.root, pytest.mark.interop]

FRR: Final = """
bfd
 profile fast
  transmit-interval 300
  receive-interval 300
  echo-mode
  echo transmit-interval 50
 exit
 peer 10.99.1.1 local-address 10.99.1.2 interface wan
  profile fast
 exit
 peer 2001:db8:99::1 local-address 2001:db8:99::2 interface wan
  profile fast
 exit
 peer 10.255.0.1 multihop local-address 10.99.1.2
  profile fast
 exit
exit
ip route 10.255.0.1/32 10.99.1.1
"""
ALL: Final = ("10.99.1.1", "2001:db8:99::1", "10.255.0.1")


def frr_peers(frr: Frr) -> dict[str, dict[str, Any]]:
    """What FRR says of its peers, by address."""
    return {peer["peer"]: peer for peer in frr.json("show bfd peers json")}


def downs(frr: Frr) -> dict[str, int]:
    """How often each session has gone down, says FRR."""
    return {peer["peer"]: peer["session-down"] for peer in frr.json("show bfd peers counters json")}


def session(lab: RoutingLab, remote: str = "10.99.1.2", *, multihop: bool = False) -> dict[str, Any]:
    """A session as the router shows it."""
    found: list[dict[str, Any]] = lab.show("bfd", "red")
    return next(entry for entry in found if (entry["remote"], entry["multihop"]) == (remote, multihop))


def sessions_of(lab: RoutingLab) -> dict[str, dict[str, Any]]:
    """The sessions in the configuration, to be changed."""
    found: dict[str, dict[str, Any]] = lab.router("red")["bfd"]["sessions"]
    return found


def frr_up(frr: Frr, *addresses: str) -> bool:
    """Whether these sessions are up, says FRR."""
    peers = frr_peers(frr)
    return all(peers[address]["status"] == "up" for address in addresses)


@pytest.fixture(scope="module")
def frr_lab() -> Iterator[tuple[RoutingLab, Frr]]:
    """A router with an FRR behind a link."""
    with RoutingLab() as lab:
        lab.router(
            "red",
            bfd={
                "sessions": {
                    "four": {"remote": "10.99.1.2", "interface": "wan"},
                    "six": {"remote": "2001:db8:99::2"},
                    "far": {"remote": "10.99.1.2", "local": "10.255.0.1", "multihop": "true"},
                }
            },
        )
        lab.router("red")["interfaces"]["lo"] = {"addresses": ["10.255.0.1/32"]}
        lab.link("red", "wan", ["10.99.1.1/24", "2001:db8:99::1/64"], "frr", ["10.99.1.2/24", "2001:db8:99::2/64"])
        lab.start()
        frr = lab.run(Frr(lab["frr"], FRR, ("bfdd", "staticd")))
        yield lab, frr


def test_frr_comes_up_over_one_hop_and_several(frr_lab: tuple[RoutingLab, Frr]) -> None:
    lab, frr = frr_lab
    eventually(lambda: frr_up(frr, *ALL), 30, "all sessions up")

    def agreed() -> bool:
        """Faster than once a second only once both are up, and each has told the other (RFC 5880 section 6.8.3)."""
        peer = frr_peers(frr)["10.99.1.1"]
        assert (peer["remote-transmit-interval"], peer["remote-receive-interval"]) == (300, 300)
        assert peer["remote-detect-multiplier"] == 3
        assert {entry["state"] for entry in lab.show("bfd", "red")} == {"up"}
        return bool(session(lab)["detection_time"] == pytest.approx(0.9))

    eventually(agreed, 30, "both ends tell the same")


def test_intervals_change_in_place(frr_lab: tuple[RoutingLab, Frr]) -> None:
    lab, frr = frr_lab
    eventually(lambda: frr_up(frr, *ALL), 30, "all sessions up")
    before = downs(frr)
    sessions_of(lab)["four"] |= {"interval": "100ms", "multiplier": "5"}
    lab.apply()
    eventually(lambda: frr_peers(frr)["10.99.1.1"]["remote-transmit-interval"] == 100, 30, "FRR hears of it")
    assert frr_peers(frr)["10.99.1.1"]["remote-detect-multiplier"] == 5

    def ours() -> bool:
        shown = session(lab)  # FRR still sends every 300 ms, and wants no more often
        return bool([shown["receive_interval"], shown["transmit_interval"]] == pytest.approx([0.3, 0.3]))

    eventually(ours, 30, "the slower one decides")
    del sessions_of(lab)["four"]["interval"], sessions_of(lab)["four"]["multiplier"]
    lab.apply()
    eventually(lambda: frr_peers(frr)["10.99.1.1"]["remote-transmit-interval"] == 300, 30, "and that it is as before")
    assert downs(frr) == before


@pytest.mark.parametrize("role", ["control", "forwarder"])
def test_sessions_outlive_a_killed(frr_lab: tuple[RoutingLab, Frr], role: str) -> None:
    lab, frr = frr_lab
    eventually(lambda: frr_up(frr, *ALL), 30, "all sessions up")
    before, ours = downs(frr), session(lab)
    pid = lab.vr("show", "routers")[0]["pids"][role]
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: lab.vr("show", "routers")[0]["pids"][role] not in {None, pid}, 30, "another one")
    time.sleep(2)  # twice the detection time
    assert downs(frr) == before
    assert frr_up(frr, *ALL)
    now = session(lab)
    assert (now["discriminator"], now["downs"], now["state"]) == (ours["discriminator"], ours["downs"], "up")
    eventually(lambda: session(lab)["received"] > ours["received"], 30, "packets come")


def test_echo_packets_come_back(frr_lab: tuple[RoutingLab, Frr]) -> None:
    lab, frr = frr_lab
    eventually(lambda: frr_up(frr, *ALL), 30, "all sessions up")
    before = downs(frr)
    sessions_of(lab)["four"]["echo-interval"] = "50ms"
    lab.apply()
    eventually(lambda: session(lab)["echoes_received"] > 30, 30, "our echo packets come back through FRR's kernel")
    shown = session(lab)
    assert shown["echoes_sent"] - shown["echoes_received"] <= 3

    def frr_echoes() -> int:
        counters = {peer["peer"]: peer for peer in frr.json("show bfd peers counters json")}
        return int(counters["10.99.1.1"]["echo-packet-input"])

    eventually(lambda: frr_echoes() > 30, 30, "FRR's echo packets come back through the router")
    assert downs(frr) == before
    # With the way back shut the echo function alone finds the failure.
    lab["frr"].run("sysctl", "-qw", "net.ipv4.conf.wan.forwarding=0")
    eventually(lambda: session(lab)["last_failure"] == "echo-failed", 30, "the echo function fails")
    lab["frr"].run("sysctl", "-qw", "net.ipv4.conf.wan.forwarding=1")
    eventually(lambda: frr_up(frr, *ALL), 30, "and then all is well again")
    del sessions_of(lab)["four"]["echo-interval"]
    lab.apply()


def test_a_session_that_is_removed_tells_the_peer(frr_lab: tuple[RoutingLab, Frr]) -> None:
    lab, frr = frr_lab
    eventually(lambda: frr_up(frr, *ALL), 30, "all sessions up")
    removed = sessions_of(lab).pop("six")
    lab.apply()
    # Had it timed out, FRR would know nothing of our reasons.
    eventually(lambda: "down" in frr_peers(frr)["2001:db8:99::1"]["remote-diagnostic"], 30, "told, not timed out")
    assert frr_peers(frr)["2001:db8:99::1"]["status"] == "down"
    sessions_of(lab)["six"] = removed
    lab.apply()
    eventually(lambda: frr_up(frr, *ALL), 30, "and back")


@pytest.mark.quiet
def test_a_dead_peer_is_found_in_time(frr_lab: tuple[RoutingLab, Frr]) -> None:
    lab, frr = frr_lab
    lab.router("red", static={"10.77.0.0/24": {"via": "10.99.1.2", "bfd": "true"}})
    lab.apply()

    def routed() -> bool:
        return "10.77.0.0/24" in {entry["prefix"] for entry in lab.show("routes", "red")}

    eventually(lambda: frr_up(frr, *ALL), 15, "all sessions up")
    eventually(routed, 5, "a static route that BFD watches is used while its session is up")
    os.kill(frr.pid("bfdd"), signal.SIGSTOP)
    try:
        eventually(lambda: session(lab)["state"] == "down", 3, "detection", interval=0.02)
        shown = session(lab)
        assert shown["diagnostic"] == "time-expired"
        assert shown["last_received"] - shown["since"] == pytest.approx(0.9, abs=0.021)
        eventually(lambda: not routed(), 2, "and the static route is gone")
    finally:
        os.kill(frr.pid("bfdd"), signal.SIGCONT)
    eventually(lambda: frr_up(frr, *ALL), 15, "and back")
    eventually(routed, 5, "as is the static route")
    assert "event=bfd-down" in lab.log()
    lab.router("red", static={})
    lab.apply()
