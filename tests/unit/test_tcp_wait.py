"""Records of TIME-WAIT and of half-closed connections that no app owns any more, by themselves."""

from __future__ import annotations

import random
from typing import Any, Final

import pytest

from tests.unit.tcp_parts import ACK, FIN, FIN_WAIT_2, REOPEN, RST, SECOND, SYN, TIME_WAIT, World

WRAP_MS: Final = 2**32 * 1_000_000
STARTS: Final = [0, 12_345_678_901, WRAP_MS - 30 * SECOND, WRAP_MS // 2 - 30 * SECOND, 5 * WRAP_MS - 1]


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize("start", STARTS)
def test_records_end_in_time_and_in_order(world: World, start: int) -> None:
    source = random.Random(start)
    ends: dict[int, int] = {}
    world.at(start)
    for port in range(1, 400):
        world.at(world.now + source.randrange(200_000_000))
        world.lib.wait_tick(world.c)
        life = (
            60 * SECOND
            if port % 3
            else source.choice([0, 1, 200_000_000, SECOND, 7 * SECOND, 90 * SECOND, 200 * SECOND])
        )
        state = TIME_WAIT if port % 3 else FIN_WAIT_2
        world.lib.wait_enter(world.c, world.segment(remote_port=port), state, life, 0)
        ends[port] = world.now + life
    while ends:
        deadline = world.lib.wait_deadline(world.c)
        assert deadline > world.now
        world.at(deadline)
        world.lib.wait_tick(world.c)
        for port, end in list(ends.items()):
            alive = world.lib.wait_state(world.c, world.segment(remote_port=port)) != 0
            assert alive or end - 1_000_000 <= world.now, "too early"
            assert not alive or end + 300_000_000 > world.now, "too late"
            if not alive:
                del ends[port]
        assert world.lib.wait_count(world.c) == len(ends)
    assert world.lib.wait_deadline(world.c) == 2**64 - 1


RECORDS: Final = 65534  # MAX_TCP_TIMEWAITS


def test_a_full_table_gives_up_the_oldest(world: World) -> None:
    made = world.segment()

    def number(i: int) -> Any:
        made.local_port, made.remote_port = 1 + i % 64, 1 + i // 64
        return made

    for i in range(RECORDS + 500):
        world.at(i * 100_000)
        world.lib.wait_enter(world.c, number(i), TIME_WAIT, 60 * SECOND, 0)
    assert world.lib.wait_count(world.c) == RECORDS
    gone = [i for i in range(500 + 2 * 2560) if world.lib.wait_state(world.c, number(i)) == 0]
    assert len(gone) == 500, "of the oldest quarters of a second"
    world.at(200 * SECOND)
    world.lib.wait_tick(world.c)
    assert world.lib.wait_count(world.c) == 0


def test_a_lost_last_ack_is_repeated_and_the_wait_begins_anew(world: World) -> None:
    world.at(100 * SECOND)
    world.lib.wait_enter(world.c, world.segment(seq=1000, ack=2000, stamped=True, tsval=50), TIME_WAIT, 60 * SECOND, 0)
    world.at(150 * SECOND)
    fin = {"seq": 999, "ack": 2000, "flags": FIN | ACK, "stamped": True, "tsval": 60}
    _, reply, _ = world.wait(**fin)
    assert (reply.count, reply.seq, reply.ack, reply.flags, reply.stamped) == (1, 2000, 1000, ACK, True)
    _, reply, _ = world.wait(**fin)
    assert reply.count == 0, "answers to stray segments are limited"
    world.at(209 * SECOND)
    world.lib.wait_tick(world.c)
    assert world.lib.wait_count(world.c) == 1
    world.at(211 * SECOND)
    world.lib.wait_tick(world.c)
    assert world.lib.wait_count(world.c) == 0


@pytest.mark.parametrize("forbidden", [False, True])
def test_a_reset_ends_the_wait_unless_rfc_1337_forbids_it(world: World, forbidden: bool) -> None:
    world.lib.world_config(world.c, forbidden, 0, 0)
    world.at(SECOND)
    world.lib.wait_enter(world.c, world.segment(seq=1000, ack=2000), TIME_WAIT, 60 * SECOND, 0)
    world.wait(seq=1001, flags=RST)
    assert world.lib.wait_count(world.c) == 1, "not exactly the next sequence number"
    _, reply, _ = world.wait(seq=1000, flags=RST)
    assert reply.count == 0
    assert world.lib.wait_count(world.c) == forbidden


@pytest.mark.parametrize(
    ("seq", "tsval", "listener", "reopened"),
    [(1001, None, True, True), (1000, None, True, False), (999, None, True, False), (1001, None, False, False),
     (5, 51, True, True), (5, 50, True, False), (1001, 49, True, False), (1001, 50, True, True)],
)  # fmt: skip
def test_a_syn_reopens_when_it_is_newer(
    world: World, seq: int, tsval: int | None, listener: bool, reopened: bool
) -> None:
    world.lib.world_config(world.c, 0, 0, listener)
    world.at(SECOND)
    stamps = {} if tsval is None else {"stamped": True, "tsval": tsval}
    world.lib.wait_enter(
        world.c, world.segment(seq=1000, ack=2000, stamped=tsval is not None, tsval=50), TIME_WAIT, 60 * SECOND, 0
    )
    reason, reply, iss = world.wait(seq=seq, flags=SYN, **stamps)
    if reopened:
        assert (reason, iss, reply.count) == (REOPEN, 2000 + 65537, 0)
        assert world.lib.wait_count(world.c) == 0
    else:
        assert reason != REOPEN
        assert (reply.count, reply.flags, reply.seq, reply.ack) == (1, ACK, 2000, 1000)
        assert world.lib.wait_count(world.c) == 1


def test_half_closed_record_waits_for_the_fin(world: World) -> None:
    world.at(SECOND)
    world.lib.wait_enter(world.c, world.segment(seq=1000, ack=2000), FIN_WAIT_2, 60 * SECOND, 4000)
    reason, reply, _ = world.wait(seq=1000, ack=2000, flags=ACK)
    assert (reason, reply.count) == (0, 0)
    _, reply, _ = world.wait(seq=6000, ack=2000, flags=ACK, payload=b"beyond")
    assert (reply.flags, reply.ack) == (ACK, 1000)
    reason, reply, _ = world.wait(seq=1000, ack=2000, flags=FIN | ACK)
    assert (reason, reply.flags, reply.seq, reply.ack) == (0, ACK, 2000, 1001)
    assert world.lib.wait_state(world.c, world.segment()) == TIME_WAIT


def test_a_life_longer_than_the_wheel_ends_anew_and_leaves_nothing_to_the_next_record(world: World) -> None:
    stray = {"seq": 900, "ack": 2000, "flags": ACK}
    world.at(SECOND)
    world.lib.wait_enter(world.c, world.segment(seq=1000, ack=2000), FIN_WAIT_2, 200 * SECOND, 4000)
    for second in (70, 150):
        world.at(second * SECOND)
        world.lib.wait_tick(world.c)
        assert world.wait(**stray)[1].count == 1
        assert world.wait(**stray)[1].count == 0, "answers to stray segments are limited"
    world.wait(seq=1000, ack=2000, flags=FIN | ACK)
    for now, left in ((209, 1), (211, 0)):
        world.at(now * SECOND)
        world.lib.wait_tick(world.c)
        assert world.lib.wait_count(world.c) == left
    world.lib.wait_enter(world.c, world.segment(seq=1000, ack=2000), FIN_WAIT_2, 30 * SECOND, 4000)
    assert world.wait(**stray)[1].count == 1, "that was another connection"
    world.at(242 * SECOND)
    world.lib.wait_tick(world.c)
    assert world.lib.wait_count(world.c) == 0


def test_data_for_a_half_closed_record_is_reset(world: World) -> None:
    world.at(SECOND)
    world.lib.wait_enter(world.c, world.segment(seq=1000, ack=2000), FIN_WAIT_2, 60 * SECOND, 4000)
    _, reply, _ = world.wait(seq=1000, ack=2000, flags=ACK, payload=b"nobody reads this")
    assert (reply.flags, reply.seq) == (RST, 2000)
    assert world.lib.wait_count(world.c) == 0


@pytest.mark.parametrize("stamped", [False, True])
@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize("start", STARTS)
def test_connect_takes_a_four_tuple_over_after_a_second(world: World, stamped: bool, allowed: bool, start: int) -> None:
    world.lib.world_config(world.c, 0, allowed, 0)
    world.at(start)
    world.lib.wait_enter(world.c, world.segment(seq=1000, ack=2000, stamped=stamped), TIME_WAIT, 60 * SECOND, 0)
    world.at(start + SECOND)
    assert not world.lib.wait_reuse(world.c, world.segment())
    world.at(start + SECOND + 2_000_000)
    assert world.lib.wait_reuse(world.c, world.segment()) == (allowed and stamped)
    assert world.lib.wait_count(world.c) == (0 if allowed and stamped else 1)
    assert world.lib.wait_reuse(world.c, world.segment(remote_port=1)), "nothing stands there"
