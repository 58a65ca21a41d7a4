"""Every state of RFC 9293 meets every kind of segment: the next state, the answer, the bytes that the app gets.

The table is written from RFC 9293 section 3.10.7, with RFC 5961 (challenge ACKs), RFC 7323 (PAWS), RFC 1122 section
4.2.2.13 (data for nobody) and RFC 6191.  A cell reads ANSWER, then `>STATE` where the state changes, then `=BYTES`
where the app gets any:

    .  no answer    A  ACK    S  SYN-ACK    R  RST
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import pytest

from tests.unit.tcp_pieces import ACK, FIN, MS, PSH, RST, SECOND, SYN, Box, Stream

URG: Final = 32
PEER, PEER6 = "10.0.0.9", "2001:db8::9"
PORT, PEER_PORT = 80, 4000
FIRST: Final = 0xFFFFFF00  # the peer's ISS: its sequence numbers wrap before long
STAMP: Final = 0x7FFFFFF0  # the peer's clock
DATA: Final = bytes(range(65, 75))
WINDOW: Final = 5000
M32: Final = 0xFFFFFFFF
# As enum tcp_state has them.
NAMES: Final = ("CLOSED", "LISTEN", "SENT", "RCVD", "ESTAB", "FIN1", "FIN2", "CWAIT", "CLOSING", "LACK", "TWAIT")

# PASSIVE is SYN-RECEIVED from LISTEN, RCVD the one of crossed SYNs; ORPHAN is FIN-WAIT-2 that no app owns any more.
# Passive SYN-RECEIVED that ends falls back to LISTEN.
COLUMNS: Final = {
    "CL": "CLOSED", "LI": "LISTEN", "SS": "SENT", "SP": "PASSIVE", "SR": "RCVD", "ES": "ESTAB", "F1": "FIN1",
    "F2": "FIN2", "FO": "ORPHAN", "CW": "CWAIT", "CI": "CLOSING", "LA": "LACK", "TW": "TWAIT",
}  # fmt: skip
# Where the RFCs leave a choice, or are gone beyond by all of today's stacks, it is that of Linux:
#  * a SYN with a FIN opens nothing; another SYN that ends a passive SYN-RECEIVED is told so by a RST
#  * in TIME-WAIT what carries text is acknowledged, as the peer's FIN would be
#  * a compact record (ORPHAN, TWAIT) does not know which ACK numbers are sane
TABLE: Final = """
segment      CL LI   SS   SP      SR      ES      F1      F2      FO   CW   CI   LA   TW
syn          R  S>SR S>SR R>LI    A       A       A       A       A    A    A    A    A
syn-old      R  S>SR S>SR A       A       A       A       A       A    A    A    A    A
syn-again    R  S>SR S>SR S       A       A       A       A       A    A    A    A    A
syn-data     R  S>SR S>SR R>LI    A       A       A       A       A    A    A    A    A
syn-fin      R  .    S>SR R>LI    A       A       A       A       A    A    A    A    A
syn-ack      R  R    A>ES R>LI    A       A       A       A       A    A    A    A    A
syn-ack-bad  R  R    R    R       A       A       A       A       A    A    A    A    A
ack          R  R    .    .>ES    .>ES    .       .>F2    .       .    .    .>TW .>CL .
ack-zero-wnd R  R    .    .>ES    .>ES    .       .>F2    .       .    .    .>TW .>CL .
ack-old      R  R    R    R       R       .       .       .       .    .    .    .    .
ack-ancient  R  R    R    R       R       A       A       A       .    A    A    A    .
ack-unsent   R  R    R    R       R       A       A       A       .    A    A    A    .
keepalive    R  R    .    A       A       A       A       A       A    A    A    A    A
data         R  R    .    A>ES=10 A>ES=10 A=10    A>F2=10 A=10    R>CL .    .>TW .>CL A
data-urgent  R  R    .    A>ES=10 A>ES=10 A=10    A>F2=10 A=10    R>CL .    .>TW .>CL A
data-unsent  R  R    R    R       R       A       A       A       R>CL A    A    A    A
data-ancient R  R    R    R       R       A       A       A       R>CL A    A    A    A
data-old     R  R    .    A       A       A       A       A       A    A    A    A    A
data-overlap R  R    .    A>ES=5  A>ES=5  A=5     A>F2=5  A=5     R>CL A    .>TW .>CL A
data-gap     R  R    .    A>ES    A>ES    A       A>F2    A       R>CL .    .>TW .>CL A
data-beyond  R  R    .    A       A       A       A       A       A    A    A    A    A
data-no-ack  R  .    .    .       .       .       .       .       .    .    .    .    .
null         R  .    .    .       .       .       .       .       .    .    .    .    .
fin          R  R    .    A>CW    A>CW    A>CW    A>TW    A>TW    A>TW .    .>TW .>CL A
fin-alone    R  .    .    .       .       .       .       .       .    .    .    .    .
fin-data     R  R    .    A>CW=10 A>CW=10 A>CW=10 A>TW=10 A>TW=10 R>CL .    .>TW .>CL A
fin-first    R  R    R    R       R       A>CW    A>CI    A>TW    A>TW .    .    .    A
fin-again    R  R    .    A       A       A       A       A       A    A    A    A    A
fin-early    R  R    .    A>ES    A>ES    A       A>F2    A       R>CL .    .>TW .>CL A
fin-beyond   R  R    .    A       A       A       A       A       A    A    A    A    A
rst          .  .    .    .>LI    .>CL    .>CL    .>CL    .>CL    .>CL .>CL .>CL .>CL .>CL
rst-window   .  .    .    A       A       A       A       A       A    A    A    A    A
rst-old      .  .    .    .       .       .       .       .       .    .    .    .    .
rst-beyond   .  .    .    .       .       .       .       .       .    .    .    .    .
rst-refused  .  .    .>CL .       .       .       .       .       .    .    .    .    .
rst-bad-ack  .  .    .    .       .       .       .       .       .    .    .    .    .
bad-option   R  R    .    A>ES=10 A>ES=10 A=10    A>F2=10 A=10    R>CL .    .>TW .>CL A
bad-header   .  .    .    .       .       .       .       .       .    .    .    .    .
bad-checksum .  .    .    .       .       .       .       .       .    .    .    .    .
paws         R  R    .    A       A       A       A       A       A    A    A    A    A
paws-rst     .  .    .    .>LI    .>CL    .>CL    .>CL    .>CL    .>CL .>CL .>CL .>CL .>CL
"""


@dataclass(frozen=True)
class Cell:
    answer: str
    state: str  # empty: the same as before
    bytes: int


def parse(table: str) -> dict[tuple[str, str], Cell]:
    lines = [line.split() for line in table.strip().splitlines()]
    assert lines[0][1:] == list(COLUMNS)
    assert all(len(line) == len(lines[0]) for line in lines)
    cells = {}
    for line in lines[1:]:
        for column, text in zip(COLUMNS.values(), line[1:], strict=True):
            action, _, count = text.partition("=")
            answer, _, after = action.partition(">")
            cells[column, line[0]] = Cell(answer, COLUMNS[after] if after else "", int(count or 0))
    return cells


CELLS: Final = parse(TABLE)
KINDS: Final = tuple(dict.fromkeys(kind for _, kind in CELLS))


def checksum(data: bytes) -> int:
    even = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(even) // 2}H", even))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


@dataclass
class Segment:
    """What the peer says, or what it is told."""

    seq: int
    ack: int = 0
    flags: int = ACK
    data: bytes = b""
    window: int = WINDOW
    tsval: int | None = None
    options: bytes = b""
    urgent: int = 0
    spoil: str = ""


@dataclass
class Heard:
    seq: int
    ack: int
    flags: int
    window: int
    tsval: int


class Peer:
    """The other end of one connection of a stack: segments go in and out by hand."""

    def __init__(self, *, six: bool, stamped: bool) -> None:
        self.box = Box(0, 1000 * SECOND)
        self.six, self.stamped = six, stamped
        self.family = socket.AF_INET6 if six else socket.AF_INET
        self.ours = socket.inet_pton(self.family, PEER6 if six else PEER)
        self.theirs = socket.inet_pton(self.family, self.box.address6 if six else self.box.address)
        self.their_port = PORT
        self.stamp = STAMP
        self.rcv_nxt, self.snd_una, self.snd_nxt, self.edge = FIRST, 0, 0, 0
        self.listener: Stream | None = None
        self.stream: Stream | None = None

    # --- the wire ---

    def send(self, segment: Segment) -> None:
        options = segment.options
        if self.stamped and not options:
            tsval = self.stamp if segment.tsval is None else segment.tsval
            options = struct.pack("!BBBBII", 1, 1, 8, 10, tsval & M32, self.last_stamp if segment.flags & ACK else 0)
        if segment.flags & SYN:
            options = struct.pack("!BBH", 2, 4, 1460) + options
        words = 4 if segment.spoil == "header" else 5 + len(options) // 4
        tcp = struct.pack(
            "!HHIIBBHHH", PEER_PORT, self.their_port, segment.seq & M32, segment.ack & M32, words << 4, segment.flags,
            segment.window, 0, segment.urgent,
        ) + options + segment.data  # fmt: skip
        pseudo = self.ours + self.theirs + struct.pack("!II", len(tcp), socket.IPPROTO_TCP)
        found = checksum(pseudo + tcp) ^ (segment.spoil == "checksum")
        tcp = tcp[:16] + struct.pack("!H", found) + tcp[18:]
        if self.six:
            packet = struct.pack("!IHBB", 6 << 28, len(tcp), socket.IPPROTO_TCP, 64) + self.ours + self.theirs + tcp
        else:
            header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0x4000, 64, socket.IPPROTO_TCP, 0)
            header += self.ours + self.theirs
            packet = header[:10] + struct.pack("!H", checksum(header)) + header[12:] + tcp
        self.box.put(packet, bytes(10))

    def hear(self, wait: int = 50 * MS) -> list[Heard]:
        """Give the segments that come within `wait`, long enough for a delayed ACK and too short for a timer."""
        self.box.run(self.box.now)
        self.box.run(self.box.now + wait)
        found = []
        for packet, _ in self.box.take():
            tcp = packet[40:] if self.six else packet[20:]
            _, _, seq, ack, offset, flags, window = struct.unpack_from("!HHIIBBH", tcp)
            options, tsval = tcp[20 : (offset >> 4) * 4], 0
            while options and options[0]:
                if options[0] == 8:
                    tsval = struct.unpack_from("!I", options, 2)[0]
                options = options[1:] if options[0] == 1 else options[options[1] :]
            found.append(Heard(seq, ack, flags, window, tsval))
        for heard in found:
            if not heard.flags & RST:
                self.last_stamp = heard.tsval
                self.edge = (heard.ack + heard.window) & M32
        return found

    last_stamp = 0

    # --- the way into each state ---

    def enter(self, state: str) -> None:
        getattr(self, f"enter_{state.lower()}")()
        self.stamp += 10

    def enter_closed(self) -> None:
        self.snd_una = self.snd_nxt = 777
        self.edge = (self.rcv_nxt + WINDOW) & M32

    def enter_listen(self) -> None:
        self.listener = self.box.socket(self.family)
        self.listener.bind("::" if self.six else "0.0.0.0", PORT)
        self.listener.listen()
        self.enter_closed()

    def enter_sent(self) -> None:
        self.stream = self.box.socket(self.family)
        self.stream.connect(PEER6 if self.six else PEER, PEER_PORT)
        (syn,) = self.hear()
        assert syn.flags == SYN
        self.their_port = self.stream.port
        self.snd_una, self.snd_nxt = syn.seq, (syn.seq + 1) & M32
        self.edge = (self.rcv_nxt + 1 + syn.window) & M32

    def enter_passive(self) -> None:
        self.enter_listen()
        self.send(Segment(FIRST, flags=SYN))
        (answer,) = self.hear()
        assert answer.flags == SYN | ACK
        self.rcv_nxt = (FIRST + 1) & M32
        self.snd_una, self.snd_nxt = answer.seq, (answer.seq + 1) & M32

    def enter_rcvd(self) -> None:
        self.enter_sent()
        self.send(Segment(FIRST, flags=SYN))
        (answer,) = self.hear()
        assert answer.flags == SYN | ACK
        self.rcv_nxt = (FIRST + 1) & M32

    def enter_estab(self) -> None:
        self.enter_sent()
        self.send(Segment(FIRST, self.snd_nxt, SYN | ACK))
        assert [heard.flags for heard in self.hear()] == [ACK]
        self.rcv_nxt = (FIRST + 1) & M32
        self.snd_una = self.snd_nxt

    def shut(self) -> None:
        assert self.stream is not None
        self.stream.shutdown(socket.SHUT_WR)
        (fin,) = self.hear()
        assert fin.flags & FIN
        assert fin.seq == self.snd_nxt
        self.snd_nxt = (self.snd_nxt + 1) & M32

    def end(self, ack: int) -> None:
        self.send(Segment(self.rcv_nxt, ack, FIN | ACK))
        self.rcv_nxt = (self.rcv_nxt + 1) & M32
        assert [(heard.flags, heard.ack) for heard in self.hear()] == [(ACK, self.rcv_nxt)]

    def enter_fin1(self) -> None:
        self.enter_estab()
        self.shut()

    def enter_fin2(self) -> None:
        self.enter_fin1()
        self.send(Segment(self.rcv_nxt, self.snd_nxt))
        assert not self.hear()
        self.snd_una = self.snd_nxt

    def enter_orphan(self) -> None:
        self.enter_fin2()
        assert self.stream is not None
        self.stream.close()
        assert not self.hear()

    def enter_cwait(self) -> None:
        self.enter_estab()
        self.end(self.snd_nxt)

    def enter_closing(self) -> None:
        self.enter_fin1()
        self.end(self.snd_una)

    def enter_lack(self) -> None:
        self.enter_cwait()
        self.shut()

    def enter_twait(self) -> None:
        self.enter_fin2()
        self.end(self.snd_nxt)

    # --- what became of it ---

    @property
    def state(self) -> str:
        if self.stream is not None and self.stream.state > 0:
            return NAMES[self.stream.state]
        record = self.box.number("record_state")
        if record >= 0:
            return NAMES[record]
        return "LISTEN" if self.listener is not None else "CLOSED"

    def accept(self) -> None:
        if self.listener is not None:
            with contextlib.suppress(BlockingIOError):
                self.stream = self.listener.accept()

    def read(self) -> bytes:
        if self.stream is None:
            return b""
        try:
            return self.stream.read()
        except OSError:
            return b""


Row = Callable[[Peer, str], Segment]


def segments() -> dict[str, Row]:
    """Give the rows: from what the peer knows, and the state, to what it sends."""

    def new(p: Peer, state: str) -> int:  # a SYN of the same peer, somewhere in the window
        return FIRST if state == "SENT" else p.rcv_nxt + 30

    def next_to_come(p: Peer, state: str) -> int:
        return p.rcv_nxt + (state == "SENT")

    def repeated_fin(p: Peer, state: str) -> Segment:
        had = state in {"CWAIT", "CLOSING", "LACK", "TWAIT"}
        ack = p.snd_nxt if state in {"SENT", "PASSIVE", "RCVD"} else p.snd_una
        return Segment(p.rcv_nxt - (1 if had else 2), ack, FIN | ACK)

    def at(offset: int, flags: int = ACK, data: bytes = b"", ack: int = 0, **more: Any) -> Row:
        return lambda p, s: Segment(next_to_come(p, s) + offset, p.snd_nxt + ack, flags, data, **more)

    def beyond(offset: int, flags: int, data: bytes = b"", ack: int = 0) -> Row:
        return lambda p, _: Segment(p.edge + offset, p.snd_nxt + ack, flags, data)

    def below(ack: int, flags: int = ACK, data: bytes = b"") -> Row:
        return lambda p, s: Segment(next_to_come(p, s), p.snd_una - ack, flags, data)

    text = ACK | PSH
    return {
        "syn": lambda p, s: Segment(new(p, s), flags=SYN),
        "syn-old": lambda p, _: Segment(p.rcv_nxt - 1000, flags=SYN),
        "syn-again": lambda *_: Segment(FIRST, flags=SYN),
        "syn-data": lambda p, s: Segment(new(p, s), flags=SYN, data=DATA),
        "syn-fin": lambda p, s: Segment(new(p, s), flags=SYN | FIN),
        "syn-ack": lambda p, s: Segment(new(p, s), p.snd_nxt, SYN | ACK),
        "syn-ack-bad": lambda p, s: Segment(new(p, s), p.snd_nxt + 1000, SYN | ACK),
        "ack": at(0),
        "ack-zero-wnd": at(0, window=0),
        "ack-old": below(10),
        "ack-ancient": below(70000),
        "ack-unsent": at(0, ack=1000),
        "keepalive": at(-1),
        "data": at(0, text, DATA),
        "data-urgent": at(0, text | URG, DATA, urgent=5),
        "data-unsent": at(0, text, DATA, ack=1000),
        "data-ancient": below(70000, text, DATA),
        "data-old": at(-20, text, DATA),
        "data-overlap": at(-5, text, DATA),
        "data-gap": at(100, text, DATA),
        "data-beyond": beyond(100, text, DATA),
        "data-no-ack": at(0, PSH, DATA),
        "null": at(0, 0),
        "fin": at(0, FIN | ACK),
        "fin-alone": at(0, FIN),
        "fin-data": at(0, FIN | text, DATA),
        "fin-first": below(0, FIN | ACK),
        "fin-again": repeated_fin,
        "fin-early": at(10, FIN | ACK),
        "fin-beyond": beyond(50, FIN | ACK),
        "rst": at(0, RST),
        "rst-window": at(10, RST),
        "rst-old": at(-100, RST),
        "rst-beyond": beyond(100, RST),
        "rst-refused": beyond(100, RST | ACK),
        "rst-bad-ack": beyond(100, RST | ACK, ack=1000),
        "bad-option": at(0, text, DATA, options=bytes([8, 0, 0, 0])),
        "bad-header": at(0, text, DATA, spoil="header"),
        "bad-checksum": at(0, text, DATA, spoil="checksum"),
        "paws": at(0, text, DATA, tsval=STAMP - 100),
        "paws-rst": at(0, RST, tsval=STAMP - 100),
    }


SEGMENTS: Final = segments()


def check_answer(sent: Segment, answer: str, heard: list[Heard]) -> None:
    """At most one segment comes back, and it says what RFC 9293 section 3.10.7 wants it to say."""
    flags = {".": [], "A": [ACK], "S": [SYN | ACK], "R": [RST if sent.flags & ACK else RST | ACK]}[answer]
    assert [one.flags for one in heard] == flags
    if answer == "R" and sent.flags & ACK:
        assert heard[0].seq == sent.ack & M32
    elif answer == "R":
        span = len(sent.data) + bool(sent.flags & SYN) + bool(sent.flags & FIN)
        assert (heard[0].seq, heard[0].ack) == (0, (sent.seq + span) & M32)


# Without timestamps nothing tells the age of a segment.
WAYS: Final = [(kind, stamped) for kind in KINDS for stamped in (False, True) if stamped or not kind.startswith("paws")]


@pytest.mark.parametrize("six", [False, True], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("state", COLUMNS.values())
@pytest.mark.parametrize(("kind", "stamped"), WAYS)
def test_a_segment_in_a_state(kind: str, state: str, six: bool, stamped: bool) -> None:
    peer = Peer(six=six, stamped=stamped)
    peer.enter(state)
    before = peer.state
    assert before == {"PASSIVE": "RCVD", "ORPHAN": "FIN2"}.get(state, state)
    cell = CELLS[state, kind]

    segment = SEGMENTS[kind](peer, state)
    peer.send(segment)
    heard = peer.hear()
    peer.accept()
    read = peer.read()

    check_answer(segment, cell.answer, heard)
    assert peer.state == (cell.state or before)
    assert read == (DATA[-cell.bytes :] if cell.bytes else b"")
    if cell.answer == "A":
        fin = cell.state in {"CWAIT", "CLOSING", "TWAIT"}
        first = segment.seq + 1 if state == "SENT" else peer.rcv_nxt
        assert (heard[0].seq, heard[0].ack) == (peer.snd_nxt, (first + len(read) + fin) & M32)


# --- what a single segment does not show ---


@pytest.mark.parametrize("six", [False, True], ids=["ipv4", "ipv6"])
def test_an_end_in_syn_received_waits_for_the_handshake(six: bool) -> None:
    """RFC 9293 section 3.10.4: the FIN is queued until the connection is established."""
    peer = Peer(six=six, stamped=True)
    peer.enter("RCVD")
    assert peer.stream is not None
    peer.stream.shutdown(socket.SHUT_WR)
    assert not peer.hear()
    assert peer.state == "RCVD"
    peer.send(Segment(peer.rcv_nxt, peer.snd_nxt))
    (fin,) = peer.hear()
    assert (fin.flags, fin.seq) == (FIN | ACK, peer.snd_nxt)
    assert peer.state == "FIN1"
    peer.send(Segment(peer.rcv_nxt, peer.snd_nxt + 1))
    assert not peer.hear()
    assert peer.state == "FIN2"


def test_a_closed_socket_in_syn_received_ends_its_connection() -> None:
    peer = Peer(six=False, stamped=False)
    peer.enter("RCVD")
    assert peer.stream is not None
    peer.stream.close()
    peer.send(Segment(peer.rcv_nxt, peer.snd_nxt, ACK | PSH, DATA))
    assert [heard.flags for heard in peer.hear()] == [RST], "nobody reads it (RFC 1122 section 4.2.2.13)"
    assert peer.state == "CLOSED"
    assert peer.box.number("flights") == 0


@pytest.mark.parametrize("six", [False, True], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize(("code", "wrong", "ends"), [("hard", 0, True), ("hard", 1, False), ("soft", 0, False)])
def test_an_error_ends_a_half_open_connection(code: str, wrong: int, ends: bool, six: bool) -> None:
    """RFC 1122 section 4.2.3.9, but only where it quotes what we sent (RFC 5927 section 4)."""
    peer = Peer(six=six, stamped=False)
    peer.enter("PASSIVE")
    quoted = struct.pack("!HHI", PORT, PEER_PORT, (peer.snd_una + wrong) & M32)
    if six:
        inner = struct.pack("!IHBB", 6 << 28, 20, socket.IPPROTO_TCP, 64) + peer.theirs + peer.ours + quoted
        message = struct.pack("!BBHI", 1, 4 if code == "hard" else 0, 0, 0) + inner
        pseudo = peer.ours + peer.theirs + struct.pack("!II", len(message), socket.IPPROTO_ICMPV6)
        packet = struct.pack("!IHBB", 6 << 28, len(message), socket.IPPROTO_ICMPV6, 64) + peer.ours + peer.theirs
    else:
        inner = (
            struct.pack("!BBHHHBBH", 0x45, 0, 40, 0, 0, 64, socket.IPPROTO_TCP, 0) + peer.theirs + peer.ours + quoted
        )
        message = struct.pack("!BBHI", 3, 3 if code == "hard" else 1, 0, 0) + inner
        pseudo = b""
        packet = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(message), 0, 0, 64, socket.IPPROTO_ICMP, 0)
        packet += peer.ours + peer.theirs
    message = message[:2] + struct.pack("!H", checksum(pseudo + message)) + message[4:]
    peer.box.put(packet + message, bytes(10))
    assert not peer.hear()
    assert peer.state == ("LISTEN" if ends else "RCVD")


@pytest.mark.parametrize("newer", [False, True])
def test_a_newer_stamp_reopens_a_connection_in_time_wait(newer: bool) -> None:
    """RFC 6191 section 2: by its timestamp, even where the sequence number is lower."""
    peer = Peer(six=False, stamped=True)
    peer.enter("PASSIVE")
    peer.send(Segment(peer.rcv_nxt, peer.snd_nxt))
    peer.hear()
    peer.accept()
    peer.shut()
    peer.end(peer.snd_nxt)
    assert peer.state == "TWAIT"
    last = peer.stamp
    peer.send(Segment(peer.rcv_nxt - 500, flags=SYN, tsval=last + newer))
    (answer,) = peer.hear()
    assert answer.flags == (SYN | ACK if newer else ACK)
    assert peer.state == ("RCVD" if newer else "TWAIT")
    if newer:
        assert 0 < (answer.seq - peer.snd_nxt) & M32 < 1 << 31, "beyond all that the old connection sent"


@pytest.mark.parametrize("state", ["PASSIVE", "ESTAB", "FIN2", "ORPHAN", "CWAIT", "TWAIT"])
@pytest.mark.parametrize("kind", ["syn-old", "rst-window", "keepalive"])
def test_strays_are_not_answered_one_by_one(state: str, kind: str) -> None:
    """RFC 5961 section 7."""
    peer = Peer(six=False, stamped=False)
    peer.enter(state)
    answers = 0
    for _ in range(8):
        peer.send(SEGMENTS[kind](peer, state))
        answers += len(peer.hear())
    assert answers == 1
    peer.box.run(peer.box.now + 150 * MS)  # half a second since the answer
    peer.send(SEGMENTS[kind](peer, state))
    assert [heard.flags for heard in peer.hear()] == [ACK]


TCP_MD5SIG: Final = 14
KEY: Final = b"between routers"


def signed(peer: Peer, seq: int, ack: int, flags: int) -> bytes:
    """Give the option of RFC 2385 for a bare segment of the peer over IPv4."""
    header = struct.pack("!HHIIBBHHH", PEER_PORT, peer.their_port, seq & M32, ack & M32, 10 << 4, flags, WINDOW, 0, 0)
    pseudo = peer.ours + peer.theirs + struct.pack("!HH", socket.IPPROTO_TCP, 40)
    return bytes([1, 1, 19, 18]) + hashlib.md5(pseudo + header + KEY, usedforsecurity=False).digest()


def test_a_signed_peer_that_missed_our_restart_is_reset() -> None:
    """RFC 9293 section 3.5.1, figure 9: with keys (RFC 2385) the RST must be signed, or it never ends."""
    peer = Peer(six=False, stamped=False)
    peer.stream = stream = peer.box.socket()
    address = (struct.pack("=HH", socket.AF_INET, 0) + peer.ours).ljust(128, b"\0")
    stream.set(socket.IPPROTO_TCP, TCP_MD5SIG, address + struct.pack("=BBHI", 0, 0, len(KEY), 0) + KEY.ljust(80, b"\0"))
    stream.connect(PEER, PEER_PORT)
    assert [heard.flags for heard in peer.hear()] == [SYN]
    peer.their_port = stream.port
    peer.send(Segment(5000, 6000, ACK))
    assert not peer.hear(), "anybody could have said that"
    peer.send(Segment(5000, 6000, ACK, options=signed(peer, 5000, 6000, ACK)))
    (reset,) = peer.hear()
    assert (reset.flags, reset.seq) == (RST, 6000)
    assert peer.state == "SENT"


def test_no_more_is_taken_than_a_header_can_offer() -> None:
    """Without a scale (RFC 7323 section 2.2) a window ends at 65535 bytes, however large the buffer is."""
    peer = Peer(six=False, stamped=False)
    peer.enter("ESTAB")
    assert peer.stream is not None
    peer.stream.set(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    peer.stream.set(socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP, 400_000)
    for _ in range(200):
        peer.send(Segment(peer.rcv_nxt, peer.snd_nxt, data=bytes(1400)))
        peer.rcv_nxt = (peer.rcv_nxt + 1400) & M32
        peer.hear()
        peer.stream.read()
    window = (peer.edge - peer.rcv_nxt) & M32
    assert window == 65535
    peer.send(Segment(peer.rcv_nxt + 70_000, peer.snd_nxt, data=DATA))
    peer.hear()
    for at in range(0, 70_000, 1000):
        peer.send(Segment(peer.rcv_nxt + at, peer.snd_nxt, data=bytes(1000)))
        heard = peer.hear()
        peer.stream.read()
    assert heard[-1].ack == (peer.rcv_nxt + 70_000) & M32, "what lay beyond the window was not kept"
