"""What the manager sees of its VRs without waking them: pending work, and whether a process must be asked."""

from __future__ import annotations

import mmap
import os
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fastpath import segment
from fastpath._layout import CONSTANTS, FIELDS, SIZES
from fastpath.watch import Watch
from manager import probe

FRAME, COUNT = 1 << 11, 16
USER = 1  # TP_STATUS_USER


class State:
    """A state segment, and how a forwarder would write it."""

    def __init__(self, name: str) -> None:
        self.fd = segment.create(segment.KIND_STATE, segment.STATE_SIZE, 1, name)
        self.segment = segment.Segment(self.fd, segment.KIND_STATE)

    def write(self, field: str, inner: str, index: int, value: int) -> None:
        """Store an integer in an element of an array."""
        start, _code, _count, nested = FIELDS["state_segment"][field]
        os.pwrite(self.fd, struct.pack("<Q", value), start + index * SIZES[nested] + FIELDS[nested][inner][0])

    def workers(self, count: int) -> None:
        """Say how many workers there are."""
        os.pwrite(self.fd, struct.pack("<Q", count), FIELDS["state_segment"]["workers_used"][0])


class Ring:
    """A ring of frames, one after the other."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, FRAME * COUNT)

    def place(self, progress: int) -> int:
        return progress % COUNT * FRAME


@pytest.fixture
def states() -> Iterator[list[State]]:
    made = [State(f"test{number}") for number in range(3)]
    yield made
    for state in made:
        state.segment.close()
        os.close(state.fd)


def looks(watch: Watch) -> set[str]:
    """Look often enough for what is not looked at each time."""
    return {name for _ in range(16) for name in watch.pending()}


def test_a_busy_worker_is_pending_work(states: list[State]) -> None:
    watch = Watch()
    for name, state in zip("abc", states, strict=True):
        watch.add(name, state.segment)
    assert looks(watch) == set()
    states[1].write("workers", "busy_since_ns", 0, 1 << 56)
    assert watch.pending() == {"b"}
    states[1].write("workers", "busy_since_ns", 0, 0)
    assert looks(watch) == set()


def test_further_workers_count_where_there_are_any(states: list[State]) -> None:
    watch = Watch()
    watch.add("a", states[0].segment)
    states[0].write("workers", "busy_since_ns", 2, 77)
    assert looks(watch) == set()
    states[0].workers(3)
    assert looks(watch) == {"a"}
    states[0].workers(2**64 - 1)
    assert looks(watch) == {"a"}


@pytest.mark.parametrize("progress", [0, 5, 8, 15, 16 * 1000 + 9])
def test_a_frame_in_a_ring_is_pending_work(states: list[State], progress: int) -> None:
    ring, watch = Ring(), Watch()
    place = 1 * CONSTANTS["MAX_PORTS"] + 7
    watch.add("a", states[0].segment, [(place, ring)])
    states[0].write("ports", "progress", place, progress)
    for frame in range(COUNT):
        ring.memory[frame * FRAME] = USER
        assert looks(watch) == ({"a"} if frame == progress % COUNT else set())
        ring.memory[frame * FRAME] = 0
    states[0].write("ports", "progress", place, progress + 1)
    ring.memory[(progress + 1) % COUNT * FRAME] = USER
    assert looks(watch) == {"a"}


def test_what_has_gone_is_for_a_closer_look(states: list[State]) -> None:
    ring, watch = Ring(), Watch()
    watch.add("a", states[0].segment, [(7, ring)])
    watch.add("b", states[1].segment)
    ring.memory.close()
    assert looks(watch) == {"a"}
    states[1].segment.buffer.close()
    assert "b" in watch.pending()
    watch.remove("a")
    watch.remove("a")
    watch.remove("b")
    assert looks(watch) == set()


@contextmanager
def process(code: str) -> Iterator[int]:
    """Run a shell that does something."""
    child = subprocess.Popen(["/bin/sh", "-c", code])
    try:
        time.sleep(0.1)
        yield child.pid
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()


def test_one_that_rests_is_asked_seldom() -> None:
    asked = probe.Probe()
    with process("exec sleep 30") as pid:
        asked.begin(pid)
        assert asked.due(owing=True)
        asked.answered()
        for _ in range(2):
            assert not any(asked.due(owing=False) for _look in range(probe.SPARED))
            assert asked.due(owing=False)
            asked.answered()
        assert asked.due(owing=True)  # it has something to answer
        asked.end()


def test_those_that_rest_are_not_all_asked_at_once() -> None:
    with process("exec sleep 30") as pid:
        many = [probe.Probe() for _ in range(30)]
        for one in many:
            one.begin(pid)
        for _look in range(6):
            asked = [one for one in many if one.due(owing=False)]
            assert len(asked) == 10
            for one in asked:
                one.answered()
        for one in many:
            one.end()


def test_one_that_is_stopped_is_seen_without_a_question() -> None:
    asked = probe.Probe()
    seen = [asked.stopped]
    with process("exec sleep 30") as pid:
        asked.begin(pid)
        seen.append(asked.stopped)
        os.kill(pid, signal.SIGSTOP)
        os.waitid(os.P_PID, pid, os.WSTOPPED)
        seen.append(asked.stopped)
        os.kill(pid, signal.SIGCONT)
        os.waitid(os.P_PID, pid, os.WCONTINUED)
        seen.append(asked.stopped)
    seen.append(asked.stopped)  # it has gone
    asked.end()
    assert seen == [False, False, True, False, False]


def test_one_that_runs_and_does_not_answer_is_silent() -> None:
    asked = probe.Probe()
    with process("while :; do :; done") as pid:
        asked.begin(pid)
        time.sleep(0.01)
        for _ in range(probe.SILENCES):
            assert not asked.silent
            assert asked.due(owing=False)
            time.sleep(0.01)
        assert asked.silent
        asked.answered()
        asked.end()
        assert not asked.silent


def test_one_that_does_not_answer_is_asked_on_though_it_rests() -> None:
    asked = probe.Probe(silences=3)
    with process("exec sleep 30") as pid:
        asked.begin(pid)
        assert asked.due(owing=True)
        assert asked.due(owing=False)
        assert asked.due(owing=False)
        assert asked.silent
        asked.end()
