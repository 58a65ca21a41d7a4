"""`vr record`: all that a router's protocols are told, into a file that a replay can be made of."""

from __future__ import annotations

import os
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
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CliError(f"{path}: {error.strerror}", "failed", Exit.NEGATIVE) from None
    with os.fdopen(fd, "wb") as file, Manager(request.run_dir) as manager:
        os.fchmod(fd, 0o600)  # the keys of the configuration stand in it
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
