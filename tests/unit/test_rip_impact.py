"""Every leaf of RIPng, router advertisements and leaking is changed while it runs: no socket is touched, no session
reset, but where the schema says so.  (RIPv2's are tried in a lab with a foreign daemon.)
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final

import pytest

from tests.unit.datagram_world import Node, World
from tests.unit.test_leak import ALL, pair, use
from vrouter.config.leak import Leak as LeakSettings
from vrouter.config.option import Impact
from vrouter.config.ra import Ra, RaPrefix
from vrouter.config.rip import RipDefault, Ripng, RipngInterface, RipRedistribution, RipTimers
from vrouter.config.router import Interface, RouterConfig
from vrouter.proto import base
from vrouter.proto.ra import RouterAdvertisements
from vrouter.proto.rip.instance import ripng

RA: Final[dict[str, Any]] = {
    "enabled": False, "interval": 40.0, "lifetime": 90.0, "preference": "low", "hop_limit": 9, "managed": True,
    "other": True, "reachable_time": 1.0, "retransmit_time": 1.0, "mtu": False,
    "prefixes": {"2001:db8::/64": RaPrefix(autonomous=False)}, "dns_servers": ("2001:db8::53",),
    "dns_search": ("red.example",), "dns_lifetime": 60.0,
}  # fmt: skip
LEAK: Final[dict[str, Any]] = {
    "enabled": False, "protocols": ("static", "leak"), "import_": "none", "export": "none", "preference": 9,
    "max_routes": 1,
}  # fmt: skip
RIPNG: Final[dict[str, Any]] = {
    "redistribute": (RipRedistribution(protocol="static"),), "default_information": RipDefault(), "preference": 9,
    "maximum_paths": 4, "timers": RipTimers(update=20.0), "interfaces": {"lan": RipngInterface(metric=3)},
}  # fmt: skip
RIPNG_INTERFACE: Final[dict[str, Any]] = {
    "passive": True, "metric": 5, "split_horizon": "simple", "neighbors": ("fe80::9",), "import_": "none",
    "export": "none",
}  # fmt: skip


def impact(kind: Any, name: str) -> Impact:
    (found,) = (each.metadata["impact"] for each in dataclasses.fields(kind) if each.name == name)
    return Impact(found)


def touched(outputs: list[base.Output]) -> list[base.Output]:
    kinds = (base.OpenSocket, base.CloseSocket, base.LeaveGroup)
    return [output for output in outputs if isinstance(output, kinds)]


@pytest.mark.parametrize(
    ("kind", "values"), [(Ra, RA), (LeakSettings, LEAK), (Ripng, RIPNG), (RipngInterface, RIPNG_INTERFACE)]
)
def test_every_leaf_is_tried(kind, values) -> None:
    assert set(values) == {each.name for each in dataclasses.fields(kind)}


def tried(node: Node, before: RouterConfig, after: RouterConfig) -> list[base.Output]:
    """Change there and back; give which sockets were touched."""
    found = touched(node.configure(after)) + touched(node.configure(before))
    assert node.configure(before) == []
    return found


@pytest.mark.parametrize("name", RA)
def test_router_advertisements(name: str) -> None:
    world = World()
    node = world.node("red", RouterAdvertisements)
    world.segment((node, "lan", "fe80::1/64", "2001:db8::1/64"), (node, "other", "fe80::1/64"))

    def router(ra: Ra) -> RouterConfig:
        # Another interface keeps the socket open.
        return RouterConfig("red", 1, (Interface("lan", "ethernet", ra=ra), Interface("other", "ethernet", ra=Ra())))

    node.configure(router(Ra()))
    world.run(10)
    changed = dataclasses.replace(Ra(), **{name: RA[name]})
    assert impact(Ra, name) is Impact.LIVE
    found = tried(node, router(Ra()), router(changed))
    assert [type(output) for output in found] == ([base.LeaveGroup] if name == "enabled" else [])


@pytest.mark.parametrize("name", LEAK)
def test_leaking(name: str) -> None:
    world = World()
    red, blue = pair(world)
    red.configure(RouterConfig("red", 1, (Interface("to-blue", "ethernet", leak=ALL),)))

    def router(leak: LeakSettings) -> RouterConfig:
        return RouterConfig(
            "blue", 1, (Interface("to-red", "ethernet", leak=leak), Interface("x", "ethernet", leak=ALL))
        )

    blue.configure(router(ALL))
    use(red, "10.1.0.0/16")
    use(red, "10.2.0.0/16")
    world.run(8)
    assert len(blue.routes) == 2
    found = tried(blue, router(ALL), router(dataclasses.replace(ALL, **{name: LEAK[name]})))
    assert bool(found) == (name == "enabled" or impact(LeakSettings, name) is Impact.SESSION)


@pytest.mark.parametrize(
    ("part", "name"), [("process", name) for name in RIPNG] + [("lan", name) for name in RIPNG_INTERFACE]
)
def test_ripng(part: str, name: str) -> None:
    world = World()
    a, b = world.node("a", ripng), world.node("b", ripng)
    world.segment((a, "lan", "fe80::1/64", "2001:db8:1::1/64"), (b, "lan", "fe80::2/64", "2001:db8:1::2/64"))
    world.segment((b, "stub", "fe80::1/64", "2001:db8:2::1/64"))
    first = Ripng(interfaces={"lan": RipngInterface()})
    a.configure(RouterConfig("a", 1, ripng=first))
    b.configure(RouterConfig("b", 1, ripng=Ripng(interfaces={"lan": RipngInterface(), "stub": RipngInterface()})))
    world.run(40)
    assert a.routes
    if part == "process":
        second = dataclasses.replace(first, **{name: RIPNG[name]})
    else:
        lan = dataclasses.replace(RipngInterface(), **{name: RIPNG_INTERFACE[name]})
        second = dataclasses.replace(first, interfaces={"lan": lan})
    assert impact(Ripng if part == "process" else RipngInterface, name) in {Impact.LIVE, Impact.SOFT}
    assert tried(a, RouterConfig("a", 1, ripng=first), RouterConfig("a", 1, ripng=second)) == []
    world.run(70)
    assert len(a.routes) == 1
