"""asyncio streams in virtual routers: `open_connection` and `start_server` with `vr`.

Sockets of virtual routers may be given to asyncio themselves as well (`sock=`, `loop.sock_connect`, ...).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket as stdlib
from collections.abc import Awaitable, Callable
from typing import Any

from rsock.base import socket
from rsock.client import Context
from rsock.streams import create_server


async def open_connection(
    host: str, port: int, *, vr: str | None = None, ctx: Context | None = None, **more: Any
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a numeric address; `more` as in asyncio.open_connection (ssl, limit, ...)."""
    made = socket(stdlib.AF_INET6 if ":" in host else stdlib.AF_INET, stdlib.SOCK_STREAM, vr=vr, ctx=ctx)
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(made.close)
        made.setblocking(False)
        await asyncio.get_running_loop().sock_connect(made, (host, port))
        if more.get("ssl"):
            more.setdefault("server_hostname", host)
        streams = await asyncio.open_connection(sock=made, **more)
        cleanup.pop_all()
    return streams


async def start_server(
    connected: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None], host: str, port: int,
    *, vr: str | None = None, ctx: Context | None = None, backlog: int = 100, reuse_port: bool = False, **more: Any,
) -> asyncio.Server:  # fmt: skip
    """Listen on a numeric address; `more` as in asyncio.start_server."""
    family = stdlib.AF_INET6 if ":" in host else stdlib.AF_INET
    made = create_server((host, port), vr=vr, ctx=ctx, family=family, backlog=backlog, reuse_port=reuse_port)
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(made.close)
        made.setblocking(False)
        server = await asyncio.start_server(connected, sock=made, backlog=backlog, **more)
        cleanup.pop_all()
    return server
