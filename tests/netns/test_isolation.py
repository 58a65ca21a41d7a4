"""Two VRs with the same MACs, addresses and ports: not one byte crosses."""

from __future__ import annotations

from functools import partial

import pytest
from lab import Lab, wait_until
from traffic import Stream

pytestmark = [pytest.mark.quiet, pytest.mark.root]

RATE, COUNT = 10_000, 30_000
MACS = {"in": "02:00:00:00:0a:01", "out": "02:00:00:00:0b:01"}


def test_no_frame_of_one_router_is_seen_behind_the_other() -> None:
    with Lab() as lab:
        routers, streams = {}, []
        for tag, name in enumerate(("red", "blue"), start=1):
            source = lab.host(f"{name}-source", f"{name}-in", "10.0.0.2/24", gateway="10.0.0.1")
            sink = lab.host(f"{name}-sink", f"{name}-out", "10.0.1.2/24", gateway="10.0.1.1")
            routers[name] = {
                "interfaces": {
                    "in": {"device": f"{name}-in", "mac": MACS["in"], "addresses": ["10.0.0.1/24"]},
                    "out": {"device": f"{name}-out", "mac": MACS["out"], "addresses": ["10.0.1.1/24"]},
                }
            }
            streams.append((Stream(lab, (source, "eth0"), (sink, "eth0"), tag, RATE, COUNT), source))
        lab.configure(routers)
        lab.start()
        for stream, source in streams:
            wait_until(partial(source.ping, "10.0.1.2"), "the path is there")
            stream.start(MACS["in"], "10.0.0.2", "10.0.1.2")
        for stream, _source in streams:
            counted = stream.result(30)
            assert counted["foreign"] == 0, counted
            assert counted["lost"] == 0, counted
            assert counted["duplicates"] == 0, counted
        for name in routers:
            # The kernel in the VR's namespace, where the devices are, has forwarded nothing.
            forwarded = lab.box.run("ip", "netns", "exec", lab.router(name)["netns"], "cat", "/proc/net/snmp").stdout
            header, values = (line.split() for line in forwarded.splitlines() if line.startswith("Ip:"))
            assert values[header.index("ForwDatagrams")] == "0"
