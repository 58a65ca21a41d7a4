"""Route policies as operators write them, shared by all routers or a router's own.

    policy:
      prefix-lists: {martians: [10.0.0.0/8 le 32, 'fc00::/7 le 128']}
      as-path-lists: {from-transit: ['^65010_']}
      communities: {no-export-eu: 65000:100}
      route-policies:
        from-transit:
        - {name: drop-martians, if: {prefix-list: martians}, then: reject}
        - {name: rest, then: {local-pref: 120, add-community: no-export-eu, accept: true}}

Terms are tried in order.  The first whose conditions all hold and that accepts or rejects ends the policy; one
that does neither makes its changes, and the next is tried.  The end of the list rejects.  Conditions look at
the route as it came, not at what terms before have changed.
"""

# ruff: noqa: RUF009 - option() makes a field, not a default
from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, Final, Literal

from vrouter.config.constraints import (
    Boolean,
    Integer,
    InvalidError,
    MaxLength,
    Name,
    OneOrMany,
    Shorthand,
    Span,
    clip,
)
from vrouter.config.option import Impact, option
from vrouter.config.policy_text import (
    MAX32,
    AddressOrRange,
    Adjustment,
    AsPathMatch,
    AsPathPattern,
    CommunityMatch,
    CommunityValue,
    NextHopChange,
    PrefixRange,
    is_name,
)

MAX_TERMS: Final = 1000
MAX_PREFIXES: Final = 200_000  # of one list
MAX_PATTERNS: Final = 200  # of one list
MAX_COMMUNITIES: Final = 500
MAX_VALUES: Final = 100  # of one condition
MAX_PREPEND: Final = 32

Origin = Literal["igp", "egp", "incomplete"]
Family = Literal["ipv4", "ipv6"]
Source = Literal["local", "connected", "static", "bgp", "ospf", "rip", "isis", "leak"]


@dataclass(frozen=True)
class ListName:
    """A name that cannot be taken for a value: it begins with a letter."""

    what: str

    def parse(self, text: str) -> str:
        """Give the name."""
        name = Name(self.what).parse(text)
        if not is_name(name):
            raise InvalidError(f"'{clip(text)}' is no {self.what}", "it begins with a letter")
        return name

    def json_schema(self) -> dict[str, Any]:
        """Describe it."""
        return {**Name().json_schema(), "pattern": "^[a-z][a-z0-9-]*$"}


