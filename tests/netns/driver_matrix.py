"""What every driver must do, as a class of tests: a subclass names a driver, in a file of its own.

    source --leg-- red --leg-- sink         both legs are of the driver; MTU 1500 and 1400

    class TestTap(Matrix):
        driver, loss = "tap", 64

A leg is a veth with its near end for the router, or what a driver makes itself.  `loss` and `repeats` are what the
driver may lose and send twice when its forwarder is killed.
"""

from __future__ import annotations

import os
import re
import signal
import time
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final

import pytest
from hosts import MIB, answered, check_laws, counters, numbered, ping, super_datagrams, transfer
from lab import Lab, Namespace, wait_until
from traffic import Stream

from manager.cli.client import Manager
from vrouter.api.messages import ManagerOp

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

BATCH: Final = 64  # BATCH_SIZE: a successor may repeat one
NETS: Final = {"source": ("10.0.0", "2001:db8:a"), "sink": ("10.0.1", "2001:db8:b")}
SMALL_MTU: Final = 1400


class Legs:
    """The two legs of red by veths: devices that are there without us."""

    def __init__(self, lab: Lab, driver: str) -> None:
        self.lab = lab
        self.driver = driver

    def make(self, host: str) -> None:
        """Make what the router takes."""
        far, device = self.lab.namespaces[host], f"to-{host}"
        self.lab.box.ip("link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", far.name)
        self.lab.box.ip("link", "set", device, "up", check=False)  # a router that awaits it has taken it by now
        far.ip("link", "set", "eth0", "up")

    def interface(self, host: str) -> dict[str, Any]:
        """Give the router's part of a leg."""
        return {"device": f"to-{host}", "driver": self.driver}

    def delete(self, host: str) -> None:
        """Delete the device, and make it again where nobody else does."""
        self.lab.namespaces[host].ip("link", "del", "eth0")
        wait_until(lambda: self.lab.interface("red", host)["state"] == "down", "the router misses the device")
        self.make(host)


class TapLegs(Legs):
    """Legs that the manager makes: `eth0` of a host is the TAP itself."""

    def make(self, host: str) -> None:
        """Nothing: the router's manager does."""

    def interface(self, host: str) -> dict[str, Any]:
        """Name the device and its namespace."""
        return {"device": "eth0", "netns": self.lab.namespaces[host].name, "driver": "tap"}

    def delete(self, host: str) -> None:
        """Delete the device, which comes again by itself."""
        self.lab.namespaces[host].ip("link", "del", "eth0")


def red(lab: Lab) -> dict[str, Any]:
    """Give what the manager says of the router, without the start of another program."""
    with Manager(lab.run_dir) as manager:
        return next(router for router in manager.call(ManagerOp.ROUTERS) if router["name"] == "red")


def dress(host: Namespace, name: str) -> None:
    """Give a host its addresses and the way to the other one, once its device is there."""
    wait_until(lambda: any(link["ifname"] == "eth0" for link in host.links()), f"{name} has a device")
    net, net6 = NETS[name]
    host.ip("link", "set", "eth0", "up", "mtu", str(SMALL_MTU if name == "sink" else 1500))
    host.address("eth0", f"{net}.2/24")
    host.address("eth0", f"{net6}::2/64")
    host.ip("route", "replace", "default", "via", f"{net}.1")
    host.ip("route", "replace", "default", "via", f"{net6}::1")


