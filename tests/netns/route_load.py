"""Loads many routes into tables of its own, with the work and the memory that it takes a control.

    python route_load.py ROUTES

Prints "ready"; for each line that comes it installs all and removes all twice, and prints how many seconds each took.
"""

from __future__ import annotations

import sys
import time

from fastpath._layout import CONSTANTS
from fastpath.segment import KIND_TABLES, create
from fastpath.tables import Hop, RouteChange, TableWriter

CHUNK = 20_000
SIZE = 4 << 30


def main(routes: int) -> None:
    """Load and unload when told."""
    with TableWriter(create(KIND_TABLES, SIZE, 1, "load"), -1) as writer:
        group = writer.group((Hop(CONSTANTS["NEXTHOP_BLACKHOLE"]),))
        prefixes = [(0x14000000 + (number << 8), 24) for number in range(routes)]
        print("ready", flush=True)
        for _line in sys.stdin:
            took = []
            for wanted in (group, 0, group, 0):
                began = time.monotonic()
                for start in range(0, routes, CHUNK):
                    writer.apply(
                        RouteChange(4, value, length, wanted, CONSTANTS["ROUTE_BGP"])
                        for value, length in prefixes[start : start + CHUNK]
                    )
                took.append(f"{time.monotonic() - began:.2f}")
            print(" ".join(took), flush=True)


main(int(sys.argv[1]))
