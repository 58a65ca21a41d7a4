"""The forwarder process of one VR: take the fds, lock down, enter C for good.

    zygote --fork--> child in the VR's namespace, still root --main--> no rights --> core_run

After `confine_drop` nothing can be opened and nothing imported, so everything is imported above.
What happens in C says so on standard error, one structured line each.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Final, NoReturn

from fastpath.binding import check, ffi, lib

if TYPE_CHECKING:
    from collections.abc import Mapping

_PROFILE_FORWARDER: Final = 1


def main(name: str, *, uid: int, gid: int, fds: Mapping[str, int]) -> NoReturn:
    """Serve one VR until SIGTERM or a SHUTDOWN message; never returns.

    `fds`: tables (read-only), state (read-write), state_ro, listener; others are only held open.
    """
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C in the terminal is the manager's affair
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        check(lib.confine_drop(uid, gid))
        check(lib.confine_seccomp(_PROFILE_FORWARDER))
        status = serve(fds)
    except OSError as error:
        os.write(2, f"event=forwarder-failed router={name} errno={error.errno} error={error.strerror!r}\n".encode())
    finally:
        os._exit(status)


def serve(fds: Mapping[str, int]) -> int:
    """Create the core over the segments and run it."""
    out = ffi.new("struct core **")
    check(lib.core_create(fds["tables"], fds["state"], out))
    check(lib.core_serve(out[0], fds["listener"], fds["tables"], fds["state_ro"]))
    return check(lib.core_run(out[0]))
