"""Batches that leave by the program `volley`: whole, in order, checked by the kernel, and in a real router too."""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bare import (
    SMALL,
    Bare,
    Side,
    inside_named,
    ip,
    kill_under_load,
    numbers,
    send_backlog,
    wait_filled,
    without_forwarder,
)
from bare_xdp import SMALL as XDP_SMALL
from bare_xdp import XdpSide, bare
from lab import Lab, wait_until

from manager import bpf_objects, kernel
from manager.volley import Volley

pytestmark = [pytest.mark.root]
# struct volley_batch and volley_entry
HEAD = struct.Struct("=4I")
ENTRY = struct.Struct("=II")
BATCH_BYTES = HEAD.size + (1 << 14)
UDP_SEGMENT = 103  # linux/udp.h
BURST = 60
WAITS = b"waits"


def sent(fd: int) -> int:
    """Give how many frames the last run has sent."""
    with mmap.mmap(fd, BATCH_BYTES, mmap.MAP_SHARED, mmap.PROT_READ) as batch:
        return int(HEAD.unpack_from(batch)[2])


class Volleys(Side):
    """A packet ring, and a program to send."""

    def open(self, netns: int, device: str) -> None:
        super().open(netns, device)
        self.volley = Volley.loaded()

    @property
    def fds(self) -> list[int]:
        return super().fds + self.volley.fds

    def close(self) -> None:
        self.volley.close()
        super().close()


class XdpVolleys(Volleys, XdpSide):
    """An AF_XDP socket instead of the ring."""


class Inside(Bare):
    """Its forwarder is in the router's namespace, as a real one: the program reaches devices of that."""

    def start(self, before: Callable[[], None] = lambda: None) -> None:
        def enter() -> None:
            fd = os.open(f"/run/netns/{self.namespace}", os.O_RDONLY)
            kernel.setns(fd)
            os.close(fd)
            before()

        super().start(enter)


@pytest.fixture(params=[Volleys, XdpVolleys])
def lab(request: pytest.FixtureRequest) -> Iterator[Bare]:
    geometry: Any = XDP_SMALL if request.param is XdpVolleys else SMALL
    with Inside(1500, geometry, request.param) as made:
        yield made


def test_a_backlog_leaves_whole_and_in_order(lab: Any) -> None:
    lab.start()
    lab.warm()
    assert sent(lab.right.volley.fds[1]) == 0  # one frame is not worth it
    lab.kill()
    with lab.sender() as sender, lab.receiver() as receiver:
        for number in range(1, 201):
            sender.send(lab.frame(number, random.Random(number).randrange(60, 1514)))
        wait_filled(lab.left, 200)
        lab.start()
        assert numbers(receiver, 200) == list(range(1, 201))
    assert sent(lab.right.volley.fds[1]) > 0
    lab.check_laws()


def test_a_device_that_is_down_takes_none(lab: Any) -> None:
    with without_forwarder(lab) as (sender, receiver):
        send_backlog(lab, sender, range(1, 101))
        ip("-n", lab.namespace, "link", "set", "p2", "down")
        lab.start()
        wait_until(lambda: lab.left.filled() == 0, "the frames met their fate")
        assert sent(lab.right.volley.fds[1]) == 0
        lab.check_laws()
        lab.kill()
        ip("-n", lab.namespace, "link", "set", "p2", "up")
        send_backlog(lab, sender, range(101, 201))
        lab.start()
        assert numbers(receiver, 100) == list(range(101, 201))
    assert sent(lab.right.volley.fds[1]) > 0
    lab.check_laws()


def test_a_queue_that_drops_another_frame_gets_none_twice() -> None:
    """NET_XMIT_CN: the queueing discipline has taken this frame, and thrown away one that was there."""
    with Inside(1500, SMALL, Volleys) as lab:
        for words in (
            ("root", "handle", "1:", "tbf", "rate", "2mbit", "burst", "2000", "latency", "1s"),
            ("parent", "1:1", "pfifo_head_drop", "limit", "20"),
        ):
            command = ["tc", "-n", lab.namespace, "qdisc", "add", "dev", "p2", *words]
            subprocess.run(command, check=True, capture_output=True, timeout=20)
        with without_forwarder(lab) as (sender, receiver):
            send_backlog(lab, sender, range(1, 201))
            lab.start()
            arrived = numbers(receiver)
        assert arrived == sorted(set(arrived))
        assert 20 <= len(arrived) < 200
        assert sum(lab.counters(lab.right).integers("drops")) == 0
        lab.check_laws()


