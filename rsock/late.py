"""Sockets whose fd is made when somebody needs it.

Between socket() and connect() a client, as a rule, does nothing, or nothing that a router must know.  Until it does,
the object has a fd of its own that leads nowhere: a connect() then is one request, DIAL, whose answer brings the real
one, and it is put in the place of the other under the same number.  Whoever asks for the number before that, and so
may have the fd watched, duplicated or inherited, or calls anything about the socket, makes it a real one first
(OPEN), which is never swapped again.

What is refused at socket() otherwise (a rule that has changed, a quota, a router that has stopped) then is refused at
connect().  A child of fork has a socket of its own where there was none yet.
"""

from __future__ import annotations

import fcntl
import os
import socket as stdlib
import threading
from typing import Any, Final

from rsock.base import RouterSocket, plain_init

_lock: Final = threading.Lock()


class LateSocket(RouterSocket):
    """A socket in a virtual router that may not have been opened there yet."""

    _late: bool = False
    _dialing: threading.Lock | None = None  # held while it is connected and opened in one

    def _obtain(self, kind: int, proto: int) -> None:
        path = self._ctx.locate(self.vr)
        if path is None or proto not in {0, stdlib.IPPROTO_TCP}:
            super()._obtain(kind, proto)  # another protocol is refused here
            return
        self._path, self._slot, self._cookie = path, 0, 0
        plain_init(self, stdlib.AF_UNIX, self._fd_kind, 0)
        self._late = True

    def _settle(self) -> None:
        """Open it; where another thread connects it just now, wait for that."""
        dialing = self._dialing
        if dialing is not None and dialing.acquire(timeout=self._ctx.timeout):  # nobody releases it after fork
            dialing.release()
        with _lock:
            if self._late:
                opened = self._ctx.open(self.vr, self._family, self._kind, self._wire_proto)
                self._path = opened.path
                self._replace(opened.slot, opened.cookie, opened.fd)

    def _replace(self, slot: int, cookie: int, fd: int) -> None:
        """Put the fd that leads to the router under the number of the other."""
        own = super().fileno()
        try:
            if self.gettimeout() is not None:
                fcntl.fcntl(fd, fcntl.F_SETFL, os.O_RDWR | os.O_NONBLOCK)
            os.dup2(fd, own, inheritable=False)
        finally:
            os.close(fd)
        self._slot, self._cookie, self._late = slot, cookie, False

    def fileno(self) -> int:
        """Give the number of the fd, from now on that of the socket in the router."""
        number = super().fileno()
        if self._late and number >= 0:
            self._settle()
        return number

    def detach(self) -> int:
        """Give the fd away."""
        self.fileno()
        return super().detach()

    def setsockopt(self, level: int, optname: int, value: Any, optlen: int | None = None) -> None:
        """Set an option, by the names and values of Linux."""
        if self._late:
            self._settle()
        super().setsockopt(level, optname, value, optlen)

    def getsockopt(self, level: int, optname: int, buflen: int = 0, *, question: bytes = b"") -> Any:
        """Get an option: an int, or with `buflen` bytes."""
        if self._late:
            self._settle()
        return super().getsockopt(level, optname, buflen, question=question)
