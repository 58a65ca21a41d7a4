"""An app whose sockets are in use while something is killed.  For each round a child of a warm process is one.

    python failing_app.py ENDPOINT VR UID     started as root

A line `ROUND HOST` on stdin begins a round; then these JSON lines follow on stdout:

    {"pid", "sockets": [[slot, cookie, path], ...]}      all is open, and the traffic begins
    {"streams": {NAME: {...}}, "datagrams": {...}}       the round is over; nothing where the app was killed

NAME is "made" (it connects to the host's port 9000) or "taken" (the host connects to port 7000).  Each of them
sends and receives STREAM bytes that `stream_bytes` gives, in small pieces, and ends; what it tells of that is
{received, digest, error}.  Datagrams, numbered, go both ways between port 7001 and the host's port 9001.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import socket
import struct
import sys
import threading
import time
from typing import Any, Final

import rsock
import rsock.sockets  # rsock loads them late

ADDRESS: Final = "10.0.0.1"
GROUP: Final = "239.7.7.7"
TAKEN, DATAGRAMS, MADE, HOST_DATAGRAMS = 7000, 7001, 9000, 9001
STREAM: Final = 192 << 10
PIECE: Final = 4 << 10
PAUSE: Final = 0.004
COUNT: Final = 150
NUMBER: Final = struct.Struct(">II")
PATIENCE: Final = 8.0


def stream_bytes(number: int, name: str) -> bytes:
    """Give what a stream carries: `name` tells which one, and from whom."""
    return random.Random(f"{number} {name}").randbytes(STREAM)


def send_slowly(sock: socket.socket, data: bytes, told: dict[str, Any]) -> None:
    """Send it in small pieces, then the end of the file."""
    try:
        for at in range(0, len(data), PIECE):
            sock.sendall(data[at : at + PIECE])
            time.sleep(PAUSE)
        sock.shutdown(socket.SHUT_WR)
    except OSError as error:
        told.setdefault("error", error.errno or type(error).__name__)


def receive_all(sock: socket.socket, told: dict[str, Any]) -> None:
    """Receive until the end, whatever it is."""
    digest, received = hashlib.sha256(), 0
    try:
        while data := sock.recv(1 << 16):
            digest.update(data)
            received += len(data)
    except OSError as error:
        told["error"] = error.errno or type(error).__name__
    told.update(received=received, digest=digest.hexdigest())


def carry(sock: socket.socket, data: bytes) -> dict[str, Any]:
    """Send and receive at once; tell what came."""
    told: dict[str, Any] = {}
    sock.settimeout(PATIENCE)
    sender = threading.Thread(target=send_slowly, args=(sock, data, told), daemon=True)
    sender.start()
    receive_all(sock, told)
    sender.join(PATIENCE)
    return told


def send_datagrams(sock: socket.socket, where: tuple[str, int], number: int) -> int:
    """Send them; give how many calls failed."""
    failed = 0
    for sequence in range(COUNT):
        try:
            sock.sendto(NUMBER.pack(number, sequence), where)
        except OSError:
            failed += 1
        time.sleep(PAUSE / 2)
    return failed


def receive_datagrams(sock: socket.socket, number: int, seconds: float, *, rest: float = 1.0) -> dict[str, Any]:
    """Receive until all are here, or none came for some time after their end; tell which."""
    seen: list[int] = []
    until = time.monotonic() + seconds
    last = time.monotonic()
    errors: list[int] = []
    sock.settimeout(0.02)
    while time.monotonic() < until and (len(set(seen)) < COUNT or time.monotonic() - last < rest / 10):
        try:
            data = sock.recv(64)
        except TimeoutError:
            if time.monotonic() - last > rest and seen:
                break
            continue
        except OSError as error:
            errors.append(error.errno or 0)
            continue
        if len(data) == NUMBER.size and NUMBER.unpack(data)[0] == number:
            seen.append(NUMBER.unpack(data)[1])
            last = time.monotonic()
    missing = sorted(set(range(COUNT)).difference(seen))
    return {"distinct": COUNT - len(missing), "missing": missing, "repeated": len(seen) - COUNT + len(missing),
            "errors": errors}  # fmt: skip


class Round:
    """What a child has open."""

    def __init__(self, context: rsock.Context, vr: str, number: int) -> None:
        self.number = number
        self.listener = rsock.create_server((ADDRESS, TAKEN), vr=vr, ctx=context)
        self.made = rsock.socket(socket.AF_INET, socket.SOCK_STREAM, vr=vr, ctx=context)
        self.idle = rsock.socket(socket.AF_INET, socket.SOCK_STREAM, vr=vr, ctx=context)
        self.idle.fileno()  # opened, and nothing more
        self.datagrams = rsock.socket(socket.AF_INET, socket.SOCK_DGRAM, vr=vr, ctx=context)
        self.datagrams.bind((ADDRESS, DATAGRAMS))
        joined = socket.inet_aton(GROUP) + socket.inet_aton(ADDRESS)
        self.datagrams.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, joined)

    def sockets(self) -> list[tuple[int, int, str]]:
        """Give by what a forwarder knows them."""
        every: tuple[Any, ...] = (self.listener, self.idle, self.made, self.datagrams)
        return [(sock._slot, sock._cookie, sock._path) for sock in every]

    def run(self, host: str) -> dict[str, Any]:
        """Do everything at once."""
        told: dict[str, Any] = {"streams": {}}

        def make() -> None:
            told["streams"]["made"] = carry(self.made, stream_bytes(self.number, "made by app"))

        def take() -> None:
            self.listener.settimeout(PATIENCE)
            conn, _peer = self.listener.accept()
            with conn:
                told["streams"]["taken"] = carry(conn, stream_bytes(self.number, "taken by app"))

        def hear() -> None:
            told["datagrams"] = receive_datagrams(self.datagrams, self.number, PATIENCE)

        def tell() -> None:
            told["unsent"] = send_datagrams(self.datagrams, (host, HOST_DATAGRAMS), self.number)

        threads = [threading.Thread(target=one, daemon=True) for one in (make, take, hear, tell)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(3 * PATIENCE)
        told["hangs"] = sum(thread.is_alive() for thread in threads)
        return told


def child(context: rsock.Context, vr: str, uid: int, number: int, host: str) -> None:
    """Be the app of one round."""
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    made = Round(context, vr, number)
    made.made.settimeout(PATIENCE)
    made.made.connect((host, MADE))
    print(json.dumps({"pid": os.getpid(), "sockets": made.sockets()}), flush=True)
    print(json.dumps(made.run(host)), flush=True)


def main() -> None:
    """Start a child for each line."""
    endpoint, vr, uid = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with rsock.Context(endpoint) as context:
        context.vrs()  # what is imported late
    for line in sys.stdin:
        number, host = line.split()
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGPIPE, signal.SIG_IGN)
            code = 1
            with contextlib.suppress(KeyboardInterrupt):
                child(rsock.Context(endpoint), vr, uid, int(number), host)
                code = 0
            os._exit(code)
        _pid, status = os.waitpid(pid, 0)
        print(json.dumps({"over": status}), flush=True)


if __name__ == "__main__":
    main()
