"""What the manager sees of its VRs without waking them: pending work, and whether a process must be asked."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from fastpath import segment
from fastpath._layout import FIELDS, SIZES
from fastpath.pulse import TURNS, TURNS_AT, Pulse, allowed
from fastpath.watch import LONG_ITERATION, LONG_TURN, Places, Watch
from manager import probe, supervisor
from manager.reactor import Reactor
from manager.supervisor import Supervisor

if TYPE_CHECKING:
    from manager.unit import Unit


class State:
    """Both segments of a VR, and how its processes would write them."""

    def __init__(self, name: str) -> None:
        self.fd = segment.create(segment.KIND_STATE, segment.STATE_SIZE, 1, name)
        self.tables = segment.create(segment.KIND_TABLES, segment.TABLES_SIZE, 1, name)

    def busy(self, worker: int, value: int) -> None:
        """Store since when a worker is at work."""
        start, _code, _count, nested = FIELDS["state_segment"]["workers"]
        at = start + worker * SIZES[nested] + FIELDS[nested]["busy_since_ns"][0]
        os.pwrite(self.fd, struct.pack("<Q", value), at)

    def places(self, workers: int = 1, queues: tuple[int, ...] = ()) -> Places:
        """Tell where to look."""
        return Places(self.fd, workers, queues, self.tables)


@pytest.fixture
def states() -> Iterator[list[State]]:
    made = [State(f"test{number}") for number in range(3)]
    yield made
    for state in made:
        os.close(state.fd)
        os.close(state.tables)


def settled(watch: Watch, patience: float) -> set[str]:
    """Look, and again after a patience."""
    watch.look()
    time.sleep(patience)
    return watch.look()


def test_a_worker_that_is_long_in_one_iteration_is_hit(states: list[State]) -> None:
    watch = Watch()
    for name, state in zip("abc", states, strict=True):
        watch.add(name, state.places())
    assert settled(watch, LONG_ITERATION) == set()
    states[1].busy(0, 1 << 56)
    assert settled(watch, LONG_ITERATION) == {"b"}
    states[1].busy(0, (1 << 56) + 1)  # another iteration
    assert watch.look() == set()
    states[1].busy(0, 0)
    assert settled(watch, LONG_ITERATION) == set()


def test_further_workers_count_where_there_are_any(states: list[State]) -> None:
    watch = Watch()
    watch.add("a", states[0].places(workers=2))
    states[0].busy(2, 77)
    assert settled(watch, LONG_ITERATION) == set()
    watch.add("a", states[0].places(workers=2**64 - 1))
    assert settled(watch, LONG_ITERATION) == {"a"}
    watch.remove("a")
    watch.remove("a")
    assert settled(watch, LONG_ITERATION) == set()


def test_frames_that_nobody_takes_are_a_hit(states: list[State]) -> None:
    watch = Watch()
    pairs = [socket.socketpair() for _ in range(300)]
    try:
        watch.add("a", states[0].places(queues=tuple(one.fileno() for one, _ in pairs[:299])))
        watch.add("b", states[1].places(queues=(pairs[299][0].fileno(),)))
        assert watch.look() == set()
        pairs[299][1].send(b"frame")
        assert watch.look() == {"b"}
        pairs[299][0].recv(8)
        pairs[3][1].send(b"frame")
        assert watch.look() == {"a"}
        pairs[3][0].recv(8)
        assert watch.look() == set()
        pairs[299][0].close()  # for a closer look
        assert watch.look() == {"b"}
    finally:
        for pair in pairs:
            for end in pair:
                end.close()


def test_a_control_that_is_long_at_one_turn_is_hit(states: list[State]) -> None:
    watch, pulse = Watch(), Pulse(states[0].tables)
    watch.add("a", states[0].places())
    assert watch.turn("a") is not None
    assert settled(watch, LONG_TURN) == {"a"}
    before = watch.turn("a")
    pulse.rest()
    assert watch.turn("a") is None
    assert settled(watch, LONG_TURN) == set()
    pulse.work()
    assert watch.look() == set()
    assert (before := watch.turn("a")) is not None
    pulse.beat()
    assert watch.look() == set()
    assert watch.turn("a") not in {None, before}
    assert Pulse(states[0].tables) is not None  # a successor, of one that died at work
    assert settled(watch, LONG_TURN) == {"a"}


def test_a_sleep_ends_by_an_event_a_hit_or_the_clock(states: list[State]) -> None:
    watch = Watch()
    watch.add("a", states[0].places())
    one, other = socket.socketpair()
    with one, other, select.epoll() as epoll:
        epoll.register(one.fileno(), select.EPOLLIN)
        begin = time.monotonic()
        assert watch.sleep(epoll.fileno(), 0.03) == (False, False)
        assert 0.03 <= time.monotonic() - begin < 20
        states[0].busy(0, 5)
        assert watch.sleep(epoll.fileno(), None) == (False, True)
        states[0].busy(0, 0)
        other.send(b"x")
        assert watch.sleep(epoll.fileno(), None) == (True, False)


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
        assert any(asked.due(owing=False) for _look in range(probe.SPARED + 1))  # it takes its turn among all
        asked.answered()
        assert not any(asked.due(owing=False) for _look in range(probe.SPARED))
        assert asked.due(owing=False)
        asked.answered()
        assert asked.due(owing=True)  # it has something to answer
        asked.end()


def test_those_that_rest_are_not_all_asked_at_once() -> None:
    with process("exec sleep 30") as pid:
        many = [probe.Probe() for _ in range(10 * (probe.SPARED + 1))]
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
        begin, deadline = probe._processor_time(pid), time.monotonic() + 60
        while probe._processor_time(pid) - begin < 2 * probe._REST and time.monotonic() < deadline:
            time.sleep(0.01)  # on a busy machine it waits for its turn
        for _ in range(probe.SILENCES):
            assert not asked.silent
            assert asked.due(owing=False)
        assert asked.silent
        asked.answered()
        asked.end()
        assert not asked.silent


class Member:
    """A process of a VR, as the supervisor sees it."""

    def __init__(self, pid: int) -> None:
        self.pid, self.ready = pid, True
        self.fenced: list[str] = []

    def fence(self, reason: str) -> None:
        """Note it."""
        self.fenced.append(reason)


class OneVr:
    """A VR of which control is a process of ours."""

    def __init__(self, state: State, pid: int) -> None:
        self.name, self.configuring, self.owing = "red", False, False
        self.ports: dict[str, object] = {}
        self.forwarder, self.control = Member(os.getpid()), Member(pid)
        self.resources = SimpleNamespace(
            view=segment.Segment(state.fd, segment.KIND_STATE), state_ro=state.fd, tables_ro=state.tables
        )

    def probe_control(self, *, at_work: bool) -> None:
        """It is not about questions."""


def supervised(vr: OneVr, seconds: float) -> tuple[list[str], float]:
    """Supervise it until it is fenced, so long at most; give the reasons, and how long it took."""
    failures: list[BaseException] = []
    reactor = Reactor(failures.append)
    Supervisor(reactor, lambda: [cast("Unit", vr)]).start()
    begin = time.monotonic()
    reactor.turn_until(lambda: bool(vr.control.fenced), seconds)
    took = time.monotonic() - begin
    reactor.close()
    vr.resources.view.close()
    assert not failures
    return vr.control.fenced, took


def test_a_control_that_waits_at_work_is_fenced_soon(states: list[State]) -> None:
    Pulse(states[0].tables)
    with process("exec sleep 60") as pid:
        fenced, took = supervised(OneVr(states[0], pid), 40)
    assert len(fenced) == 1
    assert took > supervisor.TURN_STALL


def test_a_control_that_loops_is_fenced_when_it_has_run_for_long(states: list[State]) -> None:
    Pulse(states[0].tables)
    with process("while :; do :; done") as pid:
        vr = OneVr(states[0], pid)
        vr.owing = True
        assert supervised(vr, supervisor.TURN_RUNS + 0.5)[0] == []
        fenced, took = supervised(OneVr(states[0], pid), 40)
    assert len(fenced) == 1
    assert took > supervisor.TURN_RUNS


def test_a_control_that_beats_in_a_turn_without_end_is_fenced(
    states: list[State], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part of its work ends, and the turn does not; one that completes turns is left alone."""
    monkeypatch.setattr(supervisor, "WORK_RUNS", 0.5)
    for resting in (True, False):
        pulse, done = Pulse(states[0].tables), threading.Event()

        def beat(pulse: Pulse = pulse, done: threading.Event = done, *, resting: bool = resting) -> None:
            while not done.wait(0.005):
                pulse.beat()
                if resting:
                    pulse.rest()
                    pulse.work()

        thread = threading.Thread(target=beat)
        thread.start()
        try:
            with process("while :; do :; done") as pid:
                fenced, _took = supervised(OneVr(states[0], pid), 3.0 if resting else 40)
        finally:
            done.set()
            thread.join()
        assert [reason.partition(" for ")[0] for reason in fenced] == ([] if resting else ["the same turn"])


