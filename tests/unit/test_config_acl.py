"""Filters in the configuration: what is said about mistakes, and where; and what a right one becomes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from manager.config import crosscheck_acl, load
from manager.config.crosscheck_acl import MAX_COUNTERS, MAX_FIELD_VALUES
from manager.resolve import resolve
from vrouter.config import acl
from vrouter.config.codec import decode, encode
from vrouter.config.dscp import NAMES, dscp_map, dscp_text
from vrouter.runtime import filter_sync

if TYPE_CHECKING:
    from pathlib import Path

HEAD = """\
acls:
  shared:
  - {name: bogons, action: deny, source: [10.0.0.0/8, 'fc00::/7']}
  - {name: web, action: permit, protocol: tcp, destination: 203.0.113.0/24, destination-port: [80, 440-450]}
  - {action: permit, protocol: icmp, icmp-type: [echo-request, 3/4], set-dscp: CS1}
  - {action: reject, tcp-flags: [syn, '!ack'], protocol: tcp, dscp: [ef, 5]}
  other: [{action: permit}]
routers:
  red:
    acls: {other: [{action: deny, fragments: true}]}
    interfaces:
      lo: {addresses: [192.0.2.1/32]}
"""


def errors(tmp_path: Path, text: str) -> list[tuple[int, int, str, str]]:
    """Give the errors about what is added to HEAD."""
    (tmp_path / "a.yaml").write_text(HEAD + text)
    return [(error.line, error.column, error.message, error.help) for error in load(tmp_path).errors]


def test_a_right_one(tmp_path: Path) -> None:
    text = (
        "      lan: {device: eth1, acl: {in: shared, out: other}, rpf: strict, dscp: {in: [ef=ef, cs0], out: 12}}\n"
        "    counters: 192.0.2.0/24\n"
    )
    assert errors(tmp_path, text) == []
    config = load(tmp_path).config
    assert config is not None
    plan = resolve(config)["red"]
    assert list(plan.protocols["acls"]) == ["shared", "other"]
    assert plan.protocols["acls"]["other"] == (acl.AclEntry(action="deny", fragments=True),)
    assert plan.protocols["counters"] == ("192.0.2.0/24",)
    entry = plan.protocols["acls"]["shared"][1]
    assert (entry.protocol, entry.destination_port) == ((6,), ((80, 80), (440, 450)))
    assert decode(acl.AclEntry, encode(entry)) == entry
    lan = next(each for each in plan.interfaces if each.name == "lan").protocols
    assert lan["acl"] == acl.AclBinding(in_="shared", out="other")
    assert lan["rpf"] == acl.Rpf(mode="strict")
    assert lan["dscp"] == acl.DscpMarks(in_=((46, 46), (-1, 0)), out=((-1, 12),))


LAN = "      lan: {device: eth1, %s}\n"
WRONG_INTERFACES = [
    ("acl: {in: shard}", "shard", "no ACL 'shard'", "did you mean 'shared'? there is: other, shared"),
    ("dscp: {in: [ef, cs0]}", "cs0", "it is said already what all others become", ""),
    ("dscp: {in: [ef=1, ef=2]}", "ef=2", "it is said already what ef becomes", ""),
    ("dscp: {in: gold}", "gold", "'gold' is no DSCP", "cs0 to cs7"),
    ("rpf: strickt", "strickt", "'strickt' is", "strict"),
]


@pytest.mark.parametrize(("text", "where", "message", "hint"), WRONG_INTERFACES)
def test_wrong_interfaces(tmp_path: Path, text: str, where: str, message: str, hint: str) -> None:
    (found,) = errors(tmp_path, LAN % text)
    assert found[0] == HEAD.count("\n") + 1
    assert found[1] == (LAN % text).index(where) + 1
    assert message in found[2]
    assert hint in found[3]


ENTRY = "    counters: [192.0.2.0/24]\n  blue:\n    acls:\n      own:\n      - %s\n"
WRONG_ENTRIES = [
    (
        "{action: permit, destination-port: 80}",
        "destination-port",
        "'destination-port' needs a 'protocol'",
    ),
    ("{action: permit, protocol: [tcp, gre], source-port: 80}", "source-port", "'source-port' needs a 'protocol'"),
    ("{action: permit, protocol: udp, tcp-flags: syn}", "tcp-flags", "'tcp-flags' needs 'protocol: tcp'"),
    ("{action: permit, protocol: tcp, tcp-flags: [syn, '!syn']}", "'!syn'", "no packet has 'syn' both set and not set"),
    ("{action: permit, protocol: tcp, tcp-flags: [established, syn]}", "established", "'established' stands alone"),
    ("{action: permit, protocol: udp, icmp-type: 8}", "icmp-type", "'icmp-type' needs 'protocol: icmp'"),
    (
        "{action: permit, protocol: icmp, icmp-type: packet-too-big}",
        "packet-too-big",
        "icmp has no type 'packet",
    ),
    ("{action: permit, protocol: icmp, icmp-type: ping}", "ping", "'ping' is no ICMP type"),
    ("{action: permit, protocol: tpc}", "tpc", "'tpc' is no IP protocol"),
    ("{action: permit, protocol: tcp, tcp-flags: sin}", "sin", "'sin' is no TCP flag"),
    ("{action: deny, set-dscp: ef}", "ef", "'set-dscp' needs 'action: permit'"),
    ("{action: permit, protocol: tcp, source-port: 1, fragments: true}", "fragments", "nothing can match"),
    ("{action: permit, source: 10.0.0.0/8, destination: 'fc00::/7'}", "destination", "of the other family"),
    ("{action: permit, family: ipv6, source: 10.0.0.0/8}", "source", "of the other family"),
    ("{action: permit, family: ipv6, protocol: icmp}", "icmp", "icmp is not of this family"),
    ("{action: drop}", "drop", "'drop'"),
]


@pytest.mark.parametrize(("text", "where", "message"), WRONG_ENTRIES)
def test_wrong_entries(tmp_path: Path, text: str, where: str, message: str) -> None:
    found = errors(tmp_path, ENTRY % text)
    assert len(found) == 1, found
    assert found[0][0] == HEAD.count("\n") + 5
    assert found[0][1] == text.index(where) + 9
    assert message in found[0][2]


def test_what_has_no_packets(tmp_path: Path) -> None:
    found = errors(tmp_path, "      lo2: {acl: {in: shared}, rpf: loose, dscp: {out: ef}}\n")
    assert [message for _, _, message, _ in found] == [
        f"'{key}' does not go with a loopback" for key in ("acl", "rpf", "dscp")
    ]


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the forwarder has no room for is said before it is tried."""
    monkeypatch.setattr(crosscheck_acl, "MAX_FIELD_VALUES", 5)
    (tmp_path / "b.yaml").write_text("acls: {l0: [{action: permit, source: [10.0.0.1/32, 10.0.0.2/32, 10.0.0.3/32]}, ")
    with (tmp_path / "b.yaml").open("a") as file:
        file.write("{action: deny, source: [10.0.0.4/32, 10.0.0.5/32, 10.0.0.6/32]}]}\n")
    (one,) = errors(tmp_path, LAN % "acl: {in: l0}")
    assert one[2] == "the list has more than 5 values of 'source'"
    monkeypatch.setattr(crosscheck_acl, "MAX_FIELD_VALUES", MAX_FIELD_VALUES)
    monkeypatch.setattr(crosscheck_acl, "MAX_COUNTERS", 7)
    (one,) = errors(tmp_path, LAN % "acl: {in: l0, out: shared}")
    assert one[2] == "the interfaces of the router have 2 lists with 8 entries, ends and counted prefixes"
    monkeypatch.setattr(crosscheck_acl, "MAX_COUNTERS", MAX_COUNTERS)
    monkeypatch.setattr(crosscheck_acl, "MAX_ROOM", 60000)
    (one,) = errors(tmp_path, LAN % "acl: {in: l0, out: shared}")
    assert one[2].startswith("the interfaces of the router have 2 lists")
    assert errors(tmp_path, LAN % "acl: {in: other}") == []


def test_constants() -> None:
    assert filter_sync.MAX_COUNTERS == MAX_COUNTERS


def test_code_points() -> None:
    """RFC 2474, RFC 2597, RFC 3246, RFC 5865, RFC 8622."""
    assert (NAMES["cs5"], NAMES["af11"], NAMES["af43"], NAMES["ef"], NAMES["va"], NAMES["le"]) == (
        40,
        10,
        38,
        46,
        44,
        1,
    )
    assert [dscp_text(value) for value in (0, 46, 33)] == ["cs0", "ef", "33"]
    assert dscp_map(()) == bytes(range(64))
    assert dscp_map(((46, 34), (-1, 8)))[44:48] == bytes((8, 8, 34, 8))
