"""`vr exec`: this process becomes the program, by way of rsock's launcher."""

from __future__ import annotations

import os

from manager.cli.main import Request
from rsock.exec.main import start


def execute(request: Request) -> tuple[None, int]:
    """Become a program whose sockets live in a router; returns where that fails."""
    os.environ["ANABRANCH_RUN_DIR"] = str(request.run_dir)
    return None, start(request["words"], vr=request["router"], mode=request["mode"])
