"""The BGP table in C on a tables segment: flips of next-hop groups, held prefixes, what a predecessor left."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from fastpath import routes
from fastpath._layout import CONSTANTS
from fastpath.segment import KIND_TABLES, Segment, create
from fastpath.tables import Hop as TableHop
from fastpath.tables import RouteChange, TableWriter
from vrouter.api.messages import Decoder
from vrouter.api.messages import encode as encode_answer
from vrouter.config.policy import Actions, Conditions, Policy, Term
from vrouter.net.address import parse_address, parse_prefix
from vrouter.rib.bgp_table import Afi, EventKind, FamilySettings, Identity, PeerKind, PeerSettings
from vrouter.rib.policy import PolicySet
from vrouter.rib.route import Hop, HopKind
from vrouter.runtime import bgp_bulk
from vrouter.runtime.bgp_bulk import BulkTable
from vrouter.wire.bgp.attributes import Attributes, SegmentKind, encode
from vrouter.wire.bgp.attributes import Segment as PathSegment
from vrouter.wire.bgp.message import KEEPALIVE, frame
from vrouter.wire.bgp.update import Nlri, write_nlri

ROOM = 65535
VIA = "192.0.2.77"


def update(asn: int, prefixes: list[str], next_hop: str, *beyond: int) -> bytes:
    """Make an UPDATE."""
    attributes = encode(
        Attributes(as_path=(PathSegment(SegmentKind.SEQUENCE, (asn, *beyond)),), next_hop=parse_address(next_hop))
    )
    nlri = b"".join(write_nlri(Nlri(parse_prefix(prefix)), add_path=False) for prefix in prefixes)
    return frame(2, struct.pack("!HH", 0, len(attributes)) + attributes + nlri)


class World:
    """A segment, its writer, and a table with two neighbors."""

    def __init__(self, size: int = 1 << 24) -> None:
        self.fd = create(KIND_TABLES, size, 1, "test")
        self.writer = TableWriter(self.fd)
        self.segment = Segment(self.fd, KIND_TABLES)
        self.table = self.new_table()

    def new_table(self) -> BulkTable:
        """Make a table as a control that begins has one."""
        table = BulkTable(self.writer, lambda name: int(name[1:]), lambda index: f"e{index}")
        table.configure(Identity(65000, 1))
        for number in (1, 2):
            table.peer_add(number)
            table.peer_up(
                number,
                PeerSettings(
                    PeerKind.EXTERNAL, parse_address(f"192.0.2.{number}"), 65000, 65000 + number, number,
                    {Afi.IPV4: FamilySettings(next_hop=parse_address("192.0.2.254"))},
                ),
            )  # fmt: skip
        return table

    def settle(self, ways: dict[str, str]) -> None:
        """Do all that waits; `ways` has the interface of each next hop, empty for none."""
        for _ in range(2):
            while self.table.process(100):
                pass
            for hop in self.table.new_next_hops():
                self.way(hop.id, str(hop.address), ways.get(str(hop.address), ""))

    def way(self, number: int, address: str, interface: str) -> None:
        """Resolve a next hop."""
        hops = (Hop(HopKind.FORWARD, interface, parse_address(address)),) if interface else ()
        self.table.next_hop_set(number, 0, hops)

    def fib(self) -> dict[str, Any]:
        """Give what stands in the segment."""
        return {
            route["prefix"]: [hop["interface"] for hop in route["nexthops"]] for route in routes.routes(self.segment)
        }

    def installed(self) -> int:
        """Count what stands in the segment."""
        return self.segment.at("prefix_table", self.segment.integer("prefix_root")).integer("count")

    def close(self) -> None:
        """Free all."""
        self.table.close()
        self.segment.close()
        self.writer.close()
        os.close(self.fd)


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


@pytest.fixture
def large_world() -> Iterator[World]:
    made = World(1 << 27)
    yield made
    made.close()


def test_names_follow_the_core() -> None:
    """Verdicts and reasons stand in the order of the header."""
    for prefix, names in (("BGP_REFUSED_", bgp_bulk.VERDICTS[1:]), ("BGP_REASON_", bgp_bulk.REASONS)):
        values = {name: value for name, value in CONSTANTS.items() if name.startswith(prefix)}
        ordered = sorted(values, key=lambda name: values[name])
        assert [name.removeprefix(prefix).lower().replace("_", "-") for name in ordered] == list(names)


def test_the_manager_can_read_the_counters_of_errors(world: World) -> None:
    malformed = update(65001, ["10.0.0.0/24"], "192.0.2.1").replace(b"\x40\x01\x01\0", b"\x40\x01\x01\7")
    assert world.table.feed(1, malformed)
    counts = world.table.counts(1)
    assert counts["malformed"]["withdrawn"]["origin"] == 1
    assert Decoder().feed(encode_answer(counts)) == [counts]


def test_prefixes_that_lead_nowhere_are_ignored_and_counted(world: World) -> None:
    """RFC 4271 section 6.3: loopback and multicast; what is larger than these blocks is a route."""
    good = ["0.0.0.0/0", "0.0.0.0/7", "126.0.0.0/7", "224.0.0.0/3", "240.0.0.0/4", "10.0.0.0/8"]
    bad = ["0.0.0.0/8", "0.1.0.0/16", "127.0.0.0/8", "127.0.0.1/32", "224.0.0.0/4", "239.255.0.0/16"]
    world.table.feed(1, update(65001, good + bad, "192.0.2.1"))
    world.settle({"192.0.2.1": "e1"})
    assert sorted(world.fib()) == sorted(good)
    assert world.table.counts(1)["refused"] == {"prefix": len(bad)}


def test_a_next_hop_that_moves_flips_its_group(world: World) -> None:
    """Routes follow without process(): one store moves all of them."""
    world.table.feed(1, update(65001, ["10.0.0.0/24", "10.0.1.0/24"], "192.0.2.1"))
    world.settle({"192.0.2.1": "e1"})
    assert world.fib() == {"10.0.0.0/24": ["1"], "10.0.1.0/24": ["1"]}
    world.way(1, "192.0.2.1", "e7")
    assert world.fib() == {"10.0.0.0/24": ["7"], "10.0.1.0/24": ["7"]}


def test_nobody_takes_what_waits_for_the_segment(world: World) -> None:
    """fib() is for tables without one."""
    world.table.feed(1, update(65001, ["10.0.0.0/24"], "192.0.2.1"))
    world.table.process(1)
    for hop in world.table.new_next_hops():
        world.way(hop.id, str(hop.address), "e1")
    more = True
    while more:
        more = world.table.process(1)
        assert world.table.fib(1000) == []
    assert world.fib() == {"10.0.0.0/24": ["1"]}


def test_a_group_is_the_tables_own(world: World) -> None:
    """Equal hops of other routes do not move with BGP's."""
    shared = world.writer.group((TableHop(1, 1, (4, 0xC0000201)),))
    world.table.feed(1, update(65001, ["10.0.0.0/24"], "192.0.2.1"))
    world.settle({"192.0.2.1": "e1"})
    assert world.writer.group((TableHop(1, 1, (4, 0xC0000201)),)) == shared
    assert all(route.group != shared for route in world.writer.routes())


