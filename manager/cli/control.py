"""`vr router stop|start|restart`: asks the manager."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from manager.cli.client import Manager
from manager.cli.errors import CliError
from manager.cli.segments import check_router
from vrouter.api.messages import ManagerOp

if TYPE_CHECKING:
    from manager.cli.main import Request


def start(request: Request) -> dict[str, Any]:
    """Start a router."""
    return _act(request, "start")


def stop(request: Request) -> dict[str, Any]:
    """Stop a router; it stays stopped until it is started or the manager is."""
    return _act(request, "stop")


def restart(request: Request) -> dict[str, Any]:
    """Stop and start a router."""
    return _act(request, "restart")


def _act(request: Request, action: str) -> dict[str, Any]:
    name = request["router"]
    with Manager(request.run_dir) as manager:
        try:
            manager.call_long(ManagerOp.ROUTER, action=action, name=name)
        except CliError:
            check_router(request.run_dir, name)  # a mistyped name gets the nearest one
            raise
    return {"router": name, "action": action}
