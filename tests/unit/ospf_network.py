"""A network of OSPF instances in virtual time: links that carry packets, and a clock that jumps."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING, Any

from vrouter.config import ospf as config
from vrouter.config.router import Interface as InterfaceConfig
from vrouter.config.router import RouterConfig
from vrouter.net.address import Address, Prefix, parse_interface_address
from vrouter.proto.base import (
    BfdOpen,
    CloseSocket,
    Environment,
    InterfaceState,
    JoinGroup,
    LeaveGroup,
    Log,
    Meta,
    OpenSocket,
    OwnAddress,
    Redistribute,
    RouteAdd,
    RouteDel,
    RouteEvent,
    Setting,
    Settled,
    Transmit,
)
from vrouter.proto.ospf.instance import Ospf

if TYPE_CHECKING:
    from vrouter.rib.route import Protocol, Route

DELAY = 0.001


@dataclass
class Node:
    """A router: its instance, and what it has asked for."""

    name: str
    instance: Ospf
    interfaces: dict[str, InterfaceState]
    settings: config.Ospf
    config: tuple[InterfaceConfig, ...]
    routes: dict[Prefix, Route] = field(default_factory=dict)
    sockets: dict[str, str] = field(default_factory=dict)
    groups: dict[str, set[int]] = field(default_factory=dict)
    redistribute: tuple[Protocol, ...] = ()
    bfd: list[BfdOpen] = field(default_factory=list)
    logs: list[str] = field(default_factory=list)
    settled: bool = False
    dead: bool = False
    sent: int = 0
    now: float = 0.0

    @property
    def router_id(self) -> str:
        return self.settings.router_id or ""

    def neighbors(self) -> dict[str, str]:
        return {row["router_id"]: row["state"] for row in self.show("neighbor")}

    def show(self, query: str, **arguments: Any) -> Any:
        return self.instance.show(query, arguments, self.now)

    def hops(self, prefix: str) -> list[tuple[str, str]]:
        address, length = prefix.split("/")
        found = self.routes.get(Prefix(4, parse_interface_address(address)[0].value, int(length)))
        return [(hop.interface, str(hop.via)) for hop in found.hops] if found else []

    def lsas(self, kind: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.show("database", type=kind, detail=True)["rows"]
        return found


class Network:
    """All of it."""

    def __init__(self, seed: int = 1) -> None:
        self.now = 100.0
        self.random = Random(seed)
        self.nodes: dict[str, Node] = {}
        self.links: dict[tuple[str, str], str] = {}  # node and interface -> link
        self.filter: Any = None
        self.accelerators: Any = None
        self.policies: Any = None
        self._events: list[tuple[float, int, str, str, bytes, int, int]] = []
        self._count = 0
        self.packets = 0

    def add(self, name: str, interfaces: dict[str, str], settings: config.Ospf, restarted: bool = False) -> Node:
        """Add a router; `interfaces` are "ADDRESS/LENGTH@LINK", or without a link, a loopback."""
        states = {}
        configured = []
        for interface, text in interfaces.items():
            address, _, link = text.partition("@")
            own, length = parse_interface_address(address)
            states[interface] = InterfaceState(interface, True, 1500, (OwnAddress(own, length),), not link)
            configured.append(InterfaceConfig(interface, "ethernet" if link else "loopback", addresses=(address,)))
            if link:
                self.links[name, interface] = link
        rng = Random(self.random.random())
        environment = Environment(rng, restarted, boot=int(self.now), accelerators=self.accelerators)
        node = Node(name, Ospf(environment), states, settings, tuple(configured))
        self.nodes[name] = node
        self.configure(node, settings)
        for state in states.values():
            self.outputs(node, node.instance.interface_changed(state, self.now))
        return node

    def configure(self, node: Node, settings: config.Ospf) -> list[Any]:
        node.settings = settings
        setting = Setting(RouterConfig(node.name, 1, node.config, ospf=settings), self.policies)
        answer = node.instance.configure(setting, self.now)
        assert answer.live
        self.outputs(node, list(answer.outputs))
        return list(answer.outputs)

    def link(self, node: Node, interface: str, *, up: bool) -> None:
        node.interfaces[interface] = replace(node.interfaces[interface], up=up)
        self.outputs(node, node.instance.interface_changed(node.interfaces[interface], self.now))

    def redistribute(self, node: Node, protocol: Protocol, prefix: Prefix, route: Route | None) -> None:
        event = RouteEvent(prefix, protocol, route)
        self.outputs(node, node.instance.routes_changed((event,), self.now))

    def outputs(self, node: Node, outputs: list[Any]) -> None:
        node.now = self.now
        for output in outputs:
            if isinstance(output, Transmit):
                node.sent += 1
                self._carry(node, output)
            elif isinstance(output, RouteAdd):
                node.routes.update({route.prefix: route for route in output.routes})
            elif isinstance(output, RouteDel):
                for route in output.routes:
                    del node.routes[route.prefix]
            elif isinstance(output, OpenSocket):
                node.sockets[output.socket] = output.interface
                node.groups[output.interface] = {group.value for _, group in output.groups}
                self.outputs(node, node.instance.opened(output.socket, self.now))
            elif isinstance(output, CloseSocket):
                node.groups.pop(node.sockets.pop(output.socket))
            elif isinstance(output, JoinGroup):
                node.groups[output.interface].add(output.group.value)
            elif isinstance(output, LeaveGroup):
                node.groups[output.interface].discard(output.group.value)
            elif isinstance(output, Redistribute):
                node.redistribute = output.protocols
            elif isinstance(output, BfdOpen):
                node.bfd.append(output)
            elif isinstance(output, Settled):
                node.settled = True
            elif isinstance(output, Log):
                node.logs.append(output.message)

    def _carry(self, node: Node, packet: Transmit) -> None:
        link = self.links[node.name, packet.interface]
        source = packet.source
        assert source is not None
        # Only one LSA that is longer goes in fragments.
        assert len(packet.data) <= 1480 or (packet.data[1] == 4 and packet.data[24:28] == b"\0\0\0\1")
        for (name, interface), other in self.links.items():
            if other != link or name == node.name:
                continue
            data = packet.data if self.filter is None else self.filter(node.name, name, packet.data)
            if data is None:
                continue
            self._count += 1
            self.packets += 1
            event = (self.now + DELAY, self._count, name, interface, data, source.value, packet.destination.value)
            heapq.heappush(self._events, event)

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        for _ in range(2_000_000):
            due = [(node.instance.deadline, name) for name, node in self.nodes.items() if not node.dead]
            first = min(((when, name) for when, name in due if when is not None), default=(end, ""))
            if self._events and self._events[0][0] <= first[0]:
                if self._events[0][0] > end:
                    break
                self.now = max(self.now, self._events[0][0])
                self._deliver(heapq.heappop(self._events))
            elif first[0] > end or not first[1]:
                break
            else:
                self.now = max(self.now, first[0])
                node = self.nodes[first[1]]
                self.outputs(node, node.instance.handle_timeout(self.now))
        else:
            raise AssertionError("the network does not come to rest")
        self.now = end
        for node in self.nodes.values():
            node.now = end

    def _deliver(self, event: tuple[float, int, str, str, bytes, int, int]) -> None:
        _, _, name, interface, data, source, destination = event
        node = self.nodes[name]
        state = node.interfaces[interface]
        if node.dead or not state.up or f"ospf-{interface}" not in node.sockets:
            return
        mine = {own.address.value for own in state.addresses}
        if destination not in mine and destination not in node.groups.get(interface, ()):
            return
        meta = Meta(interface, Address(4, source), Address(4, destination), 1)
        self.outputs(node, node.instance.received(f"ospf-{interface}", data, meta, self.now))


def area(interfaces: dict[str, config.OspfInterface], **options: Any) -> config.Area:
    return config.Area(interfaces=interfaces, **options)


def port(**options: Any) -> config.OspfInterface:
    return config.OspfInterface(**options)


def ptp(**options: Any) -> config.OspfInterface:
    return config.OspfInterface(network="point-to-point", **options)


def single(router_id: str, interfaces: dict[str, config.OspfInterface], **options: Any) -> config.Ospf:
    """Everything in the backbone."""
    return config.Ospf(router_id=router_id, areas={"0.0.0.0": area(interfaces)}, **options)
