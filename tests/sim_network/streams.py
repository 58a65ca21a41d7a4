"""TCP as simulated routers have it: connections that survive loss, and that nobody can tell from real ones by events.

One flight at a time: what was written is sent as one segment, and again until it is acknowledged, at growing
intervals; after TRIES of them the connection is gone (ETIMEDOUT).  Segments are packets of the simulated network,
so they follow the FIBs, are lost, and stop at a TTL that is too small (RFC 5082) or a wrong key (RFC 2385).
A segment for a connection that is not known (any more) is answered by a reset.
"""

from __future__ import annotations

import errno
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from datagrams import TCP, TTL, Packet, key_for

from vrouter.engine import inputs
from vrouter.proto.base import CloseSocket, Md5Key, OpenSocket, SetKeys, SetMinTtl, Write

if TYPE_CHECKING:
    from sim_router import SimRouter

    from vrouter.net.address import Address

FIRST_RETRY: Final = 0.2
LAST_RETRY: Final = 5.0
TRIES: Final = 12
FLIGHT: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Segment:
    """What a connection's ends tell each other."""

    kind: str  # syn, syn-ack, data, ack, fin, reset
    number: int = 0  # of the flight
    data: bytes = b""
    key: bytes = b""


Tuple = tuple["Address", int, "Address", int]


class Connection:
    """One end of a connection."""

    def __init__(self, instance: str, socket: str, ends: Tuple, request: OpenSocket) -> None:
        """Begin: `ends` are the local address and port, then the remote ones."""
        self.instance, self.socket, self.ends = instance, socket, ends
        self.ttl, self.min_ttl = request.ttl or TTL, request.min_ttl
        self.keys: tuple[Md5Key, ...] = request.md5
        self.open = False
        self.closing = False
        self.waiting: deque[bytes] = deque()
        self.flight: Segment | None = None
        self.sent = 0  # flights that have begun
        self.got = 0  # of the other's that were taken
        self.tries = 0


