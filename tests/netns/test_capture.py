"""`vr trace` and `vr capture` on a running router, judged by tshark; the extcap as tshark starts it."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING, Final

import pytest
from hosts import Trace
from lab import VR, Lab, LabError, program, project_environment, wait_until

from tests.conftest import require_program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.root]

EXTCAP: Final = "manager.cli.extcap:main"
PATIENCE: Final = 60.0


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Run red with two workers: some of the frames come to the second one."""
    with Lab() as made:
        made.host("source", "in", "10.0.0.2/24", gateway="10.0.0.1")
        made.host("sink", "out", "10.0.1.2/24", gateway="10.0.1.1")
        interfaces = {
            "lan": {"device": "in", "addresses": ["10.0.0.1/24"]},
            "wan": {"device": "out", "addresses": ["10.0.1.1/24"]},
        }
        made.configure({"red": {"interfaces": interfaces, "dataplane": {"workers": 2}}})
        made.start()
        wait_until(partial(made.namespaces["source"].ping, "10.0.1.2", wait=0.2), "the path is there")
        yield made


def stir(lab: Lab) -> None:
    """Send what is forwarded, what is dropped for want of a route, and what is for a port that nobody has."""
    source = lab.namespaces["source"]
    with source.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for address, port in (("10.0.1.2", 5001), ("192.0.2.1", 5002), ("10.0.0.1", 5003), ("10.0.1.2", 5004)):
            with contextlib.suppress(OSError):  # an ICMP error about the one before
                sender.sendto(b"hello", (address, port))


class Capture:
    """A program that writes pcapng, until it is stopped."""

    def __init__(self, lab: Lab, command: list[str], file: Path) -> None:
        self._lab, self._file = lab, file
        with file.open("wb") as output:
            self._process = lab.helper(command, stdout=output, stderr=subprocess.PIPE)

    def until(self, where: str, *fields: str, also: tuple[str, ...] = ()) -> list[list[str]]:
        """Stir until frames match, then stop; give fields of them as tshark reads them.  Others are awaited `also`."""

        def found() -> list[list[str]]:
            stir(self._lab)
            if self._process.poll() is not None:
                assert self._process.stderr is not None
                raise LabError(f"it has ended: {self._process.stderr.read().decode()}")
            if not all(read(self._file, other, "frame.number") for other in also):
                return []
            return read(self._file, where, *fields)

        try:
            return wait_until(found, f"frames where {where}", PATIENCE, interval=0.2)  # type: ignore[no-any-return]
        finally:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(30)


def read(file: Path, where: str, *fields: str) -> list[list[str]]:
    """Give fields of the frames that match; none while the file is too short to be one."""
    wanted = [word for name in fields for word in ("-e", name)]
    done = subprocess.run(
        [require_program("tshark"), "-n", "-r", str(file), "-Y", where, "-T", "fields", "-E", "separator=;", *wanted],
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    return [line.split(";") for line in done.stdout.splitlines()]


def vr_capture(lab: Lab, *words: str) -> list[str]:
    return program(VR, "--run-dir", str(lab.run_dir), "capture", "red", *words, "-w", "-")


NO_ROUTE: Final = "udp.dstport == 5002"


def test_a_capture_names_interfaces_and_reasons(lab: Lab, tmp_path: Path) -> None:
    capture = Capture(lab, vr_capture(lab, "all"), tmp_path / "all.pcapng")
    both = tuple(f'udp.dstport == 5001 && frame.interface_name == "{name}"' for name in ("lan", "wan"))
    fields = ("frame.interface_name", "frame.comment", "frame.packet_flags_direction", "ip.dst")
    found = capture.until(NO_ROUTE, *fields, also=both)
    assert found[0] == ["lan", "dropped: no_route", "0x00000001", "192.0.2.1"]
    forwarded = read(tmp_path / "all.pcapng", "udp.dstport == 5001", "frame.interface_name", "frame.comment")
    assert ["lan", ""] in forwarded
    assert ["wan", ""] in forwarded


def test_drops_alone_of_all_interfaces(lab: Lab, tmp_path: Path) -> None:
    capture = Capture(lab, vr_capture(lab, "--drops"), tmp_path / "drops.pcapng")
    capture.until(NO_ROUTE, "frame.number")
    rows = read(tmp_path / "drops.pcapng", "frame", "frame.comment", "udp.dstport")
    assert rows
    assert all(comment.startswith("dropped: ") for comment, _port in rows)
    assert not {port for _comment, port in rows} & {"5001", "5004"}


def test_a_filter_chooses_in_the_forwarder(lab: Lab, tmp_path: Path) -> None:
    words = ["lan", "udp", "-s", "60", "dst", "portrange", "5003-5004", "and", "not", "host", "10.0.1.2"]
    capture = Capture(lab, vr_capture(lab, *words), tmp_path / "some.pcapng")
    capture.until("udp", "frame.number")
    rows = read(tmp_path / "some.pcapng", "frame", "udp.dstport", "frame.interface_name")
    assert {tuple(row) for row in rows} == {("5003", "lan")}


def test_a_trace_takes_a_filter(lab: Lab) -> None:
    trace = Trace(lab, "red", "udp", "port", "5002", "or", "5003")
    life = trace.expect(lambda: stir(lab), lambda life: life["drop"] == "no_route")
    assert life["interface"] == "lan"
    assert "> 192.0.2.1" in str(life)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["capture", "red"], "an interface is needed, or 'all': "),
        (["capture", "red", "lna"], "interface 'lna'"),
        (["capture", "red", "lan", "port"], "something is missing at its end"),
        (["trace", "red", "host", "10.0.0.0/8"], "'10.0.0.0/8' is no address"),
    ],
)
def test_what_is_wrong_is_said(lab: Lab, words: list[str], reason: str) -> None:
    done = lab.vr_run(*words, json_output=False)
    assert done.returncode == 2
    assert reason in done.stderr


