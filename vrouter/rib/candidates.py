"""All routes that protocols offer, by prefix, and who uses which interface and which recursive next hop."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Iterator
from typing import Final

from vrouter.net.address import BITS, Address, Prefix, last_address, mask
from vrouter.rib.route import HopKind, Protocol, Route

Key = tuple[Protocol, str]
MAX_PREFERENCE: Final = 255  # of a route that is never used


def rank(route: Route) -> tuple[int, Protocol, int, str]:
    """Give what orders the routes to one prefix: the smallest wins."""
    return route.preference, route.protocol, route.metric, route.source


class Lengths:
    """Which prefix lengths occur, of each family."""

    def __init__(self) -> None:
        self._counts: dict[int, Counter[int]] = {4: Counter(), 6: Counter()}
        self._sorted: dict[int, tuple[int, ...]] = {4: (), 6: ()}

    def add(self, prefix: Prefix) -> None:
        """Count a prefix."""
        self._change(prefix, 1)

    def remove(self, prefix: Prefix) -> None:
        """No longer count a prefix."""
        self._change(prefix, -1)

    def covering(self, address: Address) -> Iterator[Prefix]:
        """Give the prefixes of these lengths that an address is in, the longest first."""
        family, value = address
        for length in self._sorted[family]:
            yield Prefix(family, value & mask(family, length), length)

    def _change(self, prefix: Prefix, by: int) -> None:
        counts = self._counts[prefix.family]
        before = counts[prefix.length]
        counts[prefix.length] = before + by
        if before == 0 or before + by == 0:
            self._sorted[prefix.family] = tuple(sorted((+counts).keys(), reverse=True))


class Addresses:
    """A set of addresses that knows which of them are in a prefix."""

    def __init__(self) -> None:
        self._sorted: list[Address] = []

    def __contains__(self, address: Address) -> bool:
        """Tell whether an address is in the set."""
        at = bisect_left(self._sorted, address)
        return at < len(self._sorted) and self._sorted[at] == address

    def add(self, address: Address) -> None:
        """Add an address."""
        if address not in self:
            insort(self._sorted, address)

    def discard(self, address: Address) -> None:
        """Remove an address."""
        at = bisect_left(self._sorted, address)
        if at < len(self._sorted) and self._sorted[at] == address:
            del self._sorted[at]

    def within(self, prefix: Prefix) -> list[Address]:
        """Give those in a prefix."""
        if prefix.length == BITS[prefix.family]:
            address = Address(prefix.family, prefix.value)
            return [address] if address in self else []
        first = bisect_left(self._sorted, Address(prefix.family, prefix.value))
        return self._sorted[first : bisect_right(self._sorted, last_address(prefix))]


class Candidates:
    """The routes.  A protocol has one to a prefix for each source."""

    def __init__(self) -> None:
        self._routes: dict[Prefix, dict[Key, Route]] = {}
        self.lengths = Lengths()
        self.by_interface: dict[str, set[Prefix]] = {}
        self.by_via: dict[Address, set[Prefix]] = {}

    def __contains__(self, prefix: object) -> bool:
        """Tell whether there is a route to a prefix."""
        return prefix in self._routes

    def __len__(self) -> int:
        """Count the prefixes."""
        return len(self._routes)

    def __iter__(self) -> Iterator[Prefix]:
        """Give all prefixes, in the order in which they came."""
        return iter(self._routes)

    def of(self, prefix: Prefix) -> tuple[Route, ...]:
        """Give the routes to a prefix, the one to be preferred first."""
        routes = self._routes.get(prefix)
        if routes is None:
            return ()
        return tuple(routes.values()) if len(routes) == 1 else tuple(sorted(routes.values(), key=rank))

    def get(self, prefix: Prefix, key: Key) -> Route | None:
        """Give one protocol's route from one source."""
        return self._routes.get(prefix, {}).get(key)

    def protocols(self, prefix: Prefix) -> Iterator[Protocol]:
        """Give the protocols that offer a prefix."""
        return (protocol for protocol, _ in self._routes.get(prefix, ()))

    def all(self) -> Iterator[Route]:
        """Give every route."""
        for routes in self._routes.values():
            yield from routes.values()

    def add(self, route: Route) -> None:
        """Take a route; there is none of this protocol and source."""
        prefix = route.prefix
        routes = self._routes.get(prefix)
        if routes is None:
            routes = self._routes[prefix] = {}
            self.lengths.add(prefix)
        routes[route.protocol, route.source] = route
        self._index(route)

    def remove(self, prefix: Prefix, key: Key) -> Route | None:
        """Drop a route and give it."""
        routes = self._routes.get(prefix)
        old = routes.pop(key, None) if routes is not None else None
        if routes is None or old is None:
            return None
        for hop in old.hops:
            if hop.interface:
                _discard(self.by_interface, hop.interface, prefix)
            elif hop.via is not None:
                _discard(self.by_via, hop.via, prefix)
        for other in routes.values():
            self._index(other)
        if not routes:
            del self._routes[prefix]
            self.lengths.remove(prefix)
        return old

    def _index(self, route: Route) -> None:
        for hop in route.hops:
            if hop.interface:
                self.by_interface.setdefault(hop.interface, set()).add(route.prefix)
            elif hop.kind is HopKind.FORWARD and hop.via is not None:
                self.by_via.setdefault(hop.via, set()).add(route.prefix)


def _discard(index: dict[str, set[Prefix]] | dict[Address, set[Prefix]], key: str | Address, prefix: Prefix) -> None:
    users: set[Prefix] | None = index.get(key)  # type: ignore[arg-type]
    if users is not None:
        users.discard(prefix)
        if not users:
            del index[key]  # type: ignore[arg-type]
