"""A neighbor: its connections, of which one becomes the session, and what outlives a session.

RFC 4271 sections 6.8 (collisions), 8.1.1 and 8.2.1.1 (attempts and back-off); 4724 section 4.2 (the helper's part of
a graceful restart); 7313 (refresh with begin and end); 4486 (Cease), 5882 (BFD).
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from vrouter.net.address import Address, host_prefix, is_link_local
from vrouter.proto.base import (
    BfdClose,
    BfdState,
    Log,
    Md5Key,
    Notify,
    OpenSocket,
    Output,
    SetMinTtl,
    SocketKind,
)
from vrouter.proto.bgp.fsm import Event, State
from vrouter.proto.bgp.listeners import PORT
from vrouter.proto.bgp.opening import Negotiated, make_open, negotiate, offered
from vrouter.proto.bgp.session import NEVER, Ending, Session
from vrouter.proto.bgp.settings import SOFT_IN, SOFT_OUT, Settings, changed, family_name, needs_session
from vrouter.proto.watch import bfd_open
from vrouter.rib import bgp_table
from vrouter.rib.bgp_table import Afi, EventKind, PeerSettings
from vrouter.wire.bgp.capabilities import Capabilities, GracefulRestart
from vrouter.wire.bgp.message import (
    Cease,
    Code,
    MessageType,
    Notification,
    Open,
    Refresh,
    RefreshKind,
    decode_refresh,
    encode_open,
    encode_refresh,
    shutdown,
)

EXPORT_ROOM: Final = 131070
_MAX_DOUBLINGS: Final = 3
_QUICK_RETRY: Final = 1.0  # after a session that had been up
_STABLE: Final = 60.0  # a session that was up for so long was no oscillation


class Router(Protocol):
    """What a neighbor needs of its instance."""

    table: Any
    router_id: int

    def emit(self, output: Output) -> None:
        """Give an output."""

    def jitter(self, time: float) -> float:
        """Make a time a little shorter."""

    def new_socket(self, session: Session) -> str:
        """Give a name for a session's socket, and remember whose it is."""

    def peer_settings(self, neighbor: Neighbor) -> PeerSettings:
        """Give what the table must know of an established session."""

    def restarting(self) -> bool:
        """Tell whether this router is in a restart of its own."""

    def preserved(self) -> bool:
        """Tell whether forwarding went on while this router was away."""

    def interface_of(self, local: Address) -> str:
        """Give the interface with an address."""

    def owns(self, interface: str, address: Address) -> bool:
        """Tell whether an interface has an address."""

    def on_link(self, interface: str, address: Address) -> bool:
        """Tell whether an address is on a connected prefix of an interface."""

    def heard(self, neighbor: Neighbor, now: float) -> None:
        """Take note that a neighbor is up, down, done with waiting, or has sent all of its routes."""


