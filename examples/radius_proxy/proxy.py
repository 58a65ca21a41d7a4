#!/usr/bin/env python3
"""A RADIUS proxy keyed by virtual router: the same client address in two routers is two clients.

    client 10.0.0.2 --(VR red)---+         +--(VR mgmt)--> home server of red
                                 +--proxy--+
    client 10.0.0.2 --(VR blue)--+         +--(kernel)---> home server of blue

One unprivileged process with one socket for authentication and one for accounting, each in all routers that the file
names (with `"*"`: in all that there are and will be).  RFC 2865, 2866; Proxy-State as in RFC 2865 section 5.33;
repeated requests as in RFC 5080 section 2.2.2; requests must be signed (Message-Authenticator) unless the file says
otherwise.

Repetition is the client's business: the proxy sends a request once for each time that it arrives, to the next server
where the present one does not answer.

Not supported: routing by realm, Status-Server, change of authorization (RFC 5176), TLS.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import logging
import secrets
import selectors
import socket
import sys
import time
import tomllib
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import radius
from radius import Code, Hop, Packet, RadiusError, Type

import rsock

log = logging.getLogger("radius-proxy")

REMEMBERED: Final = 5.0  # seconds that an answer is kept for repetitions of its request (RFC 5080)
PATIENCE: Final = 30.0  # seconds that a request waits for its answer
DEAD_AFTER: Final = 3  # sendings in a row without any answer
DEAD_FOR: Final = 30.0
MAX_PENDING: Final = 4096  # of one router
IDENTIFIERS: Final = 256
REQUESTS: Final[dict[int, str]] = {Code.ACCESS_REQUEST: "auth", Code.ACCOUNTING_REQUEST: "acct"}
ANSWERS: Final[dict[int, set[Code]]] = {
    Code.ACCESS_REQUEST: {Code.ACCESS_ACCEPT, Code.ACCESS_REJECT, Code.ACCESS_CHALLENGE},
    Code.ACCOUNTING_REQUEST: {Code.ACCOUNTING_RESPONSE},
}
PORTS: Final = {"auth": 1812, "acct": 1813}

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Server:
    """A home server: where it is, and our secret with it."""

    vr: str
    host: str
    ports: dict[str, int] = field(hash=False)
    secret: bytes


@dataclass(frozen=True)
class Tenant:
    """A router: who may ask there, and who answers."""

    clients: tuple[tuple[Network, bytes], ...]
    servers: tuple[Server, ...]
    signed: bool  # unsigned Access-Requests are refused

    def secret_of(self, address: str) -> bytes | None:
        """Find the secret of a client: the most specific network wins."""
        host = ipaddress.ip_address(address.partition("%")[0])
        if isinstance(host, ipaddress.IPv6Address) and host.ipv4_mapped:
            host = host.ipv4_mapped
        found = [(network.prefixlen, secret) for network, secret in self.clients if host in network]
        return max(found)[1] if found else None


def read_tenants(path: Path) -> dict[str, Tenant]:
    """Read the file.  Raises ValueError with the place."""
    with path.open("rb") as file:
        tables = tomllib.load(file).get("routers", {})
    if not tables:
        raise ValueError(f"{path}: it names no routers")
    return {vr: _tenant(table, f"{path}: routers.{vr}") for vr, table in tables.items()}


def _tenant(table: dict[str, Any], where: str) -> Tenant:
    try:
        clients = tuple((ipaddress.ip_network(net), secret.encode()) for net, secret in table["clients"].items())
        servers = tuple(
            Server(
                entry["router"], entry["address"],
                {kind: int(entry.get(kind, port)) for kind, port in PORTS.items()}, entry["secret"].encode(),
            )
            for entry in table["servers"]
        )  # fmt: skip
    except KeyError as error:
        raise ValueError(f"{where}: {error} is missing") from None
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from None
    if not servers:
        raise ValueError(f"{where}: it has no servers")
    return Tenant(clients, servers, bool(table.get("require-message-authenticator", True)))


_Key = tuple[str, tuple[Any, ...], int, int, bytes]  # router, client, code, identifier, authenticator


@dataclass
class Request:
    """A client's request on its way."""

    key: _Key
    place: rsock.Place
    kind: str
    packet: Packet
    secret: bytes
    tenant: Tenant
    since: float
    flights: list[tuple[Line, int]] = field(default_factory=list)  # where it waits for an answer
    answer: bytes | None = None


@dataclass(frozen=True)
class Waiting:
    """A request that was passed on: as it was sent, and its authenticator there."""

    request: Request
    authenticator: bytes
    data: bytes


