"""Captures of tcpdump's own tests: our codecs get over each of them, and read what tcpdump reads.

Every capture whose name speaks of BGP, OSPF, BFD or RIP, those that once made a parser crash among them, and all
others that hold packets of these protocols.  The oracle is tcpdump's expected text, block by block.
"""

from __future__ import annotations

import contextlib
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from tests.unit.archives import unpack
from tests.unit.c_build import build
from tests.unit.captures import IpPacket, frames, packets
from vrouter.net.address import IPV4, Address
from vrouter.wire.bgp import attributes as bgp_attributes
from vrouter.wire.bgp import message as bgp
from vrouter.wire.bgp.attributes import MalformedError
from vrouter.wire.bgp.text import describe
from vrouter.wire.bgp.update import Context, Nlri, decode_update
from vrouter.wire.ospf import packet as ospf
from vrouter.wire.ospf.lsa import DecodeError, decode_lsa
from vrouter.wire.rip import ripng, ripv2
from vrouter.wire.rip.authentication import Password
from vrouter.wire.rip.packet import RipError

BLOCK: Final = re.compile(r"^ *(\d+)  \d{4}-\d\d-\d\d ", re.MULTILINE)
# tcpdump's words for what it could not read to the end; behind them there is nothing to compare.
UNREAD: Final = ("[|", "invalid", "bogus", "truncated", "not all present")


