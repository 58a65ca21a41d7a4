"""Measures forwarding: one row at a time, or several in turns.

    PYTHONPATH=.:tests/netns:tests/bench python tests/bench/forwarding.py ROW... [--size 60|imix|1514]
        [--full] [--cores 1|2] [--sink a|b] [--rounds N] [--loss]

Each round of a row has a topology of its own; ratios are to the row `kernel`, or else to the first one.  `--loss`
also searches for the highest rate at which nothing is lost (RFC 2544 section 26.1).
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from full_table import FullTable
from lab import Lab, wait_until
from routers import ROUTERS

OFFERED: Final = {
    1: (600_000, 900_000, 1_200_000, 1_600_000, 2_000_000, 2_500_000),
    2: (1_000_000, 1_500_000, 2_000_000, 3_000_000),
}
OFFERED_B: Final = (700_000, 1_000_000, 1_500_000, 2_500_000, 3_500_000, 5_000_000)
LOSS_STEPS: Final = 6
TRIAL_SECONDS: Final = 1.0
# Of a rate: a machine with other work to do may lose a frame now and then, a router that is too slow always does.
TRIALS: Final = 3


@dataclass(frozen=True)
class Setting:
    """What the rows of one comparison have in common."""

    size: str = "60"
    full: bool = False
    cores: int = 1
    sink: str = "a"

    @property
    def offered(self) -> tuple[int, ...]:
        """Give the rates that are swept."""
        return OFFERED_B if self.sink == "b" else OFFERED[self.cores]

    def __str__(self) -> str:
        routes = "full table" if self.full else "one route"
        return f"{self.size} bytes, {routes}, cores: {self.cores}, sink {self.sink.upper()}"


@dataclass
class Figures:
    """Of one row: packets a second, one value a round."""

    peaks: list[float] = field(default_factory=list)
    lossless: list[float] = field(default_factory=list)

    @property
    def peak(self) -> float:
        """Give the median."""
        return statistics.median(self.peaks)


def measure(
    name: str, setting: Setting, table: FullTable | None, *, loss: bool = False, verbose: bool = False
) -> tuple[float, float]:
    """Build the row, give its peak over the offered rates and its highest rate without loss (0: not asked for)."""
    addresses = table.destinations if table is not None else None
    with Lab() as lab:
        router = ROUTERS[name](lab, table, cores=setting.cores, sink=setting.sink)
        try:
            router.start()
            line = router.line
            wait_until(lambda: line.rate(10_000, 0.3, addresses=addresses) > 0, f"{name} forwards", 20)
            reached = [line.rate(rate, size=setting.size, addresses=addresses) for rate in setting.offered]
            peak = max(reached)
            if verbose:
                print(f"  {name}: " + " ".join(f"{rate / 1e6:.3f}" for rate in reached), flush=True)
            if not loss:
                return peak, 0.0
            low, high = 0.0, peak * 1.1
            for _step in range(LOSS_STEPS):
                rate = (low + high) / 2
                fine = any(
                    line.lost(int(rate), TRIAL_SECONDS, size=setting.size, addresses=addresses) <= 0
                    for _trial in range(TRIALS)
                )
                low, high = (rate, high) if fine else (low, rate)
            return peak, low
        finally:
            router.stop()


def compare(
    names: list[str],
    setting: Setting,
    table: FullTable | None,
    rounds: int,
    *,
    loss: bool = False,
    verbose: bool = False,
) -> dict[str, Figures]:
    """Measure the rows by turns, each in a topology of its own."""
    figures = {name: Figures() for name in names}
    for _round in range(rounds):
        for name in (*names, *names[:1]):  # the first one also after the others: the machine may have changed
            peak, lossless = measure(name, setting, table if setting.full else None, loss=loss, verbose=verbose)
            figures[name].peaks.append(peak)
            figures[name].lossless.append(lossless)
    return figures


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("row", nargs="+", choices=list(ROUTERS))
    parser.add_argument("--size", default="60", choices=("60", "imix", "1514"))
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--cores", type=int, default=1, choices=(1, 2))
    parser.add_argument("--sink", default="a", choices=("a", "b"))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--loss", action="store_true")
    given = parser.parse_args()
    setting = Setting(given.size, given.full, given.cores, given.sink)
    with tempfile.TemporaryDirectory() as scratch:
        table = FullTable(Path(os.environ["ANABRANCH_TEST_DATA"]), Path(scratch)) if given.full else None
        figures = compare(given.row, setting, table, given.rounds, loss=given.loss, verbose=True)
    base = figures.get("kernel", figures[given.row[0]]).peak
    print(setting)
    for name, found in figures.items():
        lossless = f", without loss {statistics.median(found.lossless) / 1e6:.3f}" if given.loss else ""
        print(f"  {name:16} {found.peak / 1e6:.3f} Mpps{lossless}, ratio {found.peak / base:.2f}")


if __name__ == "__main__":
    main()
