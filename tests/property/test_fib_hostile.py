"""Random bytes in a tables segment: the reader never leaves it (AddressSanitizer and a guard page)."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.property import fib_harness

if TYPE_CHECKING:
    from pathlib import Path

TARGET = fib_harness.ROOT / "tests" / "fuzz" / "fuzz_fib.c"


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the fuzz target as a program of its own, which needs no libFuzzer."""
    compiler = shutil.which("gcc") or shutil.which("clang")
    assert compiler is not None, "the C core is built with a compiler"
    program = tmp_path_factory.mktemp("hostile") / "fuzz_fib"
    flags = [
        "-std=gnu11",
        "-O1",
        "-g",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
        "-DSTANDALONE=4000",
    ]
    includes = [f"-I{folder}" for folder in fib_harness.include_dirs()]
    subprocess.run([compiler, *flags, *includes, str(TARGET), *fib_harness.c_files(), "-o", str(program)], check=True)
    return program


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_words_are_survived(target: Path, seed: int) -> None:
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0", "LD_PRELOAD": ""}
    done = subprocess.run(
        [target, str(seed)], capture_output=True, text=True, timeout=120, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
