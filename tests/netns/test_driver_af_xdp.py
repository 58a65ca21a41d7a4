"""The driver matrix with `driver: af-xdp`: native mode, as veths have it."""

from __future__ import annotations

from typing import Final

import pytest
from driver_matrix import Matrix
from hosts import MIB, check_laws, counters, transfer
from lab import Lab, wait_until

pytestmark = [pytest.mark.root]
NETS: Final = {"source": 0, "sink": 1}


class TestAfXdp(Matrix):
    """Both legs are of this driver."""

    driver = "af-xdp"


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
        assert shown["mode"] == ["native", "copy"]
        assert set(shown["rings"].values()) == {0}
        check_laws(lab, "red")
