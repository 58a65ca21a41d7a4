"""How long things of one kind took: counts by powers of about three, as a histogram of Prometheus wants them."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any, Final

BOUNDS: Final = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # seconds; above them, all others


class Timings:
    """Counts since the process began."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0

    def note(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds

    def plain(self) -> dict[str, Any]:
        """Give it as plain data; each count is of its bucket alone."""
        return {"bounds": list(BOUNDS), "counts": list(self.counts), "sum": self.total}
