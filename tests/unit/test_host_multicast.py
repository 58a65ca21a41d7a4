"""Group membership: source filters of sockets, and what routers are told and answered (IGMP, MLD), on a still clock."""

from __future__ import annotations

import errno
import select
import socket
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit import listeners, packets
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
    UNBLOCK_GROUP,
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
)

IP, IP6 = socket.IPPROTO_IP, socket.IPPROTO_IPV6
GROUP, OTHER, GROUP6 = "239.1.2.3", "239.1.2.4", "ff15::1234"
S1, S2, S3 = "10.0.0.2", "10.9.9.2", "10.9.9.3"
T1, T2, T3 = "2001:db8:a::2", "2001:db8:9::2", "2001:db8:9::3"
# What the VR itself has joined on `a`: the solicited-node groups of its addresses, and all routers.
OURS = ("ff02::1:ff00:1", "ff02::1:ff00:a", "ff02::2", "ff05::2")


@pytest.fixture
def red() -> Iterator[Still]:
    with tempfile.TemporaryDirectory(prefix="anabranch-test-") as folder:
        made = Still(Path(folder))
        try:
            made.reports()
            yield made
        finally:
            made.close()


def drops(red: Still, reason: str) -> int:
    return red.router.drops("a").get(reason, 0)


# --- IGMPv3 ---


def test_a_join_and_a_leave_are_told_twice(red: Still) -> None:
    with red.socket() as sock:
        sock.setsockopt(IP, ADD, mreq(GROUP))
        (report,) = red.reports()
        assert report.records == (("to_ex", GROUP, ()),)
        assert (report.source, report.destination, report.ttl, report.tos) == ("10.0.0.1", "224.0.0.22", 1, 0xC0)
        assert (report.alert, report.mac, report.flags) == (listeners.ALERT4, bytes.fromhex("01005e000016"), 2)
        assert red.told(1.0) == [("to_ex", GROUP, ())]
        assert red.told(30) == []
        sock.setsockopt(IP, DROP, mreq(GROUP))
        assert red.told() == [("to_in", GROUP, ())]
        assert red.told(1.0) == [("to_in", GROUP, ())]
        assert red.told(30) == []


def test_an_interface_tells_the_first_join_and_the_last_leave(red: Still) -> None:
    with red.socket() as first:
        with red.socket() as second:
            first.setsockopt(IP, ADD, mreq(GROUP))
            second.setsockopt(IP, ADD, mreq(GROUP))
            assert red.told(5) == [("to_ex", GROUP, ())] * 2
            first.setsockopt(IP, DROP, mreq(GROUP))
            assert red.told(5) == []
        # Closing is leaving.
        for _ in range(200):
            if told := red.told():
                break
            select.select([], [], [], 0.005)
        assert told == [("to_in", GROUP, ())]


def test_all_hosts_is_never_told(red: Still) -> None:
    with red.socket() as sock:
        sock.setsockopt(IP, ADD, mreq("224.0.0.1"))
        sock.setsockopt(IP, ADD, mreq("224.0.0.251"))
        assert red.told(5) == [("to_ex", "224.0.0.251", ())] * 2
        red.hear(query4(3, 10))
        assert red.told(1.0) == [("is_ex", "224.0.0.251", ())]


