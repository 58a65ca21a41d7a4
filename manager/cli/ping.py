"""`vr ping`: ICMP echo out of a router, in the words of ping(8)."""

from __future__ import annotations

import json
import math
import select
import socket
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from manager.cli import echo
from manager.cli.errors import Exit, usage

if TYPE_CHECKING:
    from manager.cli.main import Request

MAX_SIZE: Final = 65507


@dataclass
class _Run:
    """One run: what was sent, what came back."""

    request: Request
    family: int
    address: str
    sock: socket.socket
    sent_at: dict[int, float] = field(default_factory=dict)
    answered: set[int] = field(default_factory=set)
    times: list[float] = field(default_factory=list)
    duplicates: int = 0
    errors: int = 0
    replies: list[dict[str, Any]] = field(default_factory=list)

    def send(self, sequence: int) -> None:
        """Send one request."""
        size = self.request["size"]
        payload = (bytes(range(256)) * (size // 256 + 1))[:size]
        self.sent_at[sequence] = time.monotonic()
        try:
            self.sock.sendto(echo.request(self.family, sequence, payload), (self.address, 0))
        except OSError as error:
            self.tell(sequence, error=error.strerror or str(error))

    def receive(self) -> None:
        """Take what has come: answers first, then errors."""
        try:
            message, ancillary, _flags, address = self.sock.recvmsg(70000, 256, socket.MSG_DONTWAIT)
        except BlockingIOError:
            pass
        except OSError:
            self.take_errors()  # the pending error is told in full by the queue
        else:
            now = time.monotonic()
            sequence = echo.reply_sequence(self.family, message)
            if sequence is not None and sequence in self.sent_at:
                milliseconds = (now - self.sent_at[sequence]) * 1000
                ttl = echo.received_ttl(ancillary)
                self.tell(sequence, source=address[0], bytes=len(message), ttl=ttl, time_ms=round(milliseconds, 3))
        self.take_errors()

    def take_errors(self) -> None:
        """Tell of all errors that have come."""
        while (found := echo.take_error(self.sock)) is not None:
            sequence = echo.request_sequence(found.payload)
            self.tell(sequence, source=found.reporter, error=found.words(self.family))

    def tell(self, sequence: int | None, **what: Any) -> None:
        """Count and print one answer or error."""
        entry = {"sequence": sequence, **what}
        duplicate = sequence in self.answered and "error" not in what
        if "error" in what:
            self.errors += 1
        elif duplicate:
            self.duplicates += 1
            entry["duplicate"] = True
        else:
            self.times.append(what["time_ms"])
        if sequence is not None:
            self.answered.add(sequence)
        self.replies.append(entry)
        if not self.request.json:
            print(_line(entry), flush=True)

    def wait(self, until: float, *, stop_at_answer_of: int | None = None) -> None:
        """Receive until a time, or until that request has been answered."""
        while stop_at_answer_of not in self.answered and (left := until - time.monotonic()) > 0:
            # POLLERR alone tells of a record in the error queue.
            ready, _, failed = select.select([self.sock], [], [self.sock], left)
            if ready or failed:
                self.receive()

    def summary(self) -> dict[str, Any]:
        """Give what `-j` prints."""
        sent, received = len(self.sent_at), len(self.times)
        result: dict[str, Any] = {
            "router": self.request["router"],
            "address": self.address,
            "transmitted": sent,
            "received": received,
            "duplicates": self.duplicates,
            "errors": self.errors,
            "loss_percent": round(100 * (sent - received) / sent, 1) if sent else 0.0,
            "rtt_ms": None,
            "replies": self.replies,
        }
        if self.times:
            mean = sum(self.times) / received
            deviation = math.sqrt(sum((value - mean) ** 2 for value in self.times) / received)
            result["rtt_ms"] = {
                "min": min(self.times),
                "avg": round(mean, 3),
                "max": max(self.times),
                "mdev": round(deviation, 3),
            }
        return result


def ping(request: Request) -> tuple[None, Exit]:
    """Ping until the count is reached or the operator interrupts; exit 1 without any answer."""
    family, address = echo.parse_address(request["address"])
    count, interval = request["count"], request["interval"]
    if not 0 <= request["size"] <= MAX_SIZE:
        raise usage(f"-s must be 0 to {MAX_SIZE}")
    if (count is not None and count < 1) or interval < 0 or request["wait"] <= 0:
        raise usage("-c must be at least 1, -i not negative, -W positive")
    protocol = socket.IPPROTO_ICMP if family == socket.AF_INET else socket.IPPROTO_ICMPV6
    with echo.open_socket(request, family, socket.SOCK_DGRAM, protocol) as sock:
        echo.want_errors_and_ttl(sock)
        run = _Run(request, family, address, sock)
        if not request.json:
            print(f"PING {address} from router {request['router']}: {request['size']} data bytes", flush=True)
        try:
            _rounds(run, count, interval)
        except KeyboardInterrupt:
            print()
        _print_summary(run)
    return None, Exit.OK if run.times else Exit.NEGATIVE


def _rounds(run: _Run, count: int | None, interval: float) -> None:
    sequence = 0
    due = time.monotonic()
    while count is None or sequence < count:
        sequence += 1
        run.send(sequence)
        due += interval
        if sequence == count:
            run.wait(run.sent_at[sequence] + run.request["wait"], stop_at_answer_of=sequence)
        else:
            run.wait(due)


def _line(entry: dict[str, Any]) -> str:
    if "error" in entry:
        source = f"From {entry['source']}: " if entry.get("source") else ""
        return f"{source}icmp_seq={entry['sequence']} {entry['error']}"
    ttl = f" ttl={entry['ttl']}" if entry["ttl"] is not None else ""
    mark = " (duplicate)" if entry.get("duplicate") else ""
    start = f"{entry['bytes']} bytes from {entry['source']}: icmp_seq={entry['sequence']}"
    return f"{start}{ttl} time={entry['time_ms']:.3f} ms{mark}"


def _print_summary(run: _Run) -> None:
    data = run.summary()
    if run.request.json:
        print(json.dumps(data, indent=2))
        return
    print(f"\n--- {data['address']} from router {data['router']} ---")
    extra = f", {data['duplicates']} duplicates" if data["duplicates"] else ""
    extra += f", {data['errors']} errors" if data["errors"] else ""
    print(f"{data['transmitted']} transmitted, {data['received']} received{extra}, {data['loss_percent']:g}% loss")
    if data["rtt_ms"]:
        print("rtt min/avg/max/mdev = {min:.3f}/{avg:.3f}/{max:.3f}/{mdev:.3f} ms".format(**data["rtt_ms"]))
