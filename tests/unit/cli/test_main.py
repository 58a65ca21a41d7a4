"""The command line of `vr` without any router: words, errors, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from manager.cli import registry, words
from manager.cli.errors import CliError
from manager.cli.main import find, main, overview


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(list(argv))
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        (["show", "routers"], "show routers"),
        (["sh", "int", "red"], "show interfaces"),
        (["s", "route", "red", "10.0.0.1"], "show route"),
        (["pi", "red", "10.0.0.1"], "ping"),
        (["tracer", "red", "10.0.0.1"], "traceroute"),
        (["trace", "red"], "trace"),
        (["router", "rest", "red"], "router restart"),
    ],
)
def test_words_may_be_abbreviated(typed: list[str], name: str) -> None:
    found = find(typed)
    assert found is not None
    assert found[0].name == name


@pytest.mark.parametrize("typed", [["ro", "sta", "red"], ["c"], ["show", "rout", "red"]])
def test_an_ambiguous_abbreviation_names_the_candidates(typed: list[str]) -> None:
    if typed == ["ro", "sta", "red"]:
        assert find(typed) is not None  # start alone begins so
        return
    with pytest.raises(CliError, match="ambiguous"):
        find(typed)


def test_a_mistyped_word_gets_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "show", "rotues")
    assert (code, out) == (2, "")
    assert "did you mean 'routes'?" in err
    assert "route, routers, routes, sockets" in err


def test_errors_are_json_under_j(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["-j", "shw"], ["ping", "red", "-j"], ["ping", "red", "10.0.0.1", "-c", "x", "--json"]):
        code, out, err = run(capsys, *argv)
        assert (code, err) == (2, "")
        assert json.loads(out)["error"]["kind"] == "usage"


def test_nobody_there_is_exit_3(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for argv in (["show", "routers"], ["show", "fib", "red"], ["plan"], ["router", "stop", "red"], ["trace", "red"]):
        code, out, _ = run(capsys, "--run-dir", str(tmp_path), "-j", *argv)
        assert code == 3, argv
        assert json.loads(out)["error"]["kind"] == "unreachable"


def test_the_run_dir_comes_from_the_environment(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANABRANCH_RUN_DIR", str(tmp_path / "here"))
    code, _, err = run(capsys, "plan")
    assert code == 3
    assert str(tmp_path / "here") in err


def test_no_words_print_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys)
    assert code == 2
    for command in registry.COMMANDS:
        assert command.usage() in out
    assert run(capsys, "--help")[0] == 0
    assert "vr show routers" in overview(("show",))
    assert "vr ping" not in overview(("show",))


def test_every_command_can_be_loaded() -> None:
    for command in registry.COMMANDS:
        assert callable(registry.load(command.run))
        if command.render is not None:
            assert callable(registry.load(command.render))


def test_nearest_is_modest() -> None:
    assert words.nearest("intrefaces", ["interfaces", "routes"]) == "interfaces"
    assert words.nearest("zzz", ["interfaces", "routes"]) is None


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_every_word(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    code, out, _ = run(capsys, "completion", shell)
    assert code == 0
    for command in registry.COMMANDS:
        for word in command.words:
            assert word in out


def test_bash_completes() -> None:
    script = subprocess.run(
        [sys.executable, "-c", "from manager.cli.main import main; main(['completion', 'bash'])"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    ).stdout
    query = 'COMP_WORDS=(vr show ro); COMP_CWORD=2; _vr; echo "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", f"{script}\n{query}"], capture_output=True, text=True, check=True)
    assert sorted(done.stdout.split()) == ["route", "routers", "routes"]


def test_a_cold_start_is_quick() -> None:
    """The goal is 150 ms for a cold `show`; here the CPU time of interpreter and imports, best of five."""
    command = [
        sys.executable,
        "-c",
        "import manager.cli.main, manager.cli.client, manager.cli.show, manager.cli.render",
    ]
    times = []
    for _ in range(5):
        before = os.times()
        subprocess.run(command, check=True, cwd=Path(__file__).parents[3])
        after = os.times()
        times.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(times) < 0.15, times


def test_heavy_packages_stay_out_of_the_start() -> None:
    code = (
        "import sys, manager.cli.main, manager.cli.show, manager.cli.render\n"
        "print([name for name in ('pydantic', 'yaml', 'pyroute2', 'structlog', 'asyncio') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3]
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["completion", "bash"], 1),
        (["-j", "completion", "bash"], 1),
        (["--help"], 1),
        (["-j", "x"], 1),
        (["x"], 2),
    ],
)
def test_an_answer_that_no_disk_takes_is_told(argv: list[str], code: int) -> None:
    """A complaint that is an answer, too: of JSON nobody would see anything else."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "manager.cli.main", *argv],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == code
    assert done.stderr.startswith("vr: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("argv", [["completion", "bash"], ["-j", "x"], ["--help"]])
def test_a_reader_that_has_gone_is_no_error(argv: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "manager.cli.main", *argv], stdout=writer, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")
