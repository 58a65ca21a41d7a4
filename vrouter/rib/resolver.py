"""Where the next hops of routes lead: recursive ones are looked up among the routes themselves.

The way to an address is the most specific route to it that is usable itself; never a default route, a route that
needs the address in turn, nor one whose packets end here.  What depends on what is known, so that after a change
only the addresses are looked at that it may concern.

An address is resolved in one of two views.  For the next hops of routes BGP's routes count, those too that only
BGP's own table has.  For addresses that protocols track they do not: BGP chooses its routes by what tracking
says, and could else hold itself up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, Protocol

from vrouter.net.address import Address, Prefix
from vrouter.rib import route as routes
from vrouter.rib.bgp_table import BulkRoute
from vrouter.rib.candidates import MAX_PREFERENCE, Addresses, Candidates
from vrouter.rib.route import Hop, HopKind, Route

MAX_HOPS: Final = 64  # MAX_GROUP_HOPS
MAX_DEPTH: Final = 16  # next hops found through one another
MAX_WEIGHT: Final = 1 << 20  # of one hop: 64 of them fit into 32 bits
_MAX_STEPS: Final = 2000  # of one search: routes that need each other in many ways


class BulkSource(Protocol):
    """What the RIB needs of BGP's own table."""

    def hold(self, prefix: Prefix) -> None:
        """Leave a prefix to the RIB."""

    def unhold(self, prefix: Prefix) -> None:
        """Take a prefix back."""

    def held(self) -> list[BulkRoute]:
        """Give the best paths of held prefixes that changed."""

    def lookup(self, address: Address, longest: int = 128) -> BulkRoute | None:
        """Find the longest best path in use."""


class View(NamedTuple):
    """An address, and whether routes of BGP lead to it."""

    address: Address
    bgp: bool


@dataclass(frozen=True, slots=True)
class Way:
    """How an address is reached; without hops it is not."""

    hops: tuple[Hop, ...] = ()
    metric: int = 0
    length: int = 0  # of the prefix of the route that leads there
    depth: int = 0  # how many addresses were resolved one through another
    connected: bool = False
    whole: bool = True  # the search was not cut short by a loop: others may use what it found


_NONE: Final = Way()


