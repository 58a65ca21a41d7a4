"""Neighbor discovery and duplicate address detection: RFC 4861 section 7, RFC 4862 section 5.4."""

from __future__ import annotations

import pytest

from fastpath._layout import CONSTANTS
from tests.unit import packets as p
from tests.unit.harness import HOST_A, HOST_B, OTHER, ROUTER_A, ROUTER_B, Interface, Router, two_sided

US_A = "2001:db8:a::1"
PEER_A = "2001:db8:a::2"
PEER_B = "2001:db8:b::2"
ALL_NODES = "ff02::1"


def frame(destination_mac: bytes, source_mac: bytes, packet: bytes) -> bytes:
    return p.ethernet(destination_mac, source_mac, p.IP6, packet)


def solicitation(source: str, target: str, mac: bytes | None = HOST_A, **changes: object) -> bytes:
    group = p.solicited_node(target)
    options = b"" if mac is None else p.link_option(1, mac)
    packet = p.neighbor_message(p.NS, source, group, target, **{"options": options, **changes})  # type: ignore[arg-type]
    return frame(p.group_mac(group), HOST_A, packet)


def advertisement(mac: bytes | None, flags: int, target: str = PEER_B, destination: str = "fe80::b") -> bytes:
    options = b"" if mac is None else p.link_option(2, mac)
    packet = p.neighbor_message(p.NA, target, destination, target, flags=flags, options=options)
    to = p.group_mac(destination) if destination.startswith("ff") else ROUTER_B
    return frame(to, HOST_B, packet)


def to_b(payload: bytes = b"payload") -> bytes:
    return frame(ROUTER_A, HOST_A, p.datagram6(PEER_A, PEER_B, payload))


def out_b(payload: bytes = b"payload", mac: bytes = HOST_B) -> bytes:
    return frame(mac, ROUTER_B, p.forwarded6(p.datagram6(PEER_A, PEER_B, payload)))


GROUP_B = p.solicited_node(PEER_B)
ASK_B = frame(
    p.group_mac(GROUP_B),
    ROUTER_B,
    p.neighbor_message(p.NS, "fe80::b", GROUP_B, PEER_B, options=p.link_option(1, ROUTER_B)),
)
PROBE_B = frame(
    HOST_B, ROUTER_B, p.neighbor_message(p.NS, "fe80::b", PEER_B, PEER_B, options=p.link_option(1, ROUTER_B))
)


def answer(destination: str, mac: bytes, flags: int, target: str = US_A) -> bytes:
    packet = p.neighbor_message(p.NA, target, destination, target, flags=flags, options=p.link_option(2, ROUTER_A))
    return frame(mac, ROUTER_A, packet)


def resolve_b(router: Router) -> None:
    router.send(1, to_b())
    router.send(2, advertisement(HOST_B, p.SOLICITED | p.OVERRIDE))
    assert router.receive(2) == [ASK_B, out_b()]
    assert router.neighbor_state(PEER_B) == "REACHABLE"


# --- answering ---


def test_a_solicitation_is_answered_and_the_asker_learned(router: Router) -> None:
    expected = answer(PEER_A, HOST_A, p.ROUTER | p.SOLICITED | p.OVERRIDE)
    assert router.exchange(1, solicitation(PEER_A, US_A)) == [expected]
    assert router.neighbor_state(PEER_A) == "STALE"
    assert router.count("a", "punt_packets") == 1


def test_a_unicast_solicitation_without_option_is_answered_by_way_of_resolution(router: Router) -> None:
    packet = p.neighbor_message(p.NS, PEER_A, US_A, US_A)
    group = p.solicited_node(PEER_A)
    ask = p.neighbor_message(p.NS, US_A, group, PEER_A, options=p.link_option(1, ROUTER_A))
    assert router.exchange(1, frame(ROUTER_A, HOST_A, packet)) == [frame(p.group_mac(group), ROUTER_A, ask)]
    reply = p.neighbor_message(
        p.NA, PEER_A, US_A, PEER_A, flags=p.SOLICITED | p.OVERRIDE, options=p.link_option(2, HOST_A)
    )
    expected = answer(PEER_A, HOST_A, p.ROUTER | p.SOLICITED | p.OVERRIDE)
    assert router.exchange(1, frame(ROUTER_A, HOST_A, reply)) == [expected]