@pytest.mark.quiet
def test_kills_under_load_lose_nothing_and_repeat_a_batch_at_most(lab: Any) -> None:
    kill_under_load(lab, kills=5, rate=5000)


@pytest.mark.parametrize(
    ("lengths", "count", "leave"),
    [
        ((60, 61, 1600), 3, 3),
        ((60, 13, 60), 3, 1),
        ((1601,), 1, 0),
        ((60, 0xFFFFFFFF, 60), 3, 1),
        ((60,) * 70, 0xFFFFFFFF, 64),
        ((1600,) * 11, 64, 10),
        ((60, 60), 0, 0),
    ],
)
def test_what_a_batch_says_is_checked(lengths: tuple[int, ...], count: int, leave: int) -> None:
    queue = {"queue": 0}
    with Bare(9000) as lab, inside_named(lab.namespace), bpf_objects.load("volley", constants=queue) as program:
        entries = bytearray(1 << 14)
        at = 0
        for length in lengths:
            ENTRY.pack_into(entries, at, length, 0)
            at += -(-(ENTRY.size + min(length, 1600)) // 8) * 8
            if at > len(entries) - 1608:
                break
        head = HEAD.pack(socket.if_nametoindex("p1"), count, 0, 0)
        with mmap.mmap(program.maps["batch"], BATCH_BYTES) as batch:
            batch[:] = head + bytes(entries)
            before = packets_out()
            bpf_objects.run_once(program.fd, bytes(64))
            assert HEAD.unpack_from(batch)[2] == leave
        assert packets_out() - before == leave


@pytest.mark.parametrize("queue", range(4))
def test_a_batch_leaves_by_the_queue_that_was_named(queue: int) -> None:
    """Whatever flows it is of: a socket sends by that one too, and nothing must overtake."""
    with bare(geometry=replace(XDP_SMALL, queues=4)) as lab:
        assert isinstance(lab.left, XdpSide)
        entries = b"".join(ENTRY.pack(64, 0) + lab.frame(1, 64, source=4000 + flow) for flow in range(32))
        with (
            contextlib.closing(Volley.loaded(queue)) as volley,
            inside_named(lab.left.namespace),
            mmap.mmap(volley.fds[1], BATCH_BYTES) as batch,
        ):
            batch[:] = (HEAD.pack(socket.if_nametoindex("eth0"), 32, 0, 0) + entries).ljust(BATCH_BYTES, b"\0")
            bpf_objects.run_once(volley.fds[0], bytes(64))
        wait_filled(lab.left, 32)
        assert lab.left.received() == [32 * (number == queue) for number in range(4)]


def packets_out() -> int:
    """Give the frames that p1 has sent."""
    lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
    return int(next(line for line in lines if line.lstrip().startswith("p1:")).partition(":")[2].split()[9])


@pytest.mark.parametrize("driver", ["af-packet", "af-xdp"])
def test_a_confined_forwarder_sends_so(driver: str) -> None:
    with Lab() as lab:
        for number, name in enumerate(("near", "far")):
            host = lab.namespace(name)
            lab.veth(f"{lab.prefix}{number}", lab.box, host, "eth0", far_address=f"10.0.{number}.2/24")
            host.ip("route", "add", "default", "via", f"10.0.{number}.1")
        interfaces = {
            name: {"device": f"{lab.prefix}{number}", "addresses": [f"10.0.{number}.1/24"], "driver": driver}
            for number, name in enumerate(("near", "far"))
        }
        lab.configure({"red": {"interfaces": interfaces}})
        lab.start()
        near = lab.namespaces["near"]
        wait_until(lambda: near.ping("10.0.1.2", wait=0.2), "the path is there")
        # One call makes all frames of a burst: the kernel cuts a super-datagram that the device does not take.
        near.run("ethtool", "-K", "eth0", "tx-udp-segmentation", "off")
        with contextlib.ExitStack() as kept:
            batches = batches_of(lab.router("red")["pids"]["forwarder"], kept)
            sender = kept.enter_context(near.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, len(WAITS))

            def left_so() -> bool:
                sender.sendto(WAITS * BURST, ("10.0.1.2", 9))
                return any(sent(fd) for fd in batches)

            wait_until(left_so, "a burst leaves in a batch")


def batches_of(pid: int, kept: contextlib.ExitStack) -> list[int]:
    """Give duplicates of a forwarder's batches' fds."""
    pidfd = os.pidfd_open(pid)
    kept.callback(os.close, pidfd)
    found = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        if "bpf-map" in str(path.readlink()):
            found.append(kernel.pidfd_getfd(pidfd, int(path.name)))
            kept.callback(os.close, found[-1])
    return found
