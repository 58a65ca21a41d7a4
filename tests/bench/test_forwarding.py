"""Forwarding of 60-byte packets on one core: a VR against the kernel, on veth pairs of the same shape."""

from __future__ import annotations

import os
from typing import Final

import pytest
from lab import Lab, wait_until
from topology import ROUTER_CPU, Line

pytestmark = [pytest.mark.root, pytest.mark.slow]

OFFERED: Final = (300_000, 500_000, 800_000, 1_200_000, 2_000_000)


def kernel_line(lab: Lab) -> Line:
    """Make the kernel the router."""
    router = lab.namespace("kernel")
    line = Line(lab, "k", router)
    router.address("k0", "10.0.0.1/24")
    router.address("k1", "10.0.1.1/24")
    router.ip("route", "add", "default", "via", "10.0.1.9")
    router.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    return line


@pytest.mark.timeout(300)
def test_forwarding_against_the_kernel() -> None:
    with Lab() as lab:
        kernel = kernel_line(lab)
        ours = Line(lab, "v", lab.box)
        interfaces = {
            "in": {"device": "v0", "addresses": ["10.0.0.1/24"]},
            "out": {"device": "v1", "addresses": ["10.0.1.1/24"]},
        }
        lab.configure({"bench": {"interfaces": interfaces, "static": {"0.0.0.0/0": {"via": "10.0.1.9"}}}})
        lab.start()
        os.sched_setaffinity(lab.router("bench")["pids"]["forwarder"], {int(ROUTER_CPU)})
        try:
            wait_until(lambda: kernel.rate(10_000, 0.3) > 0 and ours.rate(10_000, 0.3) > 0, "both forward")
            before = kernel.peak(OFFERED)
            own = ours.peak(OFFERED)
            after = kernel.peak(OFFERED)
        finally:
            kernel.close()
            ours.close()
        baseline = (before + after) / 2
        print(
            f"\nforwarding, 60 bytes, 1 core: kernel {before / 1e6:.3f} and {after / 1e6:.3f} Mpps,"
            f" VR {own / 1e6:.3f} Mpps"
        )
        print(f"ratio VR : kernel = {own / baseline:.2f}")
        assert own > 0
