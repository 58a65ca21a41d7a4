"""BFD control packets as values: those of other implementations, and any bytes; C and Python take the same ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.bfd_world import START, World, entry
from vrouter.wire.bfd import Authentication, BfdError, Control, Kind, State, decode

VECTORS = Path(__file__).parent.parent / "vectors"
HOLO = json.loads((VECTORS / "holo-bfd.json").read_text())
CAPTURED = json.loads((VECTORS / "tcpdump-bfd.json").read_text())
FLAGS = {
    "Poll": "poll",
    "Final": "final",
    "Control Plane Independent": "independent",
    "Demand": "demand",
}


@pytest.mark.parametrize("case", HOLO, ids=lambda case: case["name"])
def test_packets_of_holo(case) -> None:
    packet = decode(bytes.fromhex(case["hex"]))
    expected = case["expected"] | {"state": State[case["expected"]["state"]]}
    assert packet == Control(**expected)
    assert packet.encode().hex() == case["hex"]


@pytest.mark.parametrize("case", CAPTURED, ids=lambda case: f"{case['capture']}-{case['hex'][:24]}")
def test_packets_that_tcpdump_has_seen(case) -> None:
    data, expected = bytes.fromhex(case["hex"]), case["expected"]
    packet = decode(data)
    if expected is None:  # an echo packet, for which it is no control packet
        return
    assert packet.encode() == data[: data[3]]
    assert packet.state.name.replace("_", "") == expected["state"].upper()
    assert {name for name, field in FLAGS.items() if getattr(packet, field)} == set(expected["flags"]) & set(FLAGS)
    assert (packet.multiplier, packet.my_discriminator, packet.your_discriminator, packet.diagnostic) == tuple(
        expected[name] for name in ("multiplier", "my", "your", "diagnostic")
    )
    assert (packet.desired // 1000, packet.required // 1000, packet.echo // 1000) == tuple(
        expected[name] for name in ("desired_ms", "required_ms", "echo_ms")
    )
    told = expected.get("authentication")
    assert (packet.authentication is None) == (told is None)
    if told is not None:
        section = packet.authentication
        assert section is not None
        assert (section.kind, section.key_id) == (told["type"], told["key_id"])
        assert section.sequence == told.get("sequence", 0)
        assert section.secret.hex() == told.get("digest", section.secret.hex())
        assert section.secret.decode("latin-1") == told.get("password", section.secret.decode("latin-1"))


words = st.integers(0, 2**32 - 1)
some = st.integers(1, 2**32 - 1)


@st.composite
def packets(draw) -> tuple[Control, bytes]:
    kind = draw(st.sampled_from(list(Kind)))
    key = draw(st.binary(min_size=1, max_size=16))
    section = None
    if kind != Kind.NONE:
        section = Authentication(kind, draw(st.integers(0, 255)), draw(words) if kind.digest_size else 0)
    state = draw(st.sampled_from(list(State)))
    yours = draw(words if state in {State.DOWN, State.ADMIN_DOWN} else some)
    return (
        Control(
            state, draw(some), yours, draw(words), draw(words), draw(words), draw(st.integers(1, 255)),
            draw(st.integers(0, 31)), draw(st.booleans()), draw(st.booleans()), draw(st.booleans()),
            draw(st.booleans()), section,
        ),
        key,
    )  # fmt: skip


@given(packets())
def test_what_is_written_is_read_again(made) -> None:
    packet, key = made
    signed = packet.signed(key)
    assert decode(signed.encode()) == signed
    if packet.authentication is not None:
        assert signed.authentic(key)
        assert not signed.authentic(key + b"x" if len(key) < 16 else b"x")


@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        packet = decode(data)
    except BfdError:
        return
    # The reserved bits of an authentication section are kept; those of the header there are none.
    assert packet.encode() == data[: data[3]]


@settings(max_examples=300, deadline=None)
@given(st.binary(min_size=20, max_size=30), st.booleans())
def test_both_implementations_refuse_the_same(data: bytes, shaped: bool) -> None:
    if shaped:
        data = bytes((0x20 | data[0] & 0x1F, data[1] & 0xFA, data[2], 24)) + data[4:]
    with World(entry()) as world:
        world.now = START
        reason = world.receive(data)
        try:
            packet = decode(data)
        except BfdError:
            assert reason in {"bfd_malformed", "bfd_no_session", "bfd_authentication"}
            return
        if packet.your_discriminator:
            assert reason == "bfd_no_session"
        else:
            assert reason == ("none" if packet.authentication is None else "bfd_authentication")
