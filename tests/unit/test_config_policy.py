"""Route policies in the configuration: what is said about mistakes, and where."""

from __future__ import annotations

from pathlib import Path

import pytest

from manager.config import load
from manager.resolve import resolve
from vrouter.config.policy_text import community
from vrouter.rib.policy import PolicySet

SHARED = """\
policy:
  prefix-lists:
    martians: [0.0.0.0/0 le 7, 10.0.0.0/8 le 32, 'fc00::/7 le 128']
  as-path-lists:
    customers: ['^6500[1-3]_', _64512$]
  communities: {no-export-eu: 65000:100, big: 65000:1:2, all-ours: '65000:*'}
  route-policies:
    from-transit:  # first match ends; end of list = reject
    - {name: drop-martians, if: {prefix-list: martians}, then: reject}
    - {name: rtbh, if: {community: 65535:666, prefix-length: [32, 128]}, then: {next-hop: discard, accept: true}}
    - {name: rest, then: {local-pref: 120, add-community: no-export-eu, accept: true}}
    export-own:
    - {if: {protocol: static, prefix: 172.16.0.0/12 le 24}, then: accept}
"""


def term(tmp_path: Path, text: str) -> list[tuple[int, int, str, str]]:
    """Give the errors about a term that follows SHARED, with their columns."""
    (tmp_path / "a.yaml").write_text(f"{SHARED}    - {text}\n")
    return [(error.line, error.column, error.message, error.help) for error in load(tmp_path).errors]


