"""A whole control process: confined, configured over its socket, keeping a forwarder's fds."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastpath import segment
from fastpath.interfaces import published
from rsock.wire import HEADER, MAGIC, Flag, Op, layout
from vrouter.api.messages import Decoder, encode
from vrouter.config.codec import to_plain
from vrouter.config.router import Interface, RouterConfig, StaticHop, StaticRoute
from vrouter.runtime import manager_link
from vrouter.runtime.forwarder_link import ALL
from vrouter.runtime.loop import Loop
from vrouter.runtime.manager_link import MAX_CONNECTIONS, ManagerLink

HOLD = layout("rsock_hold")
UID = 1900060000
CONFIG = RouterConfig(
    "red",
    7,
    (Interface("lan", "ethernet", 1, mac="02:00:00:00:00:01", addresses=("10.0.0.1/24",)),),
    (StaticRoute("0.0.0.0/0", (StaticHop("10.0.0.2"),)),),
)


def hold(slot: int, cookie: int = 0, *, gone: bool = False) -> bytes:
    return HEADER.pack(MAGIC, Op.HOLD, Flag.DATA, 0, 0, slot, 0, cookie) + HOLD.pack(slot, gone, cookie)


class Vr:
    """What the manager and the forwarder would do around a control."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.tables = segment.create(segment.KIND_TABLES, segment.TABLES_SIZE, 7, "red")
        self.state = segment.create(segment.KIND_STATE, segment.STATE_SIZE, 7, "red")
        for name in ("vr", "control"):
            (run_dir / name).mkdir()
        self.listener = self.listen("control", socket.SOCK_STREAM)
        self.forwarder = self.listen("vr", socket.SOCK_SEQPACKET)
        (run_dir / "vr/red.sock").chmod(0o666)
        self.pid = 0
        self.next_id = 0

    def listen(self, folder: str, kind: int) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, kind)
        listener.bind(str(self.run_dir / folder / "red.sock"))
        listener.listen(8)
        return listener

    def start(self) -> None:
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid:
            return
        status = 1
        try:
            from vrouter.main import main

            fds = {"tables": self.tables, "state_ro": segment.reopen_read_only(self.state)}
            fds["listener"] = os.dup(self.listener.fileno())
            main("red", uid=UID, gid=UID, fds=fds, run_dir=str(self.run_dir))
        except SystemExit as end:
            status = int(end.code or 0)
        finally:
            os._exit(status)

    def connect(self) -> socket.socket:
        peer = socket.socket(socket.AF_UNIX)
        peer.settimeout(20)
        peer.connect(str(self.run_dir / "control/red.sock"))
        return peer

    def ask(self, peer: socket.socket, op: str, **values: Any) -> dict[str, Any]:
        self.next_id += 1
        peer.sendall(encode({"op": op, "id": self.next_id, **values}))
        decoder = Decoder()
        while True:
            data = peer.recv(65536)
            assert data, "the control closed the connection"
            for message in decoder.feed(data):
                assert message["id"] == self.next_id
                return message

    def status(self, field: str) -> str:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith(field + ":"))

    def stop(self, number: int = signal.SIGKILL) -> None:
        if self.pid:
            os.kill(self.pid, number)
            os.waitpid(self.pid, 0)
            self.pid = 0

    def close(self) -> None:
        self.stop()
        self.listener.close()
        self.forwarder.close()
        os.close(self.tables)
        os.close(self.state)


@pytest.fixture
def vr() -> Iterator[Vr]:
    # Not pytest's own directory, which another uid may not enter.
    run_dir = Path(tempfile.mkdtemp(prefix="anabranch-control-"))
    run_dir.chmod(0o755)
    made = Vr(run_dir)
    yield made
    made.close()
    shutil.rmtree(run_dir)


def accept(listener: socket.socket) -> socket.socket:
    listener.settimeout(20)
    peer, _ = listener.accept()
    peer.settimeout(20)
    return peer


def records(peer: socket.socket) -> tuple[dict[int, list[int]], dict[int, int]]:
    """Take what a control gives back, up to the record that says that it was all: fds and cookies by slot."""
    fds: dict[int, list[int]] = {}
    cookies: dict[int, int] = {}
    while True:
        data, found, _, _ = socket.recv_fds(peer, 512, 4)
        slot, gone, cookie = HOLD.unpack_from(data, HEADER.size)
        assert not gone
        if slot == ALL:
            assert not found
            return fds, cookies
        fds[slot], cookies[slot] = found, cookie


