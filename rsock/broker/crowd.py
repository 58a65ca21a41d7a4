"""Keeps a user from taking all of the broker's connections.

ZeroMQ accepts by itself and tells nobody whose connection it was, so what there is is looked through from time
to time: who has more than his share loses what is too much, and his libraries see a broker that restarts.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections import defaultdict
from pathlib import Path
from typing import Final

PER_USER: Final = 256
ALL: Final = 2048  # of all users together, but for root's
FILES: Final = 4096  # file descriptors of the broker
_CREDENTIALS: Final = struct.Struct("iII")  # struct ucred


def sweep(per_user: int = PER_USER, everybody: int = ALL) -> int:
    """Cut the connections that are too many; give how many those were."""
    names = [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]
    if len(names) <= min(per_user, everybody):
        return 0
    found: dict[int, list[int]] = defaultdict(list)
    for fd in names:
        uid = _peer(fd)
        if uid is not None and uid not in {0, os.geteuid()}:
            found[uid].append(fd)
    surplus: list[int] = []
    for fds in found.values():
        fds.sort()
        surplus += fds[per_user:]
        del fds[per_user:]
    while sum(map(len, found.values())) > everybody:
        surplus.append(max(found.values(), key=len).pop())
    for fd in surplus:
        _cut(fd)
    return len(surplus)


def _peer(fd: int) -> int | None:
    """Give the uid at the other end; None: it is no connection of a local app."""
    try:
        with socket.socket(fileno=os.dup(fd)) as connection:
            if connection.family != socket.AF_UNIX:
                return None
            data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:
        return None
    return int(_CREDENTIALS.unpack(data)[1])


def _cut(fd: int) -> None:
    """End a connection under ZeroMQ's hands: it closes its fd itself."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as connection:
        connection.shutdown(socket.SHUT_RDWR)
