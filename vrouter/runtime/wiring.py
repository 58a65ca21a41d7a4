"""The parts of one control, joined."""

from __future__ import annotations

import socket
from typing import Any

from fastpath.tables import TableWriter
from vrouter.api.messages import ControlOp
from vrouter.runtime.control import Control
from vrouter.runtime.fib_sync import FibSync
from vrouter.runtime.forwarder_link import ForwarderLink
from vrouter.runtime.loop import Loop
from vrouter.runtime.manager_link import Handler, ManagerLink


class Wiring:
    """A loop, the tables, the links to forwarder and manager, and what stands between them."""

    def __init__(self, name: str, tables: int, state_ro: int, listener: socket.socket, forwarder: str | bytes) -> None:
        """Serve `listener`; `forwarder` is the address of the VR's forwarder."""
        self.loop = Loop()
        self.fib = FibSync(TableWriter(tables, state_ro), tables)
        self.forwarder = ForwarderLink(self.loop, forwarder)
        self.control = Control(name, self.fib, self.loop.call_later, self.forwarder.nudge)
        handlers: dict[str, Handler] = {
            ControlOp.CONFIGURE: lambda message: self.control.configure(message, self.loop.now()),
            ControlOp.LINK: self.control.link,
            ControlOp.PING: lambda _message: {},
            ControlOp.SHUTDOWN: self._shutdown,
        }
        self._manager = ManagerLink(self.loop, listener, handlers)

    def run(self) -> None:
        """Serve until the manager says SHUTDOWN."""
        self.forwarder.connect()
        self.loop.run()

    def close(self) -> None:
        """Close all connections."""
        self._manager.close()
        self.forwarder.close()

    def _shutdown(self, _message: dict[str, Any]) -> dict[str, Any]:
        self.loop.call_later(0, self.loop.stop)  # after the answer has left
        return {}
