"""LSAs of our own: what we want others to hold, kept alive and ahead of what they hold (RFC 2328 section 12.4).

The parts say what they want (`want`, `unwant`); sequence numbers, refreshment, MinLSInterval and what was left
of an earlier life (section 13.4) are looked after here.  Router and network LSAs are made here too; stub
routers (RFC 6987) and hidden transit networks (RFC 6860) are part of them.
"""

from __future__ import annotations

import math
from itertools import islice
from typing import Final

from vrouter.net.address import mask
from vrouter.proto.ospf.area import Area, Interface, InterfaceFsm
from vrouter.proto.ospf.core import Core
from vrouter.proto.ospf.database import Database, Entry
from vrouter.wire.ospf.lsa import (
    INITIAL_SEQUENCE,
    MAX_AGE,
    MAX_SEQUENCE,
    Body,
    LinkType,
    LsaHeader,
    LsaKey,
    LsaType,
    NetworkBody,
    RouterBody,
    RouterFlag,
    RouterLink,
    build_lsa,
    decode_header,
)

MIN_INTERVAL: Final = 5.0
REFRESH: Final = 1800.0
_HOST: Final = 0xFFFFFFFF
_MAX_LINKS: Final = 5400  # of a router LSA: with all headers and digests an IP packet has 65,535 bytes
_MAX_LINK_METRIC: Final = 0xFFFF  # RFC 6987: MaxLinkMetric
_Name = tuple[tuple[str, ...], LsaKey]


