"""A forwarder without manager, control or configuration, between two hosts in namespaces of its own.

    left 10.0.1.2 --- veth --- router (10.0.1.1, 10.0.2.1) --- veth --- right 10.0.2.2

The test process plays manager (opens the rings, keeps their fds) and control (writes the tables); the
forwarder is a forked child that runs the C loop, to be killed at will.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import mmap
import os
import random
import select
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Self

from fastpath import segment, stats
from fastpath._layout import CONSTANTS, FIELDS, SIZES
from fastpath.binding import check, ffi, lib
from manager import rings
from manager.kernel import inside

SOL_PACKET: Final = 263
TP_STATUS_USER: Final = 1
TP_STATUS_COPY: Final = 2
TP_PADDING: Final = 28  # of struct tpacket2_hdr
SMALL: Final = rings.Geometry(block_size=1 << 16, frame_size=1 << 11, frame_count=256)
PORT: Final = 7001
PATIENCE: Final = 20.0  # seconds, after which something will never be
_serial: Final = itertools.count()


def ip(*words: str) -> None:
    """Run ip(8)."""
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)


class Side:
    """One link of the router: the veth pair, its ring, its interface."""

    def __init__(self, lab: Bare, number: int, name: str, mtu: int, geometry: Any) -> None:
        self.number, self.name, self.mtu, self.geometry = number, name, mtu, geometry
        self.namespace, self.router_namespace = f"{lab.prefix}{name}", lab.namespace
        self.router_mac = bytes((2, 0, 0, 0, number, 1))
        self.host_mac = bytes((2, 0, 0, 0, number, 2))
        self.address, self.host = f"10.0.{number}.1", f"10.0.{number}.2"
        ip("netns", "add", self.namespace)
        near, far = f"p{number}", "eth0"
        queues = str(getattr(geometry, "queues", 1))
        many = ("numrxqueues", queues, "numtxqueues", queues)
        ip("-n", lab.namespace, "link", "add", near, "address", self.router_mac.hex(":"), *many, "type", "veth",
           "peer", "name", far, "address", self.host_mac.hex(":"), *many, "netns", self.namespace)  # fmt: skip
        for namespace, device in ((lab.namespace, near), (self.namespace, far)):
            with contextlib.suppress(OSError), inside_named(namespace):
                Path(f"/proc/sys/net/ipv6/conf/{device}/disable_ipv6").write_text("1")
            ip("-n", namespace, "link", "set", device, "mtu", str(mtu), "up")
        ip("-n", self.namespace, "link", "set", "lo", "up")
        ip("-n", self.namespace, "address", "add", f"{self.host}/24", "dev", far)
        ip("-n", self.namespace, "route", "add", "default", "via", self.address)
        ip("-n", self.namespace, "neighbor", "add", self.address, "lladdr", self.router_mac.hex(":"), "dev", far)
        netns = os.open(f"/run/netns/{lab.namespace}", os.O_RDONLY)
        try:
            with inside(netns):
                self.ifindex = socket.if_nametoindex(near)
            self.open(netns, near)
        finally:
            os.close(netns)

    def open(self, netns: int, device: str) -> None:
        """Open what the driver works on."""
        self.ring = rings.open_ring(netns, device, self.ifindex, self.geometry, promiscuous=False)
        self.memory = mmap.mmap(self.ring.fileno(), self.geometry.size)

    @property
    def fds(self) -> list[int]:
        """Give what goes with the spec."""
        return [self.ring.fileno()]

    def spec(self, generation: int) -> Any:
        """Give the struct port_spec."""
        spec = ffi.new("struct port_spec *")
        spec.port, spec.driver, spec.ifindex = self.number, CONSTANTS["DRIVER_AF_PACKET"], self.ifindex
        spec.mtu, spec.link_up, spec.generation = self.mtu, 1, generation
        spec.block_size, spec.block_count = self.geometry.block_size, self.geometry.block_count
        spec.frame_size, spec.frame_count = self.geometry.frame_size, self.geometry.frame_count
        ffi.buffer(spec.mac)[:] = self.router_mac
        return spec

    def slot(self, frame: int) -> int:
        """Give the offset of a frame's slot in the ring."""
        return int(frame % self.geometry.frame_count * self.geometry.frame_size)

    def status(self, frame: int) -> int:
        """Read the status word of a slot."""
        return int(struct.unpack_from("=I", self.memory, self.slot(frame))[0])

    def mark(self, frame: int) -> None:
        """Do what a forwarder does first once a frame has met its fate."""
        self.memory[self.slot(frame) + TP_PADDING] = 1

    def give_back(self, frame: int) -> None:
        """Do what a forwarder does last."""
        struct.pack_into("=I", self.memory, self.slot(frame), 0)

    def filled(self) -> int:
        """Count the slots that wait for a forwarder."""
        return sum(bool(self.status(frame) & TP_STATUS_USER) for frame in range(self.geometry.frame_count))

    def close(self) -> None:
        """Close the ring and remove the namespace."""
        self.memory.close()
        self.ring.close()
        subprocess.run(["ip", "netns", "del", self.namespace], check=False, capture_output=True)


