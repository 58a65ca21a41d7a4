"""Path attributes as operators write and read them."""

from __future__ import annotations

from typing import Any, Final

from vrouter.net.address import IPV4, Address
from vrouter.wire.bgp.attributes import Attributes, MalformedError, Segment, SegmentKind, decode

WELL_KNOWN: Final = {
    0xFFFF0000: "graceful-shutdown",
    0xFFFF0001: "accept-own",
    0xFFFF029A: "blackhole",
    0xFFFFFF01: "no-export",
    0xFFFFFF02: "no-advertise",
    0xFFFFFF03: "no-export-subconfed",
    0xFFFFFF04: "no-peer",
}
_ORIGINS: Final = ("igp", "egp", "incomplete")
_SUBTYPES: Final = {2: "rt", 3: "ro"}


def path_text(path: tuple[Segment, ...]) -> str:
    """Give an AS path: sets in braces."""
    parts = []
    for segment in path:
        words = [str(asn) for asn in segment.asns]
        parts.append("{" + ",".join(words) + "}" if segment.kind == SegmentKind.SET else " ".join(words))
    return " ".join(parts)


def community_text(value: int) -> str:
    """Give a community by its name, or as 65000:1."""
    return WELL_KNOWN.get(value, f"{value >> 16}:{value & 0xFFFF}")


def extended_text(value: bytes) -> str:
    """Give an extended community: rt:65000:1, or its bytes."""
    kind = _SUBTYPES.get(value[1])
    if kind is not None and value[0] in {0, 0x40}:
        return f"{kind}:{int.from_bytes(value[2:4], 'big')}:{int.from_bytes(value[4:], 'big')}"
    if kind is not None and value[0] == 1:
        return f"{kind}:{Address(IPV4, int.from_bytes(value[2:6], 'big'))}:{int.from_bytes(value[6:], 'big')}"
    if kind is not None and value[0] == 2:
        return f"{kind}:{int.from_bytes(value[2:6], 'big')}:{int.from_bytes(value[6:], 'big')}"
    return "0x" + value.hex()


def describe(data: bytes) -> dict[str, Any]:
    """Give attributes in wire form as plain data; what is not there is left out."""
    try:
        attributes = decode(data, as4=True, external=False).attributes
    except MalformedError:
        return {"raw": data.hex()}
    return describe_attributes(attributes)


def describe_attributes(attributes: Attributes) -> dict[str, Any]:
    """Give attributes as plain data."""
    plain: dict[str, Any] = {"origin": _ORIGINS[attributes.origin], "as_path": path_text(attributes.as_path)}
    aggregator = attributes.aggregator
    values = {
        "med": attributes.med,
        "local_pref": attributes.local_pref,
        "atomic_aggregate": attributes.atomic_aggregate or None,
        "aggregator": None if aggregator is None else f"{aggregator[0]} {Address(IPV4, aggregator[1])}",
        "communities": [community_text(value) for value in attributes.communities] or None,
        "large_communities": [":".join(map(str, value)) for value in attributes.large] or None,
        "extended_communities": [extended_text(value) for value in attributes.extended] or None,
        "originator_id": _dotted(attributes.originator_id),
        "cluster_list": [_dotted(value) for value in attributes.cluster_list] or None,
        "only_to_customer": attributes.otc,
        "unknown": [f"{kind}: {value.hex()}" for _, kind, value in attributes.unknown] or None,
    }
    return plain | {name: value for name, value in values.items() if value is not None}


def _dotted(value: int | None) -> str | None:
    return None if value is None else str(Address(IPV4, value))
