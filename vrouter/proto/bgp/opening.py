"""The OPEN that we send, and what comes of the one that the neighbor sends.

RFC 4271 sections 4.2 and 6.2; 5492, 4760 (families), 6793 (AS numbers), 6286 (identifiers), 7607 (AS 0), 7911, 8654,
8950, 9234, 4724.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from vrouter.proto.bgp.settings import Settings
from vrouter.rib.bgp_table import Afi
from vrouter.wire.bgp.attributes import MalformedError
from vrouter.wire.bgp.capabilities import (
    RECEIVE,
    ROLE_PAIRS,
    SEND,
    Capabilities,
    GracefulRestart,
    Role,
    decode,
    encode,
)
from vrouter.wire.bgp.message import Code, Open, OpenError, two_byte_asn


@dataclass(frozen=True, slots=True)
class Negotiated:
    """What both ends of a session can do."""

    router_id: int
    hold: float
    keepalive: float
    families: tuple[Afi, ...]
    as4: bool
    refresh: bool
    enhanced_refresh: bool
    extended_messages: bool
    extended_next_hop: bool
    receive_paths: frozenset[int]
    send_paths: frozenset[int]
    restart: GracefulRestart | None  # the neighbor's, where both take part
    theirs: Capabilities


def offered(settings: Settings, *, restarting: bool, forwarding: bool) -> Capabilities:
    """Give what we can do; `forwarding`: the neighbor's packets went on while the session was gone."""
    mode = (RECEIVE if settings.add_path.receive else 0) | (SEND if settings.add_path.send else 0)
    restart = None
    if settings.graceful_restart.enabled:
        kept = tuple((int(afi), forwarding) for afi in settings.families)
        restart = GracefulRestart(int(settings.graceful_restart.time), restarting, notification=False, families=kept)
    return Capabilities(
        families=frozenset(int(afi) for afi in settings.families),
        route_refresh=True,
        enhanced_refresh=True,
        as4=settings.local_as,
        extended_message=settings.extended_messages,
        extended_next_hop=settings.extended_next_hop,
        add_path={int(afi): mode for afi in settings.families} if mode else {},
        graceful_restart=restart,
        roles=frozenset({settings.role}) if settings.role >= 0 and settings.external else frozenset(),
    )


def make_open(settings: Settings, router_id: int, mine: Capabilities) -> Open:
    """Give the OPEN for a neighbor."""
    return Open(two_byte_asn(settings.local_as), int(settings.timers.hold), router_id, encode(mine))


def negotiate(message: Open, settings: Settings, router_id: int, mine: Capabilities) -> Negotiated:
    """Judge a neighbor's OPEN.  Raises MalformedError."""
    theirs = decode(message.capabilities)
    asn = message.asn if theirs.as4 is None else theirs.as4
    if asn != settings.remote_as or asn == 0:
        raise MalformedError(Code.OPEN, OpenError.PEER_AS)
    if message.router_id == 0 or (not settings.external and message.router_id == router_id):
        raise MalformedError(Code.OPEN, OpenError.IDENTIFIER)
    if message.hold_time in {1, 2}:
        raise MalformedError(Code.OPEN, OpenError.HOLD_TIME)
    _check_role(theirs, settings)
    common = sorted(theirs.effective_families & mine.families)
    if not common:
        wanted = b"".join(struct.pack("!BBHBB", 1, 4, afi, 0, 1) for afi in sorted(mine.families))
        raise MalformedError(Code.OPEN, OpenError.CAPABILITY, wanted)
    hold = min(settings.timers.hold, float(message.hold_time))
    third = hold / 3
    return Negotiated(
        router_id=message.router_id,
        hold=hold,
        keepalive=min(third, settings.timers.keepalive or third),
        families=tuple(Afi(afi) for afi in common),
        as4=theirs.as4 is not None,
        refresh=theirs.route_refresh,
        enhanced_refresh=theirs.enhanced_refresh and theirs.route_refresh,
        extended_messages=theirs.extended_message and mine.extended_message,
        extended_next_hop=theirs.extended_next_hop and mine.extended_next_hop,
        receive_paths=_paths(mine, theirs, common),
        send_paths=_paths(theirs, mine, common),
        restart=theirs.graceful_restart if mine.graceful_restart is not None else None,
        theirs=theirs,
    )


def _paths(receiver: Capabilities, sender: Capabilities, families: list[int]) -> frozenset[int]:
    """Give the families in which one end sends several paths and the other takes them; RFC 7911 section 4."""
    return frozenset(
        afi for afi in families if receiver.add_path.get(afi, 0) & RECEIVE and sender.add_path.get(afi, 0) & SEND
    )


def _check_role(theirs: Capabilities, settings: Settings) -> None:
    """Check that two roles fit; RFC 9234 section 4.2."""
    if settings.role < 0 or not settings.external:
        return
    if not theirs.roles:
        if settings.role_strict:
            raise MalformedError(Code.OPEN, OpenError.ROLE)
        return
    if theirs.roles != {ROLE_PAIRS[Role(settings.role)]}:
        raise MalformedError(Code.OPEN, OpenError.ROLE)
