"""Update groups of the BGP table in C whose members part, or whose policy changes, in the middle of a large run."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace

import pytest

from vrouter.config.policy import Actions, Conditions, Policy, Term
from vrouter.net.address import parse_address
from vrouter.rib.bgp_table import Afi, FamilySettings, Identity, PeerKind, PeerSettings
from vrouter.rib.policy import PolicySet
from vrouter.rib.route import Hop, HopKind
from vrouter.runtime.bgp_bulk import BulkTable
from vrouter.wire.bgp.attributes import Attributes, Segment, SegmentKind, encode
from vrouter.wire.bgp.message import frame

ROOM = 65535
MANY = 40000  # more than are grouped at once
WORDS = [struct.pack("!BBH", 24, 10 + (at >> 16), at & 0xFFFF) for at in range(MANY)]  # prefixes


class Told:
    """What a neighbor knows."""

    def __init__(self, table: BulkTable, number: int) -> None:
        self.table, self.number = table, number
        self.known: set[bytes] = set()

    def read(self) -> None:
        """Take all that is there for it."""
        while data := self.table.export(self.number, ROOM):
            while data:
                (size,) = struct.unpack_from("!H", data, 16)
                self.take(data[19:size])
                data = data[size:]

    def take(self, body: bytes) -> None:
        """Take one UPDATE."""
        (gone,) = struct.unpack_from("!H", body)
        (attributes,) = struct.unpack_from("!H", body, 2 + gone)
        self.known.difference_update(split(body[2 : 2 + gone]))
        self.known.update(split(body[4 + gone + attributes :]))


def split(nlri: bytes) -> list[bytes]:
    """Give the prefixes, which all have 24 bits."""
    return [nlri[at : at + 4] for at in range(0, len(nlri), 4)]


def settings(number: int, policy: int = 0) -> PeerSettings:
    """Make the settings of a session."""
    family = FamilySettings(export_policy=policy, next_hop=parse_address("192.0.2.254"))
    address = parse_address(f"192.0.2.{number}")
    return PeerSettings(PeerKind.EXTERNAL, address, 65000, 65000 + number, number, {Afi.IPV4: family})


def speak(table: BulkTable, *, gone: bool) -> None:
    """Let the first neighbor announce or withdraw all."""
    path = (Segment(SegmentKind.SEQUENCE, (65001,)),)
    attributes = encode(Attributes(as_path=path, next_hop=parse_address("192.0.2.1")))
    for start in range(0, MANY, 900):
        nlri = b"".join(WORDS[start : start + 900])
        body = struct.pack("!H", len(nlri)) + nlri + b"\0\0"
        if not gone:
            body = struct.pack("!HH", 0, len(attributes)) + attributes + nlri
        table.feed(1, frame(2, body))


def resolve(table: BulkTable) -> None:
    """All next hops are neighbors."""
    for hop in table.new_next_hops():
        table.next_hop_set(hop.id, 0, (Hop(HopKind.FORWARD, "e1", hop.address),))


def settle(table: BulkTable) -> None:
    """Do all that waits."""
    for _ in range(2):
        while table.process(5000):
            pass
        resolve(table)
    table.fib(1 << 20)


def settle_all(table: BulkTable, *neighbors: Told) -> None:
    """Let all be told."""
    for _ in range(3):
        settle(table)
        for neighbor in neighbors:
            neighbor.read()


@pytest.fixture
def table() -> Iterator[BulkTable]:
    made = BulkTable()
    made.configure(Identity(65000, 1))
    for number in (1, 2, 3):
        made.peer_add(number)
        made.peer_up(number, settings(number))
    yield made
    made.close()


def rejecting() -> PolicySet:
    """Make a policy that lets nothing through."""
    return PolicySet(Policy(route_policies={"out": (Term(if_=Conditions(), then=Actions(accept=False)),)}))


@pytest.mark.parametrize("steps", [3, 10, 13])
def test_who_leaves_a_group_hears_of_withdrawals_under_way(table: BulkTable, steps: int) -> None:
    """What was grouped for all members, and has not left, is withdrawn from the one that goes its own way, too."""
    neighbors = Told(table, 2), Told(table, 3)
    speak(table, gone=False)
    settle_all(table, *neighbors)
    assert [len(neighbor.known) for neighbor in neighbors] == [MANY, MANY]
    speak(table, gone=True)
    for _ in range(steps):
        table.process(5000)
    table.peer_change(3, replace(settings(3), send_communities=False))
    settle_all(table, *neighbors)
    assert [len(neighbor.known) for neighbor in neighbors] == [0, 0]


@pytest.mark.parametrize("steps", [3, 15, 17])
def test_a_policy_that_comes_while_routes_are_grouped_holds_for_all_of_them(table: BulkTable, steps: int) -> None:
    """Whatever the policy before it has said of their attributes."""
    neighbors = Told(table, 2), Told(table, 3)
    policies = rejecting()
    table.policies(policies)
    speak(table, gone=False)
    settle_all(table, *neighbors)
    table.refresh(2, Afi.IPV4)
    for _ in range(steps):
        table.process(5000)
    table.peer_change(2, settings(2, policies.number("out")))
    settle_all(table, *neighbors)
    assert [len(neighbor.known) for neighbor in neighbors] == [0, MANY]


@pytest.mark.parametrize("steps", [3, 9, 15])
def test_a_policy_that_goes_while_routes_are_grouped_keeps_none_of_them(table: BulkTable, steps: int) -> None:
    """Whatever it has said of their attributes."""
    neighbor = Told(table, 2)
    policies = rejecting()
    table.policies(policies)
    table.peer_change(2, settings(2, policies.number("out")))
    speak(table, gone=False)
    for _ in range(steps):
        table.process(5000)
        resolve(table)
    table.peer_change(2, settings(2))
    settle_all(table, neighbor)
    assert len(neighbor.known) == MANY


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, [65000, 65001, 65002, 4200000000, 1000, 65002, 65003]),
        ({"remove_private_as": True}, [65000, 65002, 1000, 65002]),
        ({"as_override": True}, [65000, 65001, 65000, 4200000000, 1000, 65000, 65003]),
        ({"remove_private_as": True, "as_override": True}, [65000, 1000]),
    ],
)
def test_private_numbers_leave_but_the_neighbors_own(
    table: BulkTable, changes: dict[str, bool], told: list[int]
) -> None:
    """It must see that the path leads back to it; where ours stands in its place it is to see nothing."""
    table.peer_change(2, replace(settings(2), **changes))  # type: ignore[arg-type]
    path = (Segment(SegmentKind.SEQUENCE, (65001, 65002, 4200000000, 1000, 65002, 65003)),)
    attributes = encode(Attributes(as_path=path, next_hop=parse_address("192.0.2.1")))
    table.feed(1, frame(2, struct.pack("!HH", 0, len(attributes)) + attributes + WORDS[0]))
    heard = b""
    for _ in range(3):
        settle(table)
        heard += table.export(2, ROOM)
    assert struct.pack(f"!BB{len(told)}I", 2, len(told), *told) in heard
