"""`vr record`: all that a router's protocols are told, into a file that a replay can be made of."""

from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from manager.cli.ask import PATIENCE
from manager.cli.client import Manager
from manager.cli.errors import CliError, Exit
from manager.cli.segments import check_router
from vrouter.api.messages import ManagerOp

if TYPE_CHECKING:
    from manager.cli.main import Request

INTERVAL: Final = 0.2  # seconds


def record(request: Request) -> dict[str, Any]:
    """Record until it is interrupted, or the time is up."""
    check_router(request.run_dir, request["router"])
    path = Path(request["file"])
    with os.fdopen(_create(path), "wb") as file, Manager(request.run_dir) as manager:
        _ask(manager, request["router"], "start")
        piece = _follow(manager, request["router"], request["seconds"], file)
        while piece["more"]:
            piece = _ask(manager, request["router"], "fetch")
            file.write(piece["data"])
        _ask(manager, request["router"], "stop")
        size = file.tell()
    return {
        "router": request["router"],
        "file": str(path),
        "inputs": piece["steps"],
        "bytes": size,
        "cut": piece["cut"],
    }


def _create(path: Path) -> int:
    """Open a file for us alone: the keys of the configuration will stand in it.  Raises CliError.

    In a directory where others write, a name may be a link of theirs, or a file that they can read.
    """
    fd = -1
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, 0o600)
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink != 1:
            raise PermissionError(errno.EPERM, "not a file of our own")
        os.fchmod(fd, 0o600)
        os.ftruncate(fd, 0)
    except OSError as error:
        if fd >= 0:
            os.close(fd)
        raise CliError(f"{path}: {error.strerror}", "failed", Exit.NEGATIVE) from None
    return fd


def _follow(manager: Manager, router: str, seconds: float | None, file: Any) -> dict[str, Any]:
    """Fetch what there is now and then; give the last piece."""
    end = None if seconds is None else time.monotonic() + seconds
    piece: dict[str, Any] = {"more": False}
    try:
        while end is None or time.monotonic() < end:
            if not piece["more"]:
                time.sleep(INTERVAL)
            piece = _ask(manager, router, "fetch")
            file.write(piece["data"])
    except KeyboardInterrupt:
        pass
    piece = _ask(manager, router, "fetch")
    file.write(piece["data"])
    return piece


def _ask(manager: Manager, router: str, action: str) -> dict[str, Any]:
    answer: dict[str, Any] = manager.call(ManagerOp.RECORD, PATIENCE, name=router, action=action)
    return answer


def render_record(data: dict[str, Any]) -> str:
    """Render what was recorded."""
    text = f"{data['inputs']} inputs of {data['router']} in {data['file']} ({data['bytes']} bytes)"
    return text + (", which was cut: they came faster than they were fetched" if data["cut"] else "")
