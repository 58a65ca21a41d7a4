"""`vr show workers`: what each thread of a forwarder has done, and how busy it is at this moment."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fastpath import stats
from manager.cli.render import duration, table
from manager.cli.segments import open_segments

if TYPE_CHECKING:
    from manager.cli.main import Request

SAMPLE: Final = 0.25  # seconds
_PROCESSOR: Final = 36  # of proc_pid_stat(5), counted from the state


def workers(request: Request) -> list[dict[str, Any]]:
    """Show them; `busy` is the share of a processor that each took while we looked."""
    with open_segments(request.run_dir, request["router"]) as (_tables, state):
        pid = stats.forwarder(state)["pid"]
        before = {worker["worker"]: _ran(pid, worker["thread"]) for worker in stats.worker_list(state)}
        began = time.monotonic()
        time.sleep(SAMPLE)
        found = stats.worker_list(state)
    passed = time.monotonic() - began
    return [worker | _processor(pid, worker, before[worker["worker"]], passed) for worker in found]


def _processor(pid: int, worker: dict[str, Any], before: float, passed: float) -> dict[str, Any]:
    ran = _ran(pid, worker["thread"])
    return {
        "processor": _where(pid, worker["thread"]),
        "processor_seconds": round(ran, 3),
        "busy": round(min(1.0, max(0.0, (ran - before) / passed)), 3),
    }


def _ran(pid: int, thread: int) -> float:
    """Give the seconds that a thread has run; 0: it is gone."""
    try:
        return int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[0]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def _where(pid: int, thread: int) -> int | None:
    """Give the processor that a thread last ran on."""
    try:
        return int(Path(f"/proc/{pid}/task/{thread}/stat").read_text().rpartition(")")[2].split()[_PROCESSOR])
    except (OSError, ValueError, IndexError):
        return None


def render(data: list[dict[str, Any]]) -> str:
    """Render it: a line for each worker."""
    rows = [
        (
            worker["worker"],
            worker["thread"],
            "-" if worker["processor"] is None else worker["processor"],
            f"{worker['busy'] * 100:.1f}%",
            duration(worker["processor_seconds"]),
            worker["packets"],
            worker["batches"],
            worker["handed"],
        )
        for worker in data
    ]
    header = ("WORKER", "THREAD", "CPU", "BUSY", "RAN", "PACKETS", "BATCHES", "HANDED OVER")
    return table(header, rows, header)
