"""Two of our stacks against each other in virtual time: whatever the links do, every byte arrives once, in order.

A failure prints its seed; `build/sim/sim -v SEED` shows the run.
"""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from tests.unit.c_build import build_program, core_sources

HERE: Final = Path(__file__).resolve().parent
WIRE: Final = HERE.parent / "wire"
SEEDS: Final = 3000
FIRST: Final = 1


@pytest.fixture(scope="module")
def simulator() -> Path:
    sources = [*core_sources(), *HERE.glob("*.c"), WIRE / "impair.c", WIRE / "offload.c"]
    return build_program("sim", sources, "-Wl,--wrap=tcp_initial_sequence", includes=(WIRE,))


def run(simulator: Path, first: int, count: int) -> list[str]:
    done = subprocess.run(
        [str(simulator), "-n", str(count), str(first)], capture_output=True, text=True, timeout=170, check=False
    )
    lines = done.stdout.splitlines()
    assert done.returncode in {0, 1}, f"died after {lines[-1:]}: {done.stderr}"
    assert len(lines) == count
    return lines


@pytest.mark.timeout(175)
def test_thousands_of_seeds(simulator: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        halves = pool.map(lambda first: run(simulator, first, SEEDS // 2), (FIRST, FIRST + SEEDS // 2))
        lines = [line for half in halves for line in half]
    failed = [line for line in lines if ": ok " not in line]
    assert not failed, "\n".join(failed[:20])


def test_a_seed_replays_bit_for_bit(simulator: Path) -> None:
    assert run(simulator, FIRST, 40) == run(simulator, FIRST, 40)
    hashes = {line.split()[3] for line in run(simulator, FIRST, 40)}
    assert len(hashes) == 40, "and another seed is another run"


def test_a_syn_flood_harms_nobody_else(simulator: Path) -> None:
    done = subprocess.run([str(simulator), "-f"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_handshakes_segment_by_segment(simulator: Path) -> None:
    done = subprocess.run([str(simulator), "-h"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
