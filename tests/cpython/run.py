"""CPython's own tests in a virtual router, against the same tests on the kernel, on the same machine.

    python tests/cpython/run.py [--promised | --quick] [MODULE ...]       as root; `make test-cpython`

One router with nothing but its loopback is started in a namespace of its own.  Each module runs twice with unittest,
first on the kernel and then under rsock.patch(vr=...), in the same way.  What passes on the kernel has to pass in the
router, but for what exceptions.toml lists with a reason; a listed test that passes is told.  `--quick` takes a part of
the modules, and no look at the kernel: nothing may fail that is not listed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "netns")]

from lab import Lab, project_environment  # noqa: E402 - found by the path above

VR: Final = "red"
PATIENCE: Final = 600.0  # seconds for a module
# The first of these are what the project promises; the others are here because they pass.
PROMISED: Final = [
    "test.test_socket", "test.test_selectors", "test.test_asyncio.test_streams", "test.test_asyncio.test_sock_lowlevel",
    "test.test_httplib", "test.test_smtplib",
]  # fmt: skip
OTHERS: Final = [
    "test.test_poplib", "test.test_ftplib", "test.test_imaplib", "test.test_xmlrpc", "test.test_ssl",
    "test.test_socketserver", "test.test_asyncore", "test.test_asynchat", "test.test_urllib2_localnet",
    "test.test_wsgiref", "test.test_telnetlib", "test.test_httpservers", "test.test_asyncio.test_events",
    "test.test_asyncio.test_server", "test.test_asyncio.test_sendfile", "test.test_asyncio.test_buffered_proto",
    "test.test_asyncio.test_base_events", "test.test_asyncio.test_selector_events", "test.test_asyncio.test_ssl",
    "test.test_asyncio.test_sslproto", "test.test_asyncio.test_unix_events", "test.test_asyncio.test_runners",
    "test.test_asyncio.test_timeouts", "test.test_logging", "test.test_smtpd", "test.test_nntplib", "test.test_timeout",
    "test.test_epoll", "test.test_poll", "test.test_select", "test.test_docxmlrpc", "test.test_urllib",
    "test.test_urllib2", "test.test_robotparser", "test.test_audit",
]  # fmt: skip
QUICK: Final = {
    "test.test_socket": [
        "BasicTCPTest", "BasicUDPTest.", "UDP6Test", "RecvmsgIntoTCPTest", "NonBlockingTCPTests",
        "CreateServerFunctional", "InheritanceTest", "ContextManagersTest", "BufferIOTest",
    ],
    "test.test_selectors": ["EpollSelector", "PollSelector"],
    "test.test_asyncio.test_streams": [],
    "test.test_asyncio.test_sock_lowlevel": ["EPoll"],
}  # fmt: skip

Outcomes = dict[str, Sequence[str]]  # ok, skipped or failed; why


@dataclass
class Verdict:
    """What became of a module."""

    module: str
    kernel: int  # passed there
    router: int  # of those
    listed: dict[str, str]  # failed, with its reason
    unlisted: dict[str, str]  # failed, with what was said
    surprising: list[str]  # listed, and it passes


def exceptions() -> list[tuple[str, str]]:
    """Give patterns and reasons."""
    listed = tomllib.loads((Path(__file__).parent / "exceptions.toml").read_text())
    return [(pattern, entry["reason"]) for entry in listed["exception"] for pattern in entry["tests"]]


def apart() -> list[str]:
    """Give the patterns of tests of what a router does not have at all."""
    listed = tomllib.loads((Path(__file__).parent / "exceptions.toml").read_text())
    return [pattern for entry in listed["exception"] if entry.get("apart") for pattern in entry["tests"]]


def run_module(module: str, environment: dict[str, str], vr: str = "", only: list[str] | None = None) -> Outcomes:
    """Run one module in a process of its own and give the outcomes."""
    with tempfile.TemporaryDirectory(prefix="anabranch-cpython-", ignore_cleanup_errors=True) as directory:
        results = Path(directory) / "results.json"
        worker = str(Path(__file__).parent / "worker.py")
        command = [sys.executable, "-P", worker, str(results), module, *([vr] if vr else [])]
        if only:
            command += ["--only", *only]
        with (Path(directory) / "log").open("wb") as log:
            subprocess.run(
                command, cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                timeout=PATIENCE, check=False,
            )  # fmt: skip
        if not results.exists():
            tail = (Path(directory) / "log").read_text(errors="replace")[-3000:]
            return {f"{module}.all": ("failed", tail)}
        outcomes: Outcomes = json.loads(results.read_text())["outcomes"]
        return outcomes


def compare(module: str, kernel: Outcomes, router: Outcomes, listed: list[tuple[str, str]]) -> Verdict:
    """Judge a module by both runs."""
    verdict = Verdict(module, 0, 0, {}, {}, [])
    for name, (outcome, _why) in kernel.items():
        if outcome != "ok":
            continue
        verdict.kernel += 1
        became, why = router.get(name, ("failed", "did not run"))
        reason = next((reason for pattern, reason in listed if fnmatchcase(name, pattern)), None)
        if became == "ok":
            verdict.router += 1
            if reason is not None:
                verdict.surprising.append(name)
        elif reason is not None:
            verdict.listed[name] = reason
        else:
            verdict.unlisted[name] = why.strip()
    return verdict


def world(lab: Lab) -> dict[str, str]:
    """Start a router, and give the environment in which apps find it."""
    lab.configure({VR: {"interfaces": {"lo": {"addresses": ["10.255.0.1/32"]}}}})
    lab.start()
    return project_environment() | {"RSOCK_ENDPOINT": f"ipc://{lab.run_dir}/rsock.sock"}


def show(verdict: Verdict, seconds: float) -> None:
    """Print one line, then what failed."""
    print(
        f"{verdict.module:42} kernel {verdict.kernel:4}  router {verdict.router:4}  "
        f"listed {len(verdict.listed):3}  unlisted {len(verdict.unlisted):3}  {seconds:5.0f} s",
        flush=True,
    )
    for name, why in verdict.unlisted.items():
        print(f"  FAILED {name}: {why.splitlines()[-1] if why else ''}")
    for name in verdict.surprising:
        print(f"  listed, and passes: {name}")


def run_quick(lab: Lab) -> bool:
    """Run a part in the router alone; tell whether nothing failed that is not listed."""
    environment, listed, passed, well = world(lab), exceptions(), 0, True
    for module, only in QUICK.items():
        for name, (outcome, why) in run_module(module, environment, VR, only).items():
            passed += outcome == "ok"
            if outcome == "failed" and not any(fnmatchcase(name, pattern) for pattern, _reason in listed):
                print(f"FAILED {name}: {why}")
                well = False
    print(f"{passed} passed")
    return well


def conclude(verdicts: list[Verdict]) -> bool:
    """Print the exceptions by reason and the total; tell whether all is well."""
    reasons: dict[str, int] = {}
    for verdict in verdicts:
        for reason in verdict.listed.values():
            reasons[reason] = reasons.get(reason, 0) + 1
    for reason, count in reasons.items():
        print(f"exception ({count} tests): {reason}")
    passed, total = sum(verdict.router for verdict in verdicts), sum(verdict.kernel for verdict in verdicts)
    foreign = sum(
        any(fnmatchcase(name, pattern) for pattern in apart()) for verdict in verdicts for name in verdict.listed
    )
    share = 100 * passed / max(total - foreign, 1)
    print(f"{passed} of {total - foreign} that pass on the kernel pass in the router: {share:.1f} %", end="")
    print(f"; {foreign} of other protocols apart" if foreign else "")
    return not any(verdict.unlisted for verdict in verdicts)


def main() -> bool:
    """Run what is asked for; tell whether nothing failed that is not listed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--promised", action="store_true", help="only the modules that the project promises")
    parser.add_argument("--quick", action="store_true", help="a part, in the router only")
    parser.add_argument("modules", nargs="*", metavar="MODULE")
    options = parser.parse_args()
    modules = options.modules or (PROMISED if options.promised else PROMISED + OTHERS)
    if os.geteuid() != 0:
        sys.exit("the router needs root")
    verdicts = []
    with Lab() as lab:
        if options.quick:
            return run_quick(lab)
        environment = world(lab)
        listed = exceptions()
        for module in modules:
            began = time.monotonic()
            kernel = run_module(module, environment)
            router = run_module(module, environment, VR)
            verdicts.append(compare(module, kernel, router, listed))
            show(verdicts[-1], time.monotonic() - began)
    return conclude(verdicts)


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
