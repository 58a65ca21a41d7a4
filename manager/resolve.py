"""From the operator's configuration to what each VR is told: names become numbers.

    Config -> Plan of each router: its couplings (PortPlan), and, once their MACs, MTUs and port ids are
    known, its RouterConfig

A device that one router alone uses is moved into it whole; VLANs are then sub-interfaces of one port.
A device that several routers use stays, and each VLAN is a port of its own, untagged.
"""

from __future__ import annotations

import grp
import hashlib
import pwd
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Final, Literal

from rsock.wire import Right
from vrouter.config import router as resolved
from vrouter.config import schema
from vrouter.config.acl import Acls
from vrouter.config.bfd import resolve_bfd
from vrouter.config.constraints import MAX_RULES
from vrouter.config.dataplane import Dataplane
from vrouter.config.driver import Driver, Pcap
from vrouter.config.policy import merge

RIGHTS: Final = {right.name.lower(): right for right in Right if right.name}
LOOPBACK_MTU: Final = 65535
# What `schema.Quotas` tells; enough for any program that means well.
_BUILT_IN: Final = schema.Quotas(sockets=16384, opens_per_second=10_000, memory=1 << 30)
LINK_MTU: Final = 9000  # of a patch link that says none: nothing but memory limits it
# What this module makes itself; what else stands under one name in both schemas travels as it is.
_OWN_OF_ROUTER: Final = frozenset({"interfaces", "static", "rules"})
# Kinds of ports on which VLANs are sub-interfaces.
_WHOLE: Final = frozenset({"device", "tap"})
_OWN_OF_INTERFACE: Final = frozenset({"mtu", "mac", "vlan", "addresses"})


class ResolveError(Exception):
    """The configuration names something that this machine does not have."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True)
class PortPlan:
    """One coupling of a VR with the world.  Equal plans need no work."""

    kind: Literal["device", "share", "patch", "tap", "pcap"]
    device: str = ""
    netns: str | None = None
    vlan: int = 0  # of a share
    mtu: int | None = None
    mac: str | None = None
    tagged: bool = False  # VLAN sub-interfaces stand on it
    own: str = ""  # of a patch: "red/to-blue"
    peer: str = ""
    gro: bool = False  # asked for, on a device
    driver: Driver = "auto"  # of a device or share
    busy_poll_us: int = 0  # AF_XDP; 0: never
    pcap: Pcap | None = None

    @property
    def key(self) -> str:
        """What names this coupling within its VR, also across a restart of the manager."""
        if self.kind in {"patch", "pcap"}:
            return f"{self.kind}:{self.own}"
        return f"{self.kind}:{self.netns or ''}:{self.device}:{self.vlan}"


@dataclass(frozen=True)
class InterfacePlan:
    """An interface and the port that carries it; None: a loopback."""

    name: str
    kind: Literal["ethernet", "vlan", "loopback"]
    port: str | None
    vlan: int
    mtu: int | None
    addresses: tuple[str, ...]
    protocols: dict[str, Any] = field(default_factory=dict)  # fields of resolved.Interface


@dataclass(frozen=True)
class RouterPlan:
    """All of one VR but for what only coupling can tell."""

    name: str
    ports: dict[str, PortPlan]
    forced: frozenset[str]  # keys of ports that may be taken in any case
    interfaces: tuple[InterfacePlan, ...]
    static: tuple[resolved.StaticRoute, ...]
    rules: tuple[resolved.Rule, ...]
    dns: schema.Dns
    dataplane: Dataplane = Dataplane()  # noqa: RUF009 - frozen
    protocols: dict[str, Any] = field(default_factory=dict)  # fields of resolved.RouterConfig
    offloaded: Mapping[str, str] = field(default_factory=dict)  # keys of ports -> how their packets are forwarded


@dataclass(frozen=True)
class PortFacts:
    """What coupling has told: the id is the manager's choice."""

    id: int
    mac: str
    mtu: int


