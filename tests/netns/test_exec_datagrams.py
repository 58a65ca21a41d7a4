"""Servers of datagrams that connect to whom they have heard, buffers by force, and functions with names of ours."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from exec_worlds import HOST4, OWN4, World, check_nothing_left, exec_worlds

import rsock
from rsock.client_core import keeping_body, parse_kept
from rsock.wire import Op

pytestmark = [pytest.mark.root]

PORT: Final = 7001
SAID: Final = (b"first", b"", b"third")
# Looks at the first datagram, connects to its sender, and reads as if there were nothing but read(2).
SERVER: Final = f"""
import os, socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("{OWN4}", {PORT}))
s.setsockopt(socket.SOL_SOCKET, 33, 100000)  # SO_RCVBUFFORCE
print("ready", flush=True)
_, peer = s.recvfrom(100, socket.MSG_PEEK)
time.sleep(0.3)  # all are there
s.connect(peer)
print([os.read(s.fileno(), 100) for _ in range({len(SAID)})], flush=True)
os.write(s.fileno(), b"heard")
"""
# A function that Ruby's socket library has as well.
SOME_SOCKET: Final = "int rsock_socket(int domain, int type, int protocol) { return domain + type + protocol; }\n"
USES_IT: Final = """
#include <stdio.h>
int rsock_socket(int, int, int);
int main(void) { printf("%d\\n", rsock_socket(1, 2, 3)); return 0; }
"""


@pytest.fixture(scope="module")
def worlds() -> Iterator[World]:
    with exec_worlds() as lab:
        yield lab
        check_nothing_left(lab)


def say(worlds: World) -> None:
    """Send from the host behind red, each datagram once."""
    words = f"import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('{HOST4}', 0))\n"
    words += f"for data in {SAID!r}: s.sendto(data, ('{OWN4}', {PORT}))\n"
    words += "s.settimeout(10); print(s.recv(100))"
    done = worlds.namespaces["red"].run(sys.executable, "-c", words)
    assert done.stdout == "b'heard'\n"


@pytest.mark.parametrize("mode", ["preload", "seccomp"])
def test_what_came_before_connect_is_read_behind_it(worlds: World, mode: str) -> None:
    server = worlds.started(worlds.command(sys.executable, "-c", SERVER, mode=mode))
    assert server.stdout is not None
    say(worlds)
    assert server.stdout.readline() == f"{list(SAID)!r}\n"
    assert server.wait(10) == 0


def test_what_came_before_connect_is_read_behind_it_in_python(worlds: World) -> None:
    context = rsock.Context(f"ipc://{worlds.run_dir}/rsock.sock")
    with context, rsock.socket(socket.AF_INET, socket.SOCK_DGRAM, vr="red", ctx=context) as server:
        server.settimeout(10)
        server.bind((OWN4, PORT))
        sender = worlds.helper(
            worlds.namespaces["red"].command(
                sys.executable, "-c",
                f"import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('{HOST4}', 7002))\n"
                f"for data in {SAID!r}: s.sendto(data, ('{OWN4}', {PORT}))",
            )
        )  # fmt: skip
        assert sender.wait(10) == 0
        _data, peer = server.recvfrom(100, socket.MSG_PEEK)
        server.connect(peer)
        assert [server.recv(100) for _datagram in SAID] == list(SAID)
        server.connect(peer)  # once more: nothing is lost, nothing is said twice
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.recv(100)


def test_what_is_marked(worlds: World) -> None:
    """Nothing where nothing waits, and nothing once more: the answer to the first connect may have been lost."""
    context = rsock.Context(f"ipc://{worlds.run_dir}/rsock.sock")
    with context, rsock.socket(socket.AF_INET, socket.SOCK_DGRAM, vr="red", ctx=context) as opened:
        app: Any = opened
        body = keeping_body(app._endpoint((HOST4, 7003)))
        assert parse_kept(app._call(Op.CONNECT, body)) is False
        assert parse_kept(app._call(Op.CONNECT, body)) is None


def test_names_of_ours_are_not_in_the_way_of_a_program(worlds: World, tmp_path: Path) -> None:
    (tmp_path / "some.c").write_text(SOME_SOCKET)
    (tmp_path / "program.c").write_text(USES_IT)
    compiler = shutil.which("cc") or "gcc"
    library, program = tmp_path / "libsome.so", tmp_path / "program"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "some.c"], check=True)
    subprocess.run([compiler, "-o", program, tmp_path / "program.c", library, f"-Wl,-rpath,{tmp_path}"], check=True)
    done = worlds.execute(str(program), mode="preload")
    assert (done.returncode, done.stdout) == (0, "6\n")
