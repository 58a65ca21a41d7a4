"""The BGP table in C against its executable specification in Python, on random sessions.

Both get the same calls.  Compared are events, next hops, FIB, what the RIB and watchers are told, all paths with the
reasons of the choice, counters, and what each neighbor knows after it has read what was exported; the order in which
routes leave, and numbers that are a table's own (of next hops, path identifiers sent), are free.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from random import Random
from typing import Any, Final

import pytest

from fastpath import routes
from fastpath.segment import KIND_TABLES, Segment, create
from fastpath.tables import TableWriter
from tests.property import bgp_streams as streams
from vrouter.net.address import Address, Prefix, parse_prefix
from vrouter.rib.bgp_reference import ReferenceTable
from vrouter.rib.bgp_table import (
    Afi,
    BgpTable,
    BulkRoute,
    EventKind,
    FamilySettings,
    Identity,
    PeerKind,
    PeerSettings,
)
from vrouter.rib.route import Hop, HopKind, Protocol
from vrouter.runtime.bgp_bulk import BulkTable
from vrouter.wire.bgp.message import HEADER, MAX_EXTENDED
from vrouter.wire.bgp.update import Context, decode_update

SEEDS: Final = range(int(os.environ.get("BGP_SEEDS", "25")))
STEPS: Final = 40
PEERS: Final = (1, 2, 3, 4)
SAME: Final = ("kind", "address", "router_id")  # of a neighbor that comes back: else it is another one
COUNTERS: Final = ("updates", "withdrawn", "treated_as_withdrawn", "attributes_discarded", "reset")


class Neighbor:
    """What a neighbor knows from what it was sent."""

    def __init__(self, settings: PeerSettings) -> None:
        self.context = Context(
            as4=settings.as4,
            external=settings.kind is PeerKind.EXTERNAL,
            families=frozenset(int(afi) for afi in settings.families),
            add_path=frozenset(int(afi) for afi, family in settings.families.items() if family.send_paths),
            extended_next_hop=True,
        )
        self.limit = MAX_EXTENDED if settings.extended_messages else 4096
        self.routes: dict[Any, Any] = {}
        self.ended: Counter[int] = Counter()

    def take(self, data: bytes) -> None:
        """Read UPDATEs."""
        at = 0
        while at < len(data):
            length = int.from_bytes(data[at + 16 : at + 18], "big")
            assert HEADER <= length <= self.limit
            update = decode_update(data[at + HEADER : at + length], self.context)
            assert not update.outcome
            assert not update.discarded
            self.ended[update.end_of_rib] += 1
            for nlri in update.withdrawn:
                assert self.routes.pop(nlri, None) is not None, f"{nlri} was not known"
            for nlri, hops in update.announced:
                self.routes[nlri] = update.attributes, hops
            at += length
        assert at == len(data)

    def known(self) -> dict[Prefix, Any]:
        """Give what is known of each prefix; path identifiers are only a name."""
        found: dict[Prefix, Counter[Any]] = {}
        for nlri, route in self.routes.items():
            found.setdefault(nlri.prefix, Counter())[route] += 1
        return found


class Side:
    """One table and all around it."""

    def __init__(self, table: Any, tables: Segment | None = None) -> None:
        self.table: BgpTable = table
        self.tables = tables
        self.hops: dict[int, tuple[Address, str]] = {}
        self.fib: dict[Prefix, BulkRoute] = {}
        self.held: dict[Prefix, BulkRoute] = {}
        self.watched: dict[Prefix, BulkRoute] = {}
        self.neighbors: dict[int, Neighbor] = {}

    def settle(self, limit: int) -> None:
        """Do all that waits, and see to the results."""
        while self.table.process(limit):
            pass
        for route in self.table.fib(1000):
            _note(self.fib, route)
        for route in self.table.held():
            _note(self.held, route)
        for route in self.table.changes(1000):
            _note(self.watched, route)
        for number, neighbor in self.neighbors.items():
            while data := self.table.export(number, MAX_EXTENDED):
                neighbor.take(data)

    def installed(self) -> dict[Prefix, Any]:
        """Give what stands in the FIB of those that the table may write."""
        if self.tables is None:
            return {
                route.prefix: (route.preference, route.metric, sorted((str(h.via), h.interface) for h in route.hops))
                for route in self.fib.values()
            }
        return {
            parse_prefix(route["prefix"]): (
                route["preference"],
                route["metric"],
                sorted((str(hop["via"]), _interface(hop["interface"])) for hop in route["nexthops"]),
            )
            for route in routes.routes(self.tables)
        }

    def new_hops(self) -> list[tuple[Address, str]]:
        """Learn of next hops that came and went."""
        for number in self.table.dead_next_hops():
            del self.hops[number]
        self.hops |= {hop.id: (hop.address, hop.interface) for hop in self.table.new_next_hops()}
        return sorted(set(self.hops.values()))


def _interface(index: str | None) -> str:
    return "" if index is None else f"e{int(index) - 1}"


def _note(where: dict[Prefix, BulkRoute], route: BulkRoute) -> None:
    if route.hops:
        where[route.prefix] = replace(route, hops=tuple(sorted(route.hops, key=str)))
    else:
        where.pop(route.prefix, None)


class Run:
    """A random life of two tables."""

    def __init__(self, seed: int, policies: Any = None) -> None:
        self.rng = Random(seed)
        self.fd = create(KIND_TABLES, 1 << 24, 1, "test") if seed % 2 else -1
        self.writer = TableWriter(self.fd) if seed % 2 else None
        segment = Segment(self.fd, KIND_TABLES) if seed % 2 else None
        table = BulkTable(self.writer, lambda name: int(name[1:]) + 1, lambda number: f"e{number - 1}")
        self.sides = (Side(BulkTable() if segment is None else table, segment), Side(ReferenceTable()))
        self.policies = policies
        self.ways: dict[tuple[Address, str], tuple[int, tuple[Hop, ...]]] = {}
        self.up: dict[int, PeerSettings] = {}
        self.rest: dict[int, bytes] = {}
        self.last: dict[int, PeerSettings] = {}
        self.held: set[Prefix] = set()
        self.alike = replace(streams.settings(self.rng, 1), as_override=False) if seed % 3 == 0 else None
        self.both("configure", streams.identity(self.rng))
        if policies is not None:
            self.both("policies", policies)
        for peer in PEERS:
            self.both("peer_add", peer)

    def close(self) -> None:
        """Free what is not memory."""
        c = self.sides[0]
        c.table.close()
        if c.tables is not None and self.writer is not None:
            c.tables.close()
            self.writer.close()
            os.close(self.fd)

    def both(self, name: str, *arguments: Any, **named: Any) -> list[Any]:
        """Call both tables."""
        return [getattr(side.table, name)(*arguments, **named) for side in self.sides]

    def settings(self, peer: int) -> PeerSettings:
        """Choose the settings of a session, with policies if there are any."""
        if self.alike is not None:  # update groups have several members
            return replace(
                self.alike,
                address=Address(4, 0xC0000200 + peer),
                router_id=0x0A000100 + peer,
                remote_as=65000 + peer if self.alike.kind is PeerKind.EXTERNAL else streams.LOCAL_AS,
            )
        chosen = streams.settings(self.rng, peer)
        while peer in self.last and any(getattr(chosen, name) != getattr(self.last[peer], name) for name in SAME):
            chosen = streams.settings(self.rng, peer)
        self.last[peer] = chosen
        if self.policies is None:
            return chosen
        numbers = [0, *self.policies.programs()]
        families = {
            afi: replace(family, import_policy=self.rng.choice(numbers), export_policy=self.rng.choice(numbers))
            for afi, family in chosen.families.items()
        }
        return replace(chosen, families=families)

    def step(self) -> None:
        """Do something at random."""
        rng = self.rng
        peer = rng.choice(PEERS)
        what = rng.random()
        if peer not in self.up:
            self.bring_up(peer)
        elif what < 0.7:
            self.feed(peer)
        elif what < 0.75:
            self.take_down(peer)
        elif what < 0.78:
            self.both("refresh", peer, rng.choice((Afi.IPV4, Afi.IPV6)))
        elif what < 0.82:
            self.both("peer_stale", peer, rng.choice((Afi.IPV4, Afi.IPV6)))
        elif what < 0.85:
            self.both("peer_flush", peer, rng.choice((Afi.IPV4, Afi.IPV6)), stale_only=rng.random() < 0.7)
        elif what < 0.9:
            self.originate()
        elif what < 0.93:
            self.hold(streams.prefix(rng), wanted=rng.random() < 0.5)
        elif what < 0.95:
            for side in self.sides:
                side.watched.clear()
            self.both("watch", rng.random() < 0.8)
        elif what < 0.96:
            self.both("configure", streams.identity(rng))
        elif what < 0.98:
            self.change(peer)
        else:
            self.change_ways()

    def hold(self, prefix: Prefix, *, wanted: bool) -> None:
        """Leave a prefix to the RIB, or take it back."""
        if (prefix in self.held) == wanted:
            return
        self.held ^= {prefix}
        self.both("hold" if wanted else "unhold", prefix)
        for side in self.sides:
            (side.fib if wanted else side.held).pop(prefix, None)

    def bring_up(self, peer: int) -> None:
        """Begin a session."""
        chosen = self.settings(peer)
        self.up[peer] = chosen
        self.rest[peer] = b""
        self.both("peer_up", peer, chosen)
        for side in self.sides:
            side.neighbors[peer] = Neighbor(chosen)

    def change(self, peer: int) -> None:
        """Let what is told to a neighbor, or by policies to all, leave otherwise than before."""
        rng, old = self.rng, self.up[peer]
        new = {peer: replace(old, send_communities=rng.random() < 0.8, remove_private_as=rng.random() < 0.2)}
        if self.policies is not None and self.alike is None:
            numbers = [0, *self.policies.programs()]
            new[peer] = replace(
                old,
                families={afi: replace(one, export_policy=rng.choice(numbers)) for afi, one in old.families.items()},
            )
            if rng.random() < 0.5:
                new = self.change_policies()
        for number, settings in new.items():
            self.up[number] = self.last[number] = settings
            self.both("peer_change", number, settings)

    def change_policies(self) -> dict[int, PeerSettings]:
        """Take other policies; give the settings that name them."""
        old, self.policies = self.policies, streams.policies(self.rng.randrange(1 << 30), self.policies)
        self.both("policies", self.policies)
        numbers = {0: 0} | {old.number(name): self.policies.number(name) for name in old.names}

        def follow(family: FamilySettings) -> FamilySettings:
            taken, told = numbers[family.import_policy], numbers[family.export_policy]
            return replace(family, import_policy=taken, export_policy=told)

        return {
            peer: replace(settings, families={afi: follow(family) for afi, family in settings.families.items()})
            for peer, settings in self.up.items()
        }

    def take_down(self, peer: int) -> None:
        """End a session."""
        keep = tuple(afi for afi in Afi if self.rng.random() < 0.3)
        self.both("peer_down", peer, keep)
        del self.up[peer]
        for side in self.sides:
            del side.neighbors[peer]

    def feed(self, peer: int) -> None:
        """Let a neighbor speak."""
        data = self.rest[peer] + streams.stream(self.rng, self.up[peer])
        c, python = self.both("feed", peer, data)
        assert c == python
        self.rest[peer] = data[c.consumed :]
        if any(event.kind is EventKind.ERROR or event.type in {1, 3} for event in c.events):
            self.take_down(peer)

    def originate(self) -> None:
        """Offer or withdraw a local route."""
        prefix = streams.prefix(self.rng)
        if self.rng.random() < 0.3:
            self.both("unoriginate", prefix)
            return
        attributes = bytes((0x40, 1, 1, 2)) + self.rng.choice((b"", bytes((0x80, 4, 4, 0, 0, 0, 9))))
        hop = self.rng.choice((None, streams.HOPS4[0] if prefix.family == 4 else streams.HOPS6[0]))
        self.both("originate", prefix, hop, attributes, self.rng.choice((Protocol.STATIC, Protocol.BGP)))

    def change_ways(self) -> None:
        """Resolve next hops otherwise."""
        for key in list(self.ways):
            if self.rng.random() < 0.5:
                del self.ways[key]

    def resolve(self) -> None:
        """Resolve next hops, each address always in the same way."""
        c, python = (side.new_hops() for side in self.sides)
        assert c == python
        for key in c:
            if key not in self.ways:
                reachable = self.rng.random() < 0.85
                via = Hop(HopKind.FORWARD, f"e{self.rng.randrange(3)}", key[0])
                self.ways[key] = self.rng.choice((0, 5, 10)), (via,) if reachable else ()
        for side in self.sides:
            for number, key in side.hops.items():
                side.table.next_hop_set(number, *self.ways[key])

    def settle(self) -> None:
        """Let both tables come to rest, and compare them."""
        for _ in range(2):
            limit = self.rng.choice((1, 3, 1000))
            for side in self.sides:
                side.settle(limit)
            self.resolve()
        for side in self.sides:
            side.settle(1000)

    def compare(self) -> None:
        """Compare all that can be seen."""
        c, python = self.sides
        stands, wanted = c.installed(), python.installed()
        for prefix in self.held:
            stands.pop(prefix, None)
        assert stands == wanted
        if c.tables is None:
            assert c.fib == python.fib
            assert c.held == python.held
            assert c.watched == python.watched
        for afi in Afi:
            rows = c.table.routes(afi, "loc"), python.table.routes(afi, "loc")
            assert sorted(rows[0], key=_row_key) == sorted(rows[1], key=_row_key)
            assert _ranked(rows[0]) == _ranked(rows[1])
        for peer in PEERS:
            counts = c.table.counts(peer), python.table.counts(peer)
            assert counts[0]["families"] == counts[1]["families"]
            for name in COUNTERS if not counts[0]["reset"] else ():  # of a message that is refused one may count more
                assert counts[0][name] == counts[1][name], name
        for peer in self.up:
            known = c.neighbors[peer], python.neighbors[peer]
            assert known[0].known() == known[1].known()
            assert [known[0].ended[afi] for afi in Afi] == [known[1].ended[afi] for afi in Afi]
            for afi in self.up[peer].families:
                assert _told(c, afi, peer) == _told(python, afi, peer)
        assert c.table.totals()["paths"] == python.table.totals()["paths"]
        for address in (*streams.HOPS4, *streams.HOPS6, Address(4, 0x0A000101), Address(6, 0x20010DB8 << 96 | 1)):
            found = c.table.lookup(address), python.table.lookup(address)
            assert (found[0] and found[0].prefix) == (found[1] and found[1].prefix)


def _row_key(row: dict[str, Any]) -> tuple[str, int, int]:
    return row["prefix"], row["peer"], row["path_id"]


def _ranked(rows: list[dict[str, Any]]) -> list[tuple[str, int, int]]:
    return [_row_key(row) for row in rows if row["reason"] not in {"refused", "unreachable"}]


def _told(side: Side, afi: Afi, peer: int) -> list[Any]:
    rows = side.table.routes(afi, "out", peer)
    return sorted((row["prefix"], row["next_hop"], row["attributes"]) for row in rows)


def live(seed: int, policies: Any = None) -> None:
    """Run one random life."""
    run = Run(seed, policies)
    try:
        for _ in range(STEPS):
            for _ in range(run.rng.randint(1, 3)):
                run.step()
            run.settle()
            run.compare()
    finally:
        run.close()


@pytest.mark.parametrize("seed", SEEDS)
def test_both_tables_agree(seed: int) -> None:
    """Whatever neighbors send and operators do, C and Python end with the same."""
    live(seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_both_tables_agree_under_policies(seed: int) -> None:
    """The same with route policies in and out."""
    live(seed, streams.policies(seed))


def test_a_table_that_loses_all_neighbors_is_empty() -> None:
    """Nothing stays behind but what is held or local."""
    run = Run(1)
    for _ in range(STEPS):
        run.step()
        run.settle()
    for peer in PEERS:
        run.both("peer_delete", peer)
    for prefix in (*streams.PREFIXES[Afi.IPV4], *streams.PREFIXES[Afi.IPV6]):
        run.both("unoriginate", prefix)
        run.both("unhold", prefix)
    run.up.clear()
    for side in run.sides:
        side.neighbors.clear()
    run.both("watch", False)
    run.settle()
    totals = run.sides[0].table.totals()
    assert totals["prefixes"] == {"ipv4": 0, "ipv6": 0}
    assert (totals["paths"], totals["attributes"], totals["bundles"], totals["next_hops"]) == (0, 0, 0, 0)
    assert (totals["update_groups"], totals["hop_groups"]) == (0, 0)


def test_identity_defaults() -> None:
    """A fresh table takes an identity twice without work."""
    for table in (BulkTable(), ReferenceTable()):
        table.configure(Identity(65000, 1))
        while table.process(100):
            pass
        table.configure(Identity(65000, 1))
        assert not table.waiting()
