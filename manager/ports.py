"""The couplings of a VR as the manager holds them: what it would tell a forwarder, and the fds.

    WholeDevice   a device in the VR's namespace, its packet ring
    SharedVlan    one VLAN of a NIC that others use too: a veth, its packet ring
    PatchEnd      one end of a shared-memory link between two VRs

A port looks at the kernel whenever refresh() is called and brings itself in line: a deleted device
makes it absent, one of the same name that comes (again) is coupled.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from fastpath import segment
from fastpath._layout import CONSTANTS, FIELDS, SIZES
from manager import drivers, links, namespaces, resolve, rings
from manager.journal import Entry, Journal
from manager.links import GoneError, RefusedError
from manager.netlink import Link, Netlink
from manager.resolve import PortPlan
from manager.volley import Volley

NO_MAC: Final = "00:00:00:00:00:00"
DEFAULT_MTU: Final = 1500
MAX_PORTS: Final = CONSTANTS["MAX_PORTS"]
_SPEC: Final = FIELDS["port_spec"]

log = structlog.get_logger()


@dataclass(frozen=True)
class Place:
    """Where the ports of one VR live."""

    router: str
    netns: str
    netns_fd: int
    run_dir: Path
    journal: Journal
    geometry: rings.Geometry


@dataclass(frozen=True)
class View:
    """What others see of a port; a change of it is an event."""

    present: bool
    generation: int
    link_up: bool
    mtu: int
    mac: str


def pack_spec(values: dict[str, int], mac: str) -> bytes:
    """Encode struct port_spec."""
    spec = bytearray(SIZES["port_spec"])
    for name, value in values.items():
        offset, code, _count, _nested = _SPEC[name]
        struct.pack_into(f"={code}", spec, offset, value)
    offset = _SPEC["mac"][0]
    spec[offset : offset + 6] = bytes.fromhex(mac.replace(":", ""))
    return bytes(spec)


def unpack_spec(spec: bytes) -> dict[str, int]:
    """Decode the numbers of struct port_spec."""
    if len(spec) < SIZES["port_spec"]:
        raise ValueError("a port's spec is cut short")
    fields = ((name, offset, code) for name, (offset, code, count, _nested) in _SPEC.items() if count == 1)
    return {name: struct.unpack_from(f"={code}", spec, offset)[0] for name, offset, code in fields}


class Port(ABC):
    """One coupling."""

    driver = ""
    queues = False  # frames wait where `waiting` sees them

    def __init__(self, plan: PortPlan, port_id: int, place: Place) -> None:
        self.plan = plan
        self.id = port_id
        self.place = place
        self.present = False
        self.link_up = False
        self.mtu = plan.mtu or DEFAULT_MTU
        self.mac = plan.mac or NO_MAC
        self.generation = 0
        self.workers = 1  # that share its frames, where its driver can
        self.problem = "not coupled yet"
        self.why = ""  # this driver; nothing where the operator has chosen it

    @property
    def view(self) -> View:
        """Give what others see."""
        return View(self.present, self.generation, self.link_up, self.mtu, self.mac)

    @property
    def facts(self) -> resolve.PortFacts:
        """Give what a RouterConfig needs."""
        return resolve.PortFacts(self.id, self.mac, self.mtu)

    @property
    def queue_count(self) -> int:
        """Tell how many receive queues of a device are read, each by a socket of its own; 0: the kernel joins them."""
        return 0

    @property
    @abstractmethod
    def fds(self) -> list[int]:
        """Give what goes with the spec; they stay ours."""

    @abstractmethod
    def spec(self) -> bytes:
        """Give struct port_spec; while present."""

    def parts(self) -> list[tuple[bytes, list[int]]]:
        """Give spec and fds of what each worker serves, of worker 0 first; while present."""
        return [(self.spec(), self.fds)]

    def send_singly(self) -> bool:
        """Let go of what sends batches, which a forwarder of before does not take; tell whether there was any."""
        return False

    def adopt_part(self, spec: bytes, fds: list[int]) -> None:
        """Take over what another worker than 0 has held, after `adopt`; the fds become ours."""
        del spec
        for fd in fds:
            os.close(fd)

    def waits(self, progress: Callable[[int], int]) -> list[tuple[int, int]]:
        """Tell which workers have not seen to frames that wait: (worker, its progress), of `progress` by worker."""
        return [(0, progress(0))] if self.waiting(progress(0)) else []

    @abstractmethod
    def refresh(self) -> None:
        """Look at the kernel and bring this port in line."""

    def settled(self) -> bool:
        """Tell, cheaply, that nothing is to do that a message of the kernel would not tell of."""
        return False

    @abstractmethod
    def renew(self) -> None:
        """Start over with fresh queues: the VR's state is fresh too."""

    @abstractmethod
    def adopt(self, spec: bytes, fds: list[int]) -> None:
        """Take over what a forwarder has held; the fds become ours."""

    @abstractmethod
    def release(self) -> None:
        """Give everything back."""

    def waiting(self, progress: int) -> bool:
        """Tell whether a frame waits that the forwarder should have seen."""
        del progress
        return False

    def watched(self) -> list[int]:
        """Give the packet sockets, which are readable while a frame waits in their rings.

        None, and it has queues all the same: `waits` is asked each time.
        """
        return []


