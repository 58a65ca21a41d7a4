"""A packet generator in the kernel: an XDP program under BPF_PROG_TEST_RUN with live frames.

    python generator.py DEVICE DESTINATION_MAC [SIZE [FILE]]     until the end of its input

It writes the headers of each packet (Ethernet, IPv4 with its checksum, UDP), since pages come back
changed, and redirects it out of DEVICE: several million packets a second from one core, which no
sender in user space reaches.  Each line of its input is a rate in packets a second, which holds until the next
one; 0 is a pause, in which no processor works for it.  The answer to each is the number of frames that were sent
so far.  The program waits for the time of the next frame where that is near, else it drops: a dropped frame goes back
to its pool under a lock that the router's core takes as well for each frame that is done with, and who drops all the
time takes from that core up to half of its speed.  A backlog of more than 200 us is forgotten.
SIZE is a frame's bytes without FCS, or `imix`: of twelve frames seven have 60 bytes, four 590, one 1514.  FILE holds
up to 65,536 IPv4 addresses of 4 bytes each, among which a random generator chooses; without it all go to 10.0.2.1.
It says `ready` first.  The peer of DEVICE needs GRO on.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import signal
import socket
import struct
import sys
import threading
from pathlib import Path
from typing import Final

SYS_BPF: Final = 321
MAP_CREATE, MAP_LOOKUP, MAP_UPDATE, PROG_LOAD, TEST_RUN, MAP_UPDATE_BATCH, LINK_CREATE = 0, 1, 2, 5, 10, 26, 28
PROG_TYPE_XDP: Final = 6
ATTACH_XDP: Final = 37
MAP_TYPE_ARRAY: Final = 2
MMAPABLE: Final = 1 << 10
TEST_LIVE_FRAMES: Final = 2
LOOKUP, KTIME, REDIRECT, ADJUST_TAIL = 1, 5, 23, 65  # helpers
XDP_DROP, XDP_PASS = 1, 2
LATE_NS: Final = 200_000
NEAR_NS: Final = 1_500
LOOKS: Final = 200  # at the clock, while it waits: more than there is time for
HEADERS: Final = 60  # bytes that are written, the shortest frame
ADDRESSES: Final = 1 << 16
IMIX: Final = ((60, 7), (590, 4), (1514, 1))
FLOWS: Final = 0x3F  # source ports, less one
_libc = ctypes.CDLL(None, use_errno=True)

# The words of the state map's one value: when the next frame is due, the random generator, frames sent, and the
# time between two, which is the only one that is written from outside.
NEXT, RANDOM, SENT, GAP = 0, 8, 16, 24
STATE: Final = struct.Struct("<4Q")


def bpf(command: int, attributes: bytes) -> int:
    """bpf(2); raises OSError."""
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result: int = _libc.syscall(SYS_BPF, command, buffer, len(attributes))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"bpf command {command}: {os.strerror(code)}")
    return result


class Assembler:
    """Instructions of eBPF, with jumps to labels that come later."""

    def __init__(self) -> None:
        self._code: list[bytes] = []
        self._jumps: list[tuple[int, str]] = []
        self._labels: dict[str, int] = {}

    def op(self, code: int, destination: int = 0, source: int = 0, offset: int = 0, immediate: int = 0) -> None:
        """Add one instruction."""
        immediate &= 0xFFFFFFFF
        signed = immediate - (1 << 32) if immediate >> 31 else immediate
        self._code.append(struct.pack("<BBhi", code, destination | source << 4, offset, signed))

    def jump(self, code: int, destination: int, label: str, source: int = 0, immediate: int = 0) -> None:
        """Add a jump."""
        self._jumps.append((len(self._code), label))
        self.op(code, destination, source, 0, immediate)

    def label(self, name: str) -> None:
        """Name the next instruction."""
        self._labels[name] = len(self._code)

    def value_of(self, map_fd: int) -> None:
        """Look up the map's element whose index is in r2 (a copy on the stack at -4); r0 is it, never NULL."""
        self.op(0x63, 10, 2, -4)  # *(u32 *)(r10 - 4) = r2
        self.op(0xBF, 2, 10)
        self.op(0x07, 2, 0, 0, -4)
        self.op(0x18, 1, 1, 0, map_fd)
        self.op(0)
        self.op(0x85, immediate=LOOKUP)
        self.jump(0x15, 0, "drop")

    def code(self) -> bytes:
        """Give the program."""
        code = list(self._code)
        for at, label in self._jumps:
            head, registers, _offset, immediate = struct.unpack("<BBhi", code[at])
            code[at] = struct.pack("<BBhi", head, registers, self._labels[label] - at - 1, immediate)
        return b"".join(code)


