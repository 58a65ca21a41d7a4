"""The ends of apps' fds: here the pump is to an app what a forwarder is to a local one (see `rsock.wire`).

    app --fd--> Stream, Datagrams --messages--> relay

A stream keeps the last byte that the app wrote unread, so that the kernel itself tells a reset from an end of file,
and does not read at all until TCP is connected, so that the fd becomes writable then.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import select
import socket
import struct
import termios
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Final

from rsock.poll import look
from rsock.remote.recipe import Recipe
from rsock.session import ACCEPTS, FRAME, RECORD, Intake, Output, cut_records, join_records, weight
from rsock.wire import STREAM_APP_BUFFER, Op

if TYPE_CHECKING:
    from rsock.remote.pump import Pump

OUR_BUFFER: Final = 256 << 10
DATAGRAM_BUFFER: Final = 1 << 20
_SCRATCH: Final = 64 << 10
_INT: Final = struct.Struct("=i")
_RETRY: Final = 0.002
_NONCE_BITS: Final = 44  # what the name of an accepted connection has room for


def peer_is_ours(end: socket.socket) -> bool:
    """Tell whether the other end belongs to our user: abstract names keep nobody out."""
    credentials = end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return struct.unpack("=iII", credentials)[1] in {os.geteuid(), 0}


class End:
    """What streams and datagram sockets have in common."""

    letters: ClassVar[str]

    def __init__(self, pump: Pump, vr: str, family: int, slot: int) -> None:
        self.pump, self.vr, self.family, self.slot = pump, vr, family, slot
        self.wire = slot  # its number towards the relay
        self.cookie = secrets.randbits(_NONCE_BITS) | 1
        self.end: socket.socket | None = None
        self.intake, self.output = Intake(), Output()
        self._down: deque[memoryview] = deque()
        self.has_turn = False
        self.recipe = Recipe()
        self.arming = False  # another relay is being told what it is

    @property
    def rearmable(self) -> bool:
        """Tell whether another relay can have it as well."""
        return True

    @property
    def name(self) -> bytes:
        """Give the name of the app's fd."""
        version = 4 if self.family == socket.AF_INET else 6
        return f"\0rsk1/{self.vr}/{self.letters[0]}{version}/{self.slot:x}.{self.cookie:x}".encode()

    @property
    def joined(self) -> bool:
        """Tell whether we hold the other end of the app's fd."""
        return self.end is not None

    def renew(self) -> None:
        """Begin to count anew: another relay knows nothing of what was sent."""
        self.intake, self.output = Intake(), Output()
        self._down.clear()

    def watch(self, end: socket.socket) -> None:
        """Take our end."""
        end.setblocking(False)
        self.end = end
        self.pump.poll.add(end.fileno(), self.on_events)

    def leave(self) -> None:
        """Close our end."""
        if self.end is not None:
            self.pump.poll.remove(self.end.fileno())
            self.end.close()
            self.end = None

    def close(self, *, reset: bool = False) -> None:
        """The app has closed it."""
        self.leave()
        self.pump.forget(self)
        self.pump.session.send(Op.CLOSE, socket=self.wire, error=errno.ECONNRESET if reset else 0)

    def hung_up(self) -> bool:
        """Tell whether nobody holds the app's end any more."""
        if self.end is None:
            return False
        return bool(look(self.end.fileno()) & (select.POLLHUP | select.POLLNVAL))

    def allow(self, credit: int) -> None:
        """Take credit."""
        self.output.credit = max(self.output.credit, credit)
        self.pump.wants_turn(self)

    def _used(self, length: int) -> None:
        credit = self.intake.use(length)
        if credit:
            self.pump.session.send(Op.CREDIT, socket=self.wire, value=credit)

    def on_events(self, events: int) -> None:
        """Hear from epoll."""
        raise NotImplementedError

    def pull(self) -> bool:
        """Send a piece of what the app wrote; tell whether there may be more."""
        raise NotImplementedError

    def data(self, payload: bytes, offset: int) -> None:
        """Take what the relay sent."""
        raise NotImplementedError

    def failed(self, error: int) -> None:
        """Hear that the socket is over."""
        raise NotImplementedError


