"""The state machine, timers, authentication and bookkeeping of BFD in the forwarder, in virtual time (RFC 5880)."""

from __future__ import annotations

import hashlib
import itertools
import random
from dataclasses import replace

import pytest

from fastpath._layout import CONSTANTS
from tests.unit.bfd_world import (
    ECHO,
    FOREVER,
    LOCAL,
    MS,
    MULTIHOP,
    REMOTE,
    SECOND,
    World,
    entry,
    module,
    splitmix,
)
from vrouter.proto.bfd.session import Session, Wishes
from vrouter.wire.bfd import Authentication, Control, Diagnostic, Kind, State, decode

PEER = 0x1234


def control(world: World, state: State = State.DOWN, **keys) -> bytes:
    """A packet of the peer that names our session, unless told otherwise."""
    values = {"your_discriminator": world.session().discriminator, "desired": 300_000, "required": 300_000} | keys
    return Control(state, values.pop("my_discriminator", PEER), **values).encode()


def bring(world: World, state: State, **keys) -> None:
    """Bring the session into a state."""
    if state in {State.INIT, State.UP}:
        assert world.receive(control(world, State.DOWN, **keys)) == "none"
    if state == State.UP:
        assert world.receive(control(world, State.INIT, **keys)) == "none"
    assert world.state == state.name
    world.take()


def packets(world: World) -> list[Control]:
    return [decode(sent.payload) for sent in world.take()]


# --- the state machine: RFC 5880 section 6.2, every state and every event ---

TABLE = {
    (State.DOWN, State.ADMIN_DOWN): State.DOWN,
    (State.DOWN, State.DOWN): State.INIT,
    (State.DOWN, State.INIT): State.UP,
    (State.DOWN, State.UP): State.DOWN,
    (State.DOWN, None): State.DOWN,
    (State.INIT, State.ADMIN_DOWN): State.DOWN,
    (State.INIT, State.DOWN): State.INIT,
    (State.INIT, State.INIT): State.UP,
    (State.INIT, State.UP): State.UP,
    (State.INIT, None): State.DOWN,
    (State.UP, State.ADMIN_DOWN): State.DOWN,
    (State.UP, State.DOWN): State.DOWN,
    (State.UP, State.INIT): State.UP,
    (State.UP, State.UP): State.UP,
    (State.UP, None): State.DOWN,
}


@pytest.mark.parametrize(("before", "event"), TABLE)
def test_every_state_and_every_event(before: State, event: State | None) -> None:
    with World(entry()) as world:
        bring(world, before)
        if event is None:
            world.advance(10 * SECOND)
        else:
            assert world.receive(control(world, event)) == "none"
        after = TABLE[before, event]
        assert world.state == after.name
        expected = Diagnostic.NONE
        if after == State.DOWN != before:
            expected = Diagnostic.TIME_EXPIRED if event is None else Diagnostic.NEIGHBOR_DOWN
        assert world.session().diagnostic == expected
        assert world.session().downs == (before == State.UP and after == State.DOWN)
        if event is not None and before != after:
            assert [packet.state for packet in packets(world)] == [after]  # told at once: section 6.8.7


# --- reception: section 6.8.6 ---

UNFIT = {
    "another version": lambda data: bytes((data[0] ^ 0x60,)) + data[1:],
    "too short": lambda data: data[:23],
    "a length below the header": lambda data: data[:3] + bytes((23,)) + data[4:],
    "a length beyond the datagram": lambda data: data[:3] + bytes((25,)) + data[4:],
    "no room for authentication": lambda data: data[:1] + bytes((data[1] | 4, data[2], 25)) + data[4:] + b"x",
    "a multiplier of 0": lambda data: data[:2] + b"\0" + data[3:],
    "multipoint": lambda data: data[:1] + bytes((data[1] | 1,)) + data[2:],
    "no discriminator": lambda data: data[:4] + bytes(4) + data[8:],
    "our discriminator missing while up": lambda data: data[:1] + b"\xc0" + data[2:8] + bytes(4) + data[12:],
}


