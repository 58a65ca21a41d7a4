"""The tests' own programs in C, each compiled once a test run."""

from __future__ import annotations

import atexit
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

TRAFFIC: Final = Path(__file__).resolve().parent.parent / "traffic"


@functools.cache
def program(*sources: Path) -> str:
    """Compile, give the path; it is named like the first source, and its directory goes with the process."""
    name = sources[0].stem
    directory = tempfile.mkdtemp(prefix=f"{name}-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    path = f"{directory}/{name}"
    command = ["cc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-o", path, *map(str, sources)]
    subprocess.run(command, check=True)
    return path
