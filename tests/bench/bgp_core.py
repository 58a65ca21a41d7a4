"""Times the BGP table alone, without sessions: a full table in, best paths, FIB, out to a second neighbor, and gone.

    python tests/bench/bgp_core.py [--count 1000000] [--sets 70000] [--family 4] [--plain]

Prefixes of the Internet, if their list is given by --prefixes, else made up; attribute sets are made up from a seed.
Prints seconds of each step, and bytes a route.
"""

from __future__ import annotations

import argparse
import gzip
import struct
import time
from pathlib import Path
from random import Random

from fastpath._layout import CONSTANTS
from fastpath.segment import KIND_TABLES, create
from fastpath.tables import TableWriter
from vrouter.net.address import Address, parse_address, parse_prefix
from vrouter.rib.bgp_table import Afi, FamilySettings, Identity, PeerKind, PeerSettings
from vrouter.rib.route import Hop, HopKind
from vrouter.runtime.bgp_bulk import BulkTable

CHUNK = 65536
SLOT = 4096  # prefixes


def prefixes(family: int, count: int, file: str | None, rng: Random) -> list[bytes]:
    """Give NLRI of different prefixes."""
    found: dict[bytes, None] = {}
    if file is not None:
        for line in gzip.decompress(Path(file).read_bytes()).decode().splitlines():
            if (":" in line) == (family == 6):
                prefix = parse_prefix(line.strip())
                size = (prefix.length + 7) // 8
                bits = 32 if family == 4 else 128
                found[bytes([prefix.length]) + (prefix.value >> (bits - 8 * size)).to_bytes(size, "big")] = None
    while len(found) < count:
        length = rng.choice((24, 24, 24, 22, 23, 20)) if family == 4 else rng.choice((48, 48, 44, 40, 32))
        size = (length + 7) // 8
        value = bytearray(rng.randbytes(size))
        value[0] = value[0] % 223 + 1 if family == 4 else 0x2A
        value[-1] &= 0xFF00 >> (length % 8 or 8) & 0xFF
        if family == 4 and value[0] == 127:
            continue  # ignored
        found[bytes([length]) + bytes(value)] = None
    return list(found)[:count]


