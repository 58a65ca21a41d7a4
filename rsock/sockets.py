"""Sockets in a virtual router, or in the kernel, behind one class, and the functions that make them.

socket(..., vr="red")     a RouterSocket: an AF_UNIX fd whose other end the VR's forwarder holds
socket(..., vr="kernel")  an ordinary socket
socket(..., vr="*")       a SpanningSocket: one in each VR, present and future

base --> datagrams (SOCK_DGRAM, SOCK_RAW)
     --> streams (SOCK_STREAM)
     --> everywhere (both, in several VRs)
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket as stdlib
from collections.abc import Callable
from multiprocessing.reduction import DupFd, ForkingPickler
from typing import Any

from rsock.base import KERNEL, RouterSocket, default_vr, socket
from rsock.client import Context
from rsock.datagrams import DatagramSocket
from rsock.everywhere import Place, SpanningDatagrams, SpanningListener
from rsock.resolver import getaddrinfo
from rsock.streams import StreamSocket

__all__ = [
    "KERNEL", "DatagramSocket", "Place", "RouterSocket", "SpanningDatagrams", "SpanningListener", "StreamSocket",
    "create_connection", "create_server", "default_vr", "fromfd", "has_dualstack_ipv6", "socket",
]  # fmt: skip

_GLOBAL_TIMEOUT = -1.0


def fromfd(fd: int, *, ctx: Context | None = None) -> socket:
    """Make a socket of a duplicate of an fd: one of a virtual router where that is what the fd is."""
    copy = os.dup(fd)
    try:
        return socket(fileno=copy, ctx=ctx)
    except BaseException:
        os.close(copy)
        raise


def _rebuilt(handle: Any) -> socket:
    return socket(fileno=handle.detach())


def _handed_over(sock: RouterSocket) -> tuple[Callable[[Any], socket], tuple[Any]]:
    return _rebuilt, (DupFd(sock.fileno()),)


# Pipes and queues of multiprocessing hand sockets over, as they do the standard module's; pickle itself refuses them.
for _kind in (DatagramSocket, StreamSocket):
    ForkingPickler.register(_kind, _handed_over)


def create_connection(
    address: tuple[str, int], timeout: float | None = _GLOBAL_TIMEOUT, source_address: tuple[str, int] | None = None,
    *, all_errors: bool = False, vr: str | None = None, ctx: Context | None = None,
) -> socket:  # fmt: skip
    """Connect to a host's first address that answers, and give the socket; a negative `timeout`: the default."""
    host, port = address
    problems: list[OSError] = []
    for family, kind, proto, _name, where in getaddrinfo(host, port, 0, stdlib.SOCK_STREAM, vr=vr, ctx=ctx):
        with contextlib.ExitStack() as cleanup:
            try:
                made = socket(family, kind, proto, vr=vr, ctx=ctx)
                cleanup.callback(made.close)
                if timeout is None or timeout >= 0:
                    made.settimeout(timeout)
                if source_address:
                    made.bind(source_address)
                made.connect(where)
            except OSError as error:
                problems.append(error)
            else:
                cleanup.pop_all()
                return made
    if not problems:
        raise OSError(errno.EHOSTUNREACH, "the name has no address")
    try:
        if all_errors:
            raise ExceptionGroup("create_connection failed", problems)
        raise problems[0]
    finally:
        problems.clear()  # exceptions refer to frames, and frames to them


def create_server(
    address: tuple[str, int], *, vr: str | None = None, ctx: Context | None = None, family: int = stdlib.AF_INET,
    backlog: int | None = None, reuse_port: bool = False, dualstack_ipv6: bool = False,
) -> socket:  # fmt: skip
    """Listen on an address and give the socket; `dualstack_ipv6`: one of AF_INET6 that serves both families."""
    if dualstack_ipv6 and family != stdlib.AF_INET6:
        raise ValueError("dualstack_ipv6 requires AF_INET6 family")
    made = socket(family, stdlib.SOCK_STREAM, vr=vr, ctx=ctx)
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(made.close)
        made.setsockopt(stdlib.SOL_SOCKET, stdlib.SO_REUSEADDR, 1)
        if reuse_port:
            made.setsockopt(stdlib.SOL_SOCKET, stdlib.SO_REUSEPORT, 1)
        if family == stdlib.AF_INET6:
            made.setsockopt(stdlib.IPPROTO_IPV6, stdlib.IPV6_V6ONLY, int(not dualstack_ipv6))
        try:
            made.bind(address)
        except OSError as error:
            text = f"{error.strerror} (while attempting to bind on address {address!r})"
            raise OSError(error.errno, text) from None
        made.listen(-1 if backlog is None else backlog)
        cleanup.pop_all()
    return made


def has_dualstack_ipv6(*_arguments: Any) -> bool:
    """Tell that an AF_INET6 listener can serve both families: each VR's can."""
    return True
