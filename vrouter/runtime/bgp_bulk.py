"""The BGP table of a VR: fastpath/bgp.py as `vrouter/rib/bgp_table.py` wants it.

Interfaces have names here and numbers there: those of the published interfaces, and for next hops on a link
numbers of this adapter's own, which never change.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from fastpath import bgp
from fastpath.tables import TableWriter
from vrouter.net.address import Address, Prefix
from vrouter.rib.bgp_table import (
    Afi,
    BulkRoute,
    Event,
    EventKind,
    FamilySettings,
    Fed,
    Identity,
    NextHop,
    PeerSettings,
)
from vrouter.rib.route import Hop, HopKind, Protocol
from vrouter.wire.bgp.attributes import Type

_FAMILY: Final = {Afi.IPV4: 4, Afi.IPV6: 6}
_AFI: Final = {4: 1, 6: 2}
_VIEWS: Final = {"loc": 0, "in": 1, "out": 2}
# In the order of enum bgp_verdict and enum bgp_reason.
VERDICTS: Final = ("accepted", "policy", "no-policy", "as-loop", "originator", "cluster", "next-hop", "otc", "prefix")
REASONS: Final = (
    "best", "multipath", "refused", "unreachable", "weight", "local-pref", "local", "as-path", "origin", "med",
    "external", "metric", "age", "router-id", "cluster-list", "address", "path-id",
)  # fmt: skip
_ERRORS: Final = ("withdrawn", "discarded", "reset")  # enum bgp_repair


class BulkTable:
    """`vrouter.rib.bgp_table.BgpTable` in C."""

    slot: int = 8192

    def __init__(
        self,
        writer: TableWriter | None = None,
        index: Callable[[str], int] | None = None,
        name: Callable[[int], str] | None = None,
    ) -> None:
        """Write to a tables segment, if there is one; `index` and `name` know the published interfaces."""
        self._table = bgp.Table(writer)
        self._links: list[str] = [""]  # interfaces of next hops, by our number
        self._index = index or self._link
        self._name = name or self._links.__getitem__
        self._programs: dict[int, bytes] = {}

    def close(self) -> None:
        """Free it."""
        self._table.close()

    def _link(self, interface: str) -> int:
        if interface not in self._links:
            self._links.append(interface)
        return self._links.index(interface)

    def configure(self, identity: Identity) -> None:
        """Take what holds for all."""
        self._table.configure(
            local_as=identity.local_as,
            router_id=identity.router_id,
            cluster_id=identity.cluster_id,
            multipath=identity.multipath,
            multipath_internal=identity.multipath_internal,
            multipath_relax=identity.multipath_relax,
            always_compare_med=identity.always_compare_med,
            compare_router_id=identity.compare_router_id,
            preference_external=identity.preference_external,
            preference_internal=identity.preference_internal,
            preference_local=identity.preference_local,
        )

    def policies(self, policies: Any) -> None:
        """Take the route policies that settings name by number."""
        programs: dict[int, bytes] = {} if policies is None else policies.programs()
        for number in self._programs.keys() - programs.keys():
            self._table.policy(number, b"")
        for number, program in programs.items():
            if self._programs.get(number) != program:
                self._table.policy(number, program)
        self._programs = programs

    def peer_add(self, peer: int) -> None:
        """Make room for a neighbor."""
        self._table.peer_add(peer)

    def peer_delete(self, peer: int) -> None:
        """Forget a neighbor and all that came from it."""
        self._table.peer_delete(peer)

    def peer_up(self, peer: int, settings: PeerSettings) -> None:
        """Take UPDATEs from now on, and owe the neighbor the table."""
        self._table.peer_up(peer, settings.address, settings.interface, _families(settings), **self._others(settings))

    def peer_change(self, peer: int, settings: PeerSettings) -> None:
        """Take other policies and limits."""
        families = _families(settings)
        self._table.peer_change(peer, settings.address, settings.interface, families, **self._others(settings))

    def _others(self, settings: PeerSettings) -> dict[str, int]:
        return {
            "kind": settings.kind,
            "as4": settings.as4,
            "extended_messages": settings.extended_messages,
            "role": settings.role,
            "next_hop_self": settings.next_hop_self,
            "next_hop_unchanged": settings.next_hop_unchanged,
            "send_communities": settings.send_communities,
            "remove_private_as": settings.remove_private_as,
            "as_override": settings.as_override,
            "shared_link": settings.shared_link,
            "enforce_first_as": settings.enforce_first_as,
            "local_as": settings.local_as,
            "remote_as": settings.remote_as,
            "router_id": settings.router_id,
            "interface": self._link(settings.interface),
            "allow_own_as": settings.allow_own_as,
            "weight": settings.weight,
        }

    def peer_down(self, peer: int, keep: tuple[Afi, ...] = ()) -> None:
        """End a session; routes of the families in `keep` become stale, others go."""
        self._table.peer_down(peer, [_FAMILY[afi] for afi in keep])

    def peer_flush(self, peer: int, afi: Afi, *, stale_only: bool) -> None:
        """Drop what came from a neighbor in a family."""
        self._table.peer_flush(peer, _FAMILY[afi], stale_only=stale_only)

    def peer_stale(self, peer: int, afi: Afi) -> None:
        """Mark what came from a neighbor as stale."""
        self._table.peer_stale(peer, _FAMILY[afi])

    def feed(self, peer: int, data: bytes | memoryview) -> Fed:
        """Take bytes of a session."""
        consumed, found, updates = self._table.feed(peer, data)
        return Fed(consumed, tuple(map(_event, found)), updates)

    def originate(
        self,
        prefix: Prefix,
        next_hop: Address | None,
        attributes: bytes = b"",
        protocol: Protocol = Protocol.BGP,
    ) -> None:
        """Offer a local route."""
        self._table.originate(prefix, next_hop, attributes, protocol)

    def unoriginate(self, prefix: Prefix) -> None:
        """Withdraw a local route."""
        self._table.unoriginate(prefix)

    def process(self, limit: int) -> bool:
        """Choose best paths for at most `limit` prefixes that wait."""
        return self._table.process(limit)

    def waiting(self) -> bool:
        """Tell whether process() has something to do."""
        return self._table.waiting()

    def export(self, peer: int, room: int) -> bytes:
        """Give whole UPDATEs that a neighbor is owed."""
        return self._table.export(peer, room)

    def refresh(self, peer: int, afi: Afi) -> None:
        """Owe a neighbor the whole table of a family again."""
        self._table.refresh(peer, _FAMILY[afi])

    def new_next_hops(self) -> list[NextHop]:
        """Give next hops that wait for next_hop_set()."""
        return [
            NextHop(number, Address(*address), self._links[interface])
            for number, address, interface in self._table.new_next_hops()
        ]

    def dead_next_hops(self) -> list[int]:
        """Give the ids of next hops that nobody uses any more."""
        return self._table.dead_next_hops()

    def next_hop_set(self, next_hop: int, metric: int, hops: tuple[Hop, ...]) -> None:
        """Tell the way to a next hop."""
        plain = [
            (int(hop.kind), self._index(hop.interface) if hop.interface else 0, hop.via, hop.weight) for hop in hops
        ]
        self._table.next_hop_set(next_hop, metric, plain)

    def hold(self, prefix: Prefix) -> None:
        """Leave a prefix to the RIB."""
        self._table.hold(prefix)

    def unhold(self, prefix: Prefix) -> None:
        """Take a prefix back."""
        self._table.unhold(prefix)

    def held(self) -> list[BulkRoute]:
        """Give the best paths of held prefixes that changed."""
        return self._routes(self._table.held())

    def watch(self, enabled: bool) -> None:
        """Keep note of changed best paths for changes()."""
        self._table.watch(enabled=enabled)

    def changes(self, limit: int) -> list[BulkRoute]:
        """Give watched changes."""
        return self._routes(self._table.changes(limit))

    def fib(self, limit: int) -> list[BulkRoute]:
        """Give FIB changes, where there is no tables segment."""
        return self._routes(self._table.fib(limit))

    def lookup(self, address: Address, longest: int = 128) -> BulkRoute | None:
        """Find the longest best path in use for an address."""
        found = self._table.lookup(address, longest)
        return None if found is None else self._route(found)

    def _routes(self, found: list[bgp.Route]) -> list[BulkRoute]:
        return [self._route(route) for route in sorted(found, key=lambda route: route.prefix)]

    def _route(self, route: bgp.Route) -> BulkRoute:
        hops = tuple(
            Hop(HopKind(kind), self._name(interface) if interface else "", via and Address(*via), weight)
            for kind, interface, via, weight in route.hops
        )
        prefix = Prefix(*route.prefix)
        if not hops:
            return BulkRoute(prefix, ())
        return BulkRoute(prefix, hops, route.preference, route.metric, route.internal, route.attributes)

    def sweep(self) -> None:
        """Remove from the FIB what a predecessor left there and was not told again."""
        self._table.sweep()

    def counts(self, peer: int) -> dict[str, Any]:
        """Give counters of a neighbor."""
        counts = self._table.counts(peer)
        errors = {
            kind: {_attribute(number): count for number, count in enumerate(counts.errors[row]) if count}
            for row, kind in enumerate(_ERRORS)
        }
        return {
            "families": {
                f"ipv{family}": {
                    "received": counts.families[i].received,
                    "accepted": counts.families[i].accepted,
                    "stale": counts.families[i].stale,
                    "sent": counts.families[i].sent,
                }
                for i, family in enumerate((4, 6))
            },
            "updates": counts.updates,
            "updates_sent": counts.updates_sent,
            "withdrawn": counts.withdrawn,
            "treated_as_withdrawn": counts.treated_as_withdrawn,
            "attributes_discarded": sum(errors["discarded"].values()),
            "reset": sum(errors["reset"].values()),
            "malformed": errors,
            "refused": {name: counts.refused[i] for i, name in enumerate(VERDICTS) if i and counts.refused[i]},
        }

    def totals(self) -> dict[str, Any]:
        """Give counters of the table."""
        totals = self._table.totals()
        return {
            "prefixes": {"ipv4": totals.prefixes[0], "ipv6": totals.prefixes[1]},
            "paths": totals.paths[0] + totals.paths[1],
            "attributes": totals.attributes,
            "bundles": totals.bundles,
            "next_hops": totals.next_hops,
            "update_groups": totals.groups,
            "hop_groups": totals.hop_groups,
            "bytes": totals.bytes,
        }

    def routes(
        self, afi: Afi, view: str, peer: int = 0, after: Prefix | None = None, limit: int = 1000
    ) -> list[dict[str, Any]]:
        """List paths after a prefix, at most `limit`, but whole prefixes."""
        found = self._table.routes(_FAMILY[afi], _VIEWS[view], peer, after, limit)
        return [_told(path, peer) if view == "out" else self._row(path) for path in found]

    def explain(self, prefix: Prefix) -> list[dict[str, Any]]:
        """Give all paths of a prefix, the best first, with the step at which each lost."""
        return [self._row(path) for path in self._table.explain(prefix)]

    def _row(self, path: bgp.Path) -> dict[str, Any]:
        return {
            "prefix": str(Prefix(*path.prefix)),
            "peer": path.peer,
            "path_id": path.path_id,
            "next_hop": "" if path.next_hop is None else str(Address(*path.next_hop)),
            "interface": self._links[path.interface],
            "metric": path.metric,
            "weight": path.weight,
            "verdict": VERDICTS[path.verdict],
            "reason": REASONS[path.reason],
            "stale": path.stale,
            "best": path.best,
            "attributes": path.attributes,
        }


def _families(settings: PeerSettings) -> dict[int, bgp.Family]:
    return {_FAMILY[afi]: _family(family) for afi, family in settings.families.items()}


def _family(settings: FamilySettings) -> bgp.Family:
    return bgp.Family(
        receive_paths=settings.receive_paths,
        send_paths=settings.send_paths,
        extended_next_hop=settings.extended_next_hop,
        import_deny=settings.import_deny,
        export_deny=settings.export_deny,
        next_hop=settings.next_hop,
        next_hop_link_local=settings.next_hop_link_local,
        max_prefixes=settings.max_prefixes,
        import_policy=settings.import_policy,
        export_policy=settings.export_policy,
    )


def _attribute(number: int) -> str:
    """Give an attribute's name, or its number: what is told to the manager has text for keys."""
    return Type(number).name.lower().replace("_", "-") if number in set(Type) else str(number)


def _event(event: bgp.Event) -> Event:
    kind = EventKind(event.kind)
    return Event(kind, event.type, event.body, event.code, event.subcode, _AFI.get(event.family, 0), event.number)


def _told(path: bgp.Path, peer: int) -> dict[str, Any]:
    hop = Address(*path.next_hop) if path.next_hop is not None else _next_hop(path.attributes)
    return {
        "prefix": str(Prefix(*path.prefix)),
        "peer": peer,
        "path_id": path.path_id,
        "next_hop": "" if hop is None else str(hop),
        "attributes": path.attributes,
    }


def _next_hop(attributes: bytes) -> Address | None:
    """Find NEXT_HOP among attributes that this router has encoded."""
    at = 0
    while at < len(attributes):
        head = 4 if attributes[at] & 0x10 else 3
        size = int.from_bytes(attributes[at + 2 : at + head], "big")
        if attributes[at + 1] == Type.NEXT_HOP:
            return Address(4, int.from_bytes(attributes[at + head : at + head + size], "big"))
        at += head + size
    return None
