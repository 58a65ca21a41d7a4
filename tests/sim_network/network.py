"""A network of whole routers in one process and in virtual time: the very engine of a VR, and a model of the rest.

    network = Network(seed=7)
    red, blue = network.router("red"), network.router("blue")
    network.link(red, blue, delay=0.002, loss=0.01)          # 10.0.0.0/30 and so on by itself
    red.configure(static=...)
    network.run(60)                                          # seconds of virtual time, as fast as it goes
    network.digest()                                         # of all that all engines have put out, and when

Frames are lost, late or out of order by the seed alone, so that a run can be repeated to the last bit.  Links have
two ends or more.  `fail` takes the carrier away, `cut` lets frames vanish without a sign.  What is modelled and not
real: sockets, TCP (streams.py), BFD (bfd.py) and the FIB, which is a dictionary that packets are forwarded by.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import random
from typing import TYPE_CHECKING, Any, Final

from sim_router import Port, SimRouter

from vrouter.engine.instances import KINDS, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from datagrams import Packet

DELAY: Final = 0.001


class Link:
    """An Ethernet with two ends or more."""

    def __init__(self, network: Network, number: int, delay: float, loss: float, jitter: float) -> None:
        """Make it without any end."""
        self._network = network
        self.number = number
        self.delay, self.loss, self.jitter = delay, loss, jitter
        self.ports: list[Port] = []
        self.carrier = True
        self.passing = True

    def __repr__(self) -> str:
        """Tell who is on it."""
        return f"Link({', '.join(f'{port.router.name}.{port.name}' for port in self.ports)})"

    def prefix(self, family: int) -> str:
        """Give the network part of the addresses that are chosen by itself: "10.A.B." or "fd00:A:B::"."""
        high, low = divmod(self.number, 256)
        return f"10.{high}.{low}." if family == 4 else f"fd00:{high:x}:{low:x}::"

    def send(self, source: Port, packet: Packet, target: Port | None = None) -> None:
        """Carry a packet to one end, or to all others; it may be lost on the way to each of them."""
        if not (self.carrier and self.passing):
            return
        for port in self.ports if target is None else (target,):
            if port is source or (self.loss and self._network.rng.random() < self.loss):
                continue
            late = self._network.rng.random() * self.jitter if self.jitter else 0.0
            self._network.after(self.delay + late, self._arrive, port, packet)

    def _arrive(self, port: Port, packet: Packet) -> None:
        if self.carrier and self.passing and port.router.running:
            port.router.arrived(port, packet)

    def fail(self) -> None:
        """Take the carrier away: all ends see their port go down."""
        self._set_carrier(up=False)

    def mend(self) -> None:
        """Give the carrier back, and let frames pass."""
        self.passing = True
        self._set_carrier(up=True)

    def cut(self) -> None:
        """Let all frames vanish; nobody is told."""
        self.passing = False

    def _set_carrier(self, *, up: bool) -> None:
        self.carrier = up
        for port in self.ports:
            port.router.carrier(port)


class Network:
    """The clock, the links and the routers; see the module."""

    def __init__(self, seed: int, kinds: tuple[Kind, ...] = KINDS, **surroundings: Any) -> None:
        """Begin at time 0; `surroundings` go to all engines (bgp_table, policies, ...)."""
        self.seed, self.kinds = seed, kinds
        self.rng = random.Random(f"{seed}/network")
        self.now = 0.0
        self.surroundings = surroundings
        self.routers: dict[str, SimRouter] = {}
        self.links: list[Link] = []
        self.events = 0
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = itertools.count()
        self._digest = hashlib.sha256()

    # What is built

    def router(self, name: str) -> SimRouter:
        """Make a router; it starts when it is configured."""
        made = SimRouter(self, name, len(self.routers) + 1)
        self.routers[name] = made
        return made

    def link(
        self, *routers: SimRouter, delay: float = DELAY, loss: float = 0.0, jitter: float = 0.0, ipv6: bool = False
    ) -> Link:
        """Join routers; each gets an interface `toN`, N the link's number, with addresses by itself."""
        made = Link(self, len(self.links) + 1, delay, loss, jitter)
        self.links.append(made)
        for place, router in enumerate(routers, 1):
            length = 30 if len(routers) == 2 else 24
            addresses = [f"{made.prefix(4)}{place}/{length}"]
            if ipv6:
                addresses.append(f"{made.prefix(6)}{place:x}/64")
            made.ports.append(router.add_port(made, addresses))
        return made

    def between(self, one: SimRouter, other: SimRouter) -> Link:
        """Give the link of two routers."""
        return next(link for link in self.links if {one, other} <= {port.router for port in link.ports})

    def partition(self, island: Iterable[SimRouter]) -> list[Link]:
        """Cut all links between these routers and the others; give them, to be mended."""
        inside = set(island)
        crossing = [
            link for link in self.links if 0 < sum(port.router in inside for port in link.ports) < len(link.ports)
        ]
        for link in crossing:
            link.cut()
        return crossing

    # Time

    def after(self, delay: float, call: Callable[..., None], *arguments: Any) -> None:
        """Call something later."""
        self.at(self.now + delay, call, *arguments)

    def at(self, moment: float, call: Callable[..., None], *arguments: Any) -> None:
        """Call something at a moment, not before now; what is due at the same moment keeps its order."""
        heapq.heappush(self._queue, (max(moment, self.now), next(self._order), call, arguments))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while self._queue and self._queue[0][0] <= end:
            self.now, _, call, arguments = heapq.heappop(self._queue)
            self.events += 1
            call(*arguments)
        self.now = end

    def run_until(self, true: Callable[[], object], timeout: float, step: float = 1.0) -> float:
        """Let time pass until something is true; give how many seconds that took."""
        start = self.now
        while not true():
            if self.now - start >= timeout:
                raise AssertionError(f"not within {timeout:g} s of virtual time")
            self.run(step)
        return self.now - start

    # What came of it

    def note(self, router: str, output: object) -> None:
        """Take an output into the digest."""
        self._digest.update(f"{self.now!r} {router} {output!r}\n".encode())

    def digest(self) -> str:
        """Give the digest of all outputs so far with their moments."""
        return self._digest.hexdigest()

    def running(self) -> Iterator[SimRouter]:
        """Give the routers that run."""
        return (router for router in self.routers.values() if router.running)
