r"""Patterns over AS paths: a small dialect of regular expressions, compiled to a table that needs no backtracking.

    pattern --parse--> NFA --subsets--> Automaton: one step for each character of a path, linear in its length

A path is the text that routers print: "65001 65002 {65003,65004}", confederation segments as "(1 2)" and "[1,2]".
A pattern may match anywhere in it.

    .         any character                 ^  $      beginning, end
    _         a blank , { } ( ) [ ], or the beginning or end
    *  +  ?   repeat what stands before     |  ( )    either, group
    [0-5]     one of; [^0-5] none of        \(        the character itself

Not supported: back references, counted repeats, classes by name.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from vrouter.config.constraints import InvalidError, clip

ALPHABET: Final = "0123456789 ,{}()[]"  # all that the text of a path can hold
MAX_PATTERN: Final = 255
MAX_STATES: Final = 1000
_MAX_DEPTH: Final = 20  # of groups
_DELIMITERS: Final = frozenset(" ,{}()[]")
_BEGIN: Final = 1
_END: Final = 2
_SPECIAL: Final = "*+?|()[].^$_\\"
# Segment types of RFC 4271 section 4.3 and RFC 5065 section 3, and how their text is written.
SEGMENTS: Final = {1: ("{", ",", "}"), 2: ("", " ", ""), 3: ("(", " ", ")"), 4: ("[", ",", "]")}


@dataclass(frozen=True)
class Automaton:
    """What a pattern became: state 0 is the first, a row of `steps` has a state for each letter of ALPHABET.

    `final` states mean a match whatever follows, `ending` ones a match if the path ends there.
    """

    steps: tuple[tuple[int, ...], ...]
    final: tuple[bool, ...]
    ending: tuple[bool, ...]

    def matches(self, text: str) -> bool:
        """Tell whether a path, as text, matches."""
        state = 0
        for character in text:
            if self.final[state]:
                return True
            state = self.steps[state][ALPHABET.index(character)]
        return self.ending[state]


def path_text(segments: Iterable[tuple[int, tuple[int, ...]]]) -> str:
    """Print a path of (type, AS numbers); segments that are empty or of no known type are not seen."""
    parts = []
    for kind, numbers in segments:
        if kind in SEGMENTS and numbers:
            before, between, behind = SEGMENTS[kind]
            parts.append(before + between.join(map(str, numbers)) + behind)
    return " ".join(parts)


def compile_pattern(text: str) -> Automaton:
    """Compile a pattern.  Raises InvalidError."""
    if len(text) > MAX_PATTERN:
        raise InvalidError(f"the pattern has {len(text)} characters", f"at most {MAX_PATTERN} are allowed")
    return _determine(_Parser(text).parse())


class _Nfa:
    """States with edges that consume one of some letters, and edges that consume nothing but may need a place."""

    def __init__(self) -> None:
        self.letters: list[tuple[frozenset[str], int] | None] = []
        self.jumps: list[list[tuple[int, int]]] = []  # (needed place, target)
        self.first = self.last = 0

    def state(self) -> int:
        self.letters.append(None)
        self.jumps.append([])
        return len(self.jumps) - 1

    def closure(self, states: Iterable[int], place: int) -> frozenset[int]:
        """Give all states that are reached without a letter, at a place."""
        found = set(states)
        todo = list(found)
        while todo:
            for needed, target in self.jumps[todo.pop()]:
                if needed & ~place == 0 and target not in found:
                    found.add(target)
                    todo.append(target)
        return frozenset(found)


_Piece = tuple[int, int]  # first and last state


class _Parser:
    """One pattern, by recursive descent."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0
        self._nfa = _Nfa()

    def parse(self) -> _Nfa:
        self._nfa.first, self._nfa.last = self._either()
        if self._at < len(self._text):
            raise self._wrong("')' closes nothing")
        return self._nfa

    def _wrong(self, message: str) -> InvalidError:
        return InvalidError(f"in the pattern '{clip(self._text)}' {message}", f"at character {self._at + 1}")

    def _peek(self) -> str:
        return self._text[self._at] if self._at < len(self._text) else ""

    def _take(self) -> str:
        self._at += 1
        return self._text[self._at - 1]

    def _either(self) -> _Piece:
        branches = [self._sequence()]
        while self._peek() == "|":
            self._take()
            branches.append(self._sequence())
        if len(branches) == 1:
            return branches[0]
        first, last = self._nfa.state(), self._nfa.state()
        for begin, end in branches:
            self._jump(first, begin)
            self._jump(end, last)
        return first, last

    def _sequence(self) -> _Piece:
        first = last = self._nfa.state()
        while self._peek() not in {"", "|", ")"}:
            begin, end = self._repeated()
            self._jump(last, begin)
            last = end
        return first, last

    def _repeated(self) -> _Piece:
        begin, end = self._atom()
        sign = self._peek()
        if not sign or sign not in "*+?":
            return begin, end
        self._take()
        first, last = self._nfa.state(), self._nfa.state()
        self._jump(first, begin)
        self._jump(end, last)
        if sign != "+":
            self._jump(first, last)
        if sign != "?":
            self._jump(end, begin)
        return first, last

    def _atom(self) -> _Piece:
        character = self._take()
        if character == "(":
            return self._group()
        if character in "*+?":
            self._at -= 1
            raise self._wrong(f"'{character}' has nothing to repeat")
        first, last = self._nfa.state(), self._nfa.state()
        if character in "^$_":
            if character != "$":
                self._jump(first, last, _BEGIN)
            if character != "^":
                self._jump(first, last, _END)
            self._nfa.letters[first] = (_DELIMITERS, last) if character == "_" else None
        elif character == "[":
            self._nfa.letters[first] = (self._class(), last)
        elif character == ".":
            self._nfa.letters[first] = (frozenset(ALPHABET), last)
        else:
            self._nfa.letters[first] = (frozenset({self._plain(character)}), last)
        return first, last

    def _plain(self, character: str) -> str:
        if character == "\\":
            if not self._peek():
                raise self._wrong("'\\' stands before nothing")
            character = self._take()
            if character in _SPECIAL:
                return character
        if character not in ALPHABET:
            self._at -= 1
            raise self._wrong(f"'{clip(character)}' occurs in no AS path")
        return character

    def _group(self) -> _Piece:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise self._wrong(f"groups are nested more than {_MAX_DEPTH} deep")
        piece = self._either()
        if not self._peek():
            raise self._wrong("a ')' is missing")
        self._take()
        self._depth -= 1
        return piece

    def _class(self) -> frozenset[str]:
        negated = self._peek() == "^"
        if negated:
            self._take()
        found: set[str] = set()
        while True:
            if not self._peek():
                raise self._wrong("a ']' is missing")
            character = self._take()
            if character == "]":
                break
            first = self._plain(character)
            if self._peek() == "-" and self._text[self._at + 1 : self._at + 2] not in {"", "]"}:
                self._take()
                last = self._plain(self._take())
                if not (first.isdigit() and last.isdigit() and first <= last):
                    raise self._wrong(f"'{first}-{last}' is no range of digits")
                found.update(digit for digit in "0123456789" if first <= digit <= last)
            else:
                found.add(first)
        if not found:
            raise self._wrong("a '[]' is empty")
        return frozenset(ALPHABET) - found if negated else frozenset(found)

    def _jump(self, source: int, target: int, needed: int = 0) -> None:
        self._nfa.jumps[source].append((needed, target))


