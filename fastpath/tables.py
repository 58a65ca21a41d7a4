"""The tables segment as its writer sees it: what a control publishes for its forwarder.

    with TableWriter(tables_fd, state_fd) as tables:
        tables.publish(interfaces, addresses, rules)
        group = tables.group((Hop(kind, interface, via=(4, 0x0A000002)),))
        tables.apply([RouteChange(4, 0xC0000200, 24, group, protocol)])
        tables.release(group)          # the route holds a reference of its own

Addresses are numbers beside their family (4 or 6).  Constants are those of include/abi/tables.h,
in `fastpath._layout.CONSTANTS`.  One writer for each segment, used by one thread.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from fastpath._layout import CONSTANTS, SIZES
from fastpath.binding import check, ffi, lib

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Sequence
    from types import TracebackType

_INTERFACE: Final = struct.Struct("<HHHBBI6s2xI32s")  # struct interface_entry
_ADDRESS: Final = struct.Struct("<16sBBHB3x")  # struct address_entry
_PREFIX: Final = struct.Struct("<16sBB6x")  # struct prefix
_RULE: Final = struct.Struct("<IIIHH32sIII4xQQ")  # struct rule_entry up to its arrays
_RANGE: Final = struct.Struct("<HH")  # struct port_range
_HOP: Final = struct.Struct("<BBHIII16s")  # struct nexthop
_CHANGE: Final = struct.Struct("<16sBBHBBHI")  # struct route_change
_ENTRY: Final = struct.Struct("<16sBBHBBHI")  # struct prefix_entry
_PROTOCOL_AT: Final = 20  # in it
_RATE: Final = struct.Struct("<QQ")  # struct police_rate
_POLICE: Final = struct.Struct("<HBB4xQQ")  # struct police_entry
_PEER: Final = struct.Struct("<16sQ")  # struct police_peer
_BFD: Final = struct.Struct("<16s16sBBHIIIBBBBB3x20s4x")  # struct bfd_entry
_Entry = TypeVar("_Entry")
_BATCH: Final = 2048  # installed routes in one call of C: what an idle control has to keep for it


@dataclass(frozen=True, slots=True)
class InterfaceEntry:
    """One interface; `index` stays with its name."""

    index: int
    name: str
    kind: int  # enum interface_kind
    port: int = 0
    vlan: int = 0
    flags: int = 0  # enum interface_flags
    mtu: int = 1500
    mac: bytes = bytes(6)
    features: int = 0  # enum interface_features


@dataclass(frozen=True, slots=True)
class AddressEntry:
    """One address of the VR, with the length of its connected prefix."""

    family: int
    value: int
    length: int
    interface: int
    flags: int = 0  # enum address_flags


@dataclass(frozen=True, slots=True)
class Quota:
    """What each identity that a rule lets in may have and do; 0: as much as there is."""

    sockets: int = 0
    opens: int = 0  # a second
    accepts: int = 0  # a second
    bytes: int = 0  # a second, sent
    memory: int = 0


@dataclass(frozen=True, slots=True)
class RuleEntry:
    """One rule of the socket layer; empty `ports` and `prefixes` mean all."""

    identity: int  # enum rule_identity
    id: int = 0
    operations: int = 0  # enum rule_operation bits
    curve_key: bytes = b""
    ports: tuple[tuple[int, int], ...] = ()
    prefixes: tuple[tuple[int, int, int], ...] = ()  # family, value, length
    quota: Quota = Quota()


@dataclass(frozen=True, slots=True)
class PoliceEntry:
    """A policer: so many bits, or packets, a second."""

    interface: int
    direction: int  # enum police_direction
    unit: int  # enum police_unit
    rate: int
    burst: int  # bytes, or packets


@dataclass(frozen=True, slots=True)
class BfdEntry:
    """One BFD session; times are microseconds."""

    family: int
    remote: int
    local: int = 0  # 0: as routing chooses it
    interface: int = 0  # of a single hop
    flags: int = 0  # enum bfd_entry_flags
    transmit: int = 300_000
    receive: int = 300_000
    echo: int = 0
    multiplier: int = 3
    min_ttl: int = 0
    authentication: int = 0  # enum bfd_authentication
    key_id: int = 0
    key: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Hop:
    """One next hop of a group."""

    kind: int  # enum nexthop_kind
    interface: int = 0
    via: tuple[int, int] | None = None  # family, value
    weight: int = 1


@dataclass(frozen=True, slots=True)
class RouteChange:
    """A route to install or replace; with group 0, the prefix to remove.  Also: an installed route."""

    family: int
    value: int
    length: int
    group: int
    protocol: int = 0  # enum route_protocol
    preference: int = 0
    metric: int = 0


def _packed(family: int, value: int) -> bytes:
    return value.to_bytes(4 if family == CONSTANTS["FAMILY_IPV4"] else 16, "big")


def _value(family: int, data: bytes) -> int:
    return int.from_bytes(data[:4] if family == CONSTANTS["FAMILY_IPV4"] else data, "big")


def _pack_interface(entry: InterfaceEntry) -> bytes:
    name = entry.name.encode()
    if len(name) >= CONSTANTS["INTERFACE_NAME_SIZE"]:
        raise ValueError(f"interface name {entry.name!r} is too long")
    return _INTERFACE.pack(
        entry.index, entry.port, entry.vlan, entry.kind, entry.flags, entry.mtu, entry.mac, entry.features, name
    )  # fmt: skip


def _pack_address(entry: AddressEntry) -> bytes:
    return _ADDRESS.pack(_packed(entry.family, entry.value), entry.family, entry.length, entry.interface, entry.flags)


def _pack_rule(entry: RuleEntry) -> bytes:
    if len(entry.ports) > CONSTANTS["MAX_RULE_PORTS"] or len(entry.prefixes) > CONSTANTS["MAX_RULE_PREFIXES"]:
        raise ValueError("a rule has too many port ranges or prefixes")
    head = _RULE.pack(
        entry.identity, entry.id, entry.operations, len(entry.ports), len(entry.prefixes), entry.curve_key,
        entry.quota.sockets, entry.quota.opens, entry.quota.accepts, entry.quota.bytes, entry.quota.memory,
    )  # fmt: skip
    ports = b"".join(_RANGE.pack(first, last) for first, last in entry.ports)
    prefixes = b"".join(
        _PREFIX.pack(_packed(family, value), family, length) for family, value, length in entry.prefixes
    )
    head += ports.ljust(_RANGE.size * CONSTANTS["MAX_RULE_PORTS"], b"\0")
    return head + prefixes.ljust(_PREFIX.size * CONSTANTS["MAX_RULE_PREFIXES"], b"\0")


def pack_bfd(entry: BfdEntry) -> bytes:
    """Give struct bfd_entry; it begins with what makes a session the same, see BFD_KEY_BYTES."""
    if len(entry.key) > CONSTANTS["BFD_KEY_SIZE"]:
        raise ValueError("the key is too long")
    return _BFD.pack(
        _packed(entry.family, entry.remote), _packed(entry.family, entry.local), entry.family, entry.flags,
        entry.interface, entry.transmit, entry.receive, entry.echo, entry.multiplier, entry.min_ttl,
        entry.authentication, entry.key_id, len(entry.key), entry.key,
    )  # fmt: skip


def _pack_police(entry: PoliceEntry) -> bytes:
    return _POLICE.pack(entry.interface, entry.direction, entry.unit, entry.rate, entry.burst)


def _pack_peer(peer: tuple[int, int]) -> bytes:
    return _PEER.pack(_packed(*peer), peer[0])


def _pack_hop(hop: Hop) -> bytes:
    family, value = hop.via or (CONSTANTS["FAMILY_NONE"], 0)
    via = _packed(family, value) if hop.via else b""
    return _HOP.pack(hop.kind, family, hop.interface, hop.weight, 0, 0, via)


def _pack_change(change: RouteChange) -> bytes:
    return _CHANGE.pack(
        _packed(change.family, change.value), change.family, change.length, change.group,
        change.protocol, change.preference, 0, change.metric,
    )  # fmt: skip


def _unpack_route(data: bytes) -> RouteChange:
    address, family, length, group, protocol, preference, _, metric = _ENTRY.unpack(data)
    return RouteChange(family, _value(family, address), length, group, protocol, preference, metric)


def _array(name: str, entries: Iterable[_Entry], pack: Callable[[_Entry], bytes]) -> tuple[Any, int]:
    """Give the entries as a C array, which lives as long as what is returned, and their number."""
    data = b"".join(map(pack, entries))
    return ffi.from_buffer(f"struct {name}[]", data), len(data) // SIZES[name]


class TableWriter:
    """The one writer of a tables segment.

    Opening it takes over whatever an earlier writer left: its routes go on being installed, and
    groups that no route uses are let go.  Both fds stay the caller's and may be closed at once.
    """

    def __init__(self, tables_fd: int, state_fd: int = -1) -> None:
        """Attach; without a state segment there must not be any reader."""
        handle = ffi.new("struct table_writer **")
        check(lib.table_writer_open(tables_fd, state_fd, handle))
        self._writer: Any = handle[0]

    @property
    def handle(self) -> Any:
        """Give the writer to another part of the core, which must be done with it before close()."""
        return self._writer

    def close(self) -> None:
        """Detach; what is published stays."""
        writer, self._writer = self._writer, ffi.NULL
        lib.table_writer_close(writer)

    def __enter__(self) -> Self:
        """Use as a context manager."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Detach."""
        self.close()

    def publish(
        self, interfaces: Iterable[InterfaceEntry], addresses: Iterable[AddressEntry], rules: Iterable[RuleEntry]
    ) -> None:
        """Replace interfaces, addresses and rules in one store; does nothing if they are the published ones."""
        check(
            lib.table_writer_publish(
                self._writer,
                *_array("interface_entry", interfaces, _pack_interface),
                *_array("address_entry", addresses, _pack_address),
                *_array("rule_entry", rules, _pack_rule),
            )
        )

    def bfd(self, entries: Sequence[bytes]) -> None:
        """Replace the BFD sessions (see `pack_bfd`); does nothing if they are the published ones."""
        check(lib.table_writer_bfd(self._writer, *_array("bfd_entry", entries, bytes)))

    def police(
        self, control: Sequence[tuple[int, int]], entries: Iterable[PoliceEntry], peers: Iterable[tuple[int, int]]
    ) -> None:
        """Replace rate and burst of all control classes, the policers, and the known neighbors (family, value).

        Neighbors ascend.  Does nothing if these are the published ones.
        """
        if len(control) != CONSTANTS["CONTROL_CLASSES"]:
            raise ValueError("each class has a rate")
        classes, _count = _array("police_rate", control, lambda rate: _RATE.pack(*rate))
        check(
            lib.table_writer_police(
                self._writer,
                classes,
                *_array("police_entry", entries, _pack_police),
                *_array("police_peer", peers, _pack_peer),
            )
        )

    def filter(self, block: bytes) -> None:
        """Replace the filters (include/abi/filter.h) in one store, or remove them: b""; as above."""
        check(lib.table_writer_filter(self._writer, ffi.from_buffer(block) if block else ffi.NULL, len(block)))

    def group(self, hops: Sequence[Hop]) -> int:
        """Find or make the group with exactly these hops; the caller gets a reference, see `release`."""
        return check(lib.table_writer_group(self._writer, *_array("nexthop", hops, _pack_hop)))

    def release(self, group: int) -> None:
        """Give back a reference of `group`; routes that use the group keep it alive."""
        check(lib.table_writer_group_release(self._writer, group))

    def group_own(self, hops: Sequence[Hop], backups: Sequence[Hop] = ()) -> int:
        """Make a group that nobody else is given; of the backups one is used where none of the hops can be."""
        entries, count = _array("nexthop", [*hops, *backups], _pack_hop)
        return check(lib.table_writer_group_new(self._writer, entries, count - len(backups), len(backups)))

    def group_set(self, group: int, hops: Sequence[Hop], backups: Sequence[Hop] = ()) -> None:
        """Point a group at other hops: every route that uses it moves with one store."""
        entries, count = _array("nexthop", [*hops, *backups], _pack_hop)
        check(lib.table_writer_group_set(self._writer, group, entries, count - len(backups), len(backups)))

    def group_used(self, group: int) -> bool:
        """Tell whether any route uses a group."""
        return bool(check(lib.table_writer_group_used(self._writer, group)))

    def apply(self, changes: Iterable[RouteChange]) -> None:
        """Install, replace and remove routes, in this order; a change that changes nothing costs nothing.

        Raises OSError: EINVAL or ENOENT (no such group) before anything was done; ENOSPC after a
        part of it, the forwarder then follows when there is room again (`reclaim`).
        """
        check(lib.table_writer_apply(self._writer, *_array("route_change", changes, _pack_change)))

    def routes(self, besides: Container[int] = ()) -> Iterator[RouteChange]:
        """Give the installed routes but for those of some protocols, in no order.  Nothing may be applied meanwhile."""
        cursor = ffi.new("uint64_t *")
        entries = ffi.new("struct prefix_entry[]", _BATCH)
        while count := check(lib.table_writer_routes(self._writer, cursor, entries, _BATCH)):
            data = ffi.buffer(entries, count * _ENTRY.size)[:]
            # A million routes of a protocol that is not asked for must not cost a second.
            for place, protocol in enumerate(data[_PROTOCOL_AT :: _ENTRY.size]):
                if protocol not in besides:
                    yield _unpack_route(data[place * _ENTRY.size : (place + 1) * _ENTRY.size])

    def mirror(self, map_fd: int, size: int) -> None:
        """Keep a copy of groups and tries in a map of the XDP offload; -1: in none.  The fd stays the caller's."""
        check(lib.table_writer_mirror(self._writer, map_fd, size))

    def reclaim(self) -> None:
        """Give memory back that no reader can still see; call it now and then."""
        check(lib.table_writer_reclaim(self._writer))
