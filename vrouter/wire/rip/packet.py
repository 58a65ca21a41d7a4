"""What RIP packets mean, the same for both versions; and how an entry can be wrong.

A packet that cannot be read at all raises `RipError`.  An entry that cannot be used does not spoil the others: it
is left out and named in `Packet.errors` (RFC 2453 section 3.9.2, RFC 2080 section 2.4.2).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from vrouter.net.address import Address, Prefix

INFINITY: Final = 16
HEADER_SIZE: Final = 4
ENTRY_SIZE: Final = 20


class Command(enum.IntEnum):
    """What a packet asks for or tells."""

    REQUEST = 1
    RESPONSE = 2


class Fault(enum.StrEnum):
    """Why a packet or an entry is refused; the names are those of the counters."""

    LENGTH = "length"
    COMMAND = "command"
    VERSION = "version"
    AUTHENTICATION = "authentication"
    REPLAYED = "replayed"
    FAMILY = "family"
    PREFIX = "prefix"
    PREFIX_LENGTH = "prefix-length"
    NEXT_HOP = "next-hop"
    METRIC = "metric"


class RipError(ValueError):
    """A packet that is not used."""

    def __init__(self, fault: Fault, detail: str = "") -> None:
        super().__init__(f"{fault}: {detail}" if detail else str(fault))
        self.fault = fault
        self.detail = detail


@dataclass(frozen=True, slots=True)
class EntryError:
    """An entry that is left out, and the text of what is wrong in it."""

    fault: Fault
    value: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A route.  Without a next hop the sender is meant."""

    prefix: Prefix
    metric: int
    tag: int = 0
    next_hop: Address | None = None


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet.  A request without entries that has `whole` set asks for the whole table."""

    command: Command
    entries: tuple[Entry, ...] = ()
    whole: bool = False
    errors: tuple[EntryError, ...] = ()


def read_command(number: int) -> Command:
    """Give the command of a packet.  Raises RipError."""
    try:
        return Command(number)
    except ValueError:
        raise RipError(Fault.COMMAND, str(number)) from None
