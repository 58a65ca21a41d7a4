"""Interfaces: their state machine, hellos, and the election of the designated router (RFC 2328 section 9)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from vrouter.net.address import Address
from vrouter.proto.base import CloseSocket, JoinGroup, LeaveGroup, OpenSocket, SocketKind
from vrouter.proto.ospf import settings
from vrouter.proto.ospf.area import ALL_DESIGNATED, ALL_ROUTERS, Interface, InterfaceFsm
from vrouter.proto.ospf.core import Core
from vrouter.proto.ospf.neighbor import Neighbor, NeighborState
from vrouter.wire.ospf.packet import Hello

OSPF_PROTOCOL: Final = 89
CONTROL_TOS: Final = 0xC0
# Of one link: what a hello and a network LSA name has to fit into 64 KiB.
_MAX_NEIGHBORS: Final = 1024
_MAX_NEIGHBORS_POINT_TO_POINT: Final = 8  # one, and those that it was before
Candidate = tuple[int, int, int, int, int]  # priority, router id, address, its DR, its BDR


class Links:
    """What the interfaces of an instance do."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def refresh(self, interface: Interface) -> None:
        """Bring an interface to what its state and its configuration ask for."""
        state = interface.state
        addresses = settings.ipv4_addresses(state)
        usable = bool(state and state.up and addresses and self._core.router_id)
        if not usable or state is None:
            self.down(interface)
            return
        first, *others = addresses
        speaking = (first.address.value, first.length, state.loopback, state.mtu)
        if (interface.address, interface.length, interface.loopback, interface.mtu) != speaking:
            self.down(interface)
            interface.address, interface.length, interface.loopback, interface.mtu = speaking
        if interface.others != tuple(others):
            interface.others = tuple(others)
            self._core.origination.router_changed(interface.area)
        if interface.fsm is InterfaceFsm.DOWN:
            self._up(interface)

    def _up(self, interface: Interface) -> None:
        core = self._core
        core.origination.router_changed(interface.area)
        if interface.loopback:
            interface.fsm = InterfaceFsm.LOOPBACK
        elif not interface.broadcast:
            interface.fsm = InterfaceFsm.POINT_TO_POINT
        elif interface.config.priority == 0 or interface.config.passive:
            interface.fsm = InterfaceFsm.DR_OTHER
        else:
            interface.fsm = InterfaceFsm.WAITING
            core.timers.set(("wait", interface.name), core.now + settings.dead_interval(interface.config))
        core.summaries.borders_changed()
        if interface.loopback or interface.config.passive:
            return
        self.open(interface)

    def open(self, interface: Interface) -> None:
        """Ask for the socket of an interface."""
        interface.socket = f"ospf-{interface.name}"
        group = (interface.name, Address(4, ALL_ROUTERS))
        self._core.emit(
            OpenSocket(
                interface.socket, SocketKind.RAW, 4, OSPF_PROTOCOL, interface=interface.name, ttl=1,
                tos=CONTROL_TOS, groups=(group,),
            )
        )  # fmt: skip

    def speak(self, interface: Interface) -> None:
        """Begin to send, now that there is a socket."""
        core = self._core
        if interface.fsm is InterfaceFsm.WAITING:
            core.timers.set(("wait", interface.name), core.now + settings.dead_interval(interface.config))
        self.join_designated(interface)
        core.restart.interface_up(interface)
        core.timers.set(("hello", interface.name), core.now)

    def down(self, interface: Interface) -> None:
        """Stop (event InterfaceDown)."""
        core = self._core
        for neighbor in list(interface.neighbors.values()):
            core.adjacencies.kill(interface, neighbor, "interface down")
        if interface.fsm is InterfaceFsm.DOWN:
            return
        interface.fsm = InterfaceFsm.DOWN
        interface.dr = interface.bdr = 0
        interface.unsent.clear()
        interface.acks.clear()
        for entry in list(interface.database):
            interface.database.remove(entry.header.key)
        for name in ("hello", "wait", "ack"):
            core.timers.cancel((name, interface.name))
        if interface.socket:
            core.emit(CloseSocket(interface.socket))
            interface.socket = ""
            interface.in_designated = False
        core.origination.router_changed(interface.area)
        core.origination.network_changed(interface)
        core.summaries.borders_changed()

    def waited(self, name: str) -> None:
        """Elect, since nobody has told of a designated router (event WaitTimer)."""
        interface = self._core.interfaces.get(name)
        if interface is not None and interface.fsm is InterfaceFsm.WAITING:
            self.elect(interface)

    def hello(self, interface: Interface) -> Hello:
        """Write a hello."""
        known = [n.router for n in interface.neighbors.values() if n.state >= NeighborState.INIT]
        return Hello(
            interface.mask, int(interface.config.hello_interval), interface.area.options,
            interface.config.priority if interface.broadcast else 0,
            settings.dead_interval(interface.config), interface.dr, interface.bdr, tuple(sorted(known)),
        )  # fmt: skip

    def say_hello(self, name: str) -> None:
        """Send a hello and set when the next is due."""
        core = self._core
        interface = core.interfaces.get(name)
        if interface is None or not interface.speaks:
            return
        jitter = 1 - 0.05 * core.rng.random()
        core.timers.set(("hello", name), core.now + interface.config.hello_interval * jitter)
        core.restart.before_hello(interface)
        if interface.multicast:
            core.send(interface, self.hello(interface), [ALL_ROUTERS])
        else:
            core.send(interface, self.hello(interface), map(settings.number, interface.config.neighbors))

    def say_goodbye(self, interface: Interface) -> None:
        """Send a hello that names nobody: who hears it loses us at once."""
        if interface.speaks:
            targets = [ALL_ROUTERS] if interface.multicast else [n.address for n in interface.neighbors.values()]
            self._core.send(interface, replace(self.hello(interface), neighbors=()), targets)

    # --- section 9.4 ---

    def neighbor_changed(self, interface: Interface) -> None:
        """Elect again (event NeighborChange)."""
        if interface.fsm >= InterfaceFsm.DR_OTHER:
            self.elect(interface)

    def backup_seen(self, interface: Interface) -> None:
        """Elect at once (event BackupSeen)."""
        if interface.fsm is InterfaceFsm.WAITING:
            self.elect(interface)

    def elect(self, interface: Interface) -> None:
        """Elect the designated router and its backup."""
        if not interface.broadcast or interface.config.passive or self._helping_designated(interface):
            return
        core = self._core
        core.timers.cancel(("wait", interface.name))
        before = (interface.dr, interface.bdr)
        dr, bdr = self._elected(interface, *before)
        mine = interface.address
        if (mine == dr) != (mine == before[0]) or (mine == bdr) != (mine == before[1]):
            dr, bdr = self._elected(interface, dr, bdr)  # step 4: only once
        interface.dr, interface.bdr = dr, bdr
        old = interface.fsm
        interface.fsm = (
            InterfaceFsm.DR if dr == mine else InterfaceFsm.BACKUP if bdr == mine else InterfaceFsm.DR_OTHER
        )  # fmt: skip
        self.join_designated(interface)
        if (dr, bdr) != before or interface.fsm is not old:
            core.log("info", f"{interface.name}: DR {Address(4, dr)}, BDR {Address(4, bdr)}")
            for neighbor in list(interface.neighbors.values()):
                if neighbor.state >= NeighborState.TWO_WAY:
                    core.adjacencies.reconsider(interface, neighbor)
            core.origination.router_changed(interface.area)
            core.origination.network_changed(interface)
            core.timers.set(("hello", interface.name), core.now)

    def _helping_designated(self, interface: Interface) -> bool:
        """Keep a designated router that restarts: RFC 3623 section 3."""
        return any(n.helped_until is not None and n.address == interface.dr for n in interface.neighbors.values())

    def _elected(self, interface: Interface, own_dr: int, own_bdr: int) -> tuple[int, int]:
        candidates: list[Candidate] = [
            (n.priority, n.router, n.address, n.dr, n.bdr)
            for n in interface.neighbors.values()
            if n.state >= NeighborState.TWO_WAY and n.priority
        ]
        if interface.config.priority:
            candidates.append(
                (interface.config.priority, self._core.router_id, interface.address, own_dr, own_bdr)
            )  # fmt: skip
        eligible = [c for c in candidates if c[3] != c[2]]
        declared = [c for c in eligible if c[4] == c[2]]
        backup = max(declared or eligible, default=None)
        designated = max((c for c in candidates if c[3] == c[2]), default=backup)
        bdr = backup[2] if backup else 0
        return (designated[2] if designated else 0), bdr

    def join_designated(self, interface: Interface) -> None:
        """Follow the role in the membership of the designated routers' group."""
        if interface.designated == interface.in_designated or not interface.socket:
            return
        interface.in_designated = interface.designated
        kind = JoinGroup if interface.designated else LeaveGroup
        self._core.emit(kind(interface.socket, interface.name, Address(4, ALL_DESIGNATED)))

    # --- section 10.5 ---

    def take_hello(self, interface: Interface, hello: Hello, router: int, source: int) -> str | None:
        """Take a hello; give why it was dropped, if it was."""
        reason = self._refusal(interface, hello)
        if reason:
            return reason
        core = self._core
        key = router if interface.point_to_point else source
        neighbor = interface.neighbors.get(key)
        if neighbor is not None and neighbor.router != router:
            core.adjacencies.kill(interface, neighbor, "its router id changed")
            neighbor = None
        if neighbor is None:
            limit = _MAX_NEIGHBORS_POINT_TO_POINT if interface.point_to_point else _MAX_NEIGHBORS
            if len(interface.neighbors) >= limit:
                return "neighbor-limit"
            neighbor = interface.neighbors[key] = Neighbor(router, source)
            neighbor.since = core.now
        before = (neighbor.priority, neighbor.dr, neighbor.bdr)
        old_state = neighbor.state
        if interface.point_to_point:
            neighbor.address = source
        core.adjacencies.heard(interface, neighbor)
        neighbor.priority, neighbor.dr, neighbor.bdr = hello.priority, hello.dr, hello.bdr
        if core.router_id not in hello.neighbors:
            if neighbor.helped_until is None:
                core.adjacencies.one_way(interface, neighbor)
        else:
            core.adjacencies.two_way(interface, neighbor)
        self._follow(interface, neighbor, before, old_state)
        return None

    @staticmethod
    def _refusal(interface: Interface, hello: Hello) -> str | None:
        if not interface.point_to_point and hello.mask != interface.mask:
            return "hello-mask"
        if hello.interval != int(interface.config.hello_interval):
            return "hello-interval"
        if hello.dead_interval != settings.dead_interval(interface.config):
            return "hello-dead-interval"
        return "hello-options" if (hello.options ^ interface.area.options) & 0x0A else None

    def _follow(
        self, interface: Interface, neighbor: Neighbor, before: tuple[int, int, int], old: NeighborState
    ) -> None:
        if not interface.broadcast:
            return
        mine = neighbor.address
        if interface.fsm is InterfaceFsm.WAITING:
            if self._core.restart.active and interface.address in {neighbor.dr, neighbor.bdr}:
                self._core.restart.take_role(interface, neighbor)
            elif neighbor.bdr == mine or (neighbor.dr == mine and not neighbor.bdr):
                self.backup_seen(interface)
            return
        priority, dr, bdr = before
        changed = (
            priority != neighbor.priority
            or (dr == mine) != (neighbor.dr == mine)
            or (bdr == mine) != (neighbor.bdr == mine)
            or (old >= NeighborState.TWO_WAY) != (neighbor.state >= NeighborState.TWO_WAY)
        )
        if changed:
            self.neighbor_changed(interface)
