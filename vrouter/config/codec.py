"""Values as the plain data that travels in messages and recordings, and back, by their types.

    dataclass --> map of its fields         tuple, NamedTuple, frozenset --> list
    enumeration --> its value               mapping --> map, or list of pairs where keys are no strings
    number of more than 64 bits --> its bytes, the highest first

Both ends are ours, yet a manager and a control of different versions may meet while a machine is upgraded: an
unknown key or a value of another type is refused, never guessed at.  A missing key has its default.
"""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final, Literal, TypeVar, Union, get_args, get_origin

from vrouter.config.router import RouterConfig

_Value = TypeVar("_Value")
_Decoder = Callable[[Any], Any]
_NONE: Final = type(None)
_LARGE: Final = 1 << 64  # the first that msgpack has no place for
_LARGEST: Final = 16  # bytes: an IPv6 address


def to_plain(config: RouterConfig) -> dict[str, Any]:
    """Give plain data for msgpack."""
    plain: dict[str, Any] = encode(config)
    return plain


def from_plain(data: dict[str, Any]) -> RouterConfig:
    """Read plain data.  Raises ValueError when it is not a RouterConfig."""
    try:
        return decode(RouterConfig, data)
    except ValueError as error:
        raise ValueError(f"not a router configuration: {error}") from error


def encode(value: Any) -> Any:
    """Give a value as plain data."""
    if value is None or isinstance(value, bool | bytes):
        return value
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, int):
        return value if value < _LARGE else value.to_bytes(_LARGEST, "big")
    if isinstance(value, str | float):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: encode(getattr(value, name)) for name in _field_names(type(value))}
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value):
            return {str(encode(key)): encode(each) for key, each in value.items()}
        return [[encode(key), encode(each)] for key, each in value.items()]
    if isinstance(value, frozenset):
        return sorted(encode(each) for each in value)
    if isinstance(value, tuple | list):
        return [encode(each) for each in value]
    raise ValueError(f"{type(value).__name__} has no plain form")


def decode(kind: type[_Value], data: Any) -> _Value:
    """Make a value of a type from plain data.  Raises ValueError."""
    reader: Callable[[Any], _Value] = _decoder(typing.cast("Any", kind))
    return reader(data)


@cache
def _field_names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))


def _refuse(wanted: str, data: Any) -> ValueError:
    return ValueError(f"{wanted} wanted, not {type(data).__name__}")


def _scalar(kind: type, *others: type) -> _Decoder:
    kinds = (kind, *others)

    def read(data: Any) -> Any:
        if type(data) not in kinds:
            raise _refuse(kind.__name__, data)
        return data

    return read


def _integer(data: Any) -> Any:
    if type(data) is bytes and len(data) == _LARGEST:
        return int.from_bytes(data, "big")
    if type(data) is not int:
        raise _refuse("int", data)
    return data


@cache
def _decoder(kind: Any) -> _Decoder:
    """Give the reader of a type; made once."""
    if kind is Any:
        return lambda data: data
    if kind is int:
        return _integer
    if kind in {str, bool, bytes, _NONE}:
        return _scalar(kind)
    if kind is float:
        return _scalar(float, int)
    origin = get_origin(kind)
    if origin is typing.Annotated:
        return _decoder(get_args(kind)[0])
    if origin is not None:
        return _generic(origin, get_args(kind))
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return kind
    if isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return _named_tuple(kind)
    if dataclasses.is_dataclass(kind):
        return _record(kind)
    raise TypeError(f"no plain form is known of {kind!r}")


def _generic(origin: Any, arguments: tuple[Any, ...]) -> _Decoder:
    if origin is Literal:
        return _literal(arguments)
    if origin in {Union, types.UnionType}:
        return _union(arguments)
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return _sequence(tuple, arguments[0])
    if origin is tuple:
        return _fixed(arguments)
    if origin in {frozenset, list}:
        return _sequence(origin, arguments[0])
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _mapping(*arguments)
    raise TypeError(f"no plain form is known of {origin!r}")


def _literal(allowed: tuple[Any, ...]) -> _Decoder:
    def read(data: Any) -> Any:
        for value in allowed:
            if type(data) is type(value) and data == value:
                return value
        raise ValueError(f"one of {', '.join(map(repr, allowed))} wanted, not {data!r}")

    return read


def _union(kinds: tuple[Any, ...]) -> _Decoder:
    readers = [_decoder(kind) for kind in kinds if kind is not _NONE]
    optional = _NONE in kinds

    def read(data: Any) -> Any:
        if data is None and optional:
            return None
        problem = _refuse("another type", data)
        for reader in readers:
            try:
                return reader(data)
            except ValueError as error:
                problem = error
        raise problem

    return read


def _sequence(made: Callable[[Any], Any], kind: Any) -> _Decoder:
    reader = _decoder(kind)

    def read(data: Any) -> Any:
        if not isinstance(data, list | tuple):
            raise _refuse("a list", data)
        return made(map(reader, data))

    return read


def _fixed(kinds: tuple[Any, ...]) -> _Decoder:
    readers = [_decoder(kind) for kind in kinds]

    def read(data: Any) -> Any:
        if not isinstance(data, list | tuple) or len(data) != len(readers):
            raise ValueError(f"a list of {len(readers)} wanted")
        return tuple(reader(each) for reader, each in zip(readers, data, strict=True))

    return read


def _mapping(key_kind: Any, value_kind: Any) -> _Decoder:
    read_key, read_value = _decoder(key_kind), _decoder(value_kind)

    def read(data: Any) -> Any:
        if isinstance(data, Mapping):
            return {read_key(key): read_value(value) for key, value in data.items()}
        if isinstance(data, list | tuple) and all(isinstance(each, list | tuple) and len(each) == 2 for each in data):
            return {read_key(key): read_value(value) for key, value in data}
        raise _refuse("a map", data)

    return read


def _named_tuple(kind: Any) -> _Decoder:
    hints = typing.get_type_hints(kind)
    read_parts = _fixed(tuple(hints[name] for name in kind._fields))
    return lambda data: kind(*read_parts(data))


def _record(kind: Any) -> _Decoder:
    # Made when first used: a type may hold itself.
    readers: dict[str, _Decoder] = {}
    required: list[str] = []

    def prepare() -> None:
        hints = typing.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            readers[field.name] = _decoder(hints[field.name])
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                required.append(field.name)

    def read(data: Any) -> Any:
        if not readers:
            prepare()
        if not isinstance(data, Mapping):
            raise _refuse(kind.__name__, data)
        values = {}
        for name, value in data.items():
            if name not in readers:
                raise ValueError(f"{kind.__name__} has no {name!r}")
            try:
                values[name] = readers[name](value)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
        for name in required:
            if name not in values:
                raise ValueError(f"{kind.__name__} lacks {name!r}")
        return kind(**values)

    return read
