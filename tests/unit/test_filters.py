"""What lists, reverse-path checks, marks and counted prefixes do to packets that pass a router."""

from __future__ import annotations

import struct

import pytest

from fastpath import filters as published
from fastpath.tables import TableWriter
from tests.unit import packets as p
from tests.unit.filter_world import Filters
from tests.unit.harness import HOST_A, HOST_B, ROUTER_A, ROUTER_B, Hop, Router, two_sided
from vrouter.config.acl import AclBinding, AclEntry, DscpMarks, Rpf

PERMIT = AclEntry(action="permit")
PROHIBITED4, PROHIBITED6 = (3, 13), (1, 1)


@pytest.fixture(name="filters")
def _filters(router: Router) -> Filters:
    router.meet("b", "10.0.1.2", HOST_B)
    router.meet("b", "2001:db8:b::2", HOST_B)
    router.meet("a", "10.0.0.2", HOST_A)
    router.meet("a", "2001:db8:a::2", HOST_A)
    return Filters(router)


def in_a(packet: bytes, source: bytes = HOST_A) -> bytes:
    return p.ethernet(ROUTER_A, source, p.IP4 if packet[0] >> 4 == 4 else p.IP6, packet)


def udp4(source: str = "10.0.0.2", destination: str = "10.0.1.2", dport: int = 2000, tos: int = 0) -> bytes:
    return p.ip4(source, destination, p.udp(source, destination, dport=dport), tos=tos)


def udp6(source: str = "2001:db8:a::2", destination: str = "2001:db8:b::2", dport: int = 2000, tos: int = 0) -> bytes:
    return p.ip6(source, destination, p.udp(source, destination, dport=dport), traffic_class=tos)


def passes(router: Router, packet: bytes) -> bool:
    return len(router.exchange(1, in_a(packet), out=2)) == 1


def test_first_match_decides_and_the_end_denies(filters: Filters) -> None:
    router = filters.router
    entries = (
        AclEntry(action="deny", destination_port=((53, 53),), protocol=(17,)),
        AclEntry(action="permit", protocol=(17,)),
    )
    filters.set({"in": entries}, a={"acl": AclBinding(in_="in")})
    for make in (udp4, udp6):
        assert passes(router, make())
        assert not passes(router, make(dport=53))
    assert not passes(router, p.echo4("10.0.0.2", "10.0.1.2"))
    assert filters.hits("in") == [2, 2, 1]
    assert router.drops("a") == {"acl_in": 3}


def test_reject_tells_the_sender(filters: Filters) -> None:
    router = filters.router
    filters.set({"no": (AclEntry(action="reject"),)}, a={"acl": AclBinding(in_="no")})
    for packet, at, wanted in ((udp4(), 34, PROHIBITED4), (udp6(), 54, PROHIBITED6)):
        (answer,) = router.exchange(1, in_a(packet))
        assert (answer[at], answer[at + 1]) == wanted
        assert packet in answer
    filters.set({"no": (AclEntry(action="reject"),)}, b={"acl": AclBinding(out="no")})
    for packet, at, wanted in ((udp4(dport=7), 34, PROHIBITED4), (udp6(dport=7), 54, PROHIBITED6)):
        (answer,) = router.exchange(1, in_a(packet))
        assert (answer[at], answer[at + 1]) == wanted
    assert router.drops("a") == {"acl_in": 2, "acl_out": 2}


def test_egress_lists_are_for_transit(filters: Filters) -> None:
    router = filters.router
    filters.set({"none": ()}, b={"acl": AclBinding(out="none")})
    assert not passes(router, udp4())
    assert router.drops("a") == {"acl_out": 1}
    # Our own answer leaves by b.
    echo = p.ethernet(ROUTER_B, HOST_B, p.IP4, p.echo4("10.0.1.2", "10.0.1.1"))
    assert len(router.exchange(2, echo)) == 1
    assert filters.hits("none") == [1]


