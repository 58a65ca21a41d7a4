"""Addresses and prefixes as tuples of numbers: (family, value) and (family, value, length).

A tuple is made, hashed and compared twenty times as fast as an object of `ipaddress`, which
is used at the edges only, to read and to print text.  The family is 4 or 6, as in shared memory.

Link-local addresses from a MAC: RFC 4291, appendix A.  Scopes ("%eth0") are not supported.
"""

from __future__ import annotations

import ipaddress
from typing import Final, NamedTuple

IPV4: Final = 4
IPV6: Final = 6
BITS: Final = {IPV4: 32, IPV6: 128}
_LINK_LOCAL: Final = 0xFE80 << 112
_UNIVERSAL_BIT: Final = 1 << 57


class Address(NamedTuple):
    """An IP address."""

    family: int
    value: int

    def __str__(self) -> str:
        """Give the text that `ipaddress` gives."""
        return _text(self.family, self.value)


class Prefix(NamedTuple):
    """An IP prefix; the bits after `length` are zero."""

    family: int
    value: int
    length: int

    def __str__(self) -> str:
        """Give "ADDRESS/LENGTH"."""
        return f"{_text(self.family, self.value)}/{self.length}"


def _text(family: int, value: int) -> str:
    return str(ipaddress.IPv4Address(value) if family == IPV4 else ipaddress.IPv6Address(value))


def parse_address(text: str) -> Address:
    """Read an address.  Raises ValueError."""
    address = ipaddress.ip_address(text)
    return Address(address.version, int(address))


def parse_prefix(text: str) -> Prefix:
    """Read a prefix whose host bits are zero.  Raises ValueError."""
    network = ipaddress.ip_network(text)
    return Prefix(network.version, int(network.network_address), network.prefixlen)


def parse_interface_address(text: str) -> tuple[Address, int]:
    """Read "10.0.0.1/24" as the address and the length of its connected prefix.  Raises ValueError."""
    interface = ipaddress.ip_interface(text)
    return Address(interface.version, int(interface.ip)), interface.network.prefixlen


def mask(family: int, length: int) -> int:
    """Give the net mask as a number."""
    bits = BITS[family]
    return ((1 << length) - 1) << (bits - length)


def network(address: Address, length: int) -> Prefix:
    """Give the prefix of `length` bits that `address` is in."""
    return Prefix(address.family, address.value & mask(address.family, length), length)


def host_prefix(address: Address) -> Prefix:
    """Give the prefix that holds `address` alone."""
    return Prefix(address.family, address.value, BITS[address.family])


def last_address(prefix: Prefix) -> Address:
    """Give the address with all host bits set: in IPv4 the directed broadcast."""
    return Address(prefix.family, prefix.value | ~mask(prefix.family, prefix.length) & ((1 << BITS[prefix.family]) - 1))


def is_link_local(address: Address) -> bool:
    """Tell whether an IPv6 address is in fe80::/10."""
    return address.family == IPV6 and address.value >> 118 == _LINK_LOCAL >> 118


def is_loopback(address: Address) -> bool:
    """Tell whether an address is in 127.0.0.0/8, or ::1."""
    return address.value == 1 if address.family == IPV6 else address.value >> 24 == 127


def link_local(mac: bytes) -> Address:
    """Form the link-local address of an interface from its MAC (modified EUI-64)."""
    eui = int.from_bytes(mac[:3] + b"\xff\xfe" + mac[3:], "big") ^ _UNIVERSAL_BIT
    return Address(IPV6, _LINK_LOCAL | eui)


def packed(family: int, value: int) -> bytes:
    """Give the 16 bytes of shared memory: network order, IPv4 in the first four."""
    return value.to_bytes(4, "big") + bytes(12) if family == IPV4 else value.to_bytes(16, "big")


def parse_mac(text: str) -> bytes:
    """Read "02:00:00:00:00:01".  Raises ValueError."""
    parts = text.split(":")
    if len(parts) != 6 or any(len(part) != 2 for part in parts):
        raise ValueError(f"not a MAC address: {text!r}")
    return bytes.fromhex("".join(parts))


def mac_text(mac: bytes) -> str:
    """Print a MAC address."""
    return mac.hex(":")
