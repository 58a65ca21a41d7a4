"""Compares two routers frame by frame: the same input, equal output, in any order within a batch."""

from __future__ import annotations

import socket
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from router_side import RouterSide

BATCH: Final = 40
QUIET: Final = 0.002  # seconds without a frame that end a batch; the slow path waits longer
PATIENCE: Final = 0.05
ERRORS_A_SECOND: Final = 900  # below the limit of 1000 ICMP errors a second of a VR


@dataclass(frozen=True)
class Difference:
    """One input frame for which the two routers did not do the same."""

    frame: bytes
    expected: Counter[tuple[str, bytes]]
    actual: Counter[tuple[str, bytes]]

    def __str__(self) -> str:
        def lines(outputs: Counter[tuple[str, bytes]]) -> str:
            return "".join(f"\n    {side} x{count} {frame.hex()}" for (side, frame), count in outputs.items()) or "\n    nothing"

        return (
            f"input {self.frame.hex()}\n  only kernel:{lines(self.expected - self.actual)}"
            f"\n  only VR:{lines(self.actual - self.expected)}"
        )


def normalize(frame: bytes) -> bytes:
    """Blank what two correct routers choose for themselves: the IP identification of ICMP."""
    if frame[12:14] == b"\x08\x00" and len(frame) > 34 and frame[14] >> 4 == 4 and frame[23] == socket.IPPROTO_ICMP:  # noqa: PLR2004
        head = bytearray(frame)
        head[18:20] = head[24:26] = b"\0\0"
        return bytes(head)
    return frame


def is_error(frame: bytes) -> bool:
    """Tell an ICMP message of the router from a forwarded packet."""
    return (frame[12:14] == b"\x08\x00" and frame[23] == 1) or (frame[12:14] == b"\x86\xdd" and frame[20] == 58)  # noqa: PLR2004


class Comparison:
    """Feeds frames to a reference router and to the one under test."""

    def __init__(self, reference: RouterSide, tested: RouterSide) -> None:
        self._reference = reference
        self._tested = tested
        self._errors = 0
        self._begin = time.monotonic()
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
        """Repeat one frame with patience: only what differs again is a difference."""
        for _attempt in range(2):
            expected, actual = self._exchange([frame], PATIENCE)
            if expected == actual:
                return None
        return Difference(frame, expected, actual)

    def _exchange(self, batch: list[bytes], wait: float) -> tuple[Counter[tuple[str, bytes]], Counter[tuple[str, bytes]]]:
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
        self._errors += sum(count for (_side, frame), count in expected.items() if is_error(frame))
        ahead = self._errors / ERRORS_A_SECOND - (time.monotonic() - self._begin)
        if ahead > 0:
            time.sleep(ahead)
        return expected, actual
