"""Neighbors: their state machine (RFC 2328 section 10.3), and their BFD sessions (RFC 5882)."""

from __future__ import annotations

from typing import Final

from vrouter.net.address import Address
from vrouter.proto.base import BfdClose, BfdOpen, BfdState
from vrouter.proto.ospf import settings
from vrouter.proto.ospf.area import Interface, InterfaceFsm
from vrouter.proto.ospf.core import Core
from vrouter.proto.ospf.neighbor import Neighbor, NeighborState

_BFD_INTERVAL: Final = 0.3


class Adjacencies:
    """What neighbors do."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def enter(self, interface: Interface, neighbor: Neighbor, state: NeighborState, why: str = "") -> None:
        """Change a neighbor's state: the only place that does."""
        if neighbor.state is state:
            return
        core = self._core
        old, neighbor.state = neighbor.state, state
        neighbor.changes += 1
        neighbor.since = core.now
        neighbor.last_change = why
        if state < NeighborState.EX_START <= old:
            neighbor.clear_lists()
            for kind in ("retransmit", "describe"):
                core.timers.cancel((kind, interface.name, *_name(interface, neighbor)))
        if old >= NeighborState.EXCHANGE:
            core.flooding.purge_later()  # LSAs of MaxAge may have waited for it
        if NeighborState.FULL in {old, state}:
            core.log(
                "info", f"{interface.name}: {Address(4, neighbor.router)} {old.word} -> {state.word} {why}".rstrip()
            )
            core.notify(
                "ospf-neighbor", interface=interface.name, neighbor=str(Address(4, neighbor.router)), state=state.word
            )
            core.origination.router_changed(interface.area)
            core.origination.network_changed(interface)
            core.routes.neighbors_changed(interface.area)
            core.restart.adjacency_changed(interface, neighbor)

    def heard(self, interface: Interface, neighbor: Neighbor) -> None:
        """Start the inactivity timer again (event HelloReceived)."""
        core = self._core
        core.timers.set(
            ("inactive", interface.name, *_name(interface, neighbor)),
            core.now + settings.dead_interval(interface.config),
        )
        if neighbor.state < NeighborState.INIT:
            self.enter(interface, neighbor, NeighborState.INIT)
            if core.timers.when(("hello", interface.name)) != core.now:
                core.timers.set(("hello", interface.name), core.now)

    def two_way(self, interface: Interface, neighbor: Neighbor) -> None:
        """Take note that the neighbor hears us (event 2-WayReceived)."""
        if neighbor.state is not NeighborState.INIT:
            return
        self._watch(interface, neighbor)
        if self._wanted(interface, neighbor):
            self.start(interface, neighbor)
        else:
            self.enter(interface, neighbor, NeighborState.TWO_WAY)

    def one_way(self, interface: Interface, neighbor: Neighbor) -> None:
        """Take note that the neighbor does not hear us (event 1-WayReceived)."""
        if neighbor.state >= NeighborState.TWO_WAY:
            self.enter(interface, neighbor, NeighborState.INIT, "it does not hear us")

    def start(self, interface: Interface, neighbor: Neighbor) -> None:
        """Begin to form an adjacency."""
        neighbor.clear_lists()
        self.enter(interface, neighbor, NeighborState.EX_START)
        self._core.exchange.begin(interface, neighbor)

    def restart(self, interface: Interface, neighbor: Neighbor, why: str) -> None:
        """Begin again (events SeqNumberMismatch, BadLSReq)."""
        if neighbor.state < NeighborState.EXCHANGE:
            return
        self._core.log("info", f"{interface.name}: exchange with {Address(4, neighbor.router)} begins again: {why}")
        neighbor.clear_lists()
        self.enter(interface, neighbor, NeighborState.EX_START, why)
        self._core.exchange.begin(interface, neighbor)

    def reconsider(self, interface: Interface, neighbor: Neighbor) -> None:
        """Form an adjacency or give one up, after an election (event AdjOK?)."""
        wanted = self._wanted(interface, neighbor)
        if neighbor.state is NeighborState.TWO_WAY and wanted:
            self.start(interface, neighbor)
        elif neighbor.state >= NeighborState.EX_START and not wanted:
            self.enter(interface, neighbor, NeighborState.TWO_WAY, "no longer to be adjacent")

    def kill(self, interface: Interface, neighbor: Neighbor, why: str) -> None:
        """Forget a neighbor (events KillNbr, LLDown, InactivityTimer)."""
        core = self._core
        was_known = neighbor.state >= NeighborState.TWO_WAY
        neighbor.helped_until = None
        self.enter(interface, neighbor, NeighborState.DOWN, why)
        name = _name(interface, neighbor)
        for kind in ("inactive", "retransmit", "describe", "help"):
            core.timers.cancel((kind, interface.name, *name))
        interface.neighbors.pop(neighbor.router if interface.point_to_point else neighbor.address, None)
        if neighbor.bfd:
            core.emit(BfdClose(neighbor.bfd))
            neighbor.bfd = ""
        if was_known and interface.fsm is not InterfaceFsm.DOWN:
            core.links.neighbor_changed(interface)
        core.flooding.purge_later()

    def silent(self, interface: str, router: int, address: int) -> None:
        """Take note that a neighbor was not heard for long."""
        found = self.find(interface, router, address)
        if found is None:
            return
        link, neighbor = found
        if neighbor.helped_until is None:
            self.kill(link, neighbor, "not heard of for the dead interval")

    def find(self, name: str, router: int, address: int) -> tuple[Interface, Neighbor] | None:
        """Find what a timer's key names."""
        interface = self._core.interfaces.get(name)
        if interface is None:
            return None
        neighbor = interface.neighbors.get(router if interface.point_to_point else address)
        return (interface, neighbor) if neighbor is not None and neighbor.router == router else None

    @staticmethod
    def _wanted(interface: Interface, neighbor: Neighbor) -> bool:
        """Tell whether an adjacency should be: section 10.4."""
        if not interface.broadcast:
            return True
        if interface.fsm is InterfaceFsm.WAITING:
            return False
        return interface.designated or neighbor.address in {interface.dr, interface.bdr}

    # --- BFD ---

    def _watch(self, interface: Interface, neighbor: Neighbor) -> None:
        wish = interface.config.bfd
        if wish is None or not wish.enabled:
            return
        neighbor.bfd = f"{interface.name}/{Address(4, neighbor.address)}"
        neighbor.bfd_up = False
        interval = wish.interval or _BFD_INTERVAL
        key = wish.authentication
        self._core.emit(
            BfdOpen(
                neighbor.bfd,
                Address(4, neighbor.address),
                Address(4, interface.address),
                interface.name,
                transmit_interval=interval,
                receive_interval=wish.receive_interval or interval,
                multiplier=wish.multiplier or 3,
                echo_interval=wish.echo_interval or 0,
                authentication=(key.type, key.key_id, key.key.encode()) if key else None,
                passive=wish.passive,
            )
        )

    def watch_again(self, interface: Interface) -> None:
        """Follow a changed wish for BFD."""
        for neighbor in interface.neighbors.values():
            wanted = interface.config.bfd is not None and interface.config.bfd.enabled
            if neighbor.bfd and not wanted:
                self._core.emit(BfdClose(neighbor.bfd))
                neighbor.bfd = ""
            elif wanted and neighbor.state >= NeighborState.TWO_WAY:
                self._watch(interface, neighbor)

    def bfd_changed(self, state: BfdState) -> None:
        """Lose a neighbor whose session failed."""
        for interface in self._core.interfaces.values():
            for neighbor in list(interface.neighbors.values()):
                if not neighbor.bfd or neighbor.bfd != state.session:
                    continue
                failed = neighbor.bfd_up and not state.up and not state.admin_down
                neighbor.bfd_up = state.up
                if failed:
                    self.kill(interface, neighbor, f"BFD: {state.diagnostic or 'down'}")


def _name(interface: Interface, neighbor: Neighbor) -> tuple[int, int]:
    """Name a neighbor in a timer's key."""
    return (neighbor.router, 0 if interface.point_to_point else neighbor.address)


timer_name = _name
