"""AF_XDP sockets, opened for the forwarders: the memory of the frames, the rings, the way they are bound.

    sockets     one for each receive queue of a device; all share one memory (XDP_SHARED_UMEM)
    memfd       words of the transmit frames | transmit frames of each sender | receive frames of each queue
    fill ring   all receive frames of its queue, before the socket is bound: nothing is lost while no forwarder lives
    bind        zero-copy where the driver has it, else the kernel copies

Each worker that serves the device sends by one of the sockets, on the transmit queue of its number.

The manager makes the sockets in the VR's namespace and keeps their fds, and that of the memory, beside the forwarder's,
so that a successor goes on with what the rings hold.  The geometry travels in the port's spec; what it means
stands in fastpath/src/port/af_xdp.c.  Not supported: frames in several buffers (jumbo frames), unaligned frames.
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
SHARED_MEMORY: Final = 1  # flags of bind
COPY: Final = 2
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
QUEUE_FRAMES: Final = 1024  # of each receive queue, at least
MOST_QUEUES: Final = 8  # that one worker reads; QUEUES_MAX of the driver


@dataclass(frozen=True)
class Geometry:
    """How many frames each queue and each sender has; both are powers of two, and the sizes of their rings."""

    receive: int = 4096
    transmit: int = 1024
    queues: int = 1
    senders: int = 1

    @property
    def words(self) -> int:
        """Bytes before the frames."""
        return -(-self.senders * self.transmit * 8 // PAGE) * PAGE

    @property
    def size(self) -> int:
        """Bytes of the memory."""
        return self.words + self.first(self.queues)

    def first(self, queue: int) -> int:
        """Give the address of a queue's first receive frame."""
        return (self.senders * self.transmit + queue * self.receive) * FRAME

    def of_worker(self, number: int) -> range:
        """Give the queues that a worker reads; by the first of them it sends."""
        return range(number, self.queues, self.senders)

    @classmethod
    def of_device(cls, frames: int, receive_queues: int, transmit_queues: int, workers: int) -> Geometry:
        """Share `frames`, a power of two, among the receive queues of a device, as far as that leaves each enough."""
        shared = frames >> (receive_queues - 1).bit_length()
        senders = min(workers, receive_queues, transmit_queues)
        return cls(max(shared, min(frames, QUEUE_FRAMES)), queues=receive_queues, senders=senders)

    @classmethod
    def described(cls, values: dict[str, int], size: int) -> Geometry:
        """Find it out again from a port's spec and the size of its memory."""
        receive, transmit, senders = values["frame_count"], values["block_count"], max(1, values["queues"])
        frames = (size - values["block_size"]) // FRAME
        return cls(receive, transmit, max(1, (frames - senders * transmit) // receive), senders)


DEFAULT: Final = Geometry()


@dataclass(frozen=True)
class Opened:
    """The bound socket of each queue, and their memory; the fds are the holder's."""

    sockets: list[socket.socket]
    memory: int
    zero_copy: bool
    busy_poll: bool

    def close(self) -> None:
        """Close all of them."""
        for made in self.sockets:
            made.close()
        os.close(self.memory)


def open_sockets(netns_fd: int, ifindex: int, geometry: Geometry, *, busy_poll_us: int, copy: bool = False) -> Opened:
    """Open sockets on the first queues of a device; frames come once an XDP program redirects to them."""
    memory = _make_memory(geometry)
    sockets: list[socket.socket] = []
    zero_copy = busy = False
    try:
        for queue in range(geometry.queues):
            with inside(netns_fd):
                made = socket.socket(AF_XDP, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
            sockets.append(made)
            if queue == 0:
                _register(made, memory, geometry)
            _make_rings(made, geometry, queue)
            busy = busy_poll_us > 0 and _set_busy_poll(made, busy_poll_us)
            if queue == 0:
                ways = ([] if copy else [ZERO_COPY | NEED_WAKEUP]) + [COPY | NEED_WAKEUP, COPY]
                zero_copy = bool(_bind(made, ifindex, queue, ways, 0) & ZERO_COPY)
            else:  # as the first one
                _bind(made, ifindex, queue, [SHARED_MEMORY], sockets[0].fileno())
            made.setblocking(False)
    except BaseException:
        Opened(sockets, memory, zero_copy, busy).close()
        raise
    return Opened(sockets, memory, zero_copy, busy)


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
        self._producer, self._consumer, entries, _flags = struct.unpack_from("=4Q", offsets)
        self._memory = mmap.mmap(
            made.fileno(), entries + geometry.receive * DESCRIPTOR, mmap.MAP_SHARED, mmap.PROT_READ
        )  # fmt: skip

    def waiting(self) -> bool:
        """Tell whether frames have been received that nobody has seen to."""
        producer, consumer = (struct.unpack_from("=I", self._memory, at)[0] for at in (self._producer, self._consumer))
        return bool(producer != consumer)

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


def _make_rings(made: socket.socket, geometry: Geometry, queue: int) -> None:
    sends = queue < geometry.senders
    made.setsockopt(SOL_XDP, FILL_RING, geometry.receive)
    made.setsockopt(SOL_XDP, RX_RING, geometry.receive)
    made.setsockopt(SOL_XDP, COMPLETION_RING, geometry.transmit if sends else 1)  # each queue must have one
    if sends:
        made.setsockopt(SOL_XDP, TX_RING, geometry.transmit)
        made.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, SEND_BYTES)
        with contextlib.suppress(OSError):  # kernels before 6.18 take 32 frames a call
            made.setsockopt(SOL_XDP, TX_BUDGET, min(TX_FRAMES, geometry.transmit))
    _fill(made, geometry, queue)


def _fill(made: socket.socket, geometry: Geometry, queue: int) -> None:
    """Put all receive frames of a queue into its fill ring."""
    # struct xdp_mmap_offsets: four rings of four offsets; the third is the fill ring.
    producer, _consumer, entries, _flags = struct.unpack("=16Q", made.getsockopt(SOL_XDP, MMAP_OFFSETS, 128))[8:12]
    with mmap.mmap(made.fileno(), entries + geometry.receive * 8, mmap.MAP_SHARED,
                   mmap.PROT_READ | mmap.PROT_WRITE, offset=FILL_OFFSET) as ring:  # fmt: skip
        begin = geometry.first(queue)
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


def _bind(made: socket.socket, ifindex: int, queue: int, ways: list[int], shared: int) -> int:
    """Bind by the first of the ways (flags) that the device has, and tell it; `shared` is whose memory is shared."""
    deadline = time.monotonic() + PATIENCE
    while True:
        for flags in ways:
            try:
                bind_address(made.fileno(), struct.pack("=HHIII", AF_XDP, flags, ifindex, queue, shared))
            except OSError as error:
                problem = error
                if error.errno == errno.EBUSY:
                    break
            else:
                return flags
        if problem.errno != errno.EBUSY or time.monotonic() >= deadline:
            raise problem
        time.sleep(0.01)
