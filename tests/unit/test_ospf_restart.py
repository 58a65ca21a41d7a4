"""Graceful restart of OSPF (RFC 3623), both roles, in virtual time."""

from __future__ import annotations

import pytest

from tests.unit.ospf_network import Network, Node, port, ptp, single
from vrouter.config import ospf as config


def chain(kind: config.OspfInterface, **options) -> tuple[Network, Node, Node, Node]:
    """r1 -- r2 -- r3."""
    net = Network()
    one = net.add(
        "r1", {"a": "10.0.0.1/24@a", "lo": "1.1.1.1/32"}, single("1.1.1.1", {"a": kind, "lo": port()}, **options)
    )
    two = middle(net, kind, **options)
    three = net.add(
        "r3", {"b": "10.0.1.3/24@b", "lo": "3.3.3.3/32"}, single("3.3.3.3", {"b": kind, "lo": port()}, **options)
    )
    net.run(100)
    assert one.hops("3.3.3.3/32") == [("a", "10.0.0.2")]
    return net, one, two, three


def middle(net: Network, kind: config.OspfInterface, restarted: bool = False, **options) -> Node:
    interfaces = {"a": "10.0.0.2/24@a", "b": "10.0.1.2/24@b", "lo": "2.2.2.2/32"}
    return net.add("r2", interfaces, single("2.2.2.2", {"a": kind, "b": kind, "lo": port()}, **options), restarted)


def crash(net: Network, node: Node, after: float = 2.0) -> None:
    node.dead = True
    net.run(after)


@pytest.mark.parametrize(
    "kind", [ptp(), port(), port(priority=9), port(network="point-to-multipoint")], ids=["p2p", "lan", "dr", "p2mp"]
)
def test_neighbors_keep_their_routes_while_one_restarts(kind):
    net, one, two, three = chain(kind)
    if kind.priority == 9:  # let the middle be designated
        for node in (one, three):
            name = "a" if node is one else "b"
            net.configure(node, single(node.router_id, {name: port(priority=0), "lo": port()}))
        net.run(60)
        assert [row["state"] for row in two.show("interface")][:2] == ["dr", "dr"]
    crash(net, two)
    computations = one.show("summary")["computations"]
    again = middle(net, kind, restarted=True)
    for _ in range(50):
        net.run(1)
        assert one.hops("3.3.3.3/32") == [("a", "10.0.0.2")]
        assert three.hops("1.1.1.1/32") == [("b", "10.0.1.2")]
        assert again.settled or not again.routes  # nothing is installed before all is learnt
    assert again.settled
    assert again.show("summary")["last_restart"] == "completed"
    assert {str(prefix) for prefix in again.routes} >= {"1.1.1.1/32", "3.3.3.3/32"}
    assert not any(row["helped"] for row in one.show("neighbor"))
    assert one.lsas("opaque-link") == []
    assert one.show("summary")["computations"] - computations <= 3
    net.run(4000)
    assert one.hops("3.3.3.3/32") == [("a", "10.0.0.2")]


def test_a_router_that_does_not_come_back_is_given_up():
    net, one, two, _ = chain(ptp(), graceful_restart=config.GracefulRestart(period=60.0))
    crash(net, two)
    again = middle(net, ptp(), restarted=True, graceful_restart=config.GracefulRestart(period=60.0))
    net.run(0.1)
    assert one.show("neighbor")[0]["helped"]
    again.dead = True
    net.run(50)
    assert one.hops("3.3.3.3/32") != []
    net.run(30)
    assert one.hops("3.3.3.3/32") == []
    assert one.neighbors() == {}


def test_help_ends_when_the_topology_changes():
    net, one, two, three = chain(ptp())
    crash(net, two)
    again = middle(net, ptp(), restarted=True)
    net.filter = lambda _source, _target, data: None if data[1] in {2, 3} else data  # the exchange goes nowhere
    net.run(1)
    assert one.show("neighbor")[0]["helped"]
    net.filter = None
    net.link(three, "lo", up=False)
    net.run(100)
    assert again.settled
    assert one.hops("2.2.2.2/32") != []
    assert one.hops("3.3.3.3/32") == []


def test_without_helpers_the_restart_ends_and_routes_come_back():
    net, one, two, _ = chain(ptp(), graceful_restart=config.GracefulRestart(helper=False))
    crash(net, two)
    again = middle(net, ptp(), restarted=True)
    net.run(200)
    assert again.settled
    assert one.hops("3.3.3.3/32") == [("a", "10.0.0.2")]


def test_a_restart_without_grace_says_at_once_that_it_knows_nothing():
    net, _, two, _ = chain(ptp(), graceful_restart=config.GracefulRestart(enabled=False))
    crash(net, two)
    again = middle(net, ptp(), restarted=True, graceful_restart=config.GracefulRestart(enabled=False))
    assert again.settled
    assert not again.show("summary")["restarting"]


def test_a_restart_alone_on_its_links_ends_with_the_period():
    net = Network()
    node = middle(net, ptp(), restarted=True, graceful_restart=config.GracefulRestart(period=30.0))
    net.run(29)
    assert not node.settled
    net.run(2)
    assert node.settled


def test_a_restart_that_nobody_remembers_ends_with_the_first_neighbor():
    net = Network()
    one = net.add("r1", {"a": "10.0.0.1/24@a", "lo": "1.1.1.1/32"}, single("1.1.1.1", {"a": ptp(), "lo": port()}))
    net.run(60)
    again = middle(net, ptp(), restarted=True)
    net.run(30)
    assert again.settled
    assert one.hops("2.2.2.2/32") == [("a", "10.0.0.2")]
    assert again.hops("1.1.1.1/32") == [("a", "10.0.0.1")]
