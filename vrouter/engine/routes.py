"""The RIB, BGP's own table and those who want to hear of both.

    BgpTable --next hops--> Rib --ways to them--> BgpTable, instances that track an address
    BgpTable, Rib --routes in use--> instances that redistribute
    BgpTable, Rib --changes of the FIB

A turn is bounded: what BGP's table has more of waits for the next one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from vrouter.net.address import Address, Prefix
from vrouter.proto.base import NextHopState, RouteEvent
from vrouter.rib.bgp_table import BgpTable, BulkRoute
from vrouter.rib.rib import Reach, Rib
from vrouter.rib.route import FibChange, Protocol, Route

BATCH: Final = 2000  # changes of BGP's table in one turn
_Target = tuple[Address, str]  # and the interface of a link-local one


@dataclass(slots=True)
class Turn:
    """What has changed since the last turn."""

    changes: list[FibChange] = field(default_factory=list)
    next_hops: list[tuple[str, NextHopState]] = field(default_factory=list)  # whom to tell, what
    used: list[tuple[Prefix, Route | None, Route | None]] = field(default_factory=list)  # before, now
    resolved: bool = False  # BGP's table was told of next hops
    more: bool = False


class Routes:
    """What a VR knows of routes."""

    def __init__(self, rib: Rib) -> None:
        self.rib = rib
        self.table: BgpTable | None = None
        self.owner = ""  # the instance that made it
        self._watchers: dict[_Target, dict[str, None]] = {}
        self._hops: dict[int, _Target] = {}  # of BGP's table
        self._ids: dict[_Target, int] = {}
        self._reached: dict[_Target, Reach] = {}
        self._untold: dict[tuple[str, _Target], None] = {}
        self._unset: dict[int, None] = {}
        self._watching = False

    def attach(self, table: BgpTable, owner: str) -> BgpTable:
        """Take BGP's table in."""
        self.detach()
        self.table = self.rib.bulk = table
        self.owner = owner
        if self._watching:
            table.watch(True)
        return table

    def detach(self) -> None:
        """Forget BGP's table."""
        for number in list(self._hops):
            self._drop_hop(number)
        if self.table is not None:
            table, self.table, self.rib.bulk = self.table, None, None
            table.close()
        self.owner = ""

    def track(self, instance: str, address: Address) -> None:
        """Tell an instance how an address is reached."""
        target = (address, "")
        self._watchers.setdefault(target, {})[instance] = None
        self._untold[instance, target] = None
        self.rib.track(*target)

    def untrack(self, instance: str, address: Address) -> None:
        """No longer tell."""
        target = (address, "")
        self._untold.pop((instance, target), None)
        watchers = self._watchers.get(target, {})
        watchers.pop(instance, None)
        if not watchers:
            self._watchers.pop(target, None)
            self._release(target)

    def watch_bulk(self, *, wanted: bool) -> None:
        """Keep note of changes in BGP's table for others, beginning with all that is there."""
        if (wanted or self._watching) and self.table is not None:
            self.table.watch(wanted)
        self._watching = wanted

    def turn(self) -> Turn:
        """Work out what has changed."""
        found = Turn()
        if self.table is not None:
            self._take_hops(self.table)
            self.rib.bulk_changed()
        found.changes = self.rib.flush()
        for reach in self.rib.reached():
            target = (reach.address, reach.interface)
            self._reached[target] = reach
            for instance in self._watchers.get(target, ()):
                self._untold[instance, target] = None
            if target in self._ids:
                self._unset[self._ids[target]] = None
        found.used = [(used.prefix, used.old, used.new) for used in self.rib.events()]
        self._tell(found)
        if self.table is not None:
            self._drain(self.table, found)
        return found

    def used(self, protocols: Iterable[Protocol]) -> list[RouteEvent]:
        """Give the routes in use of some protocols; those of BGP's table come by themselves."""
        return [RouteEvent(route.prefix, route.protocol, route) for route in self.rib.used(tuple(protocols))]

    def _take_hops(self, table: BgpTable) -> None:
        for number in table.dead_next_hops():
            self._drop_hop(number)
        for hop in table.new_next_hops():
            target = (hop.address, hop.interface)
            self._hops[hop.id], self._ids[target] = target, hop.id
            self._unset[hop.id] = None
            self.rib.track(*target)

    def _drop_hop(self, number: int) -> None:
        target = self._hops.pop(number, None)
        self._unset.pop(number, None)
        if target is not None:
            self._ids.pop(target, None)
            self._release(target)

    def _release(self, target: _Target) -> None:
        if target not in self._watchers and target not in self._ids:
            self.rib.untrack(*target)
            self._reached.pop(target, None)

    def _tell(self, found: Turn) -> None:
        for instance, target in list(self._untold):
            if target in self._reached:
                del self._untold[instance, target]
                found.next_hops.append((instance, _state(self._reached[target])))
        for number in list(self._unset):
            reach = self._reached.get(self._hops[number])
            if reach is not None and self.table is not None:
                del self._unset[number]
                self.table.next_hop_set(number, reach.metric, reach.hops)
                found.resolved = True

    def _drain(self, table: BgpTable, found: Turn) -> None:
        contested = self.rib.contested
        changes = table.fib(BATCH)
        found.changes += [FibChange(it.prefix, _route(it)) for it in changes if not contested(it.prefix)]
        found.more = len(changes) == BATCH
        if self._watching:
            watched = table.changes(BATCH)
            found.more |= len(watched) == BATCH
            found.used += [
                (route.prefix, _gone(route), _route(route)) for route in watched if not contested(route.prefix)
            ]


