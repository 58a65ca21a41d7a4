"""User ids for VRs, locked machine-wide: two instances never share one.

A lock is an flock on a file of the uid.  Its fd goes to the VR's forwarder as well, so that the uid
stays taken while the VR lives, also when the manager does not.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

DIRECTORY: Final = Path("/run/anabranch-uids")


class NoFreeUidError(RuntimeError):
    """The range is used up."""


def lock(first: int, last: int) -> tuple[int, int]:
    """Take a free uid of the range; give it and the fd that holds it."""
    DIRECTORY.mkdir(mode=0o700, exist_ok=True)
    for uid in range(first, last + 1):
        fd = os.open(DIRECTORY / str(uid), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
        else:
            return uid, fd
    raise NoFreeUidError(f"every uid from {first} to {last} is taken: make uid-range larger")
