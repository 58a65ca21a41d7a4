"""BFD on control's side: the configuration, the requests of protocols, and the link to the forwarder's segments."""

from __future__ import annotations

import os
from typing import Any

import pytest

from fastpath import bfd, segment
from fastpath._layout import CONSTANTS, FIELDS
from fastpath.segment import KIND_STATE, KIND_TABLES, Segment
from fastpath.tables import AddressEntry, BfdEntry, InterfaceEntry, TableWriter, pack_bfd
from tests.unit.harness import HOST_A, Router, two_sided
from tests.unit.test_bfd_core import PEER, frame
from vrouter.config.bfd import Bfd, BfdKey, BfdSession, BfdSessions, resolve_bfd
from vrouter.config.constraints import Duration, InvalidError
from vrouter.config.router import RouterConfig
from vrouter.net.address import parse_address
from vrouter.proto.base import BfdClose, BfdOpen, BfdState, Notify, Setting
from vrouter.proto.bfd.standalone import Standalone
from vrouter.proto.watch import bfd_open
from vrouter.runtime.bfd_link import INHERITED_FOR, BfdLink
from vrouter.wire.bfd import Control, State

# --- configuration ---


@pytest.mark.parametrize(
    ("text", "seconds", "shown"),
    [("300ms", 0.3, "300ms"), ("2s", 2.0, "2s"), ("1.5s", 1.5, "1500ms"), ("60s", 60.0, "1m"), ("0.05s", 0.05, "50ms")],
)
def test_durations(text: str, seconds: float, shown: str) -> None:
    assert Duration("10ms", "60s").parse(text) == seconds
    assert Duration.text(seconds) == shown


