"""What goes over a simulated link, and which of a router's sockets it is for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from vrouter.net.address import IPV4, Address
from vrouter.proto.base import Md5Key, OpenSocket, SocketKind

if TYPE_CHECKING:
    from collections.abc import Iterable

UDP: Final = 17
TCP: Final = 6
BFD: Final = -1  # packets of the model's own BFD
TTL: Final = 64
LIMITED_BROADCAST: Final = Address(IPV4, 0xFFFFFFFF)


@dataclass(frozen=True, slots=True)
class Packet:
    """An IP packet.  `data` is a datagram's payload, or what the model of a protocol sends itself."""

    protocol: int
    source: Address
    destination: Address
    ttl: int
    data: Any
    source_port: int = 0
    destination_port: int = 0

    def hop(self) -> Packet:
        """Give it as it leaves a router that forwards it."""
        return replace(self, ttl=self.ttl - 1)


def multicast(address: Address) -> bool:
    """Tell whether an address is a group's, or that of all on the link."""
    if address.family == IPV4:
        return address.value >> 28 == 0xE or address == LIMITED_BROADCAST
    return address.value >> 120 == 0xFF


def link_local(address: Address) -> bool:
    """Tell whether an address means nothing beyond its link."""
    if address.family == IPV4:
        return address.value >> 8 == 0xE00000 or address == LIMITED_BROADCAST
    return address.value >> 118 == 0x3FA or address.value >> 112 in (0xFF01, 0xFF02)


@dataclass
class Datagrams:
    """A UDP or RAW socket that is open."""

    instance: str
    request: OpenSocket
    groups: set[tuple[str, Address]]

    @property
    def protocol(self) -> int:
        """Give the IP protocol."""
        return UDP if self.request.kind is SocketKind.UDP else self.request.protocol

    def takes(self, packet: Packet, interface: str) -> bool:
        """Tell whether a packet that came in by an interface is for it."""
        request = self.request
        if packet.protocol != self.protocol or packet.source.family != request.family:
            return False
        if request.kind is SocketKind.UDP and packet.destination_port != request.local_port:
            return False
        if (request.interface and request.interface != interface) or packet.ttl < request.min_ttl:
            return False
        if multicast(packet.destination):
            broadcast = packet.destination == LIMITED_BROADCAST
            return (
                broadcast or (interface, packet.destination) in self.groups or ("", packet.destination) in self.groups
            )
        return request.local is None or request.local == packet.destination


def key_for(keys: Iterable[Md5Key], peer: Address) -> bytes:
    """Give the key of RFC 2385 for a peer, that of the longest prefix; empty: none."""
    best, found = -1, b""
    for entry in keys:
        bits = (32 if peer.family == IPV4 else 128) - entry.peers.length
        fits = entry.peers.family == peer.family and entry.peers.value >> bits == peer.value >> bits
        if fits and entry.peers.length > best:
            best, found = entry.peers.length, entry.key
    return found
