"""ARP and the neighbor state machine, on virtual time: RFC 826, RFC 4861 section 7.3, RFC 5227."""

from __future__ import annotations

import os
import random
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from fastpath._layout import CONSTANTS, FIELDS, SIZES
from tests.unit import packets as p
from tests.unit.harness import HOST_A, HOST_B, OTHER, ROUTER_A, ROUTER_B, SECOND, Interface, Router, two_sided

if TYPE_CHECKING:
    from collections.abc import Iterable

ZERO = bytes(6)


def request(mac: bytes, sender: str, target: str) -> bytes:
    return p.ethernet(p.BROADCAST, mac, p.ARP, p.arp(1, mac, sender, ZERO, target))


def reply_b(mac: bytes = HOST_B, sender: str = "10.0.1.2") -> bytes:
    return p.ethernet(ROUTER_B, mac, p.ARP, p.arp(2, mac, sender, ROUTER_B, "10.0.1.1"))


def gratuitous(mac: bytes, address: str) -> bytes:
    return request(mac, address, address)


def to_b(payload: bytes = b"payload", destination: str = "10.0.1.2") -> bytes:
    return p.ethernet(ROUTER_A, HOST_A, p.IP4, p.datagram4("10.0.0.2", destination, payload))


def out_b(payload: bytes = b"payload", mac: bytes = HOST_B) -> bytes:
    return p.ethernet(mac, ROUTER_B, p.IP4, p.forwarded4(p.datagram4("10.0.0.2", "10.0.1.2", payload)))


ASK_B = p.ethernet(p.BROADCAST, ROUTER_B, p.ARP, p.arp(1, ROUTER_B, "10.0.1.1", ZERO, "10.0.1.2"))
PROBE_B = p.ethernet(HOST_B, ROUTER_B, p.ARP, p.arp(1, ROUTER_B, "10.0.1.1", ZERO, "10.0.1.2"))


def resolve_b(router: Router) -> None:
    router.send(1, to_b())
    router.send(2, reply_b())
    assert router.receive(2) == [ASK_B, out_b()]
    assert router.neighbor_state("10.0.1.2") == "REACHABLE"


# --- answering ---


def test_a_request_for_our_address_is_answered_and_the_asker_learned(router: Router) -> None:
    answer = p.ethernet(HOST_A, ROUTER_A, p.ARP, p.arp(2, ROUTER_A, "10.0.0.1", HOST_A, "10.0.0.2"))
    assert router.exchange(1, request(HOST_A, "10.0.0.2", "10.0.0.1")) == [answer]
    assert router.neighbor_state("10.0.0.2") == "STALE"
    assert router.neighbors()["10.0.0.2"].octets("mac") == HOST_A
    assert router.count("a", "punt_packets") == 1


@pytest.mark.parametrize("target", ["10.0.1.1", "192.0.2.1", "10.0.0.9", "10.0.0.255", "0.0.0.0"])
def test_addresses_that_are_not_on_the_interface_are_not_ours_there(router: Router, target: str) -> None:
    assert router.exchange(1, request(HOST_A, "10.0.0.2", target)) == []
    assert router.drops("a") == {"arp_not_for_us": 1}
    assert router.neighbors() == {}


def test_an_address_probe_is_answered_and_teaches_nothing(router: Router) -> None:
    answer = p.ethernet(HOST_A, ROUTER_A, p.ARP, p.arp(2, ROUTER_A, "10.0.0.1", HOST_A, "0.0.0.0"))
    assert router.exchange(1, request(HOST_A, "0.0.0.0", "10.0.0.1")) == [answer]
    assert router.neighbors() == {}


GOOD = p.arp(1, HOST_A, "10.0.0.2", ZERO, "10.0.0.1")


