"""BGP in the simulated network: a mesh of ASes, and route reflection over OSPF; with the table in Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest
from network import Network
from walk import judge
from worlds import mesh, ospf, trouble

from vrouter.config.bgp import Bgp, Neighbor, Session, Timers
from vrouter.rib.bgp_reference import ReferenceTable

if TYPE_CHECKING:
    from sim_router import SimRouter

TIMERS: Final = Timers(hold=9.0, connect_retry=1.0)
INSIDE: Final = 64999


def external(router: SimRouter) -> dict[str, Any]:
    """Be an AS of its own, with a session over each link; announce the loopback."""
    neighbors = {}
    for port in router.ports.values():
        for other in port.link.ports:
            if other.router is not router:
                neighbors[other.router.address(router)] = Neighbor(remote_as=64512 + other.router.number, group="all")
    groups = {"all": Session(require_policy=False, timers=TIMERS)}
    mine = Bgp(asn=64512 + router.number, groups=groups, neighbors=neighbors, networks=(f"{router.loopback}/32",))
    return {"bgp": mine, "router_id": router.loopback}


def service(router: SimRouter) -> str:
    """Give the prefix that a router within the AS announces."""
    return f"198.18.{router.number}.0"


def internal(router: SimRouter, reflectors: list[SimRouter]) -> dict[str, Any]:
    """Be a client of the reflectors, or one of them; OSPF knows the way to all loopbacks."""
    reflects = router in reflectors
    others = [each for each in (router.network.routers.values() if reflects else reflectors) if each is not router]
    neighbors = {
        other.loopback: Neighbor(
            remote_as=INSIDE, local_address=router.loopback, timers=TIMERS,
            route_reflector_client=reflects and other not in reflectors,
        )
        for other in others
    }  # fmt: skip
    mine = Bgp(asn=INSIDE, neighbors=neighbors, networks=(f"{service(router)}/24",))
    return ospf(router) | {"bgp": mine}


def all_reach_all(network: Network) -> bool:
    """Tell whether every router that runs has a way to every other one."""
    return bool(judge(network, list(network.running())))


@pytest.mark.parametrize("seed", [1, 2])
def test_a_mesh_of_systems(seed: int) -> None:
    """Twenty ASes converge with some loss; a crash and a silent cut are found out by the hold timers."""
    network = Network(seed, bgp_table=ReferenceTable)
    routers = mesh(network, 20, 4, loss=0.01, jitter=0.002)
    for router in routers:
        router.configure(**external(router))
    network.run_until(lambda: all_reach_all(network), 60)
    routers[4].crash()
    network.links[10].cut()
    network.run_until(lambda: all_reach_all(network), 90)
    routers[4].start()
    network.links[10].mend()
    network.run_until(lambda: all_reach_all(network), 60)
    assert not trouble(network)


def test_reflectors_over_ospf() -> None:
    """Clients get each other's routes by two reflectors, resolved by OSPF; one reflector alone is enough."""
    network = Network(1, bgp_table=ReferenceTable)
    routers = mesh(network, 12, 4, loss=0.005)
    reflectors = routers[:2]
    for router in routers:
        router.configure(**internal(router, reflectors))

    def served() -> bool:
        running = list(network.running())
        return bool(judge(network, running, address=service))

    network.run_until(served, 60)
    reflectors[0].crash()
    network.run_until(served, 60)
    reflectors[0].start()
    network.run_until(served, 60)
    assert not trouble(network)


def test_a_control_that_is_killed_leaves_forwarding_alone() -> None:
    """Graceful restart (RFC 4724): while a control is killed and comes back, no route is lost anywhere."""
    network = Network(2, bgp_table=ReferenceTable)
    routers = mesh(network, 6, 3)
    for router in routers:
        router.configure(**external(router))
    network.run_until(lambda: all_reach_all(network), 60)
    network.run(10)
    removed = [router.fib.removed for router in routers]
    routers[2].kill()
    for _ in range(10):
        network.run(0.1)
        assert judge(network, routers, routers)
    routers[2].start(restarted=True)
    for _ in range(300):
        network.run(0.1)
        assert judge(network, routers, routers)
    assert [router.fib.removed for router in routers] == removed
    assert not trouble(network)


def story(seed: int) -> str:
    """Run a network with loss and a crash; give the digest."""
    network = Network(seed, bgp_table=ReferenceTable)
    routers = mesh(network, 6, 3, loss=0.05, jitter=0.01)
    for router in routers:
        router.configure(**external(router))
    network.run(20)
    routers[2].crash()
    network.run(20)
    routers[2].start()
    network.run(20)
    return network.digest()


def test_a_seed_replays_bit_for_bit() -> None:
    assert story(5) == story(5)
    assert story(5) != story(6)
