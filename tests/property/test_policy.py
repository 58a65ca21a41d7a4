"""Route policies: the C interpreter gives the answers of the Python evaluator, and both those of simpler models."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.property.policy_harness import Interpreter
from vrouter.config.as_path import ALPHABET, compile_pattern, path_text
from vrouter.config.constraints import InvalidError
from vrouter.config.policy import Actions, Conditions, Policy, Term
from vrouter.config.policy_text import PrefixRange, prefix_range
from vrouter.net.address import BITS, Address, Prefix, mask
from vrouter.rib.policy import PolicySet
from vrouter.rib.prefix_table import PrefixTable
from vrouter.rib.route import Protocol
from vrouter.rib.route_view import RouteView

SMALL = st.integers(0, 3)
NUMBER = st.one_of(SMALL, st.integers(0, 2**32 - 1), st.just(2**32 - 1))


def tuples(each: st.SearchStrategy[Any], largest: int = 3) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(each, max_size=largest).map(tuple)


@st.composite
def prefixes(draw: st.DrawFn) -> Prefix:
    """Few values at all lengths, so that they lie in each other."""
    family = draw(st.sampled_from([4, 6]))
    bits = BITS[family]
    value = draw(st.sampled_from([0, 10, 0xC0, 0xFF])) << (bits - 8) | draw(SMALL) << (bits - 18) | draw(SMALL)
    length = draw(st.one_of(st.integers(0, bits), st.sampled_from([0, 8, 16, 18, 24, bits])))
    return Prefix(family, value & mask(family, length), length)


@st.composite
def ranges(draw: st.DrawFn) -> str:
    prefix = draw(prefixes())
    low, high = sorted(draw(st.tuples(*[st.integers(prefix.length, BITS[prefix.family])] * 2)))
    text = draw(
        st.sampled_from([f"{prefix}", f"{prefix} ge {low}", f"{prefix} le {high}", f"{prefix} ge {low} le {high}"])
    )
    return PrefixRange().parse(text)


spans = tuples(st.tuples(NUMBER, NUMBER).map(lambda pair: tuple(sorted(pair))), 2)
community = st.builds("{}:{}".format, SMALL, SMALL)
large = st.builds("{}:{}:{}".format, SMALL, SMALL, SMALL)
extended = st.one_of(
    st.builds("rt:{}:{}".format, SMALL, SMALL),
    st.builds("soo:{}:{}".format, st.just(70000), SMALL),
    st.just("0x0123456789abcdef"),
)
addresses = prefixes().map(lambda prefix: Address(prefix.family, prefix.value | 1))
places = st.one_of(addresses.map(str), prefixes().map(str))
patterns = st.sampled_from(
    ["^1_", "_2$", "^$", "_(1|2)_3", "^[0-2]+$", "{.*}", "^1( 1)*$", "4294967295", r"\(", "_1_2_"]
)
INTERFACES = ["lan", "wan", "a" * 31]


@st.composite
def conditions(draw: st.DrawFn) -> Conditions:
    possible: dict[str, st.SearchStrategy[Any]] = {
        "prefix_list": tuples(st.sampled_from(["one", "two", "empty"]), 2),
        "prefix": tuples(ranges()),
        "prefix_length": tuples(st.sampled_from([(8, 8), (0, 16), (16, 24), (32, 128)]), 2),
        "as_path": tuples(st.one_of(patterns, st.just("paths")), 2),
        "as_path_length": spans,
        "community": tuples(st.one_of(community, st.sampled_from(["1:*", "*:*", "some", "no-export"]))),
        "large_community": tuples(st.one_of(large, st.sampled_from(["1:*:2", "*:*:*"]))),
        "extended_community": tuples(st.one_of(extended, st.just("rt:1:*"))),
        "protocol": tuples(st.sampled_from(["static", "bgp", "leak"]), 2),
        "family": tuples(st.sampled_from(["ipv4", "ipv6"]), 2),
        "origin": tuples(st.sampled_from(["igp", "egp", "incomplete"]), 2),
        "next_hop": tuples(places),
        "neighbor": tuples(places),
        "interface": tuples(st.sampled_from(INTERFACES), 2),
        **dict.fromkeys(["tag", "metric", "med", "local_pref"], spans),
    }
    chosen = draw(st.sets(st.sampled_from(sorted(possible)), max_size=2))
    return Conditions(**{name: draw(possible[name]) for name in sorted(chosen)})


@st.composite
def actions(draw: st.DrawFn) -> Actions:
    adjustment = st.builds("{}{}".format, st.sampled_from(["", "+", "-"]), NUMBER)
    possible: dict[str, st.SearchStrategy[Any]] = {
        **dict.fromkeys(["local_pref", "med", "metric"], adjustment),
        "tag": NUMBER,
        "preference": st.integers(0, 255),
        "weight": st.integers(0, 65535),
        "origin": st.sampled_from(["igp", "egp", "incomplete"]),
        "next_hop": st.one_of(st.sampled_from(["self", "discard", "peer"]), addresses.map(str)),
        "prepend": tuples(st.integers(1, 2**32 - 1), 32),
        "add_community": tuples(community),
        "remove_community": tuples(st.one_of(community, st.sampled_from(["1:*", "*:2"]))),
        "set_communities": tuples(community),
        "add_large_community": tuples(large),
        "remove_large_community": tuples(st.one_of(large, st.just("*:1:*"))),
        "set_large_communities": tuples(large),
        "add_extended_community": tuples(extended),
        "remove_extended_community": tuples(st.one_of(extended, st.just("rt:2:*"))),
        "set_extended_communities": tuples(extended),
    }
    chosen = draw(st.sets(st.sampled_from(sorted(possible)), max_size=4))
    accept = draw(st.sampled_from([None, True, True, False]))
    return Actions(accept=accept, **{name: draw(possible[name]) for name in sorted(chosen)})


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    terms = tuples(st.builds(Term, if_=conditions(), then=actions()), 5)
    return Policy(
        prefix_lists={"one": draw(tuples(ranges(), 12)), "two": draw(tuples(ranges())), "empty": ()},
        as_path_lists={"paths": draw(tuples(patterns))},
        communities={"some": ("1:1", "2:*")},
        route_policies={"p": draw(terms)},
    )


path = tuples(st.tuples(st.integers(1, 4), tuples(st.sampled_from([1, 2, 3, 10, 2**32 - 1]))))
views = st.builds(
    RouteView,
    prefixes(),
    st.sampled_from(list(Protocol)),
    origin=st.one_of(st.none(), st.integers(0, 2)),
    as_path=st.one_of(st.none(), path),
    next_hop=st.one_of(st.none(), addresses),
    local_pref=st.one_of(st.none(), NUMBER),
    med=st.one_of(st.none(), NUMBER),
    communities=tuples(st.builds(lambda a, b: a << 16 | b, SMALL, SMALL), 5),
    large=tuples(st.tuples(SMALL, SMALL, SMALL), 5),
    extended=tuples(st.sampled_from([0x0002000100000001, 0x0002000200000003, 0x0123456789ABCDEF]), 5),
    tag=NUMBER,
    metric=NUMBER,
    preference=st.integers(0, 255),
    weight=st.integers(0, 65535),
    neighbor=st.one_of(st.none(), addresses),
    interface=st.sampled_from(["", *INTERFACES]),
)


@settings(max_examples=120, deadline=None)
@given(policies(), st.lists(views, min_size=1, max_size=4))
def test_the_interpreter_answers_as_the_evaluator(policy: Policy, routes: list[RouteView]) -> None:
    made = PolicySet(policy)
    number = made.number("p")
    interpreter = Interpreter(made.program(number))
    assert interpreter.looks_at_prefix == made.looks_at_prefix(number)
    for view in routes:
        verdict = made.evaluate("p", view)
        assert interpreter.evaluate(view) == verdict
        steps = made.explain("p", view)
        assert (steps[-1]["result"] == "accept") == verdict.accept
        if not made.looks_at_prefix(number):
            other = dataclasses.replace(view, prefix=Prefix(4, 0x01020000, 16))
            assert made.evaluate("p", other) == verdict


@settings(max_examples=100, deadline=None)
@given(st.lists(ranges(), max_size=25), st.lists(prefixes(), min_size=1, max_size=20))
def test_a_prefix_table_holds_what_its_entries_stand_for(texts: list[str], asked: list[Prefix]) -> None:
    entries = [prefix_range(text) for text in texts]
    table = PrefixTable(entries)
    made = PolicySet(Policy(prefix_lists={"l": tuple(texts)}, route_policies={"p": (
        Term(if_=Conditions(prefix_list=("l",)), then=Actions(accept=True)),)}))  # fmt: skip
    interpreter = Interpreter(made.program(1))
    for prefix in [*asked, *(entry[0] for entry in entries)]:
        expected = any(
            own.family == prefix.family
            and low <= prefix.length <= high
            and own.length <= prefix.length
            and prefix.value & mask(own.family, own.length) == own.value
            for own, low, high in entries
        )
        assert (prefix in table) == expected
        assert interpreter.evaluate(RouteView(prefix)).accept == expected


@settings(max_examples=200, deadline=None)
@given(st.text("012 _^$.*+?|()[]{},-\\", max_size=10), st.lists(path, min_size=1, max_size=5))
def test_patterns_match_as_regular_expressions_do(pattern: str, paths: list[Any]) -> None:
    try:
        automaton = compile_pattern(pattern)
    except InvalidError:
        return
    translated, inside, escaped = "", False, False
    for character in pattern:
        if escaped or character in "{}" or (inside and character in "[("):
            translated += re.escape(character) if not character.isdigit() else character
        elif character == "_" and not inside:
            translated += r"(?:^|$|[ ,{}()\[\]])"
        elif character != "\\":
            translated += "(?:" if character == "(" and not inside else character
        if not escaped and character in "[]":
            inside = character == "["
        escaped = character == "\\" and not escaped
    try:
        expected = re.compile(translated)
    except re.error:
        return
    for segments in paths:
        text = path_text(segments)
        assert set(text) <= set(ALPHABET)
        assert automaton.matches(text) == (expected.search(text) is not None), (pattern, translated, text)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_damaged_program_is_refused_or_harmless(data: st.DataObject) -> None:
    made = PolicySet(data.draw(policies()))
    program = bytearray(made.program(made.number("p")))
    for _ in range(data.draw(st.integers(1, 4))):
        program[data.draw(st.integers(0, len(program) - 1))] = data.draw(st.integers(0, 255))
    del program[data.draw(st.integers(0, len(program))) :]
    try:
        interpreter = Interpreter(bytes(program))
    except ValueError:
        return
    interpreter.evaluate(data.draw(views))


def test_a_large_prefix_list_is_searched_fast() -> None:
    entries = tuple(f"10.{i >> 8}.{i & 255}.0/24 le 28" for i in range(20000))
    made = PolicySet(Policy(prefix_lists={"l": entries}, route_policies={"p": (
        Term(if_=Conditions(prefix_list=("l",)), then=Actions(accept=True)),)}))  # fmt: skip
    interpreter = Interpreter(made.program(1))
    assert interpreter.evaluate(RouteView(Prefix(4, 10 << 24 | 19999 << 8, 26))).accept
    assert not interpreter.evaluate(RouteView(Prefix(4, 10 << 24 | 20000 << 8, 26))).accept


def test_numbers_stay_while_programs_do() -> None:
    def policy(**then: str) -> Policy:
        terms: dict[str, tuple[Term, ...]] = {}
        for name, value in then.items():
            terms[name] = (Term(then=Actions(accept=True, local_pref=value)),)
        return Policy(route_policies=terms)

    first = PolicySet(policy(a="1", b="2"))
    second = PolicySet(policy(b="2", a="3", c="1"), first)
    assert second.number("b") == first.number("b")
    assert second.number("a") not in {first.number("a"), first.number("b")}
    assert len({second.number(name) for name in "abc"}) == 3
    with pytest.raises(KeyError):
        second.number("d")
    with pytest.raises(ValueError, match="no prefix list 'gone'"):
        PolicySet(Policy(route_policies={"x": (Term(if_=Conditions(prefix_list=("gone",)), then=Actions()),)}))
