"""BGP routers joined in memory under virtual time, each with a table of its own and next hops that just resolve.

    world = BgpWorld()
    red, blue = world.router("10.0.0.1", bgp), world.router("10.0.0.2", bgp)
    world.run(5)

A scripted peer (`Script`) speaks raw bytes to a router instead.
"""

# ruff: noqa: ARG002 - a script takes all that a router would

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

from vrouter.config.bgp import Bgp as BgpConfig
from vrouter.config.policy import Policy
from vrouter.config.router import RouterConfig
from vrouter.net.address import Address, Prefix, parse_address, parse_interface_address, parse_prefix
from vrouter.proto import base
from vrouter.proto.bgp.instance import Bgp
from vrouter.rib.bgp_reference import ReferenceTable
from vrouter.rib.bgp_table import Afi, BgpTable, BulkRoute
from vrouter.rib.policy import PolicySet
from vrouter.rib.route import Hop, HopKind

DELAY = 0.001
make_table: Callable[[], BgpTable] = ReferenceTable  # tests may put another one here


class Node:
    """A router, or what stands in its place."""

    def __init__(self, world: BgpWorld, address: str) -> None:
        self.world = world
        self.addresses = [parse_interface_address(text) for text in address.split()]
        self.address = self.addresses[0][0]
        self.ends: dict[str, tuple[Node, str]] = {}
        self.listening: set[str] = set()

    @property
    def deadline(self) -> float | None:
        return None

    def expire(self) -> None:
        """Nothing is due."""

    def connected(self, socket: str, local: Address, remote: Address) -> None:
        raise NotImplementedError

    def accepted(self, listener: str, socket: str, local: Address, remote: Address) -> None:
        raise NotImplementedError

    def stream(self, socket: str, data: bytes) -> None:
        raise NotImplementedError

    def writable(self, socket: str) -> None:
        """Nobody waits for it."""

    def closed(self, socket: str, error: int) -> None:
        raise NotImplementedError

    def send(self, socket: str, data: bytes) -> None:
        if socket not in self.ends:
            return
        other, end = self.ends[socket]
        self.world.at(DELAY, lambda: other.stream(end, data) if end in other.ends else None)
        self.world.at(DELAY, lambda: self.writable(socket) if socket in self.ends else None)

    def hang_up(self, socket: str, *, reset: bool = False) -> None:
        other, end = self.ends.pop(socket, (None, ""))
        if other is None:
            return

        def tell() -> None:
            if end in other.ends:
                if reset:
                    del other.ends[end]
                    other.closed(end, 104)
                else:
                    other.stream(end, b"")

        self.world.at(DELAY, tell)


class Router(Node):
    """A BGP instance."""

    def __init__(self, world: BgpWorld, address: str, bgp: BgpConfig | None, **environment: Any) -> None:
        super().__init__(world, address)
        self.policies = Policy()
        self.environment = environment
        self.outputs: list[base.Output] = []
        self.fib: dict[Prefix, BulkRoute] = {}
        self.unreachable: set[Address] = set()
        self.next_hops: dict[int, Address] = {}
        self.bgp = bgp
        self.boot()

    def boot(self, **environment: Any) -> None:
        """Begin with an empty memory."""
        self.instance: Any = Bgp(
            base.Environment(Random(str(self.address)), bgp_table=make_table, **(self.environment | environment))
        )
        self.table = self.instance.table
        own = tuple(base.OwnAddress(address, length) for address, length in self.addresses)
        self.take(self.instance.interface_changed(base.InterfaceState("lan", True, 1500, own), self.world.now))
        self.configure(self.bgp)

    def die(self) -> None:
        """Vanish as a process that is killed."""
        self.listening.clear()
        for socket in list(self.ends):
            self.hang_up(socket, reset=True)
        self.instance = Silence()

    def configure(self, bgp: BgpConfig | None) -> tuple[base.Output, ...]:
        self.bgp = bgp
        router = RouterConfig("red", 1, bgp=bgp, policy=self.policies)
        answer = self.instance.configure(base.Setting(router, PolicySet(self.policies)), self.world.now)
        assert answer.live
        self.take(list(answer.outputs))
        outputs: tuple[base.Output, ...] = answer.outputs
        return outputs

    @property
    def config(self) -> BgpConfig:
        assert self.bgp is not None
        return self.bgp

    def change(self, neighbor: str, **values: Any) -> tuple[base.Output, ...]:
        new = replace(self.config.neighbors[neighbor], **values)
        return self.configure(replace(self.config, neighbors=self.config.neighbors | {neighbor: new}))

    def take(self, outputs: list[base.Output]) -> None:
        self.outputs += outputs
        for output in outputs:
            self._do(output)
        for number in self.table.dead_next_hops():
            self.next_hops.pop(number, None)
        for hop in self.table.new_next_hops():
            self.next_hops[hop.id] = hop.address
            self.resolve(hop.id)
        for route in self.table.fib(1000):
            self.fib[route.prefix] = route
            if not route.hops:
                del self.fib[route.prefix]

    def resolve(self, number: int) -> None:
        address = self.next_hops[number]
        hops = () if address in self.unreachable else (Hop(HopKind.FORWARD, "lan", address),)
        self.table.next_hop_set(number, 0, hops)

    def _do(self, output: base.Output) -> None:
        match output:
            case base.OpenSocket(socket=name, kind=base.SocketKind.LISTEN):
                self.listening.add(name)
            case base.OpenSocket():
                self.world.at(DELAY, lambda: self.world.connect(self, output))
            case base.CloseSocket(socket=name):
                self.listening.discard(name)
                self.hang_up(name, reset=output.reset)
            case base.Write(socket=name, data=data):
                self.send(name, data)

    @property
    def deadline(self) -> float | None:
        due: float | None = self.instance.deadline
        return due

    def expire(self) -> None:
        self.take(self.instance.handle_timeout(self.world.now))

    def connected(self, socket: str, local: Address, remote: Address) -> None:
        self.take(self.instance.connected(socket, local, remote, self.world.now))

    def accepted(self, listener: str, socket: str, local: Address, remote: Address) -> None:
        self.take(self.instance.accepted(listener, socket, local, remote, self.world.now))

    def stream(self, socket: str, data: bytes) -> None:
        self.take(self.instance.stream(socket, data, self.world.now))

    def writable(self, socket: str) -> None:
        self.take(self.instance.writable(socket, self.world.now))

    def closed(self, socket: str, error: int) -> None:
        self.take(self.instance.closed(socket, error, self.world.now))

    # --- what it knows ---

    def summary(self) -> dict[str, Any]:
        found = self.instance.show("summary", {}, self.world.now)
        return {line["neighbor"]: line for line in found["neighbors"]}

    def state(self, neighbor: str) -> str:
        return str(self.summary()[neighbor]["state"])

    def best(self, prefix: str) -> dict[str, Any] | None:
        paths = self.paths(prefix)
        return paths[0] if paths and paths[0]["best"] == 1 else None

    def paths(self, prefix: str) -> list[dict[str, Any]]:
        return list(self.instance.show("prefix", {"prefix": prefix}, self.world.now)["paths"])

    def prefixes(self, afi: Afi = Afi.IPV4) -> set[str]:
        return {row["prefix"] for row in self.table.routes(afi, "loc") if row["best"] == 1}

    def logs(self) -> str:
        return "\n".join(output.message for output in self.outputs if isinstance(output, base.Log))

    def written(self) -> int:
        return sum(isinstance(output, base.Write) for output in self.outputs)


