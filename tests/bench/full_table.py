"""The real full IPv4 table for the routers of a benchmark: prefixes, destinations among them, ways to load them.

    table = FullTable(directory, scratch)
    table.destinations   a file of 65,536 addresses, each in a prefix chosen at random, for the generator
    table.prefix_file    a file of the prefixes, one in a line
    table.batch          a file for `ip -batch`: all routes, over 32 next hops
    table.updates()      the same as BGP messages (RFC 4271)

A prefix has the next hop of its place in the list, modulo 32: no two neighbors in the table lead the same way.
"""

from __future__ import annotations

import gzip
import random
import socket
import struct
from typing import TYPE_CHECKING, Final

from bgp_routes import MESSAGE, SENDER_AS, UPDATE, attribute, message
from generator import ADDRESSES
from topology import NEXT_HOPS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROUTES: Final = 900_000


class FullTable:
    """The table; see the module."""

    def __init__(self, data: Path, scratch: Path, count: int = ROUTES) -> None:
        """Read the prefixes, and write the files to `scratch`."""
        with gzip.open(data / "prefixes.txt.gz", "rt") as lines:
            words = [line.strip() for line in lines if ":" not in line]
        self.prefixes = [word for word in words if not word.startswith(("0.", "10.", "127."))][:count]
        self.destinations = scratch / "destinations"
        self.destinations.write_bytes(b"".join(self._drawn(random.Random(1))))
        self.prefix_file = scratch / "prefixes"
        self.prefix_file.write_text("".join(f"{prefix}\n" for prefix in self.prefixes))
        self.batch = scratch / "routes"
        with self.batch.open("w") as out:
            for number, prefix in enumerate(self.prefixes):
                out.write(f"route add {prefix} via {NEXT_HOPS[number % len(NEXT_HOPS)]}\n")

    def _drawn(self, rng: random.Random) -> Iterator[bytes]:
        for prefix in rng.choices(self.prefixes, k=ADDRESSES):
            address, _, length = prefix.partition("/")
            value = int.from_bytes(socket.inet_aton(address), "big")
            yield (value | rng.getrandbits(32) & ((1 << 32 - int(length)) - 1)).to_bytes(4, "big")

    def updates(self) -> Iterator[bytes]:
        """Give the announcements and the End-of-RIB."""
        for number, next_hop in enumerate(NEXT_HOPS):
            path = struct.pack(">BBI", 2, 1, SENDER_AS)
            attributes = attribute(0x40, 1, b"\0") + attribute(0x40, 2, path)
            attributes += attribute(0x40, 3, socket.inet_aton(next_hop))
            head = struct.pack(">HH", 0, len(attributes)) + attributes
            piece = head
            for prefix in self.prefixes[number :: len(NEXT_HOPS)]:
                address, _, length = prefix.partition("/")
                encoded = bytes((int(length),)) + socket.inet_aton(address)[: (int(length) + 7) // 8]
                if len(piece) + len(encoded) > MESSAGE - 19:
                    yield message(UPDATE, piece)
                    piece = head
                piece += encoded
            yield message(UPDATE, piece)
        yield message(UPDATE, bytes(4))
