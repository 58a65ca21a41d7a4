"""BGP in the configuration (RFC 4271 and what stands beside it).

    bgp:
      asn: 65001
      networks: [10.0.0.0/24]
      groups:
        transit: {remote-as: 65010, import: from-transit, export: export-own, bfd: true, gtsm: 1}
      neighbors:
        192.0.2.1: {group: transit, password: !secret transit-md5, graceful-restart: {time: 120s}}
      listen:
        10.1.0.0/16: {group: customers, limit: 50}

What a neighbor does not say its group says, and else what is built in: `vrouter.proto.bgp.settings` puts them together.
"""

# ruff: noqa: RUF009 - option() makes a field, not a default
from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Literal

from vrouter.config.address import IpAddress, IpPrefix, Ipv4Address
from vrouter.config.bfd import MaybeBfd
from vrouter.config.constraints import Boolean, Duration, Integer, Name, OrBoolean, Secret, Shorthand, Text
from vrouter.config.option import Impact, option

Family = Literal["ipv4", "ipv6"]
Role = Literal["provider", "customer", "peer", "route-server", "route-server-client"]
Source = Literal["connected", "static", "ospf", "rip", "leak"]
MAX_AS: Final = 2**32 - 1
MAX_PASSWORD: Final = 80  # TCP_MD5SIG_MAXKEYLEN
MAX_TEXT: Final = 255  # RFC 9003


@dataclass(frozen=True, kw_only=True)
class MaxPrefixes:
    """How many prefixes a neighbor may send."""

    ipv4: Annotated[int, Integer(1, 2**31 - 1)] | None = option("Of IPv4.", Impact.LIVE, None, "1100000")
    ipv6: Annotated[int, Integer(1, 2**31 - 1)] | None = option("Of IPv6.", Impact.LIVE, None, "250000")
    action: Literal["warn", "shutdown", "restart"] = option(
        "What is done beyond that: a line in the log; or the session ends until an operator clears it, or for a time.",
        Impact.LIVE,
        "shutdown",
    )
    restart: Annotated[float, Duration("1s", "86400s")] = option(
        "After what time the session comes back.", Impact.LIVE, 300.0, "300s"
    )


@dataclass(frozen=True, kw_only=True)
class GracefulRestart:
    """Restarts that forwarding survives (RFC 4724)."""

    enabled: Annotated[bool, Boolean()] = option("Take part.", Impact.SESSION, default=True)
    time: Annotated[float, Duration("1s", "4095s", "1s")] = option(
        "For how long the neighbor should wait for this router to come back.", Impact.SESSION, 120.0, "120s"
    )
    stale_time: Annotated[float, Duration("1s", "86400s")] = option(
        "For how long routes of a neighbor that came back stay without being sent again.", Impact.LIVE, 360.0, "360s"
    )
    deferral: Annotated[float, Duration("1s", "3600s")] = option(
        "For how long this router, restarted itself, waits for all neighbors' routes before it announces any.",
        Impact.LIVE,
        120.0,
        "120s",
    )


@dataclass(frozen=True, kw_only=True)
class AddPath:
    """Several paths to a prefix (RFC 7911)."""

    receive: Annotated[bool, Boolean()] = option("Take them.", Impact.SESSION, default=False)
    send: Annotated[int, Integer(0, 64)] = option(
        "Send so many of each prefix, the best first; 0: only the best, as without.", Impact.SESSION, 0, "4"
    )


@dataclass(frozen=True, kw_only=True)
class Timers:
    """Times of a session."""

    hold: Annotated[float, Duration("0s", "65535s", "1s")] = option(
        "Without a message for so long the session ends; 0s: never.  The smaller of both ends' counts.",
        Impact.SESSION,
        90.0,
        "90s",
    )
    keepalive: Annotated[float, Duration("1s", "21845s", "1s")] | None = option(
        "Time between two keepalives; by default, and at most, a third of the hold time.", Impact.SESSION, None, "30s"
    )
    connect_retry: Annotated[float, Duration("1s", "3600s")] = option(
        "Time between two attempts to connect; it is doubled after each failure, up to eight times.",
        Impact.LIVE,
        5.0,
        "5s",
    )
    delay_open: Annotated[float, Duration("0s", "60s")] = option(
        "Wait so long for the neighbor's OPEN before the own is sent.", Impact.LIVE, 0.0, "0s"
    )
    send_hold: Annotated[float, Duration("0s", "86400s")] = option(
        "A neighbor that takes nothing for so long loses the session (RFC 9687); 0s: never."
        "  At least the hold time, built in: 8 minutes, or twice the hold time where that is more.",
        Impact.LIVE,
        480.0,
        "480s",
    )


