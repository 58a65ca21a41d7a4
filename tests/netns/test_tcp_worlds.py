"""One process, three worlds with the same addresses: red, blue and a kernel's, all in one selector."""

from __future__ import annotations

import selectors
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import pytest
from hosts import check_laws
from lab import Lab, Namespace
from tcp_ends import WAIT, Path, closed, reachable

import rsock

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root

PATHS: Final = [Path("10.0.0.1", "10.0.0.2"), Path("2001:db8::1", "2001:db8::2")]
WORLDS: Final = ("red", "blue", "kernel")
SIZE: Final = 300_000


class Worlds:
    """Where to open a socket in each world, and its host at the far end."""

    def __init__(self, lab: Lab, own: Namespace, hosts: dict[str, Namespace]) -> None:
        self.lab, self.hosts = lab, hosts
        self._own = own
        self.context = rsock.Context(f"ipc://{lab.run_dir}/rsock.sock")

    def open(self, world: str, family: int) -> socket.socket:
        """Open a socket of this process there."""
        if world == "kernel":
            with self._own.entered():  # what a process of that namespace has without more ado
                return rsock.socket(family, socket.SOCK_STREAM, vr="kernel")
        return rsock.socket(family, socket.SOCK_STREAM, vr=world, ctx=self.context)


@pytest.fixture(scope="module")
def worlds() -> Iterator[Worlds]:
    with Lab() as lab:
        own = lab.namespace("own")
        hosts = {}
        for world in WORLDS:
            host = hosts[world] = lab.namespace(world)
            lab.veth(f"{world}0", own if world == "kernel" else None, host, "eth0")
            for path in PATHS:
                length = 24 if path.family == socket.AF_INET else 64
                host.address("eth0", f"{path.theirs}/{length}")
                if world == "kernel":
                    own.address("kernel0", f"{path.ours}/{length}")
        addresses = ["10.0.0.1/24", "2001:db8::1/64"]
        routers = ("red", "blue")
        interfaces = {name: {"lan": {"device": f"{name}0", "addresses": addresses}} for name in routers}
        lab.configure({name: {"interfaces": interfaces[name]} for name in routers})
        lab.start()
        for host in hosts.values():
            reachable(host, *(path.ours for path in PATHS))
        made = Worlds(lab, own, hosts)
        yield made
        made.context.close()
        check_laws(lab, *routers)


@dataclass
class Talk:
    """A connection that sends its world's name over and over, and reads that of the host."""

    world: str
    to_send: bytes
    expected: bytes
    sock: socket.socket
    got: bytearray = field(default_factory=bytearray)
    sent: int = 0


def words(world: str, who: str) -> bytes:
    return (f"{who} of {world}. ".encode() * (SIZE // 10))[:SIZE]


def converse(talks: list[Talk]) -> None:
    """Let all speak and listen at once, and check what each has heard."""
    with selectors.DefaultSelector() as selector:
        for talk in talks:
            talk.sock.setblocking(False)
            selector.register(talk.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, talk)
        while selector.get_map():
            ready = selector.select(WAIT)
            assert ready, "nothing moves"
            for key, events in ready:
                talk = key.data
                if events & selectors.EVENT_WRITE and talk.sent < SIZE:
                    talk.sent += talk.sock.send(memoryview(talk.to_send)[talk.sent : talk.sent + 65536])
                    if talk.sent == SIZE:
                        talk.sock.shutdown(socket.SHUT_WR)
                        selector.modify(talk.sock, selectors.EVENT_READ, talk)
                elif events & selectors.EVENT_READ:
                    part = talk.sock.recv(65536)
                    talk.got += part
                    if not part and talk.sent == SIZE:
                        selector.unregister(talk.sock)
    for talk in talks:
        assert talk.got == talk.expected, talk.world


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("by_us", [True, False])
def test_the_same_addresses_in_three_worlds(worlds: Worlds, path: Path, by_us: bool) -> None:
    """The same port in each, and the same four-tuple even; nobody hears of another world."""
    opened: list[socket.socket] = []
    talks: list[Talk] = []
    try:
        for world in WORLDS:
            mine = worlds.open(world, path.family)
            theirs = worlds.hosts[world].socket(path.family, socket.SOCK_STREAM)
            opened += [mine, theirs]
            client, server = (mine, theirs) if by_us else (theirs, mine)
            for sock in (client, server):
                sock.settimeout(WAIT)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind((path.theirs if by_us else path.ours, 8080))
            server.listen()
            client.bind((path.ours if by_us else path.theirs, 40_000))
            client.connect((path.theirs if by_us else path.ours, 8080))
            taken, peer = server.accept()
            opened.append(taken)
            assert peer[:2] == (path.ours if by_us else path.theirs, 40_000)
            assert client.getpeername()[1] == taken.getsockname()[1] == 8080
            ours, others = (client, taken) if by_us else (taken, client)
            talks.append(Talk(world, words(world, "guest"), words(world, "host"), ours))
            talks.append(Talk(world, words(world, "host"), words(world, "guest"), others))
        converse(talks)
    finally:
        closed(*opened)