@pytest.mark.parametrize(
    "body",
    [
        GOOD[:27],
        b"",
        b"\0\6" + GOOD[2:],
        GOOD[:2] + b"\x86\xdd" + GOOD[4:],
        GOOD[:4] + b"\x08" + GOOD[5:],
        GOOD[:5] + b"\x10" + GOOD[6:],
        GOOD[:6] + b"\0\3" + GOOD[8:],
        GOOD[:6] + b"\0\0" + GOOD[8:],
    ],
)
def test_malformed(router: Router, body: bytes) -> None:
    assert router.exchange(1, p.ethernet(p.BROADCAST, HOST_A, p.ARP, body)) == []
    assert router.drops("a") == {"arp_malformed": 1}


@pytest.mark.parametrize(
    ("mac", "sender"),
    [
        (b"\x01" + HOST_A[1:], "10.0.0.2"),
        (ZERO, "10.0.0.2"),
        (ROUTER_A, "10.0.0.2"),
        (HOST_A, "224.0.0.1"),
        (HOST_A, "255.255.255.255"),
        (HOST_A, "127.0.0.1"),
        (HOST_A, "10.0.1.1"),
    ],
)
def test_impossible_senders(router: Router, mac: bytes, sender: str) -> None:
    frame = p.ethernet(p.BROADCAST, HOST_A, p.ARP, p.arp(1, mac, sender, ZERO, "10.0.0.1"))
    assert router.exchange(1, frame) == []
    assert router.drops("a") == {"arp_spoofed": 1}
    assert router.neighbors() == {}


def test_our_address_is_defended_once_in_ten_seconds(router: Router) -> None:
    announcement = p.ethernet(p.BROADCAST, ROUTER_A, p.ARP, p.arp(1, ROUTER_A, "10.0.0.1", ZERO, "10.0.0.1"))
    assert router.exchange(1, gratuitous(OTHER, "10.0.0.1")) == [announcement]
    assert router.exchange(1, gratuitous(OTHER, "10.0.0.1")) == []
    router.advance(10)
    assert router.exchange(1, gratuitous(OTHER, "10.0.0.1")) == [announcement]
    assert router.drops("a") == {"arp_spoofed": 3}


def test_addresses_are_announced_twice_and_again_when_the_link_returns() -> None:
    announcement = p.ethernet(p.BROADCAST, ROUTER_A, p.ARP, p.arp(1, ROUTER_A, "10.0.0.1", ZERO, "10.0.0.1"))
    with Router([Interface("a", 1, ROUTER_A, ["10.0.0.1/24"])]) as router:
        assert router.receive(1) == [announcement]
        router.advance(1.9)
        assert router.receive(1) == []
        router.advance(0.1)
        assert router.receive(1) == [announcement]
        router.advance(60)
        assert router.receive(1) == []
        router.link(1, up=False)
        router.link(1, up=True)
        assert router.receive(1) == [announcement]


# --- resolving ---


def test_packets_wait_for_the_answer_and_leave_in_order(router: Router) -> None:
    for payload in (b"one", b"two", b"three"):
        router.send(1, to_b(payload))
    assert router.receive(2) == [ASK_B]
    assert router.count("a", "held_packets") == 3
    router.laws()
    assert router.exchange(2, reply_b()) == [out_b(b"one"), out_b(b"two"), out_b(b"three")]
    assert router.count("a", "held_packets") == 0
    assert router.count("a", "forwarded_packets") == 3
    assert router.neighbor_state("10.0.1.2") == "REACHABLE"


def test_a_request_of_the_neighbor_ends_the_wait_too(router: Router) -> None:
    router.send(1, to_b())
    router.receive(2)
    answer = p.ethernet(HOST_B, ROUTER_B, p.ARP, p.arp(2, ROUTER_B, "10.0.1.1", HOST_B, "10.0.1.2"))
    assert sorted(router.exchange(2, request(HOST_B, "10.0.1.2", "10.0.1.1"))) == sorted([out_b(), answer])
    assert router.neighbor_state("10.0.1.2") == "DELAY"


