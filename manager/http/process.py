"""The api process's loop: HTTP/1.1 in plain asyncio, one request a connection.

    GET /metrics   Prometheus' text, or OpenMetrics where the client asks for it
    GET /healthz   200 while the manager answers
    GET /readyz    200 when every router that shall run is up, else 503 with their names

HEAD as GET.  Who speaks slowly, much, or with too many connections is cut off.  Not supported: TLS, other methods,
bodies, keep-alive.  The manager's pings come on a socket of their own, so that a long scrape is not taken for a hang.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
from typing import Any, Final

import msgpack

from manager.http.collect import Collector
from manager.http.exposition import OPENMETRICS, TEXT, render
from manager.http.upstream import Upstream, UpstreamError
from rsock.broker.link import Framing, frame
from vrouter.api.messages import ManagerOp

CONNECTIONS: Final = 32
PATIENCE: Final = 5.0  # for a whole request, and for the client to take the answer
HEAD_LIMIT: Final = 8192
BIND_RETRY: Final = 1.0
QUICK: Final = 2.0
STATUS: Final = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}

log = logging.getLogger(__name__)
Answer = tuple[int, str, bytes]  # status, content type, body


class Server:
    """All of the process."""

    def __init__(self, upstream: Upstream) -> None:
        """Begin; nothing listens yet."""
        self._upstream = upstream
        self._collector = Collector(upstream)
        self._busy = threading.Lock()  # the manager is asked by one at a time
        self._open = 0
        self._listening: asyncio.Task[None] | None = None

    async def run(self, control: socket.socket, unix: socket.socket) -> None:
        """Serve until the manager goes or ends us."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, ended.set)
        server = await asyncio.start_unix_server(self._client, sock=unix, limit=HEAD_LIMIT)
        hearing = asyncio.create_task(self._hear_manager(control, ended))
        async with server:
            await ended.wait()
        hearing.cancel()
        if self._listening is not None:
            self._listening.cancel()

    async def _hear_manager(self, control: socket.socket, ended: asyncio.Event) -> None:
        reader, writer = await asyncio.open_connection(sock=control)
        framing = Framing()
        while data := await reader.read(1 << 16):
            for body in framing.feed(data):
                message = msgpack.unpackb(body)
                if message["op"] == "listen" and self._listening is None:
                    self._listening = asyncio.create_task(self._listen(message["endpoint"]))
                elif message["op"] == "ping":
                    writer.write(frame(msgpack.packb({"op": "pong"})))
        ended.set()

    async def _listen(self, endpoint: str | None) -> None:
        """Listen on a TCP address as well; when that is taken, until it is free."""
        if endpoint is None:
            return
        host, _, port = endpoint.rpartition(":")
        told = False
        while True:
            try:
                server = await asyncio.start_server(self._client, host.strip("[]"), int(port), limit=HEAD_LIMIT)
            except OSError as error:
                if not told:
                    log.warning("%s cannot be listened on yet: %s", endpoint, error.strerror)
                told = True
                await asyncio.sleep(BIND_RETRY)
                continue
            async with server:
                await server.serve_forever()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= CONNECTIONS:
                async with asyncio.timeout(PATIENCE):
                    method, path, accept = await _request(reader)
                status, kind, body = await self._answer(method, path, accept)
                async with asyncio.timeout(PATIENCE):
                    writer.write(_head(status, kind, len(body)) + (b"" if method == "HEAD" else body))
                    await writer.drain()
        except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the client's own fault, or it has gone
        finally:
            await _hang_up(writer)
            self._open -= 1

    async def _answer(self, method: str, path: str, accept: str) -> Answer:
        if method not in {"GET", "HEAD"}:
            return _plain(405, "only GET and HEAD\n")
        work = {"/metrics": self._metrics, "/healthz": self._healthz, "/readyz": self._readyz}.get(
            path.partition("?")[0]
        )
        if work is None:
            return _plain(404, "there are /metrics, /healthz and /readyz\n")
        return await asyncio.to_thread(self._guarded, work, accept)

    def _guarded(self, work: Any, accept: str) -> Answer:
        try:
            with self._busy:
                answer: Answer = work(accept)
        except UpstreamError as error:
            return _plain(503, f"{error}\n")
        return answer

    def _metrics(self, accept: str) -> Answer:
        openmetrics = "application/openmetrics-text" in accept
        text = render(self._collector.collect(), openmetrics=openmetrics)
        return 200, OPENMETRICS if openmetrics else TEXT, text.encode()

    def _healthz(self, accept: str) -> Answer:
        del accept
        self._upstream.call(ManagerOp.ROUTERS, QUICK)
        return _plain(200, "ok\n")

    def _readyz(self, accept: str) -> Answer:
        del accept
        routers = self._upstream.call(ManagerOp.ROUTERS, QUICK)
        # One that is "down" was stopped by an operator.
        waiting = [f"{each['name']} is {each['state']}" for each in routers if each["state"] not in {"up", "down"}]
        return _plain(503, "\n".join(waiting) + "\n") if waiting else _plain(200, "ok\n")


async def _hang_up(writer: asyncio.StreamWriter) -> None:
    """Close a connection; what a client does not take in time is thrown away."""
    writer.close()
    try:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await writer.wait_closed()
    finally:
        writer.transport.abort()


async def _request(reader: asyncio.StreamReader) -> tuple[str, str, str]:
    """Read a request's head: method, path, and what the client accepts."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.split("\r\n")
    method, path, version = first.split(" ")
    if not version.startswith("HTTP/1."):
        raise ValueError(version)
    fields = (line.partition(":") for line in lines)
    accept = ",".join(value for name, _, value in fields if name.strip().lower() == "accept")
    return method, path, accept


def _head(status: int, kind: str, length: int) -> bytes:
    return (
        f"HTTP/1.1 {status} {STATUS[status]}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n"
        "Connection: close\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\r\n"
    ).encode()


def _plain(status: int, text: str) -> Answer:
    return status, "text/plain; charset=utf-8", text.encode()


def serve(control_fd: int, manager_fd: int, listener_fd: int) -> int:
    """Serve; give the exit code."""
    logging.basicConfig(level=logging.INFO, format="api: %(message)s")
    control, unix = socket.socket(fileno=control_fd), socket.socket(fileno=listener_fd)
    for each in (control, unix):
        each.setblocking(False)
    asyncio.run(Server(Upstream(socket.socket(fileno=manager_fd))).run(control, unix))
    return os.EX_OK
