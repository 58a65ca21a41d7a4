"""`rsock exec`: unmodified programs in two routers with the same addresses at once, mostly by seccomp alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from exec_worlds import (
    APP_UID,
    ECHO,
    HOST4,
    HOST6,
    OTHER_UID,
    OWN4,
    WEB,
    WORLDS,
    World,
    check_nothing_left,
    exec_worlds,
    execute,
    supervisors,
)
from lab import wait_until

from tests.conftest import require_program

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root

PYTHON_CLIENT: Final = """
import asyncio, socket
async def get():
    reader, writer = await asyncio.open_connection("10.0.0.2", 80)
    writer.write(b"GET /asyncio HTTP/1.0\\r\\n\\r\\n")
    print((await reader.read()).decode().split("\\r\\n\\r\\n")[1], end="")
    writer.close()
asyncio.run(get())
with socket.socket() as other:
    other.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"blue\\0")
    other.connect(("10.0.0.2", 80))
    other.sendall(b"GET /device HTTP/1.0\\r\\n\\r\\n")
    print(other.makefile().read().split("\\n\\n")[1], end="")
try:
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
except OSError as error:
    print("packet", error.errno)
"""


@pytest.fixture(scope="module")
def worlds() -> Iterator[World]:
    with exec_worlds() as lab:
        yield lab


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Give a static program that makes all calls."""
    made = tmp_path_factory.mktemp("exec") / "exec_calls"
    source = Path(__file__).with_name("exec_calls.c")
    subprocess.run(["gcc", "-std=gnu11", "-O2", "-static", str(source), "-o", str(made)], check=True)
    return str(made)


ARGUMENTS: Final = (HOST4, HOST6, OWN4, str(WEB), str(ECHO))


def led_to(output: str) -> dict[str, str]:
    """Give where each way led to, by the output of exec_calls."""
    lines = output.splitlines()
    assert lines[-1:] == ["ok"], output
    return dict(line.split() for line in lines[:-1])


def test_a_static_program_makes_all_calls_in_both_worlds_at_once(worlds: World, calls: str) -> None:
    started = {
        name: worlds.helper(
            worlds.command(calls, *ARGUMENTS, where=("--vr", name)), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )
        for name in WORLDS
    }  # fmt: skip
    for name, process in started.items():
        output, errors = process.communicate(timeout=20)
        assert (process.returncode, errors) == (0, "")
        assert led_to(output) == dict.fromkeys(("tcp4", "tcp6", "udp4", "udp6", "msg"), name)


def test_the_map_decides_by_address_and_epoll_survives_it(worlds: World, calls: str) -> None:
    where = ("--map", "10.0.0.0/8=red,[2001:db8::]/32=blue,*=red")
    done = worlds.execute(calls, *ARGUMENTS, where=where)
    assert (done.returncode, done.stderr) == (0, "")
    expected = {"tcp4": "red", "tcp6": "blue", "udp4": "red", "udp6": "blue", "msg": "red"}
    assert led_to(done.stdout) == expected


def test_the_supervisor_as_parent(worlds: World, calls: str) -> None:
    """As where Yama lets only parents look into a process."""
    supervise = str(Path(__file__).parents[2] / "rsock" / "c" / "lib" / "rsock-supervise")
    base = worlds.box.command("env", f"ANABRANCH_RUN_DIR={worlds.run_dir}", supervise, "--stay", "--vr", "blue", "--")
    done = execute([*base, calls, *ARGUMENTS])
    assert (done.returncode, done.stderr) == (0, "")
    assert set(led_to(done.stdout).values()) == {"blue"}
    assert execute([*base, "sh", "-c", "exit 7"]).returncode == 7
    assert execute([*base, "sh", "-c", "kill -TERM $$"]).returncode in {-signal.SIGTERM, 128 + signal.SIGTERM}


def test_busybox(worlds: World) -> None:
    busybox = require_program("busybox")
    for name in WORLDS:
        for command in (
            worlds.command(busybox, "wget", "-qO-", f"http://{HOST4}/x", where=("--vr", name)),
            worlds.box.command(
                sys.executable, "-P", "-m", "manager.cli.main", "--run-dir", str(worlds.run_dir),
                "exec", name, "--", busybox, "wget", "-qO-", f"http://{HOST4}/x",
            ),
        ):  # fmt: skip
            assert execute(command).stdout.startswith(f"{name} /x ")


