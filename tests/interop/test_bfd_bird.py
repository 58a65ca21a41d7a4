"""BFD against BIRD: every kind of authentication that it has, and both families, judged by what BIRD says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest
from peers import Bird, eventually
from routing_lab import RoutingLab

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.root, pytest.mark.interop]

# Ours, and the words of BIRD.
KINDS: Final = {
    "none": "none",
    "simple": "simple",
    "md5": "keyed md5",
    "meticulous-md5": "meticulous keyed md5",
    "sha1": "keyed sha1",
    "meticulous-sha1": "meticulous keyed sha1",
}
KEY: Final = "neighbors-only"


def config() -> str:
    """BIRD's, with one interface for each kind."""
    lines = ["log stderr all;", "router id 10.0.0.2;", "protocol device { }", "protocol bfd {"]
    for number, words in enumerate(KINDS.values()):
        keys = "" if words == "none" else f' authentication {words}; password "{KEY}" {{ id 7; }};'
        lines.append(f' interface "wan{number}" {{ min rx interval 100 ms; min tx interval 100 ms;{keys} }};')
        lines.append(f' neighbor 10.99.{number}.1 dev "wan{number}";')
    lines.append(' neighbor 2001:db8:99::1 dev "wan0";')
    lines += [" multihop { interval 200 ms; multiplier 4; };", " neighbor 10.255.0.1 local 10.99.0.2 multihop on;", "}"]
    lines.append("protocol static far { ipv4; route 10.255.0.1/32 via 10.99.0.1; }")
    lines.append("protocol kernel { ipv4 { export all; }; }")
    return "\n".join(lines)


def configured() -> dict[str, dict[str, Any]]:
    """Our sessions."""
    sessions: dict[str, dict[str, Any]] = {}
    for number, kind in enumerate(KINDS):
        sessions[kind] = {"remote": f"10.99.{number}.2", "interface": f"wan{number}", "interval": "100ms"}
        if kind != "none":
            sessions[kind]["authentication"] = {"type": kind, "key-id": "7", "key": KEY}
    sessions["six"] = {"remote": "2001:db8:99::2", "interval": "100ms"}
    sessions["far"] = {"remote": "10.99.0.2", "local": "10.255.0.1", "multihop": "true", "min-ttl": "60"}
    return sessions


@pytest.fixture(scope="module")
def bird_lab() -> Iterator[tuple[RoutingLab, Bird]]:
    """A router with a BIRD behind six links."""
    with RoutingLab() as lab:
        lab.router("red", bfd={"sessions": configured()})
        lab.router("red")["interfaces"]["lo"] = {"addresses": ["10.255.0.1/32"]}
        for number in range(len(KINDS)):
            six = number == 0
            ours = [f"10.99.{number}.1/24", *(["2001:db8:99::1/64"] if six else [])]
            theirs = [f"10.99.{number}.2/24", *(["2001:db8:99::2/64"] if six else [])]
            lab.link("red", f"wan{number}", ours, "bird", theirs)
        lab.start()
        yield lab, lab.run(Bird(lab["bird"], config()))


def states(bird: Bird) -> dict[str, str]:
    """The sessions as BIRD shows them: state by address."""
    found = {}
    for line in bird.show("show bfd sessions").splitlines():
        words = line.split()
        if len(words) >= 3 and words[0][0].isdigit():
            found[words[0]] = words[2]
    return found


def test_every_kind_of_authentication(bird_lab: tuple[RoutingLab, Bird]) -> None:
    lab, bird = bird_lab
    wanted = {*(f"10.99.{number}.1" for number in range(len(KINDS))), "2001:db8:99::1", "10.255.0.1"}
    eventually(
        lambda: {address for address, state in states(bird).items() if state == "Up"} == wanted, 20, "all are up"
    )
    eventually(lambda: {entry["state"] for entry in lab.show("bfd", "red")} == {"up"}, 30, "for red too")
    shown = lab.show("bfd", "red")
    assert {entry["authentication"] for entry in shown} == set(KINDS)
    assert not any(entry["refused"] for entry in shown if entry["authentication"] == "none")


def test_another_key_is_refused(bird_lab: tuple[RoutingLab, Bird]) -> None:
    lab, bird = bird_lab
    eventually(lambda: states(bird).get("10.99.5.1") == "Up", 20, "up")
    mine = lab.router("red")["bfd"]["sessions"]["meticulous-sha1"]
    mine["authentication"]["key"] = "another-one"
    lab.apply()
    eventually(lambda: states(bird)["10.99.5.1"] == "Down", 30, "BIRD refuses what it gets")

    def ours() -> dict[str, Any]:
        return next(entry for entry in lab.show("bfd", "red") if entry["remote"] == "10.99.5.2")

    eventually(lambda: ours()["state"] == "down", 30, "and we what it sends")
    assert ours()["refused"] > 0
    mine["authentication"]["key"] = KEY
    lab.apply()
    eventually(lambda: states(bird)["10.99.5.1"] == "Up", 30, "and takes the right one")


def test_the_same_configuration_again_disturbs_nothing(bird_lab: tuple[RoutingLab, Bird]) -> None:
    lab, bird = bird_lab
    eventually(lambda: set(states(bird).values()) == {"Up"}, 20, "all are up")
    before = {entry["discriminator"]: entry["downs"] for entry in lab.show("bfd", "red")}
    lab.apply()
    assert {entry["discriminator"]: entry["downs"] for entry in lab.show("bfd", "red")} == before
