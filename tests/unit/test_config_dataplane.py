"""Workers and their processors, as the operator is told, and as the manager plans them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from manager import resolve
from manager.config import load
from tests.unit.test_config_crosscheck import one
from vrouter.config.dataplane import Dataplane

if TYPE_CHECKING:
    from pathlib import Path

WRITTEN = [
    ("{workers: 4}", []),
    ("{workers: 2, cpus: [1]}", []),
    ("{workers: 2, cpus: [3, 0]}", []),
    ("{workers: 2, cpus: [0, 1, 2]}", ["3 processors for 2 workers"]),
    ("{cpus: [0, 1]}", ["2 processors for 1 workers"]),
    ("{workers: 2, cpus: [1, 1]}", ["two workers are pinned to one processor"]),
    ("{workers: 0}", ["0 is not within 1 to 4"]),
    ("{workers: 5}", ["5 is not within 1 to 4"]),
    ("{workers: 2, cpus: [-1]}", ["'-1' is not a number"]),
]


@pytest.mark.parametrize(("dataplane", "expected"), WRITTEN)
def test_what_is_refused(tmp_path: Path, dataplane: str, expected: list[str]) -> None:
    assert one(tmp_path, f"dataplane: {dataplane}") == expected


def test_a_router_has_one_worker_unless_it_says_otherwise(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("routers: {red: {}, blue: {dataplane: {workers: 2, cpus: [1]}}}")
    config = load(tmp_path).config
    assert config is not None
    plans = resolve.resolve(config)
    assert plans["red"].dataplane == Dataplane()
    assert (plans["red"].dataplane.workers, plans["red"].dataplane.cpus) == (1, ())
    assert (plans["blue"].dataplane.workers, plans["blue"].dataplane.cpus) == (2, (1,))
