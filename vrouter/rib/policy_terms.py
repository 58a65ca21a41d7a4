"""Route policies with all names looked up: the form that the evaluator walks and the compiler writes.

config.policy.Policy --Builder--> Term (Test, Act) --policy.py-----------> Verdict
                                                   --policy_program.py---> bytes for fastpath/src/policy
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from vrouter.config import policy as schema
from vrouter.config.as_path import Automaton, compile_pattern
from vrouter.config.policy_text import KINDS, WELL_KNOWN, Kind, community, is_name, prefix_range
from vrouter.net.address import BITS, Address, Prefix, host_prefix, parse_address, parse_prefix
from vrouter.rib.prefix_table import Entry, PrefixTable
from vrouter.rib.route import Protocol

Span = tuple[int, int]


class Op(enum.IntEnum):
    """Instructions; enum policy_op of fastpath/src/policy/program.h."""

    PREFIX = 1
    LENGTH = 2
    AS_PATH = 3
    AS_PATH_LENGTH = 4
    COMMUNITY = 5
    LARGE = 6
    EXTENDED = 7
    PROTOCOL = 8
    FAMILY = 9
    ORIGIN = 10
    NEXT_HOP = 11
    NEIGHBOR = 12
    INTERFACE = 13
    TAG = 14
    METRIC = 15
    MED = 16
    LOCAL_PREF = 17
    NUMBER = 32
    EDIT_COMMUNITIES = 33
    EDIT_LARGE = 34
    EDIT_EXTENDED = 35
    PREPEND = 36
    SET_NEXT_HOP = 37
    SET_ORIGIN = 38
    ACCEPT = 39
    REJECT = 40


class Register(enum.IntEnum):
    """What NUMBER changes."""

    LOCAL_PREF = 0
    MED = 1
    METRIC = 2
    TAG = 3
    PREFERENCE = 4
    WEIGHT = 5


class Mode(enum.IntEnum):
    """How NUMBER and EDIT_... change."""

    SET = 0
    ADD = 1
    REMOVE = 2


ORIGINS: Final = ("igp", "egp", "incomplete")
NEXT_HOPS: Final = ("", "address", "self", "discard", "peer")
_FAMILIES: Final = {"ipv4": 4, "ipv6": 6}
_MATCHES: Final[dict[Kind, Op]] = {
    "community": Op.COMMUNITY,
    "large-community": Op.LARGE,
    "extended-community": Op.EXTENDED,
}
_EDITS: Final[dict[Kind, Op]] = {
    "community": Op.EDIT_COMMUNITIES,
    "large-community": Op.EDIT_LARGE,
    "extended-community": Op.EDIT_EXTENDED,
}
_SPANS: Final = {
    "prefix_length": Op.LENGTH,
    "as_path_length": Op.AS_PATH_LENGTH,
    "tag": Op.TAG,
    "metric": Op.METRIC,
    "med": Op.MED,
    "local_pref": Op.LOCAL_PREF,
}
_SETS: Final[dict[str, tuple[Op, Callable[[str], int]]]] = {
    "protocol": (Op.PROTOCOL, lambda word: Protocol[word.upper()].value),
    "family": (Op.FAMILY, lambda word: _FAMILIES[word]),
    "origin": (Op.ORIGIN, ORIGINS.index),
}


@dataclass(frozen=True)
class Test:
    """A condition: one of its values must fit.

    PREFIX, NEXT_HOP, NEIGHBOR: PrefixTables.  AS_PATH: Automatons.  Communities: (value, mask).  PROTOCOL, FAMILY,
    ORIGIN: numbers.  INTERFACE: names.  Else (first, last).
    """

    op: Op
    values: tuple[Any, ...]
    text: str  # as the operator wrote it


@dataclass(frozen=True)
class Act:
    """A change.  NUMBER: Register, Mode, value.  EDIT_...: Mode, then values, or (value, mask) to remove.

    PREPEND: AS numbers.  SET_NEXT_HOP: its place in NEXT_HOPS, and an address or None.  SET_ORIGIN: its number.
    """

    op: Op
    values: tuple[Any, ...]
    text: str


@dataclass(frozen=True)
class Term:
    """A term; `accept` None: the next one is tried."""

    name: str
    tests: tuple[Test, ...]
    acts: tuple[Act, ...]
    accept: bool | None


class Builder:
    """Makes terms from a configuration; lists that several policies use are made once."""

    def __init__(self, policy: schema.Policy, previous: Builder | None = None) -> None:
        """Make them for a policy; what one before has made of the same lists is taken over when it is needed."""
        self.policy = policy
        self.tables: dict[tuple[str, ...], PrefixTable] = {}
        self._automata: dict[str, Automaton] = {}
        self._known = dict(previous.tables) if previous is not None else {}

    def all_terms(self) -> dict[str, tuple[Term, ...]]:
        """Give the terms of all policies, and keep nothing of the builder before."""
        found = {name: self.terms(name) for name in self.policy.route_policies}
        self._known.clear()
        return found

    def terms(self, name: str) -> tuple[Term, ...]:
        """Give the terms of a policy.  Raises ValueError for a name that stands for nothing."""
        configured = self.policy.route_policies[name]
        return tuple(self._term(number, term) for number, term in enumerate(configured, 1))

    def _term(self, number: int, term: schema.Term) -> Term:
        acts = (*self._numbers(term.then), *self._lists(term.then), *self._others(term.then))
        return Term(term.name or str(number), tuple(self._tests(term.if_)), acts, term.then.accept)

    # --- conditions ---

    def _tests(self, written: schema.Conditions) -> Iterable[Test]:
        if written.prefix_list:
            tables = tuple(self._table(self._list(name)) for name in written.prefix_list)
            yield Test(Op.PREFIX, tables, _text("prefix-list", written.prefix_list))
        if written.prefix:
            yield Test(Op.PREFIX, (self._table(written.prefix),), _text("prefix", written.prefix))
        for field, op in _SPANS.items():
            spans = getattr(written, field)
            if spans:
                shown = (str(first) if first == last else f"{first}-{last}" for first, last in spans)
                yield Test(op, spans, _text(field.replace("_", "-"), shown))
        if written.as_path:
            automata = tuple(each for text in written.as_path for each in self._paths(text))
            yield Test(Op.AS_PATH, automata, _text("as-path", written.as_path))
        for kind in KINDS:
            names = getattr(written, kind.replace("-", "_"))
            if names:
                yield Test(_MATCHES[kind], tuple(self._values(names, kind)), _text(kind, names))
        for field, (op, number) in _SETS.items():
            words = getattr(written, field)
            if words:
                yield Test(op, tuple(sorted({number(word) for word in words})), _text(field, words))
        for field, op in (("next_hop", Op.NEXT_HOP), ("neighbor", Op.NEIGHBOR)):
            places = getattr(written, field)
            if places:
                table = PrefixTable(map(_addresses, places))
                yield Test(op, (table,), _text(field.replace("_", "-"), places))
        if written.interface:
            yield Test(Op.INTERFACE, written.interface, _text("interface", written.interface))

    def _list(self, name: str) -> tuple[str, ...]:
        if name not in self.policy.prefix_lists:
            raise ValueError(f"no prefix list {name!r}")
        return self.policy.prefix_lists[name]

    def _table(self, entries: tuple[str, ...]) -> PrefixTable:
        known = self.tables.get(entries)
        if known is None:
            known = self._known.get(entries) or PrefixTable(map(prefix_range, entries))
            self.tables[entries] = known
        return known

    def _paths(self, text: str) -> Iterable[Automaton]:
        patterns = self.policy.as_path_lists.get(text) if is_name(text) else (text,)
        if patterns is None:
            raise ValueError(f"no AS-path list {text!r}")
        for pattern in patterns:
            if pattern not in self._automata:
                self._automata[pattern] = compile_pattern(pattern)
            yield self._automata[pattern]

    def _values(self, texts: Iterable[str], kind: Kind) -> Iterable[tuple[int, int]]:
        for text in texts:
            named = self.policy.communities.get(text) if is_name(text) else None
            if named is not None:
                yield from (community(value, kind) for value in named)
            elif is_name(text) and text not in WELL_KNOWN:
                raise ValueError(f"no community {text!r}")
            else:
                yield community(text, kind)

    # --- changes ---

    def _numbers(self, then: schema.Actions) -> Iterable[Act]:
        for register in Register:
            field = register.name.lower()
            written = getattr(then, field)
            if written is not None:
                text = str(written)
                mode = {"+": Mode.ADD, "-": Mode.REMOVE}.get(text[0], Mode.SET)
                yield Act(Op.NUMBER, (register, mode, int(text.lstrip("+-"))), _text(field.replace("_", "-"), [text]))

    def _lists(self, then: schema.Actions) -> Iterable[Act]:
        for kind in KINDS:
            stem = kind.replace("-", "_")
            several = stem.replace("community", "communities")
            for field, mode in (
                (f"set_{several}", Mode.SET),
                (f"remove_{stem}", Mode.REMOVE),
                (f"add_{stem}", Mode.ADD),
            ):
                written = getattr(then, field)
                if written is None or (mode is not Mode.SET and not written):
                    continue
                values = tuple(self._values(written, kind))
                operands = values if mode is Mode.REMOVE else tuple(dict.fromkeys(value for value, _ in values))
                yield Act(_EDITS[kind], (mode, *operands), _text(field.replace("_", "-"), written))

    def _others(self, then: schema.Actions) -> Iterable[Act]:
        if then.prepend:
            yield Act(Op.PREPEND, then.prepend, _text("prepend", map(str, then.prepend)))
        if then.next_hop is not None:
            word = then.next_hop if then.next_hop in NEXT_HOPS else "address"
            address = parse_address(then.next_hop) if word == "address" else None
            yield Act(Op.SET_NEXT_HOP, (NEXT_HOPS.index(word), address), _text("next-hop", [then.next_hop]))
        if then.origin is not None:
            yield Act(Op.SET_ORIGIN, (ORIGINS.index(then.origin),), _text("origin", [then.origin]))


def _addresses(text: str) -> Entry:
    """Give what stands for an address, or for all addresses in a prefix."""
    prefix: Prefix = parse_prefix(text) if "/" in text else host_prefix(parse_address(text))
    bits = BITS[prefix.family]
    return prefix, bits, bits


def address_in(address: Address, tables: Iterable[PrefixTable]) -> bool:
    """Tell whether an address is in one of some tables of addresses."""
    return any(host_prefix(address) in table for table in tables)


def _text(key: str, values: Iterable[str]) -> str:
    shown = list(values)
    if len(shown) > 8:
        shown = [*shown[:8], "..."]
    return f"{key}: {shown[0] if len(shown) == 1 else '[' + ', '.join(shown) + ']'}"
