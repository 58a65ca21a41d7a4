"""How long a forwarder has worked on the requests of apps, read from its state segment.

It is the time from taking a request to having answered it; what a request waits for its turn is not in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from fastpath._layout import CONSTANTS

if TYPE_CHECKING:
    from fastpath.segment import Segment

_FIRST: Final = CONSTANTS["CALL_FIRST_NS"]


def upper_ns(bucket: int) -> float:
    """Give where a bucket of `struct call_times` ends."""
    if bucket == 0:
        return _FIRST
    power, quarter = divmod(bucket - 1, 4)
    return float(_FIRST << power) * (1 + (quarter + 1) / 4)


def quantile_us(buckets: tuple[int, ...], share: float) -> float:
    """Give the time, in microseconds, that so many of the calls took at most, by the end of its bucket."""
    wanted = share * sum(buckets)
    passed = 0
    for bucket, count in enumerate(buckets):
        passed += count
        if passed >= wanted:
            return round(upper_ns(bucket) / 1000, 2)
    return 0.0


def upper_seconds() -> list[float]:
    """Give where the buckets of a histogram end, those of whole powers of two: the last one has no end."""
    return [upper_ns(bucket) / 1e9 for bucket in range(0, CONSTANTS["CALL_BUCKETS"] - 1, 4)]


def histograms(state: Segment, names: Mapping[int, str]) -> Iterator[tuple[str, list[int], float]]:
    """Give the name of each operation that was ever asked for, its counts, and their sum in seconds.

    The counts are those between two powers of two; there is one more of them than upper_seconds() gives.
    """
    for op, name in names.items():
        if op < CONSTANTS["CALL_OPS"]:
            times = state.copied("calls", op)
            buckets = times.integers("buckets")
            if any(buckets):
                counts = [buckets[0], *(sum(buckets[at : at + 4]) for at in range(1, len(buckets), 4))]
                yield name, counts, times.integer("total_ns") / 1e9


def calls(state: Segment, names: Mapping[int, str]) -> list[dict[str, Any]]:
    """Give each operation that was ever asked for, of those that have a name here."""
    found = []
    for op, name in names.items():
        if op >= CONSTANTS["CALL_OPS"]:
            continue
        times = state.copied("calls", op)
        count = times.integer("count")
        if not count:
            continue
        buckets = times.integers("buckets")
        found.append(
            {
                "call": name,
                "count": count,
                "mean_us": round(times.integer("total_ns") / count / 1000, 2),
                "p50_us": quantile_us(buckets, 0.5),
                "p99_us": quantile_us(buckets, 0.99),
            }
        )
    return found
