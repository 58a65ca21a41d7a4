"""Measures forwarding: one row, or several in turns.

    PYTHONPATH=.:tests/netns:tests/bench python tests/bench/forwarding.py ROW... [--size 60|imix|1514]
        [--full] [--cores 1|2] [--sink a|b] [--turns N] [--loss]

All rows stand side by side, each with a topology of its own, and take turns: in its turn a row is offered one rate
after the other, each for WINDOW seconds, then others round the best of them; its peak is the best of all.  A ratio
is the median of the ratios of peaks of the same turn.  Virtual machines change their speed by a factor of two within
seconds, as their neighbors come and go: what is compared has to be measured within a few seconds of each other, and
often.  Every other turn goes the other way round.  Rows that poll are stopped while it is not their turn.

Ratios are to the row `kernel`, or else to the first one.  `--loss` also searches for the highest rate at which
nothing is lost (RFC 2544 section 26.1).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from full_table import FullTable
from lab import Lab, wait_until
from routers import ROUTERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from routers import Router

# By the sink: the generator reaches some 8 million.
LEAST: Final = {"a": 200_000, "b": 400_000}
MOST: Final = {"a": 4_000_000, "b": 8_000_000}
STEP: Final = 1.25
ROUND: Final = (0.9, 1.0, 1.06, 1.12, 1.18)
WINDOW: Final = 0.1  # seconds
LOSS_STEPS: Final = 6
TRIAL_SECONDS: Final = 0.3  # short, as it is compared with a peak
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
    def offered(self) -> list[int]:
        """Give the rates that are swept first."""
        rates = [LEAST[self.sink]]
        while rates[-1] < MOST[self.sink]:
            rates.append(int(rates[-1] * STEP))
        return rates

    def __str__(self) -> str:
        routes = "full table" if self.full else "one route"
        return f"{self.size} bytes, {routes}, cores: {self.cores}, sink {self.sink.upper()}"


@dataclass
class Figures:
    """Of one row: packets a second, one value a turn."""

    peaks: list[float] = field(default_factory=list)
    lossless: list[float] = field(default_factory=list)

    @property
    def peak(self) -> float:
        """Give the median."""
        return statistics.median(self.peaks)

    def ratio(self, other: Figures) -> float:
        """Give the median of the ratios to another row, turn by turn."""
        return statistics.median(mine / its for mine, its in zip(self.peaks, other.peaks, strict=True))

    @property
    def share(self) -> float:
        """Give the part of the peak that passes without loss."""
        return statistics.median(mine / peak for mine, peak in zip(self.lossless, self.peaks, strict=True))


class Row:
    """A router that forwards, at rest until it is its turn."""

    def __init__(self, name: str, router: Router, setting: Setting) -> None:
        self.name = name
        self.router = router
        self.setting = setting
        self._rates = setting.offered
        self._addresses = router.table.destinations if router.table is not None else None
        router.start()
        wait_until(lambda: self._rate(10_000) > 0, f"{name} forwards", 20)
        router.rest()

    def _rate(self, offered: int) -> float:
        return self.router.line.rate(offered, 0.3, addresses=self._addresses)

    def sweep(self) -> list[float]:
        """Give what reaches the sink at each rate."""
        self.router.wake()
        try:
            reached = self._sweep(self._rates)
            best = self._rates[reached.index(max(reached))]
            return reached + self._sweep([int(best * share) for share in ROUND])
        finally:
            self.router.rest()

    def _sweep(self, rates: list[int]) -> list[float]:
        return self.router.line.sweep(rates, WINDOW, size=self.setting.size, addresses=self._addresses)

    def lossless(self, peak: float) -> float:
        """Search for the highest rate without loss."""
        line = self.router.line
        self.router.wake()
        low, high = 0.0, peak * 1.1
        try:
            for _step in range(LOSS_STEPS):
                rate = (low + high) / 2
                fine = any(
                    line.lost(int(rate), TRIAL_SECONDS, size=self.setting.size, addresses=self._addresses) <= 0
                    for _trial in range(TRIALS)
                )
                low, high = (rate, high) if fine else (low, rate)
        finally:
            self.router.rest()
        return low


@contextlib.contextmanager
def standing(names: list[str], setting: Setting, table: FullTable | None) -> Iterator[list[Row]]:
    """Build the rows, side by side."""
    with contextlib.ExitStack() as kept:
        rows = []
        for name in names:
            lab = kept.enter_context(Lab())
            router = ROUTERS[name](lab, table, cores=setting.cores, sink=setting.sink)
            kept.callback(router.stop)
            rows.append(Row(name, router, setting))
        yield rows


def compare(
    names: list[str],
    setting: Setting,
    table: FullTable | None,
    turns: int,
    *,
    loss: bool = False,
    verbose: bool = False,
) -> dict[str, Figures]:
    """Measure the rows by turns."""
    figures = {name: Figures() for name in names}
    with standing(names, setting, table if setting.full else None) as rows:
        for turn in range(turns):
            for row in rows if turn % 2 == 0 else reversed(rows):
                reached = row.sweep()
                figures[row.name].peaks.append(max(reached))
                if verbose:
                    print(f"  {row.name:14} " + " ".join(f"{rate / 1e6:.2f}" for rate in reached), flush=True)
                if loss:
                    figures[row.name].lossless.append(row.lossless(max(reached)))
    return figures


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("row", nargs="+", choices=list(ROUTERS))
    parser.add_argument("--size", default="60", choices=("60", "imix", "1514"))
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--cores", type=int, default=1, choices=(1, 2))
    parser.add_argument("--sink", default="a", choices=("a", "b"))
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--loss", action="store_true")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that nothing is left behind
    setting = Setting(given.size, given.full, given.cores, given.sink)
    with tempfile.TemporaryDirectory() as scratch:
        table = FullTable(Path(os.environ["ANABRANCH_TEST_DATA"]), Path(scratch)) if given.full else None
        figures = compare(given.row, setting, table, given.turns, loss=given.loss, verbose=True)
    base = figures.get("kernel", figures[given.row[0]])
    print(setting)
    for name, found in figures.items():
        lossless = (
            f", without loss {statistics.median(found.lossless) / 1e6:.3f} ({found.share:.2f})" if given.loss else ""
        )
        print(f"  {name:16} {found.peak / 1e6:.3f} Mpps{lossless}, ratio {found.ratio(base):.2f}")


if __name__ == "__main__":
    main()