def resolve(config: schema.Config) -> dict[str, RouterPlan]:
    """Plan every router.  Raises ResolveError with all problems."""
    problems: list[str] = []
    users: dict[tuple[str | None, str], set[str]] = {}
    for name, router in config.routers.items():
        for interface in router.interfaces.values():
            if interface.device and interface.driver != "tap":
                users.setdefault((interface.netns, interface.device), set()).add(name)
    shared = {device for device, routers in users.items() if len(routers) > 1}
    plans = {}
    for name, router in config.routers.items():
        seen = replace(router, policy=merge(config.policy, router.policy), acls=bound_lists(config.acls, router))
        plans[name] = _plan(name, seen, shared, config.defaults, problems)
    if problems:
        raise ResolveError(problems)
    return plans


def bound_lists(shared: Acls, router: schema.Router) -> Acls:
    """Give the access control lists that interfaces of a router name: under each name its own, else the shared."""
    named = [(each.acl.in_, each.acl.out) for each in router.interfaces.values() if each.acl is not None]
    known = {**shared, **router.acls}
    return {name: known[name] for pair in named for name in pair if name in known}


def router_config(
    plan: RouterPlan, router_id: int, facts: Callable[[str], PortFacts], relay_uid: int = 0
) -> resolved.RouterConfig:
    """Make what control is sent; `facts` tells of a port by its key."""
    interfaces = []
    for interface in plan.interfaces:
        if interface.port is None:
            mtu = interface.mtu or LOOPBACK_MTU
            interfaces.append(
                resolved.Interface(
                    interface.name, "loopback", mtu=mtu, addresses=interface.addresses, **interface.protocols
                )
            )
            continue
        port = facts(interface.port)
        interfaces.append(
            resolved.Interface(
                interface.name,
                interface.kind,
                port=port.id,
                vlan=interface.vlan,
                mac=port.mac,
                mtu=interface.mtu or port.mtu,
                addresses=interface.addresses,
                **interface.protocols,
            )
        )
    return resolved.RouterConfig(
        plan.name, router_id, tuple(interfaces), plan.static, plan.rules, relay_uid, **plan.protocols
    )


def patch_mac(end: str) -> str:
    """Give the MAC of one end of a patch link: stable, locally administered (IEEE 802c), unicast."""
    digest = bytearray(hashlib.sha256(end.encode()).digest()[:6])
    digest[0] = 0x02
    return digest.hex(":")


def _plan(
    name: str,
    router: schema.Router,
    shared: set[tuple[str | None, str]],
    defaults: schema.Defaults,
    problems: list[str],
) -> RouterPlan:
    by_port: dict[str, list[schema.Interface]] = {}
    drafts: dict[str, PortPlan] = {}
    interfaces = []
    for if_name, interface in router.interfaces.items():
        port = _port_of(name, if_name, interface, shared, router.dataplane.driver)
        vlan = interface.vlan or 0 if port and port.kind in _WHOLE else 0
        kind: Literal["ethernet", "vlan", "loopback"] = "loopback" if port is None else "vlan" if vlan else "ethernet"
        key = port.key if port else None
        protocols = resolve_bfd(_passed_on(interface, resolved.Interface, _OWN_OF_INTERFACE), defaults.bfd)
        interfaces.append(InterfacePlan(if_name, kind, key, vlan, interface.mtu, interface.addresses, protocols))
        if port is not None:
            drafts.setdefault(port.key, port)
            by_port.setdefault(port.key, []).append(interface)
    busy_poll_us = round(router.dataplane.busy_poll * 1e6)
    ports = {key: _merge(drafts[key], users, busy_poll_us) for key, users in by_port.items()}
    forced = frozenset(key for key, users in by_port.items() if any(user.force for user in users))
    rules = tuple(_rules(name, router.rsock, defaults.rsock, problems))
    protocols = _passed_on(router, resolved.RouterConfig, _OWN_OF_ROUTER)
    for key in protocols.keys() - {"bfd"}:  # there it is the default of many things
        protocols[key] = _completed(protocols[key], getattr(defaults, key, None))
    protocols = resolve_bfd(protocols, defaults.bfd)
    static = resolve_bfd(tuple(_static(router)), defaults.bfd)
    return RouterPlan(
        name, ports, forced, tuple(interfaces), static, rules, router.dns, router.dataplane, protocols=protocols,
        offloaded={key: user.offload for key, users in by_port.items() for user in users if user.offload != "none"},
    )  # fmt: skip


