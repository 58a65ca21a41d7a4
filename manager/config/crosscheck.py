"""What a schema cannot say: how the values of a configuration fit together.

Runs over the typed configuration, without the parts that failed validation: nothing is said about
those, nor about references to them, nor what they might have changed.
"""

from __future__ import annotations

import grp
import pwd
from collections.abc import Iterator, Sequence
from typing import Final

from manager.config.crosscheck_acl import check_acls
from manager.config.crosscheck_bgp import check_bgp
from manager.config.crosscheck_dataplane import check_dataplanes
from manager.config.crosscheck_driver import check_drivers
from manager.config.crosscheck_ospf import check_ospf
from manager.config.crosscheck_policy import check_policies
from manager.config.crosscheck_rip import check_rip
from manager.config.errors import ConfigError
from manager.config.merge import Marks, Path_
from manager.config.validate import did_you_mean, suggest
from vrouter.config.bfd import MAX_SHORT_KEY
from vrouter.config.constraints import MAX_ROUTER_ADDRESSES, MAX_ROUTER_INTERFACES, MAX_ROUTER_PORTS, clip
from vrouter.config.schema import Config, Hop, Interface, Router, Rule
from vrouter.net.address import (
    Address,
    Prefix,
    is_link_local,
    network,
    parse_address,
    parse_interface_address,
    parse_prefix,
)

_DEVICE_ONLY: Final = ("netns", "vlan", "gro", "offload", "force")
_MIN_IPV6_MTU: Final = 1280  # RFC 8200 section 5


class _Checker:
    """Collects the errors of one configuration."""

    def __init__(self, config: Config, marks: Marks, broken: frozenset[str]) -> None:
        self.config = config
        self.marks = marks
        self.broken = broken
        self.errors: list[ConfigError] = []

    def note(self, path: Path_, message: str, help_text: str = "") -> None:
        """Note an error about the value at `path`."""
        self.errors.append(self.marks.error(self.marks.value(path), message, help_text))

    def written(self, router: str) -> list[str]:
        """Give the names of all interfaces of a router, of those too that have errors."""
        return [clip(name) for name in self.marks.keys(("routers", router, "interfaces"))]

    def note_key(self, path: Path_, message: str, help_text: str = "") -> None:
        """Note an error about the key at `path`."""
        self.errors.append(self.marks.error(self.marks.key(path), message, help_text))


def crosscheck(config: Config, marks: Marks, broken: frozenset[str] = frozenset()) -> list[ConfigError]:
    """Check all references and combinations."""
    checker = _Checker(config, marks, broken)
    for name, router in config.routers.items():
        path: Path_ = ("routers", name)
        for interface_name, interface in router.interfaces.items():
            _check_interface(checker, (*path, "interfaces", interface_name), interface)
        _check_limits(checker, path, router)
        _check_addresses(checker, path, router)
        _check_patches(checker, name, router)
        _check_static(checker, path, router)
        _check_rules(checker, (*path, "rsock", "rules"), router.rsock.rules)
        _check_bfd_sessions(checker, path, router)
    _check_rules(checker, ("defaults", "rsock", "rules"), config.defaults.rsock.rules)
    check_dataplanes(checker)
    check_drivers(checker)
    _check_devices(checker)
    _check_macs(checker)
    _check_range(checker)
    _check_relay(checker)
    check_policies(checker)
    check_acls(checker)
    check_bgp(checker)
    check_ospf(checker)
    check_rip(checker)
    return checker.errors


def _check_interface(checker: _Checker, path: Path_, interface: Interface) -> None:
    """Check which keys of one interface go together."""
    kind = "a patch link" if interface.patch else "capture files" if interface.pcap else "a loopback"
    for one, other in (("device", "patch"), ("device", "pcap"), ("patch", "pcap")):
        if getattr(interface, one) and getattr(interface, other):
            checker.note_key((*path, other), f"'{other}' and '{one}' exclude each other", "remove one of them")
            return
    if not interface.device:
        written = checker.marks.node(path).value
        keys = written.keys() if isinstance(written, dict) else ()
        refused = [*_DEVICE_ONLY, *(() if interface.pcap else ("driver",))]
        refused += () if interface.patch or interface.pcap else ("mtu", "mac", "police")
        for key in refused:
            if key in keys:
                checker.note_key((*path, key), f"'{key}' does not go with {kind}", "it needs 'device'")
    has_ipv6 = any(":" in address for address in interface.addresses)
    mtu = interface.mtu or (checker.config.defaults.mtu if not _is_loopback(interface) else None)
    if has_ipv6 and mtu is not None and mtu < _MIN_IPV6_MTU:
        checker.note(
            (*path, "mtu"),
            f"an MTU of {mtu} is too small for IPv6",
            f"at least {_MIN_IPV6_MTU}, or remove the IPv6 addresses",
        )