def frame(destination: bytes, size: int) -> bytes:
    """Give the headers of a frame from 10.0.0.2; the destination and the checksum are left open."""
    length = size - 14 if size > HEADERS else 46
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, length, 0, 0x4000, 64, 17, 0, socket.inet_aton("10.0.0.2"), bytes(4))
    udp = struct.pack(">HHHH", 1024, 2000, length - 20, 0)
    return (destination + bytes.fromhex("020000000001") + b"\x08\x00" + head + udp).ljust(HEADERS, b"\0")


def partial_sum(data: bytes) -> int:
    """Sum the IPv4 header's words as the processor loads them: the order of bytes does not matter."""
    return sum(struct.unpack("<10H", data[14:34]))


def _finish(program: Assembler, size: int, data: bytes, longest: int) -> None:
    """Write what depends on the size: the lengths and the checksum (r1: the address), then cut the frame."""
    for at in (16, 38):
        program.op(0x6A, 7, 0, at, int.from_bytes(data[at : at + 2], "little"))
    program.op(0xBF, 2, 1)
    program.op(0x57, 1, immediate=0xFFFF)
    program.op(0x77, 2, immediate=16)
    program.op(0x0F, 1, 2)
    program.op(0x07, 1, immediate=partial_sum(data))
    for _ in range(2):
        program.op(0xBF, 2, 1)
        program.op(0x57, 1, immediate=0xFFFF)
        program.op(0x77, 2, immediate=16)
        program.op(0x0F, 1, 2)
    program.op(0xA7, 1, immediate=-1)
    program.op(0x6B, 7, 1, 24)
    if size != longest:
        program.op(0xBF, 1, 6)
        program.op(0xB7, 2, immediate=size - longest)
        program.op(0x85, immediate=ADJUST_TAIL)
    program.jump(0x05, 0, "send")


def _wait(program: Assembler) -> None:
    """Wait until a frame's time is there, or drop it: r8 is the state."""
    program.op(0xB7, 9)
    program.label("look")
    program.op(0x85, immediate=KTIME)
    program.op(0x79, 1, 8, NEXT)
    program.jump(0xBD, 1, "due", source=0)  # next <= now
    program.op(0x1F, 1, 0)
    program.jump(0x25, 1, "drop", immediate=NEAR_NS)
    program.op(0x07, 9, immediate=1)
    program.jump(0xA5, 9, "look", immediate=LOOKS)
    program.jump(0x05, 0, "drop")
    program.label("due")
    program.op(0xBF, 2, 0)
    program.op(0x1F, 2, 1)  # how late
    program.jump(0xB5, 2, "on time", immediate=LATE_NS)
    program.op(0xBF, 1, 0)
    program.label("on time")
    program.op(0x79, 2, 8, GAP)
    program.op(0x0F, 1, 2)
    program.op(0x7B, 8, 1, NEXT)


def _random(program: Assembler) -> None:
    """Xorshift: r9 is the next number."""
    program.op(0x79, 9, 8, RANDOM)
    for code, bits in ((0x67, 13), (0x77, 7), (0x67, 17)):
        program.op(0xBF, 1, 9)
        program.op(code, 1, immediate=bits)
        program.op(0xAF, 9, 1)
    program.op(0x7B, 8, 9, RANDOM)


