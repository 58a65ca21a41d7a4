"""Filters of captures: tcpdump is the oracle for what the words mean; and what is no filter is refused."""

from __future__ import annotations

import os
import random
import struct
import subprocess
from typing import TYPE_CHECKING, Any, Final

import pytest

from manager.cli.errors import CliError
from manager.cli.filters import compile_filter, is_filter
from rsock.wire import Filter, layout
from tests.conftest import require_program
from tests.unit import packets
from tests.unit.c_build import build

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TERM: Final = layout("rsock_filter_term")
MACS: Final = (bytes.fromhex("020000000001"), bytes.fromhex("020000000002"))
HOSTS: Final = ("10.0.0.1", "10.0.0.2", "10.9.0.1", "192.0.2.1", "198.51.100.7")
HOSTS6: Final = ("2001:db8::1", "2001:db8::2", "2001:db8:9::1", "fe80::1")
PORTS: Final = (22, 53, 80, 179, 5353, 40000)

_SOURCES: Final = ("server/filter.c", "base/packet.c", "base/cksum.c", "wire/ip6.c")
_DECLARATIONS: Final = """
int load(const uint8_t *body, uint32_t length);
bool matches(uint8_t *frame, uint32_t length, bool link, bool vlan_present, uint16_t vlan_tci);
"""
_CODE: Final = """
#include "server/filter.h"

static struct filter filter;

static int load(const uint8_t *body, uint32_t length)
{
    return filter_load(&filter, body, length);
}

static bool matches(uint8_t *frame, uint32_t length, bool link, bool vlan_present, uint16_t vlan_tci)
{
    struct packet packet = { .buffer = frame, .length = length, .vlan_present = vlan_present, .vlan_tci = vlan_tci };
    struct filter_subject view;
    filter_look(&packet, link, &view);
    return filter_matches(&filter, &view);
}
"""


@pytest.fixture(scope="module")
def core() -> Any:
    return build("_filters", _SOURCES, _DECLARATIONS, _CODE).lib


def transport(rng: random.Random, protocol: int) -> bytes:
    ports = struct.pack(">HH", rng.choice(PORTS), rng.choice(PORTS))
    return ports + bytes(16) if protocol in (6, 17, 132) else bytes((8, 0)) + bytes(18)


def frame(rng: random.Random) -> bytes:
    """One frame of any kind that filters speak of, or of none."""
    kind = rng.randrange(10)
    if kind == 0:
        body = packets.arp(1, MACS[0], rng.choice(HOSTS), MACS[1], rng.choice(HOSTS))
        return packets.ethernet(MACS[1], MACS[0], packets.ARP, body)
    if kind == 1:
        return packets.ethernet(MACS[1], MACS[0], 0x88CC, os.urandom(30))
    protocol = rng.choice((1, 2, 6, 6, 17, 17, 58, 89, 132))
    if kind < 6:
        fragment = rng.choice((0, 0, 0, 0x2000, 0x0010))
        body = packets.ip4(rng.choice(HOSTS), rng.choice(HOSTS), transport(rng, protocol), protocol=protocol,
                           fragment=fragment, options=rng.choice((b"", bytes(4))))  # fmt: skip
        return packets.ethernet(MACS[1], MACS[0], packets.IP4, body)
    body = packets.ip6(rng.choice(HOSTS6), rng.choice(HOSTS6), transport(rng, protocol), protocol=protocol)
    return packets.ethernet(MACS[1], MACS[0], packets.IP6, body)


def primitive(rng: random.Random) -> str:
    side = rng.choice(("", "", "src ", "dst "))
    host = rng.choice((*HOSTS, *HOSTS6))
    net = rng.choice(("10.0.0.0/8", "10.0.0.0/30", "192.0.2.0/25", "2001:db8::/32", "2001:db8::/48", "fe80::/10"))
    port = rng.choice(PORTS)
    return rng.choice(
        (
            f"{side}host {host}", f"{side}net {net}", f"{side}port {port}", f"{side}portrange {port}-{port + 300}",
            f"tcp {side}port {port}", f"udp {side}portrange 0-{port}", f"ip {side}host {rng.choice(HOSTS)}",
            "ip", "ip6", "arp", "tcp", "udp", "icmp6", "sctp", f"{side or 'src '}{rng.choice(HOSTS)}",
            f"({side}port 53 or 5353)",
        )
    )  # fmt: skip


def expression(rng: random.Random) -> str:
    words = []
    for number in range(rng.randrange(1, 5)):
        if number:
            words.append(rng.choice(("and", "or")))
        words.append(rng.choice(("", "", "not ")) + primitive(rng))
    return " ".join(words)


def by_tcpdump(path: Path, text: str) -> list[int]:
    """Give the numbers of the frames that tcpdump chooses; each has its own as its time."""
    done = subprocess.run(
        [require_program("tcpdump"), "-r", str(path), "-n", "-t", "-w", "-", text], capture_output=True, check=False
    )
    if b"expression rejects all packets" in done.stderr:
        return []
    assert done.returncode == 0, done.stderr
    found, at = [], 24
    while at < len(done.stdout):
        seconds, _fraction, size, _length = struct.unpack_from("<IIII", done.stdout, at)
        found.append(seconds)
        at += 16 + size
    return found


def chosen(core: Any, frames: Sequence[bytes], text: str) -> list[int]:
    program = compile_filter(text.split())
    assert core.load(program, len(program)) == 0, text
    return [number for number, each in enumerate(frames) if core.matches(each, len(each), True, False, 0)]


