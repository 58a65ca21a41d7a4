"""The manager's side of the relay: there is one where `rsock.listen` says so.

It has the broker's uid, hears of the VRs what the broker hears, and is told first where to listen and with which key;
the secret goes over the socket between us, never through arguments or files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from manager.broker import Broker
from manager.child import Zygote
from manager.member import Phase
from manager.reactor import Reactor
from vrouter.config.schema import Relaying


class Relay(Broker):
    """Starts the relay where one is wanted, and again when it dies."""

    _role: ClassVar[str] = "relay"

    def __init__(self, reactor: Reactor, zygote: Zygote, run_dir: Path) -> None:
        super().__init__(reactor, zygote, run_dir, self._ended)
        self._orders: dict[str, Any] | None = None

    def configure(self, wanted: Relaying, broker: Broker) -> None:
        """Be as the configuration says, with the broker's uid."""
        orders = None
        if wanted.listen is not None:
            orders = {"op": "listen", "endpoint": wanted.listen, "secret": wanted.curve_secret, "lease": wanted.lease}
        self._uid, self._lock = broker.uid, broker.lock
        before, self._orders = self._orders, orders
        if orders is None:
            self.member.end()
        elif before is None:
            self.member.start()
        elif orders != before:
            self.member.fence("listens elsewhere, or with another key")

    def close(self) -> None:
        """Free what it had; after it has ended."""
        self._drop()

    @property
    def absent(self) -> bool:
        """Tell whether there is no process."""
        return self.member.phase is Phase.ABSENT

    def _ended(self) -> None:
        self._drop()
        if self._orders is not None:  # it was wanted again meanwhile
            self.member.start()

    def end(self) -> None:
        """End it for good."""
        self._orders = None
        super().end()

    def _opening(self) -> list[dict[str, Any]]:
        assert self._orders is not None
        return [self._orders, *super()._opening()]
