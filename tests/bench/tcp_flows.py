"""Pairs of TCP ends for the benchmarks: a kernel with a kernel, and a VR's socket with a kernel, in the same shape.

    near (kernel, or VR "bench") ---- veth, or a relay ---- far (kernel)

Both are driven by the same program, `tests/traffic/tcptraffic.c`; a VR's socket is opened by rsock and handed to it.
CUBIC is asked for on every kernel socket.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from compiled import TRAFFIC, program
from lab import LabError
from wire import strict

import rsock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab import Lab, Namespace

SOURCE: Final = TRAFFIC / "tcptraffic.c"
VISITS: Final = Path(__file__).resolve().parent / "tcp_visits.py"
SIZE: Final = 64  # of a question, and of its answer
_ports: Final = itertools.count(7000)
Flow = tuple[subprocess.Popen[str], subprocess.Popen[str]]


def result(process: subprocess.Popen[str], timeout: float = 60.0) -> dict[str, float]:
    try:
        output, _error = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    if process.returncode:
        raise LabError(f"{process.args!r}: exit {process.returncode}\n{output}")
    found: dict[str, float] = json.loads(output.splitlines()[-1])
    return found


class Ends:
    """Two ends of TCP; `near` is what is measured, `far` is a kernel."""

    def __init__(self, lab: Lab, far: Namespace, near_address: str, far_address: str) -> None:
        """Note where they are."""
        self.lab, self.far = lab, far
        self.near_address, self.far_address = near_address, far_address

    def tool(self, namespace: Namespace, *words: object) -> subprocess.Popen[str]:
        """Run the program in a namespace; one that serves does so already."""
        command = namespace.command(program(SOURCE), *map(str, words))
        process = self.lab.helper(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert process.stdout is not None
        if str(words[1]).startswith("at:") and process.stdout.readline() != "ready\n":
            raise LabError(f"{command}: exit {process.wait()}")
        return process

    def near(self, mode: str, port: int, *words: object) -> subprocess.Popen[str]:
        """Run the program on a new connection to a port of the far end."""
        raise NotImplementedError

    @contextlib.contextmanager
    def near_server(self, port: int, workers: int) -> Iterator[None]:
        """Serve visitors at the near end."""
        raise NotImplementedError

    def visitor(self) -> tuple[list[str], str]:
        """Give how to run `tcp_visits.py`: the words before it, and the VR's name."""
        raise NotImplementedError

    # What is measured

    def flow(self, *, sending: bool, seconds: float, settle: float) -> Flow:
        """Start a stream between near and far; give the receiving program, and the other one."""
        port = next(_ports)
        send, receive = ("send", seconds + settle + 1), ("receive", settle, seconds)
        ours, theirs = (send, receive) if sending else (receive, send)
        far = self.tool(self.far, theirs[0], f"at:{self.far_address}:{port}", *theirs[1:])
        near = self.near(ours[0], port, *ours[1:])
        return (far, near) if sending else (near, far)

    def stream(self, *, sending: bool, seconds: float = 1.0, settle: float = 0.3) -> float:
        """Give what a stream carries, in Gbit/s."""
        return rate(self.flow(sending=sending, seconds=seconds, settle=settle)) / 1e9

    def ask(self, count: int) -> float:
        """Give the median time of a question and its answer, in microseconds."""
        port = next(_ports)
        far = self.tool(self.far, "answer", f"at:{self.far_address}:{port}", SIZE)
        found = result(self.near("ask", port, SIZE, count))
        far.wait(5)
        return found["p50"]

    def visited(self, seconds: float, workers: int) -> float:
        """Give the connections a second that the near end takes and serves."""
        port = next(_ports)
        with self.near_server(port, workers):
            found = result(self.tool(self.far, "visit", f"to:{self.near_address}:{port}", SIZE, seconds, workers))
        return found["count"] / found["seconds"]

    def visits(self, seconds: float, workers: int) -> float:
        """Give the connections a second that a Python program makes from the near end through rsock."""
        port = next(_ports)
        server = self.tool(self.far, "serve", f"at:{self.far_address}:{port}", SIZE, workers)
        try:
            words, vr = self.visitor()
            command = [*words, sys.executable, "-P", str(VISITS), vr, self.far_address, str(port), str(SIZE)]
            visitor = self.lab.helper(
                [*command, str(seconds), str(workers), f"ipc://{self.lab.run_dir}/rsock.sock"],
                stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            found = result(visitor)
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
        return found["count"] / found["seconds"]


class KernelEnds(Ends):
    """Both are kernels."""

    def __init__(self, lab: Lab, near: Namespace, far: Namespace, near_address: str, far_address: str) -> None:
        """Note where they are."""
        super().__init__(lab, far, near_address, far_address)
        self._near = near

    def near(self, mode: str, port: int, *words: object) -> subprocess.Popen[str]:
        """Run the program on a new connection to a port of the far end."""
        return self.tool(self._near, mode, f"to:{self.far_address}:{port}", *words)

    @contextlib.contextmanager
    def near_server(self, port: int, workers: int) -> Iterator[None]:
        """Serve visitors at the near end."""
        server = self.tool(self._near, "serve", f"at:{self.near_address}:{port}", SIZE, workers)
        try:
            yield
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()

    def visitor(self) -> tuple[list[str], str]:
        """Give how to run `tcp_visits.py`: the words before it, and the VR's name."""
        return self._near.command(), "kernel"


class RouterEnds(Ends):
    """The near end is a socket of VR "bench"."""

    def __init__(self, lab: Lab, far: Namespace, near_address: str, far_address: str) -> None:
        """Note where they are."""
        super().__init__(lab, far, near_address, far_address)
        self._context = rsock.Context(f"ipc://{lab.run_dir}/rsock.sock")

    def close(self) -> None:
        """Close the connections to the VR."""
        self._context.close()

    def _open(self) -> rsock.socket:
        made = rsock.socket(socket.AF_INET, socket.SOCK_STREAM, vr="bench", ctx=self._context)
        made.settimeout(10.0)
        return made

    def _hand_over(self, made: rsock.socket, mode: str, *words: object) -> subprocess.Popen[str]:
        """Have the program go on with a socket."""
        made.setblocking(True)
        fd = made.fileno()
        command = [program(SOURCE), mode, f"fd:{fd}", *map(str, words)]
        options: dict[str, Any] = {"stdout": subprocess.PIPE, "text": True, "pass_fds": [fd]}
        return self.lab.helper(command, start_new_session=True, **options)

    def near(self, mode: str, port: int, *words: object) -> subprocess.Popen[str]:
        """Run the program on a new connection to a port of the far end."""
        with self._open() as made:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            made.connect((self.far_address, port))
            return self._hand_over(made, mode, *words)

    @contextlib.contextmanager
    def near_server(self, port: int, workers: int) -> Iterator[None]:
        """Serve visitors at the near end."""
        with self._open() as made:
            made.bind((self.near_address, port))
            made.listen(4096)
            server = self._hand_over(made, "serve", SIZE, workers)
        try:
            yield
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()

    def visitor(self) -> tuple[list[str], str]:
        """Give how to run `tcp_visits.py`: the words before it, and the VR's name."""
        return [], "bench"


def rate(flow: Flow) -> float:
    """Wait for the end of a stream; give bit/s."""
    receiver, sender = flow
    found = result(receiver)
    sender.communicate(timeout=30)
    return found["bytes"] * 8 / found["seconds"]


def direct(lab: Lab, *, offloads: bool, gro: bool = False) -> tuple[KernelEnds, RouterEnds, dict[str, Any]]:
    """Make two kernels on one veth, and a VR's device with a kernel behind it; give both, and the VR's interface.

    Without offloads every end sends and takes frames of 1500 bytes, with their checksums; with `gro` both receivers
    may join them.
    """
    tag, net = ("", 1) if offloads else ("g", 5) if gro else ("s", 2)
    near, far, host = (lab.namespace(f"{name}{tag}") for name in ("near", "far", "host"))
    lab.veth("eth0", near, far, "eth0", far_address=f"10.{net}.0.2/24")
    near.address("eth0", f"10.{net}.0.1/24")
    device = f"lan{tag}"
    lab.veth(device, None, host, "eth0", far_address=f"10.{net}.1.2/24")
    if not offloads:
        for namespace, name in ((near, "eth0"), (far, "eth0"), (lab.box, device), (host, "eth0")):
            strict(namespace, name)
    if gro:
        near.run("ethtool", "-K", "eth0", "gro", "on")
    kernel = KernelEnds(lab, near, far, f"10.{net}.0.1", f"10.{net}.0.2")
    ours = RouterEnds(lab, host, f"10.{net}.1.1", f"10.{net}.1.2")
    return kernel, ours, {device: {"device": device, "addresses": [f"10.{net}.1.1/24"], "gro": gro}}
