"""Packet sockets with a receive ring, opened for the forwarders (packet(7), TPACKET_V2).

The manager makes the socket in the VR's namespace and keeps its fd beside the forwarder's: the kernel
goes on filling the ring while no forwarder lives.  Version 2, as version 3 hands frames over in blocks,
a millisecond late.  The ring's geometry travels in the port's spec.
"""

from __future__ import annotations

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
PACKET_IGNORE_OUTGOING: Final = 23
PACKET_MR_PROMISC: Final = 1
PACKET_MR_ALLMULTI: Final = 2
TPACKET_V2: Final = 1
TP_STATUS_USER: Final = 1
ETH_P_ALL: Final = 3
SO_SNDBUFFORCE: Final = 32
SO_RCVBUFFORCE: Final = 33
# Super-packets that do not fit a frame wait in the socket's own queue (PACKET_COPY_THRESH).
QUEUE_BYTES: Final = 8 << 20


@dataclass(frozen=True)
class Geometry:
    """Of a ring: the restart budget is frame_count / packet rate."""

    block_size: int = 1 << 16
    frame_size: int = 1 << 11
    frame_count: int = 1 << 12

    @property
    def block_count(self) -> int:
        """Blocks of the ring."""
        return self.frame_count * self.frame_size // self.block_size

    @property
    def size(self) -> int:
        """Bytes of the ring."""
        return self.block_size * self.block_count


DEFAULT: Final = Geometry()


def open_ring(netns_fd: int, device: str, ifindex: int, geometry: Geometry, *, promiscuous: bool) -> socket.socket:
    """Open a packet socket on a device of the namespace.  Its ring fills from now on."""
    with inside(netns_fd):
        ring = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    try:
        for name, value in (
            (PACKET_VERSION, TPACKET_V2),
            (PACKET_VNET_HDR, 1),  # before the ring: it decides where frames begin
            (PACKET_IGNORE_OUTGOING, 1),
            (PACKET_COPY_THRESH, 1),
        ):
            ring.setsockopt(SOL_PACKET, name, value)
        ring.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, QUEUE_BYTES)
        ring.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, QUEUE_BYTES)
        request = struct.pack(
            "=IIII", geometry.block_size, geometry.block_count, geometry.frame_size, geometry.frame_count
        )
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
        block, frame = divmod(progress % self._geometry.frame_count, self._frames_per_block)
        place = block * self._geometry.block_size + frame * self._geometry.frame_size
        return bool(struct.unpack_from("=I", self._memory, place)[0] & TP_STATUS_USER)

    def close(self) -> None:
        """Unmap."""
        self._memory.close()