def test_sources_that_come_and_go(red: Still) -> None:
    """RFC 3376 section 5.1: a difference as ALLOW or BLOCK, another mode as TO_IN or TO_EX."""
    with red.socket() as sock:
        sock.setsockopt(IP, ADD_SOURCE, mreq_source(GROUP, S1))
        assert red.told(5) == [("allow", GROUP, (S1,))] * 2
        sock.setsockopt(IP, ADD_SOURCE, mreq_source(GROUP, S2))
        assert red.told(5) == [("allow", GROUP, (S2,))] * 2
        sock.setsockopt(IP, DROP_SOURCE, mreq_source(GROUP, S1))
        assert red.told(5) == [("block", GROUP, (S1,))] * 2
        sock.setsockopt(IP, MSFILTER, msfilter(GROUP, EXCLUDE, S3))
        assert red.told(5) == [("to_ex", GROUP, (S3,))] * 2
        sock.setsockopt(IP, BLOCK, mreq_source(GROUP, S1))
        assert red.told(5) == [("block", GROUP, (S1,))] * 2
        sock.setsockopt(IP, UNBLOCK, mreq_source(GROUP, S3))
        assert red.told(5) == [("allow", GROUP, (S3,))] * 2
        sock.setsockopt(IP, MSFILTER, msfilter(GROUP, INCLUDE, S1, S2))
        assert red.told(5) == [("to_in", GROUP, (S1, S2))] * 2
        sock.setsockopt(IP, MSFILTER, msfilter(GROUP, INCLUDE))
        assert red.told(5) == [("block", GROUP, (S1, S2))] * 2


def test_changes_in_quick_succession_are_told_together(red: Still) -> None:
    with red.socket() as sock:
        sock.setsockopt(IP, ADD_SOURCE, mreq_source(GROUP, S1))
        assert red.told() == [("allow", GROUP, (S1,))]
        sock.setsockopt(IP, ADD_SOURCE, mreq_source(GROUP, S2))
        assert red.told() == [("allow", GROUP, (S1, S2))]  # its second time, and the first of the other
        sock.setsockopt(IP, DROP_SOURCE, mreq_source(GROUP, S2))
        assert red.told() == [("block", GROUP, (S2,))]
        assert red.told(5) == [("block", GROUP, (S2,))]


def test_merge_of_sockets(red: Still) -> None:
    """RFC 3376 section 3.2: excluded by all and included by none; else included by any."""
    with red.socket() as first, red.socket() as second, red.socket() as third:
        first.setsockopt(IP, ADD, mreq(GROUP))
        first.setsockopt(IP, MSFILTER, msfilter(GROUP, EXCLUDE, S1, S2, S3))
        red.told(5)
        second.setsockopt(IP, ADD, mreq(GROUP))
        second.setsockopt(IP, MSFILTER, msfilter(GROUP, EXCLUDE, S2, S3))
        red.told(5)
        red.hear(query4(3, 10))
        assert red.told(1) == [("is_ex", GROUP, (S2, S3))]
        third.setsockopt(IP, ADD_SOURCE, mreq_source(GROUP, S3))
        assert red.told(5) == [("allow", GROUP, (S3,))] * 2
        red.hear(query4(3, 10))
        assert red.told(1) == [("is_ex", GROUP, (S2,))]
        first.setsockopt(IP, DROP, mreq(GROUP))
        second.setsockopt(IP, DROP, mreq(GROUP))
        assert red.told(5)[-1] == ("to_in", GROUP, (S3,))
        red.hear(query4(3, 10))
        assert red.told(1) == [("is_in", GROUP, (S3,))]


def test_more_sources_than_an_interface_lists(red: Still) -> None:
    """It then asks for all; each socket still gets its own only."""
    with red.socket() as first, red.socket() as second:
        for number, sock in enumerate((first, second)):
            sources = [f"10.{number + 1}.0.{i}" for i in range(1, 41)]
            sock.setsockopt(IP, ADD_SOURCE, mreq_source(GROUP, sources[0]))
            sock.setsockopt(IP, MSFILTER, msfilter(GROUP, INCLUDE, *sources))
        red.told(5)
        red.hear(query4(3, 10))
        assert red.told(1) == [("is_ex", GROUP, ())]


