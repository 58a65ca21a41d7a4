"""The table: neighbors, prefixes, and what waits to be done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Final

from vrouter.net.address import IPV4, IPV6, Address, Prefix, network
from vrouter.rib.bgp_reference.adj_in import judge, martian
from vrouter.rib.bgp_reference.adj_out import FamilyOut, leaving
from vrouter.rib.bgp_reference.decision import multipath, rank, reasons
from vrouter.rib.bgp_reference.paths import LOCAL, LOCAL_WEIGHT, Entry, Path, Tracker, sort_key
from vrouter.rib.bgp_table import (
    Afi,
    BulkRoute,
    Event,
    EventKind,
    Fed,
    Identity,
    NextHop,
    PeerKind,
    PeerSettings,
)
from vrouter.rib.route import Hop, Protocol
from vrouter.wire.bgp.attributes import MalformedError, Outcome, decode, encode
from vrouter.wire.bgp.message import HEADER, MAX_EXTENDED, MAX_LENGTH, MessageType, next_message
from vrouter.wire.bgp.update import Context, NextHops, Nlri, Update, decode_update

FAMILY: Final = {Afi.IPV4: IPV4, Afi.IPV6: IPV6}
AFI: Final = {IPV4: Afi.IPV4, IPV6: Afi.IPV6}
_STOPS: Final = frozenset({MessageType.OPEN, MessageType.NOTIFICATION, MessageType.ROUTE_REFRESH})


@dataclass(slots=True)
class _Peer:
    """A neighbor."""

    settings: PeerSettings | None = None  # None: no session
    paths: dict[Prefix, set[int]] = field(default_factory=dict)  # what came in: path identifiers
    out: dict[Afi, FamilyOut] = field(default_factory=dict)
    tally: Counter[str] = field(default_factory=Counter)


class ReferenceTable:
    """One VR's BGP routes: `vrouter.rib.bgp_table.BgpTable` in Python."""

    slot = 64

    def __init__(self, identity: Identity | None = None) -> None:
        self._identity = identity or Identity(0, 0)
        self._policies: Any = None
        self._peers: dict[int, _Peer] = {}
        self._entries: dict[Prefix, Entry] = {}
        self._tracker = Tracker()
        self._dirty: dict[Prefix, None] = {}
        self._serial = 0
        self._held: set[Prefix] = set()
        self._watching = False
        self._for_fib: dict[Prefix, None] = {}
        self._for_rib: dict[Prefix, None] = {}
        self._for_watcher: dict[Prefix, None] = {}

    # --- what holds for all ---

    def close(self) -> None:
        """Free it: there is nothing to free."""

    def configure(self, identity: Identity) -> None:
        """Take what holds for all."""
        self._identity = identity
        self._mark(self._entries)

    def policies(self, policies: Any) -> None:
        """Take the policies that settings name by number."""
        self._policies = policies

    def _mark(self, prefixes: Iterable[Prefix]) -> None:
        """Have prefixes processed, in their order."""
        for prefix in sorted(prefixes, key=sort_key):
            self._dirty.setdefault(prefix)

    # --- neighbors ---

    def peer_add(self, peer: int) -> None:
        """Make room for a neighbor."""
        self._peers[peer] = _Peer()

    def peer_delete(self, peer: int) -> None:
        """Forget a neighbor and all that came from it."""
        self.peer_down(peer)
        del self._peers[peer]

    def peer_up(self, peer: int, settings: PeerSettings) -> None:
        """Take UPDATEs from now on, and owe the neighbor the table and an End-of-RIB for each family."""
        state = self._peers[peer]
        state.settings = settings
        state.out = {afi: FamilyOut(walk=self._whole(afi), end_of_rib=True) for afi in sorted(settings.families)}

    def peer_change(self, peer: int, settings: PeerSettings) -> None:
        """Take other policies and limits; what leaves is judged anew."""
        state = self._peers[peer]
        if state.settings is None:
            return
        state.settings = settings
        for afi, out in state.out.items():
            out.walk = self._whole(afi)

    def peer_down(self, peer: int, keep: tuple[Afi, ...] = ()) -> None:
        """End a session; routes of the families in `keep` become stale, others go."""
        state = self._peers[peer]
        state.settings = None
        state.out = {}
        for afi in Afi:
            if afi in keep:
                self.peer_stale(peer, afi)
            else:
                self.peer_flush(peer, afi, stale_only=False)

    def peer_flush(self, peer: int, afi: Afi, *, stale_only: bool) -> None:
        """Drop what came from a neighbor in a family; after a restart only what was not sent again."""
        state = self._peers[peer]
        for prefix in self._of_peer(peer, afi):
            for path_id in sorted(state.paths.get(prefix, ())):
                if not stale_only or self._entries[prefix].paths[peer, path_id].stale:
                    self._drop(prefix, peer, path_id)

    def peer_stale(self, peer: int, afi: Afi) -> None:
        """Mark what came from a neighbor as stale."""
        for prefix in self._of_peer(peer, afi):
            for path_id in self._peers[peer].paths[prefix]:
                self._entries[prefix].paths[peer, path_id].stale = True

    def refresh(self, peer: int, afi: Afi) -> None:
        """Owe a neighbor the whole table of a family again."""
        out = self._peers[peer].out.get(afi)
        if out is not None:
            out.walk = self._whole(afi)
            out.again = True

    def _of_peer(self, peer: int, afi: Afi) -> list[Prefix]:
        paths = self._peers[peer].paths
        return sorted((prefix for prefix in paths if prefix.family == FAMILY[afi]), key=sort_key)

    def _whole(self, afi: Afi) -> list[Prefix]:
        prefixes = (prefix for prefix in self._entries if prefix.family == FAMILY[afi])
        return sorted(prefixes, key=sort_key, reverse=True)

    # --- what comes in ---

    def feed(self, peer: int, data: bytes | memoryview) -> Fed:
        """Take bytes of a session."""
        state = self._peers[peer]
        data = bytes(data)
        events: list[Event] = []
        at = updates = 0
        while True:
            settings = state.settings
            limit = MAX_EXTENDED if settings is not None and settings.extended_messages else MAX_LENGTH
            try:
                found = next_message(data, at, limit)
                if found is None:
                    break
                kind, length = found
                body = data[at + HEADER : at + length]
                if kind != MessageType.UPDATE:
                    events.append(Event(EventKind.MESSAGE, type=kind, body=body))
                elif settings is None:
                    events.append(Event(EventKind.UPDATE_EARLY))
                    break
                else:
                    events += self._update(peer, settings, body)
                    updates += 1
            except MalformedError as error:
                if settings is not None and error.code == 3:
                    state.tally["reset"] += 1
                events.append(Event(EventKind.ERROR, code=error.code, subcode=error.subcode, body=error.data))
                break
            at += length
            if settings is None or kind in _STOPS:
                break
        state.tally["updates"] += updates
        return Fed(at, tuple(events), updates)

    def _update(self, peer: int, settings: PeerSettings, body: bytes) -> list[Event]:
        """Take one UPDATE.  Raises MalformedError."""
        state = self._peers[peer]
        families = settings.families
        context = Context(
            as4=settings.as4,
            external=settings.kind is PeerKind.EXTERNAL,
            families=frozenset(int(afi) for afi in families),
            add_path=frozenset(int(afi) for afi, family in families.items() if family.receive_paths),
            extended_next_hop=Afi.IPV4 in families and families[Afi.IPV4].extended_next_hop,
            first_as=settings.remote_as if settings.enforce_first_as else 0,
        )
        update = decode_update(body, context)
        if update.end_of_rib:
            return [Event(EventKind.END_OF_RIB, afi=update.end_of_rib)]
        state.tally["treated_as_withdrawn"] += update.outcome is Outcome.WITHDRAW
        state.tally["attributes_discarded"] += update.discarded
        before = {afi: self._received(state, afi) for afi in families}
        self._take(peer, settings, update)
        events = []
        for afi, family in families.items():
            count = self._received(state, afi)
            if family.max_prefixes and before[afi] <= family.max_prefixes < count:
                events.append(Event(EventKind.MAX_PREFIX, afi=afi, count=count))
        return events

    def _take(self, peer: int, settings: PeerSettings, update: Update) -> None:
        """Enter what an UPDATE says into the table."""
        announced = {nlri for nlri, _ in update.announced}
        for nlri in update.withdrawn:
            if nlri not in announced:
                self._peers[peer].tally["withdrawn"] += 1
                self._drop(nlri.prefix, peer, nlri.path_id)
        for nlri, hops in update.announced:
            if not martian(nlri.prefix):
                self._enter(peer, settings, nlri, hops, update)

    def _enter(self, peer: int, settings: PeerSettings, nlri: Nlri, hops: NextHops, update: Update) -> None:
        """Enter one path that a neighbor announces, in the place of the one before."""
        prefix = nlri.prefix
        attributes = replace(update.attributes, next_hop=None)
        judged = judge(prefix, attributes, hops, settings, self._identity, self._policies)
        entry = self._entries.setdefault(prefix, Entry())
        old = entry.paths.get((peer, nlri.path_id))
        self._serial += 1
        path = Path(
            peer=peer,
            path_id=nlri.path_id,
            attributes=judged.attributes,
            next_hops=judged.next_hops,
            kind=settings.kind,
            router_id=settings.router_id,
            address=settings.address,
            weight=settings.weight if judged.weight is None else judged.weight,
            serial=self._serial if old is None else old.serial,
            out_id=entry.free_id() if old is None else old.out_id,
            discard=judged.discard,
            refused=judged.refused,
            preference=judged.preference,
            tag=judged.tag,
        )
        if not path.refused and not path.discard:
            path.tracked = self._tracker.use(judged.next_hops, settings.interface)
        self._place(prefix, entry, path)
        self._peers[peer].paths.setdefault(prefix, set()).add(nlri.path_id)

    def _place(self, prefix: Prefix, entry: Entry, path: Path) -> None:
        """Put a path into its prefix."""
        old = entry.paths.get((path.peer, path.path_id))
        entry.paths[path.peer, path.path_id] = path
        if old is not None and old.tracked is not None:
            self._tracker.release(old.tracked)
        self._dirty.setdefault(prefix)

    def _drop(self, prefix: Prefix, peer: int, path_id: int) -> None:
        """Take a path out of its prefix."""
        entry = self._entries.get(prefix)
        path = entry.paths.pop((peer, path_id), None) if entry is not None else None
        if path is None:
            return
        if path.tracked is not None:
            self._tracker.release(path.tracked)
        if peer != LOCAL:
            left = self._peers[peer].paths[prefix]
            left.discard(path_id)
            if not left:
                del self._peers[peer].paths[prefix]
        self._dirty.setdefault(prefix)

    @staticmethod
    def _received(state: _Peer, afi: Afi) -> int:
        return sum(prefix.family == FAMILY[afi] for prefix in state.paths)

    def originate(
        self,
        prefix: Prefix,
        next_hop: Address | None,
        attributes: bytes = b"",
        protocol: Protocol = Protocol.BGP,
    ) -> None:
        """Offer a local route."""
        known = decode(attributes, as4=True, external=False).attributes
        entry = self._entries.setdefault(prefix, Entry())
        old = entry.paths.get((LOCAL, 0))
        self._serial += 1
        path = Path(
            peer=LOCAL,
            path_id=0,
            attributes=known,
            next_hops=None if next_hop is None else NextHops(next_hop),
            kind=None,
            router_id=self._identity.router_id,
            address=Address(IPV4, 0),
            weight=LOCAL_WEIGHT,
            serial=self._serial if old is None else old.serial,
            out_id=entry.free_id() if old is None else old.out_id,
            protocol=protocol,
        )
        self._place(prefix, entry, path)

    def unoriginate(self, prefix: Prefix) -> None:
        """Withdraw a local route."""
        self._drop(prefix, LOCAL, 0)

    # --- choosing, and telling neighbors ---

    def process(self, limit: int) -> bool:
        """Choose best paths for at most `limit` prefixes that wait, then go on with walks over the table."""
        for prefix in list(islice(self._dirty, limit)):
            del self._dirty[prefix]
            self._choose(prefix)
            limit -= 1
        for number, state in sorted(self._peers.items()):
            for out in state.out.values():
                while limit and out.walk:
                    self._tell(out.walk.pop(), number, state, again=out.again)
                    limit -= 1
                if out.walk is not None and not out.walk:
                    out.walk = None
                    out.again = False
        return self.waiting()

    def waiting(self) -> bool:
        """Tell whether process() has something to do."""
        return bool(self._dirty) or any(
            out.walk is not None for state in self._peers.values() for out in state.out.values()
        )

    def _choose(self, prefix: Prefix) -> None:
        """Find the best path of a prefix, and let everybody know."""
        entry = self._entries[prefix]
        before = self._route(prefix)
        entry.ranked = rank(list(entry.paths.values()), self._identity)
        entry.used = multipath(entry.ranked, self._identity)
        for number, state in sorted(self._peers.items()):
            if AFI[prefix.family] in state.out:
                self._tell(prefix, number, state)
        if self._route(prefix) != before:
            self._changed(prefix)
        if not entry.paths:
            del self._entries[prefix]

    def _changed(self, prefix: Prefix) -> None:
        if prefix in self._held:
            self._for_rib.setdefault(prefix)
        else:
            self._for_fib.setdefault(prefix)
        if self._watching:
            self._for_watcher.setdefault(prefix)

    def _tell(self, prefix: Prefix, number: int, state: _Peer, *, again: bool = False) -> None:
        """Put what a neighbor must know of a prefix into its buckets."""
        settings = state.settings
        assert settings is not None
        afi = AFI[prefix.family]
        family, out = settings.families[afi], state.out[afi]
        entry = self._entries.get(prefix, Entry())
        wanted = {}
        if not family.send_paths:
            for path in entry.ranked[:1]:
                wanted[Nlri(prefix)] = leaving(prefix, path, number, settings, self._identity, self._policies)
        else:
            for path in entry.ranked:
                told = leaving(prefix, path, number, settings, self._identity, self._policies)
                if told is not None and len(wanted) < family.send_paths:
                    wanted[Nlri(prefix, path.out_id)] = told
        for nlri in out.known(prefix, paths=bool(family.send_paths)):
            if nlri not in wanted:
                out.put(nlri, None)
        for nlri, told in wanted.items():
            out.put(nlri, told, again=again)

    def export(self, peer: int, room: int) -> bytes:
        """Give whole UPDATEs that a neighbor is owed, at most `room` bytes."""
        state = self._peers[peer]
        messages = bytearray()
        for afi, out in state.out.items():
            assert state.settings is not None
            while message := out.take_message(afi, state.settings, room - len(messages)):
                messages += message
                state.tally["updates_sent"] += 1
        return bytes(messages)

    # --- next hops ---

    def new_next_hops(self) -> list[NextHop]:
        """Give next hops that wait for next_hop_set()."""
        return self._tracker.take_new()

    def dead_next_hops(self) -> list[int]:
        """Give the ids of next hops that nobody uses any more."""
        return self._tracker.take_dead()

    def next_hop_set(self, next_hop: int, metric: int, hops: tuple[Hop, ...]) -> None:
        """Tell the way to a next hop; no hops: it cannot be reached."""
        tracked = self._tracker.set(next_hop, metric, hops)
        if tracked is not None:
            users = [
                prefix
                for prefix, entry in self._entries.items()
                if any(path.tracked is tracked for path in entry.paths.values())
            ]
            self._mark(users)
            # What is in use changes at once, the choice in process().
            for prefix in sorted(users, key=sort_key):
                if any(path.tracked is tracked for path in self._entries[prefix].used):
                    self._changed(prefix)

    # --- the FIB and other protocols ---

    def _route(self, prefix: Prefix) -> BulkRoute:
        """Give the best path of a prefix for others than BGP; a local one is theirs already."""
        entry = self._entries.get(prefix)
        if entry is None or not entry.used or entry.used[0].peer == LOCAL:
            return BulkRoute(prefix, ())
        best = entry.used[0]
        hops = tuple(dict.fromkeys(hop for path in entry.used for hop in path.hops))
        internal = best.kind is not PeerKind.EXTERNAL
        preference = self._identity.preference_internal if internal else self._identity.preference_external
        return BulkRoute(
            prefix,
            hops,
            preference if best.preference is None else best.preference,
            best.attributes.med or 0,
            internal,
            encode(best.attributes),
        )

    def _drain(self, waiting: dict[Prefix, None], limit: int) -> list[BulkRoute]:
        batch = list(islice(waiting, limit))
        for prefix in batch:
            del waiting[prefix]
        return [self._route(prefix) for prefix in sorted(batch, key=sort_key)]

    def hold(self, prefix: Prefix) -> None:
        """Leave a prefix to the RIB."""
        if prefix not in self._held:
            self._held.add(prefix)
            self._for_fib.pop(prefix, None)
            if self._route(prefix).hops:
                self._for_rib.setdefault(prefix)

    def unhold(self, prefix: Prefix) -> None:
        """Take a prefix back."""
        if prefix in self._held:
            self._held.discard(prefix)
            self._for_rib.pop(prefix, None)
            self._for_fib.setdefault(prefix)

    def held(self) -> list[BulkRoute]:
        """Give the best paths of held prefixes that changed."""
        return self._drain(self._for_rib, len(self._for_rib))

    def watch(self, enabled: bool) -> None:
        """Keep note of changed best paths for changes()."""
        self._watching = enabled
        self._for_watcher.clear()
        if enabled:
            present = (prefix for prefix in self._entries if self._route(prefix).hops)
            self._for_watcher.update(dict.fromkeys(sorted(present, key=sort_key)))

    def changes(self, limit: int) -> list[BulkRoute]:
        """Give watched changes."""
        return self._drain(self._for_watcher, limit)

    def fib(self, limit: int) -> list[BulkRoute]:
        """Give FIB changes."""
        return self._drain(self._for_fib, limit)

    def lookup(self, address: Address, longest: int = 128) -> BulkRoute | None:
        """Find the longest best path in use for an address."""
        bits = 32 if address.family == IPV4 else 128
        for length in range(min(bits, longest), -1, -1):
            route = self._route(network(address, length))
            if route.hops:
                return route
        return None

    # --- for operators ---

    def counts(self, peer: int) -> dict[str, Any]:
        """Give counters of a neighbor."""
        state = self._peers[peer]
        families = {}
        for afi in Afi:
            prefixes = self._of_peer(peer, afi)
            paths = [self._entries[prefix].paths[peer, number] for prefix in prefixes for number in state.paths[prefix]]
            out = state.out.get(afi)
            families[f"ipv{FAMILY[afi]}"] = {
                "received": len(paths),
                "accepted": sum(not path.refused for path in paths),
                "stale": sum(path.stale for path in paths),
                "sent": len({nlri.prefix for nlri in out.sent}) if out is not None else 0,
            }
        tally = {
            name: state.tally[name]
            for name in (
                "updates",
                "updates_sent",
                "withdrawn",
                "treated_as_withdrawn",
                "attributes_discarded",
                "reset",
            )
        }
        return {"families": families, **tally}

    def totals(self) -> dict[str, Any]:
        """Give counters of the table."""
        paths = [path for entry in self._entries.values() for path in entry.paths.values()]
        return {
            "prefixes": {
                f"ipv{family}": sum(prefix.family == family for prefix in self._entries) for family in (IPV4, IPV6)
            },
            "paths": len(paths),
            "attributes": len({path.attributes for path in paths}),
            "next_hops": len(self._tracker),
        }

    def routes(
        self, afi: Afi, view: str, peer: int = 0, after: Prefix | None = None, limit: int = 1000
    ) -> list[dict[str, Any]]:
        """List paths after a prefix, at most `limit`, but whole prefixes."""
        rows: list[dict[str, Any]] = []
        for prefix in reversed(self._whole(afi)):
            if after is not None and sort_key(prefix) <= sort_key(after):
                continue
            if view == "out":
                found = self._sent(prefix, peer)
            else:
                found = [row for row in self.explain(prefix) if view == "loc" or row["peer"] == peer]
            if rows and len(rows) + len(found) > limit:
                break
            rows += found
        return rows

    def _sent(self, prefix: Prefix, peer: int) -> list[dict[str, Any]]:
        out = self._peers[peer].out.get(AFI[prefix.family])
        routes: Mapping[Nlri, Any] = {} if out is None else out.sent
        rows = []
        for nlri in sorted(nlri for nlri in routes if nlri.prefix == prefix):
            told = routes[nlri]
            hop = told.hops.address if told.hops is not None else None
            if hop is None:
                hop = decode(told.attributes, as4=True, external=False).attributes.next_hop
            rows.append(
                {
                    "prefix": str(prefix),
                    "peer": peer,
                    "path_id": nlri.path_id,
                    "next_hop": str(hop),
                    "attributes": told.attributes,
                }
            )
        return rows

    def explain(self, prefix: Prefix) -> list[dict[str, Any]]:
        """Give all paths of a prefix, the best first, with the step at which each lost."""
        entry = self._entries.get(prefix)
        if entry is None:
            return []
        why = reasons(list(entry.paths.values()), entry.used, self._identity)
        others = [path for _, path in sorted(entry.paths.items()) if path not in entry.ranked]
        ranked = [path for path in entry.ranked if path in entry.paths.values()]
        return [_row(prefix, path, entry, why[id(path)]) for path in (*ranked, *others)]


def _row(prefix: Prefix, path: Path, entry: Entry, reason: str) -> dict[str, Any]:
    """Give a path as `show` has it."""
    best = 0
    if path in entry.used:
        best = 1 if path is entry.used[0] else 2
    return {
        "prefix": str(prefix),
        "peer": path.peer,
        "path_id": path.path_id,
        "next_hop": "" if path.next_hops is None else str(path.next_hops.address),
        "interface": "" if path.tracked is None else path.tracked.interface,
        "metric": path.metric,
        "weight": path.weight,
        "verdict": path.refused or "accepted",
        "reason": reason,
        "stale": path.stale,
        "best": best,
        "attributes": encode(path.attributes),
    }
