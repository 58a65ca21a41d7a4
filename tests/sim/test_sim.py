"""Two of our stacks against each other in virtual time: whatever the links do, every byte arrives once, in order.

A failure prints its seed; `build/sim/sim -v SEED` shows the run.
"""

from __future__ import annotations

import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
HERE: Final = Path(__file__).resolve().parent
BUILD: Final = ROOT / "build" / "sim"
FLAGS: Final = ("-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-Wshadow", "-Wno-unused-parameter", "-Werror")
FOLDERS: Final = (ROOT / "fastpath/include", ROOT / "fastpath/src", ROOT / "build/include", ROOT / "tests/wire")
SEEDS: Final = 3000
FIRST: Final = 1


def sources() -> list[Path]:
    parts = [
        path for folder in ("base", "wire", "table", "host") for path in (ROOT / "fastpath/src" / folder).glob("*.c")
    ]
    return [*parts, *HERE.glob("*.c"), ROOT / "tests/wire/impair.c", ROOT / "tests/wire/offload.c"]


def newest_header() -> float:
    return max(path.stat().st_mtime for folder in (*FOLDERS, HERE) for path in folder.rglob("*.h"))


def compile_one(source: Path) -> Path:
    target = BUILD / ("_".join(source.relative_to(ROOT).with_suffix(".o").parts))
    if not target.exists() or target.stat().st_mtime < max(source.stat().st_mtime, newest_header()):
        includes = [f"-I{folder}" for folder in FOLDERS]
        began = time.time()
        subprocess.run(["gcc", *FLAGS, *includes, "-c", str(source), "-o", str(target)], check=True)
        os.utime(target, (began, began))  # a file that was changed meanwhile is newer
    return target


@pytest.fixture(scope="module")
def simulator() -> Path:
    BUILD.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, sources()))
    program = BUILD / "sim"
    wrap = "-Wl,--wrap=tcp_initial_sequence"
    subprocess.run(["gcc", *map(str, objects), wrap, "-o", str(program)], check=True)
    return program


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
