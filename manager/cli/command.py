"""What a command of `vr` is: its words, its arguments, the functions that run and render it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True)
class Argument:
    """One argument of a command; the fields are argparse's."""

    name: str  # "router", or an option: "-c --count"
    help: str
    metavar: str | None = None
    type: str = "str"  # str, int, float, flag, words (any number), rest (all that follows)
    default: Any = None
    optional: bool = False  # a positional that may be left out
    choices: tuple[str, ...] | None = None
    values: str = ""  # what completion offers: routers, interfaces

    @property
    def is_option(self) -> bool:
        """Tell options from positionals."""
        return self.name.startswith("-")


@dataclass(frozen=True)
class Command:
    """One command: its words, what it does, how it is called."""

    words: tuple[str, ...]
    help: str
    run: str  # (Request) -> plain data, or None when the function printed as it went
    render: str | None = None  # (data) -> text
    arguments: tuple[Argument, ...] = ()

    @property
    def name(self) -> str:
        """Give the words as typed."""
        return " ".join(self.words)

    def usage(self) -> str:
        """Give the line that help, manual and documentation show."""
        parts = ["vr", *self.words]
        for argument in self.arguments:
            if argument.is_option:
                flag = argument.name.split()[0]
                parts.append(f"[{flag}]" if argument.type == "flag" else f"[{flag} {argument.metavar}]")
            else:
                shown = argument.metavar or argument.name.upper()
                parts.append(f"[{shown}]" if argument.optional or argument.type == "words" else shown)
        return " ".join(parts)


ROUTER: Final = Argument("router", "name of a virtual router", values="routers")
ADDRESS: Final = Argument("address", "IPv4 or IPv6 address")
