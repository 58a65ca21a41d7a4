"""BFD between the engine and the forwarder: what is asked for goes out by the tables, what became of it comes back.

    engine --Watch--> ask() --> tables segment --> forwarder
    engine <--Bfd---- look() <-- state segment <-- forwarder, which says so on the link to it

The forwarder keeps sessions running while there is no control.  A new control leaves those of its predecessor
alone until it is asked for them, or until nobody has asked for long.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from fastpath import bfd
from fastpath import interfaces as published
from fastpath._layout import CONSTANTS
from fastpath.segment import KIND_STATE, KIND_TABLES, Segment, View
from fastpath.tables import BfdEntry, pack_bfd
from vrouter.engine import inputs
from vrouter.proto.base import BfdClose, BfdOpen

if TYPE_CHECKING:
    from fastpath.interfaces import Published
    from fastpath.tables import TableWriter

log = logging.getLogger(__name__)
INHERITED_FOR: Final = 180.0  # seconds
KINDS: Final = {
    "simple": CONSTANTS["BFD_AUTH_SIMPLE"],
    "md5": CONSTANTS["BFD_AUTH_MD5"],
    "meticulous-md5": CONSTANTS["BFD_AUTH_METICULOUS_MD5"],
    "sha1": CONSTANTS["BFD_AUTH_SHA1"],
    "meticulous-sha1": CONSTANTS["BFD_AUTH_METICULOUS_SHA1"],
}
_UP: Final = CONSTANTS["BFD_UP"]
_ADMIN_DOWN: Final = CONSTANTS["BFD_ADMIN_DOWN"]


@dataclass
class _Asked:
    """A session that the engine has asked for."""

    request: BfdOpen
    entry: bytes | None = None  # as published; None: it cannot be, now
    discriminator: int = 0  # of the session that the engine was told of
    downs: int = 0
    told: inputs.Bfd | None = None


class BfdLink:
    """What control.Watcher asks for."""

    def __init__(
        self,
        writer: TableWriter,
        tables: int,
        state: int,
        feed: Callable[[inputs.Input], None],
        call_later: Callable[[float, Callable[[], None]], object],
        nudge: Callable[[], None],
    ) -> None:
        """Publish by `writer`, tell by `feed`; `nudge` lets the forwarder look.  Both fds stay the caller's."""
        self._writer = writer
        self._tables = Segment(tables, KIND_TABLES)
        self._state = Segment(state, KIND_STATE)
        self._feed = feed
        self._call_later = call_later
        self._nudge = nudge
        self._asked: dict[str, _Asked] = {}
        self._scheduled = False
        self._inherited = {bfd.entry_key(entry): entry for entry in bfd.published(self._tables)}
        self._last: list[bytes] | None = None
        if self._inherited:
            call_later(INHERITED_FOR, self._disinherit)

    def close(self) -> None:
        """Let go of the segments; what is published stays."""
        self._tables.close()
        self._state.close()

    def ask(self, request: BfdOpen | BfdClose) -> None:
        """Open, change or close a session; published soon, with all that is asked for meanwhile."""
        if isinstance(request, BfdClose):
            self._asked.pop(request.session, None)
        elif (known := self._asked.get(request.session)) is not None:
            known.request = request
        else:
            self._asked[request.session] = _Asked(request)
        self.changed()

    def changed(self) -> None:
        """Interfaces or addresses may be other ones: publish anew where that makes a difference."""
        if not self._scheduled and (self._asked or self._last):
            self._scheduled = True
            self._call_later(0, self._publish)

    def look(self) -> None:
        """Tell the engine what has become of its sessions."""
        sessions = bfd.sessions(self._state)
        for name, asked in list(self._asked.items()):
            session = sessions.get(bfd.entry_key(asked.entry)) if asked.entry is not None else None
            if session is not None:
                self._tell(name, asked, session)
            elif asked.told is not None and asked.told.up:
                self._say(asked, inputs.Bfd(name, up=False, diagnostic="removed"))

    def _tell(self, name: str, asked: _Asked, session: View) -> None:
        number = session.integer
        up, downs = number("state") == _UP, number("downs")
        admin_down = not up and number("remote_state") == _ADMIN_DOWN
        known = number("discriminator") == asked.discriminator
        was_up = asked.told is not None and asked.told.up
        failure = bfd.DIAGNOSTICS.get(number("failure"), str(number("failure")))
        missed = was_up and (not known or downs != asked.downs)  # it went down, whatever it is now
        asked.discriminator, asked.downs = number("discriminator"), downs
        if missed or (was_up and not up):
            self._say(asked, inputs.Bfd(name, up=False, admin_down=admin_down, diagnostic=failure))
        if up or admin_down:
            self._say(asked, inputs.Bfd(name, up=up, admin_down=admin_down))

    def _say(self, asked: _Asked, event: inputs.Bfd) -> None:
        before = asked.told
        if before is not None and (before.up, before.admin_down) == (event.up, event.admin_down):
            return
        asked.told = event
        self._feed(event)

    def _disinherit(self) -> None:
        if self._inherited:
            log.info("BFD sessions that nobody has asked for since the restart end: %d", len(self._inherited))
            self._inherited.clear()
            self._publish()

    def _publish(self) -> None:
        self._scheduled = False
        interfaces = {interface.name: interface for interface in published.published(self._tables)}
        found: dict[bytes, BfdEntry] = {}
        for asked in self._asked.values():
            entry = _entry(asked.request, interfaces)
            asked.entry = pack_bfd(entry) if entry is not None else None
            if entry is not None and asked.entry is not None:
                key = bfd.entry_key(asked.entry)
                # One may name the interface that another leaves to be found.
                found[key] = _strictest(found[key], entry) if key in found else entry
                self._inherited.pop(key, None)
        entries = {key: pack_bfd(entry) for key, entry in found.items()} | self._inherited
        wanted = list(entries.values())[: CONSTANTS["MAX_BFD_SESSIONS"]]
        if wanted == self._last:
            self.look()
            return
        if len(wanted) < len(entries):
            log.warning("more than %d BFD sessions: the last ones do not run", len(wanted))
        try:
            self._writer.bfd(wanted)
        except OSError as error:
            log.warning("the BFD sessions are not up to date: %s", error)
            self._call_later(1.0, self.changed)
            return
        self._last = wanted
        self._nudge()
        self.look()


