"""How a command fails: a sentence for the operator, a word for scripts, an exit code."""

from __future__ import annotations

import enum
from typing import Any


class Exit(enum.IntEnum):
    """Exit codes of `vr`."""

    OK = 0
    NEGATIVE = 1  # the answer is no: nothing replied, no route, configurations differ
    USAGE = 2  # the command line or the configuration is wrong
    UNREACHABLE = 3  # who should answer does not


class CliError(Exception):
    """A command that did not do what was asked.

    `kind` is one lower-case word for scripts: usage, config, unreachable, denied, failed.
    """

    def __init__(self, message: str, kind: str, code: Exit, details: Any = None) -> None:
        """Keep all three; `details` is plain data for `-j`."""
        super().__init__(message)
        self.message = message
        self.kind = kind
        self.code = code
        self.details = details

    def as_json(self) -> dict[str, Any]:
        """Give what `-j` prints."""
        error: dict[str, Any] = {"message": self.message, "kind": self.kind}
        if self.details:
            error["details"] = self.details
        return {"error": error}


def usage(message: str) -> CliError:
    """Complain about the command line."""
    return CliError(message, "usage", Exit.USAGE)


def unreachable(message: str) -> CliError:
    """Tell that a process does not answer."""
    return CliError(message, "unreachable", Exit.UNREACHABLE)
