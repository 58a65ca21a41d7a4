"""What a plan says."""

from __future__ import annotations

from pathlib import Path

import pytest

from manager.config import Loaded, Plan, diff, load
from manager.config.plan import render_plan

BASE = """\
version: 1
routers:
  red:
    interfaces:
      lan: {device: eth1, addresses: [10.0.0.1/24]}
      wan:
        device: eth2
        mtu: 9000
        addresses: [192.0.2.1/30]
    static:
      0.0.0.0/0: {via: 192.0.2.2}
    rsock:
      rules:
        - {app: uid:nobody, allow: [udp], ports: [53, 1024-65535]}
  blue: {}
"""


@pytest.fixture
def changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf").mkdir()

    def read(text: str) -> Loaded:
        (tmp_path / "conf" / "all.yaml").write_text(text)
        loaded = load("conf")
        assert loaded.errors == []
        return loaded

    def compare(*replacements: tuple[str, str]) -> Plan:
        old = read(BASE).config
        text = BASE
        for before, after in replacements:
            assert before in text
            text = text.replace(before, after)
        new = read(text)
        assert new.config is not None
        return diff(old, new.config, new.marks)

    return compare


def lines(plan: Plan) -> list[str]:
    return render_plan(plan.as_data()).splitlines()


SUMMARY = "Plan: {} added, {} changed, {} removed. Sessions reset: 0. Apply? vr apply"

CHANGES = [
    ([("9000", "1500")], "~ routers.red.interfaces.wan.mtu  9000 -> 1500  conf/all.yaml:8  link (wan)"),
    ([("        mtu: 9000\n", "")], "- routers.red.interfaces.wan.mtu  conf/all.yaml:6  link (wan)"),
    (
        [("eth1, addresses", "eth1, mac: '02:00:00:00:00:01', addresses")],
        "+ routers.red.interfaces.lan.mac  02:00:00:00:00:01  conf/all.yaml:5  link (lan)",
    ),
    (
        [("[10.0.0.1/24]", "[10.0.0.1/24, 10.0.1.1/24]")],
        "~ routers.red.interfaces.lan.addresses  [10.0.0.1/24] -> [10.0.0.1/24, 10.0.1.1/24]  conf/all.yaml:5  live",
    ),
    (
        [("      lan: {device: eth1, addresses: [10.0.0.1/24]}\n", "")],
        "- routers.red.interfaces.lan  conf/all.yaml:4  link (lan)",
    ),
    (
        [("    static:\n", "      lo: {addresses: [10.9.9.9/32]}\n    static:\n")],
        "+ routers.red.interfaces.lo  {addresses: [10.9.9.9/32]}  conf/all.yaml:10  link (lo)",
    ),
    (
        [("{via: 192.0.2.2}", "[{via: 192.0.2.2}, {via: 10.0.0.2, weight: 2}]")],
        (
            "~ routers.red.static.0.0.0.0/0  {via: 192.0.2.2} -> "
            "[{via: 192.0.2.2}, {via: 10.0.0.2, weight: 2}]  conf/all.yaml:11  live"
        ),
    ),
    (
        [("    rsock:", "      '2001:DB8::/32': {discard: true}\n    rsock:")],
        "+ routers.red.static.2001:db8::/32  {discard: true}  conf/all.yaml:12  live",
    ),
    (
        [("allow: [udp], ports: [53, 1024-65535]", "allow: all")],
        (
            "~ routers.red.rsock.rules  [{app: uid:nobody, allow: [udp], ports: [53, 1024-65535]}] -> "
            "[{app: uid:nobody, allow: [connect, listen, udp, raw, multicast]}]  conf/all.yaml:13  live"
        ),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("replacements", "line"), CHANGES)
def test_one_change(changed, replacements: list[tuple[str, str]], line: str) -> None:
    assert lines(changed(*replacements)) == [line, SUMMARY.format("0 routers", 1, 0)]


def test_routers_come_and_go(changed) -> None:
    plan = changed(("  blue: {}\n", "  green: {}\n"))
    assert lines(plan) == [
        "- routers.blue  conf/all.yaml:2  stop VR",
        "+ routers.green  conf/all.yaml:15  start VR",
        SUMMARY.format("1 router", 0, 1),
    ]
    assert [change.router for change in plan.changes] == ["blue", "green"]


SAME = [
    ("version: 1\n", ""),
    ("version: 1\n", "version: 1\ndemo: false\nuid-range: 1900000000-1900065535\ndefaults: {}\n"),
    ("{via: 192.0.2.2}", "[{via: 192.0.2.2, weight: 1, discard: false}]"),
    ("device: eth2", "device: 'eth2'\n        driver: auto\n        force: false"),
    ("blue: {}", "blue: {interfaces: {}, static: , rsock: {rules: []}}"),
    ("[53, 1024-65535]", "['53', 1024 - 65535]"),
    ("        mtu: 9000\n", "        mtu: 9000 # bytes\n"),
]


@pytest.mark.parametrize(("before", "after"), SAME)
def test_the_same_in_other_words_is_no_change(changed, before: str, after: str) -> None:
    plan = changed((before, after))
    assert plan.empty
    assert lines(plan) == ["Plan: nothing to change."]


def test_a_default_shows_where_it_takes_effect(changed) -> None:
    plan = changed(("version: 1\n", "version: 1\ndefaults: {mtu: 1400}\n"))
    assert lines(plan)[0] == "+ routers.red.interfaces.lan.mtu  1400  conf/all.yaml:2  link (lan)"
    assert len(plan.changes) == 1


def test_a_secret_is_not_shown(changed, tmp_path: Path) -> None:
    (tmp_path / "conf/secrets").mkdir()
    (tmp_path / "conf/secrets/dev").write_text("hidden0\n")
    (tmp_path / "conf/secrets/dev").chmod(0o600)
    plan = changed(("device: eth1", "device: !secret dev"))
    assert "hidden0" not in str(plan.as_data())
    assert lines(plan)[0].startswith("~ routers.red.interfaces.lan.device  eth1 -> sha256:")


def test_everything_is_new_without_an_old_configuration(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(BASE)
    loaded = load(tmp_path)
    assert loaded.config is not None
    assert [change.action for change in diff(None, loaded.config).changes] == ["add", "add"]
    assert diff(loaded.config, loaded.config).empty
