"""RFC 7474, where no foreign router is at hand: packets put together here, by the RFC's text and hashlib alone.

Section 3: after the authentication type come 24 bits of zero, the length of the digest and 32 bits that name the key.
Behind the packet, and not counted by its length, are 64 bits of sequence number, then the digest.  Section 5 has the
sender's address begin Apad, section 6 appends the protocol's number (3, by IANA's registry) to the key.
"""

from __future__ import annotations

import hashlib
import struct

import pytest

from tests.unit.ospf_network import Network, Node, port, ptp, single
from vrouter.config import ospf as config
from vrouter.net.address import Address
from vrouter.wire.ospf import authentication, packet
from vrouter.wire.ospf.authentication import Algorithm, Key
from vrouter.wire.ospf.lsa import DecodeError
from vrouter.wire.ospf.packet import Hello, PacketType

SIZES = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}
ALGORITHMS = {
    "sha1": Algorithm.SHA1, "sha256": Algorithm.SHA256, "sha384": Algorithm.SHA384, "sha512": Algorithm.SHA512
}  # fmt: skip
SECRETS = [b"k", b"a secret that is 30 octets long", b"longer than any digest of these functions is: " * 3]
SOURCE = 0x0A000002
ALL_ROUTERS = 0xE0000005
BODY = struct.pack("!IHBBIII", 0xFFFFFF00, 10, 2, 1, 40, 0, 0)
HELLO = Hello(0xFFFFFF00, 10, 2, 1, 40, 0, 0)


def digest(name: str, secret: bytes, covered: bytes, source: int) -> bytes:
    """Section 6 and RFC 5709 section 3.3, step by step."""
    size, block = SIZES[name], hashlib.new(name).block_size
    key = secret + b"\x00\x03"
    if len(key) > size:
        key = hashlib.new(name, key).digest()
    key = key.ljust(block, b"\0")
    apad = source.to_bytes(4, "big") + bytes.fromhex("878FE1F3") * ((size - 4) // 4)
    first = hashlib.new(name, bytes(octet ^ 0x36 for octet in key) + covered + apad).digest()
    return hashlib.new(name, bytes(octet ^ 0x5C for octet in key) + first).digest()


def made(
    body: bytes, sequence: int, *, name: str = "sha256", secret: bytes = b"secret", key: int = 1, kind: int = 1,
    router: int = 0x02020202, source: int = SOURCE,
) -> bytes:  # fmt: skip
    """Put a packet together."""
    head = struct.pack("!BBHIIHH", 2, kind, 24 + len(body), router, 0, 0, 3)
    covered = head + bytes((0, 0, 0, SIZES[name])) + key.to_bytes(4, "big") + body + sequence.to_bytes(8, "big")
    return covered + digest(name, secret, covered, source)


@pytest.mark.parametrize("secret", SECRETS, ids=["short", "middle", "long"])
@pytest.mark.parametrize("name", SIZES)
def test_both_directions(name: str, secret: bytes) -> None:
    key = Key(ALGORITHMS[name], 200, secret, extended=True)
    sequence = 0x66AABBCC_00000007
    wire = made(BODY, sequence, name=name, secret=secret, key=200)
    assert authentication.sign(HELLO, 0x02020202, 0, key, sequence, SOURCE) == wire
    header = packet.decode_packet_header(wire)
    assert (header.length, header.key_id, len(wire)) == (44, 200, 44 + 8 + SIZES[name])
    assert authentication.verify(wire, header, {200: key}, SOURCE) == sequence
    assert packet.decode_body(header, wire) == HELLO
    assert authentication.overhead(key) == len(wire) - 44


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (made(BODY, 5, source=SOURCE + 1), "authentication-digest"),
        (made(BODY, 5, secret=b"other"), "authentication-digest"),
        (made(BODY, 5)[:44] + (6).to_bytes(8, "big") + made(BODY, 5)[52:], "authentication-digest"),
        (made(BODY, 5, key=2), "authentication-key"),
        (made(BODY, 5, key=257), "authentication-key"),
        (made(BODY, 5, name="sha1"), "authentication-length"),
        (made(BODY, 5)[:-1], "length"),
        (made(BODY, 5)[:52], "length"),
        (made(BODY, 5)[:44], "length"),
    ],
    ids=["source", "secret", "sequence", "key", "wide-key", "algorithm", "one-less", "no-digest", "nothing"],
)
def test_what_is_not_as_signed_is_refused(wire: bytes, reason: str) -> None:
    key = Key(Algorithm.SHA256, 1, b"secret", extended=True)
    with pytest.raises(DecodeError, match=f"^{reason}$"):
        authentication.verify(wire, packet.decode_packet_header(wire), {1: key}, SOURCE)