@pytest.mark.parametrize("unfit", UNFIT)
def test_malformed_packets_change_nothing(unfit: str) -> None:
    with World(entry()) as world:
        assert world.receive(UNFIT[unfit](control(world))) == "bfd_malformed"
        assert world.state == "DOWN"
        assert world.session().rx_packets == 0


def test_what_follows_behind_the_packet_is_nobody_s() -> None:
    with World(entry()) as world:
        assert world.receive(control(world) + b"padding") == "none"


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ({"ttl": 254}, "bfd_ttl"),
        ({"source": "10.0.0.3"}, "bfd_no_session"),
        ({"destination": "10.0.0.9"}, "bfd_no_session"),
        ({"interface": 4}, "bfd_no_session"),
        ({"port": MULTIHOP}, "bfd_no_session"),
    ],
)
def test_strangers_are_no_peers(where, reason: str) -> None:
    with World(entry()) as world:
        assert world.receive(control(world), **where) == reason
        assert world.receive(control(world, your_discriminator=0), **where) == reason
        assert world.state == "DOWN"


def test_another_discriminator_is_no_session() -> None:
    with World(entry()) as world:
        assert (
            world.receive(control(world, your_discriminator=world.session().discriminator + 1024)) == "bfd_no_session"
        )
        assert world.receive(control(world, your_discriminator=0)) == "none"


def test_a_multihop_session_asks_for_its_own_ttl() -> None:
    with World(entry(flags=CONSTANTS["BFD_MULTIHOP"], interface=0, min_ttl=200)) as world:
        assert world.receive(control(world), ttl=199, port=MULTIHOP, interface=9) == "bfd_ttl"
        assert world.receive(control(world), ttl=200, port=MULTIHOP, interface=9) == "none"
        assert world.receive(control(world)) == "bfd_no_session"
        assert {(sent.port, sent.ttl) for sent in world.take()} == {(MULTIHOP, 255)}


def test_sessions_with_the_same_peer_are_told_apart() -> None:
    sessions = [entry(), entry(interface=4), entry(flags=1, interface=0), entry(local="10.0.0.5")]
    with World(*sessions) as world:
        world.advance(100 * MS)
        sent = world.take()
        assert len({packet.source_port for packet in sent}) == 4
        assert all(packet.source_port >= 49152 for packet in sent)
        assert len({decode(packet.payload).my_discriminator for packet in sent}) == 4
        assert sorted(packet.interface for packet in sent) == [0, 3, 3, 4]
        world.receive(Control(State.DOWN, PEER).encode(), interface=4)
        assert [world.session(slot).state for slot in range(4)] == [1, 2, 1, 1]


# --- timers: sections 6.8.2 to 6.8.7 ---


def gaps(world: World, count: int, **keys) -> list[float]:
    """The milliseconds between packets while the peer keeps the session up."""
    times: list[int] = []
    for _ in range(count):
        world.now = min(world.now + 200 * MS, max(world.now, world.deadline))
        world.tick()
        if world.take():
            times.append(world.now)
        world.receive(control(world, State.UP, **keys))
    return [(after - before) / MS for before, after in itertools.pairwise(times)]


def test_nothing_is_sent_faster_than_once_a_second_unless_up() -> None:
    with World(entry()) as world:
        world.advance(20 * SECOND)
        assert 20 <= len(world.take()) <= 27


@pytest.mark.parametrize(("multiplier", "most"), [(3, 300), (1, 270)])
def test_jitter(multiplier: int, most: int) -> None:
    with World(entry(multiplier=multiplier)) as world:
        bring(world, State.UP)
        found = gaps(world, 3000)
        assert 225 <= min(found) < 230
        assert most - 5 < max(found) <= most


def test_the_slower_of_both_wishes_counts() -> None:
    with World(entry()) as world:
        bring(world, State.UP, required=900_000)
        world.receive(control(world, State.UP, required=900_000, final=True))
        found = gaps(world, 1000, required=900_000)
        assert 675 <= min(found) < 700
        assert 875 < max(found) <= 900


