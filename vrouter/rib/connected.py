"""The routes that the addresses of a VR's interfaces stand for.

Each address: itself (LOCAL) and its prefix (CONNECTED).  IPv4: network and broadcast address of the prefix
(BROADCAST; RFC 919, RFC 1812 section 5.3.5), not for /31 (RFC 3021) and /32.  IPv6: the subnet-router
anycast address is ours too (RFC 4291 section 2.6.1), not for /127 (RFC 6164) and /128; an interface with
any IPv6 address has a link-local one, formed from its MAC unless configured.  fe80::/64 is on every
interface, so the interface decides and no route is needed.  A loopback has addresses only.

Every router has 127.0.0.0/8 and ::1 on the loopback `lo`, as every host (RFC 1122 section 3.2.1.3, RFC 4291
section 2.5.3); where the configuration has no `lo`, `with_loopback` adds it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from vrouter.config.constraints import MAX_ROUTER_INTERFACES
from vrouter.config.router import Interface
from vrouter.net.address import (
    BITS,
    IPV4,
    IPV6,
    Address,
    Prefix,
    host_prefix,
    is_link_local,
    is_loopback,
    last_address,
    link_local,
    network,
    parse_interface_address,
    parse_mac,
)
from vrouter.rib.route import PREFERENCE, Hop, HopKind, Protocol, Route

LOOPBACK: Final = "lo"
_LOOPBACK_MTU: Final = 65535
_OWN: Final = ("127.0.0.1/8", "::1/128")
_LINK_LOCAL_LENGTH: Final = 64
_DERIVED: Final = "~"  # sorts after every name


@dataclass(frozen=True, slots=True)
class InterfaceAddress:
    """An address on an interface, as the forwarder needs it."""

    interface: str
    address: Address
    length: int
    link_local: bool = False
    loopback: bool = False


def with_loopback(interfaces: tuple[Interface, ...]) -> tuple[Interface, ...]:
    """Give the interfaces of a router, and `lo` where none has the name and there is room."""
    if any(interface.name == LOOPBACK for interface in interfaces) or len(interfaces) >= MAX_ROUTER_INTERFACES:
        return interfaces
    return (*interfaces, Interface(LOOPBACK, "loopback", mtu=_LOOPBACK_MTU))


def own_addresses(interfaces: Iterable[Interface]) -> list[InterfaceAddress]:
    """Give the addresses by which a router speaks to itself; none where `lo` is the name of a device."""
    if not any(interface.name == LOOPBACK and interface.kind == "loopback" for interface in interfaces):
        return []
    return [InterfaceAddress(LOOPBACK, *parse_interface_address(text), loopback=True) for text in _OWN]


def addresses(interface: Interface) -> list[InterfaceAddress]:
    """Give the addresses of an interface, the link-local one that follows from them included."""
    loopback = interface.kind == "loopback"
    found = []
    for text in interface.addresses:
        address, length = parse_interface_address(text)
        found.append(InterfaceAddress(interface.name, address, length, is_link_local(address), loopback))
    has_ipv6 = any(entry.address.family == IPV6 for entry in found)
    if has_ipv6 and not loopback and not any(entry.link_local for entry in found):
        own = link_local(parse_mac(interface.mac))
        found.append(InterfaceAddress(interface.name, own, _LINK_LOCAL_LENGTH, link_local=True))
    return found


def routes(entry: InterfaceAddress) -> list[Route]:
    """Give the routes that an address stands for."""
    # A link-local address may stand on several interfaces: any of them will do for LOCAL.
    ours = network(entry.address, entry.length) if is_loopback(entry.address) else host_prefix(entry.address)
    found = [_route(ours, Protocol.LOCAL, HopKind.LOCAL, entry)]
    if entry.link_local or entry.loopback:
        return found
    family, length = entry.address.family, entry.length
    prefix = network(entry.address, length)
    if length < BITS[family]:
        found.append(_route(prefix, Protocol.CONNECTED, HopKind.CONNECTED, entry))
    if length < BITS[family] - 1:
        first = Address(family, prefix.value)
        if family == IPV4:
            found.append(_route(host_prefix(first), Protocol.LOCAL, HopKind.BROADCAST, entry, _DERIVED))
            found.append(_route(host_prefix(last_address(prefix)), Protocol.LOCAL, HopKind.BROADCAST, entry, _DERIVED))
        elif first != entry.address:
            found.append(_route(host_prefix(first), Protocol.LOCAL, HopKind.LOCAL, entry, _DERIVED))
    return found


def _route(prefix: Prefix, protocol: Protocol, kind: HopKind, entry: InterfaceAddress, mark: str = "") -> Route:
    # Where two interfaces offer the same, an address comes before a derived one, then names decide.
    return Route(prefix, protocol, (Hop(kind, entry.interface),), PREFERENCE[protocol], source=mark + entry.interface)
