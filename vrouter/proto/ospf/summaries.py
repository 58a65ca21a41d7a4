"""What an area border router tells areas of one another (RFC 2328 sections 12.4.3 and 12.4.3.1, RFC 3509).

Prefixes and AS boundary routers of one area are announced into the others, those of the backbone's other side
into all but the backbone; ranges stand for what is in them; stub areas get a default route.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from vrouter.net.address import Address, Prefix, mask, network
from vrouter.proto.ospf.area import Area
from vrouter.proto.ospf.core import BACKBONE, Core
from vrouter.proto.ospf.identifiers import Identifiers
from vrouter.proto.ospf.routes import INTER, INTRA, Path
from vrouter.wire.ospf.lsa import INFINITY, LsaType, SummaryBody

DEFAULT: Final = Prefix(4, 0, 0)
_RangeKey = tuple[int, Prefix]


class Summaries:
    """All summary LSAs of ours."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._ids: dict[int, Identifiers] = {}  # by area
        self._metrics: dict[tuple[int, Prefix], int] = {}  # what is announced into an area
        self._plain: dict[tuple[int, Prefix], int] = {}  # what would be for the route to a prefix
        self._aggregates: dict[tuple[int, Prefix], int | None] = {}  # for active ranges, instead; None: nothing
        self._in_range: dict[Prefix, _RangeKey] = {}
        self._ranges: dict[_RangeKey, dict[Prefix, int]] = {}
        self._stale = False
        self._was_border = False

    def borders_changed(self) -> None:
        """Look at everything anew at the end of this turn: areas have come, gone, or changed."""
        self._stale = True

    def finish(self) -> None:
        """Do what borders_changed() asked for."""
        if not self._stale or self._core.restart.active:
            return
        self._stale = False
        core = self._core
        border = core.border
        if border != self._was_border:
            self._was_border = border
            core.origination.all_changed()
            core.routes.all_changed()
            core.externals.areas_changed()
        self._ranges.clear()
        self._in_range.clear()
        for prefix in {**dict.fromkeys(prefix for _, prefix in self._plain), **core.routes.table}:
            self._follow(prefix, core.routes.table.get(prefix))
        ranges = dict.fromkeys(prefix for area in core.areas.values() for prefix in area.ranges)
        self._ranges_again({**ranges, **core.routes.discards, **dict.fromkeys(p for _, p in self._aggregates)})
        self._defaults()
        self._asbrs_again(core.routes.asbrs)

    def paths_changed(self, changed: Mapping[Prefix, Path | None], asbrs: Iterable[int]) -> None:
        """Follow the routing table."""
        if not self._core.border and not self._was_border:
            return
        touched: dict[Prefix, None] = {}
        for prefix, path in changed.items():
            touched.update(dict.fromkeys(self._follow(prefix, path)))
        self._ranges_again(touched)
        self._asbrs_again(asbrs)

    def _follow(self, prefix: Prefix, path: Path | None) -> list[Prefix]:
        """Announce a path, or count it to its range; give the ranges that this changes."""
        if prefix == DEFAULT:
            return []  # that of stub areas is no route of others
        touched = []
        old = self._in_range.pop(prefix, None)
        if old is not None:
            self._ranges[old].pop(prefix, None)
            touched.append(old[1])
        key = self._range_of(prefix, path)
        if key is not None and path is not None:
            self._in_range[prefix] = key
            self._ranges.setdefault(key, {})[prefix] = path.cost
            touched.append(key[1])
        for area in self._core.areas.values():
            metric = None if key is not None else self._metric(area, path)
            if metric is None:
                self._plain.pop((area.id, prefix), None)
            else:
                self._plain[area.id, prefix] = metric
            self._tell(area, prefix)
        return touched

    def _range_of(self, prefix: Prefix, path: Path | None) -> _RangeKey | None:
        if path is None or path.kind != INTRA or not self._core.border:
            return None
        area = self._core.areas.get(path.area)
        for candidate in area.ranges if area is not None else ():
            if candidate.length <= prefix.length and network(Address(4, prefix.value), candidate.length) == candidate:
                return (path.area, candidate)
        return None

    def _metric(self, area: Area, path: Path | None) -> int | None:
        """Give what a path costs as told to an area; None: it is not told."""
        core = self._core
        if path is None or not core.border or path.kind > INTER or path.area == area.id:
            return None
        if path.kind == INTER and area.id == BACKBONE:
            return None
        if not area.active or path.cost >= INFINITY:
            return None
        return path.cost if area.normal or area.config.summaries else None

    def _ranges_again(self, prefixes: Iterable[Prefix]) -> None:
        """Announce what stands for the prefixes of ranges: into all areas but their own."""
        core = self._core
        for prefix in dict.fromkeys(prefixes):
            owners = {area.id: self._range_metric(area, prefix) for area in core.areas.values()}
            active = {owner: metric for owner, (metric, is_active) in owners.items() if is_active}
            for area in core.areas.values():
                told = [metric for owner, metric in active.items() if owner != area.id]
                if not told:
                    self._aggregates.pop((area.id, prefix), None)
                else:
                    hears = area.active and (area.normal or area.config.summaries)
                    costs = [metric for metric in told if metric is not None]
                    self._aggregates[area.id, prefix] = max(costs) if hears and costs else None
                self._tell(area, prefix)
            core.routes.discard_changed(prefix, wanted=bool(active))

    def _range_metric(self, area: Area, prefix: Prefix) -> tuple[int | None, bool]:
        """Give the metric of a range of an area (None: it is not to be announced), and whether it is active."""
        wanted = area.ranges.get(prefix)
        held = self._ranges.get((area.id, prefix))
        if wanted is None or not held or not self._core.border:
            return None, False
        if not wanted.advertise:
            return None, True
        return (wanted.cost if wanted.cost is not None else max(held.values())), True

    def _tell(self, area: Area, prefix: Prefix) -> None:
        key = (area.id, prefix)
        self._announce(area, prefix, self._aggregates[key] if key in self._aggregates else self._plain.get(key))

    def _announce(self, area: Area, prefix: Prefix, metric: int | None) -> None:
        key = (area.id, prefix)
        if self._metrics.get(key) == metric:
            return
        ids = self._ids.setdefault(area.id, Identifiers())
        origination = self._core.origination
        router = self._core.router_id
        if metric is None:
            del self._metrics[key]
            identifier = ids.release(prefix)
            if identifier is not None:
                origination.unwant(area.database, (LsaType.SUMMARY, identifier, router))
            return
        self._metrics[key] = metric
        identifier, moved = ids.take(prefix)
        for shown in (moved, prefix):
            held = ids.get(shown) if shown is not None else None
            if shown is not None and held is not None:
                body = SummaryBody(mask(4, shown.length), self._metrics[area.id, shown])
                origination.want(area.database, (LsaType.SUMMARY, held, router), area.options, body)

    def _defaults(self) -> None:
        """Tell stub areas of a way out (section 12.4.3.1; RFC 3101 section 2.4)."""
        core = self._core
        for area in core.areas.values():
            inside = core.border and area.active and not area.normal and area.id != BACKBONE
            plain = inside and (not area.nssa or not area.config.summaries)
            self._announce(area, DEFAULT, area.config.default_cost if plain else None)
        core.externals.default_changed()

    def _asbrs_again(self, asbrs: Iterable[int]) -> None:
        """Tell areas of the boundary routers of others."""
        core = self._core
        for asbr in asbrs:
            path = core.routes.asbrs.get(asbr)
            for area in core.areas.values():
                key = (LsaType.ASBR_SUMMARY, asbr, core.router_id)
                if path is not None and self._tells_of(area, asbr, path.area):
                    core.origination.want(area.database, key, area.options, SummaryBody(0, path.cost))
                else:
                    core.origination.unwant(area.database, key)

    def _tells_of(self, area: Area, asbr: int, through: int) -> bool:
        core = self._core
        if not core.border or not area.normal or not area.active or through == area.id:
            return False
        home = core.areas.get(through)
        if home is None:
            return False
        return home.normal and not (area.id == BACKBONE and home.graph.reach(asbr) is None)

    def forget_area(self, area: Area) -> None:
        """Forget what was announced into an area that is gone."""
        self._ids.pop(area.id, None)
        held: dict[tuple[int, Prefix], Any]
        for held in (self._metrics, self._plain, self._aggregates):
            for key in [key for key in held if key[0] == area.id]:
                del held[key]
        self.borders_changed()