class Neighbor:
    """A neighbor of a router."""

    def __init__(self, router: Router, number: int, settings: Settings, *, dynamic: bool = False) -> None:
        self.router = router
        self.table = router.table
        self.number = number
        self.settings = settings
        self.dynamic = dynamic
        self.primary = Session(self)
        self.secondary: Session | None = None  # the other one of a collision
        self.session: Session | None = None  # the established one
        self.start_at = NEVER
        self.failures = 0
        self.up_since = 0.0
        self.down_since = 0.0
        self.flaps = 0
        self.last_error = ""
        self._refuse_until = 0.0  # what comes in after something that was wrong
        self._ours = False  # it was this router's own sockets that failed
        self.blocked = False  # until an operator clears it
        self.known = False  # there has been a session with it
        self.peer: PeerSettings | None = None
        self.stale: set[Afi] = set()  # families whose routes wait for a restart's end
        self.stale_until = NEVER
        self.ended: set[int] = set()  # families whose End-of-RIB has come
        self.refreshing_in: dict[Afi, float] = {}  # between begin and end; until
        self.refreshing_out: set[Afi] = set()
        self.refresh_asked: set[Afi] = set()  # once what is being sent has gone
        self.bfd = ""
        self.bfd_up = False
        self.warned: set[int] = set()
        self._restart: GracefulRestart | None = None  # the neighbor's, of the last session
        self._families: tuple[Afi, ...] = ()

    def __str__(self) -> str:
        return str(self.settings.address)

    # --- life ---

    def start(self, now: float) -> None:
        """Begin to look for the neighbor."""
        self.table.peer_add(self.number)
        self.start_at = now

    def _begin(self, now: float) -> None:
        self.start_at = NEVER
        if self.settings.shutdown or self.blocked:
            return
        passive = self.settings.passive or self.dynamic
        self.primary.event(Event.START_PASSIVE if passive else Event.START, now)

    def stop(self, notification: Notification | None, reason: str, now: float) -> None:
        """End all connections; the neighbor starts anew unless told otherwise."""
        for session in self._sessions():
            if session.state is not State.IDLE:
                session.stop(notification, reason, now)

    def remove(self, notification: Notification | None, now: float) -> None:
        """Forget the neighbor."""
        self.stop(notification, "no longer configured", now)
        self._watch(None)
        self.start_at = self.stale_until = NEVER
        self.table.peer_delete(self.number)

    def named(self, now: float) -> None:
        """It came of itself, and is configured from now on."""
        self.dynamic = False
        if not self._connecting():
            self.stop(None, "its configuration has changed", now)
            self.start_at = now

    def abandoned(self, now: float) -> bool:
        """Tell whether it came of itself, and has left nothing that must be remembered."""
        kept = self._connecting() or self.blocked or self.stale or now < self._refuse_until
        return self.dynamic and not kept

    def _connecting(self) -> bool:
        return any(session.socket for session in self._sessions())

    def _sessions(self) -> list[Session]:
        return [self.primary] if self.secondary is None else [self.primary, self.secondary]

    @property
    def state(self) -> State:
        """Give the state of the connection that has come furthest."""
        return max(session.state for session in self._sessions())

    @property
    def deadline(self) -> float:
        """Give the time at which something is due."""
        times = [session.deadline for session in self._sessions()]
        return min(self.start_at, self.stale_until, *self.refreshing_in.values(), *times)

    def expire(self, now: float) -> None:
        """Do what is due."""
        if self.start_at <= now:
            self._begin(now)
            if self.dynamic:
                self.router.heard(self, now)
        for session in self._sessions():
            session.expire(now)
        if self.stale_until <= now:
            self._sweep(now)
        for afi in [afi for afi, until in self.refreshing_in.items() if until <= now]:
            del self.refreshing_in[afi]
            self.table.peer_flush(self.number, afi, stale_only=True)

    def link_came(self, now: float) -> None:
        """Its link has come up: attempts that failed meanwhile say nothing about it."""
        if self.session is not None or self._connecting() or self.blocked or now < self._refuse_until:
            return
        self.failures = 0
        self.start_at = now if self.start_at < NEVER else NEVER
        for session in self._sessions():
            session.retry_at = now if session.retry_at < NEVER else NEVER

    # --- connections ---

    def emit(self, output: Output) -> None:
        """Give an output."""
        self.router.emit(output)

    def jitter(self, time: float) -> float:
        """Make a time a little shorter."""
        return self.router.jitter(time)

    def delay_open(self) -> float:
        """Give the time of DelayOpenTimer."""
        return self.settings.timers.delay_open

    def send_hold(self) -> float:
        """Give the time of SendHoldTimer."""
        return self.settings.send_hold

    def retry_time(self) -> float:
        """Give the time to the next attempt to connect."""
        return NEVER if self.settings.passive or self.dynamic else self._idle_time()

    def _idle_time(self) -> float:
        """Give the time to the next attempt, the longer the more have failed."""
        return self.jitter(self.settings.timers.connect_retry * (1 << min(self.failures, _MAX_DOUBLINGS)))

    def open_socket(self, session: Session) -> str:
        """Begin to connect."""
        settings = self.settings
        socket = self.router.new_socket(session)
        self.emit(
            OpenSocket(
                socket,
                SocketKind.CONNECT,
                settings.address.family,
                local=settings.local_address,
                remote=settings.address,
                remote_port=PORT,
                interface=settings.interface,
                ttl=settings.ttl,
                min_ttl=settings.min_ttl,
                tos=0xC0,
                md5=(Md5Key(host_prefix(settings.address), settings.password),) if settings.password else (),
            )
        )
        return socket

    def accept(self, socket: str, local: Address, now: float) -> Session | None:
        """Take a connection that has come in; None: it is refused."""
        if self.settings.shutdown or self.blocked or now < self._refuse_until:
            return None
        if self.settings.local_address not in {None, local}:
            return None
        if not self._on_its_link(local):
            return None
        if self.session is not None:
            if not self._comes_back():
                return None
            # RFC 4724 section 4.2: the neighbor has restarted, the old connection just does not know.
            self.session.stop(None, "the neighbor has restarted", now)
        if self.primary.state is State.IDLE:
            self.start_at = NEVER
            self.primary.event(Event.START_PASSIVE, now)
        session = self.primary
        if self.primary.socket:
            if self.secondary is not None:
                return None
            session = self.secondary = Session(self)
            session.state = State.ACTIVE
        session.outgoing = False
        session.socket = socket
        session.retry_at = NEVER
        if self.settings.ttl or self.settings.min_ttl:
            self.emit(SetMinTtl(socket, self.settings.min_ttl, self.settings.ttl))
        session.connected(local, now)
        return session

    def _on_its_link(self, local: Address) -> bool:
        """Tell whether a connection to an own address comes by the neighbor's interface.

        Who has a link-local address on another link is another.
        """
        settings = self.settings
        if not settings.interface or not is_link_local(settings.address) or not local.value:
            return True
        return self.router.owns(settings.interface, local)

    def _comes_back(self) -> bool:
        """Tell whether a second connection may mean that the neighbor has restarted."""
        return (
            self.session is not None
            and self.session.negotiated is not None
            and (self.session.negotiated.restart is not None)
        )

    def own_open(self) -> bytes:
        """Give our OPEN."""
        return encode_open(make_open(self.settings, self.router.router_id, self._offered()))

    def _offered(self) -> Capabilities:
        forwarding = self.known or self.router.preserved()
        return offered(self.settings, restarting=self.router.restarting(), forwarding=forwarding)

    def judge(self, session: Session, message: Open, now: float) -> Negotiated | None:
        """Judge an OPEN, collisions too.  Raises MalformedError."""
        negotiated = negotiate(message, self.settings, self.router.router_id, self._offered())
        other = self.secondary if session is self.primary else self.primary
        if other is None or other.state is not State.OPEN_CONFIRM:
            return negotiated
        # RFC 4271 section 6.8: of the connections the one stays that the higher identifier has opened.
        ours = (self.router.router_id, self.settings.local_as) > (negotiated.router_id, self.settings.remote_as)
        loser = other if session.outgoing == ours else session
        if loser.outgoing == session.outgoing and loser is not session:
            loser = session  # both from the same side: the older stays
        loser.dump(now)
        return None if loser is session else negotiated

    # --- a session ---

    def established(self, session: Session, now: float) -> None:
        """Begin the session."""
        negotiated = session.negotiated
        assert negotiated is not None
        other = self.secondary if session is self.primary else self.primary
        if other is not None:
            other.dump(now)
        self.primary, self.secondary, self.session = session, None, session
        self.start_at = NEVER
        self.up_since = now
        self.known = True
        self.ended.clear()
        self.warned.clear()
        self._restart, self._families = negotiated.restart, negotiated.families
        self._restarted(negotiated, now)
        self.peer = self.router.peer_settings(self)
        self.table.peer_up(self.number, self.peer)
        self._watch(session)
        self.emit(Log("info", f"BGP neighbor {self} is up"))
        self.emit(Notify("bgp-up", (("neighbor", str(self)), ("asn", str(self.settings.remote_as)))))
        self.router.heard(self, now)

    def _restarted(self, negotiated: Negotiated, now: float) -> None:
        """Take what the neighbor says of its restart: RFC 4724 section 4.2."""
        kept = dict(negotiated.restart.families) if negotiated.restart is not None else {}
        if self._ours:
            kept = dict.fromkeys(kept, True)  # the neighbor was not away: its forwarding went on
        for afi in sorted(self.stale):
            if not kept.get(int(afi)) or afi not in negotiated.families:
                self.stale.discard(afi)
                self.table.peer_flush(self.number, afi, stale_only=False)
        self.stale_until = now + self.settings.graceful_restart.stale_time if self.stale else NEVER

    def dropped(self, session: Session, state: State, end: Ending, now: float) -> None:
        """Take note that a connection, and its session, is gone."""
        if session is self.secondary:
            self.secondary = None
            return
        if session is not self.session:
            self.failures += self.secondary is None
            if state >= State.OPEN_SENT:
                self.last_error = end.reason
            if session.state is State.CONNECT:
                pass  # it tries again
            elif self.secondary is not None:
                self.primary, self.secondary = self.secondary, None
            elif session.state is State.IDLE:
                self.start_at = now + self._idle_time()
                self._refuse_until = self.start_at if end.wrong else 0.0
            self.router.heard(self, now)
            return
        self._lost(end, now)

    def _lost(self, end: Ending, now: float) -> None:
        """End the session; keep routes if the neighbor is to come back: RFC 4724 section 4.2."""
        keep: tuple[Afi, ...] = ()
        restart = self._restart
        if restart is not None and not end.notified:
            families = {afi for afi, _ in restart.families}
            keep = tuple(afi for afi in self._families if afi in families)
        self.session = None
        if not end.ours:
            for afi in sorted(self.stale):  # since the last restart already
                self.table.peer_flush(self.number, afi, stale_only=True)
        self.stale = set(keep)
        self.stale_until = now + restart.time if restart is not None and keep else NEVER
        self.table.peer_down(self.number, keep)
        self.refreshing_in.clear()
        self.refreshing_out.clear()
        self.refresh_asked.clear()
        self._ours = end.ours
        # Only who sends what is wrong is made to wait; RFC 4271 section 8.1.1, DampPeerOscillations.
        self.failures = self.failures + 1 if end.wrong and now - self.up_since < _STABLE else 0
        self.start_at = now + (self._idle_time() if self.failures > 1 else self.jitter(_QUICK_RETRY))
        self._refuse_until = self.start_at if end.wrong else 0.0
        self.down_since = now
        self.flaps += 1
        self.last_error = end.reason
        self.emit(Log("warning", f"BGP neighbor {self} is down: {end.reason}"))
        self.emit(Notify("bgp-down", (("neighbor", str(self)), ("reason", end.reason))))
        self.router.heard(self, now)

    def _sweep(self, now: float) -> None:
        """Drop what was not sent again: all, where the neighbor has not come back."""
        self.stale_until = NEVER
        for afi in sorted(self.stale):
            self.table.peer_flush(self.number, afi, stale_only=True)
        self.stale.clear()
        self.router.heard(self, now)

    def handle(self, session: Session, event: bgp_table.Event, now: float) -> None:
        """Take what is not the connection's business."""
        if event.kind == EventKind.END_OF_RIB:
            self._end_of_rib(Afi(event.afi), now)
        elif event.kind == EventKind.MAX_PREFIX:
            self._too_many(event, now)
        elif event.type == MessageType.ROUTE_REFRESH:
            self._refresh_in(session, decode_refresh(event.body), now)

    def _end_of_rib(self, afi: Afi, now: float) -> None:
        self.ended.add(afi)
        if afi in self.stale:
            self.stale.discard(afi)
            self.table.peer_flush(self.number, afi, stale_only=True)
            if not self.stale:
                self.stale_until = NEVER
        self.router.heard(self, now)

    def _too_many(self, event: bgp_table.Event, now: float) -> None:
        """Act on more prefixes than allowed; RFC 4486 section 4."""
        limits = self.settings.max_prefixes
        name = family_name(event.afi)
        if event.afi not in self.warned:
            self.warned.add(event.afi)
            self.emit(Log("warning", f"BGP neighbor {self} sends more than the allowed prefixes of {name}"))
            self.emit(Notify("bgp-max-prefixes", (("neighbor", str(self)), ("family", name))))
        if limits.action == "warn":
            return
        limit = (limits.ipv4 if event.afi == Afi.IPV4 else limits.ipv6) or 0
        data = bytes([0, event.afi, 1]) + limit.to_bytes(4, "big")
        self.stop(Notification(Code.CEASE, Cease.MAX_PREFIXES, data), f"more than {limit} prefixes of {name}", now)
        if limits.action == "restart":
            self.start_at = self._refuse_until = now + limits.restart
        else:
            self.blocked = True
            self.start_at = NEVER

    # --- refresh ---

    def _refresh_in(self, session: Session, message: Refresh, now: float) -> None:
        """Take a ROUTE-REFRESH; of families that are not exchanged it says nothing."""
        negotiated = session.negotiated
        if negotiated is None or message.safi != 1 or message.afi not in negotiated.families:
            return
        afi = Afi(message.afi)
        # A reserved byte for a neighbor that has not agreed on more (RFC 2918 section 3): to be ignored.
        kind = message.kind if negotiated.enhanced_refresh else RefreshKind.REQUEST
        if kind == RefreshKind.REQUEST:
            self.refresh_asked.add(afi)
            self._begin_refresh(session, now)
        elif kind == RefreshKind.BEGIN:
            self.refreshing_in[afi] = now + self.settings.graceful_restart.stale_time
            self.table.peer_stale(self.number, afi)
        elif kind == RefreshKind.END and afi in self.refreshing_in:
            self.refreshing_in[afi] = now  # soon, and once however many come: it may take a while

    def _begin_refresh(self, session: Session, now: float) -> None:
        """Begin what was asked for, one of a family at a time: a neighbor that reads no answers gets no more."""
        for afi in sorted(self.refresh_asked - self.refreshing_out):
            self._mark_refresh(session, afi, RefreshKind.BEGIN, now)
            self.refreshing_out.add(afi)
            self.refresh_asked.discard(afi)
            self.table.refresh(self.number, afi)

    @staticmethod
    def _mark_refresh(session: Session, afi: Afi, kind: RefreshKind, now: float) -> None:
        """Tell where a refresh begins or ends, if the neighbor knows what that means; RFC 7313."""
        if session.negotiated is not None and session.negotiated.enhanced_refresh:
            session.write(MessageType.ROUTE_REFRESH, encode_refresh(Refresh(afi, 1, kind)), now)

    def ask(self, now: float) -> bool:
        """Ask for all routes again; False: the neighbor does not know how."""
        session = self.session
        if session is None or session.negotiated is None:
            return True
        if not session.negotiated.refresh:
            return False
        for afi in session.negotiated.families:
            session.write(MessageType.ROUTE_REFRESH, encode_refresh(Refresh(afi, 1)), now)
        return True

    def resend(self) -> None:
        """Send all routes again."""
        if self.session is not None and self.session.negotiated is not None:
            for afi in self.session.negotiated.families:
                self.table.refresh(self.number, afi)

    def export(self, now: float, *, idle: bool) -> None:
        """Send what the neighbor is owed, as long as it takes it; `idle`: the table has nothing to do."""
        session = self.session
        if session is None or session.outstanding:
            return
        data = self.table.export(self.number, EXPORT_ROOM)
        if data:
            session.write(MessageType.UPDATE, data, now)
        elif idle and self.refreshing_out:
            for afi in sorted(self.refreshing_out):
                self._mark_refresh(session, afi, RefreshKind.END, now)
            self.refreshing_out.clear()
            self._begin_refresh(session, now)

    # --- changes ---

    def reconfigure(self, new: Settings, now: float) -> None:
        """Take other settings, as gently as they allow."""
        old, self.settings = self.settings, new
        if old != new:
            self._refuse_until = 0.0
        if needs_session(old, new):
            text = shutdown(new.shutdown_message) if new.shutdown else Notification(Code.CEASE, Cease.CHANGED)
            self.stop(text, "shut down" if new.shutdown else "its configuration has changed", now)
            self._sweep(now)  # what waits for the neighbor as it was
            self.blocked = False
            self.failures = 0
            self.start_at = now
            return
        fields = changed(old, new)
        if "passive" in fields and self.session is None and not self.primary.socket:
            self.primary.stop(None, "its configuration has changed", now)
            self.start_at = now
        if "bfd" in fields:
            self._watch(self.session)
        if "max_prefixes" in fields and self.blocked:
            self.blocked = False
            self.start_at = now
        self.judge_anew(now, ask=bool(fields & SOFT_IN), tell=bool(fields & SOFT_OUT))
        if "max_prefixes" in fields:
            self._count(now)

    def _count(self, now: float) -> None:
        """Hold what has come so far against a limit that is new."""
        self.warned.clear()
        limits = self.settings.max_prefixes
        for afi, limit in ((Afi.IPV4, limits.ipv4), (Afi.IPV6, limits.ipv6)):
            count = self.table.counts(self.number)["families"][family_name(afi)]["received"]
            if self.session is not None and limit and count > limit:
                self._too_many(bgp_table.Event(EventKind.MAX_PREFIX, afi=afi, count=count), now)

    def judge_anew(self, now: float, *, ask: bool = False, tell: bool = False) -> None:
        """Let the table know what has changed of a session, and ask for routes where those are judged otherwise."""
        if self.session is None or self.peer is None:
            return
        new = self.router.peer_settings(self)
        if new == self.peer and not ask and not tell:
            return
        old, self.peer = self.peer, new
        self.table.peer_change(self.number, new)
        incoming = any(
            (before.import_policy, before.import_deny)
            != (new.families[afi].import_policy, new.families[afi].import_deny)
            for afi, before in old.families.items()
        )
        if (ask or incoming) and not self.ask(now):
            self.reset(now)

    def reset(self, now: float) -> None:
        """End the session, and begin another."""
        self.blocked = False
        self._refuse_until = 0.0
        self.failures = 0
        self.stop(Notification(Code.CEASE, Cease.RESET), "reset by an operator", now)
        self.start_at = now + self.jitter(_QUICK_RETRY)

    # --- BFD ---

    def _watch(self, session: Session | None) -> None:
        """Watch the neighbor of a session by BFD, or no longer."""
        settings = self.settings
        if session is None or settings.bfd is None or session.local is None:
            if self.bfd:
                self.emit(BfdClose(self.bfd))
            self.bfd = ""
            self.bfd_up = False
            return
        interface = settings.interface or self.router.interface_of(session.local)
        near = is_link_local(settings.address) or self.router.on_link(interface, settings.address)
        self.bfd = str(settings.address)
        self.emit(
            bfd_open(
                settings.bfd,
                self.bfd,
                settings.address,
                local=session.local,
                interface=interface if near else "",
                multihop=not near,
            )
        )

    def bfd_changed(self, state: BfdState, now: float) -> None:
        """Take note of the BFD session; RFC 5882 section 3.2, RFC 9384."""
        was_up, self.bfd_up = self.bfd_up, state.up
        if was_up and not state.up and not state.admin_down and self.session is not None:
            self.stop(Notification(Code.CEASE, Cease.BFD_DOWN), "BFD says that it is gone", now)
