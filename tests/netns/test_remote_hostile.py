"""Hostile clients of a relay: with a key, and without."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from socket import AF_INET
from typing import Any, Final

import msgpack
import pytest
import zmq
from lab import wait_until
from remote_host import HOST, PORT, RELAY, Keys, World, worlds

import rsock
from rsock.client_core import open_body
from rsock.remote.pump import relayed
from rsock.session import MAX_MESSAGE
from rsock.wire import HEADER, MAGIC, Flag, Op

pytestmark = [pytest.mark.in_order, pytest.mark.quiet, pytest.mark.root]

SESSION: Final = 77
MEMORY: Final = 96 << 20  # that a hostile app may cost the relay


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with worlds(lease=2) as made:
        yield made


class Attacker:
    """A DEALER with a good key and bad manners."""

    def __init__(self, world: World, keys: Keys) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.dealer = self._context.socket(zmq.DEALER)
        self.dealer.linger = 0
        self.dealer.sndhwm = self.dealer.rcvhwm = 0
        self.dealer.sndtimeo = self.dealer.rcvtimeo = 5000
        self.dealer.curve_serverkey = world.relay.public.encode()
        self.dealer.curve_publickey, self.dealer.curve_secretkey = keys.public.encode(), keys.secret.encode()
        self.dealer.connect(f"tcp://{RELAY}:{PORT}")
        self.sequence = 0

    def hello(self) -> None:
        """Begin a session."""
        body: Any = msgpack.packb({"ver": 1, "token": os.urandom(16), "received": 0})
        self.dealer.send_multipart([HEADER.pack(MAGIC, Op.HELLO, 0, SESSION, 0, 0, 0, 0), body])
        assert HEADER.unpack(self.dealer.recv_multipart()[0])[1] == Op.HELLO

    def say(self, op: int, payload: bytes = b"", *, number: int = 0, value: int = 0, error: int = 0) -> int:
        """Say something in the session; give its number."""
        self.sequence += 1
        self.dealer.send_multipart([HEADER.pack(MAGIC, op, 0, SESSION, self.sequence, number, error, value), payload])
        return self.sequence

    def answers(self, seconds: float) -> list[tuple[Any, ...]]:
        """Give the headers of what comes."""
        found: list[tuple[Any, ...]] = []
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self.dealer.poll(round(left * 1000)):
                found.append(HEADER.unpack(self.dealer.recv_multipart()[0]))
                if found[-1][1] == Op.BYE:
                    break
        return found

    def close(self) -> None:
        """Go."""
        self.dealer.close(0)
        self._context.term()


@contextlib.contextmanager
def attacker(world: World) -> Iterator[Attacker]:
    """Run one; the relay must be the same afterwards, and others served."""
    pid = world.relay_pid()
    made = Attacker(world, world.other)
    try:
        yield made
    finally:
        made.close()
    assert world.relay_pid() == pid
    ours, theirs = world.connected(world.context())
    ours.sendall(b"still there")
    assert theirs.recv(100) == b"still there"
    ours.close()
    theirs.close()


BREACHES: Final[dict[str, Callable[[Attacker], Any]]] = {
    "gap": lambda app: [app.say(Op.PING) for app.sequence in (0, 5)],
    "unknown": lambda app: (app.say(Op.OPEN, open_of(), number=1), app.say(63, number=1)),
    "short open": lambda app: app.say(Op.OPEN, b"red", number=1),
    "long open": lambda app: app.say(Op.OPEN, open_of() + bytes(100), number=1),
    "their number": lambda app: app.say(Op.OPEN, open_of(), number=1 << 31),
    "twice": lambda app: (app.say(Op.OPEN, open_of(), number=1), app.say(Op.OPEN, open_of(), number=1)),
    "no map": lambda app: app.say(Op.TICKET, b"\xc1"),
    "too much": lambda app: flood(app),  # noqa: PLW0108 - it stands below
    "wrong offset": lambda app: (app.say(Op.OPEN, open_of(), number=1), app.say(Op.DATA, b"x", number=1, value=9)),
    "half a record": lambda app: (
        app.say(Op.OPEN, open_of(socket.SOCK_DGRAM), number=1),
        app.say(Op.DATA, b"\xff\0\0\0", number=1),
    ),
    "acknowledges the future": lambda app: app.dealer.send_multipart(
        [HEADER.pack(MAGIC, Op.ACK, 0, SESSION, 1 << 40, 0, 0, 0), b""]
    ),
    "a long request": lambda app: (app.say(Op.OPEN, open_of(), number=1), app.say(Op.SETOPT, bytes(60000), number=1)),
}


def open_of(kind: int = socket.SOCK_STREAM) -> bytes:
    return relayed("red", open_body(AF_INET, kind, 0, os.urandom(16), b"hostile"))


def flood(app: Attacker) -> None:
    app.say(Op.OPEN, open_of(), number=1)
    for at in range(40):
        app.say(Op.DATA, bytes(1 << 16), number=1, value=at << 16)


@pytest.mark.parametrize("breach", BREACHES)
def test_who_breaks_the_protocol_loses_the_session(world: World, breach: str) -> None:
    with attacker(world) as app:
        app.hello()
        BREACHES[breach](app)
        assert Op.BYE in {answer[1] for answer in app.answers(3)}


def test_noise(world: World) -> None:
    """Nonsense of all sizes, with and without a session, a key, or ZeroMQ."""
    with attacker(world) as app:
        for frames in ([b""], [b"x"], [b"x" * 32, b""], [bytes(32)] * 3, [b""] * 100, [os.urandom(32), bytes(1000)]):
            app.dealer.send_multipart(frames)
        header = HEADER.pack(MAGIC, Op.HELLO, 0, 0, 0, 0, 0, 0)
        for body in (b"", b"\xc1", msgpack.packb([]), msgpack.packb({"token": 5, "received": "x"}), bytes(60000)):
            app.dealer.send_multipart([header, body])
        app.hello()
        for _ in range(20):
            app.dealer.send_multipart([HEADER.pack(MAGIC, Op.PING, 0, SESSION + 1, 1, 0, 0, 0), b""])
        app.say(Op.PING)
        assert {answer[1] for answer in app.answers(0.3)} - {Op.ACK} == {Op.PING}
        for junk in (b"", b"GET / HTTP/1.0\r\n\r\n", os.urandom(1000), b"\xff" + bytes(8) + b"\x7f" + bytes(5000)):
            with socket.create_connection((RELAY, PORT), timeout=5) as plain, contextlib.suppress(OSError):
                plain.sendall(junk)
        idle = [socket.create_connection((RELAY, PORT), timeout=5) for _ in range(200)]
        for plain in idle:
            plain.close()


def test_a_message_that_is_too_long(world: World) -> None:
    with attacker(world) as app:
        app.hello()
        app.say(Op.DATA, bytes(2 * MAX_MESSAGE))
        assert app.answers(0.5) == []  # the connection has ended


def test_ten_thousand_opens(world: World) -> None:
    """The quota holds, memory does, and when the lease is over nothing is left."""
    before = world.memory()
    with attacker(world) as app:
        app.hello()
        opened = refused = 0
        for number in range(1, 10001):
            app.say(Op.OPEN, open_of(socket.SOCK_DGRAM if number % 2 else socket.SOCK_STREAM), number=number)
            while number - opened - refused > (400 if number < 10000 else 0):
                _magic, op, flags, _session, sequence, *_rest = HEADER.unpack(app.dealer.recv_multipart()[0])
                assert op in {Op.OPEN, Op.ACK}
                if op == Op.OPEN:
                    refused += bool(flags & Flag.ERROR)
                    opened += not flags & Flag.ERROR
                    if sequence % 50 == 0:
                        app.dealer.send_multipart([HEADER.pack(MAGIC, Op.ACK, 0, SESSION, sequence, 0, 0, 0), b""])
        print(f"{opened} of 10000 opened, {(world.memory() - before) >> 20} MiB")
        assert 0 < opened <= 4096
        assert world.memory() - before < MEMORY
        ours, theirs = world.connected(world.context())
        ours.sendall(b"meanwhile")
        assert theirs.recv(100) == b"meanwhile"
        ours.close()
        theirs.close()
    pid = world.relay_pid()
    wait_until(lambda: len(os.listdir(f"/proc/{pid}/fd")) < 200, "the sockets are gone", 10)


def test_who_does_not_read_costs_little(world: World) -> None:
    """Requests without end, streams and datagrams that nobody takes."""
    before = world.memory()
    with attacker(world) as app:
        app.hello()
        for _ in range(20000):
            app.say(Op.LIST)
        assert world.memory() - before < MEMORY
    with attacker(world) as app, world.kernel_listener() as listener:
        app.hello()
        far: list[socket.socket] = []
        name = b"\x02\0" + listener.getsockname()[1].to_bytes(2, "little") + bytes(4) + socket.inet_aton(HOST)
        for number in range(1, 17):
            app.say(Op.OPEN, open_of(), number=number)
        app.answers(0.2)
        for number in range(1, 17):
            app.say(Op.CONNECT, name.ljust(52, b"\0"), number=number)
        for number in range(1, 17):
            far.append(listener.accept()[0])
            app.say(Op.CREDIT, number=number, value=1 << 40)
        for sock in far:
            sock.setblocking(False)
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            for sock in far:
                with contextlib.suppress(OSError):
                    sock.send(bytes(1 << 18))
        assert world.memory() - before < MEMORY
        for sock in far:
            sock.close()


def test_a_stranger_cannot_resume(world: World) -> None:
    """The same token and number with another key is another session."""
    token = os.urandom(16)
    body: Any = msgpack.packb({"ver": 1, "token": token, "received": 0})
    frames = [HEADER.pack(MAGIC, Op.HELLO, 0, SESSION, 0, 0, 0, 0), body]
    first, second, third = (Attacker(world, keys) for keys in (world.other, world.app, world.stranger))
    resumed = []
    for app in (first, second, first):
        app.dealer.send_multipart(frames)
        resumed.append(msgpack.unpackb(app.dealer.recv_multipart()[1])["resumed"])
    assert resumed == [False, False, True]
    with contextlib.suppress(zmq.Again):  # no connection, nobody to send to
        third.dealer.send_multipart(frames, zmq.DONTWAIT)
    assert third.answers(0.5) == []
    for app in (first, second, third):
        app.close()


def test_a_rule_that_goes_ends_the_session(world: World) -> None:
    """A key that no rule names any more is cut off; another app's sockets live on."""
    mine, his = world.connected(world.context(world.other)), world.connected(world.context())
    wide = [{"app": f"curve:{world.app.public}", "allow": "all"}]
    red = {"interfaces": {"lan": {"device": "lan", "addresses": ["10.0.0.1/24"]}}, "rsock": {"rules": wide}}
    world.lab.configure({"red": red})
    world.lab.vr("apply")
    with pytest.raises(OSError, match="reset"):
        mine[0].recv(10)
    his[0].sendall(b"lives")
    assert his[1].recv(10) == b"lives"
    assert isinstance(his[0], rsock.socket)
    for sock in (*mine, *his):
        sock.close()
