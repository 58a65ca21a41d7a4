"""Path MTU discovery of TCP through kernel routers, whose link takes less than ours and the host's.

red --lan (1500)-- near --thin (1280)-- far --eth0 (1500)-- host
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

import pytest
from lab import Lab
from tcp_ends import (
    MIB,
    Ends,
    Info,
    Path,
    closed,
    crosswise,
    in_order,
    laws,  # noqa: F401 - a fixture
    reachable,
    transfer,
)
from wire import strict

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root

THIN: Final = 1280
PATHS: Final = [Path("10.0.0.1", "10.0.2.2"), Path("2001:db8::1", "2001:db8:2::2")]
HEADERS: Final[dict[int, int]] = {socket.AF_INET: 40 + 12, socket.AF_INET6: 60 + 12}


@pytest.fixture(scope="module", params=[True, False], ids=["offloads", "frames"])
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    with Lab() as lab:
        near, far, host = lab.namespace("near"), lab.namespace("far"), lab.namespace("host")
        lab.veth("lan", None, near, "upper")
        lab.veth("thin", near, far, "thin")
        lab.veth("lower", far, host, "eth0")
        devices = [
            (near, "upper", 0, 2), (near, "thin", 1, 1),
            (far, "thin", 1, 2), (far, "lower", 2, 1), (host, "eth0", 2, 2),
        ]  # fmt: skip
        for namespace, device, network, number in devices:
            namespace.address(device, f"10.0.{network}.{number}/24")
            namespace.address(device, f"2001:db8:{network}::{number}/64")
            if device == "thin":
                namespace.ip("link", "set", device, "mtu", str(THIN))
            if not request.param:
                strict(namespace, device)
            in_order((namespace, device))
        in_order((lab.box, "lan"))
        for namespace in (near, far):
            for knob in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
                namespace.run("sysctl", "-q", "-w", f"{knob}=1")
        for namespace, network, number in ((near, 1, 2), (far, 1, 1), (host, 2, 1)):
            namespace.ip("route", "add", "default", "via", f"10.0.{network}.{number}")
            namespace.ip("route", "add", "default", "via", f"2001:db8:{network}::{number}")
        lab.configure(
            {
                "red": {
                    "interfaces": {"lan": {"device": "lan", "addresses": ["10.0.0.1/24", "2001:db8::1/64"]}},
                    "static": {"0.0.0.0/0": {"via": "10.0.0.2"}, "::/0": {"via": "2001:db8::2"}},
                }
            }
        )
        lab.start()
        reachable(host, *(path.ours for path in PATHS))
        with Ends(lab, "red", host, *PATHS) as made:
            yield made


def forget(ends: Ends) -> None:
    """Let the host know nothing of path MTUs."""
    ends.host.ip("route", "flush", "cache")
    ends.host.ip("-6", "route", "flush", "cache")


@pytest.mark.parametrize("by_us", [True, False])
@pytest.mark.parametrize("path", PATHS)
def test_the_thin_link_is_found(ends: Ends, path: Path, by_us: bool) -> None:
    """ICMP says what fits; what was too long is sent again, and nothing else waits for a timeout."""
    forget(ends)
    for to_us in (False, True):
        ours, theirs = ends.connect(path, by_us=by_us)
        source, sink = (theirs, ours) if to_us else (ours, theirs)
        took = transfer(source, sink, 4 * MIB, timeout=5, end=False)
        info = Info.of(source)
        assert info.pmtu == THIN, info
        assert info.snd_mss == THIN - HEADERS[path.family]
        assert took < 3, info
        closed(ours, theirs)


@pytest.mark.parametrize("path", PATHS)
def test_it_is_remembered(ends: Ends, path: Path) -> None:
    """The next connection begins with what fits."""
    ours, theirs = ends.connect(path, by_us=True)
    transfer(ours, theirs, MIB, timeout=5, end=False)
    again, there = ends.connect(path, by_us=True)
    info = Info.of(again)
    assert (info.pmtu, info.snd_mss) == (THIN, THIN - HEADERS[path.family])
    before = Info.of(again).total_retrans
    transfer(again, there, MIB, timeout=5, end=False)
    assert Info.of(again).total_retrans - before <= 3
    closed(ours, theirs, again, there)


@pytest.mark.parametrize("path", PATHS)
def test_both_directions_at_once(ends: Ends, path: Path) -> None:
    forget(ends)
    ours, theirs = ends.connect(path, by_us=False)
    crosswise(ours, theirs, 2 * MIB, timeout=6)
    closed(ours, theirs)
