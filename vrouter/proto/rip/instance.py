"""RIP in one VR: packets, timers and configuration round the table.

    packet ---> checks, import policy ---> Table ---> RouteAdd, RouteDel
                                             |
    regular update, every 30 s +- 5 s -------+---> export policy, split horizon ---> packets
    triggered update, 1 to 5 s apart --------+

RFC 2453 sections 3.8 to 3.10 and 4, RFC 2080 section 2, RFC 4822.  Updates go to the group on each interface and
by unicast to configured neighbors; a passive interface sends to those alone.  Answers to whole-table requests
obey split horizon, answers to others do not (RFC 2453 section 3.9.1).  An orderly end announces all routes as
unreachable.

Not supported: version 1 in any form (its packets are counted), several subnets of one interface (packets are
sent from its first address), demand circuits (RFC 2091).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from vrouter.config.rip import Rip as RipSettings
from vrouter.config.rip import Ripng as RipngSettings
from vrouter.net.address import Address, Prefix, is_link_local, mask, parse_address
from vrouter.proto.base import (
    CloseSocket,
    Environment,
    InterfaceState,
    JoinGroup,
    LeaveGroup,
    Log,
    Meta,
    Notify,
    OpenSocket,
    Output,
    Reconfigured,
    Redistribute,
    RouteAdd,
    RouteDel,
    RouteEvent,
    Setting,
    Settled,
    Silent,
    SocketKind,
    Transmit,
)
from vrouter.proto.rip import show
from vrouter.proto.rip.dialect import NG, V2, Dialect
from vrouter.proto.rip.own import OwnRoutes
from vrouter.proto.rip.policies import Policies
from vrouter.proto.rip.port import Announced, Port, as_entry, parts
from vrouter.proto.rip.table import Heard, Path, Row, Table
from vrouter.rib.route import Hop, HopKind, Protocol, Route
from vrouter.wire.rip.packet import INFINITY, Command, Entry, Fault, Packet, RipError

if TYPE_CHECKING:
    from random import Random

_SOCKET: Final = "udp"
_RETRY: Final = 10.0  # seconds between attempts to open the socket
_JITTER: Final = 1 / 6  # of the update interval: 5 s of 30
_HOLD: Final = (1.0, 5.0)  # between triggered updates
_INITIAL: Final = (0.5, 1.5)  # from up to the first update
# A large table is told on demand only so often that other work goes on.
_SMALL: Final = 1000  # rows
_PACE: Final = 1e-4  # seconds between two answers, for each row beyond


@dataclass(frozen=True, slots=True)
class RipOrigin:
    """Where a route comes from."""

    neighbor: Address
    interface: str

    def __str__(self) -> str:
        """Tell it to operators."""
        return f"said by {self.neighbor} on {self.interface}"


class Rip(Silent):
    """RIPv2 or RIPng in one VR."""

    def __init__(self, environment: Environment, dialect: Dialect) -> None:
        self.dialect = dialect
        self.table = Table()
        self.ports: dict[str, Port] = {}
        self.counters: Counter[str] = Counter()
        self.settings: RipSettings | RipngSettings | None = None
        self._rng: Random = environment.rng
        self._boot = environment.boot
        self._restarted = environment.restarted
        self._settled_at: float | None = None
        self._started = 0.0
        self._policies = Policies(None)
        self._links: dict[str, InterfaceState] = {}
        self._own = OwnRoutes(dialect.family)
        self._installed: dict[Prefix, Route] = {}
        self._open = False
        self._retry_at: float | None = None
        self._update_at: float | None = None
        self._hold_until = -math.inf

    # --- what the runtime calls ---

    @property
    def size(self) -> int:
        """Count the rows of the table: an update holds all of them."""
        return len(self.table.rows)

    @property
    def deadline(self) -> float | None:
        """Give when something is due."""
        if self.settings is None:
            return None
        due = [self.table.due]
        if self._retry_at is not None:
            due.append(self._retry_at)
        if self._open:
            due += [port.initial_at for port in self.ports.values() if port.initial_at is not None]
            due += [at for at in (self._update_at, self._settled_at) if at is not None]
            if self.table.changed:
                due.append(self._hold_until)
        earliest = min(due)
        return None if earliest == math.inf else earliest

    def configure(self, new: Setting, now: float) -> Reconfigured:
        """Take a configuration; without its part the protocol ends."""
        settings = self.dialect.settings(new.router)
        if settings is None:
            return Reconfigured(live=True, outputs=tuple(self.stop(now)))
        before, self.settings = self.settings, settings
        old_policies, self._policies = self._policies, Policies(new.policies)
        outputs: list[Output] = []
        if before is None:
            outputs.append(self._open_socket())
            self._started = now
            self._update_at = now + self._interval()
            self._settled_at = now + settings.timers.update if self._restarted else None
        elif before.timers.update != settings.timers.update:
            self._update_at = now + self._interval()
        self._set_timers(settings, now)
        protocols = self._own.configure(settings, self._policies)
        if protocols is not None:
            outputs.append(Redistribute(protocols))
        outputs += self._set_ports(settings, now)
        self._own.announce(self.table, self._sorted(), now)
        if before is not None:
            self._reconsider(old_policies, before, now, outputs)
        return Reconfigured(live=True, outputs=(*outputs, *self._flush()))

    def stop(self, now: float) -> list[Output]:
        """Tell neighbors that all routes are gone, withdraw ours, and end."""
        if self.settings is None:
            return []
        outputs: list[Output] = []
        for port in self._active():
            entries = [
                as_entry(prefix, Announced(INFINITY, said.tag, None))
                for prefix, said in sorted(port.sent.items())
                if said.metric < INFINITY
            ]
            for destination in port.destinations(self._neighbors(port)):
                outputs += self._send(port, Command.RESPONSE, entries, destination, self.dialect.port, now)
        if self._installed:
            outputs.append(RouteDel(tuple(route for _prefix, route in sorted(self._installed.items()))))
        if self.settings.redistribute:
            outputs.append(Redistribute(()))
        outputs.append(CloseSocket(_SOCKET))
        self.settings = None
        self.table = Table()
        self.ports.clear()
        self._own = OwnRoutes(self.dialect.family)
        self._installed.clear()
        self._open = False
        self._retry_at = self._update_at = self._settled_at = None
        return outputs

    def opened(self, socket: str, now: float) -> list[Output]:  # noqa: ARG002
        """Begin: join the groups and ask the neighbors for their tables."""
        self._open = True
        outputs: list[Output] = []
        for port in self._active():
            outputs += self._port_up(port, now)
        return outputs

    def closed(self, socket: str, error: int, now: float) -> list[Output]:  # noqa: ARG002
        """Try again later: an app may hold the port."""
        if self.settings is None:
            return []
        self._open = False
        for port in self.ports.values():
            port.joined = False
        self._retry_at = now + _RETRY
        return [Log("warning", f"{self.dialect.name}: no socket on port {self.dialect.port}: error {error}")]

    def interface_changed(self, state: InterfaceState, now: float) -> list[Output]:
        """Take note of an interface."""
        self._links[state.name] = state
        port = self.ports.get(state.name)
        if port is None:
            return []
        outputs = self._set_link(port, state, now)
        self._own.announce(self.table, self._sorted(), now)
        return outputs + self._flush()

    def routes_changed(self, events: tuple[RouteEvent, ...], now: float) -> list[Output]:
        """Announce routes of other protocols, or no longer."""
        if self.settings is None:
            return []
        self._own.take(self.table, events, now)
        return self._flush()

    def received(self, socket: str, packet: bytes, meta: Meta, now: float) -> list[Output]:  # noqa: ARG002
        """Take a packet."""
        port = self.ports.get(meta.interface)
        if port is None or not port.active or self.settings is None:
            self.counters["no-interface"] += 1
            return []
        if port.is_own(meta.source):
            return []
        try:
            decoded, sequence = self.dialect.decode(packet, port.keys)
            self._check_sequence(port, packet, meta, sequence)
        except RipError as error:
            port.counters[f"bad-{error.fault}"] += 1
            return []
        for wrong in decoded.errors:
            port.counters[f"bad-entry-{wrong.fault}"] += 1
        if decoded.command is Command.REQUEST:
            return self._answer(port, decoded, meta, now)
        if not self.dialect.believes(port.state, meta):
            port.counters["bad-source"] += 1
            return []
        return self._learn(port, decoded, packet, sequence, meta, now) + self._flush()

    def handle_timeout(self, now: float) -> list[Output]:
        """Send updates, and let old routes go."""
        if self.settings is None:
            return []
        outputs: list[Output] = []
        if self._retry_at is not None and now >= self._retry_at:
            self._retry_at = None
            outputs.append(self._open_socket())
        self._forget_peers(now)
        self.table.expire(now)
        outputs += self._flush()
        if self._open:
            outputs += self._updates(now)
            if self._settled_at is not None and now >= self._settled_at:
                # Every neighbor has had time to answer our request.
                self._settled_at = None
                outputs.append(Settled(Protocol.RIP))
        return outputs

    def show(self, query: str, arguments: Mapping[str, Any], now: float) -> Any:
        """Answer an operator: summary, neighbors, routes or interfaces."""
        return show.answer(self, query, arguments, now)

    def clear(self, query: str, arguments: Mapping[str, Any], now: float) -> list[Output]:  # noqa: ARG002
        """Forget what was learned, and ask for it again (`routes`)."""
        if query != "routes":
            raise KeyError(query)
        self.table.clear()
        outputs = self._flush()
        for port in self._active():
            outputs += self._request(port, now)
        return outputs

    @property
    def update_at(self) -> float | None:
        """Give when the next regular update is due."""
        return self._update_at

    # --- configuration ---

    def _open_socket(self) -> OpenSocket:
        dialect = self.dialect
        return OpenSocket(
            _SOCKET, SocketKind.UDP, dialect.family, local_port=dialect.port, ttl=dialect.ttl, tos=dialect.tos
        )

    def _set_timers(self, settings: RipSettings | RipngSettings, now: float) -> None:
        table = self.table
        table.timeout, table.garbage = settings.timers.timeout, settings.timers.garbage
        if settings.maximum_paths < table.limit:
            for row in list(table.rows.values()):
                if len(row.paths) > settings.maximum_paths:
                    table.limit = settings.maximum_paths
                    table.reconsider(row, now)
        table.limit = settings.maximum_paths

    def _set_ports(self, settings: RipSettings | RipngSettings, now: float) -> list[Output]:
        outputs: list[Output] = []
        for name in [name for name in self.ports if name not in settings.interfaces]:
            outputs += self._set_link(self.ports[name], InterfaceState(name, up=False), now)
            del self.ports[name]
        for name, chosen in settings.interfaces.items():
            port = self.ports.get(name)
            if port is None:
                port = self.ports[name] = Port(name, self.dialect, chosen)
                outputs += self._set_link(port, self._links.get(name, port.state), now)
                continue
            added = [one for one in chosen.neighbors if one not in port.settings.neighbors]
            was_passive = port.settings.passive
            port.configure(chosen)
            if was_passive and not chosen.passive:
                outputs += self._request(port, now)
            elif added:
                outputs += self._request(port, now, tuple(parse_address(text) for text in added))
        return outputs

    def _reconsider(
        self, policies: Policies, before: RipSettings | RipngSettings, now: float, outputs: list[Output]
    ) -> None:
        """Judge anew what was heard, and mark what is now announced in another way."""
        assert self.settings is not None
        if before == self.settings and policies == self._policies:
            return
        for row in list(self.table.rows.values()):
            for path in row.paths:
                judged = self._judge(row.prefix, path.heard, path.neighbor, self.ports.get(path.interface))
                path.metric, path.tag = judged if judged is not None else (INFINITY, 0)
            self.table.reconsider(row, now)
        for port in self._active():
            if not port.joined or port.initial_at is not None:
                continue  # it is about to hear all
            old = before.interfaces.get(port.name)
            name = port.settings.import_
            # What was refused is not kept: it must be said again.
            if old is not None and (old.import_ != name or not self._policies.same(policies, name)):
                outputs += self._request(port, now)
            for row in self.table.rows.values():
                if row.garbage_at is None and self._say(port, row) != port.sent.get(row.prefix):
                    self.table.changed.add(row.prefix)

    def _interval(self) -> float:
        assert self.settings is not None
        update = self.settings.timers.update
        return update + self._rng.uniform(-update * _JITTER, update * _JITTER)

    # --- interfaces ---

    def _active(self) -> list[Port]:
        return [port for port in self._sorted() if port.active]

    def _sorted(self) -> list[Port]:
        return [port for _name, port in sorted(self.ports.items())]

    def _neighbors(self, port: Port) -> tuple[Address, ...]:
        found = (parse_address(text) for text in port.settings.neighbors)
        return tuple(address for address in found if address.family == self.dialect.family)

    def _set_link(self, port: Port, state: InterfaceState, now: float) -> list[Output]:
        was_active = port.active
        port.state = state
        if was_active and port.active:
            # A neighbor that no address of ours shares a network with is none any more.
            for peer in [peer for peer in port.peers if not self._is_neighbor(port, peer)]:
                del port.peers[peer]
                self.table.forget(now, port.name, peer)
        if port.active and not was_active:
            return self._port_up(port, now) if self._open else []
        if was_active and not port.active:
            self.table.forget(now, port.name)
            joined = port.joined
            port.reset()
            return [LeaveGroup(_SOCKET, port.name, self.dialect.group)] if joined and self._open else []
        return []

    def _port_up(self, port: Port, now: float) -> list[Output]:
        outputs: list[Output] = [JoinGroup(_SOCKET, port.name, self.dialect.group)]
        port.joined = True
        port.initial_at = now + self._rng.uniform(*_INITIAL)
        return outputs + self._request(port, now)

    def _request(self, port: Port, now: float, neighbors: tuple[Address, ...] | None = None) -> list[Output]:
        """Ask the neighbors of an interface for their tables, or some of them."""
        if not port.joined:
            return []
        outputs: list[Output] = []
        for destination in neighbors or port.destinations(self._neighbors(port)):
            packet = Packet(Command.REQUEST, whole=True)
            outputs += self._transmit(port, packet, destination, self.dialect.port, now)
        return outputs

    # --- packets in ---

    def _check_sequence(self, port: Port, packet: bytes, meta: Meta, sequence: int | None) -> None:
        if sequence is not None and not port.fresh(meta.source, _key_id(packet), sequence):
            raise RipError(Fault.REPLAYED, str(sequence))

    def _answer(self, port: Port, request: Packet, meta: Meta, now: float) -> list[Output]:
        """Answer a request (RFC 2453 section 3.9.1)."""
        port.counters["requests"] += 1
        if port.settings.passive and meta.source not in self._neighbors(port):
            return []
        if not self._is_neighbor(port, meta.source):
            port.counters["bad-source"] += 1
            return []
        if request.whole:
            if now < port.answer_at:
                port.counters["requests-too-fast"] += 1  # the next regular update holds it all
                return []
            port.answer_at = now + max(0, len(self.table.rows) - _SMALL) * _PACE
            entries = self._entries(port, None, remember=False)
        else:
            entries = []
            for asked in request.entries:
                row = self.table.rows.get(asked.prefix)
                metric, tag = (row.metric, row.tag) if row is not None else (INFINITY, asked.tag)
                entries.append(Entry(asked.prefix, metric, tag))
        return self._send(port, Command.RESPONSE, entries, meta.source, meta.source_port, now)

    def _learn(
        self, port: Port, response: Packet, packet: bytes, sequence: int | None, meta: Meta, now: float
    ) -> list[Output]:
        """Take the routes of a response (RFC 2453 section 3.9.2)."""
        known = meta.source in port.peers
        peer = port.peer(meta.source, now)
        if peer is None:
            port.counters["too-many-neighbors"] += 1
            return []
        peer.heard_at = now
        peer.responses += 1
        if sequence is not None:
            peer.sequences[_key_id(packet)] = sequence
        for entry in response.entries:
            if entry.next_hop is not None and port.is_own(entry.next_hop):
                port.counters["next-hop-is-ours"] += 1  # what it says goes by us already
                continue
            given = entry.next_hop
            gateway = given if given is not None and self._is_neighbor(port, given) else meta.source
            heard = Heard(entry.metric, entry.tag, entry.next_hop)
            metric, tag = self._judge(entry.prefix, heard, meta.source, port) or (INFINITY, 0)
            path = Path(port.name, meta.source, gateway, heard, metric, tag)
            if not self.table.learn(entry.prefix, path, now):
                port.counters["table-full"] += 1
        if known:
            return []
        details = (("neighbor", str(meta.source)), ("interface", port.name))
        return [Notify("rip-neighbor-up", details)]

    def _is_neighbor(self, port: Port, address: Address) -> bool:
        """Tell whether a next hop is one on that link, and not ourselves (RFC 2453 section 4.4)."""
        if port.is_own(address):
            return False
        if is_link_local(address):
            return True
        return any(_covers(prefix, address) for prefix in port.networks)

    def _judge(self, prefix: Prefix, heard: Heard, neighbor: Address, port: Port | None) -> tuple[int, int] | None:
        """Give metric and tag of what a neighbor says, or None where the policy refuses it."""
        if port is None:
            return None
        metric = min(heard.metric + port.settings.metric, INFINITY)
        if metric >= INFINITY:
            return None
        return self._policies.heard(port.settings.import_, prefix, metric, heard.tag, (port.name, neighbor))

    def _forget_peers(self, now: float) -> None:
        timeout = self.table.timeout
        for port in self.ports.values():
            for address in [one for one, peer in port.peers.items() if peer.heard_at + timeout <= now]:
                del port.peers[address]

    # --- packets out ---

    def _updates(self, now: float) -> list[Output]:
        outputs: list[Output] = []
        if self._update_at is not None and now >= self._update_at:
            self._update_at = now + self._interval()
            for port in self._active():
                port.initial_at = None
                outputs += self._update(port, None, now)
            self.table.changed.clear()
            return outputs
        for port in self._active():
            if port.initial_at is not None and now >= port.initial_at:
                port.initial_at = None
                outputs += self._update(port, None, now)
        if self.table.changed and now >= self._hold_until:
            changed = set(self.table.changed)
            self.table.changed.clear()
            self._hold_until = now + self._rng.uniform(*_HOLD)
            for port in self._active():
                # The first update will hold it.
                if port.initial_at is None:
                    outputs += self._update(port, changed, now)
        return outputs

    def _update(self, port: Port, changed: set[Prefix] | None, now: float) -> list[Output]:
        """Announce all rows, or those that have changed, on an interface."""
        destinations = port.destinations(self._neighbors(port))
        if not destinations:
            return []
        entries = self._entries(port, changed, remember=True)
        outputs: list[Output] = []
        for destination in destinations:
            outputs += self._send(port, Command.RESPONSE, entries, destination, self.dialect.port, now)
        port.counters["updates" if changed is None else "triggered-updates"] += 1
        return outputs

    def _entries(self, port: Port, changed: set[Prefix] | None, *, remember: bool) -> list[Entry]:
        entries = []
        for row in self.table.sorted_rows(changed):
            said = self._say(port, row)
            if said is not None:
                entries.append(as_entry(row.prefix, said))
            if not remember:
                continue
            if said is None or (said.metric >= INFINITY and row.garbage_at is not None):
                port.sent.pop(row.prefix, None)
            else:
                port.sent[row.prefix] = said
        return entries

    def _say(self, port: Port, row: Row) -> Announced | None:
        """Give what is announced of a row on an interface; what the policy refuses now is taken back once."""
        said = port.announcement(row)
        if said is None or said.metric >= INFINITY:
            return said
        judged = self._policies.announced(port.settings.export, row, said.metric, said.tag, port.name)
        if judged is not None:
            return Announced(*judged, said.next_hop)
        before = port.sent.get(row.prefix)
        return Announced(INFINITY, said.tag, None) if before is not None and before.metric < INFINITY else None

    def _send(
        self, port: Port, command: Command, entries: list[Entry], destination: Address, to_port: int, now: float
    ) -> list[Output]:
        """Put entries into as many packets as they need."""
        key = port.keys[0] if port.keys else None
        room = self.dialect.room(port.state.mtu, key)
        outputs: list[Output] = []
        for part in parts(entries, room):
            outputs += self._transmit(port, Packet(command, part), destination, to_port, now)
        return outputs

    def _transmit(self, port: Port, packet: Packet, destination: Address, to_port: int, now: float) -> list[Output]:
        if not self._open:
            return []
        # RFC 4822 section 2.3 asks for numbers that never go back: time does not.
        sequence = (self._boot + int(now - self._started)) & 0xFFFFFFFF
        data = self.dialect.encode(packet, port.keys[0] if port.keys else None, sequence)
        port.counters["sent"] += 1
        return [Transmit(_SOCKET, destination, data, to_port, port.name, port.source)]

    # --- routes out ---

    def _flush(self) -> list[Output]:
        """Tell the RIB what has changed."""
        if not self.table.touched or self.settings is None:
            return []
        added, gone = [], []
        for prefix in sorted(self.table.touched):
            row = self.table.rows.get(prefix)
            route = self._route(row) if row is not None and row.usable(self.settings.preference) else None
            before = self._installed.get(prefix)
            if route == before:
                continue
            if route is not None:
                self._installed[prefix] = route
                added.append(route)
            else:
                assert before is not None
                del self._installed[prefix]
                gone.append(before)
        self.table.touched.clear()
        outputs: list[Output] = [RouteDel(tuple(gone))] if gone else []
        if added:
            outputs.append(RouteAdd(tuple(added)))
        return outputs

    def _route(self, row: Row) -> Route:
        assert self.settings is not None
        best = row.paths[0]
        hops = tuple(Hop(HopKind.FORWARD, path.interface, path.gateway) for path in row.paths)
        origin = RipOrigin(best.neighbor, best.interface)
        return Route(
            row.prefix, Protocol.RIP, hops, self.settings.preference, best.metric, self.dialect.name, best.tag, origin
        )


def ripv2(environment: Environment) -> Rip:
    """Make RIPv2."""
    return Rip(environment, V2)


def ripng(environment: Environment) -> Rip:
    """Make RIPng."""
    return Rip(environment, NG)


def _covers(prefix: Prefix, address: Address) -> bool:
    return (prefix.value ^ address.value) & mask(prefix.family, prefix.length) == 0


def _key_id(packet: bytes) -> int:
    """Give the number of the key in an authentication entry that has been checked."""
    return packet[10]
