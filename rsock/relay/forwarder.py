"""Requests to one forwarder, some at once, without waiting for any.

A forwarder closes the connection of who does not read its answers, so only a few are out at a time; each app that has
more to ask has its turn.
A forwarder that was replaced is asked again what its predecessor left unanswered: requests are harmless to
repeat, as in `rsock.link`.  One that does not answer in time is given up (ETIMEDOUT); where nobody listens the VR
is down (ENETDOWN).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from rsock.client_core import ProtocolError, parse_record
from rsock.poll import Poll
from rsock.wire import HEADER, MAGIC, MAX_MESSAGE, Op

PATIENCE: Final = 5.0
LOOK: Final = 1.0
RETRY: Final = 0.005
OUT: Final = 16
_FDS: Final = 4

Done = Callable[[int, bytes, int], None]  # errno, body, fd or -1


@dataclass(slots=True)
class _Question:
    number: int
    record: bytes
    done: Done
    until: float


class Forwarder:
    """The connection to vr/NAME.sock."""

    def __init__(self, path: str, poll: Poll) -> None:
        self._path = path
        self._poll = poll
        self._peer: socket.socket | None = None
        self._last = 0
        self._waiting: OrderedDict[object, deque[_Question]] = OrderedDict()  # by who asks; whose turn it is first
        self._out: dict[int, _Question] = {}
        self._unsent: deque[int] = deque()  # of those that are out
        self._ticking = self._retrying = False

    def ask(
        self, op: Op, body: bytes = b"", *, slot: int = 0, cookie: int = 0, owner: object = None, done: Done
    ) -> None:
        """Ask on behalf of `owner`; `done` hears the answer."""
        self._last += 1
        record = HEADER.pack(MAGIC, op, 0, 0, self._last, slot, 0, cookie) + body
        question = _Question(self._last, record, done, time.monotonic() + PATIENCE)
        self._waiting.setdefault(owner, deque()).append(question)
        self._push()
        if not self._ticking and (self._out or self._waiting):
            self._ticking = True
            self._poll.after(LOOK, self._look)

    @property
    def idle(self) -> bool:
        """Tell whether nobody waits for an answer."""
        return not self._out and not self._waiting

    def close(self) -> None:
        """Close the connection; a later request makes another."""
        self._out.clear()
        self._lost()

    def _choose(self) -> None:
        """Let those out whose turn it is."""
        while self._waiting and len(self._out) < OUT:
            owner, questions = self._waiting.popitem(last=False)
            question = questions.popleft()
            if questions:
                self._waiting[owner] = questions
            self._out[question.number] = question
            self._unsent.append(question.number)

    def _push(self) -> None:
        self._choose()
        if not self._unsent or (self._peer is None and not self._connect()):
            return
        assert self._peer is not None
        while self._unsent:
            question = self._out.get(self._unsent[0])
            try:
                if question is not None:
                    self._peer.send(question.record)
            except BlockingIOError:
                return  # there will be an edge
            except OSError:
                self._lost()
                return
            self._unsent.popleft()

    def _connect(self) -> bool:
        try:
            peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        except OSError:  # no fd is left
            self._try_later()
            return False
        try:
            peer.connect(self._path)
        except BlockingIOError:  # its backlog is full, which passes
            peer.close()
            self._try_later()
            return False
        except OSError:
            peer.close()
            questions = [*self._out.values(), *(one for waiting in self._waiting.values() for one in waiting)]
            self._unsent.clear()
            self._out.clear()
            self._waiting.clear()
            for question in questions:
                question.done(errno.ENETDOWN, b"", -1)
            return False
        self._peer = peer
        self._poll.add(peer.fileno(), self._on_events)
        return True

    def _lost(self) -> None:
        if self._peer is not None:
            self._poll.remove(self._peer.fileno())
            self._peer.close()
            self._peer = None
        self._unsent = deque(self._out)
        if self._unsent:
            self._try_later()

    def _on_events(self, _events: int) -> None:
        while self._peer is not None and self._receive():
            pass
        if self._peer is not None:
            self._push()

    def _receive(self) -> bool:
        assert self._peer is not None
        try:
            data, fds, _flags, _address = socket.recv_fds(self._peer, MAX_MESSAGE, _FDS, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return False
        except OSError:
            data, fds = b"", []
        try:
            message = parse_record(data)
        except ProtocolError:  # its end as well
            _close(fds)
            self._lost()
            return False
        question = self._out.pop(message.request, None)
        if question is None or message.error:
            _close(fds)
            fds = []
        _close(fds[1:])
        if question is not None:
            question.done(message.error, message.body, fds[0] if fds else -1)
        return True

    def _try_later(self) -> None:
        if not self._retrying:
            self._retrying = True
            self._poll.after(RETRY, self._try)

    def _try(self) -> None:
        self._retrying = False
        self._push()

    def _look(self) -> None:
        """Give up what has waited for too long."""
        self._ticking = False
        now = time.monotonic()
        late = [question for question in self._out.values() if question.until <= now]
        for question in late:
            del self._out[question.number]
        for owner, questions in list(self._waiting.items()):
            while questions and questions[0].until <= now:
                late.append(questions.popleft())
            if not questions:
                del self._waiting[owner]
        for question in late:
            question.done(errno.ETIMEDOUT, b"", -1)
        self._push()
        if not self._ticking and (self._out or self._waiting):
            self._ticking = True
            self._poll.after(LOOK, self._look)


def _close(fds: list[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
