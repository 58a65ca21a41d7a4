"""Which files the manager, who may write all of them, opens as a port: none by accident, none by a trick."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from manager.ports_pcap import open_file, open_output

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("content", [b"", bytes(24), bytes.fromhex("4d3cb2a1"), bytes.fromhex("0a0d0d0a") + b"rest"])
def test_a_capture_begins_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "out").write_bytes(content)
    for path in (tmp_path / "out", tmp_path / "new"):
        os.close(open_output(str(path)))
        assert path.read_bytes() == b""
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600


def test_nothing_else_is_written_over(tmp_path: Path) -> None:
    file = tmp_path / "passwd"
    file.write_text("root:x:0:0")
    before = len(list(os.scandir("/proc/self/fd")))
    with pytest.raises(OSError, match="no capture"):
        open_output(str(file))
    (tmp_path / "link").symlink_to(file)
    (tmp_path / "folder").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    capture = tmp_path / "capture"
    capture.write_bytes(bytes.fromhex("4d3cb2a1"))
    (tmp_path / "other").hardlink_to(capture)
    for name in ("link", "folder/passwd", "pipe", "other"):
        with pytest.raises(OSError, match=r"link|regular|names"):
            open_output(str(tmp_path / name))
    assert (file.read_text(), capture.read_bytes()) == ("root:x:0:0", bytes.fromhex("4d3cb2a1"))
    with pytest.raises(OSError, match="regular"):
        open_file(str(tmp_path), os.O_RDONLY)
    assert len(list(os.scandir("/proc/self/fd"))) == before
