"""The routing table: RFC 2328 section 16, kept up to date by what has changed.

    router, network LSA --> graph of the area --shortest paths--> vertices that moved --+
    summary LSA -----------------------------------------------> prefixes, ASBRs -------+--> dirty prefixes
    external, NSSA LSA ----------------------------------------> prefixes --------------+        |
                                                          the best path of each, anew <----------+
                                                              |
                        RouteAdd, RouteDel <--- those that differ ---> summaries, externals

Each prefix knows who announces it, so a change costs what it touches.  Externals come after all others,
since they lead to routers and forwarding addresses that others lead to.  Computations are spaced by RFC 8405.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from vrouter.net.address import Address, Prefix, mask, network
from vrouter.proto.base import RouteAdd, RouteDel, Settled
from vrouter.proto.ospf.area import Area
from vrouter.proto.ospf.core import BACKBONE, Core
from vrouter.proto.ospf.database import Database, Entry
from vrouter.proto.ospf.dijkstra import UNREACHABLE
from vrouter.proto.ospf.graph import Graph
from vrouter.proto.ospf.throttle import Throttle
from vrouter.rib.route import Hop, HopKind, Protocol, Route
from vrouter.wire.ospf.lsa import (
    INFINITY,
    MAX_AGE,
    ExternalBody,
    LinkType,
    LsaKey,
    LsaType,
    NetworkBody,
    RouterBody,
    RouterFlag,
    RouterLink,
    SummaryBody,
)

INTRA: Final = 0
INTER: Final = 1
EXTERNAL_1: Final = 2
EXTERNAL_2: Final = 3
KINDS: Final = ("intra-area", "inter-area", "external-1", "external-2")
_AS: Final = -1  # instead of an area: of LSAs of the whole system
_Border = tuple[int, int]  # area and router
_What = TypeVar("_What")
_Key = TypeVar("_Key")
_Item = TypeVar("_Item")
_SUMMARIES: Final = frozenset({LsaType.SUMMARY, LsaType.ASBR_SUMMARY})


@dataclass(frozen=True, slots=True)
class Path:
    """The way to a prefix.  Without hops it is our own, or leads nowhere but is announced."""

    kind: int
    cost: int
    hops: tuple[Hop, ...]
    area: int
    metric: int = 0  # of type 2
    tag: int = 0
    source: tuple[int, LsaKey] | None = None  # area and LSA of an external one


@dataclass(frozen=True, slots=True)
class RouterPath:
    """The way to an AS boundary router or a forwarding address; `rank` is that of section 16.4.1."""

    rank: int
    cost: int
    hops: tuple[Hop, ...]
    area: int


class Routes:
    """All routes of the instance."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.throttle = Throttle(core.config.spf)
        self.table: dict[Prefix, Path] = {}
        self._emitted: dict[Prefix, Route] = {}
        self._areas: dict[int, Area] = {}  # whose graph has changed
        self._dirty: dict[Prefix, None] = {}
        self._dirty_asbrs: dict[int, None] = {}
        self._intra: dict[Prefix, dict[tuple[int, int], int]] = {}
        self._summaries: dict[Prefix, dict[tuple[int, int], int]] = {}  # (area, border router) -> metric
        self._summary_ids: dict[tuple[Prefix, _Border], dict[int, int]] = {}  # link state id -> metric
        self._of_border: dict[tuple[int, int], dict[Prefix, None]] = {}
        self._asbr_summaries: dict[int, dict[tuple[int, int], int]] = {}
        self._asbrs_of_border: dict[tuple[int, int], dict[int, None]] = {}
        self._externals: dict[Prefix, dict[tuple[int, LsaKey], ExternalBody]] = {}
        self._of_asbr: dict[int, dict[Prefix, int]] = {}
        self._of_forwarding: dict[int, dict[Prefix, int]] = {}
        self._forwarding: dict[tuple[int, int], RouterPath | None] = {}
        self._usable_borders: dict[_Border, bool] = {}
        self.asbrs: dict[int, RouterPath] = {}
        self.discards: dict[Prefix, None] = {}
        self.computations = 0
        self.settle = False  # say Settled after the next one

    # --- what changes ---

    def lsa_changed(self, database: Database, old: Entry | None, new: Entry | None) -> None:
        """Take note of an LSA with other content; None: it is gone, or was not there."""
        entry = new or old
        assert entry is not None
        kind, router = entry.header.type, entry.header.router
        area = self._core.area_of(database)
        if kind in {LsaType.ROUTER, LsaType.NETWORK}:
            if area is not None:
                self._graph_changed(area, entry, new)
        elif router != self._core.router_id:
            number = area.id if area is not None else _AS
            for held in (old, new):
                if held is None or (held is old and old is not None and old.header.age >= MAX_AGE):
                    continue
                if kind in _SUMMARIES and isinstance(held.body, SummaryBody):
                    self._summary(number, held, gone=held is old)
                elif isinstance(held.body, ExternalBody):
                    self._external(number, held, gone=held is old)
        if kind == LsaType.NSSA and area is not None:
            self._core.externals.translate_later(area)
        self.schedule()

    def _graph_changed(self, area: Area, entry: Entry, new: Entry | None) -> None:
        self._areas[area.id] = area
        header = entry.header
        body = new.body if new is not None else None
        if header.type == LsaType.ROUTER:
            assert body is None or isinstance(body, RouterBody)
            vertex, before = area.graph.set_router(header.router, body)
            self._dirty_asbrs[header.router] = None  # it may say so from now on, or no longer
            self._way_inside_changed(area, header.router)
        else:
            assert body is None or isinstance(body, NetworkBody)
            vertex, before = area.graph.set_network(header.id, header.router, body)
        number = (area.id, vertex)
        for prefix, _ in before:
            if self._intra.get(prefix, {}).pop(number, None) is not None and not self._intra[prefix]:
                del self._intra[prefix]
            self._dirty[prefix] = None
        for prefix, cost in area.graph.stubs[vertex]:
            held = self._intra.setdefault(prefix, {})
            held[number] = min(cost, held.get(number, cost))
            self._dirty[prefix] = None

    def _summary(self, area: int, entry: Entry, *, gone: bool) -> None:
        body, header = entry.body, entry.header
        assert isinstance(body, SummaryBody)
        border = (area, header.router)
        if header.type == LsaType.ASBR_SUMMARY:
            self._dirty_asbrs[header.id] = None
            _index(self._asbr_summaries, self._asbrs_of_border, header.id, border, body.metric, gone=gone)
            return
        prefix = network(Address(4, header.id), body.mask.bit_count())
        self._dirty[prefix] = None
        # While an id passes from one prefix to another (appendix E), one of them may be there under two ids.
        ids = self._summary_ids.setdefault((prefix, border), {})
        if gone:
            ids.pop(header.id, None)
        else:
            ids[header.id] = body.metric
        if not ids:
            del self._summary_ids[prefix, border]
        _index(self._summaries, self._of_border, prefix, border, min(ids.values(), default=0), gone=not ids)

    def _external(self, area: int, entry: Entry, *, gone: bool) -> None:
        body, header = entry.body, entry.header
        assert isinstance(body, ExternalBody)
        prefix = network(Address(4, header.id), body.mask.bit_count())
        number = (area, header.key)
        self._drop_external(prefix, number)
        if gone:
            return
        self._externals.setdefault(prefix, {})[number] = body
        _count(self._of_asbr, header.router, prefix, 1)
        if body.forwarding:
            _count(self._of_forwarding, body.forwarding, prefix, 1)

    def _drop_external(self, prefix: Prefix, number: tuple[int, LsaKey]) -> None:
        self._dirty[prefix] = None
        body = self._externals.get(prefix, {}).get(number)
        if body is None:
            return
        _drop(self._externals, prefix, number)
        _count(self._of_asbr, number[1][2], prefix, -1)
        if body.forwarding:
            _count(self._of_forwarding, body.forwarding, prefix, -1)

    def neighbors_changed(self, area: Area) -> None:
        """Take note that first hops may be others."""
        self._areas[area.id] = area
        self.schedule()

    def forget_area(self, area: Area) -> None:
        """Drop all that an area has told."""
        for prefix, numbers in list(self._externals.items()):
            for at, key in [number for number in numbers if number[0] == area.id]:
                self._drop_external(prefix, (at, key))
        for prefix, vertices in list(self._intra.items()):
            for vertex in [vertex for vertex in vertices if vertex[0] == area.id]:
                self._dirty[prefix] = None
                _drop(self._intra, prefix, vertex)
        for border in [border for border in self._of_border if border[0] == area.id]:
            for prefix in self._of_border.pop(border):
                self._dirty[prefix] = None
                _drop(self._summaries, prefix, border)
                self._summary_ids.pop((prefix, border), None)
            self._usable_borders.pop(border, None)
        for border in [border for border in self._asbrs_of_border if border[0] == area.id]:
            for asbr in self._asbrs_of_border.pop(border):
                _drop(self._asbr_summaries, asbr, border)
        self._areas.pop(area.id, None)
        self._dirty_asbrs.update(dict.fromkeys(self.asbrs))
        self.schedule()

    def all_changed(self) -> None:
        """Compute everything anew."""
        self._areas.update(self._core.areas)
        for held in (self._intra, self._summaries, self._externals, self.table):
            self._dirty.update(dict.fromkeys(held))
        self._dirty_asbrs.update(dict.fromkeys([*self._asbr_summaries, *self._of_asbr, *self.asbrs]))
        self.schedule()

    def schedule(self) -> None:
        """Compute soon, as RFC 8405 says when."""
        core = self._core
        if core.restart.active or ("spf",) in core.timers:
            return
        core.timers.set(("spf",), core.now + self.throttle.delay(core.now))

    # --- computing ---

    def compute(self) -> None:
        """Bring the table up to date, and offer what is new in it."""
        core = self._core
        if core.restart.active:
            return
        self.computations += 1
        core.timers.cancel(("spf",))
        ran = bool(self._areas)
        for area in list(self._areas.values()):
            if area.id in core.areas:
                self._run(area)
        self._areas.clear()
        dirty, self._dirty = self._dirty, {}
        changed: dict[Prefix, tuple[Path | None, Path | None]] = {}
        later: list[Prefix] = []
        for prefix in dirty:
            path = self._intra_path(prefix) or self._inter_path(prefix)
            if path is None and prefix in self._externals:
                later.append(prefix)
            else:
                self._note(prefix, path, changed)
        for prefix in later:  # lookups of forwarding addresses must not find what is gone
            old = self.table.get(prefix)
            if old is not None and old.kind < EXTERNAL_1:
                self._note(prefix, None, changed)
        moved = self._asbrs_again()
        again = dict.fromkeys(later)
        for asbr in moved:
            again.update(dict.fromkeys(self._of_asbr.get(asbr, ())))
        again.update(self._forwarding_moved(changed))
        for prefix in again:
            present = self.table.get(prefix)
            if present is None or present.kind >= EXTERNAL_1:
                self._note(prefix, self._external_path(prefix), changed)
        core.summaries.paths_changed({p: new for p, (old, new) in changed.items() if old != new}, moved)
        self._offer(p for p, (old, new) in changed.items() if old != new)
        core.externals.paths_changed(changed or ran)
        if self.settle:
            self.settle = False
            core.emit(Settled(Protocol.OSPF))

    def _rebuild(self, area: Area) -> None:
        """Make the graph of an area anew, without the vertices of routers and networks that are gone."""
        area.graph = Graph()
        for prefix, vertices in list(self._intra.items()):
            for vertex in [vertex for vertex in vertices if vertex[0] == area.id]:
                self._dirty[prefix] = None
                _drop(self._intra, prefix, vertex)
        for kind in (LsaType.ROUTER, LsaType.NETWORK):
            for entry in area.database.of_type(kind):
                if entry.header.age < MAX_AGE:
                    self._graph_changed(area, entry, entry)
        for border, prefixes in self._of_border.items():
            if border[0] == area.id:
                self._dirty.update(dict.fromkeys(prefixes))
        self._dirty_asbrs.update(dict.fromkeys([*self._asbr_summaries, *self._of_asbr, *self.asbrs]))

    def _run(self, area: Area) -> None:
        if area.graph.crowded:
            self._rebuild(area)
        graph = area.graph
        for vertex in graph.run(
            self._core.router_id, lambda link, number: self._first_hop(area, link, number), self._core.spf
        ):
            for prefix, _ in graph.stubs[vertex]:
                self._dirty[prefix] = None
            border = (area.id, graph.keys[vertex])
            self._dirty.update(dict.fromkeys(self._of_border.get(border, ())))
            for asbr in self._asbrs_of_border.get(border, ()):
                self._dirty_asbrs[asbr] = None
            self._way_inside_changed(area, graph.keys[vertex])
            if graph.flags[vertex] >= 0 and (graph.flags[vertex] & RouterFlag.E or graph.keys[vertex] in self.asbrs):
                self._dirty_asbrs[graph.keys[vertex]] = None
        # A border router whose flag has come or gone has the same distance as before.
        for border, prefixes in self._of_border.items():
            if border[0] == area.id:
                reach = graph.reach(border[1])
                usable = reach is not None and bool(reach[2] & RouterFlag.B)
                if usable != self._usable_borders.get(border, False):
                    self._usable_borders[border] = usable
                    self._dirty.update(dict.fromkeys(prefixes))
                    self._dirty_asbrs.update(dict.fromkeys(self._asbrs_of_border.get(border, ())))

    def _way_inside_changed(self, area: Area, router: int) -> None:
        """Look again at what a router announces in an NSSA: the best of all ways to it may be the same as before."""
        if area.nssa:
            self._dirty.update(dict.fromkeys(self._of_asbr.get(router, ())))

    @staticmethod
    def _first_hop(area: Area, link: RouterLink, number: int) -> Hop | None:
        """Find what a link of our own router LSA leads to; of several that fit, the one with a number."""
        found: list[Hop] = []
        for _, interface in sorted(area.interfaces.items()):
            if interface.address != link.data:
                continue
            if link.type == LinkType.TRANSIT:
                found.append(Hop(HopKind.CONNECTED, interface.name))
                continue
            found += [
                Hop(HopKind.FORWARD, interface.name, Address(4, neighbor.address))
                for neighbor in interface.neighbors.values()
                if neighbor.router == link.id and neighbor.full
            ]
        return found[number] if number < len(found) else None

    def _note(self, prefix: Prefix, path: Path | None, changed: dict[Prefix, tuple[Path | None, Path | None]]) -> None:
        old = self.table.get(prefix)
        if old == path:
            return
        changed[prefix] = (changed[prefix][0] if prefix in changed else old, path)
        if path is None:
            del self.table[prefix]
        else:
            self.table[prefix] = path

    def _intra_path(self, prefix: Prefix) -> Path | None:
        best: tuple[int, int] | None = None
        bits = 0
        for (area, vertex), cost in self._intra.get(prefix, {}).items():
            graph = self._core.areas[area].graph
            distance = graph.distances[vertex]
            if distance == UNREACHABLE:
                continue
            found = (distance + cost, area)
            if best is None or found < best:
                best, bits = found, graph.masks[vertex]
            elif found == best:
                bits |= graph.masks[vertex]
        if best is None:
            return None
        cost, area = best
        return Path(INTRA, cost, self._limited(self._core.areas[area].graph.hops(bits)), area)

    def _limited(self, hops: tuple[Hop, ...]) -> tuple[Hop, ...]:
        return hops[: self._core.config.maximum_paths]

    def _transit_areas(self, area: int) -> bool:
        """Tell whether summaries of an area count: of the backbone only, at a border (section 16.2)."""
        return area in self._core.areas and (area == BACKBONE or not self._core.border)

    def _inter_path(self, prefix: Prefix) -> Path | None:
        announced = self._summaries.get(prefix)
        if not announced or prefix in self.discards:
            return None
        found = self._through_borders(announced)
        return Path(INTER, found.cost, found.hops, found.area) if found else None

    def _through_borders(self, announced: dict[tuple[int, int], int]) -> RouterPath | None:
        best: tuple[int, int] | None = None
        bits = 0
        for (area, router), metric in announced.items():
            if metric >= INFINITY or not self._transit_areas(area):
                continue
            reach = self._core.areas[area].graph.reach(router)
            if reach is None or not reach[2] & RouterFlag.B:
                continue
            found = (reach[0] + metric, area)
            if best is None or found < best:
                best, bits = found, reach[1]
            elif found == best:
                bits |= reach[1]
        if best is None:
            return None
        cost, area = best
        return RouterPath(1, cost, self._limited(self._core.areas[area].graph.hops(bits)), area)

    # --- externals: section 16.4 ---

    def _asbrs_again(self) -> list[int]:
        moved = []
        dirty, self._dirty_asbrs = self._dirty_asbrs, {}
        for asbr in dirty:
            path = self._to_asbr(asbr)
            if path == self.asbrs.get(asbr):
                continue
            moved.append(asbr)
            if path is None:
                del self.asbrs[asbr]
            else:
                self.asbrs[asbr] = path
        return moved

    def _to_asbr(self, asbr: int) -> RouterPath | None:
        candidates = []
        for area in self._core.areas.values():
            if not area.normal:
                continue  # RFC 3101 section 2.5: an AS-external LSA counts by ways through areas that it is flooded in
            reach = area.graph.reach(asbr)
            if reach is None or not reach[2] & RouterFlag.E or asbr == self._core.router_id:
                continue
            hops = self._limited(area.graph.hops(reach[1]))
            candidates.append(RouterPath(self._rank(area.id), reach[0], hops, area.id))
        if asbr in self._asbr_summaries:
            inter = self._through_borders(self._asbr_summaries[asbr])
            if inter is not None:
                candidates.append(inter)
        return min(candidates, key=lambda path: (path.rank, path.cost, -path.area), default=None)

    def _rank(self, area: int) -> int:
        """Prefer intra-area paths through other areas than the backbone: section 16.4.1."""
        return 1 if area == BACKBONE or self._core.config.rfc1583_compatibility else 0

    def _forwarding_moved(self, changed: Iterable[Prefix]) -> dict[Prefix, None]:
        moved: dict[Prefix, None] = {}
        if not any(True for _ in changed):
            return moved
        for address, prefixes in self._of_forwarding.items():
            for area in (_AS, *(area.id for area in self._core.areas.values() if area.nssa)):
                path = self._to_forwarding(address, area)
                if path != self._forwarding.get((address, area)):
                    self._forwarding[address, area] = path
                    moved.update(dict.fromkeys(prefixes))
        return moved

    def _to_forwarding(self, address: int, area: int) -> RouterPath | None:
        """Find the way to a forwarding address; of an NSSA's LSA, within that area."""
        for length in range(32, -1, -1):
            path = self.table.get(Prefix(4, address & mask(4, length), length))
            if path is None or path.kind > INTER:
                continue
            attached = not path.hops or any(hop.kind is HopKind.CONNECTED for hop in path.hops)
            if attached and any(i.own_by_address(address) for i in self._core.interfaces.values()):
                return None  # it leads to ourselves: what we do with such packets is not OSPF's business
            if area != _AS and (path.kind != INTRA or path.area != area):
                return None
            hops = tuple(
                Hop(HopKind.FORWARD, hop.interface, Address(4, address)) if hop.kind is HopKind.CONNECTED else hop
                for hop in path.hops
            )
            if not hops:
                hops = tuple(
                    Hop(HopKind.FORWARD, interface.name, Address(4, address))
                    for interface in self._core.interfaces.values()
                    if interface.area.id == path.area
                    and interface.prefix == Prefix(4, address & mask(4, length), length)
                )
            rank = self._rank(path.area) if path.kind == INTRA else 1
            return RouterPath(rank, path.cost, hops, path.area)
        return None

    def _external_path(self, prefix: Prefix) -> Path | None:
        best: tuple[int, int, int, int] | None = None
        found: list[tuple[Path, tuple[Hop, ...]]] = []
        for (area, key), body in self._externals.get(prefix, {}).items():
            way = self._way_to(area, key, body)
            if way is None or not way.hops:
                continue
            if body.type2:
                order = (EXTERNAL_2, body.metric, way.rank, way.cost)
                path = Path(EXTERNAL_2, way.cost, (), way.area, body.metric, body.tag, (area, key))
            else:
                order = (EXTERNAL_1, 0, way.rank, way.cost + body.metric)
                path = Path(EXTERNAL_1, way.cost + body.metric, (), way.area, 0, body.tag, (area, key))
            if best is None or order < best:
                best, found = order, []
            if order == best:
                found.append((path, way.hops))
        if not found:
            return None
        path = min((p for p, _ in found), key=lambda p: p.source or (0, (0, 0, 0)))
        hops = sorted({hop for _, hops in found for hop in hops}, key=lambda hop: (hop.interface, hop.via or (0, 0)))
        return Path(path.kind, path.cost, self._limited(tuple(hops)), path.area, path.metric, path.tag, path.source)

    def _way_to(self, area: int, key: LsaKey, body: ExternalBody) -> RouterPath | None:
        core = self._core
        if body.metric >= INFINITY:
            return None
        if area == _AS:
            asbr = self.asbrs.get(key[2])
        else:
            reach = core.areas[area].graph.reach(key[2]) if area in core.areas else None
            if reach is None or not reach[2] & RouterFlag.E:
                return None
            hops = self._limited(core.areas[area].graph.hops(reach[1]))
            asbr = RouterPath(self._rank(area), reach[0], hops, area)
            if key[1] == 0 and core.border and not core.areas[area].config.summaries:
                return None  # RFC 3101 section 2.5: not the default route of another border router
        if asbr is None or not body.forwarding:
            return asbr
        way = self._to_forwarding(body.forwarding, area)
        self._forwarding[body.forwarding, area] = way
        return way

    # --- to the RIB ---

    def _offer(self, prefixes: Iterable[Prefix]) -> None:
        add: list[Route] = []
        gone: list[Route] = []
        for prefix in prefixes:
            route = self._route(prefix, self.table.get(prefix))
            old = self._emitted.get(prefix)
            if route == old:
                continue
            if route is None:
                if old is not None:
                    gone.append(self._emitted.pop(prefix))
            else:
                self._emitted[prefix] = route
                add.append(route)
        if gone:
            self._core.emit(RouteDel(tuple(gone)))
        if add:
            self._core.emit(RouteAdd(tuple(add)))

    def offer_again(self) -> None:
        """Offer what a changed preference or range makes different."""
        self._offer(list({**self.table, **dict.fromkeys(self._emitted), **self.discards}))

    def discard_changed(self, prefix: Prefix, *, wanted: bool) -> None:
        """Drop what comes for a range that we announce but for which there is nothing more specific."""
        if wanted == (prefix in self.discards):
            return
        if wanted:
            self.discards[prefix] = None
        else:
            del self.discards[prefix]
        self._dirty[prefix] = None
        self.schedule()
        self._offer([prefix])

    def _route(self, prefix: Prefix, path: Path | None) -> Route | None:
        core = self._core
        preference = core.config.preference
        if path is None or not path.hops:
            if prefix not in self.discards or path is not None:
                return None
            origin = "OSPF: a range that is announced"
            return Route(prefix, Protocol.OSPF, (Hop(HopKind.BLACKHOLE),), preference, origin=origin)
        if any(hop.via is None for hop in path.hops):
            return None  # a network that we are attached to
        metric = path.metric if path.kind == EXTERNAL_2 else path.cost
        origin = f"OSPF {KINDS[path.kind]}, area {Address(4, path.area)}"
        if path.source:
            origin += f", announced by {Address(4, path.source[1][2])}"
        return Route(prefix, Protocol.OSPF, path.hops, preference, metric, "", path.tag, origin)

    def withdraw_all(self) -> None:
        """Take everything back."""
        gone = tuple(self._emitted.values())
        self._emitted.clear()
        self.table.clear()
        if gone:
            self._core.emit(RouteDel(gone))


def _index(
    forth: dict[_What, dict[_Border, int]],
    back: dict[_Border, dict[_What, None]],
    what: _What,
    border: _Border,
    metric: int,
    *,
    gone: bool,
) -> None:
    """Note that a border router announces something, or does so no longer, in both directions."""
    if not gone:
        forth.setdefault(what, {})[border] = metric
        back.setdefault(border, {})[what] = None
        return
    _drop(forth, what, border)
    _drop(back, border, what)


def _drop(held: dict[_Key, dict[_Item, Any]], key: _Key, item: _Item) -> None:
    """Take an item out of a set by key, and the set when it is empty."""
    inner = held.get(key, {})
    inner.pop(item, None)
    if not inner:
        held.pop(key, None)


def _count(held: dict[int, dict[Prefix, int]], who: int, prefix: Prefix, step: int) -> None:
    """Count how often a prefix hangs on something."""
    prefixes = held.setdefault(who, {})
    prefixes[prefix] = prefixes.get(prefix, 0) + step
    if prefixes[prefix] <= 0:
        del prefixes[prefix]
        if not prefixes:
            del held[who]
