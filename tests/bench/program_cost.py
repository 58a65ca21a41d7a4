"""What the program of `offload: xdp` costs for a packet, without devices: cycles and instructions of the kernel.

    PYTHONPATH=. python tests/bench/program_cost.py [LIBRARY...]

BPF_PROG_TEST_RUN runs the program on one frame of a flow that it forwards, over and over, so that all it needs is in
the caches; what the same call costs with the program `redirect`, which only asks an empty map, is taken off.  Each
LIBRARY is a directory of programs that fastpath/bpf/build.py has made of some state of the sources: they take turns
with those that are installed, as a virtual machine changes its speed.  For x86-64, as root, where cycles are counted.
"""

from __future__ import annotations

import ctypes
import os
import statistics
import struct
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

from fastpath._layout import SIZES
from manager import bpf_objects
from tests.unit import harness, packets
from tests.unit.bypass_maps import PROCESSORS, Maps
from tests.unit.harness import HOST_A, Hop, Router, two_sided

TURNS: Final = 40
RUNS: Final = 1000
FIB_BYTES: Final = 1 << 22
PORT: Final = 1
PERF_EVENT_OPEN, BPF, PROG_TEST_RUN = 298, 321, 10  # x86-64
CYCLES, INSTRUCTIONS = 0, 1  # PERF_COUNT_HW_*
EXCLUDE_USER: Final = 1 << 4
_libc: Final = ctypes.CDLL(None, use_errno=True)


def counter(event: int) -> int:
    """Count an event of this thread in the kernel; its fd."""
    attributes = ctypes.create_string_buffer(struct.pack("=IIQQQQQ", 0, 128, event, 0, 0, 0, EXCLUDE_USER), 128)
    fd = int(_libc.syscall(PERF_EVENT_OPEN, attributes, 0, -1, -1, 0))
    if fd < 0:
        raise OSError(ctypes.get_errno(), "this machine counts no cycles")
    return fd


def read(fd: int) -> int:
    """Read a counter."""
    return int(struct.unpack("=Q", os.read(fd, 8))[0])


class Runs:
    """A program and a frame, ready to be run."""

    def __init__(self, program: bpf_objects.Program, frame: bytes) -> None:
        self.program = program
        self._frame = ctypes.create_string_buffer(frame, len(frame))
        place = ctypes.addressof(self._frame)
        fields = struct.pack("=IIIIQQII", program.fd, 0, len(frame), 0, place, 0, 1, 0)
        self._call = ctypes.create_string_buffer(fields, 128)
        self.costs: list[tuple[float, ...]] = []

    def turn(self, counters: list[int]) -> None:
        """Run it many times, and note what one costs."""
        before = [read(fd) for fd in counters]
        for _ in range(RUNS):
            _libc.syscall(BPF, PROG_TEST_RUN, self._call, 128)
        self.costs.append(tuple((read(fd) - begin) / RUNS for fd, begin in zip(counters, before, strict=True)))

    def over(self, other: Runs) -> list[float]:
        """Give what it costs more than another, by medians of the turns."""
        pairs = list(zip(self.costs, other.costs, strict=True))
        return [statistics.median(mine[event] - its[event] for mine, its in pairs) for event in (0, 1)]


def program_of(library: Path, maps: dict[str, int]) -> bpf_objects.Program:
    """Load the program of a library, with two ports that take frames."""
    constants = {"port": PORT, "processors": PROCESSORS, "partial": 1, "fib_size": FIB_BYTES}
    sizes = {"memory": PROCESSORS * SIZES["bypass_memory"]}
    bpf_objects.LIBRARY = library  # type: ignore[misc]
    bpf_objects._object.cache_clear()
    program = bpf_objects.load("offload", maps=maps, entries={"sockets": 1}, sizes=sizes, constants=constants)
    for port in (PORT, PORT + 1):
        bpf_objects.set_element(program.maps["devices"], port, struct.pack("=I", 1))
    return program


def main() -> None:
    """Measure the installed program, and others."""
    routes = {"0.0.0.0/0": [Hop("10.0.1.2", "b")], "::/0": [Hop("2001:db8:b::2", "b")]}
    router = Router([replace(interface, dad=False) for interface in two_sided()], routes)
    router.settle()
    for address in ("10.0.1.2", "2001:db8:b::2"):
        router.meet("b", address, harness.HOST_B)
    with Maps(
        router,
        lambda name, size: bpf_objects.create_map(replace(bpf_objects.map_kind("offload", name), value=size), name),
        fib_bytes=FIB_BYTES,
    ) as maps:
        router.advance(0.2)
        counters = [counter(CYCLES), counter(INSTRUCTIONS)]
        nothing = bpf_objects.load("redirect", entries={"sockets": 1})
        for name, kind, packet in (
            ("IPv4", packets.IP4, packets.datagram4("172.16.0.9", "10.0.2.1", bytes(18))),
            ("IPv6", packets.IP6, packets.datagram6("2001:db8:d::1", "2001:db8:f::1", bytes(18))),
        ):
            frame = packets.ethernet(harness.ROUTER_A, HOST_A, kind, packet)
            rows = {str(library): Runs(program_of(library, maps.fds), frame) for library in libraries()}
            base = Runs(nothing, frame)
            for _ in range(TURNS):
                router.advance(0.01)
                for row in (base, *rows.values()):
                    row.turn(counters)
            for library, row in rows.items():
                cycles, instructions = row.over(base)
                print(f"{name}: {cycles:.0f} cycles, {instructions:.0f} instructions: {library}")


def libraries() -> list[Path]:
    """Give where programs are."""
    return [INSTALLED, *(Path(argument).resolve() for argument in sys.argv[1:])]


INSTALLED: Final = bpf_objects.LIBRARY

if __name__ == "__main__":
    main()
