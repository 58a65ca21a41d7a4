"""OSPF over several areas, in virtual time: summaries, stub areas, NSSAs, ranges, externals."""

from __future__ import annotations

from dataclasses import replace

from tests.unit.ospf_network import Network, Node, area, port, ptp, single
from vrouter.config import ospf as config
from vrouter.net.address import Prefix, parse_interface_address, parse_prefix
from vrouter.proto.base import OwnAddress
from vrouter.rib.route import Hop, HopKind, Protocol, Route


def three(
    kind: str = "normal", far: dict | None = None, near: dict | None = None, **inside
) -> tuple[Network, Node, Node, Node]:
    """a --backbone-- b --area 1-- c."""
    net = Network()
    a = net.add(
        "a", {"p": "10.0.0.1/30@ab", "lo": "1.1.1.1/32"}, single("1.1.1.1", {"p": ptp(), "lo": port()}, **(near or {}))
    )
    areas = {
        "0.0.0.0": area({"p": ptp(), "lo": port()}),
        "0.0.0.1": area({"q": ptp()}, type=kind, **inside),
    }
    b = net.add(
        "b",
        {"p": "10.0.0.2/30@ab", "q": "10.1.0.1/30@bc", "lo": "2.2.2.2/32"},
        config.Ospf(router_id="2.2.2.2", areas=areas),
    )
    c_area = area({"q": ptp(), "lo": port(), "x": port(), "y": port()}, type=kind)
    c = net.add(
        "c",
        {"q": "10.1.0.2/30@bc", "lo": "3.3.3.3/32", "x": "10.1.16.1/24@x", "y": "10.1.17.1/24@y"},
        config.Ospf(router_id="3.3.3.3", areas={"0.0.0.1": c_area}, **(far or {})),
    )
    net.run(60)
    return net, a, b, c


def offer(net: Network, node: Node, text: str, protocol: Protocol = Protocol.STATIC) -> None:
    prefix = parse_prefix(text)
    net.redistribute(node, protocol, prefix, Route(prefix, protocol, (Hop(HopKind.BLACKHOLE),), 1, tag=7))


STATIC = {"redistribute": (config.Redistribution(protocol="static", metric=30),)}
STATIC_1 = {"redistribute": (config.Redistribution(protocol="static", metric=30, metric_type=1),)}


def test_areas_learn_of_one_another_through_the_border():
    _net, a, b, c = three()
    assert a.hops("3.3.3.3/32") == [("p", "10.0.0.2")]
    assert a.routes[parse_prefix("3.3.3.3/32")].metric == 20
    assert c.hops("1.1.1.1/32") == [("q", "10.1.0.1")]
    assert b.show("summary")["border_router"]
    assert {row["router_id"]: row["border"] for row in a.show("border-routers")} == {"2.2.2.2": True}
    assert {lsa["id"] for lsa in a.lsas("summary")} == {"10.1.0.0", "10.1.16.0", "10.1.17.0", "3.3.3.3"}


def test_a_summary_goes_when_its_network_goes():
    net, a, _, c = three()
    net.link(c, "x", up=False)
    net.run(30)
    assert a.hops("10.1.16.0/24") == []
    assert a.hops("10.1.17.0/24") != []


def test_a_range_stands_for_what_is_in_it():
    net, a, b, c = three(ranges={"10.1.16.0/20": config.Range()})
    assert a.hops("10.1.16.0/20") == [("p", "10.0.0.2")]
    assert a.routes[parse_prefix("10.1.16.0/20")].metric == 10 + 20
    assert a.hops("10.1.16.0/24") == []
    assert b.routes[parse_prefix("10.1.16.0/20")].hops == (Hop(HopKind.BLACKHOLE),)
    net.link(c, "x", up=False)
    net.run(30)
    assert a.hops("10.1.16.0/20") != []
    net.link(c, "y", up=False)
    net.run(30)
    assert a.hops("10.1.16.0/20") == []
    assert parse_prefix("10.1.16.0/20") not in b.routes


