"""External routes of ours: redistribution, the default route, NSSAs (RFC 2328 section 12.4.4, RFC 3101).

A prefix is announced by an AS-external LSA where there is a normal area, and by a type 7 LSA in each NSSA.  An
elected border router of an NSSA translates what is announced in there.  Routes to 0.0.0.0/0 are announced by
`default-information` alone.  Not supported: virtual links, so translators need the backbone.
"""

from __future__ import annotations

from typing import Final

from vrouter.config.ospf import Redistribution
from vrouter.net.address import Address, Prefix, mask, network
from vrouter.proto.base import Output, Redistribute, RouteEvent
from vrouter.proto.ospf.area import Area, InterfaceFsm
from vrouter.proto.ospf.core import BACKBONE, Core
from vrouter.proto.ospf.identifiers import Identifiers
from vrouter.proto.ospf.routes import EXTERNAL_1, Path
from vrouter.rib.policy import route_view
from vrouter.rib.route import Protocol, Route
from vrouter.wire.ospf.lsa import INFINITY, MAX_AGE, ExternalBody, LsaType, Options, RouterFlag

DEFAULT: Final = Prefix(4, 0, 0)
PROTOCOLS: Final = {
    "connected": Protocol.CONNECTED,
    "static": Protocol.STATIC,
    "bgp": Protocol.BGP,
    "rip": Protocol.RIP,
    "leak": Protocol.LEAK,
}
_TRANSLATE_DELAY: Final = 0.1


