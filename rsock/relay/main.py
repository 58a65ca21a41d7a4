"""The relay's loop: apps on one side, forwarders on the other, the manager in between.

manager --> relay   {op: listen, endpoint, secret, lease}   first; then as to the broker (rsock.broker.link)

An unprivileged process with the broker's uid; to the forwarders it is an app, which says for whom it asks.  Nothing is
read from a socket before there is room to send it, and each app has its turn (deficit round robin): one that reads
slowly, or sends much, costs the others nothing but time.

Apps are hostile: messages, queues, sockets and sessions of one key are bounded, and a session that breaks the
protocol ends.  ZeroMQ itself collects a message of any number of frames: one who has a key can make us run into our
memory limit, and all apps of the relay lose their connections then.
"""

from __future__ import annotations

import logging
import os
import secrets
import select
import socket
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn

import msgpack
import zmq
from zmq.utils import z85

from rsock.broker import privileges
from rsock.broker.link import Framing, frame
from rsock.client_core import ProtocolError, unpack_map
from rsock.poll import Poll
from rsock.relay.apps import SESSIONS_PER_KEY, App, House
from rsock.relay.directory import Directory
from rsock.relay.doors import Doors, Message
from rsock.session import HEARTBEAT, LEASE, UNNUMBERED, Frames
from rsock.wire import HEADER, MAGIC, VERSION, Flag, Op

MEMORY: Final = 1 << 30
QUANTUM: Final = 256 << 10
_LOOK: Final = 0.5

log = logging.getLogger("rsock.relay")


