"""The instances' sockets, in the VR's own socket layer: what any app may have, and nothing else.

    engine --OpenSocket, Transmit, Write ...--> Transport --vr/NAME.sock, fds--> forwarder
    engine <--Opened, Received, Stream ...-----'

Nothing waits here: requests go through SocketLayer, fds are watched by the control's loop, each gets a bounded share
of a turn.  What a request leads to is told to the engine in a later turn, never at once.

A forwarder that dies takes the streams along (ECONNABORTED); datagram sockets and listeners go on with its successor.
"""

from __future__ import annotations

import errno
import logging
from collections import deque
from collections.abc import Callable
from typing import Final

from vrouter.engine import inputs
from vrouter.engine.outputs import SocketRequest
from vrouter.net.address import Address
from vrouter.proto.base import (
    CloseSocket,
    JoinGroup,
    LeaveGroup,
    OpenSocket,
    SetKeys,
    SetMinTtl,
    SocketKind,
    Transmit,
    Write,
)
from vrouter.runtime import socket_options
from vrouter.runtime.loop import Loop
from vrouter.runtime.socket_layer import SocketLayer
from vrouter.runtime.transport_sockets import Datagrams, Listener, Owned, Stream, World

log = logging.getLogger(__name__)
_Key = tuple[str, str]
LINGER: Final = 2.0  # seconds in which a peer may take what was written before a socket was closed


class Transport:
    """All sockets of a VR's instances, by instance and name."""

    def __init__(
        self, loop: Loop, path: str | bytes, index: Callable[[str], int], name: Callable[[int], str],
        feed: Callable[[inputs.Input], None],
    ) -> None:  # fmt: skip
        """`path` is the forwarder's; `index` gives an interface's number or 0, `name` goes the other way."""
        self._loop = loop
        self._layer = SocketLayer(loop, path)
        self._index = index
        self._feed = feed
        self._sockets: dict[_Key, Owned] = {}
        self._lingering: set[Stream] = set()
        self._untold: deque[inputs.Input] = deque()
        self._telling = False
        self._world = World(loop, self._layer, self._number, name, self._tell, feed, self._closed, self._accepted)

    def ask(self, instance: str, request: SocketRequest) -> None:
        """Carry out what an instance asks for."""
        if isinstance(request, OpenSocket):
            self._open((instance, request.socket), request)
            return
        found = self._sockets.get((instance, request.socket))
        if found is None:
            return  # it is gone, and the instance is being told
        match request:
            case Write(_, data):
                if isinstance(found, Stream):
                    found.write(data)
            case Transmit():
                if isinstance(found, Datagrams):
                    found.transmit(request)
            case CloseSocket(_, reset):
                del self._sockets[instance, request.socket]
                self._close(found, reset=reset)
            case JoinGroup(_, interface, group) | LeaveGroup(_, interface, group):
                self._membership(found, interface, group, join=isinstance(request, JoinGroup))
            case SetKeys(_, keys):
                found.set_options([socket_options.md5(key) for key in keys])
            case SetMinTtl(_, min_ttl, ttl):
                self._set_ttl(found, min_ttl, ttl)

    def drain(self, done: Callable[[], None]) -> None:
        """Call back once closed sockets have written what they had to, or after a while."""
        deadline = self._loop.now() + LINGER

        def look() -> None:
            if not self._lingering or self._loop.now() >= deadline:
                done()
            else:
                self._loop.call_later(0.01, look)

        self._loop.call_later(0, look)

    def drop_all(self) -> None:
        """Close all at once, and tell nobody."""
        for found in [*self._sockets.values(), *self._lingering]:
            found.drop()
        self._sockets.clear()
        self._lingering.clear()
        self._untold.clear()

    def close(self) -> None:
        """Close all, and the connection to the forwarder."""
        self.drop_all()
        self._layer.close()

    def _open(self, key: _Key, wanted: OpenSocket) -> None:
        kinds = {SocketKind.LISTEN: Listener, SocketKind.CONNECT: Stream}
        made = kinds.get(wanted.kind, Datagrams)(self._world, key, wanted)
        self._sockets[key] = made
        made.open()

    def _close(self, found: Owned, *, reset: bool) -> None:
        if isinstance(found, Stream) and not reset and found.finish(self._lingering.discard):
            self._lingering.add(found)
            self._loop.call_later(LINGER, found.drop)
            return
        found.shut(reset=reset)

    def _membership(self, found: Owned, interface: str, group: Address, *, join: bool) -> None:
        try:
            number = self._number(interface)
        except OSError:
            return  # with the interface all its groups went
        found.set_options([socket_options.membership(group.family, group, number, join=join)])

    @staticmethod
    def _set_ttl(found: Owned, min_ttl: int, ttl: int) -> None:
        family = found.wanted.family
        options = [socket_options.min_ttl(family, min_ttl)]
        if ttl:
            options.append(socket_options.ttl(family, ttl))
        found.set_options(options)

    def _number(self, interface: str) -> int:
        number = self._index(interface)
        if not number:
            raise OSError(errno.ENODEV, f"no interface {interface}")
        return number

    # --- what the sockets tell ---

    def _tell(self, event: inputs.Input) -> None:
        """Tell the engine in a later turn."""
        self._untold.append(event)
        if not self._telling:
            self._telling = True
            self._loop.call_later(0, self._tell_all)

    def _tell_all(self) -> None:
        self._telling = False
        untold, self._untold = self._untold, deque()
        for event in untold:
            self._feed(event)

    def _closed(self, found: Owned, error: int) -> None:
        if self._sockets.get(found.key) is found:
            del self._sockets[found.key]
            self._tell(inputs.Closed(*found.key, error))
        if isinstance(found, Stream):
            self._lingering.discard(found)

    def _accepted(self, listener: Listener, made: Stream, local: Address, remote: Address) -> None:
        self._sockets[made.key] = made
        self._feed(inputs.Accepted(made.key[0], listener.key[1], made.key[1], local, remote))
        if self._sockets.get(made.key) is made:
            made.watch()
