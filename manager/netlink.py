"""A small rtnetlink client (RFC 3549): links, addresses, routes, classifiers of one network namespace.

Every request is answered by the kernel within the call, so a blocking exchange never waits for
anybody.  pyroute2 serves whole programs; the manager needs a socket that is born in a given
namespace without a helper process, and routes as the raw bytes that put them back exactly.
"""

from __future__ import annotations

import errno
import itertools
import os
import socket
import struct
from dataclasses import dataclass
from typing import Final, Self

from manager.kernel import inside

NLM_F_REQUEST: Final = 1
NLM_F_ACK: Final = 4
NLM_F_DUMP: Final = 0x300
NLM_F_REPLACE: Final = 0x100
NLM_F_EXCL: Final = 0x200
NLM_F_CREATE: Final = 0x400
NLM_F_APPEND: Final = 0x800
NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3
RTM_NEWLINK: Final = 16
RTM_DELLINK: Final = 17
RTM_GETLINK: Final = 18
RTM_NEWADDR: Final = 20
RTM_DELADDR: Final = 21
RTM_GETADDR: Final = 22
RTM_NEWROUTE: Final = 24
RTM_GETROUTE: Final = 26
RTM_NEWQDISC: Final = 36
RTM_DELQDISC: Final = 37
RTM_GETQDISC: Final = 38
RTM_NEWTFILTER: Final = 44
RTM_DELTFILTER: Final = 45
GROUP_LINK: Final = 1

IFLA_ADDRESS: Final = 1
IFLA_IFNAME: Final = 3
IFLA_MTU: Final = 4
IFLA_LINK: Final = 5
IFLA_MASTER: Final = 10
IFLA_LINKINFO: Final = 18
IFLA_NET_NS_FD: Final = 28
IFLA_PROMISCUITY: Final = 30
IFLA_CARRIER: Final = 33
IFF_UP: Final = 1
IFF_LOOPBACK: Final = 8
IFF_RUNNING: Final = 0x40
IFF_PROMISC: Final = 0x100
IFF_ALLMULTI: Final = 0x200

RTA_DST: Final = 1
RTA_OIF: Final = 4
RTA_GATEWAY: Final = 5
RTA_MULTIPATH: Final = 9
RTPROT_KERNEL: Final = 2
RTPROT_RA: Final = 9
RTM_F_CLONED: Final = 0x200

_HEADER: Final = struct.Struct("=IHHII")
_LINK: Final = struct.Struct("=BxHiII")
_ATTRIBUTE: Final = struct.Struct("=HH")
ROUTE_SIZE: Final = 12
ADDRESS_SIZE: Final = 8
_PATIENCE: Final = 5.0
_EXTENDED_ACK: Final = 11  # NETLINK_EXT_ACK
_STRICT: Final = 12  # NETLINK_GET_STRICT_CHK
_SOL_NETLINK: Final = 270


def attribute(kind: int, value: bytes) -> bytes:
    """Encode one attribute, padded to four bytes."""
    return _ATTRIBUTE.pack(len(value) + 4, kind) + value + bytes(-len(value) % 4)


def attributes(data: bytes) -> dict[int, bytes]:
    """Decode a run of attributes; the last of each kind wins."""
    found = {}
    offset = 0
    while offset + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4 or offset + length > len(data):
            break
        found[kind & 0x3FFF] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


@dataclass(frozen=True)
class Link:
    """A device as the kernel describes it."""

    index: int
    name: str
    mac: str
    mtu: int
    flags: int
    master: int
    carrier: bool
    promiscuity: int
    kind: str
    lower: int  # index of the device below, or of the veth peer (perhaps in another namespace); 0: none

    @property
    def up(self) -> bool:
        """Tell whether it is administratively up."""
        return bool(self.flags & IFF_UP)

    @property
    def running(self) -> bool:
        """Tell whether frames can pass."""
        return self.up and self.carrier


@dataclass(frozen=True)
class Message:
    """One message of the kernel: its type and what follows the netlink header."""

    kind: int
    body: bytes


