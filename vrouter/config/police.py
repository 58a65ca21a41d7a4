"""Rates in the configuration: policers of interfaces, and what may reach the control plane.

    interfaces: {wan: {device: eth1, police: {in: 100Mbps, out: {rate: 1Gbps, burst: 128KiB}}}}
    control-plane: {echo: 100/s, syn: {rate: 5000/s, burst: 1000}, app: none}

Rates and sizes stay texts in one form; `Rate.number` and `Size.number` say what they mean.
"""

# ruff: noqa: RUF009 - option() makes a field, not a default
from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Annotated, Any, Final, Literal

from vrouter.config.constraints import Integer, InvalidError, OrKey, clip
from vrouter.config.option import Impact, option

NONE: Final = "none"
MAX_RATE: Final = 10**12
MAX_BURST: Final = 2**32
_DECIMAL: Final = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}
_BINARY: Final = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_RATE: Final = re.compile(r"([0-9]{1,12})([kMG]?)(bps|/s|pps)")
_SIZE: Final = re.compile(r"([0-9]{1,12})(KiB|MiB|GiB)?")
Unit = Literal["bits", "packets"]


def _shortest(value: int, units: dict[str, int]) -> str:
    """Write a number with the largest unit that leaves it whole."""
    unit = max((name for name, size in units.items() if value % size == 0), key=units.__getitem__)
    return f"{value // units[unit]}{unit}"


@dataclass(frozen=True)
class Rate:
    """A rate, `100Mbps` or `5000/s` (packets); of packets alone, or `none` too, where that is said."""

    packets_only: bool = False
    or_none: bool = False

    def parse(self, text: str) -> str:
        """Give it in its shortest form."""
        if self.or_none and text == NONE:
            return NONE
        found = _RATE.fullmatch(text)
        example = "5000/s" if self.packets_only else "100Mbps, or 5000/s for packets"
        if found is None or (self.packets_only and found[3] == "bps"):
            raise InvalidError(f"'{clip(text)}' is not a rate", f"write {example}")
        value = int(found[1]) * _DECIMAL[found[2]]
        if not 1 <= value <= MAX_RATE:
            raise InvalidError(f"{text} is not within 1 to {MAX_RATE} a second")
        return f"{_shortest(value, _DECIMAL)}bps" if found[3] == "bps" else f"{value}/s"

    def json_schema(self) -> dict[str, Any]:
        """Describe it."""
        units = "(/s|pps)" if self.packets_only else "(bps|/s|pps)"
        return {"type": "string", "pattern": f"^[0-9]+[kMG]?{units}$" + (f"|^{NONE}$" if self.or_none else "")}

    @staticmethod
    def number(text: str) -> tuple[int, Unit]:
        """Give the number a second, 0 for `none`, and of what."""
        found = _RATE.fullmatch(text)
        if found is None:
            return 0, "packets"
        return int(found[1]) * _DECIMAL[found[2]], "bits" if found[3] == "bps" else "packets"


@dataclass(frozen=True)
class Size:
    """A number of bytes, `128KiB`; or of packets, without a unit."""

    def parse(self, text: str) -> str:
        """Give it in its shortest form."""
        found = _SIZE.fullmatch(text)
        if found is None:
            raise InvalidError(f"'{clip(text)}' is not a size", "write a number, alone or with KiB, MiB or GiB")
        value = int(found[1]) * _BINARY[found[2] or ""]
        if not 1 <= value <= MAX_BURST:
            raise InvalidError(f"{text} is not within 1 to {MAX_BURST}")
        return _shortest(value, _BINARY)

    def json_schema(self) -> dict[str, Any]:
        """Describe it."""
        pattern = "^[0-9]+(KiB|MiB|GiB)?$"
        return {
            "anyOf": [{"type": "integer", "minimum": 1, "maximum": MAX_BURST}, {"type": "string", "pattern": pattern}]
        }

    @staticmethod
    def number(text: str) -> int:
        """Give the bytes or packets."""
        found = _SIZE.fullmatch(text)
        return int(found[1]) * _BINARY[found[2] or ""] if found else 0


