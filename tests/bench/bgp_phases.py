"""The phases in the life of a full table, measured the same for every receiver.

A  load            first byte of the sender -> all accepted; and -> all in the forwarding table, where there is one
B  new peer        the monitor's session is up -> the last prefix at the monitor
C  failure         the sender's TCP closes -> the last withdrawal at the monitor; and -> the forwarding table is clean
D  propagation     the sender is back, first byte -> the last prefix at the monitor
E  withdrawal      of every prefix, first byte -> the last withdrawal at the monitor
churn              updates of one prefix each at a steady rate -> the share of a core

Seconds of the wall, and CPU seconds of all of the receiver's processes until nothing moves any more.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from bgp_receivers import Receiver, cpu_seconds, resident_bytes
from bgp_routes import MONITOR_AS, SENDER_AS, Table
from bgp_speaker import Speaker

if TYPE_CHECKING:
    from collections.abc import Callable

QUIET: Final = 2.0
PHASE_TIMEOUT: Final = 300.0
CHURN_RATE: Final = 10_000
CHURN_SECONDS: Final = 5
CHURN_BATCHES: Final = 100  # a second


@dataclass
class Cell:
    """What a phase cost."""

    wall: float
    cpu: float
    table: float | None = None  # until the forwarding table had followed


@dataclass
class Row:
    """What a receiver did."""

    name: str
    phases: dict[str, Cell] = field(default_factory=dict)
    resident: int = 0  # bytes after A
    grown: int = 0  # bytes of A
    messages: int = 0  # UPDATEs of B
    message_bytes: int = 0
    churn: float = 0.0  # share of a core

    def text(self) -> str:
        """Give a line of the table."""
        cells = []
        for name in "ABCDE":
            cell = self.phases.get(name)
            if cell is None:
                cells.append(f"{'-':>12}")
                continue
            cells.append(f"{cell.wall:6.2f}/{cell.cpu:5.2f}")
            if name in "AC":
                cells.append(f"{'-' if cell.table is None else f'{cell.table:.2f}':>6}")
        return (
            f"{self.name:12} {' '.join(cells)}  {self.resident / 1e6:7.0f} {self.messages:8} "
            f"{self.message_bytes / 1e6:6.1f} {100 * self.churn:6.1f}"
        )


HEADING: Final = (
    f"{'':12} {'A load':>12} {'in fib':>6} {'B new peer':>12} {'C failure':>12} {'clean':>6} {'D again':>12} "
    f"{'E withdraw':>12}  {'RSS MB':>7} {'B msgs':>8} {'B MB':>6} {'churn%':>6}   (wall s/CPU s)"
)


class Life:
    """One receiver from its first route to its last."""

    def __init__(self, receiver: Receiver, table: Table, patience: float = PHASE_TIMEOUT) -> None:
        """Take a receiver that runs; `patience` is how long it may take to be idle after a phase."""
        self.receiver, self.table, self._patience = receiver, table, patience
        self.row = Row(receiver.name)
        world = receiver.world
        first, second = world.receiver
        self.sender = Speaker(world.load, world.sender, first, asn=SENDER_AS, afi=table.afi)
        keep = 2 * len(table.announce) + (1 << 20) if receiver.name == "anabranch" else 0
        self.monitor = Speaker(world.load, world.monitor, second, asn=MONITOR_AS, afi=table.afi, keep=keep)
        self._base_fib = receiver.installed() or 0
        self._pause = 0.002 if receiver.installed() is not None else 0.05

    def run(self) -> Row:
        """Go through all phases."""
        self.load()
        self.new_peer()
        self.churn()
        self.fail()
        self.again()
        self.withdraw()
        self.close()
        return self.row

    def load(self) -> None:
        """A."""
        before = resident_bytes(self.receiver.pids())
        self.sender.connect()
        base = self._cpu()
        start = self.sender.send(self.table.announce)
        in_fib = None
        if self.receiver.installed() is None:
            wall = self._until(lambda: self.receiver.accepted() >= self.table.count, "A") - start
        elif self.receiver.name == "anabranch":
            wall = in_fib = self._until(self._full, "A in fib") - start
        else:
            wall = self._until(lambda: self.receiver.accepted() >= self.table.count, "A") - start
            in_fib = self._until(self._full, "A in fib") - start
        self.row.phases["A"] = Cell(wall, self._settled(base), in_fib)
        self.row.resident = resident_bytes(self.receiver.pids())
        self.row.grown = self.row.resident - before

    def new_peer(self) -> None:
        """B."""
        base = self._cpu()
        self.monitor.connect()
        # The first prefixes may have come before we set the mark: it counts from the session's start.
        self.monitor.count.announce_target = self.table.count
        at = self._until(lambda: self.monitor.count.announced >= self.table.count, "B")
        at = self.monitor.announced_at or at
        self.row.phases["B"] = Cell(at - self.monitor.established, self._settled(base))
        self.row.messages = int(self.monitor.count.messages)
        self.row.message_bytes = int(self.monitor.count.bytes)

    def fail(self) -> Cell:
        """C."""
        base = self._cpu()
        self.monitor.expect(withdrawn=self.table.count)
        start = self.sender.close()
        self._until(lambda: self.monitor.withdrawn_at, "C")
        clean = None
        if self.receiver.installed() is not None:
            clean = self._until(lambda: self._fib() <= self.receiver.slack, "C clean") - start
        self.row.phases["C"] = Cell(self.monitor.withdrawn_at - start, self._settled(base), clean)
        return self.row.phases["C"]

    def again(self) -> Cell:
        """D."""
        base = self._cpu()
        self.monitor.expect(announced=self.table.count)
        self.sender.connect()
        start = self.sender.send(self.table.announce)
        in_fib = None
        if self.receiver.name == "anabranch":
            in_fib = self._until(self._full, "D in fib") - start
        self._until(lambda: self.monitor.announced_at, "D")
        self.row.phases["D"] = Cell(self.monitor.announced_at - start, self._settled(base), in_fib)
        return self.row.phases["D"]

    def withdraw(self) -> None:
        """E."""
        base = self._cpu()
        self.monitor.expect(withdrawn=self.table.count)
        start = self.sender.send(self.table.withdraw)
        self._until(lambda: self.monitor.withdrawn_at, "E")
        self.row.phases["E"] = Cell(self.monitor.withdrawn_at - start, self._settled(base))

    def churn(self) -> None:
        """Send single updates at a steady rate, with both sessions up."""
        updates = self.table.churn(CHURN_RATE * CHURN_SECONDS)
        size = CHURN_RATE // CHURN_BATCHES
        batches = [b"".join(updates[at : at + size]) for at in range(0, len(updates), size)]
        base, start = self._cpu(), time.monotonic()
        for number, batch in enumerate(batches):
            delay = start + number / CHURN_BATCHES - time.monotonic()
            if delay > 0:
                time.sleep(delay)
            self.sender.send(batch)
        took = time.monotonic() - start
        self.row.churn = (self._settled(base)) / took
        self.sender.send(self.table.announce)  # as it was
        self._settled(base)

    def close(self) -> None:
        """End both sessions."""
        self.sender.close()
        self.monitor.close()

    def _cpu(self) -> float:
        return cpu_seconds(self.receiver.pids())

    def _full(self) -> bool:
        return self._fib() >= self.table.count - self.receiver.slack

    def _fib(self) -> int:
        return (self.receiver.installed() or 0) - self._base_fib

    def _stay(self) -> None:
        for speaker in (self.sender, self.monitor):
            if speaker.count is not None and not speaker.count.stop:
                speaker.stay()

    def _until(self, check: Callable[[], object], what: str) -> float:
        """Poll; give the moment before the check that said yes: looking takes its time too."""
        deadline = time.monotonic() + PHASE_TIMEOUT
        while True:
            at = time.monotonic()
            if check():
                return at
            if at > deadline:
                raise AssertionError(f"{self.row.name}: not within {PHASE_TIMEOUT:g} s: {what}")
            self._stay()
            time.sleep(self._pause)

    def _settled(self, base: float) -> float:
        """Wait until the receiver has been idle for a while; give what it used since `base`."""
        last, since = self._cpu(), time.monotonic()
        deadline = since + self._patience
        while time.monotonic() - since < QUIET and time.monotonic() < deadline:
            time.sleep(0.1)
            self._stay()
            used = self._cpu()
            if used > last + 0.02:
                last, since = used, time.monotonic()
        return last - base


def verify_exact(table: Table, kept: bytes) -> None:
    """Check that what the monitor got in B is the table: each prefix once, with the sender's path behind ours."""
    seen = set()
    for prefix in announced_prefixes(kept, table.afi):
        assert prefix not in seen, "a prefix came twice"
        seen.add(prefix)
    assert seen == set(table.prefixes)


def announced_prefixes(updates: bytes, afi: int) -> list[bytes]:
    """Give the encoded prefixes that UPDATEs announce."""
    found, at = [], 0
    while at < len(updates):
        size = int.from_bytes(updates[at + 16 : at + 18], "big")
        body = updates[at + 19 : at + size]
        at += size
        withdrawn = int.from_bytes(body[:2], "big")
        attributes = body[4 + withdrawn :][: int.from_bytes(body[2 + withdrawn : 4 + withdrawn], "big")]
        nlri = body[4 + withdrawn + len(attributes) :]
        if afi != 1:
            nlri = _reach(attributes)
        place = 0
        while place < len(nlri):
            end = place + 1 + (nlri[place] + 7) // 8
            found.append(nlri[place:end])
            place = end
    return found


def _reach(attributes: bytes) -> bytes:
    at = 0
    while at < len(attributes):
        wide = attributes[at] & 0x10
        start = at + (4 if wide else 3)
        length = int.from_bytes(attributes[at + 2 : start], "big")
        if attributes[at + 1] == 14:
            value = attributes[start : start + length]
            return value[5 + value[3] :]
        at = start + length
    return b""
