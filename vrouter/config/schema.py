"""What operators write: the one schema of the configuration.

Plain frozen dataclasses.  A key in YAML is the field's name with '-' for '_'.  Bounds stand in the
`Annotated` markers of `constraints`, and help and impact in each field's metadata; validation, JSON
Schema for editors, the reference page, completion and the plan all come from here.

Values are held in canonical form: addresses and prefixes as `ipaddress` prints them, MACs in lower
case, ranges as (first, last).  Names of users and groups stay names.
"""

# ruff: noqa: RUF009 - option() makes a field, not a default
from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from vrouter.config.acl import RPF_WORDS, AclBinding, Acls, Counted, DscpMarks, Rpf
from vrouter.config.address import InterfaceAddress, IpAddress, IpPrefix, Ipv4Address, Mac
from vrouter.config.bfd import BfdSessions, MaybeBfd
from vrouter.config.bgp import Bgp
from vrouter.config.constraints import (
    MAX_HOPS,
    MAX_NAME_SERVERS,
    MAX_RULE_PORTS,
    MAX_RULE_PREFIXES,
    MAX_RULES,
    MAX_SEARCH,
    App,
    Boolean,
    CurveKey,
    Device,
    Domain,
    Glob,
    Integer,
    LocalEndpoint,
    MaxLength,
    Name,
    Namespace,
    OneOrMany,
    OrAll,
    OrBoolean,
    Patch,
    Span,
    TcpEndpoint,
)
from vrouter.config.dataplane import Dataplane
from vrouter.config.driver import Driver, Offload, Pcap
from vrouter.config.leak import Leak
from vrouter.config.option import Impact, option
from vrouter.config.ospf import Ospf
from vrouter.config.police import ControlPlane, Police
from vrouter.config.policy import Policy
from vrouter.config.ra import Ra
from vrouter.config.rip import Rip, Ripng

Operation = Literal["connect", "listen", "udp", "raw", "multicast"]


@dataclass(frozen=True, kw_only=True)
class Interface:
    """An interface of a router: a device, one VLAN of a device, a patch link, capture files, or a loopback."""

    device: Annotated[str, Device()] | None = option(
        "Device of the kernel that the router takes over; without `device`, `patch` and `pcap` it is a loopback.",
        Impact.LINK,
        None,
        "eth1",
    )
    netns: Annotated[str, Namespace()] | None = option(
        "Network namespace to take the device from; by default the daemon's own.", Impact.LINK, None, "lab"
    )
    vlan: Annotated[int, Integer(1, 4094)] | None = option(
        "802.1Q VLAN of the device that is ours.  Routers that each name a VLAN of one device share it.",
        Impact.LINK,
        None,
        "100",
    )
    addresses: tuple[Annotated[str, InterfaceAddress()], ...] = option(
        "Addresses with the lengths of their prefixes.", Impact.LIVE, (), "[10.0.0.1/24, '2001:db8::1/64']"
    )
    mtu: Annotated[int, Integer(68, 65535)] | None = option(
        "Largest IP packet in bytes; by default `defaults.mtu`, else what the device has.", Impact.LINK, None, "1500"
    )
    mac: Annotated[str, Mac()] | None = option(
        "MAC address; by default the device's own.", Impact.LINK, None, "02:00:00:00:00:01"
    )
    driver: Driver | None = option(
        "How frames are exchanged with the device; by default `dataplane.driver` of the router, else `auto`.",
        Impact.LINK,
        None,
        "af-packet",
    )
    offload: Offload = option(
        "Plain transit packets that come in here are forwarded in the kernel, by a program that has a copy of this"
        " router's routes; all others, and what it cannot do, take the way through the router.  `xdp`: at the driver,"
        " for most packets a second; `tc`: behind the packet ring, on every device, with TCP's super-frames whole.",
        Impact.LIVE,
        "none",
    )
    pcap: Pcap | None = option("Files of captured frames in the place of a device.", Impact.LINK, None)
    gro: Annotated[bool, Boolean()] = option(
        "Switch the device's generic receive offload on: TCP segments of one stream arrive joined.  A veth then drops"
        " what comes in bursts of more than 256 frames.",
        Impact.LINK,
        default=False,
    )
    force: Annotated[bool, Boolean()] = option(
        "Take the device even if the default route or your own session runs over it.", Impact.NONE, default=False
    )
    patch: Annotated[str, Patch()] | None = option(
        "The other end of a shared-memory link between two routers; it names this end in turn.",
        Impact.LINK,
        None,
        "blue/to-red",
    )
    acl: AclBinding | None = option("Access control lists, by direction.", Impact.LIVE, None, "{in: from-customer}")
    rpf: Annotated[Rpf, RPF_WORDS] | None = option(
        "Reverse-path check of the sources of what comes in.", Impact.LIVE, None, "strict"
    )
    dscp: DscpMarks | None = option("Marking of packets, by direction.", Impact.LIVE, None, "{in: cs0}")
    police: Police | None = option("Policers: how much it carries.", Impact.LIVE, None)
    ra: Annotated[Ra, OrBoolean()] | None = option("Router advertisements, for IPv6 hosts.", Impact.LIVE, None)
    leak: Annotated[Leak, OrBoolean()] | None = option(
        "Exchange routes with the router at the other end of the patch link, if it says so too.", Impact.LIVE, None
    )


