"""`vr capture`: frames as the forwarder sees them, as pcapng, JSON lines or one line of text each.

tcpdump in the VR's namespace sees what the devices carry; this also sees patch links, and VLAN
sub-interfaces apart.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from manager.cli import clock, frames, pcapng
from manager.cli.client import Forwarder
from manager.cli.errors import CliError, Exit, usage
from manager.cli.segments import interface_names
from manager.cli.words import unknown
from rsock import wire

if TYPE_CHECKING:
    from manager.cli.main import Request

_REQUEST = wire.layout("rsock_capture")
_RECORD = wire.layout("rsock_capture_record")


@dataclass(frozen=True)
class Frame:
    """One captured frame."""

    index: int
    interface: str
    outgoing: bool
    time_ns: int  # time of day
    length: int  # on the wire
    lost: int  # frames that are missing before this one
    data: bytes

    def as_json(self) -> dict[str, Any]:
        """Give plain data: metadata, a summary, and the bytes as hex."""
        return {
            "time": clock.iso(self.time_ns),
            "interface": self.interface,
            "direction": "out" if self.outgoing else "in",
            "length": self.length,
            "lost": self.lost,
            **frames.describe(self.data),
            "data": self.data.hex(),
        }


def capture(request: Request) -> tuple[None, Exit]:
    """Capture until the count is reached or the operator interrupts."""
    router = request["router"]
    names = interface_names(request.run_dir, router)
    index = _interface_index(names, request["interface"])
    count = request["packets"]
    if count is not None and count < 1:
        raise usage("-n must be at least 1")
    with Forwarder(request.run_dir, router) as forwarder, _sink(request, names) as sink:
        forwarder.call(wire.Op.CAPTURE, _REQUEST.pack(index, max(0, request["snap"])))
        if not request.json and sys.stderr.isatty():
            print(f"capturing on {request['interface']} of {router}; Ctrl-C ends", file=sys.stderr)
        # An interrupt is the ordinary end of a capture.
        with contextlib.suppress(KeyboardInterrupt):
            for seen, frame in enumerate(_frames(forwarder, names, request["direction"]), 1):
                sink(frame)
                if seen == count:
                    break
    return None, Exit.OK


def _interface_index(names: dict[int, str], wanted: str) -> int:
    if wanted == "all":
        return 0
    for index, name in names.items():
        if name == wanted:
            return index
    raise usage(unknown("interface", wanted, names.values()))


def _frames(forwarder: Forwarder, names: dict[int, str], direction: str) -> Iterator[Frame]:
    offset = clock.wall_offset_ns()
    for record in forwarder.records():
        op, body = record or (None, b"")
        if op is not wire.Op.CAPTURE or len(body) < _RECORD.size:
            continue
        index, outgoing, timestamp, captured, length, lost = _RECORD.unpack_from(body)
        if direction not in ("both", "out" if outgoing else "in"):
            continue
        data = body[_RECORD.size : _RECORD.size + captured]
        yield Frame(index, names.get(index, f"#{index}"), bool(outgoing), timestamp + offset, length, lost, data)


@contextlib.contextmanager
def _sink(request: Request, names: dict[int, str]) -> Iterator[Any]:
    """Give the function that takes frames: to a file, as JSON lines, or as text."""
    if request["write"] is None:
        yield _print_json if request.json else _print_text
        return
    with _open(request["write"]) as file:
        writer = pcapng.Writer(file, "Anabranch vr capture")
        for index, name in names.items():
            writer.interface(index, name, f"interface {name} of virtual router {request['router']}", request["snap"])

        def write(frame: Frame) -> None:
            if not writer.knows(frame.index):  # configured after the capture began
                writer.interface(frame.index, frame.interface, "", request["snap"])
            writer.packet(
                frame.index, frame.time_ns, frame.data, frame.length, outgoing=frame.outgoing, lost=frame.lost
            )

        yield write


@contextlib.contextmanager
def _open(name: str) -> Iterator[BinaryIO]:
    if name == "-":
        if sys.stdout.isatty():
            raise usage("pcapng is not for a terminal: redirect it, or pipe it into tshark -r -")
        yield sys.stdout.buffer
        return
    try:
        with open(name, "wb") as file:  # noqa: PTH123 -- any path the operator types
            yield file
    except OSError as error:
        raise CliError(f"{name}: {error.strerror}", "failed", Exit.USAGE) from None


def _print_json(frame: Frame) -> None:
    print(json.dumps(frame.as_json()), flush=True)


def _print_text(frame: Frame) -> None:
    shown = frame.as_json()
    arrow = "->" if frame.outgoing else "<-"
    vlan = f" vlan {shown['vlan']}" if shown["vlan"] is not None else ""
    lost = f"  ({frame.lost} lost before)" if frame.lost else ""
    print(
        f"{shown['time'][11:26]} {frame.interface} {arrow}{vlan} {shown['summary']} length {frame.length}{lost}",
        flush=True,
    )
