"""What a sender makes of ACKs: RTT, SACK, RACK, PRR, undo, F-RTO, and hostile ACKs."""

from __future__ import annotations

import random

import pytest

from tests.unit.tcp_sender import CWR, DISORDER, FAST, INFINITE, LOSS, MS, MSS, OPEN, RENO, REORDER, Sender, Setup

ECE = 64


def test_first_and_later_samples() -> None:
    sender = Sender()
    assert sender.view().srtt_us == 8 * 100_000
    assert sender.view().rttvar_us == 200_000
    assert sender.view().rto_us == 300_000
    sender.send(1)
    sender.wait(180)
    sender.ack(1)
    # RFC 6298 with alpha = 1/8: 7/8 * 100 + 1/8 * 180
    assert sender.view().srtt_us == 8 * 110_000
    assert sender.view().min_rtt_us == 100_000


def test_retransmitted_segments_give_no_sample() -> None:
    sender = Sender()
    sender.send(1)
    sender.wait(300)
    sender.timeout()
    sender.wait(5)
    before = sender.view().srtt_us
    sender.ack(1)
    assert sender.view().srtt_us == before


def test_timestamps_give_one_nevertheless() -> None:
    sender = Sender(Setup(timestamps=True))
    sender.send(1)
    sent = sender.now // MS
    sender.wait(300)
    sender.timeout()
    sender.wait(60)
    sender.ack(1, echo_ms=sent + 300)
    assert sender.view().srtt_us == 8 * 95_000


def test_ack_of_the_future_and_of_the_past() -> None:
    sender = Sender()
    sender.send(2)
    assert sender.ack(3) == 2
    assert sender.view().packets_out == 2
    assert sender.ack(1) == 0
    assert sender.ack(0) == 1
    assert sender.view().packets_out == 1


def test_three_sacked_segments_begin_recovery() -> None:
    sender = Sender()
    sender.send(10)
    sender.wait(100)
    sender.ack(0, (1, 2))
    assert sender.view().recovery == DISORDER
    sender.ack(0, (1, 3))
    sender.ack(0, (1, 4))
    view = sender.view()
    assert (view.recovery, view.cwnd, view.ssthresh) == (FAST, 7, 7)
    assert (view.sacked_out, view.lost_out, view.retrans_out) == (3, 1, 1)
    for edge in range(5, 11):
        sender.wait(10)
        sender.ack(0, (1, edge))
        sender.send(1)
        view = sender.view()
        assert view.packets_out - view.sacked_out - view.lost_out + view.retrans_out <= 7
    sender.ack(10)
    assert (sender.view().recovery, sender.view().cwnd) == (OPEN, 7)


def test_one_sacked_segment_waits_a_quarter_of_the_round_trip() -> None:
    sender = Sender()
    sender.send(4)
    sender.wait(100)
    sender.ack(0, (3, 4))
    view = sender.view()
    assert (view.recovery, view.timer) == (DISORDER, REORDER)
    assert view.timer_at - sender.now == 27 * MS
    sender.wait(27)
    sender.reorder_timeout()
    view = sender.view()
    assert (view.recovery, view.lost_out, view.retrans_out) == (FAST, 3, 1)


def test_a_lost_retransmission_is_sent_again() -> None:
    sender = Sender()
    sender.send(10)
    sender.wait(100)
    sender.ack(0, (2, 5))
    assert sender.view().retrans_out >= 1
    sender.wait(100)
    sender.ack(0, (2, 6))
    sender.wait(110)
    sender.send(1)
    sender.wait(110)
    before = sender.view().retransmitted
    sender.ack(0, (2, 6), (10, 11))
    assert sender.view().retransmitted > before


def test_a_part_of_a_segment_is_not_sacked() -> None:
    sender = Sender()
    sender.send(4)
    sender.wait(100)
    sender.ack(0, (3.5, 4))
    assert sender.view().sacked_out == 0
    sender.ack(0, (1.5, 3.5))
    assert sender.view().sacked_out == 1


def test_sacked_neighbors_become_one_record() -> None:
    sender = Sender()
    sender.send(100)
    sender.wait(100)
    for edge in range(2, 100, 2):
        sender.ack(0, (edge - 1, edge), (1, edge - 1)) if edge > 2 else sender.ack(0, (1, 2))
    for edge in range(3, 100):
        sender.ack(0, (1, edge))
    assert sender.records() <= 10
    assert sender.view().sacked_out == 98


def test_partly_acknowledged_super_segment() -> None:
    sender = Sender()
    sender.send(10)
    sender.wait(100)
    sender.ack(2.5)
    view = sender.view()
    assert (view.packets_out, view.delivered) == (8, 3)
    sender.ack(2.7)
    assert sender.view().packets_out == 8


