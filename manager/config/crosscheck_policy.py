"""Checks what route policies refer to, and who refers to a route policy.

A name stands for what the router has of its own, else for what is shared.  Whoever names a policy in the
schema marks it as `Name("policy name")`: all such places are found by a walk over the schema.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, Protocol

from manager.config.merge import Marks, Path_
from manager.config.model import Leaf, Map, Model, Struct, model
from manager.config.model import Sequence as List
from manager.config.validate import did_you_mean, suggest
from vrouter.config.constraints import Name, clip
from vrouter.config.policy import Actions, Conditions, Policy, merge
from vrouter.config.policy_text import KINDS, WELL_KNOWN, Kind, is_name, kind_of
from vrouter.config.schema import Config

POLICY_NAME: Final = Name("policy name")


class Checker(Protocol):
    """What `crosscheck.py` collects errors in."""

    config: Config
    marks: Marks
    broken: frozenset[str]

    def note(self, path: Path_, message: str, help_text: str = "") -> None:
        """Note an error about the value at `path`."""

    def note_key(self, path: Path_, message: str, help_text: str = "") -> None:
        """Note an error about the key at `path`."""


def check_policies(checker: Checker) -> None:
    """Check the shared policies, those of each router, and all places that name one."""
    shared = checker.config.policy
    _check_policy(checker, ("policy",), shared, shared)
    for name, router in checker.config.routers.items():
        path: Path_ = ("routers", name)
        _check_policy(checker, (*path, "policy"), router.policy, merge(shared, router.policy))
        for place, wanted in references(router, path):
            _check_name(checker, place, "route policy", wanted, "route-policies")


def references(router: Any, path: Path_) -> Iterator[tuple[Path_, str]]:
    """Give all places below a router that name a policy, with the name."""
    described = model().fields["routers"].model
    assert isinstance(described, Map)
    return _walk(described.item, router, path)


def _walk(described: Model, value: Any, path: Path_) -> Iterator[tuple[Path_, str]]:
    if value is None:
        return
    match described:
        case Leaf(constraint):
            if constraint == POLICY_NAME:
                yield path, value
        case List():
            for position, item in enumerate(value):
                yield from _walk(described.item, item, (*path, position))
        case Map():
            for key, item in value.items():
                yield from _walk(described.item, item, (*path, str(key)))
        case Struct():
            for key, field in described.fields.items():
                yield from _walk(field.model, getattr(value, field.name), (*path, key))


def _check_policy(checker: Checker, path: Path_, policy: Policy, seen: Policy) -> None:
    """Check what is written at one place; `seen` is what names there stand for."""
    for name, values in policy.communities.items():
        _check_community(checker, (*path, "communities", name), name, values)
    for name, terms in policy.route_policies.items():
        for position, term in enumerate(terms):
            here: Path_ = (*path, "route-policies", name, position)
            _check_conditions(checker, (*here, "if"), term.if_, seen)
            _check_actions(checker, (*here, "then"), term.then, seen)


def _check_community(checker: Checker, path: Path_, name: str, values: Sequence[str]) -> None:
    if name in WELL_KNOWN:
        checker.note_key(path, f"'{name}' is a well-known community, {WELL_KNOWN[name]}", "take another name")
    kinds = {kind_of(value) for value in values}
    if len(kinds) > 1:
        checker.note(path, f"'{name}' stands for communities of several kinds", "give each kind a name")
    if not values:
        checker.note_key(path, f"'{name}' stands for nothing")


def _check_conditions(checker: Checker, path: Path_, written: Conditions, seen: Policy) -> None:
    for position, name in enumerate(written.prefix_list):
        _check_name(checker, (*path, "prefix-list", position), "prefix list", name, "prefix-lists")
    for position, text in enumerate(written.as_path):
        if is_name(text):
            _check_name(checker, (*path, "as-path", position), "AS-path list", text, "as-path-lists")
    for kind in KINDS:
        _check_kind(checker, (*path, kind), getattr(written, kind.replace("-", "_")), kind, seen)


def _check_actions(checker: Checker, path: Path_, written: Actions, seen: Policy) -> None:
    for kind in KINDS:
        several = kind.replace("community", "communities")
        for key, single in ((f"add-{kind}", True), (f"remove-{kind}", False), (f"set-{several}", True)):
            values = getattr(written, key.replace("-", "_"))
            _check_kind(checker, (*path, key), values or (), kind, seen, single=single)


def _check_kind(
    checker: Checker, path: Path_, texts: Sequence[str], kind: Kind, seen: Policy, *, single: bool = False
) -> None:
    """Check names of communities: they are known, of the right kind, and, where one is set, no patterns."""
    for position, text in enumerate(texts):
        if not is_name(text):
            continue
        here = (*path, position)
        values = seen.communities.get(text)
        if values is None and text not in WELL_KNOWN:
            _check_name(checker, here, "community", text, "communities", tuple(WELL_KNOWN))
            continue
        values = values or (text,)
        actual = kind_of(values[0])
        if actual != kind:
            checker.note(here, f"'{text}' is of the kind {actual}", f"write it under '{actual}'")
        elif single and any("*" in value for value in values):
            checker.note(here, f"'{text}' stands for many", "name one that has no '*'")


def _check_name(checker: Checker, path: Path_, what: str, name: str, section: str, more: tuple[str, ...] = ()) -> None:
    """Check that a name is written in the section, here or shared; those with errors of their own are known too."""
    shared = checker.marks.keys(("policy", section))
    own = checker.marks.keys((*path[:2], "policy", section)) if path[0] == "routers" else []
    if name in shared or name in own or name in more or checker.marks.incomplete:
        return
    known = [clip(each) for each in dict.fromkeys([*own, *shared])]
    near = did_you_mean(suggest(name, [*known, *more]))
    there = f"there is: {', '.join(known[:8])}" if known else f"none is written under 'policy: {section}:'"
    checker.note(path, f"no {what} '{name}'", near + there)