def _check_bfd_sessions(checker: _Checker, path: Path_, router: Router) -> None:
    """Check the sessions that stand by themselves."""
    sessions = router.bfd.sessions if router.bfd is not None else {}
    for name, session in sessions.items():
        here = (*path, "bfd", "sessions", name)
        if session.interface is not None and session.interface not in checker.written(str(path[-1])):
            known = checker.written(str(path[-1]))
            near = did_you_mean(suggest(session.interface, known))
            checker.note((*here, "interface"), f"there is no interface '{session.interface}'", near)
        if session.local is not None and parse_address(session.local).family != parse_address(session.remote).family:
            checker.note((*here, "local"), "'local' and 'remote' are of different families")
        key = session.authentication
        if key is not None and not key.type.endswith("sha1") and len(key.key.encode()) > MAX_SHORT_KEY:
            checker.note((*here, "authentication", "key"), f"a key of {key.type} has at most {MAX_SHORT_KEY} bytes")


def _check_limits(checker: _Checker, path: Path_, router: Router) -> None:
    interfaces = router.interfaces.values()
    # Each interface with IPv6 also gets a link-local address.
    addresses = sum(len(interface.addresses) + 1 for interface in interfaces)
    for count, limit, what in (
        (len(router.interfaces), MAX_ROUTER_INTERFACES, "interfaces"),
        (
            sum(bool(interface.device or interface.patch or interface.pcap) for interface in interfaces),
            MAX_ROUTER_PORTS,
            "devices and patch links",
        ),
        (addresses, MAX_ROUTER_ADDRESSES, "addresses, link-local ones included"),
    ):
        if count > limit:
            checker.note_key((*path, "interfaces"), f"the router has {count} {what}", f"at most {limit} are possible")


def _connected(router: Router) -> Iterator[tuple[str, int, Address, Prefix]]:
    """Give each address with its interface, its position there, and its prefix."""
    for name, interface in router.interfaces.items():
        for position, text in enumerate(interface.addresses):
            address, length = parse_interface_address(text)
            yield name, position, address, network(address, length)


def _check_addresses(checker: _Checker, path: Path_, router: Router) -> None:
    """Check for one address twice in one router; a link-local one may stand on several interfaces."""
    seen: dict[tuple[Address, str], str] = {}
    for name, position, address, _ in _connected(router):
        scope = (address, name if is_link_local(address) else "")
        if scope in seen:
            where = "here" if seen[scope] == name else f"on interface '{seen[scope]}'"
            here: Path_ = (*path, "interfaces", name, "addresses", position)
            checker.note(here, f"the address {address} stands {where} already", "an address stands once in a router")
        seen.setdefault(scope, name)


def _check_patches(checker: _Checker, name: str, router: Router) -> None:
    """Check that the two ends of each patch link name each other and agree."""
    for key, interface in router.interfaces.items():
        if interface.patch is None or interface.device:
            continue
        path: Path_ = ("routers", name, "interfaces", key, "patch")
        peer_name, _, peer_key = interface.patch.partition("/")
        if (peer_name, peer_key) == (name, key):
            checker.note(path, "a patch link cannot end where it begins")
        elif peer_name in checker.config.routers:
            _check_peer(checker, path, f"{name}/{key}", interface, peer_name, peer_key)
        elif peer_name not in checker.broken and not checker.marks.incomplete:
            near = did_you_mean(suggest(peer_name, checker.config.routers))
            checker.note(path, f"no router '{peer_name}'", near.rstrip())


def _check_peer(checker: _Checker, path: Path_, own: str, interface: Interface, peer_name: str, peer_key: str) -> None:
    interfaces = checker.written(peer_name)
    peer = checker.config.routers[peer_name].interfaces.get(peer_key)
    if peer_key not in interfaces and not checker.marks.incomplete:
        near = did_you_mean(suggest(peer_key, interfaces))
        checker.note(path, f"router '{peer_name}' has no interface '{peer_key}'", f"{near}it needs 'patch: {own}'")
    elif peer is None:
        return
    elif peer.patch != own:
        says = f"says 'patch: {peer.patch}'" if peer.patch else "is no patch link"
        checker.note(path, f"the other end, {peer_name}/{peer_key}, {says}", f"it needs 'patch: {own}'")
    elif own < f"{peer_name}/{peer_key}" and interface.mtu != peer.mtu:
        checker.note(
            path, f"the ends of this link differ in their MTU: {interface.mtu or 'default'} and {peer.mtu or 'default'}"
        )