def parse_link(body: bytes) -> Link:
    """Decode the body of RTM_NEWLINK or RTM_DELLINK."""
    _family, _type, index, flags, _change = _LINK.unpack_from(body)
    found = attributes(body[_LINK.size :])

    def number(kind: int) -> int:
        value = found.get(kind, b"")
        return int.from_bytes(value, "little" if _little() else "big")

    info = attributes(found.get(IFLA_LINKINFO, b""))
    mac = found.get(IFLA_ADDRESS, b"")
    return Link(
        index=index,
        name=found.get(IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="replace"),
        mac=mac.hex(":") if len(mac) == 6 else "00:00:00:00:00:00",
        mtu=number(IFLA_MTU),
        flags=flags,
        master=number(IFLA_MASTER),
        carrier=bool(number(IFLA_CARRIER)),
        promiscuity=number(IFLA_PROMISCUITY),
        kind=info.get(1, b"").rstrip(b"\0").decode(errors="replace"),
        lower=number(IFLA_LINK),
    )


def _little() -> bool:
    return struct.pack("=H", 1) == b"\1\0"


class Netlink:
    """An rtnetlink socket in one network namespace."""

    def __init__(self, netns_fd: int | None = None, groups: int = 0) -> None:
        """Open it; with `groups` it listens, for events() and no requests."""
        with inside(netns_fd):
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._sequence = itertools.count(1)
        self._socket.setsockopt(_SOL_NETLINK, _EXTENDED_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _STRICT, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._socket.bind((0, groups))
        if groups:
            self._socket.setblocking(False)
        else:
            self._socket.settimeout(_PATIENCE)

    def fileno(self) -> int:
        """Give the fd to poll."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def events(self) -> list[Message] | None:
        """Take what the kernel announced; None: messages were lost, look at everything."""
        found: list[Message] = []
        while True:
            try:
                data = self._socket.recv(1 << 16)
            except BlockingIOError:
                return found
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    return None
                raise
            found += [Message(kind, body) for kind, _flags, _sequence, body in _split(data)]

    def request(self, kind: int, flags: int, body: bytes) -> list[Message]:
        """Ask the kernel; give its answers.  OSError when it refuses."""
        sequence = next(self._sequence)
        dump = flags & NLM_F_DUMP == NLM_F_DUMP
        flags |= NLM_F_REQUEST | (0 if dump else NLM_F_ACK)
        self._socket.sendto(_HEADER.pack(16 + len(body), kind, flags, sequence, 0) + body, (0, 0))
        found: list[Message] = []
        while True:
            for answer, _flags, number, content in _split(self._socket.recv(1 << 18)):
                if number != sequence:
                    continue  # left over from a request that timed out
                if answer == NLMSG_DONE:
                    return found
                if answer == NLMSG_ERROR:
                    _raise(content)
                    return found
                found.append(Message(answer, content))

    def links(self) -> dict[str, Link]:
        """Give all devices by name."""
        answers = self.request(RTM_GETLINK, NLM_F_DUMP, _LINK.pack(0, 0, 0, 0, 0))
        return {link.name: link for link in map(parse_link, (answer.body for answer in answers))}

    def link(self, name: str) -> Link | None:
        """Give one device, or None."""
        try:
            body = _LINK.pack(0, 0, 0, 0, 0) + attribute(IFLA_IFNAME, name.encode() + b"\0")
            return parse_link(self.request(RTM_GETLINK, 0, body)[0].body)
        except OSError as error:
            if error.errno in {errno.ENODEV, errno.ERANGE, errno.EINVAL}:
                return None
            raise

    def link_at(self, index: int) -> Link | None:
        """Give the device with this index, or None."""
        try:
            return parse_link(self.request(RTM_GETLINK, 0, _LINK.pack(0, 0, index, 0, 0))[0].body)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise

    def set_link(self, index: int, *, up: bool | None = None, flags: tuple[int, int] | None = None,
                 mac: str | None = None, mtu: int | None = None, master: int | None = None,
                 name: str | None = None) -> None:
        """Change a device; `flags` is (values, mask)."""
        values, mask = flags or (0, 0)
        if up is not None:
            values, mask = values | (IFF_UP if up else 0), mask | IFF_UP
        extra = b""
        if mac is not None:
            extra += attribute(IFLA_ADDRESS, bytes.fromhex(mac.replace(":", "")))
        if mtu is not None:
            extra += attribute(IFLA_MTU, struct.pack("=I", mtu))
        if master is not None:
            extra += attribute(IFLA_MASTER, struct.pack("=I", master))
        if name is not None:
            extra += attribute(IFLA_IFNAME, name.encode() + b"\0")
        self.request(RTM_NEWLINK, 0, _LINK.pack(0, 0, index, values, mask) + extra)

    def move_link(self, index: int, netns_fd: int, name: str) -> None:
        """Move a device to another namespace, where it is called `name`."""
        extra = attribute(IFLA_NET_NS_FD, struct.pack("=I", netns_fd)) + attribute(IFLA_IFNAME, name.encode() + b"\0")
        self.request(RTM_NEWLINK, 0, _LINK.pack(0, 0, index, 0, 0) + extra)

    def add_veth(self, name: str, peer: str, peer_netns: int, mac: str, mtu: int) -> None:
        """Make a veth pair: one end here, the other, with this MAC, in another namespace."""
        size = attribute(IFLA_MTU, struct.pack("=I", mtu))
        inner = (
            _LINK.pack(0, 0, 0, 0, 0)
            + attribute(IFLA_IFNAME, peer.encode() + b"\0")
            + attribute(IFLA_ADDRESS, bytes.fromhex(mac.replace(":", "")))
            + size
            + attribute(IFLA_NET_NS_FD, struct.pack("=I", peer_netns))
        )
        info = attribute(1, b"veth\0") + attribute(2, attribute(1, inner))
        body = _LINK.pack(0, 0, 0, 0, 0) + attribute(IFLA_IFNAME, name.encode() + b"\0") + size
        self.request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body + attribute(IFLA_LINKINFO, info))

    def delete_link(self, index: int) -> None:
        """Delete a device."""
        self.request(RTM_DELLINK, 0, _LINK.pack(0, 0, index, 0, 0))

    def addresses(self, index: int) -> list[bytes]:
        """Give the raw bodies (struct ifaddrmsg and attributes) of a device's addresses."""
        answers = self.request(RTM_GETADDR, NLM_F_DUMP, struct.pack("=BBBBi", 0, 0, 0, 0, 0))
        return [answer.body for answer in answers if struct.unpack_from("=I", answer.body, 4)[0] == index]

    def all_addresses(self) -> list[bytes]:
        """Give the raw bodies of every device's addresses."""
        return [answer.body for answer in self.request(RTM_GETADDR, NLM_F_DUMP, struct.pack("=BBBBi", 0, 0, 0, 0, 0))]

    def add_address(self, body: bytes) -> None:
        """Add, or replace, an address from its raw body."""
        self.request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, body)

    def delete_address(self, body: bytes) -> None:
        """Remove an address by its raw body."""
        self.request(RTM_DELADDR, 0, body)

    def routes(self) -> list[bytes]:
        """Give the raw bodies (struct rtmsg and attributes) of all routes, IPv4 and IPv6."""
        bodies = []
        for family in (socket.AF_INET, socket.AF_INET6):
            answers = self.request(RTM_GETROUTE, NLM_F_DUMP, struct.pack("=BBBBBBBBI", family, 0, 0, 0, 0, 0, 0, 0, 0))
            bodies += [answer.body for answer in answers]
        return bodies

    def add_route(self, body: bytes) -> None:
        """Add a route from its raw body, beside others to the same prefix."""
        self.request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_APPEND, body)

    def route_to(self, address: str) -> int:
        """Give the index of the device by which an address is reached; 0: it is not."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        raw = socket.inet_pton(family, address)
        body = struct.pack("=BBBBBBBBI", family, len(raw) * 8, 0, 0, 0, 0, 0, 0, 0) + attribute(RTA_DST, raw)
        try:
            answer = self.request(RTM_GETROUTE, 0, body)[0].body
        except OSError:
            return 0
        return int(struct.unpack("=I", attributes(answer[ROUTE_SIZE:]).get(RTA_OIF, bytes(4)))[0])


def _split(data: bytes) -> list[tuple[int, int, int, bytes]]:
    found = []
    offset = 0
    while offset + 16 <= len(data):
        length, kind, flags, sequence, _port = _HEADER.unpack_from(data, offset)
        if length < 16 or offset + length > len(data):
            break
        found.append((kind, flags, sequence, data[offset + 16 : offset + length]))
        offset += (length + 3) & ~3
    return found


def _raise(content: bytes) -> None:
    (number,) = struct.unpack_from("=i", content)
    if number == 0:
        return
    reason = ""
    (length,) = struct.unpack_from("=I", content, 4)
    # After the error comes the request's header alone when the rest is capped, else all of it.
    for start in (4 + 16, 4 + length):
        text = attributes(content[start:]).get(1)
        if text and text.endswith(b"\0"):
            reason = f": {text.rstrip(bytes(1)).decode(errors='replace')}"
            break
    raise OSError(-number, os.strerror(-number) + reason)
