"""One protocol of a VR: its instance while it has one, and all that this instance holds of the world."""

from __future__ import annotations

from typing import Final

from vrouter.engine.instances import Kind
from vrouter.net.address import Address, Prefix
from vrouter.proto.base import Instance, InterfaceState
from vrouter.rib.route import Protocol, Route

FIRST_RETRY: Final = 1.0  # seconds after which an instance that failed is made anew
LAST_RETRY: Final = 60.0
STABLE: Final = 300.0  # seconds after which its failures are forgotten


class Hosted:
    """What the engine keeps for one kind of instance."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.name = kind.name
        self.instance: Instance | None = None
        self.incarnation = 0
        self.born = 0.0
        self.failures = 0
        self.retry_at: float | None = None
        self.forget()

    def forget(self) -> None:
        """Hold nothing."""
        self.sockets: dict[str, None] = {}
        self.routes: dict[tuple[Prefix, Protocol, str], Route] = {}
        self.tracked: dict[Address, None] = {}
        self.interfaces: dict[str, InterfaceState] = {}  # as told
        self.fresh: tuple[Protocol, ...] | None = None  # must be told of all routes in use of these protocols

    def fail(self, now: float) -> float:
        """Count a failure; give the seconds until the next attempt."""
        if now - self.born > STABLE:
            self.failures = 0
        delay: float = min(FIRST_RETRY * 2**self.failures, LAST_RETRY)
        self.failures += 1
        self.instance, self.retry_at = None, now + delay
        return delay