class RingPort(Port):
    """A port with a packet ring on a device in the VR's namespace."""

    queues = True
    sockets = -1  # fd of the map of AF_XDP sockets, where a program hands frames to them
    filtered = False  # a filter of ours chooses what the rings take

    def __init__(self, plan: PortPlan, port_id: int, place: Place, *, forced: bool) -> None:
        super().__init__(plan, port_id, place)
        self._forced = forced
        self._refused = False
        self._ring: socket.socket | None = None
        self._ring_view: rings.RingView | None = None
        self._more: list[tuple[socket.socket, rings.RingView]] = []  # of workers 1, 2 ...
        self._volleys: list[Volley] = []  # of all workers
        self._geometry = place.geometry
        self._ifindex = 0
        self._path = namespaces.path_of(plan.netns)
        self._entry: Entry | None = next((e for e in place.journal.entries() if e.key == self.journal_key), None)

    @property
    def driver(self) -> str:  # type: ignore[override]
        """Tell the ring's version."""
        return "af-packet-v3" if self._bulk else "af-packet"

    @property
    def _bulk(self) -> bool:
        return self.plan.driver == "af-packet-v3"

    @property
    def journal_key(self) -> str:
        """Name this coupling in the journal."""
        return f"{self.place.router}:{self.plan.key}"

    @property
    def ifindex(self) -> int:
        """Give the number of the device in the VR's namespace; while present."""
        return self._ifindex

    def attach_program(self) -> None:
        """Put the driver's own XDP program on the device, where it has one."""

    def choose_frames(self, program: int | None) -> None:
        """Let a socket filter, by its fd, choose which frames the rings take; None: they take all."""
        for ring in (self._ring, *(ring for ring, _view in self._more)):
            if ring is not None:
                rings.set_filter(ring, program)
        self.filtered = program is not None

    @property
    def fds(self) -> list[int]:
        """Give the packet socket, and what sends batches."""
        return [self._ring.fileno(), *self._volleys[0].fds] if self._ring else []

    def spec(self) -> bytes:
        """Describe the ring."""
        geometry = self._geometry
        return pack_spec(
            {
                "port": self.id, "driver": CONSTANTS["DRIVER_AF_PACKET_V3" if self._bulk else "DRIVER_AF_PACKET"],
                "ifindex": self._ifindex, "mtu": self.mtu, "link_up": int(self.link_up),
                "block_size": geometry.block_size, "block_count": geometry.block_count,
                "frame_size": geometry.frame_size, "frame_count": geometry.frame_count, "generation": self.generation,
            },
            self.mac,
        )  # fmt: skip

    def parts(self) -> list[tuple[bytes, list[int]]]:
        """Describe the ring of each worker."""
        found = [(self.spec(), self.fds)]
        for queue, (ring, _view) in enumerate(self._more, 1):
            values = unpack_spec(self.spec()) | {"queue": queue}
            found.append((pack_spec(values, self.mac), [ring.fileno(), *self._volleys[queue].fds]))
        return found

    def send_singly(self) -> bool:
        """Keep the sockets alone."""
        had = any(volley.fds for volley in self._volleys)
        for volley in self._volleys:
            volley.close()
        return had

    def adopt_part(self, spec: bytes, fds: list[int]) -> None:
        """Go on with another worker's ring."""
        if unpack_spec(spec)["queue"] != len(self._more) + 1:
            super().adopt_part(spec, fds)
            return
        ring = socket.socket(fileno=fds[0])
        ring.setblocking(False)
        self._more.append((ring, rings.RingView(ring, self._geometry)))
        self._volleys.append(Volley(fds[1:]))

    def waiting(self, progress: int) -> bool:
        """Look at the frame that is next."""
        return self._ring_view is not None and self._ring_view.waiting(progress)

    def waits(self, progress: Callable[[int], int]) -> list[tuple[int, int]]:
        """Look at the next frame of each worker's ring."""
        found = super().waits(progress)
        for queue, (_ring, view) in enumerate(self._more, 1):
            if view.waiting(at := progress(queue)):
                found.append((queue, at))
        return found

    def refresh(self) -> None:
        """Follow the device."""
        if self.present:
            link = self._look()
            if link is None:
                log.info("device gone", router=self.place.router, device=self.plan.device)
                self._lose()
            else:
                self.link_up, self.mtu = link.running and self._lower_up(), link.mtu
                self._explain(link)
        if not self.present and not self._refused:
            self._try()

    def watched(self) -> list[int]:
        """Give the sockets of all workers."""
        return [ring.fileno() for ring in (self._ring, *(ring for ring, _view in self._more)) if ring is not None]

    def settled(self) -> bool:
        """See whether the ring has its device."""
        return self.present and self._bound()

    def renew(self) -> None:
        """Open another ring on the same device; where that fails, refresh() couples it anew."""
        if not self.present:
            return
        self._close_ring()
        try:
            with Netlink(self.place.netns_fd) as netlink:
                link = netlink.link_at(self._ifindex)
            if link is None:
                raise GoneError(f"no device {self.plan.device}")
            self._open_ring(link.name, link.index)
        except (GoneError, RefusedError, OSError) as error:
            self._close_ring()
            self.present, self.problem = False, f"{self.plan.device}: {error}"

    def adopt(self, spec: bytes, fds: list[int]) -> None:
        """Go on with a forwarder's ring."""
        values = unpack_spec(spec)
        version = rings.TPACKET_V3 if self._bulk else rings.TPACKET_V2
        geometry = rings.Geometry(values["block_size"], values["frame_size"], values["frame_count"], version)
        geometry.check()
        ring = socket.socket(fileno=fds[0])
        self._volleys = [Volley(fds[1:])]
        ring.setblocking(False)
        self._geometry, self._ring, self._ifindex = geometry, ring, values["ifindex"]
        self._ring_view = rings.RingView(ring, geometry)
        self.generation = values["generation"]
        offset = _SPEC["mac"][0]
        self.mac, self.mtu = spec[offset : offset + 6].hex(":"), values["mtu"]
        self.link_up, self.present, self.problem = bool(values["link_up"]), True, ""

    def release(self) -> None:
        """Close the ring and give the device back."""
        self._close_ring()
        self.present = False
        if self._entry is not None:
            entry, self._entry = self._entry, None
            for problem in links.give_back(self.place.journal, entry):
                log.warning("not as before", router=self.place.router, problem=problem)

    def _couple(self) -> Link:
        """Bring the device into the VR's namespace; give it as it is there."""
        raise NotImplementedError

    def _lower_up(self) -> bool:
        """Tell whether what lies below a device can carry frames too."""
        return True

    def _bound(self) -> bool:
        """Tell whether the ring still has its device."""
        return self._ring is not None and rings.is_bound(self._ring)

    def _look(self) -> Link | None:
        if not self._bound():
            return None
        with Netlink(self.place.netns_fd) as netlink:
            return netlink.link_at(self._ifindex)

    def _try(self) -> None:
        before = self.problem
        try:
            # A device that went without being given back leaves nothing to undo.
            if self._entry is not None:
                self.release()
            if not self._forced and self.plan.vlan == 0:
                links.refuse(self._path, self.plan.device)
            link = self._couple()
            self._open_ring(link.name, link.index)
            self.mac, self.mtu = link.mac, link.mtu
            self.link_up, self.present, self.problem = link.running and self._lower_up(), True, ""
            self._explain(link)
        except GoneError as error:
            self.problem = str(error)
        except RefusedError as error:
            self._refused = True
            self.problem = f"refused: {error}"
            self.release()
        except OSError as error:
            self.problem = f"{self.plan.device}: {error.strerror or error}"
            self.release()
        if self.problem != before:
            level = log.info if self.present else log.warning
            more = {"reason": self.problem} if self.problem else {"driver": self.driver}
            more |= {"why": self.why} if self.why and self.present else {}
            level(
                "coupled" if self.present else "not coupled", router=self.place.router, device=self.plan.device, **more
            )

    def _explain(self, link: Link) -> None:
        """Say once why `auto` means this driver here."""
        if self.plan.driver == "auto" and not self.why:
            self.why = drivers.why_af_packet(self.plan, link, self.place.netns_fd, self.workers)

    def _open_ring(self, device: str, ifindex: int) -> None:
        promiscuous = self.plan.mac is not None or self.plan.tagged
        self._geometry = rings.BULK if self._bulk else self.place.geometry

        def open_ring() -> tuple[socket.socket, rings.RingView]:
            ring = rings.open_ring(self.place.netns_fd, device, ifindex, self._geometry, promiscuous=promiscuous)
            return ring, rings.RingView(ring, self._geometry)

        self._ring, self._ring_view = open_ring()
        for _worker in range(1, self.workers):
            self._more.append(open_ring())
        if self._more:
            rings.spread([self._ring, *(ring for ring, _view in self._more)])
        self._volleys = [Volley.loaded() for _worker in range(self.workers)]
        self._ifindex = ifindex
        self.generation = time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def _close_ring(self) -> None:
        self.filtered = False
        if self._ring_view is not None:
            self._ring_view.close()
            self._ring_view = None
        if self._ring is not None:
            self._ring.close()
            self._ring = None
        for ring, view in self._more:
            view.close()
            ring.close()
        self._more.clear()
        for volley in self._volleys:
            volley.close()
        self._volleys.clear()

    def _lose(self) -> None:
        self._close_ring()
        self.present, self.link_up, self.problem = False, False, f"no device {self.plan.device}"
        if self._entry is not None:
            self.place.journal.remove(self._entry.key)
            self._entry = None


