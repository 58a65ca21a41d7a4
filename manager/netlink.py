"""Links, addresses, routes and classifiers of one network namespace, by rtnetlink (RFC 3549) and pyroute2.

The socket, the messages and their parser are pyroute2's.  IPRoute, its class for whole programs, starts
an event loop for each socket, and an audit opens many; IPRSocket is made for poll loops like ours.  The
kernel answers each request within the call, so a blocking exchange waits for nobody.

Addresses and routes that are given back later stay what the kernel sent, byte for byte: decoded and
encoded again they would lose each attribute that the library does not know.  attribute() and
attributes() change those bytes, and are for nothing else.
"""

from __future__ import annotations

import errno
import itertools
import os
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Self

from pyroute2 import IPRSocket
from pyroute2.netlink import (
    NLM_F_ACK,
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    nlmsg,
)
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import (
    RTM_DELLINK,
    RTM_DELQDISC,
    RTM_DELTFILTER,
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_GETQDISC,
    RTM_GETROUTE,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWQDISC,
    RTM_NEWROUTE,
    RTM_NEWTFILTER,
)
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg
from pyroute2.netlink.rtnl.tcmsg import tcmsg

from manager.kernel import inside

GROUP_LINK: Final = 1

IFF_UP: Final = 1
IFF_LOOPBACK: Final = 8
IFF_PROMISC: Final = 0x100
IFF_ALLMULTI: Final = 0x200

# Bytes of addresses and routes: sizes of struct ifaddrmsg and rtmsg, and some attributes of routes.
ADDRESS_SIZE: Final = 8
ROUTE_SIZE: Final = 12
RTA_OIF: Final = 4
RTA_GATEWAY: Final = 5
RTA_MULTIPATH: Final = 9
RTPROT_KERNEL: Final = 2
RTM_F_CLONED: Final = 0x200

_CLSACT: Final = 0xFFFFFFF1
_CLSACT_HANDLE: Final = 0xFFFF0000
_INGRESS: Final = 0xFFFFFFF2
_ALL_PROTOCOLS: Final = 0x0300  # ETH_P_ALL in network order
_DIRECT_ACTION: Final = 1
_HEADER_SIZE: Final = 16
_LARGEST: Final = 1 << 18
_MAC_LENGTH: Final = 17  # as text
_ATTRIBUTE: Final = struct.Struct("=HH")
_PATIENCE: Final = 5.0

Attrs = Iterable[tuple[str, Any]]


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
    queueing: str = ""  # its queueing discipline

    @property
    def up(self) -> bool:
        """Tell whether it is administratively up."""
        return bool(self.flags & IFF_UP)

    @property
    def running(self) -> bool:
        """Tell whether frames can pass."""
        return self.up and self.carrier


class _Body(nlmsg):  # type: ignore[misc]  # pyroute2 has no types
    """A message whose body stays bytes."""

    fields = (("body", "s"),)


def _filled(message: Any, attrs: Attrs = (), **fields: int | bytes) -> Any:
    message.update(fields)
    message["attrs"] = [list(pair) for pair in attrs]
    return message


def _described(message: Any) -> Link:
    mac = message.get_attr("IFLA_ADDRESS") or ""
    return Link(
        index=message["index"],
        name=message.get_attr("IFLA_IFNAME") or "",
        mac=mac if len(mac) == _MAC_LENGTH else "00:00:00:00:00:00",
        mtu=message.get_attr("IFLA_MTU") or 0,
        flags=message["flags"],
        master=message.get_attr("IFLA_MASTER") or 0,
        carrier=bool(message.get_attr("IFLA_CARRIER")),
        promiscuity=message.get_attr("IFLA_PROMISCUITY") or 0,
        kind=message.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") or "",
        lower=message.get_attr("IFLA_LINK") or 0,
        queueing=message.get_attr("IFLA_QDISC") or "",
    )


