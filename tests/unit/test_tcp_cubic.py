"""CUBIC against its formula in floating point, and how slow start ends."""

from __future__ import annotations

import pytest

from tests.unit.tcp_sender import CUBIC, INFINITE, RENO, Sender, Setup

PLUS, ONCE = 1, 2


def run_rounds(sender: Sender, rounds: int, rtt_ms: int, acked: int) -> list[int]:
    """Send full windows, with an ACK for every segment at the end of each round trip."""
    windows = []
    for _ in range(rounds):
        flight = sender.view().cwnd
        for _ in range(flight):
            sender.send(1)
        sender.window(flight, sender.view().ssthresh)
        sender.wait(rtt_ms)
        for _ in range(flight):
            acked += 1
            sender.ack(acked)
        windows.append(sender.view().cwnd)
    return windows


def test_window_follows_the_cubic_function() -> None:
    sender = Sender(Setup(congestion=CUBIC, rtt_ms=20))
    sender.window(1000, 1000)
    for _ in range(1000):
        sender.send(1)
    sender.wait(20)
    sender.ack(0, (900, 1000))  # a loss at a window of 1000
    sender.ack(1000)
    begin = sender.view().cwnd
    assert begin == pytest.approx(700, abs=5)  # beta is 717/1024; the ACK counts too
    k = ((1000 - begin) / 0.4) ** (1 / 3)
    windows = run_rounds(sender, 600, 20, 1000)
    reno = [begin + 0.529 * i for i in range(600)]
    for i in range(20, 600):
        t = (i + 1) * 0.020
        expected = max(0.4 * (t - k) ** 3 + 1000, reno[i])
        assert windows[i] == pytest.approx(expected, rel=0.02)


def test_reno_adds_a_segment_in_a_round_trip() -> None:
    sender = Sender(Setup(congestion=RENO))
    sender.window(20, 20)
    assert run_rounds(sender, 5, 100, 0) == [21, 22, 23, 24, 25]


@pytest.mark.parametrize("congestion", [CUBIC, RENO])
def test_slow_start_doubles(congestion: int) -> None:
    sender = Sender(Setup(congestion=congestion))
    assert run_rounds(sender, 4, 100, 0) == [20, 40, 80, 160]


def test_a_window_that_is_not_used_does_not_grow() -> None:
    sender = Sender(Setup(congestion=CUBIC))
    sender.window(10, limited=False)
    sender.send(5)
    sender.ack(5)
    assert sender.view().cwnd == 10


def test_hystart_slows_down_then_leaves() -> None:
    sender = Sender(Setup(hystart=PLUS))
    windows = run_rounds(sender, 2, 100, 0)
    assert windows == [20, 40]
    acked = 30
    growth = []
    for rtt in (120, 120, 120, 120, 120, 120, 120):
        before = sender.view().cwnd
        acked_now = before
        after = run_rounds(sender, 1, rtt, acked)[0]
        acked += acked_now
        growth.append(after / before)
    # RFC 9406 section 4.2: five rounds at a quarter of the speed, then congestion avoidance.
    assert sender.view().ssthresh < INFINITE
    assert growth[0] == pytest.approx(1.4, abs=0.2)
    assert all(ratio == pytest.approx(1.25, abs=0.03) for ratio in growth[1:5])
    assert growth[6] < 1.15


def test_hystart_goes_on_where_the_delay_was_a_passing_one() -> None:
    sender = Sender(Setup(hystart=PLUS))
    run_rounds(sender, 2, 100, 0)
    acked = 30
    for rtt in (120, 100, 100, 100):
        before = sender.view().cwnd
        after = run_rounds(sender, 1, rtt, acked)[0]
        acked += before
    assert after == 2 * before
    assert sender.view().ssthresh == INFINITE


def test_the_plain_test_leaves_at_once() -> None:
    sender = Sender(Setup(hystart=ONCE))
    run_rounds(sender, 1, 100, 0)
    run_rounds(sender, 1, 120, 10)
    view = sender.view()
    assert 20 < view.ssthresh < 40
