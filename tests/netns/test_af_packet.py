"""The AF_PACKET driver on real veths: rings that outlive their forwarder, super-frames, accounting."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest
from bare import (
    PATIENCE,
    PORT,
    SMALL,
    TP_STATUS_COPY,
    TP_STATUS_USER,
    Bare,
    inside_named,
    ip,
    kill_under_load,
    numbers,
    send_paced,
    without_forwarder,
)

from fastpath import stats
from fastpath._layout import CONSTANTS
from fastpath.binding import lib
from manager import rings

pytestmark = [pytest.mark.quiet, pytest.mark.root]
BATCH = CONSTANTS["BATCH_SIZE"]


@pytest.fixture
def lab() -> Iterator[Bare]:
    with Bare() as made:
        yield made


def test_frames_are_forwarded_whole_and_accounted_for(lab: Bare) -> None:
    lab.start()
    lab.warm()
    with lab.sender() as sender, lab.receiver() as receiver:
        send_paced(
            lab, sender, [lab.frame(number, random.Random(number).randrange(60, 1514)) for number in range(1, 1001)]
        )
        assert numbers(receiver, 1000) == list(range(1, 1001))
    lab.check_laws()
    assert lab.counters(lab.left).integer("forwarded_packets") == 1001
    assert lab.left.filled() == 0


def test_a_ring_keeps_what_comes_while_nobody_lives(lab: Bare) -> None:
    with without_forwarder(lab) as (sender, receiver):
        for number in range(1, 201):
            sender.send(lab.frame(number))
        lab.start()
        assert numbers(receiver, 200) == list(range(1, 201))
    lab.check_laws()


def crash_states() -> Iterator[tuple[int, bool, int]]:
    """Every state that a crash between the stores of a release of 8 frames can leave."""
    for marked in range(9):
        yield marked, False, 0
    for given in range(9):
        yield 8, True, given


@pytest.mark.parametrize(("marked", "recorded", "given"), list(crash_states()))
def test_every_crash_point_of_a_release_loses_and_repeats_nothing(
    lab: Bare, marked: int, recorded: bool, given: int
) -> None:
    lab.start()
    lab.warm()
    lab.kill()
    first = lab.reader.view("ports", 1).integer("progress")
    with lab.sender() as sender, lab.receiver() as receiver:
        for number in range(1, 13):
            sender.send(lab.frame(number))
        deadline = time.monotonic() + PATIENCE
        while lab.left.filled() < 12:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        for frame in range(first, first + marked):
            lab.left.mark(frame)
        if recorded:
            lab.set_progress(lab.left, first + 8)
        for frame in range(first, first + given):
            lab.left.give_back(frame)
        lab.start()
        assert numbers(receiver, 12 - marked) == list(range(marked + 1, 13))
        # The ring goes on turning: more frames than it has slots.
        send_paced(lab, sender, [lab.frame(number) for number in range(100, 100 + 2 * SMALL.frame_count)])
        assert numbers(receiver, 2 * SMALL.frame_count) == list(range(100, 100 + 2 * SMALL.frame_count))
    assert lab.left.filled() == 0
    lab.check_laws()


@pytest.mark.parametrize(
    ("marked", "copy_dropped", "recorded"),
    [(False, False, False), (True, False, False), (True, True, False), (True, True, True)],
)
def test_every_crash_point_of_a_super_frame_keeps_queue_and_ring_in_step(
    marked: bool, copy_dropped: bool, recorded: bool
) -> None:
    with Bare(mtu=9000) as lab:
        lab.start()
        lab.warm()
        lab.kill()
        first = lab.reader.view("ports", 1).integer("progress")
        with lab.sender() as sender, lab.receiver() as receiver:
            for number in range(1, 7):
                sender.send(lab.frame(number, 5000))
            deadline = time.monotonic() + PATIENCE
            while lab.left.filled() < 6:
                assert time.monotonic() < deadline
                time.sleep(0.001)
            assert lab.left.status(first) & TP_STATUS_COPY
            if marked:
                lab.left.mark(first)
            if copy_dropped:
                assert len(lab.left.ring.recv(9100)) == 5010
            if recorded:
                lab.set_progress(lab.left, first + 1)
            lab.start()
            assert numbers(receiver, 6 - marked) == list(range(marked + 1, 7))
            for number in range(100, 140):
                sender.send(lab.frame(number, 60 if number % 3 else 8000))
            assert numbers(receiver, 40) == list(range(100, 140))
        with pytest.raises(BlockingIOError):
            lab.left.ring.recv(10)
        lab.check_laws()


def test_a_queue_that_lost_a_copy_costs_that_frame_only() -> None:
    with Bare(mtu=9000) as lab:
        with without_forwarder(lab) as (sender, receiver):
            for number in range(1, 7):
                sender.send(lab.frame(number, 5000))
            time.sleep(0.05)
            lab.left.ring.recv(9100)
            lab.start()
            assert numbers(receiver, 5) == list(range(2, 7))
        assert stats.interface_counters(lab.reader, 1)["drops"] == {"truncated": 1}
        lab.check_laws()


@pytest.mark.slow
def test_kills_under_load_lose_nothing_and_repeat_a_batch_at_most() -> None:
    with Bare(geometry=rings.DEFAULT) as lab:
        kill_under_load(lab, kills=15, rate=20_000)


def transfer(lab: Bare, size: int) -> tuple[str, str, float]:
    """Send bytes by TCP from left to right; give both digests and the seconds."""
    with inside_named(lab.right.namespace):
        listener = socket.create_server((lab.right.host, PORT))
    digest = hashlib.sha256()

    def serve() -> None:
        connection, _peer = listener.accept()
        with connection:
            while data := connection.recv(1 << 18):
                digest.update(data)

    server = threading.Thread(target=serve)
    server.start()
    data = random.Random(3).randbytes(1 << 20) * (size >> 20)
    with inside_named(lab.left.namespace):
        client = socket.socket()
    client.settimeout(30)
    began = time.monotonic()
    with client, listener:
        client.connect((lab.right.host, PORT))
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        server.join(30)
    return hashlib.sha256(data).hexdigest(), digest.hexdigest(), time.monotonic() - began


def test_tcp_with_the_kernels_offloads_passes_whole() -> None:
    with Bare(geometry=rings.DEFAULT) as lab:
        lab.start()
        sent, received, seconds = transfer(lab, 64 << 20)
        assert sent == received
        c = lab.counters(lab.left)
        mean = c.integer("rx_bytes") / c.integer("rx_packets")
        print(f"\nTCP: {64 * 8 / 1024 / seconds:.2f} Gbit/s, {mean:.0f} bytes a frame")
        assert mean > 4000, "no super-frame came: the offloads are off, or were cut"
        assert stats.interface_counters(lab.reader, 1)["drops"].get("truncated", 0) == 0
        lab.check_laws()


def test_tcp_survives_a_forwarder_that_dies_again_and_again() -> None:
    with Bare(geometry=rings.DEFAULT) as lab:
        lab.start()
        result: list[tuple[str, str, float]] = []
        worker = threading.Thread(target=lambda: result.append(transfer(lab, 256 << 20)))
        worker.start()
        while worker.is_alive():
            time.sleep(0.03)
            lab.kill()
            lab.start()
        worker.join()
        assert result[0][0] == result[0][1]
        lab.check_laws()


def test_a_link_that_goes_down_and_comes_back_needs_nothing_new(lab: Bare) -> None:
    lab.start()
    lab.warm()
    with lab.sender() as sender, lab.receiver() as receiver:
        ip("-n", lab.namespace, "link", "set", "p1", "down")
        ip("-n", lab.namespace, "link", "set", "p2", "down")
        with contextlib.suppress(OSError):
            sender.send(lab.frame(1))
        ip("-n", lab.namespace, "link", "set", "p1", "up")
        ip("-n", lab.namespace, "link", "set", "p2", "up")
        ip("-n", lab.right.namespace, "link", "set", "eth0", "up")
        deadline = time.monotonic() + PATIENCE
        arrived: list[int] = []
        while not arrived and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                sender.send(lab.frame(2))
            arrived = numbers(receiver, quiet=0.1)
        assert set(arrived) == {2}
    lab.check_laws()


def test_a_frame_longer_than_slot_and_queue_is_dropped_by_name() -> None:
    with Bare(mtu=9000) as lab:
        lab.left.ring.setsockopt(263, rings.PACKET_COPY_THRESH, 0)
        lab.start()
        lab.warm()
        with lab.sender() as sender, lab.receiver() as receiver:
            sender.send(lab.frame(1, 5000))
            sender.send(lab.frame(2, 1000))
            assert numbers(receiver, 1) == [2]
        assert stats.interface_counters(lab.reader, 1)["drops"] == {"truncated": 1}
        lab.check_laws()


def test_a_frame_that_the_device_has_grown_too_small_for_is_dropped_by_name(lab: Bare) -> None:
    lab.start()
    lab.warm()
    ip("-n", lab.namespace, "link", "set", "p2", "mtu", "1000")  # what nobody has told the forwarder yet
    with lab.sender() as sender, lab.receiver() as receiver:
        sender.send(lab.frame(1, 1400))
        sender.send(lab.frame(2, 900))
        assert numbers(receiver, 1) == [2]
    assert stats.interface_counters(lab.reader, 1)["drops"] == {"tx_too_big": 1}
    lab.check_laws()


def test_kernel_drops_of_a_full_ring_are_counted(lab: Bare) -> None:
    with without_forwarder(lab) as (sender, receiver):
        for number in range(1, SMALL.frame_count + 101):
            sender.send(lab.frame(number))
        lab.start()
        assert numbers(receiver, SMALL.frame_count) == list(range(1, SMALL.frame_count + 1))
        sender.send(lab.frame(5000))
        assert numbers(receiver, 1) == [5000]
    assert stats.ports(lab.reader)[0]["rx_kernel_drops"] == 100


@pytest.mark.parametrize(
    ("field", "value"),
    [("frame_size", 0), ("frame_size", 100), ("frame_count", 3), ("block_count", 0), ("block_size", 16), ("port", 0),
     ("port", 128), ("driver", 99)],
)  # fmt: skip
def test_a_spec_that_cannot_be_is_refused(lab: Bare, field: str, value: int) -> None:
    core = lab.attach()
    try:
        assert lib.core_port_remove(core, 1) == 0
        spec = lab.left.spec(1)
        setattr(spec, field, value)
        fd = os.dup(lab.left.ring.fileno())
        assert lib.core_port_add(core, spec, [fd], 1) < 0
        os.fstat(fd)  # still ours
        os.close(fd)
    finally:
        lib.core_destroy(core)


def test_a_socket_without_ring_options_is_refused(lab: Bare) -> None:
    core = lab.attach()
    try:
        assert lib.core_port_remove(core, 1) == 0
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            assert lib.core_port_add(core, lab.left.spec(1), [other.fileno()], 1) < 0
    finally:
        lib.core_destroy(core)


def test_slots_hold_what_the_driver_reads(lab: Bare) -> None:
    """The offsets that the crash rule relies on are the kernel's."""
    with lab.sender() as sender:
        sender.send(lab.frame(1, 100))
    deadline = time.monotonic() + PATIENCE
    while not lab.left.status(0) & TP_STATUS_USER:
        assert time.monotonic() < deadline
    _status, length, snap, mac = struct.unpack_from("=IIIH", lab.left.memory, lab.left.slot(0))
    assert length == snap == 100
    assert lab.left.memory[lab.left.slot(0) + mac :][:100] == lab.frame(1, 100)