class Streams:
    """All connections and listeners of a router."""

    def __init__(self, router: SimRouter) -> None:
        """Begin with none."""
        self._router = router
        self._network = router.network
        self._listeners: dict[tuple[str, str], OpenSocket] = {}
        self._connections: dict[Tuple, Connection] = {}
        self._names: dict[tuple[str, str], Connection] = {}
        self._next_port = 49152
        self._accepted = 0

    # What instances ask for

    def listen(self, instance: str, request: OpenSocket) -> None:
        """Open a listener."""
        taken = any(
            other.family == request.family and other.local_port == request.local_port and other.local == request.local
            for other in self._listeners.values()
        )
        if taken:
            self._tell(inputs.Closed(instance, request.socket, errno.EADDRINUSE))
            return
        self._listeners[instance, request.socket] = request
        self._tell(inputs.Opened(instance, request.socket))

    def connect(self, instance: str, request: OpenSocket) -> None:
        """Begin a connection."""
        assert request.remote is not None
        local = request.local or self._router.source_for(request.remote, request.interface)
        if local is None:
            self._tell(inputs.Closed(instance, request.socket, errno.ENETUNREACH))
            return
        port = request.local_port or self._next_port
        self._next_port += 1
        ends = (local, port, request.remote, request.remote_port)
        made = Connection(instance, request.socket, ends, request)
        self._connections[ends] = self._names[instance, request.socket] = made
        made.flight = Segment("syn")
        self._transmit(made)

    def close(self, instance: str, request: CloseSocket) -> None:
        """Close a listener or a connection."""
        if self._listeners.pop((instance, request.socket), None) is not None:
            return
        connection = self._names.pop((instance, request.socket), None)
        if connection is None:
            return
        if request.reset or not connection.open:
            self._send(connection, Segment("reset"))
            self._forget(connection)
        else:
            connection.closing = True
            self._pump(connection)

    def write(self, instance: str, request: Write) -> None:
        """Take bytes."""
        connection = self._names.get((instance, request.socket))
        if connection is not None and request.data:
            connection.waiting.append(request.data)
            self._pump(connection)

    def set(self, instance: str, request: SetKeys | SetMinTtl) -> None:
        """Change keys or TTLs of a listener or a connection."""
        connection = self._names.get((instance, request.socket))
        listener = self._listeners.get((instance, request.socket))
        if isinstance(request, SetMinTtl):
            if connection is not None:
                connection.ttl, connection.min_ttl = request.ttl or TTL, request.min_ttl
            return
        if connection is not None:
            connection.keys = _merged(connection.keys, request.md5)
        if listener is not None:
            merged = _merged(listener.md5, request.md5)
            self._listeners[instance, request.socket] = _with_keys(listener, merged)

    # What comes in

    def arrived(self, packet: Packet) -> None:
        """Take a segment."""
        segment: Segment = packet.data
        ends = (packet.destination, packet.destination_port, packet.source, packet.source_port)
        connection = self._connections.get(ends)
        if connection is None:
            if segment.kind == "syn":
                self._accept(ends, packet)
            elif segment.kind not in ("reset", "ack"):
                self._router.send(_packet(ends, TTL, Segment("reset")))
            return
        if packet.ttl < connection.min_ttl or segment.key != key_for(connection.keys, ends[2]):
            return
        match segment.kind:
            case "syn":
                if connection.open and connection.got == 0 and connection.sent == 0:
                    self._send(connection, Segment("syn-ack"))  # ours was lost
                elif connection.open:
                    self._send(connection, Segment("reset"))  # the other end has begun anew
                    self._lost(connection, errno.ECONNRESET)
            case "syn-ack":
                self._established(connection)
            case "ack":
                self._acknowledged(connection, segment.number)
            case "reset":
                self._lost(connection, errno.ECONNREFUSED if not connection.open else errno.ECONNRESET)
            case _:
                self._data(connection, segment)

    def _accept(self, ends: Tuple, packet: Packet) -> None:
        for (instance, name), request in self._listeners.items():
            fits = request.family == ends[0].family and request.local_port == ends[1]
            if not fits or (request.local is not None and request.local != ends[0]):
                continue
            if packet.ttl < request.min_ttl or packet.data.key != key_for(request.md5, ends[2]):
                return
            self._accepted += 1
            made = Connection(instance, f"{name}#{self._accepted}", ends, request)
            made.open = True
            self._connections[ends] = self._names[instance, made.socket] = made
            self._send(made, Segment("syn-ack"))
            self._tell(inputs.Accepted(instance, name, made.socket, ends[0], ends[2]))
            return
        self._router.send(_packet(ends, TTL, Segment("reset", key=packet.data.key)))

    def _established(self, connection: Connection) -> None:
        if not connection.open:
            connection.open, connection.flight, connection.tries = True, None, 0
            self._tell(inputs.Connected(connection.instance, connection.socket, connection.ends[0], connection.ends[2]))
            self._pump(connection)

    def _data(self, connection: Connection, segment: Segment) -> None:
        if not connection.open:
            return
        self._send(connection, Segment("ack", segment.number))
        if segment.number != connection.got + 1:
            return  # again what we had
        connection.got += 1
        if (connection.instance, connection.socket) in self._names:
            self._tell(inputs.Stream(connection.instance, connection.socket, segment.data))
        elif segment.data:  # nobody reads it any more
            self._send(connection, Segment("reset"))
            self._forget(connection)

    def _acknowledged(self, connection: Connection, number: int) -> None:
        flight = connection.flight
        if flight is None or flight.number != number:
            return
        connection.flight, connection.tries = None, 0
        if flight.kind == "fin":
            self._forget(connection)
            return
        self._pump(connection)
        if connection.flight is None and (connection.instance, connection.socket) in self._names:
            self._tell(inputs.Writable(connection.instance, connection.socket))

    # What goes out

    def _pump(self, connection: Connection) -> None:
        if not connection.open or connection.flight is not None:
            return
        if connection.waiting:
            data = b""
            while connection.waiting and len(data) < FLIGHT:
                data += connection.waiting.popleft()
            connection.sent += 1
            connection.flight = Segment("data", connection.sent, data)
        elif connection.closing:
            connection.sent += 1
            connection.flight = Segment("fin", connection.sent)
        if connection.flight is not None:
            self._transmit(connection)

    def _transmit(self, connection: Connection) -> None:
        """Send the flight, and see later whether it has arrived."""
        flight = connection.flight
        assert flight is not None
        self._send(connection, flight)
        delay = min(FIRST_RETRY * 2**connection.tries, LAST_RETRY)
        self._network.after(delay, self._again, connection, flight)

    def _again(self, connection: Connection, flight: Segment) -> None:
        if connection.flight is not flight or self._connections.get(connection.ends) is not connection:
            return
        connection.tries += 1
        if connection.tries >= TRIES:
            self._lost(connection, errno.ETIMEDOUT)
        else:
            self._transmit(connection)

    def _send(self, connection: Connection, segment: Segment) -> None:
        keyed = Segment(segment.kind, segment.number, segment.data, key_for(connection.keys, connection.ends[2]))
        self._router.send(_packet(connection.ends, connection.ttl, keyed))

    def _lost(self, connection: Connection, error: int) -> None:
        self._forget(connection)
        if self._names.pop((connection.instance, connection.socket), None) is not None:
            self._tell(inputs.Closed(connection.instance, connection.socket, error))

    def _forget(self, connection: Connection) -> None:
        connection.flight = None
        self._connections.pop(connection.ends, None)

    def reset_all(self) -> None:
        """End everything as a process that dies does: the other ends are told by resets."""
        for connection in list(self._connections.values()):
            self._send(connection, Segment("reset"))
        self.__init__(self._router)  # type: ignore[misc]

    def _tell(self, event: inputs.Input) -> None:
        # Not at once: an engine is never told something while it still gives out what it asks for.
        self._network.after(0, self._router.tell, event, self._router.incarnation)


def _packet(ends: Tuple, ttl: int, segment: Segment) -> Packet:
    return Packet(TCP, ends[0], ends[2], ttl, segment, ends[1], ends[3])


def _merged(keys: tuple[Md5Key, ...], changes: tuple[Md5Key, ...]) -> tuple[Md5Key, ...]:
    by_prefix = {entry.peers: entry for entry in (*keys, *changes)}
    return tuple(entry for entry in by_prefix.values() if entry.key)


def _with_keys(request: OpenSocket, keys: tuple[Md5Key, ...]) -> OpenSocket:
    return OpenSocket(
        request.socket, request.kind, request.family, local=request.local, local_port=request.local_port,
        interface=request.interface, ttl=request.ttl, min_ttl=request.min_ttl, md5=keys,
    )  # fmt: skip