def test_detection_by_others_of_our_address_is_answered_to_all_nodes(router: Router) -> None:
    expected = answer(ALL_NODES, p.group_mac(ALL_NODES), p.ROUTER | p.OVERRIDE)
    assert router.exchange(1, solicitation("::", US_A, None)) == [expected]
    assert router.neighbors() == {}


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (solicitation(PEER_A, US_A, hop_limit=254), "nd_hop_limit"),
        (solicitation("::", US_A, HOST_A), "nd_malformed"),
        (solicitation(PEER_A, US_A, options=b"\1\0" + HOST_A), "nd_malformed"),
        (solicitation(PEER_A, US_A, options=b"\1\2" + HOST_A), "nd_malformed"),
        (solicitation(PEER_A, US_A, options=b"\1"), "nd_malformed"),
        (solicitation(PEER_A, US_A, options=b"\1\2" + HOST_A + bytes(8)), "nd_malformed"),
        (solicitation(PEER_A, US_A, b"\x33" * 6), "nd_malformed"),
        (solicitation(PEER_A, US_A, bytes(6)), "nd_malformed"),
    ],
)
def test_refused_solicitations(router: Router, packet: bytes, reason: str) -> None:
    assert router.exchange(1, packet) == []
    assert router.drops("a") == {reason: 1}
    assert router.neighbors() == {}


def test_unknown_options_are_passed_over(router: Router) -> None:
    packet = solicitation(PEER_A, US_A, options=b"\xfd\2" + bytes(14) + p.link_option(1, HOST_A))
    assert len(router.exchange(1, packet)) == 1
    assert router.neighbors()[PEER_A].octets("mac") == HOST_A


def raw_message(kind: int, code: int, body: bytes, destination: str = ALL_NODES) -> bytes:
    message = p.icmp6("fe80::99", destination, kind, code, bytes(4), body)
    packet = p.ip6("fe80::99", destination, message, protocol=p.ICMP6, hop_limit=255)
    return frame(p.group_mac(destination), HOST_A, packet)


@pytest.mark.parametrize("kind", [133, 134, 137])
def test_what_routers_and_hosts_tell_each_other_is_ignored(router: Router, kind: int) -> None:
    assert router.exchange(1, raw_message(kind, 0, bytes(32))) == []
    assert router.drops("a") == {"icmp_ignored": 1}


@pytest.mark.parametrize(
    ("kind", "code", "body"),
    [
        (p.NS, 1, p.address(US_A)),
        (p.NS, 0, p.address(US_A)[:15]),
        (p.NS, 0, p.address("ff02::1")),
        (p.NA, 0, p.address("ff02::1")),
        (p.NA, 0, b""),
    ],
)
def test_malformed_bodies(router: Router, kind: int, code: int, body: bytes) -> None:
    assert router.exchange(1, raw_message(kind, code, body)) == []
    assert router.drops("a") == {"nd_malformed": 1}


def test_a_wrong_checksum(router: Router) -> None:
    packet = bytearray(solicitation(PEER_A, US_A))
    packet[-1] ^= 1
    assert router.exchange(1, bytes(packet)) == []
    assert router.drops("a") == {"icmp_checksum": 1}


def test_fragmented_discovery_is_refused(router: Router) -> None:
    group = p.solicited_node(US_A)
    whole = p.neighbor_message(p.NS, PEER_A, group, US_A, options=p.link_option(1, HOST_A))[40:]
    pieces = [(whole[:16], 0x0001), (whole[16:], 16)]
    for body, word in pieces:
        header = bytes((p.ICMP6, 0)) + word.to_bytes(2, "big") + b"\0\0\0\7"
        packet = p.ip6(PEER_A, group, header + body, protocol=44, hop_limit=255)
        router.send(1, frame(p.group_mac(group), HOST_A, packet))
    assert router.receive(1) == []
    assert router.neighbors() == {}


def test_our_own_address_as_a_source(router: Router) -> None:
    assert router.exchange(1, solicitation("fe80::a", US_A)) == []
    assert router.drops("a") == {"arp_spoofed": 1}


def test_targets_of_others(router: Router) -> None:
    for target in ("2001:db8:b::1", PEER_A):
        group = p.solicited_node(US_A)
        packet = p.neighbor_message(p.NS, "fe80::99", group, target, options=p.link_option(1, HOST_A))
        assert router.exchange(1, frame(p.group_mac(group), HOST_A, packet)) == []
    assert router.drops("a") == {"nd_not_for_us": 2}


# --- resolving ---


