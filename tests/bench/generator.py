"""A packet generator in the kernel: an XDP program under BPF_PROG_TEST_RUN with live frames.

    python generator.py DEVICE DESTINATION_MAC RATE     until it gets SIGTERM

It writes the whole frame for each packet (60 bytes: Ethernet, IPv4 with its checksum, UDP), since pages
come back changed, and redirects it out of DEVICE: several million packets a second from one core,
which no sender in user space reaches.  RATE is packets a second; frames before their time are dropped
inside the program, and a backlog of more than 200 us is forgotten.  The peer of DEVICE needs GRO on.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import struct
import sys
from types import FrameType
from typing import Final

SYS_BPF: Final = 321
MAP_CREATE, MAP_UPDATE, PROG_LOAD, TEST_RUN = 0, 2, 5, 10
PROG_TYPE_XDP: Final = 6
MAP_TYPE_ARRAY: Final = 2
TEST_LIVE_FRAMES: Final = 2
LATE_NS: Final = 200_000
FRAME_SIZE: Final = 60
_libc = ctypes.CDLL(None, use_errno=True)


def bpf(command: int, attributes: bytes) -> int:
    """bpf(2); raises OSError."""
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result: int = _libc.syscall(SYS_BPF, command, buffer, len(attributes))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"bpf command {command}: {os.strerror(code)}")
    return result


def instruction(code: int, destination: int = 0, source: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    """Encode one eBPF instruction."""
    return struct.pack(
        "<BBhi", code, destination | source << 4, offset, immediate - (1 << 32) if immediate >> 31 else immediate
    )


def frame(destination: bytes) -> bytes:
    """Give the generated frame: 10.0.0.2 to 10.0.2.1, UDP."""
    head = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 46, 0, 0x4000, 64, 17, 0, socket.inet_aton("10.0.0.2"), socket.inet_aton("10.0.2.1")
    )
    total = sum(struct.unpack(">10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack(">H", ~(total + (total >> 16)) & 0xFFFF) + head[12:]
    udp = struct.pack(">HHHH", 1000, 2000, 26, 0)
    return (destination + bytes.fromhex("020000000001") + b"\x08\x00" + head + udp).ljust(FRAME_SIZE, b"\0")


def program(map_fd: int, ifindex: int, gap_ns: int, data: bytes) -> bytes:
    """Assemble: wait for the time of the next frame, write it, redirect it."""
    stores = b"".join(
        instruction(0x62, 7, 0, at, int.from_bytes(data[at : at + 4], "little")) for at in range(0, FRAME_SIZE, 4)
    )
    send = (
        stores
        + instruction(0xB7, 1, 0, 0, ifindex)
        + instruction(0xB7, 2)
        + instruction(0x85, 0, 0, 0, 23)
        + instruction(0x95)
    )
    drop = instruction(0xB7, 0, 0, 0, 1) + instruction(0x95)
    # r7 data, r8 the map's one value: time of the next frame; r9 now.
    body = instruction(0x61, 7, 1, 0) + instruction(0x61, 2, 1, 4)
    body += instruction(0xBF, 3, 7) + instruction(0x07, 3, 0, 0, FRAME_SIZE)
    body += instruction(0xBD, 3, 2, 2) + drop  # fits: skip the drop
    body += instruction(0x62, 10, 0, -4, 0) + instruction(0xBF, 2, 10) + instruction(0x07, 2, 0, 0, -4 & 0xFFFFFFFF)
    body += instruction(0x18, 1, 1, 0, map_fd) + instruction(0) + instruction(0x85, 0, 0, 0, 1)
    body += instruction(0x55, 0, 0, 2, 0) + drop
    body += instruction(0xBF, 8, 0) + instruction(0x85, 0, 0, 0, 5) + instruction(0xBF, 9, 0)
    body += instruction(0x79, 1, 8)  # r1 = next
    body += instruction(0xBD, 1, 9, 2) + drop  # next <= now: skip the drop
    body += instruction(0xBF, 2, 9) + instruction(0x1F, 2, 1)  # how late
    body += instruction(0xB5, 2, 0, 1, LATE_NS) + instruction(0xBF, 1, 9)
    body += instruction(0x07, 1, 0, 0, gap_ns) + instruction(0x7B, 8, 1)
    return body + send


def load(code: bytes) -> int:
    """Load an XDP program; returns its fd."""
    instructions = ctypes.create_string_buffer(code, len(code))
    licence = ctypes.create_string_buffer(b"Apache-2.0")
    log = ctypes.create_string_buffer(1 << 16)
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


def run(device: str, destination: str, rate: int) -> None:
    """Generate until a signal ends it."""
    data = frame(bytes.fromhex(destination.replace(":", "")))
    map_fd = bpf(MAP_CREATE, struct.pack("<IIIII", MAP_TYPE_ARRAY, 4, 8, 1, 0).ljust(72, b"\0"))
    fd = load(program(map_fd, socket.if_nametoindex(device), 1_000_000_000 // rate, data))
    source = ctypes.create_string_buffer(data, len(data))
    test = struct.pack(
        "<IIIIQQIIIIQQIII",
        fd,
        0,
        len(data),
        0,
        ctypes.addressof(source),
        0,
        1 << 30,
        0,
        0,
        0,
        0,
        0,
        TEST_LIVE_FRAMES,
        0,
        64,
    )
    while True:
        try:
            bpf(TEST_RUN, test.ljust(80, b"\0"))
        except OSError as error:
            if error.errno != errno.EINTR:
                raise


def _end(_signal: int, _frame: FrameType | None) -> None:
    os._exit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    run(sys.argv[1], sys.argv[2], int(sys.argv[3]))
