"""The api process's entry: forked from the zygote as root, it gives that up and then serves.

It speaks plain HTTP on `api.sock` (whose listener the manager has made) and, where the configuration says so, on
a loopback address.  All that it knows it asks of the manager over one socket, on which the manager answers read-only
requests alone, or reads from read-only segments and /proc.
"""

from __future__ import annotations

from typing import NoReturn

from setproctitle import setproctitle

from rsock.broker import privileges

MEMORY = 1 << 30  # segments are mapped beside that


def main(name: str, *, uid: int, gid: int, fds: dict[str, int], run_dir: str) -> NoReturn:
    """Serve until the manager ends us, or has ended itself."""
    del name, run_dir
    privileges.gain_none()
    # Imported here: the zygote, and with it each VR, need not carry it.  And as root: the files may be for root alone.
    import concurrent.futures.thread  # noqa: F401, PLC0415 - asyncio imports them when it needs them
    import encodings.idna  # noqa: F401, PLC0415

    from manager.http import process  # noqa: PLC0415

    privileges.become(uid, gid)
    privileges.limit_memory(MEMORY)
    setproctitle("anabranch: api")
    raise SystemExit(process.serve(fds["control"], fds["manager"], fds["listener"]))
