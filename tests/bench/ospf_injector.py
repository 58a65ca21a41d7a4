"""A router that tells its neighbor of many others: an instance of OSPF on a kernel socket, its database filled by hand.

The others are a random connected graph with mean degree 4; each announces a host prefix.  One of them has the
injector as its neighbor.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from random import Random
from typing import TYPE_CHECKING, Any, Final

from fastpath.spf import Accelerators
from vrouter.config import ospf as config
from vrouter.config.router import RouterConfig
from vrouter.net.address import Address, parse_interface_address
from vrouter.proto.base import Environment, InterfaceState, Meta, OpenSocket, OwnAddress, Setting, Transmit
from vrouter.proto.ospf.database import Entry
from vrouter.proto.ospf.instance import Ospf
from vrouter.wire.ospf.lsa import (
    INITIAL_SEQUENCE,
    LinkType,
    RouterBody,
    RouterLink,
    build_lsa,
    decode_header,
)

if TYPE_CHECKING:
    from lab import Namespace

OSPF: Final = 89
ROUTER: Final = 0xFA000001  # 250.0.0.1
FIRST: Final = 0x0B000000  # ids of the others
HOST: Final = 0xFFFFFFFF
_DATA: Final = 0x0C000000
_E: Final = 0x02


class Injector:
    """The router; `serve` lets it live for a while."""

    def __init__(self, namespace: Namespace, device: str, address: str, routers: int, seed: int = 1) -> None:
        """Take a device with its address, "10.97.1.2/24", in a namespace."""
        self.rng = Random(seed)
        self.links: list[dict[int, int]] = [{} for _ in range(routers)]
        self._device = device
        self._sequence = INITIAL_SEQUENCE
        self._socket = self._open(namespace, device)
        settings = config.Ospf(
            router_id="250.0.0.1",
            areas={
                "0.0.0.0": config.Area(
                    interfaces={
                        device: config.OspfInterface(network="point-to-point", hello_interval=1.0, dead_interval=20.0)
                    }
                )
            },
        )
        self._ospf = Ospf(Environment(Random(seed), accelerators=Accelerators()))
        self._core = self._ospf._core
        self._core.routes.schedule = lambda: None  # type: ignore[method-assign] # it needs no routes
        self._make_graph()
        setting = Setting(RouterConfig("injector", 1, ospf=settings))
        self._do(list(self._ospf.configure(setting, time.monotonic()).outputs))
        for number in range(routers):
            self._put(number)
        router = self._core.origination._router

        def with_graph(area: Any) -> RouterBody:
            made = router(area)
            link = RouterLink(LinkType.POINT_TO_POINT, FIRST, own.value, 1)
            return RouterBody(made.flags, (*made.links, link))

        own, length = parse_interface_address(address)
        self._core.origination._router = with_graph  # type: ignore[method-assign]
        state = InterfaceState(device, True, 1500, (OwnAddress(own, length),))
        self._do(self._ospf.interface_changed(state, time.monotonic()))

    @staticmethod
    def _open(namespace: Namespace, device: str) -> socket.socket:
        made = namespace.socket(socket.AF_INET, socket.SOCK_RAW, OSPF)
        with namespace.entered():
            index = socket.if_nametoindex(device)
        group = socket.inet_aton("224.0.0.5") + bytes(4) + struct.pack("i", index)
        made.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
        made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, bytes(8) + struct.pack("i", index))
        made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
        made.setblocking(False)
        return made

    def _make_graph(self) -> None:
        count = len(self.links)
        pairs = [(number, self.rng.randrange(number)) for number in range(1, count)]
        pairs += [(a, b) for a, b in (self.rng.sample(range(count), 2) for _ in range(count))]
        for one, other in pairs:
            cost = self.rng.randrange(1, 60)
            self.links[one][other] = self.links[other][one] = cost

    def _body(self, number: int) -> RouterBody:
        links = [
            RouterLink(LinkType.POINT_TO_POINT, FIRST + other, _DATA + number, cost)
            for other, cost in self.links[number].items()
        ]
        if number == 0:
            links.append(RouterLink(LinkType.POINT_TO_POINT, ROUTER, _DATA, 1))
        links.append(RouterLink(LinkType.STUB, FIRST + number, HOST, 0))
        return RouterBody(0, tuple(links))

    def _put(self, number: int) -> None:
        core = self._core
        key = (1, FIRST + number, FIRST + number)
        body = self._body(number)
        raw = build_lsa(key, _E, self._sequence, body, 1, core.fletcher)
        entry = Entry(decode_header(raw), raw, body, core.now, own=False)
        database = core.areas[0].database
        core.flooding.install(database, entry)
        core.flooding.flood(database, entry, None)

    def change(self) -> None:
        """Let one link have another cost."""
        self._core.now = time.monotonic()
        self._sequence += 1
        number = self.rng.randrange(len(self.links))
        other = self.rng.choice(list(self.links[number]))
        self.links[number][other] = self.links[number][other] % 60 + self.rng.randrange(1, 30)
        self._put(number)
        self._do(self._ospf._finish())

    def full(self) -> bool:
        """Tell whether the neighbor has everything."""
        rows = self._ospf.show("neighbor", {}, time.monotonic())
        return bool(rows) and rows[0]["state"] == "full" and not rows[0]["retransmissions"]

    def serve(self, seconds: float) -> None:
        """Let it live."""
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end:
            deadline = self._ospf.deadline
            wait = min(end, deadline if deadline is not None else end) - now
            if select.select([self._socket], [], [], max(0.0, wait))[0]:
                self._receive()
            if (deadline := self._ospf.deadline) is not None and deadline <= time.monotonic():
                self._do(self._ospf.handle_timeout(time.monotonic()))

    def _receive(self) -> None:
        for _ in range(100):
            try:
                packet, (source, _) = self._socket.recvfrom(65536)
            except BlockingIOError:
                return
            header = (packet[0] & 15) * 4
            far = Address(4, int.from_bytes(socket.inet_aton(source), "big"))
            meta = Meta(self._device, far, Address(4, int.from_bytes(packet[16:20], "big")), packet[8])
            self._do(self._ospf.received(f"ospf-{self._device}", packet[header:], meta, time.monotonic()))

    def _do(self, outputs: list[Any]) -> None:
        for output in outputs:
            if isinstance(output, Transmit):
                self._socket.sendto(output.data, (str(output.destination), 0))
            elif isinstance(output, OpenSocket):
                self._do(self._ospf.opened(output.socket, time.monotonic()))

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
