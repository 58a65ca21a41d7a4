"""A control's pulse: a word of the tables segment that is odd while control is at work, and another one each turn.

Control writes it round each of its sleeps, which costs it nothing to speak of; the manager reads it instead of asking.
A word that stays odd and the same is work that does not end.  Long work shows that it gets on by a beat after each
part of it, and by the segment's `epoch`, which changes with what is published.
"""

from __future__ import annotations

import mmap
from typing import Final

from fastpath._layout import FIELDS

_WORD: Final = 8
TURNS_AT: Final = FIELDS["tables_segment"]["turns"][0]
EPOCH_AT: Final = FIELDS["tables_segment"]["epoch"][0]


class Pulse:
    """The writer's side."""

    def __init__(self, tables_fd: int) -> None:
        """Write to this segment; the fd stays the caller's.  Who was there before may have died at work."""
        self._page = mmap.mmap(tables_fd, mmap.PAGESIZE)
        self._words = memoryview(self._page).cast("Q")
        self._turn = self._words[TURNS_AT // _WORD] | 1
        self._words[TURNS_AT // _WORD] = self._turn

    def rest(self) -> None:
        """Nothing is to do: sleep."""
        self._turn += 1
        self._words[TURNS_AT // _WORD] = self._turn

    work = rest  # the next word: odd after even

    def beat(self) -> None:
        """Get on, and stay at work."""
        self._turn += 2
        self._words[TURNS_AT // _WORD] = self._turn

    def close(self) -> None:
        """Give the mapping back; the word stays as it is."""
        self._words.release()
        self._page.close()
