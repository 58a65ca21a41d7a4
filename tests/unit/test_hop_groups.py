"""Next-hop groups of the RIB's routes, in real tables: what a failure moves, and what it leaves alone."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator

import pytest

from fastpath import routes, segment, tables
from fastpath.tables import RouteChange, TableWriter
from vrouter.config.bfd import Bfd, BfdSession, BfdSessions
from vrouter.config.codec import to_plain
from vrouter.config.router import Interface, RouterConfig, StaticHop, StaticRoute
from vrouter.engine import inputs
from vrouter.engine.engine import Engine
from vrouter.net.address import parse_address
from vrouter.proto.base import BfdOpen
from vrouter.rib.route import HopKind
from vrouter.runtime.control import Control
from vrouter.runtime.fib_sync import FibSync

LINKS = tuple(
    Interface(f"e{port}", "ethernet", port, mac=f"02:00:00:00:00:{port:02x}", addresses=(f"10.0.{port}.1/24",))
    for port in (1, 2, 3)
)
COUNT = 100
WATCH = Bfd(enabled=True)


def prefix(number: int) -> str:
    return f"172.{16 + number // 256}.{number % 256}.0/24"


def hop(port: int, *, watched: bool = False, preference: int = 1, weight: int = 1) -> StaticHop:
    return StaticHop(f"10.0.{port}.2", bfd=WATCH if watched else None, preference=preference, weight=weight)


class Spy(TableWriter):
    """Notes in which order groups are moved and routes written."""

    def __init__(self, tables_fd: int) -> None:
        super().__init__(tables_fd)
        self.done: list[str] = []
        self.moved_at = 0.0  # when the last group was

    def group_set(self, group, hops, backups=()) -> None:
        self.done.append("group")
        super().group_set(group, hops, backups)
        self.moved_at = time.monotonic()

    def apply(self, changes) -> None:
        changes = list(changes)
        self.done += ["route"] * len(changes)
        super().apply(changes)


class Vr:
    """A control on real tables, whose BFD is the test."""

    def __init__(self) -> None:
        self.fd = segment.create(segment.KIND_TABLES, segment.TABLES_SIZE, 7, "red")
        self.tables = segment.Segment(self.fd, segment.KIND_TABLES)
        self.later: list[tuple[float, Callable[[], None]]] = []
        self.asked: dict[str, str] = {}  # session, by neighbor
        self.start()

    def start(self) -> None:
        self.spy = Spy(self.fd)
        self.fib = FibSync(self.spy, self.fd)
        self.control = Control("red", self.fib, lambda delay, call: self.later.append((delay, call)))
        self.control.watcher = self

    def ask(self, request) -> None:
        if isinstance(request, BfdOpen):
            self.asked[str(request.remote)] = request.session

    def configure(
        self, *hops: StaticHop, bfd: BfdSessions | None = None, count: int = COUNT, links: tuple[Interface, ...] = LINKS
    ) -> None:
        static = tuple(StaticRoute(prefix(number), hops) for number in range(count))
        config = RouterConfig("red", 7, links, static, bfd=bfd)
        self.control.configure({"router": to_plain(config)}, 0.0)
        self.spy.done.clear()

    def link(self, port: int, *, up: bool) -> None:
        self.control.link({"port": port, "up": up, "mtu": 1500})

    def bfd(self, neighbor: str, *, up: bool, admin_down: bool = False) -> None:
        self.control.feed(inputs.Bfd(self.asked[neighbor], up, admin_down))

    def ways(self, number: int = COUNT - 1) -> list[str]:
        """Tell where packets for a prefix go."""
        found = routes.lookup(self.tables, prefix(number).replace(".0/24", ".9"))
        return [] if found is None else sorted(entry["via"] for entry in found["nexthops"])

    def backups(self, number: int = COUNT - 1) -> list[str]:
        """Tell where the forwarder sends them when it finds those ways closed."""
        found = routes.lookup(self.tables, prefix(number).replace(".0/24", ".9"))
        return [entry["via"] for entry in (found or {}).get("backups", ())]

    def close(self) -> None:
        self.spy.close()
        self.tables.close()
        os.close(self.fd)


@pytest.fixture
def vr() -> Iterator[Vr]:
    made = Vr()
    yield made
    made.close()


@pytest.fixture
def unjudged(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let the engine do nothing from a moment on: what is seen then are the groups' own moves."""
    return lambda: monkeypatch.setattr(Engine, "handle", lambda _self, _event, _now: [])


