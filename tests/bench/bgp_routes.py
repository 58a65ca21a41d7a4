"""A full table as a neighbor would send it: real prefixes, attribute sets with a heavy tail, encoded beforehand.

    table = Table(1_000_000, afi=1, seed=1)
    table.announce   UPDATEs (RFC 4271, 4760), each attribute set once or as often as 4096 bytes demand; End-of-RIB
    table.withdraw   the withdrawal of all, in random order, packed to 4096 bytes
    table.churn(n)   n UPDATEs of one prefix each, whose attributes change every time

Prefixes come from the list in the test data, thinned out evenly or filled up with others of the usual lengths.  The
same arguments give the same bytes.  No AS path holds an AS number of the receiver or of the monitor.
"""

from __future__ import annotations

import gzip
import itertools
import random
import socket
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MARKER: Final = b"\xff" * 16
HEADER: Final = 19
MESSAGE: Final = 4096
UPDATE: Final = 2
SENDER_AS, RECEIVER_AS, MONITOR_AS = 65010, 65000, 65020
IPV4, IPV6 = 1, 2
# Lengths of prefixes in percent, for those that are made up.
LENGTHS: Final = {24: 60, 22: 12, 23: 10, 21: 5.5, 20: 4.5, 19: 3, 18: 1.5, 16: 1.4, 17: 0.9, 15: 0.6, 14: 0.6}
LENGTHS_V6: Final = {48: 52, 32: 16, 44: 10, 40: 9, 36: 5, 46: 3, 47: 2, 45: 1, 42: 1, 64: 1}


