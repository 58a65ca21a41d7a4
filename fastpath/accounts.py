"""Who uses a VR's sockets, read from its state segment: what each has, has done and was denied."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

from fastpath._layout import CONSTANTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastpath.segment import Segment, View

_UID: Final = CONSTANTS["RULE_UID"]
_Z85: Final = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
# By number of enum denial.
DENIALS: Final = tuple(
    name.removeprefix("DENIAL_").lower().replace("_", "-")
    for name, _value in sorted(
        ((name, value) for name, value in CONSTANTS.items() if name.startswith("DENIAL_") and name != "DENIAL_COUNT"),
        key=lambda item: item[1],
    )
)


def z85(key: bytes) -> str:
    """Write a CURVE key as operators do (ZeroMQ RFC 32)."""
    digits = ""
    for (number,) in struct.iter_unpack(">I", key):
        digits += "".join(_Z85[number // 85**place % 85] for place in (4, 3, 2, 1, 0))
    return digits


def name(kind: int, uid: int, key: bytes) -> str:
    """Name an identity as a rule does."""
    return f"uid:{uid}" if kind == _UID else f"curve:{z85(key)}"


def accounts(state: Segment) -> dict[int, dict[str, Any]]:
    """Give the accounts of those who have anything, or were denied anything, by index."""
    shown = {index: _account(view) for index, view in _used(state)}
    return {index: account for index, account in shown.items() if account["opens"] or account["denials"]}


def _used(state: Segment) -> Iterator[tuple[int, View]]:
    return state.used("accounts", "identity", state.integer("accounts_used"))


def _account(view: View) -> dict[str, Any]:
    number = view.integer
    counted = view.integers("denials")
    return {
        "identity": name(number("identity"), number("uid"), view.octets("curve_key")),
        "connections": number("connections"),
        "memory": number("memory"),
        "opens": number("opens"),
        "accepts": number("accepts"),
        "rests": number("rests"),
        "denials": {denial: count for denial, count in zip(DENIALS, counted, strict=True) if count},
    }