class WholeDevice(RingPort):
    """A device that is the VR's alone."""

    def _couple(self) -> Link:
        place = self.place
        self._entry, link = links.take(
            place.journal, self.journal_key, place.router, self._path, self.plan.device, place.netns
        )
        return links.prepare(place.netns_fd, link.index, mac=self.plan.mac, mtu=self.plan.mtu, gro=self.plan.gro)


class SharedVlan(RingPort):
    """One VLAN of a NIC, behind a veth."""

    def _couple(self) -> Link:
        place, plan = self.place, self.plan
        inner = f"v{plan.vlan}-{plan.device}"[:15]
        veth = links.veth_name(place.run_dir, place.router, plan.device, plan.vlan)
        self._entry, link = links.share(
            place.journal, self.journal_key, place.router, self._path, plan.device, plan.vlan, veth, place.netns,
            inner, plan.mac,
        )  # fmt: skip
        return links.prepare(place.netns_fd, link.index, mac=None, mtu=plan.mtu, gro=plan.gro)

    def _look(self) -> Link | None:
        link = super()._look()
        if link is not None and self._entry is not None:
            nic = links.find(self._path, self.plan.device)
            if nic is None or nic.index != self._entry.ifindex:
                links.give_back(self.place.journal, self._entry)
                return None
        return link

    def _lower_up(self) -> bool:
        nic = links.find(self._path, self.plan.device)
        return nic is not None and nic.running


