"""Router advertisements in the configuration of an interface (RFC 4861 section 6.2.1, RFC 4191, RFC 8106).

    interfaces:
      lan:
        addresses: ['2001:db8:a:1::1/64']
        ra: {dns-servers: ['2001:db8:a:1::1'], dns-search: [red.example]}

The prefixes of the interface's addresses are announced unless `prefixes` says something else of them.
"""

# ruff: noqa: RUF009 - option() makes a field, not a default
from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Literal

from vrouter.config.address import IpAddress, IpPrefix
from vrouter.config.constraints import Boolean, Domain, Duration, Integer, MaxLength
from vrouter.config.option import Impact, option

MAX_PREFIXES: Final = 32
MAX_SERVERS: Final = 8
MAX_DOMAINS: Final = 8


@dataclass(frozen=True, kw_only=True)
class RaPrefix:
    """What hosts are told of a prefix (RFC 4861 section 4.6.2)."""

    announce: Annotated[bool, Boolean()] = option("Tell hosts of the prefix at all.", Impact.LIVE, default=True)
    on_link: Annotated[bool, Boolean()] = option("Its addresses are on the link.", Impact.LIVE, default=True)
    autonomous: Annotated[bool, Boolean()] = option(
        "Hosts may form addresses of it (RFC 4862); asks for 64 bits.", Impact.LIVE, default=True
    )
    valid_lifetime: Annotated[float, Duration("0s", "100000h", "1s")] = option(
        "For which the prefix and the addresses of it are valid.", Impact.LIVE, 2592000.0
    )
    preferred_lifetime: Annotated[float, Duration("0s", "100000h", "1s")] = option(
        "For which hosts prefer addresses of it.", Impact.LIVE, 604800.0
    )


@dataclass(frozen=True, kw_only=True)
class Ra:
    """Router advertisements on an interface; `true` is enough."""

    enabled: Annotated[bool, Boolean()] = option("Send them.", Impact.LIVE, default=True)
    interval: Annotated[float, Duration("4s", "1800s")] = option(
        "Longest time between two; the shortest is a third of it.", Impact.LIVE, 600.0
    )
    lifetime: Annotated[float, Duration("0s", "9000s", "1s")] | None = option(
        "For which hosts use us as default router, 0s for not at all; by default three times `interval`.",
        Impact.LIVE,
        None,
        "1800s",
    )
    preference: Literal["high", "medium", "low"] = option(
        "Against other default routers (RFC 4191).", Impact.LIVE, "medium"
    )
    hop_limit: Annotated[int, Integer(0, 255)] = option(
        "Hop limit that hosts use; 0 leaves it to them.", Impact.LIVE, 64
    )
    managed: Annotated[bool, Boolean()] = option("Addresses come by DHCPv6.", Impact.LIVE, default=False)
    other: Annotated[bool, Boolean()] = option("Other configuration comes by DHCPv6.", Impact.LIVE, default=False)
    reachable_time: Annotated[float, Duration("0s", "1h", "1ms")] = option(
        "For which hosts think a neighbor reachable; 0s leaves it to them.", Impact.LIVE, 0.0
    )
    retransmit_time: Annotated[float, Duration("0s", "1h", "1ms")] = option(
        "Between neighbor solicitations of hosts; 0s leaves it to them.", Impact.LIVE, 0.0
    )
    mtu: Annotated[bool, Boolean()] = option("Tell hosts the MTU of the link.", Impact.LIVE, default=True)
    prefixes: dict[Annotated[str, IpPrefix()], RaPrefix] = option(
        "What hosts are told of prefixes: those of the interface's addresses, and others.", Impact.LIVE, {}
    )
    dns_servers: Annotated[tuple[Annotated[str, IpAddress()], ...], MaxLength(MAX_SERVERS)] = option(
        "Name servers (RFC 8106).", Impact.LIVE, (), "['2001:db8::53']"
    )
    dns_search: Annotated[tuple[Annotated[str, Domain()], ...], MaxLength(MAX_DOMAINS)] = option(
        "Search domains (RFC 8106).", Impact.LIVE, (), "[red.example]"
    )
    dns_lifetime: Annotated[float, Duration("0s", "100000h", "1s")] | None = option(
        "For which hosts use those; by default three times `interval`.", Impact.LIVE, None, "1800s"
    )
