"""Runs google's packetdrill scripts against the host stack, in virtual time.

    PACKETDRILL (a source tree, or the built program in one) --> program, scripts
    facade.so (tests/packetdrill/*.c and the host stack) ------> preloaded, and packetdrill's --so_filename
    a tree of links to the scripts, with our set_sysctls.py ---> where the scripts' commands find theirs

A script is core unless its path names a feature that is out of scope.  Each runs in the modes ipv4, ipv6
and ipv4-mapped-ipv6, but for those whose name ends with the family they are written for.  Commands of the
scripts (sysctl, ip, tc, ethtool) are stand-ins of `bin/`: nothing of the machine changes.  All runs in
namespaces of its own, because a few scripts write to /sys; where there are none to be had, those fail.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import dataclasses
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parents[1]
BUILD: Final = ROOT / "build" / "packetdrill"
OUT_OF_SCOPE: Final = ("fastopen", "zerocopy", "splice", "sendfile", "timestamping")
SOURCES: Final = ("base", "wire", "table", "host")
FLAGS: Final = (
    *("-std=gnu11", "-O2", "-g", "-fPIC", "-shared", "-fno-strict-aliasing", "-pthread"),
    *("-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror"),
)
TIMEOUT: Final = 30.0
NAMESPACES: Final = "ANABRANCH_PD_NAMESPACES"

V4: Final = {
    "local_ip": "192.168.0.1",
    "gateway_ip": "192.168.0.1",
    "netmask_ip": "255.255.0.0",
    "remote_ip": "192.0.2.1",
}
V6: Final = {
    "mtu": "1520",
    "local_ip": "fd3d:0a0b:17d6::1",
    "gateway_ip": "fd3d:0a0b:17d6:8888::1",
    "remote_ip": "fd3d:fa7b:d17d::1",
}
DEFINES4: Final = ("TFO_COOKIE=3021b9d889017eeb", "CODE=host_unreachable")
MODES: Final = {
    "ipv4": (V4, (*DEFINES4, "CMSG_LEVEL_IP=SOL_IP", "CMSG_TYPE_RECVERR=IP_RECVERR")),
    "ipv6": (V6, ("TFO_COOKIE=c1d1e9742a47a9bc", "CMSG_LEVEL_IP=SOL_IPV6", "CMSG_TYPE_RECVERR=IPV6_RECVERR")),
    "ipv4-mapped-ipv6": (V4, (*DEFINES4, "CMSG_LEVEL_IP=SOL_IPV6", "CMSG_TYPE_RECVERR=IPV6_RECVERR")),
}


@dataclasses.dataclass(frozen=True)
class Script:
    """One script of the collection."""

    path: Path
    name: str

    @property
    def core(self) -> bool:
        """Tell whether it asks only for what is in scope."""
        return not any(word in self.name for word in OUT_OF_SCOPE)

    def suits(self, mode: str) -> bool:
        """Tell whether it is written for the family of `mode`."""
        if self.path.stem.endswith("v6"):
            return mode == "ipv6"
        return not self.path.stem.endswith("v4") or mode != "ipv6"

    def options(self) -> dict[str, str]:
        """Give the options that stand in the script itself."""
        return dict(re.findall(r"^--(\w+)=(\S+)", self.path.read_text(), re.MULTILINE))


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of one run."""

    script: Script
    mode: str
    passed: bool
    output: str
    trace: str


def find_program(given: Path) -> Path:
    """Give packetdrill's program: `given`, or the one in that source tree, built here if need be."""
    if given.is_file():
        return given
    for folder in (given, given / "packetdrill", given / "gtests" / "net" / "packetdrill"):
        if (folder / "packetdrill").is_file():
            return folder / "packetdrill"
        if (folder / "packetdrill.h").is_file():
            return build_program(folder)
    raise SystemExit(f"{given}: no packetdrill there")


def build_program(source: Path) -> Path:
    """Build packetdrill in a copy of its sources."""
    copy = BUILD / "gtests" / "net" / "packetdrill"
    shutil.copytree(source, copy, dirs_exist_ok=True)
    log = BUILD / "packetdrill.log"
    with log.open("w") as out:
        for command in ("./configure", "make"):
            if subprocess.run([command], cwd=copy, stdout=out, stderr=out, check=False).returncode != 0:
                raise SystemExit(f"packetdrill cannot be built (flex and bison are needed): see {log}")
    return copy / "packetdrill"


