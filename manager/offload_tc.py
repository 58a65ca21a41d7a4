"""`offload: tc` on a device: the filter of its packet rings, and the program behind them at tc's entry.

    frame --> packet ring's filter (tap.bpf.c): forwarded? no --> the ring, as ever
                                                yes, said so in the frame
          --> tc (pass.bpf.c), in the place of the program that drops all: forwards what says so, drops the rest

The program at tc comes first and goes last: without the filter it drops all, as the one that it replaces does.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from typing import Final

from fastpath._layout import FIELDS
from manager import bpf, bpf_objects, ethtool
from manager.netlink import Netlink
from manager.offload_maps import Maps, RefusedError
from manager.ports import RingPort
from manager.reactor import Reactor

FILTER: Final = "tap"
PROGRAM: Final = "pass"
# What a device makes of packets that can only be received: one header is changed for several, or none fits.
UNSENDABLE: Final = ("rx-gro-list", "rx-lro")
_MARK: Final = FIELDS["bypass_links"]["mark"][0]
IN_FLIGHT: Final = 0.5  # seconds, at most, between a filter's word and the program that does it


class AtTap:
    """The filters and programs of one VR."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._ways = bpf_objects.create_map(bpf_objects.map_kind(FILTER, "ways"), "ways")
        try:
            self._headers = bpf_objects.create_map(bpf_objects.map_kind(FILTER, "headers"), "headers")
        except OSError:
            os.close(self._ways)
            raise
        self._known: dict[int, int] = {}  # ifindex by port, as in the map

    def close(self) -> None:
        """Close the maps; programs and filters keep theirs."""
        os.close(self._ways)
        os.close(self._headers)

    def follow(self, ports: list[RingPort]) -> None:
        """Let frames go to all devices that are there."""
        found = {port.id: port.ifindex for port in ports}
        for number in found.keys() | self._known.keys():
            index = found.get(number, 0)
            if self._known.get(number, 0) != index:
                bpf_objects.set_element(self._ways, number, struct.pack("=I", index))
        self._known = found

    def check(self, port: RingPort) -> None:
        """Refuse a device that joins packets which cannot be sent on.  Raises RefusedError."""
        with Netlink(port.place.netns_fd) as netlink:
            link = netlink.link_at(port.ifindex)
        if link is None:
            raise RefusedError("its device is gone")
        for feature in UNSENDABLE:
            if ethtool.feature(port.place.netns_fd, link.name, feature):
                raise RefusedError(f"packets come joined for receivers only: ethtool -K {link.name} {feature} off")

    def attach(self, port: RingPort, maps: Maps) -> None:
        """Put both in their places, or in those of older ones.  Raises RefusedError."""
        if port.sockets >= 0:
            raise RefusedError("AF_XDP sockets take all frames before tc has them")
        if maps.links.word(_MARK) == 0:
            raise RefusedError("its forwarder is of a version without offload tc: restart the router")
        self.check(port)
        shared = {**maps.fds, "ways": self._ways}
        constants = {**maps.constants, "port": port.id, "partial": 0}
        with (
            Netlink(port.place.netns_fd) as netlink,
            bpf_objects.load(
                FILTER, maps={**shared, "headers": self._headers}, sizes=maps.sizes, constants=constants
            ) as chooses,
            bpf_objects.load(PROGRAM, maps=shared, sizes=maps.sizes, constants=constants) as sends,
        ):
            netlink.set_filter(port.ifindex, bpf.PRIORITY, bpf.WHOLE_DEVICE, sends.fd)
            try:
                port.choose_frames(chooses.fd)
            except OSError as error:
                # The program drops all that no filter has refused, as the one did that was there.
                if error.errno != errno.ENOMEM:
                    raise
                raise RefusedError("no room for a socket's filter: sysctl net.core.optmem_max=65536") from error

    def detach(self, port: RingPort) -> None:
        """Take the filter off; the program stays until it has sent what the filter has refused."""
        port.choose_frames(None)
        generation = port.generation

        def restore() -> None:
            if port.present and port.generation == generation and not port.filtered:
                with contextlib.suppress(OSError), Netlink(port.place.netns_fd) as netlink:
                    bpf.attach(netlink, port.ifindex, bpf.drop_program())

        self._reactor.after(IN_FLIGHT, restore)