class Externals:
    """All external LSAs of ours."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._known: dict[Prefix, dict[Protocol, Route]] = {}
        self._asked: tuple[Protocol, ...] = ()
        self._announced: dict[Prefix, tuple[ExternalBody, Route | None]] = {}
        self._translated: dict[Prefix, ExternalBody] = {}
        self._wanted: dict[tuple[int, Prefix], ExternalBody] = {}  # area (or -1) of each LSA
        self._ids: dict[int, Identifiers] = {}
        self._translate: dict[int, Area] = {}
        self._translating: dict[int, bool] = {}
        self._stale = False
        self._starting = False

    # --- RFC 6987 ---

    @property
    def stub_router(self) -> bool:
        """Whether traffic should go another way."""
        wish = self._core.config.max_metric
        return wish is not None and wish.enabled and (wish.on_startup is None or self._starting)

    def start(self) -> None:
        """Begin the time after the start."""
        wish = self._core.config.max_metric
        if wish is not None and wish.enabled and wish.on_startup is not None:
            self._starting = True
            self._core.timers.set(("stub-router",), self._core.now + wish.on_startup)

    def started(self) -> None:
        """End it."""
        self._starting = False
        self._core.origination.all_changed()

    # --- what is to be announced ---

    def boundary(self, area: Area) -> bool:
        """Tell whether we are an AS boundary router for an area."""
        if area.config.type == "stub":
            return False
        core = self._core
        if core.border and any(each.nssa for each in core.areas.values()):
            return True  # RFC 3101 appendix B: all border routers of an NSSA are, whether they translate or not
        default = core.config.default_information
        return bool(core.config.redistribute) or bool(default and default.enabled)

    def ask(self) -> list[Output]:
        """Ask for the routes that the configuration needs."""
        config = self._core.config
        wanted = {PROTOCOLS[entry.protocol] for entry in config.redistribute}
        default = config.default_information
        if default is not None and default.enabled and not default.always:
            wanted |= set(PROTOCOLS.values())
        asked = tuple(sorted(wanted))
        if asked == self._asked:
            return []
        for held in self._known.values():
            for protocol in set(held) - wanted:
                del held[protocol]
        self._asked = asked
        return [Redistribute(asked)]

    def routes_changed(self, events: tuple[RouteEvent, ...]) -> None:
        """Take routes of other protocols."""
        for event in events:
            if event.prefix.family != 4:
                continue
            held = self._known.setdefault(event.prefix, {})
            if event.route is None:
                held.pop(event.protocol, None)
                if not held:
                    del self._known[event.prefix]
            else:
                held[event.protocol] = event.route
            self._announce(event.prefix)

    def areas_changed(self) -> None:
        """Look at everything anew at the end of this turn."""
        self._stale = True

    def default_changed(self) -> None:
        """Look anew at the default route of NSSAs."""
        self._tell(DEFAULT)

    def finish(self) -> None:
        """Do what areas_changed() asked for."""
        if not self._stale or self._core.restart.active:
            return
        self._stale = False
        self._core.origination.all_changed()
        for prefix in {**self._known, **self._announced, DEFAULT: None}:
            self._announce(prefix)
        for prefix in {**self._announced, **self._translated}:
            self._tell(prefix)
        for area in self._core.areas.values():
            self.translate_later(area)

    def _announce(self, prefix: Prefix) -> None:
        """Decide what is announced for a prefix of other protocols."""
        chosen = self._default() if prefix == DEFAULT else self._chosen(prefix)
        if chosen == self._announced.get(prefix):
            return
        if chosen is None:
            del self._announced[prefix]
        else:
            self._announced[prefix] = chosen
        self._tell(prefix)

    def _default(self) -> tuple[ExternalBody, Route | None] | None:
        wish = self._core.config.default_information
        if wish is None or not wish.enabled or not (wish.always or self._known.get(DEFAULT)):
            return None
        return ExternalBody(0, wish.metric, wish.metric_type == 2), None

    def _chosen(self, prefix: Prefix) -> tuple[ExternalBody, Route | None] | None:
        held = self._known.get(prefix, {})
        for entry in self._core.config.redistribute:
            route = held.get(PROTOCOLS[entry.protocol])
            if route is None or self._is_own(prefix):
                continue
            body = self._body(entry, prefix, route)
            if body is not None:
                return body, route
        return None

    def _is_own(self, prefix: Prefix) -> bool:
        """Tell whether a prefix is that of an interface of ours: it is in a router LSA."""
        return any(
            interface.fsm is not InterfaceFsm.DOWN
            and (interface.prefix == prefix or any(network(o.address, o.length) == prefix for o in interface.others))
            for interface in self._core.interfaces.values()
        )

    def _body(self, entry: Redistribution, prefix: Prefix, route: Route) -> ExternalBody | None:
        metric, tag = entry.metric, route.tag
        setting = self._core.setting
        if entry.policy is not None:
            policies = setting.policies if setting is not None else None
            if policies is None or entry.policy not in policies:
                return None
            view = route_view(route)
            verdict = policies.evaluate(entry.policy, view)
            if not verdict.accept:
                return None
            metric = metric if verdict.changes.metric is None else verdict.changes.metric
            wanted_tag = entry.tag if verdict.changes.tag is None else verdict.changes.tag
            tag = tag if wanted_tag is None else wanted_tag
        elif entry.tag is not None:
            tag = entry.tag
        metric = min(metric, INFINITY - 1)
        return ExternalBody(mask(4, prefix.length), metric, entry.metric_type == 2, 0, tag & 0xFFFFFFFF)

    # --- LSAs ---

    def _tell(self, prefix: Prefix) -> None:
        core = self._core
        chosen = self._announced.get(prefix)
        translated = self._translated.get(prefix)
        normal = any(area.normal and area.active for area in core.areas.values())
        body = translated
        if chosen is not None:
            body = self._forwarded(chosen)
        self._want(-1, prefix, body if normal else None, int(Options.E))
        for area in core.areas.values():
            if not area.nssa:
                continue
            inside = None
            if prefix == DEFAULT and core.border:
                if area.active and area.config.summaries:  # RFC 3101 section 2.4; else it is a summary
                    inside = ExternalBody(0, area.config.default_cost)
            elif chosen is not None and area.active:
                inside = self._inside(area, chosen[0])
            # Another router translates what has the P bit; a border router announces type 5 itself.
            self._want(area.id, prefix, inside, 0 if normal else int(Options.NP))

    def _forwarded(self, chosen: tuple[ExternalBody, Route | None]) -> ExternalBody:
        """Name the next hop itself, where it is on a network that others reach by OSPF: section 12.4.4.1."""
        body, route = chosen
        hop = route.hops[0] if route is not None and len(route.hops) == 1 else None
        if hop is None or hop.via is None or hop.via.family != 4:
            return body
        interface = self._core.interfaces.get(hop.interface)
        if interface is None or not interface.broadcast or not interface.speaks or not interface.area.normal:
            return body
        if network(hop.via, interface.length) != interface.prefix:
            return body
        return ExternalBody(body.mask, body.metric, body.type2, hop.via.value, body.tag)

    @staticmethod
    def _inside(area: Area, body: ExternalBody) -> ExternalBody | None:
        """Give what is announced in an NSSA: by a forwarding address of ours in there (RFC 3101 section 2.3)."""
        usable = [i for i in area.interfaces.values() if i.fsm is not InterfaceFsm.DOWN]
        chosen = max(usable, key=lambda i: (i.loopback, i.address), default=None)
        if chosen is None:
            return None
        return ExternalBody(body.mask, body.metric, body.type2, chosen.address, body.tag)

    def _want(self, area: int, prefix: Prefix, body: ExternalBody | None, options: int) -> None:
        core = self._core
        kind = LsaType.EXTERNAL if area == -1 else LsaType.NSSA
        database = core.external if area == -1 else core.areas[area].database
        ids = self._ids.setdefault(area, Identifiers())
        if body is None:
            if self._wanted.pop((area, prefix), None) is None:
                return
            identifier = ids.release(prefix)
            if identifier is not None:
                core.origination.unwant(database, (kind, identifier, core.router_id))
            return
        self._wanted[area, prefix] = body
        _, moved = ids.take(prefix)
        for shown in (moved, prefix):
            held = ids.get(shown) if shown is not None else None
            if shown is not None and held is not None:
                key = (kind, held, core.router_id)
                core.origination.want(database, key, options, self._wanted[area, shown])

    def forget_area(self, area: Area) -> None:
        """Forget what was announced in an area that is gone."""
        self._ids.pop(area.id, None)
        self._translate.pop(area.id, None)
        self._translating.pop(area.id, None)
        for key in [key for key in self._wanted if key[0] == area.id]:
            del self._wanted[key]
        self.areas_changed()
        self._core.timers.start(("translate",), self._core.now + _TRANSLATE_DELAY)

    # --- translation: RFC 3101 section 3 ---

    def translate_later(self, area: Area) -> None:
        """Look again soon at what an NSSA announces."""
        if area.nssa:
            self._translate[area.id] = area
            self._core.timers.start(("translate",), self._core.now + _TRANSLATE_DELAY)

    def paths_changed(self, changed: object) -> None:
        """Follow the routing table: who translates, and what, depends on it."""
        if changed:
            for area in self._core.areas.values():
                self.translate_later(area)

    def translate(self) -> None:
        """Elect the translator of each NSSA anew and translate."""
        core = self._core
        self._translate.clear()
        wanted: dict[Prefix, ExternalBody] = {}
        for area in core.areas.values():
            if area.nssa:
                self._translating[area.id] = self._elected(area)
                if self._translating[area.id]:
                    self._translations(area, wanted)
        old, self._translated = self._translated, wanted
        for prefix in {**old, **wanted}:
            if old.get(prefix) != wanted.get(prefix):
                self._tell(prefix)

    def _elected(self, area: Area) -> bool:
        core = self._core
        if not core.border or not area.active or area.config.translator == "never":
            return False
        if area.config.translator == "always":
            return True
        for entry in area.database.of_type(LsaType.ROUTER):
            reach = area.graph.reach(entry.header.router)
            if entry.header.router == core.router_id or reach is None or not reach[2] & RouterFlag.B:
                continue
            if reach[2] & RouterFlag.NT or entry.header.router > core.router_id:
                backbone = core.areas[BACKBONE].graph.reach(entry.header.router)
                if backbone is not None or reach[2] & RouterFlag.NT:
                    return False
        return True

    def _translations(self, area: Area, wanted: dict[Prefix, ExternalBody]) -> None:
        core = self._core
        for entry in area.database.of_type(LsaType.NSSA):
            body, header = entry.body, entry.header
            assert isinstance(body, ExternalBody)
            prefix = network(Address(4, header.id), body.mask.bit_count())
            path = core.routes.table.get(prefix)
            if (
                header.router == core.router_id
                or header.age >= MAX_AGE
                or not header.options & Options.NP
                or not body.forwarding
                or not _leads_through(path, area, header.key)
            ):
                continue
            shown, translated = self._aggregated(area, prefix, body)
            if translated is not None:
                old = wanted.get(shown)
                if old is None or (translated.type2, translated.metric) > (old.type2, old.metric):
                    wanted[shown] = translated

    @staticmethod
    def _aggregated(area: Area, prefix: Prefix, body: ExternalBody) -> tuple[Prefix, ExternalBody | None]:
        for candidate, wish in area.nssa_ranges.items():
            if candidate.length > prefix.length or network(Address(4, prefix.value), candidate.length) != candidate:
                continue
            if not wish.advertise:
                return candidate, None
            if candidate == prefix:
                break
            metric = wish.cost if wish.cost is not None else body.metric + body.type2
            return candidate, ExternalBody(mask(4, candidate.length), min(metric, INFINITY - 1), body.type2, 0, 0)
        return prefix, ExternalBody(body.mask, body.metric, body.type2, body.forwarding, body.tag)


def _leads_through(path: Path | None, area: Area, key: tuple[int, int, int]) -> bool:
    """Tell whether a route is the one that an LSA of an NSSA gives: RFC 3101 section 3.2."""
    return path is not None and path.kind >= EXTERNAL_1 and path.source == (area.id, key)
