"""Sockets of two VRs that a patch link joins against the kernel's TCP between two namespaces over veth.

    near app --- VR near === VR far --- far app          near program --- kernel ---- veth ---- kernel --- far program

The same programs on both, by turns within one run; figures are medians of the rounds.  They vary with what else the
machine does, so only ratios mean anything, but for what has a limit in microseconds of its own.  CUBIC is asked for on
every kernel socket.  Each end has a processor of its own, as two hosts have: where all run on one, or where they are
moved about, figures of the same thing differ fourfold.  What calls cost under `rsock exec` is measured by test_exec.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import statistics
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from compiled import program as compiled
from lab import Lab, Namespace
from tcp_flows import SIZE, SOURCE, rate, result

import rsock
from rsock.c import build as client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(400)]

KERNEL: Final = "kernel"
ROUNDS: Final = 7
NEAR, FAR = "10.0.0.0", "10.0.0.1"
QUESTIONS: Final = 20_000
OPENS: Final = 1000
WORKERS: Final = 8
GOAL_STREAM, GOAL_ROUND_TRIP, GOAL_ACCEPTS = 1.0, 1.5, 1.0
GOAL_OPEN: Final = 500.0  # microseconds
# What even a busy machine must show.
FLOOR_STREAM, CEILING_ROUND_TRIP, FLOOR_ACCEPTS, CEILING_OPEN = 0.2, 10.0, 0.05, 5000.0
PROCESSORS: Final = tuple(sorted(os.sched_getaffinity(0))[end] for end in (0, -1))  # of the near and of the far end
VISITS: Final = Path(__file__).with_name("rsock_visits.c")


def pinned(end: int) -> tuple[str, ...]:
    """Give the words that have a command run on the processor of an end."""
    return "taskset", "-c", str(PROCESSORS[end])


class Ends:
    """Two ends of TCP: apps in two VRs, or programs on two kernels."""

    def __init__(self, lab: Lab, names: tuple[str, str], namespaces: tuple[Namespace, Namespace]) -> None:
        """Note where they are; `names` are VRs, or "kernel"."""
        self._lab, self._names, self._namespaces = lab, names, namespaces
        self.context = rsock.Context(f"ipc://{lab.run_dir}/rsock.sock")

    @contextlib.contextmanager
    def near(self) -> Iterator[Callable[[], socket.socket]]:
        """Be at the near end; give what opens sockets there."""
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {PROCESSORS[0]})
        try:
            with self._namespaces[0].entered():
                yield lambda: self._open(0)
        finally:
            os.sched_setaffinity(0, before)

    def _open(self, end: int) -> socket.socket:
        made = rsock.socket(socket.AF_INET, socket.SOCK_STREAM, vr=self._names[end], ctx=self.context)
        if self._names[end] == KERNEL:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
        return made

    def _listen(self) -> socket.socket:
        with self._namespaces[1].entered():
            made = self._open(1)
        made.settimeout(10.0)
        made.bind((FAR, 0))
        made.listen(4096)
        return made

    def _tool(self, end: int, sock: socket.socket, mode: str, *words: object) -> subprocess.Popen[str]:
        """Have the program of test_tcp go on with a socket of an end."""
        sock.setblocking(True)
        command = [*pinned(end), compiled(SOURCE), mode, f"fd:{sock.fileno()}", *map(str, words)]
        options: dict[str, Any] = {"stdout": subprocess.PIPE, "text": True, "pass_fds": [sock.fileno()]}
        return self._lab.helper(command, start_new_session=True, **options)

    @contextlib.contextmanager
    def _pair(self) -> Iterator[tuple[socket.socket, socket.socket]]:
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(self._listen())
            with self.near() as opened:
                near = stack.enter_context(opened())
            near.settimeout(10.0)
            near.connect(listener.getsockname())
            far = stack.enter_context(listener.accept()[0])
            for sock in (near, far):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            yield near, far

    @contextlib.contextmanager
    def _serving(self, workers: int) -> Iterator[int]:
        """Serve visitors at the far end; give the port."""
        with self._listen() as listener:
            port: int = listener.getsockname()[1]
            server = self._tool(1, listener, "serve", SIZE, workers)
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        try:
            yield port
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()

    # What is measured

    def stream(self) -> float:
        """Give what a stream from near to far carries, in Gbit/s."""
        settle, seconds = 0.3, 1.0
        with self._pair() as (near, far):
            receiver = self._tool(1, far, "receive", settle, seconds)
            sender = self._tool(0, near, "send", seconds + settle + 1)
        return rate((receiver, sender)) / 1e9

    def round_trip(self) -> float:
        """Give the median time of a question and its answer, in microseconds."""
        with self._pair() as (near, far):
            answering = self._tool(1, far, "answer", SIZE)
            asking = self._tool(0, near, "ask", SIZE, QUESTIONS)
        found = result(asking)
        answering.wait(5)
        return found["p50"]

    def opening(self) -> float:
        """Give the median time in which a Python program opens a socket and connects it, in microseconds."""
        times = []
        with self._serving(1) as port, self.near() as opened:
            for _open in range(OPENS):
                begin = time.perf_counter_ns()
                sock = opened()
                sock.connect((FAR, port))
                times.append(time.perf_counter_ns() - begin)
                sock.close()
        return statistics.median(times) / 1000

    def visits(self, program: str, workers: int) -> dict[str, float]:
        """Let a C program visit for a second: how often, and the median time of open and connect."""
        with self._serving(workers) as port:
            words = [program, self._names[0], FAR, str(port), str(SIZE), "1.0", str(workers)]
            environment = [f"ANABRANCH_RUN_DIR={self._lab.run_dir}", f"LD_LIBRARY_PATH={client.HERE / 'lib'}"]
            command = self._namespaces[0].command("env", *environment, *pinned(0), *words)
            return result(self._lab.helper(command, stdout=subprocess.PIPE, text=True))


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Ends, Ends]]:
    """Give the kernel's ends and ours."""
    with Lab() as lab:
        near, far = lab.namespace("near"), lab.namespace("far")
        lab.veth("eth0", near, far, "eth0", far_address=f"{FAR}/31")
        near.address("eth0", f"{NEAR}/31")
        lab.configure({
            "near": {"interfaces": {"link": {"patch": "far/link", "addresses": [f"{NEAR}/31"]}}},
            "far": {"interfaces": {"link": {"patch": "near/link", "addresses": [f"{FAR}/31"]}}},
        })  # fmt: skip
        lab.start()
        for name, processor in zip(("near", "far"), PROCESSORS, strict=True):
            os.sched_setaffinity(lab.router(name)["pids"]["forwarder"], {processor})
        made = Ends(lab, (KERNEL, KERNEL), (near, far)), Ends(lab, ("near", "far"), (lab.box, lab.box))
        yield made
        for ends in made:
            ends.context.close()


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Compile the C client; give its path."""
    path = str(tmp_path_factory.mktemp("rsock") / "rsock_visits")
    options = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", f"-I{client.HERE}", f"-L{client.HERE / 'lib'}")
    subprocess.run([shutil.which("cc") or "gcc", *options, "-o", path, str(VISITS), "-lrsock"], check=True)
    return path


def in_turns(both: tuple[Ends, Ends], measure: Callable[[Ends], float]) -> tuple[float, float]:
    """Measure the kernel and the VRs by turns; give both medians."""
    rounds = [(measure(both[0]), measure(both[1])) for _round in range(ROUNDS)]
    return statistics.median(one for one, _ in rounds), statistics.median(one for _, one in rounds)


def tell(what: str, figures: tuple[float, float], unit: str, goal: str, *, reached: bool) -> None:
    """Print a line of the table."""
    kernel, ours = figures
    print(
        f"\n{what:<44} kernel {kernel:>9.2f}  VRs {ours:>9.2f} {unit:<14} VRs : kernel = {ours / kernel:.2f};"
        f" goal {goal}: {'reached' if reached else 'NOT reached'}",
        end="",
    )


def test_one_stream(both: tuple[Ends, Ends]) -> None:
    kernel, ours = figures = in_turns(both, Ends.stream)
    tell("one stream from app to app", figures, "Gbit/s", f"at least {GOAL_STREAM:g}", reached=ours >= kernel)
    assert ours / kernel > FLOOR_STREAM


def test_question_and_answer(both: tuple[Ends, Ends]) -> None:
    kernel, ours = figures = in_turns(both, Ends.round_trip)
    reached = ours / kernel <= GOAL_ROUND_TRIP
    tell("64 bytes asked and answered, median", figures, "us", f"at most {GOAL_ROUND_TRIP:g}", reached=reached)
    assert ours / kernel < CEILING_ROUND_TRIP


def test_connections_accepted(both: tuple[Ends, Ends], program: str) -> None:
    def measure(ends: Ends) -> float:
        found = ends.visits(program, WORKERS)
        return found["count"] / found["seconds"]

    kernel, ours = figures = in_turns(both, measure)
    reached = ours / kernel >= GOAL_ACCEPTS
    tell("connections made, accepted and served", figures, "a second", f"at least {GOAL_ACCEPTS:g}", reached=reached)
    assert ours / kernel > FLOOR_ACCEPTS


@pytest.mark.parametrize("language", ["Python", "C"])
def test_open_and_connect(both: tuple[Ends, Ends], program: str, language: str) -> None:
    figures = in_turns(both, Ends.opening if language == "Python" else lambda ends: ends.visits(program, 1)["p50"])
    what = f"open and connect in {language}, median"
    tell(what, figures, "us", f"at most {GOAL_OPEN:g} us", reached=figures[1] <= GOAL_OPEN)
    assert figures[1] < CEILING_OPEN
