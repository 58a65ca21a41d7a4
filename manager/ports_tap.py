"""A TAP device as a port: the manager makes it, the host has one side, the VR the other.

The host's side is an ordinary device in the daemon's namespace, or in `netns`; operators give it addresses.  It is
up from the start, and the VR's link is up while it is.  Whoever deletes it gets it again; it goes for good
with the interface in the configuration.
"""

from __future__ import annotations

import os
import time
from typing import Final

import structlog

from fastpath._layout import CONSTANTS, FIELDS
from manager import links, namespaces, resolve, taps
from manager.netlink import Link, Netlink
from manager.ports import Place, Port, pack_spec, unpack_spec
from manager.resolve import PortPlan

_MAC_OFFSET: Final = FIELDS["port_spec"]["mac"][0]

log = structlog.get_logger()


class TapPort(Port):
    """One TAP device."""

    driver = "tap"

    def __init__(self, plan: PortPlan, port_id: int, place: Place) -> None:
        super().__init__(plan, port_id, place)
        self.mac = plan.mac or resolve.patch_mac(plan.own)
        self._fd = -1
        self._ifindex = 0
        self._path = namespaces.path_of(plan.netns)

    @property
    def fds(self) -> list[int]:
        """Give the device's fd."""
        return [self._fd] if self._fd >= 0 else []

    def spec(self) -> bytes:
        """Describe the device."""
        return pack_spec(
            {
                "port": self.id, "driver": CONSTANTS["DRIVER_TAP"], "ifindex": self._ifindex, "mtu": self.mtu,
                "link_up": int(self.link_up), "generation": self.generation,
            },
            self.mac,
        )  # fmt: skip

    def refresh(self) -> None:
        """Follow the host's side."""
        if self.present:
            link = self._look()
            if link is None:
                log.info("device gone", router=self.place.router, device=self.plan.device)
                self.release()
            else:
                self.link_up, self.mtu = link.running, link.mtu
        if not self.present:
            self._try()

    def renew(self) -> None:
        """Nothing: the device stays, and what waits in it is for the new forwarder."""

    def adopt(self, spec: bytes, fds: list[int]) -> None:
        """Go on with a forwarder's device."""
        values = unpack_spec(spec)
        self._fd, self._ifindex, self.generation = fds[0], values["ifindex"], values["generation"]
        for fd in fds[1:]:
            os.close(fd)
        self.mac, self.mtu = spec[_MAC_OFFSET : _MAC_OFFSET + 6].hex(":"), values["mtu"]
        self.link_up, self.present, self.problem = bool(values["link_up"]), True, ""

    def release(self) -> None:
        """Let go of the device; with the forwarder's fd it goes."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self.present, self.link_up, self.problem = False, False, f"no device {self.plan.device}"

    def _look(self) -> Link | None:
        if not taps.is_attached(self._fd):
            return None
        try:
            with links.netlink_in(self._path) as (netlink, _fd):
                return netlink.link_at(self._ifindex)
        except links.GoneError:
            return None

    def _try(self) -> None:
        before = self.problem
        try:
            with links.netlink_in(self._path) as (netlink, netns_fd):
                self._fd = taps.open_tap(netns_fd, self.plan.device)
                link = self._dress(netlink)
            self._ifindex, self.mtu = link.index, link.mtu
            self.generation = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            self.link_up, self.present, self.problem = link.running, True, ""
        except (links.GoneError, OSError) as error:
            self.release()
            reason = error.strerror or error if isinstance(error, OSError) else error
            self.problem = f"{self.plan.device}: {reason}"
        if self.problem != before:
            level = log.info if self.present else log.warning
            level("coupled" if self.present else "not coupled", router=self.place.router, device=self.plan.device,
                  **({"reason": self.problem} if self.problem else {}))  # fmt: skip

    def _dress(self, netlink: Netlink) -> Link:
        """Give the new device its MTU, and set it up."""
        link = netlink.link(self.plan.device)
        if link is None:
            raise links.GoneError(f"{self.plan.device} vanished")
        if self.plan.mtu is not None and self.plan.mtu != link.mtu:
            netlink.set_link(link.index, mtu=self.plan.mtu)
        netlink.set_link(link.index, up=True)
        return netlink.link_at(link.index) or link
