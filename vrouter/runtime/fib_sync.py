"""Brings the tables segment in line with what the control has worked out.

    Tables: Root (interfaces, addresses, rules) --> publish
            FibChange (prefix, resolved hops) ----> group, apply          (hop_groups.py)
            unsettled --------------------------->  what a predecessor left of these protocols stays

Order: an interface is published before a route leads to it, and withdrawn after the last one.  The
first time, and after a failure, it marks and sweeps: everything wanted is applied over what stands
there, and only then what is not wanted is removed; so a control that comes back disturbs nothing.

What BGP's own table writes into the segment is not this module's: BGP's entries are left alone while there is one,
and that table sweeps for itself.

An interface keeps its index as long as it has its name, also across a restart: neighbors and counters
belong to the index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Final

from fastpath import interfaces as published
from fastpath import tables
from fastpath.segment import KIND_TABLES, Segment
from fastpath.tables import TableWriter
from vrouter.config.police import Policer
from vrouter.config.router import Interface
from vrouter.engine.outputs import Root, Tables
from vrouter.net.address import Address, Prefix, parse_mac
from vrouter.rib.connected import InterfaceAddress
from vrouter.rib.route import FibChange, Hop, Protocol, Route
from vrouter.runtime.filter_sync import FilterSync, features
from vrouter.runtime.hop_groups import HopGroups
from vrouter.sockets.rules import RuleEntry

# Constants of include/abi/tables.h; a unit test compares.
KINDS: Final = {"ethernet": 1, "vlan": 2, "loopback": 3}
ADMIN_UP: Final = 1
LINK_LOCAL: Final = 1
NO_DAD: Final = 2
MAX_INDEX: Final = 255
DIRECTIONS: Final = {"in": 0, "out": 1}
POLICE_UNITS: Final = {"bits": 1, "packets": 2}
POLICE_FEATURES: Final = {"in": 0x4, "out": 0x400}


class FibSync:
    """The one that writes the tables segment."""

    def __init__(self, writer: TableWriter, tables_fd: int) -> None:
        """Take note of the interface indices that a predecessor has published."""
        self._writer = writer
        with Segment(tables_fd, KIND_TABLES) as segment:
            self._indices = {name: index for index, name in published.names(segment).items()}
            self._filters = FilterSync(writer, segment)
        self._groups = HopGroups(writer, self._hop)
        self._down_ports: frozenset[int] = frozenset()
        self._root: Root | None = None
        self._last_index = max(self._indices.values(), default=0)
        self._unsettled: tuple[Protocol, ...] = ()
        self.synchronous = False  # the tables hold what was applied last
        self.restarted = bool(self._indices)  # what a predecessor has published stands there
        self.sweep_bulk: Callable[[], None] | None = None  # of BGP's own table

    @property
    def indices(self) -> Mapping[str, int]:
        """Give the indices of the interfaces by name."""
        return self._indices

    def apply(
        self, tables: Tables, wanted: Mapping[Prefix, Route], backups: Mapping[Prefix, tuple[Hop, ...]] | None = None
    ) -> None:
        """Carry out a change; `wanted` is all that the FIB holds afterwards, with these backups.

        Raises OSError when the segment has no room; the next call then writes everything.
        """
        whole, self.synchronous = not self.synchronous, False
        root, old = tables.root, self._root or Root()
        self.assign(root.interfaces)
        names = {interface.name for interface in root.interfaces}
        leaving = tuple(interface for interface in old.interfaces if interface.name not in names)
        if leaving and len(names) + len(leaving) <= MAX_INDEX:
            # Behind the others: where a port has changed hands, the first one owns it.
            self._publish(replace(root, interfaces=root.interfaces + leaving))
        elif not leaving:
            self._publish(root)
        self._move(root)
        if whole:
            behind = backups or {}
            self._install((route, behind.get(prefix, ())) for prefix, route in wanted.items())
            self._sweep(wanted, tables.unsettled)
        else:
            self._change(tables.changes)
            if tables.sweep or tables.unsettled != self._unsettled:
                self._sweep(wanted, tables.unsettled)
        due = whole or tables.sweep or Protocol.BGP in self._unsettled
        if due and self.sweep_bulk is not None and Protocol.BGP not in tables.unsettled:
            self.sweep_bulk()
        if leaving:
            self._publish(root)
        if gone := self._indices.keys() - names:
            self._groups.forget(gone)
        self._indices = {name: index for name, index in self._indices.items() if name in names}
        self._root, self._unsettled, self.synchronous = root, tables.unsettled, True

    def link(self, port: int, *, up: bool) -> None:
        """Move the groups that lead over a port to their other hops, or back, before their routes are judged.

        Raises OSError where not all could be.
        """
        self._down_ports = self._down_ports - {port} if up else self._down_ports | {port}
        self._move(self._root or Root())

    def neighbor(self, address: Address, interface: str, *, up: bool) -> None:
        """Move the groups that lead to a neighbor likewise; without an interface it may be on any."""
        self._groups.neighbor((address, interface), up=up)

    def reclaim(self) -> None:
        """Give back the memory that no reader can see any more."""
        self._groups.sweep()
        self._writer.reclaim()

    def assign(self, interfaces: Iterable[Interface]) -> None:
        """Give an index to each interface that has none; one just set free is the last to be used again.

        Raises OSError when there are too many.
        """
        taken = set(self._indices.values())
        for interface in interfaces:
            if interface.name in self._indices:
                continue
            for step in range(1, MAX_INDEX + 1):
                index = (self._last_index + step - 1) % MAX_INDEX + 1
                if index not in taken:
                    break
            else:
                raise OSError(28, "no interface index is free")
            taken.add(index)
            self._indices[interface.name] = self._last_index = index

    def _move(self, root: Root) -> None:
        self._groups.links(interface.name for interface in root.interfaces if interface.port in self._down_ports)

    def _publish(self, root: Root) -> None:
        # Filters and rates first: an interface is published with the features that ask for them.
        self._filters.apply(root, self._indices)
        self._writer.police(list(root.control_plane.numbers()), list(self._policers(root.interfaces)), root.peers)
        self._writer.publish(
            [self._interface(interface, root) for interface in root.interfaces],
            [self._address(entry) for entry in root.addresses],
            [_rule(entry) for entry in root.rules],
        )

    def _interface(self, interface: Interface, root: Root) -> tables.InterfaceEntry:
        return tables.InterfaceEntry(
            index=self._indices[interface.name],
            name=interface.name,
            kind=KINDS[interface.kind],
            port=interface.port,
            vlan=interface.vlan,
            flags=ADMIN_UP,
            mtu=interface.mtu,
            mac=parse_mac(interface.mac),
            features=sum(POLICE_FEATURES[direction] for direction in _policed(interface))
            | features(interface, root.acls, counting=bool(root.counters)),
        )

    def _policers(self, interfaces: Iterable[Interface]) -> Iterator[tables.PoliceEntry]:
        for interface in interfaces:
            for direction, policer in _policed(interface).items():
                rate, burst, unit = policer.numbers()
                index = self._indices[interface.name]
                yield tables.PoliceEntry(index, DIRECTIONS[direction], POLICE_UNITS[unit], rate, burst)

    def _address(self, entry: InterfaceAddress) -> tables.AddressEntry:
        # Nobody else can be on a loopback (RFC 4862 section 5.4 is about links).
        flags = (LINK_LOCAL if entry.link_local else 0) | (NO_DAD if entry.loopback else 0)
        family, value = entry.address
        return tables.AddressEntry(family, value, entry.length, self._indices[entry.interface], flags)

    def _change(self, changes: Iterable[FibChange]) -> None:
        gone: list[Prefix] = []
        routes: list[tuple[Route, tuple[Hop, ...]]] = []
        for change in changes:
            if change.route is not None:
                routes.append((change.route, change.backup))
            elif not change.bulk:  # else BGP's table has written its own route over ours
                gone.append(change.prefix)
        self._install(routes)
        self._remove(gone)

    def _sweep(self, wanted: Mapping[Prefix, Route], unsettled: tuple[Protocol, ...]) -> None:
        """Remove what stands in the table and is neither wanted nor somebody's who may still ask for it."""
        kept = {*map(int, unsettled), *((int(Protocol.BGP),) if self.sweep_bulk is not None else ())}
        installed = [Prefix(entry.family, entry.value, entry.length) for entry in self._writer.routes(kept)]
        self._remove(prefix for prefix in installed if prefix not in wanted)

    def _install(self, routes: Iterable[tuple[Route, tuple[Hop, ...]]]) -> None:
        changes = []
        for route, backup in routes:
            group = self._groups.get(route.hops, backup)
            family, value, length = route.prefix
            changes.append(
                tables.RouteChange(family, value, length, group, route.protocol, route.preference, route.metric)
            )
        if changes:
            self._writer.apply(changes)

    def _remove(self, prefixes: Iterable[Prefix]) -> None:
        changes = [tables.RouteChange(*prefix, 0) for prefix in prefixes]
        if changes:
            self._writer.apply(changes)

    def _hop(self, hop: Hop) -> tables.Hop:
        index = self._indices[hop.interface] if hop.interface else 0
        return tables.Hop(hop.kind, index, hop.via, hop.weight)


def _policed(interface: Interface) -> dict[str, Policer]:
    """Give the policers of an interface by direction."""
    found = {} if interface.police is None else {"in": interface.police.in_, "out": interface.police.out}
    return {direction: policer for direction, policer in found.items() if policer is not None}


def _rule(entry: RuleEntry) -> tables.RuleEntry:
    quota = tables.Quota(
        entry.quota.sockets, entry.quota.opens, entry.quota.accepts, entry.quota.bytes, entry.quota.memory
    )
    return tables.RuleEntry(
        entry.identity, entry.id, entry.operations, entry.curve_key, entry.ports, entry.prefixes, quota
    )