def test_many_groups_take_several_reports(red: Still) -> None:
    sockets = [red.socket() for _ in range(20)]
    sources = [f"10.3.0.{i}" for i in range(1, 11)]
    for number, sock in enumerate(sockets):
        for place in range(16):
            sock.setsockopt(IP, ADD_SOURCE, mreq_source(f"239.5.{number}.{place}", sources[0]))
            sock.setsockopt(IP, MSFILTER, msfilter(f"239.5.{number}.{place}", INCLUDE, *sources))
    red.told(5)
    red.hear(query4(3, 10))
    red.advance(1)
    reports = red.reports()
    assert len(reports) == 11  # 320 records of 48 bytes, 30 in a packet of 1500
    assert len({record for report in reports for record in report.records}) == 320
    assert all(record[2] == tuple(sorted(sources)) for report in reports for record in report.records)
    for sock in sockets:
        sock.close()


# --- queries ---


def test_a_general_query_is_answered_in_its_time(red: Still) -> None:
    with red.socket() as sock:
        sock.setsockopt(IP, ADD, mreq(GROUP))
        sock.setsockopt(IP, ADD_SOURCE, mreq_source(OTHER, S1))
        red.told(5)
        times = []
        for _ in range(8):
            red.hear(query4(3, 100))
            elapsed = 0.0
            while not (told := red.told(0.1)):
                elapsed += 0.1
                assert elapsed < 10.2
            assert sorted(told) == [("is_ex", GROUP, ()), ("is_in", OTHER, (S1,))]
            times.append(round(elapsed, 1))
            assert red.told(15) == []
        assert len(set(times)) > 3, "the delay is random"


def test_a_query_for_a_group(red: Still) -> None:
    with red.socket() as sock:
        sock.setsockopt(IP, ADD, mreq(GROUP))
        sock.setsockopt(IP, ADD, mreq(OTHER))
        red.told(5)
        red.hear(query4(3, 10, GROUP))
        assert red.told(1) == [("is_ex", GROUP, ())]
        red.hear(query4(3, 10, "239.9.9.9"))
        assert red.told(2) == []
        assert drops(red, "multicast") == 1


def test_a_query_for_sources(red: Still) -> None:
    """RFC 3376 section 5.2: the sources that were asked for and are wanted."""
    with red.socket() as sock:
        sock.setsockopt(IP, ADD_SOURCE, mreq_source(GROUP, S1))
        sock.setsockopt(IP, ADD_SOURCE, mreq_source(GROUP, S2))
        sock.setsockopt(IP, ADD, mreq(OTHER))
        sock.setsockopt(IP, BLOCK, mreq_source(OTHER, S1))
        red.told(5)
        red.hear(query4(3, 10, GROUP, (S2, S3)))
        assert red.told(1) == [("is_in", GROUP, (S2,))]
        red.hear(query4(3, 10, GROUP, (S3,)))
        assert red.told(1) == []
        red.hear(query4(3, 10, OTHER, (S1, S3)))
        assert red.told(1) == [("is_in", OTHER, (S3,))]
        # What waits already is joined by what is asked next; a query for the group covers all.
        red.hear(query4(3, 100, GROUP, (S1,)))
        red.hear(query4(3, 100, GROUP, (S2,)))
        assert red.told(10) == [("is_in", GROUP, (S1, S2))]
        red.hear(query4(3, 100, OTHER, (S3,)))
        red.hear(query4(3, 100, OTHER))
        assert red.told(10) == [("is_ex", OTHER, (S1,))]


def test_robustness_is_learned_from_the_querier(red: Still) -> None:
    red.hear(query4(3, 10, robustness=4))
    with red.socket() as sock:
        sock.setsockopt(IP, ADD, mreq(GROUP))
        assert red.told(10).count(("to_ex", GROUP, ())) == 4
    red.hear(query4(3, 10, robustness=0))
    with red.socket() as sock:
        sock.setsockopt(IP, ADD, mreq(OTHER))
        assert red.told(10).count(("to_ex", OTHER, ())) == 2


