"""RIP in the configuration: RIPv2 (RFC 2453) under `rip`, RIPng (RFC 2080) under `ripng`.

rip:
  interfaces:
    lan: {metric: 2, authentication: {hmac-sha-256: {key-id: 1, key: !secret rip-red}}}
    lo: {passive: true}
  redistribute: [static]
"""

# ruff: noqa: RUF009 - option() makes a field, not a default
from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Literal, get_args

from vrouter.config.address import IpAddress
from vrouter.config.constraints import (
    Boolean,
    Duration,
    Integer,
    MaxLength,
    Name,
    OneOrMany,
    OrBoolean,
    Secret,
    Shorthand,
)
from vrouter.config.option import Impact, option

MAX_PASSWORD: Final = 16
MAX_KEY: Final = 64
MAX_KEYS: Final = 8
MAX_NEIGHBORS: Final = 64
MAX_PATHS: Final = 16
Source = Literal["connected", "static", "bgp", "ospf", "leak"]


@dataclass(frozen=True, kw_only=True)
class RipKey:
    """A key of a digest."""

    key_id: Annotated[int, Integer(0, 255)] = option("Number of the key, the same at all neighbors.", Impact.LIVE, 1)
    key: Annotated[str, Secret(MAX_KEY)] = option("The key, as `!secret NAME`.", Impact.LIVE, example="aiK3ohph")


@dataclass(frozen=True, kw_only=True)
class RipAuthentication:
    """Authentication on an interface.  Of several keys, the one with the highest number signs and all are taken."""

    password: Annotated[str, Secret(MAX_PASSWORD)] | None = option(
        "A password in clear text (RFC 2453 section 4.1): against mistakes, not against attackers.",
        Impact.LIVE,
        None,
        "lab",
    )
    md5: Annotated[tuple[RipKey, ...], OneOrMany(), MaxLength(MAX_KEYS)] = option("Keys of MD5.", Impact.LIVE, ())
    hmac_sha_1: Annotated[tuple[RipKey, ...], OneOrMany(), MaxLength(MAX_KEYS)] = option(
        "Keys of HMAC-SHA-1 (RFC 4822).", Impact.LIVE, ()
    )
    hmac_sha_256: Annotated[tuple[RipKey, ...], OneOrMany(), MaxLength(MAX_KEYS)] = option(
        "Keys of HMAC-SHA-256 (RFC 4822).", Impact.LIVE, (), "{key-id: 1, key: !secret rip}"
    )
    hmac_sha_384: Annotated[tuple[RipKey, ...], OneOrMany(), MaxLength(MAX_KEYS)] = option(
        "Keys of HMAC-SHA-384 (RFC 4822).", Impact.LIVE, ()
    )
    hmac_sha_512: Annotated[tuple[RipKey, ...], OneOrMany(), MaxLength(MAX_KEYS)] = option(
        "Keys of HMAC-SHA-512 (RFC 4822).", Impact.LIVE, ()
    )


@dataclass(frozen=True, kw_only=True)
class RipngInterface:
    """An interface that the protocol runs on: its networks are announced, its neighbors heard."""

    passive: Annotated[bool, Boolean()] = option(
        "Listen, and send to the `neighbors` alone.", Impact.LIVE, default=False
    )
    metric: Annotated[int, Integer(1, 15)] = option("What crossing the interface costs.", Impact.LIVE, 1)
    split_horizon: Literal["poison-reverse", "simple", "disabled"] = option(
        "What is said to the interface that a route came from: that it is unreachable, nothing, or the route.",
        Impact.LIVE,
        "poison-reverse",
    )
    neighbors: Annotated[tuple[Annotated[str, IpAddress()], ...], MaxLength(MAX_NEIGHBORS)] = option(
        "Neighbors that packets are sent to by unicast, beside the group.", Impact.LIVE, (), "[10.0.0.2]"
    )
    import_: Annotated[str, Name("policy name")] | None = option(
        "Route policy for what is heard.", Impact.SOFT, None, "from-lan"
    )
    export: Annotated[str, Name("policy name")] | None = option(
        "Route policy for what is announced.", Impact.SOFT, None, "to-lan"
    )


@dataclass(frozen=True, kw_only=True)
class RipInterface(RipngInterface):
    """An interface of RIPv2."""

    authentication: RipAuthentication | None = option("Authentication of the packets.", Impact.LIVE, None)


@dataclass(frozen=True, kw_only=True)
class RipTimers:
    """Times of the protocol; they must be the same in all routers."""

    update: Annotated[float, Duration("1s", "1h")] = option("Between two regular updates.", Impact.LIVE, 30.0)
    timeout: Annotated[float, Duration("2s", "1h")] = option(
        "After which a route that is not heard of is unreachable.", Impact.LIVE, 180.0
    )
    garbage: Annotated[float, Duration("2s", "1h")] = option(
        "For which an unreachable route is still announced as such.", Impact.LIVE, 120.0
    )


@dataclass(frozen=True, kw_only=True)
class RipRedistribution:
    """Another protocol whose routes are announced; a word alone is its name."""

    protocol: Source = option("Where the routes come from.", Impact.SOFT, example="static")
    policy: Annotated[str, Name("policy name")] | None = option(
        "Route policy: it may refuse routes, and set metric and tag.", Impact.SOFT, None, "to-rip"
    )
    metric: Annotated[int, Integer(1, 15)] = option("Metric that they are announced with.", Impact.SOFT, 1)


@dataclass(frozen=True, kw_only=True)
class RipDefault:
    """The default route as an announcement of its own."""

    enabled: Annotated[bool, Boolean()] = option("Announce a default route.", Impact.SOFT, default=True)
    metric: Annotated[int, Integer(1, 15)] = option("Its metric.", Impact.SOFT, 1)


@dataclass(frozen=True, kw_only=True)
class RipProcess:
    """What both versions have."""

    redistribute: tuple[
        Annotated[RipRedistribution, Shorthand(tuple((word, (("protocol", word),)) for word in get_args(Source)))], ...
    ] = option("Protocols whose routes are announced.", Impact.SOFT, (), "[static, {protocol: bgp, metric: 5}]")
    default_information: Annotated[RipDefault, OrBoolean()] | None = option(
        "Announce a default route.", Impact.SOFT, None, "true"
    )
    preference: Annotated[int, Integer(1, 255)] = option(
        "Preference of the routes against other protocols'; smaller wins.", Impact.LIVE, 120
    )
    maximum_paths: Annotated[int, Integer(1, MAX_PATHS)] = option(
        "Neighbors with the same metric that share the flows to a prefix.", Impact.LIVE, 1
    )
    timers: RipTimers = option("Times of the protocol.", Impact.LIVE, RipTimers())


@dataclass(frozen=True, kw_only=True)
class Rip(RipProcess):
    """RIPv2 (RFC 2453)."""

    interfaces: dict[Annotated[str, Name("interface name")], RipInterface] = option(
        "Interfaces that the protocol runs on.", Impact.LIVE, {}
    )


@dataclass(frozen=True, kw_only=True)
class Ripng(RipProcess):
    """RIPng (RFC 2080)."""

    interfaces: dict[Annotated[str, Name("interface name")], RipngInterface] = option(
        "Interfaces that the protocol runs on.", Impact.LIVE, {}
    )