def test_a_control_with_much_to_go_through_is_given_its_time(states: list[State]) -> None:
    """It says how much before each part; and rests all the same."""
    pulse = Pulse(states[0].tables)
    for entries, seconds in ((100, 0), (100_000, 4), (1 << 40, 31.875)):
        pulse.beat(entries)
        (word,) = struct.unpack("<Q", os.pread(states[0].tables, 8, TURNS_AT))
        assert allowed(word) == seconds
    pulse.rest()
    (rests,) = struct.unpack("<Q", os.pread(states[0].tables, 8, TURNS_AT))
    assert rests == (word & TURNS) + (1 << 32)


def test_no_process_of_a_vr_can_cut_off_what_is_looked_at(states: list[State]) -> None:
    """The manager would get SIGBUS."""
    for fd in (states[0].fd, states[0].tables):
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 0)


def test_a_control_that_gets_on_or_rests_is_left_alone(states: list[State]) -> None:
    pulse = Pulse(states[0].tables)
    with process("while :; do :; done") as pid:
        vr = OneVr(states[0], pid)
        vr.configuring = True
        assert supervised(vr, supervisor.TURN_STALL + 0.4)[0] == []
        pulse.rest()
        assert supervised(OneVr(states[0], pid), supervisor.TURN_STALL + 0.4)[0] == []


