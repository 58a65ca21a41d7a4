"""OSPF in the simulated network: a hundred routers converge, survive a failure, a crash and a partition."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from network import Network
from walk import judge
from worlds import LAN, LINK, mesh, ospf, trouble

if TYPE_CHECKING:
    from vrouter.config.ospf import OspfInterface


def begun(network: Network, link: OspfInterface = LINK) -> None:
    """Configure all routers."""
    for router in network.routers.values():
        router.configure(**ospf(router, link))


def all_reach_all(network: Network) -> bool:
    """Tell whether every router that runs has a way to every other one."""
    return bool(judge(network, list(network.running())))


def test_a_hundred_routers() -> None:
    """A hundred routers with four links each: all reach all, without loops; again after a failure and a crash."""
    network = Network(1)
    routers = mesh(network, 100, 4, loss=0.001)
    begun(network)
    assert network.run_until(lambda: all_reach_all(network), 60, step=2) <= 30
    network.links[7].fail()
    routers[50].crash()
    network.run_until(lambda: all_reach_all(network), 60, step=2)
    routers[50].start()
    network.links[7].mend()
    network.run_until(lambda: all_reach_all(network), 60, step=2)
    assert not trouble(network)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_partition_heals(seed: int) -> None:
    """Both islands serve themselves while nothing passes between them; after that all is one again."""
    network = Network(seed)
    routers = mesh(network, 20, 4, loss=0.02, jitter=0.005)
    begun(network)
    network.run_until(lambda: all_reach_all(network), 60)
    island, rest = routers[:10], routers[10:]
    crossing = network.partition(island)

    def split() -> bool:
        across = judge(network, rest, island)
        return bool(judge(network, island, island) and judge(network, rest, rest) and across.lost and not across.loops)

    network.run_until(split, 60)
    for link in crossing:
        link.mend()
    network.run_until(lambda: all_reach_all(network), 90)
    assert not trouble(network)


def test_an_ethernet_of_eight() -> None:
    """On a broadcast network a designated router is elected, and again when it crashes."""
    network = Network(3)
    routers = [network.router(f"r{number}") for number in range(8)]
    network.link(*routers)
    begun(network, LAN)
    network.run_until(lambda: all_reach_all(network), 60)
    routers[7].crash()
    network.run_until(lambda: all_reach_all(network), 60)
    routers[7].start()
    network.run_until(lambda: all_reach_all(network), 60)
    assert not trouble(network)


def test_a_control_that_is_killed_leaves_forwarding_alone() -> None:
    """Graceful restart (RFC 3623): the neighbors help, and no route is lost anywhere."""
    network = Network(4)
    routers = mesh(network, 8, 3)
    begun(network)
    network.run_until(lambda: all_reach_all(network), 60)
    network.run(10)
    removed = [router.fib.removed for router in routers]
    routers[2].kill()
    network.run(0.5)
    routers[2].start(restarted=True)
    for _ in range(200):
        network.run(0.2)
        assert judge(network, routers, routers)
    assert [router.fib.removed for router in routers] == removed
    assert not trouble(network)


def story(seed: int) -> str:
    """Run a network with loss and a crash; give the digest."""
    network = Network(seed)
    routers = mesh(network, 8, 3, loss=0.05, jitter=0.01)
    begun(network)
    network.run(20)
    routers[2].crash()
    network.run(20)
    routers[2].start()
    network.run(20)
    return network.digest()


def test_a_seed_replays_bit_for_bit() -> None:
    assert story(5) == story(5)
    assert story(5) != story(6)
