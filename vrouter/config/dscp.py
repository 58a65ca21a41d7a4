"""Differentiated services code points by their names (RFC 2474, RFC 2597, RFC 3246, RFC 4594, RFC 5865, RFC 8622)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from vrouter.config.constraints import InvalidError, clip

DSCP_COUNT: Final = 64
NAMES: Final = {
    "default": 0,
    "le": 1,
    **{f"cs{precedence}": 8 * precedence for precedence in range(8)},
    **{f"af{of}{drop}": 8 * of + 2 * drop for of in range(1, 5) for drop in range(1, 4)},
    "va": 44,
    "ef": 46,
}
_TEXT: Final = {value: name for name, value in NAMES.items() if name != "default"}
_PATTERN: Final = "|".join(NAMES) + "|[0-9]{1,2}"


def dscp_text(value: int) -> str:
    """Give the usual name of a code point, or its number."""
    return _TEXT.get(value, str(value))


@dataclass(frozen=True)
class Dscp:
    """A code point: a name, or a number from 0 to 63."""

    def parse(self, text: str) -> int:
        """Give the number."""
        word = text.lower()
        if word in NAMES:
            return NAMES[word]
        if word.isascii() and word.isdigit() and len(word) <= 3 and int(word) < DSCP_COUNT:
            return int(word)
        raise InvalidError(
            f"'{clip(text)}' is no DSCP", "cs0 to cs7, af11 to af43, ef, va, le, default, or a number from 0 to 63"
        )

    def json_schema(self) -> dict[str, Any]:
        """Describe it."""
        number = {"type": "integer", "minimum": 0, "maximum": DSCP_COUNT - 1}
        return {"anyOf": [number, {"type": "string", "pattern": f"^({_PATTERN})$"}]}


@dataclass(frozen=True)
class DscpChange:
    """What a code point becomes, "af41=cs3"; one alone, "cs1", is what all others become."""

    def parse(self, text: str) -> tuple[int, int]:
        """Give (from, to); from is -1 for all others."""
        before, equals, after = text.partition("=")
        code = Dscp()
        return (code.parse(before.strip()), code.parse(after.strip())) if equals else (-1, code.parse(text))

    def json_schema(self) -> dict[str, Any]:
        """Describe it."""
        number = {"type": "integer", "minimum": 0, "maximum": DSCP_COUNT - 1}
        return {"anyOf": [number, {"type": "string", "pattern": f"^(({_PATTERN})=)?({_PATTERN})$"}]}


def dscp_map(changes: tuple[tuple[int, int], ...]) -> bytes:
    """Give what each of the 64 code points becomes; the first that names it decides."""
    rest = next((after for before, after in changes if before < 0), None)
    given = {before: after for before, after in reversed(changes) if before >= 0}
    return bytes(given.get(code, code if rest is None else rest) for code in range(DSCP_COUNT))
