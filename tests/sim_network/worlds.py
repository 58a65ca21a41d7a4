"""Networks that the scenarios run on, and what they have in common."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final

from network import Network

from vrouter.config.ospf import Area, Ospf, OspfInterface

if TYPE_CHECKING:
    from sim_router import SimRouter


LINK: Final = OspfInterface(network="point-to-point", hello_interval=1.0, dead_interval=4.0)
LAN: Final = OspfInterface(hello_interval=1.0, dead_interval=4.0)


def ospf(router: SimRouter, link: OspfInterface = LINK) -> dict[str, Any]:
    """Run OSPF on all links of a router, and announce its loopback."""
    interfaces = dict.fromkeys(router.ports, link) | {"lo": OspfInterface(passive=True)}
    return {"ospf": Ospf(areas={"0.0.0.0": Area(interfaces=interfaces)}), "router_id": router.loopback}


def ring(network: Network, count: int, **link: Any) -> list[SimRouter]:
    """Join routers r0, r1, ... in a circle."""
    routers = [network.router(f"r{number}") for number in range(count)]
    for place, router in enumerate(routers):
        network.link(router, routers[(place + 1) % count], **link)
    return routers


def mesh(network: Network, count: int, degree: int, **link: Any) -> list[SimRouter]:
    """Join routers in a circle, and by chance until each has about so many links."""
    routers = ring(network, count, **link)
    rng = random.Random(f"{network.seed}/mesh")
    joined = {frozenset((place, (place + 1) % count)) for place in range(count)}
    while len(joined) < count * degree // 2:
        pair = frozenset(rng.sample(range(count), 2))
        if pair not in joined:
            joined.add(pair)
            network.link(*(routers[place] for place in sorted(pair)), **link)
    return routers


def trouble(network: Network) -> list[str]:
    """Give the lines of instances that have failed."""
    return [
        f"{router.name}: {line.message}"
        for router in network.routers.values()
        for line in router.lines
        if line.level == "error"
    ]