@contextlib.contextmanager
def inside_named(namespace: str) -> Iterator[None]:
    """Act in a named namespace."""
    fd = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        with inside(fd):
            yield
    finally:
        os.close(fd)


class Bare:
    """The router and its two hosts."""

    def __init__(self, mtu: int = 1500, geometry: Any = SMALL, side: type[Side] = Side) -> None:
        self.prefix = f"d{os.getpid()}x{next(_serial)}"
        self.namespace = f"{self.prefix}router"
        self.child = 0
        ip("netns", "add", self.namespace)
        self.tables = segment.create(segment.KIND_TABLES, 64 << 20, 1, "bare")
        self.state = segment.create(segment.KIND_STATE, segment.STATE_SIZE, 1, "bare")
        self.reader = segment.Segment(self.state, segment.KIND_STATE)
        self.left = side(self, 1, "left", mtu, geometry)
        self.right = side(self, 2, "right", mtu, geometry)
        self._publish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for side in (self.left, self.right):
            side.close()
        subprocess.run(["ip", "netns", "del", self.namespace], check=False, capture_output=True)
        self.reader.close()
        os.close(self.tables)
        os.close(self.state)

    def _publish(self) -> None:
        out = ffi.new("struct table_writer **")
        check(lib.table_writer_open(self.tables, self.state, out))
        interfaces = ffi.new("struct interface_entry[2]")
        addresses = ffi.new("struct address_entry[2]")
        changes = ffi.new("struct route_change[4]")
        for i, side in enumerate((self.left, self.right)):
            interfaces[i].index = interfaces[i].port = side.number
            interfaces[i].kind = CONSTANTS["INTERFACE_ETHERNET"]
            interfaces[i].flags = CONSTANTS["INTERFACE_ADMIN_UP"]
            interfaces[i].mtu = side.mtu
            ffi.buffer(interfaces[i].mac)[:] = side.router_mac
            interfaces[i].name = side.name.encode()
            addresses[i].family, addresses[i].length, addresses[i].interface = 4, 24, side.number
            addresses[i].flags = CONSTANTS["ADDRESS_NO_DAD"]
            ffi.buffer(addresses[i].address)[0:4] = socket.inet_aton(side.address)
            for k, (kind, address, length) in enumerate(
                (("NEXTHOP_CONNECTED", f"10.0.{side.number}.0", 24), ("NEXTHOP_LOCAL", side.address, 32))
            ):
                hop = ffi.new("struct nexthop *")
                hop.kind, hop.family, hop.interface, hop.weight = CONSTANTS[kind], 4, side.number, 1
                change = changes[2 * i + k]
                change.group = check(lib.table_writer_group(out[0], hop, 1))
                change.family, change.length, change.protocol = 4, length, CONSTANTS["ROUTE_CONNECTED"]
                ffi.buffer(change.address)[0:4] = socket.inet_aton(address)
        check(lib.table_writer_publish(out[0], interfaces, 2, addresses, 2, ffi.NULL, 0))
        check(lib.table_writer_apply(out[0], changes, 4))
        lib.table_writer_close(out[0])

    def attach(self, generation: int = 1) -> Any:
        """Create a core over the segments and the held rings, in this process."""
        tables = segment.reopen_read_only(self.tables)
        out = ffi.new("struct core **")
        try:
            check(lib.core_create(tables, self.state, out))
        finally:
            os.close(tables)
        for side in (self.left, self.right):
            fds = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0) for fd in side.fds]
            check(lib.core_port_add(out[0], side.spec(generation), fds, len(fds)))
        return out[0]

    def start(self, before: Callable[[], None] = lambda: None) -> None:
        """Fork a forwarder over the held rings; return when it serves."""
        assert self.child == 0
        attaches = self.reader.integer("attaches")
        self.child = os.fork()
        if self.child == 0:
            try:
                before()
                core = self.attach()
                lib.core_run(core)
            finally:
                os._exit(1)
        deadline = time.monotonic() + PATIENCE
        while self.reader.integer("attaches") == attaches or not self.reader.view("workers").integer("batches"):
            assert time.monotonic() < deadline, "the forwarder did not come up"
            time.sleep(0.001)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End the forwarder without a warning."""
        if self.child:
            os.kill(self.child, number)
            os.waitpid(self.child, 0)
            self.child = 0

    def set_progress(self, side: Side, value: int, generation: int = 1) -> None:
        """Write the state that a dead forwarder left."""
        base = FIELDS["state_segment"]["ports"][0] + side.number * SIZES["port_state"]
        for field, number in (("progress", value), ("generation", generation)):
            os.pwrite(self.state, struct.pack("<Q", number), base + FIELDS["port_state"][field][0])

    def counters(self, side: Side) -> Any:
        """Look at the counters of a side's interface."""
        return self.reader.copied("counters", side.number)

    def check_laws(self) -> None:
        """Both counter laws hold exactly, once nothing moves: the last frame may have arrived before it was counted."""
        seen: list[Any] = []
        deadline = time.monotonic() + PATIENCE
        while broken := self._broken() or (len(seen) < 4 or any(earlier != seen[-1] for earlier in seen[-4:])):
            assert time.monotonic() < deadline, broken
            time.sleep(0.005)
            seen.append([stats.interface_counters(self.reader, side.number) for side in (self.left, self.right)])

    def _broken(self) -> tuple[Any, ...]:
        """Give what breaks a law now: nothing where both hold."""
        for side in (self.left, self.right):
            c = self.counters(side)
            n = c.integer
            fates = n("forwarded_packets") + n("punt_packets") + sum(c.integers("drops")) + n("held_packets")
            sources = n("forwarded_out_packets") + n("originated_packets") + n("fragments_created")
            if (n("rx_packets"), n("tx_packets")) != (fates, sources):
                return side.name, n("rx_packets"), fates, n("tx_packets"), sources
        return ()

    # --- traffic from left to right, numbered ---

    def sender(self) -> socket.socket:
        """Open a packet socket on the left host."""
        with inside_named(self.left.namespace):
            opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            opened.bind(("eth0", 0))
        return opened

    def receiver(self) -> socket.socket:
        """Open a UDP socket on the right host."""
        with inside_named(self.right.namespace):
            opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        opened.setsockopt(socket.SOL_SOCKET, rings.SO_RCVBUFFORCE, 64 << 20)
        opened.bind((self.right.host, PORT))
        return opened

    def frame(self, number: int, length: int = 60, source: int = 4000) -> bytes:
        """Build a UDP frame that carries a number."""
        payload = struct.pack("!Q", number).ljust(length - 42, b"\xa5")
        udp = struct.pack("!HHHH", source, PORT, 8 + len(payload), 0) + payload
        head = struct.pack(
            "!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), number & 0xFFFF, 0, 64, 17, 0,
            socket.inet_aton(self.left.host), socket.inet_aton(self.right.host),
        )  # fmt: skip
        total = sum(struct.unpack("!10H", head))
        total = (total & 0xFFFF) + (total >> 16)
        total = (total & 0xFFFF) + (total >> 16)
        head = head[:10] + struct.pack("!H", ~total & 0xFFFF) + head[12:]
        return self.left.router_mac + self.left.host_mac + b"\x08\x00" + head + udp

    def warm(self) -> None:
        """Resolve the right host, so that what follows is forwarded and not held."""
        with self.sender() as sender, self.receiver() as receiver:
            sender.send(self.frame(0))
            receiver.settimeout(PATIENCE)
            receiver.recv(9000)