def test_a_peer_that_wants_nothing_gets_nothing() -> None:
    with World(entry()) as world:
        bring(world, State.UP, required=0)
        world.advance(800 * MS)
        assert not world.take()
        world.receive(control(world, State.UP, required=0, poll=True))
        assert [packet.final for packet in packets(world)] == [True]


def test_demand_mode_of_the_peer() -> None:
    with World(entry()) as world:
        bring(world, State.UP)
        world.receive(control(world, State.UP, demand=True, final=True))
        world.take()
        world.advance(800 * MS)
        assert not world.take()


def test_detection_takes_as_long_as_the_peer_says() -> None:
    with World(entry(receive=100_000)) as world:
        bring(world, State.UP, desired=200_000, multiplier=5)
        world.receive(control(world, State.UP, desired=200_000, multiplier=5, final=True))
        began = world.now
        world.advance(999 * MS)
        assert world.state == "UP"
        world.advance(2 * MS)
        assert world.state == "DOWN"
        assert world.session().changed_ns - began == SECOND
        assert world.session().remote_discriminator == 0  # section 6.8.1


def test_a_packet_in_the_ring_is_not_lost() -> None:
    with World(entry()) as world:
        bring(world, State.UP)
        world.heard(world.now)  # from now on nobody looks at the ring
        world.advance(5 * SECOND)
        assert world.state == "UP"
        assert world.receive(control(world, State.UP)) == "none"
        world.heard(FOREVER)
        world.advance(500 * MS)
        assert world.state == "UP"
        world.advance(500 * MS)
        assert world.state == "DOWN"


def test_passive_sessions_wait_for_the_peer() -> None:
    with World(entry(flags=CONSTANTS["BFD_PASSIVE"])) as world:
        world.advance(10 * SECOND)
        assert not world.take()
        world.receive(control(world, your_discriminator=0))
        assert [packet.state for packet in packets(world)] == [State.INIT]
        world.advance(10 * SECOND)  # the peer is gone again
        world.take()
        world.advance(10 * SECOND)
        assert not world.take()


# --- the Poll Sequence: sections 6.5 and 6.8.3 ---


def test_up_begins_a_poll_sequence() -> None:
    with World(entry()) as world:
        bring(world, State.INIT)
        world.receive(control(world, State.INIT))
        (told,) = packets(world)
        assert (told.state, told.poll, told.desired) == (State.UP, True, 300_000)
        world.advance(300 * MS)
        assert [packet.poll for packet in packets(world)] == [True]
        world.receive(control(world, State.UP, final=True))
        world.advance(300 * MS)
        assert [packet.poll for packet in packets(world)] == [False]


def test_slower_sending_waits_for_the_answer() -> None:
    with World(entry(transmit=100_000)) as world:
        bring(world, State.UP, required=50_000)
        world.receive(control(world, State.UP, required=50_000, final=True))
        world.publish(entry(transmit=900_000))
        world.take()
        world.advance(200 * MS)
        told = packets(world)
        assert len(told) >= 2  # still every 100 ms
        assert {(packet.poll, packet.desired) for packet in told} == {(True, 900_000)}
        world.receive(control(world, State.UP, required=50_000, final=True))
        world.take()
        world.advance(600 * MS)
        assert not world.take()


def test_faster_listening_waits_for_the_answer() -> None:
    with World(entry(receive=900_000)) as world:
        bring(world, State.UP, desired=100_000)
        world.receive(control(world, State.UP, desired=100_000, final=True))
        world.publish(entry(receive=100_000))
        world.receive(control(world, State.UP, desired=100_000))
        assert world.session().detect_ns - world.now == 2700 * MS
        world.receive(control(world, State.UP, desired=100_000, final=True))
        assert world.session().detect_ns - world.now == 300 * MS


def test_a_change_during_a_poll_sequence_asks_again() -> None:
    with World(entry()) as world:
        bring(world, State.UP)
        world.publish(entry(transmit=200_000))
        world.receive(control(world, State.UP, final=True))  # may answer the first
        assert world.session().polling == 1
        world.receive(control(world, State.UP, final=True))
        assert world.session().polling == 0


