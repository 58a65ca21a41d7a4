"""Graceful restart: RFC 3623, both roles.

Restarting, we send grace LSAs before anything else, form adjacencies anew, originate and install nothing, and
are done when all neighbors of our old router LSA are back, when somebody contradicts it, or when the time is
up.  Helping, we go on to announce a neighbor that restarts; a change of the topology ends that.
"""

from __future__ import annotations

from typing import Final

from vrouter.net.address import Address
from vrouter.proto.base import Settled
from vrouter.proto.ospf import settings
from vrouter.proto.ospf.adjacency import timer_name
from vrouter.proto.ospf.area import ALL_ROUTERS, Area, Interface, InterfaceFsm
from vrouter.proto.ospf.core import Core
from vrouter.proto.ospf.database import Database, Entry
from vrouter.proto.ospf.neighbor import Neighbor, NeighborState
from vrouter.rib.route import Protocol
from vrouter.wire.ospf.lsa import (
    GRACE_OPAQUE_TYPE,
    HEADER_SIZE,
    MAX_AGE,
    OPAQUE,
    DecodeError,
    Grace,
    LinkType,
    LsaKey,
    LsaType,
    NetworkBody,
    OpaqueBody,
    Options,
    RouterBody,
    RouterLink,
    decode_grace,
    encode_grace,
)

UNKNOWN_REASON: Final = 0  # of an outage that was not planned
_REPEATS: Final = 3
_LONGEST: Final = 1800  # RFC 3623 appendix B: no grace period is longer than LSRefreshTime


