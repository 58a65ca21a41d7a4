"""What the schema cannot say of drivers: which of them go with which interfaces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from manager.config import driver_of

if TYPE_CHECKING:
    from manager.config.crosscheck_policy import Checker
    from manager.config.merge import Path_
    from vrouter.config.schema import Interface

# What is of devices that are there without us.
_FOREIGN_ONLY: Final = ("gro", "force")


def check_drivers(checker: Checker) -> None:
    """Check all routers."""
    owners: dict[tuple[str, str], str] = {}  # device -> who names it first
    for name, router in checker.config.routers.items():
        said: dict[tuple[str, str], tuple[str, str]] = {}  # device -> its driver, and who says so
        for interface_name, interface in router.interfaces.items():
            path: Path_ = ("routers", name, "interfaces", interface_name)
            driver = driver_of(router, interface)
            _check_interface(checker, path, interface, driver)
            if interface.device and not interface.patch:
                key, user = (interface.netns or "", interface.device), f"{name}/{interface_name}"
                if interface.driver is not None:
                    known, first = said.setdefault(key, (interface.driver, user))
                    if known != interface.driver:
                        what = f"{interface.device} has 'driver: {known}' already, for {first}"
                        checker.note((*path, "driver"), what, "one device has one driver")
                        continue
                _check_user(checker, path, interface, driver, owners.setdefault(key, user))


def _check_interface(checker: Checker, path: Path_, interface: Interface, driver: str | None) -> None:
    said = interface.driver
    if (said == "pcap") != (interface.pcap is not None) and said not in {None, "auto"}:
        other = f"'driver: {said}' does not go with capture files"
        what = "'driver: pcap' needs 'pcap'" if said == "pcap" else other
        checker.note((*path, "driver"), what, "files are named in 'pcap: {in: FILE, out: FILE}'")
    files = interface.pcap
    if files is not None and files.in_ == files.out:
        where = "'in' and 'out' are one file" if files.in_ else "'pcap' names no file"
        checker.note_key((*path, "pcap"), where, "write 'in', 'out' or both")
    if driver == "af-xdp" and interface.vlan is not None:
        checker.note(
            (*path, "vlan"),
            "the driver 'af-xdp' carries no VLANs",
            "'driver: af-packet' does; tags are lost on their way to AF_XDP",
        )
    if driver == "af-xdp" and interface.offload == "tc":
        checker.note(
            (*path, "offload"),
            "'offload: tc' does not go with the driver 'af-xdp'",
            "'offload: xdp' does; AF_XDP sockets take all frames before tc has them",
        )
    if driver == "tap":
        written = checker.marks.node(path).value
        for key in _FOREIGN_ONLY:
            if isinstance(written, dict) and key in written:
                checker.note_key((*path, key), f"'{key}' does not go with 'driver: tap'", "the device is made for it")


def _check_user(checker: Checker, path: Path_, interface: Interface, driver: str | None, first: str) -> None:
    """Check that nobody shares with another router what has one router only."""
    if first.partition("/")[0] == path[1]:
        return
    if driver == "tap":
        checker.note((*path, "device"), f"the TAP {interface.device} is made for {first}", "a TAP has one router")
    elif driver == "af-xdp":
        checker.note(
            (*path, "device"), f"{interface.device} is of {first}", "with 'driver: af-xdp' a device has one router"
        )
