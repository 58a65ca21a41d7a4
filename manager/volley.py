"""The program by which a forwarder sends many frames in one call, and the memory in which it leaves them.

What it does stands in fastpath/src/port/volley.h.  Forwarders may run it, as they may do with no other program; each
port, and each worker's part of it, has one of its own.  Where there is none, sockets send.
"""

from __future__ import annotations

import os
from typing import Self

from manager import bpf_objects


class Volley:
    """The two fds, which are its holder's; none where the kernel, or this installation, has no such program."""

    def __init__(self, fds: list[int]) -> None:
        self.fds = fds

    @classmethod
    def loaded(cls, queue: int | None = None) -> Self:
        """Load the program; what it sends leaves by this transmit queue, or by those that the kernel chooses."""
        try:
            program = bpf_objects.load("volley", constants={"queue": 0 if queue is None else queue + 1})
        except (bpf_objects.NotBuiltError, OSError):
            return cls([])
        return cls([program.fd, program.maps["batch"]])

    def close(self) -> None:
        """Close the fds."""
        for fd in self.fds:
            os.close(fd)
        self.fds = []
