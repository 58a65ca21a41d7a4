"""What all parts of an instance share: time, outputs, areas, interfaces, and how packets leave."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from vrouter.config.ospf import Ospf as OspfConfig
from vrouter.net.address import Address
from vrouter.proto.base import Environment, Log, Notify, Output, Setting, Transmit
from vrouter.proto.ospf.area import Area, Interface, InterfaceFsm
from vrouter.proto.ospf.database import Database, Entry
from vrouter.proto.ospf.dijkstra import shortest_paths
from vrouter.proto.ospf.neighbor import NeighborState
from vrouter.proto.ospf.timers import Timers
from vrouter.wire.ospf.authentication import sign
from vrouter.wire.ospf.fletcher import fletcher
from vrouter.wire.ospf.lsa import AS_SCOPE, LsaType
from vrouter.wire.ospf.packet import AuthType, Body

if TYPE_CHECKING:
    from vrouter.proto.ospf.adjacency import Adjacencies
    from vrouter.proto.ospf.exchange import Exchange
    from vrouter.proto.ospf.external import Externals
    from vrouter.proto.ospf.flooding import Flooding
    from vrouter.proto.ospf.links import Links
    from vrouter.proto.ospf.origination import Origination
    from vrouter.proto.ospf.restart import Restart
    from vrouter.proto.ospf.routes import Routes
    from vrouter.proto.ospf.summaries import Summaries

BACKBONE: Final = 0


class Core:
    """The state of an instance; the parts hold each other through it."""

    links: Links
    adjacencies: Adjacencies
    exchange: Exchange
    flooding: Flooding
    origination: Origination
    externals: Externals
    summaries: Summaries
    routes: Routes
    restart: Restart

    def __init__(self, environment: Environment) -> None:
        self.rng = environment.rng
        self.boot = environment.boot
        self.restarted = environment.restarted
        accelerators = environment.accelerators
        self.fletcher = accelerators.fletcher if accelerators else fletcher
        self.spf = accelerators.spf if accelerators else shortest_paths
        self.timers = Timers()
        self.now = 0.0
        self.out: list[Output] = []
        self.config = OspfConfig()
        self.setting: Setting | None = None
        self.router_id = 0
        self.areas: dict[int, Area] = {}
        self.interfaces: dict[str, Interface] = {}
        self.external = Database(("as",))
        self._packets = 0

    def emit(self, output: Output) -> None:
        """Add an output."""
        self.out.append(output)

    def log(self, level: str, message: str) -> None:
        """Write to the log."""
        self.out.append(Log(level, message))

    def notify(self, event: str, **details: str) -> None:
        """Tell operators."""
        self.out.append(Notify(event, tuple(details.items())))

    @property
    def border(self) -> bool:
        """Whether we are an area border router: RFC 3509, with a working backbone beside other areas."""
        active = [area.id for area in self.areas.values() if area.active]
        return len(active) > 1 and BACKBONE in active

    def database(self, interface: Interface, kind: int) -> Database:
        """Give where LSAs of a type that come in by an interface are held."""
        if kind in AS_SCOPE:
            return self.external
        return interface.database if kind == LsaType.OPAQUE_LINK else interface.area.database

    def databases(self) -> Iterator[Database]:
        """Give all."""
        yield self.external
        for area in self.areas.values():
            yield area.database
        for interface in self.interfaces.values():
            yield interface.database

    def find_database(self, scope: tuple[str, ...]) -> Database | None:
        """Find a database by its scope."""
        return next((database for database in self.databases() if database.scope == scope), None)

    def members(self, database: Database) -> list[Interface]:
        """Give the interfaces that LSAs of a database are flooded by."""
        if database.scope[0] == "link":
            return [self.interfaces[database.scope[1]]] if database.scope[1] in self.interfaces else []
        if database.scope[0] == "as":
            return [interface for interface in self.interfaces.values() if interface.area.normal]
        return [interface for interface in self.interfaces.values() if interface.area.database is database]

    def area_of(self, database: Database) -> Area | None:
        """Give the area whose database it is."""
        return next((area for area in self.areas.values() if area.database is database), None)

    def exchanging(self, database: Database) -> bool:
        """Tell whether a neighbor is about to learn a database."""
        return any(interface.exchanging() for interface in self.members(database))

    def held_back(self, database: Database, entry: Entry) -> bool:
        """Tell whether a neighbor has still to acknowledge an LSA."""
        name = (database.scope, entry.header.key)
        return any(
            name in neighbor.retransmit
            for interface in self.members(database)
            for neighbor in interface.neighbors.values()
        )

    def send(self, interface: Interface, body: Body, destinations: Iterable[int]) -> None:
        """Send a packet to one address or several."""
        if interface.fsm <= InterfaceFsm.LOOPBACK or interface.config.passive or not interface.socket:
            return
        packet = sign(
            body, self.router_id, interface.area.id, interface.key, self._sequence(interface), interface.address
        )
        for destination in destinations:
            interface.sent_packets += 1
            self.out.append(
                Transmit(
                    interface.socket, Address(4, destination), packet, 0, interface.name, Address(4, interface.address)
                )
            )

    def _sequence(self, interface: Interface) -> int:
        """Give the cryptographic sequence number: never smaller than before, also of an instance made anew.

        `now` goes on while this machine runs, `boot` grows with every start of this process.
        """
        if interface.key.auth_type is AuthType.EXTENDED:
            self._packets = max(self._packets + 1, int(self.now * 100))
            return (self.boot << 32) + self._packets
        if interface.key.auth_type is AuthType.CRYPTOGRAPHIC:
            return (self.boot + int(self.now)) & 0xFFFFFFFF
        return 0

    def to_neighbors(self, interface: Interface, group: int) -> list[int]:
        """Give where a packet for all of a link goes: its group, or each neighbor."""
        if interface.multicast:
            return [group]
        return [
            neighbor.address for neighbor in interface.neighbors.values() if neighbor.state >= NeighborState.EXCHANGE
        ]
