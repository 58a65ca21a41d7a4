"""How a leaf of the schema is written: its help, and what a change of it disturbs."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any


class Impact(enum.StrEnum):
    """What a change of a value disturbs, from nothing to all; each includes those before it."""

    NONE = "none"  # nothing at run time
    LIVE = "live"  # takes effect in place
    SOFT = "soft"  # routes are asked for or announced again
    SESSION = "session"  # a protocol session is reset
    LINK = "link"  # the interface goes down and comes back
    VR_RESTART = "vr-restart"
    BOX = "box"  # all routers


def option(help_text: str, impact: Impact, default: Any = dataclasses.MISSING, example: str = "") -> Any:
    """Declare a field with its help, its impact and an example; without default it is required."""
    metadata = {"help": help_text, "impact": impact, "example": example}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=dict, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)
