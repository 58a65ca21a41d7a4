"""What /metrics tells of protocols, beside what FRR tells of the same neighbors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from exposition import Samples, parse, value
from lab import run
from peers import Frr, eventually
from routing_lab import RoutingLab

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.root, pytest.mark.interop]

FRR: Final = """
interface wan
 ip ospf area 0
 ip ospf hello-interval 1
 ip ospf dead-interval 4
 ip ospf network point-to-point
router ospf
 ospf router-id 10.255.0.2
router bgp 65002
 bgp router-id 10.255.0.2
 no bgp ebgp-requires-policy
 neighbor 10.99.1.1 remote-as 65001
 neighbor 10.99.1.1 timers connect 1
 address-family ipv4 unicast
  network 10.255.0.2/32
 exit-address-family
"""
NEIGHBOR: Final[dict[str, Any]] = {"remote-as": 65002, "require-policy": False, "timers": {"connect-retry": "1s"}}
LINK: Final = {"network": "point-to-point", "hello-interval": "1s", "dead-interval": "4s"}
OSPF: Final[dict[str, Any]] = {"areas": {"0.0.0.0": {"interfaces": {"wan": LINK}}}}


@pytest.fixture(scope="module")
def lab() -> Iterator[tuple[RoutingLab, Frr]]:
    with RoutingLab() as made:
        far = made.link("red", "wan", ["10.99.1.1/24"], "frr", ["10.99.1.2/24"])
        far.address("lo", "10.255.0.2/32")
        made.router("red", router_id="10.255.0.1", ospf=OSPF, bgp={"asn": 65001, "neighbors": {"10.99.1.2": NEIGHBOR}})
        made.top["api"] = {}
        made.start()
        yield made, made.run(Frr(far, FRR, daemons=("bgpd", "ospfd")))


def scrape(run_dir: Path) -> Samples:
    """Give all metrics, over the Unix socket."""
    options = ["-sf", "-m", "10", "-H", "Accept: application/openmetrics-text"]
    done = run("curl", *options, "--unix-socket", str(run_dir / "api.sock"), "http://x/metrics")
    return parse(done.stdout)


def test_bgp_and_ospf(lab: tuple[RoutingLab, Frr]) -> None:
    """Sessions, prefixes and neighbors are counted as both ends see them."""
    world, frr = lab
    eventually(lambda: frr.established("10.99.1.1"), 30, "FRR has the session")
    eventually(lambda: frr.json("show ip ospf neighbor json")["neighbors"]["10.255.0.1"][0]["nbrState"] == "Full/-", 30)

    def told() -> Samples:
        samples = scrape(world.run_dir)
        assert value(samples, "vr_bgp_prefixes", peer="10.99.1.2", afi="ipv4", kind="accepted") == 1
        assert value(samples, "vr_routes", vr="red", protocol="bgp", afi="ipv4", state="installed") == 1
        assert value(samples, "vr_ospf_neighbors", vr="red", area="0.0.0.0", state="full") == 1
        return samples

    samples = eventually(told, 30, "the prefix is counted and installed, and the neighbor full at our end too")
    assert value(samples, "vr_bgp_peer_state", vr="red", peer="10.99.1.2", asn="65002", afi="ipv4") == 6
    assert 0 <= value(samples, "vr_bgp_peer_uptime_seconds", peer="10.99.1.2") < 60
    assert value(samples, "vr_bgp_messages_total", peer="10.99.1.2", type="open", dir="received") >= 1
    frr.kill("bgpd")

    def down() -> bool:
        return value(scrape(world.run_dir), "vr_bgp_peer_state", peer="10.99.1.2") != 6

    eventually(down, 30, "the session is told to be down")