def test_a_lost_link_moves_one_group_before_any_route(vr: Vr) -> None:
    vr.configure(hop(1), hop(2), hop(3, preference=9))
    assert vr.ways() == ["10.0.1.2", "10.0.2.2"]
    vr.link(1, up=False)
    assert vr.spy.done[:2] == ["group", "route"]
    assert vr.ways() == ["10.0.2.2"]
    vr.link(1, up=True)
    assert vr.ways() == ["10.0.1.2", "10.0.2.2"]


def test_all_routes_move_by_one_store(vr: Vr, unjudged: Callable[[], None]) -> None:
    vr.configure(hop(1), hop(2), hop(3, preference=9))
    unjudged()
    vr.link(1, up=False)
    assert vr.spy.done == ["group"]
    assert all(vr.ways(number) == ["10.0.2.2"] for number in range(COUNT))
    vr.link(2, up=False)
    assert vr.spy.done == ["group", "group"]
    assert vr.ways() == ["10.0.3.2"]
    vr.link(3, up=False)
    assert vr.ways() == ["10.0.1.2", "10.0.2.2"], "nothing is left to turn to"
    vr.link(2, up=True)
    assert vr.ways() == ["10.0.2.2"]


def test_a_silent_neighbor_is_left_out(vr: Vr, unjudged: Callable[[], None]) -> None:
    vr.configure(hop(1, watched=True), hop(2, preference=5))
    vr.bfd("10.0.1.2", up=True)
    assert vr.ways() == ["10.0.1.2"]
    unjudged()
    vr.bfd("10.0.1.2", up=False)
    assert vr.spy.done == ["group"]
    assert vr.ways() == ["10.0.2.2"]
    vr.bfd("10.0.1.2", up=True)
    assert vr.ways() == ["10.0.1.2"]


def test_a_neighbor_that_was_put_down_is_no_failure(vr: Vr, unjudged: Callable[[], None]) -> None:
    vr.configure(hop(1, watched=True), hop(2, preference=5))
    vr.bfd("10.0.1.2", up=True)
    unjudged()
    vr.bfd("10.0.1.2", up=False, admin_down=True)
    assert (vr.spy.done, vr.ways()) == ([], ["10.0.1.2"])


def test_silence_counts_until_the_protocols_have_judged(vr: Vr, unjudged: Callable[[], None]) -> None:
    vr.configure(hop(1, watched=True), hop(2, preference=5))
    vr.bfd("10.0.1.2", up=True)
    unjudged()
    vr.bfd("10.0.1.2", up=False)
    assert vr.ways() == ["10.0.2.2"]
    _delay, let_go = vr.later[-1]
    let_go()
    assert vr.ways() == ["10.0.1.2"]


def test_a_session_of_an_operator_moves_nothing(vr: Vr, unjudged: Callable[[], None]) -> None:
    lone = BfdSession(remote="10.0.1.2", interface="e1")
    vr.configure(hop(1), hop(2, preference=5), bfd=BfdSessions(sessions={"lone": lone}))
    vr.bfd("10.0.1.2", up=True)
    unjudged()
    vr.bfd("10.0.1.2", up=False)
    assert (vr.spy.done, vr.ways()) == ([], ["10.0.1.2"])


