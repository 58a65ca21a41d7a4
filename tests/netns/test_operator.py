"""`vr` as operators and scripts rely on it: exit codes, the exact shapes of the JSON, run dirs, traces, captures.

h1 10.0.0.2 --- lan red wan --- h2 192.0.2.2                   b1 10.0.0.2 --- lan blue
                    red to-blue === to-red blue, over shared memory
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from lab import VR, Lab, Namespace, program, project_environment, wait_until

from tests.conftest import require_program

pytestmark = pytest.mark.root

CONFIG: Final = """
routers:
  red:
    interfaces:
      lo: {addresses: [10.255.0.1/32]}
      lan: {device: lan, addresses: [10.0.0.1/24]}
      wan: {device: wan, mtu: 1400, mac: '02:00:00:00:00:77', driver: af-packet, addresses: [192.0.2.1/24]}
      tag: {device: wan, vlan: 7, addresses: [10.7.0.1/24]}
      to-blue: {patch: blue/to-red, addresses: [169.254.0.0/31]}
    static:
      198.51.100.0/24: {via: 192.0.2.2}
      203.0.113.0/24: {discard: true}
      198.18.0.0/15:
      - {via: 192.0.2.2, weight: 3}
      - {via: 192.0.2.3}
  blue:
    interfaces:
      lan: {device: blue-lan, addresses: [10.0.0.1/24]}
      to-red: {patch: red/to-blue, addresses: [169.254.0.1/31]}
    static:
      10.255.0.1/32: {via: 169.254.0.0}
