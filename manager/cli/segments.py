"""Finds a router's two segments, whoever of its keepers still lives.

    manager.sock (SEGMENTS) --else--> vr/NAME.sock (SEGMENTS) --> read-only fds --> mapped

So `show` answers while the control process or the manager is dead, or both.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastpath.interfaces import names
from fastpath.segment import KIND_STATE, KIND_TABLES, Segment
from manager.cli.client import Forwarder, Manager
from manager.cli.errors import CliError, unreachable, usage
from manager.cli.words import unknown
from rsock import wire
from vrouter.api.messages import ManagerOp


def recorded_routers(run_dir: Path) -> list[dict[str, Any]]:
    """Read routers.json, which the manager rewrites at each change; it outlives the manager."""
    try:
        found: object = json.loads((run_dir / "routers.json").read_text())
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, list):
        raise unreachable(f"no manager has run in {run_dir} (no readable {run_dir / 'routers.json'})")
    return [router for router in found if _is_record(router)]


def _is_record(router: object) -> bool:
    """Tell whether an entry of routers.json has what is shown of a router."""
    return (
        isinstance(router, dict)
        and isinstance(router.get("name"), str)
        and isinstance(router.get("state"), str)
        and isinstance(router.get("pids"), dict)
        and isinstance(router.get("interfaces"), dict)
    )


def check_router(run_dir: Path, name: str) -> None:
    """Refuse a name that no router has, with the nearest one."""
    with contextlib.suppress(ValueError):
        known = [str(router["name"]) for router in recorded_routers(run_dir)]
        if name not in known:
            raise usage(unknown("router", name, known))


@contextlib.contextmanager
def open_segments(run_dir: Path, router: str) -> Iterator[tuple[Segment, Segment]]:
    """Map tables and state of a router, read-only."""
    tables_fd, state_fd = _fetch(run_dir, router)
    with contextlib.ExitStack() as stack:
        for fd in (tables_fd, state_fd):
            stack.callback(os.close, fd)
        try:
            tables = stack.enter_context(Segment(tables_fd, KIND_TABLES))
            state = stack.enter_context(Segment(state_fd, KIND_STATE))
        except OSError as error:
            raise unreachable(f"the segments of {router} cannot be read: {error.strerror}") from None
        yield tables, state


def _fetch(run_dir: Path, router: str) -> tuple[int, int]:
    problems = []
    for ask in (_from_manager, _from_forwarder):
        try:
            fds = ask(run_dir, router)
        except CliError as error:
            problems.append(error)
            continue
        if len(fds) == 2:
            return fds[0], fds[1]
        for fd in fds:
            os.close(fd)
    check_router(run_dir, router)
    denied = next((problem for problem in problems if problem.kind == "denied"), None)
    raise denied or unreachable("; ".join(problem.message for problem in problems) or f"{router} has no segments")


def _from_manager(run_dir: Path, router: str) -> list[int]:
    with Manager(run_dir) as manager:
        manager.call(ManagerOp.SEGMENTS, name=router)
        return manager.take_fds()


def _from_forwarder(run_dir: Path, router: str) -> list[int]:
    with Forwarder(run_dir, router) as forwarder:
        return forwarder.call(wire.Op.SEGMENTS)[1]


def interface_names(run_dir: Path, router: str) -> dict[int, str]:
    """Map the interface indices of a router to names."""
    with open_segments(run_dir, router) as (tables, _state):
        return names(tables)
