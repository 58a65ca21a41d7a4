"""The manager's side of the broker: its process, what it must know, and events."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Final

import msgpack

from manager import uids
from manager.child import Child, Zygote
from manager.member import Hooks, Member
from manager.probe import Probe
from manager.reactor import READ, WRITE, Reactor
from rsock.broker.link import Framing, frame

PROBE_INTERVAL: Final = 0.25
PROBE_RESTING: Final = 1.0  # one that does nothing is looked at less often
SILENCES: Final = 4
LIMIT: Final = 1 << 22  # bytes that a broker may leave unread


class Broker:
    """Starts the broker, and again when it dies; tells it of the VRs."""

    _role: ClassVar[str] = "broker"

    def __init__(self, reactor: Reactor, zygote: Zygote, run_dir: Path, ended: Callable[[], None]) -> None:
        self._reactor = reactor
        self._zygote = zygote
        self._run_dir = run_dir
        self._routers: list[dict[str, Any]] = []
        self._socket: socket.socket | None = None
        self._theirs: socket.socket | None = None
        self._output = bytearray()
        self._framing = Framing()
        self._probing = Probe(SILENCES)
        self._uid, self._lock = 0, -1
        self.member = Member(reactor, self._role, "", Hooks(self._spawn, self._greet, self._lost, ended))

    @property
    def uid(self) -> int:
        """The uid of broker and relay; 0 before the start."""
        return self._uid

    @property
    def lock(self) -> int:
        """The fd that keeps the uid ours."""
        return self._lock

    def start(self, uid_range: tuple[int, int]) -> None:
        """Start it under a uid of its own."""
        self._uid, self._lock = uids.lock(*uid_range)
        self.member.start()

    def end(self) -> None:
        """End it for good."""
        self.member.end()

    def close(self) -> None:
        """Free what it had; after it has ended."""
        self._drop()
        if self._lock >= 0:
            uids.release(self._uid, self._lock)
            self._lock = -1
        (self._run_dir / "rsock.sock").unlink(missing_ok=True)

    def tell(self, routers: list[dict[str, Any]], events: list[dict[str, Any]]) -> None:
        """Give the VRs as they are now, and what has happened."""
        if routers != self._routers:
            self._routers = routers
            self._send({"op": "routers", "routers": routers})
        for event in events:
            self._send({"op": "event", **event})

    def _spawn(self, done: Callable[[Child], None]) -> None:
        self._drop()
        self._socket, self._theirs = socket.socketpair()
        self._socket.setblocking(False)
        self._zygote.spawn(
            self._role, "", uid=self._uid, gid=self._uid, run_dir=str(self._run_dir),
            fds={"control": self._theirs.fileno(), "uid_lock": self._lock}, done=done,
        )  # fmt: skip

    def _greet(self) -> None:
        assert self._socket is not None
        assert self._theirs is not None
        self._theirs.close()
        self._theirs = None
        self._reactor.add(self._socket.fileno(), READ, self._on_ready)
        self._probing.begin(self.member.pid or 0)
        for message in self._opening():
            self._send(message)

    def _opening(self) -> list[dict[str, Any]]:
        """Give what a new process hears first."""
        return [{"op": "routers", "routers": self._routers}, {"op": "ping"}]

    def _probe(self) -> None:
        if not self.member.ready:
            return
        if self._probing.silent:
            self.member.fence("does not answer")
            return
        if self._probing.stopped:
            self.member.fence("stopped by a signal")
            return
        asked = self._probing.due(owing=bool(self._output))
        if asked:
            self._send({"op": "ping"})
        self._reactor.after(PROBE_INTERVAL if asked else PROBE_RESTING, self._probe)

    def _lost(self, reason: str) -> None:
        del reason
        self._drop()

    def _send(self, message: dict[str, Any]) -> None:
        if self._socket is None or self._theirs is not None:
            return
        self._output += frame(msgpack.packb(message))
        if len(self._output) > LIMIT:
            self.member.fence("does not read")
            return
        self._flush()

    def _flush(self) -> None:
        if self._socket is None:
            return
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            while self._output:
                del self._output[: self._socket.send(self._output)]
        self._reactor.modify(self._socket.fileno(), READ | WRITE if self._output else READ, self._on_ready)

    def _on_ready(self) -> None:
        if self._output:
            self._flush()
        if self._socket is None:
            return
        try:
            data = self._socket.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._reactor.remove(self._socket.fileno())
            return  # its death is reported by its pidfd
        for _body in self._framing.feed(data):  # it says nothing but that it lives
            self._probing.answered()
            if not self.member.ready:
                self.member.answered()
                self._reactor.after(PROBE_INTERVAL, self._probe)

    def _drop(self) -> None:
        self._probing.end()
        self._output.clear()
        self._framing = Framing()
        for end in (self._socket, self._theirs):
            if end is not None:
                self._reactor.remove(end.fileno())
                end.close()
        self._socket = self._theirs = None