def test_queries_that_are_not_answered(red: Still) -> None:
    with red.socket() as sock:
        sock.setsockopt(IP, ADD, mreq(GROUP))
        red.told(5)
        good = listeners.igmp(0x11, 10, "0.0.0.0", struct.pack(">BBH", 2, 125, 0))
        red.hear(query4(3, 10, ttl=2))
        assert drops(red, "igmp_ttl") == 1
        red.hear(listeners.frame4(good[:2] + b"\0\0" + good[4:], "224.0.0.1"))
        assert drops(red, "igmp_checksum") == 1
        for body in (
            listeners.igmp(0x11, 10, "0.0.0.0")[:7],
            listeners.igmp(0x11, 10, "0.0.0.0", b"\0"),
            listeners.igmp(0x11, 10, "0.0.0.0", struct.pack(">BBH", 2, 125, 1)),
            listeners.igmp(0x11, 10, "0.0.0.0", struct.pack(">BBH4s", 2, 125, 1, b"\x0a\0\0\2")),
            listeners.igmp(0x11, 10, "10.0.0.1"),
        ):
            red.hear(listeners.frame4(body, "224.0.0.1"))
        assert drops(red, "igmp_malformed") == 5
        red.hear(listeners.frame4(listeners.igmp(0x13, 0, GROUP), GROUP))
        assert drops(red, "igmp_ignored") == 1
        assert red.told(15) == []


# --- older versions ---


def test_a_querier_of_version_2(red: Still) -> None:
    with red.socket() as sock, red.socket() as later:
        sock.setsockopt(IP, ADD, mreq(GROUP))
        sock.setsockopt(IP, ADD, mreq(OTHER))
        red.told(5)
        red.hear(query4(2, 20))
        assert sorted(red.told(2)) == [("report2", GROUP, ()), ("report2", OTHER, ())]
        red.hear(query4(2, 20, GROUP))
        red.advance(2)
        (report,) = red.reports()
        assert report.records == (("report2", GROUP, ()),)
        assert (report.destination, report.mac, report.ttl) == (GROUP, bytes.fromhex("01005e010203"), 1)
        assert report.alert == listeners.ALERT4
        # A new member is told at once and once more within ten seconds; who leaves, says so.
        later.setsockopt(IP, ADD_SOURCE, mreq_source("239.7.7.7", S1))
        assert red.told() == [("report2", "239.7.7.7", ())]
        assert red.told(10) == [("report2", "239.7.7.7", ())]
        later.setsockopt(IP, DROP, mreq("239.7.7.7"))
        red.advance(0)
        (report,) = red.reports()
        assert (report.records, report.destination) == ((("leave", "239.7.7.7", ()),), "224.0.0.2")
        # Version 3 queries get answers of version 2 while the other querier is remembered.
        red.hear(query4(3, 20))
        assert sorted(red.told(2)) == [("report2", GROUP, ()), ("report2", OTHER, ())]
        red.told(270)
        red.hear(query4(3, 20))
        assert sorted(red.told(2)) == [("is_ex", GROUP, ()), ("is_ex", OTHER, ())]


def test_reports_of_others_suppress_ours(red: Still) -> None:
    heard = listeners.frame4(listeners.igmp(0x16, 0, GROUP), GROUP)
    with red.socket() as sock:
        sock.setsockopt(IP, ADD, mreq(GROUP))
        sock.setsockopt(IP, ADD, mreq(OTHER))
        red.told(5)
        red.hear(query4(2, 100))
        red.hear(heard)
        assert red.told(10) == [("report2", OTHER, ())]
        sock.setsockopt(IP, DROP, mreq(GROUP))  # the last report was not ours
        sock.setsockopt(IP, DROP, mreq(OTHER))
        assert red.told(1) == [("leave", OTHER, ())]


def test_version_3_is_not_suppressed(red: Still) -> None:
    with red.socket() as sock:
        sock.setsockopt(IP, ADD, mreq(GROUP))
        red.told(5)
        red.hear(query4(3, 100, GROUP))
        red.hear(listeners.frame4(listeners.igmp(0x16, 0, GROUP), GROUP))
        assert red.told(10) == [("is_ex", GROUP, ())]


