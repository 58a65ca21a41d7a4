"""Sockets in virtual routers and in the kernel, from one unprivileged process.

    import rsock
    with rsock.socket(AF_INET, SOCK_DGRAM, vr="red") as sock:
        sock.sendto(b"who are you?", ("10.0.0.2", 7777))

`vrs` lists the virtual routers that this process may use; `watch` gives events: created, up, down, gone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rsock.aio import open_connection, start_server
    from rsock.client import VR, Context, Event, Watch
    from rsock.errors import BrokerGone, RsockDenied, RsockError, VRDown, VRNotFound
    from rsock.sockets import create_connection, create_server, default_vr, socket

__all__ = [
    "VR", "BrokerGone", "Context", "Event", "RsockDenied", "RsockError", "VRDown", "VRNotFound", "Watch",
    "create_connection", "create_server", "default_vr", "open_connection", "socket", "start_server", "vr", "vrs",
    "watch",
]  # fmt: skip


# Found when they are first used: `rsock.wire` alone, as a forwarder needs it, must not bring ZeroMQ along.
_PLACES: Final = {
    "rsock.client": ("VR", "Context", "Event", "Watch"),
    "rsock.errors": ("BrokerGone", "RsockDenied", "RsockError", "VRDown", "VRNotFound"),
    "rsock.sockets": ("create_connection", "create_server", "default_vr", "socket"),
    "rsock.aio": ("open_connection", "start_server"),
}


def __getattr__(name: str) -> Any:
    for module, names in _PLACES.items():
        if name in names:
            found = globals()[name] = getattr(importlib.import_module(module), name)
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__


def vrs() -> list[VR]:
    """List the virtual routers where this process has any right."""
    return _default_context().vrs()


def vr(name: str) -> VR:
    """Give a virtual router by name.  Raises VRNotFound."""
    return _default_context().vr(name)


def watch(*, initial: bool = False) -> Watch:
    """Watch events of virtual routers from now on."""
    return _default_context().watch(initial=initial)


def _default_context() -> Context:
    from rsock.client import default_context  # noqa: PLC0415 - see _PLACES

    return default_context()
