"""Flooding: updates taken and passed on, acknowledgments, retransmission, aging (RFC 2328 sections 13 and 14)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from vrouter.proto.ospf.adjacency import timer_name
from vrouter.proto.ospf.area import ALL_DESIGNATED, ALL_ROUTERS, Interface, InterfaceFsm
from vrouter.proto.ospf.core import Core
from vrouter.proto.ospf.database import Database, Entry, newer
from vrouter.proto.ospf.neighbor import Neighbor, NeighborState
from vrouter.wire.ospf.lsa import (
    HEADER_SIZE,
    KNOWN,
    MAX_AGE,
    MAX_SEQUENCE,
    OPAQUE,
    RESERVED_SEQUENCE,
    Body,
    DecodeError,
    LsaHeader,
    LsaKey,
    LsaType,
    OpaqueBody,
    decode_body,
    decode_header,
    with_age,
)
from vrouter.wire.ospf.packet import Ack, Update

MIN_ARRIVAL: Final = 1.0
ACK_DELAY: Final = 0.5
_COUNT_SIZE: Final = 4
_PACKETS_AGAIN: Final = 8  # of one retransmission
_AT_EASE: Final = 0.9  # of the limit of a database: the next time that it is reached is logged anew


class Flooding:
    """What keeps the databases of all routers alike."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._aged: dict[tuple[tuple[str, ...], LsaKey], None] = {}
        self._released: dict[tuple[tuple[str, ...], LsaKey], None] = {}  # of these, what may go
        self._purge = False  # any of them may
        self._overflowing: dict[tuple[str, ...], None] = {}

    # --- section 13: updates that come in ---

    def take_update(self, interface: Interface, neighbor: Neighbor, update: Update) -> str | None:
        """Take an update; give why it was dropped, if it was."""
        if neighbor.state < NeighborState.EXCHANGE:
            return "neighbor-state"
        direct: list[LsaHeader] = []
        back: list[Entry] = []
        for raw in update.lsas:
            reason = self._take_lsa(interface, neighbor, raw, direct, back)
            if reason:
                interface.drop(reason)
            if neighbor.state < NeighborState.EXCHANGE:
                return None  # it asked for what it has not: the exchange begins again
        if direct:
            self._send_acks(interface, direct, [neighbor.address])
        if back:
            self.send_updates(interface, back, [neighbor.address])
        self._core.exchange.ask(interface, neighbor)
        return None

    def _take_lsa(
        self, interface: Interface, neighbor: Neighbor, raw: bytes, direct: list[LsaHeader], back: list[Entry]
    ) -> str | None:
        core = self._core
        header = decode_header(raw)
        if header.type not in KNOWN or not interface.area.takes(header.type):
            return "lsa-type"
        if header.age > MAX_AGE:
            return "lsa-age"
        if header.sequence == RESERVED_SEQUENCE:
            return "lsa-sequence"
        if header.type == LsaType.ROUTER and header.id != header.router:
            return "lsa-router-id"
        if core.fletcher(raw) != header.checksum:
            return "lsa-checksum"
        database = core.database(interface, header.type)
        held = database.get(header.key)
        if header.age == MAX_AGE and held is None and not core.exchanging(database):
            direct.append(header)
            core.exchange.answered(neighbor, header)
            return None
        order = 1 if held is None else newer(header, held.current_header(core.now))
        if order > 0:
            try:
                return self._take_newer(interface, neighbor, database, held, header, raw)
            except DecodeError as error:
                # It would be no better the next time: it is not asked for, nor sent, again.
                direct.append(header)
                core.exchange.answered(neighbor, header)
                if core.origination.is_own(header):
                    content = OpaqueBody(raw[HEADER_SIZE:])
                    core.origination.malformed_received(database, Entry(header, raw, content, core.now, own=False))
                return str(error)
        assert held is not None
        wanted = neighbor.requests.get(header.key)
        if wanted is not None and newer(header, wanted) < 0:
            core.adjacencies.restart(interface, neighbor, "it sends less than it described")
            return None
        core.exchange.answered(neighbor, header)
        if order == 0:
            self._take_same(interface, neighbor, database, header, direct)
        elif not (held.age(core.now) == MAX_AGE and held.header.sequence == MAX_SEQUENCE):
            back.append(held)
        return None

    def _take_newer(
        self, interface: Interface, neighbor: Neighbor, database: Database, held: Entry | None, header: LsaHeader,
        raw: bytes,
    ) -> str | None:  # fmt: skip
        core = self._core
        if held is not None and held.flooded and core.now - held.installed < MIN_ARRIVAL:
            return "lsa-min-arrival"
        if held is None and not self.has_room(database):
            raise DecodeError("lsa-limit")
        body = self._body(header, raw)
        entry = Entry(header, raw, body, core.now, own=False, flooded=header.key not in neighbor.requests)
        core.restart.changed(database, held, entry)
        own = core.origination.is_own(header)
        returned = self.flood(database, entry, (interface, neighbor))
        self.install(database, entry)
        core.exchange.answered(neighbor, header)
        if not returned and (interface.fsm is not InterfaceFsm.BACKUP or neighbor.address == interface.dr):
            self._ack_later(interface, header)
        if header.type == LsaType.OPAQUE_LINK:
            core.restart.take_grace(interface, entry)
        if own:
            core.origination.own_received(database, entry)
        return None

    @staticmethod
    def _body(header: LsaHeader, raw: bytes) -> Body:
        """Read what an LSA says; of one that goes it does not matter.  Raises DecodeError."""
        try:
            return decode_body(header.type, raw)
        except DecodeError:
            if header.age < MAX_AGE:
                raise
            return OpaqueBody(raw[HEADER_SIZE:])

    def _take_same(
        self, interface: Interface, neighbor: Neighbor, database: Database, header: LsaHeader, direct: list[LsaHeader]
    ) -> None:
        name = (database.scope, header.key)
        if neighbor.retransmit.pop(name, None) is None:
            direct.append(header)
            return
        self._released[name] = None  # an implied acknowledgment
        if interface.fsm is InterfaceFsm.BACKUP and neighbor.address == interface.dr:
            self._ack_later(interface, header)

    def has_room(self, database: Database, expected: int = 0) -> bool:
        """Tell whether a database takes LSAs that it has not, beside those that are expected; log when it does not."""
        core = self._core
        limit = core.config.max_lsas
        count = len(database) + expected
        if count < limit:
            if count < limit * _AT_EASE:
                self._overflowing.pop(database.scope, None)
            return True
        if database.scope not in self._overflowing:
            self._overflowing[database.scope] = None
            core.log("warning", f"database {' '.join(database.scope)}: {limit} LSAs held, others are refused")
            core.notify("ospf-lsa-limit", database=" ".join(database.scope), limit=str(limit))
        return False

    # --- installing ---

    def install(self, database: Database, entry: Entry) -> None:
        """Hold an LSA in the place of an earlier instance: section 13.2."""
        core = self._core
        key = entry.header.key
        old = database.put(entry)
        name = (database.scope, key)
        if old is not None:
            self._forget(database, name, old)
        age = entry.header.age
        if age >= MAX_AGE:
            core.timers.cancel(("age", *name))
            self._aged[name] = self._released[name] = None
        else:
            self._aged.pop(name, None)
            if not entry.own:
                core.timers.set(("age", *name), entry.installed + MAX_AGE - age)
        changed = (
            age < MAX_AGE
            if old is None
            else (
                old.header.options != entry.header.options
                or (old.header.age >= MAX_AGE) != (age >= MAX_AGE)
                or old.raw[HEADER_SIZE:] != entry.raw[HEADER_SIZE:]
            )
        )
        if changed and key[0] not in OPAQUE:
            core.routes.lsa_changed(database, old, entry if age < MAX_AGE else None)

    def _forget(self, database: Database, name: tuple[tuple[str, ...], LsaKey], old: Entry) -> None:
        for interface in self._core.members(database):
            for neighbor in interface.neighbors.values():
                if neighbor.retransmit.get(name) is old:
                    del neighbor.retransmit[name]

    def expire(self, scope: tuple[str, ...], key: LsaKey) -> None:
        """Flood an LSA that has reached MaxAge: section 14."""
        database = self._core.find_database(scope)
        held = database.get(key) if database is not None else None
        if database is not None and held is not None:
            self.flush(database, held)

    def flush(self, database: Database, held: Entry) -> None:
        """Take an LSA out of the routing domain (premature aging, section 14.1)."""
        if held.header.age >= MAX_AGE:
            return
        raw = with_age(held.raw, MAX_AGE)
        entry = Entry(decode_header(raw), raw, held.body, self._core.now, held.own)
        self.install(database, entry)
        self.flood(database, entry, None)

    def forget_others(self, database: Database) -> None:
        """Drop what others have told without a word: nobody is left who would tell when it changes."""
        core = self._core
        for entry in [entry for entry in database if not entry.own]:
            key = entry.header.key
            database.remove(key)
            core.timers.cancel(("age", database.scope, key))
            self._aged.pop((database.scope, key), None)
            if entry.header.age < MAX_AGE and key[0] not in OPAQUE:
                core.routes.lsa_changed(database, entry, None)

    def purge_later(self) -> None:
        """Look whether LSAs of MaxAge can go, at the end of this turn."""
        self._purge = True

    def _purge_aged(self) -> None:
        core = self._core
        names = list(self._aged) if self._purge else [name for name in self._released if name in self._aged]
        self._purge = False
        self._released.clear()
        for name in names:
            database = core.find_database(name[0])
            entry = database.get(name[1]) if database is not None else None
            if database is None or entry is None or entry.header.age < MAX_AGE:
                del self._aged[name]
            elif not core.held_back(database, entry) and not core.exchanging(database):
                del self._aged[name]
                database.remove(name[1])
                core.origination.purged(database, entry)

    # --- section 13.3 ---

    def flood(self, database: Database, entry: Entry, source: tuple[Interface, Neighbor] | None) -> bool:
        """Pass an LSA on; tell whether it goes back out the interface that it came by."""
        core = self._core
        returned = False
        for interface in core.members(database):
            if not interface.neighbors:
                continue
            waiting = False
            for neighbor in interface.neighbors.values():
                if self._must_have(interface, neighbor, entry, source):
                    self.retransmit_to(interface, neighbor, database, entry)
                    waiting = True
            if not waiting:
                continue
            if source is not None and source[0] is interface:
                if source[1].address in {interface.dr, interface.bdr} and interface.broadcast:
                    continue
                if interface.fsm is InterfaceFsm.BACKUP:
                    continue
                returned = True
            interface.unsent[database.scope, entry.header.key] = entry
        return returned

    def _must_have(
        self, interface: Interface, neighbor: Neighbor, entry: Entry, source: tuple[Interface, Neighbor] | None
    ) -> bool:
        if neighbor.state < NeighborState.EXCHANGE:
            return False
        if entry.header.type in OPAQUE and not neighbor.opaque:
            return False
        if neighbor.state < NeighborState.FULL:
            wanted = neighbor.requests.get(entry.header.key)
            if wanted is not None:
                order = newer(entry.header, wanted)
                if order < 0:
                    return False
                del neighbor.requests[entry.header.key]
                if order == 0:
                    return False
        return source is None or source != (interface, neighbor)

    def retransmit_to(self, interface: Interface, neighbor: Neighbor, database: Database, entry: Entry) -> None:
        """Send an LSA until it is acknowledged; the first time is the caller's."""
        neighbor.retransmit[database.scope, entry.header.key] = entry
        self.start_timer(interface, neighbor)

    def start_timer(self, interface: Interface, neighbor: Neighbor) -> None:
        """Run the retransmission timer."""
        when = self._core.now + interface.config.retransmit_interval
        self._core.timers.start(("retransmit", interface.name, *timer_name(interface, neighbor)), when)

    def send_again(self, interface: Interface, neighbor: Neighbor) -> None:
        """Send again what was not acknowledged or answered."""
        if neighbor.state < NeighborState.EXCHANGE:
            return
        if neighbor.requests:
            self._core.exchange.ask(interface, neighbor, again=True)
        if neighbor.retransmit:
            limit = _PACKETS_AGAIN * (interface.room // HEADER_SIZE)
            self.send_updates(
                interface, list(neighbor.retransmit.values())[:limit], [neighbor.address], packets=_PACKETS_AGAIN
            )
        if neighbor.requests or neighbor.retransmit:
            self.start_timer(interface, neighbor)

    def send_updates(
        self, interface: Interface, entries: Iterable[Entry], destinations: list[int], packets: int = 0
    ) -> None:
        """Send LSAs, as many in each packet as have room."""
        core = self._core
        delay = int(interface.config.transmit_delay)
        part: list[bytes] = []
        size = _COUNT_SIZE
        sent = 0
        for entry in entries:
            raw = entry.aged(core.now, delay)
            if part and size + len(raw) > interface.room:
                core.send(interface, Update(tuple(part)), destinations)
                sent += 1
                if sent == packets:
                    return
                part, size = [], _COUNT_SIZE
            part.append(raw)
            size += len(raw)
        if part:
            core.send(interface, Update(tuple(part)), destinations)

    def finish(self) -> None:
        """Send what has gathered, and forget what everybody has acknowledged: once for each input."""
        core = self._core
        for interface in core.interfaces.values():
            if interface.unsent:
                entries = list(interface.unsent.values())
                interface.unsent.clear()
                if interface.speaks:
                    group = interface.flooding_address()
                    self.send_updates(interface, entries, core.to_neighbors(interface, group))
        if self._purge or self._released:
            self._purge_aged()

    # --- section 13.5 and 13.7 ---

    def _ack_later(self, interface: Interface, header: LsaHeader) -> None:
        interface.acks.append(header)
        if (len(interface.acks) + 1) * HEADER_SIZE > interface.room:
            self.send_acks(interface.name)
        else:
            self._core.timers.start(("ack", interface.name), self._core.now + ACK_DELAY)

    def send_acks(self, name: str) -> None:
        """Send the acknowledgments that have gathered on an interface."""
        core = self._core
        interface = core.interfaces.get(name)
        if interface is None:
            return
        acks, interface.acks = interface.acks, []
        if acks:
            group = ALL_ROUTERS if not interface.broadcast or interface.designated else ALL_DESIGNATED
            self._send_acks(interface, acks, core.to_neighbors(interface, group))

    def _send_acks(self, interface: Interface, headers: list[LsaHeader], destinations: list[int]) -> None:
        count = interface.room // HEADER_SIZE
        for first in range(0, len(headers), count):
            self._core.send(interface, Ack(tuple(headers[first : first + count])), destinations)

    def take_ack(self, interface: Interface, neighbor: Neighbor, ack: Ack) -> str | None:
        """Take acknowledgments; give why they were dropped, if they were."""
        core = self._core
        if neighbor.state < NeighborState.EXCHANGE:
            return "neighbor-state"
        for header in ack.headers:
            name = (core.database(interface, header.type).scope, header.key)
            entry = neighbor.retransmit.get(name)
            if entry is not None and newer(header, entry.current_header(core.now)) == 0:
                del neighbor.retransmit[name]
                self._released[name] = None
        if not neighbor.retransmit and not neighbor.requests:
            core.timers.cancel(("retransmit", interface.name, *timer_name(interface, neighbor)))
        return None
