"""What the api process asks of the manager: routers, segments, and what protocols tell."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import Any, Final

from vrouter.api import messages

MAX_RECORD: Final = 1 << 18
MAX_FDS: Final = 8


class UpstreamError(Exception):
    """The manager does not answer, or refuses."""


class Upstream:
    """The connection to the manager; used by one thread at a time."""

    def __init__(self, connection: socket.socket) -> None:
        """Take the connection over."""
        self._socket = connection
        self._decoder = messages.Decoder()
        self._number = 0
        self._fds: list[int] = []

    def call(self, op: str, timeout: float, **fields: Any) -> Any:
        """Ask, and wait for the answer.  Raises UpstreamError."""
        self._number += 1
        self._drop_fds()
        deadline = time.monotonic() + timeout
        try:
            self._socket.settimeout(timeout)
            self._socket.sendall(messages.encode({"op": op, "id": self._number, **fields}))
            while True:
                self._socket.settimeout(max(0.001, deadline - time.monotonic()))
                data, fds, _flags, _address = socket.recv_fds(self._socket, MAX_RECORD, MAX_FDS)
                self._fds += fds
                if not data:
                    raise UpstreamError("the manager has gone")
                for reply in self._decoder.feed(data):
                    if reply.get("id") == self._number:  # an earlier one came too late
                        return self._result(reply)
        except TimeoutError:
            raise UpstreamError("the manager does not answer") from None
        except (OSError, messages.FrameError) as error:
            raise UpstreamError(str(error)) from None

    @staticmethod
    def _result(reply: dict[str, Any]) -> Any:
        if (error := reply.get("error")) is not None:
            raise UpstreamError(str(error.get("message")))
        return reply.get("result")

    def segments(self, name: str, timeout: float) -> list[int]:
        """Give the fds of a router's segments, tables and state, which the caller owns.  Raises UpstreamError."""
        self.call(messages.ManagerOp.SEGMENTS, timeout, name=name)
        if len(self._fds) != 2:
            raise UpstreamError(f"{name} has no segments")
        fds, self._fds = self._fds, []
        return fds

    def _drop_fds(self) -> None:
        for fd in self._fds:
            with contextlib.suppress(OSError):
                os.close(fd)
        self._fds = []
