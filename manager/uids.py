"""User ids for VRs, locked machine-wide: two instances never share one.

A lock is an flock on a file of the uid.  Its fd goes to the VR's forwarder as well, so that the uid
stays taken while the VR lives, also when the manager does not.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Final

DIRECTORY: Final = Path("/run/anabranch-uids")


class NoFreeUidError(RuntimeError):
    """The range is used up."""


def lock(first: int, last: int) -> tuple[int, int]:
    """Take a free uid of the range; give it and the fd that holds it."""
    for uid in range(first, last + 1):
        if (fd := _try(DIRECTORY / str(uid))) is not None:
            return uid, fd
    raise NoFreeUidError(f"every uid from {first} to {last} is taken: make uid-range larger")


def release(uid: int, fd: int) -> None:
    """Give a uid back that no process has any more; closes the fd."""
    with contextlib.suppress(OSError):
        (DIRECTORY / str(uid)).unlink(missing_ok=True)
        DIRECTORY.rmdir()  # the last one leaves nothing behind
    os.close(fd)


def _try(path: Path) -> int | None:
    while True:
        DIRECTORY.mkdir(mode=0o700, exist_ok=True)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:  # the directory was removed meanwhile
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        # Its holder may have removed the file before we had the lock: then it locks nothing.
        if os.fstat(fd).st_nlink:
            return fd
        os.close(fd)