def updates(nlri: list[bytes], sets: int, family: int, rng: Random) -> bytes:
    """Give the UPDATEs of a full table."""
    weights = [rng.paretovariate(0.95) for _ in range(sets)]
    scale = (len(nlri) - sets) / sum(weights)
    rest = list(nlri)
    rng.shuffle(rest)
    out = bytearray()
    for weight in weights:
        count = min(len(rest), 1 + min(int(weight * scale + rng.random()), len(nlri) // 100))
        taken = [rest.pop() for _ in range(count)]
        while taken:
            room, part = 3400, []
            while taken and room > 17:
                part.append(taken.pop())
                room -= len(part[-1])
            out += update(b"".join(part), family, rng, weight)
    while rest:
        out += update(b"".join(rest.pop() for _ in range(min(len(rest), 150))), family, rng, len(rest))
    return bytes(out)


def update(nlri: bytes, family: int, rng: Random, key: float) -> bytes:
    """Give one UPDATE; equal keys give equal attributes."""
    rng = Random(key)
    path = [65010, *(rng.randrange(1, 65000 - 1) for _ in range(rng.randint(1, 8)))]
    attributes = b"\x40\x01\x01" + bytes([rng.choice((0, 0, 0, 2))])
    attributes += struct.pack(f"!BBBBB{len(path)}I", 0x40, 2, 2 + 4 * len(path), 2, len(path), *path)
    if family == 4:
        attributes += b"\x40\x03\x04\x0a\x00\x00\x01"
    if rng.random() < 0.3:
        attributes += struct.pack("!BBBI", 0x80, 4, 4, rng.randrange(200))
    if rng.random() < 0.65:
        communities = [rng.randrange(1, 1 << 31) for _ in range(rng.randint(1, 11))]
        attributes += struct.pack(f"!BBB{len(communities)}I", 0xC0, 8, 4 * len(communities), *communities)
    if family == 6:
        reach = struct.pack("!HBB", 2, 1, 16) + parse_address("2001:db8::1").value.to_bytes(16, "big") + b"\0" + nlri
        attributes = struct.pack("!BBH", 0x90, 14, len(reach)) + reach + attributes
        nlri = b""
    body = struct.pack("!HH", 0, len(attributes)) + attributes + nlri
    return b"\xff" * 16 + struct.pack("!HB", 19 + len(body), 2) + body


class Bench:
    """A table with a sender and a monitor."""

    def __init__(self, family: int) -> None:
        self.fd = create(KIND_TABLES, 1 << 30, 1, "bench")
        self.writer = TableWriter(self.fd)
        self.table = BulkTable(self.writer, lambda _name: 1)
        self.table.configure(Identity(65000, 1))
        self.afi = Afi.IPV4 if family == 4 else Afi.IPV6
        own = parse_address("10.0.1.254" if family == 4 else "2001:db8::fe")
        self.settings = [
            PeerSettings(
                PeerKind.EXTERNAL, Address(4, 0x0A000000 + number), 65000, 65000 + 10 * number, number,
                {self.afi: FamilySettings(next_hop=own)},
            )
            for number in (1, 2, 3)
        ]  # fmt: skip
        for number in (1, 2, 3):
            self.table.peer_add(number)
        self.worst = 0.0

    def up(self, number: int) -> None:
        """Begin a session."""
        self.table.peer_up(number, self.settings[number - 1])

    def work(self) -> None:
        """Do all that waits, in slots."""
        more = True
        while more:
            start = time.perf_counter()
            more = self.table.process(SLOT)
            self.worst = max(self.worst, time.perf_counter() - start)
            for hop in self.table.new_next_hops():
                self.table.next_hop_set(hop.id, 1, (Hop(HopKind.FORWARD, "wan", hop.address),))
                more = True

    def drain(self, number: int) -> tuple[int, int]:
        """Read what a neighbor is owed: bytes and messages."""
        size = messages = 0
        while data := self.table.export(number, CHUNK):
            size += len(data)
            messages += data.count(b"\xff" * 16)
        return size, messages

    def segment(self) -> int:
        """Give the memory of the tables segment."""
        import os

        self.writer.reclaim()
        return os.fstat(self.fd).st_blocks * 512

    def feed(self, number: int, data: bytes, *, interleaved: bool) -> None:
        """Let a neighbor speak."""
        view = memoryview(data)
        at = 0
        while at < len(view):
            at += self.table.feed(number, view[at : at + CHUNK]).consumed
            if interleaved:
                self.work()
                self.drain(2)


def timed(what: str, function: object, *arguments: object, **named: object) -> object:
    """Print how long something takes."""
    start, cpu = time.perf_counter(), time.process_time()
    result = function(*arguments, **named)  # type: ignore[operator]
    print(f"{what:44} {time.perf_counter() - start:7.3f} s, CPU {time.process_time() - cpu:7.3f}  {result or ''}")
    return result


def main() -> None:
    """Run all steps."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--sets", type=int, default=70_000)
    parser.add_argument("--family", type=int, default=4)
    parser.add_argument("--prefixes")
    options = parser.parse_args()
    rng = Random(1)
    file = options.prefixes if options.prefixes and Path(options.prefixes).exists() else None
    data = updates(prefixes(options.family, options.count, file, rng), options.sets, options.family, rng)
    print(f"{len(data)} bytes, {CONSTANTS['BGP_FAMILIES']} families")
    bench = Bench(options.family)
    bench.up(1)
    timed("feed alone", bench.feed, 1, data, interleaved=False)
    timed("best paths and FIB", bench.work)
    totals = bench.table.totals()
    segment = bench.segment()
    print(f"totals {totals}, segment {segment}")
    print(f"bytes a route: {totals['bytes'] / options.count:.1f} private, {segment / options.count:.1f} segment")
    bench.up(2)
    timed("new neighbor: walk", bench.work)
    timed("new neighbor: export", bench.drain, 2)
    bench.table.peer_down(1)
    print(f"with its group: {bench.table.totals()['bytes'] / options.count:.1f} bytes a route, private")
    timed("neighbor down: FIB clean", bench.work)
    timed("neighbor down: withdrawals", bench.drain, 2)
    bench.up(1)
    timed("all at once, slots", bench.feed, 1, data, interleaved=True)
    print(f"worst slot {bench.worst * 1000:.1f} ms")
    timed("the same again: nothing to do", bench.feed, 1, data, interleaved=True)
    one = data[:0]
    start = time.process_time()
    at = count = 0
    while at < len(data) and count < 10_000:
        length = int.from_bytes(data[at + 16 : at + 18], "big")
        one = data[at : at + length].replace(b"\x40\x01\x01\x00", b"\x40\x01\x01\x01", 1)
        bench.table.feed(1, one)
        bench.work()
        bench.drain(2)
        at += length
        count += 1
    print(f"{count} changed updates, each alone: CPU {time.process_time() - start:.3f} s")


if __name__ == "__main__":
    main()