def test_three_requests_a_second_apart_then_host_unreachable(router: Router) -> None:
    router.meet("a", "10.0.0.2", HOST_A)
    packet = p.datagram4("10.0.0.2", "10.0.1.2")
    router.send(1, p.ethernet(ROUTER_A, HOST_A, p.IP4, packet))
    for _ in range(2):
        assert router.receive(2) == [ASK_B]
        router.advance(0.999)
        assert router.receive(2) == []
        router.advance(0.001)
    assert router.receive(2) == [ASK_B]
    router.advance(0.999)
    assert router.receive(1) == []
    router.advance(0.001)
    assert router.receive(2) == []
    (error,) = router.receive(1)
    expected = p.ip4(
        "10.0.0.1",
        "10.0.0.2",
        p.icmp4(3, 1, bytes(4), p.forwarded4(packet)),
        protocol=p.ICMP,
        tos=0xC0,
        identification=0,
    )
    assert error[:14] == HOST_A + ROUTER_A + b"\x08\x00"
    assert p.without_id(error[14:]) == expected
    assert router.drops("a") == {"neighbor_unresolved": 1}
    assert router.neighbor_state("10.0.1.2") == "FAILED"


def test_a_silent_destination_is_left_alone_for_a_second(router: Router) -> None:
    router.send(1, to_b())
    router.advance(3)
    router.receive(2)
    router.send(1, to_b())
    router.advance(0.9)
    assert router.receive(2) == []
    assert router.drops("a") == {"neighbor_unresolved": 2}
    router.advance(0.1)
    assert router.exchange(1, to_b(), out=2) == [ASK_B]
    router.send(2, reply_b())
    assert router.receive(2) == [out_b()]


def test_our_own_packets_fail_in_the_drops_of_the_host(router: Router) -> None:
    router.send(1, p.ethernet(ROUTER_A, HOST_A, p.IP4, p.echo4("10.0.1.77", "10.0.0.1")))
    router.advance(5)
    # The reply is lost, and so is the error about it, which comes back to us.
    assert router.drops()["neighbor_unresolved"] == 1
    assert router.count("a", "punt_packets") == 1


def test_the_queue_keeps_the_most_recent(router: Router) -> None:
    for number in range(20):
        router.send(1, to_b(b"%d" % number))
    assert router.count("a", "held_packets") == 16
    assert router.drops("a") == {"neighbor_queue_full": 4}
    router.send(2, reply_b())
    assert router.receive(2)[1:] == [out_b(b"%d" % number) for number in range(4, 20)]


def test_a_long_packet_starts_the_resolution_but_is_not_held() -> None:
    interfaces = two_sided()
    for interface in interfaces:
        interface.mtu = 9000
    with Router(interfaces) as router:
        router.settle()
        router.send(1, to_b(bytes(4000)))
        assert router.receive(2) == [ASK_B]
        assert router.drops("a") == {"neighbor_queue_full": 1}
        router.send(2, reply_b())
        assert router.exchange(1, to_b(bytes(4000)), out=2) == [out_b(bytes(4000))]


def test_one_request_a_second_however_many_packets(router: Router) -> None:
    for _ in range(100):
        router.send(1, to_b())
        router.advance(0.025)
    assert router.receive(2) == [ASK_B] * 3


# --- ageing ---


def test_a_neighbor_that_is_not_used_becomes_stale_and_is_forgotten(router: Router) -> None:
    resolve_b(router)
    router.advance(15 - 0.001)
    assert router.neighbor_state("10.0.1.2") == "REACHABLE"
    router.advance(30)
    assert router.neighbor_state("10.0.1.2") == "STALE"
    router.advance(601)
    assert router.neighbor_state("10.0.1.2") == "NONE"
    assert router.receive(2) == []


