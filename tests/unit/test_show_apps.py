"""What `vr show apps`, `groups` and `calls` are made from."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from fastpath import accounts, calls, stats
from fastpath._layout import CONSTANTS
from manager.cli import apps, render
from tests.unit.apps import World, world

GROUP, SOURCE, OTHER = "239.1.2.3", "192.0.2.7", "192.0.2.8"


@pytest.fixture
def red() -> Iterator[World]:
    with world() as made:
        yield made


def test_memberships_with_their_filters(red: World) -> None:
    ours = socket.inet_aton("10.0.0.1")
    with red.socket() as plain, red.socket() as picky:
        plain.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(GROUP) + ours)
        for source in (OTHER, SOURCE):
            picky.setsockopt(
                socket.IPPROTO_IP,
                39,  # IP_ADD_SOURCE_MEMBERSHIP
                socket.inet_aton(GROUP) + ours + socket.inet_aton(source),
            )
        found = {entry["mode"]: entry for entry in stats.memberships(red.router.state)}
        assert {entry["group"] for entry in found.values()} == {GROUP}
        assert found["exclude"]["sources"] == []
        assert found["include"]["sources"] == [SOURCE, OTHER]
        assert found["include"]["interface"] == found["exclude"]["interface"] == 1
    red.sent(0)


def test_the_filter_of_an_interface_joins_those_of_its_sockets() -> None:
    def members(*filters: tuple[str, list[str]]) -> list[dict[str, object]]:
        return [{"mode": mode, "sources": sources} for mode, sources in filters]

    assert apps._filter(members(("include", ["b", "a"]), ("include", ["a"]))) == {
        "mode": "include",
        "sources": ["a", "b"],
    }
    assert apps._filter(members(("exclude", ["a", "b"]), ("exclude", ["b", "c"]), ("include", []))) == {
        "mode": "exclude",
        "sources": ["b"],
    }
    assert apps._filter(members(("exclude", ["a", "b"]), ("include", ["a"]))) == {"mode": "exclude", "sources": ["b"]}


def test_buckets_are_quarters_of_powers_of_two() -> None:
    first = CONSTANTS["CALL_FIRST_NS"]
    assert [calls.upper_ns(bucket) for bucket in range(6)] == [
        first, first * 1.25, first * 1.5, first * 1.75, first * 2, first * 2.5,
    ]  # fmt: skip
    buckets = (0, 98, 0, 0, 2)
    assert calls.quantile_us(buckets, 0.5) == round(first * 1.25 / 1000, 2)
    assert calls.quantile_us(buckets, 0.99) == round(first * 2 / 1000, 2)


def test_keys_are_written_as_in_a_rule() -> None:
    """The example of ZeroMQ RFC 32."""
    assert accounts.z85(bytes.fromhex("864fd26fb559f75b")) == "HelloWorld"
    assert accounts.name(CONSTANTS["RULE_UID"], 7, bytes(32)) == "uid:7"
    assert accounts.name(CONSTANTS["RULE_CURVE"], 7, bytes(32)) == f"curve:{'0' * 40}"


def test_text_of_apps_names_many_routers_briefly() -> None:
    row = {
        "identity": "uid:7", "app": "x", "pid": 9, "lives": False, "routers": {f"r{n}": 1 for n in range(200)},
        "sockets": {"tcp": 200}, "bytes_sent": 1, "bytes_received": 2, "opens": 3, "denials": {"open": 4},
    }  # fmt: skip
    text = render.apps([row])
    assert "r0:1, r1:1, r2:1 and 197 more" in text
    assert "9 (gone)" in text
    assert "open 4" in text
    assert render.apps([]) == "no apps"
