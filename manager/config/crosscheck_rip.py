"""What the schema cannot say of RIP, router advertisements and route leaking."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from manager.config.validate import did_you_mean, suggest
from vrouter.config.constraints import clip
from vrouter.config.ra import MAX_PREFIXES
from vrouter.config.rip import RipAuthentication, RipInterface
from vrouter.net.address import IPV4, IPV6, parse_address, parse_interface_address, parse_prefix

if TYPE_CHECKING:
    from manager.config.crosscheck_policy import Checker
    from manager.config.merge import Path_
    from vrouter.config.rip import Rip, Ripng
    from vrouter.config.schema import Interface, Router

_DIGESTS: Final = ("md5", "hmac_sha_1", "hmac_sha_256", "hmac_sha_384", "hmac_sha_512")


def check_rip(checker: Checker) -> None:
    """Check all routers."""
    for name, router in checker.config.routers.items():
        _check_router(checker, ("routers", name), router)


def _check_router(checker: Checker, path: Path_, router: Router) -> None:
    for key, settings, family in (("rip", router.rip, IPV4), ("ripng", router.ripng, IPV6)):
        if settings is not None:
            _check_process(checker, (*path, key), settings, family)
    for name, interface in router.interfaces.items():
        here: Path_ = (*path, "interfaces", name)
        _check_ra(checker, here, interface)
        if interface.leak is not None and not interface.patch:
            checker.note_key((*here, "leak"), "'leak' needs a patch link", "routes leak to the router at its other end")


def _check_process(checker: Checker, path: Path_, settings: Rip | Ripng, family: int) -> None:
    names = [clip(name) for name in checker.marks.keys((*path[:2], "interfaces"))]
    for name, interface in settings.interfaces.items():
        here: Path_ = (*path, "interfaces", name)
        if name not in names:
            near = did_you_mean(suggest(name, names))
            known = f"interfaces here: {', '.join(names)}" if names else "this router has no interface"
            checker.note_key(here, f"no interface '{name}'", near + known)
        for position, text in enumerate(interface.neighbors):
            if parse_address(text).family != family:
                checker.note((*here, "neighbors", position), f"the neighbor {text} has no IPv{family} address")
        if isinstance(interface, RipInterface) and interface.authentication is not None:
            _check_authentication(checker, (*here, "authentication"), interface.authentication)
    timers = settings.timers
    if timers.timeout <= timers.update:
        checker.note(
            (*path, "timers"), "routes would time out before they are heard again", "make 'timeout' several 'update'"
        )
    protocols = [each.protocol for each in settings.redistribute]
    for position, protocol in enumerate(protocols):
        if protocol in protocols[:position]:
            checker.note((*path, "redistribute", position), f"'{protocol}' stands here twice")


def _check_authentication(checker: Checker, path: Path_, settings: RipAuthentication) -> None:
    keys = [(kind.replace("_", "-"), key.key_id) for kind in _DIGESTS for key in getattr(settings, kind)]
    if not keys and settings.password is None:
        words = ", ".join(kind.replace("_", "-") for kind in ("password", *_DIGESTS))
        checker.note(path, "no kind of authentication", f"write one of {words}")
    elif keys and settings.password is not None:
        checker.note((*path, "password"), f"'password' and '{keys[0][0]}' exclude each other")
    seen: dict[int, str] = {}
    for kind, number in keys:
        if number in seen:
            hint = "neighbors know a key by its number"
            checker.note((*path, kind), f"key {number} stands in '{seen[number]}' already", hint)
        seen.setdefault(number, kind)


def _check_ra(checker: Checker, path: Path_, interface: Interface) -> None:
    if interface.ra is None or not interface.ra.enabled:
        return
    own = [parse_interface_address(text)[0] for text in interface.addresses]
    if not interface.device and not interface.patch and not interface.pcap:
        checker.note_key((*path, "ra"), "nobody hears router advertisements on a loopback")
    elif not any(address.family == IPV6 for address in own):
        checker.note_key((*path, "ra"), "the interface has no IPv6 address", "add one to 'addresses'")
    if len(interface.ra.prefixes) > MAX_PREFIXES:
        checker.note_key((*path, "ra", "prefixes"), f"more than {MAX_PREFIXES} prefixes")
    for text in interface.ra.prefixes:
        if parse_prefix(text).family != IPV6:
            checker.note_key((*path, "ra", "prefixes", text), f"{text} is no IPv6 prefix")
    for position, text in enumerate(interface.ra.dns_servers):
        if parse_address(text).family != IPV6:
            hint = "router advertisements carry IPv6 addresses only"
            checker.note((*path, "ra", "dns-servers", position), f"{text} is no IPv6 address", hint)
