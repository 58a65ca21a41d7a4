"""The CLI's two ways to ask: the manager's socket, and the socket of one forwarder.

    manager.sock  stream, vrouter/api/messages.py     vr/NAME.sock  SEQPACKET, rsock/wire.py

Every wait ends: a process that is stopped (SIGSTOP) accepts a connection and never answers.
"""

from __future__ import annotations

import array
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

from manager.cli.errors import CliError, Exit, unreachable
from rsock import wire
from vrouter.api import messages

QUICK: Final = 1.0  # seconds: the answer lies ready
LONG: Final = 60.0  # seconds: routers are stopped and started meanwhile
ALIVE: Final = 2.0  # seconds: a manager that is at work answers what is easy
MAX_FDS: Final = 8
MAX_RECORD: Final = 256 * 1024


class Manager:
    """One connection to the manager."""

    def __init__(self, run_dir: Path) -> None:
        """Connect; raises CliError when nobody is there."""
        self._path = run_dir / "manager.sock"
        self._socket = _connect(self._path, socket.SOCK_STREAM, "the manager")
        self._fds: list[int] = []

    def __enter__(self) -> Self:
        """Give the connection."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it; fds that nobody took are closed too."""
        self._socket.close()
        for fd in self._fds:
            os.close(fd)

    def call(self, op: messages.ManagerOp, timeout: float = QUICK, **fields: Any) -> Any:
        """Ask and wait for the result; an error of the manager becomes a CliError."""
        self._socket.settimeout(timeout)
        decoder = messages.Decoder()
        try:
            self._socket.sendall(messages.encode({"op": str(op), "id": 1, **fields}))
            while True:
                data, fds, _flags, _address = socket.recv_fds(self._socket, MAX_RECORD, MAX_FDS)
                self._fds += fds
                if not data:
                    raise unreachable(f"the manager at {self._path} closed the connection")
                for reply in decoder.feed(data):
                    return _result(reply)
        except TimeoutError:
            raise unreachable(f"the manager at {self._path} does not answer") from None
        except (OSError, messages.FrameError) as error:
            raise unreachable(f"the manager at {self._path}: {error}") from None

    def call_long(self, op: messages.ManagerOp, **fields: Any) -> Any:
        """Ask for something that takes its time; a manager that hangs is found out before."""
        self.call(messages.ManagerOp.ROUTERS, ALIVE)
        return self.call(op, LONG, **fields)

    def take_fds(self) -> list[int]:
        """Give the fds that came with the last reply; the caller owns them."""
        fds, self._fds = self._fds, []
        return fds


def _result(reply: dict[str, Any]) -> Any:
    error = reply.get("error")
    if error is None:
        return reply.get("result")
    kind = str(error.get("kind", "failed"))
    code = {"usage": Exit.USAGE, "config": Exit.USAGE, "unreachable": Exit.UNREACHABLE}.get(kind, Exit.NEGATIVE)
    raise CliError(str(error.get("message", "failed")), kind, code, error.get("details"))


class Forwarder:
    """One connection to a forwarder's socket."""

    def __init__(self, run_dir: Path, router: str) -> None:
        """Connect; raises CliError when nobody is there."""
        self.router = router
        self._socket = _connect(run_dir / "vr" / f"{router}.sock", socket.SOCK_SEQPACKET, f"the forwarder of {router}")
        self._request = 0

    def __enter__(self) -> Self:
        """Give the connection."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self._socket.close()

    def fileno(self) -> int:
        """Give the fd, for select."""
        return self._socket.fileno()

    def call(self, op: wire.Op, body: bytes = b"", timeout: float = QUICK) -> tuple[bytes, list[int]]:
        """Ask and wait: the body of the reply and its fds, which the caller owns."""
        self._request += 1
        self._socket.settimeout(timeout)
        header = wire.HEADER.pack(wire.MAGIC, op, 0, 0, self._request, 0, 0, 0)
        try:
            self._socket.send(header + body)
            while True:
                record, fds = self._receive()
                _magic, answered, flags, _session, request, _slot, error, _cookie = wire.HEADER.unpack_from(record)
                if flags & wire.Flag.REPLY and answered == op and request == self._request:
                    if flags & wire.Flag.ERROR:
                        raise _refused(self.router, op, error)
                    return record[wire.HEADER.size :], fds
                for fd in fds:
                    os.close(fd)
        except TimeoutError:
            raise unreachable(f"the forwarder of {self.router} does not answer") from None
        except OSError as error:
            raise unreachable(f"the forwarder of {self.router}: {error.strerror}") from None

    def records(self, timeout: float | None = None) -> Iterator[tuple[wire.Op, bytes] | None]:
        """Give the unasked records of a stream; None after `timeout` seconds without one."""
        self._socket.settimeout(timeout)
        while True:
            try:
                record, fds = self._receive()
            except TimeoutError:
                yield None
                continue
            except OSError as error:
                raise unreachable(f"the forwarder of {self.router}: {error.strerror}") from None
            for fd in fds:
                os.close(fd)
            _magic, op, flags, *_ = wire.HEADER.unpack_from(record)
            if flags & wire.Flag.DATA:
                yield wire.Op(op), record[wire.HEADER.size :]

    def _receive(self) -> tuple[bytes, list[int]]:
        record, ancillary, flags, _address = self._socket.recvmsg(
            MAX_RECORD, socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)
        )
        fds = array.array("i")
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
        if not record:
            raise unreachable(f"the forwarder of {self.router} has gone")
        if flags & socket.MSG_TRUNC or len(record) < wire.HEADER.size or record[:2] != wire.MAGIC.to_bytes(2, "little"):
            raise unreachable(f"the forwarder of {self.router} sent something that is no message")
        return record, list(fds)


def _refused(router: str, op: wire.Op, error: int) -> CliError:
    text = os.strerror(error)
    if error in (errno.EACCES, errno.EPERM):
        return CliError(f"{op.name.lower()} on {router}: {text}; try as root", "denied", Exit.UNREACHABLE)
    return CliError(f"{op.name.lower()} on {router}: {text}", "failed", Exit.NEGATIVE)


def _connect(path: Path, kind: int, who: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC)
    made.settimeout(QUICK)
    try:
        made.connect(str(path))
    except (PermissionError, TimeoutError, OSError) as error:
        made.close()
        if isinstance(error, PermissionError):
            raise CliError(f"{who} at {path}: permission denied; try as root", "denied", Exit.UNREACHABLE) from None
        if isinstance(error, (FileNotFoundError, ConnectionRefusedError)):
            raise unreachable(f"{who} is not running (nobody answers at {path})") from None
        raise unreachable(f"{who} at {path}: {error.strerror or 'does not answer'}") from None
    return made
