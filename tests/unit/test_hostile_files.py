"""Damaged files, random segments and hostile messages: what reads them goes on, and touches nothing wrong."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import msgpack
import pytest

from fastpath import interfaces, routes, segment, stats
from manager import adopt
from manager.journal import Entry, Journal
from manager.service import prepare_run_dir
from rsock.broker import events
from rsock.broker.authorize import Identity
from rsock.broker.main import Broker
from rsock.wire import Op

ENTRY: Final = Entry(
    key="red/lan", kind="device", router="red", device="lan", ifindex=7, source="", source_inode=1, target="ns",
    target_name="lan", mtu=1500, mac="02:00:00:00:00:01", master="", flags=1, addresses=("00" * 8,),
    routes=("00" * 12,),
)  # fmt: skip
RECORD: Final[dict[str, Any]] = {
    "name": "red", "netns": "anabranch-red-1", "id": 1, "uid": 70000, "restarts": 0, "state": "up",
    "pids": {"forwarder": 12, "control": None},
    "interfaces": {"lan": {"key": "red/lan", "port": 1}, "lo": {"key": None, "port": 0}},
}  # fmt: skip
DAMAGES: Final = ["", "nul", "null", "7", "[]", "{}", "[[]]", "[7]", '"x"', "\0" * 64, "[" * 100_000, '{"version": 1}']


def _written(folder: Path) -> tuple[Journal, Path, str]:
    journal = Journal(folder / "journal")
    journal.write(ENTRY)
    path = next((folder / "journal").glob("*.json"))
    return journal, path, path.read_text()


def test_a_sound_entry_is_read(tmp_path: Path) -> None:
    journal, _path, _text = _written(tmp_path)
    assert journal.entries() == [ENTRY]


@pytest.mark.parametrize("text", DAMAGES)
def test_a_damaged_entry_is_put_aside(tmp_path: Path, text: str) -> None:
    journal, path, _text = _written(tmp_path)
    path.write_text(text)
    assert journal.entries() == []
    assert not path.exists()
    # A map that tells of another boot is void; anything else is kept for the operator.
    assert path.with_suffix(".damaged").exists() == (not text.startswith("{"))
    assert journal.entries() == []


@pytest.mark.parametrize("field", sorted(asdict(ENTRY)))
@pytest.mark.parametrize("value", [None, 1.5, {}, [1], ["zz"], "a\0b"], ids=str)
def test_an_entry_with_a_strange_field_is_put_aside(tmp_path: Path, field: str, value: object) -> None:
    journal, path, text = _written(tmp_path)
    path.write_text(json.dumps(json.loads(text) | {field: value}))
    assert journal.entries() == []
    assert path.with_suffix(".damaged").exists()


def test_a_truncated_entry_is_put_aside(tmp_path: Path) -> None:
    _journal, path, text = _written(tmp_path)
    for cut in range(0, len(text) - 1, 7):
        path.write_text(text[:cut])
        assert Journal(path.parent).entries() == []


def test_records_that_are_whole_are_kept(tmp_path: Path) -> None:
    (tmp_path / "routers.json").write_text(json.dumps([RECORD]))
    assert adopt.records(tmp_path) == [RECORD]


@pytest.mark.parametrize("text", DAMAGES)
def test_a_damaged_list_of_routers_adopts_nobody(tmp_path: Path, text: str) -> None:
    (tmp_path / "routers.json").write_text(text)
    assert adopt.records(tmp_path) == []


@pytest.mark.parametrize(
    "change",
    [{"name": 7}, {"name": "../x"}, {"name": "a\0"}, {"netns": None}, {"pids": []}, {"pids": {"forwarder": "1"}},
     {"pids": {"forwarder": -1}}, {"pids": {"forwarder": 1 << 40}}, {"interfaces": [1]}, {"interfaces": {"a": 1}},
     {"interfaces": {"a": {"key": []}}}, {"uid": "0"}, {"restarts": True}],
    ids=str,
)  # fmt: skip
def test_a_record_with_a_strange_field_is_left_out(tmp_path: Path, change: dict[str, Any]) -> None:
    (tmp_path / "routers.json").write_text(json.dumps([RECORD | change, RECORD]))
    assert adopt.records(tmp_path) == [RECORD]


def test_a_run_dir_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(PermissionError):
        prepare_run_dir(tmp_path)
    tmp_path.chmod(0o755)
    prepare_run_dir(tmp_path)


def _random_segment(kind: int, size: int, chance: random.Random) -> segment.Segment:
    """Make a segment with a sound header and random, often small, words behind it."""
    fd = segment.create(kind, size, 1, "red")
    try:
        for _ in range(64):
            at = chance.choice([chance.randrange(128, 8192), chance.randrange(128, size)])
            words = (chance.choice([0, 1, 2, 8, 4096, size - 8, size, chance.getrandbits(64)]) for _ in range(512))
            data = b"".join(word.to_bytes(8, "little") for word in words)
            os.pwrite(fd, data[: size - at], at)
        return segment.Segment(fd, kind)
    finally:
        os.close(fd)


@pytest.mark.parametrize("seed", range(8))
def test_random_state_is_described_or_refused(seed: int) -> None:
    chance = random.Random(seed)
    with _random_segment(segment.KIND_STATE, segment.STATE_SIZE, chance) as state:
        json.dumps([stats.ports(state), stats.neighbors(state), stats.sockets(state), stats.host_drops(state)])
        json.dumps([stats.progress(state), stats.forwarder(state), stats.interface_counters(state, 255)])


@pytest.mark.parametrize("seed", range(8))
def test_random_tables_are_described_or_refused(seed: int) -> None:
    chance = random.Random(seed)
    with _random_segment(segment.KIND_TABLES, 32 << 20, chance) as tables:
        for read in (routes.routes, interfaces.names, lambda it: routes.lookup(it, "10.1.2.3"),
                     lambda it: routes.lookup(it, "2001:db8::1")):  # fmt: skip
            with contextlib.suppress(ValueError):
                json.dumps(read(tables))


@pytest.mark.parametrize(
    "raw",
    [b"\xc1", b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\x91" * 4000, b"\xdf\xff\xff\xff\xff",
     msgpack.packb([1]), msgpack.packb({1: 2}), b"\x81\xa2vr" + b"\x91" * 3000, os.urandom(4096)],
)  # fmt: skip
@pytest.mark.parametrize("op", [Op.HELLO, Op.WATCH, Op.TICKET, 255])
def test_msgpack_bombs_are_answered_with_an_error(raw: bytes, op: int) -> None:
    broker = Broker.__new__(Broker)
    assert broker._answer(op, raw, b"x", Identity(1, 1, 1)) == (errno.EPROTO, {})


def test_one_user_cannot_take_all_places_of_watchers() -> None:
    watchers = events.Watchers(lambda _frames: None)
    for number in range(events.WATCHERS_PER_USER):
        assert watchers.add(number.to_bytes(4), Identity(1000, 1, 1))
    assert not watchers.add(b"one more", Identity(1000, 1, 1))
    assert watchers.add(b"somebody else", Identity(1001, 1, 1))
    assert watchers.add((0).to_bytes(4), Identity(1000, 1, 1))