def test_ingress_lists_are_for_what_is_ours_too(filters: Filters) -> None:
    router = filters.router
    filters.set({"none": ()}, a={"acl": AclBinding(in_="none")})
    assert router.exchange(1, in_a(p.echo4("10.0.0.2", "10.0.0.1"))) == []
    assert router.exchange(1, in_a(p.echo6("2001:db8:a::2", "2001:db8:a::1"))) == []
    assert router.drops("a") == {"acl_in": 2}


def test_neighbors_are_found_behind_any_list(filters: Filters) -> None:
    router = filters.router
    filters.set({"none": ()}, a={"acl": AclBinding(in_="none")})
    router.meet("a", "2001:db8:a::77", HOST_A)
    router.meet("a", "10.0.0.77", HOST_A)
    denied = (AclEntry(action="deny", protocol=(58,), icmp_type=("neighbor-solicitation",)), PERMIT)
    filters.set({"none": denied}, a={"acl": AclBinding(in_="none")})
    with pytest.raises(AssertionError):
        router.meet("a", "2001:db8:a::78", HOST_A)


def test_fragments(filters: Filters) -> None:
    """RFC 1858 section 3, RFC 3128: what has no transport header matches what asks for none."""
    router = filters.router
    web = AclEntry(action="permit", protocol=(6,), destination_port=((80, 80),))
    filters.set({"web": (web,)}, a={"acl": AclBinding(in_="web")})
    tcp = b"\x10\x00\x00\x50" + bytes(8) + b"\x50\x02" + bytes(6)

    def piece(payload: bytes, fragment: int, protocol: int = 6) -> bytes:
        return p.ip4("10.0.0.2", "10.0.1.2", payload, protocol=protocol, fragment=fragment)

    assert passes(router, piece(tcp + bytes(4), 0x2000))
    assert not passes(router, piece(bytes(24), 3))
    filters.set({"web": (web, AclEntry(action="permit", fragments=True))}, a={"acl": AclBinding(in_="web")})
    assert passes(router, piece(bytes(24), 3))
    assert not passes(router, piece(bytes(24), 1))  # over the flags
    assert passes(router, piece(bytes(24), 1, protocol=17))
    filters.set({"web": (PERMIT,)}, a={"acl": AclBinding(in_="web")})
    assert not passes(router, piece(tcp[:8], 0x2000))  # flags in the next piece
    assert not passes(router, piece(bytes(24), 1))
    assert passes(router, piece(tcp + bytes(4), 0x2000))
    assert passes(router, piece(tcp[:8], 0))  # whole, and useless


def test_a_first_fragment_that_leaves_its_transport_header_to_others(filters: Filters) -> None:
    """RFC 7112 section 5: behind extension headers, or in a fragment of a fragment, what a list denies could hide."""
    router = filters.router
    denied = AclEntry(action="deny", protocol=(17,), destination_port=((53, 53),))
    filters.set({"dns": (denied, PERMIT)}, a={"acl": AclBinding(in_="dns")})
    first, whole = struct.pack(">HI", 1, 7), struct.pack(">HI", 0, 7)
    padding = bytes((17, 0, 1, 4, 0, 0, 0, 0))
    syn = struct.pack(">HHI", 1000, 80, 1)

    def piece(body: bytes) -> bytes:
        return p.ip6("2001:db8:a::2", "2001:db8:b::2", body, protocol=44)

    assert passes(router, piece(bytes((60, 0)) + first + padding + struct.pack(">HHHH", 1, 80, 24, 0)))
    assert not passes(router, piece(bytes((60, 0)) + first + padding))
    assert not passes(router, piece(bytes((17, 0)) + first))
    assert not passes(router, piece(bytes((44, 0)) + first + bytes((17, 0)) + whole))
    assert not passes(router, piece(bytes((44, 0)) + first + bytes((6, 0)) + whole + syn))