def test_a_querier_of_version_1(red: Still) -> None:
    with red.socket() as sock:
        sock.setsockopt(IP, ADD, mreq(GROUP))
        red.told(5)
        red.hear(query4(1))
        assert red.told(10) == [("report1", GROUP, ())]
        red.hear(query4(2, 10))
        assert red.told(10) == [("report1", GROUP, ())]
        sock.setsockopt(IP, DROP, mreq(GROUP))
        assert red.told(10) == []


def test_a_change_of_version_keeps_what_was_not_told(red: Still) -> None:
    with red.socket() as sock:
        sock.setsockopt(IP, ADD, mreq(GROUP))
        assert red.told() == [("to_ex", GROUP, ())]
        red.hear(query4(2, 1))
        assert red.told(1) == [("report2", GROUP, ())]


# --- interfaces and restarts ---


def test_a_link_that_comes_back_is_told_again(red: Still) -> None:
    with red.socket() as sock:
        sock.setsockopt(IP, ADD, mreq(GROUP))
        sock.setsockopt(IP, ADD_SOURCE, mreq_source(OTHER, S1))
        red.hear(query4(2, 100))
        red.told(15)
        red.stop()
        red.router.link(1, up=False)
        red.start_again()
        sock.setsockopt(IP, DROP, mreq(GROUP))
        assert red.told(5) == []
        sock.setsockopt(IP, ADD, mreq(GROUP))
        red.stop()
        red.router.link(1, up=True)
        red.start_again()
        assert sorted(red.told(5)) == [("allow", OTHER, (S1,))] * 2 + [("to_ex", GROUP, ())] * 2


def test_memberships_outlive_the_forwarder(red: Still) -> None:
    with red.socket() as sock:
        sock.setsockopt(IP, ADD, mreq(GROUP))
        sock.setsockopt(IP, BLOCK, mreq_source(GROUP, S2))
        red.told(5)
        red.crash()
        assert red.told(3) == [("to_ex", GROUP, (S2,))] * 2


# --- MLD ---


def test_mld_tells_what_the_router_itself_has_joined(red: Still) -> None:
    red.hear(query6(2, 1000))
    red.advance(1)
    (report,) = red.reports(6)
    assert report.records == tuple(("is_ex", group, ()) for group in OURS)
    assert (report.source, report.destination, report.ttl) == ("fe80::a", "ff02::16", 1)
    assert (report.alert, report.mac) == (listeners.ALERT6, bytes.fromhex("333300000016"))


def test_mld_joins_sources_and_leaves(red: Still) -> None:
    with red.socket(socket.AF_INET6) as sock:
        sock.setsockopt(IP6, socket.IPV6_JOIN_GROUP, mreq6(GROUP6))
        assert red.told(5, 6) == [("to_ex", GROUP6, ())] * 2
        sock.setsockopt(IP6, BLOCK_GROUP, group_source(GROUP6, T2))
        assert red.told(5, 6) == [("block", GROUP6, (T2,))] * 2
        red.hear(query6(2, 1000, GROUP6, (T2, T3)))
        assert red.told(1, 6) == [("is_in", GROUP6, (T3,))]
        sock.setsockopt(IP6, GROUP_FILTER, group_filter(GROUP6, INCLUDE, T1, T3))
        assert red.told(5, 6) == [("to_in", GROUP6, (T3, T1))] * 2
        sock.setsockopt(IP6, LEAVE_GROUP, group_req(GROUP6))
        assert red.told(5, 6) == [("block", GROUP6, (T3, T1))] * 2
        sock.setsockopt(IP6, socket.IPV6_JOIN_GROUP, mreq6("ff02::1"))
        sock.setsockopt(IP6, socket.IPV6_JOIN_GROUP, mreq6("ff01::99"))
        assert red.told(5, 6) == []


