"""What operators ask of route policies: how they read, and what one makes of a route.

Answers are plain data, from which text is rendered elsewhere.  The route is made up from the arguments: a prefix,
and what else it is to have.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from vrouter.config.as_path import path_text
from vrouter.config.policy_text import WELL_KNOWN, Kind, community
from vrouter.net.address import parse_address, parse_prefix
from vrouter.rib.policy import NextHopTo, PolicySet, RouteView
from vrouter.rib.policy_terms import ORIGINS
from vrouter.rib.route import Protocol
from vrouter.rib.route_view import AS_SEQUENCE, AS_SET, Changes, Segments

MAX_VALUES: Final = 1000
_NAMES: Final = {value: name for name, value in ((name, community(name, "community")[0]) for name in WELL_KNOWN)}
_KINDS: Final[dict[str, Kind]] = {
    "communities": "community",
    "large": "large-community",
    "extended": "extended-community",
}


def explain(policies: PolicySet, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Try a policy on a route: {policy, prefix, protocol?, as_path?, communities?, ...}.

    Raises ValueError for arguments that make no sense.
    """
    name = str(arguments.get("policy"))
    if name not in policies:
        raise ValueError(f"no route policy {name!r}; there is: {', '.join(policies.names) or 'none'}")
    view = route_of(arguments)
    verdict = policies.evaluate(name, view)
    return {
        "policy": name,
        "route": _route(view),
        "accept": verdict.accept,
        "steps": policies.explain(name, view),
        "changes": _changes(verdict.changes),
        "result": _route(verdict.changes.apply(view)) if verdict.accept else None,
    }


def listing(policies: PolicySet, arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Give the terms of a policy, {policy}, or of all."""
    wanted = arguments.get("policy")
    if wanted is not None and wanted not in policies:
        raise ValueError(f"no route policy {str(wanted)!r}; there is: {', '.join(policies.names) or 'none'}")
    return [
        {
            "policy": name,
            "number": policies.number(name),
            "by_prefix": policies.looks_at_prefix(policies.number(name)),
            "size": len(policies.program(policies.number(name))),
            "terms": [
                {
                    "term": term.name,
                    "conditions": [test.text for test in term.tests],
                    "does": [act.text for act in term.acts],
                    "result": {None: "next", True: "accept", False: "reject"}[term.accept],
                }
                for term in policies.terms(name)
            ],
        }
        for name in policies.names
        if wanted in {None, name}
    ]


def route_of(arguments: Mapping[str, Any]) -> RouteView:
    """Make a route from texts.  Raises ValueError."""
    values: dict[str, Any] = {"prefix": parse_prefix(str(arguments.get("prefix")))}
    for field, read in _READERS.items():
        written = arguments.get(field)
        if written is not None:
            values[field] = read(written)
    for field, kind in _KINDS.items():
        written = arguments.get(field)
        if written is not None:
            values[field] = _communities(written, kind)
    return RouteView(**values)


def _number(written: Any) -> int:
    value = int(written)
    if not 0 <= value < 1 << 32:
        raise ValueError(f"{value} is not within 0 to 4294967295")
    return value


def _protocol(written: Any) -> Protocol:
    if str(written).upper() not in Protocol.__members__:
        raise ValueError(f"no protocol {str(written)!r}; there is: {', '.join(each.name.lower() for each in Protocol)}")
    return Protocol[str(written).upper()]


def _origin(written: Any) -> int:
    if written not in ORIGINS:
        raise ValueError(f"no origin {str(written)!r}; there is: {', '.join(ORIGINS)}")
    return ORIGINS.index(written)


def _path(written: Any) -> Segments:
    """Read "65001 65002 {65003,65004}"."""
    segments: list[tuple[int, tuple[int, ...]]] = []
    for word in str(written).split():
        found = re.fullmatch(r"(\{?)([0-9]{1,10}(?:,[0-9]{1,10})*)(\}?)", word)
        if found is None or (found[1] == "{") != (found[3] == "}") or (not found[1] and "," in word):
            raise ValueError(f"{word!r} is no part of an AS path")
        numbers = tuple(map(_number, found[2].split(",")))
        if not found[1] and segments and segments[-1][0] == AS_SEQUENCE:
            segments[-1] = (AS_SEQUENCE, segments[-1][1] + numbers)
        else:
            segments.append((AS_SET if found[1] else AS_SEQUENCE, numbers))
    return tuple(segments)


_READERS: Final[dict[str, Callable[[Any], Any]]] = {
    "protocol": _protocol,
    "origin": _origin,
    "as_path": _path,
    "next_hop": lambda written: parse_address(str(written)),
    "neighbor": lambda written: parse_address(str(written)),
    "interface": str,
    "local_pref": _number,
    "med": _number,
    "metric": _number,
    "tag": _number,
}


def _communities(written: Any, kind: Kind) -> tuple[Any, ...]:
    texts = str(written).split() if isinstance(written, str) else list(map(str, written))
    found: list[Any] = []
    for text in texts[:MAX_VALUES]:
        value, known = community(text.lower(), kind)
        if "*" in text:
            raise ValueError(f"{text!r} stands for many")
        del known
        found.append(
            (value >> 64, value >> 32 & 0xFFFFFFFF, value & 0xFFFFFFFF) if kind == "large-community" else value
        )
    return tuple(found)


def _route(view: RouteView) -> dict[str, Any]:
    """Give what a route has."""
    shown: dict[str, Any] = {}
    for field in dataclasses.fields(view):
        value = getattr(view, field.name)
        if field.name == "protocol" or (value is not None and value != field.default):
            shown[field.name] = _value(field.name, value)
    return shown


def _changes(changes: Changes) -> dict[str, Any]:
    values = ((field.name, getattr(changes, field.name)) for field in dataclasses.fields(changes))
    return {name: _value(name, value) for name, value in values if value is not None and value != ()} | {
        name: [] for name in _KINDS if getattr(changes, name) == ()
    }


def _value(name: str, value: Any) -> Any:
    if name in _KINDS:
        return [_community_text(name, each) for each in value]
    if name == "as_path":
        return path_text(value)
    if name == "protocol":
        return value.name.lower()
    if name == "origin":
        return ORIGINS[value]
    if isinstance(value, NextHopTo):
        return str(value.address) if value.address is not None else value.kind
    if name in {"prefix", "next_hop", "neighbor"}:
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def _community_text(field: str, value: Any) -> str:
    if field == "large":
        return ":".join(map(str, value))
    if field == "extended":
        return f"0x{value:016x}"
    return _NAMES.get(value, f"{value >> 16}:{value & 0xFFFF}")
