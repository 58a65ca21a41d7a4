"""What `vr show ospf` prints: every answer of an instance becomes JSON, and text with what operators look for."""

from __future__ import annotations

import json

import pytest

from manager.cli.ospf import render_ospf
from tests.unit.ospf_network import Network, area, port, ptp
from vrouter.config import ospf as config

QUERIES = {
    "summary": ("OSPF router 2.2.2.2, area border router", "0.0.0.1", "nssa"),
    "neighbor": ("1.1.1.1", "full", "3.3.3.3", "bdr"),
    "interface": ("10.0.0.2/24", "point-to-point", "10/40", "md5"),
    "database": ("area 0.0.0.1", "router", "0x8000000", "network"),
    "route": ("10.1.0.0/30", "intra-area", "connected@p"),
    "border-routers": ("1.1.1.1", "ASBR"),
}


@pytest.fixture(scope="module")
def network() -> Network:
    net = Network()
    key = config.Authentication(md5=(config.Md5Key(key="secret"),))
    outer = {"p": port(authentication=key)}
    announce = config.DefaultInformation(always=True)
    first = config.Ospf(router_id="1.1.1.1", areas={"0.0.0.0": area(outer)}, default_information=announce)
    areas = {"0.0.0.0": area(outer), "0.0.0.1": area({"q": ptp()}, type="nssa")}
    net.add("a", {"p": "10.0.0.1/24@ab"}, first)
    net.add("b", {"p": "10.0.0.2/24@ab", "q": "10.1.0.1/30@bc"}, config.Ospf(router_id="2.2.2.2", areas=areas))
    inner = {"0.0.0.1": area({"q": ptp()}, type="nssa")}
    net.add("c", {"q": "10.1.0.2/30@bc"}, config.Ospf(router_id="3.3.3.3", areas=inner))
    net.run(60)
    return net


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("detail", [False, True])
def test_answers_are_plain_data_and_become_text(network, query, detail):
    answer = network.nodes["b"].show(query, detail=detail)
    rows = answer["rows"] if isinstance(answer, dict) and "rows" in answer else answer
    text = render_ospf(json.loads(json.dumps(rows)))
    for wanted in QUERIES[query]:
        assert wanted in text, text
    assert "secret" not in text


def test_the_secret_is_nowhere(network):
    node = network.nodes["b"]
    assert "secret" not in repr(node.instance._core.interfaces["p"].keys)


def test_large_answers_come_in_pages(network):
    node = network.nodes["b"]
    everything = node.show("database")["rows"]
    found, after = [], None
    while True:
        page = node.show("database", after=after, limit=2)
        assert len(page["rows"]) <= 2
        found += page["rows"]
        after = page["after"]
        if after is None:
            break
    assert found == everything
    assert len(everything) > 4


def test_nothing_to_show_is_said():
    assert render_ospf([]) == "nothing"


def test_an_unknown_query_is_refused(network):
    with pytest.raises(KeyError):
        network.nodes["b"].show("nonsense")