def test_mld_of_version_1(red: Still) -> None:
    heard = listeners.mld(131, 0, GROUP6, GROUP6)
    with red.socket(socket.AF_INET6) as sock:
        sock.setsockopt(IP6, socket.IPV6_JOIN_GROUP, mreq6(GROUP6))
        red.told(5, 6)
        red.hear(query6(1, 1000))
        assert sorted(red.told(1, 6)) == sorted(("report1", group, ()) for group in (*OURS, GROUP6))
        red.hear(query6(1, 5000, GROUP6))
        red.advance(5)
        (report,) = red.reports(6)
        assert (report.destination, report.records) == (GROUP6, (("report1", GROUP6, ()),))
        red.hear(query6(1, 5000, GROUP6))
        red.hear(listeners.frame6(heard, GROUP6))
        assert red.told(6, 6) == []
        sock.setsockopt(IP6, socket.IPV6_LEAVE_GROUP, mreq6(GROUP6))
        assert red.told(1, 6) == []
        sock.setsockopt(IP6, socket.IPV6_JOIN_GROUP, mreq6(GROUP6))
        assert red.told(10, 6) == [("report1", GROUP6, ())] * 2
        sock.setsockopt(IP6, socket.IPV6_LEAVE_GROUP, mreq6(GROUP6))
        red.advance(0)
        (report,) = red.reports(6)
        assert (report.destination, report.records) == ("ff02::2", (("leave", GROUP6, ()),))
        red.told(300)
        red.hear(query6(2, 1000))
        assert red.told(1, 6) == [("is_ex", group, ()) for group in OURS]


def test_mld_is_of_the_link_only(red: Still) -> None:
    """RFC 3810 section 6.2: link-local source, hop limit 1, router alert."""
    red.hear(query6(2, 1000, source="2001:db8:a::2"))
    red.hear(query6(2, 1000, hop_limit=2))
    red.hear(query6(2, 1000, alert=b""))
    red.hear(query6(2, 1000, alert=bytes((packets.ICMP6, 0, 5, 2, 0, 1, 1, 0))))
    red.hear(query6(2, 1000, alert=bytes((packets.ICMP6, 0, 1, 4, 0, 0, 0, 0))))
    assert drops(red, "mld_not_local") == 5
    for body in (
        listeners.mld(130, 0, "::", "ff02::1", b"\0"),
        listeners.mld(130, 0, "::", "ff02::1", struct.pack(">BBH", 2, 125, 1)),
        listeners.mld(130, 0, "::", "ff02::1", struct.pack(">BBH16s", 2, 125, 1, packets.address(T1))),
        listeners.mld(130, 0, "2001:db8::1", "ff02::1"),
    ):
        red.hear(listeners.frame6(body, "ff02::1"))
    assert drops(red, "mld_malformed") == 4
    assert red.told(10, 6) == []


def test_an_address_that_is_being_checked(red: Still) -> None:
    """RFC 3590: from :: until there is a link-local address, and then again from that."""
    red.stop()
    red.router.interfaces["b"].addresses = ["10.0.1.1/24"]
    red.router.publish()
    red.router.poll()
    red.router.advance(5)
    red.router.ports[2].receive()
    red.router.interfaces["b"].addresses = ["10.0.1.1/24", "fe80::b/64"]
    red.router.publish()
    red.router.poll()
    at_once = [frame for frame, _vnet in red.router.ports[2].receive()]
    red.router.advance(5)
    later = [frame for frame, _vnet in red.router.ports[2].receive()]
    red.start_again()
    first = listeners.read_report(at_once[0])
    assert first is not None
    assert first.source == "::"
    assert ("to_ex", "ff02::1:ff00:b", ()) in first.records
    assert at_once[1][54] == packets.NS, "the group is told before it is used"
    reports = [report for report in map(listeners.read_report, later) if report is not None]
    assert {report.source for report in reports} == {"::", "fe80::b"}
    last = [record for report in reports if report.source == "fe80::b" for record in report.records]
    assert last.count(("to_ex", "ff02::1:ff00:b", ())) == 2


# --- delivery ---