@dataclass(frozen=True, kw_only=True)
class Policer:
    """How much an interface carries in one direction; a rate alone stands for a map with that key.

    One rate and two colors (RFC 2697 without an excess burst): what is more is dropped.
    """

    rate: Annotated[str, Rate()] = option("Bits (of IP packets) or packets a second.", Impact.LIVE, example="100Mbps")
    burst: Annotated[str, Size()] | None = option(
        "How much may come at once after a pause: bytes, or packets where the rate counts those; by default what the"
        " rate makes in 20 ms, 64 KiB or 64 packets at least.",
        Impact.LIVE,
        None,
        "128KiB",
    )

    def numbers(self) -> tuple[int, int, Unit]:
        """Give rate, burst and what is counted."""
        rate, unit = Rate.number(self.rate)
        if self.burst is not None:
            return rate, Size.number(self.burst), unit
        return (rate, max(rate // 400, 65536), unit) if unit == "bits" else (rate, max(rate // 50, 64), unit)


@dataclass(frozen=True, kw_only=True)
class Police:
    """The policers of an interface."""

    in_: Annotated[Policer, OrKey("rate")] | None = option("What comes in.", Impact.LIVE, None, "100Mbps")
    out: Annotated[Policer, OrKey("rate")] | None = option("What goes out.", Impact.LIVE, None, "1Gbps")


@dataclass(frozen=True, kw_only=True)
class ControlClass:
    """How much of a class the router works on; a rate alone stands for a map with that key."""

    rate: Annotated[str, Rate(packets_only=True, or_none=True)] | None = option(
        "Packets a second that come in on one interface; `none` is no limit.  Built in: see the manual.",
        Impact.LIVE,
        None,
        "1000/s",
    )
    burst: Annotated[int, Integer(1, 10**9)] | None = option(
        "Packets at once after a pause; by default what a rate that is written makes in 200 ms, 10 at least.",
        Impact.LIVE,
        None,
        "200",
    )


_Class = Annotated[ControlClass, OrKey("rate")]
# Rate and burst, in packets.  In the order of enum control_class (abi/police.h); a unit test compares.
DEFAULTS: Final[dict[str, tuple[int, int]]] = {
    "neighbor": (5_000, 2_000),
    "resolve": (1_000, 1_000),
    "bfd": (100_000, 20_000),
    "bgp": (500_000, 100_000),
    "routing": (10_000, 5_000),
    "echo": (20_000, 5_000),
    "error": (10_000, 2_000),
    "fragment": (20_000, 5_000),
    "options": (2_000, 500),
    "syn": (50_000, 10_000),
    "tcp": (1_000_000, 200_000),
    "group": (50_000, 10_000),
    "app": (500_000, 100_000),
}


@dataclass(frozen=True, kw_only=True)
class ControlPlane:
    """How much a router works on beyond forwarding, for each interface that it comes from."""

    neighbor: _Class = option("ARP and neighbor discovery that nobody waits for.", Impact.LIVE, ControlClass())
    resolve: _Class = option("Transit to neighbors that are not known yet.", Impact.LIVE, ControlClass())
    bfd: _Class = option("BFD.", Impact.LIVE, ControlClass())
    bgp: _Class = option("BGP of configured neighbors.", Impact.LIVE, ControlClass())
    routing: _Class = option(
        "OSPF, RIP, PIM, VRRP, IGMP, MLD and router discovery, of the link.", Impact.LIVE, ControlClass()
    )
    echo: _Class = option("ICMP echo requests for the router.", Impact.LIVE, ControlClass())
    error: _Class = option("Packets about which an ICMP error may be sent.", Impact.LIVE, ControlClass())
    fragment: _Class = option("Fragments for the router.", Impact.LIVE, ControlClass())
    options: _Class = option("Packets with IPv4 options or IPv6 hop-by-hop options.", Impact.LIVE, ControlClass())
    syn: _Class = option("TCP connections that somebody wants to open.", Impact.LIVE, ControlClass())
    tcp: _Class = option("Other TCP segments for the router.", Impact.LIVE, ControlClass())
    group: _Class = option("Multicast that programs have joined, and broadcast.", Impact.LIVE, ControlClass())
    app: _Class = option("All else for the router.", Impact.LIVE, ControlClass())

    def numbers(self) -> Iterator[tuple[int, int]]:
        """Give rate and burst of each class in the order of `enum control_class`; 0 is no limit."""
        for each in fields(self):
            written: ControlClass = getattr(self, each.name)
            rate, burst = DEFAULTS[each.name]
            if written.rate is not None:
                rate = Rate.number(written.rate)[0]
                burst = max(rate // 5, 10)
            yield rate, burst if written.burst is None else written.burst