class Restart:
    """Restarts of our own and of neighbors."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.active = False
        self.last = ""
        self._told: dict[str, int] = {}  # grace LSAs sent, by interface

    # --- restarting ---

    def begin(self) -> None:
        """Begin a restart, if the predecessor's routes are still in use."""
        core = self._core
        if not core.restarted:
            return
        if core.config.graceful_restart.enabled:
            self.active = True
            core.timers.set(("restart",), core.now + core.config.graceful_restart.period)
            core.log("info", "graceful restart begins")
        else:
            core.emit(Settled(Protocol.OSPF))

    def interface_up(self, interface: Interface) -> None:
        """Want a grace LSA on an interface."""
        if not self.active:
            return
        core = self._core
        period = core.timers.when(("restart",))
        left = int(period - core.now) if period is not None else 0
        address = interface.address if not interface.point_to_point else 0
        body = OpaqueBody(encode_grace(Grace(max(left, 1), UNKNOWN_REASON, address)))
        core.origination.want(interface.database, self._key(), interface.area.options | Options.O, body)

    def _key(self) -> LsaKey:
        return (LsaType.OPAQUE_LINK, GRACE_OPAQUE_TYPE << 24, self._core.router_id)

    def before_hello(self, interface: Interface) -> None:
        """Tell of the restart before the neighbors see that we have forgotten them."""
        count = self._told.get(interface.name, 0)
        entry = interface.database.get(self._key())
        if not self.active or count >= _REPEATS or entry is None:
            return
        self._told[interface.name] = count + 1
        targets = (
            [ALL_ROUTERS] if interface.multicast else [settings.number(text) for text in interface.config.neighbors]
        )
        self._core.flooding.send_updates(interface, [entry], targets)

    def take_role(self, interface: Interface, neighbor: Neighbor) -> None:
        """Be designated router, or its backup, as before the restart: section 2.2."""
        core = self._core
        core.timers.cancel(("wait", interface.name))
        interface.dr, interface.bdr = neighbor.dr, neighbor.bdr
        mine = interface.address
        interface.fsm = InterfaceFsm.DR if neighbor.dr == mine else InterfaceFsm.BACKUP
        core.links.join_designated(interface)
        for known in list(interface.neighbors.values()):
            if known.state >= NeighborState.TWO_WAY:
                core.adjacencies.reconsider(interface, known)
        core.timers.set(("hello", interface.name), core.now)

    def own_received(self, database: Database, entry: Entry) -> None:
        """Keep LSAs of our earlier life; a grace LSA of an earlier restart excepted."""
        if entry.header.type == LsaType.OPAQUE_LINK:
            self._core.origination.issue(database.scope, entry.header.key, refresh=True)
        self._look()

    def adjacency_changed(self, interface: Interface, neighbor: Neighbor) -> None:
        """Look whether all are back; and whether one that we helped is."""
        if self.active:
            self._look()
        elif neighbor.helped_until is not None and neighbor.state is NeighborState.DOWN:
            self.end_help(interface, neighbor, "it is gone")

    def _look(self) -> None:
        if self.active and all(self._complete(area) for area in self._core.areas.values() if area.interfaces):
            self._core.timers.set(("restart",), self._core.now)

    def _complete(self, area: Area) -> bool:
        core = self._core
        held = area.database.get((LsaType.ROUTER, core.router_id, core.router_id))
        speaking = [interface for interface in area.interfaces.values() if interface.speaks]
        if held is None or not isinstance(held.body, RouterBody):
            # Our old LSA comes with the first database: without it there is nothing to come back to.
            return not speaking or any(
                neighbor.state is NeighborState.FULL
                for interface in speaking
                for neighbor in interface.neighbors.values()
            )
        return all(self._back(area, link) for link in held.body.links)

    def _back(self, area: Area, link: RouterLink) -> bool:
        if link.type == LinkType.POINT_TO_POINT:
            return area.full_with(link.id)
        if link.type != LinkType.TRANSIT:
            return True
        interface = next((i for i in area.interfaces.values() if i.address == link.data), None)
        if interface is None or not interface.speaks:
            return True
        if interface.fsm is not InterfaceFsm.DR:
            return any(n.full and n.address == link.id for n in interface.neighbors.values())
        own = area.database.get((LsaType.NETWORK, interface.address, self._core.router_id))
        if own is None or not isinstance(own.body, NetworkBody):
            return any(n.full for n in interface.neighbors.values())
        full = {n.router for n in interface.neighbors.values() if n.full}
        return set(own.body.routers) - {self._core.router_id} <= full

    def due(self) -> None:
        """End our restart: section 2.3."""
        core = self._core
        if not self.active:
            return
        complete = all(self._complete(area) for area in core.areas.values())
        self.last = "completed" if complete else "timed out or contradicted"
        self.active = False
        self._told.clear()
        core.log("info" if complete else "warning", f"graceful restart {self.last}")
        core.notify("ospf-restart", result=self.last)
        core.origination.all_changed()
        core.origination.finish()
        for interface in core.interfaces.values():
            core.origination.network_changed(interface)
        core.summaries.borders_changed()
        core.externals.areas_changed()
        core.origination.issue_all()
        core.routes.settle = True
        core.routes.all_changed()
        core.routes.compute()
        core.summaries.finish()
        core.externals.finish()
        core.externals.translate()
        for interface in core.interfaces.values():
            core.origination.unwant(interface.database, self._key())
        core.origination.flush_unwanted()

    # --- helping ---

    def take_grace(self, interface: Interface, entry: Entry) -> None:
        """Help the neighbor whose LSA it is, or no longer: section 3.1."""
        header = entry.header
        if header.id >> 24 != GRACE_OPAQUE_TYPE or header.router == self._core.router_id:
            return
        for neighbor in interface.neighbors.values():
            if neighbor.router == header.router:
                self._decide(interface, neighbor, entry)
                return

    def _decide(self, interface: Interface, neighbor: Neighbor, entry: Entry) -> None:
        core = self._core
        if entry.header.age >= MAX_AGE:
            if neighbor.helped_until is not None:
                self.end_help(interface, neighbor, "it is done")
            return
        if not isinstance(entry.body, OpaqueBody):
            return
        try:
            grace = decode_grace(entry.body.data)
        except DecodeError as error:
            interface.drop(str(error))
            return
        left = min(grace.period, _LONGEST) - entry.header.age
        wish = core.config.graceful_restart
        unacknowledged = any(key[0] not in OPAQUE for _, key in neighbor.retransmit)
        if not neighbor.full or left <= 0 or not wish.helper or self.active or (wish.strict and unacknowledged):
            core.log("info", f"{interface.name}: no help for {Address(4, neighbor.router)} that restarts")
            return
        neighbor.helped_until = core.now + left
        core.timers.set(("help", interface.name, *timer_name(interface, neighbor)), neighbor.helped_until)
        core.log("info", f"{interface.name}: {Address(4, neighbor.router)} restarts, helped for {left} s")
        core.notify("ospf-helper", neighbor=str(Address(4, neighbor.router)), state="helping")

    def end_help(self, interface: Interface, neighbor: Neighbor, why: str) -> None:
        """Announce a neighbor only as it really is: section 3.2."""
        core = self._core
        neighbor.helped_until = None
        core.timers.cancel(("help", interface.name, *timer_name(interface, neighbor)))
        core.log("info", f"{interface.name}: no longer helps {Address(4, neighbor.router)}: {why}")
        core.notify("ospf-helper", neighbor=str(Address(4, neighbor.router)), state="done", reason=why)
        inactive = ("inactive", interface.name, *timer_name(interface, neighbor))
        if neighbor.state > NeighborState.DOWN and inactive not in core.timers:
            core.adjacencies.kill(interface, neighbor, "it did not come back")
        core.links.neighbor_changed(interface)
        core.origination.router_changed(interface.area)
        core.origination.network_changed(interface)
        core.routes.neighbors_changed(interface.area)

    def changed(self, database: Database, held: Entry | None, entry: Entry) -> None:
        """Look whether an LSA with other content ends a restart of ours, or help for others."""
        core = self._core
        header = entry.header
        if header.type in OPAQUE:
            return
        if self.active:
            if header.type == LsaType.ROUTER and isinstance(entry.body, RouterBody):
                self._contradicted(database, entry.header.router, entry.body)
            return
        same = held is not None and held.raw[HEADER_SIZE:] == entry.raw[HEADER_SIZE:]
        if (same and (header.age >= MAX_AGE) == (held is not None and held.header.age >= MAX_AGE)) or (
            not core.config.graceful_restart.strict
        ):
            return
        for interface in core.members(database):
            for neighbor in list(interface.neighbors.values()):
                if neighbor.helped_until is not None and neighbor.router != header.router:
                    self.end_help(interface, neighbor, "the topology has changed")

    def _contradicted(self, database: Database, router: int, body: RouterBody) -> None:
        """End our restart when a former neighbor announces no link to us: section 2.2, step 2."""
        core = self._core
        own = database.get((LsaType.ROUTER, core.router_id, core.router_id))
        if own is None or not isinstance(own.body, RouterBody):
            return
        ours = any(link.type == LinkType.POINT_TO_POINT and link.id == router for link in own.body.links)
        theirs = any(link.type == LinkType.POINT_TO_POINT and link.id == core.router_id for link in body.links)
        if ours and not theirs:
            core.timers.set(("restart",), core.now)
