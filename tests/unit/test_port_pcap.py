"""The pcap driver: both formats in, what comes out, times, crashes, and files that lie.  No root, no namespace."""

from __future__ import annotations

import os
import struct
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import pytest

from fastpath._layout import CONSTANTS, FIELDS, SIZES
from fastpath.binding import check, ffi, lib
from tests.unit import packets
from tests.unit.captures import frames as read_frames
from tests.unit.harness import HOST_A, HOST_B, ROUTER_A, ROUTER_B, Router, two_sided

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

A: Final = 1
B: Final = 2
BASE: Final = 1_700_000_000
CLASSIC: Final = {
    (order, nano): struct.pack(f"{order}IHHIIII", 0xA1B23C4D if nano else 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1)
    for order in "<>"
    for nano in (False, True)
}


def classic(frames: Sequence[bytes], order: str = "<", *, nano: bool = False, step: float = 0.0) -> bytes:
    """Make a pcap file; each frame comes `step` seconds after the one before."""
    units = 10**9 if nano else 10**6
    records = []
    for number, frame in enumerate(frames):
        seconds, fraction = divmod(round((BASE + number * step) * units), units)
        records.append(struct.pack(f"{order}IIII", seconds, fraction, len(frame), len(frame)) + frame)
    return CLASSIC[order, nano] + b"".join(records)


def block(kind: int, body: bytes, order: str) -> bytes:
    """Make a block of pcapng."""
    body += bytes(-len(body) % 4)
    return struct.pack(f"{order}II", kind, len(body) + 12) + body + struct.pack(f"{order}I", len(body) + 12)


def section(order: str = "<", magic: int = 0x1A2B3C4D) -> bytes:
    """Begin a pcapng file."""
    return block(0x0A0D0D0A, struct.pack(f"{order}IHHq", magic, 1, 0, -1), order)


def sections(frames: Sequence[bytes], order: str = "<") -> bytes:
    """Make a pcapng file: a foreign link type first, times in 2^-10 s, a block that nobody knows."""
    head = section(order)
    raw = block(1, struct.pack(f"{order}HHI", 101, 0, 0), order)
    resolution = struct.pack(f"{order}HHB3xHH", 9, 1, 0x80 | 10, 0, 0)
    ethernet = block(1, struct.pack(f"{order}HHI", 1, 0, 0) + resolution, order)
    unknown = block(0x40000BAD, os.urandom(600_000), order)
    enhanced = [
        block(6, struct.pack(f"{order}IIIII", 1, 0, 0, len(frame), len(frame)) + frame, order) for frame in frames
    ]
    return head + raw + ethernet + unknown + b"".join(enhanced)


class Replay:
    """A router whose interface a is files."""

    def __init__(self, directory: Path, content: bytes | None, *modes: str, out: bool = True) -> None:
        """Write the input; frames for b find host B."""
        self.input, self.output = directory / "in", directory / "out"
        if content is not None:
            self.input.write_bytes(content)
        self.output.write_bytes(b"")
        self.router = Router(two_sided())
        self.router.settle()
        self.router.meet("b", "10.0.1.2", HOST_B)
        check(lib.core_port_remove(self.router.core, A))
        self.generation = 77
        self._mode = sum(CONSTANTS[mode] for mode in modes)
        self._mode += CONSTANTS["PORT_INPUT"] * (content is not None) + CONSTANTS["PORT_OUTPUT"] * out
        self._out = out
        self.attach()

    def attach(self, *, up: bool = True) -> None:
        """Give the core its files."""
        spec = ffi.new("struct port_spec *")
        spec.port, spec.driver, spec.mtu, spec.link_up = A, CONSTANTS["DRIVER_PCAP"], 1500, up
        spec.generation, spec.mode = self.generation, self._mode
        fds = []
        if self._mode & CONSTANTS["PORT_INPUT"]:
            fds.append(os.open(self.input, os.O_RDONLY))
        if self._out:
            fds.append(os.open(self.output, os.O_RDWR))
        check(lib.core_port_add(self.router.core, spec, fds, len(fds)))

    @property
    def ended(self) -> int:
        """What the driver says of its input."""
        return self.router.state.view("ports", A).integer("ended")

    def came(self) -> list[bytes]:
        """Let the router run; give the payloads that left by b."""
        self.router.poll()
        return [frame[42:] for frame in self.router.receive(B) if frame[12:14] == b"\x08\x00"]

    def close(self) -> None:
        """Give everything back."""
        self.router.ports[A].close()
        del self.router.ports[A]
        self.router.close()