def told_by_both(world: World, prefixes: list[str]) -> None:
    """Let both neighbors announce the same."""
    world.table.feed(1, update(65001, prefixes, "192.0.2.1"))
    world.table.feed(2, update(65002, prefixes, "192.0.2.2"))
    world.settle({"192.0.2.1": "e1", "192.0.2.2": "e2"})


def test_a_next_hop_that_dies_leaves_its_routes_to_others(world: World) -> None:
    """At once to the backup of their group, and for good after process()."""
    told_by_both(world, ["10.0.0.0/24"])
    assert world.fib() == {"10.0.0.0/24": ["1"]}
    world.way(1, "192.0.2.1", "")
    assert world.fib() == {"10.0.0.0/24": ["2"]}
    world.settle({})
    assert world.fib() == {"10.0.0.0/24": ["2"]}
    world.way(2, "192.0.2.2", "")
    assert world.fib() == {"10.0.0.0/24": [None]}
    world.way(1, "192.0.2.1", "e1")
    world.settle({})
    assert world.fib() == {"10.0.0.0/24": ["1"]}


def test_a_neighbor_that_fails_flips_groups_before_any_route_is_judged(world: World) -> None:
    """What it alone announced goes the second best way, whatever is left to do; and back with it."""
    told_by_both(world, ["10.0.0.0/24", "10.0.1.0/24"])
    world.table.feed(1, update(65001, ["10.0.2.0/24"], "192.0.2.1"))
    world.settle({})
    world.table.peer_down(1)
    assert world.fib() == {"10.0.0.0/24": ["2"], "10.0.1.0/24": ["2"], "10.0.2.0/24": ["1"]}
    world.settle({})
    assert world.fib() == {"10.0.0.0/24": ["2"], "10.0.1.0/24": ["2"]}


