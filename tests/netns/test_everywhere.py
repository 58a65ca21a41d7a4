"""One socket in all virtual routers, present and future, and in the kernel: `vr="*"`."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import selectors
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import pytest
from lab import Lab, Namespace, lan_router, wait_until

import rsock

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root

PORT: Final = 7011
ASK: Final = """
import json, socket, sys
kind, address, port, text = sys.argv[1:]
if kind == "tcp":
    with socket.create_connection((address, int(port)), timeout=20) as s:
        s.sendall(text.encode())
        s.shutdown(socket.SHUT_WR)
        print(json.dumps({"answer": s.makefile().read(), "from": s.getsockname()[1]}))
else:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(20)
        s.sendto(text.encode(), (address, int(port)))
        data, peer = s.recvfrom(100)
        print(json.dumps({"answer": data.decode(), "from": peer[1]}))
"""


def router(name: str, *, allow: bool = True) -> dict[str, Any]:
    return lan_router(name, *([{"app": f"uid:{os.getuid()}", "allow": "all"}] if allow else []))


@pytest.fixture(scope="module")
def worlds() -> Iterator[Lab]:
    """Red and blue with a host each, the same addresses everywhere; a host and a device for a router to come."""
    with Lab() as lab:
        for name in ("red", "blue", "green"):
            lab.host(name, f"{name}-lan", "10.0.0.2/24")
        lab.configure({name: router(name) for name in ("red", "blue")})
        lab.start()
        yield lab


@pytest.fixture
def context(worlds: Lab) -> Iterator[rsock.Context]:
    with rsock.Context(f"ipc://{worlds.run_dir}/rsock.sock") as ctx:
        yield ctx


def ask(place: Namespace, kind: str, text: str) -> subprocess.Popen[str]:
    """Let a host ask the router's address."""
    command = place.command(sys.executable, "-c", ASK, kind, "10.0.0.1", str(PORT), text)
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def answer(asker: subprocess.Popen[str]) -> str:
    out, _ = asker.communicate(timeout=40)
    return str(json.loads(out)["answer"])


def echo_once(listener: rsock.socket) -> str:
    """Accept one connection and answer with the name of the router it came through."""
    connection, peer = listener.accept()
    with connection:
        assert isinstance(connection, rsock.socket)
        assert connection.vr == peer.vr
        assert peer[0] == "10.0.0.2"
        data = b"".join(iter(lambda: connection.recv(100), b""))
        connection.sendall(peer.vr.encode() + b":" + data)
        return str(peer.vr)


def test_a_listener_in_all_routers(worlds: Lab, context: rsock.Context) -> None:
    with rsock.socket(socket.AF_INET, socket.SOCK_STREAM, vr="*", ctx=context) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("", PORT))
        listener.listen()
        listener.settimeout(30)
        assert listener.routers == ["blue", "red"]
        assert not select.select([listener], [], [], 0)[0]
        askers = {name: ask(worlds.namespaces[name], "tcp", "hello") for name in ("red", "blue")}
        assert {echo_once(listener), echo_once(listener)} == {"red", "blue"}
        for name, asker in askers.items():
            assert answer(asker) == f"{name}:hello"
        listener.settimeout(0)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_a_router_that_comes_and_goes(worlds: Lab, context: rsock.Context) -> None:
    """A listener and a datagram socket are in a router that was made after them, and in it again after a restart."""
    with (
        rsock.create_server(("", PORT), vr="*", ctx=context) as listener,
        rsock.socket(socket.AF_INET, socket.SOCK_DGRAM, vr="*", ctx=context) as datagrams,
    ):
        datagrams.bind(("", PORT))
        listener.settimeout(30)
        datagrams.settimeout(30)
        worlds.configure({"green": router("green")}, file="green.yaml")
        worlds.vr_run("apply")
        wait_until(lambda: "green" in listener.routers and "green" in datagrams.routers, "they are in green")
        serve(worlds, "green", listener, datagrams)
        worlds.vr_run("router", "stop", "green")
        wait_until(lambda: "green" not in listener.routers, "it is not there any more")
        worlds.vr_run("router", "start", "green")
        wait_until(lambda: "green" in listener.routers and "green" in datagrams.routers, "they are in it again")
        serve(worlds, "green", listener, datagrams)
        (worlds.conf_dir / "green.yaml").unlink()
        worlds.vr_run("apply")
        wait_until(lambda: listener.routers == ["blue", "red"], "green has gone")
        serve(worlds, "red", listener, datagrams)