_Numbers = Annotated[tuple[Annotated[tuple[int, int], Span(0, MAX32)], ...], OneOrMany(), MaxLength(MAX_VALUES)]
_Community = Annotated[str, CommunityMatch("community")]
_Large = Annotated[str, CommunityMatch("large-community")]
_Extended = Annotated[str, CommunityMatch("extended-community")]
_OneCommunity = Annotated[str, CommunityMatch("community", single=True)]
_OneLarge = Annotated[str, CommunityMatch("large-community", single=True)]
_OneExtended = Annotated[str, CommunityMatch("extended-community", single=True)]


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What a route must be: every key that is written holds, with one of its values."""

    prefix_list: Annotated[tuple[Annotated[str, Name("prefix list")], ...], OneOrMany(), MaxLength(MAX_VALUES)] = (
        option("The prefix is in one of these lists.", Impact.SOFT, (), "martians")
    )
    prefix: Annotated[tuple[Annotated[str, PrefixRange()], ...], OneOrMany(), MaxLength(MAX_VALUES)] = option(
        "The prefix is this one, or within it and of these lengths.", Impact.SOFT, (), "172.16.0.0/12 le 24"
    )
    prefix_length: Annotated[
        tuple[Annotated[tuple[int, int], Span(0, 128)], ...], OneOrMany(), MaxLength(MAX_VALUES)
    ] = option("The length of the prefix: one, a range, or a list of both.", Impact.SOFT, (), "[32, 128]")
    as_path: Annotated[tuple[Annotated[str, AsPathMatch()], ...], OneOrMany(), MaxLength(MAX_VALUES)] = option(
        "The AS path matches a list of patterns, or a pattern.", Impact.SOFT, (), "^65010_"
    )
    as_path_length: _Numbers = option("AS numbers in the path, an AS set counts once.", Impact.SOFT, (), "1-10")
    community: Annotated[tuple[_Community, ...], OneOrMany(), MaxLength(MAX_VALUES)] = option(
        "The route has one of these communities.", Impact.SOFT, (), "65535:666"
    )
    large_community: Annotated[tuple[_Large, ...], OneOrMany(), MaxLength(MAX_VALUES)] = option(
        "The route has one of these large communities.", Impact.SOFT, (), "65000:1:*"
    )
    extended_community: Annotated[tuple[_Extended, ...], OneOrMany(), MaxLength(MAX_VALUES)] = option(
        "The route has one of these extended communities.", Impact.SOFT, (), "rt:65000:100"
    )
    protocol: Annotated[tuple[Source, ...], OneOrMany()] = option("Where the route comes from.", Impact.SOFT, ())
    family: Annotated[tuple[Family, ...], OneOrMany()] = option("The address family.", Impact.SOFT, ())
    next_hop: Annotated[tuple[Annotated[str, AddressOrRange()], ...], OneOrMany(), MaxLength(MAX_VALUES)] = option(
        "The next hop is this address, or within this prefix.", Impact.SOFT, (), "192.0.2.0/24"
    )
    neighbor: Annotated[tuple[Annotated[str, AddressOrRange()], ...], OneOrMany(), MaxLength(MAX_VALUES)] = option(
        "The neighbor that the route comes from, or at export goes to.", Impact.SOFT, (), "192.0.2.1"
    )
    interface: Annotated[tuple[Annotated[str, Name("interface name")], ...], OneOrMany(), MaxLength(MAX_VALUES)] = (
        option("The interface that the route comes by.", Impact.SOFT, (), "lan")
    )
    tag: _Numbers = option("The route's tag.", Impact.SOFT, (), "100")
    metric: _Numbers = option("The metric of the protocol that the route comes from.", Impact.SOFT, (), "0-20")
    med: _Numbers = option("The multi-exit discriminator of BGP; a route without one does not match.", Impact.SOFT, ())
    local_pref: _Numbers = option("The local preference; a route without one does not match.", Impact.SOFT, ())
    origin: Annotated[tuple[Origin, ...], OneOrMany()] = option("The origin that BGP tells.", Impact.SOFT, ())


@dataclass(frozen=True, kw_only=True)
class Actions:
    """What becomes of the route; `accept` and `reject` alone stand for `accept: true` and `accept: false`."""

    accept: Annotated[bool, Boolean()] | None = option(
        "End the policy: take the route, or refuse it; without it the next term is tried.", Impact.SOFT, None, "true"
    )
    local_pref: Annotated[str, Adjustment()] | None = option("Local preference.", Impact.SOFT, None, "120")
    med: Annotated[str, Adjustment()] | None = option(
        "Multi-exit discriminator: `100` sets, `+10` adds, `-10` takes off.", Impact.SOFT, None, "+10"
    )
    metric: Annotated[str, Adjustment()] | None = option(
        "Metric within the protocol that takes the route.", Impact.SOFT, None, "20"
    )
    tag: Annotated[int, Integer(0, MAX32)] | None = option("Tag.", Impact.SOFT, None, "100")
    preference: Annotated[int, Integer(0, 255)] | None = option(
        "Preference among protocols, the smaller wins.", Impact.SOFT, None, "30"
    )
    weight: Annotated[int, Integer(0, 65535)] | None = option(
        "Weight: before all else in the choice among paths, never told to neighbors.", Impact.SOFT, None, "100"
    )
    origin: Origin | None = option("Origin that BGP tells.", Impact.SOFT, None)
    next_hop: Annotated[str, NextHopChange()] | None = option(
        "Next hop: an address, `self`, `peer` (who sent the route), or `discard` (drop the packets).",
        Impact.SOFT,
        None,
        "discard",
    )
    prepend: Annotated[tuple[Annotated[int, Integer(1, MAX32)], ...], OneOrMany(), MaxLength(MAX_PREPEND)] = option(
        "AS numbers to put before the path, the first comes first.", Impact.SOFT, (), "[65001, 65001]"
    )
    add_community: Annotated[tuple[_OneCommunity, ...], OneOrMany(), MaxLength(MAX_VALUES)] = option(
        "Communities to add.", Impact.SOFT, (), "65000:100"
    )
    remove_community: Annotated[tuple[_Community, ...], OneOrMany(), MaxLength(MAX_VALUES)] = option(
        "Communities to remove.", Impact.SOFT, (), "65000:*"
    )
    set_communities: Annotated[tuple[_OneCommunity, ...], OneOrMany(), MaxLength(MAX_VALUES)] | None = option(
        "All communities; an empty list removes them.", Impact.SOFT, None, "[]"
    )
    add_large_community: Annotated[tuple[_OneLarge, ...], OneOrMany(), MaxLength(MAX_VALUES)] = option(
        "Large communities to add.", Impact.SOFT, (), "65000:1:2"
    )
    remove_large_community: Annotated[tuple[_Large, ...], OneOrMany(), MaxLength(MAX_VALUES)] = option(
        "Large communities to remove.", Impact.SOFT, (), "65000:1:*"
    )
    set_large_communities: Annotated[tuple[_OneLarge, ...], OneOrMany(), MaxLength(MAX_VALUES)] | None = option(
        "All large communities.", Impact.SOFT, None, "[]"
    )
    add_extended_community: Annotated[tuple[_OneExtended, ...], OneOrMany(), MaxLength(MAX_VALUES)] = option(
        "Extended communities to add.", Impact.SOFT, (), "rt:65000:100"
    )
    remove_extended_community: Annotated[tuple[_Extended, ...], OneOrMany(), MaxLength(MAX_VALUES)] = option(
        "Extended communities to remove.", Impact.SOFT, (), "rt:65000:*"
    )
    set_extended_communities: Annotated[tuple[_OneExtended, ...], OneOrMany(), MaxLength(MAX_VALUES)] | None = option(
        "All extended communities.", Impact.SOFT, None, "[]"
    )


_WORDS: Final = Shorthand(
    (("accept", (("accept", "true"),)), ("reject", (("accept", "false"),)), ("next", ())),
)


@dataclass(frozen=True, kw_only=True)
class Term:
    """A term of a route policy."""

    name: Annotated[str, Name("name of a term")] | None = option(
        "What `explain` calls it; by default its number.", Impact.NONE, None, "drop-martians"
    )
    if_: Conditions = option("Conditions; without any it holds for every route.", Impact.SOFT, Conditions())
    then: Annotated[Actions, _WORDS] = option(
        "`accept`, `reject`, `next`, or a map of changes with `accept: true` or `false`.", Impact.SOFT, example="accept"
    )


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Route policies and the lists that they use.  What a router has of its own comes before what is shared."""

    prefix_lists: dict[
        Annotated[str, Name("prefix list")],
        Annotated[tuple[Annotated[str, PrefixRange()], ...], OneOrMany(), MaxLength(MAX_PREFIXES)],
    ] = option("Prefixes by name of the list, each with `ge` and `le` as it may be.", Impact.SOFT, {})
    as_path_lists: dict[
        Annotated[str, ListName("AS-path list")],
        Annotated[tuple[Annotated[str, AsPathPattern()], ...], OneOrMany(), MaxLength(MAX_PATTERNS)],
    ] = option("Patterns over AS paths by name of the list; one that matches is enough.", Impact.SOFT, {})
    communities: dict[
        Annotated[str, ListName("name of a community")],
        Annotated[tuple[Annotated[str, CommunityValue()], ...], OneOrMany(), MaxLength(MAX_COMMUNITIES)],
    ] = option("Communities of any kind by name, one or several of one kind.", Impact.SOFT, {})
    route_policies: dict[Annotated[str, Name("route policy")], Annotated[tuple[Term, ...], MaxLength(MAX_TERMS)]] = (
        option("Terms by name of the policy.", Impact.SOFT, {})
    )


def merge(shared: Policy, own: Policy) -> Policy:
    """Give the policies that a router sees: under each name its own, else the shared."""
    return Policy(
        **{field.name: {**getattr(shared, field.name), **getattr(own, field.name)} for field in fields(Policy)}
    )