@dataclass(frozen=True, kw_only=True)
class Hop:
    """A next hop of a static route."""

    via: Annotated[str, IpAddress()] | None = option("Address of the next router.", Impact.LIVE, None, "10.0.0.254")
    interface: Annotated[str, Name("interface name")] | None = option(
        "Interface to leave by; without `via`, destinations are neighbors there.", Impact.LIVE, None, "lan"
    )
    weight: Annotated[int, Integer(1, 65535)] = option("Share of the flows among several hops.", Impact.LIVE, 1)
    preference: Annotated[int, Integer(1, 255)] = option(
        "Hops with a larger one than others are used while none of those can be: a floating route.", Impact.LIVE, 1
    )
    discard: Annotated[bool, Boolean()] = option("Drop the packets in silence.", Impact.LIVE, default=False)
    bfd: MaybeBfd = option(
        "Watch the next router by BFD, and leave it out while it is down; needs `via`.", Impact.LIVE, None
    )


@dataclass(frozen=True, kw_only=True)
class Quotas:
    """How much of a router each user, or each key, may have; 0 is no limit of its own.

    Without a value in a rule that of its router counts, then that of `defaults`, then the one built in: 16384
    sockets, 10000 opens a second, 1 GiB of memory.  Whatever is written here, nobody gets more than as much as is
    left for all others.
    """

    sockets: Annotated[int, Integer(0, 2**31 - 1)] | None = option("Sockets at a time (`EMFILE`).", Impact.LIVE, None)
    opens_per_second: Annotated[int, Integer(0, 10**7)] | None = option(
        "Sockets opened in a second (`EAGAIN`).", Impact.LIVE, None
    )
    accepts_per_second: Annotated[int, Integer(0, 10**7)] | None = option(
        "Connections accepted in a second; others wait in the listener's queue.", Impact.LIVE, None
    )
    bytes_per_second: Annotated[int, Integer(0, 10**12)] | None = option(
        "Bytes sent in a second; streams wait, datagrams are dropped.", Impact.LIVE, None
    )
    memory: Annotated[int, Integer(0, 2**40)] | None = option(
        "Bytes of its sockets' buffers: they become smaller as it goes, then no socket is opened (`ENOBUFS`).",
        Impact.LIVE,
        None,
    )


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule of the socket layer: the first whose app matches decides alone."""

    app: Annotated[str, App()] = option(
        "Who: uid:NAME, gid:NAME (or numbers), or curve:KEY.", Impact.LIVE, example="uid:dns"
    )
    allow: Annotated[tuple[Operation, ...], OrAll()] = option("What it may do, or `all`.", Impact.LIVE, example="[udp]")
    ports: Annotated[tuple[Annotated[tuple[int, int], Span(0, 65535)], ...], MaxLength(MAX_RULE_PORTS)] = option(
        "Local ports or ranges that it may bind; all without it.", Impact.LIVE, (), "[53, 1024-65535]"
    )
    prefixes: Annotated[tuple[Annotated[str, IpPrefix()], ...], MaxLength(MAX_RULE_PREFIXES)] = option(
        "Remote addresses that it may reach; all without it.", Impact.LIVE, (), "[10.0.0.0/8]"
    )
    quotas: Quotas = option("How much each user or key that the rule lets in may have.", Impact.LIVE, Quotas())


@dataclass(frozen=True, kw_only=True)
class SharedRule(Rule):
    """A rule for several routers: it stands behind the rules of each router that it names."""

    routers: tuple[Annotated[str, Glob()], ...] = option(
        "Names of routers, `*` and `?` stand for any letters; all routers without it.", Impact.LIVE, (), "['cust-*']"
    )


@dataclass(frozen=True, kw_only=True)
class Rsock:
    """The socket layer of a router: who may use it.  Without a rule only root may."""

    rules: Annotated[tuple[Rule, ...], MaxLength(MAX_RULES)] = option(
        "First match decides, then those of `defaults.rsock`; no match denies.", Impact.LIVE, ()
    )
    quotas: Quotas = option("For the rules that say none.", Impact.LIVE, Quotas())


@dataclass(frozen=True, kw_only=True)
class SharedRsock:
    """The socket layer of all routers."""

    rules: Annotated[tuple[SharedRule, ...], MaxLength(MAX_RULES)] = option(
        "Rules behind those of the routers themselves.", Impact.LIVE, ()
    )
    quotas: Quotas = option("For rules and routers that say none.", Impact.LIVE, Quotas())


@dataclass(frozen=True, kw_only=True)
class Dns:
    """Whom apps in a router ask for names; without a server no name is known there."""

    servers: Annotated[tuple[Annotated[str, IpAddress(loopback=True)], ...], MaxLength(MAX_NAME_SERVERS)] = option(
        "Name servers, asked in this order through the router.", Impact.LIVE, (), "[10.0.0.53, '2001:db8::53']"
    )
    search: Annotated[tuple[Annotated[str, Domain()], ...], MaxLength(MAX_SEARCH)] = option(
        "Domains in which a name without dots is looked for.", Impact.LIVE, (), "[red.example]"
    )


@dataclass(frozen=True, kw_only=True)
class Router:
    """A virtual router."""

    interfaces: dict[Annotated[str, Name("interface name")], Interface] = option("Interfaces by name.", Impact.LIVE, {})
    static: dict[Annotated[str, IpPrefix()], Annotated[tuple[Hop, ...], OneOrMany(), MaxLength(MAX_HOPS)]] = option(
        "Static routes by prefix: one next hop, or a list that shares the flows.", Impact.LIVE, {}
    )
    dns: Dns = option("Names for the apps of the socket layer.", Impact.LIVE, Dns())
    rsock: Rsock = option("The socket layer.", Impact.LIVE, Rsock())
    acls: Acls = option("Access control lists of its own; they come before the shared ones.", Impact.LIVE, {})
    counters: Counted = option(
        "Prefixes to count for: what is forwarded counts for the longest that holds its destination.",
        Impact.LIVE,
        (),
        "[192.0.2.0/24, '2001:db8::/32']",
    )
    control_plane: ControlPlane = option(
        "How much of what is not forwarding the router works on.", Impact.LIVE, ControlPlane()
    )
    dataplane: Dataplane = option("The forwarder: workers, processors, driver.", Impact.LINK, Dataplane())
    policy: Policy = option("Route policies of its own; they come before the shared ones.", Impact.SOFT, Policy())
    bfd: BfdSessions | None = option("BFD sessions beside those that protocols ask for.", Impact.LIVE, None)
    router_id: Annotated[str, Ipv4Address()] | None = option(
        "Number of the router in its protocols, in dotted form; by default its highest loopback address, else its"
        " highest address of IPv4.",
        Impact.SESSION,
        None,
        "10.255.0.1",
    )
    bgp: Bgp | None = option("BGP.", Impact.LIVE, None)
    ospf: Ospf | None = option("OSPF version 2.", Impact.LIVE, None)
    rip: Rip | None = option("RIPv2.", Impact.LIVE, None)
    ripng: Ripng | None = option("RIPng.", Impact.LIVE, None)


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """Values for all routers."""

    mtu: Annotated[int, Integer(68, 65535)] | None = option(
        "MTU of interfaces with a device or a patch that say none.", Impact.LINK, None, "1500"
    )
    rsock: SharedRsock = option("The socket layer of all routers.", Impact.LIVE, SharedRsock())
    bfd: MaybeBfd = option(
        "How neighbors are watched by BFD, as far as their own `bfd` does not say it.", Impact.LIVE, None
    )


@dataclass(frozen=True, kw_only=True)
class Relaying:
    """The relay, by which apps on other hosts use the routers; rules name them by their keys."""

    listen: Annotated[str, TcpEndpoint()] | None = option(
        "Where it listens; without it there is none.", Impact.LIVE, None, "tcp://192.0.2.1:9100"
    )
    curve_secret: Annotated[str, CurveKey()] | None = option(
        "Its secret CURVE key, as `!secret NAME`.  Connections through it are reset when it changes.", Impact.LIVE, None
    )
    lease: Annotated[int, Integer(1, 3600)] = option(
        "Seconds after which an app that is not heard of loses its sockets.", Impact.LIVE, 10
    )


@dataclass(frozen=True, kw_only=True)
class Api:
    """Metrics and health over HTTP: on `api.sock` in the run dir, and on an address."""

    listen: Annotated[str, LocalEndpoint()] | None = option(
        "Where it listens beside its socket; this machine alone can be given.", Impact.LIVE, None, "127.0.0.1:9101"
    )


@dataclass(frozen=True, kw_only=True)
class Config:
    """The whole configuration of a machine."""

    version: Annotated[int, Integer(1, 1)] = option("Version of this format.", Impact.NONE, 1)
    demo: Annotated[bool, Boolean()] = option(
        "Run the demonstration: hosts and an app in namespaces of its own.", Impact.BOX, default=False
    )
    uid_range: Annotated[tuple[int, int], Span(1000, 2**32 - 2)] = option(
        "User ids that routers run under, one each.",
        Impact.VR_RESTART,
        (1900000000, 1900065535),
        "1900000000-1900065535",
    )
    defaults: Defaults = option("Values for all routers.", Impact.LIVE, Defaults())
    rsock: Relaying = option("The socket layer for other hosts.", Impact.LIVE, Relaying())
    api: Api | None = option("Metrics and health over HTTP; without it there is no such process.", Impact.LIVE, None)
    policy: Policy = option("Route policies of all routers.", Impact.SOFT, Policy())
    acls: Acls = option("Access control lists that interfaces of any router can name.", Impact.LIVE, {})
    routers: dict[Annotated[str, Name("router name")], Router] = option("Virtual routers by name.", Impact.LIVE, {})
