"""What tshark says of a VR's TCP on a link that is perfect: nothing.  The kernel speaks from the other end."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import pytest
from hosts import Capture
from tcp_ends import (
    PATHS,
    Ends,
    closed,
    drain,
    laws,  # noqa: F401 - a fixture
    one_link,
    pour,
    together,
    transfer,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path as File

pytestmark = [pytest.mark.quiet, pytest.mark.root]

# On a machine that is busy a tail is probed in vain, or a reader is late; only what shows in each run is TCP's.
RUNS: Final = 4
ODD: Final = (
    "retransmission", "fast_retransmission", "spurious_retransmission", "out_of_order", "lost_segment",
    "ack_lost_segment", "duplicate_ack", "zero_window", "zero_window_probe", "zero_window_probe_ack",
    "keep_alive", "keep_alive_ack", "reused_ports",
)  # fmt: skip


@pytest.fixture(scope="module", params=[True, False], ids=["offloads", "frames"])
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    with one_link(host_offloads=request.param, our_offloads=request.param) as made:
        yield made


def talk(asking: socket.socket, answering: socket.socket) -> None:
    """Ask and answer, shortly and at length, and say goodbye in order."""
    for size in (1, 100, 1448, 1449, 10_000, 60_000):
        for source, sink in ((asking, answering), (answering, asking)):
            transfer(source, sink, size, end=False)
    for source, sink in ((asking, answering), (answering, asking)):
        sent = pour(source, 3000)
        assert drain(sink) == (3000, sent)
    closed(asking, answering)


def busy(ends: Ends) -> None:
    """Let many connections of all kinds live and die."""
    for _ in range(5):
        for by_us in (True, False):
            for path in PATHS:
                ours, theirs = ends.connect(path, by_us=by_us)
                talk(*((ours, theirs) if by_us else (theirs, ours)))
    pairs = [ends.connect(PATHS[number % 2], by_us=number % 4 < 2) for number in range(8)]
    together(*(partial(talk, *pair) for pair in pairs))
    for path in PATHS:
        for to_us in (True, False):
            ours, theirs = ends.connect(path, by_us=to_us)
            source, sink = (theirs, ours) if to_us else (ours, theirs)
            transfer(source, sink, 3 << 20)
            closed(ours, theirs)


def test_tshark_finds_nothing_odd(ends: Ends, tmp_path: File, request: pytest.FixtureRequest) -> None:
    """No packet is malformed, no checksum is bad (those that are left to a card aside), nothing comes twice or late."""
    frames = request.node.callspec.params["ends"] is False
    odd = " || ".join(f"tcp.analysis.{name}" for name in ODD)
    seen: list[list[list[str]]] = []
    for run in range(RUNS):
        capture = Capture(ends.lab, ends.host, tmp_path / f"{run}.pcap")
        busy(ends)
        columns = ("frame.number", "ip.src", "ipv6.src", "_ws.col.Info")
        assert len(capture.fields("frame.number", where="tcp")) > 1500
        bad = "_ws.malformed || ip.checksum.status == 0"
        bad += " || tcp.checksum.status == 0" if frames else ""
        found = capture.fields(*columns, where=bad)
        assert not found, (len(found), found[:10])
        seen.append(capture.fields(*columns, where=odd))
        if not seen[-1]:
            return
    raise AssertionError([(len(rows), rows[:5]) for rows in seen])
