"""Capabilities of a BGP speaker (RFC 5492) as one value, and what two speakers have in common.

Multiprotocol (RFC 4760), route refresh (2918, 7313), 4-octet AS numbers (6793), graceful restart (4724, with the N bit
of 8538), ADD-PATH (7911), extended next hop (8950), extended message (8654), role (9234), host name (a draft).
A capability that is malformed counts as absent (RFC 5492 section 4), but for the role, which RFC 9234 section 4.2
judges.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass, field
from typing import Final

SAFI_UNICAST: Final = 1
SEND: Final = 2
RECEIVE: Final = 1


class Capability(enum.IntEnum):
    """Codes."""

    MULTIPROTOCOL = 1
    ROUTE_REFRESH = 2
    EXTENDED_NEXT_HOP = 5
    EXTENDED_MESSAGE = 6
    ROLE = 9
    GRACEFUL_RESTART = 64
    AS4 = 65
    ADD_PATH = 69
    ENHANCED_REFRESH = 70
    HOST_NAME = 73


class Role(enum.IntEnum):
    """What this router is to its neighbor; RFC 9234 section 4.1."""

    PROVIDER = 0
    ROUTE_SERVER = 1
    ROUTE_SERVER_CLIENT = 2
    CUSTOMER = 3
    PEER = 4


ROLE_PAIRS: Final = {
    Role.PROVIDER: Role.CUSTOMER,
    Role.CUSTOMER: Role.PROVIDER,
    Role.ROUTE_SERVER: Role.ROUTE_SERVER_CLIENT,
    Role.ROUTE_SERVER_CLIENT: Role.ROUTE_SERVER,
    Role.PEER: Role.PEER,
}


@dataclass(frozen=True, slots=True)
class GracefulRestart:
    """The capability of RFC 4724; families with whether their forwarding state was preserved."""

    time: int
    restarting: bool = False
    notification: bool = False  # RFC 8538
    families: tuple[tuple[int, bool], ...] = ()


@dataclass(frozen=True, slots=True)
class Capabilities:
    """All that an OPEN says by capabilities, families as AFIs of SAFI unicast."""

    families: frozenset[int] = frozenset()
    route_refresh: bool = False
    enhanced_refresh: bool = False
    as4: int | None = None
    extended_message: bool = False
    extended_next_hop: bool = False  # of IPv4 unicast by IPv6
    add_path: dict[int, int] = field(default_factory=dict)  # AFI: SEND | RECEIVE
    graceful_restart: GracefulRestart | None = None
    roles: frozenset[int] = frozenset()
    host_name: str = ""
    codes: tuple[int, ...] = ()  # of all that were there, for show

    @property
    def effective_families(self) -> frozenset[int]:
        """Give the families; a speaker that names none speaks IPv4 (RFC 4760 section 8)."""
        return self.families if Capability.MULTIPROTOCOL in self.codes else frozenset({1})


def encode(mine: Capabilities) -> tuple[tuple[int, bytes], ...]:
    """Give capabilities for an OPEN."""
    entries: list[tuple[int, bytes]] = [
        (Capability.MULTIPROTOCOL, struct.pack("!HBB", afi, 0, SAFI_UNICAST)) for afi in sorted(mine.families)
    ]
    if mine.route_refresh:
        entries.append((Capability.ROUTE_REFRESH, b""))
    if mine.extended_next_hop:
        entries.append((Capability.EXTENDED_NEXT_HOP, struct.pack("!HHH", 1, SAFI_UNICAST, 2)))
    if mine.extended_message:
        entries.append((Capability.EXTENDED_MESSAGE, b""))
    entries += [(Capability.ROLE, bytes([role])) for role in sorted(mine.roles)]
    restart = mine.graceful_restart
    if restart is not None:
        flags = (0x8 if restart.restarting else 0) | (0x4 if restart.notification else 0)
        value = struct.pack("!H", flags << 12 | min(restart.time, 4095))
        value += b"".join(struct.pack("!HBB", afi, SAFI_UNICAST, 0x80 if kept else 0) for afi, kept in restart.families)
        entries.append((Capability.GRACEFUL_RESTART, value))
    if mine.as4 is not None:
        entries.append((Capability.AS4, mine.as4.to_bytes(4, "big")))
    if mine.add_path:
        value = b"".join(struct.pack("!HBB", afi, SAFI_UNICAST, mode) for afi, mode in sorted(mine.add_path.items()))
        entries.append((Capability.ADD_PATH, value))
    if mine.enhanced_refresh:
        entries.append((Capability.ENHANCED_REFRESH, b""))
    if mine.host_name:
        name = mine.host_name.encode()[:64]
        entries.append((Capability.HOST_NAME, bytes([len(name)]) + name + b"\0"))
    return tuple(entries)


def decode(entries: tuple[tuple[int, bytes], ...]) -> Capabilities:
    """Read the capabilities of an OPEN."""
    families: set[int] = set()
    add_path: dict[int, int] = {}
    roles: set[int] = set()
    found: dict[int, bytes] = {}
    next_hop = False
    for code, value in entries:
        found[code] = value
        if code == Capability.MULTIPROTOCOL and len(value) == 4 and value[3] == SAFI_UNICAST:
            families.add(int.from_bytes(value[:2], "big"))
        elif code == Capability.ADD_PATH and len(value) % 4 == 0:
            add_path |= _read_add_path(value)
        elif code == Capability.ROLE and len(value) == 1:
            roles.add(value[0])
        elif code == Capability.EXTENDED_NEXT_HOP and len(value) % 6 == 0:
            triples = struct.iter_unpack("!HHH", value)
            next_hop = next_hop or (1, SAFI_UNICAST, 2) in list(triples)
    as4 = found.get(Capability.AS4, b"")
    return Capabilities(
        families=frozenset(families),
        route_refresh=Capability.ROUTE_REFRESH in found,
        enhanced_refresh=Capability.ENHANCED_REFRESH in found,
        as4=int.from_bytes(as4, "big") if len(as4) == 4 else None,
        extended_message=Capability.EXTENDED_MESSAGE in found,
        extended_next_hop=next_hop,
        add_path=add_path,
        graceful_restart=_read_restart(found.get(Capability.GRACEFUL_RESTART, b"")),
        roles=frozenset(roles),
        host_name=_read_name(found.get(Capability.HOST_NAME, b"")),
        codes=tuple(sorted(found)),
    )


def _read_add_path(value: bytes) -> dict[int, int]:
    modes = {SEND, RECEIVE, SEND | RECEIVE}
    return {
        afi: mode for afi, safi, mode in struct.iter_unpack("!HBB", value) if safi == SAFI_UNICAST and mode in modes
    }


def _read_restart(value: bytes) -> GracefulRestart | None:
    if len(value) < 2 or len(value) % 4 != 2:
        return None
    word = int.from_bytes(value[:2], "big")
    families = tuple(
        (afi, bool(flags & 0x80)) for afi, safi, flags in struct.iter_unpack("!HBB", value[2:]) if safi == SAFI_UNICAST
    )
    return GracefulRestart(word & 0xFFF, bool(word & 0x8000), bool(word & 0x4000), families)


def _read_name(value: bytes) -> str:
    if not value or len(value) < 1 + value[0]:
        return ""
    name = value[1 : 1 + value[0]].decode(errors="replace")
    return "".join(character for character in name if character.isprintable())
