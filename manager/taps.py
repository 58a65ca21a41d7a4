"""TAP devices, made for the forwarders (Documentation/networking/tuntap, linux/if_tun.h).

The device lives as long as somebody holds its fd: the manager and the forwarder do.  It has one queue, in which
frames wait for a reader; what the queue holds is what a new forwarder may take its time for.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from pathlib import Path
from typing import Final

from manager.kernel import inside

CLONE_DEVICE: Final = Path("/dev/net/tun")
IFF_TAP: Final = 0x0002
IFF_NO_PI: Final = 0x1000
IFF_VNET_HDR: Final = 0x4000
TUNSETIFF: Final = 0x400454CA
TUNGETIFF: Final = 0x800454D2
TUNSETOFFLOAD: Final = 0x400454D0
TUNSETVNETHDRSZ: Final = 0x400454D8
TUN_F_CSUM: Final = 1
TUN_F_TSO: Final = 2 | 4 | 8  # IPv4, IPv6, with ECN
TUN_F_USO: Final = 32 | 64  # Linux 6.2
SIOCSIFTXQLEN: Final = 0x8943
VNET_SIZE: Final = 10  # struct virtio_net_hdr
QUEUE: Final = 4096  # frames, as many as a packet ring has by default


def open_tap(netns_fd: int, name: str) -> int:
    """Make a TAP device in a namespace, with super-frames both ways; give its fd, without which it goes."""
    with inside(netns_fd):
        fd = os.open(CLONE_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            request = struct.pack("=16sH22x", name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)
            fcntl.ioctl(fd, TUNSETIFF, request)
            fcntl.ioctl(fd, TUNSETVNETHDRSZ, struct.pack("=i", VNET_SIZE))
            _set_offloads(fd)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
                fcntl.ioctl(control, SIOCSIFTXQLEN, struct.pack("=16si20x", name.encode(), QUEUE))
        except OSError as error:
            os.close(fd)
            if error.errno in {errno.EINVAL, errno.EBUSY}:
                raise OSError(error.errno, "a device of this name is there, and no TAP that is free") from error
            raise
    return fd


def _set_offloads(fd: int) -> None:
    """Let the kernel hand over what it would split for a wire."""
    try:
        fcntl.ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO | TUN_F_USO)
    except OSError:
        fcntl.ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO)


def is_attached(fd: int) -> bool:
    """Tell whether the fd still has its device."""
    try:
        fcntl.ioctl(fd, TUNGETIFF, bytes(40))
    except OSError:
        return False
    return True
