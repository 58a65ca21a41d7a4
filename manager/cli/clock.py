"""CLOCK_BOOTTIME, which segments and records carry, as wall time and as age."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def boot_ns() -> int:
    """Give the present CLOCK_BOOTTIME."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def wall_offset_ns() -> int:
    """Give what must be added to CLOCK_BOOTTIME for the time of day; taken once for each run."""
    return time.time_ns() - boot_ns()


def iso(wall_ns: int) -> str:
    """Write a time of day as ISO 8601 with microseconds, UTC."""
    return datetime.fromtimestamp(wall_ns / 1e9, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def age(since_ns: int) -> float:
    """Give the seconds since a CLOCK_BOOTTIME stamp."""
    return round(max(0, boot_ns() - since_ns) / 1e9, 3)