def test_super_packets_meet_a_list_once(filters: Filters) -> None:
    router = filters.router
    filters.set(
        {"web": (AclEntry(action="permit", protocol=(6,), destination_port=((80, 80),), set_dscp=46),)},
        a={"acl": AclBinding(in_="web")}, b={"acl": AclBinding(out="web")},
    )  # fmt: skip
    tcp = b"\x10\x00\x00\x50" + bytes(8) + b"\x50\x10" + bytes(6) + bytes(4000)
    packet = p.ip4("10.0.0.2", "10.0.1.2", tcp, protocol=6)
    # flags NEEDS_CSUM, gso_type TCPV4, hdr_len, gso_size, csum_start, csum_offset
    vnet = bytes((1, 1)) + b"".join(value.to_bytes(2, "little") for value in (54, 1000, 34, 16))
    router.send(1, in_a(packet), vnet=vnet)
    (frame,) = router.receive(2)
    assert frame[15] >> 2 == 46
    assert p.checksum(frame[14:34]) == 0
    assert filters.hits("web") == [2, 0]


def test_a_change_keeps_the_counts_of_what_stays(filters: Filters) -> None:
    router = filters.router
    dns = AclEntry(action="permit", protocol=(17,), destination_port=((53, 53),))
    rest = AclEntry(action="deny", name="rest")
    filters.set({"in": (dns, rest)}, a={"acl": AclBinding(in_="in")})
    passes(router, udp4(dport=53))
    passes(router, udp4())
    assert filters.hits("in") == [1, 1, 0]
    ping = AclEntry(action="permit", protocol=(1,))
    filters.set({"in": (ping, dns, AclEntry(action="deny", name="renamed"))}, a={"acl": AclBinding(in_="in")})
    passes(router, p.echo4("10.0.0.2", "10.0.1.2"))
    assert filters.hits("in") == [1, 1, 1, 0]
    filters.restart()
    filters.set({"in": (rest, ping, dns)}, a={"acl": AclBinding(in_="in")})
    router.crash()
    router.poll()
    passes(router, udp4())
    assert filters.hits("in") == [2, 1, 1, 0]
    filters.set({"in": (rest, ping, dns)}, clears={"in": 1}, a={"acl": AclBinding(in_="in")})
    assert filters.hits("in") == [0, 0, 0, 0]
    passes(router, udp4())
    filters.set({"in": (rest, ping, dns)}, clears={"in": 1}, a={"acl": AclBinding(in_="in")})
    assert filters.hits("in") == [1, 0, 0, 0]


def test_lists_go(filters: Filters) -> None:
    router = filters.router
    filters.set({"none": ()}, a={"acl": AclBinding(in_="none")})
    assert not passes(router, udp4())
    filters.set()
    assert passes(router, udp4())
    assert filters.look().lists == ()
    # The features of an interface are published after what they refer to, and withdrawn after it.
    filters.set({"none": ()}, a={"acl": AclBinding(in_="none")})
    features = router.interfaces["a"].features
    filters.set()
    router.interfaces["a"].features = features
    router.publish()
    assert passes(router, udp4())


def test_equal_entries_count_apart(filters: Filters) -> None:
    filters.set({"in": (PERMIT, PERMIT)}, a={"acl": AclBinding(in_="in")})
    assert passes(filters.router, udp4())
    assert filters.hits("in") == [1, 0, 0]


# --- reverse path ---

ROUTES = {
    "198.51.100.0/24": [Hop("10.0.1.2", "b")],
    "203.0.113.0/24": [Hop("10.0.0.2", "a"), Hop("10.0.1.2", "b")],
    "203.0.113.128/25": [Hop(kind="NEXTHOP_BLACKHOLE")],
    "2001:db8:51::/48": [Hop("2001:db8:b::2", "b")],
    "2001:db8:52::/48": [Hop("2001:db8:a::2", "a"), Hop("2001:db8:b::2", "b")],
}
DEFAULTS = {"0.0.0.0/0": [Hop("10.0.0.2", "a")], "::/0": [Hop("2001:db8:a::2", "a")]}
STRANGER4, STRANGER6 = "8.8.8.8", "2620:fe::fe"


