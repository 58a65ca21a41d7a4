"""The filters that a control has published, and what was counted for them, read without C.

    tables_segment.filter_root --> filter_table (immutable) --> lists, entries, counted prefixes
    state_segment.filter_counters[worker * MAX_FILTER_COUNTERS + counter]

The block may be replaced while we read: whoever sees another root afterwards reads again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fastpath._layout import CONSTANTS, SIZES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fastpath.segment import Segment, View

_ATTEMPTS: Final = 16
_FEW: Final = 64  # counters that are read one by one, else all at once
_ACTIONS: Final = {
    CONSTANTS["FILTER_PERMIT"]: "permit",
    CONSTANTS["FILTER_DENY"]: "deny",
    CONSTANTS["FILTER_REJECT"]: "reject",
}
_MODES: Final = {CONSTANTS["RPF_OFF"]: "off", CONSTANTS["RPF_STRICT"]: "strict", CONSTANTS["RPF_LOOSE"]: "loose"}


@dataclass(frozen=True)
class Entry:
    """An entry of a list, or a counted prefix; the end of a list has no text."""

    identity: int
    counter: int
    action: str
    text: str = ""

    @property
    def name(self) -> str:
        """Give the name, where the operator gave one."""
        head, colon, _rest = self.text.partition(": ")
        return head if colon and " " not in head else ""


@dataclass(frozen=True)
class List:
    """A published list; the last entry is its end."""

    name: str
    salt: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Binding:
    """What an interface has: names of lists, the reverse-path check, and what each code point becomes."""

    interface: int
    acl_in: str | None
    acl_out: str | None
    rpf: str
    rpf_default: bool
    dscp_in: bytes
    dscp_out: bytes


@dataclass(frozen=True)
class Filters:
    """All that is published."""

    lists: tuple[List, ...] = ()
    bindings: tuple[Binding, ...] = ()
    prefixes: tuple[Entry, ...] = ()


@dataclass(frozen=True)
class Count:
    """Packets, and bytes of them from the IP header on."""

    packets: int = 0
    bytes: int = 0


def published(tables: Segment) -> Filters:
    """Give what is published; nothing before the first publication."""
    for _ in range(_ATTEMPTS):
        offset = tables.integer("filter_root")
        if not offset:
            return Filters()
        try:
            found = _read(tables, offset)
        except (ValueError, IndexError):  # led outside: replaced under our hands, or broken
            found = Filters()
        if tables.integer("filter_root") == offset:
            return found
    return Filters()


def _read(tables: Segment, offset: int) -> Filters:
    table = tables.at("filter_table", offset)
    lists = tuple(
        _list(tables, offset, view)
        for view in _array(tables, offset, table.integer("lists"), table.integer("list_count"), "filter_list")
    )
    names = (None, *(each.name for each in lists))
    bindings = tuple(
        _binding(view, names)
        for view in _array(
            tables, offset, table.integer("interfaces"), table.integer("interface_count"), "filter_interface"
        )
    )
    prefixes = tuple(entry for view in table.views("prefixes") for entry in _entries(tables, offset, view, 0))
    return Filters(lists, bindings, prefixes)


def _array(tables: Segment, base: int, start: int, count: int, name: str) -> Iterator[View]:
    for place in range(count):
        yield tables.at(name, base + start + place * SIZES[name])


def _entries(tables: Segment, base: int, view: View, more: int) -> Iterator[Entry]:
    count = view.integer("entry_count")
    start = base + view.integer("texts")
    texts = tables.buffer[start : start + view.integer("text_bytes")].decode("utf-8", "replace").split("\n")
    texts += [""] * (count + more - len(texts))
    entries = _array(tables, base, view.integer("entries"), count + more, "filter_entry") if count + more else ()
    for place, entry in enumerate(entries):
        action = _ACTIONS.get(entry.integer("action"), str(entry.integer("action")))
        text = texts[place] if place < count else ""
        yield Entry(entry.integer("identity"), entry.integer("counter"), action, text)


def _list(tables: Segment, base: int, view: View) -> List:
    return List(view.text("name"), view.integer("salt"), tuple(_entries(tables, base, view, 1)))


def _binding(view: View, names: tuple[str | None, ...]) -> Binding:
    first, second = view.integers("acl")
    maps = view.octets("dscp")
    return Binding(
        view.integer("index"), names[first], names[second], _MODES.get(view.integer("rpf"), "?"),
        bool(view.integer("rpf_default")), maps[:64], maps[64:],
    )  # fmt: skip


def counts(state: Segment, entries: Sequence[Entry]) -> list[Count]:
    """Give the counts of entries, of all workers together."""
    workers = min(max(state.integer("workers_used"), 1), CONSTANTS["MAX_WORKERS"])
    each = CONSTANTS["MAX_FILTER_COUNTERS"]
    places = [[worker * each + entry.counter % each for worker in range(workers)] for entry in entries]
    if len(entries) <= _FEW:
        found = {place: state.copied("filter_counters", place) for own in places for place in own}
    else:
        found = dict(state.used("filter_counters", "identity", workers * each))
    sums = []
    for entry, own in zip(entries, places, strict=True):
        views = [found[place] for place in own if place in found]
        mine = [view for view in views if view.integer("identity") == entry.identity]
        sums.append(Count(sum(view.integer("packets") for view in mine), sum(view.integer("bytes") for view in mine)))
    return sums