class Subscribers:
    """Which instance has been told of which routes of others."""

    def __init__(self) -> None:
        self._protocols: dict[str, frozenset[Protocol]] = {}
        self._told: defaultdict[str, dict[Prefix, Protocol]] = defaultdict(dict)

    def set(self, instance: str, protocols: tuple[Protocol, ...]) -> bool:
        """Tell an instance of these protocols' routes; tell whether it is about BGP's, or was."""
        self._told.pop(instance, None)
        before = self._protocols.pop(instance, frozenset())
        if protocols:
            self._protocols[instance] = frozenset(protocols)
        return Protocol.BGP in before or Protocol.BGP in protocols

    @property
    def bulk(self) -> bool:
        """Tell whether anybody wants BGP's routes."""
        return any(Protocol.BGP in protocols for protocols in self._protocols.values())

    def first(self, instance: str, events: list[RouteEvent]) -> None:
        """Take note of what an instance is told at first."""
        told = self._told[instance]
        for event in events:
            told[event.prefix] = event.protocol

    def sort(self, used: Iterable[tuple[Prefix, Route | None, Route | None]]) -> dict[str, list[RouteEvent]]:
        """Give for each instance what it must be told of these changes."""
        found: dict[str, list[RouteEvent]] = {instance: [] for instance in self._protocols}
        for prefix, _old, new in used:
            for instance, protocols in self._protocols.items():
                told = self._told[instance]
                if new is not None and new.protocol in protocols:
                    told[prefix] = new.protocol
                    found[instance].append(RouteEvent(prefix, new.protocol, new))
                elif prefix in told:
                    found[instance].append(RouteEvent(prefix, told.pop(prefix), None))
        return found


def _state(reach: Reach) -> NextHopState:
    interface = reach.hops[0].interface if reach.hops else ""
    return NextHopState(reach.address, bool(reach.hops), reach.metric, interface, reach.connected)


def _route(bulk: BulkRoute) -> Route | None:
    if not bulk.hops:
        return None
    return Route(bulk.prefix, Protocol.BGP, bulk.hops, bulk.preference, bulk.metric, origin=bulk.attributes or None)


def _gone(bulk: BulkRoute) -> Route | None:
    return None if bulk.hops else Route(bulk.prefix, Protocol.BGP, ())
