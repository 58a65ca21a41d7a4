"""Parts of the manager that need neither root nor a kernel object."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import struct
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from fastpath._layout import SIZES
from manager import links, resolve
from manager.journal import Entry, Journal
from manager.member import CRASHES, SHORT_LIFE, TRANSITIONS, Happening, Hooks, Member, Phase
from manager.netlink import ROUTE_SIZE, RTA_MULTIPATH, RTA_OIF, attribute, attributes
from manager.ports import pack_spec, unpack_spec
from manager.reactor import READ, Reactor
from vrouter.config.schema import Config, Defaults, Hop, Interface, Quotas, Router, Rsock, Rule, SharedRsock, SharedRule


def test_attributes_survive_a_round_trip_and_hostile_bytes() -> None:
    data = attribute(1, b"abc") + attribute(2, b"") + attribute(3, b"defgh")
    assert attributes(data) == {1: b"abc", 2: b"", 3: b"defgh"}
    for cut in range(len(data)):
        attributes(data[:cut])
    assert attributes(b"\0\0\1\0") == {}
    assert attributes(b"\xff\xff\1\0") == {}


def test_a_route_is_made_fit_for_adding() -> None:
    head = struct.pack("=BBBBBBBBI", socket.AF_INET, 16, 0, 0, 254, 4, 0, 1, 0x10 | 4)  # linkdown, onlink
    hop = struct.pack("=HBBi", 16, 0x11, 1, 5) + attribute(5, b"\x0a\0\0\1")
    stranger = struct.pack("=HBBi", 16, 0, 0, 6) + attribute(5, b"\x0a\0\0\2")
    body = head + attribute(RTA_OIF, struct.pack("=I", 5))
    body += attribute(RTA_MULTIPATH, hop + stranger) + attribute(12, bytes(32))
    restored = links.restorable_route(body, 5, 9)
    assert struct.unpack_from("=I", restored, 8) == (4,)
    found = attributes(restored[ROUTE_SIZE:])
    assert found[RTA_OIF] == struct.pack("=I", 9)
    assert 12 not in found
    assert struct.unpack_from("=HBBi", found[RTA_MULTIPATH]) == (16, 0, 1, 9)
    assert struct.unpack_from("=HBBi", found[RTA_MULTIPATH], 16) == (16, 0, 0, 6)


def test_a_port_spec_survives_a_round_trip() -> None:
    values = {"port": 3, "driver": 1, "ifindex": 77, "mtu": 1500, "frame_count": 4096, "generation": 2**60}
    spec = pack_spec(values, "02:00:00:00:00:01")
    assert len(spec) == SIZES["port_spec"]
    assert unpack_spec(spec).items() >= values.items()
    with pytest.raises(ValueError, match="short"):
        unpack_spec(spec[:-1])


def test_the_journal_keeps_entries_and_forgets_other_boots(tmp_path: Path) -> None:
    mac = "02:00:00:00:00:01"
    entry = Entry("red:x/y", "device", "red", "x", 1, "", 2, "ns", "x", 1500, mac, "", 1, addresses=("aa" * 8,))
    journal = Journal(tmp_path / "journal")
    assert journal.entries() == []
    journal.write(entry)
    assert Journal(tmp_path / "journal").entries() == [entry]
    (tmp_path / "journal" / "torn.json").write_text('{"version": 1, "bo')
    (file,) = [path for path in (tmp_path / "journal").iterdir() if path.name != "torn.json"]
    other = Journal(tmp_path / "journal")
    assert other.entries() == [entry]
    file.write_text(file.read_text().replace(other._boot, "another boot"))
    assert other.entries() == []
    journal.write(entry)
    journal.remove(entry.key)
    journal.close()
    assert [path.name for path in (tmp_path / "journal").iterdir()] == ["torn.damaged"]


def config(**routers: Router) -> Config:
    return Config(routers=routers)


def test_a_device_of_one_router_is_taken_whole() -> None:
    plans = resolve.resolve(
        config(
            red=Router(
                interfaces={
                    "a": Interface(device="eth1", vlan=100, mtu=1400),
                    "b": Interface(device="eth1", vlan=200, mtu=9000),
                    "lo": Interface(addresses=("10.0.0.1/32",)),
                }
            )
        )
    )
    (port,) = plans["red"].ports.values()
    assert (port.kind, port.tagged, port.mtu) == ("device", True, 9000)
    made = resolve.router_config(plans["red"], 1, lambda _key: resolve.PortFacts(4, "02:00:00:00:00:01", 9000))
    assert [(i.name, i.kind, i.port, i.vlan, i.mtu) for i in made.interfaces] == [
        ("a", "vlan", 4, 100, 1400),
        ("b", "vlan", 4, 200, 9000),
        ("lo", "loopback", 0, 0, resolve.LOOPBACK_MTU),
    ]


def test_a_device_of_two_routers_is_shared_by_vlan() -> None:
    plans = resolve.resolve(
        config(
            red=Router(interfaces={"a": Interface(device="eth1", vlan=100), "b": Interface(device="eth1", vlan=101)}),
            blue=Router(interfaces={"a": Interface(device="eth1", vlan=200)}),
        )
    )
    assert {(port.kind, port.vlan) for port in plans["red"].ports.values()} == {("share", 100), ("share", 101)}
    assert [(i.kind, i.vlan) for i in plans["red"].interfaces] == [("ethernet", 0), ("ethernet", 0)]
    assert plans["red"].ports.keys().isdisjoint(plans["blue"].ports)


def test_unknown_users_are_all_reported() -> None:
    rules = tuple(Rule(app=app, allow=("udp",)) for app in ("uid:no-such-user", "gid:no-such-group", "uid:12"))
    with pytest.raises(resolve.ResolveError) as caught:
        resolve.resolve(config(red=Router(rsock=Rsock(rules=rules))))
    assert len(caught.value.problems) == 2


def test_shared_rules_stand_behind_and_quotas_come_from_the_nearest_place() -> None:
    own = Rule(app="uid:1", allow=("udp",), quotas=Quotas(sockets=5))
    shared = (
        SharedRule(app="uid:2", allow=("raw",), routers=("cust-*",), quotas=Quotas(memory=0)),
        SharedRule(app="uid:3", allow=("connect",)),
    )
    made = Config(
        defaults=Defaults(rsock=SharedRsock(rules=shared, quotas=Quotas(sockets=7, bytes_per_second=9))),
        routers={
            "cust-1": Router(rsock=Rsock(rules=(own,), quotas=Quotas(accepts_per_second=3, sockets=6))),
            "core": Router(),
        },
    )
    plans = resolve.resolve(made)
    assert [rule.id for rule in plans["cust-1"].rules] == [1, 2, 3]
    assert [rule.id for rule in plans["core"].rules] == [3]
    first, second, _third = (rule.quota for rule in plans["cust-1"].rules)
    assert (first.sockets, first.accepts, first.bytes, first.opens, first.memory) == (5, 3, 9, 10_000, 1 << 30)
    assert (second.sockets, second.memory) == (6, 0)
    assert (plans["core"].rules[0].quota.sockets, plans["core"].rules[0].quota.accepts) == (7, 0)
    crowd = tuple(SharedRule(app=f"uid:{number}", allow=("udp",)) for number in range(1023))
    with pytest.raises(resolve.ResolveError, match="more than 1023"):
        resolve.resolve(dataclasses.replace(made, defaults=Defaults(rsock=SharedRsock(rules=crowd))))


def test_static_routes_and_rules_are_resolved() -> None:
    rules = (Rule(app="uid:root", allow=("udp", "raw"), ports=((53, 53),)), Rule(app="curve:abc", allow=("connect",)))
    router = Router(static={"0.0.0.0/0": (Hop(via="10.0.0.2", weight=3),)}, rsock=Rsock(rules=rules))
    plan = resolve.resolve(config(red=router))["red"]
    assert plan.static[0].hops[0].weight == 3
    assert (plan.rules[0].id, plan.rules[0].operations, plan.rules[0].ports) == (0, 4 | 8, ((53, 53),))
    assert plan.rules[1].curve_key == b"abc"


def test_patch_macs_are_stable_and_local() -> None:
    mac = resolve.patch_mac("red/to-blue")
    assert mac == resolve.patch_mac("red/to-blue") != resolve.patch_mac("blue/to-red")
    assert int(mac[:2], 16) & 3 == 2


class FakeChild:
    """A process that dies when it is killed."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.signals: list[int] = []
        self.ended = lambda: None

    def watch(self, ended: object) -> None:
        self.ended = ended  # type: ignore[assignment]

    def kill(self, number: int = signal.SIGKILL) -> None:
        self.signals.append(number)