@pytest.mark.parametrize("mode", ["seccomp", "auto", "cleared"])
def test_a_dynamic_program(worlds: World, mode: str) -> None:
    """Preloaded or not, and where a child has lost its environment."""
    words = ["env", "-i", sys.executable] if mode == "cleared" else [sys.executable]
    done = worlds.execute(*words, "-c", PYTHON_CLIENT, mode="auto" if mode == "cleared" else mode)
    assert done.stdout.splitlines() == [
        f"red /asyncio ::ffff:{OWN4}", f"blue /device ::ffff:{OWN4}", "packet 97",
    ]  # fmt: skip
    assert "AF_PACKET" in done.stderr or "socket(17" in done.stderr  # it is told


def test_names_are_asked_in_the_router(worlds: World) -> None:
    """The host's name server is what a program finds in resolv.conf; the router's is what answers."""
    servers = [line.split()[1] for line in Path("/etc/resolv.conf").read_text().splitlines() if "nameserver" in line]
    asked = next((server for server in servers if ":" not in server), "127.0.0.1")
    (worlds.run_dir / "vr" / "red.resolv.conf").write_text(f"nameserver {HOST4}\n")
    ask = f"""
import socket
query = b"\\x12\\x34\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\3www\\3red\\0\\0\\1\\0\\1"
for connected in (False, True):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(5)
        if connected:
            s.connect(("{asked}", 53))
            s.send(query)
            peer = s.getpeername()
            answer = s.recv(512)
        else:
            s.sendto(query, ("{asked}", 53))
            answer, peer = s.recvfrom(512)
        print(peer[0], ".".join(map(str, answer[-4:])))
"""
    done = worlds.execute(sys.executable, "-c", ask, mode="seccomp")
    assert done.stdout.splitlines() == [f"{asked} {HOST4}"] * 2


def test_who_gives_root_up_opens_sockets_as_who_it_is(worlds: World) -> None:
    busybox = require_program("busybox")
    for uid, allowed in ((APP_UID, True), (OTHER_UID, False)):
        user = ("setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups")
        done = worlds.execute(*user, busybox, "wget", "-qO-", f"http://{HOST4}/x", mode="seccomp")
        assert done.stdout.startswith("red /x") is allowed
        assert ("Permission denied" in done.stderr) is not allowed


def test_status_and_output_are_the_programs_own(worlds: World) -> None:
    assert worlds.execute("sh", "-c", "exit 3").returncode == 3
    assert worlds.execute("no-such-program").returncode == 127
    assert worlds.execute("/dev/null").returncode == 126
    killed = worlds.execute("sh", "-c", "kill -9 $$").returncode
    assert killed in {-signal.SIGKILL, 128 + signal.SIGKILL}
    # A daemon that stays behind does not keep the output open.
    done = worlds.execute("sh", "-c", "sleep 60 </dev/null >/dev/null 2>&1 & echo $!")
    assert done.stderr == ""
    assert supervisors(worlds)
    os.kill(int(done.stdout), signal.SIGTERM)  # it lives
    wait_until(lambda: not supervisors(worlds), "the daemon has ended, and its supervisor")


def test_a_blocking_server_ends_with_its_program(worlds: World) -> None:
    """A call that waits is over when its program is killed, and the port is free at once."""
    server = (
        "import socket; s = socket.create_server(('10.0.0.1', 5500)); print('ready', flush=True);"
        "print(s.accept()[1][0], flush=True); s.accept()"
    )
    for _round in range(2):
        process = worlds.started(worlds.command(sys.executable, "-c", server, mode="seccomp"))
        assert process.stdout is not None
        with worlds.namespaces["red"].entered():
            peer = subprocess.run(
                [sys.executable, "-c", "import socket; socket.create_connection(('10.0.0.1', 5500), 5)"], check=False
            )
        assert peer.returncode == 0
        assert process.stdout.readline() == f"{HOST4}\n"
        process.kill()
        process.wait()


def test_nothing_is_left(worlds: World) -> None:
    """Whatever tests ran before."""
    check_nothing_left(worlds)