def test_a_used_neighbor_is_probed_and_proves_itself(router: Router) -> None:
    resolve_b(router)
    router.advance(46)
    assert router.exchange(1, to_b(), out=2) == [out_b()]
    assert router.neighbor_state("10.0.1.2") == "DELAY"
    router.advance(4.999)
    assert router.receive(2) == []
    router.advance(0.001)
    assert router.receive(2) == [PROBE_B]
    assert router.neighbor_state("10.0.1.2") == "PROBE"
    assert router.exchange(1, to_b(), out=2) == [out_b()]
    router.send(2, reply_b())
    assert router.neighbor_state("10.0.1.2") == "REACHABLE"


def test_three_unanswered_probes_and_the_next_packet_looks_for_a_new_address(router: Router) -> None:
    resolve_b(router)
    router.advance(46)
    router.send(1, to_b())
    router.receive(2)
    router.advance(8)
    assert router.receive(2) == [PROBE_B] * 3
    assert router.neighbor_state("10.0.1.2") == "FAILED"
    assert router.exchange(1, to_b(), out=2) == [ASK_B]
    assert router.exchange(2, reply_b(OTHER)) == [out_b(mac=OTHER)]


# --- announcements and spoofing ---


def test_an_announcement_of_a_stranger_teaches_nothing(router: Router) -> None:
    router.send(1, gratuitous(HOST_A, "10.0.0.2"))
    assert router.neighbors() == {}
    assert router.drops("a") == {"arp_not_for_us": 1}


def test_an_unsolicited_reply_teaches_nothing(router: Router) -> None:
    router.send(2, reply_b())
    assert router.neighbors() == {}


def test_an_announcement_moves_a_stale_entry(router: Router) -> None:
    router.meet("b", "10.0.1.2", HOST_B)
    router.send(2, gratuitous(OTHER, "10.0.1.2"))
    assert router.neighbors()["10.0.1.2"].octets("mac") == OTHER
    assert router.neighbor_state("10.0.1.2") == "STALE"


@pytest.mark.parametrize(
    "claim", [gratuitous(OTHER, "10.0.1.2"), reply_b(OTHER), request(OTHER, "10.0.1.2", "10.0.1.1")]
)
def test_an_entry_in_use_does_not_move_while_its_owner_answers(router: Router, claim: bytes) -> None:
    resolve_b(router)
    router.send(2, claim)
    assert PROBE_B in router.receive(2)
    assert router.exchange(1, to_b(), out=2) == [out_b()]
    router.send(2, reply_b())
    assert router.neighbor_state("10.0.1.2") == "REACHABLE"
    assert router.exchange(1, to_b(), out=2) == [out_b()]


def test_an_entry_in_use_moves_within_a_second_when_its_owner_is_gone(router: Router) -> None:
    resolve_b(router)
    router.send(2, gratuitous(OTHER, "10.0.1.2"))
    assert router.receive(2) == [PROBE_B]
    router.advance(1)
    assert router.exchange(1, to_b(), out=2) == [ASK_B]
    assert router.exchange(2, reply_b(OTHER)) == [out_b(mac=OTHER)]


# --- floods ---


def sweep(router: Router, addresses: Iterable[str]) -> None:
    for address in addresses:
        router.send(1, to_b(destination=address))


def test_a_sweep_does_not_cost_known_neighbors_a_packet() -> None:
    interfaces = two_sided()
    interfaces[1].addresses[0] = "10.1.0.1/16"
    with Router(interfaces) as router:
        router.settle()
        router.meet("b", "10.1.0.2", HOST_B)
        for high in range(1, 16):
            sweep(router, (f"10.1.{high}.{low}" for low in range(256)))
            router.receive(2)
            packet = p.datagram4("10.0.0.2", "10.1.0.2", b"%d" % high)
            frame = p.ethernet(HOST_B, ROUTER_B, p.IP4, p.forwarded4(packet))
            assert router.exchange(1, p.ethernet(ROUTER_A, HOST_A, p.IP4, packet), out=2) == [frame]
        incomplete = [entry for entry in router.neighbors().values() if entry.integer("state") == 1]
        assert len(incomplete) <= 1024
        router.laws()
        # A new host is found in the middle of it.
        router.send(1, to_b(destination="10.1.200.1"))
        sweep(router, (f"10.1.20.{low}" for low in range(256)))
        router.receive(2)
        router.send(2, p.ethernet(ROUTER_B, OTHER, p.ARP, p.arp(2, OTHER, "10.1.200.1", ROUTER_B, "10.1.0.1")))
        assert len(router.receive(2)) == 1
        router.advance(10)
        router.receive(2)


