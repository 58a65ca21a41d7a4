"""One unprivileged process that fetches a page through several routers and through the kernel at once.

    python three_worlds.py [--as USER] [--url URL] [--until ROUTER]

It fetches the same URL through the routers red and blue and through the kernel, and prints what page
came.  Then it waits for a router that does not exist yet, and moves there.
"""

from __future__ import annotations

import argparse
import os
import pwd
import sys
import time
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

# By name, and so at once: a program that drops its rights may not be able to read its modules later.
from rsock import Watch, create_connection, vrs, watch

WORLDS = ("red", "blue", "kernel")
ROUNDS = 5
SECONDS = 2.0
ROW = "  {:8} {:18} {:32} {:>9}"


def fetch(vr: str, url: str) -> str:
    """Fetch a page through a router."""
    where = urlsplit(url)
    host, port = where.hostname or "", where.port or 80
    connection = HTTPConnection(host, port, timeout=SECONDS)
    # A socket in a router is a socket: whatever takes one takes this.
    connection.sock = create_connection((host, port), SECONDS, vr=vr)
    try:
        connection.request("GET", where.path or "/")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def measure(vr: str, url: str) -> tuple[str, float]:
    """Fetch some times; give the page and the best time in milliseconds, connect to last byte."""
    best, page = float("inf"), ""
    for _ in range(ROUNDS):
        start = time.perf_counter()
        page = fetch(vr, url).strip()
        best = min(best, (time.perf_counter() - start) * 1000)
    return page, best


def show(vr: str, url: str) -> None:
    """Fetch, and print one row of the table."""
    try:
        page, milliseconds = measure(vr, url)
    except OSError as error:
        print(ROW.format(vr, url, error.strerror or str(error), "-"), flush=True)
    else:
        print(ROW.format(vr, url, page, f"{milliseconds:.2f} ms"), flush=True)


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
    """Fetch, wait, move."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--as", dest="user", help="drop the rights of root first")
    parser.add_argument("--url", default="http://10.0.0.2/", help="the page to fetch")
    parser.add_argument("--until", default="green", help="the router to wait for")
    arguments = parser.parse_args()
    if arguments.user:
        become(arguments.user)
    who = pwd.getpwuid(os.getuid()).pw_name
    print(f"\nOne process ({os.getpid()}, user {who}) fetches {arguments.url} in three worlds:\n")
    print(ROW.format("WORLD", "URL", "PAGE", "TIME"))
    for vr in WORLDS:
        show(vr, arguments.url)
    events = watch()  # before we look, so that nothing is missed
    if arguments.until not in {vr.name for vr in vrs()}:
        print(f"\nThe same process is waiting for a router called {arguments.until} ...\n", flush=True)
        wait_for(events, arguments.until)
    show(arguments.until, arguments.url)
    while True:  # keep on, so that there is something to trace
        time.sleep(1)
        for vr in (*WORLDS, arguments.until):
            try:
                fetch(vr, arguments.url)
            except (OSError, HTTPException) as error:
                print(f"{vr}: {error}", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
