"""What an area border router tells areas of one another (RFC 2328 sections 12.4.3 and 12.4.3.1, RFC 3509).

Prefixes and AS boundary routers of one area are announced into the others, those of the backbone's other side
into all but the backbone; ranges stand for what is in them; stub areas get a default route.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from vrouter.config.ospf import Range
from vrouter.net.address import Address, Prefix, mask, network
from vrouter.proto.ospf.area import Area
from vrouter.proto.ospf.core import BACKBONE, Core
from vrouter.proto.ospf.identifiers import Identifiers
from vrouter.proto.ospf.routes import INTER, INTRA, Path
from vrouter.wire.ospf.lsa import INFINITY, ExternalBody, LsaType, SummaryBody

DEFAULT: Final = Prefix(4, 0, 0)
_RangeKey = tuple[int, Prefix]


class Summaries:
    """All summary LSAs of ours."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._ids: dict[int, Identifiers] = {}  # by area
        self._metrics: dict[tuple[int, Prefix], int] = {}
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
        gone = [prefix for (_, prefix) in self._metrics if prefix not in core.routes.table]
        for prefix in {**dict.fromkeys(gone), **core.routes.table}:
            self._follow(prefix, core.routes.table.get(prefix))
        self._ranges_again(
            [(area.id, prefix) for area in core.areas.values() for prefix in area.ranges]
            + [(area, prefix) for area in core.areas for prefix in list(core.routes.discards)]
        )
        self._defaults()
        self._asbrs_again(core.routes.asbrs)

    def paths_changed(self, changed: Mapping[Prefix, Path | None], asbrs: Iterable[int]) -> None:
        """Follow the routing table."""
        if not self._core.border and not self._was_border:
            return
        touched: dict[_RangeKey, None] = {}
        for prefix, path in changed.items():
            touched.update(dict.fromkeys(self._follow(prefix, path)))
        self._ranges_again(touched)
        self._asbrs_again(asbrs)

    def _follow(self, prefix: Prefix, path: Path | None) -> list[_RangeKey]:
        """Announce a path, or count it to its range; give the ranges that this changes."""
        touched: list[_RangeKey] = []
        if prefix == DEFAULT:
            return touched  # that of stub areas is no route of others
        old = self._in_range.pop(prefix, None)
        if old is not None:
            self._ranges[old].pop(prefix, None)
            touched.append(old)
        key = self._range_of(prefix, path)
        if key is not None and path is not None:
            self._in_range[prefix] = key
            self._ranges.setdefault(key, {})[prefix] = path.cost
            touched.append(key)
        for area in self._core.areas.values():
            if (area.id, prefix) in touched or (key is None and self._is_range(area, prefix)):
                continue
            self._announce(area, prefix, None if key is not None else self._metric(area, path))
        return touched

    def _is_range(self, area: Area, prefix: Prefix) -> bool:
        """Tell whether a prefix is what is announced into an area for an active range."""
        return prefix in self._core.routes.discards and (area.id, prefix) in self._metrics

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

    def _ranges_again(self, keys: Iterable[_RangeKey]) -> None:
        core = self._core
        for owner, prefix in dict.fromkeys(keys):
            area = core.areas.get(owner)
            wanted: Range | None = area.ranges.get(prefix) if area else None
            held = self._ranges.get((owner, prefix))
            active = wanted is not None and bool(held) and core.border
            metric = None
            if active and wanted is not None and held and wanted.advertise:
                metric = wanted.cost if wanted.cost is not None else max(held.values())
            elsewhere = any(p == prefix and o != owner and c for (o, p), c in self._ranges.items())
            for other in core.areas.values():
                told = other.id != owner and other.active and (other.normal or other.config.summaries)
                if told and not elsewhere:
                    self._announce(other, prefix, metric)
            if not elsewhere:
                core.routes.discard_changed(prefix, wanted=active)

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
            key = (LsaType.NSSA, 0, core.router_id)
            if inside and area.nssa and area.config.summaries:
                core.origination.want(area.database, key, 0, ExternalBody(0, area.config.default_cost))
            else:
                core.origination.unwant(area.database, key)

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
        for key in [key for key in self._metrics if key[0] == area.id]:
            del self._metrics[key]
        self.borders_changed()
