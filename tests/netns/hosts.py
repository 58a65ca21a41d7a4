"""What kernel hosts do in tests of forwarding: transfers that are verified, captures, and the counter laws."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import threading
from typing import TYPE_CHECKING, Any, Final

from lab import VR, Lab, LabError, Namespace, program, wait_until

from fastpath import interfaces, stats
from manager.cli.segments import open_segments
from tests.conftest import require_program

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SO_RCVBUFFORCE: Final = 33
UDP_SEGMENT: Final = 103
IP_MTU_DISCOVER: Final = 10
PMTUDISC_DONT: Final = 0
PMTUDISC_DO: Final = 2
MIB: Final = 1 << 20
_PIECE: Final = os.urandom(4 * MIB)


def family_of(address: str) -> int:
    """Give the address family of a literal."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def transfer(source: Namespace, sink: Namespace, address: str, size: int, timeout: float = 30.0) -> None:
    """Send `size` bytes over TCP to an address of `sink`; what comes out is what went in, to the last bit."""
    sent, came = hashlib.sha256(), hashlib.sha256()
    with (
        sink.socket(family_of(address), socket.SOCK_STREAM) as listener,
        source.socket(family_of(address), socket.SOCK_STREAM) as sender,
    ):
        listener.bind((address, 0))
        listener.listen()
        listener.settimeout(timeout)
        sender.settimeout(timeout)

        def send() -> None:
            left = size
            with contextlib.suppress(OSError):  # the receiving side tells what is missing
                while left:
                    piece = memoryview(_PIECE)[left % 4096 :][:left]
                    sent.update(piece)
                    sender.sendall(piece)
                    left -= len(piece)
                sender.shutdown(socket.SHUT_WR)

        sender.connect((address, listener.getsockname()[1]))
        taken, _ = listener.accept()
        thread = threading.Thread(target=send)
        thread.start()
        try:
            with taken:
                taken.settimeout(timeout)
                buffer = bytearray(4 * MIB)
                total = 0
                while count := taken.recv_into(buffer):
                    came.update(memoryview(buffer)[:count])
                    total += count
        finally:
            thread.join()
    assert (total, came.digest()) == (size, sent.digest())


def super_datagrams(
    source: Namespace, sink: Namespace, address: str, segment: int, count: int, *, fragment: bool = False
) -> list[bytes]:
    """Send UDP datagrams by the tens in super-packets (UDP_SEGMENT); give those that came, in order."""
    inet = family_of(address) == socket.AF_INET
    with (
        sink.socket(family_of(address), socket.SOCK_DGRAM) as receiver,
        source.socket(family_of(address), socket.SOCK_DGRAM) as sender,
    ):
        receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 32 * MIB)
        receiver.bind((address, 0))
        if inet:  # by default the kernel leaves DF off where a super-packet is longer than the MTU
            sender.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_DONT if fragment else PMTUDISC_DO)
        sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, segment)
        sender.connect((address, receiver.getsockname()[1]))
        batch = 60000 // segment
        for first in range(0, count, batch):
            numbers = range(first, min(count, first + batch))
            super_packet = b"".join(struct.pack(">I", number).ljust(segment, b"\xa5") for number in numbers)
            with contextlib.suppress(OSError):  # the report about an earlier one, where it was too big
                sender.send(super_packet)
        came: list[bytes] = []
        receiver.settimeout(1.0)
        with contextlib.suppress(TimeoutError):
            while len(came) < count:
                came.append(receiver.recv(65536))
    return came


def numbered(segment: int, count: int) -> list[bytes]:
    """Give what `super_datagrams` sends."""
    return [struct.pack(">I", number).ljust(segment, b"\xa5") for number in range(count)]


def ping(host: Namespace, *words: str) -> str:
    """Ping with any options; give the text, whatever came of it."""
    done = host.run("ping", "-n", "-i", "0.01", "-W", "2", *words, check=False)
    return done.stdout + done.stderr


def answered(text: str, count: int) -> bool:
    """Tell whether a ping got every answer."""
    return f"{count} packets transmitted, {count} received" in text


