"""From a tree of texts to a typed `Config`, or to every error at once.

pydantic's engine does the walk and collects the errors; its schema is built from the descriptions of
`model.py`, so that the plain dataclasses need to know nothing of pydantic.  Of what pydantic says only
the kind and the path are used: the place comes from the tree, and the words are ours.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from pydantic_core import PydanticCustomError, SchemaValidator, ValidationError, core_schema

from manager.config.errors import ConfigError
from manager.config.merge import Marks
from manager.config.model import Leaf, Map, Model, Sequence, Struct, Words, model
from manager.config.yaml_source import Node
from vrouter.config.constraints import Constraint, InvalidError, clip
from vrouter.config.schema import Config

_SUGGESTIONS: Final = 2
_CLOSE: Final = 0.6  # difflib's ratio from which two words are alike
# In the place of what a rule must have and has wrong, so that the rest of it can be looked at.
_ANY_RULE: Final = {"app": "uid:0", "allow": "all"}
Path_ = tuple[str | int, ...]


class Validated(NamedTuple):
    """What could be typed, and what is wrong with the rest."""

    config: Config  # without the parts that have errors
    errors: list[ConfigError]
    broken: frozenset[str]  # names of the routers that miss parts, or are missing as a whole


def validate(marks: Marks) -> Validated:
    """Type the whole tree; where parts are wrong, the rest."""
    tree = _plain(marks.root)
    errors: list[ConfigError] = []
    broken: set[str] = set()
    drop = _drop_part
    while True:
        try:
            config = _validator().validate_python(tree)
        except ValidationError as error:
            lines = error.errors(include_url=False, include_input=False)
            meant = _meant(marks, lines)
            for line in lines:
                # A misspelled key that is required would else be two errors.
                if line["type"] != "missing" or line["loc"] not in meant:
                    errors.append(_explain(marks, line))
                drop(tree, line["loc"], broken)
            drop = _drop_router  # whatever is still wrong
        else:
            assert isinstance(config, Config)
            return Validated(config, errors, frozenset(broken))


def _drop_part(tree: dict[str, Any], path: Path_, broken: set[str]) -> None:
    """Take what is wrong out of the tree: an interface, a route, a value of a rule; else all of its router."""
    router = _at(tree, path[:2]) if path[0] == "routers" else None
    section = _at(router, path[2:3]) if len(path) > 3 else None
    if not isinstance(router, dict) or not isinstance(section, dict):
        _drop_router(tree, path, broken)
        return
    broken.add(str(path[1]))
    rule = _at(section, path[3:5])
    if path[2] in ("interfaces", "static"):
        section.pop(path[3], None)
    elif path[3] == "rules" and len(path) > 5 and isinstance(rule, dict):
        rule.pop(path[5], None)
        rule.update({key: value for key, value in _ANY_RULE.items() if key == path[5]})
    else:
        section.pop(path[3], None)


def _at(value: Any, path: Path_) -> Any:
    """Give what stands at `path` below a value; None: nothing does."""
    for part in path:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def _drop_router(tree: dict[str, Any], path: Path_, broken: set[str]) -> None:
    """Take the router, or the top-level key, that `path` leads to out of the tree."""
    routers = tree.get("routers")
    if path[0] == "routers" and len(path) > 1 and isinstance(routers, dict) and path[1] in routers:
        broken.add(str(path[1]))
        del routers[path[1]]
    elif path[0] != "routers" or len(path) == 1 or path[1] not in broken:
        tree.pop(str(path[0]), None)


def _plain(node: Node) -> Any:
    if isinstance(node.value, dict):
        return {key: _plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [_plain(child) for child in node.value]
    return node.value


@functools.cache
def _validator() -> SchemaValidator:
    return SchemaValidator(_schema_of(model()))


def _schema_of(described: Model) -> core_schema.CoreSchema:
    match described:
        case Leaf(constraint):
            return core_schema.no_info_plain_validator_function(_scalar(constraint.parse))
        case Words(words):
            return core_schema.no_info_plain_validator_function(_scalar(functools.partial(_word, words)))
        case Sequence():
            items = core_schema.tuple_variable_schema(_schema_of(described.item), max_length=described.limit)
            return core_schema.no_info_before_validator_function(functools.partial(_sequence, described), items)
        case Map():
            entries = core_schema.dict_schema(
                core_schema.no_info_plain_validator_function(_scalar(described.key.parse)), _schema_of(described.item)
            )
            return core_schema.no_info_before_validator_function(functools.partial(_map, described.key), entries)
        case Struct():
            before = functools.partial(_struct, described)
            return core_schema.no_info_before_validator_function(before, _dataclass_schema(described))


def _dataclass_schema(described: Struct) -> core_schema.CoreSchema:
    fields = []
    for field in described.fields.values():
        inner = _schema_of(field.model)
        if not field.required:
            inner = core_schema.with_default_schema(inner, default=field.default)
        fields.append(core_schema.dataclass_field(field.name, inner, kw_only=True, validation_alias=field.key))
    arguments = core_schema.dataclass_args_schema(described.cls.__name__, fields, extra_behavior="forbid")
    return core_schema.dataclass_schema(
        described.cls, arguments, [field.name for field in described.fields.values()], frozen=True
    )


def _refuse(kind: str, message: str, hint: str = "", **context: Any) -> PydanticCustomError:
    # The text travels in the context: pydantic would take braces in the message for fields.
    return PydanticCustomError(kind, "refused", {"message": message, "help": hint, **context})


def _scalar(parse: Callable[[str], Any]) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if value is None:
            raise _refuse("empty", "a value is missing")
        if not isinstance(value, str):
            raise _refuse("scalar", f"one value is expected here, not a {'map' if isinstance(value, dict) else 'list'}")
        try:
            return parse(value)
        except InvalidError as error:
            raise _refuse("invalid", error.message, error.help) from None

    return check


def _word(words: tuple[str, ...], text: str) -> str:
    if text in words:
        return text
    near = suggest(text, words)
    allowed = f"allowed here: {', '.join(words)}"
    raise InvalidError(f"'{clip(text)}' is not allowed here", f"{did_you_mean(near)}{allowed}")


def _sequence(described: Sequence, value: Any) -> Any:
    if isinstance(value, list):
        return value
    if described.all_words and value == "all":
        return list(described.all_words)
    scalars = isinstance(described.item, Leaf | Words)
    if described.one_or_many and (isinstance(value, str) if scalars else value is None or isinstance(value, dict)):
        return [value]
    if described.one_or_many:
        what = "a value, or a list of values" if scalars else "a map, or a list of maps"
        raise _refuse("list", f"{what}, is expected here")
    words = "a list or 'all'" if described.all_words else "a list"
    raise _refuse("list", f"{words} is expected here", f"write [{clip(value)}]" if isinstance(value, str) else "")


def _map(key: Constraint, value: Any) -> Any:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _refuse("map", "a map is expected here", "write 'key: value' lines below it")
    seen: dict[Any, str] = {}
    for text in value:
        try:
            parsed = key.parse(text)
        except InvalidError:
            continue  # noted by the walk over the keys
        if parsed in seen:
            raise _refuse("same_key", f"'{clip(text)}' is the same as '{clip(seen[parsed])}'", key=text)
        seen[parsed] = text
    return value


def _struct(described: Struct, value: Any) -> Any:
    if value is None or (described.or_boolean and value == "true"):
        return {}
    if described.or_boolean and value == "false":
        return {"enabled": "false"}
    if described.or_key and isinstance(value, str):
        return {described.or_key: value}
    if described.words and isinstance(value, str):
        if value in described.words:
            return described.words[value]
        near = did_you_mean(suggest(value, described.words))
        allowed = f"write {', '.join(described.words)}, or a map"
        raise _refuse("map", f"'{clip(value)}' is not allowed here", near + allowed)
    if described.or_boolean and isinstance(value, str):
        near = did_you_mean(suggest(value, ("true", "false")))
        raise _refuse("map", f"'{clip(value)}' is not allowed here", near + "write true, false, or a map")
    if not isinstance(value, dict):
        raise _refuse("map", "a map is expected here", "write 'key: value' lines below it")
    return value


def _explain(marks: Marks, line: Any) -> ConfigError:
    """Put one of pydantic's errors into our words and at its place."""
    path: Path_ = line["loc"]
    context = line.get("ctx", {})
    kind = line["type"]
    if path and path[-1] == "[key]":
        return marks.error(marks.key(path[:-1]), context["message"], context["help"])
    if kind == "unexpected_keyword_argument":
        return _unknown_key(marks, path)
    if kind == "missing":
        place = marks.key(path[:-1])
        return marks.error(place, f"'{path[-1]}' is missing", _help_of(path))
    if kind == "too_long":
        return marks.error(
            marks.value(path),
            f"the list has {context['actual_length']} items",
            f"at most {context['max_length']} are allowed",
        )
    if kind == "same_key":
        return marks.error(marks.key((*path, context["key"])), context["message"])
    if "message" in context:
        return marks.error(marks.value(path), context["message"], context["help"])
    return marks.error(marks.value(path), str(line["msg"]))