def test_three_solicitations_then_address_unreachable(router: Router) -> None:
    router.meet("a", PEER_A, HOST_A)
    packet = p.datagram6(PEER_A, PEER_B)
    router.send(1, frame(ROUTER_A, HOST_A, packet))
    router.advance(2.999)
    assert router.receive(2) == [ASK_B] * 3
    assert router.receive(1) == []
    router.advance(0.001)
    message = p.icmp6(US_A, PEER_A, 1, 3, bytes(4), p.forwarded6(packet))
    expected = frame(HOST_A, ROUTER_A, p.ip6(US_A, PEER_A, message, protocol=p.ICMP6))
    assert router.receive(1) == [expected]
    assert router.drops("a") == {"neighbor_unresolved": 1}


def test_packets_wait_for_the_advertisement(router: Router) -> None:
    router.send(1, to_b(b"one"))
    router.send(1, to_b(b"two"))
    assert router.exchange(2, advertisement(HOST_B, p.SOLICITED)) == [ASK_B, out_b(b"one"), out_b(b"two")]
    assert router.neighbors()[PEER_B].integer("flags") == 0


def test_probes_are_unicast_and_an_answer_without_option_is_proof(router: Router) -> None:
    resolve_b(router)
    router.advance(46)
    router.send(1, to_b())
    router.advance(5)
    assert router.receive(2) == [out_b(), PROBE_B]
    router.send(2, advertisement(None, p.SOLICITED | p.ROUTER))
    assert router.neighbor_state(PEER_B) == "REACHABLE"
    assert router.neighbors()[PEER_B].integer("flags") == 1


# Section 7.2.5, appendix C; what is in use is asked first instead of moved.
@pytest.mark.parametrize(
    ("before", "mac", "flags", "after", "moved"),
    [
        ("INCOMPLETE", None, p.SOLICITED, "INCOMPLETE", False),
        ("INCOMPLETE", OTHER, p.SOLICITED, "REACHABLE", True),
        ("INCOMPLETE", OTHER, p.OVERRIDE, "DELAY", True),
        ("STALE", HOST_B, p.SOLICITED, "REACHABLE", False),
        ("STALE", HOST_B, p.OVERRIDE, "STALE", False),
        ("STALE", OTHER, 0, "STALE", False),
        ("STALE", OTHER, p.OVERRIDE, "STALE", True),
        ("STALE", OTHER, p.OVERRIDE | p.SOLICITED, "STALE", True),
        ("REACHABLE", HOST_B, p.OVERRIDE, "REACHABLE", False),
        ("REACHABLE", OTHER, 0, "STALE", False),
        ("REACHABLE", OTHER, p.SOLICITED, "STALE", False),
        ("REACHABLE", OTHER, p.OVERRIDE, "PROBE", False),
        ("REACHABLE", OTHER, p.OVERRIDE | p.SOLICITED, "PROBE", False),
    ],
)
def test_advertisements(router: Router, before: str, mac: bytes | None, flags: int, after: str, moved: bool) -> None:
    if before == "STALE":
        router.meet("b", PEER_B, HOST_B)
    elif before == "REACHABLE":
        resolve_b(router)
    else:
        router.send(1, to_b())
    assert router.neighbor_state(PEER_B) == before
    router.send(2, advertisement(mac, flags))
    assert router.neighbor_state(PEER_B) == after
    assert (router.neighbors()[PEER_B].octets("mac") == OTHER) == moved


def test_an_advertisement_of_a_stranger_teaches_nothing(router: Router) -> None:
    router.send(2, advertisement(HOST_B, p.OVERRIDE, destination=ALL_NODES))
    assert router.neighbors() == {}
    assert router.drops("b") == {"nd_not_for_us": 1}


def test_a_solicited_advertisement_to_a_group_is_malformed(router: Router) -> None:
    router.send(2, advertisement(HOST_B, p.SOLICITED, destination=ALL_NODES))
    assert router.drops("b") == {"nd_malformed": 1}


# --- our own addresses ---

PROBE = frame(
    p.group_mac(p.solicited_node(US_A)), ROUTER_A, p.neighbor_message(p.NS, "::", p.solicited_node(US_A), US_A)
)
ANNOUNCEMENT = frame(
    p.group_mac(ALL_NODES),
    ROUTER_A,
    p.neighbor_message(p.NA, US_A, ALL_NODES, US_A, flags=p.ROUTER | p.OVERRIDE, options=p.link_option(2, ROUTER_A)),
)
PING = frame(ROUTER_A, HOST_A, p.echo6(PEER_A, US_A))


