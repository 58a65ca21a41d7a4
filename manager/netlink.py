"""Links, addresses, routes and classifiers of one network namespace, by rtnetlink (RFC 3549) and pyroute2.

pyroute2 speaks: its socket, its messages, its parser.  IPRoute, its class for whole programs, starts an
event loop for each socket, ten times what a question costs; IPRSocket, made for poll loops like ours,
needs none.  The kernel answers each request within the call, so a blocking exchange waits for nobody.

Addresses and routes that are given back later stay what the kernel sent, byte for byte: messages that
pyroute2 has decoded and encoded again lack the attributes that it does not know.  attribute() and
attributes() are for changing those bytes, and for nothing else.
"""

from __future__ import annotations

import errno
import itertools
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Self

from pyroute2 import IPRSocket
from pyroute2.netlink import NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE
from pyroute2.netlink import NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, nlmsg
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import RTM_DELADDR, RTM_DELLINK, RTM_DELQDISC, RTM_DELTFILTER, RTM_GETADDR, RTM_GETLINK
from pyroute2.netlink.rtnl import RTM_GETQDISC, RTM_GETROUTE, RTM_NEWADDR, RTM_NEWLINK, RTM_NEWQDISC, RTM_NEWROUTE
from pyroute2.netlink.rtnl import RTM_NEWTFILTER
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

# Bytes of addresses and routes: struct ifaddrmsg, struct rtmsg and some of their attributes.
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
_ATTRIBUTE: Final = struct.Struct("=HH")
_PATIENCE: Final = 5.0

type_of_address = socket.AF_INET6


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


class _Body(nlmsg):  # type: ignore[misc]  # pyroute2 has no types
    """A message whose body is kept as bytes."""

    fields = (("body", "s"),)


def _link(message: Any) -> Link:
    mac = message.get_attr("IFLA_ADDRESS") or ""
    return Link(
        index=message["index"],
        name=message.get_attr("IFLA_IFNAME") or "",
        mac=mac if len(mac) == len("00:00:00:00:00:00") else "00:00:00:00:00:00",
        mtu=message.get_attr("IFLA_MTU") or 0,
        flags=message["flags"],
        master=message.get_attr("IFLA_MASTER") or 0,
        carrier=bool(message.get_attr("IFLA_CARRIER")),
        promiscuity=message.get_attr("IFLA_PROMISCUITY") or 0,
        kind=message.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") or "",
        lower=message.get_attr("IFLA_LINK") or 0,
    )


def _message[T](kind: type[T], attrs: Iterable[tuple[str, Any]] = (), **fields: Any) -> T:
    raise NotImplementedError
