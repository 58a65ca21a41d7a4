"""UPDATE messages of BGP: decode with RFC 7606's verdict, and encode packed.

RFC 4271 section 4.3, 4760, 2545 (two next hops), 7911 (path identifiers), 8950 (IPv4 routes with IPv6 next hops),
4724 (End-of-RIB).  IPv4 and IPv6 unicast; routes of other families are passed over (RFC 4760 section 7).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from vrouter.net.address import BITS, IPV4, IPV6, Address, Prefix, mask
from vrouter.wire.bgp.attributes import EXTENDED, OPTIONAL, Attributes, Decoded, MalformedError, Outcome, Type, decode
from vrouter.wire.bgp.message import MAX_LENGTH, MessageType, frame

AFI_IPV4: Final = 1
AFI_IPV6: Final = 2
SAFI_UNICAST: Final = 1
FAMILY: Final = {AFI_IPV4: IPV4, AFI_IPV6: IPV6}
AFI: Final = {IPV4: AFI_IPV4, IPV6: AFI_IPV6}
_MANDATORY: Final = frozenset({Type.ORIGIN, Type.AS_PATH})


class Nlri(NamedTuple):
    """A route's prefix with its path identifier; 0: none."""

    prefix: Prefix
    path_id: int = 0


class NextHops(NamedTuple):
    """The next hop of a route, and beside a global one that on the link; RFC 2545 section 3."""

    address: Address
    link_local: Address | None = None


@dataclass(frozen=True, slots=True)
class Context:
    """What was negotiated with the neighbor whose messages are read."""

    as4: bool = True
    external: bool = True
    families: frozenset[int] = frozenset({AFI_IPV4, AFI_IPV6})
    add_path: frozenset[int] = frozenset()  # AFIs whose routes come with identifiers
    extended_next_hop: bool = False
    first_as: int = 0  # that AS_PATH must begin with, if the neighbor is external; 0: any


@dataclass(frozen=True, slots=True)
class Update:
    """What an UPDATE says, after RFC 7606: with Outcome.WITHDRAW all stands in `withdrawn`."""

    withdrawn: tuple[Nlri, ...] = ()
    announced: tuple[tuple[Nlri, NextHops], ...] = ()
    attributes: Attributes = field(default_factory=Attributes)
    outcome: Outcome = Outcome.NONE
    discarded: int = 0
    end_of_rib: int = 0  # an AFI


def read_nlri(data: bytes, family: int, *, add_path: bool) -> list[Nlri] | None:
    """Read prefixes up to the end of the data; None: malformed."""
    routes = []
    at = 0
    bits = BITS[family]
    while at < len(data):
        path_id = 0
        if add_path:
            path_id = int.from_bytes(data[at : at + 4], "big")
            at += 4
        if at >= len(data) or data[at] > bits:
            return None
        length = data[at]
        size = (length + 7) // 8
        at += 1
        if at + size > len(data):
            return None
        value = int.from_bytes(data[at : at + size], "big") << (bits - 8 * size)
        routes.append(Nlri(Prefix(family, value & mask(family, length), length), path_id))
        at += size
    return routes


def write_nlri(nlri: Nlri, *, add_path: bool) -> bytes:
    """Give the bytes of one prefix."""
    family, value, length = nlri.prefix
    size = (length + 7) // 8
    body = bytes([length]) + (value >> (BITS[family] - 8 * size)).to_bytes(size, "big")
    return struct.pack("!I", nlri.path_id) + body if add_path else body


class RawAttribute(NamedTuple):
    """A path attribute as it stands in a message."""

    flags: int
    type: int
    value: bytes


@dataclass(frozen=True, slots=True)
class RawUpdate:
    """An UPDATE without a verdict: whatever it says, it is written again byte for byte."""

    withdrawn: tuple[Nlri, ...] = ()
    attributes: tuple[RawAttribute, ...] = ()
    announced: tuple[Nlri, ...] = ()


def read_update(body: bytes, *, add_path: bool = False) -> RawUpdate:
    """Read the body of an UPDATE as it stands.  Raises MalformedError."""
    sizes = int.from_bytes(body[:2], "big")
    start = 4 + sizes
    end = start + int.from_bytes(body[2 + sizes : start], "big")
    if len(body) < start or len(body) < end:
        raise MalformedError(3, 1)
    withdrawn = read_nlri(body[2 : 2 + sizes], IPV4, add_path=add_path)
    announced = read_nlri(body[end:], IPV4, add_path=add_path)
    if withdrawn is None or announced is None:
        raise MalformedError(3, 10)
    attributes, at = [], start
    while at < end:
        head = 4 if body[at] & EXTENDED else 3
        size = int.from_bytes(body[at + 2 : at + head], "big")
        if at + head + size > end:
            raise MalformedError(3, 1)
        attributes.append(RawAttribute(body[at], body[at + 1], body[at + head : at + head + size]))
        at += head + size
    return RawUpdate(tuple(withdrawn), tuple(attributes), tuple(announced))


