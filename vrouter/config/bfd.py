"""BFD in the configuration: how a neighbor is watched (RFC 5880), wherever a protocol names one.

    bfd: true
    bfd: {interval: 300ms, multiplier: 3}
    bfd: {interval: 50ms, authentication: {type: meticulous-sha1, key-id: 1, key: !secret bfd}}

What a session does not say, `defaults.bfd` says, and else what is built in.
"""

# ruff: noqa: RUF009 - option() makes a field, not a default
from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeVar

from vrouter.config.address import IpAddress
from vrouter.config.constraints import Boolean, Duration, Integer, Name, OrBoolean, Secret
from vrouter.config.option import Impact, option

Authentication = Literal["simple", "md5", "meticulous-md5", "sha1", "meticulous-sha1"]
MAX_KEY: Final = 20  # of SHA1 (RFC 5880 section 4.4)
MAX_SHORT_KEY: Final = 16  # of MD5, and of a simple password (sections 4.2 and 4.3)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class BfdKey:
    """The authentication of a session (RFC 5880 section 6.7); both ends must have the same."""

    type: Authentication = option(
        "Kind: the meticulous ones count every packet.", Impact.LIVE, example="meticulous-sha1"
    )
    key_id: Annotated[int, Integer(0, 255)] = option("Number of the key.", Impact.LIVE, 1)
    key: Annotated[str, Secret(MAX_KEY)] = option(
        "The key, as `!secret NAME`: up to 16 bytes, of SHA1 20.", Impact.LIVE, example="Wo8Pha3i"
    )


@dataclass(frozen=True, kw_only=True)
class Bfd:
    """How a neighbor is watched by BFD (RFC 5880); `true` stands for a map without a key, `false` for none.

    What is not said here, `defaults.bfd` says.
    """

    enabled: Annotated[bool, Boolean()] = option("Watch the neighbor.", Impact.LIVE, default=True)
    interval: Annotated[float, Duration("10ms", "60s")] | None = option(
        "Time between two packets that we send, and that we ask of the neighbor; built in: 300ms.",
        Impact.LIVE,
        None,
        "300ms",
    )
    receive_interval: Annotated[float, Duration("10ms", "60s")] | None = option(
        "Time between two packets that we ask of the neighbor; by default `interval`.", Impact.LIVE, None, "300ms"
    )
    multiplier: Annotated[int, Integer(1, 255)] | None = option(
        "Missing packets in a row that mean failure; built in: 3.", Impact.LIVE, None, "3"
    )
    echo_interval: Annotated[float, Duration("10ms", "60s")] | None = option(
        "Time between two echo packets, that the neighbor sends back; without it none are sent.  Single hop only.",
        Impact.LIVE,
        None,
        "50ms",
    )
    passive: Annotated[bool, Boolean()] = option("Send nothing before the neighbor does.", Impact.LIVE, default=False)
    min_ttl: Annotated[int, Integer(1, 255)] | None = option(
        "Smallest TTL that is taken from a neighbor several hops away; over a single hop it is always 255.",
        Impact.LIVE,
        None,
        "250",
    )
    authentication: BfdKey | None = option("Authentication of the packets.", Impact.LIVE, None)

    def over(self, defaults: Bfd | None) -> Bfd:
        """Fill what is not said from the defaults of the machine, then from what is built in."""
        base = defaults or Bfd()
        interval = _first(self.interval, base.interval, 0.3)
        return dataclasses.replace(
            self,
            interval=interval,
            receive_interval=_first(
                self.receive_interval, base.receive_interval if self.interval is None else None, interval
            ),
            multiplier=_first(self.multiplier, base.multiplier, 3),
            echo_interval=_first(self.echo_interval, base.echo_interval, None),
            min_ttl=_first(self.min_ttl, base.min_ttl, None),
            authentication=_first(self.authentication, base.authentication, None),
        )


MaybeBfd = Annotated[Bfd, OrBoolean()] | None  # the type of a field `bfd` of a protocol


@dataclass(frozen=True, kw_only=True)
class BfdSession(Bfd):
    """A session by itself, without a protocol that asks for it."""

    remote: Annotated[str, IpAddress()] = option("Address of the neighbor.", Impact.SESSION, example="192.0.2.1")
    local: Annotated[str, IpAddress()] | None = option(
        "Own address; by default that of the way to the neighbor.", Impact.SESSION, None, "192.0.2.2"
    )
    interface: Annotated[str, Name("interface name")] | None = option(
        "Interface that the neighbor is on; by default the one whose prefix holds its address.",
        Impact.SESSION,
        None,
        "wan",
    )
    multihop: Annotated[bool, Boolean()] = option(
        "The neighbor is several hops away (RFC 5883).", Impact.SESSION, default=False
    )


@dataclass(frozen=True, kw_only=True)
class BfdSessions:
    """BFD sessions of a router beside those that its protocols ask for."""

    sessions: dict[Annotated[str, Name("session name")], BfdSession] = option("Sessions by name.", Impact.LIVE, {})


def resolve_bfd(value: T, defaults: Bfd | None) -> T:
    """Give a configuration in which every Bfd is filled by `Bfd.over`, however deep it lies."""
    if isinstance(value, Bfd):
        filled: Any = value.over(defaults)
        return filled  # type: ignore[no-any-return]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changed = {
            field.name: new
            for field in dataclasses.fields(value)
            if (new := resolve_bfd(old := getattr(value, field.name), defaults)) is not old
        }
        return dataclasses.replace(value, **changed) if changed else value
    if isinstance(value, tuple):
        items: Any = tuple(resolve_bfd(item, defaults) for item in value)
        return value if all(new is old for new, old in zip(items, value, strict=True)) else items
    if isinstance(value, dict):
        entries: Any = {key: resolve_bfd(item, defaults) for key, item in value.items()}
        return value if all(entries[key] is value[key] for key in value) else entries
    return value


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)
