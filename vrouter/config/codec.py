"""`RouterConfig` as the plain data that travels in a CONFIGURE message, and back.

Both ends are ours, yet a manager and a control of different versions may meet while a machine is
upgraded: an unknown key is refused, never guessed at.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from vrouter.config.router import Interface, Quota, RouterConfig, Rule, StaticHop, StaticRoute


def to_plain(config: RouterConfig) -> dict[str, Any]:
    """Give plain data for msgpack."""
    return dataclasses.asdict(config)


def from_plain(data: dict[str, Any]) -> RouterConfig:
    """Read plain data.  Raises ValueError when it is not a RouterConfig."""
    try:
        return RouterConfig(
            name=data["name"],
            id=data["id"],
            interfaces=tuple(
                Interface(**{**entry, "addresses": tuple(entry["addresses"])}) for entry in data["interfaces"]
            ),
            static=tuple(
                StaticRoute(entry["prefix"], tuple(StaticHop(**hop) for hop in entry["hops"]))
                for entry in data["static"]
            ),
            rules=tuple(_rule(entry) for entry in data["rules"]),
            relay_uid=data.get("relay_uid", 0),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a router configuration: {error!r}") from error


def _rule(entry: dict[str, Any]) -> Rule:
    ports = tuple((first, last) for first, last in entry["ports"])
    quota = Quota(**entry.get("quota", {}))
    return Rule(**{**entry, "ports": ports, "prefixes": tuple(entry["prefixes"]), "quota": quota})
