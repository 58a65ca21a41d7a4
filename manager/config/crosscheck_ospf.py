"""Checks how the parts of a router's OSPF fit together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from manager.config.merge import Path_
from manager.config.validate import did_you_mean, suggest
from vrouter.config.ospf import Area, OspfInterface
from vrouter.net.address import IPV4, parse_prefix

if TYPE_CHECKING:
    from manager.config.crosscheck_policy import Checker


def check_ospf(checker: Checker) -> None:
    """Check the OSPF of each router."""
    for name, router in checker.config.routers.items():
        if router.ospf is None:
            continue
        path: Path_ = ("routers", name, "ospf")
        homes: dict[str, str] = {}
        for identifier, area in router.ospf.areas.items():
            _check_area(checker, (*path, "areas", identifier), identifier, area, homes)


def _check_area(checker: Checker, path: Path_, identifier: str, area: Area, homes: dict[str, str]) -> None:
    if identifier == "0.0.0.0" and area.type != "normal":
        checker.note((*path, "type"), f"the backbone cannot be a {area.type} area")
    if area.nssa_ranges and area.type != "nssa":
        checker.note_key((*path, "nssa-ranges"), "the area is no NSSA", "write 'type: nssa'")
    for key, ranges in (("ranges", area.ranges), ("nssa-ranges", area.nssa_ranges)):
        for prefix in ranges:
            if parse_prefix(prefix).family != IPV4:
                checker.note_key((*path, key, prefix), f"{prefix} is not of IPv4")
    interfaces = [str(key) for key in checker.marks.keys(("routers", path[1], "interfaces"))]
    for name, interface in area.interfaces.items():
        here: Path_ = (*path, "interfaces", name)
        if name not in interfaces and str(path[1]) not in checker.broken:
            near = did_you_mean(suggest(name, interfaces))
            shown = f"interfaces here: {', '.join(interfaces)}" if interfaces else "this router has no interface"
            checker.note_key(here, f"no interface '{name}'", near + shown)
        if name in homes:
            checker.note_key(here, f"the interface '{name}' is in area {homes[name]} already")
        homes[name] = identifier
        _check_interface(checker, here, interface)


def _check_interface(checker: Checker, path: Path_, interface: OspfInterface) -> None:
    if interface.dead_interval is not None and interface.dead_interval <= interface.hello_interval:
        hint = "four hellos are usual"
        checker.note((*path, "dead-interval"), "'dead-interval' is not longer than 'hello-interval'", hint)
    if interface.neighbors and interface.network != "point-to-multipoint":
        hint = "write 'network: point-to-multipoint'"
        checker.note_key((*path, "neighbors"), "neighbors are found by multicast here", hint)
    keys = interface.authentication
    if keys is None:
        return
    numbers = [
        key.key_id
        for held in (keys.md5, keys.hmac_sha_1, keys.hmac_sha_256, keys.hmac_sha_384, keys.hmac_sha_512)
        for key in held
    ]
    if keys.simple is not None and numbers:
        checker.note_key((*path, "authentication", "simple"), "a password and keys exclude each other")
    if len(set(numbers)) < len(numbers):
        checker.note_key((*path, "authentication"), "two keys have the same 'key-id'")
