"""Messages between an app on another host and a relay: in order and once each, over connections that break.

Without any I/O, and the same on both sides.  A message is two frames, the header of `wire` and bytes:

    request   the sender's number of it, counted from 1; the receiver drops what it had already
    socket    of the app's choice; of connections that were accepted (bit 31 set) of the relay's
    cookie    of a reply the number of its request, else what the operation says

    HELLO     (no number) begins a connection: the session's token, and the last message that came in; the reply
              tells the same of the relay.  Each then sends what the other has not seen.
    ACK       (no number) `request` is the last message that came in; with MORE it asks for an ACK
    BYE       (no number) the session is over
    OPEN      rsock_relayed, then as a forwarder gets it.  BIND, LISTEN, CONNECT, SETOPT, GETOPT, NAME, RESOLVE: so too
    CLOSE     the app has closed it; `error`: reset the connection
    DATA      bytes of a stream, or records of datagrams, each behind its length; `cookie` tells their offset
    CREDIT    `cookie`: the offset up to which the receiver takes bytes (of datagrams `weight`); of a listener how
              many connections
    END       the sender has no more bytes
    RESET     the connection has failed, or the VR has left the socket: `error`
    CONNECTED the connection that CONNECT began is there
    ACCEPT    `socket` was accepted from the listener `cookie`; the bytes are the name that a forwarder gave it
    LIST, WATCH, TICKET, PING, EVENT   as with a broker, with msgpack maps

A session outlives its connections by its lease.  What was sent and not acknowledged is kept, so its amount is
bounded: with no `room` left, nothing more is read from sockets.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from rsock.client_core import ProtocolError
from rsock.wire import HEADER, MAGIC, Flag, Op

Frames = tuple[bytes, "bytes | memoryview"]

FRAME: Final = 64 << 10  # bytes of one DATA message, but for its last record
RECORD: Final = 66 << 10  # a datagram is not longer
MAX_MESSAGE: Final = FRAME + RECORD
FIRST_CREDIT: Final = 64 << 10  # of each socket, both ways
CREDIT: Final = 256 << 10
ACCEPTS: Final = 64  # connections of a listener that wait at the app's host
IN_FLIGHT: Final = 8 << 20  # bytes that are kept because they may have to be sent again
MESSAGES: Final = 512
ACK_MESSAGES: Final = 64
ACK_BYTES: Final = 512 << 10
LEASE: Final = 10.0
HEARTBEAT: Final = 2.0
UNNUMBERED: Final = frozenset({Op.HELLO, Op.ACK, Op.BYE})
_HOLDING: Final = 256
_LENGTH: Final = struct.Struct("<I")


class Session:
    """One side of a session."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.received = 0
        self._sent = 0
        self._kept: deque[tuple[int, Frames]] = deque()
        self._kept_bytes = 0
        self._unsent: deque[Frames] = deque()
        self._acknowledged = 0
        self._owed_bytes = 0

    # --- sending ---

    @property
    def room(self) -> bool:
        """Tell whether more may be read from sockets."""
        return self._kept_bytes < IN_FLIGHT and len(self._kept) < MESSAGES

    @property
    def waiting(self) -> bool:
        """Tell whether something has not been sent on this connection."""
        return bool(self._unsent)

    @property
    def kept(self) -> int:
        """Give how many messages the other side has not acknowledged."""
        return len(self._kept)

    def send(
        self,
        op: Op,
        payload: bytes | memoryview = b"",
        *,
        flags: int = 0,
        socket: int = 0,
        error: int = 0,
        value: int = 0,
    ) -> int:
        """Put a message on its way; give its number."""
        self._sent += 1
        frames = (HEADER.pack(MAGIC, op, flags, self.number, self._sent, socket, error, value), payload)
        self._kept.append((self._sent, frames))
        self._kept_bytes += len(payload)
        self._unsent.append(frames)
        return self._sent

    def flush(self, write: Callable[[Frames], bool]) -> None:
        """Hand over what was not sent; `write` tells whether it took a message."""
        unsent = self._unsent
        while unsent and write(unsent[0]):
            unsent.popleft()

    def resume(self, seen: int) -> None:
        """Begin on a new connection: the other side has had messages up to this one.  Raises ProtocolError."""
        self.acknowledge(seen)
        self._unsent = deque(frames for _number, frames in self._kept)

    def acknowledge(self, seen: int) -> None:
        """Forget what the other side has.  Raises ProtocolError."""
        if seen > self._sent:
            raise ProtocolError("acknowledges what was not sent")
        kept = self._kept
        while kept and kept[0][0] <= seen:
            self._kept_bytes -= len(kept.popleft()[1][1])

    # --- receiving ---

    def is_new(self, number: int, length: int) -> bool:
        """Count a message in; False: it came before.  Raises ProtocolError."""
        if number <= self.received:
            return False
        if number != self.received + 1:
            raise ProtocolError("a message is missing")
        self.received = number
        self._owed_bytes += length
        return True

    @property
    def owes(self) -> bool:
        """Tell whether the other side waits for an acknowledgement, or might soon."""
        return self.received - self._acknowledged >= ACK_MESSAGES or self._owed_bytes >= ACK_BYTES

    @property
    def untold(self) -> bool:
        """Tell whether anything has come in since the last acknowledgement."""
        return self.received > self._acknowledged

    def ack(self, write: Callable[[Frames], bool | None], *, ask: bool = False) -> None:
        """Send an acknowledgement; `ask` for one."""
        flags = Flag.MORE if ask else 0
        if write((HEADER.pack(MAGIC, Op.ACK, flags, self.number, self.received, 0, 0, 0), b"")):
            self._acknowledged = self.received
            self._owed_bytes = 0


class Intake:
    """What comes in for one socket: counted against the credit that was given."""

    def __init__(self, first: int = FIRST_CREDIT) -> None:
        self.arrived = 0
        self.used = 0
        self._given = first

    @property
    def held(self) -> int:
        """Give the bytes that have come in and are still here."""
        return self.arrived - self.used

    def take(self, offset: int, length: int, slack: int = 0) -> None:
        """Count bytes in.  Raises ProtocolError."""
        if offset != self.arrived or offset + length > self._given + slack:
            raise ProtocolError("bytes beyond what was allowed")
        self.arrived += length

    def use(self, length: int, window: int = CREDIT) -> int:
        """Count bytes that have left; give a new credit where one is due, else 0."""
        self.used += length
        if self._given - self.used > window // 2:
            return 0
        self._given = max(self._given, self.used + window)
        return self._given


class Output:
    """What goes out of one socket: as far as there is credit."""

    def __init__(self) -> None:
        self.sent = 0
        self.credit = FIRST_CREDIT

    @property
    def room(self) -> int:
        """Give how many bytes may be sent."""
        return self.credit - self.sent


def join_records(records: Iterable[bytes]) -> bytes:
    """Make one message of datagrams."""
    return b"".join(part for record in records for part in (_LENGTH.pack(len(record)), record))


def cut_records(payload: bytes) -> list[memoryview]:
    """Take the datagrams of one message apart.  Raises ProtocolError."""
    view, found, at = memoryview(payload), [], 0
    while at < len(view):
        if at + _LENGTH.size > len(view):
            raise ProtocolError("half a length")
        (length,) = _LENGTH.unpack_from(view, at)
        at += _LENGTH.size
        if at + length > len(view):
            raise ProtocolError("half a record")
        found.append(view[at : at + length])
        at += length
    return found


def weight(records: Iterable[bytes | memoryview]) -> int:
    """Give what datagrams count for: their bytes, and what it takes to hold them."""
    return sum(_HOLDING + len(record) for record in records)
