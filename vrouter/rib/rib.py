"""The routing table of one VR: which of all offered routes is used, and by which next hops.

    protocols --update--> candidates by prefix --best that resolves--> flush() --> FibChange
    links     --link----------^        ^
                              recursive next hops: longest match among the candidates themselves

A recursive next hop (`via` without an interface) is resolved through the most specific route to it that is
usable itself, never through a default route, and never through a route that needs it in turn.  What
a lost link or a withdrawn route takes away shows in the next flush(); so does what comes back.

No I/O, no clock.  Route counts of a static configuration: a flush costs time for each changed prefix
and each distinct recursive next hop.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from vrouter.net.address import Address, Prefix, mask
from vrouter.rib.route import FibChange, Hop, HopKind, Protocol, Route

MAX_HOPS: Final = 64  # MAX_GROUP_HOPS
MAX_DEPTH: Final = 16  # next hops found through one another
MAX_WEIGHT: Final = 1 << 20  # of one hop: 64 of them fit into 32 bits
_Key = tuple[Protocol, str]


class Rib:
    """The table.  Changes gather until flush() gives what they mean for the FIB."""

    def __init__(self) -> None:
        self._candidates: dict[Prefix, dict[_Key, Route]] = {}
        self._lengths: dict[int, Counter[int]] = {4: Counter(), 6: Counter()}
        self._installed: dict[Prefix, Route] = {}
        self._down: set[str] = set()
        self._dirty: set[Prefix] = set()
        # Who must be looked at again when an interface or a recursive next hop changes.
        self._by_interface: defaultdict[str, set[Prefix]] = defaultdict(set)
        self._by_via: dict[Address, set[Prefix]] = {}
        self._resolved: dict[Address, tuple[Hop, ...]] = {}

    def update(self, offered: Iterable[Route] = (), withdrawn: Iterable[Route] = ()) -> None:
        """Take routes, each in the place of the same protocol's and source's earlier one, and drop others."""
        for route in withdrawn:
            self._remove(route)
        for route in offered:
            self._remove(route)
            self._add(route)

    def link(self, interface: str, *, up: bool) -> None:
        """Take note that an interface can, or cannot, carry packets.  One never heard of can."""
        if up == (interface not in self._down):
            return
        if up:
            self._down.discard(interface)
        else:
            self._down.add(interface)
        self._dirty |= self._by_interface[interface]

    def flush(self) -> list[FibChange]:
        """Give what has changed for the FIB since the last call, in the order of prefixes."""
        if not self._dirty:
            return []
        self._resolve_all()
        changes = []
        for prefix in sorted(self._dirty):
            best = self._best(prefix)
            if best == self._installed.get(prefix):
                continue
            if best is None:
                del self._installed[prefix]
            else:
                self._installed[prefix] = best
            changes.append(FibChange(prefix, best))
        self._dirty.clear()
        return changes

    @property
    def installed(self) -> dict[Prefix, Route]:
        """What the FIB holds after the last flush(); not to be changed."""
        return self._installed

    def lookup(self, address: Address) -> Route | None:
        """Find the installed route to an address, as the forwarder would."""
        for length in self._lengths_of(address.family):
            route = self._installed.get(Prefix(address.family, address.value & mask(address.family, length), length))
            if route is not None:
                return route
        return None

    def _add(self, route: Route) -> None:
        candidates = self._candidates.get(route.prefix)
        if candidates is None:
            candidates = self._candidates[route.prefix] = {}
            self._lengths[route.prefix.family][route.prefix.length] += 1
        candidates[route.protocol, route.source] = route
        self._dirty.add(route.prefix)
        self._index(route.prefix)

    def _remove(self, route: Route) -> None:
        candidates = self._candidates.get(route.prefix)
        old = candidates.pop((route.protocol, route.source), None) if candidates is not None else None
        if candidates is None or old is None:
            return
        self._dirty.add(route.prefix)
        for hop in old.hops:
            self._by_interface[hop.interface].discard(route.prefix)
            if hop.via is not None and hop.via in self._by_via:
                self._by_via[hop.via].discard(route.prefix)
                if not self._by_via[hop.via]:
                    del self._by_via[hop.via]
        if candidates:
            self._index(route.prefix)
            return
        del self._candidates[route.prefix]
        lengths = self._lengths[route.prefix.family]
        lengths[route.prefix.length] -= 1
        if not lengths[route.prefix.length]:
            del lengths[route.prefix.length]

    def _index(self, prefix: Prefix) -> None:
        for route in self._candidates[prefix].values():
            for hop in route.hops:
                if hop.interface:
                    self._by_interface[hop.interface].add(prefix)
                elif hop.via is not None:
                    self._by_via.setdefault(hop.via, set()).add(prefix)

    def _resolve_all(self) -> None:
        """Find the way to every recursive next hop anew, and mark the routes that use a changed one.

        From nothing each time: routes that hold each other up do not outlive the one below them.
        """
        before, self._resolved = self._resolved, {}
        for via, users in self._by_via.items():
            if self._resolve(via, set()) != before.get(via):
                self._dirty |= users

    def _resolve(self, via: Address, pending: set[Address]) -> tuple[Hop, ...]:
        known = self._resolved.get(via)
        if known is not None:
            return known
        if via in pending or len(pending) >= MAX_DEPTH:
            return ()
        pending.add(via)
        hops = self._way_to(via, pending)
        pending.discard(via)
        if not pending or hops:
            # A failure below another search may be due to that search alone.
            self._resolved[via] = hops
        return hops

    def _way_to(self, via: Address, pending: set[Address]) -> tuple[Hop, ...]:
        for length in self._lengths_of(via.family):
            prefix = Prefix(via.family, via.value & mask(via.family, length), length)
            if not length or prefix not in self._candidates:
                continue
            for route in self._ordered(prefix):
                hops = self._usable(route, pending)
                if hops:
                    return tuple(_towards(hop, via) for hop in hops) if _leads_on(hops) else ()
        return ()

    def _best(self, prefix: Prefix) -> Route | None:
        if prefix not in self._candidates:
            return None
        for route in self._ordered(prefix):
            hops = self._usable(route, set())
            if hops:
                return route if hops == route.hops else replace(route, hops=hops)
        return None

    def _ordered(self, prefix: Prefix) -> list[Route]:
        routes = self._candidates[prefix].values()
        return sorted(routes, key=lambda route: (route.preference, route.protocol, route.metric, route.source))

    def _usable(self, route: Route, pending: set[Address]) -> tuple[Hop, ...]:
        """Give the hops of a route that lead somewhere now, each with its interface."""
        groups: list[tuple[int, tuple[Hop, ...]]] = []
        for hop in route.hops:
            if hop.kind is HopKind.FORWARD and not hop.interface:
                assert hop.via is not None
                inner = self._resolve(hop.via, pending)
            else:
                # An address of ours answers on every link (the weak host model, as Linux).
                stays = hop.kind is HopKind.LOCAL or hop.interface not in self._down
                inner = (replace(hop, weight=1) if hop.weight != 1 else hop,) if stays else ()
            if inner:
                groups.append((hop.weight, inner))
        return _share(groups)

    def _lengths_of(self, family: int) -> list[int]:
        return sorted(self._lengths[family], reverse=True)


def _leads_on(hops: tuple[Hop, ...]) -> bool:
    return all(hop.kind in {HopKind.FORWARD, HopKind.CONNECTED} for hop in hops)


def _towards(hop: Hop, via: Address) -> Hop:
    """Give the hop by which packets for `via` leave."""
    return Hop(HopKind.FORWARD, hop.interface, via, hop.weight) if hop.kind is HopKind.CONNECTED else hop


def _share(groups: list[tuple[int, tuple[Hop, ...]]]) -> tuple[Hop, ...]:
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