def find_scripts(given: Path, program: Path) -> tuple[Path, list[Script]]:
    """Give the folder gtests/net of the collection, and its TCP scripts."""
    for folder in (given / "gtests" / "net", given, given.parent, program.parent.parent):
        if (folder / "tcp").is_dir():
            scripts = sorted((folder / "tcp").rglob("*.pkt"))
            return folder, [Script(path, str(path.relative_to(folder / "tcp"))) for path in scripts]
    raise SystemExit(f"{given}: no folder of scripts there (gtests/net/tcp)")


def build_facade() -> Path:
    """Compile the facade with the host stack."""
    BUILD.mkdir(parents=True, exist_ok=True)
    sources = [path for folder in SOURCES for path in sorted((ROOT / "fastpath" / "src" / folder).glob("*.c"))]
    sources += [*sorted(HERE.glob("pd_*.c")), ROOT / "tests" / "wire" / "offload.c"]
    sources = [path for path in sources if path.name != "confine.c"]
    includes = [f"-I{ROOT / folder}" for folder in ("fastpath/include", "fastpath/src", "build/include")]
    facade = BUILD / "facade.so"
    # A new file: a run that goes on has the old one mapped.
    fresh = BUILD / f"facade.{os.getpid()}.so"
    command = [os.environ.get("CC", "cc"), *FLAGS, *includes, *map(str, sources), "-o", str(fresh)]
    if subprocess.run(command, check=False).returncode != 0:
        raise SystemExit("the facade cannot be built")
    fresh.replace(facade)
    return facade


def link_collection(source: Path, target: Path) -> None:
    """Build a tree of links to the collection, in which our set_sysctls.py stands for its own."""
    for folder in ("tcp", "common"):
        for path in (source / folder).rglob("*"):
            place = target / folder / path.relative_to(source / folder)
            if path.is_dir():
                place.mkdir(parents=True, exist_ok=True)
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(HERE / "bin" / path.stem if path.name == "set_sysctls.py" else path.resolve())


def facade_flags(script: Script, mode: str) -> str:
    """Tell the facade what packetdrill keeps to itself."""
    options = script.options() | MODES[mode][0]  # the command line wins
    local = options["local_ip"]
    flags = [f"local{6 if ':' in local else 4}={local}", f"mtu={options.get('mtu', 1500)}"]
    if "mss" in options:
        flags.append(f"gro={options['mss']}")
    return ",".join(flags)


