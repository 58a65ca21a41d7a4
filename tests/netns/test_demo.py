"""The demo as a newcomer sees it: what it prints is true, what it tells to type works, nothing is left."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import ANABRANCH, ROOT, VR, processes_in, program, project_environment, run, wait_until

from manager.namespaces import name_for

pytestmark = pytest.mark.root

TABLE_SECONDS = 3.0
END_SECONDS = 60.0


class Demo:
    """A running demo and all that it has printed."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.lines: list[str] = []
        self.table_after: float | None = None
        self._start = time.perf_counter()
        command = program(ANABRANCH, "run", "--conf", str(ROOT / "conf"), "--run-dir", str(run_dir))
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=project_environment(),
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if line.startswith("  kernel ") and self.table_after is None:
                self.table_after = time.perf_counter() - self._start

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def wait(self, words: str) -> None:
        def there() -> bool:
            assert self.process.poll() is None, self.text
            return words in self.text

        try:
            wait_until(there, words, 60)
        except AssertionError:
            print(self.text)
            raise

    def row(self, world: str) -> list[str]:
        return next(re.split(r"\s{2,}", line.strip()) for line in self.lines if line.startswith(f"  {world} "))

    def commands(self) -> list[str]:
        """Give the commands that it tells to try."""
        start = next(i for i, line in enumerate(self.lines) if line.startswith("Try in another terminal"))
        return [line.split("  # ")[0].strip() for line in self.lines[start:] if "  # " in line]

    def wait_route(self, router: str, address: str) -> None:
        """Wait for what another router announces."""
        command = program(VR, "--run-dir", str(self.run_dir), "explain", "route", router, address)
        wait_until(lambda: run(*command, check=False).returncode == 0, f"{router} knows a route to {address}", 60, 0.2)

    def end(self) -> int:
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(END_SECONDS)
        self._reader.join(5)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


def _state(run_dir: Path) -> tuple[set[str], set[str], set[str]]:
    """Give what the demo may have left: its namespaces, links, changed files of the configuration."""
    suffix = name_for(run_dir, "any").rpartition("-")[2]
    netns = {path.name for path in Path("/run/netns").glob(f"anabranch-*-{suffix}")}
    links = {link["ifname"] for link in json.loads(run("ip", "-j", "link").stdout)}
    conf = {f"{path} {path.stat().st_mtime_ns}" for path in (ROOT / "conf").rglob("*")}
    return netns, links, conf


@pytest.fixture(scope="module")
def demo() -> Iterator[Demo]:
    run_dir = Path(f"/tmp/anabranch-demo-{os.getpid()}")
    before = _state(run_dir)
    started = Demo(run_dir)
    with contextlib.ExitStack() as held:
        try:
            started.wait("Ctrl-C ends it")
            # Held open: the number of a namespace that has gone would soon be a stranger's.
            spaces = [held.enter_context((Path("/run/netns") / name).open("rb")) for name in _state(run_dir)[0]]
            yield started
        finally:
            code = started.end()
        assert code == 0, started.text
        assert _state(run_dir) == before
        assert processes_in({os.fstat(space.fileno()).st_ino for space in spaces}) == []
    assert not run_dir.exists() or not list(run_dir.iterdir())
    if run_dir.exists():
        run_dir.rmdir()


def test_three_worlds_give_three_answers(demo: Demo) -> None:
    answers = {world: demo.row(world)[2] for world in ("red", "blue", "kernel", "green")}
    assert answers == {
        "red": "alice, behind red",
        "blue": "bob, behind blue",
        "kernel": "carol, behind the kernel",
        "green": "dave, behind green",
    }
    for world in answers:
        assert demo.row(world)[1] == "http://10.0.0.2/"
        assert 0 < float(demo.row(world)[3].removesuffix(" ms")) < 10_000


@pytest.mark.quiet
def test_the_table_comes_soon(demo: Demo) -> None:
    assert demo.table_after is not None
    print(f"table after {demo.table_after:.2f} s")
    assert demo.table_after < TABLE_SECONDS


def test_the_app_has_no_privilege(demo: Demo) -> None:
    (found,) = re.findall(r"One process \((\d+), user nobody\)", demo.text)
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{found}/status").read_text().splitlines() if ":\t" in line
    )
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    assert set(status["Uid"].split()) == {"65534"}


def test_red_forwarded_and_the_kernel_did_not(demo: Demo) -> None:
    (answers,) = re.findall(r"asked erin, at the far side of red, 1000 times and got (\d+) answers", demo.text)
    assert int(answers) == 1000
    (forwarded,) = re.findall(r"in all \d+ namespaces: (\d+)", demo.text)
    assert int(forwarded) == 0
    done = run(*program(VR, "--run-dir", str(demo.run_dir), "-j", "show", "interfaces", "red"))
    counters = {interface["name"]: interface["counters"] for interface in json.loads(done.stdout)}
    assert counters["lan"]["forwarded_packets"] >= 1000
    assert counters["wan"]["forwarded_packets"] >= 1000


def test_what_it_tells_to_type_works(demo: Demo) -> None:
    commands = demo.commands()
    assert len(commands) >= 5
    assert f"export ANABRANCH_RUN_DIR={demo.run_dir}" in demo.text
    environment = project_environment() | {"ANABRANCH_RUN_DIR": str(demo.run_dir)}
    demo.wait_route("red", "203.0.113.1")  # BGP takes a second or two, after a start as after a crash
    tried = 0
    for command in commands:
        if "EDITOR" in command or "kill" in command:
            continue  # tried below, with care
        words = shlex.split(command)
        if Path(words[0]).name == "vr":
            words = [*program(VR), *words[1:]]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False, env=environment)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        assert done.stdout
        tried += 1
    assert tried >= 4


def test_a_killed_forwarder_comes_back(demo: Demo) -> None:
    def red() -> dict[str, object]:
        done = run(*program(VR, "--run-dir", str(demo.run_dir), "-j", "show", "routers"))
        return next(router for router in json.loads(done.stdout) if router["name"] == "red")

    old = red()["pids"]["forwarder"]  # type: ignore[index]
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: red()["state"] == "up" and red()["pids"]["forwarder"] not in (None, old), "a successor")  # type: ignore[index]
    assert run(*program(VR, "--run-dir", str(demo.run_dir), "ping", "red", "10.0.0.2", "-c", "1")).returncode == 0


@pytest.mark.parametrize("way", ["pipe", "terminal"])
def test_whoever_looks_on_may_go(way: str) -> None:
    """A pipe whose reader goes (`| head`) stops nothing; a terminal takes the demo along, which leaves nothing."""
    run_dir = Path(f"/tmp/anabranch-{way}-{os.getpid()}")
    before = _state(run_dir)
    reader, writer = os.pipe() if way == "pipe" else pty.openpty()
    command = program(ANABRANCH, "run", "--conf", str(ROOT / "conf"), "--run-dir", str(run_dir))
    process = subprocess.Popen(
        command if way == "pipe" else ["setsid", "--ctty", *command],
        stdin=subprocess.DEVNULL if way == "pipe" else writer, stdout=writer, stderr=writer, env=project_environment(),
    )  # fmt: skip
    os.close(writer)
    try:
        wait_until((run_dir / "manager.sock").exists, "it has begun", 30)
        os.close(reader)
        if way == "pipe":
            wait_until((run_dir / "vr" / "green.sock").exists, "the show goes on", 30)
            process.send_signal(signal.SIGINT)
        assert process.wait(END_SECONDS) == 0
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(END_SECONDS)
    assert _state(run_dir) == before
    assert not run_dir.exists()
