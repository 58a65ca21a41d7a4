"""Gives a recording (`vr record`) to a fresh engine, and tells where it asks for something else than it did then.

    python -m vrouter.replay [-v] FILE

Each difference is told with the input, and what the engine asks for now; `-v` tells all inputs.  The exit code is 1
where there was a difference.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fastpath.spf import Accelerators
from vrouter.engine.engine import Engine
from vrouter.engine.outputs import Output
from vrouter.engine.recording import Header, Step, digest, read
from vrouter.rib.bgp_table import BulkRoute
from vrouter.runtime.bgp_bulk import BulkTable
from vrouter.runtime.engines import make_engine


@dataclass(frozen=True, slots=True)
class Played:
    """A step as it was, and what the engine asks for now."""

    number: int
    step: Step
    outputs: list[Output]

    @property
    def same(self) -> bool:
        """Tell whether the engine asks for the same."""
        return digest(self.outputs) == self.step.digest


class _Detached(BulkTable):
    """BGP's table without a tables segment; what it would write there is no output of an engine."""

    def fib(self, limit: int) -> list[BulkRoute]:
        """Drain it in silence."""
        super().fib(limit)
        return []


def same_engine(header: Header) -> Engine:
    """Make an engine as that of a VR."""
    return make_engine(header, _Detached, Accelerators())


def play(data: bytes, make: Callable[[Header], Engine] = same_engine) -> Iterator[Played]:
    """Play a recording; `make` makes the engine.  Raises ValueError."""
    header, steps = read(data)
    engine = make(header)
    for number, step in enumerate(steps, 1):
        try:
            wanted = engine.handle(step.event, step.now)
        except (KeyError, ValueError):  # as then: it was refused
            wanted = []
        yield Played(number, step, wanted)


def main(arguments: list[str] | None = None) -> int:
    """Play a file."""
    parser = argparse.ArgumentParser(prog="python -m vrouter.replay", description="play a recording of a router")
    parser.add_argument("file", type=Path)
    parser.add_argument("-v", "--verbose", action="store_true", help="tell all inputs")
    options = parser.parse_args(arguments)
    count = differences = 0
    try:
        for played in play(options.file.read_bytes()):
            count = played.number
            differences += not played.same
            if options.verbose or not played.same:
                _tell(played)
    except (OSError, ValueError) as error:
        print(f"{options.file}: {error}", file=sys.stderr)
        return 2
    print(f"{count} inputs, {differences} differences")
    return 1 if differences else 0


def _tell(played: Played) -> None:
    mark = "same" if played.same else "DIFFERENT"
    print(f"{played.number} {played.step.now:.6f} {mark} {played.step.event}")
    for output in played.outputs:
        print(f"    {output}")


if __name__ == "__main__":
    sys.exit(main())
