"""Packets of RIPv2 and RIPng: those of another implementation, and any bytes."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vrouter.net.address import Address, network, parse_address, parse_prefix
from vrouter.wire.rip import ripng, ripv2
from vrouter.wire.rip.authentication import DIGEST_SIZES, Algorithm, Key, Password
from vrouter.wire.rip.packet import Command, Entry, EntryError, Fault, Packet, RipError

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "holo-rip.json").read_text())
ALGORITHMS: list[Algorithm] = sorted(DIGEST_SIZES)


def read(case: dict[str, Any]) -> tuple[Packet, int | None, bytes]:
    """Decode a packet and write it again."""
    data = bytes.fromhex(case["hex"])
    if case["protocol"] == "ripng":
        packet = ripng.decode(data)
        return packet, None, ripng.encode(packet)
    key = Key(case["key"]["algorithm"], case["key"]["id"], case["key"]["secret"].encode()) if case["key"] else None
    packet, sequence = ripv2.decode(data, (key,) if key else ())
    return packet, sequence, ripv2.encode(packet, key, sequence or 0)


@pytest.mark.parametrize("case", VECTORS, ids=lambda case: f"{case['protocol']}-{case['name']}")
def test_packets_of_holo(case) -> None:
    expected = case["expected"]
    if "error" in expected:
        with pytest.raises(RipError) as raised:
            read(case)
        assert raised.value.fault == expected["error"]
        return
    packet, sequence, again = read(case)
    assert packet == Packet(
        Command[expected["command"].upper()],
        tuple(
            Entry(parse_prefix(prefix), metric, tag, parse_address(via) if via else None)
            for prefix, metric, tag, via in expected.get("entries", ())
        ),
        expected.get("whole", False),
        tuple(EntryError(Fault(fault), value) for fault, value in expected.get("errors", ())),
    )
    assert sequence == expected.get("sequence")
    # What is wrong in a packet is not written again.
    assert expected.get("errors") or again.hex() == case["hex"]


metrics = st.integers(1, 16)
tags = st.integers(0, 65535)
unicast4 = st.integers(0x01000000, 0x7EFFFFFF).map(lambda value: Address(4, value))
unicast6 = st.integers(0x2000 << 112, (0x4000 << 112) - 1).map(lambda value: Address(6, value))
link_local = st.integers(1, 2**64 - 1).map(lambda value: Address(6, 0xFE80 << 112 | value))
entries4 = st.builds(
    lambda address, length, metric, tag, via: Entry(network(address, length), metric, tag, via),
    unicast4, st.integers(8, 32), metrics, tags, st.none() | unicast4,
)  # fmt: skip
entries6 = st.builds(
    lambda address, length, metric, tag, via: Entry(network(address, length), metric, tag, via),
    unicast6, st.integers(16, 128), metrics, tags, st.none() | link_local,
)  # fmt: skip
keys = st.one_of(
    st.builds(Key, st.sampled_from(ALGORITHMS), st.integers(0, 255), st.binary(min_size=1, max_size=80)),
    st.builds(Password, st.binary(min_size=1, max_size=16).filter(lambda secret: not secret.endswith(b"\0"))),
)
responses4 = st.lists(entries4, max_size=24).map(lambda entries: Packet(Command.RESPONSE, tuple(entries)))


@given(responses4, st.none() | keys, st.integers(0, 2**32 - 1))
def test_ripv2_comes_out_as_it_went_in(packet, key, sequence) -> None:
    data = ripv2.encode(packet, key, sequence)
    decoded, found = ripv2.decode(data, (key,) if key else ())
    assert decoded == packet
    assert found == (sequence if isinstance(key, Key) else None)


@given(responses4, keys, st.integers(0, 2**16), st.integers(1, 255))
def test_a_changed_byte_is_noticed(packet, key, place, change) -> None:
    data = bytearray(ripv2.encode(packet, key, 5))
    signed = len(data) if isinstance(key, Key) else 24
    place = 2 + place % (signed - 2)
    if isinstance(key, Password) and place < 4:
        return  # the unused bytes of the header
    data[place] ^= change
    try:
        decoded, sequence = ripv2.decode(bytes(data), (key,))
    except RipError:
        return
    # The length of the digest in the authentication entry may be written in two ways.
    assert (decoded, sequence) == (packet, 5 if isinstance(key, Key) else None)
    assert False if isinstance(key, Password) else place == 11


@given(responses4, keys, keys)
def test_another_key_is_refused(packet, key, other) -> None:
    if key != other:
        with pytest.raises(RipError):
            ripv2.decode(ripv2.encode(packet, key, 1), (other,))


def test_the_digest_length_of_older_peers_is_taken() -> None:
    key = Key("md5", 1, b"HOLO")
    packet = Packet(Command.RESPONSE, (Entry(parse_prefix("10.0.0.0/8"), 1),))
    import hashlib

    data = bytearray(ripv2.encode(packet, key, 1))
    data[11] = 20
    data[-16:] = hashlib.md5(bytes(data[:-16]) + b"HOLO".ljust(16, b"\0")).digest()
    assert ripv2.decode(bytes(data), (key,)) == (packet, 1)


@given(st.lists(entries6, max_size=60).map(lambda entries: Packet(Command.RESPONSE, tuple(entries))))
def test_ripng_comes_out_as_it_went_in(packet) -> None:
    assert ripng.decode(ripng.encode(packet)) == packet


@given(st.binary(max_size=600), st.sampled_from([b"", b"\1\2\0\0", b"\2\2\0\0", b"\2\2\0\0\xff\xff\0\3", b"\2\1\0\0"]))
def test_no_bytes_crash_the_decoders(data, head) -> None:
    for key in ((), (Key("md5", 1, b"k"), Key("hmac-sha-256", 2, b"k"), Password(b"p"))):
        with contextlib.suppress(RipError):
            ripv2.decode(head + data, key)
    with contextlib.suppress(RipError):
        ripng.decode(head + data)


@given(st.binary(max_size=300).map(lambda data: data[: len(data) // 20 * 20]), st.sampled_from([1, 2]))
def test_what_is_accepted_can_be_written_again(body, command) -> None:
    packet, _ = (
        ripv2.decode(bytes((command, 2, 0, 0)) + body, ()) if body[:2] != b"\xff\xff" else (Packet(Command.REQUEST), 0)
    )
    assert ripv2.decode(ripv2.encode(packet), ())[0].entries == packet.entries
    other = ripng.decode(bytes((command, 1, 0, 0)) + body)
    assert ripng.decode(ripng.encode(other)).entries == other.entries
