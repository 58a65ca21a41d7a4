"""One interface of RIP: its state, its neighbors, and what has been announced there."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from vrouter.config.rip import RipAuthentication, RipInterface, RipngInterface
from vrouter.net.address import IPV6, Address, Prefix, network
from vrouter.proto.base import InterfaceState
from vrouter.proto.rip.dialect import Dialect, Secrets, keys
from vrouter.proto.rip.table import Row
from vrouter.wire.rip.packet import INFINITY, Entry

MAX_PEERS: Final = 256


@dataclass(slots=True)
class Peer:
    """A neighbor that we have heard a response of."""

    heard_at: float
    responses: int = 0
    sequences: dict[int, int] = field(default_factory=dict)  # the last, by key: RFC 4822 section 2.4


@dataclass(slots=True)
class Announced:
    """What was last said of a prefix on this interface."""

    metric: int
    tag: int
    next_hop: Address | None


class Port:
    """An interface that the protocol is configured on."""

    def __init__(self, name: str, dialect: Dialect, settings: RipngInterface) -> None:
        self.name = name
        self.dialect = dialect
        self.settings = settings
        self.keys: Secrets = ()
        self.state = InterfaceState(name, up=False)
        self.joined = False
        self.initial_at: float | None = None  # when the first update is due
        self.answer_at = -math.inf  # when the whole table may be asked for again
        self.peers: dict[Address, Peer] = {}
        self.sent: dict[Prefix, Announced] = {}
        self.counters: Counter[str] = Counter()
        self.configure(settings)

    def configure(self, settings: RipngInterface) -> None:
        """Take other settings."""
        self.settings = settings
        authentication: RipAuthentication | None = None
        if isinstance(settings, RipInterface):
            authentication = settings.authentication
        self.keys = keys(authentication)

    @property
    def source(self) -> Address | None:
        """Give our address there."""
        return self.dialect.source(self.state)

    @property
    def networks(self) -> tuple[Prefix, ...]:
        """Give the networks of an interface that is up; those of a loopback too."""
        if not self.state.up:
            return ()
        return tuple(network(own.address, own.length) for own in self.dialect.addresses(self.state))

    @property
    def active(self) -> bool:
        """Tell whether packets are exchanged there."""
        return self.state.up and not self.state.loopback and self.source is not None

    def destinations(self, neighbors: tuple[Address, ...]) -> tuple[Address, ...]:
        """Give where updates go: to the group unless the interface is passive, and to the given neighbors."""
        return neighbors if self.settings.passive else (self.dialect.group, *neighbors)

    def announcement(self, row: Row) -> Announced | None:
        """Give what is said of a row here, policy aside; None: nothing (RFC 2453 section 3.4.3)."""
        metric = row.metric
        if row.learned_on(self.name):
            if self.settings.split_horizon == "simple":
                return None
            if self.settings.split_horizon == "poison-reverse":
                metric = INFINITY
        own = row.own
        # RFC 2453 section 4.4: a router that does not speak RIP may be the better next hop.
        next_hop = own.next_hop if own is not None and own.interface == self.name else None
        return Announced(metric, row.tag, next_hop)

    def is_own(self, address: Address) -> bool:
        """Tell whether an address is ours: what is sent to a group comes back."""
        return any(own.address == address for own in self.state.addresses)

    def peer(self, address: Address, now: float) -> Peer | None:
        """Give a neighbor, known or new; None where there is no room for another."""
        known = self.peers.get(address)
        if known is None and len(self.peers) < MAX_PEERS:
            known = self.peers[address] = Peer(now)
        return known

    def fresh(self, source: Address, key_id: int, sequence: int) -> bool:
        """Tell whether a sequence number may come now; it never goes back (RFC 4822 section 3.2.2)."""
        peer = self.peers.get(source)
        return peer is None or sequence >= peer.sequences.get(key_id, 0)

    def reset(self) -> None:
        """Forget what belongs to an interface that was up."""
        self.joined = False
        self.initial_at = None
        self.peers.clear()
        self.sent.clear()


def as_entry(prefix: Prefix, said: Announced) -> Entry:
    """Make an entry of a packet."""
    return Entry(prefix, said.metric, said.tag, said.next_hop)


def parts(entries: list[Entry], room: int) -> Iterator[tuple[Entry, ...]]:
    """Cut entries into packets; a change of the next hop takes room too (RFC 2080 section 2.1.1)."""
    part: list[Entry] = []
    size = 0
    for entry in entries:
        last = part[-1].next_hop if part else None
        needed = 1 + (entry.prefix.family == IPV6 and entry.next_hop != last)
        if part and size + needed > room:
            yield tuple(part)
            part, size = [], 0
            needed = 1 + (entry.prefix.family == IPV6 and entry.next_hop is not None)
        part.append(entry)
        size += needed
    if part:
        yield tuple(part)
