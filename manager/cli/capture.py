"""`vr capture`: frames as the forwarder sees them, as pcapng, JSON lines or one line of text each.

tcpdump in the VR's namespace sees what the devices carry; this also sees patch links, VLAN sub-interfaces apart, and
of a frame that was dropped the reason (in pcapng as the packet's comment).
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from fastpath.stats import drop_name
from manager.cli import clock, frames, pcapng
from manager.cli.client import Forwarder
from manager.cli.errors import CliError, Exit, usage
from manager.cli.filters import compile_filter, is_filter
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
    drop: str | None  # why it was dropped
    data: bytes

    def as_json(self) -> dict[str, Any]:
        """Give plain data: metadata, a summary, and the bytes as hex."""
        return {
            "time": clock.iso(self.time_ns),
            "interface": self.interface,
            "direction": "out" if self.outgoing else "in",
            "length": self.length,
            "lost": self.lost,
            "drop": self.drop,
            **frames.describe(self.data),
            "data": self.data.hex(),
        }


def capture(request: Request) -> tuple[None, Exit]:
    """Capture until the count is reached or the operator interrupts."""
    router = request["router"]
    names = interface_names(request.run_dir, router)
    interface, words = _interface_and_filter(request, names)
    index = _interface_index(names, interface)
    wanted = compile_filter(words)
    count = request["packets"]
    if count is not None and count < 1:
        raise usage("-n must be at least 1")
    with Forwarder(request.run_dir, router) as forwarder, _sink(request, names) as sink:
        ask(forwarder, index, request["snap"], wanted, drops=request["drops"])
        if not request.json and sys.stderr.isatty():
            print(f"capturing on {interface} of {router}; Ctrl-C ends", file=sys.stderr)
        # An interrupt is the ordinary end of a capture.
        with contextlib.suppress(KeyboardInterrupt):
            for seen, frame in enumerate(captured(forwarder, names, request["direction"]), 1):
                sink(frame)
                if seen == count:
                    break
    return None, Exit.OK


def _interface_and_filter(request: Request, names: dict[int, str]) -> tuple[str, list[str]]:
    """Tell apart what stands after the router: with --drops the interface may be left out."""
    interface, words = request["interface"], request["filter"]
    if (
        request["drops"]
        and interface is not None
        and interface not in {"all", *names.values()}
        and is_filter(interface)
    ):
        return "all", [interface, *words]
    if interface is None and not request["drops"]:
        raise usage(f"an interface is needed, or 'all': {', '.join(names.values())}")
    return interface or "all", words


def _interface_index(names: dict[int, str], wanted: str) -> int:
    if wanted == "all":
        return 0
    for index, name in names.items():
        if name == wanted:
            return index
    raise usage(unknown("interface", wanted, names.values()))


def ask(forwarder: Forwarder, index: int, snap: int, wanted: bytes, *, drops: bool) -> None:
    """Have frames sent from now on; `wanted` is a compiled filter."""
    forwarder.call(wire.Op.CAPTURE, _REQUEST.pack(index, max(0, snap), int(drops)) + wanted)


def captured(forwarder: Forwarder, names: dict[int, str], direction: str = "both") -> Iterator[Frame]:
    """Give the frames as they come."""
    offset = clock.wall_offset_ns()
    for record in forwarder.records():
        op, body = record or (None, b"")
        if op is not wire.Op.CAPTURE or len(body) < _RECORD.size:
            continue
        index, outgoing, timestamp, kept, length, lost, drop = _RECORD.unpack_from(body)
        if direction not in ("both", "out" if outgoing else "in"):
            continue
        data = body[_RECORD.size : _RECORD.size + kept]
        reason = drop_name(drop) if drop else None
        yield Frame(
            index, names.get(index, f"#{index}"), bool(outgoing), timestamp + offset, length, lost, reason, data
        )


@contextlib.contextmanager
def _sink(request: Request, names: dict[int, str]) -> Iterator[Any]:
    """Give the function that takes frames: to a file, as JSON lines, or as text."""
    if request["write"] is None:
        yield _print_json if request.json else _print_text
        return
    with _open(request["write"]) as file:
        yield pcapng_sink(file, request["router"], names, request["snap"])


def pcapng_sink(file: BinaryIO, router: str, names: dict[int, str], snap: int) -> Callable[[Frame], None]:
    """Begin a capture file with the router's interfaces; give the function that takes frames."""
    writer = pcapng.Writer(file, "Anabranch")

    def describe(index: int, name: str) -> None:
        writer.interface(index, name, f"interface {name} of virtual router {router}", snap)

    def write(frame: Frame) -> None:
        if not writer.knows(frame.index):  # configured after the capture began
            describe(frame.index, frame.interface)
        comment = f"dropped: {frame.drop}" if frame.drop else ""
        writer.packet(
            frame.index, frame.time_ns, frame.data, frame.length, outgoing=frame.outgoing, lost=frame.lost,
            comment=comment,
        )  # fmt: skip

    for index, name in names.items():
        describe(index, name)
    return write


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
    fate = f"  dropped: {frame.drop}" if frame.drop else ""
    lost = f"  ({frame.lost} lost before)" if frame.lost else ""
    print(
        f"{shown['time'][11:26]} {frame.interface} {arrow}{vlan} {shown['summary']} length {frame.length}{fate}{lost}",
        flush=True,
    )