def test_a_poll_is_answered_at_once() -> None:
    with World(entry()) as world:
        bring(world, State.UP)
        assert world.receive(control(world, State.UP, poll=True)) == "none"
        (answer,) = packets(world)
        assert (answer.final, answer.poll) == (True, False)


# --- authentication: section 6.7 ---

KINDS = [Kind.SIMPLE, Kind.MD5, Kind.METICULOUS_MD5, Kind.SHA1, Kind.METICULOUS_SHA1]
KEY = b"between us"


def section(packet: Control) -> Authentication:
    assert packet.authentication is not None
    return packet.authentication


def secured(kind: Kind, key: bytes = KEY):
    return entry(authentication=kind, key_id=7, key=key)


def signed(world: World, kind: Kind, sequence: int = 0, *, key: bytes = KEY, key_id: int = 7, state=State.DOWN):
    packet = Control(state, PEER, world.session().discriminator, authentication=Authentication(kind, key_id, sequence))
    return packet.signed(key).encode()


@pytest.mark.parametrize("kind", KINDS)
def test_authentication(kind: Kind) -> None:
    with World(secured(kind)) as world:
        world.advance(5 * SECOND)
        sent = packets(world)
        assert all(packet.authentic(KEY) and section(packet).key_id == 7 for packet in sent)
        numbers = [section(packet).sequence for packet in sent]
        steps = {(after - before) % 2**32 for before, after in itertools.pairwise(numbers)}
        assert steps == ({1} if kind.meticulous else {0})
        for wrong in (
            control(world),
            signed(world, kind, key=b"something"),
            signed(world, kind, key_id=8),
            signed(world, next(other for other in KINDS if other != kind)),
        ):
            assert world.receive(wrong) == "bfd_authentication"
        flipped = bytearray(signed(world, kind))
        flipped[-1] ^= 1
        assert world.receive(bytes(flipped)) == "bfd_authentication"
        assert world.session().rx_drops == 5
        assert world.receive(signed(world, kind)) == "none"


def test_without_authentication_none_is_taken() -> None:
    with World(entry()) as world:
        assert world.receive(signed(world, Kind.SIMPLE)) == "bfd_authentication"


@pytest.mark.parametrize("kind", KINDS[1:])
def test_sequence_numbers(kind: Kind) -> None:
    with World(secured(kind)) as world:
        for sequence, fits in (
            (0xFFFFFFFE, True),
            (0xFFFFFFFE, not kind.meticulous),
            (0xFFFFFFFD, False),
            (2, True),  # they wrap
            (1, False),
            (2 + 9, True),  # three times the multiplier may be lost
            (2 + 9 + 10, False),
        ):
            expected = "none" if fits else "bfd_authentication"
            assert world.receive(signed(world, kind, sequence)) == expected, sequence
        world.advance(7 * SECOND)  # twice the detection time: a peer that began anew is heard
        assert world.receive(signed(world, kind, 5)) == "none"


# --- successors, control, echo ---


def test_a_successor_goes_on() -> None:
    with World(secured(Kind.METICULOUS_SHA1)) as world:
        world.receive(signed(world, Kind.METICULOUS_SHA1, 1))
        world.receive(signed(world, Kind.METICULOUS_SHA1, 2, state=State.INIT))
        assert world.state == "UP"
        before, last = world.session(), packets(world)[-1]
        world.restart(away=10 * SECOND)
        after = world.session()
        assert (after.discriminator, after.state, after.downs) == (before.discriminator, before.state, 0)
        world.tick()
        (first,) = packets(world)
        assert 0 < (section(first).sequence - section(last).sequence) % 2**32 <= 9
        assert world.receive(signed(world, Kind.METICULOUS_SHA1, 2, state=State.UP)) == "bfd_authentication"
        assert world.receive(signed(world, Kind.METICULOUS_SHA1, 3, state=State.UP)) == "none"
        world.restart()
        world.advance(10 * SECOND)
        assert world.state == "DOWN"


