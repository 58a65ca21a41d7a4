"""Generic receive offload (GRO) of a device, other features, and how many queues it has, by the ethtool ioctl.

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
ETHTOOL_GSTRINGS: Final = 0x1B
ETHTOOL_GSSET_INFO: Final = 0x37
ETHTOOL_GFEATURES: Final = 0x3A
_RXVLAN: Final = 1 << 8
_FEATURES: Final = 4  # ETH_SS_FEATURES: the set of their names
_NAME_WORDS: Final = 8  # of 32 bytes each


def gro(netns_fd: int, device: str) -> bool:
    """Tell whether it is on."""
    return bool(_value(netns_fd, device, ETHTOOL_GGRO, 0))


def set_gro(netns_fd: int, device: str, *, on: bool) -> None:
    """Switch it."""
    _value(netns_fd, device, ETHTOOL_SGRO, int(on))


def queues(netns_fd: int, device: str) -> tuple[int, int]:
    """Count the queues on which a device receives, and sends, now; one of each where it does not say."""
    # struct ethtool_channels: four maxima, then rx, tx, other and combined.
    exchanged = array.array("I", (ETHTOOL_GCHANNELS, *bytes(8)))
    try:
        _exchange(netns_fd, device, exchanged)
    except OSError:
        return 1, 1
    receive, transmit, _other, combined = exchanged[5:9]
    return max(1, receive + combined), max(1, transmit + combined)


def strips_vlans(netns_fd: int, device: str) -> bool:
    """Tell whether a device takes VLAN tags off the frames that it receives."""
    try:
        return bool(_value(netns_fd, device, ETHTOOL_GFLAGS, 0) & _RXVLAN)
    except OSError:
        return False


def feature(netns_fd: int, device: str, name: str) -> bool:
    """Tell whether a feature is active, by its name in the kernel; False where it is not known."""
    try:
        known = _feature_names(netns_fd, device)
        if name not in known:
            return False
        # struct ethtool_gfeatures: blocks of 32, each available, requested, active, never changed.
        block, bit = divmod(known.index(name), 32)
        blocks = -(-len(known) // 32)
        states = array.array("I", (ETHTOOL_GFEATURES, blocks, *bytes(4 * blocks)))
        _exchange(netns_fd, device, states)
    except OSError:
        return False
    return bool(states[2 + 4 * block + 2] >> bit & 1)


def _feature_names(netns_fd: int, device: str) -> list[str]:
    found = array.array("I", struct.pack("=IIQI", ETHTOOL_GSSET_INFO, 0, 1 << _FEATURES, 0))
    _exchange(netns_fd, device, found)
    names = array.array("I", (ETHTOOL_GSTRINGS, _FEATURES, found[4], *bytes(found[4] * _NAME_WORDS)))
    _exchange(netns_fd, device, names)
    text, size = names[3:].tobytes(), 4 * _NAME_WORDS
    return [text[at : at + size].rstrip(b"\0").decode() for at in range(0, len(text), size)]


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
