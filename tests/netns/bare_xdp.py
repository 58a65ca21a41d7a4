"""The links of `bare.Bare` on AF_XDP sockets, opened as the manager opens them."""

from __future__ import annotations

import mmap
import os
import struct
from typing import Any, Final

from bare import Bare, Side

from fastpath._layout import CONSTANTS
from fastpath.binding import ffi
from manager import bpf_objects, xdp, xsk
from manager.netlink import Netlink

SMALL: Final = xsk.Geometry(receive=256, transmit=256)


class XdpSide(Side):
    """One link of the router: the veth pair, its sockets and the memory of their frames, its interface.

    A geometry of several queues makes a veth of as many.
    """

    busy_poll_us = 0

    def open(self, netns: int, device: str) -> None:
        """Open the socket, and have the device's frames come to it."""
        del device
        opened = xsk.open_sockets(netns, self.ifindex, self.geometry, busy_poll_us=self.busy_poll_us)
        self.sockets, self.ring, self.frames = opened.sockets, opened.sockets[0], opened.memory
        with self._program() as program, Netlink(netns) as netlink:
            self.mode = xdp.attach_best(netlink, self.ifindex, program.fd)
        offsets = struct.unpack("=16Q", self.ring.getsockopt(xsk.SOL_XDP, xsk.MMAP_OFFSETS, 128))
        self._rx, self._tx, self._fill = offsets[:4], offsets[4:8], offsets[8:12]
        self.rx_maps = [mmap.mmap(made.fileno(), self._rx[2] + self.geometry.receive * 16) for made in self.sockets]
        self.rx_map = self.rx_maps[0]
        self.fill_map = mmap.mmap(
            self.ring.fileno(), self._fill[2] + self.geometry.receive * 8, offset=xsk.FILL_OFFSET
        )  # fmt: skip

    def _program(self) -> bpf_objects.Program:
        program = bpf_objects.load("redirect", entries={"sockets": self.geometry.queues})
        for queue, made in enumerate(self.sockets):
            bpf_objects.set_element(program.maps["sockets"], queue, struct.pack("=I", made.fileno()))
        return program

    def switch(self, mode: xdp.Mode) -> None:
        """Put the program on the device in another mode."""
        netns = os.open(f"/run/netns/{self.router_namespace}", os.O_RDONLY)
        try:
            with self._program() as program, Netlink(netns) as netlink:
                xdp.attach(netlink, self.ifindex, program.fd, mode)
        finally:
            os.close(netns)
        self.mode = mode

    @property
    def fds(self) -> list[int]:
        """Give the sockets and the memory."""
        return [self.ring.fileno(), self.frames, *(made.fileno() for made in self.sockets[1:])]

    def spec(self, generation: int) -> Any:
        """Give the struct port_spec."""
        spec = ffi.new("struct port_spec *")
        spec.port, spec.driver, spec.ifindex = self.number, CONSTANTS["DRIVER_AF_XDP"], self.ifindex
        spec.mtu, spec.link_up, spec.generation = self.mtu, 1, generation
        spec.block_size, spec.block_count = self.geometry.words, self.geometry.transmit
        spec.frame_size, spec.frame_count = xsk.FRAME, self.geometry.receive
        ffi.buffer(spec.mac)[:] = self.router_mac
        return spec

    def received(self) -> list[int]:
        """Count the frames that each queue ever received."""
        return [struct.unpack_from("=I", mapped, self._rx[0])[0] for mapped in self.rx_maps]

    def filled(self) -> int:
        """Count the frames that wait for a forwarder."""
        taken: list[int] = [struct.unpack_from("=I", mapped, self._rx[1])[0] for mapped in self.rx_maps]
        return sum(self.received()) - sum(taken)

    def give_back(self, frame: int) -> None:
        """Put the frame of one place of the receive ring into the fill ring, as a release does."""
        (address,) = struct.unpack_from("=Q", self.rx_map, self._rx[2] + frame % self.geometry.receive * 16)
        (place,) = struct.unpack_from("=I", self.fill_map, self._fill[0])
        struct.pack_into("=Q", self.fill_map, self._fill[2] + place % self.geometry.receive * 8, address)
        struct.pack_into("=I", self.fill_map, self._fill[0], place + 1)

    def take(self, consumer: int) -> None:
        """Move the consumer of the receive ring."""
        struct.pack_into("=I", self.rx_map, self._rx[1], consumer)

    def close(self) -> None:
        """Close everything and remove the namespace."""
        for mapped in (*self.rx_maps, self.fill_map):
            mapped.close()
        for made in self.sockets[1:]:
            made.close()
        os.close(self.frames)
        self.memory = self.rx_map
        super().close()


def bare(mtu: int = 1500, geometry: xsk.Geometry = SMALL) -> Bare:
    """Make a router between two hosts on AF_XDP sockets."""
    return Bare(mtu, geometry, XdpSide)
