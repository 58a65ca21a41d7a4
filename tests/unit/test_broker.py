"""The broker's parts without a manager: identities, rights, what an app may see."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import socket

import pytest

from rsock.broker import crowd
from rsock.broker.authorize import ALL_RIGHTS, Identity, groups_of, parse_address, rights_in
from rsock.broker.denials import Denials
from rsock.broker.introduce import Directory
from rsock.broker.link import LIMIT, Framing, frame
from rsock.wire import Right

UDP, RAW = int(Right.UDP), int(Right.RAW)
APP = Identity(1000, 1000, 0)
ROOT = Identity(0, 0, 0)


def rule(identity: str, number: int, operations: int) -> dict[str, object]:
    return {"identity": identity, "id": number, "operations": operations}


def directory() -> Directory:
    made = Directory()
    made.replace(
        [
            {"name": "red", "id": 1, "state": "up", "path": "/r", "rules": [rule("uid", 1000, UDP)]},
            {"name": "blue", "id": 2, "state": "down", "path": "/b", "rules": [rule("gid", 1000, UDP | RAW)]},
            {"name": "green", "id": 3, "state": "up", "path": "/g", "rules": []},
        ]
    )
    return made


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("localhost:1000:100:4242", Identity(1000, 100, 4242)),
        ("localhost:0:0:1", Identity(0, 0, 1)),
        ("127.0.0.1", None),
        ("localhost:1000:100:-1", None),
        ("localhost:x:y:z", None),
        ("::1", None),
    ],
)
def test_peer_addresses(address: str, expected: Identity | None) -> None:
    assert parse_address(address) == expected


def test_groups_count_only_for_the_same_user() -> None:
    own = Identity(os.geteuid(), os.getegid(), os.getpid())
    assert groups_of(own) == frozenset(os.getgroups()) | {os.getegid()}
    assert groups_of(Identity(own.uid + 1, 77, own.pid)) == {77}
    assert groups_of(Identity(own.uid, 78, 2**22 + 1)) == {78}


def test_the_first_rule_that_matches_decides_alone_and_the_default_is_none() -> None:
    rules = [rule("curve", 0, ALL_RIGHTS), rule("uid", 1000, UDP), rule("gid", 7, RAW), rule("any", 0, 0)]
    assert rights_in(rules, APP, frozenset({1000, 7})) == UDP
    assert rights_in(rules[2:], APP, frozenset({1000, 7})) == RAW
    assert rights_in(rules, Identity(1002, 7, 0), frozenset({7})) == RAW
    assert rights_in(rules, Identity(1002, 8, 0), frozenset({8})) == 0
    assert rights_in([rule("any", 0, 0), *rules], APP, frozenset()) == 0
    assert rights_in(rules, Identity(1001, 1001, 0), frozenset()) == 0
    assert rights_in([], ROOT, frozenset()) == ALL_RIGHTS


def test_only_routers_with_a_right_are_visible() -> None:
    assert [(router["name"], router["rights"]) for router in directory().visible(APP)] == [
        ("red", UDP),
        ("blue", UDP | RAW),
    ]
    assert [router["name"] for router in directory().visible(ROOT)] == ["red", "blue", "green"]
    assert all("rules" not in router for router in directory().visible(ROOT))


@pytest.mark.parametrize(
    ("name", "want", "expected"),
    [
        ("red", 0, 0),
        ("red", UDP, 0),
        ("red", RAW, errno.EACCES),
        ("blue", UDP, errno.ENETDOWN),
        ("green", UDP, errno.EACCES),
        ("nowhere", UDP, errno.ENODEV),
        (["red"], UDP, errno.ENODEV),
        ("red", "udp", 0),
    ],
)
def test_tickets(name: object, want: object, expected: int) -> None:
    error, body = directory().introduce(name, want, APP)
    assert error == expected
    assert (body.get("path") == "/r") is (expected == 0)


def test_those_who_had_rights_hear_that_a_router_has_gone() -> None:
    known = directory()
    known.replace([])
    assert known.may_hear_of("red", APP)
    assert not known.may_hear_of("green", APP)
    assert known.facts("red")["state"] == "gone"


def test_framing_takes_any_cut() -> None:
    stream = frame(b"one") + frame(b"") + frame(b"three")
    for cut in range(len(stream) + 1):
        framing = Framing()
        assert framing.feed(stream[:cut]) + framing.feed(stream[cut:]) == [b"one", b"", b"three"]
    with pytest.raises(ValueError, match="bytes"):
        Framing().feed((LIMIT + 1).to_bytes(4, "big"))


def test_denials_are_logged_once_a_second_for_each_user(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    denials = Denials(lambda: now)
    for number in range(5):
        denials.note(APP, "red\n" * 100, "ticket", errno.EACCES)
        denials.note(Identity(1001, 1001, number), "red", "ticket", errno.ENODEV)
    assert len(caplog.messages) == 2
    assert "identity=uid:1000" in caplog.messages[0]
    assert "\n" not in caplog.messages[0]
    assert len(caplog.messages[0]) < 200
    assert "error=ENODEV suppressed=0" in caplog.messages[1]
    now = 1.0
    denials.note(APP, "red", "ticket", errno.EACCES)
    assert caplog.messages[2].endswith("suppressed=4")
    assert denials.total == 11


@pytest.mark.root
def test_who_has_too_many_connections_loses_some() -> None:
    path = f"\0anabranch-test-{secrets.token_hex(8)}"
    theirs: dict[int, list[socket.socket]] = {}
    ours = []
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(path)
        listener.listen(64)
        for uid, count in ((20_000, 12), (20_001, 7), (20_002, 2)):
            for _ in range(count):
                os.seteuid(uid)
                try:
                    client = stack.enter_context(socket.socket(socket.AF_UNIX))
                    client.connect(path)
                finally:
                    os.seteuid(0)
                client.setblocking(False)
                theirs.setdefault(uid, []).append(client)
                ours.append(stack.enter_context(listener.accept()[0]))
        assert crowd.sweep(per_user=8, everybody=12) == 9

        def alive(client: socket.socket) -> bool:
            try:
                return client.recv(1) != b""
            except BlockingIOError:
                return True

        assert {uid: sum(map(alive, clients)) for uid, clients in theirs.items()} == {20_000: 5, 20_001: 5, 20_002: 2}
