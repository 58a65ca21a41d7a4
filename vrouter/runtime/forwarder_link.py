"""Keeps the forwarder's ends of all sockets' fds, so that the sockets outlive the forwarder; logs denials.

    forwarder --HOLD {slot, cookie} + fd--> here         a socket was opened
    forwarder --HOLD {slot, gone}---------> here         it was closed
    (a new)   <--HOLD {slot, cookie} + fd-- here         after a forwarder's death: all of them,
    forwarder <--HOLD {0xffffffff}--------- here         then this; then as above
    forwarder --DENIED {who, what}--------> here         at most once a second of each identity
    forwarder --BFD {changes}-------------> here         a session has changed; to a new control, or from a new
                                                         forwarder, that it may have

vr/NAME.sock outlives the forwarder too: a connection made while none runs waits for the next one.
Messages: rsock/wire.py.
"""

from __future__ import annotations

import array
import contextlib
import errno
import logging
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Final

from fastpath import accounts
from rsock.link import descriptors
from rsock.wire import HEADER, MAGIC, Flag, Op, layout
from vrouter.runtime.loop import READ, WRITE, Loop

ALL: Final = 0xFFFFFFFF
MAX_HELD: Final = 4096  # MAX_SOCKETS
_HOLD: Final = layout("rsock_hold")
_BFD: Final = layout("rsock_bfd")
_DENIED: Final = layout("rsock_denied")
_FIRST_RETRY: Final = 0.002
_LAST_RETRY: Final = 0.1
_MAX_RECORD: Final = 512
_NUDGE: Final = HEADER.pack(MAGIC, Op.PING, 0, 0, 0, 0, 0, 0)
log = logging.getLogger(__name__)


class ForwarderLink:
    """One connection to vr/NAME.sock, made anew for ever."""

    def __init__(self, loop: Loop, path: str | bytes) -> None:
        """`path` is an address of AF_UNIX."""
        self._loop = loop
        self._path = path
        self._peer: socket.socket | None = None
        self._held: dict[int, tuple[int, int]] = {}  # slot -> cookie, fd
        self._unsent: deque[int] = deque()
        self._retry = _FIRST_RETRY
        self.bfd_changed: Callable[[], None] = lambda: None  # look at the state segment
        self._bfd_news = False

    @property
    def held(self) -> dict[int, int]:
        """Give slots and cookies of what is kept."""
        return {slot: cookie for slot, (cookie, _) in self._held.items()}

    def connect(self) -> None:
        """Connect, and give back what a predecessor had; try again until it works."""
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            peer.connect(self._path)
        except OSError as error:
            peer.close()
            log.debug("forwarder: %s", error)
            self._again()
            return
        self._peer = peer
        self._unsent = deque([*self._held, ALL])
        self._loop.watch(peer.fileno(), READ | WRITE, self._ready)

    def nudge(self) -> None:
        """Wake the forwarder, so that it looks at new tables now and not at its next turn; best effort."""
        if self._peer is not None and not self._unsent:
            with contextlib.suppress(OSError):  # busy, then it looks anyway; or gone, then _ready() hears of it
                self._peer.send(_NUDGE)

    def close(self) -> None:
        """Close the connection and all that is kept."""
        self._disconnect()
        for _, fd in self._held.values():
            os.close(fd)
        self._held.clear()

    def _again(self) -> None:
        self._loop.call_later(self._retry, self.connect)
        self._retry = min(2 * self._retry, _LAST_RETRY)

    def _disconnect(self) -> None:
        if self._peer is not None:
            self._loop.forget(self._peer.fileno())
            self._peer.close()
            self._peer = None

    def _ready(self, events: int) -> None:
        try:
            if events & WRITE:
                self._send()
            if events & READ:
                self._receive()
        except BlockingIOError:
            self._tell_bfd()
        except OSError as error:
            log.info("the forwarder went away: %s", error)
            self._disconnect()
            self._again()

    def _tell_bfd(self) -> None:
        """Many sessions may have changed at once, and one look is enough."""
        if self._bfd_news:
            self._bfd_news = False
            self.bfd_changed()

    def _send(self) -> None:
        """Give back as many fds as the forwarder takes now."""
        assert self._peer is not None
        while self._unsent:
            slot = self._unsent[0]
            cookie, fd = self._held.get(slot, (0, -1))
            if fd < 0 and slot != ALL:
                self._unsent.popleft()  # the socket was closed meanwhile
                continue
            record = HEADER.pack(MAGIC, Op.HOLD, 0, 0, 0, slot, 0, cookie) + _HOLD.pack(slot, 0, cookie)
            socket.send_fds(self._peer, [record], [] if slot == ALL else [fd])
            self._unsent.popleft()
        self._loop.watch(self._peer.fileno(), READ, self._ready)

    def _receive(self) -> None:
        assert self._peer is not None
        while True:
            data, ancillary, _flags, _ = self._peer.recvmsg(
                _MAX_RECORD, socket.CMSG_SPACE(4 * array.array("i").itemsize), socket.MSG_CMSG_CLOEXEC
            )
            if not data:
                raise ConnectionResetError("end of file")
            self._take(data, descriptors(ancillary))

    def _take(self, data: bytes, fds: list[int]) -> None:
        """Keep or let go of one fd; whatever else came is closed."""
        try:
            if len(data) < HEADER.size + min(_HOLD.size, _BFD.size):
                return
            magic, op, flags, *_rest = HEADER.unpack_from(data)
            if magic == MAGIC and op == Op.BFD:
                self._bfd_news = True
                return
            if magic == MAGIC and op == Op.DENIED and len(data) >= HEADER.size + _DENIED.size:
                _tell(*_DENIED.unpack_from(data, HEADER.size))
            if magic != MAGIC or op != Op.HOLD or flags & Flag.ERROR or len(data) < HEADER.size + _HOLD.size:
                return
            self._retry = _FIRST_RETRY
            slot, gone, cookie = _HOLD.unpack_from(data, HEADER.size)
            if gone:
                self._drop(slot, cookie)
            elif fds and slot < MAX_HELD:
                self._drop(slot)
                self._held[slot] = (cookie, fds.pop(0))
        finally:
            for fd in fds:
                os.close(fd)

    def _drop(self, slot: int, cookie: int | None = None) -> None:
        """Let go of what a slot holds; with a cookie, only if it is that socket's."""
        held = self._held.get(slot)
        if held is not None and cookie in {None, held[0]}:
            del self._held[slot]
            os.close(held[1])


def _tell(kind: int, uid: int, key: bytes, denial: int, error: int, suppressed: int) -> None:
    """Log what an app was denied; the forwarder sees to it that this is rare."""
    identity = accounts.name(kind, uid, key)
    operation = accounts.DENIALS[denial] if denial < len(accounts.DENIALS) else str(denial)
    number = errno.errorcode.get(error, str(error))
    log.warning("event=denied identity=%s operation=%s error=%s suppressed=%d", identity, operation, number, suppressed)
