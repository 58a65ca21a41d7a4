"""AF_XDP sockets, opened for the forwarders: the memory of the frames, the four rings, the way they are bound.

    memfd       words of the transmit frames | transmit frames | receive frames
    fill ring   all receive frames, before the socket is bound: nothing is lost while no forwarder lives
    bind        zero-copy where the driver has it, else the kernel copies; queue 0

The manager makes the socket in the VR's namespace and keeps its fd, and that of the memory, beside the forwarder's,
so that a successor goes on with what the rings hold.  The geometry travels in the port's spec; what it means
stands in fastpath/src/port/af_xdp.c.  Not supported: several queues, frames in several buffers (jumbo frames),
unaligned frames.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import socket
import struct
import time
from dataclasses import dataclass
from typing import Final

from manager.kernel import bind_address, inside

AF_XDP: Final = 44
SOL_XDP: Final = 283
MMAP_OFFSETS, RX_RING, TX_RING, UMEM_REG, FILL_RING, COMPLETION_RING, STATISTICS, OPTIONS, TX_BUDGET = range(1, 10)
COPY: Final = 2  # flags of bind
ZERO_COPY: Final = 4
NEED_WAKEUP: Final = 8
FILL_OFFSET: Final = 0x100000000  # of mmap
SO_SNDBUFFORCE: Final = 32
SO_BUSY_POLL: Final = 46
SO_PREFER_BUSY_POLL: Final = 69
SO_BUSY_POLL_BUDGET: Final = 70
FRAME: Final = 2048  # bytes; XSK_FRAME of the driver
HEADROOM: Final = 256  # of each received frame, the kernel's own
# What a frame has room for beside the IP packet: Ethernet header and one tag.
MAX_MTU: Final = FRAME - HEADROOM - 18
SEND_BYTES: Final = 8 << 20
POLL_BUDGET: Final = 64  # frames of one busy poll
TX_FRAMES: Final = 256  # that the kernel may take in one call
PATIENCE: Final = 0.2  # seconds: a closed socket may hold the queue for a moment; all other VRs wait meanwhile
DESCRIPTOR: Final = 16  # bytes of struct xdp_desc
PAGE: Final = mmap.PAGESIZE


@dataclass(frozen=True)
class Geometry:
    """How many frames a port has; both are powers of two, and the sizes of its rings."""

    receive: int = 4096
    transmit: int = 1024

    @property
    def words(self) -> int:
        """Bytes before the frames."""
        return -(-self.transmit * 8 // PAGE) * PAGE

    @property
    def size(self) -> int:
        """Bytes of the memory."""
        return self.words + (self.receive + self.transmit) * FRAME


DEFAULT: Final = Geometry()


@dataclass(frozen=True)
class Opened:
    """A bound socket and its memory; the fds are the holder's."""

    socket: socket.socket
    memory: int
    zero_copy: bool
    busy_poll: bool


def open_socket(netns_fd: int, ifindex: int, geometry: Geometry, *, busy_poll_us: int, copy: bool = False) -> Opened:
    """Open a socket on queue 0 of a device; frames come once an XDP program redirects to it."""
    with inside(netns_fd):
        made = socket.socket(AF_XDP, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    memory = -1
    try:
        memory = _make_memory(geometry)
        _register(made, memory, geometry)
        for ring, count in (
            (FILL_RING, geometry.receive), (RX_RING, geometry.receive),
            (TX_RING, geometry.transmit), (COMPLETION_RING, geometry.transmit),
        ):  # fmt: skip
            made.setsockopt(SOL_XDP, ring, count)
        _fill(made, geometry)
        made.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, SEND_BYTES)
        with contextlib.suppress(OSError):  # kernels before 6.18 take 32 frames a call
            made.setsockopt(SOL_XDP, TX_BUDGET, min(TX_FRAMES, geometry.transmit))
        busy = busy_poll_us > 0 and _set_busy_poll(made, busy_poll_us)
        zero_copy = _bind(made, ifindex, copy=copy)
        made.setblocking(False)
    except BaseException:
        made.close()
        if memory >= 0:
            os.close(memory)
        raise
    return Opened(made, memory, zero_copy, busy)


