"""Who runs as what: titles, rights, namespaces, fds; and what still answers when some of them do not.

host 10.0.0.2 --- lan red        host 10.0.0.2 --- lan blue
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from lab import VR, Lab, program, project_environment, wait_until

pytestmark = pytest.mark.root

SHOWS: Final = ("interfaces", "neighbors", "routes", "fib", "sockets", "drops")
CAPABILITIES: Final = ("CapInh", "CapPrm", "CapEff", "CapAmb")


def two() -> dict[str, Any]:
    return {
        name: {"interfaces": {"lan": {"device": f"{name}-lan", "addresses": ["10.0.0.1/24"]}}}
        for name in ("red", "blue")
    }


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as made:
        for name in ("red", "blue"):
            made.host(name, f"{name}-lan", "10.0.0.2/24", "10.0.0.1")
        made.configure(two())
        made.start()
        yield made


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _colon, value in (line.partition(":") for line in lines)}


def title(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()


def pids(lab: Lab, router: str) -> dict[str, int]:
    found: dict[str, int] = lab.router(router)["pids"]
    return found


def titled(lab: Lab, wanted: str) -> int:
    """Find the process with this title in the daemon's namespace."""

    def find() -> int:
        for pid in lab.box.processes():
            with contextlib.suppress(OSError):
                if title(pid) == wanted:
                    return pid
        return 0

    return int(wait_until(find, wanted))


def inodes(pid: int) -> set[int]:
    """Give the inodes of all sockets that a process holds."""
    found = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if match := re.fullmatch(r"socket:\[(\d+)\]", str(path.readlink())):
                found.add(int(match[1]))
    return found


# What they are


def test_titles_tell_who_is_who(lab: Lab) -> None:
    assert lab.daemon is not None
    assert title(lab.daemon.pid) == "anabranch: manager"
    for wanted in ("anabranch: manager", "anabranch: broker"):
        titled(lab, wanted)
    for name in ("red", "blue"):
        for role, pid in pids(lab, name).items():
            assert title(pid) == f"anabranch: {name} {role}"