class Matrix:
    """The tests.  Those that disturb something put it right again."""

    driver: ClassVar[str]
    legs: ClassVar[type[Legs]] = Legs
    dataplane: ClassVar[Mapping[str, Any]] = {}  # what else the router is configured to be
    shown: ClassVar[str] = ""  # as `vr show interfaces` has it; by default the driver with underlines
    loss: ClassVar[int] = 0
    repeats: ClassVar[int] = BATCH
    rate: ClassVar[int] = 3000  # frames a second that its queue keeps for a second, while nobody reads

    @pytest.fixture(scope="class")
    @classmethod
    def lab(cls) -> Iterator[Lab]:
        """Run red with both legs."""
        with Lab() as made:
            legs = cls.legs(made, cls.driver)
            interfaces = {}
            for name, (net, net6) in NETS.items():
                made.namespace(name)
                legs.make(name)
                mtu = {"mtu": SMALL_MTU} if name == "sink" else {}
                interfaces[name] = legs.interface(name) | {"addresses": [f"{net}.1/24", f"{net6}::1/64"]} | mtu
            made.configure({"red": {"dataplane": dict(cls.dataplane), "interfaces": interfaces}})
            made.start()
            for name in NETS:
                dress(made.namespaces[name], name)
            cls.wait_path(made)
            yield made
            check_laws(made, "red")

    @staticmethod
    def wait_path(lab: Lab) -> None:
        """Wait until both families pass."""
        for address in ("10.0.1.2", "2001:db8:b::2"):
            host = lab.namespaces["source"]
            wait_until(partial(host.ping, address, wait=0.2), f"the path to {address} is there")

    def test_it_is_the_driver(self, lab: Lab) -> None:
        """The router says so."""
        for name in NETS:
            assert lab.interface("red", name)["driver"] == (self.shown or self.driver.replace("-", "_"))

    @pytest.mark.parametrize("address", ["10.0.1.2", "2001:db8:b::2", "10.0.1.1", "2001:db8:b::1", "10.0.0.1"])
    def test_forwards_and_answers(self, lab: Lab, address: str) -> None:
        """Transit and the router itself answer every ping, of any size that fits, and of fragments."""
        source = lab.namespaces["source"]
        ping(source, "-c", "2", "-s", "5000", address)  # from here on the source knows the smaller MTU
        for size in ("0", "1300", "5000"):
            self.all_answered(source, size, address)

    @staticmethod
    def all_answered(source: Namespace, size: str, address: str) -> None:
        """Have five pings answered, at the second try where a busy machine has lost one: who cannot, cannot."""
        wait_until(lambda: answered(ping(source, "-c", "5", "-s", size, address), 5), f"{size} bytes, {address}")

    @pytest.mark.parametrize("address", ["10.0.1.2", "2001:db8:b::2"])
    def test_neighbors_are_resolved_again(self, lab: Lab, address: str) -> None:
        """ARP and ND both ways, with nothing known."""
        for name in NETS:
            lab.namespaces[name].ip("neighbor", "flush", "dev", "eth0")
        assert answered(ping(lab.namespaces["source"], "-c", "3", address), 3)

    def test_icmp_errors(self, lab: Lab) -> None:
        """Time exceeded, too big with the right MTU, unreachable: both families."""
        source = lab.namespaces["source"]
        assert "Time to live exceeded" in ping(source, "-c", "1", "-t", "1", "10.0.1.2")
        assert "Time exceeded: Hop limit" in ping(source, "-c", "1", "-t", "1", "2001:db8:b::2")
        big = ping(source, "-c", "1", "-M", "do", "-s", "1450", "10.0.1.2")
        assert re.search(rf"mtu[ =:]+{SMALL_MTU}", big), big
        big = ping(source, "-c", "1", "-M", "do", "-s", "1440", "2001:db8:b::2")
        assert re.search(rf"mtu[ =:]+{SMALL_MTU}", big), big
        assert "Destination Net Unreachable" in ping(source, "-c", "1", "192.0.2.77")
        for family in ("-4", "-6"):
            source.ip(family, "route", "flush", "cache")

    @pytest.mark.parametrize("address", ["10.0.1.2", "2001:db8:b::2"])
    def test_streams_pass_to_the_last_byte(self, lab: Lab, address: str) -> None:
        """TCP with all that the hosts leave to their cards, super-frames included; both ways."""
        source, sink = lab.namespaces["source"], lab.namespaces["sink"]
        back = {"10.0.1.2": "10.0.0.2", "2001:db8:b::2": "2001:db8:a::2"}[address]
        transfer(source, sink, address, 16 * MIB)
        transfer(sink, source, back, 16 * MIB)

    def test_super_datagrams_pass_in_order(self, lab: Lab) -> None:
        """UDP segmentation offload, into segments that fit the smaller MTU."""
        source, sink = lab.namespaces["source"], lab.namespaces["sink"]
        assert super_datagrams(source, sink, "10.0.1.2", 1300, 200) == numbered(1300, 200)

    def test_a_killed_forwarder_loses_no_more_than_promised(self, lab: Lab) -> None:
        """Kill it under traffic, twice."""
        source, sink = lab.namespaces["source"], lab.namespaces["sink"]
        before = red(lab)["restarts"]
        stream = Stream(lab, (source, "eth0"), (sink, "eth0"), tag=7, rate=self.rate, count=2 * self.rate)
        stream.start(self.router_mac(lab), "10.0.0.2", "10.0.1.2")
        for kills in (1, 2):
            time.sleep(0.3)
            if not stream.sending:  # a slow machine: once has to do
                assert kills == 2
                break
            os.kill(red(lab)["pids"]["forwarder"], signal.SIGKILL)
            wait_until(partial(self.restarted, lab, before + kills), "it came again")
            wait_until(lambda: red(lab)["state"] == "up", "it is up")
        result = stream.result(timeout=30)
        lost, repeated = result["lost"], result["duplicates"]
        assert lost <= 2 * self.loss, result
        assert repeated <= 2 * self.repeats, result
        assert result["foreign"] == 0

    @staticmethod
    def restarted(lab: Lab, times: int) -> bool:
        """Tell whether the router's processes were restarted so often."""
        return bool(red(lab)["restarts"] == times)

    @staticmethod
    def router_mac(lab: Lab) -> str:
        """Give the MAC of red's first leg."""
        mac: str = lab.interface("red", "source")["mac"]
        return mac

    def test_a_link_that_goes_down_comes_again(self, lab: Lab) -> None:
        """The host's side goes down and up."""
        sink = lab.namespaces["sink"]
        sink.ip("link", "set", "eth0", "down")
        wait_until(lambda: lab.interface("red", "sink")["state"] == "down", "the router sees it")
        assert not answered(ping(lab.namespaces["source"], "-c", "1", "-W", "0.2", "10.0.1.2"), 1)
        sink.ip("link", "set", "eth0", "up")
        wait_until(lambda: lab.interface("red", "sink")["state"] == "up", "the router sees it again")
        dress_again(sink)
        self.wait_path(lab)

    def test_a_device_that_is_deleted_comes_again(self, lab: Lab) -> None:
        """Another device of the same name is coupled, with another index and another MAC."""
        sink = lab.namespaces["sink"]
        before = next(link["ifindex"] for link in sink.links() if link["ifname"] == "eth0")
        self.legs(lab, self.driver).delete("sink")
        wait_until(
            lambda: any(link["ifname"] == "eth0" and link["ifindex"] != before for link in sink.links()),
            "there is another device",
        )
        dress(sink, "sink")
        wait_until(lambda: lab.interface("red", "sink")["state"] == "up", "the router sees it")
        self.wait_path(lab)
        assert counters(lab, "red")["sink"]["tx_packets"] > 0

    def test_a_manager_that_dies_leaves_all_as_it_was(self, lab: Lab) -> None:
        """The next one adopts the ports: traffic goes on throughout, and afterwards."""
        source, sink = lab.namespaces["source"], lab.namespaces["sink"]
        pids = lab.router("red")["pids"]
        stream = Stream(lab, (source, "eth0"), (sink, "eth0"), tag=8, rate=self.rate, count=self.rate * 3 // 2)
        stream.start(self.router_mac(lab), "10.0.0.2", "10.0.1.2")
        lab.kill()
        lab.start()
        assert lab.router("red")["pids"] == pids
        result = stream.result(timeout=30)
        assert (result["lost"], result["duplicates"]) == (0, 0), result


def dress_again(host: Namespace) -> None:
    """Give back what the kernel took from a device that went down: IPv6 addresses and routes."""
    name = "sink"
    net, net6 = NETS[name]
    host.ip("address", "add", f"{net6}::2/64", "dev", "eth0", "nodad", check=False)
    host.ip("route", "replace", "default", "via", f"{net}.1")
    host.ip("route", "replace", "default", "via", f"{net6}::1")
