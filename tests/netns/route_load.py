"""Loads a million routes into a router's tables as its control would, which is stopped meanwhile.

    python route_load.py CONTROL_PID ROUTES

Prints "ready" once it has taken the tables over; for each line that comes it installs all and removes all twice, and
prints how many seconds each took.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from fastpath._layout import CONSTANTS
from fastpath.segment import KIND_STATE, KIND_TABLES, SegmentError, check
from fastpath.tables import Hop, RouteChange, TableWriter

CHUNK = 20_000


def segments(pid: int) -> dict[int, int]:
    """Open the segments of a process, by kind."""
    found: dict[int, int] = {}
    for link in Path(f"/proc/{pid}/fd").iterdir():
        if "memfd:anabranch" not in str(link.readlink()):
            continue
        for kind, flags in ((KIND_TABLES, os.O_RDWR), (KIND_STATE, os.O_RDONLY)):
            fd = os.open(link, flags | os.O_CLOEXEC)
            try:
                check(fd, kind)
            except SegmentError:
                os.close(fd)
            else:
                found.setdefault(kind, fd)
    return found


def main(pid: int, routes: int) -> None:
    """Take over, load, unload."""
    opened = segments(pid)
    os.kill(pid, signal.SIGSTOP)
    with TableWriter(opened[KIND_TABLES], opened[KIND_STATE]) as writer:
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


main(int(sys.argv[1]), int(sys.argv[2]))
