"""What broker and relay give up before they hear of apps, which are hostile."""

from __future__ import annotations

import ctypes
import os
import resource
from pathlib import Path
from typing import Final

_PR_SET_NO_NEW_PRIVS: Final = 38


def gain_none() -> None:
    """Let nothing that is executed gain rights; before ZeroMQ makes its threads, which inherit it."""
    if ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError("no_new_privs")


def limit_memory(more: int) -> None:
    """Let the kernel refuse what goes beyond what we have and may need."""
    used = sum(
        int(line.split()[1]) << 10
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith(("VmData:", "VmStk:"))
    )
    resource.setrlimit(resource.RLIMIT_DATA, (used + more, used + more))


def become(uid: int, gid: int) -> None:
    """Become an ordinary user in all threads; with the uids go the capabilities."""
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
