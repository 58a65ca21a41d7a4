"""The parts of one control, joined."""

from __future__ import annotations

import socket
import time
from typing import Any

from fastpath.pulse import Pulse
from fastpath.spf import Accelerators
from fastpath.tables import TableWriter
from vrouter.api.messages import ControlOp
from vrouter.api.timings import Timings
from vrouter.engine.engine import Engine
from vrouter.engine.recording import Header
from vrouter.rib.bgp_table import BgpTable, Fed
from vrouter.runtime.bfd_link import BfdLink
from vrouter.runtime.bgp_bulk import BulkTable
from vrouter.runtime.control import Control
from vrouter.runtime.engines import make_engine
from vrouter.runtime.fib_sync import FibSync
from vrouter.runtime.forwarder_link import ForwarderLink
from vrouter.runtime.loop import Loop
from vrouter.runtime.manager_link import Handler, ManagerLink
from vrouter.runtime.transport import Transport


class _AttachedTable(BulkTable):
    """BGP's table, which writes the tables segment itself."""

    def __init__(self, wiring: Wiring) -> None:
        super().__init__(wiring.writer, wiring.index, wiring.name)
        self._wiring = wiring
        wiring.fib.sweep_bulk = self.sweep

    def feed(self, peer: int, data: bytes | memoryview) -> Fed:
        """Take bytes of a session."""
        begin = time.monotonic()
        fed = super().feed(peer, data)
        self._wiring.bgp_feed.note(time.monotonic() - begin)
        return fed

    def process(self, limit: int) -> bool:
        """Choose best paths, and see to it that what they free is given back."""
        self._wiring.control.tidy_soon()
        begin = time.monotonic()
        more = super().process(limit)
        self._wiring.bgp_process.note(time.monotonic() - begin)
        return more

    def close(self) -> None:
        """Free it; what it wrote is swept as that of anybody."""
        if self._wiring.fib.sweep_bulk == self.sweep:
            self._wiring.fib.sweep_bulk = None
        super().close()


class _Timed:
    """OSPF's loops in C, with a note of how long each computation took."""

    fletcher = staticmethod(Accelerators.fletcher)

    def __init__(self, timings: Timings) -> None:
        self._timings = timings

    def spf(self, *arguments: Any, **named: Any) -> tuple[list[int], list[int]]:
        """Run Dijkstra."""
        begin = time.monotonic()
        try:
            return Accelerators.spf(*arguments, **named)
        finally:
            self._timings.note(time.monotonic() - begin)


class Wiring:
    """A loop, the tables, the links to forwarder and manager, and what stands between them."""

    def __init__(self, name: str, tables: int, state_ro: int, listener: socket.socket, forwarder: str | bytes) -> None:
        """Serve `listener`; `forwarder` is the address of the VR's forwarder."""
        self._pulse = Pulse(tables)
        self.loop = Loop(self._pulse)
        self.bgp_feed, self.bgp_process, self._spf = Timings(), Timings(), Timings()
        self.writer = writer = TableWriter(tables, state_ro)
        self.fib = FibSync(writer, tables)
        self.forwarder = ForwarderLink(self.loop, forwarder)
        self.control = Control(
            name,
            self.fib,
            self.loop.call_later,
            self._published,
            make=self._engine,
            clock=self.loop.now,
            beat=self._pulse.beat,
        )
        self.transport = Transport(self.loop, forwarder, self.index, self.name, self.control.feed)
        self.control.sockets = self.transport
        self.control.timings = {
            "loop_lag": self.loop.turns, "bgp_feed": self.bgp_feed, "bgp_process": self.bgp_process, "spf": self._spf,
        }  # fmt: skip
        self.bfd = BfdLink(writer, tables, state_ro, self.control.feed, self.loop.call_later, self.forwarder.nudge)
        self.control.watcher = self.bfd
        self.forwarder.bfd_changed = self.bfd.look
        handlers: dict[str, Handler] = {
            ControlOp.CONFIGURE: lambda message: self.control.configure(message, self.loop.now()),
            ControlOp.LINK: self.control.link,
            ControlOp.SHOW: self.control.show,
            ControlOp.CLEAR: self.control.clear,
            ControlOp.RECORD: self.control.record,
            ControlOp.OFFLOAD: self._offload,
            ControlOp.PING: lambda _message: {},
            ControlOp.SHUTDOWN: self._shutdown,
        }
        self._manager = ManagerLink(self.loop, listener, handlers)
        self.control.failed_requests = lambda: self._manager.failed

    def _published(self) -> None:
        self.forwarder.nudge()
        self.bfd.changed()

    def _engine(self, header: Header) -> Engine:
        return make_engine(header, self._bgp_table, _Timed(self._spf))

    def _bgp_table(self) -> BgpTable:
        return _AttachedTable(self)

    def index(self, interface: str) -> int:
        """Give the number of an interface; 0: there is none."""
        return self.fib.indices.get(interface, 0)

    def name(self, index: int) -> str:
        """Give the name of an interface; empty: there is none."""
        return next((name for name, number in self.fib.indices.items() if number == index), "")

    def run(self) -> None:
        """Serve until the manager says SHUTDOWN."""
        self.forwarder.connect()
        self.loop.run()

    def close(self) -> None:
        """Close all connections; the loop runs no more."""
        self._manager.close()
        self.transport.close()
        self.forwarder.close()
        self.bfd.close()
        self._pulse.close()

    def _offload(self, message: dict[str, Any]) -> dict[str, Any]:
        """Copy the routes into the map that came with the message, from now on; without one into none."""
        fds = message["fds"]
        self.writer.mirror(fds[0] if fds else -1, int(message.get("size", 0)))
        self.forwarder.nudge()
        return {}

    def _shutdown(self, _message: dict[str, Any]) -> dict[str, Any]:
        self.control.stop()
        self.transport.drain(self.loop.stop)  # after the answer has left
        return {}
