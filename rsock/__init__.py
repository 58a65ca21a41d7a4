"""Sockets in virtual routers and in the kernel, from one unprivileged process.

    import rsock
    with rsock.socket(AF_INET, SOCK_DGRAM, vr="red") as sock:
        sock.sendto(b"who are you?", ("10.0.0.2", 7777))

    socket, create_connection, create_server, getaddrinfo, ...   as in the module socket, with `vr`
    open_connection, start_server, create_datagram_endpoint      as in asyncio
    SSLSocket                                                    as in ssl
    patch, default_vr                                            other people's libraries in a virtual router
    fromfd                                                       a socket of a fd that came by fork or SCM_RIGHTS
    Context, Curve                                               another Anabranch, on this host or on another

`vrs` lists the virtual routers that this process may use; `watch` gives events: created, up, down, gone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rsock.aio import create_datagram_endpoint, open_connection, start_server
    from rsock.client import VR, Context, Event, Watch
    from rsock.errors import BrokerGone, RsockDenied, RsockError, VRDown, VRNotFound
    from rsock.patching import patch
    from rsock.remote import Curve
    from rsock.resolver import getaddrinfo, gethostbyaddr, gethostbyname, gethostbyname_ex, getnameinfo
    from rsock.sockets import Place, create_connection, create_server, default_vr, fromfd, socket
    from rsock.tls import SSLSocket
    from rsock.wire import RSOCK_VR, SOL_RSOCK

__all__ = [
    "RSOCK_VR", "SOL_RSOCK", "VR", "BrokerGone", "Context", "Curve", "Event", "Place", "RsockDenied", "RsockError",
    "SSLSocket", "VRDown", "VRNotFound", "Watch", "create_connection", "create_datagram_endpoint", "create_server",
    "default_vr", "fromfd", "getaddrinfo", "gethostbyaddr", "gethostbyname", "gethostbyname_ex", "getnameinfo",
    "open_connection", "patch", "socket", "start_server", "vr", "vrs", "watch",
]  # fmt: skip


# Found when they are first used: `rsock.wire` alone, as a forwarder needs it, must not bring ZeroMQ along.
_PLACES: Final = {
    "rsock.client": ("VR", "Context", "Event", "Watch"),
    "rsock.errors": ("BrokerGone", "RsockDenied", "RsockError", "VRDown", "VRNotFound"),
    "rsock.sockets": ("Place", "create_connection", "create_server", "default_vr", "fromfd", "socket"),
    "rsock.aio": ("create_datagram_endpoint", "open_connection", "start_server"),
    "rsock.patching": ("patch",),
    "rsock.remote": ("Curve",),
    "rsock.resolver": ("getaddrinfo", "gethostbyaddr", "gethostbyname", "gethostbyname_ex", "getnameinfo"),
    "rsock.tls": ("SSLSocket",),
    "rsock.wire": ("RSOCK_VR", "SOL_RSOCK"),
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
