"""The routing table of one VR: which of all offered routes is used, and by which next hops.

    protocols --update--> candidates by prefix --best that resolves--> flush() --> FibChange, events(), reached()
    links     --link----------^        ^
    BGP's own table --held()-----------+
                              recursive next hops: see resolver.py

Among the routes to a prefix that can be used, the smallest preference wins, then protocol, metric and source.
What a lost link or a withdrawn route takes away shows in the next flush(); so does what comes back.

BGP keeps its routes in a table of its own and writes them to the FIB itself (`bulk`).  A prefix that another
protocol offers too is contested: it is held there, BGP's best route to it is a candidate here, and what wins is
ours to write.

No I/O, no clock.  A flush costs time for each changed prefix and each address whose way may have changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from vrouter.net.address import Address, Prefix
from vrouter.rib.bgp_table import BulkRoute
from vrouter.rib.candidates import Candidates, Key
from vrouter.rib.resolver import MAX_DEPTH, MAX_HOPS, MAX_WEIGHT, BulkSource, Resolver, View, Way
from vrouter.rib.route import FibChange, Hop, HopKind, Protocol, Route

__all__ = ["MAX_DEPTH", "MAX_HOPS", "MAX_WEIGHT", "BulkSource", "Reach", "Rib", "Used"]

BULK: Key = (Protocol.BGP, "")  # the candidate that stands for BGP's own table


@dataclass(frozen=True, slots=True)
class Reach:
    """How a tracked address is reached; without hops it is not."""

    address: Address
    interface: str  # as tracked
    hops: tuple[Hop, ...] = ()
    metric: int = 0
    connected: bool = False


@dataclass(frozen=True, slots=True)
class Used:
    """Another route to a prefix is used from now on; None: there was none, or there is none."""

    prefix: Prefix
    old: Route | None
    new: Route | None


class Rib:
    """The table.  Changes gather until flush() gives what they mean for the FIB."""

    def __init__(self, bulk: BulkSource | None = None) -> None:
        self._candidates = Candidates()
        self._resolver = Resolver(self._candidates)
        self._installed: dict[Prefix, Route] = {}
        self._backups: dict[Prefix, tuple[Hop, ...]] = {}  # behind those that are installed
        self._dirty: set[Prefix] = set()
        self._fresh: dict[Address, None] = {}  # addresses to which BGP's table has another way
        self._tracked: dict[tuple[Address, str], Reach | None] = {}
        self._pending_reach: dict[tuple[Address, str], None] = {}
        self._told: dict[tuple[Address, str], Reach] = {}
        self._held: set[Prefix] = set()
        self._stale: dict[tuple[Prefix, Key], None] = {}
        self._events: dict[Prefix, Used] = {}
        self._resolver.bulk = bulk

    # --- what comes in ---

    def update(self, offered: Iterable[Route] = (), withdrawn: Iterable[Route] = ()) -> None:
        """Take routes, each in the place of the same protocol's and source's earlier one, and drop others."""
        for route in withdrawn:
            self._remove(route.prefix, (route.protocol, route.source))
        for route in offered:
            key = (route.protocol, route.source)
            self._stale.pop((route.prefix, key), None)
            if self._candidates.get(route.prefix, key) != route:
                self._remove(route.prefix, key)
                self._add(route)

    def link(self, interface: str, *, up: bool) -> None:
        """Take note that an interface can, or cannot, carry packets.  One never heard of can."""
        if self._resolver.set_link(interface, up=up):
            self._dirty |= self._candidates.by_interface.get(interface, set())
            self._pending_reach.update((key, None) for key in self._tracked if key[1] == interface)

    def mark_stale(self, protocol: Protocol, family: int = 0) -> None:
        """Keep a protocol's routes, although it has gone, until it offers them again or sweep() comes."""
        self._stale.update((key, None) for key in self._keys(protocol, family))

    def sweep(self, protocol: Protocol, family: int = 0) -> None:
        """Withdraw what is still stale of a protocol."""
        for prefix, key in [entry for entry in self._keys(protocol, family) if entry in self._stale]:
            self._remove(prefix, key)

    def withdraw_all(self, protocol: Protocol, family: int = 0) -> None:
        """Withdraw all routes of a protocol, but for those of BGP's own table."""
        for prefix, key in self._keys(protocol, family):
            self._remove(prefix, key)

    @property
    def bulk(self) -> BulkSource | None:
        """BGP's own table."""
        return self._resolver.bulk

    @bulk.setter
    def bulk(self, bulk: BulkSource | None) -> None:
        """Take a table, or be without one; the one before is not called any more."""
        for prefix in sorted(self._held):
            self._remove(prefix, BULK)
        self._held.clear()
        self._resolver.bulk = bulk
        self.bulk_changed()
        if bulk is not None:
            self._dirty.update(self._candidates)

    def bulk_changed(self) -> None:
        """Look again at next hops that BGP's own table may lead to: it has changed."""
        self._fresh.update((address, None) for address in sorted(self._resolver.bulk_changes()))

    def track(self, address: Address, interface: str = "") -> None:
        """Tell by reached() how an address is reached, soon and on each change; a link-local one on its interface."""
        key = (address, interface)
        if key not in self._tracked:
            self._tracked[key] = None
            self._pending_reach[key] = None
            if not interface:
                self._resolver.want(address)

    def untrack(self, address: Address, interface: str = "") -> None:
        """No longer tell."""
        self._tracked.pop((address, interface), None)
        self._told.pop((address, interface), None)
        self._pending_reach.pop((address, interface), None)
        self._release(address)

    # --- what comes out ---

    def flush(self) -> list[FibChange]:
        """Give what has changed for the FIB since the last call, in the order of prefixes."""
        freed, taken = self._contest()
        self._resolve()
        changes = []
        for prefix in sorted(self._dirty):
            if prefix in freed:
                changes += self._hand_back(prefix, freed[prefix])
                continue
            best, backup = self._best(prefix)
            old, old_backup = self._installed.get(prefix), self._backups.pop(prefix, ())
            if backup:
                self._backups[prefix] = backup
            if best != old:
                if best is None:
                    del self._installed[prefix]
                else:
                    self._installed[prefix] = best
                # Until a prefix was contested, BGP's table used its own route to it, and told of it.
                own = self._candidates.get(prefix, BULK) if prefix in taken else old
                self._note(prefix, None if own == best else own, best)
            if backup != old_backup or not _same_entry(old, best):
                changes.append(FibChange(prefix, best, backup=backup))
        self._dirty.clear()
        for key in self._pending_reach:
            self._tell(key)
        self._pending_reach.clear()
        return changes

    @property
    def installed(self) -> dict[Prefix, Route]:
        """What the FIB holds after the last flush(), but for what BGP's table wrote; not to be changed."""
        return self._installed

    @property
    def backups(self) -> dict[Prefix, tuple[Hop, ...]]:
        """What stands behind those of `installed` that have a backup; not to be changed."""
        return self._backups

    def reached(self) -> list[Reach]:
        """Give what is new about tracked addresses since the last call."""
        told = list(self._told.values())
        self._told.clear()
        return told

    def events(self) -> list[Used]:
        """Give the changes of routes in use since the last call, in the order of prefixes."""
        events = [event for _, event in sorted(self._events.items()) if event.old != event.new]
        self._events.clear()
        return events

    def used(self, protocols: Iterable[Protocol]) -> list[Route]:
        """Give all routes in use of some protocols, but for what BGP's table alone has."""
        wanted = set(protocols)
        return [route for _, route in sorted(self._installed.items()) if route.protocol in wanted]

    def contested(self, prefix: Prefix) -> bool:
        """Tell whether others than BGP offer a prefix, so that BGP's table does not decide about it."""
        return prefix in self._held

    def lookup(self, address: Address) -> Route | None:
        """Find the installed route to an address, as the forwarder would, but for what BGP's table wrote."""
        for prefix in self._candidates.lengths.covering(address):
            route = self._installed.get(prefix)
            if route is not None:
                return route
        return None

    @property
    def candidates(self) -> Candidates:
        """All that is offered, to look at."""
        return self._candidates

    @property
    def resolver(self) -> Resolver:
        """Where next hops lead, to look at."""
        return self._resolver

    def is_stale(self, route: Route) -> bool:
        """Tell whether a route is kept for a protocol that has gone."""
        return (route.prefix, (route.protocol, route.source)) in self._stale

    # --- within ---

    def _keys(self, protocol: Protocol, family: int) -> list[tuple[Prefix, Key]]:
        return [
            (route.prefix, (route.protocol, route.source))
            for route in self._candidates.all()
            if route.protocol is protocol
            and family in {0, route.prefix.family}
            and not (protocol is Protocol.BGP and route.prefix in self._held)
        ]

    def _add(self, route: Route) -> None:
        self._candidates.add(route)
        self._dirty.add(route.prefix)
        for hop in route.hops:
            if hop.kind is HopKind.FORWARD and not hop.interface and hop.via is not None:
                self._resolver.want(hop.via)

    def _remove(self, prefix: Prefix, key: Key) -> None:
        old = self._candidates.remove(prefix, key)
        if old is None:
            return
        self._stale.pop((prefix, key), None)
        self._dirty.add(prefix)
        for hop in old.hops:
            if hop.via is not None and not hop.interface:
                self._release(hop.via)

    def _release(self, address: Address) -> None:
        if address not in self._candidates.by_via and (address, "") not in self._tracked:
            self._resolver.forget(address)
            self._fresh.pop(address, None)

    def _contest(self) -> tuple[dict[Prefix, Route | None], set[Prefix]]:
        """Leave to BGP's table what it alone offers, and take its routes to what others offer too.

        Gives the prefixes that it has back, each with its route, and those that it leaves to us from now on.
        """
        bulk = self._resolver.bulk
        freed: dict[Prefix, Route | None] = {}
        taken: set[Prefix] = set()
        if bulk is None:
            return freed, taken
        for prefix in sorted(self._dirty):
            wanted = any(protocol is not Protocol.BGP for protocol in self._candidates.protocols(prefix))
            if wanted and prefix not in self._held:
                self._held.add(prefix)
                taken.add(prefix)
                bulk.hold(prefix)
            elif not wanted and prefix in self._held:
                freed[prefix] = None
        for route in bulk.held():
            if route.prefix in self._held:
                self._remove(route.prefix, BULK)
                if route.hops:
                    self._add(_candidate(route))
        for prefix in freed:
            freed[prefix] = self._candidates.get(prefix, BULK)
            self._remove(prefix, BULK)
            self._held.discard(prefix)
            bulk.unhold(prefix)
        return freed, taken

    def _hand_back(self, prefix: Prefix, own: Route | None) -> list[FibChange]:
        """Forget a prefix; BGP's table has written its own route to it, if it has one."""
        old = self._installed.pop(prefix, None)
        self._backups.pop(prefix, None)
        self._note(prefix, old, own)
        return [FibChange(prefix, None, bulk=own is not None)] if old is not None else []

    def _resolve(self) -> None:
        """Find the ways anew that may have changed, and mark the routes that use one which has.

        All of them are forgotten before the first is looked for: routes that hold each other up do not outlive
        the one below them.
        """
        concerned = self._resolver.concerned(self._dirty, self._fresh)
        self._fresh.clear()
        before = self._resolver.take(concerned)
        for address in sorted(concerned):
            users = self._candidates.by_via.get(address)
            view = View(address, bgp=True)
            if users and not _same(before.get(view), self._resolver.way(view)):
                self._dirty |= users
            if (address, "") in self._tracked:
                self._pending_reach[address, ""] = None

    def _tell(self, key: tuple[Address, str]) -> None:
        address, interface = key
        if interface:
            up = self._resolver.is_up(interface)
            hops = (Hop(HopKind.FORWARD, interface, address),) if up else ()
            reach = Reach(address, interface, hops, connected=up)
        else:
            way = self._resolver.way(View(address, bgp=False))
            reach = Reach(address, "", way.hops, way.metric if way.hops else 0, way.connected)
        if self._tracked[key] != reach:
            self._tracked[key] = self._told[key] = reach

    def _best(self, prefix: Prefix) -> tuple[Route | None, tuple[Hop, ...]]:
        """Give the route that is used, and its backup: the next one that leads elsewhere, best by another link."""
        best: Route | None = None
        backup: tuple[Hop, ...] = ()
        for route in self._candidates.of(prefix):
            hops = self._resolver.usable(route)
            if hops and best is None:
                best = route if hops == route.hops else replace(route, hops=hops)
                if not all(map(_can_fail, hops)):
                    break
            elif hops and best is not None:
                elsewhere = tuple(hop for hop in hops if not any(_same_way(hop, other) for other in best.hops))
                backup = backup or elsewhere
                if elsewhere and not {hop.interface for hop in hops} & {hop.interface for hop in best.hops}:
                    return best, elsewhere
        return best, backup

    def _note(self, prefix: Prefix, old: Route | None, new: Route | None) -> None:
        earlier = self._events.get(prefix)
        self._events[prefix] = Used(prefix, earlier.old if earlier is not None else old, new)


def _same_entry(old: Route | None, new: Route | None) -> bool:
    """Tell whether two routes are one to the FIB, which knows nothing of where they come from."""
    if old is None or new is None:
        return old is new
    return (old.hops, old.protocol, old.preference, old.metric) == (new.hops, new.protocol, new.preference, new.metric)


def _can_fail(hop: Hop) -> bool:
    return hop.kind in {HopKind.FORWARD, HopKind.CONNECTED}


def _same_way(one: Hop, other: Hop) -> bool:
    return (one.kind, one.interface, one.via) == (other.kind, other.interface, other.via)


def _same(before: Way | None, after: Way) -> bool:
    return before is not None and before.hops == after.hops


def _candidate(route: BulkRoute) -> Route:
    origin = route.attributes or None
    return Route(route.prefix, Protocol.BGP, route.hops, route.preference, route.metric, origin=origin)
