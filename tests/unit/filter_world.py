"""A router of the harness with filters, published as control publishes them."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Any

from fastpath import filters as published
from fastpath.binding import check, ffi, lib
from fastpath.segment import KIND_TABLES, Segment
from vrouter.config import router as resolved
from vrouter.engine.outputs import Root
from vrouter.runtime.filter_sync import FilterSync, features

if TYPE_CHECKING:
    from tests.unit.harness import Router
    from vrouter.config.acl import AclEntry


class _Writer:
    """What FilterSync needs of a TableWriter."""

    def __init__(self, router: Router) -> None:
        self._router = router

    def filter(self, block: bytes) -> None:
        check(lib.table_writer_filter(self._router.writer, ffi.from_buffer(block) if block else ffi.NULL, len(block)))


class Filters:
    """The filters of a router."""

    def __init__(self, router: Router) -> None:
        self.router = router
        self.restart()

    def restart(self) -> None:
        """Begin anew, as a control that comes back."""
        with Segment(self.router.tables_fd, KIND_TABLES) as tables:
            self.sync = FilterSync(_Writer(self.router), tables)  # type: ignore[arg-type]

    def set(
        self,
        acls: dict[str, tuple[AclEntry, ...]] | None = None,
        counters: tuple[str, ...] = (),
        clears: dict[str, int] | None = None,
        **interfaces: dict[str, Any],
    ) -> None:
        """Publish; of each interface that is named, the fields `acl`, `rpf` and `dscp` of its configuration."""
        lists = acls or {}
        root = Root(
            tuple(resolved.Interface(name, "ethernet", **interfaces.get(name, {})) for name in self.router.interfaces),
            acls=lists,
            counters=counters,
            acl_clears=clears or {},
        )
        indices = {name: self.router.index(name) for name in self.router.interfaces}
        self.sync.apply(root, indices)
        for interface in root.interfaces:
            self.router.interfaces[interface.name].features = features(interface, lists, counting=bool(counters))
        self.router.publish()
        self.router.poll()

    def look(self) -> published.Filters:
        """Read what is published."""
        with Segment(self.router.tables_fd, KIND_TABLES) as tables:
            return published.published(tables)

    def hits(self, name: str) -> list[int]:
        """Give the packets of each entry of a list, and of its end."""
        found = next(each for each in self.look().lists if each.name == name)
        return [count.packets for count in published.counts(self.router.state, found.entries)]

    def counted(self) -> dict[str, tuple[int, int]]:
        """Give packets and bytes of each counted prefix."""
        entries = self.look().prefixes
        return {
            entry.text: (count.packets, count.bytes)
            for entry, count in zip(entries, published.counts(self.router.state, entries), strict=True)
        }

    def damage(self) -> None:
        """Publish a block whose checksum is wrong, as nobody should."""
        with Segment(self.router.tables_fd, KIND_TABLES) as tables:
            root = tables.integer("filter_root")
            table = tables.at("filter_table", root)
            epoch, checksum = table.integer("epoch"), table.integer("checksum")
        os.pwrite(self.router.tables_fd, struct.pack("<QQ", epoch + 1, checksum ^ 1), root)
