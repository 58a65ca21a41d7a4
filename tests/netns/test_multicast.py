"""The kernel as the model of a multicast host: the same calls and the same queries, the same reports and errors.

    kernel's host --- veth --- the test: a querier          VR's interface a --- the test: the same querier

Both have the same addresses and forward.  What the kernel says takes real time; the VR's clock is the test's.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from bare import inside_named, ip

from tests.unit import listeners
from tests.unit.listeners import (
    ADD,
    ADD_SOURCE,
    BLOCK,
    BLOCK_GROUP,
    DROP,
    DROP_SOURCE,
    EXCLUDE,
    GROUP_FILTER,
    INCLUDE,
    JOIN_GROUP,
    JOIN_SOURCE,
    LEAVE_GROUP,
    LEAVE_SOURCE,
    MSFILTER,
    UNBLOCK,
    Report,
    Still,
    group_filter,
    group_req,
    group_source,
    mreq,
    mreq6,
    mreq_source,
    msfilter,
    query4,
    query6,
    read_report,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.quiet, pytest.mark.root]

IP, IP6 = socket.IPPROTO_IP, socket.IPPROTO_IPV6
GROUP, OTHER, GROUP6, OTHER6 = "239.1.2.3", "239.1.2.4", "ff15::1234", "ff12::99"
S1, S2, S3 = "10.0.0.2", "10.9.9.2", "10.9.9.3"
T1, T2, T3 = "2001:db8:a::2", "2001:db8:9::2", "2001:db8:9::3"
# The kernel also listens to the solicited-node group of the subnet-router anycast address.
ANYCAST: Final = "ff02::1:ff00:0"


_serial: Final = itertools.count()


class Kernel:
    """The kernel's host, in a namespace of its own, and the far end of its link."""

    def __init__(self) -> None:
        self.near, self.far = (f"mc{os.getpid()}x{next(_serial)}{end}" for end in "nf")
        for name in (self.near, self.far):
            ip("netns", "add", name)
        ip("-n", self.near, "link", "add", "host0", "type", "veth", "peer", "name", "wire", "netns", self.far)
        with inside_named(self.far), contextlib.suppress(OSError):
            Path("/proc/sys/net/ipv6/conf/wire/disable_ipv6").write_text("1")
        with inside_named(self.near):
            self.index = socket.if_nametoindex("host0")
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
            Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")
            Path("/proc/sys/net/ipv6/conf/host0/addr_gen_mode").write_text("1")
        ip("-n", self.far, "link", "set", "wire", "up")
        for address in ("10.0.0.1/24", "2001:db8:a::1/64", "fe80::a/64"):
            ip("-n", self.near, "address", "add", address, "dev", "host0", *(("nodad",) if ":" in address else ()))
        ip("-n", self.near, "link", "set", "host0", "up")
        with inside_named(self.far):
            self.wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            self.wire.bind(("wire", 3))

    def reports(self, seconds: float) -> list[Report]:
        """Collect what the host reports in this time."""
        found = []
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if not select.select([self.wire], [], [], left)[0]:
                break
            frame, address = self.wire.recvfrom(2048)
            report = read_report(frame) if address[2] != socket.PACKET_OUTGOING else None
            if report is not None:
                found.append(report)
        return found

    def socket(self, family: int) -> socket.socket:
        """Open a socket of the host."""
        with inside_named(self.near):
            return socket.socket(family, socket.SOCK_DGRAM)

    def close(self) -> None:
        """Remove it."""
        self.wire.close()
        for name in (self.near, self.far):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    made = Kernel()
    try:
        while made.reports(1.3):
            pass  # what it tells when it comes up
        yield made
    finally:
        made.close()


@pytest.fixture
def red() -> Iterator[Still]:
    with tempfile.TemporaryDirectory(prefix="anabranch-test-") as folder:
        made = Still(Path(folder))
        try:
            made.reports()
            yield made
        finally:
            made.close()