def serve(worlds: Lab, name: str, listener: rsock.socket, datagrams: rsock.socket) -> None:
    asker = ask(worlds.namespaces[name], "tcp", "hello")
    assert echo_once(listener) == name
    assert answer(asker) == f"{name}:hello"
    asker = ask(worlds.namespaces[name], "udp", "hello")
    data, peer = datagrams.recvfrom(100)
    datagrams.sendto(peer.vr.encode() + b":" + data, peer)
    assert answer(asker) == f"{name}:hello"


def test_datagrams_tell_and_choose_the_router(worlds: Lab, context: rsock.Context) -> None:
    with rsock.socket(socket.AF_INET, socket.SOCK_DGRAM, vr="red,blue", ctx=context) as sock:
        sock.settimeout(30)
        sock.bind(("", PORT))
        for name in ("red", "blue"):
            asker = ask(worlds.namespaces[name], "udp", "hi")
            data, items, _flags, peer = sock.recvmsg(100, 256)
            assert (rsock.SOL_RSOCK, rsock.RSOCK_VR, name.encode()) in items
            assert (data, peer.vr) == (b"hi", name)
            item = (rsock.SOL_RSOCK, rsock.RSOCK_VR, name.encode())
            sock.sendmsg([b"by ", b"item"], [item], 0, tuple(peer))
            assert answer(asker) == "by item"
        with pytest.raises(OSError, match="names no virtual router") as raised:
            sock.sendto(b"x", ("10.0.0.2", PORT))
        assert raised.value.errno == errno.EDESTADDRREQ
        with pytest.raises(rsock.VRDown):
            sock.sendto(b"x", rsock.Place(("10.0.0.2", PORT), "purple"))


def test_a_port_that_is_taken_is_a_conflict(worlds: Lab, context: rsock.Context, caplog: Any) -> None:
    """It is told, the other routers serve, and it ends when the port is free."""
    with contextlib.ExitStack() as stack:
        taker = stack.enter_context(rsock.create_server(("", PORT), vr="red", ctx=context))
        listener = stack.enter_context(rsock.create_server(("", PORT), vr="*", ctx=context))
        listener.settimeout(30)
        assert listener.routers == ["blue"]
        assert listener.conflicts["red"].errno == errno.EADDRINUSE
        assert [record.vr for record in caplog.records if getattr(record, "event", "") == "listen-conflict"] == ["red"]
        asker = ask(worlds.namespaces["blue"], "tcp", "hello")
        assert echo_once(listener) == "blue"
        assert answer(asker) == "blue:hello"
        with pytest.raises(OSError, match="in use") as raised:
            rsock.create_server(("", PORT), vr="red,red", ctx=context)
        assert raised.value.errno == errno.EADDRINUSE
        taker.close()
        wait_until(lambda: listener.routers == ["blue", "red"], "the port is free")
        assert not listener.conflicts


def test_one_port_everywhere_and_the_kernel_too(context: rsock.Context) -> None:
    with rsock.create_server(("127.0.0.1", 0), vr="kernel,red", ctx=context) as listener:
        listener.settimeout(30)
        port = listener.getsockname()[1]
        assert port > 0
        assert "kernel" in listener.routers
        with socket.create_connection(("127.0.0.1", port), 5):
            made, peer = listener.accept()
            made.close()
        assert peer.vr == "kernel"


def test_children_have_a_set_of_their_own(worlds: Lab, context: rsock.Context) -> None:
    """A child of fork serves, and what it does to its set is nothing to its parent's."""
    with rsock.create_server(("", PORT), vr="*", ctx=context) as listener:
        listener.settimeout(30)
        child = os.fork()
        if child == 0:
            status = 1
            with contextlib.suppress(BaseException):
                status = 0 if echo_once(listener) == "red" else 2
                listener.close()
            os._exit(status)
        asker = ask(worlds.namespaces["red"], "tcp", "hello")
        assert answer(asker) == "red:hello"
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        asker = ask(worlds.namespaces["blue"], "tcp", "hello")
        assert echo_once(listener) == "blue"
        assert answer(asker) == "blue:hello"


def test_waiting_costs_nothing(context: rsock.Context) -> None:
    with (
        rsock.create_server(("", PORT), vr="*", ctx=context) as listener,
        selectors.DefaultSelector() as selector,
    ):
        selector.register(listener, selectors.EVENT_READ)
        begin = time.process_time()
        assert not selector.select(2.0)
        assert time.process_time() - begin < 0.05