def _passed_on(written: Any, into: Any, own: frozenset[str]) -> dict[str, Any]:
    """Give what the operator wrote and control gets as it is."""
    names = {each.name for each in fields(written)} - own
    return {each.name: getattr(written, each.name) for each in fields(into) if each.name in names}


def _completed(written: Any, default: Any) -> Any:
    """Take from `defaults` what a router does not say."""
    if written is None or default is None:
        return default if written is None else written
    if not is_dataclass(written) or isinstance(written, type) or type(written) is not type(default):
        return written
    unsaid = [each.name for each in fields(written) if getattr(written, each.name) is None]
    return replace(written, **{name: getattr(default, name) for name in unsaid})


def _port_of(
    router: str, name: str, interface: schema.Interface, shared: set[tuple[str | None, str]], default: Driver
) -> PortPlan | None:
    if interface.patch:
        return PortPlan("patch", own=f"{router}/{name}", peer=interface.patch)
    if interface.pcap:
        return PortPlan("pcap", own=f"{router}/{name}", driver="pcap", pcap=interface.pcap)
    if not interface.device:
        return None
    driver = interface.driver or default
    if driver == "tap":
        return PortPlan("tap", interface.device, interface.netns, own=f"{router}/{interface.device}", driver=driver)
    if (interface.netns, interface.device) in shared:
        return PortPlan("share", interface.device, interface.netns, interface.vlan or 0, driver=driver)
    return PortPlan("device", interface.device, interface.netns, driver=driver)


def _merge(port: PortPlan, users: list[schema.Interface], busy_poll_us: int) -> PortPlan:
    """Ask of a device what all its interfaces need."""
    mtus = [user.mtu for user in users if user.mtu]
    macs = [user.mac for user in users if user.mac]
    return replace(
        port,
        mtu=max(mtus, default=None),
        mac=macs[0] if macs else None,
        tagged=port.kind == "device" and any(user.vlan for user in users),  # all that comes by a TAP is ours anyway
        gro=any(user.gro for user in users),
        busy_poll_us=busy_poll_us if port.driver == "af-xdp" else 0,
    )


def _static(router: schema.Router) -> Iterator[resolved.StaticRoute]:
    for prefix, hops in router.static.items():
        yield resolved.StaticRoute(
            prefix, tuple(resolved.StaticHop(**_passed_on(hop, resolved.StaticHop, frozenset())) for hop in hops)
        )


def _rules(name: str, rsock: schema.Rsock, common: schema.SharedRsock, problems: list[str]) -> Iterator[resolved.Rule]:
    """Give the rules of a router: its own, then those that it shares with others."""
    behind = [rule for rule in common.rules if not rule.routers or any(fnmatchcase(name, it) for it in rule.routers)]
    if len(rsock.rules) + len(behind) > MAX_RULES:
        problems.append(f"routers.{name}.rsock.rules: with those of defaults.rsock.rules more than {MAX_RULES}")
        return
    for rule in (*rsock.rules, *behind):
        yield replace(_rule(name, rule, problems), quota=_quota(rule.quotas, rsock.quotas, common.quotas))


def _quota(*quotas: schema.Quotas) -> resolved.Quota:
    """Take of each number the first that is written."""
    found: dict[str, int] = {}
    for each in (*quotas, _BUILT_IN):
        for limit in fields(each):
            value = getattr(each, limit.name)
            if value is not None:
                found.setdefault(limit.name.removesuffix("_per_second"), value)
    return resolved.Quota(**found)


def _rule(router: str, rule: schema.Rule, problems: list[str]) -> resolved.Rule:
    operations = sum(RIGHTS[word] for word in rule.allow)
    kind, _colon, who = rule.app.partition(":")
    if kind == "curve":
        return resolved.Rule("curve", 0, who.encode(), operations, rule.ports, rule.prefixes)
    number = 0
    try:
        if who.isascii() and who.isdigit():
            number = int(who)
        else:
            number = pwd.getpwnam(who).pw_uid if kind == "uid" else grp.getgrnam(who).gr_gid
    except KeyError:
        what = "user" if kind == "uid" else "group"
        problems.append(f"routers.{router}.rsock.rules: this machine knows no {what} {who!r}")
    return resolved.Rule("uid" if kind == "uid" else "gid", number, b"", operations, rule.ports, rule.prefixes)