def single() -> Router:
    return Router([Interface("a", 1, ROUTER_A, ["2001:db8:a::1/64"])])


def dad_state(router: Router) -> int:
    return router.state.view("dad", 0).integer("state")


def test_an_address_is_probed_for_a_second_and_announced() -> None:
    with single() as router:
        assert router.receive(1) == [PROBE]
        assert dad_state(router) == CONSTANTS["DAD_TENTATIVE"]
        router.advance(0.999)
        assert router.exchange(1, PING) == []
        assert router.drops("a") == {"duplicate_address": 1}
        router.advance(0.001)
        assert router.receive(1) == [ANNOUNCEMENT]
        router.send(1, PING)
        assert router.count("a", "punt_packets") == 1


def test_without_detection_it_is_usable_and_announced_at_once() -> None:
    with Router([Interface("a", 1, ROUTER_A, ["2001:db8:a::1/64"], dad=False)]) as router:
        assert router.receive(1) == [ANNOUNCEMENT]
        router.send(1, PING)
        assert router.count("a", "punt_packets") == 1


DUPLICATES = [
    solicitation("::", US_A, None),
    frame(
        p.group_mac(ALL_NODES),
        HOST_A,
        p.neighbor_message(p.NA, US_A, ALL_NODES, US_A, flags=p.OVERRIDE, options=p.link_option(2, HOST_A)),
    ),
]


@pytest.mark.parametrize("sign", DUPLICATES)
def test_a_duplicate_is_never_used(sign: bytes) -> None:
    with single() as router:
        router.receive(1)
        assert router.exchange(1, sign) == []
        assert dad_state(router) == CONSTANTS["DAD_DUPLICATE"]
        router.advance(10)
        assert router.exchange(1, PING) == []
        assert router.exchange(1, solicitation(PEER_A, US_A)) == []
        assert router.drops("a") == {"duplicate_address": 2, "nd_not_for_us": 1}
        router.crash()
        router.advance(10)
        assert dad_state(router) == CONSTANTS["DAD_DUPLICATE"]
        assert router.receive(1) == []


def test_resolution_by_others_is_no_sign_of_a_duplicate() -> None:
    with single() as router:
        router.receive(1)
        assert router.exchange(1, solicitation(PEER_A, US_A)) == []
        router.advance(1)
        assert router.receive(1) == [ANNOUNCEMENT]


def test_a_claim_on_a_valid_address_is_counted_and_answered(router: Router) -> None:
    assert router.exchange(1, DUPLICATES[1]) == [ANNOUNCEMENT]
    assert router.exchange(1, DUPLICATES[1]) == []
    assert router.drops("a") == {"arp_spoofed": 2}
    assert len(router.exchange(1, solicitation(PEER_A, US_A))) == 1


def test_a_valid_address_stays_valid_over_a_crash() -> None:
    with single() as router:
        router.advance(5)
        router.receive(1)
        router.crash()
        router.poll()
        assert router.receive(1) == [ANNOUNCEMENT]
        router.send(1, PING)
        assert router.count("a", "punt_packets") == 1


def test_detection_waits_for_the_carrier_and_begins_anew() -> None:
    with single() as router:
        router.receive(1)
        router.advance(0.5)
        router.link(1, up=False)
        router.advance(10)
        assert dad_state(router) == CONSTANTS["DAD_TENTATIVE"]
        router.link(1, up=True)
        assert router.receive(1) == [PROBE]
        router.advance(1)
        assert router.receive(1) == [ANNOUNCEMENT]


def test_addresses_come_and_go() -> None:
    with Router(two_sided()) as router:
        router.settle()
        router.interfaces["a"].addresses = ["10.0.0.1/24", "2001:db8:a::5/64", "fe80::a/64"]
        router.publish()
        router.advance(0)
        group = p.solicited_node("2001:db8:a::5")
        probe = frame(p.group_mac(group), ROUTER_A, p.neighbor_message(p.NS, "::", group, "2001:db8:a::5"))
        assert router.receive(1) == [probe]
        router.advance(1)
        assert len(router.receive(1)) == 1
        assert router.exchange(1, solicitation(PEER_A, US_A)) == []
        assert len(router.exchange(1, solicitation(PEER_A, "2001:db8:a::5"))) == 1
