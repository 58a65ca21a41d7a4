"""Path attributes of BGP: bytes to a frozen value and back, and what is wrong with the bytes.

RFC 4271 section 4.3, 5 and 6.3; 1997, 4360, 4456, 6793, 8092, 9234.  What becomes of a malformed attribute is
RFC 7606's decision (section 7), and RFC 7607's about AS 0:

    DISCARD    the attribute goes, the routes stay
    WITHDRAW   the routes of the UPDATE count as withdrawn
    MalformedError  the session is reset (an exception: nothing behind it can be trusted)

Attributes that are not known and transitive are kept bit-exact, with the Partial bit set; known ones that have it
keep it (RFC 4271 section 5).
MP_REACH_NLRI and MP_UNREACH_NLRI are `update.py`'s.  Confederations (RFC 5065) are not supported: their segments
are malformed here.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from vrouter.net.address import IPV4, Address

AS_TRANS: Final = 23456  # RFC 6793
OPTIONAL: Final = 0x80
TRANSITIVE: Final = 0x40
PARTIAL: Final = 0x20
EXTENDED: Final = 0x10


class Type(enum.IntEnum):
    """Types of path attributes."""

    ORIGIN = 1
    AS_PATH = 2
    NEXT_HOP = 3
    MULTI_EXIT_DISC = 4
    LOCAL_PREF = 5
    ATOMIC_AGGREGATE = 6
    AGGREGATOR = 7
    COMMUNITIES = 8
    ORIGINATOR_ID = 9
    CLUSTER_LIST = 10
    MP_REACH_NLRI = 14
    MP_UNREACH_NLRI = 15
    EXTENDED_COMMUNITIES = 16
    AS4_PATH = 17
    AS4_AGGREGATOR = 18
    LARGE_COMMUNITIES = 32
    ONLY_TO_CUSTOMER = 35


_WELL_KNOWN: Final = frozenset({1, 2, 3, 5, 6})
_NON_TRANSITIVE: Final = frozenset({4, 9, 10, 14, 15})
_BOTH: Final = OPTIONAL | TRANSITIVE
_CONFEDERATION: Final = frozenset({3, 4})  # kinds of segments, RFC 5065 section 3


class Origin(enum.IntEnum):
    """Values of ORIGIN; smaller wins."""

    IGP = 0
    EGP = 1
    INCOMPLETE = 2


class SegmentKind(enum.IntEnum):
    """Kinds of AS_PATH segments."""

    SET = 1
    SEQUENCE = 2


class Segment(NamedTuple):
    """A segment of an AS_PATH."""

    kind: SegmentKind
    asns: tuple[int, ...]


class Outcome(enum.IntEnum):
    """What becomes of an UPDATE with a malformed attribute, the worse the greater."""

    NONE = 0
    DISCARD = 1
    WITHDRAW = 2


class MalformedError(ValueError):
    """Bytes for which the session is reset, with the NOTIFICATION that says so."""

    def __init__(self, code: int, subcode: int, data: bytes = b"") -> None:
        super().__init__(f"{code}/{subcode}")
        self.code = code
        self.subcode = subcode
        self.data = data


@dataclass(frozen=True, slots=True)
class Attributes:
    """The path attributes of a route, without its next hop in MP_REACH_NLRI."""

    origin: int = Origin.IGP
    as_path: tuple[Segment, ...] = ()
    next_hop: Address | None = None
    med: int | None = None
    local_pref: int | None = None
    atomic_aggregate: bool = False
    aggregator: tuple[int, int] | None = None  # (AS, address)
    communities: tuple[int, ...] = ()
    originator_id: int | None = None
    cluster_list: tuple[int, ...] = ()
    extended: tuple[bytes, ...] = ()
    large: tuple[tuple[int, int, int], ...] = ()
    otc: int | None = None
    unknown: tuple[tuple[int, int, bytes], ...] = ()  # (flags, type, value), ascending by type
    partial: frozenset[int] = frozenset()  # known types that came with the Partial bit

    def path_length(self) -> int:
        """Count ASes as RFC 4271 section 9.1.2.2 (a) does: a set is one."""
        return sum(1 if segment.kind == SegmentKind.SET else len(segment.asns) for segment in self.as_path)

    def neighbor_as(self) -> int:
        """Give the AS that the route came from; 0: none, or a set."""
        if not self.as_path or self.as_path[0].kind == SegmentKind.SET:
            return 0
        return self.as_path[0].asns[0]

    def asns(self) -> list[int]:
        """Give all ASes of the path."""
        return [asn for segment in self.as_path for asn in segment.asns]

    def prepend(self, asn: int, times: int = 1) -> Attributes:
        """Give them with an AS before all others; RFC 4271 section 5.1.2."""
        new = (asn,) * times
        rest = self.as_path
        if rest and rest[0].kind == SegmentKind.SEQUENCE and len(rest[0].asns) + times <= 255:
            return replace(self, as_path=(Segment(SegmentKind.SEQUENCE, new + rest[0].asns), *rest[1:]))
        return replace(self, as_path=(Segment(SegmentKind.SEQUENCE, new), *rest))


@dataclass(frozen=True, slots=True)
class Decoded:
    """Path attributes as they came."""

    attributes: Attributes
    present: frozenset[int]  # types that were there and well-formed
    outcome: Outcome = Outcome.NONE
    discarded: int = 0  # attributes
    reach: bytes | None = None  # value of MP_REACH_NLRI
    unreach: bytes | None = None  # value of MP_UNREACH_NLRI


@dataclass(frozen=True, slots=True)
class _Raw:
    flags: int
    type: int
    value: bytes
    whole: bytes


def decode(data: bytes, *, as4: bool, external: bool) -> Decoded:
    """Read the path attributes of an UPDATE.  Raises MalformedError."""
    raws, outcome = _split(data)
    builder = _Builder(as4=as4, external=external)
    builder.outcome = outcome
    for raw in raws:
        builder.take(raw)
    return builder.finish()


def _split(data: bytes) -> tuple[list[_Raw], Outcome]:
    """Cut attributes apart; RFC 7606 section 3 (c), (g), section 4."""
    raws: list[_Raw] = []
    seen: set[int] = set()
    at = 0
    while at < len(data):
        if len(data) - at < 3:
            return raws, Outcome.WITHDRAW
        flags, kind = data[at], data[at + 1]
        head = 4 if flags & EXTENDED else 3
        if len(data) - at < head:
            return raws, Outcome.WITHDRAW
        length = int.from_bytes(data[at + 2 : at + head], "big")
        end = at + head + length
        if end > len(data):
            return raws, Outcome.WITHDRAW
        if kind not in seen:
            raws.append(_Raw(flags, kind, data[at + head : end], data[at:end]))
        elif kind in {Type.MP_REACH_NLRI, Type.MP_UNREACH_NLRI}:
            raise MalformedError(3, 1)
        seen.add(kind)
        at = end
    return raws, Outcome.NONE


class _Builder:
    """Gathers the attributes of one UPDATE."""

    def __init__(self, *, as4: bool, external: bool) -> None:
        self.as4 = as4
        self.external = external
        self.outcome = Outcome.NONE
        self.discarded = 0
        self.values: dict[str, object] = {}
        self.unknown: list[tuple[int, int, bytes]] = []
        self.present: set[int] = set()
        self.partial: set[int] = set()
        self.reach: bytes | None = None
        self.unreach: bytes | None = None
        self.as4_path: tuple[Segment, ...] | None = None
        self.as4_aggregator: tuple[int, int] | None = None

    def take(self, raw: _Raw) -> None:
        """Take one attribute."""
        if raw.type not in Type.__members__.values():
            self._take_unknown(raw)
        elif self._foreign(raw.type):
            self.discarded += 1  # whatever it holds: RFC 7606 sections 7.5, 7.9, 7.10; RFC 6793 section 4.1
            self.outcome = max(self.outcome, Outcome.DISCARD)
        elif not _flags_right(raw):
            self.outcome = Outcome.WITHDRAW
            if raw.type in {Type.MP_REACH_NLRI, Type.MP_UNREACH_NLRI}:
                self._store(raw)
        else:
            found = self._store(raw)
            self.outcome = max(self.outcome, found)
            if found is Outcome.NONE:
                self.present.add(raw.type)
                if raw.flags & (_BOTH | PARTIAL) == _BOTH | PARTIAL:
                    self.partial.add(raw.type)
            elif found is Outcome.DISCARD:
                self.discarded += 1

    def _foreign(self, kind: int) -> bool:
        """Tell whether an attribute must not come from such a neighbor."""
        if kind in {Type.AS4_PATH, Type.AS4_AGGREGATOR}:
            return self.as4
        return self.external and kind in {Type.LOCAL_PREF, Type.ORIGINATOR_ID, Type.CLUSTER_LIST}

    def _take_unknown(self, raw: _Raw) -> None:
        """Keep what is optional and transitive, pass over what is optional; RFC 4271 sections 5 and 6.3."""
        if not raw.flags & OPTIONAL:
            raise MalformedError(3, 2, raw.whole)
        if raw.flags & TRANSITIVE:
            self.unknown.append((_BOTH | PARTIAL, raw.type, raw.value))

    def _store(self, raw: _Raw) -> Outcome:
        """Read a known attribute."""
        value = raw.value
        match raw.type:
            case Type.ORIGIN:
                return self._set("origin", value[0] if len(value) == 1 and value[0] <= 2 else None)
            case Type.AS_PATH:
                return self._set("as_path", read_path(value, 4 if self.as4 else 2))
            case Type.NEXT_HOP:
                return self._set("next_hop", Address(IPV4, _number(value)) if len(value) == 4 else None)
            case Type.MULTI_EXIT_DISC:
                return self._set("med", _number(value) if len(value) == 4 else None)
            case Type.LOCAL_PREF:
                return self._set("local_pref", _number(value) if len(value) == 4 else None)
            case Type.ATOMIC_AGGREGATE:
                return self._set("atomic_aggregate", None if value else True, Outcome.DISCARD)
            case Type.AGGREGATOR:
                return self._set("aggregator", _aggregator(value, 4 if self.as4 else 2), Outcome.DISCARD)
            case Type.COMMUNITIES:
                return self._set("communities", _numbers(value))
            case Type.ORIGINATOR_ID:
                return self._set("originator_id", _number(value) if len(value) == 4 else None)
            case Type.CLUSTER_LIST:
                return self._set("cluster_list", _numbers(value))
            case Type.EXTENDED_COMMUNITIES:
                eights = tuple(value[at : at + 8] for at in range(0, len(value), 8))
                return self._set("extended", eights if value and len(value) % 8 == 0 else None)
            case Type.LARGE_COMMUNITIES:
                return self._set("large", _large(value))
            case Type.ONLY_TO_CUSTOMER:
                return self._set("otc", _number(value) if len(value) == 4 else None)
            case Type.MP_REACH_NLRI:
                self.reach = value
            case Type.MP_UNREACH_NLRI:
                self.unreach = value
            case Type.AS4_PATH:
                self.as4_path = read_path(value, 4, confederation=True)
                return Outcome.DISCARD if self.as4_path is None else Outcome.NONE
            case Type.AS4_AGGREGATOR:
                self.as4_aggregator = _aggregator(value, 4)
                return Outcome.DISCARD if self.as4_aggregator is None else Outcome.NONE
        return Outcome.NONE

    def _set(self, name: str, value: object, otherwise: Outcome = Outcome.WITHDRAW) -> Outcome:
        if value is None:
            return otherwise
        self.values[name] = value
        return Outcome.NONE

    def finish(self) -> Decoded:
        """Give what was gathered."""
        if not self.as4:
            self._merge()
        unknown = tuple(sorted(self.unknown, key=lambda entry: entry[1]))
        partial = frozenset(self.partial - {Type.AS4_PATH, Type.AS4_AGGREGATOR})
        attributes = Attributes(**self.values, unknown=unknown, partial=partial)  # type: ignore[arg-type]
        return Decoded(attributes, frozenset(self.present), self.outcome, self.discarded, self.reach, self.unreach)

    def _merge(self) -> None:
        """Put together what an old speaker could carry only apart; RFC 6793 section 4.2.3."""
        aggregator = self.values.get("aggregator")
        if isinstance(aggregator, tuple) and self.as4_aggregator is not None:
            if aggregator[0] != AS_TRANS:
                return
            self.values["aggregator"] = self.as4_aggregator
            if Type.AS4_AGGREGATOR in self.partial:
                self.partial.add(Type.AGGREGATOR)
        path = self.values.get("as_path")
        if isinstance(path, tuple) and self.as4_path is not None:
            self.values["as_path"] = _merge_paths(path, self.as4_path)


def _flags_right(raw: _Raw) -> bool:
    """Check the Optional and Transitive bits of a known attribute."""
    if raw.type in _WELL_KNOWN:
        wanted = TRANSITIVE
    elif raw.type in _NON_TRANSITIVE:
        wanted = OPTIONAL
    else:
        wanted = _BOTH
    return raw.flags & _BOTH == wanted


def _number(value: bytes) -> int:
    return int.from_bytes(value, "big")


def _numbers(value: bytes) -> tuple[int, ...] | None:
    if not value or len(value) % 4:
        return None
    return struct.unpack(f"!{len(value) // 4}I", value)


def _large(value: bytes) -> tuple[tuple[int, int, int], ...] | None:
    """Read large communities, each once; RFC 8092 section 5."""
    numbers = _numbers(value)
    if numbers is None or len(numbers) % 3:
        return None
    triples = [(numbers[at], numbers[at + 1], numbers[at + 2]) for at in range(0, len(numbers), 3)]
    return tuple(dict.fromkeys(triples))


def _aggregator(value: bytes, size: int) -> tuple[int, int] | None:
    if len(value) != size + 4:
        return None
    asn = _number(value[:size])
    return (asn, _number(value[size:])) if asn else None  # RFC 7607


def read_path(value: bytes, size: int, *, confederation: bool = False) -> tuple[Segment, ...] | None:
    """Read an AS_PATH with AS numbers of `size` bytes; None: malformed.

    `confederation`: segments of one are passed over, as in AS4_PATH (RFC 6793 section 6).
    """
    segments = []
    at = 0
    while at < len(value):
        if len(value) - at < 2:
            return None
        kind, count = value[at], value[at + 1]
        end = at + 2 + count * size
        plain = kind in {SegmentKind.SET, SegmentKind.SEQUENCE}
        if not (plain or (confederation and kind in _CONFEDERATION)) or not count or end > len(value):
            return None
        asns = struct.unpack(f"!{count}{'I' if size == 4 else 'H'}", value[at + 2 : end])
        if 0 in asns:
            return None  # RFC 7607
        if plain:
            segments.append(Segment(SegmentKind(kind), asns))
        at = end
    return tuple(segments)


def _merge_paths(old: tuple[Segment, ...], new: tuple[Segment, ...]) -> tuple[Segment, ...]:
    """Put the leading ASes of AS_PATH, which AS4_PATH lacks, before it; RFC 6793 section 4.2.3."""
    missing = Attributes(as_path=old).path_length() - Attributes(as_path=new).path_length()
    if missing < 0:
        return old
    lead: list[Segment] = []
    for segment in old:
        if not missing:
            break
        if segment.kind == SegmentKind.SET:
            lead.append(segment)
            missing -= 1
        else:
            taken = segment.asns[:missing]
            lead.append(Segment(SegmentKind.SEQUENCE, taken))
            missing -= len(taken)
    if lead and new and lead[-1].kind == new[0].kind == SegmentKind.SEQUENCE:
        joined = lead[-1].asns + new[0].asns
        if len(joined) <= 255:
            return (*lead[:-1], Segment(SegmentKind.SEQUENCE, joined), *new[1:])
    return (*lead, *new)


def encode_one(flags: int, kind: int, value: bytes) -> bytes:
    """Give an attribute; the length has two bytes only where it must."""
    if len(value) > 255:
        return struct.pack("!BBH", flags | EXTENDED, kind, len(value)) + value
    return struct.pack("!BBB", flags, kind, len(value)) + value


def encode(attributes: Attributes, *, as4: bool = True) -> bytes:
    """Give the attributes in the order of their types; 2-byte speakers get AS4_PATH and AS4_AGGREGATOR beside."""

    def both(kind: Type) -> int:
        return _BOTH | (PARTIAL if kind in attributes.partial else 0)

    parts: list[tuple[int, int, bytes]] = [
        (TRANSITIVE, Type.ORIGIN, bytes([attributes.origin])),
        (TRANSITIVE, Type.AS_PATH, _path_bytes(attributes.as_path, as4=as4)),
    ]
    if attributes.next_hop is not None:
        parts.append((TRANSITIVE, Type.NEXT_HOP, attributes.next_hop.value.to_bytes(4, "big")))
    if attributes.med is not None:
        parts.append((OPTIONAL, Type.MULTI_EXIT_DISC, attributes.med.to_bytes(4, "big")))
    if attributes.local_pref is not None:
        parts.append((TRANSITIVE, Type.LOCAL_PREF, attributes.local_pref.to_bytes(4, "big")))
    if attributes.atomic_aggregate:
        parts.append((TRANSITIVE, Type.ATOMIC_AGGREGATE, b""))
    if attributes.aggregator is not None:
        parts.append((both(Type.AGGREGATOR), Type.AGGREGATOR, _aggregator_bytes(attributes.aggregator, as4=as4)))
    if attributes.communities:
        parts.append((both(Type.COMMUNITIES), Type.COMMUNITIES, _pack(attributes.communities)))
    if attributes.originator_id is not None:
        parts.append((OPTIONAL, Type.ORIGINATOR_ID, attributes.originator_id.to_bytes(4, "big")))
    if attributes.cluster_list:
        parts.append((OPTIONAL, Type.CLUSTER_LIST, _pack(attributes.cluster_list)))
    if attributes.extended:
        parts.append((both(Type.EXTENDED_COMMUNITIES), Type.EXTENDED_COMMUNITIES, b"".join(attributes.extended)))
    if not as4:
        parts += _as4_parts(attributes)
    if attributes.large:
        numbers = tuple(number for triple in attributes.large for number in triple)
        parts.append((both(Type.LARGE_COMMUNITIES), Type.LARGE_COMMUNITIES, _pack(numbers)))
    if attributes.otc is not None:
        parts.append((both(Type.ONLY_TO_CUSTOMER), Type.ONLY_TO_CUSTOMER, attributes.otc.to_bytes(4, "big")))
    parts += attributes.unknown
    return b"".join(encode_one(*part) for part in sorted(parts, key=lambda part: part[1]))


def _as4_parts(attributes: Attributes) -> list[tuple[int, int, bytes]]:
    """Give what only AS4_ attributes can tell a 2-byte speaker; RFC 6793 section 4.2.2."""
    parts: list[tuple[int, int, bytes]] = []
    if any(asn > 0xFFFF for asn in attributes.asns()):
        path = _path_bytes(attributes.as_path, as4=True)
        parts.append((_BOTH, Type.AS4_PATH, path))
    if attributes.aggregator is not None and attributes.aggregator[0] > 0xFFFF:
        value = _aggregator_bytes(attributes.aggregator, as4=True)
        partial = PARTIAL if Type.AGGREGATOR in attributes.partial else 0
        parts.append((_BOTH | partial, Type.AS4_AGGREGATOR, value))
    return parts


def _pack(numbers: tuple[int, ...]) -> bytes:
    return struct.pack(f"!{len(numbers)}I", *numbers)


def _path_bytes(path: tuple[Segment, ...], *, as4: bool) -> bytes:
    parts = []
    for segment in path:
        asns = segment.asns if as4 else tuple(asn if asn <= 0xFFFF else AS_TRANS for asn in segment.asns)
        parts.append(struct.pack(f"!BB{len(asns)}{'I' if as4 else 'H'}", segment.kind, len(asns), *asns))
    return b"".join(parts)


def _aggregator_bytes(aggregator: tuple[int, int], *, as4: bool) -> bytes:
    asn, address = aggregator
    if as4:
        return struct.pack("!II", asn, address)
    return struct.pack("!HI", asn if asn <= 0xFFFF else AS_TRANS, address)
