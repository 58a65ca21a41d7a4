"""OSPF's configuration: every leaf is applied live, as its impact says; the same again sends nothing."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from tests.unit.ospf_network import Network, Node, port, ptp, single
from vrouter.config import ospf as config
from vrouter.config.bfd import Bfd
from vrouter.config.option import Impact
from vrouter.config.router import Interface, RouterConfig
from vrouter.net.address import parse_prefix
from vrouter.proto.base import Setting, Transmit
from vrouter.rib.route import Hop, HopKind, Protocol, Route


def world() -> tuple[Network, Node, Node]:
    net = Network()
    made = [
        net.add(
            f"r{n}",
            {"p": f"10.0.0.{n}/24@p", "lo": f"{n}.{n}.{n}.{n}/32"},
            single(
                f"{n}.{n}.{n}.{n}",
                {"p": port(), "lo": port()},
                redistribute=(config.Redistribution(protocol="static", policy=None),),
            ),
        )
        for n in (1, 2)
    ]
    prefix = parse_prefix("172.16.0.0/16")
    for text in ("172.16.0.0/16", "0.0.0.0/0"):
        prefix = parse_prefix(text)
        net.redistribute(made[0], Protocol.STATIC, prefix, Route(prefix, Protocol.STATIC, (Hop(HopKind.BLACKHOLE),)))
    net.run(100)
    assert made[1].hops("172.16.0.0/16") != []
    return net, made[0], made[1]


def interface(settings: config.Ospf, **changes: Any) -> config.Ospf:
    area = settings.areas["0.0.0.0"]
    changed = replace(area.interfaces["p"], **changes)
    return replace(settings, areas={"0.0.0.0": replace(area, interfaces=area.interfaces | {"p": changed})})


INTERFACE: dict[str, Any] = {
    "cost": 50,
    "network": "point-to-point",
    "neighbors": ("10.0.0.9",),
    "passive": True,
    "priority": 9,
    "hello_interval": 5.0,
    "dead_interval": 60.0,
    "retransmit_interval": 9.0,
    "transmit_delay": 2.0,
    "mtu_ignore": True,
    "authentication": config.Authentication(simple="x"),
    "bfd": Bfd(interval=0.1),
}
WHOLE: dict[str, Any] = {
    "redistribute": (config.Redistribution(protocol="static", metric=99),),
    "default_information": config.DefaultInformation(),
    "max_lsas": 1000,
    "maximum_paths": 1,
    "preference": 42,
    "rfc1583_compatibility": True,
    "hide_transit": True,
    "spf": config.SpfTimers(initial=0.2),
    "graceful_restart": config.GracefulRestart(helper=False),
    "max_metric": config.MaxMetric(),
}


def test_every_leaf_is_in_these_tables():
    assert {field.name for field in fields(config.OspfInterface)} == set(INTERFACE)
    assert {field.name for field in fields(config.Ospf)} == set(WHOLE) | {"version", "router_id", "areas"}


def neighbors_lost(node: Node) -> bool:
    return any("full ->" in line for line in node.logs)


@pytest.mark.parametrize("leaf", INTERFACE)
def test_a_leaf_of_an_interface_does_what_its_impact_says(leaf):
    net, one, two = world()
    impact = next(field.metadata["impact"] for field in fields(config.OspfInterface) if field.name == leaf)
    one.logs.clear()
    wanted = interface(one.settings, **{leaf: INTERFACE[leaf]})
    net.configure(one, wanted)
    if leaf == "authentication":  # the other end follows, as it must
        net.run(5)
        net.configure(two, interface(two.settings, **{leaf: INTERFACE[leaf]}))
    net.run(30)
    assert neighbors_lost(one) == (impact is Impact.SESSION)
    assert net.configure(one, wanted) == []


@pytest.mark.parametrize("leaf", WHOLE)
def test_a_leaf_of_the_protocol_is_applied_live(leaf):
    net, one, two = world()
    impact = next(field.metadata["impact"] for field in fields(config.Ospf) if field.name == leaf)
    assert impact is Impact.LIVE
    for node in (one, two):
        node.logs.clear()
    change: dict[str, Any] = {leaf: WHOLE[leaf]}
    wanted = replace(one.settings, **change)
    net.configure(one, wanted)
    net.run(30)
    assert not neighbors_lost(one)
    assert not neighbors_lost(two)
    assert net.configure(one, wanted) == []
    if leaf == "redistribute":
        assert two.routes[parse_prefix("172.16.0.0/16")].metric == 99
    elif leaf == "default_information":
        assert two.hops("0.0.0.0/0") != []
    elif leaf == "preference":
        assert one.routes[parse_prefix("2.2.2.2/32")].preference == 42


def test_the_same_configuration_again_sends_nothing():
    net, one, _ = world()
    assert net.configure(one, one.settings) == []
    sent = one.sent
    net.run(0.05)
    assert one.sent == sent


def test_another_router_id_needs_another_instance():
    net, one, _ = world()
    setting = Setting(RouterConfig("r1", 1, one.config, ospf=replace(one.settings, router_id="9.9.9.9")))
    assert not one.instance.configure(setting, net.now).live


def test_the_router_id_is_the_highest_loopback_address():
    net = Network()
    node = net.add(
        "r",
        {"lo": "10.0.0.1/32", "p": "192.168.0.1/24@p"},
        config.Ospf(areas=single("", {"p": ptp()}).areas),
    )
    assert node.show("summary")["router_id"] == "10.0.0.1"
    chosen = RouterConfig("r", 1, (Interface("lo", "loopback", addresses=("10.0.0.1/32",)),), router_id="7.7.7.7")
    assert not node.instance.configure(replace_ospf(chosen, node.settings), net.now).live


def replace_ospf(router: RouterConfig, settings: config.Ospf) -> Setting:
    return Setting(replace(router, ospf=settings))


def test_an_instance_without_an_address_is_silent_until_there_is_one():
    net = Network()
    node = net.add("r", {}, config.Ospf(areas=single("", {"p": ptp()}).areas))
    net.run(10)
    assert node.sent == 0
    assert not any(isinstance(output, Transmit) for output in node.instance.handle_timeout(net.now))