class Line:
    """One socket to a home server: up to 256 requests in flight."""

    def __init__(self, server: Server, kind: str) -> None:
        self.server = server
        family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
        self.socket = rsock.socket(family, socket.SOCK_DGRAM, vr=server.vr)
        try:
            self.socket.setblocking(False)
            self.socket.connect((server.host, server.ports[kind]))
        except OSError:
            self.socket.close()
            raise
        self.waiting: dict[int, Waiting] = {}  # by identifier
        self._next = secrets.randbelow(IDENTIFIERS)

    def take_identifier(self) -> int | None:
        """Give an identifier that is free; None: there is none."""
        if len(self.waiting) >= IDENTIFIERS:
            return None
        while self._next in self.waiting:
            self._next = (self._next + 1) % IDENTIFIERS
        taken, self._next = self._next, (self._next + 1) % IDENTIFIERS
        return taken


class Home:
    """All lines to one server for one kind of request, and whether it answers."""

    def __init__(self, server: Server, kind: str, opened: Callable[[Line], None]) -> None:
        self._server, self._kind, self._opened = server, kind, opened
        self._lines: list[Line] = []
        self._unanswered = 0
        self._dead_until = 0.0

    def alive(self, now: float) -> bool:
        """Tell whether it is worth asking."""
        return now >= self._dead_until

    def send(self, request: Request, now: float) -> None:
        """Pass a request on.  Raises OSError."""
        line, identifier = next((flight for flight in request.flights if flight[0] in self._lines), (None, 0))
        if line is None:
            line, identifier = self._place()
            packet, authenticator = outgoing(request, identifier, self._server.secret)
            line.waiting[identifier] = Waiting(request, authenticator, radius.write(packet))
            request.flights.append((line, identifier))
        line.socket.send(line.waiting[identifier].data)
        self._unanswered += 1
        if self._unanswered >= DEAD_AFTER and self.alive(now):
            log.warning("server %s in %s does not answer", self._server.host, self._server.vr)
            self._dead_until = now + DEAD_FOR
            self._unanswered = 0

    def answered(self) -> None:
        """Take note that it lives."""
        self._unanswered, self._dead_until = 0, 0.0

    def _place(self) -> tuple[Line, int]:
        for line in self._lines:
            identifier = line.take_identifier()
            if identifier is not None:
                return line, identifier
        line = Line(self._server, self._kind)
        self._lines.append(line)
        self._opened(line)
        identifier = line.take_identifier()
        assert identifier is not None
        return line, identifier


def outgoing(request: Request, identifier: int, secret: bytes) -> tuple[Packet, bytes]:
    """Write a client's request anew for its server; give our authenticator as well."""
    fresh = secrets.token_bytes(16)
    old, new = Hop(request.secret, request.packet.authenticator), Hop(secret, fresh)
    attributes = [(kind, radius.rehide(kind, value, old, new)) for kind, value in request.packet.attributes]
    chap = request.packet.value(Type.CHAP_PASSWORD) is not None
    if chap and request.packet.value(Type.CHAP_CHALLENGE) is None:
        # Without one, the request authenticator is the challenge (RFC 2865 section 5.40): that changes.
        attributes.append((int(Type.CHAP_CHALLENGE), request.packet.authenticator))
    attributes.append((int(Type.PROXY_STATE), identifier.to_bytes(1, "big") + fresh[:7]))
    made = Packet(request.packet.code, identifier, fresh, tuple(attributes))
    made = radius.sign_request(made, secret)
    return made, made.authenticator


def returning(request: Request, reply: Packet, ours: bytes, secret: bytes) -> Packet:
    """Write a server's answer anew for the client.  Raises RadiusError."""
    attributes = list(reply.attributes)
    last = max((at for at, (kind, _value) in enumerate(attributes) if kind == Type.PROXY_STATE), default=None)
    if last is None:
        raise RadiusError("our Proxy-State is missing")
    del attributes[last]
    old, new = Hop(secret, ours), Hop(request.secret, request.packet.authenticator)
    hidden = tuple((kind, radius.rehide(kind, value, old, new)) for kind, value in attributes)
    made = replace(reply, identifier=request.packet.identifier, attributes=hidden)
    return radius.sign_response(made, request.packet.authenticator, request.secret)