def _meant(marks: Marks, lines: Iterable[Any]) -> set[Path_]:
    """Give the keys that unknown ones seem to be misspellings of."""
    unknown = (line["loc"] for line in lines if line["type"] == "unexpected_keyword_argument")
    return {(*path[:-1], near[0]) for path in unknown if (near := _near_keys(marks, path))}


def _near_keys(marks: Marks, path: Path_) -> list[str]:
    described = _model_at(path[:-1])
    assert isinstance(described, Struct)
    present = marks.node(path[:-1]).value
    # A key that stands there already is hardly the one that was meant.
    free = [key for key in described.fields if not isinstance(present, dict) or key not in present]
    return suggest(str(path[-1]), free) or suggest(str(path[-1]), described.fields)


def _unknown_key(marks: Marks, path: Path_) -> ConfigError:
    described = _model_at(path[:-1])
    assert isinstance(described, Struct)
    wrong = str(path[-1])
    allowed = list(described.fields)
    near = _near_keys(marks, path)
    return marks.error(
        marks.key(path), f"unknown key '{clip(wrong)}'", f"{did_you_mean(near)}allowed here: {', '.join(allowed)}"
    )


def _help_of(path: Path_) -> str:
    described = _model_at(path[:-1])
    field = described.fields.get(str(path[-1])) if isinstance(described, Struct) else None
    return f"{field.key}: {field.example}" if field is not None and field.example else ""


