"""OSPF as operators write it, what they read when it is wrong, and policies at redistribution."""

from __future__ import annotations

from pathlib import Path

import pytest

from manager.config import load
from manager.resolve import resolve
from tests.unit.ospf_network import Network, ptp, single
from vrouter.config import ospf as config
from vrouter.config.policy import Actions, Conditions, Policy, Term
from vrouter.net.address import parse_prefix
from vrouter.rib.policy import PolicySet
from vrouter.rib.route import Hop, HopKind, Protocol, Route


def written(tmp_path: Path, ospf: str) -> Path:
    (tmp_path / "a.yaml").write_text(f"""
policy:
  route-policies: {{some: [{{then: accept}}]}}
routers:
  red:
    interfaces:
      lo: {{addresses: [10.255.0.1/32]}}
      lan: {{device: eth1, addresses: [10.0.0.1/24]}}
    ospf: {ospf}
""")
    return tmp_path


def test_what_operators_write_reaches_the_router(tmp_path) -> None:
    loaded = load(
        written(
            tmp_path,
            "{version: 2, redistribute: [static, {protocol: bgp, policy: some, metric-type: 1}], max-metric: true,"
            " default-information: {always: true}, spf: {long: 1s}, areas: {0.0.0.0: {interfaces: {lo: {passive: true},"
            " lan: {cost: 10, hello-interval: 1s, authentication: {hmac-sha-256: {key-id: 1, key: abc}}, bfd: true}}},"
            " 0.0.0.1: {type: nssa, ranges: {10.1.0.0/16: {}}}}}",
        )
    )
    assert loaded.errors == []
    assert loaded.config is not None
    ospf = resolve(loaded.config)["red"].protocols["ospf"]
    assert ospf.redistribute == (
        config.Redistribution(protocol="static"),
        config.Redistribution(protocol="bgp", policy="some", metric_type=1),
    )
    lan = ospf.areas["0.0.0.0"].interfaces["lan"]
    assert lan.authentication == config.Authentication(hmac_sha_256=(config.HmacKey(key_id=1, key="abc"),))
    assert (lan.cost, lan.hello_interval, lan.bfd.enabled) == (10, 1.0, True)
    assert ospf.max_metric.enabled
    assert ospf.areas["0.0.0.1"].type == "nssa"


@pytest.mark.parametrize(
    ("area", "message"),
    [
        ("0.0.0.0: {interfaces: {lam: {}}}", "no interface 'lam'"),
        ("0.0.0.0: {type: stub}", "the backbone cannot be a stub area"),
        ("0.0.0.1: {nssa-ranges: {10.0.0.0/8: {}}}", "the area is no NSSA"),
        ("0.0.0.1: {ranges: {'2001:db8::/32': {}}}", "2001:db8::/32 is not of IPv4"),
        (
            "0.0.0.0: {interfaces: {lan: {}}}, 0.0.0.1: {interfaces: {lan: {}}}",
            "the interface 'lan' is in area 0.0.0.0 already",
        ),
        (
            "0.0.0.0: {interfaces: {lan: {hello-interval: 10s, dead-interval: 10s}}}",
            "'dead-interval' is not longer than 'hello-interval'",
        ),
        ("0.0.0.0: {interfaces: {lan: {neighbors: [10.0.0.2]}}}", "neighbors are found by multicast here"),
        (
            "0.0.0.0: {interfaces: {lan: {authentication: {md5: [{key: a}, {key: b}]}}}}",
            "two keys have the same 'key-id'",
        ),
        (
            "0.0.0.0: {interfaces: {lan: {authentication: {simple: a, md5: {key: b}}}}}",
            "a password and keys exclude each other",
        ),
    ],
)
def test_what_does_not_fit_together(tmp_path, area, message) -> None:
    assert [error.message for error in load(written(tmp_path, f"{{areas: {{{area}}}}}")).errors] == [message]


def test_an_unknown_policy_is_found(tmp_path) -> None:
    errors = load(written(tmp_path, "{redistribute: [{protocol: static, policy: sone}]}")).errors
    assert [error.message for error in errors] == ["no route policy 'sone'"]


def test_a_policy_chooses_and_changes_what_is_announced() -> None:
    policies = PolicySet(
        Policy(
            prefix_lists={"private": ("172.16.0.0/12 le 32",)},
            route_policies={
                "to-ospf": (
                    Term(if_=Conditions(prefix_list=("private",)), then=Actions(metric="7", tag=99, accept=True)),
                )
            },
        )
    )
    net = Network()
    net.policies = policies
    entry = config.Redistribution(protocol="static", policy="to-ospf", metric=50)
    one = net.add("r1", {"p": "10.0.0.1/24@p"}, single("1.1.1.1", {"p": ptp()}, redistribute=(entry,)))
    other = net.add("r2", {"p": "10.0.0.2/24@p"}, single("2.2.2.2", {"p": ptp()}))
    for text in ("172.16.0.0/16", "192.0.2.0/24"):
        prefix = parse_prefix(text)
        net.redistribute(one, Protocol.STATIC, prefix, Route(prefix, Protocol.STATIC, (Hop(HopKind.BLACKHOLE),), 1))
    net.run(60)
    assert {str(prefix): (route.metric, route.tag) for prefix, route in other.routes.items()} == {
        "172.16.0.0/16": (7, 99)
    }
    # Another policy of that name is followed at once.
    net.policies = PolicySet(Policy(route_policies={"to-ospf": (Term(then=Actions(accept=True)),)}))
    net.configure(one, one.settings)
    net.run(60)
    assert {str(prefix): route.metric for prefix, route in other.routes.items()} == {
        "172.16.0.0/16": 50,
        "192.0.2.0/24": 50,
    }
