"""Addresses and prefixes as constraints on configuration values (constraints.py).

Not supported: scoped addresses ("fe80::1%eth0"), IPv4 net masks in dotted form.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Any, Final

from vrouter.config.constraints import InvalidError, clip

_LENGTH: Final = re.compile(r"0|[1-9][0-9]{0,2}")


@dataclass(frozen=True)
class InterfaceAddress:
    """An address of an interface with the length of its prefix, "10.0.0.1/24"."""

    def parse(self, text: str) -> str:
        """Give the canonical text."""
        address, slash, length = text.partition("/")
        ip = _parse_ip(address)
        if not slash:
            likely = 24 if ip.version == 4 else 64
            raise InvalidError(
                f"'{text}' has no prefix length", f"write {ip}/{likely}, or {ip}/{ip.max_prefixlen} for a host alone"
            )
        bits = _parse_length(length, ip.max_prefixlen)
        _refuse_special(ip)
        network = _network(ip, bits)
        if ip.version == 4 and bits < 31 and ip in {network.network_address, network.broadcast_address}:
            what = "network" if ip == network.network_address else "broadcast"
            first = network.network_address + 1
            raise InvalidError(
                f"{ip}/{bits} is the {what} address of {network}",
                f"hosts are {first} to {network.broadcast_address - 1}",
            )
        return f"{ip}/{bits}"

    def json_schema(self) -> dict[str, Any]:
        """Describe it."""
        return {"type": "string", "pattern": "^[0-9A-Fa-f:.]+/[0-9]+$"}


@dataclass(frozen=True)
class IpAddress:
    """An address that packets can be sent to."""

    loopback: bool = False  # the router itself will do too, as 127.0.0.1 or ::1

    def parse(self, text: str) -> str:
        """Give the canonical text."""
        if "/" in text:
            raise InvalidError(
                f"'{clip(text)}' is not an address", f"write {clip(text.partition('/')[0])}, without a length"
            )
        ip = _parse_ip(text)
        if not (self.loopback and ip.is_loopback):
            _refuse_special(ip)
        return str(ip)

    def json_schema(self) -> dict[str, Any]:
        """Describe it."""
        return {"type": "string", "pattern": "^[0-9A-Fa-f:.]+$"}


@dataclass(frozen=True)
class Ipv4Address:
    """Four numbers with dots: a neighbor's unicast address; with `any_value` an id, that means what it likes."""

    any_value: bool = False

    def parse(self, text: str) -> str:
        """Give the canonical text."""
        ip = _parse_ip(text)
        if not isinstance(ip, ipaddress.IPv4Address):
            raise InvalidError(f"{ip} is not of IPv4", "write it as 10.0.0.1")
        if not self.any_value and (ip.is_multicast or ip.is_unspecified or int(ip) == 2**32 - 1):
            raise InvalidError(f"{ip} cannot stand for one router")
        return str(ip)

    def json_schema(self) -> dict[str, Any]:
        """Describe it."""
        return {"type": "string", "pattern": r"^[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+$"}


@dataclass(frozen=True)
class IpPrefix:
    """A prefix, "10.0.0.0/8"; an address alone is not one."""

    def parse(self, text: str) -> str:
        """Give the canonical text."""
        address, slash, length = text.partition("/")
        ip = _parse_ip(address)
        if not slash:
            raise InvalidError(f"'{text}' has no prefix length", f"write {ip}/{ip.max_prefixlen} for one address")
        bits = _parse_length(length, ip.max_prefixlen)
        network = _network(ip, bits)
        if network.network_address != ip:
            raise InvalidError(f"the prefix {text} has host bits set", f"write {network}")
        return str(network)

    def json_schema(self) -> dict[str, Any]:
        """Describe it."""
        return {"type": "string", "pattern": "^[0-9A-Fa-f:.]+/[0-9]+$"}


@dataclass(frozen=True)
class Mac:
    """A unicast MAC address."""

    def parse(self, text: str) -> str:
        """Give the canonical text: lower case, colons."""
        if not re.fullmatch(r"[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}", text):
            raise InvalidError(
                f"'{clip(text)}' is not a MAC address", "six pairs of hexadecimal digits, as 02:00:00:00:00:01"
            )
        mac = bytes.fromhex(text.replace(":", "").replace("-", ""))
        if mac[0] & 1:
            raise InvalidError(
                f"{text} is a group address", "an interface needs a unicast MAC: the first byte must be even"
            )
        if not any(mac):
            raise InvalidError(f"{text} is no address of an interface")
        return mac.hex(":")

    def json_schema(self) -> dict[str, Any]:
        """Describe it."""
        return {"type": "string", "pattern": "^[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}$"}


def _parse_ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    if "%" in text:
        raise InvalidError(
            f"'{clip(text)}' has a scope", "write the address without '%', and name the interface beside it"
        )
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        reason = "a byte ends at 255" if re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,3}){3}", text) else ""
        if re.fullmatch(r"[0-9.]*\b0[0-9]+\b[0-9.]*", text):
            reason = "write numbers without leading zeros"
        raise InvalidError(f"'{clip(text)}' is not an IP address", reason) from None


def _network(
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address, length: int
) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    if ip.version == 4:
        return ipaddress.IPv4Network((int(ip), length), strict=False)
    return ipaddress.IPv6Network((int(ip), length), strict=False)


def _parse_length(text: str, limit: int) -> int:
    if not _LENGTH.fullmatch(text) or int(text) > limit:
        raise InvalidError(f"'/{clip(text)}' is not a prefix length", f"a number from 0 to {limit}")
    return int(text)


def _refuse_special(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """Refuse what cannot be the address of one interface (RFC 1812 section 5.3.7, RFC 4291)."""
    mapped = ip.version == 6 and ip.ipv4_mapped is not None
    this_net = ip.version == 4 and (int(ip) >> 24 == 0 or int(ip) >> 28 == 15)
    for wrong, what in (
        (ip.is_multicast, "a multicast address"),
        (ip.is_unspecified, "the unspecified address"),
        (ip.is_loopback, "a loopback address of hosts"),
        (mapped, "an IPv4-mapped address"),
        (this_net, "in a reserved block"),
    ):
        if wrong:
            raise InvalidError(f"{ip} is {what}", "an interface needs a unicast address")
