"""An unprivileged program that does to a daemon what it can: hostile_app.py UID RUN_DIR ATTACK.

Prints "done" after its attack and holds what it has until its standard input ends.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import itertools
import os
import random
import resource
import socket
import struct
import sys
import time
from typing import Final

import msgpack
import zmq

import rsock
from rsock.client_core import open_body
from rsock.wire import HEADER, MAGIC, Op

FLOOD: Final = 6.0  # seconds that an attack lasts
OPENS: Final = 100_000
HOGS, HOG = 6, 12400  # users, the first one
HELD: list[object] = []


def forwarder(run_dir: str, router: str = "red") -> socket.socket:
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    peer.settimeout(2)
    peer.connect(f"{run_dir}/vr/{router}.sock")
    return peer


def lingering() -> socket.socket:
    """Make a TCP socket that holds for an hour whoever closes its last copy."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client = socket.socket()
        client.connect(listener.getsockname())
        server, _address = listener.accept()
        HELD.append(server)
        client.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                client.send(bytes(65536))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
        return client


def bite(run_dir: str) -> None:
    """Send such fds everywhere."""
    broker = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    broker.connect(f"{run_dir}/rsock.sock")
    for peer in (broker, forwarder(run_dir), forwarder(run_dir)):
        fd = lingering()
        try:
            socket.send_fds(peer, [HEADER.pack(MAGIC, Op.PING, 0, 0, 1, 0, 0, 0)], [fd.fileno()])
        except OSError:
            fd.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))
        fd.close()
        peer.close()


def crowd(run_dir: str) -> None:
    """Take all connections and sockets there are."""
    with contextlib.suppress(OSError):
        HELD.extend(forwarder(run_dir) for _ in range(400))
    with contextlib.suppress(OSError):
        HELD.extend(rsock.socket(socket.AF_INET, socket.SOCK_DGRAM, vr="red") for _ in range(2000))


def junk(run_dir: str) -> None:
    """Send what is no request, to both."""
    chance = random.Random(1)
    context = zmq.Context()
    for count in (1, 2, 3, 4, 1000):
        with context.socket(zmq.DEALER) as dealer:
            dealer.linger = 0
            dealer.connect(f"ipc://{run_dir}/rsock.sock")
            for _ in range(50):
                header = HEADER.pack(MAGIC, chance.randrange(256), 0, 0, 1, 0, 0, 0)
                frames = [header] + [chance.randbytes(chance.choice([0, 1, 100, 5000])) for _ in range(count - 1)]
                with contextlib.suppress(zmq.ZMQError):
                    dealer.send_multipart(frames, zmq.DONTWAIT)
            time.sleep(0.05)
    for _ in range(200):
        with contextlib.suppress(OSError), forwarder(run_dir) as peer:
            op, flags, slot, cookie = (chance.randrange(1 << bits) for bits in (8, 8, 32, 64))
            peer.send(HEADER.pack(MAGIC, op, flags, 0, 1, slot, 0, cookie) + chance.randbytes(chance.randrange(300)))


def flood(_run_dir: str) -> None:
    """Send as fast as it goes, from many sockets, small and huge, and read nothing."""
    print("flooding", flush=True)
    sockets = [rsock.socket(socket.AF_INET, socket.SOCK_DGRAM, vr="red") for _ in range(64)]
    HELD.extend(sockets)
    for each in sockets:
        each.setblocking(False)
    until = time.monotonic() + FLOOD
    payloads = [b"x", bytes(1000), bytes(60000)]
    while time.monotonic() < until:
        for each in sockets:
            for payload in payloads:
                with contextlib.suppress(OSError):
                    each.sendto(payload, ("10.0.0.2", 9))


