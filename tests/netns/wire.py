"""An impaired link between two namespaces: the relay of `tests/wire`, compiled once a test run.

    with Lab() as lab:
        a, b = lab.namespace("a"), lab.namespace("b")
        link = Link(delay=0.01, rate=100e6, queue=250_000, loss=0.01, seed=7)
        with wired(lab, (a, "eth0"), (b, "eth0"), link, split=True) as relay:
            a.address("eth0", "10.0.0.1/24")
            b.address("eth0", "10.0.0.2/24")
            assert a.ping("10.0.0.2")
            relay.change(Link(loss=1.0))  # from now on nothing passes
        assert relay.forth.lost

    (near, device) --- veth --- near.relay.far --- veth --- (far, device)

Either end may be a device of a namespace that a router takes over.  `strict` takes the offloads from an end,
so that its kernel sends and expects frames as they are on a wire; `split` leaves them on and has the relay cut
super-segments.  Without both, a super-segment is impaired as one frame (see `wire.c`).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Self

from compiled import program
from lab import LabError, Namespace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab import Lab

SOURCE: Final = Path(__file__).resolve().parent.parent / "wire"
PROGRAM: Final = ("wire.c", "impair.c", "offload.c")
_serial: Final = itertools.count()

End = tuple[Namespace, str]


@dataclass(frozen=True)
class Link:
    """What one direction of a link does to frames; times in seconds, shares from 0 to 1."""

    delay: float = 0.0  # one way, after the transmission
    jitter: float = 0.0  # evenly spread, on top; reorders nothing
    loss: float = 0.0
    corrupt: float = 0.0  # one bit is flipped
    corrupt_from: int = 14  # the first byte that can be hit
    reorder: float = 0.0
    reorder_by: float = 0.003  # how late a reordered frame is
    duplicate: float = 0.0
    rate: float = 0.0  # bit/s of frames with their Ethernet header; 0: no limit
    queue: int = 0  # bytes; 0: no limit
    mtu: int = 0  # the longest IP packet that passes, longer ones vanish; 0: all pass
    seed: int = 1

    def options(self) -> list[str]:
        """Give the words that tell the relay so."""
        values = {
            "seed": self.seed,
            "delay-ns": self.delay * 1e9,
            "jitter-ns": self.jitter * 1e9,
            "rate-bps": self.rate,
            "queue-bytes": self.queue,
            "mtu-bytes": self.mtu + 14 if self.mtu else 0,
            "loss-ppm": self.loss * 1e6,
            "corrupt-ppm": self.corrupt * 1e6,
            "corrupt-from": self.corrupt_from,
            "reorder-ppm": self.reorder * 1e6,
            "reorder-ns": self.reorder_by * 1e9,
            "duplicate-ppm": self.duplicate * 1e6,
        }
        return [word for name, value in values.items() for word in (f"--{name}", str(round(value)))]


@dataclass(frozen=True)
class Counters:
    """What became of the frames of one direction; `kernel_dropped`: the relay itself was too slow."""

    submitted: int = 0
    submitted_bytes: int = 0
    delivered: int = 0
    delivered_bytes: int = 0
    under_way: int = 0
    hole: int = 0
    queue: int = 0
    lost: int = 0
    room: int = 0
    corrupted: int = 0
    reordered: int = 0
    duplicated: int = 0
    cut: int = 0
    kernel_dropped: int = 0
    unreadable: int = 0
    unsent: int = 0

    @property
    def balanced(self) -> bool:
        """Is every frame accounted for, and was none lost by the relay itself?"""
        gone = self.hole + self.queue + self.lost + self.room
        all_there = self.submitted + self.duplicated == self.delivered + self.under_way + gone
        return all_there and not (self.kernel_dropped or self.unreadable or self.unsent or self.room)

    def __sub__(self, earlier: Counters) -> Counters:
        """Give what happened since."""
        return Counters(**{f.name: getattr(self, f.name) - getattr(earlier, f.name) for f in fields(self)})


def binary() -> str:
    """Compile the relay, give its path."""
    return program(*(SOURCE / name for name in PROGRAM))


class Relay:
    """A running relay between two devices of a namespace; ends with its context."""

    def __init__(
        self, namespace: Namespace, a: str, b: str, forth: Link, back: Link | None = None, *, split: bool = False
    ) -> None:
        """Start it: `forth` from device `a` to `b`, `back` (the same if not given) from `b` to `a`."""
        self._words = [binary(), a, b, "--control", "--split", str(int(split))]
        self._words += _directions(forth, back or forth)
        self._namespace = namespace
        self.forth, self.back = Counters(), Counters()

    def __enter__(self) -> Self:
        """Wait until it relays."""
        with self._namespace.entered():  # the process itself, so that signals and waiting need no detour
            self._process = subprocess.Popen(
                self._words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
            )
        if self._output.readline() != "ready\n":
            self._process.communicate(timeout=10)
            raise LabError("the relay did not start")
        return self

    def __exit__(self, *_: object) -> None:
        """End it, and keep its last counters."""
        self._process.send_signal(signal.SIGTERM)
        try:
            output, _error = self._process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            raise
        if self._process.returncode:
            raise LabError(f"the relay ended with {self._process.returncode}")
        self._take(output)

    @property
    def _output(self) -> IO[str]:
        assert self._process.stdout is not None
        return self._process.stdout

    @property
    def pid(self) -> int:
        """Give its process."""
        return self._process.pid

    def _take(self, line: str) -> None:
        answer: dict[str, Any] = json.loads(line)
        self.forth, self.back = Counters(**answer["ab"]), Counters(**answer["ba"])

    def _ask(self, *words: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(words) + "\n")
        self._process.stdin.flush()
        self._take(self._output.readline())

    def change(self, forth: Link, back: Link | None = None) -> None:
        """Change the link for the frames that come from now on; seeds stay.  When it returns, it is done."""
        self._ask(*_directions(forth, back or forth))

    def update(self) -> Self:
        """Bring the counters `forth` and `back` up to date."""
        self._ask()
        return self


def _directions(forth: Link, back: Link) -> list[str]:
    return ["--ab", *forth.options(), "--ba", *back.options()]


def strict(namespace: Namespace, device: str) -> None:
    """Take the offloads from a device: no super-segment and no partial checksum leaves it."""
    features = ("tx", "tso", "gso", "gro")
    words = [word for feature in features for word in (feature, "off")]
    namespace.run("ethtool", "-K", device, *words)


@contextlib.contextmanager
def wired(
    lab: Lab, near: End, far: End, forth: Link, back: Link | None = None, *, split: bool = False, mtu: int = 1500
) -> Iterator[Relay]:
    """Make a link between two devices that do not exist yet, both up, with a relay in a namespace between them."""
    middle = lab.namespace(f"wire{next(_serial)}")
    for name, (namespace, device) in (("near", near), ("far", far)):
        # No address of the kernel's, not even a link-local one: the relay's ends say nothing of their own.
        with middle.entered(), contextlib.suppress(OSError):
            Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
        lab.veth(name, middle, namespace, device)
        middle.ip("link", "set", name, "mtu", str(mtu))
        namespace.ip("link", "set", device, "mtu", str(mtu))
    with Relay(middle, "near", "far", forth, back, split=split) as relay:
        yield relay


def goodput(
    client: Namespace,
    server: Namespace,
    address: str,
    seconds: int = 5,
    *,
    settle: int = 0,
    reverse: bool = False,
    streams: int = 1,
) -> dict[str, Any]:
    """Let the kernels of two namespaces speak CUBIC by iperf3; give {rate: bit/s received, retransmits}.

    The first `settle` seconds come on top and do not count.  CUBIC is asked for by name: hosts differ in their default.
    """
    port = str(20000 + os.getpid() % 20000)
    daemon = subprocess.Popen(
        server.command("iperf3", "-s", "-1", "-p", port, "--forceflush"), stdout=subprocess.PIPE, text=True
    )
    try:
        assert daemon.stdout is not None
        while (line := daemon.stdout.readline()) and "listening" not in line:
            pass
        words = ["-J", "-C", "cubic", "-c", address, "-p", port, "-t", str(seconds), "-O", str(settle)]
        words += ["-P", str(streams), *(["-R"] if reverse else [])]
        done = client.run("iperf3", *words, timeout=seconds + settle + 20)
    finally:
        daemon.kill()
        daemon.communicate()
    end = json.loads(done.stdout)["end"]
    return {"rate": end["sum_received"]["bits_per_second"], "retransmits": end["sum_sent"]["retransmits"]}
