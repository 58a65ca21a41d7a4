"""The XDP offload of one VR: its maps, its programs on devices, and why a port is not offloaded.

    interfaces with `offload: xdp` --> maps (abi/bypass.h) --> control copies the routes into one of them,
                                                               the forwarder its neighbors into the other
                                   --> both are ready: a program on each of the devices, in place of what was there

The manager makes and couples; it stores nothing into the maps but which devices take redirected frames.  When control
has outgrown its map it says so there, and gets a larger one, with programs that know it.  A successor of any process
is told of the maps anew; one of the manager finds them with the forwarder.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

import structlog

from fastpath._layout import CONSTANTS, FIELDS, SIZES
from manager import bpf_objects, ethtool, xdp, xdp_features
from manager.kernel import inside
from manager.netlink import Netlink
from manager.ports import Port, RingPort
from manager.reactor import Reactor, Timer

PROGRAM: Final = "offload"
INTERVAL: Final = 0.25  # between two looks, until all is as it shall be
SETTLED: Final = 1.0  # and from then on
SMALLEST: Final = 1 << 20  # bytes of the routes' map
LARGEST: Final = 1 << 28
_PAGE: Final = mmap.PAGESIZE
_READY: Final = FIELDS["bypass_fib"]["ready"][0]
_WANTED: Final = FIELDS["bypass_fib"]["wanted"][0]
_LINKS_READY: Final = FIELDS["bypass_links"]["ready"][0]
_PORTS: Final = FIELDS["bypass_links"]["ports"][0]
_PORT_STATE: Final = FIELDS["bypass_port"]["state"][0]
_REASONS: Final = {
    CONSTANTS["BYPASS_OFF"]: "no untagged interface",
    CONSTANTS["BYPASS_FEATURES"]: "filters, policers or counters are on",
    CONSTANTS["BYPASS_VLANS"]: "the device carries VLANs",
    CONSTANTS["BYPASS_OBSERVED"]: "traces or captures run",
    CONSTANTS["BYPASS_DOWN"]: "down",
    CONSTANTS["BYPASS_NO_ROUTES"]: "routes are being copied",
}
_MESSAGE: Final = struct.Struct("<QQII")  # rsock_offload

log = structlog.get_logger()


def processors() -> int:
    """Give how many processors this machine can have: a program may run on each."""
    text = Path("/sys/devices/system/cpu/possible").read_text()
    return int(text.strip().replace(",", "-").rpartition("-")[2]) + 1


def _links_bytes(count: int) -> int:
    return SIZES["bypass_links"] + count * SIZES["bypass_processor"]


def _check_map(name: str, fd: int, size: int) -> None:
    """Refuse what is no map of this kind and size."""
    wanted = replace(bpf_objects.map_kind(PROGRAM, name), value=size)
    if bpf_objects.kind_of(fd) != wanted:
        raise ValueError(f"its map of {name} is another thing")


@dataclass(frozen=True)
class Map:
    """A map of one value, mapped to look into."""

    fd: int
    size: int
    memory: mmap.mmap

    @classmethod
    def of(cls, fd: int, size: int) -> Map:
        """Map it; the fd becomes ours."""
        try:
            return cls(fd, size, mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ))
        except OSError:
            os.close(fd)
            raise

    @classmethod
    def make(cls, name: str, size: int) -> Map:
        """Make it; the size is rounded up to whole pages."""
        whole = -(-size // _PAGE) * _PAGE
        return cls.of(bpf_objects.create_map(replace(bpf_objects.map_kind(PROGRAM, name), value=whole), name), whole)

    def word(self, offset: int) -> int:
        """Read a word."""
        return int(struct.unpack_from("=Q", self.memory, offset)[0])

    def close(self) -> None:
        """Unmap and close."""
        self.memory.close()
        os.close(self.fd)


@dataclass
class _Maps:
    """All maps of a VR."""

    links: Map
    fib: Map
    devices: int
    no_sockets: int  # of ports without AF_XDP sockets

    def message(self) -> bytes:
        """Describe them to a forwarder."""
        return _MESSAGE.pack(self.links.size, self.fib.size, processors(), 0)

    def close(self) -> None:
        """Close all."""
        self.links.close()
        self.fib.close()
        os.close(self.devices)
        os.close(self.no_sockets)


class Router(Protocol):
    """What a VR is asked for."""

    def offload_ports(self) -> tuple[list[RingPort], frozenset[str]]:
        """Give the ports on devices, and the keys of those that shall be offloaded."""

    def offload_changed(self) -> None:
        """Hear that describe() says something else."""

    def offload_tell_forwarder(self, body: bytes, fds: list[int]) -> bool:
        """Send OFFLOAD; False: it is not there."""

    def offload_tell_control(self, fd: int | None, size: int, answered: Callable[[str | None], None]) -> bool:
        """Send OFFLOAD; False: it is not there."""


class Offload:
    """What is offloaded of one VR."""

    def __init__(self, name: str, reactor: Reactor, router: Router) -> None:
        self._log = log.bind(router=name)
        self._reactor = reactor
        self._router = router
        self._maps: _Maps | None = None
        self._attached: dict[int, tuple[int, int]] = {}  # by port: generation of its coupling, `_serial`
        self._serial = 0  # of the routes' map
        self._described: dict[int, str] = {}
        self._told_forwarder = self._told_control = False
        self._timer: Timer | None = None
        self._problems: dict[int, str] = {}
        self._receivers: dict[int, tuple[int, int]] = {}  # ports whose devices take frames: ifindex, generation
        self._inherited = False  # a manager before us may have left programs on any of the devices
        self._features: xdp_features.Features | None = None

    # ---- what happens around us ----

    def forwarder_came(self) -> None:
        """There is a forwarder that knows nothing of the maps."""
        self._told_forwarder = False
        self.follow()

    def control_came(self) -> None:
        """There is a control that knows nothing of them: it copies all routes anew."""
        self._told_control = False
        self.follow()

    def adopt(self, body: bytes, fds: list[int]) -> None:
        """Go on with the maps that a forwarder holds; the fds become ours.  Control and programs are told anew.

        Raises ValueError and OSError where they are none of ours: a file could shrink under whoever maps it.
        """
        self._inherited = True
        try:
            links_bytes, fib_bytes, _processors, _reserved = _MESSAGE.unpack_from(body)
            links_fd, fib_fd = fds
            _check_map("links", links_fd, links_bytes)
            _check_map("fib", fib_fd, fib_bytes)
            if links_bytes < _links_bytes(processors()) or fib_bytes < SMALLEST:
                raise ValueError("the maps of its offload are too small")
        except (OSError, ValueError, struct.error):
            for fd in fds:
                os.close(fd)
            raise
        links = Map.of(links_fd, links_bytes)
        try:
            fib = Map.of(fib_fd, fib_bytes)
        except OSError:
            links.close()
            raise
        self._maps = _Maps(links, fib, *self._tables())
        self._told_forwarder = True

    def follow(self) -> None:
        """Bring everything in line; called whenever something has changed, and now and then."""
        ports, wanted = self._router.offload_ports()
        chosen = [port for port in ports if port.plan.key in wanted]
        if not chosen and self._maps is None:
            return
        try:
            if chosen:
                self._serve(ports, chosen)
            else:
                self.stop()
        except (OSError, bpf_objects.NotBuiltError) as error:
            text = str(error.strerror or error) if isinstance(error, OSError) else str(error)
            self._refuse(chosen, text)
        described = {port.id: self.describe(port) for port in chosen}
        if described != self._described:
            self._described = described
            self._router.offload_changed()
        if chosen:
            self._arm()

    def stop(self) -> None:
        """End it: the devices get back what they had, and both processes forget the maps."""
        ports, _wanted = self._router.offload_ports()
        for port in ports:
            if self._inherited or port.id in self._attached:
                self._detach(port)
        self._inherited = False
        if self._maps is not None:
            self._router.offload_tell_forwarder(_MESSAGE.pack(0, 0, 0, 0), [])
            self._router.offload_tell_control(None, 0, lambda _error: None)
        self.close()

    def close(self) -> None:
        """Forget all, as the VR ends."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._maps is not None:
            self._maps.close()
            self._maps = None
        if self._features is not None:
            self._features.close()
            self._features = None
        self._attached.clear()
        self._receivers.clear()
        self._problems.clear()
        self._told_forwarder = self._told_control = False

    def describe(self, port: Port | None) -> str:
        """Give `on`, or why packets that come in by a port all take the way through the forwarder."""
        if not isinstance(port, RingPort):
            return "only devices that are there without us are offloaded" if port is not None else ""
        if not port.present:
            return ""
        if port.id in self._problems:
            return self._problems[port.id]
        if self._maps is None or port.id not in self._attached:
            return "not yet"
        place = _PORTS + port.id * SIZES["bypass_port"] + _PORT_STATE
        (state,) = struct.unpack_from("=I", self._maps.links.memory, place)
        return _REASONS.get(state, "on")

    # ---- doing it ----

    def _arm(self) -> None:
        def due() -> None:
            self._timer = None
            self.follow()

        if self._timer is None:
            settled = self._described.keys() <= self._attached.keys() | self._problems.keys()
            self._timer = self._reactor.after(SETTLED if settled else INTERVAL, due)

    def _tables(self) -> tuple[int, int]:
        devices = bpf_objects.create_map(bpf_objects.map_kind(PROGRAM, "devices"), "devices")
        try:
            kind = replace(bpf_objects.map_kind(PROGRAM, "sockets"), entries=1)
            return devices, bpf_objects.create_map(kind, "sockets")
        except OSError:
            os.close(devices)
            raise

    def _make(self) -> _Maps:
        count = processors()
        if count > CONSTANTS["BYPASS_CPUS"]:
            raise OSError(0, f"this machine has {count} processors, at most {CONSTANTS['BYPASS_CPUS']} are served")
        links = Map.make("links", _links_bytes(count))
        try:
            return _Maps(links, Map.make("fib", SMALLEST), *self._tables())
        except OSError:
            links.close()
            raise

    def _serve(self, ports: list[RingPort], chosen: list[RingPort]) -> None:
        if self._maps is None:
            self._maps = self._make()
        maps = self._maps
        wanted = maps.fib.word(_WANTED)
        if maps.fib.size < wanted <= LARGEST:
            self._log.info("more room for routes at the driver", bytes=wanted)
            old, maps.fib = maps.fib, Map.make("fib", wanted)
            self._serial += 1
            old.close()
            self._told_forwarder = self._told_control = False
        if not self._told_forwarder:
            self._told_forwarder = self._router.offload_tell_forwarder(maps.message(), [maps.links.fd, maps.fib.fd])
        if not self._told_control:
            self._told_control = self._router.offload_tell_control(maps.fib.fd, maps.fib.size, self._control_answered)
        self._choose_receivers(ports)
        if maps.links.word(_LINKS_READY) == 1 and maps.fib.word(_READY) == 1:
            for port in chosen:
                self._attach(port)
        keep = {port.id for port in chosen}
        for port in ports:
            if port.id not in keep and (self._inherited or port.id in self._attached):
                self._detach(port)
        self._inherited = False
        there = {port.id for port in ports}
        for known in (self._attached, self._problems):
            for gone in known.keys() - there:
                del known[gone]

    def _control_answered(self, error: str | None) -> None:
        if error is not None:
            self._log.warning("control copies no routes for the offload", reason=error)
        self.follow()

    def _choose_receivers(self, ports: list[RingPort]) -> None:
        """Frames may be redirected to devices that take them, and to no others."""
        assert self._maps is not None
        receivers = {}
        if self._features is None:
            self._features = xdp_features.Features(ports[0].place.netns_fd)
        for port in ports:
            found = self._features.of(port.ifindex)
            if found is not None and found & xdp_features.TAKES_FRAMES:
                receivers[port.id] = (port.ifindex, port.generation)
        if receivers == self._receivers:
            return
        for gone in self._receivers.keys() - receivers.keys():
            bpf_objects.delete_element(self._maps.devices, gone)
        for port in ports:
            if port.id in receivers:
                with inside(port.place.netns_fd):  # where the number of the device means it
                    bpf_objects.set_element(self._maps.devices, port.id, struct.pack("=I", port.ifindex))
        self._receivers = receivers

    def _attach(self, port: RingPort) -> None:
        assert self._maps is not None
        maps = self._maps
        mark = (port.generation, self._serial)
        if self._attached.get(port.id) == mark:
            self._problems.pop(port.id, None)
            return
        with Netlink(port.place.netns_fd) as netlink:
            link = netlink.link_at(port.ifindex)
            if link is None:
                return
            virtual = bool(link.kind)
            if not virtual and ethtool.strips_vlans(port.place.netns_fd, link.name):
                self._refuse([port], f"VLAN tags are taken off unseen: ethtool -K {link.name} rxvlan off")
                return
            sockets = port.sockets if port.sockets >= 0 else maps.no_sockets
            program = bpf_objects.load(
                PROGRAM,
                maps={"links": maps.links.fd, "fib": maps.fib.fd, "devices": maps.devices, "sockets": sockets},
                constants={
                    "port": port.id, "processors": processors(), "partial": int(virtual), "fib_size": maps.fib.size
                },
            )  # fmt: skip
            with program:
                try:
                    xdp.attach(netlink, port.ifindex, program.fd, "native")
                except OSError as error:
                    self._refuse([port], f"no XDP program in the driver: {error.strerror or error}")
                    port.attach_program()
                    return
        if port.id not in self._attached:
            self._log.info("offloaded", device=port.plan.device)
        self._attached[port.id] = mark
        self._problems.pop(port.id, None)

    def _detach(self, port: RingPort) -> None:
        known = self._attached.pop(port.id, None)
        self._problems.pop(port.id, None)
        try:
            with Netlink(port.place.netns_fd) as netlink:
                if port.sockets >= 0:
                    port.attach_program()
                else:
                    xdp.detach(netlink, port.ifindex)
        except OSError as error:  # the device has gone; the rest goes on
            self._log.warning("its program stays", device=port.plan.device, reason=error.strerror or str(error))
            return
        if known is not None:
            self._log.info("not offloaded any more", device=port.plan.device)

    def _refuse(self, ports: list[RingPort], reason: str) -> None:
        for port in ports:
            if self._problems.get(port.id) != reason:
                self._problems[port.id] = reason
                self._log.warning("not offloaded", device=port.plan.device, reason=reason)