def test_a_removed_session_tells_its_peer() -> None:
    with World(entry(), entry(remote="10.0.0.3")) as world:
        bring(world, State.UP)
        told = world.changed
        world.publish(entry(remote="10.0.0.3"))
        farewells = packets(world)
        assert {(packet.state, packet.diagnostic) for packet in farewells} == {
            (State.ADMIN_DOWN, Diagnostic.ADMIN_DOWN)
        }
        assert world.session() is None
        assert world.session(1) is not None
        assert world.changed > told
        world.publish()
        assert not world.active
        assert world.deadline == FOREVER


@pytest.mark.parametrize("spoil", [8, 12, 16 + 3, 16 + 79])
def test_a_damaged_table_is_not_followed(spoil: int) -> None:
    with World(entry()) as world:
        bring(world, State.UP)
        world.publish(entry(remote="10.0.0.3"), spoil=spoil)
        assert world.state == "UP"
        assert world.session(1) is None


@pytest.mark.parametrize(
    "wrong",
    [{"interface": 0}, {"interface": 256}, {"multiplier": 0}, {"transmit": 0}, {"receive": 0}, {"authentication": 6}],
)
def test_an_impossible_entry_is_not_followed(wrong) -> None:
    with World(entry()) as world:
        world.publish(entry(**wrong), entry(remote="10.0.0.3"))
        assert world.session() is not None
        assert world.session(1) is None


def test_as_many_sessions_as_there_is_room_for() -> None:
    most = CONSTANTS["MAX_BFD_SESSIONS"]
    with World(*(entry(remote=f"10.1.{n // 250}.{n % 250 + 1}") for n in range(most))) as world:
        world.advance(100 * MS)
        assert len(world.take()) == most
        world.advance(1100 * MS)
        assert most <= len(world.take()) <= 2 * most


def test_echo_packets_go_to_ourselves_and_must_come_back() -> None:
    with World(entry(echo=50_000)) as world:
        bring(world, State.UP, echo=20_000)

        def keep_up() -> list:
            world.receive(control(world, State.UP, echo=20_000, final=True))
            world.advance(40 * MS)
            return [sent for sent in world.take() if sent.port == ECHO]

        seen = 0
        for _ in range(50):
            for echo in keep_up():
                assert (echo.source, echo.destination, echo.neighbor, echo.ttl) == (LOCAL, LOCAL, REMOTE, 255)
                seen += 1
                assert world.receive(echo.payload, source=LOCAL, port=ECHO, ttl=254) == "none"
        assert 38 < seen < 56
        assert world.session().rx_echoes == seen
        forged = bytearray(echo.payload)
        forged[11] ^= 1
        assert world.receive(bytes(forged), source=LOCAL, port=ECHO) == "bfd_authentication"
        assert world.receive(echo.payload[:-1], source=LOCAL, port=ECHO) == "bfd_malformed"
        assert world.receive(echo.payload, source=LOCAL, port=ECHO, interface=4) == "bfd_no_session"
        for _ in range(6):
            keep_up()
        assert (world.state, world.session().failure) == ("DOWN", Diagnostic.ECHO_FAILED)
        assert world.receive(echo.payload, source=LOCAL, port=ECHO) == "bfd_no_session"


def test_no_echo_for_a_peer_that_sends_none_back() -> None:
    with World(entry(echo=50_000)) as world:
        bring(world, State.UP)
        world.advance(800 * MS)
        assert {sent.port for sent in world.take()} == {3784}


