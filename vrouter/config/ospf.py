"""OSPFv2 in the configuration (RFC 2328 and what stands beside it).

    ospf:
      redistribute: [static, {protocol: bgp, policy: to-ospf, metric: 20, metric-type: 1}]
      areas:
        0.0.0.0:
          interfaces:
            lan: {cost: 10, authentication: {hmac-sha-256: {key-id: 1, key: !secret ospf-red}}}
            lo: {passive: true}
        0.0.0.1: {type: nssa, ranges: {10.1.0.0/16: {}}, interfaces: {to-b: {network: point-to-point}}}

Values are those of the schema; `vrouter.proto.ospf.settings` makes of them what the protocol works with.
"""

# ruff: noqa: RUF009 - option() makes a field, not a default
from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Literal

from vrouter.config.address import IpPrefix, Ipv4Address
from vrouter.config.bfd import MaybeBfd
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

Source = Literal["connected", "static", "bgp", "rip", "leak"]
MAX_PASSWORD: Final = 8  # RFC 2328 appendix D.3
MAX_MD5_KEY: Final = 16
MAX_KEY: Final = 128
MAX_KEYS: Final = 8


@dataclass(frozen=True, kw_only=True)
class Md5Key:
    """A key of MD5; RFC 2328 appendix D.3."""

    key_id: Annotated[int, Integer(0, 255)] = option("Number of the key.", Impact.LIVE, 1)
    key: Annotated[str, Secret(MAX_MD5_KEY)] = option(
        "The key, as `!secret NAME`: up to 16 bytes.", Impact.LIVE, example="Wo8Pha3i"
    )


@dataclass(frozen=True, kw_only=True)
class HmacKey:
    """A key of HMAC-SHA; RFC 5709."""

    key_id: Annotated[int, Integer(0, 255)] = option("Number of the key.", Impact.LIVE, 1)
    key: Annotated[str, Secret(MAX_KEY)] = option("The key, as `!secret NAME`.", Impact.LIVE, example="Wo8Pha3i")
    extended_sequence: Annotated[bool, Boolean()] = option(
        "Sequence numbers of 64 bits that survive a restart, and a digest that covers the sender's address"
        " (RFC 7474); all routers of the link must have it.",
        Impact.LIVE,
        default=False,
    )


@dataclass(frozen=True, kw_only=True)
class Authentication:
    """How packets are authenticated.  Of several keys, the one with the highest number signs and all are taken."""

    simple: Annotated[str, Secret(MAX_PASSWORD)] | None = option(
        "A password that everybody on the link can read; up to 8 bytes.", Impact.LIVE, None
    )
    md5: Annotated[tuple[Md5Key, ...], OneOrMany(), MaxLength(MAX_KEYS)] = option("Keys of MD5.", Impact.LIVE, ())
    hmac_sha_1: Annotated[tuple[HmacKey, ...], OneOrMany(), MaxLength(MAX_KEYS)] = option(
        "Keys of HMAC-SHA-1.", Impact.LIVE, ()
    )
    hmac_sha_256: Annotated[tuple[HmacKey, ...], OneOrMany(), MaxLength(MAX_KEYS)] = option(
        "Keys of HMAC-SHA-256.", Impact.LIVE, (), "{key-id: 1, key: !secret ospf}"
    )
    hmac_sha_384: Annotated[tuple[HmacKey, ...], OneOrMany(), MaxLength(MAX_KEYS)] = option(
        "Keys of HMAC-SHA-384.", Impact.LIVE, ()
    )
    hmac_sha_512: Annotated[tuple[HmacKey, ...], OneOrMany(), MaxLength(MAX_KEYS)] = option(
        "Keys of HMAC-SHA-512.", Impact.LIVE, ()
    )


