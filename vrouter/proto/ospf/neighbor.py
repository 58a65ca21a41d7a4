"""What is known of one neighbor (RFC 2328 section 10)."""

from __future__ import annotations

import enum

from vrouter.proto.ospf.database import Entry
from vrouter.wire.ospf.lsa import LsaHeader, LsaKey, Options
from vrouter.wire.ospf.packet import Description


class NeighborState(enum.IntEnum):
    """States of section 10.1; each includes those before it."""

    DOWN = 0
    ATTEMPT = 1
    INIT = 2
    TWO_WAY = 3
    EX_START = 4
    EXCHANGE = 5
    LOADING = 6
    FULL = 7

    @property
    def word(self) -> str:
        """What operators read."""
        return _WORDS[self]


_WORDS = ("down", "attempt", "init", "2-way", "exstart", "exchange", "loading", "full")


class Neighbor:
    """A neighbor on one interface."""

    def __init__(self, router: int, address: int) -> None:
        self.router = router
        self.address = address
        self.state = NeighborState.DOWN
        self.priority = 0
        self.dr = 0  # as its hellos say
        self.bdr = 0
        self.options = 0
        self.master = False  # we are
        self.sequence = 0  # of database descriptions
        self.sent: Description | None = None  # the last one, to be repeated
        self.received: tuple[int, int, int] | None = None  # flags, options, sequence of its last one
        self.summary: list[LsaHeader] = []  # what it has still to be told
        self.requests: dict[LsaKey, LsaHeader] = {}
        self.asked: tuple[LsaKey, ...] = ()  # requests that wait for an answer
        self.retransmit: dict[tuple[tuple[str, ...], LsaKey], Entry] = {}
        self.crypto_sequence: dict[int, int] = {}  # by packet type; 0 for all of RFC 2328
        self.helped_until: float | None = None  # RFC 3623: we help it to restart
        self.changes = 0
        self.since = 0.0
        self.bfd = ""  # name of its session
        self.bfd_up = False
        self.last_change = ""

    @property
    def full(self) -> bool:
        """Whether others are told of the adjacency; that of one which restarts goes on."""
        return self.state is NeighborState.FULL or self.helped_until is not None

    @property
    def opaque(self) -> bool:
        """Whether it takes opaque LSAs (RFC 5250 section 3.1)."""
        return bool(self.options & Options.O)

    def clear_lists(self) -> None:
        """Forget what was to be told and asked."""
        self.summary = []
        self.requests = {}
        self.asked = ()
        self.retransmit = {}
        self.sent = None
        self.received = None