def udp(group: str, port: int, payload: bytes, source: str) -> bytes:
    body = struct.pack(">HHHH", 7777, port, 8 + len(payload), 0) + payload
    if ":" not in group:
        return packets.ip4(source, group, body, ttl=1)
    pseudo = packets.address(source) + packets.address(group) + struct.pack(">II", len(body), packets.UDP)
    body = body[:6] + struct.pack(">H", packets.checksum(pseudo + body)) + body[8:]
    head = struct.pack(">IHBB", 6 << 28, len(body), packets.UDP, 1)
    return head + packets.address(source) + packets.address(group) + body


def arrive(red: Still, packet: bytes) -> None:
    group = packet[16:20] if packet[0] >> 4 == 4 else packet[24:40]
    mac = b"\x01\x00\x5e" + bytes((group[1] & 0x7F,)) + group[2:] if len(group) == 4 else b"\x33\x33" + group[12:]
    kind = packets.IP4 if len(group) == 4 else packets.IP6
    red.hear(packets.ethernet(mac, listeners.QUERIER_MAC, kind, packet))


def waiting(sock: Any) -> list[bytes]:
    found = []
    while select.select([sock], [], [], 0.02)[0]:
        found.append(sock.recv(100))
    return found


@pytest.mark.parametrize("family", [4, 6])
def test_each_socket_gets_what_its_filter_lets_through(red: Still, family: int) -> None:
    level, domain, group = (IP, socket.AF_INET, GROUP) if family == 4 else (IP6, socket.AF_INET6, GROUP6)
    one, two, three = (S1, S2, S3) if family == 4 else (T1, T2, T3)
    everything, some, others = (red.socket(domain) for _ in range(3))
    for sock in (everything, some, others):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("", 5100))
    everything.setsockopt(level, JOIN_GROUP, group_req(group))
    some.setsockopt(level, JOIN_SOURCE, group_source(group, one))
    some.setsockopt(level, JOIN_SOURCE, group_source(group, two))
    others.setsockopt(level, JOIN_GROUP, group_req(group))
    others.setsockopt(level, BLOCK_GROUP, group_source(group, one))
    for source in (one, two, three):
        arrive(red, udp(group, 5100, source.encode(), source))
    assert waiting(everything) == [one.encode(), two.encode(), three.encode()]
    assert waiting(some) == [one.encode(), two.encode()]
    assert waiting(others) == [two.encode(), three.encode()]
    some.setsockopt(level, LEAVE_SOURCE, group_source(group, two))
    others.setsockopt(level, UNBLOCK_GROUP, group_source(group, one))
    everything.close()
    arrive(red, udp(group, 5100, b"again", one))
    assert (waiting(some), waiting(others)) == ([b"again"], [b"again"])
    others.close()
    assert waiting(some) == []
    arrive(red, udp(group, 5100, b"nobody", two))
    assert waiting(some) == []
    assert drops(red, "source_filtered") == 1
    some.close()


@pytest.mark.parametrize("family", [4, 6])
def test_what_others_have_joined(red: Still, family: int) -> None:
    """IP_MULTICAST_ALL and IPV6_MULTICAST_ALL, on by default as in Linux."""
    level, domain, group, option = (
        (IP, socket.AF_INET, GROUP, listeners.ALL4) if family == 4 else (IP6, socket.AF_INET6, GROUP6, listeners.ALL6)
    )
    source = S1 if family == 4 else T1
    with red.socket(domain) as member, red.socket(domain) as bystander:
        for sock in (member, bystander):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("", 5101))
            assert sock.getsockopt(level, option) == 1
        arrive(red, udp(group, 5101, b"0", source))
        assert drops(red, "multicast") == 1
        member.setsockopt(level, JOIN_GROUP, group_req(group))
        arrive(red, udp(group, 5101, b"1", source))
        bystander.setsockopt(level, option, 0)
        assert bystander.getsockopt(level, option) == 0
        arrive(red, udp(group, 5101, b"2", source))
        assert (waiting(member), waiting(bystander)) == ([b"1", b"2"], [b"1"])