def program(state_fd: int, addresses_fd: int, count: int, ifindex: int, mac: bytes, size: str) -> bytes:
    """Assemble: wait for the time of the next frame, choose its destination and size, write it, redirect it."""
    made = Assembler()
    mix = IMIX if size == "imix" else ((int(size), 1),)
    longest = max(length for length, _share in mix)
    made.op(0xBF, 6, 1)  # r6 the context, r7 the frame, r8 the state, r9 a random number
    made.op(0x61, 7, 6, 0)
    made.op(0x61, 2, 6, 4)
    made.op(0xBF, 3, 7)
    made.op(0x07, 3, immediate=HEADERS)
    made.jump(0x2D, 3, "drop", source=2)
    made.op(0xB7, 2)
    made.value_of(state_fd)
    made.op(0xBF, 8, 0)
    _wait(made)
    _random(made)
    data = frame(mac, longest)
    for at in range(0, HEADERS, 4):
        made.op(0x62, 7, 0, at, int.from_bytes(data[at : at + 4], "little"))
    made.op(0xBF, 1, 9)
    made.op(0x77, 1, immediate=48)
    made.op(0x57, 1, immediate=FLOWS)
    made.op(0x73, 7, 1, 35)  # low byte of the source port
    made.op(0xBF, 2, 9)
    made.op(0x57, 2, immediate=count - 1)
    made.value_of(addresses_fd)
    made.op(0x61, 1, 0, 0)
    made.op(0x63, 7, 1, 30)
    made.op(0xBF, 3, 9)
    made.op(0x77, 3, immediate=32)
    made.op(0x97, 3, immediate=sum(share for _length, share in mix))
    reached = 0
    for number, (length, share) in enumerate(mix):
        reached += share
        if number + 1 < len(mix):
            made.jump(0x35, 3, f"longer than {length}", immediate=reached)
        _finish(made, length, frame(mac, length), longest)
        made.label(f"longer than {length}")
    made.label("send")
    made.op(0x79, 1, 8, SENT)
    made.op(0x07, 1, immediate=1)
    made.op(0x7B, 8, 1, SENT)
    made.op(0xB7, 1, immediate=ifindex)
    made.op(0xB7, 2)
    made.op(0x85, immediate=REDIRECT)
    made.op(0x95)
    made.label("drop")
    made.op(0xB7, 0, immediate=XDP_DROP)
    made.op(0x95)
    return made.code()


def load(code: bytes) -> int:
    """Load an XDP program; returns its fd."""
    instructions = ctypes.create_string_buffer(code, len(code))
    licence = ctypes.create_string_buffer(b"Apache-2.0")
    log = ctypes.create_string_buffer(1 << 20)
    attributes = struct.pack(
        "<IIQQIIQI",
        PROG_TYPE_XDP,
        len(code) // 8,
        ctypes.addressof(instructions),
        ctypes.addressof(licence),
        1,
        len(log),
        ctypes.addressof(log),
        0,
    )
    try:
        return bpf(PROG_LOAD, attributes.ljust(72, b"\0"))
    except OSError as error:
        raise OSError(error.errno, log.value.decode()) from error


def attach_drop(ifindex: int, mac: bytes) -> int:
    """Drop in the driver what a device of this namespace receives for `mac`, until the fd that this gives is closed."""
    made = Assembler()
    made.op(0x61, 7, 1, 0)
    made.op(0x61, 2, 1, 4)
    made.op(0xBF, 3, 7)
    made.op(0x07, 3, immediate=14)
    made.jump(0x2D, 3, "pass", source=2)
    made.op(0x61, 4, 7, 0)
    made.jump(0x55, 4, "pass", immediate=int.from_bytes(mac[:4], "little"))
    made.op(0x69, 4, 7, 4)
    made.jump(0x55, 4, "pass", immediate=int.from_bytes(mac[4:], "little"))
    made.op(0xB7, 0, immediate=XDP_DROP)
    made.op(0x95)
    made.label("pass")
    made.op(0xB7, 0, immediate=XDP_PASS)
    made.op(0x95)
    fd = load(made.code())
    try:
        return bpf(LINK_CREATE, struct.pack("<IIII", fd, ifindex, ATTACH_XDP, 0).ljust(64, b"\0"))
    finally:
        os.close(fd)


