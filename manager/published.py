"""A small file that others read: replaced whole when its text has changed.

One that cannot be written, on a full or read-only disk, is left as it is: that is said once and tried again
with the next occasion, and stops nothing else.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import structlog

log = structlog.get_logger()


class Published:
    """One such file, which anybody may read."""

    def __init__(self, path: Path) -> None:
        """Nothing is written yet."""
        self._path = path
        self._text: str | None = None  # that is in it
        self._failed = False

    def show(self, text: str) -> None:
        """Let it have this text."""
        if text == self._text:
            return
        new = self._path.with_suffix(".new")
        try:
            new.write_text(text)
            new.chmod(0o644)
            new.replace(self._path)
        except OSError as error:
            with contextlib.suppress(OSError):
                new.unlink()
            if not self._failed:
                log.warning("cannot write", path=str(self._path), reason=os.strerror(error.errno or 0))
            self._failed = True
            return
        if self._failed:
            log.info("written again", path=str(self._path))
        self._text, self._failed = text, False

    def remove(self) -> None:
        """Take it away."""
        self._text = None
        with contextlib.suppress(OSError):
            self._path.unlink()