class Stream(End):
    """A TCP socket."""

    letters = "tcp"

    def __init__(self, pump: Pump, vr: str, family: int, slot: int) -> None:
        super().__init__(pump, vr, family, slot)
        self._made = False  # the app has a fd
        self.listening = self.accepted = False
        self.connecting = False  # or connected: nothing that could be made again
        self.waits = False  # for the app to accept it
        self.told: Callable[[int], None] | None = None  # hears what became of connecting
        self.connected = False
        self.over = False  # the connection has failed, or it was lost
        self.pending = 0  # SO_ERROR
        self.skip = 0  # filler that is still to come
        self._held = 0  # bytes in the app's queue that have been sent
        self._ending = self._shut = self._peer_closed = False
        self._full = False
        self._introduced = 0
        self._guests: deque[Stream] = deque()

    def make(self) -> socket.socket:
        """Make the app's fd."""
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, STREAM_APP_BUFFER)
        made.bind(self.name)
        self._made = True
        return made

    def look(self) -> bool:
        """See whether no process holds the app's fd any more, where no end of ours would tell; then close."""
        if self.end is not None or self.accepted or not self._made:
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as scratch:
            try:
                scratch.bind(self.name)
            except OSError:
                return False
        self.close()
        return True

    def close(self, *, reset: bool = False) -> None:
        """The app has closed it."""
        for guest in self._guests:
            guest.close(reset=True)
        self._guests.clear()
        super().close(reset=reset)

    @property
    def rearmable(self) -> bool:
        """Tell whether another relay can have it as well."""
        return not self.connecting

    # --- meeting ---

    def join(self, end: socket.socket) -> None:
        """The app's fd has connected to us."""
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, OUR_BUFFER)
        self.watch(end)
        self.flush()
        if self.over:
            self.leave()
        elif self.connected:
            self.pump.wants_turn(self)

    def established(self) -> None:
        """TCP is connected."""
        self.connected = True
        self._tell(0)
        self.pump.wants_turn(self)

    def _tell(self, error: int) -> None:
        """Tell whoever waits for the connection."""
        told, self.told = self.told, None
        if told is not None:
            told(error)

    def abandon(self) -> None:
        """Nobody wants the connection any more; the socket stays, and is good for nothing."""
        if not self.over and not self.accepted:
            self.told = None
            self.pump.session.send(Op.CLOSE, socket=self.wire, error=errno.ECONNRESET)
            self.failed(errno.ECONNABORTED)

    def guest(self, guest: Stream, name: bytes) -> None:
        """Have the app accept a connection; `name` tells it who the peer is."""
        end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            end.bind(name)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, OUR_BUFFER)
        except OSError:
            end.close()
            guest.close(reset=True)
            return
        guest.accepted = guest.connected = guest.connecting = guest.waits = True
        guest.end = end
        self._guests.append(guest)
        if len(self._guests) == 1:
            self.introduce()

    def introduce(self) -> None:
        """Connect those who wait to the app, as many as it takes."""
        while self._guests:
            guest = self._guests[0]
            if guest.end is not None:
                guest.end.setblocking(False)
                try:
                    guest.end.connect(self.name)
                except OSError as problem:
                    # Refused: it is gone, or has not called listen(2) yet.  EAGAIN: its backlog is full.
                    if problem.errno != errno.ECONNREFUSED or not self.look():
                        self.pump.poll.after(_RETRY, self.introduce)
                    return
                guest.begin()
            self._guests.popleft()
            self._introduced += 1
            self.pump.session.send(Op.CREDIT, socket=self.wire, value=self._introduced + ACCEPTS)

    def begin(self) -> None:
        """The app can accept us."""
        assert self.end is not None
        self.waits = False
        self.watch(self.end)
        self.flush()
        if self.over:
            self.leave()
            self._bury()
        else:
            self.pump.wants_turn(self)

    def renew(self) -> None:
        """Begin to count anew."""
        super().renew()
        self._introduced = 0

    # --- from the app ---

    def on_events(self, events: int) -> None:
        """Hear from epoll."""
        if events & (select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR):
            self._ending = True
        if events & select.EPOLLOUT and self._full:
            self._full = False
            self.flush()
        self.pump.wants_turn(self)

    def pull(self) -> bool:
        """Send a piece of what the app wrote; tell whether there may be more."""
        if self.end is None or self.waits:
            return False
        if not self.connected:
            if self._ending and self.hung_up():
                self.close()
            return False
        if self.skip and not self._skip_filler():
            return False
        waiting = _INT.unpack(fcntl.ioctl(self.end, termios.FIONREAD, bytes(4)))[0]
        fresh = waiting - self._held
        if fresh <= 0:
            if self._ending:
                self._end()
            return False
        room = min(fresh, self.output.room, FRAME)
        if room <= 0 or self._shut:
            return False
        payload = self._read(room, whole=room == fresh)
        if not payload:
            return False
        self.pump.session.send(Op.DATA, payload, socket=self.wire, value=self.output.sent)
        self.output.sent += len(payload)
        return room < fresh or self._ending

    def _read(self, room: int, *, whole: bool) -> memoryview:
        """Read what is held and so much more; of all that there is, the last byte only looking."""
        assert self.end is not None
        size = self._held + room
        view = memoryview(bytearray(size))
        read = size - 1 if whole and not self._peer_closed else size
        got = self.end.recv_into(view, read) if read else 0
        if got == read < size:
            self.end.recv_into(view[got:], 1, socket.MSG_PEEK)
            payload, self._held = view[self._held :], 1
            return payload
        payload = view[self._held : got]
        self._held = max(self._held - got, 0)
        return payload

    def _skip_filler(self) -> bool:
        """Read all of the filler but its last byte, which becomes the one that is held."""
        assert self.end is not None
        with contextlib.suppress(BlockingIOError):
            while self.skip > 1:
                got = len(self.end.recv(min(self.skip - 1, _SCRATCH)))
                if not got:
                    break
                self.skip -= got
            if self.skip == 1 and self.end.recv(1, socket.MSG_PEEK):
                self.skip, self._held = 0, 1
                self.flush()
        if self.skip and self._ending and self.hung_up():
            self.close()
        return self.joined and not self.skip

    def _end(self) -> None:
        """The app's bytes have ended."""
        assert self.end is not None
        if self.end.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET:
            self.close(reset=True)  # it left with bytes unread, as RFC 9293's ABORT
        # Behind the peer's FIN the app's end is the end of all, be it shutdown or close.
        elif (self._peer_closed and not self._down) or self.hung_up():
            self.close()
        elif not self._shut:
            self._shut = True
            self.pump.session.send(Op.END, socket=self.wire)

    # --- to the app ---

    def data(self, payload: bytes, offset: int) -> None:
        """Take what the relay sent."""
        self.intake.take(offset, len(payload))
        self._down.append(memoryview(payload))
        if len(self._down) == 1:
            self.flush()

    def flush(self) -> None:
        """Write what waits; behind it perhaps the end."""
        down = self._down
        while down and self.end is not None and not self.waits:
            try:
                sent = self.end.send(down[0])
            except BlockingIOError:
                self._full = True
                return
            except OSError:  # the app reads no more
                sent = len(down[0])
            if sent == len(down[0]):
                down.popleft()
            else:
                down[0] = down[0][sent:]
            self._used(sent)
        if self._peer_closed and not down and not self.skip and self.end is not None and not self.waits:
            self._close_towards_app()

    def peer_ended(self) -> None:
        """The peer's bytes have ended."""
        self._peer_closed = True
        self.flush()

    def _close_towards_app(self) -> None:
        """An end of file from now on, whatever comes: nothing may stay unread."""
        assert self.end is not None
        with contextlib.suppress(OSError):
            while self._held:
                self._held -= len(self.end.recv(self._held))
        if self._shut:
            self.close()
        else:
            with contextlib.suppress(OSError):
                self.end.shutdown(socket.SHUT_WR)

    def failed(self, error: int) -> None:
        """Hear that the connection is over: with a byte unread the kernel tells the app so."""
        if self.over:
            return
        self.flush()
        self.over, self.pending = True, error
        if self.waits:
            return  # the app will find out when it has accepted it
        if self._peer_closed and self._down:
            self._shut = True  # all of the peer's bytes are here: the app gets them, and the end of the file
            return
        self._down.clear()
        self.leave()
        if self.told is not None:
            self.pending = 0
            self._tell(error or errno.ECONNRESET)
        if self.accepted:
            self._bury()

    def _bury(self) -> None:
        """Go: an accepted fd has its listener's name, which tells nothing of it."""
        self.pump.bury(self.cookie, self.pending)
        self.close()