class Patch:
    """A link between two VRs: a segment and an event for each end."""

    def __init__(self, ends: tuple[str, str]) -> None:
        self.ends = ends
        self.generation = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self.segments = {end: segment.create(segment.KIND_LINK, segment.LINK_SIZE, 0, "link") for end in ends}
        self.events = {end: os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for end in ends}

    @classmethod
    def adopted(cls, own: str, peer: str, fds: list[int], generation: int) -> Patch:
        """Make the link again from what one end's forwarder has held; the fds stay the caller's."""
        first, second = sorted((own, peer))
        patch = cls.__new__(cls)
        patch.ends, patch.generation = (first, second), generation
        # The peer's segment came for reading; we made it, and may open it for writing.
        patch.segments = {own: os.dup(fds[0]), peer: os.open(f"/proc/self/fd/{fds[1]}", os.O_RDWR | os.O_CLOEXEC)}
        patch.events = {own: os.dup(fds[2]), peer: os.dup(fds[3])}
        return patch

    def other(self, end: str) -> str:
        """Give the far end."""
        return self.ends[1] if end == self.ends[0] else self.ends[0]

    def close(self) -> None:
        """Close our fds; the VRs' stay theirs."""
        for fd in (*self.segments.values(), *self.events.values()):
            os.close(fd)