def write_update(update: RawUpdate, *, add_path: bool = False) -> bytes:
    """Give the message."""
    attributes = b"".join(
        struct.pack("!BBH" if flags & EXTENDED else "!BBB", flags, kind, len(value)) + value
        for flags, kind, value in update.attributes
    )
    withdrawn = b"".join(write_nlri(nlri, add_path=add_path) for nlri in update.withdrawn)
    announced = b"".join(write_nlri(nlri, add_path=add_path) for nlri in update.announced)
    return _message(withdrawn, attributes, announced)


def decode_update(body: bytes, context: Context) -> Update:
    """Read the body of an UPDATE.  Raises MalformedError when the session must be reset."""
    if len(body) < 4:
        raise MalformedError(3, 1)
    withdrawn_size = int.from_bytes(body[:2], "big")
    if 4 + withdrawn_size > len(body):
        raise MalformedError(3, 1)
    attributes_size = int.from_bytes(body[2 + withdrawn_size : 4 + withdrawn_size], "big")
    start = 4 + withdrawn_size
    if start + attributes_size > len(body):
        raise MalformedError(3, 1)
    add_path = AFI_IPV4 in context.add_path
    withdrawn = read_nlri(body[2 : 2 + withdrawn_size], IPV4, add_path=add_path)
    announced = read_nlri(body[start + attributes_size :], IPV4, add_path=add_path)
    if withdrawn is None or announced is None:
        raise MalformedError(3, 10)
    if not body[start:] and not withdrawn:
        return Update(end_of_rib=AFI_IPV4)
    return _judge(body[start : start + attributes_size], withdrawn, announced, context)


def _judge(data: bytes, withdrawn: list[Nlri], announced: list[Nlri], context: Context) -> Update:
    """Read the attributes and the routes within them."""
    decoded = decode(data, as4=context.as4, external=context.external)
    outcome = decoded.outcome
    attributes = decoded.attributes
    routes: list[tuple[Nlri, NextHops]] = []
    if announced:
        if attributes.next_hop is None:
            outcome = Outcome.WITHDRAW
        routes += [(nlri, NextHops(attributes.next_hop or Address(IPV4, 0))) for nlri in announced]
    end_of_rib = 0
    if decoded.unreach is not None:
        gone, ended = _read_unreach(decoded.unreach, context)
        withdrawn = withdrawn + gone
        if ended and not announced and not withdrawn and decoded.reach is None:
            end_of_rib = ended
    if decoded.reach is not None:
        routes += _read_reach(decoded.reach, context)
    if routes and _incomplete(decoded, context):
        outcome = Outcome.WITHDRAW
    if outcome is Outcome.WITHDRAW and not routes:
        raise MalformedError(3, 1)  # RFC 7606 section 5.2: nothing says which routes it is about
    if AFI_IPV4 not in context.families:
        withdrawn = [nlri for nlri in withdrawn if nlri.prefix.family != IPV4]
        routes = [route for route in routes if route[0].prefix.family != IPV4]
    if outcome is Outcome.WITHDRAW:
        withdrawn = withdrawn + [nlri for nlri, _ in routes]
        routes = []
    return Update(tuple(withdrawn), tuple(routes), attributes, outcome, decoded.discarded, end_of_rib)


def _incomplete(decoded: Decoded, context: Context) -> bool:
    """Tell whether a mandatory attribute is missing, or the path begins elsewhere; RFC 4271 sections 5, 6.3."""
    if not context.external:
        return not decoded.present >= _MANDATORY | {Type.LOCAL_PREF}
    if not decoded.present >= _MANDATORY:
        return True
    path = decoded.attributes.as_path
    return bool(context.first_as) and (not path or context.first_as != decoded.attributes.neighbor_as())


def _read_unreach(value: bytes, context: Context) -> tuple[list[Nlri], int]:
    """Read MP_UNREACH_NLRI: routes, and the AFI of an End-of-RIB."""
    if len(value) < 3:
        raise MalformedError(3, 9)
    afi, safi = int.from_bytes(value[:2], "big"), value[2]
    if safi != SAFI_UNICAST or afi not in context.families or afi not in FAMILY:
        return [], 0
    routes = read_nlri(value[3:], FAMILY[afi], add_path=afi in context.add_path)
    if routes is None:
        raise MalformedError(3, 9)
    return routes, 0 if routes else afi


