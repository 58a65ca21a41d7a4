"""Every leaf of BGP's configuration, changed while a session is up: it disturbs what the schema says, and no more."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Final

import pytest

from manager.config.model import Map, Model, Sequence, Struct, model
from tests.unit.bgp_world import BgpWorld, Router
from vrouter.config.bfd import Bfd, BfdKey
from vrouter.config.bgp import (
    AddPath,
    Bgp,
    GracefulRestart,
    ListenRange,
    MaxPrefixes,
    Multipath,
    Neighbor,
    Preference,
    Redistribution,
    Session,
    Timers,
)
from vrouter.config.option import Impact
from vrouter.config.policy import Actions, Policy, Term
from vrouter.proto import base

A, B = "10.0.0.1", "10.0.0.2"
EVERYTHING: Final = Policy(route_policies={"all": (Term(then=Actions(accept=True)),)})

# For each leaf of a neighbor another value; what is None by itself in `BEFORE` is unsaid there.
NEIGHBOR: Final[dict[str, Any]] = {
    "remote-as": 65009,
    "local-as": 65008,
    "description": "another",
    "shutdown": True,
    "shutdown-message": "why",
    "password": "secret",
    "gtsm": 1,
    "multihop": 3,
    "local-address": A,
    "interface": "lan",
    "passive": True,
    "import": "all",
    "export": "all",
    "require-policy": True,
    "families": ("ipv4", "ipv6"),
    "role": "peer",
    "role-strict": True,
    "extended-next-hop": True,
    "extended-messages": False,
    "route-reflector-client": True,
    "next-hop-self": True,
    "next-hop-unchanged": True,
    "send-communities": False,
    "remove-private-as": True,
    "allow-own-as": 1,
    "as-override": True,
    "enforce-first-as": False,
    "weight": 5,
    "group": "other",
}
NESTED: Final[dict[str, tuple[str, Any]]] = {
    "max-prefixes.ipv4": ("max_prefixes", MaxPrefixes(ipv4=99)),
    "max-prefixes.ipv6": ("max_prefixes", MaxPrefixes(ipv6=99)),
    "max-prefixes.action": ("max_prefixes", MaxPrefixes(action="warn")),
    "max-prefixes.restart": ("max_prefixes", MaxPrefixes(restart=9.0)),
    "graceful-restart.enabled": ("graceful_restart", GracefulRestart(enabled=False)),
    "graceful-restart.time": ("graceful_restart", GracefulRestart(time=30.0)),
    "graceful-restart.stale-time": ("graceful_restart", GracefulRestart(stale_time=30.0)),
    "graceful-restart.deferral": ("graceful_restart", GracefulRestart(deferral=30.0)),
    "add-path.receive": ("add_path", AddPath(receive=True)),
    "add-path.send": ("add_path", AddPath(send=2)),
    "timers.hold": ("timers", Timers(hold=30.0)),
    "timers.keepalive": ("timers", Timers(keepalive=5.0)),
    "timers.connect-retry": ("timers", Timers(connect_retry=9.0)),
    "timers.delay-open": ("timers", Timers(delay_open=1.0)),
    "timers.send-hold": ("timers", Timers(send_hold=999.0)),
    "bfd.enabled": ("bfd", Bfd()),
    "bfd.interval": ("bfd", Bfd(interval=0.05)),
    "bfd.receive-interval": ("bfd", Bfd(receive_interval=0.05)),
    "bfd.multiplier": ("bfd", Bfd(multiplier=5)),
    "bfd.echo-interval": ("bfd", Bfd(echo_interval=0.05)),
    "bfd.passive": ("bfd", Bfd(passive=True)),
    "bfd.min-ttl": ("bfd", Bfd(min_ttl=250)),
    "bfd.authentication.type": ("bfd", Bfd(authentication=BfdKey(type="sha1", key="x"))),
    "bfd.authentication.key-id": ("bfd", Bfd(authentication=BfdKey(type="sha1", key="x", key_id=2))),
    "bfd.authentication.key": ("bfd", Bfd(authentication=BfdKey(type="sha1", key="y"))),
}
OTHERS: Final[dict[str, dict[str, Any]]] = {
    "asn": {"asn": 65008},
    "router-id": {"router_id": "10.9.9.9"},
    "cluster-id": {"cluster_id": "10.9.9.9"},
    "networks": {"networks": ("10.1.0.0/16", "10.7.0.0/16")},
    "redistribute.protocol": {"redistribute": (Redistribution(protocol="static"),)},
    "redistribute.policy": {"redistribute": (Redistribution(protocol="static", policy="all"),)},
    "multipath.external": {"multipath": Multipath(external=4)},
    "multipath.internal": {"multipath": Multipath(internal=4)},
    "multipath.relax": {"multipath": Multipath(relax=True)},
    "preference.external": {"preference": Preference(external=30)},
    "preference.internal": {"preference": Preference(internal=30)},
    "always-compare-med": {"always_compare_med": True},
    "compare-router-id": {"compare_router_id": False},
    "listen.limit": {"listen": {"10.9.0.0/16": ListenRange(group="mine", limit=3)}},
}
# Within an AS these mean nothing else than a new session.
INTERNAL: Final = {"route-reflector-client", "next-hop-self"}


def leaves(described: Model, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Impact]]:
    """All leaves below a struct, with their impacts."""
    if isinstance(described, Map | Sequence):
        yield from leaves(described.item, path)
    if not isinstance(described, Struct):
        return
    for field in described.fields.values():
        inner = field.model
        while isinstance(inner, Map | Sequence):
            inner = inner.item
        if isinstance(inner, Struct):
            yield from leaves(inner, (*path, field.key))
        else:
            yield ".".join((*path, field.key)), field.impact


def schema() -> dict[str, Impact]:
    router = model().fields["routers"].model
    assert isinstance(router, Map)
    assert isinstance(router.item, Struct)
    return dict(leaves(router.item.fields["bgp"].model))


SCHEMA: Final = schema()
CASES: Final = (
    [(f"neighbors.{name}", name) for name in NEIGHBOR] + [(f"neighbors.{name}", name) for name in NESTED]
) + [(name, name) for name in OTHERS]


def test_every_leaf_is_tried() -> None:
    tried = {leaf for leaf, _ in CASES} | {"listen.group"}
    assert {leaf for leaf in SCHEMA if not leaf.startswith("groups.")} == tried
    groups = {leaf.removeprefix("groups.") for leaf in SCHEMA if leaf.startswith("groups.")}
    assert {f"neighbors.{leaf}" for leaf in groups} <= tried


def config(asn: int, neighbor: str, remote: int) -> Bgp:
    plain = Neighbor(remote_as=remote, require_policy=False, timers=Timers(connect_retry=1.0))
    groups = {"other": Session(timers=Timers(hold=60.0)), "mine": Session(remote_as=65001)}
    return Bgp(
        asn=asn,
        neighbors={neighbor: plain},
        groups=groups,
        networks=("10.1.0.0/16",),
        listen={"10.9.0.0/16": ListenRange(group="mine")},
    )


def changed(before: Bgp, name: str) -> Bgp:
    if name in OTHERS:
        return dataclasses.replace(before, **OTHERS[name])
    field, value = NESTED.get(name, (f"{name.replace('-', '_')}{'_' if name == 'import' else ''}", NEIGHBOR.get(name)))
    old = before.neighbors[B]
    values: dict[str, Any] = {field: value}
    if name == "group":
        values["timers"] = None
    return dataclasses.replace(before, neighbors={B: dataclasses.replace(old, **values)})


@pytest.mark.parametrize(("leaf", "name"), CASES, ids=[leaf for leaf, _ in CASES])
def test_a_change_disturbs_what_the_schema_says(leaf: str, name: str) -> None:
    world = BgpWorld()
    inner = name in INTERNAL
    red = world.router(f"{A}/24 2001:db8::1/64", config(65001, B, 65001 if inner else 65002))
    blue = world.router(f"{B}/24 2001:db8::2/64", config(65001 if inner else 65002, A, 65001))
    world.run(15)
    assert red.state(B) == blue.state(A) == "established"
    red.policies = EVERYTHING
    red.configure(red.config)
    world.run(1)
    before, flaps = len(red.outputs), flaps_of(red, world)
    red.configure(changed(red.config, name))
    world.run(2)
    assert (flaps_of(red, world) > flaps) == (SCHEMA[leaf] is Impact.SESSION)
    if SCHEMA[leaf] == Impact.LIVE and not OTHERS.get(name, {}).get("networks"):
        told = [output for output in red.outputs[before:] if isinstance(output, base.Write)]
        assert not told, "a live change tells the neighbor nothing"
    again = len(red.outputs)
    assert red.configure(red.config) == ()
    assert len(red.outputs) == again


def test_another_group_of_those_who_come_by_themselves_resets_them() -> None:
    world = BgpWorld()
    mine = Session(remote_as=65002, require_policy=False)
    groups = {"mine": mine, "other": dataclasses.replace(mine, timers=Timers(hold=30.0))}
    listen = {"10.0.0.0/24": ListenRange(group="mine")}
    red = world.router(f"{A}/24", Bgp(asn=65001, groups=groups, listen=listen))
    blue = world.router(f"{B}/24", config(65002, A, 65001))
    world.run(15)
    assert red.configure(red.config) == ()
    red.configure(dataclasses.replace(red.config, listen={"10.0.0.0/24": ListenRange(group="other")}))
    world.run(15)
    assert SCHEMA["listen.group"] is Impact.SESSION
    assert flaps_of(blue, world) == 1
    assert red.instance.show("neighbor", {}, world.now)[0]["session"]["hold_time"] == 30


def flaps_of(red: Router, world: BgpWorld) -> int:
    found = red.instance.show("neighbor", {}, world.now)
    return sum(each["flaps"] for each in found)
