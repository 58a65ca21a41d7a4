"""Holo's conformance cases of RIPv2 and RIPng; the share that passes is printed."""

from __future__ import annotations

import tarfile
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from tests.unit.archives import unpack
from tests.unit.holo_rip import FIRST, LAN, SECOND, play_case, play_topology

pytestmark = pytest.mark.in_order

ARCHIVE: Final = "holo-conformance-rip-ospf.tar.xz"
PROTOCOLS: Final = ("ripv2", "ripng")
TOPOLOGIES: Final = {"topo1-1": 4, "topo1-2": 4, "topo2-1": 6, "topo2-2": 6}
CASES: Final = {
    "ibus-addr-add1": FIRST,
    "ibus-addr-add2": FIRST,
    "ibus-addr-del1": FIRST,
    "ibus-addr-del2": FIRST,
    "ibus-iface-update1": FIRST,
    "ibus-iface-update2": FIRST,
    "message-errors1": FIRST,
    "message-request1": FIRST,
    "message-request2": FIRST,
    "message-response1": FIRST,
    "message-response2": FIRST,
    "message-response3": FIRST,
    "message-response4": SECOND,
    "message-response5": SECOND,
    "message-response6": SECOND,
    "message-response7": SECOND,
    "message-response8": SECOND,
    "message-response9": LAN,
    "nb-config-distance1": FIRST,
    "nb-config-iface-cost1": SECOND,
    "nb-config-iface1": SECOND,
    "nb-config-iface2": SECOND,
    "nb-config-neighbor1": LAN,
    "nb-config-neighbor2": LAN,
    "nb-config-passive1": FIRST,
    "nb-config-passive2": FIRST,
    "nb-config-split-horizon1": SECOND,
    "nb-config-split-horizon2": SECOND,
    "nb-config-split-horizon3": SECOND,
    "nb-rpc-clear-route1": SECOND,
    "timeout-initial-update1": FIRST,
    "timeout-neighbor1": FIRST,
    "timeout-route-gc1": FIRST,
    "timeout-route1": FIRST,
    "timeout-triggered-update1": FIRST,
    "timeout-update-interval1": FIRST,
}
# Where we do something else, and why.
DIFFERENT: Final = {
    "ibus-addr-del2": "routes by a neighbor whose network we have left are lost at once, not after the timeout",
    "nb-config-iface-cost1": "Holo adds the cost of one interface to all routes",
    "nb-config-iface2": "an interface that is up is used as soon as it is configured, and asked for routes",
    "nb-config-neighbor1": "a new neighbor is asked for its routes",
    "nb-config-neighbor2": "a new neighbor is asked for its routes",
    "nb-config-split-horizon1": "what the change makes to be said in another way is said at once",
    "nb-config-split-horizon2": "what the change makes to be said in another way is said at once",
}
PASSED: Counter[str] = Counter()


@pytest.fixture(scope="module")
def root(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of RIP's cases."""
    place = tmp_path_factory.mktemp("holo")
    with tarfile.open(test_data / ARCHIVE) as archive:
        members = [member for member in archive.getmembers() if "/holo-rip/" in member.name]
        unpack(archive, place, members)
    (found,) = place.glob("**/holo-rip/tests/conformance")
    return found


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("topology", "router"),
    [(name, f"rt{number + 1}") for name, count in TOPOLOGIES.items() for number in range(count)],
)
def test_recorded_topologies(root, protocol, topology, router) -> None:
    wrong = play_topology(root, protocol, topology, router)
    PASSED["failed" if wrong else "passed"] += 1
    assert wrong == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("case", CASES)
def test_steps(root, protocol, case) -> None:
    wrong = play_case(root, protocol, case, CASES[case])
    PASSED["failed" if wrong else "passed"] += 1
    assert case in DIFFERENT or wrong == []


def test_every_case_is_played_and_the_share_that_passes_is_told(root, capsys) -> None:
    for protocol in PROTOCOLS:
        assert {path.name for path in (root / protocol).iterdir()} == {*CASES, "topologies"}
    passed, all_of_them = PASSED["passed"], PASSED.total()
    with capsys.disabled():
        print(f"\nHolo's conformance cases of RIP: {passed} of {all_of_them} as there, the others on purpose:")
        for case, reason in DIFFERENT.items():
            print(f"  {case}: {reason}")
    assert passed >= all_of_them - len(PROTOCOLS) * len(DIFFERENT)
