"""A whole VR inside the test: the real core on virtual time, with the test at the far end of each port.

    test --send--> link segment --> core_poll(now) --> link segment --receive--> test

Nothing sleeps: `advance` jumps from deadline to deadline.  `laws` checks both counter laws.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
from typing import TYPE_CHECKING, Any, Final, Self

from fastpath import segment, stats
from fastpath._layout import CONSTANTS
from fastpath.binding import check, ffi, lib
from tests.unit import packets

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import TracebackType

ROUTER_A: Final = bytes.fromhex("020000000a01")  # our MAC on interface a, port 1
ROUTER_B: Final = bytes.fromhex("020000000b01")  # and on b, port 2
HOST_A: Final = bytes.fromhex("020000000a02")
HOST_B: Final = bytes.fromhex("020000000b02")
OTHER: Final = bytes.fromhex("020000000c03")
SECOND: Final = 1_000_000_000
START: Final = 1_000 * SECOND
TABLES_SIZE: Final = 16 << 20
FRAME_ROOM: Final = CONSTANTS["SUPER_ROOM"]
STATES: Final = ("INCOMPLETE", "REACHABLE", "STALE", "DELAY", "PROBE", "FAILED", "STATIC")
DROPS: Final = tuple(
    name.removeprefix("DROP_").lower()
    for name, _value in sorted(
        (
            (name, value)
            for name, value in CONSTANTS.items()
            if name.startswith("DROP_") and name != "DROP_REASON_COUNT"
        ),
        key=lambda item: item[1],
    )
)


@dataclasses.dataclass
class Interface:
    """An interface as control would publish it; port 0 is a loopback."""

    name: str
    port: int
    mac: bytes
    addresses: list[str]
    mtu: int = 1500
    vlan: int = 0
    up: bool = True
    dad: bool = True
    features: int = 0  # enum interface_features

    @property
    def kind(self) -> int:
        """Tell the kind by port and VLAN."""
        if self.port == 0:
            return CONSTANTS["INTERFACE_LOOPBACK"]
        return CONSTANTS["INTERFACE_VLAN" if self.vlan else "INTERFACE_ETHERNET"]


@dataclasses.dataclass(frozen=True)
class Hop:
    """One next hop of a static route; neither via nor interface: a blackhole."""

    via: str | None = None
    interface: str | None = None
    weight: int = 1
    kind: str = "NEXTHOP_FORWARD"
    backup: bool = False  # behind the others


class Port:
    """A patch link whose other end the test holds."""

    def __init__(self, number: int, queue: int = 0) -> None:
        self.number = number
        self.queue = queue  # the part of the port that this worker serves
        self._ours = segment.create(segment.KIND_LINK, segment.LINK_SIZE, 0, f"test{number}")
        self._theirs = segment.create(segment.KIND_LINK, segment.LINK_SIZE, 0, f"core{number}")
        self._events = (os.eventfd(0, os.EFD_NONBLOCK), os.eventfd(0, os.EFD_NONBLOCK))
        out = ffi.new("struct link_end **")
        check(lib.link_end_open(self._ours, self._theirs, *self._events, out))
        self._end = out[0]
        self._frame = ffi.new("uint8_t[]", FRAME_ROOM)
        self._vnet = ffi.new("uint8_t[12]")

    @property
    def far(self) -> tuple[int, int, int, int]:
        """Give the fds of the test's end, for another holder than this object."""
        return self._ours, self._theirs, *self._events

    def attach(self, core: Any, *, mtu: int, up: bool) -> None:
        """Give the core its end."""
        spec = ffi.new("struct port_spec *")
        spec.port, spec.driver, spec.mtu, spec.link_up, spec.generation = self.number, lib.DRIVER_LINK, mtu, up, 1
        spec.queue = self.queue
        fds = [os.dup(fd) for fd in (self._theirs, self._ours, self._events[1], self._events[0])]
        check(lib.core_port_add(core, spec, fds, len(fds)))

    def send(self, frame: bytes, vnet: bytes | None = None) -> None:
        """Put a frame on the wire towards the core."""
        check(lib.link_end_send(self._end, frame, len(frame), ffi.NULL if vnet is None else vnet))

    def receive(self) -> list[tuple[bytes, bytes]]:
        """Take all frames that the core sent: (frame, virtio header)."""
        frames = []
        while (length := lib.link_end_receive(self._end, self._frame, FRAME_ROOM, self._vnet)) > 0:
            frames.append((bytes(ffi.buffer(self._frame, length)), bytes(ffi.buffer(self._vnet, 10))))
        return frames

    def close(self) -> None:
        """Give everything back."""
        lib.link_end_close(self._end)
        for fd in (self._ours, self._theirs, *self._events):
            os.close(fd)


