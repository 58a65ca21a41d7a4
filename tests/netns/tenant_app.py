"""A program that means well: round trips to an echo server in a virtual router, tenant_app.py UID ROUTER ADDRESS PORT.

For each line of its standard input, a number of seconds, it prints what the trips of that time took: a JSON map of
p50 and p99 in microseconds and their count.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from typing import Final

import rsock

PACE: Final = 0.002
PATIENCE: Final = 5.0


def trip(sock: socket.socket, payload: bytes) -> float:
    begin = time.perf_counter()
    sock.sendall(payload)
    got = b""
    while len(got) < len(payload):
        got += sock.recv(len(payload) - len(got))
        assert got
    assert got == payload, "these are not our bytes"
    return time.perf_counter() - begin


def main() -> None:
    uid, router, address, port = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
    # The interpreter's own files may be out of reach afterwards; this connection is root's.
    with rsock.Context() as context:
        rsock.create_connection((address, port), PATIENCE, vr=router, ctx=context).close()
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    sock = rsock.create_connection((address, port), PATIENCE, vr=router)
    print("ready", flush=True)
    for line in sys.stdin:
        until = time.monotonic() + float(line)
        taken = []
        while time.monotonic() < until:
            taken.append(trip(sock, os.urandom(64)))
            time.sleep(PACE)
        taken.sort()
        figures = {"p50": taken[len(taken) // 2], "p99": taken[len(taken) * 99 // 100]}
        print(json.dumps({name: round(seconds * 1e6) for name, seconds in figures.items()} | {"count": len(taken)}),
              flush=True)  # fmt: skip


main()
