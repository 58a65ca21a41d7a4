"""A small network in memory with virtual time: datagrams to neighbors and groups, and connections over a link.

    world = World()
    red, blue = world.node("red", ripv2), world.node("blue", ripv2)
    world.segment((red, "lan", "10.0.0.1/24"), (blue, "lan", "10.0.0.2/24"))
    red.configure(router); world.run(40)

Segments can be cut, and packets changed or lost on their way by `world.impair`.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from typing import Any

from vrouter.config.router import RouterConfig
from vrouter.net.address import Address, is_link_local, parse_interface_address
from vrouter.proto import base
from vrouter.rib.route import Route

DELAY = 0.001


@dataclass
class Node:
    world: World
    name: str
    instance: Any
    links: dict[str, base.InterfaceState] = field(default_factory=dict)
    segments: dict[str, int] = field(default_factory=dict)
    sockets: dict[str, base.OpenSocket] = field(default_factory=dict)
    joined: set[tuple[str, str, Address]] = field(default_factory=set)
    ends: dict[str, tuple[Node, str]] = field(default_factory=dict)  # of connections: the other end
    offers: dict[tuple[Any, str], Route] = field(default_factory=dict)
    outputs: list[base.Output] = field(default_factory=list)
    policies: Any = None

    @property
    def routes(self) -> dict[Any, Route]:
        """What a RIB would choose of the instance's routes."""
        ordered = sorted(self.offers.values(), key=lambda route: (route.preference, route.metric, route.source))
        return {route.prefix: route for route in reversed(ordered)}

    def configure(self, router: RouterConfig) -> list[base.Output]:
        answer = self.instance.configure(base.Setting(router, self.policies), self.world.now)
        assert answer.live
        return self.take(list(answer.outputs))

    def link(self, name: str, **changes: Any) -> None:
        self.links[name] = replace(self.links[name], **changes)
        self.take(self.instance.interface_changed(self.links[name], self.world.now))

    def take(self, outputs: list[base.Output]) -> list[base.Output]:
        self.outputs += outputs
        for output in outputs:
            self._do(output)
        return outputs

    def hear(self, socket: str, data: bytes, meta: base.Meta) -> None:
        if socket in self.sockets:
            self.take(self.instance.received(socket, data, meta, self.world.now))

    def die(self) -> None:
        """Vanish as a process that is killed: connections end, nothing is said."""
        self.sockets.clear()
        self.joined.clear()
        for name in list(self.ends):
            self._hang_up(name, reset=True)

    def _hang_up(self, name: str, *, reset: bool) -> None:
        other, end = self.ends.pop(name, (None, ""))
        if other is None:
            return
        world = self.world

        def tell() -> None:
            if end in other.ends:
                if reset:
                    del other.ends[end]
                    other.take(other.instance.closed(end, 104, world.now))
                else:
                    other.take(other.instance.stream(end, b"", world.now))

        world.at(DELAY, tell)

    def _do(self, output: base.Output) -> None:
        world = self.world
        match output:
            case base.OpenSocket(socket=name, kind=base.SocketKind.CONNECT):
                world.at(DELAY, lambda: world.connect(self, output))
            case base.OpenSocket(socket=name):
                self.sockets[name] = output
                for interface, group in output.groups:
                    self.joined.add((name, interface, group))
                world.at(0, lambda: self.take(self.instance.opened(name, world.now)) if name in self.sockets else [])
            case base.CloseSocket(socket=name):
                self.sockets.pop(name, None)
                self.joined = {entry for entry in self.joined if entry[0] != name}
                self._hang_up(name, reset=output.reset)
            case base.Write(socket=name, data=data):
                if name in self.ends:
                    other, end = self.ends[name]
                    world.at(DELAY, lambda: end in other.ends and other.take(
                        other.instance.stream(end, data, world.now)))  # fmt: skip
                    world.at(DELAY, lambda: name in self.ends and self.take(
                        self.instance.writable(name, world.now)))  # fmt: skip
            case base.JoinGroup(interface=interface, group=group):
                assert output.socket in self.sockets
                self.joined.add((output.socket, interface, group))
            case base.LeaveGroup(interface=interface, group=group):
                self.joined.discard((output.socket, interface, group))
            case base.Transmit():
                assert output.socket in self.sockets
                world.transmit(self, output)
            case base.RouteAdd(routes=routes):
                for route in routes:
                    self.offers[route.prefix, route.source] = route
            case base.RouteDel(routes=routes):
                for route in routes:
                    del self.offers[route.prefix, route.source]


