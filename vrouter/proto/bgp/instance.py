"""BGP-4 of one VR: neighbors, listeners, the table's turns, and a restart of this router.

    accepted, connected, stream, ... --> Neighbor --> Session --> table.feed
    handle_timeout --> timers; table.process in slots; table.export while sockets have room

The standards stand in the modules: `session.py`, `neighbor.py` and `opening.py` the sessions, `origin.py` what this
router announces, `vrouter/rib/bgp_table.py` the routes.  Here: RFC 4724 section 4.1 (the restarting router's part),
8212, and listening for neighbors that nobody has named.

Next hops are resolved, and routes carried to the FIB, by the RIB, which works on the same table.
Not supported: confederations (5065), route refresh with outbound filters (5291), aggregation.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from typing import Any, Final

from vrouter.config.bgp import Bgp as BgpConfig
from vrouter.net.address import (
    IPV4,
    IPV6,
    Address,
    Prefix,
    host_prefix,
    is_link_local,
    is_loopback,
    network,
    parse_address,
    parse_prefix,
)
from vrouter.proto.base import (
    BfdState,
    CloseSocket,
    Environment,
    InterfaceState,
    Log,
    Output,
    Reconfigured,
    RouteEvent,
    Setting,
    Settled,
    Silent,
)
from vrouter.proto.bgp import show
from vrouter.proto.bgp.listeners import Listeners
from vrouter.proto.bgp.neighbor import Neighbor
from vrouter.proto.bgp.origin import Origination
from vrouter.proto.bgp.session import NEVER, Session
from vrouter.proto.bgp.settings import Settings, group_settings, neighbor_settings
from vrouter.rib.bgp_reference import ReferenceTable
from vrouter.rib.bgp_table import Afi, BgpTable, FamilySettings, Identity, PeerKind, PeerSettings
from vrouter.rib.route import Protocol as RouteProtocol
from vrouter.wire.bgp.message import Cease, Code, Notification

_ESTABLISH_WAIT: Final = 15.0  # after a restart: for neighbors that do not answer, or restart themselves
_SETTLE_TIME: Final = 1.0
_MAX_NEIGHBORS: Final = 65535  # as the table numbers them


class Bgp(Silent):
    """The instance."""

    def __init__(self, environment: Environment) -> None:
        self._rng = environment.rng
        self.table: BgpTable = (environment.bgp_table or ReferenceTable)()
        self.router_id = 0
        self._setting: Setting | None = None
        self._bgp: BgpConfig | None = None
        self._identity: Identity | None = None
        self.neighbors: dict[Address, Neighbor] = {}
        self._numbers: set[int] = set()
        self._sockets: dict[str, Session] = {}
        self._owners: dict[str, Neighbor] = {}
        self._last_socket = 0
        self._listeners = Listeners(self.emit)
        self._interfaces: dict[str, InterfaceState] = {}
        self._origination = Origination(self.table)
        self._outputs: list[Output] = []
        self._now = 0.0
        self._started = False  # what the identifier is made of is known
        self._was_restarted = environment.restarted
        self._defer_until = NEVER  # no routes are chosen until then
        self._give_up_at = NEVER  # neighbors that have not answered by then are not waited for
        self._settling = environment.restarted  # it is to be told when the routes have been learnt again
        self._settle_at = NEVER
        self._gone: list[Neighbor] = []  # that came of themselves, and went

    # --- for neighbors ---

    def emit(self, output: Output) -> None:
        """Give an output."""
        self._outputs.append(output)

    def jitter(self, time: float) -> float:
        """Make a time up to a quarter shorter."""
        return time * self._rng.uniform(0.75, 1.0)

    def new_socket(self, session: Session) -> str:
        """Give a name for a session's socket."""
        self._last_socket += 1
        name = f"to-{session.owner}-{self._last_socket}"
        self._adopt(name, session)
        return name

    def _adopt(self, socket: str, session: Session) -> None:
        assert isinstance(session.owner, Neighbor)
        self._sockets[socket] = session
        self._owners[socket] = session.owner

    def restarting(self) -> bool:
        """Tell whether this router is in a restart of its own."""
        return self._defer_until is not NEVER

    def preserved(self) -> bool:
        """Tell whether forwarding went on while this router was away."""
        return self._was_restarted

    def interface_of(self, local: Address) -> str:
        """Give the interface with an address."""
        for name, state in sorted(self._interfaces.items()):
            if any(own.address == local for own in state.addresses):
                return name
        return ""

    def owns(self, interface: str, address: Address) -> bool:
        """Tell whether an interface has an address."""
        state = self._interfaces.get(interface)
        return state is not None and any(own.address == address for own in state.addresses)

    def on_link(self, interface: str, address: Address) -> bool:
        """Tell whether an address is on a connected prefix of an interface."""
        state = self._interfaces.get(interface)
        return state is not None and any(
            own.address.family == address.family and network(own.address, own.length) == network(address, own.length)
            for own in state.addresses
        )

    def heard(self, neighbor: Neighbor, now: float) -> None:
        """Take note that a neighbor is up, down, done with waiting, or has sent all of its routes."""
        if neighbor.abandoned(now):
            self._gone.append(neighbor)
        if self.restarting() and not any(map(self._awaited, self.neighbors.values())):
            self._end_deferral("all neighbors have sent their routes")
        self._now = max(now, self._now)

    def peer_settings(self, neighbor: Neighbor) -> PeerSettings:
        """Give what the table must know of an established session."""
        settings, session = neighbor.settings, neighbor.session
        assert session is not None
        assert session.negotiated is not None
        negotiated = session.negotiated
        if settings.external:
            kind = PeerKind.EXTERNAL
        else:
            kind = PeerKind.CLIENT if settings.route_reflector_client else PeerKind.INTERNAL
        return PeerSettings(
            kind=kind,
            address=settings.address,
            local_as=settings.local_as,
            remote_as=settings.remote_as,
            router_id=negotiated.router_id,
            families={afi: self._family(neighbor, session, afi) for afi in negotiated.families},
            as4=negotiated.as4,
            extended_messages=negotiated.extended_messages,
            interface=settings.interface,
            role=settings.role if settings.external else -1,
            next_hop_self=settings.next_hop_self,
            next_hop_unchanged=settings.next_hop_unchanged,
            send_communities=settings.send_communities,
            remove_private_as=settings.remove_private_as,
            allow_own_as=settings.allow_own_as,
            as_override=settings.as_override,
            weight=settings.weight,
            enforce_first_as=settings.enforce_first_as,
        )

    def _family(self, neighbor: Neighbor, session: Session, afi: Afi) -> FamilySettings:
        settings, negotiated = neighbor.settings, session.negotiated
        assert negotiated is not None
        limits = settings.max_prefixes
        denied = settings.external and settings.require_policy  # RFC 8212
        next_hop, on_link = self._next_hop(settings, session, afi, other=negotiated.extended_next_hop)
        return FamilySettings(
            receive_paths=afi in negotiated.receive_paths,
            send_paths=settings.add_path.send if afi in negotiated.send_paths else 0,
            extended_next_hop=afi is Afi.IPV4 and negotiated.extended_next_hop,
            next_hop=next_hop,
            next_hop_link_local=on_link,
            max_prefixes=(limits.ipv4 if afi is Afi.IPV4 else limits.ipv6) or 0,
            import_policy=self._program(settings.import_policy),
            export_policy=self._program(settings.export_policy),
            import_deny=denied and not settings.import_policy,
            export_deny=denied and not settings.export_policy,
        )

    def _program(self, name: str) -> int:
        policies = self._setting.policies if self._setting is not None else None
        return policies.number(name) if name and policies is not None else 0

    def _next_hop(
        self, settings: Settings, session: Session, afi: Afi, *, other: bool
    ) -> tuple[Address | None, Address | None]:
        """Give our address for a family on the session's interface, and the link-local one if the link is shared.

        `other`: an IPv6 address will do for IPv4 (RFC 8950).
        """
        family = IPV4 if afi is Afi.IPV4 else IPV6
        local = session.local
        assert local is not None
        interface = settings.interface or self.interface_of(local)
        state = self._interfaces.get(interface)
        addresses = [own.address for own in state.addresses] if state is not None else []
        if local.family == family and not is_link_local(local):
            found: Address | None = local
        else:
            found = next((own for own in addresses if own.family == family and not is_link_local(own)), None)
        if found is None and local.family == IPV6 and (other or family == IPV6):
            found = local
        if found is None or found.family == IPV4:
            return found, None
        near = is_link_local(settings.address) or self.on_link(interface, settings.address)
        on_link = next((own for own in addresses if is_link_local(own)), None) if near else None
        return found, on_link

    # --- configuration ---

    def configure(self, new: Setting, now: float) -> Reconfigured:
        """Take a configuration."""
        self._now = now
        old, self._setting = self._setting, new
        self._bgp = new.router.bgp
        if old is None or old.policies != new.policies:
            self.table.policies(new.policies)
        self._take_identity(now)
        self._take_neighbors(now)
        self._listeners.want(self._wanted_keys())
        self._outputs += self._origination.configure(self._bgp, new.policies)
        if old is None and self._was_restarted:
            self._begin_deferral(now)
        return Reconfigured(live=True, outputs=tuple(self._finish(now)))

    def _take_identity(self, now: float) -> None:
        """Take what holds for the whole table; another AS or identifier ends all sessions."""
        if self._bgp is None:
            return
        before, self.router_id = self.router_id, self._find_router_id()
        bgp = self._bgp
        cluster = parse_address(bgp.cluster_id).value if bgp.cluster_id else 0
        identity = Identity(
            local_as=bgp.asn,
            router_id=self.router_id,
            cluster_id=cluster,
            multipath=bgp.multipath.external,
            multipath_internal=bgp.multipath.internal,
            multipath_relax=bgp.multipath.relax,
            always_compare_med=bgp.always_compare_med,
            compare_router_id=bgp.compare_router_id,
            preference_external=bgp.preference.external,
            preference_internal=bgp.preference.internal,
        )
        if identity == self._identity:
            return
        old, self._identity = self._identity, identity
        self.table.configure(identity)
        if old is not None and (old.local_as, before) != (identity.local_as, self.router_id):
            for neighbor in self.neighbors.values():
                neighbor.stop(Notification(Code.CEASE, Cease.CHANGED), "this router's identity has changed", now)
                neighbor.start_at = now

    def _find_router_id(self) -> int:
        """Give the configured identifier, else that of before, else the highest address, loopbacks first."""
        assert self._bgp is not None
        assert self._setting is not None
        text = self._bgp.router_id or self._setting.router.router_id
        if text:
            return parse_address(text).value
        if self.router_id and self._started:
            return self.router_id  # it stays while its address comes and goes
        found = [
            (state.loopback, own.address.value)
            for state in self._interfaces.values()
            for own in state.addresses
            if own.address.family == IPV4 and not is_loopback(own.address)  # 127.0.0.1 is everybody's
        ]
        return max(found)[1] if found else 0

    def _take_neighbors(self, now: float) -> None:
        """Begin, change and end neighbors as configured."""
        wanted: dict[Address, Settings] = {}
        if self._bgp is not None:
            for text, entry in self._bgp.neighbors.items():
                settings = neighbor_settings(self._bgp, text, entry)
                if settings is not None:
                    wanted[settings.address] = settings
        for address, neighbor in sorted(self.neighbors.items()):
            if neighbor.dynamic and address not in wanted:
                found = self._dynamic_settings(address)
                if found is not None:
                    wanted[address] = found
            elif neighbor.dynamic:
                neighbor.named(now)
            if address not in wanted:
                neighbor.remove(Notification(Code.CEASE, Cease.DECONFIGURED), now)
                self._forget(neighbor)
        for address, settings in sorted(wanted.items()):
            known = self.neighbors.get(address)
            if known is None:
                self._add(settings, now)
            else:
                known.reconfigure(settings, now)
                known.judge_anew(now)

    def _add(self, settings: Settings, now: float, *, dynamic: bool = False) -> Neighbor:
        number = next(number for number in range(1, _MAX_NEIGHBORS + 1) if number not in self._numbers)
        self._numbers.add(number)
        neighbor = Neighbor(self, number, settings, dynamic=dynamic)
        self.neighbors[settings.address] = neighbor
        neighbor.start(now)
        return neighbor

    def _forget(self, neighbor: Neighbor) -> None:
        del self.neighbors[neighbor.settings.address]
        self._numbers.discard(neighbor.number)

    def _dynamic_settings(self, address: Address) -> Settings | None:
        """Give what holds for a neighbor that comes of itself: that of the longest prefix."""
        assert self._bgp is not None
        best: tuple[int, str] | None = None
        for text, entry in self._bgp.listen.items():
            prefix = parse_prefix(text)
            if prefix.family == address.family and network(address, prefix.length) == prefix:
                best = max(best or (-1, ""), (prefix.length, entry.group))
        return None if best is None else group_settings(self._bgp, address, best[1])

    def _room_for(self, address: Address) -> bool:
        """Tell whether a prefix may have one neighbor more."""
        assert self._bgp is not None
        if len(self._numbers) >= _MAX_NEIGHBORS:
            return False
        for text, entry in self._bgp.listen.items():
            prefix = parse_prefix(text)
            if prefix.family != address.family or network(address, prefix.length) != prefix:
                continue
            there = sum(
                neighbor.dynamic and network(known, prefix.length) == prefix
                for known, neighbor in self.neighbors.items()
                if known.family == prefix.family
            )
            if there >= entry.limit:
                return False
        return True

    # --- listeners ---

    def _wanted_keys(self) -> dict[Prefix, bytes] | None:
        """Give the keys of all who may connect; None: nobody may."""
        if self._bgp is None:
            return None
        keys = {}
        for text, entry in self._bgp.listen.items():
            group = self._bgp.groups.get(entry.group)
            if group is not None and group.password:
                keys[parse_prefix(text)] = group.password.encode()
        for address, neighbor in self.neighbors.items():
            if neighbor.settings.password and not neighbor.dynamic:
                keys[host_prefix(address)] = neighbor.settings.password
        return keys

    def stop(self, now: float) -> list[Output]:
        """Say goodbye to all neighbors."""
        for _, neighbor in sorted(self.neighbors.items()):
            neighbor.stop(Notification(Code.CEASE, Cease.SHUTDOWN), "this router stops", now)
        return self._finish(now)

    # --- what the stack tells ---

    def accepted(self, listener: str, socket: str, local: Address, remote: Address, now: float) -> list[Output]:  # noqa: ARG002
        """Take a connection that has come in, or refuse it."""
        neighbor = self.neighbors.get(remote)
        if not self.router_id:
            neighbor = None  # nobody can be spoken to without
        elif neighbor is None and self._bgp is not None:
            settings = self._dynamic_settings(remote)
            if settings is not None and self._room_for(remote):
                neighbor = self._add(settings, now, dynamic=True)
                neighbor.expire(now)
        session = neighbor.accept(socket, local, now) if neighbor is not None else None
        if session is None:
            self.emit(CloseSocket(socket, reset=True))
        elif session.socket == socket:
            self._adopt(socket, session)
        return self._finish(now)

    def connected(self, socket: str, local: Address, remote: Address, now: float) -> list[Output]:  # noqa: ARG002
        """Take note that a neighbor has answered."""
        session = self._current(socket)
        if session is not None:
            session.connected(local, now)
        return self._finish(now)

    def stream(self, socket: str, data: bytes, now: float) -> list[Output]:
        """Take bytes of a neighbor."""
        session = self._current(socket)
        if session is not None:
            session.stream(data, now)
        return self._finish(now)

    def writable(self, socket: str, now: float) -> list[Output]:
        """Take note that a neighbor has taken all that was written."""
        session = self._current(socket)
        if session is not None:
            session.taken()
            self._owners[socket].export(now, idle=not self.table.waiting())
        return self._finish(now)

    def closed(self, socket: str, error: int, now: float) -> list[Output]:
        """Take note that a socket is gone."""
        if self._listeners.closed(socket, now):
            self.emit(Log("warning", f"BGP cannot listen: {errno_name(error)}"))
            return self._finish(now)
        session = self._current(socket)
        if session is not None:
            reason = "the connection has ended" if not error else f"the connection failed: {errno_name(error)}"
            session.closed(reason, now, ours=error == errno.ECONNABORTED)
        self._sockets.pop(socket, None)
        self._owners.pop(socket, None)
        return self._finish(now)

    def _current(self, socket: str) -> Session | None:
        """Give the session of a socket, unless it has let go of it."""
        session = self._sockets.get(socket)
        return session if session is not None and session.socket == socket else None

    def interface_changed(self, state: InterfaceState, now: float) -> list[Output]:
        """Take note of an interface."""
        before = self._interfaces.get(state.name, state)
        self._interfaces[state.name] = state
        if self._bgp is not None:
            if not self.router_id or not self._started:
                self._take_identity(now)
            for _, neighbor in sorted(self.neighbors.items()):
                neighbor.judge_anew(now)
                self._connected_down(neighbor, before, state, now)
                if state.up and not before.up and self.on_link(state.name, neighbor.settings.address):
                    neighbor.link_came(now)
        return self._finish(now)

    @staticmethod
    def _connected_down(neighbor: Neighbor, before: InterfaceState, state: InterfaceState, now: float) -> None:
        """End the session of a neighbor in another AS whose link is down: it could but run into its hold time."""
        session = neighbor.session
        if state.up or session is None or not neighbor.settings.external or neighbor.settings.multihop:
            return
        if any(own.address == session.local for own in before.addresses):
            neighbor.stop(None, f"interface {state.name} is down", now)

    def routes_changed(self, events: tuple[RouteEvent, ...], now: float) -> list[Output]:
        """Take routes of other protocols."""
        self._origination.routes_changed(events)
        return self._finish(now)

    def bfd_changed(self, state: BfdState, now: float) -> list[Output]:
        """Take note of a BFD session."""
        for neighbor in self.neighbors.values():
            if neighbor.bfd == state.session:
                neighbor.bfd_changed(state, now)
        return self._finish(now)

    # --- time ---

    @property
    def deadline(self) -> float | None:
        """Give the time at which something is due: at once, while the table has work."""
        if not self.restarting() and self.table.waiting():
            return self._now
        times = [neighbor.deadline for neighbor in self.neighbors.values()]
        if not self.router_id:
            times = []  # nobody can be spoken to without
        due = min([*times, self._listeners.deadline, self._defer_until, self._give_up_at, self._settle_at])
        return None if due == NEVER else due

    def handle_timeout(self, now: float) -> list[Output]:
        """Do what is due, and some of the table's work."""
        self._listeners.expire(now)
        self._started = self._started or bool(self.router_id)
        for _, neighbor in sorted(self.neighbors.items()):
            if neighbor.deadline <= now and self._started:
                neighbor.expire(now)
        if self._defer_until <= now or self._give_up_at <= now:
            self._give_up_at = NEVER
            if self._defer_until <= now or not any(map(self._awaited, self.neighbors.values())):
                self._end_deferral("the time for it is over")
        if not self.restarting():
            idle = not self.table.process(self.table.slot)
            for _, neighbor in sorted(self.neighbors.items()):
                neighbor.export(now, idle=idle)
            if idle:
                self._settle(now)
        return self._finish(now)

    def _settle(self, now: float) -> None:
        """After a restart, tell once that all routes stand in the FIB: next hops take a moment to be found."""
        if not self._settling:
            return
        if self._settle_at is NEVER:
            self._settle_at = now + _SETTLE_TIME
        elif self._settle_at <= now:
            self._settling, self._settle_at = False, NEVER
            self.emit(Settled(RouteProtocol.BGP))

    def _finish(self, now: float) -> list[Output]:
        """Give the outputs that have gathered."""
        self._now = now
        for neighbor in self._gone:
            if self.neighbors.get(neighbor.settings.address) is neighbor and neighbor.abandoned(now):
                neighbor.remove(None, now)
                self._forget(neighbor)
        self._gone.clear()
        outputs, self._outputs = self._outputs, []
        for output in outputs:
            if isinstance(output, CloseSocket):
                self._sockets.pop(output.socket, None)
                self._owners.pop(output.socket, None)
        return outputs

    # --- a restart of this router: RFC 4724 section 4.1 ---

    def _begin_deferral(self, now: float) -> None:
        """Choose no route before the neighbors have sent theirs; what the FIB holds stays meanwhile."""
        waits = [
            neighbor.settings.graceful_restart.deferral
            for neighbor in self.neighbors.values()
            if neighbor.settings.graceful_restart.enabled and not neighbor.settings.shutdown
        ]
        if waits:
            self._defer_until = now + max(waits)
            self._give_up_at = now + _ESTABLISH_WAIT

    def _awaited(self, neighbor: Neighbor) -> bool:
        """Tell whether routes of a neighbor are yet to come."""
        settings = neighbor.settings
        if settings.shutdown or neighbor.blocked or not settings.graceful_restart.enabled or neighbor.dynamic:
            return False
        session = neighbor.session
        if session is None or session.negotiated is None:
            return self._give_up_at is not NEVER
        restart = session.negotiated.restart
        if restart is None or (restart.restarting and self._give_up_at is NEVER):
            return False  # one that restarts itself may be waiting for us
        return not neighbor.ended >= set(map(int, session.negotiated.families))

    def _end_deferral(self, why: str) -> None:
        self._defer_until = self._give_up_at = NEVER
        self.emit(Log("info", f"BGP chooses routes after the restart: {why}"))

    # --- operators ---

    def show(self, query: str, arguments: Mapping[str, Any], now: float) -> Any:
        """Answer an operator.  Raises KeyError."""
        return show.answer(self, query, arguments, now)

    def clear(self, query: str, arguments: Mapping[str, Any], now: float) -> list[Output]:
        """Do what an operator asks for.  Raises KeyError."""
        show.clear(self, query, arguments, now)
        return self._finish(now)

    @property
    def asn(self) -> int:
        """Give the AS of this router."""
        return self._bgp.asn if self._bgp is not None else 0

    @property
    def local_routes(self) -> int:
        """Count what this router announces of itself."""
        return self._origination.count()

    def neighbor_name(self, number: int) -> str:
        """Give the address of a neighbor by its number in the table."""
        return next((str(each) for each in self.neighbors.values() if each.number == number), "local")


def errno_name(error: int) -> str:
    """Give words for an errno."""
    return os.strerror(error) if error in errno.errorcode else f"error {error}"