class Runner:
    """Runs scripts with one program and one facade."""

    def __init__(self, program: Path, facade: Path, collection: Path) -> None:
        self._program = program
        self._facade = facade
        self._collection = collection

    def command(self, script: Script, mode: str) -> list[str]:
        """Give packetdrill's command line."""
        addresses, defines = MODES[mode]
        return [
            str(self._program),
            "--send_omit_free",
            f"--ip_version={mode}",
            *(f"--{name}={value}" for name, value in addresses.items()),
            *(word for define in defines for word in ("-D", define)),
            f"--so_filename={self._facade}",
            f"--so_flags={facade_flags(script, mode)}",
            script.path.name,
        ]

    def run(self, script: Script, mode: str) -> Outcome:
        """Run one script in one mode."""
        with tempfile.TemporaryDirectory(prefix="anabranch-pd-") as folder:
            knobs = Path(folder) / "knobs"
            trace = Path(folder) / "trace"
            knobs.touch()
            environment = os.environ | {
                "PATH": f"{HERE / 'bin'}:{os.environ['PATH']}",
                "LD_PRELOAD": str(self._facade),
                "ANABRANCH_PD_KNOBS": str(knobs),
                "ANABRANCH_PD_TRACE": str(trace),
            }
            process = subprocess.Popen(
                self.command(script, mode),
                cwd=self._collection / "tcp" / Path(script.name).parent,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
            try:
                output = process.communicate(timeout=TIMEOUT)[0]
            except subprocess.TimeoutExpired:
                process.kill()
                output = process.communicate()[0] + f"killed after {TIMEOUT} s\n"
            Path(f"/tmp/sysctl_restore_{process.pid}.sh").unlink(missing_ok=True)
            seen = trace.read_bytes() if trace.exists() else b""
            return Outcome(script, mode, process.returncode == 0, output, hashlib.sha256(seen).hexdigest())


def enter_namespaces() -> None:
    """Start over in namespaces of our own, where they may be had: /sys/module is of no consequence there."""
    if NAMESPACES in os.environ:
        return
    unshare = ["unshare", "--mount", "--net", *(("--user", "--map-root-user") if os.geteuid() != 0 else ())]
    folder = "/sys/module/tcp_cubic/parameters"
    shell = f'mount -t tmpfs none /sys/module && mkdir -p {folder} && exec "$@"'
    command = [*unshare, "sh", "-c", shell, "sh"]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:
        os.environ[NAMESPACES] = "1"
        os.execvp(command[0], [*command, sys.executable, *sys.argv])


def report(outcomes: list[Outcome], scripts: list[Script]) -> bool:
    """Print the counts; tell whether all core scripts passed that suit their mode."""
    good = True
    for mode in sorted({outcome.mode for outcome in outcomes}):
        mine = [outcome for outcome in outcomes if outcome.mode == mode]
        core = [outcome for outcome in mine if outcome.script.core]
        passed = sum(outcome.passed for outcome in core)
        good = good and passed == len(core)
        line = f"{mode:16}  core {passed} of {sum(script.core for script in scripts)} ({len(core)} suit the mode)"
        if len(mine) > len(core):
            all_passed = sum(outcome.passed for outcome in mine)
            line += f", collection {all_passed} of {len(scripts)} ({len(mine)} suit the mode)"
        print(line)
    return good


def differing(rounds: list[list[Outcome]]) -> list[str]:
    """Name the runs whose traces were not the same in each round."""
    traces: dict[str, set[tuple[bool, str]]] = collections.defaultdict(set)
    for outcome in (outcome for outcomes in rounds for outcome in outcomes):
        traces[f"{outcome.script.name} ({outcome.mode})"].add((outcome.passed, outcome.trace))
    return sorted(name for name, found in traces.items() if len(found) > 1)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packetdrill", type=Path, help="source tree of packetdrill, or its program in one")
    parser.add_argument("--only", action="append", metavar="WORD", help="only scripts whose path contains one of these")
    parser.add_argument("--mode", choices=[*MODES], action="append", help="only this mode")
    parser.add_argument("--core", action="store_true", help="only the core scripts")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="run all N times and compare the packets")
    parser.add_argument("--verbose", action="store_true", help="print what failed scripts said")
    return parser.parse_args()


def main() -> int:
    """Run what the command line asks for."""
    enter_namespaces()
    arguments = parse_arguments()
    given = arguments.packetdrill.resolve()
    program = find_program(given)
    source, scripts = find_scripts(given, program)
    if arguments.core:
        scripts = [script for script in scripts if script.core]
    if arguments.only:
        scripts = [script for script in scripts if any(word in script.name for word in arguments.only)]
    facade = build_facade()
    work = [(script, mode) for mode in arguments.mode or MODES for script in scripts if script.suits(mode)]
    with tempfile.TemporaryDirectory(prefix="anabranch-pd-tree-") as tree:
        link_collection(source, Path(tree))
        runner = Runner(program, facade, Path(tree))
        with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
            rounds = [list(pool.map(lambda item: runner.run(*item), work)) for _ in range(arguments.repeat)]
    for outcome in rounds[0]:
        if not outcome.passed and (arguments.verbose or outcome.script.core):
            print(f"FAIL {outcome.script.name} ({outcome.mode})")
            if arguments.verbose:
                print("    " + outcome.output.strip().replace("\n", "\n    "))
    good = report(rounds[0], scripts)
    if arguments.repeat > 1:
        unequal = differing(rounds)
        for name in unequal:
            print(f"DIFFERS {name}")
        print(f"{arguments.repeat} rounds, {len(unequal)} of {len(work)} runs differ between them")
        good = good and not unequal
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
