"""What is written for people: nothing that becomes of a terminal, a pipe or a disk ends or stops the writer."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from manager.terminal import Lines

SOON = 20.0
FIRST = "first\n"


def taken(fd: int) -> str:
    """Give what lies ready to be read."""
    found = b""
    while select.select([fd], [], [], 0)[0] and (piece := os.read(fd, 1 << 16)):
        found += piece
    return found.decode()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe2(os.O_NONBLOCK)
    fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, 4096)
    yield ends
    for fd in ends:
        os.close(fd)


def test_lines_go_out_whole(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    lines = Lines(writer, 0)
    print("one", "two", file=lines)
    assert taken(reader) == "one two\n"
    lines.write("half")
    assert taken(reader) == ""
    lines.write(" a line\nand ")
    assert taken(reader) == "half a line\n"
    lines.flush()
    assert taken(reader) == "and "
    assert lines.encoding == "utf-8"
    print("\udcff", file=lines)
    assert taken(reader) == "\\udcff\n"


def test_a_reader_that_stands_still_stops_nobody(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    lines = Lines(writer, 0)
    start = time.monotonic()
    for number in range(1000):
        print(f"line {number}", file=lines)
    assert time.monotonic() - start < SOON
    first = taken(reader).splitlines()
    assert first == [f"line {number}" for number in range(len(first))]
    assert len(first) < 1000
    print("and on", file=lines)
    assert taken(reader) == f"({1000 - len(first)} lines were lost here)\nand on\n"


def test_a_patient_line_waits(pipe: tuple[int, int]) -> None:
    _reader, writer = pipe
    lines = Lines(writer, 0.05)
    os.write(writer, bytes(4096))
    start = time.monotonic()
    for number in range(100):
        print(f"line {number}", file=lines)
    assert 0.05 <= time.monotonic() - start < SOON  # the first has waited, the others have not


def test_a_reader_that_goes_is_no_error() -> None:
    reader, writer = os.pipe()
    lines = Lines(writer, 0)
    os.close(reader)
    print("lost", file=lines)
    os.close(writer)


def test_a_full_disk_is_no_error() -> None:
    with Path("/dev/full").open("wb", buffering=0) as full:
        print("lost", file=Lines(full.fileno(), 0))


def test_a_terminal_that_goes_is_no_error() -> None:
    master, slave = pty.openpty()
    lines = Lines(slave, 0)
    assert lines.isatty()
    os.close(master)
    print("lost", file=lines)
    os.close(slave)


def test_a_journal_that_stands_still_stops_nobody() -> None:
    """A service's standard error is a socket, which others have too: it stays one that waits."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        lines = Lines(ours.fileno(), 0)
        for _number in range(10_000):
            print("x" * 100, file=lines)
        assert ours.getblocking()
        assert theirs.recv(101) == b"x" * 100 + b"\n"


def test_a_standard_stream_that_is_closed_is_nobody_elses() -> None:
    """What is opened next would get its number, and each line that is written."""
    reader, writer = os.pipe()
    code = "terminal.take(0); import os; fd = os.dup({}); print('x'); os.write({}, str(fd).encode())"
    shell = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-P", "-c"]
    done = subprocess.run(
        [*shell, "from manager import terminal; " + code.format(writer, writer)],
        pass_fds=[writer],
        timeout=30,
        check=False,
    )
    os.close(writer)
    assert done.returncode == 0
    assert int(os.read(reader, 100)) > 2
    os.close(reader)


def test_the_shells_terminal_keeps_its_flags() -> None:
    master, slave = pty.openpty()
    code = "from manager import terminal; terminal.take(0); print('here')"
    subprocess.run([sys.executable, "-P", "-c", code], stdin=slave, stdout=slave, stderr=slave, timeout=30, check=True)
    assert taken(master) == "here\r\n"
    assert not fcntl.fcntl(slave, fcntl.F_GETFL) & os.O_NONBLOCK
    os.close(master)
    os.close(slave)


# Has a signal come at the moment when a module is asked for.
INTERRUPTED = """
import importlib.abc, os, signal, sys

class Interrupt(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
from manager.main import main
sys.exit(main(["run", "--conf", "/nonexistent"]))
"""


@pytest.mark.parametrize("module", ["manager.daemon", "setproctitle", "structlog", "manager.reactor"])
def test_ctrl_c_while_the_manager_is_imported_shows_no_traceback(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, module], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


HANGUP = """
import signal, sys, time
{before}
hangup = terminal.Hangup()
heard = []
signal.signal(signal.SIGHUP, lambda *_: heard.append(hangup.meant))
terminal.take(0)
print("ready")
while not heard:
    time.sleep(0.01)
sys.exit(40 + heard[0])
"""


@pytest.mark.parametrize(
    ("before", "close", "meant"),
    [("", True, True), ("", False, False), ("signal.signal(signal.SIGHUP, signal.SIG_IGN)", True, False)],
    ids=["terminal goes", "kill -HUP", "nohup"],
)
def test_a_hangup_is_told_from_a_reload(before: str, close: bool, meant: bool) -> None:
    pid, master = pty.fork()
    if pid == 0:
        code = "from manager import terminal" + HANGUP.format(before=before)
        os.execv(sys.executable, [sys.executable, "-P", "-c", code])
    assert select.select([master], [], [], 30)[0]
    if close:
        os.close(master)  # the kernel sends it
    else:
        os.kill(pid, signal.SIGHUP)
    _pid, status = os.waitpid(pid, 0)
    if not close:
        os.close(master)
    assert os.waitstatus_to_exitcode(status) == 40 + meant
