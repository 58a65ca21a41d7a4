"""OSPF on one link, in virtual time: hellos, elections, exchange, flooding, aging, authentication, BFD."""

from __future__ import annotations

import pytest

from tests.unit.ospf_network import Network, Node, area, port, ptp, single
from vrouter.config import ospf as config
from vrouter.config.bfd import Bfd
from vrouter.net.address import Address, parse_prefix
from vrouter.proto.base import BfdState
from vrouter.rib.route import Hop, HopKind, Protocol, Route
from vrouter.wire.ospf.packet import PacketType


def lan(net: Network, count: int, **options) -> list[Node]:
    return [
        net.add(
            f"r{n}",
            {"lan": f"10.0.0.{n}/24@lan", "lo": f"{n}.{n}.{n}.{n}/32"},
            single(f"{n}.{n}.{n}.{n}", {"lan": port(**options), "lo": port()}),
        )
        for n in range(1, count + 1)
    ]


def pair(net: Network, first: config.OspfInterface, second: config.OspfInterface | None = None) -> tuple[Node, Node]:
    made = [
        net.add(
            f"r{n}",
            {"p": f"10.0.0.{n}/24@p", "lo": f"{n}.{n}.{n}.{n}/32"},
            single(f"{n}.{n}.{n}.{n}", {"p": how, "lo": port()}),
        )
        for n, how in ((1, first), (2, second or first))
    ]
    return made[0], made[1]


def roles(node: Node) -> tuple[str, str, str]:
    (shown,) = [row for row in node.show("interface") if row["interface"] in {"lan", "p"}]
    return shown["state"], shown["dr"], shown["bdr"]


def test_five_routers_elect_and_become_adjacent_to_the_elected_two_alone():
    net = Network()
    nodes = lan(net, 5)
    net.run(60)
    assert {roles(node)[1:] for node in nodes} == {("10.0.0.5", "10.0.0.4")}
    assert [roles(node)[0] for node in nodes] == ["dr-other"] * 3 + ["backup", "dr"]
    assert nodes[0].neighbors() == {"2.2.2.2": "2-way", "3.3.3.3": "2-way", "4.4.4.4": "full", "5.5.5.5": "full"}
    assert len(nodes[0].lsas("network")) == 1
    assert all(node.hops("1.1.1.1/32") == [("lan", "10.0.0.1")] for node in nodes[1:])


def test_the_backup_takes_over_and_the_old_one_does_not_preempt():
    net = Network()
    nodes = lan(net, 3)
    net.run(60)
    nodes[2].dead = True
    net.run(60)
    assert roles(nodes[0]) == ("backup", "10.0.0.2", "10.0.0.1")
    assert nodes[0].hops("3.3.3.3/32") == []
    nodes[2] = net.add("r3", {"lan": "10.0.0.3/24@lan"}, single("3.3.3.3", {"lan": port()}))
    net.run(60)
    assert roles(nodes[2]) == ("dr-other", "10.0.0.2", "10.0.0.1")


def test_priority_decides_and_zero_never_becomes_designated():
    net = Network()
    low, high = pair(net, port(priority=200), port(priority=0))
    net.run(60)
    assert roles(low) == ("dr", "10.0.0.1", "0.0.0.0")
    assert roles(high)[0] == "dr-other"
    assert low.neighbors() == {"2.2.2.2": "full"}


@pytest.mark.parametrize("network", ["broadcast", "point-to-point", "point-to-multipoint"])
def test_each_kind_of_network_carries_routes(network):
    net = Network()
    one, other = pair(net, port(network=network))
    net.run(60)
    assert one.neighbors() == {"2.2.2.2": "full"}
    assert one.hops("2.2.2.2/32") == [("p", "10.0.0.2")]
    assert other.hops("1.1.1.1/32") == [("p", "10.0.0.1")]


def test_configured_neighbors_are_spoken_to_by_unicast():
    net = Network()
    one, _ = pair(
        net,
        port(network="point-to-multipoint", neighbors=("10.0.0.2",)),
        port(network="point-to-multipoint", neighbors=("10.0.0.1",)),
    )
    for node in net.nodes.values():
        node.groups["p"].clear()  # no multicast arrives
    net.run(60)
    assert one.neighbors() == {"2.2.2.2": "full"}
    assert one.hops("2.2.2.2/32") == [("p", "10.0.0.2")]


def test_different_timers_or_areas_form_no_neighbor():
    for other in (port(hello_interval=5.0), port(dead_interval=30.0)):
        net = Network()
        one, _ = pair(net, port(), other)
        net.run(60)
        assert one.neighbors() == {}
    net = Network()
    one = net.add("r1", {"p": "10.0.0.1/24@p"}, single("1.1.1.1", {"p": ptp()}))
    net.add("r2", {"p": "10.0.0.2/24@p"}, config.Ospf(router_id="2.2.2.2", areas={"0.0.0.1": area({"p": ptp()})}))
    net.run(60)
    assert one.neighbors() == {}
    assert one.show("interface")[0]["drops"]["area"] > 3


