"""`vr traceroute`: the routers on the way, by packets whose TTL ends there.

UDP probes go to ports from 33434 on, one port for each probe, so that an error tells which probe it
belongs to; with -I the sequence number of an ICMP echo does that.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from manager.cli import echo
from manager.cli.errors import Exit, usage

if TYPE_CHECKING:
    from manager.cli.main import Request

BASE_PORT: Final = 33434  # traceroute(8)'s
PAYLOAD: Final = 32
_NUMBER: Final = struct.Struct(">I")
_MAGIC: Final = b"vr traceroute"


@dataclass(frozen=True)
class Answer:
    """What came back for one probe."""

    source: str | None
    time_ms: float
    arrived: bool  # the destination itself answered
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """Give plain data."""
        return {"address": self.source, "time_ms": round(self.time_ms, 3), "note": self.note or None}


class _Prober:
    """Sends one probe at a time and waits for what comes of it."""

    def __init__(self, sock: socket.socket, family: int, address: str, *, icmp: bool) -> None:
        self._sock = sock
        self._family = family
        self._address = address
        self._icmp = icmp
        self._number = 0

    def probe(self, ttl: int, wait: float) -> Answer | None:
        """Send a probe with this TTL; None when nothing came back in time."""
        self._number += 1
        echo.set_ttl(self._sock, ttl)
        start = time.monotonic()
        try:
            self._send()
        except OSError as error:
            return Answer(None, 0.0, arrived=False, note=error.strerror or str(error))
        deadline = start + wait
        while (left := deadline - time.monotonic()) > 0:
            ready, _, failed = select.select([self._sock], [], [self._sock], left)
            if ready or failed:
                answer = self._receive(start)
                if answer is not None:
                    return answer
        return None

    def _send(self) -> None:
        mark = _NUMBER.pack(self._number) + _MAGIC
        payload = mark.ljust(PAYLOAD, b"\0")
        if self._icmp:
            self._sock.sendto(echo.request(self._family, self._number, payload), (self._address, 0))
        else:
            self._sock.sendto(payload, (self._address, BASE_PORT + self._number % 1000))

    def _receive(self, start: float) -> Answer | None:
        source = None
        try:
            message, _ancillary, _flags, address = self._sock.recvmsg(2048, 256, socket.MSG_DONTWAIT)
        except OSError:
            pass  # nothing, or the error that the queue tells in full
        else:
            if not self._icmp or echo.reply_sequence(self._family, message) == self._number & 0xFFFF:
                source = address[0]
        now = time.monotonic()
        if source is not None:
            return Answer(source, (now - start) * 1000, arrived=True)
        while (found := echo.take_error(self._sock)) is not None:
            if self._ours(found.payload):
                return self._judge(found, (now - start) * 1000)
        return None

    def _ours(self, payload: bytes) -> bool:
        """Tell whether an error is about the present probe; routers may return little of it."""
        if self._icmp:
            return echo.request_sequence(payload) == self._number & 0xFFFF
        return len(payload) < _NUMBER.size or _NUMBER.unpack_from(payload)[0] == self._number

    def _judge(self, found: echo.IcmpError, milliseconds: float) -> Answer:
        if found.time_exceeded:
            return Answer(found.reporter, milliseconds, arrived=False)
        port_closed = (found.kind, found.code) == ((3, 3) if self._family == socket.AF_INET else (1, 4))
        note = "" if port_closed else found.words(self._family)
        return Answer(found.reporter, milliseconds, arrived=True, note=note)


def traceroute(request: Request) -> tuple[None, Exit]:
    """Trace the way; exit 1 when the destination was not reached."""
    family, address = echo.parse_address(request["address"])
    if not 1 <= request["max_hops"] <= 255 or not 1 <= request["queries"] <= 10 or request["wait"] <= 0:
        raise usage("-m must be 1 to 255, -q 1 to 10, -W positive")
    protocol = socket.IPPROTO_UDP
    if request["icmp"]:
        protocol = socket.IPPROTO_ICMP if family == socket.AF_INET else socket.IPPROTO_ICMPV6
    hops: list[dict[str, Any]] = []
    reached = False
    with echo.open_socket(request, family, socket.SOCK_DGRAM, protocol) as sock:
        echo.want_errors_and_ttl(sock)
        if not request.json:
            print(
                f"traceroute to {address} from router {request['router']}, {request['max_hops']} hops at most",
                flush=True,
            )
        prober = _Prober(sock, family, address, icmp=request["icmp"])
        for ttl in range(1, request["max_hops"] + 1):
            answers = [prober.probe(ttl, request["wait"]) for _ in range(request["queries"])]
            hops.append({"ttl": ttl, "probes": [answer.as_json() if answer else None for answer in answers]})
            if not request.json:
                print(_line(hops[-1]), flush=True)
            if any(answer is not None and (answer.arrived or answer.source is None) for answer in answers):
                reached = any(answer is not None and answer.arrived and not answer.note for answer in answers)
                break
    if request.json:
        print(json.dumps({"router": request["router"], "address": address, "reached": reached, "hops": hops}, indent=2))
    return None, Exit.OK if reached else Exit.NEGATIVE


def _line(hop: dict[str, Any]) -> str:
    parts = [f"{hop['ttl']:2} "]
    shown = None
    for probe in hop["probes"]:
        if probe is None:
            parts.append("*")
            continue
        if probe["address"] != shown and probe["address"] is not None:
            shown = probe["address"]
            parts.append(shown)
        parts.append(f"{probe['time_ms']:.3f} ms" + (f" ({probe['note']})" if probe["note"] else ""))
    return " ".join(parts)
