"""Keeps a recording of the engine until somebody fetches it, piece by piece."""

from __future__ import annotations

import logging
from typing import Any, Final

from vrouter.engine.inputs import Input
from vrouter.engine.outputs import Output
from vrouter.engine.recording import Header, write_header, write_step

log = logging.getLogger(__name__)
ROOM: Final = 64 << 20
PIECE: Final = 1 << 20


class Recorder:
    """A recording that is being made; it ends where nobody fetches it."""

    def __init__(self, header: Header) -> None:
        self._data = bytearray(write_header(header))
        self.steps = 0
        self.cut = False

    def note(self, now: float, event: Input, wanted: list[Output]) -> None:
        """Take an input and its outputs."""
        if self.cut:
            return
        if len(self._data) > ROOM:
            self.cut = True
            return
        try:
            self._data += write_step(now, event, wanted)
        except (ValueError, TypeError, OverflowError):
            log.exception("the recording ends")
            self.cut = True
            return
        self.steps += 1

    def fetch(self) -> dict[str, Any]:
        """Give the next piece: {data, more, steps, cut}."""
        piece = bytes(self._data[:PIECE])
        del self._data[:PIECE]
        return {"data": piece, "more": bool(self._data), "steps": self.steps, "cut": self.cut}