def test_a_control_that_is_long_at_work_does_not_keep_the_manager_at_work(states: list[State]) -> None:
    """It takes a large configuration, say: the manager looks now and then, and sleeps between."""
    Pulse(states[0].tables)
    vr = OneVr(states[0], os.getpid())
    vr.configuring = True
    before = time.process_time()
    assert supervised(vr, 1.0)[0] == []
    assert time.process_time() - before < 0.4


def test_a_large_table_is_given_its_time(states: list[State]) -> None:
    at, place = 1 << 20, FIELDS["tables_segment"]["prefix_root"][0]
    os.pwrite(states[0].tables, struct.pack("<Q", at), place)
    count = FIELDS["prefix_table"]["count"][0]
    os.pwrite(states[0].tables, struct.pack("<Q", 1_000_000), at + count)
    assert supervisor.installed(states[0].tables) == 1_000_000
    os.pwrite(states[0].tables, struct.pack("<Q", 2**64 - 9), place)
    assert supervisor.installed(states[0].tables) == 0


def test_one_that_does_not_answer_is_asked_on_though_it_rests() -> None:
    asked = probe.Probe(silences=3)
    with process("exec sleep 30") as pid:
        asked.begin(pid)
        assert asked.due(owing=True)
        assert asked.due(owing=False)
        assert asked.due(owing=False)
        assert asked.silent
        asked.end()
