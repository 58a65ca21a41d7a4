"""An unprivileged app of the tests: obeys lines on stdin, answers with JSON lines on stdout.

    python app_worlds.py UID [GROUP ...]      started as root, gives all rights up once it is loaded

    open NAME VR KIND          udp | udp6 | echo | echo6 | raw
    bind NAME ADDRESS PORT
    connect NAME ADDRESS PORT
    ask NAME TEXT [ADDRESS PORT]   send, wait for the answer: {text, from}
    select NAME NAME ...       wait with one selector for all: {ready}
    recv NAME                  {text, from}
    port NAME                  {port}
    wait EVENT VR              from rsock.watch(): {vr, reason}
    vrs                        {vrs}
    gather TEXT ADDRESS PORT NAME ...   ask through all of them at once, with asyncio: {answers}
    close NAME

Each answer has `ok`; a failed call has `errno` and `type`.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import selectors
import socket
import struct
import sys
from typing import Any

import rsock
import rsock.client
import rsock.sockets  # rsock loads them late, and then the interpreter's own files may be out of reach

KINDS = {
    "udp": (socket.AF_INET, socket.SOCK_DGRAM, 0),
    "udp6": (socket.AF_INET6, socket.SOCK_DGRAM, 0),
    "echo": (socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP),
    "echo6": (socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_ICMPV6),
    "raw": (socket.AF_INET, socket.SOCK_RAW, 253),
}
TIMEOUT = 20.0


class App:
    """The state of one app."""

    def __init__(self) -> None:
        self._sockets: dict[str, socket.socket] = {}
        self._kinds: dict[str, str] = {}
        self._events = rsock.watch()

    def open(self, name: str, vr: str, kind: str) -> dict[str, Any]:
        made = rsock.socket(*KINDS[kind], vr=None if vr == "-" else vr)
        made.settimeout(TIMEOUT)
        self._sockets[name], self._kinds[name] = made, kind
        return {"fd": made.fileno()}

    def bind(self, name: str, address: str, port: str) -> dict[str, Any]:
        self._sockets[name].bind((address, int(port)))
        return {}

    def connect(self, name: str, address: str, port: str) -> dict[str, Any]:
        self._sockets[name].connect((address, int(port)))
        return {}

    def ask(self, name: str, text: str, *where: str) -> dict[str, Any]:
        data = text.encode()
        if self._kinds[name].startswith("echo"):
            data = struct.pack(">BBHHH", 128 if self._kinds[name] == "echo6" else 8, 0, 0, 0, 1) + data
        if where:
            self._sockets[name].sendto(data, (where[0], int(where[1])))
        else:
            self._sockets[name].send(data)
        return self.recv(name)

    def send(self, name: str, text: str, address: str, port: str) -> dict[str, Any]:
        self._sockets[name].sendto(text.encode(), (address, int(port)))
        return {}

    def recv(self, name: str) -> dict[str, Any]:
        data, sender = self._sockets[name].recvfrom(65536)
        return {"hex": data.hex(), "from": sender}

    def select(self, *names: str) -> dict[str, Any]:
        with selectors.DefaultSelector() as selector:
            for name in names:
                selector.register(self._sockets[name], selectors.EVENT_READ, name)
            return {"ready": sorted(key.data for key, _ in selector.select(TIMEOUT))}

    def port(self, name: str) -> dict[str, Any]:
        return {"port": self._sockets[name].getsockname()[1]}

    def wait(self, event: str, vr: str) -> dict[str, Any]:
        for seen in self._events:
            if (seen.event, seen.vr) == (event, vr):
                return {"vr": seen.vr, "reason": seen.reason}
        raise OSError(errno.EPIPE, "no more events")

    def vrs(self) -> dict[str, Any]:
        return {"vrs": sorted(vr.name for vr in rsock.vrs())}

    def gather(self, text: str, address: str, port: str, *names: str) -> dict[str, Any]:
        return {"answers": asyncio.run(self._gather(text.encode(), (address, int(port)), names))}

    async def _gather(self, data: bytes, where: tuple[str, int], names: tuple[str, ...]) -> dict[str, str]:
        async with asyncio.timeout(TIMEOUT):
            answers = await asyncio.gather(*(endpoint_ask(self._sockets[name], data, where) for name in names))
        return dict(zip(names, answers, strict=True))

    def close(self, name: str) -> dict[str, Any]:
        self._sockets.pop(name).close()
        return {}


class Asking(asyncio.DatagramProtocol):
    """Keeps the first datagram that comes."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, _sender: Any) -> None:
        if not self.answer.done():
            self.answer.set_result(data)

    def error_received(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


async def endpoint_ask(sock: socket.socket, data: bytes, where: tuple[str, int]) -> str:
    """Ask with a datagram endpoint, then once more with the loop's own socket calls."""
    loop = asyncio.get_running_loop()
    sock.setblocking(False)
    copy = sock.dup()
    transport, asking = await loop.create_datagram_endpoint(Asking, sock=copy)
    try:
        transport.sendto(data, where)
        first = (await asking.answer).decode()
    finally:
        transport.close()
    await loop.sock_sendto(sock, data, where)
    again, _sender = await loop.sock_recvfrom(sock, 65536)
    assert again.decode() == first
    return first


def main() -> None:
    """Obey until stdin ends."""
    uid, *groups = map(int, sys.argv[1:])
    os.setgroups(groups)
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    app = App()
    print(json.dumps({"ok": True, "uid": os.getuid()}), flush=True)
    for line in sys.stdin:
        name, *words = line.split()
        try:
            answer = {"ok": True, **getattr(app, name)(*words)}
        except OSError as error:
            answer = {"ok": False, "errno": error.errno, "type": type(error).__name__, "text": str(error)}
        except Exception as error:  # noqa: BLE001 - the test wants to see whatever it is
            answer = {"ok": False, "errno": None, "type": type(error).__name__, "text": str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