@pytest.mark.parametrize("length", [0, 1, 55, 56, 63, 64, 65, 119, 128, 1000])
def test_sha1_is_that_of_the_standard(length: int) -> None:
    data = random.Random(length).randbytes(length)
    built = module()
    digest = built.ffi.new("uint8_t[20]")
    for split in {0, length // 3, length}:
        built.lib.digest_sha1(data, length, split, digest)
        assert bytes(digest) == hashlib.sha1(data, usedforsecurity=False).digest()


# --- against the specification in Python: the same packets at the same times ---


def peer_packet(chance: random.Random, session: Session, wishes: Wishes, sequence: int) -> bytes:
    """A packet that a peer might send, or might not."""
    kind = wishes.kind if chance.random() < 0.95 else chance.choice(list(Kind))
    section = None
    if kind != Kind.NONE:
        section = Authentication(kind, wishes.key_id, sequence if kind.digest_size else 0)
    packet = Control(
        state=chance.choice([State.DOWN, State.INIT, State.UP, State.UP, State.UP, State.ADMIN_DOWN]),
        my_discriminator=chance.choice([PEER, PEER, PEER, 0]) if chance.random() < 0.1 else PEER,
        your_discriminator=chance.choice([session.discriminator] * 9 + [0]),
        desired=chance.choice([10_000, 300_000, 300_000, 1_000_000, 0, 2**32 - 1]),
        required=chance.choice([50_000, 300_000, 300_000, 2_000_000, 0]),
        multiplier=chance.choice([1, 3, 3, 5, 255]) if chance.random() < 0.99 else 0,
        poll=chance.random() < 0.1,
        final=chance.random() < 0.3,
        demand=chance.random() < 0.05,
        authentication=section,
    )
    return packet.signed(wishes.key).encode()


def as_entry(wishes: Wishes):
    return entry(
        transmit=wishes.transmit, receive=wishes.receive, multiplier=wishes.multiplier, authentication=wishes.kind,
        key_id=wishes.key_id, key=wishes.key, flags=CONSTANTS["BFD_PASSIVE"] if wishes.passive else 0,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(120))
def test_the_specification_agrees(seed: int) -> None:
    chance = random.Random(seed)
    kind = chance.choice(list(Kind))
    wishes = Wishes(kind=kind, key_id=3, key=b"k3y" if kind else b"", passive=seed % 7 == 0, multiplier=1 + seed % 4)
    with World(as_entry(wishes), seed=seed) as world:
        session = Session(wishes, splitmix(seed), world.now)
        sequence = 1
        for step in range(400):
            act = chance.random()
            if act < 0.45:
                sequence = (sequence + chance.choice([0, 1, 1, 1, 2, 20])) % 2**32
                data = peer_packet(chance, session, wishes, sequence)
                assert (world.receive(data) == "none") == session.receive(data, world.now), step
            elif act < 0.5:
                wishes = replace(wishes, transmit=chance.choice([100_000, 300_000, 5_000_000]), receive=250_000 + step)
                world.publish(as_entry(wishes))
                session.configure(wishes, world.now)
            else:
                until = world.now + chance.choice([1, 50, 200, 900, 4000]) * MS
                while session.deadline is not None and session.deadline <= until:
                    assert world.deadline == session.deadline, step
                    world.now = max(world.now, session.deadline)
                    world.tick()
                    session.tick(world.now)
                assert world.deadline > until
                world.now = until
            assert [sent.payload for sent in world.take()] == session.sent, step
            assert world.state == session.state.name
            session.sent.clear()
        assert session.changes


def test_two_of_them_find_each_other_and_the_failure() -> None:
    chance = random.Random(5)
    wishes = Wishes(transmit=50_000, receive=50_000, kind=Kind.METICULOUS_SHA1, key_id=1, key=b"secret")
    with World(as_entry(wishes)) as world:
        other = Session(wishes, splitmix(99), world.now, slot=5)
        cut = False
        for _ in range(20_000):
            world.now = min(world.deadline, other.deadline or FOREVER)
            world.tick()
            other.tick(world.now)
            for sent in world.take():
                if not cut and chance.random() > 0.05:
                    other.receive(sent.payload, world.now)
            for data in other.sent:
                if not cut and chance.random() > 0.05:
                    assert world.receive(data) == "none"
            other.sent.clear()
            if not cut and world.now > 1030 * SECOND:
                assert (world.state, other.state) == ("UP", State.UP)
                cut, began = True, world.now
            if cut and world.state == "DOWN" and other.state == State.DOWN:
                break
        assert world.now - began <= 151 * MS
