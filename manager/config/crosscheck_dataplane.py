"""What the schema cannot say of workers: one processor for each, and none for two."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from manager.config.crosscheck_policy import Checker
    from manager.config.merge import Path_


def check_dataplanes(checker: Checker) -> None:
    """Check all routers."""
    for name, router in checker.config.routers.items():
        plane = router.dataplane
        path: Path_ = ("routers", name, "dataplane", "cpus")
        if len(plane.cpus) > plane.workers:
            checker.note(
                path,
                f"{len(plane.cpus)} processors for {plane.workers} workers",
                "each worker is pinned to one at most",
            )
        if len(set(plane.cpus)) < len(plane.cpus):
            checker.note(path, "two workers are pinned to one processor", "name each processor once")