def test_a_neighbor_that_is_kept_or_shares_its_next_hop_flips_nothing(world: World) -> None:
    """RFC 4724: who restarts goes on forwarding; and so does a next hop that somebody else announces, too."""
    told_by_both(world, ["10.0.0.0/24"])
    world.table.peer_down(1, (Afi.IPV4,))
    world.settle({})
    assert world.fib() == {"10.0.0.0/24": ["1"]}
    world.table.feed(2, update(65002, ["10.0.7.0/24"], "192.0.2.1"))
    world.settle({})
    world.table.peer_down(1)
    assert world.fib() == {"10.0.0.0/24": ["1"], "10.0.7.0/24": ["1"]}
    world.settle({})
    assert world.fib() == {"10.0.0.0/24": ["2"], "10.0.7.0/24": ["1"]}


def test_a_next_hop_that_failed_is_sound_again_with_its_neighbor(world: World) -> None:
    """Also where its paths are still remembered by what others were told."""
    told_by_both(world, ["10.0.0.0/24"])
    world.table.peer_down(1)
    assert world.fib() == {"10.0.0.0/24": ["2"]}
    world.table.peer_up(
        1, PeerSettings(PeerKind.EXTERNAL, parse_address("192.0.2.1"), 65000, 65001, 1, {Afi.IPV4: FamilySettings()})
    )
    told_by_both(world, ["10.0.0.0/24", "10.0.1.0/24"])
    assert world.fib() == {"10.0.0.0/24": ["1"], "10.0.1.0/24": ["1"]}


def test_the_backup_follows_the_paths(world: World) -> None:
    """Another second best path, or none any more."""
    told_by_both(world, ["10.0.0.0/24"])
    world.table.peer_add(3)
    world.table.peer_up(
        3, PeerSettings(PeerKind.EXTERNAL, parse_address("192.0.2.3"), 65000, 65003, 3, {Afi.IPV4: FamilySettings()})
    )
    world.table.feed(3, update(65003, ["10.0.0.0/24"], "192.0.2.3", 1))
    world.settle({"192.0.2.3": "e3"})
    world.table.peer_down(2)
    world.settle({})
    world.way(1, "192.0.2.1", "")
    assert world.fib() == {"10.0.0.0/24": ["3"]}
    world.table.peer_down(3)
    world.settle({})
    assert world.fib() == {}


def test_backups_end_before_groups_do(large_world: World) -> None:
    """Half of all groups may have one; routes beyond that are installed without, and move when they are judged."""
    world, ways = large_world, 182
    names = [[f"10.{one}.{other}.0/24" for other in range(ways)] for one in range(ways)]
    for one in range(ways):
        world.table.feed(1, update(65001, names[one], f"192.0.3.{one}"))
        world.table.feed(2, update(65002, [row[one] for row in names], f"192.0.4.{one}", 1))
    world.settle({f"192.0.{net}.{one}": f"e{net}" for net in (3, 4) for one in range(ways)})
    assert list(world.fib().values()) == [["3"]] * ways**2
    world.table.peer_down(1)
    ways_now = [hops[0] for hops in world.fib().values()]
    assert ways_now.count("4") == CONSTANTS["MAX_GROUPS"] // 2
    assert ways_now.count("3") == ways**2 - CONSTANTS["MAX_GROUPS"] // 2
    world.settle({})
    assert list(world.fib().values()) == [["4"]] * ways**2
    world.table.peer_down(2)
    world.settle({})
    assert world.fib() == {}


