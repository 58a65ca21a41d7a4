"""Two VRs in this process, joined by a link: apps have TCP sockets in both.

    rsock.socket --> fd --> core of red --> link <--> link --> core of blue --> fd --> rsock.socket

One thread polls both cores and carries the frames; `cut` lets it lose them.
"""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from socket import AF_INET
from typing import Final

import rsock
from fastpath.binding import check, lib
from tests.unit.apps import WAIT, AppContext
from tests.unit.harness import Interface, Router

RED, BLUE = "10.0.0.1", "10.0.0.2"
RED6, BLUE6 = "2001:db8:a::1", "2001:db8:a::2"
MACS: Final = {"red": bytes.fromhex("020000000a01"), "blue": bytes.fromhex("020000000a02")}
_IDLE: Final = 0.0001


class Side:
    """One VR: its core, and where apps reach it."""

    def __init__(self, name: str, number: int, folder: Path, *, late: bool) -> None:
        self.name = name
        self.router = Router([
            Interface("a", 1, MACS[name], [f"10.0.0.{number}/24", f"2001:db8:a::{number}/64", f"fe80::{number}/64"])
        ])  # fmt: skip
        self.router.settle()
        self.path = str(folder / f"{name}.sock")
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.setblocking(False)
        self._listener.bind(self.path)
        self._listener.listen(256)
        self.context = AppContext(self.path)
        if late:  # who was told once where a router is opens sockets as late as possible
            self.context._paths[name] = self.path
        self.serve()

    def serve(self) -> None:
        """Serve apps."""
        check(lib.core_serve(self.router.core, self._listener.fileno(), self.router.tables_fd, self.router.state_fd))

    def socket(self, family: int = AF_INET) -> rsock.socket:
        """Open a TCP socket that does not wait for ever."""
        made = rsock.socket(family, socket.SOCK_STREAM, vr=self.name, ctx=self.context)
        made.settimeout(WAIT)
        return made

    def listener(self, port: int = 0, backlog: int = 16, family: int = AF_INET) -> rsock.socket:
        """Open a listener."""
        with contextlib.ExitStack() as cleanup:
            made = cleanup.enter_context(self.socket(family))
            made.bind(("", port))
            made.listen(backlog)
            cleanup.pop_all()
        return made

    def close(self) -> None:
        """End it."""
        self.context.close()
        self._listener.close()
        self.router.close()


class Pair:
    """Red and blue."""

    def __init__(self, folder: Path, *, late: bool) -> None:
        self.red, self.blue = Side("red", 1, folder, late=late), Side("blue", 2, folder, late=late)
        self.cut = False
        self.start()

    def start(self) -> None:
        """Run both."""
        self._stop = False
        self._offsets = [side.router.now - time.monotonic_ns() for side in (self.red, self.blue)]
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        """Stop the world, so that the test may touch the cores."""
        self._stop = True
        self._thread.join()

    def _run(self) -> None:
        sides = (self.red, self.blue)
        while not self._stop:
            handled = 0
            for side, other, offset in zip(sides, reversed(sides), self._offsets, strict=True):
                side.router.now = time.monotonic_ns() + offset
                handled += lib.core_poll(side.router.core, side.router.now)
                for frame, vnet in side.router.ports[1].receive():
                    handled += 1
                    if not self.cut:
                        other.router.ports[1].send(frame, vnet + bytes(2))
            if not handled:
                time.sleep(_IDLE)

    def connected(self, family: int = AF_INET) -> tuple[socket.socket, socket.socket]:
        """Connect a socket of red to one of blue."""
        with self.blue.listener(family=family) as listener:
            client = self.red.socket(family)
            client.connect((BLUE if family == AF_INET else BLUE6, listener.getsockname()[1]))
            server, _peer = listener.accept()
        server.settimeout(WAIT)
        return client, server

    def close(self) -> None:
        """End both."""
        self.stop()
        for side in (self.red, self.blue):
            side.close()


@contextlib.contextmanager
def worlds(*, late: bool = True) -> Iterator[Pair]:
    """Run red and blue."""
    with tempfile.TemporaryDirectory(prefix="anabranch-test-") as folder:
        pair = Pair(Path(folder), late=late)
        try:
            yield pair
        finally:
            pair.close()