class Netlink:
    """An rtnetlink socket in one network namespace."""

    def __init__(self, netns_fd: int | None = None, groups: int = 0) -> None:
        """Open it; with `groups` it listens, for drain() and no requests."""
        with inside(netns_fd):
            self._client = IPRSocket(ext_ack=True, strict_check=True)
            self._socket: socket.socket = self._client.socket  # born here
        self._sequence = itertools.count(1)
        self._socket.bind((0, groups))
        self._socket.settimeout(0 if groups else _PATIENCE)

    def fileno(self) -> int:
        """Give the fd to poll."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def drain(self) -> None:
        """Take what the kernel announced; who reads on must look at everything, as messages may be lost."""
        while True:
            try:
                self._socket.recv(_LARGEST)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise

    def _exchange(self, message: Any, kind: int, flags: int = NLM_F_ACK, *, raw: bool = False) -> list[Any]:
        """Ask the kernel; give its answers, `raw` as the bytes of their bodies.  OSError when it refuses."""
        sequence = next(self._sequence)
        bodies: list[bytes] = []
        marshal = self._client.marshal

        def keep(data: bytes, offset: int, length: int) -> Any:
            _length, answer, kept, number = struct.unpack_from("=IHHI", data, offset)
            if answer in {NLMSG_ERROR, NLMSG_DONE}:
                return marshal.parse_one_message(answer, kept, number, data, offset, length)
            bodies.append(data[offset + _HEADER_SIZE : offset + length])
            return None

        if raw:
            marshal.seq_map[sequence] = keep
        self._client.put(message, kind, NLM_F_REQUEST | flags, msg_seq=sequence)
        found: list[Any] = []
        try:
            while True:
                for answer in marshal.parse(self._socket.recv(_LARGEST)):
                    header = answer["header"]
                    if header["sequence_number"] != sequence:
                        continue  # left over from a request that timed out
                    if header["error"] is not None:
                        raise header["error"]
                    if header["type"] in {NLMSG_ERROR, NLMSG_DONE}:
                        return bodies if raw else found
                    found.append(answer)
        except NetlinkError as error:
            known, reason = os.strerror(error.code), error.args[1]
            raise OSError(error.code, known if reason == known else f"{known}: {reason}") from None
        finally:
            marshal.seq_map.pop(sequence, None)

    def links(self) -> dict[str, Link]:
        """Give all devices by name."""
        return {link.name: link for link in map(_described, self._exchange(ifinfmsg(), RTM_GETLINK, NLM_F_DUMP))}

    def link(self, name: str) -> Link | None:
        """Give one device, or None."""
        try:
            return _described(self._exchange(_filled(ifinfmsg(), [("IFLA_IFNAME", name)]), RTM_GETLINK)[0])
        except OSError as error:
            if error.errno in {errno.ENODEV, errno.ERANGE, errno.EINVAL}:
                return None
            raise

    def link_at(self, index: int) -> Link | None:
        """Give the device with this index, or None."""
        try:
            return _described(self._exchange(_filled(ifinfmsg(), index=index), RTM_GETLINK)[0])
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise

    def set_link(
        self,
        index: int,
        *,
        up: bool | None = None,
        flags: tuple[int, int] | None = None,
        mac: str | None = None,
        mtu: int | None = None,
        master: int | None = None,
        name: str | None = None,
    ) -> None:
        """Change a device; `flags` is (values, mask)."""
        values, mask = flags or (0, 0)
        if up is not None:
            values, mask = values | (IFF_UP if up else 0), mask | IFF_UP
        wanted = {"IFLA_ADDRESS": mac, "IFLA_MTU": mtu, "IFLA_MASTER": master, "IFLA_IFNAME": name}
        attrs = [(key, value) for key, value in wanted.items() if value is not None]
        self._exchange(_filled(ifinfmsg(), attrs, index=index, flags=values, change=mask), RTM_NEWLINK)

    def move_link(self, index: int, netns_fd: int, name: str) -> None:
        """Move a device to another namespace, where it is called `name`."""
        attrs = [("IFLA_NET_NS_FD", netns_fd), ("IFLA_IFNAME", name)]
        self._exchange(_filled(ifinfmsg(), attrs, index=index), RTM_NEWLINK)

    def add_veth(self, name: str, peer: str, peer_netns: int, mac: str, mtu: int) -> None:
        """Make a veth pair: one end here, the other, with this MAC, in another namespace."""
        there = [["IFLA_IFNAME", peer], ["IFLA_ADDRESS", mac], ["IFLA_MTU", mtu], ["IFLA_NET_NS_FD", peer_netns]]
        pair = {"attrs": [["VETH_INFO_PEER", {"attrs": there}]]}
        info = {"attrs": [["IFLA_INFO_KIND", "veth"], ["IFLA_INFO_DATA", pair]]}
        attrs = [("IFLA_IFNAME", name), ("IFLA_MTU", mtu), ("IFLA_LINKINFO", info)]
        self._exchange(_filled(ifinfmsg(), attrs), RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL)

    def delete_link(self, index: int) -> None:
        """Delete a device."""
        self._exchange(_filled(ifinfmsg(), index=index), RTM_DELLINK)

    def addresses(self, index: int) -> list[bytes]:
        """Give the raw bodies (struct ifaddrmsg and attributes) of a device's addresses."""
        return [body for body in self.all_addresses() if struct.unpack_from("=I", body, 4)[0] == index]

    def all_addresses(self) -> list[bytes]:
        """Give the raw bodies of every device's addresses."""
        return self._exchange(ifaddrmsg(), RTM_GETADDR, NLM_F_DUMP, raw=True)

    def add_address(self, body: bytes) -> None:
        """Add, or replace, an address from its raw body."""
        self._exchange(_filled(_Body(), body=body), RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE)

    def routes(self) -> list[bytes]:
        """Give the raw bodies (struct rtmsg and attributes) of all routes, IPv4 and IPv6."""
        return [
            body
            for family in (socket.AF_INET, socket.AF_INET6)
            for body in self._exchange(_filled(rtmsg(), family=family), RTM_GETROUTE, NLM_F_DUMP, raw=True)
        ]

    def add_route(self, body: bytes) -> None:
        """Add a route from its raw body, beside others to the same prefix."""
        self._exchange(_filled(_Body(), body=body), RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE | NLM_F_APPEND)

    def route_to(self, address: str) -> int:
        """Give the index of the device by which an address is reached; 0: it is not."""
        family, bits = (socket.AF_INET6, 128) if ":" in address else (socket.AF_INET, 32)
        question = _filled(rtmsg(), [("RTA_DST", address)], family=family, dst_len=bits)
        try:
            return self._exchange(question, RTM_GETROUTE)[0].get_attr("RTA_OIF") or 0
        except OSError:
            return 0

    def xdp(self, index: int) -> tuple[int, int]:
        """Give how an XDP program is attached to a device (XDP_ATTACHED_*), and its id; zeros without one."""
        try:
            found = self._exchange(_filled(ifinfmsg(), index=index), RTM_GETLINK)[0].get_attr("IFLA_XDP")
        except OSError as error:
            if error.errno == errno.ENODEV:
                return 0, 0
            raise
        kind = found.get_attr("IFLA_XDP_ATTACHED") if found else None
        modes = {None: 0, "xdp": 1, "xdpgeneric": 2}
        return modes.get(kind, 3), (found.get_attr("IFLA_XDP_PROG_ID") or 0) if found else 0

    def set_xdp(self, index: int, program: int, flags: int) -> None:
        """Put an XDP program (by its fd) on a device; -1 takes it off."""
        attrs = [["IFLA_XDP_FD", program], ["IFLA_XDP_FLAGS", flags]]
        self._exchange(_filled(ifinfmsg(), [("IFLA_XDP", {"attrs": attrs})], index=index), RTM_NEWLINK)

    def has_clsact(self, index: int) -> bool:
        """Tell whether a device has a clsact (or ingress) queueing discipline."""
        return any(
            found["index"] == index and found["parent"] == _CLSACT and found.get_attr("TCA_KIND") == "clsact"
            for found in self._exchange(tcmsg(), RTM_GETQDISC, NLM_F_DUMP)
        )

    def add_clsact(self, index: int) -> None:
        """Give a device a clsact queueing discipline; FileExistsError when it has one."""
        wanted = _filled(tcmsg(), [("TCA_KIND", "clsact")], index=index, handle=_CLSACT_HANDLE, parent=_CLSACT)
        self._exchange(wanted, RTM_NEWQDISC, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL)

    def delete_clsact(self, index: int) -> None:
        """Take it, and all filters on it, away."""
        self._exchange(_filled(tcmsg(), index=index, handle=_CLSACT_HANDLE, parent=_CLSACT), RTM_DELQDISC)

    def set_filter(self, index: int, priority: int, handle: int, program: int) -> None:
        """Let a BPF program (by its fd) decide on each frame that a device receives."""
        bpf = [["TCA_BPF_FD", program], ["TCA_BPF_NAME", "anabranch"], ["TCA_BPF_FLAGS", _DIRECT_ACTION]]
        attrs = [("TCA_KIND", "bpf"), ("TCA_OPTIONS", {"attrs": bpf})]
        wanted = _filled(tcmsg(), attrs, index=index, handle=handle, parent=_INGRESS, info=_info(priority))
        self._exchange(wanted, RTM_NEWTFILTER, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE)

    def delete_filter(self, index: int, priority: int, handle: int) -> None:
        """Take such a program off."""
        attrs = [("TCA_KIND", "bpf")]
        which = _filled(tcmsg(), attrs, index=index, handle=handle, parent=_INGRESS, info=_info(priority))
        self._exchange(which, RTM_DELTFILTER)


def _info(priority: int) -> int:
    return priority << 16 | _ALL_PROTOCOLS
