"""Rules of the socket layer, published to a VR in this process as its control would."""

from __future__ import annotations

import ipaddress

from fastpath._layout import CONSTANTS
from fastpath.binding import check, ffi, lib
from fastpath.tables import RuleEntry, _pack_rule
from tests.unit.apps import World


def prefixes(*texts: str) -> tuple[tuple[int, int, int], ...]:
    """Give prefixes as a rule holds them."""
    networks = map(ipaddress.ip_network, texts)
    return tuple((network.version, int(network.network_address), network.prefixlen) for network in networks)


def publish(red: World, *rules: RuleEntry) -> None:
    """Publish rules beside the interfaces and addresses that stand."""
    red.stop()
    packed = b"".join(_pack_rule(rule) for rule in rules)
    entries = ffi.new("struct rule_entry[]", max(len(rules), 1))
    ffi.memmove(entries, packed, len(packed))
    router = red.router
    interfaces = ffi.new("struct interface_entry[]", len(router.interfaces))
    addresses = ffi.new("struct address_entry[]", 16)
    count = 0
    for entry, interface in zip(interfaces, router.interfaces.values(), strict=True):
        entry.index, entry.port, entry.kind = router.index(interface.name), interface.port, interface.kind
        entry.flags = CONSTANTS["INTERFACE_ADMIN_UP"]
        entry.mtu, entry.mac, entry.name = interface.mtu, interface.mac, interface.name.encode()
        for text in interface.addresses:
            router._fill_address(addresses[count], interface, text)
            count += 1
    check(lib.table_writer_publish(router._writer, interfaces, len(interfaces), addresses, count, entries, len(rules)))
    red.start_again()
