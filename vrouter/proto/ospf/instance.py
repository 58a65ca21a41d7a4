"""OSPF version 2, an instance of it: RFC 2328 and what is built on it.

    configure, received, handle_timeout, ... --> Ospf --> links --> adjacencies --> exchange --> flooding
                                                                                                    |
                       RouteAdd, RouteDel <-- routes <-- graph, dijkstra <-- what is installed <----+
                                                |
                                                +--> summaries, externals --> origination --> flooding

Standards: RFC 2328, 3101 (NSSA), 3509 (border routers), 3623 (graceful restart), 5250 (opaque LSAs are held and
flooded), 5613 (link-local signaling is read over), 5709 and 7474 (authentication), 5882 (BFD), 6860, 6987, 8405.
Not supported: virtual links, demand circuits, NBMA networks other than as point-to-multipoint, unnumbered
links, several areas or instances on one link, types of service.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from vrouter.config import ospf as config
from vrouter.net.address import parse_interface_address
from vrouter.proto.base import (
    BfdState,
    Environment,
    InterfaceState,
    Meta,
    Output,
    Reconfigured,
    RouteEvent,
    Setting,
    Silent,
)
from vrouter.proto.ospf import settings
from vrouter.proto.ospf.adjacency import Adjacencies
from vrouter.proto.ospf.area import ALL_DESIGNATED, Area, Interface
from vrouter.proto.ospf.core import Core
from vrouter.proto.ospf.exchange import Exchange
from vrouter.proto.ospf.external import Externals
from vrouter.proto.ospf.flooding import Flooding
from vrouter.proto.ospf.graph import Graph
from vrouter.proto.ospf.links import Links
from vrouter.proto.ospf.neighbor import Neighbor, NeighborState
from vrouter.proto.ospf.origination import Origination
from vrouter.proto.ospf.restart import Restart
from vrouter.proto.ospf.routes import Routes
from vrouter.proto.ospf.show import show
from vrouter.proto.ospf.summaries import Summaries
from vrouter.wire.ospf.authentication import verify
from vrouter.wire.ospf.lsa import DecodeError
from vrouter.wire.ospf.packet import (
    AuthType,
    Description,
    Header,
    Hello,
    Request,
    Update,
    decode_body,
    decode_packet_header,
)

_SOCKET_RETRY: Final = 1.0
# Of these a change needs the interface to begin anew.
_RESTARTING: Final = ("network", "passive", "hello_interval", "dead_interval")


class Ospf(Silent):
    """OSPF of a VR."""

    def __init__(self, environment: Environment) -> None:
        core = self._core = Core(environment)
        core.links = Links(core)
        core.adjacencies = Adjacencies(core)
        core.exchange = Exchange(core)
        core.flooding = Flooding(core)
        core.origination = Origination(core)
        core.externals = Externals(core)
        core.summaries = Summaries(core)
        core.routes = Routes(core)
        core.restart = Restart(core)
        self._states: dict[str, InterfaceState] = {}
        self._configured = False
        self._timeouts: Mapping[str, Callable[..., None]] = {
            "hello": core.links.say_hello,
            "wait": core.links.waited,
            "inactive": core.adjacencies.silent,
            "describe": self._with_neighbor(core.exchange.describe_again),
            "retransmit": self._with_neighbor(core.flooding.send_again),
            "help": self._with_neighbor(lambda i, n: core.restart.end_help(i, n, "the time is up")),
            "ack": core.flooding.send_acks,
            "age": core.flooding.expire,
            "originate": lambda scope, key: core.origination.issue(scope, key, refresh=False),
            "refresh": lambda scope, key: core.origination.issue(scope, key, refresh=True),
            "spf": core.routes.compute,
            "translate": core.externals.translate,
            "restart": core.restart.due,
            "stub-router": core.externals.started,
            "open": self._open_again,
        }

    def _with_neighbor(self, action: Callable[[Interface, Neighbor], None]) -> Callable[[str, int, int], None]:
        def act(interface: str, router: int, address: int) -> None:
            found = self._core.adjacencies.find(interface, router, address)
            if found is not None:
                action(*found)

        return act

    @property
    def size(self) -> int:
        """Count the LSAs: a computation goes through all of them."""
        return sum(map(len, self._core.databases()))

    @property
    def deadline(self) -> float | None:
        """When something is due."""
        return self._core.timers.deadline

    # --- configuration ---

    def configure(self, new: Setting, now: float) -> Reconfigured:
        """Follow a configuration; only another router id needs an instance made anew."""
        core = self._core
        core.now = now
        wanted = new.router.ospf or config.Ospf()
        router_id = _router_id(new)
        if self._configured and core.router_id and router_id != core.router_id:
            return Reconfigured(live=False)
        same_policies = core.setting is not None and core.setting.policies == new.policies
        core.setting = new
        old, core.config = core.config, wanted
        first = not self._configured
        if first:
            self._configured = True
            core.externals.start()
            core.restart.begin()
        named = not core.router_id and router_id != 0
        core.router_id = core.router_id or router_id
        if first or old != wanted:
            self._follow(old)
        if named:
            for interface in core.interfaces.values():
                core.links.refresh(interface)
        if first or old.redistribute != wanted.redistribute or old.default_information != wanted.default_information:
            core.out += core.externals.ask()
            core.externals.areas_changed()
            core.origination.all_changed()
        elif not same_policies:
            core.externals.areas_changed()
        return Reconfigured(live=True, outputs=tuple(self._finish()))

    def _follow(self, old: config.Ospf) -> None:
        core = self._core
        new = core.config
        self._follow_areas()
        core.routes.throttle.timers = new.spf
        if old.max_metric != new.max_metric:
            core.externals.start()
            core.origination.all_changed()
        if old.hide_transit != new.hide_transit:
            core.origination.all_changed()
            for interface in core.interfaces.values():
                core.origination.network_changed(interface)
        if (old.maximum_paths, old.rfc1583_compatibility) != (new.maximum_paths, new.rfc1583_compatibility):
            core.routes.all_changed()
        if old.preference != new.preference:
            core.routes.offer_again()

    def _follow_areas(self) -> None:
        core = self._core
        wanted = {settings.number(text): area for text, area in core.config.areas.items()}
        for area in list(core.areas.values()):
            configured = wanted.get(area.id)
            if configured is None or configured.type != area.config.type:
                self._remove_area(area)
        for identifier, configured in wanted.items():
            area = core.areas.get(identifier) or Area(identifier, configured, Graph())
            core.areas[identifier] = area
            self._follow_area(area, configured)
        if not any(area.normal for area in core.areas.values()):
            core.flooding.forget_others(core.external)

    def _remove_area(self, area: Area) -> None:
        core = self._core
        for interface in list(area.interfaces.values()):
            self._remove_interface(interface)
        core.origination.forget(area.database)
        core.routes.forget_area(area)
        core.summaries.forget_area(area)
        core.externals.forget_area(area)
        for entry in area.database:
            core.timers.cancel(("age", area.database.scope, entry.header.key))
        del core.areas[area.id]

    def _follow_area(self, area: Area, configured: config.Area) -> None:
        core = self._core
        old, area.config = area.config, configured
        area.ranges = settings.ranges(configured.ranges)
        area.nssa_ranges = settings.ranges(configured.nssa_ranges)
        for interface in list(area.interfaces.values()):
            wanted = configured.interfaces.get(interface.name)
            if wanted is None or any(getattr(wanted, n) != getattr(interface.config, n) for n in _RESTARTING):
                self._remove_interface(interface)
        for name, wanted in configured.interfaces.items():
            elsewhere = core.interfaces.get(name)
            if elsewhere is not None and elsewhere.area is not area:
                self._remove_interface(elsewhere)
            if name in area.interfaces:
                self._change_interface(area.interfaces[name], wanted)
            else:
                self._add_interface(Interface(name, area, wanted))
        if old.summaries != configured.summaries:
            core.routes.all_changed()  # whether the default routes of others count
        if (old.summaries, old.default_cost, old.ranges) != (
            configured.summaries,
            configured.default_cost,
            configured.ranges,
        ):
            core.summaries.borders_changed()
        if (old.translator, old.nssa_ranges) != (configured.translator, configured.nssa_ranges):
            core.origination.router_changed(area)
            core.externals.translate_later(area)

    def _add_interface(self, interface: Interface) -> None:
        core = self._core
        interface.state = self._states.get(interface.name)
        interface.area.interfaces[interface.name] = interface
        core.interfaces[interface.name] = interface
        core.links.refresh(interface)
        core.externals.areas_changed()

    def _remove_interface(self, interface: Interface) -> None:
        core = self._core
        core.links.say_goodbye(interface)
        core.links.down(interface)
        core.origination.forget(interface.database)
        interface.area.interfaces.pop(interface.name, None)
        core.interfaces.pop(interface.name, None)
        core.timers.cancel(("open", interface.name))
        core.externals.areas_changed()

    def _change_interface(self, interface: Interface, wanted: config.OspfInterface) -> None:
        core = self._core
        old, interface.config = interface.config, wanted
        if old == wanted:
            return
        if old.authentication != wanted.authentication:
            interface.take_keys()
        if old.bfd != wanted.bfd:
            core.adjacencies.watch_again(interface)
        if old.cost != wanted.cost:
            core.origination.router_changed(interface.area)
        if old.priority != wanted.priority or old.neighbors != wanted.neighbors:
            if interface.speaks:
                core.timers.set(("hello", interface.name), core.now)
            core.links.neighbor_changed(interface)

    # --- inputs ---

    def interface_changed(self, state: InterfaceState, now: float) -> list[Output]:
        """Follow an interface."""
        core = self._core
        core.now = now
        self._states[state.name] = state
        interface = core.interfaces.get(state.name)
        if interface is not None and interface.state != state:
            interface.state = state
            core.links.refresh(interface)
            core.externals.areas_changed()
        return self._finish()

    def opened(self, socket: str, now: float) -> list[Output]:
        """Begin to speak."""
        core = self._core
        core.now = now
        interface = self._by_socket(socket)
        if interface is not None:
            core.links.speak(interface)
        return self._finish()

    def closed(self, socket: str, error: int, now: float) -> list[Output]:
        """Open a lost socket again, after a while."""
        core = self._core
        core.now = now
        interface = self._by_socket(socket)
        if interface is not None:
            core.log("warning", f"{interface.name}: socket closed, error {error}")
            interface.in_designated = False
            core.timers.set(("open", interface.name), now + _SOCKET_RETRY)
        return self._finish()

    def _open_again(self, name: str) -> None:
        interface = self._core.interfaces.get(name)
        if interface is not None and interface.socket:
            self._core.links.open(interface)

    def _by_socket(self, socket: str) -> Interface | None:
        return next((i for i in self._core.interfaces.values() if i.socket == socket), None)

    def received(self, socket: str, packet: bytes, meta: Meta, now: float) -> list[Output]:
        """Take a packet: RFC 2328 section 8.2."""
        core = self._core
        core.now = now
        interface = self._by_socket(socket)
        if interface is None or not interface.speaks or interface.own_by_address(meta.source.value):
            return self._finish()
        interface.received_packets += 1
        try:
            reason = self._take(interface, packet, meta)
        except DecodeError as error:
            reason = str(error)
        if reason:
            interface.drop(reason)
        return self._finish()

    def _take(self, interface: Interface, packet: bytes, meta: Meta) -> str | None:
        core = self._core
        source = meta.source.value
        header = decode_packet_header(packet)
        if header.area != interface.area.id:
            return "area"
        if header.router == core.router_id:
            return "own-router-id"
        if meta.destination.value == ALL_DESIGNATED and not interface.designated:
            return "destination"
        if not interface.point_to_point and (source ^ interface.address) & interface.mask:
            return "source"
        sequence = verify(packet, header, interface.keys, source)
        neighbor = interface.neighbors.get(header.router if interface.point_to_point else source)
        if neighbor is not None and not _fresh(neighbor, header, sequence):
            return "authentication-sequence"
        body = decode_body(header, packet)
        reason: str | None
        if isinstance(body, Hello):
            reason = core.links.take_hello(interface, body, header.router, source)
            neighbor = interface.neighbors.get(header.router if interface.point_to_point else source)
        elif neighbor is None or neighbor.router != header.router:
            return "no-neighbor"
        elif isinstance(body, Description):
            reason = core.exchange.take_description(interface, neighbor, body)
        elif isinstance(body, Request):
            reason = core.exchange.take_request(interface, neighbor, body)
        elif isinstance(body, Update):
            reason = core.flooding.take_update(interface, neighbor, body)
        else:
            reason = core.flooding.take_ack(interface, neighbor, body)
        if neighbor is not None:
            neighbor.crypto_sequence[_sequence_space(header)] = sequence
        return reason

    def handle_timeout(self, now: float) -> list[Output]:
        """Do what is due."""
        core = self._core
        core.now = now
        for name, *arguments in core.timers.take(now):
            self._timeouts[name](*arguments)
        return self._finish()

    def routes_changed(self, events: tuple[RouteEvent, ...], now: float) -> list[Output]:
        """Announce routes of other protocols."""
        self._core.now = now
        self._core.externals.routes_changed(events)
        return self._finish()

    def bfd_changed(self, state: BfdState, now: float) -> list[Output]:
        """Lose neighbors whose session failed."""
        self._core.now = now
        self._core.adjacencies.bfd_changed(state)
        return self._finish()

    def show(self, query: str, arguments: Mapping[str, Any], now: float) -> Any:
        """Answer: summary, neighbor, interface, database, route, border-routers."""
        self._core.now = now
        return show(self._core, query, arguments)

    def clear(self, query: str, arguments: Mapping[str, Any], now: float) -> list[Output]:
        """Form adjacencies anew: of all interfaces, or of one."""
        if query != "neighbor":
            raise KeyError(query)
        core = self._core
        core.now = now
        for interface in core.interfaces.values():
            if arguments.get("interface") in {None, interface.name}:
                for neighbor in list(interface.neighbors.values()):
                    core.adjacencies.kill(interface, neighbor, "cleared by the operator")
        return self._finish()

    def stop(self, now: float) -> list[Output]:
        """Say goodbye: our LSAs are taken back, and hellos name nobody."""
        core = self._core
        core.now = now
        core.origination.withdraw_all()
        outputs = self._finish()
        for interface in core.interfaces.values():
            core.links.say_goodbye(interface)
        outputs += core.out
        core.out = []
        return outputs

    def _finish(self) -> list[Output]:
        """Do what all of an input means, once; give the outputs."""
        core = self._core
        core.summaries.finish()
        core.externals.finish()
        core.origination.finish()
        core.flooding.finish()
        out, core.out = core.out, []
        return out


def _sequence_space(header: Header) -> int:
    """Tell which packets count their sequence numbers together: RFC 7474 counts each type by itself."""
    return header.type if header.auth_type == AuthType.EXTENDED else 0


def _fresh(neighbor: Neighbor, header: Header, sequence: int) -> bool:
    last = neighbor.crypto_sequence.get(_sequence_space(header), -1)
    if header.auth_type == AuthType.EXTENDED:
        return sequence > last
    return header.auth_type != AuthType.CRYPTOGRAPHIC or sequence >= last or neighbor.state is NeighborState.DOWN


def _router_id(setting: Setting) -> int:
    """Give the router id: RFC 2328 appendix C.1."""
    wanted = setting.router.ospf
    configured = (wanted.router_id if wanted else None) or setting.router.router_id
    if configured:
        return settings.number(configured)
    best = (False, 0)
    for interface in setting.router.interfaces:
        for text in interface.addresses:
            address, _ = parse_interface_address(text)
            if address.family == 4:
                best = max(best, (interface.kind == "loopback", address.value))
    return best[1]
