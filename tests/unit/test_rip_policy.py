"""Route policies in RIP and in route leaking."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from manager.config import load
from tests.unit.datagram_world import World
from tests.unit.test_leak import configure, pair, use, ways
from tests.unit.test_rip import line, plain, reached, router, static
from vrouter.config.leak import Leak as LeakSettings
from vrouter.config.rip import RipInterface, RipRedistribution
from vrouter.net.address import parse_prefix
from vrouter.proto import base
from vrouter.proto.rip.instance import ripv2
from vrouter.rib.policy import PolicySet
from vrouter.rib.route import Protocol

POLICIES = """
policy:
  prefix-lists: {own: [10.255.0.0/16 le 32]}
  route-policies:
    not-own: [{if: {prefix-list: own}, then: reject}, {then: accept}]
    far: [{if: {prefix-list: own}, then: {metric: 9, tag: 42, accept: true}}, {then: accept}]
    too-far: [{then: {metric: 16, accept: true}}]
    all: [{then: accept}]
    preferred: [{then: {preference: 7, accept: true}}]
"""


def policies(tmp_path: Path, text: str = POLICIES, previous: PolicySet | None = None) -> PolicySet:
    (tmp_path / "a.yaml").write_text(text)
    loaded = load(tmp_path)
    assert loaded.errors == []
    assert loaded.config is not None
    return PolicySet(loaded.config.policy, previous)


def lan(**settings):
    return router({"lo": RipInterface(), "right": RipInterface(**settings)})


@pytest.mark.parametrize(
    ("name", "metric", "tag"), [("not-own", None, 0), ("far", 9, 42), ("too-far", None, 0), ("all", 2, 0)]
)
def test_import(tmp_path, name, metric, tag) -> None:
    world = World()
    nodes = line(world, 2)
    nodes[0].policies = policies(tmp_path)
    nodes[0].configure(lan(import_=name))
    world.run(40)
    assert reached(nodes[0]).get("10.255.0.1/32", (None,))[0] == metric
    if metric is not None:
        assert nodes[0].routes[parse_prefix("10.255.0.1/32")].tag == tag


def test_another_import_policy_works_at_once_both_ways(tmp_path) -> None:
    world = World()
    nodes = line(world, 2)
    nodes[0].policies = policies(tmp_path)
    world.run(40)
    nodes[0].configure(lan(import_="not-own"))
    assert "10.255.0.1/32" not in reached(nodes[0])
    nodes[0].configure(lan(import_="all"))
    world.run(1)  # what was refused is asked for again
    assert reached(nodes[0])["10.255.0.1/32"][0] == 2


def test_a_changed_text_works_as_another_policy_does(tmp_path) -> None:
    world = World()
    nodes = line(world, 2)
    nodes[0].policies = first = policies(tmp_path)
    nodes[0].configure(lan(import_="not-own", export="all"))
    world.run(40)
    nodes[0].policies = policies(tmp_path, previous=first)
    assert nodes[0].configure(lan(import_="not-own", export="all")) == []
    nodes[0].policies = policies(tmp_path, POLICIES.replace("10.255.0.0/16 le 32", "10.9.0.0/16"), first)
    nodes[0].configure(lan(import_="not-own", export="all"))
    world.run(1)
    assert "10.255.0.1/32" in reached(nodes[0])


def test_export_and_what_it_takes_back(tmp_path) -> None:
    world = World()
    nodes = line(world, 2)
    nodes[0].policies = policies(tmp_path)
    world.run(40)
    assert reached(nodes[1])["10.255.0.0/32"][0] == 2
    nodes[0].configure(lan(export="far"))
    world.run(8)
    assert reached(nodes[1])["10.255.0.0/32"][0] == 10
    nodes[0].configure(lan(export="not-own"))
    world.run(8)
    assert "10.255.0.0/32" not in reached(nodes[1])
    world.run(200)
    assert "10.255.0.0/32" not in reached(nodes[1])
    nodes[0].configure(plain("lo", "right"))
    world.run(8)
    assert reached(nodes[1])["10.255.0.0/32"][0] == 2


@pytest.mark.parametrize(("name", "metric"), [("far", 9), ("not-own", None), ("all", 3), (None, 3), ("too-far", None)])
def test_redistribution(tmp_path, name, metric) -> None:
    world = World()
    node = world.node("a", ripv2)
    node.policies = policies(tmp_path)
    world.segment((node, "lan", "10.0.0.1/24"))
    node.configure(plain("lan", redistribute=(RipRedistribution(protocol="static", policy=name, metric=3),)))
    route = static("10.255.7.0/24", "10.0.0.9")
    node.take(node.instance.routes_changed((base.RouteEvent(route.prefix, Protocol.STATIC, route),), world.now))
    row = node.instance.table.rows.get(route.prefix)
    assert (row.metric if row is not None and row.own is not None else None) == metric


def test_leaking(tmp_path) -> None:
    world = World()
    red, blue = pair(world)
    red.policies = blue.policies = policies(tmp_path)
    static_only: dict[str, Any] = {"protocols": ("static",)}
    configure(red, **{"to-blue": LeakSettings(**static_only, export="not-own")})
    configure(blue, **{"to-red": LeakSettings(import_="preferred")})
    use(red, "10.255.1.0/24")
    use(red, "10.1.0.0/16")
    world.run(8)
    assert set(ways(blue)) == {"10.1.0.0/16"}
    assert blue.routes[parse_prefix("10.1.0.0/16")].preference == 7
    configure(red, **{"to-blue": LeakSettings(**static_only)})
    world.run(1)
    assert set(ways(blue)) == {"10.1.0.0/16", "10.255.1.0/24"}
    configure(blue, **{"to-red": LeakSettings(import_="not-own")})
    assert set(ways(blue)) == {"10.1.0.0/16"}
    configure(blue, **{"to-red": LeakSettings()})
    assert set(ways(blue)) == {"10.1.0.0/16", "10.255.1.0/24"}
