"""`vr check`, `vr plan`, `vr apply`: the configuration, here or as the running manager sees it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manager.cli.client import Manager
from manager.cli.errors import CliError, Exit
from vrouter.api.messages import ManagerOp

if TYPE_CHECKING:
    from manager.cli.main import Request


def check(request: Request) -> dict[str, Any]:
    """Check a directory, or what the running manager would read; needs no manager for a directory."""
    directory = request["directory"]
    if directory is None:
        with Manager(request.run_dir) as manager:
            manager.call_long(ManagerOp.PLAN)
            routers = manager.call(ManagerOp.ROUTERS)
        return {"directory": None, "routers": [router["name"] for router in routers]}
    from manager.config import load, render

    loaded = load(Path(directory))
    if loaded.config is None:
        details = json.loads(render(loaded.errors, "json"))
        raise CliError(render(loaded.errors).rstrip("\n"), "config", Exit.USAGE, details)
    return {"directory": directory, "routers": list(loaded.config.routers)}


def plan(request: Request) -> tuple[dict[str, Any], Exit]:
    """Tell what `apply` would do; exit 1 when that is anything."""
    with Manager(request.run_dir) as manager:
        result: dict[str, Any] = manager.call_long(ManagerOp.PLAN)
    return result, Exit.OK if result["empty"] else Exit.NEGATIVE


def apply(request: Request) -> dict[str, Any]:
    """Carry the difference out."""
    with Manager(request.run_dir) as manager:
        result: dict[str, Any] = manager.call_long(ManagerOp.APPLY)
    return result