def two_sided() -> list[Interface]:
    """The usual interfaces: `a` on port 1, `b` on port 2, and a loopback."""
    return [
        Interface("a", 1, ROUTER_A, ["10.0.0.1/24", "2001:db8:a::1/64", "fe80::a/64"]),
        Interface("b", 2, ROUTER_B, ["10.0.1.1/24", "2001:db8:b::1/64", "fe80::b/64"]),
        Interface("lo", 0, bytes(6), ["192.0.2.1/32", "2001:db8::1/128"]),
    ]


def meet_hosts(router: Router) -> None:
    """Let the router know a host behind each of the two usual interfaces, by both families."""
    for name, four, six, mac in (
        ("a", "10.0.0.2", "2001:db8:a::2", HOST_A),
        ("b", "10.0.1.2", "2001:db8:b::2", HOST_B),
    ):
        router.meet(name, four, mac)
        router.meet(name, six, mac)


class Router:
    """The core of one VR with its segments, ports and clock."""

    def __init__(self, interfaces: Iterable[Interface], routes: Mapping[str, list[Hop]] | None = None) -> None:
        self.interfaces = {interface.name: interface for interface in interfaces}
        self.routes = dict(routes or {})
        self.now = START
        self.tables_fd = segment.create(segment.KIND_TABLES, TABLES_SIZE, 1, "test")
        self.state_fd = segment.create(segment.KIND_STATE, segment.STATE_SIZE, 1, "test")
        self.state = segment.Segment(self.state_fd, segment.KIND_STATE)
        self._installed: set[tuple[bytes, int, int]] = set()
        out = ffi.new("struct table_writer **")
        check(lib.table_writer_open(self.tables_fd, self.state_fd, out))
        self._writer = out[0]
        self.publish()
        self.core = self._create()
        self._dead: list[Any] = []  # cores that crashed: their memory and fds are given back at the end
        self.ports: dict[int, Port] = {}
        for interface in self.interfaces.values():
            if interface.port and interface.port not in self.ports:
                self.ports[interface.port] = Port(interface.port)
                self.ports[interface.port].attach(self.core, mtu=interface.mtu, up=True)
        self.poll()

    # --- what control and the manager do ---

    @property
    def writer(self) -> Any:
        """Give the handle of the tables' writer."""
        return self._writer

    def index(self, name: str) -> int:
        """Give the interface index, which is its place in the order of creation."""
        return list(self.interfaces).index(name) + 1

    def publish(self) -> None:
        """Write interfaces, addresses and routes as they are now."""
        interfaces = ffi.new("struct interface_entry[]", len(self.interfaces))
        addresses = ffi.new("struct address_entry[]", sum(len(i.addresses) for i in self.interfaces.values()))
        number = 0
        for entry, interface in zip(interfaces, self.interfaces.values(), strict=True):
            entry.index, entry.port, entry.vlan = self.index(interface.name), interface.port, interface.vlan
            entry.kind, entry.flags, entry.mtu = interface.kind, int(interface.up), interface.mtu
            entry.mac, entry.name, entry.features = interface.mac, interface.name.encode(), interface.features
            for text in interface.addresses:
                self._fill_address(addresses[number], interface, text)
                number += 1
        check(
            lib.table_writer_publish(
                self._writer, interfaces, len(interfaces), addresses, len(addresses), ffi.new("struct rule_entry[1]"), 0
            )
        )
        self._apply()

    def _fill_address(self, entry: Any, interface: Interface, text: str) -> None:
        address = ipaddress.ip_interface(text)
        ffi.buffer(entry.address)[: len(address.packed)] = address.packed
        entry.family, entry.length, entry.interface = (
            address.version,
            address.network.prefixlen,
            self.index(interface.name),
        )
        entry.flags = (CONSTANTS["ADDRESS_LINK_LOCAL"] if address.is_link_local else 0) | (
            0 if interface.dad else CONSTANTS["ADDRESS_NO_DAD"]
        )

    def _wanted(self) -> dict[tuple[bytes, int, int], list[Hop]]:
        wanted: dict[tuple[bytes, int, int], list[Hop]] = {}

        def add(network: ipaddress.IPv4Network | ipaddress.IPv6Network, hops: list[Hop]) -> None:
            wanted[network.network_address.packed, network.version, network.prefixlen] = hops

        for interface in self.interfaces.values():
            for address in map(ipaddress.ip_interface, interface.addresses):
                if address.is_link_local:
                    continue
                if interface.port:
                    add(address.network, [Hop(interface=interface.name, kind="NEXTHOP_CONNECTED")])
                if interface.port and address.version == 4 and address.network.prefixlen < 31:
                    last = ipaddress.ip_network(address.network.broadcast_address)
                    add(last, [Hop(interface=interface.name, kind="NEXTHOP_BROADCAST")])
        for prefix, hops in self.routes.items():
            add(ipaddress.ip_network(prefix), hops)
        for interface in self.interfaces.values():
            for address in map(ipaddress.ip_interface, interface.addresses):
                if not address.is_link_local:
                    add(ipaddress.ip_network(address.ip), [Hop(interface=interface.name, kind="NEXTHOP_LOCAL")])
        return wanted

    def _group(self, hops: list[Hop]) -> int:
        entries = ffi.new("struct nexthop[]", len(hops))
        total = 0
        for entry, hop in zip(entries, hops, strict=True):
            total += hop.weight
            kind = hop.kind
            if kind == "NEXTHOP_FORWARD" and hop.interface is None:
                kind = "NEXTHOP_BLACKHOLE"
            entry.kind, entry.weight, entry.weight_end = CONSTANTS[kind], hop.weight, total
            entry.interface = self.index(hop.interface) if hop.interface else 0
            if hop.via:
                via = ipaddress.ip_address(hop.via)
                entry.family = via.version
                ffi.buffer(entry.via)[: len(via.packed)] = via.packed
        backups = sum(hop.backup for hop in hops)
        if backups:
            return check(lib.table_writer_group_new(self._writer, entries, len(hops) - backups, backups))
        return check(lib.table_writer_group(self._writer, entries, len(hops)))

    def _apply(self) -> None:
        wanted = self._wanted()
        gone = self._installed - set(wanted)
        changes = ffi.new("struct route_change[]", len(wanted) + len(gone))
        for change, key in zip(changes, [*wanted, *gone], strict=True):
            packed, family, length = key
            ffi.buffer(change.address)[: len(packed)] = packed
            change.family, change.length = family, length
            change.group = self._group(wanted[key]) if key in wanted else 0
            change.protocol = CONSTANTS["ROUTE_STATIC"]
        check(lib.table_writer_apply(self._writer, changes, len(changes)))
        self._installed = set(wanted)

    def _create(self) -> Any:
        out = ffi.new("struct core **")
        check(lib.core_create(self.tables_fd, self.state_fd, out))
        return out[0]

    def link(self, number: int, *, up: bool, mtu: int = 1500) -> None:
        """Change the carrier of a port."""
        check(lib.core_port_link(self.core, number, up, mtu))
        self.poll()

    def crash(self) -> None:
        """Leave the core as a killed process would, and start its successor on the same segments."""
        self._dead.append(self.core)
        self.core = self._create()
        for port in self.ports.values():
            port.attach(self.core, mtu=1500, up=True)

    # --- packets and time ---

    def send(self, port: int, *frames: bytes, vnet: bytes | None = None) -> None:
        """Send frames into a port and let the core run."""
        for frame in frames:
            self.ports[port].send(frame, vnet)
        self.poll()

    def poll(self) -> None:
        """Run the core at the present time until it has nothing more to do at once."""
        while lib.core_poll(self.core, self.now) > 0:
            pass

    def receive(self, port: int) -> list[bytes]:
        """Take what the core sent out of a port, but for the group reports of MLD (test_host_multicast reads those)."""
        return [frame for frame, _vnet in self.ports[port].receive() if not packets.is_listener_report(frame)]

    def exchange(self, port: int, frame: bytes, out: int | None = None) -> list[bytes]:
        """Send one frame; give what comes out of a port (the same one if not told)."""
        self.send(port, frame)
        return self.receive(port if out is None else out)

    def advance(self, seconds: float) -> None:
        """Let time pass, stopping at each deadline of the core."""
        until = self.now + round(seconds * SECOND)
        while (deadline := lib.core_deadline(self.core)) <= until:
            self.now = max(self.now, deadline)
            self.poll()
        self.now = until
        self.poll()

    def meet(self, name: str, address: str, mac: bytes) -> None:
        """Let a host ask for our address: we answer and know it from then on (STALE)."""
        interface = self.interfaces[name]
        if ":" in address:
            group = packets.solicited_node(interface.addresses[1].split("/")[0])
            body = packets.neighbor_message(
                packets.NS, address, group, interface.addresses[1].split("/")[0], options=packets.link_option(1, mac)
            )
            frame = packets.ethernet(packets.group_mac(group), mac, packets.IP6, body)
        else:
            body = packets.arp(1, mac, address, bytes(6), interface.addresses[0].split("/")[0])
            frame = packets.ethernet(packets.BROADCAST, mac, packets.ARP, body)
        assert len(self.exchange(interface.port, frame)) == 1

    def settle(self) -> None:
        """Let address detection and announcements end; forget what was sent meanwhile."""
        self.advance(5)
        for port in self.ports.values():
            port.receive()

    # --- what there is to see ---

    def counters(self, name: str) -> segment.View:
        """Look at the counters of an interface."""
        return self.state.view("counters", self.index(name))

    def count(self, name: str, field: str) -> int:
        """Read one counter of an interface, of all workers."""
        return int(stats.interface_counters(self.state, self.index(name))[field])

    def drops(self, name: str | None = None) -> dict[str, int]:
        """Read the drops of an interface, or of our own packets, that are not 0."""
        if name is None:
            return stats.host_drops(self.state)
        drops: dict[str, int] = stats.interface_counters(self.state, self.index(name))["drops"]
        return drops

    def neighbors(self) -> dict[str, segment.View]:
        """Read the live neighbors by address."""
        live = {}
        for _index, entry in self.state.used("neighbors", "state"):
            if entry.integer("state") != CONSTANTS["NEIGHBOR_DELETED"]:
                size = 4 if entry.integer("family") == 4 else 16
                live[str(ipaddress.ip_address(entry.octets("address")[:size]))] = entry
        return live

    def neighbor_state(self, address: str) -> str:
        """Read the state of one neighbor; "NONE" where there is none."""
        entry = self.neighbors().get(address)
        names = {CONSTANTS[f"NEIGHBOR_{name}"]: name for name in STATES}
        return names[entry.integer("state")] if entry else "NONE"

    def laws(self) -> None:
        """Both counter laws, exactly, for every interface; held packets counted one by one."""
        held = dict.fromkeys(range(1, len(self.interfaces) + 1), 0)
        for _index, slot in self.state.used("pending", "length"):
            if slot.integer("ingress"):
                held[slot.integer("ingress")] += 1
        for name in self.interfaces:
            read = stats.interface_counters(self.state, self.index(name))
            fates = read["forwarded_packets"] + read["punt_packets"] + sum(read["drops"].values())
            assert read["held_packets"] == held[self.index(name)]
            assert read["rx_packets"] == fates + read["held_packets"], f"law 1 on {name}: {self.drops(name)}"
            out = read["forwarded_out_packets"] + read["originated_packets"] + read["fragments_created"]
            assert read["tx_packets"] == out, f"law 2 on {name}"

    def close(self) -> None:
        """Give everything back."""
        for core in (self.core, *self._dead):
            lib.core_destroy(core)
        lib.table_writer_close(self._writer)
        for port in self.ports.values():
            port.close()
        self.state.close()
        os.close(self.tables_fd)
        os.close(self.state_fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.laws()
        self.close()
