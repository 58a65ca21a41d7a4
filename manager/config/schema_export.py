"""JSON Schema for editors (conf/schema.json) and the reference page (docs/configuration.md).

    python -m manager.config.schema_export           writes both
    python -m manager.config.schema_export --check   tells by exit status 1 that one is out of date

An editor with a YAML language server takes the schema from the first line of a file:
`# yaml-language-server: $schema=schema.json`.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from manager.config.model import Field, Leaf, Map, Model, Sequence, Struct, Words, model
from manager.config.plan import plain

ROOT: Final = Path(__file__).resolve().parents[2]
SCHEMA_FILE: Final = ROOT / "conf" / "schema.json"
PAGE_FILE: Final = ROOT / "docs" / "configuration.md"
# What the section of a struct is called, by the name of its class; without an entry, by where it stands first.
_TITLES: Final = {
    "Config": "Top level",
    "Defaults": "`defaults`",
    "Relaying": "`rsock`",
    "Router": "`routers.NAME`",
    "Interface": "`routers.NAME.interfaces.NAME`",
    "Hop": "`routers.NAME.static.PREFIX`",
    "Dns": "`routers.NAME.dns`",
    "Rsock": "`routers.NAME.rsock`",
    "Rule": "`routers.NAME.rsock.rules[]`",
    "SharedRsock": "`defaults.rsock`",
    "SharedRule": "`defaults.rsock.rules[]`",
    "Quotas": "`quotas`",
    "Policy": "`policy`, `routers.NAME.policy`",
    "Term": "`policy.route-policies.NAME[]`",
    "Conditions": "`policy.route-policies.NAME[].if`",
    "Actions": "`policy.route-policies.NAME[].then`",
    "Bfd": "`bfd` of a neighbor",
    "BfdKey": "`bfd.authentication`",
    "BfdSessions": "`routers.NAME.bfd`",
    "BfdSession": "`routers.NAME.bfd.sessions.NAME`",
}
_INTRODUCTION: Final = """\
# Configuration

Every `*.yaml` file of the configuration directory is read, subdirectories included; `secrets/` is apart. The
files are joined: a router may be spread over several of them, but a key may be defined once. Values are typed by
the schema, not by YAML: `mac: 10:20:30:40:50:10` is a MAC address, and `no` is a word.

`vr check` reads the files and prints every error with its place, `vr plan` shows what would change, `vr apply`
changes it. `conf/schema.json` is the same schema for editors. What cannot be read, a file or a folder, is an error:
the configuration that runs stays.

*Impact* is what a change disturbs: `none`, `live` (in place), `soft` (routes are announced again), `session` (a
protocol session is reset), `link` (the interface goes down and comes back), `vr-restart`, `box`; each includes those
before it.

"""


def json_schema() -> dict[str, Any]:
    """Give the JSON Schema of a whole configuration."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Anabranch configuration",
        **_describe(model()),
    }


def page() -> str:
    """Give the reference page."""
    return _INTRODUCTION + "\n".join(_sections(model()))


def _describe(described: Model) -> dict[str, Any]:
    match described:
        case Leaf(constraint):
            return constraint.json_schema()
        case Words(words):
            return {"enum": list(words)}
        case Sequence():
            return _describe_list(described)
        case Map():
            # Keys are described, not forbidden: an editor shows what is wrong with one by itself.
            names = {"propertyNames": described.key.json_schema()}
            return {"type": ["object", "null"], **names, "additionalProperties": _describe(described.item)}
        case Struct():
            return _describe_struct(described)


def _describe_list(described: Sequence) -> dict[str, Any]:
    item = _describe(described.item)
    several: dict[str, Any] = {"type": "array", "items": item}
    if described.limit is not None:
        several["maxItems"] = described.limit
    if described.all_words:
        return {"anyOf": [{"const": "all"}, several]}
    return {"anyOf": [item, several]} if described.one_or_many else several


def _describe_struct(described: Struct) -> dict[str, Any]:
    properties = {}
    for field in described.fields.values():
        entry = {**_describe(field.model), "description": field.help, "x-impact": str(field.impact)}
        default = plain(field.model, field.default)
        if default is not None and not isinstance(field.model, Struct):
            entry["default"] = default
        if field.example:
            entry["x-example"] = field.example
        properties[field.key] = entry
    result: dict[str, Any] = {"type": ["object", "null"], "properties": properties, "additionalProperties": False}
    required = [field.key for field in described.fields.values() if field.required]
    if required:
        result["type"] = "object"
        result["required"] = required
    if described.words:
        return {"anyOf": [{"enum": list(described.words)}, result]}
    if described.or_key:
        return {"anyOf": [properties[described.or_key], result]}
    return {"anyOf": [{"type": "boolean"}, result]} if described.or_boolean else result


def _sections(described: Struct, path: str = "", known: set[type] | None = None) -> Iterator[str]:
    known = set() if known is None else known
    if described.cls in known:
        return
    known.add(described.cls)
    yield f"## {_TITLES.get(described.cls.__name__, f'`{path}`')}\n"
    yield f"{inspect.getdoc(described.cls)}\n"
    yield "| key | value | default | impact | meaning |\n|---|---|---|---|---|"
    yield "\n".join(map(_row, described.fields.values())) + "\n"
    for field in described.fields.values():
        inner, place = _struct_below(field.model, f"{path}.{field.key}".lstrip("."))
        if inner is not None:
            yield from _sections(inner, place, known)


def _struct_below(described: Model, path: str) -> tuple[Struct | None, str]:
    """Give the struct that a field holds, if it does, and where it stands."""
    while isinstance(described, Map | Sequence):
        path += ".NAME" if isinstance(described, Map) else "[]"
        described = described.item
    return described if isinstance(described, Struct) else None, path


def _row(field: Field) -> str:
    default = plain(field.model, field.default)
    if field.required:
        shown = "*required*"
    elif default is None or default in ({}, []):
        shown = ""
    else:
        shown = f"`{json.dumps(default).strip(chr(34))}`"
    cells = [f"`{field.key}`", _value_text(field), shown, str(field.impact), field.help]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _value_text(field: Field) -> str:
    match field.model:
        case Words(words):
            return ", ".join(f"`{word}`" for word in words)
        case Map():
            return "map"
        case Struct():
            if field.model.or_key:
                return f"map, or its `{field.model.or_key}` alone"
            stand_for = ("true", "false") if field.model.or_boolean else tuple(field.model.words)
            return ", ".join(["map", *(f"`{word}`" for word in stand_for)])
        case Sequence() if field.model.one_or_many and not isinstance(field.model.item, Leaf | Words):
            return "map, or list of maps"
        case Sequence() if isinstance(field.model.item, Words):
            listed = ", ".join(f"`{word}`" for word in field.model.item.words)
            return f"list of {listed}" + ("; or `all`" if field.model.all_words else "")
        case Sequence():
            return f"list, as `{field.example}`" if field.example else "list"
        case _:
            described = _describe(field.model)
            if described.get("type") == "boolean":
                return "`true`, `false`"
            if described.get("type") == "integer":
                low, high = described["minimum"], described["maximum"]
                return f"{low} to {high}" if low < high else f"{low}"
            return f"as `{field.example}`" if field.example else "text"


def main(arguments: list[str]) -> int:
    """Write or compare both files."""
    wanted = {SCHEMA_FILE: json.dumps(json_schema(), indent=2) + "\n", PAGE_FILE: page()}
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    if "--check" in arguments:
        for path in stale:
            sys.stderr.write(f"{path} is out of date: run python -m manager.config.schema_export\n")
        return 1 if stale else 0
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[path])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