def test_destinations_that_were_pushed_out_are_asked_for_once_a_second() -> None:
    interfaces = two_sided()
    interfaces[1].addresses[0] = "10.1.0.1/16"
    with Router(interfaces) as router:
        router.settle()
        targets = [f"10.1.{high}.{low}" for high in range(1, 6) for low in range(0, 256, 2)]
        more = [f"10.1.{high}.{low}" for high in range(6, 14) for low in range(256)]
        sweep(router, targets + more + targets)
        asked = [frame[38:42] for frame in router.receive(2)]
        repeated = len(asked) - len(set(asked))
        # Two destinations may share a place in the notes; all of them may not.
        assert repeated < len(targets) / 2
        assert router.drops("a")["neighbor_rate_limited"] > len(targets) / 2


def test_askers_with_forged_addresses_do_not_push_out_neighbors_in_use() -> None:
    interfaces = two_sided()
    interfaces[1].addresses[0] = "10.1.1.1/16"
    with Router(interfaces) as router:
        router.settle()
        router.send(1, to_b(destination="10.1.0.2"))
        router.send(2, p.ethernet(ROUTER_B, HOST_B, p.ARP, p.arp(2, HOST_B, "10.1.0.2", ROUTER_B, "10.1.1.1")))
        assert router.neighbor_state("10.1.0.2") == "REACHABLE"
        for number in range(9000):
            sender = f"10.1.{2 + number // 250}.{number % 250}"
            router.send(2, request(OTHER, sender, "10.1.1.1"))
            if number % 100 == 0:
                router.receive(2)
        assert router.neighbor_state("10.1.0.2") == "REACHABLE"
        assert len(router.neighbors()) <= 8192 * 7 / 8


# --- changes around the table ---


def test_link_down_forgets_the_neighbors_and_drops_what_waits(router: Router) -> None:
    router.meet("b", "10.0.1.3", OTHER)
    router.send(1, to_b())
    router.link(2, up=False)
    assert router.neighbors() == {}
    assert router.drops("a") == {"egress_down": 1}
    router.send(1, to_b())
    assert router.drops("a") == {"egress_down": 2}
    router.link(2, up=True)
    router.receive(2)
    assert router.exchange(1, to_b(), out=2) == [ASK_B]


def test_another_mac_of_ours_forgets_the_neighbors_of_that_interface(router: Router) -> None:
    router.meet("a", "10.0.0.2", HOST_A)
    router.meet("b", "10.0.1.2", HOST_B)
    router.interfaces["b"].mac = OTHER
    router.publish()
    router.advance(0)
    assert router.neighbor_state("10.0.1.2") == "NONE"
    assert router.neighbor_state("10.0.0.2") == "STALE"


def test_another_prefix_forgets_whom_it_no_longer_covers(router: Router) -> None:
    router.meet("b", "10.0.1.2", HOST_B)
    router.meet("b", "2001:db8:b::2", HOST_B)
    router.interfaces["b"].addresses[0] = "10.0.9.1/24"
    router.publish()
    router.advance(0)
    assert set(router.neighbors()) == {"2001:db8:b::2"}


def test_an_interface_that_is_gone_takes_its_neighbors_along(router: Router) -> None:
    router.send(1, to_b())
    router.meet("a", "10.0.0.2", HOST_A)
    saved = router.interfaces["b"]
    router.interfaces["b"] = Interface("b", 9, OTHER, ["10.0.1.1/24"], up=False)
    router.publish()
    router.advance(0)
    assert set(router.neighbors()) == {"10.0.0.2"}
    assert router.drops("a") == {"egress_down": 1}
    router.interfaces["b"] = saved


