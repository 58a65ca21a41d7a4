"""The forwarding table of a simulated router, kept as a forwarder's is: through the death of the control too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vrouter.net.address import IPV4, IPV6, Address, Prefix, network

if TYPE_CHECKING:
    from vrouter.engine.outputs import Tables
    from vrouter.rib.route import Hop, Route


class FibModel:
    """Prefixes and their routes, looked up by the longest match."""

    def __init__(self) -> None:
        """Begin empty."""
        self.routes: dict[Prefix, Route] = {}
        self.removed = 0  # of prefixes that were there, in all its life
        self._lengths: dict[int, list[int]] = {IPV4: [], IPV6: []}
        self._stale: set[Prefix] = set()

    def all_stale(self) -> None:
        """Let a successor of the control that has died decide about all that is there."""
        self._stale = set(self.routes)

    def apply(self, tables: Tables) -> None:
        """Take changes; what is stale and of a protocol that has settled goes."""
        for change in tables.changes:
            self._stale.discard(change.prefix)
            if change.route is not None:
                self.routes[change.prefix] = change.route
            elif self.routes.pop(change.prefix, None) is not None:
                self.removed += 1
        for prefix in [each for each in self._stale if self.routes[each].protocol not in tables.unsettled]:
            del self.routes[prefix]
            self._stale.discard(prefix)
            self.removed += 1
        for family, lengths in self._lengths.items():
            lengths[:] = sorted({prefix.length for prefix in self.routes if prefix.family == family}, reverse=True)

    def lookup(self, address: Address) -> Route | None:
        """Give the route for an address."""
        for length in self._lengths[address.family]:
            found = self.routes.get(network(address, length))
            if found is not None:
                return found
        return None

    def hop(self, address: Address, flow: int = 0) -> Hop | None:
        """Give the next hop of a flow to an address."""
        route = self.lookup(address)
        return None if route is None or not route.hops else route.hops[flow % len(route.hops)]
