"""One device shared by four routers by VLAN: whatever tags a frame has, it meets its own VLAN's router or none."""

from __future__ import annotations

import itertools
import struct
from typing import TYPE_CHECKING, Final

import pytest
from lab import Lab, Namespace, Wire, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.root]

VLANS: Final = (10, 20, 30, 4094)
EXPERIMENTAL: Final = 0x88B5  # IEEE Std 802 local experimental: no stack says anything to it
C, S, OLD = 0x8100, 0x88A8, 0x9100
BROADCAST: Final = b"\xff" * 6
GROUP: Final = bytes.fromhex("01005e000001")
STRANGER: Final = bytes.fromhex("02000000ab01")
PRIORITY: Final = 7 << 13
_numbers: Final = itertools.count(1)

Tags = tuple[tuple[int, int], ...]


class Rig:
    """The lab, the far end of the device, and each router's own end."""

    def __init__(self, lab: Lab) -> None:
        self.far = lab.namespaces["far"].wire("eth0")
        self.inner: dict[int, Wire] = {}
        self.macs: dict[int, bytes] = {}
        for vlan in VLANS:
            inside = Namespace.__new__(Namespace)
            inside.name = lab.router(f"r{vlan}")["netns"]
            inside.path = lab.box.path.parent / inside.name
            self.inner[vlan] = inside.wire(f"v{vlan}-nic")
            self.macs[vlan] = self.inner[vlan].mac


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Lab() as lab:
        far = lab.namespace("far")
        lab.veth("nic", None, far, "eth0")
        lab.configure(
            {
                f"r{vlan}": {"interfaces": {"lan": {"device": "nic", "vlan": vlan, "addresses": ["10.0.0.1/24"]}}}
                for vlan in VLANS
            }
        )
        lab.start()
        wait_until(lambda: all(lab.interface(f"r{vlan}", "lan")["state"] == "up" for vlan in VLANS), "all are up")
        made = Rig(lab)
        yield made
        for wire in (made.far, *made.inner.values()):
            wire.__exit__()


def frame(destination: bytes, tags: Tags, number: int) -> bytes:
    """Make a frame with a number of its own."""
    head = destination + STRANGER + b"".join(struct.pack(">HH", kind, tci) for kind, tci in tags)
    return head + struct.pack(">HI", EXPERIMENTAL, number).ljust(60, b"\xa5")


def tags_of(got: bytes) -> tuple[Tags, bytes]:
    """Take the tags off a frame; give them and the rest from the type on."""
    at, tags = 12, []
    while struct.unpack_from(">H", got, at)[0] in (C, S, OLD):
        tags.append(struct.unpack_from(">HH", got, at))
        at += 4
    return tuple(tags), got[at:]


# What the far end sends -> whose it is, and the tags that are left.
INWARDS: Final[dict[str, tuple[Tags, dict[int, Tags]]]] = {
    "untagged": ((), {}),
    "tagged": (((C, 20),), {20: ()}),
    "highest": (((C, 4094),), {4094: ()}),
    "with a priority": (((C, PRIORITY | 20),), {20: ()}),
    "priority alone": (((C, PRIORITY),), {}),
    "nobody's": (((C, 40),), {}),
    "reserved": (((C, 4095),), {}),
    "double": (((C, 10), (C, 20)), {10: ((C, 20),)}),
    "triple": (((C, 10), (C, 20), (C, 30)), {10: ((C, 20), (C, 30))}),
    "service": (((S, 20),), {}),
    "service over ours": (((S, 10), (C, 20)), {}),
    "priority over ours": (((C, 0), (C, 20)), {}),
    "old style": (((OLD, 10), (C, 20)), {}),
}


@pytest.mark.parametrize("name", INWARDS)
def test_a_frame_reaches_its_own_router_or_none(rig: Rig, name: str) -> None:
    tags, expected = INWARDS[name]
    for destination in (BROADCAST, GROUP, rig.macs[20]):
        number = next(_numbers)
        rig.far.send(frame(destination, tags, number))
        # A marker that all must see comes behind it: nothing can still be on its way then.
        markers = {vlan: next(_numbers) for vlan in VLANS}
        for vlan in VLANS:
            rig.far.send(frame(BROADCAST, ((C, vlan),), markers[vlan]))
        for vlan, wire in rig.inner.items():
            found = until_marker(wire, number, markers[vlan])
            assert found == ([expected[vlan]] if vlan in expected else []), (vlan, found)


def until_marker(wire: Wire, number: int, marker: int) -> list[Tags]:
    """Give the tags of the frames with this number that come before the marker, which must come."""
    found: list[Tags] = []
    for got in wire.frames(30):
        tags, rest = tags_of(got)
        if rest.startswith(struct.pack(">HI", EXPERIMENTAL, marker)):
            return found
        if rest.startswith(struct.pack(">HI", EXPERIMENTAL, number)):
            found.append(tags)
    raise AssertionError("the marker did not come")


# What a router that has been taken over sends -> what comes out at the far end, of its own VLAN 10 alone.
OUTWARDS: Final[dict[str, tuple[Tags, list[Tags]]]] = {
    "untagged": ((), [((C, 10),)]),
    "another's": (((C, 20),), []),
    "its own": (((C, 10),), []),
    "priority alone": (((C, PRIORITY),), []),
    "double": (((C, 10), (C, 20)), []),
    "service": (((S, 20),), []),
    "service over another's": (((S, 10), (C, 20)), []),
    "old style": (((OLD, 20),), [((C, 10), (OLD, 20))]),
}


@pytest.mark.parametrize("name", OUTWARDS)
def test_a_router_can_name_no_vlan_but_its_own(rig: Rig, name: str) -> None:
    tags, expected = OUTWARDS[name]
    for destination in (BROADCAST, rig.macs[20]):
        number, marker = next(_numbers), next(_numbers)
        rig.inner[10].send(frame(destination, tags, number))
        rig.inner[10].send(frame(BROADCAST, (), marker))
        assert until_marker(rig.far, number, marker) == expected
        # It does not come back to any of the others on its way out.
        markers = {vlan: next(_numbers) for vlan in VLANS}
        for vlan in VLANS:
            rig.far.send(frame(BROADCAST, ((C, vlan),), markers[vlan]))
            if vlan != 10:
                assert until_marker(rig.inner[vlan], number, markers[vlan]) == []
