"""Sequence-numbered traffic: `seqtraffic.c`, compiled once a test run, as Python objects."""

from __future__ import annotations

import functools
import json
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from lab import Lab, Namespace

SOURCE: Final = Path(__file__).resolve().parent.parent / "traffic" / "seqtraffic.c"
IDLE_MS: Final = 1000


@functools.cache
def binary() -> str:
    """Compile, give the path; the directory goes with the process."""
    directory = tempfile.TemporaryDirectory(prefix="seqtraffic-")
    binary.directory = directory  # type: ignore[attr-defined]
    path = f"{directory.name}/seqtraffic"
    subprocess.run(["gcc", "-std=gnu11", "-O2", "-o", path, str(SOURCE)], check=True)
    return path


class Stream:
    """One stream of tagged frames from a host to another, through whatever lies between."""

    def __init__(
        self, lab: Lab, sender: tuple[Namespace, str], receiver: tuple[Namespace, str], tag: int, rate: int, count: int
    ) -> None:
        """Prepare to send `count` frames at `rate` a second; the ends are namespaces with their devices."""
        self._lab, self._tag, self._rate, self._count = lab, str(tag), str(rate), str(count)
        self._sender, self._receiver = sender, receiver

    def start(self, router_mac: str, source: str, destination: str) -> None:
        """Start the counter, wait until it listens, start the sender."""
        namespace, device = self._receiver
        words = namespace.command(binary(), "count", device, self._tag, self._count, str(IDLE_MS))
        self._counter = self._lab.started(words)
        namespace, device = self._sender
        mac = namespace.run("cat", f"/sys/class/net/{device}/address").stdout.strip()
        words = namespace.command(
            binary(), "send", device, router_mac, mac, source, destination, self._tag, self._rate, self._count
        )
        self._generator = self._lab.helper(words, stdout=subprocess.DEVNULL)

    @property
    def sending(self) -> bool:
        """Is the sender still at work?"""
        return self._generator.poll() is None

    def result(self, timeout: float) -> dict[str, Any]:
        """Wait for the end; give {received, lost, duplicates, reordered, foreign, gap_us}."""
        assert self._generator.wait(timeout) == 0
        output, _ = self._counter.communicate(timeout=timeout)
        counted: dict[str, Any] = json.loads(output)
        return counted