def opens(run_dir: str) -> None:
    """Open sockets of all kinds, a hundred thousand at least, over many connections, and let them go at once."""
    links = [forwarder(run_dir) for _ in range(16)]
    print("flooding", flush=True)
    until = time.monotonic() + FLOOD
    done = refused = 0
    while time.monotonic() < until:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            request = HEADER.pack(MAGIC, Op.OPEN, 0, 0, 1, 0, 0, 0) + open_body(socket.AF_INET, kind, 0, bytes(16), b"")
            for link in links:
                link.send(request)
            for link in links:
                data, fds, _flags, _address = socket.recv_fds(link, 4096, 1)
                done += not HEADER.unpack_from(data)[6]
                refused += bool(HEADER.unpack_from(data)[6])
                for fd in fds:
                    os.close(fd)
    assert done + refused > OPENS


def streams(_run_dir: str) -> None:
    """Connect to nobody, to somebody who is not read from, and listen; write all that goes and read nothing."""
    print("flooding", flush=True)
    until = time.monotonic() + FLOOD
    writers: list[socket.socket] = []
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            if len(HELD) < 3000:
                sock = rsock.socket(socket.AF_INET, socket.SOCK_STREAM, vr="red")
                HELD.append(sock)
                sock.setblocking(False)
                if len(HELD) % 3 == 0:
                    sock.bind(("10.0.0.1", 0))
                    sock.listen(1000)
                else:
                    sock.connect_ex(("10.0.0.2" if len(HELD) % 3 == 1 else "10.0.0.99", 7))
                    writers.append(sock)
        for writer in writers[-64:]:
            with contextlib.suppress(OSError):
                os.write(writer.fileno(), bytes(60000))


def forge(run_dir: str) -> None:
    """Ask for other VRs, with what is somebody else's: cookies, names, keys."""
    for name in ("blue", "green", "red/../blue", "../control/red", "\0", "a" * 3000):
        with contextlib.suppress(OSError, ValueError), rsock.socket(socket.AF_INET, socket.SOCK_DGRAM, vr=name):
            print("crossed", name, flush=True)
    with rsock.socket(socket.AF_INET, socket.SOCK_DGRAM, vr="red") as mine:
        proof = (mine._slot, mine._cookie)  # type: ignore[attr-defined]
        blue = forwarder(run_dir, "blue")
        for op in (Op.NAME, Op.BIND, Op.CONNECT, Op.GETOPT, Op.CLOSE, Op.RESOLVE, Op.HOLD, Op.SEGMENTS, Op.SHUTDOWN):
            blue.send(HEADER.pack(MAGIC, op, 0, 0, 1, proof[0], 0, proof[1]) + bytes(64))
            if not HEADER.unpack_from(blue.recv(4096))[6]:
                print("crossed", op.name, flush=True)
    for router in ("red", "blue"):
        peer = forwarder(run_dir, router)
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM, socket.SOCK_RAW):
            body = open_body(socket.AF_INET, kind, 0, bytes(16), b"", bytes(range(32)))
            peer.send(HEADER.pack(MAGIC, Op.OPEN, 0, 0, 1, 0, 0, 0) + body)
            if HEADER.unpack_from(peer.recv(4096))[6] != errno.EPERM:
                print("crossed as a key", flush=True)


def hogs(run_dir: str) -> None:
    """Take all connections to red's forwarder and to the broker, as several users."""
    for number in range(HOGS):
        if os.fork() == 0:
            become(HOG + number)
            for _ in range(400):
                with contextlib.suppress(OSError):
                    broker = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                    broker.setblocking(False)
                    broker.connect(f"{run_dir}/rsock.sock")
                    HELD.append(broker)
                with contextlib.suppress(OSError):
                    HELD.append(forwarder(run_dir))
            os.write(1, b"hog\n")
            sys.stdin.read()
            os._exit(0)


def bombs(run_dir: str) -> None:
    """Flood the broker with requests that it can answer, and with msgpack that it cannot take."""
    bodies = [
        b"\x80", b"\x91" * 4000, b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff",
        b"\x81\xa2vr" + b"\x81\xa1a" * 1000, msgpack.packb({"vr": "blue", "want": 2**63}), os.urandom(4000),
    ]  # fmt: skip
    context = zmq.Context()
    dealers = [context.socket(zmq.DEALER) for _ in range(32)]
    for dealer in dealers:
        dealer.linger = 0
        dealer.connect(f"ipc://{run_dir}/rsock.sock")
    print("flooding", flush=True)
    until = time.monotonic() + FLOOD
    while time.monotonic() < until:
        for dealer in dealers:
            for body in bodies:
                for op in (Op.HELLO, Op.TICKET, Op.WATCH):
                    with contextlib.suppress(zmq.ZMQError):
                        dealer.send_multipart([HEADER.pack(MAGIC, op, 0, 0, 1, 0, 0, 0), body], zmq.DONTWAIT)


