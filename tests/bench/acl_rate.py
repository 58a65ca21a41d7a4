"""What a list costs a packet, by its length: our stage, and a chain of nftables with the same rules.

    PYTHONPATH=.:tests/netns python tests/bench/acl_rate.py        (as root, for nftables; else ours alone)

Ours: the stage as the forwarder calls it, over packets in memory; IPv4 and IPv6; each list with entries of a
source prefix and a port, whose last ones decide.  The kernel: datagrams to a socket in a namespace of its own, with and
without the chain; the difference is the chain's.  Medians of interleaved rounds.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import statistics
import struct
import time
from typing import TYPE_CHECKING, Final

from lab import Namespace, run

from tests.unit.acl_world import Stage
from vrouter.config.acl import AclEntry

if TYPE_CHECKING:
    from collections.abc import Iterator

LENGTHS: Final = (1, 10, 100, 1000)
ROUNDS: Final = 7
PACKETS: Final = 256
SENDS: Final = 20_000
PORT: Final = 4000


def entries(count: int) -> tuple[AclEntry, ...]:
    """Give a list of `count` entries."""
    found = []
    for place in range(count):
        ip4, ip6 = f"172.16.{place >> 4 & 255}.{(place & 15) * 16}/28", f"2001:db8:{place:x}::/48"
        port = (1024 + place, 1024 + place)
        found.append(AclEntry(action="permit", protocol=(17,), source=(ip4, ip6), destination_port=(port,)))
    return (*found[:-1], AclEntry(action="permit", protocol=(17,), destination_port=((PORT, PORT),)))


def packets(count: int, *, six: bool) -> bytes:
    """Give packets of 48 or 28 bytes for entries of a list at random."""
    rng = random.Random(1)
    found = b""
    for _ in range(PACKETS):
        place = rng.randrange(count)
        port = PORT if place == count - 1 else 1024 + place
        body = struct.pack(">HHHH", 9, port, 8, 0)
        if six:
            address = bytes.fromhex(f"20010db8{place:04x}") + rng.randbytes(10)
            found += struct.pack(">IHBB", 6 << 28, 8, 17, 64) + address + address + body
        else:
            source = 0xAC100000 | (place >> 4 & 255) << 8 | (place & 15) * 16 | rng.randrange(16)
            found += struct.pack(">BBHHHBBHII", 0x45, 0, 28, 1, 0, 64, 17, 0, source, 0x0A000001) + body
    return found


def ours() -> Iterator[tuple[int, float, float]]:
    """Give length, nanoseconds of IPv4, of IPv6."""
    stage = Stage()
    for count in LENGTHS:
        assert stage.load(entries(count))
        times = [
            statistics.median(stage.time(packets(count, six=six), PACKETS, 400) for _ in range(ROUNDS))
            for six in (False, True)
        ]
        yield count, times[0], times[1]


def chain(count: int) -> list[str]:
    """Give the same list for nftables."""
    rules = []
    for entry in entries(count):
        source = f"ip saddr {entry.source[0]} " if entry.source else ""
        rules.append(f"add rule ip t f {source}udp dport {entry.destination_port[0][0]} accept")
    return ["flush ruleset", "add table ip t", "add chain ip t f { type filter hook prerouting priority 0; }", *rules]


def send_time(sender: socket.socket, receiver: socket.socket) -> float:
    """Give nanoseconds for one datagram on its way over the loopback."""
    began = time.process_time()
    for _ in range(SENDS):
        sender.send(b"x")
        receiver.recv(1)
    return (time.process_time() - began) / SENDS * 1e9


def kernel() -> Iterator[tuple[int, float]]:
    """Give length and nanoseconds that the chain adds."""
    there = Namespace(f"acl-rate-{os.getpid()}")
    with contextlib.ExitStack() as stack:
        stack.callback(run, "ip", "netns", "del", there.name)
        with there.entered():
            receiver, sender = (stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2))
        receiver.bind(("127.0.0.1", PORT))
        sender.connect(("127.0.0.1", PORT))
        for count in LENGTHS:
            added = []
            for _ in range(ROUNDS):
                run(*there.command("nft", "-f", "-"), input_text="flush ruleset")
                without = send_time(sender, receiver)
                run(*there.command("nft", "-f", "-"), input_text="\n".join(chain(count)))
                added.append(send_time(sender, receiver) - without)
            yield count, statistics.median(added)


def main() -> None:
    """Print the table."""
    rows = {count: [four, six] for count, four, six in ours()}
    if os.geteuid() == 0:
        for count, added in kernel():
            rows[count].append(added)
    print(f"{'entries':>8} {'IPv4 ns':>8} {'IPv6 ns':>8} {'nftables ns':>12}")
    for count, values in rows.items():
        print(
            f"{count:>8} " + " ".join(f"{value:>{width}.0f}" for value, width in zip(values, (8, 8, 12), strict=False))
        )


if __name__ == "__main__":
    main()
