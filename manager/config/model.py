"""The schema as a tree of descriptions, made once from the dataclasses of `vrouter.config.schema`.

The validator, the JSON Schema, the reference page and the plan are four walks over this tree.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from vrouter.config import schema
from vrouter.config.constraints import Constraint, MaxLength, OneOrMany, OrAll, OrBoolean, OrKey, Shorthand
from vrouter.config.option import Impact


@dataclass(frozen=True)
class Leaf:
    """A scalar."""

    constraint: Constraint


@dataclass(frozen=True)
class Words:
    """A scalar that is one of some words."""

    words: tuple[str, ...]


@dataclass(frozen=True)
class Sequence:
    """A list."""

    item: Model
    limit: int | None
    one_or_many: bool  # an item alone stands for a list of one
    all_words: tuple[str, ...]  # `all` stands for these; empty: it does not


@dataclass(frozen=True)
class Map:
    """A map with keys that the operator chooses."""

    key: Constraint
    item: Model


@dataclass(frozen=True)
class Field:
    """A key of a struct."""

    name: str  # of the attribute
    key: str  # in YAML
    model: Model
    required: bool
    default: Any
    help: str
    impact: Impact
    example: str


@dataclass(frozen=True)
class Struct:
    """A map with keys that the schema names."""

    cls: type
    fields: dict[str, Field]  # by YAML key
    or_boolean: bool = False  # `true` stands for {}, `false` for {enabled: false}
    words: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)  # words that stand for a map
    or_key: str = ""  # a value alone stands for a map with this key


Model = Leaf | Words | Sequence | Map | Struct


@functools.cache
def model() -> Struct:
    """Give the description of a whole configuration."""
    return _struct(schema.Config)


def _struct(cls: type, markers: tuple[Any, ...] = ()) -> Struct:
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = {}
    for field in dataclasses.fields(cls):
        has_factory = field.default_factory is not dataclasses.MISSING
        required = field.default is dataclasses.MISSING and not has_factory
        default = None if required else {} if has_factory else field.default
        key = field.name.removesuffix("_").replace("_", "-")  # `if_` for what Python keeps to itself
        described = field.metadata
        fields[key] = Field(
            field.name,
            key,
            _model(hints[field.name]),
            required,
            default,
            described["help"],
            described["impact"],
            described["example"],
        )
    or_boolean = any(isinstance(marker, OrBoolean) for marker in markers)
    meanings = [pair for marker in markers if isinstance(marker, Shorthand) for pair in marker.meanings]
    or_key = next((marker.key for marker in markers if isinstance(marker, OrKey)), "")
    return Struct(cls, fields, or_boolean, {word: dict(pairs) for word, pairs in meanings}, or_key)


def _model(hint: Any) -> Model:
    """Describe a type of the schema; a type that nobody described is a mistake in the schema."""
    hint, markers = _unwrap(hint)
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _struct(hint, markers)
    if origin is Literal:
        return Words(typing.get_args(hint))
    if origin is dict:
        key, item = typing.get_args(hint)
        return Map(_leaf(_unwrap(key)[1]), _model(item))
    if origin is tuple and not any(hasattr(marker, "parse") for marker in markers):
        item = _model(typing.get_args(hint)[0])
        limit = next((marker.limit for marker in markers if isinstance(marker, MaxLength)), None)
        accepts_all = any(isinstance(marker, OrAll) for marker in markers)
        words = item.words if accepts_all and isinstance(item, Words) else ()
        return Sequence(item, limit, any(isinstance(marker, OneOrMany) for marker in markers), words)
    return Leaf(_leaf(markers))


def _unwrap(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """Take off `| None` and `Annotated`."""
    if typing.get_origin(hint) in {typing.Union, types.UnionType}:
        (hint,) = (part for part in typing.get_args(hint) if part is not types.NoneType)
    if typing.get_origin(hint) is Annotated:
        hint, *markers = typing.get_args(hint)
        return hint, tuple(markers)
    return hint, ()


def _leaf(markers: tuple[Any, ...]) -> Constraint:
    (constraint,) = (marker for marker in markers if hasattr(marker, "parse"))
    return typing.cast(Constraint, constraint)