def of_family(reports: list[Report], family: int) -> list[tuple[Any, ...]]:
    """Everything that reports say and carry, split into records: how they are packed is free."""
    found = []
    for report in reports:
        if (":" in report.destination) != (family == 6):
            continue
        carried = (report.source, report.destination, report.ttl, report.tos, report.alert, report.mac, report.flags)
        found += [(record, carried) for record in report.records if record[1] != ANYCAST]
    return sorted(found)


def compare(kernel: Kernel, red: Still, family: int, seconds: float, what: str) -> list[tuple[Any, ...]]:
    """What both say within this time is the same, field by field."""
    theirs = of_family(kernel.reports(seconds), family)
    red.advance(seconds)
    ours = of_family(red.reports(family), family)
    assert ours == theirs, what
    return ours


Step = tuple[int, "Callable[[int], bytes]"]

STEPS4: Final[list[Step]] = [
    (ADD, lambda _: mreq(GROUP)),
    (JOIN_GROUP, lambda i: group_req(OTHER, i)),
    (DROP, lambda _: mreq(GROUP)),
    (ADD_SOURCE, lambda _: mreq_source(GROUP, S1)),
    (JOIN_SOURCE, lambda i: group_source(GROUP, S2, i)),
    (DROP_SOURCE, lambda _: mreq_source(GROUP, S1)),
    (BLOCK, lambda _: mreq_source(OTHER, S3)),
    (UNBLOCK, lambda _: mreq_source(OTHER, S3)),
    (MSFILTER, lambda _: msfilter(OTHER, EXCLUDE, S1, S2)),
    (MSFILTER, lambda _: msfilter(OTHER, INCLUDE, S3)),
    (GROUP_FILTER, lambda i: group_filter(OTHER, EXCLUDE, S3, interface=i)),
    (LEAVE_GROUP, lambda i: group_req(OTHER, i)),
    (LEAVE_SOURCE, lambda i: group_source(GROUP, S2, i)),
]
STEPS6: Final[list[Step]] = [
    (socket.IPV6_JOIN_GROUP, lambda i: mreq6(GROUP6, i)),
    (JOIN_SOURCE, lambda i: group_source(OTHER6, T1, i)),
    (BLOCK_GROUP, lambda i: group_source(GROUP6, T2, i)),
    (GROUP_FILTER, lambda i: group_filter(GROUP6, INCLUDE, T1, T3, interface=i)),
    (LEAVE_SOURCE, lambda i: group_source(OTHER6, T1, i)),
    (socket.IPV6_LEAVE_GROUP, lambda i: mreq6(GROUP6, i)),
]


def both(kernel: Kernel, red: Still, family: int) -> tuple[socket.socket, Any]:
    domain = socket.AF_INET if family == 4 else socket.AF_INET6
    return kernel.socket(domain), red.socket(domain)


@pytest.mark.parametrize(("family", "steps"), [(4, STEPS4), (6, STEPS6)])
def test_changes_are_told_as_by_the_kernel(kernel: Kernel, red: Still, family: int, steps: list[Step]) -> None:
    level = IP if family == 4 else IP6
    theirs, ours = both(kernel, red, family)
    with theirs, ours:
        for number, (option, value) in enumerate(steps):
            theirs.setsockopt(level, option, value(kernel.index))
            ours.setsockopt(level, option, value(1))
            assert compare(kernel, red, family, 1.2, f"step {number}"), "something was said"


def joined(kernel: Kernel, red: Still, family: int) -> tuple[socket.socket, Any]:
    """Have both join a group, and a source of another."""
    theirs, ours = both(kernel, red, family)
    for number, sock in ((kernel.index, theirs), (1, ours)):
        level, group, other, source = (IP, GROUP, OTHER, S1) if family == 4 else (IP6, GROUP6, OTHER6, T1)
        sock.setsockopt(level, JOIN_GROUP, group_req(group, number))
        sock.setsockopt(level, JOIN_SOURCE, group_source(other, source, number))
    assert compare(kernel, red, family, 1.5, "joined")
    return theirs, ours


def ask(kernel: Kernel, red: Still, family: int, frame: bytes, what: str) -> list[tuple[Any, ...]]:
    kernel.wire.send(frame)
    red.hear(frame)
    return compare(kernel, red, family, 0.6, what)


