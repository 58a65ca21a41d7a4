"""A prefix list made for look-ups."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vrouter.net.address import Prefix, mask

# A prefix, and the shortest and the longest length of what it stands for.
Entry = tuple[Prefix, int, int]


@dataclass(frozen=True, slots=True)
class Row:
    """An entry, and the position of the one that it lies in; -1: in none."""

    prefix: Prefix
    low: int
    high: int
    parent: int


class PrefixTable:
    """The entries of a list, without those that others make superfluous."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._ranges: dict[Prefix, list[tuple[int, int]]] = {}
        for prefix, low, high in sorted(set(entries)):
            known = self._ranges.setdefault(prefix, [])
            if known and low <= known[-1][1] + 1:
                known[-1] = (known[-1][0], max(high, known[-1][1]))
            else:
                known.append((low, high))
        self._lengths = sorted({(prefix.family, prefix.length) for prefix in self._ranges})
        self._rows: dict[int, list[Row]] = {}

    def __contains__(self, prefix: object) -> bool:
        """Tell whether a prefix is in the list."""
        assert isinstance(prefix, Prefix)
        for family, length in self._lengths:
            if family != prefix.family or length > prefix.length:
                continue
            ranges = self._ranges.get(Prefix(family, prefix.value & mask(family, length), length), ())
            if any(low <= prefix.length <= high for low, high in ranges):
                return True
        return False

    def rows(self, family: int) -> list[Row]:
        """Give the entries of a family sorted by (prefix value, length): those that one lies in stand before it.

        A search for a prefix finds the last entry that does not stand behind it; whatever holds the prefix is
        that entry, or its parent, or a parent of that.
        """
        known = self._rows.get(family)
        if known is not None:
            return known
        found: list[Row] = []
        open_rows: list[int] = []
        for prefix in sorted(each for each in self._ranges if each.family == family):
            for low, high in self._ranges[prefix]:
                while open_rows and not _within(prefix, found[open_rows[-1]].prefix):
                    open_rows.pop()
                found.append(Row(prefix, low, high, open_rows[-1] if open_rows else -1))
                open_rows.append(len(found) - 1)
        self._rows[family] = found
        return found


def _within(inner: Prefix, outer: Prefix) -> bool:
    return inner.length >= outer.length and inner.value & mask(inner.family, outer.length) == outer.value
