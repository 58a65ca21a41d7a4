"""The checksum of LSAs: Fletcher's, ISO 8473 style (RFC 905 annex B, RFC 1008; RFC 2328 section 12.1.7).

It covers an LSA but for its age.  `fastpath/src/base/fletcher.c` does the same in C.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Final

AGE_SIZE: Final = 2
FIELD: Final = 16  # where the checksum stands in an LSA
_HEADER_SIZE: Final = 20

Fletcher = Callable[[bytes], int]


def fletcher(lsa: bytes) -> int:
    """Give the checksum that belongs into an LSA, whatever stands there now; 0 for what is no LSA."""
    if len(lsa) < _HEADER_SIZE:
        return 0
    covered = lsa[AGE_SIZE:FIELD] + b"\0\0" + lsa[FIELD + 2 :]
    first = sum(covered)
    second = sum(accumulate(covered))
    after = len(covered) - (FIELD - AGE_SIZE) - 1  # octets behind the first one of the field
    high = (after * first - second) % 255 or 255
    low = (510 - first - high) % 255 or 255
    return high << 8 | low
