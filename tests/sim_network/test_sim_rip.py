"""RIPv2 in the simulated network: convergence, a failure, a crash, a silent cut; and the seed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import pytest
from network import Network
from walk import judge
from worlds import mesh, ring, trouble

from vrouter.config.policy import Actions, Policy, Term
from vrouter.config.rip import Rip, RipInterface, RipRedistribution, RipTimers
from vrouter.config.router import StaticHop, StaticRoute
from vrouter.net.address import parse_prefix
from vrouter.rib.route import Protocol, Route

TIMERS: Final = RipTimers(update=5.0, timeout=30.0, garbage=20.0)


def rip(router: Any) -> dict[str, Any]:
    """Run RIP on all links of a router, and announce its loopback."""
    interfaces = {name: RipInterface() for name in router.ports} | {"lo": RipInterface(passive=True)}
    return {"rip": Rip(interfaces=interfaces, timers=TIMERS)}


def begun(network: Network) -> None:
    """Configure all routers."""
    for router in network.routers.values():
        router.configure(**rip(router))


def all_reach_all(network: Network) -> bool:
    """Tell whether every router that runs has a way to every other one."""
    return bool(judge(network, list(network.running())))


def test_a_ring_of_twelve() -> None:
    """It converges, goes the other way round when a link fails, and back; nowhere a loop stays."""
    network = Network(1)
    ring(network, 12)
    begun(network)
    assert network.run_until(lambda: all_reach_all(network), 60) < 30
    network.links[3].fail()
    assert network.run_until(lambda: all_reach_all(network), 120) < 90
    network.links[3].mend()
    network.run_until(lambda: all_reach_all(network), 60)
    assert not trouble(network)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_loss_crash_and_cut(seed: int) -> None:
    """With every tenth frame lost: a crash and a silent cut are found out by the timers, the return as well."""
    network = Network(seed)
    routers = mesh(network, 16, 4, loss=0.1, jitter=0.01)
    begun(network)
    network.run_until(lambda: all_reach_all(network), 120)
    routers[5].crash()
    network.links[0].cut()
    network.run_until(lambda: all_reach_all(network), 300)
    routers[5].start()
    network.links[0].mend()
    network.run_until(lambda: all_reach_all(network), 120)
    assert not trouble(network)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_who_redistributes_follows_nobody_in_a_circle(seed: int) -> None:
    """Three routers announce the same route of a protocol that they prefer less, with the same tag.

    Without the tag they count to infinity with seed 2.
    """
    network = Network(seed)
    prefix = parse_prefix("203.0.113.0/24")
    routers = ring(network, 3)
    policy = Policy(route_policies={"tagged": (Term(then=Actions(accept=True, tag=7)),)})
    static = (StaticRoute(str(prefix), (StaticHop(discard=True, preference=200),)),)
    own = RipRedistribution(protocol="static", policy="tagged")
    for router in routers:
        config = replace(rip(router)["rip"], redistribute=(own,))
        router.configure(rip=config, static=static, policy=policy)

    def used() -> list[Route | None]:
        return [router.engine.rib.installed.get(prefix) for router in routers if router.engine is not None]

    for _ in range(100):
        network.run(0.2)
        assert [route.protocol for route in used() if route is not None] == [Protocol.STATIC] * 3
    routers[0].configure(**rip(routers[0]))
    network.run_until(lambda: [route and route.metric for route in used()] == [2, 0, 0], 10)
    routers[0].configure(rip=replace(rip(routers[0])["rip"], redistribute=(own,)), static=static, policy=policy)
    network.run(20)
    assert [route and route.metric for route in used()] == [2, 0, 0], "its own is not in use, so it announces nothing"


def story(seed: int) -> str:
    """Run a network with loss and a crash; give the digest."""
    network = Network(seed)
    routers = mesh(network, 8, 3, loss=0.1, jitter=0.01)
    begun(network)
    network.run(40)
    routers[2].crash()
    network.run(40)
    routers[2].start()
    network.run(40)
    return network.digest()


def test_a_seed_replays_bit_for_bit() -> None:
    assert story(5) == story(5)
    assert story(5) != story(6)
