"""Link state databases: one of each area, one of the whole system, one of each link (RFC 2328 section 12.2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from vrouter.wire.ospf.lsa import MAX_AGE, Body, LsaHeader, LsaKey, with_age

MAX_AGE_DIFFERENCE: Final = 900


class Entry:
    """An LSA that is held.  Its age is counted from `installed` on; `flooded`: nobody was asked for it."""

    __slots__ = ("body", "flooded", "header", "installed", "own", "raw")

    def __init__(
        self, header: LsaHeader, raw: bytes, body: Body, installed: float, own: bool, flooded: bool = False
    ) -> None:
        self.header = header
        self.raw = raw
        self.body = body
        self.installed = installed
        self.own = own
        self.flooded = flooded

    def age(self, now: float) -> int:
        """Give the age in seconds, MAX_AGE at most."""
        return min(MAX_AGE, self.header.age + int(now - self.installed))

    def aged(self, now: float, delay: int = 0) -> bytes:
        """Give the bytes with the age of now, and of a transmission that takes `delay`."""
        return with_age(self.raw, min(MAX_AGE, self.age(now) + delay))

    def current_header(self, now: float) -> LsaHeader:
        """Give the header with the age of now."""
        held = self.header
        return LsaHeader(
            self.age(now), held.options, held.type, held.id, held.router, held.sequence, held.checksum, held.length
        )  # fmt: skip


class Database:
    """The LSAs of one flooding scope; `scope` is what logs and timers call it."""

    def __init__(self, scope: tuple[str, ...]) -> None:
        self.scope = scope
        self._types: dict[int, dict[LsaKey, Entry]] = {}

    def get(self, key: LsaKey) -> Entry | None:
        """Give what is held."""
        return self._types.get(key[0], {}).get(key)

    def put(self, entry: Entry) -> Entry | None:
        """Hold an LSA; give the one that it replaces."""
        held = self._types.setdefault(entry.header.type, {})
        key = entry.header.key
        old = held.get(key)
        held[key] = entry
        return old

    def remove(self, key: LsaKey) -> Entry | None:
        """Hold it no longer."""
        return self._types.get(key[0], {}).pop(key, None)

    def of_type(self, kind: int) -> list[Entry]:
        """Give all of a type."""
        return list(self._types.get(kind, {}).values())

    def __iter__(self) -> Iterator[Entry]:
        for kind in sorted(self._types):
            yield from list(self._types[kind].values())

    def __len__(self) -> int:
        return sum(map(len, self._types.values()))


def newer(one: LsaHeader, other: LsaHeader) -> int:
    """Give 1, 0 or -1: whether `one` is the more recent instance, the same, or the older (section 13.1)."""
    if one.sequence != other.sequence:
        return 1 if one.sequence > other.sequence else -1
    if one.checksum != other.checksum:
        return 1 if one.checksum > other.checksum else -1
    if (one.age >= MAX_AGE) != (other.age >= MAX_AGE):
        return 1 if one.age >= MAX_AGE else -1
    if abs(one.age - other.age) > MAX_AGE_DIFFERENCE:
        return 1 if one.age < other.age else -1
    return 0
