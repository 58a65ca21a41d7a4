"""Checks access control lists, and who refers to them.

A name stands for what the router has of its own, else for what is shared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from manager.config.crosscheck_policy import Checker
from manager.config.merge import Path_
from manager.config.validate import did_you_mean, suggest
from vrouter.config.acl import (
    ESTABLISHED,
    ICMP4,
    ICMP6,
    MAX_LISTS,
    PROTOCOLS,
    WITH_PORTS,
    AclBinding,
    AclEntry,
    DscpMarks,
)
from vrouter.config.constraints import clip
from vrouter.config.dscp import dscp_text
from vrouter.config.schema import Interface, Router

# Of one field of one list: the forwarder numbers the classes of its values by 16 bits.
MAX_FIELD_VALUES: Final = 16384
# Of one router: what the forwarder has counters and, at the worst, room for.
MAX_COUNTERS: Final = 16384
MAX_ROOM: Final = 24 << 20
_NAMES: Final = {number: name for name, number in PROTOCOLS.items()}
_SPANS: Final = ("source", "destination", "source_port", "destination_port")


def check_acls(checker: Checker) -> None:
    """Check the shared lists, those of each router, and all interfaces that name one."""
    for name, entries in checker.config.acls.items():
        _check_list(checker, ("acls", name), entries)
    for name, router in checker.config.routers.items():
        path: Path_ = ("routers", name)
        for acl, entries in router.acls.items():
            _check_list(checker, (*path, "acls", acl), entries)
        for key, interface in router.interfaces.items():
            _check_interface(checker, (*path, "interfaces", key), interface)
        _check_counters(checker, path, router)
        _check_room(checker, path, router)


def _check_interface(checker: Checker, path: Path_, interface: Interface) -> None:
    if not interface.device and not interface.patch and not interface.pcap:
        for key, value in (("acl", interface.acl), ("rpf", interface.rpf), ("dscp", interface.dscp)):
            if value is not None:
                checker.note_key(
                    (*path, key), f"'{key}' does not go with a loopback", "no packet comes in or leaves there"
                )
    if interface.acl is not None:
        _check_binding(checker, (*path, "acl"), interface.acl)
    if interface.dscp is not None:
        _check_marks(checker, (*path, "dscp"), interface.dscp)


def _check_binding(checker: Checker, path: Path_, binding: AclBinding) -> None:
    for key, name in (("in", binding.in_), ("out", binding.out)):
        if name is None:
            continue
        shared, own = checker.marks.keys(("acls",)), checker.marks.keys((*path[:2], "acls"))
        if name in shared or name in own or checker.marks.incomplete:
            continue
        known = [clip(each) for each in dict.fromkeys([*own, *shared])]
        near = did_you_mean(suggest(name, known))
        there = f"there is: {', '.join(known[:8])}" if known else "none is written under 'acls:'"
        checker.note((*path, key), f"no ACL '{name}'", near + there)


def _check_marks(checker: Checker, path: Path_, marks: DscpMarks) -> None:
    for key, changes in (("in", marks.in_), ("out", marks.out)):
        seen: set[int] = set()
        for place, (before, _after) in enumerate(changes):
            if before in seen:
                what = "all others become" if before < 0 else f"{dscp_text(before)} becomes"
                checker.note((*path, key, place), f"it is said already what {what}")
            seen.add(before)


def _check_list(checker: Checker, path: Path_, entries: Sequence[AclEntry]) -> None:
    names: set[str] = set()
    for place, entry in enumerate(entries):
        here: Path_ = (*path, place)
        if entry.name is not None and entry.name in names:
            checker.note((*here, "name"), f"an entry before has the name '{entry.name}'")
        names.add(entry.name or "")
        _check_transport(checker, here, entry)
        _check_families(checker, here, entry)
        if entry.set_dscp is not None and entry.action != "permit":
            checker.note((*here, "set-dscp"), "'set-dscp' needs 'action: permit'", "what is denied goes nowhere")
    for field in _SPANS:
        if sum(len(getattr(entry, field)) for entry in entries) > MAX_FIELD_VALUES:
            key = field.replace("_", "-")
            checker.note_key(path, f"the list has more than {MAX_FIELD_VALUES} values of '{key}'")


def _check_transport(checker: Checker, path: Path_, entry: AclEntry) -> None:
    """Check that what is asked of a transport header fits the protocol."""
    for key, wanted in (("source-port", entry.source_port), ("destination-port", entry.destination_port)):
        if wanted and (not entry.protocol or set(entry.protocol) - WITH_PORTS):
            names = ", ".join(_NAMES[number] for number in sorted(WITH_PORTS))
            checker.note_key((*path, key), f"'{key}' needs a 'protocol' that has ports", names)
    if entry.tcp_flags and entry.protocol != (PROTOCOLS["tcp"],):
        checker.note_key((*path, "tcp-flags"), "'tcp-flags' needs 'protocol: tcp'")
    if ESTABLISHED in entry.tcp_flags and len(entry.tcp_flags) > 1:
        checker.note((*path, "tcp-flags", entry.tcp_flags.index(ESTABLISHED)), f"'{ESTABLISHED}' stands alone")
    for place, word in enumerate(entry.tcp_flags):
        if word.startswith("!") and word[1:] in entry.tcp_flags:
            checker.note((*path, "tcp-flags", place), f"no packet has '{word[1:]}' both set and not set")
    if entry.icmp_type:
        _check_icmp(checker, path, entry)
    asked = [key for key, value in (
        ("source-port", entry.source_port), ("destination-port", entry.destination_port),
        ("icmp-type", entry.icmp_type), ("tcp-flags", entry.tcp_flags),
    ) if value]  # fmt: skip
    if entry.fragments and asked:
        hint = f"remove '{asked[0]}', or 'fragments'"
        checker.note_key((*path, "fragments"), "later fragments have no transport header: nothing can match", hint)


def _check_icmp(checker: Checker, path: Path_, entry: AclEntry) -> None:
    known = {PROTOCOLS["icmp"]: ICMP4, PROTOCOLS["icmpv6"]: ICMP6}
    if len(entry.protocol) != 1 or entry.protocol[0] not in known:
        checker.note_key((*path, "icmp-type"), "'icmp-type' needs 'protocol: icmp' or 'protocol: icmpv6'")
        return
    protocol = entry.protocol[0]
    for place, text in enumerate(entry.icmp_type):
        if not text[0].isdigit() and text not in known[protocol]:
            near = did_you_mean(suggest(text, known[protocol]))
            checker.note(
                (*path, "icmp-type", place),
                f"{_NAMES[protocol]} has no type '{text}'",
                near + ", ".join(known[protocol]),
            )


def _check_families(checker: Checker, path: Path_, entry: AclEntry) -> None:
    """Check that packets of some family can match."""
    possible = {"ipv4", "ipv6"}
    for key, value in (("family", entry.family), ("source", entry.source), ("destination", entry.destination)):
        if not value:
            continue
        of = {value} if isinstance(value, str) else {"ipv6" if ":" in prefix else "ipv4" for prefix in value}
        if not possible & of:
            checker.note_key((*path, key), f"'{key}' is of the other family: nothing can match")
        possible &= of
    wrong = {PROTOCOLS["icmp"]: "ipv6", PROTOCOLS["icmpv6"]: "ipv4"}
    for place, number in enumerate(entry.protocol):
        if possible == {wrong.get(number)}:
            right = "icmpv6" if number == PROTOCOLS["icmp"] else "icmp"
            checker.note((*path, "protocol", place), f"{_NAMES[number]} is not of this family", f"write '{right}'")


def _check_counters(checker: Checker, path: Path_, router: Router) -> None:
    for place, prefix in enumerate(router.counters):
        if prefix in router.counters[:place]:
            checker.note((*path, "counters", place), f"{prefix} stands here already")


def _check_room(checker: Checker, path: Path_, router: Router) -> None:
    """Check that the lists that are bound, compiled, are not more than the forwarder takes."""
    known: Mapping[str, Sequence[AclEntry]] = {**checker.config.acls, **router.acls}
    bound = {
        name
        for interface in router.interfaces.values()
        if interface.acl is not None
        for name in (interface.acl.in_, interface.acl.out)
        if name in known
    }
    counted = sum(len(known[str(name)]) + 1 for name in bound) + len(router.counters)
    room = sum(_room(known[str(name)]) for name in bound)
    if counted > MAX_COUNTERS or room > MAX_ROOM or len(bound) > MAX_LISTS:
        what = f"{len(bound)} lists with {counted} entries, ends and counted prefixes"
        hint = f"at most {MAX_LISTS} lists, {MAX_COUNTERS} entries and {MAX_ROOM >> 20} MiB of compiled tables"
        checker.note_key((*path, "interfaces"), f"the interfaces of the router have {what}", hint)


def _room(entries: Sequence[AclEntry]) -> int:
    """Give the bytes that the compiled form has at most: a row of bits for each interval of each field."""
    row = 8 * (1 + -(-len(entries) // 64)) + 16
    intervals = sum(2 * sum(len(getattr(entry, field)) for entry in entries) + 1 for field in _SPANS)
    return 2 * row * (intervals + 3 * 256)
