"""The stub resolver's messages, and the names of routers' fds: what is hostile must only be refused."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsock import client_core, dns
from rsock.base import name_of
from rsock.client import parse_resolv_conf

NAME = b"www.red.example"
HEADER = struct.Struct(">6H")


def record(owner: bytes, kind: int, data: bytes, ttl: int = 60) -> bytes:
    return owner + struct.pack(">HHIH", kind, 1, ttl, len(data)) + data


def answer(*records: bytes, number: int = 7, flags: int = 0x8180, name: bytes = NAME, kind: int = dns.A) -> bytes:
    question = dns.encode_name(name) + struct.pack(">HH", kind, 1)
    return HEADER.pack(number, flags, 1, len(records), 0, 0) + question + b"".join(records)


HERE = b"\xc0\x0c"  # a pointer to the question's name


def test_a_query_is_what_rfc_1035_draws() -> None:
    raw = dns.query(0x1234, b"a.example.", dns.AAAA, extended=False)
    assert raw.hex() == "123401000001000000000000" + "0161076578616d706c6500" + "001c0001"
    assert dns.query(1, NAME, dns.A)[-11:].hex() == "00002904d0000000000000"


def test_addresses_and_aliases() -> None:
    target = dns.encode_name(b"web.red.example")
    found = dns.parse_answer(
        answer(
            record(HERE, dns.CNAME, target), record(target, dns.A, bytes([10, 0, 0, 9])),
            record(target, dns.A, bytes([10, 0, 0, 8])), record(dns.encode_name(b"other"), dns.A, bytes(4)),
        ),
        7, NAME, dns.A,
    )  # fmt: skip
    assert (found.canonical, found.aliases, found.values) == (b"web.red.example", (NAME,), ("10.0.0.9", "10.0.0.8"))


def test_case_does_not_matter() -> None:
    assert dns.parse_answer(answer(record(HERE, dns.A, bytes(4))), 7, b"WWW.Red.Example", dns.A).values == ("0.0.0.0",)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        answer(number=8),
        answer(flags=0x0100),
        answer(kind=dns.AAAA),
        answer(name=b"www.blue.example"),
        answer(record(HERE, dns.A, bytes(5))),
        answer(record(HERE, dns.A, bytes(4)))[:-1],
        answer(record(b"\xc0\xff", dns.A, bytes(4))),  # a pointer onward
        answer(record(b"\xc0\x21", dns.A, bytes(4))),  # to itself
        answer(record(b"\x40" + bytes(64), dns.A, bytes(4))),
    ],
)
def test_what_is_no_answer_is_refused(message: bytes) -> None:
    with pytest.raises(dns.DnsError):
        dns.parse_answer(message, 7, NAME, dns.A)


def test_aliases_in_a_circle_end() -> None:
    other = dns.encode_name(b"b")
    found = dns.parse_answer(answer(record(HERE, dns.CNAME, other), record(other, dns.CNAME, HERE)), 7, NAME, dns.A)
    assert found.values == ()


def test_truncation_is_told() -> None:
    assert dns.parse_answer(answer(flags=0x8380), 7, NAME, dns.A).truncated


@given(st.binary(max_size=600))
def test_any_bytes_end_in_an_answer_or_a_refusal(tail: bytes) -> None:
    for message in (tail, answer() + tail, HEADER.pack(7, 0x8180, 1, 4, 0, 0) + answer()[12:] + tail):
        try:
            dns.parse_answer(message, 7, NAME, dns.A)
        except dns.DnsError:
            continue


@pytest.mark.parametrize("name", [b"", b"a..b", b"x" * 64, b".".join([b"x" * 63] * 5), b".a"])
def test_names_that_cannot_be(name: bytes) -> None:
    with pytest.raises(dns.DnsError):
        dns.encode_name(name)


def test_reverse_names() -> None:
    assert dns.reverse_name("192.0.2.1") == b"1.2.0.192.in-addr.arpa"
    assert dns.reverse_name("2001:db8::1").endswith(b".8.b.d.0.1.0.0.2.ip6.arpa")


def test_resolv_conf() -> None:
    lines = ["# comment", "nameserver 10.0.0.53", "nameserver fd00::53 # second", "search a.example b.example"]
    told = parse_resolv_conf("\n".join([*lines, "options ndots:2 rotate"]))
    assert told.addresses == ("10.0.0.53", "fd00::53")
    assert told.search == ("a.example", "b.example")
    assert (told.ndots, told.attempts) == (2, 2)
    assert parse_resolv_conf("nameserver\noptions timeout:99999 x:y\n").timeout == 30


def test_names_of_fds() -> None:
    stream = client_core.parse_fd_name(b"\0rsk1/red/t6/1001.9c", None)
    assert stream is not None
    assert (stream.vr, stream.family, stream.type, stream.slot) == ("red", socket.AF_INET6, socket.SOCK_STREAM, 0x1001)
    accepted = client_core.parse_fd_name(
        b"\0rsk1/red/t4/1000.1", b"\0rsk1/red/t4/p=192.0.2.9:51515/l=192.0.2.1:80/1002.3ab"
    )
    assert accepted is not None
    assert accepted.accepted is not None
    assert (accepted.slot, accepted.nonce, accepted.accepted.peer) == (0x1002, 0x3AB, ("192.0.2.9", 51515))


@pytest.mark.parametrize(
    "name", ["", "/tmp/x", b"", b"\0rsk1", b"\0rsk1/red/x4/1.1", b"\0rsk1/red/t4/1", ("127.0.0.1", 1)]
)
def test_names_of_other_fds(name: object) -> None:
    assert client_core.parse_fd_name(name, None) is None


def test_a_look_at_an_fd_leaves_it_as_it_is() -> None:
    left, right = socket.socketpair()
    with left, right:
        assert name_of(left.fileno()) is None
        left.sendall(b"x")
        assert right.recv(1) == b"x"
    assert name_of(-1) is None
    assert name_of(1 << 30) is None