def sets_of(count: int) -> int:
    """Give how many distinct attribute sets a table of this size has: 20k, 50k, 70k at 100k, 500k, 1M."""
    points = ((0, 0), (100_000, 20_000), (500_000, 50_000), (1_000_000, 70_000), (10_000_000, 430_000))
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if count <= x1:
            return max(1, y0 + (count - x0) * (y1 - y0) // (x1 - x0))
    return points[-1][1]


def message(kind: int, body: bytes) -> bytes:
    """Put the header before a message's body."""
    return MARKER + struct.pack(">HB", HEADER + len(body), kind) + body


def attribute(flags: int, code: int, value: bytes) -> bytes:
    """Encode a path attribute, with the extended length where it is needed."""
    if len(value) > 255:
        return struct.pack(">BBH", flags | 0x10, code, len(value)) + value
    return struct.pack(">BBB", flags, code, len(value)) + value


class Table:
    """The routes of one family; see the module."""

    def __init__(self, data: Path, count: int, afi: int, next_hop: str, seed: int = 1) -> None:
        """Make a table of `count` prefixes."""
        self.count, self.afi = count, afi
        self._next_hop = socket.inet_pton(socket.AF_INET if afi == IPV4 else socket.AF_INET6, next_hop)
        rng = random.Random(f"{seed}/{afi}/{count}")
        self.prefixes = _prefixes(data, count, afi, rng)
        self.sets = [_attributes(rng) for _ in range(sets_of(count))]
        self._of_set = _runs(self.prefixes, len(self.sets), rng)
        self.announce = b"".join(self._announcements())
        shuffled = list(self.prefixes)
        rng.shuffle(shuffled)
        self.withdraw = b"".join(self._withdrawals(shuffled))
        self._rng = rng

    def update(self, attributes: tuple[bytes, bytes], prefixes: bytes) -> bytes:
        """Encode the announcement of encoded prefixes."""
        before, behind = attributes
        if self.afi == IPV4:
            attrs = before + attribute(0x40, 3, self._next_hop) + behind
            return message(UPDATE, b"\0\0" + struct.pack(">H", len(attrs)) + attrs + prefixes)
        reach = struct.pack(">HBB", self.afi, 1, len(self._next_hop)) + self._next_hop + b"\0" + prefixes
        attrs = attribute(0x90, 14, reach) if len(reach) > 255 else attribute(0x80, 14, reach)
        attrs += before + behind
        return message(UPDATE, b"\0\0" + struct.pack(">H", len(attrs)) + attrs)

    def end_of_rib(self) -> bytes:
        """Encode the End-of-RIB (RFC 4724 section 2)."""
        if self.afi == IPV4:
            return message(UPDATE, b"\0\0\0\0")
        return message(UPDATE, b"\0\0\0\x06" + attribute(0x80, 15, struct.pack(">HB", self.afi, 1)))

    def churn(self, count: int) -> list[bytes]:
        """Encode `count` announcements of single prefixes, each with attributes of another set and a MED of its own."""
        made = []
        for number in range(count):
            before, behind = self._rng.choice(self.sets)
            behind = attribute(0x80, 4, struct.pack(">I", number)) + (behind[7:] if behind[1:2] == b"\x04" else behind)
            made.append(self.update((before, behind), self._rng.choice(self.prefixes)))
        return made

    def _announcements(self) -> Iterator[bytes]:
        overhead = HEADER + 4 + len(self._next_hop) + 16
        for (before, behind), prefixes in zip(self.sets, self._of_set, strict=True):
            room = MESSAGE - overhead - len(before) - len(behind)
            for packed in _packed(prefixes, room):
                yield self.update((before, behind), packed)
        yield self.end_of_rib()

    def _withdrawals(self, prefixes: list[bytes]) -> Iterator[bytes]:
        for packed in _packed(prefixes, MESSAGE - HEADER - 4 - 8):
            if self.afi == IPV4:
                yield message(UPDATE, struct.pack(">H", len(packed)) + packed + b"\0\0")
            else:
                attrs = attribute(0x80, 15, struct.pack(">HB", self.afi, 1) + packed)
                yield message(UPDATE, b"\0\0" + struct.pack(">H", len(attrs)) + attrs)


def _packed(prefixes: list[bytes], room: int) -> Iterator[bytes]:
    piece: list[bytes] = []
    used = 0
    for prefix in prefixes:
        if used + len(prefix) > room:
            yield b"".join(piece)
            piece, used = [], 0
        piece.append(prefix)
        used += len(prefix)
    if piece:
        yield b"".join(piece)


def _encoded(text: str) -> bytes:
    address, _, length_text = text.partition("/")
    length = int(length_text)
    raw = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    return bytes((length,)) + raw[: (length + 7) // 8]


def _prefixes(data: Path, count: int, afi: int, rng: random.Random) -> list[bytes]:
    with gzip.open(data / "prefixes.txt.gz", "rt") as lines:
        words = (line.strip() for line in lines)
        found = [_encoded(word) for word in words if (":" in word) == (afi == IPV6) and not word.startswith("0.0.0.0/")]
    found = sorted({prefix for prefix in found if prefix[0]}, key=_place)
    if len(found) > count:
        step = len(found) / count
        return [found[int(number * step)] for number in range(count)]
    known = set(found)
    mix = LENGTHS if afi == IPV4 else LENGTHS_V6
    lengths, weights = list(mix), list(mix.values())
    while len(known) < count:
        for length in rng.choices(lengths, weights, k=count - len(known)):
            size = (length + 7) // 8
            first = rng.randrange(1, 224) if afi == IPV4 else 0x20 | rng.randrange(16)
            value = (first << (8 * size - 8)) | rng.getrandbits(8 * size - 8)
            value &= -1 << (8 * size - length)
            if afi == IPV6 or first not in (10, 127):
                known.add(bytes((length,)) + value.to_bytes(size, "big"))
    return sorted(known, key=_place)


def _place(prefix: bytes) -> tuple[bytes, int]:
    return prefix[1:], prefix[0]


def _runs(prefixes: list[bytes], sets: int, rng: random.Random) -> list[list[bytes]]:
    """Give each set its prefixes: sizes by a Pareto law, in runs of 1 to 5 neighbors."""
    count = len(prefixes)
    cap = max(1, count // 100)
    sizes = [min(cap, int(rng.paretovariate(0.95))) for _ in range(sets)]
    # Set after set is stretched to the wanted sum; the small ones stay small.
    order = sorted(range(sets), key=lambda which: -sizes[which])
    missing = count - sum(sizes)
    for which in order * 8:
        step = (
            min(missing, cap - sizes[which], 1 + sizes[which] // 2) if missing > 0 else max(missing, 1 - sizes[which])
        )
        sizes[which] += step
        missing -= step
        if not missing:
            break
    sizes[order[0]] += missing
    runs = []
    for which, size in enumerate(sizes):
        left = size
        while left:
            run = min(left, rng.randint(1, 5))
            runs.append((which, run))
            left -= run
    rng.shuffle(runs)
    of_set: list[list[bytes]] = [[] for _ in range(sets)]
    place = 0
    for which, run in runs:
        of_set[which] += prefixes[place : place + run]
        place += run
    return of_set


def _attributes(rng: random.Random) -> tuple[bytes, bytes]:
    """Make a set of attributes: what stands before NEXT_HOP, and what stands behind it."""
    path = [SENDER_AS]
    while len(path) < rng.randint(2, 10):  # the short ones more often
        asn = rng.randrange(1000, 64000) if rng.random() < 0.8 else rng.randrange(131072, 400000)
        path.append(asn)
    if rng.random() < 0.15:
        path += [path[-1]] * rng.randint(1, 3)
    origin = rng.choices((0, 2, 1), (85, 14, 1))[0]
    before = attribute(0x40, 1, bytes((origin,)))
    before += attribute(0x50 if len(path) > 63 else 0x40, 2, struct.pack(f">BB{len(path)}I", 2, len(path), *path))
    behind = b""
    if rng.random() < 0.30:
        behind += attribute(0x80, 4, struct.pack(">I", rng.randrange(1000)))
    if rng.random() < 0.08:
        behind += attribute(0xC0, 7, struct.pack(">II", path[-1], rng.getrandbits(32) | 0x01000000))
    if rng.random() < 0.65:
        values = [(rng.choice(path) & 0xFFFF) << 16 | rng.randrange(65536) for _ in range(rng.randint(1, 11))]
        behind += attribute(0xC0, 8, struct.pack(f">{len(values)}I", *values))
    if rng.random() < 0.12:
        large = [rng.getrandbits(32) for _ in range(3 * rng.randint(1, 3))]
        behind += attribute(0xC0, 32, struct.pack(f">{len(large)}I", *large))
    return before, behind