def test_the_two_kinds_of_sequence_numbers_are_not_mixed() -> None:
    for extended in (False, True):
        key = Key(Algorithm.SHA256, 1, b"secret", extended=extended)
        wire = authentication.sign(HELLO, 1, 0, key, 5, SOURCE)
        other = Key(Algorithm.SHA256, 1, b"secret", extended=not extended)
        with pytest.raises(DecodeError, match="authentication-key"):
            authentication.verify(wire, packet.decode_packet_header(wire), {1: other}, SOURCE)


def test_options_of_local_signaling_stand_behind_the_digest() -> None:
    key = Key(Algorithm.SHA256, 1, b"secret", extended=True)
    hello = Hello(0xFFFFFF00, 10, 0x12, 1, 40, 0, 0, lls=1)
    wire = authentication.sign(hello, 0x02020202, 0, key, 9, SOURCE)
    body = BODY[:6] + b"\x12" + BODY[7:]
    signed = made(body, 9)
    assert wire[: len(signed)] == signed
    assert packet.decode_body(packet.decode_packet_header(wire), wire) == hello


AUTHENTICATION = config.Authentication(hmac_sha_256=(config.HmacKey(key="secret", extended_sequence=True),))


def sent(node_name: str, net: Network) -> list[bytes]:
    """Gather what a router sends from now on."""
    found: list[bytes] = []

    def note(source: str, _target: str, data: bytes) -> bytes:
        if source == node_name:
            found.append(data)
        return data

    net.filter = note
    return found


def router(net: Network, number: int) -> Node:
    own = f"{number}.{number}.{number}.{number}"
    interfaces = {"p": f"10.0.0.{number}/24@p", "lo": f"{own}/32"}
    return net.add(f"r{number}", interfaces, single(own, {"p": ptp(authentication=AUTHENTICATION), "lo": port()}))


def numbers(packets: list[bytes]) -> list[int]:
    """Give the sequence numbers, as they lie on the wire, of packets whose digest is right."""
    found = []
    for data in packets:
        length = int.from_bytes(data[2:4], "big")
        covered = data[: length + 8]
        assert data[length + 8 : length + 40] == digest("sha256", b"secret", covered, SOURCE)
        found.append(int.from_bytes(covered[length:], "big"))
    return found


def test_what_is_sent_ascends_and_goes_on_ascending_after_a_restart() -> None:
    net = Network()
    one, two = router(net, 1), router(net, 2)
    packets = sent("r2", net)
    net.run(60)
    assert one.neighbors() == {"2.2.2.2": "full"}
    assert {data[1] for data in packets} == {1, 2, 3, 4, 5}
    before = numbers(packets)
    assert before == sorted(set(before))
    two.dead = True
    net.run(1)
    packets.clear()
    router(net, 2)
    net.run(15)
    after = numbers(packets)
    assert after == sorted(set(after))
    assert after[0] >> 32 > before[-1] >> 32, "another start, another count of starts"
    assert one.neighbors() == {"2.2.2.2": "full"}
    assert "authentication-sequence" not in one.show("interface")[1]["drops"]


def test_each_type_counts_by_itself_and_nothing_is_taken_twice() -> None:
    net = Network()
    one, _ = router(net, 1), router(net, 2)
    packets = sent("r2", net)
    net.run(60)

    def refused() -> int:
        drops: dict[str, int] = one.show("interface")[1]["drops"]
        return drops.get("authentication-sequence", 0)

    last = {kind: next(data for data in reversed(packets) if data[1] == kind) for kind in PacketType}
    # An older number than that of the last hello, but the newest of its type: only what was taken counts.
    assert max(numbers([last[PacketType.DESCRIPTION]])) < max(numbers([last[PacketType.HELLO]]))
    for count, kind in enumerate(PacketType, 1):
        net._deliver((net.now, 0, "r1", "p", last[kind], SOURCE, ALL_ROUTERS))
        assert refused() == count, kind
    assert one.neighbors() == {"2.2.2.2": "full"}


def test_a_foreign_router_that_begins_again_with_a_higher_count_is_heard() -> None:
    net = Network()
    one = router(net, 1)
    net.run(1)

    def hello(sequence: int) -> dict[str, str]:
        net._deliver((net.now, 0, "r1", "p", made(BODY, sequence), SOURCE, ALL_ROUTERS))
        return one.neighbors()

    def refused() -> int:
        drops: dict[str, int] = one.show("interface")[1]["drops"]
        return drops.get("authentication-sequence", 0)

    assert hello(1 << 32 | 0xFFFFFFFF) == {"2.2.2.2": "init"}
    for sequence, count in (
        (1 << 32 | 0xFFFFFFFF, 1),
        (0xFFFFFFFF, 2),
        (2 << 32, 2),
        (1 << 32 | 5, 3),
        (2 << 32 | 1, 3),
    ):
        hello(sequence)
        assert refused() == count, hex(sequence)
    net._deliver((net.now, 0, "r1", "p", made(BODY, 3 << 32), Address(4, SOURCE + 1).value, ALL_ROUTERS))
    assert one.show("interface")[1]["drops"]["authentication-digest"] == 1