def _determine(nfa: _Nfa) -> Automaton:
    """Build the automaton whose states are sets of the NFA's; every step may also begin a match anew."""
    start = nfa.closure({nfa.first}, _BEGIN)
    again = nfa.closure({nfa.first}, 0)
    # The first state alone is at the beginning: the same set further on is another one.
    numbers: dict[tuple[frozenset[int], bool], int] = {(start, True): 0}
    order = [(start, True)]
    steps: list[tuple[int, ...]] = []
    for states, _ in order:
        row = []
        for letter in ALPHABET:
            edges = (nfa.letters[state] for state in states)
            moved = {edge[1] for edge in edges if edge is not None and letter in edge[0]}
            following = (nfa.closure(moved, 0) | again, False)
            if nfa.last in following[0]:
                following = (frozenset({nfa.last}), False)  # whatever follows, it is a match
            if following not in numbers:
                numbers[following] = len(order)
                order.append(following)
                if len(order) > MAX_STATES:
                    raise InvalidError("the pattern is too complex", "split it into several")
            row.append(numbers[following])
        steps.append(tuple(row))
    final = tuple(nfa.last in states for states, _ in order)
    places = ((states, _END | (_BEGIN if first else 0)) for states, first in order)
    ending = tuple(nfa.last in nfa.closure(states, place) for states, place in places)
    return Automaton(tuple(steps), final, ending)
