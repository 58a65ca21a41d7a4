"""Route leaking over a patch link in the configuration of an interface.

    interfaces:
      to-blue:
        patch: blue/to-red
        addresses: [169.254.0.0/31]
        leak: {protocols: [static, connected], export: shared-services, import: from-blue}

Routes are exchanged only where both ends say `leak`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Literal

from vrouter.config.constraints import Boolean, Integer, MaxLength, Name
from vrouter.config.option import Impact, option

MAX_LEAKED: Final = 1_000_000
Source = Literal["connected", "static", "bgp", "ospf", "rip", "leak"]


@dataclass(frozen=True, kw_only=True)
class Leak:
    """Which routes cross the link."""

    enabled: Annotated[bool, Boolean()] = option("Exchange routes.", Impact.LIVE, default=True)
    protocols: Annotated[tuple[Source, ...], MaxLength(6)] = option(
        "Protocols whose routes are offered to the other router; `leak` hands on what other links brought.",
        Impact.SOFT,
        (),
        "[connected, static]",
    )
    import_: Annotated[str, Name("policy name")] | None = option(
        "Route policy for what comes from the other router; without it all is taken.", Impact.SOFT, None, "from-blue"
    )
    export: Annotated[str, Name("policy name")] | None = option(
        "Route policy for what is offered to it; without it all of `protocols` is.", Impact.SOFT, None, "to-blue"
    )
    preference: Annotated[int, Integer(1, 255)] = option(
        "Preference of the routes against other protocols'; smaller wins.", Impact.LIVE, 150
    )
    max_routes: Annotated[int, Integer(1, MAX_LEAKED)] = option(
        "Most routes that are taken; the session ends when the other router offers more.", Impact.SESSION, 10000
    )
