"""The broker's loop: one ROUTER socket for apps, one stream to the manager.

Messages are two frames, the header of `rsock.wire` and a msgpack map; replies echo op and request.

    HELLO  {}               -> {version, session, epoch, vrs: [...]}
    LIST   {}               -> {vrs: [{name, id, state, rights}]}       those where the app has any right
    WATCH  {on: bool = true} -> {vrs: [...]}; then EVENT {event, vr, reason, id, state} with Flag.DATA
    TICKET {vr, want: bits} -> {vr, id, state, path, rights}            ENODEV, EACCES, ENETDOWN
    PING   {}               -> {epoch, watching}    another epoch: a new broker, which knows no watchers

Sockets of apps never depend on the broker: it only says where a forwarder listens.  Who asks is known
from the kernel, not from anything in a message.

Apps are hostile: frames, queues and memory are bounded, and the kernel refuses fds that are sent to us,
since ZeroMQ would drop them, and dropping the last copy of a stranger's fd (a TCP socket that lingers)
can hold a thread for as long as the stranger likes.

Not supported: CURVE over tcp; apps of other hosts have the relay.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import secrets
import socket
import sys
import time
from pathlib import Path
from typing import Any, Final, NoReturn

import msgpack
import zmq

from rsock.broker import crowd, privileges
from rsock.broker.authorize import Identity, parse_address
from rsock.broker.denials import Denials
from rsock.broker.events import Watchers
from rsock.broker.introduce import Directory
from rsock.broker.link import Framing, frame
from rsock.wire import HEADER, MAGIC, VERSION, Flag, Op

log = logging.getLogger(__name__)
MAX_FRAME: Final = 4096  # requests are some hundred bytes
QUEUE: Final = 64  # messages of one app that wait, each way
# ZeroMQ collects a message of any number of frames before we see it: better we die, and are born
# again, than the machine runs out of memory.
MEMORY: Final = 256 << 20
BACKLOG: Final = 512
SO_PASSRIGHTS: Final = 83  # Linux 6.16
BURST: Final = 256  # messages taken between two looks at the manager
ORPHAN_CHECK: Final = 200  # milliseconds between looks for a successor
RETRY: Final = 20  # milliseconds between attempts to serve slow watchers


class Broker:
    """Answers apps."""

    def __init__(self, router: zmq.Socket[bytes], manager: socket.socket, path: Path) -> None:
        self._router = router
        self._manager = manager
        self._path = path
        self._inode = path.stat().st_ino
        self._orphaned = False
        self._framing = Framing()
        self._directory = Directory()
        self._watchers = Watchers(self._send)
        self._epoch = secrets.randbits(63)
        self._sessions = secrets.randbits(24)
        self._denials = Denials(time.monotonic)
        self._known = False  # the manager has told of the VRs

    def serve(self) -> None:
        """Serve until ended, or, when the manager has crashed, until its successor's broker takes our place."""
        poller = zmq.Poller()
        poller.register(self._manager, zmq.POLLIN)
        while not (self._orphaned and self._replaced()):
            ready = dict(poller.poll(self._patience()))
            if self._manager.fileno() in ready and not self._hear_manager():
                poller.unregister(self._manager)
                self._orphaned = True
            if self._known and self._router not in poller:
                poller.register(self._router, zmq.POLLIN)
            if self._router in ready:
                self._hear_apps()
            if self._watchers.behind:
                self._watchers.flush()

    def _send(self, frames: list[bytes]) -> None:
        self._router.send_multipart(frames, zmq.DONTWAIT)

    def _patience(self) -> int | None:
        if self._watchers.behind:
            return RETRY
        return ORPHAN_CHECK if self._orphaned else None

    def _replaced(self) -> bool:
        try:
            return self._path.stat().st_ino != self._inode
        except OSError:
            return True

    def _hear_manager(self) -> bool:
        try:
            data = self._manager.recv(1 << 18)
        except OSError:
            return False
        if not data:
            return False
        for body in self._framing.feed(data):
            message: dict[str, Any] = msgpack.unpackb(body)
            match message["op"]:
                case "routers":
                    self._directory.replace(message["routers"])
                    self._known = True
                case "event":
                    self._announce(message)
                case "ping":
                    self._manager.sendall(frame(msgpack.packb({"op": "pong"})))
                    if cut := crowd.sweep():
                        log.warning("event=crowded connections-cut=%d", cut)
        return True

    def _announce(self, message: dict[str, Any]) -> None:
        name = message["vr"]
        body = {"event": message["event"], "vr": name, "reason": message["reason"], **self._directory.facts(name)}
        header = HEADER.pack(MAGIC, Op.EVENT, Flag.DATA, 0, 0, 0, 0, 0)
        self._watchers.publish(
            [header, msgpack.packb(body)], lambda identity: self._directory.may_hear_of(name, identity)
        )

    def _hear_apps(self) -> None:
        for _turn in range(BURST):
            try:
                frames = self._router.recv_multipart(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                return
            if len(frames) != 3 or len(frames[1]) != HEADER.size:
                continue
            identity = _identity_of(frames[1])
            if identity is None:
                continue
            routing_id = frames[0].bytes
            magic, op, _flags, session, request, _slot, _error, _cookie = HEADER.unpack(frames[1].bytes)
            if magic == MAGIC:
                error, body = self._answer(op, frames[2].bytes, routing_id, identity)
                flags = Flag.REPLY | (Flag.ERROR if error else 0)
                header = HEADER.pack(MAGIC, op, flags, session, request, 0, error, 0)
                with contextlib.suppress(zmq.ZMQError):  # gone, or it does not read its answers
                    self._router.send_multipart([routing_id, header, msgpack.packb(body)], zmq.DONTWAIT)

    def _answer(self, op: int, raw: bytes, routing_id: bytes, identity: Identity) -> tuple[int, dict[str, Any]]:
        try:
            body = msgpack.unpackb(raw, strict_map_key=True) if raw else {}
        except Exception:  # noqa: BLE001 - whatever an app sends, it is its own problem
            return errno.EPROTO, {}
        if not isinstance(body, dict):
            return errno.EPROTO, {}
        match op:
            case Op.HELLO:
                self._sessions = (self._sessions + 1) % 2**32
                known = self._directory.visible(identity)
                return 0, {"version": VERSION, "session": self._sessions, "epoch": self._epoch, "vrs": known}
            case Op.LIST:
                return 0, {"vrs": self._directory.visible(identity)}
            case Op.WATCH:
                if body.get("on", True) is False:
                    self._watchers.remove(routing_id)
                elif not self._watchers.add(routing_id, identity):
                    return errno.ENOBUFS, {}
                return 0, {"vrs": self._directory.visible(identity), "epoch": self._epoch}
            case Op.TICKET:
                if "vr" not in body:
                    return errno.EPROTO, {}
                error, answer = self._directory.introduce(body["vr"], body.get("want", 0), identity)
                if error in {errno.EACCES, errno.ENODEV}:
                    self._denials.note(identity, body["vr"], "ticket", error)
                return error, answer
            case Op.PING:
                return 0, {"epoch": self._epoch, "watching": routing_id in self._watchers}
        return errno.EOPNOTSUPP, {}


def _identity_of(message: zmq.Frame) -> Identity | None:
    try:
        address = message.get("Peer-Address")
    except zmq.ZMQError:
        return None
    return parse_address(str(address))


def _check_credentials(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    """See that libzmq tells us who we are: it is documented thinly, and everything rests on it."""
    endpoint = f"ipc://@anabranch-{secrets.token_hex(16)}"
    with context.socket(zmq.ROUTER) as router, context.socket(zmq.DEALER) as probe:
        router.linger = probe.linger = 0
        router.bind(endpoint)
        probe.connect(endpoint)
        probe.send(b"probe")
        if not router.poll(2000):
            raise RuntimeError("the broker cannot reach itself")
        expected = Identity(os.geteuid(), os.getegid(), os.getpid())
        if _identity_of(router.recv_multipart(copy=False)[-1]) != expected:
            raise RuntimeError("this libzmq does not tell the credentials of ipc peers")


def _listen(path: Path) -> socket.socket:
    """Make the listener: open to all from its first moment, closed to fds."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with contextlib.suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)
    old = os.umask(0o111)
    try:
        listener.bind(str(path))
    finally:
        os.umask(old)
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def main(*, uid: int, gid: int, run_dir: str, control_fd: int) -> NoReturn:
    """Bind as root, become an ordinary user, serve."""
    privileges.gain_none()
    manager = socket.socket(fileno=control_fd)
    path = Path(run_dir) / "rsock.sock"
    endpoint = f"ipc://{path}"
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    _check_credentials(context)
    router = context.socket(zmq.ROUTER)
    router.linger = 0
    router.router_mandatory = True
    router.maxmsgsize = MAX_FRAME
    router.rcvhwm = router.sndhwm = QUEUE
    listener = _listen(path)
    router.setsockopt(zmq.USE_FD, listener.detach())  # ZeroMQ's from now on
    router.bind(endpoint)
    privileges.limit_memory(MEMORY)
    resource.setrlimit(resource.RLIMIT_NOFILE, (crowd.FILES, crowd.FILES))
    logging.basicConfig(format="%(levelname)s broker: %(message)s", level=logging.INFO, stream=sys.stderr)
    privileges.become(uid, gid)
    Broker(router, manager, path).serve()
    # The process ends here, and with it ZeroMQ's threads: closing in order would only take time.
    os._exit(0)