class Datagrams(End):
    """A datagram or raw socket: records pass as they are."""

    letters = "udp"

    def __init__(self, pump: Pump, vr: str, family: int, slot: int, *, raw: bool) -> None:
        super().__init__(pump, vr, family, slot)
        if raw:
            self.letters = "raw"  # type: ignore[misc]
        self._deaf = False

    def make(self) -> socket.socket:
        """Make the pair; give the app's end."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, DATAGRAM_BUFFER)
        with contextlib.suppress(OSError):
            theirs.bind(self.name)
        self.watch(ours)
        return theirs

    def on_events(self, events: int) -> None:
        """Hear from epoll."""
        if events & select.EPOLLOUT and self._down:
            self.flush()
        self.pump.wants_turn(self)

    def pull(self) -> bool:
        """Send what the app wrote; tell whether there may be more."""
        records: list[bytes] = []
        size = 0
        more = True
        while self.end is not None and not self._deaf and size < FRAME and self.output.room > size:
            try:
                record = self.end.recv(RECORD)
            except BlockingIOError:
                more = False
                break
            except OSError:  # it left with datagrams unread; what it sent is behind this
                continue
            if not record and self._is_end():
                more = False
                break
            records.append(record)
            size += weight((record,))
        if records:
            self.pump.session.send(Op.DATA, join_records(records), socket=self.wire, value=self.output.sent)
            self.output.sent += size
        if not more and self.end is not None and self.hung_up():
            self.close()
        return more and bool(records)

    def _is_end(self) -> bool:
        """Tell what a record of no bytes means: the end, the app's shutdown, or an empty datagram."""
        assert self.end is not None
        self._deaf = bool(look(self.end.fileno(), select.POLLRDHUP) & (select.POLLRDHUP | select.POLLHUP))
        return self._deaf

    def data(self, payload: bytes, offset: int) -> None:
        """Take what the relay sent."""
        records = cut_records(payload)
        self.intake.take(offset, weight(records), RECORD)
        self._down.extend(records)
        self.flush()

    def flush(self) -> None:
        """Write what waits."""
        down = self._down
        while down and self.end is not None:
            try:
                self.end.send(down[0])
            except BlockingIOError:
                return
            except OSError:
                pass  # the app is gone
            self._used(weight((down.popleft(),)))

    def failed(self, error: int) -> None:
        """Hear that the VR has left it: an end of file, which the library calls ENETDOWN."""
        del error
        self.close()
