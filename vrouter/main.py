"""The control process of one VR.

The manager forks it from the zygote, in the VR's network namespace, with the fds
`tables` (read-write), `state_ro`, and `listener` (control/NAME.sock).
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from typing import NoReturn

from vrouter.runtime.logs import log_as
from vrouter.runtime.privileges import confine
from vrouter.runtime.rehearsal import rehearse
from vrouter.runtime.wiring import Wiring

__all__ = ["main", "rehearse"]


def main(name: str, *, uid: int, gid: int, fds: dict[str, int], run_dir: str) -> NoReturn:
    """Give up root, then serve until the manager says SHUTDOWN."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the daemon's terminal is for the manager
    log_as(name)
    confine(uid, gid)
    path = os.path.join(run_dir, "vr", f"{name}.sock")  # noqa: PTH118 - pathlib stays out
    wiring = Wiring(name, fds["tables"], fds["state_ro"], socket.socket(fileno=fds["listener"]), path)
    wiring.run()
    wiring.close()
    sys.exit(0)