def test_forwarder_and_control_can_do_nothing_more(lab: Lab) -> None:
    users, spaces = set(), set()
    for router in lab.vr("show", "routers"):
        own = Path(f"/run/netns/{router['netns']}").stat().st_ino
        inside = subprocess.run(
            ["ip", "netns", "exec", router["netns"], "readlink", "/proc/self/ns/net"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert inside.stdout == f"net:[{own}]\n"
        spaces.add(own)
        for pid in router["pids"].values():
            found = status(pid)
            assert {found[name] for name in CAPABILITIES} == {"0" * 16}
            assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
            assert Path(f"/proc/{pid}/ns/net").stat().st_ino == own
            assert len(set(found["Uid"].split())) == len(set(found["Gid"].split())) == 1
            assert found["Groups"] == ""
            assert found["Threads"] == "1"
            users.add((router["name"], found["Uid"].split()[0]))
    assert len(users) == len({user for _router, user in users}) == 2, "one uid for each VR"
    assert len(spaces) == 2
    assert lab.box.inode not in spaces
    found = status(titled(lab, "anabranch: broker"))
    assert found["Uid"].split()[0] not in {"0", *(user for _router, user in users)}
    assert (found["CapEff"], found["CapPrm"], found["NoNewPrivs"]) == ("0" * 16, "0" * 16, "1")


def test_a_forwarder_may_hold_all_its_sockets(lab: Lab) -> None:
    lines = Path(f"/proc/{pids(lab, 'red')['forwarder']}/limits").read_text().splitlines()
    limits = next(line.split()[3:5] for line in lines if line.startswith("Max open files"))
    assert limits == ["8192", "8192"]


def test_rings_are_held_by_the_manager_and_one_forwarder(lab: Lab) -> None:
    assert lab.daemon is not None
    held = {name: {role: inodes(pid) for role, pid in pids(lab, name).items()} for name in ("red", "blue")}
    for name, other in (("red", "blue"), ("blue", "red")):
        lines = Path(f"/proc/{pids(lab, name)['forwarder']}/net/packet").read_text().splitlines()[1:]
        rings = {int(line.split()[-1]) for line in lines}
        assert len(rings) == 1
        assert rings <= held[name]["forwarder"]
        assert rings <= inodes(lab.daemon.pid)
        assert not rings & held[name]["control"]
        assert not rings & (held[other]["forwarder"] | held[other]["control"])


INTRUDER: Final = """
import errno, json, os, signal, socket, sys
uid, victim, run_dir = int(sys.argv[1]), sys.argv[2], sys.argv[3]
os.setgroups([]); os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid)
def attempt(call):
    try:
        call()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"
def connect(path):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(path)
proc = f"/proc/{victim}"
print(json.dumps({
    "mem": attempt(lambda: open(f"{proc}/mem", "rb")),
    "fd": attempt(lambda: os.listdir(f"{proc}/fd")),
    "maps": attempt(lambda: open(f"{proc}/maps").read()),
    "netns": attempt(lambda: os.open(f"{proc}/ns/net", os.O_RDONLY)),
    "pidfd_getfd": attempt(lambda: os.readlink(f"{proc}/fd/3")),
    "signal": attempt(lambda: os.kill(int(victim), 0)),
    "control": attempt(lambda: connect(f"{run_dir}/control/blue.sock")),
    "manager": attempt(lambda: connect(f"{run_dir}/manager.sock")),
}))
"""


def test_red_cannot_reach_into_blue(lab: Lab) -> None:
    """Not even a red that runs an intruder's code, and has got rid of its seccomp filter."""
    red, blue = (lab.router(name) for name in ("red", "blue"))
    uid = status(red["pids"]["forwarder"])["Uid"].split()[0]
    for victim in blue["pids"].values():
        done = subprocess.run(
            ["ip", "netns", "exec", red["netns"], "python3", "-c", INTRUDER, uid, str(victim), str(lab.run_dir)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        attempts = json.loads(done.stdout)
        assert attempts.pop("signal") == "EPERM"
        assert set(attempts.values()) == {"EACCES"}, attempts


def test_files_in_the_run_dir_are_as_open_as_they_must_be(lab: Lab) -> None:
    def mode(name: str) -> int:
        return (lab.run_dir / name).stat().st_mode & 0o777

    assert [mode(name) for name in (".", "vr", "control", "manager.sock")] == [0o755, 0o755, 0o700, 0o600]
    assert [mode(name) for name in ("vr/red.sock", "rsock.sock", "routers.json")] == [0o666, 0o666, 0o644]
    assert mode("control/red.sock") == 0o600
    assert lab.run_dir.stat().st_uid == 0


# What still answers


def observe(lab: Lab) -> None:
    """Run all that needs no more than a forwarder and the broker, side by side."""
    commands = [
        ("show", "routers"), *(("show", what, "red") for what in SHOWS), ("show", "route", "red", "10.0.0.9"),
        ("ping", "red", "10.0.0.2", "-c", "20", "-i", "0.05"), ("trace", "red", "-n", "1"),
        ("capture", "red", "lan", "-n", "1"), ("traceroute", "red", "10.0.0.2", "-q", "1"),
    ]  # fmt: skip
    started = [
        (words, lab.helper(program(VR, "--run-dir", str(lab.run_dir), "-j", *words), stdout=subprocess.PIPE, text=True))
        for words in commands
    ]
    # For those that wait for packets, however late they begin.
    stir = lab.helper(lab.namespaces["red"].command("ping", "-q", "-i", "0.1", "10.0.0.1"), stdout=subprocess.DEVNULL)
    try:
        for words, process in started:
            out, _ = process.communicate(timeout=60)
            assert process.returncode == 0, (words, out)
            assert out.strip(), words
    finally:
        stir.kill()
        stir.wait()


def test_everything_observes_while_the_control_is_stopped(lab: Lab) -> None:
    """Another one takes its place."""
    control = pids(lab, "red")["control"]
    os.kill(control, signal.SIGSTOP)
    observe(lab)
    wait_until(lambda: pids(lab, "red")["control"] not in (None, control), "another control")
    lab.wait_state("red", "up")


def test_a_control_of_an_earlier_manager_is_found_stopped(lab: Lab) -> None:
    """No zygote that lives has borne it, so none hears of its stop."""
    lab.kill()
    lab.start()
    control = pids(lab, "red")["control"]
    os.kill(control, signal.SIGSTOP)
    wait_until(lambda: pids(lab, "red")["control"] not in (None, control), "another control")
    lab.wait_state("red", "up")


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_everything_observes_while_manager_and_control_are_dead(lab: Lab, number: signal.Signals) -> None:
    before = {name: pids(lab, name) for name in ("red", "blue")}
    lab.kill()
    os.kill(before["red"]["control"], number)
    observe(lab)
    assert lab.namespaces["red"].ping("10.0.0.1")
    for words in (("apply",), ("plan",), ("router", "stop", "red")):
        assert lab.vr_run(*words).returncode == 3
    lab.start()
    assert pids(lab, "red")["forwarder"] == before["red"]["forwarder"]
    assert pids(lab, "blue") == before["blue"]
    wait_until(lambda: pids(lab, "red")["control"] not in (None, before["red"]["control"]), "another control")
    lab.wait_state("red", "up")


def test_a_manager_that_hangs_is_said_to_hang(lab: Lab) -> None:
    assert lab.daemon is not None
    os.kill(lab.daemon.pid, signal.SIGSTOP)
    try:
        observe(lab)
        begin = time.monotonic()
        done = lab.vr_run("apply")
        assert done.returncode == 3
        assert "does not answer" in json.loads(done.stdout)["error"]["message"]
        assert time.monotonic() - begin < 20
    finally:
        os.kill(lab.daemon.pid, signal.SIGCONT)
    assert lab.vr("apply")["empty"]


# Bad luck


def kill_and_see(lab: Lab, victims: Callable[[], list[int]], number: int = signal.SIGKILL) -> None:
    """Signal some at once; all that belong to red come again, and blue keeps its own."""
    red, blue = pids(lab, "red"), pids(lab, "blue")
    doomed = victims()
    for pid in doomed:
        os.kill(pid, number)
    for role, pid in red.items():
        if pid in doomed:
            wait_until(lambda: pids(lab, "red")[role] not in (None, pid), f"another {role}")  # noqa: B023
    lab.wait_state("red", "up")
    assert wait_until(lambda: lab.namespaces["red"].ping("10.0.0.1", wait=0.3), "red answers")
    assert wait_until(lambda: lab.vr_run("ping", "red", "10.0.0.2", "-c", "1").returncode == 0, "its sockets work")
    assert pids(lab, "blue") == blue


def test_forwarder_and_control_die_together(lab: Lab) -> None:
    kill_and_see(lab, lambda: list(pids(lab, "red").values()))
    kill_and_see(lab, lambda: list(pids(lab, "red").values()), signal.SIGSTOP)


def test_the_zygote_dies_with_a_forwarder_or_the_broker(lab: Lab) -> None:
    kill_and_see(lab, lambda: [titled(lab, "anabranch: zygote"), pids(lab, "red")["forwarder"]])
    broker = titled(lab, "anabranch: broker")
    kill_and_see(lab, lambda: [titled(lab, "anabranch: zygote"), broker])
    assert titled(lab, "anabranch: broker") != broker


def test_the_broker_hangs(lab: Lab) -> None:
    broker = titled(lab, "anabranch: broker")
    kill_and_see(lab, lambda: [broker], signal.SIGSTOP)
    wait_until(lambda: titled(lab, "anabranch: broker") != broker, "another broker")


def test_manager_and_forwarder_die_together(lab: Lab) -> None:
    """Its rings died with both: red begins anew, blue goes on."""
    before = {name: pids(lab, name) for name in ("red", "blue")}
    lab.kill()
    os.kill(before["red"]["forwarder"], signal.SIGKILL)
    assert lab.vr_run("show", "fib", "red").returncode == 3
    assert next(r for r in lab.vr("show", "routers") if r["name"] == "red")["state"] == "down"
    lab.start()
    assert pids(lab, "blue") == before["blue"]
    assert set(pids(lab, "red").values()).isdisjoint(before["red"].values())
    assert wait_until(lambda: lab.namespaces["red"].ping("10.0.0.1", wait=0.3), "red answers")


def test_everybody_dies(lab: Lab) -> None:
    assert lab.daemon is not None
    everybody = [*lab.box.processes(), *pids(lab, "red").values(), *pids(lab, "blue").values()]
    lab.kill()
    for pid in everybody:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    lab.start()
    for name in ("red", "blue"):
        assert wait_until(partial(lab.namespaces[name].ping, "10.0.0.1", wait=0.3), f"{name} answers")


def test_no_traceback_in_all_this(lab: Lab) -> None:
    assert "Traceback" not in lab.log()
    assert "could not be handled" not in lab.log()


# Ends in the wrong moment; each with a daemon of its own


@contextlib.contextmanager
def one(**interface: Any) -> Iterator[Lab]:
    """Run a daemon with red alone; at the end nothing may be left, and nothing have been complained of."""
    with Lab() as made:
        made.host("red", "red-lan", "10.0.0.2/24", "10.0.0.1")
        lan = {"device": "red-lan", "addresses": ["10.0.0.1/24"]} | interface
        made.configure({"red": {"interfaces": {"lan": lan}}})
        yield made
        assert "Traceback" not in made.log()
        assert "could not be handled" not in made.log()


def back_home(lab: Lab) -> bool:
    return "red-lan" in {link["ifname"] for link in lab.box.links()}


@pytest.mark.parametrize("role", ["forwarder", "control", "broker", "zygote"])
@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_a_stop_while_one_is_down(role: str, number: signal.Signals) -> None:
    with one() as lab:
        lab.start()
        pid = pids(lab, "red").get(role) or titled(lab, f"anabranch: {role}")
        os.kill(pid, number)
        lab.stop()
        assert back_home(lab)
        assert not lab.run_dir.exists()


@pytest.mark.parametrize("delay", [0.0, 0.2, 0.4, 0.6])
def test_a_stop_while_it_starts(delay: float) -> None:
    with one() as lab:
        lab.start(wait=False)
        assert lab.daemon is not None
        wait_until(lambda: title(lab.daemon.pid) == "anabranch: manager", "it has begun", interval=0.002)  # type: ignore[union-attr]
        time.sleep(delay)
        lab.daemon.send_signal(signal.SIGTERM)
        lab.daemon.send_signal(signal.SIGINT)
        assert lab.daemon.wait(30) in {0, -signal.SIGTERM, -signal.SIGINT, 130}
        lab.daemon = None
        assert back_home(lab)


def test_a_reload_while_it_starts() -> None:
    with one() as lab:
        lab.start(wait=False)
        assert lab.daemon is not None
        titled(lab, "anabranch: zygote")
        for _time in range(3):
            lab.daemon.send_signal(signal.SIGHUP)
        wait_until(lambda: "configuration applied" in lab.log(), "the reload is made up for")
        lab.wait_state("red", "up")


def test_unplugged_and_plugged_in_again() -> None:
    with one() as lab:
        lab.start()
        host = lab.namespaces["red"]
        before = pids(lab, "red")
        host.ip("link", "delete", "eth0")
        wait_until(lambda: lab.interface("red", "lan")["state"] == "down", "the interface is down")
        assert lab.vr_run("show", "route", "red", "10.0.0.2").returncode == 1, "its routes are withdrawn"
        assert lab.vr_run("ping", "red", "10.0.0.2", "-c", "1", "-W", "0.2").returncode == 1
        assert lab.vr("apply")["empty"]
        os.kill(before["forwarder"], signal.SIGKILL)
        wait_until(lambda: pids(lab, "red")["forwarder"] not in (None, before["forwarder"]), "another forwarder")
        lab.veth("red-lan", None, host, "eth0", far_address="10.0.0.2/24")
        assert wait_until(lambda: host.ping("10.0.0.1", wait=0.2), "the new device works")
        host.ip("link", "delete", "eth0")
        lab.stop()


def test_a_device_that_does_not_exist() -> None:
    with one(device="rde-lan") as lab:
        lab.start()
        assert (lab.router("red")["state"], lab.interface("red", "lan")["state"]) == ("up", "down")
        assert "no device rde-lan" in lab.log()
        lab.configure({"red": {"interfaces": {"lan": {"device": "red-lan", "addresses": ["10.0.0.1/24"]}}}})
        lab.vr("apply")
        assert wait_until(lambda: lab.namespaces["red"].ping("10.0.0.1", wait=0.2), "the typo is mended")


def test_the_home_of_a_device_is_gone() -> None:
    """Its namespace has been deleted meanwhile: there is nowhere to give it back to."""
    with Lab() as lab:
        home, host = lab.namespace("home"), lab.namespace("host")
        lab.veth("port", home, host, "eth0", far_address="10.0.0.2/24")
        lan = {"device": "port", "netns": home.name, "addresses": ["10.0.0.1/24"]}
        lab.configure({"red": {"interfaces": {"lan": lan}}})
        lab.start()
        assert host.ping("10.0.0.1")
        home.delete()
        assert lab.vr("apply")["empty"]
        assert host.ping("10.0.0.1"), "it works on nevertheless"
        lab.stop()
        assert "Traceback" not in lab.log()


def test_the_run_dir_is_swept_away() -> None:
    with one() as lab:
        lab.start()
        subprocess.run(["rm", "-rf", str(lab.run_dir)], check=True)
        assert lab.namespaces["red"].ping("10.0.0.1")
        assert lab.vr_run("show", "routers").returncode == 3
        assert lab.daemon is not None
        lab.daemon.terminate()
        assert lab.daemon.wait(30) == 0
        lab.daemon = None
        assert back_home(lab)


@pytest.mark.parametrize("text", ["", "[", "{}", "[7]", '[{"name": "red"}]', "null"])
def test_a_damaged_record_of_the_last_run(text: str) -> None:
    with one() as lab:
        lab.start()
        everybody = [*lab.box.processes(), *pids(lab, "red").values()]
        netns = lab.router("red")["netns"]
        lab.kill()
        for pid in everybody:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        (lab.run_dir / "routers.json").write_text(text)
        done = subprocess.run(
            program(VR, "--run-dir", str(lab.run_dir), "-j", "show", "routers"),
            env=project_environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr
        lab.start()
        assert wait_until(lambda: lab.namespaces["red"].ping("10.0.0.1", wait=0.3), "red answers")
        assert lab.router("red")["netns"] == netns
