"""Values as plain data and back, by their types."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgpack
import pytest

from vrouter.config.codec import decode, encode
from vrouter.net.address import Address, Prefix, parse_prefix


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Leaf:
    name: str
    weight: float = 1.0
    kind: Literal["a", "b", 3] = "a"
    secret: Annotated[str, "never shown"] | None = None


@dataclass(frozen=True)
class Tree:
    leaves: tuple[Leaf, ...] = ()
    by_name: dict[str, Leaf] = field(default_factory=dict)
    by_prefix: dict[Prefix, int] = field(default_factory=dict)
    pair: tuple[int, str] = (0, "")
    color: Color = Color.RED
    address: Address | None = None
    key: bytes = b""
    either: int | str = 0
    children: tuple[Tree, ...] = ()
    anything: Any = None
    names: frozenset[str] = frozenset()


FULL = Tree(
    leaves=(Leaf("x", 2.5, 3, "s"), Leaf("y")),
    by_name={"x": Leaf("x", kind="b")},
    by_prefix={parse_prefix("10.0.0.0/8"): 1, parse_prefix("2001:db8::/32"): 2},
    pair=(7, "seven"),
    color=Color.BLUE,
    address=Address(4, 1),
    key=b"\0\xff",
    either="text",
    children=(Tree(), Tree(either=5)),
    anything={"a": [1, None]},
    names=frozenset({"b", "a"}),
)


def test_values_come_back_equal_through_msgpack() -> None:
    packed: Any = msgpack.packb(encode(FULL))
    assert decode(Tree, msgpack.unpackb(packed, strict_map_key=True)) == FULL
    assert decode(Tree, {}) == Tree()
    assert encode(frozenset({"b", "a"})) == ["a", "b"], "the order of a set is no order"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ({"leaf": 1}, "has no 'leaf'"),
        ({"leaves": [{}]}, "lacks 'name'"),
        ({"leaves": [{"name": 1}]}, "leaves: name: str wanted, not int"),
        ({"leaves": [{"name": "x", "kind": "c"}]}, "one of 'a', 'b', 3"),
        ({"leaves": [{"name": "x", "kind": True}]}, "one of"),
        ({"leaves": {"name": "x"}}, "a list wanted"),
        ({"by_name": []}, ""),
        ({"by_name": 5}, "a map wanted"),
        ({"by_prefix": [[1, 2, 3]]}, "a map wanted"),
        ({"pair": [1]}, "a list of 2"),
        ({"pair": ["1", 1]}, "int wanted, not str"),
        ({"color": "green"}, "green"),
        ({"address": [4]}, "a list of 2"),
        ({"either": 1.5}, "wanted"),
        ({"either": None}, "wanted"),
        ({"key": "text"}, "bytes wanted"),
        ([], "Tree wanted"),
        (None, "Tree wanted"),
    ],
)
def test_what_is_of_another_type_is_refused(data: Any, why: str) -> None:
    if not why:
        assert decode(Tree, data) == Tree()
        return
    with pytest.raises(ValueError, match=why):
        decode(Tree, data)


def test_numbers_are_no_truth_values() -> None:
    with pytest.raises(ValueError, match="int wanted, not bool"):
        decode(Tree, {"pair": [True, "x"]})
    assert decode(Leaf, {"name": "x", "weight": 2}).weight == 2


def test_what_has_no_plain_form_is_refused() -> None:
    with pytest.raises(ValueError, match="no plain form"):
        encode(object())
