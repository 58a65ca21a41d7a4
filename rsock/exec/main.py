"""The command `rsock`.

    rsock exec [--mode auto|preload|seccomp] [--vr NAME | --map MAP] [--run-dir DIR] [--] CMD [ARGUMENT ...]

runs a program whose sockets live in virtual routers.  This process becomes the program, by way of rsock-supervise
(rsock/c/supervisor.c), which lays a seccomp filter under it; where the preloaded library reaches the program's calls
(see program.py) that stands above the filter, and the filter only sees what passes it by.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Final

from rsock.exec.program import find, obstacle

DEFAULT_RUN_DIR: Final = "/run/anabranch"
KERNEL: Final = "kernel"
_LIBRARIES: Final = Path(__file__).resolve().parent.parent / "c" / "lib"
_SUPERVISE: Final = "rsock-supervise"
_PRELOAD: Final = "librsock-preload.so"
_FAILED, _NOT_EXECUTABLE, _NOT_FOUND = 125, 126, 127  # as env(1)
_PTRACE_SCOPE: Final = Path("/proc/sys/kernel/yama/ptrace_scope")
_CAP_SYS_PTRACE: Final = 1 << 19


def main(argv: list[str] | None = None) -> int:
    """Run one command; does not return where that starts a program."""
    parser = argparse.ArgumentParser(prog="rsock", description="sockets in virtual routers")
    commands = parser.add_subparsers(dest="command", required=True)
    add_arguments(commands.add_parser("exec", help="run a program in virtual routers", allow_abbrev=False))
    arguments = parser.parse_args(argv)
    return start(arguments.words, vr=arguments.vr, map=arguments.map, mode=arguments.mode, run_dir=arguments.run_dir)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `rsock exec`."""
    parser.add_argument("--mode", choices=("auto", "preload", "seccomp"), default="auto", help="how calls are reached")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--vr", metavar="NAME", help="the virtual router of all sockets; default: $RSOCK_VR")
    where.add_argument("--map", metavar="MAP", help="routers by address: 10.0.0.0/8=red,*=kernel")
    parser.add_argument("--run-dir", metavar="DIR", help="default: $ANABRANCH_RUN_DIR, else /run/anabranch")
    parser.add_argument("words", metavar="CMD", nargs=argparse.REMAINDER, help="the program and its arguments")


def start(
    words: list[str], *, vr: str | None = None, map: str | None = None,  # noqa: A002 - as the option
    mode: str = "auto", run_dir: str | None = None,
) -> int:  # fmt: skip
    """Become a program; the exit code where that fails."""
    if words[:1] == ["--"]:
        words = words[1:]
    vr = vr or (None if map else os.environ.get("RSOCK_VR"))
    if not words:
        return _complain("which program?")
    if not vr and not map:
        return _complain("which virtual router?  --vr NAME, --map MAP or $RSOCK_VR")
    if run_dir:
        os.environ["ANABRANCH_RUN_DIR"] = run_dir
    try:
        program = find(words[0])
    except OSError as error:
        return _refuse(words[0], error)
    if vr == KERNEL:
        return _become(words[0], words)
    problem = obstacle(program)
    if mode == "preload" and problem:
        _complain(f"{words[0]} is {problem}: the preloaded library does not reach it")
    _say_if_missing(vr)
    return _launch(words, vr, map, preload=mode == "preload" or (mode == "auto" and not problem))


def _launch(words: list[str], vr: str | None, map: str | None, *, preload: bool) -> int:  # noqa: A002
    scope = _ptrace_scope()
    if scope > 1:
        return _complain(f"kernel.yama.ptrace_scope is {scope}: only root may run programs in virtual routers")
    command = [str(_LIBRARIES / _SUPERVISE), *(["--map", map] if map else ["--vr", vr or ""])]
    # Above the filter the library decides by these; below it nobody reads them, and a child that uses rsock itself
    # must not find a router's socket where it meant the kernel's, which becomes the router's anyway.
    for name, value in (("RSOCK_VR", vr), ("RSOCK_MAP", map)):
        os.environ.pop(name, None)
        if preload and value:
            os.environ[name] = value
    if preload:
        others = os.environ.get("LD_PRELOAD", "")
        command += ["--preload", f"{others}:{_LIBRARIES / _PRELOAD}" if others else str(_LIBRARIES / _PRELOAD)]
    if scope == 1:
        command.append("--stay")
    return _become(command[0], [*command, "--", *words])


def _ptrace_scope() -> int:
    """Give what Yama asks of who looks into a process; 0 where we may anyway."""
    try:
        scope = int(_PTRACE_SCOPE.read_text())
        status = Path("/proc/self/status").read_text()
    except (OSError, ValueError):
        return 0
    effective = next((line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), "0")
    return 0 if int(effective, 16) & _CAP_SYS_PTRACE and scope < 3 else scope


def _say_if_missing(vr: str | None) -> None:
    """Say it where the router is not there; it may yet come."""
    run_dir = Path(os.environ.get("ANABRANCH_RUN_DIR") or DEFAULT_RUN_DIR)
    try:
        missing = vr is not None and not (run_dir / "vr" / f"{vr}.sock").exists()
    except OSError:  # not to be seen by us
        return
    if missing:
        _complain(f"there is no virtual router {vr} in {run_dir} now")


def _become(path: str, words: list[str]) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execvp(path, words)  # noqa: S606 - its calls are what is wanted
    except OSError as error:
        return _refuse(path, error)


def _refuse(path: str, error: OSError) -> int:
    code = _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTABLE
    return _complain(f"{path}: {error.strerror}", code)


def _complain(text: str, code: int = _FAILED) -> int:
    print(f"rsock: {text}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
