"""The graph of an area, kept as rows of edges that one changed LSA replaces one of (RFC 2328 section 16.1)."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable
from typing import Final

from vrouter.net.address import Address, Prefix, network
from vrouter.proto.ospf.dijkstra import UNREACHABLE, ShortestPaths
from vrouter.rib.route import Hop, HopKind
from vrouter.wire.ospf.lsa import LinkType, NetworkBody, RouterBody, RouterLink

NETWORK: Final = 1 << 32  # in the key of a vertex
_HOST: Final = 0xFFFFFFFF
_MAX_LABELS: Final = 4096
_SLACK: Final = 1024  # edges that need not be compacted
_SPARE_VERTICES: Final = 4096

Stub = tuple[Prefix, int]
# A link of the root, to the hop that it is: through a neighbor, or into a connected network.  Of links that are
# alike, since their interfaces share an address, the number tells which.
Resolve = Callable[[RouterLink, int], Hop | None]


class Graph:
    """Vertices, edges and prefixes of an area, and the shortest paths in it."""

    def __init__(self) -> None:
        self._index: dict[int, int] = {}
        self.keys: list[int] = []
        self.flags: list[int] = []  # of router LSAs; -1: there is none
        self.stubs: list[tuple[Stub, ...]] = []
        self._links: list[tuple[RouterLink, ...]] = []  # those of a router that are edges
        self._networks_held: dict[int, dict[int, NetworkBody]] = {}
        self._starts = array("I")
        self._counts = array("I")
        self._room = array("I")
        self._networks = array("B")
        self._targets = array("I")
        self._costs = array("I")
        self._labels = array("i")
        self._labeled: list[int] = []
        self._live = 0
        self.distances: list[int] = []
        self.masks: list[int] = []
        self.table: list[Hop] = []  # what the bits of masks mean
        self._sets: dict[int, tuple[Hop, ...]] = {}
        self.runs = 0

    @property
    def crowded(self) -> bool:
        """Whether most vertices are neither of an LSA nor the end of an edge: a graph made anew is smaller."""
        spare = len(self.keys) - _SPARE_VERTICES
        return spare > 0 and spare > 2 * (self._live + sum(flag >= 0 for flag in self.flags))

    def vertex(self, key: int) -> int:
        """Give the number of a vertex; it needs no LSA yet."""
        number = self._index.get(key)
        if number is None:
            number = self._index[key] = len(self.keys)
            self.keys.append(key)
            self.flags.append(-1)
            self.stubs.append(())
            self._links.append(())
            for numbers in (self._starts, self._counts, self._room):
                numbers.append(0)
            self._networks.append(1 if key & NETWORK else 0)
            self.distances.append(UNREACHABLE)
            self.masks.append(0)
        return number

    def set_router(self, router: int, body: RouterBody | None) -> tuple[int, tuple[Stub, ...]]:
        """Take the LSA of a router; give its vertex and the prefixes that it had before."""
        number = self.vertex(router)
        before = self.stubs[number]
        edges: list[RouterLink] = []
        stubs: list[Stub] = []
        for link in body.links if body else ():
            if link.type == LinkType.STUB:
                stubs.append((_masked(link.id, link.data), link.metric))
            elif link.type in {LinkType.POINT_TO_POINT, LinkType.TRANSIT}:
                edges.append(link)
        self.flags[number] = body.flags if body else -1
        self.stubs[number] = tuple(stubs)
        self._links[number] = tuple(edges)
        self._row(number, [(self.vertex(_key(link)), link.metric) for link in edges])
        return number, before

    def set_network(self, identifier: int, router: int, body: NetworkBody | None) -> tuple[int, tuple[Stub, ...]]:
        """Take the LSA of a network; of several for one, that of the highest router counts."""
        held = self._networks_held.setdefault(identifier, {})
        if body is None:
            held.pop(router, None)
        else:
            held[router] = body
        number = self.vertex(identifier | NETWORK)
        before = self.stubs[number]
        chosen = held[max(held)] if held else None
        hidden = chosen is None or chosen.mask == _HOST  # RFC 6860 section 3
        self.stubs[number] = () if chosen is None or hidden else ((_masked(identifier, chosen.mask), 0),)
        self._row(number, [(self.vertex(router), 0) for router in chosen.routers] if chosen else [])
        return number, before

    def _row(self, number: int, edges: list[tuple[int, int]]) -> None:
        count = len(edges)
        self._live += count - self._counts[number]
        if count > self._room[number]:
            self._starts[number] = len(self._targets)
            self._room[number] = count
            self._targets.extend(target for target, _ in edges)
            self._costs.extend(cost for _, cost in edges)
            self._labels.extend([-1] * count)
        else:
            start = self._starts[number]
            for at, (target, cost) in enumerate(edges, start):
                self._targets[at] = target
                self._costs[at] = cost
        self._counts[number] = count
        if len(self._targets) > 2 * self._live + _SLACK:
            self._compact()

    def _compact(self) -> None:
        targets, costs = array("I"), array("I")
        for number, (start, count) in enumerate(zip(self._starts, self._counts, strict=True)):
            self._starts[number] = len(targets)
            self._room[number] = count
            targets += self._targets[start : start + count]
            costs += self._costs[start : start + count]
        self._targets, self._costs = targets, costs
        self._labels = array("i", [-1]) * len(targets)
        self._labeled = []

    def run(self, router: int, resolve: Resolve, paths: ShortestPaths) -> list[int]:
        """Find the shortest paths from us; give the vertices whose distance or first hops have changed."""
        root = self.vertex(router)
        table = self._label(root, resolve)
        distances, masks = paths(
            self._starts, self._counts, self._networks, self._targets, self._costs, self._labels, root, len(table)
        )
        self.runs += 1
        if table == self.table:
            zipped = zip(distances, self.distances, masks, self.masks, strict=True)
            changed = [number for number, (a, b, c, d) in enumerate(zipped) if a != b or c != d]
        else:
            changed = list(range(len(distances)))
            self._sets.clear()
        self.distances, self.masks, self.table = distances, masks, table
        return changed

    def _label(self, root: int, resolve: Resolve) -> list[Hop]:
        """Number the first hops: section 16.1.1."""
        for edge in self._labeled:
            self._labels[edge] = -1
        self._labeled = []
        table: list[Hop] = []
        seen: Counter[tuple[int, int, int]] = Counter()
        for at, link in enumerate(self._links[root]):
            alike = (link.type, link.id, link.data)
            hop = resolve(link, seen[alike])
            seen[alike] += 1
            if hop is None or len(table) >= _MAX_LABELS:
                continue
            self._put_label(self._starts[root] + at, table, hop)
            if link.type == LinkType.TRANSIT:
                self._label_network(self.vertex(_key(link)), root, table, hop)
        return table

    def _label_network(self, net: int, root: int, table: list[Hop], hop: Hop) -> None:
        identifier = self.keys[net] & 0xFFFFFFFF
        start = self._starts[net]
        for edge in range(start, start + self._counts[net]):
            router = self._targets[edge]
            if router == root or len(table) >= _MAX_LABELS or self._labels[edge] >= 0:
                continue
            for link in self._links[router]:
                if link.type == LinkType.TRANSIT and link.id == identifier:
                    self._put_label(edge, table, Hop(HopKind.FORWARD, hop.interface, Address(4, link.data)))
                    break

    def _put_label(self, edge: int, table: list[Hop], hop: Hop) -> None:
        self._labels[edge] = len(table)
        self._labeled.append(edge)
        table.append(hop)

    def hops(self, mask: int) -> tuple[Hop, ...]:
        """Give the hops that bits stand for, in an order of their own."""
        found = self._sets.get(mask)
        if found is None:
            hops = {hop for number, hop in enumerate(self.table) if mask >> number & 1}
            found = tuple(sorted(hops, key=lambda hop: (hop.interface, hop.via or (0, 0))))
            self._sets[mask] = found
        return found

    def reach(self, router: int) -> tuple[int, int, int] | None:
        """Give the distance, the hops as bits and the flags of a router; None: no way to it."""
        number = self._index.get(router)
        if number is None or self.flags[number] < 0 or self.distances[number] == UNREACHABLE:
            return None
        return self.distances[number], self.masks[number], self.flags[number]


def _key(link: RouterLink) -> int:
    return link.id | NETWORK if link.type == LinkType.TRANSIT else link.id


def _masked(value: int, mask: int) -> Prefix:
    return network(Address(4, value), mask.bit_count())
