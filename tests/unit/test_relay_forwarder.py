"""How the relay asks a forwarder that answers late, dies, or is not there."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rsock.poll import Poll
from rsock.relay import forwarder
from rsock.relay.forwarder import OUT, Forwarder
from rsock.wire import HEADER, MAGIC, Flag, Op


@pytest.fixture
def poll() -> Iterator[Poll]:
    made = Poll()
    yield made
    made.close()


class Answers:
    """What was answered, in its order."""

    def __init__(self) -> None:
        self.errors: list[tuple[Any, int]] = []

    def of(self, who: object) -> Callable[[int, bytes, int], None]:
        def done(error: int, _body: bytes, fd: int) -> None:
            if fd >= 0:
                os.close(fd)
            self.errors.append((who, error))

        return done


def turn(poll: Poll, until: Callable[[], bool], seconds: float = 20.0) -> None:
    """Run the loop until something is so."""
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline
        poll.turn(wait=False)
        time.sleep(0.001)


def listener(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    made.bind(str(path))
    made.listen(4)
    made.settimeout(20)
    return made


def answer(peer: socket.socket, error: int = 0) -> int:
    """Answer one request; give its number."""
    record = peer.recv(65536)
    _magic, op, _flags, _session, number, *_rest = HEADER.unpack_from(record)
    flags = Flag.REPLY | (Flag.ERROR if error else 0)
    peer.send(HEADER.pack(MAGIC, op, flags, 0, number, 0, error, 0))
    return int(number)


def test_each_app_has_its_turn_and_few_are_out(tmp_path: Path, poll: Poll) -> None:
    asked, answers = Forwarder(str(tmp_path / "vr"), poll), Answers()
    with listener(tmp_path / "vr") as door:
        for number in range(100):
            asked.ask(Op.NAME, owner="greedy", done=answers.of(("greedy", number)))
        asked.ask(Op.NAME, owner="modest", done=answers.of(("modest", 0)))
        peer, _name = door.accept()
        peer.settimeout(20)
        for _ in range(OUT):
            peer.recv(65536)
        peer.settimeout(0.2)
        with pytest.raises(TimeoutError):
            peer.recv(65536)
        peer.close()
        peer, _name = accept(door, poll)
        peer.settimeout(20)
        thread = threading.Thread(target=lambda: [answer(peer) for _ in range(101)])
        thread.start()
        turn(poll, lambda: len(answers.errors) == 101)
        thread.join()
        peer.close()
    asked.close()
    assert not any(error for _who, error in answers.errors)
    order = [who for who, _error in answers.errors]
    assert order.index(("modest", 0)) < OUT + 3
    assert [who for who in order if who[0] == "greedy"] == [("greedy", number) for number in range(100)]


def accept(door: socket.socket, poll: Poll) -> tuple[socket.socket, object]:
    """Take the connection that comes anew."""
    found: list[tuple[socket.socket, object]] = []
    thread = threading.Thread(target=lambda: found.append(door.accept()))
    thread.start()
    turn(poll, lambda: bool(found))
    thread.join()
    return found[0]


def test_nobody_listens_or_nobody_answers(tmp_path: Path, poll: Poll, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarder, "PATIENCE", 0.1)
    monkeypatch.setattr(forwarder, "LOOK", 0.05)
    asked, answers = Forwarder(str(tmp_path / "vr"), poll), Answers()
    asked.ask(Op.NAME, done=answers.of("down"))
    with listener(tmp_path / "vr") as door:
        for number in range(OUT + 4):
            asked.ask(Op.NAME, done=answers.of(number))
        peer, _name = door.accept()
        turn(poll, lambda: len(answers.errors) == OUT + 5)
        peer.close()
    asked.close()
    assert answers.errors[0] == ("down", errno.ENETDOWN)
    assert {error for _who, error in answers.errors[1:]} == {errno.ETIMEDOUT}
