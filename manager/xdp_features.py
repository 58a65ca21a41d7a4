"""What a device's driver can do with XDP, by the generic netlink family `netdev` (since Linux 6.3).

A frame that a program redirects to a device is lost unless the driver takes it (ndo_xdp_xmit): a veth takes it only
while its peer polls, for GRO or for an XDP program of its own.  The kernel says so at any moment.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
import sys
from typing import Final

from manager.kernel import inside
from manager.netlink import attribute, attributes

BASIC: Final = 1  # enum netdev_xdp_act: programs run in the driver
REDIRECT: Final = 2
TAKES_FRAMES: Final = 4  # NETDEV_XDP_ACT_NDO_XMIT

_GENERIC: Final = 16  # NETLINK_GENERIC
_CONTROLLER: Final = 16  # GENL_ID_CTRL
_GET_FAMILY: Final = 3
_FAMILY_ID, _FAMILY_NAME = 1, 2
_DEV_GET: Final = 1
_IFINDEX, _FEATURES = 1, 3
_REQUEST: Final = 1
_ERROR: Final = 2
_HEADER: Final = struct.Struct("=IHHII")
_HEADERS: Final = _HEADER.size + 4  # with struct genlmsghdr
_PATIENCE: Final = 1.0


class Features:
    """Asks about the devices of one network namespace."""

    def __init__(self, netns_fd: int) -> None:
        with inside(netns_fd):
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _GENERIC)
        self._socket.settimeout(_PATIENCE)
        self._numbers = itertools.count(1)
        self._family = 0  # this kernel has none
        with contextlib.suppress(OSError):
            found = self._ask(_CONTROLLER, _GET_FAMILY, attribute(_FAMILY_NAME, b"netdev\0"))
            self._family = int.from_bytes(found[_FAMILY_ID][:2], sys.byteorder)

    def close(self) -> None:
        """Ask no more."""
        self._socket.close()

    def of(self, ifindex: int) -> int | None:
        """Give the features of a device; None: this kernel does not tell, or there is no such device."""
        if self._family == 0:
            return None
        try:
            found = self._ask(self._family, _DEV_GET, attribute(_IFINDEX, struct.pack("=I", ifindex)))
        except OSError:
            return None
        return int.from_bytes(found.get(_FEATURES, b"")[:8], sys.byteorder)

    def _ask(self, family: int, command: int, body: bytes) -> dict[int, bytes]:
        number = next(self._numbers)
        head = _HEADER.pack(_HEADERS + len(body), family, _REQUEST, number, 0)
        self._socket.send(head + struct.pack("=BBH", command, 1, 0) + body)
        while True:
            answer = self._socket.recv(1 << 16)
            length, kind, _flags, answered, _pid = _HEADER.unpack_from(answer)
            if answered != number:
                continue  # of a question that was given up
            if kind == _ERROR:
                (error,) = struct.unpack_from("=i", answer, _HEADER.size)
                raise OSError(-error, "the kernel's netdev family")
            return attributes(answer[_HEADERS:length])
