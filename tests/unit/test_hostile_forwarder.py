"""What a forwarder in strange hands tells the manager: no fd of it stays, no other router waits for it."""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest

from fastpath._layout import SIZES
from manager import adopt, rings
from manager.offload import Offload
from manager.peers import ForwarderPeer, listen
from manager.reactor import Reactor
from rsock.wire import HEADER, MAGIC, Flag, Op

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FLOOD = 300


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def reactor() -> Iterator[Reactor]:
    made = Reactor(lambda error: pytest.fail(str(error)))
    yield made
    made.close()


def reply(op: Op, number: int, flags: int = Flag.REPLY, body: bytes = b"") -> bytes:
    return HEADER.pack(MAGIC, op, flags, 0, number, 0, 0, 0) + body


def test_fds_with_an_answer_are_closed(tmp_path: Path, reactor: Reactor) -> None:
    with listen(tmp_path / "red.sock", socket.SOCK_SEQPACKET, 0o600) as listener:
        answers: list[bytes] = []
        peer = ForwarderPeer(reactor, tmp_path / "red.sock", lambda: None)
        forwarder, _address = listener.accept()
        with forwarder, open("/dev/null") as file:
            before = descriptors()
            peer.request(Op.PING, answer=lambda _error, body, _more: answers.append(body))
            for number in (1, 99):  # one that was asked for, one that was not
                socket.send_fds(forwarder, [reply(Op.PING, number, body=b"here")], [file.fileno()] * 8)
            for _turn in range(3):
                reactor.turn(0.05)
            assert answers == [b"here"]
            assert descriptors() == before
        peer.close()


def test_a_flood_of_answers_leaves_others_their_turn(tmp_path: Path, reactor: Reactor) -> None:
    with listen(tmp_path / "red.sock", socket.SOCK_SEQPACKET, 0o600) as listener:
        answers = []
        peer = ForwarderPeer(reactor, tmp_path / "red.sock", lambda: None)
        forwarder, _address = listener.accept()
        with forwarder:
            forwarder.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            forwarder.setblocking(False)
            peer.request(Op.PING, answer=lambda *_answer: answers.append(1))
            for _record in range(100):
                forwarder.send(reply(Op.PING, 1, Flag.REPLY | Flag.MORE))
            reactor.turn(0.05)
            assert 0 < len(answers) < 100
            reactor.turn(0.05)
            assert len(answers) == 100
        peer.close()


def test_ports_without_end_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adopt, "MOST_PARTS", FLOOD)
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, its, open("/dev/null") as file:
        before = descriptors()
        asked: list[Any] = []

        def record(*_arguments: Any) -> tuple[bytes, list[int], bool]:
            asked.append(1)
            return bytes(SIZES["port_spec"]), [os.dup(file.fileno()) for _ in range(8)], True

        monkeypatch.setattr(adopt, "_ask", record)
        with pytest.raises(adopt.LostError):
            adopt._ports(ours)
        assert len(asked) == FLOOD + 1
        assert descriptors() == before


@pytest.mark.parametrize("numbers", [(0, 0, 0), (65536, 0, 4096), (65536, 2048, 0), (2048, 65536, 64), (65536, 3, 9)])
def test_a_ring_that_cannot_be(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="no sense"):
        rings.Geometry(*numbers).check()
    for sound in (rings.DEFAULT, rings.BULK):
        sound.check()


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_files_are_no_maps(reactor: Reactor, count: int) -> None:
    """A mapped file could be made shorter, which ends whoever looks into it."""
    before = descriptors()
    offload = Offload("red", reactor, None)  # type: ignore[arg-type]
    fds = [os.memfd_create("map") for _ in range(count)]
    for fd in fds:
        os.ftruncate(fd, 1 << 21)
    with pytest.raises((OSError, ValueError)):
        offload.adopt(struct.pack("<QQII", 1 << 21, 1 << 21, 1, 0), fds)
    offload.close()
    assert descriptors() == before
