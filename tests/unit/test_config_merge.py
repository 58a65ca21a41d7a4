"""Many files as one configuration; secrets; aliases."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from manager.config import load
from vrouter.config.schema import Config


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def good(root: Path) -> Config:
    loaded = load(root)
    assert loaded.errors == []
    assert loaded.config is not None
    return loaded.config


def test_files_are_joined_down_to_the_sections_of_a_router(tmp_path: Path) -> None:
    config = good(write(tmp_path, {
        "system.yaml": "version: 1\n",
        "vr/red.yaml": "routers: {red: {interfaces: {lo: {addresses: [10.0.0.1/32]}}}}\n",
        "vr/deep/red-more.yaml": "routers: {red: {interfaces: {lo2: {}}, static: {10.1.0.0/16: {discard: true}}}}\n",
        "vr/blue.yaml": "routers: {blue: }\n",
    }))  # fmt: skip
    assert list(config.routers["red"].interfaces) == ["lo2", "lo"]
    assert list(config.routers["red"].static) == ["10.1.0.0/16"]
    assert config.routers["blue"].interfaces == {}


@pytest.mark.parametrize(
    ("first", "second", "place"),
    [
        ("version: 1\n", "version: 1\n", (1, 1)),
        ("routers: {red: {interfaces: {lo: {}}}}\n", "\nrouters: {red: {interfaces: {lo: {}}}}\n", (2, 30)),
        ("routers: {red: {rsock: {rules: []}}}\n", "routers: {red: {rsock: {rules: []}}}\n", (1, 25)),
    ],
)
def test_a_key_is_defined_once_over_all_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str, second: str, place: tuple[int, int]
) -> None:
    write(tmp_path, {"conf/a.yaml": first, "conf/b.yaml": second})
    monkeypatch.chdir(tmp_path)
    (error,) = load("conf").errors
    assert (error.file, error.line, error.column) == ("conf/b.yaml", *place)
    assert error.message.startswith("duplicate key '")
    assert error.message.endswith("(first at conf/a.yaml:1)")


def test_what_is_not_read(tmp_path: Path) -> None:
    bad = "this: is not ours\n"
    names = ("secrets/x.yaml", ".#red.yaml", ".git/a.yaml", "a.yaml.bak", "notes.txt")
    write(tmp_path, {"a.yaml": "version: 1\n", **dict.fromkeys(names, bad)})
    assert good(tmp_path) == Config()


def test_nothing_to_read_is_an_error(tmp_path: Path) -> None:
    assert [error.message for error in load(tmp_path).errors] == ["holds no configuration"]
    assert [error.message for error in load(tmp_path / "nix").errors] == ["no such file or directory"]


def test_a_single_file_can_be_loaded(tmp_path: Path) -> None:
    write(tmp_path, {"a.yaml": "demo: true\n", "b.yaml": "nonsense: 1\n"})
    assert good(tmp_path / "a.yaml").demo


def test_comments_alone_are_an_empty_configuration(tmp_path: Path) -> None:
    assert good(write(tmp_path, {"a.yaml": "# nothing\n", "b.yaml": ""})) == Config()


def test_what_another_file_adds_does_not_reach_an_alias(tmp_path: Path) -> None:
    config = good(write(tmp_path, {
        "a.yaml": "routers: {red: &r {interfaces: {lo: {}}}, blue: *r}\n",
        "b.yaml": "routers: {red: {interfaces: {more: {}}}}\n",
    }))  # fmt: skip
    assert list(config.routers["red"].interfaces) == ["lo", "more"]
    assert list(config.routers["blue"].interfaces) == ["lo"]


def test_aliases_may_not_explode(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    write(tmp_path, {"a.yaml": "\n".join(lines) + "\n"})
    assert any("expand to more than" in error.message for error in load(tmp_path).errors)


def test_a_secret_is_the_content_of_its_file(tmp_path: Path) -> None:
    write(tmp_path, {"a.yaml": "routers: {red: {interfaces: {lan: {device: !secret dev}}}}\n", "secrets/dev": "eth7\n"})
    (tmp_path / "secrets/dev").chmod(0o600)
    assert good(tmp_path).routers["red"].interfaces["lan"].device == "eth7"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o700])
def test_a_secret_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    write(tmp_path, {"a.yaml": "version: !secret v\n", "secrets/v": "1\n"})
    (tmp_path / "secrets/v").chmod(mode)
    (error,) = load(tmp_path).errors
    assert f"has mode {mode:04o}" in error.message


def test_a_secret_that_is_no_text_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"a.yaml": "version: !secret v\ndemo: !secret d\nuid-range: !secret u\n", "secrets/v": "1\n2\n"})
    (tmp_path / "secrets/d").mkdir()
    (tmp_path / "secrets/u").write_bytes(b"\xff")
    for name in ("v", "u"):
        (tmp_path / "secrets" / name).chmod(0o600)
    assert len(load(tmp_path).errors) == 3


def test_the_default_mtu_reaches_interfaces_that_have_a_port(tmp_path: Path) -> None:
    config = good(write(tmp_path, {
        "a.yaml": "defaults: {mtu: 1400}\n"
        "routers: {red: {interfaces: {lo: {}, a: {device: a}, b: {device: b, mtu: 9000}}}}\n"
    }))  # fmt: skip
    interfaces = config.routers["red"].interfaces
    assert [interface.mtu for interface in interfaces.values()] == [None, 1400, 9000]


def test_a_link_to_a_device_does_not_block(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").symlink_to("/dev/null")
    (tmp_path / "gone.yaml").symlink_to(tmp_path / "nowhere")
    assert [error.message for error in load(tmp_path).errors] == ["cannot be read: No such file or directory"]


@pytest.mark.timeout(30)
def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.yaml")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "b.yaml"))
        assert [error.message for error in load(tmp_path).errors] == [
            "cannot be read: not a file", "cannot be read: No such device or address",
        ]  # fmt: skip


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a disk or a server that fails: the routers in there are not removed for that."""
    write(tmp_path, {"a.yaml": "routers: {red: {}}\n", "more/b.yaml": "routers: {blue: {}}\n"})
    scan = os.scandir

    def failing(path: str) -> Any:
        if str(path).endswith("more"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", failing)
    (error,) = load(tmp_path).errors
    assert (error.file, error.message) == (str(tmp_path / "more"), "cannot be read: Input/output error")


def test_what_was_added_at_run_time_is_read_besides(tmp_path: Path) -> None:
    write(tmp_path, {"conf/a.yaml": "routers: {red: {}}\n", "run/b.yaml": "routers: {blue: {}}\n"})
    loaded = load(tmp_path / "conf", tmp_path / "run", tmp_path / "missing")
    assert loaded.config is not None
    assert list(loaded.config.routers) == ["red", "blue"]