def test_without_sack_duplicates_stand_for_segments() -> None:
    sender = Sender(Setup(sack=False, congestion=RENO))
    sender.send(10)
    sender.wait(100)
    sender.ack(0)
    sender.ack(0)
    assert (sender.view().recovery, sender.view().sacked_out) == (DISORDER, 2)
    sender.ack(0)
    view = sender.view()
    assert (view.recovery, view.lost_out, view.retrans_out, view.ssthresh) == (FAST, 1, 1, 5)
    sender.wait(100)
    sender.ack(1)  # partial: the next one is lost too (RFC 6582)
    assert sender.view().retransmitted == 2
    sender.ack(10)
    assert sender.view().recovery == FAST  # until something above high_seq is acknowledged
    sender.send(1)
    sender.ack(11)
    assert (sender.view().recovery, sender.view().cwnd) == (OPEN, 5)


def test_without_rack_the_count_decides() -> None:
    sender = Sender(Setup(rack=False))
    sender.send(10)
    sender.wait(100)
    sender.ack(0, (9, 10))
    sender.wait(100)
    sender.ack(0, (8, 10))
    assert sender.view().recovery == DISORDER
    sender.ack(0, (7, 10))
    view = sender.view()
    assert (view.recovery, view.lost_out) == (FAST, 7)


def test_duplicates_of_data_undo_the_reduction() -> None:
    sender = Sender()
    sender.send(10)
    sender.wait(100)
    sender.ack(0, (1, 4))
    assert sender.view().cwnd < 10
    sender.wait(50)
    sender.ack(10)
    sender.send(1)
    sender.wait(50)
    sender.ack(10, (0, 1))
    view = sender.view()
    assert (view.recovery, view.cwnd, view.undone) == (OPEN, 10, 1)
    assert view.ssthresh >= INFINITE


def test_a_duplicate_told_with_its_acknowledgment_undoes_the_reduction() -> None:
    """The ACKs of the originals were lost: the one that acknowledges all brings the D-SACK (RFC 3708)."""
    sender = Sender()
    sender.send(10)
    sender.wait(100)
    sender.ack(0, (1, 4))
    assert sender.view().recovery == FAST
    sender.wait(100)
    sender.ack(10, (0, 1))
    view = sender.view()
    assert (view.recovery, view.undone) == (OPEN, 1)
    assert view.cwnd >= 10
    assert view.ssthresh >= INFINITE
    assert view.sacked_out == view.retrans_out == view.lost_out == 0


def test_one_duplicate_of_two_retransmissions_undoes_nothing() -> None:
    sender = Sender()
    sender.send(10)
    sender.wait(100)
    sender.ack(0, (2, 6))
    assert sender.view().retrans_out == 2
    sender.wait(100)
    sender.ack(10, (0, 1))
    view = sender.view()
    assert (view.recovery, view.cwnd, view.undone) == (OPEN, 7, 0)


def test_an_echo_from_before_the_retransmission_undoes_it() -> None:
    sender = Sender(Setup(timestamps=True))
    sender.send(10)
    sent = sender.now // MS
    sender.wait(100)
    sender.ack(0, (1, 4), echo_ms=sent)
    assert sender.view().recovery == FAST
    sender.wait(2)
    sender.ack(10, echo_ms=sent)
    view = sender.view()
    assert (view.recovery, view.undone) == (OPEN, 1)
    assert view.cwnd >= 10


def test_time_out_loses_everything_and_slow_starts() -> None:
    sender = Sender()
    sender.send(10)
    sender.wait(300)
    sender.timeout()
    view = sender.view()
    assert (view.recovery, view.lost_out, view.retrans_out, view.cwnd, view.ssthresh) == (LOSS, 10, 1, 1, 7)
    sender.wait(100)
    sender.ack(1)
    view = sender.view()
    assert (view.recovery, view.cwnd, view.retrans_out) == (LOSS, 2, 2)
    sender.ack(10)
    assert sender.view().recovery == OPEN


def test_a_spurious_time_out_is_found_by_new_data() -> None:
    sender = Sender()
    sender.send(4)
    sender.wait(300)
    sender.timeout()
    sender.queue(10)
    sender.wait(10)
    sender.ack(1)  # of the original, but nobody knows yet: new data goes out
    assert (sender.view().recovery, sender.view().retransmitted) == (LOSS, 1)
    sender.ack(2)  # never retransmitted
    view = sender.view()
    assert (view.recovery, view.undone, view.lost_out) == (OPEN, 1, 0)
    assert view.cwnd >= 10