def test_a_backup_is_written_behind_the_hops(vr: Vr) -> None:
    vr.configure(hop(1), hop(2, preference=5), hop(3, preference=9))
    assert vr.backups() == ["10.0.2.2"]
    assert len(vr.control.rib.backups) == COUNT
    vr.link(2, up=False)
    assert vr.backups() == ["10.0.3.2"]
    vr.link(3, up=False)
    assert vr.backups() == []
    assert not vr.control.rib.backups


def test_unused_groups_go(vr: Vr) -> None:
    vr.configure(hop(1), hop(2))
    (group,) = {entry.group for entry in vr.spy.routes() if entry.protocol == 3}
    vr.configure(hop(1), hop(3))
    assert not vr.spy.group_used(group)
    vr.fib.reclaim()
    with pytest.raises(FileNotFoundError):
        vr.spy.group_used(group)
    assert vr.ways() == ["10.0.1.2", "10.0.3.2"]


def test_an_interface_that_moves_to_another_port_is_up_there(vr: Vr) -> None:
    vr.configure(hop(1), hop(2))
    vr.link(1, up=False)
    moved = RouterConfig(
        "red", 7, (Interface("e1", "ethernet", 9, mac=LINKS[0].mac, addresses=LINKS[0].addresses), *LINKS[1:]),
        (StaticRoute(prefix(COUNT - 1), (hop(1), hop(2))),),
    )  # fmt: skip
    vr.control.configure({"router": to_plain(moved)}, 0.0)
    assert vr.ways() == ["10.0.1.2", "10.0.2.2"]


def test_groups_over_an_interface_that_has_gone_move_no_more(vr: Vr) -> None:
    vr.configure(hop(1), hop(2), hop(3))
    vr.configure(hop(1), hop(2), links=LINKS[:2])
    vr.link(1, up=False)
    assert vr.ways() == ["10.0.2.2"]


@pytest.mark.parametrize("hops", [(hop(3),), (hop(1), hop(3)), (hop(1), hop(3, preference=9))])
def test_an_interface_that_comes_again_has_groups_of_its_new_index(vr: Vr, hops: tuple[StaticHop, ...]) -> None:
    vr.configure(*hops)
    before = vr.fib.indices["e3"]
    vr.configure(hop(1), links=LINKS[:2])
    vr.configure(*hops)
    assert vr.fib.indices["e3"] != before
    found = routes.lookup(vr.tables, "172.16.0.9") or {}
    assert "e3" in {entry["interface"] for entry in [*found["nexthops"], *found.get("backups", ())]}


def test_groups_that_could_not_be_moved_are_moved_later(vr: Vr, unjudged: Callable[[], None]) -> None:
    vr.configure(hop(1), hop(2), hop(3, preference=9))
    unjudged()
    with pytest.MonkeyPatch.context() as full:
        full.setattr(Spy, "group_set", _no_room)
        vr.link(1, up=False)
    assert vr.ways() == ["10.0.1.2", "10.0.2.2"]
    vr.link(1, up=False)
    assert vr.ways() == ["10.0.2.2"]


def _no_room(*_arguments: object) -> None:
    raise OSError(errno.ENOSPC, "no room")


def test_a_restart_takes_what_is_there_in_its_own_groups(vr: Vr) -> None:
    vr.configure(hop(1), hop(2), hop(3, preference=9))
    vr.spy.close()
    vr.start()
    vr.configure(hop(1), hop(2), hop(3, preference=9))
    vr.link(1, up=False)
    assert vr.ways() == ["10.0.2.2"]


def test_own_groups_are_not_given_to_others(vr: Vr) -> None:
    hops = [tables.Hop(HopKind.FORWARD, 1, parse_address("10.0.1.2"))]
    own = vr.spy.group_own(hops)
    assert vr.spy.group(hops) != own
    assert not vr.spy.group_used(own)
    vr.spy.apply([RouteChange(4, 0xAC100000, 24, own, 3)])
    assert vr.spy.group_used(own)