def _read_reach(value: bytes, context: Context) -> list[tuple[Nlri, NextHops]]:
    """Read MP_REACH_NLRI; a next hop of a wrong length hides the routes: RFC 7606 section 7.11."""
    if len(value) < 5:
        raise MalformedError(3, 9)
    afi, safi, size = int.from_bytes(value[:2], "big"), value[2], value[3]
    if 5 + size > len(value):
        raise MalformedError(3, 9)
    if safi != SAFI_UNICAST or afi not in context.families or afi not in FAMILY:
        return []
    allowed = {16, 32} if afi == AFI_IPV6 else ({4, 16, 32} if context.extended_next_hop else {4})
    if size not in allowed:
        raise MalformedError(3, 9)
    family = IPV4 if size == 4 else IPV6
    width = 4 if size == 4 else 16
    address = Address(family, int.from_bytes(value[4 : 4 + width], "big"))
    second = Address(IPV6, int.from_bytes(value[20:36], "big")) if size == 32 else None
    routes = read_nlri(value[5 + size :], FAMILY[afi], add_path=afi in context.add_path)
    if routes is None:
        raise MalformedError(3, 9)
    return [(nlri, NextHops(address, second)) for nlri in routes]


def next_hop_bytes(hops: NextHops) -> bytes:
    """Give the next hop as MP_REACH_NLRI has it."""
    value = hops.address.value.to_bytes(BITS[hops.address.family] // 8, "big")
    return value if hops.link_local is None else value + hops.link_local.value.to_bytes(16, "big")


def _mp_attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("!BBH", OPTIONAL | 0x10, kind, len(value)) + value


def end_of_rib(afi: int) -> bytes:
    """Give the message that ends the first dump of a family; RFC 4724 section 2."""
    if afi == AFI_IPV4:
        return frame(MessageType.UPDATE, bytes(4))
    return frame(
        MessageType.UPDATE, struct.pack("!HHBBBHB", 0, 6, OPTIONAL, Type.MP_UNREACH_NLRI, 3, afi, SAFI_UNICAST)
    )


class Packer:
    """Makes UPDATEs for routes that share all but their prefixes, as many in each as fit."""

    def __init__(
        self, afi: int, attributes: bytes, hops: NextHops | None, *, add_path: bool, limit: int = MAX_LENGTH
    ) -> None:
        """Pack announcements; with `hops` in MP_REACH_NLRI, else `attributes` hold NEXT_HOP."""
        self._afi = afi
        self._attributes = attributes
        self._hops = hops
        self._add_path = add_path
        self._limit = limit

    def room(self) -> int:
        """Give the bytes that prefixes may have in a message."""
        used = 19 + 4 + len(self._attributes)
        if self._hops is not None:
            used += 4 + 5 + len(next_hop_bytes(self._hops))
        return self._limit - used

    def take(self, routes: Sequence[Nlri]) -> tuple[bytes, int]:
        """Give a message with the first routes, and how many those are."""
        nlri, count = _fill(routes, self.room(), add_path=self._add_path)
        if self._hops is None:
            return _message(b"", self._attributes, nlri), count
        hops = next_hop_bytes(self._hops)
        value = struct.pack("!HBB", self._afi, SAFI_UNICAST, len(hops)) + hops + b"\0" + nlri
        return _message(b"", _mp_attribute(Type.MP_REACH_NLRI, value) + self._attributes, b""), count


def take_withdrawn(afi: int, routes: Sequence[Nlri], *, add_path: bool, limit: int = MAX_LENGTH) -> tuple[bytes, int]:
    """Give a message that withdraws the first routes, and how many those are."""
    if afi == AFI_IPV4:
        nlri, count = _fill(routes, limit - 23, add_path=add_path)
        return _message(nlri, b"", b""), count
    nlri, count = _fill(routes, limit - 23 - 7, add_path=add_path)
    value = struct.pack("!HB", afi, SAFI_UNICAST) + nlri
    return _message(b"", _mp_attribute(Type.MP_UNREACH_NLRI, value), b""), count


def _fill(routes: Iterable[Nlri], room: int, *, add_path: bool) -> tuple[bytes, int]:
    parts = []
    used = 0
    for nlri in routes:
        part = write_nlri(nlri, add_path=add_path)
        used += len(part)
        if used > room:
            break
        parts.append(part)
    return b"".join(parts), len(parts)


def _message(withdrawn: bytes, attributes: bytes, nlri: bytes) -> bytes:
    sizes = struct.pack("!H", len(withdrawn)), struct.pack("!H", len(attributes))
    return frame(MessageType.UPDATE, sizes[0] + withdrawn + sizes[1] + attributes + nlri)
