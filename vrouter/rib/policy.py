"""Route policies of a VR: evaluated here, and compiled for the bulk path.

`PolicySet.evaluate` is the executable specification; fastpath/src/policy runs `PolicySet.program` to the same
answers.  Policies have numbers, by which BGP's table knows them.  A policy that reads the same after a
change of the configuration keeps its number, so that nothing is done anew for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from vrouter.config.as_path import path_text
from vrouter.config.policy import MAX_PREPEND, Policy
from vrouter.rib.policy_program import compile_terms, looks_at_prefix
from vrouter.rib.policy_terms import NEXT_HOPS, Act, Builder, Mode, Op, Register, Term, Test, address_in
from vrouter.rib.route_view import NO_CHANGES, Changes, NextHopTo, RouteView, Verdict, prepended, route_view

__all__ = ["Changes", "NextHopTo", "PolicySet", "RouteView", "Verdict", "prepended", "route_view"]

MAX_NUMBER: Final = 65535
_MAX32: Final = 2**32 - 1
_DEFAULT_LOCAL_PREF: Final = 100  # to which is added where a route has none
# How many communities of a kind an attribute of 65,535 bytes can hold.
_ROOM: Final = {Op.EDIT_COMMUNITIES: 16383, Op.EDIT_LARGE: 5461, Op.EDIT_EXTENDED: 8191}
_LISTS: Final = {Op.EDIT_COMMUNITIES: "communities", Op.EDIT_LARGE: "large", Op.EDIT_EXTENDED: "extended"}


class PolicySet:
    """All route policies that a VR sees."""

    def __init__(self, policy: Policy | None = None, previous: PolicySet | None = None) -> None:
        """Compile all.  Raises ValueError for a policy that names what is not there."""
        policy = policy if policy is not None else Policy()
        self._builder = Builder(policy, previous.builder if previous is not None else None)
        self._terms = self._builder.all_terms()
        self._numbers: dict[str, int] = {}
        self._programs: dict[int, bytes] = {}
        self._last: int = previous.last_number if previous is not None else 0
        before = previous.programs() if previous is not None else {}
        texts = {name: compile_terms(terms) for name, terms in self._terms.items()}
        for name, text in texts.items():
            if previous is not None and name in previous and before[previous.number(name)] == text:
                self._numbers[name] = previous.number(name)
                self._programs[self._numbers[name]] = text
        taken = set(before)
        for name, text in texts.items():
            if name not in self._numbers:
                number = self._next_number(taken)
                self._numbers[name] = number
                self._programs[number] = text
        self._names = {number: name for name, number in self._numbers.items()}

    def __contains__(self, name: object) -> bool:
        """Tell whether there is a policy of this name."""
        return name in self._terms

    @property
    def names(self) -> list[str]:
        """The names of all policies."""
        return list(self._terms)

    @property
    def builder(self) -> Builder:
        """What made the terms, for a set after this one."""
        return self._builder

    @property
    def last_number(self) -> int:
        """The number that was given last, here or in a set before this one."""
        return self._last

    def terms(self, name: str) -> tuple[Term, ...]:
        """Give the terms of a policy.  Raises KeyError."""
        return self._terms[name]

    def number(self, name: str) -> int:
        """Give the number of a policy.  Raises KeyError."""
        return self._numbers[name]

    def program(self, number: int) -> bytes:
        """Give a policy for policy_load().  Raises KeyError."""
        return self._programs[number]

    def programs(self) -> dict[int, bytes]:
        """Give all of them by number."""
        return dict(self._programs)

    def looks_at_prefix(self, number: int) -> bool:
        """Tell whether the answer depends on the prefix of a route.  Raises KeyError."""
        return looks_at_prefix(self._terms[self._names[number]])

    def evaluate(self, policy: str | int, view: RouteView) -> Verdict:
        """Ask a policy, by name or number, about a route.  Raises KeyError."""
        terms = self._terms[policy if isinstance(policy, str) else self._names[policy]]
        edits = _Edits(view)
        for number, term in enumerate(terms):
            if all(_TESTS[test.op](test, view) for test in term.tests):
                edits.make(term.acts)
                if term.accept is not None:
                    return Verdict(term.accept, edits.changes() if term.accept else NO_CHANGES, number)
        return Verdict(accept=False)

    def explain(self, name: str, view: RouteView) -> list[dict[str, Any]]:
        """Tell of each term that was tried whether it held, what did not hold, and what it did.  Raises KeyError."""
        steps: list[dict[str, Any]] = []
        for term in self._terms[name]:
            failed = next((test.text for test in term.tests if not _TESTS[test.op](test, view)), None)
            does = [act.text for act in term.acts] if failed is None else []
            result = {None: "next", True: "accept", False: "reject"}[term.accept] if failed is None else "next"
            conditions = [test.text for test in term.tests]
            steps.append(
                {
                    "term": term.name,
                    "matched": failed is None,
                    "conditions": conditions,
                    "failed": failed,
                    "does": does,
                    "result": result,
                }
            )
            if result != "next":
                break
        else:
            steps.append(
                {"term": None, "matched": True, "conditions": [], "failed": None, "does": [], "result": "reject"}
            )
        return steps

    def _next_number(self, taken: set[int]) -> int:
        for _ in range(MAX_NUMBER):
            self._last = self._last % MAX_NUMBER + 1
            if self._last not in taken:
                taken.add(self._last)
                return self._last
        raise ValueError(f"more than {MAX_NUMBER} route policies")


class _Edits:
    """The changes that gather while terms are tried."""

    def __init__(self, view: RouteView) -> None:
        self._view = view
        self._values: dict[str, Any] = {}

    def make(self, acts: Iterable[Act]) -> None:
        for act in acts:
            if act.op is Op.NUMBER:
                self._number(*act.values)
            elif act.op in _LISTS:
                self._list(act)
            elif act.op is Op.PREPEND:
                self._values["prepend"] = (act.values + self._values.get("prepend", ()))[:MAX_PREPEND]
            elif act.op is Op.SET_NEXT_HOP:
                self._values["next_hop"] = NextHopTo(NEXT_HOPS[act.values[0]], act.values[1])
            else:
                self._values["origin"] = act.values[0]

    def changes(self) -> Changes:
        return Changes(**self._values) if self._values else NO_CHANGES

    def _number(self, register: Register, mode: Mode, value: int) -> None:
        name = register.name.lower()
        if mode is not Mode.SET:
            before = self._values.get(name, getattr(self._view, name))
            if before is None:
                before = _DEFAULT_LOCAL_PREF if register is Register.LOCAL_PREF else 0
            value = min(before + value, _MAX32) if mode is Mode.ADD else max(before - value, 0)
        self._values[name] = value

    def _list(self, act: Act) -> None:
        name, room = _LISTS[act.op], _ROOM[act.op]
        mode, *operands = act.values
        present = list(self._values.get(name, getattr(self._view, name)))
        if mode is Mode.REMOVE:
            present = [each for each in present if not _one_of(_joined(each), operands)]
        elif mode is Mode.SET:
            present = []
        if mode is not Mode.REMOVE:
            values = [_split(value) if act.op is Op.EDIT_LARGE else value for value in operands]
            present += [value for value in values if value not in present]
        self._values[name] = tuple(present[:room])


def _joined(value: int | tuple[int, int, int]) -> int:
    return value if isinstance(value, int) else value[0] << 64 | value[1] << 32 | value[2]


def _split(value: int) -> tuple[int, int, int]:
    return value >> 64, value >> 32 & _MAX32, value & _MAX32


def _one_of(value: int, patterns: Iterable[tuple[int, int]]) -> bool:
    return any(value & known == wanted for wanted, known in patterns)


def _within(value: int | None, spans: Iterable[tuple[int, int]]) -> bool:
    return value is not None and any(first <= value <= last for first, last in spans)


def _matches_path(test: Test, view: RouteView) -> bool:
    if view.as_path is None:
        return False
    text = path_text(view.as_path)
    return any(automaton.matches(text) for automaton in test.values)


_TESTS: Final[dict[Op, Callable[[Test, RouteView], bool]]] = {
    Op.PREFIX: lambda test, view: any(view.prefix in table for table in test.values),
    Op.LENGTH: lambda test, view: _within(view.prefix.length, test.values),
    Op.AS_PATH: _matches_path,
    Op.AS_PATH_LENGTH: lambda test, view: view.as_path is not None and _within(view.path_length(), test.values),
    Op.COMMUNITY: lambda test, view: any(_one_of(each, test.values) for each in view.communities),
    Op.LARGE: lambda test, view: any(_one_of(_joined(each), test.values) for each in view.large),
    Op.EXTENDED: lambda test, view: any(_one_of(each, test.values) for each in view.extended),
    Op.PROTOCOL: lambda test, view: view.protocol in test.values,
    Op.FAMILY: lambda test, view: view.prefix.family in test.values,
    Op.ORIGIN: lambda test, view: view.origin in test.values,
    Op.NEXT_HOP: lambda test, view: view.next_hop is not None and address_in(view.next_hop, test.values),
    Op.NEIGHBOR: lambda test, view: view.neighbor is not None and address_in(view.neighbor, test.values),
    Op.INTERFACE: lambda test, view: view.interface in test.values,
    Op.TAG: lambda test, view: _within(view.tag, test.values),
    Op.METRIC: lambda test, view: _within(view.metric, test.values),
    Op.MED: lambda test, view: _within(view.med, test.values),
    Op.LOCAL_PREF: lambda test, view: _within(view.local_pref, test.values),
}