class PatchEnd(Port):
    """One end of a patch link.  The link is up while both VRs run."""

    driver = "link"

    def __init__(self, plan: PortPlan, port_id: int, place: Place, patch: Callable[[], Patch],
                 peer_runs: Callable[[], bool]) -> None:  # fmt: skip
        super().__init__(plan, port_id, place)
        self.mac = plan.mac or resolve.patch_mac(plan.own)
        self.mtu = plan.mtu or resolve.LINK_MTU
        self._find_patch = patch
        self._peer_runs = peer_runs
        self._fds: list[int] = []

    @property
    def fds(self) -> list[int]:
        """Give own segment, peer's segment, own event, peer's event."""
        return self._fds

    def spec(self) -> bytes:
        """Describe the link."""
        return pack_spec(
            {
                "port": self.id, "driver": CONSTANTS["DRIVER_LINK"], "mtu": self.mtu, "link_up": int(self.link_up),
                "generation": self.generation,
            },
            self.mac,
        )  # fmt: skip

    def refresh(self) -> None:
        """Join the link, and see whether the other VR runs."""
        patch = self._find_patch()
        if self.generation != patch.generation:
            self._close()
            other = patch.other(self.plan.own)
            self._fds = [
                os.dup(patch.segments[self.plan.own]),
                segment.reopen_read_only(patch.segments[other]),
                os.dup(patch.events[self.plan.own]),
                os.dup(patch.events[other]),
            ]
            self.generation, self.present, self.problem = patch.generation, True, ""
        self.link_up = self._peer_runs()

    def settled(self) -> bool:
        """See whether the link is the one that there is, and its other end as it was."""
        joined = self.present and self.generation == self._find_patch().generation
        return joined and self.link_up == self._peer_runs()

    def renew(self) -> None:
        """Nothing: the indices of the link live in its own segments, and the peer goes on."""

    def adopt(self, spec: bytes, fds: list[int]) -> None:
        """Go on with a forwarder's end."""
        values = unpack_spec(spec)
        self._fds, self.generation = fds, values["generation"]
        self.link_up, self.present, self.problem = bool(values["link_up"]), True, ""

    def release(self) -> None:
        """Close our fds of this end."""
        self._close()
        self.present = False

    def _close(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds = []
