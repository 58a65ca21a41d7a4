"""A router of the simulated network: an engine, the FIB that it fills, and the sockets that it asks for."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from bfd_model import BfdModel
from datagrams import BFD, TCP, TTL, Datagrams, Packet, link_local, multicast
from fib_model import FibModel
from streams import Streams

from vrouter.config.router import Interface, RouterConfig
from vrouter.engine import inputs, outputs
from vrouter.engine.engine import Engine, Surroundings
from vrouter.net.address import IPV4, Address, parse_interface_address
from vrouter.proto.base import (
    BfdOpen,
    CloseSocket,
    JoinGroup,
    LeaveGroup,
    Meta,
    OpenSocket,
    SetKeys,
    SetMinTtl,
    SocketKind,
    Transmit,
    Write,
)
from vrouter.rib.route import HopKind

if TYPE_CHECKING:
    from network import Link, Network

MTU: Final = 1500


@dataclass(frozen=True, eq=False)
class Port:
    """An end of a link."""

    router: SimRouter
    name: str
    number: int
    link: Link
    addresses: tuple[str, ...]

    @property
    def mac(self) -> str:
        """Give a MAC that no other port has."""
        number = self.router.number << 16 | self.number
        return "02:00:" + ":".join(f"{number >> shift & 255:02x}" for shift in (24, 16, 8, 0))


class SimRouter:
    """One router; see the module."""

    def __init__(self, network: Network, name: str, number: int) -> None:
        """Make it without ports; its loopback has 192.0.2.NUMBER (or further on)."""
        self.network, self.name, self.number = network, name, number
        self.ports: dict[str, Port] = {}
        self.loopback = f"192.0.{2 + number // 256}.{number % 256}"
        self.config: RouterConfig | None = None
        self.engine: Engine | None = None
        self.incarnation = 0
        self.fib = FibModel()
        self.lines: list[outputs.Line] = []
        self.events: list[outputs.Event] = []
        self.written = 0  # bytes and datagrams that instances have sent
        self._own: dict[Address, str] = {}
        self._link_locals: dict[tuple[str, Address], bool] = {}
        self._sockets: dict[tuple[str, str], Datagrams] = {}
        self._wake: float | None = None
        self.streams = Streams(self)
        self.bfd = BfdModel(self)

    def __repr__(self) -> str:
        """Give its name."""
        return f"SimRouter({self.name})"

    @property
    def running(self) -> bool:
        """Tell whether it runs."""
        return self.engine is not None

    # Its life

    def add_port(self, link: Link, addresses: list[str]) -> Port:
        """Add an end of a link."""
        port = Port(self, f"to{link.number}", len(self.ports) + 1, link, tuple(addresses))
        self.ports[port.name] = port
        return port

    def configure(self, **keys: Any) -> None:
        """Start it with this configuration of protocols, or give it another one."""
        interfaces = [
            Interface(port.name, "ethernet", port.number, mtu=MTU, mac=port.mac, addresses=port.addresses)
            for port in self.ports.values()
        ]
        interfaces.append(Interface("lo", "loopback", mtu=65535, addresses=(f"{self.loopback}/32",)))
        interfaces = [replace(each, **keys.get("interface_keys", {}).get(each.name, {})) for each in interfaces]
        keys.pop("interface_keys", None)
        self.config = RouterConfig(self.name, self.number, tuple(interfaces), **keys)
        if self.engine is None:
            self.start()
        else:
            self.tell(self._configuration())

    def start(self, *, restarted: bool = False) -> None:
        """Start the control; after `kill` with `restarted`, what stands in the FIB may be learnt again."""
        self.incarnation += 1
        seed = f"{self.network.seed}/{self.name}/{self.incarnation}"
        surroundings = Surroundings(
            rng=lambda name: random.Random(f"{seed}/{name}"),
            restarted=restarted,
            boot=self.incarnation,
            **self.network.surroundings,
        )
        self.engine = Engine(self.name, surroundings, self.network.kinds)
        self.tell(self._configuration())
        for port in self.ports.values():
            self.carrier(port)

    def _configuration(self) -> inputs.Configure:
        assert self.config is not None
        return inputs.Configure(self.config, {each.name: place for place, each in enumerate(self.config.interfaces, 1)})

    def crash(self) -> None:
        """Lose power: nothing is said, nothing is left."""
        self.engine = None
        self._wake = None
        self._sockets.clear()
        self.streams = Streams(self)
        self.bfd = BfdModel(self)
        self.fib = FibModel()
        self._own.clear()

    def kill(self) -> None:
        """Lose the control alone: its connections are reset, forwarding goes on by the FIB as it is."""
        self.engine = None
        self._wake = None
        self._sockets.clear()
        self.streams.reset_all()
        self.fib.all_stale()

    def carrier(self, port: Port) -> None:
        """Tell the engine of the carrier of a port."""
        self.tell(inputs.Link(port.number, up=port.link.carrier, mtu=MTU))

    # The engine

    def tell(self, event: inputs.Input, incarnation: int | None = None) -> None:
        """Give the engine an input, unless that was meant for one before it."""
        if self.engine is None or incarnation not in (None, self.incarnation):
            return
        for output in self.engine.handle(event, self.network.now):
            self.network.note(self.name, output)
            self._carry_out(output)
        self._schedule()

    def tell_timeout(self) -> None:
        """Let the engine do what is due now."""
        self.tell(inputs.Timeout())

    def _schedule(self) -> None:
        assert self.engine is not None
        due = self.engine.deadline
        if due is None or (self._wake is not None and self._wake <= due):
            return
        self._wake = due
        self.network.at(due, self._timeout, due, self.incarnation)

    def _timeout(self, due: float, incarnation: int) -> None:
        if incarnation != self.incarnation or self._wake != due or self.engine is None:
            return
        self._wake = None
        if self.engine.deadline is not None and self.engine.deadline <= self.network.now:
            self.tell(inputs.Timeout())
        else:
            self._schedule()

    def _carry_out(self, output: outputs.Output) -> None:
        match output:
            case outputs.Tables():
                self.fib.apply(output)
                self._own = {}
                for entry in output.root.addresses:
                    self._own.setdefault(entry.address, entry.interface)
                self._link_locals = {
                    (entry.interface, entry.address): True for entry in output.root.addresses if entry.link_local
                }
            case outputs.Socket():
                self._socket(output.instance, output.request)
            case outputs.Watch(request=BfdOpen() as request):
                self.bfd.open(request)
            case outputs.Watch(request=request):
                self.bfd.close(request.session)
            case outputs.Event():
                self.events.append(output)
            case outputs.Line():
                self.lines.append(output)

    # Sockets

    def _socket(self, instance: str, request: outputs.SocketRequest) -> None:
        match request:
            case OpenSocket(kind=SocketKind.LISTEN):
                self.streams.listen(instance, request)
            case OpenSocket(kind=SocketKind.CONNECT):
                self.streams.connect(instance, request)
            case OpenSocket():
                self._sockets[instance, request.socket] = Datagrams(instance, request, set(request.groups))
                opened = inputs.Opened(instance, request.socket)
                self.network.after(0, self.tell, opened, self.incarnation)
            case CloseSocket():
                if self._sockets.pop((instance, request.socket), None) is None:
                    self.streams.close(instance, request)
            case Write():
                self.written += 1
                self.streams.write(instance, request)
            case Transmit():
                self.written += 1
                self._transmit(self._sockets.get((instance, request.socket)), request)
            case JoinGroup():
                self._sockets[instance, request.socket].groups.add((request.interface, request.group))
            case LeaveGroup():
                self._sockets[instance, request.socket].groups.discard((request.interface, request.group))
            case SetKeys() | SetMinTtl():
                self.streams.set(instance, request)

    def _transmit(self, socket: Datagrams | None, request: Transmit) -> None:
        if socket is None:
            return
        asked = socket.request
        interface = request.interface or asked.interface
        source = request.source or asked.local or self.source_for(request.destination, interface)
        if source is None:
            return
        ttl = asked.ttl or (1 if multicast(request.destination) else TTL)
        packet = Packet(
            socket.protocol, source, request.destination, ttl, request.data, asked.local_port, request.port
        )  # fmt: skip
        self.send(packet, interface)

    def source_for(self, destination: Address, interface: str) -> Address | None:
        """Choose the address that a packet leaves with."""
        if not interface:
            hop = self.fib.hop(destination)
            if hop is None:
                return None
            interface = hop.interface
            if hop.kind is HopKind.LOCAL:
                return destination
        scoped = destination.family != IPV4 and link_local(destination)
        if scoped:
            return next((address for name, address in self._link_locals if name == interface), None)
        mine = [address for address in self._own if address.family == destination.family]
        wide = [address for address in mine if address.family == IPV4 or not link_local(address)]
        there = [address for address in wide if self._own[address] == interface]
        return next(iter((*there, *wide)), None)

    # Packets

    def send(self, packet: Packet, interface: str = "") -> None:
        """Send a packet of our own, by an interface or by the FIB."""
        destination = packet.destination
        if interface and (multicast(destination) or link_local(destination) or self._on_link(interface, destination)):
            port = self.ports.get(interface)
            if port is None:
                return
            target = None if multicast(destination) else self._owner(port, destination)
            if multicast(destination) or target is not None:
                port.link.send(port, packet, target)
        elif destination in self._own:
            self.network.after(0, self._deliver_self, packet, self.incarnation)
        else:
            self._forward(packet)

    def _deliver_self(self, packet: Packet, incarnation: int) -> None:
        if incarnation == self.incarnation and self.running:
            self._deliver(packet, self._own.get(packet.destination, ""))

    def _on_link(self, interface: str, address: Address) -> bool:
        port = self.ports.get(interface)
        return port is not None and self._owner(port, address) is not None

    @staticmethod
    def _owner(port: Port, address: Address) -> Port | None:
        for other in port.link.ports:
            if other is not port and other.router.owns(other.name, address):
                return other
        return None

    def owns(self, interface: str, address: Address) -> bool:
        """Tell whether it would answer ARP or ND for an address on an interface."""
        return self._own.get(address) == interface or (interface, address) in self._link_locals

    def _forward(self, packet: Packet) -> None:
        hop = self.fib.hop(packet.destination, hash((packet.source, packet.destination, packet.destination_port)))
        if hop is None or hop.interface not in self.ports:
            return
        port = self.ports[hop.interface]
        target = self._owner(port, hop.via or packet.destination)
        if target is not None:
            port.link.send(port, packet, target)

    def arrived(self, port: Port, packet: Packet) -> None:
        """Take a packet from a link: for us, or to be forwarded."""
        ours = packet.destination in self._own or self.owns(port.name, packet.destination)
        if ours or multicast(packet.destination):
            self._deliver(packet, port.name)
        elif packet.ttl > 1 and not link_local(packet.destination):
            self._forward(packet.hop())

    def _deliver(self, packet: Packet, interface: str) -> None:
        if packet.protocol == TCP:
            self.streams.arrived(packet)
        elif packet.protocol == BFD:
            self.bfd.arrived(packet, interface)
        else:
            meta = Meta(
                interface, packet.source, packet.destination, packet.ttl, packet.source_port, packet.destination_port
            )
            for (instance, name), socket in list(self._sockets.items()):
                if socket.takes(packet, interface):
                    self.tell(inputs.Received(instance, name, packet.data, meta))

    def address(self, other: SimRouter) -> str:
        """Give the address of ours on the link with another router."""
        link = self.network.between(self, other)
        port = next(port for port in self.ports.values() if port.link is link)
        return str(parse_interface_address(port.addresses[0])[0])
