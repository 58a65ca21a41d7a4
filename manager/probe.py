"""Whether a control, or the broker, still serves: a question now and then, which one that has nothing to do is spared.

A control that has not run since the last look sleeps, and waking fifty of them every second costs more than
all else that an idle machine does.  One that runs and does not answer is hung; and one that rests is asked now and
then all the same.  A control that hangs in the middle of its work is found sooner, by its pulse (supervisor.py).  The
kernel tells without a question which one is stopped: the zygote hears of its own children's stops at once, but not
of those that it has not borne.
"""

from __future__ import annotations

import itertools
import os
import time
from typing import Final

INTERVAL: Final = 1.0  # between two looks
# A full table that goes at once is a second of work; a hung control stops no packet.
SILENCES: Final = 3
SPARED: Final = 29  # looks in a row
_REST: Final = 1_000_000  # nanoseconds of the processor between two looks that are no work
_PROCESS_CLOCK: Final = 2  # CPUCLOCK_SCHED; see clock_getcpuclockid(3)
_STATE_ROOM: Final = 64  # of /proc/PID/stat: pid, name and state are within these bytes
_turns: Final = itertools.count()  # those that rest take turns at being asked


class Probe:
    """What is known of one process."""

    def __init__(self, silences: int = SILENCES) -> None:
        """So many questions without an answer are a hang."""
        self._silences = silences
        self._unanswered = 0
        self._spared = 0
        self._used = 0
        self._pid = 0
        self._stat = -1  # /proc/PID/stat; it never comes to mean another process

    @property
    def silent(self) -> bool:
        """Tell whether it has left too many questions unanswered."""
        return self._unanswered >= self._silences

    @property
    def stopped(self) -> bool:
        """Tell whether the process is stopped, as by SIGSTOP."""
        if self._stat < 0:
            return False
        try:
            return os.pread(self._stat, _STATE_ROOM, 0).rpartition(b") ")[2][:1] in {b"T", b"t"}
        except OSError:
            return False

    def begin(self, pid: int) -> None:
        """There is a new one, which has just answered."""
        self.end()
        self._pid = pid
        self._used = _processor_time(pid)
        self._spared = next(_turns) % (SPARED + 1)
        try:
            self._stat = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
        except OSError:
            self._stat = -1

    def end(self) -> None:
        """It has gone."""
        if self._stat >= 0:
            os.close(self._stat)
        self._stat = -1
        self._unanswered = self._spared = 0

    def answered(self) -> None:
        """It lives."""
        self._unanswered = 0

    def due(self, *, owing: bool) -> bool:
        """Tell whether to ask it now; `owing`: it has something to answer anyway.  A True must be followed."""
        used, self._used = self._used, _processor_time(self._pid)
        resting = not owing and self._unanswered == 0 and 0 <= self._used - used < _REST
        if resting and self._spared < SPARED:
            self._spared += 1
            return False
        self._spared = 0 if resting else next(_turns) % (SPARED + 1)
        self._unanswered += 1
        return True


def _processor_time(pid: int) -> int:
    """Give the nanoseconds that a process has run; one call of the kernel."""
    try:
        return time.clock_gettime_ns((~pid << 3) | _PROCESS_CLOCK)
    except OSError:
        return 0