def _model_at(path: Path_) -> Model:
    """Give the description of what stands at `path`."""
    described: Model = model()
    for part in path:
        match described:
            case Struct():
                described = described.fields[str(part)].model
            case Map() | Sequence():
                described = described.item
            case _:
                break
    return described


def suggest(word: str, known: Iterable[str]) -> list[str]:
    """Give the known words that `word` may be a misspelling of, likeliest first."""
    scored = []
    for candidate in known:
        distance = _edits(word.lower().replace("_", "-"), candidate)
        ratio = difflib.SequenceMatcher(None, word, candidate).ratio()
        if distance <= 1 or (ratio >= _CLOSE and distance <= max(2, len(candidate) // 3)):
            scored.append((distance, -ratio, candidate))
    scored.sort()
    return [candidate for distance, _, candidate in scored if distance <= scored[0][0] + 1][:_SUGGESTIONS]


def did_you_mean(near: list[str]) -> str:
    """Give the question, to stand before more help."""
    return f"did you mean {' or '.join(repr(word) for word in near)}? " if near else ""


def _edits(first: str, second: str) -> int:
    """Count the letters to insert, delete, change or swap (optimal string alignment)."""
    if abs(len(first) - len(second)) > 3:
        return max(len(first), len(second))
    before: list[int] = []
    row = list(range(len(second) + 1))
    for i, left in enumerate(first, 1):
        before, last, row = row, before, [i]
        for j, right in enumerate(second, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (left != right))
            if i > 1 and j > 1 and left == second[j - 2] and first[i - 2] == right:
                cost = min(cost, last[j - 2] + 1)
            row.append(cost)
    return row[-1]
