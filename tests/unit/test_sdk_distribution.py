"""The SDK is a distribution of its own: it is built from rsock/ alone, and works without the rest of the tree."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parent.parent.parent
LOADED: Final = """
import sys
import rsock, rsock.aio, rsock.exec.main, rsock.remote, rsock.sockets
from importlib.metadata import version
assert rsock.__file__.startswith(sys.argv[1]), rsock.__file__
assert not {"fastpath", "vrouter", "manager", "cffi", "structlog", "yaml"} & sys.modules.keys()
with rsock.socket(vr="kernel") as sock:
    assert sock.vr == "kernel"
try:
    rsock.Context("ipc:///nowhere/rsock.sock", timeout=0.1).vrs()
except rsock.BrokerGone:
    print(version("anabranch-rsock"))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a directory where the distribution, and nothing else, is installed."""
    place = tmp_path_factory.mktemp("sdk")
    shutil.copytree(
        ROOT / "rsock", place / "source", ignore=shutil.ignore_patterns("build", "lib", "__pycache__", "*.egg-info")
    )
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    subprocess.run(
        [*pip, "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", str(place), str(place / "source")],
        check=True, timeout=120, env=environment,
    )  # fmt: skip
    (wheel,) = place.glob("*.whl")
    assert wheel.name.startswith("anabranch_rsock-")
    assert "-py3-none-" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(place / "site")
    assert not [name for name in names if "broker" in name or name.endswith("setup.py")]
    assert "rsock/py.typed" in names
    return place / "site"


def test_it_needs_nothing_of_the_router(installed: Path) -> None:
    environment = {"PYTHONPATH": str(installed), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-P", "-c", LOADED, str(installed)], capture_output=True, text=True, timeout=30, check=False,
        cwd=installed.parent, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "0.1.0"


def test_it_brings_the_c_library(installed: Path) -> None:
    library = ctypes.CDLL(str(installed / "rsock/c/lib/librsock.so.1"))
    assert library.rsock_socket
    assert (installed / "rsock/c/rsock.h").exists()
    text = (installed / "rsock/c/lib/rsock.pc").read_text()
    assert str(installed.parent) not in text, "a path of the machine that built it"
