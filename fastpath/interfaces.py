"""The interfaces and addresses that a control has published in its tables segment, read without C.

    tables_segment.root --> tables_root (immutable) --> interface_entry[], address_entry[]

The root may be replaced while we read: whoever sees it changed afterwards reads again.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final

from fastpath._layout import CONSTANTS, SIZES
from fastpath.segment import Segment, View

ATTEMPTS: Final = 16
MOST: Final = {"interface_entry": CONSTANTS["MAX_INTERFACES"], "address_entry": CONSTANTS["MAX_ADDRESSES"]}
_KINDS: Final = {
    CONSTANTS["INTERFACE_ETHERNET"]: "ethernet",
    CONSTANTS["INTERFACE_VLAN"]: "vlan",
    CONSTANTS["INTERFACE_LOOPBACK"]: "loopback",
}


@dataclass(frozen=True)
class Published:
    """One interface as published."""

    index: int
    name: str
    kind: str  # ethernet, vlan or loopback
    port: int
    vlan: int
    admin_up: bool
    mtu: int
    mac: str
    addresses: tuple[str, ...]  # "10.0.0.1/24"


def published(tables: Segment) -> list[Published]:
    """Give the published interfaces in the order of their indices; empty before the first publication."""
    for _ in range(ATTEMPTS):
        offset = tables.integer("root")
        if not offset:
            return []
        try:
            found = _read(tables, offset)
        except ValueError:  # led outside the segment: replaced under our hands, or broken
            found = []
        if tables.integer("root") == offset:
            return found
    return []


def names(tables: Segment) -> dict[int, str]:
    """Map interface indices to names."""
    return {interface.index: interface.name for interface in published(tables)}


def _read(tables: Segment, offset: int) -> list[Published]:
    root = tables.at("tables_root", offset)
    interfaces = _array(tables, root.integer("interfaces"), root.integer("interface_count"), "interface_entry")
    entries = _array(tables, root.integer("addresses"), root.integer("address_count"), "address_entry")
    addresses: dict[int, list[str]] = {}
    for entry in entries:
        size = 4 if entry.integer("family") == CONSTANTS["FAMILY_IPV4"] else 16
        address = ipaddress.ip_address(entry.octets("address")[:size])
        addresses.setdefault(entry.integer("interface"), []).append(f"{address}/{entry.integer('length')}")
    return sorted((_interface(view, addresses) for view in interfaces), key=lambda interface: interface.index)


def _array(tables: Segment, start: int, count: int, name: str) -> list[View]:
    size = SIZES[name]
    return [tables.at(name, start + position * size) for position in range(min(count, MOST[name]))]


def _interface(view: View, addresses: dict[int, list[str]]) -> Published:
    index = view.integer("index")
    return Published(
        index=index,
        name=view.text("name"),
        kind=_KINDS.get(view.integer("kind"), str(view.integer("kind"))),
        port=view.integer("port"),
        vlan=view.integer("vlan"),
        admin_up=bool(view.integer("flags") & CONSTANTS["INTERFACE_ADMIN_UP"]),
        mtu=view.integer("mtu"),
        mac=view.octets("mac").hex(":"),
        addresses=tuple(addresses.get(index, ())),
    )