class Silence(base.Silent):
    """A router that is dead."""


class Script(Node):
    """A peer that a test plays: it keeps what it hears."""

    def __init__(self, world: BgpWorld, address: str) -> None:
        super().__init__(world, address)
        self.heard = b""
        self.socket = ""
        self.ended = False
        self.listening = {"listen4", "listen6"}

    def call(self, other: Node) -> None:
        self.world.join(self, "call", other)

    def connected(self, socket: str, local: Address, remote: Address) -> None:
        self.socket, self.heard, self.ended = socket, b"", False

    def accepted(self, listener: str, socket: str, local: Address, remote: Address) -> None:
        self.socket, self.heard, self.ended = socket, b"", False

    def stream(self, socket: str, data: bytes) -> None:
        if socket == self.socket:
            self.heard += data
            self.ended = self.ended or not data

    def closed(self, socket: str, error: int) -> None:
        self.ended = True

    def say(self, data: bytes) -> None:
        self.send(self.socket, data)
        self.world.run(0.1)

    def messages(self) -> list[tuple[int, bytes]]:
        """What it has heard since the last call, as (type, body)."""
        found = []
        while len(self.heard) >= 19:
            size = int.from_bytes(self.heard[16:18], "big")
            found.append((self.heard[18], self.heard[19:size]))
            self.heard = self.heard[size:]
        return found


class BgpWorld:
    """All routers, on one link."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.nodes: list[Node] = []
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._count = itertools.count()

    def router(self, address: str, bgp: BgpConfig, **environment: Any) -> Router:
        node = Router(self, address, bgp, **environment)
        self.nodes.append(node)
        return node

    def script(self, address: str) -> Script:
        node = Script(self, address)
        self.nodes.append(node)
        return node

    def at(self, delay: float, action: Callable[[], object]) -> None:
        heapq.heappush(self._events, (self.now + delay, next(self._count), action))

    def connect(self, node: Router, wish: base.OpenSocket) -> None:
        assert wish.remote is not None
        listener = f"listen{wish.family}"
        for other in self.nodes:
            if listener in other.listening and any(wish.remote == address for address, _ in other.addresses):
                local = next(address for address, _ in node.addresses if address.family == wish.family)
                self._join(node, wish.socket, local, other, listener, wish.remote)
                return
        node.closed(wish.socket, 111)

    def join(self, node: Node, socket: str, other: Node) -> None:
        self._join(node, socket, node.address, other, f"listen{node.address.family}", other.address)

    def _join(self, node: Node, socket: str, local: Address, other: Node, listener: str, remote: Address) -> None:
        new = f"in-{next(self._count)}"
        node.ends[socket], other.ends[new] = (other, new), (node, socket)
        node.connected(socket, local, remote)
        other.accepted(listener, new, remote, local)

    def run(self, seconds: float, limit: int = 100_000) -> None:
        end = self.now + seconds
        for _ in range(limit):
            timers = [(max(node.deadline, self.now), index) for index, node in enumerate(self.nodes) if node.deadline]
            timer, index = min(timers, default=(float("inf"), 0))
            event = self._events[0][0] if self._events else float("inf")
            if min(timer, event) > end:
                self.now = end
                return
            if event <= timer:
                self.now, _, action = heapq.heappop(self._events)
                action()
            else:
                self.now = timer
                self.nodes[index].expire()
        raise AssertionError("the routers do not come to rest")


__all__ = ["BgpWorld", "Router", "Script", "parse_address", "parse_prefix"]
