"""When to compute routes after a change: the back-off of RFC 8405.

QUIET --change--> SHORT_WAIT --time to learn--> LONG_WAIT --hold-down without a change--> QUIET
"""

from __future__ import annotations

import enum

from vrouter.config.ospf import SpfTimers


class State(enum.Enum):
    """States of section 5."""

    QUIET = "quiet"
    SHORT_WAIT = "short-wait"
    LONG_WAIT = "long-wait"


class Throttle:
    """Gives the delay of each computation."""

    def __init__(self, timers: SpfTimers) -> None:
        self.timers = timers
        self.state = State.QUIET
        self._learn_until = 0.0
        self._quiet_at = 0.0

    def delay(self, now: float) -> float:
        """Take note of a change; give how long the computation has to wait."""
        self._pass(now)
        self._quiet_at = now + self.timers.holddown
        if self.state is State.QUIET:
            self.state = State.SHORT_WAIT
            self._learn_until = now + self.timers.time_to_learn
            return self.timers.initial
        return self.timers.short if self.state is State.SHORT_WAIT else self.timers.long

    def _pass(self, now: float) -> None:
        if self.state is not State.QUIET and now >= self._quiet_at:
            self.state = State.QUIET
        elif self.state is State.SHORT_WAIT and now >= self._learn_until:
            self.state = State.LONG_WAIT
