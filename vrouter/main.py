"""The control process of one VR: wiring only.

The manager forks it from the zygote, in the VR's network namespace, with the fds
`tables` (read-write), `state_ro`, and `listener` (control/NAME.sock).
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from typing import Any, NoReturn

from fastpath.tables import TableWriter
from vrouter.api.messages import ControlOp
from vrouter.runtime.control import Control
from vrouter.runtime.fib_sync import FibSync
from vrouter.runtime.forwarder_link import ForwarderLink
from vrouter.runtime.loop import Loop
from vrouter.runtime.manager_link import Handler, ManagerLink
from vrouter.runtime.privileges import confine


def main(name: str, *, uid: int, gid: int, fds: dict[str, int], run_dir: str) -> NoReturn:
    """Give up root, then serve until the manager says SHUTDOWN."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the daemon's terminal is for the manager
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=f"%(levelname)s {name} control: %(message)s")
    confine(uid, gid)
    loop = Loop()
    fib = FibSync(TableWriter(fds["tables"], fds["state_ro"]), fds["tables"])
    forwarder = ForwarderLink(loop, os.path.join(run_dir, "vr", f"{name}.sock"))  # noqa: PTH118 - pathlib stays out
    control = Control(name, fib, loop.call_later, forwarder.nudge)

    def shutdown(_message: dict[str, Any]) -> dict[str, Any]:
        loop.call_later(0, loop.stop)  # after the answer has left
        return {}

    handlers: dict[str, Handler] = {
        ControlOp.CONFIGURE: lambda message: control.configure(message, loop.now()),
        ControlOp.LINK: control.link,
        ControlOp.PING: lambda _message: {},
        ControlOp.SHUTDOWN: shutdown,
    }
    link = ManagerLink(loop, socket.socket(fileno=fds["listener"]), handlers)
    forwarder.connect()
    loop.run()
    link.close()
    forwarder.close()
    sys.exit(0)
