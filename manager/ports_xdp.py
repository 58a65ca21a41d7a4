"""A device that is a router's alone, coupled by an AF_XDP socket.

    device --XDP program--> map of sockets --> socket of queue q --> worker q modulo those that serve the device
                                 |
                                 +-- no socket: on to the kernel's stack, where nobody listens

The program runs in the driver where that can, else in front of the kernel's stack.  It, its map and the sockets go on
when the manager dies; the next one puts a program of its own in its place.  As many workers serve a device as it has
receive and transmit queues.  A device that has other queues than it had is coupled anew.  Refused: devices that
several routers share, MTUs beyond one frame.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Callable
from typing import Final

import structlog

from fastpath._layout import CONSTANTS, FIELDS
from manager import bpf_objects, ethtool, xdp, xsk
from manager.links import RefusedError
from manager.netlink import IFF_ALLMULTI, IFF_PROMISC, Link, Netlink
from manager.ports import Place, RingPort, WholeDevice, pack_spec, unpack_spec
from manager.resolve import PortPlan
from manager.volley import Volley

_MAC: Final = FIELDS["port_spec"]["mac"][0]
_MODES: Final = {"native": CONSTANTS["PORT_XDP_NATIVE"], "generic": CONSTANTS["PORT_XDP_GENERIC"]}

log = structlog.get_logger()


class XdpDevice(WholeDevice):
    """One device and its AF_XDP sockets."""

    driver = "af-xdp"

    _memory = -1  # fd of the frames
    sockets = -1  # fd of the program's map
    _outdated = False  # the device has other queues by now
    _mode = 0  # enum port_mode
    _rings = xsk.DEFAULT

    def __init__(self, plan: PortPlan, port_id: int, place: Place, *, forced: bool) -> None:
        super().__init__(plan, port_id, place, forced=forced)
        self._sockets: dict[int, socket.socket] = {}  # by queue
        self._views: dict[int, xsk.ReceiveView] = {}

    @property
    def queue_count(self) -> int:
        """Tell how many receive queues are read."""
        return self._rings.queues if self.present else 0

    @property
    def fds(self) -> list[int]:
        """Give what worker 0 serves."""
        return self._part_fds(0) if self._whole else []

    @property
    def _whole(self) -> bool:
        """Tell whether there is a socket for each queue: a forwarder may have given fewer back."""
        return len(self._sockets) == self._rings.queues

    def _part_fds(self, worker: int) -> list[int]:
        """Give a worker's first socket, the memory of the frames, its other sockets, and what sends its batches."""
        first, *others = (self._sockets[queue].fileno() for queue in self._rings.of_worker(worker))
        return [first, self._memory, *others, *self._volleys[worker].fds]

    def spec(self) -> bytes:
        """Describe the rings of worker 0."""
        return self._part_spec(0)

    def _part_spec(self, worker: int) -> bytes:
        return pack_spec(
            {
                "port": self.id, "driver": CONSTANTS["DRIVER_AF_XDP"], "ifindex": self._ifindex, "mtu": self.mtu,
                "link_up": int(self.link_up), "block_size": self._rings.words, "block_count": self._rings.transmit,
                "frame_size": xsk.FRAME, "frame_count": self._rings.receive, "generation": self.generation,
                "queue": worker, "queues": self._rings.senders, "mode": self._mode,
            },
            self.mac,
        )  # fmt: skip

    def parts(self) -> list[tuple[bytes, list[int]]]:
        """Describe the rings of each worker."""
        workers = range(self._rings.senders if self._whole else 0)
        return [(self._part_spec(worker), self._part_fds(worker)) for worker in workers]

    def waits(self, progress: Callable[[int], int]) -> list[tuple[int, int]]:
        """Look at the receive rings of each worker."""
        workers = {queue % self._rings.senders for queue, view in self._views.items() if view.waiting()}
        return [(worker, progress(worker)) for worker in sorted(workers)]

    def watched(self) -> list[int]:
        """Give nothing: `waiting` is asked."""
        return []

    def adopt(self, spec: bytes, fds: list[int]) -> None:
        """Go on with the sockets of a forwarder's worker 0, behind a program of our own."""
        values = unpack_spec(spec)
        self._memory = fds[1]
        self._rings = xsk.Geometry.described(values, os.fstat(self._memory).st_size)
        self._ifindex, self.generation, self._mode = values["ifindex"], values["generation"], values["mode"]
        self.mac, self.mtu = spec[_MAC : _MAC + 6].hex(":"), values["mtu"]
        self._adopt_sockets(0, [fds[0], *fds[2:]])
        self.link_up, self.present, self.problem = bool(values["link_up"]), True, ""

    def adopt_part(self, spec: bytes, fds: list[int]) -> None:
        """Go on with another worker's sockets."""
        if (worker := unpack_spec(spec)["queue"]) != len(self._volleys) or worker >= self._rings.senders:
            super(RingPort, self).adopt_part(spec, fds)
            return
        os.close(fds[1])  # the same memory
        self._adopt_sockets(worker, [fds[0], *fds[2:]])

    def _adopt_sockets(self, worker: int, fds: list[int]) -> None:
        queues = self._rings.of_worker(worker)
        for queue, fd in zip(queues, fds, strict=False):
            # Its family is named, since it has no getsockname to find it out by.
            made = self._sockets[queue] = socket.socket(xsk.AF_XDP, socket.SOCK_RAW, fileno=fd)
            made.setblocking(False)
        self._volleys.append(Volley(fds[len(queues) :]))
        if self._whole:
            with contextlib.suppress(OSError):  # a device that has gone meanwhile: refresh finds out
                self._look_into_rings()
                self.attach_program()

    def _look_into_rings(self) -> None:
        for queue, made in self._sockets.items():
            self._views[queue] = xsk.ReceiveView(made, self._rings)

    def _bound(self) -> bool:
        return self._whole and xsk.is_bound(self._sockets[0])

    def _look(self) -> Link | None:
        link = super()._look()
        found = self._find_rings(link.name) if link is not None else self._rings
        self._outdated = (found.queues, found.senders) != (self._rings.queues, self._rings.senders)
        return link

    def refresh(self) -> None:
        """Follow the device, and the number of its queues."""
        super().refresh()
        if self.present and self._outdated:
            log.info("other queues", router=self.place.router, device=self.plan.device)
            self._outdated = False
            self.renew()

    def _find_rings(self, device: str) -> xsk.Geometry:
        """Give what rings the device would get now."""
        receive, transmit = ethtool.queues(self.place.netns_fd, device)
        return xsk.Geometry.of_device(self.place.geometry.frame_count, receive, transmit, self.workers)

    def _open_ring(self, device: str, ifindex: int) -> None:
        if self.plan.tagged:
            raise RefusedError("af-xdp carries no VLANs")
        with Netlink(self.place.netns_fd) as netlink:
            link = netlink.link_at(ifindex)
            if link is not None and link.mtu > xsk.MAX_MTU:
                raise RefusedError(f"af-xdp carries packets of {xsk.MAX_MTU} bytes at most, {device} has {link.mtu}")
            found = self._find_rings(device)
            if found.queues > (most := xsk.MOST_QUEUES * found.senders):
                raise RefusedError(f"{device} has {found.queues} receive queues, af-xdp reads {most} here (ethtool -L)")
            # A socket joins nothing: the device itself must let other addresses' frames in.
            promiscuous = IFF_PROMISC if self.plan.mac is not None else 0
            netlink.set_link(ifindex, flags=(IFF_ALLMULTI | promiscuous, IFF_ALLMULTI | promiscuous))
        self._ifindex = ifindex
        self._rings = found
        opened = xsk.open_sockets(self.place.netns_fd, ifindex, self._rings, busy_poll_us=self.plan.busy_poll_us)
        self._sockets, self._memory = dict(enumerate(opened.sockets)), opened.memory
        # What a socket sends goes by a queueing discipline's side: it would overtake the volleys that wait in one.
        # And it leaves by the queue of its number, where volleys must leave too.
        queues_none = link is not None and link.queueing == "noqueue"
        self._volleys = [
            Volley.loaded(worker) if queues_none else Volley([]) for worker in range(self._rings.senders)
        ]  # fmt: skip
        self._mode = CONSTANTS["PORT_ZERO_COPY"] * opened.zero_copy | CONSTANTS["PORT_BUSY_POLL"] * opened.busy_poll
        try:
            self._look_into_rings()
            self.attach_program()
        except (OSError, bpf_objects.NotBuiltError) as error:
            self._close_ring()
            raise RefusedError(str(error)) if isinstance(error, bpf_objects.NotBuiltError) else error from error
        self.generation = time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def attach_program(self) -> None:
        """Put a program on the device that hands the frames of its queues to their sockets."""
        program = bpf_objects.load("redirect", entries={"sockets": self._rings.queues})
        try:
            for queue, made in self._sockets.items():
                bpf_objects.set_element(program.maps["sockets"], queue, struct.pack("=I", made.fileno()))
            with Netlink(self.place.netns_fd) as netlink:
                mode = xdp.attach_best(netlink, self._ifindex, program.fd)
        except OSError:
            program.close()
            raise
        os.close(program.fd)
        self._forget_sockets()
        self.sockets = program.maps["sockets"]
        self._mode = self._mode & ~(_MODES["native"] | _MODES["generic"]) | _MODES[mode]

    def _forget_sockets(self) -> None:
        if self.sockets >= 0:
            os.close(self.sockets)
            self.sockets = -1

    def _close_ring(self) -> None:
        for view in self._views.values():
            view.close()
        self._views.clear()
        if self._sockets:
            with contextlib.suppress(OSError), Netlink(self.place.netns_fd) as netlink:
                xdp.detach(netlink, self._ifindex)
        for made in self._sockets.values():
            made.close()
        self._sockets.clear()
        self._forget_sockets()
        super()._close_ring()
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1