@dataclass(frozen=True, kw_only=True)
class Session:
    """What groups and neighbors have in common."""

    remote_as: Annotated[int, Integer(1, MAX_AS)] | None = option(
        "AS of the neighbor; ours for one within the AS.", Impact.SESSION, None, "65010"
    )
    local_as: Annotated[int, Integer(1, MAX_AS)] | None = option(
        "AS that we are to this neighbor, when not `asn`.", Impact.SESSION, None, "65001"
    )
    description: Annotated[str, Text(80)] | None = option("For operators.", Impact.LIVE, None, "transit, cage 7")
    shutdown: Annotated[bool, Boolean()] | None = option("Keep the session down.", Impact.SESSION, None)
    shutdown_message: Annotated[str, Text(MAX_TEXT)] | None = option(
        "Told to the neighbor's operators when it goes down by `shutdown` (RFC 9003).", Impact.LIVE, None
    )
    password: Annotated[str, Secret(MAX_PASSWORD)] | None = option(
        "Key of TCP MD5 signatures (RFC 2385), as `!secret NAME`.", Impact.SESSION, None
    )
    bfd: MaybeBfd = option("Watch the neighbor by BFD.", Impact.LIVE, None, "true")
    gtsm: Annotated[int, Integer(1, 254)] | None = option(
        "Hops to the neighbor: packets that came further are dropped (RFC 5082), ours leave with TTL 255."
        "  Both ends must have it.",
        Impact.SESSION,
        None,
        "1",
    )
    multihop: Annotated[int, Integer(1, 255)] | None = option(
        "TTL towards a neighbor in another AS that is not on a common link; without it 1.", Impact.SESSION, None, "4"
    )
    local_address: Annotated[str, IpAddress()] | None = option(
        "Own address; by default that of the way to the neighbor.", Impact.SESSION, None, "10.255.0.1"
    )
    interface: Annotated[str, Name("interface name")] | None = option(
        "Interface of a neighbor with a link-local address.", Impact.SESSION, None, "wan"
    )
    passive: Annotated[bool, Boolean()] | None = option("Wait for the neighbor to connect.", Impact.LIVE, None)
    import_: Annotated[str, Name("policy name")] | None = option(
        "Policy for routes that come in.  The neighbor is asked for its routes again.",
        Impact.SOFT,
        None,
        "from-transit",
    )
    export: Annotated[str, Name("policy name")] | None = option(
        "Policy for routes that go out.", Impact.SOFT, None, "export-own"
    )
    require_policy: Annotated[bool, Boolean()] | None = option(
        "Without a policy no route comes from, or goes to, another AS (RFC 8212); true by default.", Impact.SOFT, None
    )
    families: tuple[Family, ...] | None = option(
        "Whose routes are exchanged; by default the family of the neighbor's address.",
        Impact.SESSION,
        None,
        "[ipv4, ipv6]",
    )
    max_prefixes: MaxPrefixes | None = option("How many prefixes it may send.", Impact.LIVE, None, "{ipv4: 1000}")
    graceful_restart: Annotated[GracefulRestart, OrBoolean()] | None = option(
        "Restarts that forwarding survives; on by default.", Impact.SESSION, None
    )
    role: Role | None = option(
        "What this router is to the neighbor: routes that leak are found (RFC 9234).", Impact.SESSION, None, "customer"
    )
    role_strict: Annotated[bool, Boolean()] | None = option(
        "Refuse a neighbor that says nothing of its role.", Impact.SESSION, None
    )
    add_path: AddPath | None = option("Several paths to a prefix.", Impact.SESSION, None, "{receive: true, send: 4}")
    extended_next_hop: Annotated[bool, Boolean()] | None = option(
        "IPv4 routes with IPv6 next hops (RFC 8950).", Impact.SESSION, None
    )
    extended_messages: Annotated[bool, Boolean()] | None = option(
        "Messages of up to 65535 bytes (RFC 8654); true by default.", Impact.SESSION, None
    )
    route_reflector_client: Annotated[bool, Boolean()] | None = option(
        "Pass routes of other neighbors within the AS on to this one, and its routes to them (RFC 4456).",
        Impact.SESSION,
        None,
    )
    next_hop_self: Annotated[bool, Boolean()] | None = option(
        "Within the AS: be the next hop of routes from other ASes.", Impact.SOFT, None
    )
    next_hop_unchanged: Annotated[bool, Boolean()] | None = option(
        "Pass next hops on as they came, as a route server does.", Impact.SOFT, None
    )
    send_communities: Annotated[bool, Boolean()] | None = option(
        "Send communities of all kinds; true by default.", Impact.SOFT, None
    )
    remove_private_as: Annotated[bool, Boolean()] | None = option(
        "Take private AS numbers out of paths that leave, but the neighbor's own.", Impact.SOFT, None
    )
    allow_own_as: Annotated[int, Integer(0, 10)] | None = option(
        "How often the own AS may stand in a path that comes in.", Impact.SOFT, None, "1"
    )
    as_override: Annotated[bool, Boolean()] | None = option(
        "Put the own AS in the place of the neighbor's in paths that leave.", Impact.SOFT, None
    )
    enforce_first_as: Annotated[bool, Boolean()] | None = option(
        "Refuse paths that do not begin with the neighbor's AS, as those of a route server; true by default.",
        Impact.SOFT,
        None,
    )
    weight: Annotated[int, Integer(0, 65535)] | None = option(
        "Paths with the highest are preferred before anything else.", Impact.SOFT, None, "100"
    )
    timers: Timers | None = option("Times of the session.", Impact.SESSION, None, "{hold: 30s}")