@pytest.mark.parametrize("many", [1, 3000])
def test_what_goes_does_so_though_the_segment_has_no_room_for_what_comes(many: int) -> None:
    """A batch of both, route by route and with the tries built anew."""
    world = World(1 << 20)
    group, most = world.writer.group([TableHop(1, 1, (4, 0xC0000201))]), 0

    def change(number: int, group: int) -> RouteChange:
        return RouteChange(4, 10 << 24 | number * 37 % 65536 << 8, 24, group, 1, 1, 1)

    with contextlib.suppress(OSError):
        for most in range(0, 65536, 100):
            world.writer.apply([change(number, group) for number in range(most, most + 100)])
    with pytest.raises(OSError, match="No space"):
        world.writer.apply(
            [
                *(change(number, group) for number in range(most + 100, most + 4000)),
                *(change(n, 0) for n in range(many)),
            ]
        )
    left = {route.value for route in world.writer.routes()}
    assert left
    assert not left & {change(number, 0).value for number in range(many)}
    world.writer.apply([change(number, 0) for number in range(65536)])
    assert world.installed() == 0
    world.close()


def test_a_successor_disturbs_nothing_and_sweeps_what_was_not_told_again(world: World) -> None:
    """RFC 4724: routes of the predecessor stay until the sweep, but for those of no protocol of ours."""
    world.table.feed(1, update(65001, [f"10.{number}.0.0/16" for number in range(200)], "192.0.2.1"))
    world.settle({"192.0.2.1": "e1"})
    world.table.close()
    world.table = world.new_table()
    assert len(world.fib()) == 200
    world.table.feed(1, update(65001, [f"10.{number}.0.0/16" for number in range(50)], "192.0.2.1"))
    world.settle({"192.0.2.1": "e1"})
    assert len(world.fib()) == 200
    world.table.sweep()
    assert sorted(world.fib()) == sorted(f"10.{number}.0.0/16" for number in range(50))


def test_a_held_prefix_is_left_alone(world: World) -> None:
    """What BGP has for it goes to the RIB; taken back, BGP writes it again."""
    prefix = parse_prefix("10.0.0.0/24")
    world.table.hold(prefix)
    world.table.feed(1, update(65001, ["10.0.0.0/24"], "192.0.2.1"))
    world.settle({"192.0.2.1": "e1"})
    assert world.fib() == {}
    assert [route.prefix for route in world.table.held() if route.hops] == [prefix]
    world.table.unhold(prefix)
    assert world.fib() == {"10.0.0.0/24": ["1"]}


def test_a_held_prefix_whose_path_goes_leaves_nothing_behind(world: World) -> None:
    """Held without a way for the RIB to write, or taken back without one: what stood in the FIB goes."""
    prefix, ways = parse_prefix("10.0.0.0/24"), {"192.0.2.1": "e1"}
    for dead in ((1,), ()):
        world.table.feed(1, update(65001, ["10.0.0.0/24"], "192.0.2.1"))
        world.settle(ways)
        assert world.installed() == 1
        for number in dead:
            world.way(number, "192.0.2.1", "")
        world.table.hold(prefix)
        assert world.installed() == 1 - len(dead)
        world.table.held()
        world.table.feed(1, frame(2, struct.pack("!H", 4) + bytes((24, 10, 0, 0)) + b"\0\0"))
        world.settle(ways)
        world.table.unhold(prefix)
        assert world.fib() == {}


def test_before_peer_up_reading_stops_behind_each_message(world: World) -> None:
    """So that a session can begin between the last KEEPALIVE and the first UPDATE of one segment."""
    world.table.peer_down(1)
    data = KEEPALIVE + update(65001, ["10.0.0.0/24"], "192.0.2.1")
    fed = world.table.feed(1, data)
    assert fed.consumed == len(KEEPALIVE)
    early = world.table.feed(1, data[fed.consumed :])
    assert (early.consumed, [event.kind for event in early.events]) == (0, [EventKind.UPDATE_EARLY])


