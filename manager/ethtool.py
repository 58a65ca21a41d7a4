"""Generic receive offload (GRO) of a device, and how many queues it has, by the ethtool ioctl (linux/ethtool.h).

With it the kernel joins TCP segments of one flow before they reach a packet socket, so that a ring carries
super-frames where the sender, or the wire, has ordinary ones.  What they were made of comes with them (gso_size).
Not supported: anything else that ethtool sets.
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct
from typing import Final

from manager.kernel import inside

SIOCETHTOOL: Final = 0x8946
ETHTOOL_GGRO: Final = 0x2B
ETHTOOL_SGRO: Final = 0x2C
ETHTOOL_GFLAGS: Final = 0x25
ETHTOOL_GCHANNELS: Final = 0x3C
_RXVLAN: Final = 1 << 8


def gro(netns_fd: int, device: str) -> bool:
    """Tell whether it is on."""
    return bool(_value(netns_fd, device, ETHTOOL_GGRO, 0))


def set_gro(netns_fd: int, device: str, *, on: bool) -> None:
    """Switch it."""
    _value(netns_fd, device, ETHTOOL_SGRO, int(on))


def receive_queues(netns_fd: int, device: str) -> int:
    """Count the queues on which a device receives now; one where it does not say."""
    # struct ethtool_channels: four maxima, then rx, tx, other and combined.
    exchanged = array.array("I", (ETHTOOL_GCHANNELS, *bytes(8)))
    try:
        _exchange(netns_fd, device, exchanged)
    except OSError:
        return 1
    return max(1, int(exchanged[5] + exchanged[8]))


def strips_vlans(netns_fd: int, device: str) -> bool:
    """Tell whether a device takes VLAN tags off the frames that it receives."""
    try:
        return bool(_value(netns_fd, device, ETHTOOL_GFLAGS, 0) & _RXVLAN)
    except OSError:
        return False


def _value(netns_fd: int, device: str, command: int, value: int) -> int:
    """Exchange a struct ethtool_value: the request holds its address."""
    exchanged = array.array("I", (command, value))
    _exchange(netns_fd, device, exchanged)
    return exchanged[1]


def _exchange(netns_fd: int, device: str, exchanged: array.array[int]) -> None:
    request = struct.pack("16sP", device.encode(), exchanged.buffer_info()[0]).ljust(40, b"\0")
    with inside(netns_fd):
        control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    with control:
        fcntl.ioctl(control, SIOCETHTOOL, request)