def _strictest(one: BfdEntry, other: BfdEntry) -> BfdEntry:
    """Give one session that serves both."""
    return replace(
        one if one.authentication else other,
        transmit=min(one.transmit, other.transmit),
        receive=min(one.receive, other.receive),
        multiplier=min(one.multiplier, other.multiplier),
        echo=min((echo for echo in (one.echo, other.echo) if echo), default=0),
        flags=one.flags & other.flags,  # passive, and alone, only if both are
        min_ttl=max(one.min_ttl, other.min_ttl),
    )


def _entry(request: BfdOpen, interfaces: dict[str, Published]) -> BfdEntry | None:
    """Give the entry; None where the interface, or the way to the neighbor, is not there."""
    index, local = 0, request.local.value if request.local is not None else 0
    if not request.multihop:
        found = _on_link(request, interfaces)
        if found is None:
            return None
        index, local = found
    kind, key_id, key = request.authentication or ("", 0, b"")
    flags = (CONSTANTS["BFD_MULTIHOP"] if request.multihop else 0) | (
        CONSTANTS["BFD_PASSIVE"] if request.passive else 0
    )
    flags |= 0 if request.routes else CONSTANTS["BFD_LONE"]
    return BfdEntry(
        family=request.remote.family,
        remote=request.remote.value,
        local=local,
        interface=index,
        flags=flags,
        transmit=round(request.transmit_interval * 1e6),
        receive=round(request.receive_interval * 1e6),
        echo=0 if request.multihop else round(request.echo_interval * 1e6),
        multiplier=request.multiplier,
        min_ttl=request.min_ttl,
        authentication=KINDS.get(kind, 0),
        key_id=key_id,
        key=key[: CONSTANTS["BFD_KEY_SIZE"]],
    )


def _on_link(request: BfdOpen, interfaces: dict[str, Published]) -> tuple[int, int] | None:
    """Give the interface and our own address towards a neighbor over one hop."""
    remote = ipaddress.ip_address(str(request.remote))
    named = interfaces.get(request.interface)
    candidates = [named] if named is not None else [] if request.interface else list(interfaces.values())
    for interface in candidates:
        for text in interface.addresses:
            own = ipaddress.ip_interface(text)
            if remote in own.network and (request.local is None or request.local.value == int(own.ip)):
                return interface.index, int(own.ip)
    if named is None:
        return None
    return named.index, request.local.value if request.local is not None else 0
