"""Many BGP routes, and the death of control and forwarder: no entry leaves the forwarding table meanwhile."""

from __future__ import annotations

import os
import signal
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import pytest
from lab import Lab, Namespace, wait_until

from manager.cli.segments import open_segments

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastpath.segment import Segment

pytestmark = [pytest.mark.root, pytest.mark.in_order]

ROUTES: Final = 60_000
OWN, PEER = "10.98.1.1", "10.98.1.2"
_MARKER: Final = b"\xff" * 16
_OPEN, _UPDATE, _KEEPALIVE = 1, 2, 4
# IPv4 unicast, AS numbers of 4 bytes, graceful restart that kept the routes.
_CAPABILITIES: Final = bytes.fromhex("01040001000141040000fdf24006007800010180")


def message(kind: int, body: bytes = b"") -> bytes:
    return _MARKER + struct.pack(">HB", 19 + len(body), kind) + body


def announcements() -> bytes:
    """All routes, 500 in a message, and the End-of-RIB."""
    path = struct.pack(">BBI", 2, 1, 65010)
    attributes = bytes.fromhex("40010100") + b"\x40\x02" + bytes([len(path)]) + path
    attributes += b"\x40\x03\x04" + socket.inet_aton(PEER)
    nlri = [b"\x18" + struct.pack(">I", (0x0B000000 + (number << 8)))[:3] for number in range(ROUTES)]
    head = struct.pack(">HH", 0, len(attributes)) + attributes
    parts = [message(_UPDATE, head + b"".join(nlri[at : at + 500])) for at in range(0, ROUTES, 500)]
    return b"".join(parts) + message(_UPDATE, bytes(4))


class Neighbor:
    """A BGP speaker that says what it has to say."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._socket: socket.socket | None = None

    def connect(self) -> None:
        """Have a session, and announce all."""
        wait_until(self._begin, "a session", 30, 0.1)
        assert self._socket is not None
        self._socket.sendall(announcements())

    def _begin(self) -> bool:
        self.close()
        made = self._namespace.socket(socket.AF_INET, socket.SOCK_STREAM)
        made.settimeout(3)
        capabilities = b"\x02" + bytes([len(_CAPABILITIES)]) + _CAPABILITIES
        own = struct.pack(">BHH", 4, 65010, 90) + socket.inet_aton(PEER) + bytes([len(capabilities)]) + capabilities
        try:
            made.connect((OWN, 179))
            made.sendall(message(_OPEN, own))
            while (kind := self._receive(made)) != _KEEPALIVE:
                if kind == _OPEN:
                    made.sendall(message(_KEEPALIVE))
        except OSError:
            made.close()
            return False
        made.settimeout(10)
        self._socket = made
        return True

    @staticmethod
    def _receive(stream: socket.socket) -> int:
        head = stream.recv(19, socket.MSG_WAITALL)
        if len(head) < 19:
            raise ConnectionError
        stream.recv(struct.unpack(">H", head[16:18])[0] - 19, socket.MSG_WAITALL)
        return head[18]

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class World:
    """A router, its neighbor, and somebody who counts routes all the time."""

    def __init__(self, lab: Lab, tables: Segment) -> None:
        self.lab = lab
        self.neighbor = Neighbor(lab.namespaces["peer"])
        self._tables = tables
        self.least = 0

    def count(self) -> int:
        while self._tables.integer("generation") % 2:
            pass  # in the middle of a batch
        offset = self._tables.integer("prefix_root")
        return self._tables.at("prefix_table", offset).integer("count") if offset else 0

    def kill(self, role: str) -> None:
        """Kill a process of the router, come back, and let some time pass; note the least number of routes."""
        stop = threading.Event()
        self.least = self.count()

        def watch() -> None:
            while not stop.wait(0.0005):
                self.least = min(self.least, self.count())

        watching = threading.Thread(target=watch)
        watching.start()
        try:
            before = self.lab.router("red")
            os.kill(before["pids"][role], signal.SIGKILL)
            wait_until(lambda: self._is_another(role, before["pids"][role]), f"another {role}", 10)
            self.neighbor.connect()
            wait_until(self._settled, "a settled table", 60, 0.2)
            time.sleep(1)
        finally:
            stop.set()
            watching.join()

    def _is_another(self, role: str, pid: int) -> bool:
        router = self.lab.router("red")
        return router["state"] == "up" and router["pids"][role] not in (None, pid)

    def _settled(self) -> bool:
        (neighbor,) = self.summary()
        return bool(neighbor["state"] == "established" and neighbor["families"]["ipv4"]["accepted"] == ROUTES)

    def summary(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.lab.vr("show", "bgp", "summary", "red")["neighbors"]
        return found


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with Lab() as lab:
        lab.host("peer", "wan", f"{PEER}/30")
        neighbor = {"remote-as": 65010, "passive": True, "import": "any", "timers": {"connect-retry": "1s"}}
        lab.configure(
            {
                "red": {
                    "interfaces": {"wan": {"device": "wan", "addresses": [f"{OWN}/30"]}},
                    "policy": {"route-policies": {"any": [{"then": "accept"}]}},
                    "bgp": {"asn": 65000, "router-id": OWN, "neighbors": {PEER: neighbor}},
                }
            }
        )
        lab.start()
        with open_segments(lab.run_dir, "red") as (tables, _state):
            made = World(lab, tables)
            yield made
            made.neighbor.close()


def test_a_full_table_is_loaded(world: World) -> None:
    base = world.count()
    world.neighbor.connect()
    wait_until(lambda: world.count() == base + ROUTES, "all routes", 20)
    (neighbor,) = world.summary()
    assert neighbor["families"]["ipv4"]["accepted"] == ROUTES
    why = world.lab.vr("explain", "route", "red", "11.0.7.1")
    assert (why["prefix"], why["routes"][0]["resolved"]) == ("11.0.7.0/24", [f"via {PEER} on wan"])


def test_no_route_goes_when_control_is_killed(world: World) -> None:
    full = world.count()
    world.kill("control")
    assert world.least == full
    assert world.count() == full
    assert world.lab.router("red")["restarts"] == 1, "nobody took the new one for hung"


def test_no_route_goes_when_the_forwarder_is_killed(world: World) -> None:
    full = world.count()
    world.kill("forwarder")
    assert world.least == full
    assert world.count() == full
