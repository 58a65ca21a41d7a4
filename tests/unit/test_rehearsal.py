"""What a zygote has rehearsed is inherited by all of its children: memory that they share must not be among it."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

PROGRAM: Final = """
import os
from vrouter.runtime.rehearsal import rehearse
before = sorted(os.listdir("/proc/self/fd"))
rehearse()
assert sorted(os.listdir("/proc/self/fd")) == before, "it left fds open"
assert "anabranch-" not in open("/proc/self/maps").read(), "it left segments mapped"
"""


def test_nothing_is_left_of_it() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