class Relay:
    """Serves apps; `broker` is where the manager's broker listens."""

    def __init__(
        self, manager: socket.socket, doors: Doors, house: House, framing: Framing, lease: float, broker: Path
    ) -> None:
        self._manager, self._doors, self._house, self._framing = manager, doors, house, framing
        self._lease, self._broker = lease, broker
        self._apps: dict[tuple[bytes, bytes], App] = {}  # by key and token
        self._routes: dict[bytes, App] = {}
        self._tokens: dict[int, tuple[bytes, bytes]] = {}
        self._predecessor = 0  # the inode of the broker's socket when the manager had gone
        self._over = False

    def serve(self) -> None:
        """Serve until ended, or, when the manager has crashed, until its successor is there."""
        poll = self._house.poll
        for fd in self._doors.fds:
            poll.add(fd, lambda _events: None, select.EPOLLIN | select.EPOLLET)
        poll.add(self._manager.fileno(), lambda _events: self.hear_manager(), select.EPOLLIN)
        poll.after(_LOOK, self._look)
        while not self._over:
            poll.turn(wait=not self._busy())
            self._doors.judge()
            for message in self._doors.messages():
                self._take(message)
            for app in [app for app in self._apps.values() if app.active]:
                app.turn(QUANTUM)
            for app in self._apps.values():
                self._flush(app)

    def _busy(self) -> bool:
        return self._doors.ready or any(app.active for app in self._apps.values())

    # --- the manager ---

    def hear_manager(self) -> None:
        """Take what it says."""
        try:
            data = self._manager.recv(1 << 18)
        except OSError:
            data = b""
        if not data:
            self._house.poll.remove(self._manager.fileno())
            self._predecessor = self._inode()
            self._over = self._predecessor == 0
        for body in self._framing.feed(data):
            self.obey(msgpack.unpackb(body))

    def _inode(self) -> int:
        try:
            return self._broker.stat().st_ino
        except OSError:
            return 0

    def obey(self, message: dict[str, Any]) -> None:
        """Do what one message of the manager says."""
        match message["op"]:
            case "routers":
                self._house.directory.replace(message["routers"])
                self._house.forget_forwarders({router["path"] for router in message["routers"]})
                for app in list(self._apps.values()):
                    if app.key not in self._house.directory.keys:
                        self._end(app, "no rule names its key any more")
            case "event":
                name = message["vr"]
                facts = self._house.directory.facts(name)
                what = {"event": message["event"], "vr": name, "reason": message["reason"], **facts}
                body: Any = msgpack.packb(what)
                for app in self._apps.values():
                    if app.watches and self._house.directory.may_hear_of(name, app.key):
                        app.event(body)
            case "ping":
                pong: Any = msgpack.packb({"op": "pong"})
                self._manager.sendall(frame(pong))
            case _:
                pass  # of a manager that knows more

    # --- apps ---

    def _take(self, message: Message) -> None:
        if message.op == Op.HELLO:
            self._greet(message)
            return
        app = self._routes.get(message.route)
        if app is None or app.key != message.key or app.session.number != message.session:
            return
        app.heard = time.monotonic()
        session = app.session
        try:
            if message.op == Op.ACK:
                session.acknowledge(message.sequence)
                if message.flags & Flag.MORE:
                    session.ack(partial(self._doors.send, app.route))
            elif message.op == Op.BYE:
                self._end(app, "", reset=False)
            elif message.op not in UNNUMBERED and session.is_new(message.sequence, len(message.payload)):
                app.handle(message.op, message.socket, message.error, message.value, message.sequence, message.payload)
        except ProtocolError as error:
            self._end(app, str(error))

    def _greet(self, message: Message) -> None:
        try:
            body = unpack_map(message.payload)
            token, seen = body["token"], body["received"]
        except (ProtocolError, KeyError):
            return
        if not isinstance(token, bytes) or not isinstance(seen, int):
            return
        app = self._apps.get((message.key, token))
        resumed = app is not None
        if app is None:
            if len(token) != 16 or sum(key == message.key for key, _token in self._apps) >= SESSIONS_PER_KEY:
                return
            identity = z85.decode(message.key)
            app = App(self._house, message.key, identity, message.session, self._lease)
            self._apps[message.key, token] = app
            self._tokens[id(app)] = (message.key, token)
        self._routes.pop(app.route, None)
        app.route, app.heard = message.route, time.monotonic()
        self._routes[app.route] = app
        answer = {
            "ver": VERSION, "epoch": self._house.epoch, "resumed": resumed, "received": app.session.received,
            "lease": app.lease, "heartbeat": min(HEARTBEAT, app.lease / 5),
        }  # fmt: skip
        header = HEADER.pack(MAGIC, Op.HELLO, Flag.REPLY, app.session.number, 0, 0, 0, 0)
        packed: Any = msgpack.packb(answer)
        try:
            app.session.resume(seen if resumed else 0)
        except ProtocolError as error:
            self._end(app, str(error))
            return
        self._doors.send(app.route, (header, packed))

    def _flush(self, app: App) -> None:
        session = app.session
        if not app.route or not (session.waiting or session.untold):
            return

        def write(frames: Frames) -> bool:
            sent = self._doors.send(app.route, frames)
            if sent is None:  # it will come again, or its lease ends
                self._routes.pop(app.route, None)
                app.route = b""
            return bool(sent)

        session.flush(write)
        if app.route and session.owes:
            session.ack(write)

    def _look(self) -> None:
        now = time.monotonic()
        for app in list(self._apps.values()):
            if now - app.heard > app.lease:
                self._end(app, "its lease is over")
            elif app.route and app.session.untold:
                app.session.ack(partial(self._doors.send, app.route))
        if self._predecessor and self._inode() != self._predecessor:
            self._over = True
        self._house.poll.after(min(_LOOK, self._lease / 10), self._look)

    def _end(self, app: App, reason: str, *, reset: bool = True) -> None:
        if reason:
            log.warning("session of %s ended: %s", app.key.decode(), reason)
            if app.route:
                header = HEADER.pack(MAGIC, Op.BYE, 0, app.session.number, 0, 0, 0, 0)
                self._doors.send(app.route, (header, b""))
        self._routes.pop(app.route, None)
        self._apps.pop(self._tokens.pop(id(app), (b"", b"")), None)
        app.route = b""
        app.end(reset=reset)
        if not reset:  # what is still on its way has that long
            self._house.poll.after(app.lease, partial(app.end, reset=True))


def _orders(manager: socket.socket, framing: Framing) -> tuple[dict[str, Any], list[bytes]]:
    """Wait for what we shall be: the first message, and those that came with it."""
    bodies: list[bytes] = []
    while not bodies:
        data = manager.recv(1 << 18)
        if not data:
            sys.exit(0)
        bodies = framing.feed(data)
    return msgpack.unpackb(bodies[0]), bodies[1:]


def main(*, uid: int, gid: int, run_dir: str, control_fd: int) -> NoReturn:
    """Bind as root, become an ordinary user, serve."""
    logging.basicConfig(format="%(name)s: %(message)s")
    privileges.gain_none()
    manager = socket.socket(fileno=control_fd)
    framing = Framing()
    orders, rest = _orders(manager, framing)
    house = House(Poll(), Directory(), secrets.randbits(63))
    try:
        doors = Doors(orders["endpoint"], orders["secret"], lambda key: key in house.directory.keys)
    except (zmq.ZMQError, ValueError) as error:
        sys.exit(f"cannot listen on {orders['endpoint']}: {error}")
    privileges.limit_memory(MEMORY)
    privileges.become(uid, gid)
    relay = Relay(manager, doors, house, framing, float(orders.get("lease", LEASE)), Path(run_dir) / "rsock.sock")
    for body in rest:
        relay.obey(msgpack.unpackb(body))
    relay.serve()
    # The process ends here, and with it ZeroMQ's threads: closing in order would only take time.
    os._exit(0)