KEYS = {
    "simple": config.Authentication(simple="secret"),
    "md5": config.Authentication(md5=(config.Md5Key(key_id=3, key="secret"),)),
    "sha1": config.Authentication(hmac_sha_1=(config.HmacKey(key="secret"),)),
    "sha256": config.Authentication(hmac_sha_256=(config.HmacKey(key="secret"),)),
    "sha384": config.Authentication(hmac_sha_384=(config.HmacKey(key="secret" * 20),)),
    "sha512": config.Authentication(hmac_sha_512=(config.HmacKey(key="secret"),)),
    "extended": config.Authentication(hmac_sha_256=(config.HmacKey(key="secret", extended_sequence=True),)),
}


@pytest.mark.parametrize("kind", KEYS)
def test_authentication_lets_those_in_who_know_the_key(kind):
    net = Network()
    one, other = pair(net, port(authentication=KEYS[kind]))
    net.run(60)
    assert one.neighbors() == {"2.2.2.2": "full"}
    assert one.hops("2.2.2.2/32") != []
    wrong = config.Authentication(md5=(config.Md5Key(key_id=3, key="other"),))
    net.configure(other, single("2.2.2.2", {"p": port(authentication=wrong), "lo": port()}))
    net.run(60)
    assert one.neighbors() == {}


def test_a_key_is_changed_without_losing_the_neighbor():
    net = Network()
    first, second = config.HmacKey(key_id=1, key="old"), config.HmacKey(key_id=2, key="new")
    nodes = pair(net, port(authentication=config.Authentication(hmac_sha_256=(first,))))
    net.run(60)
    before = [row["changes"] for node in nodes for row in node.show("neighbor")]
    for keys in ((first, second), (second,)):
        for node in nodes:
            settings = single(
                node.router_id,
                {"p": port(authentication=config.Authentication(hmac_sha_256=keys)), "lo": port()},
            )
            net.configure(node, settings)
            net.run(15)
    assert [row["changes"] for node in nodes for row in node.show("neighbor")] == before


@pytest.mark.parametrize("kind", ["md5", "extended"])
def test_a_packet_that_is_played_again_is_dropped(kind):
    net = Network()
    captured = []

    def record(source, _target, data):
        if source == "r2" and data[1] == PacketType.HELLO:
            captured.append(data)
        return data

    net.filter = record
    one, _ = pair(net, ptp(authentication=KEYS[kind]))
    net.run(60)
    before = one.show("interface")[1]["drops"].get("authentication-sequence", 0)
    net._deliver((net.now, 0, "r1", "p", captured[0], Address(4, 0x0A000002).value, 0xE0000005))
    assert one.show("interface")[1]["drops"]["authentication-sequence"] == before + 1


@pytest.mark.parametrize("kind", ["md5", "extended"])
def test_an_instance_made_anew_is_believed_at_once(kind):
    net = Network()
    one, other = pair(net, ptp(authentication=KEYS[kind]))
    net.run(60)
    other.dead = True
    before = one.show("interface")[1]["drops"].get("authentication-sequence", 0)
    net.add("r2", {"p": "10.0.0.2/24@p"}, single("2.2.2.2", {"p": ptp(authentication=KEYS[kind])}))
    net.run(15)
    assert one.show("interface")[1]["drops"].get("authentication-sequence", 0) == before
    assert one.neighbors() == {"2.2.2.2": "full"}


def test_much_loss_delays_but_does_not_prevent():
    net = Network(seed=7)
    net.filter = lambda _s, _t, data: data if data[1] == PacketType.HELLO or net.random.random() > 0.4 else None
    nodes = lan(net, 4)
    net.run(300)
    assert all(len(node.routes) == 3 for node in nodes)
    assert len({len(node.show("database")["rows"]) for node in nodes}) == 1


def test_lsas_are_refreshed_and_those_of_the_dead_expire():
    net = Network()
    one, other = pair(net, ptp())
    net.run(1000)
    (before,) = [lsa for lsa in one.lsas("router") if lsa["router"] == "2.2.2.2"]
    net.run(1200)
    (after,) = [lsa for lsa in one.lsas("router") if lsa["router"] == "2.2.2.2"]
    assert int(after["sequence"], 16) == int(before["sequence"], 16) + 1
    other.dead = True
    net.run(1000)
    assert [lsa["router"] for lsa in one.lsas("router")] == ["1.1.1.1", "2.2.2.2"]
    assert one.hops("2.2.2.2/32") == []
    net.run(2700)
    assert [lsa["router"] for lsa in one.lsas("router")] == ["1.1.1.1"]


