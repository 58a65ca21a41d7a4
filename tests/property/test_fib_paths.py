"""Compressed paths of the FIB: split, followed, taken over, given back; a writer that dies, or is short of memory."""

from __future__ import annotations

import errno
import random
from typing import TYPE_CHECKING, Any

import pytest

from tests.property.fib_model import WIDTH, Changes, Prefix, Table, Tables, naive, prefix, probes

if TYPE_CHECKING:
    from collections.abc import Iterator

FILLERS = 600  # routes that make the direct table grow


@pytest.fixture
def tables(library: Any) -> Iterator[Tables]:
    made = Tables(library)
    yield made
    made.close()


def filled(tables: Tables, family: int) -> Table:
    """Have a direct table of 12 bits."""
    width = WIDTH[family]
    routes: Table = {(family, (3 << 28 | index << 12) << (width - 32), 20): 1 + index % 9 for index in range(FILLERS)}
    assert tables.apply(Changes(list(routes.items()))) == 0
    return routes


def sparse(family: int, rng: random.Random) -> Prefix:
    """Long common beginnings, and few places to leave them."""
    width = WIDTH[family]
    trunk = 0x20010DB8_0A5A_0000_1234_0000_0000_0001 >> (128 - width)
    length = rng.choice([*range(1, width + 1, 3), 12, 18, 24, 30, 32])
    value = trunk >> (width - length) << (width - length)
    if rng.random() < 0.7:
        value ^= 1 << (width - rng.choice([*range(1, length + 1, max(1, length // 6)), length]))
    return family, value >> (width - length) << (width - length), length


def around(table: Table, where: Prefix, rng: random.Random) -> set[Prefix]:
    return {where, *rng.sample(sorted(table), min(len(table), 12))}


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("family", [4, 6])
def test_paths_follow_every_change(tables: Tables, family: int, direct: bool) -> None:
    rng = random.Random(family)
    table = filled(tables, family) if direct else {}
    kept = dict(table)
    assert tables.lib.table_writer_reclaim(tables.writer) == 0
    empty = tables.memory()
    for step in range(400):
        where = sparse(family, rng)
        interface = rng.choice([0, rng.randrange(1, 250), rng.randrange(1, 250)])
        change = Changes([(where, interface)])
        assert tables.apply(change) == 0
        table = change.after(table, 1)
        for each, value in probes(around(table, where, rng)):
            assert tables.lookup(each, value) == naive(table, each, value), (step, hex(value))
        if step % 100 == 99:
            tables.check(table)
            tables.close_writer()
            assert tables.open() == 0
    assert tables.apply(Changes([(where, 0) for where in table if where not in kept])) == 0
    tables.check(kept)
    assert tables.lib.table_writer_reclaim(tables.writer) == 0
    assert tables.memory() <= empty + (256 << 10)


TRUNK = "2001:db8:a5a::1234:0:0:1/128"
SPLITS = {
    "a path is split in its middle": [("2001:db8:a5a:8000::/64", 2)],
    "a path is split at its end": [("2001:db8:a5a::1234:0:0:2/128", 2)],
    "a prefix within a path": [("2001:db8:a5a::/48", 2)],
    "a prefix within a path, at a stride": [("2001:db8:a40::/42", 2), ("2001:db8:a40::/42", 0)],
    "what is behind a split inherits": [("2001:db8::/32", 2), ("2001:db8:a5a:8000::/64", 3), ("2001:db8:a5a::/47", 4)],
    "a path becomes longer than one can be": [("2001:db8:a5a::1234:0:0:0/125", 5), (TRUNK, 0)],
    "the last prefix of a path goes": [(TRUNK, 0)],
    "another answer at its end": [(TRUNK, 7)],
    "another answer beside it": [("2001::/16", 7), ("2001:db8::/30", 8), ("2001::/16", 0)],
}  # fmt: skip


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("name", SPLITS)
def test_a_writer_may_die_while_it_changes_a_path(library: Any, name: str, direct: bool) -> None:
    steps = [(prefix(text), hop) for text, hop in SPLITS[name]]
    begin = [(prefix(TRUNK), 1), (prefix("2001:db8:a5a:1::/64"), 6)]
    for store in range(1, 500):
        tables = Tables(library)
        start = filled(tables, 6) if direct else {}
        assert tables.apply(Changes(begin)) == 0
        start |= dict(begin)
        states = Changes(steps).states(start)
        result = tables.apply(Changes(steps), store)
        asked = probes({where for where, _ in [*begin, *steps]})
        for family, value in asked:
            assert tables.lookup(family, value) in {naive(state, family, value) for state in states}, tables.crashed_at
        if result == 0:
            tables.check(states[-1])
            tables.close()
            break
        assert result == -errno.EINTR
        assert tables.open() == 0
        found = tables.installed()
        assert found in states
        tables.check(found)
        tables.close()
    else:
        pytest.fail("no end of stores")


def test_paths_without_memory(library: Any) -> None:
    rng = random.Random(11)
    for pages in (6, 9, 14):
        tables = Tables(library, size=(129 + pages) * 4096)
        table: Table = {}
        asked: set[Prefix] = set()
        refused = 0
        for _ in range(900):
            where = sparse(6, rng)
            where = (6, where[1] & ~(0xFFFF << 90) | rng.randrange(60) << 90, max(where[2], 38))
            where = (6, where[1] >> (128 - where[2]) << (128 - where[2]), where[2])
            change = Changes([(where, rng.choice([0, 1, 2, 3]))])
            asked.add(where)
            result = tables.apply(change)
            assert result in {0, -errno.ENOSPC}
            refused += result != 0
            table = tables.installed()
            if result == 0:
                for family, value in probes({where}):
                    assert tables.lookup(family, value) == naive(table, family, value)
        print(f"{pages} pages: {len(table)} routes, {refused} refusals")
        # It may need room to lose routes one by one, but never to lose the last ones.
        gone = Changes([(where, 0) for where in table])
        assert tables.apply(gone) in {0, -errno.ENOSPC}
        assert tables.apply(gone) == 0
        assert tables.lib.table_writer_reclaim(tables.writer) == 0
        tables.check({})
        tables.close()


def test_a_sparse_route_costs_a_path(tables: Tables) -> None:
    """Prefixes of 48 bits that have little in common: about one node each, not one for every six bits."""
    rng = random.Random(3)
    routes = {(6, (0x2A << 120) | rng.getrandbits(32) << 80, 48): 1 + index % 9 for index in range(20_000)}
    assert tables.apply(Changes(list(routes.items()))) == 0
    assert tables.lib.table_writer_reclaim(tables.writer) == 0
    used = tables.memory() - tables.prefix_bytes()
    print(f"{used / len(routes):.0f} bytes a route")
    assert used / len(routes) < 64
    sample = dict(list(routes.items())[:500])
    for family, value, length in sample:
        assert tables.lookup(family, value | rng.getrandbits(128 - length)) == routes[family, value, length]
