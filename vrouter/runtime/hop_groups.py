"""Next-hop groups of the RIB's routes: a link or a neighbor that fails moves groups, not routes.

    Route.hops and its backup --get()--> number of a group in the tables segment
    links(), neighbor() ---------------> one store for each group that leads there

A group of several hops, or with a backup, is of its own: when some of its hops fail it goes on with the others; when
all do, with the backup.  Only then are the routes judged one by one, and lead to other groups.  A group of one hop
without a backup has nothing to turn to; it is shared with whoever uses the same hop.

The backup also stands behind the hops in the segment: a forwarder that sees a link go down needs nobody to tell it.

A neighbor has failed when BFD says so (RFC 5882), for at most HOLD seconds: by then the protocols that rely on the
session have told what becomes of their routes, and the others were not to be moved.
Not supported: more than one backup behind a group.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final

from fastpath import tables
from fastpath.tables import TableWriter
from vrouter.net.address import Address
from vrouter.rib.resolver import MAX_HOPS
from vrouter.rib.route import Hop, HopKind

HOLD: Final = 10.0
MOST_OWN: Final = 1 << 14  # groups with a choice; further ones have none

Neighbor = tuple[Address, str]  # and the interface; empty: any
Hops = tuple[Hop, ...]


@dataclass(slots=True)
class _Own:
    """A group that nobody else is given."""

    number: int
    shown: tuple[Hops, Hops]  # hops and backup in the segment


class HopGroups:
    """The groups of one writer; every group that get() gives stays until sweep() finds it unused."""

    def __init__(self, writer: TableWriter, pack: Callable[[Hop], tables.Hop]) -> None:
        """Take how a hop is written: with the index of its interface."""
        self._writer = writer
        self._pack = pack
        self._own: dict[tuple[Hops, Hops], _Own] = {}
        self._shared: dict[Hops, int] = {}
        self._down: set[str] = set()
        self._silent: set[Neighbor] = set()
        self._behind = False  # some group could not be moved

    def get(self, hops: Hops, backup: Hops) -> int:
        """Give the number of the group of some hops, and of what stands in for them.

        Raises OSError when there is no room.
        """
        key = (hops, backup)
        if len(hops) == 1 and not backup:
            return self._share(hops)
        found = self._own.get(key)
        if found is not None:
            return found.number
        if len(self._own) >= MOST_OWN:
            return self._share(hops)
        shown = self._sound(*key)
        try:
            number = self._writer.group_own(*self._packed(shown))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return self._share(hops)
        self._own[key] = _Own(number, shown)
        return number

    def sweep(self) -> None:
        """Let go of groups that no route uses."""
        for hops, number in list(self._shared.items()):
            del self._shared[hops]  # what uses it keeps it, and it is found again by what it says
            self._writer.release(number)
        for key, own in list(self._own.items()):
            if not self._writer.group_used(own.number):
                del self._own[key]
                self._writer.release(own.number)

    def forget(self, interfaces: Collection[str]) -> None:
        """Give none of the groups that lead over some interfaces again, which have gone: their indices with them."""
        for hops, number in list(self._shared.items()):
            if any(hop.interface in interfaces for hop in hops):
                del self._shared[hops]
                self._writer.release(number)
        for key, own in list(self._own.items()):
            if any(hop.interface in interfaces for part in key for hop in part):
                del self._own[key]
                self._writer.release(own.number)

    def links(self, down: Iterable[str]) -> None:
        """Take note of which interfaces cannot carry packets; OSError: not all groups could be moved."""
        self._turn(set(down), self._silent)

    def neighbor(self, neighbor: Neighbor, *, up: bool) -> None:
        """Take note that a neighbor answers, or does not; OSError as above."""
        self._turn(self._down, self._silent - {neighbor} if up else self._silent | {neighbor})

    def _turn(self, down: set[str], silent: set[Neighbor]) -> None:
        if (down, silent) == (self._down, self._silent) and not self._behind:
            return
        self._down, self._silent, self._behind = down, silent, True
        for key, own in self._own.items():
            shown = self._sound(*key)
            if shown != own.shown:
                self._writer.group_set(own.number, *self._packed(shown))
                own.shown = shown
        self._behind = False

    def _sound(self, hops: Hops, backup: Hops) -> tuple[Hops, Hops]:
        """Give what a group leads to now: without any sound hop it stays what it is, and its routes are judged."""
        if not self._down and not self._silent:
            return hops, backup
        left = tuple(hop for hop in hops if self._answers(hop))
        behind = tuple(hop for hop in backup if self._answers(hop))
        if left:
            return left, behind
        return (behind, ()) if behind else (hops, backup)

    def _answers(self, hop: Hop) -> bool:
        if hop.kind not in {HopKind.FORWARD, HopKind.CONNECTED}:
            return True
        if hop.interface in self._down:
            return False
        via = hop.via
        return via is None or not ({(via, hop.interface), (via, "")} & self._silent)

    def _share(self, hops: Hops) -> int:
        number = self._shared.get(hops)
        if number is None:
            number = self._shared[hops] = self._writer.group([self._pack(hop) for hop in hops])
        return number

    def _packed(self, shown: tuple[Hops, Hops]) -> tuple[list[tables.Hop], list[tables.Hop]]:
        hops, backup = ([self._pack(hop) for hop in part] for part in shown)
        return hops, backup[: MAX_HOPS - len(hops)]
