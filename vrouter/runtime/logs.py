"""A control's log: lines on standard error that name the router."""

from __future__ import annotations

import logging
import sys


class _Lines(logging.Formatter):
    router = ""

    def format(self, record: logging.LogRecord) -> str:
        """Give one line."""
        return f"{record.levelname} {self.router} control: {super().format(record)}"


_lines = _Lines()


def log_as(router: str) -> None:
    """Log in the name of a router.  The first time costs most, so the zygote does it for all."""
    _lines.router = router
    root = logging.getLogger()
    if not root.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_lines)
        root.addHandler(handler)
        root.setLevel(logging.INFO)