def array(count: int, size: int, values: bytes, flags: int = 0) -> int:
    """Make an array map with these values."""
    fd = bpf(MAP_CREATE, struct.pack("<IIIII", MAP_TYPE_ARRAY, 4, size, count, flags).ljust(72, b"\0"))
    keys = ctypes.create_string_buffer(struct.pack(f"<{count}I", *range(count)))
    data = ctypes.create_string_buffer(values, len(values))
    batch = struct.pack("<QQQQIIQQ", 0, 0, ctypes.addressof(keys), ctypes.addressof(data), count, fd, 0, 0)
    bpf(MAP_UPDATE_BATCH, batch)
    return fd


class Generator:
    """The program and the thread in whose time it runs."""

    def __init__(self, device: str, destination: str, size: str, addresses: bytes) -> None:
        """Load it; nothing is sent yet."""
        mac = bytes.fromhex(destination.replace(":", ""))
        count = 1 << (len(addresses) // 4).bit_length() - 1  # a power of two
        state_fd = array(1, STATE.size, STATE.pack(0, 0x9E3779B97F4A7C15, 0, 0), MMAPABLE)
        self._state = mmap.mmap(state_fd, mmap.PAGESIZE)
        addresses_fd = array(count, 4, addresses[: 4 * count])
        fd = load(program(state_fd, addresses_fd, count, socket.if_nametoindex(device), mac, size))
        data = bytes(max(length for length, _share in IMIX) if size == "imix" else int(size))
        self._data = ctypes.create_string_buffer(data, len(data))
        test = struct.pack("<IIIIQQ", fd, 0, len(data), 0, ctypes.addressof(self._data), 0)
        self._test = (test + struct.pack("<IIIIQQIII", 1 << 30, 0, 0, 0, 0, 0, TEST_LIVE_FRAMES, 0, 64)).ljust(
            80, b"\0"
        )
        self._wanted, self._paused = threading.Event(), threading.Event()
        self._paused.set()
        signal.signal(signal.SIGUSR1, lambda *_: None)  # ends a call of test-run
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while self._wanted.wait():
            self._paused.clear()
            while self._wanted.is_set():
                try:
                    bpf(TEST_RUN, self._test)
                except OSError as error:
                    if error.errno != errno.EINTR:
                        raise
            self._paused.set()

    def offer(self, rate: int) -> None:
        """Send so many packets a second from now on."""
        if rate > 0:
            struct.pack_into("<Q", self._state, GAP, 1_000_000_000 // rate)
            self._wanted.set()
            return
        self._wanted.clear()
        while not self._paused.wait(0.01):
            assert self._thread.ident is not None
            signal.pthread_kill(self._thread.ident, signal.SIGUSR1)

    @property
    def sent(self) -> int:
        """Give the frames that were sent so far."""
        found: int = struct.unpack_from("<Q", self._state, SENT)[0]
        return found


def main() -> None:
    """Do what the input says."""
    made = Generator(
        sys.argv[1],
        sys.argv[2],
        sys.argv[3] if len(sys.argv) > 3 else str(HEADERS),
        Path(sys.argv[4]).read_bytes()[: 4 * ADDRESSES] if len(sys.argv) > 4 else socket.inet_aton("10.0.2.1"),
    )
    print("ready", flush=True)
    for line in sys.stdin:
        made.offer(int(line))
        print(made.sent, flush=True)
    made.offer(0)


if __name__ == "__main__":
    main()
