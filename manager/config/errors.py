"""Errors in configuration files: where, what, and how to put it right.

    conf/vr/red.yaml:7:9: error: unknown key 'addreses'
          7 |         addreses: [10.0.0.1/24]
            |         ^^^^^^^^
            = help: did you mean 'addresses'?

Lines and columns count from 1, columns in characters.  An error about a whole directory has line 0
and is printed without a position.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

MAX_ERRORS: Final = 200  # a file of another kind, read by mistake, would give one for each line
_WINDOW: Final = 160  # characters of a source line that are shown


@dataclass(frozen=True)
class Mark:
    """A place in a file: `length` characters from line and column on, both counted from 1."""

    file: str
    line: int
    column: int
    length: int = 1

    def __str__(self) -> str:
        """Give "FILE:LINE", as plans print it."""
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, order=True)
class ConfigError:
    """One error; they sort by place."""

    file: str
    line: int
    column: int
    message: str
    help: str = ""
    length: int = 1
    source: str = ""  # the text of the line

    def as_data(self) -> dict[str, Any]:
        """Give plain data for JSON."""
        return {
            "file": self.file,
            "line": self.line,
            "column": self.column,
            "severity": "error",
            "message": self.message,
            "help": self.help,
        }


Format = Literal["text", "json", "gcc"]


def render(errors: Iterable[ConfigError], form: Format = "text") -> str:
    """Print errors: for people, as JSON, or a line for each as compilers do."""
    chosen = list(errors)
    if form == "json":
        return json.dumps([error.as_data() for error in chosen], indent=2) + "\n"
    if form == "gcc":
        return "".join(f"{_headline(error)}\n" for error in chosen)
    return "".join(_render_text(error) for error in chosen)


def limited(errors: list[ConfigError]) -> list[ConfigError]:
    """Sort errors, drop repeated ones, and cut a flood short."""
    ordered = sorted(set(errors))
    if len(ordered) <= MAX_ERRORS:
        return ordered
    last = ordered[MAX_ERRORS]
    more = ConfigError(last.file, last.line, last.column, f"{len(ordered) - MAX_ERRORS} more errors from here on")
    return [*ordered[:MAX_ERRORS], more]


def _headline(error: ConfigError) -> str:
    place = f"{error.file}:{error.line}:{error.column}" if error.line else error.file
    return f"{place}: error: {error.message}"


def _render_text(error: ConfigError) -> str:
    lines = [_headline(error)]
    if error.line and error.source:
        lines += _render_source(error)
    if error.help:
        lines.append(f"        = help: {error.help}")
    return "\n".join(lines) + "\n"


def _render_source(error: ConfigError) -> list[str]:
    begin = error.column - 1
    cut = max(0, begin - _WINDOW // 2) if len(error.source) > _WINDOW else 0
    source = error.source[cut : cut + _WINDOW]
    begin -= cut
    length = max(1, min(error.length, len(source) - begin))
    before = sum(_cells(character) for character in source[:begin])
    under = max(1, sum(_cells(character) for character in source[begin : begin + length]))
    return [
        f"{error.line:7} | {''.join(map(_printable, source))}",
        f"        | {' ' * before}{'^' * under}",
    ]


def _printable(character: str) -> str:
    if character == "\t":
        return " "
    return character if character.isprintable() else "\N{REPLACEMENT CHARACTER}"


def _cells(character: str) -> int:
    """Give the columns that a terminal uses for a character."""
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
