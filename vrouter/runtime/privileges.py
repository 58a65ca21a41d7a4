"""What a control gives up before it listens to anybody: root, capabilities, most system calls."""

from __future__ import annotations

import resource
from typing import Final

from fastpath.binding import check, lib

_CONTROL_PROFILE: Final = 2  # abi/core.h, confine_seccomp


def confine(uid: int, gid: int) -> None:
    """Become `uid`, for good.  Raises OSError."""
    # One fd for each socket of each app is kept here.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    check(lib.confine_drop(uid, gid))
    check(lib.confine_seccomp(_CONTROL_PROFILE))