def halves(run_dir: str) -> None:
    """Begin messages and do not end them, or send more than there is room for, over ever new connections."""
    print("flooding", flush=True)
    until = time.monotonic() + FLOOD
    greeting = b"\xff" + bytes(8) + b"\x7f\x03"  # ZMTP 3, broken off
    parts = [b"", b"\x01", greeting, greeting.ljust(64, b"\0"), greeting.ljust(64, b"\0") + b"\x06" + b"\x7f" * 8]
    header = HEADER.pack(MAGIC, Op.OPEN, 0, 0, 1, 0, 0, 0)
    held: collections.deque[socket.socket] = collections.deque(maxlen=64)  # the oldest is closed
    for turn in itertools.count():
        if time.monotonic() > until:
            break
        with contextlib.suppress(OSError):
            broker = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            held.append(broker)
            broker.setblocking(False)
            broker.connect(f"{run_dir}/rsock.sock")
            broker.send(parts[turn % len(parts)])
        for record in (header[: turn % HEADER.size], header + bytes(turn % 20), header + bytes(100_000)):
            with contextlib.suppress(OSError):
                held.append(forwarder(run_dir))
                held[-1].setblocking(False)
                held[-1].send(record)


def forgeries(run_dir: str) -> None:
    """Name sockets and routers of others, and say again what was said once, as fast as it is answered."""
    chance = random.Random(2)
    links = [forwarder(run_dir, router) for router in ("red", "blue") for _ in range(8)]
    said = HEADER.pack(MAGIC, Op.OPEN, 0, 7, 1, 0, 0, 0)
    said += open_body(socket.AF_INET, socket.SOCK_DGRAM, 0, bytes(16), b"")
    dealer = zmq.Context().socket(zmq.DEALER)
    dealer.linger = 0
    dealer.connect(f"ipc://{run_dir}/rsock.sock")
    print("flooding", flush=True)
    until = time.monotonic() + FLOOD
    while time.monotonic() < until:
        name = chance.choice(["blue", "green", "red/../blue", "../control/red", "a" * 3000])
        with contextlib.suppress(zmq.ZMQError):
            dealer.send_multipart(
                [HEADER.pack(MAGIC, Op.TICKET, 0, 0, 1, 0, 0, 0), msgpack.packb({"vr": name})], zmq.DONTWAIT
            )
        for number, link in enumerate(links):
            op = chance.choice([Op.NAME, Op.BIND, Op.CONNECT, Op.GETOPT, Op.CLOSE, Op.RESOLVE, Op.HOLD, Op.SHUTDOWN])
            slot, cookie = chance.randrange(4096), chance.randrange(1 << 64)
            link.send(said if number % 2 else HEADER.pack(MAGIC, op, 0, 0, 1, slot, 0, cookie) + bytes(64))
        for link in links:
            _data, fds, _flags, _address = socket.recv_fds(link, 4096, 1)
            for fd in fds:
                os.close(fd)


ATTACKS: Final = {
    each.__name__: each
    for each in (bite, crowd, junk, flood, opens, streams, forge, hogs, bombs, halves, forgeries)
}  # fmt: skip


def become(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def main() -> None:
    uid, run_dir, attack = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
    # The interpreter's own files may be out of reach afterwards; the connection is root's, and is closed.
    with rsock.Context() as context:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            rsock.socket(socket.AF_INET, kind, vr="red", ctx=context).close()
    if attack != "hogs":
        become(uid)
    ATTACKS[attack](run_dir)
    print("done", flush=True)
    sys.stdin.read()
    os._exit(0)


main()
