"""Lists as bit vectors over their entries, by field, and the block that forwarders follow (abi/filter.h).

    entries --compile_list--> classifiers (kept while the list is the same) -\
    interfaces, counted prefixes, counters of entries --------------------- build --> bytes

For each field the values fall into classes, whose members match the same entries; a packet's entry is the first
bit that the rows of its classes have in common (Lakshman and Stiliadis, 1998).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from vrouter.config.acl import AclEntry
from vrouter.filters.terms import FAMILIES, Field, Interval, Terms, prefix_interval, terms, width
from vrouter.filters.text import describe
from vrouter.net.address import IPV4

DENY: Final = 1
ACTIONS: Final = {"permit": 0, "deny": DENY, "reject": 2}
RPF_MODES: Final = {"off": 0, "strict": 1, "loose": 2}
NO_MARK: Final = 0xFF
_WORD: Final = 64
_FIELD: Final = struct.Struct("<IIIII4x")  # struct filter_field
_CLASSIFIER: Final = struct.Struct("<II")  # struct filter_classifier up to its fields
_ENTRY: Final = struct.Struct("<QIBB2x")  # struct filter_entry
_LIST: Final = struct.Struct("<32sQIIII")  # struct filter_list up to its classifiers
_INTERFACE: Final = struct.Struct("<HHHBB64s64s")  # struct filter_interface
_PREFIXES: Final = struct.Struct("<IIIIIII4x")  # struct filter_prefixes
_TABLE: Final = struct.Struct("<8x8xIIIII4x")  # struct filter_table up to its prefixes
_INDEXED: Final = 256


@dataclass(frozen=True, slots=True)
class FieldBytes:
    """A field of a classifier; no `starts`: values are indices."""

    count: int
    class_count: int
    starts: bytes
    classes: bytes
    rows: bytes


@dataclass(frozen=True, slots=True)
class Classifier:
    """What decides about packets of one family."""

    words: int
    all_row: bytes
    fields: tuple[FieldBytes | None, ...]


@dataclass(frozen=True, slots=True)
class Counter:
    """Where something is counted, and who owns it there."""

    identity: int
    slot: int


@dataclass(frozen=True, slots=True)
class ListPart:
    """A list with the counters of its entries and, last, of its end."""

    name: str
    salt: int
    entries: tuple[AclEntry, ...]
    counters: tuple[Counter, ...]
    classifiers: tuple[Classifier, Classifier]  # by compile_list


@dataclass(frozen=True, slots=True)
class InterfacePart:
    """What is bound to an interface; lists by their names."""

    index: int
    acl_in: str | None
    acl_out: str | None
    rpf: str
    rpf_default: bool
    dscp_in: bytes
    dscp_out: bytes


@dataclass(frozen=True, slots=True)
class CountedPart:
    """A counted prefix."""

    prefix: str
    counter: Counter


def _row(bits: int, words: int) -> bytes:
    data = bits.to_bytes(words * 8, "little")
    summary = 0
    for place, word in enumerate(struct.unpack(f"<{words}Q", data)):
        if word:
            summary |= 1 << place
    return struct.pack("<Q", summary) + data


def _sweep(spans: Sequence[tuple[int, tuple[Interval, ...]]], always: int) -> tuple[list[int], list[int]]:
    """Give the first values of the intervals in which the same entries match, and those entries, as bits."""
    changes: dict[int, int] = {0: 0}
    for place, intervals in spans:
        for first, last in intervals:
            changes[first] = changes.get(first, 0) ^ 1 << place
            changes[last + 1] = changes.get(last + 1, 0) ^ 1 << place
    starts: list[int] = []
    sets: list[int] = []
    present = always
    for value in sorted(changes):
        present ^= changes[value]
        if not sets or sets[-1] != present:
            starts.append(value)
            sets.append(present)
    return starts, sets


def _starts_bytes(starts: Iterable[int], bits: int) -> bytes:
    if bits <= 32:
        values = list(starts)
        return struct.pack(f"<{len(values)}I", *values)
    return b"".join(struct.pack("<QQ", value >> 64, value & (1 << 64) - 1) for value in starts)


def _field(field: Field, family: int, asked: dict[int, Terms], words: int) -> FieldBytes | None:
    """Compile a field; None: no entry looks at it."""
    spans = [(place, each[field]) for place, each in asked.items() if field in each]
    if not spans:
        return None
    always = sum(1 << place for place, each in asked.items() if field not in each)
    bits = width(field, family)
    starts, sets = _sweep(spans, always)
    if starts[-1] >= 1 << bits:  # what lies behind the last value
        starts.pop()
        sets.pop()
    classes: dict[int, int] = {}
    numbers = [classes.setdefault(each, len(classes)) for each in sets]
    if bits == 8:
        ends = [*starts[1:], _INDEXED]
        numbers = [number for start, end, number in zip(starts, ends, numbers, strict=True) for _ in range(start, end)]
        starts = []
    return FieldBytes(
        len(numbers), len(classes), _starts_bytes(starts, bits), struct.pack(f"<{len(numbers)}H", *numbers),
        b"".join(_row(each, words) for each in classes),
    )  # fmt: skip


def compile_list(entries: tuple[AclEntry, ...]) -> tuple[Classifier, Classifier]:
    """Give the classifiers of a list for IPv4 and IPv6."""
    words = max(1, -(-len(entries) // _WORD))
    found = []
    for family in FAMILIES:
        asked = {}
        for place, entry in enumerate(entries):
            each = terms(entry, family)
            if each is not None:
                asked[place] = each
        everything = sum(1 << place for place in asked)
        fields = tuple(_field(field, family, asked, words) for field in Field)
        found.append(Classifier(words, _row(everything, words), fields))
    return found[0], found[1]


class _Block:
    """Bytes that grow in pieces at multiples of 8."""

    def __init__(self, head: int) -> None:
        self.data = bytearray(head)

    def add(self, piece: bytes) -> int:
        """Append a piece; give its offset."""
        offset = len(self.data)
        self.data += piece
        self.data += bytes(-len(self.data) % 8)
        return offset


def _classifier_bytes(block: _Block, classifier: Classifier) -> bytes:
    packed = _CLASSIFIER.pack(classifier.words, block.add(classifier.all_row))
    for field in classifier.fields:
        if field is None:
            packed += _FIELD.pack(0, 0, 0, 0, 0)
        else:
            packed += _FIELD.pack(
                field.count, field.class_count, block.add(field.starts), block.add(field.classes), block.add(field.rows)
            )
    return packed


def _list_bytes(block: _Block, part: ListPart) -> bytes:
    actions = [(ACTIONS[each.action], NO_MARK if each.set_dscp is None else each.set_dscp) for each in part.entries]
    actions.append((DENY, NO_MARK))
    entries = b"".join(
        _ENTRY.pack(counter.identity, counter.slot, action, mark)
        for counter, (action, mark) in zip(part.counters, actions, strict=True)
    )
    texts = "\n".join(describe(entry) for entry in part.entries).encode()
    head = _LIST.pack(
        part.name.encode(), part.salt, len(part.entries), block.add(entries), block.add(texts), len(texts)
    )
    return head + b"".join(_classifier_bytes(block, each) for each in part.classifiers)


def _prefixes_bytes(block: _Block, family: int, counted: Sequence[CountedPart]) -> bytes:
    """Compile the counted prefixes of a family: the longest that holds an address has its interval."""
    own = [(*prefix_interval(each.prefix), each) for each in counted]
    mine = sorted(((first, -last, each) for of, (first, last), each in own if of == family), key=lambda it: it[:2])
    if not mine:
        return _PREFIXES.pack(0, 0, 0, 0, 0, 0, 0)
    starts: list[int] = []
    classes: list[int] = []

    def mark(value: int, number: int) -> None:
        if starts and starts[-1] == value:
            classes[-1] = number
        else:
            starts.append(value)
            classes.append(number)

    mark(0, 0)
    open_: list[tuple[int, int]] = []  # last address and number of those that hold the present one
    for number, (first, negated, _) in enumerate(mine, 1):
        while open_ and open_[-1][0] < first:
            after = open_.pop()[0] + 1
            mark(after, open_[-1][1] if open_ else 0)
        mark(first, number)
        open_.append((-negated, number))
    limit = 1 << (32 if family == IPV4 else 128)
    while open_:
        after = open_.pop()[0] + 1
        if after < limit:
            mark(after, open_[-1][1] if open_ else 0)
    entries = b"".join(_ENTRY.pack(each.counter.identity, each.counter.slot, 0, NO_MARK) for _, _, each in mine)
    texts = "\n".join(each.prefix for _, _, each in mine).encode()
    return _PREFIXES.pack(
        len(starts), block.add(_starts_bytes(starts, limit.bit_length() - 1)),
        block.add(struct.pack(f"<{len(classes)}H", *classes)), len(mine), block.add(entries),
        block.add(texts), len(texts),
    )  # fmt: skip


def build(lists: Sequence[ListPart], interfaces: Sequence[InterfacePart], counted: Sequence[CountedPart]) -> bytes:
    """Give the block, without epoch and checksum; empty: there is nothing to filter, mark or count."""
    if not interfaces and not counted:
        return b""
    block = _Block(_TABLE.size + 2 * _PREFIXES.size)
    numbers: dict[str | None, int] = {None: 0} | {part.name: number for number, part in enumerate(lists, 1)}
    bound = b"".join(
        _INTERFACE.pack(
            each.index, numbers[each.acl_in], numbers[each.acl_out], RPF_MODES[each.rpf], each.rpf_default,
            each.dscp_in, each.dscp_out,
        )
        for each in interfaces
    )  # fmt: skip
    packed = b"".join(_list_bytes(block, part) for part in lists)
    lists_at, interfaces_at = block.add(packed), block.add(bound)
    prefixes = b"".join(_prefixes_bytes(block, family, counted) for family in FAMILIES)
    head = _TABLE.pack(len(block.data), len(interfaces), interfaces_at, len(lists), lists_at) + prefixes
    block.data[: len(head)] = head
    return bytes(block.data)
