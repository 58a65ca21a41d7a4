"""One unprivileged process that speaks in several routers and in the kernel at once.

    python three_worlds.py [--as USER] [--ask ADDRESS] [--until ROUTER]

It asks the same address, "who are you?", through the routers red and blue and through the kernel, and
prints who answered.  Then it waits for a router that does not exist yet, and moves there.
"""

from __future__ import annotations

import argparse
import os
import pwd
import select
import sys
import time
from socket import AF_INET, SOCK_DGRAM

# By name, and so at once: a program that drops its rights may not be able to read its modules later.
from rsock import Watch, socket, vrs, watch

PORT = 7777
WORLDS = ("red", "blue", "kernel")
ROUNDS = 5
ROW = "  {:8} {:12} {:32} {:>9}"


def ask(vr: str, address: str) -> tuple[str, float]:
    """Ask in one world; give the answer and the best time of some rounds in milliseconds."""
    best, answer = float("inf"), "no answer"
    with socket(AF_INET, SOCK_DGRAM, vr=vr) as sock:
        sock.connect((address, PORT))
        for _ in range(ROUNDS):
            start = time.perf_counter()
            sock.send(b"who are you?")
            # A socket in a router is a real file descriptor: select, poll and asyncio take it.
            ready, _, _ = select.select([sock], [], [], 2.0)
            if ready:
                answer = sock.recv(2048).decode()
                best = min(best, (time.perf_counter() - start) * 1000)
    return answer, best


def show(vr: str, address: str) -> None:
    """Ask, and print one row of the table."""
    try:
        answer, milliseconds = ask(vr, address)
    except OSError as error:
        print(ROW.format(vr, address, f"{error.strerror}", "-"), flush=True)
    else:
        print(ROW.format(vr, address, answer, f"{milliseconds:.3f} ms"), flush=True)


def wait_for(events: Watch, vr: str) -> None:
    """Wait until that router is up."""
    for event in events:
        if event.vr == vr and event.event == "up":
            return


def become(user: str) -> None:
    """Give up all rights: from here on we are an ordinary program of that user."""
    entry = pwd.getpwnam(user)
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)


def main() -> None:
    """Ask, wait, move."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--as", dest="user", help="drop the rights of root first")
    parser.add_argument("--ask", default="10.0.0.2", help="the address to ask")
    parser.add_argument("--until", default="green", help="the router to wait for")
    arguments = parser.parse_args()
    if arguments.user:
        become(arguments.user)
    who = pwd.getpwuid(os.getuid()).pw_name
    print(f"\nOne process ({os.getpid()}, user {who}) asks {arguments.ask} in three worlds:\n")
    print(ROW.format("WORLD", "ADDRESS", "ANSWER", "LATENCY"))
    for vr in WORLDS:
        show(vr, arguments.ask)
    events = watch()  # before we look, so that nothing is missed
    if arguments.until not in {vr.name for vr in vrs()}:
        print(f"\nThe same process is waiting for a router called {arguments.until} ...\n", flush=True)
        wait_for(events, arguments.until)
    show(arguments.until, arguments.ask)
    while True:  # keep asking, so that there is something to trace
        time.sleep(1)
        for vr in (*WORLDS, arguments.until):
            try:
                ask(vr, arguments.ask)
            except OSError as error:
                print(f"{vr}: {error.strerror}", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