@dataclass(frozen=True, kw_only=True)
class OspfInterface:
    """An interface in an area.  All routers of a link must agree on its timers, its kind and its area."""

    cost: Annotated[int, Integer(1, 65535)] | None = option(
        "Cost of sending a packet there; by default 10, of a loopback 0.", Impact.LIVE, None, "10"
    )
    network: Literal["broadcast", "point-to-point", "point-to-multipoint"] = option(
        "Kind of the network.", Impact.SESSION, "broadcast"
    )
    neighbors: tuple[Annotated[str, Ipv4Address()], ...] = option(
        "Neighbors of a point-to-multipoint network without multicast: packets go to each by itself.",
        Impact.LIVE,
        (),
        "[192.0.2.2]",
    )
    passive: Annotated[bool, Boolean()] = option(
        "Announce its prefix, and neither send nor take packets.", Impact.SESSION, default=False
    )
    priority: Annotated[int, Integer(0, 255)] = option(
        "Who becomes designated router of a broadcast network: the highest; 0 never does.", Impact.LIVE, 1
    )
    hello_interval: Annotated[float, Duration("1s", "65535s", "1s")] = option(
        "Time between two hellos.  Until the neighbors have it too, they are lost after `dead-interval`.",
        Impact.SESSION,
        10.0,
        "10s",
    )
    dead_interval: Annotated[float, Duration("1s", "999999999s", "1s")] | None = option(
        "Time without a hello after which a neighbor is lost; by default four hellos.", Impact.SESSION, None, "40s"
    )
    retransmit_interval: Annotated[float, Duration("1s", "3600s")] = option(
        "Time after which what was not acknowledged is sent again.", Impact.LIVE, 5.0, "5s"
    )
    transmit_delay: Annotated[float, Duration("1s", "450s", "1s")] = option(
        "What an advertisement ages by on this link.", Impact.LIVE, 1.0, "1s"
    )
    mtu_ignore: Annotated[bool, Boolean()] = option(
        "Take neighbors whose MTU is larger than ours.", Impact.LIVE, default=False
    )
    authentication: Authentication | None = option("Authentication of the packets.", Impact.LIVE, None)
    bfd: MaybeBfd = option("Watch each neighbor by BFD.", Impact.LIVE, None, "true")


@dataclass(frozen=True, kw_only=True)
class Range:
    """A range of addresses that an area border router announces as one (RFC 2328 section 12.4.3)."""

    advertise: Annotated[bool, Boolean()] = option(
        "Announce the range; `false` hides it and what is in it.", Impact.LIVE, default=True
    )
    cost: Annotated[int, Integer(0, 16777214)] | None = option(
        "Metric; by default the largest of what is in it.", Impact.LIVE, None, "100"
    )


@dataclass(frozen=True, kw_only=True)
class Area:
    """An area."""

    type: Literal["normal", "stub", "nssa"] = option(
        "Kind: no external routes reach into a stub area; a not-so-stubby one has its own (RFC 3101).",
        Impact.SESSION,
        "normal",
    )
    summaries: Annotated[bool, Boolean()] = option(
        "Announce routes of other areas into a stub or NSSA area; without, only a default route (totally stubby).",
        Impact.LIVE,
        default=True,
    )
    default_cost: Annotated[int, Integer(0, 16777214)] = option(
        "Metric of the default route that is announced into a stub or NSSA area.", Impact.LIVE, 1
    )
    translator: Literal["candidate", "always", "never"] = option(
        "Whether this router translates what an NSSA announces for the others (RFC 3101).", Impact.LIVE, "candidate"
    )
    ranges: dict[Annotated[str, IpPrefix()], Range] = option(
        "Ranges that the other areas see instead of what is in them.", Impact.LIVE, {}
    )
    nssa_ranges: dict[Annotated[str, IpPrefix()], Range] = option(
        "The same for external routes of an NSSA that are translated.", Impact.LIVE, {}
    )
    interfaces: dict[Annotated[str, Name("interface name")], OspfInterface] = option(
        "Interfaces of the router that are in the area.", Impact.LIVE, {}
    )


@dataclass(frozen=True, kw_only=True)
class Redistribution:
    """Routes of another protocol that are announced as external ones."""

    protocol: Source = option("Whose routes.", Impact.LIVE, example="static")
    policy: Annotated[str, Name("policy name")] | None = option(
        "Which of them, and how changed: metric and tag are taken.", Impact.LIVE, None, "to-ospf"
    )
    metric: Annotated[int, Integer(0, 16777214)] = option("Metric, where the policy sets none.", Impact.LIVE, 20)
    metric_type: Annotated[int, Integer(1, 2)] = option(
        "1: the way to this router counts too; 2: only the metric.", Impact.LIVE, 2
    )
    tag: Annotated[int, Integer(0, 4294967295)] | None = option(
        "Tag, where the policy sets none; by default the route's own.", Impact.LIVE, None, "65000"
    )


@dataclass(frozen=True, kw_only=True)
class DefaultInformation:
    """A default route that this router announces into the whole system."""

    enabled: Annotated[bool, Boolean()] = option("Announce it.", Impact.LIVE, default=True)
    always: Annotated[bool, Boolean()] = option("Also while this router has none itself.", Impact.LIVE, default=False)
    metric: Annotated[int, Integer(0, 16777214)] = option("Metric.", Impact.LIVE, 10)
    metric_type: Annotated[int, Integer(1, 2)] = option("As that of `redistribute`.", Impact.LIVE, 2)


