"""Checks how the parts of a router's BGP fit together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from manager.config.merge import Path_
from manager.config.validate import did_you_mean, suggest
from vrouter.config.bgp import Bgp, Neighbor, Session
from vrouter.net.address import is_link_local, parse_address, parse_interface_address

if TYPE_CHECKING:
    from manager.config.crosscheck_policy import Checker


def check_bgp(checker: Checker) -> None:
    """Check the BGP of each router."""
    for name, router in checker.config.routers.items():
        if router.bgp is None:
            continue
        path: Path_ = ("routers", name, "bgp")
        interfaces = [str(key) for key in checker.marks.keys(("routers", name, "interfaces"))]
        for group_name, group in router.bgp.groups.items():
            _check_session(checker, (*path, "groups", group_name), router.bgp, group, group, interfaces)
        own = {
            parse_interface_address(text)[0]
            for interface in router.interfaces.values() for text in interface.addresses
        }  # fmt: skip
        for address, neighbor in router.bgp.neighbors.items():
            if (ours := parse_address(address)) in own and not is_link_local(ours):
                checker.note_key((*path, "neighbors", address), f"the neighbor {ours} is an address of this router")
            _check_neighbor(checker, (*path, "neighbors", address), router.bgp, neighbor, interfaces)
        for prefix, entry in router.bgp.listen.items():
            here: Path_ = (*path, "listen", prefix)
            if _check_group(checker, here, router.bgp, entry.group):
                _check_as(checker, here, router.bgp.groups[entry.group], None)


def _check_neighbor(checker: Checker, path: Path_, bgp: Bgp, neighbor: Neighbor, interfaces: Iterable[str]) -> None:
    address = parse_address(str(path[-1]))
    group = None
    if neighbor.group is not None:
        if not _check_group(checker, path, bgp, neighbor.group):
            return
        group = bgp.groups[neighbor.group]
    _check_as(checker, path, neighbor, group)
    _check_session(checker, path, bgp, neighbor, group or neighbor, interfaces)
    interface = neighbor.interface or (group.interface if group is not None else None)
    if is_link_local(address) and interface is None:
        checker.note_key(path, f"the neighbor {address} is link-local", "name the 'interface' that it is on")
    local = neighbor.local_address or (group.local_address if group is not None else None)
    if local is not None and parse_address(local).family != address.family:
        where: Path_ = (*path, "local-address") if neighbor.local_address else path
        checker.note_key(
            where, f"the local address {local} is not of IPv{address.family}, as the neighbor {address} is"
        )


def _check_group(checker: Checker, path: Path_, bgp: Bgp, name: str) -> bool:
    """Check that a group exists."""
    if name in bgp.groups:
        return True
    if path[1] not in checker.broken:
        near = did_you_mean(suggest(name, bgp.groups))
        known = f"groups here: {', '.join(bgp.groups)}" if bgp.groups else "this router has no group"
        checker.note((*path, "group"), f"no group '{name}'", near + known)
    return False


def _check_as(checker: Checker, path: Path_, own: Session, group: Session | None) -> None:
    """Check that somebody says in which AS the neighbor is."""
    if own.remote_as is None and (group is None or group.remote_as is None):
        hint = "write 'remote-as' here or in its group"
        checker.note_key(path, f"nobody says in which AS {path[-1]} is", hint)


def _check_session(
    checker: Checker, path: Path_, bgp: Bgp, own: Session, group: Session, interfaces: Iterable[str]
) -> None:
    """Check which values of a neighbor, or a group, go together."""
    remote = own.remote_as or group.remote_as
    internal = remote is not None and remote == (own.local_as or group.local_as or bgp.asn)
    if own.gtsm is not None and (own.multihop or group.multihop) is not None:
        checker.note_key(
            (*path, "gtsm"), "'gtsm' and 'multihop' exclude each other", "'gtsm: 3' reaches over three hops"
        )
    for key, value in (("multihop", own.multihop), ("role", own.role), ("as-override", own.as_override)):
        if value and internal:
            checker.note_key((*path, key), f"'{key}' is for neighbors in other ASes, and AS {remote} is our own")
    if own.route_reflector_client and remote is not None and not internal:
        checker.note_key((*path, "route-reflector-client"), f"a client is in our own AS, not in AS {remote}")
    if own.interface is not None and own.interface not in set(interfaces):
        near = did_you_mean(suggest(own.interface, interfaces))
        checker.note((*path, "interface"), f"no interface '{own.interface}'", near.rstrip())
    timers = own.timers
    if timers is not None and timers.hold in {1.0, 2.0}:
        checker.note(
            (*path, "timers", "hold"), "a hold time of one or two seconds is not allowed", "0s, or at least 3s"
        )
