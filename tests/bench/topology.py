"""The benchmarks' topologies, and the pinning of all that works for them.

    Line   gen (g0) ---- (X0) router (X1) ---- (s0) sink          packets as fast as they go, one way
    Trail  near (eth0) ---- (X0) router (X1) ---- (eth0) far      hosts with real stacks

One core: all work but the generator's is done on ROUTER_CPU.  Two cores: what a device receives is
taken in by whoever sent it, and only a router's process is on ROUTER_CPU.

The sink's address 10.0.1.9 answers ARP with a MAC that nobody has, so that its kernel drops the
frames at the door (OTHERHOST) and costs the same for every router.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import router_side
from lab import run, wait_until

if TYPE_CHECKING:
    from lab import Lab, Namespace

GENERATOR: Final = Path(__file__).resolve().parent / "generator.py"
GENERATOR_CPU, ROUTER_CPU = "0", "1"
FOREIGN_MAC: Final = bytes.fromhex("02000000ffff")
SINK_ADDRESS: Final = bytes((10, 0, 1, 9))


class Responder(threading.Thread):
    """Answers ARP for the sink with the foreign MAC; sees no other frame."""

    def __init__(self, namespace: Namespace, device: str) -> None:
        super().__init__(daemon=True)
        self._socket = router_side.packet_socket(namespace, device, protocol=0x0806)
        self._socket.settimeout(0.2)
        self._ended = threading.Event()

    def run(self) -> None:
        """Answer until told to stop."""
        while not self._ended.is_set():
            try:
                frame = self._socket.recv(128)
            except TimeoutError:
                continue
            if frame[20:22] == b"\0\x01" and frame[38:42] == SINK_ADDRESS:
                reply = (
                    frame[6:12]
                    + FOREIGN_MAC
                    + b"\x08\x06"
                    + frame[14:20]
                    + b"\0\x02"
                    + FOREIGN_MAC
                    + SINK_ADDRESS
                    + frame[22:32]
                )
                self._socket.send(reply.ljust(60, b"\0"))

    def stop(self) -> None:
        """End it and close the socket."""
        self._ended.set()
        self.join()
        self._socket.close()


class Line:
    """Generator, router's two devices in `router`, and sink."""

    def __init__(self, lab: Lab, name: str, router: Namespace) -> None:
        self._lab = lab
        self.devices = (f"{name}0", f"{name}1")
        self._generator = lab.namespace(f"{name}-gen")
        self._sink = lab.namespace(f"{name}-sink")
        for namespace in (self._generator, self._sink):
            namespace.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
        lab.veth(self.devices[0], router, self._generator, "g0")
        lab.veth(self.devices[1], router, self._sink, "s0")
        for namespace, device in (
            (self._generator, "g0"),
            (router, self.devices[0]),
            (router, self.devices[1]),
            (self._sink, "s0"),
        ):
            namespace.run("ethtool", "-K", device, "gro", "on")
        self.mac = router.run("cat", f"/sys/class/net/{self.devices[0]}/address").stdout.strip()
        self._responder = Responder(self._sink, "s0")
        self._responder.start()

    def use_cores(self, count: int, router: str) -> None:
        """Do all work on one core, or spread it over two; `router` is the namespace where its devices are now."""
        places = [(router, self.devices[0]), (router, self.devices[1]), (self._sink.name, "s0")]
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
            subprocess.run(["taskset", "-pc", ROUTER_CPU, pid], check=True, stdout=subprocess.DEVNULL)

    def close(self) -> None:
        """End the responder."""
        self._responder.stop()

    def received(self) -> int:
        """Give the frames that reached the sink so far."""
        return int(self._sink.run("cat", "/sys/class/net/s0/statistics/rx_packets").stdout)

    def rate(self, offered: int, seconds: float = 0.8) -> float:
        """Offer a rate; give the packets a second that reach the sink."""
        words = self._generator.command(
            "taskset", "-c", GENERATOR_CPU, sys.executable, str(GENERATOR), "g0", self.mac, str(offered)
        )
        generator = self._lab.helper(words)
        try:
            time.sleep(0.35)  # the generator's start and a warm-up
            first, begin = self.received(), time.monotonic()
            time.sleep(seconds)
            last, end = self.received(), time.monotonic()
        finally:
            generator.terminate()
            generator.wait()
        return (last - first) / (end - begin)

    def peak(self, offered: tuple[int, ...]) -> float:
        """Give the best of several offered rates."""
        return max(self.rate(rate) for rate in offered)


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
