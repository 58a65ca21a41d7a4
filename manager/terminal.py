"""What is written for people: lines to a terminal, a pipe, a file or a journal, which may vanish or stand still.

A terminal goes with its window or its SSH session (EIO), a pipe with its reader (EPIPE), a disk gets full
(ENOSPC); a reader that has stopped reading, as one behind Ctrl-S, would stop whoever writes to it.  None of
these may end a manager or a router, or keep one waiting: a line that nobody takes is lost, and the next one
that is taken tells how many were.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import socket
import stat
import sys
import time
from typing import Final, TextIO, cast

STANDARD: Final = range(3)  # input, output, error
_GONE: Final = select.POLLHUP | select.POLLERR
_RECENT: Final = 3.0  # seconds in which SIGHUP follows the end of a terminal


class Lines(io.TextIOBase):
    """A stream of lines to one fd; no error of the far end is raised.

    `patience`: the seconds that a line may wait for one who does not read.  After a line that nobody took,
    none waits until one is taken.
    """

    def __init__(self, fd: int, patience: float) -> None:
        """Write to this fd, which stays the caller's."""
        super().__init__()
        self.patience = patience
        self._fd = fd
        self._held = ""
        self._lost = 0
        self._torn = False  # a line was taken in part
        self._is_socket = stat.S_ISSOCK(os.fstat(fd).st_mode)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Give the encoding, which is the same everywhere."""
        return "utf-8"

    def fileno(self) -> int:
        """Give the fd."""
        return self._fd

    def isatty(self) -> bool:
        """Tell whether people look at it."""
        return os.isatty(self._fd)

    def writable(self) -> bool:
        """Tell that it can be written to."""
        return True

    def write(self, text: str) -> int:
        """Take a piece of text; whole lines go out at once."""
        whole, end, self._held = (self._held + text).rpartition("\n")
        if end:
            self._put(whole + end)
        return len(text)

    def flush(self) -> None:
        """Let out what is no whole line yet."""
        held, self._held = self._held, ""
        if held:
            self._put(held)

    def _put(self, text: str) -> None:
        told = "\n" * self._torn + (f"({self._lost} lines were lost here)\n" if self._lost else "")
        left = data = (told + text).encode(errors="backslashreplace")
        try:
            while left:
                left = left[self._send(left) :]
            self._lost, self._torn = 0, False
        except OSError:
            self._lost += max(text.count("\n"), 1)
            self._torn = self._torn or left is not data

    def _send(self, data: bytes) -> int:
        """Write what there is room for; an OSError tells that there is none, or nobody."""
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        if not poll.poll(0 if self._lost else 1000 * self.patience):
            raise BlockingIOError
        if not self._is_socket:
            return os.write(self._fd, data)
        # Its flags are not ours to change: others have it, too.
        with socket.socket(fileno=os.dup(self._fd)) as stream:
            return stream.send(data, socket.MSG_DONTWAIT)


def take(patience: float) -> None:
    """Let sys.stdout and sys.stderr be such lines; before anything is written or opened.

    A standard stream that is closed becomes /dev/null: else what is opened next would get its number, and
    what is written for people would go there.  A pipe or a terminal is opened anew, so that its writes do
    not wait without this happening to others that have it, as a shell.
    """
    for fd in STANDARD:
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    for fd in STANDARD[1:]:
        _open_anew(fd)
    sys.stdout = cast("TextIO", Lines(1, patience))
    sys.stderr = cast("TextIO", Lines(2, patience))


def wait_no_more() -> None:
    """Let no line wait from now on: others wait for us."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, Lines):
            stream.patience = 0.0


def _open_anew(fd: int) -> None:
    if not (stat.S_ISFIFO(os.fstat(fd).st_mode) or os.isatty(fd)):
        return
    with contextlib.suppress(OSError):  # its far end may have gone already
        anew = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        os.dup2(anew, fd)
        os.close(anew)


class Hangup:
    """Whether the terminal that we were started from has gone.

    SIGHUP then means that, and to read the configuration again else.  Under nohup(1), and where a shell has
    let us live on (disown), the end of a terminal is not our business.
    """

    def __init__(self) -> None:
        """Look at it; before there is a handler of SIGHUP."""
        minded = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
        self._terminals = [fd for fd in STANDARD if minded and os.isatty(fd)]
        self._since: float | None = None

    def look(self) -> None:
        """Look again, each second or so."""
        if not self._terminals or self._since is not None:
            return
        poll = select.poll()
        for fd in self._terminals:
            poll.register(fd, 0)
        if any(events & _GONE for _fd, events in poll.poll(0)):
            self._since = time.monotonic()

    @property
    def meant(self) -> bool:
        """Tell whether a SIGHUP of this moment means that the terminal has gone."""
        self.look()
        return self._since is not None and time.monotonic() - self._since < _RECENT