def test_igmp_queries_are_answered_as_by_the_kernel(kernel: Kernel, red: Still) -> None:
    theirs, ours = joined(kernel, red, 4)
    with theirs, ours:
        assert ask(kernel, red, 4, query4(3, 2), "general")
        assert ask(kernel, red, 4, query4(3, 2, GROUP), "group")
        assert ask(kernel, red, 4, query4(3, 2, OTHER), "group that includes")
        assert ask(kernel, red, 4, query4(3, 2, OTHER, (S1, S2)), "sources")
        assert not ask(kernel, red, 4, query4(3, 2, OTHER, (S2,)), "another source")
        assert ask(kernel, red, 4, query4(2, 2), "version 2")
        assert ask(kernel, red, 4, query4(2, 2, GROUP), "version 2, group")
        assert ask(kernel, red, 4, query4(3, 2), "version 3 beside version 2")
        for sock in (theirs, ours):
            sock.setsockopt(IP, DROP, mreq(GROUP))
        assert compare(kernel, red, 4, 0.3, "leave")
        for sock in (theirs, ours):
            sock.setsockopt(IP, ADD, mreq("239.4.4.4"))
        # Once now, and again within ten seconds: how often that is by now is chance.
        said = set(of_family(kernel.reports(0.5), 4))
        red.advance(0.5)
        assert set(of_family(red.reports(4), 4)) == said
        assert {record for record, _carried in said} == {("report2", "239.4.4.4", ())}


def test_mld_queries_are_answered_as_by_the_kernel(kernel: Kernel, red: Still) -> None:
    theirs, ours = joined(kernel, red, 6)
    with theirs, ours:
        answer = ask(kernel, red, 6, query6(2, 200), "general")
        assert len(answer) == 6, "two of the app, solicited-node groups, all routers"
        assert ask(kernel, red, 6, query6(2, 200, GROUP6), "group")
        assert ask(kernel, red, 6, query6(2, 200, OTHER6, (T1, T2)), "sources")
        assert not ask(kernel, red, 6, query6(2, 200, OTHER6, (T2,)), "another source")
        assert not ask(kernel, red, 6, query6(2, 200, hop_limit=2), "from beyond the link")
        assert not ask(kernel, red, 6, query6(2, 200, source="2001:db8:a::2"), "no link-local source")
        assert not ask(kernel, red, 6, query6(2, 200, alert=b""), "no router alert")
        assert ask(kernel, red, 6, query6(1, 200), "version 1")
        assert ask(kernel, red, 6, query6(1, 200, GROUP6), "version 1, group")
        for sock, number in ((theirs, kernel.index), (ours, 1)):
            sock.setsockopt(IP6, socket.IPV6_LEAVE_GROUP, mreq6(GROUP6, number))
        assert compare(kernel, red, 6, 0.3, "done")


def errno_of(call: Callable[[], None]) -> int:
    try:
        call()
    except OSError as error:
        return error.errno or -1
    return 0


