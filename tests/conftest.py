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


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    _restore_order(items)
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root"))


def _restore_order(items: list[pytest.Item]) -> None:
    """Put the tests of modules that are marked so back into the order of their files, at the places they have."""
    places: dict[Path, list[int]] = {}
    for place, item in enumerate(items):
        if item.get_closest_marker("in_order"):
            places.setdefault(item.path, []).append(place)
    for mine in places.values():
        ordered = sorted((items[place] for place in mine), key=lambda item: (item.location[1] or 0, item.name))
        for place, item in zip(mine, ordered, strict=True):
            items[place] = item


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