@pytest.fixture
def extcap(lab: Lab, tmp_path: Path) -> dict[str, str]:
    """Make a directory of extcaps with ours in it; give the environment of whoever starts it."""
    directory = tmp_path / "extcap"
    directory.mkdir()
    script = directory / "anabranch-extcap"
    script.write_text(f"#!{sys.executable} -P\n{program(EXTCAP)[-1]}\n")
    script.chmod(0o755)
    return project_environment() | {"EXTCAPS": str(directory), "ANABRANCH_RUN_DIR": str(lab.run_dir)}


def tshark(*words: str) -> list[str]:
    """Give a command that runs tshark with the directory of `extcap` in the place of its own.

    As root it does not listen to WIRESHARK_EXTCAP_DIR; so it gets a mount of its own, which goes with it.
    """
    path = require_program("tshark")
    folders = subprocess.run([path, "-G", "folders"], capture_output=True, text=True, check=True).stdout
    own = next(line.split(":", 1)[1].strip() for line in folders.splitlines() if line.lower().startswith("extcap path"))
    script = f'mount --bind "$EXTCAPS" "{own}" && exec "$0" "$@"'
    return ["unshare", "--mount", "sh", "-c", script, path, *words]


def test_tshark_lists_each_interface_and_the_drops(lab: Lab, extcap: dict[str, str]) -> None:
    assert lab.run_dir.exists()
    done = subprocess.run(tshark("-D"), capture_output=True, text=True, env=extcap, check=True)
    listed = {line.split()[1] for line in done.stdout.splitlines() if "anabranch" in line}
    assert listed == {"anabranch:red:lan", "anabranch:red:wan", "anabranch:red@drops"}


@pytest.mark.parametrize(
    ("interface", "words", "expected"),
    [
        ("anabranch:red:lan", ["-f", "udp dst port 5003"], "5003"),
        ("anabranch:red@drops", [], "5002"),
    ],
)
def test_tshark_captures(lab: Lab, extcap: dict[str, str], interface: str, words: list[str], expected: str) -> None:
    command = tshark("-l", "-n", "-i", interface, *words, "-c", "6", "-T", "fields", "-e", "udp.dstport")
    process = subprocess.Popen(command, env=extcap, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: ended(lab, process), "six frames", PATIENCE, interval=0.2)
    finally:
        process.terminate()
        output, errors = process.communicate(timeout=10)
    assert process.returncode == 0, errors
    assert expected in output.split(), (output, errors)


def ended(lab: Lab, process: subprocess.Popen[str]) -> bool:
    """Stir, unless it has ended."""
    if process.poll() is None:
        stir(lab)
    return process.poll() is not None


def extcap_says(extcap: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        program(EXTCAP, *words), env=extcap, capture_output=True, text=True, check=False, timeout=30
    )  # fmt: skip


def test_an_extcap_answers_what_wireshark_asks(lab: Lab, extcap: dict[str, str]) -> None:
    assert lab.daemon is not None
    dlts = extcap_says(extcap, "--extcap-interface", "anabranch:red:lan", "--extcap-dlts")
    assert dlts.stdout == "dlt {number=1}{name=EN10MB}{display=Ethernet}\n"
    config = extcap_says(extcap, "--extcap-interface", "anabranch:red:lan", "--extcap-config")
    assert "{call=--run-dir}" in config.stdout
    assert str(lab.run_dir) in config.stdout
    checked = extcap_says(extcap, "--extcap-interface", "anabranch:red:lan", "--extcap-capture-filter", "port")
    assert (checked.returncode, checked.stdout) == (1, "")
    assert "something is missing" in checked.stderr
    wrong = extcap_says(extcap, "--capture", "--fifo", "/dev/null", "--extcap-interface", "anabranch:red:nal")
    assert "no capture interface" in wrong.stderr
    nobody = extcap_says(extcap | {"ANABRANCH_RUN_DIR": "/nonexistent"}, "--extcap-interfaces")
    assert (nobody.returncode, nobody.stdout.count("interface {")) == (0, 0)
