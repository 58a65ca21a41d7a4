"""The driver matrix with `driver: af-xdp`: native mode, as veths have it; several queues, two workers."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from typing import ClassVar, Final

import pytest
from driver_matrix import Legs, Matrix, dress_again
from hosts import MIB, check_laws, counters, transfer
from lab import Lab, wait_until

pytestmark = [pytest.mark.root]
NETS: Final = {"source": 0, "sink": 1}


class QueueLegs(Legs):
    """Three receive queues at the source; one at the sink, and two when that comes again."""

    def __init__(self, lab: Lab, driver: str) -> None:
        super().__init__(lab, driver)
        self.queues = {"source": 3, "sink": 1}

    def make(self, host: str) -> None:
        """Make a veth of many queues, and leave as many as there shall be before the router sees it."""
        far, count = self.lab.namespaces[host], str(self.queues[host])
        many = ("numrxqueues", "3", "numtxqueues", "3")
        self.lab.box.ip("link", "add", "new", *many, "type", "veth", "peer", "name", "eth0", *many, "netns", far.name)
        for namespace, device in ((self.lab.box, "new"), (far, "eth0")):
            if count != "3":
                namespace.run("ethtool", "-L", device, "rx", count, "tx", count)
        self.lab.box.ip("link", "set", "new", "name", f"to-{host}")
        self.lab.box.ip("link", "set", f"to-{host}", "up", check=False)  # a router that awaits it has taken it by now
        far.ip("link", "set", "eth0", "up")

    def delete(self, host: str) -> None:
        """Delete the device; the next one has two."""
        self.queues = {host: 2}
        super().delete(host)


class TestAfXdp(Matrix):
    """Both legs are of this driver: with several queues both workers receive, and both send once the sink has two."""

    driver = "af-xdp"
    legs = QueueLegs
    dataplane: ClassVar = {"workers": 2}
    rate = 1000  # one flow has the room of one queue

    def test_flows_are_spread_and_stay_in_order(self, lab: Lab) -> None:
        """The kernel of the source chooses the queue, one for each flow."""
        if lab.interface("red", "sink")["queues"] == 1:
            self.test_a_device_that_is_deleted_comes_again(lab)  # with two
        source, sink_queues = [lab.interface("red", name)["queues"] for name in NETS]
        assert source == 3
        assert sink_queues >= 2
        before = [worker["packets"] for worker in lab.vr("show", "workers", "red")]
        with contextlib.ExitStack() as opened:
            sink = opened.enter_context(lab.namespaces["sink"].socket(socket.AF_INET, socket.SOCK_DGRAM))
            sink.bind(("10.0.1.2", 7003))
            sink.settimeout(5)
            flows = [
                opened.enter_context(lab.namespaces["source"].socket(socket.AF_INET, socket.SOCK_DGRAM))
                for _ in range(48)
            ]
            for flow in flows:
                flow.connect(("10.0.1.2", 7003))
            for turn in range(20):
                for flow in flows:
                    flow.send(bytes([turn]))
                found = [sink.recvfrom(64) for _ in flows]
                wanted = {(flow.getsockname()[1], turn) for flow in flows}
                assert {(port, data[0]) for data, (_address, port) in found} == wanted
        after = [worker["packets"] for worker in lab.vr("show", "workers", "red")]
        assert min(now - then for now, then in zip(after, before, strict=True)) >= 20  # one of the flows
        check_laws(lab, "red")

    def test_queues_that_come_are_read(self, lab: Lab) -> None:
        """The device gets another one; a queue that is read cannot be taken from it."""
        sink, inside = lab.namespaces["sink"], lab.router("red")["netns"]

        def change(count: int) -> bool:
            words = ["ip", "netns", "exec", inside, "ethtool", "-L", "to-sink", "rx", str(count)]
            return subprocess.run(words, check=False, capture_output=True).returncode == 0

        assert change(3)
        sink.run("ethtool", "-L", "eth0", "tx", "3")
        sink.ip("link", "set", "eth0", "down")  # somebody tells that something has changed
        sink.ip("link", "set", "eth0", "up")
        wait_until(lambda: lab.interface("red", "sink")["queues"] == 3, "all are read")
        dress_again(sink)
        self.wait_path(lab)
        assert not change(2)


def test_a_router_mixes_it_with_af_packet() -> None:
    """Super-frames of one driver are split for the other, and unfinished checksums are finished."""
    with Lab() as lab:
        hosts = {name: lab.host(name, f"to-{name}", f"10.0.{net}.2/24", f"10.0.{net}.1") for name, net in NETS.items()}
        interfaces = {
            name: {"device": f"to-{name}", "driver": driver, "addresses": [f"10.0.{NETS[name]}.1/24"]}
            for name, driver in (("source", "af-packet"), ("sink", "af-xdp"))
        }
        lab.configure({"red": {"interfaces": interfaces}})
        lab.start()
        wait_until(lambda: hosts["source"].ping("10.0.1.2", wait=0.2), "there is a path")
        transfer(hosts["source"], hosts["sink"], "10.0.1.2", 8 * MIB)
        transfer(hosts["sink"], hosts["source"], "10.0.0.2", 8 * MIB)
        counted = counters(lab, "red")
        assert counted["sink"]["tx_packets"] > counted["source"]["rx_packets"]
        shown = lab.interface("red", "sink")
        assert (shown["mode"], shown["queues"]) == (["native", "copy"], 1)
        assert set(shown["rings"].values()) == {0}
        check_laws(lab, "red")