def is_bound(made: socket.socket) -> bool:
    """Tell whether the socket still has its device: its rings can no longer be mapped once that has gone."""
    try:
        mmap.mmap(made.fileno(), PAGE, mmap.MAP_SHARED, mmap.PROT_READ).close()
    except OSError as error:
        return error.errno not in {errno.EBUSY, errno.ENXIO, errno.EBADF}
    return True


def is_zero_copy(made: socket.socket) -> bool:
    """Tell whether the driver and we share frames without the kernel copying them."""
    return bool(struct.unpack("=I", made.getsockopt(SOL_XDP, OPTIONS, 4))[0] & 1)


class ReceiveView:
    """A socket's receive ring mapped read-only, to see whether a frame waits."""

    def __init__(self, made: socket.socket, geometry: Geometry) -> None:
        # struct xdp_mmap_offsets begins with the receive ring's; each ring begins with its producer.
        offsets = made.getsockopt(SOL_XDP, MMAP_OFFSETS, 128)
        self._producer, _consumer, entries, _flags = struct.unpack_from("=4Q", offsets)
        self._memory = mmap.mmap(
            made.fileno(), entries + geometry.receive * DESCRIPTOR, mmap.MAP_SHARED, mmap.PROT_READ
        )  # fmt: skip

    def waiting(self, progress: int) -> bool:
        """Tell whether more than `progress` frames have been received."""
        return bool(struct.unpack_from("=I", self._memory, self._producer)[0] != progress & 0xFFFFFFFF)

    def close(self) -> None:
        """Unmap."""
        self._memory.close()


def _make_memory(geometry: Geometry) -> int:
    memory = os.memfd_create("anabranch-xsk", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(memory, geometry.size)
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return memory


def _register(made: socket.socket, memory: int, geometry: Geometry) -> None:
    """Give the frames to the socket.  The kernel pins their pages, so our own mapping may go."""
    with mmap.mmap(memory, geometry.size) as mapped:
        first = ctypes.c_char.from_buffer(mapped)
        frames = ctypes.addressof(first) + geometry.words
        made.setsockopt(
            SOL_XDP, UMEM_REG, struct.pack("=QQIIII", frames, geometry.size - geometry.words, FRAME, 0, 0, 0)
        )
        del first


def _fill(made: socket.socket, geometry: Geometry) -> None:
    """Put all receive frames into the fill ring."""
    # struct xdp_mmap_offsets: four rings of four offsets; the third is the fill ring.
    producer, _consumer, entries, _flags = struct.unpack("=16Q", made.getsockopt(SOL_XDP, MMAP_OFFSETS, 128))[8:12]
    with mmap.mmap(made.fileno(), entries + geometry.receive * 8, mmap.MAP_SHARED,
                   mmap.PROT_READ | mmap.PROT_WRITE, offset=FILL_OFFSET) as ring:  # fmt: skip
        begin = geometry.transmit * FRAME
        addresses = range(begin, begin + geometry.receive * FRAME, FRAME)
        struct.pack_into(f"={geometry.receive}Q", ring, entries, *addresses)
        struct.pack_into("=I", ring, producer, geometry.receive)


def _set_busy_poll(made: socket.socket, microseconds: int) -> bool:
    try:
        for option, value in (
            (SO_PREFER_BUSY_POLL, 1), (SO_BUSY_POLL, microseconds), (SO_BUSY_POLL_BUDGET, POLL_BUDGET)
        ):  # fmt: skip
            made.setsockopt(socket.SOL_SOCKET, option, value)
    except OSError:  # a kernel without it
        return False
    return True


def _bind(made: socket.socket, ifindex: int, *, copy: bool) -> bool:
    """Bind by the best of the ways that the device has; tell whether that is zero-copy."""
    ways = ([] if copy else [ZERO_COPY | NEED_WAKEUP]) + [COPY | NEED_WAKEUP, COPY]
    deadline = time.monotonic() + PATIENCE
    while True:
        for flags in ways:
            try:
                bind_address(made.fileno(), struct.pack("=HHIII", AF_XDP, flags, ifindex, 0, 0))
            except OSError as error:
                problem = error
                if error.errno == errno.EBUSY:
                    break
            else:
                return bool(flags & ZERO_COPY)
        if problem.errno != errno.EBUSY or time.monotonic() >= deadline:
            raise problem
        time.sleep(0.01)