def _sources(router: Router) -> dict[str, bool]:
    found = {}
    for source in ("10.0.0.9", "10.0.1.9", "198.51.100.1", "203.0.113.1", "203.0.113.200", STRANGER4):
        found[source] = passes(router, udp4(source))
    for source in ("2001:db8:a::9", "2001:db8:51::1", "2001:db8:52::1", STRANGER6):
        found[source] = passes(router, udp6(source))
    return found


@pytest.mark.parametrize("default", [False, True])
@pytest.mark.parametrize(
    ("mode", "allow", "strangers"),
    [("strict", None, True), ("strict", False, False), ("loose", None, False), ("loose", True, True)],
)
def test_reverse_path(*, mode: str, allow: bool | None, strangers: bool, default: bool) -> None:
    """RFC 3704 sections 2.2 and 2.4; any hop of an ECMP group will do."""
    with Router(two_sided(), {**ROUTES, **(DEFAULTS if default else {})}) as router:
        router.settle()
        router.meet("b", "10.0.1.2", HOST_B)
        router.meet("b", "2001:db8:b::2", HOST_B)
        filters = Filters(router)
        filters.set(a={"rpf": Rpf(mode=mode, allow_default=allow)})  # type: ignore[arg-type]
        behind_b = mode == "loose"
        expected = {
            "10.0.0.9": True, "10.0.1.9": behind_b, "198.51.100.1": behind_b, "203.0.113.1": True,
            "203.0.113.200": False, STRANGER4: strangers and default,
            "2001:db8:a::9": True, "2001:db8:51::1": behind_b, "2001:db8:52::1": True,
            STRANGER6: strangers and default,
        }  # fmt: skip
        assert _sources(router) == expected
        assert router.drops("a") == {"rpf": list(expected.values()).count(False)}
        router.laws()


def test_reverse_path_default_with_shared_hops() -> None:
    """A route with the hops of the default route is another route."""
    routes = {"0.0.0.0/0": [Hop("10.0.0.2", "a")], "8.8.0.0/16": [Hop("10.0.0.2", "a")]}
    with Router(two_sided(), routes) as router:
        router.settle()
        router.meet("b", "10.0.1.2", HOST_B)
        Filters(router).set(a={"rpf": Rpf(mode="strict", allow_default=False)})
        assert passes(router, udp4("8.8.8.8"))
        assert not passes(router, udp4("8.9.8.8"))


def test_reverse_path_of_link_and_nobody(filters: Filters) -> None:
    """Duplicate address detection and link-local sources pass; so does DHCP, up to who listens."""
    router = filters.router
    filters.set(a={"rpf": Rpf(mode="strict")})
    target = "2001:db8:a::1"
    detection = p.neighbor_message(p.NS, "::", p.solicited_node(target), target)
    frame = p.ethernet(p.group_mac(p.solicited_node(target)), HOST_A, p.IP6, detection)
    assert len(router.exchange(1, frame)) == 1  # we defend our address
    assert len(router.exchange(1, in_a(p.echo6("fe80::2", "fe80::a")))) >= 1
    discover = p.ip4("0.0.0.0", "255.255.255.255", p.udp("0.0.0.0", "255.255.255.255", dport=67))
    router.exchange(1, p.ethernet(p.BROADCAST, HOST_A, p.IP4, discover))
    assert "rpf" not in router.drops("a")


# --- marks ---


