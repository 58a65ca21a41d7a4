"""One end of a patch link that leaks: what the other router says, and what it has been told.

What is received is kept as it came, so that another import policy is applied without asking for it again.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

from vrouter.config.leak import Leak
from vrouter.net.address import IPV4, IPV6, Address, Prefix, is_link_local, is_loopback, mask
from vrouter.proto.base import InterfaceState
from vrouter.rib.policy import PolicySet, RouteView, route_view
from vrouter.rib.route import Hop, HopKind, Protocol, Route
from vrouter.wire import leak as wire
from vrouter.wire.leak import Hello, Record

SOURCES: Final = {
    "connected": Protocol.CONNECTED,
    "static": Protocol.STATIC,
    "bgp": Protocol.BGP,
    "ospf": Protocol.OSPF,
    "rip": Protocol.RIP,
    "leak": Protocol.LEAK,
}
_BATCH: Final = 2000  # records that are written before we wait for room


@dataclass(frozen=True, slots=True)
class LeakOrigin:
    """Where a leaked route comes from: the link, the neighbor there, and the routers that it has crossed."""

    interface: str
    neighbor: Address
    path: tuple[str, ...]

    def __str__(self) -> str:
        """Tell it to operators."""
        return f"said by {self.neighbor} on {self.interface}, came through {' '.join(self.path)}"


@dataclass(slots=True)
class Session:
    """A connection to the other end."""

    socket: str
    connected: bool
    heard_at: float
    buffer: bytearray = field(default_factory=bytearray)
    router: str = ""  # name of the other router, once it has said START
    complete: bool = False  # END was heard
    ended: bool = False  # END was sent
    waiting: bool = False  # what was written is not yet taken
    alive_at: float = math.inf


class Link:
    """One interface with `leak`."""

    def __init__(self, name: str, settings: Leak) -> None:
        self.name = name
        self.settings = settings
        self.state = InterfaceState(name, up=False)
        self.peer: Hello | None = None
        self.listening = ""  # name of the socket
        self.session: Session | None = None
        self.hello_at = math.inf
        self.hello_sent = -math.inf
        self.connect_at = math.inf
        self.barred_until = -math.inf  # after a mistake of the other end
        self.received: dict[Prefix, Record] = {}
        self.stale: dict[Prefix, None] = {}  # of these, what a session that was lost has brought
        self.stale_until = math.inf
        self.installed: dict[Prefix, Route] = {}
        self.dirty: dict[Prefix, None] = {}  # to be said, in order
        self.sent: dict[Prefix, Record] = {}
        self.counters: Counter[str] = Counter()

    @property
    def hello(self) -> Hello:
        """Give our addresses on the link."""
        own = [each for each in self.state.addresses if self.state.up and not self.state.loopback]
        four = next((each.address for each in own if each.address.family == IPV4), None)
        six = next((each.address for each in own if each.link_local), None)
        return Hello(four, six)

    @property
    def ends(self) -> tuple[Address, Address] | None:
        """Give the two addresses of the session: IPv6 where both ends have it."""
        own, peer = self.hello, self.peer
        if peer is None:
            return None
        if own.ipv6 is not None and peer.ipv6 is not None:
            return own.ipv6, peer.ipv6
        if own.ipv4 is not None and peer.ipv4 is not None:
            return own.ipv4, peer.ipv4
        return None

    def next_hop(self, family: int) -> Address | None:
        """Give the address of the other router that packets are sent to."""
        if self.peer is None:
            return None
        if family == IPV6:
            return self.peer.ipv6
        via = self.peer.ipv4
        if via is None:
            return None
        return via if any(_on_link(own.address, via, own.length) for own in self.state.addresses) else None

    def end(self) -> tuple[Route, ...]:
        """Forget the session; gives what must be withdrawn."""
        gone = tuple(route for _prefix, route in sorted(self.installed.items()))
        self.suspend(math.inf)
        self.installed.clear()
        self.received.clear()
        self.stale.clear()
        return gone

    def suspend(self, until: float) -> None:
        """Be without the session, and keep for a while what it brought: the other router forwards on, maybe."""
        self.stale = dict.fromkeys(self.received)
        self.stale_until = until if self.stale else math.inf
        self.forget()

    def forget(self) -> None:
        """Be without a session: nothing has been said."""
        self.session = None
        self.sent.clear()
        self.dirty.clear()

    def sweep(self) -> list[Prefix]:
        """Forget what was not said again; gives the prefixes to be looked at."""
        gone, self.stale, self.stale_until = list(self.stale), {}, math.inf
        for prefix in gone:
            del self.received[prefix]
        return gone

    # --- what the other router says ---

    def take(self, records: Iterable[Record]) -> list[Prefix]:
        """Take records; gives the prefixes to be looked at.  Raises LeakError where they are too many."""
        touched = []
        for record in records:
            self.received[record.prefix] = record
            self.stale.pop(record.prefix, None)
            touched.append(record.prefix)
            if len(self.received) - len(self.stale) > self.settings.max_routes:
                raise wire.LeakError(f"more than {self.settings.max_routes} routes")
        return touched

    def drop(self, prefixes: Iterable[Prefix]) -> list[Prefix]:
        """Take withdrawals."""
        gone = [prefix for prefix in prefixes if self.received.pop(prefix, None) is not None]
        for prefix in gone:
            self.stale.pop(prefix, None)
        return gone

    def judge(
        self, prefixes: Iterable[Prefix], router: str, policies: PolicySet | None
    ) -> tuple[list[Route], list[Route]]:
        """Give what is to be offered and withdrawn after changes of these prefixes."""
        added, gone = [], []
        for prefix in prefixes:
            record = self.received.get(prefix)
            route = self._import(record, router, policies) if record is not None else None
            before = self.installed.get(prefix)
            if route == before:
                continue
            if route is not None:
                self.installed[prefix] = route
                added.append(route)
            elif before is not None:
                del self.installed[prefix]
                gone.append(before)
        return added, gone

    def _import(self, record: Record, router: str, policies: PolicySet | None) -> Route | None:
        via = self.next_hop(record.prefix.family)
        if via is None or router in record.path:
            return None
        tag, metric, preference = record.tag, record.metric, self.settings.preference
        if self.settings.import_ is not None:
            view = RouteView(
                record.prefix,
                Protocol.LEAK,
                tag=tag,
                metric=metric,
                preference=preference,
                interface=self.name,
                neighbor=via,
            )
            judged = judge(policies, self.settings.import_, view)
            if judged is None:
                return None
            tag, metric, preference = judged.tag, judged.metric, judged.preference
        hop = Hop(HopKind.FORWARD, self.name, via)
        origin = LeakOrigin(self.name, via, record.path)
        return Route(record.prefix, Protocol.LEAK, (hop,), preference, metric, self.name, tag, origin)

    # --- what it is told ---

    def export(self, route: Route, router: str, policies: PolicySet | None) -> Record | None:
        """Give what the other router is told of a route that is in use here."""
        names = self.settings.protocols
        if route.protocol.name.lower() not in names or not _can_be_leaked(route.prefix):
            return None
        # What leaves by the link is not told there: so came it, or it is the link's own prefix.
        if any(hop.interface == self.name for hop in route.hops):
            return None
        path = route.origin.path if isinstance(route.origin, LeakOrigin) else ()
        if len(path) >= wire.MAX_PATH:
            return None
        tag, metric = route.tag, route.metric
        if self.settings.export is not None:
            judged = judge(policies, self.settings.export, route_view(route))
            if judged is None:
                return None
            tag, metric = judged.tag, judged.metric
        return Record(route.prefix, metric, tag, (*path, router))

    def pump(
        self, used: Mapping[Prefix, Route], router: str, policies: PolicySet | None, *, whole: bool
    ) -> Iterator[bytes]:
        """Give frames with what has changed, as much as may be written at once; `whole`: `used` lacks nothing."""
        session = self.session
        if session is None or not session.connected or session.waiting:
            return
        records, gone = [], []
        for prefix in list(islice(self.dirty, _BATCH)):
            del self.dirty[prefix]
            route = used.get(prefix)
            record = self.export(route, router, policies) if route is not None else None
            if record == self.sent.get(prefix):
                continue
            if record is None:
                del self.sent[prefix]
                gone.append(prefix)
            else:
                self.sent[prefix] = record
                records.append(record)
        yield from wire.encode_prefixes(gone)
        yield from wire.encode_records(records)
        if whole and not self.dirty and not session.ended:
            session.ended = True
            yield wire.frame(wire.Kind.END)

    def shown_route(self, prefix: Prefix) -> dict[str, Any]:
        """Give what operators are told of a route that was received."""
        record = self.received[prefix]
        return {
            "prefix": str(prefix),
            "interface": self.name,
            "path": list(record.path),
            "metric": record.metric,
            "tag": record.tag,
            "accepted": prefix in self.installed,
        }

    def shown(self, now: float) -> dict[str, Any]:
        """Give what operators are told."""
        session, ends = self.session, self.ends
        state = "established" if session is not None and session.router else "searching"
        if session is not None and not session.router:
            state = "connecting"
        if not self.state.up:
            state = "down"
        return {
            "interface": self.name,
            "state": state,
            "router": session.router if session is not None else "",
            "local": str(ends[0]) if ends else None,
            "neighbor": str(ends[1]) if ends else None,
            "heard": now - session.heard_at if session is not None and session.connected else None,
            "protocols": list(self.settings.protocols),
            "import": self.settings.import_,
            "export": self.settings.export,
            "sent": len(self.sent),
            "received": len(self.received),
            "accepted": len(self.installed),
            "stale": len(self.stale),
            "counters": dict(sorted(self.counters.items())),
        }


def judge(policies: PolicySet | None, name: str, view: RouteView) -> RouteView | None:
    """Give a route as a policy leaves it, or None where it is refused."""
    if policies is None or name not in policies:
        return None
    verdict = policies.evaluate(name, view)
    return verdict.changes.apply(view) if verdict.accept else None


def _on_link(own: Address, other: Address, length: int) -> bool:
    return own.family == other.family and own != other and (own.value ^ other.value) & mask(own.family, length) == 0


def _can_be_leaked(prefix: Prefix) -> bool:
    first = Address(prefix.family, prefix.value)
    multicast = first.value >> 28 == 14 if prefix.family == IPV4 else first.value >> 120 == 0xFF
    return not (multicast or is_link_local(first) or (prefix.length > 0 and is_loopback(first)))
