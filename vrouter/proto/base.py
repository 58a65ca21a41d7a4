"""The contract of routing protocols: inputs in, outputs out, nothing else.

    configure(new, now) ----+
    receive(packet, meta, now) --> instance --> [Transmit, RouteAdd, RouteDel, Notify, Log]
    handle_timeout(now) ----+          |
    interface_changed(...) -+          +--> deadline: when handle_timeout is due

An instance has no socket, clock, thread or random source of its own: `now` is seconds of the caller's
monotonic clock, and what needs chance is given a seeded generator.  One runtime serves all
protocols; recorder, replay and simulation see the same values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from vrouter.net.address import Address
from vrouter.rib.route import Route


@dataclass(frozen=True, slots=True)
class Meta:
    """What is known of a received packet beside its bytes."""

    interface: str
    source: Address
    destination: Address
    ttl: int = 0


@dataclass(frozen=True, slots=True)
class Transmit:
    """Send bytes."""

    interface: str
    destination: Address
    data: bytes
    ttl: int = 0


@dataclass(frozen=True, slots=True)
class RouteAdd:
    """Offer routes, in the place of earlier ones with the same protocol, prefix and source."""

    routes: tuple[Route, ...]


@dataclass(frozen=True, slots=True)
class RouteDel:
    """Withdraw routes."""

    routes: tuple[Route, ...]


@dataclass(frozen=True, slots=True)
class Notify:
    """Tell operators and apps of an event."""

    event: str
    details: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Log:
    """Write a line to the log."""

    level: str
    message: str


Output = Transmit | RouteAdd | RouteDel | Notify | Log


@dataclass(frozen=True, slots=True)
class Reconfigured:
    """The answer to `configure`: done live, or the instance must be made anew."""

    live: bool
    outputs: tuple[Output, ...] = ()


ConfigT_contra = TypeVar("ConfigT_contra", contravariant=True)


class Instance(Protocol[ConfigT_contra]):
    """What the runtime calls."""

    @property
    def deadline(self) -> float | None:
        """When handle_timeout is due, by the clock of `now`; None: never."""

    def configure(self, new: ConfigT_contra, now: float) -> Reconfigured:
        """Take a configuration, the first or another."""

    def receive(self, packet: bytes, meta: Meta, now: float) -> list[Output]:
        """Take a packet."""

    def handle_timeout(self, now: float) -> list[Output]:
        """Do what is due."""

    def interface_changed(self, interface: str, up: bool, now: float) -> list[Output]:
        """Take note of a link."""

    def show(self, query: str) -> Any:
        """Answer an operator with plain data."""