class Resolver:
    """The ways to addresses that are asked for."""

    def __init__(self, candidates: Candidates) -> None:
        self._candidates = candidates
        self._down: set[str] = set()
        self.bulk: BulkSource | None = None
        self._wanted = Addresses()
        self._ways: dict[View, Way] = {}
        self._bulk_ways: dict[Address, BulkRoute | None] = {}
        self._pending: set[Address] = set()
        self._cut = False
        self._steps = 0

    def set_link(self, interface: str, *, up: bool) -> bool:
        """Take note of a link; tell whether that is news."""
        if up == (interface not in self._down):
            return False
        if up:
            self._down.discard(interface)
        else:
            self._down.add(interface)
        return True

    def is_up(self, interface: str) -> bool:
        """Tell whether an interface can carry packets; one never heard of can."""
        return interface not in self._down

    def want(self, address: Address) -> None:
        """Keep track of an address."""
        self._wanted.add(address)

    def forget(self, address: Address) -> None:
        """No longer keep track of an address."""
        self._wanted.discard(address)
        self._bulk_ways.pop(address, None)
        for bgp in (False, True):
            self._ways.pop(View(address, bgp), None)

    def bulk_changes(self) -> list[Address]:
        """Give the addresses to which BGP's table now has another way."""
        if self.bulk is None:
            return list(self._bulk_ways)
        return [address for address, known in self._bulk_ways.items() if self._look_up(address) != known]

    def concerned(self, prefixes: Iterable[Prefix], addresses: Iterable[Address]) -> set[Address]:
        """Give the addresses whose way may be another one after a change of routes to `prefixes`."""
        found = set(addresses)
        todo = [user for address in found for user in self._candidates.by_via.get(address, ())]
        seen = set(todo)
        for prefix in prefixes:
            if prefix not in seen:
                seen.add(prefix)
                todo.append(prefix)
        while todo:
            prefix = todo.pop()
            if not prefix.length:
                continue
            for address in self._wanted.within(prefix):
                if address in found or self._beyond(address, prefix.length):
                    continue
                found.add(address)
                for user in self._candidates.by_via.get(address, ()):
                    if user not in seen:
                        seen.add(user)
                        todo.append(user)
        return found

    def _beyond(self, address: Address, length: int) -> bool:
        """Tell whether only routes more specific than `length` lead to an address.

        Not where a loop cut the search short: within it others were taken.
        """
        # Both views count of an address that routes have for a next hop: searches for others pass through it.
        views = (False, True) if address in self._candidates.by_via else (False,)
        ways = (self._ways.get(View(address, bgp)) for bgp in views)
        return all(way is not None and way.whole and way.length > length for way in ways)

    def take(self, addresses: Iterable[Address]) -> dict[View, Way]:
        """Forget the ways to some addresses, and give them."""
        taken = {}
        for address in addresses:
            self._bulk_ways.pop(address, None)
            for bgp in (False, True):
                way = self._ways.pop(View(address, bgp), None)
                if way is not None:
                    taken[View(address, bgp)] = way
        return taken

    def way(self, view: View) -> Way:
        """Give the way to an address."""
        known = self._ways.get(view)
        if known is None:
            self._steps = 0
            self._cut = False
            known = self._find(view)
        return known

    def usable(self, route: Route, *, bgp: bool = True) -> tuple[Hop, ...]:
        """Give the hops of a route that lead somewhere now, each with its interface."""
        return self._usable(route, bgp)[0]

    def _find(self, view: View) -> Way:
        """Search, as part of the searches for the addresses that are pending."""
        known = self._ways.get(view)
        if known is not None and known.whole:
            if known.depth + len(self._pending) <= MAX_DEPTH:
                return known
            self._cut = True
            return _NONE
        self._steps += 1
        if view.address in self._pending or len(self._pending) >= MAX_DEPTH or self._steps > _MAX_STEPS:
            self._cut = True
            return _NONE
        outside, self._cut = self._cut, False
        self._pending.add(view.address)
        way = self._search(view)
        self._pending.discard(view.address)
        if self._cut:
            way = replace(way, whole=False)
        if not self._pending or way.whole:
            self._ways[view] = way
        self._cut = self._cut or outside
        return way

    def _search(self, view: View) -> Way:
        bulk = self._bulk_way(view) if view.bgp else None
        for prefix in self._candidates.lengths.covering(view.address):
            if bulk is not None and bulk.prefix.length > prefix.length:
                break
            if not prefix.length:
                continue
            for route in self._candidates.of(prefix):
                if route.protocol is routes.Protocol.BGP and not view.bgp:
                    continue
                hops, depth = self._usable(route, view.bgp)
                if hops:
                    return _way(view.address, hops, route.metric, prefix.length, depth + 1)
        return _way(view.address, bulk.hops, bulk.metric, bulk.prefix.length, 1) if bulk is not None else _NONE

    def _bulk_way(self, view: View) -> BulkRoute | None:
        if self.bulk is None:
            return None
        found = self._bulk_ways[view.address] = self._look_up(view.address)
        return found if found is not None and found.prefix.length and found.hops else None

    def _look_up(self, address: Address) -> BulkRoute | None:
        """Find the most specific route that BGP's table alone has: what others offer too is a candidate here."""
        found = self.bulk.lookup(address) if self.bulk is not None else None
        while found is not None and self.bulk is not None and found.prefix in self._candidates:
            found = self.bulk.lookup(address, found.prefix.length - 1) if found.prefix.length else None
        return found

    def _usable(self, route: Route, bgp: bool) -> tuple[tuple[Hop, ...], int]:
        if route.preference >= MAX_PREFERENCE:
            return (), 0
        groups: list[tuple[int, tuple[Hop, ...]]] = []
        depth = 0
        for hop in route.hops:
            if hop.kind is HopKind.FORWARD and not hop.interface:
                assert hop.via is not None
                view = View(hop.via, bgp)
                way = self._find(view) if self._pending else self.way(view)
                inner, depth = way.hops, max(depth, way.depth)
            else:
                # An address of ours answers on every link (the weak host model, as Linux).
                stays = hop.kind is HopKind.LOCAL or hop.interface not in self._down
                inner = (replace(hop, weight=1) if hop.weight != 1 else hop,) if stays else ()
            if inner:
                groups.append((hop.weight, inner))
        return share(groups), depth


def _way(address: Address, hops: tuple[Hop, ...], metric: int, length: int, depth: int) -> Way:
    """Give the way to an address over a route; none where the route's packets end here."""
    if any(hop.kind not in {HopKind.FORWARD, HopKind.CONNECTED} for hop in hops):
        return Way(length=length)
    connected = all(hop.kind is HopKind.CONNECTED for hop in hops)
    return Way(tuple(_towards(hop, address) for hop in hops), metric, length, depth, connected)


def _towards(hop: Hop, via: Address) -> Hop:
    """Give the hop by which packets for `via` leave."""
    return Hop(HopKind.FORWARD, hop.interface, via, hop.weight) if hop.kind is HopKind.CONNECTED else hop


def share(groups: list[tuple[int, tuple[Hop, ...]]]) -> tuple[Hop, ...]:
    """Join weighted groups of hops into one, each hop with its share of its group's share."""
    if len(groups) == 1 and len(groups[0][1]) == 1:
        return groups[0][1]
    totals = [sum(hop.weight for hop in hops) for _, hops in groups]
    common = math.lcm(*totals)
    shares: dict[tuple[HopKind, str, Address | None], int] = {}
    for (weight, hops), total in zip(groups, totals, strict=True):
        for hop in hops:
            key = (hop.kind, hop.interface, hop.via)
            shares[key] = shares.get(key, 0) + weight * hop.weight * (common // total)
    divisor = math.gcd(*shares.values()) or 1
    largest = max(shares.values(), default=1) // divisor
    scale = -(-largest // MAX_WEIGHT)
    joined = ((key, max(1, share // divisor // scale)) for key, share in shares.items())
    return tuple(Hop(kind, interface, via, weight) for (kind, interface, via), weight in joined)[:MAX_HOPS]
