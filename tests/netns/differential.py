"""Compares two routers frame by frame: the same input, equal output, in any order within a batch.

One of them is the kernel's: between two LANs, with the routes that our tests give both.
"""

from __future__ import annotations

import socket
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from router_side import RouterSide

ICMP_ERRORS: Final = (3, 4, 5, 11, 12)
TIMESTAMP_OPTION: Final = 0x44
PRESPECIFIED: Final = 3  # timestamp option: only the named routers stamp
BATCH: Final = 40
QUIET: Final = 0.002  # seconds without a frame that end a batch; the slow path waits longer
PATIENCE: Final = 0.05
REST: Final = 6.0
ERRORS_A_SECOND: Final = 900  # below the limit of 1000 ICMP errors a second of a VR
IN_MAC, OUT_MAC = "02:00:00:00:0a:01", "02:00:00:00:0b:01"
# Lines of `ip -batch`: the LANs, and what is behind hosts there.
KERNEL_ROUTER: Final = f"""
link set k-in address {IN_MAC}
link set k-out address {OUT_MAC}
addr add 10.0.0.1/24 dev k-in
addr add 2001:db8:a::1/64 dev k-in nodad
addr add 10.0.1.1/24 dev k-out
addr add 2001:db8:b::1/64 dev k-out nodad
link set k-in up
link set k-out up
route add 10.128.0.0/9 via 10.0.1.2
route add 172.16.0.0/12 via 10.0.0.2
route add blackhole 192.0.2.0/24
-6 route add 2001:db8:c::/48 via 2001:db8:b::2
-6 route add 2001:db8:d::/48 via 2001:db8:a::2
"""
SYSCTLS: Final = (
    "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv4.conf.all.send_redirects=0",
    "net.ipv4.conf.default.send_redirects=0", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0",
    "net.ipv4.icmp_ratelimit=0", "net.ipv4.icmp_msgs_per_sec=1000000", "net.ipv4.icmp_msgs_burst=10000",
    "net.ipv6.icmp.ratelimit=0", "net.ipv6.auto_flowlabels=0",
)  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """One input frame for which the two routers did not do the same."""

    frame: bytes
    expected: Counter[tuple[str, bytes]]
    actual: Counter[tuple[str, bytes]]

    def __str__(self) -> str:
        def lines(outputs: Counter[tuple[str, bytes]]) -> str:
            return (
                "".join(f"\n    {side} x{count} {frame.hex()}" for (side, frame), count in outputs.items())
                or "\n    nothing"
            )

        return (
            f"input {self.frame.hex()}\n  only kernel:{lines(self.expected - self.actual)}"
            f"\n  only VR:{lines(self.actual - self.expected)}"
        )


def normalize(frame: bytes) -> bytes:
    """Blank what two correct routers choose for themselves; docs/differences.md says why for each.

    These are the IP identification of ICMP messages; in the timestamp option the time, which a VR does
    not tell; and in an ICMP error about a packet with options, the options (the kernel sends them back
    and quotes them as it has altered them) with what they push out of the quotation.
    """
    if frame[12:14] != b"\x08\x00" or len(frame) < 34 or frame[14] >> 4 != 4:
        return frame
    head = 14 + (frame[14] & 15) * 4
    if frame[23] != socket.IPPROTO_ICMP or len(frame) < head + 8:
        return _without_times(frame, head)
    error = frame[head] in ICMP_ERRORS
    quoted = head + 8
    if error and len(frame) >= quoted + 20 and frame[quoted] & 15 > 5:
        payload = quoted + (frame[quoted] & 15) * 4
        parts = (frame[:14], frame[15:16], frame[22:24], frame[26:34], frame[head : head + 2], frame[head + 4 : quoted])
        return (
            b"".join(parts)
            + frame[quoted : quoted + 10]
            + frame[quoted + 12 : quoted + 20]
            + frame[payload : payload + 8]
        )
    return frame[:18] + b"\0\0" + frame[20:24] + b"\0\0" + frame[26:]


def _without_times(frame: bytes, head: int) -> bytes:
    at = 34
    while at + 2 < head and frame[at] not in (0, TIMESTAMP_OPTION):
        at += 1 if frame[at] == 1 else max(frame[at + 1], 2)
    if at + 2 >= head or frame[at] != TIMESTAMP_OPTION:
        return frame
    end = min(at + frame[at + 1], head)
    # The kernel takes a prespecified 0.0.0.0 for an address of its own, and moves the pointer.
    flags = frame[at + 3] if at + 3 < head else 0
    first = at + 2 if flags & 15 == PRESPECIFIED else at + 4
    blank = frame[:first] + bytes(max(0, end - first)) + frame[end:]
    return blank[:24] + b"\0\0" + blank[26:]


def is_error(frame: bytes) -> bool:
    """Tell an ICMP message of the router from a forwarded packet."""
    return (frame[12:14] == b"\x08\x00" and frame[23] == 1) or (frame[12:14] == b"\x86\xdd" and frame[20] == 58)


class Comparison:
    """Feeds frames to a reference router and to the one under test."""

    def __init__(self, reference: RouterSide, tested: RouterSide) -> None:
        self._reference = reference
        self._tested = tested
        self.compared = 0
        self.outputs: Counter[str] = Counter()

    def run(self, frames: list[bytes], most: int = 10) -> list[Difference]:
        """Give up to `most` differences."""
        found: list[Difference] = []
        for at in range(0, len(frames), BATCH):
            batch = frames[at : at + BATCH]
            expected, actual = self._exchange(batch, QUIET)
            if expected != actual:
                found += [difference for frame in batch if (difference := self._alone(frame))]
                if len(found) >= most:
                    break
            self.compared += len(batch)
            self.outputs["forwarded"] += sum(count for (side, _frame), count in expected.items() if side == "out")
            self.outputs["returned"] += sum(count for (side, _frame), count in expected.items() if side == "in")
            self.outputs["silent"] += max(0, len(batch) - sum(expected.values()))
        return found

    def _alone(self, frame: bytes) -> Difference | None:
        """Repeat one frame with patience: only what differs again is a difference.

        The last time after a rest in which the per-source limits of both routers (the kernel has one for
        packets without a route that no sysctl of a namespace lifts) are full again.
        """
        for rest in (0.0, 0.0, REST):
            time.sleep(rest)
            expected, actual = self._exchange([frame], PATIENCE)
            if expected == actual:
                return None
        return Difference(frame, expected, actual)

    def _exchange(
        self, batch: list[bytes], wait: float
    ) -> tuple[Counter[tuple[str, bytes]], Counter[tuple[str, bytes]]]:
        begin = time.monotonic()
        for frame in batch:
            self._reference.send(frame)
            self._tested.send(frame)
        expected = Counter((side, normalize(frame)) for side, frame in self._reference.receive(wait))
        actual = Counter((side, normalize(frame)) for side, frame in self._tested.receive(wait))
        for _attempt in range(10):  # one of them may still be at work
            if sum(actual.values()) >= sum(expected.values()):
                break
            more = self._tested.receive(PATIENCE / 10)
            actual += Counter((side, normalize(frame)) for side, frame in more)
        expected += Counter((side, normalize(frame)) for side, frame in self._reference.receive(0))
        errors = sum(count for (_side, frame), count in expected.items() if is_error(frame))
        time.sleep(max(0.0, begin + errors / ERRORS_A_SECOND - time.monotonic()))
        return expected, actual