@dataclass(frozen=True, kw_only=True)
class Neighbor(Session):
    """A neighbor."""

    group: Annotated[str, Name("group name")] | None = option(
        "Group that says what is not said here.", Impact.SESSION, None, "transit"
    )


@dataclass(frozen=True, kw_only=True)
class ListenRange:
    """Neighbors that come of themselves."""

    group: Annotated[str, Name("group name")] = option("Group that they are in.", Impact.SESSION, example="customers")
    limit: Annotated[int, Integer(1, 65535)] = option("How many at a time.", Impact.LIVE, 100)


@dataclass(frozen=True, kw_only=True)
class Redistribution:
    """Routes of another protocol that are announced."""

    protocol: Source = option("Whose routes.", Impact.LIVE, example="static")
    policy: Annotated[str, Name("policy name")] | None = option(
        "Which of them, and with which attributes.", Impact.LIVE, None, "to-bgp"
    )


@dataclass(frozen=True, kw_only=True)
class Multipath:
    """How many paths of equal rank share the flows."""

    external: Annotated[int, Integer(1, 64)] = option("Through other ASes.", Impact.LIVE, 1, "8")
    internal: Annotated[int, Integer(1, 64)] = option("Within the AS.", Impact.LIVE, 1, "8")
    relax: Annotated[bool, Boolean()] = option(
        "Also through different ASes, if the paths are of one length.", Impact.LIVE, default=False
    )


@dataclass(frozen=True, kw_only=True)
class Preference:
    """What the routes are worth beside those of other protocols: the smaller wins."""

    external: Annotated[int, Integer(1, 255)] = option("From other ASes.", Impact.LIVE, 20)
    internal: Annotated[int, Integer(1, 255)] = option("From within the AS.", Impact.LIVE, 200)


@dataclass(frozen=True, kw_only=True)
class Bgp:
    """BGP of a router."""

    asn: Annotated[int, Integer(1, MAX_AS)] = option("AS of this router.", Impact.SESSION, example="65001")
    router_id: Annotated[str, Ipv4Address()] | None = option(
        "BGP identifier; by default that of the router, else its highest loopback address, else its highest address.",
        Impact.SESSION,
        None,
        "10.255.0.1",
    )
    cluster_id: Annotated[str, Ipv4Address()] | None = option(
        "Cluster of a route reflector; by default the router id.", Impact.SOFT, None, "10.255.0.1"
    )
    groups: dict[Annotated[str, Name("group name")], Session] = option("Groups by name.", Impact.LIVE, {})
    neighbors: dict[Annotated[str, IpAddress()], Neighbor] = option("Neighbors by address.", Impact.LIVE, {})
    listen: dict[Annotated[str, IpPrefix()], ListenRange] = option(
        "Prefixes from which neighbors may come that nobody has named.", Impact.LIVE, {}
    )
    networks: tuple[Annotated[str, IpPrefix()], ...] = option(
        "Prefixes that are announced, whether there is a route or not.", Impact.LIVE, (), "[10.0.0.0/24]"
    )
    redistribute: tuple[
        Annotated[
            Redistribution,
            Shorthand(tuple((word, (("protocol", word),)) for word in ("connected", "static", "ospf", "rip", "leak"))),
        ],
        ...,
    ] = option("Protocols whose routes are announced.", Impact.LIVE, (), "[static]")
    multipath: Multipath = option("Paths that share the flows.", Impact.LIVE, Multipath())
    preference: Preference = option("What the routes are worth.", Impact.LIVE, Preference())
    always_compare_med: Annotated[bool, Boolean()] = option(
        "Compare the metrics (MED) of different ASes.", Impact.LIVE, default=False
    )
    compare_router_id: Annotated[bool, Boolean()] = option(
        "Of equal paths from other ASes prefer the lowest router id, not the oldest.", Impact.LIVE, default=True
    )
