"""Which programs a preloaded library reaches, and what `rsock exec` makes of its arguments."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from rsock.exec import main as launcher
from rsock.exec.program import find, obstacle


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Give the same program, linked both ways."""
    place = tmp_path_factory.mktemp("programs")
    (place / "nothing.c").write_text("int main(void) { return 0; }\n")
    made = {}
    for name, options in (("dynamic", []), ("pie", ["-static-pie"]), ("static", ["-static"])):
        made[name] = place / name
        subprocess.run(["gcc", *options, str(place / "nothing.c"), "-o", str(made[name])], check=True)
    return made


def test_only_dynamic_programs_are_reached(programs: dict[str, Path]) -> None:
    assert obstacle(programs["dynamic"]) == ""
    assert obstacle(programs["static"]) == "statically linked"
    assert obstacle(programs["pie"]) == "statically linked"


def test_a_script_is_what_its_interpreter_is(programs: dict[str, Path], tmp_path: Path) -> None:
    for name, expected in (("dynamic", ""), ("static", "statically linked")):
        inner, outer = tmp_path / "inner", tmp_path / "outer"
        inner.write_text(f"#! {programs[name]} -x\n")
        outer.write_text(f"#!{inner}\n")
        inner.chmod(0o755)
        assert obstacle(outer) == expected
    outer.write_text(f"#!{outer}\n")
    outer.chmod(0o755)
    assert obstacle(outer) == "too many interpreters"


def test_what_runs_in_secure_mode_is_not_reached(programs: dict[str, Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copy(programs["dynamic"], copy)
    copy.chmod(0o4755)
    assert obstacle(copy) == "setuid or setgid"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_file_capabilities(programs: dict[str, Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copy(programs["dynamic"], copy)
    os.setxattr(copy, "security.capability", struct.pack("<IIIII", 0x02000000, 1 << 13, 0, 0, 0))
    assert obstacle(copy) == "has file capabilities"


def test_broken_files_are_told_apart(programs: dict[str, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    whole = programs["dynamic"].read_bytes()
    other = whole[:18] + b"\xff\x7f" + whole[20:]
    small = whole[:4] + b"\1" + whole[5:]
    cases = {
        b"": "neither",
        b"\x7fELF": "not readable",
        whole[:60]: "not readable",
        other: "machine",
        small: "word size",
    }
    for content, expected in cases.items():
        broken.write_bytes(content)
        assert expected in obstacle(broken), content[:8]
    for cut in range(0, 70, 3):
        broken.write_bytes(whole[:cut])
        assert obstacle(broken) != ""


def test_commands_are_found_as_the_shell_does(tmp_path: Path) -> None:
    assert find("sh").name == "sh"
    with pytest.raises(FileNotFoundError):
        find("no-such-program-here")
    (tmp_path / "plain").write_text("")
    with pytest.raises(PermissionError):
        find(str(tmp_path / "plain"))


class Became(Exception):  # noqa: N818 - no error
    """The launcher would have become this."""


@pytest.fixture
def became(monkeypatch: pytest.MonkeyPatch) -> None:
    def become(_path: str, words: list[str]) -> int:
        raise Became(words, dict(os.environ))

    for name in ("RSOCK_VR", "RSOCK_MAP", "LD_PRELOAD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ANABRANCH_RUN_DIR", "/nowhere")
    monkeypatch.setattr(launcher, "_become", become)


def start(*words: str) -> tuple[list[str], dict[str, str]]:
    """Give what the launcher becomes, and the environment then."""
    with pytest.raises(Became) as caught:
        launcher.main(["exec", *words])
    command, environment = caught.value.args
    return command, environment


@pytest.mark.usefixtures("became")
def test_the_library_is_taken_where_it_reaches(
    programs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dynamic, static = str(programs["dynamic"]), str(programs["static"])
    monkeypatch.setenv("LD_PRELOAD", "other.so")
    command, environment = start("--vr", "red", "--", dynamic, "--vr", "x")
    assert command[-4:] == ["--", dynamic, "--vr", "x"]
    assert command[command.index("--preload") + 1].startswith("other.so:/")
    assert environment["RSOCK_VR"] == "red"
    assert "no virtual router red" in capsys.readouterr().err
    command, environment = start("--vr", "red", static)
    assert "--preload" not in command
    assert "RSOCK_VR" not in environment
    command, environment = start("--mode", "seccomp", "--map", "*=red", dynamic)
    assert command[1:3] == ["--map", "*=red"]
    assert "--preload" not in command
    assert "RSOCK_MAP" not in environment
    start("--mode", "preload", "--vr", "red", static)
    assert "does not reach it" in capsys.readouterr().err
    assert start("--vr", "kernel", sys.executable)[0] == [sys.executable]


@pytest.mark.usefixtures("became")
def test_what_is_missing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert launcher.main(["exec", "true"]) == 125
    assert launcher.main(["exec", "--vr", "red"]) == 125
    assert launcher.main(["exec", "--vr", "red", "--", "no-such-program-here"]) == 127
    assert capsys.readouterr().err.count("rsock: ") == 3