class Origination:
    """All LSAs of our own."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._wanted: dict[_Name, tuple[int, Body]] = {}
        self._issued: dict[_Name, float] = {}
        self._ahead: dict[_Name, Entry] = {}  # what is too wrong to be held: the next instance has to be newer
        self._gone: dict[_Name, tuple[float, int]] = {}  # when each went, and its last sequence number
        self._areas: dict[int, Area] = {}  # whose router LSA may have changed
        self._networks: dict[str, tuple[Database, LsaKey]] = {}  # by interface
        self.left_out: dict[int, int] = {}  # by area: links that its router LSA has no room for

    # --- wishes ---

    def want(self, database: Database, key: LsaKey, options: int, body: Body) -> None:
        """Have an LSA of ours with this content."""
        name = (database.scope, key)
        if self._wanted.get(name) != (options, body):
            self._wanted[name] = (options, body)
            self._issue_in_time(database, key)

    def unwant(self, database: Database, key: LsaKey) -> None:
        """Have an LSA of ours no longer."""
        name = (database.scope, key)
        if self._wanted.pop(name, None) is None:
            return
        self._core.timers.cancel(("originate", *name))
        self._core.timers.cancel(("refresh", *name))
        held = self._ahead.pop(name, None) or database.get(key)
        if held is not None:
            self._core.flooding.flush(database, held)

    def forget(self, database: Database) -> None:
        """Want nothing any more in a database that goes away."""
        for entry in database:
            if entry.own:
                self._remember(database, entry)
        for name in [name for name in self._wanted if name[0] == database.scope]:
            del self._wanted[name]
            self._ahead.pop(name, None)
            self._core.timers.cancel(("originate", *name))
            self._core.timers.cancel(("refresh", *name))

    def withdraw_all(self) -> None:
        """Want nothing any more, and take what there is out of the domain."""
        for scope, key in list(self._wanted):
            database = self._core.find_database(scope)
            if database is not None:
                self.unwant(database, key)
        self._areas.clear()

    def issue_all(self) -> None:
        """Originate everything anew, after a restart."""
        for scope, key in list(self._wanted):
            database = self._core.find_database(scope)
            if database is not None:
                self._issue_in_time(database, key)

    def flush_unwanted(self) -> None:
        """Take what an earlier life has left out of the domain."""
        for database in self._core.databases():
            for entry in database:
                stale = self.is_own(entry.header) and (database.scope, entry.header.key) not in self._wanted
                if stale and entry.header.type != LsaType.OPAQUE_LINK:
                    self._core.flooding.flush(database, entry)

    # --- issuing ---

    def _issue_in_time(self, database: Database, key: LsaKey) -> None:
        core = self._core
        if core.restart.active and key[0] != LsaType.OPAQUE_LINK:
            return
        name = (database.scope, key)
        earliest = self._issued.get(name, -MIN_INTERVAL) + MIN_INTERVAL
        if core.now >= earliest:
            self._issue(database, key)
        else:
            core.timers.start(("originate", *name), earliest)

    def issue(self, scope: tuple[str, ...], key: LsaKey, *, refresh: bool) -> None:
        """Originate what had to wait, or what has become old."""
        database = self._core.find_database(scope)
        if database is not None and (scope, key) in self._wanted:
            self._issue(database, key, refresh=refresh)

    def _issue(self, database: Database, key: LsaKey, *, refresh: bool = False) -> None:
        """Originate an LSA, ahead of what is held or was too wrong to be."""
        core = self._core
        name = (database.scope, key)
        options, body = self._wanted[name]
        held, wrong = database.get(key), self._ahead.pop(name, None)
        if wrong is not None and (held is None or wrong.header.sequence >= held.header.sequence):
            held = wrong
        alive = held is not None and held.header.age < MAX_AGE
        if (
            held is not None
            and alive
            and held.own
            and not refresh
            and (held.header.options, held.body) == (options, body)
        ):
            return
        sequence = self._first(name) if held is None else held.header.sequence + 1
        if held is not None and sequence > MAX_SEQUENCE:
            core.flooding.flush(database, held)  # `purged` begins again: section 12.1.6
            return
        raw = build_lsa(key, options, sequence, body, 0, core.fletcher)
        entry = Entry(decode_header(raw), raw, body, core.now, own=True)
        self._issued[name] = core.now
        core.timers.cancel(("originate", *name))
        core.timers.set(("refresh", *name), core.now + REFRESH)
        core.flooding.install(database, entry)
        core.flooding.flood(database, entry, None)

    def _first(self, name: _Name) -> int:
        """Give the sequence number to begin with: behind those that others may still hold.

        They would take another instance with the same number for the one that they have, where the checksums agree;
        that of Fletcher does not tell 0 from 255.
        """
        since, last = self._gone.pop(name, (-math.inf, 0))
        return last + 1 if self._core.now - since < MAX_AGE and last < MAX_SEQUENCE else INITIAL_SEQUENCE

    def _remember(self, database: Database, entry: Entry) -> None:
        now = self._core.now
        self._gone.pop((database.scope, entry.header.key), None)
        self._gone[database.scope, entry.header.key] = (now, entry.header.sequence)
        for name, (since, _) in list(islice(self._gone.items(), 2)):
            if now - since >= MAX_AGE:
                del self._gone[name]

    def is_own(self, header: LsaHeader) -> bool:
        """Tell whether an LSA is, or was once, ours: section 13.4."""
        if header.router == self._core.router_id:
            return True
        if header.type != LsaType.NETWORK:
            return False
        return any(interface.own_by_address(header.id) for interface in self._core.interfaces.values())

    def own_received(self, database: Database, entry: Entry) -> None:
        """Get ahead of an LSA of ours that others hold in a newer instance, or take it out of the domain.

        Not sooner than MinLSInterval after the last instance (section 12.4): who sends us our own LSAs again and again
        would have us flood as many.
        """
        core = self._core
        if core.restart.active:
            core.restart.own_received(database, entry)
            return
        key = entry.header.key
        if entry.header.age >= MAX_AGE and (database.scope, key) not in self._wanted:
            return
        if (database.scope, key) in self._wanted:
            self._issue_in_time(database, key)
        else:
            core.flooding.flush(database, entry)

    def malformed_received(self, database: Database, entry: Entry) -> None:
        """Get ahead of an LSA in our name that makes no sense: who does not look into it holds and spreads it."""
        if self._core.restart.active:
            return
        name = (database.scope, entry.header.key)
        if name in self._wanted:
            before = self._ahead.get(name)
            if before is None or entry.header.sequence > before.header.sequence:
                self._ahead[name] = entry
            self._issue_in_time(database, entry.header.key)
        elif database.get(entry.header.key) is not None or self._core.flooding.has_room(database):
            self._core.flooding.flush(database, entry)

    def purged(self, database: Database, entry: Entry) -> None:
        """Originate again what is wanted and was taken out of the domain, maybe by others: they may do so often."""
        if (database.scope, entry.header.key) in self._wanted and not self._core.restart.active:
            self._issue_in_time(database, entry.header.key)
        elif entry.own:
            self._remember(database, entry)

    # --- router and network LSAs ---

    def router_changed(self, area: Area) -> None:
        """Make the router LSA of an area anew, at the end of this turn."""
        self._areas[area.id] = area

    def all_changed(self) -> None:
        """Make all router LSAs anew."""
        for area in self._core.areas.values():
            self.router_changed(area)

    def finish(self) -> None:
        """Make what has changed: once for each input."""
        if not self._areas:
            return
        areas, self._areas = self._areas, {}
        for area in areas.values():
            key = (LsaType.ROUTER, self._core.router_id, self._core.router_id)
            if area.active and self._core.router_id:
                self.want(area.database, key, area.options, self._router(area))
            else:
                self.unwant(area.database, key)

    def _router(self, area: Area) -> RouterBody:
        core = self._core
        flags = RouterFlag(0)
        if core.border:
            flags |= RouterFlag.B
        if core.externals.boundary(area):
            flags |= RouterFlag.E
        if area.nssa and core.border and area.config.translator == "always":
            flags |= RouterFlag.NT
        links: list[RouterLink] = []
        for _, interface in sorted(area.interfaces.items()):
            links += self._links(interface)
        if core.externals.stub_router:
            links = [
                RouterLink(link.type, link.id, link.data, _MAX_LINK_METRIC) if link.type != LinkType.STUB else link
                for link in links
            ]
        return RouterBody(int(flags), self._limited(area, links))

    def _limited(self, area: Area, links: list[RouterLink]) -> tuple[RouterLink, ...]:
        """Leave out what one LSA cannot hold: stubs, the last first, before what the graph consists of."""
        excess = len(links) - _MAX_LINKS
        if excess <= 0:
            self.left_out.pop(area.id, None)
            return tuple(links)
        if area.id not in self.left_out:
            self._core.log("warning", f"area {area.name}: the router LSA holds {_MAX_LINKS} links, others are left out")
            self._core.notify("ospf-router-lsa-full", area=area.name, limit=str(_MAX_LINKS))
        self.left_out[area.id] = excess
        ranked = sorted(range(len(links)), key=lambda place: links[place].type == LinkType.STUB)
        return tuple(links[place] for place in sorted(ranked[:_MAX_LINKS]))

    def _links(self, interface: Interface) -> list[RouterLink]:
        fsm = interface.fsm
        if fsm is InterfaceFsm.DOWN:
            return []
        cost = interface.cost
        prefix = interface.prefix
        stub = RouterLink(LinkType.STUB, prefix.value, interface.mask, cost)
        rest = [
            RouterLink(LinkType.STUB, own.address.value & mask(4, own.length), mask(4, own.length), cost)
            for own in interface.others
        ]
        if fsm is InterfaceFsm.LOOPBACK or interface.config.passive or fsm is InterfaceFsm.WAITING:
            return [stub, *rest]
        if fsm is InterfaceFsm.POINT_TO_POINT:
            found = [
                RouterLink(LinkType.POINT_TO_POINT, neighbor.router, interface.address, cost)
                for neighbor in sorted(interface.neighbors.values(), key=lambda n: n.router)
                if neighbor.full
            ]
            if not interface.point_to_point:
                return [*found, RouterLink(LinkType.STUB, interface.address, _HOST, 0), *rest]
            hidden = self._core.config.hide_transit and found
            return [*found, *rest] if hidden else [*found, stub, *rest]
        if self._transit(interface):
            return [RouterLink(LinkType.TRANSIT, interface.dr, interface.address, cost), *rest]
        return [stub, *rest]

    @staticmethod
    def _transit(interface: Interface) -> bool:
        if interface.fsm is InterfaceFsm.DR:
            return any(neighbor.full for neighbor in interface.neighbors.values())
        return any(neighbor.full and neighbor.address == interface.dr for neighbor in interface.neighbors.values())

    def network_changed(self, interface: Interface) -> None:
        """Make the network LSA of an interface anew."""
        core = self._core
        database = interface.area.database
        key = (LsaType.NETWORK, interface.address, core.router_id)
        old = self._networks.get(interface.name)
        wanted = interface.fsm is InterfaceFsm.DR and self._transit(interface)
        if old is not None and (not wanted or old != (database, key)):
            self.unwant(*old)
            del self._networks[interface.name]
        if wanted:
            routers = sorted({core.router_id, *(n.router for n in interface.neighbors.values() if n.full)})
            shown = _HOST if core.config.hide_transit else interface.mask
            self._networks[interface.name] = (database, key)
            self.want(database, key, interface.area.options, NetworkBody(shown, tuple(routers)))
