"""The api process and clients that mean it no good."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from manager.http import process

BODY = bytes(8 << 20)  # more than a socket takes
CLIENTS = 40


class Big(process.Server):
    """Serves without a manager."""

    def __init__(self) -> None:
        self._open = 0

    async def _answer(self, method: str, path: str, accept: str) -> process.Answer:  # noqa: ARG002
        return 200, "text/plain", BODY


def test_a_client_that_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "PATIENCE", 0.2)
    assert asyncio.run(_served()) == CLIENTS


async def _served() -> int:
    """Have clients ask and not read; give how many the server has let go of."""
    made: list[asyncio.StreamWriter] = []
    server = Big()

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Any:
        made.append(writer)
        await server._client(reader, writer)

    listener = await asyncio.start_server(client, "127.0.0.1", 0, limit=process.HEAD_LIMIT)
    address = listener.sockets[0].getsockname()
    clients = [socket.create_connection(address) for _ in range(CLIENTS)]
    for each in clients:
        each.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
    for _ in range(100):
        await asyncio.sleep(0.1)
        gone = sum(writer.transport.get_write_buffer_size() == 0 and writer.is_closing() for writer in made)
        if gone == CLIENTS and server._open == 0:
            break
    for each in clients:
        each.close()
    listener.close()
    return gone
