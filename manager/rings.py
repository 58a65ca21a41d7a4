"""Packet sockets with a receive ring, opened for the forwarders (packet(7), TPACKET_V2 and V3).

The manager makes the socket in the VR's namespace and keeps its fd beside the forwarder's: the kernel
goes on filling the ring while no forwarder lives.  Version 2 unless another is asked for, as version 3 hands
frames over in blocks, a millisecond late.  The ring's geometry travels in the port's spec.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import struct
from dataclasses import dataclass
from typing import Final

from manager.kernel import inside

SOL_PACKET: Final = 263
PACKET_ADD_MEMBERSHIP: Final = 1
PACKET_RX_RING: Final = 5
PACKET_COPY_THRESH: Final = 7
PACKET_VERSION: Final = 10
PACKET_VNET_HDR: Final = 15
PACKET_FANOUT: Final = 18
PACKET_IGNORE_OUTGOING: Final = 23
PACKET_MR_PROMISC: Final = 1
PACKET_MR_ALLMULTI: Final = 2
TPACKET_V2: Final = 1
TPACKET_V3: Final = 2
TP_STATUS_USER: Final = 1
ETH_P_ALL: Final = 3
FANOUT_HASH: Final = 0
FANOUT_UNIQUE_ID: Final = 0x2000
FANOUT_IGNORE_OUTGOING: Final = 0x4000  # what the sockets asked for does not hold in a group
_FANOUT: Final = FANOUT_HASH | FANOUT_IGNORE_OUTGOING
SO_SNDBUFFORCE: Final = 32
SO_RCVBUFFORCE: Final = 33
SO_DETACH_FILTER: Final = 27
SO_ATTACH_BPF: Final = 50
# Super-packets that do not fit a frame wait in the socket's own queue (PACKET_COPY_THRESH).
QUEUE_BYTES: Final = 8 << 20


@dataclass(frozen=True)
class Geometry:
    """Of a ring: the restart budget is frame_count / packet rate."""

    block_size: int = 1 << 16
    frame_size: int = 1 << 11
    frame_count: int = 1 << 12
    version: int = TPACKET_V2  # 3: frame_size is formal, a block holds what fits

    def check(self) -> None:
        """Raise ValueError where no ring can be made of it."""
        whole = 0 < self.frame_size <= self.block_size and self.block_size % self.frame_size == 0
        if not whole or self.frame_count <= 0 or self.frame_count * self.frame_size % self.block_size:
            raise ValueError("a ring's geometry makes no sense")

    @property
    def block_count(self) -> int:
        """Blocks of the ring."""
        return self.frame_count * self.frame_size // self.block_size

    @property
    def size(self) -> int:
        """Bytes of the ring."""
        return self.block_size * self.block_count


DEFAULT: Final = Geometry()
# Each block takes two super-frames.  While nobody reads, one is used up each _RETIRE_MS, however little is in it: the
# number of blocks is what a forwarder's restart may take.
BULK: Final = Geometry(block_size=1 << 17, frame_count=1 << 14, version=TPACKET_V3)
_BLOCK_STATUS: Final = 8  # offset of block_status in struct tpacket_block_desc
_BULK_PROGRESS: Final = 24  # bits of a progress word below the number of blocks
_RETIRE_MS: Final = 1


def open_ring(netns_fd: int, device: str, ifindex: int, geometry: Geometry, *, promiscuous: bool) -> socket.socket:
    """Open a packet socket on a device of the namespace.  Its ring fills from now on."""
    with inside(netns_fd):
        ring = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    try:
        for name, value in (
            (PACKET_VERSION, geometry.version),
            (PACKET_VNET_HDR, 1),  # before the ring: it decides where frames begin
            (PACKET_IGNORE_OUTGOING, 1),
            (PACKET_COPY_THRESH, int(geometry.version == TPACKET_V2)),
        ):
            ring.setsockopt(SOL_PACKET, name, value)
        ring.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, QUEUE_BYTES)
        ring.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, QUEUE_BYTES)
        request = struct.pack(
            "=IIII", geometry.block_size, geometry.block_count, geometry.frame_size, geometry.frame_count
        )
        if geometry.version == TPACKET_V3:
            request += struct.pack("=III", _RETIRE_MS, 0, 0)  # as struct tpacket_req3 has beside
        ring.setsockopt(SOL_PACKET, PACKET_RX_RING, request)
        _join(ring, ifindex, PACKET_MR_ALLMULTI)
        if promiscuous:
            _join(ring, ifindex, PACKET_MR_PROMISC)
        ring.setblocking(False)
        ring.bind((device, ETH_P_ALL))
    except OSError:
        ring.close()
        raise
    return ring


def spread(sockets: list[socket.socket]) -> None:
    """Share the frames of one device among sockets, by a hash of their flows; the order of the sockets is kept.

    The kernel's hash takes addresses and ports, of fragments only addresses; both directions of a flow have the same.
    A full ring loses frames: rolling over to another one would put a flow's packets out of order.
    """
    sockets[0].setsockopt(SOL_PACKET, PACKET_FANOUT, (_FANOUT | FANOUT_UNIQUE_ID) << 16)
    group = sockets[0].getsockopt(SOL_PACKET, PACKET_FANOUT) & 0xFFFF
    for ring in sockets[1:]:
        ring.setsockopt(SOL_PACKET, PACKET_FANOUT, _FANOUT << 16 | group)


def set_filter(ring: socket.socket, program: int | None) -> None:
    """Let a BPF program, by its fd, choose which frames a socket takes; None: it takes all."""
    if program is not None:
        ring.setsockopt(socket.SOL_SOCKET, SO_ATTACH_BPF, program)
        return
    with contextlib.suppress(FileNotFoundError):  # it has none
        ring.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)


def is_bound(ring: socket.socket) -> bool:
    """Tell whether the socket still has its device: a deleted or moved one is lost for good."""
    return bool(ring.getsockname()[0])


def _join(ring: socket.socket, ifindex: int, kind: int) -> None:
    ring.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, struct.pack("=iHH8s", ifindex, kind, 0, b""))


class RingView:
    """A ring mapped read-only, to see whether a frame waits at a given place."""

    def __init__(self, ring: socket.socket, geometry: Geometry) -> None:
        self._geometry = geometry
        self._frames_per_block = geometry.block_size // geometry.frame_size
        number = os.dup(ring.fileno())
        try:
            self._memory = mmap.mmap(number, geometry.size, mmap.MAP_SHARED, mmap.PROT_READ)
        finally:
            os.close(number)

    def waiting(self, progress: int) -> bool:
        """Tell whether the frame that comes next after `progress` frames has been received."""
        return bool(struct.unpack_from("=I", self._memory, self.place(progress))[0] & TP_STATUS_USER)

    def place(self, progress: int) -> int:
        """Tell where the status of the frame, or of the block, lies that comes next after `progress`."""
        if self._geometry.version == TPACKET_V3:
            block = (progress >> _BULK_PROGRESS) % self._geometry.block_count
            return block * self._geometry.block_size + _BLOCK_STATUS
        block, frame = divmod(progress % self._geometry.frame_count, self._frames_per_block)
        return block * self._geometry.block_size + frame * self._geometry.frame_size

    @property
    def memory(self) -> mmap.mmap:
        """Give the mapping itself, for who looks often."""
        return self._memory

    def close(self) -> None:
        """Unmap."""
        self._memory.close()
