"""Areas and interfaces: what they are, and what is sent by them; how they behave stands elsewhere."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from vrouter.config import ospf as config
from vrouter.net.address import Address, Prefix, mask, network
from vrouter.proto.base import InterfaceState, OwnAddress
from vrouter.proto.ospf import settings
from vrouter.proto.ospf.database import Database, Entry
from vrouter.proto.ospf.neighbor import Neighbor, NeighborState
from vrouter.wire.ospf.authentication import Key, overhead
from vrouter.wire.ospf.lsa import AS_SCOPE, LsaHeader, LsaType, Options
from vrouter.wire.ospf.packet import HEADER_SIZE

if TYPE_CHECKING:
    from vrouter.proto.ospf.graph import Graph

ALL_ROUTERS: Final = 0xE0000005
ALL_DESIGNATED: Final = 0xE0000006
_IP_HEADER: Final = 20


class InterfaceFsm(enum.IntEnum):
    """States of RFC 2328 section 9.1."""

    DOWN = 0
    LOOPBACK = 1
    WAITING = 2
    POINT_TO_POINT = 3
    DR_OTHER = 4
    BACKUP = 5
    DR = 6

    @property
    def word(self) -> str:
        """What operators read."""
        return ("down", "loopback", "waiting", "point-to-point", "dr-other", "backup", "dr")[self]


class Area:
    """An area that this router has interfaces in."""

    def __init__(self, identifier: int, configured: config.Area, graph: Graph) -> None:
        self.id = identifier
        self.name = str(Address(4, identifier))
        self.config = configured
        self.database = Database(("area", self.name))
        self.graph = graph
        self.interfaces: dict[str, Interface] = {}
        self.ranges = settings.ranges(configured.ranges)
        self.nssa_ranges = settings.ranges(configured.nssa_ranges)

    @property
    def normal(self) -> bool:
        """Whether external LSAs are flooded there."""
        return self.config.type == "normal"

    @property
    def nssa(self) -> bool:
        """Whether it is a not-so-stubby one."""
        return self.config.type == "nssa"

    @property
    def options(self) -> int:
        """What hellos and LSAs of the area say."""
        return int(Options.E if self.normal else Options.NP if self.nssa else 0)

    @property
    def active(self) -> bool:
        """Whether an interface in it works."""
        return any(interface.fsm is not InterfaceFsm.DOWN for interface in self.interfaces.values())

    def takes(self, kind: int) -> bool:
        """Tell whether LSAs of a type are flooded in it."""
        if kind in AS_SCOPE:
            return self.normal
        if kind == LsaType.NSSA:
            return self.nssa
        return kind != LsaType.ASBR_SUMMARY or self.normal

    def full_with(self, router: int) -> bool:
        """Tell whether a router is adjacent on any link."""
        return any(n.full and n.router == router for i in self.interfaces.values() for n in i.neighbors.values())


class Interface:
    """An interface that OSPF runs on."""

    def __init__(self, name: str, area: Area, configured: config.OspfInterface) -> None:
        self.name = name
        self.area = area
        self.config = configured
        self.fsm = InterfaceFsm.DOWN
        self.state: InterfaceState | None = None
        self.address = 0
        self.length = 0
        self.others: tuple[OwnAddress, ...] = ()  # addresses that do not speak
        self.loopback = False
        self.mtu = 1500
        self.socket = ""  # its name, when open or about to be
        self.in_designated = False  # in the group of the designated routers
        self.dr = 0
        self.bdr = 0
        self.neighbors: dict[int, Neighbor] = {}
        self.database = Database(("link", name))
        self.keys: dict[int, Key] = {}
        self.key = settings.signing_key({})
        self.unsent: dict[tuple[tuple[str, ...], tuple[int, int, int]], Entry] = {}  # to be flooded there
        self.acks: list[LsaHeader] = []
        self.hello_due = False
        self.sent_packets = 0
        self.received_packets = 0
        self.drops: dict[str, int] = {}
        self.take_keys()

    def take_keys(self) -> None:
        """Read the keys of the configuration."""
        self.keys = settings.keys(self.config.authentication)
        self.key = settings.signing_key(self.keys)

    @property
    def broadcast(self) -> bool:
        """Whether a designated router is elected."""
        return self.config.network == "broadcast"

    @property
    def point_to_point(self) -> bool:
        """Whether there is but one neighbor."""
        return self.config.network == "point-to-point"

    @property
    def speaks(self) -> bool:
        """Whether packets are sent and taken."""
        return self.fsm > InterfaceFsm.LOOPBACK and not self.config.passive

    @property
    def designated(self) -> bool:
        """Whether we are the designated router or its backup."""
        return self.fsm >= InterfaceFsm.BACKUP

    @property
    def prefix(self) -> Prefix:
        """The network of the address that speaks."""
        return network(Address(4, self.address), self.length)

    @property
    def mask(self) -> int:
        """The net mask."""
        return mask(4, self.length)

    @property
    def cost(self) -> int:
        """The output cost."""
        return settings.cost(self.config, self.loopback)

    @property
    def room(self) -> int:
        """Octets for the body of a packet."""
        return max(self.mtu, 576) - _IP_HEADER - HEADER_SIZE - overhead(self.key)

    @property
    def multicast(self) -> bool:
        """Whether groups reach the neighbors."""
        return self.config.network != "point-to-multipoint" or not self.config.neighbors

    def flooding_address(self) -> int:
        """Give where updates and acknowledgments go: section 13.3 step 5."""
        if not self.broadcast or self.designated:
            return ALL_ROUTERS
        return ALL_DESIGNATED

    def exchanging(self) -> bool:
        """Tell whether a neighbor is about to learn the database."""
        return any(
            NeighborState.EXCHANGE <= neighbor.state < NeighborState.FULL for neighbor in self.neighbors.values()
        )

    def own_by_address(self, address: int) -> bool:
        """Tell whether an address is ours."""
        return address == self.address or any(own.address.value == address for own in self.others)

    def drop(self, reason: str) -> None:
        """Count a packet that is not taken."""
        self.drops[reason] = self.drops.get(reason, 0) + 1
