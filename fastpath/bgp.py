"""The BGP table in C: a typed handle without knowledge of routers.

Addresses are tuples (family, value), prefixes (family, value, length), next hops (kind, interface index, address or
None, weight).  `vrouter/runtime/bgp_bulk.py` makes of it what `vrouter/rib/bgp_table.py` asks for.  Used by one thread.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fastpath._layout import CONSTANTS
from fastpath.binding import check, ffi, lib

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fastpath.tables import TableWriter

Address = tuple[int, int]
Prefix = tuple[int, int, int]
Hop = tuple[int, int, Address | None, int]

_NEXTHOP: Final = struct.Struct("<BBHIII16s")  # struct nexthop
_EVENTS: Final = 256
_BATCH: Final = 1024
_BITS: Final = {4: 32, 6: 128}
_INTERFACE_NAME_SIZE: Final = CONSTANTS["INTERFACE_NAME_SIZE"]


class Event(NamedTuple):
    """struct bgp_event, with its body."""

    kind: int
    type: int
    code: int
    subcode: int
    family: int
    number: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Family:
    """struct bgp_family: settings for one of them."""

    receive_paths: bool = False
    send_paths: int = 0
    extended_next_hop: bool = False
    import_deny: bool = False
    export_deny: bool = False
    next_hop: Address | None = None
    next_hop_link_local: Address | None = None
    max_prefixes: int = 0
    import_policy: int = 0
    export_policy: int = 0


class Route(NamedTuple):
    """struct bgp_route: the best path of a prefix; without hops: none."""

    prefix: Prefix
    hops: tuple[Hop, ...]
    preference: int
    metric: int
    internal: bool
    attributes: bytes


class Path(NamedTuple):
    """struct bgp_path: one path as operators see it."""

    prefix: Prefix
    peer: int
    path_id: int
    next_hop: Address | None
    interface: int
    metric: int
    weight: int
    verdict: int
    reason: int
    stale: bool
    best: int
    attributes: bytes


def _packed(address: Address | None) -> bytes:
    if address is None:
        return bytes(16)
    family, value = address
    return value.to_bytes(_BITS[family] // 8, "big").ljust(16, b"\0")


def _value(family: int, data: bytes) -> int:
    return int.from_bytes(data[: _BITS[family] // 8], "big")


def _unpack_hop(data: bytes) -> Hop:
    kind, family, interface, weight, _end, _reserved, via = _NEXTHOP.unpack(data)
    return kind, interface, (family, _value(family, via)) if family in _BITS else None, weight


def _pack_hop(hop: Hop) -> bytes:
    kind, interface, via, weight = hop
    return _NEXTHOP.pack(kind, via[0] if via else 0, interface, weight, 0, 0, _packed(via))


def _name(text: str) -> bytes:
    return text.encode()[: _INTERFACE_NAME_SIZE - 1]


class Table:
    """One VR's BGP routes; with `writer`, the FIB is kept in its tables segment."""

    def __init__(self, writer: TableWriter | None = None) -> None:
        """Make an empty table; the writer must outlive it."""
        handle = ffi.new("struct bgp_table **")
        check(lib.bgp_table_open(ffi.NULL if writer is None else writer.handle, handle))
        self._table: Any = ffi.gc(handle[0], lib.bgp_table_close)
        self._events = ffi.new("struct bgp_event[]", _EVENTS)
        self._fed = ffi.new("struct bgp_fed *")
        self._prefix = ffi.new("struct prefix *")
        self._routes = ffi.new("struct bgp_route[]", _BATCH)
        self._room: Any = ffi.NULL
        self._room_size = 0

    def close(self) -> None:
        """Free it; what stands in the FIB stays."""
        ffi.release(self._table)

    def configure(self, **identity: int) -> None:
        """Set what holds for all: fields of struct bgp_identity."""
        check(lib.bgp_configure(self._table, ffi.new("struct bgp_identity *", identity)))

    def policy(self, number: int, program: bytes) -> None:
        """Set a compiled policy; empty: there is none any more."""
        check(lib.bgp_policy(self._table, number, program, len(program)))

    def peer_add(self, peer: int) -> None:
        """Make room for a neighbor."""
        check(lib.bgp_peer_add(self._table, peer))

    def peer_delete(self, peer: int) -> None:
        """Forget a neighbor."""
        check(lib.bgp_peer_delete(self._table, peer))

    def peer_up(self, peer: int, address: Address, name: str, families: dict[int, Family], **others: int) -> None:
        """Begin a session; `name` is its interface's, `others` are fields of struct bgp_settings."""
        check(lib.bgp_peer_up(self._table, peer, self._settings(address, name, families, others)))

    def peer_change(self, peer: int, address: Address, name: str, families: dict[int, Family], **others: int) -> None:
        """Set other settings of a session."""
        check(lib.bgp_peer_change(self._table, peer, self._settings(address, name, families, others)))

    @staticmethod
    def _settings(address: Address, name: str, families: dict[int, Family], others: dict[str, int]) -> Any:
        settings = ffi.new("struct bgp_settings *", others)
        settings.family = address[0]
        settings.address = _packed(address)
        settings.interface_name = _name(name)
        for number, family in families.items():
            into = settings.families[int(number == 6)]
            into.enabled = 1
            into.receive_paths = family.receive_paths
            into.send_paths = family.send_paths
            into.extended_next_hop = family.extended_next_hop
            into.import_deny = family.import_deny
            into.export_deny = family.export_deny
            into.max_prefixes = family.max_prefixes
            into.import_policy = family.import_policy
            into.export_policy = family.export_policy
            into.next_hop_family = family.next_hop[0] if family.next_hop else 0
            into.next_hop = _packed(family.next_hop)
            into.has_link_local = family.next_hop_link_local is not None
            into.next_hop_link_local = _packed(family.next_hop_link_local)
        return settings

    def peer_down(self, peer: int, keep: Sequence[int] = ()) -> None:
        """End a session; routes of families in `keep` become stale."""
        check(lib.bgp_peer_down(self._table, peer, sum(1 << (family == 6) for family in set(keep))))

    def peer_flush(self, peer: int, family: int, *, stale_only: bool) -> None:
        """Drop what came from a neighbor."""
        check(lib.bgp_peer_flush(self._table, peer, family, stale_only))

    def peer_stale(self, peer: int, family: int) -> None:
        """Mark what came from a neighbor."""
        check(lib.bgp_peer_stale(self._table, peer, family))

    def feed(self, peer: int, data: bytes | memoryview) -> tuple[int, list[Event], int]:
        """Take bytes of a session; give how many, events, and the number of UPDATEs."""
        view = memoryview(data)
        raw = ffi.from_buffer("uint8_t[]", view)
        found: list[Event] = []
        consumed = updates = 0
        more = 1
        while more:
            more = check(
                lib.bgp_feed(self._table, peer, raw + consumed, len(view) - consumed, self._events, _EVENTS, self._fed)
            )
            for i in range(self._fed.events):
                event = self._events[i]
                begin = consumed + event.offset
                body = bytes(view[begin : begin + event.length])
                found.append(
                    Event(event.kind, event.type, event.code, event.subcode, event.family, event.count, body)
                )  # fmt: skip
            consumed += self._fed.consumed
            updates += self._fed.updates
        return consumed, found, updates

    def originate(self, prefix: Prefix, next_hop: Address | None, attributes: bytes, protocol: int) -> None:
        """Offer a local route."""
        check(
            lib.bgp_originate(
                self._table, self._c_prefix(prefix), next_hop[0] if next_hop else 0, _packed(next_hop), attributes,
                len(attributes), protocol,
            )
        )  # fmt: skip

    def unoriginate(self, prefix: Prefix) -> None:
        """Withdraw a local route."""
        check(lib.bgp_unoriginate(self._table, self._c_prefix(prefix)))

    def _c_prefix(self, prefix: Prefix) -> Any:
        self._prefix.address = _packed(prefix[:2])
        self._prefix.family = prefix[0]
        self._prefix.length = prefix[2]
        return self._prefix

    def process(self, limit: int) -> bool:
        """Do at most `limit` prefixes' work; tell whether more waits."""
        return bool(check(lib.bgp_process(self._table, limit)))

    def waiting(self) -> bool:
        """Tell whether process() has something to do."""
        return bool(lib.bgp_waiting(self._table))

    def export(self, peer: int, room: int) -> bytes:
        """Give messages that a neighbor is owed."""
        if room > self._room_size:
            self._room = ffi.new("uint8_t[]", room)
            self._room_size = room
        size = check(lib.bgp_export(self._table, peer, self._room, room))
        return bytes(ffi.buffer(self._room, size))

    def refresh(self, peer: int, family: int) -> None:
        """Owe a neighbor a family again."""
        check(lib.bgp_refresh(self._table, peer, family))

    def new_next_hops(self) -> list[tuple[int, Address, int]]:
        """Give (id, address, interface number) of next hops to be resolved."""
        found = []
        room = ffi.new("struct bgp_next_hop[]", 64)
        while count := check(lib.bgp_new_next_hops(self._table, room, 64)):
            for i in range(count):
                hop = room[i]
                found.append((hop.id, (hop.family, _value(hop.family, bytes(hop.address))), hop.interface))
        return found

    def dead_next_hops(self) -> list[int]:
        """Give ids of next hops that nobody uses."""
        found: list[int] = []
        room = ffi.new("uint32_t[]", 64)
        while count := check(lib.bgp_dead_next_hops(self._table, room, 64)):
            found += list(room[0:count])
        return found

    def next_hop_set(self, number: int, metric: int, hops: Sequence[Hop]) -> None:
        """Tell the way to a next hop."""
        data = b"".join(map(_pack_hop, hops))
        check(lib.bgp_next_hop_set(self._table, number, metric, ffi.from_buffer("struct nexthop[]", data), len(hops)))

    def hold(self, prefix: Prefix) -> None:
        """Leave a prefix to the RIB."""
        check(lib.bgp_hold(self._table, self._c_prefix(prefix)))

    def unhold(self, prefix: Prefix) -> None:
        """Take a prefix back."""
        check(lib.bgp_unhold(self._table, self._c_prefix(prefix)))

    def held(self) -> list[Route]:
        """Give held prefixes that changed."""
        return self._drain(lib.bgp_held, None)

    def watch(self, *, enabled: bool) -> None:
        """Keep note of changes."""
        check(lib.bgp_watch(self._table, enabled))

    def changes(self, limit: int) -> list[Route]:
        """Give watched changes."""
        return self._drain(lib.bgp_changes, limit)

    def fib(self, limit: int) -> list[Route]:
        """Give FIB changes of a table without a writer."""
        return self._drain(lib.bgp_fib, limit)

    def _drain(self, function: Callable[[Any, Any, int], int], limit: int | None) -> list[Route]:
        found: list[Route] = []
        while limit is None or limit > 0:
            asked = _BATCH if limit is None else min(limit, _BATCH)
            count = check(function(self._table, self._routes, asked))
            found += [_route(self._routes[i]) for i in range(count)]
            if count < asked:
                break
            limit = None if limit is None else limit - count
        return found

    def lookup(self, address: Address, longest: int) -> Route | None:
        """Find the longest best path for an address."""
        found = check(lib.bgp_lookup(self._table, address[0], _packed(address), longest, self._routes))
        return _route(self._routes[0]) if found else None

    def sweep(self) -> None:
        """Remove BGP routes from the segment that a predecessor left and nobody has told of again."""
        check(lib.bgp_sweep(self._table))

    def counts(self, peer: int) -> Any:
        """Give struct bgp_counts of a neighbor."""
        counts = ffi.new("struct bgp_counts *")
        check(lib.bgp_counts(self._table, peer, counts))
        return counts

    def totals(self) -> Any:
        """Give struct bgp_totals."""
        totals = ffi.new("struct bgp_totals *")
        check(lib.bgp_totals(self._table, totals))
        return totals

    def routes(self, family: int, view: int, peer: int, after: Prefix | None, limit: int) -> list[Path]:
        """Give a page of paths in the order of prefixes."""
        start = ffi.NULL if after is None else self._c_prefix(after)
        return self._paths(lambda out, room: lib.bgp_routes(self._table, family, view, peer, start, out, room), limit)

    def explain(self, prefix: Prefix) -> list[Path]:
        """Give all paths of a prefix, the best first."""
        return self._paths(lambda out, room: lib.bgp_explain(self._table, self._c_prefix(prefix), out, room), 16)

    def dump(self, family: int, cursor: Any) -> list[Path]:
        """Give some paths in the order of the table; `cursor` is a uint64_t * that begins at 0."""
        return self._paths(lambda out, room: lib.bgp_dump(self._table, family, cursor, out, room), _BATCH)

    @staticmethod
    def _paths(ask: Callable[[Any, int], int], room: int) -> list[Path]:
        """Ask with more room until a prefix with all its paths fits in."""
        while True:
            out = ffi.new("struct bgp_path[]", room)
            count = ask(out, room)
            if count != -CONSTANTS["BGP_NO_ROOM"]:
                return [_path(out[i]) for i in range(check(count))]
            room *= 4


def _prefix(prefix: Any) -> Prefix:
    return prefix.family, _value(prefix.family, bytes(prefix.address)), prefix.length


def _route(route: Any) -> Route:
    hops = bytes(ffi.buffer(route.hops, route.hop_count * _NEXTHOP.size))
    return Route(
        _prefix(route.prefix),
        tuple(_unpack_hop(hops[at : at + _NEXTHOP.size]) for at in range(0, len(hops), _NEXTHOP.size)),
        route.preference,
        route.metric,
        bool(route.internal),
        bytes(ffi.buffer(route.attributes, route.size)) if route.size else b"",
    )


def _path(path: Any) -> Path:
    family = path.next_hop_family
    return Path(
        _prefix(path.prefix),
        path.peer,
        path.path_id,
        (family, _value(family, bytes(path.next_hop))) if family else None,
        path.next_hop_interface,
        path.metric,
        path.weight,
        path.verdict,
        path.reason,
        bool(path.stale),
        path.best,
        bytes(ffi.buffer(path.attributes, path.size)) if path.size else b"",
    )
