"""Parts of TCP by themselves: MD5, signatures (RFC 2385), SYN cookies."""

from __future__ import annotations

import hashlib
import random
import struct
from typing import Any, Final

import pytest

from tests.unit.tcp_parts import ACK, MINUTE, SECOND, SYN, World, address


@pytest.fixture
def world() -> World:
    return World()


def md5(world: World, data: bytes, step: int) -> str:
    digest = world.ffi.new("uint8_t[16]")
    world.lib.md5(data, len(data), step, digest)
    return bytes(digest).hex()


# RFC 1321, appendix A.5.
VECTORS: Final = {
    b"": "d41d8cd98f00b204e9800998ecf8427e",
    b"a": "0cc175b9c0f1b6a831c399e269772661",
    b"abc": "900150983cd24fb0d6963f7d28e17f72",
    b"message digest": "f96b697d7cb7938d525a2f31aaf161d0",
    b"abcdefghijklmnopqrstuvwxyz": "c3fcd3d76192e4007dfb496cca67e13b",
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789": "d174ab98d277d9f5a5611c2c9f419d9f",
    b"1234567890" * 8: "57edf4a22be3c955ac49da2e2107b67a",
}


@pytest.mark.parametrize("data", VECTORS)
def test_md5_vectors(world: World, data: bytes) -> None:
    assert md5(world, data, 64) == VECTORS[data]


def test_md5_of_every_length_and_in_pieces(world: World) -> None:
    source = random.Random(1)
    for length in range(260):
        data = source.randbytes(length)
        assert md5(world, data, source.choice([1, 7, 63, 64, 65, 300])) == hashlib.md5(data).hexdigest()


def signature(g: Any, header: bytes, payload: bytes, key: bytes) -> bytes:
    """Compute the digest of RFC 2385 section 2.0 by other means; the segment goes from remote to local."""
    local, remote = bytes(g.local), bytes(g.remote)
    length = len(header) + len(payload)
    if g.family == 4:
        pseudo = remote[12:] + local[12:] + struct.pack("!BBH", 0, 6, length)
    else:
        pseudo = remote + local + struct.pack("!IxxxB", length, 6)
    return hashlib.md5(pseudo + header[:16] + b"\0\0" + header[18:20] + payload + key).digest()


@pytest.mark.parametrize("peers", [("::ffff:192.0.2.1", "::ffff:198.51.100.7"), ("2001:db8::1", "2001:db8::2")])
@pytest.mark.parametrize("size", [0, 1, 37, 64])
def test_signature_as_rfc_2385_says(world: World, peers: tuple[str, str], size: int) -> None:
    key = b"a secret of both"
    payload = random.Random(size).randbytes(size)
    assert world.lib.auth_set(world.c, address(peers[1]), 128, key, len(key)) == 0
    number = world.lib.auth_find(world.c, address(peers[1]))
    g = world.segment(local=peers[0], remote=peers[1], seq=0xFFFFFFF0, ack=7, flags=ACK, payload=payload)
    out = world.ffi.new("uint8_t[200]")
    length = world.lib.auth_sign(world.c, number, g, out)
    wire = bytes(out)[:length]
    assert wire[20:24] == bytes([1, 1, 19, 18])
    assert wire[24:40] == signature(g, wire[:40], wire[40:], key)
    assert wire[40:] == payload

    assert world.lib.auth_check(world.c, number, g, out, length, True)
    assert not world.lib.auth_check(world.c, number, g, out, length, False), "unsigned"
    assert not world.lib.auth_check(world.c, 0, g, out, length, True), "signed where no key is known"
    assert world.lib.auth_check(world.c, 0, g, out, length, False)
    for byte in [*range(16), 18, 19, *range(24, length)]:  # all but the checksum and the padding
        out[byte] ^= 1
        assert not world.lib.auth_check(world.c, number, g, out, length, True), byte
        out[byte] ^= 1