def test_a_hidden_range_hides_what_is_in_it():
    _, a, _, _ = three(ranges={"10.1.0.0/16": config.Range(advertise=False)})
    assert [str(prefix) for prefix in a.routes] == ["2.2.2.2/32", "3.3.3.3/32"]


def test_a_stub_area_gets_a_default_route_and_no_externals():
    net, a, _, c = three("stub", near=STATIC)
    offer(net, a, "172.16.0.0/16")
    net.run(20)
    assert c.hops("0.0.0.0/0") == [("q", "10.1.0.1")]
    assert c.hops("172.16.0.0/16") == []
    assert c.hops("1.1.1.1/32") != []
    assert c.lsas("external") == []


def test_a_totally_stubby_area_gets_the_default_route_alone():
    _, _, _, c = three("stub", summaries=False, default_cost=5)
    assert [str(prefix) for prefix in c.routes] == ["0.0.0.0/0"]
    assert c.routes[Prefix(4, 0, 0)].metric == 15


def test_externals_are_flooded_everywhere_with_both_kinds_of_metric():
    for options, metric, kind in ((STATIC, 30, "external-2"), (STATIC_1, 30 + 20, "external-1")):
        net, a, _, c = three(near=options)
        offer(net, a, "172.16.0.0/16")
        net.run(20)
        route = c.routes[parse_prefix("172.16.0.0/16")]
        assert (route.metric, route.tag) == (metric, 7)
        assert kind in str(route.origin)
        assert [lsa["id"] for lsa in c.lsas("asbr-summary")] == ["1.1.1.1"]
        net.redistribute(a, Protocol.STATIC, parse_prefix("172.16.0.0/16"), None)
        net.run(20)
        assert parse_prefix("172.16.0.0/16") not in c.routes
        assert c.lsas("external") == []


def test_two_external_prefixes_of_one_network_have_two_ids():
    net, a, _, c = three(near=STATIC)
    for text in ("10.200.0.0/16", "10.200.0.0/24", "10.200.0.0/32", "10.200.0.0/20"):
        offer(net, a, text)
    net.run(30)
    assert {str(prefix) for prefix in c.routes if prefix.value >> 16 == 10 << 8 | 200} == {
        "10.200.0.0/16", "10.200.0.0/20", "10.200.0.0/24", "10.200.0.0/32",
    }  # fmt: skip
    assert len({lsa["id"] for lsa in c.lsas("external")}) == 4


def test_an_nssa_announces_to_all_through_its_translator():
    net, a, b, c = three("nssa", far=STATIC)
    offer(net, c, "172.16.0.0/16")
    net.run(30)
    (inside,) = [lsa for lsa in b.lsas("nssa") if lsa["router"] == "3.3.3.3"]
    assert inside["content"]["forwarding"] == "3.3.3.3"
    (outside,) = a.lsas("external")
    assert (outside["router"], outside["content"]["forwarding"], outside["content"]["tag"]) == ("2.2.2.2", "3.3.3.3", 7)
    assert a.hops("172.16.0.0/16") == [("p", "10.0.0.2")]
    assert b.hops("172.16.0.0/16") == [("q", "10.1.0.2")]
    assert c.hops("0.0.0.0/0") == [("q", "10.1.0.1")]
    net.redistribute(c, Protocol.STATIC, parse_prefix("172.16.0.0/16"), None)
    net.run(30)
    assert a.lsas("external") == []
    assert parse_prefix("172.16.0.0/16") not in a.routes


def test_ranges_of_an_nssa_join_what_is_translated():
    net, a, _, c = three("nssa", far=STATIC, nssa_ranges={"172.16.0.0/12": config.Range()})
    offer(net, c, "172.16.0.0/16")
    offer(net, c, "172.17.0.0/16")
    net.run(30)
    assert [(lsa["id"], lsa["content"]["mask"]) for lsa in a.lsas("external")] == [("172.16.0.0", "255.240.0.0")]