class _Reach:
    """What a router reaches without a gateway, by longest match as the RIB does."""

    def __init__(self, router: Router) -> None:
        self.router = router
        self.own: set[Address] = set()
        self._connected: set[Prefix] = set()
        self._static: dict[Prefix, bool] = {}  # does it lead anywhere?
        for name, _, address, prefix in _connected(router):
            self.own.add(address)
            # Nobody but ourselves is on a loopback.
            if not _is_loopback(router.interfaces[name]) and not is_link_local(address):
                self._connected.add(prefix)
        for text, hops in router.static.items():
            self._static[parse_prefix(text)] = any(hop.via or hop.interface for hop in hops)
        self._lengths = sorted({(p.family, p.length) for p in (*self._connected, *self._static)}, reverse=True)

    def neighbor(self, via: Address, route: Prefix) -> bool:
        """Tell whether `via` is on a connected prefix, or behind a static route other than `route` and a default."""
        for family, length in self._lengths:
            if family == via.family:
                prefix = network(via, length)
                if prefix in self._connected:
                    return True
                if length and prefix != route and prefix in self._static:
                    return self._static[prefix]
        return False

    def neighborhood(self, family: int) -> str:
        """Name some connected prefixes."""
        found = [str(prefix) for prefix in sorted(self._connected) if prefix.family == family]
        return ", ".join(found[:6]) + (", ..." if len(found) > 6 else "")


def _check_static(checker: _Checker, path: Path_, router: Router) -> None:
    reach = _Reach(router)
    for text, hops in router.static.items():
        here: Path_ = (*path, "static", text)
        prefix = parse_prefix(text)
        for position, hop in enumerate(hops):
            _check_hop(checker, (*here, position), prefix, hop, reach)
        if len(hops) > 1 and any(hop.discard for hop in hops):
            checker.note_key(here, "'discard' cannot be one of several next hops")
        if not hops:
            checker.note_key(
                here, f"the route to {text} has no next hop", "write 'via', 'interface' or 'discard: true'"
            )
        places = [(hop.via, hop.interface) for hop in hops if not hop.discard]
        for position, place in enumerate(places):
            if place in places[:position] and place != (None, None):
                checker.note((*here, position), "this next hop stands here twice", "use 'weight' for a larger share")


def _check_hop(checker: _Checker, path: Path_, prefix: Prefix, hop: Hop, reach: _Reach) -> None:
    interfaces = reach.router.interfaces
    names = checker.written(str(path[1]))
    if hop.bfd is not None and hop.bfd.enabled and not hop.via:
        checker.note((*path, "bfd"), "'bfd' watches the router that 'via' names, and there is none")
    if hop.discard and (hop.via or hop.interface):
        checker.note((*path, "discard"), "'discard' excludes 'via' and 'interface'")
    elif not hop.discard and not hop.via and not hop.interface:
        checker.note(path, f"the route to {prefix} has no next hop", "write 'via', 'interface' or 'discard: true'")
    elif hop.interface is not None and hop.interface not in names:
        near = did_you_mean(suggest(hop.interface, names))
        known = f"interfaces here: {', '.join(names)}" if names else "this router has no interface"
        checker.note((*path, "interface"), f"no interface '{hop.interface}'", near + known)
    elif hop.interface in interfaces and _is_loopback(interfaces[hop.interface]):
        hint = "for packets to drop write 'discard: true'"
        checker.note((*path, "interface"), f"'{hop.interface}' is a loopback: nothing can leave by it", hint)
    elif hop.via is not None:
        _check_via(checker, (*path, "via"), prefix, hop, reach)


def _is_loopback(interface: Interface) -> bool:
    return not interface.device and not interface.patch and not interface.pcap


def _check_via(checker: _Checker, path: Path_, prefix: Prefix, hop: Hop, reach: _Reach) -> None:
    """Check that a next hop is of the prefix's family, a neighbor, and not ourselves."""
    assert hop.via is not None
    via = parse_address(hop.via)
    if via.family != prefix.family:
        checker.note(path, f"the next hop {via} is not IPv{prefix.family}, as the prefix {prefix} is")
    elif is_link_local(via) and hop.interface is None:
        checker.note(path, f"the next hop {via} is link-local", "name the 'interface' beside it")
    elif via in reach.own:
        checker.note(path, f"the next hop {via} is an address of this router")
    elif hop.interface is None and path[1] not in checker.broken and not reach.neighbor(via, prefix):
        near = reach.neighborhood(via.family)
        known = f"connected here: {near}" if near else "name the 'interface' beside it, or give an interface an address"
        checker.note(path, f"the next hop {via} is on no connected prefix", known)


