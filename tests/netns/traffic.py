"""Sequence-numbered traffic: `seqtraffic.c`, compiled once a test run, as Python objects."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any, Final

from compiled import TRAFFIC, program

if TYPE_CHECKING:
    from lab import Lab, Namespace

SOURCE: Final = TRAFFIC / "seqtraffic.c"
IDLE: Final = 5.0  # seconds: a sender may have to wait for its turn


class Stream:
    """One stream of tagged frames from a host to another, through whatever lies between."""

    def __init__(
        self,
        lab: Lab,
        sender: tuple[Namespace, str],
        receiver: tuple[Namespace, str],
        tag: int,
        rate: int,
        count: int,
        idle: float = IDLE,
    ) -> None:
        """Prepare to send `count` frames at `rate` a second; the ends are namespaces with their devices.

        Where some are lost, the receiver waits for them so long.
        """
        self._idle = str(int(idle * 1000))
        self._lab, self._tag, self._rate, self._count = lab, str(tag), str(rate), str(count)
        self._sender, self._receiver = sender, receiver

    def start(self, router_mac: str, source: str, destination: str) -> None:
        """Start the counter, wait until it listens, start the sender."""
        namespace, device = self._receiver
        words = namespace.command(program(SOURCE), "count", device, self._tag, self._count, self._idle)
        self._counter = self._lab.started(words)
        namespace, device = self._sender
        mac = namespace.run("cat", f"/sys/class/net/{device}/address").stdout.strip()
        words = namespace.command(
            program(SOURCE), "send", device, router_mac, mac, source, destination, self._tag, self._rate, self._count
        )
        self._generator = self._lab.helper(words, stdout=subprocess.PIPE, text=True)

    @property
    def sending(self) -> bool:
        """Is the sender still at work?"""
        return self._generator.poll() is None

    def stop(self) -> None:
        """Have the sender end before it has sent all."""
        self._generator.terminate()

    def result(self, timeout: float) -> dict[str, Any]:
        """Wait for the end; give {received, lost, duplicates, reordered, foreign, gap_us}."""
        told, _ = self._generator.communicate(timeout=timeout)
        assert self._generator.returncode == 0
        output, _ = self._counter.communicate(timeout=timeout)
        counted: dict[str, Any] = json.loads(output)
        counted["lost"] = json.loads(told)["sent"] - (counted["received"] - counted["duplicates"])
        return counted
