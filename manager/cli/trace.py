"""`vr trace`: a packet's life, stage by stage: what came in, the FIB entry used, what became of it.

    packet 7 in on lan at 12:00:00.123456
      ethernet   10:..:01 > 10:..:02 IPv4
      fib        10.1.0.0/16 via 192.0.2.1 wan
      drop       ttl_expired

The forwarder sends a record for each stage; the records of one packet share its number.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from fastpath.stats import drop_name
from manager.cli import clock
from manager.cli.client import Forwarder
from manager.cli.errors import Exit, usage
from manager.cli.segments import interface_names
from manager.cli.words import unknown
from rsock import wire

if TYPE_CHECKING:
    from manager.cli.main import Request

_REQUEST: Final = wire.layout("rsock_trace")
_RECORD: Final = wire.layout("rsock_trace_record")
SETTLED: Final = 0.1  # seconds without a record after which a packet's life is told
MAX_OPEN: Final = 256  # packets whose lives are told at the same time


def trace(request: Request) -> tuple[None, Exit]:
    """Follow packets until the count is reached or the operator interrupts."""
    router = request["router"]
    names = interface_names(request.run_dir, router)
    index = 0
    if request["interface"] is not None:
        index = next((i for i, name in names.items() if name == request["interface"]), 0)
        if not index:
            raise usage(unknown("interface", request["interface"], names.values()))
    count = request["packets"]
    if count is not None and count < 1:
        raise usage("-n must be at least 1")
    show = _print_json if request.json else _print_text
    with Forwarder(request.run_dir, router) as forwarder, contextlib.suppress(KeyboardInterrupt):
        forwarder.call(wire.Op.TRACE, _REQUEST.pack(index, int(request["drops"])))
        if not request.json and sys.stderr.isatty():
            print(f"tracing {router}; Ctrl-C ends", file=sys.stderr)
        for seen, packet in enumerate(_packets(forwarder, names), 1):
            show(packet)
            if seen == count:
                break
    return None, Exit.OK


def _packets(forwarder: Forwarder, names: dict[int, str]) -> Iterator[dict[str, Any]]:
    """Collect the records of each packet; one that waits for its neighbor is told when it went on."""
    offset = clock.wall_offset_ns()
    lives: dict[int, dict[str, Any]] = {}
    for record in forwarder.records(SETTLED):
        if record is None:
            while lives:
                yield lives.pop(next(iter(lives)))
            continue
        op, body = record
        if op is not wire.Op.TRACE or len(body) < _RECORD.size:
            continue
        number, interface, timestamp, stage, detail_length, drop = _RECORD.unpack_from(body)
        detail = body[_RECORD.size : _RECORD.size + detail_length]
        if number not in lives:
            if len(lives) >= MAX_OPEN:
                yield lives.pop(next(iter(lives)))
            where = names.get(interface, f"#{interface}") if interface else None
            start = {
                "packet": number,
                "interface": where,
                "time": clock.iso(timestamp + offset),
                "stages": [],
                "drop": None,
            }
            lives[number] = start
        life = lives[number]
        life["stages"].append(
            {"stage": stage.rstrip(b"\0").decode(errors="replace"), "detail": detail.decode(errors="replace")}
        )
        if drop:  # the end of this packet
            life["drop"] = drop_name(drop)
            yield lives.pop(number)


def _print_json(packet: dict[str, Any]) -> None:
    print(json.dumps(packet), flush=True)


def _print_text(packet: dict[str, Any]) -> None:
    origin = f"in on {packet['interface']}" if packet["interface"] else "made here"
    print(f"packet {packet['packet']} {origin} at {packet['time'][11:26]}")
    for stage in packet["stages"]:
        print(f"  {stage['stage']:16} {stage['detail']}".rstrip())
    if packet["drop"] and not any(stage["stage"] == "drop" for stage in packet["stages"]):
        print(f"  {'drop':16} {packet['drop']}")
    sys.stdout.flush()
