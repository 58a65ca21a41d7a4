"""A client of the benchmarks: connect, ask, read to the end of file, close, again and again.

    python tcp_visits.py VR ADDRESS PORT SIZE SECONDS WORKERS ENDPOINT

Each worker is a process of its own.  The sockets are those of rsock, whether VR is "kernel" or the name of one.
Prints {count, seconds} as JSON.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time

import rsock


def visit(vr: str, where: tuple[str, int], size: int, context: rsock.Context) -> None:
    """Visit once."""
    question = b"x" * size
    with rsock.socket(socket.AF_INET, socket.SOCK_STREAM, vr=vr, ctx=context) as sock:
        sock.connect(where)
        sock.sendall(question)
        got = 0
        while chunk := sock.recv(4096):
            got += len(chunk)
        assert got == size


def visits(vr: str, where: tuple[str, int], size: int, seconds: float, endpoint: str) -> int:
    """Visit for so long; give how often.  The first visit, which finds the router, does not count."""
    context = rsock.Context(endpoint)
    visit(vr, where, size, context)
    count, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        visit(vr, where, size, context)
        count += 1
    return count


def main() -> None:
    """Run the workers, and add up."""
    vr, address, port, size, seconds, workers, endpoint = sys.argv[1:]
    rsock.socket(vr="kernel").close()  # what is imported when it is first needed: not a part of what is measured
    _context = rsock.Context(endpoint)
    pipes = []
    for _worker in range(int(workers)):
        reader, writer = os.pipe()
        if os.fork() == 0:
            done = visits(vr, (address, int(port)), int(size), float(seconds), endpoint)
            os.write(writer, str(done).encode())
            os._exit(0)
        os.close(writer)
        pipes.append(reader)
    counts = [int(os.read(pipe, 32) or b"-1") for pipe in pipes]
    if min(counts) < 0:
        sys.exit("a worker has failed")
    print(json.dumps({"count": sum(counts), "seconds": float(seconds)}))


if __name__ == "__main__":
    main()
