"""Writes route policies as programs for the C interpreter (fastpath/src/policy/program.h has the layout).

header | positions of prefix tables, automata | code | tables | automata        32-bit words, little-endian
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from itertools import chain
from typing import Any, Final

from vrouter.config.as_path import Automaton
from vrouter.net.address import Address
from vrouter.rib.policy_terms import Act, Mode, Op, Term, Test
from vrouter.rib.prefix_table import PrefixTable

MAGIC: Final = 0x3152_5056
_LOOKS_AT_PREFIX: Final = 1
_HEADER_WORDS: Final = 7
_NO_PARENT: Final = 0xFFFFFFFF
_FINAL: Final = 1
_ENDING: Final = 2
_ROW_STEPS: Final = 19  # beside the flags: letters, and one to fill a word
_NAME_SIZE: Final = 32
# How many words an element of a list of communities has.
_WORDS: Final = {
    Op.COMMUNITY: 1, Op.LARGE: 3, Op.EXTENDED: 2,
    Op.EDIT_COMMUNITIES: 1, Op.EDIT_LARGE: 3, Op.EDIT_EXTENDED: 2,
}  # fmt: skip
_BY_PREFIX: Final = frozenset({Op.PREFIX, Op.LENGTH, Op.FAMILY})
_BY_TABLE: Final = frozenset({Op.PREFIX, Op.NEXT_HOP, Op.NEIGHBOR})
_BY_SET: Final = frozenset({Op.PROTOCOL, Op.FAMILY, Op.ORIGIN})


def looks_at_prefix(terms: Iterable[Term]) -> bool:
    """Tell whether the answer depends on the prefix of a route."""
    return any(test.op in _BY_PREFIX for term in terms for test in term.tests)


def compile_terms(terms: tuple[Term, ...]) -> bytes:
    """Give the program of a policy."""
    writer = _Writer()
    code = list(chain.from_iterable(writer.term(term) for term in terms))
    tables, automata = list(writer.tables), list(writer.automata)
    begin = _HEADER_WORDS + len(tables) + len(automata)
    places = []
    rest: list[int] = []
    for words in chain(map(_table, tables), map(_automaton, automata)):
        places.append(begin + len(code) + len(rest))
        rest += words
    flags = _LOOKS_AT_PREFIX if looks_at_prefix(terms) else 0
    total = begin + len(code) + len(rest)
    header = [MAGIC, total, flags, len(tables), len(automata), begin, len(code)]
    return struct.pack(f"<{total}I", *header, *places, *code, *rest)


class _Writer:
    """The code of one program, and what it refers to."""

    def __init__(self) -> None:
        self.tables: dict[PrefixTable, int] = {}
        self.automata: dict[Automaton, int] = {}

    def term(self, term: Term) -> list[int]:
        """Give a term: its length, conditions, changes, what it decides."""
        code = list(chain.from_iterable(map(self._test, term.tests)))
        code += chain.from_iterable(map(self._act, term.acts))
        if term.accept is not None:
            code += _instruction(Op.ACCEPT if term.accept else Op.REJECT, [])
        return [len(code) + 1, *code]

    def _test(self, test: Test) -> list[int]:
        if test.op in _BY_TABLE:
            return _instruction(test.op, [self.tables.setdefault(each, len(self.tables)) for each in test.values])
        if test.op is Op.AS_PATH:
            return _instruction(test.op, [self.automata.setdefault(each, len(self.automata)) for each in test.values])
        if test.op in _WORDS:
            return _instruction(test.op, _patterns(test.values, _WORDS[test.op]))
        if test.op in _BY_SET:
            return _instruction(test.op, [sum(1 << value for value in test.values)])
        if test.op is Op.INTERFACE:
            names = (name.encode().ljust(_NAME_SIZE, b"\0") for name in test.values)
            return _instruction(test.op, list(struct.unpack(f"<{8 * len(test.values)}I", b"".join(names))))
        return _instruction(test.op, list(chain.from_iterable(test.values)))

    def _act(self, act: Act) -> list[int]:
        if act.op in _WORDS:
            mode, *values = act.values
            words = _WORDS[act.op]
            if mode is Mode.REMOVE:
                return _instruction(act.op, [mode, *_patterns(values, words)])
            return _instruction(act.op, [mode, *chain.from_iterable(_split(value, words) for value in values)])
        if act.op is Op.SET_NEXT_HOP:
            kind, address = act.values
            return _instruction(act.op, [kind, *_address(address)])
        return _instruction(act.op, list(act.values))


def _instruction(op: Op, operands: list[int]) -> list[int]:
    return [op | len(operands) << 8, *operands]


def _split(value: int, words: int) -> list[int]:
    """Give a number as words, the most significant first."""
    return [value >> 32 * (words - 1 - i) & 0xFFFFFFFF for i in range(words)]


def _patterns(values: Iterable[tuple[int, int]], words: int) -> list[int]:
    return list(chain.from_iterable(_split(part, words) for pair in values for part in pair))


def _address(address: Address | None) -> list[int]:
    """Give the family and four words; an IPv4 address is in the first."""
    if address is None:
        return [0] * 5
    words = [address.value, 0, 0, 0] if address.family == 4 else _split(address.value, 4)
    return [address.family, *words]


def _table(table: PrefixTable) -> list[int]:
    """Give the numbers of entries of both families, then the entries: value, lengths, parent."""
    written: list[int] = []
    rows = {family: table.rows(family) for family in (4, 6)}
    for family, words in ((4, 1), (6, 4)):
        for row in rows[family]:
            lengths = row.prefix.length | row.low << 8 | row.high << 16
            parent = row.parent if row.parent >= 0 else _NO_PARENT
            written += [*_split(row.prefix.value, words), lengths, parent]
    return [len(rows[4]), len(rows[6]), *written]


def _automaton(automaton: Automaton) -> list[int]:
    """Give the number of states, then a row of 16-bit numbers for each: flags, and where each letter leads."""
    cells: list[Any] = []
    for steps, final, ending in zip(automaton.steps, automaton.final, automaton.ending, strict=True):
        flags = (_FINAL if final else 0) | (_ENDING if ending else 0)
        cells += [flags, *steps, *[0] * (_ROW_STEPS - len(steps))]
    packed = struct.pack(f"<{len(cells)}H", *cells)
    return [len(automaton.steps), *struct.unpack(f"<{len(cells) // 2}I", packed)]
