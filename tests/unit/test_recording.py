"""Recordings: what an engine was told, given to another one, leads to the same outputs."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from fastpath import segment
from fastpath.tables import TableWriter
from manager.cli.errors import CliError
from manager.cli.record import _create
from tests.unit.engine_world import CONFIG, LAN
from vrouter import replay
from vrouter.config.codec import to_plain
from vrouter.config.rip import Rip, RipInterface
from vrouter.config.router import RouterConfig, StaticHop, StaticRoute
from vrouter.engine import inputs
from vrouter.engine.recording import Header, digest, read, write_header, write_step
from vrouter.net.address import parse_address
from vrouter.proto.base import Meta
from vrouter.runtime.control import Control
from vrouter.runtime.engines import make_engine
from vrouter.runtime.fib_sync import FibSync
from vrouter.runtime.recorder import PIECE, Recorder

GROUP, PEER = parse_address("224.0.0.9"), parse_address("10.0.0.2")
RIP = dataclasses.replace(CONFIG, rip=Rip(interfaces={"lan": RipInterface()}))
# Version 2: 203.0.113.0/24, metric 3.
RESPONSE = bytes.fromhex("0202000000020000cb007100ffffff000000000000000003")
STORY: tuple[tuple[float, inputs.Input], ...] = (
    (1.0, inputs.Link(1, up=True, mtu=1400)),
    (1.5, inputs.Configure(RIP, {"lan": 1, "wan": 2, "lo": 3})),
    (1.6, inputs.Opened("rip", "udp")),
    (2.0, inputs.Received("rip", "udp", RESPONSE, Meta("lan", PEER, GROUP, 1, 520, 520))),
    (2.5, inputs.Clear("rip", "nonsense", {"a": 1})),
    (2.7, inputs.Accepted("bgp", "listen6", "c", parse_address("2001:db8::1"), parse_address("fe80::2"))),
    (3.0, inputs.Link(2, up=False)),
    (40.0, inputs.Timeout()),
    (41.0, inputs.Stop()),
)


def recorded(seed: int = 77) -> bytes:
    header = Header("red", seed)
    engine = make_engine(header)
    data = write_header(header)
    for now, event in STORY:
        try:
            wanted = engine.handle(event, now)
        except KeyError:
            wanted = []
        data += write_step(now, event, wanted)
    return data


def test_a_replay_asks_for_the_same() -> None:
    data = recorded()
    header, steps = read(data)
    assert header == Header("red", 77)
    assert [(step.now, step.event) for step in steps] == list(STORY)
    played = list(replay.play(data))
    assert len(played) == len(STORY)
    assert all(each.same for each in played)
    assert sum(len(each.outputs) for each in played) > 5
    assert any("203.0.113.0/24" in str(change.prefix) for it in played for out in it.outputs
               for change in getattr(out, "changes", ()))  # fmt: skip


def test_the_same_seed_gives_the_same_recording_and_another_another() -> None:
    assert recorded() == recorded()
    assert recorded(78) != recorded()


def test_another_engine_is_found_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header, steps = read(recorded())
    data = write_header(header)
    for step in steps:
        event = step.event
        if isinstance(event, inputs.Configure):
            route = StaticRoute("198.51.100.0/24", (StaticHop("10.0.0.77"),))
            event = dataclasses.replace(event, router=dataclasses.replace(event.router, static=(route,)))
        data += _with_digest(step.now, event, step.digest)
    path = tmp_path / "recording"
    path.write_bytes(data)
    assert replay.main([str(path)]) == 1
    assert "DIFFERENT" in capsys.readouterr().out
    path.write_bytes(recorded())
    assert replay.main([str(path)]) == 0
    assert "0 differences" in capsys.readouterr().out


def _with_digest(now: float, event: inputs.Input, wanted: bytes) -> bytes:
    """A step of another engine."""
    record = write_step(now, event, [])
    return record.replace(digest([]), wanted)


def test_a_recording_may_be_cut_anywhere_and_nonsense_is_refused(tmp_path: Path) -> None:
    data = recorded()
    for end in (len(data) - 1, len(data) // 2, len(write_header(Header("red", 77)))):
        assert all(each.same for each in replay.play(data[:end]))
    path = tmp_path / "nonsense"
    for nonsense in (b"", b"\xff" * 100, b"\0\0\0\1\xc1", write_header(Header("red", 1, version=9))):
        path.write_bytes(nonsense)
        assert replay.main([str(path)]) == 2


def test_a_control_records_from_a_new_engine_on() -> None:
    tables = segment.create(segment.KIND_TABLES, segment.TABLES_SIZE, 7, "red")
    state = segment.create(segment.KIND_STATE, segment.STATE_SIZE, 7, "red")
    clock = iter(range(1000))
    with TableWriter(tables, state) as writer:
        control = Control("red", FibSync(writer, tables), lambda _delay, _call: None, clock=lambda: float(next(clock)))
        control.link({"port": 2, "up": False, "mtu": 1500})
        control.configure({"router": to_plain(RIP)}, 0.5)
        before = sorted(writer.routes(), key=str)
        control.record({"action": "start"})
        assert sorted(writer.routes(), key=str) == before, "the tables are as they were"
        control.link({"port": 2, "up": True, "mtu": 1500})
        control.feed(inputs.Opened("rip", "udp"))
        piece = control.record({"action": "stop"})
        with pytest.raises(Exception, match="fetch"):
            control.record({"action": "fetch"})
    os.close(tables)
    os.close(state)
    header, steps = read(piece["data"])
    assert (header.restarted, piece["steps"], piece["more"], piece["cut"]) == (True, 4, False, False)
    assert [type(step.event).__name__ for step in steps] == ["Link", "Configure", "Link", "Opened"]
    assert all(each.same for each in replay.play(piece["data"]))


def test_a_recording_that_nobody_fetches_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vrouter.runtime.recorder.ROOM", 2 * PIECE)
    recorder = Recorder(Header("red", 1))
    event = inputs.Stream("bgp", "s", bytes(PIECE))
    for _ in range(5):
        recorder.note(1.0, event, [])
    pieces = [recorder.fetch()]
    while pieces[-1]["more"]:
        pieces.append(recorder.fetch())
    assert pieces[-1]["cut"]
    assert pieces[-1]["steps"] == 2
    assert len(list(read(b"".join(piece["data"] for piece in pieces))[1])) == 2


def test_an_engine_of_another_router_is_not_needed() -> None:
    with pytest.raises(ValueError, match="red"):
        make_engine(Header("blue", 1)).handle(inputs.Configure(RouterConfig("red", 1, (LAN,))), 0.0)


def test_a_recording_goes_into_a_file_of_our_own_alone(tmp_path: Path) -> None:
    """Keys stand in it: neither a link nor a file that others hold may lead it elsewhere."""
    aim = tmp_path / "aim"
    aim.write_text("precious")
    (tmp_path / "link").symlink_to(aim)
    (tmp_path / "other").hardlink_to(aim)
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "other", "pipe"):
        with pytest.raises(CliError):
            _create(tmp_path / name)
    assert aim.read_text() == "precious"
    (tmp_path / "other").unlink()
    aim.chmod(0o644)
    for path in (aim, tmp_path / "new"):
        os.close(_create(path))
        assert path.read_bytes() == b""
        assert path.stat().st_mode & 0o777 == 0o600