def test_the_same_frames_as_tcpdump(core: Any, tmp_path: Path) -> None:
    rng = random.Random(20)
    frames = [frame(rng) for _ in range(400)]
    path = tmp_path / "frames.pcap"
    records = [struct.pack("<IIII", number, 0, len(each), len(each)) + each for number, each in enumerate(frames)]
    path.write_bytes(struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1) + b"".join(records))
    for _ in range(60):
        text = expression(rng)
        assert chosen(core, frames, text) == by_tcpdump(path, text), text


def test_what_tcpdump_sees_otherwise(core: Any) -> None:
    datagram = packets.datagram4("10.0.0.1", "10.0.1.2")
    tagged = packets.ethernet(MACS[1], MACS[0], packets.IP4, datagram, vlan=7)
    plain = packets.ethernet(MACS[1], MACS[0], packets.IP4, datagram)
    # A tag hides nothing from the words beside `vlan`.
    for text, expected in (
        ("vlan", [0]),
        ("vlan 7", [0]),
        ("vlan 8", []),
        ("udp port 2000", [0, 1]),
        ("not vlan", [1]),
    ):
        assert chosen(core, [tagged, plain], text) == expected, text
    program = compile_filter(["vlan", "9"])
    assert core.load(program, len(program)) == 0
    assert core.matches(plain, len(plain), True, True, 0x2009)  # a tag that the driver took off
    # IPv6: the last header counts, behind extension headers; later fragments have no ports.
    udp = packets.udp("2001:db8::1", "2001:db8::2")
    hop = packets.ip6("2001:db8::1", "2001:db8::2", bytes((17, 0, 1, 4, 0, 0, 0, 0)) + udp, protocol=0)
    later = packets.ip6("2001:db8::1", "2001:db8::2", bytes((17, 0, 0, 8, 0, 0, 0, 1)) + udp, protocol=44)
    frames = [packets.ethernet(MACS[1], MACS[0], packets.IP6, body) for body in (hop, later)]
    assert chosen(core, frames, "udp") == [0, 1]
    assert chosen(core, frames, "port 2000") == [0]


def test_packets_of_ours_have_no_link_header(core: Any) -> None:
    datagram = packets.datagram4("10.0.0.1", "10.0.1.2")
    for text, expected in (("udp and dst 10.0.1.2", True), ("arp", False), ("ip6", False)):
        program = compile_filter(text.split())
        assert core.load(program, len(program)) == 0
        assert core.matches(datagram, len(datagram), False, False, 0) is expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("port", "something is missing at its end"),
        ("host 10.0.0.0/8", "'10.0.0.0/8' is no address"),
        ("net ten", "'ten' is no prefix"),
        ("port 70000", "'70000' is no port"),
        ("portrange 5", "'5' is no range of ports"),
        ("portrange 9-5", "the range '9-5' ends before it begins"),
        ("( tcp", "something is missing at its end"),
        ("tcp )", "')' is not expected there"),
        ("tcp udp", "'udp' is not expected there"),
        ("vlan 4095", "'vlan 4095': a number up to 4094 is needed"),
        ("proto 256", "'proto 256': a number up to 255 is needed"),
        ("nonsense", "'nonsense' is no address"),
        (" or ".join(["tcp"] * 33), "it has 65 terms, and 64 are possible"),
    ],
)
def test_what_is_no_filter(text: str, reason: str) -> None:
    with pytest.raises(CliError) as caught:
        compile_filter(text.split())
    assert caught.value.message == f"filter '{text}': {reason}"


def test_no_words_are_no_filter(core: Any) -> None:
    assert compile_filter([]) == b""
    assert core.load(b"", 0) == 0
    assert core.matches(bytes(60), 60, True, False, 0)


@pytest.mark.parametrize(("word", "expected"), [("tcp", True), ("10.0.0.1", True), ("host", True), ("lan", False)])
def test_is_filter(word: str, expected: bool) -> None:
    assert is_filter(word) is expected


def term(kind: int, **fields: Any) -> bytes:
    values = {"side": 0, "family": 0, "length": 0, "first": 0, "last": 0, "address": b""} | fields
    return TERM.pack(kind, *values.values())


HOSTILE: Final = {
    "cut": term(Filter.VLAN)[:-1],
    "unknown": term(99),
    "zero": term(0),
    "no operand": term(Filter.NOT),
    "one operand": term(Filter.VLAN) + term(Filter.AND),
    "two results": term(Filter.VLAN) * 2,
    "too deep": term(Filter.VLAN) * 33 + term(Filter.OR) * 32,
    "too many": term(Filter.VLAN) + term(Filter.NOT) * 64,
    "long prefix": term(Filter.NET, family=4, length=33),
    "no family": term(Filter.NET, family=5, length=8),
    "no side": term(Filter.PORT, side=3),
    "turned range": term(Filter.PORT, first=2, last=1),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_program_that_lies_is_refused(core: Any, name: str) -> None:
    assert core.load(HOSTILE[name], len(HOSTILE[name])) != 0


def test_any_bytes_are_frames(core: Any) -> None:
    rng = random.Random(3)
    program = compile_filter(["(tcp port 80 or src net 2001:db8::/32) and not host 10.0.0.1"])
    assert core.load(program, len(program)) == 0
    for _ in range(3000):
        whole = bytearray(frame(rng))
        for _ in range(rng.randrange(4)):
            whole[rng.randrange(len(whole))] = rng.randrange(256)
        cut = bytes(whole[: rng.randrange(len(whole) + 1)])
        core.matches(cut, len(cut), True, False, 0)