CALLS4: Final[list[tuple[int, Callable[[int], bytes]]]] = [
    (ADD, lambda _: mreq("10.1.1.1")),
    (ADD, lambda _: mreq(GROUP, "10.77.0.1")),
    (ADD, lambda _: b"short"),
    (DROP, lambda _: mreq(GROUP)),
    (BLOCK, lambda _: mreq_source(GROUP, S1)),
    (UNBLOCK, lambda _: mreq_source(GROUP, S1)),
    (DROP_SOURCE, lambda _: mreq_source(GROUP, S1)),
    (MSFILTER, lambda _: msfilter(GROUP, INCLUDE, S1)),
    (MSFILTER, lambda _: msfilter(GROUP, INCLUDE)),
    (ADD, lambda _: mreq(GROUP)),
    (ADD, lambda _: mreq(GROUP)),
    (UNBLOCK, lambda _: mreq_source(GROUP, S1)),
    (BLOCK, lambda _: mreq_source(GROUP, S1)),
    (BLOCK, lambda _: mreq_source(GROUP, S1)),
    (ADD_SOURCE, lambda _: mreq_source(GROUP, S2)),
    (MSFILTER, lambda _: msfilter(GROUP, 7)),
    (MSFILTER, lambda _: msfilter(GROUP, EXCLUDE, S1, count=2)),
    (MSFILTER, lambda _: msfilter("10.1.1.1", EXCLUDE)),
    (ADD_SOURCE, lambda _: mreq_source(GROUP, S2)[:8]),
    (JOIN_GROUP, lambda i: group_req(GROUP6, i)),
    (JOIN_GROUP, lambda i: group_req(GROUP, i + 50)),
    (JOIN_SOURCE, lambda i: group_source(GROUP, T1, i)),
    (GROUP_FILTER, lambda i: group_filter(GROUP, EXCLUDE, T1, interface=i)),
    (MSFILTER, lambda _: msfilter(GROUP, INCLUDE)),
    (ADD_SOURCE, lambda _: mreq_source(GROUP, S2)),
    (ADD_SOURCE, lambda _: mreq_source(GROUP, S2)),
    (BLOCK, lambda _: mreq_source(GROUP, S1)),
    (DROP_SOURCE, lambda _: mreq_source(GROUP, S1)),
    (DROP_SOURCE, lambda _: mreq_source(GROUP, S2)),
    (DROP, lambda _: mreq(GROUP)),
    (listeners.ALL4, lambda _: b"\2\0\0\0"),
]
CALLS6: Final[list[tuple[int, Callable[[int], bytes]]]] = [
    (socket.IPV6_JOIN_GROUP, lambda i: mreq6("2001:db8::1", i)),
    (socket.IPV6_LEAVE_GROUP, lambda i: mreq6("2001:db8::1", i)),
    (socket.IPV6_LEAVE_GROUP, lambda i: mreq6(GROUP6, i)),
    (socket.IPV6_JOIN_GROUP, lambda i: mreq6(GROUP6, i + 50)),
    (BLOCK_GROUP, lambda i: group_source(GROUP6, T1, i)),
    (socket.IPV6_JOIN_GROUP, lambda i: mreq6(GROUP6, i)),
    (JOIN_GROUP, lambda i: group_req(GROUP6, i)),
    (JOIN_GROUP, lambda i: group_req(GROUP, i)),
    (JOIN_SOURCE, lambda i: group_source(GROUP6, S1, i)),
    (BLOCK_GROUP, lambda i: group_source(GROUP6, T1, i)),
    (BLOCK_GROUP, lambda i: group_source(GROUP6, T1, i)),
    (JOIN_SOURCE, lambda i: group_source(GROUP6, T2, i)),
    (GROUP_FILTER, lambda i: group_filter(GROUP6, 9, interface=i)),
    (GROUP_FILTER, lambda i: group_filter(GROUP6, EXCLUDE, T1, interface=i, count=2)),
    (GROUP_FILTER, lambda i: group_filter("2001:db8::1", EXCLUDE, T1, interface=i)),
    (GROUP_FILTER, lambda i: group_filter(GROUP6, INCLUDE, interface=i)),
    (LEAVE_GROUP, lambda i: group_req(GROUP6, i)),
    (listeners.ALL6, lambda _: b"\2\0\0\0"),
]


@pytest.mark.parametrize(("family", "calls"), [(4, CALLS4), (6, CALLS6)])
def test_errors_are_the_kernels(
    kernel: Kernel, red: Still, family: int, calls: list[tuple[int, Callable[[int], bytes]]]
) -> None:
    level = IP if family == 4 else IP6
    theirs, ours = both(kernel, red, family)
    with theirs, ours:
        differing = []
        for number, (option, value) in enumerate(calls):
            expected = errno_of(lambda: theirs.setsockopt(level, option, value(kernel.index)))  # noqa: B023
            got = errno_of(lambda: ours.setsockopt(level, option, value(1)))  # noqa: B023
            if got != expected:
                differing.append((number, option, expected, got))
        assert not differing
