"""asyncio in virtual routers: `open_connection`, `start_server` and `create_datagram_endpoint` with `vr`.

Sockets of virtual routers may be given to asyncio themselves as well (`sock=`, `loop.sock_connect`, ...): its
transports call the socket's methods, so that an unconnected datagram socket's header is seen by nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import socket as stdlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from rsock.base import choose, socket
from rsock.client import Context
from rsock.resolver import getaddrinfo
from rsock.sockets import create_server

Protocol = TypeVar("Protocol", bound=asyncio.DatagramProtocol)
Address = tuple[str, int]


async def open_connection(
    host: str, port: int, *, vr: str | None = None, ctx: Context | None = None, **more: Any
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a host's first address that answers; `more` as in asyncio.open_connection (ssl, limit, ...)."""
    local = more.pop("local_addr", None)
    problem: OSError | None = None
    for family, kind, proto, _name, where in await _addresses(host, port, stdlib.SOCK_STREAM, vr, ctx):
        with contextlib.ExitStack() as cleanup:
            try:
                made = socket(family, kind, proto, vr=vr, ctx=ctx)
                cleanup.callback(made.close)
                made.setblocking(False)
                if local:
                    made.bind(local)
                await asyncio.get_running_loop().sock_connect(made, where)
            except OSError as error:
                problem = problem or error
                continue
            if more.get("ssl"):
                more.setdefault("server_hostname", host)
            streams = await asyncio.open_connection(sock=made, **more)
            cleanup.pop_all()
            return streams
    raise problem or OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH))


async def _addresses(host: str, port: int, kind: int, vr: str | None, ctx: Context | None) -> list[tuple[Any, ...]]:
    # A thread has a context of its own: what default_vr says is found out here.
    ask = functools.partial(getaddrinfo, host, port, 0, kind, vr=choose(vr), ctx=ctx)
    return await asyncio.get_running_loop().run_in_executor(None, ask)


async def start_server(
    connected: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None], host: str, port: int,
    *, vr: str | None = None, ctx: Context | None = None, backlog: int = 100, reuse_port: bool = False, **more: Any,
) -> asyncio.Server:  # fmt: skip
    """Listen on an address; `more` as in asyncio.start_server."""
    infos = await _addresses(host or "0.0.0.0", port, stdlib.SOCK_STREAM, vr, ctx)
    family, where = infos[0][0], infos[0][4]
    made = create_server(where, vr=vr, ctx=ctx, family=family, backlog=backlog, reuse_port=reuse_port)
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(made.close)
        made.setblocking(False)
        server = await asyncio.start_server(connected, sock=made, backlog=backlog, **more)
        cleanup.pop_all()
    return server


async def create_datagram_endpoint(
    factory: Callable[[], Protocol], local_addr: Address | None = None, remote_addr: Address | None = None,
    *, family: int = 0, reuse_port: bool = False, allow_broadcast: bool = False, vr: str | None = None,
    ctx: Context | None = None,
) -> tuple[asyncio.DatagramTransport, Protocol]:  # fmt: skip
    """Make a transport of datagrams, bound, connected or both; as loop.create_datagram_endpoint."""
    loop = asyncio.get_running_loop()
    some = remote_addr or local_addr
    if some is not None and not family:
        family = (await _addresses(*some, stdlib.SOCK_DGRAM, vr, ctx))[0][0]
    made = socket(family or stdlib.AF_INET, stdlib.SOCK_DGRAM, vr=vr, ctx=ctx)
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(made.close)
        made.setblocking(False)
        if reuse_port:
            made.setsockopt(stdlib.SOL_SOCKET, stdlib.SO_REUSEPORT, 1)
        if allow_broadcast:
            made.setsockopt(stdlib.SOL_SOCKET, stdlib.SO_BROADCAST, 1)
        if local_addr is not None:
            made.bind(local_addr)
        if remote_addr is not None:
            await loop.sock_connect(made, remote_addr)
        transport, protocol = await loop.create_datagram_endpoint(factory, sock=made)
        cleanup.pop_all()
    return transport, protocol
