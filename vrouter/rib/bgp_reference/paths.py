"""Paths, and the next hops that they share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from vrouter.net.address import Address, Prefix, is_link_local
from vrouter.rib.bgp_table import NextHop, PeerKind
from vrouter.rib.route import Hop, HopKind, Protocol
from vrouter.wire.bgp.attributes import Attributes
from vrouter.wire.bgp.update import NextHops

LOCAL: Final = 0  # the number of the peer that is this router
LOCAL_WEIGHT: Final = 32768
DEFAULT_LOCAL_PREF: Final = 100
DISCARD: Final = (Hop(HopKind.BLACKHOLE),)


@dataclass(slots=True, eq=False)
class Tracked:
    """A next hop in use."""

    id: int
    address: Address
    interface: str
    users: int = 0
    metric: int = 0
    hops: tuple[Hop, ...] = ()


@dataclass(slots=True, eq=False)
class Path:
    """A way to a prefix that a neighbor, or this router, offers."""

    peer: int
    path_id: int
    attributes: Attributes  # after the import policy, without a next hop
    next_hops: NextHops | None  # as they came, or as the policy says; None: local
    kind: PeerKind | None  # None: local
    router_id: int  # of the neighbor
    address: Address  # of the neighbor
    weight: int
    serial: int  # the smaller, the older
    out_id: int  # RFC 7911, towards others
    tracked: Tracked | None = None
    discard: bool = False  # the import policy says so
    refused: str = ""  # why it is no candidate
    stale: bool = False
    preference: int | None = None  # the import policy's
    tag: int = 0
    protocol: Protocol = Protocol.BGP  # of a local one: where it comes from

    @property
    def reachable(self) -> bool:
        """Tell whether packets can take it."""
        return self.tracked is None or bool(self.tracked.hops)

    @property
    def usable(self) -> bool:
        """Tell whether it is a candidate."""
        return not self.refused and self.reachable

    @property
    def local_pref(self) -> int:
        """Give the degree of preference."""
        return DEFAULT_LOCAL_PREF if self.attributes.local_pref is None else self.attributes.local_pref

    @property
    def metric(self) -> int:
        """Give the cost of the way to the next hop."""
        return 0 if self.tracked is None else self.tracked.metric

    @property
    def hops(self) -> tuple[Hop, ...]:
        """Give the resolved next hops."""
        if self.discard:
            return DISCARD
        return () if self.tracked is None else self.tracked.hops


@dataclass(slots=True)
class Entry:
    """All that is known of a prefix."""

    paths: dict[tuple[int, int], Path] = field(default_factory=dict)  # by neighbor and received path identifier
    ranked: list[Path] = field(default_factory=list)  # candidates, the best first, as of the last process()
    used: list[Path] = field(default_factory=list)  # the best, and what is used beside it

    def free_id(self) -> int:
        """Give the lowest path identifier that no path has."""
        taken = {path.out_id for path in self.paths.values()}
        number = 1
        while number in taken:
            number += 1
        return number


class Tracker:
    """The next hops of all paths."""

    def __init__(self) -> None:
        self._by_key: dict[tuple[Address, str], Tracked] = {}
        self._by_id: dict[int, Tracked] = {}
        self._new: dict[int, Tracked] = {}
        self._dead: list[int] = []
        self._last = 0

    def use(self, hops: NextHops, interface: str) -> Tracked:
        """Count a user of the next hop that packets go to."""
        key = forwarding_hop(hops, interface)
        tracked = self._by_key.get(key)
        if tracked is None:
            self._last += 1
            tracked = self._by_key[key] = Tracked(self._last, *key)
            self._by_id[tracked.id] = self._new[tracked.id] = tracked
        tracked.users += 1
        return tracked

    def release(self, tracked: Tracked) -> None:
        """Count a user less; one that nobody uses is forgotten."""
        tracked.users -= 1
        if tracked.users:
            return
        del self._by_key[tracked.address, tracked.interface]
        del self._by_id[tracked.id]
        if self._new.pop(tracked.id, None) is None:
            self._dead.append(tracked.id)

    def take_new(self) -> list[NextHop]:
        """Give those that nobody was told of."""
        new = [NextHop(tracked.id, tracked.address, tracked.interface) for tracked in self._new.values()]
        self._new.clear()
        return new

    def take_dead(self) -> list[int]:
        """Give the ids of those that are gone."""
        dead, self._dead = self._dead, []
        return dead

    def set(self, number: int, metric: int, hops: tuple[Hop, ...]) -> Tracked | None:
        """Note the way to one; give it when that changed."""
        tracked = self._by_id.get(number)
        if tracked is None or (tracked.metric, tracked.hops) == (metric, hops):
            return None
        tracked.metric = metric
        tracked.hops = hops
        return tracked

    def __len__(self) -> int:
        return len(self._by_key)


def forwarding_hop(hops: NextHops, interface: str) -> tuple[Address, str]:
    """Give the address that packets go to: a link-local one where there is no global one; RFC 2545 section 3."""
    if is_link_local(hops.address) or hops.address.value == 0:
        return hops.link_local or hops.address, interface
    return hops.address, ""


def sort_key(prefix: Prefix) -> tuple[int, int, int]:
    """Order prefixes: IPv4 first, then by address, the shorter before the longer."""
    return prefix.family, prefix.value, prefix.length