def test_a_full_table_is_packed_and_leaves_in_a_few_messages(world: World) -> None:
    """All prefixes of one attribute set go out together, as many to a message as fit, whatever the room."""
    names = [f"10.{high}.{low}.0/24" for high in range(10) for low in range(256)]
    for start in range(0, len(names), 100):
        world.table.feed(1, update(65001, names[start : start + 100], "192.0.2.1"))
    world.settle({"192.0.2.1": "e1"})
    data = b""
    while part := world.table.export(2, ROOM):
        data += part
    assert data.count(b"\xff" * 16) == 1 + -(-len(names) * 4 // (4096 - 23 - 28))
    world.table.peer_down(1)
    world.settle({})
    assert world.fib() == {}
    assert world.table.export(2, ROOM).count(b"\xff" * 16) == 3


def med_where(prefixes: tuple[str, ...], med: str, previous: PolicySet | None = None) -> PolicySet:
    """Make a policy that sets MED for some prefixes, or for all."""
    condition = Conditions(prefix=prefixes) if prefixes else Conditions()
    terms = (Term(if_=condition, then=Actions(med=med, accept=True)), Term(if_=Conditions(), then=Actions(accept=True)))
    return PolicySet(Policy(route_policies={"out": terms}), previous)


@pytest.mark.parametrize("paths", [0, 4])
def test_a_change_of_policy_tells_only_what_leaves_otherwise(world: World, paths: int) -> None:
    """RFC 4271 section 9.2: what has been advertised, and is as it was, is not advertised again."""

    def settings(policies: PolicySet) -> PeerSettings:
        family = FamilySettings(
            export_policy=policies.number("out"), next_hop=parse_address("192.0.2.254"), send_paths=paths
        )
        return PeerSettings(PeerKind.EXTERNAL, parse_address("192.0.2.2"), 65000, 65002, 2, {Afi.IPV4: family})

    def change(policies: PolicySet) -> list[bytes]:
        world.table.policies(policies)
        world.table.peer_change(2, settings(policies))
        return told()

    def told() -> list[bytes]:
        world.settle({"192.0.2.1": "e1"})
        data = b""
        while part := world.table.export(2, ROOM):
            data += part
        return [part for part in data.split(b"\xff" * 16) if part]

    policies = med_where((), "5")
    world.table.policies(policies)
    world.table.peer_down(2)
    world.table.peer_up(2, settings(policies))
    names = [f"10.{high}.{low}.0/24" for high in range(4) for low in range(256)]
    for start in range(0, len(names), 100):
        world.table.feed(1, update(65001, names[start : start + 100], "192.0.2.1", start + 1))
    assert sum(map(len, told())) > 4 * len(names)
    policies = med_where(("10.0.0.0/8 le 24",), "5", policies)
    assert change(policies) == []
    policies = med_where(("10.0.0.0/8 le 24",), "6", policies)
    assert sum(map(len, change(policies))) > 4 * len(names)
    policies = med_where(("10.0.0.0/16 le 24", "10.2.0.0/15 le 24"), "6", policies)
    others = change(policies)
    assert sum(map(len, others)) < (4 if paths == 0 else 8) * len(names) // 2
    assert any(bytes([24, 10, 1, 7]) in part for part in others)
    assert not any(bytes([24, 10, 3, 255]) in part for part in others)
    world.table.refresh(2, Afi.IPV4)
    assert sum(map(len, told())) > 4 * len(names)


def test_others_are_told_of_a_failed_neighbor_before_the_fib_follows(large_world: World) -> None:
    """What most of the FIB came from is gone: withdrawals leave first, then the FIB is clean in one go."""
    world = large_world
    attributes = encode(Attributes(as_path=(PathSegment(SegmentKind.SEQUENCE, (65001,)),), next_hop=parse_address(VIA)))
    head = struct.pack("!HH", 0, len(attributes)) + attributes
    for high in range(140_000 // 700):
        nlri = b"".join(bytes([32, 10, high]) + struct.pack("!H", low) for low in range(700))
        world.table.feed(1, frame(2, head + nlri))
    world.settle({VIA: "e1"})
    while world.table.export(2, ROOM):
        pass
    assert world.installed() == 140_000
    world.table.peer_down(1)
    withdrawn, more = 0, True
    while more:
        more = world.table.process(2048)
        told = world.table.export(2, ROOM)
        withdrawn += sum(int.from_bytes(part[3:5], "big") // 5 for part in told.split(b"\xff" * 16) if part)
        assert withdrawn == 140_000 or world.installed() == 140_000
    assert withdrawn == 140_000
    assert world.installed() == 0
