"""Live changes of OSPF lead to where a fresh start with the same configuration leads.

Three routers in a triangle change, at random and at random moments: the areas of the links and their types, summaries,
ranges, redistribution, default routes, costs, authentication; links fail meanwhile.  In the end all routes are those
of a network that began with the last configuration.  Not compared are single LSAs: what a router that has left an
area said there stays until it is too old, and counts no more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Any, Final

import pytest

from tests.unit.ospf_network import Network, Node, area, port
from vrouter.config import ospf as config
from vrouter.net.address import parse_address, parse_prefix
from vrouter.rib.route import Hop, HopKind, Protocol, Route

ADDRESSES: Final = {
    "a": {"x": "10.0.1.1/24@ab", "y": "10.0.2.1/24@ac", "lo": "10.255.0.1/32"},
    "b": {"x": "10.0.1.2/24@ab", "z": "10.0.3.2/24@bc", "lo": "10.255.0.2/32"},
    "c": {"y": "10.0.2.3/24@ac", "z": "10.0.3.3/24@bc", "s": "10.3.0.1/16@stub", "lo": "10.255.0.3/32"},
}
LINKS: Final = ("ab", "ac", "bc", "stub")
AREAS: Final = ("0.0.0.0", "0.0.0.0", "0.0.0.1", "0.0.0.2")  # the backbone twice as often
STATIC: Final = ("172.16.0.0/16", "172.16.0.0/24", "172.16.255.255/32")  # their ids collide: appendix E
RANGE: Final = "10.2.0.0/15"
SETTLED: Final = 200  # seconds
CASES: Final = 8
SEEDS_OF_A_CASE: Final = 15


@dataclass(frozen=True)
class Plan:
    """A configuration that all three have."""

    areas: dict[str, str]  # of links
    types: dict[str, str]  # of areas
    networks: dict[str, str]  # of links
    summaries: bool
    authentication: config.Authentication | None
    ranges: bool
    redistribute: dict[str, bool]  # of routers, as the next two
    default: dict[str, bool]
    cost: dict[str, int]
    hide_transit: bool


def plan(random: Random) -> Plan:
    return Plan(
        areas={link: random.choice(AREAS) for link in LINKS},
        types={
            "0.0.0.0": "normal",
            "0.0.0.1": random.choice(["normal", "stub", "nssa"]),
            "0.0.0.2": random.choice(["normal", "nssa"]),
        },
        networks={link: random.choice(["broadcast", "point-to-point"]) for link in LINKS},
        summaries=random.random() < 0.7,
        authentication=random.choice([None, config.Authentication(simple="x")]),
        ranges=random.random() < 0.4,
        redistribute={name: random.random() < 0.5 for name in ADDRESSES},
        default={name: random.random() < 0.2 for name in ADDRESSES},
        cost={name: random.choice([1, 10, 20]) for name in ADDRESSES},
        hide_transit=random.random() < 0.3,
    )


def another(random: Random, present: Plan) -> Plan:
    """Make a wholly other plan, or one that differs in one point."""
    made = plan(random)
    if random.random() < 0.5:
        return made
    point = random.choice(sorted(vars(made)))
    return replace(present, **{point: getattr(made, point)})


def settings_of(wanted: Plan, name: str) -> config.Ospf:
    interfaces: dict[str, dict[str, config.OspfInterface]] = {}
    for interface, address in ADDRESSES[name].items():
        link = address.partition("@")[2]
        home = wanted.areas[link] if link else next(iter(interfaces))
        interfaces.setdefault(home, {})[interface] = port(
            network=wanted.networks[link] if link else "broadcast",
            cost=wanted.cost[name],
            authentication=wanted.authentication,
            passive=link == "stub",
        )
    areas = {}
    for home, members in interfaces.items():
        kind = wanted.types[home]
        options: dict[str, Any] = {"type": kind, "summaries": wanted.summaries or kind == "normal"}
        if wanted.ranges:
            options["ranges"] = {RANGE: config.Range()}
        areas[home] = area(members, **options)
    return config.Ospf(
        router_id=ADDRESSES[name]["lo"].partition("/")[0],
        areas=areas,
        hide_transit=wanted.hide_transit,
        redistribute=(config.Redistribution(protocol="static"),) if wanted.redistribute[name] else (),
        default_information=config.DefaultInformation(always=True) if wanted.default[name] else None,
    )


def feed(network: Network, node: Node) -> None:
    """Give a node the routes that it may have asked for."""
    for text in STATIC:
        prefix = parse_prefix(text)
        hop = Hop(HopKind.FORWARD, "x", parse_address("10.0.1.77"))
        network.redistribute(node, Protocol.STATIC, prefix, Route(prefix, Protocol.STATIC, (hop,), 1))


def begin(wanted: Plan) -> Network:
    network = Network()
    for name, addresses in ADDRESSES.items():
        network.add(name, addresses, settings_of(wanted, name))
    for node in network.nodes.values():
        feed(network, node)
    return network


def follow(network: Network, random: Random, wanted: Plan) -> None:
    """Bring a plan to all nodes, one after the other."""
    for name in random.sample(sorted(ADDRESSES), len(ADDRESSES)):
        node = network.nodes[name]
        asked = node.redistribute
        network.configure(node, settings_of(wanted, name))
        if node.redistribute and node.redistribute != asked:
            feed(network, node)
        network.run(random.choice([0, 0, 1, 12]))
    if random.random() < 0.3:
        name = random.choice(sorted(ADDRESSES))
        interface = next(iter(ADDRESSES[name]))
        network.link(network.nodes[name], interface, up=False)
        network.run(random.choice([1, 50]))
        network.link(network.nodes[name], interface, up=True)


def routes(network: Network) -> dict[str, dict[str, tuple[Any, ...]]]:
    return {
        name: {str(prefix): (route.hops, route.metric, route.tag) for prefix, route in node.routes.items()}
        for name, node in network.nodes.items()
    }


@pytest.mark.parametrize("case", range(CASES))
def test_changes_lead_where_a_fresh_start_leads(case: int) -> None:
    for seed in range(case * SEEDS_OF_A_CASE, (case + 1) * SEEDS_OF_A_CASE):
        random = Random(seed)
        wanted = plan(random)
        network = begin(wanted)
        for _ in range(random.randrange(1, 4)):
            network.run(random.choice([0.5, 3, 30, 70]))
            wanted = another(random, wanted)
            follow(network, random, wanted)
        network.run(SETTLED)
        fresh = begin(wanted)
        fresh.run(SETTLED)
        assert routes(network) == routes(fresh), f"seed {seed}: {wanted}"