def datagram(number: int, size: int = 8) -> bytes:
    """A datagram from host A to host B, with its number."""
    payload = struct.pack(">I", number).ljust(size, b"\xa5")
    return packets.ethernet(ROUTER_A, HOST_A, packets.IP4, packets.datagram4("10.0.0.2", "10.0.1.2", payload))


@pytest.fixture
def replays() -> Iterator[list[Replay]]:
    made: list[Replay] = []
    yield made
    for replay in made:
        replay.close()


def numbers(payloads: Sequence[bytes]) -> list[int]:
    return [struct.unpack_from(">I", payload)[0] for payload in payloads]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", ["micro", "nano", "sections"])
def test_every_format_in_every_byte_order(tmp_path: Path, replays: list[Replay], order: str, kind: str) -> None:
    frames = [datagram(number, 8 + number % 1400) for number in range(300)]
    content = sections(frames, order) if kind == "sections" else classic(frames, order, nano=kind == "nano")
    replay = Replay(tmp_path, content)
    replays.append(replay)
    assert numbers(replay.came()) == list(range(300))
    assert replay.ended == 1
    assert replay.router.state.view("ports", A).integer("progress") == 300


def test_what_is_sent_is_a_capture(tmp_path: Path, replays: list[Replay]) -> None:
    replay = Replay(tmp_path, None)
    replays.append(replay)
    router = replay.router
    # Nobody is known at 10.0.0.2: the router asks.
    answer = packets.datagram4("10.0.1.2", "10.0.0.2", b"hello")
    router.send(B, packets.ethernet(ROUTER_B, HOST_B, packets.IP4, answer))
    found = list(read_frames(replay.output))
    assert found
    assert {link for link, _frame in found} == {1}
    assert any(frame[12:14] == b"\x08\x06" and frame[38:42] == bytes([10, 0, 0, 2]) for _link, frame in found)


def test_a_link_that_is_down_holds_the_file_back(tmp_path: Path, replays: list[Replay]) -> None:
    replay = Replay(tmp_path, classic([datagram(number) for number in range(5)]))
    replays.append(replay)
    check(lib.core_port_remove(replay.router.core, A))
    replay.generation += 1
    replay.attach(up=False)
    assert replay.came() == []
    assert replay.ended == 0
    check(lib.core_port_link(replay.router.core, A, 1, 1500))
    assert numbers(replay.came()) == list(range(5))


def test_in_real_time_frames_keep_their_distances(tmp_path: Path, replays: list[Replay]) -> None:
    replay = Replay(tmp_path, classic([datagram(number) for number in range(5)], step=0.04), "PORT_REAL_TIME")
    replays.append(replay)
    times: list[float] = []
    deadline = time.monotonic() + 20
    while len(times) < 5 and time.monotonic() < deadline:
        times += [time.monotonic()] * len(replay.came())
        time.sleep(0.001)
    assert len(times) == 5
    assert times[-1] - times[0] > 0.15
    assert all(later >= earlier for earlier, later in pairwise(times))


def test_a_successor_goes_on_behind_what_has_met_its_fate(tmp_path: Path, replays: list[Replay]) -> None:
    replay = Replay(tmp_path, classic([datagram(number) for number in range(1000)]))
    replays.append(replay)
    router = replay.router
    lib.core_poll(router.core, router.now)
    first = [frame[42:] for frame in router.receive(B)]
    assert 0 < len(first) < 1000
    assert replay.router.state.view("ports", A).integer("progress") == len(first)
    check(lib.core_port_remove(router.core, A))
    replay.attach()
    assert numbers([*first, *replay.came()]) == list(range(1000))
    check(lib.core_port_remove(router.core, A))
    replay.generation += 1  # another coupling begins anew
    replay.attach()
    assert numbers(replay.came()) == list(range(1000))