@pytest.mark.parametrize("text", ["90", "", "5 s", "-1s", "9ms", "61s", "1.0000001s", "1e3s", "2x", "٣s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(InvalidError):
        Duration("10ms", "60s").parse(text)
    with pytest.raises(InvalidError):
        Duration("1s", "60s", "1s").parse("1500ms")


def test_defaults_fill_what_is_not_said() -> None:
    defaults = Bfd(interval=0.1, multiplier=5, authentication=BfdKey(type="sha1", key="k"))
    filled = Bfd(interval=0.2).over(defaults)
    assert (filled.interval, filled.receive_interval, filled.multiplier) == (0.2, 0.2, 5)
    assert filled.authentication == defaults.authentication
    assert Bfd().over(None).interval == 0.3
    router = RouterConfig("red", 1, bfd=BfdSessions(sessions={"a": BfdSession(remote="10.0.0.2")}))
    resolved = resolve_bfd(router, defaults).bfd
    assert resolved is not None
    session = resolved.sessions["a"]
    assert (session.remote, session.multiplier) == ("10.0.0.2", 5)
    assert resolve_bfd(resolve_bfd(router, None), None) == resolve_bfd(router, None)


def test_a_request_is_made_of_the_configuration() -> None:
    wanted = Bfd(interval=0.05, echo_interval=0.02, min_ttl=250, authentication=BfdKey(type="md5", key_id=3, key="x"))
    remote = parse_address("10.0.0.2")
    single = bfd_open(wanted, "s", remote, interface="lan")
    assert (single.transmit_interval, single.echo_interval, single.min_ttl) == (0.05, 0.02, 0)
    assert single.authentication == ("md5", 3, b"x")
    far = bfd_open(wanted, "s", remote, multihop=True)
    assert (far.echo_interval, far.min_ttl, far.multihop) == (0, 250, True)


# --- sessions by themselves ---


def setting(**sessions: BfdSession) -> Setting:
    return Setting(RouterConfig("red", 1, bfd=BfdSessions(sessions=sessions)))


def test_standalone_sessions_follow_the_configuration() -> None:
    instance = Standalone()
    a, b = BfdSession(remote="10.0.0.2", interface="lan"), BfdSession(remote="10.0.0.3", multihop=True)
    opened = instance.configure(setting(a=a, b=b), 0.0).outputs
    requests = [it for it in opened if isinstance(it, BfdOpen)]
    assert len(requests) == len(opened)
    assert [(it.session, str(it.remote), it.interface, it.multihop) for it in requests] == [
        ("a", "10.0.0.2", "lan", False),
        ("b", "10.0.0.3", "", True),
    ]
    assert instance.configure(setting(a=a, b=b), 1.0).outputs == ()
    (up,) = instance.bfd_changed(BfdState("a", up=True), 2.0)
    assert isinstance(up, Notify)
    assert up.event == "bfd-up"
    assert [entry["up"] for entry in instance.show("sessions", {}, 2.0)] == [True, False]
    (down,) = instance.bfd_changed(BfdState("a", up=False, diagnostic="time-expired"), 3.0)
    assert isinstance(down, Notify)
    assert ("reason", "time-expired") in down.details
    off = BfdSession(remote="10.0.0.2", interface="lan", enabled=False)
    assert instance.configure(setting(a=off, b=b), 4.0).outputs == (BfdClose("a"),)
    assert instance.bfd_changed(BfdState("a", up=True), 5.0) == []
    assert instance.configure(Setting(RouterConfig("red", 1)), 6.0).outputs == (BfdClose("b"),)


# --- the link to the forwarder ---


class Link:
    """A BfdLink over the segments of a whole VR in this process."""

    def __init__(self, router: Router) -> None:
        self.router = router
        self.events: list[Any] = []
        self.calls: list[tuple[float, Any]] = []
        self.writer = TableWriter(router.tables_fd, router.state_fd)
        self.link = BfdLink(
            self.writer, router.tables_fd, router.state_fd, self.events.append, lambda s, c: self.calls.append((s, c)),
            router.poll,
        )  # fmt: skip

    def run(self, up_to: float = 0.0) -> None:
        """Make the calls that are due."""
        due, self.calls = [c for s, c in self.calls if s <= up_to], [it for it in self.calls if it[0] > up_to]
        for call in due:
            call()

    def open(self, name: str = "s", remote: str = "10.0.0.2", **keys: Any) -> None:
        self.link.ask(BfdOpen(name, parse_address(remote), **keys))
        self.run()

    def close(self) -> None:
        self.link.close()
        self.writer.close()


@pytest.fixture
def router():
    with Router(two_sided()) as made:
        made.settle()
        made.meet("a", "10.0.0.2", HOST_A)
        yield made


@pytest.fixture
def link(router: Router):
    made = Link(router)
    yield made
    made.close()


def speak(router: Router, *states: State) -> None:
    """Let the peer say this."""
    for state in states:
        discriminator = next(iter(bfd.sessions(router.state).values())).integer("discriminator")
        router.send(1, frame("10.0.0.2", "10.0.0.1", Control(state, PEER, discriminator, desired=300_000).encode()))


def told(link: Link) -> list[tuple[bool, bool, str]]:
    link.link.look()
    events = [(event.up, event.admin_down, event.diagnostic) for event in link.events]
    link.events.clear()
    return events


def test_a_session_is_published_and_told_of(router: Router, link: Link) -> None:
    link.open()
    (shown,) = bfd.shown(router.state, {1: "a"}, router.now)
    assert (shown["interface"], shown["local"], shown["state"]) == ("a", "10.0.0.1", "down")
    assert told(link) == []  # not up yet is no failure
    speak(router, State.DOWN, State.INIT)
    assert told(link) == [(True, False, "")]
    assert told(link) == []
    speak(router, State.DOWN, State.DOWN, State.INIT)  # down and up again before anybody looks
    assert told(link) == [(False, False, "neighbor-down"), (True, False, "")]
    speak(router, State.ADMIN_DOWN)
    assert told(link) == [(False, True, "neighbor-down")]
    speak(router, State.DOWN, State.INIT)
    assert told(link) == [(True, False, "")]
    router.advance(5)
    assert told(link) == [(False, False, "time-expired")]
    link.link.ask(BfdClose("s"))
    link.run()
    assert bfd.sessions(router.state) == {}


def test_what_cannot_be_reached_waits(router: Router, link: Link) -> None:
    link.open(remote="172.16.0.9")
    link.open("t", interface="nowhere")
    assert bfd.sessions(router.state) == {}
    link.open("u", remote="172.16.0.9", multihop=True)
    (session,) = bfd.sessions(router.state).values()
    assert session.integer("interface") == 0
    # An interface with such a neighbor comes.
    link.writer.publish(
        [InterfaceEntry(9, "nowhere", 3, flags=1)],
        [AddressEntry(4, int.from_bytes(bytes((10, 0, 0, 1))), 24, 9)],
        [],
    )
    link.link.changed()
    link.run()
    assert {view.integer("interface") for view in bfd.sessions(router.state).values()} == {0, 9}


def test_two_names_of_one_session_share_it(router: Router, link: Link) -> None:
    link.open(transmit_interval=0.3, multiplier=5, interface="a")
    link.open("t", transmit_interval=0.05, multiplier=4, passive=True)
    (entry,) = bfd.published(link.link._tables)
    assert entry == pack_bfd(BfdEntry(4, 0x0A000002, 0x0A000001, 1, transmit=50_000, receive=300_000, multiplier=4))
    speak(router, State.DOWN, State.INIT)
    assert told(link) == [(True, False, ""), (True, False, "")]
    link.link.ask(BfdClose("t"))
    link.run()
    assert told(link) == []
    assert len(bfd.sessions(router.state)) == 1


def test_routes_depend_on_a_session_that_a_protocol_shares_with_an_operator(link: Link) -> None:
    lone = CONSTANTS["BFD_LONE"]
    link.open(interface="a", routes=False)
    assert [entry[FIELDS["bfd_entry"]["flags"][0]] for entry in bfd.published(link.link._tables)] == [lone]
    link.open("t")
    assert [entry[FIELDS["bfd_entry"]["flags"][0]] for entry in bfd.published(link.link._tables)] == [0]


def test_changes_are_in_place(router: Router, link: Link) -> None:
    link.open()
    speak(router, State.DOWN, State.INIT)
    (before,) = bfd.shown(router.state, {}, router.now)
    link.open(transmit_interval=0.05, authentication=("simple", 1, b"word"))
    (after,) = bfd.shown(router.state, {}, router.now)
    assert (after["discriminator"], after["authentication"]) == (before["discriminator"], "simple")


def test_a_successor_leaves_sessions_alone_until_it_is_asked(router: Router, link: Link) -> None:
    link.open()
    link.open("t", remote="10.0.0.3")
    speak(router, State.DOWN, State.INIT)
    before = bfd.shown(router.state, {}, router.now)
    link.close()
    successor = Link(router)
    successor.open()
    assert [entry["discriminator"] for entry in bfd.shown(router.state, {}, router.now)] == [
        entry["discriminator"] for entry in before
    ]
    assert told(successor) == [(True, False, "")]
    successor.run(INHERITED_FOR)
    (left,) = bfd.shown(router.state, {}, router.now)
    assert left["remote"] == "10.0.0.2"
    successor.close()
    link.writer = TableWriter(router.tables_fd, router.state_fd)
    link.link = BfdLink(link.writer, router.tables_fd, router.state_fd, print, lambda _s, _c: None, router.poll)


def test_nothing_is_read_from_tables_that_lead_nowhere() -> None:
    tables = segment.create(KIND_TABLES, 1 << 20, 1, "test")
    state = segment.create(KIND_STATE, segment.STATE_SIZE, 1, "test")
    try:
        with Segment(tables, KIND_TABLES) as mapped:
            assert bfd.published(mapped) == []
            os.pwrite(tables, (1 << 40).to_bytes(8, "little"), FIELDS["tables_segment"]["bfd_root"][0])
            assert bfd.published(mapped) == []
        with Segment(state, KIND_STATE) as mapped:
            assert bfd.shown(mapped, {}, 0) == []
    finally:
        os.close(tables)
        os.close(state)