"""
SHOWS: Final = ("interfaces", "neighbors", "routes", "fib", "sockets", "drops")


class Optional:
    """The shape of a key that may be missing."""

    def __init__(self, shape: Any) -> None:
        self.shape = shape


TEXT: Final = (str, type(None))
HOP: Final = {"via": TEXT, "interface": TEXT, "weight": int, "mac": Optional(str), "kind": Optional(str)}
ROUTE: Final = {"prefix": str, "protocol": str, "preference": int, "metric": int, "nexthops": [HOP]}
COUNTERS: Final = {
    "rx_packets": int, "tx_packets": int, "rx_bytes": int, "tx_bytes": int, "forwarded_packets": int,
    "forwarded_out_packets": int, "punt_packets": int, "originated_packets": int, "fragments_created": int,
    "held_packets": int, "drops": {str: int},
}  # fmt: skip
SHAPES: Final[dict[tuple[str, ...], Any]] = {
    ("routers",): [
        {
            "name": str, "state": str, "id": int, "pids": {"forwarder": int, "control": int}, "restarts": int,
            "netns": str,
        }
    ],
    ("interfaces", "red"): [
        {
            "name": str, "device": TEXT, "driver": str, "state": str, "mtu": int, "mac": str, "addresses": [str],
            "vlan": (int, type(None)), "index": int, "counters": COUNTERS, "driver_reason": Optional(str),
        }
    ],
    ("routes", "red"): [ROUTE],
    ("fib", "red"): [ROUTE],
    ("route", "red", "198.18.0.1"): ROUTE | {"address": str},
    ("neighbors", "red"): [{"address": str, "mac": TEXT, "state": str, "interface": str, "age": float}],
    ("drops", "red"): [{"reason": str, "interface": TEXT, "packets": int}],
    ("sockets", "red"): [
        {
            "socket": int, "type": str, "family": str, "protocol": int, "state": str, "local": str, "remote": TEXT,
            "interface": TEXT, "app": str, "pid": int, "uid": int, "identity": str, "orphaned": bool, "rx_packets": int,
            "tx_packets": int, "rx_drops": int,
        }
    ],
}  # fmt: skip


def check_shape(value: Any, shape: Any, where: str) -> None:
    """Check types and keys, no key more and none less."""
    if isinstance(shape, list):
        assert isinstance(value, list), where
        assert value, f"{where}: nothing to look at"
        for position, item in enumerate(value):
            check_shape(item, shape[0], f"{where}[{position}]")
    elif isinstance(shape, dict) and str in shape:
        assert all(isinstance(key, str) and type(item) is shape[str] for key, item in value.items()), where
    elif isinstance(shape, dict):
        assert isinstance(value, dict), where
        assert not value.keys() - shape.keys(), where
        for key, inner in shape.items():
            if isinstance(inner, Optional):
                if key in value:
                    check_shape(value[key], inner.shape, f"{where}.{key}")
            else:
                assert key in value, f"{where}.{key}"
                check_shape(value[key], inner, f"{where}.{key}")
    else:
        kinds = shape if isinstance(shape, tuple) else (shape,)
        assert type(value) in kinds, f"{where}: {value!r}"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as made:
        made.host("h1", "lan", "10.0.0.2/24", "10.0.0.1")
        made.host("h2", "wan", "192.0.2.2/24", "192.0.2.1")
        made.host("b1", "blue-lan", "10.0.0.2/24", "10.0.0.1")
        made.configure_text(CONFIG)
        made.start()
        yield made


@pytest.fixture
def h1(lab: Lab) -> Namespace:
    return lab.namespaces["h1"]


@contextlib.contextmanager
def running(lab: Lab, *words: str, as_json: bool = True, **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """Run `vr` beside the test; it is interrupted at the end, as Ctrl-C would."""
    command = program(VR, "--run-dir", str(lab.run_dir), *(["-j"] if as_json else []), *words)
    process = subprocess.Popen(command, env=project_environment(), stdout=subprocess.PIPE, **options)
    try:
        yield process
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(30)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def stir_until_it_ends(process: subprocess.Popen[str], stir: Callable[[], object]) -> str:
    """Make traffic until the command has seen enough; give what it printed."""
    deadline = time.monotonic() + 60
    while process.poll() is None:
        assert time.monotonic() < deadline, "it has seen nothing"
        stir()
    assert process.returncode == 0
    assert process.stdout is not None
    return process.stdout.read()


# Shapes


def test_the_shapes_of_all_shows(lab: Lab, h1: Namespace) -> None:
    assert h1.ping("192.0.2.2")
    h1.ping("203.0.113.9", wait=0.05)
    with running(lab, "ping", "red", "10.0.0.2", "-i", "0.2"):
        wait_until(lambda: lab.vr("show", "sockets", "red"), "the ping's socket is seen")
        for words, shape in SHAPES.items():
            check_shape(lab.vr("show", *words), shape, " ".join(words))


def test_what_the_shapes_hold(lab: Lab, h1: Namespace) -> None:
    assert h1.ping("192.0.2.2")
    interfaces = {entry["name"]: entry for entry in lab.vr("show", "interfaces", "red")}
    wan, tag, link, loopback = (interfaces[name] for name in ("wan", "tag", "to-blue", "lo"))
    assert (wan["device"], wan["mtu"], wan["mac"], wan["state"]) == ("wan", 1400, "02:00:00:00:00:77", "up")
    assert (tag["device"], tag["vlan"], tag["mac"]) == ("wan", 7, wan["mac"])
    assert (link["driver"], link["addresses"]) == ("link", ["169.254.0.0/31"])
    assert (loopback["device"], loopback["driver"]) == (None, "loopback")
    hops = lab.vr("show", "route", "red", "198.19.255.255")["nexthops"]
    assert [(hop["via"], hop["interface"], hop["weight"]) for hop in hops] == [
        ("192.0.2.2", "wan", 3),
        ("192.0.2.3", "wan", 1),
    ]
    fib = {entry["prefix"]: entry for entry in lab.vr("show", "fib", "red")}
    assert fib["203.0.113.0/24"]["nexthops"][0]["kind"] == "blackhole"
    assert {fib[prefix]["protocol"] for prefix in ("10.0.0.0/24", "10.0.0.1/32", "198.51.100.0/24")} == {
        "connected",
        "local",
        "static",
    }
    assert {router["state"] for router in lab.vr("show", "routers")} == {"up"}


def test_text_is_rendered_for_all_shows(lab: Lab) -> None:
    for words in [("routers",), *((what, "red") for what in SHOWS), ("route", "red", "198.18.0.1")]:
        done = lab.vr_run("show", *words, json_output=False)
        assert (done.returncode, done.stderr) == (0, ""), words
        assert len(done.stdout.splitlines()) >= (1 if words[0] == "sockets" else 2), words
    assert "via 192.0.2.2 dev wan weight 3" in lab.vr_run("show", "fib", "red", json_output=False).stdout


def test_packets_pass_the_patch_link(lab: Lab) -> None:
    assert lab.vr("ping", "red", "169.254.0.1", "-c", "2", "-i", "0.05")["received"] == 2
    assert lab.vr("ping", "blue", "10.255.0.1", "-c", "2", "-i", "0.05")["received"] == 2


# Exit codes

NO: Final = [
    (("show", "route", "red", "8.8.8.8"), 1, "no-route"),
    (("shw", "routers"), 2, "usage"),
    (("show",), 2, "usage"),
    ((), 2, "usage"),
    (("show", "interfaces"), 2, "usage"),
    (("show", "interfaces", "rde"), 2, "usage"),
    (("show", "route", "red", "10.0.0"), 2, "usage"),
    (("ping", "red"), 2, "usage"),
    (("ping", "rde", "10.0.0.2"), 2, "usage"),
    (("ping", "red", "10.0.0.2", "-c", "many"), 2, "usage"),
    (("traceroute", "red", "there"), 2, "usage"),
    (("router", "bounce", "red"), 2, "usage"),
    (("router", "restart", "rde"), 2, "usage"),
    (("trace", "red", "-n", "0"), 2, "usage"),
    (("trace", "red", "-i", "lna"), 2, "usage"),
    (("capture", "red", "lna"), 2, "usage"),
    (("capture", "red", "lan", "-w", "/nonexistent/file"), 2, "failed"),
    (("check", "/nonexistent"), 2, "config"),
]


@pytest.mark.parametrize(("words", "code", "kind"), NO, ids=[" ".join(words) or "nothing" for words, *_ in NO])
def test_refusals(lab: Lab, words: tuple[str, ...], code: int, kind: str) -> None:
    """Under -j the error is JSON on standard output; else a sentence on standard error."""
    done = lab.vr_run(*words)
    assert (done.returncode, done.stderr) == (code, "")
    error = json.loads(done.stdout)["error"]
    assert error["kind"] == kind
    assert error["message"]
    if not words or words == ("show",):
        return  # in words, that is a question for help
    done = lab.vr_run(*words, json_output=False)
    assert done.returncode == code
    assert done.stdout == ""
    assert done.stderr.startswith("vr: ")
    assert "Traceback" not in done.stderr


UNREACHABLE: Final = [
    ("show", "routers"), *(("show", what, "red") for what in SHOWS), ("show", "route", "red", "10.0.0.1"),
    ("ping", "red", "10.0.0.1", "-c", "1"), ("traceroute", "red", "10.0.0.1"), ("trace", "red"),
    ("capture", "red", "lan"), ("plan",), ("apply",), ("check",), ("router", "stop", "red"),
]  # fmt: skip


@pytest.mark.parametrize("words", UNREACHABLE, ids=" ".join)
def test_without_a_manager_all_is_unreachable(words: tuple[str, ...], tmp_path: Path) -> None:
    command = program(VR, "--run-dir", str(tmp_path), "-j", *words)
    done = subprocess.run(command, env=project_environment(), capture_output=True, text=True, check=False, timeout=10)
    assert (done.returncode, done.stderr) == (3, "")
    assert json.loads(done.stdout)["error"]["kind"] == "unreachable"


def test_ping_counts(lab: Lab) -> None:
    assert lab.vr_run("ping", "red", "10.0.0.2", "-c", "1").returncode == 0
    done = lab.vr_run("ping", "red", "10.0.0.99", "-c", "1", "-W", "0.1")
    assert done.returncode == 1
    assert json.loads(done.stdout)["received"] == 0


# Run dirs


def test_the_run_dir_comes_from_the_environment(lab: Lab, tmp_path: Path) -> None:
    def routers(environment: str, *options: str) -> subprocess.CompletedProcess[str]:
        command = program(VR, *options, "-j", "show", "routers")
        variables = project_environment() | {"ANABRANCH_RUN_DIR": environment}
        return subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=10)

    names = [router["name"] for router in json.loads(routers(str(lab.run_dir)).stdout)]
    assert names == ["blue", "red"]
    assert routers(str(tmp_path)).returncode == 3
    assert routers(str(tmp_path), "--run-dir", str(lab.run_dir)).returncode == 0  # the option has the last word


def test_two_instances_do_not_know_of_each_other(lab: Lab, h1: Namespace) -> None:
    """The same names and addresses twice on one host; the end of one is nothing to the other."""
    before = lab.vr("show", "routers")
    with Lab() as other:
        host = other.host("h1", "lan", "10.0.0.2/24", "10.0.0.1")
        interfaces = {"lan": {"device": "lan", "addresses": ["10.0.0.1/24"]}}
        other.configure({"red": {"interfaces": interfaces}})
        other.start()
        assert host.ping("10.0.0.1")
        (red,) = other.vr("show", "routers")
        mine = next(router for router in before if router["name"] == "red")
        assert red["netns"] != mine["netns"]
        assert set(red["pids"].values()).isdisjoint(mine["pids"].values())
        owners = {Path(f"/proc/{pids['forwarder']}").stat().st_uid for pids in (red["pids"], mine["pids"])}
        assert len(owners) == 2
        other.stop()
        assert lab.vr("show", "routers") == before
        assert h1.ping("10.0.0.1")


# Traces and captures


def test_a_trace_in_words(lab: Lab, h1: Namespace) -> None:
    assert h1.ping("192.0.2.2")
    with running(lab, "trace", "red", "-i", "lan", "-n", "3", as_json=False, text=True) as process:
        text = stir_until_it_ends(process, lambda: h1.ping("192.0.2.2", wait=0.2))
    lives = [part for part in text.split("packet ") if part]
    assert len(lives) == 3
    life = next(life for life in lives if "10.0.0.2 > 192.0.2.2" in life).splitlines()
    assert "in on lan at" in life[0]
    stages = [line.split()[0] for line in life[1:]]
    assert [stage for stage in stages if stage in {"ethernet", "ip4", "fib", "transmit"}] == [
        "ethernet",
        "ip4",
        "fib",
        "transmit",
    ]
    assert any("entry 192.0.2.0/24" in line for line in life)


@pytest.mark.parametrize(
    ("destination", "reason"), [("203.0.113.7", "blackhole"), ("8.8.8.8", "no_route"), ("192.0.2.66", None)]
)
def test_a_trace_of_drops_names_the_reason(lab: Lab, h1: Namespace, destination: str, reason: str | None) -> None:
    """A drop is told even when it comes seconds after the packet, as for a neighbor that does not answer."""
    with running(lab, "trace", "red", "--drops", "-i", "lan") as process:
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        output = b""

        def told() -> dict[str, Any] | None:
            nonlocal output
            h1.ping(destination, wait=0.05)
            output += process.stdout.read() or b""  # type: ignore[union-attr]
            packets = map(json.loads, output.split(b"\n")[:-1])
            # Others are dropped too: what a host says to all its neighbors, for one.
            return next((p for p in packets if any(destination in s["detail"] for s in p["stages"])), None)

        packet = wait_until(told, "the drop is told")
    assert packet["interface"] == "lan"
    assert packet["drop"] == reason if reason else packet["drop"].startswith("neighbor")
    assert {"stage", "detail"} <= packet["stages"][0].keys()


def test_a_trace_of_a_packet_for_the_router_itself(lab: Lab, h1: Namespace) -> None:
    with running(lab, "trace", "red", "-i", "lan", "-n", "1", text=True) as process:
        (packet,) = map(json.loads, stir_until_it_ends(process, lambda: h1.ping("10.0.0.1", wait=0.2)).splitlines())
    assert packet["drop"] is None
    assert packet["stages"]


def test_a_live_capture_into_tshark(lab: Lab, h1: Namespace) -> None:
    """`vr capture -w - | tshark -r -`: frames are seen as they come, not when the capture ends."""
    tshark = require_program("tshark")
    with running(lab, "capture", "red", "lan", "-w", "-", as_json=False) as capture:
        reader = subprocess.Popen(
            [tshark, "-l", "-r", "-", "-T", "fields", "-e", "icmp.type", "-e", "frame.interface_name"],
            stdin=capture.stdout, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert reader.stdout is not None
            os.set_blocking(reader.stdout.fileno(), False)
            seen = ""

            def asked_and_answered() -> bool:
                nonlocal seen
                assert h1.ping("10.0.0.1")
                with contextlib.suppress(TypeError):  # nothing has come
                    seen += reader.stdout.read() or ""  # type: ignore[union-attr]
                return {"8\tlan", "0\tlan"} <= set(seen.splitlines())

            wait_until(asked_and_answered, "request and reply are seen while the capture runs", interval=0.05)
            assert capture.poll() is None
            capture.send_signal(signal.SIGINT)
            assert capture.wait(30) == 0
            _, errors = reader.communicate(timeout=30)
            assert reader.returncode == 0, errors
        finally:
            reader.kill()
            reader.wait()


def test_a_capture_of_all_interfaces(lab: Lab, h1: Namespace, tmp_path: Path) -> None:
    tshark = require_program("tshark")
    file = tmp_path / "all.pcapng"
    with running(lab, "capture", "red", "all", "-w", str(file), "-n", "8", text=True) as process:
        stir_until_it_ends(process, lambda: h1.ping("192.0.2.2", wait=0.2))
    fields = ["-e", "frame.interface_name", "-e", "frame.packet_flags_direction"]
    done = subprocess.run([tshark, "-r", file, "-T", "fields", *fields], capture_output=True, text=True, check=True)
    assert "alformed" not in done.stdout + done.stderr
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert len(lines) == 8
    assert {"lan", "wan"} <= {line[0] for line in lines}
    assert {int(line[1], 16) & 3 for line in lines} == {1, 2}


# Without a daemon


def alone(*words: str) -> subprocess.CompletedProcess[str]:
    command = program(VR, "--run-dir", "/nonexistent", *words)
    return subprocess.run(command, env=project_environment(), capture_output=True, text=True, check=False, timeout=30)


def test_doctor_needs_no_daemon() -> None:
    done = alone("-j", "doctor")
    findings = {finding["name"]: finding for finding in json.loads(done.stdout)}
    assert done.returncode == 0
    check_shape(list(findings.values()), [{"name": str, "state": str, "message": str, "help": TEXT}], "doctor")
    assert findings["manager"]["state"] == "warn"
    assert {finding["state"] for name, finding in findings.items() if name != "manager"} == {"ok"}
    assert "fix: anabranch run" in alone("doctor").stdout


def test_check_needs_no_daemon(tmp_path: Path) -> None:
    (tmp_path / "vr").mkdir()
    (tmp_path / "system.yaml").write_text("uid-range: 500000-500099\n")
    (tmp_path / "vr" / "all.yaml").write_text(CONFIG)
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "x.yaml").write_text("this is: no configuration\n")
    assert json.loads(alone("-j", "check", str(tmp_path)).stdout)["routers"] == ["red", "blue"]
    (tmp_path / "more.yaml").write_text("uid-range: 500000-500009\nrouters: {red: {statik: {}}}\n")
    done = alone("check", str(tmp_path))
    assert done.returncode == 2
    assert "duplicate key 'uid-range' (first at " in done.stderr
    assert "did you mean 'static'?" in done.stderr
