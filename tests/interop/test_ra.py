"""A Linux host finds its address, its gateway and its name servers by a VR's router advertisements."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from typing import TYPE_CHECKING, Any, Final

import pytest
from peers import eventually, program
from routing_lab import RoutingLab

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab import Namespace

pytestmark = [pytest.mark.root, pytest.mark.interop, pytest.mark.in_order]

# So long that what comes soon was asked for.
RA: Final = {
    "interval": "1800s",
    "preference": "high",
    "dns-servers": ["2001:db8:a:1::53"],
    "dns-search": ["red.example"],
    "hop-limit": 33,
}


class Host:
    """The namespace of the host on `lan`."""

    def __init__(self, lab: RoutingLab) -> None:
        self.lab = lab
        self.namespace: Namespace = lab.link("red", "lan", ["10.0.0.1/24", "2001:db8:a:1::1/64"], "host", ra=RA)
        lab.link("red", "far", ["2001:db8:f::1/64"], "far", ["2001:db8:f::2/64"])
        lab["far"].ip("-6", "route", "add", "default", "via", "2001:db8:f::1")
        self.sysctl("all.forwarding", 0)
        self.sysctl("lan.forwarding", 0)
        self.sysctl("lan.accept_ra", 1)
        self.sysctl("lan.router_solicitation_delay", 0)
        lab.routers["red"]["interfaces"]["lan"]["mtu"] = 1400
        lab.start()
        self.again()

    def sysctl(self, name: str, value: int | None = None) -> str:
        key = f"net.ipv6.conf.{name.replace('.', '/')}"
        if value is not None:
            self.namespace.run("sysctl", "-qw", f"{key.replace('/', '.')}={value}")
        return self.namespace.run("sysctl", "-n", key.replace("/", ".")).stdout.strip()

    def again(self) -> None:
        """Begin as after a start: the kernel forgets all, and asks for routers."""
        self.namespace.ip("link", "set", "lan", "down")
        self.namespace.ip("link", "set", "lan", "up")

    def asks(self) -> bool:
        """Tell whether it is past the detection of its link-local address, when it asks at once."""
        text = self.namespace.ip("-6", "addr", "show", "dev", "lan", "scope", "link").stdout
        return "fe80" in text and "tentative" not in text

    def addresses(self) -> list[dict[str, Any]]:
        links = json.loads(self.namespace.ip("-6", "-j", "addr", "show", "dev", "lan", "scope", "global").stdout)
        return [info for link in links for info in link.get("addr_info", ())]

    def default(self) -> str:
        """The default route, as the kernel prints it."""
        return self.namespace.ip("-6", "route", "show", "default").stdout


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with RoutingLab() as lab:
        yield Host(lab)


def test_a_host_configures_itself(host: Host) -> None:
    address = eventually(host.addresses, 30, "an address")[0]
    assert (address["prefixlen"], address["dynamic"], address["mngtmpaddr"]) == (64, True, True)
    assert address["local"].startswith("2001:db8:a:1:")
    assert address["valid_life_time"] > 2_591_000
    route = eventually(host.default, 30, "a default route")
    assert "via fe80::" in route
    assert "proto ra" in route
    assert "pref high" in route
    assert "hoplimit 33" in route
    assert host.sysctl("lan.mtu") == "1400"


def test_the_host_reaches_what_is_behind_the_router(host: Host) -> None:
    eventually(lambda: host.namespace.ping("2001:db8:f::2"), 30, "the far host answers")


def test_a_host_that_asks_is_answered_soon(host: Host) -> None:
    for _ in range(2):
        host.again()
        eventually(host.asks, 30, "its own address is usable: now it asks")
        begin = time.monotonic()
        eventually(host.default, 30, "a default route")
        # RFC 4861 section 6.2.6: half a second, but three seconds between two.
        assert time.monotonic() - begin < 6
    (shown,) = host.lab.show("ra", "red")
    assert shown["counters"]["solicitations"] >= 2
    assert (shown["prefixes"][0]["prefix"], shown["preference"]) == ("2001:db8:a:1::/64", "high")


def test_name_servers_and_search_domains_as_wireshark_reads_them(host: Host) -> None:
    fields = ("icmpv6.opt.rdnss", "icmpv6.opt.dnssl", "icmpv6.checksum.status", "ipv6.hlim")
    wanted = [word for field in (*fields, "icmpv6.nd.ra.router_lifetime") for word in ("-e", field)]
    capture = ("-n", "-l", "-i", "lan", "-c", "1", "-a", "duration:60", "-f", "icmp6 and ip6[40] == 134")
    command = host.namespace.command(program("tshark"), *capture, "-T", "fields", *wanted)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            while "Capturing" not in (line := process.stderr.readline()):
                assert line, "tshark did not start"
            for _ in range(4):  # it says so a little before it does
                host.again()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)
                    break
            output, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert output.rstrip("\n").split("\t") == ["2001:db8:a:1::53", "red.example", "1", "255", "5400"]


def test_an_end_takes_the_default_route_away_and_leaves_the_address(host: Host) -> None:
    eventually(host.default, 30, "a default route")
    del host.lab.routers["red"]["interfaces"]["lan"]["ra"]
    host.lab.apply()
    eventually(lambda: not host.default(), 30, "no default route")
    assert host.addresses()


def test_live_changes(host: Host) -> None:
    host.lab.routers["red"]["interfaces"]["lan"]["ra"] = {"prefixes": {"2001:db8:a:1::/64": {"autonomous": False}}}
    host.lab.apply()
    host.again()
    route = eventually(host.default, 30, "a default route")
    assert "pref medium" in route
    assert host.addresses() == []
    host.lab.routers["red"]["interfaces"]["lan"]["ra"] = {"preference": "low"}
    host.lab.apply()
    eventually(host.addresses, 30, "an address")
    eventually(lambda: "pref low" in host.default(), 30, "another preference")