def test_raw_sockets_of_igmp_and_icmpv6(red: Still) -> None:
    """Routing protocols hear the messages themselves."""
    with (
        red.socket(kind=socket.SOCK_RAW, proto=listeners.IGMP) as igmp,
        red.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as icmp6,
    ):
        red.hear(query4(2, 50))
        red.hear(query6(1, 50))
        assert igmp.recv(100)[24:28] == query4(2, 50)[38:42]
        assert icmp6.recv(100)[0] == 130
        igmp.setsockopt(IP, ADD, mreq("224.0.0.22"))
        red.hear(listeners.frame4(listeners.igmp(0x22, 0, "0.0.0.0"), "224.0.0.22"))
        assert igmp.recv(100)[24] == 0x22


# --- calls ---


def refused(sock: Any, level: int, option: int, value: bytes) -> int:
    with pytest.raises(OSError, match=r".") as failure:
        sock.setsockopt(level, option, value)
    assert failure.value.errno is not None
    return failure.value.errno


def ask(sock: Any, level: int, option: int, room: int, question: bytes) -> bytes:
    """Ask for an option with what stands in the buffer; only sockets of routers can."""
    answer: bytes = sock.getsockopt(level, option, room, question=question)
    return answer


def test_filters_can_be_read(red: Still) -> None:
    with red.socket() as sock, red.socket(socket.AF_INET6) as six:
        sock.setsockopt(IP, ADD_SOURCE, mreq_source(GROUP, S1))
        sock.setsockopt(IP, ADD_SOURCE, mreq_source(GROUP, S2))
        answer = ask(sock, IP, MSFILTER, 16 + 8, msfilter(GROUP, 0, count=2))
        mode, count = struct.unpack_from("=II", answer, 8)
        assert (mode, count, {answer[16:20], answer[20:24]}) == (1, 2, {socket.inet_aton(s) for s in (S1, S2)})
        answer = ask(sock, IP, MSFILTER, 16 + 8, msfilter(GROUP, 0, count=1))
        assert (struct.unpack_from("=II", answer, 8), len(answer)) == ((1, 2), 20)
        with pytest.raises(OSError, match="assign"):
            ask(sock, IP, MSFILTER, 16, msfilter(OTHER, 0, count=0))
        six.setsockopt(IP6, JOIN_GROUP, group_req(GROUP6))
        many = [f"2001:db8:9::{i:x}" for i in range(1, 65)]
        six.setsockopt(IP6, GROUP_FILTER, group_filter(GROUP6, EXCLUDE, *many))
        answer = ask(six, IP6, GROUP_FILTER, 144 + 64 * 128, group_filter(GROUP6, 0, count=64))
        assert struct.unpack_from("=II", answer, 136) == (0, 64)
        found = {answer[144 + 128 * i + 8 : 144 + 128 * i + 24] for i in range(64)}
        assert found == {packets.address(source) for source in many}


def test_one_user_cannot_take_all_places(red: Still) -> None:
    """Sources of one membership, and of one user, are limited."""
    sources = [f"10.4.0.{i}" for i in range(1, 66)]
    with red.socket() as sock:
        sock.setsockopt(IP, ADD, mreq(GROUP))
        assert refused(sock, IP, MSFILTER, msfilter(GROUP, EXCLUDE, *sources)) == errno.ENOBUFS
        sock.setsockopt(IP, MSFILTER, msfilter(GROUP, EXCLUDE, *sources[:64]))
        assert refused(sock, IP, BLOCK, mreq_source(GROUP, sources[64])) == errno.ENOBUFS
        for number in range(15):
            sock.setsockopt(IP, ADD, mreq(f"239.8.0.{number}"))
        assert refused(sock, IP, ADD, mreq("239.8.0.99")) == errno.ENOBUFS
        sock.setsockopt(IP, DROP, mreq("239.8.0.1"))
        sock.setsockopt(IP, ADD, mreq("239.8.0.99"))
