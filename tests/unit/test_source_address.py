"""Which of our addresses a packet of ours comes from: RFC 6724 section 5 for IPv6, Linux's way for IPv4."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from tests.unit.c_build import build

DECLARATIONS = """
struct address_entry { uint8_t address[16]; uint8_t family; uint8_t length; uint16_t interface; uint8_t flags; ...; };
struct forward;
struct forward *plane_new(const struct address_entry *addresses, uint32_t count, uint16_t out, const uint8_t *via);
void free(void *memory);
bool ip_source(struct forward *f, uint8_t family, const uint8_t *destination, uint16_t interface, uint8_t *source,
    uint16_t *egress);
"""

# Everything is reached through one interface, directly or (IPv4) by one next hop.  Flag 128
# stands for an address that did not pass duplicate address detection.
CODE = """
#include <stdlib.h>
#include <string.h>
#include "forward/route.h"

struct plane {
    struct forward f;
    struct nexthop hop;
    struct interface_entry interfaces[4];
};

static const struct plane *plane_of(const struct tables_view *view)
{
    return (const void *)((const char *)view - offsetof(struct forward, tables));
}

uint16_t fib_lookup(const struct tables_view *view, uint8_t family, const uint8_t *address) { return 1; }

const struct nexthop *nexthop_select(const struct tables_view *view, uint16_t group, uint32_t hash)
{
    return &plane_of(view)->hop;
}

bool view_range(const struct tables_view *view, uint64_t offset, uint64_t bytes) { return false; }
bool interface_up(const struct forward *f, const struct interface_entry *interface) { return true; }

bool neighbor_silent(const struct forward *f, uint16_t interface, uint8_t family, const uint8_t *address)
{
    return false;
}

void forward_trace(struct forward *f, const struct packet *packet, const char *stage, const char *format, ...) {}

const struct interface_entry *view_interface(const struct tables_view *view, uint16_t index)
{
    return index != 0 && index < 4 ? &plane_of(view)->interfaces[index] : NULL;
}

static const struct address_entry *find(const struct tables_view *view, const uint8_t *address, uint16_t interface)
{
    for (uint32_t i = 0; i < view->address_count; i++) {
        const struct address_entry *entry = &view->addresses[i];
        if (memcmp(entry->address, address, 16) == 0 && (interface == 0 || entry->interface == interface))
            return entry;
    }
    return NULL;
}

const struct address_entry *view_address(const struct tables_view *view, uint8_t family, const uint8_t *address,
    uint16_t interface)
{
    return family == FAMILY_IPV6 ? find(view, address, interface) : NULL;
}

bool address_usable(const struct forward *f, uint8_t family, const uint8_t *address, uint16_t interface)
{
    const struct address_entry *entry = find(&f->tables, address, interface);
    return entry != NULL && (entry->flags & 128) == 0;
}

