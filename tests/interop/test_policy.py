"""Route policies between a router and FRR: what FRR sees of what leaves, what is used of what comes, live changes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pytest
import yaml
from peers import Frr, eventually
from routing_lab import RoutingLab

from manager.config.model import Sequence, Struct, Words, model

pytestmark = [pytest.mark.root, pytest.mark.interop]

FRR: Final = """
router bgp 65002
 bgp router-id 10.0.0.2
 no bgp ebgp-requires-policy
 no bgp network import-check
 neighbor 10.99.1.1 remote-as 65001
 neighbor 10.99.1.1 timers connect 1
 neighbor 10.99.1.1 advertisement-interval 0
 address-family ipv4 unicast
  network 198.51.100.0/24
  network 10.66.0.0/16
  network 192.0.2.0/24 route-map far
  network 203.0.113.66/32 route-map hole
  network 100.64.7.0/24 route-map many
 exit-address-family
route-map far permit 10
 set as-path prepend 65010 65020
route-map hole permit 10
 set community 65535:666 65002:9
route-map many permit 10
 set community 65002:1 65002:2
 set large-community 65002:1:7
"""
POLICY: Final[dict[str, Any]] = {
    "prefix-lists": {"martians": ["10.0.0.0/8 le 32"], "own": ["172.16.0.0/12 le 24"]},
    "as-path-lists": {"detours": ["_65010_65020$"]},
    "communities": {"theirs": "65002:*", "ours": "65001:100"},
    "route-policies": {
        "from-frr": [
            {"name": "drop-martians", "if": {"prefix-list": "martians"}, "then": "reject"},
            {
                "name": "rtbh",
                "if": {"community": "65535:666", "prefix-length": [32, 128]},
                "then": {"next-hop": "discard", "accept": True},
            },
            {"name": "detours", "if": {"as-path": "detours"}, "then": {"local-pref": 50, "med": "+7"}},
            {
                "name": "rest",
                "then": {"remove-community": "theirs", "add-community": "ours", "weight": 5, "accept": True},
            },
        ],
        "to-frr": [
            {
                "name": "own",
                "if": {"protocol": "static", "prefix-list": "own"},
                "then": {
                    "prepend": [65001, 64999],
                    "med": 50,
                    "add-community": ["ours", "no-export"],
                    "add-large-community": "65001:1:2",
                    "origin": "egp",
                    "accept": True,
                },
            },
        ],
    },
}


class World:
    """Red and FRR."""

    def __init__(self, lab: RoutingLab) -> None:
        self.lab = lab
        lab.top["policy"] = POLICY
        neighbor = {"remote-as": 65002, "import": "from-frr", "export": "to-frr", "timers": {"connect-retry": "1s"}}
        bgp = {"asn": 65001, "redistribute": [{"protocol": "static"}], "neighbors": {"10.99.1.2": neighbor}}
        discarded = {"discard": True}
        static = dict.fromkeys(["172.16.1.0/24", "172.16.2.128/25", "10.5.0.0/16"], discarded)
        lab.router("red", router_id="10.0.0.1", bgp=bgp, static=static)
        lab.link("red", "wan", ["10.99.1.1/24"], "frr", ["10.99.1.2/24"])
        lab.start()
        self.frr = lab.run(Frr(lab["frr"], FRR))
        eventually(lambda: self.frr.established("10.99.1.1"), 30, "the session")
        eventually(lambda: len(self.used()) == 4, 30, "the routes of FRR")

    def used(self) -> dict[str, dict[str, Any]]:
        """Give the routes of BGP that are in use."""
        routes = self.lab.vr("show", "routes", "red")
        return {route["prefix"]: route for route in routes if route["protocol"] == "bgp"}

    def path(self, prefix: str) -> dict[str, Any]:
        paths = self.frr.json(f"show bgp ipv4 unicast {prefix} json").get("paths", [])
        return paths[0] if paths else {}

    def drops(self) -> int:
        count: int = self.frr.json("show bgp neighbors 10.99.1.1 json")["10.99.1.1"]["connectionsDropped"]
        return count

    def ours(self, prefix: str) -> dict[str, Any]:
        """Give the path that the router chose."""
        answer = self.lab.vr("explain", "route", "red", prefix.partition("/")[0])
        path: dict[str, Any] = answer["bgp"]["paths"][0]
        return path


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with RoutingLab() as lab:
        yield World(lab)


def test_what_comes_in_is_sorted_out(world: World) -> None:
    used = eventually(lambda: len(world.used()) == 4 and world.used(), 30, "four routes")
    assert set(used) == {"198.51.100.0/24", "192.0.2.0/24", "203.0.113.66/32", "100.64.7.0/24"}
    assert "blackhole" in str(used["203.0.113.66/32"]) or "discard" in str(used["203.0.113.66/32"])


def test_explain_shows_the_path_as_the_policy_left_it(world: World) -> None:
    detour = world.ours("192.0.2.0/24")
    assert (detour["as_path"], detour["local_pref"], detour["med"]) == ("65002 65010 65020", 50, 7)
    assert world.ours("100.64.7.0/24")["communities"] == ["65001:100"]
    assert "65002:9" in world.ours("203.0.113.66/32")["communities"]
    text = world.lab.vr_run("explain", "route", "red", "192.0.2.1", json_output=False).stdout
    assert text.startswith("192.0.2.1 is reached by 192.0.2.0/24\n")


def test_frr_sees_what_the_export_policy_made(world: World) -> None:
    path = eventually(lambda: world.path("172.16.1.0/24"), 30, "FRR has the route")
    assert path["aspath"]["string"] == "65001 65001 64999"
    assert path["metric"] == 50
    assert path["origin"] == "EGP"
    assert set(path["community"]["list"]) == {"65001:100", "noExport"}
    assert path["largeCommunity"]["string"] == "65001:1:2"
    assert not world.path("172.16.2.128/25"), "longer than the list allows"
    assert not world.path("10.5.0.0/16")


def test_a_policy_that_changes_asks_for_the_routes_again(world: World) -> None:
    drops = world.drops()
    lists = POLICY["prefix-lists"]
    changed = POLICY | {"prefix-lists": lists | {"martians": ["100.64.0.0/10 le 32"], "own": ["172.16.0.0/12 le 25"]}}
    world.lab.top["policy"] = changed
    world.lab.apply()
    eventually(lambda: "10.66.0.0/16" in world.used(), 30, "what was refused comes again")
    eventually(lambda: "100.64.7.0/24" not in world.used(), 30, "what was taken goes")
    eventually(lambda: world.path("172.16.2.128/25"), 30, "FRR gets another route")
    world.lab.top["policy"] = POLICY
    world.lab.apply()
    eventually(lambda: "10.66.0.0/16" not in world.used() and "100.64.7.0/24" in world.used(), 30, "as before")
    eventually(lambda: not world.path("172.16.2.128/25"), 30, "FRR has lost it")
    assert world.drops() == drops


def examples(kind: str) -> dict[str, Any]:
    """Give a value for each key of conditions or actions, as the schema tells of it."""
    described = model().fields["policy"].model
    for step in ("route-policies", None, None, kind):
        described = described.item if step is None else described.fields[step].model  # type: ignore[union-attr]
    assert isinstance(described, Struct)
    found = {}
    for key, field in described.fields.items():
        inner = field.model.item if isinstance(field.model, Sequence) else field.model
        words = inner.words[0] if isinstance(inner, Words) else "1"
        found[key] = yaml.load(field.example, yaml.BaseLoader) if field.example else words
    return found


def test_no_condition_and_no_action_resets_a_session(world: World) -> None:
    drops = world.drops()
    terms = POLICY["route-policies"]["from-frr"]
    tried = [{"if": {key: value}, "then": "next"} for key, value in examples("if").items()]
    tried += [{"then": {key: value}} for key, value in examples("then").items() if key != "accept"]
    assert len(tried) > 30
    for term in tried:
        policies = POLICY["route-policies"] | {"from-frr": [*terms[:1], term, *terms[1:]], "to-frr": [term]}
        world.lab.top["policy"] = POLICY | {"route-policies": policies}
        told = world.lab.apply()
        assert told["impact"] == "soft", told
    world.lab.top["policy"] = POLICY
    world.lab.apply()
    eventually(lambda: len(world.used()) == 4, 30, "as before")
    eventually(lambda: world.path("172.16.1.0/24").get("metric") == 50, 30, "FRR too")
    assert world.drops() == drops
    assert world.lab.apply()["empty"]


def test_a_policy_of_its_own_comes_before_the_shared_one(world: World) -> None:
    mine = world.lab.router("red")
    mine["policy"] = {
        "route-policies": {"to-frr": [{"if": {"protocol": "static"}, "then": {"med": 9, "accept": True}}]}
    }
    world.lab.apply()
    eventually(lambda: world.path("10.5.0.0/16").get("metric") == 9, 30, "FRR gets what the own policy allows")
    del mine["policy"]
    world.lab.apply()
    eventually(lambda: not world.path("10.5.0.0/16"), 30, "the shared one holds again")


def test_explain_tells_what_a_policy_does(world: World) -> None:
    told = world.lab.vr(
        "explain", "policy", "from-frr", "192.0.2.0/24", "--as-path", "65002 65010 65020", "--community", "65002:5"
    )
    assert [step["result"] for step in told["steps"]] == ["next", "next", "next", "accept"]
    assert told["changes"] == {"local_pref": 50, "med": 7, "weight": 5, "communities": ["65001:100"]}
    words = ("explain", "policy", "from-frr", "10.66.0.0/16", "--router", "red")
    text = world.lab.vr_run(*words, json_output=False)
    assert text.returncode == 0
    assert text.stdout.endswith("drop-martians: matches -> reject\nfrom-frr rejects\n")
    (shown,) = world.lab.vr("show", "policy", "red", "to-frr")
    assert shown["by_prefix"]
    refused = world.lab.vr_run("explain", "policy", "from-fr", "10.66.0.0/16")
    assert refused.returncode
    assert "no route policy 'from-fr'" in refused.stdout + refused.stderr