@pytest.fixture(scope="module")
def suite(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpack the captures and texts."""
    place = tmp_path_factory.mktemp("tcpdump")
    with tarfile.open(test_data / "tcpdump-tests.tar.xz") as archive:
        unpack(archive, place)
    return next(place.rglob("TESTLIST")).parent


def listed(suite: Path, words: str, *, verbose: bool = True) -> dict[Path, dict[int, str]]:
    """Give the captures that TESTLIST has under such names, with their texts by the frame's number."""
    found: dict[Path, dict[int, str]] = {}
    for line in (suite / "TESTLIST").read_text().splitlines():
        fields = line.split()
        if line.startswith("#") or len(fields) < 3 or not re.search(words, f"{fields[0]} {fields[1]}", re.IGNORECASE):
            continue
        if verbose and not any(option.startswith("-v") for option in fields[3:]):
            continue
        if "b" not in "".join(fields[3:]) and (suite / fields[2]).exists():
            found.setdefault(suite / fields[1], blocks((suite / fields[2]).read_text(errors="replace")))
    return found


def blocks(text: str) -> dict[int, str]:
    """Cut tcpdump's output at its numbered frames."""
    cut = BLOCK.split(text)
    return {int(number): body for number, body in zip(cut[1::2], cut[2::2], strict=True)}


def readable(text: str) -> bool:
    """Tell whether tcpdump has read all of it."""
    return not any(word in text for word in UNREAD)


# --- everything ---


def read_bgp(data: bytes) -> None:
    """Read all messages of a segment as a session would, whatever was negotiated."""
    for kind, body in messages(data):
        with contextlib.suppress(MalformedError):
            if kind == bgp.MessageType.OPEN:
                bgp.decode_open(body)
            elif kind == bgp.MessageType.NOTIFICATION:
                bgp.shutdown_text(bgp.decode_notification(body))
            elif kind == bgp.MessageType.ROUTE_REFRESH:
                bgp.decode_refresh(body)
        if kind == bgp.MessageType.UPDATE:
            for context in CONTEXTS:
                with contextlib.suppress(MalformedError):
                    decode_update(body, context)
            withdrawn = int.from_bytes(body[:2], "big")
            describe(body[4 + withdrawn :][: int.from_bytes(body[2 + withdrawn : 4 + withdrawn], "big")])


CONTEXTS: Final = [
    Context(as4=as4, external=external, add_path=frozenset({1, 2} if paths else ()), extended_next_hop=paths)
    for as4 in (True, False) for external in (True, False) for paths in (True, False)
]  # fmt: skip


def messages(data: bytes) -> list[tuple[int, bytes]]:
    """Give kind and body of the whole messages of a segment, up to the first that is none."""
    found, at = [], 0
    with contextlib.suppress(MalformedError):
        while (message := bgp.next_message(data, at, 65535)) is not None:
            kind, length = message
            found.append((kind, data[at + 19 : at + length]))
            at += length
    return found


def read_ospf(data: bytes) -> None:
    """Read an OSPFv2 packet with all its LSAs."""
    with contextlib.suppress(DecodeError):
        body = ospf.decode_body(ospf.decode_packet_header(data), data)
        for lsa in body.lsas if isinstance(body, ospf.Update) else ():
            with contextlib.suppress(DecodeError):
                decode_lsa(lsa)


def read_rip(data: bytes) -> None:
    """Read a packet of RIPv2, with a password and without."""
    for keys in ((), (Password(b"abcdefghijklmnop"),)):
        with contextlib.suppress(RipError):
            ripv2.decode(data, keys)


def read_ripng(data: bytes) -> None:
    """Read a packet of RIPng."""
    with contextlib.suppress(RipError):
        ripng.decode(data)


def reader(packet: IpPacket) -> Callable[[bytes], object] | None:
    """Choose the codec for a packet."""
    ports = {packet.source_port, packet.destination_port}
    if packet.protocol == 6 and 179 in ports:
        return read_bgp
    if packet.protocol == 89 and packet.source.family == IPV4:
        return read_ospf
    if packet.protocol == 17:
        return {520: read_rip, 521: read_ripng, 3784: read_bfd, 4784: read_bfd, 6784: read_bfd}.get(
            packet.destination_port
        )
    return None


def test_no_capture_brings_a_codec_down(suite: Path) -> None:
    """Each packet of each capture is read, and also cut short."""
    read: dict[str, int] = {}
    for capture in sorted(suite.glob("*.pcap*")):
        for packet in packets(capture):
            codec = reader(packet)
            if codec is None:
                continue
            read[codec.__name__] = read.get(codec.__name__, 0) + 1
            codec(packet.payload)
            for size in {len(packet.payload) // 2, len(packet.payload) - 1, 19, 24} & set(range(len(packet.payload))):
                codec(packet.payload[:size])
    assert read["read_bgp"] > 200
    assert read["read_ospf"] > 50
    assert read["read_rip"] >= 10
    assert read["read_bfd"] >= 9


# --- BGP ---

MESSAGE: Final = re.compile(
    r"^\t(?:Open|Update|Notification|Keepalive|Route Refresh) Message \((\d)\), length: (\d+)", re.MULTILINE
)
OPEN: Final = re.compile(r"Version 4, my AS (\d+), Holdtime (\d+)s, ID (\S+)")
CEASE: Final = re.compile(r"^, [\w ]+\((\d+)\), subcode [\w /\-]+\((\d+)\)")
SAID: Final = re.compile(r'Shutdown Communication \(length: \d+\): "([^"]*)"')
PATH: Final = re.compile(r"^\t  AS Path \(2\), length: \d+, Flags \[[^\]]*\]: ([\d ]*)$", re.MULTILINE)
PATH4: Final = re.compile(r"^\t  AS4 Path \(17\), length: \d+, Flags \[[^\]]*\]: ([\d ]*)$", re.MULTILINE)
PREFIX: Final = re.compile(r"^\t    (\d+\.\d+\.\d+\.\d+/\d+)$", re.MULTILINE)


def split_messages(text: str) -> list[tuple[int, str]]:
    """Cut a block at its messages: kind and text."""
    cut = MESSAGE.split(text)
    return [(int(kind), body) for kind, body in zip(cut[1::3], cut[3::3], strict=True)]


def test_bgp_agrees(suite: Path) -> None:
    """Messages with kind and length; OPEN; NOTIFICATION; paths and IPv4 prefixes of UPDATEs."""
    compared = dict.fromkeys(("frames", "opens", "notifications", "paths", "prefixes"), 0)
    for capture, texts in listed(suite, "bgp").items():
        for packet in packets(capture):
            text = texts.get(packet.number)
            if text is None or reader(packet) is not read_bgp or not packet.payload.startswith(bgp.MARKER):
                continue
            mine = messages(packet.payload)
            lengths = [(kind, 19 + len(body)) for kind, body in mine]
            theirs = [(int(kind), int(length)) for kind, length in MESSAGE.findall(text)]
            assert lengths == theirs[: len(lengths)], (capture.name, packet.number)
            if readable(text):
                assert len(lengths) == len(theirs), (capture.name, packet.number)
                compared["frames"] += 1
            for (kind, body), (_kind, told) in zip(mine, split_messages(text), strict=False):
                if readable(told):
                    _compare_bgp(kind, body, told, compared, (capture.name, packet.number))
    assert compared["frames"] > 90, compared
    assert compared["opens"] >= 10, compared
    assert compared["notifications"] >= 8, compared
    assert compared["paths"] > 30, compared
    assert compared["prefixes"] > 70, compared


def _compare_bgp(kind: int, body: bytes, told: str, compared: dict[str, int], where: tuple[str, int]) -> None:
    if kind == bgp.MessageType.OPEN and (match := OPEN.search(told)):
        mine = bgp.decode_open(body)
        assert (str(mine.asn), str(mine.hold_time), str(Address(4, mine.router_id))) == match.groups(), where
        compared["opens"] += 1
    elif kind == bgp.MessageType.NOTIFICATION and (match := CEASE.search(told)):
        notification = bgp.decode_notification(body)
        assert (str(notification.code), str(notification.subcode)) == match.groups(), where
        if (said := SAID.search(told)) is not None:
            assert bgp.shutdown_text(notification) == said.group(1), where
        compared["notifications"] += 1
    elif kind == bgp.MessageType.UPDATE:
        _compare_update(body, told, compared, where)


def _compare_update(body: bytes, told: str, compared: dict[str, int], where: tuple[str, int]) -> None:
    updates = []
    for as4 in (True, False):
        with contextlib.suppress(MalformedError):
            updates.append(decode_update(body, Context(as4=as4, external=True)))
    good = [update for update in updates if update.outcome < bgp_attributes.Outcome.WITHDRAW]
    if not good or "Path Id" in told:
        return
    if (path := PATH.search(told)) is not None:
        paths = [" ".join(str(asn) for segment in each.attributes.as_path for asn in segment.asns) for each in good]
        if "23456" in path.group(1) and (path4 := PATH4.search(told)):  # RFC 6793: the new path behind the old one
            assert paths[-1].endswith(path4.group(1).strip()), where
        else:
            assert path.group(1).strip() in paths, where
        compared["paths"] += 1
    if "Updated routes:" in told:
        theirs = PREFIX.findall(told.partition("Updated routes:")[2])
        routes: list[Nlri] = [route for route, _hops in good[0].announced if route.prefix.family == IPV4]
        assert sorted(theirs) == sorted(str(route.prefix) for route in routes), where
        compared["prefixes"] += len(theirs)


# --- OSPFv2 ---

OSPF: Final = re.compile(r"OSPFv2, ([\w\- ]+?), length (\d+)(?: \[len (\d+)\])?")
ROUTER: Final = re.compile(r"Router-ID (\S+), (?:Backbone Area|Area (\S+?)),")
HELLO: Final = re.compile(r"Hello Timer (\d+)s, Dead Timer (\d+)s, Mask (\S+), Priority (\d+)")
LSA: Final = re.compile(r"Advertising Router (\S+), seq (0x[0-9a-f]+), age (\d+)s, length (\d+)")
KINDS: Final = {
    "Hello": ospf.PacketType.HELLO, "Database Description": ospf.PacketType.DESCRIPTION,
    "LS-Request": ospf.PacketType.REQUEST, "LS-Update": ospf.PacketType.UPDATE, "LS-Ack": ospf.PacketType.ACK,
}  # fmt: skip


def test_ospf_agrees(suite: Path) -> None:
    """Kind, router, area; timers and neighbors of a Hello; the headers of all LSAs."""
    compared = dict.fromkeys(("packets", "hellos", "lsas"), 0)
    for capture, texts in listed(suite, "ospf").items():
        for packet in packets(capture):
            text = texts.get(packet.number, "")
            head, router = OSPF.search(text), ROUTER.search(text)
            if reader(packet) is not read_ospf or head is None or router is None or not readable(text):
                continue
            where = (capture.name, packet.number)
            header = ospf.decode_packet_header(packet.payload)
            assert header.type == KINDS[head.group(1)], where
            told = (router.group(1), router.group(2) or "0.0.0.0")
            assert (str(Address(4, header.router)), str(Address(4, header.area))) == told, where
            body = ospf.decode_body(header, packet.payload)
            compared["packets"] += 1
            compared["hellos"] += _compare_hello(body, text, where)
            compared["lsas"] += _compare_lsas(body, text, where)
    assert compared["packets"] >= 39, compared
    assert compared["hellos"] >= 7, compared
    assert compared["lsas"] >= 91, compared


def _compare_hello(body: Any, text: str, where: tuple[str, int]) -> int:
    match = HELLO.search(text)
    if not isinstance(body, ospf.Hello) or match is None:
        return 0
    mine = (str(body.interval), str(body.dead_interval), str(Address(4, body.mask)), str(body.priority))
    assert mine == match.groups(), where
    listed_ones = re.findall(r"^\t    (\d+\.\d+\.\d+\.\d+)$", text, re.MULTILINE)
    assert [str(Address(4, neighbor)) for neighbor in body.neighbors] == listed_ones, where
    return 1


def _compare_lsas(body: Any, text: str, where: tuple[str, int]) -> int:
    if isinstance(body, ospf.Update):
        headers = [decode_lsa(lsa).header for lsa in body.lsas]
    else:
        headers = list(getattr(body, "headers", ()))
    mine = [
        (
            str(Address(4, header.router)),
            f"0x{header.sequence & 0xFFFFFFFF:08x}",
            str(header.age),
            str(header.length - 20),
        )
        for header in headers
    ]
    assert mine == LSA.findall(text), where
    return len(mine)


# --- RIP ---

RIP: Final = re.compile(r"RIPv2, (Request|Response), length: (\d+)")
ENTRY: Final = re.compile(r"AFI IPv4, +(\S+), tag (0x[0-9a-f]{4}), metric: (\d+), next-hop: (\S+)")


def test_rip_agrees(suite: Path) -> None:
    """Command and routes of RIPv2, simple authentication too."""
    compared = 0
    for capture, texts in listed(suite, r"\brip").items():
        for packet in packets(capture):
            text = texts.get(packet.number, "")
            head = RIP.search(text)
            if reader(packet) is not read_rip or head is None or not readable(text) or "Auth header" in text:
                continue
            keys = (Password(b"abcdefghijklmnop"),) if "Simple Text" in text else ()
            try:
                mine, _sequence = ripv2.decode(packet.payload, keys)
            except RipError:
                pytest.fail(f"{capture.name} {packet.number}: {text}")
            assert mine.command.name.capitalize() == head.group(1)
            told = [
                (prefix, int(tag, 16), int(metric), None if via == "self" else via)
                for prefix, tag, metric, via in ENTRY.findall(text)
            ]
            routes = [(str(e.prefix), e.tag, e.metric, str(e.next_hop) if e.next_hop else None) for e in mine.entries]
            assert routes == told, (capture.name, packet.number)
            compared += 1
    assert compared >= 4


# --- BFD: the forwarder's codec ---

BFD_CODE: Final = """
#include "bfd/internal.h"
int parse(const uint8_t *data, uint32_t length, uint32_t *out)
{
	struct bfd_datagram datagram = {.payload = data, .length = length};
	struct control c;
	enum drop_reason reason = control_parse(&datagram, &c);
	if (reason != DROP_NONE)
		return 0;
	uint32_t all[] = {c.state, c.diagnostic, c.multiplier, c.my_discriminator, c.your_discriminator,
		c.desired_us, c.required_us, c.echo_us, c.authenticated};
	for (unsigned i = 0; i < sizeof(all) / sizeof(*all); i++)
		out[i] = all[i];
	return 1;
}
"""
STATES: Final = ("AdminDown", "Down", "Init", "Up")
BFD: Final = re.compile(
    r"(?:Control|Multihop|Lag), State (\w+), Flags: .*?Diagnostic: .*?\(0x([0-9a-f]+)\)\s+"
    r"Detection Timer Multiplier: (\d+) .*?My Discriminator: 0x([0-9a-f]+), Your Discriminator: 0x([0-9a-f]+)\s+"
    r"Desired min Tx Interval: +(\d+) ms"
    r"\s+Required min Rx Interval: +(\d+) ms\s+Required min Echo Interval: +(\d+) ms",
    re.DOTALL,
)


def read_bfd(data: bytes) -> tuple[int, ...] | None:
    """Read a control packet: state, diagnostic, multiplier, discriminators, intervals, authenticated."""
    module = build(
        "capture_bfd",
        ("bfd/control.c", "base/md5.c", "base/sha1.c"),
        "int parse(const uint8_t *data, uint32_t length, uint32_t *out);",
        BFD_CODE,
    )
    out = module.ffi.new("uint32_t[9]")
    # A copy of its very size: whoever reads behind it is seen by the address sanitizer.
    copy = module.ffi.new("uint8_t[]", data) if data else module.ffi.NULL
    return tuple(out) if module.lib.parse(copy, len(data), out) else None


def test_bfd_agrees(suite: Path) -> None:
    """All fields of control packets."""
    compared = 0
    for capture, texts in listed(suite, "bfd").items():
        for packet in packets(capture):
            match = BFD.search(texts.get(packet.number, ""))
            if reader(packet) is not read_bfd or match is None:
                continue
            mine = read_bfd(packet.payload)
            assert mine is not None, (capture.name, packet.number)
            state, diagnostic, multiplier, my, your, desired, required, echo = match.groups()
            told = (STATES.index(state), int(diagnostic, 16), int(multiplier), int(my, 16), int(your, 16))
            assert mine[:5] == told, (capture.name, packet.number)
            assert tuple(value // 1000 for value in mine[5:8]) == (int(desired), int(required), int(echo))
            compared += 1
    assert compared >= 6


@pytest.mark.parametrize("name", ["bgp-4byte-asn.pcap", "ospf-sr.pcapng"])
def test_the_reader_of_captures(suite: Path, name: str) -> None:
    """Both formats are read to the last frame that tcpdump counts."""
    fields = next(line.split() for line in (suite / "TESTLIST").read_text().splitlines() if name in line.split())
    told = max(int(number) for number in BLOCK.findall((suite / fields[2]).read_text()))
    assert told == sum(1 for _ in frames(suite / name))
