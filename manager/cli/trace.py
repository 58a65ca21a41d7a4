"""`vr trace`: a packet's life, stage by stage: what came in, the FIB entry used, what became of it.

    packet 7 in on lan at 12:00:00.123456
      ethernet   interface lan, type 0x0800, 98 bytes
      ip4        10.0.0.2 > 198.51.100.2, ttl 64, protocol 1
      fib        group 8, forward via 192.0.2.2 on wan, entry 198.51.100.0/24
      transmit   interface wan, 98 bytes

The forwarder sends a record for each stage; the records of one packet share its number.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from fastpath import interfaces as published
from fastpath import routes as installed
from fastpath.stats import drop_name
from manager.cli import clock
from manager.cli.client import Forwarder
from manager.cli.errors import Exit, usage
from manager.cli.filters import compile_filter
from manager.cli.segments import open_segments
from manager.cli.words import unknown
from rsock import wire

if TYPE_CHECKING:
    from fastpath.segment import Segment
    from manager.cli.main import Request

_REQUEST: Final = wire.layout("rsock_trace")
_RECORD: Final = wire.layout("rsock_trace_record")
SETTLED: Final = 0.1  # seconds without a record after which a packet's life is told
_DESTINATION: Final = re.compile(r"> ([0-9a-f.:]+)")
MAX_OPEN: Final = 256  # packets whose lives are told at the same time


def trace(request: Request) -> tuple[None, Exit]:
    """Follow packets until the count is reached or the operator interrupts."""
    with open_segments(request.run_dir, request["router"]) as (tables, _state):
        _follow(request, tables)
    return None, Exit.OK


def _follow(request: Request, tables: Segment) -> None:
    names = published.names(tables)
    index = 0
    if request["interface"] is not None:
        index = next((i for i, name in names.items() if name == request["interface"]), 0)
        if not index:
            raise usage(unknown("interface", request["interface"], names.values()))
    count = request["packets"]
    if count is not None and count < 1:
        raise usage("-n must be at least 1")
    wanted = compile_filter(request["filter"])
    show = _print_json if request.json else _print_text
    lives = _Lives(names, lambda address: (installed.lookup(tables, address) or {}).get("prefix"))
    router = request["router"]
    # An interrupt is the ordinary end.
    with Forwarder(request.run_dir, router) as forwarder, contextlib.suppress(KeyboardInterrupt):
        forwarder.call(wire.Op.TRACE, _REQUEST.pack(index, int(request["drops"])) + wanted)
        if not request.json and sys.stderr.isatty():
            print(f"tracing {router}; Ctrl-C ends", file=sys.stderr)
        for seen, packet in enumerate(_packets(forwarder, lives), 1):
            show(packet)
            if seen == count:
                break


class _Lives:
    """Collects the records of each packet, and gives whole packets in the order in which they came.

    A packet is told when it was dropped or when nothing more was heard of it for a while; one that
    waits for its neighbor longer than that goes on under the same number.
    """

    def __init__(self, names: dict[int, str], fib_entry: Callable[[str], str | None]) -> None:
        self._names = names
        self._fib_entry = fib_entry
        self._offset = clock.wall_offset_ns()
        self._lives: dict[int, dict[str, Any]] = {}
        self._heard: dict[int, float] = {}

    def take(self, body: bytes) -> None:
        """Take one record."""
        number, interface, timestamp, stage, detail_length, drop = _RECORD.unpack_from(body)
        detail = body[_RECORD.size : _RECORD.size + detail_length].decode(errors="replace")
        name = stage.rstrip(b"\0").decode(errors="replace")
        if number not in self._lives:
            where = self._names.get(interface, f"#{interface}") if interface else None
            time_of_day = clock.iso(timestamp + self._offset)
            self._lives[number] = {
                "packet": number,
                "interface": where,
                "time": time_of_day,
                "stages": [],
                "drop": None,
            }
        life = self._lives[number]
        entry = {"stage": name, "detail": detail}
        if name == "fib" and (prefix := self._prefix(life["stages"])) is not None:
            entry["prefix"] = prefix
        life["stages"].append(entry)
        if drop:
            life["drop"] = drop_name(drop)
        self._heard[number] = time.monotonic()

    def _prefix(self, stages: list[dict[str, str]]) -> str | None:
        """Name the FIB entry: the forwarder's trie knows next-hop groups, not prefixes."""
        for stage in reversed(stages):
            if stage["stage"] in ("ip4", "ip6"):
                found = _DESTINATION.search(stage["detail"])
                return self._fib_entry(found[1]) if found else None
        return None

    def finished(self) -> Iterator[dict[str, Any]]:
        """Give the packets whose lives are told, from the oldest on."""
        settled = time.monotonic() - SETTLED
        while self._lives:
            number = next(iter(self._lives))
            if self._lives[number]["drop"] is None and self._heard[number] > settled and len(self._lives) < MAX_OPEN:
                return
            del self._heard[number]
            yield self._lives.pop(number)


def _packets(forwarder: Forwarder, lives: _Lives) -> Iterator[dict[str, Any]]:
    for record in forwarder.records(SETTLED):
        op, body = record or (None, b"")
        if op is wire.Op.TRACE and len(body) >= _RECORD.size:
            lives.take(body)
        yield from lives.finished()


def _print_json(packet: dict[str, Any]) -> None:
    print(json.dumps(packet), flush=True)


def _print_text(packet: dict[str, Any]) -> None:
    origin = f"in on {packet['interface']}" if packet["interface"] else "made here"
    print(f"packet {packet['packet']} {origin} at {packet['time'][11:26]}")
    for stage in packet["stages"]:
        entry = f", entry {stage['prefix']}" if "prefix" in stage else ""
        print(f"  {stage['stage']:10} {stage['detail']}{entry}".rstrip())
    if packet["drop"] and not any(stage["stage"] == "drop" for stage in packet["stages"]):
        print(f"  {'drop':10} {packet['drop']}")
    sys.stdout.flush()
