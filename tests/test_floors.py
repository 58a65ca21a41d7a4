"""The floors of the house: what the linters rely on is complete, and they do see a violation."""

from __future__ import annotations

import importlib.util
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Parts of a protocol's column that are not protocols themselves.
SHARED_IN_PROTO = {"base", "fsm", "watch"}


def _contracts() -> dict[str, dict[str, Any]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return {contract["id"]: contract for contract in project["tool"]["importlinter"]["contracts"]}


@pytest.fixture(scope="module")
def c_floors() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_c_floors", ROOT / "tools" / "check_c_floors.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_core_keeps_its_floors(c_floors: ModuleType) -> None:
    assert c_floors.violations() == []


@pytest.mark.parametrize(
    ("folder", "include", "complaint"),
    [
        ("host", "forward/forward.h", "host may only use"),
        ("server", "port/port.h", "server may only use"),
        ("base", "table/view.h", "base may only use"),
        ("table", "packet.h", 'write "folder/file.h"'),
        ("table", "../base/packet.h", 'write "folder/file.h"'),
        ("observe", "base/packet.h", "which floor"),
    ],
)
def test_an_include_that_climbs_is_found(
    c_floors: ModuleType, tmp_path: Path, folder: str, include: str, complaint: str
) -> None:
    (tmp_path / "src" / folder).mkdir(parents=True)
    (tmp_path / "src" / folder / "a.c").write_text(f'#include "base/ok.h"\n#include "{include}"\n')
    assert complaint in "\n".join(c_floors.violations(tmp_path))


def test_every_folder_of_the_core_is_built() -> None:
    text = (ROOT / "fastpath" / "build.py").read_text()
    for folder in (ROOT / "fastpath" / "src").iterdir():
        if folder.is_dir() and any(folder.glob("*.c")):
            assert f'"{folder.name}"' in text, f"fastpath/build.py does not build {folder.name}"


def test_every_layer_of_the_control_process_is_in_the_contract() -> None:
    layers = " ".join(_contracts()["vrouter"]["layers"])
    for path in (ROOT / "vrouter").iterdir():
        name = path.stem
        if name.startswith("_") or name == "py" or (path.is_file() and path.suffix != ".py"):
            continue
        assert f"({name})" in layers, f"vrouter/{path.name} stands on no floor"


def test_protocols_do_not_import_each_other() -> None:
    protocols = sorted(
        path.stem
        for path in (ROOT / "vrouter" / "proto").iterdir()
        if not path.stem.startswith("_")
        and path.stem not in SHARED_IN_PROTO
        and (path.is_dir() or path.suffix == ".py")
    )
    contract = _contracts().get("protocols", {"modules": []})
    listed = sorted(str(name).rpartition(".")[2] for name in contract["modules"])
    # One protocol alone has nobody to be independent of.
    assert listed == protocols or len(protocols) < 2, "list the protocols in an independence contract"


def test_the_lint_target_runs_all_of_them() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for tool in (
        "ruff check",
        "ruff format --check",
        "mypy",
        "pyright",
        "lint-imports",
        "check_c_floors.py",
        "codespell",
        "clang",
    ):
        assert tool in makefile
