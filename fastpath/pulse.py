"""A control's pulse: a word of the tables segment that tells whether control is at work, and whether it gets on.

    bits 32-63   completed turns of its loop
    bits 9-31    beats: parts of the present turn that are done, so that much work is no hang
    bits 1-8     how much longer than others the present part may be, in eighths of a second
    bit 0        it is at work

Control writes it round each of its sleeps and parts, which costs it nothing to speak of; the manager reads it instead
of asking.  A word that stays at work and the same is a part that does not end; one whose turns stay the same, however
it beats, is a turn that does not.  What is published shows in the segment's `epoch`, too.  Before a part control says
how many entries it knows - routes, LSAs - all of which a single part may have to go through.
"""

from __future__ import annotations

import mmap
from typing import Final

from fastpath._layout import FIELDS

_WORD: Final = 8
TURNS_AT: Final = FIELDS["tables_segment"]["turns"][0]
EPOCH_AT: Final = FIELDS["tables_segment"]["epoch"][0]
AT_WORK: Final = 1
TURNS: Final = 0xFFFFFFFF << 32  # the bits of completed turns
_BEAT: Final = 1 << 9
_BEATS: Final = 0xFFFFFFFF & ~(_BEAT - 1)
_MOST: Final = 255
_UNIT: Final = 0.125
ENTRY_RUNS: Final = 40e-6  # twice what the slowest of protocols has been seen to need for an entry
_ENTRIES: Final = round(_UNIT / ENTRY_RUNS)  # for each unit of allowance


class Pulse:
    """The writer's side."""

    def __init__(self, tables_fd: int) -> None:
        """Write to this segment; the fd stays the caller's.  Who was there before may have died at work."""
        self._page = mmap.mmap(tables_fd, mmap.PAGESIZE)
        self._words = memoryview(self._page).cast("Q")
        self._word = self._words[TURNS_AT // _WORD]
        self.rest()
        self.work()

    def rest(self) -> None:
        """Nothing is to do: sleep."""
        self._write((self._word & TURNS) + (1 << 32) & TURNS)

    def work(self) -> None:
        """Wake up."""
        self._write(self._word | AT_WORK)

    def beat(self, entries: int = 0) -> None:
        """Get on, and stay at work; the next part may go through so many entries."""
        room = min(entries // _ENTRIES, _MOST)
        self._write(self._word & TURNS | (self._word + _BEAT) & _BEATS | room << 1 | AT_WORK)

    def _write(self, word: int) -> None:
        self._word = self._words[TURNS_AT // _WORD] = word

    def close(self) -> None:
        """Give the mapping back; the word stays as it is."""
        self._words.release()
        self._page.close()


def allowed(word: int) -> float:
    """Tell by how many seconds the present part may be longer than others."""
    return (word >> 1 & _MOST) * _UNIT
