"""The benchmarks' topologies, and the pinning of all that works for them.

    Line   gen (Xg) ---- (X0) router (X1) ---- (Xs) sink          packets as fast as they go, one way
    Trail  near (eth0) ---- (X0) router (X1) ---- (eth0) far      hosts with real stacks

One core: all work but the generator's is done on ROUTER_CPU.  Two cores: what a device receives is
taken in by whoever sent it, and only a router's process is on ROUTER_CPU.

The sink's addresses from 10.0.1.9 on answer ARP with a MAC that nobody has, so that its kernel drops the
frames at the door (OTHERHOST) and costs the same for every router.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import generator
import router_side
from lab import run, wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lab import Lab, Namespace

GENERATOR: Final = Path(__file__).resolve().parent / "generator.py"
GENERATOR_CPU, ROUTER_CPU = "0", "1"
FOREIGN_MAC: Final = bytes.fromhex("02000000ffff")
SETTLE: Final = 0.04  # seconds until what a rate does has begun
NEXT_HOPS: Final = tuple(f"10.0.1.{number}" for number in range(9, 41))


class Responder(threading.Thread):
    """Answers ARP for the next hops with the foreign MAC; sees no other frame."""

    def __init__(self, namespace: Namespace, device: str) -> None:
        super().__init__(daemon=True)
        self._socket = router_side.packet_socket(namespace, device, protocol=0x0806)
        self._socket.settimeout(0.2)
        self._ended = threading.Event()
        self._answered = {socket.inet_aton(address) for address in NEXT_HOPS}

    def run(self) -> None:
        """Answer until told to stop."""
        while not self._ended.is_set():
            try:
                frame = self._socket.recv(128)
            except TimeoutError:
                continue
            if frame[20:22] == b"\0\x01" and frame[38:42] in self._answered:
                reply = (
                    frame[6:12]
                    + FOREIGN_MAC
                    + b"\x08\x06"
                    + frame[14:20]
                    + b"\0\x02"
                    + FOREIGN_MAC
                    + frame[38:42]
                    + frame[22:32]
                )
                self._socket.send(reply.ljust(60, b"\0"))

    def stop(self) -> None:
        """End it and close the socket."""
        self._ended.set()
        self.join()
        self._socket.close()


class Source:
    """A generator that was started: see generator.py."""

    def __init__(self, kind: tuple[str, Path | None], process: subprocess.Popen[str]) -> None:
        self.kind = kind
        self._process = process

    def offer(self, rate: int) -> int:
        """Send so many packets a second from now on; give the frames sent so far."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(rate, file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())

    def end(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(5)


class Line:
    """Generator, router's two devices in `router`, and sink.

    Sink `a` takes the frames in and drops them as somebody else's, sink `b` drops them in its driver.
    """

    def __init__(self, lab: Lab, name: str, router: Namespace, *, sink: str = "a") -> None:
        self._lab = lab
        self.devices = (f"{name}0", f"{name}1")
        self._ends = (f"{name}g", f"{name}s")
        self._generator = lab.namespace(f"{name}-gen")
        self.sink = lab.namespace(f"{name}-sink")
        for namespace in (self._generator, self.sink):
            namespace.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
        lab.veth(self.devices[0], router, self._generator, self._ends[0])
        lab.veth(self.devices[1], router, self.sink, self._ends[1], far_address="10.0.1.2/24")
        for namespace, device in (
            (self._generator, self._ends[0]),
            (router, self.devices[0]),
            (router, self.devices[1]),
            (self.sink, self._ends[1]),
        ):
            namespace.run("ethtool", "-K", device, "gro", "on")
        self._drop = -1
        if sink == "b":
            with self.sink.entered():
                self._drop = generator.attach_drop(socket.if_nametoindex(self._ends[1]), FOREIGN_MAC)
        self.mac = router.run("cat", f"/sys/class/net/{self.devices[0]}/address").stdout.strip()
        self._responder = Responder(self.sink, self._ends[1])
        self._responder.start()
        # Open in the sink's namespace, and so about its devices, whoever reads.
        with self.sink.entered():
            self._counts = Path("/proc/thread-self/net/dev").open()  # noqa: SIM115
        self._source: Source | None = None

    def use_cores(self, count: int, router: str) -> None:
        """Do all work on one core, or spread it over two; `router` is the namespace where its devices are now."""
        places = [(router, self.devices[0]), (router, self.devices[1]), (self.sink.name, self._ends[1])]
        for namespace, device in places:
            switch = f"echo {int(count == 1)} > /sys/class/net/{device}/threaded"
            run("ip", "netns", "exec", namespace, "sh", "-c", switch)
            if count == 1:
                self._pin(device)

    @staticmethod
    def _pin(device: str) -> None:
        """Put the thread that receives for the device on the router's core."""
        found = subprocess.run(["ps", "-eo", "pid,comm"], capture_output=True, text=True, check=True).stdout
        pids = [line.split()[0] for line in found.splitlines() if f"napi/{device}-" in line]
        for pid in pids:
            os.sched_setaffinity(int(pid), {int(ROUTER_CPU)})
            # Whatever precedence a busy machine gives this benchmark, the kernel's part of the work has it too.
            os.setpriority(os.PRIO_PROCESS, int(pid), os.getpriority(os.PRIO_PROCESS, 0))

    def close(self) -> None:
        """End the responder and the generator."""
        if self._source is not None:
            self._source.end()
        self._responder.stop()
        self._counts.close()
        if self._drop >= 0:
            os.close(self._drop)

    def received(self) -> int:
        """Give the frames that reached the sink so far."""
        self._counts.seek(0)
        line = next(line for line in self._counts if line.lstrip().startswith(f"{self._ends[1]}:"))
        return int(line.partition(":")[2].split()[1])

    def source(self, size: str = "60", addresses: Path | None = None) -> Source:
        """Give the generator of such frames."""
        if self._source is None or self._source.kind != (size, addresses):
            if self._source is not None:
                self._source.end()
            words = ["taskset", "-c", GENERATOR_CPU, sys.executable, str(GENERATOR), self._ends[0], self.mac, size]
            if addresses is not None:
                words.append(str(addresses))
            started = self._lab.started(self._generator.command(*words), stdin=subprocess.PIPE)
            self._source = Source((size, addresses), started)
        return self._source

    def sweep(
        self,
        rates: Sequence[int],
        seconds: float,
        *,
        settle: float = SETTLE,
        size: str = "60",
        addresses: Path | None = None,
    ) -> list[float]:
        """Offer rates one after the other; give the packets a second that reach the sink at each."""
        source = self.source(size, addresses)
        found = []
        try:
            for rate in rates:
                source.offer(rate)
                time.sleep(settle)
                first, begin = self.received(), time.monotonic()
                time.sleep(seconds)
                last, end = self.received(), time.monotonic()
                found.append((last - first) / (end - begin))
        finally:
            source.offer(0)
        return found

    def rate(self, offered: int, seconds: float = 1.0, *, size: str = "60", addresses: Path | None = None) -> float:
        """Offer one rate; give the packets a second that reach the sink."""
        return self.sweep([offered], seconds, settle=0.3, size=size, addresses=addresses)[0]

    def lost(self, offered: int, seconds: float = 1.0, *, size: str = "60", addresses: Path | None = None) -> float:
        """Offer a rate; give the part of the frames that did not reach the sink, once all have had the time to."""
        source = self.source(size, addresses)
        first, before = self.received(), source.offer(0)
        source.offer(offered)
        time.sleep(seconds)
        count = source.offer(0) - before
        time.sleep(0.1)
        return 1 - (self.received() - first) / count


class Trail:
    """Two hosts with a router between them."""

    def __init__(self, lab: Lab, name: str, router: Namespace) -> None:
        self._lab = lab
        self.devices = (f"{name}0", f"{name}1")
        self._near, self._far = lab.namespace(f"{name}-near"), lab.namespace(f"{name}-far")
        for number, (host, device) in enumerate(zip((self._near, self._far), self.devices, strict=True)):
            lab.veth(device, router, host, "eth0", far_address=f"10.0.{number}.2/24")
            host.ip("route", "add", "default", "via", f"10.0.{number}.1")

    def round_trip(self, interval: float, count: int) -> float:
        """Give the average time of an echo between the hosts, in microseconds."""
        done = self._near.run("ping", "-q", "-n", "-i", str(interval), "-c", str(count), "10.0.1.2")
        return float(done.stdout.rpartition("=")[2].split("/")[1]) * 1000

    def stream(self, seconds: int) -> float:
        """Give what one TCP connection carries between the hosts, in Gbit/s; both ends are on one core."""
        pin = ("taskset", "-c", GENERATOR_CPU, "iperf3")
        server = self._lab.helper(self._far.command(*pin, "-s", "-1"), stdout=subprocess.DEVNULL)
        wait_until(lambda: "5201" in self._far.run("ss", "-ltn").stdout, "iperf3 listens")
        done = self._near.run(*pin, "-c", "10.0.1.2", "-t", str(seconds), "-O", "1", "-J")
        server.wait(5)
        return float(json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"]) / 1e9