def wait_filled(side: Any, count: int) -> None:
    """Return when so many frames wait for a forwarder."""
    deadline = time.monotonic() + PATIENCE
    while side.filled() < count:
        assert time.monotonic() < deadline, f"{side.filled()} of {count} frames came"
        time.sleep(0.001)


def send_paced(lab: Bare, sender: socket.socket, frames: Sequence[bytes], most: int = 20) -> None:
    """Send frames through a forwarder that lives, never more at once than its ring has room for."""
    deadline = time.monotonic() + PATIENCE
    for place, frame in enumerate(frames, 1):
        sender.send(frame)
        while place % most == 0 and lab.left.filled():
            assert time.monotonic() < deadline, "the ring is not emptied"
            time.sleep(0.0005)


def send_backlog(lab: Bare, sender: socket.socket, frames: range) -> None:
    """Send frames of these numbers while no forwarder lives; return when all of them wait for one."""
    for number in frames:
        sender.send(lab.frame(number))
    wait_filled(lab.left, len(frames))


@contextlib.contextmanager
def without_forwarder(lab: Bare) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Kill a forwarder that knows its neighbors; give a sender and a receiver: what is sent waits for the next one."""
    lab.start()
    lab.warm()
    lab.kill()
    with lab.sender() as sender, lab.receiver() as receiver:
        yield sender, receiver


def numbers(receiver: socket.socket, awaited: int = 0, quiet: float = 0.3, most: int = 1 << 30) -> list[int]:
    """Read the numbers that arrived, until none has come for a while, or `most` have.

    So many are `awaited`, however slow the machine.
    """
    found: list[int] = []
    while len(found) < most and select.select([receiver], [], [], quiet if len(found) >= awaited else PATIENCE)[0]:
        found.append(struct.unpack_from("!Q", receiver.recv(66000))[0])
    return found


class Offered(threading.Thread):
    """Sends numbered frames at a rate until told to stop."""

    def __init__(self, lab: Bare, sender: socket.socket, rate: int) -> None:
        super().__init__(daemon=True)
        self._lab, self._sender, self._rate = lab, sender, rate
        self._ended = threading.Event()
        self.sent = 0

    def run(self) -> None:
        """Send what is due; a frame that the veth refuses, as its queue is full, is sent later."""
        start = time.monotonic()
        while not self._ended.is_set():
            due = min(int((time.monotonic() - start) * self._rate), self.sent + 100)
            with contextlib.suppress(OSError):
                while self.sent < due:
                    self._sender.send(self._lab.frame(self.sent + 1))
                    self.sent += 1
            time.sleep(0.0005)

    def stop(self) -> None:
        """End it."""
        self._ended.set()
        self.join()


def kill_under_load(lab: Bare, *, kills: int, rate: int) -> None:
    """Kill the forwarder again and again while frames come: none is lost, and a batch a time is repeated at most."""
    lab.start()
    lab.warm()
    with lab.sender() as sender, lab.receiver() as receiver:
        offered = Offered(lab, sender, rate)
        offered.start()
        outages = []
        try:
            for _ in range(kills):
                time.sleep(random.uniform(0.02, 0.08))
                began = time.monotonic()
                lab.kill()
                lab.start()
                outages.append(time.monotonic() - began)
        finally:
            offered.stop()
        arrived = numbers(receiver)
    missing = set(range(1, offered.sent + 1)) - set(arrived)
    repeated = len(arrived) - len(set(arrived))
    print(
        f"\n{kills} kills, {offered.sent} frames at {rate}/s: {len(missing)} lost, {repeated} repeated, "
        f"outage {sum(outages) / kills * 1000:.1f} ms mean, {max(outages) * 1000:.1f} ms worst"
    )
    assert offered.sent > kills * rate * 0.02
    assert not missing
    assert repeated <= kills * CONSTANTS["BATCH_SIZE"]
    lab.check_laws()
