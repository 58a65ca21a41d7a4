"""What `driver: auto` stands for on a device, and why.

It is af-packet on all of them: the only driver that takes super-frames whole, keeps VLAN tags and serves several
workers.  af-xdp is quicker with small packets where a device's driver runs XDP itself, and loses one of these; so it
is named where nothing but the operator's traffic speaks against it, and never chosen.
"""

from __future__ import annotations

import contextlib

from manager import ethtool, xdp_features, xsk
from manager.netlink import Link
from manager.resolve import PortPlan


def why_af_packet(plan: PortPlan, link: Link, netns_fd: int, workers: int) -> str:
    """Tell what speaks against the other drivers on a device that is in this namespace by now."""
    if plan.kind == "share":
        return "a VLAN of a shared device comes by a veth of its own"
    if plan.tagged:
        return "af-xdp would lose the VLAN tags"
    if link.mtu > xsk.MAX_MTU:
        return f"an MTU of {link.mtu} does not fit the frames of af-xdp"
    if link.kind == "veth":
        return "a veth whose peer may send super-frames; af-xdp would not take them whole"
    with contextlib.suppress(OSError):
        if ethtool.gro(netns_fd, link.name):
            return "its receive offload joins TCP segments; af-xdp would not"
    receive, transmit = ethtool.queues(netns_fd, link.name)
    if workers > min(receive, transmit):
        return f"{workers} workers share its frames, and af-xdp serves one for each of its queues"
    with contextlib.closing(xdp_features.Features(netns_fd)) as kernel:
        features = kernel.of(link.index)
    if not features:
        return "its driver does not run XDP programs"
    return "it takes super-frames; `driver: af-xdp` may forward small packets faster here"