class World:
    def __init__(self, seed: int = 1) -> None:
        self.now = 1000.0
        self.rng = Random(seed)
        self.nodes: list[Node] = []
        self.members: dict[int, list[tuple[Node, str]]] = {}
        self.cut: set[int] = set()
        self.sent: list[tuple[float, Node, base.Transmit]] = []
        self.impair: Callable[[bytes], bytes | None] = lambda data: data
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._count = itertools.count()

    def node(self, name: str, make: Callable[[base.Environment], Any], **environment: Any) -> Node:
        instance = make(base.Environment(Random(f"{name}"), **environment))
        self.nodes.append(Node(self, name, instance))
        return self.nodes[-1]

    def segment(self, *ends: tuple[Any, ...], up: bool = True) -> int:
        """Join interfaces: (node, interface, address, ...)."""
        number = len(self.members)
        self.members[number] = [(node, interface) for node, interface, *_ in ends]
        for node, interface, *addresses in ends:
            node.segments[interface] = number
            own = []
            for text in addresses:
                address, length = parse_interface_address(text)
                own.append(base.OwnAddress(address, length, is_link_local(address)))
            mac = f"02:00:00:00:{self.nodes.index(node):02x}:{number:02x}"
            node.links[interface] = base.InterfaceState(
                interface, up, 1500, tuple(own), loopback=interface == "lo", mac=mac, index=number + 1
            )
            node.take(node.instance.interface_changed(node.links[interface], self.now))
        return number

    def at(self, delay: float, action: Callable[[], object]) -> None:
        heapq.heappush(self._events, (self.now + delay, next(self._count), action))

    def transmit(self, sender: Node, output: base.Transmit) -> None:
        self.sent.append((self.now, sender, output))
        socket = sender.sockets[output.socket]
        number = sender.segments.get(output.interface)
        data = self.impair(output.data)
        if number is None or number in self.cut or data is None or not sender.links[output.interface].up:
            return
        group = output.destination.value >> 28 == 14 or output.destination.value >> 120 == 255
        assert output.source is not None
        for node, interface in self.members[number]:
            if node is sender or not node.links[interface].up:
                continue
            if group:
                wanted = any(entry[1:] == (interface, output.destination) for entry in node.joined)
            else:
                wanted = any(own.address == output.destination for own in node.links[interface].addresses)
            for name, other in list(node.sockets.items()):
                if wanted and other.kind is socket.kind and other.local_port in {0, output.port}:
                    meta = base.Meta(
                        interface, output.source, output.destination, socket.ttl, socket.local_port, output.port
                    )
                    self.at(DELAY, partial(node.hear, name, data, meta))

    def connect(self, node: Node, wish: base.OpenSocket) -> None:
        """Join a new connection with the listener that it is meant for, or refuse it."""
        assert wish.local is not None
        assert wish.remote is not None
        for other, interface in self.members[node.segments[wish.interface]]:
            for name, listener in list(other.sockets.items()):
                usable = self.passes(node, wish.interface) and self.passes(other, interface)
                if listener.kind is base.SocketKind.LISTEN and listener.local == wish.remote and usable:
                    new = f"in-{next(self._count)}"
                    node.ends[wish.socket], other.ends[new] = (other, new), (node, wish.socket)
                    node.take(node.instance.connected(wish.socket, wish.local, wish.remote, self.now))
                    other.take(other.instance.accepted(name, new, wish.remote, wish.local, self.now))
                    return
        node.take(node.instance.closed(wish.socket, 111, self.now))

    def passes(self, node: Node, interface: str) -> bool:
        """Tell whether packets cross the segment of an interface."""
        return node.links[interface].up and node.segments[interface] not in self.cut

    def run(self, seconds: float, limit: int = 200_000) -> None:
        """Let time pass."""
        end = self.now + seconds
        for _ in range(limit):
            due = [(node.instance.deadline, position) for position, node in enumerate(self.nodes)]
            timers = [(max(at, self.now), position) for at, position in due if at is not None]
            next_timer = min(timers, default=(float("inf"), 0))
            next_event = self._events[0][0] if self._events else float("inf")
            if min(next_timer[0], next_event) > end:
                self.now = end
                return
            if next_event <= next_timer[0]:
                self.now, _, action = heapq.heappop(self._events)
                action()
            else:
                self.now = next_timer[0]
                node = self.nodes[next_timer[1]]
                node.take(node.instance.handle_timeout(self.now))
        raise AssertionError("the network does not come to rest")
