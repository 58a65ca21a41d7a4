"""The same frames into a VR and into a kernel router: what comes out must be equal.

Everything that may differ is in `differential.normalize`, in `frames.comparable` and, in words, in
docs/differences.md; nowhere else.
"""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, Final

import pytest
from differential import IN_MAC, KERNEL_ROUTER, OUT_MAC, SYSCTLS, Comparison
from frames import Frames
from hosts import check_laws
from lab import Lab, Namespace, wait_until
from router_side import RouterSide

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.root, pytest.mark.slow]

FRAMES: Final = int(os.environ.get("DIFFERENTIAL_FRAMES", "100000"))
SEED: Final = int(os.environ.get("DIFFERENTIAL_SEED", "1"))
ROUTER: Final = {
    "interfaces": {
        "in": {"device": "vr-in", "mac": IN_MAC, "addresses": ["10.0.0.1/24", "2001:db8:a::1/64"]},
        "out": {"device": "vr-out", "mac": OUT_MAC, "mtu": 1400, "addresses": ["10.0.1.1/24", "2001:db8:b::1/64"]},
    },
    "static": {
        "10.128.0.0/9": {"via": "10.0.1.2"},
        "172.16.0.0/12": {"via": "10.0.0.2"},
        "192.0.2.0/24": {"discard": True},
        "2001:db8:c::/48": {"via": "2001:db8:b::2"},
        "2001:db8:d::/48": {"via": "2001:db8:a::2"},
    },
}
KERNEL: Final = f"""{KERNEL_ROUTER}link set k-out mtu 1400
"""


def silent(namespace: Namespace) -> Namespace:
    """Keep a namespace's own IPv6 stack off the links, so that only our packet sockets speak there."""
    namespace.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
    return namespace


def kernel_router(lab: Lab, peers: Namespace) -> RouterSide:
    """Make a kernel router between two links."""
    router = lab.namespace("kernel")
    router.run("sysctl", "-qw", *SYSCTLS)
    for link in ("in", "out"):
        lab.veth(f"k-{link}", router, peers, f"kp-{link}")
    for line in KERNEL.strip().splitlines():
        router.ip(*line.split())
    return RouterSide((peers, "kp-in"), (peers, "kp-out"))


def virtual_router(lab: Lab, peers: Namespace) -> RouterSide:
    """Make a VR between two links of the same shape."""
    for link in ("in", "out"):
        lab.veth(f"vr-{link}", None, peers, f"vp-{link}")
    lab.configure({"twin": ROUTER})
    lab.start()
    return RouterSide((peers, "vp-in"), (peers, "vp-out"))


@pytest.fixture
def comparison() -> Iterator[tuple[Comparison, Lab]]:
    """A kernel router and a VR, both past duplicate address detection and with their neighbors known."""
    with Lab() as lab:
        peers = silent(lab.namespace("peers"))
        reference, tested = kernel_router(lab, peers), virtual_router(lab, peers)
        warm_up = Frames(random.Random(0)).plain(50)

        def agree() -> bool:
            return not Comparison(reference, tested).run(warm_up, most=1)

        try:
            wait_until(agree, "both routers forward the same", timeout=15, interval=0.2)
            yield Comparison(reference, tested), lab
        finally:
            reference.close()
            tested.close()


@pytest.mark.timeout(600)
def test_vr_and_kernel_do_the_same(comparison: tuple[Comparison, Lab]) -> None:
    """Each output frame of the kernel's comes out of the VR as well, bit for bit, and no other."""
    compared, lab = comparison
    found = compared.run(Frames(random.Random(SEED)).take(FRAMES))
    print(f"\ndifferential: {compared.compared} frames, kernel's outputs {dict(compared.outputs)}")
    assert not found, "\n".join(map(str, found))
    assert compared.compared == FRAMES
    check_laws(lab, "twin")
