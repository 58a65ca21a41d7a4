"""What operators ask of route policies, and how the answers read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from manager.cli.policy import render_explain, render_policies
from manager.config import load
from vrouter.config.policy import Actions, Conditions, Policy, Term
from vrouter.rib.policy import PolicySet
from vrouter.rib.policy_show import explain, listing, route_of

POLICIES = PolicySet(
    Policy(
        prefix_lists={"martians": ("10.0.0.0/8 le 32",)},
        route_policies={
            "from-transit": (
                Term(name="drop-martians", if_=Conditions(prefix_list=("martians",)), then=Actions(accept=False)),
                Term(name="prefer", if_=Conditions(as_path=("^65010_",)), then=Actions(local_pref="+50")),
                Term(
                    name="rtbh",
                    if_=Conditions(community=("blackhole",), prefix_length=((32, 32), (128, 128))),
                    then=Actions(next_hop="discard", set_communities=(), accept=True),
                ),
                Term(
                    if_=Conditions(family=("ipv4",)),
                    then=Actions(accept=True, add_community=("65000:1",), prepend=(65001, 65001)),
                ),
            )
        },
    )
)


def test_each_term_is_told() -> None:
    told = explain(POLICIES, {"policy": "from-transit", "prefix": "192.0.2.0/24", "as_path": "65010 3356 {1,2}"})
    assert told["accept"]
    assert [(step["term"], step["matched"], step["result"]) for step in told["steps"]] == [
        ("drop-martians", False, "next"),
        ("prefer", True, "next"),
        ("rtbh", False, "next"),
        ("4", True, "accept"),
    ]
    assert told["steps"][2]["failed"] == "prefix-length: [32, 128]"
    assert told["changes"] == {"local_pref": 150, "communities": ["65000:1"], "prepend": [65001, 65001]}
    assert told["result"]["as_path"] == "65001 65001 65010 3356 {1,2}"
    assert render_explain(told) == (
        "route: 192.0.2.0/24, protocol bgp, as-path 65010 3356 {1,2}\n"
        "drop-martians: does not match, not prefix-list: martians\n"
        "prefer: matches, local-pref: +50 -> next\n"
        "rtbh: does not match, not prefix-length: [32, 128]\n"
        "4: matches, add-community: 65000:1, prepend: [65001, 65001] -> accept\n"
        "from-transit accepts: 192.0.2.0/24, protocol bgp, as-path 65001 65001 65010 3356 {1,2},"
        " local-pref 150, communities 65000:1"
    )


def test_a_discarded_route_and_a_refused_one() -> None:
    asked = {"policy": "from-transit", "prefix": "192.0.2.1/32", "communities": ["blackhole", "1:2"]}
    told = explain(POLICIES, asked)
    assert told["changes"] == {"next_hop": "discard", "communities": []}
    assert told["route"]["communities"] == ["blackhole", "1:2"]
    assert render_explain(told).endswith("accepts: 192.0.2.1/32, protocol bgp\nnext hop: discard")
    told = explain(POLICIES, {"policy": "from-transit", "prefix": "10.1.0.0/16"})
    assert not told["accept"]
    assert render_explain(told).endswith("drop-martians: matches -> reject\nfrom-transit rejects")
    told = explain(POLICIES, {"policy": "from-transit", "prefix": "2001:db8::/32"})
    assert render_explain(told).endswith("end of the list: reject\nfrom-transit rejects")


def test_the_manual_tells_the_truth(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "policy.md").read_text()
    example = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)[0]
    (tmp_path / "a.yaml").write_text(example)
    loaded = load(tmp_path)
    assert loaded.errors == []
    assert loaded.config is not None
    command, _, answer = re.findall(r"```\n\$ (.*?)```", page, re.DOTALL)[0].partition("\n")
    name, prefix, path, communities = re.fullmatch(
        r"vr explain policy (\S+) (\S+) --as-path '(.*)' --community (\S+)", command
    ).groups()  # type: ignore[union-attr]
    asked = {"policy": name, "prefix": prefix, "as_path": path, "communities": communities.split(",")}
    assert render_explain(explain(PolicySet(loaded.config.policy), asked)) + "\n" == answer


def test_policies_are_listed() -> None:
    assert render_policies(listing(POLICIES, {})) == (
        "from-transit:\n"
        "  drop-martians: if {prefix-list: martians} then reject\n"
        "  prefer: if {as-path: ^65010_} then local-pref: +50, next\n"
        "  rtbh: if {prefix-length: [32, 128], community: blackhole}"
        " then set-communities: [], next-hop: discard, accept\n"
        "  4: if {family: ipv4} then add-community: 65000:1, prepend: [65001, 65001], accept"
    )
    assert render_policies([]) == "no route policies"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"policy": "from-transt", "prefix": "10.0.0.0/8"}, "no route policy 'from-transt'"),
        ({"policy": "from-transit", "prefix": "10.0.0.1/8"}, "host bits"),
        ({"prefix": "10.0.0.0/8", "as_path": "1 x"}, "'x' is no part of an AS path"),
        ({"prefix": "10.0.0.0/8", "communities": ["1:*"]}, "stands for many"),
        ({"prefix": "10.0.0.0/8", "communities": ["1:2:3"]}, "is no community"),
        ({"prefix": "10.0.0.0/8", "protocol": "bpg"}, "no protocol 'bpg'"),
        ({"prefix": "10.0.0.0/8", "med": -1}, "-1 is not within 0 to 4294967295"),
        ({"prefix": "10.0.0.0/8", "origin": "x"}, "no origin 'x'"),
    ],
)
def test_what_makes_no_sense_is_refused(asked: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("*", r"\*")):
        explain(POLICIES, asked) if "policy" in asked else route_of(asked)
    with pytest.raises(ValueError, match="no route policy"):
        listing(POLICIES, {"policy": "gone"})