class Owner:
    """Counts what a member asks of its owner."""

    def __init__(self, reactor: Reactor) -> None:
        self.children: list[FakeChild] = []
        self.lost: list[str] = []
        self.ends = 0
        self.member = Member(reactor, "forwarder", "red", Hooks(self.spawn, lambda: None, self.lost.append, self.end))

    def spawn(self, done: object) -> None:
        self.children.append(FakeChild(len(self.children) + 1))
        done(self.children[-1])  # type: ignore[operator]

    def end(self) -> None:
        self.ends += 1


@pytest.fixture
def reactor() -> Reactor:
    def fail(error: BaseException) -> None:
        raise error

    return Reactor(fail)


def test_a_dead_process_has_a_successor_at_once_until_deaths_come_too_fast(reactor: Reactor) -> None:
    owner = Owner(reactor)
    owner.member.start()
    for number in range(1, CRASHES):
        owner.member.answered()
        owner.children[-1].ended()
        assert len(owner.children) == number + 1
        assert owner.member.phase is Phase.GREETING
    owner.member.answered()
    owner.children[-1].ended()
    assert owner.member.phase is Phase.BACKOFF
    assert len(owner.children) == CRASHES
    assert reactor.turn_until(lambda: len(owner.children) == CRASHES + 1, 2.0)
    assert owner.member.deaths == CRASHES == len(owner.lost)
    reactor.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Give what members take for the time; it stands until somebody moves its `now`."""
    made = SimpleNamespace(now=0.0)
    made.monotonic = lambda: made.now
    monkeypatch.setattr("manager.member.time", made)
    return made


def test_slow_births_are_no_lives(reactor: Reactor, clock: SimpleNamespace) -> None:
    """Who dies whenever it is about to serve is in a crash loop, however long each birth takes."""
    owner = Owner(reactor)
    owner.member.start()
    for number in range(1, CRASHES):
        clock.now += 2 * SHORT_LIFE
        owner.children[-1].ended()
        assert len(owner.children) == number + 1
    clock.now += 2 * SHORT_LIFE
    owner.children[-1].ended()
    assert owner.member.phase is Phase.BACKOFF
    owner.member.end()
    reactor.close()


def test_who_has_served_has_a_successor_at_once(reactor: Reactor, clock: SimpleNamespace) -> None:
    owner = Owner(reactor)
    owner.member.start()
    for number in range(1, 3 * CRASHES):
        owner.member.answered()
        clock.now += 2 * SHORT_LIFE
        owner.children[-1].ended()
        assert len(owner.children) == number + 1
    reactor.close()


def test_a_hung_process_is_fenced_once_and_replaced(reactor: Reactor) -> None:
    owner = Owner(reactor)
    owner.member.start()
    owner.member.answered()
    owner.member.fence("hangs")
    owner.member.fence("hangs")
    assert owner.children[0].signals == [signal.SIGKILL]
    assert len(owner.children) == 1  # not before it is dead
    owner.children[0].ended()
    assert len(owner.children) == 2
    assert owner.lost == ["hangs"]
    reactor.close()


def test_an_ended_process_stays_ended(reactor: Reactor) -> None:
    owner = Owner(reactor)
    owner.member.start()
    owner.member.answered()
    owner.member.end()
    assert signal.SIGTERM in owner.children[0].signals
    owner.children[0].ended()
    assert (owner.member.phase, owner.ends, len(owner.children)) == (Phase.ABSENT, 1, 1)
    owner.member.start()
    assert len(owner.children) == 2
    reactor.close()


def test_every_phase_can_be_ended_and_left() -> None:
    for phase in Phase:
        if phase not in {Phase.ABSENT, Phase.ENDING}:
            assert TRANSITIONS[phase, Happening.END] in {Phase.ENDING, Phase.ABSENT}
    assert {phase for phase, _happening in TRANSITIONS} == set(Phase)


def test_the_reactor_calls_in_order_and_survives_a_failing_callback() -> None:
    failures: list[BaseException] = []
    reactor = Reactor(failures.append)
    calls: list[str] = []
    reactor.after(0.02, lambda: calls.append("late"))
    reactor.after(0.01, lambda: calls.append("early"))
    reactor.after(0, lambda: 1 // 0)  # type: ignore[arg-type]
    cancelled = reactor.after(0.005, lambda: calls.append("cancelled"))
    cancelled.cancel()
    reading, writing = os.pipe()
    reactor.add(reading, READ, lambda: calls.append(os.read(reading, 8).decode()))
    os.write(writing, b"data")
    begin = time.monotonic()
    assert reactor.turn_until(lambda: len(calls) == 3, 2.0)
    assert time.monotonic() - begin >= 0.02
    assert calls == ["data", "early", "late"]
    assert isinstance(failures[0], ZeroDivisionError)
    os.close(reading)
    os.close(writing)
    reactor.close()
