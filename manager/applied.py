"""What became of the configuration: which one runs, since when, and how long it took to carry changes out."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from vrouter.api.timings import Timings

if TYPE_CHECKING:
    from vrouter.config.schema import Config


class Applied:
    """The last attempt, and all that were carried out."""

    def __init__(self) -> None:
        self._refused = False
        self._digest = ""
        self._at = 0.0
        self._took = Timings()

    def refused(self) -> None:
        """A new one could not be used; the one that runs stays."""
        self._refused = True

    def taken(self, config: Config) -> None:
        """This is the one that runs from now on."""
        self._refused = False
        self._digest = digest(config)
        self._at = time.time()

    def settled(self, seconds: float) -> None:
        """All routers are as it says, so long after it was asked for."""
        self._took.note(seconds)

    def describe(self) -> dict[str, Any]:
        """Give all of it as plain data."""
        return {
            "load_error": self._refused,
            "hash": self._digest,
            "applied_at": self._at,
            "apply_seconds": self._took.plain(),
        }


def digest(config: Config) -> str:
    """Tell configurations apart: two that differ in anything but the form of their files have different digests."""
    text = json.dumps(asdict(config), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
