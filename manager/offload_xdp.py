"""`offload: xdp` on a device: the program at its driver (fastpath/bpf/offload.bpf.c), and where it may send frames.

A frame can be redirected only to a device whose driver takes such frames; the kernel says which (xdp_features.py).
"""

from __future__ import annotations

import os
import struct
from dataclasses import replace
from typing import Final

from manager import bpf_objects, ethtool, xdp, xdp_features
from manager.kernel import inside
from manager.netlink import Netlink
from manager.offload_maps import Maps, RefusedError
from manager.ports import RingPort

PROGRAM: Final = "offload"


class AtDriver:
    """The programs of one VR at the drivers of its devices."""

    def __init__(self) -> None:
        self._devices = bpf_objects.create_map(bpf_objects.map_kind(PROGRAM, "devices"), "devices")
        try:
            kind = replace(bpf_objects.map_kind(PROGRAM, "sockets"), entries=1)
            self._no_sockets = bpf_objects.create_map(kind, "sockets")  # of ports without AF_XDP sockets
        except OSError:
            os.close(self._devices)
            raise
        self._receivers: dict[int, tuple[int, int]] = {}  # ports whose devices take frames: ifindex, generation
        self._features: xdp_features.Features | None = None

    def close(self) -> None:
        """Close the maps; programs on devices keep theirs."""
        os.close(self._devices)
        os.close(self._no_sockets)
        if self._features is not None:
            self._features.close()
            self._features = None

    def follow(self, ports: list[RingPort]) -> None:
        """Let frames go to the devices that take them, and to no others."""
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
            bpf_objects.delete_element(self._devices, gone)
        for port in ports:
            if port.id in receivers:
                with inside(port.place.netns_fd):  # where the number of the device means it
                    bpf_objects.set_element(self._devices, port.id, struct.pack("=I", port.ifindex))
        self._receivers = receivers

    def check(self, port: RingPort) -> None:
        """Refuse a device that takes VLAN tags off.  Raises RefusedError."""
        with Netlink(port.place.netns_fd) as netlink:
            self._is_virtual(netlink, port)

    def _is_virtual(self, netlink: Netlink, port: RingPort) -> bool:
        link = netlink.link_at(port.ifindex)
        if link is None:
            raise RefusedError("its device is gone")
        if not link.kind and ethtool.strips_vlans(port.place.netns_fd, link.name):
            raise RefusedError(f"VLAN tags are taken off unseen: ethtool -K {link.name} rxvlan off")
        return bool(link.kind)

    def attach(self, port: RingPort, maps: Maps) -> None:
        """Put the program on a device, in the place of what was there.  Raises RefusedError."""
        with Netlink(port.place.netns_fd) as netlink:
            virtual = self._is_virtual(netlink, port)
            sockets = port.sockets if port.sockets >= 0 else self._no_sockets
            program = bpf_objects.load(
                PROGRAM,
                maps={**maps.fds, "devices": self._devices, "sockets": sockets},
                sizes=maps.sizes,
                constants={**maps.constants, "port": port.id, "partial": int(virtual)},
            )
            with program:
                try:
                    xdp.attach(netlink, port.ifindex, program.fd, "native")
                except OSError as error:
                    port.attach_program()
                    reason = error.strerror or error
                    raise RefusedError(f"no XDP program in the driver: {reason}; 'offload: tc' needs none") from error

    def detach(self, port: RingPort) -> None:
        """Give the device back what it had."""
        with Netlink(port.place.netns_fd) as netlink:
            if port.sockets >= 0:
                port.attach_program()
            else:
                xdp.detach(netlink, port.ifindex)
