"""A VR with its socket server in this process: apps use `rsock` as ever, the test is the wire.

    rsock.socket --> fd, vr/NAME.sock --> core (polled by a thread) --> link port --> the test

The broker is left out: `context` says where the forwarder listens.
"""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import rsock
from fastpath.binding import check, lib
from rsock.wire import Op
from tests.unit import packets
from tests.unit.harness import Router, two_sided

HOST: Final = "10.0.0.2"
HOST6: Final = "2001:db8:a::2"
HOST_MAC: Final = bytes.fromhex("020000000002")
WAIT: Final = 10.0


def wait_for(what: Callable[[], bool]) -> None:
    """Wait a little until something is so."""
    deadline = time.monotonic() + WAIT
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class Introducer:
    """Stands for the broker."""

    def __init__(self, path: str) -> None:
        self._path = path

    def request(self, op: Op, _body: dict[str, Any], _timeout: float) -> dict[str, Any]:
        assert op is Op.TICKET
        return {"path": self._path}

    def close(self) -> None:
        """Nothing is held."""


class AppContext(rsock.Context):
    """A context that knows one VR."""

    def __init__(self, path: str) -> None:
        super().__init__("ipc://nowhere", timeout=WAIT)
        self._path = path

    def _broker(self) -> Any:
        self._check_pid()
        return Introducer(self._path)


class World:
    """A running VR; what is sent on interface `a` can be taken, and answered."""

    def __init__(self, folder: Path) -> None:
        self.router = Router(two_sided())
        self.router.settle()
        self.router.meet("a", HOST, HOST_MAC)
        self.router.meet("a", HOST6, HOST_MAC)
        self.path = str(folder / "red.sock")
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.setblocking(False)
        self._listener.bind(self.path)
        self._listener.listen(64)
        self.context = AppContext(self.path)
        self._frames: list[bytes] = []
        self.start()

    def start(self) -> None:
        """Serve, from a thread."""
        check(lib.core_serve(self.router.core, self._listener.fileno(), self.router.tables_fd, self.router.state_fd))
        self.start_again()

    def start_again(self) -> None:
        """Go on polling after `stop`."""
        self._offset = self.router.now - time.monotonic_ns()
        self._stop, self._idle = False, 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        """Stop polling, so that the test may touch the core."""
        self._stop = True
        self._thread.join()

    def _run(self) -> None:
        while not self._stop:
            self.router.now = time.monotonic_ns() + self._offset
            if lib.core_poll(self.router.core, self.router.now) == 0:
                self._idle += 1
                time.sleep(0.0002)

    def rest(self) -> None:
        """Wait until what there is to do has been done."""
        if self._thread.is_alive():
            enough = self._idle + 3
            wait_for(lambda: self._idle >= enough)

    def crash(self) -> None:
        """Have the forwarder die, and its successor serve."""
        self.stop()
        self.router.crash()
        self.start()

    def socket(self, family: int = socket.AF_INET, kind: int = socket.SOCK_DGRAM, proto: int = 0) -> rsock.socket:
        """Open a socket that does not wait for ever."""
        made = rsock.socket(family, kind, proto, vr="red", ctx=self.context)
        made.settimeout(WAIT)
        return made

    def sent(self, count: int = 1) -> list[bytes]:
        """Wait for IP packets that leave on `a`; neighbor discovery and group reports are passed over."""
        found: list[bytes] = []
        deadline = time.monotonic() + WAIT
        while len(found) < count:
            assert time.monotonic() < deadline, f"{len(found)} of {count} packets"
            for frame, _vnet in self.router.ports[1].receive():
                if not is_background(frame):
                    found.append(frame[packets.ETHERNET :])
            time.sleep(0.0005)
        assert len(found) == count
        return found

    def silent(self) -> bool:
        """Tell whether nothing leaves for a moment."""
        time.sleep(0.05)
        self.rest()
        return not [frame for frame, _vnet in self.router.ports[1].receive() if not is_background(frame)]

    def arrive(self, packet: bytes, vnet: bytes | None = None, mac: bytes | None = None) -> None:
        """Put an IP packet on the wire of `a`."""
        kind = packets.IP4 if packet[0] >> 4 == 4 else packets.IP6
        to = mac or self.router.interfaces["a"].mac
        self.router.ports[1].send(packets.ethernet(to, HOST_MAC, kind, packet), vnet)

    def drops(self, reason: str, name: str | None = "a") -> int:
        """Read a drop counter, once all that has arrived has met its fate."""
        time.sleep(0.02)
        self.rest()
        return self.router.drops(name).get(reason, 0)

    def close(self) -> None:
        """End it; the counters must add up."""
        self.stop()
        self.context.close()
        self._listener.close()
        self.router.laws()
        self.router.close()


def is_background(frame: bytes) -> bool:
    """Tell ARP, neighbor discovery, IGMP and MLD."""
    kind = int.from_bytes(frame[12:14])
    if kind != packets.IP6:
        return kind == packets.ARP or (kind == packets.IP4 and frame[23] == 2)
    return frame[20] in {0, packets.ICMP6} and frame[54] not in {1, 2, 3, 4, 128, 129}


@contextlib.contextmanager
def world() -> Iterator[World]:
    """Run a VR."""
    with tempfile.TemporaryDirectory(prefix="anabranch-test-") as folder:
        made = World(Path(folder))
        try:
            yield made
        finally:
            made.close()
