"""Judges forwarding by the FIBs of simulated routers: follows every next hop of every router to a destination."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vrouter.net.address import Address, parse_address
from vrouter.rib.route import HopKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from network import Network
    from sim_router import SimRouter

    from vrouter.rib.route import Hop


@dataclass
class Verdict:
    """What became of packets to some destinations."""

    loops: list[tuple[str, str]] = field(default_factory=list)  # (router, destination)
    lost: list[tuple[str, str]] = field(default_factory=list)

    def __bool__(self) -> bool:
        """True: all arrive, by whichever of several next hops."""
        return not (self.loops or self.lost)


def judge(
    network: Network,
    destinations: Iterable[SimRouter],
    routers: Iterable[SimRouter] | None = None,
    address: Callable[[SimRouter], str] = lambda router: router.loopback,
) -> Verdict:
    """Follow packets from these routers (all that run) to others, by default to their loopbacks."""
    verdict = Verdict()
    sources = list(network.running() if routers is None else routers)
    for target in destinations:
        fates = _Fates(target, parse_address(address(target)))
        for source in sources:
            fate = fates.of(source)
            if fate == "loop":
                verdict.loops.append((source.name, target.name))
            elif fate != "arrives":
                verdict.lost.append((source.name, target.name))
    return verdict


class _Fates:
    """What becomes of packets to one address, router by router."""

    def __init__(self, target: SimRouter, address: Address) -> None:
        self._address = address
        self._known: dict[str, str] = {target.name: "arrives"}

    def of(self, router: SimRouter) -> str:
        """Give `arrives`, `lost` or `loop`: the worst that some next hop leads to."""
        known = self._known.get(router.name)
        if known is None:
            self._known[router.name] = "loop"  # while we are on our way: whoever comes back here turns in a circle
            known = self._known[router.name] = self._follow(router)
        return known

    def _follow(self, router: SimRouter) -> str:
        route = router.fib.lookup(self._address)
        if route is None or not route.hops:
            return "lost"
        fates = set()
        for hop in route.hops:
            other = _next(router, hop, self._address)
            fates.add("lost" if other is None else self.of(other))
        return next(fate for fate in ("loop", "lost", "arrives") if fate in fates)


def _next(router: SimRouter, hop: Hop, address: Address) -> SimRouter | None:
    """Give the router that gets a packet by a next hop."""
    port = router.ports.get(hop.interface)
    if port is None or hop.kind not in (HopKind.FORWARD, HopKind.CONNECTED):
        return None
    if not (port.link.carrier and port.link.passing):
        return None
    ends = (end for end in port.link.ports if end is not port)
    return next((end.router for end in ends if end.router.owns(end.name, hop.via or address)), None)