@pytest.mark.root
def test_life_of_a_control(vr: Vr) -> None:
    vr.start()
    with vr.connect() as manager:
        assert vr.ask(manager, "ping")["result"] == {}
        assert vr.status("Uid").split() == [str(UID)] * 4
        assert int(vr.status("CapEff"), 16) == int(vr.status("CapBnd"), 16) == 0
        assert (vr.status("NoNewPrivs"), vr.status("Seccomp")) == ("1", "2")
        assert vr.ask(manager, "configure", router=to_plain(CONFIG))["result"] == {"changed": True}
        assert vr.ask(manager, "configure", router=to_plain(CONFIG))["result"] == {"changed": False}
        with segment.Segment(vr.tables, segment.KIND_TABLES) as tables:
            assert [interface.name for interface in published(tables)] == ["lan", "lo"]
        assert vr.ask(manager, "link", port=1, up=False, mtu=1500)["result"] == {}
        assert vr.ask(manager, "nonsense")["error"]["kind"] == "unknown-op"
        assert vr.ask(manager, "configure")["error"]["kind"] == "bad-config"
        assert vr.ask(manager, "link", port="x")["error"]["kind"] == "bad-request"
        assert vr.ask(manager, "shutdown")["result"] == {}
    _, status = os.waitpid(vr.pid, 0)
    vr.pid = 0
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.root
def test_bad_bytes_close_one_connection_only(vr: Vr) -> None:
    vr.start()
    with vr.connect() as good, vr.connect() as bad:
        bad.sendall(struct.pack(">I", 5) + b"\xc1\xc1\xc1\xc1\xc1")
        assert bad.recv(100) == b""
        assert vr.ask(good, "ping")["result"] == {}


@pytest.mark.root
def test_fds_survive_a_forwarder(vr: Vr) -> None:
    vr.start()
    app, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    other, other_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with app, other, accept(vr.forwarder) as first:
        assert records(first) == ({}, {})
        socket.send_fds(first, [hold(3, 77)], [end.fileno()])
        socket.send_fds(first, [hold(9, 78)], [other_end.fileno()])
        first.send(hold(9, 1, gone=True))  # of an earlier socket in that slot: not this one
        first.send(hold(9, 78, gone=True))
        first.send(b"nonsense")
        end.close()
        other_end.close()
        other.settimeout(20)
        assert other.recv(1) == b"", "the closed socket's fd is not kept"
        app.send(b"nobody reads this now")
    with app, accept(vr.forwarder) as second:
        fds, cookies = records(second)
        assert cookies == {3: 77}
        (kept,) = fds[3]
        assert os.read(kept, 100) == b"nobody reads this now"
        os.close(kept)


@pytest.mark.quiet
@pytest.mark.root
def test_a_control_is_back_soon(vr: Vr) -> None:
    vr.start()
    with vr.connect() as manager:
        vr.ask(manager, "configure", router=to_plain(CONFIG))
    vr.stop()
    begin = time.monotonic()
    vr.start()
    with vr.connect() as manager:
        assert vr.ask(manager, "configure", router=to_plain(CONFIG))["result"] == {"changed": True}
    assert time.monotonic() - begin < 0.25


ODD = {
    "numbers for keys": {"errors": {3: 1}},
    "deep": {"list": [{"keys": {(1, 2): 3}}]},
    "a number too large": 1 << 64,
    "no plain data": object(),
    "half a character": "\udc80",
}


def _no_text(_message: dict[str, Any]) -> Any:
    raise OSError("\udc80")


@pytest.mark.root
def test_a_result_that_cannot_be_told_costs_one_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the connection nor those behind it: the manager would take the control for broken."""
    monkeypatch.setattr(manager_link.log, "disabled", True)  # pytest cannot pass half a character on either
    loop = Loop()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen(8)
    handlers = {name: lambda _message, odd=odd: odd for name, odd in ODD.items()}
    link = ManagerLink(loop, listener, handlers | {"no text": _no_text, "ping": lambda _message: {}})
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(tmp_path / "s"))
        asked = [*ODD, "no text", "ping"]
        peer.sendall(b"".join(encode({"op": op, "id": number}) for number, op in enumerate(asked)))
        peer.settimeout(0)
        decoder, found = Decoder(), list[dict[str, Any]]()
        for _ in range(1000):
            loop.step(0.01)
            with contextlib.suppress(BlockingIOError):
                found += decoder.feed(peer.recv(1 << 20))
            if len(found) == len(asked):
                break
        assert [answer["id"] for answer in found] == list(range(len(asked)))
        assert [answer.get("error", {}).get("kind") for answer in found] == ["internal"] * (len(asked) - 1) + [None]
        assert found[-1]["result"] == {}
    loop.step(0)
    link.close()
    loop.close()
    assert link.failed == len(asked) - 1


def test_a_peer_that_does_not_read_is_not_waited_for(tmp_path: Path) -> None:
    loop = Loop()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen(8)
    link = ManagerLink(loop, listener, {"big": lambda _message: "x" * 300_000})
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(str(tmp_path / "s"))
    if os.geteuid():
        pytest.skip("only root may connect")
    peer.sendall(encode({"op": "big", "id": 1}) * 3)
    for _ in range(5):
        loop.step(0.01)
    peer.settimeout(0)
    decoder = Decoder()
    found: list[dict[str, Any]] = []
    while len(found) < 3:
        with contextlib.suppress(BlockingIOError):
            found += decoder.feed(peer.recv(1 << 20))
        loop.step(0.001)
    assert [len(message["result"]) for message in found] == [300_000] * 3
    extra = [socket.socket(socket.AF_UNIX) for _ in range(MAX_CONNECTIONS)]
    for one in extra:
        one.connect(str(tmp_path / "s"))
        loop.step(0)
    extra[-1].settimeout(1)
    assert extra[-1].recv(1) == b"", "one too many"
    for one in (peer, *extra):
        one.close()
    for _ in range(3):
        loop.step(0)
    link.close()
    loop.close()