class Capture:
    """Frames of a host's device, for tshark to judge."""

    def __init__(self, lab: Lab, host: Namespace, file: Path, device: str = "eth0") -> None:
        """Capture from now on."""
        self._file = file
        self._process = lab.helper(
            host.command(
                *(require_program("tcpdump"), "-Z", "root", "-U", "--immediate-mode", "-n", "-i", device),
                *("-s", "2000", "-B", "65536", "-w", str(file)),
            ),
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if "listening on" in line:
                return
        raise LabError("tcpdump does not capture")

    def _settle(self) -> None:
        seen: list[int] = []

        def quiet() -> bool:
            seen.append(self._file.stat().st_size)
            return len(seen) > 3 and len(set(seen[-4:])) == 1

        wait_until(quiet, "the capture is complete", 10, interval=0.05)

    def fields(self, *names: str, where: str = "") -> list[list[str]]:
        """End it (once), and give fields of all frames that match; an absent field is empty."""
        if self._process.poll() is None:
            self._settle()  # what it has not read yet would be lost
            self._process.send_signal(signal.SIGINT)
            self._process.communicate(timeout=10)
        checks = [f"{protocol}:TRUE" for protocol in
                  ("ip.check_checksum", "udp.check_checksum", "tcp.check_checksum")]  # fmt: skip
        options = [word for check in checks for word in ("-o", check)]
        wanted = [word for name in names for word in ("-e", name)]
        done = subprocess.run(
            [require_program("tshark"), "-n", "-r", str(self._file), *options, "-Y", where or "frame",
             "-T", "fields", "-E", "separator=;", "-E", "occurrence=f", *wanted],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        return [line.split(";") for line in done.stdout.splitlines()]

    def assert_clean(self, source_mac: str, *, at_least: int, uncut: int = 100) -> None:
        """All that the router at that MAC sent is well-formed, with good checksums of every kind.

        Of a packet that passes as it came, the sum is left to a network card, as its sender
        wished.  For tshark these are wrong, so TCP segments of up to `uncut` bytes do not count.
        """
        mine = f"eth.src == {source_mac}"
        count = len(self.fields("frame.number", where=mine))
        assert count >= at_least, f"{count} frames"
        bad = f"_ws.malformed || (tcp.checksum.status == 0 && tcp.len > {uncut})"
        bad += "".join(f" || {protocol}.checksum.status == 0" for protocol in ("ip", "udp", "icmp", "icmpv6"))
        found = self.fields("frame.number", "_ws.col.Info", where=f"{mine} && ({bad})")
        assert not found, (len(found), found[:10])


def counters(lab: Lab, router: str) -> dict[str, dict[str, Any]]:
    """Give the counters of all interfaces, as `vr show interfaces` reads them."""
    with open_segments(lab.run_dir, router) as (tables, state):
        return {name: stats.interface_counters(state, index) for index, name in interfaces.names(tables).items()}


def counters_at_rest(lab: Lab, router: str) -> dict[str, dict[str, Any]]:
    """Give the counters of all interfaces, once nothing moves any more."""
    seen: list[dict[str, dict[str, Any]]] = []

    def same() -> bool:
        seen.append(counters(lab, router))
        return len(seen) > 3 and all(earlier == seen[-1] for earlier in seen[-4:])

    wait_until(same, f"{router} is at rest", 10, interval=0.02)
    return seen[-1]


def _grown(now: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """Give by how much the counters of an interface have grown."""
    return {
        name: _grown(value, before.get(name, {})) if isinstance(value, dict) else value - before.get(name, 0)
        for name, value in now.items()
    }


def check_laws(lab: Lab, *routers: str, since: dict[str, dict[str, Any]] | None = None) -> None:
    """Check both counter laws, exactly, on every interface of these routers.

    What was forwarded into an interface is what left there for others; over all interfaces as much has left
    as has entered, and where only two speak, into each as much as came in by the other.  What an interface has
    counted goes with it: where one has gone, the sums hold `since` what was counted at rest after that.
    """
    for router in routers:
        found = counters_at_rest(lab, router)
        for name, c in found.items():
            fates = c["forwarded_packets"] + c["punt_packets"] + c["held_packets"] + sum(c["drops"].values())
            assert c["rx_packets"] == fates, (router, name, c)
            sources = c["forwarded_out_packets"] + c["originated_packets"] + c["fragments_created"]
            assert c["tx_packets"] == sources, (router, name, c)
        found = {name: _grown(now, (since or {}).get(name, {})) for name, now in found.items()}
        speaking = [c for c in found.values() if c["forwarded_packets"] or c["forwarded_out_packets"]]
        entered = sum(c["forwarded_packets"] for c in speaking)
        assert entered == sum(c["forwarded_out_packets"] for c in speaking), (router, found)
        if len(speaking) == 2:
            for c, other in (speaking, speaking[::-1]):
                into = other["forwarded_packets"]
                assert c["tx_packets"] == into + c["originated_packets"] + c["fragments_created"], (router, found)


def drops(lab: Lab, router: str) -> dict[str, int]:
    """Give all drops of a router by reason, its own included, as `vr show drops` reads them."""
    with open_segments(lab.run_dir, router) as (_tables, state):
        total = collections.Counter(stats.host_drops(state))
    for counted in counters(lab, router).values():
        total.update(counted["drops"])
    return dict(total)


class Trace:
    """`vr trace --drops`: the lives of dropped packets, as they are told."""

    def __init__(self, lab: Lab, router: str, *words: str) -> None:
        """Follow the router from now on, or nearly so: stir until what is awaited comes."""
        command = program(VR, "--run-dir", str(lab.run_dir), "-j", "trace", router, *words)
        self._process = lab.helper(command, stdout=subprocess.PIPE)
        self._lives: list[dict[str, Any]] = []
        self._rest = b""

    def expect(self, stir: Callable[[], object], wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Do what makes packets, again and again, until the life of one that is wanted has been told."""

        def found() -> dict[str, Any] | None:
            stir()
            self._read(0.15)
            return next((life for life in self._lives if wanted(life)), None)

        try:
            life: dict[str, Any] = wait_until(found, "the packet is traced")
        except LabError as error:
            raise LabError(f"{error}; but: {self._lives[-20:]}") from None
        return life

    def _read(self, seconds: float) -> None:
        assert self._process.stdout is not None
        while select.select([self._process.stdout], [], [], seconds)[0]:
            chunk = os.read(self._process.stdout.fileno(), 1 << 16)
            if not chunk:
                raise LabError("vr trace has ended")
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            self._lives += [json.loads(line) for line in lines]
            seconds = 0