class Proxy:
    """The state of the proxy, and its loop."""

    def __init__(self, tenants: dict[str, Tenant], *, ports: dict[str, int] = PORTS) -> None:
        self._tenants = tenants
        self._requests: OrderedDict[_Key, Request] = OrderedDict()
        self._pending: Counter[str] = Counter()
        self._homes: dict[tuple[Server, str], Home] = {}
        self._selector = selectors.DefaultSelector()
        self.counts: Counter[str] = Counter()
        for kind, port in ports.items():
            door = rsock.socket(socket.AF_INET6, socket.SOCK_DGRAM, vr=",".join(tenants) + ",")
            door.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            door.bind(("::", port))
            door.setblocking(False)
            self._selector.register(door, selectors.EVENT_READ, (self._ask, kind))

    def serve(self) -> None:
        """Serve for ever."""
        while True:
            for key, _events in self._selector.select(1.0):
                handle, about = key.data
                handle(key.fileobj, about)
            self._forget(time.monotonic())

    # --- requests ---

    def _ask(self, door: socket.socket, kind: str) -> None:
        try:
            data, place = door.recvfrom(radius.MAX_PACKET + 1)
            self._take(door, data, place, kind)
        except RadiusError as error:
            self._drop(str(error), place)
        except OSError as error:
            log.info("%s", error)

    def _take(self, door: socket.socket, data: bytes, place: rsock.Place, kind: str) -> None:
        tenant = self._tenants.get(place.vr) or self._tenants.get("*")
        secret = tenant.secret_of(place[0]) if tenant is not None else None
        if tenant is None or secret is None:
            raise RadiusError("unknown client")
        packet = radius.parse(data)
        if REQUESTS.get(packet.code) != kind:
            raise RadiusError("no request")
        radius.check_request(packet, secret, needed=tenant.signed)
        key = (place.vr, tuple(place), packet.code, packet.identifier, packet.authenticator)
        now = time.monotonic()
        request = self._requests.get(key)
        if request is None:
            if self._pending[place.vr] >= MAX_PENDING:
                raise RadiusError("too many requests")
            request = Request(key, place, kind, packet, secret, tenant, now)
            self._requests[key] = request
            self._pending[place.vr] += 1
        elif request.answer is not None:
            self.counts["repeated answers"] += 1
            door.sendto(request.answer, place)
            return
        self.counts["requests"] += 1
        self._send(door, request, now)

    def _send(self, door: socket.socket, request: Request, now: float) -> None:
        servers = request.tenant.servers
        homes = [self._home(server, request.kind, door) for server in servers]
        living = [home for home in homes if home.alive(now)] or homes
        for home in living:
            try:
                home.send(request, now)
            except OSError as error:
                log.warning("no way to a server of %s: %s", request.place.vr, error)
            else:
                return
        raise RadiusError("no server")

    def _home(self, server: Server, kind: str, door: socket.socket) -> Home:
        key = (server, kind)
        if key not in self._homes:

            def opened(line: Line) -> None:
                self._selector.register(line.socket, selectors.EVENT_READ, (self._hear, (line, key, door)))

            self._homes[key] = Home(server, kind, opened)
        return self._homes[key]

    # --- answers ---

    def _hear(self, sock: socket.socket, about: tuple[Line, tuple[Server, str], socket.socket]) -> None:
        line, key, door = about
        try:
            reply = radius.parse(sock.recv(radius.MAX_PACKET + 1))
            self._answer(line, key, door, reply)
        except RadiusError as error:
            self._drop(str(error), rsock.Place((line.server.host,), line.server.vr))
        except OSError as error:
            log.info("server %s in %s: %s", line.server.host, line.server.vr, error)

    def _answer(self, line: Line, key: tuple[Server, str], door: socket.socket, reply: Packet) -> None:
        waiting = line.waiting.get(reply.identifier)
        if waiting is None:
            raise RadiusError("nobody waits for this answer")
        request, ours = waiting.request, waiting.authenticator
        if reply.code not in ANSWERS[request.packet.code]:
            raise RadiusError("no answer to that")
        radius.check_response(reply, ours, line.server.secret, needed=False)
        answer = radius.write(returning(request, reply, ours, line.server.secret))
        self._homes[key].answered()
        self._land(request)
        request.answer, request.since = answer, time.monotonic()
        self.counts["answers"] += 1
        door.sendto(answer, request.place)

    # --- memory ---

    def _land(self, request: Request) -> None:
        for line, identifier in request.flights:
            line.waiting.pop(identifier, None)
        request.flights.clear()

    def _forget(self, now: float) -> None:
        for key, request in list(self._requests.items()):
            age = now - request.since
            if age >= (PATIENCE if request.answer is None else REMEMBERED):
                self._land(request)
                del self._requests[key]
                self._pending[request.place.vr] -= 1

    def _drop(self, reason: str, place: rsock.Place) -> None:
        self.counts[reason] += 1
        if self.counts[reason] == 1:
            log.warning("dropped, from %s in %s: %s", place[0], place.vr, reason)


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path, help="TOML file with the routers")
    for kind, port in PORTS.items():
        parser.add_argument(f"--{kind}-port", type=int, default=port, help="(%(default)s)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        tenants = read_tenants(arguments.file)
        proxy = Proxy(tenants, ports={"auth": arguments.auth_port, "acct": arguments.acct_port})
    except (OSError, ValueError) as error:
        sys.exit(f"{parser.prog}: {error}")
    print(f"proxy for {', '.join(tenants)} on ports {arguments.auth_port} and {arguments.acct_port}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        proxy.serve()
    print(dict(proxy.counts))


if __name__ == "__main__":
    main()