# --- crashes ---


def test_packets_that_wait_survive_a_crash(router: Router) -> None:
    router.send(1, to_b(b"one"))
    router.send(1, to_b(b"two"))
    router.crash()
    assert router.count("a", "held_packets") == 2
    router.poll()
    router.receive(2)
    assert router.exchange(2, reply_b()) == [out_b(b"one"), out_b(b"two")]
    router.laws()


def test_timers_go_on_after_a_crash(router: Router) -> None:
    router.send(1, to_b())
    router.advance(1.5)
    router.crash()
    router.receive(2)
    router.advance(1.5)
    assert router.receive(2).count(ASK_B) == 1
    assert router.neighbor_state("10.0.1.2") == "FAILED"


def neighbor_bytes(address: str, mac: bytes, state: str, interface: int) -> bytes:
    entry = bytearray(SIZES["neighbor_entry"])
    fields = FIELDS["neighbor_entry"]
    entry[:4] = p.address(address)
    entry[fields["mac"][0] : fields["mac"][0] + 6] = mac
    entry[fields["family"][0]] = 4
    entry[fields["state"][0]] = CONSTANTS[f"NEIGHBOR_{state}"]
    entry[fields["interface"][0]] = interface
    return bytes(entry)


def write_neighbor(router: Router, slot: int, entry: bytes) -> None:
    start = FIELDS["state_segment"]["neighbors"][0]
    os.pwrite(router.state_fd, entry, start + slot * len(entry))
    os.pwrite(router.state_fd, b"\1", FIELDS["state_segment"]["neighbors_used"][0])


@pytest.mark.parametrize("slot", range(0, 8192, 1024))
def test_a_static_entry_never_moves_and_is_found_wherever_it_was_left(router: Router, slot: int) -> None:
    write_neighbor(router, slot, neighbor_bytes("10.0.1.2", HOST_B, "STATIC", 2))
    router.crash()
    router.poll()
    router.receive(2)
    assert router.exchange(1, to_b(), out=2) == [out_b()]
    for claim in (gratuitous(OTHER, "10.0.1.2"), reply_b(OTHER), request(OTHER, "10.0.1.2", "10.0.1.1")):
        router.send(2, claim)
    router.advance(1000)
    router.receive(2)
    assert router.exchange(1, to_b(), out=2) == [out_b()]
    router.link(2, up=False)
    router.link(2, up=True)
    assert router.neighbor_state("10.0.1.2") == "STATIC"


@pytest.mark.parametrize("seed", range(5))
def test_a_damaged_table_is_survived(router: Router, seed: int) -> None:
    rng = random.Random(seed)
    for number in range(40):
        router.send(1, to_b(destination=f"10.0.1.{number + 2}"))
    size = SIZES["neighbor_entry"]
    for slot in range(8192):
        if rng.random() < 0.3:
            write_neighbor(router, slot, rng.randbytes(size))
    os.pwrite(router.state_fd, b"\xff" * 8, FIELDS["state_segment"]["neighbors_used"][0])
    router.crash()
    router.laws()
    for number in range(40):
        router.send(1, to_b(destination=f"10.0.1.{number + 2}"))
    router.advance(100)
    router.receive(2)


def test_reachable_time_is_spread(router: Router) -> None:
    for number in range(2, 42):
        router.send(1, to_b(destination=f"10.0.1.{number}"))
        router.send(2, reply_b(HOST_B, f"10.0.1.{number}"))
    times = sorted(entry.integer("deadline_ns") - router.now for entry in router.neighbors().values())
    assert times[0] >= 15 * SECOND
    assert times[-1] < 45 * SECOND
    assert times[-1] - times[0] > 15 * SECOND
    assert all(first != second for first, second in pairwise(times))
