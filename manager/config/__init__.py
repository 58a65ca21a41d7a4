"""The operator's configuration: read, merge, validate, compare.

    conf/**/*.yaml -> yaml_source -> merge -> validate -> crosscheck -> Loaded
                                       old and new Config -> plan.diff -> Plan

The parts that need YAML and pydantic are imported when they are used: the zygote is forked by a
manager that has not imported them yet, and a CLI that only prints a plan never does.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from manager.config.errors import ConfigError, limited, render
from manager.config.plan import Change, Plan, diff

if TYPE_CHECKING:
    from manager.config.merge import Marks
    from vrouter.config.driver import Driver
    from vrouter.config.schema import Config, Interface, Router

__all__ = ["Change", "ConfigError", "Loaded", "Plan", "diff", "load", "render"]


class Loaded(NamedTuple):
    """What a directory holds: a configuration, or errors, never both."""

    config: Config | None
    errors: list[ConfigError]
    marks: Marks


def load(conf_dir: str | Path, *additions: Path) -> Loaded:
    """Read a configuration directory, or one file.  Never raises for what the files hold.

    `additions` are read besides where they exist: what was added at run time and goes with the run dir.
    """
    from manager.config.crosscheck import crosscheck  # noqa: PLC0415
    from manager.config.merge import merge  # noqa: PLC0415
    from manager.config.validate import validate  # noqa: PLC0415

    marks, errors = merge(Path(conf_dir), *additions)
    valid = validate(marks)
    errors += valid.errors
    errors += crosscheck(valid.config, marks, valid.broken)
    return Loaded(None if errors else with_defaults(valid.config), limited(errors), marks)


def with_defaults(config: Config) -> Config:
    """Write `defaults` and drivers into every interface that they hold for, so that nobody else need know them."""
    routers = {}
    for name, router in config.routers.items():
        interfaces = {
            key: replace(
                interface,
                mtu=interface.mtu or (config.defaults.mtu if _carried(interface) else None),
                driver=driver_of(router, interface),
            )
            for key, interface in router.interfaces.items()
        }
        routers[name] = replace(router, interfaces=interfaces)
    return replace(config, routers=routers)


def _carried(interface: Interface) -> bool:
    return bool(interface.device or interface.patch or interface.pcap)


def driver_of(router: Router, interface: Interface) -> Driver | None:
    """Give an interface's driver: what it says, or another on its device, or the router; None: it has none."""
    if interface.pcap:
        return "pcap"
    if not interface.device:
        return interface.driver
    place = (interface.device, interface.netns)
    users = (interface, *(each for each in router.interfaces.values() if (each.device, each.netns) == place))
    return next((user.driver for user in users if user.driver is not None), router.dataplane.driver)
