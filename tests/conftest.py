"""What all tests share: what is skipped where, and what may not be skipped on CI."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

DATA_VARIABLE = "ANABRANCH_TEST_DATA"


def require_program(name: str) -> str:
    """Give the path of a program; without it the test is skipped, and on CI it fails."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if path is None:
        pytest.skip(f"the program {name} is not installed")
    return path


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Give the directory of other projects' test data, which lies outside this tree."""
    place = os.environ.get(DATA_VARIABLE)
    if not place:
        pytest.skip(f"{DATA_VARIABLE} is not set")
    return Path(place)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """On CI nothing may be missing but the data: a test that silently does not run is worth nothing."""
    reporter: TerminalReporter | None = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") != "true" or reporter is None:
        return
    forbidden = [
        str(report.longrepr)
        for report in reporter.stats.get("skipped", [])
        if DATA_VARIABLE not in str(report.longrepr)
    ]
    if forbidden and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter.write_line("CI: these skips are failures:\n" + "\n".join(forbidden), red=True)