def test_keys_are_chosen_by_the_longest_prefix(world: World) -> None:
    keys = {
        ("::", 0): b"all",
        ("::ffff:10.0.0.0", 104): b"ten",
        ("::ffff:10.1.0.0", 113): b"half",
        ("::ffff:10.1.2.3", 128): b"one",
        ("2001:db8::", 32): b"six",
    }
    order = list(keys)
    random.Random(5).shuffle(order)
    for peer, prefix in order:
        assert world.lib.auth_set(world.c, address(peer), prefix, keys[peer, prefix], len(keys[peer, prefix])) == 0
    numbers = {peer: world.lib.auth_find(world.c, address(peer)) for peer, _ in keys}
    assert len(set(numbers.values())) == len(keys)
    wanted = {
        "::ffff:10.1.2.3": "::ffff:10.1.2.3",
        "::ffff:10.1.2.4": "::ffff:10.1.0.0",
        "::ffff:10.1.128.0": "::ffff:10.0.0.0",
        "::ffff:11.0.0.1": "::",
        "2001:db8:5::": "2001:db8::",
    }
    for peer, owner in wanted.items():
        assert world.lib.auth_find(world.c, address(peer)) == numbers[owner]
    # Replacing keeps the place, removing gives way to the next longest.
    assert world.lib.auth_set(world.c, address("::ffff:10.1.2.3"), 128, b"new", 3) == 0
    assert world.lib.auth_in_use(world.c) == len(keys)
    assert world.lib.auth_set(world.c, address("::ffff:10.1.2.3"), 128, b"", 0) == 0
    assert world.lib.auth_find(world.c, address("::ffff:10.1.2.3")) == numbers["::ffff:10.1.0.0"]
    assert world.lib.auth_set(world.c, address("::ffff:10.1.2.3"), 128, b"", 0) == -2
    assert world.lib.auth_set(world.c, address("::"), 129, b"x", 1) == -22
    assert world.lib.auth_set(world.c, address("::"), 0, bytes(81), 81) == -22
    world.lib.auth_forget(world.c)
    assert world.lib.auth_in_use(world.c) == 0
    assert world.lib.auth_find(world.c, address("::ffff:10.1.2.3")) == 0


def cookie(world: World, mss: int, **fields: Any) -> tuple[int, int]:
    size = world.ffi.new("uint16_t *", mss)
    return world.lib.cookie_make(world.c, world.segment(**fields), size), size[0]


@pytest.mark.parametrize("mss", [88, 256, 535, 536, 1219, 1220, 1400, 1459, 1460, 9000, 65535])
def test_cookie_gives_the_mss_back(world: World, mss: int) -> None:
    world.at(1000 * MINUTE)
    made, rounded = cookie(world, mss, seq=77, flags=SYN)
    assert rounded <= max(mss, 256)
    assert world.lib.cookie_check(world.c, world.segment(seq=78, ack=(made + 1) & 0xFFFFFFFF, flags=ACK)) == rounded


@pytest.mark.parametrize(
    ("age", "valid"), [(0, True), (59, True), (119, True), (120, False), (180, False), (3600, False)]
)
def test_cookie_lives_this_minute_and_the_next(world: World, age: int, valid: bool) -> None:
    world.at(5 * MINUTE)
    made, rounded = cookie(world, 1460, seq=0xFFFFFFFF, flags=SYN)
    world.at(5 * MINUTE + age * SECOND)
    got = world.lib.cookie_check(world.c, world.segment(seq=0, ack=(made + 1) & 0xFFFFFFFF, flags=ACK))
    assert got == (rounded if valid else 0)


def test_forged_cookies_are_refused(world: World) -> None:
    world.at(7 * MINUTE)
    made, _ = cookie(world, 1460, seq=1000, flags=SYN)
    good = {"seq": 1001, "ack": (made + 1) & 0xFFFFFFFF, "flags": ACK}
    assert world.lib.cookie_check(world.c, world.segment(**good))
    others: list[dict[str, Any]] = [
        {"seq": 1002},
        {"remote_port": 40001},
        {"local_port": 180},
        {"remote": "::ffff:192.0.2.8"},
        {"local": "::ffff:192.0.2.2"},
    ]
    others += [{"ack": ((made ^ 1 << bit) + 1) & 0xFFFFFFFF} for bit in range(32)]
    for other in others:
        assert world.lib.cookie_check(world.c, world.segment(**(good | other))) == 0, other
    source = random.Random(3)
    guesses = sum(
        world.lib.cookie_check(world.c, world.segment(seq=5, ack=source.getrandbits(32), flags=ACK)) != 0
        for _ in range(20000)
    )
    assert guesses == 0  # one in 2^28 would be taken


@pytest.mark.parametrize("wscale", [None, 0, 7, 14])
@pytest.mark.parametrize("sack", [False, True])
@pytest.mark.parametrize("ecn", [False, True])
@pytest.mark.parametrize("now", [0, 63, 64, 2**31, 2**32 - 1, 123456789])
def test_timestamps_carry_the_options(world: World, wscale: int | None, sack: bool, ecn: bool, now: int) -> None:
    syn = world.segment(
        flags=SYN | (0xC0 if ecn else 0), stamped=True, sack=sack, has_wscale=wscale is not None, wscale=wscale or 0
    )
    stamp = world.lib.cookie_stamp(world.c, syn, now)
    assert (now - stamp) % 2**32 < 64, "the clock must not run backwards afterwards"
    got = world.lib.cookie_options(world.c, world.segment(flags=ACK, stamped=True, tsecr=stamp))
    assert got == (15 if wscale is None else wscale) | sack << 4 | ecn << 5
    assert world.lib.cookie_options(world.c, world.segment(flags=ACK)) == 15
