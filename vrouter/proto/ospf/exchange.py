"""Database exchange: descriptions and requests (RFC 2328 sections 10.6 to 10.9)."""

from __future__ import annotations

from itertools import islice
from typing import Final

from vrouter.proto.ospf.adjacency import timer_name
from vrouter.proto.ospf.area import Interface
from vrouter.proto.ospf.core import Core
from vrouter.proto.ospf.database import Database, Entry, newer
from vrouter.proto.ospf.neighbor import Neighbor, NeighborState
from vrouter.wire.ospf.lsa import HEADER_SIZE, KNOWN, MAX_AGE, OPAQUE, LsaHeader, Options
from vrouter.wire.ospf.packet import Description, DescriptionFlag, Request

_FIXED: Final = 8  # octets of a description before its headers
_REQUEST_SIZE: Final = 12
_NEGOTIATION: Final = DescriptionFlag.I | DescriptionFlag.M | DescriptionFlag.MS


class Exchange:
    """The exchange with every neighbor."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def begin(self, interface: Interface, neighbor: Neighbor) -> None:
        """Negotiate who is master (state ExStart)."""
        core = self._core
        first = int(core.now * 1000) & 0x7FFFFFFF
        neighbor.sequence = (neighbor.sequence + 1 if neighbor.sequence else first) & 0xFFFFFFFF
        neighbor.master = True
        self._send(interface, neighbor, Description(0, 0, _NEGOTIATION, neighbor.sequence))

    def _send(self, interface: Interface, neighbor: Neighbor, description: Description) -> None:
        options = interface.area.options | Options.O
        mtu = interface.mtu if interface.mtu <= 0xFFFF else 0
        neighbor.sent = Description(mtu, options, description.flags, description.sequence, description.headers)
        self._repeat(interface, neighbor)

    def _repeat(self, interface: Interface, neighbor: Neighbor) -> None:
        core = self._core
        if neighbor.sent is None:
            return
        core.send(interface, neighbor.sent, [neighbor.address])
        if neighbor.master and neighbor.state <= NeighborState.EXCHANGE:
            when = core.now + interface.config.retransmit_interval
            core.timers.set(("describe", interface.name, *timer_name(interface, neighbor)), when)

    def describe_again(self, interface: Interface, neighbor: Neighbor) -> None:
        """Repeat a description that was not answered."""
        if neighbor.state in {NeighborState.EX_START, NeighborState.EXCHANGE}:
            self._repeat(interface, neighbor)

    def take_description(self, interface: Interface, neighbor: Neighbor, received: Description) -> str | None:
        """Take a description; give why it was dropped, if it was."""
        core = self._core
        if received.mtu > interface.mtu and not interface.config.mtu_ignore:
            return "description-mtu"
        if neighbor.state is NeighborState.INIT:
            core.adjacencies.two_way(interface, neighbor)
        if neighbor.state < NeighborState.EX_START:
            return "neighbor-state"
        fingerprint = (received.flags, received.options, received.sequence)
        duplicate = fingerprint == neighbor.received
        if neighbor.state is NeighborState.EX_START:
            if not self._negotiate(interface, neighbor, received):
                return None
        elif duplicate:
            if not neighbor.master:
                self._repeat(interface, neighbor)
            return None
        elif neighbor.state > NeighborState.EXCHANGE:
            core.adjacencies.restart(interface, neighbor, "it begins again")
            self._again(interface, neighbor, received)
            return None
        elif not self._expected(neighbor, received):
            core.adjacencies.restart(interface, neighbor, "a description out of order")
            self._again(interface, neighbor, received)
            return None
        neighbor.received = fingerprint
        self._advance(interface, neighbor, received)
        return None

    def _again(self, interface: Interface, neighbor: Neighbor, received: Description) -> None:
        """Answer the first description of an exchange that the neighbor has begun anew."""
        if received.flags & _NEGOTIATION == _NEGOTIATION and self._negotiate(interface, neighbor, received):
            neighbor.received = (received.flags, received.options, received.sequence)
            self._advance(interface, neighbor, received)

    @staticmethod
    def _expected(neighbor: Neighbor, received: Description) -> bool:
        if bool(received.flags & DescriptionFlag.MS) == neighbor.master or received.flags & DescriptionFlag.I:
            return False
        if neighbor.received is not None and received.options != neighbor.received[1]:
            return False
        return received.sequence == (neighbor.sequence if neighbor.master else neighbor.sequence + 1 & 0xFFFFFFFF)

    def _negotiate(self, interface: Interface, neighbor: Neighbor, received: Description) -> bool:
        """Decide who is master, if that can be told (event NegotiationDone)."""
        larger = neighbor.router > self._core.router_id
        if received.flags & _NEGOTIATION == _NEGOTIATION and not received.headers and larger:
            neighbor.master = False
            neighbor.sequence = received.sequence
        elif (
            received.flags & (DescriptionFlag.I | DescriptionFlag.MS)
            or received.sequence != neighbor.sequence
            or larger
        ):
            return False
        else:
            neighbor.master = True
        neighbor.options = received.options
        self._core.timers.cancel(("describe", interface.name, *timer_name(interface, neighbor)))
        self._core.adjacencies.enter(interface, neighbor, NeighborState.EXCHANGE)
        self._summarize(interface, neighbor)
        return True

    def _summarize(self, interface: Interface, neighbor: Neighbor) -> None:
        """List what the neighbor is to be told of: section 10.3, NegotiationDone."""
        core = self._core
        databases = [interface.area.database, interface.database]
        if interface.area.normal:
            databases.append(core.external)
        for database in databases:
            for entry in database:
                if entry.header.type in OPAQUE and not neighbor.opaque:
                    continue
                if entry.age(core.now) >= MAX_AGE:
                    core.flooding.retransmit_to(interface, neighbor, database, entry)
                else:
                    neighbor.summary.append(entry.current_header(core.now))

    def _advance(self, interface: Interface, neighbor: Neighbor, received: Description) -> None:
        """Take the headers and answer."""
        core = self._core
        for header in received.headers:
            if header.type not in KNOWN or not interface.area.takes(header.type):
                core.adjacencies.restart(interface, neighbor, f"it describes an LSA of type {header.type}")
                return
            database = core.database(interface, header.type)
            held = database.get(header.key)
            if held is None and not core.flooding.has_room(database, len(neighbor.requests)):
                interface.drop("lsa-limit")
            elif held is None or newer(header, held.current_header(core.now)) > 0:
                neighbor.requests[header.key] = header
        more = received.flags & DescriptionFlag.M
        if neighbor.master:
            neighbor.sequence = neighbor.sequence + 1 & 0xFFFFFFFF
            told = neighbor.sent is not None and not neighbor.sent.flags & DescriptionFlag.M
            if told and not more:
                self._done(interface, neighbor)
                return
            self._describe(interface, neighbor)
        else:
            neighbor.sequence = received.sequence
            self._describe(interface, neighbor)
            if neighbor.sent is not None and not more and not neighbor.sent.flags & DescriptionFlag.M:
                self._done(interface, neighbor)
                return
        self.ask(interface, neighbor)

    def _describe(self, interface: Interface, neighbor: Neighbor) -> None:
        count = (interface.room - _FIXED) // HEADER_SIZE
        part = neighbor.summary[:count]
        del neighbor.summary[:count]
        flags = (DescriptionFlag.MS if neighbor.master else 0) | (DescriptionFlag.M if neighbor.summary else 0)
        self._send(interface, neighbor, Description(0, 0, flags, neighbor.sequence, tuple(part)))

    def _done(self, interface: Interface, neighbor: Neighbor) -> None:
        """Go on to what has to be asked for (event ExchangeDone)."""
        self._core.timers.cancel(("describe", interface.name, *timer_name(interface, neighbor)))
        self._core.adjacencies.enter(
            interface, neighbor, NeighborState.LOADING if neighbor.requests else NeighborState.FULL
        )
        self.ask(interface, neighbor)

    def ask(self, interface: Interface, neighbor: Neighbor, *, again: bool = False) -> None:
        """Ask for LSAs, unless earlier requests still wait for their answer: section 10.9."""
        core = self._core
        neighbor.asked = tuple(key for key in neighbor.asked if key in neighbor.requests)
        if not neighbor.requests:
            if neighbor.state is NeighborState.LOADING:
                core.adjacencies.enter(interface, neighbor, NeighborState.FULL)
                core.flooding.purge_later()
            return
        if neighbor.asked and not again:
            return
        count = interface.room // _REQUEST_SIZE
        neighbor.asked = tuple(islice(neighbor.requests, count))
        core.send(interface, Request(neighbor.asked), [neighbor.address])
        core.flooding.start_timer(interface, neighbor)

    @staticmethod
    def answered(neighbor: Neighbor, header: LsaHeader) -> None:
        """Take note that an LSA came that may have been asked for."""
        wanted = neighbor.requests.get(header.key)
        if wanted is not None and newer(header, wanted) >= 0:
            del neighbor.requests[header.key]

    def take_request(self, interface: Interface, neighbor: Neighbor, request: Request) -> str | None:
        """Answer requests: section 10.7."""
        core = self._core
        if neighbor.state < NeighborState.EXCHANGE:
            return "neighbor-state"
        found: list[Entry] = []
        for key in request.keys:
            database: Database = core.database(interface, key[0])
            entry = database.get(key)
            if entry is None or not interface.area.takes(key[0]):
                core.adjacencies.restart(interface, neighbor, "it asks for an LSA that is not held")
                return None
            found.append(entry)
        core.flooding.send_updates(interface, found, [neighbor.address])
        return None