def test_the_example_of_the_reference_is_right(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(SHARED + "routers: {red: {}}\n")
    loaded = load(tmp_path)
    assert loaded.errors == []
    assert loaded.config is not None
    plan = resolve(loaded.config)["red"]
    assert sorted(PolicySet(plan.protocols["policy"]).names) == ["export-own", "from-transit"]


WRONG = [
    (
        "{if: {prefix-list: martian}, then: accept}",
        "martian}",
        "no prefix list 'martian'",
        "did you mean 'martians'? there is: martians",
    ),
    (
        "{if: {as-path: custmers}, then: accept}",
        "custmers",
        "no AS-path list 'custmers'",
        "did you mean 'customers'? there is: customers",
    ),
    (
        "{if: {as-path: '^(65001'}, then: accept}",
        "'^(65001'",
        "in the pattern '^(65001' a ')' is missing",
        "at character 8",
    ),
    (
        "{if: {as-path: '[a-z]'}, then: accept}",
        "'[a-z]'",
        "in the pattern '[a-z]' 'a' occurs in no AS path",
        "at character 2",
    ),
    ("{if: {community: no-exprt}, then: accept}", "no-exprt", "no community 'no-exprt'", "did you mean 'no-export'?"),
    (
        "{if: {community: big}, then: accept}",
        "big",
        "'big' is of the kind large-community",
        "write it under 'large-community'",
    ),
    ("{if: {community: 1:2:3}, then: accept}", "1:2:3", "'1:2:3' is of the kind large-community", "write it under"),
    ("{if: {community: 65536:1}, then: accept}", "65536:1", "65536 is not within 0 to 65535", ""),
    ("{then: {add-community: '65000:*'}}", "'65000:*'", "'65000:*' stands for many", "write one value"),
    ("{then: {add-community: [1:1, all-ours]}}", "all-ours", "'all-ours' stands for many", "name one that has no '*'"),
    ("{then: {med: ten}}", "ten", "'ten' is not a number", "write a decimal number"),
    ("{then: {next-hop: myself}}", "myself", "'myself' is no next hop", "write an address, self, discard, peer"),
    (
        "{then: akcept}",
        "akcept",
        "'akcept' is not allowed here",
        "did you mean 'accept'? write accept, reject, next, or a map",
    ),
    (
        "{if: {prefix: 10.0.0.0/8 le 7}, then: accept}",
        "10.0.0.0/8 le 7",
        "a length of 7 is not possible in 10.0.0.0/8",
        "within 8 to 32",
    ),
    (
        "{if: {prefix: 10.0.0.0/8 ge 24 le 16}, then: accept}",
        "10.0.0.0/8 ge",
        "'10.0.0.0/8 ge 24 le 16' matches nothing",
        "write ge 16 le 24",
    ),
    (
        "{if: {prefix: 10.0.0.1/8}, then: accept}",
        "10.0.0.1/8",
        "the prefix 10.0.0.1/8 has host bits set",
        "write 10.0.0.0/8",
    ),
    ("{if: {protocols: static}, then: accept}", "protocols", "unknown key 'protocols'", "did you mean 'protocol'?"),
    ("{if: {family: ipv5}, then: accept}", "ipv5", "'ipv5' is not allowed here", "did you mean"),
]


@pytest.mark.parametrize(("text", "at", "message", "hint"), WRONG)
def test_mistakes(tmp_path: Path, text: str, at: str, message: str, hint: str) -> None:
    (error,) = term(tmp_path, text)
    assert error[:3] == (14, f"    - {text}".index(at) + 1, message)
    assert hint in error[3]


@pytest.mark.parametrize(
    "text",
    [
        "{if: {as-path: [customers, '^$']}, then: next}",
        "{if: {community: [no-export, all-ours], large-community: ['65000:*:1', big]}, then: {accept: false}}",
        "{if: {extended-community: ['rt:65000:*', 0x0002FDE800000064]}, then: {set-communities: []}}",
        "{if: {next-hop: [192.0.2.1, '2001:db8::/32'], neighbor: 192.0.2.0/24, interface: lan}, then: accept}",
        "{if: {tag: 1-100, metric: [1, 5-7], family: ipv6, origin: [igp, egp]}, then: {med: -10, prepend: [1, 1]}}",
        "{then: {next-hop: 2001:db8::1, weight: 7, preference: 30, remove-large-community: '65000:*:*'}}",
    ],
)
def test_what_is_right(tmp_path: Path, text: str) -> None:
    assert term(tmp_path, text) == []


def test_what_a_router_has_of_its_own_comes_first(tmp_path: Path) -> None:
    own = """\
routers:
  red:
    policy:
      prefix-lists: {martians: [192.0.2.0/24]}
      route-policies: {mine: [{if: {prefix-list: martians, community: no-export-eu}, then: accept}]}
  blue:
    policy: {route-policies: {mine: [{if: {prefix-list: martins}, then: accept}]}}
"""
    (tmp_path / "a.yaml").write_text(SHARED + own)
    assert [error.message for error in load(tmp_path).errors] == ["no prefix list 'martins'"]
    (tmp_path / "a.yaml").write_text(SHARED + own.replace("martins", "martians"))
    loaded = load(tmp_path)
    assert loaded.config is not None
    plans = resolve(loaded.config)
    assert plans["red"].protocols["policy"].prefix_lists["martians"] == ("192.0.2.0/24",)
    assert len(plans["blue"].protocols["policy"].prefix_lists["martians"]) == 3


def test_who_names_a_policy_that_is_not_there(tmp_path: Path) -> None:
    text = "routers: {red: {interfaces: {lan: {device: eth1}}, rip: {interfaces: {lan: {import: from-transt}}}}}\n"
    (tmp_path / "a.yaml").write_text(SHARED + text)
    (error,) = load(tmp_path).errors
    assert error.message == "no route policy 'from-transt'"
    assert error.help == "did you mean 'from-transit'? there is: from-transit, export-own"


def test_a_policy_with_errors_is_known_all_the_same(tmp_path: Path) -> None:
    text = "routers: {red: {interfaces: {lan: {device: eth1}}, rip: {interfaces: {lan: {import: from-transit}}}}}\n"
    (tmp_path / "a.yaml").write_text(SHARED.replace("local-pref: 120", "local-pref: x") + text)
    assert [error.message for error in load(tmp_path).errors] == ["'x' is not a number"]


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("no-export", "community", 0xFFFFFF01),
        ("blackhole", "community", 0xFFFF029A),
        ("rt:65000:100", "extended-community", 0x0002FDE800000064),
        ("soo:70000:5", "extended-community", 0x0203000111700005),
        ("rt:192.0.2.1:7", "extended-community", 0x0102C00002010007),
        ("70000:1:2", "large-community", 70000 << 64 | 1 << 32 | 2),
    ],
)
def test_numbers_of_communities(text: str, kind: str, value: int) -> None:
    bits = {"community": 32, "extended-community": 64, "large-community": 96}[kind]
    assert community(text, kind) == (value, 2**bits - 1)  # type: ignore[arg-type]
