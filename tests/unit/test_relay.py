"""The relay's parts without sockets: sessions over bad connections, credit, recipes, who sees what."""

from __future__ import annotations

import errno
import os
import random
import socket
import struct
from collections import deque
from functools import partial

import pytest

from rsock.client_core import Endpoint, ProtocolError, listen_body, name_body, open_body, option_body, parse_names
from rsock.relay.directory import Directory
from rsock.remote.recipe import Recipe
from rsock.session import (
    ACK_MESSAGES,
    CREDIT,
    FIRST_CREDIT,
    IN_FLIGHT,
    MESSAGES,
    Frames,
    Intake,
    Output,
    Session,
    cut_records,
    join_records,
    weight,
)
from rsock.wire import HEADER, Op

KEY, OTHER = b"k" * 40, b"o" * 40


class Side:
    """A session, and what it has heard."""

    def __init__(self) -> None:
        self.session = Session(7)
        self.heard: list[bytes] = []

    def take(self, frames: Frames) -> None:
        _magic, op, _flags, number, sequence, *_rest = HEADER.unpack(frames[0])
        assert number == 7
        if op == Op.ACK:
            self.session.acknowledge(sequence)
        elif self.session.is_new(sequence, len(frames[1])):
            self.heard.append(bytes(frames[1]))


