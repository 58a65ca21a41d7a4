"""The tables part of the C core with its test entries, compiled once for a run."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from tests.property import fib_harness

    return fib_harness.load(tmp_path_factory.mktemp("fib"))