def test_reneging_loses_what_was_sacked() -> None:
    sender = Sender()
    sender.send(10)
    sender.wait(100)
    sender.ack(0, (1, 10))
    sender.ack(1)
    assert sender.view().sacked_out == 9
    sender.wait(20)
    sender.timeout()
    view = sender.view()
    assert (view.sacked_out, view.lost_out, view.recovery) == (0, 9, LOSS)


def test_ecn_echo_shrinks_the_window_once() -> None:
    sender = Sender(Setup(ecn=True))
    sender.send(4)
    sender.wait(100)
    sender.ack(1, flags=ECE)
    view = sender.view()
    assert (view.recovery, view.cwnd, view.ssthresh) == (CWR, 4, 7)
    sender.ack(2, flags=ECE)
    assert sender.view().ssthresh == 7
    sender.ack(4, flags=ECE)
    sender.send(1)
    sender.ack(5)
    assert (sender.view().recovery, sender.view().cwnd) == (OPEN, 7)


def test_a_loss_that_a_tail_probe_repaired_counts() -> None:
    sender = Sender()
    sender.send(3)
    sender.wait(100)
    sender.ack(2)
    sender.wait(200)
    sender.tail_probe()
    sender.wait(100)
    sender.ack(3)
    sender.send(1)
    sender.wait(100)
    sender.ack(4)
    view = sender.view()
    assert (view.recovery, view.ssthresh, view.cwnd) == (OPEN, 7, 7)


def test_a_tail_probe_that_was_not_needed_does_not() -> None:
    sender = Sender()
    sender.send(3)
    sender.wait(100)
    sender.ack(2)
    sender.wait(200)
    sender.tail_probe()
    sender.wait(20)
    sender.ack(3)
    sender.ack(3, (2, 3))
    sender.send(1)
    sender.wait(100)
    sender.ack(4)
    assert (sender.view().ssthresh, sender.view().recovery) == (INFINITE, OPEN)


def test_reordering_raises_the_threshold() -> None:
    sender = Sender()
    sender.send(10)
    sender.wait(20)
    sender.ack(0, (9, 10))
    sender.ack(0, (3, 4), (9, 10))
    sender.ack(10)
    view = sender.view()
    assert (view.reordering, view.reordering_seen, view.cwnd) == (10, 2, 19)


@pytest.mark.parametrize("seed", range(40))
def test_hostile_acks_leave_the_accounts_right(seed: int) -> None:
    rng = random.Random(seed)
    sender = Sender(
        Setup(
            sack=rng.random() < 0.8,
            rack=rng.random() < 0.7,
            congestion=rng.randrange(2),
            hystart=rng.randrange(3),
            timestamps=rng.random() < 0.5,
            ecn=rng.random() < 0.5,
            iss=rng.choice((1, 0xFFFF0000, 0x7FFF8000)),
        )
    )
    start, end = sender.setup.iss, 0
    for _ in range(400):
        sender.wait(rng.choice((0, 0.01, 1, 10, 100)))
        view = sender.view()
        una, step = view.snd_una, rng.random()
        if step < 0.35 and view.packets_out < 200:
            length = rng.choice((MSS, 3 * MSS, 17 * MSS, 1, 999, 2500))
            sender.send_bytes(length)
            end += length
        elif step < 0.40 and view.packets_out:
            sender.timeout()
        elif step < 0.44 and view.timer == REORDER:
            sender.reorder_timeout()
        else:
            span = (view.snd_nxt - una) & 0xFFFFFFFF
            ack = una + rng.choice((0, 0, 0, MSS, rng.randint(0, span) if span else 0, span, -MSS, span + 1))
            grain = rng.choice((1, MSS))
            edges = [una + rng.randint(-2 * MSS, span + MSS) // grain * grain for _ in range(2 * rng.randint(0, 4))]
            blocks = [edge for pair in zip(edges[::2], edges[1::2], strict=True) for edge in sorted(pair)]
            sender.ack_raw(
                ack,
                blocks,
                flags=rng.choice((0, 0, ECE)),
                echo_ms=rng.choice((0, sender.now // MS - rng.randint(0, 500))),
                window=rng.choice((0, 1000, 1 << 20, 1 << 30)),
            )
        view = sender.view()
        assert view.cwnd >= 1
        assert view.ssthresh >= 2
        assert (view.packets_out == 0) == (view.snd_una == view.snd_nxt)
        assert view.packets_out == 0 or view.timer != 0
    sender.ack_raw(start + end, [])
    assert (sender.view().packets_out, sender.records()) == (0, 0)
