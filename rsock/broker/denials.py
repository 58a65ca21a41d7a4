"""What apps were denied by the broker: counted, and logged at most once a second for each user."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from rsock.broker.authorize import Identity

log = logging.getLogger(__name__)
INTERVAL: Final = 1.0
USERS: Final = 1024  # that are remembered
_SHOWN: Final = 64  # characters of a name that somebody made up


@dataclass
class _Count:
    told: float
    untold: int = 0


class Denials:
    """The denials of all users."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._users: dict[int, _Count] = {}
        self.total = 0

    def note(self, identity: Identity, router: object, operation: str, error: int) -> None:
        """Count one."""
        now = self._clock()
        self.total += 1
        count = self._users.get(identity.uid)
        if count is not None and now < count.told + INTERVAL:
            count.untold += 1
            return
        self._users.pop(identity.uid, None)
        while len(self._users) >= USERS:  # who was told of longest ago
            del self._users[next(iter(self._users))]
        self._users[identity.uid] = _Count(now)
        log.warning(
            "event=denied identity=uid:%d pid=%d router=%s operation=%s error=%s suppressed=%d",
            identity.uid, identity.pid, ascii(router)[:_SHOWN], operation, errno.errorcode.get(error, str(error)),
            count.untold if count else 0,
        )  # fmt: skip
