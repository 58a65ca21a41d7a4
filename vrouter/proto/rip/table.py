"""The routing table of RIP: what neighbors say, what we add, and what is on its way out.

    learn ----> paths of a prefix ----> expires, unreachable ----> garbage ----> gone
    set_own --> our own announcement, which is told in the place of what is heard of the same prefix

RFC 2453 section 3.9.2 decides what is taken: of a prefix only the best is kept, from the neighbor that said
so first; with more than one path allowed, also those of other neighbors with the same metric.  A path that has
not been heard of for half its time gives way to an equal one.

`changed` prefixes await a triggered update.  No I/O, no clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from vrouter.net.address import Address, Prefix
from vrouter.wire.rip.packet import INFINITY

MAX_ROWS: Final = 100_000
_SCAN: Final = 1e-5  # seconds between two looks for what has expired, for each row


@dataclass(frozen=True, slots=True)
class Heard:
    """What a neighbor has said of a prefix."""

    metric: int
    tag: int
    next_hop: Address | None


@dataclass(slots=True)
class Path:
    """A way to a prefix.  The metric includes the cost of the interface."""

    interface: str
    neighbor: Address  # who says so
    gateway: Address  # where packets go
    heard: Heard
    metric: int
    tag: int
    expires: float = 0.0


@dataclass(frozen=True, slots=True)
class Own:
    """What we announce of ourselves: a network of an interface, or another protocol's route."""

    kind: str  # connected, default, or the protocol's name
    metric: int
    tag: int = 0
    interface: str = ""
    next_hop: Address | None = None  # on that interface
    preference: int = 0  # of the other protocol's route


@dataclass(slots=True)
class Row:
    """All about a prefix."""

    prefix: Prefix
    own: Own | None = None
    paths: list[Path] = field(default_factory=list)
    garbage_at: float | None = None
    last_interface: str = ""  # of the path that was lost

    @property
    def metric(self) -> int:
        """Give what we announce, split horizon aside."""
        if self.own is not None:
            return self.own.metric
        return self.paths[0].metric if self.paths else INFINITY

    @property
    def tag(self) -> int:
        """Give the route tag that goes with it."""
        if self.own is not None:
            return self.own.tag
        return self.paths[0].tag if self.paths else 0

    def usable(self, preference: int) -> bool:
        """Tell whether the paths are for the RIB, which gives them this preference.

        They are not beside networks of ours.  Beside other protocols' routes the RIB judges.  But where it would choose
        the path, and so end what we announce, and the tag says that it is the same external route (RFC 2453 section
        4.2), the path has to be shorter: else routers that redistribute the route could come to follow each other in a
        circle, and count to infinity.
        """
        if self.own is None or not self.paths:
            return bool(self.paths)
        if self.own.kind in {"connected", "default"}:
            return False
        path = self.paths[0]
        same = path.tag == self.own.tag != 0
        return not same or self.own.preference <= preference or path.metric < self.own.metric

    def learned_on(self, interface: str) -> bool:
        """Tell whether the interface is where the route comes from: split horizon applies."""
        if self.own is not None:
            return False
        if self.paths:
            return any(path.interface == interface for path in self.paths)
        return bool(interface) and self.last_interface == interface


