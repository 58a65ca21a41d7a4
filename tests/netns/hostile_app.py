"""An unprivileged program that does to a daemon what it can: hostile_app.py UID RUN_DIR ATTACK.

Prints "done" after its attack and holds what it has until its standard input ends.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import sys
import time

import zmq

import rsock
from rsock.wire import HEADER, MAGIC, Op

FLOOD = 6.0
HELD: list[object] = []


def forwarder(run_dir: str) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    peer.settimeout(2)
    peer.connect(f"{run_dir}/vr/red.sock")
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


def main() -> None:
    uid, run_dir, attack = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    rsock.socket(socket.AF_UNIX).close()  # the interpreter's own files may be out of reach afterwards
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    {"bite": bite, "crowd": crowd, "junk": junk, "flood": flood}[attack](run_dir)
    print("done", flush=True)
    sys.stdin.read()
    os._exit(0)


main()