static struct forward *plane_new(const struct address_entry *addresses, uint32_t count, uint16_t out,
    const uint8_t *via)
{
    struct plane *plane = calloc(1, sizeof *plane);
    for (uint16_t i = 1; i < 4; i++)
        plane->interfaces[i].index = i;
    plane->f.tables.addresses = addresses;
    plane->f.tables.address_count = count;
    plane->hop.kind = via != NULL ? NEXTHOP_FORWARD : NEXTHOP_CONNECTED;
    plane->hop.interface = out;
    if (via != NULL) {
        plane->hop.family = FAMILY_IPV4;
        memcpy(plane->hop.via, via, 4);
    }
    return &plane->f;
}
"""

REFUSED = 128


@pytest.fixture(scope="module")
def module() -> Any:
    return build("source_address_test", ("forward/route.c",), DECLARATIONS, CODE)


def source(
    module: Any, addresses: list[tuple[str, int, int]], destination: str, *, via: str | None = None, interface: int = 0
) -> str | None:
    """Ask for the source towards a destination; all routes lead to interface 1."""
    ffi = module.ffi
    entries = ffi.new("struct address_entry[]", len(addresses) + 1)
    for entry, (text, index, flags) in zip(entries, addresses, strict=False):
        parsed = ipaddress.ip_interface(text)
        ffi.buffer(entry.address)[: len(parsed.packed)] = parsed.packed
        entry.family, entry.length, entry.interface, entry.flags = (
            parsed.version,
            parsed.network.prefixlen,
            index,
            flags,
        )
    target = ipaddress.ip_address(destination)
    hop = ffi.NULL if via is None else ipaddress.ip_address(via).packed
    plane = ffi.gc(module.lib.plane_new(entries, len(addresses), 1, hop), module.lib.free)
    chosen, egress = ffi.new("uint8_t[16]"), ffi.new("uint16_t *")
    if not module.lib.ip_source(plane, target.version, target.packed.ljust(16, b"\0"), interface, chosen, egress):
        return None
    assert egress[0] == (interface or 1)
    return str(ipaddress.ip_address(bytes(chosen)[: len(target.packed)]))


A, B = ("2001:db8:a::1/64", 1, 0), ("2001:db8:b::1/64", 1, 0)
UNIQUE, SIX_TO_FOUR = ("fd00:1::1/64", 1, 0), ("2002:a00:1::1/64", 1, 0)
LOCAL, OTHER_LOCAL = ("fe80::1/64", 1, 0), ("fe80::2/64", 2, 0)
ELSEWHERE = ("2001:db8:c::1/64", 2, 0)


@pytest.mark.parametrize(
    ("addresses", "destination", "expected"),
    [
        ([A, LOCAL], "2001:db8:ff::1", "2001:db8:a::1"),  # rule 2: wide enough
        ([LOCAL, A], "2001:db8:ff::1", "2001:db8:a::1"),
        ([A, B], "2001:db8:b::9", "2001:db8:b::1"),  # rule 8: longest match
        ([B, A], "2001:db8:b::9", "2001:db8:b::1"),
        ([A, B], "2001:db8:a:1::9", "2001:db8:a::1"),
        ([ELSEWHERE, A], "2001:db8:c::9", "2001:db8:a::1"),  # rule 5: outgoing interface
        ([ELSEWHERE, LOCAL], "2001:db8:ff::1", "2001:db8:c::1"),  # but scope comes first
        ([A, ("2001:db8:b::1/64", 1, REFUSED)], "2001:db8:b::9", "2001:db8:a::1"),  # rule 3
        ([UNIQUE, A], "2002:a00:1::9", "2001:db8:a::1"),  # rule 6: of two other labels the longer match
        ([A, SIX_TO_FOUR], "2002:a00:1::9", "2002:a00:1::1"),  # rule 6: same label
        ([SIX_TO_FOUR, A], "2001:db8:ff::1", "2001:db8:a::1"),
        ([A, UNIQUE], "fd00:9::9", "fd00:1::1"),
        ([UNIQUE, A], "2001:db8:ff::1", "2001:db8:a::1"),
        ([("2001:db8::1/128", 1, 0), ("2001:0:1::1/64", 1, 0)], "2001:0:2::2", "2001:0:1::1"),  # Teredo
        ([SIX_TO_FOUR, ELSEWHERE], "2001:db8:c::9", "2002:a00:1::1"),  # rule 5 comes before
        ([OTHER_LOCAL], "2001:db8:ff::1", None),  # of another link
        ([OTHER_LOCAL, LOCAL], "2001:db8:ff::1", "fe80::1"),  # better than nothing
        ([], "2001:db8:ff::1", None),
        ([("2001:db8:a::1/64", 1, REFUSED)], "2001:db8:ff::1", None),
    ],
)
def test_ipv6(module: Any, addresses: list[tuple[str, int, int]], destination: str, expected: str | None) -> None:
    assert source(module, addresses, destination) == expected


@pytest.mark.parametrize("destination", ["fe80::9", "ff02::1"])
def test_ipv6_on_the_link(module: Any, destination: str) -> None:
    assert source(module, [A, LOCAL, OTHER_LOCAL], destination, interface=1) == "fe80::1"
    assert source(module, [A, LOCAL, OTHER_LOCAL], destination, interface=2) == "fe80::2"
    assert source(module, [A, OTHER_LOCAL], destination, interface=1) == "2001:db8:a::1"
    assert source(module, [ELSEWHERE], destination, interface=1) is None


def test_ipv6_multicast_beyond_the_link_prefers_its_scope(module: Any) -> None:
    assert source(module, [LOCAL, A], "ff0e::1", interface=1) == "2001:db8:a::1"


def test_ipv6_site_local_has_its_own_scope(module: Any) -> None:
    site = ("fec0::1/64", 1, 0)
    assert source(module, [A, site], "fec0::9") == "fec0::1"
    assert source(module, [site, A], "2001:db8:ff::1") == "2001:db8:a::1"
    assert source(module, [LOCAL, site, A], "ff05::1", interface=1) == "fec0::1"


def test_ipv6_to_ourselves_comes_from_the_same_address(module: Any) -> None:
    assert source(module, [A, LOCAL], "fe80::1", interface=1) == "fe80::1"


FIRST, SECOND = ("10.0.0.1/24", 1, 0), ("10.0.5.1/24", 1, 0)
LOOPBACK = ("192.0.2.1/32", 2, 0)


@pytest.mark.parametrize(
    ("addresses", "destination", "via", "expected"),
    [
        ([FIRST, SECOND], "10.0.0.9", None, "10.0.0.1"),
        ([FIRST, SECOND], "10.0.5.9", None, "10.0.5.1"),
        ([FIRST, SECOND], "8.8.8.8", "10.0.5.254", "10.0.5.1"),  # the subnet of the next hop
        ([SECOND, FIRST], "8.8.8.8", "10.9.9.9", "10.0.5.1"),  # else the first of the interface
        ([LOOPBACK, FIRST], "8.8.8.8", "10.9.9.9", "10.0.0.1"),
        ([LOOPBACK], "8.8.8.8", "10.9.9.9", "192.0.2.1"),  # unnumbered
        ([("10.0.0.1/24", 1, REFUSED), SECOND], "10.0.0.9", None, "10.0.5.1"),
        ([A], "8.8.8.8", None, None),
    ],
)
def test_ipv4(
    module: Any, addresses: list[tuple[str, int, int]], destination: str, via: str | None, expected: str | None
) -> None:
    assert source(module, addresses, destination, via=via) == expected
