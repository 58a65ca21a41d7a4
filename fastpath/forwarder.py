"""The forwarder process of one VR: take the fds, lock down, enter C for good.

    zygote --fork--> child in the VR's namespace, still root --main--> no rights --> core_run

After `confine_drop` nothing can be opened and nothing imported, so everything is imported above.
What happens in C says so on standard error, one structured line each.
"""

from __future__ import annotations

import os
import resource
import signal
from typing import TYPE_CHECKING, Final, NoReturn

from fastpath.binding import check, ffi, lib

if TYPE_CHECKING:
    from collections.abc import Mapping

_PROFILE_FORWARDER: Final = 1
# A socket takes one fd, a connection of an app or operator another; rings, segments and epolls come on top.
_OPEN_FILES: Final = 8192


def main(name: str, *, uid: int, gid: int, fds: Mapping[str, int]) -> NoReturn:
    """Serve one VR until SIGTERM or a SHUTDOWN message; never returns.

    `fds`: tables (read-only), state (read-write), state_ro, listener; others are only held open.
    """
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C in the terminal is the manager's affair
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        _limit_open_files()
        check(lib.confine_drop(uid, gid))
        check(lib.confine_seccomp(_PROFILE_FORWARDER))
        status = serve(fds)
    except OSError as error:
        os.write(2, f"event=forwarder-failed router={name} errno={error.errno} error={error.strerror!r}\n".encode())
    finally:
        os._exit(status)


def _limit_open_files() -> None:
    """Allow what a full VR needs, and no more; where the machine grants less, that."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))
    except (ValueError, OSError):  # not allowed to raise it
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def serve(fds: Mapping[str, int]) -> int:
    """Create the core over the segments and run it."""
    out = ffi.new("struct core **")
    check(lib.core_create(fds["tables"], fds["state"], out))
    check(lib.core_serve(out[0], fds["listener"], fds["tables"], fds["state_ro"]))
    return check(lib.core_run(out[0]))
