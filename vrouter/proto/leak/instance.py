"""Route leaking of one VR: a session with the control of the router at the other end of each patch link.

    hello (UDP) ---> address of the other end ---> the smaller one listens, the greater one connects
    RouteEvent  ---> export policy ---> ADD, DELETE ---> the other router
    the other router ---> ADD, DELETE ---> import policy ---> RouteAdd, RouteDel (Protocol.LEAK)

The sessions run in the VR's own stack, over the link itself, with a TTL of 255 (RFC 5082).  A route goes no second
time through a router whose name its path holds, nor back over the link that it leaves by.  All routes of a link are
withdrawn when the link dies or the other end says goodbye.  When the session is lost otherwise, the other router's
control may be on its way back while its forwarder goes on: what is not said again goes later.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from vrouter.net.address import IPV4, IPV6, Address, Prefix, parse_address, parse_prefix
from vrouter.proto.base import (
    CloseSocket,
    Environment,
    InterfaceState,
    JoinGroup,
    LeaveGroup,
    Log,
    Meta,
    Notify,
    OpenSocket,
    Output,
    Reconfigured,
    Redistribute,
    RouteAdd,
    RouteDel,
    RouteEvent,
    Setting,
    Settled,
    Silent,
    SocketKind,
    Transmit,
    Write,
)
from vrouter.proto.leak.link import SOURCES, Link, Session
from vrouter.rib.route import Protocol, Route
from vrouter.wire import leak as wire
from vrouter.wire.leak import Kind, LeakError

if TYPE_CHECKING:
    from random import Random

    from vrouter.rib.policy import PolicySet

PORT: Final = 2648  # UDP and TCP
_TTL: Final = 255
_GROUPS: Final = {IPV4: parse_address("239.255.26.48"), IPV6: parse_address("ff12::2648")}
_HELLO: Final = 5.0  # between hellos while there is no session
_ANSWER: Final = 0.2  # shortest time between two
_CONNECT: Final = 2.0
_PENALTY: Final = 30.0  # after a mistake of the other end
_ALIVE: Final = 10.0
_HOLD: Final = 35.0
_SETTLE: Final = 15.0
_AWAY: Final = 30.0  # a control that has died is back by then
_WHOLE: Final = 120.0  # and has said all
_QUIET: Final = 5.0  # of one that has restarted: without changes it knows what others know
_RETRY: Final = 10.0
_PAGE: Final = 1000  # routes of one answer


class Leak(Silent):
    """All links of a VR that leak."""

    def __init__(self, environment: Environment) -> None:
        self._rng: Random = environment.rng
        self._restarted = environment.restarted
        self._settle_at = math.inf
        self._whole_at = math.inf  # after a restart: when routes of all protocols are back
        self._whole_by = math.inf
        self._router = ""
        self._policies: PolicySet | None = None
        self._states: dict[str, InterfaceState] = {}
        self._links: dict[str, Link] = {}
        self._used: dict[Prefix, Route] = {}
        self._asked: tuple[Protocol, ...] = ()
        self._udp: dict[int, bool] = {}  # family: open
        self._retry_at: dict[int, float] = {}
        self._count = 0

    @property
    def deadline(self) -> float | None:
        """Give when something is due."""
        due = [self._settle_at, self._whole_at, *self._retry_at.values()]
        for link in self._links.values():
            due += [link.hello_at, link.connect_at, link.stale_until]
            if link.session is not None:
                due += [link.session.heard_at + _HOLD, link.session.alive_at]
        earliest = min(due)
        return None if earliest == math.inf else earliest

    # --- configuration and interfaces ---

    def configure(self, new: Setting, now: float) -> Reconfigured:
        """Take the links that leak."""
        self._router, self._policies = new.router.name, new.policies
        wanted = {each.name: each.leak for each in new.router.interfaces if each.leak is not None and each.leak.enabled}
        outputs: list[Output] = []
        for name in [name for name in self._links if name not in wanted]:
            outputs += self._leave(self._links[name], now)
            del self._links[name]
        if self._restarted and wanted:
            self._restarted = False
            self._settle_at = now + _SETTLE
            self._whole_at, self._whole_by = now + _AWAY, now + _WHOLE
        outputs += self._ask({SOURCES[word] for settings in wanted.values() for word in settings.protocols})
        for family in (IPV4, IPV6):
            outputs += self._set_socket(family, wanted=bool(wanted))
        for name, settings in wanted.items():
            link = self._links.get(name)
            if link is None:
                link = self._links[name] = Link(name, settings)
                link.state = self._states.get(name, link.state)
                outputs += self._up(link, now)
                continue
            link.settings = settings
            if len(link.received) > settings.max_routes:
                outputs += self._fail(link, f"more than {settings.max_routes} routes", now)
                continue
            outputs += self._take(link, list(link.received))
            link.dirty.update(dict.fromkeys((*self._used, *link.sent)))
            outputs += self._say(link)
        return Reconfigured(live=True, outputs=tuple(outputs))

    def stop(self, now: float) -> list[Output]:
        """End all sessions."""
        outputs: list[Output] = []
        for link in self._links.values():
            outputs += self._leave(link, now)
        self._links.clear()
        outputs += self._ask(set())
        for family in (IPV4, IPV6):
            outputs += self._set_socket(family, wanted=False)
        self._settle_at = self._whole_at = math.inf
        return outputs

    def interface_changed(self, state: InterfaceState, now: float) -> list[Output]:
        """Take note of an interface: with other addresses all begins anew."""
        self._states[state.name] = state
        link = self._links.get(state.name)
        if link is None or (link.state.up, link.state.addresses) == (state.up, state.addresses):
            return []
        outputs = self._down(link, now)
        link.state = state
        return outputs + self._up(link, now)

    def _ask(self, protocols: set[Protocol]) -> list[Output]:
        asked = tuple(sorted(protocols))
        if asked == self._asked:
            return []
        self._asked = asked
        self._used = {prefix: route for prefix, route in self._used.items() if route.protocol in protocols}
        return [Redistribute(asked)]

    def _set_socket(self, family: int, *, wanted: bool) -> list[Output]:
        if wanted == (family in self._udp):
            return []
        if wanted:
            self._udp[family] = False
            return [OpenSocket(_udp(family), SocketKind.UDP, family, local_port=PORT, ttl=_TTL)]
        del self._udp[family]
        self._retry_at.pop(family, None)
        return [CloseSocket(_udp(family))]

    def _up(self, link: Link, now: float) -> list[Output]:
        hello = link.hello
        if hello.ipv4 is None and hello.ipv6 is None:
            return []
        link.hello_at = now + self._rng.uniform(0, _ANSWER)
        return [
            JoinGroup(_udp(family), link.name, _GROUPS[family])
            for family, address in ((IPV4, hello.ipv4), (IPV6, hello.ipv6))
            if address is not None and self._udp.get(family)
        ]

    def _leave(self, link: Link, now: float) -> list[Output]:
        """Say goodbye, and be gone."""
        session = link.session
        said = [Write(session.socket, wire.frame(Kind.BYE))] if session is not None and session.connected else []
        return [*said, *self._down(link, now)]

    def _down(self, link: Link, now: float) -> list[Output]:
        outputs = self._close(link, now)
        if link.listening:
            outputs.append(CloseSocket(link.listening))
            link.listening = ""
        hello = link.hello
        link.peer = None
        link.hello_at = link.connect_at = math.inf
        outputs += [
            LeaveGroup(_udp(family), link.name, _GROUPS[family])
            for family, address in ((IPV4, hello.ipv4), (IPV6, hello.ipv6))
            if address is not None and self._udp.get(family)
        ]
        return outputs

    # --- sockets ---

    def opened(self, socket: str, now: float) -> list[Output]:
        """Look for the other ends."""
        family = next((family for family in self._udp if _udp(family) == socket), None)
        if family is None:
            return []  # a listener
        self._udp[family] = True
        outputs: list[Output] = []
        for link in self._links.values():
            hello = link.hello
            if (hello.ipv4 if family == IPV4 else hello.ipv6) is not None:
                outputs.append(JoinGroup(socket, link.name, _GROUPS[family]))
                link.hello_at = min(link.hello_at, now + self._rng.uniform(0, _ANSWER))
        return outputs

    def closed(self, socket: str, error: int, now: float) -> list[Output]:
        """Begin anew after a while."""
        for family in self._udp:
            if _udp(family) == socket:
                self._udp[family] = False
                self._retry_at[family] = now + _RETRY
                return [Log("warning", f"leak: no socket on port {PORT}: error {error}")]
        for link in self._links.values():
            if link.listening == socket:
                link.listening = ""
                link.connect_at = now + _RETRY
                return [Log("warning", f"leak: cannot listen on {link.name}: error {error}")]
            if link.session is not None and link.session.socket == socket:
                was = link.session
                return self._suspend(link, now, "session lost" if was.connected else "")
        return []

    def received(self, socket: str, packet: bytes, meta: Meta, now: float) -> list[Output]:  # noqa: ARG002
        """Take a hello."""
        link = self._links.get(meta.interface)
        if link is None or any(own.address == meta.source for own in link.state.addresses):
            return []
        try:
            hello = wire.decode_hello(packet)
        except LeakError:
            link.counters["bad-hello"] += 1
            return []
        if meta.ttl not in {0, _TTL} or meta.source not in {hello.ipv4, hello.ipv6}:
            link.counters["bad-hello"] += 1
            return []
        link.counters["hellos"] += 1
        outputs: list[Output] = []
        if link.peer != hello:
            outputs += self._close(link, now)
            if link.listening:
                outputs.append(CloseSocket(link.listening))
                link.listening = ""
            link.peer = hello
            link.connect_at = now
            outputs += self._connect(link, now)
        if link.session is None or not link.session.connected:
            # It looks for us: so that it need not wait for the next regular hello.
            link.hello_at = min(link.hello_at, max(now, link.hello_sent + _ANSWER))
        return outputs

    def connected(self, socket: str, local: Address, remote: Address, now: float) -> list[Output]:  # noqa: ARG002
        """Begin a session that we have asked for."""
        for link in self._links.values():
            if link.session is not None and link.session.socket == socket:
                return self._begin(link, now)
        return [CloseSocket(socket, reset=True)]

    def accepted(self, listener: str, socket: str, local: Address, remote: Address, now: float) -> list[Output]:
        """Begin a session that the other end has asked for; an older one is dead then."""
        for link in self._links.values():
            if link.listening != listener or link.ends != (local, remote) or now < link.barred_until:
                continue
            outputs: list[Output] = []
            if link.session is not None:
                outputs = [CloseSocket(link.session.socket), *self._suspend(link, now, "")]
            link.session = Session(socket, connected=False, heard_at=now)
            return outputs + self._begin(link, now)
        return [CloseSocket(socket, reset=True)]

    def stream(self, socket: str, data: bytes, now: float) -> list[Output]:
        """Take what the other router says."""
        link = next((each for each in self._links.values() if each.session and each.session.socket == socket), None)
        if link is None or link.session is None:
            return []
        if not data:
            return [CloseSocket(socket), *self._suspend(link, now, "session ended")]
        session = link.session
        session.heard_at = now
        session.buffer += data
        outputs: list[Output] = []
        touched: dict[Prefix, None] = {}
        try:
            for kind, body in wire.frames(session.buffer):
                if kind is Kind.BYE and session.router:
                    return [*outputs, CloseSocket(socket), *self._lose(link, now, "the other end has stopped")]
                outputs += self._frame(link, session, kind, body, touched)
        except LeakError as error:
            return outputs + self._fail(link, str(error), now)
        outputs += self._take(link, touched)
        if (
            session.complete
            and self._settle_at < math.inf
            and all(each.session is not None and each.session.complete for each in self._links.values())
        ):
            self._settle_at = now
        return outputs

    def writable(self, socket: str, now: float) -> list[Output]:  # noqa: ARG002
        """Say more."""
        for link in self._links.values():
            if link.session is not None and link.session.socket == socket:
                link.session.waiting = False
                return self._say(link)
        return []

    # --- the rest of the contract ---

    def routes_changed(self, events: tuple[RouteEvent, ...], now: float) -> list[Output]:
        """Tell the other routers."""
        if self._whole_at < math.inf:
            self._whole_at = min(max(self._whole_at, now + _QUIET), self._whole_by)
        for event in events:
            if event.route is not None and event.protocol in self._asked:
                self._used[event.prefix] = event.route
            elif event.prefix in self._used and self._used[event.prefix].protocol is event.protocol:
                del self._used[event.prefix]
        outputs: list[Output] = []
        for link in self._links.values():
            link.dirty.update(dict.fromkeys(event.prefix for event in events))
            outputs += self._say(link)
        return outputs

    def handle_timeout(self, now: float) -> list[Output]:
        """Do what is due."""
        outputs: list[Output] = []
        for family in [family for family, at in self._retry_at.items() if now >= at]:
            del self._retry_at[family]
            outputs.append(OpenSocket(_udp(family), SocketKind.UDP, family, local_port=PORT, ttl=_TTL))
        for link in self._links.values():
            if now >= link.hello_at:
                outputs += self._greet(link, now)
            if now >= link.connect_at:
                outputs += self._connect(link, now)
            if now >= link.stale_until:
                outputs += self._take(link, link.sweep())
            session = link.session
            if session is None:
                continue
            if now >= session.heard_at + _HOLD:
                outputs += [CloseSocket(session.socket, reset=True), *self._suspend(link, now, "neighbor is silent")]
            elif now >= session.alive_at:
                session.alive_at = now + _ALIVE
                outputs.append(Write(session.socket, wire.frame(Kind.ALIVE)))
        if now >= self._whole_at:
            self._whole_at = math.inf
            for link in self._links.values():
                outputs += self._say(link)
        if now >= self._settle_at:
            self._settle_at = math.inf
            outputs.append(Settled(Protocol.LEAK))
        return outputs

    def show(self, query: str, arguments: Mapping[str, Any], now: float) -> Any:
        """Answer an operator: links, routes."""
        if query in {"links", "summary"}:
            return [link.shown(now) for _name, link in sorted(self._links.items())]
        if query == "routes":
            return self._routes(arguments)
        raise KeyError(query)

    def _routes(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Page through what was received: {after?: [interface, prefix], limit?} -> {routes, after}."""
        name, text = arguments.get("after") or ("", "0.0.0.0/0")
        after = (str(name), parse_prefix(str(text)))
        limit = min(max(int(arguments.get("limit") or _PAGE), 1), _PAGE)
        places = ((link.name, prefix) for link in self._links.values() for prefix in link.received)
        found = heapq.nsmallest(limit, (place for place in places if place > after))
        last = found[-1] if len(found) == limit else None
        return {
            "routes": [self._links[name].shown_route(prefix) for name, prefix in found],
            "after": [last[0], str(last[1])] if last is not None else None,
        }

    # --- sessions ---

    def _greet(self, link: Link, now: float) -> list[Output]:
        """Say on the link which addresses we have, unless a session runs."""
        link.hello_at = math.inf
        if link.session is not None and link.session.connected:
            return []
        link.hello_at, link.hello_sent = now + _HELLO + self._rng.uniform(0, 1), now
        hello = link.hello
        data = wire.encode_hello(hello)
        return [
            Transmit(_udp(family), _GROUPS[family], data, PORT, link.name, address)
            for family, address in ((IPV4, hello.ipv4), (IPV6, hello.ipv6))
            if address is not None and self._udp.get(family)
        ]

    def _connect(self, link: Link, now: float) -> list[Output]:
        """Listen, or connect, as the addresses decide."""
        link.connect_at = math.inf
        ends = link.ends
        if ends is None or link.session is not None:
            return []
        if now < link.barred_until:
            link.connect_at = link.barred_until
            return []
        own, other = ends
        self._count += 1
        if own < other:
            if link.listening:
                return []
            link.listening = f"listen-{link.name}-{self._count}"
            return [
                OpenSocket(
                    link.listening, SocketKind.LISTEN, own.family, local=own, local_port=PORT, interface=link.name,
                    ttl=_TTL, min_ttl=_TTL,
                )
            ]  # fmt: skip
        link.session = Session(f"connect-{link.name}-{self._count}", connected=False, heard_at=now)
        return [
            OpenSocket(
                link.session.socket, SocketKind.CONNECT, own.family, local=own, remote=other, remote_port=PORT,
                interface=link.name, ttl=_TTL, min_ttl=_TTL,
            )
        ]  # fmt: skip

    def _begin(self, link: Link, now: float) -> list[Output]:
        session = link.session
        assert session is not None
        session.connected, session.heard_at, session.alive_at = True, now, now + _ALIVE
        link.hello_at = math.inf
        link.dirty = dict.fromkeys(sorted(self._used))
        return [Write(session.socket, wire.encode_start(self._router)), *self._say(link)]

    def _frame(
        self, link: Link, session: Session, kind: Kind, body: bytes, touched: dict[Prefix, None]
    ) -> list[Output]:
        if (kind is Kind.START) != (not session.router):
            raise LeakError("frames out of order")
        if kind is Kind.START:
            session.router = wire.decode_start(body)
            if link.stale:
                link.stale_until = session.heard_at + _WHOLE
            return [Notify("leak-up", (("interface", link.name), ("router", session.router)))]
        if kind is Kind.ADD:
            touched.update(dict.fromkeys(link.take(wire.decode_records(body))))
        elif kind is Kind.DELETE:
            touched.update(dict.fromkeys(link.drop(wire.decode_prefixes(body))))
        elif kind is Kind.END:
            session.complete = True
            touched.update(dict.fromkeys(link.sweep()))
        return []

    def _take(self, link: Link, prefixes: Iterable[Prefix]) -> list[Output]:
        added, gone = link.judge(prefixes, self._router, self._policies)
        outputs: list[Output] = [RouteDel(tuple(gone))] if gone else []
        if added:
            outputs.append(RouteAdd(tuple(added)))
        return outputs

    def _say(self, link: Link) -> list[Output]:
        session = link.session
        data = b"".join(link.pump(self._used, self._router, self._policies, whole=self._whole_at == math.inf))
        if not data or session is None:
            return []
        session.waiting = True
        return [Write(session.socket, data)]

    def _close(self, link: Link, now: float) -> list[Output]:
        """End a session of our own will."""
        if link.session is None:
            return []
        return [CloseSocket(link.session.socket), *self._lose(link, now, "")]

    def _fail(self, link: Link, reason: str, now: float) -> list[Output]:
        """End a session because of what the other end did."""
        assert link.session is not None
        link.counters["failures"] += 1
        socket = link.session.socket
        outputs = [CloseSocket(socket, reset=True), *self._lose(link, now, reason)]
        link.hello_at = link.connect_at = link.barred_until = now + _PENALTY
        return outputs

    def _lose(self, link: Link, now: float, reason: str) -> list[Output]:
        """Withdraw what a session brought, and look for the other end again."""
        was = link.session
        gone = link.end()
        return [*([RouteDel(gone)] if gone else []), *self._search(link, now, was, reason)]

    def _suspend(self, link: Link, now: float, reason: str) -> list[Output]:
        """Look for the other end again; what the session brought stays for a while."""
        was = link.session
        if was is None or not was.router:  # it has brought nothing: what is stale has the time that it had
            link.forget()
            return self._search(link, now, was, reason)
        overdue = self._take(link, link.sweep())  # since the last time already
        link.suspend(now + _AWAY)
        return [*overdue, *self._search(link, now, was, reason)]

    def _search(self, link: Link, now: float, was: Session | None, reason: str) -> list[Output]:
        link.hello_at = min(link.hello_at, now + self._rng.uniform(_ANSWER, 1))
        link.connect_at = now + _CONNECT
        if not reason or was is None or not was.connected:
            return []
        details = (("interface", link.name), ("reason", reason))
        return [Notify("leak-down", details), Log("info", f"leak on {link.name} ended: {reason}")]


def _udp(family: int) -> str:
    return f"hello-{family}"