def test_externals_do_not_enter_an_nssa():
    net, a, _, c = three("nssa", near=STATIC)
    offer(net, a, "172.16.0.0/16")
    net.run(20)
    assert c.lsas("external") == []
    assert parse_prefix("172.16.0.0/16") not in c.routes


def test_a_default_route_is_announced_on_demand_and_always():
    net, a, _, c = three(near={"default_information": config.DefaultInformation()})
    assert c.hops("0.0.0.0/0") == []
    assert Protocol.STATIC in a.redistribute
    offer(net, a, "0.0.0.0/0")
    net.run(20)
    assert c.hops("0.0.0.0/0") == [("q", "10.1.0.1")]
    net, a, _, c = three(near={"default_information": config.DefaultInformation(always=True)})
    assert c.hops("0.0.0.0/0") == [("q", "10.1.0.1")]


def test_an_area_that_is_no_longer_configured_is_forgotten():
    net, a, b, _ = three()
    net.configure(b, config.Ospf(router_id="2.2.2.2", areas={"0.0.0.0": b.settings.areas["0.0.0.0"]}))
    net.run(30)
    assert [str(prefix) for prefix in a.routes] == ["2.2.2.2/32"]
    assert a.lsas("summary") == []
    assert not b.show("summary")["border_router"]


def test_an_area_changes_its_kind():
    net, a, b, c = three()
    assert c.hops("0.0.0.0/0") == []
    for node in (b, c):
        areas = dict(node.settings.areas)
        areas["0.0.0.1"] = config.Area(type="stub", interfaces=areas["0.0.0.1"].interfaces)
        net.configure(node, config.Ospf(router_id=node.settings.router_id, areas=areas))
    net.run(60)
    assert c.hops("0.0.0.0/0") == [("q", "10.1.0.1")]
    assert a.hops("3.3.3.3/32") == [("p", "10.0.0.2")]


def test_one_of_three_areas_goes_and_comes_back():
    net, a, b, _ = three()
    net.add(
        "d",
        {"r": "10.2.0.2/30@bd", "lo": "4.4.4.4/32"},
        config.Ospf(
            router_id="4.4.4.4",
            areas={"0.0.0.2": area({"r": ptp(), "lo": port()}, type="nssa")},
            redistribute=STATIC["redistribute"],
        ),
    )
    offer(net, net.nodes["d"], "172.30.0.0/16")
    whole = dict(b.settings.areas) | {"0.0.0.2": area({"r": ptp()}, type="nssa")}
    b.config = (*b.config, replace(b.config[0], name="r", addresses=("10.2.0.1/30",)))
    b.interfaces["r"] = replace(
        b.interfaces["p"], name="r", addresses=(OwnAddress(parse_interface_address("10.2.0.1/30")[0], 30),)
    )
    net.links["b", "r"] = "bd"
    for _ in range(2):
        net.configure(b, config.Ospf(router_id="2.2.2.2", areas=whole))
        net.outputs(b, b.instance.interface_changed(b.interfaces["r"], net.now))
        net.run(60)
        assert a.hops("4.4.4.4/32") == a.hops("172.30.0.0/16") == [("p", "10.0.0.2")]
        without = {name: kept for name, kept in whole.items() if name != "0.0.0.2"}
        net.configure(b, config.Ospf(router_id="2.2.2.2", areas=without))
        net.run(60)
        assert a.hops("4.4.4.4/32") == a.hops("172.30.0.0/16") == []
        assert a.hops("3.3.3.3/32") == [("p", "10.0.0.2")]


def test_the_default_route_of_a_stub_area_stays_while_other_areas_change():
    net, _, b, c = three("stub")
    (before,) = [lsa["sequence"] for lsa in c.lsas("summary") if lsa["id"] == "0.0.0.0"]
    for up in (False, True):
        net.link(b, "lo", up=up)
        net.run(30)
    assert [lsa["sequence"] for lsa in c.lsas("summary") if lsa["id"] == "0.0.0.0"] == [before]
    assert c.hops("0.0.0.0/0") == [("q", "10.1.0.1")]
