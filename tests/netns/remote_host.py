"""A router's host with its relay, and another host that reaches nothing but that.

    host --- red (router) [box] --- mgmt 198.51.100.0/24 --- [away] the apps

Tests run in the namespace `away` themselves, since abstract names of AF_UNIX belong to one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from socket import AF_INET
from typing import Any, Final

import zmq
from lab import Lab, wait_until

import rsock

VR, HOST = "10.0.0.1", "10.0.0.2"
RELAY: Final = "198.51.100.1"
PORT: Final = 9100
WAIT: Final = 10.0
ALL: Final = ["connect", "listen", "udp", "raw", "multicast"]


class Keys:
    """A pair of CURVE keys."""

    def __init__(self) -> None:
        public, secret = zmq.curve_keypair()
        self.public, self.secret = public.decode(), secret.decode()


class World:
    """Red and blue, the host behind red, and apps elsewhere."""

    def __init__(self, lab: Lab, lease: int = 3) -> None:
        self.lab = lab
        self.host = lab.host("host", "lan", "10.0.0.2/24")
        self.away = lab.namespace("away")
        lab.veth("mgmt", None, self.away, "uplink", far_address="198.51.100.2/24")
        lab.box.address("mgmt", f"{RELAY}/24")
        self.relay, self.app, self.other, self.narrow, self.stranger = (Keys() for _ in range(5))
        secrets = lab.conf_dir / "secrets"
        secrets.mkdir()
        (secrets / "relay").write_text(self.relay.secret)
        (secrets / "relay").chmod(0o600)
        rules = [
            {"app": f"curve:{self.app.public}", "allow": ALL},
            {"app": f"curve:{self.other.public}", "allow": ALL},
            {"app": f"curve:{self.narrow.public}", "allow": ["connect"], "prefixes": ["10.0.9.0/24"]},
        ]
        red = {"interfaces": {"lan": {"device": "lan", "addresses": ["10.0.0.1/24"]}}, "rsock": {"rules": rules}}
        blue = {"rsock": {"rules": [{"app": "uid:4711", "allow": ["udp"]}]}}
        lab.configure({"red": red, "blue": blue})
        lab.configure_text(
            f"rsock: {{listen: 'tcp://{RELAY}:{PORT}', curve-secret: !secret relay, lease: {lease}}}\n", "system.yaml"
        )
        lab.start()
        self._contexts: list[rsock.Context] = []

    def context(self, keys: Keys | None = None, server_key: str = "", timeout: float = 5.0) -> rsock.Context:
        """Make a context of an app."""
        keys = keys or self.app
        curve = rsock.Curve(server_key or self.relay.public, keys.public, keys.secret)
        made = rsock.Context(f"tcp://{RELAY}:{PORT}", curve=curve, timeout=timeout)
        self._contexts.append(made)
        return made

    def relay_pid(self) -> int:
        """Give the pid of the relay."""

        def find() -> int:
            for pid in self.lab.box.processes():
                with contextlib.suppress(OSError):
                    if b"anabranch: relay" in Path(f"/proc/{pid}/cmdline").read_bytes():
                        return pid
            return 0

        return int(wait_until(find, "a relay"))

    def memory(self) -> int:
        """Give the bytes that the relay uses."""
        for line in Path(f"/proc/{self.relay_pid()}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) << 10
        return 0

    def kernel(self, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """Make a socket on the host behind red."""
        made = self.host.socket(AF_INET, kind)
        made.settimeout(WAIT)
        return made

    def kernel_listener(self, backlog: int = 256) -> socket.socket:
        """Listen on the host."""
        made = self.kernel()
        made.bind(("", 0))
        made.listen(backlog)
        return made

    def open(self, ctx: rsock.Context, kind: int = socket.SOCK_STREAM) -> rsock.socket:
        """Open a socket in red."""
        made = rsock.socket(AF_INET, kind, vr="red", ctx=ctx)
        made.settimeout(WAIT)
        return made

    def connected(self, ctx: rsock.Context) -> tuple[socket.socket, socket.socket]:
        """Connect to the host: (ours, the kernel's)."""
        with self.kernel_listener() as listener:
            ours = self.open(ctx)
            ours.connect((HOST, listener.getsockname()[1]))
            theirs, _peer = listener.accept()
        theirs.settimeout(WAIT)
        return ours, theirs

    def link(self, *, up: bool) -> None:
        """Cut the apps' host off, or bring it back."""
        self.lab.box.ip("link", "set", "mgmt", "up" if up else "down")

    def close(self) -> None:
        """End the apps."""
        for context in self._contexts:
            channel: Any = context._channel
            if channel is not None:
                channel.end()
            context.close()


@contextlib.contextmanager
def worlds(lease: int = 3) -> Iterator[World]:
    """Run one; the caller's thread is in the namespace of the apps meanwhile."""
    with Lab() as lab:
        world = World(lab, lease)
        with world.away.entered():
            try:
                yield world
            finally:
                world.close()


def error_of(call: Callable[[], Any]) -> str:
    """Give the name of the errno that a call raises."""
    try:
        call()
    except OSError as problem:
        return errno.errorcode.get(problem.errno or 0, type(problem).__name__)
    return ""


class Visitor(threading.Thread):
    """Connects, has some bytes echoed and checks them, again and again."""

    def __init__(self, world: World, ctx: rsock.Context, port: int) -> None:
        super().__init__()
        self._world, self._ctx, self._port = world, ctx, port
        self.over = False
        self.visits, self.wrong, self.slowest = 0, "", 0.0
        self.errors: set[str] = set()
        self.start()

    def run(self) -> None:
        """Visit."""
        while not self.over:
            begin = time.monotonic()
            self.errors.add(error_of(self._visit))
            self.slowest = max(self.slowest, time.monotonic() - begin)

    def _visit(self) -> None:
        sent, got = os.urandom(random.randrange(1, 100000)), b""
        with self._world.open(self._ctx) as ours:
            ours.connect((HOST, self._port))
            ours.sendall(sent)
            while len(got) < len(sent):
                if not (part := ours.recv(1 << 16)):
                    self.wrong = "an end of file"
                    return
                got += part
        self.visits += 1
        self.wrong = self.wrong or ("" if got == sent else "other bytes")


def echo(listener: socket.socket) -> None:
    """Send back what comes, until the listener is shut down."""

    def serve(theirs: socket.socket) -> None:
        with theirs, contextlib.suppress(OSError):
            while part := theirs.recv(1 << 16):
                theirs.sendall(part)

    with contextlib.suppress(OSError):
        while True:
            theirs, _peer = listener.accept()
            theirs.settimeout(WAIT)
            threading.Thread(target=serve, args=(theirs,), daemon=True).start()