@pytest.mark.parametrize("ecn", range(4))
def test_marks(filters: Filters, ecn: int) -> None:
    router = filters.router
    filters.set(a={"dscp": DscpMarks(in_=((46, 46), (10, 12), (-1, 0)))}, b={"dscp": DscpMarks(out=((46, 44),))})
    for before, after in ((46, 44), (10, 12), (0, 0), (63, 0)):
        for make in (udp4, udp6):
            (frame,) = router.exchange(1, in_a(make(tos=before << 2 | ecn)), out=2)
            word = int.from_bytes(frame[14:16], "big")
            value = word & 0xFF if make is udp4 else word >> 4 & 0xFF
            assert (value >> 2, value & 3) == (after, ecn)
            assert make is udp6 or p.checksum(frame[14:34]) == 0


def test_a_list_marks_before_the_interface(filters: Filters) -> None:
    router = filters.router
    entries = (AclEntry(action="permit", protocol=(17,), destination_port=((53, 53),), set_dscp=48), PERMIT)
    filters.set({"in": entries}, a={"acl": AclBinding(in_="in"), "dscp": DscpMarks(in_=((-1, 8),))})
    assert [router.exchange(1, in_a(udp4(dport=port)), out=2)[0][15] >> 2 for port in (53, 54)] == [48, 8]
    filters.set({"in": entries}, a={"acl": AclBinding(in_="in")})
    assert [router.exchange(1, in_a(udp4(dport=port)), out=2)[0][15] >> 2 for port in (53, 54)] == [48, 0]


def test_own_packets_keep_their_mark(filters: Filters) -> None:
    router = filters.router
    filters.set(b={"dscp": DscpMarks(out=((-1, 8),))})
    echo = p.ethernet(ROUTER_B, HOST_B, p.IP4, p.echo4("10.0.1.2", "10.0.1.1"))
    (answer,) = router.exchange(2, echo)
    assert answer[15] == 0


# --- counted prefixes ---


def test_counted_prefixes(filters: Filters) -> None:
    router = filters.router
    filters.set(counters=("10.0.0.0/8", "10.0.1.0/24", "0.0.0.0/0", "2001:db8:b::/64", "2001:db8:b::2/128"))
    assert passes(router, udp4())
    assert passes(router, udp6())
    router.exchange(1, in_a(p.echo4("10.0.0.2", "10.0.0.1")))  # for us: not forwarded
    assert filters.counted() == {
        "0.0.0.0/0": (0, 0),
        "10.0.0.0/8": (0, 0),
        "10.0.1.0/24": (1, len(udp4())),
        "2001:db8:b::/64": (0, 0),
        "2001:db8:b::2/128": (1, len(udp6())),
    }
    filters.set(counters=("10.0.1.0/24", "10.0.1.2/32"))
    assert passes(router, udp4())
    assert filters.counted() == {"10.0.1.0/24": (1, len(udp4())), "10.0.1.2/32": (1, len(udp4()))}
    filters.set()
    assert passes(router, udp4())
    assert filters.counted() == {}


def test_a_broken_block_lets_nothing_pass(filters: Filters) -> None:
    """A forwarder that finds a list it cannot believe, and has never seen another one, denies."""
    router = filters.router
    filters.set({"in": (PERMIT,)}, a={"acl": AclBinding(in_="in")})
    assert passes(router, udp4())
    filters.damage()
    router.poll()
    assert passes(router, udp4())  # by the list that it has
    router.crash()
    router.poll()
    assert not passes(router, udp4())
    assert router.drops("a")["acl_in"] == 1


def test_a_writer_that_comes_back_keeps_what_is_sound(filters: Filters) -> None:
    """What a dead writer has published stays; what is damaged is not followed, and its room is used again."""
    filters.set({"in": (PERMIT,)}, counters=("10.0.0.0/8",), a={"acl": AclBinding(in_="in")})
    before = filters.look()
    with TableWriter(filters.router.tables_fd, filters.router.state_fd):
        assert filters.look() == before
    filters.damage()
    with TableWriter(filters.router.tables_fd, filters.router.state_fd) as writer:
        assert filters.look() == published.Filters()
        with pytest.raises(OSError, match="Invalid argument"):
            writer.filter(bytes(104))