def _check_rules(checker: _Checker, path: Path_, rules: Sequence[Rule]) -> None:
    for position, rule in enumerate(rules):
        kind, _, who = rule.app.partition(":")
        here: Path_ = (*path, position)
        if kind == "uid" and not who.isdecimal() and _unknown_user(who):
            near = suggest(who, [entry.pw_name for entry in pwd.getpwall()])
            checker.note((*here, "app"), f"no user '{who}' on this machine", did_you_mean(near).rstrip())
        if kind == "gid" and not who.isdecimal() and _unknown_group(who):
            near = suggest(who, [entry.gr_name for entry in grp.getgrall()])
            checker.note((*here, "app"), f"no group '{who}' on this machine", did_you_mean(near).rstrip())
        if not rule.allow:
            checker.note((*here, "allow"), "the list is empty", "to deny, leave the app out: no match denies")


def _unknown_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return True
    return False


def _unknown_group(name: str) -> bool:
    try:
        grp.getgrnam(name)
    except KeyError:
        return True
    return False


def _check_devices(checker: _Checker) -> None:
    """Check that each device, or each VLAN of it, has one owner."""
    owners: dict[tuple[str, str], dict[int, str]] = {}
    for name, router in checker.config.routers.items():
        for key, interface in router.interfaces.items():
            if interface.device is None or interface.patch:
                continue
            users = owners.setdefault((interface.netns or "", interface.device), {})
            _check_owner(checker, users, ("routers", name, "interfaces", key), interface)


def _check_owner(checker: _Checker, users: dict[int, str], path: Path_, interface: Interface) -> None:
    """Note a conflict with the interfaces that use the same device, by VLAN; 0 is the untagged whole."""
    own = f"{path[1]}/{path[3]}"
    vlan = interface.vlan or 0
    if vlan in users:
        what = f"VLAN {vlan} of device {interface.device}" if vlan else f"the device {interface.device}"
        checker.note((*path, "vlan" if vlan else "device"), f"{what} belongs to {users[vlan]} already")
        return
    strangers = sorted(user for user in users.values() if user.partition("/")[0] != path[1])
    if vlan == 0 and strangers:
        checker.note(
            (*path, "device"),
            f"{interface.device} cannot be taken whole: {strangers[0]} uses a VLAN of it",
            "name a 'vlan' here too",
        )
    elif 0 in users and users[0].partition("/")[0] != path[1]:
        checker.note(
            (*path, "device"), f"{interface.device} belongs to {users[0]} as a whole", "name a 'vlan' there too"
        )
    users[vlan] = own


def _check_macs(checker: _Checker) -> None:
    """Check that the interfaces of one router on one device agree on its MAC."""
    macs: dict[tuple[Path_, str | None, str], str] = {}
    for name, router in checker.config.routers.items():
        path: Path_ = ("routers", name, "interfaces")
        for key, interface in router.interfaces.items():
            if interface.device is None or interface.mac is None:
                continue
            first = macs.setdefault((path, interface.netns, interface.device), interface.mac)
            if first != interface.mac:
                checker.note(
                    (*path, key, "mac"),
                    f"{interface.device} has the MAC {first} already",
                    "the VLANs of a device share its MAC",
                )


def _check_relay(checker: _Checker) -> None:
    """Check that there is no relay without CURVE, and that its key is no text for everybody to read."""
    relay = checker.config.rsock
    if relay.listen is not None and relay.curve_secret is None:
        checker.note(("rsock", "listen"), "without 'curve-secret' nobody could be let in", "add 'curve-secret'")
    if relay.curve_secret is not None and not checker.marks.secret(("rsock", "curve-secret")):
        checker.note(("rsock", "curve-secret"), "a secret key stands here for all to read", "write '!secret NAME'")


def _check_range(checker: _Checker) -> None:
    first, last = checker.config.uid_range
    count = len(checker.config.routers.keys() | checker.broken)
    if last - first + 1 < count:
        checker.note(
            ("uid-range",),
            f"the range holds {last - first + 1} ids for {count} routers",
            "each router runs under one of its own",
        )
