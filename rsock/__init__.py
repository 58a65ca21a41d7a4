"""Sockets in virtual routers and in the kernel, from one unprivileged process.

    import rsock
    with rsock.socket(AF_INET, SOCK_DGRAM, vr="red") as sock:
        sock.sendto(b"who are you?", ("10.0.0.2", 7777))

`vrs` lists the virtual routers that this process may use; `watch` gives events: created, up, down, gone.
"""

from __future__ import annotations

from rsock.client import VR, Context, Event, Watch, default_context
from rsock.errors import BrokerGone, RsockDenied, RsockError, VRDown, VRNotFound
from rsock.sockets import default_vr, socket

__all__ = [
    "VR", "BrokerGone", "Context", "Event", "RsockDenied", "RsockError", "VRDown", "VRNotFound", "Watch", "default_vr",
    "socket", "vr", "vrs", "watch",
]  # fmt: skip


def vrs() -> list[VR]:
    """List the virtual routers where this process has any right."""
    return default_context().vrs()


def vr(name: str) -> VR:
    """Give a virtual router by name.  Raises VRNotFound."""
    return default_context().vr(name)


def watch(*, initial: bool = False) -> Watch:
    """Watch events of virtual routers from now on."""
    return default_context().watch(initial=initial)
