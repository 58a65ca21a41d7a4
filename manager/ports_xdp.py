"""A device that is a router's alone, coupled by an AF_XDP socket.

    device --XDP program--> map of sockets --> socket on queue 0 --> forwarder
                                 |
                                 +-- no socket: on to the kernel's stack, where nobody listens

The program runs in the driver where that can, else in front of the kernel's stack.  It, its map and the socket go on
when the manager dies; the next one puts a program of its own in its place.  Refused: devices that several routers
share, those with several receive queues, MTUs beyond one frame.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from typing import Final

import structlog

from fastpath._layout import CONSTANTS, FIELDS
from manager import bpf_objects, ethtool, xdp, xsk
from manager.links import RefusedError
from manager.netlink import IFF_ALLMULTI, IFF_PROMISC, Netlink
from manager.ports import WholeDevice, pack_spec, unpack_spec
from manager.volley import Volley

_MAC: Final = FIELDS["port_spec"]["mac"][0]
_MODES: Final = {"native": CONSTANTS["PORT_XDP_NATIVE"], "generic": CONSTANTS["PORT_XDP_GENERIC"]}

log = structlog.get_logger()


class XdpDevice(WholeDevice):
    """One device and its AF_XDP socket."""

    driver = "af-xdp"

    _memory = -1  # fd of the frames
    sockets = -1  # fd of the program's map
    _mode = 0  # enum port_mode
    _view: xsk.ReceiveView | None = None
    _rings = xsk.DEFAULT

    @property
    def fds(self) -> list[int]:
        """Give the socket, the memory of its frames, and what sends batches."""
        return [self._ring.fileno(), self._memory, *self._volleys[0].fds] if self._ring else []

    def spec(self) -> bytes:
        """Describe the rings."""
        return pack_spec(
            {
                "port": self.id, "driver": CONSTANTS["DRIVER_AF_XDP"], "ifindex": self._ifindex, "mtu": self.mtu,
                "link_up": int(self.link_up), "block_size": self._rings.words, "block_count": self._rings.transmit,
                "frame_size": xsk.FRAME, "frame_count": self._rings.receive, "generation": self.generation,
                "mode": self._mode,
            },
            self.mac,
        )  # fmt: skip

    def waiting(self, progress: int) -> bool:
        """Tell whether the receive ring holds more than the forwarder has seen to."""
        return self._view is not None and self._view.waiting(progress)

    def watched(self) -> list[int]:
        """Give nothing: `waiting` is asked."""
        return []

    def adopt(self, spec: bytes, fds: list[int]) -> None:
        """Go on with a forwarder's socket, behind a program of our own."""
        values = unpack_spec(spec)
        self._volleys = [Volley(fds[2:])]
        # Its family is named, since it has no getsockname to find it out by.
        self._ring, self._memory = socket.socket(xsk.AF_XDP, socket.SOCK_RAW, fileno=fds[0]), fds[1]
        self._ring.setblocking(False)
        self._rings = xsk.Geometry(values["frame_count"], values["block_count"])
        self._ifindex, self.generation, self._mode = values["ifindex"], values["generation"], values["mode"]
        self.mac, self.mtu = spec[_MAC : _MAC + 6].hex(":"), values["mtu"]
        self.link_up, self.present, self.problem = bool(values["link_up"]), True, ""
        with contextlib.suppress(OSError):  # a device that has gone meanwhile: refresh finds out
            self._view = xsk.ReceiveView(self._ring, self._rings)
            self.attach_program()

    def _bound(self) -> bool:
        return self._ring is not None and xsk.is_bound(self._ring)

    def _open_ring(self, device: str, ifindex: int) -> None:
        if self.plan.tagged:
            raise RefusedError("af-xdp carries no VLANs")
        with Netlink(self.place.netns_fd) as netlink:
            link = netlink.link_at(ifindex)
            if link is not None and link.mtu > xsk.MAX_MTU:
                raise RefusedError(f"af-xdp carries packets of {xsk.MAX_MTU} bytes at most, {device} has {link.mtu}")
            if (queues := ethtool.receive_queues(self.place.netns_fd, device)) > 1:
                raise RefusedError(f"{device} has {queues} receive queues, af-xdp serves one (ethtool -L)")
            # A socket joins nothing: the device itself must let other addresses' frames in.
            promiscuous = IFF_PROMISC if self.plan.mac is not None else 0
            netlink.set_link(ifindex, flags=(IFF_ALLMULTI | promiscuous, IFF_ALLMULTI | promiscuous))
        self._ifindex = ifindex
        self._rings = xsk.Geometry(self.place.geometry.frame_count, xsk.DEFAULT.transmit)
        opened = xsk.open_socket(self.place.netns_fd, ifindex, self._rings, busy_poll_us=self.plan.busy_poll_us)
        self._ring, self._memory = opened.socket, opened.memory
        # What the socket sends goes by a queueing discipline's side: it would overtake the volleys that wait in one.
        queues_none = link is not None and link.queueing == "noqueue"
        self._volleys = [Volley.loaded() if queues_none else Volley([])]
        self._mode = CONSTANTS["PORT_ZERO_COPY"] * opened.zero_copy | CONSTANTS["PORT_BUSY_POLL"] * opened.busy_poll
        try:
            self._view = xsk.ReceiveView(self._ring, self._rings)
            self.attach_program()
        except (OSError, bpf_objects.NotBuiltError) as error:
            self._close_ring()
            raise RefusedError(str(error)) if isinstance(error, bpf_objects.NotBuiltError) else error from error
        self.generation = time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def attach_program(self) -> None:
        """Put a program on the device that hands its frames to the socket."""
        assert self._ring is not None
        program = bpf_objects.load("redirect", entries={"sockets": 1})
        try:
            bpf_objects.set_element(program.maps["sockets"], 0, struct.pack("=I", self._ring.fileno()))
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
        if self._view is not None:
            self._view.close()
            self._view = None
        if self._ring is not None:
            with contextlib.suppress(OSError), Netlink(self.place.netns_fd) as netlink:
                xdp.detach(netlink, self._ifindex)
        self._forget_sockets()
        super()._close_ring()
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1
