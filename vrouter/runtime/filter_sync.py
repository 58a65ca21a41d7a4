"""Brings the published filters in line with the configuration: lists, reverse-path checks, marks, counted prefixes.

    Root (interfaces with their bindings, lists, counted prefixes) --> one block --> tables segment
    features(interface) --> what the interface is published with, afterwards

Each entry has a counter of the state segment for as long as it stands in its list, whatever is written around it,
also across a restart: the published block says whose they are.  Another salt of a list makes all of its entries
count from 0.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from fastpath import filters as published
from fastpath.segment import Segment
from fastpath.tables import TableWriter
from vrouter.config.acl import AclEntry
from vrouter.config.dscp import dscp_map
from vrouter.config.router import Interface
from vrouter.engine.outputs import Root
from vrouter.filters.compile import Classifier, CountedPart, Counter, InterfacePart, ListPart, build, compile_list

# Constants of include/abi; a unit test compares.
MAX_COUNTERS: Final = 16384
ACL_IN: Final = 0x1
RPF: Final = 0x2
DSCP_IN: Final = 0x8
ACL_OUT: Final = 0x100
DSCP_OUT: Final = 0x200
COUNT_ROUTES: Final = 0x10000
_END: Final = "end"


class FilterSync:
    """Who publishes the filters of a VR."""

    def __init__(self, writer: TableWriter, tables: Segment, salt: Callable[[], bytes] = lambda: os.urandom(8)) -> None:
        """Take note of the counters that a predecessor has given out."""
        found = published.published(tables)
        self._writer = writer
        self._salt = salt
        self._salts = {each.name: each.salt for each in found.lists}
        self._clears: dict[str, int] = {}
        self._compiled: dict[str, tuple[tuple[AclEntry, ...], tuple[Classifier, Classifier]]] = {}
        self._published: tuple[object, ...] = ()
        self._slots: dict[int, int] = {}
        for entry in (*(entry for each in found.lists for entry in each.entries), *found.prefixes):
            self._slots[entry.identity] = entry.counter
        self._last = max(self._slots.values(), default=-1)

    def apply(self, root: Root, indices: Mapping[str, int]) -> None:
        """Publish the filters of all interfaces.  Raises OSError when there is no room, or no counter."""
        asked = (root.interfaces, root.acls, root.counters, root.acl_clears)
        # Roots come with each change of a route: the parts of one that did not change are the same objects.
        if all(new is old for new, old in zip(asked, self._published, strict=False)) and self._published:
            return
        self._published = ()
        bound = [interface for interface in root.interfaces if _is_bound(interface)]
        lists = self._parts(root, sorted({name for each in bound for name in _lists(each) if name in root.acls}))
        owners = {prefix: _identity(0, prefix, 0) for prefix in dict.fromkeys(root.counters)}
        self._assign([counter for _, _, own in lists for counter in own] + list(owners.values()))
        parts = [
            ListPart(name, self._salts[name], entries, tuple(map(self._counter, own)), self._compiled[name][1])
            for name, entries, own in lists
        ]
        interfaces = [_part(interface, indices[interface.name], root.acls) for interface in bound]
        counted = [CountedPart(prefix, self._counter(owner)) for prefix, owner in owners.items()]
        self._writer.filter(build(parts, interfaces, counted))
        self._published = asked

    def _parts(self, root: Root, names: Iterable[str]) -> list[tuple[str, tuple[AclEntry, ...], tuple[int, ...]]]:
        """Compile what is new; give each list with the owners of its counters."""
        for name, times in root.acl_clears.items():
            if times > self._clears.get(name, 0):
                self._salts.pop(name, None)
        self._clears = dict(root.acl_clears)
        found, compiled, salts = [], {}, {}
        for name in names:
            entries = root.acls[name]
            kept = self._compiled.get(name)
            compiled[name] = kept if kept and kept[0] == entries else (entries, compile_list(entries))
            salts[name] = self._salts.get(name) or int.from_bytes(self._salt(), "little")
            found.append((name, entries, tuple(_identities(salts[name], entries))))
        self._compiled, self._salts = compiled, salts
        return found

    def _counter(self, identity: int) -> Counter:
        return Counter(identity, self._slots[identity])

    def _assign(self, owners: Sequence[int]) -> None:
        """Give a counter to all who have none; one just set free is the last to be used again."""
        if len(owners) > MAX_COUNTERS:
            raise OSError(28, f"no more than {MAX_COUNTERS} entries can be counted")
        self._slots = {identity: self._slots[identity] for identity in owners if identity in self._slots}
        taken = set(self._slots.values())
        for identity in owners:
            if identity in self._slots:
                continue
            slot = (self._last + 1) % MAX_COUNTERS
            while slot in taken:
                slot = (slot + 1) % MAX_COUNTERS
            taken.add(slot)
            self._slots[identity] = self._last = slot


def features(interface: Interface, acls: Mapping[str, tuple[AclEntry, ...]], *, counting: bool) -> int:
    """Give the bits of enum interface_features that this module answers for."""
    found = COUNT_ROUTES if counting else 0
    if interface.acl is not None:
        found |= (ACL_IN if interface.acl.in_ in acls else 0) | (ACL_OUT if interface.acl.out in acls else 0)
    if interface.rpf is not None and interface.rpf.mode != "off":
        found |= RPF
    if interface.dscp is not None:
        found |= (DSCP_IN if interface.dscp.in_ else 0) | (DSCP_OUT if interface.dscp.out else 0)
    return found


def _is_bound(interface: Interface) -> bool:
    return interface.acl is not None or interface.rpf is not None or interface.dscp is not None


def _lists(interface: Interface) -> Iterator[str]:
    if interface.acl is not None:
        yield from (name for name in (interface.acl.in_, interface.acl.out) if name is not None)


def _part(interface: Interface, index: int, acls: Mapping[str, tuple[AclEntry, ...]]) -> InterfacePart:
    known = [name if name in acls else None for name in (
        (None, None) if interface.acl is None else (interface.acl.in_, interface.acl.out)
    )]  # fmt: skip
    mode, default = "off", False
    if interface.rpf is not None:
        mode = interface.rpf.mode
        default = mode == "strict" if interface.rpf.allow_default is None else interface.rpf.allow_default
    marks = interface.dscp
    return InterfacePart(
        index, known[0], known[1], mode, default,
        dscp_map(() if marks is None else marks.in_), dscp_map(() if marks is None else marks.out),
    )  # fmt: skip


def _identities(salt: int, entries: Iterable[AclEntry]) -> Iterator[int]:
    """Give who owns the counters of a list: equal entries by their order, and last the end."""
    seen: dict[AclEntry, int] = {}
    for entry in entries:
        unnamed = replace(entry, name=None)
        seen[unnamed] = seen.get(unnamed, 0) + 1
        yield _identity(salt, repr(unnamed), seen[unnamed])
    yield _identity(salt, _END, 0)


def _identity(salt: int, what: str, which: int) -> int:
    digest = hashlib.blake2b(f"{salt} {which} {what}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1
