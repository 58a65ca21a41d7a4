"""A part of what `make test-cpython` runs: unlisted failures in a router fail.

Python's `test` package is a package of its own in Debian (libpython3.11-testsuite).
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from lab import project_environment

pytestmark = pytest.mark.root
LEAST = 200  # or the selection has become empty


@pytest.mark.skipif(importlib.util.find_spec("test.test_socket") is None, reason="this Python comes without its tests")
def test_the_standard_librarys_tests_pass_in_a_router() -> None:
    command = [sys.executable, "-P", str(Path(__file__).parent / "run.py"), "--quick"]
    done = subprocess.run(
        command, env=project_environment(), capture_output=True, text=True, timeout=150, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= LEAST
