"""TLS on sockets of virtual routers: an SSLSocket whose names and options are the VR's.

    context.sslsocket_class = rsock.SSLSocket
    secure = context.wrap_socket(sock, server_hostname="www")

ssl.SSLSocket takes the fd out of the socket that it wraps, and OpenSSL reads and writes that fd: it works without
this class too, but then names, options and the end of a connection are those of a Unix socket.  asyncio's TLS stands
on transports and needs nothing of this, and under `rsock.patch` each ssl.SSLSocket of a VR's fd is like this one.
"""

from __future__ import annotations

import ssl
from typing import Any

from rsock.base import new_socket


class SSLSocket(ssl.SSLSocket):
    """An ssl.SSLSocket, in a virtual router where the fd is one of a VR, else in the kernel."""

    def __new__(cls, family: int = -1, type: int = -1, proto: int = -1, fileno: int | None = None) -> Any:  # noqa: A002, ARG004
        """Choose the class by the fd's names."""
        return new_socket(cls, family, type, fileno, None)
