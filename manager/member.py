"""The life of one process of ours: forwarder, control or broker.

                 start           spawned            answered
      ABSENT ------------> SPAWNING -----> GREETING --------> READY
        ^                     ^               |  died, fenced   |
        |   ended             | timer         v                 v
      ENDING <---- end ---- BACKOFF <--------------------------+

A process that died is started again at once; five deaths within ten seconds, and each further one waits
longer, from 0.1 to 30 s.  One that hangs is fenced: killed for good before its successor is born.
"""

from __future__ import annotations

import enum
import math
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from manager.child import Child
from manager.reactor import Reactor, Timer

CRASHES: Final = 5
WINDOW: Final = 10.0
# A process that served for longer died of an accident, as in a test that kills it again and again; only
# one that hardly lives is in a crash loop, and only there does waiting help anybody.  Its birth does not count, which
# lasts longer than that on a loaded machine.
SHORT_LIFE: Final = 0.25
FIRST_DELAY: Final = 0.1
LONGEST_DELAY: Final = 30.0
SUSPICION: Final = 0.05
GRACE: Final = 1.0  # from SIGTERM to SIGKILL
# From birth to the first answer.  Generous: a loaded machine must not turn one slow birth into a loop.
GREETING_PATIENCE: Final = 5.0

log = structlog.get_logger()


class Phase(enum.Enum):
    """Where in its life a process is."""

    ABSENT = "absent"
    SPAWNING = "spawning"
    GREETING = "greeting"
    READY = "ready"
    BACKOFF = "backoff"
    ENDING = "ending"


class Happening(enum.Enum):
    """What can happen to it."""

    START = "start"
    SPAWNED = "spawned"
    ANSWERED = "answered"
    DIED = "died"
    DUE = "due"
    END = "end"


# A pair that is missing changes nothing.
TRANSITIONS: Final[Mapping[tuple[Phase, Happening], Phase]] = {
    (Phase.ABSENT, Happening.START): Phase.SPAWNING,
    (Phase.SPAWNING, Happening.SPAWNED): Phase.GREETING,
    (Phase.GREETING, Happening.ANSWERED): Phase.READY,
    (Phase.GREETING, Happening.DIED): Phase.BACKOFF,
    (Phase.READY, Happening.DIED): Phase.BACKOFF,
    (Phase.BACKOFF, Happening.DUE): Phase.SPAWNING,
    (Phase.SPAWNING, Happening.END): Phase.ENDING,
    (Phase.GREETING, Happening.END): Phase.ENDING,
    (Phase.READY, Happening.END): Phase.ENDING,
    (Phase.BACKOFF, Happening.END): Phase.ABSENT,
    (Phase.ENDING, Happening.DIED): Phase.ABSENT,
}


@dataclass(frozen=True)
class Hooks:
    """What a member needs from its owner."""

    spawn: Callable[[Callable[[Child], None]], None]  # ask for a process
    greet: Callable[[], None]  # it lives: make it answer, then call answered()
    lost: Callable[[str], None]  # it is gone, unasked; another one comes
    ended: Callable[[], None]  # it is gone, as asked


class Member:
    """One process and its successors."""

    def __init__(self, reactor: Reactor, role: str, name: str, hooks: Hooks) -> None:
        self.phase = Phase.ABSENT
        self.child: Child | None = None
        self.deaths = 0
        self._reactor = reactor
        self._hooks = hooks
        self._log = log.bind(process=f"{name} {role}".strip())
        self._recent: deque[float] = deque(maxlen=CRASHES)
        self._timer: Timer | None = None
        self._reason = ""
        self._born = 0.0
        self._served_from = math.inf
        self._delay = 0.0

    @property
    def pid(self) -> int | None:
        """Give its pid while it lives."""
        return self.child.pid if self.child else None

    @property
    def ready(self) -> bool:
        """Tell whether it has answered."""
        return self.phase is Phase.READY

    def start(self) -> None:
        """Bring it to life."""
        if self._enter(Happening.START):
            self._spawn()

    def adopt(self, child: Child) -> None:
        """Take over a process that lives already; it has yet to answer."""
        if self._enter(Happening.START):
            self._on_spawned(child)

    def answered(self) -> None:
        """Take note that it serves."""
        if self._enter(Happening.ANSWERED):
            self._served_from = time.monotonic()
            self._cancel()
            self._log.debug("ready", pid=self.pid, milliseconds=round((time.monotonic() - self._born) * 1000, 1))

    def fence(self, reason: str) -> None:
        """Kill what hangs; its death brings the successor."""
        if self.child is not None and self.phase in {Phase.GREETING, Phase.READY} and not self._reason:
            self._reason = reason
            self._log.warning("fenced", pid=self.pid, reason=reason)
            self.child.kill()

    def suspect(self, reason: str) -> None:
        """Fence it unless its death, of which this is likely a sign, is reported in a moment."""
        child = self.child
        self._reactor.after(SUSPICION, lambda: self.fence(reason) if self.child is child else None)

    def end(self) -> None:
        """End it for good, gently first."""
        before = self.phase
        if not self._enter(Happening.END):
            return
        self._cancel()
        if before is Phase.BACKOFF:
            self._hooks.ended()
        elif self.child is not None:
            self._terminate(self.child)

    def _enter(self, happening: Happening) -> bool:
        """Change the phase; the only place that does."""
        following = TRANSITIONS.get((self.phase, happening))
        if following is None:
            return False
        self.phase = following
        return True

    def _spawn(self) -> None:
        self._reason = ""
        self._born = time.monotonic()
        self._hooks.spawn(self._on_spawned)

    def _on_spawned(self, child: Child) -> None:
        self.child = child
        self._served_from = math.inf
        child.watch(self._on_death)
        if self.phase is Phase.ENDING:  # end() came while it was being born
            self._terminate(child)
            return
        self._enter(Happening.SPAWNED)
        self._timer = self._reactor.after(GREETING_PATIENCE, lambda: self.fence("does not answer"))
        self._hooks.greet()

    def _terminate(self, child: Child) -> None:
        child.kill(signal.SIGTERM)
        child.kill(signal.SIGCONT)  # one that is stopped hears it too
        self._timer = self._reactor.after(GRACE, child.kill)

    def _on_death(self) -> None:
        pid, self.child = self.pid, None
        self._cancel()
        if self.phase is Phase.ENDING:
            self._enter(Happening.DIED)
            self._hooks.ended()
            return
        self._enter(Happening.DIED)
        self.deaths += 1
        delay = self._next_delay()
        reason = self._reason or "died"
        self._log.warning("process gone", pid=pid, reason=reason, **({"retry": delay} if delay else {}))
        self._hooks.lost(reason)
        if self.phase is not Phase.BACKOFF:  # the owner gave up on it
            return
        if delay:
            self._timer = self._reactor.after(delay, self._on_due)
        else:
            self._on_due()

    def _next_delay(self) -> float:
        """Give the seconds to wait: none, until short lives follow each other; then twice as long each time."""
        now = time.monotonic()
        if now - self._served_from > SHORT_LIFE:
            self._recent.clear()
            self._delay = 0.0
            return 0.0
        self._recent.append(now)
        if self._delay or sum(now - moment < WINDOW for moment in self._recent) >= CRASHES:
            self._delay = min(max(FIRST_DELAY, 2 * self._delay), LONGEST_DELAY)
        return self._delay

    def _on_due(self) -> None:
        if self._enter(Happening.DUE):
            self._spawn()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