def test_a_successor_steps_over_a_long_file_in_turns(tmp_path: Path, replays: list[Replay]) -> None:
    """All at once it would be taken for hung, killed and begun anew for ever."""
    replay = Replay(tmp_path, classic([datagram(number) for number in range(5000)]))
    replays.append(replay)
    router = replay.router
    assert numbers(replay.came()) == list(range(5000))
    check(lib.core_port_remove(router.core, A))
    with replay.input.open("ab") as file:
        file.write(classic([datagram(5000)])[24:])
    offset, code, _count, _nested = FIELDS["port_state"]["ended"]
    place = FIELDS["state_segment"]["ports"][0] + A * SIZES["port_state"] + offset
    os.pwrite(router.state_fd, bytes(struct.calcsize(code)), place)
    replay.attach()
    found = [came for _turn in range(10) for came in replay.came()]
    assert numbers(found) == [5000]
    assert router.state.view("ports", A).integer("progress") == 5001


def test_a_torn_record_is_written_over(tmp_path: Path, replays: list[Replay]) -> None:
    replay = Replay(tmp_path, None)
    replays.append(replay)
    router = replay.router

    def stir(last: int) -> None:
        answer = packets.datagram4("10.0.1.2", f"10.0.0.{last}", b"hello")
        router.send(B, packets.ethernet(ROUTER_B, HOST_B, packets.IP4, answer))

    stir(2)
    whole = replay.output.stat().st_size
    with replay.output.open("ab") as output:
        output.write(b"torn")  # as a killed forwarder leaves it
    check(lib.core_port_remove(router.core, A))
    replay.attach()
    stir(3)
    asked = [frame[41] for _link, frame in read_frames(replay.output) if frame[12:14] == b"\x08\x06"]
    assert asked[0] == 2
    assert 3 in asked
    assert replay.output.stat().st_size > whole + 4


BROKEN: Final = {
    "empty": (b"", 2),
    "no capture": (b"hello" * 100, 2),
    "long frame": (classic([]) + struct.pack("<IIII", BASE, 0, 0x7FFFFFFF, 0x7FFFFFFF) + bytes(64), 2),
    "cut record": (classic([datagram(1)])[:-3], 1),
    "cut header": (classic([])[:20], 2),
    "odd block": (section() + struct.pack("<II", 6, 13), 2),
    "short block": (section() + struct.pack("<III", 6, 8, 0), 2),
    "no order": (section(magic=0x1A2B3C4E), 2),
    "no interface": (
        section()
        + block(6, struct.pack("<IIIII", 0, 0, 0, 4, 4) + b"abcd", "<"),
        2,
    ),
    "endless block": (
        section() + struct.pack("<III", 0xBAD, 0xFFFFFFFC, 0), 1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_lies_ends(tmp_path: Path, replays: list[Replay], name: str) -> None:
    content, ended = BROKEN[name]
    replay = Replay(tmp_path, content)
    replays.append(replay)
    assert replay.came() == []
    assert replay.ended == ended


def test_what_cannot_be_a_frame_is_counted(tmp_path: Path, replays: list[Replay]) -> None:
    content = classic([datagram(1), b"runt", datagram(2)])
    cut = struct.pack("<IIII", BASE, 0, 60, 1000) + bytes(60)
    replay = Replay(tmp_path, content + cut)
    replays.append(replay)
    assert numbers(replay.came()) == [1, 2]
    assert replay.router.drops("a").get("truncated") == 2


def test_without_an_output_what_is_sent_goes_nowhere(tmp_path: Path, replays: list[Replay]) -> None:
    replay = Replay(tmp_path, classic([datagram(1)]), out=False)
    replays.append(replay)
    assert numbers(replay.came()) == [1]
    router: Any = replay.router
    router.laws()