class BadConnection:
    """Two sides, and between them a connection that is slow, full, and breaks."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.sides = (Side(), Side())
        self._under_way: tuple[deque[Frames], deque[Frames]] = (deque(), deque())

    def _write(self, at: int, frames: Frames) -> bool:
        if self.chance.random() < 0.2:
            return False
        self._under_way[at].append(frames)
        return True

    def move(self) -> None:
        """Send what there is, and let some of it arrive."""
        for at, side in enumerate(self.sides):
            write = partial(self._write, at)
            side.session.flush(write)
            if side.session.untold:
                side.session.ack(write)
            for _ in range(self.chance.randrange(len(self._under_way[at]) + 1)):
                self.sides[1 - at].take(self._under_way[at].popleft())

    def break_it(self) -> None:
        """Lose what is under way, and begin another one."""
        for at, side in enumerate(self.sides):
            self._under_way[at].clear()
            side.session.resume(self.sides[1 - at].session.received)


@pytest.mark.parametrize("seed", range(50))
def test_every_message_once_and_in_order_over_connections_that_break(seed: int) -> None:
    """At any point: both sides go on where the other was."""
    bad = BadConnection(seed)
    said: tuple[list[bytes], list[bytes]] = ([], [])
    for turn in range(400):
        for at, side in enumerate(bad.sides):
            if turn < 300 and bad.chance.random() < 0.7:
                said[at].append(b"%d/%d" % (at, turn))
                side.session.send(Op.DATA, said[at][-1])
        if turn < 350 and bad.chance.random() < 0.05:
            bad.break_it()
        bad.move()
    for _ in range(200):
        bad.move()
    assert (bad.sides[1].heard, bad.sides[0].heard) == said
    assert [side.session.kept for side in bad.sides] == [0, 0]


def room(session: Session) -> bool:
    return session.room


def test_what_is_kept_is_bounded_and_acknowledgements_are_checked() -> None:
    session = Session(1)
    for _ in range(MESSAGES):
        session.send(Op.DATA, b"x")
    assert not session.room
    session.acknowledge(1)
    assert room(session)
    with pytest.raises(ProtocolError, match="not sent"):
        session.acknowledge(MESSAGES + 1)
    session = Session(1)
    session.send(Op.DATA, bytes(IN_FLIGHT))
    assert not session.room
    assert session.is_new(1, 0)
    assert not session.is_new(1, 0)
    with pytest.raises(ProtocolError, match="missing"):
        session.is_new(3, 0)
    assert (session.untold, session.owes) == (True, False)
    for number in range(2, ACK_MESSAGES + 1):
        session.is_new(number, 0)
    session.ack(lambda _frames: False)
    assert (session.untold, session.owes) == (True, True)
    session.ack(lambda _frames: True)
    assert (session.untold, session.owes) == (False, False)


def test_credit() -> None:
    intake, output = Intake(), Output()
    for _ in range(1000):
        size = min(output.room, 10000)
        intake.take(output.sent, size)
        output.sent += size
        if intake.held > 30000:
            output.credit = max(output.credit, intake.use(30000))
        assert intake.held <= FIRST_CREDIT + CREDIT
    assert output.sent > 1 << 20
    with pytest.raises(ProtocolError):
        intake.take(intake.arrived + 1, 1)
    with pytest.raises(ProtocolError):
        Intake().take(0, FIRST_CREDIT + 1)
    Intake().take(0, FIRST_CREDIT + 1, slack=1)


def test_records() -> None:
    records = [b"", b"x", bytes(1000)]
    joined = join_records(records)
    assert [bytes(record) for record in cut_records(joined)] == records
    assert weight(records) > 1001  # an empty one is not for nothing
    for cut in range(1, len(joined)):
        if cut not in {4, 9}:
            with pytest.raises(ProtocolError, match="half"):
                cut_records(joined[:cut])


def test_a_recipe_makes_the_same_socket_again() -> None:
    recipe = Recipe()
    recipe.open = open_body(socket.AF_INET, socket.SOCK_DGRAM, 0, os.urandom(16), b"app")
    assert recipe.fresh_open() != recipe.open
    assert len(recipe.fresh_open()) == len(recipe.open)
    here = Endpoint(socket.AF_INET, bytes(16), 0, 0)
    given = name_body(Endpoint(socket.AF_INET, bytes(16), 4711, 0))
    on, off = (option_body(socket.SOL_SOCKET, socket.SO_REUSEADDR, struct.pack("i", value)) for value in (1, 0))
    group, other = (socket.inet_aton(f"239.0.0.{number}") + bytes(4) for number in (1, 2))
    join = [option_body(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, which) for which in (group, other)]
    leave = option_body(socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP, group)
    peer = name_body(Endpoint(socket.AF_INET, socket.inet_aton("10.0.0.2").ljust(16, b"\0"), 9, 0))
    nobody = name_body(Endpoint(socket.AF_UNSPEC, bytes(16), 0, 0))
    for op, body, answer in (
        (Op.SETOPT, on, b""), (Op.NAME, b"", given), (Op.BIND, name_body(here), given), (Op.SETOPT, off, b""),
        (Op.SETOPT, join[0], b""), (Op.SETOPT, join[1], b""), (Op.CONNECT, peer, given), (Op.CONNECT, peer, given),
    ):  # fmt: skip
        recipe.done(op, body, answer)
    assert [op for op, _body in recipe.steps] == [Op.BIND, Op.SETOPT, Op.SETOPT, Op.SETOPT, Op.CONNECT]
    assert parse_names(recipe.steps[0][1]).local.port == 4711
    recipe.done(Op.SETOPT, leave, b"")
    recipe.done(Op.CONNECT, nobody, given)
    assert [body for op, body in recipe.steps if op == Op.SETOPT] == [off, join[1]]
    assert not [op for op, _body in recipe.steps if op == Op.CONNECT]


def test_a_listener_keeps_the_port_that_it_was_given() -> None:
    recipe = Recipe()
    given = name_body(Endpoint(socket.AF_INET, bytes(16), 4711, 0))
    recipe.done(Op.LISTEN, listen_body(5), given)
    recipe.done(Op.LISTEN, listen_body(7), given)
    assert [op for op, _body in recipe.steps] == [Op.BIND, Op.LISTEN]
    assert recipe.steps[1][1] == listen_body(7)


def rule(identity: str, key: bytes, operations: int) -> dict[str, object]:
    return {"identity": identity, "id": 0, "curve_key": key, "operations": operations}


def test_a_key_sees_only_what_is_its_own() -> None:
    directory = Directory()
    directory.replace([
        {"name": "red", "id": 1, "state": "up", "path": "/r", "rules": [rule("uid", b"", 31), rule("curve", KEY, 4)]},
        {"name": "blue", "id": 2, "state": "down", "path": "/b", "rules": [rule("curve", OTHER, 31)]},
        {"name": "green", "id": 3, "state": "up", "path": "/g", "rules": [rule("uid", b"", 31)]},
    ])  # fmt: skip
    assert directory.keys == {KEY, OTHER}
    assert [(router["name"], router["rights"]) for router in directory.visible(KEY)] == [("red", 4)]
    assert all("path" not in router and "rules" not in router for router in directory.visible(KEY))
    assert directory.introduce("red", 0, KEY)[0] == 0
    assert directory.introduce("red", 1, KEY)[0] == errno.EACCES
    assert directory.introduce("blue", 0, OTHER)[0] == errno.ENETDOWN
    for name in ("blue", "green", "nowhere", 5, ["red"]):
        assert directory.introduce(name, 0, KEY) == (errno.ENODEV, {})
    assert not directory.may_hear_of("green", KEY)
    directory.replace([])
    assert directory.may_hear_of("red", KEY)
    assert directory.facts("red")["state"] == "gone"
    assert directory.keys == frozenset()
