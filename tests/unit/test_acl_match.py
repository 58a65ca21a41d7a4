"""The forwarder decides about packets as the plain twin does, entry by entry; broken blocks are not followed."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from fastpath._layout import CONSTANTS
from tests.unit.acl_world import Stage, random_entry, random_packet
from vrouter.config import acl
from vrouter.config.acl import AclEntry
from vrouter.filters import compile as compiled
from vrouter.filters import match
from vrouter.filters.terms import Field, Form

if TYPE_CHECKING:
    from collections.abc import Iterator

LISTS = 150
PACKETS = 120


@pytest.fixture(name="stage", scope="module")
def _stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.load_block(b"")


def expected(entries: tuple[AclEntry, ...], data: bytes) -> tuple[bool, int | None, int | None, int]:
    """Say what the twin thinks: passed, counted entry, mark, ICMP errors."""
    packet = match.read(data)
    place = len(entries) if packet is None else match.decide(entries, packet)
    if place == len(entries):
        if packet is not None and match.is_neighbor_discovery(packet):
            return True, None, None, 0
        return False, place, None, 0
    entry = entries[place]
    return (
        entry.action == "permit",
        place,
        entry.set_dscp if entry.action == "permit" else None,
        int(entry.action == "reject"),
    )


@pytest.mark.parametrize("seed", range(3))
def test_random_lists_and_packets(stage: Stage, seed: int) -> None:
    """Lists of all lengths, packets of both families with options, extensions, fragments and stumps."""
    rng = random.Random(seed)
    decided = {"entry": 0, "end": 0, "hidden": 0}
    for _ in range(LISTS // 3):
        entries = tuple(random_entry(rng) for _ in range(rng.choice((0, 1, 2, 5, 20, 63, 64, 65, 130, 300))))
        assert stage.load(entries)
        for _ in range(PACKETS):
            data = random_packet(rng)
            answer = stage.decide(data)
            assert (answer.passed, answer.entry, answer.mark, answer.errors) == expected(entries, data), data.hex()
            kind = "hidden" if match.read(data) is None else "end" if answer.entry in {None, len(entries)} else "entry"
            decided[kind] += 1
    assert min(decided.values()) > 30, decided


def test_long_list(stage: Stage) -> None:
    """The last word of the longest list is reached, and no bit behind it."""
    rng = random.Random(5)
    entries = tuple(random_entry(rng) for _ in range(acl.MAX_ENTRIES - 1))
    entries += (AclEntry(action="permit", set_dscp=46),)
    assert stage.load(entries)
    for _ in range(60):
        data = random_packet(rng)
        answer = stage.decide(data)
        assert (answer.passed, answer.entry, answer.mark, answer.errors) == expected(entries, data), data.hex()


def test_damaged_blocks(stage: Stage) -> None:
    """A block with any word changed is refused, or followed without reading outside it."""
    rng = random.Random(1)
    entries = tuple(random_entry(rng) for _ in range(70))
    counters = tuple(compiled.Counter(1 + place, place) for place in range(71))
    same = bytes(range(64))
    block = compiled.build(
        [compiled.ListPart("test", 1, entries, counters, compiled.compile_list(entries))],
        [compiled.InterfacePart(1, "test", "test", "strict", True, same, same)],
        [compiled.CountedPart("10.0.0.0/8", compiled.Counter(5, 5))],
    )
    assert stage.load_block(block)
    packets = [random_packet(rng) for _ in range(20)]
    refused = 0
    for _ in range(2000):
        damaged = bytearray(block)
        place = rng.randrange(len(block) // 4) * 4 if rng.random() < 0.5 else rng.randrange(700) * 4
        value = rng.choice((0, 1, 0xFFFFFFFF, len(block), len(block) - 8, rng.getrandbits(32), rng.getrandbits(16)))
        damaged[place : place + 4] = value.to_bytes(4, "little")
        if stage.load_block(bytes(damaged)):
            for packet in packets:
                stage.decide(packet)
        else:
            refused += 1
    assert refused > 100


def test_constants() -> None:
    """What Python says about the block is what C says."""
    assert {f"FIELD_{field.name}": field.value for field in Field} == {
        name: value for name, value in CONSTANTS.items() if name.startswith("FIELD_")
    }
    assert {f"FORM_{form.name}": form.value for form in Form} == {
        name: value for name, value in CONSTANTS.items() if name.startswith("FORM_")
    }
    assert CONSTANTS["MAX_ACL_ENTRIES"] == acl.MAX_ENTRIES
    assert CONSTANTS["MAX_COUNTED_PREFIXES"] == acl.MAX_COUNTED
    assert CONSTANTS["FILTER_NO_MARK"] == compiled.NO_MARK
    assert {f"FILTER_{name.upper()}": value for name, value in compiled.ACTIONS.items()} == {
        name: CONSTANTS[name] for name in ("FILTER_PERMIT", "FILTER_DENY", "FILTER_REJECT")
    }
    assert {f"RPF_{name.upper()}": value for name, value in compiled.RPF_MODES.items()} == {
        name: CONSTANTS[name] for name in ("RPF_OFF", "RPF_STRICT", "RPF_LOOSE")
    }