class Table:
    """All rows.  `touched` gathers prefixes whose ways may have changed, `changed` those to be announced."""

    def __init__(self) -> None:
        self.rows: dict[Prefix, Row] = {}
        self.changed: set[Prefix] = set()
        self.touched: set[Prefix] = set()
        self.limit = 1  # paths of a prefix
        self.timeout = 180.0
        self.garbage = 120.0
        self._due = math.inf  # nothing expires before

    @property
    def due(self) -> float:
        """Give when `expire` may have something to do."""
        return self._due

    def learn(self, prefix: Prefix, path: Path, now: float) -> bool:
        """Take what a neighbor says; tells whether there is room for it."""
        row = self.rows.get(prefix)
        if row is None:
            if path.metric >= INFINITY:
                return True
            if len(self.rows) >= MAX_ROWS:
                return False
            row = self.rows[prefix] = Row(prefix)
        path.expires = now + self.timeout
        known = next((one for one in row.paths if _same_way(one, path)), None)
        if known is not None:
            self._hear_again(row, known, path, now)
        elif path.metric < INFINITY:
            self._hear_new(row, path, now)
        if row.paths:
            self._due = min(self._due, path.expires)
        return True

    def set_own(self, prefix: Prefix, own: Own | None, now: float) -> None:
        """Announce a prefix of ourselves, in another way, or no longer."""
        row = self.rows.get(prefix)
        if own is None:
            if row is None or row.own is None:
                return
            before, row.own = row.metric, None
            row.last_interface = ""
            self._settle(row, before, now)
        else:
            if row is None:
                row = self.rows[prefix] = Row(prefix)
            if row.own == own:
                return
            row.own = own
            row.garbage_at = None
        self.changed.add(prefix)
        self.touched.add(prefix)

    def forget(self, now: float, interface: str, neighbor: Address | None = None) -> None:
        """Lose all paths over an interface, or those of one neighbor there."""
        for row in self.rows.values():
            lost = [one for one in row.paths if one.interface == interface and neighbor in {None, one.neighbor}]
            for path in lost:
                self._lose(row, path, now)

    def clear(self) -> None:
        """Lose all paths without a word to anybody, to hear them anew."""
        for row in list(self.rows.values()):
            row.paths.clear()
            self.touched.add(row.prefix)
            if row.own is None:
                del self.rows[row.prefix]
                self.changed.discard(row.prefix)

    def expire(self, now: float) -> None:
        """Lose paths that were not heard of in time, and drop rows that have been unreachable for long enough."""
        if now < self._due:
            return
        self._due = math.inf
        for row in list(self.rows.values()):
            for path in [one for one in row.paths if one.expires <= now]:
                self._lose(row, path, now)
            if row.garbage_at is not None and row.garbage_at <= now:
                del self.rows[row.prefix]
                self.changed.discard(row.prefix)
                continue
            self._due = min(self._due, row.garbage_at or math.inf, *(one.expires for one in row.paths))
        # Rows that end one shortly after the other end together: each look costs time for all rows.
        self._due = max(self._due, now + len(self.rows) * _SCAN)

    def reconsider(self, row: Row, now: float) -> None:
        """Put a row in order whose paths' metrics were changed from outside."""
        before = row.metric
        usable = [one for one in row.paths if one.metric < INFINITY]
        if row.paths and not usable:
            row.last_interface = row.paths[0].interface
        best = min((one.metric for one in usable), default=INFINITY)
        row.paths = [one for one in usable if one.metric == best][: self.limit]
        self._settle(row, before, now)

    def sorted_rows(self, prefixes: set[Prefix] | None = None) -> Iterator[Row]:
        """Give all rows, or those of some prefixes, in the order of prefixes."""
        for prefix in sorted(self.rows if prefixes is None else prefixes):
            row = self.rows.get(prefix)
            if row is not None:
                yield row

    def _hear_again(self, row: Row, known: Path, path: Path, now: float) -> None:
        """Take what the neighbor of a path says now: RFC 2453 asks to believe it, be it better or worse."""
        if path.metric >= INFINITY:
            self._lose(row, known, now)
            return
        best = min(one.metric for one in row.paths)
        told, heard = (row.metric, row.tag), (row.paths[0].metric, row.paths[0].tag)
        if path.metric > best and len(row.paths) > 1:
            row.paths.remove(known)
        elif path.metric < best:
            row.paths = [path]
        else:
            row.paths[row.paths.index(known)] = path
        first = row.paths[0]
        if known.gateway != path.gateway or (first.metric, first.tag) != heard or path.metric > best:
            self.touched.add(row.prefix)
        if (row.metric, row.tag) != told:
            self.changed.add(row.prefix)

    def _hear_new(self, row: Row, path: Path, now: float) -> None:
        """Take a path of a neighbor that had none to this prefix."""
        best = min((one.metric for one in row.paths), default=INFINITY)
        if path.metric > best:
            return
        if path.metric < best:
            row.paths = [path]
            row.garbage_at = None
            if row.own is None:
                self.changed.add(row.prefix)
        elif len(row.paths) < self.limit:
            row.paths.append(path)
        else:
            oldest = min(row.paths, key=lambda one: one.expires)
            if oldest.expires - now > self.timeout / 2:
                return
            row.paths[row.paths.index(oldest)] = path
        self.touched.add(row.prefix)

    def _lose(self, row: Row, path: Path, now: float) -> None:
        before = row.metric
        row.paths.remove(path)
        row.last_interface = path.interface
        self._settle(row, before, now)

    def _settle(self, row: Row, before: int, now: float) -> None:
        """Mark a row after a loss, and start its end when nothing is left."""
        self.touched.add(row.prefix)
        if row.metric != before:
            self.changed.add(row.prefix)
        if row.own is None and not row.paths and row.garbage_at is None:
            row.garbage_at = now + self.garbage
            self._due = min(self._due, row.garbage_at)


def _same_way(one: Path, other: Path) -> bool:
    return one.interface == other.interface and one.neighbor == other.neighbor