@dataclass(frozen=True, kw_only=True)
class SpfTimers:
    """When routes are computed after a change (RFC 8405)."""

    initial: Annotated[float, Duration("0s", "60s")] = option("Delay after a time of quiet.", Impact.LIVE, 0.05, "50ms")
    short: Annotated[float, Duration("0s", "60s")] = option(
        "Delay after a change that is not the first.", Impact.LIVE, 0.2, "200ms"
    )
    long: Annotated[float, Duration("0s", "60s")] = option("Delay while changes do not end.", Impact.LIVE, 5.0, "5s")
    time_to_learn: Annotated[float, Duration("0s", "60s")] = option(
        "Time in which one failure should have been heard of from all sides.", Impact.LIVE, 0.5, "500ms"
    )
    holddown: Annotated[float, Duration("0s", "600s")] = option(
        "Time without a change that counts as quiet.", Impact.LIVE, 10.0, "10s"
    )


@dataclass(frozen=True, kw_only=True)
class GracefulRestart:
    """Restarts that nobody notices (RFC 3623)."""

    enabled: Annotated[bool, Boolean()] = option("Ask the neighbors for help.", Impact.LIVE, default=True)
    period: Annotated[float, Duration("1s", "1800s", "1s")] = option(
        "For how long the neighbors should wait for us.", Impact.LIVE, 120.0, "120s"
    )
    helper: Annotated[bool, Boolean()] = option("Help the neighbors.", Impact.LIVE, default=True)
    strict: Annotated[bool, Boolean()] = option(
        "Stop to help a neighbor when the topology changes.", Impact.LIVE, default=True
    )


@dataclass(frozen=True, kw_only=True)
class MaxMetric:
    """Traffic goes another way where there is one (RFC 6987)."""

    enabled: Annotated[bool, Boolean()] = option("Announce it all the time.", Impact.LIVE, default=True)
    on_startup: Annotated[float, Duration("1s", "86400s")] | None = option(
        "Only for so long after the start, instead of all the time.", Impact.LIVE, None, "60s"
    )


@dataclass(frozen=True, kw_only=True)
class Ospf:
    """OSPF of a router."""

    version: Annotated[int, Integer(2, 2)] = option("Version of the protocol.", Impact.NONE, 2)
    router_id: Annotated[str, Ipv4Address()] | None = option(
        "Number of this router in dotted form; by default that of the router, or its highest loopback address, or its"
        " highest address.",
        Impact.SESSION,
        None,
        "10.255.0.1",
    )
    areas: dict[Annotated[str, Ipv4Address(any_value=True)], Area] = option(
        "Areas by their number in dotted form.", Impact.LIVE, {}
    )
    redistribute: tuple[
        Annotated[
            Redistribution,
            Shorthand(tuple((word, (("protocol", word),)) for word in ("connected", "static", "bgp", "rip", "leak"))),
        ],
        ...,
    ] = option("Protocols whose routes are announced.", Impact.LIVE, (), "[static]")
    default_information: Annotated[DefaultInformation, OrBoolean()] | None = option(
        "Announce a default route.", Impact.LIVE, None, "{always: true}"
    )
    max_lsas: Annotated[int, Integer(1, 100000000)] = option(
        "LSAs that are held of each area, of the whole system and of each link; others are refused beyond them.",
        Impact.LIVE,
        1000000,
    )
    maximum_paths: Annotated[int, Integer(1, 64)] = option(
        "Next hops of equal cost that share the flows.", Impact.LIVE, 16
    )
    preference: Annotated[int, Integer(1, 255)] = option("Preference of its routes.", Impact.LIVE, 110)
    rfc1583_compatibility: Annotated[bool, Boolean()] = option(
        "Prefer ways to external networks as RFC 1583 does; all routers must agree.", Impact.LIVE, default=False
    )
    hide_transit: Annotated[bool, Boolean()] = option(
        "Do not announce the prefixes of links between routers (RFC 6860).", Impact.LIVE, default=False
    )
    spf: SpfTimers = option("When routes are computed.", Impact.LIVE, SpfTimers())
    graceful_restart: Annotated[GracefulRestart, OrBoolean()] = option(
        "Restarts that nobody notices.", Impact.LIVE, GracefulRestart()
    )
    max_metric: Annotated[MaxMetric, OrBoolean()] | None = option(
        "Traffic goes another way where there is one.", Impact.LIVE, None, "{on-startup: 60s}"
    )
