"""The offload of one VR: its maps, its programs on devices, and why a port is not offloaded.

    interfaces with an `offload` --> maps (abi/bypass.h) --> control copies the routes into one of them,
                                                             the forwarder its neighbors into the other
                                 --> both are ready: programs on each of the devices, in place of what was there
                                     (offload_xdp.py, offload_tc.py)

The manager makes and couples; it stores nothing into the maps but where frames may go to.  When control
has outgrown its map it says so there, and gets a larger one, with programs that know it.  A successor of any process
is told of the maps anew; one of the manager finds them with the forwarder.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Final, Protocol

import structlog

from fastpath._layout import CONSTANTS, FIELDS, SIZES
from manager import bpf_objects, offload_maps
from manager.offload_maps import Maps, RefusedError
from manager.offload_tc import AtTap
from manager.offload_xdp import AtDriver
from manager.ports import Port, RingPort
from manager.reactor import Reactor, Timer

INTERVAL: Final = 0.25  # between two looks, until all is as it shall be
SETTLED: Final = 1.0  # and from then on
KINDS: Final = ("xdp", "tc")
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

log = structlog.get_logger()


class Router(Protocol):
    """What a VR is asked for."""

    def offload_ports(self) -> tuple[list[RingPort], Mapping[str, str]]:
        """Give the ports on devices, and of those that shall be offloaded the kind by their keys."""

    def offload_changed(self) -> None:
        """Hear that describe() says something else."""

    def offload_tell_forwarder(self, body: bytes, fds: list[int]) -> bool:
        """Send OFFLOAD; False: it is not there."""

    def offload_tell_control(self, fd: int | None, size: int, answered: Callable[[str | None], None]) -> bool:
        """Send OFFLOAD; False: it is not there."""


class Kind(Protocol):
    """What an `offload` puts on devices."""

    def follow(self, ports: list[RingPort]) -> None:
        """Bring in line where frames may go to."""

    def attach(self, port: RingPort, maps: Maps) -> None:
        """Begin, or begin anew with other maps, without losing a frame.  Raises RefusedError."""

    def check(self, port: RingPort) -> None:
        """Look whether what is attached is still right for the device.  Raises RefusedError."""

    def detach(self, port: RingPort) -> None:
        """End, without losing a frame; fine where nothing is."""

    def close(self) -> None:
        """Give back what is no device's."""


class Offload:
    """What is offloaded of one VR."""

    def __init__(self, name: str, reactor: Reactor, router: Router) -> None:
        self._log = log.bind(router=name)
        self._reactor = reactor
        self._router = router
        self._maps: Maps | None = None
        self._kinds: dict[str, Kind] = {}
        self._attached: dict[int, tuple[str, int, int]] = {}  # by port: kind, generation of its coupling, `_serial`
        self._serial = 0  # of the routes' map
        self._described: dict[int, str] = {}
        self._told_forwarder = self._told_control = False
        self._timer: Timer | None = None
        self._problems: dict[int, str] = {}
        self._inherited = False  # a manager before us may have left programs on any of the devices

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
        self._maps = Maps.adopted(body, fds)
        self._told_forwarder = True

    def follow(self) -> None:
        """Bring everything in line; called whenever something has changed, and now and then."""
        ports, wanted = self._router.offload_ports()
        chosen = [port for port in ports if port.plan.key in wanted]
        if not chosen and self._maps is None:
            return
        try:
            if chosen:
                self._serve(ports, {port.id: wanted[port.plan.key] for port in chosen})
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
            self._router.offload_tell_forwarder(offload_maps.NOTHING, [])
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
        for kind in self._kinds.values():
            kind.close()
        self._kinds.clear()
        self._attached.clear()
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

    def _kind(self, name: str) -> Kind:
        if name not in self._kinds:
            self._kinds[name] = AtDriver() if name == "xdp" else AtTap(self._reactor)
        return self._kinds[name]

    def _serve(self, ports: list[RingPort], wanted: Mapping[int, str]) -> None:
        if self._maps is None:
            self._maps = Maps.make()
        maps = self._maps
        room = maps.fib.word(_WANTED)
        if maps.fib.size < room <= offload_maps.LARGEST:
            self._log.info("more room for routes at the driver", bytes=room)
            maps.grow(room)
            self._serial += 1
            self._told_forwarder = self._told_control = False
        if not self._told_forwarder:
            self._told_forwarder = self._router.offload_tell_forwarder(maps.message(), [maps.links.fd, maps.fib.fd])
        if not self._told_control:
            self._told_control = self._router.offload_tell_control(maps.fib.fd, maps.fib.size, self._control_answered)
        for name in {*wanted.values(), *self._kinds}:
            self._kind(name).follow(ports)
        if maps.links.word(_LINKS_READY) == 1 and maps.fib.word(_READY) == 1:
            for port in ports:
                if port.id in wanted:
                    self._attach(port, wanted[port.id], maps)
        for port in ports:
            if port.id not in wanted and (self._inherited or port.id in self._attached):
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

    def _attach(self, port: RingPort, kind: str, maps: Maps) -> None:
        mark = (kind, port.generation, self._serial)
        before = self._attached.get(port.id)
        try:
            if before == mark:
                self._kind(kind).check(port)
                self._problems.pop(port.id, None)
                return
            self._kind(kind).attach(port, maps)
        except RefusedError as error:
            if before is not None and (before[0] != kind or before == mark):
                self._detach(port)
            self._refuse([port], str(error))
            return
        except OSError as error:  # of this device: the others go on
            self._refuse([port], error.strerror or str(error))
            return
        if before is None:
            self._log.info("offloaded", device=port.plan.device, by=kind)
        self._attached[port.id] = mark
        self._problems.pop(port.id, None)
        # What is there of another kind goes when this one is at work.
        for other in KINDS:
            if other != kind and (self._inherited or (before is not None and before[0] == other)):
                self._take_off(port, other)

    def _detach(self, port: RingPort) -> None:
        known = self._attached.pop(port.id, None)
        self._problems.pop(port.id, None)
        for kind in KINDS if self._inherited or known is None else (known[0],):
            if not self._take_off(port, kind):
                return
        if known is not None:
            self._log.info("not offloaded any more", device=port.plan.device)

    def _take_off(self, port: RingPort, kind: str) -> bool:
        try:
            self._kind(kind).detach(port)
        except OSError as error:  # the device has gone; the rest goes on
            self._log.warning("its program stays", device=port.plan.device, reason=error.strerror or str(error))
            return False
        return True

    def _refuse(self, ports: list[RingPort], reason: str) -> None:
        for port in ports:
            if self._problems.get(port.id) != reason:
                self._problems[port.id] = reason
                self._log.warning("not offloaded", device=port.plan.device, reason=reason)