def test_what_a_former_life_has_announced_is_taken_back():
    net = Network()
    one, other = pair(net, ptp())
    settings = single("2.2.2.2", {"p": ptp(), "lo": port()}, redistribute=(config.Redistribution(protocol="static"),))
    net.configure(other, settings)
    prefix = parse_prefix("172.16.0.0/16")
    net.redistribute(other, Protocol.STATIC, prefix, Route(prefix, Protocol.STATIC, (Hop(HopKind.BLACKHOLE),)))
    net.run(60)
    assert one.hops("172.16.0.0/16") != []
    other.dead = True
    net.run(2)
    net.add("r2", {"p": "10.0.0.2/24@p", "lo": "2.2.2.2/32"}, single("2.2.2.2", {"p": ptp(), "lo": port()}))
    net.run(60)
    assert one.neighbors() == {"2.2.2.2": "full"}
    assert one.lsas("external") == []
    assert one.hops("172.16.0.0/16") == []
    assert one.hops("2.2.2.2/32") != []


def test_bfd_takes_a_neighbor_down_at_once():
    net = Network()
    one, _ = pair(net, ptp(bfd=Bfd(interval=0.05)))
    net.run(60)
    (wish,) = one.bfd
    assert (str(wish.remote), wish.interface, wish.transmit_interval) == ("10.0.0.2", "p", 0.05)
    for up in (True, False):
        net.outputs(one, one.instance.bfd_changed(BfdState(wish.session, up), net.now))
    assert one.neighbors() == {}
    net.run(0.1)
    assert one.hops("2.2.2.2/32") == []


def test_equal_ways_share_the_flows():
    net = Network()
    ends = {}
    for n in (1, 2):
        interfaces = {f"p{i}": f"10.0.{i}.{n}/30@p{i}" for i in range(20)} | {"lo": f"{n}.{n}.{n}.{n}/32"}
        settings = single(
            f"{n}.{n}.{n}.{n}", {name: ptp() if name != "lo" else port() for name in interfaces}, maximum_paths=18
        )
        ends[n] = net.add(f"r{n}", interfaces, settings)
    net.run(60)
    assert len(ends[1].hops("2.2.2.2/32")) == 18


def test_a_stub_router_is_passed_around():
    net = Network()
    for n, peers in ((1, (2, 3)), (2, (1, 4)), (3, (1, 4)), (4, (2, 3))):
        interfaces = {f"to-{m}": f"10.{min(n, m)}.{max(n, m)}.{n}/24@{min(n, m)}-{max(n, m)}" for m in peers}
        interfaces["lo"] = f"{n}.{n}.{n}.{n}/32"
        net.add(
            f"r{n}",
            interfaces,
            single(f"{n}.{n}.{n}.{n}", {name: ptp() if name != "lo" else port() for name in interfaces}),
        )
    net.run(60)
    first = net.nodes["r1"]
    assert len(first.hops("4.4.4.4/32")) == 2
    two = net.nodes["r2"]
    startup = config.MaxMetric(on_startup=100.0)
    net.configure(two, config.Ospf(router_id="2.2.2.2", areas=two.settings.areas, max_metric=startup))
    net.run(30)
    assert first.hops("4.4.4.4/32") == [("to-3", "10.1.3.3")]
    assert first.hops("2.2.2.2/32") == [("to-2", "10.1.2.2")]
    net.run(100)
    assert len(first.hops("4.4.4.4/32")) == 2


def test_transit_networks_can_be_hidden():
    net = Network()
    settings = {"hide_transit": True}
    one = net.add(
        "r1", {"p": "10.0.0.1/30@p", "lo": "1.1.1.1/32"}, single("1.1.1.1", {"p": ptp(), "lo": port()}, **settings)
    )
    net.add(
        "r2", {"p": "10.0.0.2/30@p", "q": "10.0.1.1/24@q"}, single("2.2.2.2", {"p": ptp(), "q": port()}, **settings)
    )
    net.add(
        "r3", {"q": "10.0.1.2/24@q", "lo": "3.3.3.3/32"}, single("3.3.3.3", {"q": port(), "lo": port()}, **settings)
    )
    net.run(60)
    assert [str(prefix) for prefix in one.routes] == ["3.3.3.3/32"]


def test_a_goodbye_is_understood_at_once():
    net = Network()
    one, other = pair(net, ptp())
    net.run(60)
    net.outputs(other, other.instance.stop(net.now))
    other.dead = True
    net.run(1)
    assert "full" not in one.neighbors().values()
    net.run(6)
    assert one.hops("2.2.2.2/32") == []


def test_who_leaves_a_link_is_not_waited_for():
    net = Network()
    one, other = pair(net, ptp())
    net.run(60)
    net.configure(other, single("2.2.2.2", {"p": ptp(passive=True), "lo": port()}))
    net.run(1)
    assert "full" not in one.neighbors().values()
