"""One router under differential test, seen from its two links.

    peer `in` (10.0.0.2) ---- router ---- peer `out` (10.0.1.2)

The peers are packet sockets, not hosts: nothing but this module speaks on the links.  It answers ARP
and neighbor solicitations for the two peer addresses, and hands over everything else.
"""

from __future__ import annotations

import errno
import selectors
import socket
import struct
import time
from dataclasses import dataclass
from typing import Final

from frames import checksum, ethernet
from lab import ETH_P_ALL, Namespace

SOL_PACKET: Final = 263
PACKET_IGNORE_OUTGOING: Final = 23
NEIGHBOR_DISCOVERY: Final = range(133, 138)
LISTENER_REPORTS: Final = (130, 131, 132, 143)


def packet_socket(namespace: Namespace, device: str, protocol: int = ETH_P_ALL) -> socket.socket:
    """Open a non-blocking packet socket on a device of a namespace; our own frames are not seen."""
    with namespace.entered():
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        opened.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 23)
        opened.bind((device, protocol))
    opened.setblocking(False)
    return opened


@dataclass(frozen=True)
class Peer:
    """An address pair and a MAC that answer on one link."""

    name: str
    mac: bytes
    ip4: bytes
    ip6: bytes


IN: Final = Peer(
    "in",
    bytes.fromhex("020000000c02"),
    socket.inet_aton("10.0.0.2"),
    socket.inet_pton(socket.AF_INET6, "2001:db8:a::2"),
)
OUT: Final = Peer(
    "out",
    bytes.fromhex("020000000d02"),
    socket.inet_aton("10.0.1.2"),
    socket.inet_pton(socket.AF_INET6, "2001:db8:b::2"),
)


class Link:
    """A peer on its packet socket."""

    def __init__(self, peer: Peer, namespace: Namespace, device: str) -> None:
        self.peer = peer
        self.socket = packet_socket(namespace, device)

    def send(self, frame: bytes) -> None:
        """Put one frame on the link."""
        while True:
            try:
                self.socket.send(frame)
            except (BlockingIOError, InterruptedError):
                time.sleep(0.0005)
            except OSError as error:
                if error.errno == errno.EINVAL:  # shorter than a link header: the kernel refuses it
                    return
                if error.errno != errno.ENOBUFS:
                    raise
                time.sleep(0.0005)
            else:
                return

    def receive(self) -> list[bytes]:
        """Take what waits, answering resolution on the way."""
        frames: list[bytes] = []
        while True:
            try:
                frame = self.socket.recv(65536)
            except BlockingIOError:
                return frames
            if not self._answer(frame):
                frames.append(frame)

    def _answer(self, frame: bytes) -> bool:
        """Answer ARP and ND; true for frames that are nobody else's business."""
        if frame[12:14] == b"\x08\x06":
            if frame[20:22] == b"\0\x01" and frame[38:42] == self.peer.ip4:
                reply = frame[14:20] + b"\0\x02" + self.peer.mac + self.peer.ip4 + frame[22:32]
                self.send(ethernet(reply, 0x0806, frame[22:28], self.peer.mac))
            return True
        if frame[12:14] != b"\x86\xdd" or len(frame) < 14 + 40 + 8:
            return False
        following, at = frame[20], 54
        if following == 0:  # MLD reports carry a router alert
            following, at = frame[54], 54 + 8 * (frame[55] + 1)
        if following != socket.IPPROTO_ICMPV6 or len(frame) < at + 8:
            return False
        if frame[at] == 135 and frame[at + 8 : at + 24] == self.peer.ip6 and any(frame[22:38]):
            body = b"\x88\0\0\0\x60\0\0\0" + self.peer.ip6 + b"\x02\x01" + self.peer.mac
            pseudo = self.peer.ip6 + frame[22:38] + struct.pack(">IHBB", len(body), 0, 0, 58)
            body = body[:2] + struct.pack(">H", checksum(pseudo + body)) + body[4:]
            head = struct.pack(">IHBB", 6 << 28, len(body), 58, 255) + self.peer.ip6 + frame[22:38]
            self.send(ethernet(head + body, 0x86DD, frame[6:12], self.peer.mac))
        return frame[at] in NEIGHBOR_DISCOVERY or frame[at] in LISTENER_REPORTS


class RouterSide:
    """Both links of one router."""

    def __init__(self, inner: tuple[Namespace, str], outer: tuple[Namespace, str]) -> None:
        self.links = (Link(IN, *inner), Link(OUT, *outer))
        self._selector = selectors.DefaultSelector()
        for link in self.links:
            self._selector.register(link.socket, selectors.EVENT_READ, link)

    def close(self) -> None:
        """Give the sockets back."""
        self._selector.close()
        for link in self.links:
            link.socket.close()

    def send(self, frame: bytes) -> None:
        """Send towards the router on its inner link."""
        self.links[0].send(frame)

    def receive(self, wait: float) -> list[tuple[str, bytes]]:
        """Give the frames that come until none came for `wait` seconds, with the link's name."""
        taken: list[tuple[str, bytes]] = []
        while ready := self._selector.select(wait):
            for key, _events in ready:
                link: Link = key.data
                taken += [(link.peer.name, frame) for frame in link.receive()]
        return taken
