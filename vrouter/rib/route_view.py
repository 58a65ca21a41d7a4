"""A route as policies see it, and what they make of it."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

from vrouter.net.address import Address, Prefix
from vrouter.rib.route import Protocol, Route
from vrouter.wire.bgp.attributes import MalformedError, decode

Segments = tuple[tuple[int, tuple[int, ...]], ...]  # (type, AS numbers), as in AS_PATH
Large = tuple[int, int, int]
AS_SET = 1
AS_SEQUENCE = 2


@dataclass(frozen=True, slots=True)
class RouteView:
    """All that conditions can look at.  None: the route has no such thing."""

    prefix: Prefix
    protocol: Protocol = Protocol.BGP
    origin: int | None = None  # 0 IGP, 1 EGP, 2 incomplete
    as_path: Segments | None = None
    next_hop: Address | None = None
    local_pref: int | None = None
    med: int | None = None
    communities: tuple[int, ...] = ()
    large: tuple[Large, ...] = ()
    extended: tuple[int, ...] = ()
    tag: int = 0
    metric: int = 0
    preference: int = 0
    weight: int = 0
    neighbor: Address | None = None  # who sent it, or at export gets it
    interface: str = ""

    def path_length(self) -> int:
        """Count the AS numbers of the path as RFC 4271 section 9.1.2.2 and RFC 5065 section 5.3 do."""
        lengths = {AS_SET: lambda numbers: 1 if numbers else 0, AS_SEQUENCE: len}
        return sum(lengths[kind](numbers) for kind, numbers in self.as_path or () if kind in lengths)


@dataclass(frozen=True, slots=True)
class NextHopTo:
    """Where packets are to go: `address`, `self`, `discard` or `peer`."""

    kind: str
    address: Address | None = None


@dataclass(frozen=True, slots=True)
class Changes:
    """What a policy has changed, in absolute values; None: left as it was."""

    local_pref: int | None = None
    med: int | None = None
    metric: int | None = None
    tag: int | None = None
    preference: int | None = None
    weight: int | None = None
    origin: int | None = None
    next_hop: NextHopTo | None = None
    communities: tuple[int, ...] | None = None
    large: tuple[Large, ...] | None = None
    extended: tuple[int, ...] | None = None
    prepend: tuple[int, ...] = ()

    def apply(self, view: RouteView) -> RouteView:
        """Give the route with the changes; `self`, `discard` and `peer` are the caller's to carry out."""
        values: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and field.name not in {"next_hop", "prepend"}:
                values[field.name] = value
        if self.next_hop is not None and self.next_hop.address is not None:
            values["next_hop"] = self.next_hop.address
        if self.prepend:
            values["as_path"] = prepended(view.as_path or (), self.prepend)
        return replace(view, **values)


NO_CHANGES = Changes()


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer of a policy."""

    accept: bool
    changes: Changes = NO_CHANGES
    term: int = -1  # that decided; -1: the end of the list


def prepended(path: Segments, numbers: tuple[int, ...]) -> Segments:
    """Put AS numbers before a path (RFC 4271 section 5.1.2)."""
    if path and path[0][0] == AS_SEQUENCE and len(path[0][1]) + len(numbers) <= 255:
        return ((AS_SEQUENCE, numbers + path[0][1]), *path[1:])
    return ((AS_SEQUENCE, numbers), *path)


@lru_cache(maxsize=4096)
def _path_attributes(data: bytes) -> dict[str, Any]:
    """Read path attributes as BGP's table gives them."""
    try:
        found = decode(data, as4=True, external=False).attributes
    except MalformedError:
        return {}
    return {
        "origin": found.origin,
        "as_path": tuple((int(kind), numbers) for kind, numbers in found.as_path),
        "local_pref": found.local_pref,
        "med": found.med,
        "communities": found.communities,
        "large": found.large,
        "extended": tuple(int.from_bytes(value, "big") for value in found.extended),
    }


def route_view(route: Route) -> RouteView:
    """Show a route of the RIB to a policy: what is redistributed; of BGP with its path attributes."""
    hop = route.hops[0] if route.hops else None
    attributes = _path_attributes(route.origin) if isinstance(route.origin, bytes) else {}
    return RouteView(
        route.prefix,
        route.protocol,
        **attributes,
        next_hop=hop.via if hop is not None else None,
        tag=route.tag,
        metric=route.metric,
        preference=route.preference,
        interface=hop.interface if hop is not None else "",
    )
