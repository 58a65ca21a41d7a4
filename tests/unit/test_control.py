"""A control with real tables: what it publishes, in which order, and after a restart."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator

import pytest

from fastpath import interfaces as reader
from fastpath import segment, tables
from fastpath._layout import CONSTANTS
from fastpath.tables import RouteChange, TableWriter
from rsock.wire import Right
from vrouter.config.codec import from_plain, to_plain
from vrouter.config.router import Interface, RouterConfig, Rule, StaticHop, StaticRoute
from vrouter.engine.outputs import Tables
from vrouter.net.address import Prefix, parse_address, parse_prefix
from vrouter.rib.route import FibChange, Protocol
from vrouter.runtime import fib_sync
from vrouter.runtime.control import Control
from vrouter.runtime.fib_sync import FibSync
from vrouter.runtime.manager_link import RequestError
from vrouter.sockets import rules

LAN = Interface("lan", "ethernet", 1, mac="02:00:00:00:00:01", addresses=("10.0.0.1/24", "2001:db8::1/64"))
WAN = Interface("wan", "ethernet", 2, mac="02:00:00:00:00:02", addresses=("192.0.2.1/30",))
LO = Interface("lo", "loopback", mtu=65535, addresses=("10.255.0.1/32",))
DEFAULT = StaticRoute("0.0.0.0/0", (StaticHop("192.0.2.2"),))
KEY = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"
CONFIG = RouterConfig("red", 7, (LAN, WAN, LO), (DEFAULT,), (Rule("uid", 1000, b"", int(Right.UDP)),))


class Spy(TableWriter):
    """Notes what is done to the tables."""

    def __init__(self, tables_fd: int, state_fd: int) -> None:
        super().__init__(tables_fd, state_fd)
        self.done: list[tuple[str, object]] = []
        self.failures = 0

    def publish(self, interfaces, addresses, rules) -> None:
        interfaces = list(interfaces)
        self.done.append(("publish", [entry.name for entry in interfaces]))
        super().publish(interfaces, addresses, rules)

    def apply(self, changes) -> None:
        changes = list(changes)
        self.done += [("remove" if not entry.group else "install", shown(entry)) for entry in changes]
        if self.failures:
            self.failures -= 1
            raise OSError(28, "no room")
        super().apply(changes)


def shown(entry: RouteChange) -> str:
    return str(Prefix(entry.family, entry.value, entry.length))


class Vr:
    """The segments of a VR and one control after another."""

    def __init__(self) -> None:
        self.tables = segment.create(segment.KIND_TABLES, segment.TABLES_SIZE, 7, "red")
        self.state = segment.create(segment.KIND_STATE, segment.STATE_SIZE, 7, "red")
        self.later: list[Callable[[], None]] = []
        self.start()

    def start(self) -> None:
        self.spy = Spy(self.tables, self.state)
        self.control = Control("red", FibSync(self.spy, self.tables), lambda _delay, call: self.later.append(call))

    def restart(self) -> None:
        self.spy.close()
        self.start()

    def configure(self, config: RouterConfig) -> bool:
        changed: bool = self.control.configure({"router": to_plain(config)}, 0.0)["changed"]
        return changed

    def link(self, port: int, up: bool, mtu: int = 1500) -> None:
        self.control.link({"port": port, "up": up, "mtu": mtu})

    def routes(self) -> set[str]:
        return {shown(entry) for entry in self.spy.routes()}

    def groups(self) -> dict[str, int]:
        return {shown(entry): entry.group for entry in self.spy.routes()}

    def published(self) -> dict[str, reader.Published]:
        with segment.Segment(self.tables, segment.KIND_TABLES) as mapped:
            return {interface.name: interface for interface in reader.published(mapped)}

    def close(self) -> None:
        self.spy.close()
        os.close(self.tables)
        os.close(self.state)


@pytest.fixture
def vr() -> Iterator[Vr]:
    made = Vr()
    yield made
    made.close()


def without(name: str) -> RouterConfig:
    left = tuple(interface for interface in CONFIG.interfaces if interface.name != name)
    return dataclasses.replace(CONFIG, interfaces=left)


def test_constants_are_those_of_the_abi() -> None:
    assert {f"INTERFACE_{kind.upper()}": value for kind, value in fib_sync.KINDS.items()}.items() <= CONSTANTS.items()
    assert {f"RULE_{kind.upper()}": value for kind, value in rules.IDENTITIES.items()}.items() <= CONSTANTS.items()
    assert CONSTANTS["INTERFACE_ADMIN_UP"] == fib_sync.ADMIN_UP
    assert CONSTANTS["ADDRESS_LINK_LOCAL"] == fib_sync.LINK_LOCAL
    assert CONSTANTS["ADDRESS_NO_DAD"] == fib_sync.NO_DAD
    assert CONSTANTS["MAX_INTERFACES"] - 1 == fib_sync.MAX_INDEX


def test_a_configuration_becomes_tables(vr: Vr) -> None:
    assert vr.configure(CONFIG)
    assert vr.routes() == {
        "10.0.0.0/24", "10.0.0.0/32", "10.0.0.1/32", "10.0.0.255/32",
        "192.0.2.0/30", "192.0.2.0/32", "192.0.2.1/32", "192.0.2.3/32",
        "2001:db8::/64", "2001:db8::/128", "2001:db8::1/128", "fe80::ff:fe00:1/128",
        "10.255.0.1/32", "0.0.0.0/0", "127.0.0.0/8", "::1/128",
    }  # fmt: skip
    lan = vr.published()["lan"]
    assert (lan.index, lan.port, lan.kind, lan.mtu, lan.mac) == (1, 1, "ethernet", 1500, "02:00:00:00:00:01")
    assert lan.addresses == ("10.0.0.1/24", "2001:db8::1/64", "fe80::ff:fe00:1/64")
    assert vr.published()["lo"].kind == "loopback"


def test_the_same_again_does_nothing(vr: Vr) -> None:
    vr.configure(CONFIG)
    vr.spy.done.clear()
    assert not vr.configure(CONFIG)
    assert vr.spy.done == []


def test_an_interface_leaves_after_its_routes(vr: Vr) -> None:
    vr.configure(CONFIG)
    vr.spy.done.clear()
    assert vr.configure(without("wan"))
    kinds = [kind for kind, _ in vr.spy.done]
    assert kinds == ["publish", *["remove"] * 5, "publish"]
    assert vr.spy.done[0][1] == ["lan", "lo", "wan"]
    assert vr.spy.done[-1][1] == ["lan", "lo"]
    assert "0.0.0.0/0" not in vr.routes()


def test_indices_stay_and_are_not_reused_at_once(vr: Vr) -> None:
    vr.configure(CONFIG)
    vr.configure(without("lan"))
    vr.configure(dataclasses.replace(CONFIG, interfaces=(dataclasses.replace(LAN, name="new"), WAN, LO)))
    assert {name: entry.index for name, entry in vr.published().items()} == {"new": 4, "wan": 2, "lo": 3}


def test_two_hundred_and_fifty_five_interfaces_and_no_more(vr: Vr) -> None:
    many = tuple(Interface(f"l{n}", "loopback") for n in range(255))
    vr.configure(dataclasses.replace(CONFIG, interfaces=many, static=()))
    others = tuple(Interface(f"m{n}", "loopback") for n in range(255))
    with pytest.raises(OSError, match="index"):
        vr.configure(dataclasses.replace(CONFIG, interfaces=others, static=()))


def test_a_lost_link_takes_its_routes_and_gives_them_back(vr: Vr) -> None:
    vr.configure(CONFIG)
    before = vr.groups()
    vr.spy.done.clear()
    vr.link(2, up=False)
    assert {what for kind, what in vr.spy.done if kind == "remove"} == {
        "0.0.0.0/0", "192.0.2.0/30", "192.0.2.0/32", "192.0.2.3/32"
    }  # fmt: skip
    assert "192.0.2.1/32" in vr.routes()
    vr.link(2, up=True)
    assert vr.routes() == set(before)


def test_a_link_may_be_reported_before_the_configuration(vr: Vr) -> None:
    vr.link(2, up=False)
    vr.configure(CONFIG)
    assert "192.0.2.0/30" not in vr.routes()
    assert "10.0.0.0/24" in vr.routes()


def test_the_mtu_of_a_link_is_a_limit(vr: Vr) -> None:
    vr.configure(CONFIG)
    vr.link(1, up=True, mtu=1400)
    vr.link(2, up=True, mtu=9000)
    assert {name: entry.mtu for name, entry in vr.published().items()} == {"lan": 1400, "wan": 1500, "lo": 65535}


def test_a_restarted_control_disturbs_nothing(vr: Vr) -> None:
    vr.configure(dataclasses.replace(CONFIG, interfaces=(WAN, LAN, LO)))
    before, groups = vr.published(), vr.groups()
    vr.restart()
    assert vr.groups() == groups
    assert vr.spy.done == []
    vr.configure(CONFIG)
    assert {name: entry.index for name, entry in vr.published().items()} == {n: e.index for n, e in before.items()}
    assert vr.groups() == groups
    assert "remove" not in [kind for kind, _ in vr.spy.done]


def test_a_restarted_control_sweeps_after_it_has_installed(vr: Vr) -> None:
    vr.configure(CONFIG)
    vr.restart()
    other = StaticRoute("198.51.100.0/24", (StaticHop("10.0.0.2"),))
    vr.configure(dataclasses.replace(CONFIG, static=(other,)))
    kinds = [kind for kind, _ in vr.spy.done]
    assert vr.spy.done[-1] == ("remove", "0.0.0.0/0")
    assert kinds.count("remove") == 1
    assert "198.51.100.0/24" in vr.routes()


def test_a_predecessors_dynamic_routes_stay_until_their_protocol_has_settled(vr: Vr) -> None:
    vr.configure(CONFIG)
    learnt = parse_prefix("203.0.113.0/24")
    group = vr.spy.group([tables.Hop(1, 1, parse_address("10.0.0.9"))])
    vr.spy.apply([RouteChange(*learnt, group, Protocol.OSPF, 110), RouteChange(4, 0x0B000000, 8, group, Protocol.RIP)])
    vr.spy.release(group)
    vr.restart()
    fib = vr.control._fib
    assert fib.restarted
    vr.configure(dataclasses.replace(CONFIG, static=()))
    engine = vr.control.engine
    assert engine.unsettled == ()
    assert not {"203.0.113.0/24", "11.0.0.0/8", "0.0.0.0/0"} & vr.routes(), "nobody runs who could learn them again"


def test_routes_of_a_protocol_that_is_not_settled_are_not_swept(vr: Vr) -> None:
    vr.configure(CONFIG)
    group = vr.spy.group([tables.Hop(1, 1, parse_address("10.0.0.9"))])
    vr.spy.apply(
        [RouteChange(4, 0xCB007100, 24, group, Protocol.OSPF), RouteChange(4, 0x0B000000, 8, group, Protocol.RIP)]
    )
    vr.spy.release(group)
    vr.restart()
    fib, rib = vr.control._fib, vr.control.rib
    vr.configure(CONFIG)
    assert not {"203.0.113.0/24", "11.0.0.0/8"} & vr.routes()
    group = vr.spy.group([tables.Hop(1, 1, parse_address("10.0.0.9"))])
    vr.spy.apply(
        [RouteChange(4, 0xCB007100, 24, group, Protocol.OSPF), RouteChange(4, 0x0B000000, 8, group, Protocol.RIP)]
    )
    vr.spy.release(group)
    root = vr.control.engine.root
    fib.apply(Tables(root, (), (Protocol.OSPF, Protocol.RIP)), rib.installed)
    assert {"203.0.113.0/24", "11.0.0.0/8"} <= vr.routes()
    vr.spy.done.clear()
    fib.apply(Tables(root, (), (Protocol.OSPF,)), rib.installed)
    assert vr.spy.done[1:] == [("remove", "11.0.0.0/8")]
    fib.apply(Tables(root, (), ()), rib.installed)
    assert vr.spy.done[-1] == ("remove", "203.0.113.0/24")


def test_what_bgps_own_table_wrote_is_its_own_business(vr: Vr) -> None:
    vr.configure(CONFIG)
    swept: list[int] = []
    fib = vr.control._fib
    fib.sweep_bulk = lambda: swept.append(1)
    group = vr.spy.group([tables.Hop(1, 1, parse_address("10.0.0.9"))])
    vr.spy.apply([RouteChange(4, 0xCB007100, 24, group, Protocol.BGP)])
    vr.spy.release(group)
    root, wanted = vr.control.engine.root, vr.control.rib.installed
    fib.apply(Tables(root, (), (Protocol.BGP,)), wanted)
    assert swept == []
    fib.apply(Tables(root, ()), wanted)
    assert swept == [1]
    fib.apply(Tables(root, (), (), sweep=True), wanted)
    assert "203.0.113.0/24" in vr.routes()
    fib.apply(Tables(root, (FibChange(parse_prefix("203.0.113.0/24"), None, bulk=True),)), wanted)
    assert "203.0.113.0/24" in vr.routes(), "it was handed back"
    fib.sweep_bulk = None
    fib.apply(Tables(root, (), (), sweep=True), wanted)
    assert "203.0.113.0/24" not in vr.routes()


def test_a_failure_is_made_good_later(vr: Vr) -> None:
    vr.spy.failures = 2
    with pytest.raises(OSError, match="no room"):
        vr.configure(CONFIG)
    assert vr.routes() == set()
    vr.later.pop()()  # fails again
    vr.later.pop()()
    assert "0.0.0.0/0" in vr.routes()
    assert not vr.configure(CONFIG)


def test_ecmp_and_blackhole(vr: Vr) -> None:
    hops = (StaticHop("10.0.0.2", weight=3), StaticHop("192.0.2.2"))
    static = (StaticRoute("0.0.0.0/0", hops), StaticRoute("10.66.0.0/16", (StaticHop(discard=True),)))
    vr.configure(dataclasses.replace(CONFIG, static=static))
    groups = vr.groups()
    assert groups["0.0.0.0/0"] != groups["10.66.0.0/16"]
    vr.link(2, up=False)
    assert vr.groups()["0.0.0.0/0"] != groups["0.0.0.0/0"]
    assert vr.groups()["10.66.0.0/16"] == groups["10.66.0.0/16"]


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"router": {}},
        {"router": None},
        {"router": {**to_plain(CONFIG), "name": "blue"}},
        {"router": {**to_plain(CONFIG), "static": [{"prefix": "x", "hops": []}]}},
        {"router": {**to_plain(CONFIG), "interfaces": [{"name": "lan", "nonsense": 1}]}},
    ],
)
def test_what_is_no_configuration_is_refused(vr: Vr, message: dict[str, object]) -> None:
    vr.configure(CONFIG)
    before = vr.routes()
    with pytest.raises(RequestError):
        vr.control.configure(message, 0.0)
    assert vr.routes() == before
    assert not vr.configure(CONFIG)


def test_configurations_travel_unchanged() -> None:
    config = dataclasses.replace(CONFIG, rules=(Rule("gid", 5, b"", 3, ((1, 2), (3, 3)), ("10.0.0.0/8",)),))
    assert from_plain(to_plain(config)) == config


def test_rules_become_numbers() -> None:
    rule = Rule("curve", 0, KEY.encode(), 31, ((53, 53),), ("2001:db8::/32",))
    (entry,) = rules.entries((rule,))
    assert entry.curve_key.hex() == "54fcba24e93249969316fb617c872bb0c1d1ff14800427c594cbfacf1bc2d652"
    assert (entry.identity, entry.operations, entry.ports) == (3, 31, ((53, 53),))
    assert entry.prefixes == (Prefix(6, 0x20010DB8 << 96, 32),)
    assert len(rules.entries((Rule("uid", 5, b"", 1),))[0].curve_key) == 0
